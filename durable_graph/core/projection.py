"""What each stream mode shows of what happened. Live streams and replays use the same functions.

    mode          of a row                             of a task that begins    of a custom event
    updates       {node: update}
    values        the state, if it changed
    custom                                                                      its data
    messages      messages written, with metadata      (a part of a message that is still being made)
    tasks         the result or the error              the input
    checkpoints   a barrier's state, as get_state
    debug         tasks and checkpoints, in wrappers   the same
    events        a StreamEvent

Everything shown is a copy: what a consumer does to it changes nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from durable_graph.core.channels import MISSING, detached
from durable_graph.core.effects import Begun, Emission, Recorded, Relayed, Shown, Token
from durable_graph.core.model import Interrupt, PregelTask, StateSnapshot, StreamEvent, Task
from durable_graph.core.output import messages_in
from durable_graph.core.position import Later, Position, Stand, Update, pairs
from durable_graph.core.tokens import id_of
from durable_graph.errors import ArgumentError

RETURN = "__return__"
INTERRUPT = "__interrupt__"
METADATA = "__metadata__"  # LangGraph's: beside the node's name, in what did not come from a call of the node
NAMESPACE = "langgraph_checkpoint_ns"  # in a message's metadata: the way down to its task
SOURCES = {"input": "input", "update": "update", "fork": "fork"}  # metadata["source"]; else "loop"


class View:
    """How a thread is shown: which keys count as its output, and what a node's input is."""

    shows_input = True  # an accepted input changes what is seen as the state

    def __init__(
        self,
        keys: Sequence[str] = (),
        inputs: Callable[[Task, Mapping[str, Any]], Any] | None = None,
        messages: frozenset[str] = frozenset({"messages"}),
        output: Sequence[str] | None = None,
    ) -> None:
        self.messages = messages  # keys that hold lists of messages
        self._keys = keys  # that come first, in this order
        self._output = output  # None: all keys, also those that only an older graph had
        self._inputs = inputs

    def only(self, keys: str | Sequence[str]) -> View:
        """The same, showing fewer keys."""
        output = (keys,) if isinstance(keys, str) else tuple(keys)
        return type(self)(self._keys, self._inputs, self.messages, output)

    def values(self, position: Position | Stand, *, own: bool = False) -> dict[str, Any]:
        """The state. `own`: the position was read for this alone, so its values need not be copied."""
        values = position.values
        keys = dict.fromkeys((*self._keys, *values)) if self._output is None else self._output
        return {key: values[key] if own else detached(values[key]) for key in keys if key in values}

    def update(self, update: Update) -> Any:
        """An update as events show it: only output keys, None where nothing was written."""
        if isinstance(update, list):
            return [self.update(part) for part in update]
        if update is None:
            return None
        keep = self._output
        return {k: detached(v) for k, v in update.items() if keep is None or k in keep} or None

    def result(self, update: Update) -> dict[str, Any]:
        """In LangGraph's form: a key that was written more than once has {"$writes": [...]}."""
        writes: dict[str, list[Any]] = {}
        for key, value in pairs(update):
            if self._output is None or key in self._output:
                writes.setdefault(key, []).append(detached(value))
        return {key: values[0] if len(values) == 1 else {"$writes": values} for key, values in writes.items()}

    def written(self, update: Update) -> Iterable[tuple[str, Any]]:
        """An update's writes in which messages are looked for."""
        return pairs(update)

    def input(self, task: Task, position: Position) -> Any:
        if task.arg is not MISSING:
            return detached(task.arg)
        if self._inputs is None:
            return detached(dict(position.values))
        return self._inputs(task, position.values)


# --- snapshots --------------------------------------------------------------------------------


def config_of(thread_id: str, step: int, ns: Sequence[str] = ()) -> dict[str, Any]:
    """The config that names this step: give it to stream, get_state, fork ..."""
    return {
        "configurable": {
            "thread_id": thread_id,
            "checkpoint_ns": "|".join(ns),
            "checkpoint_id": str(step),
            "step": step,
        }
    }


def metadata_of(position: Position | Stand) -> dict[str, Any]:
    run = position.run
    shown = {
        "source": SOURCES.get(position.kind, "loop"),
        "step": position.step,
        "superstep": position.superstep,
        "run_id": position.run_id,
        "parents": {},
    }
    if "metadata" in run:
        shown.update(detached(dict(run["metadata"])))
    if run.get("tags"):
        shown["tags"] = list(run["tags"])
    return shown


class Address(NamedTuple):
    """By which names a thread is asked for: its own or, for a subgraph's run, those of the thread above all."""

    thread_id: str
    root: str
    ns: tuple[str, ...] = ()
    parents: Mapping[str, str] = {}  # the step of the graph above that planned its task, by that graph's namespace

    def config(self, thread_id: str, step: int) -> dict[str, Any]:
        return config_of(self.root, step, self.ns) if thread_id == self.thread_id else config_of(thread_id, step)


def snapshot_of(
    view: View,
    position: Position | Stand,
    address: Address | None = None,
    later: Later | None = None,
    *,
    states: Sequence[Any] = (),
    own: bool = False,
) -> StateSnapshot:
    """`later`: what has become of the tasks since. `states`: of the subgraphs that the tasks
    run. `own`: as for `View.values`."""
    address = address or Address(position.thread_id, position.thread_id)
    found: Position | Stand | Later = position if later is None else later
    tasks = tuple(
        [_task_of(view, found, task, states[place] if states else None) for place, task in enumerate(position.tasks)]
    )
    metadata = metadata_of(position)
    metadata["parents"] = dict(address.parents)
    return StateSnapshot(
        view.values(position, own=own),
        position.next,
        address.config(position.thread_id, position.step),
        metadata,
        position.created_at,
        address.config(*position.parent) if position.parent is not None else None,
        tasks,
        tuple([interrupt for task in tasks for interrupt in task.interrupts]),
    )


def open_interrupts(position: Position) -> tuple[Interrupt, ...]:
    """The questions that wait for an answer, in task order."""
    return tuple([found for task in position.tasks for found in _asked(position, task)])


def _asked(position: Position | Stand | Later, task: Task) -> tuple[Interrupt, ...]:
    if task.id not in position.questions:
        return ()
    return tuple([Interrupt(detached(q.interrupt.value), q.interrupt.id) for q in position.questions[task.id]])


def _task_of(view: View, found: Position | Stand | Later, task: Task, state: Any) -> PregelTask:
    failure = found.errors.get(task.id)
    error = f"{failure.type}: {failure.message}" if failure else None
    result = view.update(found.done[task.id]) or {} if task.id in found.done else None
    place = int(task.id.rpartition(".")[2])
    return PregelTask(task.id, task.node, ("task", task.node, place), error, _asked(found, task), state, result)


def empty_snapshot(config: Mapping[str, Any]) -> StateSnapshot:
    return StateSnapshot({}, (), dict(config), None, None, None, (), ())


# --- modes ------------------------------------------------------------------------------------


def _updates(view: View, it: Emission) -> Iterable[Any]:
    if not isinstance(it, Recorded):
        return ()
    kind = it.row.kind
    if kind == "interrupt":
        return ({INTERRUPT: interrupts_of(it)},)
    if kind != "task":
        return ()
    body = it.body
    shown = {it.row.node: detached(body["result"]) if "result" in body else view.update(body.get("update"))}
    return ({**shown, **_remark(it)} if "cached" in body else shown,)


def _remark(it: Recorded) -> dict[str, Any]:
    return {METADATA: {"cached": True}} if "cached" in it.body else {}


def _values(view: View, it: Emission) -> Iterator[Any]:
    if not isinstance(it, Recorded):
        return
    if it.row.kind == "input" and not view.shows_input:
        return
    if it.changed or it.row.kind == "resume":
        yield view.values(it.position)
    elif it.row.kind == "interrupt" and it.row.task is not None:
        values: Any = view.values(it.position)  # of an entrypoint it need not be a dict
        yield {**(values if isinstance(values, dict) else {}), INTERRUPT: interrupts_of(it)}


def interrupts_of(it: Recorded) -> tuple[Interrupt, ...]:
    return tuple([Interrupt(detached(value), name) for value, name, _ in it.body["interrupts"]])


def _custom(view: View, it: Emission) -> Iterator[Any]:
    if isinstance(it, Shown):
        yield detached(it.data)


def _tasks(view: View, it: Emission) -> Iterator[Any]:
    if isinstance(it, Begun):
        for task in it.tasks:
            yield {
                "id": task.id,
                "name": task.node,
                "input": view.input(task, it.position),
                "triggers": task.triggers,
            }
    elif isinstance(it, Recorded) and it.row.task is not None:
        error = it.body.get("error")
        yield {
            "id": it.row.task,
            "name": it.row.node,
            "error": f"{error['type']}: {error['message']}" if error else None,
            "result": {RETURN: detached(it.body["result"])}
            if "result" in it.body
            else view.result(it.body.get("update")),
            "interrupts": [_shown(found) for found in interrupts_of(it)] if "interrupts" in it.body else [],
            **_remark(it),
        }


def _checkpoints(view: View, it: Emission) -> Iterator[Any]:
    if not isinstance(it, Recorded) or not it.barrier:
        return
    snapshot = snapshot_of(view, it.position)
    yield {
        "config": snapshot.config,
        "parent_config": snapshot.parent_config,
        "values": snapshot.values,
        "metadata": snapshot.metadata,
        "next": list(snapshot.next),
        "tasks": [
            {"id": t.id, "name": t.name, "interrupts": tuple(map(_shown, t.interrupts)), "state": t.state}
            for t in snapshot.tasks
        ],
    }


def _shown(interrupt: Interrupt) -> dict[str, Any]:
    return {"value": interrupt.value, "id": interrupt.id}


def _debug(view: View, it: Emission) -> Iterator[Any]:
    if isinstance(it, Begun):
        kind, at, superstep = "task", it.position.created_at, it.position.superstep + 1
    elif isinstance(it, Recorded):
        kind, at, superstep = "task_result", it.row.created_at, it.row.superstep
    else:
        return
    payloads = [(kind, payload) for payload in _tasks(view, it)]
    payloads += [("checkpoint", payload) for payload in _checkpoints(view, it)]
    for kind, payload in payloads:
        yield {"step": superstep, "timestamp": at, "type": kind, "payload": payload}


def _events(view: View, it: Emission) -> Iterator[Any]:
    if isinstance(it, Recorded):
        yield event_of(view, it)


def event_of(view: View, it: Recorded) -> StreamEvent:
    row, position = it.row, it.position
    metadata = metadata_of(position)
    metadata.update(
        step=row.step,
        superstep=row.superstep,
        run_id=row.run_id,
        parent_step=row.parent_step,
        task=row.task,
        attempt=it.body.get("attempt", 1) if row.task else None,
    )
    if "interrupts" in it.body:
        metadata["interrupts"] = interrupts_of(it)
    if "cached" in it.body:
        metadata["cached"] = True
    if "error" in it.body:
        metadata["error"] = dict(it.body["error"])
    return StreamEvent(
        row.thread_id,
        row.step,
        row.kind,
        row.node,
        detached(it.body["result"]) if "result" in it.body else view.update(it.body.get("update")),
        view.values(position),
        position.next,
        metadata,
        it.body.get("started"),
        row.created_at,
    )


def _messages(view: View, it: Emission) -> Iterator[Any]:
    """LangGraph's (message, metadata): each part as it came, and of what a node wrote the messages that are news."""
    if isinstance(it, Token):
        metadata = task_metadata(_run_metadata(it.position), it.position.thread_id, it.position.superstep + 1, it.task)
        yield detached(it.message), detached({**metadata, **it.extra})
    elif isinstance(it, Recorded) and it.task is not None and it.row.kind == "task":
        row = it.row
        metadata = task_metadata(_run_metadata(it.position), row.thread_id, row.superstep, it.task)
        seen = set(it.body.get("seen", ()))
        for message in _written(view, it.body):
            name = id_of(message)
            if name not in seen:
                yield detached(message), detached({**metadata, "step": row.step})
            seen |= {name} - {None}


def _run_metadata(position: Position) -> Mapping[str, Any]:
    found: Mapping[str, Any] = position.run.get("metadata", {})
    return found


def _written(view: View, body: Mapping[str, Any]) -> Iterator[Any]:
    if "result" in body:  # of a @task
        result = body["result"]
        for value in result.values() if isinstance(result, dict) else (result,):
            yield from messages_in(value, False)
    for key, value in view.written(body.get("update")):
        yield from messages_in(value, key in view.messages)


PLACE = frozenset({"thread_id", "langgraph_step", "langgraph_node", "langgraph_triggers", "langgraph_path", NAMESPACE})


def task_metadata(metadata: Mapping[str, Any], thread_id: str, superstep: int, task: Task) -> dict[str, Any]:
    """LangGraph's names for where a task is, for messages and for what chat models tell their callbacks."""
    place = int(task.id.rpartition(".")[2].rpartition("/")[2]) if task.arg is not MISSING or "/" in task.id else None
    return {
        **metadata,
        "thread_id": thread_id,
        "langgraph_step": superstep,
        "langgraph_node": task.node,
        "langgraph_triggers": task.triggers,
        "langgraph_path": ("__pregel_pull", task.node) if place is None else ("__pregel_push", place, "/" in task.id),
        NAMESPACE: f"{task.node}:{task.id}",
    }


# in the order in which one row's chunks are shown
MODES: dict[str, Callable[[View, Emission], Iterable[Any]]] = {
    "custom": _custom,
    "messages": _messages,
    "updates": _updates,
    "tasks": _tasks,
    "values": _values,
    "checkpoints": _checkpoints,
    "debug": _debug,
    "events": _events,
}

SPOKEN = frozenset({"custom", "messages"})  # modes that show what a node says while it runs
ANNOUNCED = frozenset({"tasks", "debug"})  # modes that show tasks before they run


def _callers(ns: tuple[str, ...]) -> tuple[str, ...]:
    """A subgraph's namespace without the number of the call."""
    return ns[:-1] if len(ns) > 1 and ns[-1].isdigit() else ns


def check_modes(modes: str | Sequence[str]) -> tuple[str, ...]:
    """The modes asked for, in the order in which a row's chunks come; raises ArgumentError for an unknown one."""
    wanted = tuple(modes) if isinstance(modes, list | tuple | set | frozenset) else (modes,)
    for mode in wanted:
        if not isinstance(mode, str) or mode not in MODES:
            raise ArgumentError(
                argument="stream_mode",
                problem=f"there is no mode {mode!r}",
                fix=f"Use one of {', '.join(sorted(MODES))}, or a list of them",
            )
    return tuple(mode for mode in MODES if mode in wanted)


class Shaper:
    """What a consumer gets to see, in the form that it asked for.

    One mode gives chunks, a list of modes (mode, chunk); with subgraphs the namespace comes first, () for the
    graph itself; version "v2" gives {"type": mode, "ns": namespace, "data": chunk} always.
    """

    def __init__(self, modes: str | Sequence[str], subgraphs: bool = False, version: str = "v1") -> None:
        self.modes = () if modes == () else check_modes(modes)
        self.subgraphs = subgraphs
        self._single = isinstance(modes, str)
        bare = self._single and not subgraphs and version == "v1"
        self._bare = MODES[self.modes[0]] if bare else None  # chunks are shown as they are
        if version not in ("v1", "v2"):
            raise ArgumentError(argument="version", problem=f"there is no version {version!r}", fix='Use "v1" or "v2"')
        self._version = version
        self._below: dict[tuple[str, ...], set[Any]] = {}  # ids of messages shown in unfinished subgraphs

    def show(self, view: View, ns: tuple[str, ...], it: Emission) -> Iterable[Any]:
        if not self.modes or (ns and not self.subgraphs):
            return []
        if isinstance(it, Relayed):
            return list(it.chunks)
        if self._bare is not None:
            return self._bare(view, it)
        return [self._shape(ns, mode, chunk) for mode in self.modes for chunk in self._chunks(mode, view, ns, it)]

    def _chunks(self, mode: str, view: View, ns: tuple[str, ...], it: Emission) -> Iterable[Any]:
        chunks = MODES[mode](view, it)
        return self._news(ns, it, list(chunks)) if mode == "messages" and self.subgraphs else chunks

    def _news(self, ns: tuple[str, ...], it: Emission, chunks: list[Any]) -> list[Any]:
        """Messages with the whole way down; and what a subgraph has shown, the node that it ran in does not repeat."""
        for _, metadata in chunks:
            metadata[NAMESPACE] = "|".join((*ns, metadata[NAMESPACE]))
        if not isinstance(it, Recorded) or it.task is None:
            return chunks
        node, task, own = it.row.node, it.task.id, self._below
        places = (f"{node}:{task}", f"{node}", f":{task}")  # of its subgraphs, kept ones, and of @tasks it called
        below = set().union(*(own.pop((*ns, place), ()) for place in places))
        news = [chunk for chunk in chunks if id_of(chunk[0]) not in below]
        caller, call, _ = task.partition("/")
        holder = (*ns, f":{caller}") if call else _callers(ns)
        if holder:
            told = {id_of(message) for message, _ in news} - {None}
            own.setdefault(holder, set()).update(below, told, it.body.get("seen", ()))
        return news

    def _shape(self, ns: tuple[str, ...], mode: str, chunk: Any) -> Any:
        if self._version == "v2":
            return {"type": mode, "ns": ns, "data": chunk}
        if self.subgraphs:
            return (ns, chunk) if self._single else (ns, mode, chunk)
        return chunk if self._single else (mode, chunk)
