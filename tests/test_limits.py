"""Limits: what is too large is refused by name before anything is written; corrected, the thread goes on."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Annotated, Any, TypedDict

import pytest

from durable_graph import (
    START,
    ArgumentError,
    Command,
    Limits,
    StateGraph,
    TooLargeError,
    UnstorableValueError,
    entrypoint,
    get_stream_writer,
    interrupt,
    task,
)
from durable_graph.limits import MAX_DEPTH
from tests.graphs import Calls, Runner, chain, snapshot_each_barrier

CONFIG = {"thread_id": "t"}
SMALL = Limits(row_bytes=2000)
LARGE = "x" * 3000


@pytest.fixture(params=["sync", "async"])
def run(request: pytest.FixtureRequest, database_url: str) -> Iterator[Runner]:
    with Runner(request.param, database_url) as runner:
        yield runner


class State(TypedDict, total=False):
    log: Annotated[list[str], operator.add]
    data: Any


def one(run: Runner, node: Any) -> StateGraph[State]:
    return StateGraph(State).add_node("a", run.node(node)).add_edge(START, "a")


def test_an_update(run: Runner) -> None:
    calls = Calls()

    def graph(data: Any) -> Any:
        builder = chain(run, calls, b=lambda state: {"log": ["b"], "n": data})
        return run.compile(builder, limits=SMALL)

    with pytest.raises(TooLargeError) as caught:
        run.stream(graph({"deep": ["small", LARGE]}), {"log": []}, CONFIG)
    error = caught.value
    assert (error.node, error.thread_id, error.step) == ("b", "t", 2)
    assert (error.path, error.size, error.limit) == ("['update']['n']['deep'][1]", 3002, 2000)
    assert error.row > 3002
    for word in ("Node 'b' of thread 't'", "['update']['n']['deep'][1]", "3,002 bytes", "2,000", "row_bytes"):
        assert word in str(error)
    assert isinstance(error, UnstorableValueError)
    assert [state.next for state in run.history(graph(1), CONFIG)] == [("b",), ("a",), ("__start__",)][:2]
    assert run.invoke(graph("small"), None, CONFIG)["log"] == ["a", "b", "c"]
    assert calls == ["a", "c"]


def test_many_small_things_are_too_large_together(run: Runner) -> None:
    graph = run.compile(one(run, lambda state: {"log": ["x" * 10] * 300}), limits=SMALL)
    with pytest.raises(TooLargeError) as caught:
        run.stream(graph, {}, CONFIG)
    assert caught.value.path == "['update']['log']"


def test_an_input_an_answer_a_signal_and_an_update_of_the_state(run: Runner) -> None:
    graph = run.compile(one(run, lambda state: {"data": interrupt("?")}), limits=SMALL)
    with pytest.raises(TooLargeError, match="The input of thread 't'"):
        run.stream(graph, {"data": LARGE}, CONFIG)
    assert run.get_state(graph, CONFIG).created_at is None
    with pytest.raises(TooLargeError, match="The input of thread 't'"):
        run.stream(graph, {}, {**CONFIG, "metadata": {"mine": LARGE}})
    run.stream(graph, {}, CONFIG)
    with pytest.raises(TooLargeError, match=r"The resume of thread 't'"):
        run.stream(graph, Command(resume=LARGE), CONFIG)
    with pytest.raises(TooLargeError, match=r"\['update'\]\['data'\]"):
        run.update_state(graph, CONFIG, {"data": LARGE}, as_node="a")
    with pytest.raises(TooLargeError, match="The signal 'news' of thread 't'"):
        run.call(graph, "signal", CONFIG, "news", LARGE)
    assert run.invoke(graph, Command(resume="small"), CONFIG)["data"] == "small"


def test_a_result_of_a_task_is_the_nodes_error(run: Runner) -> None:
    @task
    def large() -> str:
        return LARGE

    @entrypoint(run.url, limits=SMALL)
    def flow(word: str) -> str:
        try:
            return large().result()
        except TooLargeError as error:
            return error.path

    with flow:
        assert flow.invoke("x", CONFIG) == "['result']"


def test_what_is_shown_is_counted_where_it_is_said(run: Runner) -> None:
    def node(state: State) -> State:
        write = get_stream_writer()
        for place in range(10):
            write({"place": place, "data": "x" * 500})
        return {}

    graph = run.compile(one(run, node), limits=SMALL)
    told: list[Any] = []
    with pytest.raises(TooLargeError, match="Node 'a' of thread 't' has shown too much"):
        run.watch(told.append, graph, {}, CONFIG, stream_mode="custom")
    assert [each["place"] for each in told] == [0, 1, 2]
    assert run.replay(graph, CONFIG, stream_mode="custom") == told  # the row of the error keeps them
    assert run.invoke(run.compile(one(run, lambda state: {"data": 1})), None, CONFIG)["data"] == 1


def test_an_error_is_recorded_however_small_the_limit(run: Runner) -> None:
    def node(state: State) -> State:
        raise ValueError("y" * 5000)

    graph = run.compile(one(run, node), limits=Limits(row_bytes=1000))
    with pytest.raises(ValueError, match="yyy"):
        run.stream(graph, {}, CONFIG)
    assert "yyy" in run.get_state(graph, CONFIG).tasks[0].error


def test_signals_that_came_in_time_keep_no_thread_from_going_on(run: Runner) -> None:
    """Each may be nearly as large as a row, and both are there when the thread goes on."""
    builder = StateGraph(State)
    for name in "ab":
        builder.add_node(name, run.node(lambda state, runtime, name=name: {"log": [runtime.wait_for(name)[:1]]}))
        builder.add_edge(START, name)
    graph = run.compile(builder, limits=Limits(row_bytes=1990))
    run.stream(graph, {}, CONFIG)
    for name in "ab":
        run.call(graph, "signal", CONFIG, name, name * 1980)
    run.stream(graph, None, CONFIG)
    assert run.get_state(graph, CONFIG).values["log"] == ["a", "b"]
    assert run.call(graph, "verify", CONFIG).ok


def test_a_snapshot_that_is_too_large_is_none(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a cache: the rows are read."""
    snapshot_each_barrier(monkeypatch)
    graph = run.compile(one(run, lambda state: {"log": ["x" * 500]}), limits=SMALL)
    for _ in range(6):
        run.stream(graph, {}, CONFIG)
    newest = graph._stored().snapshot("t", until=100)
    assert newest is None or len(newest[1]) <= 2000
    assert run.get_state(graph, CONFIG).values["log"] == ["x" * 500] * 6


def test_a_state_may_be_deeper_than_its_updates(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot_each_barrier(monkeypatch)

    class Wrapped(TypedDict, total=False):
        data: Annotated[Any, lambda old, new: [[[new]]] if new else old]

    value: Any = 0
    for _ in range(MAX_DEPTH - 6):
        value = [value]
    builder = StateGraph(Wrapped).add_node("a", run.node(lambda state: {"data": value})).add_edge(START, "a")
    graph = run.compile(builder)
    for _ in range(2):  # the first write is not reduced
        run.stream(graph, {}, CONFIG)
    assert run.get_state(graph, CONFIG).values["data"] == [[[value]]]


def test_nesting(run: Runner) -> None:
    graph = run.compile(one(run, lambda state: {"data": [[[[1]]]]}), limits=Limits(nesting=4))
    with pytest.raises(UnstorableValueError, match="deeper than 4 levels") as caught:
        run.stream(graph, {}, CONFIG)
    assert "['update']['data'][0]" in str(caught.value)
    assert "in node 'a' of thread 't'" in caught.value.__notes__
    assert run.invoke(run.compile(one(run, lambda state: {"data": [[1]]}), limits=Limits(nesting=4)), None, CONFIG)


def test_ids(run: Runner) -> None:
    graph = run.compile(one(run, lambda state: None), limits=Limits(thread_id_bytes=4))
    for wrong in ("abcde", "éé4"):
        with pytest.raises(ArgumentError, match=r"thread_id: is 5 bytes long, .* at most 4 bytes"):
            run.stream(graph, {}, {"thread_id": wrong})
    run.stream(graph, {"data": 1}, {"thread_id": "abcd"})
    with pytest.raises(ArgumentError, match="to: is 6 bytes long"):
        run.fork(graph, {"thread_id": "abcd"}, "abcdef")
    run.fork(graph, {"thread_id": "abcd"}, "f")


def test_subgraphs_have_the_limits_of_the_graph_above(run: Runner) -> None:
    inner = one(run, lambda state: {"data": LARGE}).compile()
    builder = StateGraph(State).add_node("sub", inner).add_edge(START, "sub")
    with pytest.raises(TooLargeError, match="Node 'a'"):
        run.stream(run.compile(builder, limits=SMALL), {}, CONFIG)
    wide = one(run, lambda state: {"data": LARGE}).compile(limits=SMALL)
    builder = StateGraph(State).add_node("sub", wide).add_edge(START, "sub")
    assert run.invoke(run.compile(builder), {}, {"thread_id": "u"})["data"] == LARGE


@pytest.mark.parametrize(
    "wrong",
    [
        {"row_bytes": 0},
        {"row_bytes": 10**9},
        {"row_bytes": 1e6},
        {"nesting": MAX_DEPTH + 1},
        {"nesting": True},
        {"thread_id_bytes": 2001},
        {"thread_id_bytes": "5"},
    ],
    ids=repr,
)
def test_limits_that_are_none(wrong: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match=rf"Limits\({next(iter(wrong))}=...\).*whole number from 1 to"):
        Limits(**wrong)
