"""For your own tests: a crash at every moment of your graph, a clock that does not wait, a database in memory.

    report = check_crashes(builder, {"order": 42}, effects=lambda: bank.transfers, reset=bank.clear)
    report.check()

The rule: it is the product wired to itself. The graph runs on the real drivers; below them lies a store that "dies" at
one moment and from then on refuses everything, as the database of a process that is gone. Then the thread is continued
as you would continue it, and must end as it does undisturbed.

    moment                                        what has happened then
    when a node has returned                      its work is done, and nobody will know
    before a row is saved                         so is that of its siblings whose rows are saved with it
    after a row is saved                          its event is not shown
    before, after a lease is given back           nothing else is to be done
    crash_point("name") in your fake service      the node is in the middle of its work

Nodes run again only if they had no row. One that then does its work twice, where twice is not once, is not safe.
"""

from __future__ import annotations

import asyncio
import itertools
import reprlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypedDict, Unpack, cast

from durable_graph import drivers
from durable_graph.compiled import CompiledGraph
from durable_graph.core import jobs as engine
from durable_graph.core.channels import MISSING, detached
from durable_graph.core.difference import first_difference
from durable_graph.core.effects import Job
from durable_graph.core.history import load
from durable_graph.core.model import Command, Graph, Interrupt, Wait
from durable_graph.core.position import Position
from durable_graph.core.task import Steps
from durable_graph.core.times import seconds
from durable_graph.errors import ArgumentError, CallError
from durable_graph.graph import StateGraph
from durable_graph.opening import open_store
from durable_graph.store import Row, Store, Transaction
from durable_graph.store.memory import InMemoryCache, MemoryStore

THREAD = "check_crashes"  # the thread_id in every run: what nodes make of it is the same each time
START_OF_TIME = 1_700_000_000.0  # seconds since 1970; when the runs of a check begin

Answers = Sequence[Any] | Callable[[Interrupt], Any]


# --- a database in memory, a clock ------------------------------------------------------------


def memory() -> Store:
    """A new, empty database in memory for `compile(checkpointer=memory())`. All that a file does but to survive the
    process; nodes find no `runtime.connection` in it."""
    return MemoryStore()


class Clock:
    """The time as the library sees it. `now` is in seconds since 1970."""

    def __init__(self, now: float) -> None:
        self.now = now
        self._lock = threading.Lock()

    def advance(self, seconds: float) -> None:
        """Let so many seconds pass."""
        with self._lock:
            self.now += max(0.0, seconds)


@contextmanager
def clock(now: float | None = None) -> Iterator[Clock]:
    """Within it the library's time stands still, but for `advance`, and for retries and `wait=`, which let their time
    pass instead of waiting; one after the other, also where tasks wait side by side.

    now: seconds since 1970 to begin at; None: the real time. For `runtime.sleep(3600)`: run the graph until it waits,
    `clock.advance(3600)`, continue with stream(None). It counts for the whole process, and not for time.time() or for
    the timeouts of nodes.
    """
    own = Clock(time.time() if now is None else now)

    async def apause(seconds: float) -> None:
        own.advance(seconds)
        await asyncio.sleep(0)

    delay_of = drivers.delay_of

    def no_delay(job: Job) -> float:
        own.advance(delay_of(job))
        return 0.0

    changed = {
        "clock": lambda: own.now,
        "pause": own.advance,
        "apause": apause,
        "delay_of": no_delay,
        "_risen": 0.0,
    }
    before = {name: getattr(drivers, name) for name in changed}
    try:
        vars(drivers).update(changed)
        yield own
    finally:
        vars(drivers).update(before)


# --- what a check tells -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Finding:
    """A crash after which things did not end as they do undisturbed."""

    moment: str  # when the process died
    again: tuple[str, ...]  # nodes that ran more often than undisturbed; "a()": a @task; "a|b": b in the subgraph a
    suspects: tuple[str, ...]  # those of them that did not do so without harm after another crash
    difference: str  # what was not the same at the end


@dataclass(frozen=True, slots=True)
class CrashReport:
    """What `check_crashes` has found."""

    crashes: int  # so many times the process died, each time in a run of its own
    again: frozenset[str]  # nodes that ran again after one of them
    findings: tuple[Finding, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.findings

    @property
    def unsafe(self) -> tuple[str, ...]:
        """The nodes, and @tasks as "name()", that are not safe to run twice."""
        return tuple(sorted({name for finding in self.findings for name in finding.suspects}))

    def check(self) -> None:
        """Raises AssertionError with the whole report if there are findings."""
        if self.findings:
            raise AssertionError(str(self))

    def __str__(self) -> str:
        if self.ok:
            return f"{self.crashes} crashes, each ended as undisturbed."
        if self.unsafe:
            head = f"Not safe to run twice: {', '.join(self.unsafe)}."
        else:
            head = "A crash changes the end, though no node ran twice."
        lines = [f"{head} After {len(self.findings)} of {self.crashes} crashes the end was another one:"]
        for one in self.findings:
            lines += [f"- {one.moment}", f"  ran again: {', '.join(one.again) or 'nothing'}", f"  {one.difference}"]
        lines.append(
            "Let the node look whether its work is done already, for instance by giving runtime.idempotency_key to the "
            "service, or divide it into @tasks, each of which is recorded by itself."
        )
        return "\n".join(lines)


# --- dying ------------------------------------------------------------------------------------


class _Gone(BaseException):
    """The process is gone. Not an Exception, so that no node takes it for an error of its own."""


class _Fate:
    """Counts the moments of a run and lets it die at one of them. Once dead, all that is left of it ends at once."""

    def __init__(self, die_at: int | None) -> None:
        self.moment: str | None = None  # at which it died
        self.dead = False
        self._die_at = die_at
        self._count = 0
        self._lock = threading.Lock()

    def pass_by(self, moment: str) -> None:
        with self._lock:
            if self.dead:
                raise _Gone
            self._count += 1
            if self._count - 1 == self._die_at:
                self.moment, self.dead = moment, True
                raise _Gone

    def check(self) -> None:
        if self.dead:
            raise _Gone

    def commit(self, what: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self.pass_by(f"before {what}")
        answer = call(*args, **kwargs)
        self.pass_by(f"after {what}")
        return answer


class _MortalStore:
    """A store that can be told to die at a commit. What it does not name is the real one's."""

    def __init__(self, store: Store, fate: _Fate) -> None:
        self._store, self._fate = store, fate

    def append(self, rows: Sequence[Row], **more: Any) -> None:
        self._fate.commit(_saving(rows), self._store.append, rows, **more)

    def change_thread(self, thread_id: str, claim: Any) -> bool:
        return bool(self._fate.commit("the lease was given back", self._store.change_thread, thread_id, claim))

    def transaction(self) -> Any:
        self._fate.check()
        return _MortalTransaction(self._store.transaction(), self._fate)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class _MortalTransaction:
    """The same of a node's own transaction."""

    def __init__(self, transaction: Transaction, fate: _Fate) -> None:
        self._transaction, self._fate = transaction, fate

    def append(self, rows: Sequence[Row], **more: Any) -> None:
        self._fate.commit(_saving(rows), self._transaction.append, rows, **more)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transaction, name)


def _saving(rows: Sequence[Row]) -> str:
    row = rows[-1]
    whose = f"{row.kind} of {row.node!r}" if row.node is not None else row.kind
    where = "" if row.thread_id == THREAD else f" of thread {row.thread_id!r}"
    return f"the row of step {row.step}{where} ({whose}) was saved"


_fate: _Fate | None = None  # of the check under way
_checking = threading.Lock()


def crash_point(name: str) -> None:
    """A moment at which `check_crashes` also lets the process die: call it in a fake service, or between two things
    that a node does. Does nothing otherwise.

    name: for the report.
    """
    if _fate is not None:
        _fate.pass_by(f"at {name!r}")


# --- one life ---------------------------------------------------------------------------------


class _Call(NamedTuple):
    """What a driver is asked for: read this stream to its end."""

    graph: CompiledGraph[Any]
    input: Any
    config: Mapping[str, Any]
    context: Any


# Asks for calls, is sent the error of each or None, and returns something.
_Calls = Generator[_Call, BaseException | None, Any]


class _End(NamedTuple):
    """How a life ended, and what it has seen."""

    values: Any
    effects: Any
    error: Exception | None
    moment: str | None  # at which it died in between
    calls: Counter[str]


@dataclass(frozen=True)
class _Check:
    """What the user has given; see `Options`."""

    graph: CompiledGraph[Any]
    input: Any
    config: Mapping[str, Any]
    answers: Answers = ()
    signals: Mapping[str, Any] = field(default_factory=dict)
    context: Any = None
    effects: Callable[[], Any] | None = None
    reset: Callable[[], None] | None = None
    ignore: Collection[str] = ()
    database: Callable[[], Store | str] = memory
    runs: int = 1000

    def life(self, die_at: int | None) -> _Calls:
        """From the input to the end in a database of its own, dying once."""
        if self.reset is not None:
            self.reset()
        opened = self.database()
        store = open_store(opened)
        assert store is not None
        fate = _Fate(die_at)
        try:
            with clock(START_OF_TIME) as time, _watched(fate) as calls:
                life = _Life(self, self._on(store, fate), store, fate, time)
                error = yield from life.live()
            position = life.position
        finally:
            if isinstance(opened, str):
                store.close()
        values = {} if position is None else dict(position.values)
        kept = {key: value for key, value in values.items() if key not in self.ignore}
        seen = None if self.effects is None else detached(self.effects())
        return _End(detached(kept), seen, error, fate.moment, calls)

    def _on(self, store: Store, fate: _Fate) -> CompiledGraph[Any]:
        """The graph on this store; with a cache of its own, as what another run has left there would hide calls."""
        graph = self.graph
        return type(graph)(
            graph._graph,
            cast(Store, _MortalStore(store, fate)),
            graph._codec,
            graph._key,
            graph._config,
            types=graph.types,
            cache=InMemoryCache() if graph._cache else None,
            debug=graph._debug,
        )


@dataclass
class _Life:
    """Somebody outside, who looks where the thread stands and does what it waits for."""

    check: _Check
    graph: CompiledGraph[Any]
    store: Store  # as it is, whoever has died
    fate: _Fate
    time: Clock
    given: dict[str, Any] = field(default_factory=dict)  # answers by the id of the question: the same after a crash

    @property
    def position(self) -> Position | None:
        return load(self.store, self.graph._codec, THREAD)

    def live(self) -> Generator[_Call, BaseException | None, Exception | None]:
        """Returns the error that it ends with."""
        check = self.check
        for _ in range(check.runs):
            value = self._next_input(self.position)
            if value is MISSING:
                return None
            error = yield _Call(self.graph, value, check.config, check.context)
            if self.fate.dead:
                self.fate.dead = False  # a new process
            elif isinstance(error, Exception):
                return error
            elif error is not None:
                raise error
        return CallError(
            problem=f"the thread has not ended after {check.runs} calls",
            fix="If it needs that many, give check_crashes a higher `runs`",
        )

    def _next_input(self, position: Position | None) -> Any:
        """MISSING: there is nothing that could be done."""
        if position is None:
            return self.check.input
        pending = [task for task in position.tasks if task.id not in position.done]
        if not pending:
            return MISSING
        if any(task.id not in position.questions for task in pending):
            return None
        asked = [question.interrupt for task in pending for question in position.questions[task.id]]
        answers = {one.id: self._answer(one) for one in asked if not isinstance(one.value, Wait)}
        answers = {name: answer for name, answer in answers.items() if answer is not MISSING}
        if answers:
            return Command(resume=answers)
        return self._wait_for([one.value for one in asked if isinstance(one.value, Wait)])

    def _answer(self, asked: Interrupt) -> Any:
        answers = self.check.answers
        if callable(answers):
            return answers(asked)
        if asked.id not in self.given and len(self.given) < len(answers):
            self.given[asked.id] = answers[len(self.given)]
        return self.given.get(asked.id, MISSING)

    def _wait_for(self, waits: Sequence[Wait]) -> Any:
        """Send the signals that are waited for; if there are none, let time pass until the first wait is over."""
        sent = False
        for name in sorted({str(wait.signal) for wait in waits if wait.signal in self.check.signals}):
            waiting = sum(wait.signal == name for wait in waits)
            for _ in range(waiting - sum(found.name == name for found in self.store.signals(THREAD))):
                self.graph.signal(self.check.config, name, self.check.signals[name])
            sent = True
        if sent:
            return None
        ends = [seconds(wait.until) for wait in waits if wait.until is not None]
        if not ends:
            return MISSING
        self.time.now = max(self.time.now, min(ends))
        return None


@contextmanager
def _watched(fate: _Fate) -> Iterator[Counter[str]]:
    """Count the calls of nodes and @tasks, in subgraphs too. Who is dead calls nothing any more."""
    global _fate
    calls: Counter[str] = Counter()
    before = {name: vars(engine)[name] for name in ("run_node", "run_call")}

    def met(job: Job, thread_id: str, name: str) -> None:
        if thread_id != THREAD and not thread_id.startswith(f"{THREAD}/"):
            return  # somebody else's
        fate.check()
        ns = [part.partition(":")[0] for part in job.runtime()._link.ns if not part.isdigit()]
        calls["|".join([*ns, name])] += 1

    def node(graph: Graph, position: Position, job: Job) -> Steps:
        met(job, position.thread_id, job.task.node)
        result = yield from before["run_node"](graph, position, job)
        fate.pass_by(f"when {job.task.node!r} had returned")
        return result

    def call(function: Callable[..., Any], arg: Any, timeout: Any, job: Job) -> Steps:
        met(job, job.runtime().thread_id, f"{job.task.node}()")
        result = yield from before["run_call"](function, arg, timeout, job)
        fate.pass_by(f"when {job.task.node!r} had returned")
        return result

    vars(engine).update(run_node=node, run_call=call)
    _fate = fate
    try:
        yield calls
    finally:
        vars(engine).update(before)
        _fate = None


# --- all lives --------------------------------------------------------------------------------


def _all_lives(check: _Check) -> Generator[_Call, BaseException | None, CrashReport]:
    if not _checking.acquire(blocking=False):
        raise CallError(problem="another check_crashes is under way in this process", fix="Let them run in turn.")
    try:
        expected = yield from check.life(None)
        if expected.error is not None:
            raise expected.error
        _check_steady(expected, (yield from check.life(None)))
        ends: list[_End] = []
        for die_at in itertools.count():
            end = yield from check.life(die_at)
            if end.moment is None:
                break
            ends.append(end)
        return _report(expected, ends)
    finally:
        _checking.release()


def _check_steady(first: _End, second: _End) -> None:
    if second.error is not None:
        raise second.error
    found = _difference(first, second)
    if found is not None:
        raise CallError(
            problem=f"two runs without any crash do not end alike: {found}",
            fix="Give `reset` to empty what is outside the graph before each run, and name keys of the state that are "
            "another value each time, as times and random ids are, in `ignore`",
        )


def _report(expected: _End, ends: Sequence[_End]) -> CrashReport:
    harmless: set[str] = set()
    found: list[Finding] = []
    every: set[str] = set()
    for end in ends:
        again = tuple(sorted(name for name, times in end.calls.items() if times > expected.calls[name]))
        every |= {*again}
        difference = _difference(expected, end)
        if difference is None:
            harmless |= {*again}
        else:
            found.append(Finding(str(end.moment), again, (), difference))
    return CrashReport(len(ends), frozenset(every), _blamed(found, harmless))


def _blamed(found: Sequence[Finding], harmless: Collection[str]) -> tuple[Finding, ...]:
    """Where several ran again, those that were guilty alone elsewhere explain it; whoever else is guilty will be found
    when they are put right."""
    left = [tuple(name for name in one.again if name not in harmless) or one.again for one in found]
    certain = {names[0] for names in left if len(names) == 1}
    return tuple(
        replace(one, suspects=tuple(name for name in names if name in certain) or names)
        for one, names in zip(found, left, strict=True)
    )


def _difference(expected: _End, end: _End) -> str | None:
    """In words."""
    if end.error is not None:
        return f"it ended with {type(end.error).__name__}: {end.error}"
    for key in {**expected.values, **end.values}:
        mine, its = expected.values.get(key, MISSING), end.values.get(key, MISSING)
        path = first_difference(mine, its, f"state[{key!r}]")
        if path is not None:
            return f"{path} differs: {key}={_short(its)}, undisturbed {_short(mine)}"
    path = first_difference(expected.effects, end.effects, "effects()")
    if path is not None:
        return f"{path} differs: {_short(end.effects)}, undisturbed {_short(expected.effects)}"
    return None


def _short(value: Any) -> str:
    words = reprlib.Repr()
    words.maxlist = words.maxdict = words.maxset = words.maxtuple = 8
    words.maxstring = words.maxother = 100
    return words.repr(value)


# --- the calls --------------------------------------------------------------------------------


class Options(TypedDict, total=False):
    """What `check_crashes` takes besides a graph and its input."""

    answers: Answers  # to its questions, in the order in which they are asked; or a function of the Interrupt
    signals: Mapping[str, Any]  # {name: value}, sent to whoever waits for them
    context: Any  # of each call
    config: Mapping[str, Any]  # of each call; the thread_id is always the same
    effects: Callable[[], Any]  # what was done outside, as a value that can be compared: the rows of a fake service
    reset: Callable[[], None]  # called before each run, to empty what is outside
    ignore: Collection[str]  # keys of the state that are not compared, as they are another value in each run
    database: Callable[[], Store | str]  # makes an empty one for each run, a store or a URL; by default in memory
    runs: int  # calls at most until a thread has ended; 1000 by default


def check_crashes(graph: StateGraph[Any] | CompiledGraph[Any], input: Any, **options: Unpack[Options]) -> CrashReport:
    """Run the graph undisturbed, then once for every moment at which its process can die; tell what ends otherwise.

    Each run begins with `input` in a new database and is continued after the crash, with None or the answers. Compared
    are the state at the end, the error if there is one, and `effects()`. Where `answers` run out a run stops, and is
    compared as it stands. Waits end at once: time is made to pass.

    graph: a drawing, or what compile() made; its own database and cache are not touched. With async nodes it runs
        under asyncio; where a loop runs already use `await acheck_crashes(...)`.
    options: see `Options`. Without `effects` only the state tells of a node that has done its work twice. A graph that
        uses `runtime.connection` needs `database`, as `lambda: f"sqlite:///{tmp_path / uuid4().hex}.db"`.

    Returns the report; `report.check()` raises AssertionError. There are two runs for each row, one for each call of a
    node and one for each `crash_point()` that is passed by. Not to be called side by side in one process, where it also
    sets the clock.
    Raises what the graph raises undisturbed; ArgumentError; CallError if two undisturbed runs do not end alike.
    """
    check = _checked(graph, input, options)
    return asyncio.run(_adriven(check)) if check.graph.is_async else _driven(check)


async def acheck_crashes(
    graph: StateGraph[Any] | CompiledGraph[Any], input: Any, **options: Unpack[Options]
) -> CrashReport:
    """`check_crashes` for asyncio, also for graphs without async nodes."""
    return await _adriven(_checked(graph, input, options))


def _checked(graph: Any, input: Any, options: Options) -> _Check:
    compiled = graph.compile(False) if isinstance(graph, StateGraph) else graph
    if not isinstance(compiled, CompiledGraph):
        raise ArgumentError(argument="graph", problem=f"{graph!r} is no graph", fix="Give a StateGraph, or compile it.")
    if input is None or isinstance(input, Command):
        raise ArgumentError(argument="input", problem=f"{input!r} begins no run", fix="Give what a new thread takes.")
    for name in options:
        if name not in Options.__annotations__:
            known = ", ".join(sorted(Options.__annotations__))
            raise ArgumentError(argument=name, problem="there is no such argument", fix=f"Known: {known}")
    given = {key: value for key, value in options.get("config", {}).items() if key != "thread_id"}
    given["configurable"] = {**given.get("configurable", {}), "thread_id": THREAD}
    more: dict[str, Any] = {**options, "config": given}
    return _Check(compiled, input, **more)


def _driven(check: _Check) -> CrashReport:
    lives = _all_lives(check)
    error: BaseException | None = None
    try:
        while True:
            call = lives.send(error)
            error = None
            try:
                for _ in call.graph.stream(call.input, call.config, context=call.context):
                    pass
            except (Exception, _Gone) as found:
                error = found
    except StopIteration as done:
        report: CrashReport = done.value
        return report
    finally:
        lives.close()


async def _adriven(check: _Check) -> CrashReport:
    lives = _all_lives(check)
    error: BaseException | None = None
    try:
        while True:
            try:
                call = lives.send(error)
            except StopIteration as done:
                report: CrashReport = done.value
                return report
            error = None
            try:
                async for _ in call.graph.astream(call.input, call.config, context=call.context):
                    pass
            except (Exception, _Gone) as found:
                error = found
    finally:
        lives.close()
