"""Law 5: one writer. Leases and their beat, waiting for a busy thread, takeovers, zombies, forks and recovery."""

from __future__ import annotations

import asyncio
import logging
import operator
import os
import random
import re
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from conftest import Script, by_turns, finished

from durable_graph import (
    START,
    ArgumentError,
    ChangedGraphError,
    CompiledGraph,
    FencedError,
    Recovered,
    StateGraph,
    Thread,
    ThreadBusyError,
    drivers,
    interrupt,
    leases,
    recovery,
)
from durable_graph import beat as beats
from durable_graph import compiled as compiled_module
from durable_graph.core import runtime
from durable_graph.core.times import iso
from durable_graph.errors import StoreUnavailableError, ThreadWaitingError
from durable_graph.store import Claim
from durable_graph.store.sql import SqlStore
from tests.graphs import PATIENCE, WAYS, Calls, Runner, chain, durable_threads, new_thread, wide

NOON = 1_800_000_000.0
ELSEWHERE = "far-away/b00tb00t/7/99/run"  # a process on another host


@pytest.fixture(params=WAYS)
def run(request: pytest.FixtureRequest, database_url: str) -> Iterator[Runner]:
    with Runner(request.param, database_url) as runner:
        yield runner


class Clock:
    """Time that passes when a run waits, or when it is told to."""

    def __init__(self) -> None:
        self.now = NOON
        self.pauses: list[float] = []
        self.at_pause: Callable[[], Any] = lambda: None

    def pause(self, seconds: float) -> None:
        self.pauses.append(round(seconds, 6))
        self.now += seconds
        self.at_pause()

    async def apause(self, seconds: float) -> None:
        self.pause(seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(drivers, "clock", lambda: clock.now)
    monkeypatch.setattr(drivers, "pause", clock.pause)
    monkeypatch.setattr(drivers, "apause", clock.apause)
    return clock


@pytest.fixture
def quick_beat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beats, "interval", 0.005)
    monkeypatch.setattr(beats, "retry", 0.005)


def id_of(config: dict[str, Any]) -> str:
    return str(config["configurable"]["thread_id"])


def thread_of(graph: CompiledGraph[Any], config: dict[str, Any]) -> Thread:
    thread = graph._stored().thread(id_of(config))
    assert thread is not None
    return thread


def steps_of(graph: CompiledGraph[Any], config: dict[str, Any]) -> list[tuple[str, str | None]]:
    return [(row.kind, row.node) for row in graph._stored().rows(id_of(config))]


def dead_owner(here: bool = False) -> str:
    """A process of this host that is no more: our number, but another start. Or a run of this process that is over."""
    owner = leases.hold("run")
    leases.let_go(owner)
    host, boot, pid, _, _ = owner.split("/")
    return owner if here else f"{host}/{boot}/{pid}/1/run"


def leave(graph: CompiledGraph[Any], config: dict[str, Any], owner: str, expires_at: float = 10 * NOON) -> Thread:
    """As if a process had died while it ran this thread."""
    thread = thread_of(graph, config)
    lease = {"lease_owner": owner, "lease_since": iso(NOON), "lease_expires_at": iso(expires_at)}
    assert graph._stored().change_thread(id_of(config), Claim(thread.epoch, {"status": "running", **lease}))
    return thread_of(graph, config)


def eventually(found: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.002)


# --- the beat -----------------------------------------------------------------------------------


def test_a_long_node_keeps_its_lease(run: Runner, clock: Clock, quick_beat: None) -> None:
    """Longer than a lease, while nothing is committed: the beat alone keeps it."""
    calls, config, begun, go = Calls(), new_thread(), threading.Event(), threading.Event()
    node = run.waiting(go, calls.node("a"), lambda *_: begun.set())
    graph = run.compile(chain(run, calls, a=node))
    worker = threading.Thread(target=run.invoke, args=(graph, {"log": []}, config))
    worker.start()
    try:
        assert begun.wait(PATIENCE)
        for _ in range(5):
            clock.now += 0.9 * leases.SECONDS
            eventually(lambda: thread_of(graph, config).lease_expires_at == iso(clock.now + leases.SECONDS))
        with pytest.raises(ThreadBusyError) as caught:
            Runner("sync", run.url).invoke(graph, None, config)
        assert caught.value.since == iso(NOON)
    finally:
        go.set()
        worker.join()
    assert thread_of(graph, config).status == "finished"
    assert calls == ["a", "b", "c"]


def test_one_beat_for_all_runs_and_one_statement_for_each_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick_beat: None
) -> None:
    monkeypatch.setattr(runtime, "calls_are_possible", False)  # else a @task of another test has threads for nodes
    renewals: list[tuple[Any, int]] = []
    renew = SqlStore._renew

    def spy(store: SqlStore, database: Any, held: Any, expires_at: str) -> None:
        renew(store, database, held, expires_at)
        renewals.append((store.name[-4:], len(held)))

    monkeypatch.setattr(SqlStore, "_renew", spy)
    with Runner("sync", f"sqlite:///{tmp_path}/1.db") as one, Runner("sync", f"sqlite:///{tmp_path}/2.db") as two:
        graphs = [one.compile(chain(one, Calls())), two.compile(chain(two, Calls()))]
        streams = [graph.stream({"log": []}, new_thread()) for graph in graphs for _ in range(3)]
        assert durable_threads() == []
        for stream in streams:
            next(stream)
        assert durable_threads().count("durable_graph_beat") == 1
        renewals.clear()
        eventually(lambda: len(renewals) >= 6)
        assert set(renewals[2:6]) == {("1.db", 3), ("2.db", 3)}
        for stream in streams[1:]:
            stream.close()
        assert durable_threads().count("durable_graph_beat") == 1
        assert list(streams[0])
        assert durable_threads() == []


@pytest.mark.parametrize("how", ["end", "break", "error", "interrupt", "busy"])
def test_the_beat_ends_with_the_last_lease(run: Runner, how: str) -> None:
    error = KeyboardInterrupt if how == "interrupt" else None
    calls, config = Calls(), new_thread()
    graph = run.compile(chain(run, calls, b=calls.failing("b", 0 if how in ("end", "break") else 1, error)))
    seen: list[list[str]] = []
    if how == "break":
        run.each(lambda _: seen.append(durable_threads()) or True, graph, "stream", {"log": []}, config)
    else:
        try:
            run.watch(lambda _: seen.append(durable_threads()), graph, {"log": []}, config)
        except (ValueError, KeyboardInterrupt):
            assert how not in ("end", "break")
    assert all("durable_graph_beat" in names for names in seen)
    assert seen
    if how == "busy":
        leave(graph, config, ELSEWHERE)
        with pytest.raises(ThreadBusyError):
            run.invoke(graph, None, config)
    assert durable_threads() == []
    assert not beats._kept


def test_what_holds_no_lease_has_no_beat(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beats, "_start", lambda: pytest.fail("there is no lease to renew"))
    config, graph = new_thread(), run.compile(chain(run, Calls()))
    run.update_state(graph, config, {"log": ["x"]}, as_node="a")
    run.fork(graph, config, "forked")
    assert run.get_state(graph, config).next == ("b",)
    with Runner(run.way, False) as nowhere:
        assert nowhere.invoke(nowhere.compile(chain(nowhere, Calls())), {"log": []}) == {"log": ["a", "b", "c"]}


@pytest.mark.parametrize(
    "error", [StoreUnavailableError(store="it", problem="is down", fix="Wait"), ZeroDivisionError()]
)
def test_a_renewal_that_fails_is_tried_again(
    run: Runner, clock: Clock, quick_beat: None, monkeypatch: pytest.MonkeyPatch, caplog: Any, error: Exception
) -> None:
    """The run does not notice; whoever reads the log does."""
    renew, failures = SqlStore.renew, [error] * 3
    config, begun, go = new_thread(), threading.Event(), threading.Event()

    def failing(*arguments: Any) -> None:
        if failures:
            raise failures.pop()
        renew(*arguments)

    monkeypatch.setattr(SqlStore, "renew", failing)
    node = run.waiting(go, lambda _: {"log": ["a"]}, lambda *_: begun.set())
    graph = run.compile(chain(run, Calls(), a=node))
    worker = threading.Thread(target=run.invoke, args=(graph, {"log": []}, config))
    with caplog.at_level(logging.WARNING, "durable_graph"):
        worker.start()
        try:
            assert begun.wait(PATIENCE)
            clock.now += 50
            eventually(lambda: thread_of(graph, config).lease_expires_at == iso(clock.now + leases.SECONDS))
        finally:
            go.set()
            worker.join()
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 3
    assert "1 leases in" in caplog.text
    assert thread_of(graph, config).status == "finished"


def test_a_process_that_cannot_start_a_thread_runs_all_the_same(
    run: Runner, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(beats._Beat, "start", refuse)
    graph = run.compile(chain(run, Calls()))
    assert run.invoke(graph, {"log": []}, new_thread()) == {"log": ["a", "b", "c"]}
    assert "leases are not renewed" in caplog.text


OPEN_AT_THE_END = """
import sys
from durable_graph import beat
from tests.graphs import Calls, Runner, chain
beat.interval = 0.0001  # at the end it is as good as always in the middle of a renewal
runner = Runner("sync", sys.argv[1])
stream = runner.compile(chain(runner, Calls())).stream({"log": []}, {"thread_id": "t"})
print(next(stream))
"""


def test_an_open_iterator_does_not_keep_a_program_from_ending(database_url: str, script: Script) -> None:
    assert finished(script(OPEN_AT_THE_END, database_url)) == "{'a': {'log': ['a']}}\n"


# --- fork() -------------------------------------------------------------------------------------

FORKED = """
import os, sys, threading
from durable_graph import StoreError, beat, leases
from tests.graphs import Calls, Runner, chain, durable_threads
runner = Runner("sync", sys.argv[1])
graph = runner.compile(chain(runner, Calls()))
stream = graph.stream({"log": []}, {"thread_id": "t"}, stream_mode=["updates", "custom"] if sys.argv[2] else "updates")
next(stream)
if (child := os.fork()) == 0:
    assert not beat._kept and not leases._held and threading.active_count() == 1
    if sys.argv[3] == "next":
        try:
            next(stream)
        except StoreError as error:
            assert "fork" in str(error)
        else:
            os._exit(1)
    elif sys.argv[3] == "close":
        stream.close()
    assert graph.invoke({"log": []}, {"thread_id": "of the child"})["log"] == ["a", "b", "c"]
    assert durable_threads() == []
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
assert graph._stored().thread("t").lease_owner in leases._held
assert "durable_graph_beat" in durable_threads()
rest = [chunk[-1] if sys.argv[2] else chunk for chunk in stream]
assert rest == [{"b": {"log": ["b"]}}, {"c": {"log": ["c"]}}], rest
assert durable_threads() == []
runner.__exit__()
"""


@pytest.mark.parametrize("does", ["next", "close", "exit"])
@pytest.mark.parametrize(("database_url", "beside"), by_turns("", "beside"), indirect=["database_url"])
def test_a_child_has_no_part_in_its_parents_run(database_url: str, script: Script, does: str, beside: str) -> None:
    """It neither goes on with it nor gives its lease back, whatever it does with the iterator."""
    assert finished(script(FORKED, database_url, beside, does)) == ""


FORKING_NODE = """
import os, sys
from durable_graph import leases
from tests.graphs import Calls, Runner, chain
runner = Runner("sync", sys.argv[1])

def node(state):
    if (child := os.fork()) == 0:
        sys.exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    assert graph._stored().thread("t").lease_owner in leases._held
    return {"log": ["b"]}

graph = runner.compile(chain(runner, Calls(), b=node))
print(graph.invoke({"log": []}, {"thread_id": "t"}))
runner.__exit__()
"""


def test_a_child_that_leaves_a_node_leaves_the_run_to_its_parent(database_url: str, script: Script) -> None:
    assert finished(script(FORKING_NODE, database_url)) == "{'log': ['a', 'b', 'c']}\n"


# --- waiting for a busy thread ------------------------------------------------------------------


def test_a_busy_thread_is_waited_for(run: Runner, clock: Clock) -> None:
    """And then continued from where the other one left it."""
    calls, config = Calls(), new_thread()
    graph, other = run.compile(chain(run, calls)), Runner("sync", run.url)
    with other, closing(other.compile(chain(other, calls)).stream({"log": []}, config)) as holder:
        next(holder)
        clock.at_pause = lambda: len(clock.pauses) == 6 and holder.close()
        assert run.invoke(graph, None, config, wait=30) == {"log": ["a", "b", "c"]}
    assert calls == ["a", "b", "c"]
    assert clock.pauses == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0]


def test_who_waits_sees_what_the_other_one_has_done(run: Runner, clock: Clock) -> None:
    config, other = new_thread(), Runner("sync", run.url)
    graph = run.compile(chain(run, Calls()))
    with other, closing(other.compile(chain(other, Calls())).stream({"log": []}, config)) as holder:
        next(holder)
        clock.at_pause = lambda: list(holder)
        updated = run.update_state(graph, config, {"log": ["x"]}, as_node="c", wait=1)
        assert updated["configurable"]["step"] == 4
        assert run.get_state(graph, config).values == {"log": ["a", "b", "c", "x"]}
    assert clock.pauses == [0.05]


def test_waiting_has_an_end(run: Runner, clock: Clock) -> None:
    config, other = new_thread(), Runner("sync", run.url)
    graph = run.compile(chain(run, Calls()))
    with other, closing(other.compile(chain(other, Calls())).stream({"log": []}, config)) as holder:
        next(holder)
        for call, wait in (
            (lambda w: run.stream(graph, None, config, wait=w), 4),
            (lambda w: run.invoke(graph, None, config, wait=w), 0.07),
        ):
            clock.pauses.clear()
            with pytest.raises(ThreadBusyError) as caught:
                call(wait)
            assert sum(clock.pauses) == pytest.approx(wait)
            assert caught.value.owner == thread_of(graph, config).lease_owner
        clock.pauses.clear()
        with pytest.raises(ThreadBusyError):
            run.invoke(graph, None, config)
        assert clock.pauses == []
        assert len(list(holder)) == 2


@pytest.mark.parametrize("wait", [-1, float("nan"), "3"])
def test_a_time_to_wait_is_a_number_of_seconds(run: Runner, wait: Any) -> None:
    graph = run.compile(chain(run, Calls()))
    with pytest.raises(ArgumentError, match=r"^wait: "):
        run.invoke(graph, {"log": []}, new_thread(), wait=wait)


def test_who_waits_can_be_stopped(run: Runner, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """By Ctrl-C or by cancelling the task. The one that has the thread does not notice."""
    config, other = new_thread(), Runner("sync", run.url)
    graph = run.compile(chain(run, Calls()))

    def ctrl_c() -> None:
        raise KeyboardInterrupt

    async def cancelled() -> None:
        waiting = asyncio.Event()

        async def apause(seconds: float) -> None:
            waiting.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(drivers, "apause", apause)
        task = asyncio.create_task(graph.ainvoke(None, config, wait=60))
        await waiting.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with other, closing(other.compile(chain(other, Calls())).stream({"log": []}, config)) as holder:
        next(holder)
        owner = thread_of(graph, config).lease_owner
        if run.way == "sync":
            clock.at_pause = ctrl_c
            with pytest.raises(KeyboardInterrupt):
                graph.invoke(None, config, wait=60)
        else:
            asyncio.run(cancelled())
        assert thread_of(graph, config).lease_owner == owner
        assert len(list(holder)) == 2


# --- owners -------------------------------------------------------------------------------------


def test_who_is_alive() -> None:
    owner = leases.hold("run")
    host, boot, pid, start, _ = owner.split("/")
    try:
        assert leases.alive(owner)
        assert leases.is_held(owner)
        assert not leases.alive(f"{host}/{boot}/{pid}/{start}/another run")
        assert not leases.alive(f"{host}/{boot}/{pid}/{int(start) - 1}/run")  # its number was given out again
        assert not leases.alive(f"{host}/0ld/{pid}/{start}/run")  # before the last boot
        assert not leases.alive(f"{host}/{boot}/{2**22 + 1}/{start}/run")
        assert leases.alive(f"{host}/{boot}/1/{leases._started(1)}/run")  # another process, of another user perhaps
        for unknown in (ELSEWHERE, "", "/", "me", f"{host}/{boot}/many/{start}/run", f"{host}/{boot}", "🚀/a/1/2/3"):
            assert leases.alive(unknown), unknown
    finally:
        leases.let_go(owner)
    assert not leases.alive(owner)


def test_a_process_that_has_ended_but_was_not_waited_for_is_dead() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        owner = leases._process(process.pid) + "/run"
        assert leases.alive(owner)
        assert process.stdin is not None
        process.stdin.close()
        eventually(lambda: not leases.alive(owner))


def test_a_container_counts_as_another_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of them may have one name, but they do not see each other's processes."""
    for inner, name in (("pid:[4026531836]", "shared"), ("pid:[4026532999]", "shared+4026532999")):
        monkeypatch.setattr(leases.Path, "readlink", lambda self, inner=inner: Path(inner))
        monkeypatch.setattr(leases.socket, "gethostname", lambda: "shared")
        assert leases._host.__wrapped__() == name
    monkeypatch.undo()
    host, rest = leases._process(os.getpid()).split("/", 1)
    assert leases.alive(f"{host}+1/{rest}/run")


# --- takeovers ----------------------------------------------------------------------------------


def test_the_dead_of_this_host_are_replaced_at_once(run: Runner, clock: Clock) -> None:
    calls, config = Calls(), new_thread()
    graph = run.compile(chain(run, calls))
    run.first(1, graph, {"log": []}, config)
    before = leave(graph, config, dead_owner())
    assert run.invoke(graph, None, config) == {"log": ["a", "b", "c"]}
    assert thread_of(graph, config).epoch == before.epoch + 1
    assert calls == ["a", "b", "c"]


def test_those_of_another_host_are_replaced_when_their_lease_is_over(run: Runner, clock: Clock) -> None:
    config = new_thread()
    graph = run.compile(chain(run, Calls()))
    run.first(1, graph, {"log": []}, config)
    leave(graph, config, ELSEWHERE, NOON + 60)
    for moment in (NOON, NOON + 59.999999):
        clock.now = moment
        for call in (
            lambda: run.invoke(graph, None, config),
            lambda: run.invoke(graph, {"log": ["no"]}, config),
            lambda: run.update_state(graph, config, {"log": ["no"]}),
        ):
            with pytest.raises(ThreadBusyError, match=re.escape(f"by {ELSEWHERE} since {iso(NOON)}")):
                call()
    clock.now = NOON + 60
    assert run.invoke(graph, None, config) == {"log": ["a", "b", "c"]}


def test_who_waits_takes_over_when_the_lease_is_over(run: Runner, clock: Clock) -> None:
    config = new_thread()
    graph = run.compile(chain(run, Calls()))
    run.first(1, graph, {"log": []}, config)
    leave(graph, config, ELSEWHERE, NOON + 10)
    assert run.invoke(graph, None, config, wait=11) == {"log": ["a", "b", "c"]}
    assert 10 <= clock.now - NOON <= 11


def test_who_loses_the_race_for_a_thread_leaves_it_to_the_winner(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have seen the thread free. The second one's claim is refused, and it must not give back the first one's."""
    config, other, won = new_thread(), Runner("sync", run.url), []
    graph = run.compile(chain(run, Calls()))
    run.first(1, graph, {"log": []}, config)
    with other:
        winner = other.compile(chain(other, Calls())).stream(None, config)
        append = graph._stored().append

        def late(*arguments: Any, **more: Any) -> None:
            if not won:
                won.append(in_a_thread(lambda: next(winner)))
            append(*arguments, **more)

        monkeypatch.setattr(graph._stored(), "append", late)
        with pytest.raises(ThreadBusyError):
            run.invoke(graph, None, config)
        thread = thread_of(graph, config)
        assert (thread.status, thread.lease_owner in leases._held) == ("running", True)
        assert list(winner) == [{"c": {"log": ["c"]}}]
    assert graph.verify(config).ok


def in_a_thread(call: Callable[[], Any]) -> Any:
    found: list[Any] = []
    worker = threading.Thread(target=lambda: found.append(call()))
    worker.start()
    worker.join()
    return found[0]


def above(run: Runner, inner: StateGraph[Any], **settings: Any) -> StateGraph[Any]:
    """A graph with a subgraph."""
    builder = StateGraph(inner.state_schema)
    return builder.add_node("sub", inner.compile(**settings)).add_edge(START, "sub")


def test_a_subgraphs_run_is_recovered_by_the_one_above(run: Runner) -> None:
    """Not by itself, although it is of a graph of that name and its owner is dead."""
    calls, config = Calls(), new_thread()
    graph = run.compile(above(run, chain(run, calls, b=calls.failing("b"))))
    with pytest.raises(ValueError, match="b failed"):
        run.invoke(graph, {"log": []}, config)
    (below,) = [thread for thread in graph.threads() if thread.parent_thread_id]
    assert below.graph == graph.name
    left = leave(graph, {"configurable": {"thread_id": below.thread_id}}, dead_owner())
    assert recovered(run, graph) == []
    assert graph._stored().thread(below.thread_id) == left
    assert run.invoke(graph, None, config) == {"log": ["a", "b", "c"]}


@pytest.mark.parametrize("checkpointer", [None, True])
@pytest.mark.parametrize("where", ["elsewhere", "in another process", "here"])
def test_the_lease_of_a_subgraph_falls_with_that_above(
    run: Runner, clock: Clock, checkpointer: Any, where: str
) -> None:
    """It was renewed at another moment, so it may have a while to go when the other is over. Or it could not be given
    back, as the database was away for a moment."""
    owner = {"elsewhere": ELSEWHERE, "in another process": leases._process(1) + "/run"}.get(where) or dead_owner(
        here=True
    )
    calls, config = Calls(), new_thread()
    graph = run.compile(above(run, chain(run, calls, b=calls.failing("b")), checkpointer=checkpointer))
    with pytest.raises(ValueError, match="b failed"):
        run.invoke(graph, {"log": []}, config)
    (below,) = [thread.thread_id for thread in graph.threads() if thread.parent_thread_id]
    leave(graph, config, owner, NOON)
    leave(graph, {"configurable": {"thread_id": below}}, owner, NOON + 40)
    assert run.invoke(graph, None, config) == {"log": ["a", "b", "c"]}
    assert calls == ["a", "b", "b", "c"]


# --- zombies ------------------------------------------------------------------------------------

ZOMBIE = """
import asyncio, sys
from durable_graph import beat, leases
from tests.graphs import Calls, Runner, chain
leases.SECONDS, beat.interval = 0.6, 0.1
runner = Runner(sys.argv[2], sys.argv[1])

def node(state):
    print("at work", flush=True)
    sys.stdin.readline()
    return {"log": ["b of the zombie"]}

try:
    graph = runner.compile(chain(runner, Calls(), b=node))
    for event in runner.stream(graph, {"log": []}, {"thread_id": "t"}):
        pass
except Exception as error:
    print(type(error).__name__, flush=True)
runner.__exit__()
"""


def test_a_zombie_appends_nothing(run: Runner, script: Script) -> None:
    """Stopped for longer than its lease, replaced, and woken again."""
    zombie = script(ZOMBIE, str(run.url), run.way)
    assert zombie.stdout is not None
    assert zombie.stdout.readline() == "at work\n"
    config = {"configurable": {"thread_id": "t"}}
    graph = run.compile(chain(run, Calls()))
    lease = thread_of(graph, config)
    eventually(lambda: (thread_of(graph, config).lease_expires_at or "") > (lease.lease_expires_at or ""))
    with pytest.raises(ThreadBusyError):
        run.invoke(graph, None, config)
    zombie.send_signal(signal.SIGSTOP)
    assert run.invoke(graph, None, config, wait=PATIENCE) == {"log": ["a", "b", "c"]}
    before, thread = list(graph._stored().rows("t")), thread_of(graph, config)
    zombie.send_signal(signal.SIGCONT)
    out, error = zombie.communicate("go on\n", timeout=60)
    assert (out, error) == ("FencedError\n", "")
    assert list(graph._stored().rows("t")) == before
    assert thread_of(graph, config) == thread
    assert graph.verify(config).ok


def test_a_zombie_does_not_take_its_lease_back(run: Runner, clock: Clock, quick_beat: None) -> None:
    """It wakes, its beat too, while its successor is at work."""
    config, begun, go = new_thread(), threading.Event(), threading.Event()
    node = run.waiting(go, lambda _: {"log": ["b"]}, lambda *_: begun.set())
    graph = run.compile(chain(run, Calls(), b=node))
    errors: list[BaseException] = []

    def work() -> None:
        try:
            run.invoke(graph, {"log": []}, config)
        except BaseException as error:
            errors.append(error)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        assert begun.wait(PATIENCE)
        thread = thread_of(graph, config)
        successor = {"epoch": thread.epoch + 1, "lease_owner": ELSEWHERE, "lease_expires_at": iso(NOON + 5)}
        assert graph._stored().change_thread(id_of(config), Claim(thread.epoch, successor))
        clock.now += 1
        assert beats.renew_all()
    finally:
        go.set()
        worker.join()
    assert [type(error) for error in errors] == [FencedError]
    thread = thread_of(graph, config)
    assert (thread.lease_owner, thread.lease_expires_at) == (ELSEWHERE, iso(NOON + 5))
    assert steps_of(graph, config) == [("input", None), ("task", "a")]


# --- recover ------------------------------------------------------------------------------------


def recovered(run: Runner, graph: CompiledGraph[Any], **settings: Any) -> list[Recovered]:
    return run.each(lambda _: None, graph, "recover", **settings)


def cut_off(run: Runner, graph: CompiledGraph[Any], number: int = 1, **settings: Any) -> dict[str, Any]:
    """A thread whose process died when the first node had ended."""
    config = new_thread()
    run.first(number, graph, {"log": []}, config, **settings)
    leave(graph, config, dead_owner())
    return config


def test_recover_continues_what_the_dead_have_left(run: Runner, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "PAGE", 2)
    calls = Calls()
    graph = run.compile(chain(run, calls))
    configs = []
    for _ in range(5):
        configs.append(cut_off(run, graph))
        clock.now += 1
    assert recovered(run, graph) == [Recovered(id_of(config), "finished", None) for config in configs]
    assert Counter(calls) == {"a": 5, "b": 5, "c": 5}
    assert recovered(run, graph) == []
    for config in configs:
        assert run.get_state(graph, config).values == {"log": ["a", "b", "c"]}
        assert graph.verify(config).ok


def test_recover_leaves_alone_what_nobody_died_of(run: Runner, clock: Clock) -> None:
    calls = Calls()
    graph = run.compile(chain(run, calls, b=calls.failing("b", 1)), name="mine")
    other = Runner("sync", run.url)
    theirs = run.compile(chain(run, calls), name="theirs")
    configs = [new_thread() for _ in range(4)]
    with pytest.raises(ValueError, match="b failed"):
        run.invoke(graph, {"log": []}, configs[0])  # failed
    run.invoke(graph, {"log": []}, configs[1])  # finished
    run.first(1, graph, {"log": []}, configs[2])  # left by its consumer
    run.stream(graph, {"log": []}, configs[3], interrupt_before="b")
    cut_off(run, theirs)
    run.first(1, graph, {"log": []}, elsewhere := new_thread())
    leave(graph, elsewhere, ELSEWHERE, NOON + 1)
    running = other.compile(chain(other, calls), name="mine").stream({"log": []}, new_thread())
    with other, closing(running):
        next(running)
        before = {thread.thread_id: thread for thread in graph.threads()}
        assert recovered(run, graph) == []
        assert {thread.thread_id: thread for thread in graph.threads()} == before
        clock.now += 1
        assert [found.thread_id for found in recovered(run, graph)] == [id_of(elsewhere)]


def test_a_node_that_fails_in_recovery_is_told_of_and_not_tried_for_ever(run: Runner) -> None:
    calls = Calls()
    graph = run.compile(chain(run, calls, b=calls.failing("b", 1)))
    configs = [cut_off(run, graph) for _ in range(2)]
    failed, well = recovered(run, graph)
    assert (failed.thread_id, failed.status, repr(failed.error)) == (
        id_of(configs[0]),
        "failed",
        "ValueError('b failed')",
    )
    assert well == Recovered(id_of(configs[1]), "finished", None)
    assert recovered(run, graph) == []
    assert run.invoke(graph, None, configs[0]) == {"log": ["a", "b", "c"]}


def test_recover_up_to_a_limit_and_as_lazily_as_one_looks(run: Runner) -> None:
    calls = Calls()
    graph = run.compile(chain(run, calls))
    configs = [cut_off(run, graph) for _ in range(4)]
    calls.clear()
    assert recovered(run, graph, limit=0) == []
    assert [found.thread_id for found in recovered(run, graph, limit=2)] == [id_of(config) for config in configs[:2]]
    assert calls == ["b", "c"] * 2
    assert run.each(lambda _: True, graph, "recover") == [Recovered(id_of(configs[2]), "finished", None)]
    assert calls == ["b", "c"] * 3
    assert durable_threads() == []


@pytest.mark.parametrize("how", [KeyboardInterrupt, asyncio.CancelledError, SystemExit])
def test_a_recovery_that_was_stopped_goes_on_with_the_next_one(run: Runner, how: type[BaseException]) -> None:
    """But not after a node that ends the program: that would be so for ever."""
    calls = Calls()
    graph = run.compile(chain(run, calls, b=calls.failing("b", 1, how)))
    config = cut_off(run, graph)
    with pytest.raises(how):
        recovered(run, graph)
    thread = thread_of(graph, config)
    assert (thread.status, thread.lease_owner) == ("pending" if how is SystemExit else "running", None)
    assert durable_threads() == []
    expected = [] if how is SystemExit else [Recovered(id_of(config), "finished", None)]
    assert recovered(run, graph) == expected
    assert calls == (["a", "b"] if how is SystemExit else ["a", "b", "b", "c"])


def test_recover_takes_a_config_and_a_context_for_all(run: Runner) -> None:
    seen: list[Any] = []

    def node(state: Any, runtime: Any) -> dict[str, Any]:
        seen.append((runtime.context, runtime.config["configurable"]["of mine"]))
        return {"log": ["b"]}

    graph = run.compile(chain(run, Calls(), b=node))
    cut_off(run, graph)
    with pytest.raises(ArgumentError, match="names a thread"):
        recovered(run, graph, config=new_thread())
    assert len(recovered(run, graph, config={"configurable": {"of mine": 1}}, context="hello")) == 1
    assert seen == [("hello", 1)]


def asks(calls: Calls, name: str) -> Callable[[Any], dict[str, Any]]:
    def node(state: Any) -> dict[str, Any]:
        calls.append(name)
        return {"log": [interrupt("well?")]}

    return node


def sleeps(state: Any, runtime: Any) -> dict[str, Any]:
    runtime.sleep(100)
    return {"log": ["b"]}


@pytest.mark.parametrize("ended", ["failed", "interrupted", "paused", "waiting"])
def test_a_run_that_died_before_it_could_give_its_lease_back(run: Runner, clock: Clock, ended: str) -> None:
    """Its last row says where it stands: nothing runs, nobody is asked again, no pause is passed over."""
    calls, config = Calls(), new_thread()
    node = {"failed": calls.failing("b"), "interrupted": asks(calls, "b"), "waiting": sleeps}.get(
        ended, calls.node("b")
    )
    graph = run.compile(chain(run, calls, b=node))
    if ended == "failed":
        with pytest.raises(ValueError, match="b failed"):
            run.invoke(graph, {"log": []}, config)
    else:
        run.invoke(graph, {"log": []}, config, interrupt_before="b" if ended == "paused" else None)
    before, steps = thread_of(graph, config), steps_of(graph, config)
    calls.clear()
    leave(graph, config, dead_owner())
    status = "interrupted" if ended == "paused" else ended
    assert recovered(run, graph) == [Recovered(id_of(config), status, None)]
    after = thread_of(graph, config)
    assert (after.status, after.lease_owner, after.wake_at) == (status, None, before.wake_at)
    assert after.epoch > before.epoch
    assert (steps_of(graph, config), calls) == (steps, [])
    assert recovered(run, graph) == []


def test_a_waiting_thread_is_put_right_by_whoever_tries_to_continue_it(run: Runner, clock: Clock) -> None:
    config, graph = new_thread(), run.compile(chain(run, Calls(), b=sleeps))
    run.invoke(graph, {"log": []}, config)
    before = thread_of(graph, config)
    leave(graph, config, dead_owner())
    with pytest.raises(ThreadWaitingError):
        run.invoke(graph, None, config)
    after = thread_of(graph, config)
    assert (after.status, after.lease_owner, after.wake_at) == ("waiting", None, before.wake_at)


def test_a_loop_that_ends_while_it_recovers(database_url: str) -> None:
    """As in test_stopping.py: the closing of what was dropped is cancelled before it has begun."""

    async def main(graph: CompiledGraph[Any]) -> None:
        assert (await anext(graph.arecover())).status == "finished"

    with Runner("async", database_url) as run:
        graph = run.compile(chain(run, Calls()))
        for _ in range(4):
            cut_off(run, graph)
        for _ in range(3):
            asyncio.run(main(graph))
            assert durable_threads() == []
        assert len(recovered(run, graph)) == 1


def test_who_has_asked_does_not_ask_again_while_its_sibling_is_recovered(run: Runner) -> None:
    calls, config = Calls(), new_thread()
    asked = threading.Event()
    b = run.waiting(asked, calls.failing("b", 1, KeyboardInterrupt))
    graph = run.compile(wide(run, calls, "ab", a=asks(calls, "a"), b=b))

    def look(task: dict[str, Any]) -> None:
        if task.get("interrupts"):
            asked.set()

    with pytest.raises(KeyboardInterrupt):
        run.watch(look, graph, {"log": []}, config, stream_mode="tasks")
    leave(graph, config, dead_owner())
    assert calls.count("a") == 1
    assert [found.status for found in recovered(run, graph)] == ["interrupted"]
    assert (calls.count("a"), calls.count("b")) == (1, 2)


def test_what_another_process_has_recovered_meanwhile_is_passed_over(
    run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever became of it. Only a second `stream` would run a failed node again."""
    calls = Calls()
    graph = run.compile(chain(run, calls, b=calls.failing("b")))
    configs = [cut_off(run, graph) for _ in range(4)]
    found = list(recovery.abandoned(graph._stored(), graph.name))
    assert [thread.status for thread in recovered(run, graph, limit=2)] == ["failed", "finished"]
    run.first(1, graph, None, configs[2])  # and left
    graph.delete_thread(id_of(configs[3]))
    steps = [steps_of(graph, {"configurable": {"thread_id": each.thread_id}}) for each in found]
    monkeypatch.setattr(compiled_module, "abandoned", lambda store, name: iter(found))
    assert recovered(run, graph) == []
    assert [steps_of(graph, {"configurable": {"thread_id": each.thread_id}}) for each in found] == steps


def test_a_thread_that_this_graph_cannot_continue_is_left_as_it_is(run: Runner) -> None:
    """Another graph of the same name may have written it, or the code may be corrected."""
    graph = run.compile(chain(run, Calls()))
    config = cut_off(run, graph)
    before, steps = thread_of(graph, config), steps_of(graph, config)
    (found,) = recovered(run, run.compile(chain(run, Calls(), "xyz")))
    assert (found.thread_id, found.status, type(found.error)) == (id_of(config), "running", ChangedGraphError)
    assert (thread_of(graph, config), steps_of(graph, config)) == (before, steps)
    assert recovered(run, graph) == [Recovered(id_of(config), "finished", None)]


def test_forks_are_recovered(run: Runner) -> None:
    graph = run.compile(chain(run, Calls()))
    run.invoke(graph, {"log": []}, config := new_thread())
    forked = run.fork(graph, {**config, "step": 1}, f"{id_of(config)}/0.0/1")  # a name as a subgraph's run has
    leave(graph, forked, dead_owner())
    assert recovered(run, graph) == [Recovered(id_of(forked), "finished", None)]
    assert run.get_state(graph, {"thread_id": id_of(forked)}).values == {"log": ["a", "b", "c"]}


def test_recovery_looks_only_at_running_threads(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By an index, however many others there are."""
    with closing(SqlStore(database_url)) as store:
        text, values = store._sql.oldest.bind(
            status="running", graph="g", updated_at="", thread_id="", count=recovery.PAGE
        )
        store.threads()
        assert store._database is not None
        with store._database.reader() as connection:
            if database_url.startswith("sqlite"):
                plan = connection.execute(f"EXPLAIN QUERY PLAN {text}", values).fetchall()
            else:
                connection.execute("SET enable_seqscan = off")
                plan = connection.execute(f"EXPLAIN {text}", values).fetchall()
                connection.execute("RESET enable_seqscan")
    assert "ix_threads_status_" in str(plan)


# --- recover, with real processes ---------------------------------------------------------------


class Work(TypedDict, total=False):
    log: Annotated[list[str], operator.add]


def working(journal: str, inner: bool = True, patience: float = 0.0) -> StateGraph[Work]:
    """a, then b and c side by side, then a subgraph, then end. Each call of a node is a line in the journal."""
    file = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def node(name: str) -> Any:
        def call(state: Work, runtime: Any) -> dict[str, Any]:
            os.write(file, f"{runtime.thread_id} {runtime.task} {name}\n".encode())
            time.sleep(patience)
            return {"log": [name]}

        return call

    builder = StateGraph(Work)
    for name in ("a", "b", "c", "end"):
        builder.add_node(name, node(name))
    below = StateGraph(Work).add_sequence([(name, node(name)) for name in "xy"]).add_edge(START, "x")
    builder.add_node("sub", below.compile())
    builder.add_edge(START, "a").add_edge("a", "b").add_edge("a", "c").add_edge(["b", "c"], "sub")
    return builder.add_edge("sub", "end")


LEFT = """
import sys
from tests.test_leases import working
graph = working(sys.argv[2]).compile(sys.argv[1])
streams = []
for number in range(int(sys.argv[3])):
    stream = graph.stream({"log": []}, {"thread_id": f"t{number}"}, stream_mode="updates", subgraphs=True)
    for _ in range(1 + number % 6):  # some of them are inside the subgraph
        next(stream)
    streams.append(stream)
print("ready", flush=True)
sys.stdin.read()
"""

RECOVER = """
import asyncio, sys
from tests.test_leases import working
print("ready", flush=True)
sys.stdin.readline()
with working(sys.argv[2], patience=float(sys.argv[4])).compile(sys.argv[1]) as graph:
    async def main():
        async for found in graph.arecover():
            print(*found, flush=True)
    if sys.argv[3] == "async":
        asyncio.run(main())
    else:
        for found in graph.recover():
            print(*found, flush=True)
"""


def ready(process: subprocess.Popen[str]) -> subprocess.Popen[str]:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line == "ready\n", process.communicate()
    return process


def left_behind(script: Script, url: str, journal: Path, number: int) -> None:
    process = ready(script(LEFT, url, str(journal), str(number)))
    process.kill()
    process.wait()


def check_whole(url: str, journal: Path, number: int, most: int) -> None:
    """Every thread has ended well; no task was lost, none with a row ran again."""
    with working(os.devnull).compile(url) as graph:
        threads = graph.threads()
        assert {thread.status for thread in threads} == {"finished"}
        assert {thread.lease_owner for thread in threads} == {None}
        assert sum(thread.parent_thread_id is None for thread in threads) == number
        for thread in threads:
            rows = list(graph._stored().rows(thread.thread_id))
            assert graph.verify({"thread_id": thread.thread_id}).ok
            if thread.parent_thread_id is None:
                log = graph.get_state({"thread_id": thread.thread_id}).values["log"]
                assert log == ["a", "b", "c", "a", "b", "c", "x", "y", "end"]  # a subgraph gives back what it got
            tasks = [row.task for row in rows if row.kind == "task"]
            assert len(tasks) == len(set(tasks))
    ran = Counter(journal.read_text().splitlines())
    assert max(ran.values()) <= most, ran.most_common(3)


@pytest.mark.parametrize(("database_url", "way"), by_turns("sync", "async"), indirect=["database_url"])
def test_four_processes_recover_twenty_threads(database_url: str, script: Script, tmp_path: Path, way: str) -> None:
    journal = tmp_path / "journal"
    left_behind(script, database_url, journal, 20)
    before = Counter(journal.read_text().splitlines())
    processes = [ready(script(RECOVER, database_url, str(journal), way, "0.002")) for _ in range(4)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    told = Counter(line for process in processes for line in finished(process).splitlines())
    assert told == {f"t{number} finished None": 1 for number in range(20)}
    check_whole(database_url, journal, 20, most=2)
    again = Counter(journal.read_text().splitlines()) - before
    assert max(again.values()) == 1, "two processes have run one task"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("way", ["sync", "async"])
def test_recovery_survives_the_death_of_those_who_recover(
    database_url: str, script: Script, tmp_path: Path, way: str
) -> None:
    """Four at a time, killed at random moments, until all is done."""
    journal, rng, deaths = tmp_path / "journal", random.Random(5), 0
    left_behind(script, database_url, journal, 60)
    while True:
        processes = [ready(script(RECOVER, database_url, str(journal), way, "0.01")) for _ in range(4)]
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        if deaths >= 40:
            for process in processes:
                finished(process)
            break
        for process in processes:
            time.sleep(rng.random() * 0.2)
            process.kill()
            process.wait()
            deaths += 1
    check_whole(database_url, journal, 60, most=1 + deaths)
