"""Messages: added, replaced and removed by id, and recorded as what was written, not as the whole list."""

from __future__ import annotations

import json
from typing import Any

import pytest

from durable_graph import (
    REMOVE_ALL_MESSAGES,
    START,
    InvalidUpdateError,
    Log,
    MessagesState,
    StateGraph,
    add_messages,
    messages,
    push_message,
)


@pytest.fixture(autouse=True)
def without_langchain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another file of tests may have imported it. test_langchain.py shows in a process of its own how it is without."""
    monkeypatch.setattr(messages, "langchain_is_used", lambda: False)


def said(messages: list[Any]) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in messages]


def chat(*answers: Any) -> StateGraph[MessagesState]:
    """A node for each answer."""
    builder = StateGraph(MessagesState)
    builder.add_sequence([(f"n{place}", lambda state, it=it: {"messages": it}) for place, it in enumerate(answers)])
    return builder.add_edge(START, "n0")


def test_every_form_of_a_message_gets_an_id(database_url: str) -> None:
    with chat(("assistant", "b"), {"role": "user", "content": "c"}, ["d", ("tool", "e")]).compile(
        database_url
    ) as graph:
        messages = graph.invoke({"messages": "a"}, {"thread_id": "t"})["messages"]
        assert said(messages) == [("user", "a"), ("assistant", "b"), ("user", "c"), ("user", "d"), ("tool", "e")]
        assert len({message["id"] for message in messages}) == 5
        assert Log(database_url).get_state({"thread_id": "t"}).values["messages"] == messages
        assert graph.get_state({"thread_id": "t"}).values["messages"] == messages


def test_replacing_and_removing_by_id(database_url: str) -> None:
    first = {"role": "user", "content": "a", "id": "1"}
    replaced = {"role": "user", "content": "A", "id": "1"}
    removal = {"role": "remove", "id": "2"}
    graph = chat([{"role": "ai", "content": "b", "id": "2"}], [replaced], [removal, "c"]).compile(database_url)
    with graph:
        states = graph.stream({"messages": [first]}, {"thread_id": "t"}, stream_mode="values")
        assert [said(state["messages"]) for state in states] == [
            [("user", "a")],
            [("user", "a"), ("ai", "b")],
            [("user", "A"), ("ai", "b")],
            [("user", "A"), ("user", "c")],
        ]
        replayed = graph.replay({"thread_id": "t"}, stream_mode="values")
        assert said(list(replayed)[-1]["messages"]) == [("user", "A"), ("user", "c")]


def test_removing_all(database_url: str) -> None:
    with chat("b", [{"role": "remove", "id": REMOVE_ALL_MESSAGES}, "c"]).compile(database_url) as graph:
        assert said(graph.invoke({"messages": "a"}, {"thread_id": "t"})["messages"]) == [("user", "c")]


def test_removing_what_is_not_there_fails_the_task_and_nothing_else(database_url: str) -> None:
    config = {"thread_id": "t"}
    with chat("b", [{"role": "remove", "id": "nobody"}]).compile(database_url) as graph:
        with pytest.raises(InvalidUpdateError, match="nobody"):
            graph.invoke({"messages": "a"}, config)
        assert graph.get_state(config).next == ("n1",)
    with chat("b", "c").compile(database_url) as corrected:
        assert said(corrected.invoke(None, config)["messages"]) == [("user", "a"), ("user", "b"), ("user", "c")]


@pytest.mark.parametrize("wrong", [5, {"content": "no role"}, [None], [{"role": "remove"}]])
def test_what_is_no_message(database_url: str, wrong: Any) -> None:
    with chat(wrong).compile(database_url) as graph, pytest.raises(InvalidUpdateError, match="messages"):
        graph.invoke({"messages": "a"}, {"thread_id": "t"})


def test_a_row_holds_the_new_message_only(database_url: str) -> None:
    with chat(*["x" * 100] * 20).compile(database_url) as graph:
        graph.invoke({"messages": "a"}, {"thread_id": "t"})
        sizes = [len(row.body) for row in graph._stored().rows("t") if row.kind == "task"]
    assert max(sizes) < 2 * min(sizes)


def test_the_mode_messages(database_url: str) -> None:
    with chat("b", [{"role": "ai", "content": "c", "id": "7"}]).compile(database_url) as graph:
        live = list(graph.stream({"messages": "a"}, {"thread_id": "t"}, stream_mode="messages"))
        assert [(message["content"], metadata["langgraph_node"]) for message, metadata in live] == [
            ("b", "n0"),
            ("c", "n1"),
        ]
        assert list(graph.replay({"thread_id": "t"}, stream_mode="messages")) == live


def test_add_messages_by_itself() -> None:
    both = add_messages([{"role": "user", "content": "a", "id": "1"}], ("ai", "b"))
    assert said(both) == [("user", "a"), ("ai", "b")]
    assert add_messages(both, {"role": "remove", "id": "1"}) == both[1:]
    json.dumps(both)
    with pytest.raises(ValueError, match="no message with the id"):
        add_messages([], {"role": "remove", "id": "1"})


def test_a_node_shows_the_parts_of_a_message(database_url: str) -> None:
    def answer(state: Any) -> Any:
        for text in ("he", "llo"):
            push_message({"role": "ai", "content": text, "id": "1"}, state_key=None)
        push_message({"role": "ai", "content": "by the way", "id": "2"})
        return {"messages": [{"role": "ai", "content": "hello", "id": "1"}, "end"]}

    with StateGraph(MessagesState).add_node(answer).add_edge(START, "answer").compile(database_url) as graph:
        live = list(graph.stream({"messages": "hi"}, {"thread_id": "t"}, stream_mode="messages"))
        assert [message["content"] for message, _ in live] == ["he", "llo", "by the way", "end"]
        assert {metadata["langgraph_node"] for _, metadata in live} == {"answer"}
        for reader in (graph, Log(database_url)):
            assert list(reader.replay({"thread_id": "t"}, stream_mode="messages")) == live
        state = graph.get_state({"thread_id": "t"}).values["messages"]
        assert [message["content"] for message in state] == ["hi", "by the way", "hello", "end"]
