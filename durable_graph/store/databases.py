"""The two databases: how each is addressed, opened, checked, shared between threads, and how it fails.

The rule: whatever differs between SQLite and Postgres is in this file, and every error of a driver becomes one of
ours in `Database.failure`. Connections are the drivers' own, and those not in use lie in a list: SQLAlchemy's
`execute` costs 5 to 15 µs and its pool 40, as much as a whole step may cost here. They are in autocommit, so that one
INSERT is one transaction. SQLAlchemy itself is imported late, with `engines.py`: a program on SQLite needs it only
where a node asks for a transaction of its own.

    Sqlite     one connection writes; readers have others and go beside it (WAL)
    Postgres   `pool_size` connections, for writers and readers

Who finds all of them busy stands in a `Line`, and shares a commit with the others there.
"""

from __future__ import annotations

import logging
import math
import os
import re
import sqlite3
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, TypeAlias
from urllib.parse import parse_qsl, quote, unquote, urlencode

from durable_graph.errors import ArgumentError, SchemaError, StoreError, StoreUnavailableError
from durable_graph.store.line import Line, Ticket
from durable_graph.store.texts import Bound, texts
from durable_graph.store.version import APPLICATION_ID, SCHEMA_VERSION, VERSION_TABLE

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection, Engine

SYNCHRONOUS = ("FULL", "EXTRA", "NORMAL")  # not OFF: after a power cut the file may be damaged, not only shorter
_log = logging.getLogger("durable_graph")
BATCH_BYTES = 1_000_000  # a batch of rows ends at the first row after so many bytes
IDLE_READERS = 5  # connections to SQLite that stay open; each has three files
POOL_SIZE = 8  # connections of one process to Postgres, which allows 100 in all unless told otherwise; ?pool_size=


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


# --- addresses --------------------------------------------------------------------------------


Options: TypeAlias = Mapping[str, str | tuple[str, ...]]  # several values: an option was given more than once


@dataclass(frozen=True)
class SqliteUrl:
    """A file and its options, under the names that they have in SQLAlchemy's URL."""

    database: str  # an absolute path
    query: Options

    def __str__(self) -> str:
        options = urlencode(sorted(self.query.items()), doseq=True)
        return f"sqlite:///{quote(self.database, safe=' +/')}" + (f"?{options}" if options else "")


Address: TypeAlias = "SqliteUrl | URL"


def parse_url(url: str | URL) -> Address:
    """The URL with its driver spelled out and an absolute path, or an ArgumentError that does not quote it: it may
    hold a password."""
    if isinstance(url, str) and (found := _SQLITE.fullmatch(url)):
        host, path, options = found.groups(default="")
        return _sqlite_url(host, unquote(path), _options(options))
    from durable_graph.store.engines import read_url  # late: it imports SQLAlchemy

    parsed = read_url(url)
    if parsed is None:
        raise _wrong_url(
            "cannot be read as a database URL",
            "Write sqlite:///runs.db, or postgresql+psycopg://user:password@host/database with special characters"
            " in the password percent-encoded.",
        )
    if parsed.drivername in ("sqlite", "sqlite+pysqlite"):
        return _sqlite_url(parsed.host, parsed.database, parsed.query)
    if parsed.drivername in ("postgresql", "postgresql+psycopg", "postgres"):
        _pool_size(parsed)
        return parsed.set(drivername="postgresql+psycopg")
    raise _wrong_url(
        f"{parsed.drivername!r} is no database this library knows",
        "Use sqlite:///… or postgresql+psycopg://… (psycopg 3 is the only driver for Postgres).",
    )


_SQLITE = re.compile(r"sqlite(?:\+pysqlite)?://([^/?@]*)(?:/([^?]*))?(?:\?(.*))?", re.DOTALL)


def _options(text: str) -> Options:
    options: dict[str, str | tuple[str, ...]] = {}
    for name, value in parse_qsl(text):
        options[name] = (*options[name], value) if name in options else value
    return options


def _sqlite_url(host: str | None, path: str | None, options: Options) -> SqliteUrl:
    if host:
        raise _wrong_url(f"{host!r} stands where a host would", "A path follows three slashes: sqlite:///runs.db")
    if not path or path == ":memory:":
        raise _wrong_url(
            "is a database in memory, and nothing in it would survive",
            "Name a file, sqlite:///runs.db, or use compile(checkpointer=False).",
        )
    if unknown := sorted(options.keys() - {"synchronous", "timeout"}):
        raise _wrong_url(f"{unknown[0]!r} is no option of SQLite here", "Options are synchronous and timeout.")
    return SqliteUrl(str(Path(path).absolute()), options)


def _synchronous(url: SqliteUrl) -> str:
    given = url.query.get("synchronous", "FULL")
    if isinstance(given, str) and given.upper() in SYNCHRONOUS:
        return given.upper()
    raise _wrong_url(f"synchronous={given!r} is not possible", f"Choose one of {', '.join(SYNCHRONOUS)}.")


def _timeout(url: SqliteUrl) -> float:
    given = url.query.get("timeout", "5")
    with suppress(TypeError, ValueError):
        seconds = float(given)  # type: ignore[arg-type]  # a tuple, when given twice, is a TypeError
        if seconds >= 0 and math.isfinite(seconds):
            return seconds
    raise _wrong_url(f"timeout={given!r} is not possible", "Give seconds: ?timeout=5")


def _pool_size(url: URL) -> int:
    given = url.query.get("pool_size", str(POOL_SIZE))
    if isinstance(given, str) and given.isdecimal() and 1 <= int(given) <= 1000:
        return int(given)
    raise _wrong_url(f"pool_size={given!r} is not possible", "Give a number of connections: ?pool_size=4")


def _wrong_url(problem: str, fix: str) -> ArgumentError:
    return ArgumentError(argument="database URL", problem=problem, fix=fix)


def display(url: Address) -> str:
    """The URL for messages: no password, in the query neither."""
    if isinstance(url, SqliteUrl):
        return str(url)
    shown = {key: "***" if "password" in key.lower() else value for key, value in url.query.items()}
    return url.set(query=shown).render_as_string(hide_password=True)


def backend_of(url: Address) -> str:
    return "sqlite" if isinstance(url, SqliteUrl) else "postgresql"


def database_at(url: Address) -> Sqlite | Postgres:
    return Sqlite(url) if isinstance(url, SqliteUrl) else Postgres(url)


# --- what both have in common -----------------------------------------------------------------


class Database(ABC):
    """One open database. Once closed it stays closed; its users open another."""

    pool: Any  # SQLAlchemy's, or what can do as much of it as is used here
    begin: str  # opens a transaction that writes
    binary: ClassVar[dict[str, bool]]  # for `execute`, to get results in their shortest form

    def __init__(self, url: Address, *, places: int, idle: int) -> None:
        self.url = url
        self.name = display(url)
        self.closed = False
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
            return self.unavailable(_first_line(error), "Check the database and its URL.")
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


def _refused(changed: Sequence[int]) -> int | None:
    """The number of the first statement that did not change one row."""
    for number, rows in enumerate(changed):
        if rows != 1:
            return number
    return None


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(". ")


# --- SQLite -----------------------------------------------------------------------------------

_SQLITE_FAILURES = {  # by primary result code: what is wrong, what to do
    sqlite3.SQLITE_BUSY: (
        "another connection has held the write lock for longer than the timeout",
        "End that transaction, or wait longer: ?timeout=30 in the URL, in seconds.",
    ),
    sqlite3.SQLITE_READONLY: (
        "it can be read but not written",
        "Give this user write permission to the file and its folder.",
    ),
    sqlite3.SQLITE_FULL: ("the disk is full", "Make room, then continue; nothing is half written."),
    sqlite3.SQLITE_CORRUPT: ("the file is damaged", "Restore it from a backup."),
    sqlite3.SQLITE_IOERR: ("the disk reports an error", "Check the disk, then continue; nothing is half written."),
}


WAL_COMMITS = 32  # after so many the WAL gets its whole length; a run of a few steps does without
WAL_FRAMES = 1100  # that it has then: SQLite begins it anew at the first commit after 1,000


class Sqlite(Database):
    begin = "BEGIN IMMEDIATE"  # asks for the write lock at once, which is when SQLite can still wait for it
    binary: ClassVar[dict[str, bool]] = {}

    def __init__(self, url: SqliteUrl) -> None:
        self._path = Path(url.database)
        super().__init__(url, places=1, idle=0 if self._is_frozen() else IDLE_READERS)
        self._timeout = _timeout(url)
        self._synchronous = _synchronous(url)
        self._writer: sqlite3.Connection | None = None
        self._commits = 0  # since this process began to write, or made the WAL empty
        self._engine: Engine | None = None
        self._making = threading.Lock()

    @property
    def engine(self) -> Engine:
        """For transactions of nodes and migrations."""
        from durable_graph.store.engines import sqlite_engine  # late: it imports SQLAlchemy

        with self._making:
            if self._engine is None:
                self._engine = sqlite_engine(self._connect, self.begin)
            return self._engine

    def _connect(self) -> sqlite3.Connection:
        path, uri = str(self._path), False
        if self._is_frozen():
            path, uri = f"{self._path.as_uri()}?immutable=1", True
        connection = sqlite3.connect(
            path, timeout=self._timeout, isolation_level=None, check_same_thread=False, uri=uri
        )
        try:
            connection.execute(f"PRAGMA synchronous={self._synchronous}")
            connection.execute("PRAGMA secure_delete=ON")  # zeros in place of what was deleted
            if self._synchronous != "NORMAL":
                connection.execute("PRAGMA fullfsync=ON")  # macOS: there a plain fsync stops at the drive's cache
        except BaseException:
            connection.close()
            raise
        return connection

    def _is_frozen(self) -> bool:
        """A file on a read-only medium, where SQLite cannot make the files beside it that WAL needs: it must be told
        that nobody is writing. Such connections are not kept, as somebody may begin to, from elsewhere."""
        return (
            self._path.is_file()
            and not os.access(self._path.parent, os.W_OK, effective_ids=os.access in os.supports_effective_ids)
            and not Path(f"{self._path}-wal").exists()
        )

    def is_sound(self, connection: Any) -> bool:
        return not connection.in_transaction

    def connect(self) -> Connection:
        return self.engine.connect()

    # --- writing

    @contextmanager
    def writer(self) -> Iterator[Any]:
        with self._place():
            yield self._free_writer()

    def _free_writer(self) -> sqlite3.Connection:
        """By whoever has the place."""
        connection = self._writer or self._open_writer()
        if connection.in_transaction:
            problem = "a signal handler or finalizer came in the midst of a commit of its thread, and wants to write"
            raise self.unavailable(problem, "Let it note what to do, and do it later.")
        return connection

    def _open_writer(self) -> sqlite3.Connection:
        if self.closed:
            raise Lost
        if self._is_frozen():
            raise self.unavailable(*_SQLITE_FAILURES[sqlite3.SQLITE_READONLY])
        connection = self._connect()
        try:
            self._use_wal(connection)
        except BaseException:
            connection.close()
            raise
        self._writer = connection
        return connection

    def _use_wal(self, connection: sqlite3.Connection) -> None:
        deadline = time.monotonic() + self._timeout
        while True:  # SQLite does not wait by itself when two connections switch a new file to WAL
            try:
                mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
                break
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        if mode != "wal":
            raise self.unavailable("its file system cannot share memory", "Move the file to a local disk.")

    def _lengthen_wal(self, connection: sqlite3.Connection) -> None:
        """Let the WAL have the length that it will have anyway. A commit that makes it longer takes twice the time of
        one that writes over what is there (390 and 190 microseconds on ext4), as the new length has to be durable, too.

        SQLite reads a WAL as far as its frames bear the salt of its header, so zeros after them are nothing to it
        (sqlite.org/fileformat2.html, 4.1). Nobody adds frames meanwhile, as we have the write lock; and it holds no
        lock on this file that closing it could break.
        """
        wal, frame = Path(f"{self._path}-wal"), 24 + connection.execute("PRAGMA page_size").fetchone()[0]
        try:
            connection.execute(self.begin)
            with wal.open("r+b") as file:
                length = file.seek(0, os.SEEK_END)
                missing = 32 + WAL_FRAMES * frame - length
                try:
                    file.write(bytes(max(0, missing)))
                    file.flush()
                    os.fsync(file.fileno())
                except OSError:
                    file.truncate(length)  # what room there was is for rows
                    raise
        except (OSError, sqlite3.OperationalError) as error:  # nothing is lost but time
            _log.debug("the WAL of %s keeps its length: %s", self.name, error)
        finally:
            if connection.in_transaction:
                connection.rollback()

    def _settle(self, batch: Sequence[Ticket]) -> None:
        connection = self._free_writer()
        self._commits += 1
        if self._commits == WAL_COMMITS and self._synchronous != "NORMAL":
            self._lengthen_wal(connection)
        if len(batch) == 1:
            ticket = batch[0]
            if len(ticket.statements) == 1:
                ticket.settle(_refused([connection.execute(*ticket.statements[0]).rowcount]))
            else:
                _settle_whole(connection, ticket)
            return
        try:
            _settle_all(connection, batch)
        except sqlite3.OperationalError as error:  # of the database, so it would meet each of them
            for ticket in batch:
                ticket.fail(error)
        except Exception:  # of one of them: the others must not suffer for it
            for ticket in batch:
                try:
                    _settle_whole(connection, ticket)
                except Exception as error:
                    ticket.fail(error)

    def pipeline(self, connection: Any) -> AbstractContextManager[Any]:
        return nullcontext()

    def scrub(self) -> None:
        with self.writer() as connection, suppress(sqlite3.Error):  # what is deleted is deleted
            connection.execute("PRAGMA busy_timeout=0")  # who reads just now must not hold up all that write
            try:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                self._commits = 0
            finally:
                connection.execute(f"PRAGMA busy_timeout={int(self._timeout * 1000)}")

    # --- reading

    def result(self, cursor: Any, sized: int | None) -> list[Any]:
        rows, total = [], 0
        try:
            for row in cursor:
                rows.append(row)
                total += 0 if sized is None else size_of(row[sized])
                if total >= BATCH_BYTES:
                    break
        finally:
            cursor.close()  # ends the read transaction
        return rows

    def vacuum(self) -> tuple[int, int]:
        """Writes the file anew, which takes as much room again meanwhile and keeps every other writer waiting."""
        with self.writer() as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            before = self._bytes()
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            self._commits = 0
            return before, self._bytes()

    def _bytes(self) -> int:
        files = self._path, Path(f"{self._path}-wal")
        return sum(file.stat().st_size for file in files if file.exists())

    # --- the schema

    def tables(self, connection: Any) -> set[str]:
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}

    def create_schema(self, connection: Any) -> None:
        self._refuse_foreign(connection)
        with self.transaction() as writer:
            writer.execute(self.begin)
            if self.schema_version(writer) is None:  # another process may have been here meanwhile
                self._refuse_foreign(writer)
                for statement in texts("sqlite")["creation"].split(";"):
                    writer.execute(statement)
                writer.execute(f"PRAGMA application_id={APPLICATION_ID}")
                writer.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
            writer.execute("COMMIT")

    def schema_change(self) -> AbstractContextManager[Connection]:
        return self.engine.begin()

    def _refuse_foreign(self, connection: Any) -> None:
        tables = self.tables(connection)
        if VERSION_TABLE in tables:  # made by another process just now, or left by a downgrade
            return
        (owner,) = connection.execute("PRAGMA application_id").fetchone()
        if tables or owner not in (0, APPLICATION_ID):
            fix = "Name another file in the URL. To have this library's tables beside those in it: "
            raise self.outdated("it is a database of another application", fix)

    # --- errors

    def explain(self, error: BaseException) -> StoreError | None:
        if not isinstance(error, sqlite3.Error):
            return None
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF  # the rest is the extended code
        if code == sqlite3.SQLITE_NOTADB:
            return SchemaError(store=self.name, problem="it is no SQLite file", fix="Name another file in the URL.")
        if code == sqlite3.SQLITE_CANTOPEN:
            return self.unavailable(*self._cannot_open())
        if re.match(r"no such (table|column)|table .* has no column", str(error)):
            return self.outdated(_first_line(error))
        if re.match(r"(table|index) .* already exists", str(error)):
            return SchemaError(store=self.name, problem=_first_line(error), fix="Name another file in the URL.")
        return self.unavailable(*_SQLITE_FAILURES.get(code, (_first_line(error), "Check the file and its folder.")))

    def _cannot_open(self) -> tuple[str, str]:
        folder = self._path.parent
        if not folder.is_dir():
            return f"the folder {folder} does not exist", "Create it, or correct the URL."
        if self._path.is_dir():
            return "it is a folder", "Name a file in the URL."
        return "the file cannot be opened", f"Give this user permission to it and to the folder {folder}."

    def close(self) -> None:
        with self._place():
            super().close()
            if self._engine is not None:
                self._engine.pool.dispose()
            writer, self._writer = self._writer, None
            if writer is not None:
                writer.close()

    def disown(self) -> None:
        """All of it can stay."""


def _settle_whole(connection: sqlite3.Connection, ticket: Ticket) -> None:
    """In a transaction of its own."""
    try:
        _settle_all(connection, [ticket])
    except Undone as undone:
        ticket.settle(undone.refused)


def _settle_all(connection: sqlite3.Connection, batch: Sequence[Ticket]) -> None:
    outcome: list[int | None] = []
    try:
        connection.execute("BEGIN IMMEDIATE")
        for ticket in batch:
            refused = _refused([connection.execute(*statement).rowcount for statement in ticket.statements])
            if refused is not None and len(ticket.statements) > 1:
                raise Undone(refused)
            outcome.append(refused)
        connection.execute("COMMIT")
    except Exception:
        outcome.clear()
        raise
    finally:  # Ctrl-C comes most likely at the end of COMMIT, which is when Python looks for it
        if connection.in_transaction:
            connection.rollback()
        elif len(outcome) == len(batch):
            for ticket, refused in zip(batch, outcome, strict=True):
                ticket.settle(refused)


# --- Postgres ---------------------------------------------------------------------------------

_POSTGRES_FIXES = {  # by SQLSTATE, or its class
    "25006": "It is read-only, a standby perhaps: name the primary in the URL.",
    "40": "Try again: the database chose this transaction to resolve a conflict.",
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


class Postgres(Database):
    begin = "BEGIN"
    binary: ClassVar[dict[str, bool]] = {"binary": True}  # as text a bytea is twice as long

    def __init__(self, url: URL) -> None:
        from durable_graph.store.engines import postgres_engine, psycopg_arguments  # late: it imports SQLAlchemy

        size = _pool_size(url)
        super().__init__(url, places=size, idle=size)
        try:
            import psycopg

            from durable_graph.store.wire import Wire  # late, as it needs the driver

            self.engine = postgres_engine(url, size, self._set_up, isolation_level="AUTOCOMMIT")
            # Nodes' own transactions have other connections: to wait for one must not keep a row from being saved.
            self._nodes_engine = postgres_engine(url, size, self._set_up, isolation_level="READ COMMITTED")
        except ImportError as error:
            raise self.unavailable(
                f"psycopg cannot be imported ({_first_line(error)})", 'Run: pip install "durable-graph[postgres]"'
            ) from error
        self._driver, self._wire = psycopg, Wire
        self._arguments = psycopg_arguments(self.engine)

    @staticmethod
    def _set_up(connection: Any, record: object) -> None:
        before, connection.autocommit = connection.autocommit, True
        connection.execute(_DURABLE)
        connection.autocommit = before

    def _connect(self) -> Any:
        arguments, options = self._arguments
        connection = self._wire.connect(*arguments, **options)
        self._set_up(connection, None)
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
            ticket.settle(_refused([connection.change(*ticket.statements[0])]))
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
        return [_refused([rows]) for rows in changed]

    def _execute(self, connection: Any, batch: Sequence[Ticket]) -> list[int | None]:
        """In two round trips: whether to commit depends on how all statements of a ticket went."""
        changed = iter(connection.begin([each for ticket in batch for each in ticket.statements]))
        outcome = [_refused([next(changed) for _ in ticket.statements]) for ticket in batch]
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
        sizes = " + ".join(f"pg_total_relation_size('{name}')" for name in names)
        with self.reader() as connection:
            (before,) = connection.execute(f"SELECT {sizes}").fetchone()
            connection.execute(f"VACUUM {', '.join(names)}")
            (after,) = connection.execute(f"SELECT {sizes}").fetchone()
        return int(before), int(after)

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
        state, problem = error.sqlstate or "", _first_line(error)
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
