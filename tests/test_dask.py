"""Nodes on a Dask cluster of two processes, one of which is killed in the midst of a superstep.

The cluster listens on this host alone, on ports that are free.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from durable_graph import CallError, ExecutorError, UnsendableError
from tests import errands
from tests.errands import fan, nested, notes, one
from tests.graphs import PATIENCE, Runner, durable_threads, new_thread

distributed = pytest.importorskip("distributed")

WAYS = ["sync", pytest.param("threads", marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    settings = {"n_workers": 2, "threads_per_worker": 4, "host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    with distributed.LocalCluster(**settings) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def client(cluster: Any) -> Iterator[Any]:
    with distributed.Client(cluster) as client:
        yield client


@pytest.fixture
def folder(tmp_path: Path) -> str:
    (tmp_path / "notes").mkdir()
    return str(tmp_path / "notes")


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    """Of ours: Dask has threads of its own, which watch its workers."""
    yield
    assert durable_threads() == []


def all_begun(folder: str, number: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while len(notes(folder)) < number:
        assert time.monotonic() < deadline, notes(folder)
        time.sleep(0.002)


def forgotten(cluster: Any, left: int) -> None:
    """Until Dask has heard that nobody needs the other results any more: before, it would make those again, too."""
    deadline = time.monotonic() + PATIENCE
    while len(cluster.scheduler.tasks) > left:
        assert time.monotonic() < deadline, list(cluster.scheduler.tasks)
        time.sleep(0.002)


def kill_one(cluster: Any) -> None:
    """A worker process; its nanny will start another one."""
    os.kill(next(iter(cluster.workers.values())).pid, signal.SIGKILL)


@pytest.mark.parametrize("way", WAYS)
def test_a_worker_is_killed_in_the_midst(cluster: Any, client: Any, database_url: str, way: str, folder: str) -> None:
    """What had a row is not run again; what was on that worker is, by Dask, and the superstep ends."""
    seen: list[int] = []

    def look(event: Any) -> None:
        seen.extend(event["work"]["log"])
        if len(seen) == 3:
            all_begun(folder, 8)
            forgotten(cluster, 5)
            kill_one(cluster)
            Path(folder, "go").touch()

    client.wait_for_workers(2, timeout=PATIENCE)
    with Runner(way, database_url) as run:
        graph = run.compile(fan(errands.waits_from_three), executor=client.get_executor(pure=False))
        config = new_thread()
        run.watch(look, graph, {"folder": folder, "n": 8}, config)
        assert sorted(seen) == [*range(8)]
        assert sorted(seen[:3]) == [0, 1, 2]
        assert run.get_state(graph, config).values["log"] == [*range(8)]
        called = Counter(notes(folder))
        assert {called[f"work-{i}-1"] for i in range(3)} == {1}
        assert {f"work-{i}-1" for i in range(8)} == called.keys()
        assert max(called.values()) == 2  # by Dask, which is no further attempt of ours
        assert graph.verify(config).ok


def test_nodes_of_the_program_itself(client: Any, sqlite_url: str, folder: str) -> None:
    """Lambdas and closures are sent by value, and what they can do there is what they can do in any other process."""
    here, config = os.getpid(), new_thread()
    with Runner("sync", sqlite_url) as run:
        executor = client.get_executor(pure=False)
        graph = run.compile(one(lambda state: {"log": [os.getpid()], "n": here}), executor=executor)
        state = run.invoke(graph, {"log": []}, config)
        assert state["n"] == here
        assert state["log"] != [here]
        assert (
            run.invoke(run.compile(nested(), executor=executor), {"folder": folder, "n": 5}, new_thread())["n"] == 520
        )
        events = run.stream(run.compile(one(errands.says), executor=executor), {}, new_thread(), stream_mode="custom")
        assert events == [[1], [1, 2]]
        with pytest.raises(KeyError, match="nothing there") as raised:
            run.invoke(run.compile(one(errands.fails), executor=executor), {"folder": folder}, new_thread())
        assert any("in fails" in line for line in raised.value.__notes__)
        with pytest.raises(CallError, match=r"asked for runtime\.connection"):
            run.invoke(run.compile(one(errands.connects), executor=executor), {}, new_thread())


def test_what_cannot_be_sent(client: Any) -> None:
    with Runner("sync", False) as run:
        executor = client.get_executor(pure=False)
        graph = run.compile(one(errands.goes_to_end), executor=executor)
        with pytest.raises(UnsendableError, match=r"Node 'node' .* its input, at \['log'\]\[0\] a lock cannot be sent"):
            run.invoke(graph, {"log": [threading.Lock()]})
        closed = client.get_executor(pure=False)
        closed.shutdown()
        with pytest.raises(ExecutorError, match="after shutdown"):
            run.invoke(run.compile(one(errands.goes_to_end), executor=closed), {})
