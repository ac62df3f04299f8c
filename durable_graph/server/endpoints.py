"""What the server answers to: a table of endpoints, from which come its routes, its checks and its OpenAPI document."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from durable_graph.server.guard import SLASH
from durable_graph.server.plain import to_json
from durable_graph.server.problems import Problem, problem_of
from durable_graph.server.shapes import Shape, check, parsed

if TYPE_CHECKING:
    from durable_graph.server.house import House

EVENTS = "text/event-stream"
JSON = "application/json"
LONG_NUMBER = re.compile(rb"\d{19}")


@dataclass(frozen=True, slots=True)
class Call:
    """One request, checked."""

    house: House
    request: Request
    path: Mapping[str, str]
    query: Mapping[str, Any]
    body: Any

    @property
    def actor(self) -> str | None:
        """Who calls: by the token's name or, where that has none, by X-Actor."""
        name: str | None = self.request.scope.get("durable_graph.actor")
        return name


Handler = Callable[[Call], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    method: str
    path: str
    handler: Handler
    summary: str
    tag: str
    body: Shape | None = None  # None: it takes none
    query: Mapping[str, Shape] = field(default_factory=dict)
    answer: Shape = field(default_factory=dict)
    media: str = JSON
    status: int = 200
    problems: Sequence[int] = ()  # besides those that every endpoint may give
    writes: bool = False  # refused in read-only mode
    endless: bool = False  # has no time limit
    needs_body: bool = True

    def route(self, house: House) -> Route:
        async def answer(request: Request) -> Response:
            try:
                return await self._answer(house, request)
            except ClientDisconnect:
                return Response(status_code=499)
            except Exception as error:
                return problem_of(error).response()

        return Route(self.path, answer, methods=[self.method], name=self.summary)

    async def _answer(self, house: House, request: Request) -> Response:
        if self.writes and house.read_only:
            raise Problem(403, "This server is read-only: it shows threads, and changes none.")
        path = {name: value.replace(SLASH, "/") for name, value in request.path_params.items()}
        call = Call(house, request, path, self._query(request), await self._body(house, request))
        async with asyncio.timeout(None if self.endless else house.limits.seconds):
            made = await self.handler(call)
        return made if isinstance(made, Response) else as_json(made, self.status)

    def _query(self, request: Request) -> dict[str, Any]:
        given = request.query_params
        for name in given:
            if name not in self.query:
                known = ", ".join(sorted(self.query)) or "none"
                raise Problem(422, f"{name}: there is no such parameter; known: {known}", field=name)
        return {name: parsed(given.getlist(name), shape, name) for name, shape in self.query.items() if name in given}

    async def _body(self, house: House, request: Request) -> Any:
        data = await _read(request, house.limits.body_bytes, house.limits.body_seconds)
        if self.body is None or (not data and not self.needs_body):
            return {} if self.body is not None else None
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != JSON:
            raise Problem(415, f"The body has to be {JSON}, and is {kind or 'of no type'}.")
        value = _value(data)
        check(value, self.body)
        return value


def as_json(made: Any, status: int = 200) -> Response:
    """For what may be large, a state above all, to be called in a thread: else all streams stand still meanwhile."""
    return Response(to_json(made), status, media_type=JSON)


def _value(data: bytes) -> Any:
    """orjson refuses what is no JSON, too deep or infinite; but of whole numbers over 64 bits it makes floats."""
    try:
        value = orjson.loads(data)
        return json.loads(data) if LONG_NUMBER.search(data) else value
    except (ValueError, RecursionError) as error:
        raise Problem(422, f"the body is no JSON: {error}", field="") from None


async def _read(request: Request, most: int, seconds: float) -> bytes:
    """The body, unless it is too large or too slow."""
    too_large = Problem(413, f"The body is larger than {most:,} bytes.", limit=most, headers={"connection": "close"})
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > most:
        raise too_large
    data = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for part in request.stream():
                data += part
                if len(data) > most:
                    raise too_large
    except TimeoutError:
        slow = f"The body did not come within {seconds:g} seconds."
        raise Problem(408, slow, headers={"connection": "close"}) from None
    return bytes(data)
