"""How new a schema is, and by what a database is known to be ours. Beside `tables.py`, which needs SQLAlchemy."""

SCHEMA_VERSION = 3  # the newest migration is of this number; also SQLite's `user_version`
REVISION = f"{SCHEMA_VERSION:04d}"  # the same for Alembic
APPLICATION_ID = 0x64_67_72_66  # "dgrf": what `file` and SQLite's `application_id` know our files by
VERSION_TABLE = "durable_graph_version"  # not Alembic's default, which an application beside us may use
