"""The runs of subgraphs: seen from the graph above, addressed by namespace, changed, and gone back to."""

import operator
from collections.abc import Iterator
from typing import Annotated, Any, TypedDict

import pytest

from durable_graph import (
    START,
    ArgumentError,
    Command,
    InvalidUpdateError,
    Log,
    StateGraph,
    StoreUnavailableError,
    ThreadNotFoundError,
    UnknownInterruptError,
    interrupt,
)
from durable_graph.store.memory import MemoryStore
from tests.graphs import Calls, Runner, at, new_thread

KINDS = {"new": None, "kept": True}


class State(TypedDict, total=False):
    log: Annotated[list[str], operator.add]
    x: str


@pytest.fixture(params=["sync", "async"])
def run(request: pytest.FixtureRequest, database_url: str) -> Iterator[Runner]:
    with Runner(request.param, database_url) as runner:
        yield runner


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Whether the subgraph begins anew with each task, or goes on from run to run."""
    return str(request.param)


def asking(calls: Calls) -> Any:
    def ask(state: State) -> State:
        calls.append("ask")
        answer = interrupt("q?")
        return {"log": [f"ask:{answer}"], "x": answer}

    return ask


def below(run: Runner, calls: Calls, kind: str = "new") -> Any:
    """s1 -> ask -> s2"""
    builder = StateGraph(State)
    nodes = [("s1", calls.node("s1")), ("ask", asking(calls)), ("s2", calls.node("s2"))]
    builder.add_sequence([(name, run.node(call)) for name, call in nodes]).add_edge(START, "s1")
    return builder.compile(checkpointer=KINDS[kind])


def above(run: Runner, calls: Calls, subgraph: Any) -> Any:
    """a -> sub -> b"""
    builder = StateGraph(State)
    builder.add_node("a", run.node(calls.node("a"))).add_node("sub", subgraph).add_node("b", run.node(calls.node("b")))
    builder.add_edge(START, "a").add_edge("a", "sub").add_edge("sub", "b")
    return run.compile(builder)


def asked(run: Runner, kind: str = "new") -> tuple[Any, Any, Calls]:
    """A thread that waits for an answer in its subgraph."""
    calls, config = Calls(), new_thread()
    graph = above(run, calls, below(run, calls, kind))
    run.invoke(graph, {"log": []}, config)
    return graph, config, calls


def state_below(run: Runner, graph: Any, config: Any) -> Any:
    return run.get_state(graph, config, subgraphs=True).tasks[0].state


DONE = ["a", "a", "s1", "ask:yes", "s2", "b"]


# --- seen -------------------------------------------------------------------------------------


def test_a_task_names_its_subgraph(run: Runner, kind: str) -> None:
    graph, config, _ = asked(run, kind)
    (task,) = run.get_state(graph, config).tasks
    ns = f"sub:{task.id}" if kind == "new" else "sub"
    assert task.state == {"configurable": {**config["configurable"], "checkpoint_ns": ns}}
    snapshot = run.get_state(graph, task.state)
    assert snapshot == state_below(run, graph, config)
    assert (snapshot.values, snapshot.next) == ({"log": ["a", "s1"]}, ("ask",))
    assert snapshot.interrupts == run.get_state(graph, config).interrupts
    assert snapshot.config["configurable"] | {"checkpoint_ns": ns} == snapshot.config["configurable"]
    assert snapshot.config["configurable"]["thread_id"] == config["configurable"]["thread_id"]
    assert snapshot.parent_config["configurable"]["checkpoint_ns"] == ns
    assert snapshot.metadata["parents"] == {"": "1"}
    assert run.get_state(graph, snapshot.config) == snapshot
    with Log(str(run.url)) as log:  # without the application's graph
        assert log.get_state(config, subgraphs=True).tasks[0].state == snapshot
        assert log.get_state(snapshot.config) == snapshot


def test_the_stream_gives_the_same_namespace(run: Runner, kind: str) -> None:
    calls, config = Calls(), new_thread()
    graph = above(run, calls, below(run, calls, kind))
    live = run.stream(graph, {"log": []}, config, subgraphs=True)
    (task,) = run.get_state(graph, config).tasks
    ns = (task.state["configurable"]["checkpoint_ns"],)
    question = {"__interrupt__": task.interrupts}
    assert live == [((), {"a": {"log": ["a"]}}), (ns, {"s1": {"log": ["s1"]}}), (ns, question), ((), question)]
    assert run.replay(graph, config, subgraphs=True) == live
    assert run.replay(graph, task.state) == [live[1][1], question]
    assert list(run.follow(graph, task.state, timeout=0)) == [live[1][1], question]
    assert run.call(graph, "verify", task.state).ok


def test_history_of_a_subgraph(run: Runner, kind: str) -> None:
    graph, config, _ = asked(run, kind)
    place = run.get_state(graph, config).tasks[0].state
    assert run.invoke(graph, Command(resume="yes"), config)["log"] == DONE
    history = run.history(graph, place)
    assert [snapshot.next for snapshot in history] == [(), ("s2",), ("ask",), ("s1",)]
    assert history[0].values["log"] == ["a", "s1", "ask:yes", "s2"]
    assert [run.get_state(graph, snapshot.config) for snapshot in history] == history
    asking_task = history[2].tasks[0]
    assert asking_task.result == {"log": ["ask:yes"], "x": "yes"}
    assert [found.value for found in asking_task.interrupts] == ["q?"]
    assert [s.next for s in run.history(graph, place, before=history[1].config)] == [("ask",), ("s1",)]
    assert [s.next for s in run.history(graph, history[2].config, limit=1)] == [("ask",)]


def test_history_names_the_subgraphs_of_finished_tasks(run: Runner, kind: str) -> None:
    graph, config, _ = asked(run, kind)
    place = run.get_state(graph, config).tasks[0].state
    run.invoke(graph, Command(resume="yes"), config)
    states = [[task.state for task in snapshot.tasks] for snapshot in run.history(graph, config)]
    assert states == [[], [None], [place], [None]]
    past = run.history(graph, config)[2].config
    then = run.get_state(graph, past, subgraphs=True)
    assert then.tasks[0].result["x"] == "yes"
    assert then.tasks[0].state.next == ()
    assert then.tasks[0].state.values["log"][-1] == "s2"


def test_state_at_a_step_of_the_past_shows_the_subgraph_as_it_was(run: Runner, kind: str) -> None:
    graph, config, _ = asked(run, kind)
    before = run.get_state(graph, config, subgraphs=True)
    run.invoke(graph, Command(resume="yes"), config)
    assert run.get_state(graph, before.config, subgraphs=True) == before


def test_nested_subgraphs(run: Runner, kind: str) -> None:
    calls, config = Calls(), new_thread()
    middle = StateGraph(State).add_node("inner", below(run, calls, kind)).add_edge(START, "inner")
    graph = above(run, calls, middle.compile(checkpointer=KINDS[kind]))
    run.invoke(graph, {"log": []}, config)
    inner = state_below(run, graph, config).tasks[0].state
    assert (inner.values["log"], inner.next) == (["a", "s1"], ("ask",))
    assert len(inner.config["configurable"]["checkpoint_ns"].split("|")) == 2
    assert run.get_state(graph, inner.config) == inner
    run.update_state(graph, inner.config, {"log": ["mine"]})
    assert run.invoke(graph, Command(resume="yes"), config)["log"] == ["a", "a", "a", "s1", "mine", *DONE[3:]]
    again = run.stream(graph, Command(resume="other"), inner.config, subgraphs=True)
    assert [next(iter(chunk)) for _, chunk in again] == ["ask", "s2", "inner", "sub", "b"]
    assert run.get_state(graph, config).values["log"] == ["a", "a", "a", "s1", "ask:other", "s2", "b"]


def test_subgraphs_called_in_a_function(run: Runner, kind: str) -> None:
    """The first has ended, the second asks: it is the one that the task shows."""
    calls, config = Calls(), new_thread()
    first = StateGraph(State).add_node("one", run.node(calls.node("one"))).add_edge(START, "one")
    one, two = first.compile(checkpointer=KINDS[kind]), below(run, calls, kind)

    def plain(state: State) -> State:
        return {"log": one.invoke({"log": []})["log"] + two.invoke({"log": []})["log"]}

    async def coroutine(state: State) -> State:
        return {"log": (await one.ainvoke({"log": []}))["log"] + (await two.ainvoke({"log": []}))["log"]}

    graph = above(run, calls, coroutine if run.way == "async" else plain)
    run.invoke(graph, {"log": []}, config)
    task = run.get_state(graph, config, subgraphs=True).tasks[0]
    ns = f"sub:{task.id}" if kind == "new" else "sub"
    assert task.state.next == ("ask",)
    assert task.state.config["configurable"]["checkpoint_ns"] == f"{ns}|1"
    first_of_them = {"configurable": {**config["configurable"], "checkpoint_ns": ns}}
    assert run.get_state(graph, first_of_them).values == {"log": ["one"]}
    assert run.invoke(graph, Command(resume="yes"), config)["log"] == ["a", "one", "s1", "ask:yes", "s2", "b"]
    assert calls.count("one") == 1


def test_a_subgraph_that_a_broken_off_run_left(run: Runner) -> None:
    """The task has no row yet, and its node is a plain function: the thread of the subgraph is found all the same."""
    calls, config = Calls(), new_thread()
    inner = below(run, calls)

    def node(state: State) -> State:
        inner.invoke({"log": []})
        raise AssertionError("not reached")

    async def anode(state: State) -> State:
        await inner.ainvoke({"log": []})
        raise AssertionError("not reached")

    def stop(_: Any) -> bool:
        return True

    builder = StateGraph(State).add_node("sub", anode if run.way == "async" else node).add_edge(START, "sub")
    graph = run.compile(builder)
    run.watch(stop, graph, {"log": []}, config, subgraphs=True)
    assert run.get_state(graph, config, subgraphs=True).tasks[0].state.values["log"][:1] == ["s1"]


def test_what_has_no_subgraph(run: Runner) -> None:
    graph, config, _ = asked(run)
    run.invoke(graph, Command(resume="yes"), config)
    nowhere = {"configurable": {**config["configurable"], "checkpoint_ns": "sub:99.0"}}
    assert run.get_state(graph, nowhere).created_at is None
    assert run.history(graph, nowhere) == []
    assert run.get_state(graph, config, subgraphs=True).tasks == ()
    with pytest.raises(ThreadNotFoundError):
        run.update_state(graph, nowhere, {"log": []})
    with pytest.raises(ThreadNotFoundError):
        run.replay(graph, nowhere)
    with pytest.raises(ThreadNotFoundError):
        run.stream(graph, None, at(nowhere, 1))
    for wrong in ("sub:1.0|", "|", 5):
        with pytest.raises(ArgumentError, match="checkpoint_ns"):
            run.get_state(graph, {"configurable": {**config["configurable"], "checkpoint_ns": wrong}})
    elsewhere = {"configurable": {**config["configurable"], "checkpoint_ns": "b:2.0"}}
    with pytest.raises(ArgumentError, match=r"below 'b'.*is not known"):
        run.update_state(graph, elsewhere, {"log": []})


# --- changed ----------------------------------------------------------------------------------


def test_the_graph_above_goes_on_with_an_update(run: Runner, kind: str) -> None:
    graph, config, calls = asked(run, kind)
    named = run.update_state(graph, run.get_state(graph, config).tasks[0].state, {"log": ["mine"]})
    snapshot = state_below(run, graph, config)
    assert named == snapshot.config
    assert (snapshot.values["log"], snapshot.next, snapshot.interrupts) == (["a", "s1", "mine"], ("ask",), ())
    assert snapshot.metadata["source"] == "update"
    result = run.invoke(graph, None, config)
    assert [question.value for question in result["__interrupt__"]] == ["q?"]
    assert run.invoke(graph, Command(resume="yes"), config)["log"] == ["a", "a", "s1", "mine", *DONE[3:]]
    assert calls == ["a", "s1", "ask", "ask", "ask", "s2", "b"]


def test_an_answer_right_after_an_update(run: Runner, kind: str) -> None:
    graph, config, calls = asked(run, kind)
    run.update_state(graph, state_below(run, graph, config).config, {"log": ["mine"]})
    assert run.invoke(graph, Command(resume="yes"), config)["log"] == ["a", "a", "s1", "mine", *DONE[3:]]
    assert calls.count("ask") == 2


def test_an_answer_right_after_an_update_without_subgraphs(run: Runner) -> None:
    calls, config = Calls(), new_thread()
    builder = StateGraph(State).add_node("ask", run.node(asking(calls))).add_edge(START, "ask")
    graph = run.compile(builder)
    run.invoke(graph, {"log": []}, config)
    (question,) = run.get_state(graph, config).interrupts
    run.update_state(graph, config, {"log": ["mine"]}, as_node=START)
    assert run.get_state(graph, config).interrupts == ()
    with pytest.raises(UnknownInterruptError):
        run.invoke(graph, Command(resume={"0" * 32: "no"}), config)
    assert run.invoke(graph, Command(resume={question.id: "yes"}), config)["log"] == ["mine", "ask:yes"]
    with pytest.raises(UnknownInterruptError):
        run.invoke(graph, Command(resume="again"), config)


def test_an_update_as_a_node_of_the_subgraph(run: Runner, kind: str) -> None:
    graph, config, calls = asked(run, kind)
    run.update_state(graph, state_below(run, graph, config).config, {"x": "mine"}, as_node="ask")
    assert run.invoke(graph, None, config) == {"log": ["a", "a", "s1", "s2", "b"], "x": "mine"}
    assert calls == ["a", "s1", "ask", "s2", "b"]


def test_updates_below_are_checked(run: Runner) -> None:
    graph, config, _ = asked(run)
    place = state_below(run, graph, config).config
    with pytest.raises(InvalidUpdateError, match="no node 'b'"):
        run.update_state(graph, place, {"log": []}, as_node="b")  # it is one of the graph above
    with pytest.raises(InvalidUpdateError, match="unknown key 'y'"):
        run.update_state(graph, place, {"y": 1})


def test_a_subgraph_that_goes_on_from_run_to_run_keeps_an_update(run: Runner) -> None:
    graph, config, _ = asked(run, "kept")
    place = run.get_state(graph, config).tasks[0].state
    run.invoke(graph, Command(resume="yes"), config)
    run.update_state(graph, place, {"log": ["between"]}, as_node="s2")
    run.invoke(graph, {"log": []}, config)
    assert state_below(run, graph, config).values["log"][4:] == ["between", *DONE, "a", "s1"]


# --- gone back to -----------------------------------------------------------------------------


def test_another_answer_at_the_question(run: Runner, kind: str) -> None:
    """At the snapshot of the subgraph, and at that of the graph above."""
    graph, config, calls = asked(run, kind)
    snapshot = run.get_state(graph, config, subgraphs=True)
    assert run.invoke(graph, Command(resume="yes"), config)["log"] == DONE
    for place in (snapshot.tasks[0].state.config, snapshot.config):
        calls.clear()
        result = run.invoke(graph, Command(resume="other"), place)
        assert result["log"] == ["a", "a", "s1", "ask:other", "s2", "b"]
        assert calls == ["ask", "s2", "b"]
    assert run.get_state(graph, config).values["x"] == "other"
    assert run.call(graph, "verify", config).ok
    with Log(str(run.url)) as log:
        assert all(log.verify({"thread_id": thread.thread_id}).ok for thread in log.threads())


def test_going_on_from_every_step_of_a_subgraph(run: Runner, kind: str) -> None:
    graph, config, calls = asked(run, kind)
    place = run.get_state(graph, config).tasks[0].state
    run.invoke(graph, Command(resume="yes"), config)
    expected = {("s1",): ["s1", "ask"], ("ask",): ["ask"], ("s2",): ["s2", "b"], (): ["b"]}
    for snapshot in run.history(graph, place):
        calls.clear()
        run.stream(graph, None, snapshot.config)
        assert calls == expected[snapshot.next]
        if run.get_state(graph, config).next:
            assert run.invoke(graph, Command(resume="yes"), config)["log"] == DONE
        assert run.get_state(graph, config).values["log"] == DONE
    live = run.replay(graph, config, subgraphs=True)
    assert [name for _, chunk in live for name in chunk if name == "s2"] == ["s2"] * 4


def test_an_update_of_a_step_of_the_past(run: Runner, kind: str) -> None:
    graph, config, _ = asked(run, kind)
    place = run.get_state(graph, config).tasks[0].state
    run.invoke(graph, Command(resume="yes"), config)
    then = next(snapshot for snapshot in run.history(graph, place) if snapshot.next == ("s2",))
    named = run.update_state(graph, then.config, {"log": ["mine"]})
    assert run.invoke(graph, None, named)["log"] == ["a", "a", "s1", "ask:yes", "mine", "s2", "b"]


def test_going_back_above_begins_the_subgraph_anew(run: Runner, kind: str) -> None:
    graph, config, calls = asked(run, kind)
    run.invoke(graph, Command(resume="yes"), config)
    calls.clear()
    run.stream(graph, None, at(config, 1))  # the row of a, which planned sub
    assert calls == ["s1", "ask"]
    assert state_below(run, graph, config).values["log"] == ["a", "s1"]
    assert run.invoke(graph, Command(resume="yes"), config)["log"] == DONE


def test_going_back_above_a_subgraph_that_goes_on_from_run_to_run(run: Runner) -> None:
    """It goes on from where it stood then, not from where it stands now."""
    graph, config, _ = asked(run, "kept")
    run.invoke(graph, Command(resume="yes"), config)
    second = run.get_state(graph, config).config["configurable"]["step"] + 2  # input, a
    for _ in range(2):
        run.invoke(graph, {"log": []}, config)
        run.invoke(graph, Command(resume="yes"), config)
    assert run.get_state(graph, at(config, second)).next == ("sub",)
    run.stream(graph, None, at(config, second))
    assert state_below(run, graph, config).values["log"] == [*DONE[1:5], *DONE, "a", "s1"]


def test_a_new_input_cannot_begin_inside(run: Runner) -> None:
    graph, config, _ = asked(run)
    with pytest.raises(ArgumentError, match="cannot begin inside a subgraph"):
        run.invoke(graph, {"log": []}, state_below(run, graph, config).config)


def test_the_namespace_alone_goes_on_with_the_thread(run: Runner, kind: str) -> None:
    graph, config, _ = asked(run, kind)
    place = run.get_state(graph, config).tasks[0].state
    assert run.invoke(graph, Command(resume="yes"), place)["log"] == DONE


# --- forks ------------------------------------------------------------------------------------


def test_a_fork_takes_the_subgraph_along(run: Runner, kind: str) -> None:
    graph, config, calls = asked(run, kind)
    other = new_thread()
    run.fork(graph, config, other["configurable"]["thread_id"])
    snapshot = state_below(run, graph, other)
    assert (snapshot.values, snapshot.next) == ({"log": ["a", "s1"]}, ("ask",))
    assert snapshot.interrupts == run.get_state(graph, other).interrupts
    calls.clear()
    assert run.invoke(graph, Command(resume="no"), other)["log"] == ["a", "a", "s1", "ask:no", "s2", "b"]
    assert calls == ["ask", "s2", "b"]
    assert run.get_state(graph, config).next == ("sub",)
    assert state_below(run, graph, config).next == ("ask",)
    assert run.invoke(graph, Command(resume="yes"), config)["log"] == DONE
    with Log(str(run.url)) as log:
        assert all(log.verify({"thread_id": thread.thread_id}).ok for thread in log.threads())


def test_an_update_in_a_subgraph_of_a_fork_that_has_not_gone_on(run: Runner, kind: str) -> None:
    calls, config, other = Calls(), new_thread(), new_thread()
    middle = StateGraph(State).add_node("inner", below(run, calls, kind)).add_edge(START, "inner")
    graph = above(run, calls, middle.compile(checkpointer=KINDS[kind]))
    run.invoke(graph, {"log": []}, config)
    run.fork(graph, config, other["configurable"]["thread_id"])
    inner = state_below(run, graph, other).tasks[0].state
    assert inner.next == ("ask",)
    named = run.update_state(graph, inner.config, {"log": ["mine"]})
    assert run.get_state(graph, named).values["log"] == ["a", "s1", "mine"]
    assert run.invoke(graph, Command(resume="yes"), other)["log"] == ["a", "a", "a", "s1", "mine", *DONE[3:]]
    assert run.invoke(graph, Command(resume="yes"), config)["log"] == ["a", *DONE]


def test_going_back_in_a_subgraph_of_a_fork_that_has_not_gone_on(run: Runner, kind: str) -> None:
    graph, config, calls = asked(run, kind)
    other = new_thread()
    run.fork(graph, config, other["configurable"]["thread_id"])
    place = run.get_state(graph, other).tasks[0].state
    then = next(snapshot for snapshot in run.history(graph, place) if snapshot.next == ("s1",))
    calls.clear()
    run.stream(graph, None, then.config)
    assert calls == ["s1", "ask"]
    assert run.invoke(graph, Command(resume="yes"), other)["log"] == DONE


def test_a_fork_in_a_loop_of_subgraphs_runs_each_of_them(run: Runner) -> None:
    """Tasks of the fork are not mixed up with those that it took over, whatever their steps are."""
    inner = StateGraph(State).add_node("one", run.node(lambda state: {"log": ["one"]})).add_edge(START, "one")
    builder = StateGraph(State).add_node("sub", inner.compile())
    builder.add_node("cut", run.node(lambda state: {"log": ["-"]})).add_edge(START, "sub").add_edge("sub", "cut")
    builder.add_conditional_edges("cut", run.node(lambda s: "sub" if len(s["log"]) < 200 else "__end__"))
    whole, config = run.compile(builder), new_thread()
    expected = run.invoke(whole, {"log": []}, config)
    *steps, _ = [event.step for event in run.replay(whole, config, stream_mode="events")]
    assert len(steps) > 10
    for step in steps:
        other = new_thread()
        run.fork(whole, at(config, step), other["configurable"]["thread_id"])
        assert run.invoke(whole, None, other) == expected


def test_the_fork_of_a_subgraph_is_a_thread_of_its_own(run: Runner) -> None:
    calls, config, other = Calls(), new_thread(), new_thread()
    alone = below(run, calls)
    graph = above(run, calls, alone)
    run.invoke(graph, {"log": []}, config)
    run.fork(graph, run.get_state(graph, config).tasks[0].state, other["configurable"]["thread_id"])
    assert run.get_state(graph, other).next == ("ask",)
    builder = StateGraph(State)
    builder.add_node("ask", run.node(asking(calls))).add_node("s2", run.node(calls.node("s2"))).add_edge("ask", "s2")
    graph = run.compile(builder.add_edge(START, "ask"))
    assert run.invoke(graph, Command(resume="yes"), other)["log"] == ["a", "s1", "ask:yes", "s2"]


# --- crashes ----------------------------------------------------------------------------------


class Dying(MemoryStore):
    """Commits so many times more, and then nothing until it is revived."""

    left: int | None = None

    def append(self, *args: Any, **kwargs: Any) -> None:
        self._count()
        super().append(*args, **kwargs)

    def change_thread(self, *args: Any) -> bool:
        self._count()
        return super().change_thread(*args)

    def _count(self) -> None:
        if self.left == 0:
            raise StoreUnavailableError(store=self.name, problem="it is dead", fix="Revive it.")
        self.left = None if self.left is None else self.left - 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way_back", ["fork", "question", "step of the subgraph"])
def test_a_crash_at_every_commit_of_going_on_from_somewhere_else(kind: str, way_back: str) -> None:
    for commits in range(100):
        store, calls, config = Dying(), Calls(), new_thread()
        run = Runner("sync", store)
        graph = above(run, calls, below(run, calls, kind))
        graph.invoke({"log": []}, config)
        place = graph.get_state(config, subgraphs=True)
        if way_back == "fork":
            config = graph.fork(config, "other")
            place = graph.get_state(config, subgraphs=True)
        else:
            graph.invoke(Command(resume="first"), config)
        where = place.tasks[0].state.config if way_back == "step of the subgraph" else place.config
        thread = {"thread_id": where["configurable"]["thread_id"]}
        before = len(list(graph.replay(thread, stream_mode="events")))
        calls.clear()
        store.left = commits
        try:
            graph.invoke(Command(resume="yes"), where)
        except StoreUnavailableError:
            store.left = None
            if len(list(graph.replay(thread, stream_mode="events"))) == before:
                graph.invoke(Command(resume="yes"), where)  # nothing has been accepted
            elif graph.get_state(thread).next:
                graph.invoke(None, thread)
            assert graph.get_state(thread).values["log"] == DONE
            assert all(graph.verify({"thread_id": one.thread_id}).ok for one in graph.threads())
        else:
            assert graph.get_state(thread).values["log"] == DONE
            assert calls == ["ask", "s2", "b"]
            assert commits > 5
            return
    raise AssertionError("it never ended")
