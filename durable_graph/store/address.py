"""Where a database is: its URL, read and shown.

The rule: what cannot be used is refused here, by name, and never quoted whole: a URL may hold a password.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import parse_qsl, quote, unquote, urlencode

from durable_graph.errors import ArgumentError

if TYPE_CHECKING:
    from sqlalchemy import URL

SYNCHRONOUS = ("FULL", "EXTRA", "NORMAL")  # not OFF: after a power cut the file may be damaged, not only shorter
POOL_SIZE = 8  # connections of one process to Postgres, which allows 100 in all unless told otherwise; ?pool_size=

Options: TypeAlias = Mapping[str, str | tuple[str, ...]]  # several values: an option was given more than once


@dataclass(frozen=True)
class SqliteUrl:
    """A file and its options, under the names that they have in SQLAlchemy's URL."""

    database: str  # an absolute path
    query: Options

    def __str__(self) -> str:
        options = urlencode(sorted(self.query.items()), doseq=True)
        return f"sqlite:///{quote(self.database, safe=' +/')}" + (f"?{options}" if options else "")


Address: TypeAlias = "SqliteUrl | URL"


def parse_url(url: str | URL) -> Address:
    """The URL with its driver spelled out and an absolute path, or an ArgumentError that does not quote it: it may
    hold a password."""
    if isinstance(url, str) and (found := _SQLITE.fullmatch(url)):
        host, path, options = found.groups(default="")
        return _sqlite_url(host, unquote(path), _options(options))
    from durable_graph.store.engines import read_url  # late: it imports SQLAlchemy

    parsed = read_url(url)
    if parsed is None:
        raise _wrong_url(
            "cannot be read as a database URL",
            "Write sqlite:///runs.db, or postgresql+psycopg://user:password@host/database with special characters"
            " in the password percent-encoded.",
        )
    if parsed.drivername in ("sqlite", "sqlite+pysqlite"):
        return _sqlite_url(parsed.host, parsed.database, parsed.query)
    if parsed.drivername in ("postgresql", "postgresql+psycopg", "postgres"):
        pool_size_of(parsed)
        prepares(parsed)
        return parsed.set(drivername="postgresql+psycopg")
    raise _wrong_url(
        f"{parsed.drivername!r} is no database this library knows",
        "Use sqlite:///… or postgresql+psycopg://… (psycopg 3 is the only driver for Postgres).",
    )


_SQLITE = re.compile(r"sqlite(?:\+pysqlite)?://([^/?@]*)(?:/([^?]*))?(?:\?(.*))?", re.DOTALL)


def _options(text: str) -> Options:
    options: dict[str, str | tuple[str, ...]] = {}
    for name, value in parse_qsl(text):
        options[name] = (*options[name], value) if name in options else value
    return options


def _sqlite_url(host: str | None, path: str | None, options: Options) -> SqliteUrl:
    if host:
        raise _wrong_url(f"{host!r} stands where a host would", "A path follows three slashes: sqlite:///runs.db")
    if not path or path == ":memory:":
        raise _wrong_url(
            "is a database in memory, and nothing in it would survive",
            "Name a file, sqlite:///runs.db, or use compile(checkpointer=False).",
        )
    if unknown := sorted(options.keys() - {"synchronous", "timeout"}):
        raise _wrong_url(f"{unknown[0]!r} is no option of SQLite here", "Options are synchronous and timeout.")
    return SqliteUrl(str(Path(path).absolute()), options)


def synchronous_of(url: SqliteUrl) -> str:
    given = url.query.get("synchronous", "FULL")
    if isinstance(given, str) and given.upper() in SYNCHRONOUS:
        return given.upper()
    raise _wrong_url(f"synchronous={given!r} is not possible", f"Choose one of {', '.join(SYNCHRONOUS)}.")


def timeout_of(url: SqliteUrl) -> float:
    given = url.query.get("timeout", "5")
    with suppress(TypeError, ValueError):
        seconds = float(given)  # type: ignore[arg-type]  # a tuple, when given twice, is a TypeError
        if seconds >= 0 and math.isfinite(seconds):
            return seconds
    raise _wrong_url(f"timeout={given!r} is not possible", "Give seconds: ?timeout=5")


def pool_size_of(url: URL) -> int:
    given = url.query.get("pool_size", str(POOL_SIZE))
    if isinstance(given, str) and given.isdecimal() and 1 <= int(given) <= 1000:
        return int(given)
    raise _wrong_url(f"pool_size={given!r} is not possible", "Give a number of connections: ?pool_size=4")


def prepares(url: URL) -> bool:
    """Whether statements are prepared. A pooler that gives each transaction another connection may not know them."""
    given = url.query.get("prepare", "on")
    if given in ("on", "off"):
        return given == "on"
    raise _wrong_url(f"prepare={given!r} is not possible", "Write ?prepare=off, or leave it out.")


def _wrong_url(problem: str, fix: str) -> ArgumentError:
    return ArgumentError(argument="database URL", problem=problem, fix=fix)


def display(url: Address) -> str:
    """The URL for messages: no password, in the query neither."""
    if isinstance(url, SqliteUrl):
        return str(url)
    shown = {key: "***" if "password" in key.lower() else value for key, value in url.query.items()}
    return url.set(query=shown).render_as_string(hide_password=True)


def backend_of(url: Address) -> str:
    return "sqlite" if isinstance(url, SqliteUrl) else "postgresql"
