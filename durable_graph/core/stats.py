"""Figures of a log: how much there is of what, and which nodes take the time.

The rule: everything is counted from rows, one after the other, so that nothing is held but the figures. Sizes are those
that the values have when they are written, before encryption.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Protocol

from durable_graph.core.position import Body, pairs
from durable_graph.core.timeline import duration, fitting
from durable_graph.errors import UnstorableValueError
from durable_graph.store import Held, Row

SPARE = 40  # levels that values in a row may be nested deeper


class Encoder(Protocol):
    def encode(self, value: Any, path: str = ..., *, spare: int = ...) -> bytes: ...


@dataclass(slots=True)
class NodeStats:
    """Of a node, or of a @task."""

    calls: int = 0  # attempts that have ended: with a result, an error or a question
    failures: int = 0  # those that ended with an error
    cached: int = 0  # results that came from the cache, which are no calls
    seconds: float = 0.0  # of all calls together
    longest: float = 0.0  # seconds

    @property
    def mean(self) -> float:
        """Seconds of a call."""
        return self.seconds / self.calls if self.calls else 0.0

    def ended(self, took: float | None, *, failed: bool = False) -> None:
        self.calls += 1
        self.failures += failed
        self.seconds += took or 0.0
        self.longest = max(self.longest, took or 0.0)


@dataclass(slots=True)
class Stats:
    """What `Log.stats` has counted. Bytes are those of values, without what a database adds."""

    threads: dict[str, int] = field(default_factory=dict)  # by status
    rows: dict[str, int] = field(default_factory=dict)  # by kind
    bytes: dict[str, int] = field(default_factory=dict)  # of: log, snapshots, stubs, signals, cache
    channels: dict[str, int] = field(default_factory=dict)  # bytes that were written to each key of the state
    nodes: dict[str, NodeStats] = field(default_factory=dict)


class Tally:
    """Adds up a Stats, row by row."""

    def __init__(self, codec: Encoder) -> None:
        self._codec = codec
        self._threads, self._rows, self._bytes = Counter[str](), Counter[str](), Counter[str]()
        self._channels = Counter[str]()
        self._nodes: dict[str, NodeStats] = {}

    def thread(self, status: str) -> None:
        self._threads[status] += 1

    def held(self, held: Held) -> None:
        self._bytes.update(held._asdict())

    def row(self, row: Row, body: Body) -> None:
        """Raises CorruptCheckpointError for what no row says."""
        with fitting(row):
            self._row(row, body)

    def _row(self, row: Row, body: Body) -> None:
        self._rows[row.kind] += 1
        self._bytes["log"] += len(row.body)
        for key, value in [*pairs(body.get("update")), *body.get("results", {}).items()]:
            self._channels[key] += self._size(value)
        if row.task is not None and row.node is not None:
            self._call(self._nodes.setdefault(row.node, NodeStats()), row, body)

    def _call(self, node: NodeStats, row: Row, body: Body) -> None:
        for failure in body.get("failures", ()):
            node.ended(duration(failure["started"], failure["finished"]), failed=True)
        if body.get("cached"):
            node.cached += 1
        else:
            node.ended(duration(body.get("started"), row.created_at), failed=row.kind == "error")

    def _size(self, value: Any) -> int:
        try:
            return len(self._codec.encode(value, spare=SPARE))
        except UnstorableValueError:
            return 0  # nested too deep to be told apart from its row: it counts there

    def stats(self) -> Stats:
        """What has been added up, the most of each first."""
        nodes = sorted(self._nodes.items(), key=lambda item: -item[1].seconds)
        kinds = ("log", "snapshots", "stubs", "signals", "cache")
        sizes = {kind: self._bytes[kind] for kind in kinds}
        most = (dict(counter.most_common()) for counter in (self._threads, self._rows, self._channels))
        threads, rows, channels = most
        return Stats(threads, rows, sizes, channels, dict(nodes))
