"""What all viewers read: lists of threads, timelines, differences, figures; and that of each they read only a page."""

from __future__ import annotations

import dataclasses
import operator
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Annotated, Any, TypedDict
from unittest import mock

import pytest
from sqlalchemy import make_url

from durable_graph import (
    START,
    ArgumentError,
    Change,
    CheckpointNotFoundError,
    Command,
    EncryptionKeyError,
    Interrupt,
    Log,
    RetryPolicy,
    Runtime,
    StateGraph,
    Stats,
    ThreadExistsError,
    ThreadNotFoundError,
    TimelineEntry,
    Unregistered,
    drivers,
    interrupt,
    task,
)
from durable_graph.core.difference import changes
from durable_graph.core.timeline import first_of_run
from durable_graph.store import Claim, Row, Store, Thread
from durable_graph.store.sql import SqlStore, _filters
from durable_graph.store.texts import MARKS, Statement, full_name, texts
from tests.graphs import Calls, Runner, State, at, chain, counter, new_thread, wait_for, wide
from tests.test_store_contract import row, values

KEY = bytes(range(32))


@pytest.fixture(params=["sync", "async"])
def run(request: pytest.FixtureRequest, database_url: str) -> Iterator[Runner]:
    with Runner(request.param, database_url) as runner:
        yield runner


def timeline(run: Runner, log: Any, config: Any, **bounds: Any) -> list[TimelineEntry]:
    return run.each(lambda entry: None, log, "timeline", config, **bounds)


def threads(run: Runner, log: Log, **wanted: Any) -> list[str]:
    found = log.threads(**wanted) if run.way == "sync" else wait_for(lambda: log.athreads(**wanted))
    return [thread.thread_id for thread in found]


def stats(run: Runner, log: Log, *given: Any, **wanted: Any) -> Stats:
    found: Stats = log.stats(*given, **wanted) if run.way == "sync" else wait_for(lambda: log.astats(*given, **wanted))
    return found


def steps(entries: list[TimelineEntry]) -> list[int]:
    return [entry.step for entry in entries]


@dataclasses.dataclass
class Line:
    name: str
    price: int


class Order(TypedDict, total=False):
    lines: Annotated[list[Line], operator.add]
    note: str


class Reads:
    """A store that counts the rows and threads that are read of it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.read = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def rows(self, thread_id: str, **bounds: Any) -> Iterator[Row]:
        for found in self._store.rows(thread_id, **bounds):
            self.read += 1
            yield found

    def threads(self, **wanted: Any) -> list[Thread]:
        found = self._store.threads(**wanted)
        self.read += len(found)
        return found


# --- threads ------------------------------------------------------------------------------------


def begin(store: Store, thread_id: str, at: str, **columns: Any) -> None:
    assert store.change_thread(thread_id, Claim(None, values(updated_at=at, **columns)))


@pytest.fixture
def filled(run: Runner) -> Iterator[Log]:
    """Five threads, the newest first: e, d, c, b, a."""
    with Log(run.url) as log:
        store = log._stored()
        begin(store, "a", "2026-01-01T00:00:00.000000Z", status="finished", graph="one")
        begin(store, "b", "2026-01-02T00:00:00.000000Z", status="failed", graph="one")
        begin(store, "c", "2026-01-02T00:00:00.000000Z", status="waiting", graph="two")
        begin(store, "d", "2026-01-03T00:00:00.000000Z", status="failed", graph="two", metadata=b'{"who":"\xc3\x84da"}')
        begin(store, "e%E", "2026-01-04T00:00:00.000000Z", status="finished", graph="one")
        yield log


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        ({}, "edcba"),
        ({"limit": 2}, "ed"),
        ({"limit": 0}, ""),
        ({"status": "failed"}, "db"),
        ({"status": ["failed", "finished"]}, "edba"),
        ({"status": {"failed", "waiting", "running", "finished"}, "limit": 3}, "edc"),
        ({"status": []}, "edcba"),
        ({"graph": "two"}, "dc"),
        ({"graph": "two", "status": ["failed", "pending"]}, "d"),
        ({"newer_than": timedelta(days=2)}, "e"),
        ({"newer_than": 86400 * 2.5}, "ed"),
        ({"older_than": timedelta(days=3)}, "a"),
        ({"older_than": timedelta(days=1), "newer_than": timedelta(days=4.5)}, "dcba"),
        ({"text": "ÄDA"}, "d"),
        ({"text": "äda"}, "d"),
        ({"text": "%e"}, "e"),
        ({"text": "%"}, "e"),
        ({"text": "_"}, ""),
        ({"text": "b", "status": "failed"}, "b"),
        ({"text": "", "limit": 1}, "e"),
    ],
)
def test_threads_that_are_wanted(run: Runner, filled: Log, wanted: dict[str, Any], names: str) -> None:
    with mock.patch.object(drivers, "clock", return_value=1767571200.0):  # 2026-01-05
        assert "".join(name[0] for name in threads(run, filled, **wanted)) == names


@pytest.mark.parametrize("wanted", [{}, {"status": ["failed", "finished", "waiting"]}, {"text": ""}])
def test_pages_of_threads(run: Runner, filled: Log, wanted: dict[str, Any]) -> None:
    names, last = [], None
    while page := run.call(filled, "threads", limit=2, after=last, **wanted):
        assert len(page) <= 2
        names += [thread.thread_id[0] for thread in page]
        last = page[-1]
    assert "".join(names) == "edcba"


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"status": "lost"}, "'lost' is no status.*Choose from new, queued, running, pending"),
        ({"status": ["failed", "Failed"]}, "'Failed' is no status"),
        ({"newer_than": -1}, "^newer_than: -1 is no age"),
        ({"older_than": "1d"}, "^older_than: '1d' is no age"),
        ({"older_than": float("nan")}, "^older_than: nan is no age"),
        ({"graph": "\0"}, "^graph: .*NUL"),
    ],
)
def test_what_cannot_be_wanted(run: Runner, wanted: dict[str, Any], words: str) -> None:
    with Log(run.url) as log, pytest.raises(ArgumentError, match=words):
        threads(run, log, **wanted)


@pytest.mark.parametrize("given", [(), ("failed",), ("failed", "finished"), tuple("abcdef")])
@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("graph", [None, "shop"])
def test_a_page_of_many_threads_is_found_by_index(
    sqlite_url: str, given: tuple[str, ...], behind: bool, graph: str | None
) -> None:
    """No list of all is made or sorted on the way."""
    with closing(SqlStore(sqlite_url)) as store:
        begin(store, "a", "2026-01-01")
    form, bound = _filters(given, graph)
    text = texts("sqlite")[full_name("threads", form)]
    after = {"updated_at": "2026-01-01" if behind else "9999", "thread_id": "a"}
    statement, parameters = Statement(text, MARKS["sqlite"]).bind(**bound, since="", before="9999", count=20, **after)
    with closing(sqlite3.connect(str(make_url(sqlite_url).database))) as connection:
        plan = [line[3] for line in connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)]
    looks = [line for line in plan if "threads" in line]
    assert len(looks) == max(1, 1 << (len(given) - 1).bit_length() if given else 1)
    index = "ix_threads_status_graph_updated_at" if given and graph else "ix_threads_"
    assert all(f"USING INDEX {index}" in line for line in looks), plan
    for line, following in pairwise(plan):  # the pages of several statuses are sorted when they have been found
        assert "threads" not in line or following != "USE TEMP B-TREE FOR ORDER BY", plan


def test_a_text_is_looked_for_page_by_page(run: Runner) -> None:
    with Log(run.url) as log, mock.patch("durable_graph.search.PAGE", 10):
        store = log._store = Reads(log._stored())
        for number in range(60):
            begin(store, f"t{number:02}", f"2026-01-01T00:00:{number:02}.000000Z")
        assert threads(run, log, text="T5", limit=3) == ["t59", "t58", "t57"]
        assert store.read == 10
        assert threads(run, log, text="t03") == ["t03"]


# --- timelines ----------------------------------------------------------------------------------


def test_a_timeline_has_an_entry_for_each_row(run: Runner) -> None:
    graph, config = run.compile(chain(run, Calls(), b=Calls().failing("b"))), new_thread()
    with pytest.raises(ValueError, match="b failed"):
        run.invoke(graph, {"n": 1}, {**config, "metadata": {"actor": "Ada"}})
    run.invoke(graph, None, config)
    found = timeline(run, graph, config)
    assert [(e.step, e.parent_step, e.kind, e.node, e.attempt, e.next, e.actor) for e in found] == [
        (0, None, "input", None, None, ("a",), "Ada"),
        (1, 0, "task", "a", 1, ("b",), "Ada"),
        (2, 1, "error", "b", 1, (), "Ada"),
        (3, 2, "resume", None, None, (), None),
        (4, 3, "task", "b", 2, ("c",), None),
        (5, 4, "task", "c", 1, (), None),
    ]
    assert found[2].error == "builtins.ValueError: b failed"
    for entry, event in zip(found, run.replay(graph, config, stream_mode="events"), strict=True):
        assert (entry.started_at, entry.created_at) == (event.started_at, event.created_at)
        assert (entry.run_id, entry.superstep) == (event.metadata["run_id"], event.metadata["superstep"])
        assert entry.thread_id == event.thread_id
        assert (entry.duration is None) == (entry.task is None)
        assert entry.duration is None or 0 <= entry.duration < 60
    sizes = [len(row.body) for row in graph._stored().rows(config["configurable"]["thread_id"])]
    assert [entry.bytes for entry in found] == sizes


def test_pages_of_a_timeline(run: Runner) -> None:
    graph, config = run.compile(counter(run, 9)), new_thread()
    run.invoke(graph, {"n": 0}, config)
    assert steps(timeline(run, graph, config)) == [*range(10)]
    assert steps(timeline(run, graph, config, limit=3)) == [0, 1, 2]
    assert steps(timeline(run, graph, config, after=2, limit=3)) == [3, 4, 5]
    assert steps(timeline(run, graph, config, after=2, before=5)) == [3, 4]
    assert steps(timeline(run, graph, config, newest_first=True, limit=2)) == [9, 8]
    assert steps(timeline(run, graph, config, newest_first=True, before=8, limit=2)) == [7, 6]
    assert steps(timeline(run, graph, config, newest_first=True, after=7)) == [9, 8]
    assert steps(timeline(run, graph, at(config, 3))) == [0, 1, 2, 3]
    assert steps(timeline(run, graph, at(config, 3), before=2)) == [0, 1]
    assert timeline(run, graph, config, limit=0) == []
    assert timeline(run, graph, config, after=9) == []


def test_a_page_reads_its_rows_and_no_others(run: Runner) -> None:
    """And a few to find who called."""
    with Log(run.url) as log:
        store = log._store = Reads(log._stored())
        begin(store, "t", "2026-01-01", epoch=1)
        body = b'{"update":{"n":1},"started":"2026-01-01T00:00:00.000000Z"}'
        first = b'{"run":{"metadata":{"actor":"Ada"}},"update":{},"next":["pay"]}'
        rows = [row(step, thread_id="t", body=body) for step in range(1, 5000)]
        store.append([row(0, thread_id="t", kind="input", node=None, task=None, body=first), *rows])
        for bounds in ({"after": 3000}, {"newest_first": True}, {"newest_first": True, "before": 4000}):
            store.read = 0
            page = timeline(run, log, {"thread_id": "t"}, limit=20, **bounds)
            assert [entry.actor for entry in page] == ["Ada"] * 20
            assert store.read < 60, bounds


def test_rows_of_one_run(run: Runner) -> None:
    graph, config = run.compile(counter(run, 3)), new_thread()
    for actor in ("Ada", "Bob", "Eve"):
        run.invoke(graph, {"n": 0}, {**config, "metadata": {"actor": actor}})
    found = timeline(run, graph, config)
    bob = found[5].run_id
    assert found[5].actor == "Bob"
    its = [entry for entry in found if entry.run_id == bob]
    assert steps(its) == [4, 5, 6, 7]
    assert timeline(run, graph, config, run_id=bob) == its
    assert timeline(run, graph, config, run_id=bob, newest_first=True, limit=2) == [its[3], its[2]]
    assert timeline(run, graph, config, run_id="none") == []
    for entry in found:  # wherever one begins, who called is found
        assert timeline(run, graph, config, after=entry.step - 1, limit=1) == [entry]


def test_the_first_row_of_a_run_is_found_wherever_it_is(store: Store) -> None:
    begin(store, "t", "2026-01-01", epoch=1)
    names = [name for number, size in enumerate([1, 1, 7, 30, 2]) for name in [f"run-{number}"] * size]
    rows = [row(step, thread_id="t", run_id=name) for step, name in enumerate(names)]
    store.append([each for each in rows if each.step != 20])  # of an altered log a row may be missing
    for each in rows:
        assert first_of_run(store, each).step == names.index(each.run_id)
        assert first_of_run(store, each, 5).step == max(names.index(each.run_id), min(5, each.step))


def test_a_timeline_shows_questions_subgraphs_and_retries(run: Runner) -> None:
    calls = Calls()
    below = run.compile(chain(run, calls, "x"))
    asking = run.node(lambda state: {"log": [interrupt("sure?")]})
    flaky = run.node(calls.failing("flaky", error=ConnectionError))
    builder = StateGraph(State).add_node("ask", asking).add_node("down", below)
    builder.add_node("flaky", flaky, retry_policy=RetryPolicy(initial_interval=0, jitter=False))
    builder.add_edge(START, "ask").add_edge("ask", "down").add_edge("down", "flaky")
    graph, config = run.compile(builder), new_thread()
    run.invoke(graph, {"n": 1}, config)
    run.invoke(graph, Command(resume="yes"), config)
    by_kind = {(entry.kind, entry.node): entry for entry in timeline(run, graph, config)}
    (asked,) = by_kind["interrupt", "ask"].interrupts
    assert isinstance(asked, Interrupt)
    assert asked.value == "sure?"
    assert by_kind["task", "ask"].attempt == 2
    child = by_kind["task", "down"].child
    assert child is not None
    assert [entry.node for entry in timeline(run, graph, {"thread_id": child})] == [None, "x"]
    again = by_kind["task", "flaky"]
    assert (again.attempt, again.failures) == (2, 1)


def test_a_fork_has_a_timeline_of_its_own(run: Runner) -> None:
    graph, config = run.compile(chain(run, Calls())), new_thread()
    run.invoke(graph, {"n": 1}, config)
    origin, to = config["configurable"]["thread_id"], new_thread()
    run.fork(graph, at(config, 1), to["configurable"]["thread_id"])
    run.invoke(graph, None, to)
    found = timeline(run, graph, to)
    assert [(entry.kind, entry.node, entry.origin) for entry in found] == [
        ("fork", None, (origin, 1)),
        ("resume", None, None),
        ("task", "b", None),
        ("task", "c", None),
    ]


def test_a_pruned_log_has_the_timeline_that_is_left(run: Runner) -> None:
    graph, config = run.compile(counter(run, 9)), new_thread()
    run.invoke(graph, {"n": 0}, {**config, "metadata": {"actor": "Ada"}})
    whole = timeline(run, graph, config)
    graph.prune(keep_last=3)
    left = timeline(run, graph, config)
    assert steps(left) == [7, 8, 9]
    assert left == [dataclasses.replace(entry, actor=None) for entry in whole[7:]]
    assert timeline(run, graph, config, newest_first=True) == left[::-1]
    with pytest.raises(CheckpointNotFoundError, match="pruned"):
        timeline(run, graph, at(config, 2))


def test_timelines_of_what_is_not_there(run: Runner) -> None:
    with Log(run.url) as log:
        with pytest.raises(ThreadNotFoundError, match="'none'"):
            timeline(run, log, {"thread_id": "none"})
        with pytest.raises(ArgumentError, match="it names no thread"):
            timeline(run, log, {})


# --- differences --------------------------------------------------------------------------------


def ordered(run: Runner, **settings: Any) -> tuple[Any, dict[str, Any]]:
    builder = StateGraph(Order)
    builder.add_node("add", run.node(lambda order: {"lines": [Line("lamp", 5)]}))
    builder.add_node("mark", run.node(lambda order: {"note": "a new one"}))
    graph = run.compile(builder.add_edge(START, "add").add_edge("add", "mark"), types=[Line], **settings)
    config = new_thread()
    run.invoke(graph, {"lines": [Line("bulb", 1)], "note": "one"}, config)
    return graph, config


def test_what_has_changed_between_two_steps(run: Runner) -> None:
    graph, config = ordered(run)
    lamp = Line("lamp", 5)
    assert run.call(graph, "difference", at(config, 0), config) == [
        Change("state['lines'][1]", "added", None, lamp),
        Change("state['note']", "changed", "one", "a new one"),
    ]
    assert run.call(graph, "difference", config, at(config, 1)) == [
        Change("state['note']", "changed", "a new one", "one")
    ]
    assert run.call(graph, "difference", config, config) == []


def test_what_two_threads_do_not_have_in_common_without_the_code(run: Runner) -> None:
    graph, config = ordered(run)
    run.fork(graph, at(config, 0), "other")
    run.update_state(graph, {"thread_id": "other"}, {"lines": [Line("lamp", 6)], "note": "a new one"}, "mark")
    with Log(run.url) as log:
        found = run.call(log, "difference", config, {"thread_id": "other"})
        assert found == [Change("state['lines'][1].data['price']", "changed", 5, 6)]
        (added,) = [c.after for c in run.call(log, "difference", at(config, 0), at(config, 1))]
        assert isinstance(added, Unregistered)


def test_a_thread_without_rows_differs_in_all(run: Runner) -> None:
    graph, config = ordered(run)
    assert run.call(graph, "create_thread", "new")
    assert {change.kind for change in run.call(graph, "difference", {"thread_id": "new"}, config)} == {"added"}
    assert timeline(run, graph, {"thread_id": "new"}) == []
    assert threads(run, graph, status="new") == ["new"]


def test_differences_of_what_is_not_there(run: Runner) -> None:
    graph, config = ordered(run)
    with pytest.raises(ThreadNotFoundError, match="'none'"):
        run.call(graph, "difference", config, {"thread_id": "none"})
    with pytest.raises(CheckpointNotFoundError, match="no step 77"):
        run.call(graph, "difference", config, at(config, 77))


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({}, {}, []),
        ({"a": 1}, {"a": True}, [("['a']", "changed", 1, True)]),
        ({"a": float("nan")}, {"a": float("nan")}, []),
        ({"a": Decimal("1.0")}, {"a": Decimal(2)}, [("['a']", "changed", Decimal("1.0"), Decimal(2))]),
        ({"a": 1}, {"b": 1}, [("['a']", "removed", 1, None), ("['b']", "added", None, 1)]),
        ({"a": None}, {}, [("['a']", "removed", None, None)]),
        ([1, 2, 3], [2, 3], [("[0]", "removed", 1, None)]),
        ([1, 2, 3], [1, 9, 2, 3], [("[1]", "added", None, 9)]),
        ([1, 2, 3], [1, 9, 3], [("[1]", "changed", 2, 9)]),
        ([1, 2], [1, 2, 3, 4], [("[2]", "added", None, 3), ("[3]", "added", None, 4)]),
        ([1, 1, 1], [1], [("[1]", "removed", 1, None), ("[2]", "removed", 1, None)]),
        ([1], [], [("[0]", "removed", 1, None)]),
        ([], (), [("", "changed", [], ())]),
        ({1, 2}, {2, 3}, [("", "changed", {1, 2}, {2, 3})]),
        ([{"a": [0, {"b": 1}]}], [{"a": [0, {"b": 2}]}], [("[0]['a'][1]['b']", "changed", 1, 2)]),
        (Line("a", 1), Line("a", 2), [(".price", "changed", 1, 2)]),
        (None, {"a": 1}, [("", "changed", None, {"a": 1})]),
    ],
)
def test_changes(before: Any, after: Any, expected: list[tuple[str, str, Any, Any]]) -> None:
    found = [tuple(change) for change in changes(before, after, "")]
    assert found == expected


# --- figures ------------------------------------------------------------------------------------


@task
def twice(n: int) -> int:
    return 2 * n


def test_figures(run: Runner) -> None:
    def ask(state: State) -> State:
        interrupt("sure?")
        return {"n": twice(state["n"]).result()}

    def call(state: State) -> State:
        interrupt("sure?")
        return {"n": 1}

    node = ask if run.way == "sync" else run.node(call)
    flaky = run.node(Calls().failing("flaky", error=ConnectionError))
    builder = StateGraph(State).add_node("ask", node).add_edge(START, "ask").add_edge("ask", "flaky")
    builder.add_node("flaky", flaky, retry_policy=RetryPolicy(initial_interval=0, jitter=False))
    graph, config = run.compile(builder, name="asks"), new_thread()
    run.invoke(graph, {"n": 1, "log": ["x" * 100]}, config)
    run.invoke(graph, Command(resume="yes"), config)
    other = run.compile(counter(run, 3), name="counts")
    run.invoke(other, {"n": 0}, new_thread())
    whole = stats(run, graph)
    assert whole.threads == {"finished": 2}
    assert whole.rows == {"task": 5 + (run.way == "sync"), "input": 2, "resume": 1, "interrupt": 1}
    rows = [row for thread in graph.threads() for row in graph._stored().rows(thread.thread_id)]
    assert whole.bytes == {"log": sum(len(r.body) for r in rows), "snapshots": 0, "stubs": 0, "signals": 0, "cache": 0}
    assert whole.channels == {"log": 104 + len('["flaky"]'), "n": 6}
    assert (whole.nodes["ask"].calls, whole.nodes["ask"].failures) == (2, 0)
    assert (whole.nodes["flaky"].calls, whole.nodes["flaky"].failures) == (2, 1)
    count = whole.nodes["count"]
    assert count.calls == 3
    assert 0 <= count.longest <= count.seconds
    assert count.mean * 3 == pytest.approx(count.seconds)
    assert ("twice" in whole.nodes) == (run.way == "sync")
    assert stats(run, graph, config).nodes.keys() == whole.nodes.keys() - {"count"}
    assert stats(run, graph, graph="counts").rows == {"task": 3, "input": 1}
    with pytest.raises(ThreadNotFoundError):
        stats(run, graph, {"thread_id": "none"})


def test_figures_of_a_thread_are_also_those_of_its_subgraphs(run: Runner) -> None:
    below = run.compile(chain(run, Calls(), "xy"))
    builder = StateGraph(State).add_node("down", below).add_edge(START, "down")
    graph, config = run.compile(builder), new_thread()
    run.invoke(graph, {"n": 1}, config)
    found = stats(run, graph, config)
    assert found.threads == {"finished": 2}
    assert set(found.nodes) == {"down", "x", "y"}


def test_what_is_held_beside_the_rows(store: Store) -> None:
    from durable_graph.store import Entry, Held, Signal, Stub

    assert store.held() == Held(0, 0, 0, 0)
    for name in ("a", "b"):
        begin(store, name, "2026-01-01", epoch=1)
        store.append([row(step, thread_id=name) for step in range(3)], snapshot=b"12345")
        store.send(Signal(name, "1", "s", b"123"))
    store.keep([Entry("n", "k", b"1234567", None)], now="2026")
    assert store.cut(Stub("b", 2, b"h", b"12", "2026", None, b"h"), 1)
    assert store.held() == Held(10, 2, 6, 7)
    assert store.held("a") == Held(5, 0, 3, 0)
    assert store.held("b") == Held(5, 2, 3, 0)
    assert store.held("c") == Held(0, 0, 0, 0)


def test_looking_at_an_encrypted_log(run: Runner) -> None:
    _, config = ordered(run, encryption_key=KEY)
    with Log(run.url, encryption_key=KEY) as log:
        assert [entry.node for entry in timeline(run, log, config)] == [None, "add", "mark"]
        assert len(run.call(log, "difference", at(config, 0), config)) == 2
        assert set(stats(run, log).channels) == {"lines", "note"}
    with Log(run.url) as log:
        assert len(threads(run, log)) == 1
        with pytest.raises(EncryptionKeyError):
            timeline(run, log, config)
        with pytest.raises(EncryptionKeyError):
            stats(run, log)


# --- what needs no graph ------------------------------------------------------------------------


def test_a_log_forks_and_signals(run: Runner) -> None:
    def waits(state: State, runtime: Runtime) -> State:
        return {"log": [runtime.wait_for("go")]}

    def runs(state: State) -> State:
        return {}

    builder = StateGraph(State).add_node("a", run.node(runs)).add_node("wait", run.node(waits))
    graph, config = run.compile(builder.add_edge(START, "a").add_edge("a", "wait"), name="waits"), new_thread()
    run.invoke(graph, {"n": 1}, config)
    with Log(run.url) as log:
        to = run.call(log, "fork", at(config, 1), "other")
        assert to["configurable"]["thread_id"] == "other"
        (fork,) = [thread for thread in log.threads() if thread.thread_id == "other"]
        (origin,) = [thread for thread in log.threads() if thread.thread_id != "other"]
        assert (fork.graph, fork.fingerprint, fork.status) == ("waits", origin.fingerprint, "pending")
        run.call(log, "signal", to, "go", "now")
        with pytest.raises(ThreadExistsError):
            run.call(log, "fork", config, "other")
        with pytest.raises(ThreadNotFoundError):
            run.call(log, "signal", {"thread_id": "none"}, "go")
        with pytest.raises(ThreadNotFoundError):
            run.call(log, "fork", {"thread_id": "none"}, "new")
    assert run.invoke(graph, None, to)["log"] == ["now"]
    assert run.get_state(graph, config).values == {"n": 1, "log": []}


def test_side_by_side_tasks_are_told_in_the_order_of_their_rows(run: Runner) -> None:
    graph, config = run.compile(wide(run, Calls())), new_thread()
    run.invoke(graph, {"n": 1}, config)
    found = timeline(run, graph, config)
    assert sorted(entry.node or "" for entry in found) == ["", "a", "b", "c", "end"]
    assert [entry.next for entry in found] == [("a", "b", "c"), (), (), ("end",), ()]
    assert {entry.superstep for entry in found[1:4]} == {1}
