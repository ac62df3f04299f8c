"""Threads, states, runs and assistants, in the form in which LangGraph's clients get them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import orjson

from durable_graph import PregelTask, StateSnapshot, Thread
from durable_graph.core.picture import Picture
from durable_graph.server import inside
from durable_graph.server.house import assistant_id

THREAD_STATUS = {
    "new": "idle",
    "finished": "idle",
    "running": "busy",
    "queued": "busy",
    "pending": "interrupted",  # broken off: there is something to go on with
    "interrupted": "interrupted",
    "waiting": "interrupted",
    "failed": "error",
}
RUN_STATUS = {"finished": "success", "failed": "error", "running": "running", "queued": "pending"}  # else interrupted


def metadata_of(thread: Thread, graph_id: str | None) -> dict[str, Any]:
    own = orjson.loads(thread.metadata or b"{}")
    if graph_id is None:
        return dict(own)
    return {"graph_id": graph_id, "assistant_id": assistant_id(graph_id), **own}


def thread_of(thread: Thread, graph_id: str | None, state: StateSnapshot | None) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "thread_id": thread.thread_id,
        "created_at": thread.created_at,
        "updated_at": thread.updated_at,
        "metadata": metadata_of(thread, graph_id),
        "status": THREAD_STATUS.get(thread.status, thread.status),
        "config": {},
        "context": {},
    }
    if state is not None:
        tasks = {task.id: interrupts_of(task.interrupts) for task in state.tasks if task.interrupts}
        shown |= {"values": None if state.created_at is None else state.values, "interrupts": tasks}
    return shown


def interrupts_of(interrupts: Iterable[Any]) -> list[dict[str, Any]]:
    return [{"value": interrupt.value, "id": interrupt.id} for interrupt in interrupts]


def state_of(state: StateSnapshot) -> dict[str, Any]:
    return {
        "values": state.values,
        "next": list(state.next),
        "tasks": [_task(task) for task in state.tasks],
        "metadata": state.metadata,
        "created_at": state.created_at,
        "checkpoint": checkpoint_of(state.config),
        "parent_checkpoint": None if state.parent_config is None else checkpoint_of(state.parent_config),
        "interrupts": interrupts_of(state.interrupts),
    }


def _task(task: PregelTask) -> dict[str, Any]:
    below = task.state
    return {
        "id": task.id,
        "name": task.name,
        "path": list(task.path),
        "error": task.error,
        "interrupts": interrupts_of(task.interrupts),
        "checkpoint": checkpoint_of(below) if isinstance(below, dict) else None,
        "state": state_of(below) if isinstance(below, StateSnapshot) else None,
        "result": task.result,
    }


def checkpoint_of(config: Mapping[str, Any]) -> dict[str, Any]:
    named = config.get("configurable", config)
    return {
        "thread_id": named.get("thread_id"),
        "checkpoint_ns": named.get("checkpoint_ns", ""),
        "checkpoint_id": named.get("checkpoint_id"),
        "checkpoint_map": None,
    }


def selected(shown: dict[str, Any], names: Sequence[str] | None) -> dict[str, Any]:
    """Only these fields; `values.key` is one key of the state."""
    if not names:
        return shown
    kept = {name: shown[name] for name in names if name in shown}
    keys = [name.removeprefix("values.") for name in names if name.startswith("values.")]
    if keys and "values" not in kept and isinstance(shown.get("values"), dict):
        kept["values"] = {key: shown["values"][key] for key in keys if key in shown["values"]}
    return kept


# --- runs -------------------------------------------------------------------------------------


def run_of(thread: Thread, graph_id: str | None, span: inside.Span, status: str) -> dict[str, Any]:
    return {
        "run_id": span.run_id,
        "thread_id": thread.thread_id,
        "assistant_id": assistant_id(graph_id) if graph_id is not None else thread.graph,
        "created_at": span.begun_at,
        "updated_at": span.ended_at,
        "status": status,
        "metadata": dict(span.metadata),
        "kwargs": {},
        "multitask_strategy": "reject",
    }


def with_status(thread: Thread, spans: Iterable[inside.Span]) -> Iterator[tuple[inside.Span, str]]:
    """Runs, newest first. One that was broken off and gone on with is where that one is."""
    newer: tuple[inside.Span, str] | None = None
    for span in spans:
        newer = span, _status(thread, span, newer)
        yield newer


def _status(thread: Thread, span: inside.Span, newer: tuple[inside.Span, str] | None) -> str:
    if newer is None and (thread.status == "running" or span.end == "running"):
        return RUN_STATUS.get(thread.status, "interrupted")
    if span.end != "running":
        return span.end
    return newer[1] if newer is not None and newer[0].goes_on else "interrupted"


# --- assistants -------------------------------------------------------------------------------


def assistant_of(graph_id: str, since: str) -> dict[str, Any]:
    return {
        "assistant_id": assistant_id(graph_id),
        "graph_id": graph_id,
        "name": graph_id,
        "description": None,
        "config": {},
        "context": {},
        "metadata": {"created_by": "system"},
        "version": 1,
        "created_at": since,
        "updated_at": since,
    }


def picture_of(picture: Picture) -> dict[str, Any]:
    nodes = [{"id": name, "type": _kind(name), "data": {"id": name, "name": name}} for name in picture.nodes]
    return {"nodes": nodes, "edges": [_edge(edge) for edge in picture.edges]}


def _kind(name: str) -> str:
    return "schema" if name in ("__start__", "__end__") else "runnable"


def _edge(edge: Any) -> dict[str, Any]:
    shown = {"source": edge.source, "target": edge.target, "conditional": edge.conditional}
    return shown if edge.label is None else {**shown, "data": edge.label}
