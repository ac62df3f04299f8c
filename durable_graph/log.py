"""Log: a database of threads, read without the application's code.

Everything here runs no user code: values of types that nobody registered are shown as `Unregistered`. A
`CompiledGraph` is a `Log` that can also run.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from typing import Any, Self

from durable_graph import drivers
from durable_graph.codec import SEALED, Codec, Storable
from durable_graph.core.address import Place, thread_of, way_down
from durable_graph.core.chain import Key, read_keys
from durable_graph.core.config import CallConfig, read_config
from durable_graph.core.difference import Change, changes
from durable_graph.core.effects import Below, Emission
from durable_graph.core.export import ExportReader, export
from durable_graph.core.gantt import TimelinePicture
from durable_graph.core.history import (
    Standing,
    barriers,
    check_step,
    decode_body,
    follow,
    later,
    load,
    standing_at,
    walk,
)
from durable_graph.core.model import RECORDED, Graph, StateSnapshot, StreamMode, Task
from durable_graph.core.position import Child, Later, Position, Stand
from durable_graph.core.projection import (
    ANNOUNCED,
    Address,
    Shaper,
    View,
    config_of,
    empty_snapshot,
    snapshot_of,
)
from durable_graph.core.rows import Call, Effects, fork
from durable_graph.core.rows import Codec as Coder
from durable_graph.core.stats import Stats, Tally
from durable_graph.core.timeline import TimelineEntry, timeline
from durable_graph.core.times import iso
from durable_graph.core.verify import Report, verify
from durable_graph.drivers import Show, adrive, drive
from durable_graph.encryption import VARIABLE, Encryption, EncryptionKey, read_encryption
from durable_graph.errors import ArgumentError, ThreadNotFoundError
from durable_graph.messages import message_types
from durable_graph.offload import aiterate, in_thread
from durable_graph.prune import Pruned, prune, rule_of
from durable_graph.search import Filter, every, filter_of, found
from durable_graph.store import Cache, Claim, Signal, Store, Thread
from durable_graph.store.sql import SqlStore

Config = Mapping[str, Any]
Modes = StreamMode | Sequence[StreamMode]

DEFAULT_URL = "sqlite:///durable_graph.db"
NO_STORE = "there is no store here; keep what outlives a thread in tables of your own"


def open_store(checkpointer: str | Store | bool | None) -> Store | None:
    """The store that `compile(checkpointer=...)` means. Opens no connection."""
    if checkpointer is False:
        return None
    if checkpointer is None or checkpointer is True:
        checkpointer = os.environ.get("DURABLE_GRAPH_URL") or DEFAULT_URL
    if not isinstance(checkpointer, str):
        return checkpointer
    return SqlStore(checkpointer)


def open_encryption(given: EncryptionKey) -> Encryption | None:
    """What `compile(encryption_key=...)` means."""
    return read_encryption(given, os.environ.get(VARIABLE))


def open_cache(cache: Cache | str | bool | None, checkpointer: Any) -> Cache | bool | None:
    """What `compile(cache=...)` means; True for the database of the run at hand. Opens no connection."""
    if cache is True and checkpointer is False:
        raise ArgumentError(
            argument="cache",
            problem="True means the graph's own database, but checkpointer=False says that there is none",
            fix="Give InMemoryCache(), or a database URL.",
        )
    if isinstance(cache, str):
        return open_store(cache)
    if not (cache is None or isinstance(cache, bool) or hasattr(cache, "recall")):
        raise ArgumentError(
            argument="cache",
            problem=f"{cache!r} is no cache of this library",
            fix="Give True for the graph's own database, InMemoryCache(), a database URL, or an object with recall, "
            "keep, forget and close.",
        )
    return cache


def refuse(where: str, **reasons: tuple[Any, str]) -> None:
    """Arguments of LangGraph's that mean nothing here: (what was given, why it is refused)."""
    for argument, (given, reason) in reasons.items():
        if given is not None:
            raise ArgumentError(argument=argument, problem=f"{where} does not take it: {reason}", fix="Leave it out.")


def inherited(checkpointer: Any) -> bool | None:
    """What `compile(checkpointer=...)` means when the graph is a subgraph: True keeps one thread for all calls of a
    node, False keeps nothing, anything else makes a thread for each call."""
    return checkpointer if isinstance(checkpointer, bool) else None


class Log:
    """The threads in a database.

    url: a SQLAlchemy URL of SQLite or Postgres; None: $DURABLE_GRAPH_URL, else durable_graph.db in the working
    directory. types: dataclasses, pydantic models, enums, named tuples and TypeHooks to read back as themselves.
    key: of the hash chain, if it has one; several, if it was changed, the newest first. By default
    $DURABLE_GRAPH_KEY, which separates several with commas. encryption_key: as for `compile`, by default
    $DURABLE_GRAPH_ENCRYPTION_KEY; verifying, exporting and importing need none.
    """

    def __init__(
        self,
        url: str | Store | bool | None = None,
        *,
        types: Iterable[Storable] = (),
        key: Key = None,
        encryption_key: EncryptionKey = None,
    ) -> None:
        self._store = open_store(url)
        self._codec = Codec([*RECORDED, *types, *message_types()], open_encryption(encryption_key))
        self._keys = read_keys(key, os.environ.get("DURABLE_GRAPH_KEY"))
        self._key = self._keys[0] if self._keys else None  # what is new is signed with it
        self._config: Config | None = None
        self._view = View()

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

        status: one or several of new, running, pending, interrupted, waiting, failed and finished. graph: by name.
        text: part of the thread's id or of its metadata as JSON, in upper or lower case, taken literally. newer_than,
        older_than: changed less or more than that ago, as timedelta or in seconds. after: only those behind this one,
        the last of the page before; whatever has changed since then is on the first page by now. limit: so many at
        most: a page costs what is on it, unless few of many threads have that `text` or `graph`.
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
            raise ThreadNotFoundError(thread_id=self._thread(config), store=self._stored().name)
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

    def create_thread(self, thread_id: str, *, metadata: Mapping[str, Any] | None = None, graph: str = "") -> bool:
        """Make a thread that nothing has run on yet: it can be found, with its metadata, and has the status "new".

        Whoever wants to run a graph on a thread need not make it before. metadata: what JSON can hold. graph: the name
        of the graph that is going to run it, if that is known. Durable when it returns. False if the thread exists.
        Raises ArgumentError; StoreError.
        """
        at = iso(drivers.clock())
        values: dict[str, Any] = dict.fromkeys(("parent_thread_id", "parent_step", "called_by", "wake_at"))
        values.update(dict.fromkeys(("lease_owner", "lease_since", "lease_expires_at")))
        values.update(graph=graph, fingerprint="", status="new", epoch=0, created_at=at, updated_at=at)
        values["metadata"] = _json(metadata or {})
        self._codec.limits.check_id(thread_id)
        return self._stored().change_thread(thread_id, Claim(None, values))

    async def acreate_thread(
        self, thread_id: str, *, metadata: Mapping[str, Any] | None = None, graph: str = ""
    ) -> bool:
        """`create_thread` for asyncio."""
        return await in_thread(lambda: self.create_thread(thread_id, metadata=metadata, graph=graph))

    def update_metadata(self, config: Config, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """Set these keys of a thread's metadata; None removes one. Returns all that it has then.

        That is the thread's own, by which it is searched: what a run is given in config["metadata"] stands in its
        log. Also while it runs. Durable when it returns. Raises ThreadNotFoundError; ArgumentError; StoreError.
        """
        store, thread_id = self._stored(), self._thread(config)
        while True:
            thread = store.thread(thread_id)
            if thread is None:
                raise ThreadNotFoundError(thread_id=thread_id, store=store.name)
            both = {**json.loads(thread.metadata or b"{}"), **metadata}
            kept = {key: value for key, value in both.items() if value is not None}
            values = {"metadata": _json(kept), "updated_at": iso(drivers.clock())}
            if store.change_thread(thread_id, Claim(thread.epoch, values)):
                return kept

    async def aupdate_metadata(self, config: Config, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """`update_metadata` for asyncio."""
        return await in_thread(lambda: self.update_metadata(config, metadata))

    def replay(
        self,
        config: Config,
        *,
        after: int | None = None,
        until: int | None = None,
        run_id: str | None = None,
        stream_mode: Modes = "updates",
        subgraphs: bool = False,
        version: str = "v1",
    ) -> Iterator[Any]:
        """What the live streams of this thread yielded, from the log, in the same order. Runs nothing.

        after, until: only rows with after < step <= until. run_id: only those of one run.
        Raises ThreadNotFoundError; CorruptCheckpointError for a row that cannot be read.
        """
        shaper = Shaper(stream_mode, subgraphs, version)
        thread_id = self._thread(config)
        return self._replayed(thread_id, -1 if after is None else after, until, run_id, shaper)

    def areplay(
        self,
        config: Config,
        *,
        after: int | None = None,
        until: int | None = None,
        run_id: str | None = None,
        stream_mode: Modes = "updates",
        subgraphs: bool = False,
        version: str = "v1",
    ) -> AsyncIterator[Any]:
        """`replay` for asyncio."""
        told = self.replay(
            config,
            after=after,
            until=until,
            run_id=run_id,
            stream_mode=stream_mode,
            subgraphs=subgraphs,
            version=version,
        )
        return aiterate(told)

    def _replayed(
        self, thread_id: str, after: int, until: int | None, run_id: str | None, shaper: Shaper
    ) -> Iterator[Any]:
        store, show = self._stored(), self._show(shaper)
        self._existing(store, thread_id)
        announce = not ANNOUNCED.isdisjoint(shaper.modes)
        its_run = ""
        for it in walk(store, self._codec, thread_id, after=after, until=until, announce=announce):
            if run_id is not None:
                its_run = its_run if isinstance(it, Below) else it.position.run_id
                if its_run != run_id:
                    continue
            yield from show(it)

    def follow(
        self,
        config: Config,
        *,
        after: int | None = None,
        stream_mode: Modes = "updates",
        poll: float = 0.05,
        timeout: float | None = None,
    ) -> Iterator[Any]:
        """`replay`, and then what is added, until the thread has ended (finished, or failed), whoever runs it.

        poll: seconds between two looks. timeout: seconds without news after which to stop; None: never.
        """
        show = self._show(Shaper(stream_mode))
        thread_id = self._thread(config)
        return self._followed(thread_id, -1 if after is None else after, show, poll, timeout)

    def afollow(
        self,
        config: Config,
        *,
        after: int | None = None,
        stream_mode: Modes = "updates",
        poll: float = 0.05,
        timeout: float | None = None,
    ) -> AsyncIterator[Any]:
        """`follow` for asyncio."""
        return aiterate(self.follow(config, after=after, stream_mode=stream_mode, poll=poll, timeout=timeout), batch=1)

    def _followed(self, thread_id: str, after: int, show: Show, poll: float, timeout: float | None) -> Iterator[Any]:
        store = self._stored()
        self._existing(store, thread_id)
        ended, news = False, time.monotonic()
        for it in follow(store, self._codec, thread_id, after):
            if it is not None:
                yield from show(it)
                news = time.monotonic()
                continue
            if ended or (timeout is not None and time.monotonic() - news > timeout):
                return
            ended = self._existing(store, thread_id) in ("finished", "failed")  # then look once more
            if not ended:
                time.sleep(poll)

    def get_state(self, config: Config, *, subgraphs: bool = False) -> StateSnapshot:
        """The thread's state: at the last barrier, with what is still to run in `next` and what has finished in
        `tasks`. At a barrier of the past, `tasks` tell what has become of them since.

        config: a `checkpoint_ns` names the run of a subgraph below the thread, as `tasks` and streams give it.
        subgraphs: each task's `state` is the snapshot of the subgraph that it runs; else the config of it.
        An empty snapshot if the thread does not exist. Raises CheckpointNotFoundError for a step it does not have.
        """
        given = self._named(config)
        if given.ns:
            standing = standing_at(self._stored(), self._codec, str(given.thread_id), given.ns)
        else:
            standing = self._thread_at(given)
        if standing is None:
            return empty_snapshot(config)
        return self._snapshot(given, standing, given.step, subgraphs)

    async def aget_state(self, config: Config, *, subgraphs: bool = False) -> StateSnapshot:
        """`get_state` for asyncio."""
        return await in_thread(lambda: self.get_state(config, subgraphs=subgraphs))

    def _thread_at(self, given: CallConfig) -> Standing | None:
        position = load(self._stored(), self._codec, str(given.thread_id), given.step)
        return None if position is None else Standing(position.thread_id, None, {}, "", position)

    def _snapshot(self, given: CallConfig, standing: Standing, step: int | None, subgraphs: bool) -> StateSnapshot:
        store, codec = self._stored(), self._codec
        if step is None:
            return self._shown(given, standing, standing.position, None, subgraphs, True)
        position = load(store, codec, standing.thread_id, step) if given.ns else standing.position
        assert position is not None
        if standing.step is not None:  # its thread will begin as a fork
            return self._shown(given, standing, position.forked(), None, subgraphs)
        if not position.planned_here:
            return self._shown(given, standing, position, None, subgraphs)
        then = position.frozen()
        return self._shown(given, standing, then, later(store, codec, position), subgraphs)

    def _shown(
        self,
        given: CallConfig,
        standing: Standing,
        position: Position | Stand,
        since: Later | None,
        subgraphs: bool,
        now: bool = False,  # not a step of the past, and read for this alone
    ) -> StateSnapshot:
        root, ns = str(given.thread_id), given.ns
        address = Address(standing.thread_id, root, ns, _parents(root, ns, standing, position))
        known = (position if since is None else since).children
        states = [
            self._state_below(given, position, task, known.get(task.id, {}), now, subgraphs) for task in position.tasks
        ]
        return snapshot_of(self._view_of(ns), position, address, since, states=states, own=now)

    def _state_below(
        self,
        given: CallConfig,
        position: Position | Stand,
        task: Task,
        known: Mapping[str, Child],
        now: bool,
        subgraphs: bool,
    ) -> Any:
        """Of the subgraph that a task has called last: its snapshot, or the config of it."""
        place = self._place_below(given, position, task, known, subgraphs)
        if place is None:
            return None
        below = replace(given, ns=(*given.ns, *place.parts), step=None)
        config = {"configurable": {"thread_id": given.thread_id, "checkpoint_ns": "|".join(below.ns)}}
        if not subgraphs:
            return config
        standing = standing_at(self._stored(), self._codec, str(given.thread_id), below.ns)
        if standing is None:
            return empty_snapshot(config)
        then = known.get(place.key)
        step = then[1] if then is not None and not now and then[0] == standing.thread_id else None
        return self._snapshot(below, standing, step, True)

    def _place_below(
        self, given: CallConfig, position: Position | Stand, task: Task, known: Mapping[str, Child], look: bool
    ) -> Place | None:
        """Where a task's subgraph is: as its rows tell, as the drawing says, or where a run that broke off left it."""
        if known:
            key = [*known][-1]
            number = int(key.rpartition("/")[2])
            return Place(task.node, None if "/" in key else task.id, number)
        drawn = self._drawn_below(given.ns, task)
        if drawn is not None or not look or task.id in position.done:
            return drawn
        place, found = Place(task.node, task.id), None
        while self._stored().thread(place.thread(position.thread_id)) is not None:
            place, found = place._replace(number=place.number + 1), place
        return found

    def _drawn_below(self, ns: tuple[str, ...], task: Task) -> Place | None:
        """Where the subgraph is that this node is, as far as the drawing is known here."""
        return None

    def get_state_history(
        self,
        config: Config,
        *,
        filter: Mapping[str, Any] | None = None,
        before: Config | None = None,
        limit: int | None = None,
    ) -> Iterator[StateSnapshot]:
        """The thread's barriers, newest first.

        filter: only those whose metadata has all of these. before: only those older than the step this
            config names. limit: so many at most.
        """
        given = self._named(config)
        bound = read_config(before).step if before is not None else None
        if bound is None and given.step is not None:
            bound = given.step + 1
        return self._history(given, filter or {}, bound, limit, given.step if before is None else bound)

    def aget_state_history(
        self,
        config: Config,
        *,
        filter: Mapping[str, Any] | None = None,
        before: Config | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[StateSnapshot]:
        """`get_state_history` for asyncio."""
        return aiterate(self.get_state_history(config, filter=filter, before=before, limit=limit))

    def _history(
        self,
        given: CallConfig,
        wanted: Mapping[str, Any],
        before: int | None,
        limit: int | None,
        named: int | None,  # the step that the caller's config says
    ) -> Iterator[StateSnapshot]:
        count = 0
        if given.ns:
            standing = standing_at(self._stored(), self._codec, str(given.thread_id), given.ns)
        else:
            standing = Standing(str(given.thread_id), None, {}, "", Position(str(given.thread_id)))
        if standing is None:
            return
        if before is None and standing.step is not None:
            before = standing.step + 1
        if named is not None:
            check_step(self._stored(), standing.thread_id, named)
        if limit is not None and limit <= 0:
            return
        for position, since in barriers(self._stored(), self._codec, standing.thread_id, before=before, few=limit):
            snapshot = self._shown(given, standing, position, since, False)
            if not wanted or wanted.items() <= (snapshot.metadata or {}).items():
                count += 1
                yield snapshot
                if count == limit:
                    return

    def verify(self, config: Config, *, head: str | Report | None = None) -> Report:
        """Check the thread's hash chain. The report names the rows that were altered, removed, moved or put in.

        head: of an earlier report that was kept elsewhere, or that report: what the log ended with then must still be
        there. Without it a log whose newest rows were cut off looks whole. Raises ThreadNotFoundError.
        """
        thread_id = self._thread(config)
        self._existing(self._stored(), thread_id)
        return verify(self._stored(), thread_id, self._keys, head=head)

    async def averify(self, config: Config, *, head: str | Report | None = None) -> Report:
        """`verify` for asyncio."""
        return await in_thread(lambda: self.verify(config, head=head))

    def verify_all(self) -> Iterator[Report]:
        """`verify` of every thread in the database, one after the other."""
        store = self._stored()
        for thread in store.threads():
            yield verify(store, thread.thread_id, self._keys)

    def averify_all(self) -> AsyncIterator[Report]:
        """`verify_all` for asyncio."""
        return aiterate(self.verify_all(), batch=1)

    def export_thread(self, config: Config) -> Iterator[str]:
        """The thread as lines of JSON, without line ends: everything that is needed to check it elsewhere with
        `verify_export`, and to go on with it in another database with `import_thread`.

        With it come the threads that its subgraphs ran on, and those that it or they were forked from. Rows keep their
        hashes. Lazy: a few rows are held at a time. Raises ThreadNotFoundError.
        """
        thread_id = self._thread(config)
        self._existing(self._stored(), thread_id)
        return export(self._stored(), thread_id, self._key)

    def aexport_thread(self, config: Config) -> AsyncIterator[str]:
        """`export_thread` for asyncio."""
        return aiterate(self.export_thread(config))

    def import_thread(self, lines: Iterable[str]) -> Report:
        """Put a thread into this database, as `export_thread` wrote it; returns what its check found: nothing.

        lines: a file opened as text, or any iterable. They are read once, checked against their hashes, this log's keys
        and their last line, and written in one transaction: either everything is there when this returns, or nothing.
        A thread that was running arrives as pending, to be continued by stream(None, config).

        Raises ThreadExistsError if the thread is here, or one that comes with it is here and is not the same;
        ExportError for lines that were altered, cut, or signed with another key.
        """
        reader = ExportReader(lines, self._keys, strict=True)
        self._stored().restore(reader.items())
        return reader.reports[0]

    async def aimport_thread(self, lines: Iterable[str]) -> Report:
        """`import_thread` for asyncio."""
        return await in_thread(lambda: self.import_thread(lines))

    def encryption_keys(self) -> dict[str | None, int]:
        """How many values in the database are encrypted with which key, by the keys' ids; under None those that are not
        encrypted. The keys that this log has come first, newest first, also those that nothing needs (any more).

        A key that is not among them, or with 0 values, may be given up. Needs no key; reads the whole database.
        """
        found = self._stored().heads(SEALED, len(SEALED) + 8)
        used = {None if head is None else head[len(SEALED) :].hex(): count for head, count in found.items()}
        return {**dict.fromkeys(self.encryption_key_ids, 0), **used}

    @property
    def encryption_key_ids(self) -> tuple[str, ...]:
        """Of the keys that were given, newest first. An id does not tell the key."""
        return self._codec.seal.ids() if self._codec.seal is not None else ()

    async def aencryption_keys(self) -> dict[str | None, int]:
        """`encryption_keys` for asyncio."""
        return await in_thread(self.encryption_keys)

    def prune(
        self,
        *,
        older_than: timedelta | float | None = None,
        keep_last: int | None = None,
        statuses: Collection[str] | None = None,
        graph: str | None = None,
        dry_run: bool = False,
        vacuum: bool = False,
        actor: str | None = None,
    ) -> Pruned:
        """Remove whole threads or, with `keep_last`, the beginnings of their logs; in many short transactions.

        older_than: age as timedelta or in seconds: threads that were last changed longer ago; with keep_last, only
            rows that are that old. keep_last: no thread goes, each keeps its last so many states (barriers) with all
            rows since, and begins there. statuses: only threads that have one of these; by default finished ones, with
            keep_last all. graph: only those of this name. dry_run: only tell what would go. vacuum: afterwards give
            free room back to the operating system; on SQLite that writes the whole file anew, while all writers wait.
            actor: who does it, to be kept with what stands for the beginning of a log; of a whole thread nothing stays,
            and a record of the logger `durable_graph` says that it went.

        A running thread is passed over, and so are what a fork needs and a beginning that `verify` finds fault with;
        subgraphs' runs go with their caller. Each transaction is durable when it ends: broken off, nothing is half
        removed, and the next call goes on. The keys are needed, if the logs are signed.
        Returns what went, and what was passed over and why. Raises ArgumentError; StoreError.
        """
        store = self._stored()
        rule = rule_of(older_than, keep_last, statuses, graph, dry_run, actor)
        report = prune(store, self._codec, self._keys, rule)
        if vacuum and not dry_run:
            report.vacuumed = store.vacuum()
        return report

    async def aprune(
        self,
        *,
        older_than: timedelta | float | None = None,
        keep_last: int | None = None,
        statuses: Collection[str] | None = None,
        graph: str | None = None,
        dry_run: bool = False,
        vacuum: bool = False,
        actor: str | None = None,
    ) -> Pruned:
        """`prune` for asyncio."""
        return await in_thread(
            lambda: self.prune(
                older_than=older_than,
                keep_last=keep_last,
                statuses=statuses,
                graph=graph,
                dry_run=dry_run,
                vacuum=vacuum,
                actor=actor,
            )
        )

    # --- what needs no graph, but adds to the log ----------------------------------------------

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
        async for _ in adrive(nullcontext(self._fork_effects(config, to)), self._stored(), nothing, False, None):
            pass
        return config_of(to, 0)

    def _fork_effects(self, config: Config, to: str) -> Effects:
        given = self._named(config)
        self._codec.limits.check_id(to, "to")
        run_id = str(uuid.uuid4())
        call = Call(thread_id=to, run_id=run_id, step=given.step, recorded=given.recorded())
        graph, codec = self._forked_by(given)
        return fork(graph, codec, self._key, call, self._thread(config))

    def _forked_by(self, given: CallConfig) -> tuple[Graph | None, Coder]:
        """The graph that a fork is of, if it is known here, and what writes its row."""
        return None, self._codec

    def signal(self, config: Config, name: str, value: Any = None) -> None:
        """Send a signal to a thread, for `runtime.wait_for(name)`. Kept until a task takes it; durable when it returns.

        It wakes nobody by itself: continue the thread with stream(None, config) if no run is under way.
        Raises ThreadNotFoundError; UnstorableValueError; TooLargeError.
        """
        store, thread_id = self._stored(), str(self._named(config).thread_id)
        self._existing(store, thread_id)
        if not isinstance(name, str):
            raise ArgumentError(argument="name", problem=f"{name!r} is no name of a signal", fix="Give a text.")
        sent = f"{iso(drivers.rising_clock())}-{uuid.uuid4().hex[:8]}"
        data = self._codec.write(value, "signal", thread_id, sent, name)
        self._codec.check_size(len(data), value, f"The signal {name!r} of thread {thread_id!r}", thread_id=thread_id)
        store.send(Signal(thread_id, sent, name, data))

    async def asignal(self, config: Config, name: str, value: Any = None) -> None:
        """`signal` for asyncio."""
        await in_thread(lambda: self.signal(config, name, value))

    def close(self) -> None:
        """Give back the database connections. The graph opens them again when used again."""
        if self._store is not None:
            self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _show(self, shaper: Shaper) -> Show:
        view = self._view

        def show(it: Emission) -> Iterable[Any]:
            if isinstance(it, Below):
                return shaper.show(self._view_of(it.ns), it.ns, it.what)
            return shaper.show(view, (), it)

        return show

    def _view_of(self, ns: tuple[str, ...]) -> View:
        """How the subgraph at this place is shown: its graph may not be known here."""
        return View() if ns else self._view

    def _named(self, config: Config) -> CallConfig:
        given = read_config(config, self._config)
        if given.thread_id is None:
            raise ArgumentError(
                argument="config",
                problem="it names no thread",
                fix='Give {"configurable": {"thread_id": ...}}',
            )
        return given

    def _thread(self, config: Config) -> str:
        """The thread that a config names: a subgraph's run is one of its own."""
        given = self._named(config)
        return thread_of(str(given.thread_id), given.ns)

    def _stored(self) -> Store:
        if self._store is None:
            raise ArgumentError(
                argument="checkpointer",
                problem="this graph was compiled with checkpointer=False, so nothing was written",
                fix="Compile it with a database URL.",
            )
        return self._store

    def _existing(self, store: Store, thread_id: str) -> str:
        """The thread's status."""
        thread = store.thread(thread_id)
        if thread is None:
            raise ThreadNotFoundError(thread_id=thread_id, store=store.name)
        return thread.status


def _parents(root: str, ns: tuple[str, ...], standing: Standing, position: Position | Stand) -> dict[str, str]:
    if not ns:
        return {}
    above = way_down(ns)[-2]
    task = (standing.task or str(position.run.get("task", ""))).removeprefix(f"{thread_of(root, above)}/")
    return {"|".join(above): task.partition(".")[0]}


def verify_export(lines: Iterable[str], *, key: Key = None) -> list[Report]:
    """Check what `Log.export_thread` wrote, without a database: one report for each thread in it, the exported one
    first.

    key: as for `Log`, by default $DURABLE_GRAPH_KEY. Reading stops at a line that is none of an export's.
    """
    return ExportReader(lines, read_keys(key, os.environ.get("DURABLE_GRAPH_KEY"))).check()


def _json(metadata: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(dict(metadata), allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ArgumentError(argument="metadata", problem=f"JSON cannot hold it: {error}", fix="Give texts.") from error


def nothing(it: Emission) -> Sequence[Any]:
    return ()
