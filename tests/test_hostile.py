"""Hostile data: stored faithfully or refused by name; and whatever stands in a row that was altered, reading it ends in
CorruptCheckpointError with thread and step: never a crash, a hang, an import or a call."""

from __future__ import annotations

import operator
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, text

from durable_graph import (
    START,
    ArgumentError,
    Command,
    CorruptCheckpointError,
    DurableGraphError,
    EncryptionKeyError,
    Limits,
    Log,
    Send,
    StateGraph,
    TooLargeError,
    UnstorableValueError,
    interrupt,
    task,
)
from durable_graph.store import Row
from durable_graph.store.memory import MemoryStore
from tests.graphs import Runner, snapshot_each_barrier

CONFIG = {"thread_id": "t"}


@pytest.fixture(params=["sync", "async"])
def run(request: pytest.FixtureRequest, database_url: str) -> Iterator[Runner]:
    with Runner(request.param, database_url) as runner:
        yield runner


class State(TypedDict, total=False):
    data: Any


def keeping(run: Runner, value: Callable[[], Any], **settings: Any) -> Any:
    builder = StateGraph(State).add_node("keep", run.node(lambda state: {"data": value()})).add_edge(START, "keep")
    return run.compile(builder, **settings)


# --- values -------------------------------------------------------------------------------------

VALUES = {
    "NUL": "a\0b",
    "NUL in bytes": b"\0",
    "lone surrogate": "half \ud83d",
    "surrogates that are none": "\udcff\ud800",
    "both": {"\0\ud83d": ["\ud83d\0"]},
    "SQL": "'; DROP TABLE checkpoints; --",
    "emoji": "🚀" * 1000,
    "right to left": "\u202eabc",
    "escapes": "\\u0000 \\ud83d %s :name $1 {thread_id}",
    "format": "%(name)s %n",
    "our own tags": {"$": "dataclass", "t": "os:system", "v": {"x": 1}},
    "our own keys": {"next": ["x"], "update": {}, "run": 5},
    "big numbers": [2**64, -(2**63) - 1, 10**500, float("inf")],
    "odd keys": {"": 1, 0: 2, (1, None): 3, b"\0": 4},
}


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("key", [None, bytes(32)], ids=["plain", "encrypted"])
def test_odd_values_are_kept_as_they_are(run: Runner, name: str, key: bytes | None) -> None:
    value = VALUES[name]
    graph = keeping(run, lambda: value, encryption_key=key or ())
    told = run.stream(graph, {"data": value}, {**CONFIG, "metadata": {"mine": value}})
    assert told == [{"keep": {"data": value}}] == run.replay(graph, CONFIG)
    state = run.get_state(graph, CONFIG)
    assert (state.values["data"], state.metadata["mine"]) == (value, value)
    assert run.call(graph, "verify", CONFIG).ok
    run.call(graph, "signal", CONFIG, "news", value)


@pytest.mark.parametrize("depth", [1000, 10_000])
def test_deep_values_are_refused(run: Runner, depth: int) -> None:
    def deep(wrap: Callable[[Any], Any]) -> Any:
        value: Any = 0
        for _ in range(depth):
            value = wrap(value)
        return value

    for wrap in (lambda x: [x], lambda x: {"k": x}, lambda x: (x,)):
        with pytest.raises(UnstorableValueError, match="nested deeper than 200 levels"):
            run.stream(keeping(run, lambda wrap=wrap: deep(wrap)), {"data": 1}, CONFIG)
        with pytest.raises(UnstorableValueError, match="nested deeper"):
            run.stream(keeping(run, lambda: 1), {"data": deep(wrap)}, {"thread_id": "u"})
    assert run.get_state(keeping(run, lambda: 1), {"thread_id": "u"}).created_at is None
    assert run.invoke(keeping(run, lambda: "flat"), None, CONFIG) == {"data": "flat"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["text", "bytes", "list"])
@pytest.mark.parametrize("key", [None, bytes(32)], ids=["plain", "encrypted"])
def test_100_mb(database_url: str, kind: str, key: bytes | None) -> None:
    """Refused by the limit that there is, kept with one that is higher."""
    make = {"text": lambda: "x" * 10**8, "bytes": lambda: b"\xff" * 10**8, "list": lambda: ["x" * 1000] * 10**5}[kind]
    with Runner("sync", database_url) as run:
        with pytest.raises(TooLargeError, match=r"Node 'keep' of thread 't': \['update'\]\['data'\] takes 1\d\d,\d"):
            run.stream(keeping(run, make, encryption_key=key or ()), {"data": 1}, CONFIG)
        graph = keeping(run, make, limits=Limits(row_bytes=300_000_000), encryption_key=key or ())
        assert run.invoke(graph, None, CONFIG)["data"] == make()
        assert run.replay(graph, CONFIG)[-1]["keep"]["data"] == make()
        assert run.get_state(graph, CONFIG).values["data"] == make()
        assert graph.verify(CONFIG).ok


# --- names --------------------------------------------------------------------------------------

IDS = [
    "'; DROP TABLE checkpoints; --", '"', "'", "`", "\\", "%s", ":thread_id", "$1", "🚀", "é", "e\u0301", " ", "\n\t",
    "a" * 2000, "🚀" * 500, "../../etc/passwd", "null", "\u202e", "\ufeff", "\x7f\x01", "{thread_id}", "-1", "NaN",
]  # fmt: skip


@pytest.mark.parametrize("name", IDS, ids=lambda name: ascii(name[:30]))
def test_odd_ids_name_one_thread_each(run: Runner, name: str) -> None:
    graph = keeping(run, lambda: 1, encryption_key=bytes(32))
    others = [other for other in IDS if other != name]
    run.stream(graph, {"data": name}, {"thread_id": name})
    assert [thread.thread_id for thread in run.call(graph, "threads")] == [name]
    assert all(run.get_state(graph, {"thread_id": other}).created_at is None for other in others[:5])
    assert run.replay(graph, {"thread_id": name}) == [{"keep": {"data": 1}}]
    run.call(graph, "signal", {"thread_id": name}, name, name)
    run.fork(graph, {"thread_id": name}, "f")
    lines = run.each(lambda _: None, graph, "export_thread", {"thread_id": name})
    run.call(graph, "delete_thread", name)
    assert run.call(graph, "import_thread", lines).thread_id == name
    assert run.call(graph, "verify", {"thread_id": name}).ok


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "expected a text that is not empty"),
        ("a\0b", "NUL"),
        ("half \ud83d", "surrogate"),
        ("x" * 1_000_000, "is 1000000 bytes long"),
        ("🚀" * 250_000, "is 1000000 bytes long"),
        (b"bytes", "expected a text"),
        (5.0, "expected a text"),
        ({"a": 1}, "expected a text"),
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_ids_that_are_refused(run: Runner, name: Any, words: str) -> None:
    graph, config = keeping(run, lambda: 1), {"thread_id": name}
    for call in (
        lambda: run.stream(graph, {"data": 1}, config),
        lambda: run.get_state(graph, config),
        lambda: run.replay(graph, config),
        lambda: run.history(graph, config),
        lambda: run.call(graph, "verify", config),
        lambda: run.update_state(graph, config, {"data": 1}),
    ):
        with pytest.raises(ArgumentError, match=words) as caught:
            call()
        assert len(str(caught.value)) < 1000
    assert run.call(graph, "threads") == []


def opened(url: str) -> closing[sqlite3.Connection]:
    return closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None))


# --- rows that were altered: some kinds of garbage on each database -----------------------------


class Ran(Exception):
    """Code of the user's was called by reading."""


@dataclass
class Thing:
    x: Any = 1

    def __post_init__(self) -> None:
        if self.x == "run":
            raise Ran


class Rich(TypedDict, total=False):
    data: Any
    answer: str
    thing: Thing
    n: Annotated[int, operator.add]


def rich(run: Runner) -> StateGraph[Rich]:
    """A log with rows of all kinds."""
    calls: list[int] = []

    @task
    def double(x: int) -> int:
        return 2 * x

    def one(state: Rich) -> Rich:
        return {"data": double(4).result(), "thing": Thing([1, {"a": (2,)}])}

    def ask(state: Rich, writer: Any) -> Rich:
        writer({"custom": 1})
        return {"answer": interrupt("?")}

    def fail(state: Rich) -> Rich:
        calls.append(1)
        if len(calls) == 1:
            raise ValueError("once")
        return {}

    inner = StateGraph(Rich).add_node("deep", lambda state: {"n": 7}).add_edge(START, "deep").compile()
    builder = StateGraph(Rich).add_node("one", one).add_node("ask", ask).add_node("fail", fail).add_node("sub", inner)
    builder.add_node("end", lambda state: None, defer=True)
    builder.add_edge(START, "one").add_edge(START, "ask").add_edge(["one", "ask"], "fail").add_edge("sub", "end")
    return builder.add_conditional_edges("fail", lambda state: [Send("sub", {"n": 1}), Send("sub", {"n": 2})])


def lived(run: Runner, **settings: Any) -> Any:
    """A thread that was interrupted, answered, failed, continued, changed, gone back in and forked."""
    graph = run.compile(rich(run), **settings)
    run.stream(graph, {"data": 0}, CONFIG)
    with pytest.raises(ValueError, match="once"):
        run.stream(graph, Command(resume="yes"), CONFIG)
    run.stream(graph, None, CONFIG)
    run.update_state(graph, CONFIG, {"data": "changed"}, as_node="one")
    run.update_state(graph, {**CONFIG, "step": 2}, {"data": "back"}, as_node="one")
    run.fork(graph, CONFIG, "f")
    run.call(graph, "signal", CONFIG, "news", 1)
    return graph


def look(graph: Any, run: Runner) -> list[Exception]:
    """Everything that reads a thread: what it raises."""
    raised: list[Exception] = []
    calls: list[Callable[[], Any]] = [
        lambda: run.replay(graph, CONFIG, stream_mode=["events", "debug", "values"], subgraphs=True),
        lambda: run.replay(graph, CONFIG, after=2),
        lambda: run.get_state(graph, CONFIG, subgraphs=True),
        lambda: run.get_state(graph, {**CONFIG, "step": 3}),
        lambda: run.history(graph, CONFIG),
        lambda: run.history(graph, {"thread_id": "f"}),
        lambda: run.each(lambda _: None, graph, "timeline", CONFIG),
        lambda: run.each(lambda _: None, graph, "timeline", CONFIG, newest_first=True, limit=2),
        lambda: run.call(graph, "difference", {**CONFIG, "step": 3}, CONFIG),
        lambda: run.call(graph, "stats"),
        lambda: run.each(lambda _: None, graph, "export_thread", CONFIG),
        lambda: run.call(graph, "verify", CONFIG),
        lambda: run.each(lambda _: None, graph, "follow", CONFIG, timeout=0),
        lambda: run.stream(graph, None, CONFIG),
        lambda: run.fork(graph, CONFIG, f"g{len(raised)}"),
        lambda: run.update_state(graph, CONFIG, {"data": 1}, as_node="one"),
    ]
    for call in calls:
        try:
            call()
        except Exception as error:
            raised.append(error)
    return raised


def all_named(raised: list[Exception]) -> None:
    for error in raised:
        assert isinstance(error, DurableGraphError), repr(error)
        if isinstance(error, CorruptCheckpointError):
            assert error.thread_id in str(error)
            assert isinstance(error.step, int)


GARBAGE: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"\xff\xfe",
    "pickle": b"cos\nsystem\n(S'exit 1'\ntR.",
    "a number": b"5",
    "a list": b"[]",
    "null": b"null",
    "empty": b"{}",
    "deep": b"[" * 100_000,
    "deep dict": b'{"update":' * 900 + b"1" + b"}" * 900,
    "an import": b'{"update":{"thing":{"$":"dataclass","t":"os:system","v":{"x":"run"}}},"next":[]}',
    "a call": b'{"update":{"thing":{"$":"dataclass","t":"test_hostile:Thing","v":{"x":"run"}}},"next":[]}',
    "wrong types": b'{"update":5,"next":5,"run":5,"graph":5,"custom":5,"below":5,"tokens":5}',
    "wrong types in lists": b'{"update":[5],"next":[5,null,{}],"custom":[5],"below":[[5]],"tokens":[[]],"seen":5}',
    "no such task": b'{"next":[{"node":5,"arg":{},"seed":[]}],"update":{"data":1}}',
    "sealed": b"\0dg\1" + bytes(60),
    "cut seal": b"\0dg\1",
}


BODY = "SELECT body FROM checkpoints WHERE thread_id = 't' AND step = :s"
POSSIBLE = {"empty", "an import", "a call", "no such task", "deep dict"}  # a row may have such a body


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_in_a_row(database_url: str, name: str) -> None:
    """In each row of a thread, and in its snapshots and signals, one after the other."""
    engine = create_engine(database_url)
    with Runner("sync", database_url) as run:
        graph = lived(run)
        steps = len(list(graph._stored().rows("t")))
        for step in range(steps):
            with engine.begin() as connection:
                body = bytes(connection.execute(text(BODY), {"s": step}).scalar_one())
                change = text("UPDATE checkpoints SET body = :body WHERE thread_id = 't' AND step = :s")
                connection.execute(change, {"body": GARBAGE[name], "s": step})
            raised = []
            with Log(database_url, types=[Thing]) as log:
                for call in (
                    lambda log=log: list(log.replay(CONFIG, stream_mode="events")),
                    lambda log=log: log.get_state(CONFIG),
                    lambda log=log: list(log.get_state_history(CONFIG)),
                    lambda log=log: list(log.export_thread(CONFIG)),
                    lambda log=log: list(log.timeline(CONFIG)),
                    lambda log=log: log.stats(),
                ):
                    try:
                        call()
                    except Exception as error:
                        raised.append(error)
                assert log.verify(CONFIG).findings
            all_named(raised)
            if name not in POSSIBLE:
                wanted = EncryptionKeyError if name == "sealed" else CorruptCheckpointError
                assert wanted in map(type, raised), raised
            with engine.begin() as connection:
                connection.execute(change, {"body": body, "s": step})
        assert not [error for error in look(graph, run) if isinstance(error, CorruptCheckpointError)]
    engine.dispose()


@pytest.mark.parametrize("column", [*Row._fields[2:9], "created_at"])
@pytest.mark.parametrize("value", ["x'00ff'", "'text'", "-5", "9223372036854775807", "NULL", "1.5", "'2.0/1/x'"])
def test_garbage_in_a_column(sqlite_url: str, column: str, value: str) -> None:
    """SQLite keeps anything in any column."""
    with Runner("sync", sqlite_url) as run:
        graph = lived(run)
        with opened(sqlite_url) as connection, suppress(sqlite3.IntegrityError):  # NOT NULL
            connection.execute(f"UPDATE checkpoints SET {column} = {value} WHERE step = 3 AND thread_id = 't'")
        all_named(look(graph, run))


@pytest.mark.parametrize("column", ["body", "hash"])
@pytest.mark.parametrize("value", ["'text'", "'{}'", "5", "1.5", "zeroblob(40)", "x'80'"])
def test_another_type_in_a_column_of_bytes(sqlite_url: str, column: str, value: str) -> None:
    with Runner("sync", sqlite_url) as run:
        graph = lived(run)
        with opened(sqlite_url) as connection:
            connection.execute(f"UPDATE checkpoints SET {column} = {value} WHERE step = 3 AND thread_id = 't'")
        assert graph.verify(CONFIG).findings
        all_named(look(graph, run))


@pytest.mark.parametrize("value", ["'text'", "5", "x'80'", "'[]'", "x'7b7d'", "x'00646701'"])
def test_garbage_in_a_snapshot_or_a_signal(sqlite_url: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot_each_barrier(monkeypatch)
    with Runner("sync", sqlite_url) as run:
        builder = StateGraph(State).add_node("a", lambda state: {"data": "x" * 900}).add_edge(START, "a")
        builder.add_node("b", lambda state, runtime: {"data": runtime.wait_for("news")}).add_edge("a", "b")
        graph = run.compile(builder)
        run.stream(graph, {"data": 1}, CONFIG)
        run.call(graph, "signal", CONFIG, "news", 1)
        with opened(sqlite_url) as connection:
            connection.execute(f"UPDATE signals SET value = {value}")
            if value not in ("5", "'[]'", "x'7b7d'"):  # those are values
                with pytest.raises(CorruptCheckpointError, match="the signal 'news' that waits there is damaged"):
                    run.stream(graph, None, CONFIG)
            assert connection.execute(f"UPDATE snapshots SET state = {value}").rowcount
            with pytest.raises(CorruptCheckpointError, match="snapshots may be deleted safely"):
                run.get_state(graph, CONFIG)
            connection.execute("DELETE FROM snapshots")
        all_named(look(graph, run))


# --- rows that were altered: anything -----------------------------------------------------------


class Altered(MemoryStore):
    """A store in which one row is another."""

    def put(self, row: Row) -> None:
        self._rows["t"][row.step] = row

    def original(self) -> dict[int, Row]:
        return dict(self._rows["t"])


@pytest.fixture(scope="module")
def history() -> tuple[Any, Altered, dict[int, Row]]:
    store = Altered()
    with Runner("sync", store) as run:  # type: ignore[arg-type]
        graph = lived(run)
    return graph, store, store.original()


_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KEYS = [
    "update", "goto", "apply", "results", "starts", "next", "parent", "nodes", "joins", "deferred", "dropped", "error",
    "interrupts", "answers", "add", "children", "custom", "below", "tokens", "seen", "result", "attempt", "cached",
    "failures", "started", "run", "graph", "renamed", "migrated",
]  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn, body: bytes) -> bytes:
    """A real body with some of its bytes, or one of its parts, in another way."""
    if draw(st.booleans()):
        place, length = draw(st.integers(0, len(body))), draw(st.integers(0, 4))
        return body[:place] + draw(st.binary(max_size=4)) + body[place + length :]
    document = orjson.loads(body)
    key = draw(st.sampled_from([*document, *KEYS]))
    what = draw(_json)
    if draw(st.booleans()) and isinstance(document.get(key), dict | list) and document[key]:
        inner = document[key]
        place: Any = draw(st.sampled_from(range(len(inner)) if isinstance(inner, list) else sorted(inner)))
        inner[place] = what
    elif draw(st.booleans()):
        document.pop(key, None)
    else:
        document[key] = what
    return orjson.dumps(document, option=orjson.OPT_NON_STR_KEYS)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_any_change_of_a_row(history: tuple[Any, Altered, dict[int, Row]], data: st.DataObject) -> None:
    fuzz(*history, data)


@pytest.mark.slow
@settings(max_examples=6000, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
@pytest.mark.timeout(1800)
def test_any_change_of_a_row_many_times(history: tuple[Any, Altered, dict[int, Row]], data: st.DataObject) -> None:
    fuzz(*history, data)


def fuzz(graph: Any, store: Altered, rows: dict[int, Row], data: st.DataObject) -> None:
    row = rows[data.draw(st.sampled_from(sorted(rows)), label="step")]
    column = data.draw(st.sampled_from(["body", "body", "body", "any body", *Row._fields[2:]]), label="column")
    if column == "body":
        row = row._replace(body=data.draw(mutated(row.body), label="body"))
    elif column == "any body":
        row = row._replace(body=data.draw(st.binary(max_size=50) | _json.map(orjson.dumps), label="body"))
    else:
        value = data.draw(
            st.none() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=6) | st.binary(max_size=6), label="value"
        )
        row = row._replace(**{column: value})
    modules = set(sys.modules)
    saved = {name: getattr(store, name) for name in ("_threads", "_rows", "_snapshots", "_signals")}
    for name, tables in saved.items():
        setattr(store, name, {key: dict(t) if isinstance(t, dict) else t for key, t in tables.items()})
    try:
        store.put(row)
        with Runner("sync", False) as run:
            all_named(look(graph, run))
    finally:
        for name, tables in saved.items():
            setattr(store, name, tables)
    assert set(sys.modules) == modules
