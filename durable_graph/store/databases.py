"""Which database a URL means."""

from __future__ import annotations

from durable_graph.store.address import Address, SqliteUrl
from durable_graph.store.postgres import Postgres
from durable_graph.store.sqlite import Sqlite


def database_at(url: Address) -> Sqlite | Postgres:
    return Sqlite(url) if isinstance(url, SqliteUrl) else Postgres(url)
