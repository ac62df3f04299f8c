"""Places in line: whose turn it is, who is settled by whom, and what is left when somebody is stopped."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from durable_graph.store import line as module
from durable_graph.store.line import Line, Ticket

STATEMENTS = [("INSERT", ())]


def commit() -> Ticket:
    return Ticket("t", STATEMENTS)


class Crew:
    """Threads that enter one after the other, and what each of them did in its turn."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.done: list[str] = []
        self._threads: list[threading.Thread] = []

    def enters(self, name: str, *, statements: bool, work: Callable[[Ticket], None] | None = None) -> None:
        """A thread stands in line. In its turn it settles its ticket and its company, or does `work`."""
        before = len(self.line._waiting)

        def run() -> None:
            mine = commit() if statements else Ticket()
            try:
                if self.line.enter(mine):
                    self.done.append(f"{name} and {len(mine.company)}")
                    for ticket in [mine, *mine.company]:
                        (work or settle)(ticket)
                else:
                    self.done.append(f"{name} settled")
            except Interrupted:
                self.done.append(f"{name} stopped")
            finally:
                self.line.leave(mine)

        self._threads.append(threading.Thread(target=run))
        self._threads[-1].start()
        while len(self.line._waiting) == before:
            time.sleep(0.001)

    def ends(self) -> list[str]:
        for thread in self._threads:
            thread.join()
        assert (self.line._inside, list(self.line._waiting)) == ([], [])
        return self.done


class Interrupted(BaseException):
    """Ctrl-C in another thread than the main one."""


def settle(ticket: Ticket) -> None:
    if ticket.statements:
        ticket.settle(None)


@contextmanager
def taken(line: Line) -> Iterator[Crew]:
    """The only place is taken."""
    mine = Ticket()
    assert line.enter(mine)
    yield Crew(line)
    line.leave(mine)


def test_who_is_alone_does_not_wait() -> None:
    line, mine = Line(1), commit()
    assert line.enter(mine)
    assert mine.company == ()
    line.leave(mine)
    assert (line._inside, list(line._waiting)) == ([], [])


def test_the_first_settles_for_all_that_wait() -> None:
    with taken(Line(1)) as crew:
        for name in "abc":
            crew.enters(name, statements=True)
    done = crew.ends()
    assert (done[0], sorted(done[1:])) == ("a and 2", ["b settled", "c settled"])


def test_who_wants_the_place_alone_gets_it_in_turn() -> None:
    with taken(Line(1)) as crew:
        crew.enters("a", statements=True)
        crew.enters("alone", statements=False)
        crew.enters("b", statements=True)
    done = crew.ends()
    assert sorted(done) == ["a and 1", "alone and 0", "b settled"]
    assert done.index("a and 1") < done.index("alone and 0")


@pytest.mark.parametrize("statements", [False, True])
def test_nobody_is_overtaken_by_a_fast_one(statements: bool) -> None:
    """One that leaves and enters again at once, before anybody else could run, stands at the end of the line."""
    line = Line(1)
    fast = Ticket()
    assert line.enter(fast)
    crew = Crew(line)
    crew.enters("slow", statements=False)
    for _ in range(3):
        line.leave(fast)
        fast = commit() if statements else Ticket()
        assert line.enter(fast)
        crew.done.append("fast")
        if len(crew.done) == 2:
            crew.enters("another", statements=False)
    line.leave(fast)
    assert crew.ends() == ["slow and 0", "fast", "another and 0", "fast", "fast"]


def test_as_many_are_inside_as_there_are_places() -> None:
    line = Line(2)
    first, second = Ticket(), Ticket()
    assert line.enter(first)
    thread = threading.Thread(target=line.enter, args=[second])
    thread.start()
    thread.join()
    crew = Crew(line)
    crew.enters("a", statements=True)
    assert crew.done == []
    line.leave(second)
    assert line._inside[1] is not second
    line.leave(first)
    assert crew.ends() == ["a and 0"]


def test_what_a_stopped_leader_has_not_settled_is_settled_by_the_next() -> None:
    stopped = []

    def stop(ticket: Ticket) -> None:
        stopped.append(ticket)
        if len(stopped) == 2:
            raise Interrupted
        settle(ticket)

    with taken(Line(1)) as crew:
        crew.enters("a", statements=True, work=stop)
        for name in "bcd":
            crew.enters(name, statements=True)
    done = crew.ends()
    assert done[:3] == ["a and 3", "a stopped", "b and 2"]
    assert sorted(done[3:]) == ["c settled", "d settled"]


def test_who_is_stopped_in_line_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = threading.Event()

    def stop(self: Line, mine: Ticket) -> bool:
        if not stopped.is_set():
            stopped.set()
            raise Interrupted
        return self._come(mine)

    monkeypatch.setattr(module, "PATIENCE", 0.01)
    monkeypatch.setattr(Line, "_look_around", stop)
    with taken(Line(1)) as crew:
        crew.enters("a", statements=True)
        stopped.wait()
        while crew.line._waiting:
            time.sleep(0.001)
        crew.enters("b", statements=True)
    assert crew.ends() == ["a stopped", "b and 0"]


def test_a_thread_that_is_inside_does_not_wait_for_itself() -> None:
    """A signal handler, in the midst of what it interrupts."""
    line, mine, handlers = Line(1), commit(), commit()
    assert line.enter(mine)
    assert line.enter(handlers)
    line.leave(handlers)
    assert line._inside == [mine]
    line.leave(mine)
    assert line._inside == []


def test_a_thread_with_the_lock_does_not_wait_either() -> None:
    """A finalizer, in the midst of entering and leaving: others need the lock to leave."""
    line, finalizers = Line(1), Ticket()
    with taken(line):

        def step(mine: Ticket) -> bool:
            return line.enter(finalizers)

        thread = threading.Thread(target=line._locked, args=[step, Ticket()])
        thread.start()
        thread.join()
        line.leave(finalizers)


@pytest.mark.parametrize("taken_along", [False, True])
def test_who_was_forgotten_looks_around(monkeypatch: pytest.MonkeyPatch, taken_along: bool) -> None:
    """Ctrl-C came in the midst of `leave`, before the next one was called."""
    monkeypatch.setattr(module, "PATIENCE", 0.01)
    line, mine = Line(1), commit()
    assert line.enter(mine)
    crew = Crew(line)
    crew.enters("a", statements=True)
    with line._lock:
        if taken_along:
            line._take_along(mine)
        line._inside.remove(mine)
    assert crew.ends() == ["a and 0"]
