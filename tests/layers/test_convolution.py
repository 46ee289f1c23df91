"""The faster forms of a convolution equal the native one, forward and backward."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.layers import direct, onednn, products
from imgcls_jax.layers.convolution import convolution

NUMBERS = ("NHWC", "HWIO", "NHWC")
SHAPES = [  # image, kernel, strides, padding
    ((9, 9), (3, 3), (1, 1), ((1, 1), (1, 1))),
    ((10, 7), (3, 3), (2, 2), "SAME"),
    ((11, 12), (5, 5), (2, 2), "SAME"),
    ((10, 7), (5, 3), (2, 2), ((0, 1), (2, 0))),
    ((10, 7), (3, 3), (1, 1), "VALID"),
    ((10, 7), (1, 1), (1, 1), "SAME"),
    ((10, 7), (1, 1), (2, 3), "VALID"),
    ((10, 7), (1, 1), (2, 2), ((1, 0), (1, 2))),
]


@pytest.fixture(autouse=True)
def _without_a_matrix_unit(monkeypatch):
    """So that Winograd's filtering is for narrow maps too."""
    others = onednn.instructions() - {"amx_tile"}
    monkeypatch.setattr(onednn, "instructions", lambda: others)


@pytest.mark.parametrize(
    "size, kernel, strides, padding, groups",
    [
        *((*shape, 6) for shape in SHAPES),
        *((*shape, 1) for shape in SHAPES if shape[1] == (1, 1)),
        *((*shape, groups) for shape in SHAPES[1:2] for groups in (1, 2)),
    ],
)
def test_it_is_the_native_one(size, kernel, strides, padding, groups):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, *size, 6)), jnp.float32)
    w = jnp.asarray(rng.normal(size=(*kernel, 6 // groups, 6)), jnp.float32)
    options = dict(dimension_numbers=NUMBERS, feature_group_count=groups)
    expected, pull = jax.vjp(
        lambda x, w: jax.lax.conv_general_dilated(x, w, strides, padding, **options), x, w
    )
    found, pull_ours = jax.vjp(lambda x, w: convolution(x, w, strides, padding, **options), x, w)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    cotangent = jnp.asarray(rng.normal(size=expected.shape), jnp.float32)
    for one, other in zip(pull_ours(cotangent), pull(cotangent), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


@pytest.mark.parametrize(
    "height, width, padding, channels",
    [
        (5, 8, "SAME", (128, 136)),
        (8, 7, "SAME", (144, 128)),
        (13, 13, ((1, 1), (1, 1)), (128, 128)),
        (7, 14, "VALID", (128, 128)),
        (6, 10, ((0, 2), (2, 1)), (128, 128)),
        (1, 4, "SAME", (128, 128)),
    ],
)
def test_winograds_is_the_native_one(height, width, padding, channels):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, height, width, channels[0])), jnp.float32)
    w = jnp.asarray(rng.normal(size=(3, 3, *channels)) / 24, jnp.float32)
    arguments = ((1, 1), padding)
    expected, pull = jax.vjp(
        lambda x, w: jax.lax.conv_general_dilated(x, w, *arguments, dimension_numbers=NUMBERS), x, w
    )
    found, pull_ours = jax.vjp(lambda x, w: convolution(x, w, *arguments, dimension_numbers=NUMBERS), x, w)
    scale = float(jnp.abs(expected).max())
    np.testing.assert_allclose(found, expected, atol=5e-6 * scale)
    cotangent = jnp.asarray(rng.normal(size=expected.shape), jnp.float32)
    for one, other in zip(pull_ours(cotangent), pull(cotangent), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5 * float(jnp.abs(other).max()))


@pytest.mark.parametrize(
    "size, kernel, strides, padding",
    [
        ((2, 2), (3, 3), (1, 1), "SAME"),
        ((1, 1), (3, 3), (1, 1), ((1, 1), (1, 1))),
        ((4, 4), (3, 3), (2, 2), ((1, 1), (1, 1))),
        ((6, 3), (1, 7), (1, 1), "SAME"),
        ((5, 5), (5, 5), (1, 1), "VALID"),
        ((2, 9), (3, 5), (1, 2), ((2, 1), (0, 3))),
    ],
)
def test_windows_wider_than_a_map_are_the_native_ones(size, kernel, strides, padding):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(3, *size, 5)), jnp.float32)
    w = jnp.asarray(rng.normal(size=(*kernel, 5, 4)), jnp.float32)
    expected, pull = jax.vjp(
        lambda x, w: jax.lax.conv_general_dilated(x, w, strides, padding, dimension_numbers=NUMBERS), x, w
    )
    form = functools.partial(convolution, strides=strides, padding=padding, dimension_numbers=NUMBERS)
    found, pull_ours = jax.vjp(form, x, w)
    assert "stablehlo.convolution" not in jax.jit(form).lower(x, w).as_text()
    np.testing.assert_allclose(found, expected, atol=2e-5)
    cotangent = jnp.asarray(rng.normal(size=expected.shape), jnp.float32)
    for one, other in zip(pull_ours(cotangent), pull(cotangent), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


@pytest.mark.parametrize("features", [4, 8, 12])
@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
def test_products_of_many_rows_are_the_native_ones(strides, features):
    """More rows than channels: a weights' gradient narrower than the inputs is summed the other way round."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(4, 6, 8, 8)), jnp.float32)
    w = jnp.asarray(rng.normal(size=(1, 1, 8, features)), jnp.float32)

    def both(convolve, x, w):
        return jax.value_and_grad(
            lambda x, w: jnp.sum(jnp.sin(convolve(x, w, strides, "SAME", dimension_numbers=NUMBERS))), (0, 1)
        )(x, w)

    forms = [functools.partial(both, convolve) for convolve in (convolution, jax.lax.conv_general_dilated)]
    whole = [jax.jit(form)(x, w) for form in forms]
    one_by_one = [jax.vmap(form, (0, None))(x[:, None], w) for form in forms]
    for found, expected in (whole, one_by_one):
        jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-4), found, expected)


KINDS_OF_AXES = (jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit)


@pytest.mark.parametrize("axis_type", KINDS_OF_AXES, ids=lambda kind: kind.name)
@pytest.mark.parametrize(
    "side, channels, features, groups", [(3, 128, 128, 1), (3, 32, 32, 32), (1, 32, 16, 1)]
)
def test_rows_shared_out_over_devices_give_the_same(side, channels, features, groups, axis_type):
    """Winograd's filtering, one filter a channel, and a product of many rows, forward and backward."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(8, 6, 8, channels)), jnp.float32)
    w = jnp.asarray(rng.normal(size=(side, side, channels // groups, features)) / 24, jnp.float32)

    def gradients(x, w):
        def loss(x, w):
            y = convolution(x, w, (1, 1), "SAME", dimension_numbers=NUMBERS, feature_group_count=groups)
            return jnp.sum(jnp.sin(y))

        return jax.value_and_grad(loss, (0, 1))(x, w)

    mesh = jax.make_mesh((8,), ("data",), axis_types=(axis_type,))
    rows = jax.device_put(x, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data")))
    whole = jax.device_put(w, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
    compiled = jax.jit(gradients).lower(rows, whole).compile()
    assert "all-gather" not in compiled.as_text()  # each device keeps to its own rows
    for one, other in zip(
        jax.tree.leaves(jax.jit(gradients)(x, w)), jax.tree.leaves(compiled(rows, whole)), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-5 * float(jnp.abs(one).max()))


def test_winograds_rounding_error_is_small():
    """Root of the mean square, of outputs of variance one, against sums in float64."""
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(1, 3, 402, 128)), rng.normal(size=(3, 3, 128, 128)) / np.sqrt(9 * 128)
    exact = sum(x[0, row, column : column + 400] @ w[row, column] for row in range(3) for column in range(3))
    images, kernel = jnp.asarray(x, jnp.float32), jnp.asarray(w, jnp.float32)
    arguments = (images, kernel, (1, 1), "VALID")
    errors = [
        np.sqrt(np.mean((np.asarray(form(*arguments, dimension_numbers=NUMBERS))[0, 0] - exact) ** 2))
        for form in (jax.lax.conv_general_dilated, convolution)
    ]
    assert errors[0] < errors[1] < 4 * errors[0], errors  # unequal, so that it is Winograd's that is measured


def test_dilation_is_left_to_the_native_one():
    x, w = jnp.arange(64.0).reshape(1, 8, 8, 1), jnp.ones((1, 1, 1, 1))
    options = dict(dimension_numbers=NUMBERS, lhs_dilation=(2, 2))
    arguments = (x, w, (1, 1), ((0, 0), (0, 0)))
    expected = jax.lax.conv_general_dilated(*arguments, **options)
    assert expected.shape == (1, 15, 15, 1)
    np.testing.assert_array_equal(convolution(*arguments, **options), expected)


WIDE = onednn.AVX512 | {"avx2"}
NARROW = WIDE | {"avx512_bf16"}
PRODUCT, MATMUL, DIRECT = "stablehlo.dot_general", products.TARGET, direct.TARGET


@pytest.mark.skipif(not onednn.dtypes(), reason="this jaxlib or processor has no oneDNN")
@pytest.mark.parametrize(
    "instructions, dtype, of_one_pixel, is_wide_enough",
    [
        ({"avx2"}, jnp.float32, PRODUCT, True),
        (WIDE, jnp.float32, PRODUCT, True),
        (WIDE, jnp.bfloat16, PRODUCT, False),
        (NARROW, jnp.bfloat16, MATMUL, False),
        (NARROW | {"amx_tile"}, jnp.float32, PRODUCT, False),
        (NARROW | {"amx_tile"}, jnp.bfloat16, MATMUL, False),
    ],
)
def test_the_forms_on_each_kind_of_processor(monkeypatch, instructions, dtype, of_one_pixel, is_wide_enough):
    """A 1x1 kernel, and Winograd's filtering at a width of 14, as six convolutions of 3x1."""
    monkeypatch.setattr(onednn, "instructions", lambda: frozenset(instructions))
    monkeypatch.setattr(direct, "WORTH", 0)
    monkeypatch.setattr(products, "WORTH", 0)

    def lowered(size):
        shapes = [jax.ShapeDtypeStruct(shape, dtype) for shape in ((2, 14, 14, 128), (size, size, 128, 128))]
        form = functools.partial(convolution, strides=(1, 1), padding="SAME", dimension_numbers=NUMBERS)
        return jax.jit(form).lower(*shapes).as_text()

    assert [form for form in (PRODUCT, MATMUL, DIRECT) if form in lowered(1)] == [of_one_pixel]
    assert lowered(3).count(DIRECT) == (6 if is_wide_enough else 1)
