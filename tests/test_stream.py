"""Everything a course on LangGraph's stream() teaches, point by point, and what laws 12 and 13 add to it.

Point 16, what the stream costs, is measured in `tests/benchmarks`.
"""

import asyncio
import gc
import inspect
import operator
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import aclosing
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest

from durable_graph import (
    END,
    START,
    CallError,
    Command,
    Overwrite,
    Send,
    StateGraph,
    StreamEvent,
    get_stream_writer,
    task,
)
from tests.graphs import (
    MODES,
    PATIENCE,
    WAYS,
    Calls,
    Runner,
    State,
    at,
    chain,
    counter,
    durable_threads,
    new_thread,
    nodes_of,
    until,
    wide,
)


@pytest.fixture(params=WAYS)
def run(request: pytest.FixtureRequest, database_url: str) -> Iterator[Runner]:
    with Runner(request.param, database_url) as runner:
        yield runner


# --- the sixteen points -----------------------------------------------------------------------


def test_01_events_come_as_nodes_execute(run: Runner) -> None:
    calls, seen = Calls(), []
    graph = run.compile(chain(run, calls))
    run.watch(lambda event: seen.append([*calls]), graph, {"log": []})
    assert seen == [["a"], ["a", "b"], ["a", "b", "c"]]


def test_02_stream_of_an_initial_state_is_all_it_takes(run: Runner) -> None:
    graph = run.compile(chain(run, Calls()))
    assert run.stream(graph, {"log": ["begin"]}) == [{name: {"log": [name]}} for name in "abc"]


@pytest.mark.parametrize("way", WAYS)
def test_02_no_database_needs_to_be_named(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DURABLE_GRAPH_URL", raising=False)
    run = Runner(way, False)
    with chain(run, Calls()).compile() as graph:
        assert len(run.stream(graph, {"log": []})) == 3
    assert (tmp_path / "durable_graph.db").exists()


@pytest.mark.parametrize("way", WAYS)
def test_02_nor_any_database_at_all(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = Runner(way, False)
    graph = run.compile(chain(run, Calls()))
    assert nodes_of(run.stream(graph, {"log": []})) == ["a", "b", "c"]
    assert run.invoke(graph, {"log": []}) == {"log": ["a", "b", "c"]}
    assert list(tmp_path.iterdir()) == []


def test_03_state_snapshots_after_each_node(run: Runner) -> None:
    graph = run.compile(chain(run, Calls()))
    values = run.stream(graph, {"n": 1, "log": ["in"]}, stream_mode="values")
    assert values == [
        {"n": 1, "log": ["in"]},
        {"n": 1, "log": ["in", "a"]},
        {"n": 1, "log": ["in", "a", "b"]},
        {"n": 1, "log": ["in", "a", "b", "c"]},
    ]


def test_03_one_snapshot_for_nodes_side_by_side(run: Runner) -> None:
    graph = run.compile(wide(run, Calls()))
    values = run.stream(graph, {"log": []}, stream_mode="values")
    assert [value["log"] for value in values] == [[], ["a", "b", "c"], ["a", "b", "c", "end"]]


def test_04_it_is_a_lazy_generator(database_url: str) -> None:
    run, calls = Runner("sync", database_url), Calls()
    with run.compile(chain(run, calls)) as graph:
        stream = graph.stream({"log": []}, new_thread())
        assert inspect.isgenerator(stream)
        assert calls == []
        assert next(stream) == {"a": {"log": ["a"]}}
        assert calls == ["a"]
        assert [*stream] == [{"b": {"log": ["b"]}}, {"c": {"log": ["c"]}}]
        with pytest.raises(StopIteration):
            next(stream)
        stream.close()

        never = graph.stream({"log": []}, config := new_thread())
        never.close()
        assert calls == ["a", "b", "c"]
        assert graph.get_state(config).created_at is None  # not even a row


def test_04_it_is_a_lazy_async_generator(database_url: str) -> None:
    run, calls = Runner("async", database_url), Calls()

    async def main() -> None:
        with run.compile(chain(run, calls)) as graph:
            stream = graph.astream({"log": []}, new_thread())
            assert inspect.isasyncgen(stream)
            assert calls == []
            assert await anext(stream) == {"a": {"log": ["a"]}}
            assert calls == ["a"]
            assert [event async for event in stream] == [{"b": {"log": ["b"]}}, {"c": {"log": ["c"]}}]
            with pytest.raises(StopAsyncIteration):
                await anext(stream)
            await stream.aclose()

            never = graph.astream({"log": []}, config := new_thread())
            await never.aclose()
            assert calls == ["a", "b", "c"]
            assert (await graph.aget_state(config)).created_at is None

    asyncio.run(main())


def test_05_the_first_event_is_there_before_the_second_node_starts(run: Runner) -> None:
    received = threading.Event()
    early = []
    calls = Calls()

    def second(state: State) -> dict[str, Any]:
        early.append(not received.is_set())
        return calls.node("b")(state)

    graph = run.compile(chain(run, calls, b=second))
    run.watch(lambda event: received.set() if "a" in event else None, graph, {"log": []})
    assert early == [False]


def test_06_the_structure_of_an_event(run: Runner) -> None:
    graph = run.compile(chain(run, Calls(), "ab"))
    config = {**new_thread(), "metadata": {"user": "ann"}, "tags": ["one"]}
    begin, a, b = run.stream(graph, {"log": ["in"]}, config, stream_mode="events")
    assert all(type(event) is StreamEvent for event in (begin, a, b))
    thread_id = config["configurable"]["thread_id"]
    assert [event.thread_id for event in (begin, a, b)] == [thread_id] * 3
    assert [event.step for event in (begin, a, b)] == [0, 1, 2]
    assert [event.kind for event in (begin, a, b)] == ["input", "task", "task"]
    assert [event.node for event in (begin, a, b)] == [None, "a", "b"]
    assert [event.update for event in (begin, a, b)] == [{"log": ["in"]}, {"log": ["a"]}, {"log": ["b"]}]
    assert [event.values for event in (begin, a, b)] == [
        {"log": ["in"]},
        {"log": ["in", "a"]},
        {"log": ["in", "a", "b"]},
    ]
    assert [event.next for event in (begin, a, b)] == [("a",), ("b",), ()]
    for event in (begin, a, b):
        assert event.metadata["user"] == "ann"
        assert event.metadata["tags"] == ["one"]
        assert event.metadata["step"] == event.step
        assert event.metadata["superstep"] == event.step
        assert event.metadata["source"] == ("input" if event.step == 0 else "loop")
        assert event.metadata["parent_step"] == (event.step - 1 if event.step else None)
        assert event.metadata["attempt"] == (1 if event.step else None)
    assert len({event.metadata["run_id"] for event in (begin, a, b)}) == 1
    assert a.metadata["task"] != b.metadata["task"]


def test_06_every_event_of_nodes_side_by_side_is_a_step(run: Runner) -> None:
    graph = run.compile(wide(run, Calls()))
    events = run.stream(graph, {"log": []}, stream_mode="events")
    assert [event.step for event in events] == [0, 1, 2, 3, 4]
    assert {event.node for event in events[1:4]} == {"a", "b", "c"}
    assert [event.metadata["superstep"] for event in events] == [0, 1, 1, 1, 2]
    assert [event.values["log"] for event in events] == [[], [], [], [*"abc"], [*"abc", "end"]]
    assert [len(event.next) for event in events] == [3, 2, 1, 1, 0]


def test_06_without_a_thread_id_events_say_which_was_made(run: Runner) -> None:
    graph = run.compile(chain(run, Calls()))
    made = [{event.thread_id for event in run.stream(graph, {"log": []}, stream_mode="events")} for _ in range(2)]
    assert [len(ids) for ids in made] == [1, 1]
    assert made[0] != made[1]
    config = {"thread_id": made[0].pop()}
    assert run.get_state(graph, config).values == {"log": ["a", "b", "c"]}


def test_07_iterating_accumulating_and_reacting(run: Runner) -> None:
    graph = run.compile(counter(run, 5))
    results, warned = [], []

    def react(event: dict[str, Any]) -> None:
        for node, update in event.items():
            results.append((node, update["n"]))
            if update["n"] == 3:
                warned.append(update)

    run.watch(react, graph, {"n": 0})
    assert results == [("count", n) for n in range(1, 6)]
    assert warned == [{"n": 3}]


def test_08_watch_the_state_grow_step_by_step(run: Runner) -> None:
    graph = run.compile(wide(run, Calls()))
    state: dict[str, Any] = {"log": ["in"]}
    sizes = []
    for mode, chunk in run.stream(graph, {"log": ["in"]}, stream_mode=["updates", "values"]):
        if mode == "updates":
            ((_, update),) = chunk.items()
            assert set(update) == {"log"}  # an update, not the state
            state["log"] = state["log"] + update["log"]
        else:
            sizes.append(len(chunk["log"]))
            assert sorted(chunk["log"]) == sorted(state["log"])
    assert sizes == [1, 4, 5]


@pytest.mark.parametrize("nothing", [None, {}], ids=str)
def test_09_nodes_that_change_nothing_still_make_an_event(run: Runner, nothing: Any) -> None:
    graph = run.compile(chain(run, Calls(), b=lambda state: nothing))
    config = new_thread()
    events = run.stream(graph, {"log": []}, config, stream_mode=["updates", "values"])
    assert [chunk for mode, chunk in events if mode == "updates"] == [
        {"a": {"log": ["a"]}},
        {"b": None},
        {"c": {"log": ["c"]}},
    ]
    assert [chunk["log"] for mode, chunk in events if mode == "values"] == [[], ["a"], ["a", "c"]]
    assert [event.node for event in run.replay(graph, config, stream_mode="events")] == [None, "a", "b", "c"]


def test_10_monitoring_without_touching_the_nodes(run: Runner) -> None:
    graph = run.compile(wide(run, Calls()))
    done, durations, standing = 0, {}, []
    for event in run.stream(graph, {"log": []}, stream_mode="events"):
        standing.append(event.next)
        if event.kind == "task":
            done += 1
            began, ended = datetime.fromisoformat(event.started_at), datetime.fromisoformat(event.created_at)
            assert began.tzinfo is not None
            assert began <= ended
            durations[event.node] = ended - began
    assert done == 4
    assert durations.keys() == {"a", "b", "c", "end"}
    assert standing[0] == ("a", "b", "c")
    assert standing[-2:] == [("end",), ()]


def test_10_tasks_tell_what_begins_and_what_ends(run: Runner) -> None:
    graph = run.compile(chain(run, Calls(), "ab"))
    begins_a, ends_a, begins_b, ends_b = run.stream(graph, {"log": ["in"]}, stream_mode="tasks")
    assert begins_a == {
        "id": ends_a["id"],
        "name": "a",
        "input": {"log": ["in"]},
        "triggers": ("branch:to:a",),
    }
    assert ends_a == {"id": begins_a["id"], "name": "a", "error": None, "result": {"log": ["a"]}, "interrupts": []}
    assert begins_b["input"] == {"log": ["in", "a"]}
    assert ends_b["name"] == "b"
    assert begins_b["id"] == ends_b["id"] != begins_a["id"]


def test_10_a_task_is_announced_before_it_runs(run: Runner) -> None:
    calls, before = Calls(), []
    graph = run.compile(chain(run, calls))
    run.watch(lambda chunk: before.append((chunk["name"], len(calls))), graph, {"log": []}, stream_mode="tasks")
    assert before == [("a", 0), ("a", 1), ("b", 1), ("b", 2), ("c", 2), ("c", 3)]


def test_10_an_error_is_a_task_event_too(run: Runner) -> None:
    calls, seen = Calls(), []
    graph = run.compile(chain(run, calls, b=calls.failing("b")))
    with pytest.raises(ValueError, match="b failed"):
        run.watch(seen.append, graph, {"log": []}, stream_mode="tasks")
    assert seen[-1]["name"] == "b"
    assert seen[-1]["error"].endswith("ValueError: b failed")
    assert seen[-1]["result"] == {}


def speaking(calls: Calls, name: str) -> Any:
    def call(state: State, runtime: Any) -> dict[str, Any]:
        runtime.stream_writer({"from": name})
        return calls.node(name)(state)

    return call


def test_11_custom_events_are_seen_before_the_node_ends(run: Runner) -> None:
    calls, seen = Calls(), threading.Event()

    def speak(state: State, writer: Any) -> None:
        writer({"progress": 0.5})

    def end(state: State, writer: Any) -> dict[str, Any]:
        return calls.node("a")(state)

    graph = run.compile(chain(run, calls, "ab", a=run.waiting(seen, end, speak)))

    def receive(chunk: tuple[str, Any]) -> None:
        if chunk[0] == "custom":
            assert calls == []
            seen.set()

    events = run.watch(receive, graph, {"log": []}, stream_mode=["custom", "updates"])
    assert events == [
        ("custom", {"progress": 0.5}),
        ("updates", {"a": {"log": ["a"]}}),
        ("updates", {"b": {"log": ["b"]}}),
    ]


def test_11_custom_events_alone(run: Runner) -> None:
    calls, seen = Calls(), threading.Event()
    node = run.waiting(
        seen,
        lambda state, writer: calls.node("a")(state),
        lambda state, writer: [writer(number) for number in range(3)],
    )
    graph = run.compile(chain(run, calls, "ab", a=node))
    got = run.watch(lambda chunk: seen.set() if chunk == 2 else None, graph, {"log": []}, stream_mode="custom")
    assert got == [0, 1, 2]


def test_11_custom_events_of_nodes_side_by_side(run: Runner) -> None:
    """Each node goes on only when the consumer has seen a custom event of every one."""
    calls, all_seen = Calls(), threading.Event()
    seen: set[str] = set()

    def receive(chunk: tuple[str, Any]) -> None:
        if chunk[0] == "custom":
            assert calls == []
            seen.add(chunk[1])
            if len(seen) == 3:
                all_seen.set()

    def speaker(name: str) -> Any:
        return run.waiting(all_seen, lambda state, writer: calls.node(name)(state), lambda state, writer: writer(name))

    graph = run.compile(wide(run, calls, **{name: speaker(name) for name in "abc"}))
    events = run.watch(receive, graph, {"log": []}, stream_mode=["updates", "custom"])
    assert {chunk for mode, chunk in events[:3] if mode == "custom"} == {"a", "b", "c"}
    assert [mode for mode, _ in events] == ["custom"] * 3 + ["updates"] * 4


def test_11_the_writer_can_be_had_in_three_ways(run: Runner) -> None:
    def node(state: State, runtime: Any, writer: Any) -> None:
        writer("parameter")
        runtime.stream_writer("runtime")
        get_stream_writer()("function")

    graph = run.compile(chain(run, Calls(), "a", a=node))
    assert run.stream(graph, {"log": []}, stream_mode="custom") == ["parameter", "runtime", "function"]


def test_11_what_is_sent_can_be_changed_afterwards(run: Runner) -> None:
    def node(state: State, writer: Any) -> None:
        data = {"list": [1]}
        writer(data)
        data["list"].append(2)
        writer(data)

    graph, config = run.compile(chain(run, Calls(), "a", a=node)), new_thread()
    sent = [{"list": [1]}, {"list": [1, 2]}]
    assert run.stream(graph, {"log": []}, config, stream_mode="custom") == sent
    assert run.replay(graph, config, stream_mode="custom") == sent


def test_11_custom_events_nobody_asked_for_are_recorded(run: Runner) -> None:
    graph, config = run.compile(chain(run, calls := Calls(), "ab", a=speaking(calls, "a"))), new_thread()
    run.stream(graph, {"log": []}, config)
    assert run.replay(graph, config, stream_mode="custom") == [{"from": "a"}]


def test_11_a_writer_is_of_no_use_once_its_node_has_ended(run: Runner) -> None:
    """Its task's row is committed: what came now could not be recorded. It is refused, and nobody waits for ever."""
    kept: list[Any] = []
    refused: list[BaseException] = []

    def too_late() -> None:
        with pytest.raises(CallError) as caught:
            kept[0]("too late")
        refused.append(caught.value)

    def a(state: State, writer: Any) -> None:
        kept.append(writer)
        writer("in time")

    graph, config = run.compile(chain(run, Calls(), "ab", a=a, b=lambda state: too_late())), new_thread()
    live = run.stream(graph, {"log": []}, config, stream_mode=["custom", "updates"])
    assert live == [("custom", "in time"), ("updates", {"a": None}), ("updates", {"b": None})]
    assert run.replay(graph, config, stream_mode=["custom", "updates"]) == live
    after_the_run = threading.Thread(target=too_late, daemon=True)
    after_the_run.start()
    after_the_run.join(PATIENCE)
    assert not after_the_run.is_alive()
    assert len(refused) == 2


def test_11_many_custom_events_do_not_pile_up(database_url: str) -> None:
    """A plain function that sends faster than the consumer takes has to wait."""
    run, sent, ahead = Runner("sync", database_url), [], []

    def node(state: State, writer: Any) -> None:
        for number in range(50):
            sent.append(number)
            writer(number)

    with run.compile(chain(run, Calls(), "a", a=node)) as graph:
        run.watch(lambda number: ahead.append(len(sent) - number), graph, {"log": []}, stream_mode="custom")
    assert len(ahead) == 50
    assert max(ahead) <= 5


# --- 12: breaking out -------------------------------------------------------------------------


def test_12_breaking_out_early_stops_the_work_and_the_thread_continues_later(run: Runner) -> None:
    calls, config = Calls(), new_thread()
    graph = run.compile(chain(run, calls))
    assert nodes_of(run.first(1, graph, {"log": []}, config)) == ["a"]
    assert calls == ["a"]
    snapshot = run.get_state(graph, config)
    assert snapshot.values == {"log": ["a"]}
    assert snapshot.next == ("b",)
    assert durable_threads() == []
    assert run.call(graph, "threads")[0].lease_owner is None
    assert nodes_of(run.stream(graph, None, config)) == ["b", "c"]
    assert calls == ["a", "b", "c"]


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_12_a_break_at_any_event_of_any_mode(run: Runner, mode: str) -> None:
    calls = Calls()
    builder = wide(run, calls, **{name: speaking(calls, name) for name in "abc"})
    graph = run.compile(builder)
    whole = run.stream(graph, {"log": []}, stream_mode=mode)
    for number in range(1, len(whole)):
        calls.clear()
        config = new_thread()
        assert len(run.first(number, graph, {"log": []}, config, stream_mode=mode)) == number
        if run.get_state(graph, config).next:
            run.stream(graph, None, config)
        assert sorted(calls) == ["a", "b", "c", "end"], f"after {number} events"
        assert run.get_state(graph, config).values == {"log": ["a", "b", "c", "end"]}
        assert durable_threads() == []


class Mine(Exception):
    """Of the consumer's own."""


def test_12_an_exception_in_the_consumer(run: Runner) -> None:
    calls, config = Calls(), new_thread()
    graph = run.compile(wide(run, calls))

    def fail(event: Any) -> None:
        raise Mine("consumer")

    with pytest.raises(Mine, match="consumer"):
        run.watch(fail, graph, {"log": []}, config)
    assert durable_threads() == []
    begun = [*calls]  # that is finished and kept
    *rest, end = nodes_of(run.stream(graph, None, config))
    assert (sorted([*begun, *rest]), end) == (["a", "b", "c"], "end")
    assert run.get_state(graph, config).values == {"log": ["a", "b", "c", "end"]}


def test_12_an_exception_thrown_into_the_generator(database_url: str) -> None:
    run, calls, config = Runner("sync", database_url), Calls(), new_thread()
    with run.compile(chain(run, calls)) as graph:
        stream = graph.stream({"log": []}, config)
        next(stream)
        with pytest.raises(Mine):
            stream.throw(Mine())
        assert calls == ["a"]
        assert nodes_of(graph.stream(None, config)) == ["b", "c"]


def test_12_a_dropped_iterator_frees_its_thread(database_url: str) -> None:
    """`for event in graph.stream(...): break`, without a close."""
    run, calls, config = Runner("sync", database_url), Calls(), new_thread()
    with run.compile(chain(run, calls)) as graph:
        for _ in graph.stream({"log": []}, config):
            break
        assert nodes_of(graph.stream(None, config)) == ["b", "c"]


def test_12_a_dropped_async_iterator_frees_its_thread(database_url: str) -> None:
    """`async for event in graph.astream(...): break`, without an aclose, and the thread is continued at once."""
    run, calls, config = Runner("async", database_url), Calls(), new_thread()

    async def main() -> list[Any]:
        async for _ in graph.astream({"log": []}, config):
            break
        return [event async for event in graph.astream(None, config)]

    with run.compile(chain(run, calls)) as graph:
        assert nodes_of(asyncio.run(main())) == ["b", "c"]
    assert calls == ["a", "b", "c"]


def test_12_a_break_while_nodes_side_by_side_are_running(run: Runner) -> None:
    """What has begun is waited for and kept; nobody is left behind."""
    calls, config, begun, left = Calls(), new_thread(), threading.Event(), threading.Event()
    quick = run.waiting(begun, calls.node("a"))
    slow = run.waiting(left, calls.node("b"), before=lambda *_: begun.set())
    graph = run.compile(wide(run, calls, "ab", a=quick, b=slow))

    def leave(event: Any) -> bool:
        left.set()
        return True

    assert nodes_of(run.watch(leave, graph, {"log": []}, config)) == ["a"]
    assert durable_threads() == []
    assert nodes_of(run.stream(graph, None, config)) == ["end"]
    assert calls == ["a", "b", "end"]
    assert sorted(nodes_of(run.replay(graph, config))) == ["a", "b", "end"]


def test_12_a_break_in_a_custom_event_while_the_node_is_at_work(run: Runner) -> None:
    calls, config = Calls(), new_thread()

    def chatty(state: State, writer: Any) -> dict[str, Any]:
        for number in range(20):
            writer(number)
        return calls.node("a")(state)

    graph = run.compile(chain(run, calls, a=chatty))
    assert run.first(2, graph, {"log": []}, config, stream_mode="custom") == [0, 1]
    assert durable_threads() == []
    assert run.get_state(graph, config).next == ("b",)  # the node was not cut off
    assert run.stream(graph, None, config, stream_mode="custom") == []
    assert calls == ["a", "b", "c"]
    assert run.replay(graph, config, stream_mode="custom") == [*range(20)]


def test_12_a_cancelled_asyncio_task_leaves_a_thread_that_continues(database_url: str) -> None:
    run, calls, config = Runner("async", database_url), Calls(), new_thread()
    begun = threading.Event()

    async def stuck(state: State) -> dict[str, Any]:
        if not begun.is_set():
            begun.set()
            await asyncio.Event().wait()
        return calls.node("b")(state)

    async def main() -> None:
        work = asyncio.create_task(graph.ainvoke({"log": []}, config))
        await until(begun)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        assert durable_threads() == []
        assert nodes_of([event async for event in graph.astream(None, config)]) == ["b", "c"]

    with run.compile(chain(run, calls, b=stuck)) as graph:
        asyncio.run(main())
    assert calls == ["a", "b", "c"]


def test_12_a_cancelled_asyncio_task_with_nodes_side_by_side(database_url: str) -> None:
    run, calls, config = Runner("async", database_url), Calls(), new_thread()
    begun = threading.Event()

    async def stuck(state: State) -> dict[str, Any]:
        if not begun.is_set():
            begun.set()
            await asyncio.Event().wait()
        return calls.node("b")(state)

    async def main() -> None:
        work = asyncio.create_task(graph.ainvoke({"log": []}, config))
        await until(begun)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        events = [event async for event in graph.astream(None, config)]
        assert set(nodes_of(events)) >= {"b", "end"}

    with run.compile(wide(run, calls, b=stuck)) as graph:
        asyncio.run(main())
        assert graph.get_state(config).values == {"log": ["a", "b", "c", "end"]}
    assert calls.count("b") == 1


@pytest.mark.parametrize("way", WAYS)
def test_12_ctrl_c_in_a_node(database_url: str, way: str) -> None:
    run, calls, config = Runner(way, database_url), Calls(), new_thread()
    with run.compile(chain(run, calls, b=calls.failing("b", error=KeyboardInterrupt))) as graph:
        with pytest.raises(KeyboardInterrupt):
            run.stream(graph, {"log": []}, config)
        assert durable_threads() == []
        assert run.get_state(graph, config).next == ("b",)
        assert nodes_of(run.stream(graph, None, config)) == ["b", "c"]


# --- 13 to 15 ---------------------------------------------------------------------------------


def test_13_the_config_reaches_nodes_and_the_log(run: Runner) -> None:
    seen: list[Any] = []

    def node(state: State, config: Any) -> None:
        seen.append(config)

    graph = run.compile(chain(run, Calls(), "a", a=node))
    config = {
        "configurable": {"thread_id": "t 13 ü", "mine": 5},
        "metadata": {"user": "ann"},
        "tags": ["one", "two"],
        "recursion_limit": 7,
        "run_name": "my run",
    }
    run.stream(graph, {"log": []}, config)
    run.invoke(graph, {"log": []}, config)
    places = [config.pop("metadata") for config in seen]
    for each in seen:
        each.pop("callbacks", None)  # there where the application uses langchain-core
    assert seen[0] == seen[1]
    assert seen[0]["configurable"]["thread_id"] == "t 13 ü"
    assert seen[0]["configurable"]["mine"] == 5
    for place, step in zip(places, (1, 3), strict=True):  # LangGraph's names for where a node is
        assert place["user"] == "ann"
        assert (place["thread_id"], place["langgraph_node"], place["langgraph_step"]) == ("t 13 ü", "a", step)
    assert seen[0]["tags"] == ["one", "two"]
    assert seen[0]["recursion_limit"] == 7
    metadata = run.get_state(graph, {"thread_id": "t 13 ü"}).metadata
    assert metadata["user"] == "ann"
    assert "langgraph_node" not in metadata
    assert metadata["tags"] == ["one", "two"]


def test_13_thread_and_step_name_where_to_go_on(run: Runner) -> None:
    graph, config = run.compile(chain(run, Calls())), new_thread()
    run.invoke(graph, {"log": []}, config)
    for step, expected in enumerate([["a", "b", "c"], ["b", "c"], ["c"]]):
        assert nodes_of(run.stream(graph, None, at(config, step))) == expected
        assert nodes_of(run.stream(graph, None, {**config["configurable"], "step": step})) == expected
        text = {"configurable": {**config["configurable"], "checkpoint_id": str(step)}}
        assert run.get_state(graph, text).values["log"] == [*"abc"][:step]
        assert run.invoke(graph, None, text) == {"log": ["a", "b", "c"]}


def test_13_settings_of_with_config_lie_under_those_of_the_call(run: Runner) -> None:
    """LangGraph adds them up: dicts are merged, tags are joined."""
    seen: list[Any] = []

    def node(state: State, config: Any) -> None:
        own = {key: config["metadata"][key] for key in ("m", "k")}
        seen.append((config["tags"], own, config["recursion_limit"]))

    graph = run.compile(chain(run, Calls(), "a", a=node))
    graph = graph.with_config({"tags": ["one"], "metadata": {"m": 1}, "recursion_limit": 50})
    graph = graph.with_config({"tags": ["two"], "metadata": {"k": 2}})
    run.stream(graph, {"log": []}, {"tags": ["three"], "metadata": {"m": 3}})
    assert seen == [(["one", "two", "three"], {"m": 3, "k": 2}, 50)]


def test_13_max_concurrency_holds_nodes_back(run: Runner) -> None:
    lock, now, most = threading.Lock(), [0], []

    def enter(state: State) -> None:
        with lock:
            now[0] += 1
            most.append(now[0])

    def leave(state: State) -> dict[str, Any]:
        with lock:
            now[0] -= 1
        return {"log": ["x"]}

    opened = threading.Event()
    opened.set()
    names = [f"n{number}" for number in range(8)]
    nodes = {name: run.waiting(opened, leave, enter) for name in names}
    graph = run.compile(wide(run, Calls(), names, **nodes))
    run.invoke(graph, {"log": []}, {**new_thread(), "max_concurrency": 2})
    assert len(most) == 8
    assert max(most) <= 2


def test_14_stream_and_invoke_end_in_the_same_state(run: Runner) -> None:
    graph = run.compile(wide(run, Calls()))
    one, other = new_thread(), new_thread()
    *_, last = run.stream(graph, {"n": 4, "log": ["in"]}, one, stream_mode="values")
    assert run.invoke(graph, {"n": 4, "log": ["in"]}, other) == last == {"n": 4, "log": ["in", *"abc", "end"]}
    assert run.get_state(graph, one).values == run.get_state(graph, other).values == last


def test_14_invoke_gives_what_another_mode_would_have_streamed(run: Runner) -> None:
    graph = run.compile(chain(run, Calls()))
    assert run.invoke(graph, {"log": []}, stream_mode="updates") == [{name: {"log": [name]}} for name in "abc"]


def test_14_batch_gives_the_states_in_the_order_of_the_inputs(run: Runner) -> None:
    graph = run.compile(chain(run, Calls()))
    results = run.call(graph, "batch", [{"log": [str(number)]} for number in range(5)])
    assert [result["log"] for result in results] == [[str(number), "a", "b", "c"] for number in range(5)]
    configs = [new_thread(), new_thread()]
    run.call(graph, "batch", [{"log": ["0"]}, {"log": ["1"]}], configs)
    assert [run.get_state(graph, config).values["log"][0] for config in configs] == ["0", "1"]
    assert run.call(graph, "batch", []) == []


@pytest.mark.parametrize("way", ["sync", "async"])
@pytest.mark.parametrize("where", ["nowhere", "sqlite"])
@pytest.mark.parametrize("steps", [2_000, pytest.param(100_000, marks=[pytest.mark.slow, pytest.mark.timeout(1200)])])
def test_15_memory_stays_flat(where: str, way: str, steps: int, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/steps.db?synchronous=NORMAL" if where == "sqlite" else False
    held: dict[int, int] = {}
    marks = {steps // 10, steps}

    def measure(event: dict[str, Any]) -> None:
        if (number := event["count"]["n"]) in marks:
            gc.collect()  # what only waits for its turn is no growth
            held[number] = tracemalloc.get_traced_memory()[0]

    with Runner(way, url) as run:
        graph = run.compile(counter(run, steps))
        tracemalloc.start()
        try:
            run.loop(measure, graph, "stream", {"n": 0}, {"recursion_limit": steps})
        finally:
            tracemalloc.stop()
    assert held.keys() == marks
    assert held[steps] - held[steps // 10] < 60_000  # a number for each of 2,000 steps would be more


# --- modes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_a_list_of_one_mode_names_it(run: Runner, mode: str) -> None:
    calls = Calls()
    graph, config = run.compile(chain(run, calls, "ab", a=speaking(calls, "a"))), new_thread()
    listed = run.stream(graph, {"log": []}, config, stream_mode=[mode])
    assert listed
    assert listed == [(mode, chunk) for chunk in run.replay(graph, config, stream_mode=mode)]


def test_all_modes_at_once(run: Runner) -> None:
    calls = Calls()
    graph = run.compile(chain(run, calls, "a", a=speaking(calls, "a")))
    chunks = run.stream(graph, {"log": []}, stream_mode=list(MODES))
    assert [mode for mode, _ in chunks] == [
        # the input's row
        *("values", "checkpoints", "debug", "events"),
        # the task begins, and speaks
        *("tasks", "debug", "custom"),
        # the task's row
        *("updates", "tasks", "values", "checkpoints", "debug", "debug", "events"),
    ]
    assert sorted({mode for mode, _ in chunks}) == sorted(MODES)


def test_checkpoints_are_snapshots_of_barriers(run: Runner) -> None:
    graph, config = run.compile(wide(run, Calls())), new_thread()
    chunks = run.stream(graph, {"log": []}, config, stream_mode="checkpoints")
    assert [chunk["values"]["log"] for chunk in chunks] == [[], [*"abc"], [*"abc", "end"]]
    assert [chunk["next"] for chunk in chunks] == [["a", "b", "c"], ["end"], []]
    for chunk in chunks:
        snapshot = run.get_state(graph, chunk["config"])
        assert snapshot.values == chunk["values"]
        assert list(snapshot.next) == chunk["next"]
        assert snapshot.metadata == chunk["metadata"]
        assert snapshot.parent_config == chunk["parent_config"]
        assert [task.id for task in snapshot.tasks] == [task["id"] for task in chunk["tasks"]]


def test_debug_wraps_tasks_and_checkpoints(run: Runner) -> None:
    graph = run.compile(chain(run, Calls(), "ab"))
    chunks = run.stream(graph, {"log": []}, stream_mode=["tasks", "checkpoints", "debug"])
    wrapped = [(chunk["step"], chunk["type"]) for mode, chunk in chunks if mode == "debug"]
    assert wrapped == [
        (0, "checkpoint"),
        (1, "task"),
        (1, "task_result"),
        (1, "checkpoint"),
        (2, "task"),
        (2, "task_result"),
        (2, "checkpoint"),
    ]
    payloads = [chunk["payload"] for mode, chunk in chunks if mode == "debug"]
    assert payloads == [chunk for mode, chunk in chunks if mode != "debug"]


class Written(TypedDict, total=False):
    log: Annotated[list[str], operator.add]


def test_tasks_show_a_key_written_twice_as_writes(run: Runner) -> None:
    builder = StateGraph(Written)
    builder.add_node("a", run.node(lambda state: [Command(update={"log": ["1"]}), {"log": ["2"]}]))
    graph = run.compile(builder.add_edge(START, "a"))
    chunks = run.stream(graph, {"log": []}, stream_mode=["tasks", "updates", "values"])
    assert [chunk["result"] for mode, chunk in chunks if mode == "tasks" and "result" in chunk] == [
        {"log": {"$writes": [["1"], ["2"]]}}
    ]
    assert [chunk for mode, chunk in chunks if mode == "updates"] == [{"a": [{"log": ["1"]}, {"log": ["2"]}]}]
    assert chunks[-1] == ("values", {"log": ["1", "2"]})


class Hidden(Written, total=False):
    note: Annotated[list[str], operator.add]


def test_tasks_show_no_hidden_key_of_several_writes(run: Runner) -> None:
    builder = StateGraph(Hidden)
    builder.add_node("a", run.node(lambda state: [Command(update={"note": ["x"]}), {"note": ["y"]}, {"log": ["2"]}]))
    graph = run.compile(builder.add_edge(START, "a"))
    chunks = run.stream(graph, {"log": []}, stream_mode="tasks", output_keys=["log"])
    assert [chunk["result"] for chunk in chunks if "result" in chunk] == [{"log": ["2"]}]


def test_values_of_a_continued_stream_begin_with_the_state_it_continues_from(run: Runner) -> None:
    graph, config = run.compile(chain(run, Calls())), new_thread()
    run.first(1, graph, {"log": []}, config)
    values = run.stream(graph, None, config, stream_mode="values")
    assert [value["log"] for value in values] == [["a"], ["a", "b"], ["a", "b", "c"]]


def test_a_map_gives_an_event_for_each_of_its_tasks(run: Runner) -> None:
    builder = StateGraph(State)
    builder.add_node("part", run.node(lambda arg: {"log": [f"part {arg['i']}"]}))
    builder.add_conditional_edges(START, lambda state: [Send("part", {"i": i}) for i in range(10)], ["part"])
    graph = run.compile(builder)
    events = run.stream(graph, {"log": []})
    assert sorted(event["part"]["log"][0] for event in events) == [f"part {i}" for i in range(10)]
    assert len(run.stream(graph, {"log": []}, stream_mode="values")) == 2


# --- law 13: lazy, and what a consumer does to an event changes nothing else -------------------


def scribble(value: Any) -> None:
    """Change everything in it that can be changed."""
    if isinstance(value, StreamEvent):
        for part in (value.update, value.values, value.metadata):
            scribble(part)
    elif isinstance(value, dict):
        for item in [*value.values()]:
            scribble(item)
        value["scribble"] = "by the consumer"
        if "log" in value:
            value["log"] = None
    elif isinstance(value, list):
        for item in value:
            scribble(item)
        value.append("scribble")
    elif isinstance(value, tuple):
        for item in value:
            scribble(item)


class Nested(TypedDict, total=False):
    log: Annotated[list[Any], operator.add]
    data: dict[str, Any]
    both: Annotated[dict[str, Any], operator.or_]


def nested(run: Runner, calls: Calls) -> StateGraph[Nested]:
    shared: list[Any] = ["the node's own"]

    def node(state: Any, runtime: Any) -> dict[str, Any]:
        calls.append(repr(state))
        runtime.stream_writer({"custom": shared})
        return {"log": [shared], "data": {"deep": [{"list": [len(calls)]}]}, "both": {str(len(calls)): shared}}

    builder = StateGraph(Nested)
    builder.add_sequence([(name, run.node(node)) for name in "abc"])
    return builder.add_edge(START, "a")


@pytest.mark.parametrize("mode", [*MODES, [*MODES]], ids=str)
def test_what_a_consumer_does_to_an_event_changes_nothing_else(run: Runner, mode: Any) -> None:
    expected_calls, calls = Calls(), Calls()
    plain, config = run.compile(nested(run, expected_calls)), new_thread()
    expected = run.invoke(plain, {"log": []}, new_thread())
    graph = run.compile(nested(run, calls))
    run.watch(scribble, graph, {"log": []}, config, stream_mode=mode)
    assert calls == expected_calls
    assert run.get_state(graph, config).values == expected
    assert "scribble" not in repr(run.replay(graph, config, stream_mode=[*MODES]))


def test_scribbling_on_snapshots_and_results_changes_nothing_else(run: Runner) -> None:
    graph, config = run.compile(nested(run, Calls())), new_thread()
    result = run.invoke(graph, {"log": []}, config)
    before = repr(result)
    for taken in (result, run.get_state(graph, config), *run.history(graph, config)):
        scribble(taken)
    run.each(scribble, graph, "replay", config, stream_mode=[*MODES])
    assert repr(run.get_state(graph, config).values) == before
    given = {"log": [["mine"]], "data": {"list": [1]}}
    stream = run.watch(lambda event: scribble(given), graph, given, config)
    assert len(stream) == 3
    assert "scribble" not in repr(run.replay(graph, config, stream_mode=[*MODES]))


def test_what_a_node_does_to_its_state_is_not_recorded(run: Runner) -> None:
    """A node gets its state on its own; only what it returns counts, and what it keeps does not."""
    kept: list[Any] = []

    def keep(state: Any) -> dict[str, Any]:
        update = {"log": [["a"]], "data": {"list": [1]}}
        kept.append(update)
        return update

    def change(state: Any) -> dict[str, Any]:
        for update in kept:
            scribble(update)
        return {"log": [["b"]]}

    builder = StateGraph(Nested)
    builder.add_sequence([("keep", run.node(keep)), ("change", run.node(change))])
    graph, config = run.compile(builder.add_edge(START, "keep")), new_thread()
    assert run.invoke(graph, {"log": []}, config) == {"log": [["a"], ["b"]], "data": {"list": [1]}, "both": {}}
    assert run.get_state(graph, config).values == {"log": [["a"], ["b"]], "data": {"list": [1]}, "both": {}}


@pytest.mark.xfail(strict=True, reason="as in LangGraph; a copy for every node would cost what the state is large")
def test_what_a_node_does_to_the_state_it_was_given_is_not_kept(database_url: str) -> None:
    """It is not in the log, so it must not be in the result either."""

    def change(state: Any) -> dict[str, Any]:
        state["data"]["list"].append("unrecorded")
        return {"log": [1]}

    with Runner("sync", database_url) as run:
        builder = StateGraph(Nested).add_node("change", change).add_edge(START, "change")
        graph, config = run.compile(builder), new_thread()
        result = run.invoke(graph, {"data": {"list": []}}, config)
        assert result == run.get_state(graph, config).values


def test_nothing_runs_ahead_of_a_slow_consumer(run: Runner) -> None:
    calls, started, ahead = Calls(), Calls(), []

    def count(state: State) -> dict[str, Any]:
        started.append("count")
        return {"n": state.get("n", 0) + 1}

    builder = StateGraph(State).add_node("count", run.node(count)).add_edge(START, "count")
    builder.add_conditional_edges("count", lambda state: "count" if state["n"] < 20 else END)
    graph = run.compile(builder)

    def dawdle(event: dict[str, Any]) -> None:
        calls.append("seen")
        threading.Event().wait(0.002)  # time for anything that wanted to run ahead
        ahead.append(len(started) - len(calls))

    run.watch(dawdle, graph, {"n": 0})
    assert ahead == [0] * 20


def test_an_async_consumer_that_waits_is_not_run_ahead_of(database_url: str) -> None:
    run, started, ahead = Runner("async", database_url), Calls(), []

    async def main(graph: Any) -> None:
        async with aclosing(graph.astream({"log": []})) as stream:
            async for _ in stream:
                seen = len(started)
                for _ in range(20):
                    await asyncio.sleep(0)
                ahead.append(len(started) - seen)

    with run.compile(chain(run, started, "abcdef")) as graph:
        asyncio.run(main(graph))
    assert ahead == [0] * 6


def test_the_next_superstep_waits_until_the_last_event_is_taken(run: Runner) -> None:
    calls, late = Calls(), []
    graph = run.compile(wide(run, calls))
    run.watch(lambda event: late.append("end" in calls), graph, {"log": []})
    assert late == [False, False, False, True]


def test_an_overwrite_is_shown_as_it_was_written(run: Runner) -> None:
    graph, config = run.compile(chain(run, Calls(), "ab", b=lambda state: {"log": Overwrite(["new"])})), new_thread()
    assert run.stream(graph, {"log": []}, config)[1] == {"b": {"log": Overwrite(["new"])}}
    assert run.get_state(graph, config).values == {"log": ["new"]}


def test_two_streams_of_one_graph_do_not_mix(database_url: str) -> None:
    run = Runner("sync", database_url)
    with run.compile(chain(run, Calls())) as graph:
        one, other = graph.stream({"log": ["1"]}), graph.stream({"log": ["2"]})
        assert [*zip(one, other, strict=True)] == [({n: {"log": [n]}}, {n: {"log": [n]}}) for n in "abc"]
        values = [graph.stream({"log": [str(i)]}, stream_mode="values") for i in range(3)]
        assert [[v["log"] for v in stream][-1] for stream in values] == [[str(i), "a", "b", "c"] for i in range(3)]


def test_async_nodes_side_by_side_run_at_the_same_time(database_url: str) -> None:
    run, met = Runner("async", database_url), []

    async def main(graph: Any) -> None:
        await graph.ainvoke({"log": []})

    barrier: list[asyncio.Barrier] = []

    async def meet(state: State) -> None:
        if not barrier:
            barrier.append(asyncio.Barrier(3))
        async with asyncio.timeout(PATIENCE):
            await barrier[0].wait()
        met.append(True)

    with run.compile(wide(run, Calls(), a=meet, b=meet, c=meet)) as graph:
        asyncio.run(main(graph))
    assert met == [True] * 3


@pytest.mark.parametrize("way", ["sync", "threads"])
def test_plain_nodes_side_by_side_run_at_the_same_time(database_url: str, way: str) -> None:
    barrier = threading.Barrier(3)

    def meet(state: State) -> None:
        barrier.wait(PATIENCE)

    with Runner(way, database_url) as run:
        graph = run.compile(wide(run, Calls(), a=meet, b=meet, c=meet))
        assert len(run.stream(graph, {"log": []})) == 4


def test_custom_events_after_a_siblings_row(run: Runner) -> None:
    """They are not lost to who follows, nor to who reads on from that row."""
    gone_on = threading.Event()

    def late(state: State) -> dict[str, Any]:
        writer("late")
        return {"log": ["late"]}

    def before(state: State) -> None:
        writer("early")

    def writer(data: str) -> None:
        get_stream_writer()(data)

    builder = StateGraph(State)
    builder.add_node("quick", run.node(lambda state: {"log": ["quick"]})).add_edge(START, "quick")
    builder.add_node("late", run.waiting(gone_on, late, before)).add_edge(START, "late")
    graph, config = run.compile(builder), new_thread()

    def look(chunk: Any) -> None:
        if chunk == ("updates", {"quick": {"log": ["quick"]}}):
            gone_on.set()

    live = run.watch(look, graph, {"log": []}, config, stream_mode=["custom", "updates"])
    assert [chunk for mode, chunk in live if mode == "custom"] == ["early", "late"]
    assert live[-2:] == [("custom", "late"), ("updates", {"late": {"log": ["late"]}})]
    assert run.replay(graph, config, stream_mode=["custom", "updates"]) == live
    assert run.replay(graph, config, after=1, stream_mode=["custom", "updates"])[-2:] == live[-2:]
    followed = run.follow(graph, config, stream_mode=["custom", "updates"])
    assert [chunk for chunk in followed if chunk[0] == "custom"] == [("custom", "early"), ("custom", "late")]
    assert followed[-1] == live[-1]


def test_custom_events_of_a_task_that_failed(run: Runner) -> None:
    @task
    def fail() -> None:
        get_stream_writer()("so far so good")
        raise ValueError("no further")

    @task
    async def afail() -> None:
        get_stream_writer()("so far so good")
        raise ValueError("no further")

    def node(state: State) -> dict[str, Any]:
        with pytest.raises(ValueError, match="no further"):
            fail().result()
        return {"log": ["a"]}

    async def anode(state: State) -> dict[str, Any]:
        with pytest.raises(ValueError, match="no further"):
            await afail()
        return {"log": ["a"]}

    builder = StateGraph(State).add_node("a", anode if run.way == "async" else node).add_edge(START, "a")
    graph, config = run.compile(builder), new_thread()
    live = run.stream(graph, {"log": []}, config, stream_mode=["custom", "updates"])
    assert live == [("custom", "so far so good"), ("updates", {"a": {"log": ["a"]}})]
    assert run.replay(graph, config, stream_mode=["custom", "updates"]) == live
