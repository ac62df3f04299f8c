"""Postgres behind PgBouncer in transaction mode, where each transaction may get another of the server's connections.

The program is Debian's package `pgbouncer`; where there is none these tests say so.
"""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import URL, make_url

from durable_graph import Command
from tests.graphs import PATIENCE, WAYS, Calls, Runner, wide
from tests.test_leases import asks

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
