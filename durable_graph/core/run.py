"""One run of a thread, as a generator of effects. This is the engine; everything else serves it.

    begin       load the thread, accept the input (or continue), commit that as a row with the lease
    superstep   start the pending tasks; as each finishes commit its row, then show it; the last row is the barrier
    end         nothing pending, or the consumer has gone, or something failed: give the lease back

The library's promise stands in `Run._commit`: save, and on the next line emit. It exists once.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

from durable_graph.core.address import above_of
from durable_graph.core.caching import Caching, Memo, node_namespace, task_namespace
from durable_graph.core.chain import NO_PARENT, row_hash
from durable_graph.core.changes import (
    Finder,
    check_keys,
    check_pending,
    check_reducers,
    check_registered,
    drawing_of,
    first_names,
    is_new,
    migrated,
    refused_migration,
    renames,
    unregistered,
    written,
)
from durable_graph.core.channels import Values, detached
from durable_graph.core.effects import (
    Ask,
    Begun,
    Cancel,
    Effect,
    Emission,
    Emit,
    Finished,
    Job,
    Next,
    Now,
    Recorded,
    Relayed,
    Rest,
    Said,
    Save,
    Sent,
    Shown,
    Spawned,
    Token,
)
from durable_graph.core.history import (
    RUN_STARTS,
    SPARE,
    Decoder,
    Standing,
    load,
    pack,
    signal_value,
    standing_at,
    way_inside,
)
from durable_graph.core.job import run_call, run_entry, run_migration, run_node
from durable_graph.core.model import END, START, CachePolicy, Command, Graph, NodeError, StateUpdate, Task, Wait
from durable_graph.core.output import accept_input, accept_update, known_messages
from durable_graph.core.planner import Given, command_body, input_body, parent_body, starts_of, task_body, update_body
from durable_graph.core.position import Body, Child, Position, Update
from durable_graph.core.projection import NAMESPACE, task_metadata
from durable_graph.core.runtime import Runtime
from durable_graph.core.times import iso, seconds
from durable_graph.core.tokens import Tokens, id_of
from durable_graph.errors import (
    ArgumentError,
    CallError,
    ChangedGraphError,
    CheckpointNotFoundError,
    EmptyInputError,
    FencedError,
    GraphBubbleUp,
    GraphInterrupt,
    GraphRecursionError,
    InvalidUpdateError,
    NodeCodeError,
    ParentCommand,
    StoreError,
    ThreadBusyError,
    ThreadExistsError,
    ThreadNotFoundError,
    ThreadWaitingError,
    UnstorableValueError,
)
from durable_graph.limits import Limits
from durable_graph.store import Claim, Entry, Row, Signal, Thread, Transaction

BUSY_PAUSES = (0.05, 1.0)  # seconds between two looks at a thread that is busy: at first, and at most
SNAPSHOT_BYTES = 16_384  # of rows; below that, reading them is as quick as reading a snapshot
# A snapshot replaces rows of at least so many times its size. So all of a thread's snapshots together are at most half
# of its log; and the rows of a list that is only appended to are hardly more than the list: they need no snapshot.
ROWS_PER_SNAPSHOT = 2.0

Effects = Generator[Effect, Any, None]


# A node's config and what takes messages said in it -> the config as libraries complete it, and context variables.
Surround = Callable[[dict[str, Any], Any], tuple[dict[str, Any], Sequence[tuple[ContextVar[Any], Any]]]]


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


class Run:
    """State of one run. `codec` None means: no rows, everything only in memory."""

    def __init__(self, graph: Graph, codec: Codec | None, key: bytes | None, call: Call) -> None:
        self.graph = graph
        self.codec = codec
        self.key = key
        self.call = call
        self._forget()
        self.stopped = False  # the consumer has gone
        self.remaining = call.recursion_limit  # supersteps, after the one at hand
        self.recovered = False  # it went on, or was put right
        self.segment = [0, 0]  # rows and custom events of this run in this superstep
        self.fresh: list[Entry] = []  # for the cache, of rows that are or will be durable
        self.calls = _Calls()

    def _forget(self) -> None:
        """Know nothing of the thread: it has not been read, or was busy and may have changed since."""
        self.position = Position(self.call.thread_id)
        self.epoch = 0
        self.leased = False
        self.children: Mapping[str, Any] = {}  # where subgraphs are to go on from, for a call addressed to one
        self._task = ""  # of the graph above, if it is not the one at hand: for a run that begins as a fork
        self._goes_on = False  # as a subgraph: with a run that was begun elsewhere
        self.strange = False  # the rows that were read hold values of types that are not registered

    def steps(self) -> Effects:
        """The whole run. Raises what a node raised, after its siblings have been recorded and the lease given back."""
        try:
            yield from self._begin()
            yield from self._supersteps()
        except GeneratorExit:
            raise  # the driver has died: nobody is left to perform anything
        except BaseException as error:
            self.stopped = self.stopped or not isinstance(error, Exception | SystemExit)
            yield from self._release()
            raise
        yield from self._release()

    # --- begin --------------------------------------------------------------------------------

    def _begin(self) -> Effects:
        """Take the thread. If it is busy, look again until the time is over that the caller wants to wait."""
        pause, most = BUSY_PAUSES
        until: float | None = None
        while True:
            try:
                yield from self._enter()
                return
            except ThreadBusyError:
                now = yield Now()
                until = now + self.call.wait if until is None else until
                if now >= until:
                    raise
            yield Rest(min(pause, until - now))
            pause = min(2 * pause, most)
            self._forget()

    def _enter(self) -> Effects:
        now = yield Now()
        thread = None
        taken: Sequence[str] = ()
        if self.codec is not None:
            thread = yield from self._load(now)
        if self.call.recovers:
            if not self._is_abandoned(thread) or not self._was_cut_off():
                self.stopped = True
                self.recovered = self._is_abandoned(thread) and (yield from self._put_right(thread, now))
                return
            kind, node = "resume", None
            change = yield from self._settled(kind)
            body = Body(answers={})  # who has asked does not ask again
        elif self._was_here():
            if not self.position.tasks and not is_new(self.graph, self.position):
                return  # this subgraph's run had ended before its node did
            kind, node = "resume", None
            change = yield from self._settled(kind)
            body = self._answered_above()
        elif self.call.updates:
            kind = "update"
            change = yield from self._settled(kind)
            node, body = yield from self._updated()
        elif isinstance(self.call.input, Command):
            self._check_exists()
            kind, node = "resume", None
            change = yield from self._settled(kind)
            body = command_body(self.graph, self.position, self.call.input)
        elif self.call.input is None:
            self._check_continuable()
            kind, node, body = "resume", None, Body()
            answers, taken = yield from self._due(thread, now)
            if answers:
                body["answers"] = answers
            change = yield from self._settled(kind)
        else:
            self._check_outside()
            kind, node = "input", None
            change = yield from self._settled(kind)
            body = yield from self._accepted()
        body = {**change, **body, "run": self._run_of(kind)}
        if kind == "resume" and self.children:
            body["children"] = self.children
        parent = self.position.step
        if self.codec is not None:
            self.position.step = self.position.tail  # after going back in time the row goes to the end of the log
        recorded = self._record(kind, node, None, body, now, parent)
        try:
            yield from self._commit([recorded], self._claim(thread, now), taken)
        except FencedError:
            yield from self._explain_fence(now)
            raise
        self.recovered = self.call.recovers

    def _run_of(self, kind: str) -> dict[str, Any]:
        """What the first row keeps of the run. Who goes on with a subgraph's run from outside leaves it that of
        its task."""
        task = self._task or (self.position.run.get("task") if kind != "input" else None)
        return {**({"task": task} if task else {}), **self.call.recorded}

    def _load(self, now: float) -> Generator[Effect, Any, Thread | None]:
        call, codec = self.call, self.codec
        assert codec is not None

        thread: Thread | None = yield Ask(lambda store: store.thread(call.thread_id))
        if thread is not None:
            self._check_free(thread, iso(now))
            self.epoch = thread.epoch
        step, origin = yield from self._way()
        watch = codec.watching()
        position: Position | None = yield Ask(lambda store: load(store, watch, call.thread_id, step))
        if call.task and (position is None or position.run.get("task") != call.task):
            origin = call.origin or call.base
        if origin is not None:
            return (yield from self._go_on_from(origin, position, thread, now))
        if position is not None:
            self.position, self.strange = position, bool(watch.met)
        elif call.inside:
            raise ThreadNotFoundError(thread_id=call.thread_id, store=(yield Ask(lambda store: store.name)))
        elif call.step is not None:
            raise CheckpointNotFoundError(thread_id=call.thread_id, step=step, have="the thread does not exist")
        return thread

    def _way(self) -> Generator[Effect, Any, tuple[int | None, Child | None]]:
        """Which step this thread goes on from; for a call that is addressed to a subgraph where that is."""
        call, codec = self.call, self.codec
        assert codec is not None
        if not call.inside:
            return call.step, None
        if call.updates:
            found: Standing | None = yield Ask(lambda store: standing_at(store, codec, call.root, call.inside))
            if found is None or found.thread_id == call.thread_id:
                return call.step, None
            self._task = found.task
            return None, (found.thread_id, found.step if call.step is None else call.step, found.children)
        step, self.children = yield Ask(lambda store: way_inside(store, codec, call.root, call.inside, call.step))
        return step, None

    def _go_on_from(
        self, origin: Child, position: Position | None, thread: Thread | None, now: float
    ) -> Generator[Effect, Any, Thread | None]:
        """Go on from another step of this thread or, since the graph above was forked or went back in time, from
        another thread: then this one begins as a fork of that."""
        call, codec = self.call, self.codec
        assert codec is not None
        thread_id, step, children = origin
        if step < 0:
            self.position.tail = -1 if position is None else position.tail
            return thread
        if position is not None and thread_id != call.thread_id:
            thread_id, step = call.thread_id, 0  # it has begun as that fork
        watch = codec.watching()
        found: Position | None = yield Ask(lambda store: load(store, watch, thread_id, step))
        if found is None:
            raise ThreadNotFoundError(thread_id=thread_id, store=(yield Ask(lambda store: store.name)))
        self.position, self.strange = found, bool(watch.met)
        self._goes_on = origin is call.origin
        if thread_id == call.thread_id or (self._goes_on and not found.tasks):
            self.children = children
            return thread
        found.tail = found.step = -1
        body: Body = {"parent": [thread_id, step], "run": {**self._run_of("fork")}}
        if children:
            body["children"] = children
        recorded = self._record("fork", None, None, body, now, step)
        claim = self._claim(None, now)
        assert claim is not None
        claim.values.update(parent_thread_id=thread_id, parent_step=step)
        yield from self._commit([recorded], claim)
        forked: Thread | None = yield Ask(lambda store: store.thread(call.thread_id))
        return forked

    # --- another graph than before ------------------------------------------------------------

    def _settled(self, kind: str) -> Generator[Effect, Any, Body]:
        """What the run's first row says of its graph, with all that has changed since the thread's last run. Moves
        the position there, so that the rest of the row can be made of it."""
        graph, position = self.graph, self.position
        change: Body = {"graph": {"fingerprint": graph.fingerprint}}
        if is_new(graph, position):
            change["graph"] = drawing_of(graph)
            if position.tail >= 0:
                yield from self._changed(kind, change)
        if self.strange and kind != "update":
            assert self.codec is not None
            check_registered(graph, position, self.codec, pending=kind == "resume")
        return change

    def _changed(self, kind: str, change: Body) -> Effects:
        graph, position = self.graph, self.position
        strict = kind != "update" and graph.migrate is None
        names = renames(graph, position, strict=strict)
        formerly = first_names(graph, position, names.get("nodes", {}))
        if formerly or "formerly" in position.graph:
            change["graph"]["formerly"] = formerly
        if names:
            change["renamed"] = names
            position.rename(names)
        unapplied = written(position) if kind == "resume" else set()
        if kind == "resume":
            check_pending(graph, position)
        if strict:
            held = {*position.values, *unapplied}
            check_keys(graph, position, held)
            check_reducers(graph, position, held, names.get("channels", {}))
        if graph.migrate is not None:
            check_keys(graph, position, unapplied)  # it converts the state, and these are not yet in it
            change["migrated"] = yield from self._migrated(graph.migrate)
        position.move(change)
        if kind != "input" and (starts := starts_of(graph, position)):
            change["starts"] = starts
            position.move(change)

    def _migrated(self, migrate: Callable[[dict[str, Any]], Any]) -> Generator[Effect, Any, Body]:
        assert self.codec is not None
        job = Job(Task(f"{self.position.tail + 1}.migrate", "migrate", ()), 1)
        job.steps = run_migration(migrate, self.position.values.share())
        try:
            answer = yield from self._alone(job)
        except Exception as error:
            raise refused_migration(self.position, error) from error
        return migrated(self.graph, self.position, answer, self.codec.encode)

    def _check_free(self, thread: Thread, now: str) -> None:
        owner = thread.lease_owner
        if owner and (thread.lease_expires_at or "") > now and self.call.alive(owner):
            raise ThreadBusyError(thread_id=thread.thread_id, owner=owner, since=thread.lease_since)

    def _check_continuable(self) -> None:
        if self.position.tasks:
            return
        started = self.position.tail >= 0
        raise EmptyInputError(
            thread_id=self.call.thread_id,
            problem="has finished: there is nothing to continue" if started else "does not exist yet",
            fix="Give an input to start a new run on it, or read it with replay(config) or get_state(config)."
            if started
            else "Give an input to start it. If it should exist, check the thread_id and the database URL.",
        )

    def _was_here(self) -> bool:
        """Whether this is a subgraph's run that an earlier attempt of the node above has begun."""
        return self._goes_on or (bool(self.call.task) and self.position.run.get("task") == self.call.task)

    def _answered_above(self) -> Body:
        position = self.position
        open_ = [*position.questions.values(), *position.asked.values()]
        asked = [question.interrupt.id for questions in open_ for question in questions]
        answers = {name: self.call.answers[name] for name in asked if name in self.call.answers}
        return {"answers": answers} if answers else {}

    def _is_abandoned(self, thread: Thread | None) -> bool:
        """Whether nobody has gone on with it since it was found. A subgraph's run is left to the run above it."""
        return thread is not None and thread.status == "running" and not self.position.run.get("task")

    def _was_cut_off(self) -> bool:
        """Whether the run before this one was to go on, and not only to give its lease back."""
        position = self.position
        pausing = position.paused and position.kind == "interrupt" and not position.questions
        return bool(position.runnable) and not position.errors and not pausing

    def _put_right(self, thread: Thread | None, now: float) -> Generator[Effect, Any, bool]:
        """Give back the lease of a run that died before it could. False if there was none, or somebody was faster."""
        if thread is None or thread.status != "running":
            return False
        claim = Claim(thread.epoch, {**self._giving_back(iso(now)).values, "epoch": thread.epoch + 1})
        done: bool = yield Ask(lambda store: store.change_thread(self.call.thread_id, claim))
        return done

    def _due(self, thread: Thread | None, now: float) -> Generator[Effect, Any, tuple[dict[str, Any], list[str]]]:
        """Answers to waits that are over, and the signals that these take. Says until when the thread waits
        if it does."""
        waits = self.position.waits
        if not waits:
            return {}, []
        answers, taken = yield from self._ended_waits(now)
        others = sum(map(len, self.position.questions.values())) - len(waits)  # of somebody
        if not answers and not self.position.runnable and not others and not self.position.paused:
            yield from self._put_right(thread, now)
            raise ThreadWaitingError(thread_id=self.call.thread_id, what=_told_waits(waits))
        return answers, taken

    def _ended_waits(self, now: float) -> Generator[Effect, Any, tuple[dict[str, Any], list[str]]]:
        inbox = yield Ask(lambda store: store.signals(self.call.thread_id))
        assert self.codec is not None
        answers: dict[str, Any] = {}
        taken: list[str] = []
        room = self.codec.limits.row_bytes
        for name, wait in self.position.waits.items():
            signal = next((s for s in inbox if s.name == wait.signal and s.id not in taken), None)
            if signal is not None:
                value = self._received(signal)
                room -= len(signal.value)
                if taken and room < 0:
                    break  # the next row takes it
                answers[name] = {"signal": value}
                taken.append(signal.id)
            elif wait.until is not None and wait.until <= iso(now):
                answers[name] = {}
        return answers, taken

    def _received(self, signal: Signal) -> Any:
        assert self.codec is not None
        value = signal_value(self.codec, signal, self.position.step)
        strange = self.codec.placeholder_in(value, f"the signal {signal.name!r}: value")
        if strange is not None:
            raise unregistered(self.position, *strange)
        return value

    def _wake(self) -> Effects:
        """A signal may have been there before the task that waits for it: then this run goes on."""
        if not self.position.questions or not self.position.waits or self.stopped:
            return
        now = yield Now()
        answers, taken = yield from self._ended_waits(now)
        if answers:
            body = {"answers": answers}
            yield from self._commit([self._record("resume", None, None, body, now, self.position.step)], None, taken)

    def _check_exists(self) -> None:
        if self.position.tail < 0:
            raise EmptyInputError(
                thread_id=self.call.thread_id,
                problem="does not exist yet, so there is nothing to command",
                fix="Give an input to start it. If it should exist, check the thread_id and the database URL.",
            )

    def _accepted(self) -> Generator[Effect, Any, Body]:
        update = accept_input(self.graph, self.call.input)
        values = Values({**self.position.values, **starts_of(self.graph, self.position)})
        _, goto = yield from self._entry(START, update, values)
        return input_body(self.graph, self.position, update, goto)

    def _check_outside(self) -> None:
        if self.call.inside:
            raise ArgumentError(
                argument="checkpoint_ns",
                problem="a new input cannot begin inside a subgraph",
                fix="Leave checkpoint_ns out, or go on there with None or a Command, or change it with update_state.",
            )

    def _updated(self) -> Generator[Effect, Any, tuple[str | None, Body]]:
        """Several updates are one superstep."""
        given = []
        task = self._updated_task()
        for values, as_node, _ in self.call.updates:
            node = self._updating_node(task.node if task and as_node is None else as_node)
            update = accept_update(self.graph, values)
            _, goto = yield from self._entry(node, update, self.position.values)
            given.append(Given(node, update, goto))
        body = update_body(self.graph, self.position, given, task and task.id)
        return given[0].node if len(given) == 1 else None, body

    def _updated_task(self) -> Task | None:
        """The pending task that the caller has named."""
        name = next((update.task_id for update in self.call.updates if update.task_id is not None), None)
        if name is None:
            return None
        found = next((task for task in self.position.pending if task.id == name), None)
        if found is None:
            pending = ", ".join(f"{task.id} ({task.node})" for task in self.position.pending) or "none"
            raise self._bad_update(f"there is no pending task {name!r}", f"Name one of: {pending}; or none")
        return found

    def _updating_node(self, node: str | None) -> str:
        """Whose update this is: the node the caller names, or the one that ran last, if that is clear."""
        if node is None:
            last = set(self.position.last_nodes) or {START}
            if len(last) > 1 or len(self.call.updates) > 1:
                problem = f"it is not clear which node it stands for: {', '.join(sorted(last))} ran last"
                raise self._bad_update(problem, "Name one with as_node=...")
            (node,) = last
        if node != END and node not in self.graph.nodes:
            names = ", ".join(sorted(set(self.graph.nodes) - {START}))
            raise self._bad_update(f"there is no node {node!r}", f"Name one of: {names} as as_node")
        return node

    def _bad_update(self, problem: str, fix: str) -> InvalidUpdateError:
        return InvalidUpdateError(where=f"update_state on thread {self.call.thread_id!r}", problem=problem, fix=fix)

    def _entry(self, node: str, update: Update, values: Values) -> Generator[Effect, Any, Any]:
        """Ask the routers after `node`, as a job of its own, since they are the user's code."""
        if node == END or not self.graph.nodes[node].branches:
            return update, []
        job = Job(Task(f"{self.position.tail + 1}.{node}", node, ()), 1, self.position.step, self.remaining)
        job.make_runtime = self._entry_runtime
        job.surrounds = self.call.surround is not None
        job.steps = run_entry(self.graph, values, node, update, job)
        return (yield from self._alone(job))

    def _alone(self, job: Job) -> Generator[Effect, Any, Any]:
        """What a job returns or raises that is no task's."""
        jobs = [job]
        while True:
            for item in (yield Next(jobs)):
                if isinstance(item, Finished):
                    if item.error is not None:
                        raise item.error
                    return item.result
            jobs = []

    def _claim(self, thread: Thread | None, now: float) -> Claim | None:
        if self.codec is None or self.leased:
            return None
        at = iso(now)
        runs = self.position.tasks and not self.call.updates
        values: dict[str, Any] = {
            "graph": self.graph.name,
            "fingerprint": self.graph.fingerprint,
            "status": "running" if runs else _status(self.position),
            "epoch": self.epoch,
            "lease_owner": self.call.owner if runs else None,
            "lease_since": at if runs else None,
            "lease_expires_at": iso(now + self.call.lease_seconds) if runs else None,
            "wake_at": None,
            "updated_at": at,
        }
        if thread is None:
            above, step = self.call.parent or (None, None)
            values.update(parent_thread_id=above, parent_step=step, created_at=at, metadata=b"{}")
            values["called_by"] = above_of(self.call.root, self.call.inside) if self.call.inside else above
        return Claim(None if thread is None else thread.epoch, values)

    def _explain_fence(self, now: float) -> Effects:
        """Somebody else was quicker between our look and our claim: say who."""
        thread = yield Ask(lambda store: store.thread(self.call.thread_id))
        if thread is not None:
            self._check_free(thread, iso(now))
            raise ThreadBusyError(
                thread_id=self.call.thread_id,
                owner=thread.lease_owner or "another run",
                since=thread.updated_at,
            )

    # --- supersteps ---------------------------------------------------------------------------

    def _supersteps(self) -> Effects:
        if self.call.updates:
            return
        may_pause = bool(self.call.interrupt_before or self.call.interrupt_after)
        while self.remaining:
            self.remaining -= 1
            if self.stopped or not self.position.runnable:
                return
            if may_pause and self._pauses():
                yield from self._pause()
                return
            yield from self._superstep()
            if self.position.questions:
                yield from self._wake()
        if self.position.runnable and not self.stopped and not self._pauses():
            raise GraphRecursionError(
                thread_id=self.call.thread_id,
                limit=self.call.recursion_limit,
                step=self.position.step,
                next=", ".join(self.position.next),
            )

    def _pauses(self) -> bool:
        """Whether the caller wants to look before these nodes, or after those that ran. Once for each barrier."""
        position, call = self.position, self.call
        if position.done or position.paused:
            return False
        ran = [node for node in position.last_nodes if node != START]
        return _names_one(call.interrupt_before, position.next) or _names_one(call.interrupt_after, ran)

    def _pause(self) -> Effects:
        now = yield Now()
        body: Body = {"interrupts": []}
        yield from self._commit([self._record("interrupt", None, None, body, now, self.position.step)])

    def _superstep(self) -> Effects:
        tasks = self.position.runnable
        self.segment = [0, 0]
        if self.call.announce and (yield Emit(Begun(self.position, tasks))):
            self.stopped = True
            return
        failures = yield from self._collect([self._job(task) for task in tasks])
        if failures:
            raise _first(failures)

    def _collect(self, jobs: list[Job]) -> Generator[Effect, Any, list[BaseException]]:
        """Commit and show each task as it finishes. After a failure, or when the consumer has gone, what has
        not begun is taken back, and what has begun is waited for: its work is not lost."""
        failures: list[BaseException] = []
        running, winding_down = len(jobs), False
        calls = self.calls
        while running:
            batch: list[Recorded] = []
            begun, jobs = jobs, []
            try:
                items = yield Next(begun)
                begun = []
            except BaseException as interrupt:  # Ctrl-C or a cancelled asyncio task, while we wait
                if winding_down or isinstance(interrupt, GeneratorExit):
                    raise  # asked twice: do not wait any more
                failures.append(interrupt)
                items = ()
            for item in items:
                if batch and (type(item) is not Finished or item.job.parent is not None):
                    yield from self._commit(batch)  # what came before is saved and shown before
                    batch = []
                if type(item) is Spawned:
                    calls.begin(item.job)
                elif type(item) is not Finished:
                    yield from self._show(item)
                elif item.error is not None and (again := self._next_attempt(item, winding_down)) is not None:
                    yield from self._roll_back(item.job)
                    jobs.append(again)
                elif item.job.parent is not None:
                    yield from self._finish_call(item)
                    for held in calls.end(item.job):
                        running -= 1
                        yield from self._end(batch, held, failures)
                elif not (calls.open and calls.hold(item)):
                    running -= 1
                    yield from self._end(batch, item, failures)
            if batch:
                yield from self._commit(batch)
            if self.fresh:
                yield from self._keep()
            if (failures or self.stopped) and not winding_down:
                winding_down = True
                cancelled: Sequence[Job] = yield Cancel([job for job in (*begun, *jobs) if job.parent is None])
                jobs = [job for job in jobs if job.parent is not None]  # a node waits for it
                running -= len(cancelled)
                given_up = [self._given_up(job) for job in cancelled if job.failures]
                if given_up:
                    yield from self._commit(given_up)
        return failures

    def _keep(self) -> Effects:
        """What the committed rows hold goes into the cache."""
        assert self.call.caching is not None
        cache, entries, self.fresh = self.call.caching.cache, self.fresh, []
        now = iso((yield Now()))
        yield Ask(lambda _: cache.keep(entries, now=now))

    def _end(self, batch: list[Recorded], item: Finished, failures: list[BaseException]) -> Effects:
        """Add the row of a task that has ended. If the task has a transaction of its own, all is committed with it."""
        if batch:  # shown as of its own row, not of the last one of its batch
            batch[-1].position = self.position.frozen()
        recorded = self._outcome(item, failures)
        batch += [recorded] if recorded else []
        if item.job.transaction is None:
            return
        if recorded is None or recorded.row.kind != "task":
            yield from self._roll_back(item.job)
            return
        yield from self._commit(batch, through=item.job.transaction)
        batch.clear()

    def _roll_back(self, job: Job) -> Effects:
        transaction = job.transaction
        if transaction is not None:
            yield Ask(lambda store: transaction.rollback())

    def _finish_call(self, item: Finished) -> Effects:
        """A @task has ended: its result is committed before the node that called it sees it."""
        reply = item.job.reply
        if item.error is not None:
            yield from self._roll_back(item.job)
            _hand_over(item.job, _caller(item.job))  # no row of its own will record what it has shown
            reply.set_exception(item.error)
            return
        try:
            recorded = self._ended("task", item, {"result": detached(item.result)})
            yield from self._commit([recorded], through=item.job.transaction)
        except BaseException as error:
            yield from self._roll_back(item.job)
            reply.set_exception(error)
            if isinstance(error, UnstorableValueError):
                return  # the node's mistake, and the node hears of it
            raise
        caller = _caller(item.job)
        if item.job.tokens is not None and caller.tokens is not None:
            caller.tokens.names |= item.job.tokens.names  # the node may return what its task has said
        reply.set_result(item.result)

    def _job(self, task: Task, attempt: int = 0, error: NodeError | None = None) -> Job:
        position, node = self.position, self.graph.nodes[task.node]
        job = Job(task, attempt or position.attempts.get(task.id, 0) + 1, position.step, self.remaining)
        job.make_runtime = self._runtime
        if node.retry:
            job.retry = node.retry
        if node.error_handler is not None:
            job.handler = node.error_handler
        if error is not None:
            job.error = error
        if node.cache is not None and self.call.caching is not None:
            job.memo = self._memo(job, node.cache, node_namespace(self.graph.name, node.name, node.call))
        if self.call.surround is not None:
            job.surrounds = True
        job.steps = run_node(self.graph, position, job)
        return job

    def _memo(self, job: Job, policy: CachePolicy[Any], namespace: str) -> Memo:
        assert self.call.caching is not None
        first = job.attempt == 1
        return Memo(self.call.caching, policy, namespace, job.task.node, self.call.thread_id, first)

    def _call_of(
        self,
        caller: Job,
        number: int,
        name: str,
        call: Callable[..., Any],
        arg: Any,
        retry: Any,
        timeout: Any,
        policy: CachePolicy[Any] | None,
    ) -> Any:
        """A node calls a @task: what it returned before, or a job of its own. Runs in the node's thread."""
        if caller.ended:
            raise CallError(
                problem=f"the @task {name!r} was called after node {caller.task.node!r} had ended",
                fix="Call it while the node runs, and wait for its result: the node's row comes after its calls.",
            )
        recorded = self.position.calls.get(caller.scope, {}).get(number)
        if recorded is not None:
            return self._recalled(caller, number, name, recorded)
        task = Task(f"{caller.scope}/{number}", name, ("__call__",), arg, f"{caller.task.seed}/{number}")

        def again(attempt: int) -> Job:
            job = Job(task, attempt, caller.step)
            job.parent, job.retry, job.again = caller, retry, again
            job.make_runtime = self._runtime
            if policy is not None and self.call.caching is not None:
                job.memo = self._memo(job, policy, task_namespace(name, call))
            job.surrounds = self.call.surround is not None
            job.steps = run_call(call, arg, timeout, job)
            return job

        return caller.spawn(again(1))

    def _recalled(self, caller: Job, number: int, name: str, recorded: tuple[str, Any]) -> Any:
        before, value = recorded
        if before != name:
            raise ChangedGraphError(
                thread_id=self.call.thread_id,
                problem=f"call {number} of node {caller.task.node!r} was of {before!r} before and is of {name!r} now",
                fix="A node must call its @tasks in the same order each time: until this thread is done keep the old "
                "code, or move it on with update_state(config, values, as_node=...)",
            )
        return caller.recall(detached(value))

    def _next_attempt(self, item: Finished, winding_down: bool) -> Job | None:
        """After a failure: the same task again if its retry policy says so, else with its error handler, if
        it has one."""
        error, job = item.error, item.job
        if not isinstance(error, Exception) or isinstance(error, GraphBubbleUp) or winding_down or self.stopped:
            return None
        policy = next((policy for policy in job.retry if policy.matches(error)), None)
        failed = len(job.failures) - job.inherited + 1
        if policy is not None and failed < policy.max_attempts:
            attempt = job.attempt + 1
            again = job.again(attempt) if job.parent is not None else self._job(job.task, attempt, job.error)
            again.scope, again.inherited = job.scope, job.inherited  # an error handler's stay its own
            again.delay, again.jitter = policy.interval(failed), policy.jitter
        elif job.handler is not None:
            # questions of its own: it must not take the node's answers for its own
            taken_over = job.task._replace(node=job.handler, seed=f"{job.task.seed}/{self._first_name(job.handler)}")
            again = self._job(taken_over, job.attempt, NodeError(job.task.node, error))
            again.scope, again.inherited = f"{job.scope}/handler", len(job.failures) + 1
        else:
            return None
        failure = {**_told(error), "started": iso(item.started), "finished": iso(item.finished)}
        again.failures = [*job.failures, failure]
        _hand_over(job, again)
        if job.parent is not None:
            again.reply = job.reply
        return again

    def _given_up(self, job: Job) -> Recorded:
        """The row of a task that was to be tried again and is not, as another one has failed for good."""
        *job.failures, last = job.failures
        job.attempt -= 1
        error = {key: last[key] for key in ("type", "message", "traceback")}
        ended = Finished(job, None, None, seconds(last["started"]), seconds(last["finished"]))
        return self._ended("error", ended, {"error": error})

    def _first_name(self, node: str) -> str:
        """Of a node that was renamed while this thread lived: what was kept or asked under it is still found."""
        names: Mapping[str, str] = self.position.graph.get("formerly", {})
        return names.get(node, node)

    def _entry_runtime(self, job: Job) -> Runtime[Any]:
        """For a router that is asked before there is a row which could keep a custom event."""
        return replace(self._runtime(job), stream_writer=_no_stream)

    def _runtime(self, job: Job) -> Runtime[Any]:
        def write(data: Any) -> None:
            if job.ended:
                raise _too_late(job, "the stream writer")
            if self.codec is not None:
                self._check_shown(job, data)
            job.tell(Sent(job, detached(data)))

        call = self.call
        top = job.task.id.partition("/")[0]
        given = self.position.answers.get(top, ())
        ear = _Ear(self, job)
        config = self._config(job, ear)
        return Runtime(
            call.context,
            write,
            call.thread_id,
            job.task.node,
            job.step,
            job.scope,
            job.attempt,
            config,
            heartbeat=lambda: job.alive(),
            _now=call.now,
            _durable=self.codec is not None,
            _seed=job.task.seed,
            _home=self._first_name(job.task.node),
            _answers={question.interrupt.id: answer for question, answer in given},
            _children=self.position.children.get(job.scope, {}),
            _pinned=self.position.pinned,
            _start=lambda *called: self._call_of(job, *called),
            _link=call.link,
            _below=lambda *shown: job.tell(Relayed(job, *shown)),
            _ear=ear,
            _connect=partial(_connection_of, job),
            _holds=lambda: job.transaction is not None and job.transaction.exclusive,
        )

    def _check_shown(self, job: Job, shown: Any) -> None:
        """Refuse in the node, which can see why, what its row could not keep. Runs there."""
        assert self.codec is not None
        data = self.codec.encode(shown)
        job.shown += len(data)
        if job.shown > self.codec.limits.row_bytes:
            where = f"Node {job.task.node!r} of thread {self.call.thread_id!r} has shown too much"
            facts = {"node": job.task.node, "thread_id": self.call.thread_id, "step": job.step}
            self.codec.check_size(job.shown, shown, where, **facts)

    def _config(self, job: Job, ear: _Ear) -> Mapping[str, Any]:
        """The run's config with the node's place in its metadata, and with what libraries look for in it."""
        call = self.call
        above = call.link.ns if call.link is not None else ()
        place = {**ear.place, NAMESPACE: "|".join((*above, ear.place[NAMESPACE]))}
        config = {**call.config, "metadata": place}
        if call.surround is not None:
            config, job.variables = call.surround(config, ear)
        return config

    def _show(self, item: Sent | Said | Relayed) -> Effects:
        """Show what a node says while it runs, and keep for replays when that was."""
        job, (rows, number) = item.job, self.segment
        if isinstance(item, Relayed):
            yield from self._relay(item)
            return
        self.segment[1] += 1
        if isinstance(item, Sent):
            job.custom.append([rows, number, item.data])
            shown: Emission = Shown(self.position, job.task, item.data)
        else:
            assert job.tokens is not None
            _, extra, _ = job.tokens.add(item.key, rows, number, item.message, item.extra)
            shown = Token(self.position, job.task, item.message, extra)
        if (yield Emit(shown)):
            self.stopped = True

    def _relay(self, item: Relayed) -> Effects:
        """A subgraph has shown something."""
        if item.step is not None:
            self._mark_below(item.job, item.thread_id, item.step)
        if item.chunks and (yield Emit(item)):
            self.stopped = True

    def _mark_below(self, job: Job, thread_id: str, step: int) -> None:
        rows, number = self.segment
        last = job.below[-1] if job.below else None
        if last is not None and last[:3] == [rows, number - 1, thread_id] and last[4] == step - 1:
            last[4] = step  # nothing came between
            return
        job.below.append([rows, number, thread_id, step, step])
        self.segment[1] += 1

    def _outcome(self, item: Finished, failures: list[BaseException]) -> Recorded | None:
        """The row of a task that has ended: its result, or if it failed, its error."""
        error = item.error
        if isinstance(error, ParentCommand) and self.call.task:
            return self._ended("task", item, parent_body(self.position, error.command))
        try:
            if error is None:
                return self._result(item)
            if isinstance(error, GraphInterrupt):
                asked = [[interrupt.value, interrupt.id, error.below] for interrupt in error.interrupts]
                return self._ended("interrupt", item, {"interrupts": asked})
        except (NodeCodeError, RecursionError) as refused:
            error = refused
        failures.append(error)
        if not isinstance(error, Exception):
            return None  # KeyboardInterrupt, SystemExit: not the task's failure
        error.add_note(f"in node {item.job.task.node!r} of thread {self.call.thread_id!r}")
        return self._ended("error", item, {"error": _told(error)})

    def _result(self, item: Finished) -> Recorded:
        assert item.result is not None
        update, goto = item.result
        body = task_body(self.graph, self.position, item.job.task, update, goto)
        known = known_messages(self.graph, self.position, item.job.task, update)
        if known:
            body["seen"] = known
        return self._ended("task", item, body)

    def _ended(self, kind: str, item: Finished, body: Body) -> Recorded:
        job = item.job
        if job.custom:
            body["custom"] = job.custom
        if job.below:
            body["below"] = job.below
        if job.tokens is not None and job.tokens.names:
            body["tokens"] = list(job.tokens.streams.values())
            body["seen"] = [*dict.fromkeys([*job.tokens.names, *body.get("seen", ())])]
        if job.failures:
            body["failures"] = job.failures
        if job.attempt > 1 or kind != "task":
            body["attempt"] = job.attempt
        if job.cached:
            body["cached"] = True
        body["started"] = iso(item.started)
        recorded = self._record(kind, job.task.node, job.task, body, item.finished, self.position.step)
        self.segment[0] += 1
        if job.memo is not None and kind == "task":
            entry = job.memo.entry(item.finished)
            self.fresh += [entry] if entry else []
        return recorded

    # --- rows ---------------------------------------------------------------------------------

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

    def _closing(self, last: Recorded) -> Claim | None:
        """The thread's last row gives its lease back in the same transaction."""
        if self.position.tasks or not last.barrier:
            return None
        return self._giving_back(last.row.created_at)

    def _giving_back(self, at: str) -> Claim:
        status = _status(self.position)
        if status == "pending" and self.stopped and self.call.recovers:
            status = "running"  # only its recovery was stopped: the next one finds it again
        values = {
            "status": status,
            "lease_owner": None,
            "lease_since": None,
            "lease_expires_at": None,
            "wake_at": _wake_at(self.position),
            "updated_at": at,
        }
        return Claim(self.epoch, values)

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

    # --- end ----------------------------------------------------------------------------------

    def _release(self) -> Effects:
        if not self.leased:
            return
        self.leased = False
        now = yield Now()
        claim = self._giving_back(iso(now))
        with suppress(StoreError):  # the lease runs out by itself; what brought us here matters more
            yield Ask(lambda store: store.change_thread(self.call.thread_id, claim))


class _Ear:
    """Takes the parts of messages that are said in a node, in the node's own thread."""

    def __init__(self, run: Run, job: Job) -> None:
        metadata = run.call.config.get("metadata", {})
        self.place = task_metadata(metadata, run.call.thread_id, run.position.superstep + 1, job.task)
        self._config = run.call.config
        self._codec, self._check = run.codec, run._check_shown
        self._job = job
        self._tokens = job.tokens = job.tokens or Tokens()

    def part(self, key: Any, message: Any, metadata: Mapping[str, Any]) -> None:
        """Show a part of a message; `key` is the same for all of them. Once the node has ended nobody listens.

        Raises UnstorableValueError for what the row could not keep.
        """
        if self._job.ended:
            return
        place = self.place
        extra = {k: v for k, v in metadata.items() if k not in _PLACES and (k not in place or place[k] != v)}
        # langchain-core takes what lies under `configurable` for metadata, some of it or all: that is never kept
        for name in (
            extra.keys() & self._config.get("configurable", {}).keys() - self._config.get("metadata", {}).keys()
        ):
            del extra[name]
        if self._codec is not None:
            self._check(self._job, [message, extra])
        self.whole(id_of(message))
        self._job.tell(Said(self._job, key, detached(message), detached(extra)))

    def push(self, message: Any, name: str, key: str | None) -> None:
        """Show a message or a part of it because the node says so, and write it to this key of the state."""
        if self._job.ended:
            raise _too_late(self._job, "push_message")
        if key is not None and self._job.parent is not None:
            raise CallError(
                problem=f"push_message was to write to the state in the @task {self._job.task.node!r}",
                fix="A task has no part in the state: give state_key=None, and let the node write the message.",
            )
        self.part(name, message, {})
        if key is not None:
            self._job.pushed[key, name] = message

    def whole(self, name: str | None) -> None:
        """The message with this id has been shown in parts: as a whole it is no news."""
        if name is not None:
            self._tokens.names[name] = None


_PLACES = frozenset({NAMESPACE, "checkpoint_ns"})


def _too_late(job: Job, what: str) -> CallError:
    return CallError(
        problem=f"{what} of node {job.task.node!r} was called after the node had ended",
        fix="Call it while the node runs: its row, which records what was shown, is complete now.",
    )


def _hand_over(job: Job, to: Job) -> None:
    """What a job that gets no row has shown is recorded with another's."""
    to.custom, to.below = [*to.custom, *job.custom], [*to.below, *job.below]
    to.shown += job.shown
    if job.tokens is None:
        return
    to.tokens = to.tokens or Tokens()
    here, there = (task_metadata({}, "", 0, each.task) for each in (job, to))
    to.tokens.take_over(job.tokens, {key: value for key, value in here.items() if there[key] != value})


class _Calls:
    """@tasks under way, and nodes that have ended before all they called did: their rows come after."""

    def __init__(self) -> None:
        self.open: dict[Job, int] = {}  # by the node's job
        self._held: dict[Job, Finished] = {}

    def begin(self, call: Job) -> None:
        caller = _caller(call)
        self.open[caller] = self.open.get(caller, 0) + 1

    def hold(self, item: Finished) -> bool:
        if not self.open.get(item.job):
            return False
        self._held[item.job] = item
        return True

    def end(self, call: Job) -> list[Finished]:
        """The node that was held for this call only."""
        caller = _caller(call)
        self.open[caller] -= 1
        return [self._held.pop(caller)] if caller in self._held and not self.open[caller] else []


def _caller(call: Job) -> Job:
    while call.parent is not None:
        call = call.parent
    return call


def _no_stream(data: Any) -> None:
    raise CallError(
        problem="a router after START, or one that update_state asks, has called the stream writer",
        fix="Send custom events from nodes, or from routers after them: there is no row yet that could keep this one.",
    )


def _connection_of(job: Job, awaits: bool) -> Any:
    """For `runtime.connection`: that of the job's transaction. Runs in the node."""
    if job.ended:
        raise CallError(
            problem=f"runtime.connection of node {job.task.node!r} was asked for after the node had ended",
            fix="Use it while the node runs; its transaction ends with the node.",
        )
    if awaits:
        return _await_connection(job)
    if job.transaction is None:
        job.transaction = job.begin(False)
    return job.transaction.connection


async def _await_connection(job: Job) -> Any:
    if job.transaction is None:
        job.transaction = await job.begin(True)
    return job.transaction.connection


def fork(graph: Graph, codec: Codec, key: bytes | None, call: Call, origin: str) -> Effects:
    """Make the thread `call.thread_id`, whose first row points at a step of the thread `origin`."""
    now = yield Now()
    position = yield Ask(lambda store: load(store, codec, origin, call.step))
    if position is None:
        name = yield Ask(lambda store: store.name)
        raise ThreadNotFoundError(thread_id=origin, store=name)
    at, step = iso(now), position.step
    body = {"parent": [origin, step], "run": {**call.recorded}}
    data = codec.write(body, "row", call.thread_id, 0)
    columns = (call.thread_id, 0, step, "fork", position.superstep + 1, None, None, call.run_id, 1, at)
    row = Row(*columns[:9], data, at, row_hash(position.hash, columns, data, key))
    values = {
        "graph": graph.name,
        "fingerprint": position.graph.get("fingerprint", graph.fingerprint),
        "status": _status(position),
        "epoch": 1,
        "parent_thread_id": origin,
        "parent_step": step,
        "lease_owner": None,
        "lease_since": None,
        "lease_expires_at": None,
        "wake_at": _wake_at(position),
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


def _told(error: Exception) -> dict[str, str]:
    """An error as a row records it."""
    return {
        "type": f"{type(error).__module__}.{type(error).__qualname__}",
        "message": str(error)[:10_000],
        "traceback": "".join(traceback.format_exception(error))[-10_000:],
    }


def _told_waits(waits: Mapping[str, Wait]) -> str:
    return ", ".join(
        (f"for the signal {wait.signal!r}" if wait.signal else "")
        + (" or " if wait.signal and wait.until else "")
        + (f"until {wait.until}" if wait.until else "")
        for wait in waits.values()
    )


def _names_one(wanted: frozenset[str], nodes: Sequence[str]) -> bool:
    return bool(nodes) and ("*" in wanted or not wanted.isdisjoint(nodes))


def _status(position: Position) -> str:
    if position.errors:
        return "failed"
    if position.questions or position.paused:
        asked = [question for questions in position.questions.values() for question in questions]
        return "waiting" if asked and len(asked) == len(position.waits) else "interrupted"
    return "pending" if position.tasks else "finished"


def _wake_at(position: Position) -> str | None:
    """When a thread that waits can go on by itself."""
    return min((wait.until for wait in position.waits.values() if wait.until), default=None)


def _first(failures: list[BaseException]) -> BaseException:
    first, *others = failures
    for other in others:
        first.add_note(f"another task of the superstep failed too: {type(other).__name__}: {other}")
    return first
