"""The server itself: whether it is there and ready, what it is, and what it does not have."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

import durable_graph
from durable_graph import StoreUnavailableError
from durable_graph.server import inside
from durable_graph.server.endpoints import Call, Endpoint
from durable_graph.server.problems import Problem
from durable_graph.server.shapes import FLAG

log = logging.getLogger("durable_graph")

TAG = "server"
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
ELSEWHERE = {  # what LangGraph's server has and this one does not
    "/store": "there is no store: memory across threads is a table of yours",
    "/store/{rest:path}": "there is no store: memory across threads is a table of yours",
    "/runs/crons": "there is no scheduler: begin runs by cron or a timer of yours",
    "/runs/crons/{rest:path}": "there is no scheduler: begin runs by cron or a timer of yours",
    "/threads/{thread_id}/runs/crons": "there is no scheduler: begin runs by cron or a timer of yours",
    "/threads/{thread_id}/commands": "the thread stream protocol is not here: use runs.stream and threads.join_stream",
    "/threads/{thread_id}/stream/events": "the thread stream protocol is not here: use runs.stream and join_stream",
}
FIXED = "assistants are the graphs that the server was started with"
ONLY_READ = (("POST", "/assistants"), ("PATCH", "/assistants/{assistant_id}"), ("DELETE", "/assistants/{assistant_id}"))
VERSIONS = (("POST", "/assistants/{assistant_id}/versions"), ("POST", "/assistants/{assistant_id}/latest"))


async def ok(call: Call) -> Any:
    return {"ok": True}


async def ready(call: Call) -> Any:
    """Whether runs are taken: the databases can be used, and the server is not shutting down."""
    if call.house.hub.closing:
        raise Problem(503, "This server is shutting down.", headers={"retry-after": "5"})
    try:
        await call.house.offload(lambda: [inside.store_of(graph).threads(limit=1) for graph in call.house.databases])
    except StoreUnavailableError as error:
        log.warning("not ready: %s", error)  # whoever asks needs no token: they are not told where the database is
        raise Problem(503, "A database cannot be used; the server's log says which, and why.") from None
    return {"ready": True}


async def info(call: Call) -> Any:
    house = call.house
    return {
        "name": "durable-graph",
        "version": durable_graph.__version__,
        "graphs": sorted(house.graphs),
        "read_only": house.read_only,
        "flags": {"assistants": True, "crons": False, "store": False, "webhooks": False},
    }


def _not_here(why: str) -> Any:
    async def answer(call: Call) -> Any:
        raise Problem(501, f"Not here: {why}.")

    return answer


def endpoints() -> Iterable[Endpoint]:
    yield Endpoint("GET", "/ok", ok, "Is it there?", TAG, query={"check_db": FLAG})
    yield Endpoint("GET", "/ready", ready, "Is it ready?", TAG, problems=(503,))
    yield Endpoint("GET", "/info", info, "What is it?", TAG)


def refusals() -> Iterable[Endpoint]:
    """Not in the OpenAPI document: they are not there."""
    for path, why in ELSEWHERE.items():
        for method in METHODS:
            yield Endpoint(method, path, _not_here(why), f"{method} {path}", TAG, query=_Any())
    for method, path in (*ONLY_READ, *VERSIONS):
        yield Endpoint(method, path, _not_here(FIXED), f"{method} {path}", TAG, query=_Any())
    rows = "rows are only added: delete the thread, or fork it at a step before the run"
    path = "/threads/{thread_id}/runs/{run_id}"
    yield Endpoint("DELETE", path, _not_here(rows), "Remove a run", TAG, query=_Any())


class _Any(dict[str, Any]):
    """Every parameter."""

    def __contains__(self, name: object) -> bool:
        return True


ENDPOINTS: Sequence[Endpoint] = tuple(endpoints())
REFUSALS: Sequence[Endpoint] = tuple(refusals())
