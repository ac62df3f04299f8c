"""What is new, as server-sent events, for as long as the page is open.

    hello                                       at once
    rows     id: the last step                  {"thread", "entries"}: new rows of the open thread, as in its timeline
    thread                                      {"thread"}: the open thread has changed in something else
    threads                                     {"ids"}: these threads have changed

The rule: one stream for a page, and one look at the database for all pages. What is too much for one event comes in the
next ones; of threads only that they have changed is told, and the page asks for those that it shows.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from starlette.responses import StreamingResponse

from durable_graph import StoreError, Thread, ThreadNotFoundError
from durable_graph.server.endpoints import EVENTS, Call, Endpoint
from durable_graph.server.events import HEARTBEAT, sse
from durable_graph.server.house import Found, House
from durable_graph.server.hub import Topic
from durable_graph.server.inspector.reading import API, THREAD, config_at
from durable_graph.server.inspector.told import told_entry
from durable_graph.server.shapes import number

log = logging.getLogger("durable_graph.server")

ROWS = 500  # of a thread in one event
THREADS = 100  # that have changed, in one look
REMEMBERED = 1000
EVERY = 1.0  # seconds between two looks at all threads
PAUSE = 0.5  # seconds until it is looked whether anything else than the open thread has changed


def live_of(house: House) -> Endpoint:
    changes = Changes(house)

    async def live(call: Call) -> Any:
        thread_id = call.query.get("thread")
        found = None  # a problem is an answer, and no stream
        if thread_id is not None:
            found = await house.offload(partial(house.look_up, thread_id))
        news = News(house, changes, found, call.query.get("after", -1))
        return StreamingResponse(news.events(), media_type=EVENTS, headers={"X-Accel-Buffering": "no"})

    query = {**THREAD, "after": number(-1)}
    return Endpoint("GET", f"{API}/live", live, "Inspector: what is new", "inspector", query=query, endless=True)


class Changes:
    """Which threads have changed, known to all pages by whoever looks first."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._seen: OrderedDict[str, tuple[int, str]] = OrderedDict()  # thread -> (number of the look, its time)
        self._looked = -EVERY
        self._lock = asyncio.Lock()
        self.number = 0

    async def since(self, number: int) -> list[str]:
        """Those that a look after that one has found. Looks, if the last time is long enough ago."""
        if time.monotonic() - self._looked >= EVERY and not self._lock.locked():
            async with self._lock:
                await self._look()
                self._looked = time.monotonic()
        return [thread_id for thread_id, (found, _) in self._seen.items() if found > number]

    async def _look(self) -> None:
        found = await self._house.offload(self._newest)
        self.number += 1
        for thread in found:
            if self._seen.get(thread.thread_id, (0, ""))[1] != thread.updated_at:
                self._seen[thread.thread_id] = (self.number, thread.updated_at)
                self._seen.move_to_end(thread.thread_id)
        while len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)

    def _newest(self) -> list[Thread]:
        return [thread for graph in self._house.looked_at for thread in graph.threads(limit=THREADS)]


class News:
    """Of one page."""

    def __init__(self, house: House, changes: Changes, found: Found | None, after: int) -> None:
        self._house = house
        self._changes = changes
        self._found = found
        self._after = after

    async def events(self) -> AsyncIterator[bytes]:
        async with AsyncExitStack() as stack:
            topic = None
            if self._found is not None:
                topic = await stack.enter_async_context(self._house.topic(self._found))
            try:
                async for event in self._told(topic):
                    yield event
            except StoreError as error:
                log.warning("the inspector cannot see what is new: %s", error)  # the page comes back by itself

    async def _told(self, topic: Topic | None) -> AsyncIterator[bytes]:
        await self._changes.since(0)
        number, version, said = self._changes.number, -1, time.monotonic()
        yield sse("hello", {})
        while not self._house.hub.closing:
            news = [sse("threads", {"ids": ids})] if (ids := await self._changes.since(number)) else []
            number = self._changes.number
            if topic is not None and self._found is not None and topic.version != version:
                version = topic.version
                rows, more = await self._house.offload(partial(self._rows, self._found))
                version = -1 if more else version  # then the rest at once
                news += rows
            if not news and time.monotonic() - said > self._house.limits.heartbeat:
                news = [HEARTBEAT]
            if news:
                yield b"".join(news)
                said = time.monotonic()
            await (asyncio.sleep(PAUSE) if topic is None else topic.changed(version, PAUSE))

    def _rows(self, found: Found) -> tuple[list[bytes], bool]:
        """Blocks. The next rows, and that the thread has changed; whether there may be more of them."""
        thread_id, changed = found.thread.thread_id, sse("thread", {"thread": found.thread.thread_id})
        try:
            entries = [*found.graph.timeline(config_at(thread_id), after=self._after, limit=ROWS)]
        except ThreadNotFoundError:
            return [], False  # deleted while somebody looks
        if not entries:
            return [changed], False
        self._after = entries[-1].step
        told = {"thread": thread_id, "entries": [told_entry(entry) for entry in entries]}
        return [sse("rows", told, str(self._after)), changed], len(entries) == ROWS
