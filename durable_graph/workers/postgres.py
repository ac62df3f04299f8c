"""Which thread is next, on Postgres: procrastinate's jobs say it.

The rule: a job is done when its thread has nothing left to be done; until then the same job comes back, at once, at the
thread's time, or to look whether somebody else still has it. So no thread is without a job while it needs one. Whoever
dies leaves its job marked as being done: the others look for such jobs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import procrastinate
from procrastinate import RetryDecision
from procrastinate.exceptions import ProcrastinateException, UniqueViolation
from procrastinate.jobs import DeleteJobCondition, Job
from procrastinate.manager import JobManager
from procrastinate.retry import BaseRetryStrategy

from durable_graph.enqueue import TASK, full_queue, later, short, waiting
from durable_graph.errors import ArgumentError
from durable_graph.offload import in_thread
from durable_graph.store.sql import SqlStore
from durable_graph.workers import jobs
from durable_graph.workers.jobs import CONNECTIONS, Manager, connector, opened
from durable_graph.workers.plan import Plan, Queue
from durable_graph.workers.rescue import SILENT, Ended, rescue
from durable_graph.workers.staff import Staff

TAKE_LOCK = "UPDATE procrastinate_jobs SET lock = %(lock)s WHERE id = %(id)s AND status = 'doing'"

log = logging.getLogger("durable_graph.workers")


class ComeBack(Exception):
    """Raised by a job that is to be done again."""

    def __init__(self, at: datetime, *, queue: str, lock: str) -> None:
        super().__init__(f"the thread is gone on with at {at.isoformat()}")
        self.at, self.queue, self.lock = at, queue, lock


class _Again(BaseRetryStrategy):
    def get_retry_decision(self, *, exception: BaseException, job: Job) -> RetryDecision:
        if isinstance(exception, ComeBack):
            return RetryDecision(retry_at=exception.at, queue=exception.queue, lock=exception.lock)
        return RetryDecision(retry_at=datetime.now(UTC) + timedelta(seconds=jobs.PAUSE))


async def work(plan: Plan) -> None:
    store = plan.queues[0].graph._stored()
    assert isinstance(store, SqlStore)
    await in_thread(store.check)
    staff, ended = Staff(plan), Ended()
    try:
        async with opened(_app(plan, store, staff, ended), store) as app:
            await _all([_serve(app, plan, queue, ended) for queue in plan.queues], [rescue(app, plan, store, ended)])
    finally:
        staff.close()


def _app(plan: Plan, store: SqlStore, staff: Staff, ended: Ended) -> procrastinate.App:
    app = procrastinate.App(connector=connector(store, CONNECTIONS))
    app.job_manager = Manager(app.connector)
    queues = {full_queue(queue.graph.name, queue.name): queue for queue in plan.queues}

    async def run(context: procrastinate.JobContext, thread_id: str) -> None:
        try:
            await take_turn(context.job, thread_id)
        finally:
            ended.add(context.job)

    async def take_turn(job: Job, thread_id: str) -> None:
        assert job.queue is not None
        if job.lock == later(thread_id):
            await _take_lock(app, job, thread_id)
        turn = await staff.take_turn(queues[job.queue], thread_id)
        if turn.again is not None:
            await _park(app.job_manager, job, thread_id, turn.again, turn.where or job.queue)

    app.task(name=TASK, pass_context=True, retry=_Again())(run)
    _schedule(app, plan)
    return app


async def _take_lock(app: procrastinate.App, job: Job, thread_id: str) -> None:
    """Of a job whose time has come: from now on it is the one at the thread. If another one is, it is done after it."""
    try:
        await app.connector.execute_query_async(TAKE_LOCK, lock=thread_id, id=job.id)
    except UniqueViolation:
        raise ComeBack(datetime.now(UTC), queue=job.queue, lock=thread_id) from None


async def _park(manager: JobManager, job: Job, thread_id: str, at: datetime, queue: str) -> None:
    """Have the job come back at this time, in place of another that waits; unless one will look before it."""
    if any(each.queue == queue for each in waiting(await manager.list_jobs_async(lock=thread_id, task=TASK))):
        return
    for each in waiting(await manager.list_jobs_async(lock=later(thread_id), task=TASK)):
        assert each.id is not None
        await manager.cancel_job_by_id_async(each.id, delete_job=True)
    raise ComeBack(at, queue=queue, lock=later(thread_id))


def _schedule(app: procrastinate.App, plan: Plan) -> None:
    """Have runs submitted by the clock."""
    known = {
        f"{queue.graph.name}/{schedule.name}": (queue, schedule)
        for queue in plan.queues
        for schedule in queue.graph.schedules
        if schedule.queue == queue.name
    }

    async def begin(timestamp: int, schedule: str) -> None:
        queue, found = known[schedule]
        await in_thread(partial(queue.graph.submit_scheduled, found, datetime.fromtimestamp(timestamp, UTC)))

    task = app.task(name=f"{TASK}.scheduled", retry=_Again())(begin)
    for name, (queue, schedule) in known.items():
        settings: Any = {"queue": full_queue(queue.graph.name, queue.name), "task_kwargs": {"schedule": name}}
        app.periodic(cron=schedule.cron, periodic_id=short(name), **settings)(task)
    for each in app.periodic_registry.periodic_tasks.values():
        try:
            _ = each.croniter
        except (KeyError, ValueError) as error:
            fix = 'Give five fields, as in "0 3 * * *".'
            raise ArgumentError(argument="cron", problem=f"{each.cron!r} is no time ({error})", fix=fix) from error


async def _all(servers: Sequence[Any], helpers: Sequence[Any]) -> None:
    """Until all servers are done, or one has failed."""
    helping = [asyncio.create_task(each) for each in helpers]
    try:
        async with asyncio.TaskGroup() as group:
            for each in servers:
                group.create_task(each)
    finally:
        for task in helping:
            task.cancel()
        await asyncio.gather(*helping, return_exceptions=True)


async def _serve(app: procrastinate.App, plan: Plan, queue: Queue, ended: Ended) -> None:
    """Take jobs of one queue until all is to stop. procrastinate's worker ends when it loses the database."""
    loop = asyncio.get_running_loop()
    while not plan.stopping.is_set():
        before = ended.number
        task = asyncio.create_task(_take_jobs(app, plan, queue))
        plan.stopping.tell(partial(loop.call_soon_threadsafe, task.cancel))
        try:
            await task
        except asyncio.CancelledError:
            if not plan.stopping.is_set():
                raise
        except ProcrastinateException as error:
            log.warning("queue %r of graph %r: %s", queue.name, queue.graph.name, error.__cause__ or error)
        else:
            if not plan.wait and ended.number == before:
                return  # else one may have had to wait for another with its lock
            if not plan.wait:
                continue
        if not plan.stopping.is_set():
            await asyncio.sleep(jobs.PAUSE)


async def _take_jobs(app: procrastinate.App, plan: Plan, queue: Queue) -> None:
    await app.run_worker_async(
        queues=[full_queue(queue.graph.name, queue.name)],
        name=queue.graph.name,
        concurrency=queue.limit,
        wait=plan.wait,
        fetch_job_polling_interval=plan.poll,
        delete_jobs=DeleteJobCondition.SUCCESSFUL,
        install_signal_handlers=False,
        update_heartbeat_interval=plan.heartbeat,
        stalled_worker_timeout=SILENT * plan.heartbeat,
    )
