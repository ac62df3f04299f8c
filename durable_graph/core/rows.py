"""A run's rows: made, committed and shown, and the lease that they are written under.

A run is one generator of effects, told in four chapters, each a class that adds to the one before:

    Rows    core/rows.py     makes rows, commits and shows them, takes the lease and gives it back
    Jobs    core/jobs.py     what is to run, and what nodes find in their runtime
    Entry   core/entry.py    how a run begins: whose thread it is, and what its first row says
    Run     core/run.py      supersteps

The library's promise stands in `Rows._commit`: save, and on the next line emit. It exists once.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from durable_graph.core.address import above_of
from durable_graph.core.caching import Caching
from durable_graph.core.chain import NO_PARENT, row_hash
from durable_graph.core.changes import Finder
from durable_graph.core.effects import Ask, Effect, Emit, Now, Recorded, Save, Surround
from durable_graph.core.history import RUN_STARTS, SPARE, Decoder, load, pack
from durable_graph.core.model import Graph, RetryPolicy, StateUpdate, Task
from durable_graph.core.position import Body, Child, Position
from durable_graph.core.times import iso, seconds
from durable_graph.errors import FencedError, StoreError, ThreadExistsError, ThreadNotFoundError, UnstorableValueError
from durable_graph.limits import Limits
from durable_graph.store import Claim, Row, Thread, Transaction

SNAPSHOT_BYTES = 16_384  # of rows; below that, reading them is as quick as reading a snapshot
# A snapshot replaces rows of at least so many times its size. So all of a thread's snapshots together are at most half
# of its log; and the rows of a list that is only appended to are hardly more than the list: they need no snapshot.
ROWS_PER_SNAPSHOT = 2.0

Effects = Generator[Effect, Any, None]


class Watch(Decoder, Protocol):
    met: set[str]


class Codec(Decoder, Finder, Protocol):
    limits: Limits

    def encode(self, value: Any, path: str = ...) -> bytes: ...

    def write(self, value: Any, *place: str | int, spare: int = ...) -> bytes: ...

    def check_size(self, size: int, value: Any, where: str, **facts: Any) -> None: ...

    def watching(self) -> Watch: ...


@dataclass(frozen=True, slots=True)
class Call:
    """One call of stream, invoke or update_state: all that the caller chose, checked."""

    thread_id: str
    run_id: str
    input: Any = None  # None: continue
    step: int | None = None  # go on from this step instead of the newest
    updates: Sequence[StateUpdate] = ()  # this is update_state: nothing runs
    config: Mapping[str, Any] = field(default_factory=dict)  # as nodes see it
    recorded: Mapping[str, Any] = field(default_factory=dict)  # of the config, what the run's first row keeps
    context: Any = None
    recursion_limit: int = 10_000
    interrupt_before: frozenset[str] = frozenset()  # "*" for all nodes
    interrupt_after: frozenset[str] = frozenset()
    announce: bool = False  # somebody wants to see tasks begin
    task: str = ""  # of a subgraph's run: the task above that it runs in, as "<thread>/<task>"
    parent: tuple[str, int] | None = None  # that thread and its step
    answers: Mapping[str, Any] = field(default_factory=dict)  # given above; those to its own questions count
    origin: Child | None = None  # of a subgraph's run: where it goes on from, if it has no thread of its own yet
    base: Child | None = None  # and where a new input is put on, if it goes on from run to run
    root: str = ""  # for a call that is addressed to a subgraph: the thread above all
    inside: tuple[str, ...] = ()  # and the namespace below it; `step` is one of the subgraph's
    caching: Caching | None = None  # for nodes with a cache policy
    link: Any = None  # for subgraphs of this run: see session.Link
    surround: Surround | None = None  # puts what libraries look for around each node
    now: Callable[[], float] = lambda: 0.0  # for nodes that sleep
    owner: str = ""  # of the lease
    alive: Callable[[str], bool] = lambda owner: True  # does that owner still run?
    lease_seconds: float = 60.0
    wait: float = 0.0  # seconds, for a thread that is busy
    recovers: bool = False  # go on only if the run before this one was cut off, as its process died
    queue: str | None = None  # of the workers whose run this is
    only_accepts: bool = False  # the first row, and no more: workers go on
    wake_at: str | None = None  # of what is only accepted: when it may begin
    statuses: frozenset[str] = frozenset()  # go on only if the thread has one of these
    retry: RetryPolicy | None = None  # of the whole run: after a failure it goes back into its queue
    taken: Sequence[str] = ()  # a signal whose value is the input
    adapt: Callable[[Call, Position], Call] | None = None  # to where the thread stands


class Rows:
    """State of one run. `codec` None means: no rows, everything only in memory."""

    def __init__(self, graph: Graph, codec: Codec | None, key: bytes | None, call: Call) -> None:
        self.graph = graph
        self.codec = codec
        self.key = key
        self.call = call
        self._forget()
        self.stopped = False  # the consumer has gone
        # What the thread is called when this run is stopped and others are to go on: `recover` finds what runs no more,
        # workers what is queued.
        self.handed_over = "running" if call.recovers else "queued" if call.queue else ""

    def _forget(self) -> None:
        """Know nothing of the thread: it has not been read, or was busy and may have changed since."""
        self.position = Position(self.call.thread_id)
        self.epoch = 0
        self.leased = False

    def _record(self, kind: str, node: str | None, task: Task | None, body: Body, at: float, parent: int) -> Recorded:
        """Make the row and add it to the position. It is nobody's business before `_commit` has saved it."""
        position, call = self.position, self.call
        if kind in RUN_STARTS and not self.leased:
            self.epoch += 1
        created_at = iso(at)
        columns = (
            call.thread_id,
            position.step + 1,
            parent if parent >= 0 else None,
            kind,
            position.superstep + 1,
            node,
            None if task is None else task.id,
            call.run_id,
            self.epoch,
            created_at,
        )
        data = hashed = b""
        if self.codec is not None:
            data = self._encode(body, kind, node, position.step + 1)
            hashed = row_hash(position.hash or NO_PARENT, columns, data, self.key)
        row = Row(*columns[:-1], data, created_at, hashed)
        changed = position.apply(row, body)
        return Recorded(position, row, body, changed, "next" in body, task)

    def _encode(self, body: Body, kind: str, node: str | None, step: int) -> bytes:
        assert self.codec is not None
        thread_id = self.call.thread_id
        try:
            data = self.codec.write(body, "row", thread_id, step)
            if len(data) > self.codec.limits.row_bytes and self._may_refuse(kind):
                where = f"Node {node!r} of thread {thread_id!r}" if node else f"The {kind} of thread {thread_id!r}"
                self.codec.check_size(len(data), body, where, node=node, thread_id=thread_id, step=step)
        except UnstorableValueError as error:
            error.add_note(f"in the row of node {node!r}" if node else "in the input")
            raise
        return data

    def _may_refuse(self, kind: str) -> bool:
        """Whether somebody can correct what is too large. What a failed task has shown, and signals that were accepted,
        are not larger than a row may be; what comes with them must not keep the thread from going on."""
        return kind != "error" and (kind != "resume" or self.call.input is not None)

    def _commit(
        self,
        batch: Sequence[Recorded],
        claim: Claim | None = None,
        taken: Sequence[str] = (),
        through: Transaction | None = None,
    ) -> Effects:
        """Save these rows, then show them."""
        if self.codec is not None:
            claim = claim or self._closing(batch[-1])
            if claim is not None:
                self.leased = False  # if it fails, the thread and its epoch are another run's: nothing to give back
            yield Save([recorded.row for recorded in batch], claim, self._snapshot(batch[-1]), taken, through)
            if claim is not None:
                self.leased = claim.values["lease_owner"] is not None
        for recorded in batch:
            if (yield Emit(recorded)):
                self.stopped = True

    def _claim(self, thread: Thread | None, now: float) -> Claim | None:
        if self.codec is None or self.leased:
            return None
        at = iso(now)
        accepts = self.call.only_accepts and bool(self.position.tasks)
        keeps = self.call.updates or self.call.recovers
        runs = self.position.tasks and not self.call.updates and not accepts
        values: dict[str, Any] = {
            "graph": self.graph.name,
            "fingerprint": self.graph.fingerprint,
            "status": "queued" if accepts else "running" if runs else status_of(self.position),
            "epoch": self.epoch,
            "lease_owner": self.call.owner if runs else None,
            "lease_since": at if runs else None,
            "lease_expires_at": iso(now + self.call.lease_seconds) if runs else None,
            "wake_at": self.call.wake_at,
            "updated_at": at,
            "queue": thread.queue if thread is not None and keeps else self.call.queue,
        }
        if thread is None:
            above, step = self.call.parent or (None, None)
            values.update(parent_thread_id=above, parent_step=step, created_at=at, metadata=b"{}")
            values["called_by"] = above_of(self.call.root, self.call.inside) if self.call.inside else above
        return Claim(None if thread is None else thread.epoch, values)

    def _closing(self, last: Recorded) -> Claim | None:
        """The thread's last row gives its lease back in the same transaction."""
        if self.position.tasks or not last.barrier:
            return None
        return self._giving_back(last.row.created_at)

    def _giving_back(self, at: str) -> Claim:
        status, wake_at = status_of(self.position), _wake_at(self.position)
        if status == "pending" and self.stopped and self.handed_over:
            status = self.handed_over
        elif status == "failed" and (pause := self._pause_before_next_try()) is not None:
            status, wake_at = "queued", iso(seconds(at) + pause)
        values = {
            "status": status,
            "lease_owner": None,
            "lease_since": None,
            "lease_expires_at": None,
            "wake_at": wake_at,
            "updated_at": at,
        }
        return Claim(self.epoch, values)

    def _pause_before_next_try(self) -> float | None:
        """Of a submitted run that has failed, in seconds; None if it was the last try."""
        policy, failed = self.call.retry, self.position.run.get("failed", 0) + 1
        if policy is None or failed >= policy.max_attempts:
            return None
        return policy.interval(failed)

    def _snapshot(self, last: Recorded) -> bytes | None:
        """A snapshot, when the rows since the last one have grown to a multiple of it. Whether they have is looked at
        rarely enough for the encoding to stay in proportion, too."""
        position = self.position
        if position.loose < max(SNAPSHOT_BYTES, ROWS_PER_SNAPSHOT * position.packed) or not last.barrier:
            return None
        assert self.codec is not None
        data = self.codec.write(pack(position), "state", last.row.thread_id, last.row.step, spare=SPARE)
        position.packed = len(data)
        if position.loose < ROWS_PER_SNAPSHOT * len(data):
            return None
        position.loose = 0
        return data if len(data) <= self.codec.limits.row_bytes else None  # then the rows are read

    def _release(self) -> Effects:
        if not self.leased:
            return
        self.leased = False
        now = yield Now()
        claim = self._giving_back(iso(now))
        with suppress(StoreError):  # the lease runs out by itself; what brought us here matters more
            yield Ask(lambda store: store.change_thread(self.call.thread_id, claim))


def status_of(position: Position) -> str:
    """What a thread that stands there is called, once no run holds it."""
    if position.errors:
        return "failed"
    if position.questions or position.paused:
        asked = [question for questions in position.questions.values() for question in questions]
        return "waiting" if asked and len(asked) == len(position.waits) else "interrupted"
    return "pending" if position.tasks else "finished"


def _wake_at(position: Position) -> str | None:
    """When a thread that waits can go on by itself."""
    return min((wait.until for wait in position.waits.values() if wait.until), default=None)


def fork(graph: Graph | None, codec: Codec, key: bytes | None, call: Call, origin: str) -> Effects:
    """Make the thread `call.thread_id`, whose first row points at a step of the thread `origin`. Its graph: that of
    the origin if it is not known here."""
    now = yield Now()
    position = yield Ask(lambda store: load(store, codec, origin, call.step))
    thread = yield Ask(lambda store: store.thread(origin))
    if position is None or thread is None:
        name = yield Ask(lambda store: store.name)
        raise ThreadNotFoundError(thread_id=origin, store=name)
    drawn = thread if graph is None else graph
    at, step = iso(now), position.step
    body = {"parent": [origin, step], "run": {**call.recorded}}
    data = codec.write(body, "row", call.thread_id, 0)
    columns = (call.thread_id, 0, step, "fork", position.superstep + 1, None, None, call.run_id, 1, at)
    row = Row(*columns[:9], data, at, row_hash(position.hash, columns, data, key))
    values = {
        "graph": thread.graph if graph is None else graph.name,
        "fingerprint": position.graph.get("fingerprint", drawn.fingerprint),
        "status": status_of(position),
        "epoch": 1,
        "parent_thread_id": origin,
        "parent_step": step,
        "lease_owner": None,
        "lease_since": None,
        "lease_expires_at": None,
        "wake_at": _wake_at(position),
        "queue": None,
        "called_by": None,
        "created_at": at,
        "updated_at": at,
        "metadata": b"{}",
    }
    try:
        yield Save([row], Claim(None, values))
    except FencedError as error:
        if (yield Ask(lambda store: store.thread(call.thread_id))) is None:  # the origin was pruned meanwhile
            if (yield Ask(lambda store: load(store, codec, origin, step))) is None:
                raise ThreadNotFoundError(thread_id=origin, store=(yield Ask(lambda store: store.name))) from error
            raise  # its rows are just being removed
        raise ThreadExistsError(thread_id=call.thread_id) from error
