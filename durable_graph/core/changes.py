"""A thread goes on with a graph that is not the one it knows: what has been renamed, what is missing, what is refused.

Pure. Only asked when a run begins, and only if the graph's fingerprint is not the one of the thread's last run.
What comes of it is in the run's first row, so that it is settled once and reading never asks again.

Accepted as it is: new nodes and channels, other functions, routers and edges, nodes and empty channels that are gone
and that nothing waits for. Refused, with a ChangedGraphError that names it: what the thread needs and the graph
does not have, and a channel with a value that combines writes in another way. `update_state` is not refused: it
goes on from the nodes and channels that there are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from durable_graph.codec import Unregistered
from durable_graph.core.channels import LAST_VALUE, MISSING, Overwrite
from durable_graph.core.model import START, Graph, Send, join_parts
from durable_graph.core.output import check_update
from durable_graph.core.position import HANDLER, Body, Position, pairs
from durable_graph.errors import ChangedGraphError, InvalidUpdateError, MigrationError


class Finder(Protocol):
    def placeholder_in(self, value: Any, path: str) -> tuple[str, Unregistered] | None: ...


def is_new(graph: Graph, position: Position) -> bool:
    """Whether the thread's last run, if there was one, was on another graph."""
    return position.graph.get("fingerprint") != graph.fingerprint


def drawing_of(graph: Graph) -> Body:
    """What a row keeps of a graph, for judging a later one."""
    nodes = sorted(set(graph.nodes) - {START})
    channels = {name: channel.combines for name, channel in graph.channels.items()}
    return {"fingerprint": graph.fingerprint, "nodes": nodes, "channels": channels}


# --- names ------------------------------------------------------------------------------------


def renames(graph: Graph, position: Position, *, strict: bool) -> dict[str, dict[str, str]]:
    """{nodes, channels, joins}: {old: new} for names that the thread knows and the graph's aliases explain.

    strict: two keys with values that are to be one now are an error; else they keep their names.
    """
    nodes = {old: new for old, new in _node_aliases(graph) if old in position.graph.get("nodes", ())}
    known = position.graph.get("channels", {})
    keys = {old: new for old, new in graph.aliases.items() if new in graph.channels and old in known}
    taken = _taken(position, keys)
    if taken and strict:
        raise ChangedGraphError(
            thread_id=position.thread_id,
            problem=f"at step {position.step} it holds values of {_listed(taken)}, which are to be one key now",
            fix="Leave one of them out of the aliases, or make one value of them with compile(migrate=...).",
        )
    keys = {old: new for old, new in keys.items() if old not in taken}
    found = {"nodes": nodes, "channels": keys, "joins": _renamed_joins(graph, position, nodes)}
    return {kind: names for kind, names in found.items() if names}


def _node_aliases(graph: Graph) -> Iterator[tuple[str, str]]:
    for old, new in graph.aliases.items():
        for prefix in ("", HANDLER):
            if prefix + new in graph.nodes:
                yield prefix + old, prefix + new


def _taken(position: Position, keys: Mapping[str, str]) -> list[str]:
    """Keys with values that would get one name."""
    held = {*position.values, *written(position)}
    names = Counter(keys.get(key, key) for key in held)
    return sorted(key for key in held if names[keys.get(key, key)] > 1)


def written(position: Position) -> set[str]:
    """Keys that finished nodes have written since the last barrier."""
    return {key for update in position.done.values() for key, _ in pairs(update)}


def _renamed_joins(graph: Graph, position: Position, nodes: Mapping[str, str]) -> dict[str, str]:
    """Waiting joins under the names of the same edges now: nodes may be called or sorted otherwise."""
    joins = {(join.sources, join.target): join.name for node in graph.nodes.values() for join in node.joins}
    renamed = {}
    for name in position.joins.keys() - joins.values():
        for starts, end in join_parts(name):
            new = joins.get((frozenset(nodes.get(start, start) for start in starts), nodes.get(end, end)))
            if new is not None:
                renamed[name] = new
    return renamed


def first_names(graph: Graph, position: Position, nodes: Mapping[str, str]) -> dict[str, str]:
    """{name: first name} of nodes that were renamed while this thread lived: the memory of a subgraph is kept there."""
    before: Mapping[str, str] = position.graph.get("formerly", {})
    names = {nodes.get(name, name): first for name, first in before.items()}
    for old, new in nodes.items():
        names.setdefault(new, old)
    return {name: first for name, first in names.items() if name in graph.nodes and name != first}


# --- what is missing --------------------------------------------------------------------------


def check_pending(graph: Graph, position: Position) -> None:
    """Raises ChangedGraphError if what is to run, or leads on to it, is not in the graph."""
    nodes = {name: why for name, why in _needed(position) if name not in graph.nodes}
    known = {join.name for node in graph.nodes.values() for join in node.joins}
    joins = [name for name in position.joins if name not in known]
    if not nodes and not joins:
        return
    needs = [f"the node {name!r} ({why})" for name, why in nodes.items()]
    needs += [f"the edge {_shown(position, name)} (some of its starts have run)" for name in joins]
    example = ", ".join(f"{name!r}: ..." for name in nodes) or "old: new"
    raise ChangedGraphError(
        thread_id=position.thread_id,
        problem=f"at step {position.step} it needs {', '.join(needs)}, which the graph {graph.name!r} does not have "
        "(any more)",
        fix=f"Compile with that {'node' if nodes else 'edge'} again, say what is called otherwise now with "
        f"compile(aliases={{{example}}}), or move the thread on with update_state(config, values, as_node=...). "
        f"The graph has: {', '.join(sorted(set(graph.nodes) - {START}))}",
    )


def _needed(position: Position) -> Iterator[tuple[str, str]]:
    for task in position.tasks:
        yield task.node, "its edges lead on" if task.id in position.done else "it is to run"
    for goto in position.gotos.values():
        for target in goto:
            yield (target.node if isinstance(target, Send) else target), "it is to run next"
    for name in position.deferred:
        yield name, "it is to run last"


def _shown(position: Position, join: str) -> str:
    known = position.graph.get("nodes", ())
    *others, last = join_parts(join)
    starts, end = next((parts for parts in others if parts[1] in known), last)
    return f"{starts} -> {end!r}"


def check_reducers(graph: Graph, position: Position, keys: set[str], names: Mapping[str, str]) -> None:
    """Raises ChangedGraphError for those of the keys whose reducer is another one now. A first one is none: it starts
    from the value that there is.

    names: of channels, {old: new}.
    """
    known = {names.get(key, key): how for key, how in position.graph.get("channels", {}).items()}
    now = {key: channel.combines for key, channel in graph.channels.items()}
    other = [
        key
        for key in sorted(keys & known.keys())
        if known[key] not in (LAST_VALUE, now[key]) and graph.aliases.get(known[key]) != now[key]
    ]
    if not other:
        return
    changes = [f"{key!r} (it was {known[key]}, now {now[key]})" for key in other]
    raise ChangedGraphError(
        thread_id=position.thread_id,
        problem=f"at step {position.step} it holds a value of {', '.join(changes)}, and its reducer has changed",
        fix="Compile with that reducer again; if the new one can go on from such values, say so with "
        f"compile(aliases={{{known[other[0]]!r}: {now[other[0]]!r}}}); or convert the state with compile(migrate=...), "
        "or go on with update_state(config, {key: Overwrite(value)}).",
    )


def check_keys(graph: Graph, position: Position, keys: set[str]) -> None:
    """Raises ChangedGraphError for those of the keys that the graph has no channel for."""
    gone = sorted(keys - graph.channels.keys())
    if not gone:
        return
    raise ChangedGraphError(
        thread_id=position.thread_id,
        problem=f"at step {position.step} it holds a value of {_listed(gone)}, which the graph {graph.name!r} does "
        "not have (any more)",
        fix=f"Add the key to the state's schema again, say what it is called now with "
        f"compile(aliases={{{gone[0]!r}: ...}}), convert the state with compile(migrate=...), or let the value go "
        f"with update_state(config, values). The graph has: {', '.join(sorted(graph.channels))}",
    )


def _listed(keys: list[str]) -> str:
    return ("the key " if len(keys) == 1 else "the keys ") + ", ".join(map(repr, keys))


# --- the state --------------------------------------------------------------------------------


def migrated(graph: Graph, position: Position, answer: Any, encode: Callable[[Any, str], bytes]) -> Body:
    """What a migration function changed, by what it returned; raises MigrationError if that is no state."""
    if not isinstance(answer, dict):
        raise _not_a_state(position, f"it returned {type(answer).__name__}: {answer!r:.80}")
    try:
        new = check_update(graph, "its result", answer)
    except InvalidUpdateError as error:
        raise _not_a_state(position, str(error)) from error
    old = position.values
    new = {key: value.value if type(value) is Overwrite else value for key, value in new.items()}
    bodies = {key: encode(value, f"The migrated state[{key!r}]") for key, value in new.items()}
    changed = {key: new[key] for key in new if key not in old or encode(old[key], "") != bodies[key]}
    unset = sorted(key for key in old if key in graph.channels and key not in new)
    return {**({"set": changed} if changed else {}), **({"unset": unset} if unset else {})}


def _not_a_state(position: Position, problem: str) -> MigrationError:
    return MigrationError(
        thread_id=position.thread_id,
        step=position.step,
        problem=problem,
        fix="It takes the state as a dict and returns the new one, with keys of the graph's schema. Nothing was "
        "recorded; it is called again on continuing.",
    )


def refused_migration(position: Position, error: Exception) -> MigrationError:
    return _not_a_state(position, f"it raised {type(error).__name__}: {error}")


def check_registered(graph: Graph, position: Position, finder: Finder, *, pending: bool) -> None:
    """Raises ChangedGraphError if nodes would get a placeholder for a value whose type is not registered here.

    pending: also in what is to run, not only in the state.
    """
    for path, value in _given_to_nodes(position, pending):
        found = finder.placeholder_in(value, path)
        if found is not None:
            raise unregistered(position, *found)


def unregistered(position: Position, path: str, value: Unregistered) -> ChangedGraphError:
    return ChangedGraphError(
        thread_id=position.thread_id,
        problem=f"at step {position.step} {path} holds a {value.name}, a type that is not registered here or that no "
        "longer fits what was written",
        fix=f"Register it with compile(types=[...]); if it has moved, with compile(aliases={{{value.name!r}: "
        '"module:Class"}); or convert the state with compile(migrate=...) or update_state.',
    )


def _given_to_nodes(position: Position, pending: bool) -> Iterator[tuple[str, Any]]:
    for key, value in position.values.items():
        yield f"state[{key!r}]", value
    for task in position.tasks if pending else ():
        if task.id in position.done:
            for key, value in pairs(position.done[task.id]):
                yield f"the update[{key!r}] of {task.node!r}", value
        elif task.arg is not MISSING:
            yield f"the Send to {task.node!r}: arg", task.arg
        for target in position.gotos.get(task.id, ()):
            if isinstance(target, Send):
                yield f"the Send to {target.node!r}: arg", target.arg
        for question, answer in position.answers.get(task.id, ()):
            yield f"the answer to {question.interrupt.id} of {task.node!r}", answer
    for calls in position.calls.values() if pending else ():
        for name, result in calls.values():
            yield f"the result of the @task {name!r}", result
