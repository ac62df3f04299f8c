"""Law 12 under asyncio: a run may be cancelled at any moment. It ends, nothing is left, and the thread goes on.

A graph with one or all of what a task can be at, and a moment: so many turns of the event loop after the start. What
would hang is ended by the time limit of the test.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest
from test_stopping import check_idle

from durable_graph import START, RetryPolicy, Runtime, StateGraph, get_stream_writer, task
from tests.graphs import Runner, State, new_thread

AT_ONCE = RetryPolicy(initial_interval=0.001, jitter=False)
MODES = ["updates", "values", "events", "custom", "messages"]


class Nodes:
    """All that a task can be at. What is to fail the first time does so once, in whatever run that is."""

    def __init__(self) -> None:
        self.freed = asyncio.Event()
        self._failed: set[str] = set()

    def fail_once(self, name: str) -> None:
        if name not in self._failed:
            self._failed.add(name)
            raise ConnectionError(name)

    async def waits(self, state: State) -> State:
        await self.freed.wait()
        return {"log": ["waits"]}

    async def retried(self, state: State) -> State:
        self.fail_once("retried")
        return {"log": ["retried"]}

    async def calls(self, state: State) -> State:
        @task
        async def quick() -> int:
            return 1

        @task
        def plain() -> int:
            return 2

        @task(retry_policy=AT_ONCE)
        async def flaky() -> int:
            self.fail_once("flaky")
            return 3

        @task
        async def endless() -> None:
            await asyncio.Event().wait()

        results = await asyncio.gather(quick(), plain(), flaky())
        with suppress(TimeoutError):
            await asyncio.wait_for(endless(), 0.001)
        return {"log": ["calls"] if results == [1, 2, 3] else []}

    def plain_calls(self, state: State) -> State:
        @task
        async def quick() -> int:
            return 1

        @task
        def plain() -> int:
            return 2

        calls = [quick(), plain()]
        return {"log": ["plain_calls"] if [call.result() for call in calls] == [1, 2] else []}

    async def talks(self, state: State) -> State:
        for number in range(3):
            get_stream_writer()(number)
            await asyncio.sleep(0)
        return {"log": ["talks"]}

    def plain_talks(self, state: State) -> State:
        for number in range(3):
            get_stream_writer()(number)
        return {"log": ["plain_talks"]}

    async def writes(self, state: State, runtime: Runtime) -> State:
        await runtime.aconnection()
        await asyncio.sleep(0)
        return {"log": ["writes"]}

    def plain_writes(self, state: State, runtime: Runtime) -> State:
        _ = runtime.connection
        return {"log": ["plain_writes"]}

    def below(self) -> Any:
        async def first(state: State) -> State:
            return {"log": ["below"]}

        def second(state: State) -> State:
            return {"log": ["more below"]}

        builder = StateGraph(State).add_node("first", first).add_node("second", second)
        return builder.add_edge(START, "first").add_edge(START, "second").compile()


KINDS = ["waits", "retried", "calls", "plain_calls", "talks", "plain_talks", "writes", "plain_writes", "below"]


def drawn(kinds: Sequence[str], nodes: Nodes) -> StateGraph[State]:
    builder = StateGraph(State)
    for kind in kinds:
        node = nodes.below() if kind == "below" else getattr(nodes, kind)
        builder.add_node(kind, node, retry_policy=AT_ONCE if kind == "retried" else None).add_edge(START, kind)
    return builder.add_node("end", lambda state: {"log": ["end"]}).add_edge(list(kinds), "end")


async def broken_off(graph: Any, config: Any, modes: list[str], turns: int) -> None:
    async def consume() -> None:
        async for _ in graph.astream({"log": []}, config, stream_mode=modes):
            pass

    consumer = asyncio.create_task(consume())
    for _ in range(turns):
        await asyncio.sleep(0)
    consumer.cancel()
    await asyncio.wait([consumer])
    assert consumer.cancelled() or consumer.exception() is None


async def continued(graph: Any, config: Any, nodes: Nodes) -> Any:
    nodes.freed = asyncio.Event()
    nodes.freed.set()
    state = await graph.aget_state(config)
    if state.created_at is None:
        return await graph.ainvoke({"log": []}, config)
    return await graph.ainvoke(None, config) if state.next else state.values


@pytest.mark.parametrize("seed", range(4))
def test_cancelled_at_any_moment(database_url: str, seed: int) -> None:
    check(database_url, seed, 20)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 104))
def test_cancelled_at_many_moments(database_url: str, seed: int) -> None:
    check(database_url, seed, 150)


def check(url: str, seed: int, runs: int) -> None:
    chance = random.Random(seed)
    for _ in range(runs):
        kinds = chance.sample(KINDS, 1 if chance.random() < 0.3 else chance.randint(2, len(KINDS)))
        modes, turns = chance.sample(MODES, chance.randint(1, 2)), int(10 ** chance.uniform(0, 3.5))
        config, nodes = new_thread(), Nodes()
        with Runner("async", url) as run:
            graph = run.compile(drawn(kinds, nodes))
            asyncio.run(broken_off(graph, config, modes, turns))
            check_idle(graph, url)
            values = asyncio.run(continued(graph, config, nodes))
            expected = {*kinds, "end"} | ({"more below"} if "below" in kinds else set())
            assert sorted(values["log"]) == sorted(expected), (kinds, modes, turns)
            assert graph.verify(config).ok
            check_idle(graph, url)
