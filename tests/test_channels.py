"""What a row says of a channel: an operation where reading can apply it, else the reducer's result (laws 7 and 8)."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Annotated, Any, TypedDict

import orjson
import pytest

from durable_graph import START, Send, StateGraph, add_messages, declare_replayable
from tests.graphs import WAYS, Runner, new_thread

STEPS = 40


@pytest.fixture(params=WAYS)
def run(request: pytest.FixtureRequest, database_url: str) -> Iterator[Runner]:
    with Runner(request.param, database_url) as runner:
        yield runner


def longest(old: str, new: str) -> str:
    return max(old, new, key=len)


def joined(old: list[Any], new: list[Any]) -> list[Any]:
    return [*old, *new]


def once(old: list[Any], new: list[Any]) -> list[Any]:
    return [*old, *(item for item in new if item not in old)]


declare_replayable(joined, "add")


def looped(run: Runner, hint: Any, write: Callable[[int], Any]) -> tuple[Any, list[dict[str, Any]]]:
    """The value after STEPS writes, and the bodies of the rows."""
    state = TypedDict("state", {"n": int, "value": hint})  # type: ignore[misc]  # noqa: UP013 - both as the hint is a variable
    builder = StateGraph(state)
    builder.add_node("a", run.node(lambda state: {"n": state["n"] + 1, "value": write(state["n"])}))
    builder.add_edge(START, "a")
    builder.add_conditional_edges("a", run.node(lambda state: "a" if state["n"] < STEPS else "__end__"))
    graph, config = run.compile(builder), new_thread()
    final = run.invoke(graph, {"n": 0}, config)["value"]
    rows = list(graph._stored().rows(config["configurable"]["thread_id"]))
    assert run.get_state(graph, config).values["value"] == final, "what is read back is what was there"
    return final, [orjson.loads(row.body) for row in rows[1:]]


GROWING = {
    "list": (Annotated[list[str], operator.add], lambda n: [f"{n:050}"], [f"{n:050}" for n in range(STEPS)], "add"),
    "text": (Annotated[str, operator.add], lambda n: f"{n:050}", "".join(f"{n:050}" for n in range(STEPS)), "add"),
    "counter": (Annotated[int, operator.add], lambda n: n, sum(range(STEPS)), "add"),
    "decimal": (Annotated[Decimal, operator.add], lambda n: Decimal(n) / 4, Decimal(sum(range(STEPS))) / 4, "add"),
    "dict": (
        Annotated[dict[str, str], operator.or_],
        lambda n: {f"{n}": f"{n:050}"},
        {f"{n}": f"{n:050}" for n in range(STEPS)},
        "merge",
    ),
    "set": (Annotated[set[str], operator.or_], lambda n: {f"{n:050}"}, {f"{n:050}" for n in range(STEPS)}, "merge"),
    "declared": (Annotated[list[str], joined], lambda n: [f"{n:050}"], [f"{n:050}" for n in range(STEPS)], "add"),
}


@pytest.mark.parametrize("kind", GROWING)
def test_what_grows_is_recorded_as_its_operation(run: Runner, kind: str) -> None:
    """Each row holds the write, whatever has grown before it."""
    hint, write, expected, operation = GROWING[kind]
    final, bodies = looped(run, hint, write)
    assert (final, type(final)) == (expected, type(expected))
    assert [body["apply"]["value"] for body in bodies] == [operation] * STEPS
    assert not any("value" in body.get("results", {}) for body in bodies)
    sizes = [len(orjson.dumps(body)) for body in bodies]
    assert max(sizes) - min(sizes) < 30


def test_messages_are_recorded_as_they_were_written(run: Runner) -> None:
    hint = Annotated[list[Any], add_messages]
    final, bodies = looped(run, hint, lambda n: [{"role": "user", "content": f"{n:050}", "id": f"m{n % 7}"}])
    assert len(final) == 7
    assert {body["apply"]["value"] for body in bodies} == {"messages"}


@pytest.mark.parametrize("reducer", [longest, once], ids=lambda reducer: reducer.__name__)
def test_a_custom_reducer_is_recorded_by_its_result(run: Runner, reducer: Any) -> None:
    hint, write = (Annotated[str, longest], lambda n: "x" * n)
    expected: Any = "x" * (STEPS - 1)
    if reducer is once:
        hint, write, expected = (Annotated[list[int], once], lambda n: [n % 3], [0, 1, 2])
    final, bodies = looped(run, hint, write)
    assert final == expected
    assert all("value" in body["results"] and "value" not in body.get("apply", {}) for body in bodies)
    assert bodies[-1]["results"]["value"] == expected


def test_a_map_of_500(run: Runner) -> None:
    """Each has its row, and the state is in the order of the Sends, whoever was first."""

    class State(TypedDict, total=False):
        squares: Annotated[list[int], operator.add]

    builder = StateGraph(State)
    builder.add_node("square", run.node(lambda number: {"squares": [number * number]}))
    builder.add_node("end", run.node(lambda state: {"squares": [len(state["squares"])]}))
    builder.add_conditional_edges(START, run.node(lambda state: [Send("square", n) for n in range(500)]), ["square"])
    graph, config = run.compile(builder.add_edge("square", "end")), new_thread()
    events = run.stream(graph, {}, config)
    assert len(events) == 501
    assert run.get_state(graph, config).values["squares"] == [*(n * n for n in range(500)), 500]
    assert sorted(event["square"]["squares"][0] for event in events[:-1]) == [n * n for n in range(500)]
    assert run.replay(graph, config) == events
    assert graph.verify(config).ok
