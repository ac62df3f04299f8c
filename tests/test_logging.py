"""What runs tell `logging`: with thread and step, nothing of the state, and nothing at all unless it is asked for."""

import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from graphs import WAYS, Calls, Runner, State, chain, new_thread

from durable_graph import START, Command, RetryPolicy, StateGraph, StoreError, ThreadBusyError, interrupt, watch
from durable_graph.store.sql import SqlStore

SECRET = "nobody may see this"


@pytest.fixture(params=WAYS)
def run(request: pytest.FixtureRequest, database_url: str) -> Iterator[Runner]:
    with Runner(request.param, database_url) as runner:
        yield runner


def told(caplog: pytest.LogCaptureFixture, thread: str) -> list[tuple[str, Any, str]]:
    """Level, step and words of each record of the thread; each says which one it is about."""
    records = [record for record in caplog.records if record.name == "durable_graph.run"]
    assert all(vars(record)["thread_id"] == thread and vars(record)["run_id"] for record in records)
    return [
        (record.levelname, vars(record)["step"], record.getMessage().partition(": ")[2] or record.getMessage())
        for record in records
    ]


def test_a_run_tells_when_it_begins_and_ends(run: Runner, caplog: pytest.LogCaptureFixture) -> None:
    graph, config = run.compile(chain(run, Calls(), "ab"), name="shop"), new_thread()
    thread = config["configurable"]["thread_id"]
    with caplog.at_level(logging.INFO, "durable_graph"):
        run.invoke(graph, {"log": [SECRET]}, config)
    assert told(caplog, thread) == [
        ("INFO", None, "graph 'shop' begins to run"),
        ("INFO", 2, "the run ended, the thread is finished"),
    ]
    assert caplog.messages[0] == f"thread {thread!r}: graph 'shop' begins to run"
    assert SECRET not in caplog.text


def test_at_debug_it_tells_of_each_row(run: Runner, caplog: pytest.LogCaptureFixture) -> None:
    calls = Calls()
    builder = StateGraph(State)
    policy = RetryPolicy(initial_interval=0, jitter=False)
    shaky = run.node(calls.failing("a", 1, lambda: ConnectionError(SECRET)))
    builder.add_node("a", shaky, retry_policy=policy)
    builder.add_node("ask", run.node(lambda state: {"log": [interrupt(SECRET)]}))
    graph = run.compile(builder.add_edge(START, "a").add_edge("a", "ask"), name="shop")
    config = new_thread()
    with caplog.at_level(logging.DEBUG, "durable_graph.run"):
        run.invoke(graph, {"log": [SECRET]}, config)
        run.invoke(graph, Command(resume=SECRET), config)
    assert told(caplog, config["configurable"]["thread_id"]) == [
        ("INFO", None, "graph 'shop' begins to run"),
        ("DEBUG", 0, "input"),
        ("DEBUG", 1, "task of node 'a', attempt 2"),
        ("DEBUG", 2, "interrupt of node 'ask'"),
        ("INFO", 2, "the run ended, the thread is interrupted"),
        ("INFO", None, "graph 'shop' begins to run"),
        ("DEBUG", 3, "resume"),
        ("DEBUG", 4, "task of node 'ask', attempt 2"),
        ("INFO", 4, "the run ended, the thread is finished"),
    ]
    assert [vars(record).get("node") for record in caplog.records][2:4] == ["a", "ask"]
    assert SECRET not in caplog.text


def test_a_failure_is_named_but_not_told(run: Runner, caplog: pytest.LogCaptureFixture) -> None:
    """What the error says may be of the state; it is raised anyway."""
    graph = run.compile(chain(run, Calls(), "a", a=Calls().failing("a", 1, lambda: ValueError(SECRET))))
    config = new_thread()
    with caplog.at_level(logging.INFO, "durable_graph"), pytest.raises(ValueError, match=SECRET):
        run.invoke(graph, {}, config)
    assert told(caplog, config["configurable"]["thread_id"])[-1] == ("INFO", 1, "the run ended with ValueError")
    assert SECRET not in caplog.text


def test_a_run_that_is_left_tells_so(run: Runner, caplog: pytest.LogCaptureFixture) -> None:
    graph, config = run.compile(chain(run, Calls(), "ab")), new_thread()
    with caplog.at_level(logging.INFO, "durable_graph"):
        run.first(1, graph, {}, config)
    assert told(caplog, config["configurable"]["thread_id"])[-1] == ("INFO", 1, "the run ended, the thread is pending")


def test_a_run_that_finds_its_thread_busy_says_so(run: Runner, caplog: pytest.LogCaptureFixture) -> None:
    inside, leave = threading.Event(), threading.Event()
    node = run.waiting(leave, lambda state: {}, before=lambda state: inside.set())
    graph, config = run.compile(StateGraph(State).add_node("a", node).add_edge(START, "a")), new_thread()
    first = threading.Thread(target=run.invoke, args=[graph, {}, config])
    first.start()
    assert inside.wait(20)
    with caplog.at_level(logging.INFO, "durable_graph"):
        with pytest.raises(ThreadBusyError):
            run.invoke(graph, {}, config)
        _, end = told(caplog, config["configurable"]["thread_id"])
        assert end == ("INFO", -1, "the run ended with ThreadBusyError")
    leave.set()
    first.join()


def test_runs_of_subgraphs_are_told_of_at_debug(run: Runner, caplog: pytest.LogCaptureFixture) -> None:
    inner = chain(run, Calls(), "x").compile(name="inner")
    graph = run.compile(StateGraph(State).add_node("sub", inner).add_edge(START, "sub"), name="outer")
    with caplog.at_level(logging.INFO, "durable_graph"):
        run.invoke(graph, {}, new_thread())
    assert "inner" not in caplog.text
    with caplog.at_level(logging.DEBUG, "durable_graph"):
        run.invoke(graph, {}, new_thread())
    assert "graph 'inner' begins to run" in caplog.text


def test_rows_that_could_not_be_saved_are_told_of(
    run: Runner, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, config = run.compile(chain(run, Calls(), "ab")), new_thread()
    append, left = SqlStore.append, iter([True, True, False])

    def fails(self: SqlStore, *given: Any, **more: Any) -> None:
        if not next(left):
            raise StoreError(store=self.name, problem="it is full", fix="Make room.")
        append(self, *given, **more)

    monkeypatch.setattr(SqlStore, "append", fails)
    with caplog.at_level(logging.DEBUG, "durable_graph"), pytest.raises(StoreError):
        run.invoke(graph, {}, config)
    assert told(caplog, config["configurable"]["thread_id"])[-2:] == [
        ("DEBUG", 2, "1 rows were not committed: StoreError"),
        ("INFO", 2, "the run ended with StoreError"),
    ]


def test_unless_it_is_asked_for_nothing_is_told_or_wrapped(caplog: pytest.LogCaptureFixture) -> None:
    assert not logging.getLogger("durable_graph.run").isEnabledFor(logging.INFO)  # Python's own default is WARNING
    with Runner("sync", False) as run:
        graph = run.compile(chain(run, Calls(), "a"))
        session = graph._session({}, None, "updates", {})
        steps = watch.watched(session._begin("owner"), None)
        assert steps.gi_code is type(session.run).steps.__code__
        steps.close()
        run.invoke(graph, {})
    assert not caplog.records


def test_who_deletes_says_so_with_the_thread(run: Runner, caplog: pytest.LogCaptureFixture) -> None:
    graph, config = run.compile(chain(run, Calls(), "a")), new_thread()
    run.invoke(graph, {}, config)
    thread = config["configurable"]["thread_id"]
    with caplog.at_level(logging.INFO, "durable_graph"):
        run.call(graph, "delete_thread", thread, actor="ann")
    (record,) = caplog.records
    assert (record.name, vars(record)["thread_id"]) == ("durable_graph.threads", thread)
