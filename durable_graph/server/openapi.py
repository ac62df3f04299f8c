"""The OpenAPI document, made from the table of endpoints: what is checked is what is shown."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import durable_graph
from durable_graph.server.endpoints import EVENTS, JSON, Endpoint

PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What happened, and what to do next."},
        "field": {"type": "string", "description": "Of the request, where one was wrong."},
        "exists": {"type": "array", "items": {"type": "string"}, "description": "What is there instead."},
        "owner": {"type": "string", "description": "Who runs a thread that is busy."},
    },
}
ALWAYS = (401, 403, 413, 422, 500, 503)  # problems that every endpoint may give
LAST_EVENT = {
    "name": "Last-Event-ID",
    "in": "header",
    "required": False,
    "description": "The id of the last event seen: the stream goes on behind it.",
    "schema": {"type": "string"},
}


def document(endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint)
    return {
        "openapi": "3.1.0",
        "info": {"title": "durable-graph", "version": durable_graph.__version__},
        "paths": paths,
        "components": {
            "schemas": {"Problem": PROBLEM},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
            },
        },
        "security": [{"bearer": []}, {"key": []}, {}],
    }


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    names = re.findall(r"{(\w+)}", endpoint.path)
    parameters = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names] + [
        {"name": name, "in": "query", "required": False, "schema": shape} for name, shape in endpoint.query.items()
    ]
    if endpoint.media == EVENTS:
        parameters.append(LAST_EVENT)
    shown: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", endpoint.summary.lower()).strip("_"),
        "summary": endpoint.summary,
        "tags": [endpoint.tag],
        "parameters": parameters,
        "responses": _responses(endpoint),
    }
    if endpoint.body is not None:
        content = {JSON: {"schema": endpoint.body}}
        shown["requestBody"] = {"required": endpoint.needs_body, "content": content}
    return shown


def _responses(endpoint: Endpoint) -> Mapping[str, Any]:
    good: dict[str, Any] = {"description": HTTPStatus(endpoint.status).phrase}
    if endpoint.status == 200:
        shape = {"type": "string"} if endpoint.media == EVENTS else endpoint.answer
        good["content"] = {endpoint.media: {"schema": shape}}
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    bad = {
        str(status): {"description": HTTPStatus(status).phrase, "content": problem}
        for status in sorted({*ALWAYS, *endpoint.problems})
    }
    return {str(endpoint.status): good, **bad}
