"""OpenTelemetry: spans and metrics of runs, sync and async; a trace that follows a thread; off, nothing at all."""

import asyncio
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from graphs import WAYS, Calls, Runner, State, chain, new_thread, wide
from opentelemetry import context, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from durable_graph import (
    START,
    CachePolicy,
    CallError,
    Command,
    Log,
    RetryPolicy,
    StateGraph,
    interrupt,
    task,
    tracing,
    watch,
)
from durable_graph.store import line

OURS = "durable_graph."
SECRET = "nobody may see this"


class Traced:
    """What was exported."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        self._reader = InMemoryMetricReader()
        self.meters = MeterProvider([self._reader])

    def spans(self) -> list[ReadableSpan]:
        return sorted(self._exporter.get_finished_spans(), key=lambda span: span.start_time or 0)

    def names(self) -> Counter[str]:
        return Counter(span.name for span in self.spans())

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans() if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        (span,) = self.named(name)
        return span

    def clear(self) -> None:
        self._exporter.clear()

    def metrics(self) -> dict[str, list[Any]]:
        """Name -> its data points."""
        found: dict[str, list[Any]] = {}
        data = self._reader.get_metrics_data()
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    found[metric.name] = list(metric.data.data_points)
        return found


@pytest.fixture
def traced() -> Iterator[Traced]:
    found = Traced()
    tracing.instrument(found.tracers, found.meters)
    yield found
    tracing.uninstrument()
    found.tracers.shutdown()
    found.meters.shutdown()


@pytest.fixture(params=WAYS)
def run(request: pytest.FixtureRequest, database_url: str) -> Iterator[Runner]:
    with Runner(request.param, database_url) as runner:
        yield runner


def said(span: ReadableSpan, name: str) -> Any:
    return (span.attributes or {}).get(OURS + name)


def is_below(span: ReadableSpan, above: ReadableSpan) -> bool:
    assert above.context is not None
    return span.parent is not None and span.parent.span_id == above.context.span_id


def current() -> Any:
    return trace.get_current_span().get_span_context().span_id


# --- spans ------------------------------------------------------------------------------------


def test_a_run_its_supersteps_and_its_tasks(run: Runner, traced: Traced) -> None:
    graph, config = run.compile(chain(run, Calls(), "ab"), name="shop"), new_thread()
    run.invoke(graph, {"log": [SECRET]}, config)
    assert traced.names() == {"run shop": 1, "superstep": 2, "task a": 1, "task b": 1}
    whole = traced.one("run shop")
    facts = {
        "graph.name": "shop",
        "thread.id": config["configurable"]["thread_id"],
        "run.kind": "input",
        "run.status": "finished",
        "step.first": 0,
        "step.last": 2,
    }
    assert {name: said(whole, name) for name in facts} == facts
    assert whole.parent is None
    for number, (superstep, name) in enumerate(zip(traced.named("superstep"), "ab", strict=True), 1):
        assert is_below(superstep, whole)
        assert (said(superstep, "superstep"), said(superstep, "superstep.tasks")) == (number, 1)
        one = traced.one(f"task {name}")
        assert is_below(one, superstep)
        assert (said(one, "node.name"), said(one, "task.attempt"), said(one, "task.outcome")) == (name, 1, "done")
        assert said(one, "task.id")
    assert {span.status.status_code for span in traced.spans()} == {StatusCode.UNSET}
    assert SECRET not in "".join(span.to_json() for span in traced.spans())


def test_a_run_is_below_the_span_of_its_caller(run: Runner, traced: Traced) -> None:
    graph = run.compile(chain(run, Calls(), "a"), name="shop")
    with traced.tracers.get_tracer("app").start_as_current_span("request"):
        run.invoke(graph, {}, new_thread())
    assert is_below(traced.one("run shop"), traced.one("request"))


def test_in_a_node_its_span_is_the_current_one(run: Runner, traced: Traced) -> None:
    seen: dict[str, Any] = {}

    def look(name: str) -> Any:
        def node(state: State) -> State:
            seen[name] = current()
            with traced.tracers.get_tracer("app").start_as_current_span(f"query of {name}"):
                return {"log": [name]}

        return run.node(node)

    def router(state: State) -> str:
        seen["router"] = current()
        return "__end__"

    builder = StateGraph(State)
    for name in "abc":
        builder.add_node(name, look(name)).add_edge(START, name)
    builder.add_node("last", look("last")).add_edge(["a", "b", "c"], "last")
    builder.add_conditional_edges("last", run.node(router))
    seen["before"] = current()
    run.stream(run.compile(builder), {}, new_thread())
    seen["after"] = current()
    for name in ("a", "b", "c", "last"):
        one = traced.one(f"task {name}")
        assert one.context is not None
        assert seen[name] == one.context.span_id
        assert is_below(traced.one(f"query of {name}"), one)
    assert seen["router"] == seen["last"]
    assert seen["before"] == seen["after"] == 0
    first, second = traced.named("superstep")
    assert said(first, "superstep.tasks") == 3
    assert all(is_below(traced.one(f"task {name}"), first) for name in "abc")
    assert is_below(traced.one("task last"), second)


def test_between_events_the_consumer_is_in_its_own_span(run: Runner, traced: Traced) -> None:
    graph = run.compile(chain(run, Calls(), "abc"))
    with traced.tracers.get_tracer("app").start_as_current_span("request"):
        here = current()
        seen = []
        run.watch(lambda event: seen.append(current()), graph, {}, new_thread())
    assert len(set(seen)) == 1
    assert seen[0] == here or run.way != "sync"  # asyncio.run copies the context


def test_a_subgraph_is_below_the_task_that_calls_it(run: Runner, traced: Traced) -> None:
    inner = chain(run, Calls(), "x").compile(name="inner")
    outer = StateGraph(State).add_node("sub", inner).add_edge(START, "sub")
    run.invoke(run.compile(outer, name="outer"), {}, new_thread())
    assert is_below(traced.one("run inner"), traced.one("task sub"))
    assert {span.context.trace_id for span in traced.spans() if span.context} == {
        span.context.trace_id for span in traced.named("run outer") if span.context
    }
    (x,) = traced.named("task x")
    assert any(is_below(x, superstep) for superstep in traced.named("superstep"))


def test_calls_of_tasks_are_below_the_node(run: Runner, traced: Traced) -> None:
    tries = iter([True, False])

    @task(retry_policy=RetryPolicy(initial_interval=0, jitter=False))
    def double(n: int) -> int:
        if next(tries):
            raise ConnectionError("gone")
        return n * 2

    def node(state: State) -> State:
        return {"n": double(4).result()}

    async def anode(state: State) -> State:
        return {"n": await double(4)}

    builder = StateGraph(State).add_node("node", anode if run.way == "async" else node).add_edge(START, "node")
    assert run.invoke(run.compile(builder), {}, new_thread())["n"] == 8
    first, second = traced.named("call double")
    one = traced.one("task node")
    assert is_below(first, one)
    assert is_below(second, one)
    assert (said(first, "task.outcome"), said(second, "task.outcome")) == ("failed", "done")
    assert (said(first, "task.attempt"), said(second, "task.attempt")) == (1, 2)


def test_each_attempt_has_a_span(run: Runner, traced: Traced) -> None:
    builder = StateGraph(State)
    policy = RetryPolicy(initial_interval=0, jitter=False)
    builder.add_node("a", run.node(Calls().failing("a", 2, lambda: ConnectionError("gone"))), retry_policy=policy)
    run.invoke(run.compile(builder.add_edge(START, "a")), {}, new_thread())
    attempts = traced.named("task a")
    assert [said(span, "task.attempt") for span in attempts] == [1, 2, 3]
    assert [said(span, "task.outcome") for span in attempts] == ["failed", "failed", "done"]
    assert [span.status.status_code for span in attempts] == [StatusCode.ERROR, StatusCode.ERROR, StatusCode.UNSET]
    assert [span.attributes.get("error.type") for span in attempts if span.attributes] == ["ConnectionError"] * 2 + [
        None
    ]
    (event,) = attempts[0].events
    assert event.name == "exception"
    assert event.attributes is not None
    assert event.attributes["exception.message"] == "gone"
    assert traced.one("superstep").status.status_code is StatusCode.UNSET
    assert all(is_below(span, traced.one("superstep")) for span in attempts)


def test_a_failure_is_the_runs_as_well(run: Runner, traced: Traced) -> None:
    graph, config = run.compile(chain(run, Calls(), "ab", b=Calls().failing("b"))), new_thread()
    with pytest.raises(ValueError, match="b failed"):
        run.invoke(graph, {}, config)
    (whole,) = [span for span in traced.spans() if span.name.startswith("run ")]
    assert whole.status.status_code is StatusCode.ERROR
    assert whole.attributes is not None
    assert whole.attributes["error.type"] == "ValueError"
    assert said(whole, "run.status") == "failed"
    good, bad = traced.named("superstep")
    assert (good.status.status_code, bad.status.status_code) == (StatusCode.UNSET, StatusCode.ERROR)
    assert traced.one("task a").status.status_code is StatusCode.UNSET


def test_a_question_is_no_error_and_the_run_after_it_links_to_the_one_before(run: Runner, traced: Traced) -> None:
    def ask(state: State) -> State:
        return {"log": [interrupt(SECRET)]}

    builder = StateGraph(State).add_node("ask", run.node(ask)).add_edge(START, "ask")
    graph, config = run.compile(builder, name="shop"), new_thread()
    run.invoke(graph, {}, config)
    asked = traced.one("run shop")
    assert said(asked, "run.status") == "interrupted"
    assert said(traced.one("task ask"), "task.outcome") == "interrupted"
    assert {span.status.status_code for span in traced.spans()} == {StatusCode.UNSET}
    assert not asked.links
    traced.clear()
    run.invoke(graph, Command(resume=SECRET), config)
    answered = traced.one("run shop")
    (link,) = answered.links
    assert asked.context is not None
    assert link.context.span_id == asked.context.span_id
    assert link.context.trace_id == asked.context.trace_id
    assert link.attributes is not None
    assert link.attributes[OURS + "run.id"] == said(asked, "run.id")
    assert said(answered, "run.kind") == "resume"
    assert SECRET not in "".join(span.to_json() for span in traced.spans())
    assert not [span for span in traced.spans() if span.name != "run shop" and span.links]


def test_a_run_that_was_left_ends_its_spans(run: Runner, traced: Traced) -> None:
    graph, config = run.compile(chain(run, Calls(), "abc"), name="shop"), new_thread()
    run.first(1, graph, {}, config)
    assert traced.names() == {"run shop": 1, "superstep": 1, "task a": 1}
    left = traced.one("run shop")
    assert said(left, "run.status") == "pending"
    assert left.status.status_code is StatusCode.UNSET
    traced.clear()
    run.invoke(graph, None, config)
    assert traced.names() == {"run shop": 1, "superstep": 2, "task b": 1, "task c": 1}
    assert len(traced.one("run shop").links) == 1


def test_updates_and_cached_results(run: Runner, traced: Traced) -> None:
    builder = StateGraph(State)
    builder.add_node("a", run.node(Calls().node("a")), cache_policy=CachePolicy()).add_edge(START, "a")
    graph, config = run.compile(builder, name="shop", cache=True), new_thread()
    run.invoke(graph, {"n": 1}, config)
    run.invoke(graph, {"n": 1}, new_thread())
    assert [said(span, "task.cached") for span in traced.named("task a")] == [None, True]
    run.update_state(graph, config, {"n": 2})
    update = traced.one("update shop")
    assert said(update, "run.kind") == "update"
    assert len(update.links) == 1


def test_the_trace_is_kept_in_the_log_only_with_tracing_on(run: Runner, traced: Traced) -> None:
    graph, config = run.compile(chain(run, Calls(), "a")), new_thread()
    run.invoke(graph, {}, config)
    with Log(run.url) as log:
        (first, *_) = log._stored().rows(config["configurable"]["thread_id"])
    assert b"traceparent" in first.body
    assert all("traceparent" not in str(snapshot) for snapshot in run.history(graph, config))
    tracing.uninstrument()
    other = new_thread()
    run.invoke(graph, {}, other)
    with Log(run.url) as log:
        (first, *_) = log._stored().rows(other["configurable"]["thread_id"])
        assert log.verify(config).ok
    assert b"traceparent" not in first.body


def test_without_a_database(traced: Traced) -> None:
    with Runner("sync", False) as run:
        run.invoke(run.compile(chain(run, Calls(), "ab"), name="shop"), {})
    assert traced.names() == {"run shop": 1, "superstep": 2, "task a": 1, "task b": 1}
    assert said(traced.one("run shop"), "run.status") == "finished"


def test_a_cancelled_run_leaves_no_context_behind(traced: Traced, caplog: pytest.LogCaptureFixture) -> None:
    async def forever(state: State) -> State:
        asyncio.get_running_loop().call_soon(cancel)
        await asyncio.Event().wait()
        return {}

    def cancel() -> None:
        running.cancel()

    running: Any = None

    async def main() -> Any:
        nonlocal running
        builder = StateGraph(State).add_node("forever", forever).add_edge(START, "forever")
        running = asyncio.create_task(builder.compile(checkpointer=False).ainvoke({}))
        with suppress(asyncio.CancelledError):
            await running
        return context.get_current()

    assert not asyncio.run(main())
    assert said(traced.one("task forever"), "task.outcome") == "cancelled"
    assert not caplog.records  # OpenTelemetry would complain of a context that is not its own


# --- metrics ----------------------------------------------------------------------------------


def test_metrics_of_a_run(run: Runner, traced: Traced) -> None:
    graph = run.compile(wide(run, Calls(), "abc", b=Calls().failing("b")), name="shop")
    config = new_thread()
    with pytest.raises(ValueError, match="b failed"):
        run.invoke(graph, {}, config)
    run.invoke(graph, None, config)
    found = traced.metrics()
    steps = {point.attributes[OURS + "step.kind"]: point.value for point in found[OURS + "steps"]}
    assert steps == {"input": 1, "resume": 1, "task": 4, "error": 1}
    assert [(dict(point.attributes), point.value) for point in found[OURS + "active_runs"]] == [
        ({OURS + "graph.name": "shop"}, 0)
    ]
    assert {point.attributes[OURS + "run.status"]: point.count for point in found[OURS + "run.duration"]} == {
        "failed": 1,
        "finished": 1,
    }
    tasks = Counter[tuple[str, str | None]]()
    for point in found[OURS + "task.duration"]:
        tasks[point.attributes[OURS + "node.name"], point.attributes.get("error.type")] += point.count
    assert tasks == {("a", None): 1, ("b", None): 1, ("b", "ValueError"): 1, ("c", None): 1, ("end", None): 1}
    (saves,) = found["db.client.operation.duration"]
    assert saves.attributes["db.system.name"] == str(run.url).partition(":")[0].partition("+")[0]
    assert saves.attributes["db.operation.name"] == "append"
    assert saves.count >= 5
    (batches,) = found[OURS + "commit.batch_size"]
    assert batches.count >= saves.count - 1
    assert batches.min == 1


def test_threads_that_share_a_commit_are_counted(traced: Traced) -> None:
    one, places, results = line.Ticket("a", [("", ())]), line.Line(1), []
    assert places.enter(one)

    def wait(name: str) -> None:
        ticket = line.Ticket(name, [("", ())])
        results.append(places.enter(ticket))
        for each in (ticket, *ticket.company) if results[-1] else ():
            each.settle(None)
        places.leave(ticket)

    threads = [threading.Thread(target=wait, args=[name]) for name in "bc"]
    for thread in threads:
        thread.start()
    while len(places._waiting) < 2:
        threading.Event().wait(0.001)
    one.settle(None)
    places.leave(one)
    for thread in threads:
        thread.join()
    assert sorted(results) == [False, True]  # one of them has settled both
    (point,) = traced.metrics()[OURS + "commit.batch_size"]
    assert (point.count, point.sum, point.max) == (2, 3, 2)


def test_waiting_threads_are_counted_when_they_are_asked_for(run: Runner) -> None:
    def ask(state: State) -> State:
        return {"log": [interrupt("?")]}

    builder = StateGraph(State).add_node("ask", run.node(ask)).add_edge(START, "ask")
    graph, found = run.compile(builder), Traced()
    tracing.instrument(found.tracers, found.meters, databases=[graph])
    try:
        config = new_thread()
        for each in (config, new_thread()):
            run.invoke(graph, {}, each)
        assert waiting(found) == {"interrupted": 2, "waiting": 0}
        run.invoke(graph, Command(resume="yes"), config)
        assert waiting(found) == {"interrupted": 1, "waiting": 0}
    finally:
        tracing.uninstrument()
    assert waiting(found) == {}
    found.meters.shutdown()


def waiting(found: Traced) -> dict[str, int]:
    points = found.metrics().get(OURS + "waiting_threads", [])
    return {point.attributes[OURS + "thread.status"]: point.value for point in points}


# --- off --------------------------------------------------------------------------------------


def test_off_it_is_not_there(script: Any) -> None:
    process = script(
        """if True:
            import sys
            from typing import TypedDict
            from durable_graph import START, StateGraph, tracing
            builder = StateGraph(TypedDict("S", {"n": int})).add_node("a", lambda state: {}).add_edge(START, "a")
            builder.compile(checkpointer=False).invoke({"n": 1})
            assert not [name for name in sys.modules if name.startswith("opentelemetry")]
            sys.modules["opentelemetry"] = None
            try:
                tracing.instrument()
            except Exception as error:
                print(type(error).__name__, error)
        """
    )
    out, errors = process.communicate(timeout=60)
    assert errors == ""
    assert out.startswith("CallError")
    assert 'pip install "durable-graph[otel]"' in out


def test_off_nothing_is_wrapped(traced: Traced) -> None:
    tracing.uninstrument()
    assert watch.makers == ()
    assert line.shared is None
    with Runner("sync", False) as run:
        graph = run.compile(chain(run, Calls(), "a"))
        session = graph._session({}, None, "updates", {})
        steps = watch.watched(session._begin("owner"), None)
        assert steps.gi_code is type(session.run).steps.__code__  # the run's own generator
        steps.close()
        run.invoke(graph, {})
    assert traced.spans() == []


def test_what_is_configured_twice_counts_once(traced: Traced) -> None:
    again = Traced()
    tracing.instrument(again.tracers, again.meters)
    with Runner("sync", False) as run:
        run.invoke(run.compile(chain(run, Calls(), "a")), {})
    assert traced.spans() == []
    assert len(again.spans()) == 3
    again.meters.shutdown()


def test_without_an_sdk_nothing_is_recorded_and_runs_go_on(tmp_path: Path) -> None:
    code = """if True:
        import sys
        from typing import TypedDict
        from durable_graph import START, StateGraph, tracing
        tracing.instrument()
        builder = StateGraph(TypedDict("S", {"n": int})).add_node("a", lambda state: {}).add_edge(START, "a")
        with builder.compile(f"sqlite:///{sys.argv[1]}/a.db") as graph:
            graph.invoke({"n": 1}, {"thread_id": "t"})
            (first, *_) = graph._stored().rows("t")
            assert b"traceparent" not in first.body
    """
    subprocess.run([sys.executable, "-W", "error", "-c", code, str(tmp_path)], check=True)


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "durable_graph.spans", None)
    with pytest.raises(CallError, match=r"durable-graph\[otel\]"):
        tracing.instrument()
