"""Secrets and privacy: what lies under `configurable` is never stored or told, and what was deleted is gone."""

from __future__ import annotations

import logging
import sqlite3
import sys
import traceback
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, TypedDict

import pytest
from click.testing import CliRunner
from conftest import connected
from sqlalchemy import make_url
from test_encryption import stored

from durable_graph import (
    START,
    ArgumentError,
    CachePolicy,
    CompiledGraph,
    Log,
    MessagesState,
    RetryPolicy,
    StateGraph,
    get_config,
    interrupt,
    task,
)
from durable_graph.cli import main
from tests.graphs import Runner, snapshot_each_barrier

SECRET = "sk-never-to-be-seen"
CONFIG = {"configurable": {"thread_id": "t", "token": SECRET, "deep": {"model": [SECRET]}, "model": SECRET}}


@pytest.fixture(params=["sync", "async"])
def run(request: pytest.FixtureRequest, database_url: str) -> Iterator[Runner]:
    with Runner(request.param, database_url) as runner:
        yield runner


class State(TypedDict, total=False):
    n: int
    text: str


@task(cache_policy=CachePolicy())
def length(n: int) -> int:
    return len(get_config()["configurable"]["token"]) * n


def drawing(run: Runner) -> StateGraph[State]:
    """Every node uses the secret, and fails, asks or shows something."""

    def use(state: State) -> State:
        assert get_config()["configurable"]["token"] == SECRET
        return {"n": length(2).result()}

    def ask(state: State) -> State:
        get_config()["configurable"]["deep"]["model"][0].upper()
        return {"text": interrupt("well?")}

    def fail(state: State) -> State:
        assert get_config()["configurable"]["deep"]["model"] == [SECRET]
        raise ValueError("it failed")

    inner = StateGraph(State).add_node("inner", run.node(use)).add_edge(START, "inner").compile()
    builder = StateGraph(State).add_node("use", run.node(use), cache_policy=CachePolicy())
    if run.way == "async":  # a plain task there is waited for by a plain node
        builder = StateGraph(State).add_node("use", use)
        inner = StateGraph(State).add_node("inner", use).add_edge(START, "inner").compile()
    builder.add_node("ask", run.node(ask)).add_node("inner", inner)
    builder.add_node("fail", run.node(fail), retry_policy=RetryPolicy(max_attempts=2, initial_interval=0, jitter=False))
    return builder.add_edge(START, "use").add_edge("use", "ask").add_edge("ask", "inner").add_edge("inner", "fail")


def test_what_is_under_configurable_is_never_stored(
    run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    snapshot_each_barrier(monkeypatch)
    graph = run.compile(drawing(run), cache=True)
    modes = ["updates", "values", "custom", "tasks", "checkpoints", "debug", "events"]
    told = run.stream(graph, {"n": 0}, CONFIG, stream_mode=modes, subgraphs=True)
    run.call(graph, "signal", CONFIG, "news", 1)
    run.update_state(graph, CONFIG, {"text": "so"}, as_node="ask")
    with pytest.raises(ValueError, match="it failed") as caught:
        run.stream(graph, None, CONFIG)
    run.fork(graph, CONFIG, "f")
    told += run.replay(graph, CONFIG, stream_mode=modes, subgraphs=True) + run.history(graph, CONFIG)
    assert "".join(traceback.format_exception(caught.value)).count("it failed")
    assert SECRET not in repr(told) + "".join(map(str, traceback.format_exception(caught.value))) + caplog.text
    found = stored(run.url, tmp_path)
    assert b"it failed" in found  # the search finds what is there
    assert SECRET.encode() not in found
    with Log(run.url) as log:
        assert SECRET not in "".join(log.export_thread({"thread_id": "t"}))


def test_what_a_chat_model_says_comes_without_it(run: Runner, tmp_path: Path) -> None:
    """langchain-core makes metadata of some of what lies under `configurable`, and those of messages are recorded."""
    messages = pytest.importorskip("langchain_core.messages")
    models = pytest.importorskip("langchain_core.language_models.fake_chat_models")
    model = models.GenericFakeChatModel(messages=iter([messages.AIMessage("hello you")]))

    def answer(state: Any, config: Any) -> Any:
        return {"messages": [model.invoke(state["messages"], config)]}

    graph = run.compile(StateGraph(MessagesState).add_node("a", run.node(answer)).add_edge(START, "a"))
    config = {**CONFIG, "metadata": {"mine": 1}}
    told = run.stream(graph, {"messages": "hi"}, config, stream_mode="messages")
    assert len(told) == 3
    assert all(metadata["mine"] == 1 for _, metadata in told)
    assert SECRET not in repr(told)
    assert run.replay(graph, CONFIG, stream_mode="messages") == told
    assert SECRET.encode() not in stored(run.url, tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"recursion_limit": "many"},
        {"tags": 5},
        {"metadata": 5},
        {"configurable": {**CONFIG["configurable"], "step": "x"}},
    ],
    ids=str,
)
def test_errors_about_a_config_do_not_tell_it(run: Runner, wrong: dict[str, Any]) -> None:
    graph = run.compile(drawing(run))
    with pytest.raises(ArgumentError) as caught:
        run.stream(graph, {"n": 0}, {**CONFIG, **wrong})
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_a_secret_in_place_of_a_mapping_is_not_told(run: Runner) -> None:
    with pytest.raises(ArgumentError, match="expected a dict, got str") as caught:
        run.stream(run.compile(drawing(run)), {"n": 0}, {"configurable": SECRET})
    assert SECRET not in str(caught.value)


# --- deleting -----------------------------------------------------------------------------------


def filled(run: Runner, thread_id: str, mark: str) -> CompiledGraph[Any]:
    builder = StateGraph(State).add_node("a", run.node(lambda state: {"n": 1, "text": mark * 3000}))
    builder.add_node("b", run.node(lambda state, runtime: {"text": runtime.wait_for("news")}))
    graph = run.compile(builder.add_edge(START, "a").add_edge("a", "b"))
    for _ in range(3):
        run.stream(graph, {"text": mark}, {"thread_id": thread_id, "metadata": {"mine": mark}})
        run.call(graph, "signal", {"thread_id": thread_id}, "news", mark * 500)
        run.stream(graph, None, {"thread_id": thread_id})
    run.call(graph, "signal", {"thread_id": thread_id}, "news", mark)
    return graph


def test_deleted_is_gone(run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the file and its WAL, while the database is open; in Postgres from all tables, and from its files after
    VACUUM, which is the server's business."""
    snapshot_each_barrier(monkeypatch)
    for number in range(20):  # pages that are shared, split and freed
        filled(run, f"other-{number}", f"kept{number}")
    graph = filled(run, "person-4711", "MARKED")
    before = stored(run.url, tmp_path)
    assert before.count(b"MARKED") > 10_000
    run.call(graph, "delete_thread", "person-4711")
    after = stored(run.url, tmp_path)
    assert after.count(b"MARKED") == 0
    assert after.count(b"person-4711") == 0
    assert after.count(b"kept7") > 1000
    assert all(report.ok for report in graph.verify_all())


@pytest.mark.parametrize("what", ["threads", "beginnings"])
def test_pruned_is_gone(run: Runner, tmp_path: Path, what: str) -> None:
    def node(state: State) -> dict[str, Any]:
        return {"text": "KEPT" if state["n"] else "MARKED" * 3000, "n": 1}

    builder = StateGraph(State).add_node("a", run.node(node)).add_node("b", run.node(lambda state: {"n": 2}))
    graph = run.compile(builder.add_edge(START, "a").add_edge("a", "b"))
    run.stream(graph, {"n": 0}, {"thread_id": "t"})
    if what == "threads":
        run.first(1, graph, {"n": 1}, {"thread_id": "u"})  # it has not finished
    else:
        run.stream(graph, {"n": 1}, {"thread_id": "t"})
    assert stored(run.url, tmp_path).count(b"MARKED") > 2000
    report = run.call(graph, "prune", **({"statuses": ["finished"]} if what == "threads" else {"keep_last": 1}))
    assert report.rows
    after = stored(run.url, tmp_path)
    assert (after.count(b"MARKED"), b"KEPT" in after) == (0, True)


def test_a_reader_in_between_holds_up_nobody(sqlite_url: str, tmp_path: Path) -> None:
    """It may still need what is in the WAL, which is emptied with the next delete."""
    with Runner("sync", sqlite_url) as run:
        graph = filled(run, "t", "MARKED")
        with closing(sqlite3.connect(tmp_path / "runs.db", isolation_level=None)) as reader:
            reader.execute("BEGIN")
            assert reader.execute("SELECT count(*) FROM checkpoints").fetchone()[0] > 5
            graph.delete_thread("t")
            reader.execute("COMMIT")
        run.stream(graph, {"n": 0}, {"thread_id": "u"})
        graph.delete_thread("u")
        assert b"MARKED" not in stored(sqlite_url, tmp_path)


# --- who did it ---------------------------------------------------------------------------------


def test_who_deleted_is_told_in_the_log_of_the_process(run: Runner, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "durable_graph")
    graph = filled(run, "t", "x")
    run.call(graph, "delete_thread", "t", actor="ann@example.com")
    assert "thread 't' was deleted by 'ann@example.com'" in caplog.text
    named = filled(run, "u", "x").with_config({"metadata": {"actor": "bob"}})
    run.call(named, "delete_thread", "u")
    assert "thread 'u' was deleted by 'bob'" in caplog.text
    with pytest.raises(ArgumentError, match="actor"):
        run.call(filled(run, "v", "x"), "delete_thread", "v", actor="")
    assert run.get_state(graph, {"thread_id": "v"}).values


def test_who_calls_from_the_shell(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "who.py").write_text(
        "from typing import TypedDict\n"
        "from durable_graph import START, StateGraph\n"
        "class State(TypedDict, total=False):\n    n: int\n"
        "def a(state: State) -> State:\n    raise ValueError('no')\n"
        "graph = StateGraph(State).add_node(a).add_edge(START, 'a')\n"
    )
    monkeypatch.delitem(sys.modules, "who", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    common = ["who.py:graph", "--thread", "t", "--url", database_url]
    assert CliRunner().invoke(main, ["run", *common, "--input", '{"n": -1}', "--actor", "ann"]).exit_code == 1
    assert CliRunner().invoke(main, ["resume", *common, "--actor", "bob"]).exit_code == 1
    with Log(database_url) as log:
        events = log.replay({"thread_id": "t"}, stream_mode="events")
        assert {event.kind: event.metadata["actor"] for event in events if event.kind != "error"} == {
            "input": "ann",
            "resume": "bob",
        }
        assert [state.metadata["actor"] for state in log.get_state_history({"thread_id": "t"})] == ["ann"]


# --- a role that may add and not change ---------------------------------------------------------


@pytest.fixture
def app_url(postgres_url: str) -> Iterator[str]:
    """The same database as a role with the rights that `durable-graph db grants` prints."""
    url = make_url(postgres_url)
    schema = str(url.query["application_name"])
    role = f'{schema}"app"'
    quoted = '"' + role.replace('"', '""') + '"'
    granted = CliRunner().invoke(main, ["db", "grants", role])
    assert granted.exit_code == 0
    with connected(url) as connection:
        connection.execute(f"CREATE ROLE {quoted} LOGIN PASSWORD 'app'")
        connection.execute(f"GRANT USAGE ON SCHEMA {schema} TO {quoted}")
        connection.execute(granted.stdout)
    yield url.set(username=role, password="app").render_as_string(hide_password=False)
    with connected(url) as connection:
        connection.execute(f"DROP OWNED BY {quoted}; DROP ROLE {quoted}")


def test_a_role_that_may_only_add(
    app_url: str, postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot_each_barrier(monkeypatch)
    with Runner("sync", app_url) as run:
        graph = run.compile(drawing(run), cache=True)
        run.stream(graph, {"n": 0}, CONFIG)
        run.update_state(graph, CONFIG, {"text": "so"}, as_node="ask")
        with pytest.raises(ValueError, match="it failed"):
            run.stream(graph, None, CONFIG)
        run.fork(graph, CONFIG, "f")
        filled(run, "u", "x")  # snapshots and signals
        graph.clear_cache()
        assert list(graph.recover()) == []
        assert len(list(graph.replay({"thread_id": "u"}))) == 9
        assert graph.encryption_keys().keys() == {None}
        assert all(report.ok for report in graph.verify_all())
        lines = list(graph.export_thread({"thread_id": "u"}))
        with pytest.raises(Exception, match=r"permission denied.*db grants"):
            graph.delete_thread("u")
        with Runner("sync", postgres_url) as owner:
            filled(owner, "v", "x").delete_thread("u")
        assert graph.import_thread(lines).ok


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE checkpoints SET node = 'other'",
        "DELETE FROM checkpoints",
        "TRUNCATE checkpoints",
        "DELETE FROM threads",
        "DROP TABLE checkpoints",
        "ALTER TABLE checkpoints DROP COLUMN hash",
        "INSERT INTO checkpoints SELECT * FROM checkpoints ON CONFLICT (thread_id, step) DO UPDATE SET node = 'other'",
        "UPDATE durable_graph_version SET version_num = '0099'",
    ],
)
def test_such_a_role_is_refused_by_the_server(app_url: str, statement: str) -> None:
    with Runner("sync", app_url) as run:
        filled(run, "t", "x")
        with (
            connected(make_url(app_url)) as connection,
            pytest.raises(Exception, match=r"permission denied|must be owner"),
        ):
            connection.execute(statement)
        with Log(app_url) as log:
            assert log.verify({"thread_id": "t"}).ok
