"""VGG against the paper's counts, the sizes of its maps and its dense form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.layers import heads
from imgcls_jax.models import vgg

PARAMS = {
    "vgg11": 132_863_336,
    "A-LRN": 132_863_336,
    "vgg13": 133_047_848,
    "C": 133_638_952,
    "vgg16": 138_357_544,
    "vgg19": 143_667_240,
    "vgg11_bn": 132_868_840,
    "vgg13_bn": 133_053_736,
    "C_bn": 133_647_400,
    "vgg16_bn": 138_365_992,
    "vgg19_bn": 143_678_248,
}
FEATURE_PARAMS = {"A": 9_220_480, "B": 9_404_992, "C": 9_996_096, "D": 14_714_688, "E": 20_024_384}
CONVOLUTIONS = {
    "A": (0, 3, 6, 8, 11, 13, 16, 18),
    "A-LRN": (0, 3, 6, 8, 11, 13, 16, 18),
    "B": (0, 2, 5, 7, 10, 12, 15, 17, 20, 22),
    "D": (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
    "E": (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34),
    "A_bn": (0, 4, 8, 11, 15, 18, 22, 25),
    "B_bn": (0, 3, 7, 10, 14, 17, 21, 24, 28, 31),
    "D_bn": (0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40),
    "E_bn": (0, 3, 7, 10, 14, 17, 20, 23, 27, 30, 33, 36, 40, 43, 46, 49),
}
ALIASES = {"A": "vgg11", "B": "vgg13", "D": "vgg16", "E": "vgg19"}
# Two blocks, at a size a test can afford: a quarter of the image's size at fc6.
small = functools.partial(vgg.build, blocks=((3,), (3, 3)), channels=(64, 3), hidden=(8, 7))


def traced(backbone, size=224):
    image = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    return jax.eval_shape(lambda x: backbone.init_with_output(jax.random.key(0), x, train=False), image)


def init(backbone, image):
    return jax.jit(functools.partial(backbone.init, train=False))(jax.random.key(0), image)


def embed(backbone, variables, image):
    return jax.jit(functools.partial(backbone.apply, train=False))(variables, image).embedding


def count(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("variant", PARAMS)
def test_parameter_count_and_sizes(variant):
    features, variables = traced(vgg.build(variant))
    assert features.map.shape == (2, 7, 7, 512) and features.embedding.shape == (2, 4096)
    head = jax.eval_shape(
        lambda x: heads.Linear(1000).init(jax.random.key(0), x, train=False), features.embedding
    )
    assert count(variables["params"]) + count(head["params"]) == PARAMS[variant]


@pytest.mark.parametrize("variant", FEATURE_PARAMS)
def test_the_trunk_alone(variant):
    features, variables = traced(vgg.build(variant, top=False, last_pool=False))
    assert features.map.shape == (2, 14, 14, 512) and features.embedding.shape == (2, 512)
    assert count(variables["params"]) == FEATURE_PARAMS[variant]


@pytest.mark.parametrize("variant", CONVOLUTIONS)
def test_names_of_the_layers(variant):
    variables = traced(vgg.build(variant, top=False), 32)[1]
    number = {int(name.removeprefix("features.")): layer for name, layer in variables["params"].items()}
    assert tuple(sorted(n for n, layer in number.items() if "kernel" in layer)) == CONVOLUTIONS[variant]
    assert all("bias" in layer for layer in number.values())
    if variant.endswith("_bn"):
        assert {n for n, layer in number.items() if "scale" in layer} == {
            n + 1 for n in CONVOLUTIONS[variant]
        }
        assert len(variables["batch_stats"]) == len(CONVOLUTIONS[variant])


def test_letters_are_aliases():
    for letter, name in ALIASES.items():
        assert vgg.build(letter) == vgg.build(name) and vgg.build(f"{letter}_bn") == vgg.build(f"{name}_bn")
    assert vgg.torch_head("C") == "classifier.6" and vgg.torch_flatten("A") == {"classifier.0": (7, 7)}


def test_response_norm_changes_the_features_alone():
    image = jax.random.normal(jax.random.key(1), (1, 8, 8, 3))
    plain, normed = small("A", top=False), small("A-LRN", top=False)
    variables = init(plain, image)
    expected = embed(plain, variables, image)
    assert not np.allclose(embed(normed, variables, image), expected)


def test_dense_form_is_the_average_over_windows():
    backbone, dense = small("A"), small("A", dense=True)
    image = jax.random.normal(jax.random.key(1), (1, 28, 32, 3))
    crop = image[:, :, :28]
    variables = init(backbone, crop)
    np.testing.assert_allclose(
        embed(dense, variables, crop), embed(backbone, variables, crop), rtol=1e-5, atol=1e-7
    )
    # The map is 7 x 8: two positions.
    features = jax.jit(functools.partial(dense.apply, train=False))(variables, image)
    layers = [variables["params"][f"classifier.{number}"] for number in (0, 3)]

    def fully_connected(window):
        x = window.reshape(1, -1)
        for layer in layers:
            x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
        return x

    expected = (fully_connected(features.map[:, :, :7]) + fully_connected(features.map[:, :, 1:])) / 2
    np.testing.assert_allclose(features.embedding, expected, rtol=1e-5, atol=1e-7)
    with pytest.raises(ValueError, match="at least 224x224"):
        traced(dense, 27)


def test_remat_and_dropout():
    image = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    plain, remat = small("A_bn"), small("A_bn", remat=True)
    variables = init(plain, image)
    again = jax.eval_shape(lambda: remat.init(jax.random.key(0), image, train=False))
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, again)

    @functools.partial(jax.jit, static_argnums=0)
    def loss_and_gradient(backbone, params, rng):
        def loss(params):
            features, moved = backbone.apply(
                {**variables, "params": params},
                image,
                train=True,
                rngs={"dropout": rng},
                mutable="batch_stats",
            )
            return (features.embedding**2).sum(), moved

        return jax.value_and_grad(loss, has_aux=True)(params)

    expected = loss_and_gradient(plain, variables["params"], jax.random.key(2))
    result = loss_and_gradient(remat, variables["params"], jax.random.key(2))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), result, expected)
    assert loss_and_gradient(plain, variables["params"], jax.random.key(3))[0][0] != expected[0][0]


def test_bfloat16_keeps_params_whole():
    features, variables = traced(vgg.build("A-LRN", dtype=jnp.bfloat16))
    assert features.embedding.dtype == features.map.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}


def test_initial_weights():
    variables = init(small("A"), jnp.zeros((1, 8, 8, 3)))
    first, fc6 = variables["params"]["features.0"], variables["params"]["classifier.0"]
    np.testing.assert_allclose(first["kernel"].std(), (2 / (9 * 64)) ** 0.5, rtol=0.05)
    np.testing.assert_allclose(fc6["kernel"].std(), 0.01, rtol=0.05)
    assert not first["bias"].any() and not fc6["bias"].any()


def test_images_too_small():
    assert traced(vgg.build("A"), 32)[0].map.shape == (2, 1, 1, 512)
    with pytest.raises(ValueError, match="at least 32x32"):
        traced(vgg.build("A"), 31)


def test_unknown_variant():
    with pytest.raises(ValueError, match="vgg16_bn"):
        vgg.build("A-LRN_bn")
    with pytest.raises(ValueError, match="variants"):
        vgg.torch_head("vgg17")
