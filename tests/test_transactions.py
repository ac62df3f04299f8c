"""Law 4: what a node writes through `runtime.connection` is committed with its row, or not at all."""

from __future__ import annotations

import asyncio
import operator
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Iterator
from typing import Annotated, Any, TypedDict

import pytest
from sqlalchemy import Connection, create_engine, text

from durable_graph import (
    START,
    CallError,
    Command,
    FencedError,
    NodeTimeoutError,
    RetryPolicy,
    Runtime,
    Send,
    StateGraph,
    StoreError,
    drivers,
    get_runtime,
    interrupt,
    task,
)
from durable_graph.store import Transaction
from durable_graph.store.sql import SqlStore
from durable_graph.transactions import Transactions
from tests.graphs import WAYS, Runner, until


class State(TypedDict, total=False):
    n: int
    log: Annotated[list[str], operator.add]


class Ledger:
    """A table of the user's in the graph's own database."""

    def __init__(self, url: str) -> None:
        self.engine = create_engine(url)
        with self.engine.begin() as connection:
            connection.execute(text("CREATE TABLE ledger (what VARCHAR(100), attempt INTEGER)"))

    @property
    def entries(self) -> list[str]:
        with self.engine.connect() as connection:
            return sorted(connection.execute(text("SELECT what FROM ledger")).scalars())


def write(connection: Connection, what: str) -> None:
    connection.execute(text("INSERT INTO ledger (what) VALUES (:what)"), {"what": what})


@pytest.fixture
def ledger(database_url: str) -> Iterator[Ledger]:
    SqlStore(database_url).threads()  # the library's tables first: it refuses a file with others only
    ledger = Ledger(database_url)
    yield ledger
    ledger.engine.dispose()


@pytest.fixture(params=WAYS)
def runner(request: pytest.FixtureRequest, database_url: str) -> Iterator[Runner]:
    with Runner(request.param, database_url) as runner:
        yield runner


def writing(runner: Runner, what: str, then: Any = lambda: None, before: Any = lambda: None) -> Any:
    """A node that writes `what` and then calls `then`."""

    def plain(state: State, runtime: Runtime[Any]) -> dict[str, Any]:
        before()
        write(runtime.connection, what)
        then()
        return {"log": [what]}

    async def node(state: State, runtime: Runtime[Any]) -> dict[str, Any]:
        before()
        write(await runtime.aconnection(), what)
        then()
        return {"log": [what]}

    return node if runner.way == "async" else plain


def compiled(runner: Runner, *nodes: tuple[str, Any], parallel: bool = False, **settings: Any) -> Any:
    builder = StateGraph(State)
    last = START
    for name, function in nodes:
        builder.add_node(name, function, **settings)
        builder.add_edge(START if parallel else last, name)
        last = name
    return runner.compile(builder)


CONFIG = {"thread_id": "t"}


def test_what_a_node_writes_is_there_when_its_event_is_seen(runner: Runner, ledger: Ledger) -> None:
    graph = compiled(runner, ("a", writing(runner, "a")), ("b", writing(runner, "b")))
    seen = []
    runner.watch(lambda _: seen.append(ledger.entries), graph, {"n": 0}, CONFIG)
    assert seen == [["a"], ["a", "b"]]


def test_nobody_is_warned_of_what_is_right(runner: Runner, ledger: Ledger) -> None:
    """SQLAlchemy warns of a rollback after the end; as an error that was suppressed, here and nowhere else."""
    graph = compiled(runner, ("a", writing(runner, "a")), ("b", writing(runner, "b")))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        runner.invoke(graph, {"n": 0}, CONFIG)
    assert [str(one.message) for one in said if "deassociated" in str(one.message)] == []


def test_a_node_that_fails_leaves_nothing_and_writes_once_when_it_is_continued(runner: Runner, ledger: Ledger) -> None:
    broken = [True]

    def fail() -> None:
        if broken:
            raise OSError("down")

    graph = compiled(runner, ("a", writing(runner, "a", fail)))
    with pytest.raises(OSError, match="down"):
        runner.invoke(graph, {"n": 0}, CONFIG)
    assert ledger.entries == []
    broken.clear()
    assert runner.invoke(graph, None, CONFIG)["log"] == ["a"]
    assert ledger.entries == ["a"]


def test_each_retry_begins_anew(runner: Runner, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    left = [1, 2]

    def fail() -> None:
        if left:
            left.pop()
            raise ConnectionError("busy")

    policy = RetryPolicy(initial_interval=0.0, jitter=False)
    graph = compiled(runner, ("a", writing(runner, "a", fail)), retry_policy=policy)
    assert runner.invoke(graph, {"n": 0}, CONFIG)["log"] == ["a"]
    assert ledger.entries == ["a"]


def test_an_update_that_is_refused_takes_the_writes_with_it(runner: Runner, ledger: Ledger) -> None:
    node = writing(runner, "a")

    def plain(state: State, runtime: Runtime[Any]) -> dict[str, Any]:
        node(state, runtime)
        return {"n": object()}

    async def refused(state: State, runtime: Runtime[Any]) -> dict[str, Any]:
        await node(state, runtime)
        return {"n": object()}

    graph = compiled(runner, ("a", refused if runner.way == "async" else plain))
    with pytest.raises(TypeError, match="cannot be stored"):
        runner.invoke(graph, {"n": 0}, CONFIG)
    assert ledger.entries == []


def test_a_question_takes_the_writes_back_until_it_is_answered(runner: Runner, ledger: Ledger) -> None:
    graph = compiled(runner, ("a", writing(runner, "a", lambda: interrupt("sure?"))))
    assert "__interrupt__" in runner.invoke(graph, {"n": 0}, CONFIG)
    assert ledger.entries == []
    assert runner.invoke(graph, Command(resume="yes"), CONFIG)["log"] == ["a"]
    assert ledger.entries == ["a"]


def test_parallel_nodes_each_have_their_own(runner: Runner, ledger: Ledger) -> None:
    """On SQLite one after the other; a sibling that finishes meanwhile is held back and not stuck."""
    nodes = [(name, writing(runner, name)) for name in "abcdef"]
    plain = [(name, runner.node(lambda state, name=name: {"log": [name]})) for name in "ghij"]
    graph = compiled(runner, *nodes, *plain, parallel=True)
    assert runner.invoke(graph, {"n": 0}, CONFIG)["log"] == list("abcdefghij")
    assert ledger.entries == list("abcdef")
    assert graph.verify(CONFIG).ok


def test_a_sibling_that_finishes_while_a_transaction_is_open_waits_for_it(runner: Runner, ledger: Ledger) -> None:
    if runner.way == "async":
        pytest.skip("async siblings take turns by themselves: see the test above")
    opened, finished = threading.Event(), threading.Event()

    def sibling(state: State) -> dict[str, Any]:
        assert opened.wait(20)
        finished.set()
        return {"log": ["sibling"]}

    def then() -> None:
        opened.set()
        assert finished.wait(20)

    graph = compiled(runner, ("a", writing(runner, "a", then)), ("sibling", sibling), parallel=True)
    assert runner.invoke(graph, {"n": 0}, CONFIG)["log"] == ["a", "sibling"]
    assert ledger.entries == ["a"]


def test_one_of_several_that_fails_takes_only_its_own_writes_back(runner: Runner, ledger: Ledger) -> None:
    broken = [True]

    def fail() -> None:
        if broken:
            raise OSError("down")

    both = threading.Barrier(2)
    meet = (lambda: None) if runner.way == "async" else (lambda: both.wait(20) and None)
    graph = compiled(
        runner, ("a", writing(runner, "a", before=meet)), ("b", writing(runner, "b", fail, meet)), parallel=True
    )
    with pytest.raises(OSError, match="down"):
        runner.invoke(graph, {"n": 0}, CONFIG)
    first = ledger.entries
    assert first in ([], ["a"])  # under asyncio it may not have begun when its sibling failed
    broken.clear()
    both.abort()
    graph = compiled(runner, ("a", writing(runner, "a")), ("b", writing(runner, "b")), parallel=True)
    assert runner.invoke(graph, None, CONFIG)["log"] == ["a", "b"]
    assert ledger.entries == ["a", "b"]


def test_a_map_of_writers(runner: Runner, ledger: Ledger) -> None:
    def plain(state: int, runtime: Runtime[Any]) -> dict[str, Any]:
        write(runtime.connection, str(state))
        return {"log": [str(state)]}

    async def node(state: int, runtime: Runtime[Any]) -> dict[str, Any]:
        write(await runtime.aconnection(), str(state))
        return {"log": [str(state)]}

    builder = StateGraph(State)
    builder.add_node("a", node if runner.way == "async" else plain)
    builder.add_conditional_edges(START, lambda state: [Send("a", n) for n in range(20)], ["a"])
    graph = runner.compile(builder)
    runner.invoke(graph, {"n": 0}, CONFIG)
    assert ledger.entries == sorted(map(str, range(20)))


def test_a_task_that_a_node_calls_has_its_own(runner: Runner, ledger: Ledger) -> None:
    fails = [True]
    called = []

    @task
    def pay(what: str) -> str:
        called.append(what)
        write(get_runtime().connection, what)
        return what

    @task
    async def apay(what: str) -> str:
        called.append(what)
        write(await get_runtime().aconnection(), what)
        return what

    def plain(state: State) -> dict[str, Any]:
        first, second = pay("x"), pay("y")
        log = [first.result(), second.result()]
        if fails:
            raise OSError("down")
        return {"log": log}

    async def node(state: State) -> dict[str, Any]:
        log = list(await asyncio.gather(apay("x"), apay("y")))
        if fails:
            raise OSError("down")
        return {"log": log}

    graph = compiled(runner, ("a", node if runner.way == "async" else plain))
    with pytest.raises(OSError, match="down"):
        runner.invoke(graph, {"n": 0}, CONFIG)
    assert ledger.entries == ["x", "y"]
    fails.clear()
    assert runner.invoke(graph, None, CONFIG)["log"] == ["x", "y"]
    assert (ledger.entries, sorted(called)) == (["x", "y"], ["x", "y"])


def test_a_node_that_never_asks_opens_nothing(runner: Runner, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: SqlStore) -> None:
        raise AssertionError("a transaction was begun")

    monkeypatch.setattr(SqlStore, "transaction", refuse)
    graph = compiled(runner, ("a", runner.node(lambda state: {"n": 1})), ("b", runner.node(lambda state: {"n": 2})))
    assert runner.invoke(graph, {"n": 0}, CONFIG)["n"] == 2


def test_the_consumer_goes_while_a_transaction_is_open(
    runner: Runner, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On SQLite nothing else can be written then: the row of a sibling that is not tried again has to come later."""
    waiting, called = threading.Event(), list[str]()

    def delay(job: Any) -> float:
        waiting.set()
        return 1000

    def flaky(state: State) -> dict[str, Any]:
        called.append("flaky")
        if called == ["flaky"]:
            raise ConnectionError("the first time")
        return {"log": ["flaky"]}

    def ready(state: State, runtime: Runtime[Any], writer: Any) -> dict[str, Any]:
        write(runtime.connection, "a")
        writer("written")
        return {"log": ["a"]}

    async def holds(state: State, runtime: Runtime[Any], writer: Any) -> dict[str, Any]:
        await until(waiting)
        write(await runtime.aconnection(), "a")
        writer("written")
        return {"log": ["a"]}

    monkeypatch.setattr(drivers, "delay_of", delay)
    builder = StateGraph(State).add_node("a", holds if runner.way == "async" else runner.waiting(waiting, ready))
    builder.add_node("b", runner.node(flaky), retry_policy=RetryPolicy())
    graph = runner.compile(builder.add_edge(START, "a").add_edge(START, "b"))
    assert runner.first(1, graph, {}, CONFIG, stream_mode="custom") == ["written"]
    assert ledger.entries == ["a"]
    assert [bool(task.error) for task in runner.get_state(graph, CONFIG).tasks] == [False, True]
    assert runner.invoke(graph, None, CONFIG)["log"] == ["a", "flaky"]
    assert graph.verify(CONFIG).ok


@pytest.mark.parametrize("beside", [False, True])
def test_a_node_is_cancelled_while_its_transaction_begins(
    database_url: str, ledger: Ledger, beside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It hears of it when it awaits next, and what was begun is rolled back."""
    nodes: list[asyncio.Task[Any]] = []
    begin = Transactions.begin

    def beginning(self: Transactions) -> Transaction:
        while len(nodes) == 1 and not nodes[0].cancelling():
            time.sleep(0.001)
        return begin(self)

    async def node(state: State, runtime: Runtime[Any]) -> dict[str, Any]:
        task = asyncio.current_task()
        assert task is not None
        nodes.append(task)
        write(await runtime.aconnection(), "a")
        if len(nodes) == 1:
            await asyncio.Event().wait()
        return {"log": ["a"]}

    monkeypatch.setattr(Transactions, "begin", beginning)
    builder = StateGraph(State).add_edge(START, "a")
    builder.add_node("a", node, timeout=0.05, retry_policy=RetryPolicy(initial_interval=0, retry_on=NodeTimeoutError))
    if beside:
        builder.add_node("b", lambda state: {"log": ["b"]}).add_edge(START, "b")
    with Runner("async", database_url) as runner:
        graph = runner.compile(builder)
        assert runner.invoke(graph, {}, CONFIG)["log"] == ["a", "b"][: 1 + beside]
        assert graph.verify(CONFIG).ok
    assert len(nodes) == 2
    assert ledger.entries == ["a"]


@pytest.mark.parametrize("how", ["commit", "rollback", "close"])
def test_a_node_may_not_end_the_transaction(runner: Runner, ledger: Ledger, how: str) -> None:
    def plain(state: State, runtime: Runtime[Any]) -> dict[str, Any]:
        write(runtime.connection, "a")
        getattr(runtime.connection, how)()
        return {"n": 1}

    async def node(state: State, runtime: Runtime[Any]) -> dict[str, Any]:
        write(await runtime.aconnection(), "a")
        getattr(await runtime.aconnection(), how)()
        return {"n": 1}

    graph = compiled(runner, ("a", node if runner.way == "async" else plain))
    with pytest.raises(CallError, match="savepoint"):
        runner.invoke(graph, {"n": 0}, CONFIG)
    assert ledger.entries == []
    assert runner.get_state(graph, CONFIG).next == ("a",)


def test_a_savepoint_is_the_nodes_own(runner: Runner, ledger: Ledger) -> None:
    def use(connection: Connection) -> None:
        with connection.begin_nested():
            write(connection, "kept")
        with connection.begin_nested() as inner:
            write(connection, "dropped")
            inner.rollback()

    def plain(state: State, runtime: Runtime[Any]) -> dict[str, Any]:
        use(runtime.connection)
        return {"n": 1}

    async def node(state: State, runtime: Runtime[Any]) -> dict[str, Any]:
        use(await runtime.aconnection())
        return {"n": 1}

    runner.invoke(compiled(runner, ("a", node if runner.way == "async" else plain)), {"n": 0}, CONFIG)
    assert ledger.entries == ["kept"]


def test_who_was_overtaken_commits_nothing(runner: Runner, ledger: Ledger, database_url: str) -> None:
    """A zombie: somebody else has claimed the thread while the node ran. Its writes must not be committed either."""
    if database_url.startswith("sqlite"):
        pytest.skip("on SQLite nobody can claim the thread while the node's transaction is open")

    def overtake() -> None:
        with ledger.engine.begin() as connection:
            connection.execute(text("UPDATE threads SET epoch = epoch + 1"))

    graph = compiled(runner, ("a", writing(runner, "a", overtake)))
    with pytest.raises(FencedError):
        runner.invoke(graph, {"n": 0}, CONFIG)
    assert ledger.entries == []


def test_an_async_node_awaits_its_connection(database_url: str, ledger: Ledger) -> None:
    async def node(state: State, runtime: Runtime[Any]) -> dict[str, Any]:
        write(runtime.connection, "a")
        return {}

    with Runner("async", database_url) as runner:
        graph = compiled(runner, ("a", node), ("b", node), parallel=True)
        with pytest.raises(CallError, match="aconnection"):
            runner.invoke(graph, {"n": 0}, CONFIG)


def test_without_a_database_there_is_none() -> None:
    graph = StateGraph(State).add_node("a", lambda state, runtime: {"n": runtime.connection}).add_edge(START, "a")
    with pytest.raises(CallError, match="without a database"):
        graph.compile(False).invoke({"n": 0})


def test_calls_beside_an_open_transaction(runner: Runner, ledger: Ledger, database_url: str) -> None:
    """On SQLite their rows would have to wait for a commit that waits for them: refused. Postgres can."""

    @task
    def call() -> int:
        return 1

    def plain(state: State, runtime: Runtime[Any]) -> dict[str, Any]:
        write(runtime.connection, "a")
        return {"n": call().result()}

    async def node(state: State, runtime: Runtime[Any]) -> dict[str, Any]:
        write(await runtime.aconnection(), "a")
        return {"n": await call()}

    graph = compiled(runner, ("a", node if runner.way == "async" else plain))
    if database_url.startswith("sqlite"):
        with pytest.raises(CallError, match="call it before"):
            runner.invoke(graph, {"n": 0}, CONFIG)
        assert ledger.entries == []
    else:
        assert runner.invoke(graph, {"n": 0}, CONFIG)["n"] == 1
        assert ledger.entries == ["a"]


def test_a_lost_connection_is_an_error_and_the_node_runs_again(
    runner: Runner, ledger: Ledger, database_url: str
) -> None:
    if database_url.startswith("sqlite"):
        pytest.skip("a file has no connection to lose")
    kills = [True]

    def kill() -> None:
        if kills:
            kills.clear()
            with ledger.engine.begin() as connection:
                connection.execute(
                    text(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                        " WHERE state = 'idle in transaction'"
                        " AND application_name = current_setting('application_name')"
                    )
                )

    graph = compiled(runner, ("a", writing(runner, "a", kill)))
    with pytest.raises(StoreError):
        runner.invoke(graph, {"n": 0}, CONFIG)
    assert ledger.entries == []
    assert runner.invoke(graph, None, CONFIG)["log"] == ["a"]
    assert ledger.entries == ["a"]


KILLED = """
    import os, signal, sys
    from typing import TypedDict
    from sqlalchemy import text
    from durable_graph import START, StateGraph

    class State(TypedDict, total=False):
        n: int

    where = sys.argv[2]

    def node(state, runtime):
        n = state.get("n", 0)
        runtime.connection.execute(text("INSERT INTO ledger (what) VALUES (:what)"), {"what": str(n)})
        if where == "in the node" and n == 2 and runtime.attempt == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"n": n + 1}

    graph = (
        StateGraph(State).add_node("a", node).add_edge(START, "a")
        .add_conditional_edges("a", lambda state: "a" if state["n"] < 5 else "__end__").compile(sys.argv[1])
    )
    start = None if graph.get_state({"thread_id": "t"}).created_at else {"n": 0}
    for event in graph.stream(start, {"thread_id": "t"}):
        if where == "on the event" and event["a"]["n"] == 3:
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize("where", ["in the node", "on the event"])
def test_a_killed_process_neither_loses_nor_doubles_a_write(
    ledger: Ledger, database_url: str, where: str, tmp_path: Any
) -> None:
    script = tmp_path / "killed.py"
    script.write_text(textwrap.dedent(KILLED))
    command = [sys.executable, str(script), database_url]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.run([*command, where], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert ledger.entries == (["0", "1"] if where == "in the node" else ["0", "1", "2"])
    subprocess.run([*command, "nowhere"], env=environment, check=True)
    assert ledger.entries == ["0", "1", "2", "3", "4"]
