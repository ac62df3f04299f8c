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
from datetime import timedelta
from functools import partial
from typing import Any

from durable_graph import drivers, enqueue
from durable_graph.adrivers import adrive
from durable_graph.codec import SEALED
from durable_graph.core.chain import Key, read_keys
from durable_graph.core.config import CallConfig
from durable_graph.core.effects import Below, Emission
from durable_graph.core.export import ExportReader, export
from durable_graph.core.model import Graph
from durable_graph.core.projection import ANNOUNCED, Shaper, config_of
from durable_graph.core.rows import Call, Effects, fork
from durable_graph.core.rows import Codec as Coder
from durable_graph.core.telling import follow, walk
from durable_graph.core.times import iso
from durable_graph.core.verify import Report, verify
from durable_graph.drivers import Show, drive
from durable_graph.errors import ArgumentError, ThreadNotFoundError
from durable_graph.inbox import INBOX, Carrier, Job
from durable_graph.looking import Looking
from durable_graph.offload import aiterate, in_thread
from durable_graph.opening import Config, Modes
from durable_graph.prune import Pruned, prune, rule_of
from durable_graph.store import Claim, Signal, Thread


class Log(Looking):
    """The threads in a database.

    url: a SQLAlchemy URL of SQLite or Postgres; None: $DURABLE_GRAPH_URL, else durable_graph.db in the working
    directory. types: dataclasses, pydantic models, enums, named tuples and TypeHooks to read back as themselves.
    key: of the hash chain, if it has one; several, if it was changed, the newest first. By default
    $DURABLE_GRAPH_KEY, which separates several with commas. encryption_key: as for `compile`, by default
    $DURABLE_GRAPH_ENCRYPTION_KEY; verifying, exporting and importing need none.
    """

    def create_thread(self, thread_id: str, *, metadata: Mapping[str, Any] | None = None, graph: str = "") -> bool:
        """Make a thread that nothing has run on yet: it can be found, with its metadata, and has the status "new".

        Whoever wants to run a graph on a thread need not make it before. metadata: what JSON can hold. graph: the name
        of the graph that is going to run it, if that is known. Durable when it returns. False if the thread exists.
        Raises ArgumentError; StoreError.
        """
        at = iso(drivers.clock())
        values: dict[str, Any] = dict.fromkeys(("parent_thread_id", "parent_step", "called_by", "wake_at", "queue"))
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
        wait: float = 0.0,
    ) -> Iterator[Any]:
        """`replay`, and then what is added, until the thread has ended (finished, or failed), whoever runs it.

        poll: seconds between two looks. timeout: seconds without news after which to stop; None: never. wait: seconds
        for a thread that is not there yet, as on a replica of the database, which comes behind.
        Raises ThreadNotFoundError if it has not come by then.
        """
        show = self._show(Shaper(stream_mode))
        thread_id = self._thread(config)
        return self._followed(thread_id, -1 if after is None else after, show, poll, timeout, wait)

    def afollow(
        self,
        config: Config,
        *,
        after: int | None = None,
        stream_mode: Modes = "updates",
        poll: float = 0.05,
        timeout: float | None = None,
        wait: float = 0.0,
    ) -> AsyncIterator[Any]:
        """`follow` for asyncio."""
        told = self.follow(config, after=after, stream_mode=stream_mode, poll=poll, timeout=timeout, wait=wait)
        return aiterate(told, batch=1)

    def _followed(
        self, thread_id: str, after: int, show: Show, poll: float, timeout: float | None, wait: float
    ) -> Iterator[Any]:
        store, until = self._stored(), time.monotonic() + wait
        while store.thread(thread_id) is None and time.monotonic() < until:
            time.sleep(poll)
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

        A worker wakes up a thread whose run was submitted. Any other wakes nobody by itself: continue it with
        stream(None, config) if no run is under way.
        Raises ThreadNotFoundError; UnstorableValueError; TooLargeError.
        """
        store, thread_id = self._stored(), str(self._named(config).thread_id)
        thread = store.thread(thread_id)
        if thread is None:
            raise ThreadNotFoundError(thread_id=thread_id, store=store.name)
        if not isinstance(name, str):
            raise ArgumentError(argument="name", problem=f"{name!r} is no name of a signal", fix="Give a text.")
        if name == INBOX:
            raise ArgumentError(argument="name", problem=f"{name!r} is the library's own", fix="Choose another.")
        sent = f"{iso(drivers.rising_clock())}-{uuid.uuid4().hex[:8]}"
        data = self._codec.write(value, "signal", thread_id, sent, name)
        self._codec.check_size(len(data), value, f"The signal {name!r} of thread {thread_id!r}", thread_id=thread_id)
        waking = self._waking(thread)
        Carrier(store, waking, None).send(Signal(thread_id, sent, name, data))
        if waking is None and getattr(store, "takes_jobs", False):
            self._wake(store.thread(thread_id))  # it may have been submitted, and have come to wait, meanwhile

    def _wake(self, thread: Thread | None) -> None:
        waking = None if thread is None else self._waking(thread)
        if waking is not None:
            Carrier(self._stored(), waking, None).tell()

    def _waking(self, thread: Thread) -> Job | None:
        """What tells workers of a signal."""
        if thread.queue is None or not getattr(self._store, "takes_jobs", False):
            return None
        queue = enqueue.full_queue(thread.graph, thread.queue)
        return partial(enqueue.wake, thread_id=thread.thread_id, queue=queue)

    async def asignal(self, config: Config, name: str, value: Any = None) -> None:
        """`signal` for asyncio."""
        await in_thread(lambda: self.signal(config, name, value))

    def _show(self, shaper: Shaper) -> Show:
        view = self._view

        def show(it: Emission) -> Iterable[Any]:
            if isinstance(it, Below):
                return shaper.show(self._view_of(it.ns), it.ns, it.what)
            return shaper.show(view, (), it)

        return show


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
