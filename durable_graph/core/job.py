"""One task, from the node's call to its checked result: call, validation, routing.

A job is a generator that yields the user's functions to be called (`Invoke`) and is sent their results, so that
sync and async callers share every line of it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from typing import Any

from durable_graph.core.caching import Memo
from durable_graph.core.channels import MISSING, detached
from durable_graph.core.effects import Invoke, Job
from durable_graph.core.model import START, Branch, Graph, Node, NodeError
from durable_graph.core.planner import (
    Goto,
    Position,
    Update,
    answer_of,
    check_targets,
    checked,
    interpret,
    router_state,
    taken_apart,
)
from durable_graph.core.runtime import Runtime, current
from durable_graph.errors import ParentCommand

Steps = Generator[Invoke, Any, Any]


def node_input(node: Node, position: Position, arg: Any) -> Any:
    """What the node receives: a Send's payload as it is, or the state in the shape of the node's schema."""
    if arg is not MISSING:
        return detached(arg)
    return node.schema.build(node.schema.select(position.values.share()))


def run_node(
    graph: Graph, position: Position, job: Job, runtime: Runtime[Any], error: NodeError | None = None
) -> Steps:
    """Call the job's node, check its update, ask its routers. `error` is what an error handler has to handle."""
    node = graph.nodes[job.task.node]
    token = current.set(runtime)
    try:
        given = node_input(node, position, job.task.arg)
        if job.memo is None:
            output = yield from _called(node, job, given, runtime, error)
            update, goto = interpret(graph, node.name, output)
            goto = check_targets(graph, node.name, goto) if goto else goto
        else:
            update, goto = yield from _remembered(graph, position, job, given, runtime)
        if node.branches:
            goto = goto + (yield from _routes(graph, position, node, update, runtime))
        return update, goto
    finally:
        job.ended = True
        current.reset(token)


def _called(node: Node, job: Job, given: Any, runtime: Runtime[Any], error: NodeError | None = None) -> Steps:
    timeout = job.task.timeout or node.timeout
    try:
        return (yield Invoke(node.call, (given,), _extras(node.wants, runtime, error), timeout))
    except ParentCommand as below:  # a subgraph of this node speaks to us
        return below.command


def _remembered(
    graph: Graph, position: Position, job: Job, given: Any, runtime: Runtime[Any]
) -> Generator[Invoke, Any, tuple[Update, Goto]]:
    """The result of a node that has a cache policy: from the cache, or from the node and then for the cache."""
    node, memo, arg = graph.nodes[job.task.node], job.memo, job.task.arg
    plain = node.schema.select(position.values) if arg is MISSING else arg
    found = yield from memo.find(plain, (given,), {})
    if found is not None:
        with suppress(Exception):  # it is of other code than this
            result = checked(graph, node.name, found["updates"]), check_targets(graph, node.name, found["goto"])
            job.cached = True
            return result
    updates, goto = taken_apart(graph, node.name, (yield from _called(node, job, given, runtime)))
    if not runtime._has_asked:
        memo.note({"updates": updates, "goto": goto})
    return checked(graph, node.name, updates), check_targets(graph, node.name, goto)


def run_call(
    call: Callable[..., Any],
    arg: tuple[Any, Any],
    timeout: Any,
    runtime: Runtime[Any],
    job: Job,
) -> Steps:
    """One call of a @task from a node."""
    token = current.set(runtime)
    try:
        args, kwargs = arg
        memo: Memo | None = job.memo
        if memo is not None:
            found = yield from memo.find([args, kwargs], args, kwargs)
            if found is not None and "result" in found:
                job.cached = True
                return found["result"]
        result = yield Invoke(call, args, kwargs, timeout)
        if memo is not None and not runtime._has_asked:
            memo.note({"result": result})
        return result
    finally:
        current.reset(token)


def run_entry(graph: Graph, position: Position, node: str, update: Update, runtime: Runtime[Any]) -> Steps:
    """Only the routing after `node` (START, or update_state's as_node), for an update that was given."""
    token = current.set(runtime)
    try:
        goto = yield from _routes(graph, position, graph.nodes[node], update, runtime)
        return update, goto
    finally:
        current.reset(token)


def _routes(
    graph: Graph, position: Position, node: Node, update: Update, runtime: Runtime[Any]
) -> Generator[Invoke, Any, Goto]:
    goto: Goto = []
    for branch in node.branches:
        state = _router_input(graph, position, node, branch, update)
        answer = yield Invoke(branch.path, (state,), _extras(branch.wants, runtime))
        goto += answer_of(graph, node.name, branch, answer)
    return goto


def _router_input(graph: Graph, position: Position, node: Node, branch: Branch, update: Update) -> Any:
    values = router_state(graph, position.values, update)
    schema = branch.schema or (graph.state if node.name == START else node.schema)
    return schema.build(schema.select(values))


def _extras(wants: Any, runtime: Runtime[Any], error: NodeError | None = None) -> dict[str, Any]:
    if not wants:
        return {}
    given: Mapping[str, Callable[[], Any]] = {
        "runtime": lambda: runtime,
        "config": lambda: runtime.config,
        "writer": lambda: runtime.stream_writer,
        "previous": lambda: runtime.previous,
        "error": lambda: error,
    }
    return {name: given[name]() for name in wants}
