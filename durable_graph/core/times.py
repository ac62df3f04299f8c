"""Times as the log writes them: UTC, ISO 8601, microseconds, Z; one width, so that text sorts as time."""

from __future__ import annotations

from datetime import UTC, datetime


def iso(seconds: float) -> str:
    """`seconds` since the epoch as text."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds")[:26] + "Z"


def seconds(text: str) -> float:
    """The inverse of `iso`."""
    return datetime.fromisoformat(text).timestamp()
