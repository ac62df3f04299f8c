"""Runs for workers: what is submitted, who runs it when, and what becomes of it."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import create_async_engine

from durable_graph import (
    START,
    ArgumentError,
    CallError,
    Command,
    CompiledGraph,
    InvalidUpdateError,
    Log,
    RetryPolicy,
    RunFailedError,
    RunNotFoundError,
    RunStoppedError,
    Runtime,
    RunTimeoutError,
    StateGraph,
    ThreadBusyError,
    ThreadNotFoundError,
    UnstorableValueError,
    interrupt,
)
from durable_graph.errors import SchemaError
from durable_graph.workers import Stopping, Turn, make_tables, run_worker
from tests.conftest import connected, engine_url
from tests.graphs import PATIENCE, WAYS, Calls, Node, Runner, State, new_thread, wait_for

NOW = {"poll": 0.02, "heartbeat": 0.2}  # for tests: nobody waits for a clock


@contextlib.contextmanager
def working(*graphs: CompiledGraph[Any], **settings: Any) -> Iterator[Stopping]:
    """A worker beside the test."""
    stopping, errors = Stopping(), list[BaseException]()

    def work() -> None:
        try:
            run_worker(graphs, **{**NOW, "stopping": stopping, **settings})
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield stopping
    finally:
        stopping.set()
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert not errors, errors


def work_off(*graphs: CompiledGraph[Any], **settings: Any) -> list[tuple[str, Turn]]:
    """What is there to be done, and what a worker tells of it."""
    told: list[tuple[str, Turn]] = []
    run_worker(
        graphs, **{**NOW, "wait": False, "tell": lambda _, thread, turn: told.append((thread, turn)), **settings}
    )
    return told


def line(run: Runner, *nodes: tuple[str, Node], **settings: Any) -> CompiledGraph[Any]:
    """Nodes one after the other."""
    builder = StateGraph(State)
    last = START
    for name, call in nodes:
        builder.add_node(name, run.node(call))
        builder.add_edge(last, name)
        last = name
    return run.compile(builder, **{"name": "line", **settings})


def two(run: Runner, calls: Calls | None = None, **settings: Any) -> CompiledGraph[Any]:
    calls = Calls() if calls is None else calls
    return line(run, ("a", calls.node("a")), ("b", calls.node("b")), **settings)


def result(run: Runner, graph: CompiledGraph[Any], config: Any) -> Any:
    return run.call(graph, "result", config, timeout=PATIENCE)


def until(condition: Callable[[], bool], seconds: float = PATIENCE, pause: float = 0.01) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "that did not happen"
        time.sleep(pause)


def statuses(graph: CompiledGraph[Any]) -> dict[str, str]:
    return {thread.thread_id: thread.status for thread in graph.threads()}


def jobs(url: str) -> int:
    with connected(engine_url(url)) as connection:
        (count,) = connection.execute("SELECT count(*) FROM procrastinate_jobs").fetchone() or (0,)
    return int(count)


# --- from submit to result ------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_what_is_submitted_is_run(way: str, workers_url: str) -> None:
    with Runner(way, workers_url) as run:
        calls = Calls()
        graph = two(run, calls)
        config = run.call(graph, "submit", {"log": ["in"]})
        assert calls == []
        (thread,) = graph.threads()
        assert (thread.status, thread.queue, thread.lease_owner) == ("queued", "default", None)
        assert [event.kind for event in graph.replay(config, stream_mode="events")] == ["input"]
        with working(graph):
            assert result(run, graph, config) == {"log": ["in", "a", "b"]}
        assert calls == ["a", "b"]
        assert statuses(graph) == {thread.thread_id: "finished"}
        assert graph.verify(config).ok
        runs = {event.metadata["run_id"] for event in graph.replay(config, stream_mode="events")}
        assert runs == {config["run_id"]}


@pytest.mark.parametrize("way", ["sync", "async"])
def test_inputs_of_one_thread_are_run_one_after_the_other(way: str, workers_url: str) -> None:
    with Runner(way, workers_url) as run:
        graph, config = two(run), new_thread()
        given = [run.call(graph, "submit", {"log": [name]}, config) for name in "xyz"]
        with working(graph):
            assert result(run, graph, given[2]) == {"log": [*"xabyabzab"]}
            assert result(run, graph, given[0]) == {"log": [*"xab"]}
            assert result(run, graph, given[1]) == {"log": [*"xabyab"]}
        runs = [event.metadata["run_id"] for event in graph.replay(config, stream_mode="events")]
        assert list(dict.fromkeys(runs)) == [each["run_id"] for each in given]
        assert graph.verify(config).ok


def test_an_input_that_comes_while_a_run_is_under_way_waits(workers_url: str) -> None:
    begun, go = threading.Event(), threading.Event()

    def slow(state: Any) -> dict[str, Any]:
        begun.set()
        assert go.wait(PATIENCE)
        return {"log": ["slow"]}

    with Runner("sync", workers_url) as run:
        graph = line(run, ("slow", slow))
        first = graph.submit({"log": ["x"]})
        with working(graph):
            assert begun.wait(PATIENCE)
            second = graph.submit({"log": ["y"]}, first)
            with pytest.raises(ThreadBusyError):
                graph.submit(None, first)
            with pytest.raises(ThreadBusyError):
                graph.submit(Command(resume=1), first)
            with pytest.raises(RunTimeoutError, match="not ended within 0 s"):
                graph.result(second, timeout=0)
            go.set()
            assert graph.result(second, timeout=PATIENCE) == {"log": ["x", "slow", "y", "slow"]}
            assert graph.result(first, timeout=PATIENCE) == {"log": ["x", "slow"]}


def test_a_run_of_somebody_else_is_waited_for(workers_url: str) -> None:
    """An input behind a plain stream."""
    with Runner("sync", workers_url) as run:
        graph, config = two(run), new_thread()
        stream = graph.stream({"log": ["x"]}, config)
        next(stream)
        given = graph.submit({"log": ["y"]}, config)
        with working(graph):
            list(stream)
            assert graph.result(given, timeout=PATIENCE) == {"log": [*"xabyab"]}


def test_questions_and_answers(workers_url: str) -> None:
    with Runner("sync", workers_url) as run:
        graph = line(run, ("ask", lambda state: {"log": [interrupt("well?")]}))
        asked = graph.submit({"log": []})
        with working(graph):
            (question,) = graph.result(asked, timeout=PATIENCE)["__interrupt__"]
            assert question.value == "well?"
            answered = graph.submit(Command(resume="yes"), asked)
            assert graph.result(answered, timeout=PATIENCE) == {"log": ["yes"]}
            assert "__interrupt__" in graph.result(asked, timeout=PATIENCE)


def test_what_a_run_was_given_reaches_its_nodes(workers_url: str) -> None:
    seen: list[Any] = []

    def node(state: Any, config: dict[str, Any], runtime: Runtime[Any]) -> dict[str, Any]:
        seen.append((config, runtime.context))
        return {"log": ["n"]}

    with Runner("sync", workers_url) as run:
        graph = line(run, ("node", node)).with_config(tags=["always"])
        config = {
            "configurable": {"thread_id": "t", "user": ("ann", 7)},
            "metadata": {"actor": "ann"},
            "tags": ["once"],
            "run_name": "mine",
            "recursion_limit": 9,
        }
        given = graph.submit({"log": []}, config)
        behind = graph.submit({"log": []}, {**config, "configurable": {"thread_id": "t", "user": "bob"}})
        work_off(graph, context={"db": 1})
        assert graph.result(given) == {"log": ["n"]}
        assert graph.result(behind) == {"log": ["n", "n"]}
        (one, context), (other, _) = seen
        assert context == {"db": 1}
        assert one["configurable"] == {"thread_id": "t", "user": ("ann", 7)}
        assert other["configurable"] == {"thread_id": "t", "user": "bob"}
        assert (one["tags"], one["run_name"], one["recursion_limit"]) == (["always", "once"], "mine", 9)
        assert one["metadata"]["actor"] == "ann"


def test_subgraphs_and_parallel_nodes(workers_url: str) -> None:
    with Runner("sync", workers_url) as run:
        calls = Calls()
        below = StateGraph(State).add_node("deep", calls.node("deep")).add_edge(START, "deep").compile()
        builder = StateGraph(State).add_node("left", calls.node("left")).add_node("below", below)
        graph = run.compile(builder.add_edge(START, "left").add_edge(START, "below"), name="both")
        given = graph.submit({"log": []})
        work_off(graph)
        assert graph.result(given)["log"] == ["deep", "left"] or graph.result(given)["log"] == ["left", "deep"]
        assert sorted(calls) == ["deep", "left"]


# --- accepted or not --------------------------------------------------------------------------------


@pytest.mark.parametrize("behind", [False, True])
def test_what_can_never_run_is_refused(behind: bool, workers_url: str) -> None:
    with Runner("sync", workers_url) as run:
        graph, config = two(run), {"thread_id": "t"}
        if behind:
            graph.submit({"log": []}, config)
        rows = sum(1 for _ in graph.timeline(config)) if behind else 0
        with pytest.raises(InvalidUpdateError, match="unknown key 'x'"):
            graph.submit({"x": 1}, config)
        with pytest.raises(UnstorableValueError, match="object"):
            graph.submit({"log": [object()]}, config)
        for wrong, message in (
            ({"step": 3}, "step"),
            ({"checkpoint_ns": "a:b"}, "checkpoint_ns"),
            ({"max_concurrency": 2}, "max_concurrency"),
        ):
            with pytest.raises(ArgumentError, match=message):
                graph.submit({"log": []}, {**config, **wrong})
        for wrong, message in (
            ({"queue": ""}, "no name of a queue"),
            ({"queue": 3}, "no name of a queue"),
            ({"queue": "a\0b"}, "NUL character"),
            ({"queue": "\ud800"}, "no Unicode text"),
            ({"when": "tomorrow"}, "no time to come"),
            ({"when": datetime(2026, 1, 1)}, "has no zone"),  # noqa: DTZ001
            ({"when": -1}, "no time to come"),
            ({"priority": 1.5}, "priority"),
        ):
            with pytest.raises(ArgumentError, match=message):
                graph.submit({"log": []}, config, **wrong)
        if behind:
            assert sum(1 for _ in graph.timeline(config)) == rows
        else:
            assert list(graph.threads()) == []


@pytest.mark.parametrize("whole", [False, True])
def test_results_while_others_write(whole: bool, workers_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between any two things that `result` reads, a worker takes a step, or all there are."""
    for moment in range(1, 6):
        with Runner("sync", workers_url) as run:
            halt = Stopping()

            def a(state: Any, halt: Stopping = halt) -> dict[str, Any]:
                if not whole:
                    halt.set()
                return {"log": ["a"]}

            graph, config = line(run, ("a", a), ("b", Calls().node("b"))), new_thread()
            stream = graph.stream({"log": []}, config)
            next(stream)
            given = graph.submit({"log": ["x"]}, config)  # behind it
            list(stream)
            halt._is_set = False
            reads, store = [0], graph._stored()

            def counted(read: Any, reads: list[int] = reads, work: Any = None, moment: int = moment) -> Any:
                def call(*args: Any, **kwargs: Any) -> Any:
                    reads[0] += 1
                    if reads[0] == moment:
                        work()
                    return read(*args, **kwargs)

                return call

            with monkeypatch.context() as patch:
                for name in ("thread", "signals", "rows"):
                    work = partial(work_off, graph, stopping=halt)
                    patch.setattr(store, name, counted(getattr(store, name), work=work))
                found = graph._ended(given)
                assert found is None or (whole and found.value == {"log": [*"abxab"]})
            work_off(graph)
            assert graph.result(given) == {"log": [*"abxab"]}


def test_nothing_to_go_on_with(workers_url: str) -> None:
    with Runner("sync", workers_url) as run:
        graph = two(run)
        with pytest.raises(CallError, match="does not exist yet"):
            graph.submit(None, {"thread_id": "t"})
        with pytest.raises(ThreadNotFoundError):
            graph.result({"thread_id": "t"})
        graph.invoke({"log": []}, {"thread_id": "t"})
        with pytest.raises(RunNotFoundError, match="no run 'other'"):
            graph.result({"thread_id": "t", "run_id": "other"})
        assert graph.result({"thread_id": "t"}) == {"log": ["a", "b"]}


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("commit", [False, True])
def test_in_a_transaction_of_the_caller(behind: bool, commit: bool, workers_url: str) -> None:
    engine = create_engine(engine_url(workers_url))
    with Runner("sync", workers_url) as run, engine.connect() as connection:
        graph, config = two(run), {"thread_id": "t"}
        graph.get_state(config)  # makes the tables
        if behind:
            graph.submit({"log": ["first"]}, config)
        with engine.begin() as other:
            other.execute(text("CREATE TABLE orders (id INTEGER)"))
        with connection.begin() as transaction:
            connection.execute(text("INSERT INTO orders VALUES (1)"))
            given = graph.submit({"log": ["x"]}, config, connection=connection)
            if not workers_url.startswith("sqlite"):  # there the transaction keeps all other writers waiting
                assert [turn.status for _, turn in work_off(graph)] == (["finished"] if behind else [])
            (transaction.commit if commit else transaction.rollback)()
        (orders,) = connection.execute(text("SELECT count(*) FROM orders")).one()
        assert orders == commit
        done = work_off(graph)
        assert all(turn.status == "finished" for _, turn in done)
        if commit:
            assert graph.result(given)["log"][-3:] == ["x", "a", "b"]
        assert (graph.get_state(config).values.get("log") or [None])[0] == (
            "first" if behind else "x" if commit else None
        )
    engine.dispose()


@pytest.mark.parametrize("commit", [False, True])
def test_in_an_async_transaction_of_the_caller(commit: bool, jobs_url: str) -> None:
    with Runner("async", jobs_url) as run:
        graph = two(run)

        async def main() -> Any:
            engine = create_async_engine(engine_url(jobs_url))
            try:
                async with engine.connect() as connection:
                    transaction = await connection.begin()
                    given = await graph.asubmit({"log": ["x"]}, connection=connection)
                    await (transaction.commit if commit else transaction.rollback)()
                return given
            finally:
                await engine.dispose()

        given = wait_for(main)
        assert jobs(jobs_url) == commit
        assert len(work_off(graph)) == commit
        if commit:
            assert graph.result(given) == {"log": ["x", "a", "b"]}
        else:
            assert list(graph.threads()) == []


def test_row_and_job_are_there_together_or_not_at_all(jobs_url: str) -> None:
    """The job is refused; and then the row is."""
    with Runner("sync", jobs_url) as run:
        graph = two(run)
        with connected(engine_url(jobs_url)) as connection:
            connection.execute("ALTER TABLE procrastinate_jobs ADD CONSTRAINT no CHECK (lock <> 't')")
            with pytest.raises(Exception, match="procrastinate_jobs"):
                graph.submit({"log": []}, {"thread_id": "t"})
            assert list(graph.threads()) == []
            connection.execute("ALTER TABLE checkpoints ADD CONSTRAINT no CHECK (thread_id <> 'u')")
            with pytest.raises(Exception, match="checkpoints"):
                graph.submit({"log": []}, {"thread_id": "u"})
        assert list(graph.threads()) == []
        assert jobs(jobs_url) == 0


def test_without_tables_or_package(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Runner("sync", postgres_url) as run:
        graph = two(run)
        with pytest.raises(SchemaError, match="db upgrade --workers"):
            graph.submit({"log": []})
        assert make_tables(postgres_url)
        assert not make_tables(postgres_url)
        graph.submit({"log": []})
        for name in [name for name in sys.modules if name.partition(".")[0] == "procrastinate"]:
            monkeypatch.setitem(sys.modules, name, None)
        for module in ("jobs", "postgres", "rescue"):
            monkeypatch.delitem(sys.modules, f"durable_graph.workers.{module}", raising=False)
        with pytest.raises(CallError, match=r"durable-graph\[workers\]"):
            graph.submit({"log": []})
        with pytest.raises(CallError, match=r"durable-graph\[workers\]"):
            work_off(graph)
        assert len(list(graph.threads())) == 1


def test_sqlite_needs_no_tables(sqlite_url: str) -> None:
    with pytest.raises(ArgumentError, match="no tables on SQLite"):
        make_tables(sqlite_url)
    with Runner("sync", sqlite_url) as run, pytest.raises(ArgumentError, match="on SQLite there are none"):
        two(run).submit({"log": []}, priority=1)


# --- when -------------------------------------------------------------------------------------------


def begun_at(graph: CompiledGraph[Any], config: Any) -> str:
    """When its first node began."""
    return next(entry.started_at or "" for entry in graph.timeline(config) if entry.kind == "task")


@pytest.mark.parametrize("kind", ["seconds", "timedelta", "datetime"])
def test_a_run_begins_at_its_time(kind: str, workers_url: str) -> None:
    later = datetime.now(UTC) + timedelta(seconds=0.5)
    when = {"seconds": 0.5, "timedelta": timedelta(seconds=0.5), "datetime": later}[kind]
    with Runner("sync", workers_url) as run:
        graph = two(run)
        given = graph.submit({"log": []}, when=when)
        behind = graph.submit({"log": []}, given)
        now = graph.submit({"log": []})
        assert [thread for thread, _ in work_off(graph)] == [now["configurable"]["thread_id"]]
        with working(graph):
            graph.result(given, timeout=PATIENCE)
            graph.result(behind, timeout=PATIENCE)
        assert begun_at(graph, given) >= f"{later:%Y-%m-%dT%H:%M:%S.%f}Z"


def test_who_sleeps_holds_no_worker(workers_url: str) -> None:
    def sleeps(state: Any, runtime: Runtime[Any]) -> dict[str, Any]:
        runtime.sleep(0.7)
        return {"log": ["slept"]}

    with Runner("sync", workers_url) as run:
        sleeper, other = line(run, ("sleeps", sleeps), name="sleeper"), two(run, name="other")
        asleep = sleeper.submit({"log": []})
        assert [turn.status for _, turn in work_off(sleeper)] == ["waiting"]
        with working(sleeper, other, concurrency=1):
            assert other.result(other.submit({"log": []}), timeout=PATIENCE) == {"log": ["a", "b"]}
            assert sleeper.result(asleep, timeout=PATIENCE) == {"log": ["slept"]}


def waits(state: Any, runtime: Runtime[Any]) -> dict[str, Any]:
    return {"log": [runtime.wait_for("go")]}


@pytest.mark.parametrize("asleep", [False, True])
def test_a_signal_wakes(asleep: bool, workers_url: str) -> None:
    """Also one that is there before; and what comes later on the thread is not held up."""
    with Runner("sync", workers_url) as run:
        graph = line(run, ("waits", waits))
        given = graph.submit({"log": []})
        if asleep:
            assert [turn.status for _, turn in work_off(graph)] == ["waiting"]
        behind = graph.submit({"log": ["next"]}, given)
        Log(workers_url).signal(given, "go", "one")  # without the graph
        assert work_off(graph)[-1][1].status == "waiting"  # for the second signal
        assert graph.result(given) == {"log": ["one"]}
        graph.signal(given, "go", "two")
        work_off(graph)
        assert graph.result(behind) == {"log": ["one", "next", "two"]}
        again = graph.submit({"log": []}, given)
        graph.signal(given, "go", "three")
        work_off(graph)
        assert graph.result(again)["log"][-1] == "three"
        if not workers_url.startswith("sqlite"):
            for _ in range(3):  # those that find nothing to do
                work_off(graph)
            assert jobs(workers_url) == 0


def test_signals_at_any_moment_are_not_lost(workers_url: str) -> None:
    """Sent while the thread is taken, runs, comes to its wait, and is given back."""
    with Runner("sync", workers_url) as run:
        graph = line(run, *((f"w{number}", waits) for number in range(3)))
        given = [graph.submit({"log": []}) for _ in range(12)]
        with working(graph, concurrency=4):
            senders = [threading.Thread(target=_send, args=[graph, each, place]) for place, each in enumerate(given)]
            for sender in senders:
                sender.start()
            for each in given:
                assert graph.result(each, timeout=PATIENCE) == {"log": [0, 1, 2]}
            for sender in senders:
                sender.join()
        assert all(graph.verify(each).ok for each in given)


def test_a_signal_that_nobody_waits_for_wakes_once(sqlite_url: str) -> None:
    with Runner("sync", sqlite_url) as run:
        graph, turns = line(run, ("waits", waits)), list[str]()
        given = graph.submit({"log": []})
        graph.signal(given, "other", 1)
        with working(graph, tell=lambda _, thread, turn: turns.append(turn.status)):
            until(lambda: len(turns) == 2)  # begun, and woken in vain
            looks = [0]
            read = graph._stored().signalled
            graph._stored().signalled = lambda: [looks.append(1), read()][1]  # type: ignore[attr-defined, union-attr]
            until(lambda: len(looks) > 4)
            assert turns == ["waiting", "waiting"]
            graph.signal(given, "go", 2)
            assert graph.result(given, timeout=PATIENCE) == {"log": [2]}


def _send(graph: CompiledGraph[Any], config: Any, place: int) -> None:
    for number in range(3):
        time.sleep(0.007 * place)  # another moment for each
        graph.signal(config, "go", number)


# --- failures -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("failures", [0, 2, 3])
def test_a_failed_run_is_gone_on_with(failures: int, workers_url: str) -> None:
    calls: list[int] = []

    def breaks(state: Any) -> dict[str, Any]:
        calls.append(1)
        if len(calls) <= failures:
            raise KeyError("broken")
        return {"log": ["mended"]}

    with Runner("sync", workers_url) as run:
        before = Calls()
        graph = line(run, ("a", before.node("a")), ("breaks", breaks))
        given = graph.submit({"log": []}, retry=RetryPolicy(max_attempts=3, initial_interval=0.05))
        with working(graph):
            if failures < 3:
                assert graph.result(given, timeout=PATIENCE) == {"log": ["a", "mended"]}
            else:
                with pytest.raises(RunFailedError, match=r"'breaks'.*KeyError.*broken") as caught:
                    graph.result(given, timeout=PATIENCE)
                assert (caught.value.node, caught.value.type) == ("breaks", "builtins.KeyError")
                again = graph.submit(None, given)
                assert graph.result(again, timeout=PATIENCE) == {"log": ["a", "mended"]}
        assert len(calls) == failures + 1
        assert before == ["a"]
        kinds = [event.kind for event in graph.replay(given, stream_mode="events")]
        assert kinds.count("error") == failures


def test_without_a_policy_it_stays_failed(workers_url: str) -> None:
    def breaks(state: Any) -> None:
        raise KeyError("broken")

    with Runner("sync", workers_url) as run:
        graph = line(run, ("breaks", breaks))
        given = graph.submit({"log": []})
        assert [turn.status for _, turn in work_off(graph)] == ["failed"]
        with pytest.raises(RunFailedError):
            graph.result(given)
        assert work_off(graph) == []


def test_the_limit_of_supersteps(workers_url: str) -> None:
    with Runner("sync", workers_url) as run:
        graph = line(run, *((name, Calls().node(name)) for name in "abcd"))
        given = graph.submit({"log": []}, {"recursion_limit": 2})
        work_off(graph)
        with pytest.raises(RunStoppedError, match="next: c"):
            graph.result(given)
        more = graph.submit(None, given)
        work_off(graph)
        assert graph.result(more) == {"log": [*"abcd"]}


def test_a_thread_that_cannot_go_on_holds_up_no_other(workers_url: str, caplog: pytest.LogCaptureFixture) -> None:
    with Runner("sync", workers_url) as run:
        old = line(run, ("gone", Calls().node("gone")), name="same")
        stuck = old.submit({"log": []})
        new = two(run, name="same")
        fine = new.submit({"log": []})
        told = dict(work_off(new))
        assert told[stuck["configurable"]["thread_id"]].unable
        assert new.result(fine) == {"log": ["a", "b"]}
        assert "cannot go on: ChangedGraphError" in caplog.text
        assert statuses(new)[stuck["configurable"]["thread_id"]] == "queued"
        assert list(old.stream(None, stuck))  # mended


def test_a_thread_that_was_deleted(workers_url: str) -> None:
    with Runner("sync", workers_url) as run:
        graph = two(run)
        given = graph.submit({"log": []})
        graph.delete_thread(given["configurable"]["thread_id"])
        assert all(turn.status == "" for _, turn in work_off(graph))
        with pytest.raises(ThreadNotFoundError):
            graph.result(given)


# --- who runs what --------------------------------------------------------------------------------------


def test_queues(workers_url: str) -> None:
    with Runner("sync", workers_url) as run:
        graph = two(run)
        plain, slow = graph.submit({"log": []}), graph.submit({"log": []}, queue="slow")
        behind = graph.submit({"log": []}, slow, queue="slow")
        assert [thread for thread, _ in work_off(graph)] == [plain["configurable"]["thread_id"]]
        assert statuses(graph)[slow["configurable"]["thread_id"]] == "queued"
        work_off(graph, queues={"slow": 1})
        assert graph.result(behind) == {"log": [*"abab"]}


def test_graphs_have_queues_of_their_own(workers_url: str) -> None:
    with Runner("sync", workers_url) as run:
        one, other = two(run, name="one"), two(run, name="a name that is much longer than a channel's may be")
        first, second = one.submit({"log": []}), other.submit({"log": []})
        assert [thread for thread, _ in work_off(one)] == [first["configurable"]["thread_id"]]
        assert [thread for thread, _ in work_off(one, other)] == [second["configurable"]["thread_id"]]
        with pytest.raises(ArgumentError, match="a name of its own"):
            work_off(one, one)


def test_limits_of_queues(workers_url: str) -> None:
    lock, now, most = threading.Lock(), [0, 0], [0, 0]
    full = [threading.Event(), threading.Event()]

    def node(state: Any, config: dict[str, Any]) -> dict[str, Any]:
        place = config["configurable"]["place"]
        with lock:
            now[place] += 1
            most[place] = max(most[place], now[place])
            if now[place] == (2, 3)[place]:
                full[place].set()
        assert full[place].wait(PATIENCE)
        with lock:
            now[place] -= 1
        return {"log": ["n"]}

    with Runner("sync", workers_url) as run:
        graph = line(run, ("node", node))
        given = [
            graph.submit({"log": []}, {"configurable": {"place": place}}, queue=queue)
            for place, queue in enumerate(["narrow", "wide"])
            for _ in range(6)
        ]
        with working(graph, queues={"narrow": 2, "wide": 3}):
            for each in given:
                graph.result(each, timeout=PATIENCE)
        assert most == [2, 3]


def test_priorities(jobs_url: str) -> None:
    with Runner("sync", jobs_url) as run:
        graph, order = two(run), list[str]()
        for name, priority in (("low", -1), ("first", 0), ("high", 5), ("second", 0)):
            graph.submit({"log": []}, {"thread_id": name}, priority=priority)
        run_worker(graph, wait=False, concurrency=1, tell=lambda _, thread, turn: order.append(thread))
        assert order == ["high", "first", "second", "low"]


def test_two_workers_take_each_thread_once(workers_url: str) -> None:
    with Runner("sync", workers_url) as run:
        calls = Calls()
        graph, same = two(run, calls), two(run, calls)
        given = [graph.submit({"log": []}) for _ in range(20)]
        with working(graph, concurrency=3), working(same, concurrency=3):
            for each in given:
                assert graph.result(each, timeout=PATIENCE) == {"log": ["a", "b"]}
        assert sorted(calls) == ["a"] * 20 + ["b"] * 20


def test_stopping_ends_after_the_step_at_hand(workers_url: str) -> None:
    begun, go, calls = threading.Event(), threading.Event(), Calls()

    def slow(state: Any) -> dict[str, Any]:
        calls.append("slow")
        begun.set()
        assert go.wait(PATIENCE)
        return {"log": ["slow"]}

    with Runner("sync", workers_url) as run:
        graph = line(run, ("slow", slow), ("after", calls.node("after")))
        given = graph.submit({"log": []})
        with working(graph) as stopping:
            assert begun.wait(PATIENCE)
            stopping.set()
            go.set()
        (thread,) = graph.threads()
        assert (thread.status, thread.lease_owner) == ("queued", None)
        assert calls == ["slow"]
        assert [event.node for event in graph.replay(given, stream_mode="events")][-1] == "slow"
        work_off(graph)
        assert graph.result(given) == {"log": ["slow", "after"]}
        assert calls == ["slow", "after"]


# --- by the clock ---------------------------------------------------------------------------------------


def test_runs_by_the_clock(jobs_url: str) -> None:
    with Runner("sync", jobs_url) as run:
        graph, same = two(run), two(run)
        for each in (graph, same):
            each.periodic("* * * * * *", lambda at: {"log": [f"{at:%S}"]}, name="tick", config={"tags": ["t"]})
        with working(graph), working(same):
            until(lambda: list(statuses(graph).values()).count("finished") >= 3)
        for thread in graph.threads():
            second = thread.thread_id.removeprefix("tick-")[-3:-1]
            if thread.status == "finished":
                assert graph.result({"thread_id": thread.thread_id}) == {"log": [second, "a", "b"]}


def test_clocks_that_are_wrong(workers_url: str) -> None:
    with Runner("sync", workers_url) as run:
        graph = two(run)
        graph.periodic("every day", {"log": []}, name="wrong")
        with pytest.raises(ArgumentError, match="already"):
            graph.periodic("* * * * *", {"log": []}, name="wrong")
        with pytest.raises(ArgumentError, match="names a thread"):
            graph.periodic("* * * * *", {"log": []}, name="other", config={"thread_id": "t"})
        with pytest.raises(CallError, match="there are none on SQLite" if "sqlite" in workers_url else "is no time"):
            work_off(graph)
