"""The database goes away while workers work: they go on by themselves once it is back."""

from __future__ import annotations

from typing import Any

import pytest
from procrastinate import PsycopgConnector
from procrastinate.exceptions import ConnectorException
from procrastinate.manager import JobManager
from psycopg_pool import PoolTimeout

from durable_graph.errors import StoreUnavailableError
from durable_graph.workers import jobs as procrastinated
from tests.conftest import connected, engine_url
from tests.graphs import PATIENCE, Runner
from tests.test_workers import jobs, two, until, work_off, working
from tests.test_workers_die import check, counting

MINE = "application_name = current_setting('application_name') AND pid <> pg_backend_pid()"


def asked(url: str, query: str) -> Any:
    with connected(engine_url(url)) as connection:
        (found,) = connection.execute(query).fetchone() or (None,)
    return found


def cut(url: str) -> int:
    return int(asked(url, f"SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE {MINE}"))


def is_told(url: str) -> bool:
    return bool(asked(url, f"SELECT count(*) FROM pg_stat_activity WHERE {MINE} AND query LIKE 'LISTEN%'"))


@pytest.mark.slow
def test_connections_are_cut_again_and_again(
    jobs_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(procrastinated, "PAUSE", 0.1)
    with counting(jobs_url, 0.02) as graph:
        given = [graph.submit({"n": 0}) for _ in range(20)]
        with working(graph, heartbeat=0.2):
            for each in given[::4]:
                until(lambda: sum(1 for _ in graph.timeline(each)) > 3)  # noqa: B023
                assert cut(jobs_url)
            for each in given:
                graph.result(each, timeout=PATIENCE)
            until(lambda: jobs(jobs_url) == 0)
        for each in given:
            check(graph, each)
    assert len(caplog.records) < 100


def test_a_worker_that_the_database_has_not_heard_of_for_once(
    jobs_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    signs: list[int] = []
    original = JobManager.update_heartbeat

    async def update(self: JobManager, worker_id: int) -> None:
        signs.append(worker_id)
        if len(signs) == 1:
            raise ConnectorException
        await original(self, worker_id)

    monkeypatch.setattr(JobManager, "update_heartbeat", update)
    with Runner("sync", jobs_url) as run:
        graph = two(run)
        with working(graph, heartbeat=0.1):
            until(lambda: len(signs) > 2)
    assert len(set(signs)) == 1
    assert "no sign of life" in caplog.text


def test_who_was_not_told_of_jobs_for_once_is_told_again(
    jobs_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(procrastinated, "PAUSE", 0.05)
    original, calls = PsycopgConnector.listen_notify, list[int]()

    async def listen(self: PsycopgConnector, *given: Any, **named: Any) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise ConnectorException
        await original(self, *given, **named)

    monkeypatch.setattr(PsycopgConnector, "listen_notify", listen)
    with Runner("sync", jobs_url) as run:
        graph = two(run)
        with working(graph, poll=3600):
            until(lambda: is_told(jobs_url))
            assert graph.result(graph.submit({"log": []}), timeout=PATIENCE) == {"log": ["a", "b"]}
    assert "not told of new jobs" in caplog.text


def test_no_connection_for_jobs(jobs_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_connection(self: PsycopgConnector, pool: Any = None) -> None:
        raise PoolTimeout("pool initialization incomplete")

    monkeypatch.setattr(PsycopgConnector, "open_async", no_connection)
    with Runner("sync", jobs_url) as run, pytest.raises(StoreUnavailableError, match="no connection for jobs"):
        work_off(two(run))
