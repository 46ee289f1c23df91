"""GoogLeNet, both forms, against the published counts and sizes."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.layers import heads
from imgcls_jax.layers.pooling import ceil_max_pool
from imgcls_jax.models import googlenet

# Parameters at 1000 classes without and with the auxiliary classifiers.
COUNTS = {"googlenet": (6_624_904, 13_004_888), "googlenet_original": (6_998_552, 13_378_280)}
CHANNELS = {
    "3a": 256,
    "3b": 480,
    "4a": 512,
    "4b": 512,
    "4c": 512,
    "4d": 528,
    "4e": 832,
    "5a": 832,
    "5b": 1024,
}


@functools.cache
def shapes_of(backbone, size=224):
    image = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    return jax.eval_shape(lambda x: backbone.init(jax.random.key(0), x, train=False), image)


def size_of(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def outputs(backbone, size=224, **options):
    """Shapes of the features and of what mutable collections hold."""
    image = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    rngs = {"dropout": jax.random.key(1)}
    apply = lambda variables, x: backbone.apply(variables, x, rngs=rngs, **options)  # noqa: E731
    return jax.eval_shape(apply, shapes_of(backbone, size), image)


@pytest.mark.parametrize("variant", COUNTS)
def test_parameter_count(variant):
    init = lambda x: heads.Linear(1000).init(jax.random.key(0), x, train=False)  # noqa: E731
    head = size_of(jax.eval_shape(init, jnp.zeros((1, 1024))))
    plain, with_aux = (
        size_of(shapes_of(googlenet.build(variant, aux=aux))["params"]) for aux in (False, True)
    )
    assert (plain + head, with_aux + 3 * head) == COUNTS[variant]


def test_sizes_of_the_maps():
    features, state = outputs(googlenet.build("googlenet"), train=False, capture_intermediates=True)
    calls = state["intermediates"]
    maps = {name: calls[f"inception{name}"]["__call__"][0].shape[1:] for name in CHANNELS}
    sides = {"3": 28, "4": 14, "5": 7}
    assert maps == {name: (sides[name[0]], sides[name[0]], width) for name, width in CHANNELS.items()}
    assert features.map.shape == (2, 7, 7, 1024) and features.embedding.shape == (2, 1024)
    assert outputs(googlenet.build("googlenet_original"), train=False).map.shape == (2, 7, 7, 1024)


@pytest.mark.parametrize(
    "side, window, halved", [(112, 3, 56), (55, 3, 27), (30, 3, 15), (14, 2, 7), (13, 2, 7)]
)
def test_pools_round_up(side, window, halved):
    x = -1.0 - jnp.arange(side * side, dtype=jnp.float32).reshape(1, side, side, 1)
    pooled = ceil_max_pool(x, window)
    assert pooled.shape == (1, halved, halved, 1)
    np.testing.assert_array_equal(
        pooled, x[:, : 2 * halved : 2, : 2 * halved : 2]
    )  # falls, so the first wins


@pytest.mark.parametrize("variant", COUNTS)
def test_the_auxiliary_trunks_run_in_training_only(variant):
    backbone = googlenet.build(variant, aux=True)
    assert outputs(backbone, train=False).aux == ()
    features, _ = outputs(backbone, train=True, mutable=["batch_stats"])
    assert [side.shape for side in features.aux] == [(2, 1024)] * 2
    assert googlenet.torch_aux_heads(variant) == ("aux1.fc2", "aux2.fc2") and backbone.aux_weight == 0.3
    params = shapes_of(backbone)["params"]
    for layer, (height, width) in googlenet.torch_flatten(variant).items():
        block, name = layer.split(".")
        assert params[block][name]["kernel"].shape == (height * width * 128, 1024)


def test_the_original_auxiliary_trunks_want_a_map_of_five():
    with pytest.raises(ValueError, match="5x5"):
        shapes_of(googlenet.build("googlenet_original", aux=True), size=78)
    assert shapes_of(googlenet.build("googlenet_original", aux=True), size=79)


def test_the_first_auxiliary_output_depends_on_nothing_after_4a():
    backbone = googlenet.build("googlenet", aux=True, aux_dropout=0.0)
    variables, image = shapes_of(backbone, size=32), jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    apply = lambda variables, x: backbone.apply(variables, x, train=True, mutable=["batch_stats"])[0]  # noqa: E731
    first_aux = jax.jit(lambda variables, x: apply(variables, x).aux[0])
    # Lowering drops the arguments that the output does not depend on.
    signature = re.search(r"func public @main\((.*)\) ->", first_aux.lower(variables, image).as_text()).group(
        1
    )
    modules = ("conv1", "conv2", "conv3", "inception3a", "inception3b", "inception4a", "aux1")
    read = [variables["params"][name] for name in modules]
    assert signature.count("%arg") == len(jax.tree.leaves(read)) + 1


def test_the_two_forms():
    modern, original = (shapes_of(googlenet.build(variant))["params"] for variant in COUNTS)
    assert modern["inception3a"]["branch3.1"]["conv"]["kernel"].shape == (3, 3, 16, 32)
    assert original["inception3a"]["branch3.1"]["conv"]["kernel"].shape == (5, 5, 16, 32)
    assert set(modern["conv1"]) == {"conv", "bn"} and set(modern["conv1"]["conv"]) == {"kernel"}
    assert set(original["conv1"]) == {"conv"} and set(original["conv1"]["conv"]) == {"kernel", "bias"}


def test_half_precision_and_remat_keep_the_params():
    plain = shapes_of(googlenet.build("googlenet", aux=True))
    half = googlenet.build("googlenet", aux=True, dtype="bfloat16")
    assert shapes_of(half) == plain == shapes_of(googlenet.build("googlenet", aux=True, remat=True))
    assert {leaf.dtype for leaf in jax.tree.leaves(plain)} == {jnp.dtype(jnp.float32)}
    assert outputs(half, train=False).embedding.dtype == jnp.bfloat16
    assert (
        outputs(googlenet.build("googlenet_original", dtype="bfloat16"), train=False).map.dtype
        == jnp.bfloat16
    )


def test_unknown_variant():
    for function in (
        googlenet.build,
        googlenet.torch_head,
        googlenet.torch_aux_heads,
        googlenet.torch_flatten,
    ):
        with pytest.raises(ValueError, match="googlenet, googlenet_original"):
            function("googlenet_v2")
