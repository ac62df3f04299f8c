"""A thread's rows at a glance: when, what, who, for how long. Never the state.

The rule: an entry is told from its row alone, so a page of them costs what its rows cost, wherever it is in the log and
however long that is. Only who called stands elsewhere: in the first row of the run, which is found by halving, as the
rows of a run stand together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from durable_graph.core.history import RUN_STARTS, Decoder, decode_body, stub_of
from durable_graph.core.model import Interrupt
from durable_graph.core.position import Body
from durable_graph.core.times import seconds
from durable_graph.errors import CorruptCheckpointError
from durable_graph.store import Row, Store


@dataclass(frozen=True, slots=True)
class TimelineEntry:
    """One row of a thread's log, without its state. See `Log.timeline`."""

    thread_id: str
    step: int
    parent_step: int | None  # the row this one continues; of a fork's first row, one of the origin
    kind: str  # input, task, interrupt, error, resume, update or fork
    superstep: int
    node: str | None
    task: str | None  # its id; "<task>/<number>" for what a @task returned that a node called
    run_id: str
    attempt: int | None  # of the task, from 1; None for rows that no task made
    cached: bool  # the node was not called: its result came from the cache
    actor: str | None  # who called for the run, if that was said and is not pruned
    started_at: str | None  # UTC, ISO 8601: when that attempt began; None for rows that no task made
    created_at: str
    duration: float | None  # seconds from one to the other
    bytes: int  # of the row's body, as it is stored
    next: tuple[str, ...]  # at the end of a superstep: the nodes of the next one
    error: str | None  # type and message
    failures: int  # attempts before this one that failed in the same run
    interrupts: tuple[Interrupt, ...]  # what the task asked
    child: str | None  # the thread of the subgraph that the task ran, the last of several
    origin: tuple[str, int] | None  # of a fork's first row: the thread and step that it continues


def entry_of(row: Row, body: Body, actor: str | None) -> TimelineEntry:
    """Raises CorruptCheckpointError for what no row says."""
    with fitting(row):
        return _entry(row, body, actor)


@contextmanager
def fitting(row: Row) -> Iterator[None]:
    """What garbage in a row may raise, turned into its name."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError, OverflowError) as error:
        problem = f"its body does not fit its kind {row.kind!r} ({error!r})"
        raise CorruptCheckpointError(thread_id=row.thread_id, step=row.step, problem=problem) from error


def _entry(row: Row, body: Body, actor: str | None) -> TimelineEntry:
    started, error = body.get("started"), body.get("error")
    return TimelineEntry(
        thread_id=row.thread_id,
        step=row.step,
        parent_step=row.parent_step,
        kind=row.kind,
        superstep=row.superstep,
        node=row.node,
        task=row.task,
        run_id=row.run_id,
        attempt=body.get("attempt", 1) if row.task is not None else None,
        cached=body.get("cached", False),
        actor=actor,
        started_at=started,
        created_at=row.created_at,
        duration=duration(started, row.created_at),
        bytes=len(row.body),
        next=tuple([entry if isinstance(entry, str) else entry["node"] for entry in body.get("next", ())]),
        error=None if error is None else f"{error['type']}: {error['message']}",
        failures=len(body.get("failures", ())),
        interrupts=tuple([Interrupt(value, name) for value, name, _ in body.get("interrupts", ())]),
        child=body["below"][-1][2] if body.get("below") else None,
        origin=(body["parent"][0], body["parent"][1]) if row.kind == "fork" else None,
    )


def duration(started: str | None, ended: str) -> float | None:
    """Seconds from one to the other; None if it is not known when it began."""
    return None if started is None else round(max(seconds(ended) - seconds(started), 0.0), 6)


def timeline(
    store: Store,
    codec: Decoder,
    thread_id: str,
    *,
    after: int | None = None,
    before: int | None = None,
    limit: int | None = None,
    newest_first: bool = False,
    run_id: str | None = None,
) -> Iterator[TimelineEntry]:
    """The entries of the rows with after < step < before. Where the beginning was pruned, from the stub's row on."""
    if limit is not None and limit <= 0:
        return
    stub = stub_of(store, thread_id)
    begins = 0 if stub is None else stub.step
    start = max(begins - 1, -1 if after is None else after)
    until = None if before is None else before - 1
    callers = _Callers(store, codec, begins)
    count, met = 0, False
    wanted = limit if run_id is None else None
    for row in store.rows(thread_id, after=start, until=until, newest_first=newest_first, limit=wanted):
        body = decode_body(codec, row)
        if run_id is not None and row.run_id != run_id:
            if met:
                return  # the rows of a run stand together
            continue
        met = True
        yield entry_of(row, body, callers.of(row, body))
        count += 1
        if count == limit:
            return


class _Callers:
    """Who called for the run that a row is of."""

    def __init__(self, store: Store, codec: Decoder, begins: int) -> None:
        self._store, self._codec, self._begins = store, codec, begins
        self._run = ""
        self._actor: str | None = None

    def of(self, row: Row, body: Body) -> str | None:
        if "run" in body:
            self._run, self._actor = row.run_id, _actor(body["run"])
        elif row.run_id != self._run:
            self._run, self._actor = row.run_id, self._looked_up(row)
        return self._actor

    def _looked_up(self, row: Row) -> str | None:
        first = first_of_run(self._store, row, self._begins)
        return _actor(decode_body(self._codec, first).get("run", {})) if first.kind in RUN_STARTS else None


def first_of_run(store: Store, row: Row, begins: int = 0) -> Row:
    """The first row of the run that this one is of, of those that are still there: by halving, in some twenty looks."""
    low, high, first = begins, row.step, row  # it is at low or above, and not above high
    stride = 1
    while low < high:
        middle = max(low, high - stride) if stride else (low + high) // 2
        found = next(store.rows(row.thread_id, after=middle - 1, until=high, limit=1), None)
        if found is not None and found.run_id == row.run_id:
            high, first = min(middle, found.step), found
            stride *= 2
        else:
            low = middle + 1
            stride = 0
    return first


def _actor(run: Mapping[str, Any]) -> str | None:
    metadata = run.get("metadata", {})
    actor = metadata.get("actor") if isinstance(metadata, dict) else None
    return actor if isinstance(actor, str) else None
