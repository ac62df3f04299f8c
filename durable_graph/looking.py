"""What viewers read, the command line and the inspector: threads, timelines, differences, figures.

The rule: a page costs what is on it, however many threads there are and however long one is.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterator
from datetime import timedelta
from typing import Any

from durable_graph.codec import Codec
from durable_graph.core.difference import Change, changes
from durable_graph.core.gantt import TimelinePicture
from durable_graph.core.history import check_step, decode_body
from durable_graph.core.model import RECORDED
from durable_graph.core.stats import Stats, Tally
from durable_graph.core.timeline import TimelineEntry, timeline
from durable_graph.errors import ThreadNotFoundError
from durable_graph.offload import aiterate, in_thread
from durable_graph.opening import Config
from durable_graph.search import Filter, every, filter_of, found
from durable_graph.states import States
from durable_graph.store import Store, Thread


class Looking(States):
    """Adds what viewers read."""

    def threads(
        self,
        *,
        status: str | Collection[str] | None = None,
        graph: str | None = None,
        text: str | None = None,
        newer_than: timedelta | float | None = None,
        older_than: timedelta | float | None = None,
        after: Thread | None = None,
        limit: int | None = None,
    ) -> list[Thread]:
        """The threads, newest change first.

        status: one or several of new, queued, running, pending, interrupted, waiting, failed and finished. graph: by
        name. text: part of the thread's id or of its metadata as JSON, in upper or lower case, taken literally.
        newer_than, older_than: changed less or more than that ago, as timedelta or in seconds. after: only those
        behind this one, the last of the page before; whatever has changed since then is on the first page by now.
        limit: so many at most: a page costs what is on it, unless few of many threads have that `text`, or that
        `graph` and no status is named.
        Raises ArgumentError.
        """
        wanted = filter_of(status, graph, text, newer_than, older_than)
        return found(self._stored(), wanted, after, limit)

    async def athreads(
        self,
        *,
        status: str | Collection[str] | None = None,
        graph: str | None = None,
        text: str | None = None,
        newer_than: timedelta | float | None = None,
        older_than: timedelta | float | None = None,
        after: Thread | None = None,
        limit: int | None = None,
    ) -> list[Thread]:
        """`threads` for asyncio."""
        wanted = filter_of(status, graph, text, newer_than, older_than)
        return await in_thread(lambda: found(self._stored(), wanted, after, limit))

    def thread(self, config: Config) -> Thread:
        """What is true of a thread as a whole: its status, graph, lease, times ... Raises ThreadNotFoundError."""
        store, thread_id = self._stored(), self._thread(config)
        thread = store.thread(thread_id)
        if thread is None:
            raise ThreadNotFoundError(thread_id=thread_id, store=store.name)
        return thread

    async def athread(self, config: Config) -> Thread:
        """`thread` for asyncio."""
        return await in_thread(lambda: self.thread(config))

    def timeline(
        self,
        config: Config,
        *,
        after: int | None = None,
        before: int | None = None,
        limit: int | None = None,
        newest_first: bool = False,
        run_id: str | None = None,
    ) -> Iterator[TimelineEntry]:
        """What is in the thread's rows, but for what they change: an entry for each, oldest first.

        after, before: only rows with after < step < before; a config that names a step is the same as `before` the
        next one. limit: so many at most. run_id: only those of one run. Rows are read as they are asked for, a few at a
        time, so a page costs the same in a log of any length. Rows of the thread that a fork comes from are that
        thread's: a fork's own begin with the one that names its `origin`. Where the beginning was pruned, the first
        is the one that the log begins at now.
        Raises ThreadNotFoundError; CheckpointNotFoundError for a step that was pruned; CorruptCheckpointError.
        """
        given, thread_id = self._named(config), self._thread(config)
        if given.step is not None:
            before = given.step + 1 if before is None else min(before, given.step + 1)
        return self._timeline(thread_id, given.step, after, before, limit, newest_first, run_id)

    def atimeline(
        self,
        config: Config,
        *,
        after: int | None = None,
        before: int | None = None,
        limit: int | None = None,
        newest_first: bool = False,
        run_id: str | None = None,
    ) -> AsyncIterator[TimelineEntry]:
        """`timeline` for asyncio."""
        entries = self.timeline(
            config, after=after, before=before, limit=limit, newest_first=newest_first, run_id=run_id
        )
        return aiterate(entries)

    def draw_timeline(
        self,
        config: Config,
        *,
        after: int | None = None,
        before: int | None = None,
        limit: int | None = None,
        run_id: str | None = None,
    ) -> TimelinePicture:
        """The same as a picture: bars of tasks over time. Notebooks show it; it has `draw_svg()`, `draw_png()` and
        `draw_text()`. Raises as `timeline` does, but reads at once."""
        return TimelinePicture(tuple(self.timeline(config, after=after, before=before, limit=limit, run_id=run_id)))

    async def adraw_timeline(
        self,
        config: Config,
        *,
        after: int | None = None,
        before: int | None = None,
        limit: int | None = None,
        run_id: str | None = None,
    ) -> TimelinePicture:
        """`draw_timeline` for asyncio."""
        return await in_thread(
            lambda: self.draw_timeline(config, after=after, before=before, limit=limit, run_id=run_id)
        )

    def _timeline(
        self,
        thread_id: str,
        step: int | None,
        after: int | None,
        before: int | None,
        limit: int | None,
        newest_first: bool,
        run_id: str | None,
    ) -> Iterator[TimelineEntry]:
        store = self._stored()
        self._existing(store, thread_id)
        if step is not None:
            check_step(store, thread_id, step)
        yield from timeline(
            store,
            self._codec,
            thread_id,
            after=after,
            before=before,
            limit=limit,
            newest_first=newest_first,
            run_id=run_id,
        )

    def difference(self, config: Config, other: Config) -> list[Change]:
        """What one has to change in the state that `config` names to get the one that `other` names: two steps of a
        thread, or two threads.

        The paths of what is added, removed or changed are like state['lines'][3].price. Values are compared by what
        they hold, types that are not registered as data. Raises ThreadNotFoundError; CheckpointNotFoundError.
        """
        before, after = (self._state_at(each) for each in (config, other))
        return list(changes(before, after))

    async def adifference(self, config: Config, other: Config) -> list[Change]:
        """`difference` for asyncio."""
        return await in_thread(lambda: self.difference(config, other))

    def _state_at(self, config: Config) -> Any:
        snapshot = self.get_state(config)
        if snapshot.created_at is None:
            self.thread(config)  # it may have no rows yet
        return snapshot.values

    def stats(self, config: Config | None = None, *, graph: str | None = None) -> Stats:
        """How much there is of what, and which nodes take the time. Reads every row, but holds only the figures.

        config: only of this thread and those that it called; else of all threads, and the cache. graph: only of the
        threads of this graph. Bytes are those of values, before a database puts them into pages; by channel what was
        written to each key of the state, which is not all that a row holds.
        Raises ThreadNotFoundError; CorruptCheckpointError.
        """
        store = self._stored()
        plain = Codec(RECORDED, self._codec.seal, self._codec.limits)  # what is counted need not be rebuilt
        tally = Tally(plain)
        if config is None and graph is None:
            tally.held(store.held())
        for thread in self._counted(store, config, graph):
            tally.thread(thread.status)
            if config is not None or graph is not None:
                tally.held(store.held(thread.thread_id))
            for row in store.rows(thread.thread_id):
                tally.row(row, decode_body(plain, row))
        return tally.stats()

    async def astats(self, config: Config | None = None, *, graph: str | None = None) -> Stats:
        """`stats` for asyncio."""
        return await in_thread(lambda: self.stats(config, graph=graph))

    def _counted(self, store: Store, config: Config | None, graph: str | None) -> Iterator[Thread]:
        if config is None:
            yield from every(store, Filter(graph=graph))
            return
        thread_id = self._thread(config)
        self._existing(store, thread_id)
        for name in (thread_id, *store.called(thread_id)):
            thread = store.thread(name)
            if thread is not None and graph in (None, thread.graph):
                yield thread
