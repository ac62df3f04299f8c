"""What the tests of graphs share: one body for sync and async callers, and a few small graphs.

way        calls                 nodes made with `run.node`
sync       stream, invoke ...    plain functions
async      astream, ainvoke ...  async functions
threads    astream, ainvoke ...  plain functions, which asyncio callers run in threads
"""

import asyncio
import functools
import inspect
import operator
import threading
import uuid
from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing, closing
from typing import Annotated, Any, Self, TypedDict

import pytest

from durable_graph import START, CompiledGraph, StateGraph
from durable_graph.core import rows

WAYS = ("sync", "async", "threads")
MODES = ("updates", "values", "custom", "tasks", "checkpoints", "debug", "events")
PATIENCE = 20.0  # seconds until a wait counts as failed: never reached when all is well

Node = Callable[..., Any]


class State(TypedDict, total=False):
    n: int
    log: Annotated[list[str], operator.add]


class Runner:
    """The public calls in one of the three ways, on one database. Closes the graphs it has compiled."""

    def __init__(self, way: str, url: str | bool) -> None:
        self.way = way
        self.url = url
        self._graphs: list[CompiledGraph[Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for graph in self._graphs:
            graph.close()

    def compile(self, builder: StateGraph[Any], **settings: Any) -> CompiledGraph[Any]:
        graph = builder.compile(self.url, **settings)
        self._graphs.append(graph)
        return graph

    def node(self, function: Node) -> Node:
        """The function as this way wants its nodes (also routers)."""
        if self.way != "async" or inspect.iscoroutinefunction(function):
            return function

        @functools.wraps(function)
        async def call(*args: Any, **kwargs: Any) -> Any:
            await asyncio.sleep(0)
            return function(*args, **kwargs)

        return call

    def waiting(self, event: threading.Event, then: Node, before: Node = lambda *_, **__: None) -> Node:
        """A node that calls `before`, waits for the event, and returns what `then` makes of its arguments."""
        if self.way != "async":

            @functools.wraps(then)
            def call(*args: Any, **kwargs: Any) -> Any:
                before(*args, **kwargs)
                assert event.wait(PATIENCE)
                return then(*args, **kwargs)

            return call

        @functools.wraps(then)
        async def acall(*args: Any, **kwargs: Any) -> Any:
            before(*args, **kwargs)
            await until(event)
            return then(*args, **kwargs)

        return acall

    # --- calls --------------------------------------------------------------------------------

    def call(self, graph: CompiledGraph[Any], name: str, *args: Any, **kwargs: Any) -> Any:
        """graph.name(...), or `await graph.aname(...)`."""
        if self.way == "sync":
            return getattr(graph, name)(*args, **kwargs)
        return wait_for(lambda: getattr(graph, f"a{name}")(*args, **kwargs))

    def loop(self, do: Callable[[Any], Any], graph: CompiledGraph[Any], name: str, *args: Any, **kwargs: Any) -> None:
        """Loop over graph.name(...), or graph.aname(...), until `do` returns True of an item. Closes the iterator."""
        if self.way == "sync":
            with closing(getattr(graph, name)(*args, **kwargs)) as iterator:
                for item in iterator:
                    if do(item) is True:
                        break
            return

        async def main() -> None:
            async with aclosing(getattr(graph, f"a{name}")(*args, **kwargs)) as iterator:
                async for item in iterator:
                    if do(item) is True:
                        break

        asyncio.run(main())

    def each(
        self, do: Callable[[Any], Any], graph: CompiledGraph[Any], name: str, *args: Any, **kwargs: Any
    ) -> list[Any]:
        """`loop`, and the items that came."""
        items: list[Any] = []

        def keep(item: Any) -> Any:
            items.append(item)
            return do(item)

        self.loop(keep, graph, name, *args, **kwargs)
        return items

    def stream(self, graph: CompiledGraph[Any], *args: Any, **kwargs: Any) -> list[Any]:
        return self.each(_look, graph, "stream", *args, **kwargs)

    def first(self, number: int, graph: CompiledGraph[Any], *args: Any, **kwargs: Any) -> list[Any]:
        """The first events of a stream that is then closed."""
        left = iter(range(number - 1, -1, -1))
        return self.each(lambda item: next(left) == 0, graph, "stream", *args, **kwargs)

    def watch(self, do: Callable[[Any], Any], graph: CompiledGraph[Any], *args: Any, **kwargs: Any) -> list[Any]:
        return self.each(do, graph, "stream", *args, **kwargs)

    def invoke(self, graph: CompiledGraph[Any], *args: Any, **kwargs: Any) -> Any:
        return self.call(graph, "invoke", *args, **kwargs)

    def get_state(self, graph: CompiledGraph[Any], *args: Any, **kwargs: Any) -> Any:
        return self.call(graph, "get_state", *args, **kwargs)

    def update_state(self, graph: CompiledGraph[Any], *args: Any, **kwargs: Any) -> Any:
        return self.call(graph, "update_state", *args, **kwargs)

    def fork(self, graph: CompiledGraph[Any], *args: Any, **kwargs: Any) -> Any:
        return self.call(graph, "fork", *args, **kwargs)

    def history(self, graph: CompiledGraph[Any], *args: Any, **kwargs: Any) -> list[Any]:
        return self.each(_look, graph, "get_state_history", *args, **kwargs)

    def replay(self, graph: CompiledGraph[Any], *args: Any, **kwargs: Any) -> list[Any]:
        return self.each(_look, graph, "replay", *args, **kwargs)

    def follow(self, graph: CompiledGraph[Any], *args: Any, **kwargs: Any) -> list[Any]:
        return self.each(_look, graph, "follow", *args, **kwargs)


def _look(item: Any) -> None:
    pass


def wait_for(call: Callable[[], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        return await call()

    return asyncio.run(main())


async def until(event: threading.Event) -> None:
    """Wait for a thread's event without blocking the loop."""
    async with asyncio.timeout(PATIENCE):
        while not event.is_set():  # noqa: ASYNC110 (the event belongs to a thread)
            await asyncio.sleep(0.001)


def new_thread() -> dict[str, Any]:
    """A config that names a thread of its own."""
    return {"configurable": {"thread_id": f"t-{uuid.uuid4()}"}}


def at(config: dict[str, Any], step: int) -> dict[str, Any]:
    """The config of one step of a thread."""
    return {"configurable": {**config["configurable"], "step": step}}


def durable_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("durable_graph")]


# --- small graphs -----------------------------------------------------------------------------


class Calls(list[str]):
    """Which nodes were called, in order."""

    def node(self, name: str, **update: Any) -> Node:
        def call(state: Any) -> dict[str, Any]:
            self.append(name)
            return {"log": [name], **update}

        call.__name__ = name
        return call

    def failing(self, name: str, times: int = 1, error: Callable[[], BaseException] | None = None) -> Node:
        """Fails the first `times` times it is called."""
        left = iter(range(times))

        def call(state: Any) -> dict[str, Any]:
            self.append(name)
            if next(left, None) is not None:
                raise error() if error is not None else ValueError(f"{name} failed")
            return {"log": [name]}

        call.__name__ = name
        return call


def chain(run: Runner, calls: Calls, names: Iterable[str] = "abc", **special: Node) -> StateGraph[State]:
    """a -> b -> c, each of which adds its name to `log`."""
    names = list(names)
    builder = StateGraph(State)
    builder.add_sequence([(name, run.node(special.get(name) or calls.node(name))) for name in names])
    return builder.add_edge(START, names[0])


def wide(run: Runner, calls: Calls, names: Iterable[str] = "abc", **special: Node) -> StateGraph[State]:
    """a, b and c side by side, then `end`."""
    names = list(names)
    builder = StateGraph(State)
    for name in [*names, "end"]:
        builder.add_node(name, run.node(special.get(name) or calls.node(name)))
    for name in names:
        builder.add_edge(START, name)
    return builder.add_edge(names, "end")


def counter(run: Runner, to: int) -> StateGraph[State]:
    """One node that counts `n` up, around and around."""
    builder = StateGraph(State)
    builder.add_node("count", run.node(lambda state: {"n": state.get("n", 0) + 1}))
    builder.add_edge(START, "count")
    return builder.add_conditional_edges("count", lambda state: "count" if state["n"] < to else "__end__")


def snapshot_each_barrier(monkeypatch: pytest.MonkeyPatch) -> None:
    """However small the state and the rows before it are."""
    monkeypatch.setattr(rows, "SNAPSHOT_BYTES", 1)
    monkeypatch.setattr(rows, "ROWS_PER_SNAPSHOT", 0.0)


def nodes_of(events: Iterable[dict[str, Any]]) -> list[str]:
    """The nodes of update events, in order."""
    return [name for event in events for name in event]
