"""Messages that were shown in parts while a node ran, as its row keeps them.

The rule: what was shown costs the row about its text. The `tokens` of a row are its streams, one for each message:
[first, extra, spans].

    first   the first part, whole
    extra   metadata of the stream besides its task's
    spans   [[rows before it, number, [part, ...]], ...]: parts with nothing between them, which are numbered on

A part says how it differs from the first one: a text is its content, a dict its fields; in a list stands a whole
message, which could not be told from the first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from durable_graph.core.channels import message_field

Stream = list[Any]

_ATOMS = frozenset({str, int, bool, type(None)})


class Tokens:
    """The streams of one task, as they grow."""

    def __init__(self) -> None:
        self.streams: dict[Any, Stream] = {}  # by call of a model
        self.names: dict[str, None] = {}  # ids of messages that need not be shown again as a whole

    def add(self, key: Any, rows: int, number: int, message: Any, extra: dict[str, Any]) -> Stream:
        """Keep a part that was shown after so many rows of the superstep, as the event of that number."""
        stream = self.streams.setdefault(key, [message, extra, []])
        spans = stream[2]
        if not spans or spans[-1][0] != rows or spans[-1][1] + len(spans[-1][2]) != number:
            spans.append([rows, number, []])
        spans[-1][2].append(_part(stream[0], message))
        return stream

    def take_over(self, other: Tokens, extra: dict[str, Any]) -> None:
        """What another task has shown stands in this one's row; `extra` says what made it the other's."""
        for key, (first, own, spans) in other.streams.items():
            self.streams[key] = [first, {**extra, **own}, spans]
        self.names |= other.names


def parts_of(streams: list[Stream]) -> Iterator[tuple[int, int, Any, dict[str, Any]]]:
    """(rows before it, number, message, extra) of each part."""
    for first, extra, spans in streams:
        for rows, number, parts in spans:
            for place, part in enumerate(parts):
                yield rows, number + place, _message(first, part), extra


# --- one part ---------------------------------------------------------------------------------

_HIDDEN = ("__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__")


def _part(first: Any, message: Any) -> Any:
    changed = _difference(first, message)
    if changed is None:
        return [message]
    return changed["content"] if changed.keys() == {"content"} and type(changed["content"]) is str else changed


def _difference(first: Any, message: Any) -> dict[str, Any] | None:
    """The fields to change in `first` to get `message`; None if there is more to it."""
    if type(message) is not type(first):
        return None
    old, new = _fields(first), _fields(message)
    if old.keys() != new.keys():
        return None
    changed = {name: value for name, value in new.items() if not _same(old[name], value)}
    told = _message(first, changed)
    same = all(getattr(told, name, None) == getattr(message, name, None) for name in _HIDDEN)
    return changed if same else None


def _fields(message: Any) -> dict[str, Any]:
    return message if isinstance(message, dict) else vars(message)


def _same(old: Any, new: Any) -> bool:
    """Equal in value and in type: what holds other values is so only when both are empty."""
    return type(old) is type(new) and old == new and (type(new) in _ATOMS or new in ([], {}, ()))


def _message(first: Any, part: Any) -> Any:
    if isinstance(part, list):
        return part[0]
    changed = {"content": part} if isinstance(part, str) else part
    if isinstance(first, dict):
        return {**first, **changed}
    if hasattr(first, "model_copy"):
        return first.model_copy(update=changed)
    return dataclasses.replace(first, data={**first.data, **changed})  # its type is not registered here


def id_of(message: Any) -> str | None:
    """A message's id, if it has one."""
    name = message_field(message, "id")
    return name if type(name) is str and name else None
