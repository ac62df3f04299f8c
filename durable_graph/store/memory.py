"""The same contract in dictionaries: for graphs that keep nothing, and as the model that tests compare with.

The rule: check everything first, then change; a lock makes the two one. Nothing survives the process.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

from durable_graph.errors import ArgumentError, CallError, FencedError
from durable_graph.store import (
    Claim,
    Row,
    Signal,
    Thread,
    Transaction,
    check_claim,
    check_id,
    check_leases,
    check_row,
    check_text,
)


class MemoryStore:
    name = "memory"
    exclusive = False

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._threads: dict[str, Thread] = {}
        self._rows: dict[str, dict[int, Row]] = {}
        self._snapshots: dict[str, dict[int, bytes]] = {}
        self._signals: dict[str, dict[str, Signal]] = {}

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
            inbox = self._signals.get(thread.thread_id, {})
            if not set(taken) <= inbox.keys():
                raise FencedError(thread_id=last.thread_id, step=last.step, epoch=last.epoch)
            for signal in taken:
                del inbox[signal]
            self._threads[thread.thread_id] = thread
            self._rows.setdefault(thread.thread_id, {}).update(added)
            if snapshot is not None:
                self._snapshots.setdefault(thread.thread_id, {})[last.step] = snapshot

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

    def delete(self, thread_id: str) -> bool:
        check_id(thread_id)
        with self._lock:
            self._rows.pop(thread_id, None)
            self._snapshots.pop(thread_id, None)
            self._signals.pop(thread_id, None)
            return self._threads.pop(thread_id, None) is not None

    def thread(self, thread_id: str) -> Thread | None:
        check_id(thread_id)
        with self._lock:
            return self._threads.get(thread_id)

    def threads(self, *, status: str | None = None, graph: str | None = None, limit: int | None = None) -> list[Thread]:
        check_text("status", status or "")
        check_text("graph", graph or "")
        with self._lock:
            found = sorted(self._threads.values())
        found.sort(key=lambda thread: thread.updated_at, reverse=True)
        wanted = [one for one in found if status in (None, one.status) and graph in (None, one.graph)]
        return wanted if limit is None else wanted[: max(limit, 0)]

    def running(self, graph: str, *, after: tuple[str, str] = ("", ""), limit: int) -> list[Thread]:
        check_text("graph", graph)
        with self._lock:
            found = [one for one in self._threads.values() if one.status == "running" and one.graph == graph]
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

    def snapshot(self, thread_id: str, *, until: int) -> tuple[int, bytes] | None:
        check_id(thread_id)
        with self._lock:
            found = self._snapshots.get(thread_id, {})
            newest = max((step for step in found if step <= until), default=None)
            return None if newest is None else (newest, found[newest])

    def transaction(self) -> Transaction:
        raise CallError(problem="a store in memory has no database connection", fix="Use SQLite or Postgres.")

    def close(self) -> None:
        """Nothing to give back."""


def _since(thread: Thread) -> tuple[str, str]:
    return thread.updated_at, thread.thread_id
