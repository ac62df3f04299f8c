"""How the log lies in Postgres: as one table, or in partitions by a hash of the thread.

The rule: the layout is a choice beside the version of the schema. Whoever reads and writes names the same tables in
either, and so does every migration: it changes `checkpoints` as a whole, and uses nothing that only a table in one
piece can do (CREATE INDEX CONCURRENTLY, a unique index without thread_id).

A table cannot become a partitioned one, so each is copied into a new one of its name, and all that it has beside its
rows is given to that: columns as they are, keys, indexes, storage parameters, owner, rights. What cannot be taken along
(triggers, policies, publications) is refused by name. One transaction, in which nobody else reads or writes the log.

    checkpoints, snapshots    by thread, in the same number of partitions: rows of a thread lie together
    all others                stay: a row or so for each thread, found by other columns than its id
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from durable_graph.errors import ArgumentError, SchemaError

SPLIT = ("checkpoints", "snapshots")
MOST = 1000  # each is a table with an index of its own, and a process that reads all of them opens all


def check_partitions(number: int) -> None:
    if type(number) is not int or not (number == 0 or 2 <= number <= MOST):
        fix = f"Give 2 to {MOST}, such as 16, or 0 for tables in one piece."
        raise ArgumentError(argument="partitions", problem=f"{number!r} is no number of partitions", fix=fix)


def partitions(connection: Any) -> int:
    """In how many the log lies; 0 for a table in one piece. Takes a connection of the driver, as all here do."""
    number: int = connection.execute(_PARTITIONS).fetchone()[0]
    return number


def size_of(connection: Any, names: Sequence[str]) -> int:
    """Bytes of these tables, with their partitions, indexes and large values."""
    every = " UNION ALL ".join(_WITH_PARTITIONS.format(name) for name in names)
    size = f"SELECT sum(pg_total_relation_size(part))::bigint FROM ({every}) AS parts(part)"
    return int(connection.execute(size).fetchone()[0])


def split(connection: Any, store: str, number: int) -> None:
    """Lay the log out in so many partitions, 0 for none, in the caller's transaction. Nothing if it is so already."""
    if partitions(connection) == number:
        return
    connection.execute("SET LOCAL statement_timeout = 0")  # a copy takes what it takes
    connection.execute(f"LOCK TABLE {', '.join(SPLIT)} IN ACCESS EXCLUSIVE MODE")
    for name in SPLIT:
        _refuse_what_would_be_lost(connection, store, name)
        _lay_out(connection, name, number)


def _refuse_what_would_be_lost(connection: Any, store: str, name: str) -> None:
    for what in _texts(connection, _STRANGERS, name):
        fix = "Drop it, change the layout, and make it anew."
        raise SchemaError(store=store, problem=f"the table {name} has a {what}, which would be lost", fix=fix)


def _lay_out(connection: Any, name: str, number: int) -> None:
    schema, owner, parameters = connection.execute(_TABLE.format(name)).fetchone()
    old, new = f"{schema}.{name}", f"{schema}.{name}_new"
    keys, indexes, grants = (_texts(connection, query, name) for query in (_KEYS, _INDEXES, _GRANTS))
    parts = [f"{schema}.{name}_{place}_of_{number}" for place in range(number)]
    _run(
        connection,
        *_creation(old, new, parts, f" WITH ({parameters})" if parameters else ""),
        f"INSERT INTO {new} SELECT * FROM {old}",
        f"DROP TABLE {old}",
        f"ALTER TABLE {new} RENAME TO {name}",
        *(f"ALTER TABLE {old} ADD {key}" for key in keys),
        *(index.replace(" ON ONLY ", " ON ", 1) for index in indexes),
        *(f"ALTER TABLE {table} OWNER TO {owner}" for table in (old, *parts)),
    )
    for table in (old, *parts):  # what ALTER DEFAULT PRIVILEGES gives to new tables, this one may not have had
        _run(connection, *_texts(connection, _REVOKES, table))
    _run(connection, *grants, f"ANALYZE {old}")


def _creation(old: str, new: str, parts: Sequence[str], stored: str) -> list[str]:
    like = f"CREATE TABLE {new} (LIKE {old} INCLUDING ALL EXCLUDING INDEXES)"
    if not parts:
        return [like + stored]
    values = [f"MODULUS {len(parts)}, REMAINDER {place}" for place in range(len(parts))]
    return [f"{like} PARTITION BY HASH (thread_id)"] + [
        f"CREATE TABLE {part} PARTITION OF {new} FOR VALUES WITH ({value}){stored}"
        for part, value in zip(parts, values, strict=True)
    ]


def _run(connection: Any, *statements: str) -> None:
    for statement in statements:
        connection.execute(statement)


def _texts(connection: Any, query: str, name: str) -> list[str]:
    return [text for (text,) in connection.execute(query.format(name)).fetchall()]


# --- what the catalog knows of a table --------------------------------------------------------

_PARTITIONS = "SELECT count(*) FROM pg_inherits WHERE inhparent = to_regclass('checkpoints')"

_WITH_PARTITIONS = """
    SELECT '{0}'::regclass UNION ALL SELECT inhrelid FROM pg_inherits WHERE inhparent = '{0}'::regclass"""

# Storage parameters are those of the rows' own tables: where there are partitions, of any of them.
_TABLE = """
    SELECT quote_ident(nspname), quote_ident(pg_get_userbyid(relowner)), array_to_string(coalesce(
        (SELECT min(part.reloptions) FROM pg_class part JOIN pg_inherits ON inhrelid = part.oid
         WHERE inhparent = this.oid), this.reloptions), ', ')
    FROM pg_class this JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE this.oid = '{}'::regclass"""

_KEYS = """
    SELECT format('CONSTRAINT %I %s', conname, pg_get_constraintdef(oid)) FROM pg_constraint
    WHERE conrelid = '{}'::regclass AND contype IN ('p', 'u') ORDER BY conname"""

_INDEXES = """
    SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = '{}'::regclass
    AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid) ORDER BY indexrelid"""

_RIGHTS = """
    FROM pg_class, aclexplode(relacl), coalesce(nullif(grantee, 0)::regrole::text, 'PUBLIC') AS somebody
    WHERE pg_class.oid = '{0}'::regclass AND grantee <> relowner"""

_GRANTS = f"""
    SELECT format('GRANT %s ON %s TO %s%s', privilege_type, '{{0}}', somebody,
        CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END) {_RIGHTS}"""

_REVOKES = f"SELECT DISTINCT format('REVOKE ALL ON %s FROM %s', '{{0}}', somebody) {_RIGHTS}"

_STRANGERS = """
    SELECT 'trigger ' || tgname FROM pg_trigger WHERE tgrelid = '{0}'::regclass AND NOT tgisinternal
    UNION ALL SELECT 'policy ' || polname FROM pg_policy WHERE polrelid = '{0}'::regclass
    UNION ALL SELECT 'rule ' || rulename FROM pg_rewrite WHERE ev_class = '{0}'::regclass
    UNION ALL SELECT 'place in the publication ' || pubname FROM pg_publication_rel
        JOIN pg_publication ON pg_publication.oid = prpubid WHERE prrelid = '{0}'::regclass"""
