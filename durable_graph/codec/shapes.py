"""The parts of each tag that goes with a `t`: checked before a registered type gets to see them, and without one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from durable_graph.codec.kind import exactly


def _shape_record(v: Any, x: Any = None) -> None:
    _check_names(exactly(dict, v))
    _check_names({} if x is None else exactly(dict, x))


def _shape_pydantic(v: Any, x: Any = None, extra: Any = None, private: Any = None, fields_set: Any = None) -> None:
    _shape_record(v, x)
    _shape_record({} if extra is None else extra, private)
    _check_names([] if fields_set is None else exactly(list, fields_set))


def _check_names(names: Iterable[Any]) -> None:
    for name in names:
        exactly(str, name)


def _shape_custom(v: Any) -> None: ...


SHAPES: dict[str, Callable[..., Any]] = {
    "enum": lambda v: exactly(str, v),
    "flag": lambda v: exactly(int, v),
    "namedtuple": _shape_record,
    "dataclass": _shape_record,
    "pydantic": _shape_pydantic,
    "custom": _shape_custom,
}
RECORDS = frozenset({"namedtuple", "dataclass", "pydantic"})
