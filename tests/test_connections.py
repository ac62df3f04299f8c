"""A process has as many connections to Postgres as its URL says, whatever it does: counted in the server."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import pytest
from conftest import Script, connected, finished
from sqlalchemy import make_url, text
from test_store_contract import T, begin, row, steps

from durable_graph import START, CompiledGraph, Log, Runtime, StateGraph, StoreUnavailableError
from durable_graph.store import databases
from durable_graph.store.address import POOL_SIZE
from durable_graph.store.sql import SqlStore
from tests.graphs import PATIENCE, Calls, Runner, State, chain

MANY = 200  # threads of a graph at once


def sized(url: str, **options: str) -> str:
    return make_url(url).update_query_dict(options).render_as_string(hide_password=False)


def connections(url: str) -> int:
    """Of the test, which its connections have as their name; but for the one that asks."""
    name = make_url(url).query["application_name"]
    with connected(make_url(url).difference_update_query(["application_name"])) as connection:
        found = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s", [name]
        ).fetchone()
        assert found is not None
        return int(found[0])


def all_gone(url: str) -> bool:
    """A backend ends a moment after its client has left."""
    deadline = time.monotonic() + PATIENCE
    while connections(url):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


class Meeting:
    """Of all runs in the midst of their first node; the last one to come counts connections."""

    def __init__(self, url: str, size: int) -> None:
        self.most = 0
        self._url = url
        self._size = size
        self._come = 0
        self._all = threading.Event()
        self._lock = threading.Lock()

    def _last(self) -> bool:
        with self._lock:
            self._come += 1
            return self._come == self._size

    def _begin(self) -> None:
        if self._last():
            self.most = connections(self._url)
            self._all.set()

    def __call__(self, state: State) -> State:
        self._begin()
        assert self._all.wait(PATIENCE)
        return {"log": ["met"]}

    async def acall(self, state: State) -> State:
        self._begin()
        async with asyncio.timeout(PATIENCE):
            while not self._all.is_set():  # noqa: ASYNC110 - of threads
                await asyncio.sleep(0.01)
        return {"log": ["met"]}


def meeting_of(url: str, way: str, graph_url: str) -> tuple[Meeting, CompiledGraph[Any]]:
    meeting = Meeting(url, MANY)
    builder = StateGraph(State).add_node("meet", meeting if way == "sync" else meeting.acall)
    builder.add_node("end", lambda state: {"log": ["end"]}).add_edge(START, "meet").add_edge("meet", "end")
    return meeting, builder.compile(graph_url)


def invoke_all(graph: CompiledGraph[Any], way: str) -> list[Any]:
    configs = [{"configurable": {"thread_id": f"t{number}"}} for number in range(MANY)]
    if way == "sync":
        with ThreadPoolExecutor(MANY) as pool:
            return list(pool.map(lambda config: graph.invoke({"log": []}, config), configs))

    async def main() -> list[Any]:
        return await asyncio.gather(*(graph.ainvoke({"log": []}, config) for config in configs))

    return asyncio.run(main())


@pytest.mark.parametrize("way", ["sync", "async"])
@pytest.mark.parametrize("size", [None, 2])
def test_many_runs_at_once_share_few_connections(postgres_url: str, way: str, size: int | None) -> None:
    meeting, graph = meeting_of(
        postgres_url, way, postgres_url if size is None else sized(postgres_url, pool_size=str(size))
    )
    with graph:
        assert invoke_all(graph, way) == [{"log": ["met", "end"]}] * MANY
        assert 0 < meeting.most <= (size or POOL_SIZE)
        assert 0 < connections(postgres_url) <= (size or POOL_SIZE)  # they are kept, so that is the most there were
        assert len(graph.threads(status="finished")) == MANY
    assert all_gone(postgres_url)


def test_nodes_with_a_transaction_have_as_many_again(postgres_url: str) -> None:
    def write(state: State, runtime: Runtime) -> State:
        runtime.connection.execute(text("SELECT 1"))
        return {"log": ["wrote"]}

    graph = StateGraph(State).add_node(write).add_edge(START, "write").compile(sized(postgres_url, pool_size="3"))
    with graph:
        assert len(invoke_all(graph, "sync")) == MANY
        assert 3 < connections(postgres_url) <= 6
    assert all_gone(postgres_url)


# --- several graphs -----------------------------------------------------------------------------


@contextmanager
def stores(url: str, number: int) -> Iterator[list[SqlStore]]:
    with ExitStack() as stack:
        yield [stack.enter_context(closing(SqlStore(url))) for _ in range(number)]


def test_graphs_on_one_database_share_connections(postgres_url: str) -> None:
    url, calls = sized(postgres_url, pool_size="2"), Calls()
    with Runner("sync", url) as run, ThreadPoolExecutor(20) as pool:
        graphs = [run.compile(chain(run, calls), name=f"graph-{number}") for number in range(20)]
        configs = [{"configurable": {"thread_id": f"t{number}"}} for number in range(20)]
        list(pool.map(lambda graph, config: graph.invoke({"log": []}, config), graphs, configs))
        assert connections(postgres_url) == 2
        for graph in graphs[1:]:
            graph.close()
        assert connections(postgres_url) == 2  # the last one has them
        assert graphs[0].invoke({"log": []}, configs[1]) == {"log": [*"abc", *"abc"]}
    assert all_gone(postgres_url)
    assert databases._shared == {}


def test_another_url_is_another_pool(postgres_url: str) -> None:
    with stores(postgres_url, 1) as (first,), stores(sized(postgres_url, pool_size="3"), 1) as (second,):
        begin(first, steps=1)
        assert steps(second.rows(T)) == [0]
        assert connections(postgres_url) == 2


def test_who_is_forgotten_gives_back(postgres_url: str) -> None:
    store, other = SqlStore(postgres_url), SqlStore(postgres_url)
    begin(store, steps=1)
    assert steps(other.rows(T)) == [0]
    del store
    gc.collect()
    assert steps(other.rows(T)) == [0]
    assert connections(postgres_url) == 1
    del other
    gc.collect()
    assert all_gone(postgres_url)


def test_a_lost_connection_is_lost_for_all_and_replaced(postgres_url: str) -> None:
    with stores(postgres_url, 3) as three:
        begin(three[0], steps=1)
        for store in three:
            assert steps(store.rows(T)) == [0]
        with stores(postgres_url, 1) as (late,):  # opens what is dead
            for store in (three[0], three[1], late):
                cut_off(postgres_url)
                store.append([row(len(steps(store.rows(T))))])
        assert steps(three[2].rows(T)) == [0, 1, 2, 3]
        assert connections(postgres_url) == 1
    assert all_gone(postgres_url)


def cut_off(url: str) -> None:
    with connected(make_url(url)) as connection:
        name = make_url(url).query["application_name"]
        end = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = %s AND pid <> %s"
        connection.execute(end, [name, connection.info.backend_pid])


def test_who_cannot_open_takes_nothing_from_the_others(postgres_url: str) -> None:
    with stores(postgres_url, 2) as (first, second):
        begin(first, steps=1)
        with connected(make_url(postgres_url)) as connection:
            connection.execute("UPDATE durable_graph_version SET version_num = '9999'")
        with pytest.raises(Exception, match="pip install --upgrade"):
            second.threads()
        assert steps(first.rows(T)) == [0]
        with pytest.raises(StoreUnavailableError), Log(f"{postgres_url}&connect_timeout=soon") as log:
            log.threads()


FORKED = """
import os, sys
from durable_graph import Log
one, two = Log(sys.argv[1]), Log(sys.argv[1])
assert one.threads() == two.threads() == []
pid = os.fork()
if pid == 0:
    assert one.threads() == two.threads() == []
    assert one._store._database is two._store._database
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
assert one.threads() == two.threads() == []
one.close()
assert two.threads() == []
print("both went on")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork() here")
def test_a_child_process_has_its_own(postgres_url: str, script: Script) -> None:
    assert finished(script(FORKED, postgres_url)) == "both went on\n"
    assert all_gone(postgres_url)
