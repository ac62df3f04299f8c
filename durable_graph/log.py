"""Log: a database of threads, read without the application's code.

Everything here runs no user code: values of types that nobody registered are shown as `Unregistered`. A
`CompiledGraph` is a `Log` that can also run.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

from durable_graph.codec import Codec
from durable_graph.core.config import CallConfig, read_config
from durable_graph.core.effects import Below, Emission
from durable_graph.core.history import barriers, follow, load, walk
from durable_graph.core.model import RECORDED, StateSnapshot, StreamMode
from durable_graph.core.projection import Shaper, View, empty_snapshot, snapshot_of
from durable_graph.core.verify import Report, verify
from durable_graph.drivers import Show, aiterate, in_thread
from durable_graph.errors import ArgumentError, ThreadNotFoundError
from durable_graph.store import Cache, Store, Thread

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
    from durable_graph.store.sql import SqlStore  # late: SQLAlchemy is half of the import time

    return SqlStore(checkpointer)


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
    directory. types: dataclasses, pydantic models, enums and named tuples to read back as themselves.
    key: of the hash chain, if it has one; by default $DURABLE_GRAPH_KEY.
    """

    def __init__(
        self,
        url: str | Store | bool | None = None,
        *,
        types: Iterable[type[Any]] = (),
        key: bytes | str | None = None,
    ) -> None:
        self._store = open_store(url)
        self._codec = Codec([*RECORDED, *types])
        self._key = _key(key)
        self._config: Config | None = None
        self._view = View()

    def threads(self, *, status: str | None = None, graph: str | None = None, limit: int | None = None) -> list[Thread]:
        """The threads, newest change first. status: running, pending, failed or finished. graph: by name."""
        return self._stored().threads(status=status, graph=graph, limit=limit)

    async def athreads(
        self, *, status: str | None = None, graph: str | None = None, limit: int | None = None
    ) -> list[Thread]:
        """`threads` for asyncio."""
        return await in_thread(lambda: self.threads(status=status, graph=graph, limit=limit))

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
        show = self._show(Shaper(stream_mode, subgraphs, version))
        thread_id = self._named(config).thread_id
        return self._replayed(str(thread_id), -1 if after is None else after, until, run_id, show)

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

    def _replayed(self, thread_id: str, after: int, until: int | None, run_id: str | None, show: Show) -> Iterator[Any]:
        store = self._stored()
        self._existing(store, thread_id)
        its_run = ""
        for it in walk(store, self._codec, thread_id, after=after, until=until):
            if not isinstance(it, Below):
                its_run = it.position.run_id
            if run_id is None or its_run == run_id:
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
        thread_id = str(self._named(config).thread_id)
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

    def get_state(self, config: Config) -> StateSnapshot:
        """The thread's state: at the last barrier, with what is still to run in `next` and what has finished in
        `tasks`.

        An empty snapshot if the thread does not exist. Raises CheckpointNotFoundError for a step it does not have.
        """
        given = self._named(config)
        position = load(self._stored(), self._codec, str(given.thread_id), given.step)
        return empty_snapshot(config) if position is None else snapshot_of(self._view, position)

    async def aget_state(self, config: Config) -> StateSnapshot:
        """`get_state` for asyncio."""
        return await in_thread(lambda: self.get_state(config))

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
        return self._history(str(given.thread_id), filter or {}, bound, limit)

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
        self, thread_id: str, wanted: Mapping[str, Any], before: int | None, limit: int | None
    ) -> Iterator[StateSnapshot]:
        count = 0
        for position in barriers(self._stored(), self._codec, thread_id, before=before):
            if count == limit:
                return
            snapshot = snapshot_of(self._view, position)
            if wanted.items() <= (snapshot.metadata or {}).items():
                count += 1
                yield snapshot

    def verify(self, config: Config) -> Report:
        """Check the thread's hash chain. The report names each row that was altered, removed or put in."""
        thread_id = str(self._named(config).thread_id)
        self._existing(self._stored(), thread_id)
        return verify(self._stored(), thread_id, self._key)

    async def averify(self, config: Config) -> Report:
        """`verify` for asyncio."""
        return await in_thread(lambda: self.verify(config))

    def close(self) -> None:
        """Give back the database connections. The graph opens them again when used again."""
        if self._store is not None:
            self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _show(self, shaper: Shaper) -> Show:
        def show(it: Emission) -> Iterable[Any]:
            if isinstance(it, Below):
                return shaper.show(self._view_of(it.ns), it.ns, it.what)
            return shaper.show(self._view, (), it)

        return show

    def _view_of(self, ns: tuple[str, ...]) -> View:
        """How the subgraph at this place is shown: its graph may not be known here."""
        return View()

    def _named(self, config: Config) -> CallConfig:
        given = read_config(config, self._config)
        if given.thread_id is None:
            raise ArgumentError(
                argument="config",
                problem="it names no thread",
                fix='Give {"configurable": {"thread_id": ...}}',
            )
        return given

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


def nothing(it: Emission) -> Sequence[Any]:
    return ()


def _key(key: bytes | str | None) -> bytes | None:
    if key is None:
        key = os.environ.get("DURABLE_GRAPH_KEY") or None
    return key.encode() if isinstance(key, str) else key
