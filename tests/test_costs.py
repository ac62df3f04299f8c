"""What a step may cost, apart from time: statements, commits, bytes, and the plans of the statements that it needs."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import groupby
from typing import Any

import psycopg
import pytest
from conftest import connected
from sqlalchemy import make_url

from durable_graph import StateGraph
from durable_graph.core.chain import row_hash
from durable_graph.offload import Offload
from durable_graph.store import Row
from durable_graph.store.texts import MARKS, Statement, texts
from durable_graph.store.wire import Wire
from tests.graphs import WAYS, Calls, Runner, State, counter, new_thread, wide

PER_THREAD = (  # what runs, resumes and reads of one thread say: never more than a part of the log
    "append", "rows", "newest_rows", "bodies", "hash", "snapshot", "thread", "stub", "signals", "delete(checkpoints)",
)  # fmt: skip


@pytest.fixture(params=WAYS)
def run(request: pytest.FixtureRequest, database_url: str) -> Runner:
    return Runner(request.param, database_url)


@contextmanager
def statements(monkeypatch: pytest.MonkeyPatch, database_url: str) -> Iterator[list[str]]:
    """Each statement that goes to the database meanwhile, as it goes; pipelined ones too."""
    said: list[str] = []
    if database_url.startswith("sqlite"):
        connect = sqlite3.connect

        def traced(*args: Any, **kwargs: Any) -> sqlite3.Connection:
            connection = connect(*args, **kwargs)
            connection.set_trace_callback(said.append)
            return connection

        monkeypatch.setattr(sqlite3, "connect", traced)
    else:
        execute, at_once = psycopg.Cursor.execute, Wire._at_once

        def executing(self: Any, query: Any, *args: Any, **kwargs: Any) -> Any:
            said.append(str(query))
            return execute(self, query, *args, **kwargs)

        def sending(self: Wire, statements: Any) -> list[int]:
            said.extend(sql for sql, _ in statements)
            return at_once(self, statements)

        def changing(self: Wire, sql: str, values: Any) -> int:
            said.append(sql)
            return change(self, sql, values)

        change = Wire._change
        monkeypatch.setattr(psycopg.Cursor, "execute", executing)
        monkeypatch.setattr(Wire, "_at_once", sending)
        monkeypatch.setattr(Wire, "_change", changing)
    yield said
    monkeypatch.undo()


def said_by(run: Runner, graph: StateGraph[State], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    compiled = run.compile(graph)
    with statements(monkeypatch, run.url) as said:
        run.invoke(compiled, {"n": 0}, new_thread())
    return said


def test_a_step_is_one_statement(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """One INSERT that commits itself and carries its fence: whatever a run costs besides does not depend on its
    length."""
    _, few, many = (said_by(run, counter(run, steps), monkeypatch) for steps in (1, 40, 90))  # the first makes the file
    inserts = [one for one in many if one.startswith("INSERT INTO checkpoints")]
    assert len(many) - len(few) == 50
    assert len(inserts) == 91  # with the row of the input
    assert all("threads.epoch = " in one for one in inserts)


@pytest.mark.parametrize("way", [way for way in WAYS if way != "sync"])
def test_a_step_is_one_way_to_the_thread_and_back(way: str, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain node, its plain router, the row and what comes between: to and fro costs asyncio more than a step."""
    ways = []
    begin = Offload.begin
    monkeypatch.setattr(Offload, "begin", lambda self, call: ways.append(call) or begin(self, call))
    with Runner(way, database_url) as run:
        for steps in (1, 40, 90):
            run.invoke(run.compile(counter(run, steps)), {"n": 0}, new_thread())
            ways.append(None)
    _, few, many = (len([*group]) for ended, group in groupby(ways, lambda way: way is None) if not ended)
    assert many - few == 50


def test_tasks_that_end_together_are_one_commit(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """However they end, there are at most as many commits as rows; and a claim, a lease given back are none more."""
    said = said_by(run, wide(run, Calls()), monkeypatch)
    rows = sum(one.startswith("INSERT INTO checkpoints") for one in said)
    assert rows <= 5  # one statement may bring several
    assert sum("COMMIT" in one for one in said) <= 5


def test_a_row_is_hardly_more_than_what_it_says(run: Runner) -> None:
    graph, config = run.compile(counter(run, 20)), new_thread()
    run.invoke(graph, {"n": 0}, config)
    *_, before, row, _ = graph._stored().rows(config["configurable"]["thread_id"])
    assert isinstance(row, Row)
    assert len(row.body) < 120, row.body
    assert sum(len(str(column)) for column in row if column not in (row.body, row.hash)) < 130
    columns = (*row[: Row._fields.index("body")], row.created_at)
    assert row.hash == row_hash(before.hash, columns, row.body)


@pytest.mark.parametrize("name", PER_THREAD)
def test_sqlite_finds_rows_by_their_keys(sqlite_url: str, name: str) -> None:
    with closing(sqlite3.connect(str(make_url(sqlite_url).database))) as connection:
        connection.executescript(texts("sqlite")["creation"])
        statement = Statement(texts("sqlite")[name], MARKS["sqlite"])
        plan = connection.execute(f"EXPLAIN QUERY PLAN {statement.text}", [1] * len(statement.names)).fetchall()
    said = [row[3] for row in plan]
    assert any("SEARCH" in one for one in said), said
    assert not any("SCAN" in one and "SCAN (" not in one for one in said), said


@pytest.mark.parametrize("name", PER_THREAD)
def test_postgres_finds_rows_by_their_keys(postgres_url: str, name: str) -> None:
    """Once there are enough of them: for a few it looks through all, which is why that is switched off."""
    with connected(make_url(postgres_url)) as connection:
        statement = Statement(texts("postgresql")[name], MARKS["postgresql"])
        numbered = statement.text % tuple(f"${place}" for place, _ in enumerate(statement.names, start=1))
        connection.execute("SET enable_seqscan = off")
        connection.execute("SET plan_cache_mode = force_generic_plan")
        connection.execute(f"PREPARE it AS {numbered}")
        nulls = ", ".join(["NULL"] * len(statement.names))
        plan = connection.execute(f"EXPLAIN EXECUTE it({nulls})").fetchall()
    said = " ".join(line for (line,) in plan)
    assert "Index" in said, said
    assert "Seq Scan" not in said, said
