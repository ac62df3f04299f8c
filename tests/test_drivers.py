"""How the drivers hand tasks that have ended to the run: several at once, and no more than a pool's worth ahead."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from durable_graph import START, Send, StateGraph
from durable_graph.codec import Codec
from durable_graph.core.effects import Finished, Job
from durable_graph.core.model import Task
from durable_graph.core.run import Call, Run
from durable_graph.drivers import _Threads
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
