"""Which threads nobody runs any more although they were not done: their process died, or lost its lease."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from durable_graph import drivers, leases
from durable_graph.core.times import iso
from durable_graph.store import Store, Thread

PAGE = 100


class Recovered(NamedTuple):
    """What became of a thread that `recover` has gone on with."""

    thread_id: str
    status: str  # of the thread now: finished, failed, interrupted, waiting, pending; running if it was not begun
    error: Exception | None  # what a node raised, or why the thread could not be continued


def abandoned(store: Store, graph: str) -> Iterator[Thread]:
    """Threads of this graph whose owner is dead or whose lease is over, the oldest first, a page at a time. Another
    process may take one at any moment: that is for the claim to decide."""
    after = ("", "")
    while True:
        page = store.oldest(graph, "running", after=after, limit=PAGE)
        now = iso(drivers.clock())
        yield from (thread for thread in page if is_abandoned(thread, now))
        if len(page) < PAGE:
            return
        after = page[-1].updated_at, page[-1].thread_id


def is_abandoned(thread: Thread, now: str) -> bool:
    owner = thread.lease_owner
    return not owner or (thread.lease_expires_at or "") <= now or not leases.alive(owner)
