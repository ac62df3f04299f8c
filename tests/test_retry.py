"""When a node fails: trying again, giving up, taking over, timing out, and what becomes of its siblings.

Nothing waits in real time: delays are taken from the effects, and asyncio tests that need a clock have a loop whose
clock jumps to the next timer.
"""

from __future__ import annotations

import asyncio
import gc
import operator
import selectors
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing, suppress
from datetime import timedelta
from typing import Annotated, Any, TypedDict

import pytest

from durable_graph import (
    END,
    START,
    CallError,
    Command,
    DrawingError,
    InvalidUpdateError,
    NodeError,
    NodeTimeoutError,
    RetryPolicy,
    StateGraph,
    StoreUnavailableError,
    TimeoutPolicy,
    drivers,
    get_runtime,
    interrupt,
    task,
)
from durable_graph.codec import Codec
from durable_graph.core import runtime
from durable_graph.core.effects import Job
from durable_graph.core.model import Task
from durable_graph.store import Row
from durable_graph.store.memory import MemoryStore
from tests.graphs import PATIENCE, WAYS, Calls, Runner, new_thread, nodes_of, until
from tests.simulator import Died
from tests.test_random_graphs import Mortal


class State(TypedDict, total=False):
    n: int
    log: Annotated[list[str], operator.add]


@pytest.fixture(params=WAYS)
def run(request: pytest.FixtureRequest) -> Iterator[Runner]:
    with Runner(request.param, MemoryStore()) as runner:  # type: ignore[arg-type]
        yield runner


@pytest.fixture(params=WAYS)
def stored(request: pytest.FixtureRequest, database_url: str) -> Iterator[Runner]:
    with Runner(request.param, database_url) as runner:
        yield runner


@pytest.fixture
def delays(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, bool]]:
    """What the drivers would have waited, with or without jitter. They do not."""
    seen: list[tuple[float, bool]] = []
    monkeypatch.setattr(drivers, "delay_of", lambda job: seen.append((job.delay, job.jitter)) or 0.0)
    return seen


def policy(**changes: Any) -> RetryPolicy:
    """At once, without jitter, for ValueErrors."""
    return RetryPolicy(**{"initial_interval": 0, "jitter": False, "retry_on": ValueError, **changes})


def one(run: Runner, node: Callable[..., Any], **options: Any) -> Any:
    return run.compile(StateGraph(State).add_node("a", run.node(node), **options).add_edge(START, "a"))


def rows(graph: Any, config: dict[str, Any]) -> list[tuple[Row, dict[str, Any]]]:
    codec: Codec = graph._codec
    return [(row, codec.decode(row.body)) for row in graph._store.rows(config["configurable"]["thread_id"])]


class Flaky:
    """A node that fails so many times, with these errors in turn; knows its attempts and keys."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.attempts: list[int] = []
        self.keys: list[str] = []

    def node(self, state: Any, runtime: Any) -> dict[str, Any]:
        self.attempts.append(runtime.attempt)
        self.keys.append(runtime.idempotency_key)
        if self.errors:
            raise self.errors.pop(0)
        return {"log": [f"attempt {runtime.attempt}"]}


class Mine(Exception):
    pass


# --- trying again -----------------------------------------------------------------------------


def test_it_is_tried_again_within_the_run(stored: Runner) -> None:
    run, flaky = stored, Flaky(ValueError("one"), ValueError("two"))
    graph, config = one(run, flaky.node, retry_policy=policy()), new_thread()
    events = run.stream(graph, {}, config, stream_mode="events")
    assert [(event.kind, event.node) for event in events] == [("input", None), ("task", "a")]
    assert events[-1].metadata["attempt"] == 3
    assert events[-1].update == {"log": ["attempt 3"]}
    assert flaky.attempts == [1, 2, 3]
    assert len({*flaky.keys}) == 1


def test_the_attempts_are_recorded(stored: Runner) -> None:
    run, flaky = stored, Flaky(ValueError("one"), Mine("two"))
    graph = one(run, flaky.node, retry_policy=policy(retry_on=(ValueError, Mine)))
    config = new_thread()
    run.invoke(graph, {}, config)
    _, body = rows(graph, config)[-1]
    first, second = body["failures"]
    assert (first["type"], first["message"]) == ("builtins.ValueError", "one")
    assert (second["type"], second["message"]) == (f"{__name__}.Mine", "two")
    assert "raise self.errors.pop(0)" in first["traceback"]
    assert first["started"] <= first["finished"] <= second["started"] <= second["finished"] <= body["started"]
    assert body["attempt"] == 3


def test_giving_up(stored: Runner) -> None:
    """The last error is raised and recorded, the ones before it with it; continuing has all attempts again."""
    run, flaky = stored, Flaky(*[ValueError(f"number {number}") for number in range(1, 6)])
    graph, config = one(run, flaky.node, retry_policy=policy(max_attempts=3)), new_thread()
    with pytest.raises(ValueError, match="number 3") as caught:
        run.stream(graph, {}, config)
    assert "in node 'a'" in caught.value.__notes__[0]
    row, body = rows(graph, config)[-1]
    assert (row.kind, body["attempt"], body["error"]["message"]) == ("error", 3, "number 3")
    assert [failure["message"] for failure in body["failures"]] == ["number 1", "number 2"]
    state = run.get_state(graph, config)
    assert state.next == ("a",)
    assert "number 3" in state.tasks[0].error
    assert run.invoke(graph, None, config)["log"] == ["attempt 6"]
    assert flaky.attempts == [1, 2, 3, 4, 5, 6]
    assert len({*flaky.keys}) == 1


def test_one_attempt_is_no_retry(run: Runner) -> None:
    flaky = Flaky(ValueError("one"))
    graph = one(run, flaky.node, retry_policy=policy(max_attempts=1))
    with pytest.raises(ValueError, match="one"):
        run.invoke(graph, {}, new_thread())


ERRORS = [ValueError("v"), KeyError("k"), Mine("m"), ConnectionError("c"), ZeroDivisionError("z")]


@pytest.mark.parametrize(
    ("retry_on", "expected"),
    [
        (ValueError, ["ValueError"]),
        (LookupError, ["KeyError"]),
        (Exception, [type(error).__name__ for error in ERRORS]),
        ((Mine, KeyError), ["KeyError", "Mine"]),
        ([Mine], ["Mine"]),
        ((), []),
        (lambda error: "m" in str(error), ["Mine"]),
    ],
)
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_which_errors(retry_on: Any, expected: list[str], error: Exception) -> None:
    assert policy(retry_on=retry_on).matches(error) == (type(error).__name__ in expected)
    with Runner("sync", MemoryStore()) as run:  # type: ignore[arg-type]
        flaky = Flaky(error)
        graph, config = one(run, flaky.node, retry_policy=policy(retry_on=retry_on)), new_thread()
        with suppress(type(error)):
            run.invoke(graph, {}, config)
    assert len(flaky.attempts) == (2 if type(error).__name__ in expected else 1)


class Response(Exception):
    """As httpx and requests raise it."""

    def __init__(self, status: int) -> None:
        self.response = type("Answer", (), {"status_code": status})()


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (ConnectionError(), True),
        (ConnectionResetError(), True),
        (Mine(), True),
        (Exception(), True),
        (Response(500), True),
        (Response(503), True),
        (Response(404), False),
        (Response(429), False),
        (ValueError(), False),
        (TypeError(), False),
        (KeyError(), False),
        (ZeroDivisionError(), False),
        (RuntimeError(), False),
        (OSError(), False),
        (TimeoutError(), False),
        (FileNotFoundError(), False),
        (ImportError(), False),
        (NameError(), False),
        (StopIteration(), False),
    ],
    ids=lambda value: repr(value),
)
def test_which_errors_by_default(error: Exception, again: bool) -> None:
    """As LangGraph's default_retry_on decides."""
    assert RetryPolicy().matches(error) is again


def test_the_first_policy_that_matches_counts(run: Runner) -> None:
    flaky = Flaky(ValueError("v1"), Mine("m"), ValueError("v2"), ValueError("v3"))
    policies = [policy(max_attempts=3), policy(max_attempts=9, retry_on=(Mine, ValueError))]
    graph, config = one(run, flaky.node, retry_policy=policies), new_thread()
    with pytest.raises(ValueError, match="v2"):
        run.invoke(graph, {}, config)
    assert flaky.attempts == [1, 2, 3], "all failures of the run count, whichever policy they fell to"


def test_a_policy_that_raises_is_not_lost(run: Runner) -> None:
    """retry_on is code of the user's too."""

    def decide(error: Exception) -> bool:
        raise Mine("cannot decide")

    flaky = Flaky(ValueError("one"))
    graph, config = one(run, flaky.node, retry_policy=policy(retry_on=decide)), new_thread()
    with pytest.raises(Mine, match="cannot decide"):
        run.invoke(graph, {}, config)
    assert run.invoke(one(run, flaky.node), None, config)["log"] == ["attempt 2"], "the thread is not poisoned"


# --- what is not tried again ------------------------------------------------------------------


def test_a_question_is_no_failure(run: Runner) -> None:
    calls = Calls()

    def node(state: Any) -> Any:
        calls.append("a")
        return {"log": [interrupt("q?")]}

    graph, config = one(run, node, retry_policy=policy(retry_on=Exception)), new_thread()
    assert run.invoke(graph, {}, config)["__interrupt__"]
    assert calls == ["a"]
    assert run.invoke(graph, Command(resume="yes"), config)["log"] == ["yes"]


def test_an_answer_stays_over_retries(run: Runner) -> None:
    calls = Calls()

    def node(state: Any, runtime: Any) -> Any:
        calls.append(interrupt("q?"))
        if len(calls) < 3:
            raise ValueError("after the answer")
        return {"log": [calls[-1]]}

    graph, config = one(run, node, retry_policy=policy()), new_thread()
    run.invoke(graph, {}, config)
    assert run.invoke(graph, Command(resume="yes"), config)["log"] == ["yes"]
    assert calls == ["yes"] * 3


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_process_is_not_tried_again(error: type[BaseException]) -> None:
    with Runner("sync", MemoryStore()) as run:  # type: ignore[arg-type]
        flaky = Flaky(error())
        graph, config = one(run, flaky.node, retry_policy=policy(retry_on=lambda error: True)), new_thread()
        with pytest.raises(error):
            run.invoke(graph, {}, config)
        assert flaky.attempts == [1]
        assert run.invoke(graph, None, config)["log"] == ["attempt 2"]


def test_a_conflict_with_a_sibling_is_not_tried_again(run: Runner) -> None:
    calls = Calls()
    builder = StateGraph(State)
    for name in "ab":
        builder.add_node(name, run.node(calls.node(name, n=1)), retry_policy=policy(retry_on=Exception))
        builder.add_edge(START, name)
    with pytest.raises(InvalidUpdateError, match="written twice"):
        run.invoke(run.compile(builder), {}, new_thread())
    assert sorted(calls) == ["a", "b"]


def test_a_router_is_tried_again_with_its_node(run: Runner) -> None:
    calls, left = Calls(), [1]

    def route(state: Any) -> str:
        if left:
            left.pop()
            raise ValueError("router")
        return END

    builder = StateGraph(State).add_node("a", run.node(calls.node("a")), retry_policy=policy())
    builder.add_edge(START, "a").add_conditional_edges("a", run.node(route))
    assert run.invoke(run.compile(builder), {}, new_thread())["log"] == ["a"]
    assert calls == ["a", "a"]


# --- delays -----------------------------------------------------------------------------------


def test_intervals_grow_up_to_a_limit(run: Runner, delays: list[tuple[float, bool]]) -> None:
    flaky = Flaky(*[ValueError()] * 4)
    growing = policy(initial_interval=1, backoff_factor=3, max_interval=5, max_attempts=5)
    run.invoke(one(run, flaky.node, retry_policy=growing), {}, new_thread())
    assert delays == [(1, False), (3, False), (5, False), (5, False)]


def test_the_default_intervals(run: Runner, delays: list[tuple[float, bool]]) -> None:
    flaky = Flaky(*[ConnectionError()] * 2)
    run.invoke(one(run, flaky.node, retry_policy=RetryPolicy()), {}, new_thread())
    assert delays == [(0.5, True), (1.0, True)]


def test_jitter_is_up_to_a_second_more(monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(Task("0.0", "a", ()), 2)
    job.delay = 3.0
    monkeypatch.setattr(drivers.random, "random", lambda: 0.25)
    assert drivers.delay_of(job) == 3.0
    job.jitter = True
    assert drivers.delay_of(job) == 3.25


def test_a_sync_call_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(drivers, "pause", pauses.append)
    monkeypatch.setattr(runtime, "calls_are_possible", False)  # else a @task of another test sends it to a thread
    with Runner("sync", MemoryStore()) as run:  # type: ignore[arg-type]
        flaky = Flaky(ValueError(), ValueError())
        run.invoke(one(run, flaky.node, retry_policy=policy(initial_interval=7)), {}, new_thread())
    assert pauses == [7, 14]


def test_siblings_are_shown_while_one_waits_to_be_tried_again(run: Runner, delays: list[tuple[float, bool]]) -> None:
    """The rows of those that finish are not held up by one that fails."""
    ready = threading.Event()
    flaky = Flaky(ValueError())
    builder = StateGraph(State)
    again = run.waiting(ready, lambda state, runtime: flaky.node(state, runtime))

    def first_fails(state: Any, runtime: Any) -> Any:
        return flaky.node(state, runtime) if not flaky.attempts else again(state, runtime)

    async def afirst_fails(state: Any, runtime: Any) -> Any:
        return flaky.node(state, runtime) if not flaky.attempts else await again(state, runtime)

    builder.add_node("a", afirst_fails if run.way == "async" else first_fails, retry_policy=policy(initial_interval=9))
    builder.add_node("b", run.node(lambda state: {"log": ["b"]})).add_edge(START, "a").add_edge(START, "b")
    graph, config = run.compile(builder), new_thread()
    events = run.watch(lambda event: ready.set(), graph, {}, config)
    assert nodes_of(events) == ["b", "a"]
    assert run.get_state(graph, config).values["log"] == ["attempt 2", "b"]
    assert delays == [(9, False)]


# --- what the consumer sees of attempts -------------------------------------------------------


def test_custom_events_of_all_attempts_are_kept(stored: Runner) -> None:
    run, left = stored, [2, 1]

    def node(state: Any, runtime: Any) -> Any:
        runtime.stream_writer(f"attempt {runtime.attempt}")
        if left:
            raise ValueError(left.pop())
        return {"log": ["done"]}

    graph, config = one(run, node, retry_policy=policy()), new_thread()
    modes = ["custom", "updates", "tasks", "debug"]
    events = run.stream(graph, {}, config, stream_mode=modes)
    assert [event for mode, event in events if mode == "custom"] == ["attempt 1", "attempt 2", "attempt 3"]
    assert run.replay(graph, config, stream_mode=modes) == events


# --- attempts and keys over crashes -----------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_attempts_and_keys_over_crashes(way: str) -> None:
    """A task that may have run before knows it; its key is the same as then. One with a row is not run."""
    for die_at in range(12):
        store, seen = MemoryStore(), []

        def node(name: str, seen: list[Any] = seen) -> Callable[..., Any]:
            def call(state: Any, runtime: Any) -> Any:
                seen.append((name, runtime.attempt, runtime.idempotency_key))
                return {"log": [name]}

            return call

        def draw(run: Runner, node: Any = node) -> Any:
            builder = StateGraph(State)
            for name in "abc":
                builder.add_node(name, run.node(node(name)))
            return builder.add_edge(START, "a").add_edge("a", "b").add_edge("a", "c")

        mortal = Mortal(store, die_at, True)  # type: ignore[arg-type]
        doomed, run = Runner(way, mortal), Runner(way, store)  # type: ignore[arg-type]
        config = {"configurable": {"thread_id": "t"}}
        with suppress(Died):
            doomed.invoke(doomed.compile(draw(doomed)), {}, config)
        before = [*seen]
        graph = run.compile(draw(run))
        state = run.get_state(graph, config)
        if not state.metadata or state.next:
            run.invoke(graph, None if state.metadata else {}, config)
        for name in "abc":
            mine = [(attempt, key) for its, attempt, key in seen if its == name]
            assert [attempt for attempt, _ in mine] in ([1], [2], [1, 2]), (die_at, mine)
            assert len({key for _, key in mine}) == 1
            if [name for its, *_ in before if its == name] and len(mine) > 1:
                assert mine[-1][0] == 2, "it ran before and was not told so"
        assert len({key for _, _, key in seen}) == 3
        if not mortal.dead:
            return
    raise AssertionError("the run has more writes than expected")


def test_keys_of_the_rounds_of_a_loop_differ(run: Runner) -> None:
    keys: list[str] = []

    def node(state: Any, runtime: Any) -> Any:
        keys.append(runtime.idempotency_key)
        return {"n": state["n"] + 1}

    builder = StateGraph(State).add_node("a", run.node(node)).add_edge(START, "a")
    graph = run.compile(builder.add_conditional_edges("a", lambda state: "a" if state["n"] < 3 else END))
    config = new_thread()
    for _ in range(2):
        run.invoke(graph, {"n": 0}, config)
    assert len({*keys}) == 6


@pytest.mark.parametrize("way", WAYS)
def test_an_attempt_is_counted_when_the_next_one_is_taken_back(way: str) -> None:
    """`a` fails twice and waits to be tried again when its sibling fails for good. The next run's attempt is the
    third, and what failed before is in a row."""
    run = Runner(way, MemoryStore())  # type: ignore[arg-type]
    twice, flaky, seen = threading.Event(), Flaky(Mine("1"), Mine("2")), Calls()
    # the second delay is longer than any test may take: only being taken back ends it
    slow = RetryPolicy(1e-9, 1e12, 1000.0, 9, False, Mine)

    def a(state: Any, runtime: Any) -> Any:
        try:
            return flaky.node(state, runtime)
        finally:
            if len(flaky.attempts) == 2:
                twice.set()

    def fail(state: Any) -> Any:
        seen.append("b")
        if len(seen) == 1:
            raise ValueError("for good")

    with run:
        builder = StateGraph(State).add_node("a", run.node(a), retry_policy=slow)
        builder.add_node("b", run.waiting(twice, fail)).add_edge(START, "a").add_edge(START, "b")
        graph, config = run.compile(builder), new_thread()
        with pytest.raises(ValueError, match="for good"):
            run.invoke(graph, {}, config)
        run.invoke(graph, None, config)
        assert flaky.attempts == [1, 2, 3]


# --- siblings ---------------------------------------------------------------------------------


def test_a_failure_keeps_what_has_not_begun_from_beginning(run: Runner) -> None:
    """With one place there is one after the other: the one after the failure does not run, and runs later."""
    calls = Calls()
    builder = StateGraph(State)
    for name, node in (("a", calls.node("a")), ("b", calls.failing("b")), ("c", calls.node("c"))):
        builder.add_node(name, run.node(node)).add_edge(START, name)
    graph = run.compile(builder)
    config = {**new_thread(), "max_concurrency": 1}
    with pytest.raises(ValueError, match="b failed"):
        run.invoke(graph, {}, config)
    began = [*calls]
    assert began[:2] == ["a", "b"]
    run.invoke(graph, None, config)
    assert sorted(calls) == sorted(["a", "b", "b", "c"])


def test_what_has_begun_is_waited_for_and_kept(stored: Runner) -> None:
    run, calls, failed = stored, Calls(), threading.Event()

    def fail(state: Any) -> Any:
        failed.set()
        raise ValueError("fails")

    begun = threading.Event()
    builder = StateGraph(State)
    builder.add_node("a", run.waiting(begun, fail))
    builder.add_node("b", run.waiting(failed, calls.node("b"), before=lambda *_: begun.set()))
    graph, config = run.compile(builder.add_edge(START, "a").add_edge(START, "b")), new_thread()
    with pytest.raises(ValueError, match="fails"):
        run.stream(graph, {}, config)
    tasks = {one.name: one for one in run.get_state(graph, config).tasks}
    assert tasks["b"].result == {"log": ["b"]}
    assert "fails" in tasks["a"].error
    assert calls == ["b"]


def test_two_failures_are_both_told(run: Runner) -> None:
    gate = threading.Barrier(2, timeout=PATIENCE)
    met = threading.Event()
    builder = StateGraph(State)

    def fail(name: str) -> Callable[[Any], Any]:
        def node(state: Any) -> Any:
            if run.way != "async":
                gate.wait()
            raise ValueError(f"{name} fails")

        return node

    met.set()
    for name in "ab":
        builder.add_node(name, run.waiting(met, fail(name))).add_edge(START, name)
    graph, config = run.compile(builder), new_thread()
    with pytest.raises(ValueError, match="fails") as caught:
        run.invoke(graph, {}, config)
    errors = [row.node for row, _ in rows(graph, config) if row.kind == "error"]
    notes = " ".join(caught.value.__notes__)
    assert sorted(errors) == ["a", "b"] or run.way == "async"
    assert ("another task of the superstep failed too" in notes) == (len(errors) == 2)


# --- asyncio: cancelled tasks and timeouts ----------------------------------------------------


class JumpingLoop(asyncio.SelectorEventLoop):
    """A loop whose clock stands still while anything is done, and jumps to the next timer when there is nothing to do.
    It looks around for threads first, for a moment."""

    def __init__(self) -> None:
        super().__init__(_Jumping(self))
        self.now = 0.0

    def time(self) -> float:
        return self.now


class _Jumping(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    def __init__(self, loop: JumpingLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        found = super().select(min(timeout, 0.02))
        if not found:
            self._loop.now += timeout
        return found


def in_jumping_loop(main: Callable[[], Coroutine[Any, Any, Any]]) -> tuple[Any, float]:
    """What `main` returns, and the seconds it thinks it took."""
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(main()), runner.get_loop().time()


def timed(node: Callable[..., Any], **options: Any) -> Any:
    builder = StateGraph(State).add_node("a", node, **options).add_edge(START, "a")
    return builder.compile(MemoryStore())


def test_retries_wait_in_the_loop() -> None:
    flaky = Flaky(ValueError(), ValueError())

    async def node(state: Any, runtime: Any) -> Any:
        return flaky.node(state, runtime)

    graph = timed(node, retry_policy=policy(initial_interval=100))
    result, took = in_jumping_loop(lambda: graph.ainvoke({}, new_thread()))
    assert result["log"] == ["attempt 3"]
    assert 228 <= took < 229  # 100 and the default limit of an interval; the engine itself may sleep for moments


@pytest.mark.parametrize("limit", [30, timedelta(seconds=30), TimeoutPolicy(run_timeout=30)], ids=str)
def test_a_node_that_takes_too_long(limit: Any) -> None:
    cancelled: list[str] = []

    async def node(state: Any) -> Any:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            cancelled.append("a")
            raise

    graph, config = timed(node, timeout=limit), new_thread()

    async def main() -> None:
        with pytest.raises(NodeTimeoutError, match=r"'a' took more than its run_timeout of 30"):
            await graph.ainvoke({}, config)

    _, took = in_jumping_loop(main)
    assert cancelled == ["a"]
    assert 30 <= took < 30 + 1
    row, body = rows(graph, config)[-1]
    assert (row.kind, body["error"]["type"]) == ("error", "durable_graph.errors.NodeTimeoutError")


def test_a_node_in_time() -> None:
    async def node(state: Any) -> Any:
        await asyncio.sleep(29)
        return {"log": ["in time"]}

    graph = timed(node, timeout=30)
    result, _ = in_jumping_loop(lambda: graph.ainvoke({}, new_thread()))
    assert result["log"] == ["in time"]


def quiet_for(seconds: float, sign: Callable[[Any], None], times: int = 5) -> Callable[..., Any]:
    async def node(state: Any, runtime: Any) -> Any:
        for _ in range(times):
            await asyncio.sleep(seconds)
            sign(runtime)
        return {"log": ["done"]}

    return node


SIGNS = {
    "heartbeat": lambda runtime: runtime.heartbeat(),
    "custom event": lambda runtime: runtime.stream_writer("here"),
}


@pytest.mark.parametrize("sign", SIGNS)
def test_a_sign_of_life_holds_an_idle_timeout_off(sign: str) -> None:
    graph = timed(quiet_for(20, SIGNS[sign]), timeout=TimeoutPolicy(idle_timeout=30))
    result, took = in_jumping_loop(lambda: graph.ainvoke({}, new_thread()))
    assert result["log"] == ["done"]
    assert 100 <= took < 100 + 1


@pytest.mark.parametrize("sign", SIGNS)
def test_no_sign_holds_a_run_timeout_off(sign: str) -> None:
    graph = timed(quiet_for(20, SIGNS[sign]), timeout=TimeoutPolicy(idle_timeout=30, run_timeout=70))

    async def main() -> None:
        with pytest.raises(NodeTimeoutError, match="run_timeout of 70"):
            await graph.ainvoke({}, new_thread())

    _, took = in_jumping_loop(main)
    assert 70 <= took < 70 + 1


def test_a_node_without_a_sign_of_life() -> None:
    graph = timed(quiet_for(20, lambda runtime: None), timeout=TimeoutPolicy(idle_timeout=30))

    async def main() -> None:
        with pytest.raises(NodeTimeoutError, match="idle_timeout of 30"):
            await graph.ainvoke({}, new_thread())

    _, took = in_jumping_loop(main)
    assert 30 <= took < 30 + 1


def test_each_attempt_has_the_whole_time() -> None:
    waits = [100, 100, 20]

    async def node(state: Any, runtime: Any) -> Any:
        await asyncio.sleep(waits[runtime.attempt - 1])
        return {"log": [f"attempt {runtime.attempt}"]}

    graph = timed(node, timeout=30, retry_policy=policy(retry_on=NodeTimeoutError))
    result, took = in_jumping_loop(lambda: graph.ainvoke({}, new_thread()))
    assert result["log"] == ["attempt 3"]
    assert 80 <= took < 80 + 1


def test_a_timeout_of_the_nodes_own_stays_what_it_is() -> None:
    async def node(state: Any) -> Any:
        async with asyncio.timeout(5):
            await asyncio.sleep(100)

    graph = timed(node, timeout=30)

    async def main() -> None:
        with pytest.raises(TimeoutError) as caught:
            await graph.ainvoke({}, new_thread())
        assert not isinstance(caught.value, NodeTimeoutError)

    in_jumping_loop(main)


def test_a_timeout_beside_siblings() -> None:
    """Only the slow one ends; the others are recorded."""

    def sleeping(name: str, seconds: float) -> Callable[[Any], Coroutine[Any, Any, Any]]:
        async def node(state: Any) -> Any:
            await asyncio.sleep(seconds)
            return {"log": [name]}

        return node

    builder = StateGraph(State)
    builder.add_node("slow", sleeping("slow", 1000), timeout=50).add_node("late", sleeping("late", 90))
    builder.add_node("quick", sleeping("quick", 10), timeout=50)
    for name in ("slow", "late", "quick"):
        builder.add_edge(START, name)
    graph, config = builder.compile(MemoryStore()), new_thread()

    async def main() -> None:
        with pytest.raises(NodeTimeoutError, match="'slow'"):
            await graph.ainvoke({}, config)

    in_jumping_loop(main)
    results = {one.name: one.result for one in graph.get_state(config).tasks}
    assert results == {"slow": None, "late": {"log": ["late"]}, "quick": {"log": ["quick"]}}


@pytest.mark.parametrize("limit", [0, -1, timedelta(0), TimeoutPolicy(idle_timeout=0)], ids=str)
def test_a_timeout_that_is_none(limit: Any) -> None:
    async def node(state: Any) -> Any:
        return None

    with pytest.raises(DrawingError, match="not positive"):
        StateGraph(State).add_node("a", node, timeout=limit)


def test_a_plain_function_cannot_be_timed_out() -> None:
    with pytest.raises(DrawingError, match=r"'a' has a timeout but is no async function"):
        StateGraph(State).add_node("a", lambda state: None, timeout=1)


def test_a_cancelled_consumer_leaves_a_thread_that_goes_on(database_url: str) -> None:
    """The node at hand is cancelled; the thread is free at once, and continues."""
    seen: list[str] = []

    async def b(state: Any, runtime: Any) -> Any:
        seen.append(f"b {runtime.attempt}")
        if runtime.attempt == 1:
            begun.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                seen.append("cancelled")
                raise
        return {"log": ["b"]}

    begun = threading.Event()
    with Runner("async", database_url) as run:
        builder = StateGraph(State).add_node("a", run.node(lambda state: {"log": ["a"]})).add_node("b", b)
        graph, config = run.compile(builder.add_edge(START, "a").add_edge("a", "b")), new_thread()

        async def main() -> None:
            consumer = asyncio.create_task(graph.ainvoke({}, config))
            await until(begun)
            consumer.cancel()
            with pytest.raises(asyncio.CancelledError):
                await consumer
            assert graph.threads()[0].lease_owner is None
            assert (await graph.ainvoke(None, config))["log"] == ["a", "b"]

        asyncio.run(main())
    assert seen == ["b 1", "cancelled", "b 2"]


@pytest.mark.parametrize("at", ["node", "router"])
def test_a_consumer_is_cancelled_while_a_plain_function_runs(at: str, database_url: str) -> None:
    """It cannot be stopped, so what it comes to is not lost: the row is there, and nobody calls the node again."""
    called, begun, go = list[str](), threading.Event(), threading.Event()

    def wait(where: str) -> None:
        called.append(where)
        if where == at:
            begun.set()
            assert go.wait(PATIENCE)

    def node(state: State) -> State:
        wait("node")
        return {"log": ["a"]}

    async def anode(state: State) -> State:
        return node(state)

    def router(state: State) -> str:
        wait("router")
        return "b"

    async def main(graph: Any, config: Any) -> None:
        consumer = asyncio.create_task(graph.ainvoke({}, config))
        await until(begun)
        consumer.cancel()
        await asyncio.sleep(0)
        assert not consumer.done()
        go.set()
        await asyncio.wait([consumer])
        assert consumer.cancelled()
        assert (await graph.aget_state(config)).next == ("b",)
        assert (await graph.ainvoke(None, config))["log"] == ["a", "b"]
        assert called == ["node", "router"]

    builder = StateGraph(State).add_node("a", node if at == "node" else anode)
    builder.add_node("b", lambda state: {"log": ["b"]}).add_edge(START, "a").add_conditional_edges("a", router)
    with closing(builder.compile(database_url)) as graph:
        asyncio.run(main(graph, new_thread()))
        assert graph.verify({"thread_id": graph.threads()[0].thread_id}).ok


def test_what_a_plain_function_returns_is_awaited_and_more_plain_functions_follow(database_url: str) -> None:
    """To and fro between the loop and the thread within one task; each finds the task's runtime, and only there."""
    seen: list[tuple[str, str, bool]] = []

    def note(what: str) -> None:
        in_loop = threading.current_thread() is threading.main_thread()
        seen.append((what, get_runtime().node, in_loop))

    async def later(what: str, answer: Any) -> Any:
        note(what)
        await asyncio.sleep(0)
        return answer

    def node(state: State) -> Any:
        note("node")
        return later("what the node returned", {"log": ["a"]})

    async def asks(state: State) -> str:
        return await later("async router", "b")

    def answers(state: State) -> Any:
        note("router")
        return later("what the router returned", "c")

    async def main(graph: Any) -> None:
        async for _ in graph.astream({}, new_thread()):
            with pytest.raises(CallError, match="no running node"):
                get_runtime()

    builder = StateGraph(State).add_node("a", node)
    for name in "bc":
        builder.add_node(name, lambda state: None)
    builder.add_edge(START, "a").add_conditional_edges("a", asks).add_conditional_edges("a", answers)
    with closing(builder.compile(database_url)) as graph:
        asyncio.run(main(graph))
        (thread,) = graph.threads()
        assert sorted(each.node for each in graph.timeline({"thread_id": thread.thread_id}) if each.node) == [
            "a",
            "b",
            "c",
        ]
    assert seen == [
        ("node", "a", False),
        ("what the node returned", "a", True),
        ("async router", "a", True),
        ("router", "a", False),
        ("what the router returned", "a", True),
    ]


def test_a_consumer_is_cancelled_while_a_retry_waits() -> None:
    """Nothing is waited for: the delay is longer than the test may take."""
    flaky, failed = Flaky(ValueError()), threading.Event()

    async def node(state: Any, runtime: Any) -> Any:
        failed.set()
        return flaky.node(state, runtime)

    graph = timed(node, retry_policy=policy(initial_interval=1000, max_interval=1000))
    config = new_thread()

    async def main() -> None:
        consumer = asyncio.create_task(graph.ainvoke({}, config))
        await until(failed)
        for _ in range(5):
            await asyncio.sleep(0)
        consumer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await consumer
        assert graph.threads()[0].lease_owner is None
        assert (await graph.ainvoke(None, config))["log"] == ["attempt 2"]

    asyncio.run(main())
    assert flaky.attempts == [1, 2]


def test_a_cancelled_consumer_of_parallel_nodes() -> None:
    """Each sees the cancellation; one that ends well all the same is recorded."""
    begun, seen = [threading.Event() for _ in range(2)], []

    def waits(name: str, place: int) -> Callable[..., Any]:
        async def node(state: Any, runtime: Any) -> Any:
            begun[place].set()
            if runtime.attempt > 1:
                return {"log": [f"{name} again"]}
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                seen.append(name)
                if name == "b":
                    return {"log": ["b in spite of it"]}
                raise

        return node

    builder = StateGraph(State).add_node("a", waits("a", 0)).add_node("b", waits("b", 1))
    graph = builder.add_edge(START, "a").add_edge(START, "b").compile(MemoryStore())
    config = new_thread()

    async def main() -> None:
        consumer = asyncio.create_task(graph.ainvoke({}, config))
        for event in begun:
            await until(event)
        consumer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await consumer
        assert (await graph.ainvoke(None, config))["log"] == ["a again", "b in spite of it"]

    asyncio.run(main())
    assert sorted(seen) == ["a", "b"]


def test_an_error_of_the_store_while_the_consumer_is_cancelled() -> None:
    """Both at once: the cancellation is raised, and nothing is printed behind the application's back."""
    begun, go = threading.Event(), threading.Event()

    class Failing(MemoryStore):
        def append(self, given: Any, **options: Any) -> None:
            if given[0].kind == "task":
                begun.set()
                assert go.wait(PATIENCE)
                raise StoreUnavailableError(store="memory", problem="it is gone", fix="Wait.")
            super().append(given, **options)

    async def node(state: Any) -> Any:
        return {"log": ["a"]}

    graph = StateGraph(State).add_node("a", node).add_edge(START, "a").compile(Failing())
    complaints: list[Any] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context["message"]))
        consumer = asyncio.create_task(graph.ainvoke({}, new_thread()))
        await until(begun)
        consumer.cancel()
        await asyncio.sleep(0)
        go.set()
        await asyncio.wait([consumer])
        assert consumer.cancelled()
        del consumer  # and with it the frames that know of the store's error
        gc.collect()

    asyncio.run(main())
    assert complaints == []


# --- error handlers ---------------------------------------------------------------------------


def handled(run: Runner, node: Any, handler: Any, *after: str, **options: Any) -> Any:
    calls = Calls()
    builder = StateGraph(State).add_node("a", run.node(node), error_handler=run.node(handler), **options)
    builder.add_edge(START, "a")
    for name in after:
        builder.add_node(name, run.node(calls.node(name)))
    return builder


def fails(state: Any) -> Any:
    raise ValueError("failed")


def test_a_handler_takes_over(stored: Runner) -> None:
    run, seen = stored, []

    def handler(state: Any, error: NodeError) -> Any:
        seen.append((dict(state), error.node, type(error.error), str(error.error)))
        return {"log": ["handled"]}

    builder = handled(run, fails, handler, "z").add_edge("a", "z")
    graph, config = run.compile(builder), new_thread()
    events = run.stream(graph, {"n": 1}, config)
    # LangGraph does the same: what a handler returns counts, and the edges of the failed node are not followed
    assert events == [{"__error_handler__a": {"log": ["handled"]}}]
    assert seen == [({"n": 1, "log": []}, "a", ValueError, "failed")]
    assert run.get_state(graph, config).next == ()
    row, body = rows(graph, config)[-1]
    assert (row.kind, row.node) == ("task", "__error_handler__a")
    assert [failure["message"] for failure in body["failures"]] == ["failed"]
    assert run.replay(graph, config) == events


def test_a_handler_says_where_to_go_on(run: Runner) -> None:
    builder = handled(run, fails, lambda state, error: Command(goto="z", update={"log": [error.node]}), "y", "z")
    graph = run.compile(builder.add_edge("a", "y"))
    assert run.invoke(graph, {}, new_thread())["log"] == ["a", "z"]


def test_a_handler_comes_after_the_retries(run: Runner) -> None:
    flaky = Flaky(*[ValueError(f"{number}") for number in range(1, 9)])
    builder = handled(run, flaky.node, lambda state, error: {"log": [str(error.error)]}, retry_policy=policy())
    graph, config = run.compile(builder), new_thread()
    assert run.invoke(graph, {}, config)["log"] == ["3"]
    assert flaky.attempts == [1, 2, 3]
    _, body = rows(graph, config)[-1]
    assert [failure["message"] for failure in body["failures"]] == ["1", "2", "3"]


def test_a_handler_that_is_not_needed(run: Runner) -> None:
    def never(state: Any, error: Any) -> Any:
        raise AssertionError("called for nothing")

    builder = handled(run, lambda state: {"log": ["fine"]}, never, "z").add_edge("a", "z")
    assert run.invoke(run.compile(builder), {}, new_thread())["log"] == ["fine", "z"]


def test_a_handler_that_fails(stored: Runner) -> None:
    """Then the thread has failed; continuing runs the node again, and the handler if need be."""
    run, left, calls = stored, [1], Calls()

    def node(state: Any) -> Any:
        calls.append("a")
        raise ValueError("failed")

    def handler(state: Any, error: Any) -> Any:
        calls.append("handler")
        if left:
            left.pop()
            raise Mine("the handler too")
        return {"log": ["handled"]}

    graph, config = run.compile(handled(run, node, handler)), new_thread()
    with pytest.raises(Mine, match="the handler too"):
        run.invoke(graph, {}, config)
    assert run.get_state(graph, config).next == ("a",)
    assert run.invoke(graph, None, config)["log"] == ["handled"]
    assert calls == ["a", "handler"] * 2


def test_a_handler_does_not_handle_questions(run: Runner) -> None:
    builder = handled(run, lambda state: {"log": [interrupt("q?")]}, lambda state, error: {"log": ["handled"]})
    graph, config = run.compile(builder), new_thread()
    assert run.invoke(graph, {}, config)["__interrupt__"][0].value == "q?"
    assert run.invoke(graph, Command(resume="yes"), config)["log"] == ["yes"]


def test_a_handler_that_asks(stored: Runner) -> None:
    run = stored
    builder = handled(run, fails, lambda state, error: {"log": [interrupt(f"{error.error}, what now?")]})
    graph, config = run.compile(builder), new_thread()
    (question,) = run.invoke(graph, {}, config)["__interrupt__"]
    assert question.value == "failed, what now?"
    assert run.invoke(graph, Command(resume="go on"), config)["log"] == ["go on"]
    assert run.call(graph, "verify", config).ok


def test_a_handler_beside_siblings_and_a_join(run: Runner) -> None:
    """The failed node has not finished, so a join with it waits; LangGraph does the same."""
    calls = Calls()
    builder = handled(run, fails, lambda state, error: {"log": ["handled"]}, "z")
    builder.add_node("b", run.node(calls.node("b"))).add_edge(START, "b").add_edge(["a", "b"], "z")
    graph, config = run.compile(builder), new_thread()
    assert run.invoke(graph, {}, config)["log"] == ["handled", "b"]


def test_a_handler_of_a_timeout() -> None:
    async def slow(state: Any) -> Any:
        await asyncio.sleep(1000)

    async def handler(state: Any, error: NodeError) -> Any:
        return {"log": [type(error.error).__name__]}

    graph = timed(slow, timeout=30, error_handler=handler)
    result, _ = in_jumping_loop(lambda: graph.ainvoke({}, new_thread()))
    assert result["log"] == ["NodeTimeoutError"]


def test_a_handler_of_a_subgraph(stored: Runner) -> None:
    run, calls = stored, Calls()
    sub = StateGraph(State).add_node("x", run.node(calls.node("x"))).add_node("y", run.node(fails))
    inner = sub.add_edge(START, "x").add_edge("x", "y").compile()
    builder = StateGraph(State).add_edge(START, "a")
    builder.add_node("a", inner, error_handler=run.node(lambda state, error: {"log": [f"{error.error}"]}))
    graph, config = run.compile(builder), new_thread()
    assert run.invoke(graph, {}, config)["log"] == ["failed"]
    assert calls == ["x"]


@pytest.mark.parametrize("way", WAYS)
def test_a_crash_around_a_handler(way: str) -> None:
    """The handler has run for good once its row is there, and not before."""
    for die_at in range(8):
        store, calls = MemoryStore(), Calls()

        def node(state: Any, calls: Calls = calls) -> Any:
            calls.append("a")
            raise ValueError("failed")

        mortal = Mortal(store, die_at, False)  # type: ignore[arg-type]
        doomed, run = Runner(way, mortal), Runner(way, store)  # type: ignore[arg-type]
        config = {"configurable": {"thread_id": "t"}}

        def handler(state: Any, error: Any, calls: Calls = calls) -> Any:
            calls.append("handler")
            return Command(update={"log": ["handled"]}, goto="z")

        with suppress(Died):
            doomed.invoke(doomed.compile(handled(doomed, node, handler, "z")), {}, config)
        graph = run.compile(handled(run, node, handler, "z"))
        if run.get_state(graph, config).next:
            run.invoke(graph, None, config)
        assert run.get_state(graph, config).values["log"] == ["handled", "z"]
        assert calls == ["a", "handler"], "each crash came after a row"
        if not mortal.dead:
            return
    raise AssertionError("the run has more writes than expected")


# A handler is another piece of code than its node: what was asked, called and answered there is not its own.


def test_a_handler_has_questions_of_its_own(run: Runner) -> None:
    def node(state: Any) -> Any:
        raise ValueError(interrupt("the node's"))

    builder = handled(run, node, lambda state, error: {"log": [interrupt("the handler's")]})
    graph, config = run.compile(builder), new_thread()
    assert run.invoke(graph, {}, config)["__interrupt__"][0].value == "the node's"
    state = run.invoke(graph, Command(resume="for the node"), config)
    assert state["__interrupt__"][0].value == "the handler's"
    assert run.invoke(graph, Command(resume="for the handler"), config)["log"] == ["for the handler"]


def test_a_handler_has_subgraphs_of_its_own() -> None:
    with Runner("sync", MemoryStore()) as run:  # type: ignore[arg-type]
        double = StateGraph(State).add_node("x", lambda state: {"n": state["n"] * 2}).add_edge(START, "x").compile()

        def node(state: Any) -> Any:
            double.invoke({"n": 1})
            raise ValueError("failed")

        builder = handled(run, node, lambda state, error: {"n": double.invoke({"n": 100})["n"]})
        assert run.invoke(run.compile(builder), {}, new_thread())["n"] == 200


def test_a_handler_has_calls_of_its_own() -> None:
    with Runner("sync", MemoryStore()) as run:  # type: ignore[arg-type]

        @task
        def double(n: int) -> int:
            return n * 2

        def node(state: Any) -> Any:
            double(1).result()
            raise ValueError("failed")

        builder = handled(run, node, lambda state, error: {"n": double(100).result()})
        assert run.invoke(run.compile(builder), {}, new_thread())["n"] == 200


def test_a_handler_has_a_key_of_its_own(run: Runner) -> None:
    keys: list[str] = []

    def node(state: Any, runtime: Any) -> Any:
        keys.append(runtime.idempotency_key)
        raise ValueError("failed")

    def handler(state: Any, error: Any, runtime: Any) -> Any:
        keys.append(runtime.idempotency_key)

    run.invoke(run.compile(handled(run, node, handler)), {}, new_thread())
    assert len({*keys}) == 2


def test_a_handler_that_is_tried_again_keeps_its_key(stored: Runner) -> None:
    """The same over its attempts, and not the node's."""
    keys: list[str] = []

    def node(state: Any, runtime: Any) -> Any:
        keys.append(runtime.idempotency_key)
        raise ValueError("node")

    def handler(state: Any, error: Any, runtime: Any) -> Any:
        keys.append(runtime.idempotency_key)
        if len(keys) < 4:
            raise ValueError("handler")

    builder = StateGraph(State).set_node_defaults(
        retry_policy=policy(max_attempts=2), error_handler=stored.node(handler)
    )
    stored.invoke(stored.compile(builder.add_node("a", stored.node(node)).add_edge(START, "a")), {}, new_thread())
    assert keys[0] == keys[1]
    assert keys[2] == keys[3] != keys[0]
