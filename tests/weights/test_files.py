"""Files of weights: what torch.save writes is read without torch, and a stranger's file cannot do harm."""

import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.weights import files as weight_files
from imgcls_jax.weights.files import read_state_dict, write_safetensors

TYPES = {"<f4": "Float", "<f2": "Half", "<f8": "Double", "<i8": "Long", "bfloat16": "BFloat16"}
REAL = Path(__file__).parents[3] / "shared" / "data" / "weights"


class Global(NamedTuple):
    module: str
    name: str


class Call(NamedTuple):
    function: object
    arguments: tuple


class Reference(NamedTuple):
    pid: tuple


class State(NamedTuple):
    target: object
    state: object


def pickled(value):
    """Pickles by hand what pickle would not write without torch: names, calls, references."""
    match value:
        case Global():
            return b"c" + value.module.encode() + b"\n" + value.name.encode() + b"\n"
        case Call():
            return pickled(value.function) + pickled(tuple(value.arguments)) + b"R"
        case Reference():
            return pickled(tuple(value.pid)) + b"Q"
        case State():
            return pickled(value.target) + pickled(value.state) + b"b"
        case None:
            return b"N"
        case bool():
            return b"\x88" if value else b"\x89"
        case int():
            raw = value.to_bytes(16, "little", signed=True)
            return b"\x8a" + bytes([len(raw)]) + raw
        case float():
            return b"G" + struct.pack(">d", value)
        case str():
            return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        case tuple():
            return b"(" + b"".join(map(pickled, value)) + b"t"
        case list():
            return b"](" + b"".join(map(pickled, value)) + b"e"
        case dict():
            ordered = isinstance(value, OrderedDict)
            empty = pickled(Call(Global("collections", "OrderedDict"), ())) if ordered else b"}"
            items = b"".join(pickled(key) + pickled(item) for key, item in value.items())
            return empty + b"(" + items + b"u"
    raise TypeError(value)


def tensor(key, count, shape, strides, *, offset=0, kind="Float", view=None):
    pid = ("storage", Global("torch", f"{kind}Storage"), key, "cpu", count)
    hooks = Call(Global("collections", "OrderedDict"), ())
    reference = Reference((*pid, view) if view else pid)
    return Call(
        Global("torch._utils", "_rebuild_tensor_v2"), (reference, offset, shape, strides, False, hooks)
    )


def tensors_of(arrays):
    """Returns the tensors of contiguous arrays and their storages."""
    tensors, storages = {}, {}
    for number, (name, array) in enumerate(arrays.items()):
        kind = TYPES[array.dtype.name if array.dtype.name == "bfloat16" else array.dtype.str]
        strides = tuple(int(s) // array.itemsize for s in np.ascontiguousarray(array).strides)
        storages[str(number)] = array.tobytes()
        tensors[name] = tensor(str(number), array.size, array.shape, strides[: array.ndim], kind=kind)
    return tensors, storages


def write_zip(path, value, storages, *, compression=zipfile.ZIP_STORED, more=()):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + pickled(value) + b".")
        for key, content in [*((f"data/{key}", content) for key, content in storages.items()), *more]:
            archive.writestr(f"archive/{key}", content)
    return path


def write_legacy(path, value, storages, itemsize=4):
    parts = [1001, {"protocol_version": 1001, "little_endian": True}, value, list(storages)]
    stream = weight_files.LEGACY_MAGIC + b"".join(b"\x80\x02" + pickled(part) + b"." for part in parts)
    for content in storages.values():
        stream += (len(content) // itemsize).to_bytes(8, "little") + content
    path.write_bytes(stream)
    return path


WRITERS = pytest.mark.parametrize("write", [write_zip, write_legacy])


@WRITERS
def test_reads_what_torch_saves(tmp_path, write):
    arrays = {
        "conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
        "scale": np.float32(3.5).reshape(()),
        "empty": np.zeros((0, 3), np.float32),
    }
    found = read_state_dict(write(tmp_path / "a.pth", *tensors_of(arrays)))
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == np.float32 and found[name].shape == array.shape


def test_every_floating_type_becomes_float32_and_integers_stay(tmp_path):
    values = np.array([1.5, -2.0, 0.25])
    kinds = {"half": np.float16, "double": np.float64, "brain": jnp.bfloat16}
    arrays = {name: values.astype(dtype) for name, dtype in kinds.items()}
    found = read_state_dict(write_zip(tmp_path / "a.pt", *tensors_of(arrays | {"n": np.arange(3)})))
    for name in kinds:
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], values)
    assert found["n"].dtype == np.int64


@WRITERS
def test_strides_offsets_and_shared_storages(tmp_path, write):
    content = np.arange(12, dtype=np.float32)
    tensors = {
        "transposed": tensor("7", 12, (3, 4), (1, 3)),
        "row": tensor("7", 12, (4,), (1,), offset=8),
        "every_third": tensor("7", 12, (4,), (3,), offset=1),
    }
    found = read_state_dict(write(tmp_path / "a.th", tensors, {"7": content.tobytes()}))
    np.testing.assert_array_equal(found["transposed"], content.reshape(4, 3).T)
    np.testing.assert_array_equal(found["row"], content[8:])
    np.testing.assert_array_equal(found["every_third"], content[1::3])


def test_a_view_of_a_legacy_storage(tmp_path):
    content = np.arange(10, dtype=np.float32)
    tensors = {"part": tensor("1", 10, (2,), (1,), offset=1, view=("v", 5, 4))}
    found = read_state_dict(write_legacy(tmp_path / "a.pth", tensors, {"1": content.tobytes()}))
    np.testing.assert_array_equal(found["part"], [6, 7])


@WRITERS
@pytest.mark.parametrize(
    "wrapper", [("state_dict",), ("model",), ("model_state_dict",), ("model", "state_dict")]
)
def test_checkpoints_of_training_loops(tmp_path, write, wrapper):
    names = ("module.fc.weight", "module.bn.num_batches_tracked")
    tensors, storages = tensors_of({name: np.ones(2, np.float32) for name in names})
    value = State(OrderedDict(tensors), {"_metadata": {"": {"version": 1}}})
    beside = {
        "epoch": 3,
        "args": State(Call(Global("argparse", "Namespace"), ()), {"lr": 0.1}),
        "best": Call(
            Global("numpy.core.multiarray", "scalar"), (Call(Global("numpy", "dtype"), ("f8",)), "x")
        ),
        "optimizer": {"state": {0: {"momentum": tensor("0", 2, (2,), (1,))}}, "groups": [{"lr": 0.1}]},
    }
    for key in reversed(wrapper):
        value = {key: value, **beside}
    found = read_state_dict(write(tmp_path / "a.pth", value, storages))
    assert list(found) == ["fc.weight"]


def test_compiled_and_parallel_prefixes(tmp_path):
    names = ("module._orig_mod.fc.weight", "module._orig_mod.fc.bias")
    path = write_zip(tmp_path / "a.pth", *tensors_of({name: np.ones(2, np.float32) for name in names}))
    assert list(read_state_dict(path)) == ["fc.weight", "fc.bias"]


@WRITERS
@pytest.mark.parametrize(
    "module, name, arguments",
    [
        ("os", "system", ("touch {canary}",)),
        ("posix", "system", ("touch {canary}",)),
        ("builtins", "eval", ("open({canary!r}, 'w')",)),
        ("builtins", "getattr", (Global("collections", "OrderedDict"), "fromkeys")),
        ("torch", "load", ("{canary}",)),
        ("torch._utils", "_rebuild_tensor_v2.__globals__", ()),
        ("collections.OrderedDict", "__init__", ()),
    ],
)
def test_a_malicious_file_runs_nothing_and_says_what_it_asked_for(tmp_path, write, module, name, arguments):
    canary = tmp_path / "canary"
    filled = tuple(a.format(canary=str(canary)) if isinstance(a, str) else a for a in arguments)
    tensors, storages = tensors_of({"fc.weight": np.ones(2, np.float32)})
    value = {"state_dict": tensors, "extra": Call(Global(module, name), filled)}
    path = write(tmp_path / "evil.pth", value, storages)
    with pytest.raises(ValueError, match=rf"evil.pth.*asks for {module}.{name}.*nothing of it was run"):
        read_state_dict(path)
    assert not canary.exists()


@WRITERS
def test_a_malicious_file_cannot_change_this_module(tmp_path, write):
    tensors, storages = tensors_of({"fc.weight": np.ones(2, np.float32)})
    rebuild = Global("torch._utils", "_rebuild_tensor_v2")
    value = {**tensors, "x": State(rebuild, (None, {"__defaults__": (1,), "planted": 1}))}
    read_state_dict(write(tmp_path / "a.pth", value, storages))
    rebuild = weight_files._GLOBALS["torch._utils", "_rebuild_tensor_v2"]
    assert not hasattr(rebuild, "planted") and rebuild.__defaults__ is None


def test_opcodes_that_allocate_or_reach_outside(tmp_path):
    for number, opcodes in enumerate([b"\x96" + b"\xff" * 7 + b"\x7f", b"\x82\x01", b"\x97"]):
        with zipfile.ZipFile(tmp_path / f"{number}.pth", "w") as archive:
            archive.writestr("archive/data.pkl", b"\x80\x05" + opcodes + b".")
        with pytest.raises(ValueError, match="an opcode that no state dict needs"):
            read_state_dict(tmp_path / f"{number}.pth")
    with zipfile.ZipFile(tmp_path / "memo.pth", "w") as archive:  # a memo index of four billion
        archive.writestr("archive/data.pkl", b"\x80\x02}r\xff\xff\xff\xff.")
    with pytest.raises(ValueError, match="no state dict"):
        read_state_dict(tmp_path / "memo.pth")


@WRITERS
@pytest.mark.parametrize(
    "wrong, message",
    [
        (dict(shape=(5,), strides=(1,)), "reaches beyond its storage"),
        (dict(shape=(2,), strides=(1,), offset=3), "reaches beyond its storage"),
        (dict(shape=(2, 2), strides=(3, 1)), "reaches beyond its storage"),
        (dict(shape=(10**12,), strides=(0,)), "reaches beyond its storage"),
        (dict(shape=(2,), strides=(-1,), offset=1), "malformed tensor"),
        (dict(shape=(2,), strides=(1,), offset=-1), "malformed tensor"),
        (dict(shape=(2, 2), strides=(1,)), "malformed tensor"),
        (dict(shape=(2.0,), strides=(1,)), "malformed tensor"),
    ],
)
def test_a_tensor_lies_within_its_storage(tmp_path, write, wrong, message):
    path = write(tmp_path / "a.pth", {"w": tensor("0", 4, **wrong)}, {"0": bytes(16)})
    with pytest.raises(ValueError, match=rf"a.pth.*{message}"):
        read_state_dict(path)


def test_a_storage_holds_what_it_claims(tmp_path):
    claims = {"w": tensor("0", 10**9, (10**9,), (1,))}
    with pytest.raises(ValueError, match="claim 4000000000 bytes"):
        read_state_dict(write_zip(tmp_path / "a.pth", claims, {"0": bytes(16)}))
    with pytest.raises(ValueError, match="has 16 bytes, fewer than w needs"):
        read_state_dict(write_zip(tmp_path / "a.pth", {"w": tensor("0", 5, (5,), (1,))}, {"0": bytes(16)}))
    with pytest.raises(ValueError, match="'1' is not in the archive"):
        read_state_dict(write_zip(tmp_path / "a.pth", {"w": tensor("1", 4, (4,), (1,))}, {"0": bytes(16)}))
    with pytest.raises(ValueError, match="'1' is not in the file"):
        both = {"v": tensor("0", 4, (4,), (1,)), "w": tensor("1", 4, (4,), (1,))}
        read_state_dict(write_legacy(tmp_path / "a.pth", both, {"0": bytes(16)}))
    many = {f"w{i}": tensor("0", 4096, (4096,), (1,)) for i in range(99)}  # aliases of one storage
    with pytest.raises(ValueError, match="claim"):
        read_state_dict(write_zip(tmp_path / "a.pth", many, {"0": bytes(16384)}))
    twice = {"a": tensor("0", 4, (4,), (1,)), "b": tensor("0", 2, (2,), (1,), kind="Double")}
    with pytest.raises(ValueError, match="two types"):
        read_state_dict(write_zip(tmp_path / "a.pth", twice, {"0": bytes(16)}))


@WRITERS
def test_truncated_files(tmp_path, write):
    path = write(tmp_path / "a.pth", *tensors_of({"w": np.ones(1000, np.float32)}))
    whole = path.read_bytes()
    for share in (0.02, 0.3, 0.9, 0.999):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(ValueError, match="a.pth"):
            read_state_dict(path)


def test_random_damage_is_a_clear_error_or_nothing(tmp_path):
    rng = np.random.default_rng(0)
    for write in (write_zip, write_legacy):
        whole = write(tmp_path / "a.pth", *tensors_of({"w": np.ones((4, 3), np.float32)})).read_bytes()
        for _ in range(200):
            damaged = bytearray(whole)
            for place in rng.integers(0, len(whole), 3):
                damaged[place] = rng.integers(256)
            (tmp_path / "b.pth").write_bytes(damaged)
            try:
                read_state_dict(tmp_path / "b.pth")
            except ValueError as error:
                assert "b.pth" in str(error)


def test_files_that_are_no_weights(tmp_path):
    def fails(name, content, message):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name}.*{message}"):
            read_state_dict(path)

    fails("absent.pth", None, "no such file")
    fails("absent_run", None, "no such file of weights, and no workdir of a run")
    fails("a.h5", b"x", "weights are read from .pth")
    fails("a.pth", b"", "neither a zip archive")
    fails("a.pth", b"<!DOCTYPE html>", "neither a zip archive")
    fails("a.pth", b"\x80\x02cos\nsystem\n(X\x04\x00\x00\x00truetR.", "neither a zip archive")
    fails("a.safetensors", b"abc", "cannot be read as .safetensors")
    fails("a.npz", b"abc", "cannot be read as .npz")
    np.savez(tmp_path / "object.npz", w=np.array([object()], dtype=object))
    fails("object.npz", None, "allow_pickle")
    np.savez(tmp_path / "none.npz")
    fails("none.npz", None, "no state dict")
    write_zip(tmp_path / "empty.pth", {"epoch": 3}, {})
    fails("empty.pth", None, "no state dict")
    write_zip(tmp_path / "list.pth", [1, 2], {})
    fails("list.pth", None, "holds a list")
    write_zip(tmp_path / "script.pt", {}, {}, more=[("constants.pkl", b"")])
    fails("script.pt", None, "TorchScript")
    write_zip(tmp_path / "big.pt", {}, {}, more=[("byteorder", b"big")])
    fails("big.pt", None, "big-endian")
    write_zip(tmp_path / "deflated.pt", *tensors_of({"w": np.ones(9)}), compression=zipfile.ZIP_DEFLATED)
    fails("deflated.pt", None, "compressed")


def test_safetensors_and_npz(tmp_path):
    arrays = {"module.a": np.arange(6, dtype=np.float32).reshape(2, 3).T, "module.b": np.ones(2, np.float16)}
    np.savez(tmp_path / "a.npz", **arrays)
    write_safetensors(tmp_path / "folder" / "a.safetensors", arrays | {"module.c": np.ones(3, jnp.bfloat16)})
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["a.safetensors"]
    for path in (tmp_path / "a.npz", tmp_path / "folder" / "a.safetensors"):
        found = read_state_dict(path)
        np.testing.assert_array_equal(found["a"], arrays["module.a"])
        np.testing.assert_array_equal(found["b"], [1, 1])
        assert {array.dtype for array in found.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    "name, arrays, first, shape",
    [
        ("simpleconv3_4class.pt", 24, "conv1.weight", (12, 3, 3, 3)),
        ("cifar10_resnet20.th", 97, "conv1.weight", (16, 3, 3, 3)),
        ("cifar10_resnet56.th", 277, "conv1.weight", (16, 3, 3, 3)),
    ],
)
def test_real_files(name, arrays, first, shape):
    if not (REAL / name).exists():
        pytest.skip(f"{REAL / name} is not here")
    found = read_state_dict(REAL / name)
    assert len(found) == arrays and next(iter(found)) == first and found[first].shape == shape
    assert all(np.isfinite(array).all() for array in found.values())
