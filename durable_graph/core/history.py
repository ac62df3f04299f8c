"""Reading a thread's log: to go on from it, and to tell what happened. Runs no user code.

`load` finds where a thread stands at a step, reading back only to the nearest snapshot. `walk` tells the log
again in the order in which it was lived, as the same `Recorded`, `Shown` and `Begun` that the live run emitted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

from durable_graph.core.address import Place, place_of, places, thread_of, way_down
from durable_graph.core.channels import Values
from durable_graph.core.effects import Begun, Below, Recorded, Shown, Token
from durable_graph.core.model import Task
from durable_graph.core.position import Body, Later, Position, task_of
from durable_graph.core.tokens import parts_of
from durable_graph.core.verify import STUB_ALTERED
from durable_graph.errors import CheckpointNotFoundError, CorruptCheckpointError, ThreadNotFoundError
from durable_graph.store import Row, Store, Stub

Told = Recorded | Shown | Token | Begun | Below
RUN_STARTS = frozenset({"input", "resume", "update", "fork"})  # rows that no task made


class Decoder(Protocol):
    def decode(self, data: bytes) -> Any: ...


def decode_body(codec: Decoder, row: Row) -> Body:
    """Raises CorruptCheckpointError, whatever is in the row."""
    try:
        body = codec.decode(row.body)
    except ValueError as error:
        raise _corrupt(row, str(error)) from error
    if type(body) is not dict:
        raise _corrupt(row, "its body is not an object")
    return body


def _corrupt(row: Row, problem: str) -> CorruptCheckpointError:
    return CorruptCheckpointError(thread_id=row.thread_id, step=row.step, problem=problem)


def apply(position: Position, row: Row, body: Body) -> bool:
    """`Position.apply`, with what garbage in a row may raise turned into its name."""
    try:
        return position.apply(row, body)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _corrupt(row, f"its body does not fit its kind {row.kind!r} ({error!r})") from error


# --- where a thread stands --------------------------------------------------------------------


def load(store: Store, codec: Decoder, thread_id: str, step: int | None = None) -> Position | None:
    """The thread's position at `step` (None: the newest); None if the thread has no rows.

    Raises CheckpointNotFoundError for a step it does not have, CorruptCheckpointError for a row that cannot be read.
    """
    newest = next(iter(store.rows(thread_id, newest_first=True, limit=1)), None)
    if newest is None:
        return None
    rows, kept = _path(store, thread_id, newest, newest.step if step is None else step)
    position = _base(store, codec, rows[-1])
    if kept is not None:
        row = rows.pop()
        apply(position, row, decode_body(codec, row))
        _restore(position, codec, row, kept)
    for row in reversed(rows):
        apply(position, row, decode_body(codec, row))
    position.tail = newest.step
    return position


def stub_of(store: Store, thread_id: str) -> Stub | None:
    """What stands for the rows of this thread that were pruned. Raises CorruptCheckpointError."""
    stub = store.stub(thread_id)
    if stub is not None and not stub.readable:
        raise CorruptCheckpointError(thread_id=thread_id, step=0, problem=STUB_ALTERED)
    return stub


def beginning(store: Store, thread_id: str) -> int:
    """The step that the log begins after: -1, or that of the stub, whose row tells only where the thread stood."""
    stub = stub_of(store, thread_id)
    return -1 if stub is None else stub.step


def check_step(store: Store, thread_id: str, step: int) -> None:
    """Raises CheckpointNotFoundError if this step was pruned."""
    stub = stub_of(store, thread_id)
    newest = next(iter(store.rows(thread_id, newest_first=True, limit=1)), None) if stub is not None else None
    if stub is not None and newest is not None and step < stub.step:
        raise CheckpointNotFoundError(thread_id=thread_id, step=step, have=_steps_to(newest, stub))


class _Kept(NamedTuple):
    """The state at a barrier, as a snapshot or a stub holds it."""

    state: bytes
    damaged: str  # what to say then


def _path(store: Store, thread_id: str, newest: Row, step: int) -> tuple[list[Row], _Kept | None]:
    """The rows from `step` back along their parents to the nearest snapshot, or to where the thread begins. What may
    still be there from before that is never looked at: no hash holds it any more."""
    stub, path, wanted = stub_of(store, thread_id), list[Row](), step
    begins = 0 if stub is None else stub.step
    if not begins <= step <= newest.step:
        raise CheckpointNotFoundError(thread_id=thread_id, step=step, have=_steps_to(newest, stub))
    snapshot = store.snapshot(thread_id, until=step)
    for row in store.rows(thread_id, after=begins - 1, until=step, newest_first=True):
        if row.step != wanted:
            continue  # not an ancestor: another branch of the log
        path.append(row)
        if snapshot is not None and snapshot[0] == row.step:
            return path, _Kept(snapshot[1], "its snapshot is damaged ({}); snapshots may be deleted safely")
        if stub is not None and row.step == begins:
            return path, _Kept(stub.state, f"{STUB_ALTERED} ({{}})")
        if row.parent_step is None or row.kind == "fork":
            return path, None
        wanted = row.parent_step
        if snapshot is not None and snapshot[0] > wanted:
            snapshot = store.snapshot(thread_id, until=wanted)
    if stub_of(store, thread_id) != stub:  # pruned while we read
        return _path(store, thread_id, newest, step)
    raise CorruptCheckpointError(thread_id=thread_id, step=wanted, problem="the row is missing")


def _steps_to(newest: Row, stub: Stub | None) -> str:
    if stub is None:
        return f"its steps are 0 to {newest.step}"
    return f"its steps are {stub.step} to {newest.step}, those before were pruned at {stub.pruned_at}"


def folded(store: Store, codec: Decoder, thread_id: str, step: int) -> Position:
    """`load`, from nothing but rows and stubs, which have hashes: what is told from here on instead of them must not
    come from a snapshot. Holds no rows; reads them twice.

    Raises CorruptCheckpointError, also for a step that is not there.
    """
    stub, path, wanted = stub_of(store, thread_id), set[int](), step
    begins = 0 if stub is None else stub.step
    for row in store.rows(thread_id, after=begins - 1, until=step, newest_first=True):
        if row.step == wanted:
            path.add(row.step)
            if row.parent_step is None or row.kind == "fork" or (stub is not None and row.step == begins):
                break
            wanted = row.parent_step
    else:
        raise CorruptCheckpointError(thread_id=thread_id, step=wanted, problem="the row is missing")
    position: Position | None = None
    for row in store.rows(thread_id, after=min(path) - 1, until=step):
        if row.step in path:
            position = position or _base(store, codec, row, folded)
            apply(position, row, decode_body(codec, row))
            if stub is not None and row.step == begins:
                _restore(position, codec, row, _Kept(stub.state, f"{STUB_ALTERED} ({{}})"))
    assert position is not None
    return position


def _base(store: Store, codec: Decoder, first: Row, load: Callable[..., Position | None] = load) -> Position:
    """What the path starts from: nothing, or for a fork the position in the other thread."""
    if first.kind != "fork":
        return Position(first.thread_id)
    thread_id, step = decode_body(codec, first)["parent"]
    position = load(store, codec, thread_id, step)
    if position is None:
        raise _corrupt(first, f"it is a fork of thread {thread_id!r}, which does not exist (any more)")
    position.tail = -1
    position.loose = 0
    return position


def pack(position: Position) -> dict[str, Any]:
    """What a snapshot keeps: all that cannot be told from the barrier's own row."""
    travelled = position.kept or position.pinned is not None
    kept = {"kept": position.kept, "pinned": position.pinned} if travelled else {}
    return {
        "values": dict(position.values),
        "last": list(position.last_nodes),
        "run": dict(position.run),
        "graph": dict(position.graph),
        **kept,
    }


def _restore(position: Position, codec: Decoder, row: Row, kept: _Kept) -> None:
    try:
        content = codec.decode(kept.state)
        position.values = Values(content["values"])
        position.last_nodes = tuple(content["last"])
        position.run = content["run"]
        position.kept, position.pinned = content.get("kept", {}), content.get("pinned")
        position.graph = content["graph"]
        position.loose, position.packed = 0, len(kept.state)
    except (ValueError, TypeError, KeyError) as error:
        raise _corrupt(row, kept.damaged.format(error)) from error


# --- where a subgraph's run stands ------------------------------------------------------------


class Standing(NamedTuple):
    """Where the run of a subgraph is found: in a thread of its own or, when the graph above was forked or went back in
    time and has not gone on yet, at a step of the thread that it will be a fork of."""

    thread_id: str
    step: int | None  # None: the newest
    children: Mapping[str, Any]  # where its own subgraphs go on from, if not from where that step says
    task: str  # that it runs in: "<thread above>/<task>"
    position: Position


def standing_at(store: Store, codec: Decoder, root: str, ns: Sequence[str]) -> Standing | None:
    """Where the run at this namespace below the thread `root` stands; None if there is none."""
    position = load(store, codec, root)
    if position is None:
        return None
    found, name = Standing(root, None, {}, "", position), root
    for place in places(ns):
        above, name = name, place.thread(name)
        position = load(store, codec, name)
        if position is not None:
            found = Standing(name, None, {}, str(position.run.get("task", "")), position)
            continue
        task, child = _child(found.position, place)
        if child is None:
            return None
        position = load(store, codec, child[0], child[1])
        if position is None:
            return None
        position._know({"children": child[2]})
        found = Standing(child[0], child[1], child[2], f"{above}/{task}", position.forked())
    return found


def _child(position: Position, place: Place) -> tuple[str, Any]:
    """The task that called the subgraph at this place, and where that stood."""
    for task, children in position.children.items():
        if place.key in children and place.task in (task, None):
            return task, children[place.key]
    return "", None


def way_inside(
    store: Store, codec: Decoder, root: str, ns: Sequence[str], step: int | None
) -> tuple[int | None, Mapping[str, Any]]:
    """How the thread `root` goes on from a step of a subgraph's run: its own step, and where the subgraphs of its
    pending tasks go on from. (None, {}) if that is where it stands anyway."""
    if step is None:
        return None, {}
    stands, children = True, dict[str, Any]()
    levels = way_down(ns)
    for place, upper, lower in reversed([*zip(places(ns), levels, levels[1:], strict=False)]):
        above, name = thread_of(root, upper), thread_of(root, lower)
        top, now = standing_at(store, codec, root, upper), standing_at(store, codec, root, lower)
        if now is None or top is None:
            raise ThreadNotFoundError(thread_id=name, store=store.name)
        then = load(store, codec, now.thread_id, step)
        assert then is not None
        begun = now.thread_id == name
        task = (str(then.run.get("task", "")) if begun else now.task).removeprefix(f"{above}/")
        newest = now.position.tail if now.step is None else now.step
        pending = {pending.id for pending in top.position.pending}
        stands = stands and step == newest and task.partition("/")[0] in pending
        children = {task: {place.key: [now.thread_id, step, children]}}
        step = _step_above(store, codec, above, task, name, step) if begun and not stands else top.position.step
    return (None, {}) if stands else (step, children)


def _step_above(store: Store, codec: Decoder, above: str, task: str, thread_id: str, step: int) -> int:
    """Where the graph above stood when its subgraph stood at `step`: at the row that told so, else at the one
    that planned the task."""
    planned = int(task.partition(".")[0])
    for row in store.rows(above, after=planned):
        body = decode_body(codec, row)
        if row.parent_step != row.step - 1 or "next" in body:
            break
        told = row.kind != "task" and row.task == task
        if told and any(mark[2] == thread_id and mark[4] == step for mark in body.get("below", ())):
            return row.step
    return planned


# --- what happened ----------------------------------------------------------------------------


def walk(store: Store, codec: Decoder, thread_id: str, *, after: int = -1, until: int | None = None) -> Iterator[Told]:
    """Everything that was emitted for the rows with after < step <= until, in the order in which it was."""
    position = Position(thread_id)
    after = beginning(store, thread_id) if after < 0 else after
    if until is not None:
        check_step(store, thread_id, until)
    if after >= 0:
        position = load(store, codec, thread_id, after) or _unknown(store, thread_id)
    below, before = _Subgraphs(store, codec), _begun(store, codec, thread_id, after)
    rows = store.rows(thread_id, after=after, until=until)
    for segment in _segments((row, decode_body(codec, row)) for row in rows):
        position = _at_parent(store, codec, position, segment[0][0])
        yield from _retell(position, segment, below, before)
        before = 0


def _begun(store: Store, codec: Decoder, thread_id: str, step: int) -> int:
    """How many rows of its superstep a run had written up to this step, if the superstep had not ended with it."""
    count = 0
    for row in store.rows(thread_id, until=step, newest_first=True) if step >= 0 else ():
        if row.kind in RUN_STARTS or "next" in decode_body(codec, row):
            break
        count += 1
    return count


def _unknown(store: Store, thread_id: str) -> Position:
    raise ThreadNotFoundError(thread_id=thread_id, store=store.name)


def _at_parent(store: Store, codec: Decoder, position: Position, row: Row) -> Position:
    """The position before `row`: nearly always where we are; elsewhere after going back in time or a fork."""
    if row.kind == "fork":
        return _base(store, codec, row)
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


def _segments(rows: Iterable[tuple[Row, Body]]) -> Iterator[list[tuple[Row, Body]]]:
    """Rows that one run wrote within one superstep: as far as custom events can have come before them."""
    segment: list[tuple[Row, Body]] = []
    for row, body in rows:
        if row.kind in RUN_STARTS and segment:
            yield segment
            segment = []
        segment.append((row, body))
        if row.kind in RUN_STARTS or "next" in body:
            yield segment
            segment = []
    if segment:
        yield segment


class _Subgraphs:
    """The logs of subgraphs' runs, each told as far as the log above it has come."""

    def __init__(self, store: Store, codec: Decoder) -> None:
        self._store, self._codec = store, codec
        self._told: dict[str, Iterator[Told]] = {}

    def tell(self, maker: Row, thread_id: str, first: int, upto: int) -> Iterator[Below]:
        """What was shown for these steps of a subgraph, while `maker`'s task ran."""
        if thread_id not in self._told:
            self._told[thread_id] = walk(self._store, self._codec, thread_id, after=first - 1)
        parts = place_of(maker.thread_id, maker.node or "", maker.task or "", thread_id).parts
        for it in self._told[thread_id]:
            yield Below((*parts, *it.ns), it.what) if isinstance(it, Below) else Below(parts, it)
            if isinstance(it, Recorded) and it.row.step >= upto:
                return


def _retell(position: Position, segment: list[tuple[Row, Body]], below: _Subgraphs, before: int = 0) -> Iterator[Told]:
    """`before`: rows of the same run in the same superstep that come before this segment."""
    marks = sorted(
        (
            (min(max(rows - before, 0), place), number, row, told)
            for place, (row, body) in enumerate(segment)
            for rows, number, told in _marks(row, body, below)
        ),
        key=lambda mark: mark[:2],
    )
    if segment[0][0].task is not None:
        yield Begun(position, position.runnable)
    for place, (row, body) in enumerate(segment):
        while marks and marks[0][0] <= place:
            _, _, maker, tell = marks.pop(0)
            yield from tell(position, _task(position, maker))
        task = _task(position, row) if row.task is not None else None
        changed = apply(position, row, body)
        yield Recorded(position, row, body, changed, "next" in body, task)


_Mark = tuple[int, int, Callable[[Position, Task], Iterable[Told]]]


def _marks(row: Row, body: Body, below: _Subgraphs) -> Iterator[_Mark]:
    """What was shown while a row's task ran: after how many rows of the superstep, as which event, and what."""
    for rows, number, data in body.get("custom", ()):
        yield rows, number, partial(_custom, data)
    for rows, number, *run in body.get("below", ()):
        yield rows, number, partial(_below, below, row, run)
    for rows, number, message, extra in parts_of(body.get("tokens", [])):
        yield rows, number, partial(_token, message, extra)


def _custom(data: Any, position: Position, task: Task) -> Iterator[Told]:
    yield Shown(position, task, data)


def _token(message: Any, extra: dict[str, Any], position: Position, task: Task) -> Iterator[Told]:
    yield Token(position, task, message, extra)


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
    last, begins, below = after, True, _Subgraphs(store, codec)
    before = _begun(store, codec, thread_id, after)
    while True:
        for row in store.rows(thread_id, after=last):
            body = decode_body(codec, row)
            position = _at_parent(store, codec, position, row)
            told = _retell(position, [(row, body)], below, before)
            yield from told if begins else (it for it in told if not isinstance(it, Begun))
            last, begins = row.step, row.kind in RUN_STARTS or "next" in body
            before = 0 if begins else before + 1
        yield None


WINDOW = 64  # barriers are told newest first by folding this many rows forwards at a time


def barriers(
    store: Store, codec: Decoder, thread_id: str, *, before: int | None = None
) -> Iterator[tuple[Position, Later]]:
    """Where the thread stood at each barrier, newest first, and what has become of its tasks since. In memory for
    WINDOW rows at a time."""
    newest = next(iter(store.rows(thread_id, newest_first=True, limit=1)), None)
    end = -1 if newest is None else newest.step
    if before is not None:
        end = min(end, before - 1)
    begins = beginning(store, thread_id)
    while end >= 0 and end >= begins:
        start = max(end - WINDOW, begins)
        position = Position(thread_id) if start < 0 else load(store, codec, thread_id, start)
        assert position is not None
        first = (position.frozen(), Later(position)) if start == begins >= 0 else None
        yield from reversed([*_barriers(store, codec, position, end, first)])
        end = start if first is None else -1


def _barriers(
    store: Store, codec: Decoder, position: Position, end: int, standing: tuple[Position, Later] | None = None
) -> Iterator[tuple[Position, Later]]:
    """Those after `position`, and `standing` if it is one itself, up to the step `end`; reads on until the tasks of
    the last one have ended."""
    for row in store.rows(position.thread_id, after=position.step):
        body = decode_body(codec, row)
        straight = row.parent_step == row.step - 1 and row.kind != "fork"
        position = _at_parent(store, codec, position, row)
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
            standing = position.frozen(), Later(position)
    if standing is not None:
        yield standing


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
