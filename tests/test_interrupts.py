"""Questions and answers: interrupt() in nodes, pauses before and after nodes, what answers may be, and what becomes
of an open question when the thread is changed, forked, crashed or sent back in time.

What LangGraph defines was read off LangGraph 1.2.22 by running the same graphs; where we differ the test says so.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Iterator
from typing import Annotated, Any, TypedDict

import pytest
from sqlalchemy import create_engine, text

from durable_graph import (
    END,
    START,
    ArgumentError,
    CallError,
    Command,
    CompiledGraph,
    DrawingError,
    EmptyInputError,
    GraphInterrupt,
    Interrupt,
    InvalidUpdateError,
    RetryPolicy,
    RoutingError,
    Send,
    StateGraph,
    UnknownInterruptError,
    UnstorableValueError,
    interrupt,
)
from durable_graph.core.rows import Call
from durable_graph.core.run import Run
from durable_graph.store.memory import MemoryStore
from tests.graphs import MODES, WAYS, Calls, Runner, State, at, chain, new_thread, wide
from tests.simulator import Died, Simulator


@pytest.fixture(params=WAYS)
def run(request: pytest.FixtureRequest, database_url: str) -> Iterator[Runner]:
    with Runner(request.param, database_url) as runner:
        yield runner


@pytest.fixture(params=WAYS)
def bare(request: pytest.FixtureRequest) -> Iterator[Runner]:
    """Without a database."""
    with Runner(request.param, False) as runner:
        yield runner


@pytest.fixture
def quick() -> Iterator[Runner]:
    """One way on the memory store, for what depends on neither."""
    with Runner("sync", MemoryStore()) as runner:  # type: ignore[arg-type]
        yield runner


def asking(calls: Calls, name: str, *questions: Any) -> Callable[[Any], dict[str, Any]]:
    """A node that asks, and keeps its answers in `log`."""

    def call(state: Any) -> dict[str, Any]:
        calls.append(name)
        return {"log": [f"{name} {interrupt(question)}" for question in questions]}

    call.__name__ = name
    return call


def one(run: Runner, calls: Calls, *questions: Any, **settings: Any) -> CompiledGraph[Any]:
    """a asks, b follows."""
    return run.compile(chain(run, calls, "ab", a=asking(calls, "a", *questions or ["q"])), **settings)


def parallel(run: Runner, calls: Calls) -> CompiledGraph[Any]:
    """a and b ask, c does not; then `end`."""
    return run.compile(wide(run, calls, a=asking(calls, "a", "qa"), b=asking(calls, "b", "qb")))


def ids(graph: CompiledGraph[Any], run: Runner, config: dict[str, Any]) -> dict[Any, str]:
    return {found.value: found.id for found in run.get_state(graph, config).interrupts}


def rows(run: Runner, graph: CompiledGraph[Any], config: dict[str, Any]) -> list[tuple[str, str | None]]:
    return [(event.kind, event.node) for event in run.replay(graph, config, stream_mode="events")]


def status(graph: CompiledGraph[Any], config: dict[str, Any]) -> str:
    found = [t.status for t in graph.threads() if t.thread_id == config["configurable"]["thread_id"]]
    return found[0]


def bodies(url: str, config: dict[str, Any], kind: str) -> list[str]:
    """The bodies of the rows of a kind, as any SQL client sees them."""
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    query = text("SELECT body FROM checkpoints WHERE thread_id = :thread_id AND kind = :kind ORDER BY step")
    with engine.connect() as connection:
        found = connection.execute(query, {"thread_id": config["configurable"]["thread_id"], "kind": kind})
        texts = [bytes(body).decode() for (body,) in found]
    engine.dispose()
    return texts


# --- asking and answering ---------------------------------------------------------------------


def test_a_question_and_its_answer(run: Runner) -> None:
    calls = Calls()
    graph, config = one(run, calls), new_thread()
    (asked,) = run.stream(graph, {"n": 1}, config)
    (question,) = asked["__interrupt__"]
    assert (type(question), question.value) == (Interrupt, "q")
    assert status(graph, config) == "interrupted"
    assert run.stream(graph, Command(resume="x"), config) == [{"a": {"log": ["a x"]}}, {"b": {"log": ["b"]}}]
    assert calls == ["a", "a", "b"], "the node runs again from its start"
    assert status(graph, config) == "finished"
    kinds = [("input", None), ("interrupt", "a"), ("resume", None), ("task", "a"), ("task", "b")]
    assert rows(run, graph, config) == kinds
    assert graph.verify(config).ok


def test_the_question_and_the_answer_are_rows(run: Runner) -> None:
    """Readable with plain SQL, as is the id that ties them together."""
    graph, config = one(run, Calls(), "how many?"), new_thread()
    run.invoke(graph, {"n": 1}, config)
    (question,) = run.get_state(graph, config).interrupts
    run.invoke(graph, Command(resume="seven"), config)
    (asked,), (answered,) = bodies(str(run.url), config, "interrupt"), bodies(str(run.url), config, "resume")
    assert "how many?" in asked
    assert question.id in asked
    assert "seven" in answered
    assert question.id in answered


def test_several_questions_in_one_node(run: Runner) -> None:
    """One after the other, each answered by a plain value; the answers given before are there again."""
    calls = Calls()
    graph, config = one(run, calls, "q0", "q1", "q2"), new_thread()
    seen: list[str] = []
    for answer, question in ((None, "q0"), ("x", "q1"), ("y", "q2")):
        (event,) = run.stream(graph, {"n": 1} if answer is None else Command(resume=answer), config)
        (found,) = event["__interrupt__"]
        assert found.value == question
        seen.append(found.id)
    assert len(set(seen)) == 3
    result = run.invoke(graph, Command(resume="z"), config)
    assert result == {"n": 1, "log": ["a x", "a y", "a z", "b"]}
    assert calls == ["a"] * 4 + ["b"]


def test_a_node_sees_attempts_and_one_key_over_its_questions(run: Runner) -> None:
    seen: list[tuple[int, str, str]] = []

    def ask(state: Any, runtime: Any) -> dict[str, Any]:
        seen.append((runtime.attempt, runtime.idempotency_key, runtime.task))
        return {"log": [interrupt("q0") + interrupt("q1")]}

    graph, config = run.compile(chain(run, Calls(), "a", a=ask)), new_thread()
    run.invoke(graph, {"n": 1}, config)
    run.invoke(graph, Command(resume="x"), config)
    run.invoke(graph, Command(resume="y"), config)
    assert [attempt for attempt, _, _ in seen] == [1, 2, 3]
    assert len({key for _, key, _ in seen}) == 1


@pytest.mark.parametrize("answer", [False, 0, "", {}, [], {"a": 1}, {"a" * 32: 1, "b": 2}, (1, 2), 1.5], ids=repr)
def test_any_value_may_be_the_answer(quick: Runner, answer: Any) -> None:
    """Also those that count as false. ({} is the one that LangGraph loses: it asks again.)"""
    got: list[Any] = []
    graph = quick.compile(chain(quick, Calls(), "a", a=lambda state: got.append(interrupt("q"))))
    config = new_thread()
    quick.invoke(graph, {"n": 1}, config)
    quick.invoke(graph, Command(resume=answer), config)
    assert got == [answer]
    assert type(got[0]) is type(answer)


def test_none_is_answered_by_id(quick: Runner) -> None:
    """`Command(resume=None)` is what a Command without an answer is; LangGraph crashes on it."""
    got: list[Any] = []
    graph = quick.compile(chain(quick, Calls(), "a", a=lambda state: got.append(interrupt("q"))))
    config = new_thread()
    quick.invoke(graph, {"n": 1}, config)
    assert quick.invoke(graph, Command(resume=None), config)["__interrupt__"][0].value == "q"
    quick.invoke(graph, Command(resume={ids(graph, quick, config)["q"]: None}), config)
    assert got == [None]


def test_questions_and_answers_are_copies(quick: Runner) -> None:
    asked, answer, got = {"options": ["x"]}, ["given"], []

    def ask(state: Any) -> dict[str, Any]:
        found = [interrupt(asked), interrupt("more?")]
        got.append([list(found[0]), found[1]])
        found[0].append("changed by the node")
        return {"log": [str(found[1])]}

    graph, config = quick.compile(chain(quick, Calls(), "a", a=ask)), new_thread()
    (event,) = quick.stream(graph, {"n": 1}, config)
    event["__interrupt__"][0].value["options"].append("changed by the consumer")
    asked["options"].append("changed by the node")
    assert quick.get_state(graph, config).interrupts[0].value == {"options": ["x"]}
    quick.invoke(graph, Command(resume=answer), config)
    answer.append("changed by the caller")
    quick.invoke(graph, Command(resume=1), config)
    assert got == [[["given"], 1]]


def test_going_on_without_an_answer_asks_again(run: Runner) -> None:
    """As LangGraph does: the same question with the same id."""
    calls = Calls()
    graph, config = one(run, calls), new_thread()
    (first,) = run.stream(graph, {"n": 1}, config)
    (again,) = run.stream(graph, None, config)
    assert again == first
    assert calls == ["a", "a"]
    assert run.stream(graph, Command(resume=1), config)[0] == {"a": {"log": ["a 1"]}}


def test_a_second_question_after_a_restart_keeps_the_first_answer(run: Runner) -> None:
    calls = Calls()
    config = new_thread()
    run.invoke(one(run, calls, "q0", "q1"), {"n": 1}, config)
    run.invoke(one(run, calls, "q0", "q1"), Command(resume="x"), config)
    (event,) = run.stream(one(run, calls, "q0", "q1"), None, config)
    assert event["__interrupt__"][0].value == "q1", "the first answer is in the log"
    assert run.invoke(one(run, calls, "q0", "q1"), Command(resume="y"), config)["log"] == ["a x", "a y", "b"]


def test_a_question_that_changes_with_its_node(quick: Runner) -> None:
    """The node's code has changed while its question was open: what counts is the order of its calls."""
    store, config = quick.url, new_thread()
    quick.invoke(one(quick, Calls(), "old"), {"n": 1}, config)
    with Runner("sync", store) as later:  # type: ignore[arg-type]
        graph = one(later, Calls(), "new", "and more")
        assert later.invoke(graph, Command(resume=1), config)["__interrupt__"][0].value == "and more"


# --- in parallel ------------------------------------------------------------------------------


def test_parallel_questions_answered_by_one_command(run: Runner) -> None:
    calls = Calls()
    graph, config = parallel(run, calls), new_thread()
    result = run.invoke(graph, {"n": 1}, config)
    assert [found.value for found in result["__interrupt__"]] == ["qa", "qb"], "in task order"
    assert result["log"] == [], "c is not applied before the barrier"
    asked = ids(graph, run, config)
    result = run.invoke(graph, Command(resume={asked["qa"]: "A", asked["qb"]: "B"}), config)
    assert result == {"n": 1, "log": ["a A", "b B", "c", "end"]}
    assert sorted(calls) == ["a", "a", "b", "b", "c", "end"], "c has a row"


def test_parallel_questions_answered_one_by_one(run: Runner) -> None:
    """Only what was answered runs again (LangGraph runs the others too, which then ask again)."""
    calls = Calls()
    graph, config = parallel(run, calls), new_thread()
    events = run.stream(graph, {"n": 1}, config)
    assert sorted(name for event in events for name in event) == ["__interrupt__", "__interrupt__", "c"]
    asked = ids(graph, run, config)
    assert run.stream(graph, Command(resume={asked["qb"]: "B"}), config) == [{"b": {"log": ["b B"]}}]
    assert status(graph, config) == "interrupted"
    state = run.get_state(graph, config)
    assert state.next == ("a",)
    assert [task.result for task in state.tasks] == [None, {"log": ["b B"]}, {"log": ["c"]}]
    assert [task.interrupts for task in state.tasks] == [(Interrupt("qa", asked["qa"]),), (), ()]
    events = run.stream(graph, Command(resume="A"), config)  # one is left: a plain value is clear
    assert events == [{"a": {"log": ["a A"]}}, {"end": {"log": ["end"]}}]
    assert run.get_state(graph, config).values["log"] == ["a A", "b B", "c", "end"]
    assert sorted(calls) == ["a", "a", "b", "b", "c", "end"]


def test_a_plain_answer_to_several_questions_is_refused(run: Runner) -> None:
    """As in LangGraph, whose error is a RuntimeError."""
    calls = Calls()
    graph, config = parallel(run, calls), new_thread()
    run.invoke(graph, {"n": 1}, config)
    before, called = rows(run, graph, config), list(calls)
    with pytest.raises(UnknownInterruptError, match="2 open questions") as error:
        run.invoke(graph, Command(resume="x"), config)
    assert all(name in str(error.value) for name in ids(graph, run, config).values()), "it says which there are"
    assert (rows(run, graph, config), calls) == (before, called)
    assert status(graph, config) == "interrupted"


def test_questions_of_a_map(run: Runner) -> None:
    """500 tasks would do as well: each has a question of its own, told apart by id."""

    def part(number: Any) -> dict[str, Any]:
        return {"log": [f"{number}={interrupt(number)}"]}

    builder = StateGraph(State).add_node("part", run.node(part))
    builder.add_conditional_edges(START, lambda state: [Send("part", i) for i in range(6)], ["part"])
    graph, config = run.compile(builder), new_thread()
    result = run.invoke(graph, {"n": 1}, config)
    asked = {found.value: found.id for found in result["__interrupt__"]}
    assert list(asked) == list(range(6))
    odd = {asked[i]: i * 10 for i in (1, 3, 5)}
    assert len(run.invoke(graph, Command(resume=odd), config)["__interrupt__"]) == 3
    even = {asked[i]: i * 10 for i in (0, 2, 4)}
    assert run.invoke(graph, Command(resume=even), config)["log"] == [f"{i}={i * 10}" for i in range(6)]


def test_a_sibling_fails_while_another_asks(run: Runner) -> None:
    """Both are recorded; the answer goes on with both."""
    calls = Calls()
    special = {"a": asking(calls, "a", "qa"), "b": calls.failing("b"), "c": asking(calls, "c", "qc")}
    config = new_thread()
    together = threading.Barrier(3) if run.way != "async" else None

    def meet(node: Callable[..., Any]) -> Callable[..., Any]:
        def call(state: Any) -> Any:
            if together is not None and calls.count("b") == 0:
                together.wait(20)  # else a task that has not begun is taken back when b fails
            return node(state)

        return call

    graph = run.compile(wide(run, calls, **{name: meet(node) for name, node in special.items()}))
    with pytest.raises(ValueError, match="b failed"):
        run.invoke(graph, {"n": 1}, config)
    assert status(graph, config) == "failed"
    state = run.get_state(graph, config)
    assert [task.error is not None for task in state.tasks] == [False, True, False]
    assert [found.value for found in state.interrupts] == ["qa", "qc"]
    answers = {found.id: found.value.upper() for found in state.interrupts}
    assert run.invoke(graph, Command(resume=answers), config)["log"] == ["a QA", "b", "c QC", "end"]


# --- what each stream mode shows --------------------------------------------------------------


def test_the_question_in_each_stream_mode(quick: Runner) -> None:
    shown: dict[str, list[Any]] = {}
    for mode in MODES:
        graph, config = one(quick, Calls()), new_thread()
        shown[mode] = quick.stream(graph, {"n": 1}, config, stream_mode=mode)
        state = quick.get_state(graph, config)
    (question,) = state.interrupts
    told = {"value": "q", "id": question.id}
    assert [event["__interrupt__"][0].value for event in shown["updates"]] == ["q"]
    first, last = shown["values"]
    assert first == {"n": 1, "log": []}
    assert {**last, "__interrupt__": ()} == {"n": 1, "log": [], "__interrupt__": ()}
    assert last["__interrupt__"][0].value == "q"
    assert shown["custom"] == []
    begins, ends = shown["tasks"]
    assert begins["input"] == {"n": 1, "log": []}
    assert (ends["error"], ends["result"], ends["id"]) == (None, {}, begins["id"])
    assert [{**found, "id": ""} for found in ends["interrupts"]] == [{**told, "id": ""}]
    assert [event["next"] for event in shown["checkpoints"]] == [["a"]]
    assert [event["type"] for event in shown["debug"]] == ["checkpoint", "task", "task_result"]
    assert shown["debug"][-1]["payload"]["interrupts"][0]["value"] == "q"
    accepted, asked = shown["events"]
    assert (accepted.kind, asked.kind, asked.node) == ("input", "interrupt", "a")
    assert (asked.update, asked.next) == (None, ("a",))
    assert asked.metadata["interrupts"] == state.interrupts


def test_the_answer_in_each_stream_mode(quick: Runner) -> None:
    shown: dict[str, list[Any]] = {}
    for mode in MODES:
        graph, config = one(quick, Calls()), new_thread()
        quick.invoke(graph, {"n": 1}, config)
        shown[mode] = quick.stream(graph, Command(resume="x"), config, stream_mode=mode)
    assert shown["updates"] == [{"a": {"log": ["a x"]}}, {"b": {"log": ["b"]}}]
    states = [[], ["a x"], ["a x", "b"]]
    assert shown["values"] == [{"n": 1, "log": log} for log in states], "beginning with the state it goes on from"
    assert [event.kind for event in shown["events"]] == ["resume", "task", "task"]
    assert [(event["name"], event.get("result")) for event in shown["tasks"]] == [
        ("a", None), ("a", {"log": ["a x"]}), ("b", None), ("b", {"log": ["b"]})
    ]  # fmt: skip


@pytest.mark.parametrize("mode", [*MODES, ["updates", "values", "custom", "events"]], ids=str)
def test_replay_tells_what_was_seen_with_questions(run: Runner, mode: Any) -> None:
    """In every mode, over a parallel superstep that is answered in two goes, and a pause."""
    calls = Calls()

    def tell(state: Any, runtime: Any) -> dict[str, Any]:
        runtime.stream_writer("c works")
        return {"log": ["c"]}

    special = {"a": asking(calls, "a", "q0", "q1"), "b": asking(calls, "b", "qb"), "c": tell}
    graph = run.compile(wide(run, calls, **special), interrupt_before=["end"])
    config = new_thread()
    live = run.stream(graph, {"n": 1}, config, stream_mode=mode)
    asked = ids(graph, run, config)
    live += run.stream(graph, Command(resume={asked["q0"]: 1, asked["qb"]: 2}), config, stream_mode=mode)
    live += run.stream(graph, Command(resume=3), config, stream_mode=mode)
    live += run.stream(graph, None, config, stream_mode=mode)
    assert run.get_state(graph, config).next == ()
    assert run.replay(graph, config, stream_mode=mode) == live


def test_invoke_returns_the_questions(run: Runner) -> None:
    """A list, as in LangGraph; for another mode what it streams."""
    graph, config = one(run, Calls()), new_thread()
    result = run.invoke(graph, {"n": 1}, config)
    assert result == {"n": 1, "log": [], "__interrupt__": list(run.get_state(graph, config).interrupts)}
    assert run.invoke(graph, None, config, stream_mode="updates")[0].keys() == {"__interrupt__"}


# --- in the state and its history -------------------------------------------------------------


def test_questions_in_the_state(run: Runner) -> None:
    graph, config = one(run, Calls()), new_thread()
    run.invoke(graph, {"n": 1}, config)
    state = run.get_state(graph, config)
    assert (state.next, state.values) == (("a",), {"n": 1, "log": []})
    assert [found.value for found in state.interrupts] == ["q"]
    (task,) = state.tasks
    assert (task.name, task.interrupts, task.error, task.result) == ("a", state.interrupts, None, None)
    run.invoke(graph, Command(resume=1), config)
    after = run.get_state(graph, config)
    assert (after.next, after.tasks, after.interrupts) == ((), (), ())
    assert run.get_state(graph, at(config, 1)).interrupts == state.interrupts, "as it was then"
    assert run.get_state(graph, at(config, 2)).interrupts == (), "answered"


def test_questions_in_the_history(run: Runner) -> None:
    """Barriers are listed; what was asked since one is a row of its own, and in get_state at that row."""
    graph, config = one(run, Calls()), new_thread()
    run.invoke(graph, {"n": 1}, config)
    run.invoke(graph, Command(resume=1), config)
    history = run.history(graph, config)
    assert [(state.next, state.metadata["step"]) for state in history] == [((), 4), (("b",), 3), (("a",), 0)]
    assert [event.step for event in run.replay(graph, config, stream_mode="events") if event.kind == "interrupt"] == [1]


def test_the_history_of_an_open_question_shows_it(quick: Runner) -> None:
    """In LangGraph the newest entry of the history is what get_state gives, with its question."""
    graph, config = one(quick, Calls()), new_thread()
    quick.invoke(graph, {"n": 1}, config)
    newest = quick.history(graph, config)[0]
    assert [found.value for found in newest.interrupts] == ["q"]


# --- wrong answers ----------------------------------------------------------------------------

WRONG = {
    "an unknown id": lambda asked: {"0" * 32: 1},
    "one right and one unknown": lambda asked: {asked: 1, "f" * 32: 2},
}


@pytest.mark.parametrize("resume", WRONG.values(), ids=WRONG)
def test_an_answer_to_the_wrong_question(run: Runner, resume: Callable[[str], Any]) -> None:
    """Nothing is committed and no node runs (LangGraph ignores such an answer and asks again)."""
    calls = Calls()
    graph, config = one(run, calls), new_thread()
    run.invoke(graph, {"n": 1}, config)
    asked = ids(graph, run, config)["q"]
    before = rows(run, graph, config)
    with pytest.raises(UnknownInterruptError, match="no open question has the id") as error:
        run.invoke(graph, Command(resume=resume(asked)), config)
    assert asked in str(error.value)
    assert rows(run, graph, config) == before
    assert calls == ["a"]
    assert run.invoke(graph, Command(resume=1), config)["log"] == ["a 1", "b"]


def test_an_answer_given_twice(run: Runner) -> None:
    """By id and by value, while the thread goes on with another question and after its end. (LangGraph: silence.)"""
    graph, config = one(run, Calls(), "q0", "q1"), new_thread()
    run.invoke(graph, {"n": 1}, config)
    first = ids(graph, run, config)["q0"]
    run.invoke(graph, Command(resume={first: "x"}), config)
    before = rows(run, graph, config)
    with pytest.raises(UnknownInterruptError, match="no open question has the id"):
        run.invoke(graph, Command(resume={first: "other"}), config)
    assert rows(run, graph, config) == before
    assert run.invoke(graph, Command(resume="y"), config)["log"] == ["a x", "a y", "b"]
    before = rows(run, graph, config)
    for late in ({first: "other"}, "z"):
        with pytest.raises(UnknownInterruptError, match="answered already"):
            run.invoke(graph, Command(resume=late), config)
    assert rows(run, graph, config) == before


def test_an_answer_to_nothing(run: Runner) -> None:
    graph = run.compile(chain(run, Calls()))
    with pytest.raises(EmptyInputError, match="does not exist yet"):
        run.invoke(graph, Command(resume=1), new_thread())
    config = new_thread()
    run.first(1, graph, {"n": 1}, config)  # broken off: pending, but nobody asks
    before = rows(run, graph, config)
    with pytest.raises(UnknownInterruptError, match="not waiting for an answer"):
        run.invoke(graph, Command(resume=1), config)
    assert rows(run, graph, config) == before
    assert run.invoke(graph, None, config)["log"] == ["a", "b", "c"]


def test_an_answer_that_cannot_be_stored(run: Runner) -> None:
    graph, config = one(run, Calls()), new_thread()
    run.invoke(graph, {"n": 1}, config)
    before = rows(run, graph, config)
    with pytest.raises(UnstorableValueError, match="object"):
        run.invoke(graph, Command(resume=object()), config)
    assert rows(run, graph, config) == before
    assert status(graph, config) == "interrupted"
    assert run.invoke(graph, Command(resume=1), config)["log"] == ["a 1", "b"]


def test_an_answer_that_the_node_does_not_like(run: Runner) -> None:
    """It is on record as given; a node that wants another one asks again."""

    def ask(state: Any) -> dict[str, Any]:
        answer = interrupt("a number?")
        while not isinstance(answer, int):
            answer = interrupt(f"{answer!r} is no number; a number?")
        return {"n": answer}

    graph, config = run.compile(chain(run, Calls(), "a", a=ask)), new_thread()
    run.invoke(graph, {"n": 0}, config)
    assert run.invoke(graph, Command(resume="x"), config)["__interrupt__"][0].value == "'x' is no number; a number?"
    assert run.invoke(graph, Command(resume=5), config)["n"] == 5


def test_a_command_with_a_wrong_part_answers_nothing(run: Runner) -> None:
    """Answer, update and targets are one row or none."""
    calls = Calls()
    graph, config = one(run, calls), new_thread()
    run.invoke(graph, {"n": 1}, config)
    before = rows(run, graph, config)
    with pytest.raises(InvalidUpdateError, match="unknown key 'nope'"):
        run.invoke(graph, Command(resume=1, update={"nope": 1}), config)
    with pytest.raises(RoutingError, match="no node 'nope'"):
        run.invoke(graph, Command(resume=1, goto="nope"), config)
    with pytest.raises(RoutingError, match="cannot go to END"):
        run.invoke(graph, Command(resume=1, goto=Send(END, 1)), config)
    assert rows(run, graph, config) == before
    assert calls == ["a"]
    assert run.invoke(graph, Command(resume=1), config)["log"] == ["a 1", "b"]


def test_a_command_to_a_parent_as_an_input_is_refused(quick: Runner) -> None:
    """There is no graph above the caller's. (LangGraph: InvalidUpdateError "There is no parent graph".)"""
    graph, config = one(quick, Calls()), new_thread()
    quick.invoke(graph, {"n": 1}, config)
    with pytest.raises((CallError, InvalidUpdateError)):
        quick.invoke(graph, Command(graph=Command.PARENT, resume=1), config)


# --- questions that cannot be asked -----------------------------------------------------------


def test_asking_outside_of_a_node() -> None:
    with pytest.raises(CallError, match="no running node"):
        interrupt("q")


def test_asking_without_a_database(bare: Runner) -> None:
    """LangGraph shows the question, which nobody can ever answer."""
    with pytest.raises(CallError, match=r"interrupt\(\) was called in a graph without a checkpointer"):
        bare.invoke(bare.compile(chain(bare, Calls(), "a", a=asking(Calls(), "a", "q"))), {"n": 1})


def test_a_question_that_cannot_be_stored(run: Runner) -> None:
    """The node's mistake: it fails with the value's name, and after it is corrected the thread goes on."""
    config = new_thread()
    graph = run.compile(chain(run, Calls(), "ab", a=lambda state: interrupt(object())))
    with pytest.raises(UnstorableValueError, match="object"):
        run.invoke(graph, {"n": 1}, config)
    assert run.invoke(one(run, Calls()), None, config)["__interrupt__"][0].value == "q"


def test_siblings_of_a_question_that_cannot_be_stored_are_recorded(quick: Runner) -> None:
    """Law 3: what has run is recorded, whoever else fails; and the failure is a row."""
    calls, gate = Calls(), threading.Barrier(2)

    def bad(state: Any) -> None:
        gate.wait(20)
        interrupt(object())

    def good(state: Any) -> dict[str, Any]:
        gate.wait(20)
        calls.append("b")
        return {"log": ["b"]}

    graph, config = quick.compile(wide(quick, calls, "ab", a=bad, b=good)), new_thread()
    with pytest.raises(UnstorableValueError):
        quick.invoke(graph, {"n": 1}, config)
    assert calls == ["b"]
    assert sorted(rows(quick, graph, config)) == [("error", "a"), ("input", None), ("task", "b")]
    assert status(graph, config) == "failed"


def test_a_node_that_swallows_its_question_has_not_asked(run: Runner) -> None:
    """GraphInterrupt is an Exception, as in LangGraph: a broad `except` takes the node's own interrupt away."""

    def swallow(state: Any) -> dict[str, Any]:
        try:
            interrupt("q")
        except Exception as error:
            return {"log": [type(error).__name__]}
        return {}

    graph, config = run.compile(chain(run, Calls(), "a", a=swallow)), new_thread()
    assert run.invoke(graph, {"n": 1}, config)["log"] == ["GraphInterrupt"]
    assert rows(run, graph, config) == [("input", None), ("task", "a")]


def test_a_router_may_ask(run: Runner) -> None:
    """As in LangGraph: its node runs again with the answer."""
    calls = Calls()
    builder = StateGraph(State).add_node("a", run.node(calls.node("a"))).add_node("b", run.node(calls.node("b")))
    builder.add_edge(START, "a").add_conditional_edges("a", run.node(lambda state: interrupt("where?")), ["b"])
    graph, config = run.compile(builder), new_thread()
    assert run.invoke(graph, {"n": 1}, config)["__interrupt__"][0].value == "where?"
    assert run.invoke(graph, Command(resume="b"), config)["log"] == ["a", "b"]
    assert calls == ["a", "a", "b"]


@pytest.mark.parametrize("how", ["the entry's router", "update_state's router"])
def test_a_router_without_a_task_cannot_ask(quick: Runner, how: str) -> None:
    """There is no task yet that could wait: a named error, and nothing is committed."""
    builder = StateGraph(State).add_node("a", lambda state: {"log": ["a"]})
    if how == "the entry's router":
        builder.add_conditional_edges(START, lambda state: interrupt("where?"), ["a"])
    else:
        builder.add_edge(START, "a").add_conditional_edges("a", lambda state: interrupt("where?"), ["a"])
    graph, config = quick.compile(builder), new_thread()
    if how == "the entry's router":
        with pytest.raises(CallError):
            quick.invoke(graph, {"n": 1}, config)
        return
    quick.first(1, graph, {"n": 1}, config)
    with pytest.raises(CallError):
        quick.update_state(graph, config, {"n": 2}, as_node="a")


def test_an_error_handler_asks_questions_of_its_own(quick: Runner) -> None:
    def fail(state: Any) -> None:
        interrupt("sure?")
        raise KeyError("x")

    def handle(state: Any, error: Any) -> dict[str, Any]:
        return {"log": [f"told {interrupt('what now?')}"]}

    builder = StateGraph(State).add_node("a", fail, error_handler=handle).add_edge(START, "a")
    graph, config = quick.compile(builder), new_thread()
    assert quick.invoke(graph, {"n": 1}, config)["__interrupt__"][0].value == "sure?"
    assert quick.invoke(graph, Command(resume="yes"), config)["__interrupt__"][0].value == "what now?"
    assert quick.invoke(graph, Command(resume="leave it"), config)["log"] == ["told leave it"]


def test_an_error_handler_may_ask(quick: Runner) -> None:
    """The node fails once more before its handler comes to its question again."""
    calls = Calls()

    def handle(state: Any, error: Any) -> dict[str, Any]:
        return {"log": [f"told {interrupt(type(error.error).__name__)}"]}

    builder = StateGraph(State).add_node("a", calls.failing("a", times=9), error_handler=handle).add_edge(START, "a")
    graph, config = quick.compile(builder), new_thread()
    assert quick.invoke(graph, {"n": 1}, config)["__interrupt__"][0].value == "ValueError"
    assert quick.invoke(graph, Command(resume="leave it"), config)["log"] == ["told leave it"]
    assert quick.replay(graph, config)[-1] == {"__error_handler__a": {"log": ["told leave it"]}}


def test_a_retry_does_not_take_a_question_for_a_failure(run: Runner) -> None:
    calls = Calls()
    policy = RetryPolicy(initial_interval=0, jitter=False, max_attempts=3, retry_on=Exception)
    fails = iter([True, False, True, False])

    def ask(state: Any) -> dict[str, Any]:
        calls.append("a")
        if next(fails):
            raise ValueError("once")
        return {"log": [interrupt("q")]}

    builder = StateGraph(State).add_node("a", run.node(ask), retry_policy=policy).add_edge(START, "a")
    graph, config = run.compile(builder), new_thread()
    assert run.invoke(graph, {"n": 1}, config)["__interrupt__"][0].value == "q"
    assert run.invoke(graph, Command(resume="x"), config)["log"] == ["x"]
    assert calls == ["a"] * 4


# --- pauses before and after nodes ------------------------------------------------------------


def stops(run: Runner, graph: CompiledGraph[Any], config: dict[str, Any], **options: Any) -> list[list[str]]:
    """Run to the end, going on after each pause; the nodes that ran in each go."""
    goes: list[list[str]] = []
    given: Any = {"n": 1}
    while given is not None or run.get_state(graph, config).next:
        goes.append([name for event in run.stream(graph, given, config, **options) for name in event])
        given = None
        assert len(goes) < 10
    return goes


PAUSES = {
    "before b": ({"interrupt_before": ["b"]}, [["a", "!"], ["b", "c"]]),
    "before b and c": ({"interrupt_before": ["b", "c"]}, [["a", "!"], ["b", "!"], ["c"]]),
    "before the first": ({"interrupt_before": ["a"]}, [["!"], ["a", "b", "c"]]),
    "before all": ({"interrupt_before": "*"}, [["!"], ["a", "!"], ["b", "!"], ["c"]]),
    "before all, as a list": ({"interrupt_before": ["*"]}, [["!"], ["a", "!"], ["b", "!"], ["c"]]),
    "after b": ({"interrupt_after": ["b"]}, [["a", "b", "!"], ["c"]]),
    "after a and before b": ({"interrupt_after": ["a"], "interrupt_before": ["b"]}, [["a", "!"], ["b", "c"]]),
}


@pytest.mark.parametrize(("settings", "expected"), PAUSES.values(), ids=PAUSES)
@pytest.mark.parametrize("when", ["compile", "call"])
def test_pauses(quick: Runner, settings: Any, expected: list[list[str]], when: str) -> None:
    builder = chain(quick, Calls())
    graph = quick.compile(builder, **settings) if when == "compile" else quick.compile(builder)
    goes = stops(quick, graph, new_thread(), **({} if when == "compile" else settings))
    assert [[name.replace("__interrupt__", "!") for name in go] for go in goes] == expected


def test_a_pause_on_each_database(run: Runner) -> None:
    """The event is `{"__interrupt__": ()}` as in LangGraph; values shows nothing of it; it is a row without a task."""
    calls = Calls()
    graph, config = run.compile(chain(run, calls), interrupt_before=["b"]), new_thread()
    assert run.stream(graph, {"n": 1}, config) == [{"a": {"log": ["a"]}}, {"__interrupt__": ()}]
    assert status(graph, config) == "interrupted"
    state = run.get_state(graph, config)
    assert (state.next, state.interrupts, state.tasks[0].interrupts) == (("b",), (), ())
    assert rows(run, graph, config)[-1] == ("interrupt", None)
    live = run.stream(graph, None, config, stream_mode="values")
    assert live == [{"n": 1, "log": list("abc"[:k])} for k in (1, 2, 3)]
    assert calls == ["a", "b", "c"]
    assert status(graph, config) == "finished"


def test_a_pause_in_a_parallel_superstep(run: Runner) -> None:
    """Before the whole superstep, if it holds one of the nodes."""
    calls = Calls()
    graph, config = run.compile(wide(run, calls), interrupt_before=["b"], interrupt_after=["c"]), new_thread()
    assert run.stream(graph, {"n": 1}, config) == [{"__interrupt__": ()}]
    assert calls == []
    assert min(run.stream(graph, None, config), key=str) == {"__interrupt__": ()}
    assert run.stream(graph, None, config) == [{"end": {"log": ["end"]}}]


def test_a_pause_before_and_a_question_within_one_node(run: Runner) -> None:
    calls = Calls()
    graph, config = one(run, calls, interrupt_before=["a"]), new_thread()
    assert run.stream(graph, {"n": 1}, config) == [{"__interrupt__": ()}]
    (event,) = run.stream(graph, None, config)
    assert event["__interrupt__"][0].value == "q"
    assert run.invoke(graph, Command(resume=1), config)["log"] == ["a 1", "b"], "no second pause"


def test_a_crash_at_a_pause_is_still_one_pause(quick: Runner) -> None:
    """Paused, gone on, broken off within the superstep: the pause is not made again."""
    calls = Calls()
    graph = quick.compile(wide(quick, calls, b=calls.failing("b")), interrupt_before="*")
    config = new_thread()
    assert quick.stream(graph, {"n": 1}, config) == [{"__interrupt__": ()}]
    with pytest.raises(ValueError, match="b failed"):
        quick.stream(graph, None, config)
    assert {"__interrupt__": ()} in quick.stream(graph, None, config), "before `end`"
    assert calls.count("b") == 2
    assert quick.get_state(graph, config).next == ("end",)


def test_an_answer_at_a_pause_is_refused(quick: Runner) -> None:
    """Nobody has asked. (LangGraph takes it for going on.)"""
    graph, config = quick.compile(chain(quick, Calls()), interrupt_before=["b"]), new_thread()
    quick.invoke(graph, {"n": 1}, config)
    with pytest.raises(UnknownInterruptError, match="not waiting for an answer"):
        quick.invoke(graph, Command(resume=1), config)
    assert quick.invoke(graph, None, config)["log"] == ["a", "b", "c"]


def test_the_call_overrides_what_was_compiled(quick: Runner) -> None:
    """An empty list is none at all (LangGraph takes it for not given)."""
    graph = quick.compile(chain(quick, Calls()), interrupt_before=["b"])
    assert stops(quick, graph, new_thread(), interrupt_before=[]) == [["a", "b", "c"]]
    assert stops(quick, graph, new_thread(), interrupt_before=["c"]) == [["a", "b", "__interrupt__"], ["c"]]
    assert stops(quick, graph, new_thread(), interrupt_before="c") == [["a", "b", "__interrupt__"], ["c"]]


def test_no_pause_after_the_last_node(quick: Runner) -> None:
    """The thread has finished. (LangGraph shows one more `{"__interrupt__": ()}`.)"""
    graph, config = quick.compile(chain(quick, Calls()), interrupt_after="*"), new_thread()
    assert stops(quick, graph, config) == [["a", "__interrupt__"], ["b", "__interrupt__"], ["c"]]
    assert status(graph, config) == "finished"


def test_an_unknown_node_to_pause_at_is_refused_by_compile(quick: Runner) -> None:
    for settings in ({"interrupt_before": ["nope"]}, {"interrupt_after": ["a", "nope"]}, {"interrupt_before": "nope"}):
        with pytest.raises(DrawingError, match="'nope', which is no node"):
            quick.compile(chain(quick, Calls()), **settings)


@pytest.mark.parametrize("wanted", [["nope"], "nope", ["a", "nope"], 5, [5]], ids=str)
def test_an_unknown_node_to_pause_at_is_refused_by_the_call(quick: Runner, wanted: Any) -> None:
    """Law 10. (LangGraph ignores it.)"""
    graph = quick.compile(chain(quick, Calls()))
    with pytest.raises(ArgumentError):
        quick.stream(graph, {"n": 1}, new_thread(), interrupt_before=wanted)


def test_pauses_in_a_loop(run: Runner) -> None:
    """Each time around."""
    builder = StateGraph(State).add_node("a", run.node(lambda state: {"n": state["n"] + 1})).add_edge(START, "a")
    builder.add_conditional_edges("a", run.node(lambda state: "a" if state["n"] < 3 else END))
    graph, config = run.compile(builder, interrupt_before=["a"]), new_thread()
    assert stops(run, graph, config) == [["__interrupt__"], ["a", "__interrupt__"], ["a"]]


# --- changing a thread that waits -------------------------------------------------------------


def test_an_update_at_a_pause(run: Runner) -> None:
    """As in LangGraph: the next node is still next, and sees it."""
    calls = Calls()
    graph, config = run.compile(chain(run, calls), interrupt_before=["b"]), new_thread()
    run.invoke(graph, {"n": 1}, config)
    run.update_state(graph, config, {"n": 7, "log": ["u"]})
    assert run.get_state(graph, config).next == ("b",)
    assert run.stream(graph, None, config) == [{"b": {"log": ["b"]}}, {"c": {"log": ["c"]}}]
    assert run.get_state(graph, config).values == {"n": 7, "log": ["a", "u", "b", "c"]}


def test_an_update_at_a_question(run: Runner) -> None:
    """As in LangGraph: the node is planned anew, which is on record, and asks anew when it runs."""
    graph, config = one(run, Calls()), new_thread()
    run.invoke(graph, {"n": 1}, config)
    run.update_state(graph, config, {"n": 9})
    assert run.get_state(graph, config).interrupts == ()
    assert status(graph, config) == "pending"
    assert '"dropped":["a"]' in bodies(str(run.url), config, "update")[0].replace(" ", "")
    result = run.invoke(graph, None, config)
    assert (result["n"], result["__interrupt__"][0].value) == (9, "q")
    assert run.invoke(graph, Command(resume="x"), config)["log"] == ["a x", "b"]


@pytest.mark.parametrize("by_id", [False, True], ids=["plain", "by id"])
def test_an_answer_right_after_an_update(run: Runner, by_id: bool) -> None:
    """As in LangGraph: nobody has to let the node ask once more."""
    graph, config = one(run, Calls()), new_thread()
    run.invoke(graph, {"n": 1}, config)
    asked = ids(graph, run, config)["q"]
    run.update_state(graph, config, {"n": 9})
    result = run.invoke(graph, Command(resume={asked: "x"} if by_id else "x"), config)
    assert (result["n"], result["log"]) == (9, ["a x", "b"])


def test_an_update_in_place_of_the_node_that_asked(run: Runner) -> None:
    graph, config = one(run, Calls()), new_thread()
    run.invoke(graph, {"n": 1}, config)
    run.update_state(graph, config, {"log": ["by hand"]}, as_node="a")
    assert run.get_state(graph, config).next == ("b",)
    assert run.invoke(graph, None, config)["log"] == ["by hand", "b"]


def test_an_update_in_place_of_one_of_several_that_asked(run: Runner) -> None:
    """The others are dropped, and that is on record; finished siblings count."""
    graph, config = parallel(run, Calls()), new_thread()
    run.invoke(graph, {"n": 1}, config)
    run.update_state(graph, config, {"log": ["by hand"]}, as_node="a")
    assert '"dropped":["b"]' in bodies(str(run.url), config, "update")[0].replace(" ", "")
    state = run.get_state(graph, config)
    assert state.values["log"] == ["c", "by hand"]
    assert state.interrupts == ()


def test_a_new_input_drops_the_question(run: Runner) -> None:
    """As in LangGraph a new run begins; here what was dropped is recorded."""
    graph, config = one(run, Calls()), new_thread()
    run.invoke(graph, {"n": 1}, config)
    asked = ids(graph, run, config)["q"]
    (event,) = run.stream(graph, {"n": 2}, config)
    assert event["__interrupt__"][0].value == "q"
    assert event["__interrupt__"][0].id != asked, "another question: the old id does not answer it"
    assert '"dropped":["a"]' in bodies(str(run.url), config, "input")[1].replace(" ", "")
    with pytest.raises(UnknownInterruptError):
        run.invoke(graph, Command(resume={asked: 1}), config)
    assert run.invoke(graph, Command(resume=1), config) == {"n": 2, "log": ["a 1", "b"]}


def test_answer_update_and_target_in_one_command(run: Runner) -> None:
    """As in LangGraph: the update is seen by the node that asked, the target runs beside it."""
    seen: list[int] = []
    calls = Calls()

    def ask(state: Any) -> dict[str, Any]:
        seen.append(state["n"])
        return {"log": [f"a {interrupt('q')}"]}

    graph, config = run.compile(chain(run, calls, "ab", a=ask)), new_thread()
    run.invoke(graph, {"n": 1}, config)
    modes = ["values", "updates"]
    live = run.stream(graph, Command(resume="x", update={"n": 5}, goto="b"), config, stream_mode=modes)
    assert seen == [1, 5]
    states = [chunk for mode, chunk in live if mode == "values"]
    assert states[0] == {"n": 5, "log": []}
    assert states[-1] == {"n": 5, "log": ["a x", "b", "b"]}, "b by the goto, b by its edge"
    kinds = [("resume", None), ("task", "a"), ("task", "b"), ("task", "b")]
    assert sorted(rows(run, graph, config)[2:], key=str) == sorted(kinds, key=str)
    assert run.replay(graph, config, stream_mode=modes)[-len(live) :] == live


def test_an_answer_with_a_map_of_sends(quick: Runner) -> None:
    def part(number: Any) -> dict[str, Any]:
        return {"log": [f"part {number}"]}

    calls = Calls()
    builder = chain(quick, calls, "ab", a=asking(calls, "a", "q")).add_node("part", part)
    graph, config = quick.compile(builder), new_thread()
    quick.invoke(graph, {"n": 1}, config)
    result = quick.invoke(graph, Command(resume=1, goto=[Send("part", i) for i in range(3)]), config)
    assert sorted(result["log"]) == ["a 1", "b", "part 0", "part 1", "part 2"]


def test_an_update_alone_while_a_question_is_open(run: Runner) -> None:
    """A Command without an answer goes on as None does: the node asks again, with the same id."""
    graph, config = one(run, Calls()), new_thread()
    run.invoke(graph, {"n": 1}, config)
    asked = ids(graph, run, config)["q"]
    result = run.invoke(graph, Command(update={"n": 3}), config)
    assert (result["n"], result["__interrupt__"][0].id) == (3, asked)
    assert run.invoke(graph, Command(resume="x"), config) == {"n": 3, "log": ["a x", "b"]}


# --- back in time, and forks ------------------------------------------------------------------


def test_back_to_before_a_question(run: Runner) -> None:
    """The question is asked anew and answered otherwise; the log keeps both stories."""
    calls = Calls()
    graph, config = one(run, calls), new_thread()
    run.invoke(graph, {"n": 1}, config)
    run.invoke(graph, Command(resume="x"), config)
    (event,) = run.stream(graph, None, at(config, 0))
    assert event["__interrupt__"][0].value == "q"
    assert run.get_state(graph, config).values["log"] == [], "the thread goes on from there"
    assert run.invoke(graph, Command(resume="y"), config)["log"] == ["a y", "b"]
    assert run.get_state(graph, at(config, 4)).values["log"] == ["a x", "b"]
    kinds = ["input", "interrupt", "resume", "task", "task", "resume", "interrupt", "resume", "task", "task"]
    assert [kind for kind, _ in rows(run, graph, config)] == kinds
    assert graph.verify(config).ok


def test_back_to_a_question_with_another_answer_at_once(run: Runner) -> None:
    """At the step of the question itself. (LangGraph 1.2.22 takes the old answer here.)"""
    graph, config = one(run, Calls(), "q0", "q1"), new_thread()
    run.invoke(graph, {"n": 1}, config)
    run.invoke(graph, Command(resume="x"), config)
    run.invoke(graph, Command(resume="y"), config)
    steps = [event.step for event in run.replay(graph, config, stream_mode="events") if event.kind == "interrupt"]
    assert run.invoke(graph, Command(resume="other"), at(config, steps[1]))["log"] == ["a x", "a other", "b"]
    result = run.invoke(graph, Command(resume="first"), at(config, steps[0]))
    assert result["__interrupt__"][0].value == "q1", "what was answered later does not count any more"
    assert run.invoke(graph, Command(resume="second"), config)["log"] == ["a first", "a second", "b"]


def test_back_to_before_a_question_cannot_be_answered_at_once(run: Runner) -> None:
    graph, config = one(run, Calls()), new_thread()
    run.invoke(graph, {"n": 1}, config)
    with pytest.raises(UnknownInterruptError, match="not waiting for an answer"):
        run.invoke(graph, Command(resume="x"), at(config, 0))
    assert run.invoke(graph, Command(resume="x"), config)["log"] == ["a x", "b"]


def test_back_into_a_half_answered_superstep(run: Runner) -> None:
    """Finished siblings stay finished, answered ones are answered anew."""
    calls = Calls()
    graph, config = parallel(run, calls), new_thread()
    run.invoke(graph, {"n": 1}, config)
    asked = ids(graph, run, config)
    step = run.get_state(graph, config).config["configurable"]["step"]
    run.invoke(graph, Command(resume={asked["qa"]: "A", asked["qb"]: "B"}), config)
    calls.clear()
    result = run.invoke(graph, Command(resume={asked["qa"]: "AA", asked["qb"]: "BB"}), at(config, step))
    assert result["log"] == ["a AA", "b BB", "c", "end"]
    assert sorted(calls) == ["a", "b", "end"]
    assert graph.verify(config).ok


def test_a_fork_with_an_open_question(run: Runner) -> None:
    """Both threads ask, under the same id, and each is answered by itself."""
    graph, config, fork = one(run, Calls()), new_thread(), new_thread()
    run.invoke(graph, {"n": 1}, config)
    run.fork(graph, config, fork["configurable"]["thread_id"])
    assert run.get_state(graph, fork).interrupts == run.get_state(graph, config).interrupts
    assert run.invoke(graph, Command(resume="there"), fork)["log"] == ["a there", "b"]
    assert [found.value for found in run.get_state(graph, config).interrupts] == ["q"]
    assert run.invoke(graph, Command(resume="here"), config)["log"] == ["a here", "b"]
    assert graph.verify(fork).ok


def test_a_fork_between_two_questions(run: Runner) -> None:
    """It keeps the answer that was given before; a fork of the fork too."""
    graph, config = one(run, Calls(), "q0", "q1"), new_thread()
    forks = [new_thread(), new_thread()]
    run.invoke(graph, {"n": 1}, config)
    run.invoke(graph, Command(resume="x"), config)
    run.fork(graph, config, forks[0]["configurable"]["thread_id"])
    run.fork(graph, forks[0], forks[1]["configurable"]["thread_id"])
    for place, fork in enumerate(forks):
        assert run.invoke(graph, Command(resume=place), fork)["log"] == ["a x", f"a {place}", "b"]


def test_a_fork_with_an_open_question_is_found_by_its_status(quick: Runner) -> None:
    graph, config, fork = one(quick, Calls()), new_thread(), new_thread()
    quick.invoke(graph, {"n": 1}, config)
    quick.fork(graph, config, fork["configurable"]["thread_id"])
    assert status(graph, fork) == status(graph, config) == "interrupted"


def test_tasks_of_a_fork_have_keys_of_their_own(quick: Runner) -> None:
    """`idempotency_key` is no other task's."""
    keys: list[str] = []

    def count(state: Any, runtime: Any) -> dict[str, Any]:
        keys.append(runtime.idempotency_key)
        return {"n": state["n"] + 1}

    builder = StateGraph(State).add_node("count", count).add_edge(START, "count")
    builder.add_conditional_edges("count", lambda state: "count" if state["n"] < 12 else END)
    graph, config, fork = quick.compile(builder), new_thread(), new_thread()
    quick.first(5, graph, {"n": 0}, config)
    quick.fork(graph, config, fork["configurable"]["thread_id"])
    keys.clear()
    assert quick.invoke(graph, None, fork)["n"] == 12
    assert len(keys) == 7
    assert len(set(keys)) == 7


def test_subgraphs_of_a_fork_run_once_for_each_task(quick: Runner) -> None:
    inner = StateGraph(State).add_node("count", lambda state: {"n": state["n"] + 1}).add_edge(START, "count")
    builder = StateGraph(State).add_node("sub", inner.compile(name="inner")).add_edge(START, "sub")
    builder.add_conditional_edges("sub", lambda state: "sub" if state["n"] < 12 else END)
    graph, config, fork = quick.compile(builder), new_thread(), new_thread()
    quick.first(5, graph, {"n": 0}, config)
    quick.fork(graph, config, fork["configurable"]["thread_id"])
    assert [event["sub"]["n"] for event in quick.stream(graph, None, fork)] == list(range(6, 13))


def below(run: Runner) -> CompiledGraph[Any]:
    """The question stands in a subgraph."""
    inner = StateGraph(State).add_node("ask", lambda state: {"log": [interrupt("q")]}).add_edge(START, "ask")
    return run.compile(StateGraph(State).add_node("sub", inner.compile(name="inner")).add_edge(START, "sub"))


def test_back_to_before_a_question_in_a_subgraph(quick: Runner) -> None:
    graph, config = below(quick), new_thread()
    quick.invoke(graph, {"n": 1}, config)
    quick.invoke(graph, Command(resume="x"), config)
    assert quick.invoke(graph, None, at(config, 0))["__interrupt__"][0].value == "q"
    assert quick.invoke(graph, Command(resume="y"), config)["log"] == ["y"]


@pytest.mark.parametrize("how", ["fork", "back in time"])
def test_an_answer_to_a_question_in_a_subgraph_elsewhere(quick: Runner, how: str) -> None:
    """In a fork, or back at the question: taken, or refused; but not swallowed."""
    graph, config, fork = below(quick), new_thread(), new_thread()
    quick.invoke(graph, {"n": 1}, config)
    quick.fork(graph, config, fork["configurable"]["thread_id"])
    quick.invoke(graph, Command(resume="x"), config)
    there = fork if how == "fork" else at(config, 1)
    assert quick.invoke(graph, Command(resume="y"), there)["log"] == ["y"]


# --- crashes between question and answer ------------------------------------------------------


class Asked(TypedDict, total=False):
    n: int
    log: Annotated[list[str], operator.add]


def simulated(store: MemoryStore, calls: Calls) -> Any:
    def b(state: Any) -> dict[str, Any]:
        calls.append("b")
        return {"log": ["b"]}

    builder = StateGraph(Asked).add_node("a", asking(calls, "a", "q0", "q1")).add_node("b", b)
    builder.add_node("c", asking(calls, "c", "qc")).add_node("end", lambda state: {"log": ["end"]})
    for name in "abc":
        builder.add_edge(START, name)
    return builder.add_edge(["a", "b", "c"], "end").compile(checkpointer=store)


def drive(graph: Any, store: MemoryStore, value: Any, number: int, die_at: int | None, before: bool) -> int:
    call = Call("t", f"run-{number}", input=value, owner=f"me/{number}", alive=lambda owner: False)
    simulator = Simulator(store, seed=number, die_at=die_at, before=before)
    simulator.drive(Run(graph._graph, graph._codec, None, call).steps())
    return simulator.count


def has_ended(graph: Any) -> bool:
    state = graph.get_state({"thread_id": "t"})
    return state.created_at is not None and not state.next


ANSWERS = {"q0": "x", "q1": "y", "qc": "z"}


def one_by_one(graph: Any) -> Any:
    """The next input of somebody who answers one question at a time; None when there is nothing to do."""
    state = graph.get_state({"thread_id": "t"})
    if state.created_at is None:
        return {"n": 1}
    if state.interrupts:
        found = state.interrupts[-1]
        return Command(resume={found.id: ANSWERS[found.value]})
    return None


@pytest.mark.parametrize("go", range(4))
@pytest.mark.parametrize("before", [True, False])
def test_a_crash_anywhere_around_a_question(go: int, before: bool) -> None:
    """Die at every effect of the go-th call, then go on one answer at a time: the same end, and b runs once."""
    die_at = 0
    while True:
        store, calls = MemoryStore(), Calls()
        graph = simulated(store, calls)
        died, number, steps = False, 0, 0
        while not has_ended(graph):
            try:
                steps = drive(graph, store, one_by_one(graph), number, die_at if number == go else None, before)
            except Died:
                died = True
                recorded = {row.node for row in store.rows("t") if row.kind == "task"}
                counted = {name: calls.count(name) for name in recorded}
            number += 1
            assert number < 12
        assert graph.get_state({"thread_id": "t"}).values == {"n": 1, "log": ["a x", "a y", "b", "c z", "end"]}
        assert graph.verify({"thread_id": "t"}).ok
        if not died:
            assert die_at >= min(steps, 4)
            return
        assert {name: calls.count(name) for name in recorded} == counted, "a task with a row ran again"
        die_at += 1


def test_an_open_question_survives_the_process(run: Runner, script: Any) -> None:
    """Asked in a process that is gone, answered in this one."""
    config = new_thread()
    code = """
import os, sys
from tests.graphs import Calls, Runner, chain
from durable_graph import interrupt
run = Runner("sync", sys.argv[1])
graph = run.compile(chain(run, Calls(), "ab", a=lambda state: {"log": [f"a {interrupt('q')}"]}))
graph.invoke({"n": 1}, {"thread_id": sys.argv[2]})
os._exit(9)
"""
    process = script(code, str(run.url), config["configurable"]["thread_id"])
    assert process.wait(60) == 9
    graph = one(run, Calls())
    assert [found.value for found in run.get_state(graph, config).interrupts] == ["q"]
    assert run.invoke(graph, Command(resume="x"), config)["log"] == ["a x", "b"]


# --- signals of the engine --------------------------------------------------------------------


def test_a_node_that_catches_and_lets_pass(quick: Runner) -> None:
    """What a node must do who catches every Exception."""
    cleaned: list[str] = []

    def ask(state: Any) -> dict[str, Any]:
        try:
            return {"log": [interrupt("q")]}
        except GraphInterrupt:
            cleaned.append("passed")
            raise

    graph, config = quick.compile(chain(quick, Calls(), "a", a=ask)), new_thread()
    quick.invoke(graph, {"n": 1}, config)
    assert quick.invoke(graph, Command(resume="x"), config)["log"] == ["x"]
    assert cleaned == ["passed"]


def test_a_stream_broken_off_at_its_question(run: Runner) -> None:
    """The question was the last thing seen: it is committed, and the lease is free."""
    calls = Calls()
    graph, config = one(run, calls), new_thread()
    (event,) = run.first(1, graph, {"n": 1}, config)
    assert "__interrupt__" in event
    assert status(graph, config) == "interrupted"
    assert run.invoke(graph, Command(resume="x"), config)["log"] == ["a x", "b"]


def test_two_answers_at_once(run: Runner) -> None:
    """Two callers answer the same question: one of them is refused, and the thread has one answer."""
    graph, config = one(run, Calls()), new_thread()
    run.invoke(graph, {"n": 1}, config)
    asked = ids(graph, run, config)["q"]
    inner: list[BaseException] = []

    def second(event: Any) -> None:
        if not inner and "a" in event:
            with pytest.raises(CallError) as error:
                graph.invoke(Command(resume={asked: "second"}), config)
            inner.append(error.value)

    if run.way == "sync":
        run.watch(second, graph, Command(resume={asked: "first"}), config)
    else:
        run.invoke(graph, Command(resume={asked: "first"}), config)
        with pytest.raises(UnknownInterruptError):
            run.invoke(graph, Command(resume={asked: "second"}), config)
    assert run.get_state(graph, config).values["log"] == ["a first", "b"]
