"""What a thread remembers: resuming, history, updates, time travel, forks, replay, attempts, and who may write."""

import asyncio
import operator
import threading
from collections.abc import Iterator
from contextlib import aclosing
from typing import Annotated, Any, TypedDict

import pytest

from durable_graph import (
    END,
    START,
    ArgumentError,
    CheckpointNotFoundError,
    EmptyInputError,
    GraphRecursionError,
    InvalidUpdateError,
    Log,
    Send,
    StateGraph,
    StateUpdate,
    ThreadBusyError,
    ThreadExistsError,
    ThreadNotFoundError,
    get_runtime,
)
from tests.graphs import MODES, PATIENCE, WAYS, Calls, Runner, State, at, chain, counter, new_thread, nodes_of, wide


@pytest.fixture(params=["sync", "async"])
def run(request: pytest.FixtureRequest, database_url: str) -> Iterator[Runner]:
    with Runner(request.param, database_url) as runner:
        yield runner


def rows(run: Runner, graph: Any, config: Any, **settings: Any) -> list[Any]:
    return run.replay(graph, config, stream_mode="events", **settings)


def log_of(run: Runner, graph: Any, config: Any) -> list[str]:
    return run.get_state(graph, config).values["log"]


class Mine(Exception):
    """Of the consumer's own."""


# --- resume -----------------------------------------------------------------------------------


def test_resume_after_a_node_has_failed(run: Runner) -> None:
    calls, config = Calls(), new_thread()
    graph = run.compile(chain(run, calls, b=calls.failing("b", 2)))
    for _ in range(2):
        with pytest.raises(ValueError, match="b failed"):
            run.invoke(graph, {"log": []} if not calls else None, config)
    assert run.get_state(graph, config).next == ("b",)
    assert run.call(graph, "threads")[0].status == "failed"
    assert run.invoke(graph, None, config) == {"log": ["a", "b", "c"]}
    assert calls == ["a", "b", "b", "b", "c"]
    assert run.call(graph, "threads")[0].status == "finished"


def test_resume_in_another_graph_object_and_after_a_consumer_error(run: Runner) -> None:
    calls, config = Calls(), new_thread()

    def fail(event: Any) -> None:
        raise Mine

    with pytest.raises(Mine):
        run.watch(fail, run.compile(chain(run, calls)), {"log": []}, config)
    assert nodes_of(run.stream(run.compile(chain(run, calls)), None, config)) == ["b", "c"]
    assert calls == ["a", "b", "c"]


def test_resume_again_and_again(run: Runner) -> None:
    """A break after each single event of a loop."""
    calls, config = Calls(), new_thread()
    graph = run.compile(counter(run, 6))
    seen = run.first(1, graph, {"n": 0}, config)
    for _ in range(5):
        seen += run.first(1, graph, None, config)
    assert seen == [{"count": {"n": number}} for number in range(1, 7)]
    with pytest.raises(EmptyInputError):
        run.stream(graph, None, config)
    assert calls == []


def test_finished_siblings_of_a_failed_task_are_not_run_again(run: Runner) -> None:
    """b fails once a and c have ended and been recorded."""
    calls, config, others = Calls(), new_thread(), threading.Event()
    fail = run.waiting(others, calls.failing("b"))
    graph = run.compile(wide(run, calls, b=fail))
    seen: list[Any] = []

    def note(event: Any) -> None:
        seen.append(event)
        if len(seen) == 2:
            others.set()

    with pytest.raises(ValueError, match="b failed"):
        run.watch(note, graph, {"log": ["in"]}, config)
    assert sorted(nodes_of(seen)) == ["a", "c"]
    assert nodes_of(run.stream(graph, None, config)) == ["b", "end"]
    assert sorted(calls) == ["a", "b", "b", "c", "end"]
    assert log_of(run, graph, config) == ["in", "a", "b", "c", "end"]


def test_siblings_still_at_work_when_a_task_fails_are_kept(run: Runner) -> None:
    """a fails at once; b is at work by then, is waited for, and is not run again."""
    calls, config = Calls(), new_thread()
    begun, failed = threading.Event(), threading.Event()
    fail = calls.failing("a")

    def failing(state: State) -> Any:
        failed.set()
        return fail(state)

    def begin(state: State) -> None:
        begun.set()

    nodes = {"a": run.waiting(begun, failing), "b": run.waiting(failed, calls.node("b"), begin)}
    graph = run.compile(wide(run, calls, "ab", **nodes))
    with pytest.raises(ValueError, match="a failed"):
        run.invoke(graph, {"log": []}, config)
    assert sorted(nodes_of(run.replay(graph, config))) == ["b"]
    assert nodes_of(run.stream(graph, None, config)) == ["a", "end"]
    assert calls.count("b") == 1


def test_several_failures_are_all_told(run: Runner) -> None:
    calls, config, both = Calls(), new_thread(), threading.Event()

    def begin(state: State) -> None:
        begun.append(1)
        if len(begun) == 2:
            both.set()

    begun: list[int] = []
    nodes = {name: run.waiting(both, calls.failing(name), begin) for name in "ab"}
    graph = run.compile(wide(run, calls, "ab", **nodes))
    with pytest.raises(ValueError, match=r"[ab] failed") as caught:
        run.invoke(graph, {"log": []}, config)
    told = "\n".join([str(caught.value), *caught.value.__notes__])
    assert "a failed" in told
    assert "b failed" in told
    failed = {event.node: event.metadata["error"] for event in rows(run, graph, config) if event.kind == "error"}
    assert {node: error["message"] for node, error in failed.items()} == {"a": "a failed", "b": "b failed"}
    assert {error["type"] for error in failed.values()} == {"builtins.ValueError"}
    assert all("Traceback" in error["traceback"] for error in failed.values())
    assert run.invoke(graph, None, config) == {"log": ["a", "b", "end"]}


def test_an_error_is_a_row(run: Runner) -> None:
    calls, config = Calls(), new_thread()
    graph = run.compile(chain(run, calls, "ab", b=calls.failing("b")))
    with pytest.raises(ValueError, match="b failed"):
        run.invoke(graph, {"log": []}, config)
    run.invoke(graph, None, config)
    assert [(event.step, event.kind, event.node) for event in rows(run, graph, config)] == [
        (0, "input", None),
        (1, "task", "a"),
        (2, "error", "b"),
        (3, "resume", None),
        (4, "task", "b"),
    ]


# --- get_state --------------------------------------------------------------------------------


def half_done(run: Runner, calls: Calls, config: Any) -> Any:
    """A thread within a superstep: a and c have ended, b has failed."""
    others = threading.Event()
    graph = run.compile(wide(run, calls, b=run.waiting(others, calls.failing("b"))))
    seen: list[Any] = []

    def note(event: Any) -> None:
        seen.append(event)
        if len(seen) == 2:
            others.set()

    with pytest.raises(ValueError, match="b failed"):
        run.watch(note, graph, {"log": ["in"]}, config)
    return graph


def test_get_state_within_a_superstep(run: Runner) -> None:
    config = new_thread()
    graph = half_done(run, Calls(), config)
    snapshot = run.get_state(graph, config)
    assert snapshot.values == {"log": ["in"]}  # at the last barrier
    assert snapshot.next == ("b",)
    assert [(task.name, task.result) for task in snapshot.tasks] == [
        ("a", {"log": ["a"]}),
        ("b", None),
        ("c", {"log": ["c"]}),
    ]
    assert [task.error for task in snapshot.tasks] == [None, "builtins.ValueError: b failed", None]
    assert snapshot.config == at(snapshot.config, 3)
    assert snapshot.interrupts == ()


def test_get_state_of_a_finished_thread(run: Runner) -> None:
    graph, config = run.compile(chain(run, Calls())), new_thread()
    run.invoke(graph, {"log": []}, {**config, "metadata": {"user": "ann"}})
    snapshot = run.get_state(graph, config)
    thread_id = config["configurable"]["thread_id"]
    assert snapshot.values == {"log": ["a", "b", "c"]}
    assert snapshot.next == ()
    assert snapshot.tasks == ()
    assert snapshot.config == {
        "configurable": {"thread_id": thread_id, "checkpoint_ns": "", "checkpoint_id": "3", "step": 3}
    }
    assert snapshot.parent_config == at(snapshot.config, 2) | {
        "configurable": {"thread_id": thread_id, "checkpoint_ns": "", "checkpoint_id": "2", "step": 2}
    }
    assert snapshot.metadata["user"] == "ann"
    assert snapshot.metadata["source"] == "loop"
    assert snapshot.created_at is not None
    first = run.get_state(graph, at(config, 0))
    assert first.parent_config is None
    assert first.metadata["source"] == "input"


def test_get_state_of_every_step(run: Runner) -> None:
    graph, config = run.compile(wide(run, Calls())), new_thread()
    live = run.stream(graph, {"log": []}, config, stream_mode="events")
    for event in live:
        snapshot = run.get_state(graph, at(config, event.step))
        assert (snapshot.values, snapshot.next) == (event.values, event.next)
        assert snapshot.created_at == event.created_at


def test_a_thread_that_does_not_exist(run: Runner) -> None:
    graph, config = run.compile(chain(run, Calls())), new_thread()
    snapshot = run.get_state(graph, config)
    assert snapshot.values == {}
    assert snapshot.next == ()
    assert snapshot.created_at is None
    assert run.history(graph, config) == []
    assert run.call(graph, "threads") == []


# --- history ----------------------------------------------------------------------------------


def test_history_lists_barriers_newest_first(run: Runner) -> None:
    graph, config = run.compile(wide(run, Calls())), new_thread()
    run.invoke(graph, {"log": []}, config)
    history = run.history(graph, config)
    assert [snapshot.values["log"] for snapshot in history] == [[*"abc", "end"], [*"abc"], []]
    assert [snapshot.next for snapshot in history] == [(), ("end",), ("a", "b", "c")]
    assert [snapshot.config["configurable"]["step"] for snapshot in history] == [4, 3, 0]
    assert history == [run.get_state(graph, snapshot.config) for snapshot in history]


def test_history_shows_what_each_task_returned(run: Runner) -> None:
    """As in LangGraph: the tasks of a past barrier have their results, and failed ones their errors."""
    config = new_thread()
    graph = run.compile(chain(run, Calls(), "ab"))
    run.invoke(graph, {"log": []}, config)
    shown = [[(task.name, task.result) for task in snapshot.tasks] for snapshot in run.history(graph, config)]
    assert shown == [[], [("b", {"log": ["b"]})], [("a", {"log": ["a"]})]]


def test_history_shows_what_became_of_a_superstep(run: Runner) -> None:
    """While it is under way, and after it: a failure is told even where the task has a result by now."""
    config = new_thread()
    graph = half_done(run, Calls(), config)

    def tasks() -> list[Any]:
        barrier = run.history(graph, config)[-1]
        assert barrier == run.get_state(graph, barrier.config)
        assert barrier.next == ("a", "b", "c")
        return [(task.name, task.result, task.error) for task in barrier.tasks]

    error = "builtins.ValueError: b failed"
    assert tasks() == [("a", {"log": ["a"]}, None), ("b", None, error), ("c", {"log": ["c"]}, None)]
    run.stream(graph, None, config)
    assert tasks() == [("a", {"log": ["a"]}, None), ("b", {"log": ["b"]}, error), ("c", {"log": ["c"]}, None)]


def test_history_of_a_superstep_that_is_longer_than_a_window(run: Runner) -> None:
    builder = StateGraph(State).add_node("part", run.node(lambda arg: {"log": [arg]}))
    builder.add_conditional_edges(START, run.node(lambda s: [Send("part", str(i)) for i in range(150)]), ["part"])
    graph, config = run.compile(builder), new_thread()
    run.invoke(graph, {"log": []}, config)
    first = run.history(graph, config)[-1]
    assert [task.result for task in first.tasks] == [{"log": [str(i)]} for i in range(150)]
    assert list(run.history(graph, config, before=at(config, 1))) == [first]


def test_history_with_filter_before_and_limit(run: Runner) -> None:
    graph, config = run.compile(chain(run, Calls())), new_thread()
    run.invoke(graph, {"log": []}, {**config, "metadata": {"user": "ann"}})
    run.invoke(graph, {"log": []}, {**config, "metadata": {"user": "bob"}})

    def steps(**settings: Any) -> list[int]:
        return [snapshot.config["configurable"]["step"] for snapshot in run.history(graph, config, **settings)]

    assert steps() == [7, 6, 5, 4, 3, 2, 1, 0]
    assert steps(limit=3) == [7, 6, 5]
    assert steps(limit=0) == []
    assert steps(before=at(config, 5)) == [4, 3, 2, 1, 0]
    assert steps(before=at(config, 5), limit=2) == [4, 3]
    assert steps(filter={"user": "ann"}) == [3, 2, 1, 0]
    assert steps(filter={"source": "input"}) == [4, 0]
    assert steps(filter={"source": "input", "user": "bob"}) == [4]
    assert steps(filter={"user": "ann"}, limit=1) == [3]
    assert steps(filter={"user": "eve"}) == []
    assert steps(filter={"superstep": 5}) == [5]
    assert [s.config["configurable"]["step"] for s in run.history(graph, at(config, 2))] == [2, 1, 0]


def test_a_long_history(run: Runner) -> None:
    graph, config = run.compile(counter(run, 150)), new_thread()
    run.invoke(graph, {"n": 0}, config)
    history = run.history(graph, config)
    assert [snapshot.values["n"] for snapshot in history] == [*range(150, -1, -1)]
    some = run.history(graph, config, limit=2, before=at(config, 100))
    assert [snapshot.values["n"] for snapshot in some] == [99, 98]


def test_history_of_a_thread_that_has_gone_back_in_time(run: Runner) -> None:
    graph, config = run.compile(chain(run, Calls(), "ab")), new_thread()
    run.invoke(graph, {"log": ["in"]}, config)
    run.invoke(graph, None, at(config, 1))  # b again
    for snapshot in run.history(graph, config):
        assert snapshot == run.get_state(graph, snapshot.config)
    logs = [snapshot.values["log"] for snapshot in run.history(graph, config)]
    assert logs == [["in", "a", "b"], ["in", "a", "b"], ["in", "a"], ["in"]]


# --- update_state -----------------------------------------------------------------------------


def test_update_state_stands_for_the_node_that_ran_last(run: Runner) -> None:
    calls, config = Calls(), new_thread()
    graph = run.compile(chain(run, calls))
    run.first(1, graph, {"log": []}, config)
    named = run.update_state(graph, config, {"log": ["mine"], "n": 5})
    assert named == run.get_state(graph, config).config
    snapshot = run.get_state(graph, config)
    assert snapshot.values == {"log": ["a", "mine"], "n": 5}
    assert snapshot.next == ("b",)
    assert snapshot.metadata["source"] == "update"
    assert run.invoke(graph, None, named) == {"log": ["a", "mine", "b", "c"], "n": 5}
    assert calls == ["a", "b", "c"]


def test_update_state_as_a_node(run: Runner) -> None:
    calls, config = Calls(), new_thread()
    graph = run.compile(chain(run, calls))
    run.first(1, graph, {"log": []}, config)
    run.update_state(graph, config, {"log": ["as b"]}, as_node="b")
    assert run.get_state(graph, config).next == ("c",)
    assert run.invoke(graph, None, config) == {"log": ["a", "as b", "c"]}
    assert calls == ["a", "c"]


def test_update_state_as_end_ends_the_run(run: Runner) -> None:
    graph, config = run.compile(chain(run, Calls())), new_thread()
    run.first(1, graph, {"log": []}, config)
    run.update_state(graph, config, {"log": ["done"]}, as_node=END)
    assert run.get_state(graph, config).values == {"log": ["a", "done"]}
    assert run.get_state(graph, config).next == ()
    assert run.call(graph, "threads")[0].status == "finished"
    with pytest.raises(EmptyInputError):
        run.stream(graph, None, config)
    assert run.invoke(graph, {"log": ["new"]}, config)["log"] == ["a", "done", "new", "a", "b", "c"]


def test_update_state_on_a_new_thread(run: Runner) -> None:
    graph, config = run.compile(chain(run, Calls())), new_thread()
    run.update_state(graph, config, {"log": ["first"]})
    assert run.get_state(graph, config).next == ("a",)
    assert run.invoke(graph, None, config) == {"log": ["first", "a", "b", "c"]}
    config = new_thread()
    run.update_state(graph, config, {"log": ["first"]}, as_node="b")
    assert run.invoke(graph, None, config) == {"log": ["first", "c"]}


def test_update_state_asks_the_router_of_its_node(run: Runner) -> None:
    graph, config = run.compile(counter(run, 5)), new_thread()
    run.invoke(graph, {"n": 3}, config)
    run.update_state(graph, config, {"n": 4}, as_node="count")
    assert run.get_state(graph, config).next == ("count",)
    run.update_state(graph, config, {"n": 8}, as_node="count")
    assert run.get_state(graph, config).next == ()


def test_update_state_of_nothing(run: Runner) -> None:
    graph, config = run.compile(chain(run, Calls())), new_thread()
    run.first(1, graph, {"log": []}, config)
    run.update_state(graph, config, None, as_node="b")
    assert run.get_state(graph, config).values == {"log": ["a"]}
    assert run.get_state(graph, config).next == ("c",)


def test_update_state_needs_to_know_the_node_where_several_ran(run: Runner) -> None:
    graph, config = run.compile(wide(run, Calls(), "ab")), new_thread()
    run.first(2, graph, {"log": []}, config)
    with pytest.raises(InvalidUpdateError, match=r"a, b.*as_node"):
        run.update_state(graph, config, {"log": ["mine"]})
    run.update_state(graph, config, {"log": ["mine"]}, as_node="end")
    assert log_of(run, graph, config) == ["a", "b", "mine"]


def test_update_state_within_a_superstep(run: Runner) -> None:
    """It takes the place of the failed task: its siblings' work counts, and the join goes on."""
    calls, config = Calls(), new_thread()
    graph = half_done(run, calls, config)
    run.update_state(graph, config, {"log": ["for b"]}, as_node="b")
    assert log_of(run, graph, config) == ["in", "a", "c", "for b"]
    assert run.get_state(graph, config).next == ("end",)
    assert nodes_of(run.stream(graph, None, config)) == ["end"]
    assert calls.count("b") == 1


def test_update_state_for_a_task(run: Runner) -> None:
    """The pending task is named by its id, where several are of one node."""
    builder = StateGraph(State)
    builder.add_node("part", run.node(lambda arg: {"log": [arg]})).add_node("end", run.node(lambda s: {"log": ["end"]}))
    builder.add_conditional_edges(START, run.node(lambda s: [Send("part", "x"), Send("part", "y")]), ["part"])
    graph, config = run.compile(builder.add_edge("part", "end"), interrupt_before=["part"]), new_thread()
    run.invoke(graph, {"log": []}, config)
    first, second = run.get_state(graph, config).tasks
    run.update_state(graph, config, {"log": ["mine"]}, task_id=second.id)
    assert run.get_state(graph, config).next == ("end",)
    with pytest.raises(InvalidUpdateError, match=rf"no pending task '{first.id}'.*end"):
        run.update_state(graph, config, {"log": ["mine"]}, task_id=first.id)
    assert run.invoke(graph, None, config)["log"] == ["mine", "end"]


def test_several_updates(run: Runner) -> None:
    """One row for each superstep, as if these nodes had returned them side by side."""
    calls, config = Calls(), new_thread()
    graph = run.compile(wide(run, calls, "ab"))
    supersteps = [
        [StateUpdate({"log": ["in"]}, START)],
        [StateUpdate({"log": ["as a"]}, "a"), StateUpdate({"log": ["as b"], "n": 2}, "b")],
    ]
    named = run.call(graph, "bulk_update_state", config, supersteps)
    assert named == run.get_state(graph, config).config == at(named, 1)
    assert run.get_state(graph, config).values == {"log": ["in", "as a", "as b"], "n": 2}
    assert run.get_state(graph, config).next == ("end",)
    assert run.get_state(graph, at(config, 0)).next == ("a", "b")
    assert [(event.kind, event.update) for event in rows(run, graph, config)] == [
        ("update", {"log": ["in"]}),
        ("update", [{"log": ["as a"]}, {"log": ["as b"], "n": 2}]),
    ]
    run.update_state(graph, at(config, 1), {"log": ["more"]}, as_node="a")  # two nodes ran last: one has to be named
    with pytest.raises(InvalidUpdateError, match="as_node"):
        run.update_state(graph, at(config, 1), {"log": ["more"]})
    assert run.invoke(graph, None, at(config, 1))["log"] == ["in", "as a", "as b", "end"]
    assert calls == ["end"]


def test_several_updates_are_checked(run: Runner) -> None:
    graph, config = run.compile(wide(run, Calls(), "ab")), new_thread()
    for nothing in ([], [[]]):
        with pytest.raises(ArgumentError, match="supersteps"):
            run.call(graph, "bulk_update_state", config, nothing)
    two_writes = [[StateUpdate({"n": 1}, "a"), StateUpdate({"n": 2}, "b")]]
    with pytest.raises(InvalidUpdateError, match="'n' is written twice in one superstep"):
        run.call(graph, "bulk_update_state", config, two_writes)
    with pytest.raises(InvalidUpdateError, match="as_node"):
        run.call(graph, "bulk_update_state", config, [[StateUpdate({"n": 1}, "a"), StateUpdate({"log": []})]])
    assert run.get_state(graph, config).created_at is None
    with pytest.raises(InvalidUpdateError, match="no node 'x'"):  # the superstep before stays
        run.call(graph, "bulk_update_state", config, [[StateUpdate({"n": 1}, "a")], [StateUpdate({"n": 2}, "x")]])
    assert run.get_state(graph, config).values["n"] == 1


def test_update_state_on_a_thread_that_runs(run: Runner) -> None:
    graph, config = run.compile(chain(run, Calls())), new_thread()
    errors: list[ThreadBusyError] = []

    def meddle(event: Any) -> None:
        if "c" in event:
            return  # the thread's last row: its lease went with it
        with pytest.raises(ThreadBusyError, match="is being run by") as caught:
            graph.update_state(config, {"log": ["meddled"]})
        errors.append(caught.value)

    run.watch(meddle, graph, {"log": []}, config)
    assert len(errors) == 2
    assert log_of(run, graph, config) == ["a", "b", "c"]


# --- time travel ------------------------------------------------------------------------------


def test_going_on_from_every_step(run: Runner) -> None:
    """Old rows stay, the thread's newest state is the new branch's."""
    calls = Calls()
    graph = run.compile(wide(run, calls))
    for step in range(4):
        config = new_thread()
        run.invoke(graph, {"log": ["in"]}, config)
        before = rows(run, graph, config)
        done = {event.node for event in before[1 : step + 1]}
        calls.clear()
        events = run.stream(graph, None, at(config, step), stream_mode="events")
        assert [event.kind for event in events] == ["resume"] + ["task"] * (4 - step)
        assert events[0].metadata["parent_step"] == step
        assert [event.step for event in events] == [*range(5, 5 + len(events))]
        assert sorted(calls) == sorted({"a", "b", "c", "end"} - done)
        after = rows(run, graph, config)
        assert after[:5] == before
        assert after[5:] == events
        assert log_of(run, graph, config) == ["in", "a", "b", "c", "end"]
        assert run.get_state(graph, config).next == ()


def test_new_input_at_a_step(run: Runner) -> None:
    graph, config = run.compile(chain(run, Calls(), "ab")), new_thread()
    run.invoke(graph, {"log": ["in"]}, config)
    assert run.invoke(graph, {"log": ["other"]}, at(config, 1)) == {"log": ["in", "a", "other", "a", "b"]}
    assert [(event.step, event.metadata["parent_step"]) for event in rows(run, graph, config)] == [
        (0, None),
        (1, 0),
        (2, 1),
        (3, 1),
        (4, 3),
        (5, 4),
    ]
    assert log_of(run, graph, at(config, 2)) == ["in", "a", "b"]
    assert log_of(run, graph, config) == ["in", "a", "other", "a", "b"]


def test_an_update_at_a_step(run: Runner) -> None:
    graph, config = run.compile(chain(run, Calls())), new_thread()
    run.invoke(graph, {"log": []}, config)
    named = run.update_state(graph, at(config, 1), {"log": ["changed"]})
    assert named["configurable"]["step"] == 4
    assert run.get_state(graph, named).parent_config["configurable"]["step"] == 1
    assert run.invoke(graph, None, named) == {"log": ["a", "changed", "b", "c"]}
    assert log_of(run, graph, config) == ["a", "changed", "b", "c"]
    assert log_of(run, graph, at(config, 3)) == ["a", "b", "c"]


def test_branches_of_branches(run: Runner) -> None:
    """The log is a tree: each branch goes on from its own parent, and the head is the newest row."""
    graph, config = run.compile(counter(run, 4)), new_thread()
    run.invoke(graph, {"n": 0}, config)  # steps 0 to 4
    run.first(1, graph, None, at(config, 2))  # 5: resume, 6: n=3
    run.first(1, graph, None, at(config, 1))  # 7: resume, 8: n=2
    assert run.get_state(graph, config).values == {"n": 2, "log": []}
    assert run.get_state(graph, at(config, 6)).values == {"n": 3, "log": []}
    run.update_state(graph, at(config, 6), {"n": 0})  # 9
    assert run.invoke(graph, None, config)["n"] == 4
    assert run.get_state(graph, at(config, 8)).values["n"] == 2
    for event in rows(run, graph, config):
        assert run.get_state(graph, at(config, event.step)).values == event.values
    assert run.call(graph, "verify", config).ok


def test_what_was_pending_elsewhere_in_the_tree_is_left_alone(run: Runner) -> None:
    """Going back to an earlier step of an unfinished thread does not run what was pending at its head."""
    calls, config = Calls(), new_thread()
    graph = run.compile(chain(run, calls))
    run.first(2, graph, {"log": []}, config)
    assert nodes_of(run.stream(graph, None, at(config, 0))) == ["a", "b", "c"]
    assert calls == ["a", "b", "a", "b", "c"]
    assert nodes_of(run.stream(graph, None, at(config, 2))) == ["c"]


def test_tasks_of_another_branch_are_other_tasks(run: Runner) -> None:
    """Their idempotency keys differ, and they begin with the first attempt."""
    seen: list[Any] = []

    def node(state: State, runtime: Any) -> None:
        seen.append((runtime.idempotency_key, runtime.attempt))

    graph, config = run.compile(chain(run, Calls(), "a", a=node)), new_thread()
    run.invoke(graph, {"log": []}, config)
    run.invoke(graph, None, at(config, 0))
    run.invoke(graph, None, at(config, 0))
    assert len({key for key, _ in seen}) == 3
    assert [attempt for _, attempt in seen] == [1, 1, 1]


@pytest.mark.parametrize("step", [99, -1])
def test_a_step_that_does_not_exist(run: Runner, step: int) -> None:
    graph, config = run.compile(chain(run, Calls())), new_thread()
    run.invoke(graph, {"log": []}, config)
    there = at(config, step)
    calls = {"get_state": (there,), "invoke": (None, there), "update_state": (there, {}), "fork": (there, "x")}
    for call, arguments in calls.items():
        with pytest.raises(CheckpointNotFoundError, match=rf"no step {step}; its steps are 0 to 3"):
            run.call(graph, call, *arguments)
    assert len(rows(run, graph, config)) == 4


# --- fork -------------------------------------------------------------------------------------


def other_thread(config: Any) -> tuple[str, dict[str, Any]]:
    fork = new_thread()
    return fork["configurable"]["thread_id"], fork


def test_a_fork_copies_no_rows_and_is_independent(run: Runner) -> None:
    calls, config = Calls(), new_thread()
    graph = run.compile(chain(run, calls))
    run.first(2, graph, {"log": ["in"]}, config)
    name, fork = other_thread(config)
    assert run.fork(graph, config, name) == at(
        {"configurable": {"thread_id": name, "checkpoint_ns": "", "checkpoint_id": "0"}}, 0
    )
    (row,) = rows(run, graph, fork)
    assert (row.kind, row.thread_id, row.step, row.values) == ("fork", name, 0, {"log": ["in", "a", "b"]})
    snapshot = run.get_state(graph, fork)
    assert snapshot.values == {"log": ["in", "a", "b"]}
    assert snapshot.next == ("c",)
    assert snapshot.metadata["source"] == "fork"
    assert snapshot.parent_config["configurable"] | {"checkpoint_ns": ""} == {
        **config["configurable"],
        "step": 2,
        "checkpoint_id": "2",
        "checkpoint_ns": "",
    }
    assert run.invoke(graph, None, fork) == {"log": ["in", "a", "b", "c"]}
    assert run.get_state(graph, config).next == ("c",)  # the origin still stands where it stood
    run.update_state(graph, config, {"log": ["origin only"]})
    assert run.invoke(graph, None, config)["log"] == ["in", "a", "b", "origin only", "c"]
    assert log_of(run, graph, fork) == ["in", "a", "b", "c"]
    assert calls == ["a", "b", "c", "c"]
    assert run.call(graph, "verify", fork).ok


def test_a_fork_of_any_step_and_of_a_fork(run: Runner) -> None:
    graph, config = run.compile(chain(run, Calls())), new_thread()
    run.invoke(graph, {"log": ["in"]}, config)
    (one, first), (two, second) = other_thread(config), other_thread(config)
    run.fork(graph, at(config, 1), one)
    run.update_state(graph, first, {"log": ["first"]})
    run.fork(graph, first, two)
    assert run.invoke(graph, None, second) == {"log": ["in", "a", "first", "b", "c"]}
    assert run.invoke(graph, None, first) == {"log": ["in", "a", "first", "b", "c"]}
    assert log_of(run, graph, config) == ["in", "a", "b", "c"]
    assert log_of(run, graph, at(second, 0)) == ["in", "a", "first"]
    assert nodes_of(run.replay(graph, second)) == ["b", "c"]
    assert [s.values["log"] for s in run.history(graph, second)] == [
        ["in", "a", "first", "b", "c"],
        ["in", "a", "first", "b"],
        ["in", "a", "first"],
    ]


def test_a_fork_within_a_superstep(run: Runner) -> None:
    """Finished tasks are not run again in the fork either."""
    calls, config = Calls(), new_thread()
    graph = half_done(run, calls, config)
    name, fork = other_thread(config)
    run.fork(graph, config, name)
    assert run.get_state(graph, fork).next == ("b",)
    assert [(task.name, task.result is not None) for task in run.get_state(graph, fork).tasks] == [
        ("a", True),
        ("b", False),
        ("c", True),
    ]
    calls.clear()
    assert nodes_of(run.stream(graph, None, fork)) == ["b", "end"]
    assert calls == ["b", "end"]
    assert log_of(run, graph, fork) == ["in", "a", "b", "c", "end"]
    assert run.get_state(graph, config).next == ("b",)


def test_a_fork_of_a_finished_thread_takes_a_new_input(run: Runner) -> None:
    graph, config = run.compile(chain(run, Calls(), "ab")), new_thread()
    run.invoke(graph, {"log": ["in"]}, config)
    name, fork = other_thread(config)
    run.fork(graph, config, name)
    with pytest.raises(EmptyInputError):
        run.stream(graph, None, fork)
    assert run.invoke(graph, {"log": ["new"]}, fork) == {"log": ["in", "a", "b", "new", "a", "b"]}


def test_time_travel_within_a_fork(run: Runner) -> None:
    graph, config = run.compile(chain(run, Calls())), new_thread()
    run.first(1, graph, {"log": ["in"]}, config)
    name, fork = other_thread(config)
    run.fork(graph, config, name)
    run.invoke(graph, None, fork)
    assert nodes_of(run.stream(graph, None, at(fork, 0))) == ["b", "c"]
    assert log_of(run, graph, fork) == ["in", "a", "b", "c"]
    for event in rows(run, graph, fork):
        assert run.get_state(graph, at(fork, event.step)).values == event.values


def test_what_cannot_be_forked(run: Runner) -> None:
    graph, config = run.compile(chain(run, Calls())), new_thread()
    name, missing = other_thread(config)
    with pytest.raises(ThreadNotFoundError, match="no thread"):
        run.fork(graph, missing, "copy")
    run.invoke(graph, {"log": []}, config)
    run.invoke(graph, {"log": []}, missing)
    with pytest.raises(ThreadExistsError, match=f"already is a thread '{name}'"):
        run.fork(graph, config, name)
    with pytest.raises(ThreadExistsError):
        run.fork(graph, config, config["configurable"]["thread_id"])
    assert log_of(run, graph, missing) == ["a", "b", "c"]


# --- replay -----------------------------------------------------------------------------------


class Many(TypedDict, total=False):
    n: int
    log: Annotated[list[Any], operator.add]
    best: Annotated[int, max]


def eventful(run: Runner, calls: Calls, *, fails: int = 0) -> StateGraph[Many]:
    """A loop, parallel nodes that speak, a map, a node that changes nothing, a join; `c` fails so many times."""
    left = iter(range(fails))

    def speaking(name: str) -> Any:
        def call(state: Any, runtime: Any) -> Any:
            calls.append(name)
            for number in range(3):
                runtime.stream_writer((name, number))
            if name == "c" and next(left, None) is not None:
                raise ValueError("c failed")
            return {"log": [name], "best": len(name)}

        return run.node(call)

    builder = StateGraph(Many)
    builder.add_node("count", run.node(lambda state: {"n": state.get("n", 0) + 1}))
    builder.add_node("quiet", run.node(lambda state: None))
    builder.add_node("part", run.node(lambda arg: {"log": [arg]}))
    for name in ("a", "b", "c", "end"):
        builder.add_node(name, speaking(name))
    builder.add_edge(START, "count")
    builder.add_conditional_edges("count", lambda state: "count" if state["n"] < 3 else ["a", "b", "c"])
    builder.add_edge(["a", "b", "c"], "quiet")
    builder.add_conditional_edges("quiet", lambda state: [Send("part", i) for i in range(3)], ["part"])
    builder.add_edge("part", "end")
    return builder


ALL = list(MODES)


@pytest.mark.parametrize("mode", [*MODES, ALL], ids=str)
def test_replay_equals_live(run: Runner, mode: Any) -> None:
    graph, config = run.compile(eventful(run, Calls())), new_thread()
    live = run.stream(graph, {"n": 0}, config, stream_mode=mode)
    assert run.replay(graph, config, stream_mode=mode) == live
    assert len(live) > 3


@pytest.mark.parametrize("mode", [*MODES, ALL], ids=str)
def test_replay_equals_live_with_breaks_and_errors(run: Runner, mode: Any) -> None:
    """Whatever was recorded though nobody looked is the replay's as well, in its place."""
    graph, config = run.compile(eventful(run, Calls(), fails=2)), new_thread()
    live: list[Any] = []
    with pytest.raises(GraphRecursionError):
        run.watch(live.append, graph, {"n": 0}, {**config, "recursion_limit": 2}, stream_mode=mode)
    for _ in range(2):
        with pytest.raises(ValueError, match="c failed"):
            run.watch(live.append, graph, None, config, stream_mode=mode)
    run.watch(live.append, graph, None, config, stream_mode=mode)
    run.update_state(graph, config, {"log": ["update"]}, as_node="quiet")
    live += rows_of_updates(run, graph, config, mode)
    run.watch(live.append, graph, None, config, stream_mode=mode)
    run.watch(live.append, graph, {"n": 2}, config, stream_mode=mode)
    run.watch(live.append, graph, None, at(config, 1), stream_mode=mode)
    assert run.replay(graph, config, stream_mode=mode) == live


def rows_of_updates(run: Runner, graph: Any, config: Any, mode: Any) -> list[Any]:
    """What replay shows of the newest row, which update_state made and no stream."""
    step = run.get_state(graph, config).config["configurable"]["step"]
    return run.replay(graph, config, after=step - 1, until=step, stream_mode=mode)


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_replay_equals_live_after_a_break_between_supersteps(run: Runner, mode: str) -> None:
    graph, config = run.compile(chain(run, Calls(), "abcd")), new_thread()
    live = run.first(2, graph, {"log": []}, config, stream_mode="updates")
    assert run.replay(graph, config) == live
    shown = run.replay(graph, config, stream_mode=mode)
    shown += run.stream(graph, None, config, stream_mode=mode)
    assert run.replay(graph, config, stream_mode=mode) == shown


def test_replay_equals_live_when_results_and_custom_events_come_together(database_url: str) -> None:
    """While the consumer thinks, a ends, b sends, b ends: told in that order, live as in the replay."""
    run, config = Runner("async", database_url), new_thread()
    thinking, ended = asyncio.Event(), asyncio.Event()

    async def a(state: State, writer: Any) -> dict[str, Any]:
        writer("a speaks")
        await thinking.wait()
        return {"log": ["a"]}

    async def b(state: State, writer: Any) -> dict[str, Any]:
        await thinking.wait()
        for _ in range(5):
            await asyncio.sleep(0)  # a has ended by now
        writer("b speaks")
        ended.set()
        return {"log": ["b"]}

    async def main(graph: Any) -> list[Any]:
        live = []
        async with aclosing(graph.astream({"log": []}, config, stream_mode=ALL)) as stream:
            async for chunk in stream:
                live.append(chunk)
                if chunk == ("custom", "a speaks"):
                    thinking.set()
                    await ended.wait()
        return live

    builder = StateGraph(State).add_node("a", a).add_node("b", b).add_edge(START, "a").add_edge(START, "b")
    with run.compile(builder) as graph:
        live = asyncio.run(main(graph))
        assert run.replay(graph, config, stream_mode=ALL) == live


def test_replay_after_until_and_run_id(run: Runner) -> None:
    graph, config = run.compile(chain(run, Calls(), "ab")), new_thread()
    run.invoke(graph, {"log": []}, config)
    run.invoke(graph, {"log": []}, config)
    whole = rows(run, graph, config)
    assert [event.step for event in whole] == [0, 1, 2, 3, 4, 5]
    for after in range(-1, 6):
        assert rows(run, graph, config, after=after) == whole[after + 1 :]
        for until_ in range(6):
            assert rows(run, graph, config, after=after, until=until_) == whole[after + 1 : until_ + 1]
    ids = [event.metadata["run_id"] for event in whole]
    assert rows(run, graph, config, run_id=ids[0]) == whole[:3]
    assert rows(run, graph, config, run_id=ids[5]) == whole[3:]
    assert rows(run, graph, config, run_id=ids[5], after=4) == whole[5:]
    assert rows(run, graph, config, run_id="none") == []


def test_replay_after_a_step_in_the_middle_of_a_superstep(run: Runner) -> None:
    graph, config = run.compile(eventful(run, Calls())), new_thread()
    run.invoke(graph, {"n": 0}, config)
    whole = rows(run, graph, config)
    for step in range(len(whole)):
        assert rows(run, graph, config, after=step) == whole[step + 1 :]


def test_replay_of_what_nobody_saw(run: Runner) -> None:
    """Finished but unread events of a broken-off superstep are the replay's, not the continued stream's."""
    calls, config = Calls(), new_thread()
    graph = run.compile(wide(run, calls))
    first = run.first(1, graph, {"log": []}, config)
    rest = run.stream(graph, None, config)
    replayed = nodes_of(run.replay(graph, config))
    assert sorted(replayed) == ["a", "b", "c", "end"]
    assert nodes_of(rest) == replayed[-len(rest) :]
    assert nodes_of(first) == replayed[:1]


def test_reading_runs_no_user_code_and_needs_no_graph(run: Runner) -> None:
    calls, config = Calls(), new_thread()
    graph = run.compile(eventful(run, calls))
    run.invoke(graph, {"n": 0}, config)
    done = len(calls)
    another = StateGraph(Many).add_node("other", run.node(lambda state: calls.append("other"))).add_edge(START, "other")
    expected = run.replay(graph, config)
    with Log(run.url) as log:
        assert run.replay(log, config) == expected  # type: ignore[arg-type]
        assert run.get_state(log, config).values == run.get_state(graph, config).values  # type: ignore[arg-type]
        assert len(run.history(log, config)) == len(run.history(graph, config))  # type: ignore[arg-type]
        assert log.verify(config).ok
    assert run.replay(run.compile(another), config) == expected
    assert len(calls) == done


# --- follow -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["updates", "events", ["updates", "values", "custom"]], ids=str)
def test_follow_a_running_thread_to_its_end(run: Runner, mode: Any) -> None:
    calls, config, begun, go = Calls(), new_thread(), threading.Event(), threading.Event()
    slow = run.waiting(go, calls.node("b"), lambda state: begun.set())
    graph = run.compile(chain(run, calls, b=slow))
    live: list[Any] = []
    runner = threading.Thread(target=lambda: live.extend(run.stream(graph, {"log": []}, config, stream_mode=mode)))
    runner.start()
    assert begun.wait(PATIENCE)
    followed = run.each(lambda item: go.set(), graph, "follow", config, stream_mode=mode, poll=0.002, timeout=PATIENCE)
    runner.join()
    assert followed == live


def test_follow_a_finished_thread_is_its_replay(run: Runner) -> None:
    graph, config = run.compile(eventful(run, Calls())), new_thread()
    run.invoke(graph, {"n": 0}, config)
    for mode in ("updates", "values", "tasks", "checkpoints", "events"):
        assert run.follow(graph, config, stream_mode=mode) == run.replay(graph, config, stream_mode=mode)
    assert [event.step for event in run.follow(graph, config, after=4, stream_mode="events")] == [
        event.step for event in rows(run, graph, config, after=4)
    ]


def test_follow_a_failed_thread_ends(run: Runner) -> None:
    calls, config = Calls(), new_thread()
    graph = run.compile(chain(run, calls, b=calls.failing("b")))
    with pytest.raises(ValueError, match="b failed"):
        run.invoke(graph, {"log": []}, config)
    assert [event.kind for event in run.follow(graph, config, stream_mode="events")] == ["input", "task", "error"]


def test_follow_an_unfinished_thread_until_the_timeout(run: Runner) -> None:
    graph, config = run.compile(chain(run, Calls())), new_thread()
    run.first(1, graph, {"log": []}, config)
    assert nodes_of(run.follow(graph, config, poll=0.001, timeout=0.01)) == ["a"]


def test_follow_and_replay_of_a_thread_that_does_not_exist(run: Runner) -> None:
    graph = run.compile(chain(run, Calls()))
    for call in (run.replay, run.follow):
        with pytest.raises(ThreadNotFoundError, match="Check the id and the database URL"):
            call(graph, new_thread())


# --- attempts ---------------------------------------------------------------------------------


def attempts(run: Runner, fails: int, special: str = "b") -> tuple[Any, list[Any]]:
    seen: list[Any] = []
    left = iter(range(fails))

    def node(state: State) -> dict[str, Any]:
        runtime = get_runtime()
        seen.append((runtime.attempt, runtime.idempotency_key))
        if next(left, None) is not None:
            raise ValueError("not yet")
        return {"log": [special]}

    return run.compile(chain(run, Calls(), **{special: node})), seen


def test_attempts_after_failures(run: Runner) -> None:
    graph, seen = attempts(run, 3)
    config = new_thread()
    for number in range(3):
        with pytest.raises(ValueError, match="not yet"):
            run.invoke(graph, None if number else {"log": []}, config)
    run.invoke(graph, None, config)
    assert [attempt for attempt, _ in seen] == [1, 2, 3, 4]
    assert len({key for _, key in seen}) == 1
    recorded = [event.metadata["attempt"] for event in rows(run, graph, config) if event.node == "b"]
    assert recorded == [1, 2, 3, 4]


def test_idempotency_keys_differ_between_tasks_threads_and_rounds(run: Runner) -> None:
    keys: list[str] = []
    builder = StateGraph(State)
    builder.add_node("part", run.node(lambda arg, runtime: keys.append(runtime.idempotency_key)))
    builder.add_conditional_edges(START, lambda state: [Send("part", 1), Send("part", 1)])
    graph, config = run.compile(builder), new_thread()
    run.invoke(graph, {"log": []}, config)
    run.invoke(graph, {"log": []}, config)
    run.invoke(graph, {"log": []}, new_thread())
    assert len(set(keys)) == len(keys) == 6


def test_a_task_that_update_state_planned_has_not_begun(run: Runner) -> None:
    graph, seen = attempts(run, 0)
    config = new_thread()
    run.update_state(graph, config, {"log": ["x"]}, as_node="a")
    run.invoke(graph, None, config)
    assert [attempt for attempt, _ in seen] == [1]


def test_a_task_of_a_fork_has_not_begun(run: Runner) -> None:
    graph, seen = attempts(run, 0)
    config = new_thread()
    run.first(1, graph, {"log": []}, config)
    name, fork = other_thread(config)
    run.fork(graph, config, name)
    run.invoke(graph, None, fork)
    assert [attempt for attempt, _ in seen] == [1]


# --- new input on a thread that is not finished ------------------------------------------------


def test_new_input_drops_what_was_pending_and_records_it(run: Runner) -> None:
    calls, config = Calls(), new_thread()
    graph = run.compile(chain(run, calls))
    run.first(1, graph, {"log": ["one"]}, config)
    assert run.invoke(graph, {"log": ["two"]}, config) == {"log": ["one", "a", "two", "a", "b", "c"]}
    assert calls == ["a", "a", "b", "c"]
    assert dropped(run, config, 2) == ["b"]
    assert dropped(run, config, 0) is None


def dropped(run: Runner, config: Any, step: int) -> Any:
    """What the body of a row says was dropped."""
    from durable_graph.opening import open_store

    store = open_store(run.url)
    assert store is not None
    try:
        (row,) = store.rows(config["configurable"]["thread_id"], after=step - 1, until=step)
        return Log(store)._codec.decode(row.body).get("dropped")
    finally:
        store.close()


def test_new_input_after_a_failure_within_a_superstep(run: Runner) -> None:
    calls, config = Calls(), new_thread()
    graph = half_done(run, calls, config)
    assert run.get_state(graph, config).next == ("b",)
    result = run.invoke(graph, {"log": ["new"]}, config)
    assert result == {"log": ["in", "new", "a", "b", "c", "end"]}  # the dropped superstep never reached its barrier
    assert dropped(run, config, 4) == ["b"]
    assert run.call(graph, "threads")[0].status == "finished"


def test_new_input_on_a_finished_thread_goes_on_with_its_state(run: Runner) -> None:
    graph, config = run.compile(chain(run, Calls(), "ab")), new_thread()
    run.invoke(graph, {"n": 1, "log": ["one"]}, config)
    assert run.invoke(graph, {"log": ["two"]}, config) == {"n": 1, "log": ["one", "a", "b", "two", "a", "b"]}
    assert dropped(run, config, 3) is None


def test_new_input_forgets_what_a_join_has_seen(run: Runner) -> None:
    calls, config = Calls(), new_thread()
    builder = StateGraph(State)
    for name in "abcd":
        builder.add_node(name, run.node(calls.node(name)))
    builder.add_edge(START, "a").add_edge(START, "b").add_edge("b", "c").add_edge(["a", "c"], "d")
    graph = run.compile(builder)
    run.first(2, graph, {"log": []}, config)
    assert run.get_state(graph, config).next == ("c",)
    calls.clear()
    run.invoke(graph, {"log": []}, config)
    assert calls.count("d") == 1


# --- one writer -------------------------------------------------------------------------------


@pytest.mark.parametrize("second", WAYS)
def test_two_runs_of_one_thread_in_one_process(run: Runner, second: str) -> None:
    """The second is told who has the thread, and runs no node; afterwards the thread is as if it had not tried."""
    calls, config = Calls(), new_thread()
    graph = run.compile(chain(run, calls))
    other = Runner(second, run.url)
    errors: list[ThreadBusyError] = []

    def collide(event: Any) -> None:
        if "a" not in event:
            return
        for given in ({"log": ["no"]}, None):
            with pytest.raises(ThreadBusyError) as caught:
                in_another_thread(lambda given=given: other.invoke(graph, given, config))
            errors.append(caught.value)

    run.watch(collide, graph, {"log": []}, config)
    assert calls == ["a", "b", "c"]
    first = rows(run, graph, config)[0]
    for error in errors:
        assert error.owner.endswith(first.metadata["run_id"])
        assert error.owner in str(error)
        assert error.since == first.created_at
        assert "graph.follow(config)" in str(error)
    assert len(rows(run, graph, config)) == 4


def in_another_thread(call: Any) -> Any:
    """Under asyncio the consumer is in a loop already; the other run gets a thread with its own."""
    outcome: list[Any] = []

    def work() -> None:
        try:
            outcome.append((call(), None))
        except BaseException as error:
            outcome.append((None, error))

    worker = threading.Thread(target=work)
    worker.start()
    worker.join()
    ((result, error),) = outcome
    if error is not None:
        raise error
    return result


def test_reading_a_thread_that_runs_is_always_allowed(run: Runner) -> None:
    graph, config = run.compile(chain(run, Calls())), new_thread()
    reader = Runner("sync", run.url)

    def read(event: dict[str, Any]) -> None:
        (node,) = event
        assert log_of(reader, graph, config)[-1] == node
        assert nodes_of(reader.replay(graph, config))[-1] == node
        assert reader.history(graph, config)[0].values["log"][-1] == node
        assert graph.verify(config).ok

    run.watch(read, graph, {"log": []}, config)


def test_two_inputs_of_one_batch_on_one_thread(run: Runner) -> None:
    """The one that comes second is refused while the first is at work."""
    calls, config, refused = Calls(), new_thread(), threading.Event()
    graph = run.compile(chain(run, calls, a=run.waiting(refused, calls.node("a"))))
    name = "invoke" if run.way == "sync" else "ainvoke"
    plain = getattr(graph, name)

    def tell(*args: Any, **kwargs: Any) -> Any:
        try:
            return plain(*args, **kwargs)
        except ThreadBusyError:
            refused.set()
            raise

    async def atell(*args: Any, **kwargs: Any) -> Any:
        try:
            return await plain(*args, **kwargs)
        except ThreadBusyError:
            refused.set()
            raise

    setattr(graph, name, tell if run.way == "sync" else atell)
    results = run.call(graph, "batch", [{"log": ["x"]}, {"log": ["x"]}], config, return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["ThreadBusyError", "dict"]
    assert calls == ["a", "b", "c"]
    assert log_of(run, graph, config) == ["x", "a", "b", "c"]


def test_a_batch_raises_the_first_error_and_finishes_the_others(run: Runner) -> None:
    def node(state: State) -> dict[str, Any]:
        if state["n"] == 1:
            raise ValueError("one")
        return {"n": state["n"] * 10}

    graph = run.compile(chain(run, Calls(), "a", a=node))
    configs = [new_thread() for _ in range(3)]
    with pytest.raises(ValueError, match="one"):
        run.call(graph, "batch", [{"n": n} for n in range(3)], configs)
    results = run.call(graph, "batch", [{"n": n} for n in range(3)], return_exceptions=True)
    assert [result if isinstance(result, dict) else str(result) for result in results] == [
        {"n": 0, "log": []},
        "one",
        {"n": 20, "log": []},
    ]


def test_many_threads_side_by_side(run: Runner) -> None:
    graph = run.compile(eventful(run, Calls()))
    configs = [new_thread() for _ in range(8)]
    results = run.call(graph, "batch", [{"n": 0}] * 8, configs)
    assert all(result["n"] == 3 and result["log"][-1] == "end" for result in results)
    for config in configs:
        assert run.call(graph, "verify", config).ok


def test_an_open_iterator_holds_the_thread_and_close_frees_it(database_url: str) -> None:
    run, config = Runner("sync", database_url), new_thread()
    with run.compile(chain(run, Calls())) as graph:
        stream = graph.stream({"log": []}, config)
        next(stream)
        with pytest.raises(ThreadBusyError):
            graph.invoke(None, config)
        stream.close()
        assert graph.invoke(None, config) == {"log": ["a", "b", "c"]}


def test_an_open_async_iterator_holds_the_thread_and_aclose_frees_it(database_url: str) -> None:
    run, config = Runner("async", database_url), new_thread()

    async def main() -> None:
        stream = graph.astream({"log": []}, config)
        await anext(stream)
        with pytest.raises(ThreadBusyError):
            await graph.ainvoke(None, config)
        await stream.aclose()
        assert await graph.ainvoke(None, config) == {"log": ["a", "b", "c"]}

    with run.compile(chain(run, Calls())) as graph:
        asyncio.run(main())


def test_a_deleted_thread_is_gone(run: Runner) -> None:
    graph, config = run.compile(chain(run, Calls())), new_thread()
    run.invoke(graph, {"log": []}, config)
    run.call(graph, "delete_thread", config["configurable"]["thread_id"])
    assert run.get_state(graph, config).created_at is None
    with pytest.raises(ThreadNotFoundError):
        run.call(graph, "delete_thread", config["configurable"]["thread_id"])
    assert run.invoke(graph, {"log": []}, config) == {"log": ["a", "b", "c"]}
