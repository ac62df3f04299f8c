"""Types with fields: named tuples, dataclasses and pydantic models.

The rule: a record is its fields and whatever else was set on it, and is built without its `__init__`, `__post_init__`
or a validator. A field that its type has gained since gets its default, if that takes no user code.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import sys
import types
from collections.abc import Callable, Iterable
from typing import Any

from durable_graph.codec.builtin import FACTORIES
from durable_graph.codec.kind import Kind, NotHere, Parts, Refused, raise_not_here

_MISSING = dataclasses.MISSING
_PYDANTIC_STATE = ("__pydantic_extra__", "__pydantic_private__", "__pydantic_fields_set__")
_RESERVED = {"__class__", "__dict__", *_PYDANTIC_STATE}  # attributes that bytes may not set

# For each field: what makes its default; None if there is none, or making it would call user code.
_Defaults = dict[str, Callable[[], Any] | None]


def _filled(v: Parts, defaults: _Defaults, others: Parts | None) -> dict[str, Any]:
    """The fields as they were written, and defaults for those the type has gained since."""
    if v.keys() - defaults.keys() or (others and others.keys() & (defaults.keys() | _RESERVED)):
        raise NotHere  # fields were lost, or attributes have become fields
    return {name: v[name] if name in v else (make or raise_not_here)() for name, make in defaults.items()}


def _default(default: Any, factory: Any, nothing: Any) -> Callable[[], Any] | None:
    if default is not nothing:
        return lambda: default
    return factory if factory in FACTORIES.values() else None


def is_named_tuple(kind: type) -> bool:
    return issubclass(kind, tuple) and hasattr(kind, "_fields") and hasattr(kind, "_field_defaults")


def of_named_tuple(kind: Any, name: str) -> Kind:
    fields: tuple[str, ...] = kind._fields
    defaults = {field: _default(kind._field_defaults.get(field, _MISSING), None, _MISSING) for field in fields}
    others_of = _other_attributes(kind, fields)

    def take(value: Any) -> Parts:
        if tuple.__len__(value) != len(fields):
            raise Refused(f"it does not have {len(fields)} items", "Build it by calling its class.")
        return _given(v=dict(zip(fields, tuple.__iter__(value), strict=True)), x=others_of(value))

    def build(v: Parts, x: Parts | None = None) -> Any:
        return _with_attributes(tuple.__new__(kind, _filled(v, defaults, x).values()), x or {})

    return Kind("namedtuple", kind, take, build, name)


def of_dataclass(kind: Any, name: str) -> Kind:
    defaults = {field.name: _dataclass_default(field) for field in dataclasses.fields(kind)}
    others_of = _other_attributes(kind, defaults)

    def take(value: Any) -> Parts:
        unset = [field for field in defaults if not _has(value, field)]
        if unset:
            raise Refused(f"its field {unset[0]!r} has no value", "Set it in __post_init__.")
        return _given(v={field: object.__getattribute__(value, field) for field in defaults}, x=others_of(value))

    def build(v: Parts, x: Parts | None = None) -> Any:
        return _with_attributes(object.__new__(kind), _filled(v, defaults, x) | (x or {}))

    return Kind("dataclass", kind, take, build, name)


def _dataclass_default(field: dataclasses.Field[Any]) -> Callable[[], Any] | None:
    default = field.default
    if type(default).__module__ == "pydantic.fields":  # a pydantic dataclass: its Field(...) is the default
        return _pydantic_default(default)
    return _default(default, field.default_factory, _MISSING)


def _pydantic_default(field: Any) -> Callable[[], Any] | None:
    make = _default(field.default, field.default_factory, sys.modules["pydantic_core"].PydanticUndefined)
    return make if make is None or field.default_factory else lambda: copy.deepcopy(make())


def _has(value: Any, name: str) -> bool:
    try:
        object.__getattribute__(value, name)
    except AttributeError:
        return False
    return True


def _other_attributes(kind: type, fields: Iterable[str]) -> Callable[[Any], Parts | None]:
    """What an instance holds besides its fields: set in __post_init__, or cached by a cached_property."""
    ignored = {*fields, "__orig_class__"}  # the latter is typing's note in Box[int](...)
    slots = [
        name
        for each in kind.__mro__
        for name, member in vars(each).items()
        if type(member) is types.MemberDescriptorType and name not in ignored
    ]

    def others_of(value: Any) -> Parts | None:
        state = getattr(value, "__dict__", {})
        others = {name: object.__getattribute__(value, name) for name in slots if _has(value, name)}
        others |= {name: item for name, item in state.items() if name not in ignored}
        return _named(others) or None

    return others_of


def _with_attributes(value: Any, attributes: Parts) -> Any:
    for name, item in attributes.items():
        object.__setattr__(value, name, item)  # not the class's own: it may be frozen, or validate
    return value


def is_model(kind: type) -> bool:
    main = sys.modules.get("pydantic.main")  # if it is not imported, there are no models
    return issubclass(kind, getattr(main, "BaseModel", ()))


def of_model(kind: Any, name: str) -> Kind:
    defaults = {field: _pydantic_default(info) for field, info in kind.model_fields.items()}
    hidden = {field: _pydantic_default(info) for field, info in kind.__private_attributes__.items()}
    required = {field for field, info in kind.__private_attributes__.items() if not _may_be_unset(info)}
    ignored = {*defaults, *_PYDANTIC_STATE}
    none_by_class = {name for name in _PYDANTIC_STATE if inspect.getattr_static(kind, name) is None}  # in a RootModel

    def take(value: Any) -> Parts:
        state, extra, private = value.__dict__, value.__pydantic_extra__, value.__pydantic_private__
        unset = [*(defaults.keys() - state.keys()), *(required - (private or {}).keys())]
        if unset:
            raise Refused(f"its field {unset[0]!r} has no value", "Build it with all its fields.")
        usual = value.__pydantic_fields_set__ == {*defaults, *(extra or ())}
        return _given(
            v={field: state[field] for field in defaults},
            x=_named({field: item for field, item in state.items() if field not in ignored}) or None,
            extra=_named(extra),
            private=_named(private),
            fields_set=None if usual else sorted(value.__pydantic_fields_set__),
        )

    def build(v: Parts, x: Any = None, extra: Any = None, private: Any = None, fields_set: Any = None) -> Any:
        allows = kind.model_config.get("extra") == "allow"
        if extra and not allows:
            raise NotHere
        due = {field: make for field, make in hidden.items() if field in required or field in (private or ())}
        state = {
            "__dict__": _filled(v, defaults, x) | (x or {}),
            "__pydantic_extra__": extra or {} if allows else extra,
            "__pydantic_private__": _filled(private or {}, due, None) if private or hidden else private,
            "__pydantic_fields_set__": {*v, *(extra or ())} if fields_set is None else set(fields_set),
        }
        own = {name: item for name, item in state.items() if item is not None or name not in none_by_class}
        return _with_attributes(object.__new__(kind), own)

    return Kind("pydantic", kind, take, build, name)


def _may_be_unset(info: Any) -> bool:
    return info.default_factory is None and info.default is sys.modules["pydantic_core"].PydanticUndefined


def _given(**parts: Any) -> Parts:
    return {key: part for key, part in parts.items() if part is not None}


def _named(attributes: Parts | None) -> Parts | None:
    if attributes and not all(type(name) is str for name in attributes):
        raise Refused("it has an attribute whose name is not a str", "Keep such items in a dict.")
    return None if attributes is None else dict(attributes)
