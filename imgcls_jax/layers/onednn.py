"""oneDNN on a CPU: jaxlib holds it and does not call it by itself.

A primitive that `stand_in` makes is a native one in all but its lowering: gradients, jax.vmap and shardings
are the native ones. In a program of one CPU device it may become a call of one of XLA's own targets, which
run in XLA's threads. On other platforms, in a program that XLA splits over devices, in an exported program,
and without that target it stays the native one.

XLA cannot serialize such a call, so a program with one is not kept in jax's folder of compiled programs; jax
warns of a MemoryError and goes on. It is compiled anew at each start, in seconds. So what is small stays
XLA's own: a small network gains less in a run than it would lose at its start.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import platform
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Literal, Primitive
from jax.interpreters import ad, batching, mlir

MEASURED = ("0.10", "0.11", "0.12")  # versions of jaxlib whose targets read the configurations below
DTYPES = (jnp.float32, jnp.bfloat16)
AVX512 = frozenset({"avx512bw", "avx512vl", "avx512dq"})


@functools.cache
def dtypes() -> frozenset[Any]:
    """Returns the dtypes that oneDNN computes here; none where it is not at hand."""
    version = ".".join(importlib.metadata.version("jaxlib").split(".")[:2])
    at_hand = version in MEASURED and "avx2" in instructions()
    return frozenset(map(jnp.dtype, DTYPES if at_hand else ()))


def has_avx512() -> bool:
    """Whether the processor has the vectors of 512 bits that oneDNN uses."""
    return instructions() >= AVX512


def has_matrix_unit() -> bool:
    """Whether the processor has AMX, as Intel's have since Sapphire Rapids.

    In float32, which that unit does not multiply, other forms are faster there than on AMD's processors.
    """
    return "amx_tile" in instructions()


def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16, with a matrix unit (AMX) or in vectors."""
    return "avx512_bf16" in instructions()


def computed_in(dtype: Any) -> Any:
    """Returns the dtype of a `call` inside: float32 for a bfloat16 that the processor does not multiply."""
    return jnp.dtype(jnp.float32 if dtype == jnp.bfloat16 and not has_bfloat16() else dtype)


@functools.cache
def instructions() -> frozenset[str]:
    """Returns the names of the processor's instructions, as /proc/cpuinfo has them; none but on x86 Linux."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return frozenset()
    found = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return frozenset(found[1].split()) if found else frozenset()


def stand_in(native: Primitive, form_on_cpu: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a primitive that is a native, bilinear one in all but its lowering for CPUs.

    It has the same name and parameters, so that whatever reads a jaxpr knows it.

    Args:
      native: takes two arrays and gives one; its transposes and batches are such programs too.
      form_on_cpu: (is_own, shapes of inputs and output, **parameters) -> the function of the same arguments
        that it becomes on a CPU, None for the native one. `is_own` says whether the program is one device's
        own, which XLA does not split, and no exported one: only there may it make a `call`.

    Returns:
      A function (function, *arrays) that evaluates a function of them, in which the native primitive becomes
      the new one.
    """
    own = Primitive(native.name)

    def bound(*arrays: Any, **parameters: Any) -> Any:
        return native.bind(*arrays, **parameters)

    def rebound(function: Callable[..., Any], *arrays: Any) -> Any:
        closed = jax.make_jaxpr(function)(*arrays)
        read = [*closed.consts, *arrays]
        known = dict(zip([*closed.jaxpr.constvars, *closed.jaxpr.invars], read, strict=True))
        for equation in closed.jaxpr.eqns:
            primitive = own if equation.primitive is native else equation.primitive
            values = [one.val if isinstance(one, Literal) else known[one] for one in equation.invars]
            known[equation.outvars[0]] = primitive.bind(*values, **equation.params)
        return known[closed.jaxpr.outvars[0]]

    def pull_to_first(gradient: Any, first: Any, second: Any, **parameters: Any) -> Any:
        def pull(gradient: Any, second: Any) -> Any:
            return jax.linear_transpose(lambda x: bound(x, second, **parameters), first.aval)(gradient)[0]

        return rebound(pull, gradient, second)

    def pull_to_second(gradient: Any, first: Any, second: Any, **parameters: Any) -> Any:
        def pull(gradient: Any, first: Any) -> Any:
            return jax.linear_transpose(lambda w: bound(first, w, **parameters), second.aval)(gradient)[0]

        return rebound(pull, gradient, first)

    def batched(arrays: Sequence[Any], axes: Sequence[Any], **parameters: Any) -> tuple[Any, int]:
        return rebound(jax.vmap(functools.partial(bound, **parameters), axes), *arrays), 0

    @functools.cache
    def compiled(parameters: tuple[tuple[str, Any], ...]) -> Any:
        return jax.jit(functools.partial(own.bind, **dict(parameters)))

    def lower_on_cpu(context: Any, *values: Any, **parameters: Any) -> Any:
        shapes = (*context.avals_in, *context.avals_out)
        function = form_on_cpu(is_own(context), *shapes, **parameters) or bound
        return mlir.lower_fun(function, multiple_results=False)(context, *values, **parameters)

    own.def_impl(lambda *arrays, **parameters: compiled(tuple(parameters.items()))(*arrays))
    own.def_abstract_eval(lambda *shapes, **parameters: native.abstract_eval(*shapes, **parameters)[0])
    ad.defbilinear(own, pull_to_first, pull_to_second)
    batching.primitive_batchers[own] = batched
    mlir.register_lowering(own, mlir.lower_fun(bound, multiple_results=False))
    mlir.register_lowering(own, lower_on_cpu, platform="cpu")
    return rebound


def is_own(context: Any) -> bool:
    """Whether a program, or the body of a jax.shard_map, is one device's own, which XLA does not split, and
    no exported one."""
    axes, parameters = context.module_context.axis_context, context.module_context.lowering_parameters
    if hasattr(axes, "manual_axes"):
        alone = set(axes.manual_axes) == set(axes.mesh.axis_names)
    else:
        alone = getattr(axes, "num_devices", 0) == 1
    return alone and not parameters.for_export


def call(
    target: str,
    configuration: Any,
    shape: Sequence[int],
    dtype: Any,
    *arrays: jax.Array,
    orders: Sequence[Sequence[int]] = (),
) -> jax.Array:
    """Calls one of XLA's targets, in the dtype of `computed_in`. It aborts the process on a wrong size.

    Args:
      target, configuration: of XLA.
      shape, dtype: of the result.
      arrays: of the call.
      orders: for each array and the result its axes as they follow each other in memory, () for all in their
        own order. What lies so already is not copied.
    """
    computed = computed_in(dtype)
    function = jax.ffi.ffi_call(
        target,
        jax.ShapeDtypeStruct(tuple(shape), computed),
        custom_call_api_version=2,
        legacy_backend_config=json.dumps(configuration),
        input_layouts=orders[:-1] or None,
        output_layouts=orders[-1] if orders else None,
    )
    return function(*(array.astype(computed) for array in arrays)).astype(dtype)
