"""A value of a state as a tree that a browser can fold, in pieces of bounded size.

The rule: every value becomes text, numbers and lists of these. What is large comes in part, with its size, and each
part can be asked for by its place: the way down to it, "0.12.3".

    null, true, 12, "text"                              as they are
    {"kind": "map", "type": ..., "size": ..., "parts": [[key, value], ...]}     dicts, and records by their fields
    {"kind": "list", "type": ..., "size": ..., "parts": [value, ...]}
    {"kind": "text", "size": ..., "text": ...}          the beginning of a long text
    {"kind": "atom", "type": ..., "text": ...}          everything else

Parts that are missing, or fewer than the size, are to be asked for.
"""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from itertools import islice
from typing import Any

from durable_graph import ArgumentError, Unregistered

PARTS = 100  # of one container at a time
VALUES = 1500  # in one answer, about
LEVELS = 20  # of what is in one another
TEXT = 1000  # characters of a text
WHOLE_TEXT = 200_000  # of one that was asked for by its place
EXACT = 2**53  # above it a number is another one in a browser

_Held = tuple[str, str, Sequence[Any]]  # kind, type, parts


def shown(value: Any, values: int = VALUES) -> Any:
    """The value as JSON, in part if it is large: so many values of it, about."""
    return _shown(value, _Rest(values, TEXT))


def shown_part(value: Any, place: str, start: int = 0) -> Any:
    """What is at a place in the value, its parts from the one with the number `start` on.

    Raises ArgumentError if there is nothing."""
    for number in _way(place):
        held = _held(value)
        if held is None or not 0 <= number < len(held[2]):
            raise ArgumentError(argument="place", problem=f"{place!r} is not in this value", fix="Read it again.")
        part = held[2][number]
        value = part[1] if held[0] == "map" else part
    return _shown(value, _Rest(VALUES, WHOLE_TEXT), start)


def _way(place: str) -> list[int]:
    try:
        return [int(number) for number in place.split(".")] if place else []
    except ValueError:
        raise ArgumentError(argument="place", problem=f"{place!r} is none", fix="Give numbers with dots.") from None


class _Rest:
    """What one answer may still have."""

    def __init__(self, values: int, text: int) -> None:
        self.values = values
        self.text = text  # characters of the value itself; of its parts TEXT


def _shown(value: Any, rest: _Rest, start: int = 0, level: int = 0) -> Any:
    if value is None or type(value) is bool:
        return value
    if (type(value) is int and abs(value) < EXACT) or (type(value) is float and math.isfinite(value)):
        return value
    most = TEXT if level else rest.text
    if type(value) is str:
        return value if len(value) <= most else {"kind": "text", "size": len(value), "text": value[:most]}
    held = _held(value)
    if held is None:
        return {"kind": "atom", "type": _type_name(value), "text": _text(value)[:most]}
    return _container(held, rest, start, level)


def _container(held: _Held, rest: _Rest, start: int, level: int) -> dict[str, Any]:
    kind, name, parts = held
    found: dict[str, Any] = {"kind": kind, "type": name, "size": len(parts)}
    if level and (rest.values <= 0 or level == LEVELS):
        return found
    some = parts[start : start + PARTS]
    rest.values -= len(some)  # siblings first: what is deeper gets what they leave
    if kind == "map":
        found["parts"] = [[_key(key), _shown(part, rest, 0, level + 1)] for key, part in some]
    else:
        found["parts"] = [_shown(part, rest, 0, level + 1) for part in some]
    return found


def _key(key: Any) -> Any:
    return key if type(key) is str else {"type": _type_name(key), "text": _text(key)}


def _held(value: Any) -> _Held | None:
    """What a value is made of; None if it is shown as a whole."""
    if isinstance(value, Enum | type):
        return None
    fields = _fields(value)
    if fields is not None:
        return "map", _type_name(value), fields
    if isinstance(value, dict):
        return "map", _type_name(value), list(value.items())
    if isinstance(value, list | tuple):
        return "list", _type_name(value), value
    if isinstance(value, set | frozenset):
        return "list", _type_name(value), sorted(value, key=repr)
    return ("list", _type_name(value), list(value)) if isinstance(value, deque) else None


def _fields(value: Any) -> Sequence[tuple[str, Any]] | None:
    """Of a record: dataclasses, named tuples, pydantic models, and what stands for a class that is not known here."""
    if isinstance(value, Unregistered):
        data = value.data
        return list(data.items()) if isinstance(data, dict) else [("data", data)]
    if dataclasses.is_dataclass(value):
        return _named(value, (field.name for field in dataclasses.fields(value)))
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return _named(value, value._fields)
    names = getattr(type(value), "model_fields", None)  # pydantic's
    return _named(value, names) if isinstance(names, Mapping) else None


def _named(value: Any, names: Iterable[str]) -> list[tuple[str, Any]]:
    return [(name, getattr(value, name)) for name in names if hasattr(value, name)]


def _type_name(value: Any) -> str:
    if isinstance(value, Unregistered):
        return f"{value.name} (not registered here)"
    return type(value).__qualname__


def _text(value: Any) -> str:
    """A value in one piece. Its class may be the user's: what its repr raises is not this page's failure."""
    if isinstance(value, Enum):
        return f"{type(value).__name__}.{value.name}"
    if isinstance(value, bytes | bytearray):
        return repr(bytes(islice(value, TEXT)))
    try:
        return repr(value) if type(value).__module__ == "builtins" else str(value)
    except Exception as error:
        return f"<its text cannot be made: {type(error).__name__}>"
