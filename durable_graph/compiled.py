"""CompiledGraph: every public call, in a sync and an async form of a few lines.

What a call does is decided in `core`; how it is driven, in `drivers`. Here arguments are checked and put together.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from durable_graph import leases
from durable_graph.codec import Codec
from durable_graph.core import runtime
from durable_graph.core.channels import detached
from durable_graph.core.config import CallConfig, read_config
from durable_graph.core.model import Command, Graph, StreamMode, Task
from durable_graph.core.picture import Picture, picture_of
from durable_graph.core.projection import ANNOUNCED, INTERRUPT, Emission, View, check_modes, config_of, open_interrupts
from durable_graph.core.run import Call, Effects, Run, fork
from durable_graph.drivers import Show, adrive, drive, in_thread
from durable_graph.errors import ArgumentError, ThreadNotFoundError
from durable_graph.log import Config, Log, Modes, nothing
from durable_graph.store import Store

StateT = TypeVar("StateT")
Pauses = Sequence[str] | None


@dataclass(frozen=True, slots=True)
class _Plan:
    """A call, checked: how to begin it and what of it is shown."""

    begin: Callable[[str], Run]  # by its lease's owner
    show: Show
    live: bool
    workers: int | None


class CompiledGraph(Log, Generic[StateT]):
    """A graph that runs, and the log of what it ran. Made by `StateGraph.compile`; safe to share between
    threads and asyncio tasks."""

    def __init__(
        self,
        graph: Graph,
        store: Store | None,
        codec: Codec,
        key: bytes | str | None = None,
        config: Config | None = None,
    ) -> None:
        super().__init__(False if store is None else store, key=key)
        self._graph = graph
        self._codec = codec
        self._config = config
        self._view = View(graph.output.keys, self._node_input)

    @property
    def name(self) -> str:
        return self._graph.name

    def with_config(self, config: Config) -> CompiledGraph[StateT]:
        """The same graph with these settings under those of each call."""
        return type(self)(self._graph, self._store, self._codec, self._key, config)

    # --- running ------------------------------------------------------------------------------

    def stream(
        self,
        input: Any,
        config: Config | None = None,
        *,
        stream_mode: Modes = "updates",
        context: Any = None,
        interrupt_before: Pauses = None,
        interrupt_after: Pauses = None,
    ) -> Iterator[Any]:
        """Run the graph, yielding what happens as it happens. Each step is committed before it is yielded.

        input: the update that the run begins with; None continues the thread where it stands, after a
            break, a crash, an error.
        config: {"configurable": {"thread_id": ..., "step": ...}, "recursion_limit": ..., "metadata": ..., "tags": ...,
            "run_name": ..., "max_concurrency": ...}, or {"thread_id": ...} alone. Without a thread_id a new
            thread is made.
        stream_mode: "updates", "values", "custom", "tasks", "checkpoints", "debug", "events"; or a list of
            them, then (mode, chunk) is yielded.
        context: what nodes find as `runtime.context`. Not recorded.
        interrupt_before, interrupt_after: nodes before or after which to pause, instead of compile's; "*" for all.

        Lazy: nothing runs until the consumer asks. `close()` or leaving the loop stops after the step at hand
        and frees the thread. Raises what a node raised; EmptyInputError if there is nothing to continue;
        ThreadBusyError if another run has the thread; GraphRecursionError; StoreError. Whatever is raised, the
        thread can be continued.
        """
        return self._run_sync(
            self._plan(input, config, context, stream_mode, pauses=(interrupt_before, interrupt_after))
        )

    def astream(
        self,
        input: Any,
        config: Config | None = None,
        *,
        stream_mode: Modes = "updates",
        context: Any = None,
        interrupt_before: Pauses = None,
        interrupt_after: Pauses = None,
    ) -> AsyncIterator[Any]:
        """`stream` for asyncio; async nodes run in the caller's event loop, plain functions in threads."""
        return self._run_async(
            self._plan(input, config, context, stream_mode, pauses=(interrupt_before, interrupt_after))
        )

    def invoke(
        self,
        input: Any,
        config: Config | None = None,
        *,
        stream_mode: StreamMode = "values",
        context: Any = None,
        interrupt_before: Pauses = None,
        interrupt_after: Pauses = None,
    ) -> Any:
        """Run the graph to its end and return the state then (or, for another mode, all that it would have
        streamed)."""
        pauses = (interrupt_before, interrupt_after)
        if stream_mode != "values":
            return list(self._run_sync(self._plan(input, config, context, stream_mode, pauses=pauses)))
        final = _Final(self._view)
        for _ in self._run_sync(self._plan(input, config, context, (), final, pauses)):
            pass
        return final.values

    async def ainvoke(
        self,
        input: Any,
        config: Config | None = None,
        *,
        stream_mode: StreamMode = "values",
        context: Any = None,
        interrupt_before: Pauses = None,
        interrupt_after: Pauses = None,
    ) -> Any:
        """`invoke` for asyncio."""
        pauses = (interrupt_before, interrupt_after)
        if stream_mode != "values":
            plan = self._plan(input, config, context, stream_mode, pauses=pauses)
            return [chunk async for chunk in self._run_async(plan)]
        final = _Final(self._view)
        async for _ in self._run_async(self._plan(input, config, context, (), final, pauses)):
            pass
        return final.values

    def batch(
        self,
        inputs: Sequence[Any],
        config: Config | Sequence[Config] | None = None,
        *,
        return_exceptions: bool = False,
        max_concurrency: int | None = None,
        context: Any = None,
    ) -> list[Any]:
        """`invoke` for each input, side by side, each on a thread of its own unless its config names one.

        config: one for all, or one for each. return_exceptions: give an error in place of its result
            instead of raising the first.
        """

        def one(pair: tuple[Any, Config | None]) -> Any:
            try:
                return self.invoke(pair[0], pair[1], context=context)
            except Exception as error:
                if not return_exceptions:
                    raise
                return error

        pairs = _pairs(inputs, config)
        if not pairs:
            return []
        with ThreadPoolExecutor(max_concurrency or min(len(pairs), 16), "durable_graph_batch") as pool:
            return list(pool.map(one, pairs))

    async def abatch(
        self,
        inputs: Sequence[Any],
        config: Config | Sequence[Config] | None = None,
        *,
        return_exceptions: bool = False,
        max_concurrency: int | None = None,
        context: Any = None,
    ) -> list[Any]:
        """`batch` for asyncio."""
        gate = asyncio.Semaphore(max_concurrency or 16)

        async def one(value: Any, its_config: Config | None) -> Any:
            async with gate:
                return await self.ainvoke(value, its_config, context=context)

        runs = [one(value, its_config) for value, its_config in _pairs(inputs, config)]
        return list(await asyncio.gather(*runs, return_exceptions=return_exceptions))

    # --- changing -----------------------------------------------------------------------------

    def update_state(self, config: Config, values: Any, as_node: str | None = None) -> dict[str, Any]:
        """Append an update as if a node had returned it, and what follows that node is next.

        as_node: which node; by default the one that ran last. END ends the run.
        Returns the config that names the new step. Durable when it returns. Raises ThreadBusyError if the
            thread is running; InvalidUpdateError if the values do not fit or it is not clear which node is meant.
        """
        plan = self._update_plan(config, values, as_node)
        last = list(self._run_sync(plan))[-1]
        return config_of(last.row.thread_id, last.row.step)

    async def aupdate_state(self, config: Config, values: Any, as_node: str | None = None) -> dict[str, Any]:
        """`update_state` for asyncio."""
        plan = self._update_plan(config, values, as_node)
        last = [it async for it in self._run_async(plan)][-1]
        return config_of(last.row.thread_id, last.row.step)

    def fork(self, config: Config, to: str) -> dict[str, Any]:
        """Make a new thread `to` that stands where this one stood at the config's step (by default now). No rows
        are copied.

        Returns the config of the new thread. Raises ThreadExistsError, ThreadNotFoundError, CheckpointNotFoundError.
        """
        for _ in drive(self._fork_effects(config, to), self._stored(), nothing, False, None):
            pass
        return config_of(to, 0)

    async def afork(self, config: Config, to: str) -> dict[str, Any]:
        """`fork` for asyncio."""
        async for _ in adrive(self._fork_effects(config, to), self._stored(), nothing, False, None):
            pass
        return config_of(to, 0)

    def delete_thread(self, thread_id: str) -> None:
        """Remove a thread with all its rows. Raises ThreadNotFoundError if there is none."""
        store = self._stored()
        if not store.delete(thread_id):
            raise ThreadNotFoundError(thread_id=thread_id, store=store.name)

    async def adelete_thread(self, thread_id: str) -> None:
        """`delete_thread` for asyncio."""
        await in_thread(lambda: self.delete_thread(thread_id))

    # --- the graph itself ---------------------------------------------------------------------

    def get_graph(self) -> Picture:
        """The drawing, for `draw_mermaid()`."""
        return picture_of(self._graph)

    # --- putting calls together ---------------------------------------------------------------

    def _plan(
        self,
        input: Any,
        config: Config | None,
        context: Any,
        modes: Modes | tuple[()],
        show: Show | None = None,
        pauses: tuple[Pauses, Pauses] = (None, None),
    ) -> _Plan:
        given = read_config(config, self._config)
        if self._store is None and (given.thread_id is not None or given.step is not None):
            raise ArgumentError(
                argument="thread_id",
                problem="this graph has no checkpointer, so there are no threads",
                fix="Compile with a database to keep steps, or leave the thread_id out.",
            )
        wanted = check_modes(modes) if modes else ()

        def begin(owner: str) -> Run:
            call = self._call(
                given,
                owner,
                context=context,
                input=input if isinstance(input, Command) else self._accepts(input),
                announce=bool(ANNOUNCED & {*wanted}),
                interrupt_before=_pause(pauses[0], self._graph.interrupt_before),
                interrupt_after=_pause(pauses[1], self._graph.interrupt_after),
            )
            return self._new_run(call)

        beside = "custom" in wanted or runtime.calls_are_possible
        return _Plan(begin, show or self._show(modes), beside, given.max_concurrency)

    def _update_plan(self, config: Config, values: Any, as_node: str | None) -> _Plan:
        given = self._named(config)
        self._stored()

        def begin(owner: str) -> Run:
            return self._new_run(self._call(given, owner, input=values, updates=True, as_node=as_node))

        return _Plan(begin, lambda it: (it,), False, None)

    def _accepts(self, value: Any) -> Any:
        """The input as the engine takes it."""
        return value

    def _call(self, given: CallConfig, owner: str, **settings: Any) -> Call:
        thread_id = given.thread_id or str(uuid.uuid4())
        return Call(
            thread_id=thread_id,
            run_id=owner.rpartition("/")[2],
            step=given.step,
            config=given.for_nodes(thread_id),
            recorded=given.recorded(),
            recursion_limit=given.recursion_limit,
            owner=owner,
            alive=leases.alive,
            **settings,
        )

    def _new_run(self, call: Call) -> Run:
        return Run(self._graph, self._codec if self._store is not None else None, self._key, call)

    def _run_sync(self, plan: _Plan) -> Iterator[Any]:
        owner = leases.hold(str(uuid.uuid4()))
        try:
            yield from drive(plan.begin(owner).steps(), self._store, plan.show, plan.live, plan.workers)
        finally:
            leases.let_go(owner)

    async def _run_async(self, plan: _Plan) -> AsyncIterator[Any]:
        owner = leases.hold(str(uuid.uuid4()))
        try:
            run = adrive(plan.begin(owner).steps(), self._store, plan.show, plan.live, plan.workers)
            async with aclosing(run) as chunks:
                async for chunk in chunks:
                    yield chunk
        finally:
            leases.let_go(owner)

    def _fork_effects(self, config: Config, to: str) -> Effects:
        given = self._named(config)
        run_id = str(uuid.uuid4())
        call = Call(thread_id=to, run_id=run_id, step=given.step, recorded=given.recorded())
        return fork(self._graph, self._codec, self._key, call, str(given.thread_id))

    def _node_input(self, task: Task, values: Mapping[str, Any]) -> Any:
        node = self._graph.nodes.get(task.node)
        return detached(dict(values) if node is None else node.schema.select(values))


class _Final:
    """Shows nothing and remembers the state that was last seen: what `invoke` returns."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._last: Emission | None = None

    def __call__(self, it: Emission) -> Sequence[Any]:
        self._last = it
        return ()

    @property
    def values(self) -> Any:
        if self._last is None:
            return None
        position = self._last.position
        asked = list(open_interrupts(position))
        values: Any = self._view.values(position)  # of an entrypoint it need not be a dict
        return {**(values if isinstance(values, dict) else {}), INTERRUPT: asked} if asked else values


def _pause(nodes: Pauses, compiled: frozenset[str]) -> frozenset[str]:
    if nodes is None:
        return compiled
    return frozenset([nodes] if isinstance(nodes, str) else nodes)


def _pairs(inputs: Sequence[Any], config: Config | Sequence[Config] | None) -> list[tuple[Any, Config | None]]:
    if config is None or isinstance(config, Mapping):
        return [(value, config) for value in inputs]
    if len(config) != len(inputs):
        raise ArgumentError(
            argument="config",
            problem=f"there are {len(inputs)} inputs and {len(config)} configs",
            fix="Give one config for all, or one for each.",
        )
    return list(zip(inputs, config, strict=True))
