"""Bring a database to the schema this library needs: the only module that knows Alembic.

The rule: one transaction that takes the lock first, so that of two processes one waits, and then finds its work done.
To ask a SQLite file for its version, which each command does, imports nothing else: SQLAlchemy takes longer than that.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from durable_graph.errors import ArgumentError, StoreUnavailableError
from durable_graph.store.address import Address, SqliteUrl, parse_url
from durable_graph.store.database import Database
from durable_graph.store.databases import database_at
from durable_graph.store.partitions import check_partitions, partitions, split
from durable_graph.store.version import REVISION, SCHEMA_VERSION, VERSION_TABLE

if TYPE_CHECKING:
    from sqlalchemy import URL


def current(url: str | URL) -> tuple[int | None, int]:
    """The version of the database's schema, None without one, and the version that this library needs."""
    parsed = parse_url(url)
    if isinstance(parsed, SqliteUrl) and not Path(parsed.database).exists():
        return None, SCHEMA_VERSION  # to look must not make the file
    with _opened(parsed) as database, database.reader() as connection:
        return database.schema_version(connection), SCHEMA_VERSION


def layout(url: str | URL) -> int:
    """In how many partitions the log lies; 0 in one piece, as in every SQLite file."""
    parsed = parse_url(url)
    if isinstance(parsed, SqliteUrl):
        return 0
    with _opened(parsed) as database, database.reader() as connection:
        return partitions(connection)


def upgrade(url: str | URL, number: int | None = None) -> None:
    """To the newest schema, and on Postgres to this number of partitions, 0 for none; None leaves that as it is. Does
    nothing where it is so. Rows stay. To change the number copies all of them, which takes as much room again, and
    lets nobody read or write the log meanwhile."""
    if number is not None:
        check_partitions(number)
        if isinstance(parse_url(url), SqliteUrl):
            fix = "Leave it out, or take Postgres: a file is in one piece."
            raise ArgumentError(argument="partitions", problem="SQLite has none", fix=fix)
    _migrate(url, "upgrade", "head", number)


def downgrade(url: str | URL, revision: str) -> None:
    """Back to an older schema; "base" removes the tables with all that is in them."""
    _migrate(url, "downgrade", revision)


def _migrate(url: str | URL, direction: str, revision: str, number: int | None = None) -> None:
    from sqlalchemy import exc

    with _opened(parse_url(url)) as database:
        # Of two processes that both begin on an empty Postgres, the second one's CREATE TABLE fails as soon as the
        # first has committed. Once more, and it finds the tables.
        with suppress(exc.DBAPIError):
            return _run(database, direction, revision, number)
        return _run(database, direction, revision, number)


def _run(database: Database, direction: str, revision: str, number: int | None) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    with database.schema_change() as connection:
        database.refuse_newer(database.schema_version(connection.connection.driver_connection))
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", str(migrations()).replace("%", "%%"))
        try:
            getattr(command, direction)(config, revision)
        except CommandError as error:
            fix = f'Name a schema version such as "{REVISION}", or "base" for none.'
            raise ArgumentError(argument="revision", problem=str(error), fix=fix) from error
        if number is not None:
            split(connection.connection.driver_connection, database.name, number)


_RIGHTS = {  # of a role that runs graphs and reads their log: it adds rows, and changes or removes none
    "checkpoints": "SELECT, INSERT",
    "threads": "SELECT, INSERT, UPDATE",
    "snapshots": "SELECT, INSERT, UPDATE",
    "signals": "SELECT, INSERT, DELETE",
    "cache": "SELECT, INSERT, UPDATE, DELETE",
}


def grants(role: str) -> list[str]:
    """SQL for Postgres that gives a role all that running graphs takes, and takes from it the right to change or remove
    rows of the log. To be run by the owner of the tables, who alone may delete and prune from then on."""
    from durable_graph.store.tables import metadata

    name = '"' + role.replace('"', '""') + '"'
    tables = [table.name for table in metadata.sorted_tables] + [VERSION_TABLE]
    return [
        statement
        for table in tables
        for statement in (
            f"REVOKE ALL ON {table} FROM {name};",
            f"GRANT {_RIGHTS.get(table, 'SELECT')} ON {table} TO {name};",
        )
    ]


def migrations() -> Path:
    """In a wheel they are inside the package, in a checkout beside it."""
    package = Path(__file__).parents[1]
    for folder in (package / "migrations", package.parent / "migrations"):
        if (folder / "env.py").is_file():
            return folder
    fix = "Install it again: pip install --force-reinstall durable-graph"
    raise StoreUnavailableError(store="durable_graph", problem="its folder of migrations is missing", fix=fix)


@contextmanager
def _opened(url: Address) -> Iterator[Database]:
    database = database_at(url)
    try:
        yield database
    except Exception as error:
        database.raise_ours(error)
    finally:
        database.close()
