"""What a client sees of a thread: from the log up to now, then live, then from the log again, each event once.

    in this process      the log up to the superstep at hand, what has been shown of that, then what the run emits
    elsewhere, or over   the log, and again the log when there is something new

Both show the same in the same order, so the cursor is all that is kept of a client, and each may lose its connection at
any event. What subgraphs show is live for who began the run; others get it from the log, with the row of the task.
"""

from __future__ import annotations

import heapq
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, groupby, islice
from operator import itemgetter
from typing import Any

from durable_graph import Thread
from durable_graph.core.cursor import BEGUN, ROW, Address, Cursor
from durable_graph.core.effects import Below, Emission, Recorded
from durable_graph.core.history import RUN_STARTS
from durable_graph.server import inside
from durable_graph.server.events import HEARTBEAT, Event, events_of, sse
from durable_graph.server.hub import Feed, Live, Modes, Topic
from durable_graph.server.problems import problem_of, told

BATCH = 64  # events read from the log at a time, as long as they are small
BATCH_BYTES = 1_000_000


@dataclass(frozen=True, slots=True)
class View:
    """What a client wants to see."""

    modes: Modes
    subgraphs: bool = False
    run_id: str = ""  # only that run, and those that went on with it where it was broken off; "": the whole thread
    follow: bool = True  # the whole thread: also what runs later add

    @property
    def waits_for_whole(self) -> bool:
        """Whether rows of a superstep may have to come after what other tasks of it said before them."""
        return self.subgraphs or inside.is_spoken(self.modes)


@dataclass(frozen=True, slots=True)
class Ways:
    """What a stream needs of the server."""

    offload: Callable[..., Any]
    room: int  # events that wait for a client that is slow
    heartbeat: float  # seconds
    closing: Callable[[], bool]
    error_of: Callable[[str], Exception | None]


class Chain:
    """The runs that a view shows: the one that it names, and those that went on with it."""

    def __init__(self, graph: inside.Graph, run_id: str, *, is_begun: bool) -> None:
        self.graph = graph
        self.run_id = run_id
        self.over = False
        self.error: Mapping[str, str] | None = None  # that the run has ended with
        self._is_begun = is_begun  # what is read first may be of a run that went on with it
        self._before: bool | None = None

    def holds(self, it: Emission) -> bool:
        """Blocks. To be asked of all that is told, in order."""
        if not self.run_id or not isinstance(it, Recorded):
            return not self.over
        if it.row.run_id != self.run_id and not self.over:
            self._meet(it)
        if not self.over:
            self._is_begun = False
            self._before = inside.may_go_on(it.position)
            self.error = inside.error_in(it.body)
        return not self.over

    def _meet(self, it: Recorded) -> None:
        middle = self._is_begun and it.row.kind not in RUN_STARTS
        if middle or (it.row.kind in RUN_STARTS and inside.goes_on(self.graph, it, self._before)):
            self.run_id = it.row.run_id
        else:
            self.over = True


class Stream:
    """One client."""

    def __init__(self, ways: Ways, topic: Topic, view: View, cursor: Cursor) -> None:
        self._ways = ways
        self._topic = topic
        self._view = view
        self._cursor = cursor
        self._chain = Chain(topic.graph, view.run_id, is_begun=cursor.address.step >= 0)

    async def events(self, live: Live | None = None, feed: Feed | None = None) -> AsyncIterator[bytes]:
        """Server-sent events. live, feed: of a run that was begun for this client."""
        try:
            async for data in self._events(live, feed):
                yield data
        except Exception as error:
            problem = problem_of(error)  # the answer has begun: it cannot be one any more
            yield sse("error", {"error": type(error).__name__, "message": problem.detail})

    async def _events(self, live: Live | None, feed: Feed | None) -> AsyncIterator[bytes]:
        if live is not None and feed is not None:
            async for data in self._live(live, feed):
                yield data
        while not self._ways.closing() and not self._chain.over:
            version, here = self._topic.version, self._topic.live
            if here is not None and not self._view.subgraphs:
                async for data in self._join(here):
                    yield data
                continue
            thread = await self._ways.offload(self._thread)
            at_rest = thread is None or (here is None and thread.status not in ("queued", "running"))
            async for data in self._told(None, self._view.waits_for_whole and self._is_written(thread)):
                yield data
            if at_rest and (thread is None or self._view.run_id or not self._view.follow):
                break
            while not await self._topic.changed(version, self._ways.heartbeat):
                yield HEARTBEAT
        if not self._ways.closing():
            async for data in self._ending():
                yield data

    def _thread(self) -> Thread | None:
        return inside.store_of(self._topic.graph).thread(self._topic.thread_id)

    def _is_written(self, thread: Thread | None) -> bool:
        return self._topic.live is not None or (thread is not None and inside.is_running(thread))

    async def _ending(self) -> AsyncIterator[bytes]:
        error = await self._ways.offload(self._failure) if self._view.run_id else None
        yield sse("end", None) if error is None else sse("error", error)

    def _failure(self) -> Mapping[str, str] | None:
        raised = self._ways.error_of(self._chain.run_id)
        if raised is not None:
            return told(raised)
        if self._chain.over:
            return self._chain.error
        thread = self._thread()
        failed = thread is not None and thread.status == "failed"
        return inside.failure(self._topic.graph, self._topic.thread_id) if failed else None

    # --- live -----------------------------------------------------------------------------------

    async def _join(self, live: Live) -> AsyncIterator[bytes]:
        """What a run here has shown so far, and then what it shows."""
        feed = live.join(self._view.modes, self._ways.room)
        base, at, announced, said = live.base, live.at, live.announced, live.said_so_far(self._view.modes)
        try:
            async for data in self._told(base, False):
                yield data
            if not self._chain.over:
                async for data in self._sent(heapq.merge(self._superstep(base, at, announced), said)):
                    yield data
            if not self._chain.over:
                async for data in self._drained(feed):
                    yield data
        finally:
            live.leave(self._view.modes, feed)

    async def _live(self, live: Live, feed: Feed) -> AsyncIterator[bytes]:
        try:
            async for data in self._drained(feed):
                yield data
        finally:
            live.leave(self._view.modes, feed)

    async def _drained(self, feed: Feed) -> AsyncIterator[bytes]:
        """Until the run has ended, or the client was too slow: what it has not seen is in the log then."""
        while not feed.lost and not self._ways.closing():
            events = feed.take()
            if events:
                yield self._taken(events)
            elif feed.ended:
                return
            elif not await feed.wait(self._ways.heartbeat):
                yield HEARTBEAT

    def _taken(self, events: Iterable[Event]) -> bytes:
        """Those that the client has not seen."""
        news = []
        for event in events:
            if self._cursor.passes(event.address, event.chunk):
                self._cursor = event.cursor
                news.append(event.data)
        return b"".join(news)

    def _superstep(self, base: int, at: int, announced: bool) -> Iterator[Event]:
        """What the log has of the superstep at hand: all but what unfinished tasks have said."""
        graph, thread_id = self._topic.graph, self._topic.thread_id
        if announced and inside.announces(self._view.modes):
            yield from self._shaped([(Address(base, BEGUN), inside.begun(graph, thread_id, base))])
        if at > base:
            rows = inside.told(graph, thread_id, Address(base), at, self._view.modes, False)
            yield from self._shaped((address, it) for address, it in rows if address.said == ROW)

    # --- from the log ---------------------------------------------------------------------------

    async def _told(self, until: int | None, whole: bool) -> AsyncIterator[bytes]:
        seen = self._cursor.address
        if until is not None and seen.step > until:
            return
        found = inside.told(self._topic.graph, self._topic.thread_id, seen, until, self._view.modes, whole)
        async for data in self._sent(self._shaped(found)):
            yield data

    async def _sent(self, events: Iterator[Event]) -> AsyncIterator[bytes]:
        """Read and shaped in threads, a batch at a time, as the client takes them."""
        while batch := await self._ways.offload(lambda: _batch(events)):
            if data := self._taken(batch):
                yield data
            if self._ways.closing():
                return

    def _shaped(self, found: Iterable[tuple[Address, Any]]) -> Iterator[Event]:
        show = inside.show(self._topic.graph, self._view.modes, self._view.subgraphs)
        for address, group in groupby(found, key=itemgetter(0)):
            emissions = (it for _, it in group)
            first = next(emissions)
            if not self._chain.holds(first):
                return
            chunks = (chunk for it in chain([first], emissions) for chunk in show(it))
            yield from events_of(address, chunks, ends=not isinstance(first, Below))


def _batch(events: Iterator[Event]) -> list[Event]:
    batch, size = [], 0
    for event in islice(events, BATCH):
        batch.append(event)
        size += len(event.data)
        if size > BATCH_BYTES:
            break
    return batch
