"""A value that a CPU computes once.

XLA joins element-wise computations there with each loop that reads them, however many do. So each reader of
a sum along a network's shortcuts computes it anew, from all its terms. What `kept` returns is computed once,
and read from memory. It is not copied: XLA calls a function that returns its argument, and the attribute
`inlineable` tells it to leave the call (CallInliner in XLA's source).
"""

from __future__ import annotations

from typing import Any

import jax
from jax.experimental.xla_metadata import set_xla_metadata
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from imgcls_jax.layers import onednn


def kept(x: jax.Array) -> jax.Array:
    """Returns x, of any shape and dtype; a program of one CPU device computes it and its gradient once."""
    same: jax.Array = _kept.bind(x)
    return same


# Named as jax's own identity, so that whatever reads a jaxpr knows it.
_kept = Primitive("copy")


def _same(x: jax.Array) -> jax.Array:
    return x


def _by_a_call(x: jax.Array) -> jax.Array:
    with set_xla_metadata(inlineable="false"):
        return jax.jit(_same)(x)


def _lower_on_cpu(context: Any, x: Any) -> Any:
    form = _by_a_call if onednn.is_own(context) else _same
    return mlir.lower_fun(form, multiple_results=False)(context, x)


_kept.def_impl(_same)
_kept.def_abstract_eval(_same)
ad.deflinear2(_kept, lambda gradient, _: [_kept.bind(gradient)])
batching.defvectorized(_kept)
mlir.register_lowering(_kept, mlir.lower_fun(_same, multiple_results=False))
mlir.register_lowering(_kept, _lower_on_cpu, platform="cpu")
