"""LangGraph's own client, unmodified, against this server: sync and async, on SQLite and Postgres."""

from __future__ import annotations

import operator
import threading
from collections.abc import Iterator
from typing import Annotated, Any, TypedDict

import httpx
import pytest
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langgraph_sdk.errors import ConflictError, NotFoundError, UnprocessableEntityError

from durable_graph import START, CompiledGraph, MessagesState, Runtime, Send, StateGraph, interrupt
from tests.graphs import until
from tests.serving import Address, Sdk, serving


class State(TypedDict, total=False):
    n: int
    log: Annotated[list[str], operator.add]


class Gate:
    """Nodes that wait until a test lets them."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.open = threading.Event()


def drawing() -> StateGraph[State]:
    def first(state: State, runtime: Runtime[Any]) -> State:
        runtime.stream_writer({"part": 1})
        runtime.stream_writer({"part": 2})
        return {"n": state.get("n", 0) + 1, "log": ["first"]}

    async def second(state: State) -> State:
        return {"log": ["second"]}

    def ask(state: State) -> State:
        return {"log": [str(interrupt({"question": "go on?"}))]}

    return StateGraph(State).add_sequence([first, second, ask]).add_edge(START, "first")


def waiting(gate: Gate) -> StateGraph[State]:
    async def wait(state: State) -> State:
        gate.reached.set()
        await until(gate.open)
        return {"log": ["waited"]}

    def after(state: State) -> State:
        return {"log": ["after"]}

    return StateGraph(State).add_sequence([wait, after]).add_edge(START, "wait")


def failing() -> StateGraph[State]:
    def fail(state: State) -> State:
        raise ValueError("the node's own words")

    return StateGraph(State).add_node(fail).add_edge(START, "fail")


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open.set()


@pytest.fixture
def graphs(database_url: str, gate: Gate) -> Iterator[dict[str, CompiledGraph[Any]]]:
    drawn = {"asks": drawing(), "waits": waiting(gate), "fails": failing()}
    made = {name: builder.compile(database_url, name=f"the_{name}") for name, builder in drawn.items()}
    yield made
    for graph in made.values():
        graph.close()


@pytest.fixture
def address(graphs: dict[str, CompiledGraph[Any]]) -> Iterator[Address]:
    with serving(graphs) as address:
        yield address


@pytest.fixture(params=["sync", "async"])
def sdk(request: pytest.FixtureRequest, address: Address) -> Sdk:
    return Sdk(request.param, address.url)


def end(parts: list[Any]) -> Any:
    """The client shows it with the id of the event before it, if there was one on this connection."""
    return parts[-1]._replace(id=parts[-2].id if len(parts) > 1 else None)


def test_a_thread_is_made_found_changed_and_removed(sdk: Sdk) -> None:
    made = sdk("threads.create", metadata={"customer": "lina", "n": 1}, thread_id="t-1", graph_id="asks")
    assert (made["thread_id"], made["status"], made["values"]) == ("t-1", "idle", None)
    assert made["metadata"] == {**made["metadata"], "customer": "lina", "n": 1, "graph_id": "asks"}
    assert sdk("threads.get", "t-1") == made
    with pytest.raises(ConflictError, match="already is a thread 't-1'"):
        sdk("threads.create", thread_id="t-1")
    assert sdk("threads.create", thread_id="t-1", if_exists="do_nothing") == made
    other = sdk("threads.create")["thread_id"]

    assert [each["thread_id"] for each in sdk("threads.search", metadata={"customer": "lina"})] == ["t-1"]
    assert {each["thread_id"] for each in sdk("threads.search")} == {"t-1", other}
    assert sdk("threads.search", ids=[other], select=["thread_id"]) == [{"thread_id": other}]
    assert [each["thread_id"] for each in sdk("threads.search", limit=1, offset=1, sort_by="created_at")] == ["t-1"]
    assert sdk("threads.search", status="busy") == []
    assert (sdk("threads.count"), sdk("threads.count", metadata={"n": 2})) == (2, 0)

    assert sdk("threads.update", "t-1", metadata={"n": 2})["metadata"] == {**made["metadata"], "n": 2}
    assert sdk("threads.update", "t-1", metadata={"m": 1}, return_minimal=True) is None
    assert sdk("threads.get", "t-1")["metadata"]["m"] == 1
    assert sdk("threads.delete", "t-1") is None
    with pytest.raises(NotFoundError, match=f"no thread 't-1'; the newest are: {other}"):
        sdk("threads.get", "t-1")
    assert sdk("threads.prune", [other]) == {"pruned_count": 1}
    assert sdk("threads.count") == 0


def test_a_run_is_streamed_and_its_question_answered(sdk: Sdk) -> None:
    sdk("threads.create", thread_id="t", metadata={"kept": True})
    modes = ["updates", "values", "custom"]
    named: list[Any] = []
    parts = sdk.stream("runs.stream", "t", "asks", input={"n": 4}, stream_mode=modes, on_run_created=named.append)
    run_id = parts[0].data["run_id"]
    assert (parts[0].event, named) == ("metadata", [{"run_id": run_id, "thread_id": "t"}])
    (question,) = sdk("threads.get_state", "t")["interrupts"]
    assert [(part.event, part.data, part.id) for part in parts[1:]] == [
        ("values", {"n": 4, "log": []}, "0"),
        ("custom", {"part": 1}, "0.1"),
        ("custom", {"part": 2}, "0.2"),
        ("updates", {"first": {"n": 5, "log": ["first"]}}, "1:1"),
        ("values", {"n": 5, "log": ["first"]}, "1"),
        ("updates", {"second": {"log": ["second"]}}, "2:1"),
        ("values", {"n": 5, "log": ["first", "second"]}, "2"),
        ("updates", {"__interrupt__": [question]}, "3:1"),
        ("values", {"n": 5, "log": ["first", "second"], "__interrupt__": [question]}, "3"),
        ("end", None, "3"),
    ]
    again = sdk.stream("runs.join_stream", "t", run_id, stream_mode=modes)
    assert again == parts[1:]
    rest = sdk.stream("runs.join_stream", "t", run_id, stream_mode=modes, last_event_id="1:1")
    assert rest == [*parts[5:-1], end(parts)]

    thread = sdk("threads.get", "t")
    assert (thread["status"], thread["metadata"]["kept"]) == ("interrupted", True)
    assert list(thread["interrupts"].values()) == [[question]]
    assert sdk("runs.get", "t", run_id)["status"] == "interrupted"
    with pytest.raises(httpx.HTTPStatusError, match="422"):
        sdk("runs.wait", "t", "asks", command={"resume": {"0" * 32: "yes"}})
    assert sdk("runs.wait", "t", "asks", command={"resume": {question["id"]: "yes"}}) == {
        "n": 5,
        "log": ["first", "second", "yes"],
    }
    runs = sdk("runs.list", "t")
    assert [run["status"] for run in runs] == ["success", "interrupted"]
    assert runs[1]["run_id"] == run_id
    assert sdk("runs.list", "t", status="success", select=["run_id"]) == [{"run_id": runs[0]["run_id"]}]
    assert sdk("threads.get", "t")["status"] == "idle"


def test_states_are_read_and_changed(sdk: Sdk) -> None:
    thread_id = sdk("threads.create")["thread_id"]
    sdk("runs.wait", thread_id, "asks", input={"n": 0})
    state = sdk("threads.get_state", thread_id)
    assert (state["values"], state["next"]) == ({"n": 1, "log": ["first", "second"]}, ["ask"])
    assert state["tasks"][0]["name"] == "ask"
    history = sdk("threads.get_history", thread_id, limit=3)
    assert [each["next"] for each in history] == [["ask"], ["second"], ["first"]]
    checkpoint = history[1]["checkpoint"]
    assert sdk("threads.get_state", thread_id, checkpoint_id=checkpoint["checkpoint_id"])["values"]["log"] == ["first"]
    at = sdk("threads.get_state", thread_id, checkpoint)
    assert (at["next"], at["checkpoint"]) == (["second"], checkpoint)
    assert sdk("threads.get_state", thread_id, select=["values.n", "next"]) == {"values": {"n": 1}, "next": ["ask"]}
    before = sdk("threads.get_history", thread_id, before=checkpoint)
    assert [each["next"] for each in before] == [["first"]]

    changed = sdk("threads.update_state", thread_id, {"n": 9}, as_node="first")
    assert changed["checkpoint"]["thread_id"] == thread_id
    state = sdk("threads.get_state", thread_id)
    assert (state["values"]["n"], state["next"], state["checkpoint"]) == (9, ["second"], changed["checkpoint"])
    with pytest.raises(UnprocessableEntityError, match="nope"):
        sdk("threads.update_state", thread_id, {"nope": 9}, as_node="first")
    went_on = sdk("runs.wait", thread_id, "asks", checkpoint_id=checkpoint["checkpoint_id"], input=None)
    assert went_on["n"] == 1

    copy = sdk("threads.copy", thread_id)
    assert copy["values"] == sdk("threads.get", thread_id)["values"]
    assert copy["thread_id"] != thread_id


def test_a_run_in_the_background_is_joined_and_a_second_one_refused(sdk: Sdk, gate: Gate) -> None:
    thread_id = sdk("threads.create")["thread_id"]
    run = sdk("runs.create", thread_id, "waits", input={"n": 0}, metadata={"why": "test"})
    assert (run["status"], run["metadata"]["why"]) == ("running", "test")
    assert gate.reached.wait(20)
    assert sdk("threads.get", thread_id)["status"] == "busy"
    with pytest.raises(ConflictError, match="is being run by"):
        sdk("runs.create", thread_id, "waits", input={"n": 0})
    with pytest.raises(ConflictError, match="is being run by"):
        sdk("threads.update_state", thread_id, {"n": 3}, as_node="wait")
    with pytest.raises(ConflictError):
        sdk("threads.delete", thread_id)
    gate.open.set()
    assert sdk("runs.join", thread_id, run["run_id"])["log"] == ["waited", "after"]
    assert sdk("runs.get", thread_id, run["run_id"])["status"] == "success"
    assert sdk("runs.join", thread_id, run["run_id"])["log"] == ["waited", "after"]


def test_a_run_is_cancelled_and_goes_on_later(sdk: Sdk, gate: Gate) -> None:
    thread_id = sdk("threads.create")["thread_id"]
    run = sdk("runs.create", thread_id, "waits", input={"n": 0})
    assert gate.reached.wait(20)
    with pytest.raises(httpx.HTTPStatusError, match="422"):
        sdk("runs.cancel", thread_id, run["run_id"], wait=True, action="rollback")
    assert sdk("runs.cancel", thread_id, run["run_id"], wait=True) is None
    assert sdk("runs.get", thread_id, run["run_id"])["status"] == "interrupted"
    assert sdk("threads.get_state", thread_id)["next"] == ["wait"]
    with pytest.raises(ConflictError, match="not under way"):
        sdk("runs.cancel", thread_id, run["run_id"])
    gate.open.set()
    assert sdk("runs.wait", thread_id, "waits")["log"] == ["waited", "after"]

    gate.open.clear()
    gate.reached.clear()
    sdk("runs.create", thread_id, "waits", input={"n": 0})
    assert gate.reached.wait(20)
    sdk("runs.cancel_many", thread_id=thread_id, status="all")
    gate.open.set()


def test_what_a_node_raises_ends_the_stream(sdk: Sdk) -> None:
    thread_id = sdk("threads.create")["thread_id"]
    parts = sdk.stream("runs.stream", thread_id, "fails", input={"n": 0}, stream_mode="updates")
    error = {"error": "ValueError", "message": "the node's own words"}
    assert (parts[-1].event, parts[-1].data) == ("error", error)
    run_id = parts[0].data["run_id"]
    assert sdk.stream("runs.join_stream", thread_id, run_id, last_event_id=parts[-1].id)[-1].data == error
    with pytest.raises(Exception, match="ValueError: the node's own words"):
        sdk("runs.wait", thread_id, "fails")
    assert sdk("threads.get", thread_id)["status"] == "error"
    assert sdk("runs.get", thread_id, run_id)["status"] == "error"
    assert sdk("runs.join", thread_id, run_id)["__error__"] == error


def test_runs_without_a_thread(sdk: Sdk) -> None:
    parts = sdk.stream("runs.stream", None, "asks", input={"n": 1}, stream_mode="values", version="v2")
    assert parts[-1]["data"]["log"] == ["first", "second"]
    assert [interrupt["value"] for interrupt in parts[-1]["interrupts"]] == [{"question": "go on?"}]
    assert sdk("runs.wait", None, "asks", input={"n": 1})["n"] == 2
    assert sdk("runs.create", None, "asks", input={"n": 1})["status"] in ("running", "interrupted")
    made = sdk("runs.create_batch", [{"assistant_id": "asks", "input": {"n": 1}}] * 2)
    assert len({run["thread_id"] for run in made}) == 2
    created = sdk("runs.wait", "by-hand", "asks", input={"n": 1}, if_not_exists="create")
    assert created["n"] == 2
    with pytest.raises(httpx.HTTPStatusError, match="404"):
        sdk("runs.wait", "not-by-hand", "asks", input={"n": 1})


def test_a_thread_is_followed_over_its_runs(sdk: Sdk) -> None:
    thread_id = sdk("threads.create")["thread_id"]
    sdk("runs.wait", thread_id, "asks", input={"n": 0})
    sdk("runs.wait", thread_id, "asks", command={"resume": "yes"})
    parts = sdk.stream("threads.join_stream", thread_id, stop=lambda part: part.data["log"][-1:] == ["yes"])
    assert [part.id for part in parts] == ["0", "1", "2", "3", "4", "5"]
    rest = sdk.stream(
        "threads.join_stream", thread_id, last_event_id="2", stop=lambda part: part.data["log"][-1:] == ["yes"]
    )
    assert rest == parts[3:]


def test_assistants(sdk: Sdk) -> None:
    found = sdk("assistants.search")
    assert [each["graph_id"] for each in found] == ["asks", "fails", "waits"]
    one = sdk("assistants.search", graph_id="asks", response_format="object")["assistants"][0]
    assert sdk("assistants.get", one["assistant_id"]) == sdk("assistants.get", "asks") == one
    assert sdk("assistants.count", name="a") == 3
    drawn = sdk("assistants.get_graph", "asks", xray=True)
    assert [node["id"] for node in drawn["nodes"]] == ["__start__", "first", "second", "ask", "__end__"]
    assert drawn["edges"][0] == {"source": "__start__", "target": "first", "conditional": False}
    schemas = sdk("assistants.get_schemas", "asks")
    assert set(schemas["input_schema"]["properties"]) == {"n", "log"}
    assert sdk("assistants.get_subgraphs", "asks", recurse=True) == {}
    with pytest.raises(NotFoundError, match="no graph or assistant 'nope'; there are: asks, fails, waits"):
        sdk("assistants.get", "nope")
    with pytest.raises(httpx.HTTPStatusError, match="Not here: assistants are the graphs"):
        sdk("assistants.create", "asks")


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"multitask_strategy": "enqueue"}, "multitask_strategy"),
        ({"webhook": "http://example.org"}, "webhook"),
        ({"after_seconds": 5}, "after_seconds"),
        ({"stream_mode": "messages"}, "stream_mode"),
        ({"stream_mode": "nope"}, "stream_mode"),
        ({"interrupt_before": ["nope"]}, "interrupt_before"),
        ({"config": {"nope": 1}}, "config"),
    ],
)
def test_what_is_not_supported_is_said_by_name(address: Address, settings: dict[str, Any], field: str) -> None:
    sdk = Sdk("sync", address.url)
    with pytest.raises(UnprocessableEntityError, match=field):
        sdk("runs.create", None, "asks", input={"n": 1}, **settings)


def test_what_is_not_here_is_said_by_name(address: Address) -> None:
    sdk = Sdk("sync", address.url)
    for name, args in {
        "store.get_item": (["a"], "b"),
        "store.list_namespaces": ([],),
        "crons.search": (),
        "crons.create": ("asks",),
    }.items():
        settings = {"schedule": "* * * * *"} if name == "crons.create" else {}
        with pytest.raises(httpx.HTTPStatusError, match="Not here"):
            sdk(name, *args, **settings)


def test_subgraphs_are_streamed_while_they_run(database_url: str, gate: Gate) -> None:
    async def first(state: State, runtime: Runtime[Any]) -> State:
        runtime.stream_writer("from below")
        return {"log": ["first"]}

    async def second(state: State, runtime: Runtime[Any]) -> State:
        runtime.stream_writer("again")
        gate.reached.set()
        await until(gate.open)
        return {"log": ["second"]}

    inner = StateGraph(State).add_sequence([first, second]).add_edge(START, "first").compile()
    outer = StateGraph(State).add_node("below", inner).add_node("each", lambda state: {"log": ["each"]})
    outer.add_edge(START, "below")
    outer.add_conditional_edges("below", lambda state: [Send("each", {"n": n}) for n in range(2)], ["each"])
    graph = outer.compile(database_url)

    def seen(part: Any) -> bool:
        if part.data == "again":
            assert gate.reached.wait(20)
            gate.open.set()  # it has come while the subgraph runs
        return False

    with serving({"outer": graph}) as address:
        sdk = Sdk("sync", address.url)
        modes = ["updates", "custom", "values", "tasks"]
        asked = {"stream_mode": modes, "stream_subgraphs": True}
        parts = sdk.stream("runs.stream", None, "outer", input={"n": 1}, stop=seen, **asked)
        names = [part.event.partition("|")[0] for part in parts if "|" in part.event]
        one = ["tasks", "custom", "updates", "tasks", "values"]
        assert names == ["values", *one, *one]
        thread_id = sdk("threads.search")[0]["thread_id"]
        run_id = parts[0].data["run_id"]
        ids = [part.id for part in parts[1:-1]]
        assert len(set(ids)) == len(ids)
        for place, last in enumerate([None, *ids]):
            rest = sdk.stream(
                "runs.join_stream", thread_id, run_id, stream_mode=modes, last_event_id=last,
                params={"stream_subgraphs": "true"},
            )  # fmt: skip
            assert rest == [*parts[place + 1 : -1], end(rest)], last
        below = sdk("threads.get_state", thread_id, subgraphs=True)
        assert below["values"]["log"].count("each") == 2
        assert sdk("assistants.get_subgraphs", "outer").keys() == {"below"}
    graph.close()


def test_what_chat_models_say_is_streamed_and_told_again(database_url: str) -> None:
    async def talk(state: MessagesState) -> Any:
        model = GenericFakeChatModel(messages=iter([AIMessage("hello big world")]))
        return {"messages": [await model.ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState).add_node(talk).add_edge(START, "talk").compile(database_url, name="chat")
    with serving({"chat": graph}) as address:
        sdk = Sdk("sync", address.url)
        given = {"messages": [{"role": "user", "content": "say hello"}]}
        modes = ["messages-tuple", "values"]
        parts = sdk.stream("runs.stream", None, "chat", input=given, stream_mode=modes)
        told = [(part.data[0]["content"], part.data[0]["type"], part.id) for part in parts if part.event == "messages"]
        assert "".join(text for text, _, _ in told) == "hello big world"
        assert {kind for _, kind, _ in told} == {"AIMessageChunk"}
        assert [id for _, _, id in told] == [f"0.{number}" for number in range(1, len(told) + 1)]
        last = parts[-2].data["messages"]
        assert [(each["type"], each["content"]) for each in last] == [("human", "say hello"), ("ai", "hello big world")]
        thread_id, run_id = sdk("threads.search")[0]["thread_id"], parts[0].data["run_id"]
        rest = sdk.stream("runs.join_stream", thread_id, run_id, stream_mode=modes, last_event_id="0.2")
        assert rest == [*parts[parts.index(next(part for part in parts if part.id == "0.2")) + 1 : -1], end(rest)]
        assert sdk("threads.get_state", thread_id)["values"]["messages"] == last
    graph.close()
