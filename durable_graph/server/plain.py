"""Values as JSON, for programs that read them over HTTP.

The rule: everything can be shown. What JSON has no form for becomes the text or the fields that say most about it, and
messages become the dicts that LangGraph's clients know. Nothing is read back from this: the log keeps the values.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import enum
import math
from collections.abc import Mapping
from typing import Any

import orjson

from durable_graph import Interrupt, Unregistered

DEEPEST = 200  # levels; orjson itself ends at 254


def to_json(value: Any) -> bytes:
    return orjson.dumps(plain(value))


def plain(value: Any, level: int = 0) -> Any:
    """The value in what JSON has: dicts with text keys, lists, texts, numbers, true, false and null."""
    kind = type(value)
    if value is None or kind is bool:
        return value
    if kind is str:
        return value if value.isascii() else value.encode("utf-8", "replace").decode()  # half a surrogate pair
    if kind is int and -(2**63) <= value < 2**64:
        return value
    if kind is float:
        return value if math.isfinite(value) else str(value)
    if level > DEEPEST:
        return "…"
    try:
        return _made(value, level)
    except Exception as error:  # by somebody's class: whoever looks at a run must not end it
        return f"<{kind.__name__}: it cannot be shown: {type(error).__name__}>"


def _made(value: Any, level: int) -> Any:
    if isinstance(value, Mapping):
        return _mapping(value, level)
    if isinstance(value, Interrupt):
        return {"value": plain(value.value, level + 1), "id": value.id}
    if isinstance(value, list | tuple) and not hasattr(value, "_asdict"):
        return [plain(item, level + 1) for item in value]
    if isinstance(value, set | frozenset):
        return [plain(item, level + 1) for item in sorted(value, key=repr)]
    return _object(value, level)


def _mapping(value: Mapping[Any, Any], level: int) -> Any:
    named = {plain(str(key), level): plain(item, level + 1) for key, item in value.items()}
    if len(named) == len(value):
        return named
    return [[plain(key, level + 1), plain(item, level + 1)] for key, item in value.items()]


def _object(value: Any, level: int) -> Any:
    """Of a class of somebody's: its fields, if it has any that are declared."""
    if isinstance(value, enum.Enum):
        return plain(value.value, level + 1)
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, bytes | bytearray):
        return base64.b64encode(value).decode()
    if isinstance(value, Unregistered):
        return plain(value.data, level + 1)
    fields = _fields(value)
    return plain(str(value)) if fields is None else _mapping(fields, level)


def _fields(value: Any) -> Mapping[str, Any] | None:
    if hasattr(value, "_asdict"):
        return dict(value._asdict())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    declared = getattr(type(value), "model_fields", None)  # pydantic's, langchain-core's messages among them
    if not isinstance(declared, Mapping):
        return None
    own = {name: getattr(value, name, None) for name in declared}
    return {**own, **(getattr(value, "__pydantic_extra__", None) or {})}
