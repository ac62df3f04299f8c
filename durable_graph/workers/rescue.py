"""Jobs of workers that have died: they go back into their queues.

The rule: a job that counts as being done, by nobody, is found by any worker of its queue. Nobody does it when its
worker is silent, when its thread's owner is gone from this host, or when its end could not be told to the database.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress

from procrastinate import App
from procrastinate.exceptions import ConnectorException, ProcrastinateException
from procrastinate.jobs import Job, Status

from durable_graph import leases
from durable_graph.enqueue import full_queue
from durable_graph.errors import StoreUnavailableError
from durable_graph.offload import in_thread
from durable_graph.store import Store
from durable_graph.workers.plan import Plan

SILENT = 4  # heartbeats that a worker may miss

Key = tuple[int | None, int]  # of a job: its id, and how often it has come back

log = logging.getLogger("durable_graph.workers")


class Ended:
    """Jobs whose turn has ended here. One that two looks later still counts as being done is one of which the database
    could not be told; and as this worker lives, nobody else would find out."""

    def __init__(self) -> None:
        self.number = 0
        self._ended: dict[str, set[Key]] = {}  # by queue
        self._seen: dict[str, set[Key]] = {}  # of those, what still counted as being done

    def add(self, job: Job) -> None:
        self.number += 1
        self._ended.setdefault(job.queue, set()).add(key(job))

    def until_now(self, queue: str) -> set[Key]:
        return set(self._ended.get(queue, ()))

    def left(self, queue: str, before: set[Key], doing: Sequence[Job]) -> list[Job]:
        """before: `until_now` of before it was looked what is being done."""
        there = {key(job): job for job in doing}
        left = [there[key] for key in self._seen.get(queue, set()) & there.keys()]
        self._seen[queue] = before & there.keys()
        self._ended[queue] = self._ended.get(queue, set()) - (before - there.keys())
        return left


def key(job: Job) -> Key:
    return job.id, job.attempts


async def rescue(app: App, plan: Plan, store: Store, ended: Ended) -> None:
    while True:
        for queue in plan.queues:
            try:
                await _rescue_from(app, plan, store, ended, full_queue(queue.graph.name, queue.name))
            except (ProcrastinateException, StoreUnavailableError) as error:
                log.warning("no look for workers that have died: %s", error)
        await asyncio.sleep(plan.heartbeat)


async def _rescue_from(app: App, plan: Plan, store: Store, ended: Ended, queue: str) -> None:
    manager, before = app.job_manager, ended.until_now(queue)
    silent = SILENT * plan.heartbeat
    left = {job.id: job for job in await manager.get_stalled_jobs(queue=queue, seconds_since_heartbeat=silent)}
    doing = [*await manager.list_jobs_async(queue=queue, status=Status.DOING.value)]
    left |= {job.id: job for job in ended.left(queue, before, doing)}
    under_way = [job for job in doing if job.id not in left]
    dead = await in_thread(lambda: [job for job in under_way if _has_died(store, job)])
    for job in (*left.values(), *dead):
        log.warning(
            "the worker of thread %r has died, or could not say that it is done: it goes back into its queue",
            job.task_kwargs.get("thread_id"),
        )
        with suppress(ConnectorException):  # another worker was faster
            await manager.retry_job(job)


def _has_died(store: Store, job: Job) -> bool:
    """Whether whoever did this job was a process of this host. Only that one can be known to be gone."""
    thread = store.thread(str(job.task_kwargs.get("thread_id", "")))
    owner = thread.lease_owner if thread is not None else None
    return owner is not None and not leases.alive(owner)
