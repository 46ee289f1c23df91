"""The line that describes a pipeline of transforms, and the function that runs its host side.

    decode | resize(48) | random_resized_crop(48) | flip | rotate(20) | normalize(0.5, 0.5)

A line holds names or calls with literal arguments, joined by "|", in the order of application. Host
operations come first (`data/host_operations.py`); they see one image. Device operations follow
(`data/augment.py`); they see a batch, inside the train step. `parse` turns the line into both lists and
executes nothing in it. `apply` runs the host operations on one example.
"""

from __future__ import annotations

import ast
import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from imgcls_jax.data.decoding import check_array, from_array
from imgcls_jax.data.host_operation import Example, HostOp
from imgcls_jax.data.host_operations import HOST_OPERATIONS

if TYPE_CHECKING:
    from imgcls_jax.data.device_operation import DeviceOp

OF_WEIGHTS = "of_weights"  # a word that train/of_weights.py writes out

# Earlier names of operations and arguments. The lines of finished runs hold them.
RENAMED = {"grey": "gray", "greyscale": "grayscale", "area": "scale"}


def apply(ops: Sequence[HostOp], example: bytes | np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Runs host operations on one example.

    Args:
      ops: the host operations of `parse`, in order.
      example: encoded bytes, for which the first operation must be `decode`, or uint8 [H, W, 1 or 3].
      rng: all randomness.

    Returns:
      uint8 [H, W, C], C = 3, or 1 where the image is gray. Read-only, except that with no operations it is
      the example itself.

    Raises:
      ValueError: the example cannot be decoded, is encoded where no `decode` comes first, or an operation
        refuses it.
    """
    if not isinstance(example, np.ndarray) and (not ops or ops[0].name != "decode"):
        raise ValueError("the example is an encoded file: begin the line of transforms with decode")
    image: Example = example
    if isinstance(example, np.ndarray):
        check_array(example)
        if not ops:
            return example
        image = from_array(example) if ops[0].name != "decode" else example
    for op in ops:
        image = op(image, rng)
    pixels = np.asarray(image)
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def parse(line: str) -> tuple[tuple[HostOp, ...], tuple[DeviceOp, ...]]:
    """Reads a line of operations, as the head of this file shows one. Nothing in it is executed.

    Args:
      line: operations joined by "|", on one line or several; blank for none.

    Returns:
      (host operations, device operations), for `apply` and `imgcls_jax.data.augment.compose`.

    Raises:
      ValueError: on a syntax error, an unknown operation, arguments that are not literals or do not suit, a
        host operation after a device one, or a `decode` that is not the first.
    """
    host: list[HostOp] = []
    device: list[DeviceOp] = []
    for name, arguments, keywords in _calls(line):
        factory = _find(name)
        op = _make(name, factory, arguments, keywords)
        if not isinstance(op, HostOp):
            device.append(op)
            continue
        if device:
            raise ValueError(
                f"host operation {name!r} stands after device operation {device[-1].name!r} in {line!r}: "
                "host operations (one image) come first, device operations (a batch) after them"
            )
        if name == "decode" and host:
            raise ValueError(
                f"decode must be the first operation, got {host[-1].name!r} before it in {line!r}"
            )
        host.append(op)
    return tuple(host), tuple(device)


def random_operations(host_ops: Sequence[HostOp], device_ops: Sequence[DeviceOp]) -> list[str]:
    """Returns the names of the random operations, in order."""
    operations: list[HostOp | DeviceOp] = [*host_ops, *device_ops]
    return [op.name for op in operations if op.random]


def deterministic_prefix(lines: Sequence[Sequence[HostOp]]) -> tuple[HostOp, ...]:
    """Returns the leading deterministic operations that all lines share."""
    start = []
    for op, *others in zip(*lines, strict=False):
        if op.random or any(other != op for other in others):
            break
        start.append(op)
    return tuple(start)


def written_out(
    line: str, whole: str, arguments: Mapping[str, tuple[Sequence[Any], Mapping[str, Any]]]
) -> str:
    """Returns a line in which the word `of_weights` is replaced.

    Args:
      line: with the word as an operation, or as the first argument of some.
      whole: what stands in place of the operation.
      arguments: {operation: what stands in place of its argument; keywords that it gets where it has none of
        that name}.

    Raises:
      ValueError: a syntax error, or the word stands elsewhere.
    """
    written = []
    for element in _elements(line):
        text = ast.unparse(element)
        name = element.func.id if isinstance(element, ast.Call) and isinstance(element.func, ast.Name) else ""
        if text == OF_WEIGHTS:
            text = whole
        elif isinstance(element, ast.Call) and element.args and ast.unparse(element.args[0]) == OF_WEIGHTS:
            if name not in arguments:
                raise ValueError(
                    f"{OF_WEIGHTS} is an operation, or the first argument of {', '.join(sorted(arguments))}; "
                    f"got {text!r}"
                )
            first, keywords = arguments[name]
            given = {str(keyword.arg): ast.unparse(keyword.value) for keyword in element.keywords}
            given = {key: repr(value) for key, value in keywords.items()} | given
            own = [*map(repr, first), *map(ast.unparse, element.args[1:])]
            text = f"{name}({', '.join([*own, *(f'{key}={value}' for key, value in given.items())])})"
        written.append(text)
    return " | ".join(written)


def spelled(line: str) -> list[tuple[str, dict[str, Any]]]:
    """Returns (name, arguments) of each operation of a line, defaults filled in.

    Raises:
      ValueError: as `parse` does.
    """
    parse(line)
    operations = []
    for name, arguments, keywords in _calls(line):
        bound = inspect.signature(_find(name)).bind(*arguments, **keywords)
        bound.apply_defaults()
        operations.append((name, dict(bound.arguments)))
    return operations


def _calls(line: str) -> list[tuple[str, list[Any], dict[str, Any]]]:
    """(name, positional arguments, keyword arguments) of each operation of the line."""
    if not line.strip():
        return []
    if OF_WEIGHTS in line:
        raise ValueError(
            f"{OF_WEIGHTS} stands for what the weights of config.model.pretrained say, and is written out "
            f"when a run begins: write out the line {line!r}"
        )
    return [_call(element) for element in _elements(line)]


def _elements(line: str) -> list[ast.expr]:
    """Returns the operations of a line, in order."""
    try:
        node = ast.parse(f"({line}\n)", mode="eval").body
    except (SyntaxError, ValueError) as error:
        raise ValueError(
            f"cannot read the line {line!r} ({error.args[0]}): expected 'decode | resize(48) | flip'"
        ) from None
    nodes = []
    while isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        nodes.append(node.right)
        node = node.left
    return [*reversed([*nodes, node])]


def _call(node: ast.expr) -> tuple[str, list[Any], dict[str, Any]]:
    function = node.func if isinstance(node, ast.Call) else node
    if not isinstance(function, ast.Name):
        raise ValueError(
            f"expected an operation, such as flip or resize(48), joined by '|', got {ast.unparse(node)!r}"
        )
    if not isinstance(node, ast.Call):
        return _current(function.id), [], {}
    try:
        arguments = [ast.literal_eval(argument) for argument in node.args]
        keywords = {_current(str(keyword.arg)): ast.literal_eval(keyword.value) for keyword in node.keywords}
    except ValueError:
        raise ValueError(
            f"arguments must be literal numbers, strings or tuples, got {ast.unparse(node)!r} (0.75, not 3/4)"
        ) from None
    return _current(function.id), arguments, keywords


def _current(word: str) -> str:
    return RENAMED.get(word, word)


def _find(name: str) -> Callable[..., HostOp | DeviceOp]:
    if name in HOST_OPERATIONS:
        return HOST_OPERATIONS[name]
    # Here, so that a host-only line and worker processes do not load jax.
    from imgcls_jax.data.augment import DEVICE_OPERATIONS

    if name in DEVICE_OPERATIONS:
        return DEVICE_OPERATIONS[name]
    near = difflib.get_close_matches(name, [*HOST_OPERATIONS, *DEVICE_OPERATIONS], n=1)
    hint = f", did you mean {near[0]!r}?" if near else "."
    raise ValueError(
        f"unknown operation {name!r}{hint} Host operations: {', '.join(HOST_OPERATIONS)}. "
        f"Device operations: {', '.join(DEVICE_OPERATIONS)}."
    )


def _make(name: str, factory: Callable[..., Any], arguments: list[Any], keywords: dict[str, Any]) -> Any:
    try:
        return factory(*arguments, **keywords)
    except (TypeError, ValueError) as error:
        signature = inspect.signature(factory, eval_str=True).replace(
            return_annotation=inspect.Signature.empty
        )
        raise ValueError(f"{error}; the operation is {name}{signature}") from None
