"""Waiting for a time and for signals: what a node waits for is a row, a waiting thread needs no process, and it goes on
where the clock or the signal lets it.

The clock is `drivers.clock`, set by these tests; nothing here takes longer because a node sleeps for days.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from durable_graph import (
    END,
    START,
    ArgumentError,
    CallError,
    Command,
    CompiledGraph,
    RetryPolicy,
    Runtime,
    Send,
    StateGraph,
    Thread,
    ThreadNotFoundError,
    UnknownInterruptError,
    UnstorableValueError,
    drivers,
    entrypoint,
    interrupt,
    task,
)
from durable_graph.core.model import Wait
from durable_graph.core.times import iso
from durable_graph.errors import ThreadWaitingError
from durable_graph.store.memory import MemoryStore
from tests.conftest import finished
from tests.graphs import MODES, WAYS, Calls, Runner, State, at, chain, new_thread, wait_for, wide

BEGIN = 1_700_000_000.0


class Clock:
    """The time, as the test says."""

    def __init__(self) -> None:
        self.now = BEGIN

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(drivers, "clock", clock)
    return clock


@pytest.fixture(params=WAYS)
def run(request: pytest.FixtureRequest, database_url: str) -> Iterator[Runner]:
    with Runner(request.param, database_url) as runner:
        yield runner


@pytest.fixture
def quick() -> Iterator[Runner]:
    """One way on the memory store, for what depends on neither."""
    with Runner("sync", MemoryStore()) as runner:  # type: ignore[arg-type]
        yield runner


def sleeper(calls: Calls, seconds: float = 10, name: str = "a") -> Callable[..., dict[str, Any]]:
    def call(state: Any, runtime: Runtime[Any]) -> dict[str, Any]:
        calls.append(name)
        runtime.sleep(seconds)
        return {"log": [f"{name} slept"]}

    call.__name__ = name
    return call


def waiter(calls: Calls, *signals: str, timeout: float | None = None, name: str = "a") -> Callable[..., dict[str, Any]]:
    def call(state: Any, runtime: Runtime[Any]) -> dict[str, Any]:
        calls.append(name)
        return {"log": [f"{name} got {runtime.wait_for(signal, timeout=timeout)}" for signal in signals]}

    call.__name__ = name
    return call


def of(run: Runner, node: Callable[..., Any]) -> CompiledGraph[Any]:
    """That node as a, and b after it."""
    return run.compile(chain(run, Calls(), "ab", a=node))


def thread(graph: CompiledGraph[Any], config: dict[str, Any]) -> Thread:
    (found,) = [t for t in graph.threads() if t.thread_id == config["configurable"]["thread_id"]]
    return found


def kinds(run: Runner, graph: CompiledGraph[Any], config: dict[str, Any]) -> list[str]:
    return [event.kind for event in run.replay(graph, config, stream_mode="events")]


def signal(run: Runner, graph: CompiledGraph[Any], config: dict[str, Any], name: str, value: Any = None) -> None:
    run.call(graph, "signal", config, name, value)


# --- sleeping ---------------------------------------------------------------------------------


def test_sleeping_for_so_many_seconds(run: Runner, clock: Clock) -> None:
    calls = Calls()
    graph, config = of(run, sleeper(calls, 3600)), new_thread()
    (event,) = run.stream(graph, {"n": 1}, config)
    (asked,) = event["__interrupt__"]
    assert asked.value == Wait(until=iso(BEGIN + 3600), signal=None)
    found = thread(graph, config)
    assert (found.status, found.wake_at, found.lease_owner) == ("waiting", iso(BEGIN + 3600), None)
    clock.now += 3600
    assert run.stream(graph, None, config) == [{"a": {"log": ["a slept"]}}, {"b": {"log": ["b"]}}]
    assert calls == ["a", "a"], "the node runs again from its start"
    found = thread(graph, config)
    assert (found.status, found.wake_at) == ("finished", None)
    assert kinds(run, graph, config) == ["input", "interrupt", "resume", "task", "task"]
    assert graph.verify(config).ok


def test_continued_too_early(run: Runner, clock: Clock) -> None:
    """A named error that says until when; nothing is committed, nothing runs, and the thread stays as it is."""
    calls = Calls()
    graph, config = of(run, sleeper(calls, 3600)), new_thread()
    run.invoke(graph, {"n": 1}, config)
    before = (kinds(run, graph, config), thread(graph, config))
    clock.now += 3599.999
    for _ in range(2):
        with pytest.raises(ThreadWaitingError, match=iso(BEGIN + 3600)):
            run.invoke(graph, None, config)
    assert (kinds(run, graph, config), thread(graph, config)) == before
    assert calls == ["a"]
    clock.now += 0.001
    assert run.invoke(graph, None, config)["log"] == ["a slept", "b"]


UNTIL = {
    "utc": datetime.fromtimestamp(BEGIN + 60, UTC),
    "another zone": datetime.fromtimestamp(BEGIN + 60, timezone(timedelta(hours=5, minutes=30))),
    "local time": datetime.fromtimestamp(BEGIN + 60),  # noqa: DTZ006 (that is what is tested)
}


@pytest.mark.parametrize("until", UNTIL.values(), ids=UNTIL)
def test_sleeping_until_a_time(quick: Runner, clock: Clock, until: datetime) -> None:
    graph, config = of(quick, lambda state, runtime: runtime.sleep(until=until)), new_thread()
    quick.invoke(graph, {"n": 1}, config)
    assert thread(graph, config).wake_at == iso(BEGIN + 60)
    clock.now += 59
    with pytest.raises(ThreadWaitingError):
        quick.invoke(graph, None, config)
    clock.now += 1
    assert quick.invoke(graph, None, config)["log"] == ["b"]


@pytest.mark.parametrize("seconds", [0, -5])
def test_a_time_that_is_over_does_not_stop_the_run(run: Runner, seconds: float) -> None:
    graph, config = of(run, sleeper(Calls(), seconds)), new_thread()
    assert run.invoke(graph, {"n": 1}, config)["log"] == ["a slept", "b"]
    assert kinds(run, graph, config) == ["input", "interrupt", "resume", "task", "task"], "on record all the same"


def test_several_sleeps_in_one_node(run: Runner, clock: Clock) -> None:
    """The second begins when the node comes to it, not when the thread began; the first is not slept again."""

    def node(state: Any, runtime: Runtime[Any]) -> dict[str, Any]:
        runtime.sleep(10)
        runtime.sleep(20)
        return {"log": ["done"]}

    graph, config = of(run, node), new_thread()
    run.invoke(graph, {"n": 1}, config)
    clock.now += 100
    run.invoke(graph, None, config)
    assert thread(graph, config).wake_at == iso(BEGIN + 120)
    clock.now += 20
    assert run.invoke(graph, None, config)["log"] == ["done", "b"]


def test_sleeping_in_a_loop(run: Runner, clock: Clock) -> None:
    """A cron of one's own: each round is a task with a wait of its own."""

    def tick(state: Any, runtime: Runtime[Any]) -> dict[str, Any]:
        runtime.sleep(60)
        return {"n": state["n"] + 1}

    builder = StateGraph(State).add_node("tick", run.node(tick)).add_edge(START, "tick")
    builder.add_conditional_edges("tick", run.node(lambda state: "tick" if state["n"] < 3 else END))
    graph, config = run.compile(builder), new_thread()
    run.invoke(graph, {"n": 0}, config)
    for number in (1, 2, 3):
        clock.now += 60
        assert run.invoke(graph, None, config)["n"] == number
        assert thread(graph, config).wake_at == (iso(clock.now + 60) if number < 3 else None)
    assert thread(graph, config).status == "finished"


WRONG_SLEEPS = {
    "neither": lambda runtime: runtime.sleep(),
    "both": lambda runtime: runtime.sleep(1, until=datetime.now(UTC)),
    "a text": lambda runtime: runtime.sleep("1"),
    "not a number": lambda runtime: runtime.sleep(float("nan")),
    "for ever": lambda runtime: runtime.sleep(float("inf")),
    "until a number": lambda runtime: runtime.sleep(until=5),
    "a time-out that is a text": lambda runtime: runtime.wait_for("x", timeout="1"),
}


@pytest.mark.parametrize("wrong", WRONG_SLEEPS.values(), ids=WRONG_SLEEPS)
def test_a_wrong_time_fails_the_node_and_no_more(quick: Runner, clock: Clock, wrong: Callable[[Any], Any]) -> None:
    config = new_thread()
    graph = of(quick, lambda state, runtime: wrong(runtime))
    with pytest.raises((ArgumentError, TypeError, ValueError, OverflowError, AttributeError)):
        quick.invoke(graph, {"n": 1}, config)
    assert thread(graph, config).status == "failed"
    quick.invoke(of(quick, sleeper(Calls())), None, config)  # corrected
    clock.now += 10
    assert quick.invoke(of(quick, sleeper(Calls())), None, config)["log"] == ["a slept", "b"]


@pytest.mark.parametrize("wrong", [WRONG_SLEEPS[name] for name in list(WRONG_SLEEPS)[2:]], ids=list(WRONG_SLEEPS)[2:])
def test_a_wrong_time_is_named(quick: Runner, wrong: Callable[[Any], Any]) -> None:
    with pytest.raises(ArgumentError):
        quick.invoke(of(quick, lambda state, runtime: wrong(runtime)), {"n": 1}, new_thread())


def test_waiting_without_a_database() -> None:
    with Runner("sync", False) as run:
        for node in (sleeper(Calls()), waiter(Calls(), "x")):
            with pytest.raises(CallError, match="without a checkpointer"):
                run.invoke(of(run, node), {"n": 1})


# --- signals ----------------------------------------------------------------------------------


def test_a_signal_sent_while_the_thread_waits(run: Runner) -> None:
    calls = Calls()
    graph, config = of(run, waiter(calls, "approved")), new_thread()
    (event,) = run.stream(graph, {"n": 1}, config)
    assert event["__interrupt__"][0].value == Wait(until=None, signal="approved")
    found = thread(graph, config)
    assert (found.status, found.wake_at) == ("waiting", None)
    with pytest.raises(ThreadWaitingError, match="for the signal 'approved'"):
        run.invoke(graph, None, config)
    signal(run, graph, config, "approved", {"by": ["her"]})
    assert thread(graph, config).status == "waiting", "a signal wakes nobody by itself"
    assert run.invoke(graph, None, config)["log"] == ["a got {'by': ['her']}", "b"]
    assert calls == ["a", "a"]


def test_a_signal_sent_before_anyone_waits(run: Runner) -> None:
    """It is kept, over other nodes and runs, until a task waits for it: then the same run goes on."""
    calls = Calls()
    builder = chain(run, calls, "abc", b=waiter(calls, "x", name="b"))
    graph, config = run.compile(builder), new_thread()
    run.first(1, graph, {"n": 1}, config)
    signal(run, graph, config, "x", 5)
    events = run.stream(graph, None, config)
    assert [name for event in events for name in event] == ["__interrupt__", "b", "c"]
    assert events[1] == {"b": {"log": ["b got 5"]}}
    assert thread(graph, config).status == "finished"
    assert run.replay(graph, config)[1:] == events


def test_a_signal_sent_while_the_node_runs(run: Runner) -> None:
    """By the node itself, which stands for anybody who is that quick."""
    graphs: list[CompiledGraph[Any]] = []

    def node(state: Any, runtime: Runtime[Any]) -> dict[str, Any]:
        if runtime.attempt == 1:
            graphs[0].signal({"thread_id": runtime.thread_id}, "x", "quick")
        return {"log": [runtime.wait_for("x")]}

    graphs.append(of(run, node))
    assert run.invoke(graphs[0], {"n": 1}, new_thread())["log"] == ["quick", "b"]


def test_a_signal_after_the_end_is_kept_for_the_next_run(run: Runner) -> None:
    graph, config = of(run, waiter(Calls(), "x")), new_thread()
    run.invoke(graph, {"n": 1}, config)
    signal(run, graph, config, "x", 1)
    run.invoke(graph, None, config)
    signal(run, graph, config, "x", 2)
    assert run.invoke(graph, {"n": 2}, config)["log"] == ["a got 1", "b", "a got 2", "b"]


def test_a_signal_of_another_name_wakes_nobody(run: Runner) -> None:
    graph, config = of(run, waiter(Calls(), "x")), new_thread()
    run.invoke(graph, {"n": 1}, config)
    signal(run, graph, config, "y", 1)
    with pytest.raises(ThreadWaitingError):
        run.invoke(graph, None, config)
    signal(run, graph, config, "x", 2)
    assert run.invoke(graph, None, config)["log"] == ["a got 2", "b"]


def test_a_signal_is_taken_once(run: Runner) -> None:
    graph, config = of(run, waiter(Calls(), "x", "x")), new_thread()
    run.invoke(graph, {"n": 1}, config)
    signal(run, graph, config, "x", "first")
    run.invoke(graph, None, config)
    with pytest.raises(ThreadWaitingError):
        run.invoke(graph, None, config)
    signal(run, graph, config, "x", "second")
    assert run.invoke(graph, None, config)["log"] == ["a got first", "a got second", "b"]


def test_signals_are_taken_in_the_order_of_sending(run: Runner, clock: Clock) -> None:
    graph, config = of(run, waiter(Calls(), *"xxyx")), new_thread()
    run.invoke(graph, {"n": 1}, config)
    for value, name in enumerate("yxxxy"):
        clock.now += 1
        signal(run, graph, config, name, value)
    log = ["a got 1", "a got 2", "a got 0", "a got 3", "b"]
    assert run.invoke(graph, None, config)["log"] == log


@pytest.mark.parametrize("step", [0.0, -1.0], ids=["within one tick", "a clock that is set back"])
def test_signals_keep_their_order_whatever_the_clock_says(quick: Runner, clock: Clock, step: float) -> None:
    graph, config = of(quick, waiter(Calls(), *("x" * 12))), new_thread()
    quick.invoke(graph, {"n": 1}, config)
    for value in range(12):
        clock.now += step
        signal(quick, graph, config, "x", value)
    assert quick.invoke(graph, None, config)["log"] == [*(f"a got {value}" for value in range(12)), "b"]


def test_two_waiters_for_one_name(run: Runner, clock: Clock) -> None:
    """Each takes one signal, the first task the first signal; the other goes on waiting."""
    calls = Calls()
    special = {name: waiter(calls, "x", name=name) for name in "ab"}
    graph, config = run.compile(wide(run, calls, **special)), new_thread()
    run.invoke(graph, {"n": 1}, config)
    signal(run, graph, config, "x", 1)
    assert run.stream(graph, None, config) == [{"a": {"log": ["a got 1"]}}]
    assert thread(graph, config).status == "waiting"
    with pytest.raises(ThreadWaitingError):
        run.invoke(graph, None, config)
    clock.now += 1
    signal(run, graph, config, "x", 2)
    assert run.invoke(graph, None, config)["log"] == ["a got 1", "b got 2", "c", "end"]
    assert sorted(calls) == ["a", "a", "b", "b", "c", "end"], "who does not get anything does not run again"


def test_two_waiters_and_two_signals(run: Runner, clock: Clock) -> None:
    calls = Calls()
    graph = run.compile(wide(run, calls, "ab", **{name: waiter(calls, "x", name=name) for name in "ab"}))
    config = new_thread()
    run.invoke(graph, {"n": 1}, config)
    for value in (1, 2):
        clock.now += 1
        signal(run, graph, config, "x", value)
    assert run.invoke(graph, None, config)["log"] == ["a got 1", "b got 2", "end"]


def test_signals_in_a_map(run: Runner, clock: Clock) -> None:
    def part(number: int, runtime: Runtime[Any]) -> dict[str, Any]:
        return {"log": [f"{number}: {runtime.wait_for(f'part {number}')}"]}

    builder = StateGraph(State).add_node("part", run.node(part))
    builder.add_conditional_edges(START, lambda state: [Send("part", i) for i in range(4)], ["part"])
    graph, config = run.compile(builder), new_thread()
    run.invoke(graph, {"n": 1}, config)
    for number in (3, 1, 0, 2):
        signal(run, graph, config, f"part {number}", number * 10)
        run.invoke(graph, None, config)
    assert run.get_state(graph, config).values["log"] == [f"{i}: {i * 10}" for i in range(4)]
    assert thread(graph, config).status == "finished"


def test_signals_of_another_thread_are_not_taken(run: Runner) -> None:
    graph, mine, yours = of(run, waiter(Calls(), "x")), new_thread(), new_thread()
    for config in (mine, yours):
        run.invoke(graph, {"n": 1}, config)
    signal(run, graph, yours, "x", 1)
    with pytest.raises(ThreadWaitingError):
        run.invoke(graph, None, mine)
    assert run.invoke(graph, None, yours)["log"] == ["a got 1", "b"]


@pytest.mark.parametrize("value", [None, False, 0, "", {}, (1, {2}), b"\x00", datetime(2026, 1, 1, tzinfo=UTC)])
def test_any_value_may_be_signalled(quick: Runner, value: Any) -> None:
    got: list[Any] = []
    config = new_thread()
    graph = of(quick, lambda state, runtime: got.append(runtime.wait_for("x", timeout=5)))
    quick.invoke(graph, {"n": 1}, config)
    signal(quick, graph, config, "x", value)
    quick.invoke(graph, None, config)
    assert got == [value]
    assert type(got[0]) is type(value)


def test_wrong_signals(run: Runner) -> None:
    """Nothing is kept of them."""
    graph, config = of(run, waiter(Calls(), "x")), new_thread()
    with pytest.raises(ThreadNotFoundError):
        signal(run, graph, config, "x")
    run.invoke(graph, {"n": 1}, config)
    with pytest.raises(UnstorableValueError, match="object"):
        signal(run, graph, config, "x", object())
    with pytest.raises(ArgumentError, match="thread"):
        signal(run, graph, {}, "x")
    with pytest.raises(ArgumentError):
        signal(run, graph, config, "x\x00y")
    with pytest.raises(ThreadWaitingError):
        run.invoke(graph, None, config)


@pytest.mark.parametrize("who", ["sender", "waiter"])
def test_a_signal_has_a_text_as_its_name(quick: Runner, who: str) -> None:
    config = new_thread()
    graph = of(quick, waiter(Calls(), "x" if who == "sender" else 5))  # type: ignore[arg-type]
    if who == "sender":
        quick.invoke(graph, {"n": 1}, config)
        with pytest.raises(ArgumentError):
            graph.signal(config, 5)  # type: ignore[arg-type]
    else:
        with pytest.raises(ArgumentError):
            quick.invoke(graph, {"n": 1}, config)


def test_a_signal_is_refused_as_an_answer_and_an_answer_as_a_signal(run: Runner) -> None:
    """Command(resume=...) answers somebody's question, which this is none."""
    graph, config = of(run, waiter(Calls(), "x")), new_thread()
    run.invoke(graph, {"n": 1}, config)
    asked = run.get_state(graph, config).interrupts[0].id
    before = kinds(run, graph, config)
    for answer in ("y", {asked: "y"}, {asked: {"signal": "y"}}):
        with pytest.raises(UnknownInterruptError):
            run.invoke(graph, Command(resume=answer), config)
    assert kinds(run, graph, config) == before
    assert thread(graph, config).status == "waiting"


def test_a_thread_that_is_deleted_forgets_its_signals(run: Runner) -> None:
    graph, config = of(run, waiter(Calls(), "x")), new_thread()
    run.invoke(graph, {"n": 1}, config)
    signal(run, graph, config, "x", "old")
    run.call(graph, "delete_thread", config["configurable"]["thread_id"])
    run.invoke(graph, {"n": 1}, config)
    assert thread(graph, config).status == "waiting"


# --- time-outs --------------------------------------------------------------------------------


def patient(calls: Calls) -> Callable[..., dict[str, Any]]:
    def call(state: Any, runtime: Runtime[Any]) -> dict[str, Any]:
        calls.append("a")
        try:
            return {"log": [f"got {runtime.wait_for('x', timeout=30)}"]}
        except TimeoutError as error:
            return {"log": [f"too late: {error}"]}

    return call


def test_a_time_out(run: Runner, clock: Clock) -> None:
    calls = Calls()
    graph, config = of(run, patient(calls)), new_thread()
    run.invoke(graph, {"n": 1}, config)
    found = thread(graph, config)
    assert (found.status, found.wake_at) == ("waiting", iso(BEGIN + 30))
    with pytest.raises(ThreadWaitingError, match=f"for the signal 'x' or until {iso(BEGIN + 30)}"):
        run.invoke(graph, None, config)
    clock.now += 30
    assert run.invoke(graph, None, config)["log"] == ["too late: no signal 'x' came within 30 s", "b"]


def test_a_signal_before_the_time_out(run: Runner, clock: Clock) -> None:
    graph, config = of(run, patient(Calls())), new_thread()
    run.invoke(graph, {"n": 1}, config)
    clock.now += 29
    signal(run, graph, config, "x", 1)
    clock.now += 100  # who was in time is not late because nobody looked
    assert run.invoke(graph, None, config)["log"] == ["got 1", "b"]


def test_a_time_out_that_nobody_catches(run: Runner, clock: Clock) -> None:
    """The node fails; corrected, the thread goes on with the time-out, which is on record."""
    graph, config = of(run, waiter(Calls(), "x", timeout=30)), new_thread()
    run.invoke(graph, {"n": 1}, config)
    clock.now += 30
    for _ in range(2):
        with pytest.raises(TimeoutError, match="no signal 'x' came within 30"):
            run.invoke(graph, None, config)
        assert thread(graph, config).status == "failed"
    signal(run, graph, config, "x", "late")
    assert run.invoke(of(run, patient(Calls())), None, config)["log"][0].startswith("too late")


def test_the_same_signal_after_a_time_out(run: Runner, clock: Clock) -> None:
    """A late signal is not lost: the next wait of that name takes it."""

    def node(state: Any, runtime: Runtime[Any]) -> dict[str, Any]:
        for number in range(3):
            try:
                return {"log": [f"{number}: {runtime.wait_for('x', timeout=10)}"]}
            except TimeoutError:
                pass
        return {"log": ["never"]}

    graph, config = of(run, node), new_thread()
    run.invoke(graph, {"n": 1}, config)
    clock.now += 10
    run.invoke(graph, None, config)
    assert thread(graph, config).wake_at == iso(BEGIN + 20)
    signal(run, graph, config, "x", "late")
    assert run.invoke(graph, None, config)["log"] == ["1: late", "b"]


def test_the_earliest_time_wakes_the_thread(run: Runner, clock: Clock) -> None:
    calls = Calls()
    special = {name: sleeper(calls, seconds, name) for name, seconds in zip("abc", (30, 10, 20), strict=True)}
    graph, config = run.compile(wide(run, calls, **special)), new_thread()
    run.invoke(graph, {"n": 1}, config)
    for name, later in (("b", 20), ("c", 30)):
        clock.now += 10
        assert run.stream(graph, None, config) == [{name: {"log": [f"{name} slept"]}}]
        assert thread(graph, config).wake_at == iso(BEGIN + later)
    clock.now += 10
    assert run.invoke(graph, None, config)["log"] == ["a slept", "b slept", "c slept", "end"]
    assert sorted(calls) == ["a", "a", "b", "b", "c", "c", "end"]


# --- beside other things that stop a thread -------------------------------------------------------


def mixed(run: Runner, calls: Calls) -> CompiledGraph[Any]:
    """a sleeps, b asks, c works."""

    def ask(state: Any) -> dict[str, Any]:
        calls.append("b")
        return {"log": [f"b {interrupt('q')}"]}

    return run.compile(wide(run, calls, a=sleeper(calls, 60), b=ask))


def test_a_wait_beside_a_question(run: Runner, clock: Clock) -> None:
    """The thread is interrupted, since somebody can do something; answered first, it waits."""
    calls = Calls()
    graph, config = mixed(run, calls), new_thread()
    run.invoke(graph, {"n": 1}, config)
    found = thread(graph, config)
    assert (found.status, found.wake_at) == ("interrupted", iso(BEGIN + 60))
    assert run.stream(graph, Command(resume="x"), config) == [{"b": {"log": ["b x"]}}]
    assert thread(graph, config).status == "waiting"
    with pytest.raises(ThreadWaitingError):
        run.invoke(graph, None, config)
    clock.now += 60
    assert run.invoke(graph, None, config)["log"] == ["a slept", "b x", "c", "end"]
    assert sorted(calls) == ["a", "a", "b", "b", "c", "end"]


def test_a_wait_that_ends_before_the_question_is_answered(run: Runner, clock: Clock) -> None:
    calls = Calls()
    graph, config = mixed(run, calls), new_thread()
    run.invoke(graph, {"n": 1}, config)
    clock.now += 60
    assert run.stream(graph, None, config) == [{"a": {"log": ["a slept"]}}]
    found = thread(graph, config)
    assert (found.status, found.wake_at) == ("interrupted", None)
    assert run.invoke(graph, Command(resume="x"), config)["log"] == ["a slept", "b x", "c", "end"]


def test_an_answer_after_the_time_goes_on_with_both(run: Runner, clock: Clock) -> None:
    """One call is enough: the wait was over."""
    graph, config = mixed(run, Calls()), new_thread()
    run.invoke(graph, {"n": 1}, config)
    clock.now += 60
    assert run.invoke(graph, Command(resume="x"), config)["log"] == ["a slept", "b x", "c", "end"]


def test_a_wait_beside_a_failure(run: Runner, clock: Clock) -> None:
    """The failed one is tried again, whatever the other waits for; that goes on waiting."""
    calls = Calls()
    graph = run.compile(wide(run, calls, "ab", a=sleeper(calls, 60), b=calls.failing("b", times=9)))
    config = new_thread()
    for _ in range(3):
        with pytest.raises(ValueError, match="b failed"):
            run.invoke(graph, {"n": 1} if not calls else None, config)
    assert thread(graph, config).status == "failed"
    assert calls.count("b") == 3
    fixed = run.compile(wide(run, calls, "ab", a=sleeper(calls, 60)))
    clock.now += 1
    run.invoke(fixed, None, config)
    assert thread(graph, config).status == "waiting"
    clock.now += 60
    assert run.invoke(fixed, None, config)["log"] == ["a slept", "b", "end"]


def test_a_command_beside_a_wait(run: Runner, clock: Clock) -> None:
    """An update or another node does not end the wait."""
    graph, config = of(run, sleeper(Calls(), 60)), new_thread()
    run.invoke(graph, {"n": 1}, config)
    run.invoke(graph, Command(update={"n": 5}), config)
    assert run.stream(graph, Command(goto="b"), config) == [{"b": {"log": ["b"]}}]
    found = thread(graph, config)
    assert (found.status, found.wake_at) == ("waiting", iso(BEGIN + 60))
    clock.now += 60
    assert run.invoke(graph, None, config) == {"n": 5, "log": ["a slept", "b", "b"]}


def test_an_update_and_a_new_input_drop_the_wait(run: Runner, clock: Clock) -> None:
    graph, config = of(run, sleeper(Calls(), 60)), new_thread()
    run.invoke(graph, {"n": 1}, config)
    run.update_state(graph, config, {"log": ["by hand"]}, as_node="a")
    found = thread(graph, config)
    assert (found.status, found.wake_at) == ("pending", None)
    assert run.invoke(graph, None, config)["log"] == ["by hand", "b"]
    run.invoke(graph, {"n": 2}, config)
    clock.now += 30
    run.invoke(graph, {"n": 3}, config)
    assert thread(graph, config).wake_at == iso(BEGIN + 90), "another task, another wait"
    clock.now += 30
    with pytest.raises(ThreadWaitingError):
        run.invoke(graph, None, config)


def test_a_pause_before_a_node_that_waits(run: Runner, clock: Clock) -> None:
    graph = run.compile(chain(run, Calls(), "ab", a=sleeper(Calls(), 60)), interrupt_before=["a", "b"])
    config = new_thread()
    run.invoke(graph, {"n": 1}, config)
    assert thread(graph, config).status == "interrupted"
    run.invoke(graph, None, config)
    assert thread(graph, config).status == "waiting"
    clock.now += 60
    run.invoke(graph, None, config)
    assert run.get_state(graph, config).next == ("b",)
    assert run.invoke(graph, None, config)["log"] == ["a slept", "b"]


def test_a_retry_does_not_take_a_wait_for_a_failure(run: Runner, clock: Clock) -> None:
    """And a time-out may be retried: it is the same one each time, so the node has to cope."""
    calls = Calls()
    policy = RetryPolicy(initial_interval=0, jitter=False, max_attempts=3, retry_on=Exception)
    node = run.node(waiter(calls, "x", timeout=10))
    graph, config = run.compile(StateGraph(State).add_node("a", node, retry_policy=policy).add_edge(START, "a")), None
    config = new_thread()
    run.invoke(graph, {"n": 1}, config)
    assert calls == ["a"]
    clock.now += 10
    with pytest.raises(TimeoutError):
        run.invoke(graph, None, config)
    assert calls == ["a"] * 4


# --- what is shown ----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [*MODES, ["updates", "values", "events"]], ids=str)
def test_replay_tells_what_was_seen_of_waits(quick: Runner, clock: Clock, mode: Any) -> None:
    calls = Calls()
    special = {"a": sleeper(calls, 60), "b": waiter(calls, "x", "x", timeout=90, name="b")}
    graph, config = quick.compile(wide(quick, calls, **special)), new_thread()
    live = quick.stream(graph, {"n": 1}, config, stream_mode=mode)
    clock.now += 60
    live += quick.stream(graph, None, config, stream_mode=mode)
    signal(quick, graph, config, "x", 1)
    clock.now += 1
    signal(quick, graph, config, "x", 2)
    live += quick.stream(graph, None, config, stream_mode=mode)
    assert quick.get_state(graph, config).next == ()
    assert quick.replay(graph, config, stream_mode=mode) == live


def test_waits_in_the_state(run: Runner) -> None:
    graph, config = of(run, waiter(Calls(), "x", timeout=5)), new_thread()
    result = run.invoke(graph, {"n": 1}, config)
    state = run.get_state(graph, config)
    assert state.next == ("a",)
    assert [found.value for found in state.interrupts] == [Wait(until=iso(BEGIN + 5), signal="x")]
    assert state.tasks[0].interrupts == state.interrupts
    assert result["__interrupt__"] == list(state.interrupts)


def test_waiting_threads_are_found(run: Runner, clock: Clock) -> None:
    """What a worker asks: who waits, and who can go on now."""
    graph = of(run, sleeper(Calls(), 60))
    early, late = new_thread(), new_thread()
    run.invoke(graph, {"n": 1}, early)
    clock.now += 30
    run.invoke(graph, {"n": 1}, late)
    clock.now += 40
    due = [t.thread_id for t in graph.threads(status="waiting") if t.wake_at and t.wake_at <= iso(clock.now)]
    assert due == [early["configurable"]["thread_id"]]
    run.invoke(graph, None, early)
    assert [t.thread_id for t in graph.threads(status="waiting")] == [late["configurable"]["thread_id"]]


def test_back_to_before_a_wait(run: Runner, clock: Clock) -> None:
    """It is waited for anew, from now."""
    graph, config = of(run, sleeper(Calls(), 60)), new_thread()
    run.invoke(graph, {"n": 1}, config)
    clock.now += 60
    run.invoke(graph, None, config)
    run.invoke(graph, None, at(config, 0))
    found = thread(graph, config)
    assert (found.status, found.wake_at) == ("waiting", iso(BEGIN + 120))
    clock.now += 60
    assert run.invoke(graph, None, config)["log"] == ["a slept", "b"]
    assert graph.verify(config).ok


def test_back_to_a_wait_that_is_over(run: Runner, clock: Clock) -> None:
    graph, config = of(run, sleeper(Calls(), 60)), new_thread()
    run.invoke(graph, {"n": 1}, config)
    with pytest.raises(ThreadWaitingError):
        run.invoke(graph, None, at(config, 1))
    clock.now += 60
    run.invoke(graph, None, config)
    assert run.invoke(graph, None, at(config, 1))["log"] == ["a slept", "b"]


def test_a_fork_of_a_thread_that_waits(run: Runner, clock: Clock) -> None:
    """It waits for the same time, and for signals of its own."""
    graph, config, fork = of(run, waiter(Calls(), "x", timeout=60)), new_thread(), new_thread()
    run.invoke(graph, {"n": 1}, config)
    signal(run, graph, config, "x", "here")
    run.fork(graph, config, fork["configurable"]["thread_id"])
    with pytest.raises(ThreadWaitingError, match=iso(BEGIN + 60)):
        run.invoke(graph, None, fork)
    signal(run, graph, fork, "x", "there")
    assert run.invoke(graph, None, fork)["log"] == ["a got there", "b"]
    assert run.invoke(graph, None, config)["log"] == ["a got here", "b"]


def test_a_fork_of_a_thread_that_waits_is_found(quick: Runner) -> None:
    graph, config, fork = of(quick, sleeper(Calls(), 60)), new_thread(), new_thread()
    quick.invoke(graph, {"n": 1}, config)
    quick.fork(graph, config, fork["configurable"]["thread_id"])
    found = thread(graph, fork)
    assert (found.status, found.wake_at) == ("waiting", iso(BEGIN + 60))


# --- restarts ---------------------------------------------------------------------------------


def test_waits_and_signals_survive_a_new_graph_object(run: Runner, clock: Clock) -> None:
    config, node = new_thread(), waiter(Calls(), "x", "y", timeout=100)
    run.invoke(of(run, node), {"n": 1}, config)
    signal(run, of(run, node), config, "x", 1)
    run.invoke(of(run, node), None, config)
    assert thread(of(run, node), config).wake_at == iso(BEGIN + 100)
    clock.now += 99
    with pytest.raises(ThreadWaitingError):
        run.invoke(of(run, node), None, config)
    signal(run, of(run, node), config, "y", 2)
    assert run.invoke(of(run, node), None, config)["log"] == ["a got 1", "a got 2", "b"]


PROGRAM = """
import os, sys
from durable_graph import drivers
from tests.graphs import Calls, Runner, chain
now = float(sys.argv[4])
drivers.clock = lambda: now
def node(state, runtime):
    runtime.sleep(3600)
    return {"log": [runtime.wait_for("approved", timeout=3600)]}
run = Runner("sync", sys.argv[1])
graph, config = run.compile(chain(run, Calls(), "ab", a=node)), {"thread_id": sys.argv[2]}
"""
STEPS = {
    "begin": "graph.invoke({'n': 1}, config); os._exit(0)",
    "early": "from durable_graph.errors import ThreadWaitingError\n"
    "try: graph.invoke(None, config)\nexcept ThreadWaitingError as error: print(error)\nrun.__exit__()",
    "go on": "print(graph.invoke(None, config)['log']); run.__exit__()",
    "signal": "graph.signal(config, 'approved', 'yes'); run.__exit__()",
}


def test_a_wait_needs_no_process(database_url: str, script: Any) -> None:
    """Each step is a process of its own, the first one dies; hours lie between them."""
    config = new_thread()

    def do(step: str, hours: float) -> str:
        thread_id, now = config["configurable"]["thread_id"], BEGIN + hours * 3600
        return finished(script(PROGRAM + STEPS[step], database_url, thread_id, step, str(now))).strip()

    do("begin", 0)
    assert iso(BEGIN + 3600) in do("early", 0.5)
    assert do("go on", 1) == "[]", "slept; waits for the signal now"
    assert "for the signal 'approved'" in do("early", 1.5)
    do("signal", 1.75)
    assert do("go on", 1.8) == "['yes', 'b']"


# --- in subgraphs -----------------------------------------------------------------------------


def above(run: Runner, *nodes: Callable[..., Any]) -> CompiledGraph[Any]:
    """These nodes side by side in a subgraph, which is a node; then `end`."""
    sub = StateGraph(State)
    for node in nodes:
        sub.add_node(node.__name__, run.node(node)).add_edge(START, node.__name__)
    builder = StateGraph(State).add_node("sub", sub.compile(name="sub"))
    builder.add_node("end", run.node(lambda state: {"log": ["end"]}))
    return run.compile(builder.add_edge(START, "sub").add_edge("sub", "end"))


def test_sleeping_in_a_subgraph(run: Runner, clock: Clock) -> None:
    """The thread above waits, and is the one that is continued."""
    calls = Calls()
    graph, config = above(run, sleeper(calls, 60)), new_thread()
    (event,) = run.stream(graph, {"n": 1}, config)
    assert event["__interrupt__"][0].value == Wait(until=iso(BEGIN + 60))
    found = thread(graph, config)
    assert (found.status, found.wake_at) == ("waiting", iso(BEGIN + 60))
    with pytest.raises(ThreadWaitingError, match=iso(BEGIN + 60)):
        run.invoke(graph, None, config)
    clock.now += 60
    assert run.invoke(graph, None, config)["log"] == ["a slept", "end"]
    assert calls == ["a", "a"]
    assert {t.status for t in graph.threads()} == {"finished"}


def test_a_signal_for_a_subgraph(run: Runner) -> None:
    """It is sent to the thread that the caller knows; before anyone waits and while somebody does."""
    graph, config = above(run, waiter(Calls(), "x", "x")), new_thread()
    run.first(1, graph, {"n": 1}, config)
    signal(run, graph, config, "x", 1)
    run.invoke(graph, None, config)
    assert thread(graph, config).status == "waiting"
    signal(run, graph, config, "x", 2)
    assert run.invoke(graph, None, config)["log"] == ["a got 1", "a got 2", "end"]


def test_two_waiters_in_a_subgraph(run: Runner, clock: Clock) -> None:
    calls = Calls()
    graph, config = above(run, sleeper(calls, 10, "a"), sleeper(calls, 20, "b")), new_thread()
    run.invoke(graph, {"n": 1}, config)
    assert thread(graph, config).wake_at == iso(BEGIN + 10)
    clock.now += 10
    run.invoke(graph, None, config)
    found = thread(graph, config)
    assert (found.status, found.wake_at) == ("waiting", iso(BEGIN + 20))
    clock.now += 10
    assert run.invoke(graph, None, config)["log"] == ["a slept", "b slept", "end"]
    assert sorted(calls) == ["a", "a", "b", "b"]


def test_two_waiters_in_a_subgraph_continued_too_early(quick: Runner) -> None:
    calls = Calls()
    graph, config = above(quick, sleeper(calls, 10, "a"), sleeper(calls, 20, "b")), new_thread()
    quick.invoke(graph, {"n": 1}, config)
    with pytest.raises(ThreadWaitingError):
        quick.invoke(graph, None, config)


def asker(state: Any) -> dict[str, Any]:
    return {"log": [f"asker {interrupt('q')}"]}


def test_a_wait_beside_a_question_in_a_subgraph(run: Runner, clock: Clock) -> None:
    graph, config = above(run, sleeper(Calls(), 60), asker), new_thread()
    run.invoke(graph, {"n": 1}, config)
    found = thread(graph, config)
    assert (found.status, found.wake_at) == ("interrupted", iso(BEGIN + 60))
    run.invoke(graph, Command(resume="x"), config)
    assert thread(graph, config).status == "waiting"
    clock.now += 60
    assert run.invoke(graph, None, config)["log"] == ["a slept", "asker x", "end"]


def test_a_question_beside_a_wait_in_a_subgraph_is_asked_again(quick: Runner) -> None:
    """As it is where both stand in the graph itself."""
    graph, config = above(quick, sleeper(Calls(), 60), asker), new_thread()
    quick.invoke(graph, {"n": 1}, config)
    assert [found.value for found in quick.invoke(graph, None, config)["__interrupt__"]][-1] == "q"


def test_a_time_out_two_levels_below(run: Runner, clock: Clock) -> None:
    inner = StateGraph(State).add_node("a", run.node(patient(Calls()))).add_edge(START, "a").compile(name="inner")
    middle = StateGraph(State).add_node("inner", inner).add_edge(START, "inner").compile(name="middle")
    graph, config = run.compile(StateGraph(State).add_node("sub", middle).add_edge(START, "sub")), new_thread()
    run.invoke(graph, {"n": 1}, config)
    assert thread(graph, config).wake_at == iso(BEGIN + 30)
    clock.now += 30
    assert run.invoke(graph, None, config)["log"] == ["too late: no signal 'x' came within 30 s"]


# --- in an entrypoint and a @task -----------------------------------------------------------------


def test_waiting_in_an_entrypoint(run: Runner, clock: Clock) -> None:
    """What was called before the wait is not called again after it."""
    calls: list[int] = []

    if run.way == "async":

        @task
        async def work(number: int) -> int:
            calls.append(number)
            return number * 2

        @entrypoint(run.url)
        async def flow(number: int, runtime: Runtime[Any]) -> Any:
            first = await work(number)
            runtime.sleep(60)
            return [first, runtime.wait_for("x"), await work(first)]
    else:

        @task
        def work(number: int) -> int:
            calls.append(number)
            return number * 2

        @entrypoint(run.url)
        def flow(number: int, runtime: Runtime[Any]) -> Any:
            first = work(number).result()
            runtime.sleep(60)
            return [first, runtime.wait_for("x"), work(first).result()]

    config = new_thread()
    run.invoke(flow, 1, config)
    found = thread(flow, config)
    assert (found.status, found.wake_at) == ("waiting", iso(BEGIN + 60))
    with pytest.raises(ThreadWaitingError):
        run.invoke(flow, None, config)
    clock.now += 60
    run.invoke(flow, None, config)
    assert thread(flow, config).status == "waiting"
    signal(run, flow, config, "x", "go")
    assert run.invoke(flow, None, config) == [2, "go", 4]
    assert calls == [1, 2]
    flow.close()


def test_waiting_in_a_task(quick: Runner, clock: Clock) -> None:
    """A call that waits has no result yet: it is made again when the time has come."""
    calls: list[str] = []

    @task
    def slow(name: str) -> str:
        from durable_graph import get_runtime

        calls.append(name)
        get_runtime().sleep(60)
        return name

    @entrypoint(quick.url)  # type: ignore[arg-type]
    def flow(names: list[str]) -> list[str]:
        return [slow(name).result() for name in names]

    config = new_thread()
    quick.invoke(flow, ["a", "b"], config)
    for _ in range(2):
        clock.now += 60
        result = quick.invoke(flow, None, config)
    assert result == ["a", "b"]
    assert calls == ["a", "a", "b", "b"]


def test_asignal_is_signal(sqlite_url: str) -> None:
    with Runner("sync", sqlite_url) as run:
        graph, config = of(run, waiter(Calls(), "x")), new_thread()
        run.invoke(graph, {"n": 1}, config)
        wait_for(lambda: graph.asignal(config, "x", 7))
        assert run.invoke(graph, None, config)["log"] == ["a got 7", "b"]
