"""DBOS: a workflow whose steps are its own calls; there are no graphs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from dbos import DBOS, SetWorkflowID

from tests.benchmarks.measure import Figures
from tests.benchmarks.places import file_bytes, schema_bytes
from tests.benchmarks.works import check, message

SCHEMA = "bench_dbos"  # where DBOS keeps its tables in Postgres


@DBOS.step()
def count(n: int) -> int:
    return n + 1


@DBOS.workflow()
def counter(steps: int) -> int:
    n = 0
    while n < steps:
        n = count(n)
    return n


@DBOS.step()
def speak(number: int) -> dict[str, str]:
    return message(number)


@DBOS.workflow()
def chat(steps: int) -> int:
    messages: list[Any] = []
    while len(messages) < steps:
        messages.append(speak(len(messages)))
    return len(messages)


@contextmanager
def launched(url: str) -> Iterator[None]:
    settings = {"system_database_url": url, "dbos_system_schema": SCHEMA}
    DBOS(config={"name": "bench", "log_level": "CRITICAL", **settings})  # type: ignore[typeddict-item]
    DBOS.launch()
    try:
        yield
    finally:
        DBOS.destroy()


def run(workflow: Any, steps: int) -> Figures:
    with SetWorkflowID("a"):
        begun = time.perf_counter()
        done = workflow(steps)
        seconds = time.perf_counter() - begun
    check(done == steps, f"{done} steps")
    return {"seconds": seconds}


def on_sqlite(workflow: Any, steps: int, file: Path) -> Figures:
    with launched(f"sqlite:///{file}"):
        figures = run(workflow, steps)
    return {**figures, "bytes": file_bytes(file)}


def on_postgres(workflow: Any, steps: int, url: str) -> Figures:
    with in_postgres(url):
        with launched(url):
            figures = run(workflow, steps)
        return {**figures, "bytes": schema_bytes(url, SCHEMA)}


@contextmanager
def in_postgres(url: str) -> Iterator[None]:
    """DBOS makes its schema itself, and it has to be new: a workflow that has ended does not run again."""
    forget = f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET client_min_messages = warning")
        connection.execute(forget)
        try:
            yield
        finally:
            connection.execute(forget)


def history(steps: int) -> Figures:
    """The steps of a workflow that `run` has made."""
    begun = time.perf_counter()
    found = len(DBOS.list_workflow_steps("a"))
    seconds = time.perf_counter() - begun
    check(found == steps, f"{found} steps")
    return {"seconds": seconds}
