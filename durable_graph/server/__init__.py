"""Graphs over HTTP, for web clients and LangGraph's own: needs the extra `server`.

    app = create_app({"orders": graph})            # uvicorn module:app
    main.mount("/graphs", create_app(...))         # in an app of yours; see `create_app` for its lifespan

An event of a stream has for its id the step of its row, so a client that lost its connection gets exactly what it has
not seen by sending that as `Last-Event-ID`: from the log, whether the run is live, over, or was taken over elsewhere.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from durable_graph import CallError, CompiledGraph

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from durable_graph.server.house import ServerLimits as ServerLimits


def create_app(
    graphs: Mapping[str, CompiledGraph[Any]],
    *,
    token: str | Mapping[str, str] | None = None,
    read_only: bool = False,
    recover: bool = True,
    cors: Sequence[str] = (),
    hosts: Collection[str] | None = None,
    limits: ServerLimits | None = None,
    reads: str | None = None,
) -> Starlette:
    """An ASGI app that serves these graphs, by the ids that clients use.

    token: what `Authorization: Bearer` or `X-Api-Key` has to be; several as {name: token}, where the name of the one
        that was used is the actor that the log records. None: no token, for clients on this machine alone.
    read_only: nothing is run or changed. recover: at the start go on with threads of these graphs whose process died.
    cors: origins whose pages may use it, as "https://example.org"; by default none but its own.
    hosts: names that it may be called by; by default any with a token, and without one those of this machine. With
        names and without a token whoever reaches it may use it: something before it has to say who may come in.
    limits: sizes and times; see `ServerLimits`.
    reads: the URL of a replica of the graphs' database, which the inspector then looks at instead, and so shows a
        moment later. Whatever clients ask for, and what the inspector changes, goes to the database itself: who has
        changed something reads it at once. The graphs have to be in one database.

    Mounted in another app, its lifespan is not run by that: enter `app.state.house.lifespan()` in yours. When that ends
    streams end, so that clients come back, and runs stop after the step at hand, to be gone on with.
    Raises CallError where starlette is not installed; ArgumentError.
    """
    try:
        from durable_graph.server.app import app_of
        from durable_graph.server.house import House
        from durable_graph.server.house import ServerLimits as Limits
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "starlette":
            raise
        raise CallError(
            problem="the server needs starlette, which is not installed", fix="pip install 'durable-graph[server]'"
        ) from error
    house = House(graphs, read_only=read_only, recover=recover, limits=limits or Limits(), reads=reads)
    return app_of(house, token, cors, hosts)
