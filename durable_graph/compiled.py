"""CompiledGraph: every public call, in a sync and an async form of a few lines.

What a call does is decided in `core`; how one is put together and driven, in `session` and `drivers`.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, closing, suppress
from dataclasses import replace
from functools import partial
from typing import Any, Generic, TypeVar, Unpack

from durable_graph.codec import Codec, Storable
from durable_graph.core.address import Place, places
from durable_graph.core.caching import node_namespace
from durable_graph.core.chain import Key
from durable_graph.core.channels import Channel, detached
from durable_graph.core.config import CallConfig, merged, read_config
from durable_graph.core.effects import Emission, Recorded
from durable_graph.core.model import START, Command, Graph, GraphOutput, Node, StateUpdate, Task
from durable_graph.core.picture import Picture, picture_of
from durable_graph.core.position import Position
from durable_graph.core.projection import INTERRUPT, Shaper, View, config_of, open_interrupts
from durable_graph.core.rows import Codec as Coder
from durable_graph.core.schema import Schema, is_coroutine, json_schema, model_of
from durable_graph.errors import ArgumentError, ThreadBusyError, ThreadNotFoundError
from durable_graph.offload import aiterate, in_thread, thrown_in
from durable_graph.opening import Config, Modes
from durable_graph.recovery import Recovered, abandoned
from durable_graph.session import Options, Parts, Session, Subgraph, given_config
from durable_graph.store import Cache, Store
from durable_graph.submission import Submitting

log = logging.getLogger("durable_graph.threads")
StateT = TypeVar("StateT")


class CompiledGraph(Submitting, Generic[StateT]):
    """A graph that runs, and the log of what it ran. Made by `StateGraph.compile`; safe to share between
    threads and asyncio tasks."""

    def __init__(
        self,
        graph: Graph,
        store: Store | None,
        codec: Codec,
        key: Key = None,
        config: Config | None = None,
        *,
        inherits: bool | None = None,
        types: Iterable[Storable] = (),
        cache: Cache | bool | None = None,
        debug: bool = False,
    ) -> None:
        super().__init__(False if store is None else store, key=key, encryption_key=())
        self._graph = graph
        self._codec = codec
        self._config = config
        self._inherits = inherits
        self._cache = cache
        self._debug = debug
        messages = frozenset(name for name, channel in graph.channels.items() if channel.operation == "messages")
        self._view = View(tuple(graph.channels), self._node_input, messages)
        self.schedules = []
        self.types = tuple(types)  # that its states may hold, for the codec of a graph above it

    @property
    def name(self) -> str:
        return self._graph.name

    @property
    def is_async(self) -> bool:
        """Whether it has async functions, so that only `ainvoke` and the like can run it; also in a subgraph that is a
        node."""
        for node in self._graph.nodes.values():
            if isinstance(node.call, Subgraph):
                if node.call.graph.is_async:
                    return True
            elif is_coroutine(node.call) or any(is_coroutine(branch.path) for branch in node.branches):
                return True
        return False

    def with_config(self, config: Config | None = None, **settings: Any) -> CompiledGraph[StateT]:
        """The same graph with these settings under those of each call: a config, or its keys as arguments."""
        return type(self)(
            self._graph,
            self._store,
            self._codec,
            self._keys,
            merged(self._config or {}, merged(config or {}, settings)),
            inherits=self._inherits,
            types=self.types,
            cache=self._cache,
            debug=self._debug,
        )

    # --- running ------------------------------------------------------------------------------

    def stream(
        self,
        input: Any,
        config: Config | None = None,
        *,
        stream_mode: Modes = "updates",
        **options: Unpack[Options],
    ) -> Iterator[Any]:
        """Run the graph, yielding what happens as it happens. Each step is committed before it is yielded.

        input: the update that the run begins with; None continues the thread where it stands, after a break, a
            crash, an error; a Command answers an interrupt.
        config: {"configurable": {"thread_id": ..., "step": ...}, "recursion_limit": ..., "metadata": ..., "tags": ...,
            "run_name": ..., "max_concurrency": ...}, or {"thread_id": ...} alone. Without a thread_id a new thread
            is made.
        stream_mode: "updates", "values", "custom", "tasks", "checkpoints", "debug", "events"; or a list of them, then
            (mode, chunk) is yielded.
        options: see `Options`: context, interrupt_before, interrupt_after, subgraphs, wait ...

        Lazy: nothing runs until the consumer asks. `close()` or leaving the loop stops after the step at hand and
        frees the thread. Raises what a node raised; EmptyInputError if there is nothing to continue; ThreadBusyError
        if another run has the thread and it does not get free within `wait` seconds; GraphRecursionError; StoreError;
        FencedError if this process stood still for longer than its lease and another one has taken over. Whatever is
        raised, the thread can be continued.
        """
        return self._session(input, config, stream_mode, options).sync()

    def astream(
        self,
        input: Any,
        config: Config | None = None,
        *,
        stream_mode: Modes = "updates",
        **options: Unpack[Options],
    ) -> AsyncIterator[Any]:
        """`stream` for asyncio; async nodes run in the caller's event loop, plain functions in threads."""
        return self._session(input, config, stream_mode, options).asynchronous()

    def invoke(
        self,
        input: Any,
        config: Config | None = None,
        *,
        stream_mode: Modes = "values",
        **options: Unpack[Options],
    ) -> Any:
        """Run the graph to its end and return the state then, with the open questions under "__interrupt__"; with
        version="v2" as a GraphOutput.

        For another mode than "values": all that it would have streamed.
        """
        if stream_mode != "values":
            return list(self._session(input, config, stream_mode, options).sync())
        session = self._session(input, config, (), options)
        for _ in session.sync():
            pass
        return self._outcome(session, options.get("version"))

    async def ainvoke(
        self,
        input: Any,
        config: Config | None = None,
        *,
        stream_mode: Modes = "values",
        **options: Unpack[Options],
    ) -> Any:
        """`invoke` for asyncio."""
        if stream_mode != "values":
            return [chunk async for chunk in self._session(input, config, stream_mode, options).asynchronous()]
        session = self._session(input, config, (), options)
        async for _ in session.asynchronous():
            pass
        return self._outcome(session, options.get("version"))

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

    def recover(
        self,
        config: Config | None = None,
        *,
        limit: int | None = None,
        context: Any = None,
        until: Callable[[], bool] | None = None,
    ) -> Iterator[Recovered]:
        """Continue every thread of this graph that was running when its process died, one after the other, and yield
        what became of each.

        config, context: for these runs, as in `stream`, without a thread. limit: so many threads at most. until: is
            asked after each step; when it returns True that was the last one, and the next call finds the thread again.

        Lazy as `stream` is: loop over it. Threads are found by the graph's name, so graphs that share a database need
        names of their own (`compile(name=...)`). Dead is an owner whose process is gone from this host, or whose
        lease has run out. Run it wherever and as often as you like, also side by side: each thread is continued by one
        process only, and the others pass it over. A node that raises is told of in `Recovered.error`; its thread is
        then failed, which is not continued again. Threads that wait for an answer, a time or a signal, failed ones and
        those that a consumer left are no concern of it. A subgraph's run is continued by the one above it.
        Raises StoreError if the database cannot be used.
        """
        return self._recovering(self._for_any_thread(config), limit, context, until or _never)

    def _recovering(
        self, given: CallConfig, limit: int | None, context: Any, until: Callable[[], bool]
    ) -> Iterator[Recovered]:
        left = _limited(limit)
        for thread in abandoned(self._stored(), self.name):
            if not left or until():
                return
            session, error = self._recovery(given, thread.thread_id, context), None
            try:
                with closing(session.sync()) as steps:
                    for _ in steps:
                        if until():
                            return
            except Exception as raised:
                error = raised
            if recovered := self._recovered(session, thread.thread_id, error):
                left -= 1
                yield recovered

    def arecover(
        self,
        config: Config | None = None,
        *,
        limit: int | None = None,
        context: Any = None,
        until: Callable[[], bool] | None = None,
    ) -> AsyncIterator[Recovered]:
        """`recover` for asyncio. To continue several at a time, loop over several of them side by side."""
        return self._arecovering(self._for_any_thread(config), limit, context, until or _never)

    async def _arecovering(
        self, given: CallConfig, limit: int | None, context: Any, until: Callable[[], bool]
    ) -> AsyncGenerator[Recovered, None]:
        left = _limited(limit)
        async with aclosing(aiterate(abandoned(self._stored(), self.name))) as threads:
            async for thread in threads:
                if not left or until():
                    return
                session, error = self._recovery(given, thread.thread_id, context), None
                try:
                    async with aclosing(session.asynchronous()) as steps:
                        async for _ in steps:
                            if until():
                                return
                except Exception as raised:
                    error = raised
                if recovered := await in_thread(partial(self._recovered, session, thread.thread_id, error)):
                    left -= 1
                    try:
                        yield recovered
                    except BaseException as gone:
                        await thrown_in(gone)
                        raise

    # --- changing -----------------------------------------------------------------------------

    def update_state(
        self,
        config: Config,
        values: Any,
        as_node: str | None = None,
        task_id: str | None = None,
        *,
        wait: float | None = None,
    ) -> dict[str, Any]:
        """Append an update as if a node had returned it, and what follows that node is next.

        config: with a `checkpoint_ns` the run of that subgraph is updated, and the graph above goes on with it.
        as_node: which node; by default the one that ran last. END ends the run. task_id: the pending task whose
            place the update takes, instead of as_node.
        wait: seconds to wait for a thread that is running, instead of raising ThreadBusyError at once.
        A question that is open stays open if its node is next again: it may be answered right away.
        Returns the config that names the new step. Durable when it returns. Raises ThreadBusyError if the
            thread is running; InvalidUpdateError if the values do not fit or it is not clear which node is meant.
        """
        return self.bulk_update_state(config, [[StateUpdate(values, as_node, task_id)]], wait=wait)

    async def aupdate_state(
        self,
        config: Config,
        values: Any,
        as_node: str | None = None,
        task_id: str | None = None,
        *,
        wait: float | None = None,
    ) -> dict[str, Any]:
        """`update_state` for asyncio."""
        return await self.abulk_update_state(config, [[StateUpdate(values, as_node, task_id)]], wait=wait)

    def bulk_update_state(
        self, config: Config, supersteps: Sequence[Sequence[StateUpdate]], *, wait: float | None = None
    ) -> dict[str, Any]:
        """Append a row for each of the supersteps: updates as if these nodes had returned them side by side.

        wait: as in update_state. Each row is durable before the next one is made; when one is refused, those before
        it stay. Returns the config that names the last step. Raises as update_state does; ArgumentError if there is
        nothing to append.
        """
        for updates in _checked_updates(supersteps):
            *_, last = self._update_session(config, updates, wait).sync()
            config = self._config_after(config, last.row.step)
        return dict(config)

    async def abulk_update_state(
        self, config: Config, supersteps: Sequence[Sequence[StateUpdate]], *, wait: float | None = None
    ) -> dict[str, Any]:
        """`bulk_update_state` for asyncio."""
        for updates in _checked_updates(supersteps):
            *_, last = [it async for it in self._update_session(config, updates, wait).asynchronous()]
            config = self._config_after(config, last.row.step)
        return dict(config)

    def _config_after(self, config: Config, step: int) -> Config:
        given = self._named(config)
        return config_of(str(given.thread_id), step, given.ns)

    def delete_thread(self, thread_id: str, *, actor: str | None = None) -> None:
        """Remove a thread with all its rows, and those of its subgraphs. Raises ThreadNotFoundError if there is none.

        actor: who does it. Of the thread nothing stays: that is told in a record of the logger "durable_graph.threads".
        By default it is config["metadata"]["actor"] of `with_config`. See the README for what backups and a database's
        own files keep.
        """
        store = self._stored()
        given = {} if actor is None else {"metadata": {"actor": actor}}
        actor = read_config(given, self._config).metadata.get("actor")
        if not store.delete(thread_id):
            raise ThreadNotFoundError(thread_id=thread_id, store=store.name)
        store.scrub()
        by = f" by {actor!r}" if actor else ""
        log.info("thread %r was deleted%s", thread_id, by, extra={"thread_id": thread_id, "step": None})

    async def adelete_thread(self, thread_id: str, *, actor: str | None = None) -> None:
        """`delete_thread` for asyncio."""
        await in_thread(lambda: self.delete_thread(thread_id, actor=actor))

    # --- the cache ----------------------------------------------------------------------------

    def clear_cache(self, nodes: Sequence[str] | None = None) -> None:
        """Forget what these nodes have returned (None: all nodes of this graph), so that they are called again.

        What subgraphs and @tasks returned stays: they have `clear_cache` of their own. Raises ArgumentError without a
        cache, or for a node that is not there; StoreError.
        """
        known = {name: node for name, node in self._graph.nodes.items() if name != START}
        for name in nodes or ():
            if name not in known:
                raise ArgumentError(
                    argument="nodes",
                    problem=f"there is no node {name!r}",
                    fix=f"Name some of: {', '.join(sorted(known))}",
                )
        wanted = known if nodes is None else nodes
        self._opened_cache().forget([node_namespace(self.name, name, known[name].call) for name in wanted])

    async def aclear_cache(self, nodes: Sequence[str] | None = None) -> None:
        """`clear_cache` for asyncio."""
        await in_thread(lambda: self.clear_cache(nodes))

    def _opened_cache(self) -> Cache:
        if not self._cache:
            raise ArgumentError(
                argument="cache",
                problem=f"the graph {self.name!r} was compiled without a cache",
                fix="Compile it with cache=True, or clear that of the graph above.",
            )
        return self._stored() if self._cache is True else self._cache

    def close(self) -> None:
        """Give back the database connections, the cache's too, and end the executors that this graph and those that are
        its nodes have made. The graph opens them again when used again."""
        self._end_executors()
        super().close()
        if self._cache and self._cache is not True:
            self._cache.close()

    def _end_executors(self) -> None:
        for pool in {node.executor for node in self._graph.nodes.values()} - {None}:
            pool.close()
        for node in self._graph.nodes.values():
            if isinstance(node.call, Subgraph):
                node.call.graph._end_executors()

    # --- the graph itself ---------------------------------------------------------------------

    @property
    def nodes(self) -> Mapping[str, Node]:
        """The nodes by name, START included: `graph.nodes["a"].call(state)` tries one on its own."""
        return self._graph.nodes

    @property
    def channels(self) -> Mapping[str, Channel]:
        """The keys of the state, with their reducers."""
        return self._graph.channels

    def get_graph(self, config: Config | None = None, *, xray: int | bool = False) -> Picture:
        """The drawing, for `draw_svg()`, `draw_png()`, `draw_mermaid()`. xray: also inside subgraphs, so many graphs
        down or, with True, all."""
        deeper = xray if xray is True else xray - 1

        def inside(node: str) -> Picture | None:
            call = self._graph.nodes[node].call
            return call.graph.get_graph(xray=deeper) if isinstance(call, Subgraph) else None

        return picture_of(self._graph, inside) if xray else picture_of(self._graph)

    async def aget_graph(self, config: Config | None = None, *, xray: int | bool = False) -> Picture:
        """`get_graph` for asyncio."""
        return self.get_graph(config, xray=xray)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        """For notebooks: the drawing."""
        return {**self.get_graph()._repr_mimebundle_(), "text/plain": repr(self)}

    def get_subgraphs(
        self, *, namespace: str | None = None, recurse: bool = False
    ) -> Iterator[tuple[str, CompiledGraph[Any]]]:
        """(namespace, graph) of each subgraph: those that nodes are, and the first that a node's function names.

        namespace: only this one. recurse: also those below, as "node|node".
        """
        for name in self._graph.nodes:
            below = self._below(name)
            if below is None:
                continue
            if namespace in (None, name):
                yield name, below
            if recurse:
                yield from (
                    (f"{name}|{rest}", graph)
                    for rest, graph in below.get_subgraphs(recurse=True)
                    if namespace in (None, f"{name}|{rest}")
                )

    async def aget_subgraphs(
        self, *, namespace: str | None = None, recurse: bool = False
    ) -> AsyncIterator[tuple[str, CompiledGraph[Any]]]:
        """`get_subgraphs` for asyncio."""
        for found in self.get_subgraphs(namespace=namespace, recurse=recurse):
            yield found

    def get_input_schema(self, config: Config | None = None) -> Any:
        """The input as a pydantic model. Raises CallError where pydantic is not installed."""
        return model_of(f"{self.name}Input", self._graph.input.type)

    def get_output_schema(self, config: Config | None = None) -> Any:
        """The output as a pydantic model. Raises CallError where pydantic is not installed."""
        return model_of(f"{self.name}Output", self._graph.output.type)

    def get_input_jsonschema(self, config: Config | None = None) -> dict[str, Any]:
        """The JSON schema of the input. Raises CallError where pydantic is not installed."""
        return json_schema(_titled(self._graph.input.type), self._graph.input.type)

    def get_output_jsonschema(self, config: Config | None = None) -> dict[str, Any]:
        """The JSON schema of the output. Raises CallError where pydantic is not installed."""
        return json_schema(_titled(self._graph.output.type), self._graph.output.type)

    def get_context_jsonschema(self) -> dict[str, Any] | None:
        """The JSON schema of the context; None without a context_schema."""
        schema = self._graph.context
        return None if schema is None else json_schema(_titled(schema), schema)

    def as_node(self, keys: Mapping[str, Any]) -> Subgraph:
        """This graph as a node of one with these keys."""
        return Subgraph(self, keys)

    def node_schema(self) -> Schema:
        """What this graph receives as a node: those of the keys above that its input has."""
        return replace(self._graph.input, build=lambda values: values)

    # --- putting calls together ---------------------------------------------------------------

    def _session(self, input: Any, config: Config | None, modes: Modes | tuple[()], options: Options) -> Session:
        shaper = Shaper(modes, options.get("subgraphs", False), options.get("version", "v1"))
        given = given_config(config, self._config)
        if self._debug and options.get("debug") is None:
            options = {**options, "debug": True}
        value = input if isinstance(input, Command) else self._accepts(input)
        return Session(self._parts, given, shaper, options=options, input=value)

    def _update_session(self, config: Config, updates: Sequence[StateUpdate], wait: float | None) -> Session:
        self._stored()
        given, shaper = self._named(config), Shaper(())
        there = self._graph_at(given.ns)._parts
        parts = replace(there, store=self._store, codec=there.codec.like(self._codec), key=self._key)
        return Session(parts, given, shaper, _rows_only, {"wait": wait}, updates=updates)

    def _graph_at(self, ns: tuple[str, ...]) -> CompiledGraph[Any]:
        """The subgraph that runs at this namespace. Raises ArgumentError where the drawing does not show it."""
        graph: CompiledGraph[Any] = self
        for place in places(ns):
            below = graph._below(place.node)
            if below is None:
                raise ArgumentError(
                    argument="checkpoint_ns",
                    problem=f"the subgraph below {place.node!r} in {'|'.join(ns)!r} is not known",
                    fix="Take checkpoint_ns from get_state(config).tasks, and give the subgraph to add_node or let the "
                    "node's function name it.",
                )
            graph = below
        return graph

    def _below(self, node: str) -> CompiledGraph[Any] | None:
        """The subgraph that a node is or, of those that its function names, the first."""
        found = self._graph.nodes.get(node)
        return None if found is None else next(iter(_graphs_in(found.call)), None)

    def _for_any_thread(self, config: Config | None) -> CallConfig:
        self._stored()
        given = given_config(config, self._config)
        if given.thread_id is not None or given.step is not None:
            raise ArgumentError(
                argument="config",
                problem="it names a thread, and recover finds them by itself",
                fix="To continue one thread use stream(None, config).",
            )
        return given

    def _recovery(self, given: CallConfig, thread_id: str, context: Any) -> Session:
        given, options = replace(given, thread_id=thread_id), Options(context=context)
        return Session(self._parts, given, Shaper(()), _rows_only, options, input=None, recovers=True)

    def _recovered(self, session: Session, thread_id: str, error: Exception | None) -> Recovered | None:
        """None if there was nothing to do any more: somebody else was faster, or it is gone."""
        if not session.run.recovered and (error is None or isinstance(error, ThreadBusyError)):
            return None
        thread = self._stored().thread(thread_id)
        return None if thread is None else Recovered(thread_id, thread.status, error)

    @property
    def _parts(self) -> Parts:
        return Parts(self._graph, self._codec, self._store, self._key, self._view, self._inherits, self._cache)

    def _accepts(self, value: Any) -> Any:
        """The input as the engine takes it."""
        return value

    def _outcome(self, session: Session, version: str | None) -> Any:
        """What `invoke` returns: the state, with the open questions if there are any."""
        return self._result_at(session.run.position, version)

    def _result_at(self, position: Position, version: str | None = None) -> Any:
        asked = list(open_interrupts(position))
        view = self._view.only(self._graph.output.keys)
        values: Any = view.values(position)  # of an entrypoint it need not be a dict
        if version == "v2":
            return GraphOutput(values, tuple(asked))
        return {**(values if isinstance(values, dict) else {}), INTERRUPT: asked} if asked else values

    def _forked_by(self, given: CallConfig) -> tuple[Graph, Coder]:
        graph = self._graph_at(given.ns)
        return graph._graph, graph._codec.like(self._codec)

    def _view_of(self, ns: tuple[str, ...]) -> View:
        graph: CompiledGraph[Any] = self
        for place in places(ns):
            below = graph._below(place.node)
            if below is None:
                return super()._view_of(ns)
            graph = below
        return graph._view

    def _drawn_below(self, ns: tuple[str, ...], task: Task) -> Place | None:
        graph: CompiledGraph[Any] | None = self
        for place in places(ns):
            graph = graph and graph._below(place.node)
        node = graph._graph.nodes.get(task.node) if graph is not None else None
        if node is None or not isinstance(node.call, Subgraph) or node.call.graph._inherits is False:
            return None
        return Place(task.node, None if node.call.graph._inherits else task.id)

    def _node_input(self, task: Task, values: Mapping[str, Any]) -> Any:
        node = self._graph.nodes.get(task.node)
        return detached(dict(values) if node is None else node.schema.select(values))


def _graphs_in(call: Any) -> Iterator[CompiledGraph[Any]]:
    """The graphs that a node's function names, in the order of their names: its own variables, those around it and
    those of its object."""
    if isinstance(call, Subgraph):
        yield call.graph
        return
    named: dict[str, Any] = dict(vars(call.__self__)) if hasattr(getattr(call, "__self__", None), "__dict__") else {}
    with suppress(TypeError):  # what is no Python function
        found = inspect.getclosurevars(inspect.unwrap(call))
        named.update({**found.globals, **found.nonlocals})
    yield from (value for _, value in sorted(named.items()) if isinstance(value, CompiledGraph))


def _rows_only(it: Emission) -> Sequence[Recorded]:
    return [it] if isinstance(it, Recorded) else []


def _never() -> bool:
    return False


def _titled(schema: Any) -> str:
    return str(schema.__name__)


def _checked_updates(supersteps: Sequence[Sequence[StateUpdate]]) -> list[list[StateUpdate]]:
    checked = [[StateUpdate(*update) for update in updates] for updates in supersteps]
    if not checked or not all(checked):
        raise ArgumentError(
            argument="supersteps",
            problem="there are no updates" if checked else "there are no supersteps",
            fix="Give a list of lists of StateUpdate(values, as_node), one list for each superstep.",
        )
    return checked


def _limited(limit: int | None) -> float:
    return math.inf if limit is None else max(limit, 0)


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
