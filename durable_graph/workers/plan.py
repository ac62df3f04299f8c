"""What a worker has been told: whose runs, from which queues, how many at a time; and that it has to stop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from durable_graph.compiled import CompiledGraph


class Stopping:
    """Set by anybody, from any thread or signal handler: no new run begins, those under way end after their step."""

    def __init__(self) -> None:
        self._is_set = False  # no lock: a signal handler may come in the midst of another
        self._calls: list[Callable[[], object]] = []

    def set(self) -> None:
        """Once more does nothing."""
        if not self._is_set:
            self._is_set = True
            for call in list(self._calls):
                with suppress(RuntimeError):  # the loop of a worker that has ended
                    call()

    def is_set(self) -> bool:
        return self._is_set

    def tell(self, call: Callable[[], object]) -> None:
        """Have this called when it is set; at once, if it is."""
        self._calls.append(call)
        if self._is_set:
            call()


class Turn(NamedTuple):
    """What came of going on with a thread."""

    status: str  # of the thread now; "" if there is none
    again: datetime | None  # when to come back, in the year 9999 to one that waits for a signal alone; None: it is done
    unable: bool  # it cannot go on, for a reason that has been logged
    where: str = ""  # procrastinate's queue to come back from; "": the same


Tell = Callable[[str, str, Turn], None]


@dataclass(frozen=True, slots=True)
class Queue:
    """One queue of one graph."""

    graph: CompiledGraph[Any]
    name: str
    limit: int  # runs of it at a time


@dataclass(frozen=True, slots=True)
class Plan:
    queues: Sequence[Queue]
    context: Any
    wait: bool
    poll: float  # seconds
    heartbeat: float  # seconds
    stopping: Stopping
    tell: Tell
