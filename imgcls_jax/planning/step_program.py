"""A jaxpr as one list of operations, as XLA gets it: for tools that say what a step will cost.

Calls are inlined, what nothing reads is dropped, and what is computed twice from the same values is there
once. For a CPU, copies are listed too that XLA makes of what products read: of a convolution's inputs and
kernels that lie otherwise than [B, ..., C] and [..., C, D], and of numbers of 16 bits, which it multiplies as
float32.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import Literal

LOOPS = ("scan", "while", "cond")
PRODUCTS = ("conv_general_dilated", "dot_general")
SPREAD = ("broadcast_in_dim", "iota")
CONSTANT_BYTES = 2**16  # of larger ones XLA may find two alike, too; comparing them takes long


class Operation(NamedTuple):
    """An equation of the whole program; values are numbered.

    Attributes:
      name: of the primitive.
      reads, writes: values.
      equation: None for one that XLA adds.
      is_unary: whether at most one of the values that it reads is as large as its result.
    """

    name: str
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    equation: Any = None
    is_unary: bool = True


class Program(NamedTuple):
    """A jaxpr with its calls inlined, and without what nothing reads and what is there already.

    Attributes:
      operations: in order.
      sizes: bytes of every value.
      inputs: values; constants follow those of the jaxpr.
      outputs: values in the jaxpr's order, None for a literal.
    """

    operations: list[Operation]
    sizes: dict[int, int]
    inputs: tuple[int, ...]
    outputs: tuple[int | None, ...]


def bodies(equation: Any) -> Iterator[Any]:
    """Yields the jaxprs that an equation holds, most of them closed."""
    for parameter in equation.params.values() if equation is not None else ():
        for item in parameter if isinstance(parameter, tuple | list) else (parameter,):
            if hasattr(item, "eqns"):
                yield item


def _open(jaxpr: Any) -> Any:
    return getattr(jaxpr, "jaxpr", jaxpr)


def _called(equation: Any, reads: list[int | None], platform: str) -> tuple[Any, list[int | None]]:
    """Returns the jaxpr that an equation simply calls, and what it reads; None where it is no call."""
    inner, platforms = list(bodies(equation)), equation.params.get("branches_platforms")
    if platforms:  # jax.lax.platform_dependent: the first operand only says which platform it is
        own = next(place for place, names in enumerate(platforms) if names is None or platform in names)
        return inner[own], reads[1:]
    calls = inner and equation.primitive.name not in LOOPS and len(_open(inner[0]).invars) == len(reads)
    return (inner[0] if calls else None), reads


def _elements(variable: Any) -> int:
    return math.prod(getattr(variable.aval, "shape", ()))


def _bytes(variable: Any) -> int:
    return _elements(variable) * getattr(getattr(variable.aval, "dtype", None), "itemsize", 0)


def _is_half(variable: Any) -> bool:
    return getattr(getattr(variable.aval, "dtype", None), "itemsize", 0) == 2


def _lies_otherwise(equation: Any) -> tuple[bool, bool]:
    """Says whether a convolution's inputs are other than [B, ..., C], and its kernel than [..., C, D]."""
    inputs, kernel, _ = equation.params["dimension_numbers"]
    last = len(inputs) - 1
    return inputs != (0, last, *range(1, last)), kernel != (last, last - 1, *range(last - 1))


def program_of(jaxpr: Any, platform: str) -> Program:
    """Inlines every call of a jaxpr, and drops what no output needs and what is computed a second time."""
    sizes: dict[int, int] = {}
    inputs: list[int] = []
    operations: list[Operation] = []
    spread: set[int] = set()
    known: dict[Any, tuple[int, ...]] = {}  # what was computed how

    def number(variables: Sequence[Any]) -> dict[Any, int]:
        numbers = {variable: len(sizes) + place for place, variable in enumerate(variables)}
        sizes.update({numbers[variable]: _bytes(variable) for variable in variables})
        return numbers

    def constants(called: Any) -> dict[Any, int]:
        variables, numbers = _open(called).constvars, {}
        values = getattr(called, "consts", [None] * len(variables))
        for variable, value in zip(variables, values, strict=True):
            key: Any = variable
            if isinstance(value, np.ndarray | jax.Array) and value.nbytes <= CONSTANT_BYTES:
                if not jax.dtypes.issubdtype(value.dtype, jax.dtypes.extended):
                    key = (str(variable.aval), np.asarray(value).tobytes())
            if key not in known:
                known[key] = tuple(number([variable]).values())
                inputs.extend(known[key])
            (numbers[variable],) = known[key]
        return numbers

    def copied(value: int | None, variable: Any, turns: bool) -> int | None:
        """Returns the value as a product on a CPU reads it."""
        if value is None or not (turns or _is_half(variable)):
            return value
        key = ("copy for a product", value, turns)
        if key not in known:
            known[key] = (len(sizes),)
            sizes[len(sizes)] = _bytes(variable) * (2 if _is_half(variable) else 1)
            operations.append(Operation("transpose", (value,), known[key]))
        return known[key][0]

    def walk(inner: Any, names: dict[Any, int | None]) -> None:
        for equation in inner.eqns:
            name, variables = equation.primitive.name, equation.invars
            reads = [None if isinstance(v, Literal) else names[v] for v in variables]
            called, reads = _called(equation, reads, platform)
            if called is not None:
                own = dict(zip(_open(called).invars, reads, strict=True)) | constants(called)
                walk(_open(called), own)
                results = [None if isinstance(v, Literal) else own[v] for v in _open(called).outvars]
                names.update(zip(equation.outvars, results, strict=True))
                continue
            # What reads nothing may be alike for this many rows alone, such as zeros [1, K].
            shapes = [getattr(v.aval, "shape", ()) for v in equation.outvars]
            comparable = any(r is not None for r in reads) or not any(shapes)
            key = None
            if comparable and not any(bodies(equation)):
                literals = [str(v) for v in variables if isinstance(v, Literal)]
                avals = [str(v.aval) for v in equation.outvars]
                key = (name, tuple(reads), str((literals, avals, equation.params)))
            if key in known:
                names.update(zip(equation.outvars, known[key], strict=True))
                continue
            if platform == "cpu" and name in PRODUCTS:
                turns = _lies_otherwise(equation) if name == "conv_general_dilated" else (False, False)
                reads = [copied(*one) for one in zip(reads, variables, turns, strict=True)]
            written = number(equation.outvars)
            names.update(written)
            writes = tuple(written.values())
            if key is not None:
                known[key] = writes
            if platform == "cpu" and name in PRODUCTS and _is_half(equation.outvars[0]):
                sizes[written[equation.outvars[0]]] *= 2
            result = max(map(_elements, equation.outvars), default=0)
            pairs = [(v, r) for v, r in zip(variables, reads, strict=True) if r is not None]
            large = {r for v, r in pairs if _elements(v) >= result and r not in spread}
            if name in SPREAD:
                spread.update(writes)
            read = tuple(r for _, r in pairs)
            operations.append(Operation(name, read, writes, equation, len(large) <= 1))

    numbers = number(_open(jaxpr).invars)
    inputs.extend(numbers.values())
    names: dict[Any, int | None] = {**numbers, **constants(jaxpr)}
    walk(_open(jaxpr), names)
    outputs = [None if isinstance(v, Literal) else names[v] for v in _open(jaxpr).outvars]
    needed, kept = {value for value in outputs if value is not None}, []
    for operation in reversed(operations):
        if needed & set(operation.writes):
            needed |= set(operation.reads)
            kept.append(operation)
    return Program(kept[::-1], sizes, tuple(inputs), tuple(outputs))
