"""LangGraph with its SQLite and Postgres savers, as its documentation says to set them up."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Annotated, Any

from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send
from psycopg.rows import dict_row
from psycopg_pool import ConnectionPool

from tests.benchmarks.measure import Figures, Steps
from tests.benchmarks.places import file_bytes, schema_bytes
from tests.benchmarks.works import Names, Work, chat, check, message

NAMES = Names(StateGraph, START, END, Send)
LIMIT = 1_000_000  # supersteps


def config(thread_id: str = "a") -> Any:
    return {"configurable": {"thread_id": thread_id}, "recursion_limit": LIMIT}


@contextmanager
def sqlite_saver(file: Path, synchronous: str = "FULL") -> Iterator[SqliteSaver]:
    with closing(sqlite3.connect(file, check_same_thread=False)) as connection:
        connection.execute(f"PRAGMA synchronous={synchronous}")
        saver = SqliteSaver(connection)
        saver.setup()  # sets WAL, too
        yield saver


@contextmanager
def postgres_saver(url: str, connections: int = 1) -> Iterator[PostgresSaver]:
    with ExitStack() as stack:
        if connections == 1:
            saver = stack.enter_context(PostgresSaver.from_conn_string(url))
        else:
            settings: dict[str, Any] = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
            pool = ConnectionPool(url, min_size=connections, max_size=connections, kwargs=settings, open=True)
            saver = PostgresSaver(stack.enter_context(pool))  # type: ignore[arg-type]
        saver.setup()
        yield saver


def steps(work: Work, saver: Any, durability: str = "sync") -> Steps:
    graph = work.draw(NAMES).compile(checkpointer=saver)
    yield
    for _ in graph.stream(work.input, config(), stream_mode="updates", durability=durability):
        yield
    work.check(graph.get_state(config()).values)
    return {}


def on_sqlite(work: Work, file: Path, durability: str = "sync", synchronous: str = "FULL") -> Steps:
    with sqlite_saver(file, synchronous) as saver:
        yield from steps(work, saver, durability)
    return {"bytes": file_bytes(file)}


def on_postgres(work: Work, url: str, durability: str = "sync") -> Steps:
    with postgres_saver(url) as saver:
        yield from steps(work, saver, durability)
    return {"bytes": schema_bytes(url)}


def aon_sqlite(work: Work, file: Path) -> Figures:
    async def consume() -> Figures:
        async with AsyncSqliteSaver.from_conn_string(str(file)) as saver:
            await saver.setup()
            return await _arun(work, saver)

    return asyncio.run(consume())


def aon_postgres(work: Work, url: str) -> Figures:
    async def consume() -> Figures:
        async with AsyncPostgresSaver.from_conn_string(url) as saver:
            await saver.setup()
            return await _arun(work, saver)

    return asyncio.run(consume())


async def _arun(work: Work, saver: Any) -> Figures:
    graph = work.draw(NAMES).compile(checkpointer=saver)
    events = graph.astream(work.input, config(), stream_mode="updates", durability="sync")
    figures = await work.atimed(events)
    work.check((await graph.aget_state(config())).values)
    return figures


def without_checkpointer(work: Work) -> Steps:
    values: dict[str, Any] = {}
    graph = work.draw(NAMES).compile()
    yield
    for update in graph.stream(work.input, {"recursion_limit": LIMIT}, stream_mode="updates"):
        values.update(*update.values())
        yield
    work.check(values)
    return {}


def fleet(work: Work, saver: Any, threads: int, workers: int) -> Figures:
    graph = work.draw(NAMES).compile(checkpointer=saver)

    def one(number: int) -> int:
        events = graph.stream(work.input, config(f"t{number}"), stream_mode="updates", durability="sync")
        return sum(1 for _ in events)

    begun = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        events = sum(pool.map(one, range(threads)))
    seconds = time.perf_counter() - begun
    check(events == threads * work.events, f"{events} events")
    for number in range(threads):
        work.check(graph.get_state(config(f"t{number}")).values)
    return {"seconds": seconds}


def history(work: Work, saver: Any) -> Figures:
    """Of a thread that `steps` has made."""
    graph = work.draw(NAMES).compile(checkpointer=saver)
    begun = time.perf_counter()
    count = sum(1 for _ in graph.get_state_history(config()))
    seconds = time.perf_counter() - begun
    check(count >= work.events, f"{count} checkpoints")
    return {"seconds": seconds}


def delta_chat(steps: int) -> Work:
    """`chat` with the channel that writes differences (in beta)."""

    def extended(before: Sequence[Any], writes: Sequence[Sequence[Any]]) -> list[Any]:
        return [*before, *(each for write in writes for each in write)]

    return chat(steps, Annotated[list, DeltaChannel(extended)])


def make_chat(file: Path, messages: int) -> None:
    """A thread with so many messages in `file`, for `programs.py`. Written at once, which is quick; LangGraph reads
    only the last checkpoint, so that it is the same for it."""
    from tests.benchmarks.programs import Chat, drawn, speak

    with sqlite_saver(file) as saver:
        graph = drawn(Chat, speak, 0, "langgraph").compile(checkpointer=saver)
        graph.update_state(config(), {"messages": [message(number) for number in range(messages)]}, as_node="node")
