"""Removing what is not needed any more: whole threads, or the beginnings of their logs.

The rule: whatever can be read at any moment, also after a crash in the middle, is a whole log. A beginning is cut off
by one small transaction, which puts a stub in its place: the state at a barrier, and the hash that the barrier's row
was chained to. From then on the log begins there, and the rows before are removed a few at a time. A thread goes in
the same way, until what is left of it is few enough for one transaction.

A stub is signed, so it must not make true what was not: the rows that it stands for are verified first, and its state
is told from them, not from a snapshot.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from operator import attrgetter, itemgetter
from typing import NamedTuple

from durable_graph import drivers, leases
from durable_graph.codec import Codec
from durable_graph.core.chain import Keys, stub_hash
from durable_graph.core.history import SPARE, beginning, decode_body, folded, load, pack, stub_of
from durable_graph.core.position import Position
from durable_graph.core.times import iso
from durable_graph.core.verify import Check, parent_hash
from durable_graph.errors import (
    ArgumentError,
    CheckpointNotFoundError,
    CorruptCheckpointError,
    EncryptionKeyError,
    UnstorableValueError,
)
from durable_graph.store import Row, Size, Store, Stub, Thread, check_text

_log = logging.getLogger("durable_graph.threads")

STATUSES = ("new", "queued", "running", "pending", "interrupted", "waiting", "failed", "finished")
NOTHING = Size(0, 0, 0)
BATCH = 1000  # rows that one transaction removes; of a thread's last ones about
PAGE = 200  # threads
ALWAYS = "9999"  # sorts behind every time, also where a database puts signs before digits
UNREADABLE = CorruptCheckpointError, CheckpointNotFoundError, EncryptionKeyError, UnstorableValueError


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
    actor: str | None  # who wants it


def rule_of(
    older_than: timedelta | float | None,
    keep_last: int | None,
    statuses: Collection[str] | None,
    graph: str | None,
    dry_run: bool = False,
    actor: str | None = None,
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
    if actor is not None:
        if type(actor) is not str or not actor:
            raise ArgumentError(argument="actor", problem=f"{actor!r} is no text", fix="Name who calls, or nobody.")
        check_text("actor", actor)
    return Rule(_before(older_than), keep_last, statuses, graph, dry_run, actor)


def _before(older_than: timedelta | float | None) -> str:
    if older_than is None:
        return ALWAYS
    seconds: object = older_than.total_seconds() if isinstance(older_than, timedelta) else older_than
    if not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
        fix = "Give a timedelta or a number of seconds."
        raise ArgumentError(argument="older_than", problem=f"{older_than!r} is no age", fix=fix)
    return iso(max(drivers.clock() - seconds, 0.0))


def prune(store: Store, codec: Codec, keys: Keys, rule: Rule) -> Pruned:
    """Remove what the rule says, except for what forks and running threads need."""
    work = _Pruning(store, codec, keys, rule)
    try:
        if rule.keep_last is None:
            work.remove_all()
        else:
            work.cut_all(rule.keep_last)
    finally:
        if work.report.rows and not rule.dry_run:
            store.scrub()
    return work.report


class _Pruning:
    def __init__(self, store: Store, codec: Codec, keys: Keys, rule: Rule) -> None:
        self.report = Pruned(rule.dry_run)
        self._store, self._codec, self._keys, self._rule = store, codec, keys, rule
        self._gone: set[str] = set()  # by this call, or would be
        self._alone: set[str] = set()  # forks that would need their origin no more

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

    def _count(self, size: Size, left: Size = NOTHING) -> None:
        self.report.threads += size.threads - left.threads
        self.report.rows += max(size.rows - left.rows, 0)
        self.report.bytes += max(size.bytes - left.bytes, 0)

    # --- whole threads

    def remove_all(self) -> None:
        """A thread that was forked waits until its forks are gone, and is tried again."""
        waiting = [thread for thread in self._found(self._rule.before) if not self._remove(thread)]
        tried = math.inf
        while len(waiting) < tried:
            tried, waiting = len(waiting), [thread for thread in reversed(waiting) if not self._remove(thread)]
        for thread in waiting:
            self._skip(thread, f"thread {self._fork_of(thread)!r} is a fork of it")

    def _remove(self, thread: Thread) -> bool:
        """Whether it has been dealt with. False: there is a fork of it."""
        if self._fork_of(thread) is not None:
            return False
        size = self._store.size(thread.thread_id)
        if self._rule.dry_run or self._erase(thread):
            self._gone.add(thread.thread_id)
            self._count(size)
        elif self._store.thread(thread.thread_id) is not None:  # else somebody else was quicker
            self._count(size, self._store.size(thread.thread_id))
            self._skip(thread, "it has changed meanwhile")
        return True

    def _fork_of(self, thread: Thread) -> str | None:
        forks = self._store.forks(thread.thread_id)
        return next((each.fork for each in forks if self._root(each.fork) not in self._gone), None)

    def _root(self, thread_id: str) -> str:
        while (thread := self._store.thread(thread_id)) is not None and thread.called_by is not None:
            thread_id = thread.called_by
        return thread_id

    def _erase(self, thread: Thread) -> bool:
        """Remove a thread with all below it; False if it was forked or has changed meanwhile."""
        name, epoch = thread.thread_id, thread.epoch
        if self._store.size(name).rows > BATCH:
            epoch = self._shrunk(thread)
        if not self._store.prune(name, epoch):
            return False
        by = f" by {self._rule.actor!r}" if self._rule.actor else ""
        _log.info("thread %r was pruned%s", name, by, extra={"thread_id": name, "step": None})
        return True

    def _shrunk(self, thread: Thread) -> int:
        """Remove nearly all of a large thread that is to go, a few rows at a time. Its epoch then."""
        name, epoch, called = thread.thread_id, thread.epoch, list[Thread]()
        try:
            row = self._barrier(thread, 1, ())
            if row is not None:
                epoch = self._begin_at(thread, row, load(self._store, self._codec, name, row.step)) or epoch
            begins = beginning(self._store, name)  # perhaps of another call, which was broken off
            if begins > 0:
                called = self._called_before(thread, begins)
                self._trim(name, begins)
        except UNREADABLE:
            pass  # then the rest goes in one transaction
        for below in called:
            self._erase(below)
        for below in self._below(name):
            if self._store.size(below.thread_id).rows > BATCH:
                self._shrunk(below)
        return epoch

    # --- beginnings

    def cut_all(self, keep: int) -> None:
        """A fork that is cut needs its origin no more, so what forks hold waits for them."""
        waiting = [thread for thread in self._found(ALWAYS) if not self._cut(thread, keep)]
        for thread in sorted(waiting, key=attrgetter("created_at"), reverse=True):  # forks before what they are of
            self._cut(thread, keep, held=True)

    def _cut(self, thread: Thread, keep: int, held: bool = False) -> bool:
        """Whether it has been dealt with. False: a fork needs some of what is to go, and may not when it has been cut
        itself. held: then only the rest goes."""
        try:
            forks = self._forks(thread)
            row = self._barrier(thread, keep, ())
            if forks and row is not None and min(forks) < row.step:
                if not held:
                    return False
                self._skip(thread, f"thread {forks[min(forks)]!r} is a fork of its step {min(forks)}")
                row = self._barrier(thread, keep, forks)
            self._cut_at(thread, row)
        except UNREADABLE as error:
            self._skip(thread, str(error))
        return True

    def _forks(self, thread: Thread) -> dict[int, str]:
        """Of its own rows, by step."""
        forks = self._store.forks(thread.thread_id)
        own = [each for each in forks if each.thread_id == thread.thread_id and each.fork not in self._alone]
        return {each.step: each.fork for each in own}

    def _cut_at(self, thread: Thread, row: Row | None) -> None:
        """None: only remove what another call has cut off and not removed."""
        name = thread.thread_id
        if row is None:
            begins = beginning(self._store, name)
        elif self._can_begin_at(thread, row):
            begins = row.step
        else:
            return
        if begins <= 0:
            return
        size, called = self._store.size(name, until=begins), self._called_before(thread, begins)
        if not self._rule.dry_run:
            self._trim(name, begins)
        self.report.cut += 1 if size.rows else 0
        self._count(size)
        for below in called:
            self._drop(below)
        self._cut_below(thread, begins)

    def _cut_below(self, thread: Thread, begins: int) -> None:
        """Runs of subgraphs that go on from call to call: as far back as the log above can go back."""
        name, needed = thread.thread_id, dict[str, int]()
        position = load(self._store, self._codec, name, begins) or Position(name)
        for child in (*position.kept.values(), *(position.pinned or {}).values()):
            if child is not None:
                needed[child[0]] = min(child[1], needed.get(child[0], child[1]))
        for below in self._below(name) if needed else ():
            if below.thread_id in needed:
                self._cut_at(below, self._barrier(below, 1, (needed[below.thread_id], *self._forks(below))))

    def _can_begin_at(self, thread: Thread, row: Row) -> bool:
        """Whether it does now, or would."""
        wrong = self._finding(thread, row)
        if wrong is None:
            position = folded(self._store, self._codec, thread.thread_id, row.step)
            if self._rule.dry_run:
                self._alone |= {thread.thread_id} if self._is_alone(thread.thread_id, position) else set()
                return True
            if self._begin_at(thread, row, position) is not None:
                return True
            wrong = "it has changed meanwhile"
        self._skip(thread, wrong)
        return False

    def _finding(self, thread: Thread, row: Row) -> str | None:
        """What is wrong with the rows that are to go. They are the proof of it, so they stay then."""
        store, stub = self._store, stub_of(self._store, thread.thread_id)
        check = Check(self._keys, lambda row: parent_hash(store, row), limit=1)
        if stub is not None:
            check.begin(stub)
        for each in store.rows(thread.thread_id, after=check.last, until=row.step):
            check.add(each)
            if check.full:
                break
        found = check.report(thread.thread_id).findings
        return f"verify finds step {found[0].step} {found[0].kind}: {found[0].problem}" if found else None

    def _barrier(self, thread: Thread, keep: int, needed: Collection[int]) -> Row | None:
        """The newest row that the log may begin with, if that is not where it begins anyway. All of what goes back to
        a row needs that, as do forks."""
        lowest, barriers = min(needed, default=math.inf), 0
        before = ALWAYS if self._rule.keep_last is None else self._rule.before
        begins = max(beginning(self._store, thread.thread_id), 0)
        for row in self._store.rows(thread.thread_id, after=begins, newest_first=True):
            # Not after an update: its questions may be answered yet, and only the rows before it tell them.
            begun_anew = row.parent_step is None  # a subgraph, after the graph above went back to before its first run
            if row.kind in ("input", "task") and not begun_anew and "next" in decode_body(self._codec, row):
                barriers += 1
                if barriers >= keep and row.step <= lowest and row.created_at < before:
                    return row
            if row.parent_step is not None and row.kind != "fork":
                lowest = min(lowest, row.parent_step)
        return None

    def _begin_at(self, thread: Thread, row: Row, position: Position | None) -> int | None:
        """Let the log begin at this row. The thread's epoch then; None if it has changed meanwhile."""
        assert position is not None
        name, store = row.thread_id, self._store
        parent = next(iter(store.rows(name, after=(row.parent_step or 0) - 1, until=row.parent_step)), None)
        if parent is None or row.parent_step is None:
            raise CorruptCheckpointError(thread_id=name, step=row.step, problem="the row it continues is missing")
        state = self._codec.write(pack(position), "state", row.thread_id, row.step, spare=SPARE)
        columns = (name, row.step, parent.hash, state, iso(drivers.clock()), self._rule.actor)
        stub = Stub(*columns, stub_hash(row.hash, columns, self._keys[0] if self._keys else None))
        done = store.cut(stub, thread.epoch, alone=thread.called_by is None and self._is_alone(name, position))
        return thread.epoch + 1 if done or store.stub(name) == stub else None  # the same: our answer was lost

    def _is_alone(self, name: str, position: Position) -> bool:
        """Whether no run of a subgraph goes on from one of another thread, as after a fork."""
        kept = [*position.kept.values(), *(position.pinned or {}).values()]
        family = {name, *self._store.called(name)} if kept else set()
        return all(child is None or child[0] in family for child in kept)

    def _trim(self, thread_id: str, step: int) -> None:
        first = next(iter(self._store.rows(thread_id, limit=1)), None)
        for until in () if first is None else range(first.step + BATCH, step + BATCH, BATCH):
            self._store.trim(thread_id, until=min(until, step))

    def _below(self, name: str) -> list[Thread]:
        """Those that it has called itself."""
        found = [self._store.thread(below) for below in self._store.called(name)]
        return [below for below in found if below is not None and below.called_by == name]

    def _called_before(self, thread: Thread, step: int) -> list[Thread]:
        """Runs of subgraphs that only rows before this step tell of, newest first: one may have begun where an older
        one stood."""
        name, planned = thread.thread_id, list[tuple[int, str, Thread]]()
        for below in self._below(name):
            task = re.match(r"(\d+)\.[^/]*/", below.thread_id.removeprefix(f"{name}/"))
            if task and int(task[1]) < step:
                planned.append((int(task[1]), below.thread_id, below))  # the step that planned its task
        if not planned:
            return []
        position = load(self._store, self._codec, name, step) or Position(name)
        kept = {str(child[0]) for child in position.kept.values()}
        return [below for _, found, below in sorted(planned, key=itemgetter(0, 1), reverse=True) if found not in kept]

    def _drop(self, below: Thread) -> None:
        size, name = self._store.size(below.thread_id), below.thread_id
        if self._rule.dry_run:
            free = all(each.fork in self._gone for each in self._store.forks(name))
        else:
            free = self._erase(below)
        if free:
            self._gone |= {name, *(() if not self._rule.dry_run else self._store.called(name))}
            self._count(size)
