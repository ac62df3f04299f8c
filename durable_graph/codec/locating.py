"""Where in a value the part is that was refused: worked out only when one was."""

from __future__ import annotations

import collections
from collections.abc import Iterator
from typing import Any

import orjson

from durable_graph.codec.kind import Kind, Refused
from durable_graph.codec.labels import label_of
from durable_graph.codec.shapes import RECORDS
from durable_graph.codec.unregistered import Unregistered
from durable_graph.codec.writing import Writer
from durable_graph.limits import MAX_DEPTH


def locate(writer: Writer, value: Any, error: TypeError, depth: int) -> tuple[str, Any, TypeError]:
    """Follow the first part that is refused on its own, until no part is to blame."""
    labels: list[str] = []
    above = [value]
    while found := _refused_part(writer, value, depth + len(labels)):
        label, value, error = found
        labels.append(label)
        if any(value is each for each in above):
            error = Refused("it contains itself", "Store the id of the other value instead of the value.")
            break
        above.append(value)
    return _shorten(labels), value, error


def _refused_part(writer: Writer, value: Any, depth: int) -> tuple[str, Any, TypeError] | None:
    if depth > MAX_DEPTH:
        return None
    for label, part in labelled(writer, value):
        try:
            orjson.dumps(writer.lower(part, depth + 1))
        except TypeError as error:
            return label, part, error
    return None


def labelled(writer: Writer, value: Any) -> Iterator[tuple[str, Any]]:
    kind = type(value)
    metaclass: Any = type(kind)
    if metaclass.__hash__ is not type.__hash__:  # not a class that can be looked for in a table
        return
    if kind in (list, tuple, collections.deque):
        yield from ((f"[{index}]", item) for index, item in enumerate(value))
    elif kind in (set, frozenset):
        yield from ((f"{{{label_of(item)}}}", item) for item in value)
    elif kind in (dict, collections.OrderedDict, collections.Counter, collections.defaultdict):
        yield from ((f".keys()[{index}]", key) for index, key in enumerate(value))
        yield from ((f"[{label_of(key)}]", item) for key, item in value.items())
    elif kind is Unregistered:
        yield from ((f".{key}", part) for key, part in {"data": value.data, **value.more}.items())
    elif kind in writer.kinds:
        yield from _attributes(writer.kinds[kind], value)


def _attributes(kind: Kind, value: Any) -> Iterator[tuple[str, Any]]:
    try:
        parts = kind.take(value)
    except Exception:  # reported where it is written
        return
    for key, part in parts.items():
        if kind.tag in RECORDS and type(part) is dict:
            yield from ((f".{name}", item) for name, item in part.items())
        yield (".<encoded>" if kind.tag == "custom" else f".{key}"), part


def _shorten(labels: list[str]) -> str:
    return "".join(labels if len(labels) <= 12 else [*labels[:8], "...", *labels[-2:]])
