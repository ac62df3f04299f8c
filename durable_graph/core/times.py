"""Times as the log writes them: UTC, ISO 8601, microseconds, Z; one width, so that text sorts as time."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache


def iso(seconds: float) -> str:
    """`seconds` since the epoch as text."""
    whole, part = divmod(round(seconds * 1_000_000), 1_000_000)
    return f"{_second(whole)}.{part:06d}Z"


@lru_cache(maxsize=16)  # each step has two times, and most of them share their second
def _second(whole: int) -> str:
    return datetime.fromtimestamp(whole, UTC).isoformat()[:19]


def seconds(text: str) -> float:
    """The inverse of `iso`."""
    return datetime.fromisoformat(text).timestamp()
