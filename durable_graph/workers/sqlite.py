"""Which thread is next, on SQLite: the log says it, and a lease takes it.

The rule: there is no queue beside the log. A worker looks for threads that are queued, whose worker has died, or whose
time or signal has come, the longest unchanged first. Two that see the same thread both try, and one gets it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from operator import itemgetter

from durable_graph import drivers
from durable_graph.core.times import iso
from durable_graph.errors import CallError, StoreUnavailableError
from durable_graph.inbox import INBOX, next_input
from durable_graph.offload import in_thread
from durable_graph.recovery import is_abandoned
from durable_graph.store import Thread
from durable_graph.submission import UNDER_WAY
from durable_graph.workers.plan import Plan, Queue
from durable_graph.workers.staff import Staff
from durable_graph.workers.turn import UNABLE

PAGE = 100
PAUSE = 5.0  # seconds before a thread is tried again when the database could not be used

log = logging.getLogger("durable_graph.workers")


async def work(plan: Plan) -> None:
    for queue in plan.queues:
        for schedule in queue.graph.schedules:
            problem = f"the graph {queue.graph.name!r} has the schedule {schedule.name!r}, and there are none on SQLite"
            raise CallError(problem=problem, fix="Use Postgres, or call submit from cron.")
    worker = _Worker(plan)
    try:
        await worker.run()
    finally:
        await worker.end()


class _Worker:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._staff = Staff(plan)
        self._turns: dict[asyncio.Task[None], tuple[Queue, str]] = {}
        self._not_before: dict[str, float] = {}  # threads that could not be gone on with
        # Of waiting threads: since when, and the newest signal that they were woken for.
        self._seen: dict[str, str] = {}
        self._changed = asyncio.Event()
        loop = asyncio.get_running_loop()
        plan.stopping.tell(lambda: loop.call_soon_threadsafe(self._changed.set))

    async def run(self) -> None:
        while not self._plan.stopping.is_set():
            self._changed.clear()
            for queue in self._plan.queues:
                await self._fill(queue)
            if not (self._turns or self._plan.wait):
                return
            try:
                await asyncio.wait_for(self._changed.wait(), self._plan.poll)
            except TimeoutError:
                continue

    async def end(self) -> None:
        while self._turns:
            await asyncio.wait(self._turns)
        self._staff.close()

    async def _fill(self, queue: Queue) -> None:
        """Begin as many turns as there are places and threads."""
        places = queue.limit - sum(1 for each, _ in self._turns.values() if each is queue)
        if places <= 0:
            return
        busy = {thread_id for _, thread_id in self._turns.values()}
        try:
            found = await in_thread(lambda: self._due(queue, busy, places))
        except StoreUnavailableError as error:
            log.warning("%s", error)
            return
        for thread_id in found:
            task = asyncio.create_task(self._take(queue, thread_id))
            self._turns[task] = queue, thread_id
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        del self._turns[task]
        self._changed.set()

    async def _take(self, queue: Queue, thread_id: str) -> None:
        try:
            pause = UNABLE.total_seconds() if (await self._staff.take_turn(queue, thread_id)).unable else 0.0
        except StoreUnavailableError as error:
            log.warning("%s", error)
            self._seen.pop(thread_id, None)
            pause = PAUSE
        self._not_before.pop(thread_id, None)
        if pause:
            self._not_before[thread_id] = time.monotonic() + pause

    # --- what to go on with, in a thread of its own -----------------------------------------------

    def _due(self, queue: Queue, busy: set[str], places: int) -> list[str]:
        found: list[str] = []
        for thread_id, signal in self._candidates(queue):
            if thread_id not in busy and thread_id not in found and self._may(thread_id):
                found.append(thread_id)
                if signal:
                    self._seen[thread_id] = signal
                if len(found) == places:
                    break
        return found

    def _may(self, thread_id: str) -> bool:
        return self._not_before.get(thread_id, 0.0) <= time.monotonic()

    def _candidates(self, queue: Queue) -> Iterator[tuple[str, str]]:
        """Threads, and since when, and for which signal, those that wait are to be woken."""
        store, now = queue.graph._stored(), iso(drivers.clock())
        yield from ((thread.thread_id, "") for thread in _of(queue, "running") if is_abandoned(thread, now))
        yield from ((thread.thread_id, "") for thread in _of(queue, "queued") if (thread.wake_at or "") <= now)
        sent = store.signalled()
        newest = {thread_id: signal for thread_id, name, signal in sorted(sent, key=itemgetter(2)) if name != INBOX}
        self._seen = {name: signal for name, signal in self._seen.items() if name in newest}
        for thread in _of(queue, "waiting"):
            if thread.wake_at is not None and thread.wake_at <= now:
                yield thread.thread_id, ""
            elif thread.thread_id in newest:
                wait = f"{thread.updated_at} {newest[thread.thread_id]}"
                if wait != self._seen.get(thread.thread_id):
                    yield thread.thread_id, wait  # once: it may not wait for that one
        yield from ((thread_id, "") for thread_id, name, _ in sent if name == INBOX and _is_next(queue, thread_id))


def _is_next(queue: Queue, thread_id: str) -> bool:
    """Whether the next input in the thread's inbox is this queue's, and may begin."""
    store, now = queue.graph._stored(), datetime.fromtimestamp(drivers.clock(), UTC)
    thread = store.thread(thread_id)
    if thread is None or thread.status in UNDER_WAY:
        return False
    found = next_input(store, queue.graph._codec, thread_id, now)
    if found is None:
        return False
    _, item, begins = found
    return (item["graph"], item["queue"]) == (queue.graph.name, queue.name) and begins <= now


def _of(queue: Queue, status: str) -> Iterator[Thread]:
    """Threads of the queue with this status, the longest unchanged first."""
    after = ("", "")
    while True:
        page = queue.graph._stored().oldest(queue.graph.name, status, after=after, limit=PAGE)
        yield from (thread for thread in page if thread.queue == queue.name)
        if len(page) < PAGE:
            return
        after = page[-1].updated_at, page[-1].thread_id
