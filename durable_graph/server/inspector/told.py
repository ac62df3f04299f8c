"""Threads, rows, questions and figures as the page reads them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from durable_graph import Change, Interrupt, PregelTask, Stats, Thread, TimelineEntry, Wait
from durable_graph.server.inspector.values import TEXT, VALUES, shown

FEW = 100  # values of what comes many times in an answer
ENTRY = (
    "step", "parent_step", "kind", "superstep", "node", "task", "run_id", "attempt", "cached", "actor", "started_at",
    "created_at", "duration", "bytes", "next", "error", "failures", "child",
)  # fmt: skip


def told_thread(thread: Thread, known: Collection[str]) -> dict[str, Any]:
    """`known`: the names of the graphs that the server has."""
    parent = {"thread": thread.parent_thread_id, "step": thread.parent_step}
    return {
        "id": thread.thread_id,
        "graph": thread.graph,
        "known": thread.graph in known,
        "status": thread.status,
        "created_at": thread.created_at,
        "updated_at": thread.updated_at,
        "parent": None if thread.parent_thread_id is None else parent,
        "called_by": thread.called_by,
        "owner": thread.lease_owner,
        "owner_since": thread.lease_since,
        "wake_at": thread.wake_at,
    }


def told_entry(entry: TimelineEntry) -> dict[str, Any]:
    origin = None if entry.origin is None else {"thread": entry.origin[0], "step": entry.origin[1]}
    interrupts = [_interrupt(interrupt, FEW) for interrupt in entry.interrupts[:FEW]]
    told = {name: getattr(entry, name) for name in ENTRY}
    error = None if entry.error is None else entry.error[:TEXT]
    return {**told, "next": told_names(entry.next), "error": error, "origin": origin, "interrupts": interrupts}


def told_names(names: Sequence[str]) -> list[str]:
    """Each once, with how often it comes: a map may have thousands of tasks of one node."""
    counts = [*Counter(names).items()]
    told = [name if count == 1 else f"{name} ({count} times)" for name, count in counts[:FEW]]
    return [*told, "…"] if len(counts) > FEW else told


def _interrupt(interrupt: Interrupt, values: int = VALUES) -> dict[str, Any]:
    value = interrupt.value
    if isinstance(value, Wait):
        return {"id": interrupt.id, "value": None, "wait": {"until": value.until, "signal": value.signal}}
    return {"id": interrupt.id, "value": shown(value, values), "wait": None}


def told_question(task: PregelTask, interrupt: Interrupt) -> dict[str, Any]:
    return {**_interrupt(interrupt), "node": task.name, "task": task.id}


def told_task(task: PregelTask) -> dict[str, Any]:
    state = "failed" if task.error else "waiting" if task.interrupts else "next" if task.result is None else "done"
    return {"node": task.name, "state": state, "words": task.error}


def told_error(entry: TimelineEntry, metadata: Mapping[str, Any]) -> dict[str, Any] | None:
    if entry.error is None:
        return None
    told = metadata.get("error")
    return {"text": entry.error, "traceback": told.get("traceback") if isinstance(told, dict) else None}


def told_change(change: Change) -> dict[str, Any]:
    before, after = shown(change.before, FEW), shown(change.after, FEW)
    return {"path": change.path, "kind": change.kind, "before": before, "after": after}


def told_stats(stats: Stats) -> dict[str, Any]:
    nodes = [{"name": name, **asdict(node), "mean": node.mean} for name, node in stats.nodes.items()]
    return {**asdict(stats), "nodes": nodes}
