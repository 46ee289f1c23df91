"""What a step will cost, from its jaxpr alone, before anything is compiled.

`flops` counts the multiplications and additions of convolutions and matrix products, two for each pair.
`temporary_bytes` follows the values from the equation that makes them to the last that reads them, as they
stand in the jaxpr, and returns the most bytes alive at once. Its rule of what XLA keeps in memory:

  a kernel (convolution, matrix product, pooling, gather, sort, a loop, ...) or reduction writes its result;
  what a kernel reads is written first;
  so is an elementwise value with readers on both sides of a kernel: one fused loop cannot serve them both;
  all else is fused into its readers, which then read its inputs;
  a CPU multiplies numbers of 16 bits as float32: it copies what a product reads, and keeps what that wrote.

Devices add up what each has summed over its own rows. XLA adds up at once all sums that no other such sum
waits for, the gradients among them: until then a device keeps each, one for every pass where a parameter
serves several, and then it has them twice, its own and the total.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from jax.extend.core import Literal

LOOPS = ("scan", "while", "cond")
PRODUCTS = ("conv_general_dilated", "dot_general")
KERNELS = (
    *LOOPS,
    *PRODUCTS,
    *("fft", "gather", "sort", "top_k", "argmax", "argmin"),
    *("reduce_window", "reduce_window_max", "reduce_window_sum", "reduce_window_min"),
    *("select_and_scatter_add", "select_and_gather_add", "random_bits", "dynamic_update_slice"),
    *("scatter", "scatter-add", "scatter_add", "scatter-mul", "scatter-min", "scatter-max"),
    *("cumsum", "cummax", "cumlogsumexp", "cholesky", "eigh", "qr", "svd", "triangular_solve"),
    *("all_reduce", "all_gather", "sharding_constraint"),
)
REDUCTIONS = ("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or")
SAME_BYTES = ("reshape", "squeeze", "expand_dims", "copy")  # another name for the same buffer


class Operation(NamedTuple):
    """An equation of the whole program; values are numbered."""

    name: str
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    equation: Any


class Program(NamedTuple):
    """A jaxpr with its calls inlined and without what nothing reads.

    Attributes:
      operations: in order; one that XLA adds has no equation.
      sizes: bytes of every value.
      inputs, outputs: values; constants are inputs.
    """

    operations: list[Operation]
    sizes: dict[int, int]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def flops(jaxpr: Any, *, platform: str) -> float:
    """Counts the floating point operations of convolutions and matrix products.

    Args:
      jaxpr: of jax.jit(...).trace(...), say.
      platform: "cpu", "cuda" or "tpu", where jax.lax.platform_dependent gives each its own form.

    The body of a `while` counts once, and of a `cond` the dearest branch. Zeros laid between the pixels of a
    gradient are not counted, those at the border are.

    Returns:
      2 * (number of multiply-adds).
    """
    operations = _program(jaxpr, platform).operations
    return sum(_flops_of(operation.equation, platform) for operation in operations)


def _flops_of(equation: Any, platform: str) -> float:
    name, parameters = equation.primitive.name, equation.params
    shapes = [variable.aval.shape for variable in equation.invars]
    if name == "conv_general_dilated":
        spec = parameters["dimension_numbers"].rhs_spec
        window = math.prod(shapes[1]) / max(shapes[1][spec[0]], 1)
        written = math.prod(equation.outvars[0].aval.shape)
        return 2 * written * window / math.prod(parameters["lhs_dilation"])
    if name == "dot_general":
        (contracted, _), _ = parameters["dimension_numbers"]
        summed = math.prod(shapes[0][axis] for axis in contracted)
        return 2 * math.prod(equation.outvars[0].aval.shape) * summed
    bodies = [flops(body, platform=platform) for body in _bodies(equation)]
    return max(bodies, default=0) if name == "cond" else sum(bodies) * parameters.get("length", 1)


def temporary_bytes(jaxpr: Any, *, platform: str, wider: Any = None) -> int:
    """Returns the most bytes alive at once besides the inputs, by the rule above.

    Outputs that are fused count nothing: a donated state takes them in.

    Args:
      jaxpr, platform: as for flops; of one device's share of the rows.
      wider: the same function's for more rows, which shows what is summed over rows; None where devices
        add up nothing, or the jaxpr itself says what (jax.lax.psum).
    """
    program = _program(jaxpr, platform)
    other = None if wider is None else _program(wider, platform)
    if other and [one.name for one in program.operations] != [one.name for one in other.operations]:
        other = None  # a permutation of more rows may take another round
    pairs = zip(program.operations, other.operations, strict=True) if other else ()
    wide = {id(one.equation): widened.equation for one, widened in pairs}
    program = _added_up(program, _sums(program, other))
    born, last = _lifetimes(program)
    births, deaths = defaultdict(int), defaultdict(int)
    for value, at in born.items():
        births[at] += program.sizes[value]
        deaths[max(last.get(value, at), at)] += program.sizes[value]
    alive = peak = 0
    for at, operation in enumerate(program.operations):
        alive += births[at]
        bodies = list(_bodies(operation.equation))
        wider_bodies = _bodies(wide[id(operation.equation)]) if wide and bodies else [None] * len(bodies)
        within = [
            temporary_bytes(body, platform=platform, wider=one)
            for body, one in zip(bodies, wider_bodies, strict=True)
        ]
        if platform == "cpu" and operation.name in PRODUCTS:
            within.append(2 * sum(_bytes(read) for read in operation.equation.invars if _is_half(read)))
        peak = max(peak, alive + max(within, default=0))
        alive -= deaths[at]
    return peak


def _sums(program: Program, wider: Program | None) -> set[int]:
    """Returns the values that devices add up: sums over rows, as large for more of them, or those of psum."""
    if wider is None:
        # A matrix product writes its result turned at once.
        turned = {one.writes[0]: one.reads[0] for one in program.operations if one.name == "transpose"}
        read = {value for one in program.operations if one.name == "psum" for value in one.reads}
        return {turned.get(value, value) for value in read}
    grows = {value for value, size in program.sizes.items() if size != wider.sizes[value]}
    return {
        value
        for one in program.operations
        if one.name in (*KERNELS, *REDUCTIONS) and grows & set(one.reads) and not grows & set(one.writes)
        for value in one.writes
    }


def _added_up(program: Program, sums: set[int]) -> Program:
    """Returns the program with the sums that lead to no other added up in one operation, late enough."""
    leads_on: set[int] = set()
    for operation in reversed(program.operations):
        if (leads_on | sums) & set(operation.writes):
            leads_on |= set(operation.reads)
    last = sorted(sums - leads_on)
    if not last:
        return program
    totals = {value: len(program.sizes) + place for place, value in enumerate(last)}
    sizes = program.sizes | {total: program.sizes[value] for value, total in totals.items()}
    before, after, known_after = [], [], set(last)
    for operation in program.operations:
        late = bool(known_after & set(operation.reads))
        known_after |= set(operation.writes) if late else set()
        reads = tuple(totals.get(value, value) for value in operation.reads)
        (after if late else before).append(operation._replace(reads=reads))
    adding = Operation("all_reduce", tuple(last), tuple(totals.values()), None)
    outputs = tuple(totals.get(value, value) for value in program.outputs)
    return Program([*before, adding, *after], sizes, program.inputs, outputs)


def _lifetimes(program: Program) -> tuple[dict[int, int], dict[int, int]]:
    """Returns {value: place of the operation that writes it to memory}, and that of its last reader."""
    operations = program.operations
    kernels_before = list(itertools.accumulate(operation.name in KERNELS for operation in operations))
    readers = defaultdict(list)
    for at, operation in enumerate(operations):
        for value in operation.reads:
            readers[value].append(at)

    def is_written(operation: Operation, value: int, buffers: set[int]) -> bool:
        if operation.name in (*KERNELS, *REDUCTIONS):
            return True
        if operation.name in SAME_BYTES and buffers == set(operation.reads):
            return False
        places = readers[value]
        if any(operations[at].name in KERNELS for at in places):
            return True
        spread = operation.name not in (*SAME_BYTES, "broadcast_in_dim", "iota")
        return spread and bool(places) and kernels_before[places[-1]] > kernels_before[places[0]]

    buffers = {value: {value} for value in program.inputs}  # what must be in memory for a value to be read
    born: dict[int, int] = {}
    last: dict[int, int] = {}
    for at, operation in enumerate(operations):
        read = set().union(*(buffers[value] for value in operation.reads))
        for value in operation.writes:
            written = is_written(operation, value, read)
            buffers[value] = {value} if written else read
            if written:
                born[value] = at
                last.update(dict.fromkeys(read, at))
    end = len(operations) - 1
    last.update(dict.fromkeys(set().union(*(buffers[value] for value in program.outputs)), end))
    return born, last


# ---- a jaxpr as one list


def _bodies(equation: Any) -> Iterator[Any]:
    """Yields the jaxprs that an equation holds."""
    for parameter in equation.params.values() if equation is not None else ():
        for item in parameter if isinstance(parameter, tuple | list) else (parameter,):
            inner = getattr(item, "jaxpr", item)
            if hasattr(inner, "eqns"):
                yield inner


def _called(equation: Any, reads: list[int | None], platform: str) -> tuple[Any, list[int | None]]:
    """Returns the jaxpr that an equation simply calls, and what it reads; None where it is no call."""
    bodies, platforms = list(_bodies(equation)), equation.params.get("branches_platforms")
    if platforms:  # jax.lax.platform_dependent: the first operand only says which platform it is
        own = next(place for place, names in enumerate(platforms) if names is None or platform in names)
        return bodies[own], reads[1:]
    calls = bodies and equation.primitive.name not in LOOPS and len(bodies[0].invars) == len(reads)
    return (bodies[0] if calls else None), reads


def _bytes(variable: Any) -> int:
    shape, dtype = getattr(variable.aval, "shape", ()), getattr(variable.aval, "dtype", None)
    return math.prod(shape) * getattr(dtype, "itemsize", 0)


def _is_half(variable: Any) -> bool:
    return getattr(getattr(variable.aval, "dtype", None), "itemsize", 0) == 2


def _program(jaxpr: Any, platform: str) -> Program:
    """Inlines every call of a jaxpr and drops what no output needs."""
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    sizes: dict[int, int] = {}
    operations: list[Operation] = []

    def number(variables: Sequence[Any]) -> dict[Any, int]:
        numbers = {variable: len(sizes) + place for place, variable in enumerate(variables)}
        sizes.update({numbers[variable]: _bytes(variable) for variable in variables})
        return numbers

    def walk(inner: Any, names: dict[Any, int | None]) -> None:
        for equation in inner.eqns:
            reads = [None if isinstance(v, Literal) else names[v] for v in equation.invars]
            called, reads = _called(equation, reads, platform)
            if called is not None:
                constants = number(called.constvars)
                inputs.extend(constants.values())
                own = dict(zip(called.invars, reads, strict=True)) | constants
                walk(called, own)
                results = [None if isinstance(v, Literal) else own[v] for v in called.outvars]
                names.update(zip(equation.outvars, results, strict=True))
                continue
            written = number(equation.outvars)
            names.update(written)
            if platform == "cpu" and equation.primitive.name in PRODUCTS and _is_half(equation.outvars[0]):
                sizes[written[equation.outvars[0]]] *= 2
            known = tuple(value for value in reads if value is not None)
            operations.append(Operation(equation.primitive.name, known, tuple(written.values()), equation))

    names: dict[Any, int | None] = number([*jaxpr.invars, *jaxpr.constvars])
    inputs = list(names.values())
    walk(jaxpr, names)
    outputs = [None if isinstance(v, Literal) else names[v] for v in jaxpr.outvars]
    needed = {value for value in outputs if value is not None}
    results, kept = tuple(needed), []
    for operation in reversed(operations):
        if needed & set(operation.writes):
            needed |= set(operation.reads)
            kept.append(operation)
    return Program(kept[::-1], sizes, tuple(inputs), results)
