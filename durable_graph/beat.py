"""The beat: one thread of this process that puts off the expiry of every lease its runs hold.

The rule: it is there while a run with a database is under way, and never longer. A renewal that fails is a warning in
the log and is tried again sooner; the run goes on, as its rows are fenced by the epoch and not by the lease.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Sequence

from durable_graph import drivers, leases
from durable_graph.core.times import iso
from durable_graph.store import Store

interval = 20.0  # seconds between two renewals; see leases.SECONDS
retry = 5.0  # after one that failed

_log = logging.getLogger("durable_graph.leases")
_lock = threading.RLock()  # re-entrant: a generator that is collected while we hold it lets its lease go
_kept: dict[str, tuple[Store, str]] = {}  # by owner: where the lease is, and of which thread
_thread: _Beat | None = None


def keep(owner: str, store: Store, thread_id: str) -> None:
    """Renew this lease until it is let go. Until it is claimed, and once somebody else has it, that does nothing."""
    with _lock:
        _kept[owner] = store, thread_id
        _start()


def let_go(owner: str) -> threading.Thread | None:
    """Returns the thread if this was its last lease: it ends at once, or when the renewal under way is done."""
    global _thread
    with _lock:
        _kept.pop(owner, None)
        if _kept or _thread is None:
            return None
        ending, _thread = _thread, None
    ending.stop.set()
    return None if ending is threading.current_thread() else ending


def _start() -> None:
    global _thread
    if _thread is not None or not _kept:
        return
    thread = _Beat()
    try:
        thread.start()
    except RuntimeError as error:  # too many threads, or the interpreter is about to end
        _log.warning("leases are not renewed (%s): other hosts may take over after %g s", error, leases.SECONDS)
        return
    _thread = thread


class _Beat(threading.Thread):
    def __init__(self) -> None:
        # A daemon: an iterator that is still open when the program ends must not keep it from ending.
        super().__init__(name="durable_graph_beat", daemon=True)
        self.stop = threading.Event()

    def run(self) -> None:
        pause = interval
        while not self.stop.wait(pause):
            pause = interval if renew_all() else retry


def renew_all() -> bool:
    """Renew what is held now, with one statement for each store. Returns False if one of them failed."""
    with _lock:
        held = list(_kept.items())
    by_store: dict[int, tuple[Store, list[tuple[str, str]]]] = {}
    for owner, (store, thread_id) in held:
        by_store.setdefault(id(store), (store, []))[1].append((thread_id, owner))
    renewed = [_renew(*each) for each in by_store.values()]  # also those after one that failed
    return all(renewed)


def _renew(store: Store, held: Sequence[tuple[str, str]]) -> bool:
    try:
        store.renew(held, iso(drivers.clock() + leases.SECONDS))
    except Exception as error:  # whatever it is, the beat goes on
        _log.warning("%d leases in %s were not renewed, next try in %g s: %s", len(held), store.name, retry, error)
        return False
    return True


# --- fork(), and the end of the program ---------------------------------------------------------
#
# Where the thread would be cut short while it holds a lock, that lock is held for ever: in a child, and when the
# interpreter ends, for iterators that are closed then. So it ends before. After a fork it begins again in the parent;
# the child begins without leases.


def _end() -> None:
    global _thread
    with _lock:
        ending, _thread = _thread, None
    if ending is not None and ending is not threading.current_thread():
        ending.stop.set()
        ending.join()


def _in_parent() -> None:
    with _lock:
        _start()


def _in_child() -> None:
    global _lock
    _kept.clear()
    _lock = threading.RLock()


atexit.register(_end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_end, after_in_parent=_in_parent, after_in_child=_in_child)
