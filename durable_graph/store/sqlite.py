"""SQLite: one connection writes, for all threads of the process; readers have others and go beside it (WAL)."""

from __future__ import annotations

import logging
import os
import re
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from durable_graph.errors import SchemaError, StoreError
from durable_graph.store.address import SqliteUrl, synchronous_of, timeout_of
from durable_graph.store.database import BATCH_BYTES, Database, Lost, Undone, first_line, first_refused, size_of
from durable_graph.store.line import Ticket
from durable_graph.store.texts import texts
from durable_graph.store.version import APPLICATION_ID, SCHEMA_VERSION, VERSION_TABLE

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

_log = logging.getLogger("durable_graph.store")
IDLE_READERS = 5  # connections that stay open; each has three files
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
        self._timeout = timeout_of(url)
        self._synchronous = synchronous_of(url)
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
                ticket.settle(first_refused([connection.execute(*ticket.statements[0]).rowcount]))
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
            return self.outdated(first_line(error))
        if re.match(r"(table|index) .* already exists", str(error)):
            return SchemaError(store=self.name, problem=first_line(error), fix="Name another file in the URL.")
        return self.unavailable(*_SQLITE_FAILURES.get(code, (first_line(error), "Check the file and its folder.")))

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
            refused = first_refused([connection.execute(*statement).rowcount for statement in ticket.statements])
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
