"""Workers: processes that run what was submitted, on as many machines as there are.

    plan.py      what a worker is told
    turn.py      what it does with one thread
    staff.py     in which threads, or in the event loop
    sqlite.py    which thread is next: a look at the log
    postgres.py  which thread is next: procrastinate's jobs
    rescue.py    jobs of workers that have died
    jobs.py      the connection to procrastinate, and its tables

Whoever imports this needs the extra `workers` for Postgres, and nothing more for SQLite.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from durable_graph.compiled import CompiledGraph
from durable_graph.enqueue import QUEUE, missing
from durable_graph.errors import ArgumentError
from durable_graph.store.sql import SqlStore
from durable_graph.workers.plan import Plan, Queue, Stopping, Tell, Turn

__all__ = ["Stopping", "Turn", "arun_worker", "make_tables", "run_worker"]


def run_worker(graphs: CompiledGraph[Any] | Sequence[CompiledGraph[Any]], **settings: Any) -> None:
    """`arun_worker`, in an event loop of its own."""
    asyncio.run(arun_worker(graphs, **settings))


async def arun_worker(
    graphs: CompiledGraph[Any] | Sequence[CompiledGraph[Any]],
    *,
    queues: Mapping[str, int] | None = None,
    concurrency: int = 4,
    context: Any = None,
    wait: bool = True,
    poll: float = 1.0,
    heartbeat: float = 5.0,
    stopping: Stopping | None = None,
    tell: Tell | None = None,
) -> None:
    """Run what is submitted for these graphs until `stopping` is set, which finishes the steps at hand.

    graphs: of one database, each of a name of its own. queues: by name, how many runs at a time this process takes from
    each of them, for each graph; by default `concurrency` from the queue "default". context: what nodes find as
    `runtime.context`. wait: False ends when nothing is left that can begin now. poll: seconds between two looks, on
    SQLite for anything new, on Postgres, where new jobs are told of, for what is due at a time. heartbeat: seconds
    between two signs of life; who gives none for four of them counts as dead, and others go on with its threads.

    tell: called with the graph's name, the thread's id and a `Turn`, whenever this worker has gone on with a thread.

    Plain nodes run in threads, async ones in the event loop. To cancel this is to set `stopping`, and then learn of it.
    Raises CallError without the extra `workers`, on Postgres; ArgumentError; StoreError.
    """
    wanted = _queues(graphs, queues or {QUEUE: concurrency})
    plan = Plan(wanted, context, wait, poll, heartbeat, stopping or Stopping(), tell or _nobody)
    if getattr(plan.queues[0].graph._stored(), "takes_jobs", False):
        with _extra():
            from durable_graph.workers.postgres import work
    else:
        from durable_graph.workers.sqlite import work
    working = asyncio.ensure_future(work(plan))
    try:
        await asyncio.shield(working)
    except asyncio.CancelledError:
        if plan.stopping.is_set():
            working.cancel()
        plan.stopping.set()
        await working
        raise


def _queues(graphs: CompiledGraph[Any] | Sequence[CompiledGraph[Any]], limits: Mapping[str, int]) -> list[Queue]:
    graphs = [graphs] if isinstance(graphs, CompiledGraph) else list(graphs)
    names, stores = {graph.name for graph in graphs}, {graph._stored().name for graph in graphs}
    if len(names) < len(graphs) or len(stores) != 1:
        raise ArgumentError(
            argument="graphs",
            problem=f"they are called {', '.join(sorted(names))}, in {', '.join(sorted(stores))}",
            fix="Give graphs of one database, each compiled with a name of its own.",
        )
    for name, limit in limits.items():
        if limit < 1:
            raise ArgumentError(argument="queues", problem=f"{name!r} has the limit {limit}", fix="Give 1 or more.")
    return [Queue(graph, name, limit) for graph in graphs for name, limit in limits.items()]


def make_tables(url: str) -> bool:
    """Make procrastinate's tables in this Postgres. False if they are there. Raises CallError without the extra
    `workers`; ArgumentError for SQLite, where nothing needs them; StoreError."""
    store = SqlStore(url)
    if not store.takes_jobs:
        raise ArgumentError(argument="url", problem="workers need no tables on SQLite", fix="Leave --workers out.")
    with _extra():
        from durable_graph.workers.jobs import create_tables
    return create_tables(store)


@contextmanager
def _extra() -> Iterator[None]:
    """Around imports of what needs the extra `workers`, which are late for that."""
    try:
        yield
    except ImportError as error:
        raise missing(error) from error


def _nobody(graph: str, thread_id: str, turn: Turn) -> None:
    pass
