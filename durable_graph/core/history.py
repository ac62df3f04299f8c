"""Reading a thread's log: to go on from it, and to tell what happened. Runs no user code.

`load` finds where a thread stands at a step, reading only from the nearest snapshot on. `walk` tells the log again in
the order in which it was lived, as the same `Recorded`, `Shown` and `Begun` that the live run emitted. `barriers` tells
where it stood, newest first. None of them holds more than a part of the log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

from durable_graph.core.address import Place, place_of, places, thread_of, way_down
from durable_graph.core.channels import Values
from durable_graph.core.cursor import BEGUN, ROW, Address
from durable_graph.core.effects import Begun, Below, Recorded, Shown, Token
from durable_graph.core.model import Task
from durable_graph.core.position import Body, Later, Position, Stand, task_of
from durable_graph.core.shape import is_state, wrong_columns, wrong_key
from durable_graph.core.tokens import parts_of
from durable_graph.core.verify import STUB_ALTERED
from durable_graph.errors import CheckpointNotFoundError, CorruptCheckpointError, ThreadNotFoundError
from durable_graph.store import Row, Signal, Store, Stub

Told = Recorded | Shown | Token | Begun | Below
SPARE = 40  # levels that a state may be nested deeper than the updates that it was made of
RUN_STARTS = frozenset({"input", "resume", "update", "fork"})  # rows that no task made


class Decoder(Protocol):
    def read(self, data: bytes, *place: str | int) -> Any: ...


def decode_body(codec: Decoder, row: Row) -> Body:
    """Raises CorruptCheckpointError, whatever is in the row."""
    if (wrong := wrong_columns(row)) is not None:
        raise _corrupt(row, wrong)
    try:
        body = codec.read(row.body, "row", row.thread_id, row.step)
    except ValueError as error:
        raise _corrupt(row, str(error)) from error
    if type(body) is not dict:
        raise _corrupt(row, "its body is not an object")
    if (key := wrong_key(body)) is not None:
        raise _corrupt(row, f"{key!r} in its body is nothing that was ever written there")
    return body


def check_columns(row: Row) -> None:
    """Raises CorruptCheckpointError for what no row has in its columns."""
    wrong = wrong_columns(row)
    if wrong is not None:
        raise _corrupt(row, wrong)


def _corrupt(row: Row, problem: str) -> CorruptCheckpointError:
    return CorruptCheckpointError(thread_id=row.thread_id, step=row.step, problem=problem)


def apply(position: Position, row: Row, body: Body) -> bool:
    """`Position.apply`, with what garbage in a row may raise turned into its name."""
    try:
        return position.apply(row, body)
    except (LookupError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise _corrupt(row, f"its body does not fit its kind {row.kind!r} ({error!r})") from error


def signal_value(codec: Decoder, signal: Signal, step: int) -> Any:
    """Raises CorruptCheckpointError, whatever is in it; `step` is where its thread stands."""
    try:
        return codec.read(signal.value, "signal", signal.thread_id, signal.id, signal.name)
    except ValueError as error:
        problem = f"the signal {signal.name!r} that waits there is damaged ({error})"
        raise CorruptCheckpointError(thread_id=signal.thread_id, step=step, problem=problem) from error


# --- where a thread stands --------------------------------------------------------------------


def load(store: Store, codec: Decoder, thread_id: str, step: int | None = None) -> Position | None:
    """The thread's position at `step` (None: the newest); None if the thread has no rows.

    Raises CheckpointNotFoundError for a step it does not have, CorruptCheckpointError for a row that cannot be read.
    """
    newest = next(iter(store.rows(thread_id, newest_first=True, limit=1)), None)
    if newest is None:
        return None
    stub, end = stub_of(store, thread_id), newest.step if step is None else step
    while True:
        if not (0 if stub is None else stub.step) <= end <= newest.step:
            raise CheckpointNotFoundError(thread_id=thread_id, step=end, have=_steps_to(newest, stub))
        try:
            position = _forwards(store, codec, thread_id, end, stub) or _along_parents(
                store, codec, thread_id, end, stub
            )
            break
        except CorruptCheckpointError:
            before, stub = stub, stub_of(store, thread_id)
            if before == stub:
                raise  # else what is missing was pruned while we read
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

    step: int
    state: bytes
    damaged: str  # what to say then


def _kept(store: Store, thread_id: str, until: int, stub: Stub | None) -> _Kept | None:
    """The newest at or before `until`. What may still be there from before the stub is never looked at: no hash holds
    it any more."""
    snapshot = store.snapshot(thread_id, until=until)
    if snapshot is not None and (stub is None or snapshot[0] > stub.step):
        return _Kept(*snapshot, "its snapshot is damaged ({}); snapshots may be deleted safely")
    return None if stub is None else _Kept(stub.step, stub.state, f"{STUB_ALTERED} ({{}})")


def _forwards(store: Store, codec: Decoder, thread_id: str, step: int, stub: Stub | None) -> Position | None:
    """The position at `step`, streamed from the nearest snapshot or the thread's first row. None if the log branches
    in between, as then not all of these rows lead there."""
    kept = _kept(store, thread_id, step, stub)
    start = 0 if kept is None else kept.step
    first = next(store.rows(thread_id, after=start - 1, until=start), None)
    if first is None:
        return None
    position = _begun_with(store, codec, first, kept)
    position = _gone_on(store, codec, position, step)
    return position if position.step == step else None


def _along_parents(store: Store, codec: Decoder, thread_id: str, step: int, stub: Stub | None) -> Position:
    """The same for a thread that has gone back in time."""
    rows, kept = _path(store, thread_id, step, stub)
    position = _begun_with(store, codec, rows.pop(), kept)
    for row in reversed(rows):
        apply(position, row, decode_body(codec, row))
    return position


def _begun_with(store: Store, codec: Decoder, row: Row, kept: _Kept | None) -> Position:
    """The position at the row that reading begins with: a thread's first, or that of a snapshot."""
    position = _base(store, codec, row)
    apply(position, row, decode_body(codec, row))
    if kept is not None:
        _restore(position, codec, row, kept)
    return position


SKIMMED, STRIDE = 500, 50  # rows that are tried at once: at first, and after a try that did not come through


def _gone_on(
    store: Store, codec: Decoder, position: Position, until: int, elsewhere: Elsewhere | None = None
) -> Position:
    """The position at the step `until`, from one before it. Where the log branches in between, `elsewhere` gives the
    position to go on from; without it that is the end."""
    stride = SKIMMED
    while position.step < until:
        if _skim(store, codec, position, min(until, position.step + stride)):
            stride *= 2
            continue
        stride = STRIDE
        rows = list(store.rows(position.thread_id, after=position.step, until=min(until, position.step + stride)))
        for row in rows:
            if row.parent_step != row.step - 1 or row.parent_step != position.step:
                if elsewhere is None:
                    return position
                position = elsewhere(position, row)
            apply(position, row, decode_body(codec, row))
        if not rows:
            break
    return position


Elsewhere = Callable[[Position, Row], Position]


def _skim(store: Store, codec: Decoder, position: Position, until: int) -> bool:
    """Go on over supersteps of one task each; whether they reached as far as `until`.

    Of such a one, if another follows, only counts what it wrote: what it planned has been done. So of these rows only
    a few columns are read, and the last one again as a whole.
    """
    step, bare = position.step, None  # the last row, and its body, of which nothing has been added yet
    if len(position.tasks) != 1:
        return False
    for number, parent, kind, data in store.bodies(position.thread_id, after=step, until=until):
        try:
            body = codec.read(data, "row", position.thread_id, number)
            if kind != "task" or not (parent == step == number - 1) or "next" not in body or "below" in body:
                break
            if wrong_key(body) is not None:
                break
            if bare is not None:
                if len(bare["next"]) != 1:
                    break
                position._merge([bare.get("update")], bare)
        except (KeyError, TypeError, AttributeError, ValueError):
            break  # one of the two is damaged: who reads them as rows says so
        position.loose += len(data)
        step, bare = number, body
    if bare is not None:
        row = next(store.rows(position.thread_id, after=step - 1, until=step), None)
        if row is None:  # removed just now
            raise CorruptCheckpointError(thread_id=position.thread_id, step=step, problem="the row is missing")
        check_columns(row)
        position.tasks = (task_of(position, row.node or "", row.task or ""),)  # who planned it may have been skipped
        position.loose -= len(row.body)
        apply(position, row, bare)
    return step == until


def _path(store: Store, thread_id: str, step: int, stub: Stub | None) -> tuple[list[Row], _Kept | None]:
    """The rows from `step` back along their parents to the nearest snapshot, or to where the thread begins."""
    path, wanted = list[Row](), step
    kept = _kept(store, thread_id, step, stub)
    for row in store.rows(thread_id, after=-1 if stub is None else stub.step - 1, until=step, newest_first=True):
        if row.step != wanted:
            continue  # not an ancestor: another branch of the log
        check_columns(row)
        path.append(row)
        if kept is not None and kept.step == row.step:
            return path, kept
        if row.parent_step is None or row.kind == "fork":
            return path, None
        wanted = row.parent_step
        if kept is not None and kept.step > wanted:
            kept = _kept(store, thread_id, wanted, stub)
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
            check_columns(row)
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
                _restore(position, codec, row, _Kept(begins, stub.state, f"{STUB_ALTERED} ({{}})"))
    assert position is not None
    return position


def _base(store: Store, codec: Decoder, first: Row, load: Callable[..., Position | None] = load) -> Position:
    """What the path starts from: nothing, or for a fork the position in the other thread."""
    if first.kind != "fork":
        return Position(first.thread_id)
    origin = decode_body(codec, first).get("parent")
    if type(origin) is not list:
        raise _corrupt(first, "it does not say what it is a fork of")
    thread_id, step = origin
    try:
        position = load(store, codec, thread_id, step)
    except RecursionError as error:
        raise _corrupt(first, "what it is a fork of leads in a circle, or is a fork too many times") from error
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
        content = codec.read(kept.state, "state", row.thread_id, row.step)
        if not is_state(content):
            raise ValueError("it is none")
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
    number = task.partition(".")[0]
    planned = int(number) if number.isdecimal() else 0
    for row in store.rows(above, after=planned):
        body = decode_body(codec, row)
        if row.parent_step != row.step - 1 or "next" in body:
            break
        told = row.kind != "task" and row.task == task
        if told and any(mark[2] == thread_id and mark[4] == step for mark in body.get("below", ())):
            return row.step
    return planned


# --- what happened ----------------------------------------------------------------------------


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
        position = _at_parent(store, codec, position, segment[0][0])
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
            position = _at_parent(store, codec, position, row)
            if begins and row.task is not None:
                yield Begun(position, position.runnable)
            for _, it in _retell(position, [(row, body)], below, before):
                yield it
            last, begins = row.step, row.kind in RUN_STARTS or "next" in body
            before = 0 if begins else before + 1
        yield None


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
            last = _gone_on(store, codec, position.frozen(), end - few, partial(_at_parent, store, codec))
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
        position = _gone_on(store, codec, position, until, partial(_at_parent, store, codec))
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
