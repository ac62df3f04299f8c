"""One task, from the node's call to its checked result: call, validation, routing.

A job is a generator that yields the user's functions to be called (`Invoke`) and is sent their results, so that
sync and async callers share every line of it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar, Token
from typing import Any

from durable_graph.core.caching import Memo
from durable_graph.core.channels import MISSING, Values, detached
from durable_graph.core.difference import first_difference
from durable_graph.core.effects import Invoke, Job
from durable_graph.core.model import START, Branch, Graph, Node
from durable_graph.core.output import answer_of, check_targets, checked, interpret, taken_apart, with_pushed
from durable_graph.core.planner import router_state
from durable_graph.core.position import Goto, Position, Update
from durable_graph.core.runtime import Runtime, current
from durable_graph.errors import CallError, GraphInterrupt, MutatedInputError, ParentCommand

Steps = Generator[Invoke, Any, Any]


def node_input(node: Node, position: Position, arg: Any, remaining: int) -> Any:
    """What the node receives: a Send's payload as it is, or the state in the shape of the node's schema."""
    if arg is not MISSING:
        return detached(arg)
    return node.schema.given(position.values.share(), remaining)


Entered = Sequence[tuple[ContextVar[Any], Token[Any]]]


def enter(job: Job) -> Entered:
    """Let what the job calls find its runtime. For drivers, before they go on with a job's steps; `leave` has to follow
    in the same context."""
    if job.make_runtime is None:
        return ()
    entered = ((current, current.set(job.runtime)),)
    if job.surround is None:
        return entered
    variables = job.surround.variables(lambda: job.runtime().config)
    return *entered, *((variable, variable.set(value)) for variable, value in variables)


def leave(entered: Entered) -> None:
    for variable, token in entered:
        variable.reset(token)


def run_node(graph: Graph, position: Position, job: Job) -> Steps:
    """Call the job's node, check its update, ask its routers."""
    node = graph.nodes[job.task.node]
    try:
        given = before = node_input(node, position, job.task.arg, job.remaining)
        watched = node.strict and job.task.arg is MISSING  # a Send's payload is the node's own to change
        if watched:
            given = detached(before)  # its own, lest it is blamed for what a sibling does
        if job.memo is not None:
            update, goto = yield from _remembered(graph, position, job, job.memo, given)
        else:
            output = yield from _called(node, job, given)
            update, goto = interpret(graph, node.name, output)
            goto = check_targets(graph, node.name, goto) if goto else goto
        if watched:
            _check_unchanged(node, position, before, given)
        if job.pushed:
            update = with_pushed(graph, node.name, job.pushed, update)
        if node.branches:
            goto = goto + (yield from _routes(graph, position.values, node, update, job))
        return update, goto
    finally:
        job.ended = True


def _check_unchanged(node: Node, position: Position, before: Any, after: Any) -> None:
    path = first_difference(before, after, "state")
    if path is not None:
        raise MutatedInputError(node=node.name, thread_id=position.thread_id, step=position.step, path=path)


def _called(node: Node, job: Job, given: Any) -> Steps:
    """What the node's function returned, or told a subgraph to tell us."""
    try:
        return (
            yield (
                node.call if node.executor is None else node.executor.errand(job, node.call, node.wants),
                (given,),
                _extras(node.wants, job) if node.wants else _NOTHING,
                job.task.timeout or node.timeout,
            )
        )
    except ParentCommand as below:
        return below.command


def _remembered(
    graph: Graph, position: Position, job: Job, memo: Memo, given: Any
) -> Generator[Invoke, Any, tuple[Update, Goto]]:
    """The result of a node that has a cache policy: from the cache, or from the node and then for the cache."""
    node, arg = graph.nodes[job.task.node], job.task.arg
    plain = node.schema.select(position.values) if arg is MISSING else arg
    found = yield from memo.find(plain, (given,), {})
    if found is not None:
        with suppress(Exception):  # it is of other code than this
            result = checked(graph, node.name, found["updates"]), check_targets(graph, node.name, found["goto"])
            job.cached = True
            return result
    updates, goto = taken_apart(graph, node.name, (yield from _called(node, job, given)))
    if not job.runtime()._has_asked:
        memo.note({"updates": updates, "goto": goto})
    return checked(graph, node.name, updates), check_targets(graph, node.name, goto)


def run_call(call: Callable[..., Any], arg: tuple[Any, Any], timeout: Any, job: Job) -> Steps:
    """One call of a @task from a node."""
    try:
        args, kwargs = arg
        memo: Memo | None = job.memo
        if memo is not None:
            found = yield from memo.find([args, kwargs], args, kwargs)
            if found is not None and "result" in found:
                job.cached = True
                return found["result"]
        result = yield call, args, kwargs, timeout
        if memo is not None and not job.runtime()._has_asked:
            memo.note({"result": result})
        return result
    finally:
        job.ended = True


def run_entry(graph: Graph, values: Values, node: str, update: Update, job: Job) -> Steps:
    """Only the routing after `node` (START, or update_state's as_node), for an update that was given."""
    try:
        goto = yield from _routes(graph, values, graph.nodes[node], update, job)
        return update, goto
    except GraphInterrupt:
        raise CallError(
            problem=f"a router after {node!r} called interrupt() when no task ran that could wait for the answer",
            fix="Ask in a node: a router is asked before the first row of a run, or for an update_state, only once.",
        ) from None
    finally:
        job.ended = True


def run_migration(migrate: Callable[[dict[str, Any]], Any], values: Mapping[str, Any]) -> Steps:
    """The migration function's state for an older graph's."""
    return (yield migrate, (detached(dict(values)),), {}, None)


def _routes(graph: Graph, values: Values, node: Node, update: Update, job: Job) -> Generator[Invoke, Any, Goto]:
    goto: Goto = []
    for branch in node.branches:
        state = _router_input(graph, values, node, branch, update, job.remaining)
        answer = yield branch.path, (state,), _extras(branch.wants, job) if branch.wants else _NOTHING, None
        goto += answer_of(graph, node.name, branch, answer)
    return goto


def _router_input(graph: Graph, before: Values, node: Node, branch: Branch, update: Update, remaining: int) -> Any:
    values = router_state(graph, before, update)
    schema = branch.schema or (graph.state if node.name == START else node.schema)
    return schema.given(values, remaining)


_NOTHING: Mapping[str, Any] = {}


def _extras(wants: Any, job: Job) -> Mapping[str, Any]:
    runtime: Runtime[Any] = job.runtime()
    given: Mapping[str, Callable[[], Any]] = {
        "runtime": lambda: runtime,
        "config": lambda: runtime.config,
        "writer": lambda: runtime.stream_writer,
        "previous": lambda: runtime.previous,
        "error": lambda: job.error,
    }
    return {name: given[name]() for name in wants}
