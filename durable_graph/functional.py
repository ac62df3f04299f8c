"""Durable calls inside a node (`@task`), and a workflow as one plain function (`@entrypoint`)."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Generic, ParamSpec, TypeVar

from durable_graph.codec import Codec, Storable, storable_types, without_doubles
from durable_graph.compiled import CompiledGraph
from durable_graph.core import runtime
from durable_graph.core.caching import task_namespace
from durable_graph.core.chain import Key
from durable_graph.core.channels import Channel
from durable_graph.core.model import (
    END,
    RECORDED,
    START,
    CachePolicy,
    Graph,
    Node,
    RetryPolicy,
    Task,
    TimeoutPolicy,
    policy_of,
)
from durable_graph.core.position import Position, Stand, Update
from durable_graph.core.projection import View
from durable_graph.core.schema import Schema, is_coroutine, wanted_arguments
from durable_graph.encryption import EncryptionKey
from durable_graph.errors import DrawingError
from durable_graph.limits import Limits
from durable_graph.messages import message_types
from durable_graph.offload import in_thread
from durable_graph.opening import NO_STORE, inherited, open_cache, open_encryption, open_store, refuse
from durable_graph.store import Cache, Store

P = ParamSpec("P")
T = TypeVar("T")
Retry = RetryPolicy | Sequence[RetryPolicy] | None

INPUT, RESULT, SAVED = "input", "result", "saved"  # the channels of an entrypoint


class DurableTask(Generic[P, T]):
    """A function whose result is recorded when a node calls it. Made by `@task`."""

    def __init__(
        self,
        call: Callable[P, Any],
        name: str | None,
        retry: Retry,
        timeout: TimeoutPolicy | None,
        cache: CachePolicy[Any] | None = None,
    ) -> None:
        functools.update_wrapper(self, call)
        self.call = call
        self.name = str(name or getattr(call, "__name__", type(call).__name__))
        self.retry = (retry,) if isinstance(retry, RetryPolicy) else tuple(retry or ())
        self.timeout = timeout
        self.cache = cache
        if timeout is not None and not is_coroutine(call):
            raise DrawingError(
                problem=f"the task {self.name!r} has a timeout but is no async function",
                fix="A running plain function cannot be stopped: make it async, or give it a timeout of its own.",
            )
        runtime.calls_are_possible = True

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Begin the call. Returns a future: `.result()` in a plain node, `await` in an async one.

        The result is committed before the future has it. When the node runs again, after a crash or an
        interrupt, the call is not made again: the future has the recorded result at once. Raises CallError outside of a
        node; the future raises what the function raised, which is not recorded.

        Cancelling the future, as `asyncio.wait_for` does, cancels an async function, and a plain one if it has not
        begun; the node goes on. What had begun all the same and comes to a result is recorded.
        """
        caller: runtime.Runtime[Any] = runtime.get_runtime()
        assert caller._start is not None
        number = caller._count("calls")
        return caller._start(number, self.name, self.call, (args, kwargs), self.retry, self.timeout, self.cache)

    def clear_cache(self, cache: Cache | CompiledGraph[Any]) -> None:
        """Forget what this task has returned. cache: the cache, or a graph that was compiled with it."""
        opened = cache._opened_cache() if isinstance(cache, CompiledGraph) else cache
        opened.forget([task_namespace(self.name, self.call)])

    async def aclear_cache(self, cache: Cache | CompiledGraph[Any]) -> None:
        """`clear_cache` for asyncio."""
        await in_thread(lambda: self.clear_cache(cache))


def task(
    function: Callable[P, Any] | None = None,
    *,
    name: str | None = None,
    retry_policy: Retry = None,
    cache_policy: CachePolicy[Any] | None = None,
    timeout: float | timedelta | TimeoutPolicy | None = None,
) -> Any:
    """Make a function durable where a node or an entrypoint calls it: a finished call is never made again.

    name: under which it is recorded. retry_policy: within the call. timeout: for an async function. cache_policy: take
    over what it returned for the same arguments in any thread; needs a graph with a cache.
    Calls run side by side; a node has to call its tasks in the same order each time it runs.
    """

    def decorate(call: Callable[P, Any]) -> DurableTask[P, Any]:
        return DurableTask(call, name, retry_policy, policy_of(timeout), cache_policy)

    return decorate if function is None else decorate(function)


@dataclass(frozen=True, slots=True)
class _Final(Generic[T]):
    """What an entrypoint returns when it wants to keep something else than it answers."""

    value: T
    save: Any


class entrypoint:
    """A durable workflow as one plain function: `@entrypoint(checkpointer=...)`.

    The function takes one argument, the input, and if it has parameters of these names `previous` (what the
    last run on the thread returned, or saved with `entrypoint.final`), `config`, `runtime` and `writer`. What it
    calls through `@task` functions is recorded; it may call `interrupt`. The decorated function is a CompiledGraph.

    checkpointer, cache, types, key, encryption_key, limits: as for `StateGraph.compile`. cache_policy: of the
    workflow's own result, by its input, and by `previous` if it asks for that. context_schema: for readers; nothing
    checks it. store: there is none.
    """

    final = _Final

    def __init__(
        self,
        checkpointer: str | Store | bool | None = None,
        store: None = None,
        cache: Cache | str | bool | None = None,
        context_schema: type[Any] | None = None,
        cache_policy: CachePolicy[Any] | None = None,
        retry_policy: Retry = None,
        timeout: float | timedelta | TimeoutPolicy | None = None,
        *,
        name: str | None = None,
        types: Iterable[Storable] = (),
        key: Key = None,
        encryption_key: EncryptionKey = None,
        limits: Limits | None = None,
    ) -> None:
        refuse("entrypoint()", store=(store, NO_STORE))
        self._checkpointer = checkpointer
        self._context = context_schema
        self._cache = cache
        self._cache_policy = cache_policy
        self._name = name
        self._retry = (retry_policy,) if isinstance(retry_policy, RetryPolicy) else tuple(retry_policy or ())
        self._timeout = policy_of(timeout)
        self._types = types
        self._key = key
        self._encryption_key = encryption_key
        self._limits = limits

    def __call__(self, function: Callable[..., Any]) -> CompiledGraph[Any]:
        name = self._name or function.__name__
        _check(name, function)
        if self._timeout is not None and not is_coroutine(function):
            raise DrawingError(
                problem=f"the entrypoint {name!r} has a timeout but is no async function",
                fix="A running plain function cannot be stopped: make it async, or give it a timeout of its own.",
            )
        graph = _graph(name, function, self._retry, self._timeout, self._cache_policy)
        graph = replace(graph, context=self._context)
        hints = getattr(function, "__annotations__", {})
        types = without_doubles([*_types(hints), *self._types, *message_types()])
        store = open_store(self._checkpointer)
        return Workflow(
            graph,
            store,
            Codec([*RECORDED, *types], open_encryption(self._encryption_key), self._limits),
            self._key,
            inherits=inherited(self._checkpointer),
            types=types,
            cache=open_cache(self._cache, self._checkpointer),
        )


def _check(name: str, function: Callable[..., Any]) -> None:
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise DrawingError(
            problem=f"the entrypoint {name!r} is a generator function",
            fix="Return the result; to show something before, use a @task or get_stream_writer().",
        )
    if not inspect.signature(function).parameters:
        raise DrawingError(
            problem=f"the entrypoint {name!r} takes no argument", fix="Its first parameter is the input: add one."
        )


def _types(hints: Mapping[str, Any]) -> list[type]:
    found = {kind for hint in hints.values() for kind in storable_types(hint)}
    return sorted(found, key=lambda kind: (kind.__module__, kind.__qualname__))


def _graph(
    name: str,
    function: Callable[..., Any],
    retry: Sequence[RetryPolicy],
    timeout: Any,
    cache: CachePolicy[Any] | None,
) -> Graph:
    channels = {key: Channel(key) for key in (INPUT, RESULT, SAVED)}
    whole = Schema(dict, channels, tuple(channels), lambda values: values)
    given = Schema(dict, {INPUT: channels[INPUT]}, (INPUT,), lambda values: values)
    wants = wanted_arguments(function)
    keys = (INPUT, SAVED) if "previous" in wants else (INPUT,)  # all that the function sees, and its cache goes by
    seen = Schema(dict, {key: channels[key] for key in keys}, keys, lambda values: values)
    nodes = {
        START: Node(START, function, given, successors=(name,)),
        name: Node(
            name,
            _update_of(function),
            seen,
            (*wants, "runtime"),
            retry=tuple(retry),
            timeout=timeout,
            cache=cache and _policy_on_input(cache),
        ),
    }
    return Graph(name, nodes, channels, whole, given, whole, f"entrypoint {name}")


def _policy_on_input(policy: CachePolicy[Any]) -> CachePolicy[Any]:
    """For the node, whose input is a state that holds that of the function."""
    key_func = policy.key_func
    return policy if key_func is None else replace(policy, key_func=lambda state: key_func(state[INPUT]))


def _update_of(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as a node: its input from the state, its answer into it."""
    node = _node_of(function)
    named = function if hasattr(function, "__qualname__") else type(function)
    node.__module__, node.__qualname__ = named.__module__, named.__qualname__  # for the cache
    return node


def _node_of(function: Callable[..., Any]) -> Callable[..., Any]:
    wants = wanted_arguments(function)

    def arguments(state: dict[str, Any], extras: dict[str, Any]) -> dict[str, Any]:
        given = {key: value for key, value in extras.items() if key in wants}
        if "previous" in wants:
            given["previous"] = state.get(SAVED)
        return given

    if is_coroutine(function):

        async def acall(state: dict[str, Any], **extras: Any) -> dict[str, Any]:
            return _answer(await function(state[INPUT], **arguments(state, extras)))

        return acall

    def call(state: dict[str, Any], **extras: Any) -> dict[str, Any]:
        return _answer(function(state[INPUT], **arguments(state, extras)))

    return call


def _answer(answer: Any) -> dict[str, Any]:
    if isinstance(answer, _Final):
        return {RESULT: answer.value, SAVED: answer.save}
    return {RESULT: answer, SAVED: answer}


class Workflow(CompiledGraph[Any]):
    """What `@entrypoint` makes: a CompiledGraph that takes and shows plain values instead of a state."""

    def __init__(
        self, graph: Graph, store: Store | None, codec: Codec, key: Any = None, *rest: Any, **more: Any
    ) -> None:
        super().__init__(graph, store, codec, key, *rest, **more)
        self._view = _PlainView(tuple(graph.channels))

    def _accepts(self, value: Any) -> Any:
        return value if value is None else {INPUT: value}


class _PlainView(View):
    """Shows the result where a graph shows its state."""

    shows_input = False

    def values(self, position: Position | Stand, *, own: bool = False) -> Any:
        return super().values(position, own=own).get(RESULT)

    def update(self, update: Update) -> Any:
        shown = super().update(update)
        return shown.get(RESULT) if isinstance(shown, dict) else shown

    def result(self, update: Update) -> dict[str, Any]:
        return {} if update is None else {END: self.update(update)}

    def written(self, update: Update) -> Iterable[tuple[str, Any]]:
        return [(key, value) for key, value in super().written(update) if key == RESULT]

    def input(self, task: Task, position: Position) -> Any:
        shown = super().input(task, position)
        return shown[INPUT] if isinstance(shown, dict) and INPUT in shown else shown
