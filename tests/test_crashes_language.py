"""Crashes at every point of graphs that use the whole language: questions, waits, calls, retries, subgraphs, loops.

Each story is a graph together with somebody outside who answers what it asks, sends what it waits for and lets time
pass. Two ways to die:

    at an effect     the simulator performs nothing any more; nodes stand still where they are
    at a commit      the store refuses everything from then on, below the real driver; also inside of subgraphs

Wherever that is, going on reaches the same state, what has a row is not called again, no signal is taken twice or lost,
and the log verifies and tells what was seen.
"""

from __future__ import annotations

import itertools
import operator
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durable_graph import (
    START,
    Command,
    RetryPolicy,
    Runtime,
    Send,
    StateGraph,
    drivers,
    get_runtime,
    interrupt,
    task,
)
from durable_graph.compiled import CompiledGraph
from durable_graph.core.effects import Cancel, Job, Recorded, Spawned
from durable_graph.core.history import load
from durable_graph.core.model import Wait
from durable_graph.core.position import Position
from durable_graph.core.projection import Shaper
from durable_graph.core.rows import Call
from durable_graph.core.run import Run
from durable_graph.core.times import seconds
from durable_graph.core.verify import verify
from durable_graph.drivers import run_job
from durable_graph.session import Link
from durable_graph.store import Signal, Store
from durable_graph.store.memory import MemoryStore
from durable_graph.store.sql import SqlStore
from tests.simulator import Died, Simulator

THREAD = "t"


class State(TypedDict, total=False):
    n: int
    log: Annotated[list[str], operator.add]


INPUT: dict[str, Any] = {"n": 0}
CALLS: Counter[tuple[str, str]] = Counter()  # (thread, task or "<task>/<call>") -> times called


def called() -> None:
    runtime = get_runtime()
    CALLS[runtime.thread_id, runtime.task] += 1


def node(name: str, **update: Any) -> Callable[[State], dict[str, Any]]:
    def call(state: State) -> dict[str, Any]:
        called()
        get_runtime().stream_writer(f"{name} works")
        return {"log": [name], **{key: value(state) for key, value in update.items()}}

    return call


# --- stories ----------------------------------------------------------------------------------


def questions() -> StateGraph[State]:
    """a asks twice, b works, c asks once; then d asks."""

    def ask(name: str, *asked: str) -> Callable[[State], dict[str, Any]]:
        def call(state: State) -> dict[str, Any]:
            called()
            return {"log": [f"{name}: {[interrupt(f'{name}{one}') for one in asked]}"]}

        return call

    builder = StateGraph(State).add_node("a", ask("a", "1", "2")).add_node("b", node("b")).add_node("c", ask("c", "1"))
    builder.add_node("d", ask("d", "1"))
    for name in "abc":
        builder.add_edge(START, name)
    return builder.add_edge(["a", "b", "c"], "d")


def sends() -> StateGraph[State]:
    """A map, of which two tasks ask; then a join."""

    def part(number: int) -> dict[str, Any]:
        called()
        return {"log": [f"part {number}: {interrupt(f'part {number}') if number % 2 else 'none'}"]}

    builder = StateGraph(State).add_node("split", node("split")).add_node("part", part).add_node("end", node("end"))
    builder.add_conditional_edges("split", lambda state: [Send("part", i) for i in range(4)], ["part"])
    return builder.add_edge(START, "split").add_edge("part", "end")


def commands() -> StateGraph[State]:
    """A loop by goto that sends something on its way each time."""

    def choose(state: State) -> Command[str]:
        called()
        number = state["n"] + 1
        goto: list[Any] = ["choose", Send("part", number)] if number < 4 else []
        return Command(update={"n": number, "log": [f"choose {number}"]}, goto=goto)

    def part(number: int) -> Command[str]:
        called()
        return Command(update={"log": [f"part {number}"]}, goto="last" if number == 3 else ())

    builder = StateGraph(State).add_node("choose", choose).add_node("part", part).add_node("last", node("last"))
    return builder.add_edge(START, "choose")


def calls() -> StateGraph[State]:
    """Two nodes that call tasks, in turn and side by side, tasks that call tasks, and one that nobody waits for."""

    def leaf(name: str) -> str:
        called()
        return f"<{name}>"

    leaf_call = task(leaf)

    def branch(name: str) -> str:
        called()
        begun = [leaf_call(f"{name}{k}") for k in (1, 2)]
        return "".join(one.result() for one in begun)

    branch_call = task(branch)

    def caller(name: str) -> Callable[[State], dict[str, Any]]:
        def call(state: State) -> dict[str, Any]:
            called()
            first = leaf_call(name).result()
            leaf_call("left alone")
            second = branch_call(name)
            answer = interrupt(f"{name}?") if name == "a" else ""
            return {"log": [first + second.result() + answer + leaf_call(f"{name}3").result()]}

        return call

    builder = StateGraph(State).add_node("a", caller("a")).add_node("b", caller("b")).add_node("end", node("end"))
    return builder.add_edge(START, "a").add_edge(START, "b").add_edge(["a", "b"], "end")


def retries() -> StateGraph[State]:
    """A node and a task that fail at first, and a node that fails for good and has a handler that asks."""
    policy = RetryPolicy(initial_interval=0, jitter=False, max_attempts=5, retry_on=ValueError)

    def flaky(state: State) -> dict[str, Any]:
        called()
        if get_runtime().attempt < 3:
            raise ValueError("not yet")
        return {"log": ["flaky"]}

    def part() -> str:
        called()
        if get_runtime().attempt < 3:
            raise ValueError("not yet")
        return "part"

    part_call = task(part, retry_policy=policy)

    def with_call(state: State) -> dict[str, Any]:
        called()
        return {"log": [part_call().result()]}

    def hopeless(state: State) -> dict[str, Any]:
        called()
        raise KeyError("always")

    def handle(state: State, error: Any) -> Command[str]:
        called()
        return Command(update={"log": [f"{type(error.error).__name__}: {interrupt('what now?')}"]}, goto="end")

    builder = StateGraph(State).add_node("flaky", flaky, retry_policy=policy).add_node("with_call", with_call)
    builder.add_node("hopeless", hopeless, error_handler=handle).add_node("end", node("end"))
    for name in ("flaky", "with_call", "hopeless"):
        builder.add_edge(START, name)
    return builder


def waits() -> StateGraph[State]:
    """Sleeping, two waiters for one name, a time-out, side by side; then a wait for what is sent early."""

    def sleeper(state: State, runtime: Runtime[Any]) -> dict[str, Any]:
        called()
        runtime.sleep(50)
        runtime.sleep(5000)
        return {"log": ["slept"]}

    def waiter(state: State, runtime: Runtime[Any]) -> dict[str, Any]:
        called()
        return {"log": [str(runtime.wait_for("x"))]}

    def late(state: State, runtime: Runtime[Any]) -> dict[str, Any]:
        called()
        try:
            return {"log": [str(runtime.wait_for("never", timeout=100))]}
        except TimeoutError:
            return {"log": ["too late"]}

    def last(state: State, runtime: Runtime[Any]) -> dict[str, Any]:
        called()
        return {"log": [f"{runtime.wait_for('x')} {interrupt('and?')} {runtime.wait_for('y', timeout=10**6)}"]}

    builder = StateGraph(State).add_node("sleeper", sleeper).add_node("late", late).add_node("last", last)
    for name in ("w1", "w2"):
        builder.add_node(name, waiter)
    names = ["sleeper", "late", "w1", "w2"]
    for name in names:
        builder.add_edge(START, name)
    return builder.add_edge(names, "last")


def subgraphs() -> StateGraph[State]:
    """A loop over a subgraph, which asks, calls, sleeps, and has a subgraph itself; and one called from a node."""

    def leaf(name: str) -> str:
        called()
        return name

    leaf_call = task(leaf)

    def ask(state: State, runtime: Runtime[Any]) -> dict[str, Any]:
        called()
        first = leaf_call(f"leaf {state['n']}").result()
        runtime.sleep(50)
        answer = interrupt(f"round {state['n']}")
        return {"log": [f"{first} {answer}"]}

    inner = (
        StateGraph(State).add_node("i", node("i", n=lambda s: s["n"] + 1)).add_edge(START, "i").compile(name="inner")
    )
    middle = StateGraph(State).add_node("ask", ask).add_node("inner", inner).add_node("beside", node("beside"))
    middle.add_edge(START, "ask").add_edge(START, "beside").add_edge(["ask", "beside"], "inner")
    below = middle.compile(name="middle")

    def through(state: State) -> dict[str, Any]:
        called()
        found = inner.invoke({"n": state["n"]})
        return {"log": [f"through {inner.invoke(found)['n']}"]}

    def only_new(state: State) -> dict[str, Any]:
        called()
        values = below.invoke({"n": state["n"]})
        return {"n": values["n"], "log": values["log"]}

    builder = StateGraph(State).add_node("below", only_new).add_node("as_node", inner).add_node("through", through)
    builder.add_edge(START, "below").add_edge("as_node", "through")
    return builder.add_conditional_edges("below", lambda state: "below" if state["n"] < 2 else "as_node")


STORIES = [questions, sends, commands, calls, retries, waits]
ALL = [*STORIES, subgraphs]


# --- somebody outside -------------------------------------------------------------------------


def position_of(graph: CompiledGraph[Any], store: Store) -> Position | None:
    return load(store, graph._codec, THREAD)


def has_ended(graph: CompiledGraph[Any], store: Store) -> bool:
    position = position_of(graph, store)
    return position is not None and not position.tasks


@dataclass
class Outside:
    """Looks at where the thread stands, and does what it waits for: the same after any crash."""

    graph: CompiledGraph[Any]
    store: Store  # as it is, whatever has died
    now: float = 1_700_000_000.0

    def next_input(self) -> Any:
        position = position_of(self.graph, self.store)
        if position is None:
            return INPUT
        asked = [question.interrupt for asked in position.questions.values() for question in asked]
        people = [found for found in asked if not isinstance(found.value, Wait)]
        if people:
            return Command(resume={people[-1].id: f"answer to {people[-1].value}"})
        waits = [found.value for found in asked]
        for name in sorted({wait.signal for wait in waits if wait.signal not in (None, "never")}):
            inbox = [found for found in self.store.signals(THREAD) if found.name == name]
            if len(inbox) < sum(wait.signal == name for wait in waits):
                self.now += 1
                value = self.graph._codec.encode(f"sent {name}")
                self.store.send(Signal(THREAD, f"{self.now:.3f}-{name}", name, value))
        self.now = max([self.now, *sorted(seconds(wait.until) for wait in waits if wait.until)[:1]])
        return None


@dataclass
class Outcome:
    """One life of a story."""

    graph: CompiledGraph[Any]
    store: Store
    points: int = 0  # effects or commits, at each of which it could have died
    recorded: Counter[tuple[str, str]] | None = None  # calls until it died, of what had a row then
    seen: list[Any] = field(default_factory=list)  # events shown

    def died(self, recorded: Counter[tuple[str, str]]) -> None:
        self.never_again()
        self.recorded = recorded

    def never_again(self) -> None:
        if self.recorded is not None:
            after = {key: CALLS[key] for key in self.recorded}
            assert after == dict(self.recorded), "what has a row was called again"

    @property
    def values(self) -> dict[str, Any]:
        position = position_of(self.graph, self.store)
        assert position is not None
        return dict(position.values)


def check(outcome: Outcome, expected: dict[str, Any]) -> None:
    graph, store = outcome.graph, outcome.store
    assert outcome.values == expected
    assert store.signals(THREAD) == [], "a signal was not taken, or sent once more than it was"
    outcome.never_again()
    for thread in store.threads():
        assert verify(store, thread.thread_id, None).ok
        assert thread.lease_owner is None
        assert thread.status == "finished", thread
    told = {event.step: event for event in graph.replay({"thread_id": THREAD}, stream_mode="events")}
    assert [told[event.step] for event in outcome.seen] == outcome.seen, "the log tells another story"
    assert sorted(told) == list(range(len(told)))


def with_rows(store: Store) -> Counter[tuple[str, str]]:
    """What was called so far of all that has a row, in every thread."""
    rows = [(t.thread_id, row.task) for t in store.threads() for row in store.rows(t.thread_id) if row.kind == "task"]
    return Counter({(thread_id, str(name)): CALLS[thread_id, str(name)] for thread_id, name in rows})


# --- dying at an effect -----------------------------------------------------------------------


class Strand:
    """A job in a thread that runs only while the simulator waits for it: one at a time, as if there were no threads."""

    def __init__(self, simulator: Strands, job: Job) -> None:
        self.job = job
        self.waits_for: Reply | None = None
        self.ended = False
        self._simulator = simulator
        self._killed = False
        self._go, self._back = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._main, name=f"strand {job.task.id}")
        job.tell = simulator.items.append
        job.spawn = self._spawn
        job.recall = lambda value: Reply(self, value)
        self._thread.start()

    def _main(self) -> None:
        self._go.acquire()
        if not self._killed:
            done = run_job(self.job)
            if not self._killed:
                self._simulator.items.append(done)
        self.ended = True
        self._back.release()

    def _spawn(self, call: Job) -> Reply:
        reply = Reply(self)
        call.reply = reply  # type: ignore[assignment]
        self._simulator.items.append(Spawned(call))
        self._simulator.waiting.append(call)
        return reply

    @property
    def ready(self) -> bool:
        return self.waits_for is None or self.waits_for.settled

    def resume(self) -> None:
        """Let it run until it waits or ends."""
        self._go.release()
        self._back.acquire()
        if self.ended:
            self._thread.join()

    def wait(self, reply: Reply) -> None:
        """In the job's thread: stand still until the reply is there."""
        self.waits_for = reply
        self._back.release()
        self._go.acquire()
        self.waits_for = None
        if self._killed:
            raise Killed

    def kill(self) -> None:
        if not self.ended:
            self._killed = True
            self.resume()


class Killed(BaseException):
    """The process of this node is gone."""


UNSET = object()


class Reply:
    """The future that a node gets for its call."""

    def __init__(self, strand: Strand, value: Any = UNSET) -> None:
        self._strand, self._value, self._error = strand, value, None

    @property
    def settled(self) -> bool:
        return self._value is not UNSET or self._error is not None

    def set_result(self, result: Any) -> None:
        self._value = result

    def set_exception(self, error: BaseException) -> None:
        self._error = error  # type: ignore[assignment]

    def result(self) -> Any:
        while not self.settled:
            self._strand.wait(self)
        if self._error is not None:
            raise self._error
        return self._value


class Strands(Simulator):
    """The simulator for nodes that call tasks and have to wait for them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.items: list[Any] = []
        self.strands: list[Strand] = []

    def drive(self, *args: Any) -> None:
        try:
            super().drive(*args)
        finally:
            for strand in self.strands:
                strand.kill()

    def _perform(self, effect: Any, watch: Any) -> Any:
        if isinstance(effect, Cancel):
            cancelled = [job for job in (*self.waiting, *effect.jobs) if job.parent is None]
            self.waiting = [job for job in self.waiting if job.parent is not None]
            return cancelled
        return super()._perform(effect, watch)

    def _next(self) -> list[Any]:
        while not self.items:
            ready = [strand for strand in self.strands if strand.ready]
            assert self.waiting or ready, "everybody waits for somebody"
            choice = self.random.randrange(len(self.waiting) + len(ready))
            if choice < len(self.waiting):
                strand = Strand(self, self.waiting.pop(choice))
                self.strands.append(strand)
            else:
                strand = ready[choice - len(self.waiting)]
            strand.resume()
            self.strands = [strand for strand in self.strands if not strand.ended]
        items, self.items[:] = list(self.items), []
        return items


def simulate(story: Callable[[], StateGraph[State]], seed: int, die_at: int | None, before: bool = True) -> Outcome:
    """Live through the story, once dying at that effect of all its runs together."""
    return simulated(story, seed, [] if die_at is None else [(die_at, before)])


def simulated(story: Callable[[], StateGraph[State]], seed: int, deaths: list[tuple[int, bool]]) -> Outcome:
    """Live through the story, dying after so many effects, then after so many more, and so on."""
    deaths, lived = list(deaths), 0
    CALLS.clear()
    store = MemoryStore()
    graph = story().compile(checkpointer=store, name=story.__name__)
    outside, outcome, number = Outside(graph, store), Outcome(graph, store), 0
    shaper = Shaper("events")
    while not has_ended(graph, store):
        value = outside.next_input()
        left, before = (deaths[0][0] - lived, deaths[0][1]) if deaths else (None, True)
        simulator = Strands(store, seed + number, left, before)
        simulator.time = outside.now
        link = Link(store, graph._codec, None, Shaper(()), ())
        owner, clock = f"me/{number}", simulator

        def now(clock: Strands = clock) -> float:
            return clock.time

        def watch(it: Any, store: Store = store) -> None:
            if isinstance(it, Recorded):
                assert list(store.rows(THREAD, after=it.row.step - 1, until=it.row.step)) == [it.row]
                outcome.seen += shaper.show(graph._view, (), it)

        seen_by_nodes = {"announce": True, "link": link, "now": now}
        call = Call(THREAD, f"run-{number}", input=value, owner=owner, alive=lambda owner: False, **seen_by_nodes)
        try:
            simulator.drive(Run(graph._graph, graph._codec, None, call).steps(), watch)
            lived += simulator.count
        except Died:
            outcome.died(with_rows(store))
            deaths, lived = deaths[1:], 0
        outcome.points += simulator.count
        outside.now = max(outside.now, simulator.time)
        number += 1
        assert number < 60, "it does not come to an end"
    return outcome


@pytest.mark.parametrize("story", STORIES)
def test_the_stories_come_to_their_ends(story: Callable[[], StateGraph[State]]) -> None:
    """Without a crash, and whatever the order in which tasks end."""
    first = simulate(story, 0, None)
    for seed in range(5):
        check(simulate(story, seed, None), first.values)
    assert len(first.values["log"]) >= 3
    assert first.points > 20


@pytest.mark.parametrize("story", STORIES)
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_a_crash_at_every_effect(story: Callable[[], StateGraph[State]], before: bool) -> None:
    whole = simulate(story, 0, None)
    for die_at in range(whole.points):
        outcome = simulate(story, 0, die_at, before)
        assert outcome.recorded is not None, "it did not die"
        check(outcome, whole.values)


@settings(deadline=None, max_examples=60)
@given(story=st.sampled_from(STORIES), seed=st.integers(0, 1000), where=st.floats(0, 1), before=st.booleans())
def test_a_crash_in_any_order_of_tasks(story: Any, seed: int, where: float, before: bool) -> None:
    expected = simulate(story, 0, None).values
    points = simulate(story, seed, None).points
    check(simulate(story, seed, int(where * (points - 1)), before), expected)


@settings(deadline=None, max_examples=60)
@given(
    story=st.sampled_from(STORIES),
    seed=st.integers(0, 1000),
    deaths=st.lists(st.tuples(st.integers(0, 30), st.booleans()), min_size=2, max_size=8),
)
def test_any_history_of_crashes(story: Any, seed: int, deaths: list[tuple[int, bool]]) -> None:
    expected = simulate(story, 0, None).values
    check(simulated(story, seed, deaths), expected)


# --- dying at a commit ------------------------------------------------------------------------


class Gone(BaseException):
    """The process is gone. Not an Exception, so that no node takes it for an error of its own."""


class Mortal:
    """A store that dies at its so-many-th commit, before or after it, and is dead from then on."""

    def __init__(self, store: Store, die_at: int | None, before: bool) -> None:
        self.store, self.die_at, self.before = store, die_at, before
        self.name, self.count, self.dead = store.name, 0, False
        self._lock = threading.Lock()

    def _commit(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with self._lock:
            if self.dead:
                raise Gone
            self.dead = self.count == self.die_at
            self.count += 1
            if self.dead and self.before:
                raise Gone
            answer = call(*args, **kwargs)
            if self.dead:
                raise Gone
            return answer

    def append(self, *args: Any, **kwargs: Any) -> None:
        self._commit(self.store.append, *args, **kwargs)

    def change_thread(self, *args: Any, **kwargs: Any) -> Any:
        return self._commit(self.store.change_thread, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)


Live = Callable[..., Outcome]


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> Live:
    def live(story: Callable[[], StateGraph[State]], store: Store, die_at: int | None, before: bool = True) -> Outcome:
        """The same through `graph.stream`, its threads and its subgraphs."""
        CALLS.clear()
        mortal = Mortal(store, die_at, before)
        graph = story().compile(checkpointer=mortal, name=story.__name__)  # type: ignore[arg-type]
        outside, outcome, number = Outside(graph, store), Outcome(graph, store), 0
        monkeypatch.setattr(drivers, "clock", lambda: outside.now)
        while not has_ended(graph, store):
            try:
                for event in graph.stream(outside.next_input(), {"thread_id": THREAD}, stream_mode="events"):
                    outcome.seen.append(event)
            except Gone:
                assert outcome.recorded is None, "it dies once"
                outcome.died(with_rows(store))
                mortal.dead, mortal.die_at = False, None
            number += 1
            assert number < 60, "it does not come to an end"
        outcome.points = mortal.count
        return outcome

    return live


@pytest.mark.parametrize(
    ("story", "before"),
    [
        pytest.param(
            story,
            before,
            id=f"{'before' if before else 'after'}-{story.__name__}",
            marks=[pytest.mark.slow] if before and story is subgraphs else [],
        )
        for story in ALL
        for before in (True, False)
    ],
)
def test_a_crash_at_every_commit(live: Live, story: Callable[[], StateGraph[State]], before: bool) -> None:
    whole = live(story, MemoryStore(), None)
    expected = whole.values
    check(whole, expected)
    for die_at in itertools.count():
        outcome = live(story, MemoryStore(), die_at, before)
        check(outcome, expected)
        if outcome.recorded is None:
            break  # there are no more commits; tasks that end together may share one, so their number varies
    assert die_at > 5


EVERYTHING: list[Any] = ["updates", "values", "custom", "tasks", "checkpoints", "debug", "events"]


@pytest.mark.parametrize("story", ALL)
@pytest.mark.parametrize("subgraphs", [False, True], ids=["", "with subgraphs"])
def test_replay_tells_the_whole_story(
    monkeypatch: pytest.MonkeyPatch, story: Callable[[], StateGraph[State]], subgraphs: bool
) -> None:
    """In all modes at once, over all the calls that it took."""
    store = MemoryStore()
    graph = story().compile(checkpointer=store)
    outside, seen = Outside(graph, store), []
    monkeypatch.setattr(drivers, "clock", lambda: outside.now)
    while not has_ended(graph, store):
        given = outside.next_input()
        seen += graph.stream(given, {"thread_id": THREAD}, stream_mode=EVERYTHING, subgraphs=subgraphs)
    told = graph.replay({"thread_id": THREAD}, stream_mode=EVERYTHING, subgraphs=subgraphs)
    assert list(told) == seen


@pytest.mark.parametrize("story", ALL)
def test_a_consumer_may_go_after_any_event(
    monkeypatch: pytest.MonkeyPatch, live: Live, story: Callable[[], StateGraph[State]]
) -> None:
    """One event of a task a call, then the iterator is closed: the same end, nothing seen or called twice."""
    expected = live(story, MemoryStore(), None).values
    CALLS.clear()
    store = MemoryStore()
    graph = story().compile(checkpointer=store)
    outside, outcome = Outside(graph, store), Outcome(graph, store)
    monkeypatch.setattr(drivers, "clock", lambda: outside.now)
    number = 0
    while not has_ended(graph, store):
        stream = graph.stream(outside.next_input(), {"thread_id": THREAD}, stream_mode="events")
        for event in stream:
            outcome.seen.append(event)
            if event.kind not in ("input", "resume"):
                break
        with suppress(ValueError, KeyError):  # of siblings: neither retried nor handled when nobody is there
            stream.close()  # type: ignore[attr-defined]
        outcome.died(with_rows(store))
        number += 1
        assert number < 200, "it does not come to an end"
    steps = [event.step for event in outcome.seen]
    assert len(steps) == len(set(steps))
    check(outcome, expected)


@pytest.fixture(params=["sqlite", "postgres"])
def databases(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Store]]:
    """Stores with a thread of the same name in each: for SQLite new files, for Postgres one schema that is emptied."""
    opened: list[SqlStore] = []

    def open_one() -> Store:
        if request.param == "sqlite":
            opened.append(SqlStore(f"sqlite:///{tmp_path / f'{len(opened)}.db'}?synchronous=NORMAL"))
        elif not opened:
            opened.append(SqlStore(request.getfixturevalue("postgres_url")))
        for thread in opened[-1].threads():
            opened[-1].delete(thread.thread_id)
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()


@pytest.mark.parametrize("story", ALL)
def test_a_crash_at_some_commits_of_a_database(
    live: Live, databases: Callable[[], Store], story: Callable[[], StateGraph[State]]
) -> None:
    whole = live(story, databases(), None)
    expected, points = whole.values, whole.points
    check(whole, expected)
    assert expected == live(story, MemoryStore(), None).values
    for number, die_at in enumerate(range(0, points, max(1, points // 6))):
        outcome = live(story, databases(), die_at, before=number % 2 == 0)
        check(outcome, expected)
