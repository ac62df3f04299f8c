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
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from durable_graph.codec import Codec
from tests.benchmarks import bare, clients, ours, workers
from tests.benchmarks.bare import Rows
from tests.benchmarks.measure import LANGGRAPH, LIMIT, OURS, Contender, Contest, Figures, Stepper, Steps, Target, whole
from tests.benchmarks.places import Places, writing_transactions
from tests.benchmarks.processes import fresh
from tests.benchmarks.works import Work, beside, chat, check, counter, message, onto, parallel, sends

MANY, FEW = 1000, 3  # rounds at most; few of contenders that take long
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

    # A run with a fresh file or schema after the given arguments:

    def on_file(self, run: Callable[..., Figures], *args: Any, **kwargs: Any) -> Callable[[], Figures]:

        def it() -> Figures:
            with self.places.file() as file:
                return run(*args, file, **kwargs)

        return it

    def in_schema(self, run: Callable[..., Figures], *args: Any, ours: bool = False) -> Callable[[], Figures]:
        def it() -> Figures:
            with self.places.schema(ours=ours) as url:
                return run(*args, url)

        return it

    def steps_on_file(self, steps: Callable[..., Steps], *args: Any, **kwargs: Any) -> Callable[[], Steps]:
        def it() -> Steps:
            with self.places.file() as file:
                return (yield from steps(*args, file, **kwargs))

        return it

    def steps_in_schema(
        self, steps: Callable[..., Steps], *args: Any, ours: bool = False, **kwargs: Any
    ) -> Callable[[], Steps]:
        def it() -> Steps:
            with self.places.schema(ours=ours) as url:
                return (yield from steps(*args, url, **kwargs))

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
    work = counter(bench.steps)
    contenders = _on_sqlite(bench, work)
    if bench.langgraph:
        from tests.benchmarks import langgraph_peer

        later = bench.steps_on_file(langgraph_peer.on_sqlite, work, durability="async")
        contenders.append(Stepper("LangGraph async", later, work.events, FEW, apart=True))
    if bench.dbos:
        from tests.benchmarks import dbos_peer

        run = bench.on_file(dbos_peer.on_sqlite, dbos_peer.counter, bench.steps)
        contenders.append(Contender("DBOS", run, FEW))
    if bench.burr:
        from tests.benchmarks import burr_peer

        contenders.append(Stepper("Burr (no WAL)", bench.steps_on_file(burr_peer.steps, work), work.events, FEW))
    targets = [Target(0.85, LIMIT), Target(5, LANGGRAPH)]
    yield Contest("counter, SQLite FULL", contenders, targets, bench.steps)


@contextmanager
def counter_sqlite_normal(bench: Bench) -> Iterator[Contest]:
    contenders = _on_sqlite(bench, counter(bench.steps), "NORMAL")
    yield Contest("counter, SQLite NORMAL", contenders, [Target(0.5, LIMIT)], bench.steps)


@contextmanager
def counter_postgres(bench: Bench) -> Iterator[Contest]:
    work = counter(bench.steps)
    contenders = _on_postgres(bench, work)
    if bench.langgraph:
        from tests.benchmarks import langgraph_peer

        later = bench.steps_in_schema(langgraph_peer.on_postgres, work, durability="async")
        contenders.append(Stepper("LangGraph async", later, work.events, FEW, apart=True))
    if bench.dbos:
        from tests.benchmarks import dbos_peer

        run = bench.in_schema(dbos_peer.on_postgres, dbos_peer.counter, bench.steps)
        contenders.append(Contender("DBOS", run, FEW))
    targets = [Target(0.8, LIMIT), Target(6, LANGGRAPH)]
    yield Contest("counter, Postgres", contenders, targets, bench.steps)


def _on_sqlite(bench: Bench, work: Work, synchronous: str = "FULL", rounds: int = MANY) -> list[Contender | Stepper]:
    """The bare loop, this library, LangGraph."""
    rows = bench.rows(work)
    limit = bench.steps_on_file(bare.sqlite, rows, synchronous=synchronous)
    mine = bench.steps_on_file(ours.on_sqlite, work, synchronous=synchronous)
    contenders: list[Contender | Stepper] = [Stepper(LIMIT, limit, work.events), Stepper(OURS, mine, work.events)]
    if bench.langgraph:
        from tests.benchmarks import langgraph_peer

        theirs = bench.steps_on_file(langgraph_peer.on_sqlite, work, synchronous=synchronous)
        contenders.append(Stepper(LANGGRAPH, theirs, work.events, rounds))
    return contenders


def _on_postgres(bench: Bench, work: Work, rounds: int = MANY) -> list[Contender | Stepper]:
    limit = bench.steps_in_schema(bare.postgres, bench.rows(work))
    mine = bench.steps_in_schema(ours.on_postgres, work, ours=True)
    contenders: list[Contender | Stepper] = [Stepper(LIMIT, limit, work.events), Stepper(OURS, mine, work.events)]
    if bench.langgraph:
        from tests.benchmarks import langgraph_peer

        theirs = bench.steps_in_schema(langgraph_peer.on_postgres, work)
        contenders.append(Stepper(LANGGRAPH, theirs, work.events, rounds))
    return contenders


@contextmanager
def no_checkpointer(bench: Bench) -> Iterator[Contest]:
    work = counter(bench.steps)
    contenders = [Stepper(OURS, lambda: ours.without_checkpointer(work), work.events)]
    if bench.langgraph:
        from tests.benchmarks import langgraph_peer

        contenders.append(Stepper("LangGraph", lambda: langgraph_peer.without_checkpointer(work), work.events))
    if bench.burr:
        from tests.benchmarks import burr_peer

        contenders.append(Stepper("Burr", lambda: burr_peer.steps(work), work.events))
    yield Contest("no checkpointer", contenders, [Target(15, "LangGraph"), Target(2, "Burr")], bench.steps)


# --- asyncio --------------------------------------------------------------------------------------

SYNC = "durable_graph, sync"


@contextmanager
def async_sqlite(bench: Bench) -> Iterator[Contest]:
    work, awork = counter(bench.steps), counter(bench.steps, asynchronous=True)
    contenders: list[Contender | Stepper] = [
        Stepper(SYNC, bench.steps_on_file(ours.on_sqlite, work), work.events),
        Contender(OURS, bench.on_file(lambda file: ours.arun(awork, ours.sqlite_url(file)))),
    ]
    if bench.langgraph:
        from tests.benchmarks import langgraph_peer

        contenders.append(Contender(LANGGRAPH, bench.on_file(langgraph_peer.aon_sqlite, awork), FEW))
    yield Contest("async, SQLite FULL", contenders, [Target(0.7, SYNC), Target(7, LANGGRAPH)], bench.steps)


@contextmanager
def async_postgres(bench: Bench) -> Iterator[Contest]:
    work, awork = counter(bench.steps), counter(bench.steps, asynchronous=True)
    contenders: list[Contender | Stepper] = [
        Stepper(SYNC, bench.steps_in_schema(ours.on_postgres, work, ours=True), work.events),
        Contender(OURS, bench.in_schema(ours.arun, awork, ours=True)),
    ]
    if bench.langgraph:
        from tests.benchmarks import langgraph_peer

        contenders.append(Contender(LANGGRAPH, bench.in_schema(langgraph_peer.aon_postgres, awork), FEW))
    yield Contest("async, Postgres", contenders, [Target(0.7, SYNC), Target(7, LANGGRAPH)], bench.steps)


# --- chat: what is there grows, the step does not -------------------------------------------------

DELTA = "LangGraph DeltaChannel"


def _chat_targets(work: Work, limit: float, peer: float) -> list[Target]:
    on_disk, late = "bytes on disk over payload", "last tenth over first tenth, time"
    rivals = (LIMIT, LANGGRAPH, DELTA, "DBOS")
    stored = Target(2.0, figure="bytes", at_most=True, per=work.payload, about=on_disk)
    return [
        Target(limit, LIMIT),
        Target(peer, LANGGRAPH),
        Target(1.15, figure="late", at_most=True, about=late),
        Target(figure="late", of=LANGGRAPH, about=f"{late}, {LANGGRAPH}"),
        stored,
        *(replace(stored, bound=None, of=who, about=f"{on_disk}, {who}") for who in rivals),
    ]


@contextmanager
def chat_sqlite(bench: Bench) -> Iterator[Contest]:
    work = chat(bench.steps)
    contenders = _on_sqlite(bench, work, rounds=FEW)
    if bench.langgraph:
        from tests.benchmarks import langgraph_peer

        delta = bench.steps_on_file(langgraph_peer.on_sqlite, langgraph_peer.delta_chat(bench.steps))
        contenders.append(Stepper(DELTA, delta, work.events, FEW))
    if bench.dbos:
        from tests.benchmarks import dbos_peer

        run = bench.on_file(dbos_peer.on_sqlite, dbos_peer.chat, bench.steps)
        contenders.append(Contender("DBOS", run, FEW))
    yield Contest("chat of 1 KB appended, SQLite FULL", contenders, _chat_targets(work, 0.8, 20), bench.steps)


@contextmanager
def chat_postgres(bench: Bench) -> Iterator[Contest]:
    work = chat(bench.steps)
    contenders = _on_postgres(bench, work, rounds=FEW)
    if bench.langgraph:
        from tests.benchmarks import langgraph_peer

        delta = bench.steps_in_schema(langgraph_peer.on_postgres, langgraph_peer.delta_chat(bench.steps))
        contenders.append(Stepper(DELTA, delta, work.events, FEW))
    if bench.dbos:
        from tests.benchmarks import dbos_peer

        run = bench.in_schema(dbos_peer.on_postgres, dbos_peer.chat, bench.steps)
        contenders.append(Contender("DBOS", run, FEW))
    yield Contest("chat of 1 KB appended, Postgres", contenders, _chat_targets(work, 0.8, 15), bench.steps)


# --- side by side ---------------------------------------------------------------------------------


@contextmanager
def parallel_sqlite(bench: Bench) -> Iterator[Contest]:
    work = parallel(max(1, bench.steps // 10))
    targets = [Target(None, LIMIT, about="of L"), Target(8, LANGGRAPH)]
    name = "10 parallel nodes and a join, SQLite FULL"
    yield Contest(name, _on_sqlite(bench, work, rounds=FEW), targets, work.events, "event")


@contextmanager
def parallel_postgres(bench: Bench) -> Iterator[Contest]:
    work = parallel(max(1, bench.steps // 10))
    targets = [Target(None, LIMIT, about="of L"), Target(8, LANGGRAPH)]
    name = "10 parallel nodes and a join, Postgres"
    yield Contest(name, _on_postgres(bench, work, rounds=FEW), targets, work.events, "event")


# In these a contender runs as a whole: the tasks of one superstep go on whether its events are asked for or not.


def _send_targets(number: int) -> list[Target]:
    commits = f"commits for {number} tasks"
    return [Target(8, LANGGRAPH), Target(number / 5, figure="commits", at_most=True, about=commits)]


@contextmanager
def send_sqlite(bench: Bench) -> Iterator[Contest]:
    work = sends(max(1, bench.steps // 2))

    def run(file: Path) -> Steps:
        figures = yield from ours.on_sqlite(work, file)
        return {**figures, "commits": commits}

    with bench.places.file() as file, ours.counting_commits() as counted:  # apart: to listen takes time
        whole(ours.on_sqlite(work, file))
        commits = counted()
    contenders = [Stepper(OURS, bench.steps_on_file(run), work.events, apart=True)]
    if bench.langgraph:
        from tests.benchmarks import langgraph_peer

        theirs = bench.steps_on_file(langgraph_peer.on_sqlite, work)
        contenders.append(Stepper(LANGGRAPH, theirs, work.events, apart=True))
    name = f"Send of {work.events} in one superstep, SQLite FULL"
    yield Contest(name, contenders, _send_targets(work.events), work.events, "event")


@contextmanager
def send_postgres(bench: Bench) -> Iterator[Contest]:
    work = sends(max(1, bench.steps // 2))

    def run(url: str) -> Steps:
        before = writing_transactions(url)
        figures = yield from ours.on_postgres(work, url)
        return {**figures, "commits": writing_transactions(url) - before - 1}

    contenders = [Stepper(OURS, bench.steps_in_schema(run, ours=True), work.events, apart=True)]
    if bench.langgraph:
        from tests.benchmarks import langgraph_peer

        theirs = bench.steps_in_schema(langgraph_peer.on_postgres, work)
        contenders.append(Stepper(LANGGRAPH, theirs, work.events, apart=True))
    name = f"Send of {work.events} in one superstep, Postgres"
    yield Contest(name, contenders, _send_targets(work.events), work.events, "event")


@contextmanager
def threads_sqlite(bench: Bench) -> Iterator[Contest]:
    work, threads = counter(20), max(1, bench.steps // 10)
    with bench.places.file() as file:
        rows = ours.rows_of_fleet(work, file, threads)
    contenders = [
        Contender(LIMIT, bench.on_file(lambda file: bare.sqlite_workers(rows, file, WORKERS))),
        Contender(AHEAD, bench.on_file(lambda file: bare.sqlite_groups(rows, file, "FULL", WORKERS))),
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
        return ours.fleet(work, url, threads, WORKERS, "&pool_size=4")

    contenders = [
        Contender(LIMIT, bench.in_schema(lambda url: bare.postgres_workers(rows, url, WORKERS))),
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
        whole(ours.on_sqlite(chat(steps), file, "NORMAL"))
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
            whole(ours.on_sqlite(counter(steps), file, "NORMAL"))

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
        whole(ours.steps(work, url))
        contenders = [
            Contender(SELECT, lambda: bare.select_sqlite(file, "a", work.events + 1)),
            Contender(OURS, lambda: ours.replay(url, work)),
            Contender(HISTORY, lambda: ours.history(url, work)),
        ]
        if bench.langgraph:
            from tests.benchmarks import langgraph_peer as peer

            saver = stack.enter_context(peer.sqlite_saver(stack.enter_context(bench.places.file())))
            whole(peer.steps(work, saver))
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
        whole(ours.steps(work, url))
        contenders = [
            Contender(SELECT, lambda: bare.select_postgres(url, "a", work.events + 1)),
            Contender(OURS, lambda: ours.replay(url, work)),
            Contender(HISTORY, lambda: ours.history(url, work)),
        ]
        if bench.langgraph:
            from tests.benchmarks import langgraph_peer as peer

            saver = stack.enter_context(peer.postgres_saver(stack.enter_context(bench.places.schema())))
            whole(peer.steps(work, saver))
            contenders.append(Contender(LANGGRAPH, lambda: peer.history(work, saver), FEW))
        yield _reading(contenders, work.events, "history and replay, Postgres")


# --- flat -----------------------------------------------------------------------------------------


@contextmanager
def memory(bench: Bench) -> Iterator[Contest]:
    """Megabytes by which a process grows, from a tenth of the steps on."""

    def grown(who: str, steps: int) -> Callable[[], Figures]:
        def run(file: Path) -> Figures:
            figures = fresh("memory", who, file, steps)
            check(figures["n"] == steps, f"{figures} instead of {steps}")
            return figures

        return bench.on_file(run)

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

    def stepper(name: str, size: int) -> Stepper:
        # The first two events pay for the input and its snapshot.
        run = bench.steps_on_file(ours.on_sqlite, work(steps, size), synchronous="NORMAL")
        return Stepper(name, run, steps, timed_from=2)

    large = f"{kilobytes / 1000:g} MB of state"
    contenders = [stepper(SMALL, 10), stepper(large, kilobytes)]
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


# --- clients of the server -------------------------------------------------------------------------

ALONE = "one client"


@contextmanager
def followers_sqlite(bench: Bench) -> Iterator[Contest]:
    """How long a run takes until all who follow it have seen all of it, and with one client alone."""
    yield from _clients(bench, clients.following, "clients follow one run", 4)


@contextmanager
def streams_sqlite(bench: Bench) -> Iterator[Contest]:
    """As many threads that run at the same time, each streamed by its client."""
    yield from _clients(bench, clients.streaming, "threads streamed at once", 1)


def _clients(bench: Bench, work: Callable[[str, int, int], Figures], name: str, share: float) -> Iterator[Contest]:
    """`share`: so many times less than what one client takes, for each of them."""
    many = f"{OURS}, all of them"
    count, steps = max(4, bench.steps // 5), max(5, bench.steps // 20)
    with bench.places.file() as file, clients.served(file.parent, ours.sqlite_url(file)) as address:
        contenders = [
            Contender(ALONE, lambda: work(address, 1, steps), FEW),
            Contender(many, lambda: work(address, count, steps), FEW),
        ]
        targets = [
            Target(count / share, ALONE, of=many, at_most=True, about=f"{count} clients, over the time of one"),
            Target(None, figure="events per second", of=many, about="events per second to all clients"),
        ]
        yield Contest(f"{count} {name}, {steps} steps, SQLite", contenders, targets, steps)


# --- workers --------------------------------------------------------------------------------------

IN_THREADS = "one process, 4 threads"


@contextmanager
def workers_postgres(bench: Bench) -> Iterator[Contest]:
    """Runs of 10 steps that wait in the queue, by worker processes of 4 at a time, and called in one process."""
    runs = max(2, bench.steps // 10)
    numbers = {1: OURS, 2: "2 workers", **({4: "4 workers"} if bench.steps >= 100 else {})}
    contenders = [
        Contender(name, bench.in_schema(workers.submitted, runs, number, ours=True), FEW)
        for number, name in numbers.items()
    ]
    contenders.append(Contender(IN_THREADS, bench.in_schema(workers.in_threads, runs, ours=True), FEW))
    names = {f"{number} worker{'s' * (number > 1)}": name for number, name in numbers.items()}
    targets = [
        *(Target(None, IN_THREADS, of=name, about=f"{who}: runs/s, over one process") for who, name in names.items()),
        *(
            Target(None, figure="rate", of=name, about=f"{who}: runs/s")
            for who, name in (names | {IN_THREADS: IN_THREADS}).items()
        ),
        Target(None, IN_THREADS, figure="cpu", at_most=True, about="processor time of a run, over one process"),
    ]
    yield Contest(f"{runs} runs of 10 steps by workers, Postgres", contenders, targets, runs, "run")


@contextmanager
def procrastinate_postgres(bench: Bench) -> Iterator[Contest]:
    """What a run costs beside a task of a plain app of procrastinate's, with one worker each."""
    runs = max(2, bench.steps // 10)
    bare, rows = "procrastinate", "procrastinate, a row a step"
    contenders = [
        Contender(OURS, bench.in_schema(workers.submitted, runs, 1, ours=True), FEW),
        Contender(bare, bench.in_schema(workers.by_procrastinate, "plain", runs), FEW),
        Contender(rows, bench.in_schema(workers.by_procrastinate, "logging", runs), FEW),
    ]
    targets = [
        Target(None, who, figure=figure, at_most=True, about=f"{what}, over {who}")
        for who in (bare, rows)
        for figure, what in (("seconds", "time of a run"), ("cpu", "processor time"), ("submitting", "to submit it"))
    ]
    yield Contest("a run of 10 steps beside a task, Postgres", contenders, targets, runs, "run")


@contextmanager
def first_step_postgres(bench: Bench) -> Iterator[Contest]:
    """From `submit` to the first step, with an idle worker."""
    times, poll = max(2, bench.steps // 50), 0.1
    here, looking = "one process, invoke", f"SQLite, a look every {poll:g} s"

    def on_postgres(url: str) -> Figures:
        return workers.first_steps(times, url, 1.0)

    def on_sqlite(file: Path) -> Figures:
        return workers.first_steps(times, ours.sqlite_url(file), poll)

    contenders = [
        Contender(OURS, bench.in_schema(on_postgres, ours=True), FEW),
        Contender(looking, bench.on_file(on_sqlite), FEW),
        Contender(here, bench.in_schema(workers.first_steps_here, times, ours=True), FEW),
    ]
    targets = [
        Target(None, figure=figure, of=who, per=0.001, about=f"ms, {what}, {label}")
        for who, label in ((OURS, "Postgres"), (looking, looking), (here, here))
        for figure, what in (("seconds", "median"), ("p95", "95th percentile"))
    ]
    yield Contest("submit to the first step, idle worker", contenders, targets, 1, "submission")


@contextmanager
def recovery_postgres(bench: Bench) -> Iterator[Contest]:
    """From a worker's SIGKILL to the next row of each of its 4 threads, by another one of the same host.

    Another host cannot know that the process is gone: there it takes four heartbeats and the rest of the lease of 60 s.
    That is not measured here, where all is one host.
    """
    beats = (5.0, 0.5) if bench.steps >= 100 else (0.25,)
    contenders = [
        Contender(f"heartbeat {beat:g} s", bench.in_schema(partial(workers.recovered, heartbeat=beat), ours=True), FEW)
        for beat in beats
    ]
    targets = [
        Target(None, figure=figure, of=contender.name, about=f"s, {what}, {contender.name}")
        for contender in contenders
        for figure, what in (("seconds", "median"), ("longest", "the longest"))
    ]
    yield Contest("a worker's death to the next rows, Postgres", contenders, targets, 1, "thread")


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
        followers_sqlite,
        streams_sqlite,
        workers_postgres,
        procrastinate_postgres,
        first_step_postgres,
        recovery_postgres,
    )
}

# Those with a limit in the same run, for the guard: quick, and without peers. The counter on SQLite NORMAL and reading
# are not among them: there not even half of the target is reached, because of what Python takes for a step or a row.
GUARDED = (
    "counter_sqlite_full",
    "counter_postgres",
    "async_sqlite",
    "async_postgres",
    "chat_sqlite",
    "chat_postgres",
    "threads_sqlite",
    "threads_postgres",
    "large_beside",
)


def needs_postgres(name: str) -> bool:
    return name.endswith("_postgres")
