"""Supersteps: start the pending tasks; as each finishes commit its row, then show it; the last row is the barrier.

begin       load the thread, accept the input (or continue), commit that as a row with the lease: core/entry.py
superstep   here
end         nothing pending, or the consumer has gone, or something failed: give the lease back
"""

from __future__ import annotations

import traceback
from collections.abc import Generator, Sequence
from typing import Any

from durable_graph.core.channels import detached
from durable_graph.core.effects import (
    LOSSES,
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
    Said,
    Sent,
    Shown,
    Spawned,
    Token,
)
from durable_graph.core.entry import Entry
from durable_graph.core.model import START, Graph, NodeError
from durable_graph.core.output import known_messages
from durable_graph.core.planner import parent_body, task_body
from durable_graph.core.position import Body
from durable_graph.core.projection import task_metadata
from durable_graph.core.rows import Call, Codec, Effects
from durable_graph.core.times import iso, seconds
from durable_graph.core.tokens import Tokens
from durable_graph.errors import (
    GraphBubbleUp,
    GraphInterrupt,
    GraphRecursionError,
    NodeCodeError,
    ParentCommand,
    UnstorableValueError,
    WorkerLostError,
)
from durable_graph.store import Entry as Cached


class Run(Entry):
    """A whole run, as one generator of effects. See `core/rows.py`."""

    def __init__(self, graph: Graph, codec: Codec | None, key: bytes | None, call: Call) -> None:
        super().__init__(graph, codec, key, call)
        self.segment = [0, 0]  # rows and custom events of this run in this superstep
        self.fresh: list[Cached] = []  # for the cache, of rows that are or will be durable
        self.calls = _Calls()

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

    def _supersteps(self) -> Effects:
        if self.call.updates or self.call.only_accepts:
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

    def _wake(self) -> Effects:
        """A signal may have been there before the task that waits for it: then this run goes on."""
        if not self.position.waits or self.stopped:
            return
        now = yield Now()
        answers, taken = yield from self._ended_waits(now)
        if answers:
            body = {"answers": answers}
            yield from self._commit([self._record("resume", None, None, body, now, self.position.step)], None, taken)

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
        given_up: list[Job] = []
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
                given_up = [job for job in cancelled if job.failures]
        if given_up:  # not before: a node's transaction may keep all others from writing
            yield from self._commit([self._given_up(job) for job in given_up])
        return failures

    def _keep(self) -> Effects:
        """What the committed rows hold goes into the cache."""
        assert self.call.caching is not None
        cache, entries, self.fresh = self.call.caching.cache, self.fresh, []
        now = iso((yield Now()))
        yield Ask(lambda _: cache.keep(entries, now=now))

    # --- how tasks end ------------------------------------------------------------------------

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

    def _next_attempt(self, item: Finished, winding_down: bool) -> Job | None:
        """After a failure: the same task again if its worker was lost or its retry policy says so, else with its error
        handler, if it has one."""
        error, job = item.error, item.job
        if not isinstance(error, Exception) or isinstance(error, GraphBubbleUp) or winding_down or self.stopped:
            return None
        lost = isinstance(error, WorkerLostError)
        policy = None if lost else next((policy for policy in job.retry if policy.matches(error)), None)
        failed = len(job.failures) - job.inherited - job.losses + 1
        if lost and job.losses + 1 < LOSSES:
            again = self._again(job)
            again.losses += 1
        elif policy is not None and failed < policy.max_attempts:
            again = self._again(job)
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

    def _again(self, job: Job) -> Job:
        attempt = job.attempt + 1
        again = job.again(attempt) if job.parent is not None else self._job(job.task, attempt, job.error)
        again.scope, again.inherited, again.losses = job.scope, job.inherited, job.losses  # a handler's stay its own
        return again

    def _given_up(self, job: Job) -> Recorded:
        """The row of a task that was to be tried again and is not, as another one has failed for good."""
        *job.failures, last = job.failures
        job.attempt -= 1
        error = {key: last[key] for key in ("type", "message", "traceback")}
        ended = Finished(job, None, None, seconds(last["started"]), seconds(last["finished"]))
        return self._ended("error", ended, {"error": error})

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

    # --- what nodes say while they run --------------------------------------------------------

    def _show(self, item: Sent | Said | Relayed) -> Effects:
        """Show what a node says while it runs, and keep for replays when that was."""
        job, (rows, number) = item.job, self.segment
        if isinstance(item, Relayed):
            yield from self._relay(item)
            return
        self.segment[1] += 1
        if isinstance(item, Sent):
            job.custom.append([rows, number, item.data])
            shown: Emission = Shown(self.position, job.task, item.data, number)
        else:
            assert job.tokens is not None
            _, extra, _ = job.tokens.add(item.key, rows, number, item.message, item.extra)
            shown = Token(self.position, job.task, item.message, extra, number)
        if (yield Emit(shown)):
            self.stopped = True

    def _relay(self, item: Relayed) -> Effects:
        """A subgraph has shown something."""
        if item.step is not None:
            self._mark_below(item.job, item.thread_id, item.step)
        if item.chunks and (yield Emit(item._replace(number=self._mark_of(item)))):
            self.stopped = True

    def _mark_of(self, item: Relayed) -> int:
        """The mark of what a subgraph has shown; what its nodes say comes under that of their row."""
        rows, number = self.segment
        last = item.job.below[-1] if item.job.below else None
        same = last is not None and last[:3] == [rows, number - 1, item.thread_id]
        return number - 1 if same else number

    def _mark_below(self, job: Job, thread_id: str, step: int) -> None:
        rows, number = self.segment
        last = job.below[-1] if job.below else None
        if last is not None and last[:3] == [rows, number - 1, thread_id] and last[4] == step - 1:
            last[4] = step  # nothing came between
            return
        job.below.append([rows, number, thread_id, step, step])
        self.segment[1] += 1


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


def _told(error: Exception) -> dict[str, str]:
    """An error as a row records it."""
    return {
        "type": f"{type(error).__module__}.{type(error).__qualname__}",
        "message": str(error)[:10_000],
        "traceback": "".join(traceback.format_exception(error))[-10_000:],
    }


def _names_one(wanted: frozenset[str], nodes: Sequence[str]) -> bool:
    return bool(nodes) and ("*" in wanted or not wanted.isdisjoint(nodes))


def _first(failures: list[BaseException]) -> BaseException:
    first, *others = failures
    for other in others:
        first.add_note(f"another task of the superstep failed too: {type(other).__name__}: {other}")
    return first
