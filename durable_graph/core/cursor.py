"""Where in what a thread has shown something stands: so that a client that comes back gets what it has not seen.

Live streams and the log show the same in the same order, and each thing has an address there:

    5      row 5
    4.0    behind row 4: the tasks that begin are announced
    4.3    behind row 4: the third thing that nodes said in this superstep (a custom event, a part of a message)

Addresses sort in that order. What is shown for one address may come in several chunks, as in several stream modes: the
last of them has the address for its id, those before it also their number: 5:1, 5:2, 5.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from durable_graph.errors import ArgumentError

ROW, BEGUN = -1, 0
_ID = re.compile(r"(\d{1,18})(?:\.(\d{1,18}))?(?::(\d{1,18}))?")


class Address(NamedTuple):
    step: int  # of the row, or of the row before it
    said: int = ROW  # what comes behind that row: BEGUN, or its number, from 1

    def __str__(self) -> str:
        return str(self.step) if self.said == ROW else f"{self.step}.{self.said}"


class Cursor(NamedTuple):
    """What a client has seen last."""

    address: Address
    chunks: int | None = None  # so many of what is there; None: all

    def passes(self, address: Address, chunk: int) -> bool:
        """Whether it has not seen the chunk of this number, from 1."""
        if address == self.address:
            return self.chunks is not None and chunk > self.chunks
        return address > self.address

    def __str__(self) -> str:
        return str(self.address) if self.chunks is None else f"{self.address}:{self.chunks}"


START_OF_LOG = Cursor(Address(-1))


def read_cursor(text: str) -> Cursor:
    """The cursor that an event's id is. Raises ArgumentError."""
    found = _ID.fullmatch(text)
    if found is None or not text.isascii():
        raise ArgumentError(
            argument="Last-Event-ID",
            problem=f"{text[:40]!r} is no id of an event",
            fix="Give that of the last event seen, such as 7 or 7.2, or leave it out to begin at the beginning.",
        )
    step, said, chunks = found.groups()
    address = Address(int(step), ROW if said is None else int(said))
    return Cursor(address, None if chunks is None else int(chunks))
