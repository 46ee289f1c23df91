"""What a step will cost, from its jaxpr alone, before anything is compiled.

`flops` counts the multiplications and additions of convolutions and matrix products, two for each pair.
`temporary_bytes` follows the values from the operation that makes them to the last that reads them and
returns the most bytes alive at once. Its rule of what XLA keeps in memory:

  a kernel (convolution, matrix product, pooling, gather, sort, a loop, ...) or reduction writes its result;
  what a kernel reads is written first;
  so is an elementwise value with readers on both sides of a kernel: one fused loop cannot serve them both;
  all else is fused into its readers, which then read its inputs.

Operations run in the jaxpr's order. XLA for CPUs differs, as its compiled programs show:

  it runs what is ready, first come, first served: all that waits for weights alone before the first layer,
  all factors of a sum of products before the first product;
  reductions read memory as kernels do, and the factors of what they add up at their full size;
  what is made cheaply of one value as large is made anew in fused loops, and written for kernels alone;
  an exponential or the like is computed once, and written where it goes into a loop after a kernel;
  a weight that others than its successor's makers read is copied: the successor takes its memory at once.

Devices add up what each has summed over its own rows. XLA adds up at once the sums that no other such sum
waits for, the gradients among them, 256 at a time: until then a device keeps each, one for every pass where a
parameter serves several, and then it has them twice, its own and the total.
"""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

from imgcls_jax.planning.step_program import (
    LOOPS,
    PRODUCTS,
    SPREAD,
    Operation,
    Program,
    bodies,
    program_of,
)

COPY = "copy of an input"
KERNELS = (
    COPY,
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
COSTLY = (
    *("exp", "exp2", "expm1", "log", "log1p", "pow", "sqrt", "rsqrt", "cbrt", "tanh", "logistic"),
    *("erf", "erfc", "erf_inv", "sin", "cos", "tan", "atan2", "lgamma", "digamma"),
)
JOINED = ("pad", "concatenate")  # fused, but never made anew: many windows read one such value
ADDED_AT_ONCE = 256  # sums


class Schedule(NamedTuple):
    """When values are in memory; times count operations.

    Attributes:
      order: places in Program.operations, as they run.
      born: {value: time at which it is written}, of those that are.
      last: {value: time of its last reader}.
    """

    order: list[int]
    born: dict[int, int]
    last: dict[int, int]


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
    equations = [operation.equation for operation in program_of(jaxpr, platform).operations]
    return sum(_flops_of(equation, platform) for equation in equations if equation is not None)


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
    within = [flops(body, platform=platform) for body in bodies(equation)]
    return max(within, default=0) if name == "cond" else sum(within) * parameters.get("length", 1)


def temporary_bytes(jaxpr: Any, *, platform: str, wider: Any = None, donated: int = 0) -> int:
    """Returns the most bytes alive at once besides the inputs, by the rule above.

    Outputs that are fused count nothing: a donated state takes them in.

    Args:
      jaxpr, platform: as for flops; of one device's share of the rows.
      wider: the same function's for more rows, which shows what is summed over rows; None where devices
        add up nothing, or the jaxpr itself says what (jax.lax.psum).
      donated: how many inputs, the first, give their memory to as many outputs, the first.
    """
    program = program_of(jaxpr, platform)
    other = None if wider is None else program_of(wider, platform)
    if other and [one.name for one in program.operations] != [one.name for one in other.operations]:
        other = None  # a permutation of more rows may take another round
    pairs = zip(program.operations, other.operations, strict=True) if other else ()
    wide = {id(one.equation): widened.equation for one, widened in pairs}
    program = _added_up(program, _sums(program, other))
    if platform == "cpu":
        program = _spread_out(_saved(program, donated))
    schedule = _schedule(program, platform)
    births: defaultdict[int, int] = defaultdict(int)
    deaths: defaultdict[int, int] = defaultdict(int)
    for value, at in schedule.born.items():
        births[at] += program.sizes[value]
        deaths[max(schedule.last.get(value, at), at)] += program.sizes[value]
    alive = peak = 0
    for at, place in enumerate(schedule.order):
        operation = program.operations[place]
        alive += births[at]
        inner = list(bodies(operation.equation))
        wider_inner = bodies(wide[id(operation.equation)]) if wide and inner else [None] * len(inner)
        within = [
            temporary_bytes(body, platform=platform, wider=one)
            for body, one in zip(inner, wider_inner, strict=True)
        ]
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
    """Returns the program with the sums that lead to no other added up, each group in one late operation."""
    leads_on: set[int] = set()
    for operation in reversed(program.operations):
        if (leads_on | sums) & set(operation.writes):
            leads_on |= set(operation.reads)
    last = sorted(sums - leads_on, reverse=True)  # XLA begins with those that are ready last
    for start in range(0, len(last), ADDED_AT_ONCE):
        program = _added_up_at_once(program, last[start : start + ADDED_AT_ONCE])
    return program


def _added_up_at_once(program: Program, sums: Sequence[int]) -> Program:
    totals = {value: len(program.sizes) + place for place, value in enumerate(sums)}
    sizes = program.sizes | {total: program.sizes[value] for value, total in totals.items()}
    before: list[Operation] = []
    after: list[Operation] = []
    known_after = set(sums)
    for operation in program.operations:
        late = not known_after.isdisjoint(operation.reads)
        known_after |= set(operation.writes) if late else set()
        reads = tuple(totals.get(value, value) for value in operation.reads)
        (after if late else before).append(operation._replace(reads=reads))
    adding = Operation("all_reduce", tuple(sums), tuple(totals.values()))
    outputs = tuple(None if value is None else totals.get(value, value) for value in program.outputs)
    return Program([*before, adding, *after], sizes, program.inputs, outputs)


def _saved(program: Program, donated: int) -> Program:
    """Returns the program with copies of the inputs that others than an output's makers read.

    The output takes the input's memory as soon as it is made; whatever it does not wait for reads a copy.
    """
    successors = dict(zip(program.inputs[:donated], program.outputs[:donated], strict=True))
    makers = {value: at for at, operation in enumerate(program.operations) for value in operation.writes}
    waits_for: list[int] = []  # a set in bits: the operation itself and all before it
    copies: dict[int, int] = {}
    for at, operation in enumerate(program.operations):
        before = [waits_for[makers[value]] for value in operation.reads if value in makers]
        waits_for.append(functools.reduce(operator.or_, before, 1 << at))
    for at, operation in enumerate(program.operations):
        for value in operation.reads:
            successor = successors.get(value)
            maker = None if successor is None else makers.get(successor)
            if maker is not None and not waits_for[maker] >> at & 1:
                copies.setdefault(value, len(program.sizes) + len(copies))
    copying = [Operation(COPY, (value,), (copy,)) for value, copy in copies.items()]
    reading = [
        operation._replace(reads=tuple(copies.get(value, value) for value in operation.reads))
        for operation in program.operations
    ]
    sizes = program.sizes | {copy: program.sizes[value] for value, copy in copies.items()}
    return program._replace(operations=copying + reading, sizes=sizes)


def _spread_out(program: Program) -> Program:
    """Returns the program with factors as large as the products that reductions, and they alone, add up."""
    factors = _factors(program.operations)
    sizes, operations = dict(program.sizes), []
    for at, operation in enumerate(program.operations):
        reads = list(operation.reads) if at in factors else []
        for place, value in enumerate(reads):
            if sizes[value] < sizes[operation.writes[0]]:
                reads[place] = len(sizes)
                sizes[reads[place]] = sizes[operation.writes[0]]
                operations.append(Operation("broadcast_in_dim", (value,), (reads[place],)))
        operations.append(operation._replace(reads=tuple(reads)) if reads else operation)
    return program._replace(operations=operations, sizes=sizes)


def _factors(operations: Sequence[Operation]) -> set[int]:
    """Returns the places of the products that nothing but reductions reads."""
    names = defaultdict(set)
    for operation in operations:
        for value in operation.reads:
            names[value].add(operation.name)
    return {
        at
        for at, operation in enumerate(operations)
        if operation.name == "mul" and set() < names[operation.writes[0]] <= {*REDUCTIONS}
    }


def _schedule(program: Program, platform: str) -> Schedule:
    """Says which values are written to memory, when, and until when they are read."""
    operations, outputs = program.operations, set(program.outputs)
    writers, reads = _memory(program, on_cpu=platform == "cpu")
    order = list(range(len(operations)))
    if platform == "cpu":
        order = _first_come([{writers[value] for value in read if value in writers} for read in reads])
    time = {at: when for when, at in enumerate(order)}
    last = {value: len(order) - 1 for value in outputs if value in writers}
    for at, operation in enumerate(operations):
        if any(value in writers or value in outputs for value in operation.writes):
            for value in reads[at]:
                last[value] = max(last.get(value, 0), time[at])
    return Schedule(order, {value: time[at] for value, at in writers.items()}, last)


def _memory(program: Program, *, on_cpu: bool) -> tuple[dict[int, int], list[set[int]]]:
    """Returns {value: place of the operation that writes it}, and what each operation reads in memory."""
    operations = program.operations
    kernels = (*KERNELS, *REDUCTIONS)
    factors = _factors(operations) if on_cpu else set()
    unfused = [
        operation.name in (kernels if on_cpu else KERNELS) or at in factors
        for at, operation in enumerate(operations)
    ]
    kernels_before = list(itertools.accumulate(operation.name in KERNELS for operation in operations))
    asked_for = _asked_for(operations, unfused)
    first, last, far = _reach(operations, kernels_before, unfused)

    buffers = {value: {value} for value in program.inputs}  # what must be in memory for a value to be read
    anew: dict[int, set[int]] = {}  # the same for a fused reader, where it computes the value itself
    spread: set[int] = set()
    costly: set[int] = set()
    writers: dict[int, int] = {}
    reads: list[set[int]] = []
    for at, operation in enumerate(operations):
        seen = [buffers[v] if unfused[at] else anew.get(v, buffers[v]) for v in operation.reads]
        read = set().union(*seen)
        reads.append(read)
        renames = operation.name in SAME_BYTES
        if operation.name in SPREAD or (renames and set(operation.reads) <= spread):
            spread.update(operation.writes)
        is_costly = on_cpu and (operation.name in COSTLY or not costly.isdisjoint(operation.reads))
        is_cheap = on_cpu and operation.is_unary and not is_costly and operation.name not in JOINED
        for value in operation.writes:
            if operation.name in kernels:
                written = True
            elif at in factors or (renames and read == set(operation.reads)):
                written = False
            elif value in asked_for:
                written = True
            elif on_cpu and operation.name in COSTLY:
                written = far[value] > kernels_before[at]
            else:
                written = last[value] > first[value] and not is_cheap and value not in spread
            buffers[value] = {value} if written else read
            if written:
                writers[value] = at
                if is_cheap and operation.name not in kernels:
                    anew[value] = read
            elif is_costly:
                costly.add(value)
    return writers, reads


def _asked_for(operations: Sequence[Operation], unfused: Sequence[bool]) -> set[int]:
    """Returns the values that an unfused operation reads, under this name or another."""
    asked_for: set[int] = set()
    for operation, reads_memory in zip(reversed(operations), reversed(unfused), strict=True):
        renamed = operation.name in SAME_BYTES and not asked_for.isdisjoint(operation.writes)
        if reads_memory or renamed:
            asked_for.update(operation.reads)
    return asked_for


def _reach(
    operations: Sequence[Operation], kernels_before: Sequence[int], unfused: Sequence[bool]
) -> tuple[dict[int, int], dict[int, int], dict[int, int]]:
    """Returns {value: kernels before its first reader}, its last, and the last loop that it goes into."""
    first: dict[int, int] = defaultdict(int)
    last: dict[int, int] = defaultdict(int)
    far: dict[int, int] = defaultdict(int)
    for at, operation in reversed(list(enumerate(operations))):
        beyond = [] if unfused[at] else [far[result] for result in operation.writes]
        for value in operation.reads:
            first[value] = kernels_before[at]
            last[value] = max(last[value], kernels_before[at])
            far[value] = max(far[value], kernels_before[at], *beyond)
    return first, last, far


def _first_come(waits_for: Sequence[set[int]]) -> list[int]:
    """Returns the operations in the order in which they get ready, given those that each waits for."""
    missing = [len(others) for others in waits_for]
    followers = defaultdict(list)
    for at, others in enumerate(waits_for):
        for other in others:
            followers[other].append(at)
    order = [at for at, number in enumerate(missing) if not number]
    for at in order:
        for follower in followers[at]:
            missing[follower] -= 1
            if not missing[follower]:
                order.append(follower)
    return order
