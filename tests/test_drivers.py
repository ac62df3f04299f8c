"""How the drivers hand tasks that have ended to the run: several at once, and no more than a pool's worth ahead. And
how asyncio hands calls to the store's thread."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from durable_graph import START, Send, StateGraph
from durable_graph.codec import Codec
from durable_graph.core.effects import Finished, Job
from durable_graph.core.model import Task
from durable_graph.core.rows import Call
from durable_graph.core.run import Run
from durable_graph.drivers import _Threads
from durable_graph.offload import Offload
from durable_graph.store import Row
from durable_graph.store.memory import MemoryStore
from tests.graphs import PATIENCE, State
from tests.simulator import Simulator


def jobs(number: int) -> list[Job]:
    made = []
    for place in range(number):
        job = Job(Task(f"0.{place}", "a", ()), 1)
        job.steps = steps_of(place)
        made.append(job)
    return made


def steps_of(place: int) -> Iterator[Any]:
    yield (lambda: place), (), {}, None
    return place


def full(tasks: _Threads, number: int) -> None:
    """Wait until at least so many have ended and nobody has taken them."""
    moment = threading.Event()
    for _ in range(int(PATIENCE / 0.001)):
        if tasks._arrived.qsize() >= number:
            return
        moment.wait(0.001)
    raise AssertionError("they do not end")


def test_what_ends_while_nobody_looks_is_handed_out_together() -> None:
    tasks = _Threads(False, None, None)
    try:
        tasks._start(jobs(20))
        full(tasks, 20)
        assert sorted(item.result for item in tasks.next() if isinstance(item, Finished)) == [*range(20)]
    finally:
        tasks.close()


def test_who_waits_to_be_heard_is_let_go_when_nobody_listens_any_more() -> None:
    tasks, made, said = _Threads(True, None, None), jobs(3), list[int]()

    def talk(job: Job) -> Iterator[Any]:
        def say() -> None:
            for number in range(100):
                job.tell(number)  # type: ignore[arg-type]  # nobody looks at it
            said.append(number)

        yield say, (), {}, None

    for job in made:
        job.steps = talk(job)
    tasks._start(made)
    full(tasks, 1)
    while tasks._idle:  # what has not begun is taken back, and says nothing
        time.sleep(0.001)
    tasks.close()
    assert said == [99, 99, 99]


@pytest.mark.parametrize("workers", [2, 5])
def test_workers_wait_for_a_consumer_that_does_not_take(workers: int) -> None:
    """Law 13: behind the full queue each worker holds one result at most."""
    tasks, taken = _Threads(False, workers, None), 0
    try:
        tasks._start(jobs(50))
        while taken < 50:
            full(tasks, min(workers, 50 - taken))
            assert len(tasks._active) - len(tasks._idle) <= 2 * workers
            taken += len(tasks.next())
    finally:
        tasks.close()


def test_what_is_handed_out_together_is_committed_together() -> None:
    class Counting(MemoryStore):
        commits: list[int]

        def append(self, rows: Any, **options: Any) -> None:
            super().append(rows, **options)
            self.commits.append(len(rows))

    store, builder = Counting(), StateGraph(State)
    store.commits = []
    builder.add_node("a", lambda number: {"log": [str(number)]})
    builder.add_conditional_edges(START, lambda state: [Send("a", n) for n in range(40)], ["a"])
    graph = builder.compile(False)._graph
    simulator = Simulator(store, seed=1)

    def is_stored(it: Any) -> None:
        (row,) = store.rows("t", after=it.row.step - 1, until=it.row.step)
        assert isinstance(row, Row)
        assert row == it.row, "durable, then seen"

    simulator.drive(Run(graph, Codec(), None, Call("t", "r", input={"n": 0})).steps(), is_stored)
    assert sum(store.commits) == 41
    assert len(store.commits) < 20


# --- the store's thread under asyncio -----------------------------------------------------------


@contextmanager
def keeper() -> Iterator[Offload]:
    before = threading.active_count()
    one = Offload()
    try:
        yield one
    finally:
        one.close()
    assert threading.active_count() == before


def test_calls_are_done_in_their_order_by_one_thread() -> None:
    done: list[tuple[int, int]] = []

    async def main(one: Offload) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(5):
                group.create_task(one.run(lambda number=number: done.append((number, threading.get_ident()))))

    with keeper() as one:
        asyncio.run(main(one))
    assert [number for number, _ in done] == [0, 1, 2, 3, 4]
    (thread,) = {thread for _, thread in done}
    assert thread != threading.get_ident()


def test_a_keeper_that_was_not_needed_has_no_thread() -> None:
    with keeper():
        pass


def test_what_a_call_raises_is_raised() -> None:
    def call() -> None:
        raise KeyError("gone")

    with keeper() as one, pytest.raises(KeyError, match="gone"):
        asyncio.run(one.run(call))


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("fails", [False, True])
def test_who_is_cancelled_waits_for_the_commit_under_way(
    fails: bool, times: int, caplog: pytest.LogCaptureFixture
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    seen: list[str] = []

    def commit() -> str:
        begun.set()
        go_on.wait(PATIENCE)
        seen.append("committed")
        if fails:
            raise OSError("disk")
        return "done"

    async def main(one: Offload) -> None:
        task = asyncio.create_task(one.run(commit))
        await asyncio.to_thread(begun.wait, PATIENCE)
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert not task.done()
        assert seen == []
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert seen == ["committed"]

    with caplog.at_level(logging.WARNING), keeper() as one:
        asyncio.run(main(one))
    assert caplog.records == []  # "exception was never retrieved", it would say


def test_a_timeout_waits_for_the_commit_under_way() -> None:
    go_on = threading.Event()

    async def main(one: Offload) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(0) as limit:
            loop.call_later(0.01, go_on.set)
            await one.run(lambda: go_on.wait(PATIENCE))
        assert limit.expired()

    with keeper() as one, pytest.raises(TimeoutError):
        asyncio.run(main(one))
    assert go_on.is_set()


def test_a_loop_that_was_closed_does_not_stop_the_thread() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def commit() -> None:
        begun.set()
        go_on.wait(PATIENCE)

    with keeper() as one:
        loop = asyncio.new_event_loop()
        task = loop.create_task(one.run(commit))
        while not begun.is_set():
            loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        go_on.set()
        assert asyncio.run(one.run(lambda: "still there")) == "still there"
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # of asyncio, in no stub
