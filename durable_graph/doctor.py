"""What is wrong with a setup, and the fix: Python, libraries, keys, the database, and the threads in it.

The rule: it looks and changes nothing, not even by making a file, and each look stands alone: what one finds, or fails
on, hides nothing that another would say.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from durable_graph import drivers, leases
from durable_graph.core.chain import read_keys
from durable_graph.core.times import iso
from durable_graph.encryption import VARIABLE
from durable_graph.errors import DurableGraphError, EncryptionKeyError, StoreError
from durable_graph.log import Log
from durable_graph.opening import DEFAULT_URL
from durable_graph.store import Thread
from durable_graph.store.address import Address, SqliteUrl, display, parse_url
from durable_graph.store.databases import database_at

OK, NOTE, WARNING, ERROR = "ok", "note", "warning", "error"

EXTRAS = {  # the module that shows whether it is there, and what needs it
    "postgres": ("psycopg", "databases on Postgres"),
    "encryption": ("cryptography", "encryption at rest"),
    "langchain": ("langchain_core", "messages of langchain-core"),
    "png": ("resvg_py", "pictures as PNG"),
    "server": ("starlette", "durable-graph serve"),
    "otel": ("opentelemetry", "OpenTelemetry"),
}
LIBRARIES = ("sqlalchemy", "alembic", "orjson", "click", "rich")
VARIABLES = {"DURABLE_GRAPH_URL", "DURABLE_GRAPH_KEY", VARIABLE, "DURABLE_GRAPH_TOKEN"}
NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre", "fuse.sshfs", "vboxsf"}
ROOM = 1_000_000_000  # bytes that should be free on a disk
WAL = 1_000_000_000  # bytes that a WAL should not have
NEWEST = 20  # threads that are read, to see whether they can be
IN_LINE = 600.0  # seconds after which a queued thread probably has no worker
LEFT = 3600.0  # seconds after which a thread that nobody runs was probably forgotten
PAGE = 500


class Check(NamedTuple):
    """What was looked at, and what was found."""

    subject: str
    level: str  # ok, note, warning or error
    finding: str
    fix: str = ""


def examine(url: str, source: str = "") -> Iterator[Check]:
    """One after the other. source: where the URL comes from, for people."""
    yield from _guarded("python", _python)
    yield from _guarded("libraries", _libraries)
    yield from _guarded("environment", _environment)
    try:
        parsed = parse_url(url)
    except DurableGraphError as error:
        yield Check("database", ERROR, str(error))
        return
    yield Check("database", OK, f"{display(parsed)}{f' ({source})' if source else ''}")
    yield from _guarded("extras", lambda: _extras(parsed))
    looks = [_file, _schema, _sqlite] if isinstance(parsed, SqliteUrl) else [_schema, _postgres]
    usable = True
    for look in looks:
        for check in _guarded("database", lambda look=look: look(parsed)):  # type: ignore[misc]
            usable = usable and check.level != ERROR
            yield check
        if not usable:
            return
    if isinstance(parsed, SqliteUrl) and not Path(parsed.database).exists():
        return
    with Log(url) as log:
        yield from _guarded("keys", lambda: _readable(log))
        yield from _guarded("threads", lambda: _threads(log))


def _guarded(subject: str, look: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    try:
        yield from look()
    except StoreError as error:
        yield Check(subject, ERROR, str(error))
    except Exception as error:  # a look that fails must not hide what others find
        yield Check(subject, WARNING, f"could not be looked at: {type(error).__name__}: {error}")


# --- this machine -----------------------------------------------------------------------------


def _python() -> Iterator[Check]:
    told = f"{platform.python_implementation()} {platform.python_version()} in {sys.prefix}"
    yield Check("python", OK, told) if sys.version_info >= (3, 11) else _old_python(told)
    name = f"{platform.system()} {platform.machine()}"
    yield Check("system", OK if os.name == "posix" else NOTE, name)


def _old_python(told: str) -> Check:
    return Check("python", ERROR, told, "Install Python 3.11 or newer.")


def _libraries() -> Iterator[Check]:
    found = {name: _version(name) for name in ("durable-graph", *LIBRARIES)}
    told = ", ".join(f"{name} {version or 'missing'}" for name, version in found.items())
    missing = [name for name in LIBRARIES if found[name] is None]
    fix = "pip install --force-reinstall durable-graph" if missing else ""
    yield Check("libraries", ERROR if missing else OK, f"{told}, SQLite {sqlite3.sqlite_version}", fix)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _extras(url: Address) -> Iterator[Check]:
    wanted = {"postgres"} if not isinstance(url, SqliteUrl) else set()
    wanted |= {"encryption"} if os.environ.get(VARIABLE) else set()
    here = [extra for extra, (module, _) in EXTRAS.items() if _is_installed(module)]
    missing = [extra for extra in EXTRAS if extra not in here]
    yield Check("extras", OK, f"installed: {', '.join(here) or 'none'}")
    for extra in missing:
        level = ERROR if extra in wanted else NOTE
        yield Check("extras", level, f"{extra} is not installed, for {EXTRAS[extra][1]}", _install(extra))


def _install(extra: str) -> str:
    return f'pip install "durable-graph[{extra}]"'


def _is_installed(module: str) -> bool:
    from importlib.util import find_spec

    return find_spec(module) is not None


def _environment() -> Iterator[Check]:
    given = {name: value for name, value in os.environ.items() if name.startswith("DURABLE_GRAPH_")}
    for name in sorted(given.keys() - VARIABLES):
        if not name.startswith("DURABLE_GRAPH_TEST"):
            fix = f"Known are {', '.join(sorted(VARIABLES))}."
            yield Check("environment", WARNING, f"${name} means nothing to this version", fix)
    keys = read_keys(None, given.get("DURABLE_GRAPH_KEY"))
    if keys:
        yield Check("keys", OK, f"{len(keys)} for the hash chain")
        if any(len(key) < 16 for key in keys):
            fix = "Take one that nobody guesses: openssl rand -base64 32"
            yield Check("keys", WARNING, "one for the hash chain is shorter than 16 characters", fix)
    else:
        fix = "Set $DURABLE_GRAPH_KEY, if somebody who can write to the database must not be able to forge a log."
        yield Check("keys", NOTE, "none for the hash chain: verify finds accidents and simple changes", fix)


# --- the database -----------------------------------------------------------------------------


def _schema(url: Address) -> Iterator[Check]:
    if isinstance(url, SqliteUrl) and not Path(url.database).exists():
        return
    from durable_graph.store import migrate

    have, needed = migrate.current(str(url) if isinstance(url, SqliteUrl) else url)
    if have == needed:
        number = 0 if isinstance(url, SqliteUrl) else migrate.layout(url)
        yield Check("schema", OK, f"version {have}{f', the log in {number} partitions' if number else ''}")
    else:
        yield Check("schema", ERROR, f"version {have or 'none'}, needed is {needed}", "durable-graph db upgrade")


def _file(url: SqliteUrl) -> Iterator[Check]:
    path = Path(url.database)
    folder = path.parent
    if not folder.is_dir():
        yield Check("file", ERROR, f"there is no folder {folder}", f"mkdir -p {folder}")
        return
    if not path.exists():
        yield Check("file", NOTE, "it is not there yet", "durable-graph run, or a graph's first run, makes it.")
    else:
        sizes = {p: p.stat().st_size for p in (path, Path(f"{path}-wal")) if p.exists()}
        yield Check("file", OK, f"{sizes[path]:,} bytes, its WAL {sizes.get(Path(f'{path}-wal'), 0):,}")
        if sizes.get(Path(f"{path}-wal"), 0) > WAL:
            fix = "Somebody has been reading for long: end that, and commits make it smaller."
            yield Check("file", WARNING, "its WAL is large", fix)
    if not os.access(folder, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
        fix = "Give yourself the right to write the file and its folder, in which SQLite makes two others."
        yield Check("file", WARNING, "it can be read only: nothing can run", fix)
    yield from _disk(folder)


def _disk(folder: Path) -> Iterator[Check]:
    usage = shutil.disk_usage(folder)
    told = f"{usage.free:,} bytes free"
    short = usage.free < min(ROOM, usage.total // 20)
    fix = "Make room: durable-graph prune --vacuum, or a larger disk." if short else ""
    yield Check("disk", WARNING if short else OK, told, fix)
    kind = _file_system(folder.resolve())
    if kind in NETWORK:
        fix = "Move the file to a local disk, or use Postgres: locks over a network cannot be relied upon."
        yield Check("disk", ERROR, f"the file is on a network file system ({kind})", fix)
    elif kind in ("tmpfs", "ramfs"):
        yield Check("disk", WARNING, f"the file is in memory ({kind}) and gone after a restart", "Move it to a disk.")


def _file_system(folder: Path, mounts: Path = Path("/proc/mounts")) -> str:
    """By the longest mount point above the folder; "" where that is not known."""
    try:
        lines = [line.split() for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError:
        return ""
    found = ("", "")
    for _, point, kind, *_ in lines:
        point = point.replace("\\040", " ")
        if folder.is_relative_to(point) and len(point) >= len(found[0]):
            found = (point, kind)
    return found[1]


def _sqlite(url: SqliteUrl) -> Iterator[Check]:
    path = Path(url.database)
    synchronous = str(url.query.get("synchronous", "FULL")).upper()
    if synchronous == "NORMAL":
        fix = "Leave ?synchronous=NORMAL out of the URL, if that matters."
        yield Check("durability", NOTE, "synchronous=NORMAL: a power cut may take the last moments", fix)
    else:
        yield Check("durability", OK, f"synchronous={synchronous}: each step is on the disk before it is seen")
    if not path.exists():
        return
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
    fix = "" if mode == "wal" else "The next run switches it, if its file system can share memory."
    yield Check("durability", OK if mode == "wal" else WARNING, f"journal_mode={mode}", fix)


def _postgres(url: Any) -> Iterator[Check]:
    database = database_at(url)
    try:
        with database.reader() as connection:
            settings = dict(connection.execute(_SETTINGS).fetchall())
            before = time.time()
            (there,) = connection.execute("SELECT extract(epoch FROM clock_timestamp())::float8").fetchone()
            after = time.time()
            (is_replica, read_only) = connection.execute(_READ_ONLY).fetchone()
    except Exception as error:
        database.raise_ours(error)
    finally:
        database.close()
    yield Check("server", OK, f"Postgres {settings.get('server_version')}")
    if read_only == "on":
        what = "a replica, somewhat behind its primary" if is_replica else "read-only"
        yield Check("server", NOTE, f"{what}: threads can be looked at, and nothing can run")
    yield from _postgres_durability(settings)
    yield _clock(float(there) - (before + after) / 2)


_READ_ONLY = "SELECT pg_is_in_recovery(), current_setting('transaction_read_only')"
_SETTINGS = "SELECT name, setting FROM pg_settings WHERE name IN ('server_version', 'fsync', 'full_page_writes')"


def _postgres_durability(settings: Mapping[str, str]) -> Iterator[Check]:
    for name in ("fsync", "full_page_writes"):
        if settings.get(name) == "off":
            fix = f"Set {name} = on in postgresql.conf."
            yield Check("durability", WARNING, f"{name} is off: a crash of the server may lose or damage rows", fix)
    if "off" not in settings.values():
        yield Check("durability", OK, "fsync is on; the library asks for synchronous commits")


def _clock(ahead: float) -> Check:
    """Leases are judged by each host's own clock."""
    told = f"that of the server is {abs(ahead):.1f} seconds {'ahead' if ahead > 0 else 'behind'}"
    if abs(ahead) < 2:
        return Check("clock", OK, told)
    level = ERROR if abs(ahead) > leases.SECONDS / 3 else WARNING
    return Check("clock", level, told, "Let all hosts take their time from NTP: leases of 60 seconds depend on it.")


# --- what is in it ----------------------------------------------------------------------------


def _readable(log: Log) -> Iterator[Check]:
    """The newest threads, whether they can be read with these keys."""
    if log.encryption_key_ids:
        yield Check("keys", OK, f"{len(log.encryption_key_ids)} for encryption")
    threads = log.threads(limit=NEWEST)
    for thread in threads:
        try:
            log.get_state({"thread_id": thread.thread_id})
        except EncryptionKeyError as error:
            yield Check("keys", ERROR, str(error), f"Set ${VARIABLE}; durable-graph db keys lists what is needed.")
            return
        except DurableGraphError as error:
            yield Check("threads", ERROR, str(error), f"durable-graph verify {thread.thread_id}")


def _threads(log: Log) -> Iterator[Check]:
    counts, dead, stuck, forgotten, late, behind = Counter[str](), Counter[str](), Counter[str](), 0, 0, 0
    now = drivers.clock()
    for thread in _every(log):
        counts[thread.status] += 1
        dead[thread.graph] += thread.status == "running" and thread.called_by is None and _is_dead(thread, now)
        forgotten += thread.status == "pending" and thread.called_by is None and _age(thread, now) > LEFT
        late += thread.status != "queued" and bool(thread.wake_at) and str(thread.wake_at) < iso(now - LEFT)
        due = thread.wake_at or thread.updated_at
        stuck[thread.graph] += thread.status == "queued" and due < iso(now - IN_LINE)
        behind += _age(thread, now) < -leases.SECONDS
    told = ", ".join(f"{count} {status}" for status, count in counts.most_common())
    yield Check("threads", OK, told or "none yet")
    for graph, count in (+dead).items():
        fix = f"durable-graph recover MODULE:GRAPH (of the graph {graph!r})"
        yield Check("threads", WARNING, f"{count} of {graph!r} were running when their process died", fix)
    for graph, count in (+stuck).items():
        fix = f"Start durable-graph worker MODULE:GRAPH (of the graph {graph!r}), or more of them."
        yield Check("threads", WARNING, f"{count} of {graph!r} have been waiting for a worker for ten minutes", fix)
    if forgotten:
        fix = "durable-graph threads --status pending --older-than 1h, then resume."
        yield Check("threads", NOTE, f"{forgotten} were left over an hour ago before they had finished", fix)
    if late:
        fix = "durable-graph threads --status waiting, then resume: something has to continue them at their time."
        yield Check("threads", WARNING, f"{late} have been able to go on for over an hour, and nobody does", fix)
    if behind:
        fix = "Let all hosts take their time from NTP."
        yield Check("clock", WARNING, f"{behind} threads were changed in the future, by this host's clock", fix)


def _every(log: Log) -> Iterator[Thread]:
    last = None
    while page := log.threads(after=last, limit=PAGE):
        yield from page
        last = page[-1]


def _is_dead(thread: Thread, now: float) -> bool:
    owner = thread.lease_owner
    return not owner or (thread.lease_expires_at or "") <= iso(now) or not leases.alive(owner)


def _age(thread: Thread, now: float) -> float:
    try:
        return now - datetime.fromisoformat(thread.updated_at).timestamp()
    except ValueError:
        return 0.0


def source_of(given: str | None) -> tuple[str, str]:
    """The URL that a command means, and where it comes from."""
    if given:
        return given, "--url"
    if set_url := os.environ.get("DURABLE_GRAPH_URL"):
        return set_url, "$DURABLE_GRAPH_URL"
    return DEFAULT_URL, "by default"


def worst(checks: list[Check]) -> str:
    return max((check.level for check in checks), key=(OK, NOTE, WARNING, ERROR).index, default=OK)
