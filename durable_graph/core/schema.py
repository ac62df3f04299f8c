"""Reading a state's schema: which channels it has, and what a node is given.

A schema is a TypedDict, a dataclass or a pydantic model (anything with annotations). Values are kept in plain
dictionaries; `Schema.build` makes of them what the author of a node expects to receive.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections import abc
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import NoneType
from typing import Annotated, Any, NotRequired, Required, get_args, get_origin, get_type_hints, is_typeddict

from durable_graph.core.channels import REPLAYABLE, Channel
from durable_graph.errors import CallError, DrawingError

# what a reducer on an abstract collection starts from
_STARTS_EMPTY: dict[Any, type] = {
    abc.Sequence: list,
    abc.MutableSequence: list,
    abc.Iterable: list,
    abc.Collection: list,
    abc.Set: set,
    abc.MutableSet: set,
    abc.Mapping: dict,
    abc.MutableMapping: dict,
}


@dataclass(frozen=True, slots=True)
class Managed:
    """In a field's annotation: it is given to nodes and routers, is no channel, and cannot be written."""

    value: Callable[[int], Any]  # of the supersteps that this call may still take after the one at hand


RemainingSteps = Annotated[int, Managed(lambda remaining: remaining)]  # until GraphRecursionError, from this superstep
IsLastStep = Annotated[bool, Managed(lambda remaining: remaining == 1)]


@dataclass(frozen=True, slots=True)
class Schema:
    """One schema, read once at compile time."""

    type: Any
    channels: Mapping[str, Channel]
    keys: tuple[str, ...]
    build: Callable[[dict[str, Any]], Any]  # values -> what a node with this schema receives
    managed: Mapping[str, Managed] = field(default_factory=dict)

    def select(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return {key: values[key] for key in self.keys if key in values}

    def given(self, values: Mapping[str, Any], remaining: int) -> Any:
        """What a node or a router with this schema receives."""
        selected = {key: values[key] for key in self.keys if key in values}
        for name, kind in self.managed.items():
            selected[name] = kind.value(remaining)
        return self.build(selected)


def read_schema(schema: Any) -> Schema:
    """Raises DrawingError when the schema has no annotations or one that cannot be resolved."""
    hints = _hints(schema)
    managed = {name: kind for name, hint in hints.items() if (kind := _managed(hint)) is not None}
    channels = {name: _channel(name, hint) for name, hint in hints.items() if name not in managed}
    return Schema(schema, channels, tuple(channels), _builder(schema), managed)


def _managed(hint: Any) -> Managed | None:
    return next((extra for extra in _unwrap(hint)[1] if isinstance(extra, Managed)), None)


def _hints(schema: Any) -> dict[str, Any]:
    if not isinstance(schema, type) or not _is_record(schema):
        raise DrawingError(
            problem=f"the schema {schema!r} has no fields",
            fix="Give a TypedDict, a dataclass or a pydantic model.",
        )
    try:
        hints = get_type_hints(schema, include_extras=True)
    except NameError as error:
        raise DrawingError(
            problem=f"an annotation of {schema.__qualname__} cannot be resolved: {error}",
            fix="Define or import that name where the schema is defined, at module level.",
        ) from error
    return {name: hint for name, hint in hints.items() if _is_field(schema, name)}


def _is_record(schema: type) -> bool:
    return bool(inspect.get_annotations(schema)) or any(
        inspect.get_annotations(base) for base in schema.__mro__[:-1]
    ) or is_typeddict(schema) or dataclasses.is_dataclass(schema)  # fmt: skip


def _is_field(schema: type, name: str) -> bool:
    fields = getattr(schema, "model_fields", None)  # pydantic, without importing it
    return name in fields if isinstance(fields, dict) else name != "__slots__"


def _channel(name: str, hint: Any) -> Channel:
    plain, extras = _unwrap(hint)
    reducer = extras[-1] if extras and callable(extras[-1]) else None
    if reducer is None or not _takes_two(reducer, name):
        return Channel(name)
    return Channel(name, reducer, _operation(reducer), _initial(plain), getattr(reducer, "prepare", None))


def _operation(reducer: Any) -> str | None:
    try:
        return REPLAYABLE.get(reducer)
    except TypeError:  # an unhashable callable
        return None


def _unwrap(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """`Required[Annotated[list[str], add]]` -> `list[str], (add,)`."""
    extras: tuple[Any, ...] = ()
    while get_origin(hint) in (Annotated, Required, NotRequired):
        if get_origin(hint) is Annotated:
            extras = (*hint.__metadata__, *extras)
            hint = hint.__origin__
        else:
            hint = get_args(hint)[0]
    return hint, extras


def _takes_two(reducer: Any, name: str) -> bool:
    try:
        parameters = inspect.signature(reducer).parameters.values()
    except (TypeError, ValueError):
        return True  # some builtins have no signature; they get the benefit of the doubt
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if len(positional) == 2 or any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return True
    if isinstance(reducer, type):
        return False  # a class in Annotated is a remark (pydantic's constraints are), not a reducer
    raise DrawingError(
        problem=f"the reducer {reducer!r} of {name!r} takes {len(positional)} arguments",
        fix="A reducer takes two: the old value and the write. It returns the new value.",
    )


def _initial(hint: Any) -> Callable[[], Any] | None:
    """The empty value that a reducer starts from, as LangGraph does: `list` -> [], `int` -> 0."""
    origin = get_origin(hint) or hint
    kind = _STARTS_EMPTY.get(origin, origin)
    if not isinstance(kind, type) or kind is NoneType:
        return None
    try:
        kind()
    except Exception:  # whatever a user's class raises when called without arguments
        return None
    return kind


def _builder(schema: Any) -> Callable[[dict[str, Any]], Any]:
    if is_typeddict(schema) or issubclass(schema, dict):
        return lambda values: values
    return lambda values: schema(**values)


def field_checks(schema: Any) -> dict[str, Callable[[Any], Any]]:
    """For a pydantic model: what validates a write to each of its fields, raising ValueError. Else nothing."""
    if not hasattr(schema, "__pydantic_validator__") or not hasattr(schema, "model_fields"):
        return {}
    from pydantic import TypeAdapter  # present, since the schema is made with it

    hints = get_type_hints(schema, include_extras=True)
    return {name: TypeAdapter(hints[name]).validate_python for name in schema.model_fields}


# --- what nodes return ------------------------------------------------------------------------


def as_mapping(value: Any, keys: Iterable[str]) -> Mapping[str, Any] | None:
    """The update that a dict, dataclass or pydantic instance stands for; None if it is none of these.

    Of a pydantic model a None that is only the field's default does not count, as in LangGraph.
    """
    if isinstance(value, dict):
        return value
    if not (dataclasses.is_dataclass(value) or hasattr(value, "model_fields_set")) or isinstance(value, type):
        return None
    fields = {key: getattr(value, key) for key in keys if hasattr(value, key)}
    if not hasattr(value, "model_fields_set"):
        return fields
    defaults = {key: field.default for key, field in type(value).model_fields.items()}
    kept = value.model_fields_set | {key for key in fields if defaults.get(key, value) is not None}
    return {key: item for key, item in fields.items() if item is not None or key in kept}


# --- as pydantic sees it ----------------------------------------------------------------------


def model_of(name: str, schema: Any) -> Any:
    """A pydantic model of a schema: itself if it is one, else one with the same fields. Raises CallError where
    pydantic is not installed, or does not know a type."""
    if hasattr(schema, "model_json_schema"):
        return schema
    if schema is dict:
        raise CallError(
            problem="an entrypoint takes and returns plain values, and has no schema with fields",
            fix="Read the annotations of its function.",
        )
    try:
        from pydantic import ConfigDict, Field, create_model
    except ImportError as error:
        raise CallError(
            problem="models and JSON schemas of a graph need pydantic, which is not installed",
            fix="pip install pydantic",
        ) from error
    needed = _needed(schema)
    fields: dict[str, Any] = {
        key: (_type(hint), ... if key in needed else Field(default_factory=lambda: None))
        for key, hint in _hints(schema).items()
        if _managed(hint) is None
    }
    return create_model(name, __config__=ConfigDict(arbitrary_types_allowed=True), **fields)


def json_schema(name: str, schema: Any) -> dict[str, Any]:
    """The JSON schema of a schema's fields. Raises CallError as `model_of` does."""
    model = model_of(name, schema)
    from pydantic.errors import PydanticUserError  # present, since there is a model

    try:
        found: dict[str, Any] = model.model_json_schema()
    except PydanticUserError as error:
        raise CallError(
            problem=f"{schema.__qualname__} has a field that JSON schemas do not know: {error}",
            fix="Describe that schema by hand, or give the field another type.",
        ) from error
    return found


def _type(hint: Any) -> Any:
    """Without its reducer, which is no constraint."""
    plain, extras = _unwrap(hint)
    kept = [extra for extra in extras if not callable(extra)]
    return Annotated[plain, *kept] if kept else plain


def _needed(schema: Any) -> frozenset[str]:
    if is_typeddict(schema):
        return frozenset(schema.__required_keys__)
    missing = dataclasses.MISSING
    fields = dataclasses.fields(schema) if dataclasses.is_dataclass(schema) else ()
    return frozenset(f.name for f in fields if f.default is missing and f.default_factory is missing)


# --- functions ---------------------------------------------------------------------------------


def is_coroutine(call: Callable[..., Any]) -> bool:
    """Whether a function is async; also of an object whose `__call__` is."""
    return inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(type(call).__call__)


INJECTED = frozenset({"config", "runtime", "writer", "previous", "error"})


def wanted_arguments(function: Callable[..., Any]) -> Sequence[str]:
    """Which of these a node or router asks for, by parameter name."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return ()
    return [name for name in list(parameters)[1:] if name in INJECTED]
