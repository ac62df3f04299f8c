"""The limits: loops that insert and commit, or select, the rows that this library wrote for the same work.

The same bytes in the same columns with the same primary key, and nothing else: no graph, no encoding, no hash.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from itertools import chain, groupby
from pathlib import Path
from typing import Any, TypeAlias

import orjson
import psycopg

from tests.benchmarks.measure import Figures, Steps
from tests.benchmarks.places import file_bytes, schema_bytes
from tests.benchmarks.works import check

TABLE = (
    "CREATE TABLE bare (thread_id TEXT, step BIGINT, parent_step BIGINT, kind TEXT, superstep BIGINT, node TEXT,"
    " task TEXT, run_id TEXT, epoch BIGINT, body {blob}, created_at TEXT, hash {blob}, PRIMARY KEY (thread_id, step))"
)
SQLITE_INSERT = f"INSERT INTO bare VALUES ({', '.join('?' * 12)})"
POSTGRES_INSERT = f"INSERT INTO bare VALUES ({', '.join(['%s'] * 12)})"
COLUMNS = "thread_id, step, parent_step, kind, superstep, node, task, run_id, epoch, body, created_at, hash"
BODY = COLUMNS.split(", ").index("body")

Rows = Sequence[tuple[Any, ...]]
Insert = Callable[[tuple[Any, ...]], None]
Connection: TypeAlias = "psycopg.Connection[Any]"


def rows_in(file: Path) -> Rows:
    """What this library wrote, without the inputs: one row for each event."""
    with closing(sqlite3.connect(file)) as connection:
        return connection.execute(f"SELECT {COLUMNS} FROM checkpoints WHERE step > 0").fetchall()


# --- writing ------------------------------------------------------------------------------------


def sqlite(rows: Rows, file: Path, synchronous: str = "FULL") -> Steps:
    connection = _opened(file, synchronous)
    yield
    for row in rows:
        connection.execute(SQLITE_INSERT, row)
        yield
    _close(connection, len(rows))
    return {"bytes": file_bytes(file)}


def sqlite_groups(rows: Rows, file: Path, synchronous: str, group: int) -> Figures:
    """`group` rows share a commit."""
    connection = _opened(file, synchronous)
    begun = time.perf_counter()
    for start in range(0, len(rows), group):
        connection.execute("BEGIN IMMEDIATE")
        for row in rows[start : start + group]:
            connection.execute(SQLITE_INSERT, row)
        connection.execute("COMMIT")
    seconds = time.perf_counter() - begun
    _close(connection, len(rows))
    return {"seconds": seconds}


def sqlite_workers(rows: Rows, file: Path, workers: int) -> Figures:
    """So many loops, each a thread that waits for its row; whoever gets the lock commits for all that wait."""
    connection = _opened(file, "FULL")
    lock, waiting = threading.Lock(), []

    def insert(row: tuple[Any, ...]) -> None:
        written: list[bool] = []
        waiting.append((row, written))
        with lock:
            if written:
                return
            group = waiting[:]
            connection.execute("BEGIN IMMEDIATE")
            for each, _ in group:
                connection.execute(SQLITE_INSERT, each)
            connection.execute("COMMIT")
            del waiting[: len(group)]
            for _, done in group:
                done.append(True)

    seconds = _side_by_side(rows, [insert] * workers)
    _close(connection, len(rows))
    return {"seconds": seconds}


def _opened(file: Path, synchronous: str) -> sqlite3.Connection:
    connection = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute(f"PRAGMA synchronous={synchronous}")
    connection.execute(TABLE.format(blob="BLOB"))
    return connection


def _close(connection: sqlite3.Connection, wanted: int) -> None:
    (count,) = connection.execute("SELECT count(*) FROM bare").fetchone()
    connection.close()
    check(count == wanted, f"{count} rows instead of {wanted}")


def postgres(rows: Rows, url: str) -> Steps:
    with _connected(url, 1) as (connection,):
        yield
        for row in rows:
            connection.execute(POSTGRES_INSERT, row)
            yield
        _check_count(connection, len(rows))
    return {"bytes": schema_bytes(url)}


def postgres_workers(rows: Rows, url: str, workers: int) -> Figures:
    """So many loops side by side, with a connection each."""
    with _connected(url, workers) as connections:
        seconds = _side_by_side(rows, [_insert_into(connection) for connection in connections])
        _check_count(connections[0], len(rows))
    return {"seconds": seconds}


@contextmanager
def _connected(url: str, number: int) -> Iterator[list[Connection]]:
    with ExitStack() as stack:
        connections = [
            stack.enter_context(psycopg.connect(url, autocommit=True, prepare_threshold=0)) for _ in range(number)
        ]
        connections[0].execute(TABLE.format(blob="BYTEA"))
        yield connections


def _check_count(connection: Connection, wanted: int) -> None:
    found = connection.execute("SELECT count(*) FROM bare").fetchone()
    check(found == (wanted,), f"{found} rows instead of {wanted}")


def _insert_into(connection: Connection) -> Insert:
    execute = connection.execute

    def insert(row: tuple[Any, ...]) -> None:
        execute(POSTGRES_INSERT, row)

    return insert


def _in_turn(rows: Rows, insert: Insert) -> float:
    begun = time.perf_counter()
    for row in rows:
        insert(row)
    return time.perf_counter() - begun


def _side_by_side(rows: Rows, inserts: Sequence[Insert]) -> float:
    """The threads' rows dealt out to workers, each thread's in their order."""
    threads = [list(group) for _, group in groupby(rows, key=lambda row: row[0])]
    shares = [list(chain.from_iterable(threads[start :: len(inserts)])) for start in range(len(inserts))]
    begun = time.perf_counter()
    with ThreadPoolExecutor(len(inserts)) as pool:
        list(pool.map(_in_turn, shares, inserts))
    return time.perf_counter() - begun


# --- reading ------------------------------------------------------------------------------------


def select_sqlite(file: Path, thread_id: str, wanted: int) -> Figures:
    """All rows of a thread, their JSON parsed."""
    with closing(sqlite3.connect(file)) as connection:
        begun = time.perf_counter()
        rows = connection.execute(f"SELECT {COLUMNS} FROM checkpoints WHERE thread_id = ? ORDER BY step", [thread_id])
        count = sum(orjson.loads(row[BODY]) is not None for row in rows)
        seconds = time.perf_counter() - begun
    check(count == wanted, f"{count} rows instead of {wanted}")
    return {"seconds": seconds}


def select_postgres(url: str, thread_id: str, wanted: int) -> Figures:
    with psycopg.connect(url) as connection:
        begun = time.perf_counter()
        query = f"SELECT {COLUMNS} FROM checkpoints WHERE thread_id = %s ORDER BY step"
        rows = connection.execute(query, [thread_id], binary=True)
        count = sum(orjson.loads(row[BODY]) is not None for row in rows)
        seconds = time.perf_counter() - begun
    check(count == wanted, f"{count} rows instead of {wanted}")
    return {"seconds": seconds}
