"""Threads: made, found, read, changed, copied and removed."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

import orjson
from starlette.responses import Response

from durable_graph import CompiledGraph, StateUpdate, Thread, ThreadBusyError, ThreadNotFoundError
from durable_graph.core.cursor import START_OF_LOG
from durable_graph.server import inside
from durable_graph.server.endpoints import EVENTS, Call, Endpoint, as_json
from durable_graph.server.house import Found, House
from durable_graph.server.problems import Problem
from durable_graph.server.running import STREAM_QUERY, cursor_of, modes_of, stream_of
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
from durable_graph.server.shown import THREAD_STATUS, checkpoint_of, metadata_of, selected, state_of, thread_of
from durable_graph.server.streams import Stream, View

TAG = "threads"
LARGEST_PAGE = 1000
PAGE = 200  # threads that are looked through at a time
UPDATE = fields(("values",), values=ANYTHING, as_node=maybe(TEXT), command=maybe(OBJECT))
SORTED_BY = ("thread_id", "status", "created_at", "updated_at")

CREATE = fields(
    thread_id=ID,
    metadata=OBJECT,
    if_exists=one_of("raise", "do_nothing"),
    supersteps=list_of(fields(("updates",), updates=list_of(UPDATE))),
    ttl=either(NUMBER, OBJECT),
)
CHANGE = fields(("metadata",), metadata=OBJECT, ttl=either(NUMBER, OBJECT))
SEARCH = fields(
    metadata=OBJECT,
    values=OBJECT,
    ids=TEXTS,
    status=one_of("idle", "busy", "interrupted", "error"),
    limit=number(1, LARGEST_PAGE),
    offset=number(0, 10**9),
    sort_by=one_of(*SORTED_BY, "state_updated_at"),
    sort_order=one_of("asc", "desc"),
    select=TEXTS,
    extract=OBJECT,
)
COUNT = fields(metadata=OBJECT, values=OBJECT, status=one_of("idle", "busy", "interrupted", "error"))
STATE_AT = fields(("checkpoint",), checkpoint=CHECKPOINT, subgraphs=FLAG, select=TEXTS)
NEW_STATE = fields(
    values=ANYTHING, as_node=maybe(TEXT), checkpoint=maybe(CHECKPOINT), checkpoint_id=maybe(CHECKPOINT_ID)
)
HISTORY = fields(
    limit=number(1, LARGEST_PAGE),
    before=maybe(either(TEXT, number(), {**OBJECT, "properties": {"configurable": maybe(OBJECT)}})),
    metadata=maybe(OBJECT),
    checkpoint=maybe(CHECKPOINT),
    select=TEXTS,
)
PRUNE = fields(("thread_ids",), thread_ids=TEXTS, strategy=one_of("delete", "keep_latest"))
FORK = fields(to=ID, step=number(), checkpoint_id=CHECKPOINT_ID)
SIGNAL = fields(("name",), name=ID, value=ANYTHING)


# --- made, found, removed -----------------------------------------------------------------------


async def create(call: Call) -> Any:
    body, house = call.body, call.house
    _refuse(body, "ttl", "threads are kept until they are deleted or pruned")
    thread_id = body.get("thread_id") or str(uuid.uuid4())
    metadata = dict(body.get("metadata") or {})
    if call.actor:
        metadata.setdefault("actor", call.actor)
    graph_id, graph = _graph_for(house, metadata)
    made = await house.offload(lambda: _made(house, graph_id, graph, thread_id, metadata))
    if not made and body.get("if_exists") != "do_nothing":
        raise Problem(409, f"There already is a thread {thread_id!r}.", thread_id=thread_id)
    if made and body.get("supersteps"):
        updates = [
            [StateUpdate(each["values"], each.get("as_node")) for each in superstep["updates"]]
            for superstep in body["supersteps"]
        ]
        await _own(house, await house.thread(thread_id)).abulk_update_state(_config(call, thread_id), updates)
    return await _shown(house, await house.thread(thread_id))


def _graph_for(house: House, metadata: Mapping[str, Any]) -> tuple[str | None, inside.Graph]:
    """The graph that a new thread is for, as far as it is said."""
    name = metadata.get("graph_id") or metadata.get("assistant_id")
    if isinstance(name, str):
        return house.graph(name)
    if len(house.graphs) == 1:
        return next(iter(house.graphs.items()))
    return None, house.databases[0]


def _made(house: House, graph_id: str | None, graph: inside.Graph, thread_id: str, metadata: Mapping[str, Any]) -> bool:
    for other in house.databases:
        if inside.store_of(other).thread(thread_id) is not None:
            return False
    return graph.create_thread(thread_id, metadata=metadata, graph=graph.name if graph_id is not None else "")


async def get(call: Call) -> Any:
    return await _shown(call.house, await call.house.thread(call.path["thread_id"]))


async def change(call: Call) -> Any:
    house, thread_id = call.house, call.path["thread_id"]
    _refuse(call.body, "ttl", "threads are kept until they are deleted or pruned")
    found = await house.thread(thread_id)
    await house.offload(lambda: found.graph.update_metadata({"thread_id": thread_id}, call.body["metadata"]))
    if "return=minimal" in call.request.headers.get("prefer", ""):
        return Response(status_code=204)
    return await _shown(house, await house.thread(thread_id))


async def delete(call: Call) -> Any:
    await _delete(call, await _free(call, call.path["thread_id"]))
    return Response(status_code=204)


async def _free(call: Call, thread_id: str) -> Found:
    found = await call.house.thread(thread_id)
    _check_free(found.thread)
    return found


async def _delete(call: Call, found: Found) -> None:
    thread_id = found.thread.thread_id
    await call.house.offload(lambda: found.graph.delete_thread(thread_id, actor=call.actor))


def _check_free(thread: Thread) -> None:
    if inside.is_running(thread):
        raise ThreadBusyError(thread_id=thread.thread_id, owner=thread.lease_owner, since=thread.lease_since)


async def prune(call: Call) -> Any:
    if call.body.get("strategy") == "keep_latest":
        raise Problem(
            422,
            "strategy: 'keep_latest' is not supported over HTTP; `durable-graph prune --keep-last 1` does it.",
            field="strategy",
        )
    # One that is not there or runs: then none is removed.
    threads = [await _free(call, thread_id) for thread_id in dict.fromkeys(call.body["thread_ids"])]
    removed = 0
    for found in threads:
        with suppress(ThreadNotFoundError):  # somebody else has removed it meanwhile
            await _delete(call, found)
            removed += 1
    return {"pruned_count": removed}


async def search(call: Call) -> Any:
    body, house = call.body, call.house
    _refuse(body, "values", "states are not searched: search by metadata, ids or status")
    _refuse(body, "extract", "use select, as in select=['values.messages']")
    start = body.get("offset", 0)
    page = await house.offload(lambda: _found(house, body, start + body.get("limit", 10))[start:], long=True)
    names = body.get("select")
    wants_state = not names or any(name.split(".")[0] in ("values", "interrupts") for name in names)
    return await house.offload(lambda: as_json([selected(_thread(house, each, wants_state), names) for each in page]))


async def count(call: Call) -> Any:
    _refuse(call.body, "values", "states are not searched: count by metadata or status")
    return await call.house.offload(lambda: len(_found(call.house, call.body)), long=True)


def _found(house: House, body: Mapping[str, Any], most: int | None = None) -> list[Found]:
    """Blocks. Newest change first, unless it says otherwise: only then all are looked through."""
    wanted = body.get("metadata") or {}
    key = body.get("sort_by", "updated_at").removeprefix("state_")
    is_newest_first = key == "updated_at" and body.get("sort_order") != "asc"
    found: list[Found] = []
    for place, graph in enumerate(house.databases):
        here = (each for each in _candidates(graph, place, body) if _has(house, each.thread, wanted))
        found += islice(here, most if is_newest_first else None)
    found.sort(key=lambda each: (getattr(each.thread, key), each.thread.thread_id))
    return (found if body.get("sort_order") == "asc" else found[::-1])[:most]


def _candidates(graph: inside.Graph, place: int, body: Mapping[str, Any]) -> Iterator[Found]:
    """A page at a time, newest change first."""
    if body.get("ids"):
        named = (inside.store_of(graph).thread(thread_id) for thread_id in body["ids"])
        statuses = _statuses(body)
        yield from (Found(each, graph, place) for each in named if each and each.status in (statuses or {each.status}))
        return
    after: Thread | None = None
    while page := graph.threads(status=_statuses(body), after=after, limit=PAGE):
        yield from (Found(thread, graph, place) for thread in page if thread.called_by is None)
        after = page[-1]


def _statuses(body: Mapping[str, Any]) -> list[str] | None:
    return [ours for ours, its in THREAD_STATUS.items() if its == body.get("status")] or None


def _has(house: House, thread: Thread, wanted: Mapping[str, Any]) -> bool:
    if not wanted:
        return True
    metadata = metadata_of(thread, house.id_of(thread.graph))
    return all(key in metadata and metadata[key] == value for key, value in wanted.items())


async def copy(call: Call) -> Any:
    return await _fork(call, None, None)


async def fork(call: Call) -> Any:
    step = call.body.get("step", call.body.get("checkpoint_id"))
    return await _fork(call, call.body.get("to"), step)


async def _fork(call: Call, to: str | None, step: Any) -> Any:
    house, thread_id = call.house, call.path["thread_id"]
    found = await house.thread(thread_id)
    to = to or str(uuid.uuid4())
    config = {**_config(call, thread_id), **({} if step is None else {"checkpoint_id": step})}
    await found.graph.afork(config, to)
    return await _shown(house, await house.thread(to))


async def signal(call: Call) -> Any:
    thread_id = call.path["thread_id"]
    found = await call.house.thread(thread_id)
    await found.graph.asignal({"thread_id": thread_id}, call.body["name"], call.body.get("value"))
    return Response(status_code=204)


# --- states -------------------------------------------------------------------------------------


async def get_state(call: Call) -> Any:
    return await _state(call, {}, call.query)


async def get_state_of(call: Call) -> Any:
    return await _state(call, {"checkpoint_id": call.path["checkpoint_id"]}, call.query)


async def get_state_at(call: Call) -> Any:
    return await _state(call, call.body["checkpoint"], call.body)


async def _state(call: Call, at: Mapping[str, Any], wanted: Mapping[str, Any]) -> Any:
    found = await call.house.thread(call.path["thread_id"])
    config = {"thread_id": found.thread.thread_id, **place_of(at)}

    def read() -> Response:
        state = found.graph.get_state(config, subgraphs=wanted.get("subgraphs", False))
        return as_json(selected(state_of(state), wanted.get("select")))

    return await call.house.offload(read)


async def update_state(call: Call) -> Any:
    body, house, thread_id = call.body, call.house, call.path["thread_id"]
    found = await house.thread(thread_id)
    at = {"checkpoint_id": body.get("checkpoint_id"), **(body.get("checkpoint") or {})}
    config = {**_config(call, thread_id), **place_of(at)}
    async with house.topic(found) as topic:
        done = await _own(house, found).aupdate_state(config, body.get("values"), body.get("as_node"))
        topic.bump()
    return {"checkpoint": checkpoint_of(done), "configurable": done["configurable"]}


async def history(call: Call) -> Any:
    return await _history(call, call.body)


async def history_of(call: Call) -> Any:
    return await _history(call, call.query)


async def _history(call: Call, wanted: Mapping[str, Any]) -> Any:
    found = await call.house.thread(call.path["thread_id"])
    config = {"thread_id": found.thread.thread_id, **place_of(wanted.get("checkpoint") or {})}
    before = wanted.get("before")
    if before is not None:
        named = before.get("configurable") or before if isinstance(before, dict) else {"checkpoint_id": before}
        before = {"thread_id": found.thread.thread_id, **place_of(named)}

    def read() -> Response:
        states = found.graph.get_state_history(
            config, filter=wanted.get("metadata"), before=before, limit=wanted.get("limit", 10)
        )
        return as_json([selected(state_of(state), wanted.get("select")) for state in states])

    return await call.house.offload(read, long=True)


async def stream(call: Call) -> Any:
    """All runs of a thread, also those to come."""
    found = await call.house.thread(call.path["thread_id"])
    modes = modes_of([mode for mode in call.query.get("stream_mode", []) if mode != "run_modes"] or "values")
    view = View(modes, call.query.get("stream_subgraphs", False), follow=call.query.get("follow", True))
    cursor = await cursor_of(call, found) or START_OF_LOG

    async def events() -> Any:
        async with call.house.topic(found) as topic:
            async for data in Stream(call.house.ways, topic, view, cursor).events():
                yield data

    return stream_of(call.house, None, events())


# --- shared -------------------------------------------------------------------------------------


def _refuse(body: Mapping[str, Any], field: str, why: str) -> None:
    if body.get(field):
        raise Problem(422, f"{field}: this is not supported; {why}.", field=field)


def _config(call: Call, thread_id: str) -> dict[str, Any]:
    return {"thread_id": thread_id, **({"metadata": {"actor": call.actor}} if call.actor else {})}


def _own(house: House, found: Found) -> CompiledGraph[Any]:
    """The thread's own graph: to change a state needs its reducers."""
    graph_id = house.id_of(found.thread.graph) if found.thread.graph else None
    if graph_id is None and not found.thread.graph:
        graph_id, _ = _graph_for(house, orjson.loads(found.thread.metadata or b"{}"))
    if graph_id is None:
        known = ", ".join(sorted(house.graphs))
        problem = f"is of the graph {found.thread.graph!r}" if found.thread.graph else "has no graph yet"
        raise Problem(409, f"Thread {found.thread.thread_id!r} {problem}, and this server runs: {known}.")
    return house.graphs[graph_id]


def _thread(house: House, found: Found, wants_state: bool = True) -> dict[str, Any]:
    state = found.graph.get_state({"thread_id": found.thread.thread_id}) if wants_state else None
    return thread_of(found.thread, house.id_of(found.thread.graph), state)


async def _shown(house: House, found: Found) -> Response:
    return await house.offload(lambda: as_json(_thread(house, found)))


SELECT = {"subgraphs": FLAG, "select": TEXTS}
PATH = "/threads/{thread_id}"
ENDPOINTS: Sequence[Endpoint] = (
    Endpoint("POST", "/threads", create, "Make a thread", TAG, CREATE, problems=(409,), writes=True, needs_body=False),
    Endpoint("POST", "/threads/search", search, "Search threads", TAG, SEARCH, needs_body=False),
    Endpoint("POST", "/threads/count", count, "Count threads", TAG, COUNT, needs_body=False),
    Endpoint("POST", "/threads/prune", prune, "Remove threads", TAG, PRUNE, problems=(404, 409), writes=True),
    Endpoint("GET", PATH, get, "Get a thread", TAG, query={"include": TEXT}, problems=(404,)),
    Endpoint("PATCH", PATH, change, "Change a thread's metadata", TAG, CHANGE, problems=(404,), writes=True),
    Endpoint("DELETE", PATH, delete, "Remove a thread", TAG, status=204, problems=(404, 409), writes=True),
    Endpoint("POST", f"{PATH}/copy", copy, "Copy a thread", TAG, problems=(404,), writes=True),
    Endpoint(
        "POST", f"{PATH}/fork", fork, "Fork a thread", TAG, FORK, problems=(404, 409), writes=True, needs_body=False
    ),
    Endpoint(
        "POST", f"{PATH}/signal", signal, "Send a signal", TAG, SIGNAL, status=204, problems=(404,), writes=True
    ),
    Endpoint("GET", f"{PATH}/state", get_state, "Get the state", TAG, query=SELECT, problems=(404,)),
    Endpoint("POST", f"{PATH}/state", update_state, "Change the state", TAG, NEW_STATE, problems=(404,), writes=True),
    Endpoint("POST", f"{PATH}/state/checkpoint", get_state_at, "Get a state", TAG, STATE_AT, problems=(404,)),
    Endpoint(
        "GET", f"{PATH}/state/{{checkpoint_id}}", get_state_of, "Get the state at a step", TAG, query=SELECT,
        problems=(404,),
    ),
    Endpoint("POST", f"{PATH}/history", history, "Get states", TAG, HISTORY, problems=(404,), needs_body=False),
    Endpoint(
        "GET", f"{PATH}/history", history_of, "Get the newest states", TAG,
        query={"limit": number(1, LARGEST_PAGE), "before": TEXT, "select": TEXTS}, problems=(404,),
    ),
    Endpoint(
        "GET", f"{PATH}/stream", stream, "Follow a thread", TAG, query={**STREAM_QUERY, "follow": FLAG}, media=EVENTS,
        problems=(404,), endless=True,
    ),
)  # fmt: skip
