"""What the user's functions return, checked: a node's update and targets, a router's answer, an input. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

from durable_graph.codec import Unregistered
from durable_graph.core.channels import ATOMS, MISSING, Channel, Overwrite, detached, is_removal
from durable_graph.core.model import END, START, Branch, Command, Graph, Send, Task
from durable_graph.core.position import Goto, Position, Update, folded, pairs
from durable_graph.core.schema import as_mapping, is_coroutine
from durable_graph.core.tokens import id_of
from durable_graph.errors import InvalidUpdateError, ParentCommand, RoutingError

# --- what a node returned ---------------------------------------------------------------------


def interpret(graph: Graph, node: str, output: Any) -> tuple[Update, Goto]:
    """Split what a node returned into its update, checked and detached from the node's objects, and its targets."""
    if output is None:
        return None, []
    if type(output) is dict:
        return check_update(graph, f"Node {node!r}", output), []
    updates, goto = taken_apart(graph, node, output)
    return checked(graph, node, updates), goto


def taken_apart(graph: Graph, node: str, output: Any) -> tuple[list[Mapping[str, Any]], Goto]:
    """The updates and targets in what a node returned, as they are; raises InvalidUpdateError for what is neither."""
    updates: list[Mapping[str, Any]] = []
    goto: Goto = []
    if output is None:
        return updates, goto
    parts = output if isinstance(output, list | tuple) else (output,)
    if parts is output and not any(isinstance(part, Command) for part in parts):
        raise _not_an_update(f"Node {node!r}", output)
    for part in parts:
        if isinstance(part, Command):
            if part.graph == Command.PARENT:
                raise ParentCommand(part)
            goto += targets_of(part.goto)
            part = part.update
        if part is not None:
            updates += _mappings(graph, f"Node {node!r}", part)
    return updates, goto


def checked(graph: Graph, node: str, updates: Iterable[Mapping[str, Any]]) -> Update:
    """A node's updates as its row records them."""
    return folded([check_update(graph, f"Node {node!r}", update) for update in updates])


def check_update(graph: Graph, where: str, update: Mapping[str, Any]) -> dict[str, Any]:
    """A detached copy of an update; raises InvalidUpdateError for a key that is none, or a value of the wrong type."""
    if graph.managed and not graph.managed.isdisjoint(update):  # given to the node, which gives it back
        update = {key: value for key, value in update.items() if key not in graph.managed}
    checked = {}
    for key, value in update.items():
        channel = graph.channels.get(key)
        if channel is None:
            known = ", ".join(sorted(graph.channels))
            raise InvalidUpdateError(
                where=where,
                problem=f"the update has the unknown key {key!r}",
                fix=f"Add it to the state's schema or leave it out of the update. Known keys: {known}",
            )
        if key in graph.checks and channel.reducer is None:
            _check_value(graph, where, key, value)
        checked[key] = detached(value) if channel.prepare is None else _prepared(channel, where, value)
    return checked


def _prepared(channel: Channel, where: str, value: Any) -> Any:
    assert channel.prepare is not None
    try:
        return channel.prepare(detached(value))
    except ValueError as error:
        raise InvalidUpdateError(
            where=where, problem=f"the value for {channel.name!r} does not fit: {error}", fix="Correct the value"
        ) from error


def _check_value(graph: Graph, where: str, key: str, value: Any) -> None:
    try:
        graph.checks[key](value)
    except ValueError as error:
        raise InvalidUpdateError(
            where=where,
            problem=f"the value for {key!r} does not fit the state's schema: {error}",
            fix="Return a value of the type that the schema names.",
        ) from error


def with_pushed(graph: Graph, node: str, pushed: Mapping[tuple[str, str], Any], update: Update) -> Update:
    """A node's update, with the messages in front that it has written while it ran."""
    first = [check_update(graph, f"Node {node!r}", {key: message}) for (key, _), message in pushed.items()]
    rest = update if isinstance(update, list) else [update] if update else []
    return folded([*first, *rest])


def _mappings(graph: Graph, where: str, value: Any) -> list[Mapping[str, Any]]:
    if isinstance(value, list | tuple) and all(isinstance(pair, tuple) and len(pair) == 2 for pair in value):
        return [{key: item} for key, item in value]  # LangGraph takes pairs in Command(update=...)
    update = as_mapping(value, graph.channels)
    if update is None:
        raise _not_an_update(where, value)
    return [update]


def given_update(graph: Graph, where: str, value: Any) -> Update:
    """An update from outside of a node, checked."""
    return folded([check_update(graph, where, update) for update in _mappings(graph, where, value)])


def _not_an_update(where: str, value: Any) -> InvalidUpdateError:
    return InvalidUpdateError(
        where=where,
        problem=f"expected a dict of state keys, got {type(value).__name__}: {short(value)}",
        fix="Return a dict with the keys to change, None for no change, or a Command.",
    )


def short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


# --- messages -----------------------------------------------------------------------------------


def messages_in(value: Any, chat: bool) -> Iterable[Any]:
    """The messages in a write. chat: it is to a list of messages, where a dict is one; elsewhere only objects are."""
    value = value.value if type(value) is Overwrite else value
    items = value if isinstance(value, list | tuple) else (value,)
    chat = chat and type(value) is list
    return [item for item in items if (_is_message(item) or (chat and isinstance(item, dict))) and not is_removal(item)]


def _is_message(item: Any) -> bool:
    """Whether it is an object of langchain-core, without asking its class, which need not be registered here."""
    fields = item.data if type(item) is Unregistered else getattr(item, "__dict__", None)
    return isinstance(fields, dict) and "additional_kwargs" in fields and "content" in fields


def known_messages(graph: Graph, position: Position, task: Task, update: Update) -> list[str]:
    """The ids of those messages in an update that the task had been given: returned again, they are no news."""
    if update is None or (type(update) is dict and all(map(ATOMS.__contains__, map(type, update.values())))):
        return []
    chats = graph.chats
    written = [
        name for key, value in pairs(update) for m in messages_in(value, key in chats) if (name := id_of(m)) is not None
    ]
    if not written:
        return []
    places = [position.values.places(key) for key in chats]
    given = _given_messages(graph, position, task, update)
    return [name for name in dict.fromkeys(written) if name in given or any(name in known for known in places)]


def _given_messages(graph: Graph, position: Position, task: Task, update: Update) -> set[str | None]:
    """Ids of messages outside of the lists of messages. Looks into no list that is longer than what is written."""
    looked = []
    replaced = {key for key, _ in pairs(update) if graph.channels[key].reducer is None}
    for key, value in position.values.items():
        if key in replaced or not isinstance(value, list | tuple):
            looked.append(value)
    if task.arg is not MISSING:
        looked += task.arg.values() if isinstance(task.arg, dict) else [task.arg]
    return {id_of(message) for value in looked for message in messages_in(value, True)} - {None}


# --- where to go ------------------------------------------------------------------------------


def targets_of(goto: Any) -> Goto:
    """`goto=` in any of its forms, as a list."""
    return list(goto) if isinstance(goto, list | tuple) else [goto]


def check_targets(graph: Graph, source: str, targets: Sequence[Any]) -> Goto:
    """The targets that are to run; raises RoutingError for what is no node."""
    for target in targets:
        name = target.node if isinstance(target, Send) else target
        if isinstance(target, Send) and name == END:
            raise _no_target(graph, source, "a Send cannot go to END")
        if not isinstance(name, str) or (name != END and (name not in graph.nodes or name == START)):
            raise _no_target(graph, source, f"there is no node {name!r}")
        if isinstance(target, Send) and target.timeout is not None and not is_coroutine(graph.nodes[name].call):
            raise RoutingError(
                node=source,
                problem=f"a Send to {name!r} has a timeout, but that node is no async function",
                fix="A running plain function cannot be stopped: make it async, or leave the timeout out.",
            )
    return [_detached(target) if isinstance(target, Send) else target for target in targets if target != END]


def _detached(send: Send) -> Send:
    return Send(send.node, detached(send.arg), timeout=send.timeout)


def _no_target(graph: Graph, source: str, problem: str) -> RoutingError:
    names = ", ".join(sorted(set(graph.nodes) - {START}))
    return RoutingError(
        node=source,
        problem=problem,
        fix=f"Go to one of: {names}; or to END. Nothing was recorded for this task.",
    )


def answer_of(graph: Graph, source: str, branch: Branch, answer: Any) -> Goto:
    """What a router's answer means."""
    if type(answer) is str and branch.ends is None and answer in graph.nodes and answer != START:
        return [answer]  # nearly always; the rest says what all others mean
    if answer is None:
        raise _no_target(graph, source, f"the router {branch.name!r} returned None")
    answers = targets_of(answer)
    if branch.ends is None:
        return check_targets(graph, source, answers)
    targets = []
    for item in answers:
        if not isinstance(item, Send) and not _is_answer(branch.ends, item):
            known = ", ".join(map(repr, branch.ends))
            raise _no_target(graph, source, f"the router {branch.name!r} answered {item!r}, its path map has {known}")
        targets.append(item if isinstance(item, Send) else branch.ends[item])
    return check_targets(graph, source, targets)


def _is_answer(ends: Mapping[Hashable, str], answer: Any) -> bool:
    try:
        return answer in ends
    except TypeError:  # unhashable
        return False


def accept_input(graph: Graph, value: Any) -> dict[str, Any]:
    """The update that a run's input stands for; raises InvalidUpdateError for what is none."""
    update = as_mapping(value, graph.input.keys)
    if update is None:
        raise InvalidUpdateError(
            where="The input",
            problem=f"expected a dict of state keys, got {type(value).__name__}: {short(value)}",
            fix=f"Give a dict with keys of the input schema: {', '.join(graph.input.keys)}",
        )
    for key in update:
        if key not in graph.input.channels and key not in graph.managed:
            raise InvalidUpdateError(
                where="The input",
                problem=f"it has the unknown key {key!r}",
                fix=f"Leave it out or add it to the input schema. Known keys: {', '.join(graph.input.keys)}",
            )
    return check_update(graph, "The input", update)


def accept_update(graph: Graph, value: Any) -> Update:
    """The update that was given to update_state; raises InvalidUpdateError for what is none."""
    return None if value is None else given_update(graph, "update_state", value)
