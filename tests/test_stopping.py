"""Law 12: stopping is clean anywhere. Whatever ends a run, nothing of it is left, and the thread goes on at once.

What could be left is counted: threads, files and sockets of this process, connections that the server knows of,
leases in the database and in this process, transactions that were not ended.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sqlite3
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest
from conftest import Script, connected, finished
from sqlalchemy import make_url

from durable_graph import START, CachePolicy, Log, Send, StateGraph, drivers, leases, task, transactions, unfinished
from durable_graph import beat as beats
from durable_graph.crew import Crew
from durable_graph.errors import StoreUnavailableError
from durable_graph.executors import Awaited
from durable_graph.offload import Offload
from durable_graph.store import Row
from durable_graph.store.memory import MemoryStore
from tests.graphs import PATIENCE, WAYS, Calls, Runner, State, chain, durable_threads, new_thread, nodes_of, until, wide

linux = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")


class Gone(Exception):
    """The consumer has had enough."""


# --- what is there ------------------------------------------------------------------------------


@pytest.fixture(autouse=True, scope="module")
def quick_collections() -> Iterator[None]:
    """Each test collects garbage several times: of its own, and not of all that there was before."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def handles() -> Counter[str]:
    """Open files and sockets by name; sockets by kind, as their numbers change."""
    gc.collect()  # a loop of asyncio.run that somebody refers to
    found: Counter[str] = Counter()
    for number in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the one that lists them
            found[str(number.readlink()).partition(":[")[0]] += 1
    return found


def connections(url: str) -> list[str]:
    """What the server's connections of this test are at."""
    name = make_url(url).query["application_name"]
    with connected(make_url(url)) as other:
        found = other.execute(
            f"SELECT state FROM pg_stat_activity WHERE application_name = '{name}' AND pid <> pg_backend_pid()"
        ).fetchall()
    return [str(state) for (state,) in found]


def check_idle(graph: Any, url: str) -> None:
    """Nothing is under way, although the graph is open and may keep connections."""
    gc.collect()
    assert durable_threads() == []
    assert not leases._held
    assert not beats._kept
    assert not unfinished._open
    store = graph._stored()
    assert {thread.lease_owner for thread in store.threads()} <= {None}
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(make_url(url).database or "", timeout=0, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")  # nobody has the lock
    else:
        deadline = time.monotonic() + PATIENCE
        while {*connections(url)} - {"idle"}:
            assert time.monotonic() < deadline, connections(url)


def check_nothing_left(url: str, before: Counter[str]) -> None:
    assert handles() == before
    deadline = time.monotonic() + PATIENCE
    while not url.startswith("sqlite") and connections(url):
        assert time.monotonic() < deadline, "the server still has connections of ours"


# --- ways to stop -------------------------------------------------------------------------------


def consume(run: Runner, graph: Any, config: Any, how: str) -> None:
    """The first event, and then the consumer goes, in one of the ways in which one can."""
    if how == "consumer":

        def fail(event: Any) -> None:
            raise Gone

        with pytest.raises(Gone):
            run.watch(fail, graph, {"log": []}, config)
    elif how == "break":
        run.each(lambda _: True, graph, "stream", {"log": []}, config)
    elif run.way == "sync":
        chunks = graph.stream({"log": []}, config)
        next(chunks)
        if how == "thrown":
            with pytest.raises(Gone):
                chunks.throw(Gone)
        elif how == "dropped":
            del chunks
    else:

        async def main() -> None:
            chunks = graph.astream({"log": []}, config)
            await anext(chunks)
            if how == "thrown":
                with pytest.raises(Gone):
                    await chunks.athrow(Gone)
            elif how == "dropped":
                del chunks

        asyncio.run(main())


def cancel(run: Runner, graph: Any, config: Any, begun: threading.Event, go: threading.Event) -> None:
    """Cancel the asyncio task while a node is at work. A plain node cannot be stopped: it is let go a moment later."""

    async def main() -> None:
        work = asyncio.create_task(graph.ainvoke({"log": []}, config))
        await until(begun)
        work.cancel()
        await asyncio.sleep(0)
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await work

    asyncio.run(main())


RAISED = {
    "error": ValueError,
    "Ctrl-C": KeyboardInterrupt,
    "exit": SystemExit,
    "GeneratorExit": GeneratorExit,
    "StopIteration": StopIteration,
    "CancelledError": asyncio.CancelledError,
}
GOES = ["break", "consumer", "thrown", "dropped"]
DRAWN = {"alone": chain, "side by side": wide}


@linux
@pytest.mark.parametrize("drawn", DRAWN)
@pytest.mark.parametrize("how", ["end", *GOES, *RAISED, "cancelled"])
@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_left(database_url: str, way: str, how: str, drawn: str) -> None:
    if how == "cancelled" and way == "sync":
        pytest.skip("only a task of asyncio can be cancelled")
    before = handles()
    calls, config, begun, go = Calls(), new_thread(), threading.Event(), threading.Event()
    with Runner(way, database_url) as run:
        special: dict[str, Any] = {"b": calls.failing("b", 1, RAISED[how])} if how in RAISED else {}
        if how == "cancelled":
            special["b"] = run.waiting(go, calls.node("b"), lambda *_: begun.set())
        graph = run.compile(DRAWN[drawn](run, calls, **special))
        if how == "end":
            run.invoke(graph, {"log": []}, config)
        elif how == "cancelled":
            cancel(run, graph, config, begun, go)
        elif how in RAISED:
            with pytest.raises((RAISED[how], RuntimeError, KeyboardInterrupt)):  # PEP 479; asyncio's loop on Ctrl-C
                run.invoke(graph, {"log": []}, config)
        else:
            consume(run, graph, config, how)
        check_idle(graph, database_url)
        if how != "end" and run.get_state(graph, config).next:
            run.invoke(graph, None, config)
        names = [*"abc"] if drawn == "alone" else [*"abc", "end"]
        assert run.get_state(graph, config).values["log"] == names
        assert graph.verify(config).ok
        check_idle(graph, database_url)
    check_nothing_left(database_url, before)


@linux
@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("drawn", DRAWN)
@pytest.mark.parametrize("way", ["async", "threads"])
def test_cancelled_on_any_way_to_the_store(
    database_url: str, way: str, drawn: str, cached: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is being written then will be there, and nobody waits for a node that waits for what never comes."""
    begin, ways, at, stopped = Offload.begin, 0, 0, True
    needed = {"a"} if drawn == "alone" else {"a", "c"}

    def beginning(self: Offload, call: Callable[[], Any]) -> asyncio.Future[Any]:
        nonlocal ways
        ways += 1
        if ways == at:
            consumer = asyncio.current_task()
            assert consumer is not None
            consumer.cancel()
        return begin(self, call)

    async def consume() -> None:
        async for event in graph.astream({"n": at, "log": []}, config):
            seen.extend(event)
            if needed <= {*seen}:
                freed.set()

    async def main() -> bool:
        consumer = asyncio.create_task(consume())
        await asyncio.wait([consumer])
        return consumer.cancelled()

    async def waits(state: State) -> State:
        await freed.wait()
        return {"log": ["b"]}

    with Runner(way, database_url) as run:
        while stopped:
            at, ways, config = at + 1, 0, new_thread()
            seen, freed = list[str](), asyncio.Event()
            builder = DRAWN[drawn](run, Calls(), b=waits)
            if cached:
                builder.set_node_defaults(cache_policy=CachePolicy())
            graph = run.compile(builder, cache=cached)
            with monkeypatch.context() as patched:
                patched.setattr(Offload, "begin", beginning)
                stopped = asyncio.run(main())
            check_idle(graph, database_url)
            freed.set()
            left = graph.get_state(config)
            if left.created_at:
                assert {*seen} <= {*nodes_of(run.replay(graph, config))}
            if left.next or not left.created_at:
                run.invoke(graph, None if left.next else {"n": at, "log": []}, config)
            assert sorted(graph.get_state(config).values["log"]) == [*"abc", "end"][: 3 if drawn == "alone" else 4]
            assert graph.verify(config).ok
    assert at > 4


@linux
def test_a_loop_that_ends_at_once_closes_what_was_dropped(database_url: str) -> None:
    """asyncio.run() cancels the closing before it has begun. Then Python throws twice into a generator: first
    CancelledError, and GeneratorExit where it awaits something for the first time after that."""
    before, never = handles(), threading.Event()

    async def waits(state: State) -> dict[str, Any]:
        await asyncio.Event().wait()
        return {}

    def works_on(state: State) -> dict[str, Any]:
        never.wait(0.05)  # it cannot be stopped
        return {"log": ["c"]}

    async def main(stream: Callable[[], AsyncIterator[Any]]) -> None:
        await anext(stream())

    with Runner("threads", database_url) as run:
        graph = run.compile(wide(run, Calls(), "abc", b=waits, c=works_on))
        for _ in range(3):
            config = new_thread()
            asyncio.run(main(partial(graph.astream, {"log": []}, config)))
            check_idle(graph, database_url)
            asyncio.run(main(partial(graph.aget_state_history, config)))
            check_idle(graph, database_url)
    check_nothing_left(database_url, before)


@pytest.mark.parametrize("how", ["cancelled", "failed"])
def test_what_waits_for_a_thread_has_not_begun(database_url: str, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain nodes under asyncio: two threads for ten of them. Eight are taken back, or nine, and are called later."""
    begun, go, called, config = threading.Event(), threading.Event(), list[int](), new_thread()
    take_back = Awaited.take_back

    def node(number: int) -> State:
        called.append(number)
        if how == "failed" and called == [number]:
            raise ValueError(number)
        begun.set()
        assert go.wait(PATIENCE)
        return {"log": [str(number)]}

    def taking_back(awaited: Awaited) -> Any:
        taken = take_back(awaited)
        go.set()
        return taken

    async def main() -> None:
        consumer = asyncio.create_task(graph.ainvoke({}, config))
        if how == "cancelled":
            await until(begun)
            consumer.cancel()
        with pytest.raises(asyncio.CancelledError if how == "cancelled" else ValueError):
            await consumer

    monkeypatch.setattr(Awaited, "take_back", taking_back)
    monkeypatch.setattr(drivers, "WORKERS", 2)
    builder = StateGraph(State).add_node("node", node)
    builder.add_conditional_edges(START, lambda state: [Send("node", number) for number in range(10)])
    with Runner("threads", database_url) as run:
        graph = run.compile(builder)
        asyncio.run(main())
        assert len(called) <= 3
        assert durable_threads() == []
        assert run.invoke(graph, None, config)["log"] == [str(number) for number in range(10)]
        assert graph.verify(config).ok
        assert len(called) == (10 if how == "cancelled" else 11)


def test_a_call_that_is_made_while_a_run_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing begins any more: neither the call, nor a thread for it that nobody would end."""
    ending = threading.Event()
    dismiss = Crew.dismiss

    def dismissing(crew: Crew) -> None:
        dismiss(crew)
        ending.set()

    class Failing(MemoryStore):
        def append(self, rows: Sequence[Row], **more: Any) -> None:
            if rows[0].kind == "task":
                raise StoreUnavailableError(store=self.name, problem="it is gone", fix="")
            super().append(rows, **more)

    @task
    def call() -> str:
        return "late"

    def calls(state: State) -> dict[str, Any]:
        assert ending.wait(PATIENCE)
        return {"log": [call().result()]}

    monkeypatch.setattr(Crew, "dismiss", dismissing)
    with Runner("sync", Failing()) as run:  # type: ignore[arg-type]
        graph = run.compile(wide(run, Calls(), "ab", b=calls))
        with pytest.raises(StoreUnavailableError):
            run.invoke(graph, {"log": []}, new_thread())
    assert durable_threads() == []


# --- the end of a program -----------------------------------------------------------------------

LEFT_OPEN = """
import asyncio, sys
from tests.test_stopping import several
graphs = [several(kind).compile(sys.argv[1]) for kind in ("alone", "side by side", "calls", "above")]
streams = [graph.stream({"log": []}, {"thread_id": graph.name}, stream_mode="tasks") for graph in graphs]
for stream in streams:
    for _ in range(3):
        next(stream)

async def main():
    graph = several("async").compile(sys.argv[1])
    streams.append(graph.astream({"log": []}, {"thread_id": "async"}))
    await anext(streams[-1])

asyncio.run(main())
"""


def several(kind: str) -> StateGraph[State]:
    """Graphs that have threads of their own while they run, and one that has none."""

    @task
    def call(number: int) -> str:
        return str(number)

    def node(state: State) -> dict[str, Any]:
        calls = [call(number) for number in range(3)] if kind == "calls" else []
        return {"log": [one.result() for one in calls]}

    builder = StateGraph(State)
    for name in "abcdef":
        builder.add_node(name, several("alone").compile() if kind == "above" else node)
    if kind == "side by side":
        for name in "abcdef":
            builder.add_edge(START, name)
    else:
        builder.add_edge(START, "a")
        for first, then in ("ab", "bc", "cd", "de", "ef"):
            builder.add_edge(first, then)
    builder.compile = partial(builder.compile, name=kind)  # type: ignore[method-assign]
    return builder


def test_a_program_may_end_with_open_iterators(database_url: str, script: Script) -> None:
    """They are closed while everything still works: without a word, and no lease is left."""
    assert finished(script(LEFT_OPEN, database_url)) == ""
    with Log(database_url) as log:
        left = {thread.thread_id: (thread.status, thread.lease_owner) for thread in log.threads()}
    names = {"alone", "side by side", "calls", "above", "async"}
    assert names < left.keys(), "those above, and of a subgraph"
    assert {owner for _, owner in left.values()} == {None}
    assert {status for status, _ in left.values()} <= {"pending", "finished"}
    for name in names - {"side by side"}:
        assert left[name] == ("pending", None)


NOT_CLOSED = """
import sys
from durable_graph.store.sql import SqlStore
from tests.test_stopping import several
stream = several("alone").compile(sys.argv[1]).stream({"log": []}, {"thread_id": "t"})
next(stream)

def refuse(*_):
    raise OSError("the disk is gone")

SqlStore.change_thread = SqlStore.append = refuse
"""


def test_an_iterator_that_cannot_be_closed_at_the_end_is_a_line_in_the_log(sqlite_url: str, script: Script) -> None:
    process = script(NOT_CLOSED, sqlite_url)
    _, error = process.communicate(timeout=60)
    assert error == "an iterator that was open at the end of the program was not closed: the disk is gone\n"


# --- fork() after use ---------------------------------------------------------------------------

FORKED = """
import os, sys, threading
from tests.graphs import WAYS, Calls, Runner, wide
from tests.test_stopping import handles
for way in WAYS:
    before = handles()
    runner = Runner(way, sys.argv[1])
    graph = runner.compile(wide(runner, Calls()))
    whole = runner.invoke(graph, {"log": []}, {"thread_id": f"before {way}"})
    if (child := os.fork()) == 0:
        assert threading.active_count() == 1
        assert handles() == before, handles() - before
        assert runner.invoke(graph, {"log": []}, {"thread_id": f"{way}, in the child"}) == whole
        graph.close()
        assert handles() == before, handles() - before
        sys.exit()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert runner.invoke(graph, {"log": []}, {"thread_id": f"after {way}"}) == whole
    graph.close()
    assert handles() == before, handles() - before
    assert threading.active_count() == 1
"""


@linux
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_fork_after_use_carries_nothing_along(database_url: str, script: Script) -> None:
    assert finished(script(FORKED, database_url)) == ""


# --- Ctrl-C at any moment -----------------------------------------------------------------------


def interrupted_at(moment: int, codes: set[CodeType], call: Callable[[], Any]) -> int:
    """Call it, with a KeyboardInterrupt before the given operation of these functions; how many there were."""
    seen = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal seen
        if frame.f_code not in codes:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            seen += 1
            if seen == moment:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        with suppress(KeyboardInterrupt):
            call()
    finally:
        sys.settrace(before)
    return seen


def test_a_signal_that_does_not_end_the_wait_for_results_is_heard(sqlite_url: str) -> None:
    """As when it comes while the caller's thread is about to wait: here another thread receives it."""
    heard = threading.Event()

    def rings(state: State) -> State:
        time.sleep(0.1)  # until the caller's thread waits
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
        return listens(state)

    def listens(state: State) -> State:
        assert heard.wait(PATIENCE)
        return {"log": ["heard"]}

    before = signal.signal(signal.SIGUSR1, lambda *_: heard.set())
    try:
        with Runner("sync", sqlite_url) as run:
            builder = StateGraph(State).add_node(rings).add_node(listens)
            graph = run.compile(builder.add_edge(START, "rings").add_edge(START, "listens"))
            assert graph.invoke({"log": []}, new_thread())["log"] == ["heard", "heard"]
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("part", range(4))
def test_ctrl_c_between_any_two_operations_loses_nothing_that_has_arrived(part: int, sqlite_url: str) -> None:
    """Where the results of parallel nodes are taken over by the caller's thread: else the run would wait for ever."""
    threads, turns = drivers._Threads, transactions.Transactions
    methods = (
        threads.next,
        threads._take,
        threads._start,
        threads.cancel,
        turns.settle,
        turns.sift,
        transactions._move,
    )
    codes = {method.__code__ for method in methods}
    with Runner("sync", sqlite_url) as run:
        calls = Calls()
        builder = StateGraph(State)
        for name in "abc":
            builder.add_node(name, calls.node(name)).add_edge(START, name)
        graph, moment = run.compile(builder), part + 1
        while True:
            config = new_thread()
            calls.clear()
            if interrupted_at(moment, codes, lambda config=config: graph.invoke({"log": []}, config)) < moment:
                break  # there are no more
            if graph.get_state(config).next:
                graph.invoke(None, config)
            assert sorted(graph.get_state(config).values["log"]) == ["a", "b", "c"]
            assert graph.verify(config).ok
            moment += 4
        assert moment > 100
