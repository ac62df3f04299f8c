"""What the two databases have in common: how connections are shared between threads, and how failures are told.

The rule: whatever differs between SQLite and Postgres is in `sqlite.py` and `postgres.py`, and every error of a driver
becomes one of ours in `Database.failure`. Connections are the drivers' own, and those not in use lie in a list:
SQLAlchemy's `execute` costs 5 to 15 µs and its pool 40, as much as a whole step may cost here. They are in autocommit,
so that one INSERT is one transaction. SQLAlchemy itself is imported late, with `engines.py`: a program on SQLite needs
it only where a node asks for a transaction of its own.

    Sqlite     one connection writes; readers have others and go beside it (WAL)
    Postgres   `pool_size` connections, for writers and readers

Who finds all of them busy stands in a `Line`, and shares a commit with the others there.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from durable_graph.errors import SchemaError, StoreError, StoreUnavailableError
from durable_graph.store.address import Address, display
from durable_graph.store.line import Line, Ticket
from durable_graph.store.texts import Bound
from durable_graph.store.version import SCHEMA_VERSION, VERSION_TABLE

if TYPE_CHECKING:
    from sqlalchemy import Connection

BATCH_BYTES = 1_000_000  # a batch of rows ends at the first row after so many bytes


def size_of(found: Any) -> int:
    """Of bytes. SQLite keeps anything in any column, and what was altered is for readers to refuse."""
    return len(found) if type(found) in (bytes, str) else 0


class Lost(Exception):
    """The connection is gone, not the database: open again and try once more."""


class Undone(Exception):
    """Of several statements one changed no row, so that the transaction was taken back."""

    def __init__(self, refused: int) -> None:
        super().__init__()
        self.refused = refused


class Database(ABC):
    """One open database. Once closed it stays closed; its users open another."""

    pool: Any  # SQLAlchemy's, or what can do as much of it as is used here
    begin: str  # opens a transaction that writes
    binary: ClassVar[dict[str, bool]]  # for `execute`, to get results in their shortest form

    def __init__(self, url: Address, *, places: int, idle: int) -> None:
        self.url = url
        self.name = display(url)
        self.closed = False
        self.users = 0  # stores that have it
        self._line = Line(places)
        self._idle: list[Any] = []  # connections: the one used last is taken first
        self._most_idle = idle

    def commit(self, thread_id: str, statements: Sequence[Bound]) -> int | None:
        """Commit statements about a thread if each of them changes one row; otherwise none, and the number of the one
        that does not. Who writes at the same time shares the commit and nothing else: a failure of the database fails
        all that wait for it, any other only its own."""
        mine = Ticket(thread_id, statements)
        try:
            if self._line.enter(mine):
                self._settle([mine, *mine.company])
        finally:
            self._line.leave(mine)
        if mine.error is not None:
            raise mine.error
        return mine.refused

    @abstractmethod
    def _settle(self, batch: Sequence[Ticket]) -> None:
        """Commit these. Raises what is wrong with the only one; each of several is told its own."""

    @contextmanager
    def _place(self) -> Iterator[None]:
        """To have a place for oneself."""
        mine = Ticket()
        try:
            self._line.enter(mine)
            yield
        finally:
            self._line.leave(mine)

    @abstractmethod
    def writer(self) -> AbstractContextManager[Any]:
        """A connection to write with."""

    def fetch(self, sql: str, values: Sequence[Any], sized: int | None = None) -> list[Any]:
        """A result; with the number of a column only until its values are BATCH_BYTES together."""
        with self.reader() as connection:
            return self.result(connection.execute(sql, values, **self.binary), sized)

    @abstractmethod
    def result(self, cursor: Any, sized: int | None) -> list[Any]: ...

    @abstractmethod
    def pipeline(self, connection: Any) -> AbstractContextManager[Any]:
        """Statements in here need not wait for the results of those before them."""

    def scrub(self) -> None:  # noqa: B027 - on Postgres it is for VACUUM
        """See `Store.scrub`: a WAL of SQLite has copies of pages that were overwritten in the file."""

    @abstractmethod
    def tables(self, connection: Any) -> set[str]: ...

    @abstractmethod
    def create_schema(self, connection: Any) -> None:
        """For a database without our tables: make them, or say how."""

    @abstractmethod
    def schema_change(self) -> AbstractContextManager[Connection]:
        """A SQLAlchemy transaction that no other change of the schema runs beside."""

    @abstractmethod
    def vacuum(self) -> tuple[int, int]:
        """Give back what is not used any more; bytes before and after."""

    @abstractmethod
    def explain(self, error: BaseException) -> StoreError | None:
        """The driver's error as ours; None if it is not the driver's."""

    def open(self) -> None:
        """Fail now if the database cannot be used."""
        with self.reader() as connection:
            have = self.schema_version(connection)
            if have is None:
                self.create_schema(connection)
            elif have < SCHEMA_VERSION:
                raise self.outdated(f"its schema has version {have}, this library needs {SCHEMA_VERSION}")
            self.refuse_newer(have)

    def schema_version(self, connection: Any) -> int | None:
        if VERSION_TABLE not in self.tables(connection):
            return None
        found = connection.execute(f"SELECT version_num FROM {VERSION_TABLE}").fetchone()
        if found is None:  # after a downgrade to nothing
            return None
        return int(found[0]) if found[0].isdecimal() else SCHEMA_VERSION + 1

    def refuse_newer(self, have: int | None) -> None:
        if have is not None and have > SCHEMA_VERSION:
            raise SchemaError(
                store=self.name,
                problem=f"its schema has version {have}, this library knows only {SCHEMA_VERSION}",
                fix="Upgrade the library: pip install --upgrade durable-graph",
            )

    def outdated(self, problem: str, fix: str = "Run: ") -> SchemaError:
        fix += f"durable-graph db upgrade --url '{self.name}'"
        if "***" in self.name:
            fix += " (with the password in place of ***)"
        return SchemaError(store=self.name, problem=problem, fix=fix)

    def reader(self) -> AbstractContextManager[Any]:
        """A connection of one's own for a moment."""
        return self._lent()

    @contextmanager
    def _lent(self) -> Iterator[Any]:
        """An idle connection, or another one."""
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._connect()
        sound = True
        try:
            yield connection
        except BaseException as error:
            sound = self.is_sound(connection)
            if not sound and isinstance(error, Exception):
                raise Lost from error
            raise
        finally:
            if sound:
                self._idle.append(connection)
                self._close_idle(but=0 if self.closed else self._most_idle)
            else:
                with suppress(Exception):
                    connection.close()

    def _close_idle(self, but: int) -> None:
        while len(self._idle) > but:
            with suppress(IndexError):  # somebody has just taken it
                self._idle.pop().close()

    @abstractmethod
    def _connect(self) -> Any: ...

    def is_sound(self, connection: Any) -> bool:
        """Whether the next user can have this connection after an error."""
        return True

    def is_conflict(self, error: BaseException) -> bool:
        """Whether the same may go well the next time: the database had to choose between two transactions."""
        return False

    @abstractmethod
    def connect(self) -> Connection:
        """A SQLAlchemy connection for a transaction of some length, which `Connection.begin` begins."""

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        """A writer that takes back, on any error, what was not committed. BEGIN and COMMIT are the caller's."""
        with self.writer() as connection:
            try:
                yield connection
            except BaseException:
                with suppress(Exception):  # the first error counts, and a lost connection cannot roll back
                    connection.rollback()
                raise

    def failure(self, error: BaseException) -> BaseException:
        """Any error as the one to raise."""
        if isinstance(error, Lost):
            error = error.__cause__ or error
        exc: Any = sys.modules.get("sqlalchemy.exc")  # what is not imported has raised nothing
        if exc is not None and isinstance(error, exc.DBAPIError):
            error = error.orig or error
        if (ours := self.explain(error)) is not None:
            return ours
        if exc is not None and isinstance(error, exc.TimeoutError):
            return self.unavailable(
                "no connection for a node's transaction has become free in time",
                "More nodes use runtime.connection at once than ?pool_size= in the URL allows: raise it, or lower"
                " max_concurrency.",
            )
        if isinstance(error, Lost) or (exc is not None and isinstance(error, exc.SQLAlchemyError)):
            return self.unavailable(first_line(error), "Check the database and its URL.")
        return error

    def raise_ours(self, error: BaseException) -> NoReturn:
        ours = self.failure(error)
        if ours is error:
            raise error
        raise ours from error

    def unavailable(self, problem: str, fix: str) -> StoreUnavailableError:
        return StoreUnavailableError(store=self.name, problem=problem, fix=fix)

    def close(self) -> None:
        self.closed = True
        self._close_idle(but=0)

    @abstractmethod
    def disown(self) -> None:
        """In a child process, where all that is open is the parent's: let go of what cannot stay until the end."""


def first_refused(changed: Sequence[int]) -> int | None:
    """The number of the first statement that did not change one row."""
    for number, rows in enumerate(changed):
        if rows != 1:
            return number
    return None


def first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(". ")
