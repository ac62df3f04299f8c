"""What the contract cannot say of `SqlStore`: addresses, commits, failures, what is left behind."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from conftest import Script, connected, finished
from sqlalchemy import make_url
from test_store_contract import T, begin, race, row, steps, values

from durable_graph.errors import ArgumentError, FencedError, SchemaError, StoreUnavailableError
from durable_graph.offload import Offload
from durable_graph.store import Claim, Row, Signal, Thread, migrate, sqlite, tables, version
from durable_graph.store.address import SqliteUrl, parse_url
from durable_graph.store.database import Lost
from durable_graph.store.postgres import Postgres
from durable_graph.store.sql import SqlStore
from durable_graph.store.sqlite import IDLE_READERS, Sqlite
from durable_graph.store.wire import Wire

SECRET = "s3cr3t"


@pytest.fixture
def sql(database_url: str) -> Iterator[SqlStore]:
    with closing(SqlStore(database_url)) as store:
        yield store


@pytest.fixture
def lite(sqlite_url: str) -> Iterator[SqlStore]:
    with closing(SqlStore(sqlite_url)) as store:
        yield store


@pytest.fixture
def post(postgres_url: str) -> Iterator[SqlStore]:
    with closing(SqlStore(postgres_url)) as store:
        yield store


def file_of(url: str) -> Path:
    return Path(str(make_url(url).database))


@contextmanager
def raw(url: str) -> Iterator[Any]:
    """A connection that knows nothing of the library."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(file_of(url), isolation_level=None, timeout=5)) as connection:
            yield connection
    else:
        with connected(make_url(url)) as connection:
            yield connection


# --- addresses ----------------------------------------------------------------------------------


def test_the_columns_are_the_fields() -> None:
    assert tuple(tables.checkpoints.c.keys()) == Row._fields
    assert tuple(tables.threads.c.keys()) == Thread._fields


def test_nothing_is_opened_before_the_first_use(sqlite_url: str) -> None:
    SqlStore(sqlite_url)
    SqlStore(f"postgresql://u:{SECRET}@127.0.0.1:1/db").close()
    assert not file_of(sqlite_url).exists()


def test_a_relative_path_is_fixed_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    store = SqlStore("sqlite:///runs.db")
    monkeypatch.chdir(tmp_path / "sub")
    assert store.threads() == []
    store.close()
    assert (tmp_path / "runs.db").exists()
    assert store.name == f"sqlite:///{tmp_path / 'runs.db'}"


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_all_names_of_postgres_mean_psycopg(scheme: str) -> None:
    assert SqlStore(f"{scheme}://me@host/db").name == "postgresql+psycopg://me@host/db"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite://", "checkpointer=False"),
        ("sqlite:///:memory:", "checkpointer=False"),
        ("sqlite://runs.db", "three slashes"),
        ("sqlite:///a.db?synchronous=OFF", "FULL, EXTRA, NORMAL"),
        ("sqlite:///a.db?synchronous=FULL&synchronous=FULL", "FULL, EXTRA, NORMAL"),
        ("sqlite:///a.db?timeout=soon", r"\?timeout=5"),
        ("sqlite:///a.db?timeout=-1", r"\?timeout=5"),
        ("sqlite:///a.db?timeout=nan", r"\?timeout=5"),
        ("sqlite:///a.db?mode=ro", "'mode'"),
        ("sqlite+aiosqlite:///a.db", "aiosqlite"),
        ("postgresql+asyncpg://host/db", "psycopg 3"),
        ("postgresql://host/db?pool_size=0", r"\?pool_size=4"),
        ("postgresql://host/db?pool_size=many", r"\?pool_size=4"),
        ("postgresql://host/db?prepare=never", r"\?prepare=off"),
        ("mysql://host/db", "mysql"),
        ("runs.db", "sqlite:///runs.db"),
        ("", "sqlite:///runs.db"),
        ("postgresql://u:s3cr3t@host:port/db", "percent-encoded"),
        ("sqlite://u:s3cr3t@host/runs.db", "'host' stands where"),
    ],
)
def test_a_url_that_cannot_be_meant(url: str, said: str) -> None:
    with pytest.raises(ArgumentError, match=said) as caught:
        SqlStore(url).threads()
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("scheme", ["sqlite", "sqlite+pysqlite"])
@pytest.mark.parametrize("path", ["/tmp/a.db", "/tmp/a b+c.db", "a.db", "./sub/../a.db", "//a.db"])
@pytest.mark.parametrize(
    "options",
    [
        "",
        "?",
        "?timeout=7",
        "?timeout=7&synchronous=NORMAL",
        "?synchronous=%4eORMAL",
        "?timeout=7&timeout=%2b8&",
        "?timeout=",
    ],
)
def test_a_file_is_what_sqlalchemy_takes_it_for(scheme: str, path: str, options: str) -> None:
    """`parse_url` reads such addresses by itself."""
    text = f"{scheme}:///{path}{options}"
    theirs = make_url(text)
    theirs = theirs.set(drivername="sqlite", database=str(Path(str(theirs.database)).absolute()))
    for given in (text, make_url(text)):
        ours = parse_url(given)
        assert isinstance(ours, SqliteUrl)
        assert (ours.database, dict(ours.query)) == (theirs.database, dict(theirs.query))
        assert make_url(str(ours)) == theirs
        assert str(ours) == theirs.render_as_string()


@pytest.mark.parametrize(
    ("written", "path"), [("a%20b%3Fc.db", "a b?c.db"), ("é#:@&=.db", "é#:@&=.db"), ("100%.db", "100%.db")]
)
def test_what_a_path_cannot_hold_is_percent_encoded(written: str, path: str, tmp_path: Path) -> None:
    with closing(SqlStore(f"sqlite:///{tmp_path}/{written}")) as store:
        begin(store, steps=1)
        assert (tmp_path / path).is_file()
        name = store.name
    with closing(SqlStore(name)) as again:
        assert steps(again.rows(T)) == [0]


def test_a_url_that_is_no_url() -> None:
    with pytest.raises(ArgumentError, match="database URL"):
        SqlStore(7)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "url", [f"postgresql://u:{SECRET}@127.0.0.1:1/db", f"postgresql://u@127.0.0.1:1/db?password={SECRET}"]
)
def test_a_server_that_is_not_there(url: str) -> None:
    store = SqlStore(url)
    with pytest.raises(StoreUnavailableError, match=r"127\.0\.0\.1:1.*Check that the server runs") as caught:
        store.thread(T)
    assert SECRET not in f"{caught.value} {caught.value.__cause__} {store.name}"


def test_an_option_that_libpq_does_not_know(postgres_url: str) -> None:
    with pytest.raises(StoreUnavailableError, match="colour"):
        SqlStore(f"{postgres_url}&colour=red").threads()


def test_postgres_without_its_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StoreUnavailableError, match=r'pip install "durable-graph\[postgres\]"'):
        SqlStore("postgresql://host/db").threads()


# --- commits ------------------------------------------------------------------------------------


def traced(store: SqlStore) -> list[str]:
    """Every statement of the SQLite writer from now on."""
    assert isinstance(store._database, Sqlite)
    assert store._database._writer is not None
    said: list[str] = []
    store._database._writer.set_trace_callback(said.append)
    return said


def test_a_step_is_one_insert_and_one_commit(lite: SqlStore) -> None:
    begin(lite)
    said = traced(lite)
    lite.append([row(0)])
    lite.append([row(1)])
    assert [line.split("(")[0] for line in said] == ["INSERT INTO checkpoints ", "INSERT INTO checkpoints "]


def test_on_postgres_too(post: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(post, steps=1)
    said: list[str] = []
    change = Wire.change

    def record(self: Wire, sql: str, values: Any) -> int:
        said.append(sql)
        assert self.autocommit
        return change(self, sql, values)

    monkeypatch.setattr(Wire, "change", record)
    monkeypatch.delattr(psycopg.Connection, "execute")
    post.append([row(1)])
    assert [line.split("(")[0] for line in said] == ["INSERT INTO checkpoints "]


def test_a_row_is_there_for_others_when_append_returns(sql: SqlStore, database_url: str) -> None:
    begin(sql)
    with raw(database_url) as other:
        for step in range(5):
            sql.append([row(step)])
            assert other.execute("SELECT max(step) FROM checkpoints").fetchone() == (step,)


@pytest.mark.parametrize(
    ("option", "number"), [("", 2), ("?synchronous=full", 2), ("?synchronous=NORMAL", 1), ("?synchronous=EXTRA", 3)]
)
def test_how_durable_sqlite_is(sqlite_url: str, option: str, number: int) -> None:
    with closing(SqlStore(sqlite_url + option)) as store:
        begin(store)
        with store._database.writer() as connection:  # type: ignore[union-attr]
            assert connection.execute("PRAGMA synchronous").fetchone() == (number,)
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
            assert connection.execute("PRAGMA busy_timeout").fetchone() == (5000,)


def test_how_durable_postgres_is(postgres_url: str) -> None:
    with raw(postgres_url) as connection:
        connection.execute("SET synchronous_commit = off")  # as a server's configuration might
        Postgres._set_up(connection, None)
        assert connection.execute("SHOW synchronous_commit").fetchone() == ("on",)
    with (
        closing(SqlStore(postgres_url.replace("options=", "options=-csynchronous_commit%3Doff%20"))) as store,
        store._open().reader() as connection,
    ):
        assert connection.execute("SHOW synchronous_commit").fetchone() == ("off",)  # the URL has chosen so


def test_behind_a_pooler_durability_cannot_be_set(postgres_url: str) -> None:
    """There a session is nobody's, so it is looked whether commits are durable."""
    url = make_url(postgres_url).update_query_dict({"prepare": "off"})
    role = str(url.query["application_name"])
    mine = url.set(username=role)
    with raw(postgres_url) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN SUPERUSER; ALTER ROLE {role} SET synchronous_commit = off")
        try:
            lazy = mine.render_as_string(hide_password=False)
            with closing(SqlStore(lazy)) as store, pytest.raises(StoreUnavailableError, match="ALTER ROLE"):
                store.threads()
            with pytest.raises(StoreUnavailableError, match="ALTER ROLE"):
                migrate.upgrade(lazy)
            chosen = {"options": f"{url.query['options']} -csynchronous_commit=off"}
            given = mine.update_query_dict(chosen).render_as_string(hide_password=False)
            with closing(SqlStore(given)) as store:
                assert store.threads() == []
            connection.execute(f"ALTER ROLE {role} SET synchronous_commit = on")
            with closing(SqlStore(lazy)) as store:
                begin(store, steps=1)
        finally:
            connection.execute(f"DROP ROLE {role}")


def waiting_appends(store: SqlStore, rows: list[Row], meanwhile: Callable[[], None] = lambda: None) -> list[Any]:
    """The results of appends that all come while every place is taken, when one of them becomes free."""
    return waiting(store, [partial(store.append, [one]) for one in rows], meanwhile)


def waiting(store: SqlStore, calls: list[Callable[[], Any]], meanwhile: Callable[[], None] = lambda: None) -> list[Any]:
    results: list[Any] = [None] * len(calls)

    def call(number: int) -> None:
        try:
            results[number] = calls[number]()
        except BaseException as error:
            results[number] = error

    line = store._open()._line
    with ExitStack() as others, ExitStack() as one:
        for place in range(line._places):
            (others if place else one).enter_context(store._open()._place())
        threads = [threading.Thread(target=call, args=[number]) for number in range(len(calls))]
        for number, thread in enumerate(threads):
            thread.start()
            while len(line._waiting) <= number:
                time.sleep(0.001)
        meanwhile()
        one.close()
        for thread in threads:
            thread.join()
    assert (line._inside, list(line._waiting)) == ([], [])
    return results


def test_appends_that_wait_together_commit_together(lite: SqlStore) -> None:
    for number in range(4):
        begin(lite, f"t{number}")
    said = traced(lite)
    rows = [row(0, thread_id=f"t{number}") for number in range(4)]
    assert waiting_appends(lite, rows) == [None] * 4
    assert [line.split("(")[0].strip() for line in said] == [
        "BEGIN IMMEDIATE",
        *["INSERT INTO checkpoints"] * 4,
        "COMMIT",
    ]
    assert [list(lite.rows(each.thread_id)) for each in rows] == [[each] for each in rows]


def test_everybody_shares_a_commit(sql: SqlStore, database_url: str) -> None:
    """Claims, several rows with a snapshot, signals; from plain threads, and from asyncio."""
    for number in range(4):
        begin(sql, f"t{number}")
    signal = Signal("t3", "1", "go", b"{}")
    sql.send(signal)

    async def acall() -> None:
        keeper = Offload()
        try:
            await keeper.run(partial(sql.append, [row(0, thread_id="t0")]))
        finally:
            keeper.close()

    several = [row(0, thread_id="t2", epoch=2), row(1, thread_id="t2", epoch=2)]
    calls: list[Callable[[], Any]] = [
        partial(asyncio.run, acall()),
        partial(sql.change_thread, "t1", Claim(1, {"epoch": 2})),
        partial(sql.append, several, claim=Claim(1, {"epoch": 2}), snapshot=b"state"),
        partial(sql.append, [row(0, thread_id="t3")], taken=[signal.id]),
    ]
    assert waiting(sql, calls) == [None, True, None, None]
    assert [len(list(sql.rows(f"t{number}"))) for number in range(4)] == [1, 0, 2, 1]
    assert sql.snapshot("t2", until=9) == (1, b"state")
    assert sql.signals("t3") == []
    if database_url.startswith("postgres"):
        assert transactions_of(database_url) == [4]


def test_what_is_refused_leaves_nothing_and_hinders_nobody(sql: SqlStore) -> None:
    """A transaction of several statements that waits with others, and fails at its last one."""
    for number in range(4):
        begin(sql, f"t{number}", steps=1)
    late = [row(1, thread_id="t1", epoch=2), row(0, thread_id="t1", epoch=2)]  # a step that is there
    calls: list[Callable[[], Any]] = [
        partial(sql.append, [row(1, thread_id="t0")]),
        partial(sql.append, late, claim=Claim(1, {"epoch": 2}), snapshot=b"state"),
        partial(sql.change_thread, "t2", Claim(7, {"epoch": 8})),
        partial(sql.append, [row(1, thread_id="t3")], taken=["not there"]),
        partial(sql.append, [row(1, thread_id="t3"), row(2, thread_id="t3")]),
    ]
    found = waiting(sql, calls)
    assert [found[0], type(found[1]), found[2], type(found[3]), found[4]] == [
        None, FencedError, False, FencedError, None
    ]  # fmt: skip
    assert found[1].args == FencedError(thread_id="t1", step=0, epoch=2).args
    assert sql.thread("t1") == Thread("t1", **values())
    assert [steps(sql.rows(f"t{number}")) for number in range(4)] == [[0, 1], [0], [0], [0, 1, 2]]
    assert sql.snapshot("t1", until=9) is None


def test_on_postgres_a_commit_that_fails_fails_for_those_to_blame(post: SqlStore, postgres_url: str) -> None:
    """The statements have succeeded by then: that is not enough."""
    begin(post)
    schema = make_url(postgres_url).query["options"].split("%3D")[-1].split("=")[-1]  # type: ignore[union-attr]
    with raw(postgres_url) as other:
        other.execute(
            f"""
            SET search_path = {schema};
            CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
                BEGIN IF NEW.step IN (1, 4) THEN RAISE EXCEPTION 'not %', NEW.step; END IF; RETURN NULL; END $$;
            CREATE CONSTRAINT TRIGGER late AFTER INSERT ON checkpoints
                DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()"""
        )
    kinds = [type(result) for result in waiting_appends(post, [row(step) for step in range(4)])]
    assert kinds == [type(None), StoreUnavailableError, type(None), type(None)]
    with pytest.raises(StoreUnavailableError, match="not 4"):
        post.append([row(4)])
    assert steps(post.rows(T)) == [0, 2, 3]


def test_on_postgres_what_was_prepared_may_be_gone(post: SqlStore) -> None:
    """psycopg says DEALLOCATE ALL after a rollback, a pooler DISCARD ALL between two clients."""
    begin(post, steps=1)
    for step in (1, 2):
        with post._database.reader() as connection:  # type: ignore[union-attr]
            connection.execute("DEALLOCATE ALL")
        post.append([row(step)])
    with post._database.reader() as connection:  # type: ignore[union-attr]
        connection.execute("DISCARD ALL")
    assert waiting_appends(post, [row(step) for step in (3, 4)]) == [None] * 2
    assert steps(post.rows(T)) == [*range(5)]


def test_on_postgres_a_connection_lost_in_a_pipeline_fails_nobody(
    post: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the commit arrived nobody knows; here it did."""
    begin(post)
    real, failed = Wire.change_all, []

    def lost(self: Wire, *args: Any) -> Any:
        found = real(self, *args)
        if not failed:
            failed.append(True)
            os.dup2(os.open(os.devnull, os.O_RDWR), self.fileno())  # before psycopg has looked at it
            self.pgconn.send_query(b"SELECT 1")
            return list(self._results_of_pipeline())
        return found

    monkeypatch.setattr(Wire, "change_all", lost)
    assert waiting_appends(post, [row(step) for step in range(4)]) == [None] * 4
    assert failed
    assert steps(post.rows(T)) == [0, 1, 2, 3]


# --- SQLite's log -------------------------------------------------------------------------------


def wal(url: str) -> Path:
    return Path(f"{make_url(url).database}-wal")


def test_who_writes_much_gives_the_wal_its_length_at_once(lite: SqlStore, sqlite_url: str) -> None:
    begin(lite)
    few = sqlite.WAL_COMMITS - 2
    for step in range(few):
        lite.append([row(step)])
    assert wal(sqlite_url).stat().st_size < 1_000_000
    lite.append([row(few)])
    length = wal(sqlite_url).stat().st_size
    assert length == 32 + sqlite.WAL_FRAMES * (24 + 4096)
    for step in range(few + 1, 300):
        lite.append([row(step)])
    assert wal(sqlite_url).stat().st_size == length
    assert steps(lite.rows(T)) == [*range(300)]


def test_a_lengthened_wal_is_read_by_who_comes_after_a_crash(lite: SqlStore, sqlite_url: str, tmp_path: Path) -> None:
    """Copies of the two files are what a crash leaves: nobody has closed them, and no shared memory says how far the
    frames go. Also when SQLite has begun the WAL anew, so that older frames come before the zeros."""
    begin(lite)
    for step in range(600):
        lite.append([row(step)])
        if step in (sqlite.WAL_COMMITS, 100, 599):
            copy = tmp_path / f"{step}.db"
            shutil.copy(str(make_url(sqlite_url).database), copy)
            shutil.copy(wal(sqlite_url), f"{copy}-wal")
            with closing(SqlStore(f"sqlite:///{copy}")) as after:
                assert steps(after.rows(T)) == [*range(step + 1)]
                after.append([row(step + 1)])
                assert steps(after.rows(T)) == [*range(step + 2)]
            with closing(sqlite3.connect(copy)) as connection:
                assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_wal_that_cannot_be_lengthened_stays_as_it_is(
    lite: SqlStore, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    begin(lite)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        for step in range(sqlite.WAL_COMMITS + 1):
            lite.append([row(step)])
    assert wal(sqlite_url).stat().st_size < 1_000_000
    assert steps(lite.rows(T)) == [*range(sqlite.WAL_COMMITS + 1)]


def test_a_wal_that_is_not_synced_grows_as_it_likes(sqlite_url: str) -> None:
    with closing(SqlStore(f"{sqlite_url}?synchronous=NORMAL")) as store:
        begin(store)
        for step in range(sqlite.WAL_COMMITS + 1):
            store.append([row(step)])
        assert wal(sqlite_url).stat().st_size < 1_000_000


def test_a_fenced_row_does_not_hinder_those_it_waits_with(lite: SqlStore) -> None:
    begin(lite)
    results = waiting_appends(lite, [row(0), row(1, epoch=2), row(2), row(0)])
    assert [type(result) for result in results] == [type(None), FencedError, type(None), FencedError]
    assert steps(lite.rows(T)) == [0, 2]


def test_an_unfit_row_does_not_hinder_those_it_waits_with(lite: SqlStore) -> None:
    begin(lite)
    results = waiting_appends(lite, [row(0), row(1, superstep=object()), row(2)])
    assert [type(result) for result in results] == [type(None), StoreUnavailableError, type(None)]
    assert steps(lite.rows(T)) == [0, 2]


def test_a_failing_database_fails_all_that_wait(lite: SqlStore, sqlite_url: str) -> None:
    begin(lite)
    with raw(sqlite_url) as other:
        other.execute("ALTER TABLE checkpoints RENAME TO hidden")
        results = waiting_appends(lite, [row(0), row(1), row(2)])
        assert [type(result) for result in results] == [SchemaError] * 3
        other.execute("ALTER TABLE hidden RENAME TO checkpoints")
    lite.append([row(0)])
    assert steps(lite.rows(T)) == [0]


# The same on Postgres, where several connections may commit at a time.


def transactions_of(url: str) -> list[int]:
    """How many rows each transaction has written."""
    with raw(url) as connection:
        found = connection.execute("SELECT count(*) FROM checkpoints GROUP BY xmin::text ORDER BY 1").fetchall()
    return [number for (number,) in found]


def test_on_postgres_appends_that_wait_together_commit_together(post: SqlStore, postgres_url: str) -> None:
    for number in range(4):
        begin(post, f"t{number}")
    rows = [row(0, thread_id=f"t{number}") for number in range(4)]
    assert waiting_appends(post, rows) == [None] * 4
    assert [list(post.rows(each.thread_id)) for each in rows] == [[each] for each in rows]
    assert transactions_of(postgres_url) == [4]


def test_on_postgres_nobody_suffers_for_another_one(post: SqlStore) -> None:
    begin(post)
    results = waiting_appends(post, [row(0), row(1, epoch=2), row(2), row(0), row(4, superstep=2**70), row(5)])
    kinds = [type(result) for result in results]
    assert kinds == [type(None), FencedError, type(None), FencedError, StoreUnavailableError, type(None)]
    assert steps(post.rows(T)) == [0, 2, 5]


def test_on_postgres_a_killed_connection_is_replaced_for_all_that_wait(post: SqlStore, postgres_url: str) -> None:
    begin(post)

    def kill() -> None:
        with raw(postgres_url) as other:
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s AND pid <> %s",
                [make_url(postgres_url).query["application_name"], other.info.backend_pid],
            )

    assert waiting_appends(post, [row(0), row(1), row(2)], kill) == [None] * 3
    assert steps(post.rows(T)) == [0, 1, 2]


def test_the_number_of_connections_is_a_setting(postgres_url: str) -> None:
    url = make_url(postgres_url).update_query_dict({"pool_size": "2"})
    with closing(SqlStore(url)) as store:
        begin(store)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda step: store.append([row(step)]), range(40)))
        assert steps(store.rows(T)) == list(range(40))
        assert len(store._open()._idle) <= 2


class Interrupted:
    """A connection in which Ctrl-C comes once, right after a statement has been executed."""

    def __init__(self, connection: sqlite3.Connection, statement: str) -> None:
        self._connection = connection
        self._statement = statement

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, sql: str, *arguments: Any) -> Any:
        cursor = self._connection.execute(sql, *arguments)
        if sql.startswith(self._statement):
            self._statement = "never again"
            raise KeyboardInterrupt
        return cursor


@pytest.mark.parametrize("statement", ["BEGIN", "INSERT", "COMMIT"])
def test_ctrl_c_stops_only_the_thread_that_it_meets(
    lite: SqlStore, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    begin(lite)
    database = lite._database
    assert isinstance(database, Sqlite)
    assert database._writer is not None
    with monkeypatch.context() as patch:
        patch.setattr(database, "_writer", Interrupted(database._writer, statement))
        results = waiting_appends(lite, [row(step) for step in range(4)])
    assert sorted(type(result).__name__ for result in results) == ["KeyboardInterrupt", *["NoneType"] * 3]
    committed = [step for step in range(4) if statement == "COMMIT" or results[step] is None]
    assert steps(lite.rows(T)) == committed


class Handled(Interrupted):
    """A connection in which a signal handler runs once, right after a statement has been executed."""

    def __init__(self, connection: sqlite3.Connection, statement: str, handler: Callable[[], None]) -> None:
        super().__init__(connection, statement)
        self._handler = handler

    def execute(self, sql: str, *arguments: Any) -> Any:
        try:
            return super().execute(sql, *arguments)
        except KeyboardInterrupt:
            self._handler()
            return self._connection.execute("SELECT 1")


@pytest.mark.parametrize("statement", ["BEGIN", "COMMIT"])
def test_a_signal_handler_in_the_midst_of_a_commit(
    lite: SqlStore, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    """It does not wait for the thread it met, nor does it write into its transaction."""
    begin(lite)
    begin(lite, "other")
    said: list[Any] = []

    def handler() -> None:
        try:
            said.append(lite.append([row(0, thread_id="other")]))
        except StoreUnavailableError as error:
            said.append(type(error))

    with monkeypatch.context() as patch:
        patch.setattr(lite._database, "_writer", Handled(lite._open()._writer, statement, handler))  # type: ignore[attr-defined]
        lite.append([row(0)], claim=Claim(1, {"status": "waiting"}))
    assert said == ([StoreUnavailableError] if statement == "BEGIN" else [None])
    assert (steps(lite.rows(T)), steps(lite.rows("other"))) == ([0], [0] if statement == "COMMIT" else [])


def test_a_signal_handler_that_closes_the_store(lite: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(lite)
    database = lite._open()
    monkeypatch.setattr(database, "_writer", Handled(database._writer, "BEGIN", lite.close))  # type: ignore[attr-defined]
    with pytest.raises(StoreUnavailableError):
        lite.append([row(0), row(1)])
    assert steps(lite.rows(T)) == []
    lite.append([row(0)])


def test_a_commit_that_fails_fails_for_all_that_wait(lite: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing(Interrupted):
        def execute(self, sql: str, *arguments: Any) -> Any:
            if sql == "COMMIT":
                self._connection.rollback()  # as SQLite itself does when the disk fails
                raise sqlite3.OperationalError("disk I/O error")
            return self._connection.execute(sql, *arguments)

    begin(lite)
    with monkeypatch.context() as patch:
        patch.setattr(lite._database, "_writer", Refusing(lite._database._writer, ""))  # type: ignore[union-attr]
        results = waiting_appends(lite, [row(step) for step in range(3)])
    assert [type(result) for result in results] == [StoreUnavailableError] * 3
    assert steps(lite.rows(T)) == []


def test_an_interrupted_transaction_leaves_nothing(sql: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = begin(sql, steps=2)

    class CtrlC:
        def bind(self, **values: Any) -> None:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sql._sql, "delete", [*sql._sql.delete[:2], CtrlC()])
        with pytest.raises(KeyboardInterrupt):
            sql.delete(T)
    assert sql.thread(T) == Thread(T, **values())
    assert list(sql.rows(T)) == rows
    sql.append([row(2), row(3)])
    assert steps(sql.rows(T)) == [0, 1, 2, 3]


def test_postgres_lets_a_claim_wait_for_appends_under_way(post: SqlStore, postgres_url: str) -> None:
    begin(post)
    mine = row(0)
    done = threading.Event()

    def claim() -> None:
        assert post.change_thread(T, Claim(1, {"epoch": 2}))
        done.set()

    with raw(postgres_url) as zombie:
        zombie.execute("BEGIN")
        assert zombie.execute(post._sql.append.text, (*mine, T, 1)).rowcount == 1
        thread = threading.Thread(target=claim)
        thread.start()
        assert not done.wait(0.2)
        zombie.execute("COMMIT")
    thread.join()
    assert list(post.rows(T)) == [mine]


# --- failures -----------------------------------------------------------------------------------


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailableError, match=f"the folder {tmp_path}/none does not exist. Create it"):
        SqlStore(f"sqlite:///{tmp_path}/none/runs.db").threads()


def test_a_folder_instead_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailableError, match="it is a folder"):
        SqlStore(f"sqlite:///{tmp_path}").threads()


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("No database. " * 100)
    with pytest.raises(SchemaError, match="no SQLite file"):
        SqlStore(f"sqlite:///{tmp_path}/notes.txt").threads()


def test_a_file_of_another_application(sqlite_url: str) -> None:
    with raw(sqlite_url) as other:
        other.execute("CREATE TABLE orders (id)")
    with pytest.raises(SchemaError, match=r"another application.*durable-graph db upgrade --url 'sqlite:///"):
        SqlStore(sqlite_url).threads()
    with raw(sqlite_url) as other:
        other.execute("DROP TABLE orders")
        other.execute("PRAGMA application_id = 42")
    with pytest.raises(SchemaError, match="another application"):
        SqlStore(sqlite_url).threads()


def test_an_application_may_add_its_tables(lite: SqlStore, sqlite_url: str) -> None:
    begin(lite)
    lite.close()
    with raw(sqlite_url) as other:
        other.execute("CREATE TABLE orders (id)")
    assert lite.thread(T) is not None


def test_an_empty_file_is_a_new_one(sqlite_url: str) -> None:
    file_of(sqlite_url).touch()
    with closing(SqlStore(sqlite_url)) as store:
        begin(store)
    with raw(sqlite_url) as other:
        assert other.execute("PRAGMA application_id").fetchone() == (version.APPLICATION_ID,)
        assert other.execute("PRAGMA user_version").fetchone() == (version.SCHEMA_VERSION,)
        assert other.execute("SELECT version_num FROM durable_graph_version").fetchall() == [(version.REVISION,)]


def test_a_new_file_needs_no_alembic(sqlite_url: str, script: Script) -> None:
    finished(
        script(
            "import sys; from durable_graph.store.sql import SqlStore\n"
            "SqlStore(sys.argv[1]).threads(); assert not {'alembic', 'psycopg'} & set(sys.modules)",
            sqlite_url,
        )
    )


def test_an_empty_postgres_is_not_filled(empty_postgres_url: str) -> None:
    url = make_url(empty_postgres_url).set(password=SECRET)
    with pytest.raises(SchemaError, match="durable-graph db upgrade --url 'postgresql") as caught:
        SqlStore(url).threads()
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("version", "said"),
    [("0000", "durable-graph db upgrade"), ("9999", "Upgrade the library"), ("cafe", "Upgrade the library")],
)
def test_another_schema(database_url: str, version: str, said: str) -> None:
    SqlStore(database_url).threads()
    with raw(database_url) as other:
        other.execute(f"UPDATE durable_graph_version SET version_num = '{version}'")
    with pytest.raises(SchemaError, match=said):
        SqlStore(database_url).threads()


def test_tables_that_have_gone(sql: SqlStore, database_url: str) -> None:
    begin(sql)
    with raw(database_url) as other:
        other.execute("DROP TABLE checkpoints")
    for call in (lambda: sql.append([row(0)]), lambda: list(sql.rows(T))):
        with pytest.raises(SchemaError, match="checkpoints"):
            call()


def test_a_writer_that_does_not_end(sqlite_url: str) -> None:
    with closing(SqlStore(f"{sqlite_url}?timeout=0.05")) as store, raw(sqlite_url) as other:
        begin(store, steps=1)
        other.execute("BEGIN IMMEDIATE")
        for call in (
            lambda: store.append([row(1)]),
            lambda: store.append([row(1), row(2)]),
            lambda: store.change_thread(T, Claim(1, {"epoch": 2})),
            lambda: store.delete(T),
        ):
            with pytest.raises(StoreUnavailableError, match=r"write lock.*\?timeout=30"):
                call()
        assert steps(store.rows(T)) == [0]  # reading goes beside it
        other.execute("ROLLBACK")
        store.append([row(1)])
        assert store.thread(T) == Thread(T, **values())


def test_a_full_disk(lite: SqlStore) -> None:
    begin(lite, steps=1)
    with lite._database.writer() as connection:  # type: ignore[union-attr]
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")
        for rows in ([row(1, body=b"x" * 100_000)], [row(1), row(2, body=b"x" * 100_000)]):
            with pytest.raises(StoreUnavailableError, match="the disk is full"):
                lite.append(rows)
        assert not connection.in_transaction
        connection.execute("PRAGMA max_page_count = 1000000")
    assert steps(lite.rows(T)) == [0]
    lite.append([row(1), row(2)])
    assert steps(lite.rows(T)) == [0, 1, 2]


@pytest.fixture
def folder_of_others() -> Iterator[Path]:
    """A folder that the test's user may read but not write. Root may write anywhere, so it becomes nobody."""
    folder = Path(tempfile.mkdtemp())
    root = os.geteuid() == 0
    yield folder
    if root:
        os.seteuid(0)
    folder.chmod(0o755)
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="permissions are another matter on Windows")
@pytest.mark.parametrize("writable_folder", [False, True])
def test_a_file_that_can_only_be_read(folder_of_others: Path, writable_folder: bool) -> None:
    store = SqlStore(f"sqlite:///{folder_of_others}/runs.db")
    rows = begin(store, steps=3)
    store.close()
    (folder_of_others / "runs.db").chmod(0o444)
    folder_of_others.chmod(0o777 if writable_folder else 0o555)
    if os.geteuid() == 0:
        os.seteuid(65534)
    assert list(store.rows(T)) == rows
    assert store.thread(T) is not None
    for call in (lambda: store.append([row(3)]), lambda: store.append([row(3), row(4)]), lambda: store.delete(T)):
        with pytest.raises(StoreUnavailableError, match=r"read but not written.*write permission"):
            call()
    assert list(store.rows(T)) == rows
    store.close()


def test_a_postgres_that_can_only_be_read(post: SqlStore, postgres_url: str) -> None:
    rows = begin(post, steps=2)
    standby = postgres_url.replace("options=", "options=-cdefault_transaction_read_only%3Don%20")
    with closing(SqlStore(standby)) as store:
        assert list(store.rows(T)) == rows
        for call in (lambda: store.append([row(2)]), lambda: store.append([row(2), row(3)])):
            with pytest.raises(StoreUnavailableError, match=r"it is read-only.*needs the primary"):
                call()
        assert list(store.rows(T)) == rows


def test_a_postgres_schema_that_is_not_there(postgres_url: str) -> None:
    missing = make_url(postgres_url).update_query_dict({"options": "-csearch_path=dg_none"})
    with pytest.raises(SchemaError, match="durable-graph db upgrade"):
        SqlStore(missing).threads()
    with pytest.raises(SchemaError, match="CREATE SCHEMA"):
        migrate.upgrade(missing)


# --- connections that are lost ------------------------------------------------------------------


def backends(url: str) -> str:
    """Every connection of the test to Postgres but the one that asks."""
    name = make_url(url).query["application_name"]
    return f"FROM pg_stat_activity WHERE application_name = '{name}' AND pid <> pg_backend_pid()"


def test_a_killed_backend_is_replaced(post: SqlStore, postgres_url: str) -> None:
    begin(post)
    race(4, lambda number: post.append([row(number)]))  # several connections, all of which die
    with raw(postgres_url) as other:
        for call in (
            lambda: post.append([row(4)]),
            lambda: post.append([row(5), row(6)], claim=Claim(1, {"status": "waiting"}), snapshot=b"state"),
            lambda: post.change_thread(T, Claim(1, {"status": "failed"})),
            lambda: post.thread(T),
            lambda: list(post.rows(T)),
            lambda: post.snapshot(T, until=9),
        ):
            assert other.execute(
                f"SELECT bool_and(pg_terminate_backend(pid, 5000)) {backends(postgres_url)}"
            ).fetchone()
            call()
    assert list(post.rows(T)) == [row(step) for step in range(7)]
    assert post.thread(T) == Thread(T, **values(status="failed"))
    assert post.snapshot(T, until=9) == (6, b"state")


def test_a_server_that_kills_every_connection(post: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(post)
    monkeypatch.setattr(Postgres, "commit", lose(Postgres.commit, 99))
    monkeypatch.setattr(SqlStore, "_append_all", lose(SqlStore._append_all, 99))
    with pytest.raises(StoreUnavailableError):
        post.append([row(0)])


def lose(work: Callable[..., Any], times: int, *, after: bool = False) -> Callable[..., Any]:
    """The connection breaks before the work, or after it, when nobody can tell that it was done."""
    left = [times]

    def broken(*arguments: Any) -> Any:
        left[0] -= 1
        if left[0] >= 0:
            if after:
                work(*arguments)
            raise Lost
        return work(*arguments)

    return broken


@pytest.mark.parametrize("after", [False, True])
def test_nobody_knows_whether_the_commit_arrived(sql: SqlStore, monkeypatch: pytest.MonkeyPatch, after: bool) -> None:
    begin(sql)

    def lost(owner: type, name: str) -> None:
        monkeypatch.setattr(owner, name, lose(getattr(owner, name), 1, after=after))

    lost(SqlStore, "_append_one")
    sql.append([row(0)])
    lost(SqlStore, "_append_all")
    sql.append([row(1, epoch=2), row(2, epoch=2)], claim=Claim(1, {"epoch": 2}), snapshot=b"state")
    lost(SqlStore, "_change_thread")
    assert sql.change_thread(T, Claim(2, {"epoch": 3, "lease_owner": "you"}))
    assert list(sql.rows(T)) == [row(0), row(1, epoch=2), row(2, epoch=2)]
    assert sql.thread(T) == Thread(T, **values(epoch=3, lease_owner="you"))


def test_a_lost_connection_excuses_no_conflict(sql: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(sql, steps=2)
    monkeypatch.setattr(SqlStore, "_append_one", lose(SqlStore._append_one, 1))
    with pytest.raises(FencedError):
        sql.append([row(1, body=b"another")])
    monkeypatch.setattr(SqlStore, "_append_all", lose(SqlStore._append_all, 1))
    with pytest.raises(FencedError):
        sql.append([row(1, body=b"another"), row(2)])
    monkeypatch.setattr(SqlStore, "_change_thread", lose(SqlStore._change_thread, 1))
    assert not sql.change_thread(T, Claim(7, {"lease_owner": "you"}))


# --- what is left behind ------------------------------------------------------------------------


def open_files(path: Path) -> list[str]:
    found = []
    for number in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the one that lists them
            found.append(str(number.readlink()))
    return [name for name in found if name.startswith(str(path))]


def used(store: SqlStore) -> None:
    begin(store, steps=3)
    race(3, lambda number: list(store.rows(T)))
    next(store.rows(T))


linux = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")


@linux
def test_close_gives_back_every_file(lite: SqlStore, sqlite_url: str) -> None:
    used(lite)
    assert open_files(file_of(sqlite_url))
    lite.close()
    assert open_files(file_of(sqlite_url)) == []
    assert [file.name for file in file_of(sqlite_url).parent.iterdir()] == ["runs.db"]


@linux
def test_some_connections_of_readers_stay_open(lite: SqlStore, sqlite_url: str) -> None:
    begin(lite, steps=1)
    database = lite._open()
    begun = len(open_files(file_of(sqlite_url)))
    with ExitStack() as stack:
        several = [stack.enter_context(database.reader()) for _ in range(IDLE_READERS + 3)]
        assert len({id(connection) for connection in several}) == IDLE_READERS + 3
        for connection in several:
            assert connection.execute("SELECT count(*) FROM checkpoints").fetchone() == (1,)
        assert len(open_files(file_of(sqlite_url))) > begun + IDLE_READERS
    left = len(open_files(file_of(sqlite_url)))
    with ExitStack() as stack:
        again = [stack.enter_context(database.reader()) for _ in range(IDLE_READERS)]
        assert {id(connection) for connection in again} < {id(connection) for connection in several}
        assert len(open_files(file_of(sqlite_url))) == left


def test_a_reader_in_a_transaction_is_not_kept(lite: SqlStore) -> None:
    begin(lite, steps=1)
    database = lite._open()
    for error in KeyboardInterrupt, Lost:  # Ctrl-C stays what it is
        with pytest.raises(error), database.reader() as connection:  # noqa: PT012
            connection.execute("BEGIN")
            raise KeyboardInterrupt if error is KeyboardInterrupt else ValueError
        with pytest.raises(sqlite3.ProgrammingError):
            connection.execute("SELECT 1")
    assert steps(lite.rows(T)) == [0]


@linux
def test_close_waits_for_no_reader(lite: SqlStore, sqlite_url: str) -> None:
    begin(lite, steps=1)
    with lite._open().reader() as connection:
        lite.close()
        assert connection.execute("SELECT count(*) FROM checkpoints").fetchone() == (1,)
    assert open_files(file_of(sqlite_url)) == []


@linux
def test_a_forgotten_store_gives_back_every_file(sqlite_url: str) -> None:
    store = SqlStore(sqlite_url)
    used(store)
    del store
    gc.collect()
    assert open_files(file_of(sqlite_url)) == []


def test_close_gives_back_every_connection(post: SqlStore, postgres_url: str) -> None:
    used(post)
    with raw(postgres_url) as other:
        assert other.execute(f"SELECT count(*) > 0 {backends(postgres_url)}").fetchone() == (True,)
        post.close()
        while other.execute(f"SELECT count(*) > 0 {backends(postgres_url)}").fetchone() == (True,):
            time.sleep(0.01)  # the server takes a moment; the test's timeout ends this


def test_the_end_of_a_process_is_a_close(database_url: str, script: Script) -> None:
    code = """
import sys
from durable_graph.store.wire import Wire
from durable_graph.store.sql import SqlStore
from test_store_contract import begin
begin(SqlStore(sys.argv[1]), steps=2)
"""
    finished(script(code, database_url))
    if database_url.startswith("sqlite"):
        assert [file.name for file in file_of(database_url).parent.iterdir()] == ["runs.db"]
    with closing(SqlStore(database_url)) as store:
        assert steps(store.rows(T)) == [0, 1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_child_opens_its_own(database_url: str, script: Script) -> None:
    code = """
import os, sys
from durable_graph.store.wire import Wire
from durable_graph.store.sql import SqlStore
from test_store_contract import begin, row, steps, T
store = SqlStore(sys.argv[1])
begin(store, steps=2)
assert steps(store.rows(T)) == [0, 1]
child = os.fork()
assert store._database is None
if not child:
    store.append([row(2)])
    assert steps(store.rows(T)) == [0, 1, 2]
    sys.exit()
assert os.waitpid(child, 0)[1] == 0
store.append([row(3)])
print(steps(store.rows(T)))
"""
    assert finished(script(code, database_url)) == "[0, 1, 2, 3]\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_child_leaves_the_parents_connections_alone(database_url: str, script: Script) -> None:
    """Also what another thread opens between the closing and the fork."""
    code = """
import os, sys
from durable_graph.store import sql
from test_store_contract import begin, row, steps, T
store = sql.SqlStore(sys.argv[1])
begin(store)
sql._stores.clear(); os.register_at_fork(after_in_child=store._start_anew)
store.append([row(0)])
parents = store._database
child = os.fork()
if not child:
    assert store._database is None
    assert not parents.closed
    store.append([row(1)])
    store.close()
    sys.exit()
assert os.waitpid(child, 0)[1] == 0
store.append([row(2)])
assert store._database is parents
print(steps(store.rows(T)))
"""
    assert finished(script(code, database_url)) == "[0, 1, 2]\n"


# --- many at once -------------------------------------------------------------------------------


def go(processes: list[subprocess.Popen[str]]) -> None:
    """Let those that have printed "ready" go on, all at once."""
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()


OPEN_AND_WRITE = """
import sys
from durable_graph.store.wire import Wire
from durable_graph.store.sql import SqlStore
from test_store_contract import begin, row
store = SqlStore(sys.argv[1])
print("ready", flush=True)
input()
for number in range(20):
    begin(store, f"{sys.argv[2]}-{number}", steps=2)
store.close()
"""


def test_processes_open_a_new_file_at_once(lite: SqlStore, sqlite_url: str, script: Script) -> None:
    processes = [script(OPEN_AND_WRITE, sqlite_url, name) for name in "abcd"]
    go(processes)
    for process in processes:
        finished(process)
    assert len(lite.threads()) == 80


def test_stores_open_a_new_file_at_once(sqlite_url: str) -> None:
    stores = [SqlStore(sqlite_url) for _ in range(6)]
    race(6, lambda number: begin(stores[number], f"t{number}", steps=1))
    assert [len(store.threads()) for store in stores] == [6] * 6
    for store in stores:
        store.close()


def test_a_file_that_another_process_fills_meanwhile(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse = Sqlite._refuse_foreign

    def late(self: Sqlite, connection: Any) -> None:
        monkeypatch.setattr(Sqlite, "_refuse_foreign", refuse)
        with closing(SqlStore(sqlite_url)) as other:
            begin(other, steps=1)
        refuse(self, connection)

    monkeypatch.setattr(Sqlite, "_refuse_foreign", late)
    with closing(SqlStore(sqlite_url)) as store:
        assert steps(store.rows(T)) == [0]


def test_threads_open_one_store_at_once(sql: SqlStore) -> None:
    race(6, lambda number: begin(sql, f"t{number}", steps=1))
    assert len(sql.threads()) == 6
