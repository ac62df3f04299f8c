"""Threads that do the work of a superstep, made as they are needed.

The rule: work that is taken rouses one more thread if some is left, and never two at once. So tasks that take a
moment are done by one thread in a row, without a switch between threads for each of them; and as soon as one of them
waits for something, the next thread goes on with the rest, and rouses the one after it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from queue import SimpleQueue

Work = Callable[[], object]


class Crew:
    """At most `size` threads, which live until `dismiss`."""

    def __init__(self, size: int, name: str) -> None:
        self._size = size
        self._name = name
        self._lock = threading.Lock()
        self._work: deque[Work] = deque()
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._bell: SimpleQueue[None] = SimpleQueue()  # one ring for each thread that is to wake
        self._rising = False  # a thread was roused and has not come yet
        self._dismissed = False

    def give(self, work: Iterable[Work]) -> None:
        """Have this done, in this order. It must not raise."""
        with self._lock:
            self._work.extend(work)
            self._rouse()

    def _rouse(self) -> None:
        if self._rising or not self._work:
            return
        if self._idle:
            self._idle -= 1
            self._bell.put(None)
        elif len(self._threads) < self._size:
            name = f"{self._name}_{len(self._threads)}"
            self._threads.append(threading.Thread(target=self._main, name=name))
            self._threads[-1].start()
        else:
            return
        self._rising = True

    def _main(self) -> None:
        while self._take_turns():
            self._bell.get()

    def _take_turns(self) -> bool:
        """Work until none is left. False: nor will there ever be."""
        risen = True
        while True:
            with self._lock:
                if risen:
                    self._rising = risen = False
                if not self._work:
                    self._idle += 1
                    return not self._dismissed
                work = self._work.popleft()
                self._rouse()
            work()

    def dismiss(self) -> None:
        """Forget what nobody has taken yet, and let the threads end."""
        with self._lock:
            self._work.clear()
            self._dismissed = True
            for _ in self._threads:
                self._bell.put(None)

    @property
    def gone(self) -> bool:
        """Whether all threads have ended. Never, before they are dismissed."""
        return not any(thread.is_alive() for thread in self._threads)

    def join(self) -> None:
        for thread in self._threads:
            thread.join()
