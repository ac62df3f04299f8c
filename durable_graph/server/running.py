"""Runs: begun, waited for, streamed, joined and cancelled.

A client that goes away leaves its run alone, unless it asked for `on_disconnect: cancel`: it comes back with the id of
the last event that it has seen.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any
from urllib.parse import quote, urlencode

from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

import durable_graph
from durable_graph import CheckpointNotFoundError, Command, ThreadBusyError
from durable_graph.core.cursor import Address, Cursor, read_cursor
from durable_graph.core.projection import check_modes
from durable_graph.server import inside
from durable_graph.server.endpoints import EVENTS, Call, Endpoint
from durable_graph.server.events import sse
from durable_graph.server.house import Found, House
from durable_graph.server.plain import to_json
from durable_graph.server.problems import Problem, problem_of, told
from durable_graph.server.runs import LocalRun, Wanted
from durable_graph.server.shapes import (
    ANYTHING,
    CHECKPOINT,
    CHECKPOINT_ID,
    FLAG,
    ID,
    NUMBER,
    OBJECT,
    TEXT,
    TEXTS,
    either,
    fields,
    list_of,
    maybe,
    number,
    one_of,
    place_of,
)
from durable_graph.server.shown import run_of, selected, with_status
from durable_graph.server.streams import Stream, View

TAG = "runs"
CALLED = {"messages-tuple": "messages"}  # LangGraph's clients' names for modes -> ours
MISSING = {  # modes that those know and we do not have, and why
    "messages": "use 'messages-tuple'",
    "tools": "tools are not told of apart from messages and updates",
    "lifecycle": "use 'tasks' with stream_subgraphs",
    "state_update": "use 'values'",
}
UNSUPPORTED = {  # fields that mean something, which cannot be done here
    "webhook": "nobody is called; follow the thread instead",
    "after_seconds": "runs begin at once",
    "feedback_keys": "there is no feedback",
    "langsmith_tracer": "nothing is sent to a tracing service",
}
NODES = maybe(either(TEXT, TEXTS))
PACKET = fields(("node",), node=ID, input=ANYTHING)
COMMAND = fields(
    resume=ANYTHING, update=ANYTHING, goto=maybe(either(TEXT, PACKET, list_of(either(TEXT, PACKET)))), graph=maybe(TEXT)
)
CONFIG = {**OBJECT, "properties": {"configurable": maybe(OBJECT), "metadata": maybe(OBJECT)}}
RUN = fields(
    ("assistant_id",),
    assistant_id=ID,
    input=ANYTHING,
    command=maybe(COMMAND),
    stream_mode=either(TEXT, TEXTS),
    stream_subgraphs=FLAG,
    stream_resumable=FLAG,
    metadata=maybe(OBJECT),
    config=maybe(CONFIG),
    context=ANYTHING,
    checkpoint=maybe(CHECKPOINT),
    checkpoint_id=maybe(CHECKPOINT_ID),
    checkpoint_during=maybe(FLAG),
    interrupt_before=NODES,
    interrupt_after=NODES,
    multitask_strategy=maybe(one_of("reject", "interrupt", "rollback", "enqueue")),
    if_not_exists=maybe(one_of("create", "reject")),
    on_disconnect=maybe(one_of("cancel", "continue")),
    on_completion=maybe(one_of("delete", "keep")),
    durability=maybe(one_of("sync", "async", "exit")),
    strict_resume=maybe(FLAG),
    webhook=maybe(TEXT),
    after_seconds=maybe(NUMBER),
    feedback_keys=maybe(TEXTS),
    langsmith_tracer=maybe(OBJECT),
)
WITH_THREAD = {**RUN, "properties": {**RUN["properties"], "thread_id": maybe(ID)}}
STREAM_QUERY = {"stream_mode": TEXTS, "stream_subgraphs": FLAG, "cancel_on_disconnect": FLAG}
CANCEL = fields(thread_id=ID, run_ids=TEXTS, status=one_of("pending", "running", "all"))
ACTION = {"action": one_of("interrupt", "rollback")}


# --- what is asked for --------------------------------------------------------------------------


def modes_of(given: str | Sequence[str]) -> tuple[str, ...]:
    """Raises a problem 422 for modes that are not there."""
    names = [given] if isinstance(given, str) else given
    for name in names:
        if name in MISSING:
            raise Problem(422, f"stream_mode: {name!r} is not supported here; {MISSING[name]}.", field="stream_mode")
    return check_modes([CALLED.get(name, name) for name in names])


def _check(body: Mapping[str, Any]) -> None:
    for field, why in UNSUPPORTED.items():
        if body.get(field) is not None:
            raise Problem(422, f"{field}: this is not supported; {why}.", field=field)
    strategy = body.get("multitask_strategy") or "reject"
    if strategy != "reject":
        raise Problem(
            422,
            f"multitask_strategy: {strategy!r} is not supported; a second run on a thread is refused ('reject').",
            field="multitask_strategy",
        )


def _command(given: Mapping[str, Any]) -> Command[Any]:
    if given.get("graph"):
        raise Problem(422, "command.graph: this is not supported; it is for nodes of subgraphs.", field="command.graph")
    goto = given.get("goto") or ()
    targets = [goto] if isinstance(goto, str | dict) else goto
    aims = [each if isinstance(each, str) else durable_graph.Send(each["node"], each.get("input")) for each in targets]
    taken = {key: given[key] for key in ("resume", "update") if given.get(key) is not None}
    return Command(goto=aims, **taken)


def _config(call: Call, body: Mapping[str, Any], thread_id: str) -> dict[str, Any]:
    given = dict(body.get("config") or {})
    if given.get("callbacks") is not None:
        raise Problem(422, "config.callbacks: these are functions, which nobody can send.", field="config.callbacks")
    metadata = {**(given.get("metadata") or {}), **(body.get("metadata") or {})}
    if call.actor:
        metadata["actor"] = call.actor
    at = {"checkpoint_id": body.get("checkpoint_id"), **(body.get("checkpoint") or {})}
    given["configurable"] = {**(given.get("configurable") or {}), **place_of(at), "thread_id": thread_id}
    return {**given, "metadata": metadata}


async def _wanted(call: Call, body: Mapping[str, Any], thread_id: str | None) -> Wanted:
    house = call.house
    _check(body)
    graph_id, graph = house.graph(body["assistant_id"])
    modes = modes_of(body.get("stream_mode") or "values")
    if thread_id is None:
        thread_id = str(uuid.uuid4())
    elif body.get("if_not_exists") != "create":
        found = await house.thread(thread_id)
        if found.place != house.places[graph_id]:
            raise Problem(409, f"Thread {thread_id!r} is in another database than the graph {graph_id!r}.")
    command = body.get("command")
    options = {
        "context": body.get("context"),
        **{key: body[key] for key in ("interrupt_before", "interrupt_after") if body.get(key) is not None},
    }
    return Wanted(
        graph,
        house.places[graph_id],
        thread_id,
        _command(command) if command else body.get("input"),
        _config(call, body, thread_id),
        modes,
        body.get("stream_subgraphs", False),
        options,
    )


# --- begun --------------------------------------------------------------------------------------


async def create(call: Call) -> Any:
    run = await _begin(call, call.body)
    return Response(to_json(await _shown(call.house, run)), headers=_headers(run), media_type="application/json")


async def create_batch(call: Call) -> Any:
    """All are looked at before the first begins. What only shows when a run begins, as that its thread is busy, ends
    the batch; the answer names the runs that go on."""
    named = [body["thread_id"] for body in call.body if body.get("thread_id")]
    for thread_id in named:
        if named.count(thread_id) > 1:
            raise Problem(409, f"Two runs of this batch are on thread {thread_id!r}: none was begun.")
    wanted = [await _wanted(call, body, body.get("thread_id")) for body in call.body]
    begun: list[dict[str, Any]] = []
    for body, each in zip(call.body, wanted, strict=True):
        try:
            begun.append(await _shown(call.house, await _begun(call, body, each)))
        except Exception as error:
            problem = problem_of(error)
            problem.more["begun"] = begun
            raise problem from error
    return begun


async def _begin(call: Call, body: Mapping[str, Any]) -> LocalRun:
    return await _begun(call, body, await _wanted(call, body, call.path.get("thread_id")))


async def _begun(call: Call, body: Mapping[str, Any], wanted: Wanted) -> LocalRun:
    run, _ = await call.house.runs.begin(wanted)
    _tidy_up(call, body, run)
    return run


def _tidy_up(call: Call, body: Mapping[str, Any], run: LocalRun) -> None:
    """`on_completion: delete` of a run without a thread of its own."""
    if body.get("on_completion") == "delete" and "thread_id" not in call.path:
        call.house.runs.after(run, lambda: run.wanted.graph.adelete_thread(run.wanted.thread_id, actor=call.actor))


async def _shown(house: House, run: LocalRun) -> dict[str, Any]:
    found = await house.thread(run.wanted.thread_id)
    return await _run(house, found, run.run_id)


async def stream(call: Call) -> Any:
    body = call.body
    wanted = await _wanted(call, body, call.path.get("thread_id"))
    run, feed = await call.house.runs.begin(wanted, call.house.limits.room)
    _tidy_up(call, body, run)
    view = View(wanted.modes, wanted.subgraphs, run.run_id)
    cancels = body.get("on_disconnect") == "cancel"

    async def events() -> AsyncIterator[bytes]:
        async with call.house.hub.topic(wanted.place, wanted.graph, wanted.thread_id) as topic:
            yield sse("metadata", {"run_id": run.run_id, "attempt": 1})
            shown = Stream(call.house.ways, topic, view, Cursor(Address(run.first - 1)))
            async for data in shown.events(run.live, feed):
                yield data

    query = urlencode([*(("stream_mode", mode) for mode in wanted.modes), ("stream_subgraphs", wanted.subgraphs)])
    location = f"{_path(run)}/stream?{query}"
    return stream_of(call.house, run if cancels else None, events(), {**_headers(run), "location": location})


class _Answer(StreamingResponse):
    """With a run: it is cancelled if the client leaves before its end, or even before the answer has begun."""

    def __init__(self, house: House, run: LocalRun | None, content: AsyncIterator[bytes], **settings: Any) -> None:
        super().__init__(content, **settings)
        self._house, self._run = house, run

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            if self._run is not None and not self._house.hub.closing:
                self._run.cancel()

    async def stream_response(self, send: Send) -> None:
        """What is broken off has no end: that makes clients ask again, whatever has become of the run."""
        with suppress(_BrokenOff):
            await super().stream_response(send)


async def wait(call: Call) -> Any:
    run = await _begin(call, call.body)
    cancels = run if call.body.get("on_disconnect") == "cancel" else None

    async def result() -> Any:
        await run.done.wait()
        if call.house.hub.closing and run.cancelled:
            raise _BrokenOff
        if run.error is not None:
            return {"__error__": told(run.error)}
        if run.cancelled:
            return {"__error__": {"error": "Cancelled", "message": f"Run {run.run_id} was stopped before its end."}}
        return run.outcome()

    return _patiently(call, result, {**_headers(run), "location": f"{_path(run)}/join"}, cancels)


def _patiently(call: Call, result: Any, headers: Mapping[str, str], cancels: LocalRun | None = None) -> Response:
    """A JSON document that may take long: meanwhile line ends, which JSON allows, show that somebody is there."""

    async def body() -> AsyncIterator[bytes]:
        hub = call.house.hub
        task, closed = asyncio.ensure_future(result()), asyncio.ensure_future(hub.closed.wait())
        first, seconds = asyncio.FIRST_COMPLETED, call.house.limits.heartbeat
        try:
            while not (await asyncio.wait([task, closed], timeout=seconds, return_when=first))[0]:
                yield b"\n"
            if not task.done():
                raise _BrokenOff
            made = await task
            yield await call.house.offload(lambda: to_json(made))
        finally:
            task.cancel()
            closed.cancel()

    return _Answer(call.house, cancels, body(), headers=dict(headers), media_type="application/json")


class _BrokenOff(Exception):
    """The server ends before the answer does."""


def stream_of(
    house: House, cancels: LocalRun | None, events: AsyncIterator[bytes], headers: Mapping[str, str] | None = None
) -> Response:
    """Server-sent events, broken off if the server ends before they do. cancels: the run that ends with the answer."""

    async def breakable() -> AsyncIterator[bytes]:
        last = b""
        async for last in events:
            yield last
        if house.hub.closing and not last.startswith((b"event: end", b"event: error")):
            raise _BrokenOff

    quiet = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return _Answer(house, cancels, breakable(), headers={**quiet, **(headers or {})}, media_type=EVENTS)


def _path(run: LocalRun) -> str:
    return _path_of(run.wanted.thread_id, run.run_id)


def _path_of(thread_id: str, run_id: str) -> str:
    return f"/threads/{quote(thread_id, safe='')}/runs/{quote(run_id, safe='')}"


def _headers(run: LocalRun) -> dict[str, str]:
    return {"content-location": _path(run)}


# --- told of and joined -------------------------------------------------------------------------


async def list_runs(call: Call) -> Any:
    query = call.query
    found = await call.house.thread(call.path["thread_id"])
    graph_id = call.house.id_of(found.thread.graph)
    start, most = query.get("offset", 0), query.get("limit", 10)

    def read() -> list[dict[str, Any]]:
        runs = with_status(found.thread, inside.spans(found.graph, found.thread.thread_id))
        wanted = (pair for pair in runs if query.get("status") in (None, pair[1]))
        page = islice(wanted, start, start + most)
        return [selected(run_of(found.thread, graph_id, *pair), query.get("select")) for pair in page]

    return await call.house.offload(read)


async def get(call: Call) -> Any:
    found = await call.house.thread(call.path["thread_id"])
    return await _run(call.house, found, call.path["run_id"])


async def _run(house: House, found: Found, run_id: str) -> dict[str, Any]:
    span, status = await house.offload(lambda: _span(found, run_id))
    return run_of(found.thread, house.id_of(found.thread.graph), span, status)


def _span(found: Found, run_id: str) -> tuple[inside.Span, str]:
    """Blocks. Raises a problem 404."""
    for span, status in with_status(found.thread, inside.spans(found.graph, found.thread.thread_id)):
        if span.run_id == run_id:
            return span, status
    raise Problem(404, f"Thread {found.thread.thread_id!r} has no run {run_id!r}; GET its runs lists them.")


async def join(call: Call) -> Any:
    house = call.house
    found = await house.thread(call.path["thread_id"])
    run_id = call.path["run_id"]
    await house.offload(lambda: _span(found, run_id))

    async def result() -> Any:
        async with house.topic(found) as topic:
            shown = Stream(house.ways, topic, View(("updates",), run_id=run_id), await _before(house, found, run_id))
            last = b""
            async for data in shown.events():
                last = data
        if not last.startswith((b"event: error", b"event: end")):
            raise _BrokenOff
        if last.startswith(b"event: error"):
            raised = house.runs.error_of(run_id)
            error = told(raised) if raised else await house.offload(lambda: inside.failure(found.graph, run.thread_id))
            return {"__error__": error}
        state = await house.offload(lambda: found.graph.get_state({"thread_id": run.thread_id}))
        return {**state.values, **({"__interrupt__": state.interrupts} if state.interrupts else {})}

    run = found.thread
    return _patiently(call, result, {})


async def _before(house: House, found: Found, run_id: str) -> Cursor:
    """Where a run begins. Raises a problem 404 if it is none of this thread."""
    local = house.runs.find(run_id)
    if local is not None and local.wanted.thread_id == found.thread.thread_id:
        return Cursor(Address(local.first - 1))
    span, _ = await house.offload(lambda: _span(found, run_id))
    return Cursor(Address(span.first - 1))


async def join_stream(call: Call) -> Any:
    house, run_id = call.house, call.path["run_id"]
    found = await house.thread(call.path["thread_id"])
    before = await _before(house, found, run_id)
    local = house.runs.find(run_id)
    modes = modes_of(call.query.get("stream_mode") or (local.wanted.modes if local else "values"))
    view = View(modes, call.query.get("stream_subgraphs", local.wanted.subgraphs if local else False), run_id)
    cursor = max(await cursor_of(call, found) or before, before, key=lambda each: each.address)
    cancels = local if call.query.get("cancel_on_disconnect") else None

    async def events() -> AsyncIterator[bytes]:
        async with house.topic(found) as topic:
            shown = Stream(house.ways, topic, view, cursor)
            async for data in shown.events():
                yield data

    query = urlencode([*(("stream_mode", mode) for mode in modes), ("stream_subgraphs", view.subgraphs)])
    location = f"{_path_of(found.thread.thread_id, run_id)}/stream?{query}"
    return stream_of(house, cancels, events(), {"location": location})


async def cursor_of(call: Call, found: Found) -> Cursor | None:
    """What the client says that it has seen last."""
    text = call.request.headers.get("last-event-id", "")
    if not text or text == "-1":
        return None
    cursor = read_cursor(text)
    thread_id = found.thread.thread_id
    newest = await call.house.offload(lambda: inside.newest_step(found.graph, thread_id))
    if cursor.address.step > newest:
        have = f"its steps are 0 to {newest}" if newest >= 0 else "it has no steps"
        raise CheckpointNotFoundError(thread_id=thread_id, step=cursor.address.step, have=have)
    return cursor


# --- stopped ------------------------------------------------------------------------------------


async def cancel(call: Call) -> Any:
    _check_action(call)
    house, run_id = call.house, call.path["run_id"]
    run = house.runs.find(run_id)
    if run is None or run.wanted.thread_id != call.path["thread_id"]:
        found = await house.thread(call.path["thread_id"])
        _, status = await house.offload(lambda: _span(found, run_id))
        if inside.is_running(found.thread) and status == "running":
            owner, since = found.thread.lease_owner, found.thread.lease_since
            raise ThreadBusyError(thread_id=found.thread.thread_id, owner=owner, since=since)
        raise Problem(409, f"Run {run_id} is not under way: its status is {status}.", run_status=status)
    run.cancel()
    if call.query.get("wait"):
        await run.done.wait()
        return Response(status_code=204)
    return Response(status_code=202)


async def cancel_many(call: Call) -> Any:
    _check_action(call)
    wanted, thread_id = call.body.get("run_ids"), call.body.get("thread_id")
    for run in call.house.runs.under_way():
        if wanted is not None and run.run_id not in wanted:
            continue
        if (wanted is not None or call.body.get("status")) and thread_id in (None, run.wanted.thread_id):
            run.cancel()
    return Response(status_code=204)


def _check_action(call: Call) -> None:
    if call.query.get("action") == "rollback":
        raise Problem(
            422,
            "action: 'rollback' is not supported; a log is only added to. Cancel with 'interrupt', then fork "
            "the thread at the step to go back to.",
            field="action",
        )


def endpoints() -> Iterable[Endpoint]:
    for path in ("/threads/{thread_id}/runs", "/runs"):
        named = " on a thread" if "{" in path else " on a new thread"
        given: dict[str, Any] = {"tag": TAG, "body": RUN, "problems": (404, 409), "writes": True}
        yield Endpoint("POST", path, create, f"Begin a run{named}", **given)
        yield Endpoint("POST", f"{path}/stream", stream, f"Stream a run{named}", media=EVENTS, endless=True, **given)
        yield Endpoint("POST", f"{path}/wait", wait, f"Wait for a run{named}", endless=True, **given)
    one = "/threads/{thread_id}/runs/{run_id}"
    query = {"limit": number(1, 1000), "offset": number(), "status": TEXT, "select": TEXTS}
    yield Endpoint("GET", "/threads/{thread_id}/runs", list_runs, "List runs", TAG, query=query, problems=(404,))
    yield Endpoint("GET", one, get, "Get a run", TAG, problems=(404,))
    yield Endpoint("GET", f"{one}/join", join, "Wait for a run's end", TAG, problems=(404,), endless=True)
    yield Endpoint(
        "GET", f"{one}/stream", join_stream, "Follow a run", TAG, query=STREAM_QUERY, media=EVENTS, problems=(404,),
        endless=True,
    )  # fmt: skip
    yield Endpoint(
        "POST", f"{one}/cancel", cancel, "Cancel a run", TAG, query={**ACTION, "wait": FLAG}, status=202,
        problems=(404, 409), writes=True, endless=True,
    )  # fmt: skip
    yield Endpoint(
        "POST", "/runs/cancel", cancel_many, "Cancel runs", TAG, CANCEL, query=ACTION, status=204, writes=True
    )
    batch = list_of(WITH_THREAD)
    yield Endpoint("POST", "/runs/batch", create_batch, "Begin runs", TAG, batch, problems=(404, 409), writes=True)


ENDPOINTS: Sequence[Endpoint] = tuple(endpoints())
