"""langchain-core's messages in states, and what its chat models say while they speak."""

from __future__ import annotations

import contextvars
import operator
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    AnyMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.runnables.config import ensure_config, var_child_runnable_config

from durable_graph import (
    REMOVE_ALL_MESSAGES,
    START,
    ChangedGraphError,
    InvalidUpdateError,
    Log,
    MessagesState,
    Overwrite,
    StateGraph,
    TypeHook,
    Unregistered,
    UnstorableValueError,
    add_messages,
    entrypoint,
)
from durable_graph.core.jobs import Jobs
from tests.graphs import PATIENCE, Runner, new_thread

EVERY_KIND: list[BaseMessage] = [
    HumanMessage([{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": "u"}}], name="eve"),
    AIMessage(
        "",
        id="ai",
        tool_calls=[{"name": "f", "args": {"x": 1.5, "y": [None]}, "id": "c1"}],
        invalid_tool_calls=[{"name": "g", "args": "{", "id": "c2", "error": "no JSON", "type": "invalid_tool_call"}],
        additional_kwargs={"refusal": None, "deep": {"a": (1, 2)}},
        response_metadata={"model": "m", "logprobs": [float("-inf")]},
        usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3, "input_token_details": {"audio": 1}},
    ),
    ToolMessage("12", tool_call_id="c1", artifact={"raw": b"\x00\xff", "seen": {1, 2}}, status="error"),
    SystemMessage("be kind"),
    ChatMessage("hm", role="critic"),
    FunctionMessage("1", name="f"),
]


class Own(HumanMessage):
    """A class of the application's own."""

    mood: str = "fine"


@pytest.fixture(params=["sync", "async", "threads"])
def run(request: pytest.FixtureRequest, database_url: str) -> Any:
    with Runner(request.param, database_url) as runner:
        yield runner


def chat(run: Runner, *answers: Any, schema: Any = MessagesState) -> StateGraph[Any]:
    """A node for each answer."""
    builder = StateGraph(schema)
    for place, answer in enumerate(answers):
        builder.add_node(f"n{place}", run.node(lambda state, answer=answer: {"messages": answer}))
        builder.add_edge(f"n{place - 1}" if place else START, f"n{place}")
    return builder


def _nothing(chunk: Any) -> None:
    pass


def same(got: Any, wanted: Any) -> bool:
    """Equal in value and in type, all the way down."""
    if type(got) is not type(wanted):
        return False
    if isinstance(wanted, BaseMessage):
        return same(got.__dict__, wanted.__dict__) and got.model_fields_set == wanted.model_fields_set
    if isinstance(wanted, dict):
        return got.keys() == wanted.keys() and all(same(got[key], wanted[key]) for key in wanted)
    if isinstance(wanted, list | tuple):
        return len(got) == len(wanted) and all(map(same, got, wanted))
    return bool(got == wanted)


# --- in the state -----------------------------------------------------------------------------


def test_messages_come_back_as_they_were(run: Runner) -> None:
    config = new_thread()
    graph = run.compile(chat(run, EVERY_KIND))
    live = run.call(graph, "invoke", {"messages": []}, config)["messages"]
    wanted = [m.model_copy(update={"id": got.id}) for m, got in zip(EVERY_KIND, live, strict=True)]
    assert same(live, wanted)
    again = run.compile(chat(run, EVERY_KIND))
    assert same(run.call(again, "get_state", config).values["messages"], wanted)
    assert all(message.id for message in wanted)
    assert EVERY_KIND[0].id is None  # what a node returned is its own


def test_every_form_becomes_an_object(run: Runner) -> None:
    given = [
        "a",
        ("ai", "b"),
        {"role": "system", "content": "c", "id": "3"},
        {"type": "human", "content": "d"},
        ["user", "e"],
        AIMessageChunk("f", id="6"),
        {"role": "assistant", "content": "", "tool_calls": [{"name": "g", "args": {}, "id": "c"}]},
    ]
    graph = run.compile(chat(run, given))
    messages = run.call(graph, "invoke", {"messages": ("user", "hi")}, new_thread())["messages"]
    assert [type(m) for m in messages] == [
        HumanMessage, HumanMessage, AIMessage, SystemMessage, HumanMessage, HumanMessage, AIMessage, AIMessage
    ]  # fmt: skip
    assert [m.content for m in messages] == ["hi", "a", "b", "c", "d", "e", "f", ""]
    assert (messages[3].id, messages[6].id) == ("3", "6")
    assert messages[7].tool_calls[0]["name"] == "g"
    assert len({m.id for m in messages}) == 8


def test_an_id_once_recorded_stays(run: Runner) -> None:
    config = new_thread()
    graph = run.compile(chat(run, "a", "b"))
    events = run.each(_nothing, graph, "stream", {"messages": "q"}, config, stream_mode="values")
    names = [m.id for m in events[-1]["messages"]]
    assert [m.id for m in events[0]["messages"]] == names[:1]
    assert [m.id for m in run.call(graph, "get_state", config).values["messages"]] == names
    replayed = run.each(_nothing, graph, "replay", config, stream_mode="values")
    assert replayed == events


@pytest.mark.parametrize(
    ("write", "left"),
    [
        ([HumanMessage("A", id="1")], ["A", "b"]),
        (RemoveMessage(id="1"), ["b"]),
        ({"role": "remove", "id": "2"}, ["a"]),
        ({"role": "remove", "content": "", "id": "2"}, ["a"]),
        ([RemoveMessage(id="1"), HumanMessage("back", id="1")], ["back", "b"]),  # in its old place
        ([HumanMessage("c", id="3"), RemoveMessage(id="3")], ["a", "b"]),
        ([RemoveMessage(id="nobody"), RemoveMessage(id=REMOVE_ALL_MESSAGES), "c"], ["c"]),
        ([HumanMessage("x", id="1"), HumanMessage("y", id="1")], ["y", "b"]),
        (Overwrite(["c", ("ai", "d")]), ["c", "d"]),
        (Overwrite([]), []),
        ([], ["a", "b"]),
    ],
)
def test_replacing_and_removing(write: Any, left: list[str], database_url: str) -> None:
    start = [HumanMessage("a", id="1"), AIMessage("b", id="2")]
    with Runner("sync", database_url) as run:
        graph, config = run.compile(chat(run, write, "end")), new_thread()
        messages = graph.invoke({"messages": start}, config)["messages"]
        assert [m.content for m in messages] == [*left, "end"]
        assert graph.get_state(config).values["messages"] == messages
        values = list(graph.replay(config, stream_mode="values"))
        assert [m.content for m in values[1]["messages"]] == left
        barriers = [row for row in graph._stored().rows(config["configurable"]["thread_id"]) if row.kind == "task"]
        assert all(b'"results"' not in row.body for row in barriers)  # recorded as the operation
    if not isinstance(write, Overwrite):
        assert [m.content for m in add_messages(start, write)] == left


@pytest.mark.parametrize(
    "wrong",
    [5, None, {"content": "no role"}, [None], [{"role": "remove"}], ("strange", "x"), ("a", "b", "c"),
     RemoveMessage(id="nobody"), [RemoveMessage(id=REMOVE_ALL_MESSAGES), RemoveMessage(id="1")],
     Overwrite([RemoveMessage(id="9")]), Overwrite(None)],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_added(wrong: Any, database_url: str) -> None:
    config = new_thread()
    with Runner("sync", database_url) as run:
        graph = run.compile(chat(run, "a", wrong))
        with pytest.raises(InvalidUpdateError, match="messages"):
            graph.invoke({"messages": HumanMessage("q", id="1")}, config)
        corrected = run.compile(chat(run, "a", "b"))
        assert [m.content for m in corrected.invoke(None, config)["messages"]] == ["q", "a", "b"]
    with pytest.raises(ValueError, match=r"."):
        add_messages([HumanMessage("q", id="1")], wrong.value if isinstance(wrong, Overwrite) else wrong)


def test_parallel_nodes_may_remove_the_same(run: Runner) -> None:
    builder = StateGraph(MessagesState)
    for name in "ab":
        builder.add_node(name, run.node(lambda state: {"messages": RemoveMessage(id="1")}))
        builder.add_edge(START, name)
    graph, config = run.compile(builder), new_thread()
    assert (
        run.call(graph, "invoke", {"messages": [HumanMessage("q", id="1"), "r"]}, config)["messages"][0].content == "r"
    )


def test_openai_format(run: Runner) -> None:
    class State(TypedDict):
        messages: Annotated[list[AnyMessage], add_messages(format="langchain-openai")]

    image = {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": "12"}}
    told = {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "r"}]}
    write = [
        HumanMessage([{"type": "text", "text": "Hi", "cache_control": {"type": "e"}}, image], id="1"),
        HumanMessage([told, {"type": "text", "text": "so"}], id="2"),
        RemoveMessage(id="0"),
    ]
    graph, config = run.compile(chat(run, write, HumanMessage("A", id="1"), schema=State)), new_thread()
    given = {"messages": HumanMessage("q", id="0")}
    values = run.each(_nothing, graph, "stream", given, config, stream_mode="values")
    formatted = values[1]["messages"]
    url = {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,12"}}
    assert formatted[0].content == [{"type": "text", "text": "Hi"}, url]
    assert {(type(m), m.content) for m in formatted[1:]} == {(HumanMessage, "so"), (ToolMessage, "r")}
    assert all(m.id for m in formatted)
    assert [m.id for m in values[2]["messages"]] == [m.id for m in formatted]  # replaced by id, in its place
    assert values[2]["messages"][0].content == "A"
    alone = add_messages([HumanMessage("q", id="0")], write, format="langchain-openai")
    assert [m.content for m in alone] == [m.content for m in formatted]


def test_dicts_on_purpose(run: Runner) -> None:
    class State(TypedDict):
        messages: Annotated[list[Any], add_messages(format="dict")]

    graph = run.compile(chat(run, ("ai", "b"), schema=State))
    messages = run.call(graph, "invoke", {"messages": "a"}, new_thread())["messages"]
    assert [(m["role"], m["content"]) for m in messages] == [("user", "a"), ("ai", "b")]
    assert add_messages(messages, "c", format="dict")[-1]["role"] == "user"


def test_a_format_that_there_is_not() -> None:
    for call in (lambda: add_messages(format="latin"), lambda: add_messages([], [], format="latin")):  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="latin"):
            call()


def test_both_sides_are_needed() -> None:
    with pytest.raises(ValueError, match="left"):
        add_messages([HumanMessage("a")])
    with pytest.raises(ValueError, match="right"):
        add_messages(None, [HumanMessage("a")])


def test_what_is_given_stays_as_it_was() -> None:
    given = HumanMessage("a")
    (added,) = add_messages([], given)
    assert given.id is None
    assert added.id


def test_messages_elsewhere_in_the_state(run: Runner) -> None:
    """Also where the schema says nothing of them; and chunks stay chunks."""

    class State(TypedDict, total=False):
        last: Any
        log: Annotated[list[Any], operator.add]

    chunk = AIMessageChunk("a", id="1", tool_call_chunks=[{"name": "f", "args": "{", "id": "c", "index": 0}])
    builder = StateGraph(State).add_node("n", run.node(lambda state: {"last": chunk, "log": [HumanMessage("b")]}))
    graph, config = run.compile(builder.add_edge(START, "n")), new_thread()
    run.call(graph, "invoke", {"log": []}, config)
    values = run.call(graph, "get_state", config).values
    assert same(values, {"last": chunk, "log": [HumanMessage("b")]})


def test_an_entrypoint_returns_messages(database_url: str) -> None:
    @entrypoint(checkpointer=database_url)
    def answer(question: str) -> Any:
        return AIMessage(question.upper(), id="1")

    with answer:
        assert answer.invoke("a", {"thread_id": "t"}) == AIMessage("A", id="1")
        assert answer.get_state({"thread_id": "t"}).values == AIMessage("A", id="1")


def test_a_class_of_the_applications_own(run: Runner) -> None:
    builder, config = chat(run, Own("a", id="1")), new_thread()
    with pytest.raises(UnstorableValueError, match=r"messages.*Own"):
        run.call(run.compile(builder), "invoke", {"messages": []}, config)
    graph = run.compile(builder, types=[Own])
    run.call(graph, "invoke", None, config)
    assert same(run.call(graph, "get_state", config).values["messages"], [Own("a", id="1")])
    (shown,) = run.call(run.compile(chat(run, "b")), "get_state", config).values["messages"]
    assert isinstance(shown, Unregistered)
    assert (shown.data["content"], shown.data["mood"]) == ("a", "fine")


def test_placeholders_are_replaced_and_removed_too(run: Runner) -> None:
    """Without its class a message is still known by its id. No node gets to see one."""
    config = new_thread()
    graph = run.compile(chat(run, [Own("a", id="1"), Own("b", id="2")]), types=[Own])
    run.call(graph, "invoke", {"messages": []}, config)
    later = run.compile(chat(run, "c"))
    with pytest.raises(ChangedGraphError, match=r"Own.*types="):
        run.call(later, "invoke", {"messages": []}, config)
    update = {"messages": [HumanMessage("A", id="1"), RemoveMessage(id="2")]}
    run.call(later, "update_state", config, update, as_node="n0")
    assert run.call(later, "get_state", config).values["messages"] == [HumanMessage("A", id="1")]
    assert len(run.call(later, "invoke", {"messages": []}, config)["messages"]) == 2


# --- dicts where langchain-core is not used ----------------------------------------------------

DICTS = """if True:
    import sys
    from durable_graph import START, Log, MessagesState, StateGraph
    def answer(state): return {"messages": [("assistant", state["messages"][-1]["content"].upper()), ["tool", "x"]]}
    builder = StateGraph(MessagesState).add_node(answer).add_edge(START, "answer")
    with builder.compile(sys.argv[1]) as graph:
        messages = graph.invoke({"messages": "hi"}, {"thread_id": "t"})["messages"]
        print([(m["role"], m["content"]) for m in messages])
    held = [name for name in sys.modules if name.startswith("langchain")]
    assert not held, held
    if len(sys.argv) > 2:
        from durable_graph import ArgumentError, add_messages
        sys.modules["langchain_core"] = None
        try:
            add_messages(format="langchain-openai")
        except ArgumentError as error:
            print(error)
"""


def test_without_langchain_messages_are_dicts(sqlite_url: str, script: Any) -> None:
    from tests.conftest import finished

    told = finished(script(DICTS, sqlite_url, "also"))
    assert told.splitlines()[0] == "[('user', 'hi'), ('assistant', 'HI'), ('tool', 'x')]"
    assert 'pip install "durable-graph[langchain]"' in told
    with Runner("sync", sqlite_url) as run:  # the application begins to use langchain-core
        graph = run.compile(chat(run, {"role": "remove", "id": "nobody"}, "end"))
        before = graph.get_state({"thread_id": "t"}).values["messages"]
        assert [type(m) for m in before] == [dict, dict, dict]
        graph = run.compile(chat(run, {"role": "remove", "id": before[0]["id"]}, "end"))
        after = graph.invoke({"messages": [{**before[1], "content": "yes"}]}, {"thread_id": "t"})["messages"]
    assert [type(m) for m in after] == [AIMessage, dict, HumanMessage]
    assert after[0].content == "yes"


LATE = """if True:
    import sys
    from durable_graph import START, MessagesState, StateGraph, UnstorableValueError
    def answer(state):
        from langchain_core.messages import AIMessage
        return {"messages": AIMessage("a")}
    builder = StateGraph(MessagesState).add_node(answer).add_edge(START, "answer")
    with builder.compile(sys.argv[1]) as graph:
        try:
            graph.invoke({"messages": "hi"}, {"thread_id": "t"})
        except UnstorableValueError as error:
            print(error)
    with builder.compile(sys.argv[1]) as graph:
        print(graph.invoke(None, {"thread_id": "t"})["messages"][-1].content)
"""


def test_langchain_that_is_imported_after_compiling(sqlite_url: str, script: Any) -> None:
    from tests.conftest import finished

    first, second = finished(script(LATE, sqlite_url)).splitlines()
    assert "compile(types=[AIMessage])" in first
    assert second == "a"


# --- types= -----------------------------------------------------------------------------------


def test_a_hook_goes_before_what_is_known_by_itself(run: Runner) -> None:
    hook = TypeHook(HumanMessage, lambda m: [m.id, m.content], lambda parts: HumanMessage(parts[1], id=parts[0]))
    graph, config = run.compile(chat(run, "a"), types=[hook]), new_thread()
    run.call(graph, "invoke", {"messages": HumanMessage("q", id="1")}, config)
    assert [m.content for m in run.call(graph, "get_state", config).values["messages"]] == ["q", "a"]
    shown = Log(run.url, types=[]).get_state(config).values["messages"]
    assert shown[0] == Unregistered("langchain_core.messages.human:HumanMessage", ["1", "q"], "custom")


# --- what langchain-core finds around a node ----------------------------------------------------


class Steps(TypedDict, total=False):
    found: Annotated[list[Any], operator.add]


def test_a_nodes_config_is_made_when_somebody_looks(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, also for those that look at the same time, from threads of the node's own. Nobody else's step pays."""
    made: list[str] = []
    real = Jobs._runtime
    monkeypatch.setattr(Jobs, "_runtime", lambda self, job: made.append(job.task.node) or real(self, job))

    def look(together: threading.Barrier) -> Any:
        together.wait(PATIENCE)
        return ensure_config()["metadata"]["langgraph_node"]

    def looks(state: Steps) -> Steps:
        together = threading.Barrier(4)
        with ThreadPoolExecutor(4) as pool:
            seen = [pool.submit(contextvars.copy_context().run, look, together) for _ in range(4)]
            return {"found": [each.result() for each in seen]}

    builder = StateGraph(Steps).add_node("quiet", run.node(lambda state: {"found": []}))
    builder.add_node("looks", run.node(looks)).add_edge(START, "quiet").add_edge("quiet", "looks")
    assert run.invoke(run.compile(builder), {}, new_thread())["found"] == ["looks"] * 4
    assert made == ["looks"]
    assert not var_child_runnable_config.get()
