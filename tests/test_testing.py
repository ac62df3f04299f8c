"""durable_graph.testing: the kit that users test their graphs with. What it must find, and what it must not."""

from __future__ import annotations

import asyncio
import contextlib
import operator
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
import sqlalchemy

from durable_graph import (
    START,
    ArgumentError,
    CachePolicy,
    CallError,
    Command,
    EmptyInputError,
    InMemoryCache,
    RetryPolicy,
    Runtime,
    Send,
    StateGraph,
    drivers,
    entrypoint,
    interrupt,
    task,
)
from durable_graph.core import jobs as engine
from durable_graph.errors import ThreadWaitingError
from durable_graph.testing import CrashReport, acheck_crashes, check_crashes, clock, crash_point, memory
from tests.graphs import durable_threads
from tests.test_crashes_language import INPUT, STORIES, subgraphs


class State(TypedDict, total=False):
    n: int
    log: Annotated[list[str], operator.add]


class Bank:
    """A fake service: money goes out, with or without a look at the key."""

    def __init__(self) -> None:
        self.transfers: list[str] = []

    def reset(self) -> None:
        self.transfers.clear()

    def pay(self, what: str) -> None:
        self.transfers.append(what)

    def pay_once(self, what: str) -> None:
        if what not in self.transfers:
            self.transfers.append(what)

    @property
    def sides(self) -> dict[str, Any]:
        return {"effects": lambda: sorted(self.transfers), "reset": self.reset}


def chain(*nodes: Callable[..., Any]) -> StateGraph[State]:
    return StateGraph(State).add_sequence([(each.__name__, each) for each in nodes]).add_edge(START, nodes[0].__name__)


def named(name: str, do: Callable[[], Any] = lambda: None, way: str = "sync") -> Callable[..., Any]:
    def node(state: State) -> dict[str, Any]:
        do()
        return {"log": [name]}

    async def anode(state: State) -> dict[str, Any]:
        await asyncio.sleep(0)
        return node(state)

    chosen = node if way == "sync" else anode
    chosen.__name__ = name
    return chosen


ways = pytest.mark.parametrize("way", ["sync", "async"])


@pytest.fixture(autouse=True)
def nothing_is_left() -> Any:
    before = drivers.clock, drivers.pause, drivers.apause, drivers.delay_of, engine.run_node, engine.run_call
    yield
    after = drivers.clock, drivers.pause, drivers.apause, drivers.delay_of, engine.run_node, engine.run_call
    assert after == before
    assert durable_threads() == []


# --- what is found ----------------------------------------------------------------------------


@ways
def test_the_node_that_is_not_safe_is_named(way: str) -> None:
    bank = Bank()
    builder = chain(
        named("a", way=way), named("pay", lambda: bank.pay("x"), way), named("note", lambda: bank.pay_once("y"), way)
    )
    report = check_crashes(builder, {"n": 1}, **bank.sides)
    assert not report.ok
    assert report.unsafe == ("pay",)
    assert report.again == {"a", "pay", "note"}
    assert [(one.moment, one.again) for one in report.findings] == [
        ("when 'pay' had returned", ("pay",)),
        ("before the row of step 2 (task of 'pay') was saved", ("pay",)),
    ]
    assert report.findings[0].difference == "effects()[1] differs: ['x', 'x', 'y'], undisturbed ['x', 'y']"
    with pytest.raises(AssertionError) as caught:
        report.check()
    for words in ("Not safe to run twice: pay.", "2 of", "step 2", "ran again: pay", "idempotency_key"):
        assert words in str(caught.value)


@ways
def test_a_safe_graph_has_no_findings(way: str) -> None:
    bank = Bank()
    report = check_crashes(chain(*[named(name, lambda: bank.pay_once("x"), way) for name in "abc"]), {}, **bank.sides)
    report.check()
    assert report.ok
    assert report.unsafe == ()
    # input, a, b, c, and the lease, which the last row or a change of its own gives back: before and after each
    assert report.crashes >= 8
    assert str(report) == f"{report.crashes} crashes, each ended as undisturbed."


def test_without_effects_the_state_tells() -> None:
    rows: list[int] = []

    def count(state: State) -> dict[str, Any]:
        rows.append(1)
        return {"n": len(rows)}

    report = check_crashes(chain(named("a"), count), {"n": 0}, reset=rows.clear)
    assert report.unsafe == ("count",)
    assert "state['n'] differs: n=2, undisturbed 1" in str(report)


def test_an_error_after_the_crash_is_a_finding() -> None:
    bank = Bank()

    def pay() -> None:
        if bank.transfers:
            raise KeyError("paid already")
        bank.pay("x")

    report = check_crashes(chain(named("pay", pay)), {}, **bank.sides)
    assert report.unsafe == ("pay",)
    assert "it ended with KeyError: 'paid already'" in str(report)


@ways
@pytest.mark.parametrize("names", [("pay", "a", "b"), ("a", "b", "pay")])
def test_only_the_guilty_one_of_siblings_is_a_suspect(way: str, names: tuple[str, ...]) -> None:
    bank = Bank()
    builder = StateGraph(State)
    for name in names:
        builder.add_node(name, named(name, (lambda: bank.pay("x")) if name == "pay" else lambda: None, way))
        builder.add_edge(START, name)
    report = check_crashes(builder, {}, config={"max_concurrency": 1}, **bank.sides)
    assert report.unsafe == ("pay",)
    assert all("pay" in one.again for one in report.findings)


@ways
def test_a_crash_in_the_middle_of_a_node(way: str) -> None:
    """It looks whether the second thing is done, and not whether the first is: only a crash between them tells."""
    bank = Bank()

    def both() -> None:
        if "second" in bank.transfers:
            return
        bank.pay("first")
        crash_point("between")
        bank.pay("second")

    report = check_crashes(chain(named("both", both, way)), {}, **bank.sides)
    assert [one.moment for one in report.findings] == ["at 'between'"]
    assert report.unsafe == ("both",)
    crash_point("does nothing outside")


def test_a_dead_process_does_nothing_any_more() -> None:
    """A node that catches everything goes on, but cannot save anything or pass by another point."""
    bank = Bank()

    def stubborn() -> None:
        with contextlib.suppress(BaseException):
            crash_point("first")
        crash_point("second")
        bank.pay_once("x")

    report = check_crashes(chain(named("stubborn", stubborn)), {}, **bank.sides)
    report.check()


def test_tasks_and_subgraphs_are_named() -> None:
    bank = Bank()

    @task
    def transfer() -> str:
        bank.pay("x")
        return "done"

    def calls(state: State) -> dict[str, Any]:
        return {"log": [transfer().result()]}

    assert check_crashes(chain(calls), {}, **bank.sides).unsafe == ("transfer()",)

    inner = chain(named("ok"), named("pay", lambda: bank.pay("y"))).compile(name="inner")

    def through(state: State) -> dict[str, Any]:
        return {"log": inner.invoke({"n": 1})["log"]}

    assert check_crashes(chain(through), {}, **bank.sides).unsafe == ("through|pay",)
    drawn = StateGraph(State).add_node("below", inner).add_edge(START, "below")
    assert "below|pay" in check_crashes(drawn, {}, **bank.sides).unsafe


def test_a_send_and_a_loop() -> None:
    bank = Bank()

    def part(number: int) -> dict[str, Any]:
        (bank.pay if number == 2 else bank.pay_once)(f"part {number}")
        return {"log": [str(number)]}

    builder = StateGraph(State).add_node("part", part)
    builder.add_conditional_edges(START, lambda state: [Send("part", i) for i in range(3)], ["part"])
    assert check_crashes(builder, {}, **bank.sides).unsafe == ("part",)


# --- how it gets to the end -------------------------------------------------------------------


def ask(state: State) -> dict[str, Any]:
    return {"log": [f"{interrupt('first?')} {interrupt('second?')}"]}


@ways
def test_answers_in_turn_or_by_question(way: str) -> None:
    bank = Bank()
    builder = chain(ask, named("pay", lambda: bank.pay("x"), way))
    for answers in (["yes", "no"], lambda asked: {"first?": "yes", "second?": "no"}[asked.value]):
        report = check_crashes(builder, {"n": 1}, answers=answers, **bank.sides)
        assert report.unsafe == ("pay",)
    stops = check_crashes(builder, {"n": 1}, answers=["yes"], **bank.sides)
    assert stops.ok
    assert stops.again == {"ask"}, "the last node was reached without an answer"


def test_the_same_answer_after_a_crash() -> None:
    """It was lost on its way: the question is open still, and the next answer is not for it."""
    seen: set[str] = set()

    def look(state: State) -> dict[str, Any]:
        seen.update(state["log"])
        return {}

    check_crashes(chain(ask, look), {"n": 1}, answers=["yes", "no"]).check()
    assert seen == {"yes no"}


def test_waits_and_retries_take_no_time() -> None:
    tries: Counter[str] = Counter()

    def wait(state: State, runtime: Runtime[Any]) -> dict[str, Any]:
        runtime.sleep(86_400)
        return {"log": [runtime.wait_for("paid"), str(runtime.wait_for("also", timeout=10**6))]}

    def flaky(state: State, runtime: Runtime[Any]) -> dict[str, Any]:
        tries["flaky"] += 1
        if runtime.attempt == 1:
            raise ConnectionError
        return {"log": ["flaky"]}

    policy = RetryPolicy(initial_interval=3600)
    builder = chain(wait).add_node("flaky", flaky, retry_policy=policy).add_edge("wait", "flaky")
    builder.add_node("beside", named("beside")).add_edge("wait", "beside")
    check_crashes(builder, {"n": 1}, signals={"paid": "much", "also": 1}).check()
    assert tries["flaky"] > 2


@pytest.mark.parametrize("story", [*STORIES, pytest.param(subgraphs, marks=pytest.mark.slow)])
def test_all_that_our_own_tests_live_through_is_safe(story: Callable[[], StateGraph[Any]]) -> None:
    """With questions, signals, retries, handlers, tasks, subgraphs."""
    report = check_crashes(
        story(), INPUT, answers=lambda asked: f"answer to {asked.value}", signals={"x": "sent x", "y": "sent y"}
    )
    report.check()
    assert report.crashes > 10


def test_a_workflow() -> None:
    bank = Bank()

    @task
    def transfer(number: int) -> int:
        bank.pay(str(number))
        return number + 1

    @entrypoint(checkpointer=False)
    def flow(number: int) -> int:
        return int(transfer(transfer(number).result()).result())

    assert check_crashes(flow, 1, **bank.sides).unsafe == ("transfer()",)


def test_the_cache_and_the_database_of_the_graph_stay_as_they_are(tmp_path: Path) -> None:
    calls: list[int] = []
    cache, url = InMemoryCache(), f"sqlite:///{tmp_path / 'own.db'}"
    node = named("a", lambda: calls.append(1))
    builder = StateGraph(State).add_node("a", node, cache_policy=CachePolicy()).add_edge(START, "a")
    graph = builder.compile(url, cache=cache)
    assert check_crashes(graph, {"n": 1}, effects=lambda: len(calls) > 0, reset=calls.clear).again == {"a"}
    assert not (tmp_path / "own.db").exists()
    calls.clear()
    graph.invoke({"n": 1}, {"thread_id": "t"})
    assert calls == [1], "the check has filled its cache"
    graph.close()


def test_transactions_need_a_database(tmp_path: Path) -> None:
    def pay(state: State, runtime: Runtime[Any]) -> dict[str, Any]:
        runtime.connection.execute(sqlalchemy.text("CREATE TABLE IF NOT EXISTS paid (n int)"))
        runtime.connection.execute(sqlalchemy.text("INSERT INTO paid VALUES (1)"))
        crash_point("in the transaction")
        return {"n": 1}

    def count(state: State, runtime: Runtime[Any]) -> dict[str, Any]:
        return {"n": runtime.connection.execute(sqlalchemy.text("SELECT count(*) FROM paid")).scalar()}

    def new() -> str:
        return f"sqlite:///{tmp_path / uuid.uuid4().hex}.db?synchronous=NORMAL"

    report = check_crashes(chain(pay, count), {"n": 0}, database=new)
    report.check()
    assert report.again == {"pay", "count"}
    with pytest.raises(CallError, match="no database connection"):
        check_crashes(chain(pay, count), {"n": 0})


def test_inside_a_loop_it_is_awaited() -> None:
    bank = Bank()
    builder = chain(named("pay", lambda: bank.pay("x"), "async"))

    async def main() -> CrashReport:
        return await acheck_crashes(builder, {}, **bank.sides)

    assert asyncio.run(main()).unsafe == ("pay",)
    plain = chain(named("pay", lambda: bank.pay("x")))
    assert asyncio.run(acheck_crashes(plain, {}, **bank.sides)).unsafe == ("pay",)


# --- what it refuses --------------------------------------------------------------------------


def test_runs_that_differ_by_themselves() -> None:
    def stamp(state: State) -> dict[str, Any]:
        return {"log": [uuid.uuid4().hex]}

    with pytest.raises(CallError, match=r"two runs without any crash do not end alike: state\['log'\]\[0\]"):
        check_crashes(chain(stamp), {"n": 1})
    check_crashes(chain(stamp), {"n": 1}, ignore=["log"]).check()
    bank = Bank()
    with pytest.raises(CallError, match="Give `reset`"):
        check_crashes(chain(named("pay", lambda: bank.pay("x"))), {}, effects=lambda: bank.transfers)


def test_what_fails_undisturbed_is_raised() -> None:
    def fails(state: State) -> None:
        raise ZeroDivisionError("always")

    with pytest.raises(ZeroDivisionError):
        check_crashes(chain(fails), {"n": 1})
    with pytest.raises(CallError, match="has not ended after 2 calls"):
        check_crashes(chain(ask), {"n": 1}, answers=["a", "b"], runs=2)


@pytest.mark.parametrize(
    ("given", "options", "words"),
    [
        (None, {}, "begins no run"),
        (Command(resume=1), {}, "begins no run"),
        ({"n": 1}, {"answer": 1}, "no such argument"),
    ],
)
def test_what_is_no_check(given: Any, options: Any, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        check_crashes(chain(named("a")), given, **options)


def test_no_graph() -> None:
    with pytest.raises(ArgumentError, match="is no graph"):
        check_crashes("graph", {"n": 1})  # type: ignore[arg-type]


def test_not_one_in_another() -> None:
    def nested(state: State) -> None:
        check_crashes(chain(named("a")), {"n": 1})

    with pytest.raises(CallError, match="another check_crashes is under way"):
        check_crashes(chain(nested), {"n": 1})
    check_crashes(chain(named("a")), {"n": 1}).check()


# --- memory and clock -------------------------------------------------------------------------


def test_memory_keeps_what_a_database_keeps() -> None:
    graph = chain(named("a"), named("b")).compile(checkpointer=memory(), interrupt_before=["b"])
    assert graph.invoke({"n": 1}, {"thread_id": "t"})["log"] == ["a"]
    assert graph.invoke(None, {"thread_id": "t"})["log"] == ["a", "b"]
    assert graph.verify({"thread_id": "t"}).ok
    with pytest.raises(EmptyInputError):  # each is another database
        chain(named("a")).compile(checkpointer=memory()).invoke(None, {"thread_id": "t"})


@ways
def test_the_clock_ends_waits(way: str) -> None:
    def nap(state: State, runtime: Runtime[Any]) -> dict[str, Any]:
        runtime.sleep(3600)
        return {"log": ["slept"]}

    graph = chain(nap).compile(checkpointer=memory())

    def go(value: Any) -> Any:
        if way == "sync":
            return graph.invoke(value, {"thread_id": "t"})
        return asyncio.run(graph.ainvoke(value, {"thread_id": "t"}))

    with clock(1_000_000.0) as time:
        go({"n": 1})
        time.advance(3599)
        with pytest.raises(ThreadWaitingError):
            go(None)
        time.advance(1)
        assert go(None)["log"] == ["slept"]
        assert time.now == 1_003_600.0
    assert drivers.clock() > 1_700_000_000


@ways
@pytest.mark.parametrize("beside", [False, True])
def test_retries_let_their_time_pass(way: str, beside: bool) -> None:
    left = iter([1, 1])

    def flaky() -> None:
        if next(left, None):
            raise ConnectionError

    policy = RetryPolicy(initial_interval=100_000, backoff_factor=2, max_interval=10**6, jitter=False)
    builder = StateGraph(State).add_node("flaky", named("flaky", flaky, way), retry_policy=policy)
    builder.add_edge(START, "flaky")
    if beside:
        builder.add_node("beside", named("beside", way=way)).add_edge(START, "beside")
    graph = builder.compile(checkpointer=memory())
    with clock(0.0) as time:
        values = graph.invoke({}, {"thread_id": "t"}) if way == "sync" else asyncio.run(graph.ainvoke({}, {}))
        assert "flaky" in values["log"]
        assert time.now == 300_000.0
