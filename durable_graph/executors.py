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
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
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
        awaited: Awaited = job.awaited or Awaited()
        with awaited.errand(job):
            awaited.result(job, awaited.hand_over(job, lambda: self._gate.ask(job.losses == LOSSES - 1)))
            try:
                executor, future = self._handed_over(awaited, job, parcel)
                try:
                    return awaited.result(job, future)
                except BrokenExecutor:
                    self._discard(executor)
                    raise
            finally:
                self._gate.leave()

    def _handed_over(self, awaited: Awaited, job: Job, parcel: Parcel) -> tuple[Executor, Future[Any]]:
        """Once more if the executor broke or was closed while nobody looked."""
        executor = self._opened()
        try:
            return executor, _submit(awaited, job, executor, parcel)
        except Exception as error:
            if _is_broken(executor, error):
                self._discard(executor)
                if not self.can_be_replaced:
                    raise BrokenExecutor(str(error)) from error
            elif not isinstance(error, RuntimeError) or not self.can_be_replaced or self._executor is executor:
                raise  # else it was closed
        executor = self._opened()
        return executor, _submit(awaited, job, executor, parcel)

    def _opened(self) -> Executor:
        if isinstance(self._given, Executor):
            return self._given
        with self._lock:
            if self._executor is None:
                self._executor = self._given()
            return self._executor

    def _discard(self, broken: Executor) -> None:
        """Of all that notice, the first one clears away. Also what the caller made: it is of no use to anybody."""
        with self._lock:
            if self._executor is broken:
                self._executor = None
        _clear_away(broken)

    @property
    def can_be_replaced(self) -> bool:
        return not isinstance(self._given, Executor)

    def close(self) -> None:
        """End the workers, if they are ours, when they have done what they are at."""
        with self._lock:
            executor, self._executor = self._executor, None
        if executor is not None and self._process == os.getpid():
            executor.shutdown()


def _submit(awaited: Awaited, job: Job, executor: Executor, parcel: Parcel) -> Future[Any]:
    if isinstance(executor, ThreadPoolExecutor):
        return awaited.hand_over(job, lambda: executor.submit(perform, parcel))
    if _is_of_processes(executor):
        letter = parcel.letter()  # it can be refused here and now
        return awaited.hand_over(job, lambda: executor.submit(perform, letter))
    # Of others it is not known whether `cancel` finds out that a call has begun: that of Dask does not.
    awaited.give_away(job)
    return executor.submit(perform, parcel)


def _is_broken(executor: Executor, error: Exception) -> bool:
    """Python's pool of processes says something else (OSError: handle is closed) if it breaks while it starts a worker
    for what it is given."""
    return isinstance(error, BrokenExecutor) or bool(getattr(executor, "_broken", False))


def _clear_away(broken: Executor) -> None:
    """A worker that was being started while another one died is forgotten by Python's pool, which then waits for it for
    ever, at the end of the program too. `shutdown` returns when none is being started any more: then all are known.
    """
    workers = getattr(broken, "_processes", None) or {}
    broken.shutdown(wait=False)
    for worker in list(workers.values()):
        worker.terminate()


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


class TakenBack(BaseException):
    """To a thread that waits for an executor: the run does without it, and nothing has begun."""


class Awaited:
    """What the jobs of a run wait for elsewhere, so that it can be taken back as long as it has not begun."""

    def __init__(self) -> None:
        self._futures: dict[Job, Future[Any] | None] = {}  # of those that can be taken back; None: not handed over
        self._taken: set[Job] = set()
        self._lock = threading.Lock()
        self._closed = False

    @contextmanager
    def errand(self, job: Job) -> Iterator[None]:
        """Within it the job may be taken back. In the job's thread, as what follows."""
        with self._lock:
            self._futures[job] = None
            if self._closed:
                self._take(job)
        try:
            yield
        finally:
            with self._lock:
                self._futures.pop(job, None)

    def hand_over(self, job: Job, submit: Callable[[], Future[Any]]) -> Future[Any]:
        """Have it begin, some time. Raises TakenBack."""
        with self._lock:
            self._check(job)
            future = self._futures[job] = submit()
            return future

    def give_away(self, job: Job) -> None:
        """From here on it cannot be taken back. Raises TakenBack."""
        with self._lock:
            self._check(job)
            del self._futures[job]

    def _check(self, job: Job) -> None:
        if job in self._taken:
            raise TakenBack

    def result(self, job: Job, future: Future[Any]) -> Any:
        """Wait for it. Raises TakenBack."""
        try:
            return future.result()
        except CancelledError as error:
            with self._lock:
                self._check(job)
            raise _cancelled(job) from error  # by somebody else

    def take_back(self) -> list[Job]:
        """Those that have not begun and will not."""
        with self._lock:
            tasks = [job for job in self._futures if job.parent is None]  # a node waits for its @tasks
            return [job for job in tasks if self._take(job)]

    def _take(self, job: Job) -> bool:
        future = self._futures[job]
        if future is not None and not future.cancel():
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
