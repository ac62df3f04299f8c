"""`serve`: graphs over HTTP, until Ctrl-C or SIGTERM.

The rule: what somebody else could reach needs a token; if none is given, one is made up and told once.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import secrets
import socket
import threading
from typing import Any

import click

from durable_graph import CompiledGraph
from durable_graph.cli.ending import STOPPED, Failure, say
from durable_graph.cli.target import load_graph

TOKEN = "DURABLE_GRAPH_TOKEN"
PATIENCE = 5.0  # seconds after the grace for a node that cannot be cancelled; then the process ends under it


@click.command()
@click.argument("targets", metavar="[ID=]MODULE:GRAPH...", nargs=-1, required=True)
@click.option("--url", metavar="URL", help="The database; see durable-graph --help.")
@click.option("--read-url", "reads", metavar="URL", help="A replica of the database, for the inspector to look at.")
@click.option("--host", default="127.0.0.1", show_default=True, metavar="HOST", help="Where to listen.")
@click.option("--port", default=8123, show_default=True, type=click.IntRange(0, 65535), metavar="N", help="0: any.")
@click.option("--token", "tokens", multiple=True, metavar="[NAME=]TOKEN", help=f"Or ${TOKEN}; several with commas.")
@click.option("--read-only", is_flag=True, help="Show threads; run and change nothing.")
@click.option("--recover/--no-recover", default=True, help="At first go on with threads whose process died.")
@click.option("--cors", multiple=True, metavar="ORIGIN", help="Whose pages may use it, as in https://example.org.")
@click.option("--name", "hosts", multiple=True, metavar="HOST", help="A name that it may be called by.")
@click.option("--max-body", type=click.IntRange(min=1), metavar="BYTES", help="Of a request; 8 MiB by default.")
@click.option("--grace", type=click.FloatRange(min=0), default=10.0, show_default=True, metavar="SECONDS",
              help="At the end, so long for the step at hand.")  # fmt: skip
def serve(targets: tuple[str, ...], **settings: Any) -> None:
    """Serve graphs to web clients, to LangGraph's clients, and to the inspector in a browser.

    ID is what clients call a graph, by default its name in the module. Streams end when the server does, and clients
    that come back to the next one miss nothing.
    """
    _serve(_graphs(targets, settings.pop("url")), **settings)


def _graphs(targets: tuple[str, ...], url: str | None) -> dict[str, CompiledGraph[Any]]:
    graphs: dict[str, CompiledGraph[Any]] = {}
    for text in targets:
        name, _, target = text.rpartition("=")
        name = name or target.rpartition(":")[2]
        if name in graphs:
            raise Failure(2, f"two graphs have the id {name!r}: write OTHER={target}")
        graphs[name], _ = load_graph(target, url)
    return graphs


def _serve(
    graphs: dict[str, CompiledGraph[Any]],
    host: str,
    port: int,
    tokens: tuple[str, ...],
    read_only: bool,
    recover: bool,
    cors: tuple[str, ...],
    hosts: tuple[str, ...],
    max_body: int | None,
    grace: float,
    reads: str | None,
) -> None:
    from durable_graph.server import create_app

    try:
        import uvicorn

        from durable_graph.server.house import ServerLimits
    except ModuleNotFoundError as error:
        raise Failure(2, f"serve needs {error.name}: pip install 'durable-graph[server]'") from error
    limits = ServerLimits(grace=grace, **({} if max_body is None else {"body_bytes": max_body}))
    token = _token(tokens, host)
    names = [*hosts, host] if hosts or token is None else None
    settings: dict[str, Any] = {"read_only": read_only, "recover": recover, "reads": reads}
    app = create_app(graphs, token=token, cors=cors, hosts=names, limits=limits, **settings)

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            """First the streams end, as it waits for connections to."""
            timer = threading.Timer(grace + PATIENCE, _give_up)
            timer.daemon = True
            timer.start()
            app.state.house.close()
            await super().shutdown(sockets)
            timer.cancel()

    logging.getLogger("uvicorn.error").addFilter(_is_news)
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=int(grace + PATIENCE), lifespan="on")
    listening = listen(host, port)
    with listening:
        shown = f"[{host}]" if ":" in host else host
        url = f"http://{shown}:{listening.getsockname()[1]}"
        say(f"serving {', '.join(graphs)} on {url}")
        say(f"to look at their threads: {url}/inspector")
        Server(config).run(sockets=[listening])
    for graph in graphs.values():
        graph.close()


def listen(host: str, port: int) -> socket.socket:
    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise Failure(2, f"{host}:{port} cannot be listened on: {error.strerror or error}") from error
    # For all its connections. asyncio does so only where a socket names TCP, which one of create_server does not; and
    # without it an answer's body waits, often for 40 ms, until the client has acknowledged the head.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def _is_news(record: logging.LogRecord) -> bool:
    """That streams break off when the server ends is how clients learn of it."""
    return "without completing response" not in record.getMessage()


def _give_up() -> None:
    """A plain function that does not return cannot be stopped. What it does is in no row: the thread goes on before."""
    say("a node does not end; its thread is found again by recover")
    os._exit(STOPPED + 15)


def _token(given: tuple[str, ...], host: str) -> dict[str, str] | None:
    texts = given or tuple(filter(None, os.environ.get(TOKEN, "").split(",")))
    if not texts:
        if _is_loopback(host):
            return None
        made = secrets.token_urlsafe(24)
        say(f"the token, which is shown this once: {made}")
        return {"": made}
    pairs = [text.partition("=") if "=" in text else ("", "", text) for text in texts]
    if not all(token.strip("=") for _, _, token in pairs):  # base64 ends in "=": what stands before it is no name
        raise Failure(2, "--token: there is none behind the `=`; write NAME=TOKEN, or =TOKEN for one that holds a `=`")
    tokens = {name: token for name, _, token in pairs}
    if len(tokens) < len(pairs):
        raise Failure(2, "--token: several need a name each, as in NAME=TOKEN")
    return tokens


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
