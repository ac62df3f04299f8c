"""Whatever is sent to a thread, at whatever moment, reaches it. Each moment is made, not waited for."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from procrastinate.manager import JobManager

from durable_graph import START, Runtime, StateGraph
from durable_graph.core.run import Run
from durable_graph.store.sql import SqlStore, SqlTransaction
from durable_graph.workers import Turn, arun_worker, turn
from tests.conftest import by_turns
from tests.graphs import PATIENCE, Calls, Runner, State, new_thread, wait_for
from tests.test_workers import NOW, jobs, line, statuses, two, until, waits, work_off, working

Action = Callable[[], object]


class Moment:
    """Has something done once, before or after the first call of a function."""

    def __init__(self, owner: Any, name: str, *, after: bool = False, number: int = 1) -> None:
        self._owner, self._name, self._after, self._left = owner, name, after, number

    def hook(self, monkeypatch: pytest.MonkeyPatch, action: Action) -> None:
        original = getattr(self._owner, self._name)

        def is_it() -> bool:
            self._left -= 1
            return self._left == 0

        def call(*arguments: Any, **named: Any) -> Any:
            now = is_it()
            if now and not self._after:
                _aside(action)
            found = original(*arguments, **named)
            if now and self._after:
                _aside(action)
            return found

        async def acall(*arguments: Any, **named: Any) -> Any:
            now = is_it()
            if now and not self._after:
                _aside(action)
            found = await original(*arguments, **named)
            if now and self._after:
                _aside(action)
            return found

        monkeypatch.setattr(self._owner, self._name, acall if self._owner is JobManager else call)


def _aside(action: Action) -> None:
    """In a thread of its own: it is another process that does it."""
    errors: list[BaseException] = []

    def perform() -> None:
        try:
            action()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=perform)
    thread.start()
    thread.join(PATIENCE)
    assert not errors, errors


# In the life of a run of which the first turn comes to a wait, or to its end.
MOMENTS: dict[str, Callable[[], Moment]] = {
    "before the thread is looked at": lambda: Moment(turn, "_next"),
    "between look and lease": lambda: Moment(turn, "_next", after=True),
    "after the lease": lambda: Moment(SqlStore, "append", after=True),
    "before the last look for signals": lambda: Moment(Run, "_wake"),
    "before the lease is given back": lambda: Moment(SqlStore, "change_thread"),
    "after the lease is given back": lambda: Moment(SqlStore, "change_thread", after=True),
    "before the last look at the thread": lambda: Moment(turn, "_next", number=2),
    "after the last look at the thread": lambda: Moment(turn, "_next", after=True, number=2),
    "before the job goes back": lambda: Moment(JobManager, "retry_job"),
    "after the job has gone back": lambda: Moment(JobManager, "retry_job", after=True),
    "before the job is done": lambda: Moment(JobManager, "finish_job"),
    "after the job is done": lambda: Moment(JobManager, "finish_job", after=True),
}


@pytest.mark.parametrize(("workers_url", "moment"), by_turns(*MOMENTS), indirect=["workers_url"])
def test_a_signal_at_any_moment(moment: str, workers_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Runner("sync", workers_url) as run:
        graph = line(run, ("waits", waits))
        given = graph.submit({"log": []})
        MOMENTS[moment]().hook(monkeypatch, lambda: graph.signal(given, "go", "!"))
        work_off(graph)
        monkeypatch.undo()
        if not graph.get_state(given).values["log"]:
            if "job is done" in moment or ("job" in moment and "sqlite" in workers_url):
                graph.signal(given, "go", "!")  # there is no such moment in this life
            work_off(graph)
        assert graph.result(given, timeout=0) == {"log": ["!"]}


@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize(("workers_url", "moment"), by_turns(*MOMENTS), indirect=["workers_url"])
def test_an_input_at_any_moment(ends: bool, moment: str, workers_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run that it comes to ends; or waits for a signal."""
    with Runner("sync", workers_url) as run:
        calls = Calls()
        graph = line(run, ("n", calls.node("n"))) if ends else line(run, ("n", waits))
        given, more = graph.submit({"log": ["x"]}), list[Any]()
        MOMENTS[moment]().hook(monkeypatch, lambda: more.append(graph.submit({"log": ["y"]}, given)))
        work_off(graph)
        monkeypatch.undo()
        if not more:
            pytest.skip("there is no such moment in this life")
        if not ends:
            graph.signal(given, "go", "n")
            graph.signal(given, "go", "n")
        work_off(graph)
        work_off(graph)
        assert graph.result(more[0], timeout=0) == {"log": [*"xnyn"]}
        if not workers_url.startswith("sqlite"):
            assert jobs(workers_url) == 0


def test_a_turn_between_look_and_commit_of_a_signal(jobs_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal has seen that a worker is about to come; which comes, and finds no signal yet."""
    with Runner("sync", jobs_url) as run:
        graph = line(run, ("waits", waits))
        given = graph.submit({"log": []})
        Moment(SqlTransaction, "send").hook(monkeypatch, lambda: work_off(graph))
        graph.signal(given, "go", "!")
        assert statuses(graph)[given["configurable"]["thread_id"]] == "waiting"
        work_off(graph)
        assert graph.result(given, timeout=0) == {"log": ["!"]}


def test_a_submission_between_look_and_commit_of_a_signal(jobs_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal was for a thread of which no worker knew."""
    with Runner("sync", jobs_url) as run:
        graph, config = line(run, ("waits", waits)), new_thread()
        graph.update_state(config, {"log": []}, as_node="waits")

        def submit() -> None:
            graph.submit({"log": []}, config)
            work_off(graph)

        Moment(SqlStore, "send").hook(monkeypatch, submit)
        graph.signal(config, "go", "!")
        work_off(graph)
        assert graph.result(config, timeout=0) == {"log": ["!"]}


def test_who_stops_before_it_has_looked_leaves_the_thread_to_others(workers_url: str) -> None:
    """It has taken the job that a signal made."""
    with Runner("sync", workers_url) as run:
        graph = line(run, ("waits", waits))
        given = graph.submit({"log": []})
        work_off(graph)
        graph.signal(given, "go", "!")
        taken = turn.take_turn(graph, "default", given["configurable"]["thread_id"], None, lambda: True)
        assert taken.again is not None
        assert taken.again.year < 9999
        work_off(graph)
        assert graph.result(given, timeout=0) == {"log": ["!"]}


def test_an_input_is_not_held_up_by_what_waited_before(workers_url: str) -> None:
    """Somebody else has gone on with the thread, so that no signal comes any more."""
    with Runner("sync", workers_url) as run:
        graph = line(run, ("waits", waits))
        given = graph.submit({"log": []})
        work_off(graph)  # it waits
        graph.signal(given, "go", "!")
        assert list(graph.stream(None, given))  # before a worker has come
        again = graph.submit({"log": []}, given)
        work_off(graph)
        graph.signal(given, "go", "?")
        work_off(graph)
        assert graph.result(again, timeout=0) == {"log": ["!", "?"]}


def test_an_input_behind_a_run_that_somebody_else_ends(workers_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turn, "UNABLE", timedelta(seconds=0.1))
    with Runner("sync", workers_url) as run:
        graph, config = line(run, ("waits", waits)), new_thread()
        list(graph.stream({"log": []}, config))
        behind = graph.submit({"log": ["y"]}, config)
        assert [each.status for _, each in work_off(graph)] == ["waiting"] * (not workers_url.startswith("sqlite"))
        graph.signal(config, "go", "!")
        list(graph.stream(None, config))
        graph.signal(config, "go", "?")
        with working(graph):
            assert graph.result(behind, timeout=PATIENCE) == {"log": ["!", "y", "?"]}


def test_an_input_is_not_run_before_its_time_nor_elsewhere(workers_url: str) -> None:
    with Runner("sync", workers_url) as run:
        graph = two(run)
        given = graph.submit({"log": ["x"]})
        elsewhere = graph.submit({"log": ["y"]}, given, queue="other")
        later = graph.submit({"log": ["z"]}, given, when=0.5)
        work_off(graph)
        assert graph.get_state(given).values["log"] == [*"xab"]
        with working(graph, queues={"other": 1}):
            assert graph.result(elsewhere, timeout=PATIENCE) == {"log": [*"xabyab"]}
        with working(graph):
            assert graph.result(later, timeout=PATIENCE) == {"log": [*"xabyabzab"]}


def test_an_input_for_another_graph_is_left_to_its_workers(workers_url: str) -> None:
    with Runner("sync", workers_url) as run:
        one, other = line(run, ("a", Calls().node("a")), name="one"), line(run, ("b", Calls().node("b")), name="other")
        given = one.submit({"log": ["x"]})
        behind = other.submit({"log": ["y"]}, given)
        work_off(one)
        assert one.result(given) == {"log": ["x", "a"]}
        work_off(other)
        assert other.result(behind, timeout=0) == {"log": ["x", "a", "y", "b"]}


def test_inputs_begin_in_order_when_one_run_has_just_ended(workers_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Runner("sync", workers_url) as run:
        graph = two(run)
        first = graph.submit({"log": ["x"]})
        second, third = graph.submit({"log": ["y"]}, first), list[Any]()
        moment = Moment(turn, "_next", number=2)
        moment.hook(monkeypatch, lambda: third.append(graph.submit({"log": ["z"]}, first)))
        with working(graph):
            until(lambda: bool(third))
            assert graph.result(third[0], timeout=PATIENCE) == {"log": [*"xabyabzab"]}
            assert graph.result(second, timeout=PATIENCE) == {"log": [*"xabyab"]}


@pytest.mark.slow
def test_many_that_wait_hold_up_no_other(workers_url: str) -> None:
    """More than a page of threads that have inputs which cannot begin yet."""
    with Runner("sync", workers_url) as run:
        graph = line(run, ("waits", waits))
        for number in range(110):
            graph.submit({"log": []}, {"thread_id": f"a{number}"})
        with working(graph):
            until(lambda: list(statuses(graph).values()).count("waiting") == 110)
        for number in range(110):
            graph.submit({"log": []}, {"thread_id": f"a{number}"})
        last = graph.submit({"log": []}, {"thread_id": "z"})
        behind = graph.submit({"log": []}, last)
        graph.signal(last, "go", 1)
        graph.signal(last, "go", 2)
        with working(graph):
            assert graph.result(behind, timeout=PATIENCE) == {"log": [1, 2]}


def test_what_nobody_waits_for_is_looked_at_once(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An input, or a signal of another name, for a thread that waits."""
    with Runner("sync", sqlite_url) as run:
        graph, told = line(run, ("waits", waits)), list[str]()
        given = graph.submit({"log": []})
        work_off(graph)
        graph.signal(given, "other")
        graph.submit({"log": []}, given)
        looks = list[int]()
        original = graph._stored().signalled

        def signalled() -> list[tuple[str, str, str]]:
            looks.append(1)
            return original()

        monkeypatch.setattr(graph._stored(), "signalled", signalled)
        with working(graph, tell=lambda _, thread, found: told.append(found.status)):
            until(lambda: len(looks) > 5)
            assert told == ["waiting"]
            graph.signal(given, "go", "!")
            until(lambda: len(told) > 1)


# --- a database that cannot be told --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["retry_job", "finish_job"])
def test_a_job_of_which_the_database_could_not_be_told(
    name: str, jobs_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The worker lives on, with its heartbeat; so nobody else counts it as dead."""

    async def lost(*_: Any, **__: Any) -> None:
        monkeypatch.undo()
        raise OSError("the connection was lost")

    def sleeps(state: Any, runtime: Runtime[Any]) -> dict[str, Any]:
        runtime.sleep(0.3)
        return {"log": ["slept"]}

    caplog.set_level(logging.CRITICAL, "asyncio")
    with Runner("sync", jobs_url) as run:
        graph = line(run, ("sleeps", sleeps)) if name == "retry_job" else two(run)
        monkeypatch.setattr(JobManager, name, lost)
        given = graph.submit({"log": []})
        with working(graph):
            graph.result(given, timeout=PATIENCE)
            assert graph.result(graph.submit({"log": []}, given), timeout=PATIENCE)
            until(lambda: jobs(jobs_url) == 0)


# --- a worker that is cancelled ------------------------------------------------------------------------


def test_who_is_cancelled_ends_after_the_step_at_hand(workers_url: str) -> None:
    with Runner("async", workers_url) as run:
        begun, go, calls = asyncio.Event(), asyncio.Event(), Calls()

        async def slow(state: Any) -> dict[str, Any]:
            begun.set()
            await go.wait()
            return {"log": ["slow"]}

        builder = StateGraph(State).add_node("slow", slow).add_node("after", calls.node("after"))
        graph = run.compile(builder.add_edge(START, "slow").add_edge("slow", "after"), name="slow")

        async def main() -> Any:
            given = await graph.asubmit({"log": []})
            worker = asyncio.create_task(arun_worker(graph, **NOW))
            await begun.wait()
            worker.cancel()
            asyncio.get_running_loop().call_soon(go.set)
            with pytest.raises(asyncio.CancelledError):
                await worker
            return given

        given = wait_for(main)
        assert calls == []
        assert [(thread.status, thread.lease_owner) for thread in graph.threads()] == [("queued", None)]
        work_off(graph)
        assert graph.result(given, timeout=0) == {"log": ["slow", "after"]}


def test_what_is_told_does_not_come_in_the_way(workers_url: str, caplog: pytest.LogCaptureFixture) -> None:
    told: list[str] = []

    def tell(graph: str, thread_id: str, found: Turn) -> None:
        told.append(found.status)
        raise KeyError("nobody listens")

    with Runner("sync", workers_url) as run:
        graph = two(run)
        graph.submit({"log": []})
        work_off(graph, tell=tell)
        work_off(graph, tell=tell)
        if not workers_url.startswith("sqlite"):
            assert jobs(workers_url) == 0
    assert told == ["finished"]
    assert "tell has raised" in caplog.text
