"""The app: the table of endpoints behind the guard, and the inspector."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from durable_graph.server import about, assistants, inspector, running, threads
from durable_graph.server.endpoints import Call, Endpoint
from durable_graph.server.guard import SLASH, Guard, checked_hosts, checked_origins, local_hosts, named_tokens
from durable_graph.server.house import House
from durable_graph.server.openapi import document
from durable_graph.server.problems import Problem, problem_of

SHOWN: tuple[Endpoint, ...] = (*about.ENDPOINTS, *assistants.ENDPOINTS, *threads.ENDPOINTS, *running.ENDPOINTS)
DOCUMENT = document(SHOWN)


def app_of(
    house: House, token: str | Mapping[str, str] | None, cors: Sequence[str], hosts: Collection[str] | None
) -> Starlette:
    tokens = named_tokens(token)
    names = None if tokens and hosts is None else local_hosts(tuple(checked_hosts(hosts) or ()))
    is_local = not tokens and hosts is None
    guard = Middleware(Guard, tokens=tokens, origins=checked_origins(cors), hosts=names, is_local=is_local)
    app = Starlette(
        routes=_routes(house),
        middleware=[guard],
        exception_handlers={HTTPException: _http, Exception: _unexpected},
        lifespan=house.lifespan,
    )
    app.router.redirect_slashes = False  # it would send to whatever the Host says
    app.state.house = house
    return app


def _routes(house: House) -> list[BaseRoute]:
    async def openapi(call: Call) -> Any:
        return DOCUMENT

    # What is not here comes first: its paths are more exact.
    own = Endpoint("GET", "/openapi.json", openapi, "OpenAPI document", about.TAG)
    routes: list[BaseRoute] = [each.route(house) for each in (*about.REFUSALS, *SHOWN, own)]
    return [*routes, *inspector.routes(house), Route("/", _to_the_inspector)]


async def _to_the_inspector(request: Request) -> Response:
    return RedirectResponse(request.scope.get("root_path", "") + "/inspector")


async def _http(request: Request, error: Exception) -> Response:
    """Of Starlette's own: no such path, or not this method."""
    assert isinstance(error, HTTPException)
    path = request.scope["path"].replace(SLASH, "/")  # not of `request.url`, which is made of the Host
    detail = f"There is no {request.method} {path} here; /openapi.json tells what there is."
    return Problem(error.status_code, detail, headers=error.headers or {}).response()


async def _unexpected(request: Request, error: Exception) -> Response:
    return problem_of(error).response()
