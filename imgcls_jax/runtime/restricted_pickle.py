"""An unpickler that runs nothing: a pickle is a program, and this one knows a few inert names alone.

Whoever uses it says which names a file may ask for, and what stands for each: records and placeholders that
do nothing. Every other name is refused, objects are never given a state, and no opcode allocates more than
the file holds.
"""

from __future__ import annotations

import functools
import pickle
import reprlib
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, ClassVar

MAX_KEY = 2**31  # whole numbers below are keys; larger ones may be chosen to have one hash

# The text of a thing from a pickle, cut short: a list of a few bytes may hold itself 2^40 times.
shown = reprlib.repr


def require_key(key: Any) -> None:
    """Raises ValueError for what is no key of such a file: others may take for ever to hash or compare."""
    if not (isinstance(key, (str, bytes)) or (isinstance(key, int) and 0 <= key < MAX_KEY)):
        raise ValueError(f"a key is neither a name nor a small number: {shown(key)}")


# The one that is written in Python: each of its opcodes is a method.
_PythonUnpickler: Any = pickle._Unpickler


class RestrictedUnpickler(_PythonUnpickler):
    """Unpickles plain containers, and what the subclass allows.

    The unpickler written in Python is the one to restrict: its memo is a dictionary, so a huge index in a
    file allocates nothing, and opcodes can be replaced. Tuples come out as lists, which are no keys, and
    there are no sets: to hash tuples or sets nested forty deep can take longer than a life.

    Attributes:
      allowed: {(module, name): what stands for it}.
      kind, way_out: what such a file is, and what to do where it asks for another name, for messages.

    Args:
      file: the pickle.
      encoding: of the strings of Python 2.
    """

    allowed: ClassVar[Mapping[tuple[str, str], Any]] = {}
    kind: ClassVar[str] = "file of its kind"
    way_out: ClassVar[str] = ""
    stack: list[Any]
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(_PythonUnpickler.dispatch)

    def __init__(self, file: BinaryIO, encoding: str = "utf-8") -> None:
        super().__init__(file, encoding=encoding)

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self.allowed[module, name]
        except KeyError:
            raise ValueError(
                f"the pickle asks for {module}.{name}, which no {self.kind} needs; nothing of it was run. "
                f"{self.way_out}".rstrip()
            ) from None

    def give_state(self, record: Any, state: Any) -> None:
        """Takes a state for an object. Here nothing is done with it: no attribute of any object is set."""

    def take_state(self) -> None:
        state = self.stack.pop()
        self.give_state(self.stack[-1], state)

    def gather(self, count: int) -> None:
        self.stack[len(self.stack) - count :] = [self.stack[len(self.stack) - count :]]

    def set_item(self) -> None:
        require_key(self.stack[-2])
        self.load_setitem()

    def set_items(self) -> None:
        for key in self.stack[::2]:  # what follows the mark
            require_key(key)
        self.load_setitems()

    def make_dict(self) -> None:
        self.stack, items = self.metastack.pop(), self.stack
        self.append = self.stack.append
        for key in items[::2]:
            require_key(key)
        self.append({items[i]: items[i + 1] for i in range(0, len(items), 2)})

    def put(self) -> None:
        number = int(self.readline()[:-1])
        require_key(number)
        self.memo[number] = self.stack[-1]

    def refuse(self) -> None:
        raise ValueError(f"the pickle uses an opcode that no {self.kind} needs")

    dispatch[pickle.BUILD[0]] = take_state
    dispatch[pickle.TUPLE[0]] = _PythonUnpickler.dispatch[pickle.LIST[0]]
    for number, opcode in enumerate((pickle.EMPTY_TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3)):
        dispatch[opcode[0]] = functools.partial(gather, count=number)
    dispatch[pickle.SETITEM[0]], dispatch[pickle.SETITEMS[0]] = set_item, set_items
    dispatch[pickle.DICT[0]], dispatch[pickle.PUT[0]] = make_dict, put
    for opcode in (pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.BYTEARRAY8, pickle.NEXT_BUFFER):
        dispatch[opcode[0]] = refuse
    for opcode in (pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET):
        dispatch[opcode[0]] = refuse
