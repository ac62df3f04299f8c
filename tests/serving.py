"""What the tests of the server share: a server on a port of its own, in a thread of this process, and its clients."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from operator import attrgetter
from typing import Any, NamedTuple

import httpx
import uvicorn
from langgraph_sdk import get_client, get_sync_client

from durable_graph import CompiledGraph
from durable_graph.cli.serving import listen
from durable_graph.server import create_app
from durable_graph.server.house import House, ServerLimits

PATIENCE = 30.0
LIMITS = ServerLimits(poll=0.02, heartbeat=5.0, grace=5.0)


class _Hasty:
    """asyncio for uvicorn, which sleeps a tenth of a second now and again, above all before it ends."""

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / 20)


uvicorn.server.asyncio = _Hasty()  # type: ignore[attr-defined]


class Event(NamedTuple):
    name: str
    data: Any
    id: str | None


class Address(NamedTuple):
    """Of a server that runs here."""

    url: str
    house: House

    def client(self, **settings: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=PATIENCE, **settings)


@contextmanager
def serving(graphs: Mapping[str, CompiledGraph[Any]], **settings: Any) -> Iterator[Address]:
    app = create_app(graphs, **{"limits": LIMITS, **settings})
    with listening(app) as url:
        yield Address(url, app.state.house)


@contextmanager
def listening(app: Any, close: Callable[[], None] | None = None) -> Iterator[str]:
    """An ASGI app behind uvicorn, on any free port."""
    house = getattr(app.state, "house", None)

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: Any = None) -> None:
            (close or house.close)()
            await super().shutdown(sockets)

    config = uvicorn.Config(app, log_level="critical", lifespan="on", timeout_graceful_shutdown=10)
    server, sock = Server(config), listen("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, name="server of a test")
    url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    thread.start()
    try:
        until_ready(url)
        yield url
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        sock.close()
        assert not thread.is_alive()


def until_ready(url: str) -> None:
    with httpx.Client(transport=httpx.HTTPTransport(retries=8)) as client:
        assert client.get(f"{url}/ok").status_code in (200, 401)


# --- clients ------------------------------------------------------------------------------------


class Sdk:
    """LangGraph's client, sync or async: one test body for both."""

    def __init__(self, way: str, url: str, **settings: Any) -> None:
        self.way = way
        self._settings = {"url": url, "api_key": None, **settings}

    def __call__(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        """As in sdk("threads.create", metadata={})."""
        if self.way == "sync":
            with get_sync_client(**self._settings) as client:
                return attrgetter(name)(client)(*args, **kwargs)

        async def call() -> Any:
            async with get_client(**self._settings) as client:
                return await attrgetter(name)(client)(*args, **kwargs)

        return asyncio.run(call())

    def stream(
        self, name: str, *args: Any, stop: Callable[[Any], bool] = lambda part: False, **kwargs: Any
    ) -> list[Any]:
        """All parts, or those up to one that `stop` is true of: then the client goes away."""
        if self.way == "sync":
            with get_sync_client(**self._settings) as client:
                parts = []
                for part in attrgetter(name)(client)(*args, **kwargs):
                    parts.append(part)
                    if stop(part):
                        break
                return parts

        async def call() -> list[Any]:
            parts = []
            async with get_client(**self._settings) as client:
                stream = attrgetter(name)(client)(*args, **kwargs)
                async for part in await stream if asyncio.iscoroutine(stream) else stream:
                    parts.append(part)
                    if stop(part):
                        break
            return parts

        return asyncio.run(call())


def events(lines: Iterator[str]) -> Iterator[Event]:
    """Server-sent events, as they come."""
    fields: dict[str, str] = {}
    for line in lines:
        if line.startswith(":"):
            continue
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif fields:
            yield Event(fields.get("event", "message"), json.loads(fields["data"]), fields.get("id"))
            fields = {}


def follow(
    client: httpx.Client, path: str, seen: str | None = None, method: str = "GET", **settings: Any
) -> Iterator[Event]:
    """A stream's events; closing it closes the connection."""
    headers = {} if seen is None else {"last-event-id": seen}
    with client.stream(method, path, headers=headers, **settings) as response:
        if response.status_code != 200:
            response.read()
            raise AssertionError(response.text)
        yield from events(response.iter_lines())
