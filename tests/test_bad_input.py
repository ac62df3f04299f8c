"""What bad input gets: an error with a name, the place and the fix; and a thread that goes on once the cause is gone.

Each test of a failing node ends with `repaired`: the corrected graph, on the same database, continues the thread.
"""

import operator
import threading
from collections.abc import Iterator
from typing import Annotated, Any, TypedDict

import pytest
from pydantic import BaseModel

from durable_graph import (
    END,
    START,
    ArgumentError,
    CallError,
    ChangedGraphError,
    CheckpointNotFoundError,
    Command,
    DurableGraphError,
    EmptyInputError,
    GraphRecursionError,
    InvalidUpdateError,
    NodeCodeError,
    RoutingError,
    Send,
    StateGraph,
    ThreadNotFoundError,
    UnstorableValueError,
    get_config,
    get_runtime,
    get_stream_writer,
)
from tests.graphs import Calls, Runner, State, at, chain, counter, durable_threads, new_thread, nodes_of, wide


@pytest.fixture(params=["sync", "async"])
def run(request: pytest.FixtureRequest, database_url: str) -> Iterator[Runner]:
    with Runner(request.param, database_url) as runner:
        yield runner


def refuses(run: Runner, kind: type[BaseException], words: list[str], call: Any) -> BaseException:
    """Calling it raises this error, with these words in its message, and leaves no thread behind."""
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    for word in words:
        assert word in str(caught.value)
    assert durable_threads() == []
    return caught.value


def repaired(
    run: Runner,
    calls: Calls,
    config: Any,
    expected: list[str] = ["a", "b", "c"],  # noqa: B006
    **settings: Any,
) -> None:
    """Nothing that was committed stands in the way: the thread continues, and nothing that had finished runs again."""
    before = [*calls]
    graph = run.compile(chain(run, calls), **settings)
    assert run.get_state(graph, config).next == ("b",)
    assert run.invoke(graph, None, config)["log"] == expected
    assert calls[len(before) :] == ["b", "c"]
    assert run.call(graph, "verify", config).ok
    with pytest.raises(EmptyInputError):
        run.invoke(graph, None, config)


def with_b(run: Runner, calls: Calls, output: Any) -> Any:
    """a -> b -> c, where b returns this."""
    return run.compile(chain(run, calls, b=lambda state: output))


# --- updates ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ({"lgo": ["b"]}, ["Node 'b'", "unknown key 'lgo'", "Known keys: log, n", "schema"]),
        ({"log": ["b"], 5: 1}, ["Node 'b'", "unknown key 5"]),
        ("text", ["Node 'b'", "expected a dict", "got str: 'text'", "or a Command"]),
        (5, ["Node 'b'", "got int: 5"]),
        (["log"], ["Node 'b'", "got list"]),
        ([{"log": ["b"]}], ["Node 'b'", "got list"]),
        (object, ["Node 'b'", "got type"]),
        (Command(update="text"), ["Node 'b'", "got str"]),
        (Command(update={"lgo": 1}), ["Node 'b'", "unknown key 'lgo'"]),
        ([Command(goto="c"), 5], ["Node 'b'", "got int: 5"]),
        ([Command(update={"n": 1}), {"n": 2}], ["Node 'b'", "'n' is written twice", "reducer"]),
    ],
    ids=repr,
)
def test_updates_that_are_none(run: Runner, output: Any, words: list[str]) -> None:
    calls, config = Calls(), new_thread()
    graph = with_b(run, calls, output)
    error = refuses(run, InvalidUpdateError, words, lambda: run.invoke(graph, {"log": []}, config))
    assert isinstance(error, NodeCodeError)
    repaired(run, calls, config)


class Checked(BaseModel):
    n: int = 0
    log: Annotated[list[str], operator.add] = []


def test_an_update_that_does_not_fit_a_pydantic_state(run: Runner) -> None:
    config = new_thread()

    def graph(value: Any) -> Any:
        return run.compile(StateGraph(Checked).add_node("a", run.node(lambda state: {"n": value})).add_edge(START, "a"))

    words = ["Node 'a'", "'n' does not fit", "valid integer", "type that the schema names"]
    refuses(run, InvalidUpdateError, words, lambda: run.invoke(graph("many"), {"n": 1}, config))
    assert run.invoke(graph(7), None, config) == {"n": 7, "log": []}


def test_two_writes_of_a_plain_key_in_one_superstep(run: Runner) -> None:
    config = new_thread()

    def graph(schema: Any) -> Any:
        builder = StateGraph(schema)
        for name in "ab":
            builder.add_node(name, run.node(lambda state, name=name: {"n": ord(name)})).add_edge(START, name)
        return run.compile(builder)

    error = refuses(
        run,
        InvalidUpdateError,
        ["'n' is written twice in one superstep", "Give 'n' a reducer", "let one node write it"],
        lambda: run.invoke(graph(State), {"n": 1}, config),
    )
    assert "Node 'a'" in str(error) or "Node 'b'" in str(error)
    assert "by 'b'" in str(error) or "by 'a'" in str(error)

    class Fixed(TypedDict, total=False):
        n: Annotated[int, operator.add]
        log: Annotated[list[str], operator.add]

    assert run.invoke(graph(Fixed), None, config)["n"] == 1 + ord("a") + ord("b")


def failing_reducer(old: list[str], new: list[str]) -> list[str]:
    if "b" in new:
        raise ZeroDivisionError("by a reducer")
    return old + new


class WithFailingReducer(TypedDict, total=False):
    n: int
    log: Annotated[list[str], failing_reducer]


@pytest.mark.parametrize("router", [False, True], ids=["edge", "router"])
def test_a_reducer_that_raises(run: Runner, router: bool) -> None:
    """Also when it is called for a router, to show it the state with the node's update."""
    calls, config = Calls(), new_thread()
    builder = StateGraph(WithFailingReducer)
    for name in "abc":
        builder.add_node(name, run.node(calls.node(name)))
    builder.add_edge(START, "a").add_edge("a", "b")
    if router:
        builder.add_conditional_edges("b", lambda state: "c")
    else:
        builder.add_edge("b", "c")
    error = refuses(
        run,
        InvalidUpdateError,
        ["reducer of 'log'", "ZeroDivisionError: by a reducer", "Correct the reducer"],
        lambda: run.invoke(run.compile(builder), {"log": []}, config),
    )
    assert isinstance(error.__cause__, ZeroDivisionError)
    assert calls == ["a", "b"]
    repaired(run, calls, config, aliases={"failing_reducer()": "add"})


def test_a_reducer_that_raises_on_the_input(run: Runner) -> None:
    builder = StateGraph(WithFailingReducer).add_node("a", run.node(Calls().node("a"))).add_edge(START, "a")
    graph, config = run.compile(builder), new_thread()
    refuses(run, InvalidUpdateError, ["reducer of 'log'"], lambda: run.invoke(graph, {"log": ["b"]}, config))
    assert run.history(graph, config) == []
    assert run.invoke(graph, {"log": ["x"]}, config) == {"log": ["x", "a"]}


# --- values that cannot be stored -------------------------------------------------------------


class Foreign:
    pass


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"deep": [{"lock": threading.Lock()}]}, ["['data']['deep'][0]['lock']", "_thread.lock"]),
        (lambda: None, ["['data']", "function"]),
        ((1, {"x": Foreign()}), ["['data'][1]['x']", "Foreign", "Store plain data"]),
        (Foreign(), ["['data']", "Foreign"]),
        ({Foreign(): 1}, ["['data']", "Foreign"]),
    ],
    ids=["lock", "function", "object in a tuple", "object", "object as a key"],
)
def test_a_value_that_cannot_be_stored(run: Runner, value: Any, words: list[str]) -> None:
    calls, config = Calls(), new_thread()

    class WithData(State):
        data: Any

    def graph(data: Any) -> Any:
        builder = StateGraph(WithData).add_node("a", run.node(calls.node("a"))).add_node("c", run.node(calls.node("c")))
        builder.add_node("b", run.node(lambda state: {"log": ["b"], "data": data}))
        return run.compile(builder.add_edge(START, "a").add_edge("a", "b").add_edge("b", "c"))

    error = refuses(
        run, UnstorableValueError, [*words, "cannot be stored"], lambda: run.invoke(graph(value), {"log": []}, config)
    )
    assert isinstance(error, TypeError)
    assert "'b'" in "".join(error.__notes__)
    assert run.invoke(graph("plain"), None, config) == {"log": ["a", "b", "c"], "data": "plain"}
    assert calls == ["a", "c"]


def test_an_input_that_cannot_be_stored(run: Runner) -> None:
    graph, config = run.compile(chain(run, Calls())), new_thread()
    for _ in range(2):
        refuses(
            run,
            UnstorableValueError,
            ["['n']", "_thread.lock"],
            lambda: run.invoke(graph, {"n": threading.Lock()}, config),  # type: ignore[dict-item]
        )
    assert run.get_state(graph, config).created_at is None  # no row, no thread, no lease
    assert run.invoke(graph, {"log": []}, config) == {"log": ["a", "b", "c"]}


def test_an_update_that_cannot_be_stored(run: Runner) -> None:
    graph, config = run.compile(chain(run, Calls())), new_thread()
    run.first(1, graph, {"log": []}, config)
    refuses(run, UnstorableValueError, ["['n']"], lambda: run.update_state(graph, config, {"n": threading.Lock()}))
    assert run.invoke(graph, None, config) == {"log": ["a", "b", "c"]}


def test_metadata_that_cannot_be_stored(run: Runner) -> None:
    graph, config = run.compile(chain(run, Calls())), new_thread()
    refuses(
        run,
        UnstorableValueError,
        ["['metadata']['mine']", "_thread.lock"],
        lambda: run.invoke(graph, {"log": []}, {**config, "metadata": {"mine": threading.Lock()}}),
    )
    assert run.invoke(graph, {"log": []}, config) == {"log": ["a", "b", "c"]}


def test_a_payload_that_cannot_be_stored(run: Runner) -> None:
    calls, config = Calls(), new_thread()
    builder = chain(run, calls)
    builder.add_conditional_edges("b", lambda state: [Send("c", {"lock": threading.Lock()})])
    graph = run.compile(builder)
    refuses(run, UnstorableValueError, ["['lock']", "lock"], lambda: run.invoke(graph, {"log": []}, config))
    calls.remove("b")
    repaired(run, calls, config)


def test_a_custom_event_that_cannot_be_stored(run: Runner) -> None:
    """Refused where the node sends it, so that it can see why."""
    calls, config = Calls(), new_thread()

    def send(state: State, writer: Any) -> None:
        writer({"progress": 1})
        writer({"lock": threading.Lock()})

    graph = run.compile(chain(run, calls, b=send))
    refuses(run, UnstorableValueError, ["['lock']"], lambda: run.invoke(graph, {"log": []}, config))
    repaired(run, calls, config)


def locking_reducer(old: list[Any], new: list[Any]) -> list[Any]:
    return [threading.Lock()] if "b" in new else old + new


def test_a_result_of_a_reducer_that_cannot_be_stored(run: Runner) -> None:
    calls, config = Calls(), new_thread()

    class Locked(TypedDict, total=False):
        log: Annotated[list[Any], locking_reducer]

    builder = StateGraph(Locked)
    builder.add_sequence([(name, run.node(calls.node(name))) for name in "abc"])
    graph = run.compile(builder.add_edge(START, "a"))
    refuses(run, UnstorableValueError, ["['log']", "_thread.lock"], lambda: run.invoke(graph, {"log": []}, config))
    repaired(run, calls, config, aliases={"locking_reducer()": "add"})


# --- routing ----------------------------------------------------------------------------------


def routed(run: Runner, calls: Calls, router: Any, *path_map: Any) -> Any:
    builder = StateGraph(State)
    for name in "abc":
        builder.add_node(name, run.node(calls.node(name)))
    return run.compile(builder.add_edge(START, "a").add_edge("a", "b").add_conditional_edges("b", router, *path_map))


@pytest.mark.parametrize(
    ("answer", "path_map", "words"),
    [
        ("cc", (), ["after node 'b'", "no node 'cc'", "Go to one of: a, b, c; or to END"]),
        (["c", "cc"], (), ["no node 'cc'"]),
        (None, (), ["after node 'b'", "returned None", "Go to one of"]),
        (None, ({"x": "c"},), ["returned None"]),
        (5, (), ["no node 5"]),
        ({"c": 1}, (), ["no node {'c': 1}"]),
        (START, (), ["no node '__start__'"]),
        ("y", ({"x": "c"},), ["answered 'y'", "its path map has 'x'"]),
        (["x", "y"], ({"x": "c"},), ["answered 'y'"]),
        ({"unhashable": 1}, ({"x": "c"},), ["answered {'unhashable': 1}"]),
        (Send("cc", {}), (), ["no node 'cc'"]),
        (Send(END, {}), (), ["a Send cannot go to END"]),
    ],
    ids=repr,
)
def test_a_router_that_answers_nonsense(run: Runner, answer: Any, path_map: Any, words: list[str]) -> None:
    calls, config = Calls(), new_thread()
    graph = routed(run, calls, lambda state: answer, *path_map)
    error = refuses(run, RoutingError, words, lambda: run.invoke(graph, {"log": []}, config))
    assert isinstance(error, NodeCodeError)
    repaired(run, calls, config)


def test_a_router_that_raises(run: Runner) -> None:
    calls, config = Calls(), new_thread()

    def router(state: State) -> str:
        raise KeyError("in the router")

    graph = routed(run, calls, router)
    error = refuses(run, KeyError, ["in the router"], lambda: run.invoke(graph, {"log": []}, config))
    assert "in node 'b'" in "".join(error.__notes__)
    repaired(run, calls, config)


@pytest.mark.parametrize(
    ("goto", "words"),
    [
        ("cc", ["after node 'b'", "no node 'cc'", "Go to one of"]),
        (["c", "cc"], ["no node 'cc'"]),
        (Send("cc", 1), ["no node 'cc'"]),
        (None, ["no node None"]),
    ],
    ids=repr,
)
def test_a_command_that_goes_nowhere(run: Runner, goto: Any, words: list[str]) -> None:
    calls, config = Calls(), new_thread()
    graph = with_b(run, calls, Command(update={"log": ["b"]}, goto=goto))
    refuses(run, RoutingError, words, lambda: run.invoke(graph, {"log": []}, config))
    repaired(run, calls, config)


def test_an_entry_router_that_answers_nonsense(run: Runner) -> None:
    config = new_thread()

    def graph(answer: str) -> Any:
        builder = StateGraph(State).add_node("a", run.node(Calls().node("a")))
        return run.compile(builder.add_conditional_edges(START, run.node(lambda state: answer)))

    refuses(run, RoutingError, ["'__start__'", "no node 'b'"], lambda: run.invoke(graph("b"), {"log": []}, config))
    assert run.history(graph("a"), config) == []
    assert run.invoke(graph("a"), {"log": []}, config) == {"log": ["a"]}


# --- input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"lgo": []}, ["The input", "unknown key 'lgo'", "Known keys: n, log"]),
        ("text", ["The input", "got str: 'text'", "Give a dict"]),
        (5, ["The input", "got int"]),
        ([], ["The input", "got list"]),
        ([("log", [])], ["The input", "got list"]),
    ],
    ids=repr,
)
def test_input_that_is_none(run: Runner, value: Any, words: list[str]) -> None:
    graph, config = run.compile(chain(run, Calls())), new_thread()
    refuses(run, InvalidUpdateError, words, lambda: run.invoke(graph, value, config))
    assert run.get_state(graph, config).created_at is None
    run.first(1, graph, {"log": []}, config)
    refuses(run, InvalidUpdateError, words, lambda: run.invoke(graph, value, config))
    assert run.invoke(graph, None, config) == {"log": ["a", "b", "c"]}  # what was pending was not dropped


def test_nothing_to_continue(run: Runner) -> None:
    graph, config = run.compile(chain(run, Calls())), new_thread()
    refuses(
        run,
        EmptyInputError,
        [config["configurable"]["thread_id"], "does not exist", "Give an input", "database URL"],
        lambda: run.stream(graph, None, config),
    )
    refuses(run, EmptyInputError, ["does not exist", "Give an input"], lambda: run.invoke(graph, None))
    assert run.call(graph, "threads") == []
    run.invoke(graph, {"log": []}, config)
    words = ["has finished", "nothing to continue", "Give an input"]
    refuses(run, EmptyInputError, words, lambda: run.stream(graph, None, config))
    assert run.get_state(graph, config).config["configurable"]["step"] == 3


@pytest.mark.parametrize("mode", ["update", "", "Updates", ["updates", "nope"], [""], 5, [5]], ids=repr)
def test_an_unknown_stream_mode(run: Runner, mode: Any) -> None:
    """Refused at the call, not at the first event; a text is no list of letters."""
    graph, config = run.compile(chain(run, Calls())), new_thread()
    words = ["stream_mode", "no mode", "Use one of", "updates", "values"]
    method = "stream" if run.way == "sync" else "astream"
    refuses(run, ArgumentError, words, lambda: getattr(graph, method)({"log": []}, config, stream_mode=mode))
    run.invoke(graph, {"log": []}, config)
    refuses(run, ArgumentError, words, lambda: run.replay(graph, config, stream_mode=mode))
    refuses(run, ArgumentError, words, lambda: run.follow(graph, config, stream_mode=mode))


# --- config -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"thread": "x"}, ["config['thread']", "no such setting", "'configurable'", "thread_id"]),
        ({"recursion_limit": 0}, ["config['recursion_limit']", "at least 1", "got 0"]),
        ({"recursion_limit": -5}, ["recursion_limit", "got -5"]),
        ({"recursion_limit": "5"}, ["recursion_limit", "got '5'"]),
        ({"recursion_limit": True}, ["recursion_limit", "got True"]),
        ({"max_concurrency": 0}, ["max_concurrency", "at least 1"]),
        ({"configurable": 5}, ["configurable", "a dict", "int"]),
        ({"configurable": "thread"}, ["configurable", "a dict", "str"]),
        ({"metadata": ["x"]}, ["metadata", "a dict", "list"]),
        ({"tags": "one"}, ["tags", "list"]),
        ({"tags": 5}, ["tags", "list"]),
        ({"configurable": {"thread_id": ""}}, ["thread_id", "not empty"]),
        ({"configurable": {"thread_id": ["x"]}}, ["thread_id", "['x']"]),
        ({"configurable": {"thread_id": True}}, ["thread_id", "True"]),
        ({"configurable": {"thread_id": "x", "step": "last"}}, ["step", "'last'", "get_state_history"]),
        ({"configurable": {"thread_id": "x", "checkpoint_id": "1f1e71e3"}}, ["'1f1e71e3'", "get_state_history"]),
        ({"configurable": {"thread_id": "x", "step": 1.5}}, ["step", "1.5"]),
        (5, ["config", "a dict", "int"]),
        ("thread", ["config", "a dict", "str"]),
    ],
    ids=repr,
)
def test_config_mistakes(config: Any, words: list[str]) -> None:
    for way in ("sync", "async"):
        run = Runner(way, "sqlite:////nowhere/never-opened.db")
        graph = run.compile(chain(run, Calls()))
        error = refuses(run, ArgumentError, words, lambda: run.invoke(graph, {"log": []}, config))  # noqa: B023
        assert isinstance(error, ValueError)


CALLS = ["get_state", "get_state_history", "replay", "follow", "update_state", "fork", "verify"]


@pytest.mark.parametrize("call", CALLS)
def test_a_config_without_a_thread(run: Runner, call: str) -> None:
    graph = run.compile(chain(run, Calls()))
    more: dict[str, Any] = {"update_state": {"values": {}}, "fork": {"to": "x"}}.get(call, {})
    words = ["names no thread", "thread_id"]
    if call in ("get_state_history", "replay", "follow"):
        refuses(run, ArgumentError, words, lambda: run.each(lambda item: None, graph, call, {}))
    else:
        refuses(run, ArgumentError, words, lambda: run.call(graph, call, {}, **more))


def test_threads_without_a_database() -> None:
    for way in ("sync", "async"):
        run = Runner(way, False)
        graph = run.compile(chain(run, Calls()))
        words = ["thread_id", "no checkpointer", "Compile with a database"]
        refuses(run, ArgumentError, words, lambda: run.stream(graph, {"log": []}, new_thread()))  # noqa: B023
        words = ["checkpointer=False", "Compile it with a database URL"]
        for call in (run.get_state, run.history, run.replay, run.follow):
            refuses(run, ArgumentError, words, lambda: call(graph, new_thread()))  # noqa: B023
        refuses(run, ArgumentError, words, lambda: run.update_state(graph, new_thread(), {}))  # noqa: B023
        refuses(run, ArgumentError, words, lambda: run.fork(graph, new_thread(), "x"))  # noqa: B023
        refuses(run, EmptyInputError, ["Give an input"], lambda: run.invoke(graph, None))  # noqa: B023


def test_more_configs_than_inputs(run: Runner) -> None:
    graph = run.compile(chain(run, Calls()))
    refuses(
        run,
        ArgumentError,
        ["2 inputs and 1 configs", "one for each"],
        lambda: run.call(graph, "batch", [{"log": []}, {"log": []}], [new_thread()]),
    )


# --- threads, steps, update_state -------------------------------------------------------------


def test_a_missing_thread_or_step(run: Runner) -> None:
    graph, config = run.compile(chain(run, Calls())), new_thread()
    thread_id = config["configurable"]["thread_id"]
    words = [f"no thread '{thread_id}'", "Check the id and the database URL"]
    refuses(run, ThreadNotFoundError, words, lambda: run.replay(graph, config))
    refuses(run, ThreadNotFoundError, words, lambda: run.follow(graph, config))
    refuses(run, ThreadNotFoundError, words, lambda: run.call(graph, "verify", config))
    refuses(run, ThreadNotFoundError, words, lambda: run.fork(graph, config, "x"))
    run.invoke(graph, {"log": []}, config)
    words = [f"'{thread_id}' has no step 9", "its steps are 0 to 3", "Name one of its steps"]
    refuses(run, CheckpointNotFoundError, words, lambda: run.get_state(graph, at(config, 9)))
    refuses(run, CheckpointNotFoundError, words, lambda: run.invoke(graph, None, at(config, 9)))
    refuses(run, CheckpointNotFoundError, words, lambda: run.fork(graph, at(config, 9), "x"))


@pytest.mark.parametrize("call", ["invoke", "update_state", "fork"])
def test_a_step_of_a_missing_thread(run: Runner, call: str) -> None:
    """A thread that does not exist has no step 3 either; it is not begun anew."""
    graph, config = run.compile(chain(run, Calls())), at(new_thread(), 3)
    arguments = {"invoke": ({"log": []}, config), "update_state": (config, {}), "fork": (config, "x")}
    with pytest.raises((ThreadNotFoundError, CheckpointNotFoundError)):
        run.call(graph, call, *arguments[call])
    assert run.call(graph, "threads") == []


@pytest.mark.parametrize(
    ("values", "as_node", "words"),
    [
        ({"lgo": 1}, None, ["update_state", "unknown key 'lgo'", "Known keys: log, n"]),
        ("text", None, ["update_state", "got str: 'text'"]),
        (5, "a", ["update_state", "got int"]),
        ({"n": 1}, "z", ["no node 'z'", "a, b, c", "as_node"]),
    ],
)
def test_update_state_refuses(run: Runner, values: Any, as_node: str | None, words: list[str]) -> None:
    graph, config = run.compile(chain(run, Calls())), new_thread()
    run.first(1, graph, {"log": []}, config)
    refuses(run, InvalidUpdateError, words, lambda: run.update_state(graph, config, values, as_node))
    assert run.get_state(graph, config).config["configurable"]["step"] == 1
    assert run.invoke(graph, None, config) == {"log": ["a", "b", "c"]}


def test_update_state_whose_router_answers_nonsense(run: Runner) -> None:
    calls, config = Calls(), new_thread()
    graph = routed(run, calls, lambda state: "cc")
    run.first(1, graph, {"log": []}, config)
    refuses(run, RoutingError, ["no node 'cc'"], lambda: run.update_state(graph, config, {"log": ["x"]}, as_node="b"))
    repaired(run, calls, config)


# --- a graph that has changed -----------------------------------------------------------------


def test_a_pending_node_that_the_graph_no_longer_has(run: Runner) -> None:
    calls, config = Calls(), new_thread()
    old = run.compile(chain(run, calls))
    run.first(1, old, {"log": []}, config)
    new = run.compile(chain(run, calls, "ac"))
    words = ["cannot be continued", "needs the node 'b'", "Compile with that node again", "update_state", "a, c"]
    for _ in range(2):
        refuses(run, ChangedGraphError, words, lambda: run.invoke(new, None, config))
    assert run.get_state(new, config).next == ("b",)  # reading needs no such node
    assert nodes_of(run.replay(new, config)) == ["a"]
    run.update_state(new, config, {"log": ["moved on"]}, as_node="a")
    assert run.invoke(new, None, config) == {"log": ["a", "moved on", "c"]}


def test_a_pending_node_that_is_back_again(run: Runner) -> None:
    calls, config = Calls(), new_thread()
    run.first(1, run.compile(chain(run, calls)), {"log": []}, config)
    refuses(run, ChangedGraphError, ["'b'"], lambda: run.invoke(run.compile(chain(run, calls, "ac")), None, config))
    repaired(run, calls, config)


def test_a_finished_sibling_whose_node_is_gone(run: Runner) -> None:
    """a and c have ended, b has failed; the corrected graph has no c any more: its successors are not known."""
    calls, config = Calls(), new_thread()
    other = threading.Event()
    graph = run.compile(wide(run, calls, b=run.waiting(other, calls.failing("b"))))
    seen: list[Any] = []

    def note(event: Any) -> None:
        seen.append(event)
        if len(seen) == 2:
            other.set()

    with pytest.raises(ValueError, match="b failed"):
        run.watch(note, graph, {"log": []}, config)
    new = run.compile(wide(run, calls, "ab"))
    refuses(run, ChangedGraphError, ["needs the node 'c'"], lambda: run.invoke(new, None, config))
    assert run.invoke(run.compile(wide(run, calls)), None, config)["log"] == ["a", "b", "c", "end"]


def test_a_new_input_goes_on_in_a_changed_graph(run: Runner) -> None:
    config = new_thread()
    run.first(1, run.compile(chain(run, Calls())), {"log": []}, config)
    new = run.compile(chain(run, Calls(), "xy"))
    assert run.invoke(new, {"log": ["in"]}, config) == {"log": ["a", "in", "x", "y"]}


# --- sync and async ---------------------------------------------------------------------------


def test_async_nodes_in_a_sync_call(database_url: str) -> None:
    async def b(state: State) -> dict[str, Any]:
        return {"log": ["b"]}

    run, calls, config = Runner("sync", database_url), Calls(), new_thread()
    with run.compile(chain(run, calls, b=b)) as graph:
        refuses(
            run,
            CallError,
            ["b is async and cannot run in a sync call", "astream", "plain function"],
            lambda: run.invoke(graph, {"log": []}, config),
        )
        assert Runner("async", database_url).invoke(graph, None, config) == {"log": ["a", "b", "c"]}
    assert calls == ["a", "c"]


@pytest.mark.parametrize("function", [get_runtime, get_config, get_stream_writer])
def test_asking_for_the_runtime_outside_of_a_node(function: Any) -> None:
    with pytest.raises(CallError, match=r"no running node here.*Call this from a node"):
        function()


def test_a_loop_without_end(run: Runner) -> None:
    graph, config = run.compile(counter(run, 1_000_000)), {**new_thread(), "recursion_limit": 10}
    words = ["recursion_limit=10", "step 10", "next: count", "stream(None, config)", 'config["recursion_limit"]']
    refuses(run, GraphRecursionError, words, lambda: run.invoke(graph, {"n": 0}, config))
    refuses(run, GraphRecursionError, ["recursion_limit=10", "step 21"], lambda: run.invoke(graph, None, config))
    assert run.get_state(graph, config).values["n"] == 20


def test_every_error_is_in_the_tree_and_keeps_its_facts_when_pickled(run: Runner) -> None:
    import pickle

    calls, config = Calls(), new_thread()
    error = refuses(
        run, InvalidUpdateError, [], lambda: run.invoke(with_b(run, calls, {"lgo": 1}), {"log": []}, config)
    )
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, DurableGraphError)
    assert str(again) == str(error)
    assert again.facts == error.facts
