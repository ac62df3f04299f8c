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
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from durable_graph.core.chain import NO_PARENT, row_hash
from durable_graph.core.channels import detached
from durable_graph.core.effects import (
    Ask,
    Begun,
    Cancel,
    Effect,
    Emit,
    Finished,
    Job,
    Next,
    Now,
    Recorded,
    Relayed,
    Rest,
    Save,
    Sent,
    Shown,
    Spawned,
    Start,
)
from durable_graph.core.history import Decoder, load, pack
from durable_graph.core.job import run_call, run_entry, run_node
from durable_graph.core.model import END, START, Command, Graph, NodeError, Task, Wait
from durable_graph.core.planner import (
    Body,
    Position,
    Update,
    accept_input,
    accept_update,
    command_body,
    gone,
    input_body,
    parent_body,
    task_body,
    update_body,
)
from durable_graph.core.runtime import Runtime
from durable_graph.core.times import iso
from durable_graph.errors import (
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
from durable_graph.store import Claim, Row, Thread, Transaction

BUSY_PAUSES = (0.05, 1.0)  # seconds between two looks at a thread that is busy: at first, and at most
SNAPSHOT_BYTES = 65_536  # below that, reading the rows is as quick as reading a snapshot

Effects = Generator[Effect, Any, None]


class Codec(Decoder, Protocol):
    def encode(self, value: Any) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Call:
    """One call of stream, invoke or update_state: all that the caller chose, checked."""

    thread_id: str
    run_id: str
    input: Any = None  # None: continue
    step: int | None = None  # go on from this step instead of the newest
    updates: bool = False  # this is update_state: `input` is the update, and nothing runs
    as_node: str | None = None  # for update_state: the node that made it; None: the one that ran last
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
    link: Any = None  # for subgraphs of this run: see session.Link
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
        self.position = Position(call.thread_id)
        self.epoch = 0
        self.leased = False
        self.stopped = False  # the consumer has gone
        self.recovered = False  # it went on, or was put right
        self.segment = [0, 0]  # rows and custom events of this run in this superstep

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
            self.__init__(self.graph, self.codec, self.key, self.call)  # type: ignore[misc]  # what was read is old

    def _enter(self) -> Effects:
        now = yield Now()
        thread = None
        taken: Sequence[str] = ()
        if self.codec is not None:
            thread = yield from self._load(iso(now))
        if self.call.recovers:
            if not self._is_abandoned(thread) or not self._was_cut_off():
                self.stopped = True
                self.recovered = self._is_abandoned(thread) and (yield from self._put_right(thread, now))
                return
            self._check_nodes(self.position.runnable)
            kind, node, body = "resume", None, Body(answers={})  # who has asked does not ask again
        elif self._was_here():
            if not self.position.tasks:
                return  # this subgraph's run had ended before its node did
            kind, node, body = "resume", None, self._answered_above()
        elif self.call.updates:
            kind, node = "update", self._updating_node()
            body = yield from self._updated(node)
        elif isinstance(self.call.input, Command):
            self._check_exists()
            kind, node, body = "resume", None, command_body(self.graph, self.position, self.call.input)
        elif self.call.input is None:
            self._check_continuable()
            kind, node, body = "resume", None, Body()
            answers, taken = yield from self._due(thread, now)
            if answers:
                body["answers"] = answers
        else:
            kind, node = "input", None
            body = yield from self._accepted()
        body["run"] = dict(self.call.recorded)
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

    def _load(self, now: str) -> Generator[Effect, Any, Thread | None]:
        call, codec = self.call, self.codec
        assert codec is not None

        thread: Thread | None = yield Ask(lambda store: store.thread(call.thread_id))
        if thread is not None:
            self._check_free(thread, now)
            self.epoch = thread.epoch
        position = yield Ask(lambda store: load(store, codec, call.thread_id, call.step))
        if position is not None:
            self.position = position
        elif call.step is not None:
            raise CheckpointNotFoundError(thread_id=call.thread_id, step=call.step, have="the thread does not exist")
        return thread

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
        return bool(self.call.task) and self.position.run.get("task") == self.call.task

    def _answered_above(self) -> Body:
        asked = [q.interrupt.id for questions in self.position.questions.values() for q in questions]
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
        others = len(self.position.questions) - len(waits)  # of somebody
        if not answers and not self.position.runnable and not others and not self.position.paused:
            yield from self._put_right(thread, now)
            raise ThreadWaitingError(thread_id=self.call.thread_id, what=_told_waits(waits))
        return answers, taken

    def _ended_waits(self, now: float) -> Generator[Effect, Any, tuple[dict[str, Any], list[str]]]:
        inbox = yield Ask(lambda store: store.signals(self.call.thread_id))
        assert self.codec is not None
        answers: dict[str, Any] = {}
        taken: list[str] = []
        for name, wait in self.position.waits.items():
            signal = next((s for s in inbox if s.name == wait.signal and s.id not in taken), None)
            if signal is not None:
                answers[name] = {"signal": self.codec.decode(signal.value)}
                taken.append(signal.id)
            elif wait.until is not None and wait.until <= iso(now):
                answers[name] = {}
        return answers, taken

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
        _, goto = yield from self._entry(START, update)
        return input_body(self.graph, self.position, update, goto)

    def _updated(self, node: str) -> Generator[Effect, Any, Body]:
        update = accept_update(self.graph, self.call.input)
        _, goto = yield from self._entry(node, update)
        return update_body(self.graph, self.position, update, goto, node)

    def _updating_node(self) -> str:
        """Whose update this is: the node the caller names, or the one that ran last, if that is clear."""
        node = self.call.as_node
        if node is None:
            last = set(self.position.last_nodes) or {START}
            if len(last) > 1:
                raise InvalidUpdateError(
                    where=f"update_state on thread {self.call.thread_id!r}",
                    problem=f"it is not clear which node it stands for, as several ran last: {', '.join(sorted(last))}",
                    fix="Name one with as_node=...",
                )
            (node,) = last
        if node != END and node not in self.graph.nodes:
            raise InvalidUpdateError(
                where=f"update_state on thread {self.call.thread_id!r}",
                problem=f"there is no node {node!r}",
                fix=f"Name one of: {', '.join(sorted(set(self.graph.nodes) - {START}))} as as_node",
            )
        return node

    def _entry(self, node: str, update: Update) -> Generator[Effect, Any, Any]:
        """Ask the routers after `node`, as a job of its own, since they are the user's code."""
        if node == END or not self.graph.nodes[node].branches:
            return update, []
        job = Job(Task(f"{self.position.tail + 1}.{node}", node, ()), 1)
        job.make_runtime = self._runtime
        job.steps = run_entry(self.graph, self.position, node, update, job)
        yield Start([job])
        while True:
            for item in (yield Next()):
                if isinstance(item, Finished):
                    if item.error is not None:
                        raise item.error
                    assert item.result is not None
                    return item.result

    def _claim(self, thread: Thread | None, now: float) -> Claim | None:
        if self.codec is None:
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
        for _ in range(self.call.recursion_limit):
            if self.stopped or not self.position.runnable:
                return
            if self._pauses():
                yield from self._pause()
                return
            yield from self._superstep()
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
        if position.done or position.paused or not (call.interrupt_before or call.interrupt_after):
            return False
        ran = [node for node in position.last_nodes if node != START]
        return _names_one(call.interrupt_before, position.next) or _names_one(call.interrupt_after, ran)

    def _pause(self) -> Effects:
        now = yield Now()
        body: Body = {"interrupts": []}
        yield from self._commit([self._record("interrupt", None, None, body, now, self.position.step)])

    def _superstep(self) -> Effects:
        tasks = self.position.runnable
        self._check_nodes(tasks)
        self.segment = [0, 0]
        if self.call.announce and (yield Emit(Begun(self.position, tasks))):
            self.stopped = True
            return
        yield Start([self._job(task) for task in tasks])
        failures = yield from self._collect(len(tasks))
        if failures:
            raise _first(failures)

    def _check_nodes(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            if task.node not in self.graph.nodes:
                raise gone(self.call.thread_id, task.node, self.graph)

    def _collect(self, running: int) -> Generator[Effect, Any, list[BaseException]]:
        """Commit and show each task as it finishes. After a failure, or when the consumer has gone, what has
        not begun is taken back, and what has begun is waited for: its work is not lost."""
        failures: list[BaseException] = []
        winding_down = False
        calls = _Calls()
        while running:
            batch: list[Recorded] = []
            try:
                items = yield Next()
            except BaseException as interrupt:  # Ctrl-C or a cancelled asyncio task, while we wait
                if winding_down or isinstance(interrupt, GeneratorExit):
                    raise  # asked twice: do not wait any more
                failures.append(interrupt)
                items = ()
            for item in items:
                if isinstance(item, Sent | Relayed):
                    if batch:  # what came before it is shown before it
                        yield from self._commit(batch)
                        batch = []
                    yield from self._show(item) if isinstance(item, Sent) else self._relay(item)
                elif isinstance(item, Spawned):
                    calls.begin(item.job)
                elif (again := self._next_attempt(item, winding_down)) is not None:
                    yield from self._roll_back(item.job)
                    yield Start([again])
                elif item.job.parent is not None:
                    yield from self._finish_call(item)
                    for held in calls.end(item.job):
                        running -= 1
                        yield from self._end(batch, held, failures)
                elif not calls.hold(item):
                    running -= 1
                    yield from self._end(batch, item, failures)
            if batch:
                yield from self._commit(batch)
            if (failures or self.stopped) and not winding_down:
                winding_down = True
                running -= len((yield Cancel()))
        return failures

    def _end(self, batch: list[Recorded], item: Finished, failures: list[BaseException]) -> Effects:
        """Add the row of a task that has ended. If the task has a transaction of its own, all is committed with it."""
        if batch:  # shown as of its own row, not of the last one of its batch
            batch[-1] = batch[-1]._replace(position=self.position.frozen())
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
        reply.set_result(item.result)

    def _job(self, task: Task, attempt: int = 0, error: NodeError | None = None) -> Job:
        job = Job(task, attempt or self.position.attempts.get(task.id, 0) + 1)
        node = self.graph.nodes[task.node]
        job.retry, job.handler, job.again = node.retry, node.error_handler, partial(self._job, task)
        job.make_runtime = self._runtime
        job.steps = run_node(self.graph, self.position, job, error)
        return job

    def _call_of(
        self, caller: Job, number: int, name: str, call: Callable[..., Any], arg: Any, retry: Any, timeout: Any
    ) -> Any:
        """A node calls a @task: what it returned before, or a job of its own. Runs in the node's thread."""
        recorded = self.position.calls.get(caller.task.id, {}).get(number)
        if recorded is not None:
            return self._recalled(caller, number, name, recorded)
        task = Task(f"{caller.task.id}/{number}", name, ("__call__",), arg, f"{caller.task.seed}/{number}")

        def again(attempt: int) -> Job:
            job = Job(task, attempt)
            job.parent, job.retry, job.again = caller, retry, again
            job.make_runtime = self._runtime
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
        if policy is not None and len(job.failures) + 1 < policy.max_attempts:
            again = job.again(job.attempt + 1)
            again.delay, again.jitter = policy.interval(len(job.failures) + 1), policy.jitter
        elif job.handler is not None:
            failed = NodeError(job.task.node, error)
            again = self._job(job.task._replace(node=job.handler), job.attempt, failed)
        else:
            return None
        failure = {**_told(error), "started": iso(item.started), "finished": iso(item.finished)}
        again.failures = [*job.failures, failure]
        again.custom, again.below = job.custom, job.below
        if job.parent is not None:
            again.reply = job.reply
        return again

    def _runtime(self, job: Job) -> Runtime[Any]:
        def write(data: Any) -> None:
            if job.ended:
                raise CallError(
                    problem=f"the stream writer of node {job.task.node!r} was called after the node had ended",
                    fix="Send custom events while the node runs; its row, which records them, is complete now.",
                )
            if self.codec is not None:
                self.codec.encode(data)  # refuse here, where the node can see why, what the row could not keep
            job.tell(Sent(job, detached(data)))

        call = self.call
        top = job.task.id.partition("/")[0]
        given = self.position.answers.get(top, ())
        return Runtime(
            call.context,
            write,
            call.thread_id,
            job.task.node,
            self.position.step,
            job.task.id,
            job.attempt,
            call.config,
            heartbeat=lambda: job.alive(),
            _now=call.now,
            _durable=self.codec is not None,
            _seed=job.task.seed,
            _answers={question.interrupt.id: answer for question, answer in given},
            _start=lambda *called: self._call_of(job, *called),
            _link=call.link,
            _below=lambda *shown: job.tell(Relayed(job, *shown)),
            _connect=partial(_connection_of, job),
            _holds=lambda: job.transaction is not None and job.transaction.exclusive,
        )

    def _show(self, sent: Sent) -> Effects:
        rows, number = self.segment
        sent.job.custom.append([rows, number, sent.data])
        self.segment[1] += 1
        if (yield Emit(Shown(self.position, sent.job.task, sent.data))):
            self.stopped = True

    def _relay(self, item: Relayed) -> Effects:
        """A subgraph has shown something: pass it on, and keep for replays when that was."""
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
        if isinstance(error, GraphInterrupt):
            asked = [[interrupt.value, interrupt.id, error.below] for interrupt in error.interrupts]
            return self._ended("interrupt", item, {"interrupts": asked})
        if error is None:
            try:
                return self._result(item)
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
        return self._ended("task", item, task_body(self.graph, self.position, item.job.task, update, goto))

    def _ended(self, kind: str, item: Finished, body: Body) -> Recorded:
        job = item.job
        if job.custom:
            body["custom"] = job.custom
        if job.below:
            body["below"] = job.below
        if job.failures:
            body["failures"] = job.failures
        if job.attempt > 1 or kind != "task":
            body["attempt"] = job.attempt
        body["started"] = iso(item.started)
        recorded = self._record(kind, job.task.node, job.task.id, body, item.finished, self.position.step)
        self.segment[0] += 1
        return recorded

    # --- rows ---------------------------------------------------------------------------------

    def _record(self, kind: str, node: str | None, task: str | None, body: Body, at: float, parent: int) -> Recorded:
        """Make the row and add it to the position. It is nobody's business before `_commit` has saved it."""
        position = self.position
        row = self._row(kind, node, task, body, iso(at), parent if parent >= 0 else None)
        changed = position.apply(row, body)
        return Recorded(position, row, body, changed, "next" in body)

    def _row(self, kind: str, node: str | None, task: str | None, body: Body, at: str, parent: int | None) -> Row:
        position, call = self.position, self.call
        step, superstep = position.step + 1, position.superstep + 1
        if kind in ("input", "resume", "update") and not self.leased:
            self.epoch += 1
        columns = (
            call.thread_id, step, parent, kind, superstep, node, task, call.run_id, self.epoch, at
        )  # fmt: skip
        if self.codec is None:
            return Row(*columns[:9], b"", at, b"")
        data = self._encode(body, node)
        return Row(*columns[:9], data, at, row_hash(position.hash or NO_PARENT, columns, data, self.key))

    def _encode(self, body: Body, node: str | None) -> bytes:
        assert self.codec is not None
        try:
            return self.codec.encode(body)
        except UnstorableValueError as error:
            error.add_note(f"in the row of node {node!r}" if node else "in the input")
            raise

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
            "wake_at": min((w.until for w in self.position.waits.values() if w.until), default=None),
            "updated_at": at,
        }
        return Claim(self.epoch, values)

    def _snapshot(self, last: Recorded) -> bytes | None:
        """A snapshot, when the rows since the last one have grown as large as it: their sum stays in proportion."""
        position = self.position
        if position.loose < max(SNAPSHOT_BYTES, position.packed) or not last.barrier:
            return None
        assert self.codec is not None
        data = self.codec.encode(pack(position))
        position.loose, position.packed = 0, len(data)
        return data

    # --- end ----------------------------------------------------------------------------------

    def _release(self) -> Effects:
        if not self.leased:
            return
        self.leased = False
        now = yield Now()
        claim = self._giving_back(iso(now))
        with suppress(StoreError):  # the lease runs out by itself; what brought us here matters more
            yield Ask(lambda store: store.change_thread(self.call.thread_id, claim))


class _Calls:
    """@tasks under way, and nodes that have ended before all they called did: their rows come after."""

    def __init__(self) -> None:
        self._open: dict[Job, int] = {}  # by the node's job
        self._held: dict[Job, Finished] = {}

    def begin(self, call: Job) -> None:
        caller = _caller(call)
        self._open[caller] = self._open.get(caller, 0) + 1

    def hold(self, item: Finished) -> bool:
        if not self._open.get(item.job):
            return False
        self._held[item.job] = item
        return True

    def end(self, call: Job) -> list[Finished]:
        """The node that was held for this call only."""
        caller = _caller(call)
        self._open[caller] -= 1
        return [self._held.pop(caller)] if caller in self._held and not self._open[caller] else []


def _caller(call: Job) -> Job:
    while call.parent is not None:
        call = call.parent
    return call


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
    data = codec.encode(body)
    columns = (call.thread_id, 0, step, "fork", position.superstep + 1, None, None, call.run_id, 1, at)
    row = Row(*columns[:9], data, at, row_hash(position.hash, columns, data, key))
    values = {
        "graph": graph.name,
        "fingerprint": graph.fingerprint,
        "status": "pending" if position.tasks else "finished",
        "epoch": 1,
        "parent_thread_id": origin,
        "parent_step": step,
        "lease_owner": None,
        "lease_since": None,
        "lease_expires_at": None,
        "wake_at": None,
        "created_at": at,
        "updated_at": at,
        "metadata": b"{}",
    }
    try:
        yield Save([row], Claim(None, values))
    except FencedError as error:
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


def _first(failures: list[BaseException]) -> BaseException:
    first, *others = failures
    for other in others:
        first.add_note(f"another task of the superstep failed too: {type(other).__name__}: {other}")
    return first
