"""Products by oneDNN are the native ones: values, gradients of any order, vmap; so is attention."""

import functools
import re
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgcls_jax.layers import onednn, products
from imgcls_jax.layers.dense import Linear
from imgcls_jax.planning import targets

at_hand = pytest.mark.skipif(not onednn.dtypes(), reason="this jaxlib or processor has no oneDNN")
CASES = [  # shapes, (summed axes), (shared axes)
    ((3, 5, 7), (3, 7, 4), ((2,), (1,)), ((0,), (0,))),
    ((3, 7, 5), (3, 4, 7), ((1,), (2,)), ((0,), (0,))),
    ((2, 5, 3, 7), (2, 6, 3, 7), ((3,), (3,)), ((0, 2), (0, 2))),
    ((2, 3, 5, 6), (2, 6, 3, 7), ((3,), (1,)), ((0, 1), (0, 2))),
    ((4, 5), (4, 5), ((1,), (1,)), ((0,), (0,))),
    ((4, 2, 3, 5), (3, 4, 2), ((1, 2), (2, 0)), ((0,), (1,))),
]


@pytest.fixture(autouse=True)
def _of_any_size(monkeypatch):
    monkeypatch.setattr(products, "WORTH", 0)


def drawn(*shapes):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


@at_hand
@pytest.mark.parametrize("left, right, summed, shared", CASES)
def test_values_and_gradients_are_the_native_ones(left, right, summed, shared):
    a, b = drawn(left, right)

    def all_of(product, a, b):
        def loss(a, b):
            return jnp.sum(jnp.sin(product(a, b, (summed, shared))))

        value, gradients = jax.value_and_grad(loss, (0, 1))(a, b)
        second = jax.grad(lambda a, b: sum(jnp.sum(g**2) for g in jax.grad(loss, (0, 1))(a, b)), (0, 1))(a, b)
        return product(a, b, (summed, shared)), value, gradients, second

    ours = jax.jit(functools.partial(all_of, products.dot_general))
    lowered = ours.lower(a, b).as_text()
    assert products.TARGET in lowered and "stablehlo.dot_general" not in lowered
    found, expected = ours(a, b), jax.jit(functools.partial(all_of, jax.lax.dot_general))(a, b)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), found, expected)


@at_hand
def test_mapped_matrices_are_the_native_ones():
    a, b = drawn((4, 3, 5), (5, 4, 6))
    numbers = (((1,), (0,)), ((), ()))
    found, expected = (
        jax.jit(jax.vmap(functools.partial(product, dimension_numbers=numbers), (0, 1), 1))(a, b)
        for product in (products.dot_general, jax.lax.dot_general)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("worth", [0, 1e9], ids=["oneDNN", "XLA"])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_the_gradient_of_weights_is_computed_as_it_lies(monkeypatch, worth, dtype):
    monkeypatch.setattr(products, "WORTH", worth)
    x, weights, gradient = (one.astype(dtype) for one in drawn((4, 1, 96), (96, 40), (4, 1, 40)))

    def updated(x, weights, gradient):
        forward = functools.partial(products.dot_general, x, dimension_numbers=(((2,), (0,)), ((), ())))
        return jnp.float32(0.9) * weights + jax.vjp(forward, weights)[1](gradient)[0]

    ours = jax.jit(updated).lower(x, weights, gradient).compile()
    assert "[40,96]" not in ours.as_text()
    expected = 0.9 * np.float32(weights) + np.float32(x)[:, 0].T @ np.float32(gradient)[:, 0]
    np.testing.assert_allclose(ours(x, weights, gradient), expected, rtol=1e-2, atol=5e-2)

    def turned(x, weights, gradient):  # weights as PyTorch has them
        forward = functools.partial(products.dot_general, x, dimension_numbers=(((2,), (1,)), ((), ())))
        return jnp.float32(0.9) * weights + jax.vjp(forward, weights)[1](gradient)[0]

    assert "[96,40]" not in jax.jit(turned).lower(x, weights.T, gradient).compile().as_text()


@pytest.mark.parametrize("narrow, wide", [(3, 5), (5, 3)])
def test_a_sum_over_many_rows_has_the_narrower_matrix_on_the_left(narrow, wide):
    a, b = drawn((40, narrow), (40, wide))
    ours = jax.jit(
        lambda a, b: jax.vjp(functools.partial(products.by_rows, a), jnp.zeros((narrow, wide)))[1](b)[0]
    )
    np.testing.assert_allclose(ours(a, b), a.T @ b, rtol=1e-5, atol=1e-5)
    (line,) = (line for line in ours.lower(a, b).as_text().splitlines() if "stablehlo.dot_general" in line)
    assert "(tensor<40x3xf32>, tensor<40x5xf32>)" in line
    assert "optimization_barrier" not in jax.export.export(ours)(a, b).mlir_module()


@at_hand
def test_what_stays_xlas_own(monkeypatch):
    a, b = drawn((3, 5, 7), (3, 7, 4))
    numbers = (((2,), (1,)), ((0,), (0,)))
    jitted = jax.jit(lambda a, b: products.dot_general(a, b, numbers))
    exported = jax.export.export(jitted)(a, b).mlir_module()
    for other in (
        jitted.trace(a, b).lower(lowering_platforms=("cuda",)).as_text(),
        exported,
        jitted.lower(a.astype(jnp.float16), b.astype(jnp.float16)).as_text(),
    ):
        assert products.TARGET not in other
    monkeypatch.setattr(products, "WORTH", 10**4)
    assert (
        products.TARGET not in jax.jit(lambda b, a: products.dot_general(a, b, numbers)).lower(b, a).as_text()
    )


WIDE = onednn.AVX512 | {"avx2"}


@at_hand
@pytest.mark.parametrize(
    "instructions, dtype, computed",
    [
        ({"avx2"}, jnp.float32, "f32"),
        ({"avx2"}, jnp.bfloat16, "f32"),
        (WIDE, jnp.float32, None),
        (WIDE, jnp.bfloat16, None),
        (WIDE | {"avx512_bf16"}, jnp.float32, None),
        (WIDE | {"avx512_bf16"}, jnp.bfloat16, "bf16"),
        (WIDE | {"avx512_bf16", "amx_tile"}, jnp.float32, "f32"),
    ],
)
def test_where_one_matrix_is_onednns(monkeypatch, instructions, dtype, computed):
    monkeypatch.setattr(onednn, "instructions", lambda: frozenset(instructions))
    layer = Linear(3, dtype=dtype)
    variables = layer.init(jax.random.key(0), jnp.ones((2, 4, 5)))
    lines = jax.jit(layer.apply).lower(variables, jnp.ones((2, 4, 5))).as_text().splitlines()
    calls = [line for line in lines if products.TARGET in line]
    assert [line.rsplit("x", 1)[1] for line in calls] == ([f"{computed}>"] if computed else [])


@pytest.mark.parametrize("fields", [{}, dict(use_bias=False), dict(dtype=jnp.bfloat16)])
def test_the_linear_layer_is_flaxs(fields):
    ours, theirs = Linear(3, **fields), nn.Dense(3, **fields)
    (x,) = drawn((2, 4, 5))
    variables = theirs.init(jax.random.key(3), x)
    jax.tree.map(np.testing.assert_array_equal, ours.init(jax.random.key(3), x), variables)

    def loss(layer, variables, x):
        return jnp.sum(jnp.sin(layer.apply(variables, x).astype(jnp.float32)))

    found, expected = (
        jax.jit(jax.grad(functools.partial(loss, one), (0, 1)))(variables, x) for one in (ours, theirs)
    )
    assert ours.apply(variables, x).dtype == theirs.apply(variables, x).dtype
    tolerance = 2e-2 if fields.get("dtype") else 1e-5
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance), found, expected
    )


def test_a_bias_gradient_in_bfloat16_is_summed_in_float32():
    rows = jnp.ones((1001, 1), jnp.bfloat16)
    layer = Linear(1, dtype=jnp.bfloat16)
    gradient = jax.grad(lambda v: jnp.sum(layer.apply(v, rows)))(layer.init(jax.random.key(0), rows))
    assert gradient["params"]["bias"] == 1001  # which bfloat16 has not


@at_hand
def test_bfloat16_is_rounded_once():
    a, b = (array.astype(jnp.bfloat16) for array in drawn((3, 64, 50), (3, 50, 40)))
    numbers = (((2,), (1,)), ((0,), (0,)))
    found = jax.jit(functools.partial(products.dot_general, dimension_numbers=numbers))(a, b)
    exact = np.einsum("bij,bjk->bik", *(np.asarray(array, np.float64) for array in (a, b)))
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(found, np.float64), exact, rtol=2**-8, atol=1e-4)


def mixed_and_gradients(form, query, key, value, gradient):
    mixed, pull = jax.vjp(form, query, key, value)
    return mixed, pull(gradient)


def assert_close(found, expected, tolerance):
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(
            one.astype(jnp.float32), other.astype(jnp.float32), rtol=tolerance, atol=tolerance
        ),
        found,
        expected,
    )


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("dtype, tolerance", [(jnp.float32, 1e-5), (jnp.bfloat16, 1e-2)])
def test_attention_is_jaxs(is_causal, dtype, tolerance):
    arrays = [array.astype(dtype) for array in drawn((2, 5, 3, 8), (2, 6, 3, 8), (2, 6, 3, 8), (2, 5, 3, 8))]

    found, expected = (
        jax.jit(functools.partial(mixed_and_gradients, functools.partial(form, is_causal=is_causal)))(*arrays)
        for form in (products.attention, jax.nn.dot_product_attention)
    )
    assert_close(found, expected, tolerance)


@at_hand
def test_heads_are_not_moved_in_memory():
    arrays = drawn((2, 5, 3, 8), (2, 6, 3, 8), (2, 6, 3, 8))
    program = jax.jit(products.attention).lower(*arrays).compile().as_text()
    calls = re.findall(rf'{re.escape(products.TARGET)}", operand_layout_constraints={{(.*?}})}}', program)
    # Batch, heads, tokens, numbers, with the heads within the tokens; the scores have them before.
    assert re.findall(r"{([\d,]+)}", " ".join(calls)) == ["3,1,2,0", "3,1,2,0", "3,2,1,0", "3,1,2,0"]


def of_positions(queries, keys, dtype):
    """Returns query, key, value and a gradient of what they give."""
    shapes = ((2, length, 4, 16) for length in (queries, keys, keys, queries))
    return [array.astype(dtype) for array in drawn(*shapes)]


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("positions", [(8, 8), (7, 7), (7, 10)])
def test_what_pads_odd_lengths_for_cudnn_changes_nothing(positions, is_causal, monkeypatch):
    jaxs = jax.nn.dot_product_attention
    monkeypatch.setattr(jax.nn, "dot_product_attention", lambda *x, implementation, **y: jaxs(*x, **y))
    arrays = of_positions(*positions, jnp.float32)
    form = functools.partial(products._by_cudnn, is_causal=is_causal)
    native = functools.partial(jaxs, is_causal=is_causal)
    assert_close(mixed_and_gradients(form, *arrays), mixed_and_gradients(native, *arrays), 1e-5)


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("length", [196, 197])
def test_attention_of_cudnn_is_jaxs(length, is_causal):
    arrays = of_positions(length, length, jnp.bfloat16)
    form = functools.partial(products.attention, is_causal=is_causal)
    assert "fmha" in jax.jit(form).lower(*arrays[:3]).compile().as_text()
    native = functools.partial(jax.nn.dot_product_attention, is_causal=is_causal)
    found = jax.jit(functools.partial(mixed_and_gradients, form))(*arrays)
    assert_close(found, mixed_and_gradients(native, *arrays), 0.05)


def test_where_attention_may_be_cudnns(monkeypatch):
    def suits(dtype=jnp.bfloat16, form=lambda query, key, value: query):
        return products._suits_cudnn(*of_positions(8, 8, dtype)[:3], form)

    def refuses(*_):
        raise NotImplementedError("head dim")

    assert suits() and suits(jnp.float16)
    assert not products._suits_cudnn(*of_positions(1, 8, jnp.bfloat16)[:3], lambda query, key, value: query)
    assert not suits(jnp.float32) and not suits(form=refuses)
    (batch,) = jax.export.symbolic_shape("batch")
    exported = [jax.ShapeDtypeStruct((batch, 8, 4, 16), jnp.bfloat16)] * 3
    assert not products._suits_cudnn(*exported, lambda query, key, value: query)
    for capability, expected in (("7.5", False), ("8.0", True), ("12.0", True), ("gfx90a", False)):
        gpu = types.SimpleNamespace(platform="gpu", compute_capability=capability)
        monkeypatch.setattr(jax, "local_devices", lambda gpu=gpu: [gpu])
        assert suits() == expected


@pytest.mark.slow
@pytest.mark.parametrize("length", [196, 197])
def test_attention_compiled_for_a_gpu_is_cudnns(length):
    """python -m pytest -n0 -m slow -k cudnns tests/layers/test_products.py, with jax[cuda12]."""
    pytest.importorskip("jax_plugins.xla_cuda12", reason="XLA's compiler for CUDA is not installed")
    target = targets.open_target("h100:1", None)
    here = jax.sharding.NamedSharding(target.mesh, jax.sharding.PartitionSpec())
    shape = jax.ShapeDtypeStruct((2, length, 4, 64), jnp.bfloat16, sharding=here)
    gradient = jax.grad(lambda *x: products.attention(*x).astype(jnp.float32).sum(), argnums=(0, 1, 2))
    program = jax.jit(gradient).lower(shape, shape, shape).compile(compiler_options=target.options).as_text()
    assert "__cudnn$fmhaSoftmaxBackward" in program and f"{length},{length}" not in program
