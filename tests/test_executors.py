"""Nodes in executors: in threads and in other processes the outcome is as without, and no worker's end loses a row.

The functions that are called there are those of `errands.py`.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import Script, engine_url
from sqlalchemy import create_engine, text

from durable_graph import (
    START,
    CallError,
    Command,
    DrawingError,
    ExecutorError,
    MessagesState,
    RetryPolicy,
    Runtime,
    StateGraph,
    UnsendableError,
    UnstorableValueError,
    WorkerLostError,
    executors,
)
from durable_graph.testing import clock
from tests import errands
from tests.errands import State, fan, nested, notes, one
from tests.graphs import Runner, durable_threads, new_thread

slow = pytest.mark.slow
# Python warns of it, as a thread may hold a lock just then; `forkserver` and `spawn` are what the README shows.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork")

PROCESSES = ["forkserver", pytest.param("fork", marks=slow), pytest.param("spawn", marks=slow)]
Making = Callable[[], Executor]


def making(kind: str, workers: int = 2) -> Making:
    if kind == "threads":
        return partial(ThreadPoolExecutor, workers, "somewhere")
    context = multiprocessing.get_context(kind)
    if kind == "forkserver":
        context.set_forkserver_preload(["tests.errands"])  # once for all tests: what is forked has imported it
    return partial(ProcessPoolExecutor, workers, mp_context=context)


@pytest.fixture(params=["sync", "threads"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


CORNERS = [("sync", "sqlite"), ("threads", "postgres")]  # the others are slow
OTHERS = [pytest.param(pair, marks=slow) for pair in [("sync", "postgres"), ("threads", "sqlite")]]


@pytest.fixture(params=[*CORNERS, *OTHERS], ids="-".join)
def run(request: pytest.FixtureRequest) -> Iterator[Runner]:
    way, database = request.param
    with Runner(way, request.getfixturevalue(f"{database}_url")) as run:
        yield run


@pytest.fixture
def folder(tmp_path: Path) -> str:
    folder = tmp_path / "notes"
    folder.mkdir()
    return str(folder)


def go(folder: str, name: str) -> None:
    Path(folder, name).touch()


# --- the same as without ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["threads", *PROCESSES])
def test_a_fan_out_in_a_fan_out(run: Runner, kind: str, folder: str) -> None:
    graph, config = run.compile(nested(), executor=making(kind)), new_thread()
    events = run.stream(graph, {"folder": folder, "n": 20}, config, stream_mode=["updates", "values"])
    expected = [*range(20), *range(100, 120)]
    assert events[-1][1]["n"] == sum(expected)
    assert events[-1][1]["log"] == expected
    called = {f"work-{i}-1" for i in range(20)} | {f"again-{i}" for i in range(20)} | {"between"}
    assert Counter(notes(folder)) == Counter(called)
    assert run.replay(graph, config, stream_mode=["updates", "values"])[1:] == events[1:]
    assert graph.verify(config).ok
    assert durable_threads() == []


@pytest.mark.parametrize("kind", ["threads", "forkserver"])
def test_a_single_task_goes_there(run: Runner, kind: str) -> None:
    def where(state: State) -> Any:
        return {"log": [errands.where()]}

    here = errands.where()
    graph = run.compile(one(where if kind == "threads" else elsewhere), executor=making(kind))
    ((process, thread),) = run.invoke(graph, {"log": []}, new_thread())["log"]
    assert (process == here[0]) is (kind == "threads")
    assert (thread.startswith("somewhere")) is (kind == "threads")


def elsewhere(state: State) -> Any:
    return {"log": [errands.where()]}


def test_a_graph_without_executors_runs_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its single tasks in the caller's thread."""
    monkeypatch.setattr("durable_graph.core.runtime.calls_are_possible", False)  # the @task of `errands` has set it
    with Runner("sync", False) as run:
        places = [
            run.invoke(run.compile(one(elsewhere), executor=given), {"log": []})["log"]
            for given in (None, making("threads"))
        ]
    assert places[0] == [errands.where()]
    assert places[1] != [errands.where()]


@pytest.mark.parametrize("kind", ["threads", "forkserver"])
def test_the_nodes_own_executor_wins(run: Runner, kind: str) -> None:
    async def asynchronous(state: State, runtime: Runtime) -> Any:
        return errands.named(state, runtime)

    named = errands.named
    builder = StateGraph(State).add_node("own", named, executor=partial(ThreadPoolExecutor, 1, "own"))
    builder.add_node("default", named).add_node("here", named, executor=False)
    builder.add_node("graph", one(named).compile())
    nodes = ["own", "default", "here", "graph"]
    if run.way != "sync":
        builder.add_node("async", asynchronous)
        nodes.append("async")
    for before, after in pairwise([START, *nodes]):
        builder.add_edge(before, after)
    graph = run.compile(builder, executor=making(kind))
    places = {name: (process, thread) for name, process, thread in run.invoke(graph, {"log": []}, new_thread())["log"]}
    assert places.pop("own")[1].startswith("own")
    assert (places.pop("default")[0] == os.getpid()) is (kind == "threads")
    assert places.keys() == {"here", "node", "async"} - ({"async"} if run.way == "sync" else set())
    for process, thread in places.values():
        assert process == os.getpid()
        assert not thread.startswith("somewhere")


@pytest.mark.parametrize("kind", ["threads", *PROCESSES])
def test_what_a_node_can_know(run: Runner, kind: str) -> None:
    graph = run.compile(one(errands.tell), executor=making(kind))
    config: dict[str, Any] = {**new_thread(), "metadata": {"who": "Ada"}, "run_name": "r"}
    config["configurable"]["tenant"] = "t-1"
    (there,) = run.invoke(graph, {"log": []}, config, context={"a": 1})["log"]
    assert (there.pop("process") == os.getpid()) is (kind == "threads")
    plain = run.compile(one(errands.tell))
    config["configurable"]["thread_id"] += "x"
    (here,) = run.invoke(plain, {"log": []}, config, context={"a": 1})["log"]
    here.pop("process")
    for facts in (here, there):
        facts["configurable"].pop("thread_id"), facts["metadata"].pop("thread_id", None)
        facts["thread"], facts["key"] = facts["thread"].rstrip("x"), facts["key"].replace("x/", "/")
    ns = {key for key in there["metadata"] if "ns" in key}
    assert {k: v for k, v in there["metadata"].items() if k not in ns}.keys() == here["metadata"].keys() - ns
    assert {**there, "metadata": 0} == {**here, "metadata": 0}
    assert there["attempt"] == 1
    assert there["context"] == {"a": 1}
    assert there["configurable"]["tenant"] == "t-1"


class Holder:
    """A context that cannot be pickled."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


@pytest.mark.parametrize("node", [errands.touches_context, errands.touches_config])
def test_what_of_the_context_cannot_be_sent_is_told_to_who_needs_it(run: Runner, node: Any) -> None:
    config: dict[str, Any] = new_thread()
    config["configurable"]["lock"] = threading.Lock()
    graph = run.compile(StateGraph(State).add_node("node", errands.goes_to_end).add_edge(START, "node"),
                        executor=making("forkserver"))  # fmt: skip
    assert run.invoke(graph, {"n": 1}, config, context=Holder())["n"] == 5  # it does not need it
    graph = run.compile(one(node), executor=making("forkserver"))
    with pytest.raises(CallError, match=r"the context holds a .*Holder|\['lock'\] holds a _thread.lock"):
        run.invoke(graph, {"n": 1}, config, context=Holder())


@pytest.mark.parametrize("kind", ["threads", *PROCESSES])
def test_questions_times_and_signals(run: Runner, kind: str, folder: str) -> None:
    graph, config = run.compile(one(errands.asks), executor=making(kind)), new_thread()
    with clock(datetime(2026, 1, 1, tzinfo=UTC).timestamp()) as now:
        (asked,) = run.invoke(graph, {"folder": folder, "log": []}, config)["__interrupt__"]
        assert asked.value == "first?"
        (waits,) = run.invoke(graph, Command(resume={"a": 1}), config)["__interrupt__"]
        assert waits.value.until[:16] == "2026-01-01T01:00"  # by the clock of the run
        now.advance(3601)
        (waits,) = run.invoke(graph, None, config)["__interrupt__"]
        assert waits.value.signal == "go"
        graph.signal(config, "go", [1])
        (asked,) = run.invoke(graph, None, config)["__interrupt__"]
        assert asked.value == "last?"
        assert run.invoke(graph, Command(resume="z"), config)["log"] == [{"a": 1}, "z", [1]]
    assert notes(folder) == ["asks"] * 5
    assert graph.verify(config).ok


@pytest.mark.parametrize("kind", ["threads", *PROCESSES])
def test_what_a_node_says(run: Runner, kind: str) -> None:
    modes = ["custom", "updates"]
    graph, config = run.compile(one(errands.says), executor=making(kind)), new_thread()
    events = run.stream(graph, {"log": []}, config, stream_mode=modes)
    assert events == [("custom", [1]), ("custom", [1, 2]), ("updates", {"node": {"log": ["said"]}})]
    assert run.replay(graph, config, stream_mode=modes) == events

    graph, config = run.compile(one(errands.says_and_fails), executor=making(kind)), new_thread()
    events = []
    with pytest.raises(ValueError, match="after"):
        run.watch(events.append, graph, {"log": []}, config, stream_mode=modes)
    assert events == [("custom", "before")]
    with pytest.raises(UnstorableValueError):
        run.invoke(run.compile(one(errands.says_object), executor=making(kind)), {"log": []}, new_thread())


@pytest.mark.parametrize("kind", ["threads", "forkserver"])
def test_messages_that_a_node_pushes(run: Runner, kind: str) -> None:
    graph, config = run.compile(one(errands.pushes, MessagesState), executor=making(kind)), new_thread()
    events = run.stream(graph, {"messages": []}, config, stream_mode="messages")
    assert [content(message) for message, _ in events] == ["It ", "It rains."]
    assert run.replay(graph, config, stream_mode="messages") == events
    (message,) = run.get_state(graph, config).values["messages"]
    assert content(message) == "It rains."


def content(message: Any) -> str:
    """Of a dict, or of langchain-core's object where a test before this one has imported it."""
    return str(message["content"] if isinstance(message, dict) else message.content)


@pytest.mark.parametrize("node", [errands.connects, errands.calls_task, errands.calls_graph])
def test_what_belongs_to_the_process_of_the_run(run: Runner, node: Any) -> None:
    config = new_thread()
    graph = run.compile(one(node), executor=making("forkserver"))
    with pytest.raises(CallError, match=r"node 'node' .* in another process .* an executor of threads"):
        run.invoke(graph, {"n": 1}, config)

    bank = create_engine(engine_url(str(run.url)))
    with bank.begin() as connection:
        connection.execute(text("CREATE TABLE ledger (n INTEGER)"))
    graph = run.compile(one(node), executor=making("threads"))
    assert run.invoke(graph, None, config)["n"] in (1, 42)
    with bank.connect() as connection:
        assert len(connection.execute(text("SELECT * FROM ledger")).all()) == (node is errands.connects)
    bank.dispose()
    assert graph.verify(config).ok


@pytest.mark.parametrize("kind", ["threads", *PROCESSES])
def test_errors_come_back_as_what_they_are(run: Runner, kind: str, folder: str) -> None:
    config = new_thread()
    graph = run.compile(one(errands.fails), executor=making(kind))
    with pytest.raises(KeyError, match="nothing there") as raised:
        run.invoke(graph, {"folder": folder}, config)
    (told,) = run.get_state(graph, config).tasks
    assert told.error is not None
    assert "nothing there" in told.error
    row = run.replay(graph, config, stream_mode="events")[-1]
    assert row.kind == "error"
    if kind != "threads":
        assert any("in process" in line and "in fails" in line for line in raised.value.__notes__)
    with pytest.raises(SystemExit):
        run.invoke(run.compile(one(errands.exits), executor=making(kind)), {}, new_thread())


def test_an_error_that_cannot_be_sent_back(run: Runner) -> None:
    graph = run.compile(one(errands.fails_oddly), executor=making("forkserver"))
    with pytest.raises(
        UnsendableError, match=r"'node' .* its error tests\.errands\.Odd \(1 and 2\) cannot be sent"
    ) as e:
        run.invoke(graph, {}, new_thread())
    assert any("in fails_oddly" in line for line in e.value.__notes__)


@pytest.mark.parametrize("kind", ["threads", "forkserver"])
def test_a_retry_policy_counts_there_too(run: Runner, kind: str, folder: str) -> None:
    policy = RetryPolicy(initial_interval=0, jitter=False)
    graph, config = run.compile(one(errands.fails_once, retry_policy=policy), executor=making(kind)), new_thread()
    assert run.invoke(graph, {"folder": folder}, config)["n"] == 2
    assert notes(folder) == ["attempt-1", "attempt-2"]


# --- what cannot be sent ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PROCESSES)
def test_a_function_that_cannot_be_sent(run: Runner, kind: str) -> None:
    config = new_thread()
    graph = run.compile(one(lambda state: {"n": state["n"] + 1}), executor=making(kind))
    with pytest.raises(
        UnsendableError, match=r"'node' of thread 't-.*its function '.*<lambda>' cannot be sent"
    ) as raised:
        run.invoke(graph, {"n": 1}, config)
    assert "at the top of a module" in str(raised.value)
    assert run.invoke(run.compile(one(errands.goes_to_end), executor=making(kind)), None, config)["n"] == 5
    assert graph.verify(config).ok


def test_an_input_that_cannot_be_sent(way: str) -> None:
    """In a graph without a database a state may hold anything."""
    with Runner(way, False) as run:
        graph = run.compile(one(errands.goes_to_end), executor=making("forkserver"))
        with pytest.raises(UnsendableError, match=r"its input, at \['log'\]\[1\]\['a'\] a lock cannot be sent"):
            run.invoke(graph, {"log": [1, {"a": threading.Lock()}]})
        graph = run.compile(one(errands.goes_to_end), executor=making("threads"))
        assert run.invoke(graph, {"log": [1, {"a": threading.Lock()}]})["n"] == 5


def test_a_result_that_cannot_be_sent(run: Runner) -> None:
    config = new_thread()
    graph = run.compile(one(errands.returns_function), executor=making("forkserver"))
    with pytest.raises(UnsendableError, match=r"'node' of thread 't-.*its result, at \['log'\]\[1\]\['a'\] a function"):
        run.invoke(graph, {}, config)
    assert run.invoke(run.compile(one(errands.goes_to_end)), None, config)["n"] == 5


def test_code_that_is_not_where_the_worker_is(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    here_only = SimpleNamespace(__name__="here_only")
    monkeypatch.setitem(__import__("sys").modules, "here_only", here_only)

    def node(state: State) -> Any:
        return {"n": 1}

    node.__module__, node.__qualname__, here_only.node = "here_only", "node", node  # type: ignore[attr-defined]
    graph = run.compile(one(node), executor=making("forkserver"))
    with pytest.raises(UnsendableError, match=r"ModuleNotFoundError: No module named 'here_only'.*has to be installed"):
        run.invoke(graph, {}, new_thread())


# --- workers that die ---------------------------------------------------------------------------


class Factory:
    """Makes pools, and remembers them."""

    def __init__(self, kind: str, workers: int = 2) -> None:
        self.make = making(kind, workers)
        self.made: list[Executor] = []

    def __call__(self) -> Executor:
        self.made.append(self.make())
        return self.made[-1]


@pytest.mark.parametrize("kind", PROCESSES)
def test_a_worker_is_killed_in_the_midst(run: Runner, kind: str, folder: str) -> None:
    factory = Factory(kind)
    graph, config = run.compile(fan(errands.dies_once), executor=factory), new_thread()
    seen: list[int] = []

    def look(event: Any) -> None:
        seen.extend(event["work"]["log"])
        if len(seen) == 3:
            go(folder, "seen")  # now number 3 dies

    run.watch(look, graph, {"folder": folder, "n": 12}, config)
    assert sorted(seen) == [*range(12)]
    assert run.get_state(graph, config).values["log"] == [*range(12)]
    assert len(factory.made) == 2
    called = Counter(notes(folder))
    assert set(called.values()) == {1}
    assert all(f"work-{i}-2" not in called for i in seen[:3])  # they had a row
    assert "work-3-2" in called
    for event in run.replay(graph, config, stream_mode="events"):
        if event.kind == "task" and event.update["log"] == [3]:
            assert event.metadata["attempt"] == 2
    assert graph.verify(config).ok


def test_two_runs_notice_that_the_pool_is_broken(database_url: str, tmp_path: Path) -> None:
    """It is replaced once."""
    folders = [tmp_path / name for name in ("a", "b")]
    for folder in folders:
        folder.mkdir()
    (folders[1] / "died").touch()  # only a worker of the first run dies
    factory, errors = Factory("forkserver", 4), list[BaseException]()
    with Runner("sync", database_url) as run:
        graph = run.compile(fan(errands.dies_once), executor=factory)

        def main(folder: Path) -> None:
            config, seen = new_thread(), list[int]()
            try:
                for event in graph.stream({"folder": str(folder), "n": 8}, config):
                    seen += event["work"]["log"]
                    if len(seen) == 2:
                        go(str(folder), "seen")
                assert sorted(seen) == [*range(8)]
                assert graph.verify(config).ok
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=main, args=[folder]) for folder in folders]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not errors, errors
    assert len(factory.made) == 2


@pytest.mark.parametrize("kind", PROCESSES)
def test_a_node_that_ends_its_worker_each_time(run: Runner, kind: str, folder: str) -> None:
    """It fails by name. What runs beside it is not blamed."""
    graph, config = run.compile(fan(errands.always_dies), executor=making(kind)), new_thread()
    with pytest.raises(WorkerLostError, match=r"node 'work' of thread 't-.*: loss 3 of 3 in this run") as raised:
        run.invoke(graph, {"folder": folder, "n": 6}, config)
    assert isinstance(raised.value.__cause__, BrokenExecutor)
    assert [line for line in notes(folder) if line.startswith("dies")] == ["dies-1", "dies-2", "dies-3"]
    errors = [task.error for task in run.get_state(graph, config).tasks if task.error is not None]
    assert len([error for error in errors if "loss 3 of 3" in error]) == 1
    assert len(errors) < 6  # those that had not had their last attempt yet have an error, too
    go(folder, "mended")
    assert run.invoke(graph, None, config)["log"] == [*range(6)]
    finished = [line for line in notes(folder) if line.startswith("work")]
    assert max(Counter(finished).values()) <= 3
    assert "work-3" in finished
    assert graph.verify(config).ok


def test_a_pool_that_cannot_be_made_again(run: Runner, folder: str) -> None:
    config = new_thread()
    with making("forkserver")() as pool:
        graph = run.compile(fan(errands.always_dies), executor=pool)
        with pytest.raises(ExecutorError, match=r"Node 'work' .* it is broken .*functools\.partial") as raised:
            run.invoke(graph, {"folder": folder, "n": 6}, config)
        assert not isinstance(raised.value, WorkerLostError)
        with pytest.raises(ExecutorError, match="it is broken"):
            run.invoke(graph, None, config)
    go(folder, "mended")
    assert run.invoke(run.compile(fan(errands.always_dies), executor=making("forkserver")), None, config)["log"] == [
        *range(6)
    ]


class BreaksMeanwhile(ThreadPoolExecutor):
    """As a pool of processes that breaks while it starts a worker for what it is given."""

    def submit(self, call: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:  # type: ignore[override]
        self._broken = "a worker has died"
        raise OSError("handle is closed")


@pytest.mark.parametrize("given", ["an executor", "what makes one"])
def test_a_pool_that_breaks_while_it_is_given_something(run: Runner, given: str) -> None:
    made = iter([BreaksMeanwhile(), ThreadPoolExecutor(1)])
    executor = partial(next, made) if given == "what makes one" else next(made)
    graph, config = run.compile(one(errands.goes_to_end), executor=executor), new_thread()
    if given == "what makes one":
        assert run.invoke(graph, {}, config)["n"] == 5
        return
    with pytest.raises(ExecutorError, match=r"it is broken \(handle is closed\)"):
        run.invoke(graph, {}, config)


def test_a_pool_whose_workers_never_begin(run: Runner) -> None:
    factory = partial(ThreadPoolExecutor, 2, initializer=errands.fails, initargs=({"folder": "nowhere"},))
    graph = run.compile(one(errands.goes_to_end), executor=factory)
    with pytest.raises(WorkerLostError, match="BrokenThreadPool"):
        run.invoke(graph, {}, new_thread())


# --- stopping -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["threads", *PROCESSES])
def test_a_consumer_that_goes(run: Runner, kind: str, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has begun is waited for and has a row, what has not never begins."""
    graph, config = run.compile(fan(errands.waits), executor=making(kind)), new_thread()

    take_back = executors.Awaited.take_back

    def taking_back(awaited: executors.Awaited) -> Any:
        taken = take_back(awaited)
        go(folder, "go")  # those that have begun end when the others have been taken back
        return taken

    monkeypatch.setattr(executors.Awaited, "take_back", taking_back)
    run.each(lambda _: True, graph, "stream", {"folder": folder, "n": 12}, config)
    called = notes(folder)
    assert len(called) < 12
    assert durable_threads() == []
    rows = [event for event in run.replay(graph, config, stream_mode="events") if event.kind == "task"]
    assert {f"work-{row.update['log'][0]}-1" for row in rows} == set(called)
    assert run.invoke(graph, None, config)["log"] == [*range(12)]
    assert {line.rpartition("-")[0] for line in notes(folder)} == {f"work-{i}" for i in range(12)}
    assert len(notes(folder)) == 12
    assert graph.verify(config).ok


@pytest.mark.parametrize("kind", ["threads", "forkserver"])
def test_a_sibling_that_fails(run: Runner, kind: str, folder: str) -> None:
    graph, config = run.compile(fan(errands.first_fails), executor=making(kind, 1)), new_thread()
    with pytest.raises(ValueError, match="number 0 failed"):
        run.invoke(graph, {"folder": folder, "n": 12}, config)
    assert durable_threads() == []
    go(folder, "mended")
    assert run.invoke(graph, None, config)["log"] == [*range(12)]
    called = Counter(notes(folder))
    assert called.pop("work-0") == 2
    assert set(called.values()) == {1}


@pytest.mark.parametrize("kind", ["threads", "forkserver"])
def test_an_executor_is_ended_by_who_made_it(run: Runner, kind: str, folder: str) -> None:
    factory, below = Factory(kind), Factory(kind)
    inner = one(elsewhere).compile(False, executor=below)
    with making(kind)() as pool:
        builder = one(elsewhere, executor=pool).add_node("other", elsewhere).add_node("graph", inner)
        graph = run.compile(builder.add_edge("node", "other").add_edge("other", "graph"), executor=factory)
        for made in (1, 2):
            run.invoke(graph, {"log": []}, new_thread())
            graph.close()
            for pools in (factory.made, below.made):
                assert len(pools) == made
                with pytest.raises(RuntimeError, match="shutdown"):
                    pools[-1].submit(int)
            assert pool.submit(int).result() == 0
    with pytest.raises(ExecutorError, match="cannot schedule new futures after shutdown"):
        run.invoke(graph, {"log": []}, new_thread())


STORY = """if True:
    import sys
    from tests.errands import *
    from tests.test_executors import making
    url, folder, kind, how = sys.argv[1:]

    def interrupted(*_):
        print("interrupted", flush=True)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupted)
    graph = fan(waits).compile(url, executor=making(kind))
    config, given = {"thread_id": "t"}, {"folder": folder, "n": 8} if how == "begin" else None
    for event in graph.stream(given, config) if given or graph.get_state(config).next else ():
        print(*event["work"]["log"], flush=True)
    graph.close()
"""


def children(process: int) -> set[int]:
    """Its processes and theirs, whichever thread has begun them."""
    listed = [file.read_text().split() for file in Path(f"/proc/{process}/task").glob("*/children")]
    found = {int(child) for children in listed for child in children}
    return found.union(*map(children, found))


def running(processes: set[int]) -> set[int]:
    return {
        each
        for each in processes
        if Path(f"/proc/{each}/cmdline").exists() and Path(f"/proc/{each}/cmdline").read_bytes()
    }


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("kind", ["forkserver", pytest.param("threads", marks=slow), pytest.param("spawn", marks=slow)])
def test_a_program_that_is_ended(
    database_url: str, script: Script, folder: str, kind: str, sent: signal.Signals
) -> None:
    """Ctrl-C waits for what has begun and leaves no process; after SIGKILL another one goes on."""
    process = script(STORY, database_url, folder, kind, "begin")
    assert process.stdout is not None
    assert process.stderr is not None
    first = int(process.stdout.readline())
    below = children(process.pid)
    assert below or kind == "threads"
    process.send_signal(sent)
    if sent is signal.SIGKILL:
        process.wait()
        for each in below:  # Python's pools do not notice that they are orphans
            os.kill(each, signal.SIGKILL)
    else:
        assert process.stdout.readline() == "interrupted\n"
    go(folder, "go")
    out, error = process.communicate(timeout=60)
    if sent is signal.SIGINT:
        assert error.rstrip().endswith("KeyboardInterrupt"), error
        assert not running(below)
    begun = Counter(notes(folder))
    had_row = {first, *map(int, out.split())}
    process = script(STORY, database_url, folder, kind, "continue")
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (0, "")
    later = Counter(notes(folder)) - begun
    assert not {f"work-{i}-{attempt}" for i in had_row for attempt in (1, 2)} & later.keys()
    if sent is signal.SIGKILL:
        again = {line.split("-")[1] for line in begun} - {str(i) for i in had_row}
        assert {line for line in later if line.split("-")[1] in again} == {f"work-{i}-2" for i in again}
    with Runner("sync", database_url) as run:
        graph = run.compile(fan(errands.waits))
        assert run.get_state(graph, {"thread_id": "t"}).values["log"] == [*range(8)]
        assert graph.verify({"thread_id": "t"}).ok


# --- no more than is wanted ---------------------------------------------------------------------


class Counting(ThreadPoolExecutor):
    """Knows how many of its futures are alive, and how many calls are under way."""

    def __init__(self, workers: int) -> None:
        super().__init__(workers)
        self.futures: list[weakref.ref[Future[Any]]] = []
        self.alive = self.under_way = self.most = 0
        self._counting = threading.Lock()

    def submit(self, call: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:  # type: ignore[override]
        future = super().submit(self._counted, call, *args)
        with self._counting:
            self.futures = [each for each in self.futures if each() is not None]
            self.futures.append(weakref.ref(future))
            self.alive = max(self.alive, len(self.futures))
        return future

    def _counted(self, call: Any, *args: Any) -> Any:
        with self._counting:
            self.under_way += 1
            self.most = max(self.most, self.under_way)
        try:
            return call(*args)
        finally:
            with self._counting:
                self.under_way -= 1


@pytest.mark.parametrize("most", [1, 3])
def test_max_concurrency(run: Runner, most: int) -> None:
    rendezvous = threading.Barrier(most)

    def node(arg: Any) -> Any:
        rendezvous.wait(20)  # so many are under way at the same time
        return {"log": [arg["i"]]}

    with Counting(8) as pool:
        graph = run.compile(fan(node), executor=pool)
        config = {**new_thread(), "max_concurrency": most}
        run.invoke(graph, {"folder": "", "n": 6 * most}, config)
        assert pool.most == most
        assert pool.alive <= most


def test_futures_do_not_pile_up(way: str) -> None:
    """Law 13: of a fan-out of 500 no more are handed over than threads of the run wait for."""
    with Runner(way, False) as run, Counting(4) as pool:
        graph = run.compile(fan(lambda arg: {"log": [arg["i"]]}), executor=pool)
        assert run.invoke(graph, {"folder": "", "n": 500})["log"] == [*range(500)]
        assert pool.alive <= 32 + 1
        gc.collect()
        assert not [each for each in pool.futures if each() is not None]


# --- other executors ----------------------------------------------------------------------------


class AtOnce(Executor):
    """Calls it where it is submitted."""

    def submit(self, call: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:  # type: ignore[override]
        future: Future[Any] = Future()
        future.set_result(call(*args))
        return future


class Refusing(Executor):
    def submit(self, call: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:  # type: ignore[override]
        raise OSError("no route to host")


class Cancelling(Executor):
    def submit(self, call: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:  # type: ignore[override]
        future: Future[Any] = Future()
        future.cancel()
        return future


class Pickling(Executor):
    """As one that sends to other machines: all goes through pickle, and what it raises is its own."""

    def submit(self, call: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:  # type: ignore[override]
        import pickle

        future: Future[Any] = Future()
        try:
            sent = pickle.dumps((call, args))
        except Exception as error:
            raise TypeError("could not serialize") from error
        call, args = pickle.loads(sent)
        future.set_result(pickle.loads(pickle.dumps(call(*args))))
        return future


def test_an_executor_of_ones_own(run: Runner) -> None:
    graph = run.compile(fan(lambda arg: {"log": [arg["i"]]}), executor=AtOnce())
    assert run.invoke(graph, {"folder": "", "n": 5}, new_thread())["log"] == [*range(5)]
    with pytest.raises(ExecutorError, match=r"Node 'node' of thread .*: OSError: no route to host"):
        run.invoke(run.compile(one(elsewhere), executor=Refusing()), {}, new_thread())
    with pytest.raises(ExecutorError, match=r"the call was cancelled, but not by the run"):
        run.invoke(run.compile(one(elsewhere), executor=Cancelling()), {}, new_thread())


def test_an_executor_that_pickles_by_itself(run: Runner, monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    graph = run.compile(nested(), executor=Pickling())
    assert run.invoke(graph, {"folder": folder, "n": 3}, new_thread())["log"] == [0, 1, 2, 100, 101, 102]
    monkeypatch.setattr("durable_graph.parcels.BY_VALUE", "no_such_module")  # as where cloudpickle is not installed
    graph = run.compile(one(lambda state: {"n": 1}), executor=Pickling())
    with pytest.raises(UnsendableError, match="its function"):
        run.invoke(graph, {}, new_thread())


def test_functions_go_by_value_where_cloudpickle_is_installed(run: Runner) -> None:
    pytest.importorskip("cloudpickle")
    graph = run.compile(one(lambda state: {"n": state["n"] + 1}), executor=Pickling())
    assert run.invoke(graph, {"n": 1}, new_thread())["n"] == 2


# --- drawing ------------------------------------------------------------------------------------


async def anode(state: State) -> State:
    return {}


@pytest.mark.parametrize(
    ("draw", "words"),
    [
        (lambda: one(anode, executor=ThreadPoolExecutor), r"node 'node' has an executor but is no plain function"),
        (lambda: one(one(elsewhere).compile(False), executor=ThreadPoolExecutor), r"but is no plain function"),
        (lambda: one(elsewhere, executor=4), r"executor=4 of node 'node' is neither .*functools\.partial"),
        (lambda: one(elsewhere).compile(False, executor="pool"), r"executor='pool' of compile\(\)"),
        (lambda: one(elsewhere, executor=ThreadPoolExecutor, timeout=1), r"has a timeout but is no async"),
    ],
)
def test_what_cannot_be_drawn(draw: Any, words: str) -> None:
    with pytest.raises(DrawingError, match=words):
        draw()


# --- who may go in ------------------------------------------------------------------------------


def test_the_gate_lets_one_in_alone() -> None:
    gate = executors._Gate()
    first, second = gate.ask(False), gate.ask(False)
    alone, gone, after = gate.ask(True), gate.ask(True), gate.ask(False)
    assert (first.done(), second.done(), alone.done(), after.done()) == (True, True, False, False)
    gone.cancel()
    gate.leave()
    assert not alone.done()
    gate.leave()
    assert (alone.done(), after.done()) == (True, False)
    gate.leave()
    assert after.done()
    assert gate._inside == 1
