"""Which database a URL means, and who shares it.

The rule: all stores of a process that name the same Postgres by the same URL share its connections, so that a process
has as many as `?pool_size=` says, however many graphs it has compiled. A file is opened by each store for itself.
"""

from __future__ import annotations

import threading

from durable_graph.store.address import Address, SqliteUrl
from durable_graph.store.postgres import Postgres
from durable_graph.store.sqlite import Sqlite

_shared: dict[Address, Postgres] = {}
_lock = threading.RLock()  # re-entrant: a store that nobody has any more may give its one back in the midst of anything


def database_at(url: Address) -> Sqlite | Postgres:
    """One of the caller's own."""
    return Sqlite(url) if isinstance(url, SqliteUrl) else Postgres(url)


def borrow(url: Address) -> Sqlite | Postgres:
    """The one that others have at this URL, or another one. To be given back."""
    if isinstance(url, SqliteUrl):
        return Sqlite(url)
    while True:
        with _lock:
            database = _shared.get(url)
            if database is not None:
                database.users += 1
                if not database.closed:
                    return database
                _forget(database)
        another = Postgres(url)  # without the lock: it imports, and whoever imports that just now may wait for us
        with _lock:
            _shared.setdefault(url, another)


def give_back(database: Sqlite | Postgres) -> None:
    """Closes it if nobody else has it."""
    with _lock:
        database.users -= 1
        is_free = database.users <= 0
        if is_free:
            _forget(database)
    if is_free:
        database.close()


def discard(database: Sqlite | Postgres) -> None:
    """Its connections are lost. Closes it for all that have it: they borrow another one."""
    with _lock:
        _forget(database)
    database.close()


def _forget(database: Sqlite | Postgres) -> None:
    for url in [url for url, shared in _shared.items() if shared is database]:
        del _shared[url]


def start_anew() -> None:
    """In a child process, where all of them are the parent's."""
    global _lock
    _lock = threading.RLock()
    _shared.clear()
