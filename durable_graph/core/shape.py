"""What a row may look like, so that whoever goes on with what was read meets nothing else.

The rule: rows are read from a database that anybody may have altered. So the types of a row's columns are looked at,
and of its body the keys that the engine works with, as deep as it does; values of the user's are any. Whether they make
sense together is for `Position.apply` to find out. `core/position.py` says what the keys mean.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from durable_graph.core.model import Send
from durable_graph.store import Row

Check: TypeAlias = Callable[[Any], bool]

_NULLABLE = {"parent_step", "node", "task"}
_NUMBERS = {"step", "parent_step", "superstep", "epoch"}
_COLUMNS = [
    ((int if name in _NUMBERS else bytes if name in ("body", "hash") else str), *([type(None)] * (name in _NULLABLE)))
    for name in Row._fields
]
TYPES = frozenset(itertools.product(*_COLUMNS))  # of a row's columns
KINDS = frozenset({"input", "task", "interrupt", "error", "resume", "update", "fork"})


def wrong_columns(row: Row) -> str | None:
    """What is wrong with a row besides its body. Reading is a matter of microseconds for each row: so is this."""
    if tuple(map(type, row)) not in TYPES:
        return wrong_type(row)
    kind, task = row.kind, row.task
    if kind not in KINDS:
        return f"there is no kind of row {kind!r:.40}"
    if task is None:
        return f"it is of kind {kind!r} and of no task" if kind in ("task", "error") else None
    return f"its task {task!r:.40} is of no node" if row.node is None else None


def wrong_type(row: Row) -> str | None:
    """The first column that holds something of another type."""
    for name, kinds, value in zip(Row._fields, _COLUMNS, row, strict=True):
        if type(value) not in kinds:
            return f"its {name} is a {type(value).__name__}"
    return None


def wrong_key(body: Mapping[str, Any]) -> str | None:
    """The first key of a body whose value cannot be what the engine has written."""
    for key, value in body.items():
        check = _check_of(key)
        if check is not None and not check(value):
            return key
    return None


# --- parts --------------------------------------------------------------------------------------


def _is(*kinds: type) -> Check:
    return lambda value: type(value) in kinds


def _all(check: Check) -> Check:
    return lambda value: type(value) is list and all(map(check, value))


def _each(check: Check) -> Check:
    """A dict with texts for keys."""
    return lambda value: type(value) is dict and all(type(key) is str and check(item) for key, item in value.items())


def _row_of(*checks: Check) -> Check:
    """A list of so many."""

    def check(value: Any) -> bool:
        if type(value) is not list or len(value) != len(checks):
            return False
        return all(check(part) for check, part in zip(checks, value, strict=True))

    return check


def _having(needed: Mapping[str, Check], more: Mapping[str, Check] | None = None) -> Check:
    """A dict with these keys, and perhaps those."""
    known = {**needed, **(more or {})}

    def check(value: Any) -> bool:
        return (
            type(value) is dict
            and needed.keys() <= value.keys()
            and all(known[key](item) for key, item in value.items() if key in known)
        )

    return check


_number, _bool, _dict = _is(int), _is(bool), _is(dict)


def _text(value: Any) -> bool:
    return type(value) is str


def _any(value: Any) -> bool:
    return True


_texts = _all(_text)


def _values(value: Any) -> bool:
    return value is not None and type(value) is not list and _written(value)


def _written(value: Any) -> bool:
    """What a task has written. Nearly always a dict, with texts for keys: joining them is the quickest way to tell."""
    if type(value) is dict:
        try:
            "".join(value)
        except TypeError:
            return False
        return True
    return value is None or (type(value) is list and all(map(_values, value)))


def _child(value: Any) -> bool:
    """[thread, step, the same for the tasks of that subgraph]."""
    return type(value) in (list, tuple) and len(value) == 3 and _is_child(*value)


def _is_child(thread: Any, step: Any, below: Any) -> bool:
    return type(thread) is str and type(step) is int and _children(below)


def _children(value: Any) -> bool:
    return _each(_each(_child))(value)


_planned = _having(
    {"node": _text},
    {"triggers": lambda value: type(value) in (list, tuple) and all(map(_text, value)), "seed": _text}
    | {"asked": _all(_row_of(_text, _bool))},
)
_told = {"type": _text, "message": _text, "traceback": _text}
_failure = _having({**_told, "started": _text, "finished": _text})
_part = _is(str, list, dict)
_span = _row_of(_number, _number, _all(lambda part: _part(part) and part != []))
_graph = _having({}, {"fingerprint": _text, "nodes": _texts, "channels": _each(_text), "formerly": _each(_text)})


def _names_or(check: Check) -> Check:
    """A list of texts and of what the check lets pass. Nearly always it is one text."""

    def check_all(value: Any) -> bool:
        if type(value) is not list:
            return False
        for entry in value:  # noqa: SIM110 - all() with a generator takes three times as long
            if type(entry) is not str and not check(entry):
                return False
        return True

    return check_all


_pending = _names_or(_planned)


def _parent(value: Any) -> bool:
    """Of a fork where it begins; of the end of a subgraph's run what the graph above is told."""
    return _row_of(_text, _number)(value) or _having({"update": _written, "goto": _gotos})(value)


_gotos = _names_or(lambda value: type(value) is Send and type(value.node) is str)

_KEYS: dict[str, Check] = {
    "update": _written,
    "goto": _gotos,
    "apply": _each(_text),
    "results": _values,
    "starts": _values,
    "next": _pending,
    "parent": _parent,
    "nodes": _texts,
    "joins": _each(_texts),
    "deferred": _texts,
    "dropped": _texts,
    "error": _having(_told),
    "interrupts": _all(_row_of(_any, _text, _bool)),
    "answers": _values,
    "add": _pending,
    "children": _children,
    "custom": _all(_row_of(_number, _number, _any)),
    "below": _all(_row_of(_number, _number, _text, _number, _number)),
    "tokens": _all(_row_of(_any, _values, _all(_span))),
    "seen": _texts,
    "failures": _all(_failure),
    "run": _having({}, {"task": _text, "metadata": _dict, "tags": _texts, "name": _text}),
    "graph": _graph,
    "renamed": _each(_each(_text)),
    "migrated": _having({}, {"set": _values, "unset": _texts}),
    "attempt": _number,
    "cached": _bool,
    "started": _text,
}
_check_of = _KEYS.get


# --- snapshots ----------------------------------------------------------------------------------

_kept = _each(_child)
_pinned = _each(lambda child: child is None or _child(child))

is_state: Check = _having(
    {"values": _dict, "last": _texts, "run": _KEYS["run"], "graph": _graph},
    {"kept": _kept, "pinned": lambda value: value is None or _pinned(value)},
)
