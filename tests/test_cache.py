"""Caching: what nodes and @tasks returned is taken over instead of calling them again, and the log stays the truth."""

from __future__ import annotations

import asyncio
import logging
import operator
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from conftest import engine_url
from sqlalchemy import create_engine, text

from durable_graph import (
    END,
    START,
    ArgumentError,
    CachePolicy,
    Command,
    Entry,
    InMemoryCache,
    InvalidUpdateError,
    MessagesState,
    NodeCodeError,
    Overwrite,
    RetryPolicy,
    Send,
    StateGraph,
    UnstorableValueError,
    drivers,
    entrypoint,
    get_stream_writer,
    interrupt,
    task,
)
from durable_graph.cache import Forgiving
from durable_graph.core.caching import Caching
from durable_graph.core.channels import message_field
from durable_graph.core.history import load
from durable_graph.core.rows import Call
from durable_graph.core.run import Run
from durable_graph.store import Cache
from durable_graph.store.memory import MemoryStore
from durable_graph.store.sql import PURGE_ROWS, SqlStore
from tests.graphs import MODES, PATIENCE, WAYS, Runner, State, new_thread, until
from tests.simulator import Died, Simulator

MARK = {"__metadata__": {"cached": True}}


@pytest.fixture(params=WAYS)
def run(request: pytest.FixtureRequest, database_url: str) -> Iterator[Runner]:
    with Runner(request.param, database_url) as runner:
        yield runner


@pytest.fixture(params=WAYS)
def here(request: pytest.FixtureRequest) -> Iterator[Runner]:
    """Without a log."""
    with Runner(request.param, False) as runner:
        yield runner


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1_700_000_000.0]
    monkeypatch.setattr(drivers, "clock", lambda: now[0])
    return now


class Fetch:
    """A node that counts its calls."""

    __name__ = "fetch"

    def __init__(self, answer: Callable[[Any], Any] = lambda state: {"log": [f"fetched {state['n']}"]}) -> None:
        self.answer = answer
        self.inputs: list[Any] = []

    def __call__(self, state: Any) -> Any:
        self.inputs.append(state["n"])
        return self.answer(state)


def drawing(run: Runner, fetch: Fetch, policy: CachePolicy[Any] | None = None, **more: Any) -> StateGraph[State]:
    builder = StateGraph(State)
    builder.add_node("fetch", run.node(fetch.__call__), cache_policy=policy or CachePolicy(), **more)
    return builder.add_edge(START, "fetch")


# --- a hit ------------------------------------------------------------------------------------


def test_a_node_is_not_called_twice_for_one_input(run: Runner) -> None:
    fetch = Fetch()
    graph = run.compile(drawing(run, fetch), cache=True)
    first, again, other = new_thread(), new_thread(), new_thread()
    assert run.stream(graph, {"n": 1}, first) == [{"fetch": {"log": ["fetched 1"]}}]
    assert run.stream(graph, {"n": 1}, again) == [{"fetch": {"log": ["fetched 1"]}, **MARK}]
    assert run.stream(graph, {"n": 2}, other) == [{"fetch": {"log": ["fetched 2"]}}]
    assert fetch.inputs == [1, 2]
    assert run.get_state(graph, again).values == {"n": 1, "log": ["fetched 1"]}


def test_a_hit_is_a_row_like_any_other_and_says_what_it_is(run: Runner) -> None:
    graph = run.compile(drawing(run, Fetch()), cache=True)
    first, again = new_thread(), new_thread()
    run.invoke(graph, {"n": 1}, first)
    run.invoke(graph, {"n": 1}, again)
    *_, called = run.replay(graph, first, stream_mode="events")
    *_, hit = run.replay(graph, again, stream_mode="events")
    assert (called.kind, called.node, called.update, called.values) == (hit.kind, hit.node, hit.update, hit.values)
    assert "cached" not in called.metadata
    assert hit.metadata["cached"] is True
    assert run.call(graph, "verify", again).ok
    assert run.stream(graph, {"n": 1}, new_thread(), stream_mode="tasks")[1] == {
        "id": "0.0", "name": "fetch", "error": None, "result": {"log": ["fetched 1"]}, "interrupts": [], **MARK,
    }  # fmt: skip


@pytest.mark.parametrize("mode", [*MODES, [*MODES]], ids=str)
def test_replay_shows_what_the_live_stream_showed(run: Runner, mode: Any) -> None:
    builder = drawing(run, Fetch()).add_edge("fetch", "b")
    builder.add_node("b", run.node(lambda state: get_stream_writer()("b works")))
    graph = run.compile(builder, cache=True)
    run.invoke(graph, {"n": 1}, new_thread())
    config = new_thread()
    live = run.stream(graph, {"n": 1}, config, stream_mode=mode)
    assert live
    assert run.replay(graph, config, stream_mode=mode)[-len(live) :] == live


def test_routers_are_asked_again_and_see_their_own_state(run: Runner) -> None:
    """What a router looks at need not be part of what the node was given."""

    class Part(TypedDict):
        n: int

    fetch, asked = Fetch(), []
    builder = StateGraph(State)
    builder.add_node("fetch", run.node(fetch.__call__), cache_policy=CachePolicy(), input_schema=Part)
    builder.add_node("b", lambda state: {"log": ["b"]})

    def route(state: State) -> str:
        asked.append(state["log"])
        return "b" if "go" in state["log"] else END

    builder.add_conditional_edges("fetch", run.node(route))
    graph = run.compile(builder.add_edge(START, "fetch"), cache=True)
    assert run.invoke(graph, {"n": 1, "log": ["stop"]}, new_thread())["log"] == ["stop", "fetched 1"]
    assert run.invoke(graph, {"n": 1, "log": ["go"]}, new_thread())["log"] == ["go", "fetched 1", "b"]
    assert (fetch.inputs, asked) == ([1], [["stop", "fetched 1"], ["go", "fetched 1"]])


def test_commands_overwrites_and_sends_come_back_as_they_were(run: Runner) -> None:
    def answer(state: Any) -> Any:
        return [
            {"log": Overwrite(["new"])},
            Command(update=[("n", 7)], goto=["a", Send("b", {"x": (1, {2})}), END]),
        ]

    fetch, sent = Fetch(answer), []
    builder = drawing(run, fetch)
    builder.add_node("a", run.node(lambda state: {"log": ["a"]}))
    builder.add_node("b", run.node(lambda arg: sent.append(arg) or {"log": ["b"]}))
    graph = run.compile(builder, cache=True)
    first, again = (run.invoke(graph, {"n": 1, "log": ["old"]}, new_thread()) for _ in range(2))
    assert first == again == {"n": 7, "log": ["new", "a", "b"]}
    assert fetch.inputs == [1]
    assert sent == [{"x": (1, {2})}] * 2


def test_parallel_tasks_with_one_input(run: Runner) -> None:
    """Of those that begin together each is called, as in LangGraph; the next time none is."""
    fetch = Fetch(lambda state: {"log": [state["n"]]})
    builder = StateGraph(State)
    builder.add_node("fetch", run.node(fetch.__call__), cache_policy=CachePolicy())
    builder.add_conditional_edges(START, lambda state: [Send("fetch", {"n": i // 2}) for i in range(60)])
    graph = run.compile(builder, cache=True)
    first = run.invoke(graph, {"n": 0}, new_thread())
    assert sorted(set(fetch.inputs)) == list(range(30))
    fetch.inputs.clear()
    assert run.invoke(graph, {"n": 0}, new_thread()) == first
    assert first["log"] == [i // 2 for i in range(60)]
    assert fetch.inputs == []


def test_custom_events_belong_to_calls(run: Runner) -> None:
    def fetch(state: Any, writer: Any) -> Any:
        writer("working")
        return {"log": ["done"]}

    builder = StateGraph(State).add_node("fetch", run.node(fetch), cache_policy=CachePolicy())
    graph = run.compile(builder.add_edge(START, "fetch"), cache=True)
    assert run.stream(graph, {"n": 1}, new_thread(), stream_mode="custom") == ["working"]
    assert run.stream(graph, {"n": 1}, new_thread(), stream_mode=["custom", "updates"]) == [
        ("updates", {"fetch": {"log": ["done"]}, **MARK})
    ]


def test_messages_get_ids_of_their_own_each_time(run: Runner) -> None:
    """The same answer twice in one thread is two messages, not one that replaces the other."""
    builder = StateGraph(MessagesState)
    calls: list[int] = []
    answer = run.node(lambda state: calls.append(1) or {"messages": [("assistant", "hello")]})
    builder.add_node("answer", answer, cache_policy=CachePolicy(key_func=lambda state: "always"))
    graph = run.compile(builder.add_edge(START, "answer"), cache=True)
    config = new_thread()
    for _ in range(3):
        run.invoke(graph, {"messages": [("user", "hi")]}, config)
    messages = run.get_state(graph, config).values["messages"]
    assert [message_field(message, "content") for message in messages] == ["hi", "hello"] * 3
    assert len({message_field(message, "id") for message in messages}) == 6
    assert calls == [1]


def test_what_a_consumer_does_to_a_hit_changes_nothing(run: Runner) -> None:
    graph = run.compile(drawing(run, Fetch()), cache=InMemoryCache())
    for _ in range(3):
        (chunk,) = run.stream(graph, {"n": 1}, new_thread())
        assert chunk["fetch"] == {"log": ["fetched 1"]}
        chunk["fetch"]["log"].append("scribble")


# --- keys -------------------------------------------------------------------------------------


def test_inputs_are_told_apart_by_value_and_type(here: Runner) -> None:
    fetch = Fetch(lambda state: {"log": [1]})
    builder = StateGraph(State).add_node("fetch", here.node(fetch.__call__), cache_policy=CachePolicy())
    inputs: list[Any] = [1, 1.0, True, "1", (1,), [1], {1}, {"a": 1, "b": 2}, {"a": {"y": 1, "x": 2}}, None, b"1"]
    same: list[Any] = [{"b": 2, "a": 1}, {"a": {"x": 2, "y": 1}}]
    builder.add_conditional_edges(START, lambda state: [Send("fetch", {"n": each}) for each in state["log"]])
    graph = here.compile(builder, cache=InMemoryCache())
    here.invoke(graph, {"log": inputs})
    assert len(fetch.inputs) == len(inputs)
    here.invoke(graph, {"log": inputs + same})
    assert len(fetch.inputs) == len(inputs)


@dataclass
class Order:
    n: int = 0
    remark: str = ""


@pytest.mark.parametrize("make", [str, lambda n: bytes([n])], ids=["text", "bytes"])
def test_a_key_func_takes_what_the_node_takes(run: Runner, make: Any) -> None:
    calls: list[Any] = []
    policy = CachePolicy(key_func=run.node(lambda order: make(order.n)))
    builder = StateGraph(Order).add_node("a", run.node(lambda order: calls.append(order) or None), cache_policy=policy)
    graph = run.compile(builder.add_edge(START, "a"), cache=True)
    for order in (Order(1, "x"), Order(1, "y"), Order(2, "x")):
        run.invoke(graph, order, new_thread())
    assert calls == [Order(1, "x"), Order(2, "x")]


def test_a_key_func_that_returns_something_else(run: Runner) -> None:
    graph = run.compile(drawing(run, Fetch(), CachePolicy(key_func=lambda state: 5)), cache=True)  # type: ignore[arg-type, return-value]
    with pytest.raises(NodeCodeError, match=r"'fetch'.*key_func of its cache policy returned int.*text or bytes"):
        run.invoke(graph, {"n": 1}, new_thread())


def test_a_key_func_that_raises_fails_its_task(run: Runner) -> None:
    fetch, config, broken = Fetch(), new_thread(), [True]

    def key(state: Any) -> str:
        if broken:
            raise LookupError("no key")
        return "k"

    graph = run.compile(drawing(run, fetch, CachePolicy(key_func=key)), cache=True)
    with pytest.raises(LookupError, match="no key"):
        run.invoke(graph, {"n": 1}, config)
    assert [task.error for task in run.get_state(graph, config).tasks] == ["builtins.LookupError: no key"]
    broken.clear()
    assert run.invoke(graph, None, config)["log"] == ["fetched 1"]


def test_an_input_that_makes_no_key_is_named(here: Runner) -> None:
    graph = here.compile(drawing(here, Fetch()), cache=InMemoryCache())
    with pytest.raises(UnstorableValueError, match="object") as raised:
        here.invoke(graph, {"n": object()})
    assert any("give its cache policy a key_func" in note for note in raised.value.__notes__)


def test_a_result_that_cannot_be_kept_is_named(here: Runner) -> None:
    graph = here.compile(drawing(here, Fetch(lambda state: {"n": object()})), cache=InMemoryCache())
    with pytest.raises(UnstorableValueError, match="object") as raised:
        here.invoke(graph, {"n": 1})
    assert any("has a cache policy" in note for note in raised.value.__notes__)


def test_graphs_and_nodes_do_not_mix_up(run: Runner) -> None:
    fetch = Fetch()
    node = run.node(fetch.__call__)
    builder = StateGraph(State).add_node("fetch", node, cache_policy=CachePolicy())
    builder.add_node("other", node, cache_policy=CachePolicy()).add_edge(START, "fetch").add_edge(START, "other")
    cache = InMemoryCache()
    run.invoke(run.compile(builder, cache=cache, name="one"), {"n": 1}, new_thread())
    assert fetch.inputs == [1, 1]
    run.invoke(run.compile(builder, cache=cache, name="two"), {"n": 1}, new_thread())
    assert fetch.inputs == [1, 1, 1, 1]
    run.invoke(run.compile(builder, cache=cache, name="one"), {"n": 1}, new_thread())
    assert fetch.inputs == [1, 1, 1, 1]


# --- for how long -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["own", "memory"])
def test_ttl(run: Runner, clock: list[float], kind: str) -> None:
    fetch = Fetch()
    graph = run.compile(drawing(run, fetch, CachePolicy(ttl=60)), cache=True if kind == "own" else InMemoryCache())
    for seconds, calls in ((0, 1), (59.9, 1), (0.2, 2), (59, 2)):
        clock[0] += seconds
        run.invoke(graph, {"n": 1}, new_thread())
        assert len(fetch.inputs) == calls, f"{seconds} s later"


@pytest.mark.parametrize("ttl", [0, -1, float("nan")])
def test_a_ttl_that_is_none(ttl: float) -> None:
    with pytest.raises(ArgumentError, match=r"ttl: .*not positive"):
        CachePolicy(ttl=ttl)


def test_clear_cache(run: Runner) -> None:
    fetch, other = Fetch(), Fetch()
    builder = drawing(run, fetch)
    builder.add_node("other", run.node(other.__call__), cache_policy=CachePolicy()).add_edge(START, "other")
    graph = run.compile(builder, cache=True)

    def calls() -> tuple[int, int]:
        run.invoke(graph, {"n": 1}, new_thread())
        return len(fetch.inputs), len(other.inputs)

    assert (calls(), calls()) == ((1, 1), (1, 1))
    run.call(graph, "clear_cache", ["other"])
    assert (calls(), calls()) == ((1, 2), (1, 2))
    run.call(graph, "clear_cache", [])
    assert calls() == (1, 2)
    run.call(graph, "clear_cache")
    assert (calls(), calls()) == ((2, 3), (2, 3))
    with pytest.raises(ArgumentError, match=r"there is no node 'x'.*fetch, other"):
        run.call(graph, "clear_cache", ["x"])


def test_without_a_cache_the_policy_does_nothing(run: Runner) -> None:
    fetch = Fetch()
    graph = run.compile(drawing(run, fetch), name="plain")
    assert [run.invoke(graph, {"n": 1}, new_thread()) for _ in range(2)] == [{"n": 1, "log": ["fetched 1"]}] * 2
    assert fetch.inputs == [1, 1]
    with pytest.raises(ArgumentError, match="'plain' was compiled without a cache"):
        run.call(graph, "clear_cache")


# --- what is not kept -------------------------------------------------------------------------


def test_errors_are_not_kept(run: Runner) -> None:
    def answer(state: Any) -> Any:
        if len(fetch.inputs) < 2:
            raise ConnectionError("down")
        return {"log": ["up"]}

    fetch = Fetch(answer)
    graph = run.compile(drawing(run, fetch), cache=True)
    with pytest.raises(ConnectionError):
        run.invoke(graph, {"n": 1}, new_thread())
    for _ in range(2):
        assert run.invoke(graph, {"n": 1}, new_thread())["log"] == ["up"]
    assert len(fetch.inputs) == 2


def test_the_result_of_a_retry_is_kept(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(state: Any) -> Any:
        if len(fetch.inputs) < 2:
            raise ConnectionError("down")
        return {"log": ["up"]}

    fetch = Fetch(answer)
    policy = RetryPolicy(initial_interval=0, jitter=False)
    graph = run.compile(drawing(run, fetch, retry_policy=policy), cache=True)
    for _ in range(3):
        assert run.invoke(graph, {"n": 1}, new_thread())["log"] == ["up"]
    assert len(fetch.inputs) == 2


def test_a_refused_result_is_not_kept(run: Runner) -> None:
    """Two nodes write one key: after a correction nothing old stands in the way, whichever came first."""
    wrong, fetch = [True], Fetch(lambda state: {"n": 5} if wrong else {"log": ["fetched"]})
    builder = drawing(run, fetch)
    b = run.node(lambda state: {"n": 6} if wrong else {"log": ["b"]})
    builder.add_node("b", b).add_edge(START, "b")
    config = new_thread()
    graph = run.compile(builder, cache=True)
    with pytest.raises(InvalidUpdateError, match="written twice"):
        run.invoke(graph, {"n": 1}, config)
    wrong.clear()
    finished = run.invoke(graph, None, config)
    assert "fetch" in nodes_called(run, graph, config)
    assert finished["n"] in (5, 6)


def nodes_called(run: Runner, graph: Any, config: Any) -> list[str]:
    return [event.node for event in run.replay(graph, config, stream_mode="events") if event.kind == "task"]


def at_most_10(old: int, new: int) -> int:
    if old + new > 10:
        raise ValueError("too much")
    return old + new


class Sum(TypedDict, total=False):
    n: int
    total: Annotated[int, at_most_10]


def test_a_task_that_has_failed_is_called_whatever_is_kept(run: Runner) -> None:
    """A reducer refuses what was kept by another thread: the corrected node is called, not the cache."""

    amount = [8]
    policy = CachePolicy(key_func=lambda state: "k")
    builder = StateGraph(Sum).add_node("add", run.node(lambda state: {"total": amount[0]}), cache_policy=policy)
    graph = run.compile(builder.add_edge(START, "add"), cache=True)
    run.invoke(graph, {"n": 1}, new_thread())
    config = new_thread()
    with pytest.raises(InvalidUpdateError, match="too much"):
        run.invoke(graph, {"total": 5}, config)
    amount[0] = 1
    assert run.invoke(graph, None, config)["total"] == 6


def test_an_answer_is_nobody_elses(run: Runner) -> None:
    """Differs from LangGraph, where the second thread would count as approved."""

    def approve(state: Any) -> Any:
        return {"log": [interrupt("may I?")]}

    builder = StateGraph(State).add_node("approve", run.node(approve), cache_policy=CachePolicy())
    graph = run.compile(builder.add_edge(START, "approve"), cache=True)
    for answer in ("yes", "no"):
        config = new_thread()
        assert "__interrupt__" in run.invoke(graph, {"n": 1}, config)
        assert run.invoke(graph, Command(resume=answer), config)["log"] == [answer]


def test_an_answer_in_a_subgraph_is_nobody_elses(run: Runner) -> None:
    below = StateGraph(State).add_node("ask", run.node(lambda state: {"log": [interrupt("may I?")]}))
    builder = StateGraph(State)
    builder.add_node("below", below.add_edge(START, "ask").compile(), cache_policy=CachePolicy())
    graph = run.compile(builder.add_edge(START, "below"), cache=True)
    for answer in ("yes", "no"):
        config = new_thread()
        assert "__interrupt__" in run.invoke(graph, {"n": 1}, config)
        assert run.invoke(graph, Command(resume=answer), config)["log"] == [answer]


# --- other code -------------------------------------------------------------------------------


class Wide(TypedDict, total=False):
    n: int
    extra: int


class Narrow(TypedDict, total=False):
    n: int


@pytest.mark.parametrize("case", ["key", "target", "type"])
def test_what_no_longer_fits_is_not_there(run: Runner, case: str) -> None:
    @dataclass
    class Price:
        euro: int

    calls: list[int] = []
    old: Any = {"key": {"extra": 1}, "target": Command(goto="gone"), "type": {"n": Price(1)}}[case]
    now: Any = {"n": 2}
    results = [old, now]

    def work(state: Any) -> Any:
        calls.append(1)
        return results[0]

    def graph(schema: Any, **settings: Any) -> Any:
        builder = StateGraph(schema).add_node("work", run.node(work), cache_policy=CachePolicy(key_func=lambda s: "k"))
        if settings.pop("more", False):
            builder.add_node("gone", lambda state: None)
        return run.compile(builder.add_edge(START, "work"), cache=True, **settings)

    run.invoke(graph(Wide, more=True, types=[Price]), {"n": 1}, new_thread())
    results.pop(0)
    for _ in range(2):
        assert run.invoke(graph(Narrow), {"n": 1}, new_thread()) == {"n": 2}
    assert len(calls) == 2, "the new result has taken the old one's place"


@pytest.mark.parametrize("value", [b"", b"{", b"[]", b"{}", b'{"updates": 1, "goto": []}', b'{"$": "new", "v": 1}'])
def test_garbage_is_not_there(run: Runner, value: bytes) -> None:
    class Garbage(InMemoryCache):
        def recall(self, namespace: str, key: str, *, now: str) -> bytes | None:
            return value

    graph = run.compile(drawing(run, Fetch()), cache=Garbage())
    assert run.stream(graph, {"n": 1}, new_thread()) == [{"fetch": {"log": ["fetched 1"]}}]


# --- where it is kept -------------------------------------------------------------------------


def test_the_graphs_database_keeps_it_over_a_restart(run: Runner) -> None:
    fetch = Fetch()
    for _ in range(2):
        graph = run.compile(drawing(run, fetch), cache=True)
        run.invoke(graph, {"n": 1}, new_thread())
        graph.close()
    assert fetch.inputs == [1]


def test_a_database_of_its_own(here: Runner, tmp_path: Path) -> None:
    fetch, url = Fetch(), f"sqlite:///{tmp_path / 'cache.db'}"
    for _ in range(2):
        graph = here.compile(drawing(here, fetch), cache=url)
        here.invoke(graph, {"n": 1})
        here.invoke(graph, {"n": 1})
        graph.close()
    assert fetch.inputs == [1]
    assert not list(tmp_path.glob("cache.db-wal")), "closing the graph has closed the cache"


def test_caches_that_are_none() -> None:
    builder = StateGraph(State).add_node("a", lambda state: None).add_edge(START, "a")
    with pytest.raises(ArgumentError, match=r"checkpointer=False says that there is none.*InMemoryCache"):
        builder.compile(False, cache=True)
    with pytest.raises(ArgumentError, match=r"no cache of this library.*recall, keep, forget and close"):
        builder.compile(False, cache={})  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="checkpointer=False"):
        entrypoint(False, cache=True)(lambda value: value)


def test_a_subgraph_takes_the_cache_of_the_graph_above(run: Runner) -> None:
    fetch, apart = Fetch(), Fetch()
    builder = StateGraph(State)
    builder.add_node("below", drawing(run, fetch).compile(name="below"))
    builder.add_node("apart", drawing(run, apart).compile(name="apart", cache=False))
    graph = run.compile(builder.add_edge(START, "below").add_edge("below", "apart"), cache=True)
    first, again = (run.invoke(graph, {"n": 1}, new_thread()) for _ in range(2))
    assert first == again
    assert (fetch.inputs, apart.inputs) == ([1], [1, 1])


class Failing(InMemoryCache):
    """Fails in one of its methods."""

    def __init__(self, method: str) -> None:
        super().__init__()
        self.asked: list[str] = []
        setattr(self, method, self.fail)

    def fail(self, *_: Any, **__: Any) -> Any:
        self.asked.append("x")
        raise ConnectionError("the cache is down")


@pytest.mark.parametrize("method", ["recall", "keep"])
def test_a_cache_that_fails_does_not_fail_the_run(run: Runner, method: str, caplog: pytest.LogCaptureFixture) -> None:
    cache, fetch = Failing(method), Fetch()
    builder = drawing(run, fetch)
    builder.add_conditional_edges("fetch", lambda state: "fetch" if len(state["log"]) < 3 else END)
    graph = run.compile(builder, cache=cache)
    with caplog.at_level(logging.WARNING, "durable_graph"):
        assert run.invoke(graph, {"n": 1}, new_thread())["log"] == ["fetched 1"] * 3
    assert caplog.messages == ["This run goes on without its cache (Failing): ConnectionError: the cache is down"]
    assert cache.asked == ["x"], "it is left alone from then on"
    assert len(fetch.inputs) == 3


def test_clearing_a_cache_that_fails_is_an_error(run: Runner) -> None:
    graph = run.compile(drawing(run, Fetch()), cache=Failing("forget"))
    with pytest.raises(ConnectionError):
        run.call(graph, "clear_cache")


def test_the_table_may_be_emptied_at_any_time(run: Runner) -> None:
    fetch = Fetch()
    graph = run.compile(drawing(run, fetch), cache=True)
    run.invoke(graph, {"n": 1}, new_thread())
    engine = create_engine(engine_url(str(run.url)))
    with engine.begin() as connection:
        assert connection.execute(text("DELETE FROM cache")).rowcount == 1
    engine.dispose()
    run.invoke(graph, {"n": 1}, new_thread())
    assert fetch.inputs == [1, 1]


def test_beside_a_node_with_a_transaction_of_its_own(run: Runner) -> None:
    """On SQLite that keeps all other writers waiting; the cache must not be one that waits for ever."""
    fetched = threading.Event()
    fetch = Fetch(lambda state: fetched.set() or {"log": ["fetched"]})

    def write(state: Any, runtime: Any) -> Any:
        runtime.connection.execute(text("SELECT 1"))
        assert fetched.wait(PATIENCE)
        return {"log": ["wrote"]}

    async def awrite(state: Any, runtime: Any) -> Any:
        (await runtime.aconnection()).execute(text("SELECT 1"))
        await until(fetched)
        return {"log": ["wrote"]}

    builder = drawing(run, fetch)
    builder.add_node("write", awrite if run.way == "async" else write).add_edge(START, "write")
    graph = run.compile(builder, cache=True)
    for _ in range(2):
        assert sorted(run.invoke(graph, {"n": 1}, new_thread())["log"]) == ["fetched", "wrote"]
    assert fetch.inputs == [1]


# --- @task and @entrypoint --------------------------------------------------------------------


def test_a_task_is_not_called_twice_for_the_same_arguments(run: Runner) -> None:
    calls: list[Any] = []

    @task(cache_policy=CachePolicy())
    def double(x: int, *, plus: int = 0) -> Any:
        calls.append((x, plus))
        return {"sum": (2 * x + plus,)}

    @entrypoint(str(run.url), cache=True, name="flow")
    def flow(x: int) -> Any:
        return [double(x).result(), double(x, plus=1).result()]

    expected = [{"sum": (2,)}, {"sum": (3,)}]
    with closing(flow):
        first, again = new_thread(), new_thread()
        assert run.call(flow, "invoke", 1, first) == run.call(flow, "invoke", 1, again) == expected
        assert calls == [(1, 0), (1, 1)]
        assert run.replay(flow, again)[:2] == [{"double": value, **MARK} for value in expected]
        double.clear_cache(flow)
        run.call(flow, "invoke", 1, new_thread())
        assert calls == [(1, 0), (1, 1)] * 2


def test_the_cache_of_tasks_can_be_given_by_itself() -> None:
    cache, calls = InMemoryCache(), []

    @task(cache_policy=CachePolicy(key_func=lambda x, y: str(x)))
    async def add(x: int, y: int) -> int:
        calls.append((x, y))
        return x + y

    @entrypoint(False, cache=cache)
    async def flow(x: int) -> int:
        return int(await add(x, len(calls)))

    async def main() -> list[int]:
        found = [await flow.ainvoke(1), await flow.ainvoke(1)]
        await add.aclear_cache(cache)
        return [*found, await flow.ainvoke(1)]

    assert asyncio.run(main()) == [1, 1, 2]


def test_a_workflow_is_not_called_twice_for_one_input(run: Runner) -> None:
    calls: list[Any] = []

    @entrypoint(str(run.url), cache=True, cache_policy=CachePolicy(), name="flow")
    def flow(x: Any) -> Any:
        calls.append(x)
        return {"answer": x}

    with closing(flow):
        config = new_thread()
        for _ in range(2):
            assert run.call(flow, "invoke", 1, config) == {"answer": 1}
        assert run.call(flow, "invoke", 2, config) == {"answer": 2}
        assert run.call(flow, "invoke", 1, new_thread()) == {"answer": 1}
        assert calls == [1, 2]
        run.call(flow, "clear_cache")
        run.call(flow, "invoke", 1, new_thread())
        assert calls == [1, 2, 1]


def test_what_a_workflow_saw_of_the_last_run_counts(here: Runner, tmp_path: Path) -> None:
    calls: list[Any] = []
    policy: CachePolicy[Any] = CachePolicy()

    @entrypoint(f"sqlite:///{tmp_path / 'a.db'}", cache=InMemoryCache(), cache_policy=policy, name="flow")
    def flow(x: int, previous: int | None = None) -> int:
        calls.append((x, previous))
        return x + (previous or 0)

    with closing(flow):
        for config in (new_thread(), new_thread()):
            assert [here.call(flow, "invoke", 1, config) for _ in range(3)] == [1, 2, 3]
        assert calls == [(1, None), (1, 1), (1, 2)]


def test_a_workflows_key_func_takes_its_input(here: Runner) -> None:
    calls: list[Any] = []

    @entrypoint(False, cache=InMemoryCache(), cache_policy=CachePolicy(key_func=lambda x: x["id"]))
    def flow(x: Any) -> Any:
        calls.append(x)
        return x

    first = {"id": "a", "more": 1}
    assert here.call(flow, "invoke", first) == first
    assert here.call(flow, "invoke", {"id": "a", "more": 2}) == first
    assert len(calls) == 1


# --- stopping ---------------------------------------------------------------------------------


def test_a_cancelled_lookup_does_not_begin_the_node() -> None:
    looking, go, calls = threading.Event(), threading.Event(), []

    class Slow(InMemoryCache):
        def recall(self, namespace: str, key: str, *, now: str) -> bytes | None:
            looking.set()
            assert go.wait(PATIENCE)
            return None

    async def node(state: Any) -> None:
        calls.append(1)

    builder = StateGraph(State).add_node("a", node, cache_policy=CachePolicy()).add_edge(START, "a")
    graph = builder.compile(False, cache=Slow())

    async def main() -> None:
        running = asyncio.create_task(graph.ainvoke({"n": 1}))
        async with asyncio.timeout(PATIENCE):
            while not looking.is_set():  # noqa: ASYNC110 (the event belongs to a thread)
                await asyncio.sleep(0.001)
        running.cancel()
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(main())
    assert calls == []


# --- crashes ----------------------------------------------------------------------------------

CALLS: Counter[str] = Counter()


class Crashing(TypedDict, total=False):
    n: int
    log: Annotated[list[str], operator.add]


def crashing() -> StateGraph[Crashing]:
    """A loop, then a map with one input twice, then a join."""

    def named(name: str, **update: Any) -> Any:
        def call(state: Any) -> Any:
            CALLS[name] += 1
            return {"log": [name], **{key: value(state) for key, value in update.items()}}

        return call

    def part(arg: Any) -> Any:
        CALLS[f"part {arg['i']}"] += 1
        return {"log": [f"part {arg['i']}"]}

    builder = StateGraph(Crashing).set_node_defaults(cache_policy=CachePolicy())
    builder.add_node("loop", named("loop", n=lambda state: state["n"] + 1)).add_edge(START, "loop")
    builder.add_node("part", part).add_node("end", named("end")).add_edge("part", "end")
    parts = [Send("part", {"i": i}) for i in (1, 2, 2)]
    return builder.add_conditional_edges("loop", lambda state: "loop" if state["n"] < 2 else parts)


class Watched(MemoryStore):
    """Counts what it keeps, and whether a row was there before."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = 0

    def keep(self, entries: Sequence[Entry], *, now: str) -> None:
        self.kept += len(entries)
        recorded = sum(row.kind == "task" for row in self.rows("t"))
        assert self.kept <= recorded, "kept before its row was durable"
        super().keep(entries, now=now)


def drive(store: MemoryStore, thread_id: str, value: Any, number: int, **settings: Any) -> int:
    """One run; at how many effects it ended."""
    graph = crashing().compile(store, cache=True)
    caching = Caching(Forgiving(store), graph._codec, lambda: 0.0)
    call = Call(
        thread_id, f"run-{number}", input=value, owner=f"me/{number}", alive=lambda owner: False, caching=caching
    )
    simulator = Simulator(store, 1, **settings)
    simulator.drive(Run(graph._graph, graph._codec, None, call).steps())
    return simulator.count


def values(store: MemoryStore, thread_id: str) -> Any:
    position = load(store, crashing().compile(store)._codec, thread_id)
    return None if position is None else (dict(position.values), position.tasks)


@pytest.mark.parametrize("before", [True, False])
def test_a_crash_at_every_effect(before: bool) -> None:
    whole = MemoryStore()
    CALLS.clear()
    effects = drive(whole, "t", {"n": 0}, 0)
    expected = values(whole, "t")
    assert CALLS["loop"] == 2
    for die_at in range(effects):
        store = Watched()
        with pytest.raises(Died):
            drive(store, "t", {"n": 0}, 0, die_at=die_at, before=before)
        for number in range(1, 4):
            now = values(store, "t")
            if now is None or now[1]:
                drive(store, "t", {"n": 0} if now is None else None, number)
        assert values(store, "t") == expected
        CALLS.clear()
        drive(store, "u", {"n": 0}, 9)
        assert values(store, "u") == expected
        assert sum(CALLS.values()) <= 3, "only what the crash kept from the cache is called again"


# --- the contract of caches -------------------------------------------------------------------

NOW, LATER, LAST = (f"2026-01-01T00:0{minute}:00.000000Z" for minute in range(3))


@pytest.fixture(params=["own", "memory", "sqlite", "postgres"])
def cache(request: pytest.FixtureRequest) -> Iterator[Cache]:
    kept: Cache
    if request.param == "own":
        kept = InMemoryCache()
    else:
        kept = MemoryStore() if request.param == "memory" else SqlStore(request.getfixturevalue(f"{request.param}_url"))
    yield kept
    kept.close()


def test_contract_keep_and_recall(cache: Cache) -> None:
    assert cache.recall("a", "k", now=NOW) is None
    cache.keep([Entry("a", "k", b"one", None), Entry("b", "k", b"two", None), Entry("a", "", b"", None)], now=NOW)
    found = [cache.recall(*place, now=LAST) for place in (("a", "k"), ("b", "k"), ("a", ""), ("b", ""))]
    assert found == [b"one", b"two", b"", None]
    cache.keep([Entry("a", "k", b"new", None), Entry("a", "k", b"newer", None)], now=NOW)
    assert cache.recall("a", "k", now=NOW) == b"newer"
    cache.keep([], now=NOW)


def test_contract_expiry(cache: Cache) -> None:
    cache.keep([Entry("a", "k", b"1", LATER), Entry("a", "for ever", b"2", None)], now=NOW)
    assert cache.recall("a", "k", now=NOW) == b"1"
    assert cache.recall("a", "k", now=LATER) is None
    assert cache.recall("a", "for ever", now=LAST) == b"2"
    cache.keep([Entry("a", "k", b"3", LAST)], now=LATER)
    assert cache.recall("a", "k", now=LATER) == b"3"


def test_contract_forget(cache: Cache) -> None:
    def fill() -> None:
        cache.keep([Entry(name, "k", b"1", None) for name in "abc"], now=NOW)

    def left() -> list[str]:
        return [name for name in "abc" if cache.recall(name, "k", now=NOW)]

    fill()
    cache.forget(["a", "c", "unknown"])
    assert left() == ["b"]
    cache.forget([])
    assert left() == ["b"]
    fill()
    cache.forget()
    assert left() == []


@pytest.mark.parametrize("name", ["'; DROP TABLE cache; --", "% ? :x", "Zürich 🚀", "x" * 2000, repr(("\0", "\ud800"))])
def test_contract_odd_names(cache: Cache, name: str) -> None:
    cache.keep([Entry(name, name, b"\0\xff", None)], now=NOW)
    assert cache.recall(name, name, now=NOW) == b"\0\xff"
    cache.forget([name])
    assert cache.recall(name, name, now=NOW) is None


def test_contract_from_many_threads(cache: Cache) -> None:
    """On Postgres, two that put in the same entries in different orders must not block each other for ever."""

    def work(number: int) -> None:
        entries = [Entry("a", str(i), str(i).encode(), LATER if i % 3 else None) for i in range(300)]
        for _ in range(10):
            cache.keep(entries if number % 2 else entries[::-1], now=LAST)

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(work, number) for number in range(4)]:
            done.result(timeout=PATIENCE)
    assert cache.recall("a", "99", now=LAST) == b"99"
    assert cache.recall("a", "7", now=LAST) is None


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_expired_entries_leave_the_table_a_few_at_a_time(kind: str, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue(f"{kind}_url")
    engine = create_engine(engine_url(url))

    def count() -> int:
        with engine.connect() as connection:
            return int(connection.execute(text("SELECT count(*) FROM cache")).scalar_one())

    with closing(SqlStore(url)) as store:
        number = 2 * PURGE_ROWS + 5
        store.keep([Entry("a", f"{i}", b"", LATER) for i in range(number)], now=NOW)
        left = []
        for i in range(4):
            store.keep([Entry("b", f"{i}", b"", None)], now=LAST)
            left.append(count() - i - 1)
        assert left == [number - PURGE_ROWS, number - 2 * PURGE_ROWS, 0, 0]
    engine.dispose()


def test_memory_is_bounded_and_what_is_used_stays() -> None:
    cache = InMemoryCache(max_bytes=10_000)
    for number in range(5):
        cache.keep([Entry("a", str(number), bytes(1000), None)], now=NOW)
    for number in range(5, 100):
        assert cache.recall("a", "0", now=NOW) is not None
        cache.keep([Entry("a", str(number), bytes(1000), None)], now=NOW)
        cache.keep([Entry("a", str(number), bytes(1000), None)], now=NOW)  # again: it is not counted twice
    kept = [number for number in range(100) if cache.recall("a", str(number), now=NOW)]
    assert kept == [0, *range(100 - len(kept) + 1, 100)]
    assert 4 <= len(kept) <= 10
    cache.keep([Entry("a", "huge", bytes(20_000), None)], now=NOW)
    assert cache.recall("a", "huge", now=NOW) is None
    assert cache.recall("a", "0", now=NOW) is not None
    with pytest.raises(ArgumentError, match="max_bytes: -1"):
        InMemoryCache(max_bytes=-1)
