"""Iterators that nobody has closed when the program ends: they are closed then, as a `break` would have done.

The rule: that happens while everything still works. Left to the interpreter, they are closed when modules are gone
already: nothing can be imported any more, and the lease cannot be given back to a database.
"""

from __future__ import annotations

import atexit
import inspect
import logging
import os
import weakref
from collections.abc import Generator
from typing import Any

from durable_graph.store import Store

_log = logging.getLogger("durable_graph.run")
_open: weakref.WeakKeyDictionary[Generator[Any], Store | None] = weakref.WeakKeyDictionary()


def add(chunks: Generator[Any], store: Store | None) -> None:
    """Close this at the end of the program, if it is still there and has begun."""
    _open[chunks] = store


def _end() -> None:
    for chunks, store in list(_open.items()):
        # one that runs is another thread's, a daemon, which ends as if it was killed
        if inspect.getgeneratorstate(chunks) != inspect.GEN_RUNNING:
            try:
                chunks.close()
            except Exception as error:
                _log.warning("an iterator that was open at the end of the program was not closed: %s", error)
        if store is not None:
            store.close()


def _in_child() -> None:
    _open.clear()  # what came along is the parent's


weakref.finalize(_open, lambda: None).atexit = False  # what is registered first is called last: those of stores
atexit.register(_end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
