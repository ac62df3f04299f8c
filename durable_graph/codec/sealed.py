"""Encrypted bytes among others: how they are told, where they may be read, and what is said when they cannot be.

The rule: what encrypts is given (`Seal`), here is nothing about how. Encrypted bytes begin as no JSON does, so a
database may hold both.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, TypeAlias

from durable_graph.codec.kind import MalformedBytesError
from durable_graph.errors import EncryptionKeyError

SEALED = b"\0dg\1"  # what encrypted bytes begin with, and no JSON does
SHORTEST = 52  # bytes of what was encrypted

# Where bytes are stored: ("row" or "state", thread_id, step), ("signal", thread_id, id, name) or ("cache", namespace,
# key). What is encrypted can be read there only.
Place: TypeAlias = tuple[str | int, ...]


class KeyIsMissing(Exception):
    """What is encrypted needs a key that is not here: its id, and those of the keys that are."""

    def __init__(self, key: str, known: Iterable[str] = ()) -> None:
        super().__init__(key)
        self.key, self.known = key, tuple(known)


class Seal(Protocol):
    """What encrypts: see `encryption.py`."""

    def seal(self, data: bytes, place: Place) -> bytes: ...

    def open(self, data: bytes, place: Place) -> bytes: ...

    def digest(self, data: bytes) -> str: ...

    def ids(self) -> tuple[str, ...]: ...


def is_sealed(data: Any) -> bool:
    return type(data) is bytes and data[:4] == SEALED  # in a database that was altered, anything may stand anywhere


def opened(seal: Seal | None, data: bytes, place: Place) -> bytes:
    if len(data) < SHORTEST:
        raise MalformedBytesError("what was encrypted is cut short")
    try:
        if seal is None:
            raise KeyIsMissing(data[4:12].hex())
        return seal.open(data, place)
    except KeyIsMissing as missing:
        here = f"those given have the ids {', '.join(missing.known)}" if missing.known else "no key was given"
        raise EncryptionKeyError(where=told(place), key=missing.key, have=here, place=place) from None


def told(place: Place) -> str:
    """A place, for messages."""
    kind, *rest = place
    if kind == "cache":
        return "A value in the cache"
    if kind == "signal":
        return f"The signal {rest[2]!r} of thread {rest[0]!r}"
    return f"{'Step' if kind == 'row' else 'The snapshot at step'} {rest[1]} of thread {rest[0]!r}"
