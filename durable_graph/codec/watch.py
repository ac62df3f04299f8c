"""Reading that remembers what it had to leave as placeholders."""

from __future__ import annotations

from typing import Any

from durable_graph.codec.reading import Reader, read_plain
from durable_graph.codec.sealed import Seal, is_sealed, opened


class Watch:
    """Decodes as its codec does, and remembers in `met` the names of types that it had to leave as placeholders.

    Whoever goes on with what was read looks for placeholders only if there were any: looking costs a walk.
    """

    def __init__(self, reader: Reader, seal: Seal | None) -> None:
        self.met: set[str] = set()
        self._reader = Reader(reader.names, self.met)
        self._seal = seal

    def decode(self, data: bytes) -> Any:
        return self._reader.read(data)

    def read(self, data: bytes, *place: str | int) -> Any:
        if self._seal is None:
            return read_plain(self._reader, data, place)
        return self._reader.read(opened(self._seal, data, place) if is_sealed(data) else data)
