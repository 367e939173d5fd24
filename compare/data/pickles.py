"""What a pickle says, without doing what it says.

`pickle.load` imports and calls whatever the file names: loading is running. Here the opcodes
are read (`pickletools.genops`) and turned into plain values; a class or function is only its
name, `Global`, and a call is only a record, `Call`. Nothing is imported, nothing is called, and
no length or index in the file decides how much memory is taken. Protocols 0 to 4 as far as
numbers, strings, lists, tuples, dicts and arrays go, which is what datasets are made of.

Python 2 wrote bytes as strings; here both are `str`, one character per byte (latin-1).
"""

from __future__ import annotations

import pickletools
import warnings
from dataclasses import dataclass
from typing import Any, NamedTuple

from compare.data.files import DataError


class Global(NamedTuple):
    """The name of a class or function."""

    module: str
    name: str


@dataclass(eq=False)
class Call:
    """A call that was not made: `function(*arguments)`, then `__setstate__(state)`."""

    function: Global
    arguments: tuple[Any, ...]
    state: Any = None


VALUES = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
    "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
}  # fmt: skip
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
EMPTY = {"EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_DICT": dict}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
MARK = object()


def read_pickle(raw: bytes | bytearray) -> Any:
    """The value the pickle `raw` describes, built from plain values, Global and Call."""
    machine = _Machine()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a bad escape sequence in a string is damage, too
            for opcode, argument, _ in pickletools.genops(raw):
                machine.do(opcode.name, argument)
        (value,) = machine.stack
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, Warning) as error:
        raise DataError(f"is not a readable pickle ({error})") from error
    return value


class _Machine:
    """The pickle machine: a stack and a memo."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def do(self, name: str, argument: Any) -> None:
        stack, memo = self.stack, self.memo
        if name in VALUES:
            stack.append(argument.decode("latin-1") if isinstance(argument, bytes) else argument)
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name in EMPTY:
            stack.append(EMPTY[name]())
        elif name in TUPLES:
            stack.append(tuple(self.pop(TUPLES[name])))
        elif name == "MARK":
            stack.append(MARK)
        elif name in ("TUPLE", "LIST"):
            stack.append(tuple(self.pop_to_mark()) if name == "TUPLE" else self.pop_to_mark())
        elif name in ("APPEND", "APPENDS"):
            items = self.pop(1) if name == "APPEND" else self.pop_to_mark()
            stack[-1].extend(items)
        elif name in ("SETITEM", "SETITEMS", "DICT"):
            items = self.pop(2) if name == "SETITEM" else self.pop_to_mark()
            if name == "DICT":
                stack.append({})
            stack[-1].update(_pairs(items))
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if name == "MEMOIZE" else argument] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "GLOBAL":
            stack.append(Global(*argument.split(" ")))
        elif name == "STACK_GLOBAL":
            stack.append(Global(*self.pop(2)))
        elif name == "REDUCE":
            stack.append(_call(*self.pop(2)))
        elif name == "BUILD":
            (state,) = self.pop(1)
            stack[-1].state = state
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise ValueError(f"opcode {name} has no place in a dataset")

    def pop(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise ValueError("more is taken from the stack than was put there")
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def pop_to_mark(self) -> list[Any]:
        where = len(self.stack) - 1 - self.stack[::-1].index(MARK)
        items = self.stack[where + 1 :]
        del self.stack[where:]
        return items


def _pairs(items: list[Any]) -> dict[str, Any]:
    keys, values = items[::2], items[1::2]
    if not all(isinstance(key, str) for key in keys):
        raise ValueError("a dict has a key that is not a string")
    return dict(zip(keys, values, strict=True))


def _call(function: Any, arguments: Any) -> Any:
    if not isinstance(function, Global) or not isinstance(arguments, tuple):
        raise ValueError("something that is not a function is called")
    if function == ("_codecs", "encode") and len(arguments) == 2 and arguments[1] == "latin1":
        return arguments[0]  # how Python 3 writes bytes in protocol 2; here bytes are latin-1 strings
    return Call(function, arguments)
