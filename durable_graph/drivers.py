"""The only two files that know sync from async, this one and `adrivers.py`: each performs a run's effects.

                 drive (sync)                   adrive (asyncio)
    one task     in the caller's thread         awaited in the caller's task; plain functions in the store's thread
    several      in a crew of threads           as asyncio tasks; plain nodes in a pool
    the store    from the caller's thread       from a thread of its own
    to wait      on a queue                     on an event

Both stop in the same way: a consumer that has gone (break, close, an exception) is the answer to `Emit`; the run
then winds down by itself. Nothing that was begun here outlives the driver: its `finally` waits for every thread
and task.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import os
import queue
import random
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from functools import partial
from typing import Any, TypeVar

from durable_graph.core.effects import (
    Arrival,
    Ask,
    Cancel,
    Emission,
    Emit,
    Finished,
    Job,
    Next,
    Now,
    Relayed,
    Rest,
    Said,
    Save,
    Sent,
    Spawned,
)
from durable_graph.core.rows import Effects
from durable_graph.core.task import Entered, Steps, enter, leave
from durable_graph.crew import Crew, Work
from durable_graph.errors import CallError, StoreError
from durable_graph.executors import Awaited
from durable_graph.store import Store, Transaction
from durable_graph.transactions import Transactions, Turn

T = TypeVar("T")
Show = Callable[[Emission], Iterable[Any]]
CALLS = 10_000  # threads at most for @tasks that nodes have called; they are made as needed
WORKERS = 32  # threads at most for the tasks of one superstep, unless max_concurrency says otherwise
SLICE = 0.5  # seconds after which the wait for what nodes hand in is begun anew
LOOK = 0.01  # seconds after which replies are cancelled once more, while the threads of a run end

clock: Callable[[], float] = time.time  # the one "now"; a test may set it
pause: Callable[[float], None] = time.sleep  # and these two wait
apause: Callable[[float], Awaitable[None]] = asyncio.sleep

forks = 0  # that this process has come out of: what was begun before one belongs to its parent


def _forked() -> None:
    global forks
    forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)

_risen = 0.0
_rising = threading.Lock()


def rising_clock() -> float:
    """`clock`, but never the same time twice and never going back: what this process sends keeps its order."""
    global _risen
    with _rising:
        _risen = max(clock(), _risen + 2e-6)  # the log writes microseconds
        return _risen


# --- sync -------------------------------------------------------------------------------------


def drive(effects: Effects, store: Store | None, show: Show, live: bool, workers: int | None) -> Iterator[Any]:
    """Run the effects, yielding what `show` makes of each emission.

    `live`: custom events are wanted, so even a single task runs beside us, lest they wait for its end.
    """
    tasks = _Threads(live, workers, store)
    given, asked = tasks.given, False  # what a Next was answered, until the run has it: Ctrl-C may come in between
    begun = forks
    answer: Any = None
    failure: BaseException | None = None
    thrown: BaseException | None = None  # by the consumer
    try:
        while True:
            try:
                effect = effects.send(answer) if failure is None else effects.throw(failure)
            except StopIteration:
                break
            if asked and failure is None:
                given.clear()
            answer = failure = None
            asked = isinstance(effect, Next)
            try:
                if forks != begun:
                    refuse_fork(effect, store)
                if isinstance(effect, Emit):
                    answer = thrown is not None
                    if not answer:
                        try:
                            yield from show(effect.what)
                        except BaseException as error:
                            thrown, answer = error, True
                elif isinstance(effect, Next):
                    answer = tasks.next(effect.jobs)
                elif isinstance(effect, Save):
                    save(store, effect)
                elif isinstance(effect, Now):
                    answer = clock()
                elif isinstance(effect, Ask):
                    answer = ask(store, effect)
                elif isinstance(effect, Cancel):
                    answer = tasks.cancel(effect.jobs)
                elif isinstance(effect, Rest):
                    pause(effect.seconds)
            except BaseException as error:
                failure = error
    finally:
        if forks == begun:
            tasks.close()
    if thrown is not None and not isinstance(thrown, GeneratorExit):
        raise thrown


class _Threads:
    """Jobs of a superstep: a single one in the caller's thread, several side by side."""

    def __init__(self, live: bool, workers: int | None, store: Store | None) -> None:
        self._transactions = Transactions(store)
        self._live = live
        self._most = workers or WORKERS
        self._crew: Crew | None = None
        self._callees: Crew | None = None  # calls have threads of their own, lest they wait for who waits for them
        self._replies: set[Future[Any]] = set()  # that nodes may wait for
        self._active: set[Job] = set()  # started, and not yet told of as finished
        self._idle: set[Job] = set()  # and not begun: who takes it out may begin it, or take it back
        self._lock = threading.Lock()
        self._elsewhere = Awaited()
        self._halt = threading.Event()  # nothing begins any more
        # What finishes while the consumer is busy shares a commit; a crew's worth of it, then the crew has to wait.
        self._arrived: queue.SimpleQueue[Arrival | Turn] = queue.SimpleQueue()
        # On its way to the run. Ctrl-C may come between any two operations, so each of them moves an item, and none has
        # it in hand; what is here already when the run asks the next time was not told of.
        self._taken: deque[Arrival | Turn] = deque()
        self.given: deque[Arrival] = deque()
        self._room = threading.Condition()
        self._held_up = 0  # how many wait for it
        self._closing = False
        # One place: who sends custom events faster than the consumer takes them has to wait.
        self._place = threading.Semaphore(1)

    def _start(self, jobs: Sequence[Job]) -> None:
        tasks = [job for job in jobs if job.parent is None]
        self._idle.update(tasks)  # first: what is in neither, `cancel` does not find
        self._active.update(tasks)
        if self._crew is None:
            self._crew = Crew(self._most, "durable_graph")
        self._crew.give([self._ready(job) for job in tasks])
        for call in jobs:
            if call.parent is not None:  # a @task's, once more
                assert self._callees is not None
                self._transactions.calls(call)
                self._callees.give([self._ready(call)])

    def _ready(self, job: Job) -> Work:
        job.tell, job.spawn, job.recall = self._tell, self._spawn, settled_future
        job.begin, job.awaited = partial(self._begin, job), self._elsewhere
        return partial(contextvars.copy_context().run, self._work, job)

    def _tell(self, item: Arrival) -> None:
        """Called by a node, in its thread: something to be shown at once."""
        self._place.acquire()
        if self._closing:  # nobody takes it any more: the next one who waits goes on as well
            self._place.release()
            return
        self._arrived.put(item)

    def _take(self) -> None:
        """Move the next of what has arrived, or nothing, after a while.

        A signal that comes a moment before the wait begins does not end it: Python hears of Ctrl-C when the next one
        begins. (Python 3.11 can miss the timeout too, if the machine stands still for so long; then it ends with what
        arrives.)
        """
        with contextlib.suppress(queue.Empty):
            self._taken.extend(map(queue.SimpleQueue.get, (self._arrived,), (True,), (SLICE,)))
            item = self._taken[-1]
            if isinstance(item, Sent | Relayed | Said):
                self._place.release()

    def _spawn(self, call: Job) -> Future[Any]:
        """Called by a node, in its thread."""
        with self._lock:
            self._transactions.calls(call)
            call.reply = reply = Reply()
            if self._closing:  # nothing begins any more
                reply.cancel()
                return reply
            self._keep(reply)
            if self._callees is None:
                self._callees = Crew(CALLS, "durable_graph_call")
        self._arrived.put(Spawned(call))
        self._callees.give([self._ready(call)])
        return reply

    def _begin(self, job: Job, awaits: bool) -> Transaction:
        """Called by a node, in its thread."""
        with self._lock:
            turn = self._transactions.turn(job)
            if turn is not None:
                self._keep(turn.granted)
        if turn is not None:
            self._arrived.put(turn)
            turn.granted.result()
        return self._transactions.begin()

    def _keep(self, reply: Future[Any]) -> None:
        self._replies.add(reply)
        reply.add_done_callback(self._replies.discard)

    def _work(self, job: Job) -> None:
        if job.delay:
            self._halt.wait(delay_of(job))
        if job.parent is None:
            try:
                self._idle.remove(job)
            except KeyError:
                return  # taken back
            finished = run_job(job)
        else:
            finished = unwanted(job) if job.reply.cancelled() else run_job(job)
        if self._elsewhere.has_taken(job):
            return
        self._arrived.put(finished)
        if self._arrived.qsize() >= self._most:
            self._wait_for_room()

    def _wait_for_room(self) -> None:
        with self._room:
            self._held_up += 1  # before the look: who makes room after that says so
            while self._arrived.qsize() >= self._most and not self._closing:
                self._room.wait()
            self._held_up -= 1

    def next(self, jobs: Sequence[Job] = ()) -> Sequence[Arrival]:
        if jobs:
            if len(jobs) == 1 and not self._live and not self._active:
                return self._run_alone(jobs[0])
            self._start(jobs)
        given = self.given
        if given or self._taken:  # we were interrupted, perhaps before the place was made free: one more does no harm
            self._place.release()
            self._transactions.sift(self._taken, given)
        if not given:
            self._transactions.settle(given)
        while not given:
            self._take()
            while not self._arrived.empty():
                self._take()
            self._transactions.sift(self._taken, given)
            if self._held_up:
                with self._room:
                    self._room.notify_all()
            if not given:
                self._transactions.settle(given)
        self._active.difference_update([item.job for item in given if isinstance(item, Finished)])
        return list(given)

    def _run_alone(self, job: Job) -> Sequence[Arrival]:
        if job.delay:
            pause(delay_of(job))
        sent: list[Arrival] = []  # apart from what is returned, which holds the job: a cycle would be garbage
        job.tell = sent.append
        job.begin = self._begin_alone
        finished = run_job(job)
        return [*sent, finished] if sent else [finished]

    def _begin_alone(self, awaits: bool) -> Transaction:
        return self._transactions.begin()

    def cancel(self, jobs: Sequence[Job] = ()) -> list[Job]:
        idle = [job for job in jobs if job not in self._active]
        with contextlib.suppress(KeyError):
            while True:
                idle.append(self._idle.pop())
        self._halt.set()
        idle += self._elsewhere.take_back()
        self._active.difference_update(idle)
        return list(dict.fromkeys(idle))

    def close(self) -> None:
        self._halt.set()
        self._elsewhere.close()
        with self._room:
            self._closing = True
            self._room.notify_all()
        self._place.release()  # let go of nodes that wait for a place
        with self._lock:  # from here on no call begins, so none makes a crew
            crews = [crew for crew in (self._crew, self._callees) if crew is not None]
        for crew in crews:
            crew.dismiss()
        while not all(crew.gone for crew in crews):
            for reply in list(self._replies):
                reply.cancel()  # let go of nodes that wait for a call
            for crew in crews:
                crew.wait(LOOK)
        self._transactions.close()


class Reply(Future[Any]):
    """What a call comes to, for who has called it: if that one has cancelled this, nobody is told."""

    def set_result(self, result: Any) -> None:
        with contextlib.suppress(InvalidStateError):
            super().set_result(result)

    def set_exception(self, exception: BaseException | None) -> None:
        with contextlib.suppress(InvalidStateError):
            super().set_exception(exception)


def unwanted(call: Job) -> Finished:
    """Who called it has cancelled it before it began."""
    now = clock()
    return Finished(call, None, asyncio.CancelledError(), now, now)


def settled_future(value: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(value)
    return future


def delay_of(job: Job) -> float:
    return job.delay + (random.random() if job.jitter else 0.0)


def run_job(job: Job) -> Finished:
    started, entered = clock(), NOTHING
    try:
        entered = enter(job)
        result = _run_steps(job.steps)
    except BaseException as error:
        return Finished(job, None, passable(error), started, clock())
    finally:
        leave(entered)
    return Finished(job, result, None, started, clock())


NOTHING: Entered = ()


def _run_steps(steps: Steps) -> Any:
    try:
        call, args, kwargs, _ = next(steps)
        while True:
            try:
                answer = call(*args, **kwargs)
                if inspect.iscoroutine(answer):
                    answer.close()
                    raise _is_async(call)
            except BaseException as error:
                call, args, kwargs, _ = steps.throw(error)
            else:
                call, args, kwargs, _ = steps.send(answer)
    except StopIteration as done:
        return done.value


def _is_async(call: Callable[..., Any]) -> CallError:
    name = getattr(call, "__qualname__", repr(call))
    return CallError(
        problem=f"{name} is async and cannot run in a sync call",
        fix="Use astream, ainvoke or abatch, or make it a plain function.",
    )


def refuse_fork(effect: object, store: Store | None) -> None:
    """A run that was carried into a child by fork() stays the parent's: here it can only end, without a trace."""
    if store is not None and not isinstance(effect, Emit | Now | Cancel):
        raise StoreError(
            store=store.name,
            problem="this run was begun in another process, of which this one is a fork",
            fix="It goes on there. Begin runs in the process that reads them, after the fork.",
        )


def save(store: Store | None, effect: Save) -> None:
    assert store is not None
    place = store if effect.through is None else effect.through
    place.append(effect.rows, claim=effect.claim, snapshot=effect.snapshot, taken=effect.taken)


def ask(store: Store | None, ask: Ask) -> Any:
    return ask.call(store)  # type: ignore[arg-type]  # without one it asks something else


def passable(error: BaseException) -> BaseException:
    """A node's error as generators and futures can carry it: these two would end them instead (as in PEP 479)."""
    if not isinstance(error, StopIteration | GeneratorExit):
        return error
    passable = RuntimeError(f"a node raised {type(error).__name__}")
    passable.__cause__ = error
    return passable
