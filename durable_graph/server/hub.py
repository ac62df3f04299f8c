"""One look at the database for all who follow threads in this process.

A `Topic` is a thread that somebody follows or that runs here. What a run here emits is shaped once for all clients
that want it in the same modes, and put before each; who takes too slowly is dropped from the live feed and goes on in
the log. Of a thread that runs elsewhere one look at the database serves all; `changed` wakes them.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

from durable_graph.core.cursor import BEGUN, ROW, Address
from durable_graph.core.effects import Begun, Emission, Recorded, Relayed, Shown, Token
from durable_graph.core.history import RUN_STARTS
from durable_graph.server import inside
from durable_graph.server.events import Event, events_of

log = logging.getLogger("durable_graph")

Modes = tuple[str, ...]
Key = tuple[Modes, bool]  # and whether with subgraphs


ROOM_BYTES = 16_000_000  # that wait for a client, however few events they are


class Feed:
    """What a run here shows to one client."""

    def __init__(self, room: int) -> None:
        self.events: deque[Event] = deque()
        self.lost = False  # too slow: what came since is in the log
        self.ended = False
        self._room = room
        self._bytes = 0
        self._news = asyncio.Event()

    def put(self, events: Sequence[Event]) -> None:
        if self.lost:
            return
        self.events.extend(events)
        self._bytes += sum(len(event.data) for event in events)
        if len(self.events) > self._room or (self._bytes > ROOM_BYTES and len(self.events) > 1):
            self.events.clear()
            self.lost = True
        self._news.set()

    def take(self) -> list[Event]:
        """What has come."""
        events = [*self.events]
        self.events.clear()
        self._bytes = 0
        return events

    def end(self) -> None:
        self.ended = True
        self._news.set()

    async def wait(self, seconds: float) -> bool:
        """False if nothing has come."""
        if not self._news.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._news.wait()
        found = self._news.is_set()
        self._news.clear()
        return found


class Group(NamedTuple):
    """Clients that see the same."""

    show: inside.Show
    feeds: set[Feed]


class Live:
    """What a run here emits, for whoever listens."""

    def __init__(self, graph: inside.Graph) -> None:
        self.graph = graph
        self.base = -1  # the row behind which the superstep at hand begins
        self.announced = False  # that its tasks begin
        self._said: list[tuple[Address, Emission]] = []  # in it so far by nodes
        self._at = -1
        self._groups: dict[Key, Group] = {}
        self._below: tuple[Address, int] | None = None  # the last address below, and its chunks so far

    def join(self, modes: Modes, room: int, below: inside.Show | None = None) -> Feed:
        """below: with what subgraphs show, by the shaper that they show it to: only for who has begun the run."""
        key = modes, below is not None
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = Group(below or inside.show(self.graph, modes, False), set())
        feed = Feed(room)
        group.feeds.add(feed)
        return feed

    def leave(self, modes: Modes, feed: Feed) -> None:
        for key in ((modes, False), (modes, True)):
            group = self._groups.get(key)
            if group is not None:
                group.feeds.discard(feed)
                if not group.feeds:
                    del self._groups[key]

    @property
    def at(self) -> int:
        """The last row."""
        return self._at

    def said_so_far(self, modes: Modes) -> list[Event]:
        """In the superstep at hand."""
        show = inside.show(self.graph, modes, False)
        return [event for address, it in self._said for event in events_of(address, show(it))]

    def publish(self, it: Emission) -> None:
        address = self._address(it)
        if address is None:
            return
        for (_, below), group in [*self._groups.items()]:
            events = self._events(address, it, group) if below or not isinstance(it, Relayed) else []
            for feed in [*group.feeds] if events else ():
                feed.put(events)
        self._keep(address, it)

    def _events(self, address: Address, it: Emission, group: Group) -> list[Event]:
        if not isinstance(it, Relayed):
            return [*events_of(address, group.show(it))]
        seen = self._below[1] if self._below is not None and self._below[0] == address else 0
        events = [*events_of(address, group.show(it), ends=False, seen=seen)]
        self._below = address, seen + len(events)
        return events

    def _keep(self, address: Address, it: Emission) -> None:
        """For who joins before the superstep ends."""
        if isinstance(it, Recorded):
            if it.barrier or it.row.kind in RUN_STARTS:
                self.base, self.announced = it.row.step, False
                self._said.clear()
        elif isinstance(it, Begun):
            self.announced = True  # of what it begins with the log tells
        elif isinstance(it, Relayed):
            pass  # comes from the log for who joins
        elif isinstance(it, Token):  # where the run stands moves on
            self._said.append((address, it._replace(position=inside.place_of(it.position))))
        else:
            self._said.append((address, it))

    def _address(self, it: Emission) -> Address | None:
        if isinstance(it, Recorded):
            self._at = it.row.step
            return Address(self._at, ROW)
        if isinstance(it, Begun):
            return Address(self._at, BEGUN)
        if isinstance(it, Shown | Token | Relayed):
            return Address(self._at, it.number + 1)
        return None

    def end(self) -> None:
        for group in self._groups.values():
            for feed in group.feeds:
                feed.end()


class Topic:
    """A thread that is followed, or runs here."""

    def __init__(self, graph: inside.Graph, thread_id: str) -> None:
        self.graph = graph
        self.thread_id = thread_id
        self.live: Live | None = None  # of the run that is under way here
        self.users = 0
        self.seen: Any = None  # at the last look
        self._waiting: set[asyncio.Event] = set()
        self.version = 0

    def bump(self) -> None:
        """There is something new in the log, or of its status."""
        self.version += 1
        for event in self._waiting:
            event.set()

    async def changed(self, version: int, seconds: float) -> bool:
        """Wait until there is news since that version; False if there is none so long."""
        if self.version != version:
            return True
        event = asyncio.Event()
        self._waiting.add(event)
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
            return True
        except TimeoutError:
            return False
        finally:
            self._waiting.discard(event)

    @property
    def is_looked_at(self) -> bool:
        """Whether only the database tells what becomes of it."""
        return self.live is None and bool(self._waiting)

    def look(self) -> tuple[Any, ...] | None:
        """Blocks."""
        thread = inside.store_of(self.graph).thread(self.thread_id)
        if thread is None:
            return None
        return thread.status, thread.epoch, thread.updated_at, inside.newest_step(self.graph, self.thread_id)


Offload = Callable[..., Any]


class Hub:
    def __init__(self, offload: Offload, poll: float) -> None:
        self.closing = False
        self.closed = asyncio.Event()
        self._offload = offload
        self._poll = poll
        self._topics: dict[tuple[int, str], Topic] = {}
        self._looking: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def topic(self, place: int, graph: inside.Graph, thread_id: str) -> AsyncIterator[Topic]:
        """The thread's topic, kept while somebody uses it. `place`: of its database."""
        key = place, thread_id
        topic = self._topics.setdefault(key, Topic(graph, thread_id))
        topic.users += 1
        if self._looking is None and not self.closing:
            self._looking = asyncio.create_task(self._look())
        try:
            yield topic
        finally:
            topic.users -= 1
            if not topic.users:
                self._topics.pop(key, None)

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(self._poll)
            topics = [topic for topic in self._topics.values() if topic.is_looked_at]
            if not topics:
                continue
            try:
                found = await self._offload(lambda topics=topics: [topic.look() for topic in topics])
            except Exception as error:
                log.warning("the threads that are followed cannot be looked at: %s", error)
                await asyncio.sleep(10 * self._poll)
                continue
            for topic, seen in zip(topics, found, strict=True):
                if seen != topic.seen:
                    topic.seen = seen
                    topic.bump()

    def close(self) -> None:
        """All streams end, so that clients come back elsewhere."""
        self.closing = True
        self.closed.set()
        for topic in self._topics.values():
            topic.bump()
            if topic.live is not None:
                topic.live.end()

    async def stop(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            with suppress(asyncio.CancelledError):
                await self._looking
            self._looking = None
