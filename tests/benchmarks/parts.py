"""Where the time of one step goes: a run of `counter` with a stopwatch around the parts.

The functions of the table are wrapped from outside, in a run of its own. A part's time is its own: what it calls
and is a part itself counts there. A stopwatch takes time too; what it takes of each part and of its caller is
measured on an empty function and subtracted. What insert and commit share of one autocommitted statement is told
by a bare loop: there the insert, in a transaction that is open, is measured alone, and the rest is the commit.

    plan             the engine: what is next, the row, folding it into the state
    node             the user's node and router
    call             around them: the input, the checks of what came back
    encode           the row's body to bytes
    hash             the chain
    store            around the statement: checks, locks, the pool
    insert, commit   the statement
    yield            what the consumer is shown
    drive            all else: the loop that performs the effects
"""

from __future__ import annotations

import sqlite3
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any
from unittest import mock

import psycopg

from durable_graph import codec, drivers
from durable_graph.core import projection, rows
from durable_graph.core.run import Run
from durable_graph.store import sql
from tests.benchmarks import bare, ours
from tests.benchmarks.contests import Bench
from tests.benchmarks.measure import Steps, settled, whole
from tests.benchmarks.works import Names, counter

# Where each part is entered: owner and name of a function, of a generator function with `steps`.
ENTRANCES: Sequence[tuple[str, Any, str]] = (
    ("encode", codec.Codec, "encode"),
    ("hash", rows, "row_hash"),
    ("store", sql.SqlStore, "append"),
    ("yield", projection.Shaper, "show"),
    ("call", drivers, "run_job"),
    ("insert, commit", psycopg.Connection, "execute"),
)
PARTS = ("plan", "node", "call", "encode", "hash", "store", "insert, commit", "insert", "commit", "yield", "drive")


class Stopwatch:
    """Time by part, each second counted once: for the innermost part at that moment."""

    def __init__(self, inside: float = 0.0, outside: float = 0.0) -> None:
        self.inside, self.outside = inside, outside  # what each call adds to its part, and to the caller
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.entered: defaultdict[str, int] = defaultdict(int)  # how often
        self.left: defaultdict[str, int] = defaultdict(int)  # how often for a part within
        self.begin()

    def begin(self) -> None:
        """Forget what was."""
        for each in (self.seconds, self.entered, self.left):
            each.clear()
        self._parts = ["drive"]
        self._since = time.perf_counter()

    def end(self) -> Mapping[str, float]:
        """The seconds by part until now, without the stopwatch's own."""
        self.enter("ended")
        return {
            part: seconds - self.entered[part] * self.inside - self.left[part] * self.outside
            for part, seconds in self.seconds.items()
        }

    def enter(self, part: str) -> None:
        now = time.perf_counter()
        self.seconds[self._parts[-1]] += now - self._since
        self.left[self._parts[-1]] += 1
        self.entered[part] += 1
        self._parts.append(part)
        self._since = time.perf_counter()

    def leave(self) -> None:
        now = time.perf_counter()
        self.seconds[self._parts.pop()] += now - self._since
        self._since = time.perf_counter()

    def around(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        enter, leave = self.enter, self.leave

        @wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            enter(part)
            try:
                return function(*args, **kwargs)
            finally:
                leave()

        return timed

    def around_steps(self, part: str, function: Callable[..., Generator[Any, Any, Any]]) -> Callable[..., Any]:
        @wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            steps = function(*args, **kwargs)
            send, throw = self.around(part, steps.send), self.around(part, steps.throw)
            effect, answer = send, None
            while True:
                try:
                    wanted = effect(answer)
                except StopIteration as done:
                    return done.value
                try:
                    effect, answer = send, (yield wanted)
                except GeneratorExit:
                    steps.close()
                    raise
                except BaseException as error:
                    effect, answer = throw, error

        return timed


def own_time(calls: int = 20_000) -> tuple[float, float]:
    """Seconds that a stopwatch adds to a part, and to the caller, for each call."""

    def nothing() -> None:
        pass

    watch = Stopwatch()
    timed = watch.around("part", nothing)
    begun = time.perf_counter()
    for _ in range(calls):
        nothing()
    plain = time.perf_counter() - begun
    watch.enter("caller")
    for _ in range(calls):
        timed()
    watch.leave()
    return watch.seconds["part"] / calls, max(0.0, watch.seconds["caller"] - plain) / calls


class _TimedConnection(sqlite3.Connection):
    watch: Stopwatch

    def execute(self, *args: Any) -> sqlite3.Cursor:
        self.watch.enter("insert, commit")
        try:
            return super().execute(*args)
        finally:
            self.watch.leave()


@contextmanager
def _wrapped(watch: Stopwatch) -> Iterator[None]:
    connection = type("Timed", (_TimedConnection,), {"watch": watch})
    connect = sqlite3.connect
    with ExitStack() as stack:
        for part, owner, name in ENTRANCES:
            stack.enter_context(mock.patch.object(owner, name, watch.around(part, getattr(owner, name))))
        steps = watch.around_steps("plan", Run.steps)
        stack.enter_context(mock.patch.object(Run, "steps", steps))
        stack.enter_context(mock.patch("sqlite3.connect", lambda *a, **k: connect(*a, factory=connection, **k)))
        yield


def _names(watch: Stopwatch) -> Names:
    """What graphs are drawn with, nodes and routers timed."""

    class Builder(ours.NAMES.StateGraph):
        def add_node(self, name: Any, node: Any = None, **kwargs: Any) -> Any:
            return super().add_node(name, watch.around("node", node), **kwargs)

        def add_conditional_edges(self, source: Any, path: Any, *args: Any, **kwargs: Any) -> Any:
            return super().add_conditional_edges(source, watch.around("node", path), *args, **kwargs)

    return ours.NAMES._replace(StateGraph=Builder)


def profile(run: Callable[[], Steps], steps: int, insert: float | None = None) -> dict[str, float]:
    """Microseconds of each part of a step, their sum, and "alone" of a step that nobody watched.

    insert: seconds of a bare insert, to tell it from the commit.
    """
    with settled():
        plain = whole(run())
    watch = Stopwatch(*own_time())
    with settled(), _wrapped(watch), mock.patch.object(ours, "NAMES", _names(watch)):
        events = run()
        next(events)
        watch.begin()
        for _ in range(steps):
            next(events)
        parts = watch.end()
        list(events)  # to its own check
    found = {part: 1e6 * seconds / steps for part, seconds in parts.items()}
    if insert is not None:
        both = found.pop("insert, commit")
        found["insert"], found["commit"] = 1e6 * insert, both - 1e6 * insert
    return {**found, "sum": sum(found.values()), "alone": 1e6 * plain / steps}


def profiles(bench: Bench, rounds: int) -> dict[str, Mapping[str, float]]:
    """By database; of each part the median of the rounds."""
    steps, work = bench.steps, counter(bench.steps)
    rows = bench.rows(work)

    def on_file(synchronous: str) -> dict[str, float]:
        one_commit = bench.on_file(bare.sqlite_groups, rows, synchronous=synchronous, group=len(rows))
        run = bench.steps_on_file(ours.on_sqlite, work, synchronous=synchronous)
        return profile(run, steps, one_commit()["seconds"] / len(rows))

    databases: dict[str, Callable[[], dict[str, float]]] = {
        "SQLite FULL": lambda: on_file("FULL"),
        "SQLite NORMAL": lambda: on_file("NORMAL"),
        "no checkpointer": lambda: profile(lambda: ours.without_checkpointer(work), steps),
    }
    if bench.places.server is not None:
        databases["Postgres"] = lambda: profile(bench.steps_in_schema(ours.on_postgres, work, ours=True), steps)
    return {name: _medians([once() for _ in range(rounds)]) for name, once in databases.items()}


def _medians(rounds: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
    return {part: statistics.median(each[part] for each in rounds) for part in rounds[0]}


def table(found: Mapping[str, Mapping[str, float]]) -> str:
    lines = [f"{'us of a step':34}" + "".join(f"{name:>18}" for name in found)]
    labels = {"sum": "sum of the parts", "alone": "the same, not watched"}
    for part in (*PARTS, "sum", "alone"):
        if any(part in parts for parts in found.values()):
            values = "".join(f"{parts[part]:18.1f}" if part in parts else f"{'':18}" for parts in found.values())
            lines.append(f"    {labels.get(part, part):30}{values}")
    return "\n".join(lines) + "\n"
