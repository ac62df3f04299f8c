"""What orjson writes as it is meant: plain values, left to it without a look."""

from __future__ import annotations

from typing import Any

Json = Any  # what orjson writes as it is meant
PLAIN: frozenset[type] = frozenset({str, int, bool, type(None)})


def is_utf8(text: str) -> bool:
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False
