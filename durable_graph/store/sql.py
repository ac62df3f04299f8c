"""The store in SQL: one definition of each statement, for SQLite and Postgres.

The rule: `SqlStore` says what is read and written, `Statements` holds the SQL, made once from the tables; how a
database is opened, shared between threads and fails is in `databases.py`. The hot path is `append` of one row: one
prepared INSERT that carries its own fence, and one commit.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from typing import Any, TypeAlias, TypeVar

from sqlalchemy import (
    CTE,
    URL,
    BigInteger,
    BindParameter,
    Column,
    ColumnElement,
    Dialect,
    Select,
    Table,
    Text,
    bindparam,
    delete,
    event,
    exists,
    func,
    literal_column,
    or_,
    select,
    true,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.sql import ClauseElement

from durable_graph.errors import ArgumentError, CallError, FencedError, StoreError, ThreadExistsError
from durable_graph.store import (
    Claim,
    Entry,
    Origin,
    Row,
    Signal,
    Size,
    Stub,
    Thread,
    check_claim,
    check_entry,
    check_id,
    check_item,
    check_leases,
    check_row,
    check_text,
    origin_of,
)
from durable_graph.store.databases import BATCH_BYTES, Database, Lost, database_at, display, parse_url
from durable_graph.store.tables import cache as kept
from durable_graph.store.tables import checkpoints, signals, snapshots, stubs, threads

BATCH_ROWS = 500
PURGE_ROWS = 100  # expired entries that leave the cache, at most, whenever something is put in
BATCH_LEASES = 512  # that one statement renews
MAX_STEP = 2**63 - 1  # what a database takes
BODY = Row._fields.index("body")

Bound: TypeAlias = tuple[str, Sequence[Any]]  # a statement and its values
Result = TypeVar("Result")


class SqlStore:
    """Threads in a SQLite file or a Postgres database. Opens at first use; any thread may use it."""

    def __init__(self, url: str | URL) -> None:
        self._url = parse_url(url)
        self.name = display(self._url)
        self.exclusive = self._url.get_backend_name() == "sqlite"
        self._sql = statements(self._url.get_backend_name())
        self._database: Database | None = None
        self._opening = threading.RLock()
        self._finalizer: weakref.finalize[..., SqlStore] | None = None
        _stores.add(self)

    # --- writing

    def append(
        self,
        rows: Sequence[Row],
        *,
        claim: Claim | None = None,
        snapshot: bytes | None = None,
        taken: Sequence[str] = (),
    ) -> None:
        for row in rows:
            check_row(row)
        if len(rows) == 1 and claim is None and snapshot is None and not taken:
            self._run(self._append_one, rows[0], again=self._append_one_again)
        elif rows:
            self._run(self._append_all, rows, claim, snapshot, taken, again=self._append_all_again)
        else:
            fix = "Use change_thread() for a claim alone."
            raise ArgumentError(argument="rows", problem="there are none to append", fix=fix)

    def _append_one(self, database: Database, row: Row) -> None:
        if not database.insert(self._sql.append.text, (*row, row.thread_id, row.epoch)):
            raise _fenced(row)

    def _append_all(
        self,
        database: Database,
        rows: Sequence[Row],
        claim: Claim | None,
        snapshot: bytes | None,
        taken: Sequence[str],
    ) -> None:
        planned = list(self.plan(rows, claim, snapshot, taken))
        with database.transaction() as connection:
            with database.pipeline(connection):
                connection.execute(database.begin)
                cursors = [connection.execute(*statement) for statement, _ in planned]
            for cursor, (_, row) in zip(cursors, planned, strict=True):
                if cursor.rowcount != 1:
                    raise _fenced(row)
            connection.execute("COMMIT")

    def plan(
        self, rows: Sequence[Row], claim: Claim | None, snapshot: bytes | None, taken: Sequence[str]
    ) -> Iterator[tuple[Bound, Row]]:
        """What a transaction executes, and the row to name if that changes nothing."""
        last = rows[-1]
        if claim is not None:
            yield self._sql.claim(last.thread_id, claim), rows[0]
        origin = origin_of(rows[0], claim)
        if origin is not None:  # lest it is pruned before our commit
            yield self._sql.lock.bind(thread_id=origin), rows[0]
            yield self._sql.append_fork.bind(**rows[0]._asdict(), origin=origin), rows[0]
            rows = rows[1:]
        for row in rows:
            yield (self._sql.append.text, (*row, row.thread_id, row.epoch)), row
        if snapshot is not None:
            yield self._sql.put_snapshot.bind(thread_id=last.thread_id, step=last.step, state=snapshot), last
        for signal in taken:
            yield self._sql.take_signal.bind(thread_id=last.thread_id, id=signal), last

    def change_thread(self, thread_id: str, claim: Claim) -> bool:
        return self._run(self._change_thread, thread_id, claim, again=self._change_thread_again)

    def _change_thread(self, database: Database, thread_id: str, claim: Claim) -> bool:
        statement = self._sql.claim(thread_id, claim)
        with database.writer() as connection:
            return bool(connection.execute(*statement).rowcount == 1)

    def renew(self, leases: Sequence[tuple[str, str]], expires_at: str) -> None:
        check_leases(leases, expires_at)
        for start in range(0, len(leases), BATCH_LEASES):
            self._run(self._renew, leases[start : start + BATCH_LEASES], expires_at)

    def _renew(self, database: Database, leases: Sequence[tuple[str, str]], expires_at: str) -> None:
        with database.writer() as connection:
            connection.execute(*self._sql.renew(leases, expires_at))

    def send(self, signal: Signal) -> None:
        check_id(signal.thread_id)
        check_text("name", signal.name)
        self._run(self._send, signal)

    def _send(self, database: Database, signal: Signal) -> None:
        with database.writer() as connection:
            connection.execute(*self._sql.send.bind(**signal._asdict()))

    def signals(self, thread_id: str) -> list[Signal]:
        check_id(thread_id)
        return [
            Signal._make(found) for found in self._run(Database.fetch, *self._sql.signals.bind(thread_id=thread_id))
        ]

    def delete(self, thread_id: str) -> bool:
        check_id(thread_id)
        return self._run(self._delete, thread_id)

    def _delete(self, database: Database, thread_id: str) -> bool:
        with database.transaction() as connection:
            connection.execute(database.begin)
            called = [name for (name,) in connection.execute(*self._sql.called.bind(thread_id=thread_id)).fetchall()]
            for name in called:
                self._remove(connection, name)
            found = self._remove(connection, thread_id)
            connection.execute("COMMIT")
        return bool(found[0])

    def called(self, thread_id: str) -> list[str]:
        check_id(thread_id)
        return [name for (name,) in self._run(Database.fetch, *self._sql.called.bind(thread_id=thread_id))]

    def restore(self, items: Iterable[Thread | Stub | Row | Signal]) -> None:
        self._run(self._restore, items, again=self._restore_again)

    def _restore(self, database: Database, items: Iterable[Thread | Stub | Row | Signal]) -> None:
        with database.transaction() as connection:
            connection.execute(database.begin)
            first, there = True, ""  # the thread that was here before
            for item in items:
                check_item(item)
                if isinstance(item, Thread):
                    if not connection.execute(*self._sql.restore_thread.bind(**item._asdict())).rowcount:
                        there = item.thread_id
                        connection.execute(*self._sql.lock.bind(thread_id=there))  # lest it is pruned before our commit
                    if first and there:
                        raise ThreadExistsError(thread_id=there)
                    first = False
                elif item.thread_id != there:
                    connection.execute(*self._sql.restore[type(item)].bind(**item._asdict()))
                elif isinstance(item, Row):
                    found = connection.execute(*self._sql.hash.bind(thread_id=there, step=item.step)).fetchall()
                    if [bytes(one) for (one,) in found] != [item.hash]:
                        raise ThreadExistsError(thread_id=there)
            connection.execute("COMMIT")

    def _restore_again(self, database: Database, items: Iterable[Thread | Stub | Row | Signal]) -> None:
        raise database.unavailable(
            "the connection was lost while a thread was put back", "Look whether it is there; if not, import it again."
        )

    def transaction(self) -> SqlTransaction:
        return self._run(lambda database: SqlTransaction(self, database))

    def has(self, row: Row) -> bool:
        """Whether exactly this row is stored."""
        return list(self.rows(row.thread_id, after=row.step - 1, until=row.step)) == [row]

    def prune(self, thread_id: str, epoch: int) -> bool:
        check_id(thread_id)
        return self._run(self._prune, thread_id, epoch)

    def _prune(self, database: Database, thread_id: str, epoch: int) -> bool:
        with database.transaction() as connection:
            connection.execute(database.begin)
            family = [name for (name,) in connection.execute(*self._sql.family.bind(thread_id=thread_id)).fetchall()]
            free = self._locked(connection, thread_id, epoch, family)
            if free and not connection.execute(*self._sql.forks.bind(thread_id=thread_id)).fetchall():
                for name in family:
                    self._remove(connection, name)
                connection.execute("COMMIT")
                return True
            connection.execute("ROLLBACK")
            return False

    def _locked(self, connection: Any, thread_id: str, epoch: int, family: Sequence[str]) -> bool:
        """Who wants to run or fork one of these has to wait for our commit. Whether the epoch is this one: it is the
        next one now."""
        values = {"thread_id": thread_id, "epoch": epoch, "next_epoch": epoch + 1}
        if connection.execute(*self._sql.next_epoch.bind(**values)).rowcount != 1:
            return False
        for name in family:
            connection.execute(*self._sql.lock.bind(thread_id=name))
        return True

    def cut(self, stub: Stub, epoch: int, *, alone: bool = False) -> bool:
        check_id(stub.thread_id)
        return self._run(self._cut, stub, epoch, alone)

    def _cut(self, database: Database, stub: Stub, epoch: int, alone: bool) -> bool:
        with database.transaction() as connection:
            connection.execute(database.begin)
            free = self._locked(connection, stub.thread_id, epoch, ())
            forks = connection.execute(*self._sql.forks.bind(thread_id=stub.thread_id)).fetchall() if free else ()
            if free and all(name != stub.thread_id or step >= stub.step for _, name, step in forks):
                connection.execute(*self._sql.put_stub.bind(**stub._asdict()))
                if alone:
                    connection.execute(*self._sql.no_fork.bind(thread_id=stub.thread_id))
                connection.execute("COMMIT")
                return True
            connection.execute("ROLLBACK")
            return False

    def trim(self, thread_id: str, *, until: int) -> None:
        check_id(thread_id)
        self._run(self._trim, thread_id, until)

    def _trim(self, database: Database, thread_id: str, until: int) -> None:
        with database.transaction() as connection:
            connection.execute(database.begin)
            for statement in self._sql.trim:
                connection.execute(*statement.bind(thread_id=thread_id, until=_clamp(until)))
            connection.execute("COMMIT")

    def vacuum(self) -> tuple[int, int]:
        return self._run(_vacuum)

    def _remove(self, connection: Any, thread_id: str) -> list[int]:
        return [connection.execute(*one.bind(thread_id=thread_id)).rowcount for one in self._sql.delete]

    # When a connection is lost, nobody knows whether the commit arrived. Then the same is tried again: if that is
    # refused although exactly this is stored, it was the first attempt that stored it.

    def _append_one_again(self, database: Database, row: Row) -> None:
        self._append_all_again(database, [row], None, None, ())

    def _append_all_again(
        self,
        database: Database,
        rows: Sequence[Row],
        claim: Claim | None,
        snapshot: bytes | None,
        taken: Sequence[str],
    ) -> None:
        try:
            self._append_all(database, rows, claim, snapshot, taken)
        except FencedError:
            last = rows[-1]  # it stands for all of them: they came in one transaction
            if self._batch(database, self._sql.rows, last.thread_id, last.step - 1, last.step, 1) != [last]:
                raise

    def _change_thread_again(self, database: Database, thread_id: str, claim: Claim) -> bool:
        if self._change_thread(database, thread_id, claim):
            return True
        found = self._thread(database, thread_id)
        return found is not None and claim.values.items() <= found._asdict().items()

    # --- reading

    def thread(self, thread_id: str) -> Thread | None:
        check_id(thread_id)
        return self._run(self._thread, thread_id)

    def _thread(self, database: Database, thread_id: str) -> Thread | None:
        found = database.fetch(*self._sql.thread.bind(thread_id=thread_id))
        return Thread._make(found[0]) if found else None

    def threads(self, *, status: str | None = None, graph: str | None = None, limit: int | None = None) -> list[Thread]:
        given = {"status": status, "graph": graph}
        wanted = {column: value for column, value in given.items() if value is not None}
        for argument, value in wanted.items():
            check_text(argument, value)
        statement = self._sql.threads(tuple(wanted)).bind(**wanted, count=_count(limit))
        return [Thread._make(found) for found in self._run(Database.fetch, *statement)]

    def running(self, graph: str, *, after: tuple[str, str] = ("", ""), limit: int) -> list[Thread]:
        check_text("graph", graph)
        updated_at, thread_id = after
        statement = self._sql.running.bind(
            status="running", graph=graph, updated_at=updated_at, thread_id=thread_id, count=_count(limit)
        )
        return [Thread._make(found) for found in self._run(Database.fetch, *statement)]

    def rows(
        self,
        thread_id: str,
        *,
        after: int = -1,
        until: int | None = None,
        newest_first: bool = False,
        limit: int | None = None,
    ) -> Iterator[Row]:
        check_id(thread_id)
        last = MAX_STEP if until is None else _clamp(until)
        return self._stream(thread_id, _clamp(after), last, newest_first, _count(limit))

    def _stream(self, thread_id: str, after: int, until: int, newest_first: bool, left: int) -> Iterator[Row]:
        page = self._sql.newest_rows if newest_first else self._sql.rows
        while left > 0 and after < until:
            count = min(BATCH_ROWS, left)
            batch = self._run(self._batch, page, thread_id, after, until, count)
            yield from batch
            if len(batch) < count and sum(len(row.body) for row in batch) < BATCH_BYTES:
                return  # neither limit ended this batch
            left -= len(batch)
            if newest_first:
                until = batch[-1].step - 1
            else:
                after = batch[-1].step

    def _batch(
        self, database: Database, page: Statement, thread_id: str, after: int, until: int, count: int
    ) -> list[Row]:
        statement = page.bind(thread_id=thread_id, after=after, until=until, count=count)
        return [Row._make(found) for found in database.fetch(*statement, sized=BODY)]

    def snapshot(self, thread_id: str, *, until: int) -> tuple[int, bytes] | None:
        check_id(thread_id)
        statement = self._sql.snapshot.bind(thread_id=thread_id, until=_clamp(until))
        found = self._run(Database.fetch, *statement)
        return (found[0][0], found[0][1]) if found else None

    def roots(self, *, before: str, after: tuple[str, str] = ("", ""), limit: int) -> list[Thread]:
        check_text("before", before)
        updated_at, thread_id = after
        statement = self._sql.roots.bind(before=before, updated_at=updated_at, thread_id=thread_id, count=_count(limit))
        return [Thread._make(found) for found in self._run(Database.fetch, *statement)]

    def forks(self, thread_id: str) -> list[Origin]:
        check_id(thread_id)
        found = self._run(Database.fetch, *self._sql.forks.bind(thread_id=thread_id))
        return [Origin._make(each) for each in found]

    def size(self, thread_id: str, *, until: int | None = None) -> Size:
        check_id(thread_id)
        if until is None:
            found = self._run(Database.fetch, *self._sql.size.bind(thread_id=thread_id))
        else:
            found = self._run(Database.fetch, *self._sql.size_before.bind(thread_id=thread_id, until=_clamp(until)))
        return Size(*(int(number) for number in found[0]))

    def stub(self, thread_id: str) -> Stub | None:
        check_id(thread_id)
        found = self._run(Database.fetch, *self._sql.stub.bind(thread_id=thread_id))
        return Stub._make(found[0]) if found else None

    # --- the cache

    def recall(self, namespace: str, key: str, *, now: str) -> bytes | None:
        check_entry(namespace, key)
        statement = self._sql.recall.bind(namespace=namespace, key=key, now=now)
        found = self._run(Database.fetch, *statement)
        return bytes(found[0][0]) if found else None

    def keep(self, entries: Sequence[Entry], *, now: str) -> None:
        for entry in entries:
            check_entry(entry.namespace, entry.key)
        # sorted: on Postgres two that keep the same entries would wait for each other
        self._run(self._keep, sorted(entries, key=lambda entry: entry[:2]), now)

    def _keep(self, database: Database, entries: Sequence[Entry], now: str) -> None:
        with database.transaction() as connection:
            with database.pipeline(connection):
                connection.execute(database.begin)
                for entry in entries:
                    connection.execute(*self._sql.keep.bind(**entry._asdict()))
                connection.execute(*self._sql.purge.bind(now=now, count=PURGE_ROWS))
            connection.execute("COMMIT")

    def forget(self, namespaces: Sequence[str] | None = None) -> None:
        for namespace in namespaces or ():
            check_entry(namespace)
        self._run(self._forget, namespaces)

    def _forget(self, database: Database, namespaces: Sequence[str] | None) -> None:
        with database.transaction() as connection:
            connection.execute(database.begin)
            if namespaces is None:
                connection.execute(*self._sql.forget_all.bind())
            for namespace in namespaces or ():
                connection.execute(*self._sql.forget.bind(namespace=namespace))
            connection.execute("COMMIT")

    # --- opening and closing

    def _run(self, work: Callable[..., Result], *arguments: Any, again: Callable[..., Result] | None = None) -> Result:
        """`work` on the open database; if the connection was lost, `again` (or the same) on a fresh one."""
        database = self._database or self._open()
        try:
            return work(database, *arguments)
        except Lost:
            self._discard(database)
        except Exception as error:
            database.raise_ours(error)
        database = self._open()
        try:
            return (again or work)(database, *arguments)
        except Exception as error:
            database.raise_ours(error)

    def _open(self) -> Database:
        with self._opening:
            if self._database is None:
                database = database_at(self._url)
                try:
                    database.open()
                except BaseException as error:
                    database.close()
                    database.raise_ours(error)
                self._finalizer = weakref.finalize(self, database.close)  # also when the interpreter ends
                self._database = database
            return self._database

    def _discard(self, database: Database) -> None:
        with self._opening:
            if self._database is database:
                self._let_go()
        database.close()

    def _let_go(self) -> None:
        self._database = None
        if self._finalizer is not None:
            self._finalizer.detach()

    def close(self) -> None:
        if (database := self._database) is not None:
            self._discard(database)

    def _start_anew(self) -> None:
        """In a child process: what came along is the parent's, and so are the locks."""
        if self._database is not None:
            _inherited.append(self._database)
        self._opening = threading.RLock()
        self._let_go()


class SqlTransaction:
    """See `store.Transaction`."""

    def __init__(self, store: SqlStore, database: Database) -> None:
        self._store = store
        self._database = database
        self.exclusive = store.exclusive
        self.connection = database.connect()
        try:
            self._transaction = self.connection.begin()
        except BaseException:
            self.connection.close()
            raise
        self._driver: Any = self.connection.connection.driver_connection
        self._committing = False
        event.listen(self.connection, "commit", self._refuse_others)

    def _refuse_others(self, _: object) -> None:
        if not self._committing:
            raise CallError(
                problem="a node has committed runtime.connection, so its writes were rolled back",
                fix="Leave the commit to the run: it comes with the node's row. begin_nested() gives a savepoint.",
            )

    def append(
        self,
        rows: Sequence[Row],
        *,
        claim: Claim | None = None,
        snapshot: bytes | None = None,
        taken: Sequence[str] = (),
    ) -> None:
        for row in rows:
            check_row(row)
        planned = list(self._store.plan(rows, claim, snapshot, taken))
        try:
            self._check_whole()
            self._commit(planned)
        except (CallError, StoreError):
            raise
        except Exception as error:
            if not self._arrived(rows[-1]):
                self._database.raise_ours(error)
        finally:
            self.rollback()

    def _check_whole(self) -> None:
        if self.connection.closed or not self._transaction.is_active:
            raise CallError(
                problem="a node has ended the transaction of runtime.connection, so not all it wrote is in it",
                fix="Leave commit, rollback and close to the run. begin_nested() gives a savepoint.",
            )

    def _commit(self, planned: Sequence[tuple[Bound, Row]]) -> None:
        for statement, row in planned:
            if self._driver.execute(*statement).rowcount != 1:
                raise _fenced(row)
        self._committing = True
        self._transaction.commit()

    def _arrived(self, row: Row) -> bool:
        """After a lost connection: whether the commit had come through before."""
        with suppress(Exception):
            return self._committing and self._store.has(row)
        return False

    def rollback(self) -> None:
        if self.connection.closed:
            return  # and its driver's connection is somebody else's by now
        with suppress(Exception):  # a lost connection cannot, and the database does it by itself then
            self._transaction.rollback()
        with suppress(Exception):
            self._driver.rollback()  # also after a commit that was refused, which SQLAlchemy leaves open
        with suppress(Exception):
            self.connection.close()


def _vacuum(database: Database) -> tuple[int, int]:
    return database.vacuum()


def _fenced(row: Row) -> FencedError:
    return FencedError(thread_id=row.thread_id, step=row.step, epoch=row.epoch)


def _count(limit: int | None) -> int:
    return MAX_STEP if limit is None else _clamp(max(limit, 0))


def _clamp(step: int) -> int:
    return max(-1, min(step, MAX_STEP))  # there are no rows beyond


# --- fork() -----------------------------------------------------------------------------------
#
# Neither SQLite nor libpq survives being carried into a child: there SQLite believes in locks that only the parent has.
# So nothing open crosses a fork: the parent closes before, and both open again when they need to.

_stores: weakref.WeakSet[SqlStore] = weakref.WeakSet()
_inherited: list[Database] = []  # opened by another thread in between; to close it would disturb the parent


def _before_fork() -> None:
    for store in list(_stores):
        with suppress(Exception):  # a fork must not fail for this
            store.close()


def _in_child() -> None:
    for store in list(_stores):
        store._start_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_in_child)


# --- statements -------------------------------------------------------------------------------


class Statement:
    """One statement, compiled for a database."""

    def __init__(self, statement: ClauseElement, dialect: Dialect) -> None:
        compiled = statement.compile(dialect=dialect)
        self.text = str(compiled)
        self.names: Sequence[str] = getattr(compiled, "positiontup", None) or ()
        self._fixed = compiled.params  # SQLAlchemy's own, such as OFFSET 0

    def bind(self, **values: Any) -> Bound:
        given = {**self._fixed, **values}
        return self.text, [given[name] for name in self.names]


class Statements:
    """Every statement, made once from the tables. A parameter has the name of its column, or is `after`, `until` or
    `count`; in a change of a thread's row the new values have `new_` before it."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._insert = sqlite.insert if dialect.name == "sqlite" else postgresql.insert
        self.append = self._append()
        self.append_fork = self._append_fork()
        self.put_snapshot = self._put_snapshot()
        # The thread first: on Postgres this waits for appends under way, and those to come find no thread.
        tables = (threads, checkpoints, snapshots, stubs, signals)
        self.delete = [self._made(delete(table).where(_is(table.c.thread_id))) for table in tables]
        self.called = self._called()
        self.restore_thread = self._made(self._insert(threads).on_conflict_do_nothing())
        self.hash = self._made(select(checkpoints.c.hash).where(_is(checkpoints.c.thread_id), _is(checkpoints.c.step)))
        self.family = self._made(select(self._family().c.thread_id))
        self.roots = self._roots()
        self.forks = self._forks()
        self.size = self._size()
        self.size_before = self._size_before()
        self.next_epoch = self._next_epoch()
        self.lock = self._made(update(threads).where(_is(threads.c.thread_id)).values(epoch=threads.c.epoch))
        self.no_fork = self._no_fork()
        self.stub = self._made(select(stubs).where(_is(stubs.c.thread_id)))
        self.put_stub = self._put_stub()
        self.trim = [self._trim(table) for table in (checkpoints, snapshots)]
        self.thread = self._made(select(threads).where(_is(threads.c.thread_id)))
        self.rows = self._page(newest_first=False)
        self.newest_rows = self._page(newest_first=True)
        self.snapshot = self._snapshot()
        self.send = self._made(self._insert(signals).on_conflict_do_nothing())
        self.restore = {Row: self._made(self._insert(checkpoints)), Stub: self.put_stub, Signal: self.send}
        self.signals = self._made(select(signals).where(_is(signals.c.thread_id)).order_by(signals.c.id))
        self.take_signal = self._made(delete(signals).where(_is(signals.c.thread_id), _is(signals.c.id)))
        self.recall = self._recall()
        self.keep = self._keep()
        self.purge = self._purge()
        self.forget = self._made(delete(kept).where(_is(kept.c.namespace)))
        self.forget_all = self._made(delete(kept))
        self.threads = cache(self._threads)
        self.running = self._running()
        self._renewal = cache(self._renewal_of)
        self._new_thread = cache(self._new_thread_with)
        self._change_thread = cache(self._change_thread_in)

    def _called(self) -> Statement:
        """The threads that a thread called, and those that they called."""
        calls = select(threads.c.thread_id).where(threads.c.called_by == bindparam("thread_id", type_=Text()))
        below = calls.cte("below", recursive=True)
        deeper = select(threads.c.thread_id).join(below, threads.c.called_by == below.c.thread_id)
        return self._made(select(below.union(deeper).c.thread_id))

    def _family(self) -> CTE:
        """A thread and all that were called below it."""
        family = select(threads.c.thread_id).where(_is(threads.c.thread_id)).cte("family", recursive=True)
        deeper = select(threads.c.thread_id).join(family, threads.c.called_by == family.c.thread_id)
        return family.union(deeper)

    def _forks(self) -> Statement:
        family, found = self._family(), threads.c
        inside = select(family.c.thread_id)
        forks = select(found.thread_id, found.parent_thread_id, found.parent_step)
        return self._made(forks.where(found.parent_thread_id.in_(inside), found.thread_id.not_in(inside)))

    def _roots(self) -> Statement:
        at, name = threads.c.updated_at, threads.c.thread_id
        behind = tuple_(at, name) > tuple_(*(bindparam(each.name, type_=each.type) for each in (at, name)))
        wanted = threads.c.called_by.is_(None), at < bindparam("before", type_=Text()), behind
        return self._made(select(threads).where(*wanted).order_by(at, name).limit(_number("count")))

    def _size(self) -> Statement:
        inside = select(self._family().c.thread_id)

        def total(content: Column[Any]) -> ColumnElement[Any]:
            size = func.coalesce(func.sum(func.length(content)), 0)
            return select(size).where(content.table.c.thread_id.in_(inside)).scalar_subquery()

        def count(table: Table) -> ColumnElement[Any]:
            return select(func.count()).where(table.c.thread_id.in_(inside)).scalar_subquery()

        held = [total(content) for content in (snapshots.c.state, stubs.c.state, signals.c.value)]
        return self._made(select(count(threads), count(checkpoints), sum(held, total(checkpoints.c.body))))

    def _size_before(self) -> Statement:
        def total(content: Column[Any], value: ColumnElement[Any]) -> ColumnElement[Any]:
            found = content.table.c
            before = select(func.coalesce(value, 0)).where(_is(found.thread_id), found.step < _number("until"))
            return before.scalar_subquery()

        rows, kept = checkpoints.c.body, snapshots.c.state
        held = total(rows, func.sum(func.length(rows))) + total(kept, func.sum(func.length(kept)))
        return self._made(select(literal_column("0"), total(rows, func.count()), held))

    def _next_epoch(self) -> Statement:
        seen = _is(threads.c.thread_id), _is(threads.c.epoch)
        return self._made(update(threads).where(*seen).values(epoch=_number("next_epoch")))

    def _no_fork(self) -> Statement:
        none = {"parent_thread_id": None, "parent_step": None}
        return self._made(update(threads).where(_is(threads.c.thread_id)).values(none))

    def _put_stub(self) -> Statement:
        insert = self._insert(stubs)
        new = {name: insert.excluded[name] for name in Stub._fields[1:]}
        return self._made(insert.on_conflict_do_update(index_elements=list(stubs.primary_key), set_=new))

    def _trim(self, table: Table) -> Statement:
        stands_for = select(stubs.c.step).where(_is(stubs.c.thread_id)).scalar_subquery()
        old = table.c.step < _number("until"), table.c.step < stands_for
        return self._made(delete(table).where(_is(table.c.thread_id), *old))

    def claim(self, thread_id: str, claim: Claim) -> Bound:
        """The change of a thread's row that happens only if its epoch is the one seen."""
        check_claim(thread_id, claim)
        new = {f"new_{column}": value for column, value in claim.values.items()}
        if claim.epoch is None:
            return self._new_thread(tuple(claim.values)).bind(new_thread_id=thread_id, **new)
        return self._change_thread(tuple(claim.values)).bind(thread_id=thread_id, epoch=claim.epoch, **new)

    def renew(self, leases: Sequence[tuple[str, str]], expires_at: str) -> Bound:
        """The new expiry of these leases. Owners are never the same twice, so they need not be paired with their
        threads. The number is rounded up to a power of two, lest there be a statement for each number."""
        padded = [*leases, *[leases[-1]] * ((1 << (len(leases) - 1).bit_length()) - len(leases))]
        given = {f"thread_{place}": thread_id for place, (thread_id, _) in enumerate(padded)}
        given |= {f"owner_{place}": owner for place, (_, owner) in enumerate(padded)}
        return self._renewal(len(padded)).bind(new_lease_expires_at=expires_at, **given)

    def _renewal_of(self, number: int) -> Statement:
        def one_of(column: Column[Any], name: str) -> ColumnElement[bool]:
            return column.in_([bindparam(f"{name}_{place}", type_=column.type) for place in range(number)])

        held = one_of(threads.c.thread_id, "thread"), one_of(threads.c.lease_owner, "owner")
        return self._made(update(threads).where(*held).values(_new("lease_expires_at")))

    def _append(self) -> Statement:
        """The row, if its thread has its epoch. FOR SHARE, which only Postgres needs and gets, lets a claim wait for
        appends under way, so that none of them commits after it."""
        return self._append_if()

    def _append_fork(self) -> Statement:
        """The same, if the step that it continues has not been pruned."""
        origin, begun = checkpoints.alias("origin"), bindparam("parent_step", type_=BigInteger())
        name = bindparam("origin", type_=Text())
        there = exists().where(origin.c.thread_id == name, origin.c.step == begun)
        return self._append_if(there, ~exists().where(stubs.c.thread_id == name, stubs.c.step > begun))

    def _append_if(self, *also: ColumnElement[bool]) -> Statement:
        row = [bindparam(column.name, type_=column.type) for column in checkpoints.c]
        fenced = select(*row).select_from(threads).where(_is(threads.c.thread_id), _is(threads.c.epoch), *also)
        insert = self._insert(checkpoints).from_select(list(checkpoints.c), fenced.with_for_update(read=True))
        return self._made(insert.on_conflict_do_nothing())

    def _put_snapshot(self) -> Statement:
        insert = self._insert(snapshots)
        key = list(snapshots.primary_key)
        return self._made(insert.on_conflict_do_update(index_elements=key, set_={"state": insert.excluded.state}))

    def _new_thread_with(self, columns: tuple[str, ...]) -> Statement:
        return self._made(self._insert(threads).values(_new("thread_id", *columns)).on_conflict_do_nothing())

    def _change_thread_in(self, columns: tuple[str, ...]) -> Statement:
        seen = _is(threads.c.thread_id), _is(threads.c.epoch)
        return self._made(update(threads).where(*seen).values(_new(*columns)))

    def _threads(self, columns: tuple[str, ...]) -> Statement:
        newest = select(threads).order_by(threads.c.updated_at.desc(), threads.c.thread_id)
        wanted = [_is(threads.c[column]) for column in columns]
        return self._made(newest.where(true(), *wanted).limit(_number("count")))

    def _running(self) -> Statement:
        status, graph, at, name = (threads.c[each] for each in ("status", "graph", "updated_at", "thread_id"))
        behind = tuple_(at, name) > tuple_(*(bindparam(each.name, type_=each.type) for each in (at, name)))
        page = select(threads).where(_is(status), _is(graph), behind).order_by(at, name)
        return self._made(page.limit(_number("count")))

    def _snapshot(self) -> Statement:
        found = snapshots.c
        newest = select(found.step, found.state).order_by(found.step.desc()).limit(1)
        return self._made(newest.where(_is(found.thread_id), found.step <= _number("until")))

    def _recall(self) -> Statement:
        fresh = or_(kept.c.expires_at.is_(None), kept.c.expires_at > _now())
        return self._made(select(kept.c.value).where(_is(kept.c.namespace), _is(kept.c.key), fresh))

    def _keep(self) -> Statement:
        insert = self._insert(kept)
        new = {"value": insert.excluded.value, "expires_at": insert.excluded.expires_at}
        return self._made(insert.on_conflict_do_update(index_elements=list(kept.primary_key), set_=new))

    def _purge(self) -> Statement:
        """A few of those that have expired, oldest first; on Postgres not those that somebody is just replacing."""
        expired = select(kept.c.namespace, kept.c.key).where(kept.c.expires_at <= _now())
        expired = expired.order_by(kept.c.expires_at).limit(_number("count")).with_for_update(skip_locked=True)
        return self._made(delete(kept).where(tuple_(kept.c.namespace, kept.c.key).in_(expired)))

    def _page(self, *, newest_first: bool) -> Statement:
        thread_id, step = checkpoints.c.thread_id, checkpoints.c.step
        page = select(checkpoints).where(_is(thread_id), step > _number("after"), step <= _number("until"))
        page = page.order_by(step.desc() if newest_first else step).limit(_number("count"))
        if self._dialect.name == "postgresql":
            page = _within_bytes(page, newest_first=newest_first)
        return self._made(page)

    def _made(self, statement: ClauseElement) -> Statement:
        return Statement(statement, self._dialect)


def _within_bytes(page: Select[Any], *, newest_first: bool) -> Select[Any]:
    """Postgres sends a whole result at once, so the result itself has to end at BATCH_BYTES. SQLite hands out one row
    after the other, and would read 40 times as long for this."""
    rows = page.subquery()
    order = rows.c.step.desc() if newest_first else rows.c.step
    before = func.sum(func.octet_length(rows.c.body)).over(order_by=order, rows=(None, -1))
    sized = select(rows, func.coalesce(before, 0).label("before")).subquery()
    order = sized.c.step.desc() if newest_first else sized.c.step
    columns = [sized.c[column.name] for column in checkpoints.c]
    return select(*columns).where(sized.c.before < BATCH_BYTES).order_by(order)


def _is(column: Column[Any]) -> ColumnElement[bool]:
    return column == bindparam(column.name, type_=column.type)


def _new(*columns: str) -> dict[str, BindParameter[Any]]:
    return {name: bindparam(f"new_{name}", type_=threads.c[name].type) for name in columns}


def _now() -> BindParameter[str]:
    return bindparam("now", type_=Text())


def _number(name: str) -> BindParameter[int]:
    return bindparam(name, type_=BigInteger())


@cache
def statements(backend: str) -> Statements:
    # Positional parameters for both: what is bound is then the row itself.
    if backend == "sqlite":
        return Statements(sqlite.dialect())
    return Statements(PGDialect_psycopg(paramstyle="format"))  # type: ignore[no-untyped-call]
