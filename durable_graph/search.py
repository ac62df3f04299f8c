"""Finding threads: page by page, the newest change first.

The rule: what a database can look up by an index is asked of it; a text is looked for here, in every page that it
gives, so that it means the same on each database: part of the id or of the metadata, in upper or lower case, literally.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from datetime import timedelta
from itertools import islice
from typing import Any, NamedTuple

from durable_graph import drivers
from durable_graph.core.times import iso
from durable_graph.errors import ArgumentError
from durable_graph.prune import STATUSES
from durable_graph.store import Store, Thread

PAGE = 500  # threads that are looked through at a time


class Filter(NamedTuple):
    """Which threads are wanted."""

    statuses: tuple[str, ...] = ()
    graph: str | None = None
    text: str | None = None
    since: str | None = None  # a time: changed after it
    before: str | None = None


def filter_of(
    status: str | Collection[str] | None,
    graph: str | None,
    text: str | None,
    newer_than: timedelta | float | None,
    older_than: timedelta | float | None,
) -> Filter:
    """Raises ArgumentError."""
    statuses = (status,) if isinstance(status, str) else tuple(status or ())
    for each in statuses:
        if each not in STATUSES:
            fix = f"Choose from {', '.join(STATUSES)}."
            raise ArgumentError(argument="status", problem=f"{each!r} is no status", fix=fix)
    since, before = _ago("newer_than", newer_than), _ago("older_than", older_than)
    return Filter(statuses, graph, text.casefold() if text else None, since, before)


def _ago(argument: str, age: timedelta | float | None) -> str | None:
    if age is None:
        return None
    seconds: object = age.total_seconds() if isinstance(age, timedelta) else age
    if not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
        fix = "Give a timedelta or a number of seconds."
        raise ArgumentError(argument=argument, problem=f"{age!r} is no age", fix=fix)
    return iso(max(drivers.clock() - seconds, 0.0))


def found(store: Store, wanted: Filter, after: Thread | None = None, limit: int | None = None) -> list[Thread]:
    """Those behind `after`, so many at most."""
    if wanted.text is None:
        return _page(store, wanted, after, limit)
    matching = (thread for thread in every(store, wanted, after) if _has(thread, wanted.text))
    return list(islice(matching, None if limit is None else max(limit, 0)))


def every(store: Store, wanted: Filter, after: Thread | None = None) -> Iterator[Thread]:
    """All of them but for the text, a page at a time."""
    while page := _page(store, wanted, after, PAGE):
        yield from page
        after = page[-1]


def _page(store: Store, wanted: Filter, after: Thread | None, limit: int | None) -> list[Thread]:
    return store.threads(
        statuses=wanted.statuses,
        graph=wanted.graph,
        since=wanted.since,
        before=wanted.before,
        after=None if after is None else (after.updated_at, after.thread_id),
        limit=limit,
    )


def _has(thread: Thread, text: str) -> bool:
    return text in thread.thread_id.casefold() or text in _metadata(thread.metadata)


def _metadata(data: Any) -> str:
    """Whatever stands there."""
    return bytes(data).decode(errors="replace").casefold() if isinstance(data, bytes | memoryview) else ""
