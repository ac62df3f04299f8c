"""Laws 1, 2, 3 and 10 under the simulating driver: a crash at every single effect of a varied set of graphs.

Whatever the moment, continuing reaches the state of the uninterrupted run, no task with a row runs again, and
every event that was shown is a row.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Annotated, Any, TypedDict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durable_graph import END, START, Command, Send, StateGraph
from durable_graph.compiled import CompiledGraph
from durable_graph.core.effects import Recorded
from durable_graph.core.history import load
from durable_graph.core.rows import Call
from durable_graph.core.run import Run
from durable_graph.core.telling import walk
from durable_graph.core.verify import verify
from durable_graph.store.memory import MemoryStore
from tests.simulator import Died, Simulator


class State(TypedDict, total=False):
    n: int
    log: Annotated[list[str], operator.add]
    best: Annotated[int, max]
    seen: Annotated[set[str], operator.or_]


Calls = Counter[tuple[str, str, int]]  # (thread, task, attempt) -> times called
CALLS: Calls = Counter()


def node(name: str, **update: Any) -> Callable[..., dict[str, Any]]:
    def call(state: State, runtime: Any) -> dict[str, Any]:
        CALLS[name, runtime.task, 0] += 1
        runtime.stream_writer(f"{name} works")
        changes = {key: value(state) if callable(value) else value for key, value in update.items()}
        return {"log": [name], **changes}

    return call


def linear() -> StateGraph[State]:
    builder = StateGraph(State)
    builder.add_sequence([(name, node(name, n=lambda s: s["n"] + 1)) for name in "abc"])
    return builder.add_edge(START, "a")


def loop() -> StateGraph[State]:
    builder = StateGraph(State)
    builder.add_node("a", node("a", n=lambda s: s["n"] + 1)).add_edge(START, "a")
    return builder.add_conditional_edges("a", lambda s: "a" if s["n"] < 4 else END, ["a", END])


def parallel() -> StateGraph[State]:
    builder = StateGraph(State)
    builder.add_node("split", node("split", n=1)).add_node("join", node("join", n=lambda s: s["n"] + 1))
    for place, name in enumerate("xyz"):
        builder.add_node(name, node(name, best=place, seen={name})).add_edge("split", name)
    return builder.add_edge(START, "split").add_edge(["x", "y", "z"], "join")


def uneven_join() -> StateGraph[State]:
    builder = StateGraph(State)
    for name in ("a", "b", "b2", "c", "late"):
        builder.add_node(name, node(name), defer=name == "late")
    builder.add_edge(START, "a").add_edge(START, "b").add_edge("b", "b2").add_edge("a", "late")
    return builder.add_edge(["a", "b2"], "c")


def sends() -> StateGraph[State]:
    def part(arg: dict[str, Any], runtime: Any) -> dict[str, Any]:
        CALLS["part", runtime.task, 0] += 1
        return {"log": [f"part {arg['i']}"], "best": arg["i"]}

    builder = StateGraph(State)
    builder.add_node("split", node("split")).add_node("part", part).add_node("end", node("end"))
    builder.add_conditional_edges("split", lambda s: [Send("part", {"i": i}) for i in range(4)], ["part"])
    return builder.add_edge(START, "split").add_edge("part", "end")


def commands() -> StateGraph[State]:
    def choose(state: State, runtime: Any) -> Command[str]:
        CALLS["choose", runtime.task, 0] += 1
        return Command(update={"n": state["n"] + 1, "log": ["choose"]}, goto=["x", Send("y", {"n": 7})])

    builder = StateGraph(State)
    builder.add_node("choose", choose).add_node("x", node("x")).add_node("y", node("y", best=7))
    return builder.add_edge(START, "choose")


GRAPHS = [linear, loop, parallel, uneven_join, sends, commands]


def compiled(draw: Callable[[], StateGraph[State]], store: MemoryStore) -> CompiledGraph[State]:
    return draw().compile(checkpointer=store, name=draw.__name__)


def run_of(graph: CompiledGraph[State], value: Any, number: int = 0) -> Run:
    call = Call("t", f"run-{number}", input=value, announce=True, owner=f"me/{number}", alive=lambda owner: False)
    return Run(graph._graph, graph._codec, None, call)


INPUT = {"n": 0, "best": -1}


def finished(graph: CompiledGraph[State], store: MemoryStore, seed: int) -> dict[str, Any]:
    """Continue until the thread has ended; the state then."""
    number = 1
    while True:
        position = load(store, graph._codec, "t")
        if position is not None and not position.tasks:
            return dict(position.values)
        value = INPUT if position is None else None
        Simulator(store, seed).drive(run_of(graph, value, number).steps())
        number += 1


def effects_of(draw: Callable[[], StateGraph[State]], seed: int) -> tuple[int, dict[str, Any]]:
    store = MemoryStore()
    graph = compiled(draw, store)
    simulator = Simulator(store, seed)
    simulator.drive(run_of(graph, INPUT).steps())
    position = load(store, graph._codec, "t")
    assert position is not None
    return simulator.count, dict(position.values)


def crashes(draw: Callable[[], StateGraph[State]], seed: int) -> Iterator[tuple[int, bool]]:
    count, _ = effects_of(draw, seed)
    for die_at in range(count):
        yield die_at, True
        yield die_at, False


@pytest.mark.parametrize("draw", GRAPHS)
@pytest.mark.parametrize("seed", range(3))
def test_a_crash_at_every_effect_changes_nothing(draw: Callable[[], StateGraph[State]], seed: int) -> None:
    _, expected = effects_of(draw, seed)
    for die_at, before in crashes(draw, seed):
        check_crash(draw, seed, die_at, before, expected)


def check_crash(
    draw: Callable[[], StateGraph[State]], seed: int, die_at: int, before: bool, expected: dict[str, Any]
) -> None:
    CALLS.clear()
    store = MemoryStore()
    graph = compiled(draw, store)
    shown: list[Recorded] = []

    def watch(it: Any) -> None:
        if isinstance(it, Recorded):
            assert list(store.rows("t", after=it.row.step - 1, until=it.row.step)) == [it.row], "shown, not durable"
            shown.append(it)

    simulator = Simulator(store, seed, die_at, before)
    with pytest.raises(Died):
        simulator.drive(run_of(graph, INPUT).steps(), watch)
    recorded = {row.task for row in store.rows("t") if row.kind == "task"}
    called = Counter({task: times for (_, task, _), times in CALLS.items() if task in recorded})

    assert finished(graph, store, seed + 1) == expected

    again = Counter({task: times for (_, task, _), times in CALLS.items() if task in recorded})
    assert again == called, "a task whose row is committed has run again"
    assert all(times <= 2 for times in CALLS.values()), "a task without a row ran more than once after one crash"
    assert verify(store, "t", None).ok
    steps = [it.row.step for it in walk(store, graph._codec, "t") if isinstance(it, Recorded)]
    assert steps == list(range(len(steps)))
    assert {it.row.step for it in shown} <= set(steps)


@pytest.mark.parametrize("draw", GRAPHS)
def test_a_consumer_may_go_after_any_event(draw: Callable[[], StateGraph[State]]) -> None:
    _, expected = effects_of(draw, 0)
    stop_after = 1
    while True:
        store = MemoryStore()
        graph = compiled(draw, store)
        simulator = Simulator(store, 0, stop_after=stop_after)
        simulator.drive(run_of(graph, INPUT).steps())
        thread = store.thread("t")
        assert thread is not None
        assert thread.lease_owner is None, "the lease was not given back"
        if thread.status == "finished":
            break
        assert thread.status == "pending"
        assert finished(graph, store, 0) == expected
        stop_after += 1
    assert stop_after > 3


@settings(deadline=None, max_examples=60)
@given(draw=st.sampled_from(GRAPHS), deaths=st.lists(st.tuples(st.integers(0, 40), st.booleans()), max_size=6))
def test_any_history_of_crashes_ends_in_the_same_state(
    draw: Callable[[], StateGraph[State]], deaths: list[tuple[int, bool]]
) -> None:
    _, expected = effects_of(draw, 5)
    store = MemoryStore()
    graph = compiled(draw, store)
    for number, (die_at, before) in enumerate(deaths):
        position = load(store, graph._codec, "t")
        if position is not None and not position.tasks:
            break
        value = INPUT if position is None else None
        try:
            Simulator(store, number, die_at, before).drive(run_of(graph, value, number).steps())
        except Died:
            continue
    assert finished(graph, store, 99) == expected
    assert verify(store, "t", None).ok
