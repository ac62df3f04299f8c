"""The threads of a superstep: all work is done, one waits for another, and nobody is left."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial

import pytest

from durable_graph.crew import Crew
from tests.graphs import PATIENCE


@pytest.fixture
def crew() -> Iterator[Crew]:
    crew = Crew(8, "crew")
    yield crew
    crew.dismiss()
    crew.join()
    assert crew.gone


def names() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("crew")]


def test_all_work_is_done(crew: Crew) -> None:
    done, all_done = [], threading.Semaphore(0)

    def work(number: int) -> None:
        done.append(number)
        all_done.release()

    for round_ in range(50):
        crew.give([partial(work, number) for number in range(round_ * 10, round_ * 10 + 10)])
    for _ in range(500):
        assert all_done.acquire(timeout=PATIENCE)
    assert sorted(done) == [*range(500)]
    assert len(names()) <= 8


def test_as_many_as_wait_for_each_other_run_side_by_side(crew: Crew) -> None:
    """Eight that only go on when all eight have come, again and again: with threads that sleep in between."""
    for _ in range(20):
        met, left = threading.Barrier(9), threading.Barrier(9)

        def work(met: threading.Barrier = met, left: threading.Barrier = left) -> None:
            met.wait(PATIENCE)
            left.wait(PATIENCE)

        crew.give([work] * 8)
        met.wait(PATIENCE)
        left.wait(PATIENCE)
    assert len(names()) == 8


def test_work_that_was_given_while_all_are_busy_waits_for_nobody_who_ends(crew: Crew) -> None:
    held, ran = threading.Event(), threading.Semaphore(0)
    crew.give([lambda: held.wait(PATIENCE)] * 7)
    crew.give([ran.release] * 20)
    for _ in range(20):
        assert ran.acquire(timeout=PATIENCE)
    held.set()


def test_work_gives_more_work(crew: Crew) -> None:
    ran = threading.Semaphore(0)

    def work(depth: int) -> None:
        if depth:
            crew.give([lambda: work(depth - 1)] * 2)
        ran.release()

    crew.give([lambda: work(6)])
    for _ in range(2**7 - 1):
        assert ran.acquire(timeout=PATIENCE)


def test_who_is_dismissed_ends_what_it_is_at_and_begins_nothing() -> None:
    crew, begun, held, ran = Crew(1, "crew"), threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        held.wait(PATIENCE)

    crew.give([work, ran.set])
    assert begun.wait(PATIENCE)
    crew.dismiss()
    assert not crew.gone
    held.set()
    crew.join()
    assert crew.gone
    assert not ran.is_set()
    assert names() == []
