"""The store in SQL, for SQLite and Postgres.

The rule: `SqlStore` says what is read and written; the SQL is made in `statements.py`; how a database is opened,
shared between threads and fails is in `database.py`. The hot path is `append` of one row: one prepared INSERT that
carries its own fence, and one commit. SQLAlchemy is imported only for a node's own transaction, and for Postgres.
"""

from __future__ import annotations

import os
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, TypeVar, cast

from durable_graph.errors import ArgumentError, CallError, FencedError, StoreError, ThreadExistsError
from durable_graph.store import (
    Claim,
    Entry,
    Held,
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
    check_page,
    check_row,
    check_text,
    origin_of,
)
from durable_graph.store.address import backend_of, display, parse_url
from durable_graph.store.database import BATCH_BYTES, Database, Lost, size_of
from durable_graph.store.databases import borrow, discard, give_back, start_anew
from durable_graph.store.texts import MARKS, Bound, Statement, full_name, texts

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection

    from durable_graph.store.postgres import Postgres
    from durable_graph.store.sqlite import Sqlite

BATCH_ROWS = 500
TABLES = ("threads", "checkpoints", "snapshots", "stubs", "signals")
RESTORED: dict[type, str] = {Row: "restore_row", Stub: "put_stub", Signal: "send"}  # the statements for it
PURGE_ROWS = 100  # expired entries that leave the cache, at most, whenever something is put in
BATCH_LEASES = 512  # that one statement renews
CONFLICTS = 6  # so many in a row are nobody's bad luck: after 0.6 s of pauses it is an error
MAX_STEP = 2**63 - 1  # what a database takes
ALWAYS = "9999"  # later than every time, however a database orders text
BODY = Row._fields.index("body")
LAST = -1  # where `bodies` has it

Result = TypeVar("Result")
Perform: TypeAlias = Callable[
    [Callable[["Connection"], None]], None
]  # does something with a connection of the caller's

pause: Callable[[float], None] = time.sleep  # a test may set it


class SqlStore:
    """Threads in a SQLite file or a Postgres database. Opens at first use; any thread may use it."""

    def __init__(self, url: str | URL) -> None:
        self._url = parse_url(url)
        self.name = display(self._url)
        backend = backend_of(self._url)
        self.exclusive = backend == "sqlite"
        self.takes_jobs = backend == "postgresql"
        self._sql = Statements(backend)
        self._database: Sqlite | Postgres | None = None
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
        statement = (self._sql.append.text, (*row, row.thread_id, row.epoch))
        if database.commit(row.thread_id, [statement]) is not None:
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
        refused = database.commit(rows[-1].thread_id, [statement for statement, _ in planned])
        if refused is not None:
            raise _fenced(planned[refused][1])

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
        return database.commit(thread_id, [self._sql.claim(thread_id, claim)]) is None

    def renew(self, leases: Sequence[tuple[str, str]], expires_at: str) -> None:
        check_leases(leases, expires_at)
        for start in range(0, len(leases), BATCH_LEASES):
            self._run(self._renew, leases[start : start + BATCH_LEASES], expires_at)

    def _renew(self, database: Database, leases: Sequence[tuple[str, str]], expires_at: str) -> None:
        with database.writer() as connection:
            connection.execute(*self._sql.renew(leases, expires_at))

    def send(self, signal: Signal) -> None:
        self._run(self._send, signal.thread_id, self.sending(signal))

    def _send(self, database: Database, thread_id: str, statement: Bound) -> None:
        database.commit(thread_id, [statement])  # refused: it is there already

    def signals(self, thread_id: str) -> list[Signal]:
        check_id(thread_id)
        return [
            Signal._make(found) for found in self._run(Database.fetch, *self._sql.signals.bind(thread_id=thread_id))
        ]

    def signalled(self) -> list[tuple[str, str, str]]:
        return [tuple(found) for found in self._run(Database.fetch, *self._sql.signalled.bind())]

    def delete(self, thread_id: str) -> bool:
        check_id(thread_id)
        return self._run(self._delete, thread_id)

    def scrub(self) -> None:
        self._run(lambda database: database.scrub())

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

    def heads(self, mark: bytes, length: int) -> dict[bytes | None, int]:
        statement = self._sql.heads.bind(mark=mark, size=len(mark), length=length)
        return {head and bytes(head): count for head, count in self._run(Database.fetch, *statement)}

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
                    connection.execute(*self._sql.form(RESTORED[type(item)]).bind(**item._asdict()))
                elif isinstance(item, Row):
                    found = connection.execute(*self._sql.hash.bind(thread_id=there, step=item.step)).fetchall()
                    if [bytes(one) for (one,) in found] != [item.hash]:
                        raise ThreadExistsError(thread_id=there)
            connection.execute("COMMIT")

    def _restore_again(self, database: Database, items: Iterable[Thread | Stub | Row | Signal]) -> None:
        raise database.unavailable(
            "the connection was lost, or given to another transaction, while a thread was put back",
            "Look whether it is there; if not, import it again.",
        )

    def check(self) -> None:
        """Fail now if the database cannot be used."""
        self._run(lambda database: None)

    def transaction(self) -> SqlTransaction:
        return self._run(lambda database: SqlTransaction(self, database))

    def within(self, perform: Perform) -> Joined:
        return Joined(self, perform)

    def driver_arguments(self) -> dict[str, Any]:
        """What psycopg connects with, for others that use this Postgres."""
        from durable_graph.store.engines import driver_arguments  # late: it imports SQLAlchemy

        return driver_arguments(cast("URL", self._url))

    def sending(self, signal: Signal) -> Bound:
        """What keeps a signal."""
        check_id(signal.thread_id)
        check_text("name", signal.name)
        return self._sql.send.bind(**signal._asdict())

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
            for table in ("checkpoints", "snapshots"):
                statement = self._sql.form("trim", table)
                connection.execute(*statement.bind(thread_id=thread_id, until=_clamp(until)))
            connection.execute("COMMIT")

    def vacuum(self) -> tuple[int, int]:
        return self._run(_vacuum)

    def _remove(self, connection: Any, thread_id: str) -> list[int]:
        return [connection.execute(*one.bind(thread_id=thread_id)).rowcount for one in self._sql.delete]

    # When a connection is lost, or a distributed database gives up in the midst of a commit, nobody knows whether the
    # commit arrived. Then the same is tried again: if that is refused although exactly this is stored, it was the first
    # attempt that stored it.

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

    def threads(
        self,
        *,
        statuses: Sequence[str] = (),
        graph: str | None = None,
        since: str | None = None,
        before: str | None = None,
        after: tuple[str, str] | None = None,
        limit: int | None = None,
    ) -> list[Thread]:
        check_page(statuses, graph, since, before)
        form, given = _filters(statuses, graph)
        updated_at, thread_id = after or (ALWAYS, "")
        check_text("after", thread_id)
        statement = self._sql.form("threads", *form).bind(
            **given,
            since=since or "",
            before=before or ALWAYS,
            updated_at=updated_at,
            thread_id=thread_id,
            count=_count(limit),
        )
        return [Thread._make(found) for found in self._run(Database.fetch, *statement)]

    def oldest(self, graph: str, status: str, *, after: tuple[str, str] = ("", ""), limit: int) -> list[Thread]:
        check_text("graph", graph)
        updated_at, thread_id = after
        statement = self._sql.oldest.bind(
            status=status, graph=graph, updated_at=updated_at, thread_id=thread_id, count=_count(limit)
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
            if len(batch) < count and sum(size_of(row.body) for row in batch) < BATCH_BYTES:
                return  # neither limit ended this batch
            left -= len(batch)
            if newest_first:
                until = batch[-1].step - 1
            else:
                after = batch[-1].step

    def _batch(
        self, database: Database, page: Statement, thread_id: str, after: int, until: int, count: int
    ) -> list[Row]:
        statement = page.bind(thread_id=thread_id, after=after, until=until, count=count, bytes=BATCH_BYTES)
        return [Row._make(found) for found in database.fetch(*statement, sized=BODY)]

    def bodies(self, thread_id: str, *, after: int, until: int) -> Iterator[tuple[int, int | None, str, bytes]]:
        check_id(thread_id)
        return self._stream_bodies(thread_id, _clamp(after), _clamp(until))

    def _stream_bodies(self, thread_id: str, after: int, until: int) -> Iterator[tuple[int, int | None, str, bytes]]:
        while after < until:
            page = self._sql.bodies.bind(
                thread_id=thread_id, after=after, until=until, count=BATCH_ROWS, bytes=BATCH_BYTES
            )
            batch = self._run(Database.fetch, *page, LAST)
            if not batch:
                return
            yield from batch
            after = batch[-1][0]

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

    def held(self, thread_id: str | None = None) -> Held:
        if thread_id is None:
            found = self._run(Database.fetch, *self._sql.held.bind())
        else:
            check_id(thread_id)
            found = self._run(Database.fetch, *self._sql.form("held", "thread_id").bind(thread_id=thread_id))
        return Held(*(int(number) for number in found[0]))

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
        """`work` on the open database. If the connection was lost, `again` (or the same) on a fresh one, once; if the
        database chose this transaction to give way to another one, the same some times more."""
        conflicts, losses = 0, 0
        while True:
            database = self._database
            if database is None or database.closed:
                database = self._open()
            try:
                return work(database, *arguments)
            except Lost as error:
                discard(database)
                losses += 1
                if losses > 1:
                    database.raise_ours(error)
            except Exception as error:
                conflicts += 1
                if conflicts > CONFLICTS or not database.is_conflict(error):
                    database.raise_ours(error)
                pause(random.uniform(0.5, 1.5) * 0.005 * 2**conflicts)  # both, at the same time, would meet again
            work = again or work

    def _open(self) -> Sqlite | Postgres:
        with self._opening:
            if self._database is None or self._database.closed:
                self._let_go()
                database = self._opened()
                self._finalizer = weakref.finalize(self, give_back, database)  # also when the interpreter ends
                self._database = database
            return self._database

    def _opened(self) -> Sqlite | Postgres:
        for is_new in (False, True):
            database = borrow(self._url)
            try:
                database.open()
            except BaseException as error:
                give_back(database)
                if is_new or not isinstance(error, Lost):
                    database.raise_ours(error)
                discard(database)  # what others have left in it is dead
            else:
                break
        return database

    def _let_go(self) -> None:
        self._database = None
        if self._finalizer is not None:
            self._finalizer.detach()

    def close(self) -> None:
        if self._database is None:
            return
        with self._opening:
            database = self._database
            self._let_go()
        if database is not None:
            give_back(database)

    def _start_anew(self) -> None:
        """In a child process: what came along is the parent's, and so are the locks."""
        if self._database is not None:
            _inherited.append(self._database)
            self._database.disown()
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
        from durable_graph.store.engines import on_commit  # late: it imports SQLAlchemy

        on_commit(self.connection, self._refuse_others)

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
        self._end(list(self._store.plan(rows, claim, snapshot, taken)), rows[-1])

    def send(self, signal: Signal) -> None:
        self._end([(self._store.sending(signal), None)], None)

    def commit(self) -> None:
        self._end([], None)

    def _end(self, planned: Sequence[tuple[Bound, Row | None]], last: Row | None) -> None:
        try:
            self._check_whole()
            self._commit(planned)
        except (CallError, StoreError):
            raise
        except Exception as error:
            if last is None or not self._arrived(last):
                self._database.raise_ours(error)
        finally:
            self.rollback()

    def _check_whole(self) -> None:
        if self.connection.closed or not self._transaction.is_active:
            raise CallError(
                problem="a node has ended the transaction of runtime.connection, so not all it wrote is in it",
                fix="Leave commit, rollback and close to the run. begin_nested() gives a savepoint.",
            )

    def _commit(self, planned: Sequence[tuple[Bound, Row | None]]) -> None:
        for statement, row in planned:
            if self._driver.execute(*statement).rowcount != 1 and row is not None:
                raise _fenced(row)
        self._committing = True
        self._transaction.commit()

    def _arrived(self, row: Row) -> bool:
        """After a lost connection: whether the commit had come through before."""
        with suppress(Exception):
            return self._committing and self._store.has(row)
        return False

    def raise_ours(self, error: BaseException) -> NoReturn:
        """What was raised by who used the connection."""
        self._database.raise_ours(error)

    def rollback(self) -> None:
        if self.connection.closed:
            return  # and its driver's connection is somebody else's by now
        with suppress(Exception):  # a lost connection cannot, and the database does it by itself then
            if self._transaction.is_active:  # else it is committed, or SQLAlchemy has given up on it
                self._transaction.rollback()
        with suppress(Exception):
            self._driver.rollback()  # also after a commit that was refused, which SQLAlchemy leaves open
        with suppress(Exception):
            self.connection.close()


class Joined:
    """A transaction of the caller's, which is the one who commits it. See `store.Joined`."""

    def __init__(self, store: SqlStore, perform: Perform) -> None:
        self._store = store
        self._perform = perform

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
        self._perform(lambda connection: _execute(connection, planned))

    def send(self, signal: Signal) -> None:
        statement = self._store.sending(signal)
        self._perform(lambda connection: _execute(connection, [(statement, None)]))

    def perform(self, work: Callable[[Connection], None]) -> None:
        self._perform(work)


def _execute(connection: Connection, planned: Sequence[tuple[Bound, Row | None]]) -> None:
    """The claim is the first, and what follows goes well if that does: so nothing is half done when it is refused."""
    for (sql, values), row in planned:
        if connection.exec_driver_sql(sql, tuple(values)).rowcount != 1 and row is not None:
            raise _fenced(row)


def _vacuum(database: Database) -> tuple[int, int]:
    return database.vacuum()


def _fenced(row: Row) -> FencedError:
    return FencedError(thread_id=row.thread_id, step=row.step, epoch=row.epoch)


def _filters(statuses: Sequence[str], graph: str | None) -> tuple[list[str], dict[str, str]]:
    """The form of the statement that lists threads, and its values."""
    form, given = ([], {}) if graph is None else (["graph"], {"graph": graph})
    wanted = sorted(set(statuses))
    if len(wanted) == 1:
        return [*form, "status"], {**given, "status": wanted[0]}
    places = 1 << (len(wanted) - 1).bit_length() if wanted else 0  # lest there be a statement for each number
    named = {f"status_{place}": (wanted[place] if place < len(wanted) else "") for place in range(places)}
    return [*form, *([str(places)] if places else [])], {**given, **named}


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
    start_anew()
    for store in list(_stores):
        store._start_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_in_child)


# --- statements -------------------------------------------------------------------------------


class Statements:
    """Every statement of `statements.py` that has one form is an attribute here, made at its first use: of most a
    program never makes any."""

    def __init__(self, backend: str) -> None:
        self._backend = backend
        self._forms: dict[str, Statement] = {}
        # The thread first: on Postgres this waits for appends under way, and those to come find no thread.
        self.delete = [self.form("delete", table) for table in TABLES]

    def __getattr__(self, name: str) -> Statement:
        statement = self.form(name)
        setattr(self, name, statement)
        return statement

    def form(self, name: str, *arguments: str) -> Statement:
        """Of a statement that has several."""
        name = full_name(name, arguments)
        if name not in self._forms:
            text = texts(self._backend).get(name) or self._made(name)
            self._forms[name] = Statement(text, MARKS[self._backend])
        return self._forms[name]

    def _made(self, name: str) -> str:
        from durable_graph.store.statements import made  # late: it imports SQLAlchemy, which is seldom needed

        return made(self._backend, name)

    def claim(self, thread_id: str, claim: Claim) -> Bound:
        """The change of a thread's row that happens only if its epoch is the one seen."""
        check_claim(thread_id, claim)
        new = {f"new_{column}": value for column, value in claim.values.items()}
        if claim.epoch is None:
            return self.form("new_thread", *claim.values).bind(new_thread_id=thread_id, **new)
        return self.form("change_thread", *claim.values).bind(thread_id=thread_id, epoch=claim.epoch, **new)

    def renew(self, leases: Sequence[tuple[str, str]], expires_at: str) -> Bound:
        """The new expiry of these leases. Owners are never the same twice, so they need not be paired with their
        threads. The number is rounded up to a power of two, lest there be a statement for each number."""
        padded = [*leases, *[leases[-1]] * ((1 << (len(leases) - 1).bit_length()) - len(leases))]
        given = {f"thread_{place}": thread_id for place, (thread_id, _) in enumerate(padded)}
        given |= {f"owner_{place}": owner for place, (_, owner) in enumerate(padded)}
        return self.form("renew", str(len(padded))).bind(new_lease_expires_at=expires_at, **given)
