"""LeNet-5 in its forms against the counts, and the original's connections and formulas."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.layers import heads
from imgcls_jax.models import lenet

CASES = [
    ("lenet5", (28, 28, 1), 10, 61_706),
    ("lenet5", (28, 28, 1), 1000, 145_856),
    ("lenet5_cifar", (32, 32, 3), 10, 62_006),
    ("lenet_caffe", (28, 28, 1), 10, 431_080),
    ("lenet_caffe", (28, 28, 1), 1000, 927_070),
    ("lenet5_original", (32, 32, 1), None, 60_000),
]
MAPS = {
    "lenet5": ((5, 5, 16), 84),
    "lenet5_cifar": ((5, 5, 16), 84),
    "lenet_caffe": ((4, 4, 50), 500),
    "lenet5_original": ((5, 5, 16), 84),
}


def traced(backbone, shape):
    image = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    return jax.eval_shape(lambda x: backbone.init_with_output(jax.random.key(0), x, train=False), image)


def count(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def init(module, x, **options):
    return jax.jit(functools.partial(module.init, **options))(jax.random.key(0), x)


@pytest.mark.parametrize("variant, shape, num_classes, params", CASES)
def test_parameter_count_and_sizes(variant, shape, num_classes, params):
    features, variables = traced(lenet.build(variant), shape)
    assert (features.map.shape[1:], features.embedding.shape[1]) == MAPS[variant]
    head = {}
    if num_classes is not None:
        head = jax.eval_shape(
            lambda x: heads.Linear(num_classes).init(jax.random.key(0), x, train=False), features.embedding
        )
    assert count((variables["params"], head)) == params


def test_counts_of_the_original_layer_by_layer():
    features, variables = traced(lenet.build("lenet5_original"), (32, 32, 1))
    counts = {name: count(layer) for name, layer in variables["params"].items()}
    assert counts == {"C1": 156, "S2": 12, "C3": 1516, "S4": 32, "C5": 48120, "F6": 10164}
    assert traced(lenet.build("lenet5_original", margin=2), (28, 28, 1)) == (features, variables)


def test_the_table_of_c3():
    assert [len(sources) for sources in lenet.C3_INPUTS] == [3] * 6 + [4] * 9 + [6]
    assert len(set(lenet.C3_INPUTS)) == 16
    readers = [sum(source in sources for sources in lenet.C3_INPUTS) for source in range(6)]
    assert readers == [10] * 6
    assert lenet.C3_INPUTS[5] == (0, 1, 5) and lenet.C3_INPUTS[9] == (0, 3, 4, 5)


def test_c3_is_connected_as_the_table_says():
    c3, x = lenet.TableConvolution(), jax.random.normal(jax.random.key(1), (5, 5, 6))
    variables = init(c3, x[None])
    jacobian = jax.jit(jax.jacobian(lambda x: c3.apply(variables, x[None])[0, 0, 0]))(x)  # [16, 5, 5, 6]
    reached = np.abs(jacobian).max((1, 2)) > 0
    expected = [[source in sources for source in range(6)] for sources in lenet.C3_INPUTS]
    np.testing.assert_array_equal(reached, expected)
    # The jacobian of a convolution at one position is its kernel, the links in the order of the table.
    kernel = variables["params"]["kernel"]
    np.testing.assert_allclose(jacobian[1, :, :, 1:4], kernel[:, :, 3:6], rtol=1e-5)
    assert np.abs(kernel[:, :, :18]).max() <= 2.4 / 75 and np.abs(kernel[:, :, -6:]).max() <= 2.4 / 150
    assert np.abs(kernel[:, :, :18]).max() > 2.4 / 100


def test_subsampling_by_hand():
    x = jnp.array([[1.0, 2.0, 9.0], [3.0, 4.0, 9.0]])[None, :, :, None]
    variables = {"params": {"scale": jnp.array([0.5]), "bias": jnp.array([-1.0])}}
    np.testing.assert_allclose(lenet.Subsampling().apply(variables, x), [[[[4.0]]]])


def test_squash():
    np.testing.assert_allclose(lenet.squash(jnp.array([-1.0, 0.0, 1.0, 50.0])), [-1, 0, 1, 1.7159], atol=1e-4)


def test_every_layer_of_the_original_is_squashed():
    backbone = lenet.build("lenet5_original")
    image = jax.random.normal(jax.random.key(1), (2, 32, 32, 1))
    variables = init(backbone, image, train=False)
    apply = jax.jit(functools.partial(backbone.apply, train=False, capture_intermediates=True))
    features, state = apply(variables, image)
    before = {name: state["intermediates"][name]["__call__"][0] for name in variables["params"]}
    params = variables["params"]
    for name, source in {"C5": "S4", "F6": "C5"}.items():
        x = lenet.squash(before[source]).reshape(2, -1)
        expected = x @ params[name]["kernel"].reshape(x.shape[1], -1) + params[name]["bias"]
        np.testing.assert_allclose(before[name].reshape(2, -1), expected, rtol=1e-4, atol=1e-5)
    for name, source in {"S2": "C1", "S4": "C3"}.items():
        expected = lenet.Subsampling().apply({"params": params[name]}, lenet.squash(before[source]))
        np.testing.assert_allclose(before[name], expected, rtol=1e-4, atol=1e-5)
    expected = lenet.TableConvolution().apply({"params": params["C3"]}, lenet.squash(before["S2"]))
    np.testing.assert_allclose(before["C3"], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(features.map, lenet.squash(before["S4"]), rtol=1e-6)
    np.testing.assert_allclose(features.embedding, lenet.squash(before["F6"]), rtol=1e-6)
    bound = 2.4 / 120
    assert bound * 0.95 < jnp.abs(params["F6"]["kernel"]).max() <= bound


def test_caffe_has_a_relu_after_fc1_alone():
    backbone = lenet.build("lenet_caffe", channels=(2, 3), hidden=(20,))
    image = jax.random.normal(jax.random.key(1), (2, 16, 16, 1))
    variables = init(backbone, image, train=False)
    variables["params"]["conv2"]["bias"] -= 100.0
    features = jax.jit(functools.partial(backbone.apply, train=False))(variables, image)
    assert features.map.max() < 0 and features.embedding.min() == 0


@pytest.mark.parametrize("variant", lenet.VARIANTS)
def test_bfloat16_keeps_params_whole(variant):
    features, variables = traced(lenet.build(variant, dtype=jnp.bfloat16), (32, 32, 1))
    assert features.embedding.dtype == features.map.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}


def test_names_for_torch():
    assert lenet.torch_head("lenet5") == "fc3" and lenet.torch_head("lenet_caffe") == "fc2"
    assert lenet.torch_flatten("lenet5") == {"fc1": (5, 5)} and lenet.torch_flatten("lenet5_original") == {}


def test_images_too_small():
    with pytest.raises(ValueError, match="margin=2"):
        traced(lenet.build("lenet5_original"), (28, 28, 1))
    with pytest.raises(ValueError, match="nothing left"):
        traced(lenet.build("lenet5"), (8, 8, 1))


def test_unknown_variant():
    for function in (lenet.build, lenet.torch_head, lenet.torch_flatten):
        with pytest.raises(ValueError, match="lenet5_cifar"):
            function("lenet4")
