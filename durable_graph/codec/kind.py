"""How the values of one type are taken apart and built, and the two ways in which that is refused.

What is built comes from bytes that anyone may have written: every builder checks the types of its parts, and any
exception in it means malformed bytes. The parts themselves have been read already.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn, TypeVar

from durable_graph.codec.labels import type_name

Parts = dict[str, Any]  # the keys of a tagged object apart from "$" and "t"


class Kind(NamedTuple):
    """How the values of one type are written and read."""

    tag: str
    type: type
    take: Callable[[Any], Parts]  # a value's parts, which are lowered in turn
    build: Callable[..., Any]  # the value, from its parts as keyword arguments
    name: str = ""  # of a registered type


class MalformedBytesError(ValueError):
    """The bytes are not what a codec writes."""


class Refused(TypeError):
    """Problem and fix of a value that cannot be stored; where it is, is found out afterwards."""


class NotHere(Exception):
    """Well-formed, but not for this process: the type, zone or operating system is another one."""


_T = TypeVar("_T")


def exactly(kind: type[_T], value: Any) -> _T:
    """The value, which is of this type and of no subclass."""
    if type(value) is not kind:
        raise MalformedBytesError(f"{type_name(type(value))} where {kind.__name__} belongs")
    return value


def not_written(v: Any) -> NoReturn:
    raise ValueError(f"{v!r} is not how it is written")


def raise_not_here() -> NoReturn:
    raise NotHere
