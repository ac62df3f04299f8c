"""The commands that look at threads, change them and answer them: what they print, and how they end."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import sqlite3
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from conftest import by_turns
from sqlalchemy import make_url

from durable_graph import Interrupt, Log, Wait, doctor
from durable_graph.cli import main, watching
from durable_graph.cli.drawing import states_of
from durable_graph.cli.show import Column, Output, asked, lasting, plain, size
from durable_graph.cli.target import load_graph
from durable_graph.store import Claim
from tests.test_cli import APP as OTHER_APP
from tests.test_cli import NASTY, ROOT, SLOW, drain, finish, records, start, the_error
from tests.test_store_contract import row, values

APP = """
import operator
from pathlib import Path
from typing import Annotated, TypedDict
from durable_graph import START, Runtime, StateGraph, interrupt

class Order(TypedDict, total=False):
    item: str
    lines: Annotated[list, operator.add]
    answer: object

def pay(order):
    print("a node prints")
    return {"lines": [{"name": order["item"], "price": 5}]}

def ask(order):
    return {"answer": interrupt({"send it?": order["item"]})}

async def ask_later(order):
    return {"answer": interrupt("sure?")}

def wait(order, runtime: Runtime):
    return {"answer": runtime.wait_for("go")}

def ship(order):
    if Path("broken").exists():
        raise ValueError("no parcel")
    return {"lines": [{"name": "parcel", "price": 1}]}

def sequence(*nodes):
    return StateGraph(Order).add_sequence(nodes).add_edge(START, nodes[0].__name__)

graph = sequence(pay, ask, ship)
slow = sequence(pay, ask_later, ship)
waits = sequence(pay, wait, ship)
plain = sequence(pay, ship)
both = StateGraph(Order).add_node("a", lambda order: {"lines": [interrupt("a?")]})
both.add_node("b", lambda order: {"lines": [interrupt("b?")]}).add_edge(START, "a").add_edge(START, "b")
outer = StateGraph(Order).add_node("down", sequence(ask, ship).compile()).add_edge(START, "down")
"""

Cli = Callable[..., Result]
LAMP = ("--input", '{"item": "lamp"}')


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "shop.py").write_text(APP, encoding="utf-8")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(doctor, "_file_system", lambda folder: "ext4")  # that of tests may be in memory
    for name in ("DURABLE_GRAPH_URL", "DURABLE_GRAPH_KEY", "DURABLE_GRAPH_ENCRYPTION_KEY"):
        monkeypatch.delenv(name, raising=False)
    yield folder
    sys.modules.pop("shop", None)


@pytest.fixture
def cli(folder: Path) -> Cli:
    def call(*arguments: str, code: int = 0, given: str | None = None) -> Result:
        result = CliRunner().invoke(main, arguments, input=given, prog_name="durable-graph")
        assert result.exit_code == code, (result.output, result.exception)
        return result

    return call


@pytest.fixture
def url(cli: Cli, database_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database with three threads: `asks` is open, `done` finished, `fails` has failed. The default of every
    command."""
    monkeypatch.setenv("DURABLE_GRAPH_URL", database_url)
    monkeypatch.setattr(doctor, "_postgres_durability", lambda settings: iter(()))  # that of tests need not be durable
    cli("run", "shop:plain", "--thread", "done", *LAMP)
    cli("run", "shop:graph", "--thread", "asks", *LAMP, "--actor", "Ada")
    Path("broken").touch()
    cli("run", "shop:plain", "--thread", "fails", *LAMP, code=1)
    Path("broken").unlink()
    sys.modules.pop("shop")
    return database_url


def words(told: str) -> list[list[str]]:
    return [line.split() for line in told.splitlines()]


def names(result: Result) -> list[str]:
    return [line[2] for line in words(result.stdout)]


# --- looking ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("url")
def test_threads_by_what_they_are(cli: Cli) -> None:
    assert names(cli("threads")) == ["fails", "asks", "done"]
    assert names(cli("threads", "--status", "failed", "--status", "interrupted")) == ["fails", "asks"]
    assert names(cli("threads", "--text", "DON")) == ["done"]
    assert names(cli("threads", "--graph", "shop:graph")) == ["asks"]
    assert names(cli("threads", "--newer-than", "1h", "--limit", "2")) == ["fails", "asks"]
    assert names(cli("threads", "--older-than", "1w")) == []
    assert [one["status"] for one in records(cli("threads", "--json").stdout)] == ["failed", "interrupted", "finished"]


@pytest.mark.usefixtures("url")
def test_many_threads_come_in_pages(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("durable_graph.cli.reading.PAGE", 2)
    assert names(cli("threads")) == ["fails", "asks", "done"]
    assert names(cli("threads", "--limit", "2")) == ["fails", "asks"]
    assert names(cli("threads", "--limit", "3")) == ["fails", "asks", "done"]


@pytest.mark.usefixtures("url")
def test_show_tells_a_state_whole(cli: Cli) -> None:
    told = cli("show", "asks").stdout
    (question,) = re.findall(r"\((\w{32})\)", told)
    assert [line for line in told.splitlines() if not line.startswith("step")] == [
        "thread     asks  interrupted  shop:graph",
        "by         Ada",
        "next       ask",
        f"           ask  asks: {{'send it?': 'lamp'}}  ({question})",
        "state",
        "    lines  [{'name': 'lamp', 'price': 5}]",
        "    item   'lamp'",
    ]
    assert "failed: ValueError: no parcel" in cli("show", "fails").stdout
    (record,) = records(cli("show", "asks", "--json").stdout)
    assert (record["thread"]["status"], record["step"], record["next"]) == ("interrupted", 2, ["ask"])
    assert record["values"] == {"lines": [{"name": "lamp", "price": 5}], "item": "lamp"}


@pytest.mark.usefixtures("url")
def test_show_as_of_a_step(cli: Cli) -> None:
    (record,) = records(cli("show", "asks", "--step", "0", "--json").stdout)
    assert record["values"] == {"item": "lamp", "lines": []}
    assert "state\n    lines  []\n    item   'lamp'\n" in cli("show", "asks", "--step", "0").stdout


@pytest.mark.usefixtures("url")
def test_a_thread_without_rows(cli: Cli, database_url: str) -> None:
    with Log(database_url) as log:
        log.create_thread("empty")
    assert names(cli("threads", "--status", "new")) == ["empty"]
    assert [line.split() for line in cli("show", "empty").stdout.splitlines()] == [
        ["thread", "empty", "new"], ["step", "none", "yet"], ["next", "an", "input"], ["state", "empty"]
    ]  # fmt: skip
    for command in ("history", "timeline"):
        assert cli(command, "empty").stdout == ""
    cli("diff", "empty", "done")
    cli("graph", "shop:plain", "--thread", "empty", "--format", "svg")
    cli("run", "shop:plain", "--thread", "empty", *LAMP)


def test_show_tells_large_values_and_subgraphs(cli: Cli, sqlite_url: str) -> None:
    item = "x" * 1000
    cli("run", "shop:outer", "--thread", "t", "--input", json.dumps({"item": item}), "--url", sqlite_url)
    told = cli("show", "t", "--subgraphs", "--url", sqlite_url).stdout
    assert "down  has a subgraph, next: ask" in told
    assert told.count(item) >= 3  # in the state and in both questions


@pytest.mark.usefixtures("url")
def test_timeline(cli: Cli) -> None:
    told = words(cli("timeline", "asks").stdout)
    assert [line[0] for line in told] == ["0", "1", "2"]
    assert told[0][2:] == ["input", "next:", "pay", "by", "Ada"]
    assert told[1][2:3] + told[1][-2:] == ["pay", "next:", "ask"]
    assert told[2][-4:] == ["asks:", "{'send", "it?':", "'lamp'}"]
    assert "failed: ValueError: no parcel" in cli("timeline", "fails").stdout
    newest, *_ = records(cli("timeline", "asks", "--newest-first", "--json").stdout)
    assert (newest["step"], newest["kind"], newest["interrupts"][0]["value"]) == (2, "interrupt", {"send it?": "lamp"})
    assert [line[0] for line in words(cli("timeline", "asks", "--after", "0", "--before", "2").stdout)] == ["1"]
    assert len(words(cli("timeline", "asks", "--limit", "1").stdout)) == 1


@pytest.mark.usefixtures("url")
def test_diff_of_two_steps_and_of_two_threads(cli: Cli) -> None:
    assert words(cli("diff", "asks", "--from", "0").stdout) == [
        ["+", "state['lines'][0]", "{'name':", "'lamp',", "'price':", "5}"]
    ]
    assert records(cli("diff", "done", "asks", "--json").stdout) == [
        {
            "path": "state['lines'][1]",
            "kind": "removed",
            "before": {"name": "parcel", "price": 1},
            "after": None,
        }
    ]
    same = cli("diff", "asks", "--from", "1", "--to", "2")
    assert (same.stdout, same.stderr) == ("", "no difference\n")


@pytest.mark.usefixtures("url")
def test_stats(cli: Cli) -> None:
    told = cli("stats").stdout
    assert re.search(r"^threads   .*failed 1", told)
    assert re.search(r"^lines  +\d+ B$", told, re.MULTILINE)
    assert re.search(r"^ship +2 +1 +0 ", told, re.MULTILINE)
    (record,) = records(cli("stats", "--json").stdout)
    assert record["rows"] == {"task": 4, "input": 3, "error": 1, "interrupt": 1}
    (record,) = records(cli("stats", "done", "--json").stdout)
    assert record["rows"] == {"task": 2, "input": 1}
    assert set(record["nodes"]["pay"]) == {"calls", "failures", "cached", "seconds", "longest", "mean"}


@pytest.mark.usefixtures("url")
def test_history_before_a_step(cli: Cli) -> None:
    assert [line[0] for line in words(cli("history", "asks").stdout)] == ["1", "0"]
    assert [line[0] for line in words(cli("history", "asks", "--before", "1").stdout)] == ["0"]
    assert cli("history", "asks", "--before", "0").stdout == ""


def test_looking_imports_nothing_of_the_application(cli: Cli, url: str) -> None:
    Path("shop.py").write_text("raise SystemExit('imported')")
    for command in (
        ["threads"], ["show", "asks"], ["timeline", "asks"], ["history", "asks"], ["diff", "asks", "done"], ["stats"],
        ["replay", "asks"], ["fork", "asks", "--to", "new"], ["signal", "asks", "go"], ["doctor"], ["verify", "--all"],
    ):  # fmt: skip
        cli(*command, "--url", url)


def test_nothing_that_is_stored_moves_a_cursor(cli: Cli, sqlite_url: str) -> None:
    cli("run", "shop:graph", "--thread", NASTY, "--input", json.dumps({"item": NASTY}), "--url", sqlite_url)
    for command in (["show", NASTY], ["timeline", NASTY], ["diff", NASTY, "--from", "0"], ["stats"], ["threads"]):
        told = cli(*command, "--url", sqlite_url).stdout
        assert told.replace("\n", "").isprintable(), command
        assert json.loads(cli(*command, "--url", sqlite_url, "--json").stdout.splitlines()[0])


def test_questions_and_figures_as_text() -> None:
    assert asked(Interrupt("sure?")) == "asks: 'sure?'"
    assert asked(Interrupt(Wait(None, "go"))) == "waits for the signal 'go'"
    assert asked(Interrupt(Wait("2026", "go"))) == "waits until 2026 or for the signal 'go'"
    assert len(asked(Interrupt("x" * 1000))) < 100 < len(asked(Interrupt("x" * 1000), whole=True))
    assert [size(n) for n in (0, 999, 1000, 1_234_567, 10**15)] == ["0 B", "999 B", "1.0 kB", "1.2 MB", "1000.0 TB"]
    assert [lasting(s) for s in (0, 0.0123, 1.5, 300, 7200, 10**6)] == [
        "0 us", "12 ms", "1.5 s", "5 min", "2 h", "12 days"
    ]  # fmt: skip


# --- replay and follow --------------------------------------------------------------------------


def test_replay_keeps_the_rhythm(cli: Cli, sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Log(sqlite_url) as log:
        store = log._stored()
        assert store.change_thread("t", Claim(None, values(status="finished")))
        body = b'{"update":{"n":1},"next":["pay"]}'
        moments = ["2026-01-01T00:00:00.000000Z", "2026-01-01T00:00:02.000000Z", "2026-01-02T00:00:02.000000Z"]
        first = row(0, thread_id="t", kind="input", node=None, task=None, body=body, created_at=moments[0])
        tasks = [row(step, thread_id="t", task=f"{step - 1}.0", body=body, created_at=moments[step]) for step in (1, 2)]
        store.append([first, *tasks])
    pauses: list[float] = []
    monkeypatch.setattr(watching, "pause", pauses.append)
    whole = cli("replay", "t", "--url", sqlite_url)
    assert pauses == []
    assert cli("replay", "t", "--url", sqlite_url, "--speed", "2").stdout == whole.stdout
    assert pauses == [1.0, 43200.0]
    pauses.clear()
    cli("replay", "t", "--url", sqlite_url, "--speed", "0.5", "--longest-pause", "5", "--mode", "values")
    assert pauses == [4.0, 5.0]


def test_a_rhythmic_replay_ends_with_ctrl_c(folder: Path, sqlite_url: str, cli: Cli) -> None:
    cli("run", "shop:plain", "--thread", "t", *LAMP, "--url", sqlite_url)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = start(folder, "replay", "t", "--url", sqlite_url, "--speed", "1e-9", "--mode", "events")
    finally:
        signal.signal(signal.SIGINT, before)
    assert process.stdout is not None
    assert process.stdout.readline().split()[:2] == ["0", "input"]
    process.send_signal(signal.SIGINT)
    assert finish(process, 130) == ("", "")


@pytest.mark.usefixtures("url")
def test_follow(cli: Cli) -> None:
    assert [line[0] for line in words(cli("follow", "done").stdout)] == ["1", "2"]
    assert records(cli("follow", "done", "--after", "1", "--json").stdout)[0]["step"] == 2
    assert len(words(cli("follow", "asks", "--timeout", "0").stdout)) == 2


def test_follow_shows_what_another_process_does(cli: Cli, folder: Path, database_url: str) -> None:
    (folder / "app.py").write_text(OTHER_APP)
    arguments = ("--url", database_url)
    running = start(folder, "run", "app:endless", "--thread", "t", "--input", '{"log": []}', *arguments)
    assert running.stdout is not None
    running.stdout.readline()
    following = start(folder, "follow", "t", *arguments)
    assert following.stdout is not None
    assert [following.stdout.readline().split()[0] for _ in range(3)] == ["1", "2", "3"]
    (folder / "enough").touch()
    finish(running, 0)
    finish(following, 0)


def test_a_message_of_langchain_is_told_as_a_dict() -> None:
    from langchain_core.messages import AIMessage

    assert plain(AIMessage("Hello!", id="1")) == {"type": "ai", "content": "Hello!", "id": "1"}


def test_messages(cli: Cli, folder: Path, sqlite_url: str) -> None:
    (folder / "chat.py").write_text("""
from durable_graph import START, MessagesState, StateGraph
builder = StateGraph(MessagesState).add_node("say", lambda state: {"messages": [{"role": "ai", "content": "Hello!"}]})
graph = builder.add_edge(START, "say")
""")
    settings = ("--url", sqlite_url, "--mode", "messages")
    run = cli("run", "chat:graph", "--thread", "t", "--input", '{"messages": [["user", "Hi"]]}', *settings)
    assert run.stdout.split() == ["1", "say", "'Hello!'"]
    assert cli("replay", "t", *settings).stdout == run.stdout
    (record,) = records(cli("follow", "t", *settings, "--json").stdout)
    assert (record["step"], record["data"][0]["content"]) == (1, "Hello!")


# --- changing -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("url")
def test_fork(cli: Cli) -> None:
    told = cli("fork", "asks", "--to", "b", "--step", "0", "--actor", "Bob")
    assert told.stdout.split() == ["b", "from", "step", "0", "of", "asks"]
    assert words(cli("timeline", "b").stdout)[0][2:] == ["fork", "of", "asks", "step", "0", "by", "Bob"]
    (record,) = records(cli("fork", "asks", "--to", "c", "--json").stdout)
    assert record == {"thread_id": "c", "step": 0, "origin": "asks", "origin_step": 2}
    assert "already is a thread" in the_error(cli("fork", "asks", "--to", "b", code=2))
    cli("resume", "shop:graph", "--thread", "b")
    assert "fork of" in cli("show", "b").stdout


@pytest.mark.usefixtures("url")
def test_a_signal_and_the_one_who_waits_for_it(cli: Cli) -> None:
    run = cli("run", "shop:waits", "--thread", "w", *LAMP)
    assert "waits for the signal 'go'; go on then with: durable-graph resume shop:waits --thread w" in run.stderr
    sent = cli("signal", "w", "go", "--value", '{"by": "Ada"}')
    assert "go on with it" in sent.stderr
    assert sent.stdout == "w has the signal 'go'\n"
    cli("resume", "shop:waits", "--thread", "w")
    (record,) = records(cli("show", "w", "--json").stdout)
    assert record["values"]["answer"] == {"by": "Ada"}
    assert records(cli("signal", "w", "later", "--text", "x", "--json").stdout) == [
        {"thread_id": "w", "signal": "later", "value": "x"}
    ]


@pytest.mark.parametrize("graph", ["graph", "slow"])
@pytest.mark.usefixtures("url")
def test_update(cli: Cli, graph: str) -> None:
    cli("run", f"shop:{graph}", "--thread", "t", *LAMP)
    told = cli("update", f"shop:{graph}", "--thread", "t", "--values", '{"answer": "by hand"}', "--actor", "Bob")
    assert told.stdout.split() == ["3", "next:", "ask" if graph == "graph" else "ask_later"]
    node = ("--as-node", "ask" if graph == "graph" else "ask_later")
    (record,) = records(
        cli("update", f"shop:{graph}", "--thread", "t", "--values", '{"answer": 1}', *node, "--json").stdout
    )
    assert record == {"thread_id": "t", "step": 4, "next": ["ship"]}
    ended = cli("update", f"shop:{graph}", "--thread", "t", "--values", "{}", "--as-node", "END")
    assert ended.stdout.split() == ["5", "end"]
    assert "by Bob" in cli("timeline", "t").stdout


# --- answering ----------------------------------------------------------------------------------


@pytest.mark.parametrize("graph", ["graph", "slow"])
@pytest.mark.usefixtures("url")
def test_a_question_is_answered(cli: Cli, graph: str) -> None:
    run = cli("run", f"shop:{graph}", "--thread", "t", *LAMP)
    hint = f"answer with: durable-graph answer shop:{graph} --thread t --text ..."
    assert run.stderr.splitlines()[-1].endswith(hint)
    told = cli("answer", f"shop:{graph}", "--thread", "t", "--text", "yes", "--json")
    assert [one["step"] for one in records(told.stdout)] == [4, 5]
    (record,) = records(cli("show", "t", "--json").stdout)
    assert record["values"]["answer"] == "yes"


@pytest.mark.usefixtures("url")
def test_one_of_several_questions_is_answered(cli: Cli) -> None:
    cli("run", "shop:both", "--thread", "t", *LAMP)
    error = the_error(cli("answer", "shop:both", "--thread", "t", "--value", "1", code=2))
    ids = re.findall(r"(\w{32}): '[ab]\?'", error)
    assert "choose one by --interrupt" in error
    assert len(ids) == 2
    first = cli("answer", "shop:both", "--thread", "t", "--value", "1", "--interrupt", ids[0])
    assert "answer with" in first.stderr  # the other
    cli("answer", "shop:both", "--thread", "t", "--value", "2")
    (record,) = records(cli("show", "t", "--json").stdout)
    assert record["values"]["lines"] == [1, 2]


PROGRAM = [sys.executable, "-c", "from durable_graph.cli import main; main(prog_name='durable-graph')"]


def started(folder: Path, terminal: int, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
    """In a terminal."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", **environment}
    streams = {"stdin": terminal, "stdout": terminal, "stderr": terminal}
    return subprocess.Popen([*PROGRAM, *arguments], cwd=folder, env=environment, **streams)


def test_a_person_is_asked(cli: Cli, folder: Path, sqlite_url: str) -> None:
    """In a terminal, with what was typed taken as JSON if it is some."""
    for typed, expected in ((b"yes\n", "yes"), (b'{"a": 1}\n', {"a": 1})):
        thread = f"t{len(typed)}"
        cli("run", "shop:graph", "--thread", thread, *LAMP, "--url", sqlite_url)
        terminal, inner = pty.openpty()
        process = started(folder, inner, "answer", "shop:graph", "--thread", thread, "--url", sqlite_url)
        os.close(inner)
        os.write(terminal, typed)
        told = drain(terminal)
        assert process.wait(timeout=60) == 0, told
        assert "asks: {'send it?': 'lamp'}" in told
        with Log(sqlite_url) as log:
            assert log.get_state({"thread_id": thread}).values["answer"] == expected


# --- recover's grace ----------------------------------------------------------------------------


@pytest.mark.parametrize(("database_url", "graph"), by_turns("endless", "async_endless"), indirect=["database_url"])
def test_recover_leaves_the_step_at_hand_its_time(cli: Cli, folder: Path, database_url: str, graph: str) -> None:
    """It is committed, no other one begins, and the next call finds the thread again."""
    (folder / "slow.py").write_text(OTHER_APP.replace("def step(state):\n", SLOW))
    url = ("--url", database_url)
    process = start(folder, "run", f"slow.py:{graph}", "--thread", "t", "--input", '{"log": []}', *url)
    assert process.stderr is not None
    assert process.stderr.readline() == "works\n"
    process.kill()
    process.communicate()
    recovering = start(folder, "recover", f"slow.py:{graph}", *url, "--grace", "60")
    assert recovering.stderr is not None
    assert recovering.stderr.readline() == "works\n"
    recovering.send_signal(signal.SIGTERM)
    (folder / "let go").touch()
    assert finish(recovering, 143) == ("", "stopped; what is left is found again by the same command\n")
    with Log(database_url) as log:
        assert log.get_state({"thread_id": "t"}).values["log"] == [0]
    (folder / "enough").touch()
    assert finish(start(folder, "recover", f"slow.py:{graph}", *url), 0)[0].split() == ["finished", "t"]


# --- drawing ------------------------------------------------------------------------------------


def test_a_graph_is_drawn(cli: Cli, folder: Path) -> None:
    assert cli("graph", "shop:graph").stdout.startswith("flowchart TD\n")
    assert "pay --> ask" in cli("graph", "shop:graph", "--format", "ascii").stdout
    assert cli("graph", "shop:graph", "--format", "svg").stdout.startswith("<svg")
    cli("graph", "shop:graph", "--out", "g.svg")
    assert (folder / "g.svg").read_text().startswith("<svg")
    (record,) = records(cli("graph", "shop:outer", "--xray", "--json").stdout)
    assert "down:ask" in record["nodes"]
    assert {"source": "down:ask", "target": "down:ship", "label": None, "conditional": False} in record["edges"]


def test_a_graph_is_drawn_with_what_a_thread_has_done(cli: Cli, url: str) -> None:
    for target, thread, expected in (
        ("shop:graph", "asks", {"pay": "done", "ask": "waiting"}),
        ("shop:plain", "fails", {"pay": "done", "ship": "failed"}),
        ("shop:plain", "done", {"pay": "done", "ship": "done"}),
    ):
        graph, _ = load_graph(target, url)
        with graph:
            assert states_of(graph, thread) == expected
    assert 'data-state="waiting"' in cli("graph", "shop:graph", "--thread", "asks", "--format", "svg").stdout


@pytest.mark.usefixtures("url")
def test_a_timeline_is_drawn(cli: Cli, folder: Path) -> None:
    cli("timeline", "done", "--out", "t.svg")
    assert "pay" in (folder / "t.svg").read_text()
    cli("timeline", "done", "--out", "t.txt", "--after", "1")
    told = (folder / "t.txt").read_text()
    assert "ship" in told
    assert "pay" not in told
    assert cli("timeline", "done", "--out", "-").stdout.startswith("<svg")


# --- doctor -------------------------------------------------------------------------------------


def checks(cli: Cli, *arguments: str, code: int = 0) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for record in records(cli("doctor", "--json", *arguments, code=code).stdout):
        found.setdefault(record["subject"], []).append(record)
    return found


def test_doctor_finds_nothing_wrong(cli: Cli, url: str) -> None:
    told = cli("doctor").stdout
    assert told.splitlines()[-1] == "nothing to mend"
    found = checks(cli)
    assert {level["level"] for levels in found.values() for level in levels} <= {"ok", "note"}
    assert found["threads"][0]["finding"] == "1 failed, 1 interrupted, 1 finished"
    assert found["database"][0]["finding"].endswith("($DURABLE_GRAPH_URL)")
    assert ("clock" in found) == ("postgresql" in url)


def test_doctor_finds_threads_that_nobody_runs(cli: Cli, url: str) -> None:
    long_ago = {"updated_at": "2026-01-01T00:00:00.000000Z", "lease_owner": None}
    with Log(url) as log:
        change = log._stored().change_thread
        assert change("done", Claim(1, {**long_ago, "status": "running"}))
        assert change("fails", Claim(1, {**long_ago, "status": "pending"}))
        assert change("asks", Claim(1, {**long_ago, "status": "waiting", "wake_at": long_ago["updated_at"]}))
    died, left, late = checks(cli, code=7)["threads"][1:]
    assert (died["level"], died["finding"]) == ("warning", "1 of 'shop:plain' were running when their process died")
    assert died["fix"].startswith("durable-graph recover MODULE:GRAPH")
    assert left["finding"].startswith("1 were left over an hour ago")
    assert late["finding"].startswith("1 have been able to go on")
    told = cli("doctor", code=7).stdout.splitlines()
    assert told[-1] == "2 warnings"


def test_doctor_finds_threads_without_a_worker(cli: Cli, url: str) -> None:
    with Log(url) as log:
        queued = {"updated_at": "2026-01-01T00:00:00.000000Z", "status": "queued"}
        assert log._stored().change_thread("done", Claim(1, queued))
        assert log._stored().change_thread("asks", Claim(1, {**queued, "wake_at": "9999-01-01T00:00:00.000000Z"}))
    (stuck,) = checks(cli, code=7)["threads"][1:]
    assert stuck["finding"] == "1 of 'shop:plain' have been waiting for a worker for ten minutes"
    assert stuck["fix"].startswith("Start durable-graph worker")


def test_doctor_before_there_is_a_database(cli: Cli, folder: Path) -> None:
    found = checks(cli)
    assert found["file"][0]["finding"] == "it is not there yet"
    assert not list(folder.glob("*.db"))
    found = checks(cli, "--url", "sqlite:///none/x.db", code=7)
    assert "there is no folder" in found["file"][0]["finding"]


def test_doctor_finds_an_older_schema(cli: Cli, folder: Path) -> None:
    cli("run", "shop:plain", *LAMP)
    with closing(sqlite3.connect("durable_graph.db")) as connection:
        connection.execute("UPDATE durable_graph_version SET version_num = '0000'")
        connection.commit()
    assert checks(cli, code=7)["schema"][0]["level"] == "error"


def test_doctor_of_a_postgres_without_tables_or_that_is_not_there(cli: Cli, empty_postgres_url: str) -> None:
    found = checks(cli, "--url", empty_postgres_url, code=7)
    assert found["schema"][0]["fix"] == "durable-graph db upgrade"
    nowhere = make_url(empty_postgres_url).set(host="127.0.0.1", port=1).render_as_string(hide_password=False)
    assert checks(cli, "--url", nowhere, code=7)["database"][1]["level"] == "error"
    assert checks(cli, "--url", "mysql://host/db", code=7)["database"][0]["level"] == "error"


def test_doctor_finds_a_key_that_is_missing(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DURABLE_GRAPH_ENCRYPTION_KEY", "00" * 32)
    cli("run", "shop:plain", "--thread", "t", *LAMP)
    assert {check["level"] for check in checks(cli)["keys"]} == {"ok", "note"}
    monkeypatch.setenv("DURABLE_GRAPH_ENCRYPTION_KEY", "11" * 32)
    (error,) = [check for check in checks(cli, code=7)["keys"] if check["level"] == "error"]
    assert "durable-graph db keys" in error["fix"]


def test_doctor_looks_at_the_environment(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DURABLE_GRAPH_KEYS", "x")
    monkeypatch.setenv("DURABLE_GRAPH_KEY", "short")
    found = checks(cli, code=7)
    assert found["environment"][0]["finding"] == "$DURABLE_GRAPH_KEYS means nothing to this version"
    assert "shorter than 16" in found["keys"][1]["finding"]


def test_doctor_knows_network_file_systems(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        f"/dev/sda / ext4 rw 0 0\nhost:/x {tmp_path}/my\\040share nfs4 rw 0 0\ntmpfs {tmp_path}/tmp tmpfs rw 0 0\n"
    )
    kinds = [doctor._file_system(tmp_path / name, mounts) for name in ("my share/a", "tmp", "my")]
    assert kinds == ["nfs4", "tmpfs", "ext4"]
    assert doctor._file_system(tmp_path, tmp_path / "none") == ""
    assert "nfs4" in doctor.NETWORK


def test_doctor_warns_of_a_postgres_that_is_not_durable() -> None:
    assert [c.level for c in doctor._postgres_durability({"fsync": "off", "full_page_writes": "on"})] == ["warning"]
    assert [c.level for c in doctor._postgres_durability({"fsync": "on", "full_page_writes": "on"})] == ["ok"]


@pytest.mark.parametrize(("ahead", "level"), [(0.5, "ok"), (-3, "warning"), (30, "error")])
def test_doctor_compares_clocks(ahead: float, level: str) -> None:
    check = doctor._clock(ahead)
    assert check.level == level
    assert ("behind" in check.finding) == (ahead < 0)


def test_what_doctor_cannot_look_at_hides_nothing_else() -> None:
    def look() -> Iterator[doctor.Check]:
        yield doctor.Check("a", "ok", "fine")
        raise RuntimeError("odd")

    found = list(doctor._guarded("a", look))
    assert [check.level for check in found] == ["ok", "warning"]
    assert "RuntimeError: odd" in found[1].finding


# --- completion ---------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_is_told_how_to_complete(cli: Cli, shell: str) -> None:
    told = cli("completion", shell).stdout
    assert "_DURABLE_GRAPH_COMPLETE" in told
    assert "durable-graph" in told


def completed(folder: Path, url: str, *words: str) -> list[str]:
    environment = {
        "COMP_WORDS": " ".join(["durable-graph", *words]), "COMP_CWORD": str(len(words)),
        "_DURABLE_GRAPH_COMPLETE": "bash_complete", "DURABLE_GRAPH_URL": url, "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    done = subprocess.run(
        PROGRAM, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.split()]


@pytest.mark.parametrize("database_url", ["sqlite", pytest.param("postgres", marks=pytest.mark.slow)], indirect=True)
def test_commands_and_threads_are_completed(folder: Path, url: str) -> None:
    assert completed(folder, url, "th") == ["threads"]
    assert completed(folder, url, "show", "f") == ["fails"]
    assert completed(folder, url, "diff", "asks", "d") == ["done"]
    assert completed(folder, url, "threads", "--graph", "shop:p") == ["shop:plain"]
    assert completed(folder, "sqlite:///none.db", "show", "") == []
    assert not (folder / "none.db").exists()


# --- what goes wrong ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["show", "nope"], 3, "no thread 'nope'"),
        (["show", "done", "--step", "99"], 3, "no step 99"),
        (["timeline", "nope"], 3, "no thread 'nope'"),
        (["diff", "done"], 2, "Name another thread, or a step by --from"),
        (["diff", "done", "nope"], 3, "no thread 'nope'"),
        (["diff", "done", "--from", "99"], 3, "no step 99"),
        (["stats", "nope"], 3, "no thread 'nope'"),
        (["follow", "nope"], 3, "no thread 'nope'"),
        (["replay", "done", "--speed", "0"], 2, "x>0"),
        (["replay", "done", "--longest-pause", "1"], 2, "is for --speed"),
        (["threads", "--newer-than", "soon"], 2, "is no age"),
        (["fork", "nope", "--to", "x"], 3, "no thread 'nope'"),
        (["fork", "done"], 2, "Missing option '--to'"),
        (["fork", "done", "--to", "x", "--step", "99"], 3, "no step 99"),
        (["signal", "nope", "go"], 3, "no thread 'nope'"),
        (["signal", "done", "go", "--value", "yes"], 2, "For a plain text give --text"),
        (["signal", "done", "go", "--value", "1", "--text", "1"], 2, "not both"),
        (["update", "shop:plain", "--thread", "nope", "--values", "{}"], 3, "no thread 'nope'"),
        (["update", "shop:plain", "--thread", "done", "--values", "{"], 2, "--values is no JSON"),
        (["update", "shop:plain", "--thread", "done", "--values", '{"x": 1}'], 2, "unknown key 'x'"),
        (["update", "shop:plain", "--thread", "done", "--values", "{}", "--as-node", "x"], 2, "'x'"),
        (["answer", "shop:graph", "--thread", "nope", "--text", "a"], 3, "does not exist"),
        (["answer", "shop:graph", "--thread", "done", "--text", "a"], 2, "asks nothing"),
        (["answer", "shop:graph", "--thread", "asks"], 2, "give --text or --value"),
        (["answer", "shop:graph", "--thread", "asks", "--text", "a", "--interrupt", "1"], 2, "no open question '1'"),
        (["graph", "shop:graph", "--thread", "asks"], 2, "is for --format svg"),
        (["graph", "shop:graph", "--format", "svg", "--thread", "nope"], 3, "no thread 'nope'"),
        (["graph", "shop:graph", "--out", "none/g.svg"], 2, "--out"),
        (["graph", "shop:none"], 2, "its graphs are"),
        (["completion", "tcsh"], 2, "'tcsh'"),
        (["recover", "shop:graph", "--grace", "-1"], 2, "x>=0"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_an_error_is_one_line_and_a_code(cli: Cli, arguments: list[str], code: int, says: str) -> None:
    cli("run", "shop:plain", "--thread", "done", *LAMP)
    cli("run", "shop:graph", "--thread", "asks", *LAMP)
    result = cli(*arguments, code=code)
    assert says in the_error(result)
    assert result.stdout == ""
    assert [one["thread_id"] for one in records(cli("threads", "--json").stdout)] == ["asks", "done"]


def test_help_shows_all_commands_by_what_one_does(cli: Cli) -> None:
    told = cli("--help").stdout
    assert [head for head in re.findall(r"^(\w[\w ]*):$", told, re.MULTILINE) if head != "Options"] == [
        "Run", "Look", "Change", "Keep", "Set up"
    ]  # fmt: skip
    assert all(re.search(rf"^  {name} ", told, re.MULTILINE) for name in main.commands)
    assert "..." not in told.partition("Exit codes")[0].replace("[ARGS]...", "")


def test_a_terminal_without_colour(cli: Cli, folder: Path, sqlite_url: str) -> None:
    cli("run", "shop:plain", "--thread", "t", *LAMP, "--url", sqlite_url)
    terminal, inner = pty.openpty()
    process = started(folder, inner, "threads", "--url", sqlite_url, NO_COLOR="1")
    os.close(inner)
    told = drain(terminal)
    assert process.wait(timeout=60) == 0
    assert "finished" in told
    assert not re.search(r"\x1b\[[0-9;]*3\d", told)


def test_the_reader_of_a_listing_has_gone(cli: Cli, folder: Path, sqlite_url: str) -> None:
    with Log(sqlite_url) as log:
        log.threads()
        for number in range(3000):
            assert log._stored().change_thread(f"t{number}", Claim(None, values()))
    process = start(folder, "threads", "--url", sqlite_url)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    process.stdout = None
    assert finish(process, 141)[1] == ""


def test_without_any_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    """`durable-graph … >&-`: there is nobody to tell."""
    monkeypatch.setattr(sys, "stdout", None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        Output(False).line({}, Column("nobody"))
