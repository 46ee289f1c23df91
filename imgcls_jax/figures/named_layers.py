"""The named layers of a traceable function: what they put out, and what follows where it is changed.

A function shows its layers by giving their outputs names (`jax.ad_checkpoint.checkpoint_name`), which
`Tagged` does for every module of a backbone. Its jaxpr is then evaluated equation by equation, so that a
layer is the very value that the rest of the network reads: `Features.map`, after the last ReLU, is one,
though no module's output.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.extend.core
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from imgcls_jax.layers.features import Features

MAP = "map"  # the name of Features.map
INLINED = ("jit", "pjit", "remat2", "checkpoint")

Function = Callable[[jax.Array], jax.Array]


class Tagged:
    """A backbone whose layers bear their names in a jaxpr. It stands in for the backbone: it has its
    attributes and is applied as it is.

    The name of a module's output is its path ("features.1/conv.0.0"), that of the last feature map "map".

    Args:
      backbone: module with the contract of models/.
    """

    def __init__(self, backbone: Any):
        self._backbone = backbone

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)

    def apply(self, variables: Any, *inputs: Any, **options: Any) -> Any:
        with nn.intercept_methods(_name_output):
            return self._backbone.apply(variables, *inputs, **options)


def _name_output(call: Any, args: Any, options: Any, context: Any) -> Any:
    output = call(*args, **options)
    path = context.module.path
    if not path and isinstance(output, Features):
        return output._replace(map=checkpoint_name(output.map, MAP))
    changed = not (args and output is args[0])  # dropout changes nothing here
    if path and changed and context.method_name == "__call__" and isinstance(output, jax.Array):
        return checkpoint_name(output, "/".join(path))
    return output


def evaluate(
    jaxpr: Any,
    consts: Sequence[Any],
    inputs: Sequence[Any],
    *,
    visit: Callable[[str, jax.Array], jax.Array],
    apply: Callable[[Any, Sequence[Any]], Sequence[Any]],
) -> list[Any]:
    """Evaluates a jaxpr equation by equation.

    Args:
      jaxpr, consts, inputs: what to evaluate, and on what.
      visit: (name, value) -> what takes the value's place, for every value that bears a name.
      apply: (equation, operands) -> outputs.

    Returns:
      Its outputs.
    """
    named = {eqn.invars[0]: eqn.params["name"] for eqn in jaxpr.eqns if eqn.primitive.name == "name"}
    values: dict[Any, Any] = {}

    def write(variables: Sequence[Any], found: Sequence[Any]) -> None:
        for variable, value in zip(variables, found, strict=True):
            values[variable] = visit(named[variable], value) if variable in named else value

    def read(atoms: Sequence[Any]) -> list[Any]:
        return [a.val if isinstance(a, jax.extend.core.Literal) else values[a] for a in atoms]

    write(jaxpr.constvars, consts)
    write(jaxpr.invars, inputs)
    for eqn in jaxpr.eqns:
        operands = read(eqn.invars)
        if eqn.primitive.name in INLINED:
            inner = eqn.params["jaxpr"]
            inside = getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), operands
            write(eqn.outvars, evaluate(*inside, visit=visit, apply=apply))
        else:
            write(eqn.outvars, apply(eqn, operands))
    return read(jaxpr.outvars)


def bind(eqn: Any, operands: Sequence[Any]) -> Sequence[Any]:
    """Applies an equation as it stands."""
    outputs = eqn.primitive.bind(*operands, **eqn.primitive.get_bind_params(eqn.params))
    return outputs if eqn.primitive.multiple_results else [outputs]


def run(function: Function, images: jax.Array, visit: Any, apply: Any = bind) -> jax.Array:
    """Returns a function's output on images, evaluated with `visit` and `apply`."""
    closed = jax.make_jaxpr(function)(jax.ShapeDtypeStruct(images.shape, images.dtype))
    return evaluate(closed.jaxpr, closed.consts, [images], visit=visit, apply=apply)[0]


def layers(function: Function, images: jax.Array | np.ndarray) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the named layers, in the order in which they finish.

    Args:
      function: images -> array, with named layers.
      images: float [B, H, W, C]; shapes alone are read.

    Returns:
      {name: shape of its output} where that is a map [B, h, w, D], or tokens [B, L, D] for the places of
      `map`.
    """
    found: dict[str, jax.ShapeDtypeStruct] = {}

    def note(name: str, value: jax.Array) -> jax.Array:
        found.setdefault(name, jax.ShapeDtypeStruct(value.shape, value.dtype))
        return value

    jax.eval_shape(lambda images: run(function, images, note), images)
    places = math.prod(found[MAP].shape[1:3]) if MAP in found else -1
    return {
        name: shape
        for name, shape in found.items()
        if len(shape.shape) == 4 or len(shape.shape) == 3 and shape.shape[1] in (places, places + 1)
    }


def check_layer(layer: str, names: Iterable[str]) -> None:
    """Raises ValueError where a layer is none of those there are, and names them."""
    if layer not in names:
        raise ValueError(f"the network has no layer {layer!r} that puts out a map; it has {', '.join(names)}")


def layer_outputs(function: Function, images: jax.Array, names: Sequence[str]) -> list[jax.Array]:
    """Returns what layers put out, float [B, h, w, D] each, traceable.

    Args:
      function, images: as in `layers`.
      names: some of `layers`.
    """
    known = layers(function, images)
    found: dict[str, jax.Array] = {}

    def keep(name: str, value: jax.Array) -> jax.Array:
        found.setdefault(name, value)
        return value

    run(function, images, keep)
    return [as_map(found[name], known) for name in names]


def as_map(output: jax.Array, known: dict[str, jax.ShapeDtypeStruct]) -> jax.Array:
    """Returns a layer's output as [B, h, w, D]: tokens in their places, without class token."""
    if output.ndim == 4:
        return output
    rows, columns = known[MAP].shape[1:3]
    return output[:, -rows * columns :].reshape(len(output), rows, columns, -1)
