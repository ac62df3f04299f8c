"""The table: what is measured, who takes part, and what is to be reached.

L is the bare loop of the same database, pragma and payload; G is LangGraph with durability "sync" on the same
database. The targets are those of the issue "Fast". Each contest is a context that prepares what its contenders
share; everything scales with `Bench.steps`, and with 1,000 of them it is what the targets were set for.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from durable_graph.codec import Codec
from tests.benchmarks import bare, ours
from tests.benchmarks.bare import Rows
from tests.benchmarks.measure import LANGGRAPH, LIMIT, OURS, Contender, Contest, Figures, Target
from tests.benchmarks.places import Places, writing_transactions
from tests.benchmarks.processes import fresh
from tests.benchmarks.works import Work, beside, chat, check, counter, message, onto, parallel, sends

FEW = 3  # rounds of contenders that take long
AHEAD = "bare loop that knows all rows"
WORKERS = 16


@dataclass(frozen=True)
class Bench:
    places: Places
    steps: int = 1000
    peers: bool = True  # whether those that are installed take part

    def has(self, *modules: str) -> bool:
        return self.peers and all(_importable(module) for module in modules)

    @property
    def langgraph(self) -> bool:
        return self.has("langgraph.graph", "langgraph.checkpoint.sqlite", "langgraph.checkpoint.postgres")

    @property
    def dbos(self) -> bool:
        return self.has("dbos")

    @property
    def burr(self) -> bool:
        return self.has("burr")

    def on_file(self, run: Callable[..., Figures], *args: Any, **kwargs: Any) -> Callable[[], Figures]:
        """`run` with a fresh file after the given arguments."""

        def it() -> Figures:
            with self.places.file() as file:
                return run(*args, file, **kwargs)

        return it

    def in_schema(self, run: Callable[..., Figures], *args: Any, ours: bool = False) -> Callable[[], Figures]:
        def it() -> Figures:
            with self.places.schema(ours=ours) as url:
                return run(*args, url)

        return it

    def rows(self, work: Work) -> Rows:
        with self.places.file() as file:
            return ours.rows_of(work, file)


def _importable(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


# --- counter: one thread, the smallest step -------------------------------------------------------


@contextmanager
def counter_sqlite_full(bench: Bench) -> Iterator[Contest]:
    work, rows = counter(bench.steps), bench.rows(counter(bench.steps))
    contenders = [
        Contender(LIMIT, bench.on_file(lambda file: bare.sqlite(file, rows))),
        Contender(OURS, bench.on_file(ours.on_sqlite, work)),
    ]
    if bench.langgraph:
        from tests.benchmarks import langgraph_peer as peer

        contenders += [
            Contender(LANGGRAPH, bench.on_file(lambda file: peer.on_sqlite(work, file))),
            Contender("LangGraph async", bench.on_file(lambda file: peer.on_sqlite(work, file, "async"))),
        ]
    if bench.dbos:
        from tests.benchmarks import dbos_peer

        contenders.append(Contender("DBOS", bench.on_file(dbos_peer.on_sqlite, dbos_peer.counter, bench.steps), FEW))
    if bench.burr:
        from tests.benchmarks import burr_peer

        contenders.append(Contender("Burr (no WAL)", bench.on_file(burr_peer.run, work), FEW))
    targets = [Target(0.85, LIMIT), Target(5, LANGGRAPH)]
    yield Contest("counter, SQLite FULL", contenders, targets, bench.steps)


@contextmanager
def counter_sqlite_normal(bench: Bench) -> Iterator[Contest]:
    work, rows = counter(bench.steps), bench.rows(counter(bench.steps))
    contenders = [
        Contender(LIMIT, bench.on_file(lambda file: bare.sqlite(file, rows, "NORMAL"))),
        Contender(OURS, bench.on_file(lambda file: ours.on_sqlite(work, file, "NORMAL"))),
    ]
    if bench.langgraph:
        from tests.benchmarks import langgraph_peer as peer

        normal = bench.on_file(lambda file: peer.on_sqlite(work, file, synchronous="NORMAL"))
        contenders.append(Contender(LANGGRAPH, normal))
    yield Contest("counter, SQLite NORMAL", contenders, [Target(0.5, LIMIT)], bench.steps)


@contextmanager
def counter_postgres(bench: Bench) -> Iterator[Contest]:
    work, rows = counter(bench.steps), bench.rows(counter(bench.steps))
    contenders = [
        Contender(LIMIT, bench.in_schema(lambda url: bare.postgres(url, rows))),
        Contender(OURS, bench.in_schema(ours.on_postgres, work, ours=True)),
    ]
    if bench.langgraph:
        from tests.benchmarks import langgraph_peer as peer

        contenders += [
            Contender(LANGGRAPH, bench.in_schema(lambda url: peer.on_postgres(work, url))),
            Contender("LangGraph async", bench.in_schema(lambda url: peer.on_postgres(work, url, "async"))),
        ]
    if bench.dbos:
        from tests.benchmarks import dbos_peer

        contenders.append(
            Contender("DBOS", bench.in_schema(dbos_peer.on_postgres, dbos_peer.counter, bench.steps), FEW)
        )
    targets = [Target(0.8, LIMIT), Target(6, LANGGRAPH)]
    yield Contest("counter, Postgres", contenders, targets, bench.steps)


@contextmanager
def no_checkpointer(bench: Bench) -> Iterator[Contest]:
    work = counter(bench.steps)
    contenders = [Contender(OURS, lambda: ours.without_checkpointer(work))]
    if bench.langgraph:
        from tests.benchmarks import langgraph_peer

        contenders.append(Contender("LangGraph", lambda: langgraph_peer.without_checkpointer(work)))
    if bench.burr:
        from tests.benchmarks import burr_peer

        contenders.append(Contender("Burr", lambda: burr_peer.run(work)))
    yield Contest("no checkpointer", contenders, [Target(15, "LangGraph"), Target(2, "Burr")], bench.steps)


# --- asyncio --------------------------------------------------------------------------------------

SYNC = "durable_graph, sync"


@contextmanager
def async_sqlite(bench: Bench) -> Iterator[Contest]:
    work, awork = counter(bench.steps), counter(bench.steps, asynchronous=True)
    contenders = [
        Contender(SYNC, bench.on_file(ours.on_sqlite, work)),
        Contender(OURS, bench.on_file(lambda file: ours.arun(awork, ours.sqlite_url(file)))),
    ]
    if bench.langgraph:
        from tests.benchmarks import langgraph_peer

        contenders.append(Contender(LANGGRAPH, bench.on_file(langgraph_peer.aon_sqlite, awork)))
    yield Contest("async, SQLite FULL", contenders, [Target(0.7, SYNC), Target(7, LANGGRAPH)], bench.steps)


@contextmanager
def async_postgres(bench: Bench) -> Iterator[Contest]:
    work, awork = counter(bench.steps), counter(bench.steps, asynchronous=True)
    contenders = [
        Contender(SYNC, bench.in_schema(ours.on_postgres, work, ours=True)),
        Contender(OURS, bench.in_schema(ours.arun, awork, ours=True)),
    ]
    if bench.langgraph:
        from tests.benchmarks import langgraph_peer

        contenders.append(Contender(LANGGRAPH, bench.in_schema(langgraph_peer.aon_postgres, awork)))
    yield Contest("async, Postgres", contenders, [Target(0.7, SYNC), Target(7, LANGGRAPH)], bench.steps)


# --- chat: what is there grows, the step does not -------------------------------------------------


def _chat_targets(limit: float, peer: float) -> list[Target]:
    on_disk = "bytes on disk over payload"
    late = "last tenth over first tenth, time"
    return [
        Target(limit, LIMIT),
        Target(peer, LANGGRAPH),
        Target(1.15, figure="late", at_most=True, about=late),
        Target(figure="late", of=LANGGRAPH, about=f"{late}, LangGraph"),
        Target(2.0, figure="stored", at_most=True, about=on_disk),
        *(Target(figure="stored", of=who, about=f"{on_disk}, {who}") for who in (LIMIT, LANGGRAPH, DELTA, "DBOS")),
    ]


DELTA = "LangGraph DeltaChannel"


def _stored(work: Work, run: Callable[[], Figures]) -> Callable[[], Figures]:
    """With the bytes on disk over those that the nodes returned."""

    def it() -> Figures:
        figures = run()
        return {**figures, "stored": figures["bytes"] / work.payload}

    return it


@contextmanager
def chat_sqlite(bench: Bench) -> Iterator[Contest]:
    work, rows = chat(bench.steps), bench.rows(chat(bench.steps))
    contenders = [
        Contender(LIMIT, _stored(work, bench.on_file(lambda file: bare.sqlite(file, rows)))),
        Contender(OURS, _stored(work, bench.on_file(ours.on_sqlite, work))),
    ]
    if bench.langgraph:
        from tests.benchmarks import langgraph_peer as peer

        delta = peer.delta_chat(bench.steps)
        contenders += [
            Contender(LANGGRAPH, _stored(work, bench.on_file(peer.on_sqlite, work)), FEW),
            Contender(DELTA, _stored(work, bench.on_file(peer.on_sqlite, delta)), FEW),
        ]
    if bench.dbos:
        from tests.benchmarks import dbos_peer

        run = bench.on_file(dbos_peer.on_sqlite, dbos_peer.chat, bench.steps)
        contenders.append(Contender("DBOS", _stored(work, run), FEW))
    yield Contest("chat of 1 KB appended, SQLite FULL", contenders, _chat_targets(0.8, 20), bench.steps)


@contextmanager
def chat_postgres(bench: Bench) -> Iterator[Contest]:
    work, rows = chat(bench.steps), bench.rows(chat(bench.steps))
    contenders = [
        Contender(LIMIT, _stored(work, bench.in_schema(lambda url: bare.postgres(url, rows)))),
        Contender(OURS, _stored(work, bench.in_schema(ours.on_postgres, work, ours=True))),
    ]
    if bench.langgraph:
        from tests.benchmarks import langgraph_peer as peer

        delta = peer.delta_chat(bench.steps)
        contenders += [
            Contender(LANGGRAPH, _stored(work, bench.in_schema(peer.on_postgres, work)), FEW),
            Contender(DELTA, _stored(work, bench.in_schema(peer.on_postgres, delta)), FEW),
        ]
    if bench.dbos:
        from tests.benchmarks import dbos_peer

        run = bench.in_schema(dbos_peer.on_postgres, dbos_peer.chat, bench.steps)
        contenders.append(Contender("DBOS", _stored(work, run), FEW))
    yield Contest("chat of 1 KB appended, Postgres", contenders, _chat_targets(0.8, 15), bench.steps)


# --- side by side ---------------------------------------------------------------------------------


def _with_langgraph(bench: Bench, work: Work, run: Callable[[], Figures], backend: str) -> list[Contender]:
    contenders = [Contender(OURS, run)]
    if bench.langgraph:
        from tests.benchmarks import langgraph_peer as peer

        sqlite, postgres = bench.on_file(peer.on_sqlite, work), bench.in_schema(peer.on_postgres, work)
        contenders.append(Contender(LANGGRAPH, sqlite if backend == "sqlite" else postgres, FEW))
    return contenders


@contextmanager
def parallel_sqlite(bench: Bench) -> Iterator[Contest]:
    work = parallel(max(1, bench.steps // 10))
    contenders = _with_langgraph(bench, work, bench.on_file(ours.on_sqlite, work), "sqlite")
    yield Contest("10 parallel nodes and a join, SQLite FULL", contenders, [Target(8, LANGGRAPH)], work.events, "event")


@contextmanager
def parallel_postgres(bench: Bench) -> Iterator[Contest]:
    work = parallel(max(1, bench.steps // 10))
    contenders = _with_langgraph(bench, work, bench.in_schema(ours.on_postgres, work, ours=True), "postgres")
    yield Contest("10 parallel nodes and a join, Postgres", contenders, [Target(8, LANGGRAPH)], work.events, "event")


def _send_targets(number: int) -> list[Target]:
    commits = f"commits for {number} tasks"
    return [Target(8, LANGGRAPH), Target(number / 5, figure="commits", at_most=True, about=commits)]


@contextmanager
def send_sqlite(bench: Bench) -> Iterator[Contest]:
    work = sends(max(1, bench.steps // 2))

    def run(file: Path) -> Figures:
        return {**ours.on_sqlite(work, file), "commits": commits}

    with bench.places.file() as file, ours.counting_commits() as counted:  # apart: to listen takes time
        ours.on_sqlite(work, file)
        commits = counted()
    contenders = _with_langgraph(bench, work, bench.on_file(run), "sqlite")
    name = f"Send of {work.events} in one superstep, SQLite FULL"
    yield Contest(name, contenders, _send_targets(work.events), work.events, "event")


@contextmanager
def send_postgres(bench: Bench) -> Iterator[Contest]:
    work = sends(max(1, bench.steps // 2))

    def run(url: str) -> Figures:
        before = writing_transactions(url)
        figures = ours.on_postgres(work, url)
        return {**figures, "commits": writing_transactions(url) - before - 1}

    contenders = _with_langgraph(bench, work, bench.in_schema(run, ours=True), "postgres")
    name = f"Send of {work.events} in one superstep, Postgres"
    yield Contest(name, contenders, _send_targets(work.events), work.events, "event")


@contextmanager
def threads_sqlite(bench: Bench) -> Iterator[Contest]:
    work, threads = counter(20), max(1, bench.steps // 10)
    with bench.places.file() as file:
        rows = ours.rows_of_fleet(work, file, threads)
    contenders = [
        Contender(LIMIT, bench.on_file(lambda file: bare.sqlite_workers(file, rows, WORKERS))),
        Contender(AHEAD, bench.on_file(lambda file: bare.sqlite(file, rows, group=WORKERS))),
        Contender(OURS, bench.on_file(lambda file: ours.fleet(work, ours.sqlite_url(file), threads, WORKERS))),
    ]
    if bench.langgraph:
        from tests.benchmarks import langgraph_peer as peer

        def run(file: Path) -> Figures:
            with peer.sqlite_saver(file) as saver:
                return peer.fleet(work, saver, threads, WORKERS)

        contenders.append(Contender(LANGGRAPH, bench.on_file(run), FEW))
    # A worker has no next row before the last one is committed: so L is 16 workers who wait, and who share commits.
    # Beside it a single loop that has all rows from the start, and commits 16 at a time.
    targets = [
        Target(0.7, LIMIT),
        Target(None, AHEAD, about="of a loop that knows all rows, 16 to a commit"),
        Target(12, LANGGRAPH),
    ]
    yield Contest(f"{threads} threads of 20 steps, 16 workers, SQLite FULL", contenders, targets, len(rows))


@contextmanager
def threads_postgres(bench: Bench) -> Iterator[Contest]:
    work, threads = counter(20), max(1, bench.steps // 10)
    with bench.places.file() as file:
        rows = ours.rows_of_fleet(work, file, threads)

    def run(url: str) -> Figures:
        with ours.at_most(4):
            return ours.fleet(work, url, threads, WORKERS)

    contenders = [
        Contender(LIMIT, bench.in_schema(lambda url: bare.postgres(url, rows, WORKERS))),
        Contender(OURS, bench.in_schema(run, ours=True)),
    ]
    if bench.langgraph:
        from tests.benchmarks import langgraph_peer as peer

        def peer_run(url: str) -> Figures:
            with peer.postgres_saver(url, WORKERS) as saver:
                return peer.fleet(work, saver, threads, WORKERS)

        contenders.append(Contender(LANGGRAPH, bench.in_schema(peer_run), FEW))
    targets = [
        Target(0.6, LIMIT),
        Target(10, LANGGRAPH),
        Target(4, figure="connections", at_most=True, about="connections"),
    ]
    yield Contest(f"{threads} threads of 20 steps, 16 workers, Postgres", contenders, targets, len(rows))


# --- coming back ----------------------------------------------------------------------------------

BLOB, BLOB_ORJSON = "one blob", "one blob, orjson"


@contextmanager
def resume(bench: Bench, times: int = 1) -> Iterator[Contest]:
    """A fresh process, its imports done, opens a database with a thread of so many chat steps."""
    steps = bench.steps * times
    with ExitStack() as stack:
        file, blob = stack.enter_context(bench.places.file()), stack.enter_context(bench.places.file())
        ours.run(chat(steps), ours.sqlite_url(file, "NORMAL"))
        _make_blob(blob, steps)

        def loaded(job: str, who: str, file: Path) -> Figures:
            figures = fresh(job, who, file)
            check(figures["messages"] == steps, f"{figures} instead of {steps} messages")
            return figures

        def both(who: str, file: Path, copy: Path) -> Figures:
            """To load the state, and in another process to go on."""
            shutil.copyfile(file, copy)
            first, then = loaded("load", who, copy), loaded("go_on", who, copy)
            return {
                "seconds": first["seconds"],
                "opening": first["opening"],
                "event": then["seconds"],
                "process": then["until_told"],
            }

        contenders = [
            Contender(BLOB, lambda: loaded("load_blob", "codec", blob)),
            Contender(BLOB_ORJSON, lambda: loaded("load_blob", "orjson", blob)),
            Contender(OURS, bench.on_file(both, "ours", file)),
        ]
        if bench.langgraph:
            from tests.benchmarks import langgraph_peer as peer

            its_file = stack.enter_context(bench.places.file())
            peer.make_chat(its_file, steps)
            contenders.append(Contender(LANGGRAPH, bench.on_file(both, "langgraph", its_file)))
        targets = [
            Target(1.3, BLOB, at_most=True, about="state loaded; L decoded by the same codec"),
            Target(None, BLOB_ORJSON, at_most=True, about="L parsed by orjson"),
            Target(None, LANGGRAPH, at_most=True, about="state loaded, over LangGraph's time"),
            Target(0.7, LANGGRAPH, figure="event", at_most=True, about="first new event with opening the database"),
            Target(None, LANGGRAPH, figure="opening", at_most=True, about="only opening, over LangGraph's time"),
            Target(None, LANGGRAPH, figure="process", at_most=True, about="the same with start and imports"),
        ]
        yield Contest(f"resume after {steps} chat steps, SQLite", contenders, targets, 1, "process")


def _make_blob(file: Path, steps: int) -> None:
    state = {"messages": [message(number) for number in range(steps)]}
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE blob (state BLOB)")
        connection.execute("INSERT INTO blob VALUES (?)", [Codec([]).encode(state)])
        connection.commit()


@contextmanager
def resume_long(bench: Bench) -> Iterator[Contest]:
    with resume(bench, 10) as contest:
        yield contest


@contextmanager
def resume_bounded(bench: Bench) -> Iterator[Contest]:
    """The same small state after ten times as many steps."""
    with bench.places.file() as short, bench.places.file() as long:
        sizes = {"short": (short, bench.steps), "long": (long, bench.steps * 10)}
        for file, steps in sizes.values():
            ours.run(counter(steps), ours.sqlite_url(file, "NORMAL"))

        def loaded(which: str) -> Figures:
            file, steps = sizes[which]
            figures = fresh("load_counter", file)
            check(figures["n"] == steps, f"{figures} instead of {steps}")
            return figures

        few, many = f"after {bench.steps} steps", f"after {bench.steps * 10} steps"
        contenders = [Contender(few, lambda: loaded("short")), Contender(many, lambda: loaded("long"))]
        targets = [Target(1.3, few, of=many, at_most=True, about="ten times the steps, the same state")]
        yield Contest("resume with a bounded state, SQLite", contenders, targets, 1, "process")


SELECT = "SELECT loop"


def _reading(contenders: list[Contender], steps: int, name: str) -> Contest:
    replay, history = Target(0.25, SELECT, about="replay"), Target(0.25, SELECT, of=HISTORY, about="history")
    targets = [
        replay,
        history,
        Target(50, LANGGRAPH, about="replay"),
        Target(50, LANGGRAPH, of=HISTORY, about="history"),
    ]
    return Contest(name, contenders, targets, steps)


HISTORY = "durable_graph, history"


@contextmanager
def reading_sqlite(bench: Bench) -> Iterator[Contest]:
    """The thread that `counter` makes, told again."""
    work = counter(bench.steps)
    with ExitStack() as stack:
        file = stack.enter_context(bench.places.file())
        url = ours.sqlite_url(file)
        ours.run(work, url)
        contenders = [
            Contender(SELECT, lambda: bare.select_sqlite(file, "a", work.events + 1)),
            Contender(OURS, lambda: ours.replay(url, work)),
            Contender(HISTORY, lambda: ours.history(url, work)),
        ]
        if bench.langgraph:
            from tests.benchmarks import langgraph_peer as peer

            saver = stack.enter_context(peer.sqlite_saver(stack.enter_context(bench.places.file())))
            peer.run(work, saver, "sync")
            contenders.append(Contender(LANGGRAPH, lambda: peer.history(work, saver), FEW))
        if bench.dbos:
            from tests.benchmarks import dbos_peer

            stack.enter_context(dbos_peer.launched(f"sqlite:///{stack.enter_context(bench.places.file())}"))
            dbos_peer.run(dbos_peer.counter, work.events)
            contenders.append(Contender("DBOS", lambda: dbos_peer.history(work.events)))
        yield _reading(contenders, work.events, "history and replay, SQLite")


@contextmanager
def reading_postgres(bench: Bench) -> Iterator[Contest]:
    work = counter(bench.steps)
    with ExitStack() as stack:
        url = stack.enter_context(bench.places.schema(ours=True))
        ours.run(work, url)
        contenders = [
            Contender(SELECT, lambda: bare.select_postgres(url, "a", work.events + 1)),
            Contender(OURS, lambda: ours.replay(url, work)),
            Contender(HISTORY, lambda: ours.history(url, work)),
        ]
        if bench.langgraph:
            from tests.benchmarks import langgraph_peer as peer

            saver = stack.enter_context(peer.postgres_saver(stack.enter_context(bench.places.schema())))
            peer.run(work, saver, "sync")
            contenders.append(Contender(LANGGRAPH, lambda: peer.history(work, saver), FEW))
        yield _reading(contenders, work.events, "history and replay, Postgres")


# --- flat -----------------------------------------------------------------------------------------


@contextmanager
def memory(bench: Bench) -> Iterator[Contest]:
    """Megabytes by which a process grows, from a tenth of the steps on."""

    def grown(who: str, steps: int) -> Callable[[], Figures]:
        return bench.on_file(lambda file: fresh("memory", who, file, steps))

    steps = bench.steps * 100
    contenders = [Contender(OURS, grown("ours", steps), 1)]
    about = "MB growth of the process"
    targets = [Target(1, figure="megabytes", at_most=True, about=about)]
    if bench.langgraph:
        contenders.append(Contender(LANGGRAPH, grown("langgraph", bench.steps * 2), 1))
        targets.append(Target(figure="megabytes", of=LANGGRAPH, about=f"{about}, LangGraph, {bench.steps * 2} steps"))
    yield Contest(f"memory over {steps} steps, SQLite NORMAL", contenders, targets, steps)


SMALL = "10 KB of state"


@contextmanager
def large_beside(bench: Bench) -> Iterator[Contest]:
    """The node's input and the `updates` event of a step that changes 1 KB beside a large value."""
    yield _large(bench, beside, "1 KB changed beside a large value")


@contextmanager
def large_onto(bench: Bench) -> Iterator[Contest]:
    yield _large(bench, onto, "1 KB appended to a large value")


def _large(bench: Bench, work: Callable[[int, int], Work], name: str) -> Contest:
    steps, kilobytes = max(3, bench.steps // 10), bench.steps * 10

    def run(size: int) -> Callable[[], Figures]:
        return bench.on_file(lambda file: ours.on_sqlite(work(steps, size), file, "NORMAL"))

    large = f"{kilobytes / 1000:g} MB of state"
    contenders = [Contender(SMALL, run(10)), Contender(large, run(kilobytes))]
    # No cost in proportion: room for what noise there is, and none for a copy of ten megabytes.
    targets = [Target(1.3, SMALL, of=large, at_most=True, about=f"a step with {large}")]
    return Contest(f"{name}, SQLite NORMAL", contenders, targets, steps - 2)


# --- starting -------------------------------------------------------------------------------------


def _starters(bench: Bench, job: Callable[[str], Callable[[], Figures]]) -> list[Contender]:
    contenders = [Contender(OURS, job("ours"))]
    if bench.langgraph:
        contenders.append(Contender(LANGGRAPH, job("langgraph")))
    if bench.burr:
        contenders.append(Contender("Burr", job("burr")))
    return contenders


@contextmanager
def importing(bench: Bench) -> Iterator[Contest]:
    def job(who: str) -> Callable[[], Figures]:
        return lambda: fresh("importing", who)

    yield Contest("import", _starters(bench, job), _cost_targets(), 1, "process")


@contextmanager
def first_event(bench: Bench) -> Iterator[Contest]:
    """From starting the process to the event, on a new file."""

    def job(who: str) -> Callable[[], Figures]:
        def run(file: Path) -> Figures:
            figures = fresh("first_event", who, file)
            check(figures["n"] == 1, f"{figures}")
            return {"seconds": figures["until_told"]}

        return bench.on_file(run)

    yield Contest("fresh process to the first durable event", _starters(bench, job), _cost_targets(), 1, "process")


def _cost_targets() -> list[Target]:
    return [Target(0.25, LANGGRAPH, at_most=True), Target(1, "Burr", at_most=True)]


CONTESTS: dict[str, Callable[[Bench], Any]] = {
    contest.__name__: contest
    for contest in (
        counter_sqlite_full,
        counter_sqlite_normal,
        counter_postgres,
        no_checkpointer,
        async_sqlite,
        async_postgres,
        chat_sqlite,
        chat_postgres,
        parallel_sqlite,
        parallel_postgres,
        send_sqlite,
        send_postgres,
        threads_sqlite,
        threads_postgres,
        resume,
        resume_long,
        resume_bounded,
        reading_sqlite,
        reading_postgres,
        memory,
        large_beside,
        large_onto,
        importing,
        first_event,
    )
}

# Those with a limit in the same run, for the guard: quick, and without peers.
GUARDED = (
    "counter_sqlite_full",
    "counter_sqlite_normal",
    "counter_postgres",
    "async_sqlite",
    "async_postgres",
    "chat_sqlite",
    "chat_postgres",
    "threads_sqlite",
    "threads_postgres",
    "reading_sqlite",
    "reading_postgres",
    "large_beside",
)


def needs_postgres(name: str) -> bool:
    return name.endswith("_postgres")
