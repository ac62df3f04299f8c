"""Assistants: one for each graph, made by the server and by nobody else."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from durable_graph import CallError, CompiledGraph
from durable_graph.server.endpoints import Call, Endpoint
from durable_graph.server.shapes import FLAG, OBJECT, TEXT, TEXTS, fields, number, one_of
from durable_graph.server.shown import assistant_of, picture_of, selected

TAG = "assistants"
SEARCH = fields(
    metadata=OBJECT,
    graph_id=TEXT,
    name=TEXT,
    limit=number(1, 1000),
    offset=number(),
    sort_by=one_of("assistant_id", "graph_id", "name", "created_at", "updated_at"),
    sort_order=one_of("asc", "desc"),
    select=TEXTS,
)
COUNT = fields(metadata=OBJECT, graph_id=TEXT, name=TEXT)


def _found(call: Call) -> list[dict[str, Any]]:
    body = call.body
    every = [assistant_of(graph_id, call.house.since) for graph_id in call.house.graphs]
    found = [each for each in every if _fits(each, body)]
    found.sort(key=lambda each: each[body.get("sort_by", "graph_id")], reverse=body.get("sort_order") == "desc")
    return found


def _fits(assistant: Mapping[str, Any], body: Mapping[str, Any]) -> bool:
    named = body.get("name", "").lower() in assistant["name"].lower()
    own = (body.get("metadata") or {}).items() <= assistant["metadata"].items()
    return named and own and body.get("graph_id") in (None, assistant["graph_id"])


async def search(call: Call) -> Any:
    start = call.body.get("offset", 0)
    page = _found(call)[start : start + call.body.get("limit", 10)]
    return [selected(each, call.body.get("select")) for each in page]


async def count(call: Call) -> Any:
    return len(_found(call))


async def get(call: Call) -> Any:
    graph_id, _ = call.house.graph(call.path["assistant_id"])
    return assistant_of(graph_id, call.house.since)


async def get_graph(call: Call) -> Any:
    _, graph = call.house.graph(call.path["assistant_id"])
    xray = call.query.get("xray", "false").lower()
    depth: int | bool = int(xray) if re.fullmatch(r"\d{1,4}", xray) else xray == "true"
    return picture_of(graph.get_graph(xray=depth))


async def get_schemas(call: Call) -> Any:
    graph_id, graph = call.house.graph(call.path["assistant_id"])
    return _schemas(graph_id, graph)


def _schemas(graph_id: str, graph: CompiledGraph[Any]) -> dict[str, Any]:
    """Null where there is none to be had: that takes pydantic, and types that it can describe."""
    return {
        "graph_id": graph_id,
        "input_schema": _schema(graph.get_input_jsonschema),
        "output_schema": _schema(graph.get_output_jsonschema),
        "state_schema": _schema(graph.get_output_jsonschema),
        "config_schema": None,
        "context_schema": _schema(graph.get_context_jsonschema),
    }


def _schema(make: Any) -> dict[str, Any] | None:
    try:
        made: dict[str, Any] | None = make()
    except CallError:
        return None
    except Exception as error:  # pydantic's own, for a type that it cannot describe
        if type(error).__module__.split(".")[0] == "pydantic":
            return None
        raise
    return made


async def get_subgraphs(call: Call) -> Any:
    _, graph = call.house.graph(call.path["assistant_id"])
    found = graph.get_subgraphs(namespace=call.path.get("namespace"), recurse=call.query.get("recurse", False))
    return {name: _schemas(below.name, below) for name, below in found}


PATH = "/assistants/{assistant_id}"
RECURSE = {"recurse": FLAG}
ENDPOINTS: Sequence[Endpoint] = (
    Endpoint("POST", "/assistants/search", search, "Search assistants", TAG, SEARCH, needs_body=False),
    Endpoint("POST", "/assistants/count", count, "Count assistants", TAG, COUNT, needs_body=False),
    Endpoint("GET", PATH, get, "Get an assistant", TAG, problems=(404,)),
    Endpoint("GET", f"{PATH}/graph", get_graph, "Get the drawing", TAG, query={"xray": TEXT}, problems=(404,)),
    Endpoint("GET", f"{PATH}/schemas", get_schemas, "Get the schemas", TAG, problems=(404,)),
    Endpoint("GET", f"{PATH}/subgraphs", get_subgraphs, "Get subgraphs", TAG, query=RECURSE, problems=(404,)),
    Endpoint(
        "GET", f"{PATH}/subgraphs/{{namespace}}", get_subgraphs, "Get a subgraph", TAG, query=RECURSE, problems=(404,)
    ),
)
