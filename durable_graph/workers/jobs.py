"""procrastinate's side of a worker: its connections, its tables, and what keeps its worker alive.

The rule: whatever is procrastinate's and not about our threads is here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import procrastinate
from procrastinate.exceptions import ConnectorException
from procrastinate.manager import JobManager, NotificationCallback
from psycopg_pool import PoolTimeout

from durable_graph.errors import StoreUnavailableError
from durable_graph.store.sql import SqlStore

CONNECTIONS = 4  # at most, for the jobs of a process; and one for each queue, to be told of new ones
PAUSE = 5.0  # seconds before a database is asked again that could not be used

log = logging.getLogger("durable_graph.workers")


def connector(store: SqlStore, connections: int) -> procrastinate.PsycopgConnector:
    arguments: Any = {"kwargs": store.driver_arguments(), "min_size": 1, "max_size": connections}
    return procrastinate.PsycopgConnector(**arguments, configure=_autocommit)


async def _autocommit(connection: Any) -> None:
    """procrastinate says all it has to say in single statements: to begin and commit around each is two round trips."""
    await connection.set_autocommit(True)


@asynccontextmanager
async def opened(app: procrastinate.App, store: SqlStore) -> AsyncIterator[procrastinate.App]:
    try:
        await app.open_async()
    except (PoolTimeout, ConnectorException) as error:
        fix = "Check that it is up, and takes so many connections"
        raise StoreUnavailableError(store=store.name, problem=f"no connection for jobs ({error})", fix=fix) from error
    try:
        yield app
    finally:
        await app.close_async()


class Manager(JobManager):
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


# --- the tables ------------------------------------------------------------------------------------


def create_tables(store: SqlStore) -> bool:
    """Make procrastinate's tables. False if they are there."""
    return asyncio.run(_create_tables(store))


# To take a job is to look for others with its lock, and procrastinate has no index for that: each time it reads all
# that wait. With 300,000 of them this took 20 ms, and 0.1 ms with an index.
LOCK_INDEX = "CREATE INDEX IF NOT EXISTS durable_graph_jobs_lock ON procrastinate_jobs (lock)"


async def _create_tables(store: SqlStore) -> bool:
    own = connector(store, 1)
    async with opened(procrastinate.App(connector=own), store) as app:
        there = await app.check_connection_async()
        if not there:
            await app.schema_manager.apply_schema_async()
        await own.execute_query_async(LOCK_INDEX)
        return not there
