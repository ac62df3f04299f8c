"""The inspector: a page that shows the threads of a database, and can go on with them.

The rule: everything the page needs is served here, so it works offline; its Content-Security-Policy lets it load from
nowhere else and run no script but its own. The page itself is public. What it shows comes from /inspector/api/, which
is behind the server's guard as everything else is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from durable_graph.server.house import House
from durable_graph.server.inspector.acting import ACTING
from durable_graph.server.inspector.live import live_of
from durable_graph.server.inspector.reading import READING

PAGE = "/inspector"
STATIC = Path(__file__).with_name("static")
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
POLICY = (
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self' blob:",
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    "require-trusted-types-for 'script'",  # so that nothing in the page can parse markup
    "trusted-types 'none'",
)
# What may have changed is asked for again each time, and not sent again if it is the same. An icon may be old.
AGES = {".svg": "max-age=3600"}
HEADERS = {
    "Content-Security-Policy": "; ".join(POLICY),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",  # addresses name threads
    "X-Content-Type-Options": "nosniff",
}


def routes(house: House) -> list[Route]:
    """The page under /inspector/, and its JSON under /inspector/api/."""
    api = [endpoint.route(house) for endpoint in (*READING, *ACTING, live_of(house))]
    return [Route(PAGE, _to_the_page), *_files(), *api]


async def _to_the_page(request: Request) -> Response:
    """Addresses in the page are relative, so that it works below whatever path the app is mounted at."""
    query = request.scope["query_string"].decode("latin-1")
    return RedirectResponse(f"inspector/?{query}" if query else "inspector/")


def _files() -> Iterator[Route]:
    for path in sorted(STATIC.iterdir()):
        if path.suffix in TYPES:
            yield _file(path)


def _file(path: Path) -> Route:
    content, kind = path.read_bytes(), f"{TYPES[path.suffix]}; charset=utf-8"
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'

    async def send(request: Request) -> Response:
        headers = {**HEADERS, "ETag": tag, "Cache-Control": AGES.get(path.suffix, "no-cache")}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, headers={**headers, "Content-Type": kind})

    return Route(f"{PAGE}/{'' if path.name == 'index.html' else path.name}", send)
