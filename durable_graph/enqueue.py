"""Jobs for workers, in procrastinate's tables: put there in one transaction with what they are for.

The rule: a job says only which thread somebody has to go on with. What is to be done stands in the thread's log, so a
job too many does no harm: whoever takes it finds nothing to do. A job has the thread's id for its lock, so that those
of one thread are done one after the other.

procrastinate takes no job while an earlier one with its lock is there, also if that waits for its time. So what waits
has another lock (`later`), and holds up nothing: whoever puts a job for now need not know of it. A thread has one such
job, for the earliest of its times.

This needs the extra `workers`, and Postgres; procrastinate is imported when the first job is put in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from durable_graph.errors import CallError

if TYPE_CHECKING:
    from procrastinate.jobs import Job
    from procrastinate.manager import JobManager
    from sqlalchemy import Connection

TASK = "durable_graph.run"
QUEUE = "default"
NEVER = datetime(9999, 1, 1, tzinfo=UTC)  # of a job whose thread waits for a signal alone
LONGEST = 40  # bytes of a queue's name: procrastinate notifies "procrastinate_queue_v1#<name>", and Postgres takes 63


def full_queue(graph: str, queue: str) -> str:
    """The name that procrastinate has for a queue: each graph has its own, as only its workers can run it."""
    return short(f"dg:{graph}" if queue == QUEUE else f"dg:{graph}:{queue}")


def short(name: str) -> str:
    """The name, or what stands for a long one."""
    return name if len(name.encode()) <= LONGEST else f"dg:{hashlib.sha256(name.encode()).hexdigest()[:32]}"


def put(connection: Connection, thread_id: str, queue: str, *, priority: int = 0, at: datetime | None = None) -> None:
    """Put a job for the thread into the queue, in the connection's transaction. at: when it may be taken."""
    _manager(connection).defer_job(_job(thread_id, queue, priority, at))


def put_again(connection: Connection, thread_id: str, queue: str, *, priority: int, at: datetime | None) -> None:
    """`put` for a thread that may have a job that waits for its time: this one takes its place."""
    manager = _manager(connection)
    for job in waiting(manager.list_jobs(lock=later(thread_id), task=TASK)):
        if at is not None and job.scheduled_at is not None:
            at = min(at, job.scheduled_at)
        _remove(manager, job)
    manager.defer_job(_job(thread_id, queue, priority, at))


def wake(connection: Connection, thread_id: str, queue: str) -> None:
    """`put_again` for a thread that may be waiting, with the priority that it has."""
    manager = _manager(connection)
    parked = waiting(manager.list_jobs(lock=later(thread_id), task=TASK))
    for job in parked:
        _remove(manager, job)
    present = parked or manager.list_jobs(lock=thread_id, task=TASK)
    priority = max((job.priority for job in present if job.status in ("todo", "doing")), default=0)
    manager.defer_job(_job(thread_id, queue, priority, None))


def later(thread_id: str) -> str:
    """The lock of a job that waits for its time."""
    return f"{thread_id}\x1flater"


def waiting(jobs: Iterable[Job]) -> list[Job]:
    """Those that nobody has taken."""
    return [job for job in jobs if job.status == "todo"]


def _remove(manager: JobManager, job: Job) -> None:
    assert job.id is not None
    manager.cancel_job_by_id(job.id, delete_job=True)


def _job(thread_id: str, queue: str, priority: int, at: datetime | None) -> Job:
    from procrastinate.jobs import Job

    return Job(
        id=None,
        queue=queue,
        lock=thread_id if at is None else later(thread_id),
        queueing_lock=None,
        task_name=TASK,
        task_kwargs={"thread_id": thread_id},
        priority=priority,
        scheduled_at=at,
    )


def _manager(connection: Connection) -> JobManager:
    try:
        from procrastinate.manager import JobManager
    except ImportError as error:
        raise missing(error) from error
    return JobManager(_Within(connection))  # type: ignore[arg-type]  # of a connector it uses these methods alone


def missing(error: ImportError) -> CallError:
    return CallError(
        problem=f"runs for workers need procrastinate, which cannot be imported ({error})",
        fix='Run: pip install "durable-graph[workers]"',
    )


class _Within:
    """What procrastinate takes for a connector, in a transaction of SQLAlchemy's."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def get_sync_connector(self) -> _Within:
        return self

    def execute_query_all(self, query: str, **arguments: Any) -> list[dict[str, Any]]:
        found = self._connection.exec_driver_sql(query, {name: _wrapped(value) for name, value in arguments.items()})
        return [dict(row) for row in found.mappings()]

    def execute_query_one(self, query: str, **arguments: Any) -> dict[str, Any]:
        return self.execute_query_all(query, **arguments)[0]


def _wrapped(value: Any) -> Any:
    """As procrastinate's own connectors give values to psycopg."""
    if isinstance(value, Mapping):
        from psycopg.types.json import Jsonb

        return Jsonb(value)
    if isinstance(value, list | tuple):
        kind = list if isinstance(value, list) else tuple
        return kind(_wrapped(item) for item in value)
    return value
