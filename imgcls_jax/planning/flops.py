"""The FLOPs of a step, counted in its jaxpr."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any


def flops(jaxpr: Any, platform: str) -> float:
    """Counts the floating point operations of convolutions and matrix products.

    The body of a `while` counts once, and of a `cond` the dearest branch. Zeros laid between the pixels of a
    gradient are not counted, those at the border are.

    Args:
      jaxpr: of jax.jit(...).trace(...), say.
      platform: "cpu", "cuda" or "tpu", where jax.lax.platform_dependent gives each its own form.

    Returns:
      2 * (number of multiply-adds).
    """
    return sum(_of_equation(equation, platform) for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns)


def _of_equation(equation: Any, platform: str) -> float:
    name, parameters = equation.primitive.name, equation.params
    shapes = [variable.aval.shape for variable in equation.invars if hasattr(variable.aval, "shape")]
    if name == "conv_general_dilated":
        spec = parameters["dimension_numbers"].rhs_spec
        window = math.prod(shapes[1]) / max(shapes[1][spec[0]], 1)
        written = math.prod(equation.outvars[0].aval.shape)
        return 2 * written * window / math.prod(parameters["lhs_dilation"])
    if name == "dot_general":
        (contracted, _), _ = parameters["dimension_numbers"]
        summed = math.prod(shapes[0][axis] for axis in contracted)
        return 2 * math.prod(equation.outvars[0].aval.shape) * summed
    if name.startswith("dot_product_attention"):  # cuDNN's; recomputed scores are not counted
        (batch, queries, heads, dim), keys = shapes[0], shapes[1][1]
        return 2 * batch * heads * queries * keys * dim * (4 if "bwd" in name else 2)
    within = list(_within(equation))
    platforms = parameters.get("branches_platforms")
    if platforms:  # jax.lax.platform_dependent
        own = next(place for place, names in enumerate(platforms) if names is None or platform in names)
        return flops(within[own], platform)
    counted = [flops(inner, platform) for inner in within]
    return max(counted, default=0) if name == "cond" else sum(counted) * parameters.get("length", 1)


def _within(equation: Any) -> Iterator[Any]:
    """Yields the jaxprs that an equation holds."""
    for parameter in equation.params.values():
        for item in parameter if isinstance(parameter, tuple | list) else (parameter,):
            if hasattr(item, "eqns"):
                yield item
