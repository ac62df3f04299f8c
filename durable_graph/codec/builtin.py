"""The builtin types: how each is taken apart and built."""

from __future__ import annotations

import binascii
import collections
import math
import pathlib
import re
import struct
import typing
import uuid
from collections.abc import Callable, Iterable, Mapping
from decimal import Context, Decimal, InvalidOperation
from fractions import Fraction
from typing import Any, TypeVar

from durable_graph.codec.kind import Kind, NotHere, Parts, Refused, exactly, not_written
from durable_graph.codec.moments import MOMENTS
from durable_graph.codec.plain import PLAIN
from durable_graph.codec.unregistered import Unregistered

_HEX = re.compile(r"-?0x[0-9a-f]+")
_DECIMALS = Context(capitals=1, traps=[InvalidOperation])  # the caller's own must not decide what is written

# Builtin types that may be called while reading: default factories.
_CALLABLE = (bool, bytearray, bytes, complex, dict, float, frozenset, int, list, set, str, tuple)
FACTORIES: dict[str, Any] = {kind.__name__: kind for kind in _CALLABLE}
FACTORIES |= {kind.__name__: kind for kind in (collections.Counter, collections.OrderedDict, collections.deque)}


def _items(value: Iterable[Any]) -> Parts:
    return {"v": list(value)}


def _pairs(value: Mapping[Any, Any]) -> Parts:
    if getattr(value, "__dict__", None):  # Counter and OrderedDict let attributes be set on them
        raise Refused("it has attributes besides its items", "Keep them in the dict, or in a dataclass.")
    return {"v": [[key, item] for key, item in value.items()]}


def _build_dict(v: Any) -> dict[Any, Any]:
    pairs = [exactly(list, pair) for pair in exactly(list, v)]
    return _all_of(dict(pairs), pairs)


_S = TypeVar("_S", bound=typing.Sized)


def _all_of(built: _S, items: list[Any]) -> _S:
    """Items that have become equal to one another must not swallow one another."""
    if len(built) != len(items):
        raise ValueError("two items are equal")
    return built


def _defaultdict(value: collections.defaultdict[Any, Any]) -> Parts:
    factory = value.default_factory
    name = next((name for name, each in FACTORIES.items() if each is factory), None)
    if name is None and factory is not None:
        raise Refused("its default_factory is code", "Use a builtin type such as list, or convert it with dict().")
    return {**_pairs(value), "factory": name}


def _build_defaultdict(v: Any, factory: Any) -> Any:
    return collections.defaultdict(None if factory is None else FACTORIES[factory], _build_dict(v))


def _build_deque(v: Any, maxlen: Any) -> Any:
    limit = None if maxlen is None else exactly(int, maxlen)
    return _all_of(collections.deque(exactly(list, v), limit), v)


def _float(value: float) -> Parts:
    bits = struct.pack(">d", value)
    usual = not math.isnan(value) or bits == struct.pack(">d", math.nan)
    return {"v": repr(value) if usual else bits.hex()}


def _build_float(v: Any) -> float:
    if v in ("nan", "inf", "-inf"):
        return float(v)  # a new object each time: two NaNs in a set are two items
    value: float = struct.unpack(">d", bytes.fromhex(exactly(str, v)))[0]
    if not math.isnan(value):
        raise ValueError(v)
    return value


def _build_int(v: Any) -> int:
    if not _HEX.fullmatch(exactly(str, v)):
        raise ValueError(v)
    return int(v, 16)


def _build_complex(v: Any) -> complex:
    real, imaginary = exactly(list, v)
    return complex(exactly(float, real), exactly(float, imaginary))


def _base64(value: bytes | bytearray) -> Parts:
    return {"v": binascii.b2a_base64(value, newline=False).decode()}


def _build_bytes(v: Any) -> bytes:
    return binascii.a2b_base64(exactly(str, v), strict_mode=True)


def _build_str(v: Any) -> str:
    return _build_bytes(v).decode("utf-8", "surrogatepass")


def _build_decimal(v: Any) -> Decimal:
    value = Decimal(exactly(str, v), _DECIMALS)
    return value if _DECIMALS.to_sci_string(value) == v else not_written(v)


def _build_fraction(v: Any) -> Fraction:
    numerator, denominator = (exactly(int, each) for each in exactly(list, v))
    return Fraction(numerator, denominator)


def _uuid(value: uuid.UUID) -> Parts:
    safe = value.is_safe
    return {"v": str(value)} | ({} if safe is uuid.SafeUUID.unknown else {"safe": safe.value})


def _build_uuid(v: Any, safe: Any = None) -> uuid.UUID:
    value = uuid.UUID(exactly(str, v), is_safe=uuid.SafeUUID(safe))
    return value if str(value) == v else not_written(v)


def _build_range(v: Any) -> range:
    start, stop, step = (exactly(int, each) for each in exactly(list, v))
    return range(start, stop, step)


def _path(value: pathlib.PurePath) -> Parts:
    text = str(value)
    if str(type(value)(text)) != text or type(value)(text) != value:
        raise Refused("its text would be read as another path", "Store its parts.")
    return {"v": text}


def _build_path(kind: type[pathlib.PurePath]) -> Callable[[Any], pathlib.PurePath]:
    def build(v: Any) -> pathlib.PurePath:
        try:
            return kind(exactly(str, v))
        except NotImplementedError:  # a PosixPath on Windows, or the other way round
            raise NotHere from None

    return build


_KINDS = (
    Kind("dict", dict, _pairs, _build_dict),
    Kind("OrderedDict", collections.OrderedDict, _pairs, lambda v: collections.OrderedDict(_build_dict(v))),
    Kind("Counter", collections.Counter, _pairs, lambda v: collections.Counter(_build_dict(v))),
    Kind("defaultdict", collections.defaultdict, _defaultdict, _build_defaultdict),
    Kind("tuple", tuple, _items, lambda v: tuple(exactly(list, v))),
    Kind("deque", collections.deque, lambda value: {**_items(value), "maxlen": value.maxlen}, _build_deque),
    Kind("set", set, _items, lambda v: _all_of(set(exactly(list, v)), v)),
    Kind("frozenset", frozenset, _items, lambda v: _all_of(frozenset(exactly(list, v)), v)),
    Kind("str", str, lambda value: _base64(value.encode("utf-8", "surrogatepass")), _build_str),
    Kind("int", int, lambda value: {"v": hex(value)}, _build_int),
    Kind("float", float, _float, _build_float),
    Kind("complex", complex, lambda value: {"v": [value.real, value.imag]}, _build_complex),
    Kind("bytes", bytes, _base64, _build_bytes),
    Kind("bytearray", bytearray, _base64, lambda v: bytearray(_build_bytes(v))),
    *MOMENTS,
    Kind("Decimal", Decimal, lambda value: {"v": _DECIMALS.to_sci_string(value)}, _build_decimal),
    Kind("Fraction", Fraction, lambda value: {"v": [value.numerator, value.denominator]}, _build_fraction),
    Kind("UUID", uuid.UUID, _uuid, _build_uuid),
    Kind("range", range, lambda value: {"v": [value.start, value.stop, value.step]}, _build_range),
    Kind("PurePosixPath", pathlib.PurePosixPath, _path, _build_path(pathlib.PurePosixPath)),
    Kind("PureWindowsPath", pathlib.PureWindowsPath, _path, _build_path(pathlib.PureWindowsPath)),
    Kind("PosixPath", pathlib.PosixPath, _path, _build_path(pathlib.PosixPath)),
    Kind("WindowsPath", pathlib.WindowsPath, _path, _build_path(pathlib.WindowsPath)),
)

BY_TYPE = {kind.type: kind for kind in _KINDS}
BY_TAG = {kind.tag: kind for kind in _KINDS}
HOLDERS = frozenset(
    {dict, list, tuple, set, frozenset, collections.deque} | {kind for kind in BY_TYPE if issubclass(kind, dict)}
)
_ALL = frozenset({*BY_TYPE, *PLAIN, list, Unregistered})


def is_builtin(kind: type) -> bool:
    """Whether its values are stored without being registered; so it cannot be."""
    return kind in _ALL
