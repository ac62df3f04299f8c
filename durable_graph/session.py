"""One call of a graph, from its arguments to its driver; and what changes when the caller is a node of another graph.

A graph that is called from a node, or is one, is a subgraph: its run is a thread of its own in the database of the
graph above, named after the task it runs in. That makes it durable by itself. When the node runs again, after a
crash or an answer, it finds its subgraph's thread and goes on there, or takes its result if that had ended.
"""

from __future__ import annotations

import asyncio
import uuid
import weakref
from collections.abc import AsyncGenerator, Collection, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypedDict

from durable_graph import beat, drivers, leases, unfinished, watch
from durable_graph.adrivers import adrive
from durable_graph.cache import Forgiving
from durable_graph.codec import Codec
from durable_graph.core import runtime
from durable_graph.core.address import Place, thread_of
from durable_graph.core.caching import Caching
from durable_graph.core.config import PLACES, CallConfig, read_config
from durable_graph.core.effects import Emission, Recorded, Surround
from durable_graph.core.model import START, Command, Graph
from durable_graph.core.position import Child
from durable_graph.core.projection import ANNOUNCED, PLACE, SPOKEN, Shaper, View, open_interrupts
from durable_graph.core.rows import Call, Effects
from durable_graph.core.run import Run
from durable_graph.core.runtime import Runtime
from durable_graph.drivers import Show, drive
from durable_graph.errors import ArgumentError, CallError, GraphInterrupt, ParentCommand
from durable_graph.messages import langchain_is_used, message_types
from durable_graph.offload import ended
from durable_graph.store import Cache, Store


@dataclass(frozen=True, slots=True)
class Parts:
    """What a compiled graph is made of."""

    graph: Graph
    codec: Codec
    store: Store | None
    key: bytes | None
    view: View
    inherits: bool | None  # as a subgraph: None a new thread for each call, True one for all, False none
    cache: Cache | bool | None = None  # True: the store; None: that of the graph above


@dataclass(frozen=True, slots=True)
class Link:
    """What the graphs below need to know of the call above them."""

    store: Store | None
    codec: Codec  # whose encryption and limits hold below, too
    key: bytes | None
    shaper: Shaper  # of the outermost consumer
    ns: tuple[str, ...]
    cache: Cache | None = None


class Options(TypedDict, total=False):
    """What `stream`, `invoke` and their async forms take besides input, config and stream_mode.

    Names and meaning are LangGraph's; `wait` is ours.
    """

    context: Any  # what nodes find as `runtime.context`; not recorded
    interrupt_before: Sequence[str] | None  # nodes before which to pause, instead of compile's; "*" for all
    interrupt_after: Sequence[str] | None
    subgraphs: bool  # also show what happens in subgraphs, with a namespace in front
    output_keys: str | Sequence[str] | None  # of the state and of updates show only these keys
    version: str  # "v2": every chunk is {"type", "ns", "data"}
    print_mode: str | Sequence[str]  # modes to print as well
    debug: bool | None  # print the mode "debug"
    durability: str | None  # accepted; every step is always committed before it is shown
    wait: float | None  # seconds to wait for a thread that another run has; by default ThreadBusyError at once


class Session:
    """One call, checked when it is made and begun when it is driven."""

    def __init__(
        self,
        parts: Parts,
        given: CallConfig,
        shaper: Shaper,
        show: Show | None = None,
        options: Options | None = None,
        facts: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        """facts: of the `Call`, which the caller knows better."""
        options = _checked(options or {})
        self._facts = facts or {}
        keys = options.get("output_keys")
        if keys is not None:
            parts = replace(parts, view=parts.view.only(keys))
        caller = runtime.running()
        if parts.store is None and caller is None and (given.thread_id or given.step is not None):
            raise ArgumentError(
                argument="thread_id",
                problem="this graph has no checkpointer, so there are no threads",
                fix="Compile with a database to keep steps, or leave the thread_id out.",
            )
        if caller is not None and caller._holds():
            raise CallError(
                problem=f"node {caller.node!r} calls a graph after it has used runtime.connection",
                fix="On SQLite an open transaction keeps that graph's rows from being saved: call it before.",
            )
        if given.thread_id is not None:
            parts.codec.limits.check_id(given.thread_id)
        below = caller is not None and not settings.get("updates") and _is_below(caller, parts, given)
        if below and caller is not None and caller._away:
            raise CallError(
                problem=f"node {caller.node!r} calls a graph, and is in another process than its run",
                fix="Give the node executor=False or an executor of threads, or the graph a thread_id of its own.",
            )
        self._caller = caller if below else None
        self._parts = parts
        self._given = given
        if self._caller is not None:
            self._place = _place(self._caller, parts)
            self._parts = _placed(parts, self._caller)
            self._given = replace(given, thread_id=self._place.thread(self._caller.thread_id), ns=())
        self._shaper = shaper
        self._own_show = show or partial(shaper.show, parts.view, ())
        self._printer = Shaper(options.get("print_mode") or (["debug"] if options.get("debug") else ()))
        self._show = self._own_show if self._caller is None and not self._printer.modes else self._show_around
        self._settings = {
            **settings,
            "context": options.get("context"),
            "wait": _seconds(options.get("wait")),
            "interrupt_before": _nodes(parts.graph, options, "interrupt_before"),
            "interrupt_after": _nodes(parts.graph, options, "interrupt_after"),
        }
        self.run: Run
        self.owner = ""  # of the lease, once an async call has begun

    # --- driving ------------------------------------------------------------------------------

    def sync(self) -> Generator[Any]:
        """The call as a generator. The outcome is in `run` afterwards."""
        chunks = self._synchronous()
        unfinished.add(chunks, self._parts.store)
        return chunks

    def _synchronous(self) -> Generator[Any]:
        owner = leases.hold(str(uuid.uuid4()))
        try:
            steps = watch.watched(self._begin(owner), self._parts.store)
            self._keep(owner)
            yield from drive(steps, self._parts.store, self._show, self._live, self._workers)
        finally:
            leases.let_go(owner)
            if (ending := beat.let_go(owner)) is not None:
                ending.join()
        self._speak_up()

    def asynchronous(self) -> AsyncGenerator[Any]:
        """The same for asyncio."""
        chunks = adrive(_Opening(self), self._parts.store, self._show, self._live, self._workers)
        weakref.finalize(chunks, self._dropped).atexit = False
        return chunks

    def _dropped(self) -> None:
        """Nobody has the generator any more; if it had not ended, asyncio closes it, in a moment."""
        if self.owner and self._given.thread_id is not None:
            leases.drop(self.owner, self._given.thread_id)

    async def _aopen(self) -> Effects:
        while self._given.thread_id is not None and leases.is_ending(self._given.thread_id):  # noqa: ASYNC110
            await asyncio.sleep(0.001)  # `async for ...: break` closes its iterator a moment later
        owner = self.owner = leases.hold(str(uuid.uuid4()))
        steps = watch.watched(self._begin(owner), self._parts.store)
        self._keep(owner)
        return steps

    async def _aclose(self) -> None:
        leases.let_go(self.owner)
        if (ending := beat.let_go(self.owner)) is not None:
            await ended(ending)

    @property
    def _live(self) -> bool:
        """Whether something has to get out while a node runs, or it waits for an executor: then even a single one runs
        beside us."""
        above = self._link.shaper
        modes = {*self._shaper.modes, *above.modes}
        live = bool(modes & SPOKEN) or self._shaper.subgraphs or above.subgraphs or runtime.calls_are_possible
        return live or self._parts.graph.has_executors

    @property
    def _surround(self) -> Surround | None:
        """langchain-core's callbacks for nodes, if the application uses it: they hear what chat models say."""
        if not langchain_is_used():
            return None
        from durable_graph import langchain

        return langchain.Surroundings(self._listens)

    @property
    def _listens(self) -> bool:
        """Whether somebody wants to see messages while they are made. If nobody does, models are not made to stream."""
        above = self._link.shaper
        modes = {*self._shaper.modes, *self._printer.modes}
        if self._caller is None or above.subgraphs:
            modes |= {*above.modes}
        return "messages" in modes and (self._parts.store is None or all(map(self._parts.codec.knows, message_types())))

    @property
    def _workers(self) -> int | None:
        return self._given.max_concurrency

    def _begin(self, owner: str) -> Run:
        parts, given, caller = self._parts, self._given, self._caller
        thread_id = given.thread_id or str(uuid.uuid4())
        call = Call(
            thread_id=thread_id,
            run_id=owner.rpartition("/")[2],
            step=given.step,
            root=thread_id,
            inside=given.ns,
            config=given.for_nodes(thread_id),
            recorded=given.recorded(),
            recursion_limit=given.recursion_limit,
            announce=bool(ANNOUNCED & {*self._shaper.modes, *self._link.shaper.modes}),
            caching=self._caching,
            link=self._link,
            surround=self._surround,
            now=lambda: drivers.clock(),
            owner=owner,
            alive=leases.alive,
            lease_seconds=leases.SECONDS,
            **self._settings,
        )
        call = replace(call, **self._facts)
        if caller is not None:
            call = _below(call, caller, self._place)
        elif given.ns and call.updates:
            call = replace(call, thread_id=thread_of(thread_id, given.ns))
        self.run = Run(parts.graph, parts.codec if parts.store is not None else None, parts.key, call)
        return self.run

    def _keep(self, owner: str) -> None:
        """Its lease, if it will have one, lasts until the owner lets go."""
        store, call = self._parts.store, self.run.call
        if store is not None and not call.updates and not call.only_accepts:
            beat.keep(owner, store, call.thread_id)

    @property
    def _caching(self) -> Caching | None:
        cache = self._cache
        return None if cache is None else Caching(Forgiving(cache), self._parts.codec, lambda: drivers.clock())

    @property
    def _cache(self) -> Cache | None:
        parts = self._parts
        if parts.cache is True:
            return parts.store
        return parts.cache or None

    @property
    def _link(self) -> Link:
        if self._caller is None:
            return Link(self._parts.store, self._parts.codec, self._parts.key, self._shaper, (), self._cache)
        above: Link = self._caller._link
        return replace(above, ns=(*above.ns, *self._place.parts), cache=self._cache)

    # --- as a subgraph ------------------------------------------------------------------------

    def _show_around(self, it: Emission) -> Iterable[Any]:
        """Also to the graph above, and to whoever reads what is printed."""
        if self._caller is not None:
            link = self._link
            step = it.row.step if isinstance(it, Recorded) and self._parts.store is not None else None
            chunks = list(link.shaper.show(self._parts.view, link.ns, it))
            if step is not None or chunks:
                self._caller._below(self._given.thread_id, step, chunks)
        for chunk in self._printer.show(self._parts.view, (), it):
            print(chunk)  # noqa: T201 - that is what print_mode asks for
        return self._own_show(it)

    def _speak_up(self) -> None:
        """A subgraph that ended with a question or a command tells the graph above."""
        if self._caller is None:
            return
        position = self.run.position
        if position.command is not None:
            raise ParentCommand(Command(update=position.command["update"], goto=position.command["goto"]))
        if position.questions or position.paused:
            raise GraphInterrupt(open_interrupts(position), below=True)


class _Opening:
    """What is done before and after an asynchronous call is driven."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def __aenter__(self) -> Effects:
        try:
            return await self._session._aopen()
        except BaseException:
            await self._session._aclose()
            raise

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        await self._session._aclose()
        if kind is None:
            self._session._speak_up()


def given_config(config: Mapping[str, Any] | None, base: Mapping[str, Any] | None) -> CallConfig:
    """The config of a call. In a node, what it does not say is taken from the run above; all but the thread."""
    caller = runtime.running()
    if caller is None:
        return read_config(config, base)
    configurable = {key: value for key, value in caller.config["configurable"].items() if key not in PLACES}
    given = read_config(config, {**caller.config, **(base or {}), "configurable": configurable})
    above = caller.config["metadata"]
    own = {key: value for key, value in given.metadata.items() if key not in PLACE or above.get(key) != value}
    return replace(given, metadata=own)


def _checked(options: Options) -> Options:
    for name in options:
        if name not in Options.__annotations__:
            raise ArgumentError(
                argument=name,
                problem="there is no such argument",
                fix=f"Known: {', '.join(sorted(Options.__annotations__))}",
            )
    return options


def _seconds(wait: Any) -> float:
    if wait is None:
        return 0.0
    if not isinstance(wait, int | float) or not wait >= 0:
        raise ArgumentError(argument="wait", problem=f"{wait!r} is no time to wait", fix="Give seconds: wait=30")
    return float(wait)


def _nodes(graph: Graph, options: Options, name: Literal["interrupt_before", "interrupt_after"]) -> frozenset[str]:
    """The nodes to pause at: as the call says, else as compiled."""
    wanted = options.get(name)
    if wanted is None:
        compiled: frozenset[str] = getattr(graph, name)
        return compiled
    names: Any = [wanted] if isinstance(wanted, str) else wanted
    if not isinstance(names, Collection) or not all(each in graph.nodes or each == "*" for each in names):
        known = ", ".join(sorted(graph.nodes.keys() - {START}))
        raise ArgumentError(
            argument=name, problem=f"{wanted!r} names no nodes of this graph", fix=f'Use "*" or a list of: {known}'
        )
    return frozenset(names)


def _is_below(caller: Runtime[Any], parts: Parts, given: CallConfig) -> bool:
    """Whether this call is a subgraph's: made in a node, and not for a thread of its own."""
    if parts.inherits is False:
        return False
    return given.thread_id is None or given.thread_id == caller.thread_id


def _placed(parts: Parts, caller: Runtime[Any]) -> Parts:
    link: Link = caller._link
    cache = link.cache if parts.cache is None else parts.cache
    return replace(parts, store=link.store, codec=parts.codec.like(link.codec), key=link.key, cache=cache)


def _base(caller: Runtime[Any], place: Place) -> Child | None:
    """What a new run of a subgraph that goes on from run to run is put on. None: where its thread stands."""
    if not place.kept or caller._pinned is None:
        return None
    pinned: Mapping[str, Child | None] = caller._pinned
    return pinned.get(place.key, (place.thread(caller.thread_id), -1, {}))


def _place(caller: Runtime[Any], parts: Parts) -> Place:
    number = caller._count("graphs")
    if parts.inherits is True:
        return Place(caller._home, None, number)
    return Place(caller.node, caller.task, number)


def _below(call: Call, caller: Runtime[Any], place: Place) -> Call:
    task = f"{caller.thread_id}/{caller.task}"
    return replace(
        call,
        task=task,
        parent=(caller.thread_id, caller.step),
        answers=caller._answers,
        origin=caller._children.get(place.key),
        base=_base(caller, place),
        alive=leases.is_held,  # who else ran it did so for the run above, whose lease is ours now
        recorded={**call.recorded, "task": task},
        context=caller.context if call.context is None else call.context,
    )


class Subgraph:
    """A compiled graph as a node of another: takes what it knows of the state above, gives back what that knows."""

    def __init__(self, graph: Any, keys: Mapping[str, Any]) -> None:
        self.graph = graph  # a CompiledGraph
        self._keys = keys

    def __call__(self, state: Any) -> dict[str, Any]:
        return self._known(self.graph.invoke(state))

    async def acall(self, state: Any) -> dict[str, Any]:
        return self._known(await self.graph.ainvoke(state))

    def _known(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in values.items() if key in self._keys}
