"""Products of matrices, and attention, on a CPU by oneDNN, as layers/direct.py has convolutions; attention in
16 bits on NVIDIA's GPUs by cuDNN.

XLA takes many small matrices one after the other, each shared out over all cores; oneDNN shares out the
matrices. It is the faster one with single matrices too where there is no AVX-512, where there is a matrix
unit, and in bfloat16 where the processor multiplies it, while XLA computes in float32. Products in other
dtypes, or too small (`WORTH`), are XLA's own everywhere.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from imgcls_jax.layers import onednn

TARGET = "__onednn$matmul"
WORTH = 1.25e8  # FLOPs of a product from which on it is oneDNN's
AMPERE = 8.0  # compute capability of the first GPUs for which cuDNN has attention in jax


def dot_general(a: jax.Array, b: jax.Array, dimension_numbers: Any, **options: Any) -> jax.Array:
    """Computes jax.lax.dot_general of the same arguments."""
    (_, summed), _ = dimension_numbers
    rebound = _rebound_kernel if tuple(summed) == (0,) else _rebound
    return rebound(lambda a, b: jax.lax.dot_general(a, b, dimension_numbers, **options), a, b)


def by_rows(rows: jax.Array, weights: jax.Array, **options: Any) -> jax.Array:
    """Computes rows @ weights, float [N, C] and [C, D].

    On a CPU XLA does, since it fuses what stands around it; oneDNN does in bfloat16 where the processor
    multiplies it. XLA's gradient of the weights, a sum over many rows, has the narrower matrix on the left.
    """
    numbers = (((1,), (0,)), ((), ()))
    if rows.dtype == jnp.bfloat16 and onednn.has_bfloat16():
        return dot_general(rows, weights, numbers, **options)
    return _rebound_rows(lambda a, b: jax.lax.dot_general(a, b, numbers, **options), rows, weights)


def attention(query: jax.Array, key: jax.Array, value: jax.Array, *, is_causal: bool = False) -> jax.Array:
    """Computes jax.nn.dot_product_attention of the same arguments: softmax(q k^T / sqrt(D)) v.

    In 16 bits, and with as many queries as keys, NVIDIA's GPUs from Ampere on have cuDNN's, which keeps no
    scores in memory.

    Args:
      query: float [B, T, N, D].
      key, value: float [B, S, N, D].
      is_causal: whether a position sees none behind it.

    Returns:
      float [B, T, N, D].
    """

    def native(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        return jax.nn.dot_product_attention(query, key, value, is_causal=is_causal)

    def by_products(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        scaled = query.astype(jnp.float32) * query.shape[3] ** -0.5
        scores = dot_general(scaled, key.astype(jnp.float32), (((3,), (3,)), ((0, 2), (0, 2))))
        if is_causal:
            seen = jnp.tril(jnp.ones(scores.shape[2:], bool))
            scores = jnp.where(seen, scores, 0.7 * jnp.finfo(scores.dtype).min)
        # The softmax's division comes after the product: of D numbers a query, not of S.
        weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(3, keepdims=True)))
        mixed = dot_general(weights.astype(value.dtype), value, (((3,), (1,)), ((0, 1), (0, 2))))
        return (mixed / weights.sum(3, keepdims=True)).astype(value.dtype).transpose(0, 2, 1, 3)

    by_cudnn = functools.partial(_by_cudnn, is_causal=is_causal)
    forms = {"cpu": by_products} if query.dtype in onednn.DTYPES else {}
    if _suits_cudnn(query, key, value, by_cudnn):
        forms["cuda"] = by_cudnn
    if not forms:
        return native(query, key, value)
    return jax.lax.platform_dependent(query, key, value, **forms, default=native)


def _by_cudnn(query: jax.Array, key: jax.Array, value: jax.Array, *, is_causal: bool) -> jax.Array:
    """Attention that writes no scores. Its gradient takes even numbers of positions alone."""
    queries, keys = query.shape[1], key.shape[1]
    even = queries % 2 == keys % 2 == 0
    if not even:
        query, key, value = (
            jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0))) for x in (query, key, value)
        )
    mixed: jax.Array = jax.nn.dot_product_attention(
        query,
        key,
        value,
        is_causal=is_causal,
        query_seq_lengths=None if even else jnp.full(len(query), queries, jnp.int32),
        key_value_seq_lengths=None if even else jnp.full(len(key), keys, jnp.int32),
        implementation="cudnn",
    )
    return mixed[:, :queries]


def _suits_cudnn(query: Any, key: Any, value: Any, form: Callable[..., Any]) -> bool:
    """Whether jax takes the form, with its gradient, and the GPUs here have it.

    An exported program, whose batch has no number, has none. Queries of another shape than the keys may be
    split over devices in another way, which cuDNN's form refuses.
    """
    if query.dtype not in (jnp.bfloat16, jnp.float16) or query.shape != key.shape:
        return False
    if not isinstance(query.shape[0], int):
        return False
    gpus = [device for device in jax.local_devices() if device.platform == "gpu"]
    inputs = [jax.ShapeDtypeStruct(one.shape, one.dtype) for one in (query, key, value)]
    try:
        if any(float(gpu.compute_capability) < AMPERE for gpu in gpus):  # AMD's is no number
            return False
        jax.eval_shape(jax.grad(lambda *inputs: form(*inputs).astype(jnp.float32).sum()), *inputs)
    except (RuntimeError, ValueError, NotImplementedError):  # no cuDNN, or none for these shapes
        return False
    return True


def _form_on_cpu(is_own: bool, *shapes: Any, **parameters: Any) -> Callable[..., Any] | None:
    return _by_onednn if is_own and _suits(*shapes, **parameters) else None


def _form_of_kernel(is_own: bool, *shapes: Any, **parameters: Any) -> Callable[..., Any] | None:
    """The form on a CPU where b is [C, D]: jax turns the gradient of such weights, not that of [D, C]."""
    form = _form_on_cpu(is_own, *shapes, **parameters)
    if _is_of_weights(*shapes, **parameters):
        return functools.partial(_turned, form or jax.lax.dot_general_p.bind)
    return form


def _form_of_rows(is_own: bool, *shapes: Any, **parameters: Any) -> Callable[..., Any] | None:
    return _narrow_first if is_own and _is_long(*shapes, **parameters) else None


_rebound = onednn.stand_in(jax.lax.dot_general_p, _form_on_cpu)
_rebound_kernel = onednn.stand_in(jax.lax.dot_general_p, _form_of_kernel)
_rebound_rows = onednn.stand_in(jax.lax.dot_general_p, _form_of_rows)


def _suits(a: Any, b: Any, output: Any, *, dimension_numbers: Any, **_: Any) -> bool:
    (summed, _), (shared, _) = dimension_numbers
    work = 2 * math.prod(output.shape) * math.prod(a.shape[axis] for axis in summed)
    matrices = math.prod(a.shape[axis] for axis in shared)
    is_fast = onednn.has_bfloat16() if a.dtype == jnp.bfloat16 else onednn.has_matrix_unit()
    return (
        a.dtype in onednn.dtypes()
        and a.dtype == b.dtype == output.dtype
        and work >= WORTH
        and (matrices > 1 or is_fast or not onednn.has_avx512())
    )


def _is_of_weights(a: Any, b: Any, output: Any, *, dimension_numbers: Any, **_: Any) -> bool:
    """Whether all but the last axes are summed, as for the gradient of weights."""
    del output
    return dimension_numbers == ((tuple(range(a.ndim - 1)), tuple(range(b.ndim - 1))), ((), ()))


def _turned(form: Callable[..., Any], a: jax.Array, b: jax.Array, **parameters: Any) -> jax.Array:
    """Computes b^T a and turns it: what jax turns again is not moved."""
    return form(b, a, **parameters).T


def _is_long(a: Any, b: Any, output: Any, *, dimension_numbers: Any, **_: Any) -> bool:
    """Whether two matrices of many rows are summed over these, as for the gradient of weights."""
    del output
    return (
        dimension_numbers == (((0,), (0,)), ((), ()))
        and a.ndim == b.ndim == 2
        and (a.shape[1] != b.shape[1] and a.shape[0] > max(a.shape[1], b.shape[1]))
    )


def _narrow_first(a: jax.Array, b: jax.Array, **parameters: Any) -> jax.Array:
    """Has the narrower matrix on the left, where XLA is faster, and keeps XLA from turning it round."""
    is_first = a.shape[1] < b.shape[1]
    pair = (a, b) if is_first else (b, a)
    product = jax.lax.optimization_barrier(jax.lax.dot_general_p.bind(*pair, **parameters))
    return product if is_first else product.T


def _by_onednn(a: jax.Array, b: jax.Array, *, dimension_numbers: Any, **_: Any) -> jax.Array:
    (summed_a, summed_b), (shared_a, shared_b) = dimension_numbers
    left, order_a, rows, is_turned = _matrices(a, shared_a, summed_a)
    right, order_b, columns, is_upright = _matrices(b, shared_b, summed_b)
    in_order = tuple(range(left.ndim))
    # An attention's heads lie within its tokens. Where the columns are the last axis of such an array, the
    # product lies so too: nothing is moved to the front only to be moved back.
    is_within = is_upright and order_b[-1] == in_order[-1]
    configuration = {"onednn_matmul_config": {"transpose_a": is_turned, "transpose_b": not is_upright}}
    product = onednn.call(
        TARGET,
        configuration,
        (*left.shape[:-2], math.prod(rows), math.prod(columns)),
        a.dtype,
        left,
        right,
        orders=(order_a, order_b, order_b if is_within else in_order),
    )
    return product.reshape(*left.shape[:-2], *rows, *columns)


def _matrices(
    array: jax.Array, shared: Sequence[int], summed: Sequence[int]
) -> tuple[jax.Array, tuple[int, ...], tuple[int, ...], bool]:
    """Returns matrices [..., F, S] or [..., S, F] of the free and the summed axes, in which order their axes
    lie in memory, the sizes of the free axes, and whether these are behind the summed ones.

    Nothing moves in memory where the free axes are neighbors, and the summed ones too.
    """
    free = [axis for axis in range(array.ndim) if axis not in (*shared, *summed)]
    sizes = tuple(array.shape[axis] for axis in free)
    is_behind = bool(free) and free[-1] > max(summed, default=-1)
    pair = ([*summed], free) if is_behind else (free, [*summed])
    groups = [*([axis] for axis in shared), *pair]
    lengths = [math.prod(array.shape[axis] for axis in group) for group in groups]
    order = sorted(range(len(groups)), key=lambda number: groups[number][:1] or [array.ndim])
    if [axis for number in order for axis in groups[number]] != [*range(array.ndim)]:
        array, order = array.transpose([axis for group in groups for axis in group]), [*range(len(groups))]
    places = [order.index(number) for number in range(len(order))]
    matrices = array.reshape([lengths[number] for number in order]).transpose(places)
    return matrices, tuple(order), sizes, is_behind
