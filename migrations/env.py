"""What Alembic runs around the migrations.

`durable_graph.store.migrate` gives it a connection, locked and in a transaction.
"""

from alembic import context
from sqlalchemy import Connection, inspect

from durable_graph.store.tables import metadata
from durable_graph.store.version import APPLICATION_ID, VERSION_TABLE


def run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=metadata,
        version_table=VERSION_TABLE,
        render_as_batch=True,  # SQLite's ALTER TABLE cannot do much: Alembic then copies the table
    )
    with context.begin_transaction():
        context.run_migrations()
    if connection.dialect.name == "sqlite":
        label(connection, context.get_context().get_current_revision())


def label(connection: Connection, revision: str | None) -> None:
    """Say in the file's header what it is, unless it is an application's that has our tables beside its own."""
    owner = connection.exec_driver_sql("PRAGMA application_id").scalar_one()
    tables = set(inspect(connection).get_table_names())
    if owner == APPLICATION_ID or (owner == 0 and tables <= {VERSION_TABLE, *metadata.tables}):
        connection.exec_driver_sql(f"PRAGMA application_id={APPLICATION_ID}")
        connection.exec_driver_sql(f"PRAGMA user_version={int(revision or 0)}")


run(context.config.attributes["connection"])
