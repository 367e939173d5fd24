"""What a TypedDict says about a JSON file: its keys and types by path, and whether a value conforms."""

from __future__ import annotations

import types
import typing
from pathlib import Path
from typing import Any, Literal

from compare.errors import UserError
from compare.files import read_json

NAMES = {str: "string", int: "integer", float: "number", bool: "boolean"}


def keys(annotation: Any, path: str = "") -> dict[str, str]:
    """{path: type} of every key of a TypedDict and of those inside it; ``runs[].seed`` is a key of a list's objects."""
    found: dict[str, str] = {}
    for name, value in typing.get_type_hints(annotation).items():
        here = f"{path}.{name}".lstrip(".")
        found[here] = type_name(value)
        inner, at = value, here
        while not typing.is_typeddict(inner):
            options = [option for option in typing.get_args(inner) if option is not types.NoneType]
            if typing.get_origin(inner) is list:
                at += "[]"
            elif not isinstance(inner, types.UnionType) or len(options) != 1:
                break
            inner = options[0]
        if typing.is_typeddict(inner):
            found |= keys(inner, at)
    return found


def type_name(annotation: Any, *, plural: bool = False) -> str:
    """A type as the documentation spells it: ``list of integers or null``."""
    s = "s" if plural else ""
    if isinstance(annotation, types.UnionType):
        return " or ".join(type_name(option, plural=plural) for option in typing.get_args(annotation))
    if typing.get_origin(annotation) is list:
        return f"list{s} of {type_name(typing.get_args(annotation)[0], plural=True)}"
    if typing.get_origin(annotation) is Literal:
        return f"string{s}"
    if annotation is types.NoneType:
        return f"null{s}"
    return f"{NAMES.get(annotation, 'object')}{s}"


def read(path: Path, annotation: Any, name: str) -> Any:
    """The object in a file, or in the file ``name`` of a folder; UserError unless it conforms to a TypedDict."""
    value = read_json(path, name)
    if found := problems(value, annotation):
        more = f" and {len(found) - 5} more" if len(found) > 5 else ""
        raise UserError(f"{path} is not of this kind or version: {'; '.join(found[:5])}{more}")
    return value


def problems(value: Any, annotation: Any, path: str = "") -> list[str]:
    """How a JSON value differs from a type: keys that are missing or unknown, values of another type."""
    if isinstance(annotation, types.UnionType):
        options = [problems(value, option, path) for option in typing.get_args(annotation)]
        return [] if [] in options else options[0]
    if typing.is_typeddict(annotation):
        if not isinstance(value, dict):
            return [f"{path}: {value!r} is no object"]
        hints = typing.get_type_hints(annotation)
        found = [f"{path}.{name}: missing" for name in annotation.__required_keys__ - value.keys()]
        found += [f"{path}.{name}: unknown" for name in value.keys() - hints.keys()]
        return found + [
            p for name in hints.keys() & value.keys() for p in problems(value[name], hints[name], f"{path}.{name}")
        ]
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is list:
        inner = value if isinstance(value, list) else [None]
        return [p for number, each in enumerate(inner) for p in problems(each, arguments[0], f"{path}[{number}]")]
    if origin is dict:
        pairs = value if isinstance(value, dict) else {"": object()}
        return [p for name, each in pairs.items() for p in problems(each, arguments[1], f"{path}[{name!r}]")]
    if origin is Literal:
        return [] if value in arguments else [f"{path}: {value!r} is none of {arguments}"]
    if annotation is Any:
        return []
    expected: Any = {float: (int, float), int: int, str: str, bool: bool, types.NoneType: types.NoneType}[annotation]
    right = isinstance(value, expected) and (annotation is bool or not isinstance(value, bool))
    return [] if right else [f"{path}: {value!r} is no {type_name(annotation)}"]
