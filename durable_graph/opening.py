"""How a log is opened: its database, its keys, its types; and whose thread a config names.

The rule: nothing is connected to before it is used. A log is told in four chapters, each a class that adds to the one
before:

    Opened     opening.py   a database, and how threads in it are named
    States     states.py    where threads stand: get_state, get_state_history
    Looking    looking.py   what viewers read: threads, timelines, differences, figures
    Log        log.py       what happened: replay, follow; verify, export, prune; fork, signal
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

from durable_graph.codec import Codec, Storable
from durable_graph.core.address import thread_of
from durable_graph.core.chain import Key, read_keys
from durable_graph.core.config import CallConfig, read_config
from durable_graph.core.model import RECORDED, StreamMode
from durable_graph.core.projection import View
from durable_graph.encryption import VARIABLE, Encryption, EncryptionKey, read_encryption
from durable_graph.errors import ArgumentError, ThreadNotFoundError
from durable_graph.messages import message_types
from durable_graph.store import Cache, Store
from durable_graph.store.sql import SqlStore

Config = Mapping[str, Any]
Modes = StreamMode | Sequence[StreamMode]

DEFAULT_URL = "sqlite:///durable_graph.db"
NO_STORE = "there is no store here; keep what outlives a thread in tables of your own"


def open_store(checkpointer: str | Store | bool | None) -> Store | None:
    """The store that `compile(checkpointer=...)` means. Opens no connection."""
    if checkpointer is False:
        return None
    if checkpointer is None or checkpointer is True:
        checkpointer = os.environ.get("DURABLE_GRAPH_URL") or DEFAULT_URL
    if not isinstance(checkpointer, str):
        return checkpointer
    return SqlStore(checkpointer)


def open_encryption(given: EncryptionKey) -> Encryption | None:
    """What `compile(encryption_key=...)` means."""
    return read_encryption(given, os.environ.get(VARIABLE))


def open_cache(cache: Cache | str | bool | None, checkpointer: Any) -> Cache | bool | None:
    """What `compile(cache=...)` means; True for the database of the run at hand. Opens no connection."""
    if cache is True and checkpointer is False:
        raise ArgumentError(
            argument="cache",
            problem="True means the graph's own database, but checkpointer=False says that there is none",
            fix="Give InMemoryCache(), or a database URL.",
        )
    if isinstance(cache, str):
        return open_store(cache)
    if not (cache is None or isinstance(cache, bool) or hasattr(cache, "recall")):
        raise ArgumentError(
            argument="cache",
            problem=f"{cache!r} is no cache of this library",
            fix="Give True for the graph's own database, InMemoryCache(), a database URL, or an object with recall, "
            "keep, forget and close.",
        )
    return cache


def refuse(where: str, **reasons: tuple[Any, str]) -> None:
    """Arguments of LangGraph's that mean nothing here: (what was given, why it is refused)."""
    for argument, (given, reason) in reasons.items():
        if given is not None:
            raise ArgumentError(argument=argument, problem=f"{where} does not take it: {reason}", fix="Leave it out.")


def inherited(checkpointer: Any) -> bool | None:
    """What `compile(checkpointer=...)` means when the graph is a subgraph: True keeps one thread for all calls of a
    node, False keeps nothing, anything else makes a thread for each call."""
    return checkpointer if isinstance(checkpointer, bool) else None


class Opened:
    """A database of threads. See `Log`."""

    def __init__(
        self,
        url: str | Store | bool | None = None,
        *,
        types: Iterable[Storable] = (),
        key: Key = None,
        encryption_key: EncryptionKey = None,
    ) -> None:
        self._store = open_store(url)
        self._codec = Codec([*RECORDED, *types, *message_types()], open_encryption(encryption_key))
        self._keys = read_keys(key, os.environ.get("DURABLE_GRAPH_KEY"))
        self._key = self._keys[0] if self._keys else None  # what is new is signed with it
        self._config: Config | None = None
        self._view = View()

    def close(self) -> None:
        """Give back the database connections. The graph opens them again when used again."""
        if self._store is not None:
            self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _view_of(self, ns: tuple[str, ...]) -> View:
        """How the subgraph at this place is shown: its graph may not be known here."""
        return View() if ns else self._view

    def _named(self, config: Config) -> CallConfig:
        given = read_config(config, self._config)
        if given.thread_id is None:
            raise ArgumentError(
                argument="config",
                problem="it names no thread",
                fix='Give {"configurable": {"thread_id": ...}}',
            )
        return given

    def _thread(self, config: Config) -> str:
        """The thread that a config names: a subgraph's run is one of its own."""
        given = self._named(config)
        return thread_of(str(given.thread_id), given.ns)

    def _stored(self) -> Store:
        if self._store is None:
            raise ArgumentError(
                argument="checkpointer",
                problem="this graph was compiled with checkpointer=False, so nothing was written",
                fix="Compile it with a database URL.",
            )
        return self._store

    def _existing(self, store: Store, thread_id: str) -> str:
        """The thread's status."""
        thread = store.thread(thread_id)
        if thread is None:
            raise ThreadNotFoundError(thread_id=thread_id, store=store.name)
        return thread.status
