"""Runs over worker processes: so many a second, how soon the first step, how soon after a worker's death, at what cost.

The processes are worker_programs.py. Each is ready before the time is taken, so that nobody's imports count.
"""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg

from tests.benchmarks import bare
from tests.benchmarks.measure import Figures
from tests.benchmarks.worker_programs import STEPS_OF_A_RUN, graph
from tests.benchmarks.works import check

ROOT = Path(__file__).parent.parent.parent
PROGRAM = Path(__file__).with_name("worker_programs.py")
CONCURRENCY = 4  # runs at a time in each process
SAMPLE = 5  # threads that are verified
PATIENCE = 120.0  # seconds: never reached when all is well
AT_WORK = 3  # rows of each thread when a worker is killed


class Worker:
    """A process that is ready, and does not work yet."""

    def __init__(self, job: str, url: str, *arguments: object) -> None:
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(PROGRAM), job, url, *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def get_ready(self) -> None:
        self._expect("ready")

    def begin(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def done(self) -> float:
        """Waits until it is. Returns the processor time that it took, in seconds."""
        return float(self._expect("done"))

    def kill(self) -> None:
        """With SIGKILL: it can do nothing more."""
        self._process.kill()
        self._process.communicate()

    def _expect(self, word: str) -> str:
        assert self._process.stdout is not None
        said, _, more = self._process.stdout.readline().strip().partition(" ")
        if said != word:
            _, errors = self._process.communicate()
            raise RuntimeError(f"a worker is not {word}:\n{errors}")
        return more


@contextmanager
def workers(number: int, job: str, url: str, *arguments: object) -> Iterator[list[Worker]]:
    with ExitStack() as stack:
        found = []
        for _ in range(number):
            found.append(Worker(job, url, *arguments))
            stack.callback(found[-1].kill)
        for worker in found:
            worker.get_ready()
        yield found


def timed(crew: Sequence[Worker]) -> tuple[float, float]:
    """The seconds until all have ended, and of all their processor time."""
    begun = time.perf_counter()
    for worker in crew:
        worker.begin()
    processor = sum(worker.done() for worker in crew)
    return time.perf_counter() - begun, processor


# --- so many runs ---------------------------------------------------------------------------------


def submitted(runs: int, number: int, url: str) -> Figures:
    """So many runs, by so many workers. "seconds" are the workers' alone."""
    from durable_graph.workers import make_tables

    make_tables(url)
    with graph(url) as compiled:
        compiled.get_state({"thread_id": "not there"})
        begun = time.perf_counter()
        for each in range(runs):
            compiled.submit({"n": 0}, {"thread_id": f"t{each}"})
        submitting = time.perf_counter() - begun
        with workers(number, "ours", url, CONCURRENCY) as crew:
            seconds, processor = timed(crew)
        check_runs(compiled, url, runs)
    return {"seconds": seconds, "submitting": submitting, "rate": runs / seconds, "cpu": processor / runs}


def in_threads(runs: int, url: str) -> Figures:
    """The same in one process, called by threads of its own."""
    with graph(url) as compiled, ThreadPoolExecutor(CONCURRENCY) as pool:
        compiled.get_state({"thread_id": "not there"})
        begun, processor = time.perf_counter(), time.process_time()
        list(pool.map(lambda each: compiled.invoke({"n": 0}, {"thread_id": f"t{each}"}), range(runs)))
        seconds, processor = time.perf_counter() - begun, time.process_time() - processor
        check_runs(compiled, url, runs)
    return {"seconds": seconds, "rate": runs / seconds, "cpu": processor / runs}


def by_procrastinate(job: str, runs: int, url: str) -> Figures:
    """As many tasks of a plain app of procrastinate's, by one worker."""
    import procrastinate

    connector = procrastinate.SyncPsycopgConnector(conninfo=url)
    app = procrastinate.App(connector=connector)
    with app.open():
        app.schema_manager.apply_schema()
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(bare.TABLE.format(blob="BYTEA"))
        begun = time.perf_counter()
        for each in range(runs):
            app.configure_task("run", lock=f"t{each}").defer(thread_id=f"t{each}")
        submitting = time.perf_counter() - begun
    with workers(1, job, url, CONCURRENCY) as crew:
        seconds, processor = timed(crew)
    with psycopg.connect(url) as connection:
        rows = runs * STEPS_OF_A_RUN if job == "logging" else 0
        check(_one(connection, "SELECT count(*) FROM bare") == rows, "not every step has its row")
        check(_one(connection, "SELECT count(*) FROM procrastinate_jobs") == 0, "jobs are left")
    return {"seconds": seconds, "submitting": submitting, "rate": runs / seconds, "cpu": processor / runs}


def check_runs(compiled: Any, url: str, runs: int) -> None:
    check_steps(compiled, url, runs)
    with psycopg.connect(url) as connection:
        steps = _one(connection, "SELECT count(*) FROM checkpoints WHERE kind = 'task'")
    check(steps == runs * STEPS_OF_A_RUN, f"{steps} steps instead of {runs * STEPS_OF_A_RUN}")


def check_steps(compiled: Any, url: str, runs: int) -> None:
    """Every run has ended, every step is there once, the chains of some are whole, and no job is left."""
    with psycopg.connect(url) as connection:
        found = connection.execute("SELECT status, count(*) FROM threads GROUP BY 1").fetchall()
        check(found == [("finished", runs)], f"threads are {found}")
        names = connection.execute("SELECT thread_id FROM threads LIMIT %s", [SAMPLE]).fetchall()
        query = "SELECT count(*) - count(DISTINCT (thread_id, superstep)) FROM checkpoints WHERE kind = 'task'"
        check(_one(connection, query) == 0, "steps are doubled")
        if _one(connection, "SELECT to_regclass('procrastinate_jobs')") is not None:
            query = "SELECT count(*) FROM procrastinate_jobs"
            _wait_until(lambda: _one(connection, query) == 0)  # the thread has ended before its job
    for (thread_id,) in names:
        check(compiled.verify({"thread_id": thread_id}).ok, f"{thread_id} does not verify")
        rows = compiled.replay({"thread_id": thread_id}, stream_mode="events")
        steps = sum(1 for event in rows if event.node)
        check(compiled.get_state({"thread_id": thread_id}).values["n"] == steps, f"{thread_id} ends otherwise")


def _one(connection: psycopg.Connection[Any], query: str, *values: Any) -> Any:
    row = connection.execute(query, values).fetchone()
    assert row is not None
    return row[0]


# --- the first step -------------------------------------------------------------------------------


def first_steps(times: int, url: str, poll: float) -> Figures:
    """Between `submit` and the making of the first step's row, with an idle worker: median and 95th percentile.

    The moments within the worker's poll are random. The row is committed a millisecond or so after it is made.
    """
    from durable_graph.workers import make_tables

    if not url.startswith("sqlite"):
        make_tables(url)
    moments = random.Random(7)
    seconds = []
    with graph(url) as compiled, workers(1, "waiting", url, 1, poll, 5) as (worker,):
        compiled.get_state({"thread_id": "not there"})
        worker.begin()
        compiled.result(compiled.submit({"n": 0}, {"thread_id": "first"}), timeout=PATIENCE)
        for each in range(times):
            time.sleep(moments.random() * poll)
            begun = datetime.now(UTC)
            config = compiled.submit({"n": 0}, {"thread_id": f"t{each}"})
            compiled.result(config, timeout=PATIENCE)
            seconds.append((_first_made(compiled, f"t{each}") - begun).total_seconds())
    return _spread(seconds)


def first_steps_here(times: int, url: str) -> Figures:
    """The same in one process that calls `invoke`."""
    seconds = []
    with graph(url) as compiled:
        compiled.invoke({"n": 0}, {"thread_id": "first"})
        for each in range(times):
            begun = datetime.now(UTC)
            compiled.invoke({"n": 0}, {"thread_id": f"t{each}"})
            seconds.append((_first_made(compiled, f"t{each}") - begun).total_seconds())
    return _spread(seconds)


def _first_made(compiled: Any, thread_id: str) -> datetime:
    events = [event for event in compiled.replay({"thread_id": thread_id}, stream_mode="events") if event.node]
    check(len(events) == STEPS_OF_A_RUN, f"{thread_id} has {len(events)} steps")
    return datetime.fromisoformat(events[0].created_at)


def _spread(seconds: Sequence[float]) -> Figures:
    return {"seconds": statistics.median(seconds), "p95": sorted(seconds)[int(len(seconds) * 0.95)]}


# --- after a death --------------------------------------------------------------------------------


def recovered(url: str, heartbeat: float) -> Figures:
    """A worker is killed in the midst of its runs, and another goes on with them: the seconds until each of the threads
    has its next row, their median and the longest."""
    from durable_graph.workers import make_tables

    make_tables(url)
    with graph(url, "slow") as compiled, ExitStack() as stack:
        until = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "end"
        names = [f"t{each}" for each in range(CONCURRENCY)]
        configs = [compiled.submit({"n": 0, "until": str(until)}, {"thread_id": name}) for name in names]
        connection = stack.enter_context(psycopg.connect(url, autocommit=True))
        victim, heir = stack.enter_context(workers(2, "slow", url, CONCURRENCY, 1, heartbeat))
        victim.begin()
        _wait_until(lambda: _newest(connection, names, AT_WORK))  # it has all of them
        heir.begin()
        time.sleep(random.random() * heartbeat)  # somewhere between two of its looks
        victim.kill()
        died = datetime.now(UTC)
        _wait_until(lambda: _newest(connection, names, 1, died))
        seconds = [(_first_after(connection, name, died) - died).total_seconds() for name in names]
        until.touch()
        for config in configs:
            compiled.result(config, timeout=PATIENCE)
        check_steps(compiled, url, len(names))
    return {"seconds": statistics.median(seconds), "longest": max(seconds)}


def _newest(
    connection: psycopg.Connection[Any], names: Sequence[str], rows: int, after: datetime | None = None
) -> bool:
    """Whether each thread has so many rows since then."""
    query = "SELECT count(*) FROM checkpoints WHERE thread_id = %s AND created_at > %s"
    return all(_one(connection, query, name, _text(after)) >= rows for name in names)


def _first_after(connection: psycopg.Connection[Any], thread_id: str, after: datetime) -> datetime:
    query = "SELECT min(created_at) FROM checkpoints WHERE thread_id = %s AND created_at > %s"
    return datetime.fromisoformat(_one(connection, query, thread_id, _text(after)))


def _text(time: datetime | None) -> str:
    """As the log writes it."""
    return "" if time is None else f"{time:%Y-%m-%dT%H:%M:%S.%fZ}"


def _wait_until(holds: Any) -> None:
    end = time.monotonic() + PATIENCE
    while not holds():
        check(time.monotonic() < end, "the workers do nothing")
        time.sleep(0.01)
