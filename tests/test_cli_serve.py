"""`durable-graph serve`: tokens, names, and its end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from durable_graph import Log
from durable_graph.cli import main
from durable_graph.cli.ending import Failure
from durable_graph.cli.serving import listen
from tests.serving import PATIENCE

ROOT = Path(__file__).parent.parent
APP = """
import threading
from typing import TypedDict

from durable_graph import START, StateGraph


class State(TypedDict, total=False):
    n: int


def forever(state):
    print("begun", flush=True)
    threading.Event().wait()


quick = StateGraph(State).add_node("a", lambda state: {"n": 1}).add_edge(START, "a")
stuck = StateGraph(State).add_node(forever).add_edge(START, "forever")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


@contextmanager
def served(folder: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str, list[str]]]:
    """The process, its address, and what it has said before that."""
    command = "from durable_graph.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", command, "serve", "--port=0", "--url=sqlite:///runs.db", *arguments],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    said: list[str] = []
    try:
        while "serving " not in (line := process.stderr.readline()):
            assert line, said
            said.append(line.strip())
        yield process, line.split()[-1].replace("0.0.0.0", "127.0.0.1"), said
    finally:
        process.kill()
        process.communicate()


def test_elsewhere_than_here_it_makes_up_a_token(folder: Path) -> None:
    with served(folder, "quick=app.py:quick", "--host=0.0.0.0") as (_, url, said):
        (line,) = said
        token = line.rpartition(" ")[2]
        assert len(token) >= 32
        assert httpx.get(f"{url}/info").status_code == 401
        about = httpx.get(f"{url}/info", headers={"authorization": f"Bearer {token}"})
        assert about.json()["graphs"] == ["quick"]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_no_part_of_an_answer_waits_until_the_part_before_it_is_acknowledged(host: str) -> None:
    try:
        listening = listen(host, 0)
    except Failure:
        pytest.skip(f"this machine has no {host}")
    with listening, socket.create_connection(listening.getsockname()[:2]), listening.accept()[0] as accepted:
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_its_inspector_looks_at_a_replica(folder: Path) -> None:
    with Log(f"sqlite:///{folder}/replica.db") as log:
        log.create_thread("only there")
    with served(folder, "app.py:quick", "--read-url=sqlite:///replica.db") as (_, url, _):
        listed = httpx.get(f"{url}/inspector/api/threads", timeout=PATIENCE).json()["threads"]
        assert [thread["id"] for thread in listed] == ["only there"]
        assert httpx.get(f"{url}/threads/only there/state", timeout=PATIENCE).status_code == 404


def test_a_node_that_never_ends_does_not_keep_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(folder, "app.py:stuck", "app.py:quick", "--grace=0") as (process, url, _):
        assert httpx.get(f"{url}/info").json()["graphs"] == ["quick", "stuck"]
        body = {"assistant_id": "stuck", "input": {"n": 0}, "if_not_exists": "create"}
        assert httpx.post(f"{url}/threads/t/runs", json=body).status_code == 200
        assert process.stderr is not None
        process.send_signal(signal.SIGTERM)
        out = process.communicate(timeout=PATIENCE)[1]
        assert process.returncode == 143
        assert "does not end" in out
    listed = CliRunner().invoke(main, ["threads", "--url", f"sqlite:///{folder / 'runs.db'}", "--json"])
    assert '"status": "running"' in listed.stdout  # recover finds it


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "Missing argument"),
        (["app"], "write MODULE:GRAPH"),
        (["app.py:nothing"], "its graphs are: quick, stuck"),
        (["app.py:quick", "app.py:quick"], "two graphs have the id 'quick'"),
        (["app.py:quick", "--token", "lina="], "there is none behind the `=`"),
        (["app.py:quick", "--port", "x"], "x"),
        (["app.py:quick", "--host", "192.0.2.1", "--token", "t"], "cannot be listened on"),
    ],
)
def test_wrong_usage_is_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], says: str
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "app", raising=False)
    result = CliRunner().invoke(main, ["serve", "--url", "sqlite:///runs.db", *arguments])
    sys.modules.pop("app", None)
    assert result.exit_code == 2
    assert says in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("missing", ["starlette", "uvicorn"])
def test_what_is_missing_is_named(folder: Path, missing: str) -> None:
    command = f"import sys; sys.modules[{missing!r}] = None; from durable_graph.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", command, "serve", "--url=sqlite:///runs.db", "app.py:quick"],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert missing in done.stderr
    assert "durable-graph[server]" in done.stderr
    assert done.stderr.count("\n") == 1
