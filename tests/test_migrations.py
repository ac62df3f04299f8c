"""Migrations and tables are compared, not trusted: on both databases, up, down, and by two at once."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from conftest import Script, engine_url, finished
from sqlalchemy import create_engine, inspect, make_url
from test_store_contract import T, begin, row, steps
from test_store_sql import file_of, go, raw

from durable_graph.errors import ArgumentError, SchemaError, StoreUnavailableError
from durable_graph.store import migrate
from durable_graph.store.sql import SqlStore
from durable_graph.store.tables import metadata
from durable_graph.store.version import APPLICATION_ID, REVISION, SCHEMA_VERSION, VERSION_TABLE

OURS = {VERSION_TABLE, *metadata.tables}


@pytest.fixture(params=["sqlite", "postgres"])
def empty_url(request: pytest.FixtureRequest) -> str:
    name = "sqlite_url" if request.param == "sqlite" else "empty_postgres_url"
    url: str = request.getfixturevalue(name)
    return url


def tables(url: str) -> set[str]:
    engine = create_engine(engine_url(url))
    try:
        return set(inspect(engine).get_table_names())
    finally:
        engine.dispose()


def schema(url: str) -> list[tuple[Any, ...]]:
    """All that there is to know of a schema, in the database's own words."""
    with raw(url) as connection:
        if url.startswith("sqlite"):
            found = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master").fetchall()
            found += [connection.execute(f"PRAGMA {each}").fetchone() for each in ("application_id", "user_version")]
            spaced = [tuple(" ".join(str(value).split()).replace("( ", "(") for value in line) for line in found]
            return sorted(spaced)
        columns = """
            SELECT table_name, ordinal_position, column_name, data_type, character_maximum_length, is_nullable,
            column_default FROM information_schema.columns WHERE table_schema = current_schema()"""
        constraints = """
            SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
            WHERE connamespace = current_schema()::regnamespace"""
        indexes = """
            SELECT tablename, indexname, replace(indexdef, schemaname, 'S') FROM pg_indexes
            WHERE schemaname = current_schema()"""
        return [line for query in (columns, constraints, indexes) for line in sorted(connection.execute(query))]


def scripts() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", str(migrate.migrations()))
    return ScriptDirectory.from_config(config)


def test_revisions_are_numbers_in_a_row() -> None:
    newest_first = [revision.revision for revision in scripts().walk_revisions()]
    assert newest_first == [f"{number:04d}" for number in range(SCHEMA_VERSION, 0, -1)]
    assert scripts().get_heads() == [REVISION]


def test_the_head_is_the_metadata(empty_url: str) -> None:
    migrate.upgrade(empty_url)
    engine = create_engine(engine_url(empty_url))
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE, "compare_type": True})
        assert compare_metadata(context, metadata) == []
        assert context.get_current_revision() == REVISION
    engine.dispose()


def test_migrations_make_what_a_new_file_gets(tmp_path: Path) -> None:
    old, new = (f"sqlite:///{tmp_path / name}" for name in ("old.db", "new.db"))
    migrate.upgrade(old)
    with closing(SqlStore(new)) as store:
        store.threads()
    assert schema(old) == schema(new)
    assert (str(APPLICATION_ID),) in schema(old)


def test_migrations_make_what_the_tests_use(
    empty_postgres_url: str, postgres_server: Any, request: pytest.FixtureRequest
) -> None:
    migrate.upgrade(empty_postgres_url)
    migrated = schema(empty_postgres_url)
    migrate.downgrade(empty_postgres_url, "base")
    with raw(empty_postgres_url) as connection:
        connection.execute(f"DROP TABLE {VERSION_TABLE}")
    assert schema(request.getfixturevalue("postgres_url")) == migrated  # the same schema, made the other way


def test_up_and_down_and_up(empty_url: str) -> None:
    assert migrate.current(empty_url) == (None, SCHEMA_VERSION)
    migrate.upgrade(empty_url)
    assert migrate.current(empty_url) == (SCHEMA_VERSION, SCHEMA_VERSION)
    assert tables(empty_url) == OURS
    first = schema(empty_url)
    migrate.downgrade(empty_url, "base")
    assert migrate.current(empty_url) == (None, SCHEMA_VERSION)
    assert tables(empty_url) == {VERSION_TABLE}
    migrate.upgrade(empty_url)
    assert schema(empty_url) == first


def test_an_upgraded_database_is_ready(empty_url: str) -> None:
    migrate.upgrade(empty_url)
    with closing(SqlStore(empty_url)) as store:
        begin(store, steps=2)
        migrate.upgrade(empty_url)  # nothing to do, and nothing lost
        assert steps(store.rows(T)) == [0, 1]


def test_a_file_without_tables_any_more_is_a_new_one(sqlite_url: str) -> None:
    migrate.upgrade(sqlite_url)
    migrate.downgrade(sqlite_url, "base")
    with closing(SqlStore(sqlite_url)) as store:
        begin(store, steps=1)
    assert migrate.current(sqlite_url) == (SCHEMA_VERSION, SCHEMA_VERSION)


def test_looking_makes_no_file(sqlite_url: str) -> None:
    assert migrate.current(sqlite_url) == (None, SCHEMA_VERSION)
    assert not file_of(sqlite_url).exists()


def test_beside_the_tables_of_an_application(empty_url: str) -> None:
    with raw(empty_url) as application:
        application.execute("CREATE TABLE orders (id integer)")
        if empty_url.startswith("sqlite"):
            application.execute("PRAGMA application_id = 42")
            application.execute("PRAGMA user_version = 7")
    migrate.upgrade(empty_url)
    assert tables(empty_url) == {"orders", *OURS}
    with closing(SqlStore(empty_url)) as store:
        begin(store, steps=1)
        store.append([row(1)])
    if empty_url.startswith("sqlite"):  # what says whose file it is stays the application's
        assert {("42",), ("7",)} <= set(schema(empty_url))
    migrate.downgrade(empty_url, "base")
    assert tables(empty_url) == {"orders", VERSION_TABLE}


def test_a_table_of_that_name_stays_as_it_is(empty_url: str) -> None:
    """LangGraph's own store has a table `checkpoints`."""
    with raw(empty_url) as application:
        application.execute("CREATE TABLE checkpoints (id integer)")
    before = schema(empty_url)
    with pytest.raises(SchemaError, match=r"checkpoints.* already exists.*Name another"):
        migrate.upgrade(empty_url)
    assert schema(empty_url) == before


def test_a_newer_schema_is_left_alone(empty_url: str) -> None:
    migrate.upgrade(empty_url)
    with raw(empty_url) as connection:
        connection.execute(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    for change in (migrate.upgrade, lambda url: migrate.downgrade(url, "base")):
        with pytest.raises(SchemaError, match="pip install --upgrade durable-graph"):
            change(empty_url)
    assert migrate.current(empty_url) == (9999, SCHEMA_VERSION)
    assert tables(empty_url) == OURS


def test_a_version_that_there_never_was(sqlite_url: str) -> None:
    with pytest.raises(ArgumentError, match="revision"):
        migrate.downgrade(sqlite_url, "cafe")


def test_no_database() -> None:
    for call in (migrate.upgrade, migrate.current):
        with pytest.raises(StoreUnavailableError, match="Check that the server runs"):
            call("postgresql://u:secret@127.0.0.1:1/db")
        with pytest.raises(StoreUnavailableError, match="does not exist"):
            call("sqlite:////no/such/folder/runs.db") if call is migrate.upgrade else migrate.upgrade(
                "sqlite:////no/x.db"
            )


def test_an_installation_without_migrations(sqlite_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(migrate, "__file__", str(tmp_path / "durable_graph" / "store" / "migrate.py"))
    with pytest.raises(StoreUnavailableError, match="--force-reinstall"):
        migrate.upgrade(sqlite_url)


def test_processes_migrate_at_once(empty_url: str, script: Script) -> None:
    code = """
import sys
import alembic.command
from durable_graph.store import migrate
print("ready", flush=True)
input()
migrate.upgrade(sys.argv[1])
print(migrate.current(sys.argv[1]))
"""
    processes = [script(code, empty_url) for _ in range(3)]
    go(processes)
    assert {finished(process) for process in processes} == {f"({SCHEMA_VERSION}, {SCHEMA_VERSION})\n"}
    assert tables(empty_url) == OURS


def test_who_comes_second_waits(empty_url: str, script: Script) -> None:
    """On a database with a schema, where the lock is there to be taken."""
    migrate.upgrade(empty_url)
    code = "import sys; from durable_graph.store import migrate; migrate.upgrade(sys.argv[1]); print('done')"
    with raw(empty_url) as first, raw(empty_url) as watcher:
        if empty_url.startswith("sqlite"):
            first.execute("BEGIN IMMEDIATE")
            second = script(code, empty_url)
        else:
            first.execute("BEGIN")
            first.execute(f"LOCK TABLE {VERSION_TABLE} IN EXCLUSIVE MODE")
            second = script(code, empty_url)
            waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = %s"
            while watcher.execute(waits, [make_url(empty_url).query["application_name"]]).fetchone() == (0,):
                assert second.poll() is None, second.communicate()
                time.sleep(0.01)
        assert second.poll() is None
        first.execute("COMMIT")
    assert finished(second) == "done\n"
