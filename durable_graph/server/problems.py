"""Every error as application/problem+json (RFC 9457): what happened, and what to do next. Never a stack trace."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.responses import Response

from durable_graph import (
    ArgumentError,
    CallError,
    ChangedGraphError,
    CheckpointNotFoundError,
    CorruptCheckpointError,
    DurableGraphError,
    EmptyInputError,
    FencedError,
    NodeCodeError,
    StoreUnavailableError,
    ThreadBusyError,
    ThreadExistsError,
    ThreadNotFoundError,
    ThreadWaitingError,
    TooLargeError,
)
from durable_graph.server.plain import to_json

log = logging.getLogger("durable_graph")

STATUSES: tuple[tuple[type[Exception], int], ...] = (  # the first that fits
    (ThreadNotFoundError, 404),
    (CheckpointNotFoundError, 404),
    (ThreadBusyError, 409),
    (ThreadExistsError, 409),
    (ThreadWaitingError, 409),
    (EmptyInputError, 409),
    (FencedError, 409),
    (ChangedGraphError, 409),
    (TooLargeError, 413),
    (CallError, 422),
    (NodeCodeError, 422),
    (CorruptCheckpointError, 500),
    (StoreUnavailableError, 503),
    (TimeoutError, 503),
    (DurableGraphError, 500),
)
SHOWN = ("thread_id", "owner", "since", "step", "have", "open", "path", "key")  # facts that a client gets to see


class Problem(Exception):
    """An answer that is an error. `more`: further members of the document, such as the field or what exists."""

    def __init__(self, status: int, detail: str, *, headers: Mapping[str, str] | None = None, **more: Any) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})
        self.more = more

    def document(self) -> dict[str, Any]:
        title = HTTPStatus(self.status).phrase
        return {"type": "about:blank", "title": title, "status": self.status, "detail": self.detail, **self.more}

    def response(self) -> Response:
        content = to_json(self.document())
        return Response(content, self.status, self.headers, media_type="application/problem+json")


def problem_of(error: Exception) -> Problem:
    """What a client is told of an error. One that nobody expected is logged under a number that the client gets."""
    if isinstance(error, Problem):
        return error
    status = next((status for kind, status in STATUSES if isinstance(error, kind)), None)
    if status is None:
        number = uuid.uuid4().hex[:8]
        log.error("problem %s: %r", number, error, exc_info=error)
        return Problem(500, f"Something went wrong in the server; its log tells more under {number}.", number=number)
    facts = getattr(error, "facts", {})
    more = {name: facts[name] for name in SHOWN if facts.get(name) is not None}
    if isinstance(error, ArgumentError):
        more["field"] = facts.get("argument")
    if status >= 500:
        log.error("%s: %s", type(error).__name__, error)
    return Problem(status, str(error) or "It took too long.", error=type(error).__name__, **more)


def told(error: BaseException) -> dict[str, str]:
    """A run's error, as streams and results tell of it: LangGraph's form."""
    return {"error": type(error).__name__, "message": str(error)}
