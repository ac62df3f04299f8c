"""Who looks on as the effects of a run go by: nobody, unless it was asked for.

The rule: a watcher changes nothing of what a run does. Without one, a run is driven as it is and pays nothing for this
file but one look at its beginning. With one, each effect is shown to it before it is performed, and its answer after.
What runs tell `logging` is here, too: a run's beginning and end at INFO, each row at DEBUG.
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
    steps = run.steps()
    watchers: list[Watcher] = [make(run, store) for make in makers]
    if _log.isEnabledFor(logging.DEBUG):
        watchers.append(_Teller(run))
    if watchers:
        steps = _shown(steps, watchers)
    level = logging.DEBUG if run.call.task else logging.INFO  # a subgraph's run is a part of the one above
    return _told(run, steps, level) if _log.isEnabledFor(level) else steps


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


def _told(run: Run, steps: Effects, level: int) -> Effects:
    """Tells when the run begins and ends. Never of the state: an error is named, what it says is raised anyway."""
    _tell(run, level, None, "graph %r begins to run", run.graph.name)
    try:
        yield from steps
    except BaseException as error:
        _tell(run, level, run.position.step, "the run ended with %s", type(error).__name__)
        raise
    _tell(run, level, run.position.step, "the run ended, the thread is %s", status_of(run.position))


def _tell(run: Run, level: int, step: int | None, words: str, *facts: Any, node: str | None = None) -> None:
    extra = {"thread_id": run.call.thread_id, "step": step, "run_id": run.call.run_id, "node": node}
    where = "thread %r" if step is None else f"thread %r, step {step}"
    _log.log(level, f"{where}: {words}", run.call.thread_id, *facts, extra=extra)


class _Teller:
    """Tells of each row, once it is durable."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def asked(self, effect: Effect) -> None:
        if isinstance(effect, Emit) and isinstance(effect.what, Recorded):
            self._row(effect.what)

    def answered(self, effect: Effect, answer: Any) -> None:
        pass

    def failed(self, effect: Effect, error: BaseException) -> None:
        if isinstance(effect, Save):
            step, kind = effect.rows[0].step, type(error).__name__
            _tell(self._run, logging.DEBUG, step, "%d rows were not committed: %s", len(effect.rows), kind)

    def ended(self, error: BaseException | None) -> None:
        pass

    def _row(self, recorded: Recorded) -> None:
        row, attempt = recorded.row, recorded.body.get("attempt", 1)
        again = f", attempt {attempt}" if attempt > 1 else ""
        of = " of node %r" if row.node else ""
        facts = [row.kind, row.node] if row.node else [row.kind]
        _tell(self._run, logging.DEBUG, row.step, f"%s{of}{again}", *facts, node=row.node)
