"""From plain JSON values to values: the walk back, which calls what is registered and nothing else."""

from __future__ import annotations

from typing import Any

import orjson

from durable_graph.codec.builtin import BY_TAG
from durable_graph.codec.kind import Kind, MalformedBytesError, NotHere, Parts, exactly
from durable_graph.codec.labels import label_of
from durable_graph.codec.plain import Json
from durable_graph.codec.sealed import Place, is_sealed, opened
from durable_graph.codec.shapes import SHAPES
from durable_graph.codec.unregistered import Unregistered

_NESTED = frozenset({dict, list})


class Reader:
    """The walk back. It calls what is registered and nothing else."""

    __slots__ = ("met", "names")

    def __init__(self, names: dict[str, Kind], met: set[str] | None = None) -> None:
        self.names = names
        self.met = met  # where to note the names of placeholders

    def read(self, data: bytes) -> Any:
        if type(data) is not bytes:
            raise MalformedBytesError(f"a {type(data).__name__}, not bytes")
        try:
            doc = orjson.loads(data)
        except ValueError as error:
            raise MalformedBytesError(f"not JSON: {error}") from None
        if len(data) > 2 * 254 and data.count(b"[") + data.count(b"{") > 254 and _deeper_than(doc, 254):
            raise MalformedBytesError("nested deeper than anything that is written")
        if b'"$"' not in data and b"\\u0024" not in data:
            return doc
        try:
            return self.lift(doc)
        except RecursionError:
            if _deeper_than(doc, 254):
                raise MalformedBytesError("nested deeper than anything that is written") from None
            raise  # it is the caller who stands near the recursion limit

    def lift(self, doc: Json) -> Any:
        if type(doc) is list:
            return [self.lift(item) if type(item) in _NESTED else item for item in doc]
        if type(doc) is not dict:
            return doc
        if "$" in doc:
            return self._tagged(doc)
        return {key: self.lift(item) if type(item) in _NESTED else item for key, item in doc.items()}

    def _tagged(self, doc: dict[str, Json]) -> Any:
        tag = doc["$"]
        if type(tag) is not str or not (tag in SHAPES or tag in BY_TAG):
            raise MalformedBytesError(f"unknown tag {label_of(tag)}: damaged, or written by a newer version")
        parts = {key: self.lift(part) for key, part in doc.items() if key != "$"}
        try:
            return (self._registered if tag in SHAPES else self._builtin)(tag, parts)
        except (MalformedBytesError, RecursionError, MemoryError):
            raise
        except Exception as error:
            if self.names:  # may be due to a registered type, such as keys that no longer hash: read it without them
                return Reader({}, self.met)._tagged(doc)
            raise MalformedBytesError(f"tag {tag!r}: {type(error).__name__}: {error}") from error

    def _builtin(self, tag: str, parts: Parts) -> Any:
        try:
            return BY_TAG[tag].build(**parts)
        except NotHere:
            return self._placeholder(tag, tag, parts)

    def _registered(self, tag: str, parts: Parts) -> Any:
        name = exactly(str, parts.pop("t", None))
        SHAPES[tag](**parts)
        kind = self.names.get(name)
        if kind is None or kind.tag != tag:
            return self._placeholder(name, tag, parts)
        try:
            return kind.build(**parts)
        except NotHere:
            return self._placeholder(name, tag, parts)

    def _placeholder(self, name: str, tag: str, parts: Parts) -> Unregistered:
        if self.met is not None:
            self.met.add(name)
        more = {key: part for key, part in parts.items() if key != "v"}
        return Unregistered(name, parts["v"], tag, more)


def _deeper_than(doc: Json, limit: int) -> bool:
    level = [doc]
    for _ in range(limit):
        below = (each.values() if type(each) is dict else each for each in level)
        level = [item for items in below for item in items if type(item) in _NESTED]
    return bool(level)


def read_plain(reader: Reader, data: bytes, place: Place) -> Any:
    """What is encrypted is no JSON: so those who do without encryption need not look for it first."""
    try:
        return reader.read(data)
    except MalformedBytesError:
        if is_sealed(data):
            opened(None, data, place)  # raises
        raise
