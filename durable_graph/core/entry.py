"""How a run begins: whose thread it is, what the caller wants of it, and the row that says so."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from durable_graph.core.changes import (
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
from durable_graph.core.channels import Values
from durable_graph.core.effects import Ask, Effect, Finished, Job, Next, Now, Rest
from durable_graph.core.history import load, signal_value
from durable_graph.core.jobs import Jobs
from durable_graph.core.model import END, START, Command, Graph, Task, Wait
from durable_graph.core.output import accept_input, accept_update
from durable_graph.core.planner import Given, command_body, input_body, starts_of, update_body
from durable_graph.core.position import Body, Child, Position, Update
from durable_graph.core.rows import Call, Codec, Effects
from durable_graph.core.runtime import Runtime
from durable_graph.core.standing import Standing, standing_at, way_inside
from durable_graph.core.task import run_entry, run_migration
from durable_graph.core.times import iso
from durable_graph.errors import (
    ArgumentError,
    CallError,
    CheckpointNotFoundError,
    EmptyInputError,
    FencedError,
    InvalidUpdateError,
    ThreadBusyError,
    ThreadNotFoundError,
    ThreadWaitingError,
)
from durable_graph.store import Claim, Signal, Thread

BUSY_PAUSES = (0.05, 1.0)  # seconds between two looks at a thread that is busy: at first, and at most


class Entry(Jobs):
    """A run that can begin. See `core/rows.py`."""

    def __init__(self, graph: Graph, codec: Codec | None, key: bytes | None, call: Call) -> None:
        super().__init__(graph, codec, key, call)
        self.begun = False  # its first row is committed
        self.recovered = False  # it went on, or was put right
        self.passed_over = False  # the thread had another status than the caller wants to go on from

    def _forget(self) -> None:
        super()._forget()
        self.children: Mapping[str, Any] = {}  # where subgraphs are to go on from, for a call addressed to one
        self._task = ""  # of the graph above, if it is not the one at hand: for a run that begins as a fork
        self._goes_on = False  # as a subgraph: with a run that was begun elsewhere
        self.strange = False  # the rows that were read hold values of types that are not registered

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
        taken: Sequence[str] = self.call.taken
        if self.codec is not None:
            thread = yield from self._load(now)
        if self.call.statuses and (thread is None or thread.status not in self.call.statuses):
            self.stopped = self.passed_over = True
            return
        if self.call.adapt is not None:
            self.call = self.call.adapt(self.call, self.position)
            self.remaining = self.call.recursion_limit
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
        self.begun = True

    def _run_of(self, kind: str) -> dict[str, Any]:
        """What the first row keeps of the run. Who goes on with a subgraph's run from outside leaves it that of
        its task. "failed": how often a submitted run has failed before."""
        before = self.position.run if kind != "input" else {}
        task = self._task or before.get("task")
        failed = before.get("failed", 0) + bool(self.position.errors) if self.call.queue else 0
        return {**({"task": task} if task else {}), **({"failed": failed} if failed else {}), **self.call.recorded}

    def _load(self, now: float) -> Generator[Effect, Any, Thread | None]:
        call, codec = self.call, self.codec
        assert codec is not None

        thread: Thread | None = yield Ask(lambda store: store.thread(call.thread_id))
        if thread is not None:
            self._check_free(thread, iso(now))
            self.epoch = thread.epoch
        step, origin = yield from self._way()
        watch = codec.watching()
        position: Position | None = None
        if thread is not None:
            position = yield Ask(lambda store: load(store, watch, call.thread_id, step))
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

    # --- may it? --------------------------------------------------------------------------------

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

    def _check_exists(self) -> None:
        if self.position.tail < 0:
            raise EmptyInputError(
                thread_id=self.call.thread_id,
                problem="does not exist yet, so there is nothing to command",
                fix="Give an input to start it. If it should exist, check the thread_id and the database URL.",
            )

    def _check_outside(self) -> None:
        if self.call.inside:
            raise ArgumentError(
                argument="checkpoint_ns",
                problem="a new input cannot begin inside a subgraph",
                fix="Leave checkpoint_ns out, or go on there with None or a Command, or change it with update_state.",
            )

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

    def _was_here(self) -> bool:
        """Whether this is a subgraph's run that an earlier attempt of the node above has begun."""
        return self._goes_on or (bool(self.call.task) and self.position.run.get("task") == self.call.task)

    def _answered_above(self) -> Body:
        position = self.position
        open_ = [*position.questions.values(), *position.asked.values()]
        asked = [question.interrupt.id for questions in open_ for question in questions]
        answers = {name: self.call.answers[name] for name in asked if name in self.call.answers}
        return {"answers": answers} if answers else {}

    # --- recovery, waits and signals ----------------------------------------------------------

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

    # --- inputs and updates ---------------------------------------------------------------------

    def _accepted(self) -> Generator[Effect, Any, Body]:
        update = accept_input(self.graph, self.call.input)
        values = Values({**self.position.values, **starts_of(self.graph, self.position)})
        _, goto = yield from self._entry(START, update, values)
        return input_body(self.graph, self.position, update, goto)

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
        job.surround = self.call.surround
        job.steps = run_entry(self.graph, values, node, update, job)
        return (yield from self._alone(job))

    def _entry_runtime(self, job: Job) -> Runtime[Any]:
        """For a router that is asked before there is a row which could keep a custom event."""
        return replace(self._runtime(job), stream_writer=_no_stream)

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


def _no_stream(data: Any) -> None:
    raise CallError(
        problem="a router after START, or one that update_state asks, has called the stream writer",
        fix="Send custom events from nodes, or from routers after them: there is no row yet that could keep this one.",
    )


def _told_waits(waits: Mapping[str, Wait]) -> str:
    return ", ".join(
        (f"for the signal {wait.signal!r}" if wait.signal else "")
        + (" or " if wait.signal and wait.until else "")
        + (f"until {wait.until}" if wait.until else "")
        for wait in waits.values()
    )
