"""Drawing graphs and what running them means: schemas, reducers, nodes, edges, routing, and what compile() refuses.

What a run means does not depend on the database, so these graphs have none, unless a test says otherwise.
"""

import asyncio
import functools
import operator
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Annotated, Any, Literal, NotRequired, Required, TypedDict

import pytest
from pydantic import BaseModel, Field

from durable_graph import (
    END,
    START,
    ArgumentError,
    CallError,
    Command,
    DrawingError,
    GraphRecursionError,
    InvalidUpdateError,
    NodeError,
    NodeTimeoutError,
    Overwrite,
    RetryPolicy,
    RoutingError,
    Runtime,
    Send,
    StateGraph,
    StreamWriter,
    TimeoutPolicy,
    adrivers,
    drivers,
    entrypoint,
    get_config,
    get_runtime,
    get_stream_writer,
)
from durable_graph.core.effects import Job
from durable_graph.core.model import Task
from tests.graphs import PATIENCE, WAYS, Calls, Runner, State, chain, counter, new_thread, nodes_of, wide


@pytest.fixture(params=WAYS)
def run(request: pytest.FixtureRequest) -> Iterator[Runner]:
    with Runner(request.param, False) as runner:
        yield runner


@pytest.fixture(params=WAYS)
def stored(request: pytest.FixtureRequest, database_url: str) -> Iterator[Runner]:
    with Runner(request.param, database_url) as runner:
        yield runner


def one_node(run: Runner, schema: Any, node: Any, **schemas: Any) -> Any:
    return run.compile(StateGraph(schema, **schemas).add_node("a", run.node(node)).add_edge(START, "a"))


# --- schemas ----------------------------------------------------------------------------------


def test_a_typed_dict_state(run: Runner) -> None:
    seen: list[Any] = []
    graph = one_node(run, State, lambda state: seen.append(dict(state)) or {"n": state["n"] + 1})
    assert run.invoke(graph, {"n": 1}) == {"n": 2, "log": []}
    assert run.invoke(graph, {"n": 1, "log": ["x"]}) == {"n": 2, "log": ["x"]}
    assert seen == [{"n": 1, "log": []}, {"n": 1, "log": ["x"]}]


class Marked(TypedDict, total=False):
    name: Required[str]
    tags: NotRequired[Annotated[list[str], operator.add]]
    remark: Annotated[str, "only a remark"]


def test_required_and_remarks_in_annotations(run: Runner) -> None:
    graph = one_node(run, Marked, lambda state: {"tags": ["a"], "remark": "new"})
    assert run.invoke(graph, {"name": "x", "tags": ["i"]}) == {"name": "x", "tags": ["i", "a"], "remark": "new"}


class Base(TypedDict):
    first: str


class Child(Base):
    second: Annotated[list[int], operator.add]


def test_an_inherited_typed_dict(run: Runner) -> None:
    graph = one_node(run, Child, lambda state: {"first": state["first"] + "!", "second": [2]})
    assert run.invoke(graph, {"first": "f", "second": [1]}) == {"first": "f!", "second": [1, 2]}


@dataclass
class Point:
    x: int = 5
    name: str = "none"
    log: Annotated[list[str], operator.add] = field(default_factory=list)


def test_a_dataclass_state(stored: Runner) -> None:
    """Nodes receive an instance; defaults are filled in for them, not stored; an instance may be returned."""
    run, seen = stored, []
    builder = StateGraph(Point)
    builder.add_node("a", run.node(lambda state: seen.append(state) or {"x": state.x + 1}))
    builder.add_node("b", run.node(lambda state: seen.append(state) or Point(name="q", log=["b"])))
    graph = run.compile(builder.add_edge(START, "a").add_edge("a", "b"))
    assert run.invoke(graph, {"log": ["in"]}, new_thread()) == {"x": 5, "name": "q", "log": ["in", "b"]}
    assert seen == [Point(log=["in"]), Point(6, log=["in"])]
    assert run.invoke(graph, Point(x=1), new_thread()) == {"x": 5, "name": "q", "log": ["b"]}
    assert run.stream(graph, {"x": 1}, new_thread(), stream_mode="values") == [
        {"x": 1, "log": []},
        {"x": 2, "log": []},
        {"x": 5, "name": "q", "log": ["b"]},
    ]


class Model(BaseModel):
    x: int = 5
    name: str = "none"
    log: Annotated[list[str], operator.add] = []
    small: Annotated[int, Field(ge=0)] = 0


def test_a_pydantic_state(stored: Runner) -> None:
    """Nodes receive a validated instance, and may return one."""
    run, seen = stored, []
    builder = StateGraph(Model)
    builder.add_node("a", run.node(lambda state: seen.append(state) or {"x": state.x + 1}))
    builder.add_node("b", run.node(lambda state: seen.append(state) or Model(name="q", log=["b"])))
    graph = run.compile(builder.add_edge(START, "a").add_edge("a", "b"))
    assert run.invoke(graph, {"log": ["in"]}, new_thread()) == {
        "x": 5,
        "name": "q",
        "log": ["in", "b"],
        "small": 0,
    }
    assert seen == [Model(log=["in"]), Model(x=6, log=["in"])]
    assert run.stream(graph, Model(x=1), new_thread(), stream_mode="values")[1]["x"] == 2
    seen.clear()
    run.invoke(graph, {"x": "7"}, new_thread())
    assert seen[0].x == 7  # what nodes see is validated


@dataclass
class Optional:
    x: int | None = 5
    y: str | None = None


class OptionalModel(BaseModel):
    x: int | None = 5
    y: str | None = None


@pytest.mark.parametrize(
    ("schema", "last"),
    [(Optional, {"x": None, "y": None}), (OptionalModel, {"x": None, "y": "old"})],
    ids=["dataclass", "pydantic"],
)
def test_what_a_returned_instance_writes(run: Runner, schema: Any, last: dict[str, Any]) -> None:
    """As in LangGraph: of a dataclass every field; of a pydantic model not a default None that nobody set."""
    graph = one_node(run, schema, lambda state: schema(x=None))
    assert run.invoke(graph, {"x": 1, "y": "old"}) == last


def test_pydantic_fields_are_checked_where_they_are_written(run: Runner) -> None:
    bad = one_node(run, Model, lambda state: {"small": -1})
    with pytest.raises(InvalidUpdateError, match=r"Node 'a'.*'small'.*greater than or equal to 0"):
        run.invoke(bad, {})
    with pytest.raises(InvalidUpdateError, match=r"The input.*'x'.*valid integer"):
        run.invoke(bad, {"x": "no number"})


class Whole(TypedDict, total=False):
    question: str
    answer: str


class Question(TypedDict):
    question: str


class Answer(TypedDict):
    answer: str


class Private(TypedDict):
    secret: str


def private_graph(run: Runner, seen: list[Any]) -> Any:
    def ask(state: Question) -> Private:
        seen.append(dict(state))
        return {"secret": state["question"] + "!"}

    def tell(state: Private) -> Answer:
        seen.append(dict(state))
        return {"answer": state["secret"] * 2}

    builder = StateGraph(Whole, input_schema=Question, output_schema=Answer)
    builder.add_node("ask", run.node(ask)).add_node("tell", run.node(tell))
    return run.compile(builder.add_edge(START, "ask").add_edge("ask", "tell"))


def test_input_output_and_private_schemas(run: Runner) -> None:
    seen: list[Any] = []
    graph = private_graph(run, seen)
    assert run.invoke(graph, {"question": "hi"}) == {"answer": "hi!hi!"}
    assert seen == [{"question": "hi"}, {"secret": "hi!"}]
    with pytest.raises(InvalidUpdateError, match="unknown key 'answer'"):
        run.invoke(graph, {"question": "hi", "answer": "none of the input's keys"})


def test_a_stream_shows_private_keys_too(stored: Runner) -> None:
    """As in LangGraph: the output schema is what invoke returns; a stream and get_state show every key."""
    run = stored
    graph, config = private_graph(run, []), new_thread()
    assert run.stream(graph, {"question": "hi"}, config) == [{"ask": {"secret": "hi!"}}, {"tell": {"answer": "hi!hi!"}}]
    assert run.stream(graph, {"question": "hi"}, new_thread(), stream_mode="values") == [
        {"question": "hi"},
        {"question": "hi", "secret": "hi!"},
        {"question": "hi", "secret": "hi!", "answer": "hi!hi!"},
    ]
    assert run.get_state(graph, config).values == {"question": "hi", "secret": "hi!", "answer": "hi!hi!"}


def test_a_node_may_name_its_input_schema(run: Runner) -> None:
    seen: list[Any] = []
    builder = StateGraph(Whole)
    builder.add_node("a", run.node(lambda state: seen.append(state) or {"answer": "x"}), input_schema=Question)
    graph = run.compile(builder.add_edge(START, "a"))
    run.invoke(graph, {"question": "q", "answer": "old"})
    assert seen == [{"question": "q"}]


# --- reducers ---------------------------------------------------------------------------------


def longest(old: str, new: str) -> str:
    return max(old, new, key=len)


class Reduced(TypedDict, total=False):
    number: Annotated[int, operator.add]
    text: Annotated[str, operator.add]
    items: Annotated[list[int], operator.add]
    pair: Annotated[tuple[int, ...], operator.add]
    table: Annotated[dict[str, int], operator.or_]
    union: Annotated[set[int], operator.or_]
    best: Annotated[int, max]
    word: Annotated[str, longest]
    maybe: Annotated[int | None, lambda old, new: (old or 0) + (new or 0)]
    plain: int


def test_reducers(stored: Runner) -> None:
    run = stored

    def first(state: Any) -> dict[str, Any]:
        return {
            "number": 1, "text": "x", "items": [1], "pair": (1,), "table": {"a": 1, "b": 1}, "union": {1},
            "best": 3, "word": "long", "maybe": 2, "plain": 1,
        }  # fmt: skip

    def second(state: Any) -> dict[str, Any]:
        return {
            "number": 5, "text": "y", "items": [2], "pair": (2,), "table": {"b": 2}, "union": {2},
            "best": 2, "word": "no", "maybe": 2, "plain": 2,
        }  # fmt: skip

    builder = StateGraph(Reduced)
    builder.add_node("first", run.node(first)).add_node("second", run.node(second))
    graph, config = run.compile(builder.add_edge(START, "first").add_edge("first", "second")), new_thread()
    expected = {
        "number": 16, "text": "ixy", "items": [0, 1, 2], "pair": (1, 2), "table": {"a": 1, "b": 2}, "union": {1, 2},
        "best": 3, "word": "long", "maybe": 4, "plain": 2,
    }  # fmt: skip
    assert run.invoke(graph, {"number": 10, "text": "i", "items": [0]}, config) == expected
    again = run.get_state(graph, config).values
    assert again == expected
    assert {key: type(value) for key, value in again.items()} == {key: type(v) for key, v in expected.items()}
    *_, replayed = run.replay(graph, config, stream_mode="values")
    assert replayed == expected


def test_what_reducers_start_from(run: Runner) -> None:
    """The empty value of the annotated type, as in LangGraph; without one, the first write."""
    graph = one_node(run, Reduced, lambda state: {"maybe": 7, "best": -3})
    empty = {"number": 0, "text": "", "items": [], "pair": (), "table": {}, "union": set(), "best": 0, "word": ""}
    assert run.stream(graph, {}, stream_mode="values") == [empty, {**empty, "maybe": 7}]


@pytest.mark.parametrize("order", ["abc", "cba", "bac"])
def test_reducers_apply_in_the_order_of_tasks_whoever_is_first(stored: Runner, order: str) -> None:
    """The nodes end one after the other, in the given order; the state is the same."""
    run, calls = stored, Calls()
    ended = {name: threading.Event() for name in order}
    first = threading.Event()
    first.set()
    previous = dict(zip(order, [first, *[ended[name] for name in order]], strict=False))
    graph = run.compile(wide(run, calls, **{n: run.waiting(previous[n], calls.node(n)) for n in order}))
    config = new_thread()
    events = run.watch(lambda event: [ended[n].set() for n in event if n in ended], graph, {"log": []}, config)
    assert nodes_of(events) == [*order, "end"]
    assert run.get_state(graph, config).values == {"log": ["a", "b", "c", "end"]}
    assert nodes_of(run.replay(graph, config)) == [*order, "end"]


def overwriting(run: Runner, which: str) -> Any:
    """a, b and c side by side; those in `which` overwrite."""
    calls = Calls()

    def node(name: str) -> Any:
        return lambda state: {"log": Overwrite([name.upper()])} if name in which else calls.node(name)(state)

    return run.compile(wide(run, calls, **{name: node(name) for name in "abc"}))


@pytest.mark.parametrize("which", ["a", "b", "c"])
def test_overwrite_replaces_what_the_reducer_would_have_made(stored: Runner, which: str) -> None:
    """Wherever it stands among its siblings, as in LangGraph: their writes to that key are dropped."""
    graph, config = overwriting(stored, which), new_thread()
    assert stored.invoke(graph, {"log": ["in"]}, config) == {"log": [which.upper(), "end"]}
    *_, replayed = stored.replay(graph, config, stream_mode="values")
    assert replayed == {"log": [which.upper(), "end"]}


def test_two_overwrites_of_a_key_in_one_superstep_are_refused(stored: Runner) -> None:
    graph, config = overwriting(stored, "bc"), new_thread()
    with pytest.raises(InvalidUpdateError, match=r"(?i)'log'.*overwrite"):
        stored.invoke(graph, {"log": ["in"]}, config)
    assert stored.get_state(graph, config).values == {"log": ["in"]}


def test_an_overwrite_with_an_empty_list(stored: Runner) -> None:
    graph, config = stored.compile(chain(stored, Calls(), "ab", b=lambda state: {"log": Overwrite([])})), new_thread()
    assert stored.invoke(graph, {"log": ["in"]}, config) == {"log": []}
    assert stored.invoke(graph, {"log": ["in"]}, config) == {"log": []}
    assert stored.invoke(graph, {"log": Overwrite(["x"])}, config) == {"log": []}


def extending(old: list[str], new: list[str]) -> list[str]:
    old.extend(new)
    return old


class Extended(TypedDict, total=False):
    log: Annotated[list[str], extending]


def test_a_reducer_that_changes_its_first_argument(stored: Runner) -> None:
    """It is called for the router and again at the barrier: the write still counts once. (In LangGraph, twice.)"""
    builder = StateGraph(Extended)
    builder.add_sequence([(name, stored.node(Calls().node(name))) for name in "ab"])
    builder.add_conditional_edges("b", stored.node(lambda state: END)).add_edge(START, "a")
    graph, config = stored.compile(builder), new_thread()
    assert stored.stream(graph, {"log": ["in"]}, config, stream_mode="values") == [
        {"log": ["in"]},
        {"log": ["in", "a"]},
        {"log": ["in", "a", "b"]},
    ]
    assert [s.values["log"] for s in stored.history(graph, config)] == [["in", "a", "b"], ["in", "a"], ["in"]]


def test_without_a_database_a_state_may_hold_anything(run: Runner) -> None:
    lock = threading.Lock()
    graph = one_node(run, Anything, lambda state: {"log": [state["data"]]})
    assert run.invoke(graph, {"data": lock}) == {"data": lock, "log": [lock]}


class Anything(TypedDict, total=False):
    data: Any
    log: Annotated[list[Any], operator.add]


def test_a_key_written_more_than_once_by_one_task(run: Runner) -> None:
    """Pairs in Command(update=...) are LangGraph's way to do that."""
    graph = one_node(run, State, lambda state: Command(update=[("log", ["1"]), ("log", ["2"])]))
    assert run.invoke(graph, {"log": []}) == {"log": ["1", "2"]}
    graph = one_node(run, State, lambda state: Command(update=[("n", 1), ("n", 2)]))
    with pytest.raises(InvalidUpdateError, match="'n' is written twice"):
        run.invoke(graph, {"log": []})


# --- nodes ------------------------------------------------------------------------------------


class Context(TypedDict):
    user: str


def test_node_signatures(run: Runner) -> None:
    seen: dict[str, Any] = {}

    def state_only(state: State) -> None:
        seen["state"] = dict(state)

    def with_config(state: State, config: Any) -> None:
        seen["config"] = config["configurable"]["thread_id"]

    def with_runtime(state: State, runtime: Runtime[Context]) -> None:
        seen["runtime"] = (runtime.context, runtime.attempt, runtime.thread_id, runtime.idempotency_key)

    def with_writer(state: State, writer: StreamWriter) -> None:
        writer("hello")

    def with_all(state: State, runtime: Runtime[Context], *, writer: StreamWriter, config: Any) -> None:
        seen["all"] = (runtime.context["user"], callable(writer), config["configurable"]["thread_id"])

    builder = StateGraph(State, Context)
    functions = [state_only, with_config, with_runtime, with_writer, with_all]
    builder.add_sequence([(function.__name__, run.node(function)) for function in functions])
    graph = run.compile(builder.add_edge(START, "state_only"))
    assert run.stream(graph, {"n": 1}, context={"user": "ann"}, stream_mode="custom") == ["hello"]
    thread_id = seen["config"]
    assert seen["state"] == {"n": 1, "log": []}
    context, attempt, its_thread, key = seen["runtime"]
    assert (context, attempt, its_thread) == ({"user": "ann"}, 1, thread_id)
    assert thread_id in key
    assert seen["all"] == ("ann", True, thread_id)


def test_what_nodes_call_can_ask_for_the_runtime(run: Runner) -> None:
    seen: list[Any] = []

    def deep() -> None:
        seen.append((get_runtime().task, get_config()["metadata"]))

    graph = run.compile(wide(run, Calls(), "ab", a=lambda state: deep(), b=lambda state: deep()))
    run.invoke(graph, {"log": []}, {"metadata": {"user": "ann"}})
    assert len({task for task, _ in seen}) == 2
    assert [metadata["user"] for _, metadata in seen] == ["ann", "ann"]


class Callable_:
    def __call__(self, state: State) -> dict[str, Any]:
        return {"log": ["object"]}

    def method(self, state: State) -> dict[str, Any]:
        return {"log": ["method"]}


class AsyncCallable:
    async def __call__(self, state: State) -> dict[str, Any]:
        await asyncio.sleep(0)
        return {"log": ["async object"]}


def test_any_callable_is_a_node(run: Runner) -> None:
    builder = StateGraph(State)
    builder.add_node("object", Callable_()).add_node("method", Callable_().method)
    builder.add_node("partial", functools.partial(lambda word, state: {"log": [word]}, "partial"))
    builder.add_node(named_node)
    builder.add_edge(START, "object").add_edge("object", "method").add_edge("method", "partial")
    builder.add_edge("partial", "named_node")
    assert run.invoke(run.compile(builder), {}) == {"log": ["object", "method", "partial", "named"]}


def named_node(state: State) -> dict[str, Any]:
    return {"log": ["named"]}


def test_sync_and_async_nodes_in_one_graph() -> None:
    run, calls = Runner("async", False), Calls()
    builder = wide(run, calls)
    builder.add_node("plain", calls.node("plain")).add_edge("end", "plain")
    builder.add_node("object", AsyncCallable()).add_edge("plain", "object")
    assert run.invoke(run.compile(builder), {"log": []})["log"] == ["a", "b", "c", "end", "plain", "async object"]


@pytest.mark.parametrize("output", [None, {}, Command(), Command(goto=[])], ids=repr)
def test_what_a_node_may_return_to_change_nothing(run: Runner, output: Any) -> None:
    graph = one_node(run, State, lambda state: output)
    assert run.stream(graph, {"n": 1}) == [{"a": None}]
    assert run.invoke(graph, {"n": 1}) == {"n": 1, "log": []}


def test_node_exceptions_arrive_as_they_were_raised(run: Runner) -> None:
    error = KeyError("mine")

    def fail(state: State) -> None:
        raise error

    with pytest.raises(KeyError) as caught:
        run.invoke(one_node(run, State, fail), {"n": 1})
    assert caught.value is error
    assert "in node 'a'" in caught.value.__notes__[0]


def test_a_node_that_raises_stop_iteration(run: Runner) -> None:
    def fail(state: State) -> None:
        next(iter(()))

    with pytest.raises((StopIteration, RuntimeError), match=r"StopIteration|^$") as caught:
        run.invoke(one_node(run, State, fail), {"n": 1})
    assert "in node 'a'" in "".join(caught.value.__notes__)


# --- edges ------------------------------------------------------------------------------------


def test_fan_out_and_fan_in(run: Runner) -> None:
    calls = Calls()
    graph = run.compile(wide(run, calls))
    assert run.invoke(graph, {"log": ["in"]}) == {"log": ["in", "a", "b", "c", "end"]}
    assert calls.count("end") == 1


def drawn(run: Runner, calls: Calls, nodes: Iterable[str], *edges: Any) -> Any:
    builder = StateGraph(State)
    for name in nodes:
        builder.add_node(name, run.node(calls.node(name)))
    for start, end in edges:
        builder.add_edge(start, end)
    return run.compile(builder)


def test_edges_into_one_node_from_different_supersteps_run_it_each_time(run: Runner) -> None:
    edges = [(START, "a"), (START, "b"), ("b", "c"), ("a", "d"), ("c", "d")]
    assert run.invoke(drawn(run, Calls(), "abcd", *edges), {})["log"] == ["a", "b", "c", "d", "d"]


def test_a_join_waits_for_all_its_sources(stored: Runner) -> None:
    edges = [(START, "a"), (START, "b"), ("b", "c"), (["a", "c"], "d")]
    graph = drawn(stored, Calls(), "abcd", *edges)
    assert stored.invoke(graph, {}, config := new_thread())["log"] == ["a", "b", "c", "d"]
    # what a join has seen is in the log: it survives a break between its sources
    for number in range(1, 4):
        config = new_thread()
        stored.first(number, graph, {}, config)
        assert stored.invoke(graph, None, config)["log"] == ["a", "b", "c", "d"]


def test_joins_are_not_mixed_up_by_the_names_of_their_sources(run: Runner) -> None:
    """["a", "b"] and ["a+b"] lead to the same node, and are two joins."""
    edges = [(START, "a"), ("a", "d"), ("d", "b"), (["a", "b"], "c"), (["a+b"], "c")]
    assert run.invoke(drawn(run, Calls(), ["a", "b", "c", "d", "a+b"], *edges), {})["log"] == ["a", "d", "b", "c"]


def test_a_join_in_a_cycle_waits_anew(run: Runner) -> None:
    calls = Calls()
    builder = StateGraph(State)
    for name in "abd":
        builder.add_node(name, run.node(calls.node(name)))
    builder.add_node("s", run.node(lambda state: {"n": state.get("n", 0) + 1}))
    builder.add_edge(START, "s").add_edge("s", "a").add_edge("s", "b").add_edge(["a", "b"], "d")
    builder.add_conditional_edges("d", lambda state: "s" if state["n"] < 3 else END)
    assert run.invoke(run.compile(builder), {})["log"] == ["a", "b", "d"] * 3


def test_a_join_of_one_source(run: Runner) -> None:
    assert run.invoke(drawn(run, Calls(), "ab", (START, "a"), (["a"], "b")), {})["log"] == ["a", "b"]


def test_a_sequence_with_entry_and_finish_point(run: Runner) -> None:
    calls = Calls()
    builder = StateGraph(State).add_sequence([run.node(calls.node("a")), ("two", run.node(calls.node("b")))])
    builder.set_entry_point("a")
    builder.set_finish_point("two")
    assert nodes_of(run.stream(run.compile(builder), {})) == ["a", "two"]


def test_a_cycle(run: Runner) -> None:
    assert run.invoke(run.compile(counter(run, 12)), {"n": 3})["n"] == 12


def test_an_edge_and_a_router_leave_the_same_node(run: Runner) -> None:
    builder = StateGraph(State)
    for name in "abc":
        builder.add_node(name, run.node(Calls().node(name)))
    builder.add_edge(START, "a").add_edge("a", "b").add_conditional_edges("a", lambda state: "c")
    assert run.invoke(run.compile(builder), {})["log"] == ["a", "b", "c"]


# --- conditional edges ------------------------------------------------------------------------


def routed(run: Runner, router: Any, *path_map: Any) -> Any:
    builder = StateGraph(State)
    for name in "abcd":
        builder.add_node(name, run.node(Calls().node(name)))
    builder.add_edge(START, "a").add_conditional_edges("a", run.node(router), *path_map)
    return run.compile(builder)


def literal(state: State) -> Literal["b", "c"]:
    return "c"


@pytest.mark.parametrize(
    ("router", "path_map", "expected"),
    [
        (lambda state: "b", (), "ab"),
        (lambda state: ["b", "d"], (), "abd"),
        (lambda state: ("d", "b"), (), "abd"),
        (lambda state: [], (), "a"),
        (lambda state: END, (), "a"),
        (lambda state: ["b", END], (), "ab"),
        (lambda state: ["b", "b"], (), "ab"),
        (lambda state: True, ({True: "b", False: "c"},), "ab"),
        (lambda state: len(state["log"]), ({1: "c", 2: END},), "ac"),
        (lambda state: ["x", "y"], ({"x": "b", "y": "d", "z": END},), "abd"),
        (lambda state: "stop", ({"stop": END, "go": "b"},), "a"),
        (lambda state: "c", (["b", "c"],), "ac"),
        (literal, (), "ac"),
        (lambda state: Send("b", {}), (), "ab"),
        (lambda state: [Send("b", {}), "c", Send("b", {})], (), "acbb"),
        (lambda state, config: "b" if config["configurable"]["thread_id"] else "c", (), "ab"),
        (lambda state, runtime: runtime.context, (), "ad"),
    ],
)
def test_conditional_edges(run: Runner, router: Any, path_map: Any, expected: str) -> None:
    graph = routed(run, router, *path_map)
    assert run.invoke(graph, {}, context="d") == {"log": [*expected]}


def test_a_router_sees_its_own_nodes_update_and_not_the_siblings(run: Runner) -> None:
    seen: list[Any] = []

    def router(state: State) -> str:
        seen.append(state["log"])
        return END

    builder = wide(run, Calls(), "ab")
    builder.add_conditional_edges("a", run.node(router))
    run.invoke(run.compile(builder), {"log": ["in"]})
    assert seen == [["in", "a"]]


def test_a_routers_state_is_its_own(run: Runner) -> None:
    """What a router does to the state it is given is not recorded."""

    def router(state: State) -> str:
        state["n"] = 99
        return END

    assert run.invoke(routed(run, router), {"n": 1}) == {"n": 1, "log": ["a"]}


def test_a_router_with_a_dataclass_state(run: Runner) -> None:
    seen: list[Any] = []
    builder = StateGraph(Point)
    builder.add_node("a", run.node(lambda state: {"x": 1}))
    builder.add_conditional_edges("a", run.node(lambda state: seen.append(state) or END)).add_edge(START, "a")
    run.invoke(run.compile(builder), {})
    assert seen == [Point(1)]


def test_two_routers_after_one_node(run: Runner) -> None:
    builder = StateGraph(State)
    for name in "abc":
        builder.add_node(name, run.node(Calls().node(name)))

    def one(state: State) -> str:
        return "b"

    def two(state: State) -> str:
        return "c"

    builder.add_edge(START, "a").add_conditional_edges("a", one).add_conditional_edges("a", two)
    assert run.invoke(run.compile(builder), {})["log"] == ["a", "b", "c"]


def test_a_conditional_entry_point(run: Runner) -> None:
    builder = StateGraph(State).add_node("a", run.node(Calls().node("a")))
    builder.set_conditional_entry_point(run.node(lambda state: state["n"] > 0), {True: "a", False: END})
    graph = run.compile(builder)
    assert run.stream(graph, {"n": 1}) == [{"a": {"log": ["a"]}}]
    assert run.stream(graph, {"n": 0}) == []
    assert run.invoke(graph, {"n": 0}) == {"n": 0, "log": []}


# --- Send and Command -------------------------------------------------------------------------


def test_send_gives_each_task_its_own_input(stored: Runner) -> None:
    run, seen = stored, []
    builder = StateGraph(State)
    builder.add_node("part", run.node(lambda arg: seen.append(arg) or {"log": [f"{arg['i']}"]}))
    builder.add_node("plain", run.node(Calls().node("plain"))).add_node("end", run.node(Calls().node("end")))
    builder.add_conditional_edges(
        START, lambda state: [Send("part", {"i": 2}), "plain", *[Send("part", {"i": i}) for i in (1, 0)]]
    )
    builder.add_edge("part", "end").add_edge("plain", "end")
    graph, config = run.compile(builder), new_thread()
    # plain tasks by name, then Sends in the order in which they were sent, as in LangGraph
    assert run.invoke(graph, {"log": []}, config) == {"log": ["plain", "2", "1", "0", "end"]}
    assert sorted(arg["i"] for arg in seen) == [0, 1, 2]


@pytest.mark.parametrize("payload", ["text", 5, None, [1, 2], (1, 2), {"deep": [{"x": (1,)}]}, Point(3)], ids=repr)
def test_any_payload_may_be_sent(stored: Runner, payload: Any) -> None:
    run, seen = stored, []
    builder = StateGraph(State).add_node("part", run.node(lambda arg: seen.append(arg)))
    builder.add_conditional_edges(START, lambda state: Send("part", payload))
    graph, config = run.compile(builder, types=[Point]), new_thread()
    run.stream(graph, {"log": []}, config)
    run.stream(graph, None, {"configurable": {**config["configurable"], "step": 0}})
    assert seen == [payload, payload]
    assert [type(arg) for arg in seen] == [type(payload)] * 2


def test_a_sent_payload_is_not_shared(run: Runner) -> None:
    shared: list[str] = []
    builder = StateGraph(State)
    builder.add_node("part", run.node(lambda arg: arg["list"].append("x") or {"log": [*arg["list"]]}))
    builder.add_conditional_edges(START, lambda state: [Send("part", {"list": shared})] * 3)
    assert run.invoke(run.compile(builder), {})["log"] == ["x", "x", "x"]
    assert shared == []


def test_command_updates_and_goes(run: Runner) -> None:
    builder = StateGraph(State)
    builder.add_node("a", run.node(lambda state: Command(update={"log": ["a"]}, goto="c")))
    builder.add_node("b", run.node(Calls().node("b"))).add_node("c", run.node(Calls().node("c")))
    graph = run.compile(builder.add_edge(START, "a"))
    assert run.stream(graph, {}) == [{"a": {"log": ["a"]}}, {"c": {"log": ["c"]}}]


@pytest.mark.parametrize(
    ("goto", "expected"),
    [
        ("b", "ab"),
        (["b", "c"], "abc"),
        (("c", "b"), "abc"),
        (END, "a"),
        ([], "a"),
        (Send("b", {"log": ["private"]}), "ab"),
        ([Send("b", None), "c", Send("b", None)], "acbb"),
    ],
    ids=repr,
)
def test_where_a_command_may_go(run: Runner, goto: Any, expected: str) -> None:
    builder = StateGraph(State).add_node("a", run.node(lambda state: Command(update={"log": ["a"]}, goto=goto)))
    builder.add_node("b", run.node(Calls().node("b"))).add_node("c", run.node(Calls().node("c")))
    assert run.invoke(run.compile(builder.add_edge(START, "a")), {}) == {"log": [*expected]}


def test_a_command_goes_besides_the_edges(run: Runner) -> None:
    """Also goto=END: the edge is followed all the same, as in LangGraph."""
    for goto, expected in (("b", "abc"), (END, "ac")):
        builder = StateGraph(State)
        builder.add_node("a", run.node(lambda state, goto=goto: Command(update={"log": ["a"]}, goto=goto)))
        builder.add_node("b", run.node(Calls().node("b"))).add_node("c", run.node(Calls().node("c")))
        graph = run.compile(builder.add_edge(START, "a").add_edge("a", "c"))
        assert run.invoke(graph, {}) == {"log": [*expected]}


def test_a_list_of_commands_and_updates(run: Runner) -> None:
    output = [Command(update={"n": 1}, goto="b"), {"log": ["a"]}, Command(goto="c")]
    builder = StateGraph(State).add_node("a", run.node(lambda state: output))
    builder.add_node("b", run.node(Calls().node("b"))).add_node("c", run.node(Calls().node("c")))
    graph = run.compile(builder.add_edge(START, "a"))
    assert run.stream(graph, {})[0] == {"a": {"n": 1, "log": ["a"]}}
    assert run.invoke(graph, {}) == {"n": 1, "log": ["a", "b", "c"]}


# --- deferred nodes ---------------------------------------------------------------------------


def test_a_deferred_node_runs_when_nothing_else_is_left(stored: Runner) -> None:
    run, calls = stored, Calls()
    builder = StateGraph(State)
    for name in "abcde":
        builder.add_node(name, run.node(calls.node(name)), defer=name == "d")
    for edge in [(START, "a"), ("a", "b"), ("b", "c"), ("a", "d"), ("c", "d"), ("d", "e")]:
        builder.add_edge(*edge)
    graph = run.compile(builder)
    for number in range(1, 5):  # also across a break
        config = new_thread()
        run.first(number, graph, {}, config)
        assert run.invoke(graph, None, config)["log"] == ["a", "b", "c", "d", "e"]
    assert calls.count("d") == 4


def test_two_deferred_nodes_and_a_map(run: Runner) -> None:
    calls = Calls()
    builder = StateGraph(State)
    for name in "ayz":
        builder.add_node(name, run.node(calls.node(name)), defer=name in "yz")
    builder.add_node("part", run.node(lambda arg: {"log": [arg]}))
    builder.add_edge(START, "a").add_edge(START, "y").add_edge("a", "z").add_edge("part", "z")
    builder.add_conditional_edges("a", lambda state: [Send("part", "p1"), Send("part", "p2")], ["part"])
    assert run.invoke(run.compile(builder), {})["log"] == ["a", "p1", "p2", "y", "z"]


# --- recursion limit --------------------------------------------------------------------------


def test_the_recursion_limit_counts_supersteps_of_the_call(stored: Runner) -> None:
    run, config = stored, new_thread()
    graph = run.compile(counter(run, 10))
    seen: list[Any] = []
    with pytest.raises(GraphRecursionError, match=r"limit=3 supersteps.*next: count.*Nothing is lost") as caught:
        run.watch(seen.append, graph, {"n": 0}, {**config, "recursion_limit": 3})
    assert isinstance(caught.value, RecursionError)
    assert seen == [{"count": {"n": number}} for number in (1, 2, 3)]  # as many as LangGraph runs
    assert run.get_state(graph, config).next == ("count",)
    with pytest.raises(GraphRecursionError):
        run.invoke(graph, None, {**config, "recursion_limit": 3})
    assert run.get_state(graph, config).values["n"] == 6
    assert run.invoke(graph, None, {**config, "recursion_limit": 4})["n"] == 10


def test_a_graph_that_ends_at_the_limit_has_ended(run: Runner) -> None:
    """LangGraph raises here although nothing is left to run: it looks only after counting one more."""
    graph = run.compile(chain(run, Calls()))
    assert run.invoke(graph, {"log": []}, {"recursion_limit": 3})["log"] == ["a", "b", "c"]
    with pytest.raises(GraphRecursionError):
        run.invoke(graph, {"log": []}, {"recursion_limit": 2})


def test_nodes_side_by_side_count_once(run: Runner) -> None:
    graph = run.compile(wide(run, Calls(), [f"n{number}" for number in range(10)]))
    assert len(run.stream(graph, {"log": []}, {"recursion_limit": 2})) == 11


def test_the_default_limit_lets_a_thousand_supersteps_pass(run: Runner) -> None:
    assert run.invoke(run.compile(counter(run, 1001)), {"n": 0})["n"] == 1001


# --- what compile refuses ---------------------------------------------------------------------


def node(state: State) -> None:
    return None


def draw(*edges: Any) -> StateGraph[State]:
    builder = StateGraph(State).add_node("one", node).add_node("two", node)
    for start, end in edges:
        builder.add_edge(start, end)
    return builder


@pytest.mark.parametrize(
    ("drawing", "words"),
    [
        (lambda: draw(), ["nothing leads from START", "add_edge(START, name)"]),
        (lambda: StateGraph(State), ["nothing leads from START"]),
        (lambda: draw((START, "three")), ["'three'", "no node", "Add it", "one, two"]),
        (lambda: draw((START, "one"), ("one", "thre")), ["'one' -> 'thre'", "no node 'thre'", "one, two"]),
        (lambda: draw((START, "one"), ("zero", "two")), ["'zero'", "no node"]),
        (lambda: draw((START, "one"), (["one", "zero"], "two")), ["'zero'", "no node"]),
        (lambda: draw((START, "one"), ("one", START)), ["START cannot be entered", "Name the node"]),
        (lambda: draw((START, "one"), (END, "two")), ["END cannot have an edge leaving it", "remove it"]),
        (lambda: draw((START, "one"), ([], "two")), ["'two'", "no start"]),
        (lambda: draw((START, "one")).add_node("one", node), ["already is a node 'one'", "another name"]),
        (lambda: draw((START, "one")).add_node(START, node), ["'__start__' is reserved"]),
        (lambda: draw((START, "one")).add_node(END, node), ["'__end__' is reserved"]),
        (lambda: draw((START, "one")).add_node("three"), ["'three' has no function", "add_node(name, function)"]),
        (lambda: draw((START, "one")).add_node(5), ["5 is no function"]),
        (lambda: draw((START, "one")).add_node("", node), ["empty name"]),
        (lambda: draw((START, "one")).add_sequence([]), ["add_sequence got no nodes"]),
        (
            lambda: draw((START, "one")).add_conditional_edges("one", named_node, {"yes": "three"}),
            ["'named_node'", "after 'one'", "'three'", "'yes'", "one, two"],
        ),
        (lambda: draw((START, "one")).add_conditional_edges("zero", named_node), ["'zero'", "no node"]),
        (
            lambda: draw().add_conditional_edges("one", named_node).add_conditional_edges("one", named_node),
            ["'one' already has", "'named_node'"],
        ),
    ],
)  # fmt: skip
def test_compile_refuses_a_wrong_drawing(drawing: Any, words: list[str]) -> None:
    with pytest.raises(DrawingError) as caught:
        drawing().compile(checkpointer=False)
    assert isinstance(caught.value, ValueError)
    for word in words:
        assert word in str(caught.value)


class One(TypedDict):
    x: Annotated[int, operator.add]


class Other(TypedDict):
    x: Annotated[int, max]


class Empty:
    pass


class Wrong(TypedDict):
    x: Annotated[int, lambda only: only]


class Unresolved(TypedDict):
    x: "NoSuchName"  # noqa: F821


@pytest.mark.parametrize(
    ("drawing", "words"),
    [
        (lambda: StateGraph(One, input_schema=Other), ["'x' has two reducers"]),
        (lambda: StateGraph(Empty), ["has no fields", "TypedDict"]),
        (lambda: StateGraph(dict), ["has no fields", "TypedDict"]),
        (lambda: StateGraph(5), ["5", "has no fields"]),
        (lambda: StateGraph(Wrong), ["'x' takes 1 argument", "two"]),
        (lambda: StateGraph(Unresolved), ["Unresolved", "NoSuchName", "import"]),
    ],
)
def test_schemas_that_are_refused(drawing: Any, words: list[str]) -> None:
    with pytest.raises(DrawingError) as caught:
        drawing()
    for word in words:
        assert word in str(caught.value)


def test_drawing_on_after_compiling_does_not_change_the_compiled_graph() -> None:
    run, calls = Runner("sync", False), Calls()
    builder = chain(run, calls, "ab")
    graph = run.compile(builder)
    builder.add_node("c", calls.node("c")).add_edge("b", "c")
    assert nodes_of(run.stream(graph, {})) == ["a", "b"]
    assert nodes_of(run.stream(run.compile(builder), {})) == ["a", "b", "c"]


# --- pictures ---------------------------------------------------------------------------------


def go(state: State) -> Command[Literal["one", "__end__"]]:
    return Command(goto="one")


def test_draw_mermaid() -> None:
    builder = draw((START, "one"), (["one", "two"], 'say "hi"'))
    builder.add_node('say "hi"', node).add_node("go", go).add_edge('say "hi"', "go")
    builder.add_conditional_edges("one", named_node, {"yes": "two", "two": "two", "no": END})
    text = builder.compile(checkpointer=False).get_graph().draw_mermaid()
    assert text.splitlines() == [
        "flowchart TD",
        '    n0(["__start__"])',
        '    n1["one"]',
        '    n2["two"]',
        '    n3["say #34;hi#34;"]',
        '    n4["go"]',
        '    n5(["__end__"])',
        "    n0 --> n1",
        "    n1 --> n3",
        '    n1 -.->|"yes"| n2',
        "    n1 -.-> n2",
        '    n1 -.->|"no"| n5',
        "    n2 --> n3",
        "    n3 --> n4",
        "    n4 -.-> n1",
        "    n4 -.-> n5",
    ]


def test_a_router_without_a_map_may_go_anywhere_in_the_picture() -> None:
    builder = draw((START, "one")).add_conditional_edges("one", named_node)
    picture = builder.compile(checkpointer=False).get_graph()
    assert {edge.target for edge in picture.edges if edge.source == "one"} == {"one", "two", END}
    assert all(edge.conditional for edge in picture.edges if edge.source == "one")


# --- what a node, a graph and a Send can be told ----------------------------------------------


def test_defaults_of_nodes(run: Runner) -> None:
    """For nodes that say nothing themselves, added before or after; an empty sequence says: none."""
    calls: Counter[str] = Counter()

    def failing(name: str) -> Any:
        def call(state: State) -> Any:
            calls[name] += 1
            raise ConnectionError(name)

        return run.node(call)

    def handler(state: State, error: NodeError) -> Any:
        calls[f"handled {error.node}"] += 1
        return {"log": [f"{error.node}: {error.error}"]}

    at_once = RetryPolicy(initial_interval=0, jitter=False)
    builder = StateGraph(State)
    builder.add_node("before", failing("before"))
    builder.set_node_defaults(retry_policy=at_once).set_node_defaults(error_handler=run.node(handler))
    builder.add_node("after", failing("after"))
    builder.add_node("own", failing("own"), retry_policy=at_once._replace(max_attempts=2), error_handler=own_handler)
    builder.add_node("none", failing("none"), retry_policy=())
    for name in ("before", "after", "own", "none"):
        builder.add_edge(START, name)
    for _ in range(2):  # compiling changes nothing in the drawing
        calls.clear()
        graph = run.compile(builder)
        chunks = run.stream(graph, {"n": 1})
        assert calls == {"before": 3, "after": 3, "own": 2, "none": 1} | {
            f"handled {name}": 1 for name in ("before", "after", "none")
        }
        assert sorted(map(str, chunks)) == [
            "{'__default_error_handler__': {'log': ['after: after']}}",
            "{'__default_error_handler__': {'log': ['before: before']}}",
            "{'__default_error_handler__': {'log': ['none: none']}}",
            "{'__error_handler__own': {'log': ['own handler']}}",
        ]


@pytest.mark.parametrize("way", ["sync", "async"])
def test_jobs_that_begin_again_together_all_run(way: str) -> None:
    """As the retries of tasks that have failed at the same moment do."""
    ended: list[str] = []

    def steps(name: str) -> Any:
        ended.append(name)
        return
        yield

    jobs = [Job(Task(name, "a", ()), 2) for name in "abc"]
    for job in jobs:
        job.steps = steps(job.task.id)

    async def main() -> None:
        tasks = adrivers._Tasks(False, None, None)
        await asyncio.wait_for(tasks.next(jobs), PATIENCE)
        while len(ended) < 3:
            await asyncio.wait_for(tasks.next(), PATIENCE)
        await tasks.close()

    if way == "async":
        asyncio.run(main())
        return
    threads = drivers._Threads(False, None, None)
    threads.next(jobs)
    while len(ended) < 3:
        threads.next()
    threads.close()


def own_handler(state: State) -> Any:
    return {"log": ["own handler"]}


def test_the_default_error_handler_goes_on_and_is_a_row(stored: Runner) -> None:
    def handler(state: State, error: NodeError) -> Any:
        return Command(update={"log": [f"handled {error.node}"]}, goto="next")

    def fail(state: State) -> Any:
        raise ValueError("no")

    builder = StateGraph(State).set_node_defaults(error_handler=stored.node(handler))
    builder.add_node("fails", stored.node(fail)).add_node("next", stored.node(lambda state: {"log": ["next"]}))
    graph = stored.compile(builder.add_edge(START, "fails").add_edge("fails", END))
    config = new_thread()
    live = stored.stream(graph, {"n": 1}, config)
    assert live == [{"__default_error_handler__": {"log": ["handled fails"]}}, {"next": {"log": ["next"]}}]
    assert stored.replay(graph, config) == live
    assert stored.get_state(graph, config).values["log"] == ["handled fails", "next"]


def test_the_edges_of_a_handled_node_are_not_followed(stored: Runner) -> None:
    """Also when its sibling ends later."""
    handled = threading.Event()

    def handler(state: State, error: NodeError) -> Any:
        return {"log": ["handled"]}

    def fail(state: State) -> Any:
        raise ValueError("no")

    builder = StateGraph(State).set_node_defaults(error_handler=stored.node(handler))
    builder.add_node("fails", stored.node(fail)).add_node("next", stored.node(lambda state: {"log": ["next"]}))
    builder.add_node("slow", stored.waiting(handled, lambda state: {"log": ["slow"]}))
    graph = stored.compile(builder.add_edge(START, "fails").add_edge(START, "slow").add_edge("fails", "next"))
    config = new_thread()
    live = stored.watch(lambda chunk: handled.set(), graph, {"n": 1}, config)
    assert nodes_of(live) == nodes_of(stored.replay(graph, config)) == ["__default_error_handler__", "slow"]


def test_an_error_handler_is_tried_again_but_not_handled(run: Runner) -> None:
    calls: list[str] = []

    def fail(state: State) -> Any:
        raise ConnectionError("node")

    def handler(state: State) -> Any:
        calls.append("handler")
        raise ConnectionError("handler")

    policy = RetryPolicy(initial_interval=0, jitter=False, max_attempts=2)
    builder = StateGraph(State).set_node_defaults(retry_policy=policy, error_handler=run.node(handler))
    graph = run.compile(builder.add_node("a", run.node(fail)).add_edge(START, "a"))
    with pytest.raises(ConnectionError, match="handler"):
        run.invoke(graph, {"n": 1})
    assert calls


async def forever(state: Any) -> None:
    await asyncio.Event().wait()


def test_a_default_timeout() -> None:
    builder = StateGraph(State).set_node_defaults(timeout=0.01)
    builder.add_node("a", forever).add_edge(START, "a")
    with pytest.raises(NodeTimeoutError, match=r"'a'.*run_timeout of 0.01 s"):
        asyncio.run(builder.compile(False).ainvoke({"n": 1}))
    builder.add_node("plain", lambda state: None)
    with pytest.raises(DrawingError, match=r"'plain' has a timeout but is no async function"):
        builder.compile(False)


@pytest.mark.parametrize("way", WAYS[1:])  # a plain function cannot be stopped
def test_a_send_with_a_timeout(way: str, database_url: str) -> None:
    """Also after a restart: it is recorded."""
    with Runner(way, database_url) as run:
        builder = StateGraph(State).add_node("a", forever).add_node("before", run.node(lambda state: {"n": 2}))
        builder.add_conditional_edges("before", lambda state: [Send("a", {}, timeout=timedelta(seconds=0.01))])
        graph, config = run.compile(builder.add_edge(START, "before")), new_thread()
        assert nodes_of(run.first(1, graph, {"n": 1}, config)) == ["before"]
        again = run.compile(builder)
        for _ in range(2):
            with pytest.raises(NodeTimeoutError, match=r"'a'.*run_timeout of 0.01 s"):
                run.invoke(again, None, config)


def test_a_sends_timeout_counts_instead_of_the_nodes() -> None:
    builder = StateGraph(State).add_node("a", forever, timeout=1000)
    builder.add_conditional_edges(START, lambda state: [Send("a", {}, timeout=TimeoutPolicy(idle_timeout=0.01))])
    with pytest.raises(NodeTimeoutError, match=r"idle_timeout of 0.01 s"):
        asyncio.run(builder.compile(False).ainvoke({"n": 1}))


def test_sends_with_timeouts_that_are_refused(run: Runner) -> None:
    for timeout in (0, -1, timedelta(0), TimeoutPolicy(refresh_on="sometimes")):  # type: ignore[arg-type]
        with pytest.raises(ArgumentError, match=r"Send: .*(not positive|refresh_on='sometimes' is unknown)"):
            Send("a", {}, timeout=timeout)
    builder = StateGraph(State).add_node("a", lambda state: None)
    builder.add_conditional_edges(START, lambda state: [Send("a", {}, timeout=5)])
    with pytest.raises(RoutingError, match=r"a Send to 'a' has a timeout, but that node is no async function"):
        run.invoke(run.compile(builder), {"n": 1})


def test_sends_are_values() -> None:
    assert Send("a", 1) == Send("a", 1) != Send("a", 1, timeout=3)
    assert Send("a", 1, timeout=3).timeout == TimeoutPolicy(run_timeout=3)
    assert len({Send("a", 1), Send("a", 1), Send("a", 1, timeout=3)}) == 2


class SetTime(asyncio.SelectorEventLoop):
    """A loop whose time goes on when a test says so."""

    now = 0.0

    def time(self) -> float:
        return self.now


@pytest.mark.parametrize("refresh_on", ["auto", "heartbeat"])
@pytest.mark.parametrize("sign", ["event", "heartbeat", "none"])
def test_what_counts_as_a_sign_of_life(refresh_on: Any, sign: str) -> None:
    """Custom events keep a node alive, unless only heartbeats do."""

    async def node(state: State, runtime: Runtime[Any]) -> None:
        signs = {"event": lambda: runtime.stream_writer("x"), "heartbeat": runtime.heartbeat, "none": lambda: None}
        for _ in range(9):
            loop.now += 6
            signs[sign]()
            await asyncio.sleep(0)

    policy = TimeoutPolicy(idle_timeout=10, refresh_on=refresh_on)
    graph = StateGraph(State).add_node("a", node, timeout=policy).add_edge(START, "a").compile(False)
    with asyncio.Runner(loop_factory=SetTime) as runner:
        loop: Any = runner.get_loop()
        if sign == "heartbeat" or (sign, refresh_on) == ("event", "auto"):
            runner.run(graph.ainvoke({"n": 1}))
            return
        with pytest.raises(NodeTimeoutError, match="idle_timeout"):
            runner.run(graph.ainvoke({"n": 1}))


@pytest.mark.parametrize("name", ["a:b", "a|b", "__error_handler__a", "__default_error_handler__"])
def test_names_that_nodes_cannot_have(name: str) -> None:
    with pytest.raises(DrawingError, match="the name '"):
        StateGraph(State).add_node(name, lambda state: None)


def test_arguments_of_langgraphs_that_mean_nothing_here() -> None:
    builder = StateGraph(State).add_node("a", lambda state: None).add_edge(START, "a")
    assert builder.compile(False, store=None, transformers=None, cache=None, debug=False)
    with pytest.raises(ArgumentError, match=r"store: compile\(\) does not take it: there is no store here"):
        builder.compile(False, store=object())  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"transformers: compile\(\) does not take it"):
        builder.compile(False, transformers=[])  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"trace_policy: add_node\(\) does not take it: nothing is traced"):
        builder.add_node("b", lambda state: None, trace_policy=object())  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"store: entrypoint\(\) does not take it"):
        entrypoint(False, object())  # type: ignore[arg-type]


def test_compiled_for_debugging(run: Runner, capsys: pytest.CaptureFixture[str]) -> None:
    builder = StateGraph(State).add_node("a", run.node(lambda state: {"n": 2})).add_edge(START, "a")
    graph = run.compile(builder, debug=True)
    run.invoke(graph, {"n": 1})
    assert "'task_result'" in capsys.readouterr().out
    run.invoke(graph.with_config({"tags": ["x"]}), {"n": 1})
    assert "'task_result'" in capsys.readouterr().out
    run.invoke(graph, {"n": 1}, debug=False)
    assert capsys.readouterr().out == ""


def test_validate() -> None:
    builder = StateGraph(State).add_node("a", lambda state: None)
    with pytest.raises(DrawingError, match="nothing leads from START"):
        builder.validate()
    assert builder.add_edge(START, "a").validate(["a"]) is builder
    with pytest.raises(DrawingError, match="'b', which is no node"):
        builder.validate(interrupt=["b"])


@pytest.mark.parametrize("who", ["the entry", "an update"])
def test_a_router_without_a_row_cannot_send_custom_events(stored: Runner, who: str) -> None:
    """Nothing could keep them: said by name, and nothing is committed."""
    run = stored

    def route(state: Any) -> str:
        get_stream_writer()("lost")
        return "a"

    builder = StateGraph(State).add_node("a", run.node(lambda state: {"n": 1})).add_node("b", run.node(lambda s: None))
    if who == "the entry":
        builder.add_conditional_edges(START, run.node(route), ["a"])
        graph, config = run.compile(builder), new_thread()
        with pytest.raises(CallError, match="stream writer"):
            run.invoke(graph, {"n": 0}, config)
        assert run.get_state(graph, config).created_at is None
    else:
        builder.add_edge(START, "b").add_conditional_edges("a", run.node(route), ["a"])
        graph, config = run.compile(builder), new_thread()
        run.invoke(graph, {"n": 0}, config)
        with pytest.raises(CallError, match="stream writer"):
            run.update_state(graph, config, {"n": 5}, as_node="a")
        assert run.get_state(graph, config).values["n"] == 0


def test_tags_are_named_once_below(stored: Runner) -> None:
    """A node that hands its own config on gives the run below the same tags, not twice."""
    run, seen = stored, []
    below = StateGraph(State).add_node("x", run.node(lambda state, config: seen.append(config["tags"])))
    sub = below.add_edge(START, "x").compile()

    async def acall(state: Any, config: Any) -> Any:
        return await sub.ainvoke({"n": 1}, config)

    call = acall if run.way == "async" else lambda state, config: sub.invoke({"n": 1}, config)
    graph = run.compile(StateGraph(State).add_node("a", call).add_edge(START, "a"))
    run.invoke(graph, {"n": 0}, {**new_thread(), "tags": ["t"]})
    assert seen == [["t"]]
