"""Channels: the keys of a state, and how writes to them combine.

The rule: what a reducer did is recorded so that reading never has to call it again. A reducer whose
effect is one of the `OPERATIONS` below is recorded by that operation's name, and reading applies the operation to the
recorded writes. Any other reducer is user code: its result is recorded, and reading takes the result.

    reducer                     recorded as     reading does
    none (the last value wins)  (nothing)       takes the write
    operator.add                "add"           old + write       if both are of one builtin type
    operator.or_                "merge"         old | write       if both are dicts or sets
    add_messages                "messages"      merges by id      if it removes only what is there
    anything else               its result      takes the result
"""

from __future__ import annotations

import copy
import functools
import operator
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from typing import Any, Final, Literal

from durable_graph.errors import ArgumentError

Reducer = Callable[[Any, Any], Any]


class _Missing(Enum):
    MISSING = "missing"

    def __repr__(self) -> str:
        return "MISSING"


Missing = Literal[_Missing.MISSING]
MISSING: Final = _Missing.MISSING  # not None: None is a value that a channel may hold


LAST_VALUE = "the last value"  # how a channel without a reducer combines writes


@dataclass(frozen=True, slots=True)
class Overwrite:
    """Written to a channel with a reducer, it replaces the value instead of being reduced into it."""

    value: Any


@dataclass(frozen=True, slots=True)
class Channel:
    """One key of the state."""

    name: str
    reducer: Reducer | None = None  # None: the last value wins, and one superstep may write it once
    operation: str | None = None  # name in OPERATIONS that reading uses in place of the reducer
    initial: Callable[[], Any] | None = None  # what a reducer starts from; None: from the first write
    prepare: Callable[..., Any] | None = None  # puts a write into the form that is recorded

    @property
    def combines(self) -> str:
        """How, in words that outlive the process: a user's reducer by its name, as its code may be corrected, or
        move to another module."""
        if self.reducer is None:
            return LAST_VALUE
        return self.operation or f"{name_of(self.reducer)}()"


def name_of(function: Any) -> str:
    """The same in each process, also of a partial or an object that can be called."""
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__qualname__", type(function).__qualname__))


# --- messages ---------------------------------------------------------------------------------

REMOVE_ALL_MESSAGES = "__remove_all__"  # LangGraph's: the id of a removal of all messages before it


def message_field(message: Any, name: str) -> Any:
    """Of a dict or of a message object; also of one whose type is not registered where it is read."""
    if isinstance(message, dict):
        return message.get(name)
    data = getattr(message, "data", None)
    return data.get(name) if isinstance(data, dict) else getattr(message, name, None)


def is_removal(message: Any) -> bool:
    if isinstance(message, dict):
        return bool(message.get("role", message.get("type")) == "remove")
    return bool(message_field(message, "type") == "remove")


def index_messages(messages: Iterable[Any]) -> dict[Any, int]:
    """{id: place}."""
    return {message_field(message, "id"): place for place, message in enumerate(messages)}


def since_removal_of_all(new: list[Any]) -> tuple[bool, list[Any]]:
    """Whether a write begins anew, and what of it then counts."""
    for place in reversed(range(len(new))):
        if is_removal(new[place]) and message_field(new[place], "id") == REMOVE_ALL_MESSAGES:
            return True, new[place + 1 :]
    return False, new


def unknown_removals(old: Iterable[Any], new: list[Any]) -> list[Any]:
    """The ids in a write that remove nothing: neither an old message nor one before them in the write."""
    anew, new = since_removal_of_all(new)
    if not any(is_removal(message) for message in new):
        return []
    known = set() if anew else set(index_messages(old))
    unknown = []
    for message in new:
        name = message_field(message, "id")
        if not is_removal(message):
            known.add(name)
        elif name not in known:
            unknown.append(name)
    return unknown


def can_merge_messages(old: Any, new: Any) -> bool:
    return type(old) is list and type(new) is list and not unknown_removals(old, new)


def merge_messages(old: list[Any], new: list[Any], places: dict[Any, int], in_place: bool) -> list[Any]:
    """Replace those with a known id, append the rest, and take out what a removal names if nothing after it puts it
    back. `places` is {id: place in old}, and is kept up with the result, so that appending costs the appended part."""
    anew, new = since_removal_of_all(new)
    merged = [] if anew else old if in_place else [*old]
    if anew:
        places.clear()
    removed = set()
    for message in new:
        name = message_field(message, "id")
        if is_removal(message):
            removed.add(name)
            continue
        removed.discard(name)
        if name is not None and name in places:
            merged[places[name]] = message
        else:
            places[name] = len(merged)
            merged.append(message)
    if removed:
        merged = [message for message in merged if message_field(message, "id") not in removed]
        places.clear()
        places.update(index_messages(merged))
    return merged


def _merged_messages(old: list[Any], new: list[Any]) -> list[Any]:
    return merge_messages(old, new, index_messages(old), False)


# --- operations: all that reading needs -------------------------------------------------------

_ADDABLE = frozenset({int, float, complex, Decimal, str, bytes, list, tuple})
_MERGEABLE = frozenset({dict, set, frozenset})
_NUMBERS = frozenset({int, float})


def can_add(old: Any, new: Any) -> bool:
    kinds = {type(old), type(new)}
    return kinds <= _NUMBERS or (len(kinds) == 1 and kinds <= _ADDABLE)


def can_merge(old: Any, new: Any) -> bool:
    return type(old) is type(new) and type(old) in _MERGEABLE


# name -> (may it be applied to these two values?, apply it)
OPERATIONS: dict[str, tuple[Callable[[Any, Any], bool], Reducer]] = {
    "add": (can_add, operator.add),
    "merge": (can_merge, operator.or_),
    "messages": (can_merge_messages, _merged_messages),
}

# A reducer that is exactly one of these functions needs no call when reading.
REPLAYABLE: dict[Any, str] = {operator.add: "add", operator.concat: "add", operator.or_: "merge"}

_IN_PLACE: dict[str, Mapping[type, Callable[[Any, Any], Any]]] = {
    "add": {list: operator.iadd},
    "merge": {dict: operator.ior, set: operator.ior},
    "messages": {},
}


def declare_replayable(reducer: Reducer, operation: str) -> Reducer:
    """Say that `reducer` does what one of the `OPERATIONS` does, so that its operation is recorded instead of
    its result.

    operation: "add" (old + write), "merge" (old | write) or "messages" (by id). The promise is the caller's: on
    values of the builtin types for which the operation is used, the reducer has to give the same. Returns the reducer.
    """
    if operation not in OPERATIONS:
        raise ArgumentError(
            argument="operation", problem=f"there is no {operation!r}", fix=f"Use one of {', '.join(OPERATIONS)}"
        )
    REPLAYABLE[reducer] = operation
    return reducer


def _holders(values: Mapping[str, Any], key: str) -> int:
    """How many hold this value, counted as CPython does; where nobody counts it is never said to be held alone."""
    value = values[key]
    return sys.getrefcount(value) if hasattr(sys, "getrefcount") else 0


_ALONE = max(_holders({"key": []}, "key"), 1)  # what that gives if it is nobody but `values`


class Values(dict[str, Any]):
    """The channels' values, changed only by recorded writes.

    A container that nobody else holds is extended in place, so that appending to a list of n costs the appended part
    and not n. `share` is called for everything handed out, as what a node or a consumer has been given stays as it was;
    then it is extended in place again only once they have let go of it.
    """

    __slots__ = ("_own", "_places")

    def __init__(self, values: Mapping[str, Any] | None = None) -> None:
        super().__init__(values or {})
        self._own: set[str] = set()
        self._places: dict[str, tuple[list[Any], dict[Any, int]]] = {}  # of messages, for the list they belong to

    def share(self) -> dict[str, Any]:
        if self._own:
            self._own.clear()
        return self

    def set(self, key: str, value: Any) -> None:
        self._own.discard(key)
        self[key] = value

    def drop(self, key: str) -> None:
        self._own.discard(key)
        self.pop(key, None)

    def reduce(self, key: str, operation: str, writes: Iterable[Any]) -> None:
        """Apply a recorded operation. Never calls anything but the functions of `OPERATIONS`."""
        for write in writes:
            if key not in self:
                self.set(key, write)
            elif operation == "messages":
                self._add_messages(key, write)
            elif key in self._own or (type(self[key]) in _IN_PLACE[operation] and self._has_alone(key)):
                self[key] = _IN_PLACE[operation][type(self[key])](self[key], write)
            else:
                self[key] = OPERATIONS[operation][1](self[key], write)
                if type(self[key]) in _IN_PLACE[operation]:
                    self._own.add(key)

    def _add_messages(self, key: str, new: list[Any]) -> None:
        places = self.places(key)
        in_place = key in self._own or self._has_alone(key)
        merged = merge_messages(self[key], new, places, in_place)
        self[key] = merged
        self._places[key] = merged, places
        self._own.add(key)

    def _has_alone(self, key: str) -> bool:
        """Whether nobody else holds this container any more. If so it is as good as made here."""
        here = _holders(self, key)
        if key in self._places and self._places[key][0] is self[key]:
            here -= 1
        if here == _ALONE:
            self._own.add(key)
        return here == _ALONE

    def places(self, key: str) -> dict[Any, int]:
        """{id: place} of a list of messages: made once, then kept up with it."""
        messages = self.get(key)
        known, places = self._places.get(key, (None, {}))
        if known is not messages or messages is None:
            messages = messages if type(messages) is list else []
            places = index_messages(messages)
            self._places[key] = messages, places
        return places


# --- reducing live, with user code ------------------------------------------------------------


def replayable(channel: Channel, old: Any, writes: list[Any]) -> bool:
    """Whether reading may apply the channel's operation to just these values."""
    if channel.operation is None:
        return False
    allowed = OPERATIONS[channel.operation][0]
    if overwritten(writes) is not None:
        return True
    values = [*writes] if old is MISSING else [old, *writes]
    return all(allowed(values[0], value) for value in values)


def reduced(channel: Channel, old: Any, writes: list[Any]) -> Any:
    """Call the channel's own reducer over the writes; raises whatever it raises."""
    assert channel.reducer is not None
    last = overwritten(writes)
    if last is not None:
        return last.value
    # a reducer of the user's may change its first argument, which is the live state
    value = old if channel.operation else detached(old)
    for write in writes:
        value = write if value is MISSING else channel.reducer(value, write)
    return value


def overwritten(writes: Iterable[Any]) -> Overwrite | None:
    """The Overwrite among the writes of one superstep, if there is one: it stands for all of them."""
    for write in writes:
        if type(write) is Overwrite:
            return write
    return None


# --- copies -----------------------------------------------------------------------------------

ATOMS: frozenset[type] = frozenset({str, int, float, bool, type(None), bytes, complex, Decimal, range, type(Ellipsis)})


def detached(value: Any) -> Any:
    """A value equal to this one that shares no changeable part with it."""
    kind = type(value)
    if kind in ATOMS:
        return value
    try:
        if kind is dict:
            return {key: detached(item) for key, item in value.items()}
        if kind is list:
            return [item if type(item) in ATOMS else detached(item) for item in value]
        if kind is tuple:
            return tuple([detached(item) for item in value])
        if kind is set:
            return set(value)  # elements are hashable, thus meant not to change
        return copy.deepcopy(value)
    except (
        Exception
    ):  # what cannot be copied, or is nested too deep for it, is refused by the codec, with its key path;
        return value  # without a log it may stay
