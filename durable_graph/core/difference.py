"""Where two values differ, as key paths that a person can follow.

Containers and objects are compared part by part, so that a NaN equals itself and an object without an `__eq__` is
compared by what it holds. What has neither parts nor an `__eq__` cannot be told apart and counts as equal.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterator, Mapping
from decimal import Decimal
from enum import Enum
from typing import Any, NamedTuple

_ABSENT = object()


def first_difference(one: Any, other: Any, path: str = "") -> str | None:
    """The path below `path` of the first part that is not the same in both; None if all are. `path` itself if it is
    the values as a whole that differ."""
    return _first(one, other, path, set())


def _first(one: Any, other: Any, path: str, met: set[tuple[int, int]]) -> str | None:
    if one is other or (id(one), id(other)) in met:
        return None
    if type(one) is not type(other):
        return path
    parts, others = _parts(one), _parts(other)
    if parts is None or others is None:
        return None if _is_equal(one, other) else path
    met.add((id(one), id(other)))  # values without a log may hold themselves
    for label in [*parts, *(label for label in others if label not in parts)]:
        mine, its = parts.get(label, _ABSENT), others.get(label, _ABSENT)
        found = _first(mine, its, path + label, met)
        if found is not None:
            return found
    return None


class Change(NamedTuple):
    """One thing that is not the same in two states."""

    path: str  # state['a'][3].name
    kind: str  # added, removed or changed
    before: Any  # None if it was added
    after: Any  # None if it was removed


def changes(before: Any, after: Any, path: str = "state") -> Iterator[Change]:
    """What one has to do to `before` to get `after`, in its order. Of lists the equal ends are taken off first, so that
    what was put in or taken out in one place is one change; the places of what was removed are those before."""
    if first_difference(before, after) is None:
        return
    parts, others = _parts(before), _parts(after)
    if type(before) is not type(after) or parts is None or others is None:
        yield Change(path, "changed", before, after)
    elif isinstance(before, list | tuple | deque) and not list(_attributes(before)):
        yield from _changed_items(list(before), list(after), path)
    else:
        for label in [*parts, *(label for label in others if label not in parts)]:
            yield from _changed_part(parts.get(label, _ABSENT), others.get(label, _ABSENT), path + label)


def _changed_part(before: Any, after: Any, path: str) -> Iterator[Change]:
    if after is _ABSENT:
        yield Change(path, "removed", before, None)
    elif before is _ABSENT:
        yield Change(path, "added", None, after)
    else:
        yield from changes(before, after, path)


def _changed_items(before: list[Any], after: list[Any], path: str) -> Iterator[Change]:
    shorter = min(len(before), len(after))
    first = next((at for at in range(shorter) if first_difference(before[at], after[at]) is not None), shorter)
    last = shorter - first  # of how many at the end it is to be seen whether they are equal
    tail = next((at for at in range(last) if first_difference(before[-1 - at], after[-1 - at]) is not None), last)
    for at in range(first, max(len(before), len(after)) - tail):
        mine = before[at] if at < len(before) - tail else _ABSENT
        its = after[at] if at < len(after) - tail else _ABSENT
        yield from _changed_part(mine, its, f"{path}[{at}]")


def _parts(value: Any) -> Mapping[str, Any] | None:
    """What a value is made of, by the label that leads there; None if it is compared as a whole."""
    if isinstance(value, Enum | type | set | frozenset) or callable(value):
        return None
    held = {f".{name}": item for name, item in _attributes(value)}
    if isinstance(value, Mapping):
        return {**held, **{f"[{key!r}]": item for key, item in value.items()}}
    if isinstance(value, list | tuple | deque):
        return {**held, **{f"[{place}]": item for place, item in enumerate(value)}}
    return held or None


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    """Of a record its fields: what it has worked out and kept beside them is no part of its value."""
    names = getattr(type(value), "model_fields", None)  # pydantic's
    if dataclasses.is_dataclass(value):
        yield from ((field.name, getattr(value, field.name, _ABSENT)) for field in dataclasses.fields(value))
    elif isinstance(names, Mapping):
        yield from ((name, getattr(value, name, _ABSENT)) for name in names)
        yield from (getattr(value, "__pydantic_extra__", None) or {}).items()
    else:
        yield from getattr(value, "__dict__", {}).items()


def _is_equal(one: Any, other: Any) -> bool:
    compare: Any = type(one).__eq__
    if compare is object.__eq__:
        return True  # nothing to tell them apart by
    try:
        same = one == other
        if isinstance(one, float | complex | Decimal) and not same:
            return bool(one != one and other != other)  # NaN
        return bool(same.all() if hasattr(same, "all") else same)  # arrays compare item by item
    except Exception:  # whatever a user's class raises when compared
        return True
