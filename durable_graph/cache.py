"""A cache that may fail without failing the run.

The rule: whatever is in a cache can be made again, so a run that cannot use its cache goes on without it: it calls
the function. It says so once, as a warning of the logger "durable_graph.cache", and leaves the cache alone from then
on, as a server that is down would cost its timeout each time. If the cache is in the graph's own database, and that has
failed, the next row says so with an error.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from durable_graph.store import Cache, Entry

log = logging.getLogger("durable_graph.cache")


class Forgiving:
    """A cache for the time of one run."""

    def __init__(self, cache: Cache) -> None:
        self._cache: Cache | None = cache
        self._name = getattr(cache, "name", type(cache).__name__)

    def recall(self, namespace: str, key: str, *, now: str) -> bytes | None:
        if self._cache is None:
            return None
        try:
            return self._cache.recall(namespace, key, now=now)
        except Exception as error:
            self._give_up(error)
            return None

    def keep(self, entries: Sequence[Entry], *, now: str) -> None:
        if self._cache is None:
            return
        try:
            self._cache.keep(entries, now=now)
        except Exception as error:
            self._give_up(error)

    def forget(self, namespaces: Sequence[str] | None = None) -> None:
        if self._cache is not None:
            self._cache.forget(namespaces)

    def close(self) -> None:
        """It belongs to the graph."""

    def _give_up(self, error: Exception) -> None:
        if self._cache is not None:  # the first task that meets it says so
            self._cache = None
            log.warning("This run goes on without its cache (%s): %s: %s", self._name, type(error).__name__, error)
