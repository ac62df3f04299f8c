"""Where a thread stood, barrier by barrier, newest first; and what came of the tasks of each. Runs no user code.

It holds a window of the log, never all of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

from durable_graph.core.history import Decoder, apply, beginning, decode_body, gone_on, load
from durable_graph.core.position import Later, Position, Stand
from durable_graph.core.telling import at_parent
from durable_graph.store import Row, Store

WINDOW = 1000  # barriers told newest first are held in memory, so many at most
WINDOW_ITEMS = 500_000  # in the lists of all of them together: each that is held has lists of its own
WINDOW_BYTES = 4_000_000  # of their rows
LEAST = 16  # that are held, however large they are
PARTS = 16
FURTHER = 16  # rows read at once to see how a superstep has ended


def barriers(
    store: Store, codec: Decoder, thread_id: str, *, before: int | None = None, few: int | None = None
) -> Iterator[tuple[Stand, Later]]:
    """Where the thread stood at each barrier, newest first, and what has become of its tasks since.

    Rows can only be added up forwards: so from each snapshot to the next, newest first. In memory for a WINDOW at a
    time and for PARTS positions, or for a few times as many where snapshots are far apart. `few`: how many will be
    asked for, if not all: so many are told before the others are looked at.
    """
    newest = next(iter(store.rows(thread_id, newest_first=True, limit=1)), None)
    end = -1 if newest is None else newest.step
    if before is not None:
        end = min(end, before - 1)
    begins, last_one = beginning(store, thread_id), end
    while end > begins:
        snapshot = store.snapshot(thread_id, until=end - 1 - WINDOW // 4)  # those in between would make short windows
        start = begins if snapshot is None else max(snapshot[0], begins)
        position = Position(thread_id) if start < 0 else load(store, codec, thread_id, start)
        assert position is not None
        start = position.step
        if few is not None and few < end - start:
            last = gone_on(store, codec, position.frozen(), end - few, partial(at_parent, store, codec))
            yield from _backwards(store, codec, last, end)
            end, few = end - few, None
        yield from _backwards(store, codec, position, end)
        end = start
    if 0 <= begins <= last_one and (position := load(store, codec, thread_id, begins)) is not None:
        yield position.stand(), later(store, codec, position)  # where the stub stands, which no row is told for


def _backwards(
    store: Store, codec: Decoder, position: Position, end: int, most: int | None = None
) -> Iterator[tuple[Stand, Later]]:
    """The barriers after `position`, up to the step `end`, newest first. What is more than `most`, or more than may be
    held, is gone over once to find where its parts begin, and then told part by part."""
    rows, window = end - position.step, min(most or WINDOW, _window(position))
    if rows <= window:
        held = _held(store, codec, position.frozen(), end)
        if held is not None:
            yield from reversed(held)
            return
        window = max(LEAST, window // PARTS)
    size = max(window, -(-rows // PARTS))
    starts = [position.frozen()]
    for until in range(position.step + size, end, size):
        position = gone_on(store, codec, position, until, partial(at_parent, store, codec))
        starts.append(position.frozen())
    while starts:
        start = starts.pop()
        yield from _backwards(store, codec, start, min(start.step + size, end), window)


def _window(position: Position) -> int:
    items = sum(len(value) for value in position.values.values() if type(value) in (list, dict, set))
    return max(LEAST, min(WINDOW, WINDOW_ITEMS // (items + 1)))


def _held(store: Store, codec: Decoder, position: Position, end: int) -> list[tuple[Stand, Later]] | None:
    """The barriers after `position`, up to the step `end`; None if they are too large to be held."""
    size = 0

    def rows() -> Iterator[Row]:
        nonlocal size
        for row in _read_on(store, position.thread_id, position.step, end):
            size += len(row.body) if type(row.body) is bytes else 0  # then decoding refuses it
            yield row

    held = []
    for barrier in _barriers(store, codec, position, rows(), end):
        held.append(barrier)
        if size > WINDOW_BYTES and len(held) > LEAST:
            return None
    return held


def _barriers(
    store: Store, codec: Decoder, position: Position, rows: Iterable[Row], end: int
) -> Iterator[tuple[Stand, Later]]:
    """Those after `position`, up to the step `end`; reads on until the tasks of the last one have ended."""
    standing: tuple[Stand, Later] | None = None
    for row in rows:
        body = decode_body(codec, row)
        straight = row.parent_step == row.step - 1 and row.kind != "fork"
        if not straight or row.parent_step != position.step:
            position = at_parent(store, codec, position, row)
        apply(position, row, body)
        ends = "next" in body or row.kind == "fork"
        if standing is not None:
            if straight:
                standing[1].close(row, body) if ends else standing[1].note(position)
            if ends or not straight:
                yield standing
                standing = None
        if row.step > end and standing is None:
            return
        if ends:
            standing = position.stand(), Later(position)
    if standing is not None:
        yield standing


def _read_on(store: Store, thread_id: str, after: int, end: int) -> Iterator[Row]:
    """The rows up to `end`, and then further ones, of which few are wanted."""
    yield from store.rows(thread_id, after=after, until=end)
    while page := list(store.rows(thread_id, after=end, limit=FURTHER)):
        yield from page
        end = page[-1].step


def later(store: Store, codec: Decoder, position: Position) -> Later:
    """What has become of the tasks of the barrier that `position` stands at, which moves on with it."""
    found = Later(position)
    for row in store.rows(position.thread_id, after=position.step):
        body = decode_body(codec, row)
        if row.parent_step != row.step - 1:
            break
        apply(position, row, body)
        if "next" in body:
            found.close(row, body)
            break
        found.note(position)
    return found
