"""Runs for workers: how they are submitted, and how their results are waited for.

The rule: what is accepted is in the thread's log, or in its inbox, when `submit` returns; and the job that tells a
worker of it commits in the same transaction. Nothing of the run itself happens here: the first row is the input, and a
worker goes on from there as from any row.

    no run is under way    the input is the thread's next row, and the thread is queued
    one is                 the input waits in the thread's inbox, kept with its signals, until that run has ended
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from durable_graph import drivers, enqueue
from durable_graph.core.config import DEFAULT_RECURSION_LIMIT, PLACES, CallConfig, merged
from durable_graph.core.history import load
from durable_graph.core.model import Command, Graph, RetryPolicy
from durable_graph.core.output import accept_input
from durable_graph.core.position import Position
from durable_graph.core.projection import Shaper
from durable_graph.core.rows import status_of
from durable_graph.core.times import iso
from durable_graph.errors import (
    ArgumentError,
    RunFailedError,
    RunNotFoundError,
    RunStoppedError,
    RunTimeoutError,
    ThreadBusyError,
)
from durable_graph.inbox import INBOX, Carrier, Perform, inbox, next_input
from durable_graph.log import Log, nothing
from durable_graph.offload import in_thread
from durable_graph.opening import Config
from durable_graph.session import Parts, Session, given_config
from durable_graph.store import Signal, Store, Thread, check_text

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncConnection

UNDER_WAY = frozenset({"queued", "running", "waiting"})  # statuses of a thread whose run has not ended
POLL = (0.02, 0.5)  # seconds between two looks for a result: at first, and at most


class Wanted(NamedTuple):
    """What a submission asks for, besides its input."""

    thread_id: str
    run_id: str
    queue: str
    priority: int
    at: datetime | None  # when it may begin
    kept: Mapping[str, Any]  # what the run's first row keeps of it

    @property
    def wake_at(self) -> str | None:
        return None if self.at is None else iso(self.at.timestamp())


class Schedule(NamedTuple):
    """Runs that begin by the clock."""

    cron: str
    name: str
    input: Any  # or what makes one of the time
    config: Config
    queue: str
    priority: int
    retry: RetryPolicy | None

    def thread_id(self, at: datetime) -> str:
        return f"{self.name}-{at:%Y-%m-%dT%H:%M:%SZ}"


class Submitting(Log):
    """A graph whose runs others run. A chapter of `CompiledGraph`."""

    _graph: Graph
    schedules: list[Schedule]  # that `periodic` has made

    @property
    def _parts(self) -> Parts:
        raise NotImplementedError

    def submit(
        self,
        input: Any,
        config: Config | None = None,
        *,
        queue: str = enqueue.QUEUE,
        priority: int = 0,
        when: datetime | timedelta | float | None = None,
        retry: RetryPolicy | None = None,
        connection: Connection | None = None,
    ) -> dict[str, Any]:
        """Accept a run for the workers of this graph (`durable-graph worker`), and return at once.

        input, config: as in `stream`; None goes on with a thread, a Command answers its question. What is under
            "configurable" is kept with the run, as its nodes run elsewhere; a context is the workers' own.
        queue: whose workers run it. priority: jobs of higher ones are taken first; Postgres only.
        when: it begins at this time (with its zone), or after this time (a timedelta, or seconds). Not before, and as
            soon after as a worker is free.
        retry: how often a run that has failed is gone on with, and after which pauses, each from its last barrier. Its
            `retry_on` and `jitter` do not count. By default a failed run stays failed.
        connection: a SQLAlchemy Connection to the graph's database, in a transaction of the caller's: what is accepted
            is durable when that is committed, and not there if it is rolled back. None: durable when this returns.

        Returns the config that names the thread and the run, for `result`, `follow` and the rest. If a run is under way
        on the thread, this one begins when that has ended; several begin in the order in which they were submitted.
        Raises InvalidUpdateError, UnstorableValueError and ArgumentError for what can never run; ThreadBusyError for a
        Command or None while a run is under way; CallError without the extra `workers`; StoreError.
        """
        given, wanted = self._wanted(config, queue, priority, when, retry)
        perform = None if connection is None else partial(_at_once, connection)
        return self._submitted(input, given, wanted, perform)

    async def asubmit(
        self,
        input: Any,
        config: Config | None = None,
        *,
        queue: str = enqueue.QUEUE,
        priority: int = 0,
        when: datetime | timedelta | float | None = None,
        retry: RetryPolicy | None = None,
        connection: AsyncConnection | None = None,
    ) -> dict[str, Any]:
        """`submit` for asyncio. connection: a SQLAlchemy AsyncConnection, on psycopg or aiosqlite."""
        given, wanted = self._wanted(config, queue, priority, when, retry)
        loop = asyncio.get_running_loop()
        perform = None if connection is None else partial(_in_loop, loop, connection)
        return await in_thread(lambda: self._submitted(input, given, wanted, perform))

    def periodic(
        self,
        cron: str,
        input: Any,
        *,
        name: str,
        config: Config | None = None,
        queue: str = enqueue.QUEUE,
        priority: int = 0,
        retry: RetryPolicy | None = None,
    ) -> None:
        """Have a run submitted by the clock, once for each time however many workers there are. Postgres only.

        To be said where the graph is compiled, as the workers of its queue do it. cron: five fields, minute hour day
        month weekday, in UTC; a sixth is for seconds. input: as in `submit`, or a function that makes it of the time
        (a datetime). name: of the schedule; the run for 3 o'clock has the thread "<name>-2026-11-23T03:00:00Z". config,
        queue, priority, retry: as in `submit`, without a thread. A time at which no worker was there is made up for
        within ten minutes, and is lost after that. Raises ArgumentError.
        """
        if any(schedule.name == name for schedule in self.schedules):
            raise ArgumentError(argument="name", problem=f"there is a schedule {name!r} already", fix="Choose another.")
        given, _ = self._wanted(config, queue, priority, None, retry)
        if given.thread_id is not None:
            raise ArgumentError(argument="config", problem="it names a thread", fix="Each run has one of its own.")
        self._codec.limits.check_id(name, "name")
        self.schedules.append(Schedule(cron, name, input, config or {}, queue, priority, retry))

    def submit_scheduled(self, schedule: Schedule, at: datetime) -> None:
        """Submit the run of a schedule for this time, if that has not been done."""
        thread_id = schedule.thread_id(at)
        if self._stored().thread(thread_id) is not None:
            return
        value = schedule.input(at) if callable(schedule.input) else schedule.input
        config = merged(schedule.config, {"thread_id": thread_id})
        self.submit(value, config, queue=schedule.queue, priority=schedule.priority, retry=schedule.retry)

    def result(self, config: Config, *, timeout: float | None = None) -> Any:
        """Wait until a run has ended, whoever runs it, and return what `invoke` would have returned.

        config: as `submit` returned it; without a "run_id" it means the thread's newest run. timeout: seconds to wait
            at most; None: as long as it takes. A run that waits for a time or a signal has not ended; one that asks a
            question has, and the question is in the result.

        Looks at the database every now and then, at most twice a second once that takes long. Raises RunFailedError if
        the run has failed for good; RunTimeoutError, also a TimeoutError; RunNotFoundError; ThreadNotFoundError.
        """
        until = None if timeout is None else time.monotonic() + timeout
        pause, most = POLL
        while (found := self._ended(config)) is None:
            left = most if until is None else until - time.monotonic()
            if left <= 0:
                given = self._named(config)
                raise RunTimeoutError(thread_id=given.thread_id, timeout=timeout)
            time.sleep(min(pause, left))
            pause = min(2 * pause, most)
        return found.value

    async def aresult(self, config: Config, *, timeout: float | None = None) -> Any:  # noqa: ASYNC109
        """`result` for asyncio."""
        until = None if timeout is None else time.monotonic() + timeout
        pause, most = POLL
        while (found := await in_thread(lambda: self._ended(config))) is None:
            left = most if until is None else until - time.monotonic()
            if left <= 0:
                raise RunTimeoutError(thread_id=self._named(config).thread_id, timeout=timeout)
            await asyncio.sleep(min(pause, left))
            pause = min(2 * pause, most)
        return found.value

    # --- accepting ----------------------------------------------------------------------------

    def _wanted(
        self,
        config: Config | None,
        queue: str,
        priority: int,
        when: datetime | timedelta | float | None,
        retry: RetryPolicy | None,
    ) -> tuple[CallConfig, Wanted]:
        store = self._stored()
        given = given_config(config, self._config)
        _check_config(given)
        if priority and not getattr(store, "takes_jobs", False):
            raise ArgumentError(argument="priority", problem="on SQLite there are none", fix="Leave it out.")
        if type(queue) is not str or not queue:
            raise ArgumentError(argument="queue", problem=f"{queue!r} is no name of a queue", fix="Give a text.")
        check_text("queue", queue)
        if type(priority) is not int or not -(2**31) < priority < 2**31 - 1:
            raise ArgumentError(argument="priority", problem=f"{priority!r} is none", fix="Give a whole number.")
        thread_id = given.thread_id or str(uuid.uuid4())
        self._codec.limits.check_id(thread_id)
        job = {name: value for name, value in _of_job(given, retry) if value is not None}
        kept = {**given.recorded(), **({"job": job} if job else {})}
        return given, Wanted(thread_id, str(uuid.uuid4()), queue, priority, _moment(when), kept)

    def _submitted(self, input: Any, given: CallConfig, wanted: Wanted, perform: Perform | None) -> dict[str, Any]:
        store, thread_id = self._stored(), wanted.thread_id
        thread = store.thread(thread_id)
        continues = input is None or isinstance(input, Command)
        try:
            if thread is not None and (thread.status in UNDER_WAY or (not continues and self._others_wait(thread_id))):
                raise ThreadBusyError(thread_id=thread_id, owner=_owner(thread), since=thread.updated_at)
            self._accept(input, given, wanted, enqueue.put if thread is None else enqueue.put_again, perform)
        except ThreadBusyError:
            if continues:
                raise
            self._put_behind(input, wanted, thread, perform)
        return {"configurable": {"thread_id": thread_id}, "run_id": wanted.run_id}

    def _accept(
        self, input: Any, given: CallConfig, wanted: Wanted, put: Callable[..., None], perform: Perform | None
    ) -> None:
        """The run's first row, and its job."""
        carrier = self._carrier(wanted, put, perform)
        value = input if isinstance(input, Command) else self._accepts(input)
        session = Session(
            replace(self._parts, store=cast(Store, carrier)),
            replace(given, thread_id=wanted.thread_id),
            Shaper(()),
            nothing,
            input=value,
            facts={
                "only_accepts": True,
                "queue": wanted.queue,
                "wake_at": wanted.wake_at,
                "run_id": wanted.run_id,
                "recorded": wanted.kept,
            },
        )
        for _ in session.sync():
            pass

    def _others_wait(self, thread_id: str) -> bool:
        """Whether there are inputs whose turn it is before ours, on a thread that is about to be gone on with."""
        now = datetime.fromtimestamp(drivers.clock(), UTC)
        found = next_input(self._stored(), self._codec, thread_id, now)
        return found is not None and found[2] <= now

    def _put_behind(self, input: Any, wanted: Wanted, thread: Thread | None, perform: Perform | None) -> None:
        """The input in the inbox, and its job: for those who have the thread, who send it on."""
        value = self._accepts(input)
        accept_input(self._graph, value)
        sent = f"{iso(drivers.rising_clock())}-{uuid.uuid4().hex[:8]}"
        item = {
            "input": value,
            "run": wanted.kept,
            "run_id": wanted.run_id,
            "graph": self._graph.name,
            "queue": wanted.queue,
            "when": wanted.wake_at,
        }
        thread_id, about = wanted.thread_id, f"The input for thread {wanted.thread_id!r}"
        data = self._codec.write(item, "signal", thread_id, sent, INBOX)
        self._codec.check_size(len(data), item, about, thread_id=thread_id)
        if thread is not None and thread.status in UNDER_WAY and thread.graph == self._graph.name:
            wanted = wanted._replace(queue=thread.queue or wanted.queue, at=_later(wanted.at, thread))
        put = enqueue.put if wanted.at is None else enqueue.put_again
        self._carrier(wanted, put, perform).send(Signal(thread_id, sent, INBOX, data))

    def _carrier(self, wanted: Wanted, put: Callable[..., None], perform: Perform | None) -> Carrier:
        store = self._stored()
        if perform is not None and not hasattr(store, "within"):
            raise ArgumentError(argument="connection", problem="this store has none", fix="Use SQLite or Postgres.")
        if not getattr(store, "takes_jobs", False):
            return Carrier(store, None, perform)
        queue = enqueue.full_queue(self._graph.name, wanted.queue)
        job = partial(put, thread_id=wanted.thread_id, queue=queue, priority=wanted.priority, at=wanted.at)
        return Carrier(store, job, perform)

    # --- results ------------------------------------------------------------------------------

    def _ended(self, config: Config) -> Ended | None:
        """None while the run is under way."""
        store, thread_id = self._stored(), self._thread(config)
        step = self._end_of(store, thread_id, config.get("run_id"))
        if step is None:
            return None
        position = load(store, self._codec, thread_id, step)
        assert position is not None
        for task_id, failure in position.errors.items():
            node = next((task.node for task in position.tasks if task.id == task_id), None)
            raise RunFailedError(
                thread_id=thread_id, step=position.step, node=node, type=failure.type, problem=failure.message
            )
        if status_of(position) == "pending":
            next_ = ", ".join(position.next)
            raise RunStoppedError(thread_id=thread_id, step=position.step, next=next_)
        return Ended(self._result_at(position))

    def _end_of(self, store: Store, thread_id: str, run_id: str | None) -> int | None:
        """The last row of a run that has ended. Others write meanwhile: a status counts for the rows that were there
        before it was read, and if it is an end, for those that are there after."""
        self._existing(store, thread_id)
        if run_id is not None and self._is_in_inbox(store, thread_id, run_id):
            return None
        run_id, step, newest = _last_of(store, thread_id, run_id)
        if not newest:
            return step  # another run has begun since
        if self._existing(store, thread_id) in UNDER_WAY:
            return None
        return _last_of(store, thread_id, run_id)[1]

    def _is_in_inbox(self, store: Store, thread_id: str, run_id: str) -> bool:
        return any(item["run_id"] == run_id for _, item in inbox(store, self._codec, thread_id))

    def _accepts(self, value: Any) -> Any:
        """The input as the engine takes it."""
        raise NotImplementedError

    def _result_at(self, position: Position) -> Any:
        """What `invoke` returns when a run has ended there."""
        raise NotImplementedError


class Ended(NamedTuple):
    value: Any  # what `invoke` returns


def _check_config(given: CallConfig) -> None:
    """A submitted run goes on from where the thread stands, by the rules of whoever runs it."""
    for argument, found, fix in (
        ("step", given.step is not None, "Go back in time with fork or update_state first."),
        ("checkpoint_ns", bool(given.ns), "Submit to the thread itself."),
        ("callbacks", bool(given.callbacks), "Nobody can send functions: give them to the graph with with_config."),
        ("max_concurrency", given.max_concurrency is not None, "Give it to the graph with with_config."),
    ):
        if found:
            raise ArgumentError(argument=f"config: {argument}", problem="a submitted run cannot have it", fix=fix)


def _of_job(given: CallConfig, retry: RetryPolicy | None) -> Iterator[tuple[str, Any]]:
    """What a worker has to know of the call."""
    yield "configurable", {name: value for name, value in given.configurable.items() if name not in PLACES} or None
    limit = given.recursion_limit
    yield "recursion_limit", None if limit == DEFAULT_RECURSION_LIMIT else limit
    if retry is not None:
        yield "retry", [retry.initial_interval, retry.backoff_factor, retry.max_interval, retry.max_attempts]


def _moment(when: datetime | timedelta | float | None) -> datetime | None:
    if when is None:
        return None
    if isinstance(when, datetime):
        if when.tzinfo is None:
            raise ArgumentError(argument="when", problem=f"{when} has no zone", fix="Give one: tzinfo=UTC")
        return min(when, enqueue.NEVER)
    seconds = when.total_seconds() if isinstance(when, timedelta) else when
    if type(seconds) not in (int, float) or not 0 <= seconds < 1e10:
        raise ArgumentError(
            argument="when", problem=f"{when!r} is no time to come", fix="Give seconds, a timedelta or a datetime."
        )
    return datetime.fromtimestamp(drivers.clock() + seconds, UTC)


def _later(at: datetime | None, thread: Thread) -> datetime | None:
    """Not before the run that is to begin at a time."""
    if thread.status != "queued" or thread.wake_at is None:
        return at
    begins = datetime.fromisoformat(thread.wake_at)
    return begins if at is None else max(at, begins)


def _owner(thread: Thread) -> str:
    return thread.lease_owner or f"a run that is {thread.status}"


def _last_of(store: Store, thread_id: str, run_id: str | None) -> tuple[str, int, bool]:
    """A run, by default the newest; its last row, and whether that is the thread's last."""
    newest = True
    for row in store.rows(thread_id, newest_first=True):
        if run_id in (None, row.run_id):
            return row.run_id, row.step, newest
        newest = False
    raise RunNotFoundError(thread_id=thread_id, run_id=run_id)


# --- in a transaction of the caller's -------------------------------------------------------------


def _at_once(connection: Connection, work: Callable[[Connection], None]) -> None:
    work(connection)


def _in_loop(loop: asyncio.AbstractEventLoop, connection: AsyncConnection, work: Callable[[Connection], None]) -> None:
    """Called in a thread, while the caller waits in its loop."""
    asyncio.run_coroutine_threadsafe(connection.run_sync(work), loop).result()
