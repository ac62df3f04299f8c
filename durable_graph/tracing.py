"""OpenTelemetry: spans and metrics of runs, for whoever has configured it. Off until `instrument()` is called.

    span            one for each                            attributes, ours under durable_graph.*
    run <graph>     call of stream, invoke ...              graph.name, thread.id, run.id, run.kind, run.status,
                    (update <graph>: of update_state)       step.first, step.last
    superstep       superstep                               superstep, superstep.tasks
    task <node>     attempt of a task                       node.name, task.id, task.attempt, task.cached,
    call <task>     attempt of a call of a @task            task.outcome

A span of what failed has the status ERROR, `error.type`, and the exception as an event, with its text and traceback;
nothing else of what nodes take or give is in a span or metric. A question or a wait is no error: the task's outcome is
"interrupted". A call is a child of its task, a subgraph's run one of the task that called it, a run one of whatever
span its caller is in. In a node, sync, async or in a thread, the task's span is the current one.

With tracing on, the first row of each run also holds its span's `traceparent` (W3C). So the run that goes on after a
break, a crash or a week, in whatever process, links to the span of the one before, and traces follow a thread.

    metric                           kind                              attributes
    durable_graph.steps              counter of committed rows         graph.name, step.kind
    durable_graph.active_runs        runs that this process drives     graph.name
    durable_graph.run.duration       histogram, s                      graph.name, run.status; error.type
    durable_graph.task.duration      histogram, s: attempts            graph.name, node.name; error.type
    db.client.operation.duration     histogram, s: saving rows         db.system.name, db.operation.name, error.type
    durable_graph.commit.batch_size  histogram: who shared a commit
    durable_graph.waiting_threads    gauge, of the databases that      database, thread.status
                                     `instrument` was given, asked
                                     when metrics are collected
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from durable_graph import watch
from durable_graph.errors import CallError
from durable_graph.log import Log
from durable_graph.store import line

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider


def instrument(
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    *,
    databases: Iterable[Log] = (),
) -> None:
    """Make spans and metrics of all runs that begin from now on, in this process.

    tracer_provider, meter_provider: instead of OpenTelemetry's global ones. databases: graphs or logs whose waiting
        threads are counted whenever metrics are collected; close them after `uninstrument()`.

    Called again, it replaces what was configured before. Raises CallError without `pip install "durable-graph[otel]"`.
    """
    try:
        from durable_graph.meters import Meters
        from durable_graph.spans import Spans
    except ImportError as error:
        raise CallError(
            problem=f"there is nothing to trace with, since OpenTelemetry cannot be imported ({error})",
            fix='Run: pip install "durable-graph[otel]", and configure an SDK.',
        ) from error
    uninstrument()
    meters = Meters(meter_provider, tuple(databases))
    line.shared = meters.committed
    watch.makers = (Spans(tracer_provider), meters)


def uninstrument() -> None:
    """Stop that. Runs that are under way keep their spans until they end."""
    for maker in watch.makers:
        getattr(maker, "close", lambda: None)()
    watch.makers = ()
    line.shared = None
