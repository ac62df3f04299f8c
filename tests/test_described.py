"""What a graph tells of itself: subgraphs, schemas, nodes and channels, pictures."""

import operator
import sys
from dataclasses import dataclass, field
from typing import Annotated, Any, NotRequired, TypedDict

import pydantic
import pytest

from durable_graph import (
    END,
    START,
    CallError,
    Command,
    CompiledGraph,
    DrawingError,
    GraphOutput,
    IsLastStep,
    RemainingSteps,
    Send,
    StateGraph,
    entrypoint,
    get_config,
    get_runtime,
    interrupt,
)
from tests.graphs import Runner, wait_for


class State(TypedDict, total=False):
    log: Annotated[list[str], operator.add]
    x: str
    left: RemainingSteps


def node(state: State) -> State:
    return {"log": ["node"]}


def graph_of(*names: str, **subgraphs: Any) -> CompiledGraph[Any]:
    """These nodes one after the other."""
    builder = StateGraph(State).add_sequence([(name, subgraphs.get(name, node)) for name in names])
    return builder.add_edge(START, names[0]).compile(checkpointer=False)


# --- subgraphs --------------------------------------------------------------------------------


def test_subgraphs() -> None:
    inner = graph_of("one")
    middle = graph_of("in", **{"in": inner})

    def calls(state: State) -> Any:
        return inner.invoke(state)

    class Object:
        def __init__(self) -> None:
            self.graph = inner

        def method(self, state: State) -> Any:
            return self.graph.invoke(state)

    whole = graph_of("a", "mid", "calls", "method", mid=middle, calls=calls, method=Object().method)
    assert list(whole.get_subgraphs()) == [("mid", middle), ("calls", inner), ("method", inner)]
    assert [name for name, _ in whole.get_subgraphs(recurse=True)] == ["mid", "mid|in", "calls", "method"]
    assert list(whole.get_subgraphs(namespace="calls")) == [("calls", inner)]
    assert list(whole.get_subgraphs(namespace="mid|in", recurse=True)) == [("mid|in", inner)]
    assert list(whole.get_subgraphs(namespace="a")) == []

    async def found() -> list[Any]:
        return [pair async for pair in whole.aget_subgraphs(recurse=True)]

    assert wait_for(found) == list(whole.get_subgraphs(recurse=True))


@pytest.mark.parametrize("name", ["a|b", "a:b"])
def test_names_that_would_be_taken_for_a_namespace(name: str) -> None:
    with pytest.raises(DrawingError, match="separate the names of subgraphs"):
        StateGraph(State).add_node(name, node)


def test_nodes_and_channels() -> None:
    graph = graph_of("a", "b")
    assert list(graph.nodes) == [START, "a", "b"]
    assert graph.nodes["a"].call({}) == {"log": ["node"]}
    assert {name: channel.reducer for name, channel in graph.channels.items()} == {"log": operator.add, "x": None}


def test_a_drawing_is_validated() -> None:
    builder = StateGraph(State).add_node("a", node)
    with pytest.raises(DrawingError, match="nothing leads from START"):
        builder.validate()
    assert builder.add_edge(START, "a").validate(["a"]) is builder
    with pytest.raises(DrawingError, match="'b', which is no node"):
        builder.validate(["b"])


@pytest.mark.parametrize("way", ["sync", "async"])
def test_what_invoke_returns_in_version_2(way: str, database_url: str) -> None:
    def ask(state: State) -> State:
        return {"x": interrupt("q?")}

    with Runner(way, database_url) as run:
        graph = run.compile(StateGraph(State).add_node("ask", run.node(ask)).add_edge(START, "ask"))
        first = run.invoke(graph, {"log": []}, {"thread_id": "a"}, version="v2")
        assert isinstance(first, GraphOutput)
        assert (first.value, [question.value for question in first.interrupts]) == ({"log": []}, ["q?"])
        last = run.invoke(graph, Command(resume="yes"), {"thread_id": "a"}, version="v2")
        assert last == GraphOutput({"log": [], "x": "yes"})


def test_settings_as_arguments() -> None:
    @entrypoint(checkpointer=False)
    def flow(value: str) -> Any:
        return get_config()["metadata"]["k"], list(get_config()["tags"]), get_runtime(Context).context

    made = flow.with_config({"tags": ["a"]}, metadata={"k": 1}).with_config(tags=["b"])
    assert made.invoke("x", context=Context("ann")) == (1, ["a", "b"], Context("ann"))
    with pytest.raises(CallError, match="takes and returns plain values"):
        flow.get_input_jsonschema()


# --- schemas ----------------------------------------------------------------------------------


class Input(TypedDict):
    log: list[str]
    who: NotRequired[Annotated[int, pydantic.Field(ge=0)]]


@dataclass
class Context:
    user: str
    roles: list[str] = field(default_factory=list)


class Output(pydantic.BaseModel):
    x: str = "none"


LOG = {"items": {"type": "string"}, "title": "Log", "type": "array"}


def test_json_schemas() -> None:
    builder = StateGraph(State, Context, input_schema=Input, output_schema=Output)
    graph = builder.add_node("a", node).add_edge(START, "a").compile(checkpointer=False, name="Shop")
    assert graph.get_input_jsonschema() == {
        "properties": {"log": LOG, "who": {"minimum": 0, "title": "Who", "type": "integer"}},
        "required": ["log"],
        "title": "Input",
        "type": "object",
    }
    assert graph.get_output_jsonschema() == Output.model_json_schema()
    context = graph.get_context_jsonschema()
    assert context is not None
    assert (context["title"], context["required"], set(context["properties"])) == (
        "Context",
        ["user"],
        {"user", "roles"},
    )
    model = graph.get_input_schema()
    assert model.__name__ == "ShopInput"
    assert model(log=["a"]).log == ["a"]
    with pytest.raises(pydantic.ValidationError):
        model(log="a")
    assert graph.get_output_schema() is Output
    plain = graph_of("a")
    assert plain.get_input_jsonschema() == {
        "properties": {"log": LOG, "x": {"title": "X", "type": "string"}},
        "title": "State",
        "type": "object",
    }
    assert plain.get_context_jsonschema() is None


def test_json_schemas_need_pydantic(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = graph_of("a")
    monkeypatch.setitem(sys.modules, "pydantic", None)
    for call in (graph.get_input_jsonschema, graph.get_output_jsonschema, graph.get_input_schema):
        with pytest.raises(CallError, match="pip install pydantic"):
            call()


def test_a_type_that_json_schemas_do_not_know() -> None:
    class Plain:
        pass

    class Odd(TypedDict):
        thing: Plain

    graph = StateGraph(State, input_schema=Odd).add_node("a", node).add_edge(START, "a").compile(checkpointer=False)
    with pytest.raises(CallError, match="Odd has a field that JSON schemas do not know"):
        graph.get_input_jsonschema()


# --- pictures ---------------------------------------------------------------------------------


def test_pictures_look_into_subgraphs() -> None:
    inner = graph_of("one", "two")
    middle = graph_of("in", **{"in": inner})
    whole = graph_of("a", "mid", mid=middle)
    assert whole.get_graph().nodes == (START, "a", "mid", END)
    assert whole.get_graph(xray=1).nodes == (START, "a", "mid:__start__", "mid:in", "mid:__end__", END)
    picture = whole.get_graph(xray=True)
    assert wait_for(lambda: whole.aget_graph(xray=True)) == picture
    assert set(picture.draw_ascii().splitlines()) == {
        "__start__ --> a",
        "a --> mid:__start__",
        "mid:__start__ --> mid:in:__start__",
        "mid:in:__start__ --> mid:in:one",
        "mid:in:one --> mid:in:two",
        "mid:in:two --> mid:in:__end__",
        "mid:in:__end__ --> mid:__end__",
        "mid:__end__ --> __end__",
    }
    text = picture.draw_mermaid().splitlines()
    assert text[:13] == [
        "flowchart TD",
        '    n0(["__start__"])',
        '    n1["a"]',
        '    subgraph n2s["mid"]',
        '        n2(["__start__"])',
        '        subgraph n3s["in"]',
        '            n3(["__start__"])',
        '            n4["one"]',
        '            n5["two"]',
        '            n6(["__end__"])',
        "        end",
        '        n7(["__end__"])',
        "    end",
    ]


# --- managed values ---------------------------------------------------------------------------


class Counted(TypedDict, total=False):
    n: int
    left: RemainingSteps
    last: NotRequired[IsLastStep]


class Seen(list[Any]):
    def node(self, state: Counted) -> Counted:
        self.append(("node", state.get("left"), state.get("last")))
        return {**state, "n": state.get("n", 0) + 1}  # gives back what it was given

    def router(self, state: Counted) -> str:
        self.append(("router", state.get("left"), state.get("last")))
        return "node" if state["n"] < 3 else END


@pytest.mark.parametrize("way", ["sync", "async"])
def test_remaining_steps(way: str, database_url: str) -> None:
    seen, config = Seen(), {"thread_id": "a", "recursion_limit": 4}
    with Runner(way, database_url) as run:
        builder = StateGraph(Counted).add_node("node", run.node(seen.node)).add_edge(START, "node")
        graph = run.compile(builder.add_conditional_edges("node", run.node(seen.router)))
        assert run.invoke(graph, {"n": 0}, config) == {"n": 3}
        steps = [(3, False), (2, False), (1, True)]
        assert seen == [(who, *step) for step in steps for who in ("node", "router")]
        assert run.get_state(graph, config).values == {"n": 3}
        assert [event.update for event in run.replay(graph, config, stream_mode="events")] == [
            {"n": 0},
            {"n": 1},
            {"n": 2},
            {"n": 3},
        ]
        assert run.invoke(graph, {"n": 2, "left": 99}, config) == {"n": 3}  # nobody can set it
        assert seen[-2:] == [("node", 3, False), ("router", 3, False)]


def test_remaining_steps_in_a_node_of_its_own_schema_and_of_sends() -> None:
    class Small(TypedDict):
        left: RemainingSteps

    got: list[Any] = []

    def look(state: Small) -> None:
        got.append(state)

    builder = StateGraph(State).add_node("look", look).add_node("part", lambda arg: got.append(arg))
    builder.add_edge(START, "look").add_conditional_edges("look", lambda s: [Send("part", {"i": 1})], ["part"])
    builder.compile(checkpointer=False).invoke({"log": []}, {"recursion_limit": 9})
    assert got == [{"left": 8}, {"i": 1}]


def test_managed_values_are_no_input_and_no_output() -> None:
    for where in ("input_schema", "output_schema"):
        with pytest.raises(DrawingError, match=r"Counted has left, last.*no input or output"):
            StateGraph(State, **{where: Counted})
