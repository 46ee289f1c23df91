"""What the program in an export may do.

An export is a program: of a stranger's it may compute for as long as it likes, and take memory, as any
network. It may do nothing but compute. A custom call names a function of the process by name or address,
so the one of our own exports alone is let through, and no operation that reads or sends anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jax.extend import mlir
from jax.interpreters.mlir import make_ir_context

DIALECTS = ("builtin", "func", "stablehlo", "chlo", "sdy")
CUSTOM_CALLS = (
    "shape_assertion",
)  # of sizes that depend on the batch; jax acts on it before the program runs
COMPOSITES = "chlo."  # operations that newer files keep by name, beside their parts
REFUSED = ("stablehlo.infeed", "stablehlo.outfeed", "stablehlo.send", "stablehlo.recv")
MAX_OPERATIONS = 1_000_000


def require_allowed(program: bytes) -> None:
    """Checks every operation of a program before it is compiled.

    Args:
      program: of jax.export.Exported.mlir_module_serialized.

    Raises:
      ValueError: one that no export of this package has; names it.
    """
    with make_ir_context():
        module = mlir.deserialize_portable_artifact(program)
        for number, operation in enumerate(_operations(module.operation)):
            name = operation.name
            if number == MAX_OPERATIONS:
                raise ValueError(f"its program has more than {MAX_OPERATIONS} operations")
            if name == "stablehlo.custom_call":
                target = str(operation.attributes["call_target_name"]).strip('"')
                if target not in CUSTOM_CALLS:
                    raise ValueError(f"its program calls {target[:60]!r}, which no export of a network does")
            elif name == "stablehlo.composite":
                if not str(operation.attributes["name"]).strip('"').startswith(COMPOSITES):
                    raise ValueError("its program has a composite that no network has")
            elif name.partition(".")[0] not in DIALECTS or name in REFUSED:
                raise ValueError(f"its program has the operation {name[:60]!r}, which no network has")


def _operations(operation: Any) -> Iterator[Any]:
    """Yields an operation and all within it; a loop, since a program may be nested deeply."""
    waiting = [operation]
    while waiting:
        one = waiting.pop()
        yield one
        waiting += [inner.operation for region in one.regions for block in region for inner in block]
