"""Removing what is not needed any more: whole threads, or the beginnings of their logs.

The rule: whatever can be read at any moment, also after a crash in the middle, is a whole log. A beginning is cut off
by one small transaction, which puts a stub in its place: the state at a barrier, and the hash that the barrier's row
was chained to. From then on the log begins there, and the rows before are removed a few at a time. A thread goes in
the same way, until what is left of it is few enough for one transaction.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import NamedTuple

from durable_graph import drivers, leases
from durable_graph.codec import Codec
from durable_graph.core.chain import stub_hash
from durable_graph.core.history import decode_body, load, pack
from durable_graph.core.planner import Position
from durable_graph.core.times import iso
from durable_graph.errors import ArgumentError, CheckpointNotFoundError, CorruptCheckpointError, UnstorableValueError
from durable_graph.store import Row, Store, Stub, Thread

STATUSES = ("running", "pending", "interrupted", "waiting", "failed", "finished")
BATCH = 1000  # rows that one transaction removes; of a thread's last ones about
PAGE = 200  # threads
ALWAYS = "~"  # sorts behind every time


class Skipped(NamedTuple):
    """A thread of which something stays that was meant to go."""

    thread_id: str
    reason: str


@dataclass(slots=True)
class Pruned:
    """What `prune` has removed or, with dry_run, would remove."""

    dry_run: bool
    threads: int = 0  # with those that they called
    cut: int = 0  # threads that begin later now
    rows: int = 0
    bytes: int = 0  # of what the rows, snapshots and signals held
    skipped: list[Skipped] = field(default_factory=list)
    vacuumed: tuple[int, int] | None = None  # with vacuum: bytes of the database before and after


class Rule(NamedTuple):
    """What is to go."""

    before: str  # a time
    keep_last: int | None
    statuses: Collection[str] | None
    graph: str | None
    dry_run: bool


def rule_of(
    older_than: timedelta | float | None,
    keep_last: int | None,
    statuses: Collection[str] | None,
    graph: str | None,
    dry_run: bool,
) -> Rule:
    """Raises ArgumentError."""
    if older_than is None and keep_last is None and statuses is None:
        fix = "Give at least one of older_than, keep_last and statuses."
        raise ArgumentError(argument="prune", problem="nothing says what is to go", fix=fix)
    if keep_last is not None and (type(keep_last) is not int or keep_last < 1):
        fix = "Give the number of states to keep of each thread, at least 1."
        raise ArgumentError(argument="keep_last", problem=f"{keep_last!r} is not possible", fix=fix)
    if isinstance(statuses, str):
        raise ArgumentError(argument="statuses", problem="it is a text", fix=f"Give a list: [{statuses!r}]")
    for status in statuses or ():
        if status not in STATUSES:
            fix = f"Choose from {', '.join(STATUSES)}."
            raise ArgumentError(argument="statuses", problem=f"{status!r} is no status", fix=fix)
    if keep_last is None and statuses is None:
        statuses = ("finished",)
    return Rule(_before(older_than), keep_last, statuses, graph, dry_run)


def _before(older_than: timedelta | float | None) -> str:
    if older_than is None:
        return ALWAYS
    seconds: object = older_than.total_seconds() if isinstance(older_than, timedelta) else older_than
    if not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
        fix = "Give a timedelta or a number of seconds."
        raise ArgumentError(argument="older_than", problem=f"{older_than!r} is no age", fix=fix)
    return iso(max(drivers.clock() - seconds, 0.0))


def prune(store: Store, codec: Codec, key: bytes | None, rule: Rule) -> Pruned:
    """Remove what the rule says, except for what forks and running threads need."""
    work = _Pruning(store, codec, key, rule)
    if rule.keep_last is None:
        work.remove_all()
    else:
        work.cut_all(rule.keep_last)
    return work.report


class _Pruning:
    def __init__(self, store: Store, codec: Codec, key: bytes | None, rule: Rule) -> None:
        self.report = Pruned(rule.dry_run)
        self._store, self._codec, self._key, self._rule = store, codec, key, rule
        self._gone: set[str] = set()  # by this call

    def _found(self, before: str) -> Iterator[Thread]:
        rule, after = self._rule, ("", "")
        while True:
            page = self._store.roots(before=before, after=after, limit=PAGE)
            for thread in page:
                wanted = rule.statuses is None or thread.status in rule.statuses
                if wanted and rule.graph in (None, thread.graph) and not self._is_busy(thread):
                    yield thread
            if len(page) < PAGE:
                return
            after = page[-1].updated_at, page[-1].thread_id

    def _is_busy(self, thread: Thread) -> bool:
        owner = thread.lease_owner
        if not owner or (thread.lease_expires_at or "") <= iso(drivers.clock()) or not leases.alive(owner):
            return False
        self._skip(thread, f"it is being run by {owner} since {thread.lease_since}")
        return True

    def _skip(self, thread: Thread, reason: str) -> None:
        self.report.skipped.append(Skipped(thread.thread_id, reason))

    # --- whole threads

    def remove_all(self) -> None:
        """A thread that was forked waits until its forks are gone, and is tried again."""
        waiting = [thread for thread in self._found(self._rule.before) if not self._remove(thread)]
        tried = math.inf
        while len(waiting) < tried:
            tried, waiting = len(waiting), [thread for thread in reversed(waiting) if not self._remove(thread)]
        for thread in waiting:
            fork = self._fork_of(thread)
            self._skip(thread, f"thread {fork!r} is a fork of it" if fork else "it has changed meanwhile")

    def _remove(self, thread: Thread) -> bool:
        """Whether it has been dealt with."""
        if self._fork_of(thread) is not None:
            return False
        store, size = self._store, self._store.size(thread.thread_id)
        if not self._rule.dry_run:
            epoch = self._shrunk(thread) if size.rows > BATCH else thread.epoch
            if not store.prune(thread.thread_id, epoch):
                return self._is_gone(thread)
        self._gone.add(thread.thread_id)
        self.report.threads += size.threads
        self.report.rows += size.rows
        self.report.bytes += size.bytes
        return True

    def _is_gone(self, thread: Thread) -> bool:
        return self._store.thread(thread.thread_id) is None

    def _fork_of(self, thread: Thread) -> str | None:
        forks = self._store.forks(thread.thread_id)
        return next((each.fork for each in forks if self._root(each.fork) not in self._gone), None)

    def _root(self, thread_id: str) -> str:
        while (thread := self._store.thread(thread_id)) is not None and thread.called_by is not None:
            thread_id = thread.called_by
        return thread_id

    def _shrunk(self, thread: Thread) -> int:
        """Remove nearly all rows of a long thread, batch by batch. Its epoch then."""
        try:
            row = self._barrier(thread, 1, ALWAYS, {})
            if row is None or not self._put_stub(thread, row):
                return thread.epoch
        except (CorruptCheckpointError, CheckpointNotFoundError, UnstorableValueError):
            return thread.epoch  # then in one transaction
        self._trim(thread.thread_id, row.step)
        return thread.epoch + 1

    # --- beginnings

    def cut_all(self, keep: int) -> None:
        for thread in self._found(ALWAYS):
            try:
                self._cut(thread, keep)
            except (CorruptCheckpointError, CheckpointNotFoundError, UnstorableValueError) as error:
                self._skip(thread, str(error))

    def _cut(self, thread: Thread, keep: int) -> None:
        store, name = self._store, thread.thread_id
        forks = {each.step: each.fork for each in store.forks(name) if each.thread_id == name}
        row = self._barrier(thread, keep, self._rule.before, forks)
        stub = store.stub(name)
        if row is None or (stub is not None and row.step < stub.step):
            return
        size, called = store.size(name, until=row.step), self._called_before(thread, row)
        if not self._rule.dry_run:
            if (stub is None or stub.step < row.step) and not self._put_stub(thread, row):
                self._skip(thread, "it has changed meanwhile")
                return
            self._trim(name, row.step)
        self.report.cut += 1 if size.rows else 0
        self.report.rows += size.rows
        self.report.bytes += size.bytes
        for below in called:
            self._drop(below)

    def _barrier(self, thread: Thread, keep: int, before: str, forks: dict[int, str]) -> Row | None:
        """The newest row that the log may begin with."""
        lowest, barriers, told = math.inf, 0, False
        for row in self._store.rows(thread.thread_id, newest_first=True):
            needed = min((step for step in forks if step < row.step), default=None)
            # Not after an update: its questions may be answered yet, and only the rows before it tell them.
            if row.kind in ("input", "task") and "next" in decode_body(self._codec, row):
                barriers += 1
                if barriers >= keep and row.step <= lowest and row.created_at < before:
                    if needed is None:
                        return row if row.step else None
                    if not told:
                        self._skip(thread, f"thread {forks[needed]!r} is a fork of its step {needed}")
                        told = True
            if row.parent_step is not None and row.kind != "fork":
                lowest = min(lowest, row.parent_step)
        return None

    def _put_stub(self, thread: Thread, row: Row) -> bool:
        name, store = thread.thread_id, self._store
        parent = self._parent_hash(row)
        position = self._position(row)
        columns = (name, row.step, parent, self._codec.encode(pack(position)), iso(drivers.clock()))
        return store.cut(Stub(*columns, stub_hash(row.hash, columns, self._key)), thread.epoch)

    def _parent_hash(self, row: Row) -> bytes:
        stub = self._store.stub(row.thread_id)
        if stub is not None and stub.step == row.step:
            return stub.parent_hash
        assert row.parent_step is not None
        rows = self._store.rows(row.thread_id, after=row.parent_step - 1, until=row.parent_step)
        found = next(iter(rows), None)
        if found is None:
            raise CorruptCheckpointError(thread_id=row.thread_id, step=row.parent_step, problem="the row is missing")
        return found.hash

    def _position(self, row: Row) -> Position:
        position = load(self._store, self._codec, row.thread_id, row.step)
        assert position is not None
        return position

    def _trim(self, thread_id: str, step: int) -> None:
        first = next(iter(self._store.rows(thread_id, limit=1)))
        for until in range(first.step + BATCH, step + BATCH, BATCH):
            self._store.trim(thread_id, until=min(until, step))

    def _called_before(self, thread: Thread, row: Row) -> list[Thread]:
        """Runs of subgraphs that only rows before this one tell of, newest first: one may have begun where an older
        one stood."""
        planned: dict[str, int] = {}  # at which step their tasks were
        for name in self._store.below(thread.thread_id):
            task = re.match(r"(\d+)\.[^/]*/", name.removeprefix(f"{thread.thread_id}/"))
            if task and int(task[1]) < row.step:
                planned[name] = int(task[1])
        kept = {str(child[0]) for child in self._position(row).kept.values()} if planned else set()
        names = sorted(planned.keys() - kept, key=lambda name: (planned[name], name), reverse=True)
        return [below for name in names if (below := self._store.thread(name)) is not None]

    def _drop(self, below: Thread) -> None:
        size = self._store.size(below.thread_id)
        if self._rule.dry_run:
            root = self._root(below.thread_id)
            free = all(self._root(each.fork) == root for each in self._store.forks(below.thread_id))
        else:
            free = self._store.prune(below.thread_id, below.epoch)
        if free:
            self.report.threads += size.threads
            self.report.rows += size.rows
            self.report.bytes += size.bytes
