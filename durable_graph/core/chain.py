"""The hash chain: each row's hash covers all its columns and its parent's hash.

Without a key it is SHA-256 and shows damage; with a key it is HMAC-SHA-256 and shows forgery too. A chain
alone cannot show that its newest rows were cut off: anchor the head elsewhere for that.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import orjson


def row_hash(parent: bytes, columns: tuple[Any, ...], body: bytes, key: bytes | None = None) -> bytes:
    """`columns` are thread_id, step, parent_step, kind, superstep, node, task, run_id, epoch and created_at.

    They are hashed as a JSON array, which quotes them, so that no two different rows give the same bytes; the
    body comes last and needs no quoting. `parent` always has 32 bytes: a thread's first row has 32 zeros as its
    parent's hash.
    """
    content = parent + orjson.dumps(columns) + body
    if key is None:
        return hashlib.sha256(content).digest()
    return hmac.digest(key, content, "sha256")


def stub_hash(row: bytes, stub: tuple[Any, ...], key: bytes | None = None) -> bytes:
    """`row`: the hash of the row that the log begins with now. `stub`: thread_id, step, parent_hash, state and
    pruned_at."""
    thread_id, step, parent_hash, state, pruned_at = stub
    return row_hash(row, ("stub", thread_id, step, parent_hash.hex(), pruned_at), state, key)


NO_PARENT = bytes(32)
