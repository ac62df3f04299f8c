"""Postgres behind PgBouncer in transaction mode, where each transaction may get another of the server's connections.

The program is Debian's package `pgbouncer`; where there is none these tests say so.
"""

from __future__ import annotations

import asyncio
import getpass
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import URL, make_url, text
from test_store_contract import begin, race, row, steps

from durable_graph import START, Command, Runtime, StateGraph, StoreUnavailableError
from durable_graph.doctor import examine
from durable_graph.store import line, migrate
from durable_graph.store.sql import SqlStore
from durable_graph.store.version import SCHEMA_VERSION
from durable_graph.workers import make_tables
from tests.graphs import PATIENCE, WAYS, Calls, Runner, State, wide
from tests.test_leases import asks
from tests.test_workers import two, working

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
SERVERS = 3  # connections to Postgres, for all clients

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="pgbouncer is not installed")


@pytest.fixture
def pooled_url(postgres_server: URL, postgres_url: str) -> Iterator[str]:
    """The test's schema, through a pooler."""
    given = make_url(postgres_url)
    target = {
        "host": postgres_server.host or postgres_server.query.get("host"),
        "port": postgres_server.port or postgres_server.query.get("port") or 5432,
        "dbname": postgres_server.database,
        "user": postgres_server.username or getpass.getuser(),
        "password": postgres_server.password,
        "connect_query": f"'SET search_path = {given.query['application_name']}'",
    }
    with tempfile.TemporaryDirectory(prefix="dg-") as name:
        folder = Path(name)
        user = _user(Path(str(target["host"])), folder)
        described = " ".join(f"{key}={value}" for key, value in target.items() if value)
        (folder / "pool.ini").write_text(
            f"[databases]\npooled = {described}\n[pgbouncer]\npool_mode = transaction\ndefault_pool_size = {SERVERS}\n"
            f"unix_socket_dir = {folder}\nlisten_port = 6543\nauth_type = any\n"
            f"logfile = {folder}/log\nmax_client_conn = 200\nserver_round_robin = 1\n"
        )
        process = subprocess.Popen([str(PROGRAM), "--quiet", *user, str(folder / "pool.ini")])
        try:
            plain = f"postgresql://someone@/pooled?host={folder}&port=6543"
            _wait_for(plain, folder / "log")
            yield plain
        finally:
            process.terminate()
            process.wait()


def _user(host: Path, folder: Path) -> list[str]:
    """It does not run as root: then as the user that the server runs as, who may use that one's socket."""
    if os.geteuid() != 0:
        return []
    name = host.owner() if host.is_dir() else "nobody"
    shutil.chown(folder, name)
    return ["--user", name]


def _wait_for(url: str, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            with psycopg.connect(url, prepare_threshold=None) as connection:
                connection.execute("SELECT 1")
                return
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise RuntimeError(log.read_text() if log.exists() else "there is no log") from None
            time.sleep(0.02)


@pytest.mark.parametrize("way", WAYS)
def test_runs_side_by_side(pooled_url: str, way: str) -> None:
    calls = Calls()
    with Runner(way, f"{pooled_url}&prepare=off") as run:
        graph = run.compile(wide(run, calls, "abcd", a=asks(calls, "a")))

        def one(number: int) -> None:
            config = {"thread_id": f"t{number}"}
            run.first(2, graph, {"log": []}, config)
            run.invoke(graph, None, config)
            assert run.invoke(graph, Command(resume="yes"), config)["log"] == ["yes", *"bcd", "end"]
            assert graph.verify(config).ok

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(one, range(12)))
        assert calls.count("end") == 12
        assert [thread.lease_owner for thread in graph.threads()] == [None] * 12


def test_commits_are_shared(pooled_url: str) -> None:
    """Many writers with one connection to the pooler, each transaction on another one to the server."""
    with closing(SqlStore(f"{pooled_url}&prepare=off&pool_size=1")) as store:
        for number in range(16):
            begin(store, f"t{number}")
        shared: list[int] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(line, "shared", shared.append)
            race(16, lambda number: [store.append([row(step, thread_id=f"t{number}")]) for step in range(20)])
        assert max(shared) > 1
        assert all(steps(store.rows(f"t{number}")) == list(range(20)) for number in range(16))


@pytest.mark.parametrize("way", WAYS)
def test_nodes_write_more_than_there_are_connections(pooled_url: str, way: str) -> None:
    """Each holds a connection of the server's from its first statement to its row; the others wait in the pooler."""

    def write(state: State, runtime: Runtime) -> State:
        runtime.connection.execute(text("INSERT INTO ledger VALUES (:thread)"), {"thread": runtime.thread_id})
        return {"log": ["wrote"]}

    async def awrite(state: State, runtime: Runtime) -> State:
        connection = await runtime.aconnection()
        await asyncio.to_thread(
            connection.execute, text("INSERT INTO ledger VALUES (:thread)"), {"thread": runtime.thread_id}
        )
        return {"log": ["wrote"]}

    with psycopg.connect(pooled_url, prepare_threshold=None, autocommit=True) as connection:
        connection.execute("CREATE TABLE ledger (thread text)")
    with Runner(way, f"{pooled_url}&prepare=off") as run, ThreadPoolExecutor(8) as pool:
        builder = StateGraph(State).add_node("write", awrite if way == "async" else write).add_edge(START, "write")
        graph = run.compile(builder)
        configs = [{"configurable": {"thread_id": f"t{number}"}} for number in range(16)]
        list(pool.map(lambda config: run.invoke(graph, {"log": []}, config), configs))
        assert [thread.status for thread in graph.threads()] == ["finished"] * 16
    with psycopg.connect(pooled_url, prepare_threshold=None) as connection:
        assert connection.execute("SELECT count(*), count(DISTINCT thread) FROM ledger").fetchone() == (16, 16)


def test_follow_and_all_that_looks(pooled_url: str) -> None:
    with Runner("sync", f"{pooled_url}&prepare=off") as run, ThreadPoolExecutor(4) as pool:
        graph = run.compile(wide(run, Calls(), "abcd"))
        config = {"configurable": {"thread_id": "t"}}
        told = [pool.submit(lambda: list(graph.follow(config, wait=PATIENCE))) for _ in range(4)]
        events = run.stream(graph, {"log": []}, config)
        assert [each.result(PATIENCE) for each in told] == [events] * 4
        assert graph.prune(keep_last=1, vacuum=True).cut
        levels = {check.level for check in examine(f"{pooled_url}&prepare=off") if check.subject != "durability"}
        assert "error" not in levels


def test_the_schema_is_upgraded_through_it(pooled_url: str) -> None:
    url = f"{pooled_url}&prepare=off"
    migrate.downgrade(url, "base")
    migrate.upgrade(url, 3)
    assert (migrate.current(url), migrate.layout(url)) == ((SCHEMA_VERSION, SCHEMA_VERSION), 3)
    with closing(SqlStore(url)) as store:
        begin(store, steps=2)


def test_without_the_option_the_error_says_so(pooled_url: str) -> None:
    """Runs side by side get each other's connections."""

    def use(number: int) -> None:
        for step in range(20):
            store.append([row(step, thread_id=f"t{number}")])

    with closing(SqlStore(f"{pooled_url}&prepare=off")) as ready:
        for number in range(4):
            begin(ready, f"t{number}")
    with closing(SqlStore(pooled_url)) as store, pytest.raises(StoreUnavailableError, match=r"add \?prepare=off"):
        race(4, use)


def test_workers_look_for_what_nobody_can_tell_them(pooled_url: str) -> None:
    """There are no notifications through it."""
    url = f"{pooled_url}&prepare=off"
    make_tables(url)
    with Runner("sync", url) as run:
        graph = two(run)
        with working(graph, poll=0.05):
            first = graph.submit({"log": []})
            assert graph.result(first, timeout=PATIENCE) == {"log": ["a", "b"]}
            given = [graph.submit({"log": []}, first, when=0.01) for _ in range(5)]
            for each in given:
                graph.result(each, timeout=PATIENCE)
        assert graph.verify(first).ok
