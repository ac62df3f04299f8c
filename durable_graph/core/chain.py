"""The hash chain: each row's hash covers all its columns and its parent's hash.

Without a key it is SHA-256 and shows damage; with a key it is HMAC-SHA-256 and shows forgery too. A chain
alone cannot show that its newest rows were cut off: anchor the head elsewhere for that.

Keys rotate: what is new is signed with the first of several keys, and what there is may be signed with any of them.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import Any, TypeAlias

import orjson

from durable_graph.errors import ArgumentError

Key: TypeAlias = bytes | str | Sequence[bytes | str] | None  # as callers give it; several: newest first
Keys: TypeAlias = tuple[bytes, ...]  # none: the chain is not signed


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
    """`row`: the hash of the row that the log begins with now. `stub`: thread_id, step, parent_hash, state, pruned_at
    and actor."""
    thread_id, step, parent_hash, state, pruned_at, actor = stub
    return row_hash(row, ("stub", thread_id, step, parent_hash.hex(), pruned_at, actor), state, key)


NO_PARENT = bytes(32)


def read_keys(given: Key, environment: str | None = None) -> Keys:
    """The keys that were given, else those of the environment, which separates them with commas."""
    if given is None:
        return tuple(key.strip().encode() for key in (environment or "").split(",") if key.strip())
    several: list[Any] = [given] if isinstance(given, bytes | str) else list(given)
    if not all(isinstance(key, bytes | str) and key for key in several):
        raise ArgumentError(
            argument="key",
            problem="a key is empty, or no text or bytes",
            fix="Give a text or bytes, or a list of them, newest first.",
        )
    return tuple(key.encode() if isinstance(key, str) else key for key in several)


def key_id(key: bytes) -> str:
    """A name for a key, from which it cannot be computed."""
    return hmac.digest(key, b"durable_graph: the id of this key", "sha256").hex()[:16]
