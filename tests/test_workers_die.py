"""Workers die, stand still and come back: every run ends, every step is there once."""

from __future__ import annotations

import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from durable_graph import CompiledGraph
from tests.conftest import Script, connected, engine_url
from tests.graphs import PATIENCE
from tests.test_workers import statuses, until, working

WORKER = """
import sys, time, logging
from durable_graph import leases, beat, workers
from tests.test_workers_die import counting
url, pause, concurrency, heartbeat, lease = sys.argv[1], *map(float, sys.argv[2:6])
leases.SECONDS, beat.interval = lease, lease / 3
print("up", flush=True)
workers.run_worker(counting(url, pause), concurrency=int(concurrency), poll=0.1, heartbeat=heartbeat)
"""
STEPS = 10


def counting(url: str, pause: float = 0.0) -> CompiledGraph[Any]:
    """Counts to ten, and keeps what it has counted."""
    from durable_graph import START, StateGraph
    from tests.graphs import State

    def count(state: Any) -> dict[str, Any]:
        time.sleep(pause)
        return {"n": state["n"] + 1, "log": [str(state["n"])]}

    builder = StateGraph(State).add_node("count", count).add_edge(START, "count")
    builder.add_conditional_edges("count", lambda state: "count" if state["n"] < STEPS else "__end__")
    return builder.compile(url, name="counting")


def check(graph: CompiledGraph[Any], config: Any) -> None:
    """The run has ended, with every step once and in order."""
    assert graph.get_state(config).values == {"n": STEPS, "log": [str(number) for number in range(STEPS)]}
    steps = [entry for entry in graph.timeline(config) if entry.kind == "task"]
    assert len(steps) == STEPS
    assert graph.verify(config).ok


@contextmanager
def crew(script: Script, url: str, number: int, *settings: float) -> Iterator[list[subprocess.Popen[str]]]:
    """Worker processes. settings: pause in a node, concurrency, heartbeat, lease; seconds."""
    processes = [start(script, url, *settings) for _ in range(number)]
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


def start(script: Script, url: str, *settings: float) -> subprocess.Popen[str]:
    process = script(WORKER, url, *map(str, settings))
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process


def test_who_dies_is_replaced(script: Script, workers_url: str) -> None:
    """On the same host a worker that is gone is known to be gone, whatever its heartbeat."""
    graph = counting(workers_url)
    with graph, crew(script, workers_url, 1, 0.03, 4, 3600, 3600) as (process,):
        given = [graph.submit({"n": 0}) for _ in range(4)]
        until(lambda: all(sum(1 for _ in graph.timeline(each)) > 3 for each in given))
        process.kill()
        process.wait()
        assert "running" in statuses(graph).values()
        with working(graph, heartbeat=0.1):
            for each in given:
                graph.result(each, timeout=PATIENCE)
        for each in given:
            check(graph, each)


def test_who_dies_before_it_has_begun(script: Script, jobs_url: str) -> None:
    """It has taken a job and not its thread: nothing but its silence tells."""
    graph = counting(jobs_url)
    with graph, connected(engine_url(jobs_url)) as connection:
        given = graph.submit({"n": 0})
        connection.execute(
            "WITH dead AS (INSERT INTO procrastinate_workers (last_heartbeat) VALUES (now() - interval '1 minute')"
            " RETURNING id) UPDATE procrastinate_jobs SET status = 'doing', worker_id = (SELECT id FROM dead)"
        )
        with working(graph, heartbeat=0.2):
            graph.result(given, timeout=PATIENCE)
        check(graph, given)


def test_who_stands_still_is_overtaken(script: Script, workers_url: str) -> None:
    """A zombie: it appends nothing, and what it says of its job does no harm."""
    graph = counting(workers_url)
    with graph, crew(script, workers_url, 1, 0.05, 2, 0.2, 1.0) as (process,):
        given = [graph.submit({"n": 0}) for _ in range(2)]
        until(lambda: all(sum(1 for _ in graph.timeline(each)) > 3 for each in given))
        process.send_signal(signal.SIGSTOP)
        with working(graph, heartbeat=0.2):
            for each in given:
                graph.result(each, timeout=PATIENCE)
        process.send_signal(signal.SIGCONT)
        again = [graph.submit({"n": 0, "log": []}, each) for each in given]
        for each in again:  # the zombie works on
            graph.result(each, timeout=PATIENCE)
        for each in given:
            rows = [entry for entry in graph.timeline(each) if entry.kind == "task"]
            assert len(rows) == 2 * STEPS
            assert graph.verify(each).ok


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("runs", [2000])
def test_workers_that_are_killed_all_the_time(runs: int, script: Script, workers_url: str) -> None:
    """Four processes, one of which is killed every other second, until every run has ended."""
    graph, settings = counting(workers_url), (0.02, 8, 0.5, 5.0)
    with graph, crew(script, workers_url, 4, *settings) as processes:
        killer = _Killer(lambda: start(script, workers_url, *settings), processes)
        killer.start()
        given = [graph.submit({"n": 0}) for _ in range(runs)]
        try:
            until(lambda: list(statuses(graph).values()).count("finished") == runs, seconds=600, pause=1.0)
        finally:
            killer.end()
        assert killer.killed >= 3
        for each in given:
            check(graph, each)


class _Killer(threading.Thread):
    def __init__(self, start: Callable[[], subprocess.Popen[str]], processes: list[subprocess.Popen[str]]) -> None:
        super().__init__()
        self._begin = start
        self._processes = processes
        self._over = threading.Event()
        self._random = random.Random(7)
        self.killed = 0

    def run(self) -> None:
        while not self._over.wait(self._random.uniform(0.3, 1.5)):
            victim = self._random.randrange(len(self._processes))
            self._processes[victim].kill()
            self._processes[victim].communicate()
            self._processes[victim] = self._begin()
            self.killed += 1

    def end(self) -> None:
        self._over.set()
        self.join()
