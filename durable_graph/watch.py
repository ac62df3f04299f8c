"""Who looks on as the effects of a run go by: nobody, unless it was asked for.

The rule: a watcher changes nothing of what a run does. Without one, a run is driven as it is and pays nothing for this
file but one look at its beginning. With one, each effect is shown to it before it is performed, and its answer after.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from durable_graph.core.effects import Effect, Emit, Recorded, Save
from durable_graph.core.rows import Effects, status_of
from durable_graph.core.run import Run
from durable_graph.store import Store

_log = logging.getLogger("durable_graph.run")


class Watcher(Protocol):
    def asked(self, effect: Effect) -> None:
        """This effect is about to be performed."""

    def answered(self, effect: Effect, answer: Any) -> None:
        """It was performed."""

    def failed(self, effect: Effect, error: BaseException) -> None:
        """It was not."""

    def ended(self, error: BaseException | None) -> None:
        """The run is over. `error`: what it raises."""


makers: tuple[Callable[[Run, Store | None], Watcher], ...] = ()  # `tracing` puts its own in


def watched(run: Run, store: Store | None) -> Effects:
    """The run's effects, and whoever watches them."""
    watchers: list[Watcher] = [make(run, store) for make in makers]
    if _log.isEnabledFor(logging.INFO):
        watchers.append(_Teller(run))
    return _shown(run.steps(), watchers) if watchers else run.steps()


def _shown(steps: Effects, watchers: Sequence[Watcher]) -> Effects:
    try:
        effect = next(steps)
        while True:
            for watcher in watchers:
                watcher.asked(effect)
            try:
                answer = yield effect
            except BaseException as error:
                for watcher in watchers:
                    watcher.failed(effect, error)
                effect = steps.throw(error)
            else:
                for watcher in watchers:
                    watcher.answered(effect, answer)
                effect = steps.send(answer)
    except StopIteration:
        for watcher in watchers:
            watcher.ended(None)
    except BaseException as error:
        for watcher in watchers:
            watcher.ended(error)
        raise


class _Teller:
    """Tells the logger "durable_graph.run" when a run begins and ends, and at DEBUG of each row. Never of the state."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._has_begun = False

    def answered(self, effect: Effect, answer: Any) -> None:
        pass

    def asked(self, effect: Effect) -> None:
        if isinstance(effect, Emit) and isinstance(effect.what, Recorded):
            if not self._has_begun:
                self._has_begun = True
                self._tell(logging.INFO, "run of graph %r began", self._run.graph.name)
            self._row(effect.what)

    def failed(self, effect: Effect, error: BaseException) -> None:
        if isinstance(effect, Save):
            self._tell(logging.INFO, "%d rows were not committed: %s", len(effect.rows), type(error).__name__)

    def ended(self, error: BaseException | None) -> None:
        if error is not None:
            self._tell(logging.INFO, "run ended with %s", type(error).__name__)
        elif self._has_begun:
            self._tell(logging.INFO, "run ended: the thread is %s", status_of(self._run.position))

    def _row(self, recorded: Recorded) -> None:
        if not _log.isEnabledFor(logging.DEBUG):
            return
        row, attempt = recorded.row, recorded.body.get("attempt", 1)
        what = f"{row.kind} of node {row.node!r}" if row.node else row.kind
        again = f", attempt {attempt}" if attempt > 1 else ""
        self._tell(logging.DEBUG, "%s%s", what, again, step=row.step, node=row.node)

    def _tell(self, level: int, words: str, *facts: Any, step: int | None = None, node: str | None = None) -> None:
        run = self._run
        step = run.position.step if step is None else step
        extra = {"thread_id": run.call.thread_id, "step": step, "run_id": run.call.run_id, "node": node}
        _log.log(level, f"thread %r, step %d: {words}", run.call.thread_id, step, *facts, extra=extra)
