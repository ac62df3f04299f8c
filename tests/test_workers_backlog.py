"""What it costs to take a job, and to find those of a thread, does not grow with what waits. Only Postgres has jobs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from conftest import connected
from procrastinate.sql import queries
from sqlalchemy import make_url

from durable_graph.workers import make_tables

WAITING = 20_000
PUT = """INSERT INTO procrastinate_jobs (queue_name, task_name, lock, args)
    SELECT 'dg:count', 'durable_graph.run', 'thread' || n, '{}' FROM generate_series(1, %s) AS n"""
REGISTER = "INSERT INTO procrastinate_workers DEFAULT VALUES RETURNING id"


@pytest.fixture
def connection(postgres_url: str) -> Iterator[psycopg.Connection[Any]]:
    assert make_tables(postgres_url)
    assert not make_tables(postgres_url)
    with connected(make_url(postgres_url)) as connection:
        connection.execute("ALTER TABLE procrastinate_jobs DISABLE TRIGGER USER")  # quicker; they note events
        connection.execute(PUT, [WAITING])
        connection.execute("ALTER TABLE procrastinate_jobs ENABLE TRIGGER USER")
        connection.execute("VACUUM ANALYZE procrastinate_jobs")
        yield connection


def pages(connection: psycopg.Connection[Any], query: Any, values: dict[str, Any]) -> int:
    """That Postgres reads for the query."""
    explained = connection.execute(b"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + query.encode(), values).fetchone()
    assert explained is not None
    plan = explained[0][0]["Plan"]
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


def test_few_pages_are_read_to_take_a_job(connection: psycopg.Connection[Any]) -> None:
    (worker,) = connection.execute(REGISTER).fetchone() or ()
    values = {"queues": ["dg:count"], "worker_id": worker}
    taken = connection.execute(queries["fetch_job"], values).fetchone()  # and its plan is made
    assert taken is not None
    assert taken[4] == "thread1"
    assert pages(connection, queries["fetch_job"], values) < 100  # there are 160 in the index on (id, lock) alone


def test_few_pages_are_read_for_the_jobs_of_a_thread(connection: psycopg.Connection[Any]) -> None:
    names = ("id", "queue_name", "task_name", "status", "lock", "queueing_lock", "worker_id")
    assert pages(connection, queries["list_jobs"], {**dict.fromkeys(names), "lock": "thread7"}) < 20
