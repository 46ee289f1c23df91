"""AlexNet against the counts, the sizes of its maps, its groups and the order of its layers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.layers import heads
from imgcls_jax.models import alexnet

CASES = [
    ("alexnet", {}, 224, 61_100_840),
    ("alexnet_original", {}, 227, 60_965_224),
    ("alexnet_original", {"groups": (1,) * 5}, 227, 62_378_344),
    ("alexnet_caffe", {}, 227, 60_965_224),
    ("caffenet", {}, 227, 60_965_224),
]
small = functools.partial(
    alexnet.build, "alexnet_original", channels=(4, 8, 6, 6, 4), hidden=(8, 7), initial_bias=None
)


def traced(backbone, size, **options):
    image = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    init = functools.partial(backbone.init_with_output, train=False, **options)
    return jax.eval_shape(lambda x: init(jax.random.key(0), x), image)


def count(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def outputs(backbone):
    """Returns variables, and a function from them to what every convolution puts out."""
    image = jax.random.normal(jax.random.key(1), (1, 67, 67, 3))
    variables = jax.jit(functools.partial(backbone.init, train=False))(jax.random.key(0), image)
    apply = functools.partial(backbone.apply, train=False, capture_intermediates=True)

    @jax.jit
    def run(variables):
        features, state = apply(variables, image)
        layers = state["intermediates"]
        convs = [layers[f"features.{n}"]["__call__"][0] for n in alexnet.LAYER_NUMBERS]
        return features, convs

    return variables, run


@pytest.mark.parametrize("variant, fields, size, params", CASES)
def test_parameter_count_and_sizes(variant, fields, size, params):
    backbone = alexnet.build(variant, **fields)
    features, variables = traced(backbone, size, capture_intermediates=True)
    layers = variables["intermediates"]
    sides = [layers[f"features.{n}"]["__call__"][0].shape[1] for n in alexnet.LAYER_NUMBERS]
    assert sides == [55, 27, 13, 13, 13]
    assert features.map.shape == (2, 6, 6, 256) and features.embedding.shape == (2, 4096)
    head = jax.eval_shape(
        lambda x: heads.Linear(1000).init(jax.random.key(0), x, train=False), features.embedding
    )
    assert count(variables["params"]) + count(head["params"]) == params


def test_another_size_keeps_the_params():
    for variant in alexnet.VARIANTS:
        backbone = alexnet.build(variant)
        assert traced(backbone, 95)[1] == traced(backbone, 227)[1]
        assert alexnet.torch_head(variant) == "classifier.6"
        assert alexnet.torch_flatten(variant) == {"classifier.1": (6, 6)}


def test_groups_of_conv4_and_the_mixing_of_conv3():
    variables, run = outputs(small())
    params = variables["params"]
    conv2, conv3 = params["features.3"], params["features.6"]
    expected = run(variables)[1]
    # An output of conv3's second half reaches the second group of conv4 alone.
    moved = {**conv3, "bias": conv3["bias"].at[5].add(10.0)}
    result = run({"params": {**params, "features.6": moved}})[1]
    np.testing.assert_array_equal(result[3][..., :3], expected[3][..., :3])
    assert (result[3] != expected[3])[..., 3:].any((0, 1, 2)).all()
    # One of conv2's reaches every channel of conv3.
    moved = {**conv2, "bias": conv2["bias"].at[7].add(10.0)}
    result = run({"params": {**params, "features.3": moved}})[1]
    assert (result[2] != expected[2]).any((0, 1, 2)).all()


@pytest.mark.parametrize("norm_after_pool", [False, True])
def test_order_of_norm_and_pool(norm_after_pool):
    # This norm does not commute with max-pooling, so conv2 shows which came first.
    norm = lambda x: x - 2 * x.mean(-1, keepdims=True)  # noqa: E731
    variables, run = outputs(small(response_norm=norm, norm_after_pool=norm_after_pool, groups=(1,) * 5))
    _, convs = run(variables)
    x, pool = jax.nn.relu(convs[0]), alexnet._max_pool
    x = norm(pool(x)) if norm_after_pool else pool(norm(x))
    layer = variables["params"]["features.3"]
    conv2 = jax.lax.conv_general_dilated(
        x, layer["kernel"], (1, 1), ((2, 2), (2, 2)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(convs[1], conv2 + layer["bias"], rtol=1e-4, atol=1e-5)


def test_settings_of_the_variants():
    original, caffe, torch = (alexnet.build(v) for v in ("alexnet_original", "caffenet", "alexnet"))
    assert original.response_norm.keywords == {"size": 5, "alpha": 5e-4, "beta": 0.75, "k": 2.0}
    assert caffe.response_norm.keywords == {"size": 5, "alpha": 1e-4, "beta": 0.75, "k": 1.0}
    zoo = alexnet.build("alexnet_caffe")
    assert zoo.response_norm is caffe.response_norm and not zoo.norm_after_pool
    assert (original.norm_after_pool, caffe.norm_after_pool, torch.response_norm) == (False, True, None)


def test_initial_weights():
    variables = outputs(small(initial_bias=0.1))[0]["params"]
    assert [float(variables[f"features.{n}"]["bias"][0]) for n in alexnet.LAYER_NUMBERS] == pytest.approx(
        [0, 0.1, 0, 0.1, 0.1]
    )
    np.testing.assert_allclose(variables["features.0"]["kernel"].std(), 0.01, rtol=0.1)
    np.testing.assert_allclose(variables["classifier.1"]["kernel"].std(), 0.005, rtol=0.1)
    assert (variables["classifier.4"]["bias"] == jnp.float32(0.1)).all()


@pytest.mark.parametrize("before_fc6", [False, True])
def test_dropout_is_where_the_variant_puts_it(before_fc6):
    # Dropping all shows the place: fc6 then sees zeros, or is seen as zeros.
    backbone = small(dropout=1.0, dropout_before_fc6=before_fc6)
    image = jnp.ones((1, 67, 67, 3))
    variables = outputs(backbone)[0]
    _, state = backbone.apply(
        variables,
        image,
        train=True,
        rngs={"dropout": jax.random.key(0)},
        capture_intermediates=True,
    )
    params, layers = variables["params"], state["intermediates"]
    fc6, fc7 = (layers[name]["__call__"][0][0] for name in ("classifier.1", "classifier.4"))
    assert np.array_equal(fc6, params["classifier.1"]["bias"]) == before_fc6
    np.testing.assert_array_equal(fc7, params["classifier.4"]["bias"])


@pytest.mark.parametrize("variant", ["alexnet", "caffenet"])
def test_bfloat16_keeps_params_whole(variant):
    features, variables = traced(alexnet.build(variant, dtype=jnp.bfloat16), 227)
    assert features.embedding.dtype == features.map.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}


def test_images_too_small():
    for variant, size in (("alexnet", 63), ("alexnet_original", 67)):
        assert traced(alexnet.build(variant), size)[0].map.shape == (2, 1, 1, 256)
        with pytest.raises(ValueError, match="at least"):
            traced(alexnet.build(variant), size - 1)


def test_unknown_variant():
    for function in (alexnet.build, alexnet.torch_head, alexnet.torch_flatten):
        with pytest.raises(ValueError, match="caffenet"):
            function("alexnet_v2")
