"""Who may use a database's connections now, and who commits for whom.

The rule: the threads of a process stand in one line for a few places, one for each connection. Whoever gets a place
commits for all that stand in line by then, so that many share one commit; and a free place goes to the first in line,
so that nobody is overtaken. Somebody in line may also want a connection for itself.

    Ticket    statements to be committed together, or none: then its owner wants the place alone
    Line      enter: wait for a place, or until somebody else has settled the ticket
              leave: give the place to the first in line, and tell those whose tickets are settled

A lone thread never waits: it adds its ticket to an empty list, and takes it out again.

Ctrl-C may come anywhere, and stops one thread only. So who has a place is written in the list of those inside, from
which `leave` takes it, however far it had come; and who waits looks around every now and then (PATIENCE), should the
one that was about to rouse it have been stopped.

Who waits holds no lock, and whose ticket was settled takes none: a thread that got a lock and then has to wait for the
interpreter would stop all others.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue

from durable_graph.store.texts import Bound

PATIENCE = 1.0  # seconds

shared: Callable[[int], None] | None = None  # wants to know of each commit how many tickets it has settled


class Ticket:
    """What somebody wants: these statements about a thread committed, all of them or none."""

    __slots__ = ("bell", "company", "error", "leader", "owner", "refused", "settled", "statements", "thread_id")

    bell: SimpleQueue[None]  # of a ticket in line: rung when it has a place, or is settled

    def __init__(self, thread_id: str = "", statements: Sequence[Bound] = ()) -> None:
        self.thread_id = thread_id
        self.statements = statements
        self.owner = threading.get_ident()
        self.leader: Ticket | None = None  # who settles it, if not its owner
        self.company: Sequence[Ticket] = ()  # those that it leads
        self.settled = False
        self.refused: int | None = None  # settled: the statement that changed no row, because of which none counts
        self.error: BaseException | None = None  # settled: why it failed

    def settle(self, refused: int | None) -> None:
        self.refused = refused
        self.settled = True

    def fail(self, error: BaseException) -> None:
        if not self.settled:
            self.error = error
            self.settled = True


class Line:
    def __init__(self, places: int) -> None:
        self._places = places
        self._inside: list[Ticket] = []
        self._waiting: deque[Ticket] = deque()
        self._lock = threading.RLock()  # re-entrant: a signal handler or a finalizer may run in the midst of anything
        self._depth = 0  # how often the thread that has it has taken it

    def enter(self, mine: Ticket) -> bool:
        """Wait for a place: then True, and this ticket and its company are to be settled. False: somebody else has
        settled it. Whatever happens, `leave` has to follow."""
        if self._locked(self._admit, mine):
            return True
        while True:
            step = self._come if _rung(mine.bell) else self._look_around
            if mine.settled:
                return False
            if self._locked(step, mine):
                return True

    def leave(self, mine: Ticket) -> None:
        """What is not settled by now goes back in line: this thread was stopped."""
        if mine.settled and mine.leader is not None:
            return  # somebody else has settled it, so it has no place
        self._locked(self._go, mine)
        if shared is not None and mine.settled:
            shared(1 + len(mine.company))
        for ticket in mine.company:
            if ticket.settled:
                ticket.bell.put(None)

    def _locked(self, step: Callable[[Ticket], bool], mine: Ticket) -> bool:
        with self._lock:
            self._depth += 1
            try:
                return step(mine)
            finally:
                self._depth -= 1

    # What follows is called with the lock.

    def _admit(self, mine: Ticket) -> bool:
        if len(self._inside) < self._places or self._is_nested(mine.owner):
            self._inside.append(mine)
            return True
        mine.bell = SimpleQueue()
        self._waiting.append(mine)
        return False

    def _is_nested(self, me: int) -> bool:
        """Whether this is a signal handler or a finalizer that met its thread inside, or with the lock. To wait would
        be to wait for itself."""
        return self._depth > 1 or any(ticket.owner == me for ticket in self._inside)

    def _come(self, mine: Ticket) -> bool:
        if mine not in self._inside:
            return False
        if mine.statements and self._waiting:
            self._take_along(mine)
        return True

    def _go(self, mine: Ticket) -> bool:
        if mine in self._inside:
            self._inside.remove(mine)
        elif mine in self._waiting:
            self._waiting.remove(mine)
        for ticket in reversed(mine.company):
            if not ticket.settled:
                ticket.leader = None
                self._waiting.appendleft(ticket)
        if self._waiting:
            self._call()
        return True

    def _look_around(self, mine: Ticket) -> bool:
        led = mine.leader is not None and mine.leader in self._inside
        if not (led or mine.settled or mine in self._inside or mine in self._waiting):
            mine.leader = None
            self._waiting.appendleft(mine)
        self._call()
        return self._come(mine)

    def _take_along(self, mine: Ticket) -> None:
        company = [ticket for ticket in self._waiting if ticket.statements]
        for ticket in company:
            ticket.leader = mine
        mine.company = company
        self._waiting = deque(ticket for ticket in self._waiting if not ticket.statements)

    def _call(self) -> None:
        """Free places go to the first in line."""
        while self._waiting and len(self._inside) < self._places:
            first = self._waiting.popleft()
            self._inside.append(first)
            first.bell.put(None)


def _rung(bell: SimpleQueue[None]) -> bool:
    try:
        bell.get(timeout=PATIENCE)
    except Empty:
        return False
    return True
