"""Who may come in: a token, the names this server goes by, and pages of other origins.

The rule: decided on headers alone, before anything is read or looked up. Without a token only programs on the same
machine may use the server; so that no web page that a person there has open can use it through their browser, the
Host has to be a name of this machine (against DNS rebinding), and an Origin has to be allowed. With a simple GET a page
sends no Origin, but the browser says in Sec-Fetch-Site that it is another one's.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Collection, Mapping, Sequence
from ipaddress import IPv6Address, ip_address
from urllib.parse import unquote

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from durable_graph import ArgumentError
from durable_graph.server.problems import Problem

OPEN = frozenset({"/ok", "/ready"})  # what needs no token; and the inspector's own files, which hold no data
LOCAL = frozenset({"localhost", "127.0.0.1", "::1", "[::1]"})
METHODS = "GET, POST, PATCH, DELETE, OPTIONS"
ALLOWED = "authorization, content-type, last-event-id, x-actor, x-api-key"
EXPOSED = "content-location, location, x-pagination-next, x-pagination-total"
ACTOR_LENGTH = 200
ORIGIN = r"\*|[a-z][a-z0-9+.-]*://[^/?#\s]+"


def named_tokens(token: str | Mapping[str, str] | None) -> dict[str, str]:
    """By name; one without a name has the empty one. Raises ArgumentError: an empty one would let everybody in."""
    if token is None:
        return {}
    found = {"": token} if isinstance(token, str) else dict(token)
    if not found or not all(re.fullmatch("[!-~]+", text) for text in found.values()):
        problem = "it is empty, or has blanks or letters that no header holds" if found else "there is none in it"
        raise ArgumentError(argument="token", problem=problem, fix="Give printable ASCII, or None for no token.")
    return found


def checked_origins(cors: Sequence[str]) -> frozenset[str]:
    """Raises ArgumentError, also for one text: its letters are no origins, and one of them may be a `*`."""
    wrong = [cors] if isinstance(cors, str) else [each for each in cors if not re.fullmatch(ORIGIN, each)]
    if wrong:
        fix = 'Give a list, as ["https://example.org"], or ["*"] for all pages.'
        raise ArgumentError(argument="cors", problem=f"{wrong[0]!r} is no list of origins", fix=fix)
    return frozenset(cors)


def checked_hosts(hosts: Collection[str] | None) -> Collection[str] | None:
    if isinstance(hosts, str):
        raise ArgumentError(argument="hosts", problem=f"{hosts!r} is one text", fix="Give a list of names.")
    return hosts


class Guard:
    """ASGI middleware."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        tokens: Mapping[str, str],
        origins: Collection[str],
        hosts: Collection[str] | None,
        is_local: bool,
    ) -> None:
        self._app = app
        self._is_local = is_local  # for programs on this machine alone
        self._tokens = {name: token.encode() for name, token in tokens.items()}
        self._origins = frozenset(origins)
        self._hosts = None if hosts is None else {host.lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope = _with_slashes(scope)
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        refused = self._refused(scope, headers, origin)
        allowed = origin if origin is not None and self._is_listed(origin) else None
        if refused is not None:
            await refused.response()(scope, receive, _with_cors(send, allowed))
        elif allowed is not None and _asks_first(scope, headers):
            await _preflight(allowed)(scope, receive, send)
        else:
            await self._app(scope, receive, _with_cors(send, allowed))

    def _refused(self, scope: Scope, headers: Headers, origin: str | None) -> Problem | None:
        host = headers.get("host", "")
        if self._hosts is not None and _name_of(host) not in self._hosts:
            return Problem(421, f"This server does not go by the name {host!r}.")
        if self._is_local and not _is_here(scope):
            return Problem(403, "Without a token only this machine may use this server; its option `token` sets one.")
        if origin is not None and not self._is_listed(origin) and not _is_own(origin, host):
            return Problem(403, f"Pages of {origin} may not use this server; its option `cors` says which may.")
        if origin is None and _is_of_other_page(headers) and not _is_open(scope) and not self._is_listed("*"):
            return Problem(403, "Other pages may not use this server; its option `cors` says which may.")
        if _asks_first(scope, headers):
            return None  # a browser's question, which carries no token
        name = self._caller(headers)
        if name is None and not _is_open(scope):
            return Problem(
                401,
                "A token is needed: send the header `Authorization: Bearer TOKEN`, or X-Api-Key.",
                headers={"www-authenticate": "Bearer"},
            )
        actor = name or headers.get("x-actor", "")[:ACTOR_LENGTH]
        if actor:
            scope["durable_graph.actor"] = actor
        return None

    def _is_listed(self, origin: str) -> bool:
        return origin in self._origins or "*" in self._origins

    def _caller(self, headers: Headers) -> str | None:
        """The name of the token that was given; None if none was, and one is needed."""
        if not self._tokens:
            return ""
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = (token if scheme.lower() == "bearer" else headers.get("x-api-key", "")).strip().encode()
        found = [name for name, wanted in self._tokens.items() if hmac.compare_digest(wanted, given)]  # all of them
        return found[0] if found else None


def _is_here(scope: Scope) -> bool:
    """Whether a program on this machine asks: by a loopback address or, as through a Unix socket, by none."""
    name = (scope.get("client") or ("",))[0]
    try:
        address = ip_address(name)
    except ValueError:
        return True
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


def _is_own(origin: str, host: str) -> bool:
    return bool(host) and origin.partition("://")[2].lower() == host.lower()


def _is_of_other_page(headers: Headers) -> bool:
    return headers.get("sec-fetch-site") in ("cross-site", "same-site")


SLASH = "\0"  # no id holds one


def _with_slashes(scope: Scope) -> Scope:
    """A %2F belongs to an id, as those of subgraphs' threads, and is no border between two parts of the path."""
    raw = (scope.get("raw_path") or b"").partition(b"?")[0].decode("ascii", "replace")
    if not re.search("%2f|%00", raw, re.IGNORECASE):
        return scope
    parts = [unquote(part).replace(SLASH, "\ufffd").replace("/", SLASH) for part in raw.split("/")]
    return {**scope, "path": "/".join(parts)}


def _name_of(host: str) -> str:
    return host.lower() if host.endswith("]") else host.rpartition(":")[0].lower() or host.lower()


def path_of(scope: Scope) -> str:
    """Below where the app is mounted."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", "")) or "/"


def _is_open(scope: Scope) -> bool:
    path = path_of(scope)
    files = path == "/" or path == "/inspector" or path.startswith("/inspector/")
    return path in OPEN or (files and not path.startswith("/inspector/api"))


def _asks_first(scope: Scope, headers: Headers) -> bool:
    return scope["method"] == "OPTIONS" and "access-control-request-method" in headers


def _preflight(origin: str) -> Response:
    headers = {
        "access-control-allow-origin": origin,
        "access-control-allow-methods": METHODS,
        "access-control-allow-headers": ALLOWED,
        "access-control-max-age": "600",
        "vary": "Origin",
    }
    return Response(status_code=204, headers=headers)


def _with_cors(send: Send, origin: str | None) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["x-content-type-options"] = "nosniff"
            headers.setdefault("cache-control", "no-store")
            if origin is not None:
                headers["access-control-allow-origin"] = origin
                headers["access-control-expose-headers"] = EXPOSED
                headers.add_vary_header("Origin")
        await send(message)

    return sending


def local_hosts(names: Sequence[str]) -> set[str]:
    return {*LOCAL, *names}
