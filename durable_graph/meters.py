"""Metrics of runs. What they are called is told in `tracing.py`."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation

from durable_graph.core.effects import Effect, Finished, Next, Save
from durable_graph.core.rows import status_of
from durable_graph.core.run import Run
from durable_graph.errors import GraphBubbleUp
from durable_graph.log import Log
from durable_graph.store import Store

OURS = "durable_graph."
COMMITS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0)  # seconds
TASKS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0, 300.0, 1800.0)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
WAITING = ("waiting", "interrupted")

clock: Callable[[], float] = time.perf_counter


class Meters:
    """The instruments, and the maker of each run's watcher."""

    def __init__(self, provider: MeterProvider | None, databases: Sequence[Log]) -> None:
        meter = metrics.get_meter("durable_graph", meter_provider=provider)
        self.steps = meter.create_counter(OURS + "steps", "{row}", "Rows that were committed.")
        self.active = meter.create_up_down_counter(OURS + "active_runs", "{run}", "Runs that this process drives.")
        self.runs = meter.create_histogram(
            OURS + "run.duration", "s", "How long runs took.", explicit_bucket_boundaries_advisory=TASKS
        )
        self.tasks = meter.create_histogram(
            OURS + "task.duration", "s", "How long attempts of tasks took.", explicit_bucket_boundaries_advisory=TASKS
        )
        self.saves = meter.create_histogram(
            "db.client.operation.duration", "s", "How long saving took.", explicit_bucket_boundaries_advisory=COMMITS
        )
        self._batches = meter.create_histogram(
            OURS + "commit.batch_size", "{thread}", "Who shared a commit.", explicit_bucket_boundaries_advisory=BATCHES
        )
        self._databases = databases
        if databases:
            meter.create_observable_gauge(
                OURS + "waiting_threads", [self._waiting], "{thread}", "Threads that wait for somebody or something."
            )

    def __call__(self, run: Run, store: Store | None) -> RunMeters:
        return RunMeters(self, run, store)

    def close(self) -> None:
        self._databases = ()

    def committed(self, batch: int) -> None:
        """So many threads' rows are durable, in one commit."""
        self._batches.record(batch)

    def _waiting(self, options: CallbackOptions) -> Iterable[Observation]:
        for database in self._databases:
            name = database._stored().name
            found = Counter(dict.fromkeys(WAITING, 0))
            found.update(thread.status for thread in database.threads(status=WAITING))
            for status, count in found.items():
                yield Observation(count, {OURS + "database": name, OURS + "thread.status": status})


class RunMeters:
    """Counts what one run does."""

    def __init__(self, meters: Meters, run: Run, store: Store | None) -> None:
        self._meters, self._run = meters, run
        self._graph = {OURS + "graph.name": run.graph.name}
        self._database = {"db.system.name": _system(store), "db.operation.name": "append"}
        self._began = self._asked = clock()
        meters.active.add(1, self._graph)

    def asked(self, effect: Effect) -> None:
        if isinstance(effect, Save):
            self._asked = clock()

    def answered(self, effect: Effect, answer: Any) -> None:
        if isinstance(effect, Save):
            self._meters.saves.record(clock() - self._asked, self._database)
            for row in effect.rows:
                self._meters.steps.add(1, {**self._graph, OURS + "step.kind": row.kind})
        elif isinstance(effect, Next):
            for item in answer:
                if isinstance(item, Finished):
                    self._finished(item)

    def _finished(self, item: Finished) -> None:
        facts = {**self._graph, OURS + "node.name": item.job.task.node, **_kind_of(item.error)}
        self._meters.tasks.record(max(item.finished - item.started, 0.0), facts)

    def failed(self, effect: Effect, error: BaseException) -> None:
        if isinstance(effect, Save):
            self._meters.saves.record(clock() - self._asked, {**self._database, **_kind_of(error)})

    def ended(self, error: BaseException | None) -> None:
        self._meters.active.add(-1, self._graph)
        facts = {**self._graph, OURS + "run.status": status_of(self._run.position), **_kind_of(error)}
        self._meters.runs.record(clock() - self._began, facts)


def _kind_of(error: BaseException | None) -> Mapping[str, str]:
    if error is None or isinstance(error, GraphBubbleUp):
        return {}
    return {"error.type": f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")}


def _system(store: Store | None) -> str:
    """As OpenTelemetry names databases."""
    scheme = "" if store is None else store.name.partition(":")[0].partition("+")[0]
    return scheme if scheme in ("sqlite", "postgresql") else "other_sql"
