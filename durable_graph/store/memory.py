"""The same contracts in dictionaries: a store for graphs that keep nothing, as the model that tests compare with; and a
cache.

The rule: check everything first, then change; a lock makes the two one. Nothing survives the process.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from durable_graph.errors import ArgumentError, CallError, FencedError, ThreadExistsError
from durable_graph.store import (
    Claim,
    Entry,
    Held,
    Origin,
    Row,
    Signal,
    Size,
    Stub,
    Thread,
    Transaction,
    check_claim,
    check_entry,
    check_id,
    check_item,
    check_leases,
    check_page,
    check_row,
    check_text,
    origin_of,
)

ENTRY_BYTES = 500  # of an entry's own objects, about


class InMemoryCache:
    """A cache in this process, for `compile(cache=InMemoryCache())`: one, or the same for several graphs.

    max_bytes: of the values and keys in it, about; above that, what has not been used for longest makes room.
    """

    def __init__(self, max_bytes: int = 100_000_000) -> None:
        if max_bytes < 0:
            raise ArgumentError(argument="max_bytes", problem=f"{max_bytes} is below 0", fix="Give a number of bytes.")
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._entries: OrderedDict[tuple[str, str], Entry] = OrderedDict()  # used last: last
        self._bytes = 0

    def recall(self, namespace: str, key: str, *, now: str) -> bytes | None:
        with self._lock:
            entry = self._entries.get((namespace, key))
            if entry is None:
                return None
            if entry.expires_at is not None and entry.expires_at <= now:
                self._remove(entry)
                return None
            self._entries.move_to_end((namespace, key))
            return entry.value

    def keep(self, entries: Sequence[Entry], *, now: str) -> None:
        with self._lock:
            for entry in entries:
                if (old := self._entries.get(entry[:2])) is not None:
                    self._remove(old)
                if _size(entry) <= self._max_bytes:
                    self._entries[entry[:2]] = entry
                    self._bytes += _size(entry)
            while self._bytes > self._max_bytes:
                self._remove(next(iter(self._entries.values())))

    def forget(self, namespaces: Sequence[str] | None = None) -> None:
        with self._lock:
            for entry in list(self._entries.values()):
                if namespaces is None or entry.namespace in namespaces:
                    self._remove(entry)

    def close(self) -> None:
        """Nothing to give back."""

    def entries(self) -> list[Entry]:
        with self._lock:
            return list(self._entries.values())

    def _remove(self, entry: Entry) -> None:
        del self._entries[entry[:2]]
        self._bytes -= _size(entry)


def _size(entry: Entry) -> int:
    return len(entry.value) + len(entry.key) + len(entry.namespace) + ENTRY_BYTES


class MemoryStore:
    name = "memory"
    exclusive = False

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._threads: dict[str, Thread] = {}
        self._rows: dict[str, dict[int, Row]] = {}
        self._snapshots: dict[str, dict[int, bytes]] = {}
        self._signals: dict[str, dict[str, Signal]] = {}
        self._stubs: dict[str, Stub] = {}
        self._cache = InMemoryCache()

    def append(
        self,
        rows: Sequence[Row],
        *,
        claim: Claim | None = None,
        snapshot: bytes | None = None,
        taken: Sequence[str] = (),
    ) -> None:
        if not rows:
            fix = "Use change_thread() for a claim alone."
            raise ArgumentError(argument="rows", problem="there are none to append", fix=fix)
        for row in rows:
            check_row(row)
        first, last = rows[0], rows[-1]
        with self._lock:
            thread = self._threads.get(last.thread_id)
            if claim is not None:
                thread = self._claimed(last.thread_id, claim)
            stored = self._rows.get(last.thread_id, {})
            if thread is None:
                raise FencedError(thread_id=first.thread_id, step=first.step, epoch=first.epoch)
            added: dict[int, Row] = {}
            for row in rows:
                if row.epoch != thread.epoch or row.step in stored or row.step in added:
                    raise FencedError(thread_id=row.thread_id, step=row.step, epoch=row.epoch)
                added[row.step] = row
            origin = origin_of(first, claim)
            if origin is not None and self._has_lost(origin, first.parent_step):
                raise FencedError(thread_id=first.thread_id, step=first.step, epoch=first.epoch)
            inbox = self._signals.get(thread.thread_id, {})
            if not set(taken) <= inbox.keys():
                raise FencedError(thread_id=last.thread_id, step=last.step, epoch=last.epoch)
            for signal in taken:
                del inbox[signal]
            self._threads[thread.thread_id] = thread
            self._rows.setdefault(thread.thread_id, {}).update(added)
            if snapshot is not None:
                self._snapshots.setdefault(thread.thread_id, {})[last.step] = snapshot

    def _has_lost(self, thread_id: str, step: int | None) -> bool:
        stub = self._stubs.get(thread_id)
        return step is None or step not in self._rows.get(thread_id, {}) or (stub is not None and step < stub.step)

    def change_thread(self, thread_id: str, claim: Claim) -> bool:
        with self._lock:
            thread = self._claimed(thread_id, claim)
            if thread is not None:
                self._threads[thread_id] = thread
            return thread is not None

    def _claimed(self, thread_id: str, claim: Claim) -> Thread | None:
        """The thread as the claim makes it; None if its epoch is not the one seen."""
        check_claim(thread_id, claim)
        thread = self._threads.get(thread_id)
        if claim.epoch is None:
            return Thread(thread_id=thread_id, **claim.values) if thread is None else None
        if thread is None or thread.epoch != claim.epoch:
            return None
        return thread._replace(**claim.values)

    def renew(self, leases: Sequence[tuple[str, str]], expires_at: str) -> None:
        check_leases(leases, expires_at)
        with self._lock:
            for thread_id, owner in leases:
                thread = self._threads.get(thread_id)
                if thread is not None and thread.lease_owner == owner:
                    self._threads[thread_id] = thread._replace(lease_expires_at=expires_at)

    def send(self, signal: Signal) -> None:
        check_id(signal.thread_id)
        check_text("name", signal.name)
        with self._lock:
            self._signals.setdefault(signal.thread_id, {})[signal.id] = signal

    def signals(self, thread_id: str) -> list[Signal]:
        check_id(thread_id)
        with self._lock:
            return sorted(self._signals.get(thread_id, {}).values())

    def signalled(self) -> list[tuple[str, str, str]]:
        newest: dict[tuple[str, str], str] = {}
        with self._lock:
            for sent in self._signals.values():
                for one in sent.values():
                    newest[one.thread_id, one.name] = max(one.id, newest.get((one.thread_id, one.name), ""))
        return sorted((*key, name) for key, name in newest.items())

    def delete(self, thread_id: str) -> bool:
        check_id(thread_id)
        with self._lock:
            for called in [name for name, thread in self._threads.items() if thread.called_by == thread_id]:
                self.delete(called)
            self._rows.pop(thread_id, None)
            self._snapshots.pop(thread_id, None)
            self._signals.pop(thread_id, None)
            self._stubs.pop(thread_id, None)
            return self._threads.pop(thread_id, None) is not None

    def prune(self, thread_id: str, epoch: int) -> bool:
        with self._lock:
            thread = self.thread(thread_id)
            if thread is None or thread.epoch != epoch or self.forks(thread_id):
                return False
            return self.delete(thread_id)

    def cut(self, stub: Stub, epoch: int, *, alone: bool = False) -> bool:
        with self._lock:
            thread = self.thread(stub.thread_id)
            if thread is None or thread.epoch != epoch:
                return False
            if any(name == stub.thread_id and step < stub.step for _, name, step in self.forks(stub.thread_id)):
                return False
            thread = thread._replace(epoch=epoch + 1)
            self._threads[stub.thread_id] = (
                thread._replace(parent_thread_id=None, parent_step=None) if alone else thread
            )
            self._stubs[stub.thread_id] = stub
            return True

    def trim(self, thread_id: str, *, until: int) -> None:
        with self._lock:
            stub = self.stub(thread_id)
            end = min(until, stub.step) if stub is not None else 0
            for kept in (self._rows, self._snapshots):
                steps: dict[int, Any] = kept.get(thread_id, {})
                for step in [step for step in steps if step < end]:
                    del steps[step]

    def stub(self, thread_id: str) -> Stub | None:
        check_id(thread_id)
        with self._lock:
            return self._stubs.get(thread_id)

    def roots(self, *, before: str, after: tuple[str, str] = ("", ""), limit: int) -> list[Thread]:
        check_text("before", before)
        with self._lock:
            found = [one for one in self._threads.values() if one.called_by is None and one.updated_at < before]
        found.sort(key=_since)
        return [one for one in found if _since(one) > after][: max(limit, 0)]

    def _family(self, thread_id: str) -> list[str]:
        return [] if self.thread(thread_id) is None else [thread_id, *self.called(thread_id)]

    def forks(self, thread_id: str) -> list[Origin]:
        with self._lock:
            family = set(self._family(thread_id))
            return [
                Origin(name, str(thread.parent_thread_id), thread.parent_step or 0)
                for name, thread in self._threads.items()
                if thread.parent_thread_id in family and name not in family
            ]

    def size(self, thread_id: str, *, until: int | None = None) -> Size:
        with self._lock:
            names = self._family(thread_id) if until is None else [thread_id]
            rows = [row.body for name in names for row in self._rows.get(name, {}).values() if _is_before(row, until)]
            held = [
                state
                for name in names
                for step, state in self._snapshots.get(name, {}).items()
                if until is None or step < until
            ]
            if until is None:
                held += [self._stubs[name].state for name in names if name in self._stubs]
                held += [signal.value for name in names for signal in self._signals.get(name, {}).values()]
            return Size(0 if until is not None else len(names), len(rows), sum(map(len, [*rows, *held])))

    def held(self, thread_id: str | None = None) -> Held:
        check_id(thread_id or "")
        with self._lock:
            names = set(self._threads) if thread_id is None else {thread_id}
            states = [state for name in names for state in self._snapshots.get(name, {}).values()]
            stubs = [self._stubs[name].state for name in names if name in self._stubs]
            signals = [signal.value for name in names for signal in self._signals.get(name, {}).values()]
            cached = [entry.value for entry in self._cache.entries()] if thread_id is None else []
            return Held(*(sum(map(len, values)) for values in (states, stubs, signals, cached)))

    def scrub(self) -> None:
        """There are no files."""

    def vacuum(self) -> tuple[int, int]:
        return 0, 0  # nothing is kept for later

    def called(self, thread_id: str) -> list[str]:
        check_id(thread_id)
        with self._lock:
            below = [name for name, thread in self._threads.items() if thread.called_by == thread_id]
            return [*below, *(name for each in below for name in self.called(each))]

    def heads(self, mark: bytes, length: int) -> dict[bytes | None, int]:
        with self._lock:
            values = [row.body for rows in self._rows.values() for row in rows.values()]
            values += [state for states in self._snapshots.values() for state in states.values()]
            values += [stub.state for stub in self._stubs.values()]
            values += [signal.value for inbox in self._signals.values() for signal in inbox.values()]
            values += [entry.value for entry in self._cache.entries()]
        return dict(Counter(value[:length] if value.startswith(mark) else None for value in values))

    def restore(self, items: Iterable[Thread | Stub | Row | Signal]) -> None:
        given = list(items)  # all of it is to be kept here anyway
        with self._lock:
            there = set(self._threads)
            for place, item in enumerate(given):
                check_item(item)
                if item.thread_id not in there:
                    continue
                if place == 0 or (isinstance(item, Row) and self._hash_at(item) != item.hash):
                    raise ThreadExistsError(thread_id=item.thread_id)
            for item in given:
                if item.thread_id in there:
                    continue
                if isinstance(item, Thread):
                    self._threads[item.thread_id] = item
                elif isinstance(item, Row):
                    self._rows.setdefault(item.thread_id, {})[item.step] = item
                elif isinstance(item, Stub):
                    self._stubs[item.thread_id] = item
                else:
                    self._signals.setdefault(item.thread_id, {})[item.id] = item

    def _hash_at(self, row: Row) -> bytes | None:
        found = self._rows.get(row.thread_id, {}).get(row.step)
        return None if found is None else found.hash

    def thread(self, thread_id: str) -> Thread | None:
        check_id(thread_id)
        with self._lock:
            return self._threads.get(thread_id)

    def threads(
        self,
        *,
        statuses: Sequence[str] = (),
        graph: str | None = None,
        since: str | None = None,
        before: str | None = None,
        after: tuple[str, str] | None = None,
        limit: int | None = None,
    ) -> list[Thread]:
        check_page(statuses, graph, since, before)
        with self._lock:
            found = sorted(self._threads.values(), key=_since, reverse=True)
        wanted = [
            one
            for one in found
            if (not statuses or one.status in statuses)
            and graph in (None, one.graph)
            and (since is None or one.updated_at > since)
            and (before is None or one.updated_at < before)
            and (after is None or _since(one) < after)
        ]
        return wanted if limit is None else wanted[: max(limit, 0)]

    def oldest(self, graph: str, status: str, *, after: tuple[str, str] = ("", ""), limit: int) -> list[Thread]:
        check_text("graph", graph)
        with self._lock:
            found = [one for one in self._threads.values() if one.status == status and one.graph == graph]
        found.sort(key=_since)
        return [one for one in found if _since(one) > after][: max(limit, 0)]

    def rows(
        self,
        thread_id: str,
        *,
        after: int = -1,
        until: int | None = None,
        newest_first: bool = False,
        limit: int | None = None,
    ) -> Iterator[Row]:
        check_id(thread_id)
        with self._lock:
            rows = self._rows.get(thread_id, {})
            steps = sorted(step for step in rows if after < step and (until is None or step <= until))
            steps = steps[::-1] if newest_first else steps
            return iter([rows[step] for step in (steps if limit is None else steps[: max(limit, 0)])])

    def bodies(self, thread_id: str, *, after: int, until: int) -> Iterator[tuple[int, int | None, str, bytes]]:
        rows = self.rows(thread_id, after=after, until=until)
        return iter([(row.step, row.parent_step, row.kind, row.body) for row in rows])

    def snapshot(self, thread_id: str, *, until: int) -> tuple[int, bytes] | None:
        check_id(thread_id)
        with self._lock:
            found = self._snapshots.get(thread_id, {})
            newest = max((step for step in found if step <= until), default=None)
            return None if newest is None else (newest, found[newest])

    def recall(self, namespace: str, key: str, *, now: str) -> bytes | None:
        check_entry(namespace, key)
        return self._cache.recall(namespace, key, now=now)

    def keep(self, entries: Sequence[Entry], *, now: str) -> None:
        for entry in entries:
            check_entry(entry.namespace, entry.key)
        self._cache.keep(entries, now=now)

    def forget(self, namespaces: Sequence[str] | None = None) -> None:
        for namespace in namespaces or ():
            check_entry(namespace)
        self._cache.forget(namespaces)

    def transaction(self) -> Transaction:
        raise CallError(problem="a store in memory has no database connection", fix="Use SQLite or Postgres.")

    def close(self) -> None:
        """Nothing to give back."""


def _is_before(row: Row, step: int | None) -> bool:
    return step is None or row.step < step


def _since(thread: Thread) -> tuple[str, str]:
    return thread.updated_at, thread.thread_id
