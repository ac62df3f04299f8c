"""Where nodes' functions are called when that is not here: in any executor of `concurrent.futures`.

The rule: an executor is given the call of a function and nothing else of its task. Input, validation, routing, retries
and the row stay in the run's own process, in a thread that waits for the executor; so whatever becomes of a worker,
the run goes on as after any other error of a node.

    compile(executor=...)     who makes it    who closes it           when its workers have died
    an executor               the caller      the caller              ExecutorError: it cannot be made again
    what makes one            the pool        the pool, at close()    another one is made, once

A worker that dies takes down what else its pool was at: nobody knows whose fault it was. All of it is tried again side
by side; what is lost again runs the last time with nothing beside it, so that the one that kills workers is known.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ThreadPoolExecutor
from typing import Any

from durable_graph.core.effects import LOSSES, Job
from durable_graph.errors import DrawingError, ExecutorError, UnsendableError, WorkerLostError
from durable_graph.parcels import Parcel, perform

Making = Callable[[], Executor]  # what makes an executor: a class, a functools.partial, a function


class Pool:
    """One `executor=` of a graph, shared by its nodes and runs."""

    def __init__(self, given: Executor | Making) -> None:
        self._given = given
        self._begin()

    def _begin(self) -> None:
        self._executor: Executor | None = None
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._gate = _Gate()

    def errand(self, job: Job, call: Callable[..., Any], wants: Sequence[str] = ()) -> Callable[..., Any]:
        """The function, to be called in the executor. wants: those of its arguments that come from the runtime."""
        return _Errand(self, job, call, wants)

    def perform(self, job: Job, parcel: Parcel) -> Any:
        """Have it done. Raises BrokenExecutor if the executor broke meanwhile; then it is replaced already."""
        if self._process != os.getpid():  # we are in a fork: what was begun belongs to the process we come from
            self._begin()
        turn = self._gate.ask(job.losses == LOSSES - 1)
        job.awaits(job, turn)
        try:
            executor, future = self._submit(parcel)
            try:
                # Of others it is not known whether `cancel` finds out that a call has begun: that of Dask does not.
                own = isinstance(executor, ThreadPoolExecutor) or _is_of_processes(executor)
                return job.awaits(job, future) if own else _result(job, future)
            except BrokenExecutor:
                self._discard(executor)
                raise
        finally:
            self._gate.leave()

    def _submit(self, parcel: Parcel) -> tuple[Executor, Future[Any]]:
        with self._lock:
            executor = self._opened()
            try:
                return executor, _submit(executor, parcel)
            except BrokenExecutor:  # while nobody looked
                if self._executor is not None:
                    self._executor.shutdown()
                    self._executor = None
                executor = self._opened()
                return executor, _submit(executor, parcel)

    def _opened(self) -> Executor:
        if isinstance(self._given, Executor):
            return self._given
        if self._executor is None:
            self._executor = self._given()
        return self._executor

    def _discard(self, broken: Executor) -> None:
        """Of all that notice, the first one clears away."""
        with self._lock:
            mine = self._executor is broken
            if mine:
                self._executor = None
        if mine:
            broken.shutdown()

    @property
    def can_be_replaced(self) -> bool:
        return not isinstance(self._given, Executor)

    def close(self) -> None:
        """End the workers, if they are ours, when they have done what they are at."""
        with self._lock:
            executor, self._executor = self._executor, None
        if executor is not None and self._process == os.getpid():
            executor.shutdown()


def _submit(executor: Executor, parcel: Parcel) -> Future[Any]:
    if _is_of_processes(executor):  # a letter can be refused here and now
        return executor.submit(perform, parcel.letter())
    return executor.submit(perform, parcel)


def _is_of_processes(executor: Executor) -> bool:
    from concurrent.futures import ProcessPoolExecutor  # brings multiprocessing along, which few need

    return isinstance(executor, ProcessPoolExecutor)


class _Errand:
    """A function that is called elsewhere, for one job. Called as that function, in a thread that may wait."""

    def __init__(self, pool: Pool, job: Job, call: Callable[..., Any], wants: Sequence[str]) -> None:
        self._pool, self._job, self._call, self._wants = pool, job, call, wants
        self.__qualname__ = str(getattr(call, "__qualname__", type(call).__name__))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        parcel = Parcel(self._job, self._call, args, kwargs, self._wants)
        outcome = parcel.opened(self._answer(parcel))
        if outcome.error is None:
            return outcome.result
        try:
            raise outcome.error
        finally:
            del outcome  # it would hold the error, and its traceback this frame

    def _answer(self, parcel: Parcel) -> Any:
        try:
            return self._pool.perform(self._job, parcel)
        except BrokenExecutor as error:
            raise self._lost(error) from error
        except (UnsendableError, ExecutorError):
            raise
        except Exception as error:
            raise parcel.refused or self._failed(_words(error)) from error

    def _lost(self, error: BrokenExecutor) -> Exception:
        if not self._pool.can_be_replaced:
            return self._failed(
                f"it is broken ({error})",
                "It cannot be made again: give what makes one, executor=functools.partial(ProcessPoolExecutor, 4).",
            )
        node, thread_id = self._place
        return WorkerLostError(
            node=node, thread_id=thread_id, lost=self._job.losses + 1, limit=LOSSES, problem=_words(error)
        )

    def _failed(self, problem: str, fix: str = "See to the executor, then continue the thread.") -> ExecutorError:
        node, thread_id = self._place
        return ExecutorError(node=node, thread_id=thread_id, problem=problem, fix=fix)

    @property
    def _place(self) -> tuple[str, str]:
        runtime = self._job.runtime()
        return runtime.node, runtime.thread_id


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


class _Gate:
    """Lets in any number together, or one alone; in the order in which they have asked."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked: deque[tuple[Future[None], bool]] = deque()
        self._inside = 0
        self._closed = False  # as one is inside alone

    def ask(self, alone: bool) -> Future[None]:
        """Done when it is its turn; then it has to `leave`. May be cancelled before."""
        turn: Future[None] = Future()
        with self._lock:
            self._asked.append((turn, alone))
            self._admit()
        return turn

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            self._closed = False
            self._admit()

    def _admit(self) -> None:
        while self._asked and not self._closed:
            turn, alone = self._asked[0]
            if alone and self._inside and not turn.cancelled():
                return
            self._asked.popleft()
            if turn.set_running_or_notify_cancel():
                self._inside += 1
                self._closed = alone
                turn.set_result(None)


def _result(job: Job, future: Future[Any]) -> Any:
    try:
        return future.result()
    except CancelledError as error:
        raise _cancelled(job) from error


class TakenBack(BaseException):
    """To a thread that waits for an executor: the run does without it, and nothing has begun."""


class Awaited:
    """What the jobs of a run wait for elsewhere, so that it can be taken back as long as it has not begun."""

    def __init__(self) -> None:
        self._futures: dict[Job, Future[Any]] = {}
        self._taken: set[Job] = set()
        self._lock = threading.Lock()
        self._closed = False

    def result(self, job: Job, future: Future[Any]) -> Any:
        """Wait for it, in the job's thread. Raises TakenBack."""
        with self._lock:
            self._futures[job] = future
            if self._closed:
                self._take(job)
        try:
            return future.result()
        except CancelledError as error:
            with self._lock:
                taken = self.has_taken(job)
            raise TakenBack if taken else _cancelled(job) from error
        finally:
            with self._lock:
                del self._futures[job]

    def take_back(self) -> list[Job]:
        """Those that have not begun and will not."""
        with self._lock:
            tasks = [job for job in self._futures if job.parent is None]  # a node waits for its @tasks
            return [job for job in tasks if self._take(job)]

    def _take(self, job: Job) -> bool:
        if not self._futures[job].cancel():
            return False
        self._taken.add(job)
        return True

    def has_taken(self, job: Job) -> bool:
        return job in self._taken

    def close(self) -> None:
        """Take back all that can be, from now on too."""
        with self._lock:
            self._closed = True
            for job in self._futures:
                self._take(job)


def _cancelled(job: Job) -> ExecutorError:
    return ExecutorError(
        node=job.task.node,
        thread_id=job.runtime().thread_id,
        problem="the call was cancelled, but not by the run",
        fix="Whoever shuts the executor down should do so after the run. Continue the thread with another one.",
    )


def is_executor(given: Any) -> bool:
    """Whether `executor=` means that there is one, or what makes one."""
    return isinstance(given, Executor) or callable(given)


def check(given: Any, where: str) -> None:
    """Raises DrawingError for what is no executor."""
    if given is not None and given is not False and not is_executor(given):
        raise DrawingError(
            problem=f"executor={given!r} of {where} is neither an executor of concurrent.futures nor makes one",
            fix="Give an instance, or what makes one: executor=functools.partial(ProcessPoolExecutor, 4).",
        )
