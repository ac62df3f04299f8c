"""A log in partitions is the same log: laid out with all its rows, under whoever writes, and back.

The contract of the store, and all tests that take `database_url`, run on one as well: slow, see `conftest.py`.
"""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, closing
from typing import Any

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.operations import Operations
from click.testing import CliRunner
from conftest import PARTITIONS, connected, engine_url
from sqlalchemy import BigInteger, Column, Text, create_engine, make_url
from test_migrations import schema
from test_store_contract import begin, race, row, steps

from durable_graph import Log
from durable_graph.cli import main
from durable_graph.errors import ArgumentError, FencedError, SchemaError, StoreError
from durable_graph.store import Signal, migrate
from durable_graph.store.partitions import SPLIT
from durable_graph.store.sql import SqlStore
from durable_graph.store.tables import metadata
from durable_graph.store.texts import MARKS, Statement, texts
from durable_graph.store.version import SCHEMA_VERSION, VERSION_TABLE
from tests.graphs import PATIENCE, Calls, Runner, at, chain, snapshot_each_barrier

THREADS = [f"thread-{number}" for number in range(12)]


def asked(url: str) -> AbstractContextManager[psycopg.Connection[Any]]:
    return connected(make_url(url))


def everything(url: str) -> dict[str, list[Any]]:
    with asked(url) as connection:
        return {name: sorted(connection.execute(f"SELECT * FROM {name}"), key=repr) for name in metadata.tables}


def used(url: str) -> list[int]:
    """How many rows each partition has."""
    with asked(url) as connection:
        names = connection.execute(
            "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'checkpoints'::regclass"
        )
        return [connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for (name,) in names.fetchall()]  # type: ignore[index]


def stored(url: str) -> int:
    """Bytes, by looking at every table that holds something."""
    with asked(url) as connection:
        every = "SELECT sum(pg_total_relation_size(oid)) FROM pg_class WHERE relkind = 'r' AND relname <> %s"
        (size,) = connection.execute(f"{every} AND relnamespace = current_schema()::regnamespace", [VERSION_TABLE])
        return int(size[0])


def fill(url: str) -> None:
    with closing(SqlStore(url)) as store:
        for name in THREADS:
            begin(store, name, steps=5)
            large = bytes(range(256)) * 200  # kept outside of its row
            store.append([row(5, thread_id=name, body=large)], snapshot=large[::-1])
            store.send(Signal(name, f"{name}-1", "go", b"{}"))


# --- laid out anew ------------------------------------------------------------------------------


def test_a_filled_log_is_laid_out_and_back(postgres_url: str) -> None:
    fill(postgres_url)
    before, plain = everything(postgres_url), schema(postgres_url)
    for number in (4, 2, 0):
        migrate.upgrade(postgres_url, number)
        assert migrate.layout(postgres_url) == number
        assert len([rows for rows in used(postgres_url) if rows]) == number  # threads in each
        assert everything(postgres_url) == before
    assert schema(postgres_url) == plain


def test_a_new_database_is_partitioned_from_the_start(empty_postgres_url: str) -> None:
    migrate.upgrade(empty_postgres_url, 4)
    assert migrate.current(empty_postgres_url) == (SCHEMA_VERSION, SCHEMA_VERSION)
    fill(empty_postgres_url)
    assert sum(used(empty_postgres_url)) == 6 * len(THREADS)
    migrate.upgrade(empty_postgres_url)  # without a number the layout stays
    assert migrate.layout(empty_postgres_url) == 4


def test_up_and_down_and_up(empty_postgres_url: str) -> None:
    migrate.upgrade(empty_postgres_url, 4)
    migrate.downgrade(empty_postgres_url, "0001")
    migrate.upgrade(empty_postgres_url)
    assert (migrate.layout(empty_postgres_url), migrate.current(empty_postgres_url)[0]) == (4, SCHEMA_VERSION)
    migrate.downgrade(empty_postgres_url, "base")
    with asked(empty_postgres_url) as connection:
        assert connection.execute("SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = "
                                  "current_schema()::regnamespace").fetchall() == [(VERSION_TABLE,)]  # fmt: skip
    migrate.upgrade(empty_postgres_url, 4)
    assert migrate.layout(empty_postgres_url) == 4


def test_the_head_is_the_metadata(partitioned_url: str) -> None:
    engine = create_engine(engine_url(partitioned_url))
    ours = {"version_table": VERSION_TABLE, "compare_type": True, "include_name": _is_no_partition}
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection, opts=ours), metadata) == []
    engine.dispose()


def _is_no_partition(name: str | None, kind: str, parents: Any) -> bool:
    return kind != "table" or "_of_" not in str(name)


def test_later_migrations_need_not_know(partitioned_url: str) -> None:
    """What a migration may do to a table it does to all partitions; and the layout changes with what it did."""
    fill(partitioned_url)
    engine = create_engine(engine_url(partitioned_url))
    with engine.begin() as connection:
        op = Operations(MigrationContext.configure(connection))
        op.add_column("checkpoints", Column("note", Text, server_default="none"))
        op.add_column("checkpoints", Column("given", BigInteger))
        op.drop_column("checkpoints", "given")
        op.alter_column("checkpoints", "note", nullable=False)
        op.create_index("ix_checkpoints_run_id", "checkpoints", ["run_id"])
        op.execute("UPDATE checkpoints SET note = 'one' WHERE step = 1")
    engine.dispose()
    before = everything(partitioned_url)
    assert before["checkpoints"][1][-1] == "one"
    for number in (2, 0):
        migrate.upgrade(partitioned_url, number)
        assert everything(partitioned_url) == before
        with asked(partitioned_url) as connection:
            (index,) = connection.execute("SELECT pg_get_indexdef('ix_checkpoints_run_id'::regclass)").fetchone()  # type: ignore[misc]
            assert index.endswith("checkpoints USING btree (run_id)")
            assert connection.execute("SELECT bool_and(indisvalid) FROM pg_index").fetchone() == (True,)


def test_what_a_table_has_beside_rows_comes_along(postgres_url: str) -> None:
    role = make_url(postgres_url).query["application_name"]
    with asked(postgres_url) as connection:
        connection.execute(f'CREATE ROLE {role} LOGIN; CREATE ROLE "{role} 2"')
        try:
            connection.execute("ALTER TABLE checkpoints SET (autovacuum_freeze_max_age = 100000000, fillfactor = 90)")
            connection.execute("COMMENT ON COLUMN checkpoints.step IS 'the place'")
            connection.execute(
                f"GRANT USAGE, CREATE ON SCHEMA {role} TO {role}; ALTER TABLE checkpoints OWNER TO {role}"
            )
            connection.execute(
                f'GRANT SELECT, INSERT ON checkpoints TO "{role} 2"; GRANT SELECT ON checkpoints TO PUBLIC'
            )
            connection.execute(f'ALTER DEFAULT PRIVILEGES IN SCHEMA {role} GRANT ALL ON TABLES TO "{role} 2"')
            about = """SELECT relacl::text, pg_get_userbyid(relowner), obj_description(oid),
                       col_description(oid, 2) FROM pg_class WHERE oid = 'checkpoints'::regclass"""
            before = connection.execute(about).fetchone()
            migrate.upgrade(postgres_url, 3)
            assert connection.execute(about).fetchone() == before
            parts = connection.execute("""SELECT pg_get_userbyid(relowner), reloptions, (SELECT count(*) FROM
                aclexplode(relacl) WHERE grantee <> relowner) FROM pg_class JOIN pg_inherits ON inhrelid = pg_class.oid
                WHERE inhparent = 'checkpoints'::regclass""").fetchall()
            options = ["autovacuum_freeze_max_age=100000000", "fillfactor=90"]
            assert parts == [(role, options, 0)] * 3  # nobody gets round the table's rights through a partition
            migrate.upgrade(postgres_url, 0)
            assert connection.execute(about).fetchone() == before
            assert connection.execute(
                "SELECT reloptions FROM pg_class WHERE oid = 'checkpoints'::regclass"
            ).fetchone() == (options,)
        finally:
            connection.execute(f'DROP OWNED BY {role}, "{role} 2" CASCADE; DROP ROLE {role}; DROP ROLE "{role} 2"')


@pytest.mark.parametrize(
    ("stranger", "said"),
    [
        ("CREATE TRIGGER t BEFORE UPDATE ON snapshots EXECUTE FUNCTION tsvector_update_trigger()", "trigger t"),
        ("CREATE POLICY p ON snapshots", "policy p"),
        ("CREATE RULE r AS ON DELETE TO checkpoints DO ALSO NOTHING", "rule r"),
        ("CREATE VIEW v AS SELECT body FROM checkpoints", "other objects depend on it.*Drop what depends"),
    ],
)  # fmt: skip
def test_what_would_be_lost_is_refused(postgres_url: str, stranger: str, said: str) -> None:
    fill(postgres_url)
    with asked(postgres_url) as connection:
        connection.execute(stranger)
    before, tables = everything(postgres_url), schema(postgres_url)
    with pytest.raises(StoreError, match=said):
        migrate.upgrade(postgres_url, 3)
    assert (everything(postgres_url), schema(postgres_url)) == (before, tables)


def test_a_database_of_the_past_stays_as_it_is_when_it_cannot_be_laid_out(empty_postgres_url: str) -> None:
    """One transaction for the schema and its layout."""
    with asked(empty_postgres_url) as connection:
        connection.execute("CREATE TABLE checkpoints_0_of_3 (mine text)")
    with pytest.raises(SchemaError, match="checkpoints_0_of_3"):
        migrate.upgrade(empty_postgres_url, 3)
    assert migrate.current(empty_postgres_url) == (None, SCHEMA_VERSION)


@pytest.mark.parametrize("number", [-1, 1, 1001, True, "4"])
def test_numbers_that_make_no_sense(postgres_url: str, number: Any) -> None:
    with pytest.raises(ArgumentError, match="2 to 1000"):
        migrate.upgrade(postgres_url, number)


@pytest.mark.parametrize("number", [0, 16])
def test_a_file_has_no_partitions(sqlite_url: str, number: int) -> None:
    with pytest.raises(ArgumentError, match="partitions: SQLite has none"):
        migrate.upgrade(sqlite_url, number)
    assert migrate.layout(sqlite_url) == 0


def test_under_those_who_write(postgres_url: str) -> None:
    """Nobody gets an error and no row is lost: who writes waits, and goes on in the new tables."""
    with closing(SqlStore(postgres_url)) as store:
        names = THREADS[:4]
        for name in names:
            begin(store, name)
        done, begun = threading.Event(), threading.Barrier(len(names) + 1)
        failed: list[BaseException] = []

        def write(name: str) -> int:
            for step in range(100_000):
                store.append([row(step, thread_id=name)], snapshot=b"s" if step % 5 == 0 else None)
                if step == 10:
                    begun.wait(PATIENCE)
                if done.is_set():
                    return step
            raise AssertionError("the layout has not changed")

        def lay_out() -> None:
            try:
                begun.wait(PATIENCE)
                for number in (4, 0, 3):
                    migrate.upgrade(postgres_url, number)
            except BaseException as error:
                failed.append(error)
            finally:
                done.set()

        changer = threading.Thread(target=lay_out)
        changer.start()
        last = race(len(names), lambda number: write(names[number]))
        changer.join()
        assert failed == []
        assert [steps(store.rows(name)) for name in names] == [list(range(end + 1)) for end in last]
    assert sum(used(postgres_url)) == sum(end + 1 for end in last)


# --- used ---------------------------------------------------------------------------------------


def numbered(name: str) -> tuple[str, list[str]]:
    statement = Statement(texts("postgresql")[name], MARKS["postgresql"])
    return statement.text % tuple(f"${place}" for place, _ in enumerate(statement.names, start=1)), statement.names


@pytest.mark.parametrize(
    "name", ["rows", "newest_rows", "bodies", "hash", "snapshot", "delete(checkpoints)", "trim(snapshots)"]
)
def test_what_is_of_a_thread_touches_one_partition(partitioned_url: str, name: str) -> None:
    fill(partitioned_url)
    text, names = numbered(name)
    given = {"thread_id": "'thread-3'", "after": "-1", "until": "9", "count": "9", "bytes": "99999", "step": "3"}
    for mode in ("force_custom_plan", "force_generic_plan"):  # the second one leaves them out when it is run
        with asked(partitioned_url) as connection:
            connection.execute(f"SET plan_cache_mode = {mode}")
            connection.execute(f"PREPARE it AS {text}")
            values = ", ".join(given[name] for name in names)
            plan = connection.execute(f"EXPLAIN (ANALYZE, COSTS OFF) EXECUTE it({values})").fetchall()
        lines = [line for (line,) in plan if "_of_" in line and "never executed" not in line]
        assert len({word for line in lines for word in line.split() if "_of_" in word and "pkey" not in word}) == 1, (
            plan
        )


def test_an_append_locks_one_partition(partitioned_url: str) -> None:
    with closing(SqlStore(partitioned_url)) as store:
        begin(store, "thread-3")
    statement = Statement(texts("postgresql")["append"], MARKS["postgresql"])
    values = dict(row(0, thread_id="thread-3")._asdict())
    with asked(partitioned_url) as connection:
        connection.execute("SET plan_cache_mode = force_generic_plan")
        with connection.transaction():
            inserted = connection.execute(*statement.bind(**values))
            assert inserted.rowcount == 1
            locked = connection.execute("""SELECT count(*) FROM pg_locks JOIN pg_inherits ON relation = inhrelid
                WHERE pid = pg_backend_pid() AND inhparent = ANY ('{checkpoints, snapshots}'::regclass[])""").fetchone()
    assert locked == (1,)


def test_the_fence_holds(partitioned_url: str) -> None:
    with closing(SqlStore(partitioned_url)) as store:
        begin(store, "thread-3", steps=2)
        for wrong in (row(1, thread_id="thread-3"), row(2, thread_id="thread-3", epoch=2), row(0, thread_id="none")):
            with pytest.raises(FencedError):
                store.append([wrong])
        assert len(race(8, lambda number: store.append([row(2, thread_id="thread-3", body=b"%d" % number)]))) == 8
        assert steps(store.rows("thread-3")) == [0, 1, 2]


@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_thread_s_life(partitioned_url: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run, broken off, continued, forked, cut, exported, deleted and put back, in several partitions at once."""
    snapshot_each_barrier(monkeypatch)
    calls = Calls()
    with Runner(way, partitioned_url) as run:
        graph = run.compile(chain(run, calls, "abcde"))
        configs = [{"configurable": {"thread_id": name}} for name in THREADS[:6]]
        for config in configs:
            run.first(2, graph, {"log": []}, config)
            assert run.invoke(graph, None, config)["log"] == [*"abcde"]
            run.fork(graph, at(config, 3), f"{config['configurable']['thread_id']}-fork")
        assert calls.count("c") == len(configs)
        fork = {"configurable": {"thread_id": f"{THREADS[0]}-fork"}}
        assert run.invoke(graph, None, fork)["log"] == [*"abcde"]
        lines = list(graph.export_thread(configs[1]))
        assert graph.prune(keep_last=1).cut
        graph.delete_thread(f"{THREADS[1]}-fork")
        graph.delete_thread(THREADS[1])
        assert graph.import_thread(lines).ok
        assert run.history(graph, configs[1])[0].values["log"] == [*"abcde"]
        assert all(report.ok for report in graph.verify_all())
        _, after = graph._stored().vacuum()
        assert after == stored(partitioned_url)
    assert len([rows for rows in used(partitioned_url) if rows]) == PARTITIONS


def test_a_role_that_may_only_add(partitioned_url: str) -> None:
    """Its rights are those of the table; in a partition it has none."""
    role = str(make_url(partitioned_url).query["application_name"])
    mine = make_url(partitioned_url).set(username=role).render_as_string(hide_password=False)
    with asked(partitioned_url) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA {role} TO {role}")
        try:
            for statement in migrate.grants(role):
                connection.execute(statement)
            with Runner("sync", mine) as run:
                graph = run.compile(chain(run, Calls()))
                assert run.invoke(graph, {"log": []}, {"thread_id": "thread-3"}) == {"log": [*"abc"]}
                assert graph.verify({"thread_id": "thread-3"}).ok
            with asked(mine) as app:
                for statement in ("DELETE FROM checkpoints", f"DELETE FROM checkpoints_0_of_{PARTITIONS}"):
                    with pytest.raises(psycopg.errors.InsufficientPrivilege):
                        app.execute(statement)
        finally:
            connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


# --- shown --------------------------------------------------------------------------------------


def test_the_command_line(empty_postgres_url: str, sqlite_url: str) -> None:
    def cli(*arguments: str, code: int = 0) -> str:
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == code, result.output
        return " ".join(result.output.split())

    url = ("--url", empty_postgres_url)
    state = f"has schema {SCHEMA_VERSION} in 4 partitions"
    assert f"now {state}" in cli("db", "upgrade", "--partitions", "4", *url)
    assert f"{state} already" in cli("db", "upgrade", *url)
    assert f"{state}, needed is" in cli("db", "current", *url)
    assert '"partitions": 4' in cli("db", "current", "--json", *url)
    assert "the log in 4 partitions" in cli("doctor", *url, code=7)
    assert cli("db", "upgrade", "--partitions", "0", *url).endswith(f"now has schema {SCHEMA_VERSION}")
    assert "SQLite has none" in cli("db", "upgrade", "--partitions", "4", "--url", sqlite_url, code=2)
    with Log(empty_postgres_url) as log:
        assert log.threads() == []


def test_all_that_is_laid_out_is_by_thread() -> None:
    for name in SPLIT:
        assert metadata.tables[name].primary_key.columns.keys()[0] == "thread_id"
