"""Where the runs of a thread's subgraphs stand. Runs no user code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from durable_graph.core.address import Place, places, thread_of, way_down
from durable_graph.core.history import Decoder, decode_body, load
from durable_graph.core.position import Position
from durable_graph.errors import ThreadNotFoundError
from durable_graph.store import Store


class Standing(NamedTuple):
    """Where the run of a subgraph is found: in a thread of its own or, when the graph above was forked or went back in
    time and has not gone on yet, at a step of the thread that it will be a fork of."""

    thread_id: str
    step: int | None  # None: the newest
    children: Mapping[str, Any]  # where its own subgraphs go on from, if not from where that step says
    task: str  # that it runs in: "<thread above>/<task>"
    position: Position


def standing_at(store: Store, codec: Decoder, root: str, ns: Sequence[str]) -> Standing | None:
    """Where the run at this namespace below the thread `root` stands; None if there is none."""
    position = load(store, codec, root)
    if position is None:
        return None
    found, name = Standing(root, None, {}, "", position), root
    for place in places(ns):
        above, name = name, place.thread(name)
        position = load(store, codec, name)
        if position is not None:
            found = Standing(name, None, {}, str(position.run.get("task", "")), position)
            continue
        task, child = _child(found.position, place)
        if child is None:
            return None
        position = load(store, codec, child[0], child[1])
        if position is None:
            return None
        position._know({"children": child[2]})
        found = Standing(child[0], child[1], child[2], f"{above}/{task}", position.forked())
    return found


def _child(position: Position, place: Place) -> tuple[str, Any]:
    """The task that called the subgraph at this place, and where that stood."""
    for task, children in position.children.items():
        if place.key in children and place.task in (task, None):
            return task, children[place.key]
    return "", None


def way_inside(
    store: Store, codec: Decoder, root: str, ns: Sequence[str], step: int | None
) -> tuple[int | None, Mapping[str, Any]]:
    """How the thread `root` goes on from a step of a subgraph's run: its own step, and where the subgraphs of its
    pending tasks go on from. (None, {}) if that is where it stands anyway."""
    if step is None:
        return None, {}
    stands, children = True, dict[str, Any]()
    levels = way_down(ns)
    for place, upper, lower in reversed([*zip(places(ns), levels, levels[1:], strict=False)]):
        above, name = thread_of(root, upper), thread_of(root, lower)
        top, now = standing_at(store, codec, root, upper), standing_at(store, codec, root, lower)
        if now is None or top is None:
            raise ThreadNotFoundError(thread_id=name, store=store.name)
        then = load(store, codec, now.thread_id, step)
        assert then is not None
        begun = now.thread_id == name
        task = (str(then.run.get("task", "")) if begun else now.task).removeprefix(f"{above}/")
        newest = now.position.tail if now.step is None else now.step
        pending = {pending.id for pending in top.position.pending}
        stands = stands and step == newest and task.partition("/")[0] in pending
        children = {task: {place.key: [now.thread_id, step, children]}}
        step = _step_above(store, codec, above, task, name, step) if begun and not stands else top.position.step
    return (None, {}) if stands else (step, children)


def _step_above(store: Store, codec: Decoder, above: str, task: str, thread_id: str, step: int) -> int:
    """Where the graph above stood when its subgraph stood at `step`: at the row that told so, else at the one
    that planned the task."""
    number = task.partition(".")[0]
    planned = int(number) if number.isdecimal() else 0
    for row in store.rows(above, after=planned):
        body = decode_body(codec, row)
        if row.parent_step != row.step - 1 or "next" in body:
            break
        told = row.kind != "task" and row.task == task
        if told and any(mark[2] == thread_id and mark[4] == step for mark in body.get("below", ())):
            return row.step
    return planned
