"""What XLA's compiler says of a step: memory, collectives, kernels."""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import Any

import jax

from imgcls_jax.planning.targets import WITHOUT_TRITON, Target

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?[\w.-]+ = (\(.*?\)|\S+) ([\w-]+)\(", re.MULTILINE)
SHAPE = re.compile(r"\b(pred|[a-z]+\d+\w*)\[([\d,]*)\]")
CONVOLUTION = re.compile(r'= \(?(\w+)\[.*custom_call_target="__cudnn\$conv|= (\w+)\[[^=]* convolution\(')
DOES_NOT_FIT = re.compile(
    r"Ran out of memory|exceeds available HBM|exceeds the limit of memory", re.IGNORECASE
)
NO_TILES = "output tile sizes"  # said of products that no form of Triton suits, where nothing can be tried


def compile_for(target: Target, lowered: Any) -> Any:
    """Compiles a lowered step for a target.

    Raises:
      MemoryError: the compiler says that it does not fit.
    """
    try:
        return lowered.compile(compiler_options=target.options or None)
    except jax.errors.JaxRuntimeError as error:
        if NO_TILES in str(error):
            return lowered.compile(compiler_options=target.options | WITHOUT_TRITON)
        if DOES_NOT_FIT.search(str(error)):
            raise MemoryError(_memory_line(str(error))) from error
        raise


def describe(compiled: Any) -> dict[str, Any]:
    """Returns what the compiler says of a program on one device.

    Returns:
      argument_bytes, temporary_bytes, total_bytes (arguments, temporaries and those outputs that lie in no
      argument's place); collectives, {name: {"count", "bytes"}}; kernels, {instruction: count} of fusions,
      library calls, copies and loops; convolutions, {dtype: count}.
    """
    analysis = compiled.memory_analysis()
    arguments, temporaries = analysis.argument_size_in_bytes, analysis.temp_size_in_bytes
    outputs = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    text = compiled.as_text()
    collectives, kernels = read(text)
    return {
        "argument_bytes": arguments,
        "temporary_bytes": temporaries,
        "total_bytes": arguments + temporaries + outputs,
        "collectives": collectives,
        "kernels": kernels,
        "convolutions": dict(Counter(one or other for one, other in CONVOLUTION.findall(text))),
    }


def read(text: str) -> tuple[dict[str, dict[str, int]], dict[str, int]]:
    """Returns (collectives, kernels) of a compiled program's text, as `describe` has them."""
    collectives: dict[str, dict[str, int]] = {}
    kernels: Counter[str] = Counter()
    entry = text[text.rfind("\nENTRY ") :]
    for shape, name in INSTRUCTION.findall(text):
        plain = name.removesuffix("-start")
        if plain in COLLECTIVES:
            found = collectives.setdefault(plain, {"count": 0, "bytes": 0})
            found["count"] += 1
            found["bytes"] += _bytes(_results(shape, name))
    names = {"fusion": "fusions", "custom-call": "library calls", "copy": "copies", "while": "loops"}
    for _, name in INSTRUCTION.findall(entry):
        plain = name.removesuffix("-start")
        if plain in names:
            kernels[names[plain]] += 1
    return collectives, dict(kernels)


def _results(shape: str, name: str) -> str:
    """Returns the shapes that a collective writes: those begun apart name what they read before it."""
    if name == "all-reduce-start" or not name.endswith("-start"):
        return shape
    parts = SHAPE.findall(shape)
    return " ".join(f"{dtype}[{sides}]" for dtype, sides in parts[len(parts) // 2 :])


def _bytes(shape: str) -> int:
    return sum(
        math.prod(map(int, filter(None, sides.split(",")))) * _width(dtype)
        for dtype, sides in SHAPE.findall(shape)
    )


def _width(dtype: str) -> int:
    """Returns the bytes of a number of a dtype as XLA writes it: bf16, f32, s8, pred."""
    bits = re.search(r"\d+", dtype)
    return max(1, int(bits[0]) // 8) if bits else 1


def _memory_line(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if DOES_NOT_FIT.search(line)]
    return lines[0][:200]
