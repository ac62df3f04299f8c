"""What the page shows. Each answer is bounded, however many threads, steps or values there are.

The rule: what is here blocks, and is called in threads.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from typing import Any

from starlette.responses import Response, StreamingResponse

from durable_graph import StateSnapshot, Thread
from durable_graph.server.endpoints import Call, Endpoint
from durable_graph.server.house import REPLICA, Found, House
from durable_graph.server.inspector.told import (
    told_change,
    told_entry,
    told_error,
    told_names,
    told_question,
    told_stats,
    told_task,
    told_thread,
)
from durable_graph.server.inspector.values import shown, shown_part
from durable_graph.server.inspector.what_ran import Tally
from durable_graph.server.problems import Problem
from durable_graph.server.shapes import ID, TEXT, Shape, number

API = "/inspector/api"
THREADS = 100  # on a page
STEPS = 500
CHANGES = 300
TASKS = 200  # of a superstep, and their questions
TOLD = frozenset(  # of a row's metadata: what its entry tells
    ("source", "step", "superstep", "run_id", "parents", "parent_step", "task", "attempt", "interrupts", "error")
)
RECENT = 1000  # rows that are looked at for what ran

THREAD: Mapping[str, Shape] = {"thread": ID}
STEP: Mapping[str, Shape] = {"thread": ID, "step": number()}
PART: Mapping[str, Shape] = {**STEP, "of": TEXT, "place": TEXT, "from": number()}


def config_at(thread_id: str, step: int | None = None) -> dict[str, Any]:
    return {"configurable": {"thread_id": thread_id, **({} if step is None else {"step": step})}}


def asked(call: Call) -> Found:
    """The thread that the address names."""
    return call.house.look_up(needed(call, "thread"))


def needed(call: Call, name: str) -> Any:
    if name not in call.query:
        raise Problem(422, f"{name}: it is missing", field=name)
    return call.query[name]


# --- threads ------------------------------------------------------------------------------------


def about(call: Call) -> Any:
    house = call.house
    now = datetime.now(UTC).isoformat()
    return {"graphs": _names(house), "read_only": house.read_only, "now": now}


def _names(house: House) -> list[str]:
    return sorted({graph.name for graph in house.graphs.values()})


def threads(call: Call) -> Any:
    limit = call.query.get("limit", THREADS)
    found = [*_found(call, limit + 1)]
    page = found[:limit]
    known = {*_names(call.house)}
    behind = json.dumps([page[-1].updated_at, page[-1].thread_id]) if len(found) > limit else None
    return {"threads": [told_thread(thread, known) for thread in page], "next": behind}


def _found(call: Call, limit: int) -> Iterator[Thread]:
    """Of all databases together."""
    query = call.query
    wanted: dict[str, Any] = {
        name: query[name] for name in ("text", "graph", "newer_than", "older_than") if name in query
    }
    if "status" in query:
        wanted["status"] = query["status"].split(",")
    after = _after(query["after"]) if "after" in query else None
    pages = [graph.threads(**wanted, after=after, limit=limit) for graph in call.house.looked_at]
    together = heapq.merge(*pages, key=lambda thread: (thread.updated_at, thread.thread_id), reverse=True)
    for thread, _ in zip(together, range(limit), strict=False):
        yield thread


def _after(mark: str) -> Thread:
    """The last thread of a page, as far as the next one needs it."""
    try:
        updated_at, thread_id = json.loads(mark)
    except (ValueError, TypeError, RecursionError):
        raise Problem(422, "after: it is no mark of a page; give `next` of one", field="after") from None
    columns: dict[str, Any] = dict.fromkeys(Thread._fields)
    return Thread(**{**columns, "updated_at": str(updated_at), "thread_id": str(thread_id)})


def thread(call: Call) -> Any:
    found = asked(call)
    graph, config = found.graph, config_at(found.thread.thread_id)
    state = graph.get_state(config)
    first = next(graph.timeline(config, limit=1), None)
    last = next(graph.timeline(config, limit=1, newest_first=True), None)
    failed = next((task for task in state.tasks if task.error), None)
    told = told_thread(found.thread, {*_names(call.house)})
    return {
        "thread": {**told, "metadata": shown(_metadata(found.thread.metadata))},
        "first": 0 if first is None else first.step,
        "last": -1 if last is None else last.step,
        "next": told_names(state.next),
        "asked": len(state.interrupts),
        "questions": [*islice(_questions(state), TASKS)],
        "error": None if failed is None else {"node": failed.name, "text": failed.error},
    }


def _questions(state: StateSnapshot) -> Iterator[Any]:
    return (told_question(task, question) for task in state.tasks for question in task.interrupts)


def _metadata(data: bytes) -> Any:
    """Whatever stands there: a database may have been altered."""
    try:
        return json.loads(data)
    except (ValueError, TypeError, RecursionError):
        return {"unreadable": data}


# --- steps --------------------------------------------------------------------------------------


def timeline(call: Call) -> Any:
    found, query = asked(call), call.query
    bounds = {name: query[name] for name in ("after", "before") if name in query}
    limit = query.get("limit", STEPS)
    entries = found.graph.timeline(config_at(found.thread.thread_id), **bounds, limit=limit)
    return {"entries": [told_entry(entry) for entry in entries]}


def step(call: Call) -> Any:
    found, at = asked(call), needed(call, "step")
    graph, config = found.graph, config_at(found.thread.thread_id, at)
    graph.get_state(config)  # raises for a step that is not there
    entry = next(graph.timeline(config, after=at - 1, limit=1))
    event = next(graph.replay(config, after=at - 1, until=at, stream_mode="events"))
    metadata = {name: value for name, value in event.metadata.items() if name not in TOLD}
    if "of" in call.query:
        return _part(call, {"update": event.update, "metadata": metadata})
    told = {"entry": told_entry(entry), "update": shown(event.update), "metadata": shown(metadata)}
    return {**told, "error": told_error(entry, event.metadata)}


def state(call: Call) -> Any:
    found = asked(call)
    snapshot = found.graph.get_state(config_at(found.thread.thread_id, needed(call, "step")))
    if "of" in call.query:
        return _part(call, {"values": snapshot.values})
    at = snapshot.config["configurable"].get("step")
    tasks = snapshot.tasks[:TASKS]
    told = {"step": at, "values": shown(snapshot.values), "size": len(snapshot.tasks)}
    return {**told, "tasks": [told_task(task) for task in tasks]}


def _part(call: Call, values: Mapping[str, Any]) -> Any:
    """A part of one of these values alone."""
    name = call.query["of"]
    if name not in values:
        raise Problem(422, f"of: there is no {name!r}; there are: {', '.join(values)}", field="of")
    return {"part": shown_part(values[name], call.query.get("place", ""), call.query.get("from", 0))}


def difference(call: Call) -> Any:
    found, other = asked(call), call.house.look_up(needed(call, "other_thread"))
    if REPLICA in (found.place, other.place) and found.place != other.place:  # one has not come there yet
        found, other = (call.house.find(each.thread.thread_id) for each in (found, other))
    before = config_at(found.thread.thread_id, call.query.get("step"))
    after = config_at(other.thread.thread_id, call.query.get("other"))
    if found.place != other.place:
        raise Problem(422, "other_thread: it is in another database", field="other_thread")
    changes = found.graph.difference(before, after)
    return {"size": len(changes), "changes": [told_change(change) for change in changes[:CHANGES]]}


# --- all of a thread ------------------------------------------------------------------------------


def graph(call: Call) -> Any:
    found = asked(call)
    at = call.query.get("step")
    ran = _ran(found, at)
    nodes = [{"name": name, "state": node.state, "calls": node.calls} for name, node in ran.nodes.items()]
    told = {"graph": found.thread.graph, "nodes": nodes, "svg": None, "words": None}
    name = call.house.id_of(found.thread.graph)
    if name is None:
        have = ", ".join(_names(call.house))
        return {**told, "words": f"This server does not have the graph {found.thread.graph!r}; it has: {have}."}
    states = {name: node.state for name, node in ran.nodes.items() if node.state}
    return {**told, "svg": call.house.graphs[name].get_graph().draw_svg(states=states)}


def _ran(found: Found, at: int | None) -> Tally:
    """What the nodes have done since the last input, up to a step."""
    config, tally = config_at(found.thread.thread_id, at), Tally()
    for entry in found.graph.timeline(config, newest_first=True, limit=RECENT):
        tally.add(entry)
        if entry.kind == "input":
            break
    newest = (
        at is None or next(found.graph.timeline(config_at(found.thread.thread_id), after=at, limit=1), None) is None
    )
    tally.stands_at(found.graph.get_state(config), running=newest and found.thread.status == "running")
    return tally


def figures(call: Call) -> Any:
    found = asked(call)
    return told_stats(found.graph.stats(config_at(found.thread.thread_id)))


def verify(call: Call) -> Any:
    found = asked(call)
    report = found.graph.verify(config_at(found.thread.thread_id), head=call.query.get("head"))
    return {**asdict(report), "ok": report.ok}


async def export(call: Call) -> Response:
    found = await call.house.offload(partial(asked, call))
    lines = found.graph.aexport_thread(config_at(found.thread.thread_id))
    headers = {"Content-Disposition": 'attachment; filename="thread.jsonl"'}
    return StreamingResponse((f"{line}\n" async for line in lines), media_type="application/jsonl", headers=headers)


# --- the table ------------------------------------------------------------------------------------


def _get(read: Callable[[Call], Any], query: Mapping[str, Shape], long: bool = False, **settings: Any) -> Endpoint:
    name = read.__name__

    async def handler(call: Call) -> Any:
        return await call.house.offload(partial(read, call), long=long)

    handles = export if read is export else handler
    return Endpoint("GET", f"{API}/{name}", handles, f"Inspector: {name}", "inspector", query=query, **settings)


LISTED: Mapping[str, Shape] = {
    "text": TEXT,
    "status": ID,
    "graph": ID,
    "newer_than": number(),
    "older_than": number(),
    "after": ID,
    "limit": number(1, THREADS),
}
PAGED: Mapping[str, Shape] = {**THREAD, "after": number(-1), "before": number(), "limit": number(1, STEPS)}

READING = (
    _get(about, {}),
    _get(threads, LISTED),
    _get(thread, THREAD),
    _get(timeline, PAGED),
    _get(step, PART),
    _get(state, PART),
    _get(difference, {**STEP, "other": number(), "other_thread": ID}),
    _get(graph, STEP),
    _get(figures, THREAD, long=True),
    _get(verify, {**THREAD, "head": TEXT}, long=True, endless=True),
    _get(export, THREAD),
)
