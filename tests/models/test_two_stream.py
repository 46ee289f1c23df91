"""Two streams against the single networks that they are made of, and what is shared against two copies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.layers.bilinear import Bilinear
from imgcls_jax.models import resnet, simpleconv3, two_stream, vgg
from imgcls_jax.tools import convert
from imgcls_jax.weights import pretrained

CHANNELS = (4, 4, 6, 6, 6)
LAST = "features.6"  # of vgg11: three of its eight convolutions are before it or it
NARROW = dict(channels=CHANNELS, last_pool=False)


def images(size=32, batch=2):
    return jax.random.normal(jax.random.key(0), (batch, size, size, 3))


def initialised(backbone, size=32):
    return jax.jit(lambda x: backbone.init(jax.random.key(1), x, train=False))(images(size))


def shapes_of(backbone, size=32):
    return jax.eval_shape(
        lambda x: backbone.init_with_output(jax.random.key(0), x, train=False), images(size)
    )


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def close(one, other, **tolerances):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerances), one, other)


def whole(params):
    """Returns the params of the second stream as a network that stands alone."""
    return {**params["first"], **params["second"]}


@pytest.mark.parametrize("variant", ["vgg/vgg11", f"vgg/vgg11@{LAST}", "vgg/vgg11+vgg13"])
def test_each_half_is_the_single_network(variant):
    backbone = two_stream.build(variant, **NARROW)
    variables = initialised(backbone)
    params = variables["params"]
    singles = (
        (backbone.first, params["first"]),
        (
            backbone.second,
            params["second"] if variant == "vgg/vgg11+vgg13" else whole(params),
        ),
    )

    @jax.jit
    def run(images):
        return backbone.apply(variables, images, train=False), [
            network.clone(parent=None).apply({"params": own}, images, train=False) for network, own in singles
        ]

    both, (first, second) = run(images())
    assert both.map.shape == (2, 2, 2, 12) and both.embedding.shape == (2, 12) and both.aux == ()
    close(both.map, jnp.concatenate([first.map, second.map], axis=-1), atol=1e-6)
    close(both.embedding, jnp.concatenate([first.embedding, second.embedding], axis=-1), atol=1e-6)
    assert np.any(first.map != second.map)


@pytest.mark.parametrize(
    "variant, second",
    [
        ("vgg/vgg16", 14_714_688),
        ("vgg/vgg16@features.0", 14_714_688 - 1_792),
        ("vgg/vgg16@features.28", 0),
        ("resnet/resnet18@layer1.1", 11_176_512 - 9_408 - 128 - 2 * 73_984),
        ("resnet/resnet18@layer2.0.conv1", 11_176_512 - 9_408 - 128 - 2 * 73_984 - 73_728),
        ("vgg/vgg16+resnet/resnet18", 11_176_512),
    ],
)
def test_the_second_stream_has_no_params_for_what_is_shared(variant, second):
    _, variables = shapes_of(two_stream.build(variant))
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    assert count(params.get("second", {})) == second
    for leaf in ("layer1.0", "bn1") if "@" in variant else ():
        assert leaf not in batch_stats.get("second", {})
    assert "classifier.0" not in params["first"]


def test_the_shared_part_gets_the_sum_of_both_gradients_and_moves_its_statistics_once():
    backbone = two_stream.build("resnet/resnet18@layer2.0.conv1", stage_sizes=(1, 1))
    alone = resnet.build("resnet18", stage_sizes=(1, 1))
    variables = initialised(backbone)
    params, batch_stats = variables["params"], variables["batch_stats"]
    weights = jax.random.normal(jax.random.key(2), (2, 256))
    merged = {"layer2.0": {**params["first"]["layer2.0"], **params["second"]["layer2.0"]}}

    def loss(params):
        features, state = backbone.apply(
            {"params": params, "batch_stats": batch_stats}, images(), train=True, mutable=["batch_stats"]
        )
        return jnp.sum(features.embedding * weights), state["batch_stats"]

    def part(params, half):
        features, state = alone.apply(
            {"params": params, "batch_stats": batch_stats["first"]},
            images(),
            train=True,
            mutable=["batch_stats"],
        )
        return jnp.sum(features.embedding * half), state["batch_stats"]

    @jax.jit
    def run(params):
        halves = jnp.split(weights, 2, axis=-1)
        second = {**params["first"], **merged}
        return jax.grad(loss, has_aux=True)(params), [
            jax.grad(part, has_aux=True)(own, half)
            for own, half in zip((params["first"], second), halves, strict=True)
        ]

    (grads, moved), ((first, alone_moved), (second, _)) = run(params)
    for module in ("conv1", "bn1", "layer1.0"):
        summed = jax.tree.map(jnp.add, first[module], second[module])
        close(grads["first"][module], summed, atol=2e-4, rtol=1e-4)
    both_conv1 = first["layer2.0"]["conv1"]["kernel"] + second["layer2.0"]["conv1"]["kernel"]
    close(grads["first"]["layer2.0"]["conv1"]["kernel"], both_conv1, atol=2e-4, rtol=1e-4)
    close(grads["first"]["layer2.0"]["conv2"], first["layer2.0"]["conv2"], atol=2e-4, rtol=1e-4)
    own = {name: second["layer2.0"][name] for name in params["second"]["layer2.0"]}
    close(grads["second"]["layer2.0"], own, atol=2e-4, rtol=1e-4)
    close(moved["first"], alone_moved, atol=1e-6)
    assert set(moved["second"]) == {"layer2.0"}


def test_the_shared_part_is_computed_once():
    backbone = two_stream.build("vgg/vgg11@features.16", **NARROW)
    shapes = shapes_of(backbone)[1]

    def convolutions(function, *inputs):
        return str(jax.make_jaxpr(function)(*inputs)).count("conv_general_dilated[")

    variables = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes)
    forward = lambda variables: backbone.apply(variables, images(), train=False).map.sum()  # noqa: E731
    assert convolutions(forward, variables) == 8 + 1
    assert convolutions(jax.grad(forward), variables) == 3 * 9 - 1  # but for the images' own gradient


def test_dropout_is_shared_where_the_layers_are():
    backbone = two_stream.build("vgg/vgg11@classifier.3", channels=CHANNELS, hidden=(8, 8), top=True)
    apart = two_stream.build("vgg/vgg11", channels=CHANNELS, hidden=(8, 8), top=True)
    variables = initialised(apart)
    same = {"params": {stream: variables["params"]["first"] for stream in ("first", "second")}}
    shared = {"params": {"first": variables["params"]["first"]}}

    @jax.jit
    def run(images):
        rngs = {"dropout": jax.random.key(3)}
        return [
            backbone.apply(shared, images, train=True, rngs=rngs).embedding,
            apart.apply(same, images, train=True, rngs=rngs).embedding,
        ]

    one, two = (jnp.split(embedding, 2, axis=-1) for embedding in run(100 * images()))
    np.testing.assert_array_equal(*one)
    assert np.any(two[0] != two[1])


def test_bilinear_pooling_reads_the_streams():
    backbone = two_stream.build("vgg/vgg11", **NARROW)
    variables = initialised(backbone)
    features = backbone.apply(variables, images(), train=False)
    head = Bilinear(3, streams=2)
    kernel = head.init(jax.random.key(0), features.map, train=False)["params"]["classifier"]["kernel"]
    assert kernel.shape == (36, 3)


def torch_arrays(family, variant, size, **fields):
    target = pretrained.target_shapes(family.build(variant, **fields), (size, size, 3), 5)
    rng = np.random.default_rng(0)
    values = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), target)
    return pretrained.to_torch(values["params"], values["batch_stats"], family, variant)


@pytest.mark.parametrize("variant", ["vgg/vgg11_bn", "vgg/vgg11_bn@features.8"])
def test_one_networks_weights_fill_both_streams(variant):
    arrays = torch_arrays(vgg, "vgg11_bn", 32, channels=CHANNELS, hidden=(8, 8))
    assert {"classifier.0.weight", "classifier.6.bias", "features.1.running_var"} <= set(arrays)
    target = pretrained.target_shapes(two_stream.build(variant, **NARROW), (32, 32, 3), 5)
    params, batch_stats, report = pretrained.load_torch(arrays, two_stream, variant, target)
    assert set(params) == {"backbone"} and report.notes == ("head: not in the file, starts afresh",)
    jax.tree.map(lambda a, b: None, params["backbone"], target["params"]["backbone"])  # equal structures
    for stream in params["backbone"].values():
        for module, leaves in stream.items():
            for leaf, name in (("bias", "bias"), ("scale", "weight")):
                if leaf in leaves:
                    np.testing.assert_array_equal(leaves[leaf], arrays[f"{module}.{name}"])
    np.testing.assert_array_equal(
        batch_stats["second"]["features.26"]["mean"], arrays["features.26.running_mean"]
    )
    assert ("features.8" in params["backbone"]["second"]) == ("@" not in variant)
    with pytest.raises(ValueError, match="left over: first.features.99.weight, second.features.99.weight"):
        pretrained.load_torch({**arrays, "features.99.weight": np.ones(1)}, two_stream, variant, target)


def test_a_flattened_map_in_both_streams_and_the_own_file(tmp_path):
    arrays = torch_arrays(simpleconv3, "simpleconv3", 48)
    np.savez(tmp_path / "one.npz", **arrays)
    own = tmp_path / "two.safetensors"
    options = dict(family="two_stream", variant="simpleconv3/simpleconv3@bn3", image_shape=(48, 48, 3))
    convert.convert(tmp_path / "one.npz", own, **options)
    found = pretrained.read_state_dict(own)
    single = pretrained.target_shapes(simpleconv3.build(), (48, 48, 3), 5)
    expected = pretrained.load_torch(arrays, simpleconv3, "simpleconv3", single)[0]["backbone"]["fc1"][
        "kernel"
    ]
    np.testing.assert_array_equal(found["backbone/first/fc1/kernel"], expected)
    np.testing.assert_array_equal(found["backbone/second/fc1/kernel"], expected)
    assert "backbone/second/conv3/kernel" not in found
    backbone = two_stream.build(options["variant"])
    target = pretrained.target_shapes(backbone, options["image_shape"], 1)
    params, _, report = pretrained.load(own, two_stream, options["variant"], target)
    assert set(params["backbone"]) == {"first", "second"} and report.loaded == len(found)
    with pytest.raises(ValueError, match="PyTorch has no network of two streams"):
        convert.convert(own, tmp_path / "back.safetensors", to="torch", **options)


def test_weights_of_two_networks_need_names_of_both():
    variant = "vgg/vgg11+vgg13"
    backbone = two_stream.build(variant, **NARROW)
    target = pretrained.target_shapes(backbone, (32, 32, 3), 5)
    files = {
        stream: torch_arrays(vgg, name, 32, channels=CHANNELS, top=False)
        for stream, name in (("first", "vgg11"), ("second", "vgg13"))
    }
    with pytest.raises(ValueError, match="'vgg/vgg11\\+vgg13' has two networks and the file"):
        pretrained.load_torch(files["first"], two_stream, variant, target)
    both = {
        f"{stream}.{name}": array
        for stream, arrays in files.items()
        for name, array in arrays.items()
        if "classifier" not in name
    }
    _, _, report = pretrained.load_torch(both, two_stream, variant, target)
    assert report.loaded == len(both)


@pytest.mark.parametrize(
    "variant", ["vgg", "vgg/", "vgg/vgg11+", "vgg/vgg11@", "/vgg11", "two_stream/vgg/vgg11"]
)
def test_variants_of_another_form(variant):
    with pytest.raises(ValueError, match="reads 'vgg/vgg16'|no family"):
        two_stream.build(variant)


@pytest.mark.parametrize(
    "variant, fields, error, message",
    [
        ("nonsense/x", {}, ValueError, "no family 'nonsense'"),
        ("layers/x", {}, ValueError, "no family 'layers'"),
        ("vgg/vgg12", {}, ValueError, "vgg.py has the variants"),
        ("vgg/vgg11+vgg13@features.0", {}, ValueError, "only two streams of the same network"),
        ("vgg/vgg11@features.5", {}, ValueError, "no module 'features.5' to share up to; it has features.0,"),
        ("vgg/vgg11@features.3", {"remat": True}, ValueError, "remat=False"),
        ("vgg/vgg11", {"last_pol": False}, TypeError, "last_pol"),
        ("vgg/vgg11+resnet/resnet18", {"nonsense": 1}, TypeError, "nonsense"),
        (
            "vgg/vgg11+resnet/resnet18",
            {"last_pool": False},
            ValueError,
            r"\(2, 2, 2, 512\) and \(2, 1, 1, 512\)",
        ),
    ],
)
def test_mistakes_are_named(variant, fields, error, message):
    with pytest.raises(error, match=message):
        shapes_of(two_stream.build(variant, **fields))


def test_fields_go_to_the_networks_that_have_them():
    backbone = two_stream.build("vgg/vgg11+resnet/resnet18", dtype="bfloat16", dropout=0.1)
    features, variables = shapes_of(backbone)
    assert backbone.first.dropout == 0.1 and backbone.second.dtype == "bfloat16"
    assert features.map.dtype == jnp.bfloat16 and features.map.shape == (2, 1, 1, 1024)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
