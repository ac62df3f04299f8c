"""The types that an annotation mentions: those of a state's schema are registered without being named again."""

from __future__ import annotations

import builtins
import inspect
import sys
import types
import typing
from collections.abc import Iterable, Iterator
from typing import Any

from durable_graph.codec.records import is_model
from durable_graph.codec.registered import MAKERS, is_class, why_not


def storable_types(annotation: Any) -> set[type]:
    """The dataclasses, pydantic models, enums and NamedTuples that an annotation mentions, at any depth."""
    found: set[type] = set()
    seen: dict[int, Any] = {}  # by id, as hints need not be hashable; holding them keeps their ids theirs
    todo = [annotation]
    while todo:
        hint = todo.pop()
        if id(hint) not in seen:
            seen[id(hint)] = hint
            todo.extend(_mentioned(hint))
            if is_class(hint) and not why_not(hint):
                found.add(hint)
    return found


def _mentioned(hint: Any) -> Iterable[Any]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return [type(value) for value in arguments]
    if origin is typing.Annotated:
        return arguments[:1]
    if origin is not None:
        return (origin, *arguments)
    if isinstance(hint, list):  # the parameters of a Callable
        return hint
    if isinstance(hint, typing.TypeVar):
        return (hint.__bound__, *hint.__constraints__)
    if is_class(hint):
        return _field_hints(hint)
    return _alias(hint)


def _alias(hint: Any) -> Iterable[Any]:
    if isinstance(hint, typing.NewType):
        return [hint.__supertype__]
    if type(hint).__name__ != "TypeAliasType":  # Python 3.12's, or that of typing_extensions
        return ()
    try:  # evaluated here, and may name what is not there
        return [hint.__value__]
    except Exception:
        return ()


def _field_hints(kind: Any) -> Iterable[Any]:
    if not (hasattr(kind, "__required_keys__") or any(applies(kind) for applies, _ in MAKERS)):
        return ()
    models = [info.annotation for info in kind.model_fields.values()] if is_model(kind) else []  # generics: filled in
    try:
        return [*models, *typing.get_type_hints(kind, include_extras=True).values()]
    except Exception:  # a name that cannot be resolved; the other fields can
        return [*models, *(hint for each in kind.__mro__ for hint in _resolvable(each))]


def _resolvable(kind: type) -> Iterator[Any]:
    names = vars(sys.modules.get(kind.__module__, builtins))
    for name, hint in _annotations(kind).items():
        try:
            holder = types.SimpleNamespace(__annotations__={name: hint})
            yield from typing.get_type_hints(holder, names, dict(vars(kind)), include_extras=True).values()
        except Exception:
            continue


def _annotations(kind: type) -> dict[str, Any]:
    if sys.version_info >= (3, 14):
        import annotationlib  # annotations are evaluated when read, there

        return annotationlib.get_annotations(kind, format=annotationlib.Format.FORWARDREF)
    return inspect.get_annotations(kind)
