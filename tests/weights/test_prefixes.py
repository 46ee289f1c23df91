"""A network under a prefix, as training programs write it, is found; what is ambiguous is refused."""

import struct
import time
import tracemalloc
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
from safetensors.numpy import save_file

from imgcls_jax.models import simpleconv3, two_stream, vit
from imgcls_jax.tools import convert
from imgcls_jax.weights import pretrained
from tests.weights.test_files import pickled, tensor, tensors_of, write_zip
from tests.weights.test_pretrained import load, same, torch_arrays


@pytest.fixture(scope="module")
def simple():
    return torch_arrays(simpleconv3, "simpleconv3", 48)


def under(prefix, arrays):
    return {f"{prefix}{name}": array for name, array in arrays.items()}


@pytest.mark.parametrize(
    "prefix",
    [
        "model.",
        "backbone.",
        "net.",
        "encoder.",
        "teacher.",
        "module.encoder_q.",
        "model._orig_mod.",
        "a.b.c.",
    ],
)
def test_whatever_the_prefix_is_called(simple, prefix):
    arrays, target = simple
    beside = {"queue": np.ones((4, 2), np.float32), "projector.0.weight": np.ones((3, 3), np.float32)}
    params, batch_stats, report = load(under(prefix, arrays) | beside, target)
    own = load(arrays, target)
    same((params, batch_stats), own[:2])
    assert report.loaded == own[2].loaded
    assert repr(prefix) in str(report) and "queue" in str(report) and "projector" in str(report)


def test_the_network_of_moco_not_its_average(simple):
    arrays, target = simple
    average = under("module.encoder_k.", {name: -array for name, array in arrays.items()})
    mlp = {f"module.encoder_q.fc3.{i}.weight": np.ones((3, 3), np.float32) for i in (0, 2)}
    trunk = {name: a for name, a in under("module.encoder_q.", arrays).items() if ".fc3." not in name}
    params, _, report = load(average | trunk | mlp, target)
    own, _, _ = load(arrays, target)
    same(params["backbone"], own["backbone"])
    assert "head" not in params
    assert "fc3: left out, 2 arrays of another head" in str(report) and "module.encoder_k" in str(report)


def test_two_that_fit_are_refused_and_named(simple, tmp_path, capsys):
    arrays, target = simple
    both = under("student.", arrays) | under("teacher.", {name: 2 * array for name, array in arrays.items()})
    with pytest.raises(ValueError, match=r"2 times, under 'student\.' and 'teacher\.': .* --prefix"):
        load(both, target)
    source, out = tmp_path / "both.safetensors", tmp_path / "one.safetensors"
    save_file(both, source)
    options = [str(source), str(out), "--family=simpleconv3", "--variant=simpleconv3", "--image_size=48"]
    assert convert.main(options) == 2 and "'student.' and 'teacher.'" in capsys.readouterr().err
    assert convert.main([*options, "--prefix=nobody."]) == 2
    assert "no array's name begins with 'nobody.'" in capsys.readouterr().err
    assert convert.main([*options, "--prefix=teacher."]) == 0
    assert "names read under 'teacher.', and what is beside it left out (student)" in capsys.readouterr().out
    params, _, _ = pretrained.load(out, simpleconv3, "simpleconv3", target)
    np.testing.assert_array_equal(params["backbone"]["bn1"]["bias"], 2 * arrays["bn1.bias"])


def test_a_network_without_a_prefix_goes_before_its_copies(simple):
    arrays, target = simple
    params, _, report = load(arrays | under("ema.", arrays), target)
    same(params, load(arrays, target)[0])
    assert "copies of the network left out, under 'ema.'" in str(report)


def test_what_is_missing_under_a_prefix_is_told_with_it(simple):
    arrays, target = simple
    arrays = {name: array for name, array in arrays.items() if name != "conv2.weight"}
    with pytest.raises(ValueError, match=r"under 'model\.': the weights do .* 1 missing: conv2.weight$"):
        load(under("model.", arrays), target)


def test_names_that_a_family_knows_under_a_prefix():
    arrays, target = torch_arrays(vit, "vit_tiny", 32)
    arrays = {name.replace("encoder.layers.encoder_layer_", "blocks."): a for name, a in arrays.items()}
    own = pretrained.load_torch(arrays, vit, "vit_tiny", target)
    for prefix in ("backbone.", "module.base_encoder."):
        found = pretrained.load_torch(under(prefix, arrays), vit, "vit_tiny", target)
        same(found[0], own[0])


def test_both_streams_from_one_network_under_a_prefix(simple):
    variant = "simpleconv3/simpleconv3"
    shapes = pretrained.target_shapes(two_stream.build(variant), (48, 48, 3), 4)
    own = pretrained.load_torch(simple[0], two_stream, variant, shapes)
    found = pretrained.load_torch(under("model.", simple[0]), two_stream, variant, shapes)
    same(found[0], own[0])


def test_state_dicts_under_other_keys_of_a_checkpoint(simple, tmp_path):
    arrays, target = simple
    tensors, storages = tensors_of(arrays)
    checkpoint = {"net": OrderedDict(tensors), "acc": 93.1, "epoch": 7, "optimizer": {"state": {0: {}}}}
    found = pretrained.load(
        write_zip(tmp_path / "a.pth", checkpoint, storages), simpleconv3, "simpleconv3", target
    )
    same(found[0], load(arrays, target)[0])
    both = {"student": tensors, "teacher": dict(tensors)}
    with pytest.raises(ValueError, match=r"'student\.' and 'teacher\.'"):
        pretrained.load(write_zip(tmp_path / "b.pth", both, storages), simpleconv3, "simpleconv3", target)


def test_many_dictionaries_of_one_long_name_take_no_memory(tmp_path):
    # {"0": {NAME: tensor}, "1": {NAME: tensor}, ...}: the name and the tensor stand in the file once.
    name = b"X" + struct.pack("<I", 1_000_000) + b"a" * 1_000_000 + b"r\0\0\0\0"
    record = pickled(tensor("0", 1, (1,), (1,))) + b"r\1\0\0\0"
    again = b"j\0\0\0\0" + b"j\1\0\0\0s"
    items = b"".join(pickled(str(number)) + b"}" + again for number in range(20_000))
    code = b"\x80\x02" + name + b"0" + record + b"0" + b"}(" + items + b"u."
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", code)
        archive.writestr("archive/data/0", np.ones(1, np.float32).tobytes())
    tracemalloc.start()
    assert len(pretrained.read_state_dict(path)) == 32
    assert tracemalloc.get_traced_memory()[1] < 200e6
    tracemalloc.stop()


def test_a_hostile_number_of_prefixes(simple):
    _, target = simple
    one = np.ones(1, np.float32)
    names = [f"{'p.' * (i % 40)}{i // 9}.{name}" for i in range(30_000) for name in ("conv1.weight",)]
    names += ["module." * 100_000 + name for name in ("a", "b")]
    tracemalloc.start()
    begin = time.process_time()
    with pytest.raises(ValueError, match="do not fit"):
        load(dict.fromkeys(names, one), target)
    assert time.process_time() - begin < 5
    assert tracemalloc.get_traced_memory()[1] < 200e6
    tracemalloc.stop()
