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


NO_PARENT = bytes(32)
