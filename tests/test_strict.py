"""compile(strict=True): a node that changes its input in place is told so, with the key path."""

from __future__ import annotations

import dataclasses
import math
import operator
import threading
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import cached_property
from typing import Annotated, Any, TypedDict

import pytest
from pydantic import BaseModel

from durable_graph import (
    START,
    CachePolicy,
    Command,
    InMemoryCache,
    MutatedInputError,
    NodeCodeError,
    RetryPolicy,
    Send,
    StateGraph,
)
from durable_graph.core.difference import first_difference
from tests.graphs import WAYS, Runner, new_thread


@pytest.fixture(params=WAYS)
def run(request: pytest.FixtureRequest, database_url: str) -> Iterator[Runner]:
    with Runner(request.param, database_url) as runner:
        yield runner


@dataclasses.dataclass
class Box:
    items: list[int]

    @cached_property
    def total(self) -> int:
        return sum(self.items)


class Order(BaseModel):
    tags: list[str] = []


class State(TypedDict, total=False):
    n: int
    deep: dict[str, Any]
    box: Box
    order: Order
    log: Annotated[list[str], operator.add]


GIVEN: dict[str, Any] = {"n": 1, "deep": {"rows": [{"x": 1}, {"x": 2}], "set": {1}}, "box": Box([1]), "order": Order()}


def alone(run: Runner, change: Callable[[Any], Any], **settings: Any) -> StateGraph[State]:
    return StateGraph(State).add_node("a", run.node(change), **settings).add_edge(START, "a")


def write_key(state: Any) -> dict[str, Any]:
    state["n"] += 1
    return {"n": state["n"]}


def write_deep(state: Any) -> dict[str, Any]:
    state["deep"]["rows"][1]["x"] = 7
    return {}


def grow(state: Any) -> None:
    state["log"].append("a")


def new_key(state: Any) -> None:
    state["deep"]["new"] = 1


def lose_key(state: Any) -> None:
    del state["deep"]["rows"]


def fill_set(state: Any) -> None:
    state["deep"]["set"].add(2)


def in_dataclass(state: Any) -> None:
    state["box"].items[0] = 5


def in_model(state: Any) -> None:
    state["order"].tags.append("new")


def in_command(state: Any) -> Command[str]:
    state["deep"]["rows"].clear()
    return Command(update={"n": 2})


CHANGES = [
    (write_key, "state['n']"),
    (write_deep, "state['deep']['rows'][1]['x']"),
    (grow, "state['log'][0]"),
    (new_key, "state['deep']['new']"),
    (lose_key, "state['deep']['rows']"),
    (fill_set, "state['deep']['set']"),
    (in_dataclass, "state['box'].items[0]"),
    (in_model, "state['order'].tags[0]"),
    (in_command, "state['deep']['rows'][0]"),
]


@pytest.mark.parametrize(("change", "path"), CHANGES, ids=[change.__name__ for change, _ in CHANGES])
def test_the_error_names_node_and_path(run: Runner, change: Callable[[Any], Any], path: str) -> None:
    graph, config = run.compile(alone(run, change), strict=True), new_thread()
    with pytest.raises(MutatedInputError) as caught:
        run.invoke(graph, {**GIVEN, "log": []}, config)
    error = caught.value
    assert isinstance(error, NodeCodeError)
    assert (error.node, error.path, error.step) == ("a", path, 0)  # type: ignore[attr-defined]
    assert error.thread_id == config["configurable"]["thread_id"]  # type: ignore[attr-defined]
    assert f"changed its input in place: {path}" in str(error)
    state = run.get_state(graph, config)
    assert state.values == {**GIVEN, "log": []}, "the change has reached the state"
    assert state.next == ("a",)


@pytest.mark.parametrize(("change", "path"), CHANGES, ids=[change.__name__ for change, _ in CHANGES])
def test_nothing_is_said_without_it(run: Runner, change: Callable[[Any], Any], path: str) -> None:
    graph = run.compile(alone(run, change))
    given = {key: dict(value, rows=[{"x": 1}, {}]) if key == "deep" else value for key, value in GIVEN.items()}
    run.invoke(graph, {**given, "log": [], "box": Box([1]), "order": Order()}, new_thread())


def test_reading_changes_nothing(run: Runner) -> None:
    def look(state: Any) -> dict[str, Any]:
        assert state["box"].total == 1
        nan = state["deep"]["nan"]
        return {"deep": {**state["deep"], "nan": nan}, "box": Box([*state["box"].items, 2]), "log": ["a"]}

    graph = run.compile(alone(run, look), strict=True)
    values = run.invoke(graph, {**GIVEN, "deep": {"nan": math.nan}}, new_thread())
    assert (values["box"], values["log"]) == (Box([1, 2]), ["a"])


def test_the_payload_of_a_send_is_the_nodes_own(run: Runner) -> None:
    def part(payload: Any) -> dict[str, Any]:
        payload["rows"].append(1)
        return {"log": [str(payload["rows"])]}

    builder = StateGraph(State).add_node("part", run.node(part))
    builder.add_conditional_edges(START, lambda state: [Send("part", {"rows": []})], ["part"])
    assert run.invoke(run.compile(builder, strict=True), {"n": 1}, new_thread())["log"] == ["[1]"]


def test_a_sibling_is_not_blamed(run: Runner) -> None:
    """The innocent one is still at work while the other changes what both were given."""
    begun, changed = threading.Event(), threading.Event()

    def guilty(state: Any) -> None:
        state["deep"]["rows"].clear()
        changed.set()

    def innocent(state: Any) -> dict[str, Any]:
        return {"n": len(state["deep"]["rows"])}

    builder = StateGraph(State).add_node("guilty", run.waiting(begun, guilty))
    builder.add_node("innocent", run.waiting(changed, innocent, lambda state: begun.set()))
    builder.add_edge(START, "guilty").add_edge(START, "innocent")
    graph, config = run.compile(builder, strict=True), new_thread()
    with pytest.raises(MutatedInputError, match="Node 'guilty'"):
        run.invoke(graph, GIVEN, config)
    assert run.get_state(graph, config).next == ("guilty",)
    assert [event.node for event in run.replay(graph, config, stream_mode="events") if event.kind == "task"] == [
        "innocent"
    ]


def test_it_is_not_tried_again_and_nothing_is_cached(run: Runner) -> None:
    calls: list[int] = []

    def change(state: Any) -> dict[str, Any]:
        calls.append(1)
        return write_key(state)

    cached = alone(run, change, retry_policy=RetryPolicy(initial_interval=0), cache_policy=CachePolicy())
    graph = run.compile(cached, strict=True, cache=InMemoryCache())
    for _ in range(2):
        with pytest.raises(MutatedInputError):
            run.invoke(graph, {"n": 1}, new_thread())
    assert len(calls) == 2


@pytest.mark.parametrize("schema", [Box, Order])
def test_states_that_are_objects(run: Runner, schema: Any) -> None:
    def change(state: Any) -> None:
        next(iter(vars(state).values())).append(3)

    graph = run.compile(StateGraph(schema).add_node("a", run.node(change)).add_edge(START, "a"), strict=True)
    key = "items" if schema is Box else "tags"
    with pytest.raises(MutatedInputError) as caught:
        run.invoke(graph, {key: []}, new_thread())
    assert caught.value.path == f"state.{key}[0]"  # type: ignore[attr-defined]


def test_without_a_database_too() -> None:
    class Opaque:
        """Nobody can copy or compare it."""

        def __deepcopy__(self, memo: Any) -> Any:
            raise TypeError("no")

    def change(state: Any) -> None:
        state["deep"]["rows"] = 1

    graph = StateGraph(State).add_node("a", change).add_edge(START, "a").compile(False, strict=True)
    with pytest.raises(MutatedInputError, match="rows"):
        graph.invoke({"deep": {"lock": Opaque(), "rows": 0}})


class Plain:
    def __init__(self, held: Any) -> None:
        self.held = held


@dataclasses.dataclass(slots=True)
class Slotted:
    held: Any


class Array:
    """Compares item by item, as numpy's do."""

    def __init__(self, *items: int) -> None:
        self._items = items

    __slots__ = ("_items",)

    def __eq__(self, other: Any) -> Any:
        return Array(*(a == b for a, b in zip(self._items, other._items, strict=True)))

    __hash__ = None  # type: ignore[assignment]

    def all(self) -> bool:
        return all(self._items)

    def __bool__(self) -> bool:
        raise ValueError("ambiguous")


class Wild:
    def __eq__(self, other: object) -> bool:
        raise RuntimeError("not me")

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("one", "other", "path"),
    [
        (1, True, "v"),
        (math.nan, float("nan"), None),
        (Plain([1]), Plain([1]), None),
        (Plain([1]), Plain([2]), "v.held[0]"),
        (Slotted({"a": 1}), Slotted({"a": 2}), "v.held['a']"),
        (object(), object(), None),
        (Wild(), Wild(), None),
        (Array(1, 2), Array(1, 2), None),
        ([Array(1, 2)], [Array(1, 3)], "v[0]"),
        (Decimal("NaN"), Decimal("NaN"), None),
        ({1: "a"}, {"1": "a"}, "v[1]"),
        ((1, [2]), (1, [2, 3]), "v[1][1]"),
        (Box([float("nan")]), Box([float("nan")]), None),
    ],
)
def test_first_difference(one: Any, other: Any, path: str | None) -> None:
    assert first_difference(one, other, "v") == path


def test_values_that_hold_themselves() -> None:
    one: list[Any] = [1]
    other: list[Any] = [1]
    one.append(one)
    other.append(other)
    assert first_difference(one, other) is None
