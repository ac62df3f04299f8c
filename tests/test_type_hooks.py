"""`types=`: classes that say for themselves how they are stored, in graphs, subgraphs, entrypoints and logs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypedDict

import pytest

from durable_graph import (
    START,
    ArgumentError,
    ChangedGraphError,
    Log,
    StateGraph,
    TypeHook,
    Unregistered,
    UnstorableValueError,
    entrypoint,
)
from tests.graphs import Runner, new_thread


class Money:
    """No dataclass: nothing can be known of it without its help."""

    def __init__(self, cents: int, currency: str) -> None:
        self.cents, self.currency = cents, currency

    def __eq__(self, other: object) -> bool:
        return type(other) is Money and (self.cents, self.currency) == (other.cents, other.currency)

    def __hash__(self) -> int:
        return hash((self.cents, self.currency))


def money_out(money: Money) -> list[Any]:
    return [money.cents, money.currency]


def money_in(parts: list[Any]) -> Money:
    return Money(*parts)


MONEY = TypeHook(Money, money_out, money_in)
NAME = f"{__name__}:Money"
PRICE = Money(1250, "EUR")


class State(TypedDict, total=False):
    price: Any
    paid: Any


@pytest.fixture(params=["sync", "async"])
def run(request: pytest.FixtureRequest, database_url: str) -> Any:
    with Runner(request.param, database_url) as runner:
        yield runner


def shop(run: Runner) -> StateGraph[Any]:
    return StateGraph(State).add_node("pay", run.node(lambda state: {"paid": state["price"]})).add_edge(START, "pay")


def test_values_of_a_hooked_class_come_back(run: Runner) -> None:
    graph, config = run.compile(shop(run), types=[MONEY]), new_thread()
    assert run.call(graph, "invoke", {"price": PRICE}, config) == {"price": PRICE, "paid": PRICE}
    for reader in (run.compile(shop(run), types=[MONEY]), Log(run.url, types=[MONEY])):
        assert run.call(reader, "get_state", config).values == {"price": PRICE, "paid": PRICE}
        assert run.each(lambda _: None, reader, "replay", config)[-1] == {"pay": {"paid": PRICE}}


def test_a_log_without_the_hook_shows_what_was_written(run: Runner) -> None:
    graph, config = run.compile(shop(run), types=[MONEY]), new_thread()
    run.call(graph, "invoke", {"price": PRICE}, config)
    (shown,) = {run.call(log, "get_state", config).values["paid"] for log in (Log(run.url), run.compile(shop(run)))}
    assert shown == Unregistered(NAME, [1250, "EUR"])
    assert run.call(Log(run.url), "verify", config).ok


def test_a_thread_needs_the_hook_to_go_on(run: Runner) -> None:
    """No node is given a placeholder; what is written meanwhile leaves the old value as it was."""
    config = new_thread()
    run.call(run.compile(shop(run), types=[MONEY]), "invoke", {"price": PRICE}, config)
    lost = run.compile(shop(run))
    with pytest.raises(ChangedGraphError, match=r"Money.*types="):
        run.call(lost, "invoke", {"paid": None}, config)
    run.call(lost, "update_state", config, {"paid": None}, as_node="pay")
    found = run.compile(shop(run), types=[MONEY])
    assert run.call(found, "get_state", config).values == {"price": PRICE, "paid": None}
    assert run.call(found, "invoke", {"paid": None}, config)["paid"] == PRICE


def test_without_the_hook_writing_is_refused(run: Runner) -> None:
    graph, config = run.compile(shop(run)), new_thread()
    with pytest.raises(UnstorableValueError, match=r"price.*Money.*TypeHook\("):
        run.call(graph, "invoke", {"price": PRICE}, config)


@pytest.mark.parametrize("named", [True, False], ids=["as a node", "called"])
def test_subgraphs(run: Runner, named: bool) -> None:
    """The graph above knows the hooks of those that are its nodes; for those that are called it has to be told."""
    inner = run.compile(shop(run), types=[MONEY])

    async def acall(state: Any) -> Any:
        return {"paid": (await inner.ainvoke({"price": PRICE}))["paid"]}

    def call(state: Any) -> Any:
        return {"paid": inner.invoke({"price": PRICE})["paid"]}

    outer = StateGraph(State).add_node("shop", inner if named else acall if run.way == "async" else call)
    outer.add_edge(START, "shop")
    graph, config = run.compile(outer, types=[] if named else [MONEY]), new_thread()
    assert run.call(graph, "invoke", {"price": PRICE if named else None}, config)["paid"] == PRICE
    told = run.each(lambda _: None, graph, "replay", config, subgraphs=True)
    assert told[0][1] == {"pay": {"paid": PRICE}}
    assert told[-1][1]["shop"]["paid"] == PRICE
    assert run.call(Log(run.url), "get_state", config).values["paid"] == Unregistered(NAME, [1250, "EUR"])


def test_one_hook_above_and_below(run: Runner) -> None:
    inner = run.compile(shop(run), types=[MONEY])
    graph = run.compile(
        StateGraph(State).add_node("shop", inner).add_edge(START, "shop"),
        types=[TypeHook(Money, money_out, money_in)],
    )
    assert run.call(graph, "invoke", {"price": PRICE}, new_thread())["paid"] == PRICE


def test_two_hooks_for_one_class(run: Runner) -> None:
    with pytest.raises(ArgumentError, match=r"Money.*registered already"):
        run.compile(shop(run), types=[MONEY, TypeHook(Money, money_out, lambda parts: Money(0, "EUR"))])


def test_two_classes_of_one_name(run: Runner) -> None:
    with pytest.raises(ArgumentError, match=r"another type is named"):
        run.compile(shop(run), types=[TypeHook(Money, money_out, money_in, "a"), TypeHook(Point, name="a")])


@dataclass
class Point:
    x: int


class Places(TypedDict):
    place: Point


def test_a_hook_goes_before_the_schema(run: Runner) -> None:
    """The schema mentions a dataclass, which would be stored by its fields."""
    hook = TypeHook(Point, lambda point: f"@{point.x}", lambda text: Point(int(text[1:])))
    builder = StateGraph(Places).add_node("n", run.node(lambda state: {"place": Point(2)})).add_edge(START, "n")
    graph, config = run.compile(builder, types=[Point, hook]), new_thread()
    run.call(graph, "invoke", {"place": Point(1)}, config)
    assert run.call(graph, "get_state", config).values == {"place": Point(2)}
    assert run.call(Log(run.url), "get_state", config).values["place"].data == "@2"


def test_a_class_that_has_moved(run: Runner) -> None:
    """Only its old name is needed."""
    config = new_thread()
    run.call(
        run.compile(shop(run), types=[TypeHook(Point, name="shop.old:Point")]), "invoke", {"price": Point(1)}, config
    )
    assert run.call(Log(run.url, types=[Point]), "get_state", config).values["paid"] == Unregistered(
        "shop.old:Point", {"x": 1}, "dataclass"
    )
    moved = Log(run.url, types=[TypeHook(Point, name="shop.old:Point")])
    assert run.call(moved, "get_state", config).values["paid"] == Point(1)


def test_a_hook_that_fails_to_encode(run: Runner) -> None:
    graph = run.compile(shop(run), types=[TypeHook(Money, lambda money: 1 // 0, money_in)])
    with pytest.raises(UnstorableValueError, match=r"ZeroDivisionError"):
        run.call(graph, "invoke", {"price": PRICE}, new_thread())


def test_a_hook_that_fails_to_decode(run: Runner) -> None:
    """What it was given is shown: history outlives the code."""
    config = new_thread()
    run.call(run.compile(shop(run), types=[MONEY]), "invoke", {"price": PRICE}, config)
    broken = Log(run.url, types=[TypeHook(Money, money_out, lambda parts: parts.nothing)])
    assert run.call(broken, "get_state", config).values["paid"] == Unregistered(NAME, [1250, "EUR"])


def test_an_entrypoint(database_url: str) -> None:
    @entrypoint(checkpointer=database_url, types=[MONEY])
    def double(price: Any) -> Any:
        return Money(price.cents * 2, price.currency)

    with double:
        assert double.invoke(PRICE, {"thread_id": "t"}) == Money(2500, "EUR")
        assert double.get_state({"thread_id": "t"}).values == Money(2500, "EUR")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"type": Money}, "not an enum, a NamedTuple, a dataclass or a pydantic model"),
        ({"type": Money, "encode": money_out}, "only one of encode and decode"),
        ({"type": Money, "decode": money_in}, "only one of encode and decode"),
        ({"type": Money, "encode": "out", "decode": money_in}, "for a function"),
        ({"type": Money, "encode": money_out, "decode": money_in, "name": 5}, "has the name 5"),
        ({"type": "Money", "encode": money_out, "decode": money_in}, "is no class"),
        ({"type": PRICE, "encode": money_out, "decode": money_in}, "is no class"),
        ({"type": dict, "encode": money_out, "decode": money_in}, "is no class that can be registered"),
    ],
)
def test_a_hook_that_cannot_be(arguments: dict[str, Any], problem: str) -> None:
    with pytest.raises(ArgumentError, match=problem):
        TypeHook(**arguments)


@pytest.mark.parametrize("wrong", [Money, 5, "a text", money_out, None])
def test_what_is_no_type(run: Runner, wrong: Any) -> None:
    with pytest.raises(ArgumentError, match=r"TypeHook|is no class"):
        run.compile(shop(run), types=[wrong])
