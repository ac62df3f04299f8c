"""What a thread is sent while a run is under way on it, and what carries it there, with a job for workers.

The rule: whatever is accepted commits together with the job that tells a worker of it, in a transaction of ours or of
the caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from durable_graph.codec import Codec
from durable_graph.core.history import signal_value
from durable_graph.errors import SchemaError
from durable_graph.store import Claim, Row, Signal, Store

if TYPE_CHECKING:
    from sqlalchemy import Connection

INBOX = "durable_graph.input"  # the name of signals that are inputs
NO_TABLES = {"42P01", "42883", "42704"}  # no such table, function, type

Job = Callable[["Connection"], None]
Perform = Callable[[Job], None]  # in a transaction of the caller's


def inbox(store: Store, codec: Codec, thread_id: str) -> list[tuple[Signal, Any]]:
    """Inputs that wait for their turn, the oldest first: {"input", "run", "run_id", "graph", "queue", "when"}."""
    waiting = [signal for signal in store.signals(thread_id) if signal.name == INBOX]
    return [(signal, signal_value(codec, signal, -1)) for signal in waiting]


def has_inputs(store: Store, thread_id: str) -> bool:
    return any(signal.name == INBOX for signal in store.signals(thread_id))


def next_input(store: Store, codec: Codec, thread_id: str, now: datetime) -> tuple[Signal, Any, datetime] | None:
    """The oldest input whose time has come, or else the one whose time comes first; and when it may begin."""
    found = [(signal, item, _moment(item["when"], now)) for signal, item in inbox(store, codec, thread_id)]
    return min(found, key=lambda each: each[2], default=None)


def _moment(text: str | None, now: datetime) -> datetime:
    return now if text is None else max(now, datetime.fromisoformat(text))


class Carrier:
    """A store whose writes come with a job, if there is one, and go into the caller's transaction, if there is one."""

    def __init__(self, store: Store, job: Job | None, perform: Perform | None) -> None:
        self._store = store
        self._job = job
        self._perform = perform

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def append(
        self,
        rows: Sequence[Row],
        *,
        claim: Claim | None = None,
        snapshot: bytes | None = None,
        taken: Sequence[str] = (),
    ) -> None:
        self._carry(lambda store: store.append(rows, claim=claim, snapshot=snapshot, taken=taken))

    def send(self, signal: Signal) -> None:
        self._carry(lambda store: store.send(signal))

    def tell(self) -> None:
        """The job alone."""
        store: Any = self._store
        transaction = store.transaction()
        try:
            self._told(transaction.connection)
            transaction.commit()
        finally:
            transaction.rollback()

    def _carry(self, write: Callable[[Any], None]) -> None:
        store: Any = self._store  # SqlStore, wherever there are jobs or connections
        if self._perform is not None:
            joined = store.within(self._perform)
            write(joined)
            if self._job is not None:
                joined.perform(self._told)
        elif self._job is None:
            write(store)
        else:
            from sqlalchemy.exc import SQLAlchemyError

            transaction = store.transaction()
            try:
                self._told(transaction.connection)
                write(transaction)
            except SQLAlchemyError as error:  # of the job: a store's own errors are ours already
                transaction.raise_ours(error)
            finally:
                transaction.rollback()

    def _told(self, connection: Connection) -> None:
        from sqlalchemy.exc import ProgrammingError

        assert self._job is not None
        try:
            self._job(connection)
        except ProgrammingError as error:
            if getattr(error.orig, "sqlstate", None) not in NO_TABLES:
                raise
            fix = "Run: durable-graph db upgrade --workers"
            raise SchemaError(store=self._store.name, problem="procrastinate has no tables there", fix=fix) from error
