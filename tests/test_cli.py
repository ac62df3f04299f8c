"""The command line: what it prints, where, and how it ends. In this process where that shows it, else as a program."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, TypedDict

import pytest
from click.testing import CliRunner, Result
from conftest import by_turns
from sqlalchemy import create_engine, text

from durable_graph import END, START, Log, StateGraph
from durable_graph.cli import main
from durable_graph.cli.runner import Stopped, blocking, terminated_as_interrupted
from durable_graph.cli.show import as_text, brief, plain, shown_url
from durable_graph.store import Claim

ROOT = Path(__file__).parent.parent

APP = """
import asyncio, operator, os, sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypedDict
from durable_graph import END, START, Send, StateGraph, get_stream_writer

@dataclass
class Point:
    x: int

class State(TypedDict, total=False):
    n: int
    log: Annotated[list, operator.add]
    point: Point

def work(state):
    print("a node prints")
    get_stream_writer()({"doing": state["n"]})
    return {"n": state["n"] + 1, "log": [state["n"]]}

def check(state):
    if Path("broken").exists():
        raise ValueError("first\\nsecond line")
    return {"point": Point(state["n"])}

def enough(state):
    return END if state["n"] >= 3 else "work"

graph = StateGraph(State).add_sequence([work, check]).add_edge(START, "work").add_conditional_edges("check", enough)

def step(state):
    return {"log": [len(state["log"])]}

async def async_step(state):
    await asyncio.sleep(0)
    return step(state)

def until_told(state):
    return END if Path("enough").exists() else "step"

def long(node):
    return StateGraph(State).add_node("step", node).add_edge(START, "step").add_conditional_edges("step", until_told)

endless, async_endless = long(step), long(async_step)

def leave(state):
    sys.exit(0)

leaving = StateGraph(State).add_node(leave).add_edge(START, "leave")
unwritten = endless.compile(False)
number = 5
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with an application, which is where we are."""
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "app.py").write_text(APP, encoding="utf-8")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delenv("DURABLE_GRAPH_URL", raising=False)
    yield folder
    sys.modules.pop("app", None)


Cli = Callable[..., Result]


@pytest.fixture
def cli(folder: Path) -> Cli:
    """Call it in this process, expecting an exit code."""

    def call(*arguments: str, code: int = 0, given: str | None = None) -> Result:
        result = CliRunner().invoke(main, arguments, input=given, prog_name="durable-graph")
        assert result.exit_code == code, (result.output, result.exception)
        return result

    return call


def start(folder: Path, *arguments: str, stdout: int = subprocess.PIPE, **more: Any) -> subprocess.Popen[str]:
    """Call it as a program."""
    script = "from durable_graph.cli import main; main(prog_name='durable-graph')"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "100"}
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", script, *arguments],
        cwd=folder, env=environment, stdout=stdout, stderr=more.get("stderr", subprocess.PIPE), text=True,
    )  # fmt: skip


def finish(process: subprocess.Popen[str], code: int) -> tuple[str, str]:
    told, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    return told, errors


def the_error(result: Result) -> str:
    """What it says on failing, which is one line."""
    *before, line = result.stderr.splitlines()
    assert all(text == "a node prints" for text in before)
    assert line.startswith("error: ")
    return line


def records(told: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in told.splitlines()]


INPUT = ("--input", '{"n": 1}')


class State(TypedDict, total=False):
    n: int
    text: str


def counting(to: int) -> StateGraph[State]:
    """A graph that is not the application's: steps that count."""
    builder = StateGraph(State).add_node("count", lambda state: {"n": state.get("n", 0) + 1}).add_edge(START, "count")
    return builder.add_conditional_edges("count", lambda state: END if state["n"] >= to else "count")


# --- run and resume -----------------------------------------------------------------------------


def test_run_shows_a_line_for_each_event(cli: Cli, database_url: str) -> None:
    result = cli("run", "app:graph", "--thread", "t", *INPUT, "--url", database_url)
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["1", "work", "n=2", "log=[1]"],
        ["2", "check", "point=Point(x=2)"],
        ["3", "work", "n=3", "log=[2]"],
        ["4", "check", "point=Point(x=3)"],
    ]
    with Log(database_url) as log:
        (thread,) = log.threads()
        assert (thread.thread_id, thread.status, thread.graph) == ("t", "finished", "app:graph")


def test_what_nodes_print_goes_to_stderr(cli: Cli) -> None:
    result = cli("run", "app:graph", "--thread", "t", *INPUT, "--json")
    assert result.stderr == "a node prints\n" * 2
    assert records(result.stdout)[:2] == [
        {"thread_id": "t", "step": 1, "mode": "updates", "data": {"work": {"n": 2, "log": [1]}}},
        {"thread_id": "t", "step": 2, "mode": "updates", "data": {"check": {"point": "Point(x=2)"}}},
    ]


def test_modes(cli: Cli) -> None:
    told = cli("run", "app:graph", "--thread", "t", "--input", '{"n": 2}', "--mode", "custom,tasks", "--mode", "events")
    assert [line.split()[:3] for line in told.stdout.splitlines()] == [
        ["0", "events", "input"],
        ["tasks", "work", "id='0.0'"],
        ["custom", "doing=2"],
        ["1", "tasks", "work"],
        ["1", "events", "work"],
        ["tasks", "check", "id='1.0'"],
        ["2", "tasks", "check"],
        ["2", "events", "check"],
    ]


@pytest.mark.parametrize("mode", ["updates", "values", "custom", "tasks", "checkpoints", "debug", "events"])
def test_replay_shows_what_run_showed(cli: Cli, mode: str, database_url: str) -> None:
    settings = ("--mode", mode, "--url", database_url, "--json")
    live = cli("run", "app:graph", "--thread", "t", *INPUT, *settings).stdout
    replayed = cli("replay", "t", *settings).stdout
    # It does not import the application, so that the type it does not know is shown by its name.
    known = re.sub(r"Unregistered\(name='app:Point', data=\{'x': (\d)\}\)", r"Point(x=\1)", replayed)
    assert records(known) == records(live)


def test_a_path_names_a_module_too(cli: Cli, folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "app.py").rename(folder / "sub/app.py")
    cli("run", "sub/app.py:graph", "--thread", "t", *INPUT)


def test_an_async_graph_runs(cli: Cli, folder: Path) -> None:
    (folder / "enough").touch()
    result = cli("run", "app:async_endless", "--thread", "t", "--input", '{"log": []}')
    assert result.stdout.split() == ["1", "step", "log=[0]"]


def test_input_from_stdin_and_from_a_file(cli: Cli, folder: Path) -> None:
    (folder / "input.json").write_text('\ufeff{"n": 2}', encoding="utf-8")
    stdin = cli("run", "app:graph", "--thread", "a", "--input", "-", given='{"n": 2}')
    file = cli("run", "app:graph", "--thread", "b", "--input", "@input.json")
    assert stdin.stdout == file.stdout != ""


def test_a_new_thread_is_announced(cli: Cli) -> None:
    result = cli("run", "app:graph", *INPUT)
    (thread,) = re.findall(r"^thread (\S+)$", result.stderr, re.MULTILINE)
    assert thread in cli("threads").stdout


def test_a_run_that_failed_goes_on(cli: Cli, folder: Path, database_url: str) -> None:
    (folder / "broken").touch()
    url = ("--url", database_url)
    result = cli("run", "app:graph", "--thread", "my order", *INPUT, *url, code=1)
    assert result.stdout.split() == ["1", "work", "n=2", "log=[1]"]
    hint = "go on with: durable-graph resume app:graph --thread 'my order' --url "
    assert the_error(result).startswith(f"error: node 'check' failed: ValueError: first second line; {hint}")
    assert the_error(cli("resume", "app:graph", "--thread", "my order", *url, code=1)) == the_error(result)
    (folder / "broken").unlink()
    assert cli("resume", "app:graph", "--thread", "my order", *url).stdout.split()[1] == "check"


def test_the_recursion_limit(cli: Cli) -> None:
    result = cli("run", "app:graph", "--thread", "t", *INPUT, "--recursion-limit", "3", code=1)
    assert the_error(result).endswith("; go on with: durable-graph resume app:graph --thread t")
    cli("resume", "app:graph", "--thread", "t")


def test_a_node_that_exits_is_no_success(cli: Cli) -> None:
    result = cli("run", "app:leaving", "--thread", "t", *INPUT, code=1)
    assert the_error(result).startswith("error: a node called sys.exit(0); go on with: ")


def test_a_busy_thread(cli: Cli, database_url: str) -> None:
    with counting(3).compile(database_url) as graph:
        stream = graph.stream({"n": 0}, {"thread_id": "t"})
        next(stream)
        result = cli("resume", "app:graph", "--thread", "t", "--url", database_url, code=4)
        assert "is being run by" in the_error(result)
        assert len(list(stream)) == 2


# --- recover ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("database_url", "target"), by_turns("app:endless", "app:async_endless"), indirect=["database_url"]
)
def test_recover_goes_on_with_what_a_killed_process_left(
    cli: Cli, folder: Path, database_url: str, target: str
) -> None:
    url = ("--url", database_url)
    for thread in ("one", "two", "three"):
        program = start(folder, "run", target, "--thread", thread, "--input", '{"log": []}', *url)
        assert program.stdout is not None
        assert program.stdout.readline().split() == ["1", "step", "log=[0]"]
        program.kill()
        program.communicate()
    (folder / "enough").touch()
    assert cli("recover", target, *url, "--limit", "1").stdout.split() == ["finished", "one"]
    assert records(cli("recover", target, *url, "--json").stdout) == [
        {"thread_id": thread, "status": "finished", "error": None} for thread in ("two", "three")
    ]
    assert cli("recover", target, *url).stdout == ""


def test_recover_tells_what_failed(cli: Cli, folder: Path, database_url: str) -> None:
    url = ("--url", database_url)
    for thread in ("a", "b"):
        cli("run", "app:graph", "--thread", thread, "--input", '{"n": 2}', *url, "--recursion-limit", "1", code=1)
        with Log(database_url) as log:
            assert log._stored().change_thread(thread, Claim(1, {"status": "running"}))
    (folder / "broken").touch()
    result = cli("recover", "app:graph", *url, code=1)
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["failed", thread, "ValueError:", "first", "second", "line"] for thread in ("a", "b")
    ]
    assert cli("recover", "app:graph", *url).stdout == ""


def test_recover_is_stopped_and_goes_on_later(cli: Cli, folder: Path, database_url: str) -> None:
    url = ("--url", database_url)
    program = start(folder, "run", "app:endless", "--thread", "t", "--input", '{"log": []}', *url)
    assert program.stdout is not None
    program.stdout.readline()
    program.kill()
    program.communicate()
    with Log(database_url) as log:
        step = log.get_state({"thread_id": "t"}).config["configurable"]["step"]
        program = start(folder, "recover", "app:endless", *url)
        next(log.follow({"thread_id": "t"}, after=step))
        program.send_signal(signal.SIGTERM)
        assert finish(program, 143) == ("", "stopped; what is left is found again by the same command\n")
    (folder / "enough").touch()
    assert cli("recover", "app:endless", *url).stdout.split() == ["finished", "t"]


# --- reading ------------------------------------------------------------------------------------


@pytest.fixture
def written(cli: Cli, database_url: str) -> str:
    """The URL of a database with the threads a and b, of an application that is not there any more."""
    for thread in ("a", "b"):
        cli("run", "app:graph", "--thread", thread, *INPUT, "--url", database_url)
    sys.modules.pop("app")
    Path("app.py").unlink()
    return database_url


def test_threads(cli: Cli, written: str) -> None:
    told = cli("threads", "--url", written).stdout
    assert [line.split()[::2] for line in told.splitlines()] == [["finished", "b"], ["finished", "a"]]
    newest, _ = records(cli("threads", "--url", written, "--json").stdout)
    assert (newest["thread_id"], newest["graph"], newest["metadata"]) == ("b", "app:graph", {})
    assert cli("threads", "--url", written, "--limit", "1", "--status", "finished").stdout == told.splitlines(True)[0]
    assert cli("threads", "--url", written, "--graph", "other").stdout == ""
    assert cli("threads", "--url", written, "--status", "failed").stdout == ""


def test_history(cli: Cli, written: str) -> None:
    told = cli("history", "a", "--url", written).stdout.splitlines()
    assert [line.split()[0] for line in told] == ["4", "3", "2", "1", "0"]
    assert ["next: work" in line for line in told] == [False, False, True, False, True]
    newest, *_ = records(cli("history", "a", "--url", written, "--json").stdout)
    assert newest["values"]["log"] == [1, 2]
    assert newest["metadata"]["source"] == "loop"
    assert len(cli("history", "a", "--url", written, "--limit", "2").stdout.splitlines()) == 2


def test_replay_of_a_part(cli: Cli, written: str) -> None:
    told = records(cli("replay", "a", "--after", "1", "--until", "3", "--url", written, "--json").stdout)
    assert [record["step"] for record in told] == [2, 3]


def test_reading_imports_nothing_of_the_application(cli: Cli, written: str) -> None:
    told = cli("replay", "a", "--mode", "values", "--url", written).stdout
    assert "app:Point" in told
    assert "app" not in sys.modules


def test_verify(cli: Cli, written: str) -> None:
    told = cli("verify", "--all", "--url", written).stdout
    assert [line.split()[:4] for line in told.splitlines()] == [["ok", "b", "5", "rows"], ["ok", "a", "5", "rows"]]
    with Log(written) as log:
        assert f"head {log.verify({'thread_id': 'a'}).head}\n" in told
    (report,) = records(cli("verify", "a", "--url", written, "--json").stdout)
    assert (report["ok"], report["rows"], report["findings"]) == (True, 5, [])


def test_verify_prints_what_it_found(cli: Cli, written: str) -> None:
    engine = create_engine(written)
    with engine.begin() as connection:
        connection.execute(text("UPDATE checkpoints SET node = 'other' WHERE thread_id = 'a' AND step = 3"))
    engine.dispose()
    told = cli("verify", "a", "b", "--url", written, code=6).stdout
    assert re.match(r"BROKEN  a .*\n +step 3 +altered .*\nok      b ", told)
    broken, sound = records(cli("verify", "a", "b", "--url", written, "--json", code=6).stdout)
    assert broken["findings"][0]["step"] == 3
    assert not broken["ok"]
    assert sound["ok"]


# --- text from a database is text ---------------------------------------------------------------

NASTY = "[red]\x1b[2J\x9b\n\r\u202e\u2028x"
SPELLED = "[red]\\x1b[2J\\x9b\\n\\r\\u202e\\u2028x"


def test_nothing_that_is_stored_moves_a_cursor(cli: Cli, sqlite_url: str) -> None:
    builder = StateGraph(State).add_node(NASTY, lambda state: {"text": NASTY}).add_edge(START, NASTY)
    with builder.compile(sqlite_url, name=NASTY) as graph:
        graph.invoke({"n": 1}, {"thread_id": NASTY})
    url = ("--url", sqlite_url)
    for command in (["threads"], ["history", NASTY], ["replay", NASTY], ["verify", NASTY], ["verify", "--all"]):
        told = cli(*command, *url).stdout
        assert told.replace("\n", "").isprintable()
        assert json.loads(cli(*command, *url, "--json").stdout.splitlines()[0])
    assert SPELLED in cli("replay", NASTY, *url).stdout
    assert the_error(cli("replay", "no" + NASTY, *url, code=3)).isprintable()


def test_values_as_text() -> None:
    assert as_text(NASTY) == SPELLED
    assert as_text("naïve 日本 👩‍🚀 \udc80") == "naïve 日本 👩‍🚀 \\udc80"
    assert brief({"a": 1, "b": "x"}) == "a=1  b='x'"
    assert brief(None) == ""
    assert len(brief({"long": list(range(10**6)), "text": "x" * 10**6})) < 200


def test_values_as_json() -> None:
    value = {1: (float("nan"), 1.5, 2**70), "set": {2, 1}, (1,): b"\x00", "d": Decimal("1.0"), "none": [None, True]}
    assert json.loads(json.dumps(plain(value))) == {
        "1": ["nan", 1.5, 2**70],
        "set": [1, 2],
        "(1,)": "b'\\x00'",
        "d": "1.0",
        "none": [None, True],
    }
    assert plain({1: "a", "1": "b"}) == [[1, "a"], ["1", "b"]]  # rather than lose one


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://user:secret@host/db",
        "postgresql+psycopg://user:sec/secret@host/db",
        "postgresql+psycopg://:secret@host/db",
        "postgresql+psycopg://host/db?user=a&password=secret",
        "postgresql+psycopg://host/db?sslPassword=secret&a=b",
    ],
)
def test_passwords_are_not_shown(cli: Cli, url: str) -> None:
    assert "secret" not in shown_url(url)
    assert "host/db" in shown_url(url)
    url = url.replace("host", "127.0.0.1:1")
    for command in (["threads"], ["run", "app:graph", "--thread", "t", *INPUT], ["db", "upgrade"], ["db", "current"]):
        assert "secret" not in the_error(cli(*command, "--url", url, code=5))
    assert shown_url("postgresql://user:not@secret@host/db") == "postgresql://user:***@host/db"
    assert shown_url("sqlite:////a/b.db?synchronous=NORMAL") == "sqlite:////a/b.db?synchronous=NORMAL"


# --- what goes wrong ----------------------------------------------------------------------------

RUN = ("run", "app:graph", "--thread", "t")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["nope"], 2, "No such command"),
        (["--nope"], 2, "No such option"),
        (["db"], 2, "Missing command"),
        (["run"], 2, "Missing argument"),
        (["run", "app:graph"], 2, "Missing option '--input'"),
        (["run", "app", *INPUT], 2, "write MODULE:GRAPH"),
        (["run", ":graph", *INPUT], 2, "write MODULE:GRAPH"),
        (["run", "nowhere:graph", *INPUT], 2, "there is no module nowhere"),
        (["run", "app.nowhere:graph", *INPUT], 2, "there is no module app"),
        (["run", "nowhere.py:graph", *INPUT], 2, "there is no file nowhere.py"),
        (["run", "wrong.py:graph", *INPUT], 2, "importing wrong.py failed: ZeroDivisionError"),
        (["run", "needs.py:graph", *INPUT], 2, "importing needs.py failed: ModuleNotFoundError"),
        (["run", "json.py:graph", *INPUT], 2, "rename the file"),
        (["run", "app:nothing", *INPUT], 2, "its graphs are: graph, endless, async_endless, leaving, unwritten"),
        (["run", "app:number", *INPUT], 2, "is a int and no graph"),
        (["run", "app:unwritten", "--url", "sqlite:///x.db", *INPUT], 2, "compiled already"),
        (["run", "app:unwritten", *INPUT], 2, "no checkpointer"),
        ([*RUN, "--input", "{"], 2, "--input is no JSON"),
        ([*RUN, "--input", "[" * 100_000], 2, "--input is no JSON"),
        ([*RUN, "--input", "null"], 2, "durable-graph resume"),
        ([*RUN, "--input", "@nowhere"], 2, "nowhere"),
        ([*RUN, "--input", "[]"], 2, "expected a dict"),
        ([*RUN, "--input", '{"m": 1}'], 2, "unknown key 'm'"),
        ([*RUN, *INPUT, "--mode", "nope"], 2, "there is no mode 'nope'"),
        ([*RUN, *INPUT, "--recursion-limit", "0"], 2, "x>=1"),
        ([*RUN, *INPUT, "--url", "mysql://host/db"], 2, "mysql"),
        ([*RUN, *INPUT, "--url", "sqlite:////nowhere/x.db"], 5, "/nowhere"),
        ([*RUN, *INPUT, "--url", "sqlite:///app.py"], 5, "no SQLite file"),
        (["run", "app:graph", "--thread", "", *INPUT], 2, "thread_id"),
        (["resume", "app:graph"], 2, "Missing option '--thread'"),
        (["resume", "app:graph", "--thread", "nope"], 3, "does not exist"),
        (["resume", "app:graph", "--thread", "done"], 2, "has finished"),
        (["threads", "--status", "nope"], 2, "nope"),
        (["threads", "--limit", "0"], 2, "x>=1"),
        (["threads", "--url", "sqlite:///nowhere.db"], 5, "there is no log here"),
        (["threads", "--url", "sqlite:///app.py"], 5, "no SQLite file"),
        (["history", "nope"], 3, "no thread 'nope'"),
        (["replay", "nope"], 3, "no thread 'nope'"),
        (["replay", "done", "--after", "99"], 3, "no step 99"),
        (["replay", "done", "--mode", "nope"], 2, "there is no mode 'nope'"),
        (["verify"], 2, "Name threads, or give --all, or --file"),
        (["verify", "done", "--all"], 2, "Name threads, or give --all, or --file"),
        (["verify", "nope"], 3, "no thread 'nope'"),
    ],
)
def test_an_error_is_one_line_and_a_code(cli: Cli, folder: Path, arguments: list[str], code: int, says: str) -> None:
    (folder / "wrong.py").write_text("1 / 0")
    (folder / "needs.py").write_text("import nowhere.to.be.found")
    (folder / "json.py").write_text("")
    cli("run", "app:graph", "--thread", "done", *INPUT)
    result = cli(*arguments, code=code)
    assert says in the_error(result)
    assert result.stdout == ""
    assert not (folder / "nowhere.db").exists()


def test_debug_shows_the_traceback(cli: Cli, folder: Path) -> None:
    (folder / "broken").touch()
    result = cli("run", "app:graph", "--thread", "t", *INPUT, "--debug", code=1)
    assert "Traceback" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: node 'check' failed")


# --- the database -------------------------------------------------------------------------------


def test_upgrade_makes_an_empty_postgres_ready(cli: Cli, empty_postgres_url: str) -> None:
    url = ("--url", empty_postgres_url)
    assert "durable-graph db upgrade" in the_error(cli(*RUN, *INPUT, *url, code=5))
    assert "has no schema" in cli("db", "current", *url).stdout
    assert "now has schema" in cli("db", "upgrade", *url).stdout
    assert "already" in cli("db", "upgrade", *url).stdout
    schema = json.loads(cli("db", "current", "--json", *url).stdout)
    assert schema["current"] == schema["needed"]
    cli(*RUN, *INPUT, *url)


def test_upgrade_of_a_new_file(cli: Cli, folder: Path) -> None:
    assert json.loads(cli("db", "current", "--json").stdout)["current"] is None
    assert list(folder.glob("*.db")) == []
    cli("db", "upgrade")
    assert cli("threads").stdout == ""


def test_the_environment_names_the_database(cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DURABLE_GRAPH_URL", "sqlite:///other.db")
    cli(*RUN, *INPUT)
    assert cli("threads").stdout == cli("threads", "--url", "sqlite:///other.db").stdout != ""
    assert [path.name for path in folder.glob("*.db")] == ["other.db"]


# --- as a program -------------------------------------------------------------------------------


def test_help_is_quick_and_explains_the_codes(folder: Path) -> None:
    script = """if True:
        import sys
        from durable_graph.cli import main
        try:
            main([*sys.argv[1:], "--help"], prog_name="durable-graph")
        finally:
            heavy = {"alembic", "psycopg", "rich", "sqlalchemy"} & set(sys.modules)
            assert not heavy, heavy
    """
    for command in (
        [],
        ["run"],
        ["resume"],
        ["threads"],
        ["answer"],
        ["replay"],
        ["verify"],
        ["doctor"],
        ["db", "upgrade"],
    ):
        done = subprocess.run(
            [sys.executable, "-c", script, *command],
            cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        assert "Usage: durable-graph" in done.stdout
        assert ("6    verify found something" in done.stdout) is (command == [])


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Programs started in the background of a shell may ignore Ctrl-C; those started here must not."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def check_endless(url: str, thread: str) -> None:
    """Each step was done once, whatever stopped it in between."""
    with Log(url) as log:
        events = list(log.replay({"thread_id": thread}, stream_mode="events"))
    done = [event.update["log"] for event in events if event.kind == "task"]
    assert done == [[n] for n in range(len(done))]
    assert [event.kind for event in events if event.kind != "task"] == ["input", "resume"]


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("graph", ["endless", "async_endless"])
@pytest.mark.parametrize(("database_url", "number"), by_turns(signal.SIGINT, signal.SIGTERM), indirect=["database_url"])
def test_a_stopped_run_goes_on(cli: Cli, folder: Path, database_url: str, graph: str, number: signal.Signals) -> None:
    options = ("--thread", "t", "--url", database_url)
    process = start(folder, "run", f"app:{graph}", *options, "--input", '{"log": []}')
    assert process.stdout is not None
    assert [process.stdout.readline().split() for _ in range(3)] == [
        [f"{n + 1}", "step", f"log=[{n}]"] for n in range(3)
    ]
    process.send_signal(number)
    _, errors = finish(process, 128 + number)
    assert errors.startswith(f"stopped; go on with: durable-graph resume app:{graph} --thread t --url ")
    assert errors.count("\n") == 1
    assert cli("threads", "--url", database_url).stdout.startswith("pending")
    (folder / "enough").touch()
    finish(start(folder, "resume", f"app:{graph}", *options), 0)
    check_endless(database_url, "t")


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_between_two_chunks_of_an_async_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the task for the next one has been made, and has not begun."""
    closed = []

    async def chunks() -> AsyncIterator[int]:
        try:
            yield 1
            await asyncio.sleep(600)
        finally:
            closed.append(True)

    def interrupted(number: int, handler: object) -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    told = blocking(chunks())
    assert next(told) == 1
    monkeypatch.setattr(signal, "signal", interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(told)
    assert closed == [True]


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_interrupts_a_node(folder: Path, sqlite_url: str) -> None:
    (folder / "slow.py").write_text(
        APP.replace("def step(state):", "def step(state):\n    import time; print('sleeps'); time.sleep(600)")
    )
    process = start(folder, "run", "slow.py:endless", "--thread", "t", "--url", sqlite_url, "--input", '{"log": []}')
    assert process.stderr is not None
    assert process.stderr.readline() == "sleeps\n"
    process.send_signal(signal.SIGINT)
    _, errors = finish(process, 130)
    assert "stopped; go on with: " in errors


SLOW = """def step(state):
    import time; print('works')
    while not Path('let go').exists(): time.sleep(0.01)
"""


@pytest.mark.parametrize(("database_url", "graph"), by_turns("endless", "async_endless"), indirect=["database_url"])
def test_sigterm_leaves_the_step_at_hand_its_time(folder: Path, database_url: str, graph: str) -> None:
    """It is committed and shown, and no other one begins."""
    (folder / "slow.py").write_text(APP.replace("def step(state):\n", SLOW))
    options = ("--thread", "t", "--url", database_url, "--input", '{"log": []}', "--grace", "60")
    process = start(folder, "run", f"slow.py:{graph}", *options)
    assert process.stderr is not None
    assert process.stderr.readline() == "works\n"
    process.send_signal(signal.SIGTERM)
    (folder / "let go").touch()
    told, errors = finish(process, 143)
    assert told.split() == ["1", "step", "log=[0]"]
    assert errors.startswith("stopped; go on with: ")
    assert errors.count("\n") == 1
    with Log(database_url) as log:
        state = log.get_state({"thread_id": "t"})
        assert (state.values["log"], state.next) == ([0], ("step",))


@pytest.mark.parametrize("grace", ["0", "0.01"])
def test_sigterm_interrupts_who_takes_longer(folder: Path, sqlite_url: str, grace: str) -> None:
    (folder / "slow.py").write_text(APP.replace("def step(state):\n", SLOW))
    options = ("--thread", "t", "--url", sqlite_url, "--input", '{"log": []}', "--grace", grace)
    process = start(folder, "run", "slow.py:endless", *options)
    assert process.stderr is not None
    assert process.stderr.readline() == "works\n"
    process.send_signal(signal.SIGTERM)
    _, errors = finish(process, 143)
    assert errors.startswith("stopped; go on with: ")
    with Log(sqlite_url) as log:
        assert log.get_state({"thread_id": "t"}).values["log"] == []


@pytest.mark.usefixtures("ctrl_c")
def test_a_second_sigterm_interrupts_at_once() -> None:
    stopped = Stopped(600)
    with terminated_as_interrupted(stopped):
        signal.raise_signal(signal.SIGTERM)
        assert stopped.asked
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    assert stopped.by == signal.SIGTERM


def test_a_run_whose_reader_has_gone_stops(cli: Cli, folder: Path, sqlite_url: str) -> None:
    options = ("--thread", "t", "--url", sqlite_url)
    process = start(folder, "run", "app:endless", *options, "--input", '{"log": []}', "--json")
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    process.stdout = None
    _, errors = finish(process, 141)
    assert errors.startswith("stopped, as nobody reads the output any more; go on with: ")
    assert errors.count("\n") == 1
    (folder / "enough").touch()
    finish(start(folder, "resume", "app:endless", *options), 0)
    check_endless(sqlite_url, "t")


def test_a_replay_whose_reader_has_gone_says_nothing(folder: Path, sqlite_url: str) -> None:
    with counting(2_000).compile(f"{sqlite_url}?synchronous=NORMAL") as graph:
        graph.invoke({"n": 0}, {"thread_id": "t"})
    for command in ("replay", "history"):
        process = start(folder, command, "t", "--url", sqlite_url, "--json")
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        process.stdout = None
        assert finish(process, 141)[1] == ""


def test_a_person_sees_progress(folder: Path) -> None:
    terminal, inner = pty.openpty()
    process = start(folder, *RUN, *INPUT, stdout=inner, stderr=inner)
    os.close(inner)
    told = drain(terminal)
    process.wait(timeout=60)
    assert process.returncode == 0
    assert "a node prints" in told
    assert "\x1b[1mwork" in told  # a step's line, in colours
    assert "t: step 4, next: nothing" in told  # below them
    assert told.endswith("\x1b[2K")  # and gone in the end


def drain(terminal: int) -> str:
    found = b""
    while True:
        try:
            found += os.read(terminal, 65_536)
        except OSError:  # how a terminal without a program ends
            os.close(terminal)
            return found.decode()
