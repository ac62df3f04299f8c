"""Threads that do the work of a superstep, made as they are needed.

The rule: who takes work rouses one more thread if some is left, and never two at once. So tasks that take a moment
are done by one thread in a row, without a switch between threads for each of them; and as soon as one of them waits
for something, the next thread goes on with the rest, and rouses the one after it.

No lock is held by who takes work: a thread that waits for the interpreter while it holds one would stop all others.
What is shared is a deque or a flag, each step of which is atomic; the order of the steps is what counts.

They are daemons, as an iterator that is still open when the program ends must not keep it from ending. It does not cut
them short: `unfinished` closes that iterator, which dismisses them and waits.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from queue import SimpleQueue

Work = Callable[[], object]


class Crew:
    """At most `size` threads, which live until `dismiss`."""

    def __init__(self, size: int, name: str) -> None:
        self._size = size
        self._name = name
        self._work: deque[Work] = deque()
        self._threads: list[threading.Thread] = []
        self._growing = threading.Lock()
        self._asleep: deque[None] = deque()  # one for each thread that waits for the bell
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._rising = False  # a thread was roused and has not come yet
        self._dismissed = False

    def give(self, work: Iterable[Work]) -> None:
        """Have this done, in this order. It must not raise."""
        self._work.extend(work)
        if not self._rising:
            self._rouse()

    def _rouse(self) -> None:
        if _took(self._asleep):
            self._rising = True
            self._bell.put(None)
        elif len(self._threads) < self._size:
            with self._growing:
                if len(self._threads) < self._size:
                    self._rising = True
                    name = f"{self._name}_{len(self._threads)}"
                    self._threads.append(threading.Thread(target=self._main, name=name, daemon=True))
                    self._threads[-1].start()

    def _main(self) -> None:
        time.sleep(0)  # who has started us waited for that, with work in hand: let it go on first
        while not self._dismissed:
            self._rising = False  # before it looks for work: who gives some after that rouses another
            self._take_turns()
            self._asleep.append(None)  # before it looks once more: who gives some after that rings the bell
            if self._work and _took(self._asleep):
                continue
            self._bell.get()

    def _take_turns(self) -> None:
        """Work until none is left."""
        while True:
            try:
                work = self._work.popleft()
            except IndexError:
                return
            if self._work and not self._rising:
                self._rouse()
            work()

    def dismiss(self) -> None:
        """Forget what nobody has taken yet, and let the threads end."""
        self._dismissed = True
        self._work.clear()
        with self._growing:
            for _ in self._threads:
                self._bell.put(None)

    @property
    def gone(self) -> bool:
        """Whether all threads have ended. Never, before they are dismissed."""
        return not any(thread.is_alive() for thread in self._threads)

    def wait(self, seconds: float) -> None:
        """Until one of the threads has ended, but no longer than this."""
        working = next((thread for thread in self._threads if thread.is_alive()), None)
        if working is not None:
            working.join(seconds)

    def join(self) -> None:
        for thread in self._threads:
            thread.join()


def _took(tokens: deque[None]) -> bool:
    try:
        tokens.pop()
    except IndexError:
        return False
    return True
