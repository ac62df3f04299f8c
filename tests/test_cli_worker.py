"""`durable-graph worker`: real processes, told to stop in every way; and what a server shows of a queued thread."""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from durable_graph import CompiledGraph
from durable_graph.cli.target import load_graph
from tests.conftest import by_turns
from tests.graphs import PATIENCE, Calls, Runner
from tests.serving import serving
from tests.test_cli import Cli, cli, finish, records, start, the_error
from tests.test_workers import two, until, working

__all__ = ["cli"]

APP = """
import asyncio
import time
from pathlib import Path
from typing import TypedDict
from durable_graph import START, Runtime, StateGraph, interrupt

class State(TypedDict, total=False):
    n: int
    context: object

def wait_for_file():
    Path("begun").touch()
    while not Path("go").exists():
        time.sleep(0.01)

def slow(state):
    wait_for_file()
    return {"n": 1}

async def slow_async(state):
    Path("begun").touch()
    while not Path("go").exists():
        await asyncio.sleep(0.01)
    return {"n": 1}

def after(state, runtime: Runtime):
    print("a node prints")
    return {"n": state.get("n", 0) + 1, "context": runtime.context}

def make_context():
    return {"made": "here"}

plain = StateGraph(State).add_node(after).add_edge(START, "after")
blocks = StateGraph(State).add_sequence([slow, after]).add_edge(START, "slow")
sleeps = StateGraph(State).add_sequence([slow_async, after]).add_edge(START, "slow_async")
"""
QUICK = ("--poll", "0.05", "--heartbeat", "0.5")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers_url: str) -> Iterator[Path]:
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "jobs.py").write_text(APP, encoding="utf-8")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("DURABLE_GRAPH_URL", workers_url)
    yield folder
    sys.modules.pop("jobs", None)


@pytest.fixture
def load(folder: Path) -> Iterator[Callable[[str], CompiledGraph[Any]]]:
    """A graph under the name that the command line gives it."""
    graphs: list[CompiledGraph[Any]] = []

    def graph(name: str) -> CompiledGraph[Any]:
        graphs.append(load_graph(f"jobs:{name}", None)[0])
        return graphs[-1]

    yield graph
    for each in graphs:
        each.close()


Load = Callable[[str], CompiledGraph[Any]]


def test_a_worker_does_what_is_there(folder: Path, load: Load, cli: Cli) -> None:
    graph = load("plain")
    for name in "ab":
        graph.submit({}, {"thread_id": name})
    done = cli("worker", "jobs:plain", "--until-idle", "--json", "--context", "jobs:make_context", *QUICK)
    told = sorted(records(done.stdout), key=lambda record: record["thread_id"])
    assert [(r["thread_id"], r["status"], r["graph"]) for r in told] == [
        ("a", "finished", "jobs:plain"),
        ("b", "finished", "jobs:plain"),
    ]
    assert "a node prints" in done.stderr
    assert graph.result({"thread_id": "a"}) == {"n": 1, "context": {"made": "here"}}


def test_submitted_on_the_command_line(folder: Path, load: Load, cli: Cli) -> None:
    given = ("--input", '{"n": 4}')
    (told,) = records(cli("submit", "jobs:plain", *given, "--thread", "a", "--actor", "Ada", "--json").stdout)
    graph = load("plain")
    assert told["thread_id"] == "a"
    assert [event.metadata["actor"] for event in graph.replay({"thread_id": "a"}, stream_mode="events")] == ["Ada"]
    later = cli("submit", "jobs:plain", *given, "--after", "1h").stdout.strip()
    cli("worker", "jobs:plain", "--until-idle", *QUICK)
    assert graph.result({"thread_id": "a", "run_id": told["run_id"]})["n"] == 5
    assert graph.thread({"thread_id": later}).status == "queued"
    with working(graph):
        told = cli("submit", "jobs:plain", *given, "--wait", "--json").stdout
    shown = records(told.splitlines()[-1])[0]  # the worker beside us prints, too
    assert shown == {"result": {"n": 5, "context": None}}
    assert "unknown key 'x'" in the_error(cli("submit", "jobs:plain", "--input", '{"x": 1}', code=2))


def test_wrong_arguments(folder: Path, cli: Cli) -> None:
    assert "no number of runs" in the_error(cli("worker", "jobs:plain", "--queue", "a=b", code=2))
    assert "has no 'nothing'" in the_error(cli("worker", "jobs:plain", "--context", "jobs:nothing", code=2))
    assert "a name of its own" in cli("worker", "jobs:plain", "jobs:plain", code=2).stderr


@pytest.mark.parametrize("name", ["blocks", "sleeps"])
@pytest.mark.parametrize(("workers_url", "number"), by_turns(signal.SIGTERM, signal.SIGINT), indirect=["workers_url"])
def test_stopped_after_the_step_at_hand(number: signal.Signals, name: str, folder: Path, load: Load) -> None:
    graph = load(name)
    given = graph.submit({})
    process = start(folder, "worker", f"jobs:{name}", *QUICK)
    until((folder / "begun").exists)
    process.send_signal(number)
    assert process.stderr is not None
    assert process.stderr.readline().startswith(f"taking runs of jobs:{name}, ")
    assert process.stderr.readline().startswith("stopping after the steps at hand")
    (folder / "go").touch()
    finish(process, 0)
    (thread,) = graph.threads()
    assert (thread.status, thread.lease_owner) == ("queued", None)
    assert graph.get_state(given).next == ("after",)
    with working(graph):
        assert graph.result(given, timeout=PATIENCE)["n"] == 2


@pytest.mark.parametrize("name", ["blocks", "sleeps"])
@pytest.mark.parametrize(("workers_url", "how"), by_turns("grace", "twice"), indirect=["workers_url"])
def test_stopped_in_the_midst_of_a_step(how: str, name: str, folder: Path, load: Load) -> None:
    graph = load(name)
    given = graph.submit({})
    grace = ("--grace", "0.1") if how == "grace" else ()
    process = start(folder, "worker", f"jobs:{name}", *QUICK, *grace)
    until((folder / "begun").exists)
    process.send_signal(signal.SIGTERM)
    if how == "twice":
        assert process.stderr is not None
        assert [process.stderr.readline()[:8] for _ in range(2)] == ["taking r", "stopping"]
        process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode in (0, 128 + signal.SIGTERM)
    assert graph.get_state(given).next == (("slow",) if name == "blocks" else ("slow_async",))
    (folder / "go").touch()
    with working(graph, heartbeat=0.2):
        assert graph.result(given, timeout=PATIENCE)["n"] == 2


def test_upgrade_makes_the_tables_of_workers(
    empty_postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from click.testing import CliRunner

    from durable_graph.cli import main

    told = [
        CliRunner().invoke(main, ["db", "upgrade", "--workers", "--url", empty_postgres_url], catch_exceptions=False)
        for _ in range(2)
    ]
    assert [result.exit_code for result in told] == [0, 0]
    assert "now has the tables of procrastinate" in told[0].stdout
    assert "has the tables of procrastinate" in told[1].stdout
    assert "now" not in told[1].stdout
    with Runner("sync", empty_postgres_url) as run:
        graph = two(run)
        given = graph.submit({"log": []})
        with working(graph):
            assert graph.result(given, timeout=PATIENCE) == {"log": ["a", "b"]}


def test_an_older_file_is_brought_up(tmp_path: Path) -> None:
    """One from before there were queues."""
    from durable_graph import SchemaError
    from durable_graph.store import migrate

    url = f"sqlite:///{tmp_path / 'old.db'}"
    migrate.upgrade(url)
    migrate.downgrade(url, "0001")
    with closing(sqlite3.connect(tmp_path / "old.db")) as file:
        assert "queue" not in [name for _, name, *_ in file.execute("PRAGMA table_info(threads)")]
    with Runner("sync", url) as run:
        graph = two(run, Calls())
        with pytest.raises(SchemaError, match="db upgrade"):
            graph.submit({"log": []})
        migrate.upgrade(url)
        given = graph.submit({"log": []})
        with working(graph):
            assert graph.result(given, timeout=PATIENCE) == {"log": ["a", "b"]}


def test_a_server_shows_a_run_that_waits_for_a_worker(workers_url: str) -> None:
    with Runner("sync", workers_url) as run:
        graph = two(run)
        given = graph.submit({"log": []}, {"thread_id": "t"})
        with serving({"line": graph}) as address, address.client() as client:
            (shown,) = client.get("/threads/t/runs").json()
            assert (shown["run_id"], shown["status"]) == (given["run_id"], "pending")
            assert client.get("/threads/t").json()["status"] == "busy"
            with working(graph):
                joined = client.get(f"/threads/t/runs/{given['run_id']}/join").json()
            assert joined == {"log": ["a", "b"]}
            assert client.get("/threads/t/runs").json()[0]["status"] == "success"


def test_a_worker_whose_reader_has_gone_stops(folder: Path, load: Load) -> None:
    """And it leaves no traces of that on the thread, nor many on stderr."""
    graph = load("blocks")
    reading, writing = os.pipe()
    process = start(folder, "worker", "jobs:blocks", *QUICK, stdout=writing)
    os.close(writing)
    os.close(reading)
    (folder / "go").touch()
    given = graph.submit({})
    assert graph.result(given, timeout=PATIENCE)["n"] == 2
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Traceback" not in errors
