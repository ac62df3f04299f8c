"""The one file of the server that reaches into the library: runs with their emissions, and the log with its addresses.

Everything here blocks, and is called from threads; but for `session`, which is driven in the event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import durable_graph.drivers as drivers
import durable_graph.leases as leases
from durable_graph import CompiledGraph, Thread
from durable_graph.core.cursor import Address
from durable_graph.core.effects import Begun, Emission, Recorded
from durable_graph.core.history import RUN_STARTS, decode_body, load
from durable_graph.core.position import Position
from durable_graph.core.projection import ANNOUNCED, SPOKEN, Shaper
from durable_graph.core.telling import Told, told_on
from durable_graph.core.times import iso
from durable_graph.opening import open_store
from durable_graph.recovery import abandoned
from durable_graph.session import Options, Session, given_config
from durable_graph.store import Row, Store

Graph = CompiledGraph[Any]
Show = Callable[[Emission], Iterable[Any]]


def store_of(graph: Graph) -> Store:
    return graph._stored()


def is_same_database(graph: Graph, other: Graph) -> bool:
    mine, its = graph._stored(), other._stored()
    return mine is its or (type(mine) is type(its) and mine.name == its.name and "://" in mine.name)


def reading(graph: Graph, store: Store) -> Graph:
    """The same graph, with its keys and types, on another database: for looking alone."""
    other = copy(graph)
    other._store = store
    return other


def store_at(url: str) -> Store:
    store = open_store(url)
    assert store is not None
    return store


# --- running ----------------------------------------------------------------------------------


def session(
    graph: Graph,
    given: Any,
    config: Mapping[str, Any],
    modes: Sequence[str],
    subgraphs: bool,
    options: Mapping[str, Any],
    show: Show,
    *,
    recovers: bool = False,
) -> Session:
    """A run, to be driven in the event loop. Whoever joins may want custom events or to see tasks begin, so these are
    always told; messages are made in parts only if `modes` has them."""
    wanted = [*dict.fromkeys([*modes, *SPOKEN - {"messages"}, *ANNOUNCED])]
    shaper = Shaper(wanted, subgraphs, "v2")
    taken = cast(Options, {"subgraphs": subgraphs, **options})
    settings: dict[str, Any] = {"input": given, "recovers": True} if recovers else {"input": graph._accepts(given)}
    return Session(graph._parts, given_config(config, graph._config), shaper, show, taken, **settings)


def outcome(graph: Graph, session: Session) -> Any:
    """What `invoke` would return."""
    return graph._outcome(session, None)


def leave_to_recovery(session: Session, found: bool) -> None:
    """Whether `recover` is to find the thread of this run, if it is stopped now."""
    run = getattr(session, "run", None)  # it has none before it begins
    if run is not None:
        run.handed_over = "running" if found else ""


def cut_off(graph: Graph) -> Iterator[Thread]:
    """Threads of this graph whose process has died."""
    return abandoned(graph._stored(), graph.name)


def show(graph: Graph, modes: Sequence[str], subgraphs: bool) -> Show:
    """What a client sees of an emission: chunks {"type", "ns", "data"}."""
    return graph._show(Shaper(list(modes), subgraphs, "v2"))


def shaped_by(session: Session, modes: Sequence[str]) -> Show:
    """`show` with subgraphs, as the run itself shapes what they show to whoever began it."""

    def shown(it: Emission) -> Iterable[Any]:
        chunks = session._shaper.show(session._parts.view, (), it)
        return [chunk for chunk in chunks if chunk["type"] in modes]

    return shown


def is_running(thread: Thread) -> bool:
    """Whether somebody who is alive has its lease."""
    owner, until = thread.lease_owner, thread.lease_expires_at or ""
    return bool(owner) and until > iso(drivers.clock()) and leases.alive(owner or "")


# --- reading ----------------------------------------------------------------------------------


def newest_step(graph: Graph, thread_id: str) -> int:
    row = next(iter(graph._stored().rows(thread_id, newest_first=True, limit=1)), None)
    return -1 if row is None else row.step


def told(
    graph: Graph, thread_id: str, seen: Address, until: int | None, modes: Iterable[str], whole: bool
) -> Iterator[tuple[Address, Told]]:
    store, codec = graph._stored(), graph._codec
    return told_on(store, codec, thread_id, seen, until=until, announce=announces(modes), whole=whole)


def place_of(position: Position) -> Any:
    """As much of it as a part of a message is shown with, to be kept when it moves on."""
    return SimpleNamespace(run=position.run, thread_id=position.thread_id, superstep=position.superstep)


def begun(graph: Graph, thread_id: str, step: int) -> Begun:
    """The tasks that began behind this row, as was announced then."""
    position = load(graph._stored(), graph._codec, thread_id, step)
    assert position is not None
    return Begun(position, position.runnable)


def announces(modes: Iterable[str]) -> bool:
    return not ANNOUNCED.isdisjoint(modes)


def is_spoken(modes: Iterable[str]) -> bool:
    return not SPOKEN.isdisjoint(modes)


def may_go_on(position: Position) -> bool:
    """Whether a run that stands here, and has ended, was broken off."""
    halted = position.errors or position.questions or position.paused
    return bool(position.tasks) and not halted


def goes_on(graph: Graph, it: Recorded, before: bool | None) -> bool:
    """Whether this row, the first of a run, goes on with what the run before it was broken off at. `before`: whether
    that one may have gone on, if it is known."""
    if it.row.kind != "resume" or it.body.get("answers") or it.row.parent_step != it.row.step - 1:
        return False
    if before is None:
        position = load(graph._stored(), graph._codec, it.row.thread_id, it.row.step - 1)
        before = position is not None and may_go_on(position)
    return before


def failure(graph: Graph, thread_id: str) -> dict[str, str] | None:
    """What the node raised with which the thread's last run ended."""
    for row in graph._stored().rows(thread_id, newest_first=True, limit=32):
        body = decode_body(graph._codec, row)
        if row.kind == "error":
            return error_in(body)
        if row.kind != "task" or "next" in body:
            break
    return None


def error_in(body: Mapping[str, Any]) -> dict[str, str] | None:
    """What a node raised, as its row tells."""
    error = body.get("error")
    if error is None:
        return None
    return {"error": str(error["type"]).rpartition(".")[2], "message": str(error["message"])}


# --- runs, as the log tells of them -----------------------------------------------------------


class Span(NamedTuple):
    """The rows of one run."""

    run_id: str
    first: int
    last: int
    begun_at: str
    ended_at: str
    metadata: Mapping[str, Any]
    goes_on: bool  # with the one before it, which was broken off
    end: str  # success, error, interrupted; or running: it was broken off


def spans(graph: Graph, thread_id: str) -> Iterator[Span]:
    """The runs of a thread, newest first."""
    rows: list[Row] = []
    for row in graph._stored().rows(thread_id, newest_first=True):
        if rows and row.run_id != rows[-1].run_id:
            yield from _span(graph, rows)
            rows = []
        if len(rows) > 64:
            rows[-2:] = rows[-1:]  # only its ends tell something
        rows.append(row)
    if rows:
        yield from _span(graph, rows)


def _span(graph: Graph, rows: Sequence[Row]) -> Iterator[Span]:
    first, last = rows[-1], rows[0]
    if first.kind in RUN_STARTS - {"input", "resume"}:
        return
    body = decode_body(graph._codec, first)
    config = body.get("run", {})
    on = first.kind == "resume" and not body.get("answers") and first.parent_step == first.step - 1
    metadata = config.get("metadata", {})
    end = _end(graph, rows)
    yield Span(first.run_id, first.step, last.step, first.created_at, last.created_at, metadata, on, end)


def _end(graph: Graph, rows: Sequence[Row]) -> str:
    for row in rows:  # newest first, to the end of the superstep before
        if row.kind in ("error", "interrupt"):
            return "error" if row.kind == "error" else "interrupted"
        body = decode_body(graph._codec, row)
        if "next" in body:
            return "running" if body["next"] else "success"
    return "running"
