"""The statements of `statements.py` as they stand in `sqlite.sql` and `postgresql.sql`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

Bound: TypeAlias = tuple[str, Sequence[Any]]  # a statement and its values

MARKS = {"sqlite": "?", "postgresql": "%s"}  # positional for both: what is bound is then the row itself
_PARAMETER = re.compile(r"(?<!:):(\w+)")  # `::` is a cast


class Statement:
    """One statement as a driver takes it."""

    def __init__(self, text: str, mark: str) -> None:
        self.text = _PARAMETER.sub(mark, text)
        self.names = _PARAMETER.findall(text)

    def bind(self, **values: Any) -> Bound:
        return self.text, [values[name] for name in self.names]


def full_name(name: str, arguments: Sequence[str]) -> str:
    """Of one form of a statement: "renew(4)"."""
    return f"{name}({', '.join(sorted(arguments))})" if arguments else name


def file_of(backend: str) -> Path:
    return Path(__file__).with_name(f"{backend}.sql")


@cache
def texts(backend: str) -> dict[str, str]:
    """By full name."""
    _, *parts = re.split(r"^-- name: (.+)\n", file_of(backend).read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {name: text.strip().removesuffix(";") for name, text in zip(parts[::2], parts[1::2], strict=True)}
