"""How one thing out of a log is told to a person: a state, a change, an entry of a timeline."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pprint import pformat
from typing import Any

from durable_graph import Change, PregelTask, StateSnapshot, Thread, TimelineEntry
from durable_graph.cli.show import STATUSES, Column, Output, asked, brief, lasting, short, size

MARKS = {"added": ("+", "green"), "removed": ("-", "red"), "changed": ("~", "yellow")}


# --- a state ----------------------------------------------------------------------------------


def tell_state(out: Output, thread: Thread, state: StateSnapshot) -> None:
    """All of it, on as many lines as it takes."""
    status = Column(thread.status, 0, STATUSES.get(thread.status, ""))
    _line(out, "thread", Column(thread.thread_id, 0, "bold"), status, Column(thread.graph))
    now = state.config["configurable"].get("step", "none yet")
    _line(out, "step", Column(now), Column(state.created_at or "", 0, "dim"))
    if thread.lease_owner is not None:
        _line(out, "run by", Column(thread.lease_owner), Column(f"since {thread.lease_since}", 0, "dim"))
    if thread.wake_at is not None:
        _line(out, "waits", Column(f"until {thread.wake_at}"))
    if thread.parent_thread_id is not None:
        what = "called by" if thread.called_by is not None else "fork of"
        _line(out, what, Column(thread.parent_thread_id), Column(f"step {thread.parent_step}", 0, "dim"))
    if actor := (state.metadata or {}).get("actor"):
        _line(out, "by", Column(actor))
    _line(out, "next", Column(", ".join(state.next) or ("end" if state.created_at else "an input"), 0, "bold"))
    _tell_tasks(out, state.tasks)
    _tell_values(out, state.values)


def _line(out: Output, name: str, *columns: Column) -> None:
    out.line({}, Column(name, 9, "dim"), *columns, whole=True)


def _tell_tasks(out: Output, tasks: tuple[PregelTask, ...], depth: int = 0) -> None:
    for task in tasks:
        indent = Column("", 9 + 2 * depth)
        name = Column(task.name, 0, "bold")
        if task.error is not None:
            out.line({}, indent, name, Column(f"failed: {task.error.removeprefix('builtins.')}", 0, "red"), whole=True)
        for question in task.interrupts:
            told = Column(asked(question, whole=True), 0, "cyan")
            out.line({}, indent, name, told, Column(f"({question.id})", 0, "dim"), whole=True)
        if task.result:
            out.line({}, indent, name, Column("has ended", 0, "green"), Column(brief(task.result)), whole=True)
        if isinstance(task.state, StateSnapshot):
            below = ", ".join(task.state.next) or "end"
            out.line({}, indent, name, Column(f"has a subgraph, next: {below}"), whole=True)
            _tell_tasks(out, task.state.tasks, depth + 1)


def _tell_values(out: Output, values: Any) -> None:
    if not isinstance(values, dict):
        values = {"": values}
    _line(out, "state", *([] if values else [Column("empty")]))
    width = max((len(str(key)) for key in values), default=0)
    for key, value in values.items():
        for place, text in enumerate(_lines(value, out.width - width - 6)):
            name = Column(key if not place else "", min(width, 40), "cyan")
            out.line({}, Column("", 2), name, Column(text), whole=True)


def _lines(value: Any, width: int) -> Iterator[str]:
    """A value as Python writes it, whole."""
    try:
        yield from pformat(value, width=max(width, 40), sort_dicts=False).splitlines() or [""]
    except RecursionError:
        yield repr(type(value))


# --- a change ---------------------------------------------------------------------------------


def tell_change(out: Output, change: Change) -> None:
    mark, style = MARKS[change.kind]
    if change.kind == "changed":
        told = [Column(short(change.before), 0, "red"), Column("->", 0, "dim"), Column(short(change.after))]
    else:
        told = [Column(short(change.before if change.kind == "removed" else change.after))]
    out.line(change._asdict(), Column(mark, 0, style), Column(change.path, 30, "bold"), *told)


# --- an entry of a timeline -------------------------------------------------------------------


def tell_entry(out: Output, entry: TimelineEntry) -> None:
    subject = Column(entry.node or entry.kind, 16, "bold")
    took = "" if entry.duration is None else lasting(entry.duration)
    step, at = Column(entry.step, -6, "dim"), Column(entry.created_at, 27, "dim")
    out.line(dataclasses.asdict(entry), step, at, subject, Column(took, -9), *_remarks(entry))


def _remarks(entry: TimelineEntry) -> Iterator[Column]:
    if entry.error is not None:
        yield Column(f"failed: {entry.error.removeprefix('builtins.')}", 0, "red")
    if entry.node is not None and entry.kind == "update":
        yield Column("update", 0, "yellow")
    for question in entry.interrupts:
        yield Column(asked(question), 0, "cyan")
    if entry.kind == "interrupt" and not entry.interrupts:
        yield Column("a pause, as was asked for", 0, "cyan")
    if entry.cached:
        yield Column("from the cache", 0, "cyan")
    if entry.attempt is not None and entry.attempt > 1:
        yield Column(f"attempt {entry.attempt}", 0, "yellow")
    if entry.child is not None:
        yield Column(f"ran {entry.child}", 0, "dim")
    if entry.origin is not None:
        yield Column(f"of {entry.origin[0]} step {entry.origin[1]}")
    elif entry.step and entry.parent_step != entry.step - 1:
        yield Column(f"goes back to step {entry.parent_step}", 0, "yellow")
    if entry.next:
        yield Column(f"next: {', '.join(entry.next)}")
    if entry.actor is not None and entry.task is None:
        yield Column(f"by {entry.actor}", 0, "cyan")
    if entry.bytes >= LARGE:
        yield Column(size(entry.bytes), 0, "yellow")


LARGE = 100_000  # bytes of a row that a person might want to know of
