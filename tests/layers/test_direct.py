"""oneDNN's convolutions are the native ones: values, gradients of any order, vmap."""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.layers import direct, onednn
from imgcls_jax.layers.convolution import Conv, convolution
from imgcls_jax.planning.flops import flops

at_hand = pytest.mark.skipif(not onednn.dtypes(), reason="this jaxlib or processor has no oneDNN")


@pytest.fixture(autouse=True)
def _of_any_size(monkeypatch):
    monkeypatch.setattr(direct, "WORTH", 0)
    monkeypatch.setattr(onednn, "has_avx512", lambda: True)


IN_ORDER = "[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]"
CASES = [  # image, window, strides, padding, groups, dilation
    ((9, 9), (3, 3), (1, 1), ((1, 1), (1, 1)), 1, (1, 1)),
    ((10, 7), (3, 3), (2, 2), "SAME", 1, (1, 1)),
    ((11, 12), (5, 5), (2, 2), "SAME", 2, (1, 1)),
    ((10, 7), (5, 3), (2, 2), ((0, 1), (2, 0)), 1, (1, 1)),
    ((10, 7), (1, 1), (2, 3), "VALID", 1, (1, 1)),
    ((10, 7), (1, 1), (2, 2), ((1, 0), (1, 2)), 6, (1, 1)),
    ((12, 12), (3, 3), (1, 1), "SAME", 1, (2, 2)),
    ((23, 23), (11, 11), (4, 4), ((2, 2), (2, 2)), 1, (1, 1)),
    ((8, 8), (2, 2), (3, 3), "VALID", 1, (1, 1)),
    ((9, 8), (3, 3), (1, 1), ((-1, 2), (0, -2)), 1, (1, 1)),
    ((8, 8), (3, 3), (2, 2), ((-1, 2), (0, -2)), 3, (1, 1)),
    ((4, 4), (4, 4), (1, 1), "VALID", 1, (1, 1)),
]


@at_hand
@pytest.mark.parametrize("size, window, strides, padding, groups, dilation", CASES)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
def test_values_and_gradients_are_the_native_ones(size, window, strides, padding, groups, dilation, dtype):
    ours = assert_native(size, window, strides, padding, groups, dilation, dtype)
    assert direct.TARGET in ours and "stablehlo.convolution" not in ours


@pytest.mark.parametrize("size, window, strides, padding, groups, dilation", CASES)
def test_without_onednn_axes_are_in_the_order_that_xla_gives_to_a_library_in_loops_too(
    monkeypatch, size, window, strides, padding, groups, dilation
):
    monkeypatch.setattr(onednn, "dtypes", frozenset)
    ours = assert_native(size, window, strides, padding, groups, dilation, jnp.float32)
    orders = re.findall(r"dim_numbers = (.*?), window.*?batch_group_count = 1 ", ours)
    assert orders == [IN_ORDER] * (3 if groups == 1 else 2)


@at_hand
@pytest.mark.parametrize("case", [0, 1, 2, 4, 5, 9, 11])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
def test_the_weights_gradient_of_many_images_is_a_sum_over_parts(monkeypatch, case, dtype):
    for name, value in dict(CACHED=0, PIXELS=1, FILTERS=5).items():
        monkeypatch.setattr(direct, name, value)
    whole = assert_native(*CASES[case], dtype)
    parted = assert_native(*CASES[case], dtype, batch=70)
    assert parted.count(direct.TARGET) > whole.count(direct.TARGET)


@pytest.mark.parametrize("images, kept", [(5, 0), (8, 0), (16, 1), (19, 1), (24, 1)])
def test_parts_of_a_batch_are_turned_in_one_pass(images, kept):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 5, images)), jnp.float32)
    parts = direct._laid_out(x, 8)
    expected = [x[..., first : first + 8] for first in range(0, images, 8)]
    for one, other in zip(parts, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    text = jax.jit(lambda x: direct._laid_out(x, 8)).lower(x).as_text()
    assert text.count('inlineable = "false"') == kept or jax.default_backend() != "cpu"


@at_hand
def test_maps_of_few_images_are_cut_into_strips_for_a_matrix_unit(monkeypatch):
    programs = {}
    for has_unit in (False, True):
        monkeypatch.setattr(onednn, "has_matrix_unit", lambda has_unit=has_unit: has_unit)
        programs[has_unit] = [
            [assert_native(*case, dtype, batch) for case in CASES]
            for dtype, batch in ((jnp.bfloat16, 2), (jnp.bfloat16, 5), (jnp.float32, 2))
        ]
    differ = [
        [number for number, pair in enumerate(zip(*each, strict=True)) if pair[0] != pair[1]]
        for each in zip(*programs.values(), strict=True)
    ]
    # Not where the gradient lies between zeros, as of strides and of dilated filters, or is one row.
    assert differ == [[0, 9], [], []]


def assert_native(size, window, strides, padding, groups, dilation, dtype, batch=2):
    """Compares a convolution and its gradients with the native ones, and returns its program."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(batch, *size, 6)), dtype)
    w = jnp.asarray(rng.normal(size=(*window, 6 // groups, 12)), dtype)
    options = dict(rhs_dilation=dilation, dimension_numbers=direct.NUMBERS, feature_group_count=groups)
    native = functools.partial(
        jax.lax.conv_general_dilated, window_strides=strides, padding=padding, **options
    )
    cotangent = jnp.asarray(rng.normal(size=jax.eval_shape(native, x, w).shape), dtype)

    def all_of(x, w, cotangent, convolve):
        y, pull = jax.vjp(lambda x, w: convolve(x, w, strides, padding, **options), x, w)
        return y, *pull(cotangent)

    ours = jax.jit(functools.partial(all_of, convolve=direct.convolution))
    native = jax.jit(functools.partial(all_of, convolve=jax.lax.conv_general_dilated))
    tolerance = 1e-6 if dtype == jnp.float32 else 2**-7
    for one, other in zip(ours(x, w, cotangent), native(x, w, cotangent), strict=True):
        one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
        np.testing.assert_allclose(one, other, atol=tolerance * np.abs(other).max())
    return ours.lower(x, w, cotangent).as_text()


X = jnp.asarray(np.random.default_rng(1).normal(size=(3, 2, 6, 6, 4)), jnp.float32)
W = jnp.asarray(np.random.default_rng(2).normal(size=(3, 3, 3, 4, 8)), jnp.float32)


@pytest.mark.parametrize("axes", [(0, 0), (0, None), (None, 0)])
def test_vmap(axes):
    inputs = [array if axis == 0 else array[0] for array, axis in zip((X, W), axes, strict=True)]
    found = jax.vmap(same_size(direct.convolution), axes)(*inputs)
    expected = jax.vmap(same_size(jax.lax.conv_general_dilated), axes)(*inputs)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def same_size(convolve):
    return lambda x, w: convolve(x, w, (1, 1), "SAME", dimension_numbers=direct.NUMBERS)


def test_the_gradient_has_a_gradient_forward_and_backward():
    def penalty(x, w, convolve):
        return jnp.sum(jax.grad(lambda w: jnp.sum(same_size(convolve)(x, w) ** 3))(w) ** 2)

    x, w = X[0], W[0]
    tangents = (x + 1, w + 1)
    found, expected = (
        (*jax.grad(penalty, (0, 1))(x, w, form), *jax.jvp(same_size(form), (x, w), tangents))
        for form in (direct.convolution, jax.lax.conv_general_dilated)
    )
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5 * float(jnp.abs(other).max()))


@at_hand
def test_where_it_is_used():
    """In a program of one CPU device, or each device's own part; not elsewhere, nor in what is exported."""
    x, w = X[0], W[0]
    ours = same_size(direct.convolution)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])
    rows, whole = jax.sharding.PartitionSpec("data"), jax.sharding.PartitionSpec()
    shared = jax.device_put(x, jax.sharding.NamedSharding(mesh, rows))
    parts = jax.shard_map(ours, mesh=mesh, in_specs=(rows, whole), out_specs=rows)
    np.testing.assert_allclose(jax.jit(parts)(shared, w), ours(x, w), atol=1e-5)
    assert direct.TARGET in jax.jit(ours).lower(x, w).as_text()
    assert direct.TARGET in jax.jit(parts).lower(shared, w).as_text()
    assert (
        direct.TARGET
        not in jax.jit(ours)
        .lower(shared, jax.device_put(w, jax.sharding.NamedSharding(mesh, whole)))
        .as_text()
    )
    assert direct.TARGET not in jax.jit(ours).trace(x, w).lower(lowering_platforms=("cuda",)).as_text()
    assert direct.TARGET not in jax.export.export(jax.jit(ours))(x, w).mlir_module()
    assert direct.TARGET not in jax.jit(ours).lower(x.astype(jnp.float16), w.astype(jnp.float16)).as_text()


@at_hand
def test_small_convolutions_stay_xlas_own(monkeypatch):
    """A program that calls oneDNN is compiled anew at each start."""
    monkeypatch.setattr(direct, "WORTH", 2.5e8)
    large = jax.jit(same_size(direct.convolution)).lower(jnp.ones((64, 32, 32, 32)), jnp.ones((3, 3, 32, 32)))
    small = jax.jit(same_size(direct.convolution)).lower(X[0], W[0])
    assert direct.TARGET in large.as_text() and direct.TARGET not in small.as_text()


@at_hand
def test_weights_gradients_are_xlas_own_without_avx512(monkeypatch):
    monkeypatch.setattr(onednn, "has_avx512", lambda: False)

    def lowered(axis):
        gradient = jax.grad(lambda x, w: jnp.sum(same_size(direct.convolution)(x, w) ** 2), axis)
        return jax.jit(gradient).lower(X[0], W[0]).as_text()

    assert "stablehlo.convolution" not in lowered(0)
    assert lowered(1).count("stablehlo.convolution") == 1 and direct.TARGET in lowered(1)


@at_hand
@pytest.mark.parametrize("instructions, dtype", [({"avx2"}, "f32"), ({"avx2", "avx512_bf16"}, "bf16")])
def test_bfloat16_is_computed_in_float32_without_instructions_for_it(monkeypatch, instructions, dtype):
    monkeypatch.setattr(onednn, "instructions", lambda: frozenset(instructions))
    narrow = X[0].astype(jnp.bfloat16), W[0].astype(jnp.bfloat16)
    lines = jax.jit(same_size(direct.convolution)).lower(*narrow).as_text().splitlines()
    (call,) = (line for line in lines if direct.TARGET in line)
    assert call.endswith(f"x{dtype}>") and f"x{dtype}>," in call


def test_its_flops_are_the_native_ones():
    def gradient(convolve):
        return jax.make_jaxpr(jax.grad(lambda x, w: jnp.sum(same_size(convolve)(x, w)), (0, 1)))(X[0], W[0])

    assert (
        flops(gradient(direct.convolution), "cpu") == flops(gradient(jax.lax.conv_general_dilated), "cpu") > 0
    )


@pytest.mark.parametrize(
    "fields",
    [
        dict(kernel_size=(3, 3)),
        dict(kernel_size=(3, 3), strides=2, padding=1, use_bias=False),
        dict(kernel_size=(5, 3), strides=(2, 1), padding=((1, 2), 0), feature_group_count=2),
        dict(kernel_size=(3, 3), padding="VALID", kernel_dilation=2, dtype=jnp.bfloat16),
    ],
)
def test_the_layer_is_flaxs(fields):
    ours, theirs = Conv(8, **fields), nn.Conv(8, **fields)
    variables = theirs.init(jax.random.key(3), X[0])
    drawn = ours.init(jax.random.key(3), X[0])
    jax.tree.map(np.testing.assert_array_equal, drawn, variables)
    bias = {
        "params": variables["params"] | ({"bias": jnp.arange(8.0)} if "bias" in variables["params"] else {})
    }
    found, expected = ours.apply(bias, X[0]), theirs.apply(bias, X[0])
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(
        found.astype(jnp.float32), expected.astype(jnp.float32), rtol=2**-7, atol=2**-7
    )


def test_an_exported_depthwise_convolution_is_a_sum_of_shifts_on_a_cpu():
    """Also of a batch of any size: XLA's own takes 50 times as long there."""
    (batch,) = jax.export.symbolic_shape("batch")
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((batch, 8, 8, 32), (3, 3, 1, 32))]
    options = dict(dimension_numbers=direct.NUMBERS, feature_group_count=32)
    depthwise = jax.jit(lambda x, w: convolution(x, w, (1, 1), "SAME", **options))
    for platform, native in (("cpu", 0), ("tpu", 1)):
        exported = jax.export.export(depthwise, platforms=(platform,))(*shapes)
        assert exported.mlir_module().count("stablehlo.convolution") == native
