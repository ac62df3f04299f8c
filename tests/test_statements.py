"""The SQL that stands ready in files is what the tables and `statements.py` say, and is all that a program needs."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
from conftest import Script, connected, finished
from sqlalchemy import make_url
from test_store_contract import begin

from durable_graph.store.sql import SqlStore
from durable_graph.store.statements import made, names, written
from durable_graph.store.texts import MARKS, Statement, file_of, texts


@pytest.mark.parametrize("backend", MARKS)
def test_the_files_are_up_to_date(backend: str) -> None:
    found = file_of(backend).read_text(encoding="utf-8")
    assert found == written(backend), "run: python -m durable_graph.store.statements"


@pytest.mark.parametrize("backend", MARKS)
def test_every_statement_is_read_back(backend: str) -> None:
    expected = {name: made(backend, name) for name in names()}
    assert {name: text for name, text in texts(backend).items() if name != "creation"} == expected


def test_sqlite_takes_each(sqlite_url: str) -> None:
    with closing(sqlite3.connect(str(make_url(sqlite_url).database))) as connection:
        connection.executescript(texts("sqlite")["creation"])
        for name in names():
            statement = Statement(texts("sqlite")[name], MARKS["sqlite"])
            connection.execute(f"EXPLAIN {statement.text}", [None] * len(statement.names))


def test_postgres_takes_each(postgres_url: str) -> None:
    with connected(make_url(postgres_url)) as connection:
        for name in names():
            statement = Statement(texts("postgresql")[name], MARKS["postgresql"])
            numbered = statement.text % tuple(f"${place}" for place, _ in enumerate(statement.names, start=1))
            connection.execute(f'PREPARE "{name[:60]}" AS {numbered}')


def test_parameters() -> None:
    statement = Statement("SELECT :name::VARCHAR, :count + :count WHERE NOT :name IS NULL", "%s")
    assert statement.text == "SELECT %s::VARCHAR, %s + %s WHERE NOT %s IS NULL"
    assert statement.bind(name="n", count=2, more=3) == (statement.text, ["n", 2, 2, "n"])


def test_a_form_that_is_in_no_file_is_made(database_url: str) -> None:
    """Leases are renewed in one statement however many they are."""
    backend, number = database_url.partition(":")[0].partition("+")[0], 40
    assert f"renew({1 << number.bit_length()})" not in texts(backend)
    with closing(SqlStore(database_url)) as store:
        for place in range(number):
            begin(store, f"t{place}", lease_owner=f"me/{place}")
        store.renew([(f"t{place}", f"me/{place}") for place in range(number)], "2030-01-01T00:00:00.000000Z")
        assert {thread.lease_expires_at for thread in store.threads()} == {"2030-01-01T00:00:00.000000Z"}


# --- a program does without SQLAlchemy ----------------------------------------------------------

A_PROGRAM = """
import asyncio, operator, sys
from contextlib import suppress
from typing import Annotated, TypedDict
from durable_graph import START, CachePolicy, Command, StateGraph, interrupt

class State(TypedDict):
    words: Annotated[list[str], operator.add]

def ask(state):
    return {"words": [interrupt("which?")]}

def fail_once(state, failed=[]):
    if not failed:
        failed.append(True)
        raise RuntimeError
    return {"words": ["went on"]}

inner = StateGraph(State).add_node("say", lambda state: {"words": ["inside"]}).add_edge(START, "say").compile()
builder = StateGraph(State)
builder.add_node("cached", lambda state: {"words": ["x" * 50_000]}, cache_policy=CachePolicy(ttl=60))
builder.add_node("ask", ask).add_node("inner", inner).add_node("fail_once", fail_once)
builder.add_edge(START, "cached").add_edge("cached", "ask").add_edge("ask", "inner").add_edge("inner", "fail_once")
config = {"configurable": {"thread_id": "a"}}
with builder.compile(checkpointer=sys.argv[1], cache=True) as graph:
    graph.invoke({"words": []}, config)
    with suppress(RuntimeError):
        asyncio.run(graph.ainvoke(Command(resume="this"), config))
    assert graph.get_state(config, subgraphs=True).next == ("fail_once",)
    assert graph.invoke(None, config)["words"][-2:] == ["inside", "went on"]
    graph.update_state(config, {"words": ["put in"]})
    graph.invoke({"words": ["more"]}, graph.fork(config, to="b"))
    assert len(list(graph.replay(config, subgraphs=True))) > 4
    assert len(list(graph.get_state_history(config))) > 4
    assert graph.verify(config)
    lines = list(graph.export_thread(config))
    graph.delete_thread("a")
    assert graph.import_thread(lines)
    assert graph.prune(keep_last=1, vacuum=True).cut
    graph.clear_cache()
    assert list(graph.recover()) == []
    assert {thread.thread_id for thread in graph.threads(status="finished")} >= {"a"}
sys.exit("SQLAlchemy was imported" if "sqlalchemy" in sys.modules else None)
"""


def test_a_program_on_sqlite_does_not_import_sqlalchemy(sqlite_url: str, script: Script) -> None:
    finished(script(A_PROGRAM, sqlite_url))


def test_nor_does_opening_a_file_fail_for_a_reason(sqlite_url: str, script: Script) -> None:
    """Errors of SQLite are told from those of SQLAlchemy without importing it."""
    code = """
import sys
from durable_graph import Log, SchemaError, StoreUnavailableError
for url, error in (sys.argv[1] + ".d/none/a.db", StoreUnavailableError), (sys.argv[1], SchemaError):
    try:
        Log(url).threads()
    except error:
        continue
    raise AssertionError(url)
sys.exit("SQLAlchemy was imported" if "sqlalchemy" in sys.modules else None)
"""
    with closing(sqlite3.connect(str(make_url(sqlite_url).database))) as connection:
        connection.execute("CREATE TABLE orders (id)")
    finished(script(code, sqlite_url))
