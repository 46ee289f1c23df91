"""Caffe's files of weights: written here byte by byte, read, and brought into each family's network."""

import functools
import importlib
import struct
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.models import lenet, resnet, simpleconv3
from imgcls_jax.tools.convert import convert
from imgcls_jax.weights import pretrained
from imgcls_jax.weights.files import read_state_dict

SHARED = Path(__file__).parents[3] / "shared" / "data"
V1_TYPES = {"Convolution": 4, "InnerProduct": 14}
# variant -> (image's side, channels)
NARROW = {
    "alexnet": {"channels": (8, 8, 8, 8, 8), "hidden": (8, 6)},
    "vgg": {"channels": (4, 4, 4, 4, 4), "hidden": (8, 6)},
}
NETWORKS = {
    "simpleconv3/simpleconv3_caffe": (48, 3),
    "lenet/lenet_caffe": (28, 1),
    "alexnet/alexnet_caffe": (227, 3),
    "alexnet/caffenet": (227, 3),
    "vgg/vgg11": (224, 3),
    "vgg/vgg16": (224, 3),
    "googlenet/googlenet_original": (224, 3),
    "squeezenet/squeezenet1_0": (64, 3),
    "squeezenet/squeezenet1_1": (64, 3),
    "nin/nin_imagenet": (64, 3),
    "nin/nin_cifar": (32, 3),
}


def varint(number: int) -> bytes:
    parts = []
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


def field(number: int, content: bytes | int) -> bytes:
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def blob(array: np.ndarray, *, numbers: int = 5, shape: bytes | None = None) -> bytes:
    if shape is None:
        shape = field(7, field(1, b"".join(map(varint, array.shape))))
    return field(numbers, array.astype("<f8" if numbers == 8 else "<f4").tobytes()) + shape


def layer(name: str, kind: str, *blobs: bytes) -> bytes:
    return field(
        100, b"".join([field(1, name.encode()), field(2, kind.encode()), *(field(7, b) for b in blobs)])
    )


def v1_layer(name: str, kind: str, *arrays: np.ndarray) -> bytes:
    blobs = []
    for array in arrays:
        shape = (1,) * (4 - array.ndim) + array.shape
        blobs.append(blob(array, shape=b"".join(map(field, (1, 2, 3, 4), shape))))
    return field(
        2, b"".join([*(field(6, b) for b in blobs), field(4, name.encode()), field(5, V1_TYPES[kind])])
    )


def read(path: Path, content: bytes):
    path.write_bytes(content)
    return read_state_dict(path)


def numbers(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)


def test_layers_of_all_kinds_by_hand(tmp_path):
    kernel = numbers(2, 3, 1, 1)
    found = read(
        tmp_path / "a.caffemodel",
        field(1, b"net")
        + layer("conv1", "Convolution", blob(kernel), blob(numbers(2)))
        + layer("conv1/bn", "BatchNorm", blob(numbers(2)), blob(numbers(2) + 1), blob(np.array([4.0])))
        + layer("conv1/scale", "Scale", blob(numbers(2) + 5), blob(numbers(2)))
        + layer("relu", "ReLU")
        + layer("prelu", "PReLU", blob(numbers(2)))
        + layer("ip", "InnerProduct", blob(numbers(2, 4), numbers=8))
        + varint(3 << 3 | 5)
        + bytes(4)  # fields that are not read, of 32 and 64 bits
        + varint(900 << 3 | 1)
        + bytes(8),
    )
    assert list(found) == [
        *("conv1.weight", "conv1.bias", "conv1/bn.running_mean", "conv1/bn.running_var"),
        *("conv1/scale.weight", "conv1/scale.bias", "prelu.0", "ip.weight"),
    ]
    np.testing.assert_array_equal(found["conv1.weight"], kernel)
    np.testing.assert_array_equal(found["conv1/bn.running_mean"], [0, 0.25])
    np.testing.assert_array_equal(found["conv1/bn.running_var"], [0.25, 0.5])
    assert found["ip.weight"].dtype == np.float32 and found["ip.weight"].shape == (2, 4)


def test_a_factor_of_zero_makes_a_batch_norm_zero(tmp_path):
    bn = layer("bn", "BatchNorm", blob(numbers(2)), blob(numbers(2)), blob(np.zeros(1)))
    found = read(tmp_path / "a.caffemodel", bn)
    assert not any(array.any() for array in found.values())


def test_older_layers_lose_their_leading_ones(tmp_path):
    kernel, dense = numbers(1, 1, 3, 3), numbers(1, 6)
    found = read(
        tmp_path / "a.caffemodel",
        v1_layer("conv1", "Convolution", kernel, numbers(1))
        + v1_layer("fc6", "InnerProduct", dense, numbers(1)),
    )
    shapes = {name: array.shape for name, array in found.items()}
    assert shapes == {
        "conv1.weight": (1, 1, 3, 3),
        "conv1.bias": (1,),
        "fc6.weight": (1, 6),
        "fc6.bias": (1,),
    }


def test_numbers_in_pieces_and_one_by_one(tmp_path):
    half = numbers(2).tobytes()
    single = b"".join(varint(5 << 3 | 5) + struct.pack("<f", x) for x in (7, 8))
    pieces = field(5, half) + field(5, half) + single + field(7, field(1, 6))
    found = read(tmp_path / "a.caffemodel", layer("ip", "InnerProduct", blob(numbers(3, 2)), pieces))
    np.testing.assert_array_equal(found["ip.bias"], [0, 1, 0, 1, 7, 8])


GOOD = layer("a", "Scale", blob(numbers(1)))
LIES = {
    "nothing": (b"", "it has no layer with arrays"),
    "text": (b'name: "LeNet"\nlayer { name: "conv1" }\n', "no .caffemodel"),
    "a group": (GOOD + b"\x0b\x0c", "wire type 3"),
    "an unknown type": (GOOD + b"\x0e", "wire type 6"),
    "an integer without end": (GOOD + b"\x80" * 20, "an integer has no end"),
    "a length of all": (GOOD + varint(100 << 3 | 2) + varint(2**63), "longer than what holds it"),
    "cut": (GOOD + GOOD[:-1], "longer than what holds it"),
    "field 0": (GOOD + b"\x02\x00", "no .caffemodel"),
    "a layer that is a number": (GOOD + field(100, 3), "a layer is a number"),
    "a shape of much": (
        layer("a", "Scale", field(5, bytes(8)) + field(7, field(1, varint(2**40) * 3))),
        "has 8 bytes, its shape is",
    ),
    "nothing of much": (layer("a", "Scale", field(7, field(1, varint(0) + varint(2**64 - 1)))), ""),
    "many axes": (
        layer("a", "Scale", field(7, field(1, b"\x01" * 10**6)) + field(5, bytes(4))),
        "more than 32 axes",
    ),
    "many axes, singly": (
        layer("a", "Scale", field(7, field(1, 1) * 100) + field(5, bytes(4))),
        "more than 32 axes",
    ),
    "no shape": (layer("a", "Scale", field(5, bytes(4))), "has 4 bytes, its shape is"),
    "half a number": (layer("a", "Scale", field(5, bytes(6)) + field(7, field(1, 1))), "has 6 bytes"),
    "a long name": (layer("a" * 10**6, "Scale", blob(numbers(1))), "a name has 1000000 bytes"),
    "a name of bytes": (field(100, field(1, b"\xff") + field(7, blob(numbers(1)))), "a name is no text"),
    "a name twice": (GOOD * 2, "two layers have the name of 'a.weight'"),
    "many layers": (
        b"".join(layer(str(n), "Scale", blob(numbers(1))) for n in range(10_001)),
        "more than 10000 layers",
    ),
    "many arrays": (layer("a", "b", *[blob(numbers(1))] * 17), "more than 16 arrays"),
    "a factor of two": (layer("a", "BatchNorm", *[blob(numbers(2))] * 3), "the factor of the BatchNorm"),
}


@pytest.mark.parametrize(("content", "says"), LIES.values(), ids=LIES)
def test_files_that_lie(tmp_path, content, says):
    with pytest.raises(ValueError, match="a.caffemodel: (cannot be read|holds no)") as caught:
        read(tmp_path / "a.caffemodel", content)
    assert says in str(caught.value) and len(str(caught.value)) < 2000


@pytest.mark.parametrize("rounds", [150, pytest.param(5000, marks=pytest.mark.slow)])
def test_damaged_files_are_refused_or_read_in_bounds(tmp_path, rounds):
    """Cut, flipped, and spliced files: a ValueError of the file's name, or no more numbers than bytes."""
    content = (
        layer("conv1", "Convolution", blob(numbers(2, 3, 2, 2)), blob(numbers(2)))
        + layer("bn", "BatchNorm", blob(numbers(2)), blob(numbers(2)), blob(np.ones(1)))
        + v1_layer("fc6", "InnerProduct", numbers(2, 8), numbers(2))
    )
    rng, outcomes = np.random.default_rng(0), Counter()
    for _ in range(rounds):
        damaged = bytearray(content)
        for place in rng.integers(len(content), size=rng.integers(1, 4)):
            damaged[place] = rng.integers(256)
        if rng.random() < 0.3:
            damaged = damaged[: rng.integers(len(damaged))]
        if rng.random() < 0.3:
            start, end = sorted(rng.integers(len(damaged) + 1, size=2))
            damaged[start:start] = damaged[start:end]
        try:
            found = read(tmp_path / "a.caffemodel", bytes(damaged))
        except ValueError as error:
            outcomes["refused"] += 1
            assert "a.caffemodel: " in str(error) and len(str(error)) < 2000
        else:
            outcomes["read"] += 1
            assert 4 * sum(array.size for array in found.values()) <= len(damaged)
    assert min(outcomes.values()) > rounds // 20, outcomes
    print(f"\n{rounds} damaged files: {dict(outcomes)}", end="")


@functools.cache
def weights(network: str):
    """Returns family, variant, target and PyTorch's arrays, numbered so that none is another's."""
    name, variant = network.split("/")
    family, (side, channels) = importlib.import_module(f"imgcls_jax.models.{name}"), NETWORKS[network]
    aux = name == "googlenet"
    backbone = family.build(variant, **({"aux": True} if aux else NARROW.get(name, {})))
    target = pretrained.target_shapes(backbone, (side, side, channels), 10, aux=aux)
    count = iter(range(1, 10_000))
    full = jax.tree.map(lambda leaf: np.full(leaf.shape, next(count), leaf.dtype), target)
    return family, variant, target, full


@pytest.mark.parametrize("network", NETWORKS)
def test_each_network_reads_its_layers(tmp_path, network):
    """Written under Caffe's names, the arrays come back; the first kernel's with B and R exchanged."""
    family, variant, target, full = weights(network)
    arrays = pretrained.to_torch(full["params"], full["batch_stats"], family, variant)
    layers = family.caffe_layers(variant)
    first = next(iter(layers.values()))
    if (kernel := arrays[f"{first}.weight"]).shape[1] == 3:
        kernel = kernel + np.arange(3, dtype=np.float32)[:, None, None]
        arrays[f"{first}.weight"] = kernel[:, ::-1]  # B, G, R in the file
    content, used = b"", set()
    for name, module in layers.items():
        leaves = ("weight", "bias")
        if name.endswith("/bn"):
            blobs = [blob(2 * arrays[f"{module}.running_{leaf}"]) for leaf in ("mean", "var")]
            content += layer(name, "BatchNorm", *blobs, blob(np.array([2.0])))
            used |= {f"{module}.running_mean", f"{module}.running_var"}
            continue
        kind = "Scale" if name.endswith("/scale") else "Convolution"
        kind = "InnerProduct" if arrays[f"{module}.weight"].ndim == 2 else kind
        content += layer(name, kind, *(blob(arrays[f"{module}.{leaf}"]) for leaf in leaves))
        used |= {f"{module}.{leaf}" for leaf in leaves}
    assert used == arrays.keys()
    (tmp_path / "a.caffemodel").write_bytes(content)
    params, batch_stats, report = pretrained.load(tmp_path / "a.caffemodel", family, variant, target)
    assert not report.notes
    found = pretrained.export_names(params, batch_stats)
    for name, array in pretrained.export_names(full["params"], full["batch_stats"]).items():
        if array.ndim == 4 and array.shape[2] == 3:  # the first kernel, by R, G, B
            array = array + np.arange(3, dtype=np.float32)[:, None]
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_the_flattened_map_is_read_in_caffes_order(tmp_path):
    """ip1 reads C, h, w in the file and h, w, C here."""
    family, variant, target, full = weights("lenet/lenet_caffe")
    arrays = pretrained.to_torch(full["params"], {}, family, variant)
    dense = numbers(500, 50 * 4 * 4)
    content = b"".join(
        layer(name, "Convolution", blob(arrays[f"{name}.weight"]), blob(arrays[f"{name}.bias"]))
        for name in ("conv1", "conv2")
    )
    content += layer("ip1", "InnerProduct", blob(dense), blob(arrays["fc1.bias"]))
    content += layer("ip2", "InnerProduct", blob(arrays["fc2.weight"]), blob(arrays["fc2.bias"]))
    (tmp_path / "a.caffemodel").write_bytes(content)
    params, _, _ = pretrained.load(tmp_path / "a.caffemodel", lenet, variant, target)
    expected = dense.reshape(500, 50, 4, 4).transpose(2, 3, 1, 0).reshape(-1, 500)
    np.testing.assert_array_equal(params["backbone"]["fc1"]["kernel"], expected)


def test_another_network_is_one_line(tmp_path):
    path = tmp_path / "a.caffemodel"
    path.write_bytes(layer("conv1", "Convolution", blob(numbers(64, 3, 7, 7))))
    with pytest.raises(ValueError, match="a.caffemodel: Caffe's layers are not known of resnet resnet18"):
        pretrained.load(path, resnet, "resnet18", {"params": {"backbone": {}}})
    _, variant, target, _ = weights("simpleconv3/simpleconv3_caffe")
    with pytest.raises(
        ValueError, match="a.caffemodel: the weights do not fit simpleconv3 .*conv1.weight is"
    ):
        pretrained.load(path, simpleconv3, variant, target)
    with pytest.raises(ValueError, match="not known of lenet lenet5"):
        convert(path, tmp_path / "a.safetensors", family="lenet", variant="lenet5")


def photos(name: str, resize: int):
    Image = pytest.importorskip("PIL.Image")
    rows = [line.split() for line in (SHARED / "mouth" / name).read_text().splitlines()]
    corner = (resize - 48) // 2
    box = (corner, corner, corner + 48, corner + 48)
    images = [
        np.asarray(Image.open(SHARED / "mouth" / file).resize((resize, resize), 2).crop(box), np.float32)
        for file, _ in rows
    ]
    return jnp.stack(images), np.array([int(label) for _, label in rows])


# The ReLU after ip1 is not among the file's layers. With one the figures are those of a measurement that
# had it.
@pytest.mark.parametrize(
    "relu, resize, right", [(False, 48, 86), (False, 60, 89), (True, 48, 77), (True, 60, 83)]
)
@pytest.mark.skipif(not (SHARED / "caffe").is_dir(), reason="needs the shared files of Caffe")
def test_the_books_own_network_on_mouth_crops(relu, resize, right):
    """Of 100 images of a development split."""
    backbone = simpleconv3.build("simpleconv3_caffe", relu_after_hidden=relu)
    target = pretrained.target_shapes(backbone, (48, 48, 3), 2)
    path = SHARED / "caffe" / "simpleconv3_mouth.caffemodel"
    params, batch_stats, report = pretrained.load(path, simpleconv3, "simpleconv3_caffe", target)
    assert not report.notes
    images, labels = photos("val.txt", resize)
    variables = {"params": params["backbone"], "batch_stats": batch_stats}
    embedding = backbone.apply(variables, images - jnp.array([123.0, 117, 104]), train=False).embedding
    logits = embedding @ params["head"]["classifier"]["kernel"] + params["head"]["classifier"]["bias"]
    assert abs((np.argmax(logits, 1) == labels).sum() - right) <= 1


@pytest.mark.skipif(not (SHARED / "caffe").is_dir(), reason="needs the shared files of Caffe")
def test_caffes_lenet_on_mnist():
    """99.9 % of 2,000 images, drawn from its training set."""
    from imgcls_jax.data.sources.mnist import Mnist

    source = Mnist("test", root=SHARED / "mnist")
    backbone = lenet.build("lenet_caffe")
    target = pretrained.target_shapes(backbone, (28, 28, 1), 10)
    path = SHARED / "caffe" / "lenet_mnist.caffemodel"
    params, _, report = pretrained.load(path, lenet, "lenet_caffe", target)
    assert not report.notes
    images = jnp.asarray(source.images[:2000], jnp.float32).reshape(-1, 28, 28, 1) / 256
    embedding = backbone.apply({"params": params["backbone"]}, images, train=False).embedding
    logits = embedding @ params["head"]["classifier"]["kernel"] + params["head"]["classifier"]["bias"]
    assert (np.argmax(logits, 1) == source.labels[:2000]).mean() > 0.998
