"""What one server serves: graphs by their ids, the databases of these, and the runs under way."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar

from durable_graph import ArgumentError, Thread
from durable_graph.server import inside
from durable_graph.server.hub import Hub, Topic
from durable_graph.server.problems import Problem
from durable_graph.server.runs import Runs
from durable_graph.server.streams import Ways

T = TypeVar("T")

GRAPHS = uuid.UUID("6ba7b821-9dad-11d1-80b4-00c04fd430c8")  # LangGraph's: an assistant's id is made of its graph's
READERS = 16  # threads that read databases
LONG_READERS = 4  # others, for what takes as long as a log or all threads are: nobody else waits for it
SOME = 5  # that exist, as an error names them
REPLICA = -1  # its place


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What a server takes, and for how long."""

    body_bytes: int = 8 * 2**20  # of a request
    body_seconds: float = 30.0  # until it has come
    seconds: float = 60.0  # for an answer that is no stream and waits for no run
    grace: float = 10.0  # seconds that runs get for the step at hand when the server ends
    heartbeat: float = 15.0  # seconds after which a quiet stream shows that it is there
    room: int = 1000  # events that wait for a client that is slow; then it goes on from the log
    poll: float = 0.25  # seconds between two looks at threads that run elsewhere
    runs: int = 1000  # under way at the same time


class Found(NamedTuple):
    """A thread, and which graph shows it: its own, or another one on the same database."""

    thread: Thread
    graph: inside.Graph
    place: int  # of its database, or REPLICA


class House:
    def __init__(
        self,
        graphs: Mapping[str, inside.Graph],
        *,
        read_only: bool,
        recover: bool,
        limits: ServerLimits,
        reads: str | None = None,
    ):
        if not graphs:
            raise ArgumentError(argument="graphs", problem="there are none", fix="Give at least one by its id.")
        self.graphs = dict(graphs)
        self.read_only = read_only
        self.limits = limits
        self.since = datetime.now(UTC).isoformat()
        self._recover = recover and not read_only
        self.databases: list[inside.Graph] = []  # one graph of each
        self.places = {graph_id: self._place(graph) for graph_id, graph in self.graphs.items()}
        self._pools: dict[bool, ThreadPoolExecutor] = {}  # by whether it takes long
        self._replica = self._replica_at(reads)
        self._open()

    def _replica_at(self, reads: str | None) -> dict[str, inside.Graph]:
        """The graphs as they are shown from there."""
        if reads is None:
            return {}
        if len(self.databases) > 1:
            fix = "Serve those of each database by a server of their own."
            raise ArgumentError(argument="reads", problem="the graphs are in several databases", fix=fix)
        store = inside.store_at(reads)
        return {graph_id: inside.reading(graph, store) for graph_id, graph in self.graphs.items()}

    @property
    def looked_at(self) -> list[inside.Graph]:
        """A graph of each database that is read for those who only look."""
        return [*self._replica.values()][:1] or self.databases

    def _place(self, graph: inside.Graph) -> int:
        for place, other in enumerate(self.databases):
            if inside.is_same_database(graph, other):
                return place
        self.databases.append(graph)
        return len(self.databases) - 1

    def _open(self) -> None:
        self.hub = Hub(self.offload, self.limits.poll)
        self.runs = Runs(self.hub, self.limits.runs)

    # --- its life -------------------------------------------------------------------------------

    @asynccontextmanager
    async def lifespan(self, app: Any = None) -> AsyncIterator[None]:
        """While it is open: at first threads whose process died are taken over; at last all runs end so that their
        threads can be gone on with."""
        self.loop = asyncio.get_running_loop()
        if self.hub.closing:
            self._open()
        if self._recover:
            self.runs.recover([(self.places[each], graph) for each, graph in self.graphs.items()], self.offload)
        try:
            yield
        finally:
            self.close()
            await self.hub.stop()
            await self.runs.stop(self.limits.grace)
            for pool in self._pools.values():
                pool.shutdown()
            self._pools.clear()
            for graph in self._replica.values():
                graph.close()

    def close(self) -> None:
        """The end has begun: streams end, so that clients come back, and runs stop after the step at hand. To be called
        in the loop."""
        self.hub.close()
        self.runs.stop_soon()

    async def offload(self, call: Callable[[], T], *, long: bool = False) -> T:
        """Something that blocks, in a thread. long: only a few of these at a time, in threads of their own."""
        if long not in self._pools:
            self._pools[long] = ThreadPoolExecutor(LONG_READERS if long else READERS, "durable_graph_server")
        return await asyncio.get_running_loop().run_in_executor(self._pools[long], call)

    @property
    def ways(self) -> Ways:
        limits, hub = self.limits, self.hub
        return Ways(self.offload, limits.room, limits.heartbeat, lambda: hub.closing, self.runs.error_of)

    # --- what is there --------------------------------------------------------------------------

    def graph(self, name: str) -> tuple[str, inside.Graph]:
        """By the id of the graph, or of its assistant."""
        for graph_id, graph in self.graphs.items():
            if name in (graph_id, assistant_id(graph_id)):
                return graph_id, graph
        known = sorted(self.graphs)
        raise Problem(404, f"There is no graph or assistant {name!r}; there are: {', '.join(known)}.", exists=known)

    def id_of(self, name: str) -> str | None:
        """Of the graph that the log knows by this name."""
        return next((graph_id for graph_id, graph in self.graphs.items() if graph.name == name), None)

    async def thread(self, thread_id: str) -> Found:
        return await self.offload(lambda: self.find(thread_id))

    def find(self, thread_id: str) -> Found:
        """Blocks. Raises a problem 404 that says what exists."""
        for place, graph in enumerate(self.databases):
            thread = inside.store_of(graph).thread(thread_id)
            if thread is not None:
                return Found(thread, self._shows(thread, place), place)
        newest = [thread for graph in self.databases for thread in graph.threads(limit=SOME)]
        names = [thread.thread_id for thread in newest if thread.called_by is None][:SOME]
        there = f"the newest are: {', '.join(names)}" if names else "there are none yet"
        raise Problem(404, f"There is no thread {thread_id!r}; {there}.", exists=names)

    def look_up(self, thread_id: str) -> Found:
        """`find` for those who only look: on the replica, if there is one. What has not come there yet is shown from
        where it is."""
        for shown in [*self._replica.values()][:1]:
            thread = inside.store_of(shown).thread(thread_id)
            if thread is not None:
                own = self.id_of(thread.graph)
                return Found(thread, shown if own is None else self._replica[own], REPLICA)
        return self.find(thread_id)

    def _shows(self, thread: Thread, place: int) -> inside.Graph:
        own = self.id_of(thread.graph)
        return self.graphs[own] if own is not None and self.places[own] == place else self.databases[place]

    @asynccontextmanager
    async def topic(self, found: Found) -> AsyncIterator[Topic]:
        async with self.hub.topic(found.place, found.graph, found.thread.thread_id) as topic:
            yield topic


def assistant_id(graph_id: str) -> str:
    return str(uuid.uuid5(GRAPHS, graph_id))
