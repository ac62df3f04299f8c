"""@task and @entrypoint: what a node has called is on record and not called again, whatever becomes of the node; and a
workflow as one plain function.

Bodies are written once, as generators that yield the futures they wait for: `flow` makes a plain function of one, or
an async one. What LangGraph defines was read off LangGraph 1.2.22.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import weakref
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import CancelledError, Future
from typing import Any, TypedDict

import pytest

from durable_graph import (
    START,
    CallError,
    ChangedGraphError,
    Command,
    CompiledGraph,
    DrawingError,
    EmptyInputError,
    Log,
    NodeTimeoutError,
    RetryPolicy,
    Runtime,
    Send,
    StateGraph,
    UnknownInterruptError,
    UnstorableValueError,
    drivers,
    entrypoint,
    get_runtime,
    get_stream_writer,
    interrupt,
    task,
)
from durable_graph.store.memory import MemoryStore
from tests.conftest import finished
from tests.graphs import MODES, PATIENCE, WAYS, Calls, Runner, State, at, new_thread, until, wide

Body = Callable[..., Generator[Any, Any, Any]]


@pytest.fixture(params=WAYS)
def run(request: pytest.FixtureRequest, database_url: str) -> Iterator[Runner]:
    with Runner(request.param, database_url) as runner:
        yield runner


@pytest.fixture(params=WAYS)
def fast(request: pytest.FixtureRequest) -> Iterator[Runner]:
    """On the memory store."""
    with Runner(request.param, MemoryStore()) as runner:  # type: ignore[arg-type]
        yield runner


@pytest.fixture
def quick() -> Iterator[Runner]:
    with Runner("sync", MemoryStore()) as runner:  # type: ignore[arg-type]
        yield runner


def played(run: Runner, body: Body) -> Callable[..., Any]:
    """The body as this way wants its functions. It yields a future, or a list of them, to have the results."""
    if run.way == "async":

        async def acall(*args: Any) -> Any:
            steps, move, given = body(*args), "send", None
            while True:
                try:
                    wanted = getattr(steps, move)(given)
                except StopIteration as done:
                    return done.value
                try:
                    move, given = "send", [await f for f in wanted] if isinstance(wanted, list) else await wanted
                except BaseException as error:
                    move, given = "throw", error

        acall.__name__ = body.__name__
        return acall

    def call(*args: Any) -> Any:
        steps, move, given = body(*args), "send", None
        while True:
            try:
                wanted = getattr(steps, move)(given)
            except StopIteration as done:
                return done.value
            try:
                move, given = "send", [f.result() for f in wanted] if isinstance(wanted, list) else wanted.result()
            except BaseException as error:
                move, given = "throw", error

    call.__name__ = body.__name__
    return call


def flow(run: Runner, body: Body, **settings: Any) -> CompiledGraph[Any]:
    """The body as an entrypoint."""
    workflow = entrypoint(run.url, **settings)(played(run, body))  # type: ignore[arg-type]
    run._graphs.append(workflow)
    return workflow


def keeping(run: Runner, body: Callable[[Any, Any], Any]) -> CompiledGraph[Any]:
    """body(value, previous) as an entrypoint."""

    def call(value: Any, previous: Any) -> Any:
        return body(value, previous)

    async def acall(value: Any, previous: Any) -> Any:
        return body(value, previous)

    workflow = entrypoint(run.url)(acall if run.way == "async" else call)  # type: ignore[arg-type]
    run._graphs.append(workflow)
    return workflow


def work(run: Runner, calls: Calls, name: str, **settings: Any) -> Any:
    """A task that doubles its argument."""

    def call(value: Any) -> Any:
        calls.append(f"{name} {value}")
        return value * 2

    call.__name__ = name
    return task(run.node(call), **settings)


def failing(calls: Calls, times: int = 1) -> Callable[[], None]:
    left = iter(range(times))

    def fail() -> None:
        calls.append("fail")
        if next(left, None) is not None:
            raise KeyError("the node fails")

    return fail


def rows(run: Runner, graph: CompiledGraph[Any], config: dict[str, Any]) -> list[tuple[str, str | None]]:
    return [(event.kind, event.node) for event in run.replay(graph, config, stream_mode="events")]


def status(graph: CompiledGraph[Any], config: dict[str, Any]) -> str:
    (found,) = [t.status for t in graph.threads() if t.thread_id == config["configurable"]["thread_id"]]
    return found


# --- recorded, and never again ----------------------------------------------------------------


def test_calls_are_recorded_and_not_made_again(run: Runner) -> None:
    calls = Calls()
    double, fail = work(run, calls, "double"), failing(calls)

    def body(value: int) -> Any:
        one = yield double(value)
        fail()
        two = yield double(one)
        return [one, two]

    graph, config = flow(run, body), new_thread()
    with pytest.raises(KeyError):
        run.invoke(graph, 1, config)
    assert rows(run, graph, config) == [("input", None), ("task", "double"), ("error", "body")]
    assert run.invoke(graph, None, config) == [2, 4]
    assert calls == ["double 1", "fail", "fail", "double 2"]
    assert rows(run, graph, config)[3:] == [("resume", None), ("task", "double"), ("task", "body")]
    assert graph.verify(config).ok


def test_a_result_is_committed_before_the_node_has_it(run: Runner) -> None:
    """Another connection sees the row while the node goes on."""
    double, seen = work(run, Calls(), "double"), []
    other = Log(run.url)

    def body(value: int) -> Any:
        config = {"thread_id": get_runtime().thread_id}
        for _ in range(3):
            value = yield double(value)
            seen.append([event.update for event in other.replay(config, stream_mode="events")][-1])
        return value

    assert run.invoke(flow(run, body), 1, new_thread()) == 8
    assert seen == [2, 4, 8]
    other.close()


def test_calls_side_by_side(run: Runner) -> None:
    """Begun one after the other, waited for together: all run at once, results in the order of the calls."""
    meet = threading.Barrier(3)

    def slow(value: int) -> int:
        if run.way != "async":
            meet.wait(PATIENCE)  # would never come to an end one by one
        return value * 2

    double = task(run.node(slow))

    def body(value: int) -> Any:
        return (yield [double(value + k) for k in range(3)])

    graph, config = flow(run, body), new_thread()
    assert run.invoke(graph, 1, config) == [2, 4, 6]
    assert rows(run, graph, config) == [("input", None), *[("task", "slow")] * 3, ("task", "body")]


def test_calls_side_by_side_keep_their_places(run: Runner) -> None:
    """One fails, its siblings are recorded; the next time only it is called."""
    calls, fail = Calls(), failing(Calls())

    def part(value: int) -> int:
        calls.append(f"part {value}")
        if value == 2:
            fail()
        return value * 10

    call = task(run.node(part))

    def body(value: int) -> Any:
        begun = [call(k) for k in range(4)]
        return (yield [*begun[:2], *begun[3:], begun[2]])

    graph, config = flow(run, body), new_thread()
    with pytest.raises(KeyError):
        run.invoke(graph, 0, config)
    assert run.invoke(graph, None, config) == [0, 10, 30, 20]
    assert sorted(calls) == ["part 0", "part 1", "part 2", "part 2", "part 3"]


def test_hundreds_of_calls(run: Runner) -> None:
    calls = Calls()
    double = work(run, calls, "double")

    def body(value: int) -> Any:
        return (yield [double(k) for k in range(value)])

    assert run.invoke(flow(run, body), 200, new_thread()) == [k * 2 for k in range(200)]
    assert len(calls) == 200


def test_a_call_that_nobody_waits_for(run: Runner) -> None:
    """It is seen through and recorded all the same, before the node's own row."""
    calls = Calls()
    double = work(run, calls, "double")

    def body(value: int) -> Any:
        double(value)
        return "done"
        yield

    graph, config = flow(run, body), new_thread()
    assert run.stream(graph, 1, config) == [{"double": 2}, {"body": "done"}]
    assert rows(run, graph, config) == [("input", None), ("task", "double"), ("task", "body")]


def test_a_call_under_way_when_its_node_fails(run: Runner) -> None:
    calls = Calls()
    double, fail = work(run, calls, "double"), failing(calls)

    def body(value: int) -> Any:
        begun = double(value)
        fail()
        return (yield begun)

    graph, config = flow(run, body), new_thread()
    with pytest.raises(KeyError):
        run.invoke(graph, 1, config)
    assert run.invoke(graph, None, config) == 2
    assert calls.count("double 1") == 1


def test_results_are_copies(fast: Runner) -> None:
    """What the node does to a result is not in the row, and the next time it has the row's again."""
    made, fail, got = task(fast.node(lambda: {"items": [1]}), name="made"), failing(Calls()), []

    def body(value: int) -> Any:
        found = yield made()
        got.append(list(found["items"]))
        found["items"].append(2)
        fail()
        return found

    graph, config = flow(fast, body), new_thread()
    with pytest.raises(KeyError):
        fast.invoke(graph, 1, config)
    assert fast.invoke(graph, None, config) == {"items": [1, 2]}
    assert got == [[1], [1]]
    assert fast.replay(graph, config)[0] == {"made": {"items": [1]}}


@pytest.mark.parametrize("value", [None, False, 0, "", (), {"a": {1, 2}}, b"\x00", 10**40, float("inf")], ids=repr)
def test_any_result_comes_back_as_it_was(quick: Runner, value: Any) -> None:
    calls, got = Calls(), []

    @task
    def make() -> Any:
        calls.append("make")
        return value

    fail = failing(Calls())

    def body(_: Any) -> Any:
        got.append((yield make()))
        fail()

    graph, config = flow(quick, body), new_thread()
    with pytest.raises(KeyError):
        quick.invoke(graph, 1, config)
    quick.invoke(graph, None, config)
    assert got == [value, value]
    assert [type(one) for one in got] == [type(value)] * 2
    assert calls == ["make"]


def test_loops_and_branches_count_calls_in_order(fast: Runner) -> None:
    """Calls are told apart by their order, not by their name or arguments."""
    calls = Calls()
    double, triple, fail = work(fast, calls, "double"), work(fast, calls, "triple"), failing(calls, 2)

    def body(value: int) -> Any:
        for turn in range(3):
            value = yield (double if turn % 2 == 0 else triple)(value)
        fail()
        return value

    graph, config = flow(fast, body), new_thread()
    for _ in range(2):
        with pytest.raises(KeyError):
            fast.invoke(graph, 1 if not calls else None, config)
    assert fast.invoke(graph, None, config) == 8
    assert calls == ["double 1", "triple 2", "double 4", "fail", "fail", "fail"]


def test_keyword_arguments_methods_and_names(fast: Runner) -> None:
    class Thing:
        def method(self, a: int, *, b: int = 2) -> tuple[int, int]:
            return a, b

    named = task(fast.node(Thing().method), name="my name")

    def body(value: int) -> Any:
        first = yield named(value)
        return [first, (yield named(value, b=5))]

    graph, config = flow(fast, body), new_thread()
    assert fast.stream(graph, 1, config) == [{"my name": (1, 2)}, {"my name": (1, 5)}, {"body": [(1, 2), (1, 5)]}]
    assert (named.name, task(len).name) == ("my name", "len")


def test_tasks_called_from_graph_nodes(run: Runner) -> None:
    """In parallel nodes, each with numbers of its own; a node that has a row does not come back to its calls."""
    calls = Calls()
    double, fail = work(run, calls, "double"), failing(calls)
    meet = threading.Barrier(2)

    def node(name: str) -> Callable[..., Any]:
        def body(state: Any) -> Any:
            one = yield double(f"{name}1")
            two = yield double(f"{name}2")
            if name == "b":
                if run.way != "async" and calls.count("fail") == 0:
                    meet.wait(PATIENCE)
                fail()
            elif run.way != "async":
                meet.wait(PATIENCE)
            return {"log": [one + two]}

        body.__name__ = name
        return played(run, body)

    graph, config = run.compile(wide(run, calls, "ab", a=node("a"), b=node("b"))), new_thread()
    with pytest.raises(KeyError):
        run.invoke(graph, {"n": 1}, config)
    assert run.invoke(graph, None, config)["log"] == ["a1a1a2a2", "b1b1b2b2", "end"]
    assert sorted(calls) == ["double a1", "double a2", "double b1", "double b2", "end", "fail", "fail"]


def test_tasks_in_a_map(run: Runner) -> None:
    calls = Calls()
    double = work(run, calls, "double")

    def part(number: int) -> Any:
        return {"log": [(yield double(f"{number} "))]}

    builder = StateGraph(State).add_node("part", played(run, part))
    builder.add_conditional_edges(START, lambda state: [Send("part", k) for k in range(5)], ["part"])
    assert run.invoke(run.compile(builder), {"n": 1}, new_thread())["log"] == [f"{k} {k} " for k in range(5)]


def test_tasks_that_call_tasks(run: Runner) -> None:
    """Each finished call on every level is on record; a call that had not finished is made again, with what
    it had called before."""
    calls, fail = Calls(), failing(Calls())
    double = work(run, calls, "double")

    def outer(value: int) -> Any:
        calls.append(f"outer {value}")
        one = yield double(value)
        if value == 10:
            fail()
        return one + (yield double(value + 1))

    call = task(played(run, outer))

    def body(value: int) -> Any:
        first = yield call(value)
        return [first, (yield call(value * 10))]

    graph, config = flow(run, body), new_thread()
    with pytest.raises(KeyError):
        run.invoke(graph, 1, config)
    assert run.invoke(graph, None, config) == [6, 42]
    assert calls == ["outer 1", "double 1", "double 2", "outer 10", "double 10", "outer 10", "double 11"]


def test_tasks_without_a_database() -> None:
    for way in WAYS:
        with Runner(way, False) as run:
            double = work(run, Calls(), "double")

            def body(value: int, double: Any = double) -> Any:
                return (yield [double(value), double(value + 1)])

            assert run.invoke(flow(run, body), 1) == [2, 4]


def test_calls_over_a_broken_off_stream(run: Runner) -> None:
    """Left after the first call's event: what had been called by then is on record, and the rest is made once."""
    calls = Calls()
    double = work(run, calls, "double")
    gate = threading.Event()

    def body(value: int) -> Any:
        one = yield double(value)
        if run.way != "async":
            gate.wait(PATIENCE)
        return [one, (yield double(one))]

    graph, config = flow(run, body), new_thread()

    def leave(event: Any) -> bool:
        gate.set()
        return True

    assert run.watch(leave, graph, 1, config) == [{"double": 2}]
    with contextlib.suppress(EmptyInputError):  # the node had begun, and may have been waited for
        run.invoke(graph, None, config)
    assert run.get_state(graph, config).values == [2, 4]
    assert calls == ["double 1", "double 2"]


def test_calls_survive_the_process(database_url: str, script: Any) -> None:
    """Killed in the node after its second call; the next process calls the third."""
    code = """
import os, sys
from durable_graph import entrypoint, task
@task
def step(number):
    print("step", number, flush=True)
    return number + 1
@entrypoint(sys.argv[1])
def flow(number):
    for turn in range(3):
        number = step(number).result()
        if turn == 1 and sys.argv[2] == "die":
            os._exit(0)
    return number
print(flow.invoke(0 if sys.argv[2] == "die" else None, {"thread_id": "t"}))
flow.close()
"""
    assert finished(script(code, database_url, "die")) == "step 0\nstep 1\n"
    assert finished(script(code, database_url, "live")) == "step 2\n3\n"


# --- failing calls ----------------------------------------------------------------------------


def test_an_error_in_a_call(run: Runner) -> None:
    """The future raises it, with the node as the place; it is the node's to catch. It is not recorded."""
    calls = Calls()

    def part(value: int) -> int:
        calls.append(f"part {value}")
        raise ZeroDivisionError("part failed")

    call = task(run.node(part))

    def catching(value: int) -> Any:
        try:
            yield call(value)
        except ZeroDivisionError as error:
            return f"caught {error}"

    graph, config = flow(run, catching), new_thread()
    assert run.invoke(graph, 1, config) == "caught part failed"
    assert rows(run, graph, config) == [("input", None), ("task", "catching")]

    def letting(value: int) -> Any:
        return (yield call(value))

    graph, config = flow(run, letting), new_thread()
    for _ in range(2):
        with pytest.raises(ZeroDivisionError, match="part failed"):
            run.invoke(graph, 1 if calls.count("part 1") == 1 else None, config)
    assert rows(run, graph, config) == [("input", None), ("error", "letting"), ("resume", None), ("error", "letting")]
    assert calls == ["part 1"] * 3
    assert status(graph, config) == "failed"
    fixed = task(run.node(lambda value: value), name="part")

    def letting(value: int) -> Any:
        return (yield fixed(value))

    assert run.invoke(flow(run, letting), None, config) == 1


def test_retries_of_a_call(run: Runner) -> None:
    """Within the call: the node waits, and is not run again; the attempts are on record."""
    calls = Calls()
    policy = RetryPolicy(initial_interval=0, jitter=False, max_attempts=3, retry_on=ZeroDivisionError)
    fails = iter([True, True, False])

    def part(value: int) -> list[Any]:
        calls.append("part")
        if next(fails):
            raise ZeroDivisionError("not yet")
        return [value, get_runtime().attempt]

    call = task(run.node(part), retry_policy=policy)

    def body(value: int) -> Any:
        calls.append("body")
        return (yield call(value))

    graph, config = flow(run, body), new_thread()
    assert run.invoke(graph, 1, config) == [1, 3]
    assert calls == ["body", "part", "part", "part"]
    assert rows(run, graph, config) == [("input", None), ("task", "part"), ("task", "body")]
    (event,) = [e for e in run.replay(graph, config, stream_mode="events") if e.node == "part"]
    assert event.metadata["attempt"] == 3


def test_retries_that_do_not_help(fast: Runner) -> None:
    calls = Calls()
    policies = [
        RetryPolicy(initial_interval=0, jitter=False, max_attempts=2, retry_on=ZeroDivisionError),
        RetryPolicy(initial_interval=0, jitter=False, max_attempts=9, retry_on=KeyError),
    ]
    part = task(fast.node(calls.failing("part", 9, ZeroDivisionError)), retry_policy=policies)

    def body(value: int) -> Any:
        return (yield part(value))

    with pytest.raises(ZeroDivisionError):
        fast.invoke(flow(fast, body), 1, new_thread())
    assert calls == ["part"] * 2


def test_the_node_is_retried_without_its_finished_calls(fast: Runner) -> None:
    calls = Calls()
    double, fail = work(fast, calls, "double"), failing(calls, 2)

    def body(value: int) -> Any:
        one = yield double(value)
        fail()
        return one

    policy = RetryPolicy(initial_interval=0, jitter=False, max_attempts=3, retry_on=KeyError)
    graph, config = flow(fast, body, retry_policy=policy), new_thread()
    assert fast.invoke(graph, 1, config) == 2
    assert calls == ["double 1", "fail", "fail", "fail"]


def test_a_time_out_of_a_call() -> None:
    with Runner("async", MemoryStore()) as run:  # type: ignore[arg-type]
        import asyncio

        async def for_ever() -> None:
            await asyncio.Event().wait()

        hang = task(for_ever, timeout=0.01)

        def body(value: int) -> Any:
            try:
                yield hang()
            except NodeTimeoutError as error:
                return str(error)

        assert "0.01 s" in run.invoke(flow(run, body), 1, new_thread())
        with pytest.raises(DrawingError, match="no async function"):
            task(lambda: 1, timeout=1)
        with pytest.raises(DrawingError, match="not positive"):
            task(for_ever, timeout=0)


def test_a_result_that_cannot_be_stored(run: Runner) -> None:
    """The node hears of it at the future, and after the task is corrected the thread goes on."""
    make = task(run.node(lambda: object()), name="make")

    def body(value: int) -> Any:
        yield make()
        return "done"

    graph, config = flow(run, body), new_thread()
    with pytest.raises(UnstorableValueError, match="object"):
        run.invoke(graph, 1, config)
    assert rows(run, graph, config) == [("input", None), ("error", "body")]
    make = task(run.node(lambda: 1), name="make")
    assert run.invoke(flow(run, body), None, config) == "done"

    def catching(value: int) -> Any:
        try:
            yield bad()
        except UnstorableValueError:
            return (yield make())

    bad = task(run.node(lambda: object()), name="bad")
    assert run.invoke(flow(run, catching), 1, new_thread()) == 1


def test_arguments_need_not_be_stored(quick: Runner) -> None:
    """Only results are: a connection or a client may be given to a task."""
    use = task(lambda client: client(), name="use")

    def body(value: int) -> Any:
        return (yield use(lambda: value))

    assert quick.invoke(flow(quick, body), 5, new_thread()) == 5


@pytest.mark.parametrize("stop", [SystemExit, KeyboardInterrupt])
def test_a_call_that_ends_the_program(quick: Runner, stop: type[BaseException]) -> None:
    """Not the task's failure: it goes up, nothing is recorded of it, and the thread can be continued."""
    calls = Calls()
    part = task(calls.failing("part", 1, stop))

    def body(value: int) -> Any:
        yield part(value)
        return "done"

    graph, config = flow(quick, body), new_thread()
    with pytest.raises(stop):
        quick.invoke(graph, 1, config)
    assert rows(quick, graph, config) == [("input", None)]
    assert quick.invoke(graph, None, config) == "done"


def test_async_tasks_need_an_async_call(quick: Runner) -> None:
    async def part() -> int:
        return 1

    call = task(part)

    def body(value: int) -> Any:
        return (yield call())

    with pytest.raises(CallError, match="is async"):
        quick.invoke(flow(quick, body), 1, new_thread())


# --- calls that are given up ------------------------------------------------------------------


@pytest.mark.parametrize("how", ["wait_for", "cancel", "timeout of the node"])
def test_an_async_call_that_its_node_does_not_wait_for_is_cancelled(database_url: str, how: str) -> None:
    seen, begun = list[str](), asyncio.Event()

    @task
    async def hang(value: int) -> int:
        seen.append("begun")
        begun.set()
        try:
            return await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)  # who is cancelled once may tidy up
            seen.append("cancelled")
            raise

    @task
    async def double(value: int) -> int:
        return value * 2

    async def node(state: State, runtime: Runtime) -> State:
        if how == "cancel":
            call = hang(1)
            await begun.wait()
            call.cancel()
        elif how == "wait_for":
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(hang(1), 0.01)
        elif runtime.attempt == 1:
            await hang(1)
        return {"n": await double(4)}

    timeout = 0.05 if how == "timeout of the node" else None
    builder = StateGraph(State).add_edge(START, "node")
    builder.add_node("node", node, timeout=timeout, retry_policy=RetryPolicy(initial_interval=0, jitter=False))
    with Runner("async", database_url) as run:
        graph, config = run.compile(builder), new_thread()
        assert run.invoke(graph, {"n": 0}, config)["n"] == 8
        assert rows(run, graph, config) == [("input", None), ("task", "double"), ("task", "node")]
        assert graph.verify(config).ok
    assert seen == ["begun", "cancelled"]


@pytest.mark.parametrize("way", ["sync", "threads"])
def test_a_plain_call_that_is_cancelled(database_url: str, way: str) -> None:
    """One that has begun cannot be stopped, and is recorded; one that has not does not begin."""
    begun, go, calls = threading.Event(), threading.Event(), Calls()

    @task
    def first(value: int) -> int:
        calls.append("first")
        begun.set()
        assert go.wait(PATIENCE)
        return value * 2

    @task
    def late(value: int) -> int:
        calls.append("late")
        return value

    def node(state: State) -> State:
        one = first(1)
        assert begun.wait(PATIENCE)
        assert one.cancel()
        two = late(2)
        assert two.cancel()
        go.set()
        with pytest.raises(CancelledError):
            one.result()
        return {"n": 3}

    with Runner(way, database_url) as run, pytest.MonkeyPatch.context() as patched:
        patched.setattr(drivers, "CALLS", 1)
        patched.setattr(drivers, "WORKERS", 2)  # the node and one call
        graph, config = run.compile(StateGraph(State).add_node("node", node).add_edge(START, "node")), new_thread()
        assert run.invoke(graph, {"n": 0}, config) == {"n": 3, "log": []}
        assert rows(run, graph, config) == [("input", None), ("task", "first"), ("task", "node")]
        assert graph.verify(config).ok
    assert calls == ["first"]


@pytest.mark.parametrize("moment", ["just called", "waiting to be tried again"])
def test_a_consumer_is_cancelled_beside_a_call_that_has_not_begun(database_url: str, moment: str) -> None:
    """asyncio ends a task that is cancelled before it begins without a word; its node is waited for all the same."""
    calls, config, failed = Calls(), new_thread(), threading.Event()

    @task(retry_policy=RetryPolicy(initial_interval=1000))
    async def flaky() -> str:
        calls.append("flaky")
        if moment == "waiting to be tried again" and not failed.is_set():
            failed.set()
            raise ConnectionError("the first time")
        return "a"

    async def node(state: State) -> State:
        if moment == "just called" and not failed.is_set():
            failed.set()
            consumer.cancel()
        return {"log": [await flaky()]}

    async def stop(state: State) -> State:
        if moment == "waiting to be tried again" and not stopped:
            await until(waiting)
            stopped.append(True)
            consumer.cancel()
        return {"log": ["b"]}

    async def main() -> None:
        nonlocal consumer
        consumer = asyncio.create_task(graph.ainvoke({}, config))
        await asyncio.wait([consumer])
        assert consumer.cancelled()

    consumer: asyncio.Task[Any]
    stopped: list[bool] = []
    waiting = threading.Event()

    def delay(job: Any) -> float:
        waiting.set()
        return 1000

    with Runner("async", database_url) as run, pytest.MonkeyPatch.context() as patched:
        patched.setattr(drivers, "delay_of", delay)
        builder = StateGraph(State).add_node("a", node).add_node("b", stop).add_edge(START, "a").add_edge(START, "b")
        graph = run.compile(builder)
        asyncio.run(main())
        assert run.invoke(graph, None, config)["log"] == ["a", "b"]
        assert graph.verify(config).ok
    assert len(calls) == (2 if waiting.is_set() else 1)


def test_what_calls_came_to_is_not_kept_until_the_run_ends(run: Runner) -> None:
    replies: list[weakref.ref[Any]] = []
    double = work(run, Calls(), "double")

    def body(value: int) -> Any:
        for k in range(50):
            reply = double(k)
            replies.append(weakref.ref(reply))
            yield reply
            del reply
        gc.collect()
        return sum(reply() is not None for reply in replies)

    assert run.invoke(flow(run, body), 0, new_thread()) < 5


# --- calls that have changed ------------------------------------------------------------------


def test_calls_in_another_order(run: Runner) -> None:
    """A named error that says which call; with the old order, or by update_state, the thread goes on."""
    calls = Calls()
    double, triple, fail = work(run, calls, "double"), work(run, calls, "triple"), failing(calls, 1)

    def old(value: int) -> Any:
        one = yield double(value)
        fail()
        return [one, (yield triple(value))]

    def new(value: int) -> Any:
        one = yield triple(value)
        return [one, (yield double(value))]

    graph, config = flow(run, old, name="flow"), new_thread()
    with pytest.raises(KeyError):
        run.invoke(graph, 1, config)
    for _ in range(2):
        with pytest.raises(ChangedGraphError, match="call 0 of node 'flow' was of 'double' before and is of 'triple'"):
            run.invoke(flow(run, new, name="flow"), None, config)
    assert calls == ["double 1", "fail"]
    assert run.invoke(graph, None, config) == [2, 2]


def test_a_call_put_in_before_others(fast: Runner) -> None:
    """Found out where its name differs."""
    calls = Calls()
    double, extra, fail = work(fast, calls, "double"), work(fast, calls, "extra"), failing(calls, 1)

    def old(value: int) -> Any:
        one = yield double(value)
        fail()
        return one

    def new(value: int) -> Any:
        yield extra(value)
        return (yield double(value))

    config = new_thread()
    with pytest.raises(KeyError):
        fast.invoke(flow(fast, old, name="flow"), 1, config)
    with pytest.raises(ChangedGraphError, match="'extra'"):
        fast.invoke(flow(fast, new, name="flow"), None, config)


def test_calls_with_other_arguments_have_the_recorded_result(fast: Runner) -> None:
    """As in LangGraph: what counts is the place of the call. This is why a node must be deterministic between
    its calls."""
    calls, given = Calls(), iter([1, 50])
    double, fail = work(fast, calls, "double"), failing(calls, 1)

    def body(value: int) -> Any:
        one = yield double(next(given))
        fail()
        return one

    graph, config = flow(fast, body), new_thread()
    with pytest.raises(KeyError):
        fast.invoke(graph, 1, config)
    assert fast.invoke(graph, None, config) == 2


def test_calls_that_are_gone(fast: Runner) -> None:
    """Their results stay in the log and are not needed."""
    calls = Calls()
    double, fail = work(fast, calls, "double"), failing(calls, 1)

    def old(value: int) -> Any:
        yield double(value)
        fail()

    def new(value: int) -> Any:
        return "without"
        yield

    config = new_thread()
    with pytest.raises(KeyError):
        fast.invoke(flow(fast, old, name="flow"), 1, config)
    assert fast.invoke(flow(fast, new, name="flow"), None, config) == "without"


# --- out of place -----------------------------------------------------------------------------


def test_a_task_outside_of_a_node(quick: Runner) -> None:
    """(In LangGraph a RuntimeError.) The function itself is there for tests: `task.call`."""
    double = work(quick, Calls(), "double")
    with pytest.raises(CallError, match="no running node"):
        double(1)
    assert double.call(1) == 2


def test_a_task_keeps_what_its_function_says_of_itself() -> None:
    @task
    def documented(value: int) -> int:
        """Says something."""
        return value

    assert (documented.__name__, documented.__doc__, documented.__wrapped__(3)) == ("documented", "Says something.", 3)


def test_a_call_after_the_node_has_ended(script: Any) -> None:
    """From a thread that the node left behind, it is an error that says so, as it is for the stream writer."""
    code = """
import contextvars, os
from durable_graph import entrypoint, task
from durable_graph.store.memory import MemoryStore
made = []
@task
def late(value):
    made.append(value)
    return value
kept = []
@entrypoint(MemoryStore())
def flow(value):
    if value:
        late(0).result()
    kept.append(contextvars.copy_context())
for value in (0, 1):
    flow.invoke(value)
    try:
        print(kept.pop().run(late, 7).result(timeout=0.5))
    except Exception as error:
        print(type(error).__name__)
print(made)
os._exit(0)
"""
    out = finished(script(code)).split()
    assert out == ["CallError", "CallError", "[0]"]


# --- entrypoints ------------------------------------------------------------------------------


def test_an_entrypoint_takes_and_returns_plain_values(run: Runner) -> None:
    graph, config = keeping(run, lambda value, previous: value + 1), new_thread()
    assert run.invoke(graph, 1, config) == 2
    state = run.get_state(graph, config)
    assert (state.values, state.next, state.tasks) == (2, (), ())
    assert rows(run, graph, config) == [("input", None), ("task", "acall" if run.way == "async" else "call")]
    assert status(graph, config) == "finished"


@pytest.mark.parametrize("value", [0, False, "", [], {}, (1, {2}), {"input": 1, "saved": 2}, {"a": None}], ids=repr)
def test_any_value_goes_in_and_out(fast: Runner, value: Any) -> None:
    graph, config = keeping(fast, lambda given, previous: given), new_thread()
    result = fast.invoke(graph, value, config)
    assert (result, type(result)) == (value, type(value))


def test_an_entrypoint_that_returns_nothing(fast: Runner) -> None:
    graph, config = keeping(fast, lambda given, previous: None), new_thread()
    assert fast.invoke(graph, 1, config) is None
    (event,) = fast.stream(graph, 2, config)
    assert list(event.values()) == [None]


def test_previous(run: Runner) -> None:
    """What the last finished run returned; None for the first, and not moved by one that failed."""
    seen: list[Any] = []
    fail = iter([False, False, True, False, False])

    def body(value: int, previous: Any) -> int:
        seen.append(previous)
        if next(fail):
            raise KeyError("no")
        return value + (previous or 0)

    graph, config = keeping(run, body), new_thread()
    assert run.invoke(graph, 1, config) == 1
    assert run.invoke(graph, 2, config) == 3
    with pytest.raises(KeyError):
        run.invoke(graph, 4, config)
    assert run.invoke(graph, None, config) == 7
    assert seen == [None, 1, 3, 3]
    assert run.invoke(graph, 5, new_thread()) == 5, "another thread has no previous"


def test_final_keeps_something_else(run: Runner) -> None:
    """As in LangGraph: the value is returned and shown, what is saved is `previous` of the next run."""

    def body(value: int, previous: Any) -> Any:
        return entrypoint.final(value=f"got {value}", save=(previous or 0) + value)

    graph, config = keeping(run, body), new_thread()
    assert [run.invoke(graph, k, config) for k in (1, 2)] == ["got 1", "got 2"]
    (event,) = run.stream(graph, 3, config)
    assert list(event.values()) == ["got 3"]
    assert run.get_state(graph, config).values == "got 3"
    seen: list[Any] = []
    run.invoke(keeping(run, lambda value, previous: seen.append(previous)), 0, config)
    assert seen == [6]


def test_final_of_nothing(fast: Runner) -> None:
    seen: list[Any] = []

    def body(value: int, previous: Any) -> Any:
        seen.append(previous)
        return entrypoint.final(value=None, save=0) if value == 1 else entrypoint.final(value=0, save=None)

    graph, config = keeping(fast, body), new_thread()
    assert [fast.invoke(graph, value, config) for value in (1, 2, 1)] == [None, 0, None]
    assert seen == [None, 0, None]


def test_previous_goes_back_in_time_and_into_forks(run: Runner) -> None:
    graph, config, fork = keeping(run, lambda value, previous: [*(previous or []), value]), new_thread(), new_thread()
    for value in (1, 2, 3):
        run.invoke(graph, value, config)
    run.fork(graph, at(config, 1), fork["configurable"]["thread_id"])
    assert run.invoke(graph, 9, fork) == [1, 9]
    assert run.invoke(graph, 8, at(config, 3)) == [1, 2, 8]
    assert run.invoke(graph, 4, config) == [1, 2, 8, 4]


def test_interrupts_in_an_entrypoint(run: Runner) -> None:
    calls = Calls()
    double = work(run, calls, "double")

    def body(value: int) -> Any:
        one = yield double(value)
        first = interrupt({"is it": one})
        two = yield double(one)
        return [first, interrupt("and now?"), two]

    graph, config = flow(run, body), new_thread()
    events = run.stream(graph, 1, config)
    assert events[0] == {"double": 2}
    assert events[1]["__interrupt__"][0].value == {"is it": 2}
    assert status(graph, config) == "interrupted"
    state = run.get_state(graph, config)
    assert (state.values, state.next) == (None, ("body",))
    assert state.tasks[0].interrupts == state.interrupts == events[1]["__interrupt__"]
    result = run.invoke(graph, Command(resume="yes"), config)
    assert [found.value for found in result["__interrupt__"]] == ["and now?"]
    assert run.invoke(graph, Command(resume="no"), config) == ["yes", "no", 4]
    assert calls == ["double 1", "double 2"]
    with pytest.raises(UnknownInterruptError):
        run.invoke(graph, Command(resume="late"), config)


def test_a_call_may_ask(run: Runner) -> None:
    """As in LangGraph. Each call has questions of its own; one that has its answer is recorded."""
    calls = Calls()

    def ask(value: int) -> Any:
        calls.append(f"ask {value}")
        return [value, interrupt(f"q{value}")]

    call = task(run.node(ask))

    def body(value: int) -> Any:
        first = yield call(value)
        return [first, (yield call(value + 1)), interrupt("and you?")]

    graph, config = flow(run, body), new_thread()
    assert run.invoke(graph, 1, config)["__interrupt__"][0].value == "q1"
    assert run.invoke(graph, Command(resume="x"), config)["__interrupt__"][0].value == "q2"
    assert run.invoke(graph, Command(resume="y"), config)["__interrupt__"][0].value == "and you?"
    assert run.invoke(graph, Command(resume="z"), config) == [[1, "x"], [2, "y"], "z"]
    assert calls == ["ask 1", "ask 1", "ask 2", "ask 2"]


def test_entrypoints_refuse_a_missing_input(fast: Runner) -> None:
    graph = keeping(fast, lambda value, previous: value)
    with pytest.raises(EmptyInputError, match="does not exist yet"):
        fast.invoke(graph, None, new_thread())
    config = new_thread()
    fast.invoke(graph, 1, config)
    with pytest.raises(EmptyInputError, match="has finished"):
        fast.invoke(graph, None, config)


def test_values_that_cannot_be_stored(run: Runner) -> None:
    """Input: refused, nothing is there. Result: the entrypoint fails and can be corrected."""
    graph, config = keeping(run, lambda value, previous: value), new_thread()
    with pytest.raises(UnstorableValueError):
        run.invoke(graph, object(), config)
    assert graph.threads() == []
    for bad in (lambda value, previous: object(), lambda v, p: entrypoint.final(value=1, save=object())):
        config = new_thread()
        with pytest.raises(UnstorableValueError, match="object"):
            run.invoke(keeping(run, bad), 1, config)
        assert status(graph, config) == "failed"
        assert run.invoke(graph, None, config) == 1


class Given(TypedDict):
    """Registered through the annotation of an entrypoint's parameter."""

    number: int


def test_everything_that_a_function_may_ask_for(fast: Runner) -> None:
    got: dict[str, Any] = {}

    def plain(value: Given, *, runtime: Any, config: Any, writer: Any, previous: Any = "unset") -> int:
        writer("hello")
        got.update(thread=runtime.thread_id, config=config["configurable"]["thread_id"], previous=previous)
        return value["number"]

    async def coroutine(value: Given, *, runtime: Any, config: Any, writer: Any, previous: Any = "unset") -> int:
        return plain(value, runtime=runtime, config=config, writer=writer, previous=previous)

    graph = entrypoint(fast.url)(coroutine if fast.way == "async" else plain)  # type: ignore[arg-type]
    config = new_thread()
    assert fast.stream(graph, {"number": 5}, config, stream_mode="custom") == ["hello"]
    thread_id = config["configurable"]["thread_id"]
    assert got == {"thread": thread_id, "config": thread_id, "previous": None}


@pytest.mark.parametrize("kind", ["no parameter", "generator"])
def test_functions_that_cannot_be_entrypoints_are_refused(kind: str) -> None:
    """LangGraph: ValueError and NotImplementedError where it is decorated."""

    def nothing() -> int:
        return 1

    def generator(value: int) -> Iterator[int]:
        yield value

    with pytest.raises(DrawingError):
        entrypoint(MemoryStore())(nothing if kind == "no parameter" else generator)


def test_a_time_out_of_an_entrypoint_needs_an_async_function() -> None:
    with pytest.raises(DrawingError, match="no async function"):
        entrypoint(MemoryStore(), timeout=1)(lambda value: value)


# --- stream modes -----------------------------------------------------------------------------


def story(run: Runner) -> CompiledGraph[Any]:
    """Custom events of the entrypoint and of its calls, calls in turn, and a question."""

    def part(value: int) -> int:
        get_stream_writer()(f"part {value}")
        return value * 2

    call = task(run.node(part))

    def body(value: int) -> Any:
        get_stream_writer()("begins")
        one = yield call(value)
        answer = interrupt("q")
        two = yield call(one)
        get_stream_writer()("ends")
        return [answer, two]

    return flow(run, body)


TASKS = ("tasks", "debug")


def test_updates_of_an_entrypoint(run: Runner) -> None:
    """As in LangGraph."""
    graph, config = story(run), new_thread()
    first, second = run.stream(graph, 1, config)
    assert first == {"part": 2}
    assert second["__interrupt__"][0].value == "q"
    assert run.stream(graph, Command(resume="x"), config) == [{"part": 4}, {"body": ["x", 4]}]


def test_custom_events_of_calls(run: Runner) -> None:
    """Told once for what ran once: those of the node come again when it runs again."""
    graph, config = story(run), new_thread()
    assert run.stream(graph, 1, config, stream_mode="custom") == ["begins", "part 1"]
    assert run.stream(graph, Command(resume="x"), config, stream_mode="custom") == ["begins", "part 2", "ends"]


def test_tasks_of_an_entrypoint(fast: Runner) -> None:
    graph, config = story(fast), new_thread()
    live = fast.stream(graph, 1, config, stream_mode="tasks")
    assert (live[0]["name"], live[0]["input"]) == ("body", 1)
    assert [(e["name"], e["result"]) for e in live if "result" in e] == [("part", {"__return__": 2}), ("body", {})]
    assert live[-1]["interrupts"][0]["value"] == "q"


@pytest.mark.parametrize("value", [0, 5, "text", [1], [{"a": 1}], {"a": 1}], ids=repr)
@pytest.mark.parametrize("mode", TASKS)
def test_the_result_of_an_entrypoint_in_tasks(quick: Runner, value: Any, mode: Any) -> None:
    """LangGraph: {"__end__": value}, whatever the value."""
    graph, config = keeping(quick, lambda given, previous: given), new_thread()
    live = quick.stream(graph, value, config, stream_mode=mode)
    results = [event.get("payload", event).get("result") for event in live]
    assert [found for found in results if found is not None] == [{"__end__": value}]


@pytest.mark.xfail(strict=True, reason="a call is told of when it has ended, not when it begins")
def test_tasks_are_told_of_when_they_begin(quick: Runner) -> None:
    """LangGraph: {"name": "part", "input": ((1,), {}), ...} before the result."""
    graph, config = story(quick), new_thread()
    live = quick.stream(graph, 1, config, stream_mode="tasks")
    assert [(event["name"], "input" in event) for event in live] == [
        ("body", True), ("part", True), ("part", False), ("body", False)
    ]  # fmt: skip


def test_values_of_an_entrypoint(fast: Runner) -> None:
    graph, config = story(fast), new_thread()
    live = fast.stream(graph, 1, config, stream_mode="values")
    assert live[-1].keys() == {"__interrupt__"}
    live = fast.stream(graph, Command(resume="x"), config, stream_mode="values")
    assert live == [None, ["x", 4]], "beginning with the state it goes on from"


def test_the_input_of_an_entrypoint_is_no_value(quick: Runner) -> None:
    """LangGraph: values of a second run are its result alone."""
    graph, config = keeping(quick, lambda value, previous: value), new_thread()
    assert quick.stream(graph, 1, config, stream_mode="values") == [1]
    assert quick.stream(graph, 2, config, stream_mode="values") == [2]


@pytest.mark.parametrize(
    "mode",
    [
        *MODES,
        ["updates", "custom", "values", "events"],
        ["updates", "custom", "values", "tasks", "events"],
    ],
    ids=str,
)
def test_replay_tells_what_was_seen_of_calls(run: Runner, mode: Any) -> None:
    graph, config = story(run), new_thread()
    live = run.stream(graph, 1, config, stream_mode=mode)
    live += run.stream(graph, Command(resume="x"), config, stream_mode=mode)
    assert run.replay(graph, config, stream_mode=mode) == live


def test_replay_tells_what_was_seen_of_calls_side_by_side(run: Runner) -> None:
    """In nodes that run side by side, on two levels, with custom events from everywhere."""

    def inner(value: str) -> str:
        get_stream_writer()(f"inner {value}")
        return value

    leaf = task(run.node(inner))

    def outer(value: str) -> Any:
        get_stream_writer()(f"outer {value}")
        return (yield [leaf(value + k) for k in "xyz"])

    call = task(played(run, outer))

    def node(name: str) -> Any:
        def body(state: Any) -> Any:
            get_stream_writer()(f"node {name}")
            found = yield [call(name + "1"), call(name + "2")]
            return {"log": ["".join(map("".join, found))]}

        return played(run, body)

    graph, config = run.compile(wide(run, Calls(), "ab", a=node("a"), b=node("b"))), new_thread()
    modes = ["updates", "custom", "tasks", "events"]
    live = run.stream(graph, {"n": 1}, config, stream_mode=modes)
    assert sum(mode == "custom" for mode, _ in live) == 2 + 4 + 12
    assert run.replay(graph, config, stream_mode=modes) == live
    assert graph.verify(config).ok
    assert run.get_state(graph, config).values["log"] == ["a1xa1ya1za2xa2ya2z", "b1xb1yb1zb2xb2yb2z", "end"]


def test_the_state_while_calls_are_under_way(run: Runner) -> None:
    """The node is next; its calls are rows, not tasks of the superstep."""
    calls = Calls()
    double, fail = work(run, calls, "double"), failing(calls)

    def body(value: int) -> Any:
        yield double(value)
        fail()

    graph, config = flow(run, body), new_thread()
    with pytest.raises(KeyError):
        run.invoke(graph, 1, config)
    state = run.get_state(graph, config)
    assert (state.values, state.next, [t.name for t in state.tasks]) == (None, ("body",), ["body"])
    assert "KeyError" in str(state.tasks[0].error)
    assert run.get_state(graph, at(config, 1)).next == ("body",)


def test_back_into_a_node_between_its_calls(run: Runner) -> None:
    """Continued from a call's row: what had been called by then counts, what came later is called anew."""
    calls = Calls()
    double = work(run, calls, "double")

    def body(value: int) -> Any:
        one = yield double(value)
        return [one, (yield double(one))]

    graph, config = flow(run, body), new_thread()
    assert run.invoke(graph, 1, config) == [2, 4]
    assert run.invoke(graph, None, at(config, 1)) == [2, 4]
    assert calls == ["double 1", "double 2", "double 2"]
    assert run.invoke(graph, None, at(config, 0)) == [2, 4]
    assert calls[3:] == ["double 1", "double 2"]
    fork = new_thread()
    run.fork(graph, at(config, 1), fork["configurable"]["thread_id"])
    assert run.invoke(graph, None, fork) == [2, 4]
    assert calls[5:] == ["double 2"]
    assert graph.verify(config).ok


def test_entrypoints_as_subgraphs_and_graphs_in_entrypoints(run: Runner) -> None:
    """What was called below is not called again either."""
    calls = Calls()
    double, fail = work(run, calls, "double"), failing(calls)

    def below(value: int) -> Any:
        one = yield double(value)
        return [one, (yield double(one))]

    inner = flow(run, below)

    if run.way == "async":

        async def above(value: int) -> Any:
            found = await inner.ainvoke(value)
            fail()
            return [found, interrupt("q"), await double(found[0])]
    else:

        def above(value: int) -> Any:
            found = inner.invoke(value)
            fail()
            return [found, interrupt("q"), double(found[0]).result()]

    graph = entrypoint(run.url)(above)  # type: ignore[arg-type]
    run._graphs.append(graph)
    config = new_thread()
    with pytest.raises(KeyError):
        run.invoke(graph, 1, config)
    assert run.invoke(graph, None, config)["__interrupt__"][0].value == "q"
    assert run.invoke(graph, Command(resume="x"), config) == [[2, 4], "x", 4]
    assert calls == ["double 1", "double 2", "fail", "fail", "fail", "double 2"]


def test_many_threads_of_one_entrypoint(fast: Runner) -> None:
    calls = Calls()
    double = work(fast, calls, "double")

    def body(value: int) -> Any:
        return (yield [double(value), double(value + 100)])

    graph = flow(fast, body)
    assert fast.call(graph, "batch", list(range(20))) == [[k * 2, k * 2 + 200] for k in range(20)]


def test_futures_are_futures(quick: Runner) -> None:
    """`concurrent.futures.wait` and friends take them."""
    import concurrent.futures

    double, kinds = work(quick, Calls(), "double"), []

    @entrypoint(quick.url)  # type: ignore[arg-type]
    def body(value: int) -> Any:
        begun: list[Future[int]] = [double(k) for k in range(3)]
        kinds.extend(isinstance(one, Future) for one in begun)
        done, waiting = concurrent.futures.wait(begun, timeout=PATIENCE)
        assert not waiting
        return sorted(one.result() for one in done)

    assert quick.invoke(body, 1, new_thread()) == [0, 2, 4]
    assert kinds == [True] * 3
