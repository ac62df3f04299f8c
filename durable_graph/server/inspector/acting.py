"""What the page can do with a thread. When it is answered it is durable, or a run whose first row is."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from durable_graph import Command
from durable_graph.server import inside
from durable_graph.server.endpoints import Call, Endpoint
from durable_graph.server.house import Found
from durable_graph.server.inspector.reading import API, config_at
from durable_graph.server.problems import Problem
from durable_graph.server.runs import Wanted
from durable_graph.server.shapes import ANYTHING, ID, OBJECT, Shape, fields, number


async def answer(call: Call) -> Any:
    answers = call.body["answers"]
    if not answers or not all(re.fullmatch(r"[0-9a-f]{32}", key) for key in answers):  # else it were the answer itself
        words = "answers: it has to be {id of a question: its answer}; see `questions` of the thread"
        raise Problem(422, words, field="answers")
    return await _begin(call, Command(resume=answers))


async def resume(call: Call) -> Any:
    return await _begin(call, None)


async def _begin(call: Call, given: Any) -> Any:
    house, found = call.house, await _found(call)
    thread = found.thread
    name = house.id_of(thread.graph)
    if name is None or house.places[name] != found.place:
        have = ", ".join(sorted({graph.name for graph in house.graphs.values()}))
        words = f"Thread {thread.thread_id!r} is of the graph {thread.graph!r}, and this server has: {have}."
        raise Problem(409, f"{words} Start one with that graph.")
    if thread.called_by is not None:
        words = f"Thread {thread.thread_id!r} is the run of a subgraph"
        raise Problem(409, f"{words}: go on with {thread.called_by!r}, which called it.")
    wanted = Wanted(house.graphs[name], found.place, thread.thread_id, given, _config(call, found), ())
    run, _ = await house.runs.begin(wanted)
    return {"run_id": run.run_id}


async def fork(call: Call) -> Any:
    found, to = await _found(call), call.body["to"]
    config = _config(call, found, call.body["step"])
    await call.house.offload(partial(found.graph.fork, config, to))
    return {"thread": to}


async def signal(call: Call) -> Any:
    found, body = await _found(call), call.body
    await call.house.offload(partial(found.graph.signal, _config(call, found), body["name"], body["value"]))
    return {}


async def cancel(call: Call) -> Any:
    found = await _found(call)
    thread = found.thread
    runs = [run for run in call.house.runs.under_way() if _is_of(run.wanted, found)]
    for run in runs:
        run.cancel()
    if runs:
        return {}
    if await call.house.offload(partial(inside.is_running, thread)):
        words = f"Thread {thread.thread_id!r} is being run by {thread.lease_owner} since {thread.lease_since}"
        raise Problem(409, f"{words}, not by this server. Stop that runner.", owner=thread.lease_owner)
    raise Problem(409, f"No run of thread {thread.thread_id!r} is under way.")


def _is_of(wanted: Wanted, found: Found) -> bool:
    return (wanted.place, wanted.thread_id) == (found.place, found.thread.thread_id)


async def _found(call: Call) -> Found:
    return await call.house.thread(call.body["thread"])


def _config(call: Call, found: Found, step: int | None = None) -> Mapping[str, Any]:
    actor = {} if call.actor is None else {"metadata": {"actor": call.actor}}
    return {**config_at(found.thread.thread_id, step), **actor}


def _post(act: Callable[[Call], Awaitable[Any]], **given: Shape) -> Endpoint:
    body, name = fields(("thread", *given), thread=ID, **given), act.__name__
    return Endpoint("POST", f"{API}/{name}", act, f"Inspector: {name}", "inspector", body=body, writes=True)


ACTING = (
    _post(answer, answers=OBJECT),
    _post(resume),
    _post(fork, step=number(), to=ID),
    _post(signal, name=ID, value=ANYTHING),
    _post(cancel),
)
