"""Stream mode "messages": parts of messages as chat models say them, and again from the log.

The rule that nearly every test here ends with: a replay tells what the live stream told, in the same order, from each
step on.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, TypedDict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.callbacks import BaseCallbackHandler, CallbackManager
from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.fake_chat_models import FakeListChatModel, GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import RunnableLambda

from durable_graph import (
    START,
    ArgumentError,
    CallError,
    Command,
    InvalidUpdateError,
    Log,
    MessagesState,
    RetryPolicy,
    StateGraph,
    UnstorableValueError,
    drivers,
    entrypoint,
    get_stream_writer,
    interrupt,
    push_message,
    task,
)
from durable_graph.codec import Codec
from durable_graph.core.tokens import Tokens, parts_of
from durable_graph.messages import message_types
from tests.graphs import Runner, new_thread
from tests.test_langchain import same

MODES = ["messages", "custom", "updates", "events"]


@pytest.fixture(params=["sync", "async", "threads"])
def run(request: pytest.FixtureRequest, database_url: str) -> Any:
    with Runner(request.param, database_url) as runner:
        yield runner


class Talker(BaseChatModel):
    """Says these parts, whatever it is asked. `streamed` counts how often it was made to stream."""

    parts: list[Any]  # texts, or chunks
    streamed: list[int] = []  # noqa: RUF012 - a field of a pydantic model
    before: Any = None  # called before each part
    fails: bool = False  # after the last one

    @property
    def _llm_type(self) -> str:
        return "talker"

    def _chunks(self) -> Iterator[ChatGenerationChunk]:
        for place, part in enumerate(self.parts, 1):
            if self.before is not None:
                self.before(part)
            message = AIMessageChunk(part) if isinstance(part, str) else part.model_copy()
            if place == len(self.parts):
                message.chunk_position = "last"  # else langchain-core says an empty one to that effect
            yield ChatGenerationChunk(message=message)
        if self.fails:
            raise ConnectionError("the line is dead")

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **_: Any) -> ChatResult:
        text = "".join(chunk.text for chunk in self._chunks())
        return ChatResult(generations=[ChatGeneration(message=AIMessage(text))])

    def _stream(self, messages: Any, stop: Any = None, run_manager: Any = None, **_: Any) -> Any:
        self.streamed.append(1)
        yield from self._chunks()


def talk(*parts: Any, **settings: Any) -> Talker:
    return Talker(parts=list(parts), streamed=[], **settings)


def asking(run: Runner, model: Any, then: Callable[[Any], Any] = lambda said: {"messages": said}) -> Any:
    """A node that asks a model and returns what it said."""

    def ask(state: Any) -> Any:
        return then(model.invoke("q"))

    async def aask(state: Any) -> Any:
        return then(await model.ainvoke("q"))

    return aask if run.way == "async" else ask


def line(run: Runner, *nodes: Any, schema: Any = MessagesState) -> StateGraph[Any]:
    builder = StateGraph(schema)
    for place, node in enumerate(nodes):
        builder.add_node(f"n{place}", node)
        builder.add_edge(f"n{place - 1}" if place else START, f"n{place}")
    return builder


def texts(chunks: Sequence[Any]) -> list[Any]:
    """Contents of (message, metadata) pairs."""
    return [message.content for message, _ in chunks]


def check(run: Runner, graph: Any, live: list[Any], config: Any, ordered: bool = True, **options: Any) -> None:
    """A replay of MODES is what was live, and from each step on what came after it."""
    for reader in (graph, Log(run.url)):
        assert equal(run.replay(reader, config, stream_mode=MODES, **options), live)
    places = {chunk[-1].step: place for place, chunk in enumerate(live) if is_own_event(chunk)}
    for step, place in places.items():
        rest, wanted = run.replay(graph, config, after=step, stream_mode=MODES, **options), live[place + 1 :]
        assert equal(rest if ordered else rest[len(rest) - len(wanted) :], wanted)


def equal(told: list[Any], live: list[Any]) -> bool:
    """Messages in type too: a chunk is no message."""
    return told == live and [kinds(chunk) for chunk in told] == [kinds(chunk) for chunk in live]


def kinds(chunk: Any) -> Any:
    return type(chunk[-1][0]) if chunk[-2] == "messages" else None


def is_own_event(chunk: Any) -> bool:
    return chunk[-2] == "events" and (len(chunk) == 2 or chunk[0] == ())


def said(live: Sequence[Any]) -> list[Any]:
    return [chunk[-1][0].content for chunk in live if chunk[-2] == "messages"]


# --- one model --------------------------------------------------------------------------------


def test_parts_come_while_the_node_runs_and_again_from_the_log(run: Runner) -> None:
    graph, config = run.compile(line(run, asking(run, talk("he", "llo", "!")))), new_thread()
    live = run.stream(graph, {"messages": "hi"}, config, stream_mode=MODES)
    assert [mode for mode, _ in live] == ["events", *["messages"] * 3, "updates", "events"]
    assert said(live) == ["he", "llo", "!"]  # and the whole is no news
    parts = [chunk[0] for mode, chunk in live if mode == "messages"]
    (answer,) = live[-2][1]["n0"]["messages"]
    assert {part.id for part in parts} == {answer.id}
    assert all(type(part) is AIMessageChunk for part in parts)
    assert answer.content == "hello!"
    check(run, graph, live, config)


def test_they_are_not_held_back_until_the_node_ends(run: Runner) -> None:
    gate = threading.Event()

    def wait(part: str) -> None:
        assert part == "a" or gate.wait(20)

    model = talk("a", "b", before=wait)
    graph, config = run.compile(line(run, lambda state: {"messages": model.invoke("q")})), new_thread()
    if run.way == "async":
        model.before = None  # an async node's model waits in its own way

    def go_on(chunk: Any) -> None:
        gate.set()

    live = run.watch(go_on, graph, {"messages": "hi"}, config, stream_mode="messages")
    assert texts(live) == ["a", "b"]


def test_metadata_has_langgraphs_names(run: Runner) -> None:
    graph, config = (
        run.compile(line(run, asking(run, talk("a")), run.node(lambda state: {"messages": "b"}))),
        new_thread(),
    )
    config = {**config, "metadata": {"user": "ann"}, "tags": ["one"], "run_name": "mine"}
    live = run.stream(graph, {"messages": "hi"}, config, stream_mode="messages")
    first, second = (metadata for _, metadata in live)
    thread = config["configurable"]["thread_id"]
    for place, metadata in ((0, first), (1, second)):
        wanted = {
            "user": "ann",
            "thread_id": thread,
            "langgraph_step": place + 1,
            "langgraph_node": f"n{place}",
            "langgraph_triggers": (f"branch:to:n{place}",),
            "langgraph_path": ("__pregel_pull", f"n{place}"),
            "langgraph_checkpoint_ns": f"n{place}:{place}.0",
        }
        assert {key: metadata.get(key) for key in wanted} == wanted
    assert first["tags"] == ["one"]
    assert first["ls_model_type"] == "chat"
    assert "step" not in first
    assert second["step"] == 2
    assert run.replay(graph, config, stream_mode="messages") == live


@pytest.mark.parametrize("way", ["config", "chain", "stream", "deep"])
def test_ways_to_ask(run: Runner, way: str) -> None:
    """With the config or without, through a chain, by streaming, in functions that know nothing of graphs."""
    model = talk("a", "b").with_config(tags=["mine"])
    chain = RunnableLambda(lambda question: question) | model

    def node(state: Any, config: Any) -> Any:
        if way == "stream":
            return {"messages": sum_of(list(model.stream("q")))}
        if way == "config":
            return {"messages": model.invoke("q", config)}
        return {"messages": (chain if way == "chain" else RunnableLambda(lambda _: model.invoke("q"))).invoke("q")}

    async def anode(state: Any, config: Any) -> Any:
        if way == "stream":
            return {"messages": sum_of([chunk async for chunk in model.astream("q")])}
        if way == "config":
            return {"messages": await model.ainvoke("q", config)}

        async def deep(_: Any) -> Any:
            return await model.ainvoke("q")

        return {"messages": await (chain if way == "chain" else RunnableLambda(deep)).ainvoke("q")}

    graph, config = run.compile(line(run, anode if run.way == "async" else node)), new_thread()
    live = run.stream(graph, {"messages": "hi"}, config, stream_mode=MODES)
    assert [text for text in said(live) if text] == ["a", "b"]
    assert {tuple(chunk[1]["tags"]) for mode, chunk in live if mode == "messages"} == {("mine",)}
    check(run, graph, live, config)


def sum_of(chunks: list[Any]) -> Any:
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    return whole


def test_a_chain_as_a_node(run: Runner) -> None:
    """LangGraph takes these too: they are invoked with the state and the config."""
    model = talk("a", "b")
    chain = RunnableLambda(lambda state: state["messages"]) | model | RunnableLambda(lambda said: {"messages": said})
    graph, config = run.compile(line(run, chain.with_config(tags=["mine"]))), new_thread()
    live = run.stream(graph, {"messages": "hi"}, config, stream_mode=MODES)
    assert said(live) == ["a", "b"]
    check(run, graph, live, config)
    named = StateGraph(MessagesState).add_node(RunnableLambda(lambda state: {"messages": "c"}, name="short"))
    assert list(named.nodes) == ["short"]


def test_a_model_that_cannot_stream_says_all_at_once(run: Runner) -> None:
    class Mute(Talker):
        _stream = BaseChatModel._stream

    graph, config = run.compile(line(run, asking(run, Mute(parts=["a", "b"])))), new_thread()
    live = run.stream(graph, {"messages": "hi"}, config, stream_mode=MODES)
    assert said(live) == ["ab"]
    check(run, graph, live, config)


def test_models_of_langchain_cores_own(run: Runner) -> None:
    generic = GenericFakeChatModel(messages=iter([AIMessage("hello big world")]))
    nodes = asking(run, generic), asking(run, FakeListChatModel(responses=["ab"]))
    graph, config = run.compile(line(run, *nodes)), new_thread()
    live = run.stream(graph, {"messages": "hi"}, config, stream_mode=MODES)
    assert [text for text in said(live) if text] == ["hello", " ", "big", " ", "world", "a", "b"]
    check(run, graph, live, config)


def test_the_tag_nostream(run: Runner) -> None:
    """Nobody listens to it; the message counts when the node returns it."""
    quiet = talk("a", "b").with_config(tags=["nostream"])
    graph, config = run.compile(line(run, asking(run, quiet), asking(run, quiet, lambda said: {}))), new_thread()
    live = run.stream(graph, {"messages": "hi"}, config, stream_mode=MODES)
    assert said(live) == ["ab"]
    check(run, graph, live, config)


def test_without_the_mode_no_model_is_made_to_stream(run: Runner) -> None:
    model = talk("a", "b")
    graph, config = run.compile(line(run, asking(run, model))), new_thread()
    run.stream(graph, {"messages": "hi"}, config, stream_mode=["updates", "custom"])
    assert model.streamed == []
    assert texts(run.replay(graph, config, stream_mode="messages")) == ["ab"]
    run.stream(graph, {"messages": "hi"}, config, stream_mode=["messages"])
    assert model.streamed == [1]


def test_without_a_log() -> None:
    for way in ("sync", "async", "threads"):
        with Runner(way, False) as run:
            graph = run.compile(line(run, asking(run, talk("a", "b"))))
            assert texts(run.stream(graph, {"messages": "hi"}, stream_mode="messages")) == ["a", "b"]


def test_every_field_of_a_part_comes_back(run: Runner) -> None:
    usage = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
    call = [{"name": "f", "args": '{"x"', "id": "c", "index": 5}]
    parts = [
        AIMessageChunk("", id="1", response_metadata={"model": "m"}),
        AIMessageChunk([{"type": "text", "text": "a", "index": 0}], id="1"),
        AIMessageChunk([{"type": "text", "text": "a", "index": 1}], id="1"),
        AIMessageChunk("", id="1", tool_call_chunks=call, additional_kwargs={"k": (1, None)}),
        AIMessageChunk("a", id="1"),
        AIMessageChunk("b", id="1", own=5),  # type: ignore[call-arg]
        AIMessageChunk("", id="1", usage_metadata=usage, name="eve"),
    ]
    graph, config = run.compile(line(run, asking(run, talk(*parts), lambda said: {}))), new_thread()
    live = run.stream(graph, {"messages": "hi"}, config, stream_mode="messages")
    told = run.replay(graph, config, stream_mode="messages")
    assert len(live) == len(told) >= len(parts)
    assert all(same(a[0], b[0]) and a[1] == b[1] for a, b in zip(told, live, strict=True))
    assert [message.content for message, _ in live[: len(parts)]] == [part.content for part in parts]


def test_a_row_costs_about_what_was_shown(run: Runner) -> None:
    graph = run.compile(line(run, asking(run, talk(*["word "] * 500))))
    sizes = []
    for modes in ("updates", "messages"):
        config = new_thread()
        run.stream(graph, {"messages": "hi"}, config, stream_mode=modes)
        rows = graph._stored().rows(config["configurable"]["thread_id"])
        sizes.append(sum(len(row.body) for row in rows))
    assert sizes[1] - sizes[0] < 500 * len('"word ",') + 1500


# --- with others ------------------------------------------------------------------------------


def test_custom_events_between_parts(run: Runner) -> None:
    def aside(part: str) -> None:
        get_stream_writer()(f"now {part}")

    model = talk("a", "b", before=aside)
    graph, config = run.compile(line(run, run.node(lambda state: {"messages": model.invoke("q")}))), new_thread()
    live = run.stream(graph, {"messages": "hi"}, config, stream_mode=MODES)
    assert [mode for mode, _ in live][1:5] == ["custom", "messages", "custom", "messages"]
    check(run, graph, live, config)


def test_models_side_by_side(run: Runner) -> None:
    """Two nodes say something in turns, and one more row comes in between."""
    turns = {name: threading.Event() for name in ("a0", "b0", "a1", "b1", "row")}
    order = ["a0", "b0", "row", "a1", "b1"]

    def wait(part: str) -> None:
        place = order.index(part)
        assert place == 0 or turns[order[place - 1]].wait(20)

    builder = StateGraph(MessagesState)
    for name in "ab":
        model = talk(f"{name}0", f"{name}1", before=wait)
        builder.add_node(name, lambda state, model=model: {"messages": model.invoke("q")})
    builder.add_node("c", lambda state: turns["b0"].wait(20) and {"messages": "c"})
    for name in "abc":
        builder.add_edge(START, name)
    if run.way == "async":
        pytest.skip("sync models in async nodes would wait for one another in one loop")
    graph, config = run.compile(builder), new_thread()

    def look(chunk: Any) -> None:
        mode, data = chunk
        if mode == "messages" and data[0].content in turns:
            turns[data[0].content].set()
        if mode == "events" and data.node == "c":
            turns["row"].set()

    live = run.watch(look, graph, {"messages": "hi"}, config, stream_mode=MODES)
    assert said(live)[:2] == ["a0", "b0"]
    assert said(live)[2:] == ["c", "a1", "b1"]
    check(run, graph, live, config, ordered=False)
    last = [mode for mode, _ in live].index("messages")
    followed = run.each(stop_after(len(live)), graph, "follow", config, stream_mode=MODES, timeout=0)
    assert sorted(map(str, followed)) == sorted(map(str, live))  # a follower gets parts with their row
    assert last


def stop_after(number: int) -> Callable[[Any], bool]:
    left = iter(range(number - 1, -1, -1))
    return lambda chunk: next(left) == 0


def test_a_consumer_that_goes_away(run: Runner) -> None:
    """The node ends in peace, and the log has all that it said."""
    graph, config = run.compile(line(run, asking(run, talk("a", "b", "c")), asking(run, talk("d")))), new_thread()
    seen = run.first(1, graph, {"messages": "hi"}, config, stream_mode="messages")
    assert texts(seen) == ["a"]
    rest = run.stream(graph, None, config, stream_mode="messages")
    assert texts(rest) == ["d"]
    assert texts(run.replay(graph, config, stream_mode="messages")) == ["a", "b", "c", "d"]


def test_what_a_consumer_does_to_a_part_changes_nothing(run: Runner) -> None:
    def spoil(chunk: Any) -> None:
        chunk[0].content = "spoilt"
        chunk[0].response_metadata["x"] = 1
        chunk[1].clear()

    graph, config = run.compile(line(run, asking(run, talk("a", "b")))), new_thread()
    run.watch(spoil, graph, {"messages": "hi"}, config, stream_mode="messages")
    assert run.get_state(graph, config).values["messages"][-1].content == "ab"
    told = run.replay(graph, config, stream_mode="messages")
    assert texts(told) == ["a", "b"]
    assert told[0][1]["langgraph_node"] == "n0"


def test_a_part_that_cannot_be_stored_is_refused_where_it_is_said(run: Runner) -> None:
    model = talk("a", AIMessageChunk("b", additional_kwargs={"it": threading.Lock()}))
    graph, config = run.compile(line(run, asking(run, model))), new_thread()
    with pytest.raises(UnstorableValueError, match=r"additional_kwargs.*it.*lock"):
        run.stream(graph, {"messages": "hi"}, config, stream_mode="messages")
    assert texts(run.replay(graph, config, stream_mode="messages")) == ["a"]
    corrected = run.compile(line(run, asking(run, talk("c"))))
    assert texts(run.stream(corrected, None, config, stream_mode="messages")) == ["c"]


# --- what is news -----------------------------------------------------------------------------


class Wide(TypedDict, total=False):
    messages: Annotated[list[Any], operator.add]
    draft: Any
    last: Any


def test_what_a_node_was_given_is_no_news(run: Runner) -> None:
    old = HumanMessage("old", id="1")
    nodes = [
        run.node(lambda state: {"messages": [old, HumanMessage("new", id="2")]}),
        run.node(lambda state: {"messages": state["messages"]}),
        run.node(lambda state: {"messages": HumanMessage("New", id="2")}),  # as in LangGraph
    ]
    graph, config = run.compile(line(run, *nodes)), new_thread()
    live = run.stream(graph, {"messages": old}, config, stream_mode=MODES)
    assert said(live) == ["new"]
    check(run, graph, live, config)


def test_messages_in_other_channels(run: Runner) -> None:
    first, second = HumanMessage("1", id="1"), AIMessage("2", id="2")
    nodes = [
        run.node(lambda state: {"draft": first, "last": [first, second, "no message"]}),
        run.node(lambda state: {"messages": [state["draft"], "text"], "last": state["last"]}),
        run.node(lambda state: {"draft": AIMessage("3"), "messages": []}),
    ]
    graph, config = run.compile(line(run, *nodes, schema=Wide)), new_thread()
    live = run.stream(graph, {"messages": []}, config, stream_mode=MODES)
    assert said(live) == ["1", "2", "3"]
    check(run, graph, live, config)


def test_commands_and_sends(run: Runner) -> None:
    from durable_graph import Send

    given = HumanMessage("given", id="1")
    builder = StateGraph(MessagesState)
    builder.add_node("a", run.node(lambda state: Command(update={"messages": "a"}, goto=[Send("b", {"it": given})])))
    builder.add_node("b", asking(run, talk("x"), lambda said: {"messages": [given, said]}))
    graph, config = run.compile(builder.add_edge(START, "a")), new_thread()
    live = run.stream(graph, {"messages": "hi"}, config, stream_mode=MODES)
    assert said(live) == ["a", "x"]
    (metadata,) = (chunk[1] for mode, chunk in live if mode == "messages" and chunk[0].content == "x")
    assert metadata["langgraph_path"] == ("__pregel_push", 0, False)
    assert metadata["langgraph_triggers"] == ("__send__",)
    check(run, graph, live, config)


# --- failures ---------------------------------------------------------------------------------


def test_what_was_said_before_a_failure_stays(run: Runner) -> None:
    graph, config = run.compile(line(run, asking(run, talk("a", "b", fails=True)))), new_thread()
    live: list[Any] = []
    with pytest.raises(ConnectionError):
        run.watch(live.append, graph, {"messages": "hi"}, config, stream_mode=MODES)
    assert said(live) == ["a", "b"]
    check(run, graph, run.replay(graph, config, stream_mode=MODES), config)
    assert run.replay(graph, config, stream_mode=MODES) == live


def test_retries_and_handlers(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """What all attempts said is recorded with the row at the end, under the name of the node that said it."""
    monkeypatch.setattr(drivers, "pause", lambda seconds: None)
    quick = RetryPolicy(initial_interval=0.0, max_attempts=2, jitter=False)
    builder = StateGraph(MessagesState)
    handler = asking(run, talk("sorry"))

    async def ahandler(state: Any, error: Any) -> Any:
        return await handler(state)

    builder.add_node(
        "n",
        asking(run, talk("a", fails=True)),
        retry_policy=quick,
        error_handler=ahandler if run.way == "async" else lambda state, error: handler(state),
    )
    graph, config = run.compile(builder.add_edge(START, "n")), new_thread()
    live = run.stream(graph, {"messages": "hi"}, config, stream_mode=MODES)
    assert said(live) == ["a", "a", "sorry"]
    nodes = [chunk[1]["langgraph_node"] for mode, chunk in live if mode == "messages"]
    assert nodes == ["n", "n", "__error_handler__n"]
    check(run, graph, live, config)


def test_interrupts(run: Runner) -> None:
    def ask(state: Any) -> Any:
        said = talk("a").invoke("q")
        return {"messages": [said, interrupt("?")]}

    graph, config = run.compile(line(run, run.node(ask))), new_thread()
    live = run.stream(graph, {"messages": "hi"}, config, stream_mode=MODES)
    live += run.stream(graph, Command(resume="b"), config, stream_mode=MODES)
    assert said(live) == ["a", "a", "b"]  # the node runs again from its start
    check(run, graph, live, config)


def test_durable_tasks(run: Runner) -> None:
    model, broken = talk("a", "b"), talk("x", fails=True)

    @task
    def ask(question: str) -> Any:
        return model.invoke(question)

    @task
    async def aask(question: str) -> Any:
        return await model.ainvoke(question)

    @task
    def fail() -> Any:
        return broken.invoke("q")

    def node(state: Any) -> Any:
        with pytest.raises(ConnectionError):
            fail().result()
        return {"messages": [ask("q").result(), "end"]}

    async def anode(state: Any) -> Any:
        with pytest.raises(ConnectionError):
            await fail()
        return {"messages": [await aask("q"), "end"]}

    graph, config = run.compile(line(run, anode if run.way == "async" else node)), new_thread()
    live = run.stream(graph, {"messages": "hi"}, config, stream_mode=MODES)
    assert said(live) == ["x", "a", "b", "end"]
    name = "aask" if run.way == "async" else "ask"
    nodes = [chunk[1]["langgraph_node"] for mode, chunk in live if mode == "messages"]
    assert nodes == ["fail", name, name, "n0"]
    check(run, graph, live, config, ordered=False)


def test_an_entrypoint(database_url: str) -> None:
    @entrypoint(checkpointer=database_url)
    def answer(question: str) -> Any:
        return talk("a", "b").invoke(question)

    @entrypoint(checkpointer=database_url)
    def plain(question: str) -> Any:
        return AIMessage("c")

    with answer, plain:
        for graph, wanted in ((answer, ["a", "b"]), (plain, ["c"])):
            config = new_thread()
            live = list(graph.stream("q", config, stream_mode="messages"))
            assert texts(live) == wanted
            assert live[0][1]["langgraph_node"] == graph.name
            assert list(graph.replay(config, stream_mode="messages")) == live


# --- subgraphs --------------------------------------------------------------------------------


@pytest.mark.parametrize("named", [True, False], ids=["as a node", "called"])
@pytest.mark.parametrize("shown", [True, False], ids=["shown", "not shown"])
def test_subgraphs(run: Runner, named: bool, shown: bool) -> None:
    inner = run.compile(line(run, asking(run, talk("a", "b")), run.node(lambda state: {"messages": "c"})))

    def call(state: Any) -> Any:
        return {"messages": [*inner.invoke(state)["messages"], "d"]}

    async def acall(state: Any) -> Any:
        return {"messages": [*(await inner.ainvoke(state))["messages"], "d"]}

    node = inner if named else acall if run.way == "async" else call
    graph, config = run.compile(line(run, node, asking(run, talk("e")))), new_thread()
    live = run.stream(graph, {"messages": "hi"}, config, stream_mode=MODES, subgraphs=shown)
    parts = ["a", "b", "c"] if shown else ["ab", "c"]  # who does not see it being said gets the whole
    assert said(live) == [*parts, *([] if named else ["d"]), "e"]
    assert equal(run.replay(graph, config, stream_mode=MODES, subgraphs=shown), live)
    if shown:
        check(run, graph, live, config, subgraphs=True)
        spaces = [chunk[2][1]["langgraph_checkpoint_ns"] for chunk in live if chunk[1] == "messages"]
        assert spaces[0] == "n0:0.0|n0:0.0"
        assert spaces[-1] == "n1:1.0"


def test_a_subgraph_that_is_listened_to_by_itself(run: Runner) -> None:
    """A node streams it, and nobody else does: its parts are the node's own business."""
    inner = run.compile(line(run, asking(run, talk("a", "b"))))
    heard: list[Any] = []

    def call(state: Any) -> Any:
        heard.extend(texts(inner.stream(state, stream_mode="messages")))
        return {}

    async def acall(state: Any) -> Any:
        heard.extend(texts([chunk async for chunk in inner.astream(state, stream_mode="messages")]))
        return {}

    graph, config = run.compile(line(run, acall if run.way == "async" else call)), new_thread()
    assert run.stream(graph, {"messages": "hi"}, config, stream_mode="messages") == []
    assert heard == ["a", "b"]


# --- callbacks of the application's own ---------------------------------------------------------


class Tracer(BaseCallbackHandler):
    run_inline = True

    def __init__(self) -> None:
        self.nodes: list[Any] = []

    def on_chat_model_start(self, *_: Any, metadata: Any = None, **__: Any) -> None:
        self.nodes.append(metadata["langgraph_node"])


@pytest.mark.parametrize("manager", [True, False], ids=["a manager", "a list"])
def test_callbacks_in_the_config_reach_models(run: Runner, manager: bool) -> None:
    tracer, other = Tracer(), Tracer()
    inner = run.compile(line(run, asking(run, talk("b"))))
    builder = line(run, asking(run, talk("a")), inner)
    callbacks = CallbackManager([tracer]) if manager else [tracer]
    graph, config = run.compile(builder), {**new_thread(), "callbacks": callbacks}
    if not manager:
        graph = graph.with_config({"callbacks": [other]})
    for modes in ("updates", "messages"):
        run.stream(graph, {"messages": "hi"}, config, stream_mode=modes, subgraphs=True)
    assert tracer.nodes == ["n0", "n0", "n0", "n0"]
    assert other.nodes == ([] if manager else tracer.nodes)
    handlers = callbacks.handlers if isinstance(callbacks, CallbackManager) else callbacks
    assert handlers == [tracer]  # what was given stays as it was
    rows = graph._stored().rows(config["configurable"]["thread_id"])
    assert all(b"callbacks" not in row.body for row in rows)


# --- push_message -----------------------------------------------------------------------------


def test_a_node_shows_messages_itself(run: Runner) -> None:
    def node(state: Any) -> Any:
        for text in ("he", "llo"):
            push_message(AIMessageChunk(text, id="1"), state_key=None)
        shown = push_message(("human", "aside"), state_key=None) if state is None else None
        push_message({"role": "assistant", "content": "early", "id": "2"})
        push_message(HumanMessage("Early", id="2"))
        return {"messages": [AIMessage("hello", id="1"), "end"], **(shown or {})}

    graph, config = run.compile(line(run, run.node(node))), new_thread()
    live = run.stream(graph, {"messages": "hi"}, config, stream_mode=MODES)
    assert said(live) == ["he", "llo", "early", "Early", "end"]
    check(run, graph, live, config)
    state = run.get_state(graph, config).values["messages"]
    assert [message.content for message in state] == ["hi", "Early", "hello", "end"]


def test_pushed_messages_are_recorded_although_nobody_looked(run: Runner) -> None:
    graph = run.compile(line(run, run.node(lambda state: push_message(AIMessage("a", id="1")) and None)))
    config = new_thread()
    run.invoke(graph, {"messages": "hi"}, config)
    assert texts(run.replay(graph, config, stream_mode="messages")) == ["a"]
    assert run.get_state(graph, config).values["messages"][-1] == AIMessage("a", id="1")


def test_what_cannot_be_pushed(run: Runner) -> None:
    @task
    def inside() -> None:
        push_message(AIMessage("a", id="1"))

    kept: list[Any] = []
    cases = [
        (lambda: push_message(AIMessage("a")), ArgumentError, "no id"),
        (lambda: push_message("a text"), ArgumentError, "no id"),
        (lambda: push_message(AIMessage("a", id="1"), state_key="nothing"), InvalidUpdateError, "nothing"),
        (lambda: inside().result(), CallError, "@task"),
        (lambda: push_message(AIMessage("a", id="1", additional_kwargs={"x": object()})), UnstorableValueError, "x"),
    ]
    for call, error, problem in cases:
        if run.way == "async" and error is CallError:
            continue  # it would have to be awaited
        graph = run.compile(line(run, run.node(lambda state, call=call: kept.append(call()))))
        with pytest.raises(error, match=problem):
            run.invoke(graph, {"messages": "hi"}, new_thread())
    with pytest.raises(CallError, match="no running node"):
        push_message(AIMessage("a", id="1"))


# --- how rows keep them -----------------------------------------------------------------------

MESSAGE = st.one_of(
    st.builds(lambda text, name: AIMessageChunk(text, id=name), st.text(), st.sampled_from(["1", "2"])),
    st.builds(lambda text: AIMessageChunk([{"type": "text", "text": text}], id="1"), st.text()),
    st.builds(lambda number: AIMessageChunk("", response_metadata={"n": number}), st.sampled_from([0, 1, 1.0, True])),
    st.builds(lambda text: AIMessage(text, id="1", own=1), st.text()),  # type: ignore[call-arg]
    st.builds(lambda text: {"role": "ai", "content": text, "id": "1"}, st.text()),
    st.builds(lambda text: {"content": text, "more": [text]}, st.text()),
)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), MESSAGE, st.booleans(), st.booleans())))
def test_parts_are_read_as_they_were_said(said: list[Any]) -> None:
    """Of several streams, with rows and other events in between."""
    tokens, wanted, rows, number = Tokens(), list[Any](), 0, 0
    for key, message, row_before, event_before in said:
        rows, number = rows + row_before, number + event_before
        tokens.add(key, rows, number, message, {"key": key})
        wanted.append((rows, number, message, {"key": key}))
        number += 1
    codec = Codec(message_types())
    streams = codec.decode(codec.encode(list(tokens.streams.values())))
    told = sorted(parts_of(streams), key=lambda part: part[1])
    assert [part[:2] for part in told] == [part[:2] for part in wanted]
    assert all(same(a[2], b[2]) and a[3] == b[3] for a, b in zip(told, wanted, strict=True))


def test_parts_without_their_class(database_url: str) -> None:
    """A reader that has no langchain-core still tells the texts."""
    with Runner("sync", database_url) as run:
        graph, config = run.compile(line(run, asking(run, talk("a", "b")))), new_thread()
        run.stream(graph, {"messages": "hi"}, config, stream_mode="messages")
        log = Log(database_url)
        log._codec = Codec()
        told = list(log.replay(config, stream_mode="messages"))
        assert [(message.data["type"], message.data["content"]) for message, _ in told] == [
            ("AIMessageChunk", "a"),
            ("AIMessageChunk", "b"),
        ]
