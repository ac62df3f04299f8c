"""Telling a thread's log again: what happened, in the order in which it was lived. Runs no user code.

`walk` gives the same `Recorded`, `Shown` and `Begun` that the live run emitted, `follow` also what is added. Neither
holds more than a part of the log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from durable_graph.core.address import place_of
from durable_graph.core.cursor import BEGUN, ROW, Address
from durable_graph.core.effects import Begun, Below, Recorded, Shown, Token
from durable_graph.core.history import RUN_STARTS, Decoder, apply, base_of, beginning, check_step, decode_body, load
from durable_graph.core.model import Task
from durable_graph.core.position import Body, Position, task_of
from durable_graph.core.tokens import parts_of
from durable_graph.errors import ThreadNotFoundError
from durable_graph.store import Row, Store

Told = Recorded | Shown | Token | Begun | Below


def walk(
    store: Store,
    codec: Decoder,
    thread_id: str,
    *,
    after: int = -1,
    until: int | None = None,
    announce: bool = True,
) -> Iterator[Told]:
    """Everything that was emitted for the rows with after < step <= until, in the order in which it was. Without
    `announce` no `Begun`."""
    for _, it in told(store, codec, thread_id, after=after, until=until, announce=announce):
        yield it


def told(
    store: Store,
    codec: Decoder,
    thread_id: str,
    *,
    after: int = -1,
    until: int | None = None,
    announce: bool = True,
    whole: bool = False,
) -> Iterator[tuple[Address, Told]]:
    """`walk`, with the address of each. `whole`: not what a run has written of a superstep that may still go on."""
    position = Position(thread_id)
    after = beginning(store, thread_id) if after < 0 else after
    if until is not None:
        check_step(store, thread_id, until)
    if after >= 0:
        position = load(store, codec, thread_id, after) or _unknown(store, thread_id)
    below, before = _Subgraphs(store, codec, announce), _begun(store, codec, thread_id, after)
    rows = store.rows(thread_id, after=after, until=until)
    for segment in _segments(codec, rows, whole):
        position = at_parent(store, codec, position, segment[0][0])
        if announce and segment[0][0].task is not None:
            yield Address(after, BEGUN), Begun(position, position.runnable)
        for said, it in _retell(position, segment, below, before):
            if said == ROW:
                after = position.step
            yield Address(after, said), it
        before = 0


def told_on(
    store: Store, codec: Decoder, thread_id: str, seen: Address, *, until: int | None = None, **settings: bool
) -> Iterator[tuple[Address, Told]]:
    """`told`, from what was seen last: that itself once more, if it is there, as it may have been seen in part.

    Nothing is told twice or left out, also when what was seen came from a run that died in the midst of a superstep.
    """
    begins = beginning(store, thread_id)
    if 0 <= seen.step < begins:
        check_step(store, thread_id, seen.step)
    above = seen.step - 1 if seen.said == ROW else seen.step
    start = max(above - _begun(store, codec, thread_id, above), begins)
    for address, it in told(store, codec, thread_id, after=start, until=until, **settings):
        if address >= seen:
            yield address, it


def _begun(store: Store, codec: Decoder, thread_id: str, step: int) -> int:
    """How many rows of its superstep a run had written up to this step, if the superstep had not ended with it."""
    count, page = 0, 1  # nearly always it has just ended
    while step - count >= 0:
        rows = list(store.rows(thread_id, until=step - count, newest_first=True, limit=page))
        for row in rows:
            if row.kind in RUN_STARTS or "next" in decode_body(codec, row):
                return count
            count += 1
        if not rows:
            break
        page = min(8 * page, 500)
    return count


def _unknown(store: Store, thread_id: str) -> Position:
    raise ThreadNotFoundError(thread_id=thread_id, store=store.name)


def at_parent(store: Store, codec: Decoder, position: Position, row: Row) -> Position:
    """The position before `row`: nearly always where we are; elsewhere after going back in time or a fork."""
    if row.kind == "fork":
        return base_of(store, codec, row)
    if row.parent_step == position.step or row.step == 0:
        return position
    tail = position.tail
    if row.parent_step is None:  # begun anew: a subgraph, after the graph above went back to before its first run
        position = Position(row.thread_id)
        position.tail = tail
        return position
    moved = load(store, codec, row.thread_id, row.parent_step) or _unknown(store, row.thread_id)
    moved.tail = tail
    return moved


def _segments(codec: Decoder, rows: Iterable[Row], whole: bool) -> Iterator[list[tuple[Row, Body]]]:
    """Rows that one run wrote within one superstep: as far as custom events can have come before them. `whole`: only
    those that no row can be added to."""
    segment: list[tuple[Row, Body]] = []
    for row in rows:
        body = decode_body(codec, row)
        begins = row.kind in RUN_STARTS
        if begins and segment:
            yield segment
            segment = []
        segment.append((row, body))
        if begins or "next" in body:
            yield segment
            segment = []
    if segment and not whole:
        yield segment


class _Subgraphs:
    """The logs of subgraphs' runs, each told as far as the log above it has come."""

    def __init__(self, store: Store, codec: Decoder, announce: bool) -> None:
        self._store, self._codec, self._announce = store, codec, announce
        self._told: dict[str, Iterator[Told]] = {}

    def tell(self, maker: Row, thread_id: str, first: int, upto: int) -> Iterator[Below]:
        """What was shown for these steps of a subgraph, while `maker`'s task ran."""
        if thread_id not in self._told:
            told = walk(self._store, self._codec, thread_id, after=first - 1, announce=self._announce)
            self._told[thread_id] = told
        parts = place_of(maker.thread_id, maker.node or "", maker.task or "", thread_id).parts
        for it in self._told[thread_id]:
            yield Below((*parts, *it.ns), it.what) if isinstance(it, Below) else Below(parts, it)
            if isinstance(it, Recorded) and it.row.step >= upto:
                return


def _retell(
    position: Position, segment: list[tuple[Row, Body]], below: _Subgraphs, before: int = 0
) -> Iterator[tuple[int, Told]]:
    """With the second half of its address. `before`: rows of the same run in the same superstep that come before this
    segment."""
    marks = _marked(segment, below, before)
    for place, (row, body) in enumerate(segment):
        while marks and marks[0][0] <= place:
            _, number, maker, tell = marks.pop(0)
            for it in tell(position, _task(position, maker)):
                yield number + 1, it
        task = _task(position, row) if row.task is not None else None
        changed = apply(position, row, body)
        yield ROW, Recorded(position, row, body, changed, "next" in body, task)


def _marked(
    segment: list[tuple[Row, Body]], below: _Subgraphs, before: int
) -> list[tuple[int, int, Row, Callable[[Position, Task], Iterable[Told]]]]:
    """What was shown between the rows of a segment, in order: before which of them, as which event, whose, and what."""
    if not [row for row, body in segment if not SHOWN.isdisjoint(body)]:
        return []
    marks = [
        (min(max(rows - before, 0), place), number, row, told)
        for place, (row, body) in enumerate(segment)
        for rows, number, told in _marks(row, body, below)
    ]
    return sorted(marks, key=lambda mark: mark[:2])


SHOWN = frozenset({"custom", "below", "tokens"})  # keys of a body: what its task showed while it ran
_Mark = tuple[int, int, Callable[[Position, Task], Iterable[Told]]]


def _marks(row: Row, body: Body, below: _Subgraphs) -> Iterator[_Mark]:
    """What was shown while a row's task ran: after how many rows of the superstep, as which event, and what."""
    for rows, number, data in body.get("custom", ()):
        yield rows, number, partial(_custom, number, data)
    for rows, number, *run in body.get("below", ()):
        yield rows, number, partial(_below, below, row, run)
    for rows, number, message, extra in parts_of(body.get("tokens", [])):
        yield rows, number, partial(_token, number, message, extra)


def _custom(number: int, data: Any, position: Position, task: Task) -> Iterator[Told]:
    yield Shown(position, task, data, number)


def _token(number: int, message: Any, extra: dict[str, Any], position: Position, task: Task) -> Iterator[Told]:
    yield Token(position, task, message, extra, number)


def _below(below: _Subgraphs, row: Row, run: list[Any], position: Position, task: Task) -> Iterator[Told]:
    return below.tell(row, *run)


def _task(position: Position, row: Row) -> Task:
    return task_of(position, row.node or "", row.task or "")


def follow(store: Store, codec: Decoder, thread_id: str, after: int) -> Iterator[Told | None]:
    """`walk` for a log that still grows: None whenever all there is has been told. Custom events come with
    their task's row."""
    position = Position(thread_id)
    after = beginning(store, thread_id) if after < 0 else after
    if after >= 0:
        position = load(store, codec, thread_id, after) or _unknown(store, thread_id)
    last, begins, below = after, True, _Subgraphs(store, codec, True)
    before = _begun(store, codec, thread_id, after)
    while True:
        for row in store.rows(thread_id, after=last):
            body = decode_body(codec, row)
            position = at_parent(store, codec, position, row)
            if begins and row.task is not None:
                yield Begun(position, position.runnable)
            for _, it in _retell(position, [(row, body)], below, before):
                yield it
            last, begins = row.step, row.kind in RUN_STARTS or "next" in body
            before = 0 if begins else before + 1
        yield None
