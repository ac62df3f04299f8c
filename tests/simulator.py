"""The third driver: it performs a run's effects on a MemoryStore and dies at the effect it is told to.

To die means: nothing more is performed, not even giving back the lease, and what was in memory is gone. What the
store has committed stays. This is how `tests/test_crashes.py` crashes at every effect of a graph.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from durable_graph.core.effects import Ask, Cancel, Emit, Finished, Job, Next, Now, Rest, Save, Sent
from durable_graph.core.projection import Emission
from durable_graph.core.rows import Effects
from durable_graph.drivers import run_job
from durable_graph.store import Store


class Died(Exception):
    """The simulated process is gone."""


class Simulator:
    """Drives one run. Deterministic: the order in which parallel tasks finish comes from `seed`.

    die_at: the number of the effect to die at; before=True dies before it is performed, else after.
    `count` is the number of effects performed so far.
    """

    def __init__(
        self,
        store: Store,
        seed: int = 0,
        die_at: int | None = None,
        before: bool = True,
        stop_after: int | None = None,
    ) -> None:
        self.store = store
        self.random = random.Random(seed)
        self.die_at = die_at
        self.before = before
        self.stop_after = stop_after  # the consumer goes away after so many emissions
        self.count = 0
        self.time = 1_700_000_000.0
        self.waiting: list[Job] = []
        self.seen: list[Emission] = []

    def drive(self, effects: Effects, watch: Callable[[Emission], None] = lambda it: None) -> None:
        answer: Any = None
        failure: BaseException | None = None
        while True:
            try:
                effect = effects.send(answer) if failure is None else effects.throw(failure)
            except StopIteration:
                return
            answer = failure = None
            dies = self.count == self.die_at
            self.count += 1
            if dies and self.before:
                raise Died
            try:
                answer = self._perform(effect, watch)
            except Exception as error:
                failure = error
            if dies:
                raise Died

    def _perform(self, effect: Any, watch: Callable[[Emission], None]) -> Any:
        match effect:
            case Now():
                self.time += 1
                return self.time
            case Ask(call):
                return call(self.store)
            case Save(rows, claim, snapshot, taken):
                return self.store.append(rows, claim=claim, snapshot=snapshot, taken=taken)
            case Emit(what):
                return self._emit(what, watch)
            case Next(jobs):
                self.waiting += jobs
                return self._next()
            case Rest(seconds):
                self.time += seconds
            case Cancel(jobs):
                cancelled, self.waiting = [*self.waiting, *jobs], []
                return cancelled
        return None

    def _emit(self, what: Emission, watch: Callable[[Emission], None]) -> bool:
        if self.stop_after is not None and len(self.seen) >= self.stop_after:
            return True
        self.seen.append(what)
        watch(what)
        return self.stop_after is not None and len(self.seen) >= self.stop_after

    def _next(self) -> list[Sent | Finished]:
        """One or several jobs finish, in any order."""
        number = self.random.randint(1, len(self.waiting))
        self.random.shuffle(self.waiting)
        items: list[Sent | Finished] = []
        for job in self.waiting[:number]:
            job.tell = items.append
            items.append(run_job(job))
        self.waiting = self.waiting[number:]
        return items
