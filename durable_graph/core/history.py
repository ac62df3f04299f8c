"""Reading a thread's log to go on from it: where the thread stands at a step. Runs no user code.

`load` reads only from the nearest snapshot on. How the log is told again is in `telling.py`, where a thread stood
before in `barriers.py`, and where the runs of its subgraphs stand in `standing.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from durable_graph.core.channels import Values
from durable_graph.core.position import Body, Position, task_of
from durable_graph.core.shape import is_state, wrong_columns, wrong_key
from durable_graph.core.verify import STUB_ALTERED
from durable_graph.errors import CheckpointNotFoundError, CorruptCheckpointError
from durable_graph.store import Row, Signal, Store, Stub

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
    position = gone_on(store, codec, position, step)
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
    position = base_of(store, codec, row)
    apply(position, row, decode_body(codec, row))
    if kept is not None:
        _restore(position, codec, row, kept)
    return position


SKIMMED, STRIDE = 500, 50  # rows that are tried at once: at first, and after a try that did not come through


def gone_on(
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
            position = position or base_of(store, codec, row, folded)
            apply(position, row, decode_body(codec, row))
            if stub is not None and row.step == begins:
                _restore(position, codec, row, _Kept(begins, stub.state, f"{STUB_ALTERED} ({{}})"))
    assert position is not None
    return position


def base_of(store: Store, codec: Decoder, first: Row, load: Callable[..., Position | None] = load) -> Position:
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
