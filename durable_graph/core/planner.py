"""What the next row says: how updates combine, what runs next. Pure: no I/O, no clock, no threads.

Only this module calls reducers, and only before the row exists that records what they did.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from durable_graph.core.channels import MISSING, Overwrite, Values, reduced, replayable
from durable_graph.core.model import END, START, Command, Graph, Interrupt, Send, Task, Wait
from durable_graph.core.output import check_targets, given_update, short, targets_of
from durable_graph.core.position import Body, Goto, Position, Update, branch_to, by_key, folded, in_order, pairs, plain
from durable_graph.errors import InvalidUpdateError, UnknownInterruptError


class Given(NamedTuple):
    """An update from outside, as if `node` had returned it."""

    node: str
    update: Update
    goto: Goto


def reduce_into(graph: Graph, values: Values, updates: Sequence[Update], body: Body) -> None:
    """Say in `body` how these updates combine with the values. Calls custom reducers."""
    written = by_key(updates)
    if graph.reduced.isdisjoint(written):
        return  # also a key that the schema has lost since keeps its last value
    operations: dict[str, str] = {}
    results: dict[str, Any] = {}
    for key, writes in written.items():
        if key not in graph.reduced:
            continue
        channel = graph.channels[key]
        old = values.get(key, MISSING)
        if replayable(channel, old, writes):
            assert channel.operation is not None
            operations[key] = channel.operation
        else:
            results[key] = _reduced(channel.name, channel, old, writes)
    if operations:
        body["apply"] = operations
    if results:
        body["results"] = results


def _reduced(key: str, channel: Any, old: Any, writes: list[Any]) -> Any:
    try:
        return reduced(channel, old, writes)
    except Exception as error:
        raise InvalidUpdateError(
            where=f"The reducer of {key!r}",
            problem=f"it raised {type(error).__name__}: {error}",
            fix="Correct the reducer or the update. Nothing was recorded for this task; it runs again on continuing",
        ) from error


def check_conflicts(graph: Graph, position: Position, task: Task, update: Update) -> None:
    """A key without a reducer takes one write in a superstep, any other one Overwrite."""
    mine = {key: writes for key, writes in by_key([update]).items() if _once(graph, key, writes, 1)}
    for key, writes in mine.items():
        if len(writes) > 1 and _once(graph, key, writes):
            raise _conflict(graph, key, task.node, task.node)
    if len(position.tasks) == 1 or not mine:
        return
    nodes = {other.id: other.node for other in position.tasks}
    for other_id, other in position.done.items():
        for key, write in pairs(other):
            if key in mine and _once(graph, key, [write, *mine[key]]):
                raise _conflict(graph, key, task.node, nodes[other_id])


def _once(graph: Graph, key: str, writes: Sequence[Any], most: int = 2) -> bool:
    """Whether these writes of one superstep exclude each other: without a reducer, or each meant to be the whole.
    most=1: whether they would if there was one more."""
    if key in graph.reduced:
        return sum(type(write) is Overwrite for write in writes) >= most
    return key in graph.channels


def _conflict(graph: Graph, key: str, node: str, other: str) -> InvalidUpdateError:
    if graph.channels[key].reducer is not None:
        return InvalidUpdateError(
            where=f"Node {node!r}",
            problem=f"{key!r} gets two Overwrites in one superstep (the other one is by {other!r})",
            fix="Let one of them overwrite the key.",
        )
    return InvalidUpdateError(
        where=f"Node {node!r}",
        problem=f"{key!r} is written twice in one superstep (the other write is by {other!r})",
        fix=f"Give {key!r} a reducer, as in Annotated[list, operator.add], or let one node write it",
    )


def task_body(graph: Graph, position: Position, task: Task, update: Update, goto: Goto) -> Body:
    """The body of a finished task's row: with the barrier's part if it is the last one of its superstep."""
    if len(position.tasks) > 1 or type(update) is list:  # else it is a dict, which writes each of its keys once
        check_conflicts(graph, position, task, update)
    body: Body = {"update": update}
    if goto:
        body["goto"] = goto
    if len(position.tasks) == 1:
        reduce_into(graph, position.values, [update], body)
        plan_into(graph, position, [(task.node, goto)], body)
    elif len(position.done) + 1 == len(position.tasks):
        done = {**position.done, task.id: update}
        gotos = {**position.gotos, task.id: goto}
        reduce_into(graph, position.values, in_order(position.tasks, done), body)
        ran = [(task.node if t.id == task.id else t.node, gotos.get(t.id, [])) for t in position.tasks]
        plan_into(graph, position, ran, body)
    return body


def parent_body(position: Position, command: Command[Any]) -> Body:
    """The body of the row of a task that gave a Command to the graph above: this run ends with it."""
    dropped = [task.node for task in position.pending][1:]
    body: Body = {"update": None, "parent": {"update": command.update, "goto": targets_of(command.goto)}, "next": []}
    return {**body, "dropped": dropped} if dropped else body


def plan_into(graph: Graph, position: Position, finished: Sequence[tuple[str, Goto]], body: Body) -> None:
    """Say in `body` what runs after these nodes: plain targets by name, then Sends in the order they were sent."""
    triggers: dict[str, Sequence[str]] = {}
    sends: list[Send] = []
    joins = {name: set(seen) for name, seen in position.joins.items()} if position.joins else {}
    for name, goto in finished:
        node = graph.nodes[name]
        for target in (*node.successors, *goto):
            if isinstance(target, Send):
                sends.append(target)
            elif target != END:
                triggers[target] = _PLAIN
        for join in node.joins:
            joins.setdefault(join.name, set()).add(name)
    complete = _complete_joins(graph, joins, triggers) if joins else {}
    if (graph.deferred or position.deferred) and (
        deferred := _hold_deferred(graph, position.deferred, triggers, bool(sends))
    ):
        body["deferred"] = deferred
    if joins:
        # a complete join whose target is held back stays complete: sources that come again count for nothing
        waiting = {name: sorted(seen) for name, seen in joins.items() if complete.get(name, name) not in triggers}
        if waiting:
            body["joins"] = waiting
    body["next"] = [_entry(name, triggers[name]) for name in sorted(triggers)]
    if sends:
        body["next"] += [_sent(send) for send in sends]


def _complete_joins(graph: Graph, seen: dict[str, set[str]], triggers: dict[str, Sequence[str]]) -> dict[str, str]:
    """Trigger the targets of complete joins: {join: target}. Forgets joins that the drawing has lost."""
    joins = {join.name: join for node in graph.nodes.values() for join in node.joins}
    complete = {}
    for name in list(seen):
        join = joins.get(name)
        if join is None:
            del seen[name]  # nothing waits for it
        elif seen[name] >= join.sources:
            triggers[join.target] = [*triggers.get(join.target, ()), name]
            complete[name] = join.target
    return complete


def _hold_deferred(graph: Graph, deferred: Sequence[str], triggers: dict[str, Sequence[str]], sends: bool) -> list[str]:
    """Take deferred nodes out of `triggers` while anything else is to run; put all back when nothing is."""
    held = [name for name in triggers if name in graph.deferred]
    if not held and not deferred:
        return []
    waiting = sorted({*deferred, *held})
    for name in held:
        del triggers[name]
    if triggers or sends:
        return waiting
    for name in waiting:
        triggers[name] = _PLAIN
    return []


_BRANCH = "branch"  # a plain edge, a router or a Command, among the triggers of a node; else the name of a join
_PLAIN = (_BRANCH,)  # nearly always


def _sent(send: Send) -> dict[str, Any]:
    entry = {"node": send.node, "arg": send.arg}
    return entry if send.timeout is None else {**entry, "timeout": send.timeout}


def _entry(name: str, triggers: Sequence[str]) -> Any:
    if triggers is _PLAIN:
        return name
    return {"node": name, "triggers": [branch_to(name) if trigger == _BRANCH else trigger for trigger in triggers]}


def router_state(graph: Graph, values: Values, update: Update) -> dict[str, Any]:
    """The state as a router sees it: with its own node's update applied, and not its siblings'."""
    if not update:
        return values
    state = {**values}
    for key, writes in by_key([update]).items():
        if key in graph.reduced:
            state[key] = _reduced(key, graph.channels[key], state.get(key, MISSING), writes)
        else:
            state[key] = plain(writes[-1])
    return state


def starts_of(graph: Graph, position: Position) -> dict[str, Any]:
    """What reducers start from, for channels that have no value yet."""
    return {
        name: channel.initial()
        for name, channel in graph.channels.items()
        if channel.initial is not None and name not in position.values
    }


def input_body(graph: Graph, position: Position, update: Update, goto: Goto) -> Body:
    """The body of an accepted input: it starts a new run on the thread's state, and what was pending is dropped."""
    body: Body = {"update": update}
    starts = starts_of(graph, position)
    values = Values({**position.values, **starts}) if starts else position.values
    if starts:
        body["starts"] = starts
    reduce_into(graph, values, [update], body)
    _drop_into(position, body)
    fresh = Position(position.thread_id)
    plan_into(graph, fresh, [(START, goto)], body)
    return body


def update_body(graph: Graph, position: Position, updates: Sequence[Given], task: str | None = None) -> Body:
    """The body of `update_state`: as if these nodes had returned these updates, after the siblings that have
    finished. `task` is the one whose place the update takes, if the caller has named it."""
    body: Body = {"update": updates[0].update if len(updates) == 1 else folded([*_each(updates)])}
    if len(updates) > 1:
        body["nodes"] = [given.node for given in updates]
        _check_together(graph, updates)
    reduce_into(graph, position.values, [*in_order(position.tasks, position.done), body["update"]], body)
    nodes = {given.node for given in updates}
    dropped = [t.node for t in position.pending if (t.id != task if task else t.node not in nodes)]
    dropped += _forget_gone(graph, position)
    if dropped:
        body["dropped"] = dropped
    ended = [task for task in position.tasks if task.id in position.done and task.node in graph.nodes]
    finished = [(task.node, position.gotos.get(task.id, [])) for task in ended]
    if nodes == {END}:
        body["next"] = []
        return body
    plan_into(graph, position, [*finished, *((given.node, given.goto) for given in updates)], body)
    _keep_questions(position, body["next"])
    return body


def _each(updates: Sequence[Given]) -> Iterable[dict[str, Any]]:
    for given in updates:
        yield from given.update if isinstance(given.update, list) else [given.update or {}]


def _check_together(graph: Graph, updates: Sequence[Given]) -> None:
    """Updates of one superstep: a key without a reducer takes one write."""
    by: dict[str, list[tuple[str, Any]]] = {}
    for given in updates:
        for key, write in pairs(given.update):
            by.setdefault(key, []).append((given.node, write))
    for key, writes in by.items():
        if len(writes) > 1 and _once(graph, key, [write for _, write in writes]):
            raise _conflict(graph, key, writes[1][0], writes[0][0])


def _keep_questions(position: Position, entries: list[Any]) -> None:
    """A task that has asked, and is planned once more by an update, asks under the same names: an answer may be
    given right after the update. Not if it has answers already: what they answered may have changed."""
    left = [t for t in position.pending if t.id in position.questions and t.id not in position.answers]
    waits = position.waits
    for place, entry in enumerate(entries):
        name = entry if isinstance(entry, str) else entry["node"]
        before = next((t for t in left if t.node == name), None)
        if before is None:
            continue
        left.remove(before)
        asked = [[q.interrupt.id, q.below] for q in position.questions[before.id] if q.interrupt.id not in waits]
        plain = {"node": entry, "triggers": [f"branch:to:{entry}"]} if isinstance(entry, str) else entry
        entries[place] = {**plain, "seed": before.seed, "asked": asked}


def _forget_gone(graph: Graph, position: Position) -> list[str]:
    """Take out what was to run later and the graph does not have any more; its names."""
    known = {join.name for node in graph.nodes.values() for join in node.joins}
    targets = [_name_of(target) for goto in position.gotos.values() for target in goto]
    gone = [name for name in (*targets, *position.deferred) if name not in graph.nodes]
    gone += [join for join in position.joins if join not in known]
    if gone:
        position.gotos = {
            task_id: [target for target in goto if _name_of(target) in graph.nodes]
            for task_id, goto in position.gotos.items()
        }
        position.deferred = [name for name in position.deferred if name in graph.nodes]
        position.joins = {name: seen for name, seen in position.joins.items() if name in known}
    return gone


def _name_of(target: str | Send) -> str:
    return target.node if isinstance(target, Send) else target


def _drop_into(position: Position, body: Body) -> None:
    if position.tasks or position.deferred:
        body["dropped"] = [*[task.node for task in position.pending], *position.deferred]


def command_body(graph: Graph, position: Position, command: Command[Any]) -> Body:
    """The body of a resume row for a Command as an input: an answer, an update, more tasks."""
    if command.graph is not None:
        raise InvalidUpdateError(
            where="The input",
            problem=f"a Command for the graph {command.graph!r} has none above it to go to",
            fix="Leave graph= out: as an input a Command is for the thread that it is given to",
        )
    body: Body = {}
    if command.resume is not None:
        body["answers"] = _answers(position, command.resume)
    if command.update is not None:
        update = given_update(graph, "Command.update", command.update)
        body["update"] = update
        reduce_into(graph, position.values, [update], body)
    targets = check_targets(graph, "Command.goto", targets_of(command.goto))
    if targets:
        body["add"] = [_sent(target) if isinstance(target, Send) else target for target in targets]
    return body


def _answers(position: Position, resume: Any) -> dict[str, Any]:
    """{interrupt id: answer}; raises UnknownInterruptError for an answer that fits no open question, or several."""
    ahead = [questions for task_id, questions in position.asked.items() if task_id not in position.done]
    asked = [question.interrupt for questions in [*position.questions.values(), *ahead] for question in questions]
    asked = [interrupt for interrupt in asked if not isinstance(interrupt.value, Wait)]
    ids = [interrupt.id for interrupt in asked]
    if isinstance(resume, dict) and resume and all(_is_interrupt_id(key) for key in resume):
        unknown = [key for key in resume if key not in ids]
        if unknown:
            raise _no_question(position, f"no open question has the id {unknown[0]!r}", asked)
        return dict(resume)
    if len(ids) != 1:
        problem = f"there are {len(ids)} open questions" if ids else "it is not waiting for an answer"
        raise _no_question(position, problem, asked)
    return {ids[0]: resume}


def _is_interrupt_id(key: Any) -> bool:
    return isinstance(key, str) and len(key) == 32 and all(letter in "0123456789abcdef" for letter in key)


def _no_question(position: Position, problem: str, asked: Sequence[Interrupt]) -> UnknownInterruptError:
    fix = (
        "Answer by id: Command(resume={id: answer})." if asked else "It may have been answered already: see get_state."
    )
    shown = ", ".join(f"{interrupt.id} ({short(interrupt.value)})" for interrupt in asked) or "none"
    return UnknownInterruptError(thread_id=position.thread_id, problem=problem, open=shown, fix=fix)
