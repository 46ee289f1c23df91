"""CIFAR residual networks: counts, sizes, the shortcut without parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.layers import heads
from imgcls_jax.models import cifar_resnet

KEY = jax.random.key(0)
COUNTS = {
    "resnet20": 269_722,
    "resnet32": 464_154,
    "resnet44": 658_586,
    "resnet56": 853_018,
    "resnet110": 1_727_962,
}


def shapes(backbone, size=32):
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    return jax.eval_shape(lambda x: backbone.init_with_output(KEY, x, train=False), image)


def params_of(backbone, num_classes):
    features, variables = shapes(backbone)
    head = heads.Linear(num_classes)
    head_params = jax.eval_shape(lambda x: head.init(KEY, x, train=False), features.embedding)["params"]
    return sum(leaf.size for leaf in jax.tree.leaves((variables["params"], head_params)))


@pytest.mark.parametrize("variant, params", COUNTS.items(), ids=COUNTS)
def test_parameter_count(variant, params):
    assert params_of(cifar_resnet.build(variant), 10) == params


def test_parameter_count_at_1000_classes():
    assert params_of(cifar_resnet.build("resnet20"), 1000) == 334_072


def test_sizes_and_names():
    features, variables = shapes(cifar_resnet.build("resnet20"))
    assert features.map.shape == (1, 8, 8, 64) and features.embedding.shape == (1, 64) and features.aux == ()
    assert shapes(cifar_resnet.build("resnet20"), 29)[0].map.shape == (1, 8, 8, 64)
    blocks = {f"layer{stage}.{i}" for stage in (1, 2, 3) for i in range(3)}
    assert set(variables["params"]) == {"conv1", "bn1"} | blocks
    assert all(set(variables["params"][block]) == {"conv1", "bn1", "conv2", "bn2"} for block in blocks)
    assert cifar_resnet.torch_head("resnet20") == "linear"


def test_option_a():
    x = jax.random.normal(KEY, (2, 5, 6, 16))
    y = np.asarray(cifar_resnet.option_a(x, 32, 2))
    assert y.shape == (2, 3, 3, 32)
    np.testing.assert_array_equal(y[..., 8:24], x[:, ::2, ::2])
    assert not y[..., :8].any() and not y[..., 24:].any()
    np.testing.assert_array_equal(cifar_resnet.option_a(x, 16, 1), x)


def test_bfloat16_and_remat_keep_the_params():
    plain = shapes(cifar_resnet.build("resnet20"))
    half = shapes(cifar_resnet.build("resnet20", dtype=jnp.bfloat16))
    again = shapes(cifar_resnet.build("resnet20", remat=True))
    assert half[0].embedding.dtype == jnp.bfloat16
    assert plain[1] == half[1] == again[1]


def test_unknown_variant():
    with pytest.raises(ValueError, match="resnet110"):
        cifar_resnet.build("resnet18")
