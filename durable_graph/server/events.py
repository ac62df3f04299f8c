"""What is shown, as server-sent events: each with the id from which a client that comes back goes on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from durable_graph.core.cursor import Address, Cursor
from durable_graph.server.plain import to_json

HEARTBEAT = b": still here\n\n"  # a comment: it keeps proxies from closing a quiet connection


class Event(NamedTuple):
    address: Address
    chunk: int  # of what is there, from 1
    last: bool
    data: bytes  # as it is sent

    @property
    def cursor(self) -> Cursor:
        return Cursor(self.address, None if self.last else self.chunk)


def events_of(address: Address, chunks: Iterable[Any], *, ends: bool = True, seen: int = 0) -> Iterator[Event]:
    """Those of one address. Looks one chunk ahead, as the last one has a shorter id. `ends`: whether the last one is
    known as such, which is not so for what subgraphs show; `seen`: chunks that there were before."""
    if not ends:
        yield from (_event(address, number, False, chunk) for number, chunk in enumerate(chunks, seen + 1))
        return
    number, waiting = seen, None
    for chunk in chunks:
        if waiting is not None:
            yield _event(address, number, False, waiting)
        number, waiting = number + 1, chunk
    if waiting is not None:
        yield _event(address, number, True, waiting)


def _event(address: Address, number: int, last: bool, chunk: Any) -> Event:
    cursor = Cursor(address, None if last else number)
    name = "|".join((chunk["type"], *chunk["ns"]))
    return Event(address, number, last, sse(name, chunk["data"], str(cursor)))


def sse(name: str, value: Any, id: str | None = None) -> bytes:
    """One event. Names may hold what a node is called: a line end in one would begin another line."""
    head = "" if id is None else f"id: {id}\n"
    safe = "".join(character if character.isprintable() else "?" for character in name)
    return f"{head}event: {safe}\ndata: ".encode() + to_json(value) + b"\n\n"
