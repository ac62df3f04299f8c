"""Lives of a story in processes of their own, ended by SIGKILL at a given moment: what `test_kill.py` asks for.

`python -m tests.lives` reads one `Life` a line and forks a process for each, which costs a hundredth of starting one:
everything is imported by then, and no database is open. In that process the drivers of both databases count moments:

    before   a statement that writes, BEGIN and COMMIT among them: nothing of it has reached the database
    sent     Postgres only: the statement is on its way, the answer is not there
    after    a statement that has committed

At the moment it is told to, the process kills itself. Stories and who answers them are `test_crashes_language`'s.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg.waiting import Wait
from sqlalchemy import text

from durable_graph import START, Runtime, StateGraph, drivers
from durable_graph.core.times import seconds
from durable_graph.core.verify import verify
from durable_graph.store import Store
from durable_graph.store import sqlite as store_sqlite
from durable_graph.store.sql import SqlStore
from durable_graph.store.wire import Wire
from tests import test_crashes_language as language
from tests.test_crashes_language import State, node

BORN = 1_700_000_000.0

# --- stories that test_crashes_language does not have -------------------------------------------


def linear() -> StateGraph[State]:
    builder = StateGraph(State).add_sequence([(name, node(name)) for name in "abc"])
    return builder.add_edge(START, "a")


def loop() -> StateGraph[State]:
    builder = StateGraph(State).add_node("a", node("a", n=lambda state: state["n"] + 1)).add_edge(START, "a")
    return builder.add_conditional_edges("a", lambda state: "a" if state["n"] < 4 else "__end__")


def parallel() -> StateGraph[State]:
    builder = StateGraph(State)
    for name in ("x", "y", "z", "join"):
        builder.add_node(name, node(name))
    for name in "xyz":
        builder.add_edge(START, name)
    return builder.add_edge([*"xyz"], "join")


def paying() -> StateGraph[State]:
    """Each node writes to a table of the user's, in the transaction of its row. Two of them side by side."""

    def pay(name: str) -> Callable[..., dict[str, Any]]:
        def call(state: State, runtime: Runtime[Any]) -> dict[str, Any]:
            language.called()
            values = {"thread_id": runtime.thread_id, "what": name}
            runtime.connection.execute(text("INSERT INTO ledger VALUES (:thread_id, :what)"), values)
            return {"log": [name]}

        return call

    builder = StateGraph(State)
    for name in "abcd":
        builder.add_node(name, pay(name))
    return builder.add_edge(START, "a").add_edge("a", "b").add_edge("a", "c").add_edge(["b", "c"], "d")


STORIES = {story.__name__: story for story in (linear, loop, parallel, paying, *language.ALL)}


# --- moments ----------------------------------------------------------------------------------

WRITING = re.compile(r"(?:WITH\b.*?\b)?(INSERT|UPDATE|DELETE|CREATE|BEGIN|COMMIT|ROLLBACK)\b", re.DOTALL)


class Moments:
    """Counts them, over all threads of the process, and dies at one of them."""

    def __init__(self, die_at: int | None) -> None:
        self.die_at = die_at
        self.names: list[str] = []
        self.at_statement = threading.local()
        self._lock = threading.Lock()

    def pass_by(self, name: str) -> None:
        with self._lock:
            if len(self.names) == self.die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            self.names.append(name)

    def count_in_sqlite(self) -> None:
        moments = self

        class Cursor(sqlite3.Cursor):
            def execute(self, sql: str, *arguments: Any) -> Any:
                with moments.around(sql, lambda: not self.connection.in_transaction):
                    return super().execute(sql, *arguments)

        class Connection(sqlite3.Connection):
            def cursor(self, factory: Any = Cursor) -> Any:
                return super().cursor(factory)

            def execute(self, *arguments: Any) -> Any:
                return self.cursor().execute(*arguments)

            def commit(self) -> None:
                with moments.around("COMMIT", lambda: True):
                    super().commit()

        connect = sqlite3.connect
        # ignored below: these take the place of the drivers' own, whose types are narrower
        store_sqlite.sqlite3.connect = lambda *a, **k: connect(*a, factory=Connection, **k)  # type: ignore[assignment]

    def count_in_postgres(self) -> None:
        execute, change, at_once = psycopg.Cursor.execute, Wire._change, Wire._at_once
        commit, wait, flush = psycopg.Connection.commit, psycopg.Connection.wait, Wire._flush

        def is_idle(connection: Any) -> bool:
            return bool(connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE)

        def executing(cursor: Any, sql: Any, *arguments: Any, **more: Any) -> Any:
            with self.around(sql, lambda: is_idle(cursor.connection)):
                return execute(cursor, sql, *arguments, **more)

        def changing(wire: Wire, sql: str, values: Any) -> int:
            with self.around(sql, lambda: is_idle(wire)):
                return change(wire, sql, values)

        def sending(wire: Wire, statements: Any) -> list[int]:
            with self.around(statements[-1][0], lambda: is_idle(wire)):
                return at_once(wire, statements)

        def flushing(wire: Wire) -> None:
            flush(wire)
            self._sent()

        def committing(connection: Any) -> None:
            with self.around("COMMIT", lambda: True):
                commit(connection)

        def waiting(connection: Any, generator: Any, *arguments: Any, **more: Any) -> Any:
            if getattr(self.at_statement, "name", None):
                generator = self._looking(generator)
            return wait(connection, generator, *arguments, **more)

        # ignored as above: in place of psycopg's methods, and of two of our own that send over libpq
        psycopg.Cursor.execute = executing  # type: ignore[assignment,method-assign]
        Wire._change, Wire._at_once = changing, sending  # type: ignore[method-assign]
        Wire._flush = flushing  # type: ignore[method-assign]
        psycopg.Connection.commit = committing  # type: ignore[method-assign]
        psycopg.Connection.wait = waiting  # type: ignore[assignment,method-assign]

    def _sent(self) -> None:
        if getattr(self.at_statement, "name", None):
            self.pass_by(f"sent {self.at_statement.name}")
            self.at_statement.name = None

    def _looking(self, generator: Any) -> Iterator[Any]:
        """psycopg's generator of what to wait for. To wait for nothing but the answer means: all has been sent."""
        try:
            wanted = next(generator)
            while True:
                if wanted == Wait.R:
                    self._sent()
                wanted = generator.send((yield wanted))
        except StopIteration as done:
            return done.value

    @contextmanager
    def around(self, sql: Any, committed: Callable[[], bool]) -> Iterator[None]:
        found = WRITING.match(sql.lstrip()) if isinstance(sql, str) else None
        if found is None:
            yield
            return
        word = found[1]
        self.pass_by(f"before {word}")
        self.at_statement.name = word
        try:
            yield
        finally:
            self.at_statement.name = None
        if committed():
            self.pass_by(f"after {word}")


# --- a life -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Life:
    story: str
    url: str
    thread: str
    folder: str  # where all lives of this thread note what they call and see
    number: int  # of this life
    die_at: int | None = None  # which moment
    way: str = "sync"  # or "threads": plain nodes under asyncio


@dataclass(frozen=True)
class End:
    killed: bool
    problem: str = ""  # a traceback
    moments: tuple[str, ...] = ()  # that have passed
    values: str = ""  # of the state, when the thread has come to its end


class Journal:
    """`test_crashes_language.CALLS` for several lives: what is counted is in a file before the node goes on."""

    def __init__(self, path: Path) -> None:
        self._counts = Counter(tuple(line.split("\t")) for line in _lines(path))
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._lock = threading.Lock()

    def __getitem__(self, key: tuple[str, str]) -> int:
        return self._counts[key]

    def __setitem__(self, key: tuple[str, str], _: int) -> None:
        """`journal[key] += 1`: of several threads that do so at once each is counted."""
        with self._lock:
            os.write(self._file, f"{key[0]}\t{key[1]}\n".encode())
            self._counts[key] += 1


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def live(life: Life) -> End:
    """Go on with the thread to its end, or to the moment of death."""
    moments = Moments(life.die_at)
    moments.count_in_postgres() if life.url.startswith("postgres") else moments.count_in_sqlite()
    folder = Path(life.folder)
    language.THREAD, language.CALLS = life.thread, Journal(folder / "calls")
    store = SqlStore(life.url)
    promised = with_rows(store, life.thread)
    seen = [int(step) for step in _lines(folder / "seen")]
    assert seen == sorted(set(seen)), "an event was seen twice"
    steps = {row.step for row in store.rows(life.thread)}
    assert steps.issuperset(seen), "an event was seen whose row is not there"
    with STORIES[life.story]().compile(checkpointer=store, name=life.story) as graph:
        go_on(graph, store, life)
        list(graph.recover())  # who died after the last row has not given its lease back
    values = check_end(graph, store, life.thread)
    for key, times in promised.items():
        assert language.CALLS[key] == times, f"{key} has a row and was called again"
    store.close()
    return End(False, moments=tuple(moments.names), values=values)


def with_rows(store: Store, thread: str) -> dict[tuple[str, str], int]:
    """How often was called what has a row."""
    threads = [thread, *store.called(thread)]
    done = [(name, str(row.task)) for name in threads for row in store.rows(name) if row.kind == "task"]
    return {key: language.CALLS[key] for key in done}


def go_on(graph: Any, store: Store, life: Life) -> None:
    # A time of its own for each life, later than everything that there is of those before.
    newest = [seconds(row.created_at) for row in store.rows(life.thread, newest_first=True, limit=1)]
    outside = language.Outside(graph, store, now=max([BORN, *newest]) + 0.001 * (life.number + 1))
    drivers.clock = lambda: outside.now
    seen = os.open(Path(life.folder) / "seen", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    config: dict[str, Any] = {"thread_id": life.thread}

    async def consume(value: Any) -> None:
        async for event in graph.astream(value, config, stream_mode="events"):
            os.write(seen, f"{event.step}\n".encode())

    calls = 0
    while not language.has_ended(graph, store):
        value = outside.next_input()
        if life.way == "sync":
            for event in graph.stream(value, config, stream_mode="events"):
                os.write(seen, f"{event.step}\n".encode())
        else:
            asyncio.run(consume(value))
        calls += 1
        assert calls < 60, "it does not come to an end"


def check_end(graph: Any, store: Store, thread: str) -> str:
    position = language.position_of(graph, store)
    assert position is not None
    assert store.signals(thread) == [], "a signal was not taken, or sent once more than it was"
    for name in (thread, *store.called(thread)):
        found = store.thread(name)
        assert found is not None
        assert (found.status, found.lease_owner) == ("finished", None), found
        assert verify(store, name, None).ok
        assert [row.step for row in store.rows(name)] == list(range(len(list(store.rows(name)))))
    return repr(sorted(position.values.items()))


# --- the process that forks, and who asks it ------------------------------------------------------


def serve() -> None:
    gc.freeze()  # else each child would copy what it looks through for garbage
    for line in sys.stdin:
        life = Life(**json.loads(line))
        answer = Path(life.folder) / f"end-{life.number}"
        child = os.fork()
        if not child:
            status = 1
            try:
                answer.write_text(json.dumps(asdict(live(life))))
                status = 0
            except BaseException:
                answer.write_text(json.dumps(asdict(End(False, traceback.format_exc()))))
            finally:
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        killed = status == -signal.SIGKILL
        told = answer.read_text() if answer.exists() else json.dumps(asdict(End(killed, "" if killed else str(status))))
        print(told, flush=True)  # noqa: T201


class Lives:
    """Asks such a process."""

    def __init__(self) -> None:
        command = [sys.executable, "-W", "error", "-m", "tests.lives"]
        self._process = subprocess.Popen(
            command, cwd=Path(__file__).parent.parent, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def live(self, life: Life) -> End:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asdict(life)) + "\n")
        self._process.stdin.flush()
        told = json.loads(self._process.stdout.readline())
        end = End(**{**told, "moments": tuple(told["moments"])})
        assert not end.problem, f"{life}\n{end.problem}"
        return end

    def close(self) -> None:
        self._process.communicate()


if __name__ == "__main__":
    serve()
