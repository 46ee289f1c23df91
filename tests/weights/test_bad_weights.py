"""Weights from strangers, some hundred: what does not fit is refused by name; nothing runs, hangs or swells.

`test_weight_files.py` has the forms of PyTorch's files; here are bombs, other containers, and whole state
dicts with one array changed.
"""

import functools
import json
import pickle
import resource
import signal
import struct
import zipfile
from collections import Counter

import jax
import numpy as np
import pytest

from imgcls_jax.models import lenet, simpleconv3, squeezenet, vit
from imgcls_jax.weights import pretrained
from imgcls_jax.weights.files import read_state_dict

SECONDS, MEBIBYTES = 20, 64  # of the processor and of memory: the most that a small file may cost
NESTED = b")" + b"2\x86" * 40  # a tuple of itself twice, forty times over: 2^40 parts in 81 bytes
# A frozen set of one and of the frozen set of it, forty deep: to compare two takes 2^40 steps.
NESTED_SETS = b"(\x91" + b"".join(b"q%c0(h%c(h%c\x91\x91" % (n, n, n) for n in range(1, 41))
ONE_HASH = [(k * (2**61 - 1)).to_bytes(10, "little") for k in range(20_000)]
CALL = b"ctorch._utils\n_rebuild_tensor_v2\n"


@pytest.fixture(autouse=True)
def in_time():
    """Ends a test that computes without end, where Python still listens; a busy machine does not count."""

    def stop(*_):
        raise TimeoutError

    previous = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    yield
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.signal(signal.SIGPROF, previous)


def refused(path) -> str:
    """Reads a file that must be refused, at a bounded cost; returns the message."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=path.name) as caught:
        read_state_dict(path)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # KiB, of what was touched
    assert grown < MEBIBYTES * 2**10 and len(str(caught.value)) < 20_000
    return str(caught.value)


def torch_file(path, code: bytes):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + code + b".")
    return path


PICKLES = {
    "a key of nested tuples": b"}" + NESTED + b"K\1s",
    "keys of nested tuples": b"}(" + NESTED + b"K\1u",
    "a set of them": b"\x8f(" + NESTED + b"\x90",
    "a frozen set of them": b"(" + NESTED + b"\x91",
    "an OrderedDict of them": b"ccollections\nOrderedDict\n]" + NESTED + b"K\1\x86a\x85R",
    "frozen sets in each other": b"}(" + NESTED_SETS + b"K\1" + NESTED_SETS + b"K\1u",
    "numbers of one hash": b"}(" + b"".join(b"\x8a\x0a" + number + b"N" for number in ONE_HASH) + b"u",
    "numbers of one hash, built at once": b"("
    + b"".join(b"\x8a\x0a" + number + b"N" for number in ONE_HASH)
    + b"d",
    "numbers of one hash in the memo": b"}"
    + b"".join(b"p%d\n" % int.from_bytes(number, "little") for number in ONE_HASH),
    "a key of bytes": b"}C\1aK\1s",
    "a key without end": b"}G" + struct.pack(">d", np.inf) + b"K\1s",
    "no pairs": b"ccollections\nOrderedDict\nK\1\x85R",
    "a dict of a key alone": b"(K\1d",
    "sizes of sizes": b"}ctorch\nSize\n" + NESTED + b"\x85RK\1s",
    "a reference to them": NESTED + b"Q",
    "a tensor of them": CALL + b"(K\1K\0" + NESTED + NESTED + b"tR",
    "deep lists": b"]" * 100_000 + b"a" * 99_999,
    "deep keys": b"})" + b"\x85" * 100_000 + b"K\1s",
    "a list in itself": b"]q\0h\0a",
    "a long integer": b"\x8b" + struct.pack("<i", 2**31 - 1) + b"aa",
    "an integer of many digits": b"I" + b"9" * 10**6 + b"\n",
    "a string that is not there": b"X" + struct.pack("<I", 2**32 - 1) + b"a",
    "a type called": b"ctorch\nFloatStorage\nK\4\x85R",
    "many dimensions": CALL
    + b"((U\7storagectorch\nFloatStorage\nU\0010U\3cpuK\4tQK\0("
    + b"K\1" * 100_000
    + b"t("
    + b"K\0" * 100_000
    + b"ttR",
    "an empty stack": b"R",
    "no end": b"}",
    "a call of the system": b"cos\nsystem\nU\ntouch /pwn\x85R",
    "code": b"cbuiltins\nexec\nU\6import\x85R",
    "an instance": b"(ios\nsystem\n",
    "a new object": b"csubprocess\nPopen\n)\x81",
    "a dotted name": b"\x8c\x0bcollections\x8c\x14OrderedDict.__init__\x93)R",
}


@pytest.mark.parametrize("code", PICKLES.values(), ids=PICKLES)
def test_pickles_that_are_traps(tmp_path, code):
    refused(torch_file(tmp_path / "a.pth", code))


@pytest.mark.parametrize("write", [np.savez, None], ids=["npz", "pth"])
def test_names_of_many_prefixes(tmp_path, write):
    names = ["module." * 100_000 + "weight", "module." * 100_000 + "bias"]
    if write:
        path = tmp_path / "a.npz"
        write(path, **{name: np.ones(3, np.float32) for name in ("a", "b")})
        with zipfile.ZipFile(path) as old:
            content = old.read("a.npy")
        with zipfile.ZipFile(path, "w") as archive:
            for name in ["module." * 9_000 + "weight", "module." * 9_000 + "bias"]:
                archive.writestr(f"{name}.npy", content)
    else:
        storage = b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0000X\3\0\0\0cpuK\1tQ"
        tensor = CALL + b"(" + storage + b"K\0K\1\x85K\1\x85tR"
        items = b"".join(b"X" + struct.pack("<I", len(name)) + name.encode() + tensor for name in names)
        path = torch_file(tmp_path / "a.pth", b"}(" + items + b"u")
    assert "more than 8 prefixes" in refused(path)


def npy(header: dict | bytes, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else repr(header).encode()
    text += b" " * (64 - (len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text + body


def claims(shape, descr="<f4") -> dict:
    return {"descr": descr, "fortran_order": False, "shape": shape}


NPY = {
    "terabytes": npy(claims((10**12,))),
    "beyond all": npy(claims((10**18, 10**18))),
    "nothing of much": npy(claims((0, 10**18, 10**18))),
    "less than nothing": npy(claims((-1,))),
    "cut": npy(claims((4,)), bytes(15)),
    "objects": npy(claims((1,), "|O"), pickle.dumps(1)),
    "code": npy(b"__import__('os').system('touch /pwn')"),
    "a long head": npy(b"{" + b" " * 20_000 + b"}"),
    "no head": b"\x93NUMPY",
    "a pickle": pickle.dumps({}),
}


@pytest.mark.parametrize("content", NPY.values(), ids=NPY)
def test_npz_files_that_lie(tmp_path, content):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("w.npy", content)
    refused(tmp_path / "a.npz")
    (tmp_path / "b.npz").write_bytes(content)  # without the archive
    refused(tmp_path / "b.npz")


def test_an_npz_file_that_swells(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w.npy", npy(claims((2**25,)), bytes(2**27)))
    assert "claim" in refused(tmp_path / "a.npz")


def safetensors(header, body: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def one(dtype="F32", shape=(1,), offsets=(0, 4)) -> dict:
    return {"w": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


SAFETENSORS = {
    "a long head": safetensors(b"{}", length=2**63),
    "terabytes": safetensors(one(shape=[10**12], offsets=[0, 4 * 10**12])),
    "another size": safetensors(one(shape=[2]), bytes(4)),
    "overflow": safetensors(one(shape=[2**63, 4]), bytes(4)),
    "overlap": safetensors(one() | {"v": one()["w"]}, bytes(4)),
    "a hole": safetensors(one(offsets=[4, 8]), bytes(8)),
    "more behind": safetensors(one(), bytes(9)),
    "backwards": safetensors(one(offsets=[4, 0]), bytes(4)),
    "an unknown type": safetensors(one("F33"), bytes(4)),
    "deep JSON": safetensors(b'{"a":' * 50_000),
    "a list": safetensors([]),
    "no UTF-8": safetensors(b'{"\xff": 1}'),
    "nothing in it": safetensors({}),
}


@pytest.mark.parametrize("content", SAFETENSORS.values(), ids=SAFETENSORS)
def test_safetensors_that_lie(tmp_path, content):
    (tmp_path / "a.safetensors").write_bytes(content)
    refused(tmp_path / "a.safetensors")


@pytest.mark.parametrize("rounds", [60, pytest.param(500, marks=pytest.mark.slow)])
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_cut_and_flipped(tmp_path, suffix, rounds):
    """A cut file is refused. A flipped one is, too, or it has the same arrays but for the flipped bits."""
    arrays = {"conv.weight": np.ones((4, 3), np.float32), "conv.bias": np.ones(4, np.float32)}
    whole, path = tmp_path / f"whole{suffix}", tmp_path / f"a{suffix}"
    np.savez(whole, **arrays) if suffix == ".npz" else pretrained.write_safetensors(whole, arrays)
    content, rng, outcomes = whole.read_bytes(), np.random.default_rng(0), Counter()
    for share in rng.random(rounds):
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(ValueError, match=path.name):
            read_state_dict(path)
        damaged = bytearray(content)
        damaged[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            found = read_state_dict(path)
        except ValueError as error:
            outcomes["refused"] += 1
            assert path.name in str(error)
        else:
            outcomes["read"] += 1
            assert sum(array.size for array in found.values()) <= 16
    print(f"\n{suffix}: {rounds} cut, all refused; {rounds} flipped, {dict(outcomes)}", end="")


# ---- whole state dicts with one array changed


def changes(array: np.ndarray) -> dict[str, np.ndarray | None]:
    """Returns {what: the array put in its place}; None leaves it out."""
    shape = array.shape
    spoilt = {"nan": np.nan, "infinity": -np.inf}
    floats = {
        name: np.where(np.arange(array.size).reshape(shape) == array.size - 1, x, array)
        for name, x in spoilt.items()
    }
    return {
        "absent": None,
        "integers": array.astype(np.int32),
        "complex": array.astype(np.complex64),
        "booleans": array.astype(bool),
        "texts": np.full(shape, "1"),
        "times": np.zeros(shape, "M8[s]"),
        "records": np.zeros(shape, [("a", "<f4")]),
        "scalar": np.float32(1).reshape(()),
        "empty": np.zeros(0, np.float32),
        "longer": np.concatenate([array, array]),
        "six_dimensions": array.reshape(*(1,) * (6 - array.ndim), *shape),
        **floats,
    }


NETWORKS = {
    "simpleconv3": (simpleconv3, (24, 24, 1)),
    "lenet5": (lenet, (28, 28, 1)),
    "squeezenet1_1": (squeezenet, (64, 64, 3)),
    "vit_tiny": (vit, (32, 32, 3)),
}
OF_THE_FILE = ("absent", "integers", "complex", "booleans", "texts", "times", "records", "nan", "infinity")
RESHAPED = ("class_token", "encoder.pos_embedding")  # which PyTorch's networks keep in different ranks


@functools.cache
def network(variant: str):
    family, shape = NETWORKS[variant]
    target = pretrained.target_shapes(family.build(variant), shape, 10)
    return family, target, jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), target)


@pytest.mark.parametrize("own", [True, False], ids=["own", "torch"])
@pytest.mark.parametrize("variant", NETWORKS)
def test_one_array_of_a_state_dict_changed(variant, own):
    """Refused, naming the array; a classifier of another shape may be left out, which the report says."""
    family, target, full = network(variant)
    if own:
        arrays, load = pretrained.export_names(full["params"], full["batch_stats"]), pretrained.load_own
    elif variant == "simpleconv3":  # PyTorch's is for images of 48x48
        pytest.skip("these weights are for another image size")
    else:
        arrays = pretrained.to_torch(full["params"], full["batch_stats"], family, variant)
        load = pretrained.load_torch
    outcomes: Counter = Counter()
    for name, array in arrays.items():
        for what, changed in changes(array).items():
            others = {key: value for key, value in arrays.items() if key != name}
            try:
                *_, report = load(
                    others if changed is None else others | {name: changed}, family, variant, target
                )
            except ValueError as error:
                outcomes["refused"] += 1
                assert "do not fit" in str(error) or "no weights of" in str(error), (name, what)
            else:
                outcomes["left out or interpolated, and said so"] += 1
                assert report.notes or name in RESHAPED, (name, what)
                assert what not in OF_THE_FILE, (name, what)
    print(f"\n{variant}: {outcomes.total()} state dicts, {dict(outcomes)}", end="")
