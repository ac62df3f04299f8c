"""Which classes can be registered, and how their values are then taken apart and built.

The rule: without its own help, a class is rebuilt only where its fields say all about it.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import types
import typing
from collections.abc import Callable
from typing import Any

from durable_graph.codec.enums import of_enum, of_flag
from durable_graph.codec.kind import Kind
from durable_graph.codec.labels import type_name
from durable_graph.codec.plain import is_utf8
from durable_graph.codec.records import is_model, is_named_tuple, of_dataclass, of_model, of_named_tuple
from durable_graph.errors import ArgumentError

MAKERS: tuple[tuple[Callable[[type], bool], Callable[[Any, str], Kind]], ...] = (
    (lambda kind: issubclass(kind, enum.Flag), of_flag),
    (lambda kind: issubclass(kind, enum.Enum), of_enum),
    (is_named_tuple, of_named_tuple),
    (is_model, of_model),
    (dataclasses.is_dataclass, of_dataclass),
)


def registered(kind: type, name: str | None, encode: Any, decode: Any) -> Kind:
    name = f"{kind.__module__}:{kind.__qualname__}" if name is None else name
    if type(name) is not str or not is_utf8(name):
        raise bad_type(kind, f"has the name {name!r}", "Give a str as its name.")
    if (encode is None) != (decode is None):
        raise bad_type(kind, "has only one of encode and decode", "Give both or neither.")
    if encode is not None:
        return Kind("custom", kind, lambda value: {"v": encode(value)}, lambda v: decode(v), name)
    problem = why_not(kind)
    if problem:
        raise bad_type(kind, problem, "Register it with an encode and a decode function: TypeHook(...).")
    return next(make for applies, make in MAKERS if applies(kind))(kind, name)


def bad_type(kind: Any, problem: str, fix: str) -> ArgumentError:
    return ArgumentError(argument=type_name(kind) if isinstance(kind, type) else repr(kind), problem=problem, fix=fix)


def why_not(kind: type) -> str:
    """Why a class cannot be taken apart and rebuilt without its own help; empty if it can."""
    if not any(applies(kind) for applies, _ in MAKERS):
        return "is not an enum, a NamedTuple, a dataclass or a pydantic model"
    if issubclass(kind, (enum.Enum, tuple)):
        return ""
    if hasattr(kind, "__del__"):
        return "has a __del__ method, so it stands for more than its fields"
    try:
        object.__new__(kind)
    except TypeError as error:  # abstract, or built on an exception, a dict, ...: that part would be lost
        return f"cannot be rebuilt from its fields ({error})"
    for name in () if is_model(kind) else _field_names(kind):
        static = inspect.getattr_static(kind, name, None)
        if hasattr(type(static), "__set__") and type(static) is not types.MemberDescriptorType:
            return f"has code behind its field {name!r}"
    return ""


def _field_names(kind: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def is_class(hint: Any) -> bool:
    return isinstance(hint, type) and typing.get_origin(hint) is None
