"""Which thread is next, on Postgres: procrastinate's jobs say it.

The rule: a job is done when its thread has nothing left to be done; until then the same job comes back, at once, at the
thread's time, or to look whether somebody else still has it. So no thread is without a job while it needs one. Whoever
dies leaves its job marked as being done: the others look for such jobs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from durable_graph import leases
from durable_graph.enqueue import TASK, full_queue, later, missing, short, waiting
from durable_graph.errors import ArgumentError, StoreUnavailableError
from durable_graph.offload import in_thread
from durable_graph.store import Store
from durable_graph.store.sql import SqlStore
from durable_graph.workers.plan import Plan, Queue
from durable_graph.workers.staff import Staff

try:
    import procrastinate
    from procrastinate import RetryDecision
    from procrastinate.exceptions import ConnectorException, ProcrastinateException, UniqueViolation
    from procrastinate.jobs import DeleteJobCondition, Job, Status
    from procrastinate.manager import JobManager, NotificationCallback
    from procrastinate.retry import BaseRetryStrategy
    from psycopg_pool import PoolTimeout
except ImportError as error:
    raise missing(error) from error

SILENT = 4  # heartbeats that a worker may miss
CONNECTIONS = 4  # at most, for the jobs of a process; and one for each queue, to be told of new ones
TAKE_LOCK = "UPDATE procrastinate_jobs SET lock = %(lock)s WHERE id = %(id)s AND status = 'doing'"
PAUSE = 5.0  # seconds before a database is asked again that could not be used

Key = tuple[int | None, int]  # of a job: its id, and how often it has come back

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
        return RetryDecision(retry_at=datetime.now(UTC) + timedelta(seconds=PAUSE))


async def work(plan: Plan) -> None:
    store = plan.queues[0].graph._stored()
    assert isinstance(store, SqlStore)
    await in_thread(store.check)
    staff, ended = Staff(plan), _Ended()
    try:
        async with _opened(_app(plan, store, staff, ended), store) as app:
            await _all([_serve(app, plan, queue, ended) for queue in plan.queues], [_rescue(app, plan, store, ended)])
    finally:
        staff.close()


def _app(plan: Plan, store: SqlStore, staff: Staff, ended: _Ended) -> procrastinate.App:
    app = procrastinate.App(connector=_connector(store, CONNECTIONS))
    app.job_manager = _Manager(app.connector)
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


@asynccontextmanager
async def _opened(app: procrastinate.App, store: SqlStore) -> AsyncIterator[procrastinate.App]:
    try:
        await app.open_async()
    except (PoolTimeout, ConnectorException) as error:
        fix = "Check that it is up, and takes so many connections"
        raise StoreUnavailableError(store=store.name, problem=f"no connection for jobs ({error})", fix=fix) from error
    try:
        yield app
    finally:
        await app.close_async()


class _Manager(JobManager):
    """procrastinate's worker gives no more signs of life, and is told of no more jobs, once the database could not be
    used for that: nobody looks at what has become of these two tasks. So they do not end."""

    async def update_heartbeat(self, worker_id: int) -> None:
        try:
            await super().update_heartbeat(worker_id)
        except ConnectorException as error:
            log.warning("no sign of life: %s", error.__cause__ or error)

    async def listen_for_jobs(
        self, *, on_notification: NotificationCallback, queues: Iterable[str] | None = None
    ) -> None:
        while True:
            try:
                await super().listen_for_jobs(on_notification=on_notification, queues=queues)
                return
            except ConnectorException as error:
                log.warning("not told of new jobs, which are looked for only: %s", error.__cause__ or error)
            if (task := asyncio.current_task()) is not None and task.cancelling():
                return  # it was stopped, and the connection's end hid that
            await asyncio.sleep(PAUSE)


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


def _connector(store: SqlStore, connections: int) -> procrastinate.PsycopgConnector:
    arguments: Any = {"kwargs": store.driver_arguments(), "min_size": 1, "max_size": connections}
    return procrastinate.PsycopgConnector(**arguments, configure=_autocommit)


async def _autocommit(connection: Any) -> None:
    """procrastinate says all it has to say in single statements: to begin and commit around each is two round trips."""
    await connection.set_autocommit(True)


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


async def _serve(app: procrastinate.App, plan: Plan, queue: Queue, ended: _Ended) -> None:
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
            await asyncio.sleep(PAUSE)


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


# --- jobs of workers that have died ---------------------------------------------------------------


class _Ended:
    """Jobs whose turn has ended here. One that two looks later still counts as being done is one of which the database
    could not be told; and as this worker lives, nobody else would find out."""

    def __init__(self) -> None:
        self.number = 0
        self._ended: dict[str, set[Key]] = {}  # by queue
        self._seen: dict[str, set[Key]] = {}  # of those, what still counted as being done

    def add(self, job: Job) -> None:
        self.number += 1
        self._ended.setdefault(job.queue, set()).add(_key(job))

    def until_now(self, queue: str) -> set[Key]:
        return set(self._ended.get(queue, ()))

    def left(self, queue: str, before: set[Key], doing: Sequence[Job]) -> list[Job]:
        """before: `until_now` of before it was looked what is being done."""
        there = {_key(job): job for job in doing}
        left = [there[key] for key in self._seen.get(queue, set()) & there.keys()]
        self._seen[queue] = before & there.keys()
        self._ended[queue] = self._ended.get(queue, set()) - (before - there.keys())
        return left


def _key(job: Job) -> Key:
    return job.id, job.attempts


async def _rescue(app: procrastinate.App, plan: Plan, store: Store, ended: _Ended) -> None:
    while True:
        for queue in plan.queues:
            try:
                await _rescue_from(app, plan, store, ended, full_queue(queue.graph.name, queue.name))
            except (ProcrastinateException, StoreUnavailableError) as error:
                log.warning("no look for workers that have died: %s", error)
        await asyncio.sleep(plan.heartbeat)


async def _rescue_from(app: procrastinate.App, plan: Plan, store: Store, ended: _Ended, queue: str) -> None:
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


# --- the tables -----------------------------------------------------------------------------------


def create_tables(store: SqlStore) -> bool:
    """Make procrastinate's tables. False if they are there."""
    return asyncio.run(_create_tables(store))


# To take a job is to look for others with its lock, and procrastinate has no index for that: each time it reads all
# that wait. With 300,000 of them this took 20 ms, and 0.1 ms with an index.
LOCK_INDEX = "CREATE INDEX IF NOT EXISTS durable_graph_jobs_lock ON procrastinate_jobs (lock)"


async def _create_tables(store: SqlStore) -> bool:
    connector = _connector(store, 1)
    async with _opened(procrastinate.App(connector=connector), store) as app:
        there = await app.check_connection_async()
        if not there:
            await app.schema_manager.apply_schema_async()
        await connector.execute_query_async(LOCK_INDEX)
        return not there
