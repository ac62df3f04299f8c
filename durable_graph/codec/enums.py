"""Enums: a member is its name, a flag its integer. No `_missing_` of a user's is called."""

from __future__ import annotations

import enum
from typing import Any

from durable_graph.codec.kind import Kind, Parts, Refused, raise_not_here


def of_enum(kind: Any, name: str) -> Kind:
    def take(value: Any) -> Parts:
        if kind._member_map_.get(value._name_) is not value:
            raise Refused("it is not a member of its enum", "Store a member.")
        return {"v": value._name_}

    def build(v: str) -> Any:  # not kind(v): that may call the enum's _missing_
        return kind._member_map_[v] if v in kind._member_map_ else raise_not_here()

    return Kind("enum", kind, take, build, name)


def of_flag(kind: Any, name: str) -> Kind:
    combine = enum.Flag._missing_.__func__  # type: ignore[attr-defined]  # the standard one, not the class's own

    def build(v: int) -> Any:
        value = kind._value2member_map_.get(v)
        value = combine(kind, v) if value is None else value
        return value if type(value) is kind and value._value_ == v else raise_not_here()

    return Kind("flag", kind, lambda value: {"v": value._value_}, build, name)
