"""From values to plain JSON values: a walk by exact type, which returns the same object where there is nothing to tag.

Two writers: the fast one trusts that strings are UTF-8 and integers have 64 bits, as orjson refuses others. Then
everything is written again by the careful one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import orjson

from durable_graph.codec.builtin import BY_TAG, BY_TYPE
from durable_graph.codec.kind import Kind, NotHere, Parts, Refused
from durable_graph.codec.plain import PLAIN, Json, is_utf8
from durable_graph.codec.refusing import DESCRIBE, TOO_DEEP, refuse
from durable_graph.codec.shapes import SHAPES
from durable_graph.codec.unregistered import Unregistered
from durable_graph.limits import MAX_DEPTH

_Lower = Callable[["Writer", Any, int], Json]


class Writer:
    """The walk over a value, by exact type. Never changed: `knowing` makes a new one."""

    __slots__ = ("kinds", "plain", "table")

    def __init__(self, plain: frozenset[type], table: dict[type, _Lower], kinds: dict[type, Kind]) -> None:
        self.plain = plain  # left to orjson without a look
        self.table = table
        self.kinds = kinds

    def knowing(self, kind: Kind) -> Writer:
        table = {**self.table, kind.type: _lower_registered}
        return Writer(self.plain, table, {**self.kinds, kind.type: kind})

    def lower(self, value: Any, depth: int) -> Json:
        kind = type(value)
        return value if kind in self.plain else self.table.get(kind, refuse)(self, value, depth)

    def tagged(self, head: dict[str, Any], parts: Parts, depth: int) -> Json:
        if depth > MAX_DEPTH:
            raise Refused(*TOO_DEEP)
        for key, part in parts.items():
            head[key] = self.lower(part, depth + 1)
        return head


# Dicts and lists are the hot path: 0.3 µs for a small one. Plain items cost no call. All keys are looked at before
# any item is lowered, as a late one would have everything below it lowered twice, on each level.


def _lower_dict(writer: Writer, value: dict[Any, Any], depth: int) -> Json:
    if depth > MAX_DEPTH:
        raise Refused(*TOO_DEEP)
    plain, nested = writer.plain, False
    for key, item in value.items():
        if type(key) is not str or key == "$":
            return _lower_tagged(writer, value, depth)
        nested = nested or type(item) not in plain
    return _lower_items(writer, value, depth + 1) if nested else value


def _lower_items(writer: Writer, value: dict[str, Any], depth: int) -> Json:
    changed = value.copy()
    for key, item in value.items():
        if (kind := type(item)) not in writer.plain:
            changed[key] = writer.table.get(kind, refuse)(writer, item, depth)
    return changed


def _lower_list(writer: Writer, value: list[Any], depth: int) -> Json:
    if depth > MAX_DEPTH:
        raise Refused(*TOO_DEEP)
    plain = writer.plain
    for item in value:
        if (kind := type(item)) not in plain and not (kind is float and math.isfinite(item)):
            break
    else:
        return value
    changed = []
    for item in value:
        kind = type(item)
        changed.append(item if kind in plain else writer.table.get(kind, refuse)(writer, item, depth + 1))
    return changed


def _lower_float(writer: Writer, value: float, depth: int) -> Json:
    return value if math.isfinite(value) else _lower_tagged(writer, value, depth)


def _lower_tagged(writer: Writer, value: Any, depth: int) -> Json:
    kind = writer.kinds[type(value)]
    return writer.tagged({"$": kind.tag}, kind.take(value), depth)


def _lower_set(writer: Writer, value: Any, depth: int) -> Json:
    doc = _lower_tagged(writer, value, depth)
    doc["v"] = sorted(doc["v"], key=orjson.dumps)
    return doc


def _lower_registered(writer: Writer, value: Any, depth: int) -> Json:
    kind = writer.kinds[type(value)]
    try:
        parts = kind.take(value)
    except (Refused, RecursionError, MemoryError):
        raise
    except Exception as error:  # user code: an encode function
        raise Refused(f"taking it apart raised {type(error).__name__}: {error}", DESCRIBE) from error
    return writer.tagged({"$": kind.tag, "t": kind.name}, parts, depth)


def _lower_unregistered(writer: Writer, value: Unregistered, depth: int) -> Json:
    parts = {"v": value.data, **value.more}
    problem = _unreadable(value, parts)
    if problem:
        raise Refused(problem, "Leave placeholders as they were read.")
    name = {"t": value.name} if value.tag in SHAPES else {}
    return writer.tagged({"$": value.tag}, name | parts, depth)


def _unreadable(value: Unregistered, parts: Parts) -> str | None:
    try:
        (SHAPES.get(value.tag) or BY_TAG[value.tag].build)(**parts)
    except NotHere:
        return None
    except Exception as error:
        return f"nothing could read it ({type(error).__name__}: {error})"
    return None if type(value.name) is str else "its name is not a str"


# Writing again after orjson has refused: nothing about strings and integers is taken for granted.


def _lower_int(writer: Writer, value: int, depth: int) -> Json:
    return value if -(2**63) <= value < 2**64 else _lower_tagged(writer, value, depth)


def _lower_str(writer: Writer, value: str, depth: int) -> Json:
    return value if is_utf8(value) else _lower_tagged(writer, value, depth)


def _lower_dict_carefully(writer: Writer, value: dict[Any, Any], depth: int) -> Json:
    if all(type(key) is not str or is_utf8(key) for key in value):
        return _lower_dict(writer, value, depth)
    return _lower_tagged(writer, value, depth)


_SMALL: frozenset[type] = frozenset({bool, type(None)})  # what is plain without a look, once orjson has refused
_LOWER: dict[type, _Lower] = {
    **dict.fromkeys(BY_TYPE.keys() - PLAIN, _lower_tagged),
    dict: _lower_dict,
    list: _lower_list,
    float: _lower_float,
    set: _lower_set,
    frozenset: _lower_set,
    Unregistered: _lower_unregistered,
}
_LOWER_CAREFULLY: dict[type, _Lower] = {int: _lower_int, str: _lower_str, dict: _lower_dict_carefully}
FAST = Writer(PLAIN, _LOWER, BY_TYPE)
CAREFUL = Writer(_SMALL, {**_LOWER, **_LOWER_CAREFULLY}, BY_TYPE)
