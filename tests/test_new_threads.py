"""Threads that were made and that nothing has run on: found like others, and run as if they had not been made."""

from __future__ import annotations

import json
import operator
from collections.abc import Iterator
from typing import Annotated, Any, TypedDict

import pytest

from durable_graph import (
    START,
    ArgumentError,
    Command,
    CompiledGraph,
    EmptyInputError,
    Log,
    StateGraph,
    ThreadNotFoundError,
    interrupt,
)
from durable_graph.store import Store


class State(TypedDict, total=False):
    log: Annotated[list[str], operator.add]


def drawn() -> StateGraph[Any]:
    def ask(state: State) -> State:
        return {"log": [interrupt("well?")]}

    builder = StateGraph(State).add_node("say", lambda state: {"log": ["said"]}).add_node(ask)
    return builder.add_edge(START, "say").add_edge("say", "ask")


@pytest.fixture
def graph(store: Store) -> Iterator[CompiledGraph[Any]]:
    graph = drawn().compile(store, name="asks")
    yield graph
    graph.close()


T = {"thread_id": "t"}


def test_it_is_found_with_its_metadata_and_made_once(graph: CompiledGraph[Any]) -> None:
    assert graph.create_thread("t", metadata={"customer": "Lina", "n": [1]}, graph="asks")
    assert not graph.create_thread("t", metadata={"customer": "another"})
    (thread,) = graph.threads(status="new")
    assert (thread.thread_id, thread.graph, thread.epoch) == ("t", "asks", 0)
    assert json.loads(thread.metadata) == {"customer": "Lina", "n": [1]}
    assert [each.thread_id for each in graph.threads(text="LINA")] == ["t"]
    assert graph.threads(status="finished") == []
    assert [*graph.recover()] == []


def test_it_reads_as_one_that_has_done_nothing(graph: CompiledGraph[Any]) -> None:
    graph.create_thread("t")
    state = graph.get_state(T)
    assert (state.values, state.next, state.created_at) == ({}, (), None)
    assert [*graph.get_state_history(T)] == [*graph.replay(T)] == [*graph.timeline(T)] == []
    assert graph.verify(T).ok
    with pytest.raises(ThreadNotFoundError):
        graph.fork(T, "u")
    for given in (None, Command(resume="yes")):
        with pytest.raises(EmptyInputError):
            graph.invoke(given, T)
    assert graph.threads(status="new")


def test_it_runs_as_any_other_and_keeps_its_metadata(graph: CompiledGraph[Any]) -> None:
    graph.create_thread("t", metadata={"customer": "Lina"})
    graph.invoke({"log": ["input"]}, T)
    (thread,) = graph.threads()
    assert (thread.status, thread.graph, json.loads(thread.metadata)) == ("interrupted", "asks", {"customer": "Lina"})
    assert graph.invoke(Command(resume="yes"), T) == {"log": ["input", "said", "yes"]}
    assert graph.verify(T).ok


def test_it_takes_an_update_first(graph: CompiledGraph[Any]) -> None:
    graph.create_thread("t")
    graph.update_state(T, {"log": ["put"]}, as_node="say")
    assert graph.get_state(T).next == ("ask",)
    assert graph.threads()[0].status == "pending"


def test_it_is_removed_and_put_elsewhere(graph: CompiledGraph[Any], sqlite_url: str) -> None:
    graph.create_thread("t", metadata={"customer": "Lina"})
    lines = [*graph.export_thread(T)]
    with Log(f"{sqlite_url}.copy") as other:
        assert other.import_thread(lines).ok
        assert json.loads(other.threads()[0].metadata) == {"customer": "Lina"}
    graph.prune(statuses=["new"])
    assert graph.threads() == []
    graph.create_thread("t")
    graph.delete_thread("t")
    assert graph.threads() == []


def test_metadata_changes_also_while_it_runs(graph: CompiledGraph[Any]) -> None:
    graph.create_thread("t", metadata={"a": 1, "b": 2})
    stream = graph.stream({"log": []}, T)
    next(stream)
    assert graph.update_metadata(T, {"b": None, "c": 3}) == {"a": 1, "c": 3}
    assert [*stream]
    assert json.loads(graph.threads()[0].metadata) == {"a": 1, "c": 3}
    with pytest.raises(ThreadNotFoundError):
        graph.update_metadata({"thread_id": "nope"}, {})


@pytest.mark.parametrize("wrong", [{"a": object()}, {"a": float("nan")}, {"a": {1, 2}}])
def test_metadata_that_json_cannot_hold(graph: CompiledGraph[Any], wrong: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match="metadata"):
        graph.create_thread("t", metadata=wrong)
    assert graph.threads() == []
