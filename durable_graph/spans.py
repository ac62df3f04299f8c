"""Spans of a run, its supersteps and its tasks. What they are called and hold is told in `tracing.py`.

The rule: a run's span is nobody's current span, as a generator shares its context with whoever reads it. A task's is,
for as long as the task's own code runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, StatusCode, Tracer, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from durable_graph.core.effects import Ask, Effect, Emit, Job, Next, Recorded
from durable_graph.core.position import Position
from durable_graph.core.rows import status_of
from durable_graph.core.run import Run
from durable_graph.core.task import Steps
from durable_graph.errors import GraphBubbleUp, ParentCommand
from durable_graph.store import Store

OURS = "durable_graph."
TRACE = "traceparent"  # in the first row of a run, and in W3C's header
_w3c = TraceContextTextMapPropagator()


class Spans:
    """Makes the watcher of each run."""

    def __init__(self, provider: TracerProvider | None) -> None:
        self._tracer = trace.get_tracer("durable_graph", tracer_provider=provider)

    def __call__(self, run: Run, store: Store | None) -> RunSpans:
        return RunSpans(run, self._tracer)


class RunSpans:
    """The spans of one run."""

    def __init__(self, run: Run, tracer: Tracer) -> None:
        self._run = run
        self._tracer = tracer
        self._span = tracer.start_span(
            f"{'update' if run.call.updates else 'run'} {run.graph.name}", attributes=_of_run(run)
        )
        self._context = trace.set_span_in_context(self._span)
        self._superstep: Span | None = None
        self._number = -1  # of that superstep
        self._has_begun = False
        self._calling: dict[Job, Context] = {}  # of the jobs at work: what they call is below them
        _keep_trace(run, self._context)

    # --- what goes by -------------------------------------------------------------------------

    def asked(self, effect: Effect) -> None:
        if isinstance(effect, Next) and effect.jobs:
            tasks = [job for job in effect.jobs if job.parent is None]
            above = self._within(len(tasks)) if tasks and self._has_begun else self._context
            for job in effect.jobs:
                self._trace(job, above if job.parent is None else self._calling.get(job.parent, above))
        elif isinstance(effect, Emit) and isinstance(effect.what, Recorded):
            self._recorded(effect.what)

    def answered(self, effect: Effect, answer: Any) -> None:
        if isinstance(effect, Ask) and isinstance(answer, Position):
            self._link(answer)

    def _recorded(self, recorded: Recorded) -> None:
        """A row is durable, and about to be shown: so what the consumer does with it takes no time here."""
        if not self._has_begun:
            self._has_begun = True
            self._span.set_attributes({OURS + "step.first": recorded.row.step, OURS + "run.kind": recorded.row.kind})
        if recorded.barrier:
            self._close_superstep()

    def failed(self, effect: Effect, error: BaseException) -> None:
        pass

    def ended(self, error: BaseException | None) -> None:
        self._close_superstep(error)
        if error is not None:
            _note(self._span, error)
        if self._has_begun:
            position = self._run.position
            self._span.set_attributes({OURS + "run.status": status_of(position), OURS + "step.last": position.step})
        self._span.end()

    # --- supersteps ---------------------------------------------------------------------------

    def _within(self, tasks: int) -> Context:
        number = self._run.position.superstep + 1
        if self._superstep is None or self._number != number:
            self._close_superstep()
            facts = {OURS + "superstep": number, OURS + "superstep.tasks": tasks}
            self._superstep = self._tracer.start_span("superstep", self._context, attributes=facts)
            self._number = number
        return trace.set_span_in_context(self._superstep)

    def _close_superstep(self, error: BaseException | None = None) -> None:
        if self._superstep is None:
            return
        if error is not None:
            _note(self._superstep, error, event=False)
        self._superstep.end()
        self._superstep = None

    # --- tasks --------------------------------------------------------------------------------

    def _trace(self, job: Job, above: Context) -> None:
        job.steps, job.stays = self._traced(job, job.steps, above), True

    def _traced(self, job: Job, steps: Steps, above: Context) -> Steps:
        """The job, with its span as the current one. Runs where the job runs."""
        what = "task" if job.parent is None else "call"
        span = self._tracer.start_span(f"{what} {job.task.node}", above, attributes=_of_job(job))
        here = trace.set_span_in_context(span)
        token: Any = context.attach(here)
        self._calling[job] = here
        self._trace_calls(job, here)
        try:
            result = yield from steps
            span.set_attribute(OURS + "task.outcome", "done")
            return result
        except GeneratorExit:
            token = None  # it was dropped, maybe elsewhere
            raise
        except BaseException as error:
            span.set_attribute(OURS + "task.outcome", _outcome(error))
            _note(span, error)
            raise
        finally:
            self._calling.pop(job, None)
            if token is not None:
                context.detach(token)
            if job.cached:
                span.set_attribute(OURS + "task.cached", True)
            span.end()

    def _trace_calls(self, job: Job, here: Context) -> None:
        spawn = getattr(job, "spawn", None)
        if spawn is not None:

            def traced(call: Job) -> Any:
                self._trace(call, here)
                return spawn(call)

            job.spawn = traced

    # --- over breaks --------------------------------------------------------------------------

    def _link(self, position: Position) -> None:
        """To the run before this one on the same thread."""
        before = position.run.get(TRACE)
        if isinstance(before, str):
            linked = trace.get_current_span(_w3c.extract({TRACE: before}, Context())).get_span_context()
            if linked.is_valid:
                self._span.add_link(linked, {OURS + "run.id": position.run_id})


def _keep_trace(run: Run, here: Context) -> None:
    """In the run's first row, for the run after it."""
    carrier: dict[str, str] = {}
    _w3c.inject(carrier, here)
    if TRACE in carrier:
        run.call = replace(run.call, recorded={**run.call.recorded, TRACE: carrier[TRACE]})


def _of_run(run: Run) -> Mapping[str, str]:
    return {
        OURS + "graph.name": run.graph.name,
        OURS + "thread.id": run.call.thread_id,
        OURS + "run.id": run.call.run_id,
    }


def _of_job(job: Job) -> Mapping[str, str | int]:
    return {OURS + "node.name": job.task.node, OURS + "task.id": job.task.id, OURS + "task.attempt": job.attempt}


def _outcome(error: BaseException) -> str:
    """To ask, to wait, to tell the graph above or to be cancelled is not to fail."""
    if isinstance(error, GraphBubbleUp):
        return "done" if isinstance(error, ParentCommand) else "interrupted"
    return "failed" if isinstance(error, Exception) else "cancelled"


def _note(span: Span, error: BaseException, event: bool = True) -> None:
    if _outcome(error) != "failed":
        return
    kind = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
    span.set_attribute("error.type", kind)
    span.set_status(StatusCode.ERROR, kind)
    if event:
        span.record_exception(error)
