"""Code that changes under running threads: what is accepted, what is refused by name, and the ways through.

An old graph begins each thread and is stopped; a new one goes on. What is refused commits nothing: the old code, or a
corrected one, continues the thread as if nothing had been tried.
"""

import functools
import itertools
import json
import operator
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durable_graph import (
    END,
    START,
    ChangedGraphError,
    Command,
    CompiledGraph,
    DrawingError,
    Log,
    MigrationError,
    Overwrite,
    Send,
    StateGraph,
    Unregistered,
    UnstorableValueError,
    interrupt,
    task,
)
from durable_graph.core.rows import Call
from durable_graph.core.run import Run
from durable_graph.store.memory import MemoryStore
from tests.graphs import Calls, Runner, State, at, chain, new_thread, nodes_of, snapshot_each_barrier, wide
from tests.simulator import Died, Simulator


@pytest.fixture(params=["sync", "async"])
def run(request: pytest.FixtureRequest, database_url: str) -> Iterator[Runner]:
    with Runner(request.param, database_url) as runner:
        yield runner


def bodies(graph: CompiledGraph[Any], config: Any) -> list[dict[str, Any]]:
    rows = graph._stored().rows(config["configurable"]["thread_id"])
    return [graph._codec.decode(row.body) for row in rows]


def refused(run: Runner, graph: CompiledGraph[Any], config: Any, words: list[str], *given: Any) -> ChangedGraphError:
    """Continuing, also with what is given, raises ChangedGraphError with these words; no row is written."""
    before = len(bodies(graph, config))
    for value in (None, *given):
        with pytest.raises(ChangedGraphError) as caught:
            run.invoke(graph, value, config)
        for word in [repr(config["configurable"]["thread_id"]), "at step", *words]:
            assert word in str(caught.value)
    assert len(bodies(graph, config)) == before
    assert len(run.replay(graph, config, stream_mode="events")) == before
    run.history(graph, config)
    assert run.call(graph, "verify", config).ok
    return caught.value


def stopped(run: Runner, old: StateGraph[Any], rows: int = 1, value: Any = None, **settings: Any) -> dict[str, Any]:
    """A thread of the old graph, stopped after so many events."""
    config = new_thread()
    run.first(rows, run.compile(old, **settings), {"log": []} if value is None else value, config)
    return config


def failed(run: Runner, old: StateGraph[Any], value: Any = None, **settings: Any) -> dict[str, Any]:
    """A thread of the old graph in which a node has failed, once its siblings had ended."""
    config = new_thread()
    with pytest.raises(ValueError, match="failed"):
        run.invoke(run.compile(old, **settings), {"log": []} if value is None else value, config)
    return config


class Beside:
    """Two nodes side by side, of which the second fails once the first has begun: so the first will have ended."""

    def __init__(self, run: Runner, calls: Calls) -> None:
        self.begun = threading.Event()
        self.second = run.waiting(self.begun, calls.failing("b"))

    def first(self, node: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def call(state: Any) -> Any:
            self.begun.set()
            return node(state)

        return call


def branch(run: Runner, graph: CompiledGraph[Any], config: Any) -> dict[str, Any]:
    """A fork of the thread, to try another way through."""
    forked = new_thread()
    run.fork(graph, config, forked["configurable"]["thread_id"])
    return forked


def drawn(run: Runner, schema: Any, edges: dict[str, Any], calls: Calls, **special: Callable[..., Any]) -> Any:
    """{node: what follows it}; START leads to the first."""
    builder = StateGraph(schema)
    for name, ends in edges.items():
        builder.add_node(name, run.node(special.get(name) or calls.node(name)))
        for end in [ends] if isinstance(ends, str) else ends:
            builder.add_edge(name, end)
    return builder.add_edge(START, next(iter(edges)))


# --- what is recorded -------------------------------------------------------------------------


def test_each_run_records_its_graph_and_more_only_when_that_has_changed(run: Runner) -> None:
    calls, config = Calls(), new_thread()
    old, new = run.compile(chain(run, calls)), run.compile(chain(run, calls, "abcd"))
    run.first(1, old, {"log": []}, config)
    run.first(1, old, None, config)
    run.first(1, new, None, config)
    run.invoke(new, None, config)
    told = [body["graph"] for body in bodies(new, config) if "run" in body]
    first, same = old._graph.fingerprint, new._graph.fingerprint
    channels = {"log": "add", "n": "the last value"}
    assert told == [
        {"fingerprint": first, "nodes": ["a", "b", "c"], "channels": channels},
        {"fingerprint": first},
        {"fingerprint": same, "nodes": ["a", "b", "c", "d"], "channels": channels},
        {"fingerprint": same},
    ]
    assert run.call(new, "threads")[0].fingerprint == same


def test_a_fingerprint_is_the_same_in_each_process(script: Any) -> None:
    code = """if True:
        import functools, operator
        from typing import Annotated, TypedDict
        from durable_graph import START, StateGraph
        class Adder:
            def __call__(self, old, new): return old + new
        class State(TypedDict):
            a: Annotated[int, functools.partial(max, 3)]
            b: Annotated[int, Adder()]
            c: Annotated[dict, operator.or_]
            d: Annotated[int, lambda old, new: new]
        builder = StateGraph(State).add_node("a", print).add_edge(START, "a")
        print(builder.compile(False)._graph.fingerprint)
    """.replace("functools.partial(max, 3)", "functools.partial(functools.partial(pow), mod=None)")
    first, second = (script(code).communicate(timeout=60) for _ in range(2))
    assert first == second
    assert len(first[0].strip()) == 16


# --- what is accepted -------------------------------------------------------------------------


class WithMore(State):
    extra: int
    seen: Annotated[list[str], operator.add]


class WithoutN(TypedDict, total=False):
    log: Annotated[list[str], operator.concat]  # the same operation as add


def see(state: Any) -> dict[str, Any]:
    return {"log": [f"c sees {state['seen']}"], "seen": ["c"]}


EDITS: dict[str, tuple[Callable[[Runner, Calls], StateGraph[Any]], list[str]]] = {
    "nothing": (lambda run, calls: chain(run, calls), ["a", "b", "c"]),
    "a node at the end": (lambda run, calls: chain(run, calls, "abcd"), ["a", "b", "c", "d"]),
    "a node after the pending one": (lambda run, calls: chain(run, calls, "abxc"), ["a", "b", "x", "c"]),
    "the first node is gone": (lambda run, calls: chain(run, calls, "bc"), ["a", "b", "c"]),
    "the last node is gone": (lambda run, calls: chain(run, calls, "ab"), ["a", "b"]),
    "other edges": (lambda run, calls: drawn(run, State, {"a": "c", "c": "b", "b": END}, calls), ["a", "b"]),
    "another function": (
        lambda run, calls: chain(run, calls, b=lambda state: {"log": ["better b"]}),
        ["a", "better b", "c"],
    ),
    "more keys": (
        lambda run, calls: drawn(run, WithMore, {"a": "b", "b": "c", "c": END}, calls, c=see),
        ["a", "b", "c sees []"],
    ),
    "a key without a value is gone": (
        lambda run, calls: drawn(run, WithoutN, {"a": "b", "b": "c", "c": END}, calls),
        ["a", "b", "c"],
    ),
    "an alias that explains nothing here": (lambda run, calls: chain(run, calls), ["a", "b", "c"]),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_old_thread_finishes_where_nothing_it_needs_has_changed(run: Runner, edit: str) -> None:
    calls = Calls()
    config = stopped(run, chain(run, calls))
    draw, log = EDITS[edit]
    new = run.compile(draw(run, calls), aliases={"nobody": "b"})
    assert run.invoke(new, None, config)["log"] == log
    assert calls[0] == "a"
    assert calls.count("a") == 1
    assert run.invoke(new, {"log": ["again"]}, config)["log"][: len(log) + 1] == [*log, "again"]
    assert run.call(new, "verify", config).ok


def test_parallel_siblings_finish_on_a_graph_with_more_of_them(run: Runner) -> None:
    calls = Calls()
    both = Beside(run, calls)
    config = failed(run, wide(run, calls, "ab", a=both.first(calls.node("a")), b=both.second))
    new = wide(run, calls, "ab").add_node("x", run.node(calls.node("x"))).add_edge("end", "x").add_edge(START, "x")
    assert run.invoke(run.compile(new), None, config)["log"] == ["a", "b", "end", "x"]
    assert calls.count("a") == 1


# --- nodes that are gone ----------------------------------------------------------------------


def sending(run: Runner, calls: Calls, target: str) -> StateGraph[Any]:
    builder = drawn(run, State, {"a": (), target: ()}, calls, **{target: lambda arg: {"log": [f"{target}{arg}"]}})
    builder.add_conditional_edges("a", lambda state: [Send(target, 1), Send(target, 2)])
    return builder


def test_a_send_to_a_node_that_is_gone(run: Runner) -> None:
    calls = Calls()
    config = stopped(run, sending(run, calls, "part"))
    new = run.compile(sending(run, calls, "piece"))
    words = ["needs the node 'part' (it is to run)", "aliases={'part': ...}", "update_state", "a, piece"]
    refused(run, new, config, words)
    explained = run.compile(sending(run, calls, "piece"), aliases={"part": "piece"})
    assert run.invoke(explained, None, config)["log"] == ["a", "piece1", "piece2"]


def commanding(run: Runner, calls: Calls, target: str, fails: bool = False) -> StateGraph[Any]:
    """a sends to `target` when it has ended beside b."""
    go: Any = Command(update={"log": ["a"]}, goto=[target, Send(target, {"log": []})])
    both = Beside(run, calls)
    b = both.second if fails else calls.node("b")
    builder = StateGraph(State)
    for name, node in {"a": both.first(lambda state: go), "b": b, target: calls.node(target)}.items():
        builder.add_node(name, run.node(node))
    return builder.add_edge(START, "a").add_edge(START, "b")


def test_a_target_of_a_finished_node_that_is_gone(run: Runner) -> None:
    """Known only when the superstep ends: but told before b runs, whose work would be lost."""
    calls = Calls()
    config = failed(run, commanding(run, calls, "x", fails=True))
    refused(run, run.compile(commanding(run, calls, "y")), config, ["the node 'x' (it is to run next)"])
    assert calls == ["b"]
    explained = run.compile(commanding(run, calls, "y"), aliases={"x": "y"})
    assert run.invoke(explained, None, config)["log"] == ["a", "b", "y", "y"]
    moved = failed(run, commanding(run, calls, "x", fails=True))
    new = run.compile(commanding(run, calls, "y"))
    run.update_state(new, moved, {"log": ["by hand"]}, as_node="b")
    assert run.get_state(new, moved).next == ()
    assert run.get_state(new, moved).values["log"] == ["a", "by hand"]
    assert bodies(new, moved)[-1]["dropped"] == ["x", "x"]


def deferring(run: Runner, calls: Calls, last: str) -> StateGraph[Any]:
    builder = drawn(run, State, {"a": "b", "b": ()}, calls)
    return builder.add_node(last, run.node(calls.node(last)), defer=True).add_edge("a", last)


def test_a_deferred_node_that_is_gone(run: Runner) -> None:
    calls = Calls()
    config = stopped(run, deferring(run, calls, "late"))
    new = run.compile(deferring(run, calls, "later"))
    refused(run, new, config, ["the node 'late' (it is to run last)"])
    moved = branch(run, new, config)
    explained = run.compile(deferring(run, calls, "later"), aliases={"late": "later"})
    assert run.invoke(explained, None, config)["log"] == ["a", "b", "later"]
    run.update_state(new, moved, {"log": ["by hand"]}, as_node="b")
    assert bodies(new, moved)[-1]["dropped"] == ["late"]
    assert run.get_state(new, moved).next == ()


def joining(run: Runner, calls: Calls, starts: list[str], end: str = "end") -> StateGraph[Any]:
    """The first of the starts runs before the second: the join waits for it."""
    first, second = sorted(starts)
    builder = drawn(run, State, {"in": (first, "x"), first: (), "x": second, second: (), end: ()}, calls)
    return builder.add_edge(starts, end)


def test_a_join_that_is_gone(run: Runner) -> None:
    calls = Calls()
    config = stopped(run, joining(run, calls, ["a+1", "b-1"]), rows=3)
    without = drawn(run, State, {"in": ("a+1", "x"), "a+1": (), "x": "b-1", "b-1": "end", "end": ()}, calls)
    new = run.compile(without)
    refused(run, new, config, ["the edge ['a+1', 'b-1'] -> 'end' (some of its starts have run)", "edge again"])
    moved = branch(run, new, config)
    assert run.invoke(run.compile(joining(run, calls, ["b-1", "a+1"])), None, config)["log"][-1] == "end"
    assert calls.count("end") == 1
    run.update_state(new, moved, {"log": ["by hand"]}, as_node="b-1")
    assert run.invoke(new, None, moved)["log"][-2:] == ["by hand", "end"]


def test_a_join_whose_nodes_have_other_names(run: Runner) -> None:
    calls = Calls()
    config = stopped(run, joining(run, calls, ["a+1", "b-1"]), rows=3)
    draw = joining(run, calls, ["y", "z+"], "finish")
    refused(run, run.compile(draw), config, ["'b-1'"])
    explained = run.compile(draw, aliases={"a+1": "y", "b-1": "z+", "end": "finish"})
    assert run.invoke(explained, None, config)["log"] == ["in", "a+1", "x", "z+", "finish"]


def handling(run: Runner, calls: Calls, name: str, fails: bool = False) -> StateGraph[Any]:
    both = Beside(run, calls)
    b = both.second if fails else calls.node("b")

    def give_up(state: Any) -> None:
        raise RuntimeError(name)

    def handle(state: Any) -> Any:
        return Command(update={"log": [f"{name} handled"]}, goto="end")

    builder = StateGraph(State).add_node(name, run.node(give_up), error_handler=run.node(both.first(handle)))
    for other, node in {"b": b, "end": calls.node("end")}.items():
        builder.add_node(other, run.node(node))
    return builder.add_edge(START, name).add_edge(START, "b").add_edge("b", "end")


def test_an_error_handler_that_is_gone(run: Runner) -> None:
    calls = Calls()
    config = failed(run, handling(run, calls, "a", fails=True))
    new = handling(run, calls, "x")
    refused(run, run.compile(new), config, ["the node '__error_handler__a' (its edges lead on)"])
    explained = run.compile(new, aliases={"a": "x"})
    assert run.invoke(explained, None, config)["log"] == ["a handled", "b", "end"]


def test_an_answer_to_an_error_handler_whose_node_has_another_name(run: Runner) -> None:
    def give_up(state: Any) -> None:
        raise RuntimeError("gives up")

    def draw(name: str) -> StateGraph[Any]:
        handle = run.node(lambda state: {"log": [interrupt("And now?")]})
        return StateGraph(State).add_node(name, run.node(give_up), error_handler=handle).add_edge(START, name)

    config = new_thread()
    run.invoke(run.compile(draw("a")), {"log": []}, config)
    new = run.compile(draw("x"), aliases={"a": "x"})
    assert run.invoke(new, Command(resume="this"), config) == {"log": ["this"]}


def asking(run: Runner, calls: Calls, name: str) -> StateGraph[Any]:
    return drawn(run, State, {name: "end", "end": ()}, calls, **{name: lambda state: {"log": [interrupt("Which?")]}})


def test_an_answer_to_a_node_that_is_gone(run: Runner) -> None:
    calls, config = Calls(), new_thread()
    run.invoke(run.compile(asking(run, calls, "ask")), {"log": []}, config)
    new = run.compile(asking(run, calls, "question"))
    refused(run, new, config, ["needs the node 'ask'"], Command(resume="this"))
    explained = run.compile(asking(run, calls, "question"), aliases={"ask": "question"})
    assert run.invoke(explained, Command(resume="this"), config)["log"] == ["this", "end"]


def test_a_call_of_a_task_that_has_another_name(run: Runner) -> None:
    calls = Calls()

    def graph(name: str, fails: bool) -> CompiledGraph[Any]:
        @task(name=name)
        def work(n: int) -> int:
            calls.append(f"{name}{n}")
            return n

        def a(state: Any) -> dict[str, Any]:
            done = work(1).result()
            if fails:
                raise ValueError("a failed")
            return {"log": [str(done)]}

        return run.compile(StateGraph(State).add_node("a", a).add_edge(START, "a"))

    config = new_thread()
    with pytest.raises(ValueError, match="a failed"):
        run.invoke(graph("one", fails=True), {"log": []}, config)
    with pytest.raises(ChangedGraphError, match="was of 'one' before and is of 'other' now"):
        run.invoke(graph("other", fails=False), None, config)
    assert run.invoke(graph("one", fails=False), None, config)["log"] == ["1"]
    assert calls == ["one1"]


def test_a_new_input_needs_no_node_of_before(run: Runner) -> None:
    calls = Calls()
    config = stopped(run, chain(run, calls))
    new = run.compile(chain(run, calls, "xy"))
    assert run.invoke(new, {"log": ["in"]}, config) == {"log": ["a", "in", "x", "y"]}
    assert bodies(new, config)[2]["dropped"] == ["b"]


# --- keys that are gone -----------------------------------------------------------------------


class Lost(TypedDict, total=False):
    log: Annotated[list[str], operator.add]


class Renamed(TypedDict, total=False):
    log: Annotated[list[str], operator.add]
    number: int


def abc(run: Runner, schema: Any, calls: Calls, **special: Callable[..., Any]) -> Any:
    return drawn(run, schema, {"a": "b", "b": "c", "c": END}, calls, **special)


def test_a_key_that_is_gone_and_its_ways_through(run: Runner) -> None:
    calls = Calls()
    config = stopped(run, chain(run, calls), value={"n": 5, "log": []})
    new = run.compile(abc(run, Lost, calls))
    words = ["holds a value of the key 'n'", "Add the key", "aliases={'n': ...}", "migrate", "update_state", "log"]
    refused(run, new, config, words, {"log": ["more"]}, Command(update={"log": ["more"]}))
    assert run.get_state(new, config).values == {"log": ["a"], "n": 5}  # shown all the same
    renamed, converted, let_go = (branch(run, new, config) for _ in range(3))

    by_number = lambda state: {"log": [f"b{state['number']}"], "number": 6}  # noqa: E731
    explained = run.compile(abc(run, Renamed, calls, b=by_number), aliases={"n": "number"})
    assert run.invoke(explained, None, renamed) == {"log": ["a", "b5", "c"], "number": 6}
    migrating = run.compile(abc(run, Renamed, calls), migrate=lambda old: {"log": old["log"], "number": old["n"] * 2})
    assert run.invoke(migrating, None, converted) == {"log": ["a", "b", "c"], "number": 10}
    run.update_state(new, let_go, {"log": ["by hand"]}, as_node="a")
    assert run.get_state(Log(run.url), let_go).values == {"log": ["a", "by hand"]}
    assert run.invoke(new, None, let_go) == {"log": ["a", "by hand", "b", "c"]}

    assert run.invoke(run.compile(chain(run, calls)), None, config) == {"log": ["a", "b", "c"], "n": 5}


def writing(run: Runner, calls: Calls, key: str, schema: Any, fails: bool = False) -> StateGraph[Any]:
    """a writes the key, b beside it fails."""
    both = Beside(run, calls)
    a = both.first(lambda state: {key: 7, "log": ["a"]})
    builder = StateGraph(schema)
    for name, node in {"a": a, "b": both.second if fails else calls.node("b")}.items():
        builder.add_node(name, run.node(node)).add_edge(START, name)
    return builder


def test_a_key_that_a_finished_node_has_written(run: Runner) -> None:
    """Not in the state yet: a migration cannot convert it."""
    calls = Calls()
    config = failed(run, writing(run, calls, "n", State, fails=True))
    new = writing(run, calls, "number", Renamed)
    refused(run, run.compile(new), config, ["holds a value of the key 'n'"])
    refused(run, run.compile(new, migrate=lambda old: old), config, ["holds a value of the key 'n'"])
    let_go = branch(run, run.compile(new), config)
    assert run.invoke(run.compile(new, aliases={"n": "number"}), None, config) == {"log": ["a", "b"], "number": 7}
    run.update_state(run.compile(new), let_go, {"log": ["by hand"]}, as_node="b")
    assert run.get_state(Log(run.url), let_go).values == {"log": ["a", "by hand"]}


def test_two_keys_that_become_one(run: Runner) -> None:
    class Two(Renamed):
        n: int

    calls = Calls()
    config = stopped(run, abc(run, Two, calls), value={"n": 1, "number": 2, "log": []})
    new = abc(run, Renamed, calls)
    refused(run, run.compile(new, aliases={"n": "number"}), config, ["the keys 'n', 'number'", "to be one key now"])
    both = run.compile(
        new, aliases={"n": "number"}, migrate=lambda old: {"log": old["log"], "number": old["n"] + old["number"]}
    )
    assert run.invoke(both, None, config)["number"] == 3


# --- reducers that have changed ---------------------------------------------------------------


def unique(old: list[str], new: list[str]) -> list[str]:
    return [*old, *(item for item in new if item not in old)]


def newest(old: list[str], new: list[str]) -> list[str]:
    return [*new, *old]


def with_reducer(reducer: Any) -> Any:
    class Reduced(TypedDict, total=False):
        log: Annotated[list[str], reducer] if reducer else list[str]  # type: ignore[valid-type]

    return Reduced


LISTS = {"add": operator.add, "unique()": unique, "newest()": newest, "the last value": None}


@pytest.mark.parametrize("now", LISTS)
@pytest.mark.parametrize("before", LISTS)
def test_a_reducer_that_is_another_one(run: Runner, before: str, now: str) -> None:
    calls = Calls()
    config = stopped(run, abc(run, with_reducer(LISTS[before]), calls))
    draw = abc(run, with_reducer(LISTS[now]), calls)
    new = run.compile(draw)
    if before not in ("the last value", now):
        words = [f"'log' (it was {before}, now {now})", "reducer again", f"aliases={{'{before}': '{now}'}}", "migrate"]
        refused(run, new, config, words, {"log": ["in"]})
        let_go = branch(run, new, config)
        run.update_state(new, let_go, {"log": Overwrite(["x"])} if LISTS[now] else {"log": ["x"]}, as_node="a")
        assert run.get_state(new, let_go).values == {"log": ["x"]}
        new = run.compile(draw, migrate=lambda old: old)
    results = {"add": list("abc"), "unique()": list("abc"), "newest()": list("cba"), "the last value": ["c"]}
    assert run.invoke(new, None, config)["log"] == results[now]


def test_a_reducer_of_another_name(run: Runner) -> None:
    def deduplicated(old: list[str], new: list[str]) -> list[str]:
        return unique(old, new)

    calls = Calls()
    config = stopped(run, abc(run, with_reducer(unique), calls))
    draw = abc(run, with_reducer(deduplicated), calls)
    name = "test_a_reducer_of_another_name.<locals>.deduplicated()"
    refused(run, run.compile(draw), config, [name])
    assert run.invoke(run.compile(draw, aliases={"unique()": name}), None, config)["log"] == ["a", "b", "c"]


def test_a_corrected_reducer_is_the_same_one(run: Runner) -> None:
    def reducer(times: int) -> Any:
        def joined(old: list[str], new: list[str]) -> list[str]:
            return old + new * times

        return joined

    calls = Calls()
    config = stopped(run, abc(run, with_reducer(reducer(1)), calls))
    new = run.compile(abc(run, with_reducer(reducer(2)), calls))
    assert run.invoke(new, None, config)["log"] == ["a", "b", "b", "c", "c"]
    assert run.replay(new, config, stream_mode="values")[-1]["log"] == ["a", "b", "b", "c", "c"]


# --- aliases ----------------------------------------------------------------------------------


def test_history_keeps_the_old_names_and_what_follows_has_the_new(run: Runner) -> None:
    calls = Calls()
    config = stopped(run, chain(run, calls), value={"n": 1, "log": []})
    new = run.compile(drawn(run, Renamed, {"one": "two", "two": END}, calls), aliases={"b": "two", "n": "number"})
    before = bodies(new, config)
    assert run.get_state(new, config).next == ("b",)
    assert run.stream(new, None, config) == [{"two": {"log": ["two"]}}]
    assert nodes_of(run.replay(new, config)) == ["a", "two"]
    states = run.replay(new, config, stream_mode="values")
    assert states == [
        {"log": [], "n": 1},
        {"log": ["a"], "n": 1},
        {"log": ["a"], "number": 1},
        {"log": ["a", "two"], "number": 1},
    ]
    assert bodies(new, config)[: len(before)] == before
    assert bodies(new, config)[2]["renamed"] == {"nodes": {"b": "two"}, "channels": {"n": "number"}}
    assert run.get_state(new, at(config, 1)).values == {"n": 1, "log": ["a"]}
    assert run.call(new, "verify", config).ok


def test_an_alias_is_settled_with_the_first_row(run: Runner) -> None:
    """From then on the thread needs no alias; and what began under the new name is not renamed."""
    calls = Calls()
    config = stopped(run, chain(run, calls), value={"n": 1, "log": []})
    draw = drawn(run, Renamed, {"one": "two", "two": "three", "three": END}, calls)
    run.first(1, run.compile(draw, aliases={"b": "two", "n": "number"}), None, config)
    assert run.invoke(run.compile(draw), None, config) == {"log": ["a", "two", "three"], "number": 1}
    assert run.replay(Log(run.url), config, stream_mode="values")[-1] == {"log": ["a", "two", "three"], "number": 1}


def test_going_back_to_before_an_alias(run: Runner) -> None:
    calls = Calls()
    config = stopped(run, chain(run, calls))
    draw = drawn(run, State, {"two": ()}, calls)
    assert run.invoke(run.compile(draw, aliases={"b": "two"}), None, config)["log"] == ["a", "two"]
    with pytest.raises(ChangedGraphError, match="needs the node 'b'"):
        run.invoke(run.compile(draw), None, at(config, 1))
    assert run.invoke(run.compile(chain(run, calls)), None, at(config, 1))["log"] == ["a", "b", "c"]
    assert run.invoke(run.compile(draw, aliases={"b": "two"}), None, at(config, 1))["log"] == ["a", "two"]


def test_update_state_knows_the_new_name_of_who_ran_last(run: Runner) -> None:
    calls = Calls()
    config = stopped(run, chain(run, calls))
    new = run.compile(drawn(run, State, {"one": "two", "two": ()}, calls), aliases={"a": "one"})
    run.update_state(new, config, {"log": ["by hand"]})
    assert run.get_state(new, config).next == ("two",)


def test_two_nodes_that_become_one(run: Runner) -> None:
    calls = Calls()
    config = failed(run, wide(run, calls, "ab", a=calls.failing("a"), b=calls.failing("b")))
    new = run.compile(drawn(run, State, {"ab": ()}, calls), aliases={"a": "ab", "b": "ab"})
    assert run.invoke(new, None, config)["log"] == ["ab", "ab"]


@pytest.mark.parametrize(
    ("aliases", "words"),
    [
        (
            {"old": "gone"},
            ["'old' stands for 'gone'", "no node, key of the state, reducer or type", "a, b, c", "log, n"],
        ),
        ({"old": START}, ["which is no node"]),
        ({"a": "b"}, ["'a' is an alias of 'b' and a node itself"]),
        ({"n": "log"}, ["'n' is an alias of 'log' and a key of the state itself"]),
        ({"a": "a"}, ["'a' is an alias of 'a'"]),
        ({"x": "y", "y": "a"}, ["'x' stands for 'y'"]),
    ],
)
def test_aliases_that_explain_nothing(aliases: dict[str, str], words: list[str]) -> None:
    with pytest.raises(DrawingError) as caught:
        chain(Runner("sync", False), Calls()).compile(False, aliases=aliases)
    for word in words:
        assert word in str(caught.value)


# --- migration --------------------------------------------------------------------------------


class Migrated(TypedDict, total=False):
    log: Annotated[list[str], operator.add]
    total: int
    big: str


class Migration:
    """Counts its calls."""

    def __init__(self, run: Runner, function: Callable[[dict[str, Any]], Any]) -> None:
        self.calls: list[dict[str, Any]] = []
        self.function = run.node(self._called)
        self._does = function

    def _called(self, state: dict[str, Any]) -> Any:
        self.calls.append(state)
        return self._does(dict(state))


def test_a_migration_is_called_once_and_recorded(run: Runner) -> None:
    calls = Calls()
    config = stopped(run, chain(run, calls), value={"n": 5, "log": []})
    migration = Migration(run, lambda old: {"total": old["n"] + 1, "log": old["log"]})
    new = run.compile(abc(run, Migrated, calls), migrate=migration.function)
    assert run.get_state(new, config).values == {"n": 5, "log": ["a"]}
    run.first(1, new, None, config)
    assert run.invoke(new, None, config) == {"log": ["a", "b", "c"], "total": 6}
    run.invoke(new, {"log": []}, config)
    assert migration.calls == [{"n": 5, "log": ["a"]}]
    assert [body["migrated"] for body in bodies(new, config) if "migrated" in body] == [{"set": {"total": 6}}]
    assert run.replay(Log(run.url), config, stream_mode="values")[2] == {"log": ["a"], "total": 6}
    run.invoke(new, {"log": []}, new_thread())  # begun by this graph
    assert len(migration.calls) == 1


@pytest.mark.parametrize("call", ["None", "input", "Command", "update_state"])
def test_whatever_continues_a_thread_migrates_it(run: Runner, call: str) -> None:
    calls = Calls()
    config = stopped(run, chain(run, calls), value={"n": 5, "log": []})
    migration = Migration(run, lambda old: {"total": old["n"], "log": [*old["log"], "migrated"]})
    new = run.compile(abc(run, Migrated, calls), migrate=migration.function)
    if call == "update_state":
        run.update_state(new, config, {"log": ["in"]}, as_node="c")
    else:
        value = {"None": None, "input": {"log": ["in"]}, "Command": Command(update={"log": ["in"]})}[call]
        run.invoke(new, value, config)
    log = run.get_state(new, config).values["log"]
    assert log[:2] == ["a", "migrated"]
    assert log.count("in") == (call != "None")
    assert [body["migrated"] for body in bodies(new, config) if "migrated" in body] == [
        {"set": {"log": ["a", "migrated"], "total": 5}}
    ]
    assert len(migration.calls) == 1


def test_a_migration_is_shown_with_an_update_that_writes_nothing(run: Runner) -> None:
    calls = Calls()
    config = stopped(run, chain(run, calls), value={"n": 5, "log": []})
    new = run.compile(abc(run, Migrated, calls), migrate=lambda old: {"total": old["n"]})
    run.update_state(new, config, None, as_node="c")
    assert run.replay(new, config, stream_mode="values")[-1] == {"log": [], "total": 5}  # reducers start anew


def test_a_migration_records_what_it_changed_only(run: Runner) -> None:
    calls = Calls()
    config = stopped(run, abc(run, Migrated, calls), value={"big": "x" * 10_000, "total": 1, "log": []})
    new = run.compile(abc(run, Migrated, calls, b=lambda state: {}), migrate=lambda old: {**old, "total": 2.5})
    run.first(1, new, None, config)
    assert [len(json.dumps(body)) < 1000 for body in bodies(new, config)] == [False, True, True, True]
    out = run.compile(abc(run, Migrated, calls), migrate=functools.partial(lambda old: {"log": old["log"]}))
    before = run.get_state(out, config).values
    assert before == {"big": "x" * 10_000, "total": 2.5, "log": ["a"]}
    assert list(run.invoke(out, None, config)) == ["log", "total", "big"]  # a migration of the same name: not again


def test_a_migration_of_another_name_is_another_one(run: Runner) -> None:
    def first(old: dict[str, Any]) -> dict[str, Any]:
        return {**old, "total": 1}

    def second(old: dict[str, Any]) -> dict[str, Any]:
        old.pop("total")
        return old

    calls = Calls()
    config = stopped(run, abc(run, Migrated, calls))
    run.first(1, run.compile(abc(run, Migrated, calls), migrate=run.node(first)), None, config)
    new = run.compile(abc(run, Migrated, calls), migrate=run.node(second))
    assert run.invoke(new, None, config) == {"log": ["a", "b", "c"]}
    assert [body["migrated"] for body in bodies(new, config) if "migrated" in body] == [
        {"set": {"total": 1}},
        {"unset": ["total"]},
    ]


class Stranger:
    pass


def raises(old: Any) -> Any:
    raise ZeroDivisionError("no such state")


@pytest.mark.parametrize(
    ("migrate", "words"),
    [
        (raises, ["it raised ZeroDivisionError: no such state", "called again"]),
        (lambda old: None, ["it returned NoneType: None", "returns the new one"]),
        (lambda old: {"log": [], "totl": 1}, ["unknown key 'totl'", "log, total"]),
        (lambda old: interrupt("May I?"), ["it raised CallError"]),
    ],
)
def test_a_migration_that_fails(run: Runner, migrate: Any, words: list[str]) -> None:
    calls = Calls()
    config = stopped(run, chain(run, calls), value={"n": 5, "log": []})
    new = run.compile(abc(run, Migrated, calls), migrate=run.node(migrate))
    before = bodies(new, config)
    for value in (None, {"log": []}):
        with pytest.raises(MigrationError) as caught:
            run.invoke(new, value, config)
        for word in [repr(config["configurable"]["thread_id"]), "at step 1", *words]:
            assert word in str(caught.value)
    assert bodies(new, config) == before
    fixed = run.compile(abc(run, Migrated, calls), migrate=lambda old: {"log": old["log"]})
    assert run.invoke(fixed, None, config) == {"log": ["a", "b", "c"]}


def test_a_migration_to_what_cannot_be_stored(run: Runner) -> None:
    calls = Calls()
    config = stopped(run, chain(run, calls), value={"n": 5, "log": []})
    new = run.compile(abc(run, Migrated, calls), migrate=lambda old: {"total": [Stranger()]})
    with pytest.raises(UnstorableValueError, match=r"The migrated state\['total'\]\[0\]"):
        run.invoke(new, None, config)
    assert run.invoke(run.compile(chain(run, calls)), None, config)["log"] == ["a", "b", "c"]


def test_an_async_migration_in_a_sync_call(database_url: str) -> None:
    async def migrate(old: dict[str, Any]) -> dict[str, Any]:
        return old

    with Runner("sync", database_url) as run:
        config = stopped(run, chain(run, Calls()))
        graph = run.compile(chain(run, Calls(), "abcd"), migrate=migrate)
        with pytest.raises(Exception, match="migrate is async and cannot run in a sync call"):
            run.invoke(graph, None, config)
        assert Runner("async", database_url).invoke(graph, None, config)["log"] == ["a", "b", "c", "d"]


def test_what_a_migration_returns_replaces_what_reducers_have_made(run: Runner) -> None:
    """The finished sibling's write is added to the migrated list by the reducer there is now."""
    calls = Calls()
    both = Beside(run, calls)
    builder = StateGraph(with_reducer(operator.add))
    for name, node in {"a": both.first(calls.node("a")), "b": both.second}.items():
        builder.add_node(name, run.node(node)).add_edge(START, name)
    config = failed(run, builder, {"log": ["old", "old"]})
    new = StateGraph(with_reducer(unique))
    for name in "ab":
        new.add_node(name, run.node(calls.node(name))).add_edge(START, name)
    graph = run.compile(new, migrate=lambda old: {"log": sorted(set(old["log"]))})
    assert run.invoke(graph, None, config)["log"] == ["old", "a", "b"]


# --- types that are not registered ------------------------------------------------------------


@dataclass
class Money:
    amount: int


@dataclass
class Cash:
    amount: int


class Anything(TypedDict, total=False):
    log: Annotated[list[str], operator.add]
    price: Any
    note: Any


MONEY = f"{__name__}:Money"


def test_a_state_that_holds_what_is_not_registered(run: Runner) -> None:
    calls = Calls()
    draw = abc(run, Anything, calls)
    config = stopped(run, draw, value={"price": {"eur": (Money(5),)}, "log": []}, types=[Money])
    new = run.compile(draw)
    words = [f"state['price']['eur'][0] holds a {MONEY}", "not registered here", "compile(types=[...])", "migrate"]
    refused(run, new, config, words, {"log": []}, Command(update={"log": ["x"]}))
    assert run.get_state(new, config).values["price"] == {"eur": (Unregistered(MONEY, {"amount": 5}, "dataclass"),)}
    moved, converted, let_go = (branch(run, new, config) for _ in range(3))

    assert run.invoke(run.compile(draw, types=[Money]), None, config)["price"] == {"eur": (Money(5),)}
    renamed = run.compile(draw, types=[Cash], aliases={MONEY: f"{__name__}:Cash"})
    assert run.invoke(renamed, None, moved)["price"] == {"eur": (Cash(5),)}
    plain = run.compile(draw, migrate=lambda old: {**old, "price": old["price"]["eur"][0].data["amount"]})
    assert run.invoke(plain, None, converted)["price"] == 5
    run.update_state(new, let_go, {"price": 6}, as_node="a")
    assert run.invoke(new, None, let_go) == {"log": ["a", "b", "c"], "price": 6}


def test_a_migration_that_leaves_what_is_not_registered(run: Runner) -> None:
    calls = Calls()
    draw = abc(run, Anything, calls)
    config = stopped(run, draw, value={"price": Money(5), "log": []}, types=[Money])
    refused(run, run.compile(draw, migrate=lambda old: old), config, [f"state['price'] holds a {MONEY}"])


def test_what_is_not_registered_and_no_longer_in_the_state(run: Runner) -> None:
    """In the rows that were read, and overwritten since: nothing in the way."""
    calls = Calls()
    draw = abc(run, Anything, calls, a=lambda state: {"price": 1, "log": ["a"]})
    config = stopped(run, draw, value={"price": Money(5), "log": []}, types=[Money])
    assert run.invoke(run.compile(draw), None, config) == {"log": ["a", "b", "c"], "price": 1}


def test_a_send_that_holds_what_is_not_registered(run: Runner) -> None:
    builder = StateGraph(Anything).add_node("x", run.node(lambda arg: {"log": [f"x{arg['pay'].amount}"]}))
    builder.add_node("a", run.node(lambda state: Command(goto=Send("x", {"pay": Money(5)})))).add_edge(START, "a")
    config = stopped(run, builder, types=[Money])
    refused(run, run.compile(builder), config, [f"the Send to 'x': arg['pay'] holds a {MONEY}"])
    assert run.invoke(run.compile(builder, types=[Money]), None, config) == {"log": ["x5"]}


def test_a_finished_node_has_written_what_is_not_registered(run: Runner) -> None:
    calls = Calls()
    both = Beside(run, calls)

    def draw(b: Any) -> StateGraph[Any]:
        go: Any = Command(update={"log": ["a"], "note": [Money(7)]}, goto=Send("x", Money(5)))
        builder = StateGraph(Anything).add_node("x", run.node(calls.node("x")))
        builder.add_node("a", run.node(both.first(lambda state: go))).add_node("b", run.node(b))
        return builder.add_edge(START, "a").add_edge(START, "b")

    config = failed(run, draw(both.second), types=[Money])
    refused(run, run.compile(draw(calls.node("b"))), config, [f"the update['note'] of 'a'[0] holds a {MONEY}"])
    assert run.invoke(run.compile(draw(calls.node("b")), types=[Money]), None, config)["note"] == [Money(7)]


def test_answers_and_results_that_are_not_registered(run: Runner) -> None:
    calls, config = Calls(), new_thread()

    @task
    def price() -> Any:
        calls.append("price")
        return Money(5)

    def a(state: Any) -> dict[str, Any]:
        if state.get("price"):
            price().result()
        answer = interrupt("How much?")
        raise ValueError("a failed") if calls.count("fail") else AssertionError(answer)

    builder = StateGraph(Anything).add_node("a", a).add_edge(START, "a")
    known, unknown = run.compile(builder, types=[Money]), run.compile(builder)
    calls.append("fail")
    run.invoke(known, {"log": []}, config)
    with pytest.raises(ValueError, match="a failed"):
        run.invoke(known, Command(resume=[Money(6)]), config)
    refused(run, unknown, config, ["the answer to ", f" of 'a'[0] holds a {MONEY}"])
    config = new_thread()
    run.invoke(known, {"log": [], "price": 1}, config)
    refused(run, unknown, config, [f"the result of the @task 'price' holds a {MONEY}"])
    assert calls.count("price") == 1


def test_a_signal_that_is_not_registered(run: Runner) -> None:
    def wait(state: Any, runtime: Any) -> dict[str, Any]:
        return {"log": [str(runtime.wait_for("paid").amount)]}

    config = new_thread()
    builder = StateGraph(Anything).add_node("a", wait).add_edge(START, "a")
    known = run.compile(builder, types=[Money])
    run.invoke(known, {"log": []}, config)
    run.call(known, "signal", config, "paid", Money(5))
    refused(run, run.compile(builder), config, [f"the signal 'paid': value holds a {MONEY}"])
    assert run.invoke(known, None, config)["log"] == ["5"]


# --- subgraphs --------------------------------------------------------------------------------


def nested(run: Runner, inner: StateGraph[Any], name: str = "sub", **settings: Any) -> CompiledGraph[Any]:
    """The inner graph as a node, then `end`."""
    keeps = settings.pop("keeps", None)
    sub = inner.compile(True if keeps else None, **settings.pop("below", {}))
    builder = StateGraph(State).add_node(name, sub).add_node("end", run.node(Calls().node("end")))
    return run.compile(builder.add_edge(START, name).add_edge(name, "end"), **settings)


def test_a_subgraph_has_a_graph_of_its_own(run: Runner) -> None:
    calls, config = Calls(), new_thread()
    with pytest.raises(ValueError, match="b failed"):
        run.invoke(nested(run, chain(run, calls, b=calls.failing("b"))), {"log": []}, config)
    edited = drawn(run, State, {"a": "two", "two": "c", "c": ()}, calls)
    for _ in range(2):
        with pytest.raises(ChangedGraphError, match=r"/0.0/0' cannot be continued .* needs the node 'b'"):
            run.invoke(nested(run, edited), None, config)
    explained = nested(run, edited, below={"aliases": {"b": "two"}})
    assert run.invoke(explained, None, config)["log"] == ["a", "two", "c", "end"]
    assert calls == ["a", "b", "two", "c"]
    assert run.call(explained, "verify", config).ok


def test_a_subgraph_that_has_ended_migrates_once(run: Runner) -> None:
    """Its run ended, the node above it did not: its result is the migrated one, and recorded."""
    calls, config = Calls(), new_thread()
    fails, plain = iter([True, True, False]), Runner("sync", False)

    def outer(inner: CompiledGraph[Any]) -> CompiledGraph[Any]:
        def a(state: Any) -> dict[str, Any]:
            log = inner.invoke({"log": []})["log"]
            if next(fails):
                raise ValueError("a failed")
            return {"log": log}

        return run.compile(StateGraph(State).add_node("a", a).add_edge(START, "a"))

    def migrate(old: dict[str, Any]) -> dict[str, Any]:
        calls.append("migrate")
        return {"log": [*old["log"], "migrated"]}

    with pytest.raises(ValueError, match="a failed"):
        run.invoke(outer(chain(plain, calls).compile()), {"log": []}, config)
    new = outer(chain(plain, calls).compile(migrate=migrate))
    with pytest.raises(ValueError, match="a failed"):
        run.invoke(new, None, config)
    assert run.invoke(new, None, config)["log"] == ["a", "b", "c", "migrated"]
    assert calls == ["a", "b", "c", "migrate"]


def test_the_memory_of_a_subgraph_whose_node_has_another_name(run: Runner) -> None:
    """`checkpointer=True` keeps it under the name that the node had first, for as long as the thread lives."""
    calls, config = Calls(), new_thread()
    run.invoke(nested(run, chain(run, calls, "a"), "sub", keeps=True), {"log": ["1"]}, config)
    second = nested(run, chain(run, calls, "a"), "below", keeps=True, aliases={"sub": "below"})
    log = run.invoke(second, {"log": ["2"]}, config)["log"]
    assert log.count("1") > 2  # it remembers
    again = nested(run, chain(run, calls, "a"), "deeper", keeps=True, aliases={"below": "deeper"})
    run.invoke(again, {"log": ["3"]}, config)
    thread_id = config["configurable"]["thread_id"]
    children = {thread.thread_id for thread in run.call(again, "threads")} - {thread_id}
    assert children == {f"{thread_id}/sub"}
    fresh = new_thread()
    run.invoke(again, {"log": []}, fresh)
    child = {"thread_id": f"{fresh['configurable']['thread_id']}/deeper"}
    assert run.get_state(again, child).values["log"] == ["a"]
    edited = nested(run, chain(run, calls, "a"), "deeper", keeps=True, aliases={"below": "deeper"}, migrate=lambda s: s)
    run.invoke(edited, {"log": ["2"]}, fresh)  # nothing to rename in this thread: its memory is where it was
    assert run.get_state(again, child).values["log"] == ["a", "a", "end", "2", "a"]


# --- snapshots, forks, crashes ----------------------------------------------------------------


def test_a_snapshot_keeps_what_the_thread_knows_of_its_graph(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot_each_barrier(monkeypatch)
    calls = Calls()
    config = new_thread()
    draw = abc(run, Anything, calls, a=lambda state: {"log": ["a"], "note": "x"})
    run.first(1, run.compile(draw), {"log": [], "price": 1}, config)
    assert run.compile(draw)._stored().snapshot(config["configurable"]["thread_id"], until=1) is not None
    new = run.compile(abc(run, Lost, calls))
    refused(run, new, config, ["the keys 'note', 'price'"])
    other = run.compile(abc(run, with_reducer(unique), calls), aliases={"note": "log"})
    with pytest.raises(ChangedGraphError, match="to be one key now"):
        run.invoke(other, None, config)


def test_a_fork_by_new_code_is_of_the_old_graph(run: Runner) -> None:
    calls = Calls()
    config = stopped(run, chain(run, calls), value={"n": 5, "log": []})
    new = run.compile(abc(run, Lost, calls))
    forked = branch(run, new, config)
    old, *_ = (thread for thread in run.call(new, "threads") if thread.thread_id == config["configurable"]["thread_id"])
    assert run.call(new, "threads")[0].fingerprint == old.fingerprint
    refused(run, new, forked, ["the key 'n'"])
    assert run.invoke(run.compile(chain(run, calls)), None, forked) == {"n": 5, "log": ["a", "b", "c"]}


def old_and_new() -> tuple[StateGraph[Any], StateGraph[Any]]:
    """Three siblings, of which one has another name later; a key too, and a migration on top."""
    run, calls = Runner("sync", False), Calls()
    old = wide(run, calls, "abc", a=lambda state: {"log": ["a"], "n": 1})
    new = StateGraph(Renamed)
    for name in ["a", "b2", "c", "end"]:
        new.add_node(name, calls.node(name))
    for name in ["a", "b2", "c"]:
        new.add_edge(START, name)
    return old, new.add_edge(["a", "b2", "c"], "end")


def test_a_crash_at_each_moment_of_going_over_to_new_code() -> None:
    """The old code died when two of three siblings had ended. Whatever the moment, the state is migrated once."""
    old_draw, new_draw = old_and_new()

    def migrate(state: dict[str, Any]) -> dict[str, Any]:
        return {**state, "log": ["migrated", *state["log"]]}

    def go(graph: CompiledGraph[Any], number: int, die_at: int | None, value: Any = None) -> bool:
        call = Call("t", f"run-{number}", input=value, owner=f"me/{number}", alive=lambda owner: False)
        try:
            Simulator(graph._stored(), number, die_at).drive(Run(graph._graph, graph._codec, None, call).steps())
        except Died:
            return False
        return True

    die_at = 0
    while True:
        store = MemoryStore()
        go(old_draw.compile(store), 9, 8, {"log": []})
        assert [row.node for row in store.rows("t") if row.kind == "task"] == ["a", "b"]
        new = new_draw.compile(store, aliases={"b": "b2", "n": "number"}, migrate=migrate)
        survived = go(new, 1, die_at)
        if new.get_state({"thread_id": "t"}).next:
            go(new, 2, None)
        state = new.get_state({"thread_id": "t"})
        assert (state.values["log"][0], state.values["number"], state.next) == ("migrated", 1, ())
        assert len(state.values["log"]) == 5
        assert [json.loads(row.body).get("migrated") is not None for row in store.rows("t")].count(True) == 1
        assert new.verify({"thread_id": "t"}).ok
        if survived:
            break
        die_at += 1
    assert die_at > 8


# --- any edit ---------------------------------------------------------------------------------

NAMES = "abcdefg"
EDIT = st.tuples(st.sampled_from(["add", "remove", "rename", "swap"]), st.integers(0, 6), st.booleans())


def linear(names: list[str], keys: list[str]) -> StateGraph[Any]:
    """A chain; each node writes its name to `log` and to each of the keys."""
    schema = TypedDict("Schema", {"log": Annotated[list[str], operator.add], **dict.fromkeys(keys, str)}, total=False)  # type: ignore[misc]
    builder = StateGraph(schema)
    for name in names:
        builder.add_node(name, lambda state, name=name: {"log": [name], **dict.fromkeys(keys, name)})
    for one, two in itertools.pairwise(names):
        builder.add_edge(one, two)
    return builder.add_edge(START, names[0])


@settings(deadline=None, max_examples=150)
@given(
    stop=st.integers(1, 3),
    edits=st.lists(EDIT, max_size=4),
    keys=st.sets(st.sampled_from("xyz")),
    kept=st.sets(st.sampled_from("xyz")),
)
def test_any_edit_of_a_chain(stop: int, edits: list[tuple[str, int, bool]], keys: set[str], kept: set[str]) -> None:
    """An old thread ends as the new drawing says from where it stands, or is refused and is as it was."""
    names = [*"abcd"]
    now, aliases = [*names], dict[str, str]()
    for number, (edit, place, explained) in enumerate(edits):
        at = place % len(now)
        new = f"new{number}"
        if edit == "add":
            now.insert(at, new)
        elif edit == "remove" and len(now) > 1:
            gone = now.pop(at)
            aliases = {old: name for old, name in aliases.items() if name != gone}
        elif edit == "swap":
            now[at], now[0] = now[0], now[at]
        elif edit == "rename":
            before, now[at] = now[at], new
            aliases = {old: new if name == before else name for old, name in aliases.items()}
            if explained and before in names:
                aliases[before] = new
            elif not explained:
                aliases = {old: name for old, name in aliases.items() if name != new}
    store, config = MemoryStore(), {"thread_id": "t"}
    old_graph = linear(names, sorted(keys)).compile(store)
    stream = old_graph.stream({"log": []}, config)
    for _ in range(stop):
        next(stream)
    stream.close()  # type: ignore[attr-defined]
    pending = aliases.get(names[stop], names[stop])
    graph = linear(now, sorted(kept)).compile(store, aliases=aliases)
    if pending in now and keys <= kept:
        expected = names[:stop] + now[now.index(pending) :]
        assert graph.invoke(None, config)["log"] == expected
    else:
        rows = list(store.rows("t"))
        with pytest.raises(ChangedGraphError, match="needs the node" if pending not in now else "holds a value"):
            graph.invoke(None, config)
        assert list(store.rows("t")) == rows
        assert [event["log"] for event in graph.replay(config, stream_mode="values")][-1] == names[:stop]
        assert old_graph.invoke(None, config)["log"] == names
    assert graph.verify(config).ok
