"""Nodes' own transactions: whose turn it is, and what becomes of them when their tasks have ended."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future
from typing import Any, NamedTuple

from durable_graph.core.effects import Arrival, Finished, Job
from durable_graph.errors import CallError
from durable_graph.store import Store, Transaction


class Turn(NamedTuple):
    """Asked by a node: may I begin a transaction that keeps all other writers waiting?"""

    job: Job
    granted: Future[None]


class Transactions:
    """Those that nodes have begun. Where one keeps all other writers waiting there is one at a time, and what other
    jobs finish meanwhile is held back until its job's row is saved: to save theirs would be to wait for it."""

    def __init__(self, store: Store | None) -> None:
        self._store = store
        self._exclusive = store is not None and store.exclusive
        self._open: list[Transaction] = []
        self._calls: set[Job] = set()  # of @tasks, under way
        self._waiting: deque[Turn] = deque()
        self._holder: Job | None = None
        self._told = False  # that the holder has finished
        self._held: deque[Arrival] = deque()

    def begin(self) -> Transaction:
        assert self._store is not None
        transaction = self._store.transaction()
        self._open = [transaction, *(other for other in self._open if not other.connection.closed)]
        return transaction

    def turn(self, job: Job) -> Turn | None:
        """What a node has to ask for before it begins one."""
        if not self._exclusive:
            return None
        if any(call.parent is job for call in list(self._calls)):
            raise CallError(
                problem=f"node {job.task.node!r} asks for runtime.connection while a @task that it called still runs",
                fix="On SQLite an open transaction keeps the call's row from being saved: take its result before.",
            )
        return Turn(job, Future())

    def calls(self, call: Job) -> None:
        """A node calls a @task."""
        if self._exclusive and call.parent is not None and call.parent.transaction is not None:
            raise CallError(
                problem=f"node {call.parent.task.node!r} calls {call.task.node!r} after it has used runtime.connection",
                fix="On SQLite an open transaction keeps the call's row from being saved: call it before.",
            )
        self._calls.add(call)

    def settle(self, given: deque[Arrival]) -> None:
        """All that was handed out has been dealt with: hand out what was held back until now, or nothing, and then it
        is the next one's turn."""
        if self._told:
            self._holder, self._told = None, False
        if self._holder is not None:
            return
        if self._held:
            _move(self._held, given)
        elif self._waiting:
            turn = self._waiting[0]
            if turn.granted.running() or turn.granted.set_running_or_notify_cancel():
                self._holder = turn.job
                turn.granted.set_result(None)
            self._waiting.popleft()

    def sift(self, taken: deque[Arrival | Turn], given: deque[Arrival]) -> None:
        """Hand out what of these may be, and keep the others."""
        while taken:
            item = taken[0]
            if isinstance(item, Turn):
                _move(taken, self._waiting)
            elif self._holder is not None and isinstance(item, Finished) and item.job is not self._holder:
                _move(taken, self._held)
            else:
                if isinstance(item, Finished):
                    self._calls.discard(item.job)
                    self._told = self._told or item.job is self._holder
                _move(taken, given)

    def close(self) -> None:
        for turn in self._waiting:
            turn.granted.cancel()
        for transaction in self._open:
            transaction.rollback()


def _move(source: deque[Any], target: deque[Any]) -> None:
    """The first of these to the end of those, in one operation: Ctrl-C comes before or after it."""
    target.extend(map(deque.popleft, (source,)))
