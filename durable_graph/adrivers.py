"""The driver for asyncio. What it shares with the other one is in `drivers.py`.

To go to a thread and back takes asyncio longer than a step. So what has gone to the store's thread stays there until
the loop is needed: a lone task's plain functions, its row, and what the run does in between are one way.

    _Way      a run's effects, in the loop or in the thread
    _Alone    a task that runs beside no other
    _Tasks    tasks side by side
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import threading
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

from durable_graph import drivers
from durable_graph.core.effects import (
    Arrival,
    Ask,
    Cancel,
    Effect,
    Emit,
    Finished,
    Invoke,
    Job,
    Next,
    Now,
    Reply,
    Rest,
    Save,
    Spawned,
)
from durable_graph.core.model import TimeoutPolicy, seconds_of
from durable_graph.core.rows import Effects
from durable_graph.core.schema import is_coroutine
from durable_graph.core.task import Entered, enter, leave
from durable_graph.errors import CallError, NodeTimeoutError
from durable_graph.executors import Awaited
from durable_graph.offload import Offload, settled, thrown_in
from durable_graph.store import Store, Transaction
from durable_graph.transactions import Transactions, Turn


async def adrive(
    opening: AbstractAsyncContextManager[Effects],
    store: Store | None,
    show: drivers.Show,
    live: bool,
    workers: int | None,
) -> AsyncGenerator[Any, None]:
    """`drive` for asyncio. A cancelled task counts as a consumer that has gone, with CancelledError to follow.

    What has to be done around it is in `opening` and not in a generator of its own: when a loop ends it closes all
    asynchronous generators at the same time, also those that another one is at.
    """
    async with opening as effects:
        tasks = _Tasks(live, workers, store)
        way = _Way(effects, store, tasks.interrupt)
        keeper = Offload()  # the store's thread
        thrown: BaseException | None = None
        try:
            effect = way.go_on()
            while effect is not None:
                answer: Any = None
                failure: BaseException | None = None
                try:
                    way.check(effect)
                    if way.is_far(effect):
                        effect = await way.far(keeper, effect)
                        continue
                    if isinstance(effect, Emit):
                        thrown, way.late = thrown or way.late, None
                        answer = thrown is not None
                        if not answer:
                            try:
                                for chunk in show(effect.what):
                                    yield chunk
                            except BaseException as error:
                                thrown, answer = error, True
                                await thrown_in(error)
                    elif isinstance(effect, Next):
                        way.raise_late()
                        alone = tasks.alone(effect.jobs)
                        if alone is not None:
                            effect = alone
                            continue
                        answer = await tasks.next(effect.jobs)
                    elif isinstance(effect, _Alone):
                        await effect.here(way)
                        if not effect.items:
                            continue
                        answer = effect.items
                    elif isinstance(effect, Now):
                        answer = drivers.clock()
                    elif isinstance(effect, Cancel):
                        answer = tasks.cancel(effect.jobs)
                    elif isinstance(effect, Rest):
                        way.raise_late()
                        await drivers.apause(effect.seconds)
                except BaseException as error:
                    failure = error
                effect = way.go_on(answer, failure)
            way.end()
        finally:
            if not way.is_forked:
                try:
                    await tasks.close()
                finally:
                    keeper.close()
        if thrown is not None:
            raise thrown


class _Way:
    """A run's effects, one after the other, in the loop or in the store's thread, never in both."""

    def __init__(self, effects: Effects, store: Store | None, interrupt: Callable[[], None]) -> None:
        self._effects = effects
        self._store = store
        self._interrupt = interrupt  # the tasks that are under way
        self._begun = drivers.forks
        self._error: BaseException | None = None  # that the run has ended with
        self.late: BaseException | None = None  # we were cancelled while the thread was at work, and have not said so

    @property
    def is_forked(self) -> bool:
        return drivers.forks != self._begun

    def check(self, effect: Effect | _Alone) -> None:
        if self.is_forked:
            drivers.refuse_fork(effect, self._store)

    def raise_late(self) -> None:
        if self.late is not None:
            late, self.late = self.late, None
            raise late

    def go_on(self, answer: Any = None, failure: BaseException | None = None) -> Effect | _Alone | None:
        """The next effect; None at the end."""
        try:
            return self._effects.send(answer) if failure is None else self._effects.throw(failure)
        except StopIteration:
            return None
        except BaseException as error:
            self._error = error
            return None

    def end(self) -> None:
        """Raise that we were cancelled at last, or what the run has ended with."""
        error, self._error = self._error, None
        try:
            if self.late is not None:
                raise self.late from error
            if error is not None:
                raise error
        finally:
            del error  # its traceback knows this frame

    def is_far(self, effect: Effect | _Alone) -> bool:
        if isinstance(effect, _Alone):
            return effect.is_plain and (self.late is None or effect.has_called)
        return isinstance(effect, Save | Ask)

    async def far(self, keeper: Offload, effect: Effect | _Alone) -> Effect | _Alone | None:
        """Have the thread perform this one, and more. The first one that is for the loop."""
        trip = keeper.begin(partial(contextvars.copy_context().run, self._perform, effect))
        try:
            return await trip
        except asyncio.CancelledError as error:
            self.late = error
            self._interrupt()
            return trip.result()

    def _perform(self, effect: Effect | _Alone) -> Effect | _Alone | None:
        while True:
            answer: Any = None
            failure: BaseException | None = None
            try:
                self.check(effect)
                if isinstance(effect, _Alone):
                    effect.there()
                    if not effect.items:
                        return effect
                    answer = effect.items
                elif isinstance(effect, Save):
                    drivers.save(self._store, effect)
                elif isinstance(effect, Ask):
                    answer = drivers.ask(self._store, effect)
                else:
                    answer = drivers.clock()
            except BaseException as error:
                failure = error
            following = self.go_on(answer, failure)
            if not isinstance(following, Save | Ask | Now):
                return following
            effect = following


class _Alone:
    """A task that runs beside no other: what it awaits in the loop, and plain functions in the store's thread."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._loop = asyncio.get_running_loop()
        self._started = 0.0
        self._invoke: Invoke | None = None  # what it calls next
        self._awaitable: Awaitable[Any] | None = None  # what a plain function has returned
        self._sent: list[Arrival] = []
        self.is_plain = False  # it calls a plain function next
        self.has_called = False  # a function of the user's, which the cache is not
        self.items: Sequence[Arrival] = ()  # what the run is answered, once it has ended
        job.tell = self._tell

    def _tell(self, item: Arrival) -> None:
        if _runs_here(self._loop):
            self._job.progress()
        self._sent.append(item)

    async def here(self, way: _Way) -> None:
        """Go on until a plain function is to be called, or it has ended."""
        begins = self._invoke is None
        if begins:
            if self._job.delay:
                await asyncio.sleep(drivers.delay_of(self._job))
            self._started = drivers.clock()
        entered = self._enter()
        try:
            if begins and not self.items:
                self._go_on()
            elif not self.has_called and way.late is not None:
                late, way.late = way.late, None
                self._go_on(None, late)
            while not self.items and not self.is_plain:
                try:
                    answer = await self._awaited()
                except BaseException as error:
                    self._go_on(None, error)
                else:
                    self._go_on(answer)
        finally:
            leave(entered)

    def _awaited(self) -> Awaitable[Any]:
        if self._awaitable is not None:
            awaitable, self._awaitable = self._awaitable, None
            return awaitable
        assert self._invoke is not None
        self.has_called = True
        _, args, kwargs, timeout = self._invoke
        waited = _function_of(self._invoke)(*args, **kwargs)
        return waited if timeout is None else _timed(self._job, waited, timeout)

    def there(self) -> None:
        """Go on until there is something to await, or it has ended. After a look into the cache comes a look at the
        loop, as the node does not begin if it was cancelled meanwhile."""
        entered = self._enter()
        try:
            while not self.items and self.is_plain:
                assert self._invoke is not None
                _, args, kwargs, _ = self._invoke
                looks = self._job.memo is not None and self._job.memo.looking
                self.has_called = self.has_called or not looks
                try:
                    answer = contextvars.copy_context().run(_function_of(self._invoke), *args, **kwargs)
                except BaseException as error:
                    self._go_on(None, error)
                else:
                    if inspect.isawaitable(answer):
                        self._awaitable, self.is_plain = answer, False
                    else:
                        self._go_on(answer)
                if looks:
                    return
        finally:
            leave(entered)

    def _enter(self) -> Entered:
        try:
            return enter(self._job)
        except BaseException as error:
            self._end(None, error)
            return drivers.NOTHING

    def _go_on(self, answer: Any = None, error: BaseException | None = None) -> None:
        steps = self._job.steps
        try:
            self._invoke = steps.send(answer) if error is None else steps.throw(error)
            self.is_plain = not is_coroutine(_function_of(self._invoke))
        except StopIteration as done:
            self._end(done.value, None)
        except BaseException as failure:
            self._end(None, drivers.passable(failure))

    def _end(self, result: Any, error: BaseException | None) -> None:
        self.is_plain = False
        self.items = [*self._sent, Finished(self._job, result, error, self._started, drivers.clock())]


def _function_of(invoke: Invoke) -> Callable[..., Any]:
    return getattr(invoke[0], "acall", invoke[0])  # a subgraph has both forms


class _Tasks:
    """Jobs of a superstep under asyncio."""

    def __init__(self, live: bool, workers: int | None, store: Store | None) -> None:
        self._transactions = Transactions(store)
        self._live = live
        self._workers = workers
        self._gate = asyncio.Semaphore(workers) if workers else None
        self._counter = asyncio.Semaphore(drivers.WORKERS)
        self._pool: ThreadPoolExecutor | None = None
        self._is_alone = False  # the job at hand is the only one
        self._running: dict[asyncio.Task[None], Job] = {}
        self._begun: set[Job] = set()
        self._unbegun: set[Job] = set()  # calls that have not
        self._items: deque[Arrival | Turn] = deque()
        self._arrived = asyncio.Event()
        self._elsewhere = Awaited()
        self._taken: list[threading.Event] = []  # for threads that wait until their custom event has been taken
        self._replies: set[Future[Any]] = set()
        self._closed = False

    def _start(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            if job.parent is not None:
                self._transactions.calls(job)
            self._start_one(job)

    def _start_one(self, job: Job) -> None:
        task = asyncio.create_task(self._work(job))
        self._running[task] = job
        if job.parent is not None:
            self._unbegun.add(job)
            task.add_done_callback(partial(self._skip, job))
            job.reply.add_done_callback(partial(self._unwanted, asyncio.get_running_loop(), task))

    def _skip(self, call: Job, task: asyncio.Task[None]) -> None:
        """It was cancelled before it began, and its node is waited for until all its calls have ended."""
        if call in self._unbegun:
            self._unbegun.remove(call)
            self._put(drivers.unwanted(call))

    def _unwanted(self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[None], reply: Future[Any]) -> None:
        """Cancel a call whose result nobody waits for any more."""
        if reply.cancelled() and not self._closed:
            loop.call_soon_threadsafe(lambda: task.cancelling() or task.cancel())

    async def _work(self, job: Job) -> None:
        if job.delay:
            await asyncio.sleep(drivers.delay_of(job))
        gate = self._gate if job.parent is None else None  # a call may not wait for the node that waits for it
        if gate is None and job.elsewhere:
            gate = self._counter  # as many as there are threads to wait: the others can be taken back
        async with gate or contextlib.nullcontext():
            await self._run(job)

    async def _run(self, job: Job) -> None:
        self._begun.add(job)
        self._unbegun.discard(job)
        loop = asyncio.get_running_loop()
        job.tell, job.spawn = partial(self._tell, loop, job), partial(self._spawn, loop)
        job.recall, job.begin = partial(self._recall, loop), partial(self._begin, loop, job)
        job.awaited = self._elsewhere
        started, entered = drivers.clock(), drivers.NOTHING
        try:
            entered = enter(job)
            result = await self._steps(job)
        except BaseException as error:
            item = Finished(job, None, drivers.passable(error), started, drivers.clock())
        else:
            item = Finished(job, result, None, started, drivers.clock())
        finally:
            leave(entered)
        if not self._elsewhere.has_taken(job):
            self._put(item)

    async def _steps(self, job: Job) -> Any:
        steps, has_called = job.steps, job.elsewhere  # these are taken back where they are
        try:
            invoke = next(steps)
            while True:
                looks = job.memo is not None and job.memo.looking
                try:
                    answer = await self._call(job, invoke, not has_called, not looks)
                    has_called = has_called or not looks
                except BaseException as error:
                    invoke = steps.throw(error)
                else:
                    invoke = steps.send(answer)
        except StopIteration as done:
            return done.value

    async def _call(self, job: Job, invoke: Invoke, begins: bool, counts: bool) -> Any:
        """begins: no function of the user's has been called for this job. counts: this is one, and not the cache."""
        _, args, kwargs, timeout = invoke
        call = _function_of(invoke)
        if is_coroutine(call):
            waited = call(*args, **kwargs)
            return await (waited if timeout is None else _timed(job, waited, timeout))
        plain = partial(contextvars.copy_context().run, call, *args, **kwargs)
        submit = partial(self._submit, plain if job.parent is None else partial(_wanted, job.reply, plain))
        if begins:
            with self._elsewhere.errand(job):  # while it is in the queue it has not begun
                answer = await _ended(self._elsewhere.hand_over(job, submit), counts)
        else:
            answer = await _ended(submit(), counts)
        return await answer if inspect.isawaitable(answer) else answer

    def _submit(self, call: Callable[[], Any]) -> Future[Any]:
        if self._closed:
            raise asyncio.CancelledError  # nothing begins any more
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._workers or drivers.WORKERS, "durable_graph")
        return self._pool.submit(_passing, call)

    def _tell(self, loop: asyncio.AbstractEventLoop, job: Job, item: Arrival) -> None:
        if _runs_here(loop):
            job.progress()
            self._put(item)  # an async node cannot be made to wait from inside its own loop
            return
        taken = threading.Event()
        loop.call_soon_threadsafe(self._put, item, taken)
        taken.wait()

    def _spawn(self, loop: asyncio.AbstractEventLoop, call: Job) -> Any:
        """Called by a node: an async one gets something to await, a plain one, in its thread, a future to wait for."""
        self._transactions.calls(call)
        call.reply = reply = drivers.Reply()
        self._keep(reply)
        if _runs_here(loop):
            self._begin_call(call)
            return asyncio.wrap_future(reply)
        loop.call_soon_threadsafe(self._begin_call, call)
        return reply

    def _recall(self, loop: asyncio.AbstractEventLoop, value: Any) -> Any:
        future = drivers.settled_future(value)
        return asyncio.wrap_future(future) if _runs_here(loop) else future

    def _begin(self, loop: asyncio.AbstractEventLoop, job: Job, awaits: bool) -> Any:
        """Called by a node: an async one gets something to await, a plain one, in its thread, a transaction."""
        if awaits:
            return self._abegin(job)
        if _runs_here(loop):
            raise CallError(
                problem=f"the async node {job.task.node!r} asked for runtime.connection, which may have to wait",
                fix="Use `await runtime.aconnection()`.",
            )
        turn = self._turn(job)
        if turn is not None:
            loop.call_soon_threadsafe(self._put, turn)
            turn.granted.result()
        return self._transactions.begin()

    async def _abegin(self, job: Job) -> Transaction:
        turn = self._turn(job)
        if turn is not None:
            self._put(turn)
            await asyncio.wrap_future(turn.granted)
        begun: asyncio.Future[Transaction] = asyncio.wrap_future(self._submit(self._transactions.begin))
        try:
            return await settled(begun)
        except asyncio.CancelledError:
            if begun.cancelled() or begun.exception() is not None:
                raise
        # The node has to have it, as that is who rolls it back. It hears that it is cancelled when it awaits next.
        task = asyncio.current_task()
        assert task is not None
        task.uncancel()
        task.cancel()
        return begun.result()

    def _turn(self, job: Job) -> Turn | None:
        turn = None if self._is_alone else self._transactions.turn(job)
        if turn is not None:
            self._keep(turn.granted)
        return turn

    def _keep(self, reply: Future[Any]) -> None:
        self._replies.add(reply)
        reply.add_done_callback(self._replies.discard)

    def _begin_call(self, call: Job) -> None:
        if self._closed:
            self._let_go_of_calls()
            return
        self._put(Spawned(call))
        self._start_one(call)

    def _put(self, item: Arrival | Turn, taken: threading.Event | None = None) -> None:
        self._items.append(item)
        self._arrived.set()
        if taken is not None:
            self._taken.append(taken)
            if self._closed:
                self._let_go()

    def _let_go(self) -> None:
        for taken in self._taken:
            taken.set()
        self._taken.clear()

    def alone(self, jobs: Sequence[Job]) -> _Alone | None:
        """The one job, if there is nothing beside it; then `next` is not asked for it."""
        self._is_alone = len(jobs) == 1 and not (self._live or self._running or jobs[0].parent or jobs[0].stays)
        if not self._is_alone:
            return None
        (job,) = jobs
        job.begin = partial(self._begin, asyncio.get_running_loop(), job)
        return _Alone(job)

    async def next(self, jobs: Sequence[Job] = ()) -> Sequence[Arrival]:
        if jobs:
            self._start(jobs)
        items: deque[Arrival] = deque()
        self._transactions.settle(items)
        while not items:
            if not self._items:
                await self._wait()
            self._transactions.sift(self._items, items)
            self._arrived.clear()
            self._let_go()
            if not items:
                self._transactions.settle(items)
        done = {item.job for item in items if isinstance(item, Finished)}
        self._begun -= done
        self._running = {task: job for task, job in self._running.items() if job not in done or not task.done()}
        return items

    async def _wait(self) -> None:
        try:
            await self._arrived.wait()
        except asyncio.CancelledError:
            self.interrupt()
            raise

    def interrupt(self) -> None:
        """We are cancelled, and so is what we would wait for."""
        for task in self._running:
            task.cancel()

    def cancel(self, jobs: Sequence[Job] = ()) -> list[Job]:
        idle = {task: job for task, job in self._running.items() if job not in self._begun}
        waiting = {task: job for task, job in idle.items() if job.parent is None}
        for task in waiting:
            task.cancel()
        known = {*self._running.values(), *self._begun}
        taken = self._elsewhere.take_back()
        return [*waiting.values(), *taken, *(job for job in jobs if job not in known)]

    async def close(self) -> None:
        self._closed = True
        self._elsewhere.close()
        try:
            self._let_go()
            self._let_go_of_calls()
            interrupt = await self._all_ended()
        finally:  # whatever has come up, no thread is left
            if self._pool is not None:
                self._pool.shutdown()
            self._transactions.close()
        if interrupt is not None:
            raise interrupt

    def _let_go_of_calls(self) -> None:
        for reply in list(self._replies):
            reply.cancel()

    async def _all_ended(self) -> asyncio.CancelledError | None:
        """Cancel and await whatever runs, also what is begun meanwhile; and if we are cancelled, that as well."""
        interrupt, told = None, set[asyncio.Task[None]]()
        while self._running:
            for task in self._running.keys() - told:
                task.cancel()
                told.add(task)
            try:
                await asyncio.wait(self._running)
            except asyncio.CancelledError as error:
                interrupt = error
            self._running = {task: job for task, job in self._running.items() if not task.done()}
        return interrupt


def _wanted(reply: Reply, call: Callable[[], Any]) -> Any:
    """In the thread: who called it may have cancelled it while it was in the queue."""
    if reply.cancelled():
        raise asyncio.CancelledError
    return call()


async def _ended(submitted: Future[Any], counts: bool) -> Any:
    """A sync function cannot be stopped. When we are cancelled it ends first, and its result counts, or does not."""
    future = asyncio.wrap_future(submitted)
    try:
        return await settled(future)
    except asyncio.CancelledError:
        if not counts or not future.done() or future.cancelled():
            raise
        return future.result()


async def _timed(job: Job, waited: Awaitable[Any], policy: TimeoutPolicy) -> Any:
    """Await a node, but not for longer than it may take altogether, or without a sign of life."""
    run, idle = seconds_of(policy.run_timeout), seconds_of(policy.idle_timeout)
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(run) as whole, asyncio.timeout(idle) as quiet:
            if idle is not None:
                job.alive = lambda: quiet.reschedule(loop.time() + idle)
                job.progress = job.alive if policy.refresh_on == "auto" else job.progress
            return await waited
    except TimeoutError as error:
        for kind, scope, limit in (("run", whole, run), ("idle", quiet, idle)):
            if scope.expired():
                raise NodeTimeoutError(node=job.task.node, kind=kind, timeout=limit) from error
        raise


def _runs_here(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


def _passing(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except (StopIteration, GeneratorExit) as error:
        raise drivers.passable(error) from error
