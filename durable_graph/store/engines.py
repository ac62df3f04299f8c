"""What SQLAlchemy does for a database beyond defining it: transactions for nodes and migrations, and what Postgres'
connections are made with.

The rule: whoever needs one of these imports this when it does. Importing SQLAlchemy takes longer than everything else
in a first run on a new SQLite file.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import URL, Connection, Engine, QueuePool, create_engine, event, exc, make_url
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg


def read_url(text: str | URL) -> URL | None:
    try:
        return make_url(text)
    except (exc.ArgumentError, ValueError):
        return None


def sqlite_engine(connect: Callable[[], sqlite3.Connection], begin: str) -> Engine:
    """For transactions that write from their beginning."""
    engine = create_engine("sqlite+pysqlite:///", creator=connect, poolclass=QueuePool, pool_reset_on_return=None)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
    return engine


def postgres_engine(
    url: URL, size: int, prepare: bool, set_up: Callable[[Any, object], None], **settings: Any
) -> Engine:
    """A pool of so many connections, each set up before its first use."""
    engine = create_engine(
        url.difference_update_query(["pool_size", "prepare"]),
        paramstyle="format",
        hide_parameters=True,
        use_native_hstore=False,  # spares a query
        pool_size=size,
        max_overflow=0,
        pool_use_lifo=True,
        connect_args=_options(url, prepare),
        **settings,
    )
    event.listen(engine, "connect", set_up)
    return engine


def _options(url: URL, prepare: bool) -> dict[str, Any]:
    return {
        "prepare_threshold": 1 if prepare else None,  # from the second time on, or never
        "fallback_application_name": "durable_graph",
        "connect_timeout": url.query.get("connect_timeout", 10),  # seconds; libpq waits for minutes
    }


def psycopg_arguments(engine: Engine, prepare: bool) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """What the engine gives to `psycopg.connect`."""
    arguments, options = engine.dialect.create_connect_args(engine.url)
    return arguments, {**options, **_options(engine.url, prepare)}


def on_commit(connection: Connection, call: Callable[[object], None]) -> None:
    event.listen(connection, "commit", call)


def driver_arguments(url: URL) -> dict[str, Any]:
    """What psycopg connects with."""
    dialect: Any = PGDialect_psycopg
    _, options = dialect().create_connect_args(url.difference_update_query(["pool_size", "prepare"]))
    return {**options, **_options(url, url.query.get("prepare") != "off")}
