"""Reads the values that a pickle describes, and executes nothing.

`pickle.load` imports and calls whatever the file names. A `pickle.Unpickler` whose `find_class` refuses all names calls
nothing, but lets the file decide how much time and memory it takes (CPython 3.11): an index of the memo makes 2 GB of
7 bytes, keys with equal hashes take 17 s in 0.9 MB, a nested tuple as a key overflows the stack. So the opcodes are
interpreted here (`pickletools.genops`): a class or function is only its name, `Global`, and a call is only a record,
`Call`; time and memory are linear in the length of the file. Protocols 0 to 4, with numbers, strings, lists, tuples,
dicts with string keys, and arrays.

Python 2 wrote bytes as strings; here both are `str`, one character per byte (latin-1).
"""

from __future__ import annotations

import pickletools
import warnings
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from compare.data.files import DataError


class Global(NamedTuple):
    """The name of a class or function."""

    module: str
    name: str


@dataclass(eq=False)
class Call:
    """A recorded call: `function(*arguments)`, then `__setstate__(state)`."""

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
COUNTS = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "APPEND": 1, "SETITEM": 2, "STACK_GLOBAL": 2, "REDUCE": 2, "BUILD": 1}
TO_MARK = {"TUPLE", "LIST", "DICT", "APPENDS", "SETITEMS"}
DAMAGE = (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, Warning)


def read_pickle(raw: bytes | bytearray) -> Any:
    """The value that the pickle `raw` describes, of plain values, Global and Call; raise DataError for damage."""
    stack: list[Any] = []
    marks: list[int] = []  # lengths of the stack
    memo: dict[int, Any] = {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a bad escape sequence in a string is damage, too
            for opcode, found, _ in pickletools.genops(raw):
                name, argument = opcode.name, cast(Any, found)
                if name == "MARK":
                    marks.append(len(stack))
                elif "PUT" in name or name == "MEMOIZE":
                    memo[len(memo) if name == "MEMOIZE" else argument] = stack[-1]
                elif "GET" in name:
                    stack.append(memo[argument])
                elif name not in ("PROTO", "FRAME", "STOP"):
                    start = marks.pop() if name in TO_MARK else len(stack) - COUNTS.get(name, 0)
                    if not 0 <= start <= len(stack):
                        raise ValueError("more is taken from the stack than was put there")
                    items = stack[start:]
                    del stack[start:]
                    _do(name, argument, items, stack)
        (value,) = stack
    except DAMAGE as error:
        raise DataError(f"is not a readable pickle ({error})") from error
    return value


def _do(name: str, argument: Any, items: list[Any], stack: list[Any]) -> None:
    """Execute one opcode on the stack, from which `items` were taken."""
    if name in VALUES:
        stack.append(argument.decode("latin-1") if isinstance(argument, bytes) else argument)
    elif name in CONSTANTS:
        stack.append(CONSTANTS[name])
    elif name in EMPTY:
        stack.append(EMPTY[name]())
    elif name.startswith("TUPLE"):
        stack.append(tuple(items))
    elif name == "LIST":
        stack.append(items)
    elif name == "DICT":
        stack.append(_pairs(items))
    elif name in ("APPEND", "APPENDS"):
        stack[-1].extend(items)
    elif name in ("SETITEM", "SETITEMS"):
        stack[-1].update(_pairs(items))
    elif name == "GLOBAL":
        stack.append(Global(*argument.split(" ")))
    elif name == "STACK_GLOBAL":
        stack.append(Global(*items))
    elif name == "REDUCE":
        stack.append(_call(*items))
    elif name == "BUILD":
        stack[-1].state = items[0]
    else:
        raise ValueError(f"opcode {name} has no place in a dataset")


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
