"""Worker processes, each beginning when it is told to, and telling when it is done.

    python -P tests/benchmarks/worker_programs.py JOB ARGUMENT...

It says "ready", waits for a line, works, and says "done" with the processor time that it took. workers.py starts it.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypedDict

from tests.benchmarks.works import counter

STEPS_OF_A_RUN = 10
PAUSE = 0.02  # seconds that a node of `slow` takes


before = 0.0  # processor time when the work began


class Slow(TypedDict):
    n: int
    until: str  # a file: once it is there the run ends


def told(what: str) -> None:
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


def begin() -> None:
    global before
    told("ready")
    sys.stdin.readline()
    before = time.process_time()


def done() -> None:
    """With the seconds of processor time that it took."""
    told(f"done {time.process_time() - before}")


# --- ours -----------------------------------------------------------------------------------------


def ours(url: str, concurrency: str) -> None:
    """Work until nothing is left."""
    _work(url, "run", wait=False, concurrency=int(concurrency))


def waiting(url: str, concurrency: str, poll: str, heartbeat: str) -> None:
    """Work until killed."""
    _work(url, "run", concurrency=int(concurrency), poll=float(poll), heartbeat=float(heartbeat))


def slow(url: str, concurrency: str, poll: str, heartbeat: str) -> None:
    """The same, with nodes that take time."""
    _work(url, "slow", concurrency=int(concurrency), poll=float(poll), heartbeat=float(heartbeat))


def _work(url: str, which: str, **settings: Any) -> None:
    from durable_graph.workers import run_worker

    with graph(url, which) as compiled:
        compiled.get_state({"thread_id": "not there"})  # opens the database
        begin()
        run_worker(compiled, **settings)
        done()


def graph(url: str, which: str = "run") -> Any:
    """What is submitted, here and in the parent."""
    from tests.benchmarks.ours import NAMES

    if which == "run":
        return counter(STEPS_OF_A_RUN).draw(NAMES).compile(url, name="run")
    builder = NAMES.StateGraph(Slow).add_node("wait", _wait).add_edge(NAMES.START, "wait")
    builder.add_conditional_edges("wait", lambda state: NAMES.END if Path(state["until"]).exists() else "wait")
    return builder.compile(url, name="slow")


def _wait(state: Slow) -> dict[str, int]:
    time.sleep(PAUSE)
    return {"n": state["n"] + 1}


# --- procrastinate, as it comes -------------------------------------------------------------------


def plain(url: str, concurrency: str) -> None:
    """A task that does a run's work, and keeps nothing."""

    def task(thread_id: str) -> None:
        state = {"n": 0}
        while state["n"] < STEPS_OF_A_RUN:
            state = {"n": state["n"] + 1}

    _procrastinate(url, int(concurrency), task)


def logging(url: str, concurrency: str) -> None:
    """A task that inserts the rows of a run's steps, each in a commit of its own, and knows nothing else."""
    import psycopg

    from tests.benchmarks import bare, ours

    with tempfile.TemporaryDirectory() as folder:
        rows = ours.rows_of(counter(STEPS_OF_A_RUN), Path(folder) / "rows.db")
    with ExitStack() as stack:
        idle: SimpleQueue[Any] = SimpleQueue()
        for _ in range(int(concurrency)):
            idle.put(stack.enter_context(psycopg.connect(url, autocommit=True, prepare_threshold=0)))

        def task(thread_id: str) -> None:
            connection = idle.get()
            for row in rows:
                connection.execute(bare.POSTGRES_INSERT, (thread_id, *row[1:]))
            idle.put(connection)

        _procrastinate(url, int(concurrency), task)


def _procrastinate(url: str, concurrency: int, task: Callable[[str], None]) -> None:
    import procrastinate

    app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=url, min_size=1, max_size=4))
    app.task(name="run")(task)

    async def main() -> None:
        async with app.open_async():
            begin()
            await app.run_worker_async(
                concurrency=concurrency, wait=False, delete_jobs="successful", install_signal_handlers=False
            )
            done()

    asyncio.run(main())


JOBS: dict[str, Callable[..., None]] = {job.__name__: job for job in (ours, waiting, slow, plain, logging)}

if __name__ == "__main__":
    job, *arguments = sys.argv[1:]
    JOBS[job](*arguments)
