"""This library, through its public names."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from durable_graph import END, START, Log, Send, StateGraph
from tests.benchmarks.bare import Rows, rows_in
from tests.benchmarks.measure import Figures, Steps, whole
from tests.benchmarks.places import connections, file_bytes, schema_bytes
from tests.benchmarks.works import Names, Work, check

NAMES = Names(StateGraph, START, END, Send)
CONFIG = {"thread_id": "a"}


def sqlite_url(file: Path, synchronous: str = "FULL") -> str:
    return f"sqlite:///{file}?synchronous={synchronous}"


def steps(work: Work, url: str) -> Steps:
    with work.draw(NAMES).compile(url) as graph:
        graph.get_state(CONFIG)  # opens the database
        yield
        for _ in graph.stream(work.input, CONFIG):
            yield
        work.check(graph.get_state(CONFIG).values)
    return {}


def on_sqlite(work: Work, file: Path, synchronous: str = "FULL") -> Steps:
    """`steps`, and the bytes on disk then."""
    yield from steps(work, sqlite_url(file, synchronous))
    return {"bytes": file_bytes(file)}


def on_postgres(work: Work, url: str) -> Steps:
    yield from steps(work, url)
    return {"bytes": schema_bytes(url)}


def without_checkpointer(work: Work) -> Steps:
    values: dict[str, Any] = {}
    graph = work.draw(NAMES).compile(False)
    yield
    for update in graph.stream(work.input):
        values.update(*update.values())
        yield
    work.check(values)
    return {}


def arun(work: Work, url: str) -> Figures:
    async def consume() -> Figures:
        with work.draw(NAMES).compile(url) as graph:
            await graph.aget_state(CONFIG)
            figures = await work.atimed(graph.astream(work.input, CONFIG))
            work.check((await graph.aget_state(CONFIG)).values)
        return figures

    return asyncio.run(consume())


# --- many threads -------------------------------------------------------------------------------


def fleet(work: Work, url: str, threads: int, workers: int, options: str = "") -> Figures:
    """So many threads of the same graph, run by so many workers. `options` go into the URL, and are ours alone."""
    with work.draw(NAMES).compile(url + options) as graph:

        def one(number: int) -> int:
            return sum(1 for _ in graph.stream(work.input, {"thread_id": f"t{number}"}))

        graph.get_state(CONFIG)
        begun = time.perf_counter()
        with ThreadPoolExecutor(workers) as pool:
            events = sum(pool.map(one, range(threads)))
        seconds = time.perf_counter() - begun
        check(events == threads * work.events, f"{events} events")
        for number in range(threads):
            work.check(graph.get_state({"thread_id": f"t{number}"}).values)
        used = 0 if url.startswith("sqlite") else connections(url)
    return {"seconds": seconds, "connections": used}


# --- what it wrote ------------------------------------------------------------------------------


def rows_of(work: Work, file: Path) -> Rows:
    """The rows of the events, for the bare loops."""
    whole(steps(work, sqlite_url(file, "NORMAL")))
    return rows_in(file)


def rows_of_fleet(work: Work, file: Path, threads: int) -> Rows:
    fleet(work, sqlite_url(file, "NORMAL"), threads, workers=1)
    return rows_in(file)


@contextmanager
def counting_commits() -> Iterator[Callable[[], int]]:
    """How often SQLite commits meanwhile: statements that write outside a transaction, and the ends of those."""
    seen: list[str] = []
    real = sqlite3.connect

    def connect(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        connection = real(*args, **kwargs)
        connection.set_trace_callback(seen.append)
        return connection

    with mock.patch("sqlite3.connect", connect):
        yield lambda: commits_in(seen)


def commits_in(statements: list[str]) -> int:
    """All of one writer: this library has only one."""
    commits, inside = 0, False
    for statement in statements:
        verb = statement.split(maxsplit=1)[0].upper()
        inside = (inside or verb == "BEGIN") and verb not in ("COMMIT", "ROLLBACK")
        commits += verb == "COMMIT" or (not inside and verb in ("INSERT", "UPDATE", "DELETE"))
    return commits


# --- reading ------------------------------------------------------------------------------------


def replay(url: str, work: Work) -> Figures:
    with Log(url) as log:
        log.get_state(CONFIG)  # opens the database
        return work.timed(log.replay(CONFIG))


def history(url: str, work: Work) -> Figures:
    with Log(url) as log:
        log.get_state(CONFIG)
        begun = time.perf_counter()
        count = sum(1 for _ in log.get_state_history(CONFIG))
        seconds = time.perf_counter() - begun
    check(count == work.events + 1, f"{count} barriers")  # the input is one, too
    return {"seconds": seconds}
