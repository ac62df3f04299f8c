"""Postgres: `pool_size` connections of a process, for writers and readers; whoever waits shares a commit."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, ClassVar

from durable_graph.errors import SchemaError, StoreError
from durable_graph.store.address import pool_size_of, prepares
from durable_graph.store.database import Database, Lost, Undone, first_line, first_refused
from durable_graph.store.line import Ticket
from durable_graph.store.partitions import size_of
from durable_graph.store.version import VERSION_TABLE

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection

_POOLED = "A pooler gives each transaction another connection, it seems: add ?prepare=off to the URL."
_POSTGRES_FIXES = {  # by SQLSTATE, or its class
    "25006": "A replica can be read; what runs or changes a thread needs the primary: name that in the URL.",
    "26000": _POOLED,  # no such prepared statement
    "2BP01": "Drop what depends on it (a view, a foreign key), and make it anew afterwards.",
    "40": "Try again: the database chose this transaction to resolve a conflict.",
    "42P05": _POOLED,  # there is one of that name already
    "42501": "Its rights end there: take a user who may, or grant more. What running graphs needs is printed by "
    "`durable-graph db grants USER`.",
    "53100": "Make room on the server's disk, then continue; nothing is half written.",
    "53300": "Allow more connections on the server, or run fewer processes.",
}
_CONFLICTS = {"40001", "40003", "40P01"}  # not serializable, unknown whether it was completed, deadlock
_POSTGRES_SCHEMA_FIXES = {
    "3F000": "The search_path in the URL names no schema that is there: CREATE SCHEMA it.",
    # LangGraph's own store has a table `checkpoints` too.
    "42P07": "Name another database, or a schema of its own: ?options=-csearch_path%3Ddurable_graph in the URL.",
}

# Law 1 for a server whose default is otherwise. A URL with options=-csynchronous_commit=off has chosen itself.
_DURABLE = """
    SELECT set_config('synchronous_commit', 'on', false) FROM pg_settings
    WHERE name = 'synchronous_commit' AND setting = 'off' AND source <> 'client'"""


_LAZY = """
    SELECT FROM pg_settings WHERE name = 'synchronous_commit' AND setting = 'off' AND NOT pg_is_in_recovery()"""


class Postgres(Database):
    begin = "BEGIN"
    binary: ClassVar[dict[str, bool]] = {"binary": True}  # as text a bytea is twice as long

    def __init__(self, url: URL) -> None:
        from durable_graph.store.engines import postgres_engine, psycopg_arguments  # late: it imports SQLAlchemy

        size, prepare = pool_size_of(url), prepares(url)
        super().__init__(url, places=size, idle=size)
        try:
            import psycopg

            from durable_graph.store.wire import Wire  # late, as it needs the driver

            self._prepare_session = self._set_up if prepare else self._check_commits
            self.engine = postgres_engine(url, size, prepare, self._prepare_session, isolation_level="AUTOCOMMIT")
            # Nodes' own transactions have other connections: to wait for one must not keep a row from being saved.
            self._nodes_engine = postgres_engine(
                url, size, prepare, self._prepare_session, isolation_level="READ COMMITTED"
            )
        except ImportError as error:
            raise self.unavailable(
                f"psycopg cannot be imported ({first_line(error)})", 'Run: pip install "durable-graph[postgres]"'
            ) from error
        self._driver, self._wire = psycopg, Wire
        self._arguments = psycopg_arguments(self.engine, prepare)

    @staticmethod
    def _set_up(connection: Any, record: object) -> None:
        before, connection.autocommit = connection.autocommit, True
        connection.execute(_DURABLE)
        connection.autocommit = before

    def _check_commits(self, connection: Any, record: object) -> None:
        """What is set for a session may be gone with its next transaction, so it has to be so already."""
        before, connection.autocommit = connection.autocommit, True
        lazy = connection.execute(_LAZY).fetchone()
        connection.autocommit = before
        if lazy is not None and "synchronous_commit" not in str(self.url.query.get("options")):
            connection.close()
            raise self.unavailable(
                "synchronous_commit is off there, so that a commit may be lost, and behind a pooler we cannot set it",
                "Let the role have it: ALTER ROLE … SET synchronous_commit = on.",
            )

    def _connect(self) -> Any:
        arguments, options = self._arguments
        connection = self._wire.connect(*arguments, **options)
        self._prepare_session(connection, None)
        connection.autocommit = True
        return connection

    def is_sound(self, connection: Any) -> bool:
        idle = self._driver.pq.TransactionStatus.IDLE
        return not connection.closed and connection.info.transaction_status == idle

    def is_conflict(self, error: BaseException) -> bool:
        return isinstance(error, self._driver.Error) and error.sqlstate in _CONFLICTS

    def connect(self) -> Connection:
        return self._nodes_engine.connect()

    def close(self) -> None:
        super().close()
        for engine in (self.engine, self._nodes_engine):
            engine.pool.dispose()

    def disown(self) -> None:
        """To close a connection is to tell the server, so from here on it speaks to nobody."""
        nobody = os.open(os.devnull, os.O_RDWR)
        for connection in self._idle:
            os.dup2(nobody, connection.fileno())
        os.close(nobody)
        self._close_idle(but=0)

    @contextmanager
    def reader(self) -> Iterator[Any]:
        with self._place(), self._lent() as connection:
            yield connection

    def writer(self) -> AbstractContextManager[Any]:
        return self.reader()

    def _settle(self, batch: Sequence[Ticket]) -> None:
        try:
            with self._lent() as connection:
                self._settle_with(connection, batch)
        except Exception as error:
            for ticket in batch:
                ticket.fail(error)
        except BaseException:  # Ctrl-C, and nobody knows whether the commit arrived
            for ticket in batch:
                ticket.fail(Lost())
            raise

    def _settle_with(self, connection: Any, batch: Sequence[Ticket]) -> None:
        if len(batch) == 1:
            self._settle_one(connection, batch[0])
            return
        try:
            self._settle_all(connection, batch)
        except (self._driver.Error, Undone):
            if not self.is_sound(connection):
                raise
            for ticket in batch:  # one of them is to blame: the others must not suffer for it
                try:
                    self._settle_one(connection, ticket)
                except self._driver.Error as error:
                    if not self.is_sound(connection):
                        raise
                    ticket.fail(error)

    def _settle_one(self, connection: Any, ticket: Ticket) -> None:
        if len(ticket.statements) == 1:
            ticket.settle(first_refused([connection.change(*ticket.statements[0])]))
            return
        try:
            self._settle_all(connection, [ticket])
        except Undone as undone:
            ticket.settle(undone.refused)

    def _settle_all(self, connection: Any, batch: Sequence[Ticket]) -> None:
        batch = sorted(batch, key=lambda ticket: ticket.thread_id)  # else two might wait for each other's threads
        try:
            if connection.takes_batches and _are_alike(batch):
                outcome = self._execute_alike(connection, batch)
            else:
                outcome = self._execute(connection, batch)
        except BaseException:
            with suppress(Exception):
                connection.rollback()
            raise
        for ticket, refused in zip(batch, outcome, strict=True):
            ticket.settle(refused)

    def _execute_alike(self, connection: Any, batch: Sequence[Ticket]) -> list[int | None]:
        """One statement for many values, in a single round trip: what is sent until then is a transaction."""
        sql, _ = batch[0].statements[0]
        changed = connection.change_all(sql, [ticket.statements[0][1] for ticket in batch])
        return [first_refused([rows]) for rows in changed]

    def _execute(self, connection: Any, batch: Sequence[Ticket]) -> list[int | None]:
        """In two round trips: whether to commit depends on how all statements of a ticket went."""
        changed = iter(connection.begin([each for ticket in batch for each in ticket.statements]))
        outcome = [first_refused([next(changed) for _ in ticket.statements]) for ticket in batch]
        for ticket, refused in zip(batch, outcome, strict=True):
            if refused is not None and len(ticket.statements) > 1:
                raise Undone(refused)
        connection.end()
        return outcome

    def pipeline(self, connection: Any) -> AbstractContextManager[Any]:
        return connection.pipeline() if connection.pipelines else nullcontext()

    def result(self, cursor: Any, sized: int | None) -> list[Any]:
        return cursor.fetchall()  # type: ignore[no-any-return]  # the SQL itself stops at BATCH_BYTES

    def vacuum(self) -> tuple[int, int]:
        """Room for new rows; the files become shorter only where their ends are empty. Nobody has to wait."""
        from durable_graph.store.tables import metadata  # late: it imports SQLAlchemy

        names = list(metadata.tables)
        with self.reader() as connection:
            before = size_of(connection, names)
            connection.execute(f"VACUUM {', '.join(names)}")
            return before, size_of(connection, names)

    def tables(self, connection: Any) -> set[str]:
        found = connection.execute("SELECT to_regclass(%s) IS NOT NULL", [VERSION_TABLE]).fetchone()
        return {VERSION_TABLE} if found[0] else set()

    @contextmanager
    def schema_change(self) -> Iterator[Connection]:
        from durable_graph.store.tables import version  # late: it imports SQLAlchemy

        with self.engine.connect() as connection:
            connection = connection.execution_options(isolation_level="READ COMMITTED")
            with connection.begin():
                version.create(connection, checkfirst=True)
                connection.exec_driver_sql(f"LOCK TABLE {VERSION_TABLE} IN EXCLUSIVE MODE")
                yield connection

    def create_schema(self, connection: Any) -> None:
        raise self.outdated("it has no tables of this library yet")

    def explain(self, error: BaseException) -> StoreError | None:
        if not isinstance(error, self._driver.Error):
            return None
        state, problem = error.sqlstate or "", first_line(error)
        if state == "25006":
            problem = f"it is read-only: {problem}"
        if state in ("42P01", "42703"):  # no such table, column
            return self.outdated(problem)
        if fix := _POSTGRES_SCHEMA_FIXES.get(state):
            return SchemaError(store=self.name, problem=problem, fix=fix)
        fix = _POSTGRES_FIXES.get(state) or _POSTGRES_FIXES.get(state[:2])
        return self.unavailable(problem, fix or "Check that the server runs and that the URL names it.")


def _are_alike(batch: Sequence[Ticket]) -> bool:
    """Whether all of them want the same statement, and nothing else."""
    sql = batch[0].statements[0][0]
    return all(len(ticket.statements) == 1 and ticket.statements[0][0] is sql for ticket in batch)
