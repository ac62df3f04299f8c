"""The tables: what the database holds, once for SQLite and Postgres.

The rule: what people filter on is a column, everything else is inside `body`. Columns stand in the order of `Row` and
`Thread`. A change here needs a migration of the same number; `tests/test_migrations.py` compares the two.
Imports nothing of the library but the version, so that migrations written today still run on the library of tomorrow.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Dialect, Index, LargeBinary, MetaData, String, Table, Text, insert
from sqlalchemy.schema import CreateIndex, CreateTable

from durable_graph.store.version import REVISION, VERSION_TABLE

metadata = MetaData(naming_convention={"pk": "pk_%(table_name)s", "ix": "ix_%(table_name)s_%(column_0_N_name)s"})

# An ordinary SQLite rowid table: WITHOUT ROWID was measured no faster for small bodies and slower from 1 kB on.
checkpoints = Table(
    "checkpoints",
    metadata,
    Column("thread_id", Text, primary_key=True),
    Column("step", BigInteger, primary_key=True, autoincrement=False),
    Column("parent_step", BigInteger),
    Column("kind", Text, nullable=False),
    Column("superstep", BigInteger, nullable=False),
    Column("node", Text),
    Column("task", Text),
    Column("run_id", Text, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("created_at", Text, nullable=False),
    Column("hash", LargeBinary, nullable=False),
)

threads = Table(
    "threads",
    metadata,
    Column("thread_id", Text, primary_key=True),
    Column("graph", Text, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("parent_thread_id", Text),
    Column("parent_step", BigInteger),
    Column("called_by", Text),
    Column("lease_owner", Text),
    Column("lease_since", Text),
    Column("lease_expires_at", Text),
    Column("wake_at", Text),
    Column("created_at", Text, nullable=False),
    Column("updated_at", Text, nullable=False),
    Column("metadata", LargeBinary, nullable=False),
    Column("queue", Text),
)
Index(None, threads.c.updated_at)
Index(None, threads.c.status, threads.c.updated_at)
# For workers and `recover`. Not with the graph in front: SQLite would then sort all threads of a graph for a page.
Index(None, threads.c.status, threads.c.graph, threads.c.updated_at)
Index(None, threads.c.called_by)
Index(None, threads.c.parent_thread_id)

snapshots = Table(
    "snapshots",
    metadata,
    Column("thread_id", Text, primary_key=True),
    Column("step", BigInteger, primary_key=True, autoincrement=False),
    Column("state", LargeBinary, nullable=False),
)

# What stands for the rows that were cut off the beginning of a log. Not a cache: its state is nowhere else any more.
stubs = Table(
    "stubs",
    metadata,
    Column("thread_id", Text, primary_key=True),
    Column("step", BigInteger, nullable=False),
    Column("parent_hash", LargeBinary, nullable=False),
    Column("state", LargeBinary, nullable=False),
    Column("pruned_at", Text, nullable=False),
    Column("actor", Text),
    Column("hash", LargeBinary, nullable=False),
)

signals = Table(
    "signals",
    metadata,
    Column("thread_id", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("value", LargeBinary, nullable=False),
)

# Not of the log: what nodes with a cache policy returned. Any row of it may be deleted at any time.
cache = Table(
    "cache",
    metadata,
    Column("namespace", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("value", LargeBinary, nullable=False),
    Column("expires_at", Text),
)
Index(None, cache.c.expires_at)

# Alembic's own table, in Alembic's shape, for files that get their schema without Alembic.
version = Table(VERSION_TABLE, MetaData(), Column("version_num", String(32), primary_key=True, nullable=False))
version.primary_key.name = f"{VERSION_TABLE}_pkc"


def creation(dialect: Dialect) -> list[str]:
    """The SQL that gives an empty database the newest schema."""
    tables = metadata.sorted_tables
    indexes = sorted((index for table in tables for index in table.indexes), key=lambda index: str(index.name))
    stamp = (
        insert(version).values(version_num=REVISION).compile(dialect=dialect, compile_kwargs={"literal_binds": True})
    )
    return [
        *(str(CreateTable(table).compile(dialect=dialect)) for table in tables),
        *(str(CreateIndex(index).compile(dialect=dialect)) for index in indexes),
        str(CreateTable(version, if_not_exists=True).compile(dialect=dialect)),  # a downgrade leaves it behind
        str(stamp),
    ]
