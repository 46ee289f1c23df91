"""Inception v3 against the published counts and sizes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.layers import heads
from imgcls_jax.models import inception_v3

BASE, AUX = 23_834_568, 27_161_264


@functools.cache
def shapes_of(backbone, size=299):
    image = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    return jax.eval_shape(lambda x: backbone.init(jax.random.key(0), x, train=False), image)


def size_of(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def head_size(width):
    init = lambda x: heads.Linear(1000).init(jax.random.key(0), x, train=False)  # noqa: E731
    return size_of(jax.eval_shape(init, jnp.zeros((1, width))))


def outputs(backbone, size=299, **options):
    """Shapes of the features and of the intermediates."""
    image = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    apply = lambda variables, x: backbone.apply(variables, x, **options)  # noqa: E731
    return jax.eval_shape(apply, shapes_of(backbone, size), image)


def test_parameter_count():
    assert size_of(shapes_of(inception_v3.build())["params"]) + head_size(2048) == BASE
    with_aux = size_of(shapes_of(inception_v3.build(aux=True))["params"])
    assert with_aux + head_size(2048) + head_size(768) == AUX


def test_sizes_of_the_maps():
    features, state = outputs(inception_v3.build(), train=False, capture_intermediates=True)
    calls = state["intermediates"]
    maps = {name: calls[name]["__call__"][0].shape for name in calls if name.startswith(("Conv", "Mixed"))}
    stem = {
        "1a_3x3": (149, 32),
        "2a_3x3": (147, 32),
        "2b_3x3": (147, 64),
        "3b_1x1": (73, 80),
        "4a_3x3": (71, 192),
    }
    mixed = {
        "5b": (35, 256),
        "5c": (35, 288),
        "5d": (35, 288),
        "7a": (8, 1280),
        "7b": (8, 2048),
        "7c": (8, 2048),
    }
    mixed |= {name: (17, 768) for name in ("6a", "6b", "6c", "6d", "6e")}
    expected = {f"Conv2d_{name}": value for name, value in stem.items()}
    expected |= {f"Mixed_{name}": value for name, value in mixed.items()}
    assert {name: shape[2:] for name, shape in maps.items()} == expected
    assert features.map.shape == (2, 8, 8, 2048) and features.embedding.shape == (2, 2048)
    assert outputs(inception_v3.build(), size=75, train=False).map.shape == (2, 1, 1, 2048)


def test_the_auxiliary_trunk_runs_in_training_only():
    backbone = inception_v3.build(aux=True)
    assert outputs(backbone, train=False).aux == ()
    features, _ = outputs(backbone, train=True, mutable=["batch_stats"])
    assert [side.shape for side in features.aux] == [(2, 768)]
    plain, _ = outputs(inception_v3.build(), train=True, mutable=["batch_stats"])
    assert plain.aux == ()
    assert len(inception_v3.torch_aux_heads()) == 1 and backbone.aux_weight == 0.4
    with pytest.raises(ValueError, match="17x17"):
        shapes_of(backbone, size=224)


def test_one_sided_kernels_are_height_by_width():
    params = shapes_of(inception_v3.build())["params"]
    block = params["Mixed_6b"]
    shapes = {name: layer["conv"]["kernel"].shape for name, layer in block.items()}
    assert shapes["branch7x7_2"] == (1, 7, 128, 128) and shapes["branch7x7_3"] == (7, 1, 128, 192)
    assert [shapes[f"branch7x7dbl_{n}"][:2] for n in (2, 3, 4, 5)] == [(7, 1), (1, 7), (7, 1), (1, 7)]
    assert not any("bias" in layer["conv"] for layer in block.values())


def test_average_pool_counts_the_padding():
    pooled = inception_v3._average_pool(jnp.ones((1, 3, 3, 1)))[0, :, :, 0]
    np.testing.assert_allclose(pooled, np.array([[4, 6, 4], [6, 9, 6], [4, 6, 4]]) / 9, rtol=1e-6)


def test_norm_epsilon():
    norm = inception_v3.build().norm(use_running_average=True)
    assert norm.epsilon == 1e-3 and norm.momentum == 0.9


def test_half_precision_and_remat_keep_the_params():
    plain = shapes_of(inception_v3.build(aux=True))
    half = inception_v3.build(aux=True, dtype="bfloat16")
    assert shapes_of(half) == plain == shapes_of(inception_v3.build(aux=True, remat=True))
    assert {leaf.dtype for leaf in jax.tree.leaves(plain)} == {jnp.dtype(jnp.float32)}
    assert outputs(half, train=False).embedding.dtype == jnp.bfloat16


def test_unknown_variant():
    for function in (inception_v3.build, inception_v3.torch_head, inception_v3.torch_aux_heads):
        with pytest.raises(ValueError, match="inception_v3"):
            function("inception_v4")
