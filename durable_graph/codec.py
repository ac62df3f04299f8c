"""Values to bytes and back: what is read equals what was written in value and in type, or writing fails.

The rule: plain JSON values are written as that JSON, so that rows can be read and searched with plain SQL.
Everything else becomes an object with a tag, `{"$": "tuple", "v": [1, 2]}`. Nothing is taken for a tag by
mistake, as a dict of the user's with a "$" among its keys is tagged itself. orjson does the work in C, but on
its own it quietly turns tuples into lists, enums into their values and NaN into null; so a walk by exact type
comes first, and returns the same object where there is nothing to tag, which is nearly always. Sets are
sorted: reading bytes and writing them again gives the same bytes. Two places that hold one object become two
that hold equal ones.

Plain: dict with str keys, list, str, int of 64 bits, finite float, bool, None. Tagged:

    tag                          v                             further keys
    dict, OrderedDict, Counter   [[key, value], ...]
    defaultdict                  [[key, value], ...]           factory: name of a builtin type, or null
    tuple                        [item, ...]
    deque                        [item, ...]                   maxlen
    set, frozenset               [item, ...], sorted           by their bytes
    str                          base64 of UTF-8               only with lone surrogates in it
    int                          "0x1f", beyond 64 bits        hex: int() has a limit for decimal digits
    float                        "nan", "inf", "-inf"          or an unusual NaN's 64 bits in hex
    complex                      [real, imaginary]
    bytes, bytearray             base64
    datetime, time               ISO 8601                      tz: a zone's key or a tagged tzinfo; fold: 1
    date                         ISO 8601
    timedelta                    [days, seconds, microseconds]
    timezone                     "+02:00"                      name, if it was given one
    zone                         "Europe/Berlin"
    Decimal                      "1.50", "sNaN", "-0E+3"
    Fraction                     [numerator, denominator]
    UUID                         "12345678-..."                safe, if known
    range                        [start, stop, step]
    PurePosixPath, PosixPath     text
    PureWindowsPath, WindowsPath text
    enum                         name of the member            t: registered name, here and below
    flag                         its integer
    namedtuple, dataclass        {field: value}                x: other attributes
    pydantic                     {field: value}                x; extra; private; fields_set, if not all
    custom                       what its encode returned

What has a `t` is rebuilt only if the application registered a type of that name. Nothing is imported, and no
`__init__`, `__post_init__` or validator is called. A type that is not there, or no longer fits what was
written, is read as `Unregistered`, which shows the data and is written again as it was: history outlives the
code. A record whose type has gained a field since gets its default, if that takes no user code.

The version: the tags are the format. A released tag never changes its meaning, something new gets a new tag,
and a reader that meets a tag it does not know says so. So no value carries a version, and none costs bytes;
FORMAT_VERSION counts the releases of the table above, and `tests/golden/codec_v1.json` holds every tag to its
bytes. Whoever frames values in a row need write a version only once it is not 1.
"""

from __future__ import annotations

import binascii
import builtins
import collections
import copy
import dataclasses
import datetime
import enum
import hashlib
import inspect
import io
import math
import pathlib
import re
import struct
import sys
import types
import typing
import uuid
import zoneinfo
from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Context, Decimal, InvalidOperation
from fractions import Fraction
from typing import Any, NamedTuple, NoReturn, Protocol, TypeAlias, TypeVar

import orjson

from durable_graph.errors import ArgumentError, EncryptionKeyError, TooLargeError, UnstorableValueError
from durable_graph.limits import MAX_DEPTH, Limits

FORMAT_VERSION = 1
SEALED = b"\0dg\1"  # what encrypted bytes begin with, and no JSON does
SHORTEST = 52  # bytes of what was encrypted

# Where bytes are stored: ("row" or "state", thread_id, step), ("signal", thread_id, id, name) or ("cache", namespace,
# key). What is encrypted can be read there only.
Place: TypeAlias = tuple[str | int, ...]

_Json = Any  # what orjson writes as it is meant
_Parts = dict[str, Any]  # the keys of a tagged object apart from "$" and "t"


class MalformedBytesError(ValueError):
    """The bytes are not what a codec writes."""


class KeyIsMissing(Exception):
    """What is encrypted needs a key that is not here: its id, and those of the keys that are."""

    def __init__(self, key: str, known: Iterable[str] = ()) -> None:
        super().__init__(key)
        self.key, self.known = key, tuple(known)


class Seal(Protocol):
    """What encrypts: see `encryption.py`."""

    def seal(self, data: bytes, place: Place) -> bytes: ...

    def open(self, data: bytes, place: Place) -> bytes: ...

    def digest(self, data: bytes) -> str: ...

    def ids(self) -> tuple[str, ...]: ...


@dataclasses.dataclass(frozen=True, slots=True)
class Unregistered:
    """Stands for a value whose type this application has not registered, or whose type no longer fits it."""

    name: str  # the name its type was registered with
    data: Any  # its fields, or what stood for it
    tag: str = dataclasses.field(default="custom", repr=False)
    more: _Parts = dataclasses.field(default_factory=dict, repr=False)  # the further keys of the tag

    def __hash__(self) -> int:  # it may be a key: data need not be hashable, but its plain items are
        data = self.data
        items = data.items() if type(data) is dict else enumerate(data if type(data) is tuple else (data,))
        return hash((self.name, frozenset(item for item in items if type(item[1]) in _PLAIN)))


@dataclasses.dataclass(frozen=True, slots=True)
class TypeHook:
    """How values of one class are stored that is no dataclass, pydantic model, enum or named tuple, or has moved.

    Given as one of `types=` to `compile`, `entrypoint` or `Log`, where it goes before the bare class.

    type: values of exactly this class, not of its subclasses.
    encode: takes a value, returns something storable that says all about it; called when a row is written.
    decode: takes that, returns a value equal to the first; called when a row is read.
    name: under which its values are found in the log, by default "module:Class". A class that was moved or renamed
        reads its old values under its old name; then encode and decode may be left out.

    Raises ArgumentError for what is no class of yours, or only one of encode and decode. Without the hook, values read
    as `Unregistered` placeholders with what `encode` returned.
    """

    type: type[Any]
    encode: Callable[[Any], Any] | None = None
    decode: Callable[[Any], Any] | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        if not _is_class(self.type) or _is_builtin(self.type):
            raise _bad_type(self.type, "is no class that can be registered", "Give a class that you have defined.")
        for function in (self.encode, self.decode):
            if function is not None and not callable(function):
                raise _bad_type(self.type, f"has {function!r} for a function", "Give functions of one argument.")
        _registered(self.type, self.name, self.encode, self.decode)


Storable = type[Any] | TypeHook  # what `types=` takes


def without_doubles(types: Iterable[Storable]) -> list[Storable]:
    """Each once, and a hook instead of its bare class. Hooks come first."""
    given = list(types)
    hooks: list[TypeHook] = []
    for each in given:
        if isinstance(each, TypeHook) and each not in hooks:
            hooks.append(each)
    hooked = {hook.type for hook in hooks}
    return [*hooks, *dict.fromkeys(each for each in given if not isinstance(each, TypeHook) and each not in hooked)]


class Codec:
    """Encodes and decodes values, knowing the builtin types and those registered with it.

    `encode` and `decode` are the bytes of a value. `write` and `read` are what a database gets to see of them: the
    same bytes, or encrypted. Whatever is to be stored goes through these two.
    """

    def __init__(self, types: Iterable[Storable] = (), seal: Seal | None = None, limits: Limits | None = None) -> None:
        self.seal = seal  # None: what is stored is not encrypted
        self.limits = limits or Limits()
        self._reader = _Reader({})
        self._fast = _Writer(_PLAIN, _LOWER, _BY_TYPE)
        self._careful = _Writer(_SMALL, {**_LOWER, **_LOWER_CAREFULLY}, _BY_TYPE)
        for each in without_doubles(types):
            if isinstance(each, TypeHook):
                self.register(each.type, name=each.name, encode=each.encode, decode=each.decode)
            else:
                self.register(each)

    def knows(self, kind: type) -> bool:
        """Whether values of this registered type can be stored."""
        return kind in self._fast.kinds

    def register(
        self,
        kind: type,
        /,
        *,
        name: str | None = None,
        encode: Callable[[Any], Any] | None = None,
        decode: Callable[[Any], Any] | None = None,
    ) -> None:
        """Let values of exactly this type be stored.

        Enums, NamedTuples, dataclasses and pydantic models need nothing else; other types need `encode`, which
        returns something storable, and `decode`, which takes that. A type that was moved or renamed still reads
        its old values if it is registered under its old `name`, "module:Class".
        """
        if not _is_class(kind) or _is_builtin(kind):
            raise _bad_type(kind, "is no class that can be registered", "Give a class that you have defined.")
        known = self._fast.kinds.get(kind)
        if known and name in (None, known.name) and encode is decode is None:
            return
        new = _registered(kind, name, encode, decode)
        if known:
            raise _bad_type(kind, "is registered already", "Register it once, before types are collected.")
        if new.name in self._reader.names:
            raise _bad_type(kind, f"another type is named {new.name!r}", "Give one a name of its own, name=...")
        self._reader = _Reader({**self._reader.names, new.name: new})
        self._fast, self._careful = self._fast.knowing(new), self._careful.knowing(new)

    @property
    def names(self) -> frozenset[str]:
        """Of the types registered, "module:Class"."""
        return frozenset(self._reader.names)

    def also_reads(self, old: str, name: str) -> None:
        """Values written under the name `old` are read as the registered type `name`: it was moved or renamed."""
        self._reader = _Reader({**self._reader.names, old: self._reader.names[name]})

    def encode(self, value: Any, path: str = "", *, spare: int = 0) -> bytes:
        """The bytes of `value`; `path` is what to call it in an error.

        `spare` levels (up to 40) are not counted as nesting: those the caller puts around the user's values.
        """
        depth = MAX_DEPTH - self.limits.nesting - spare
        try:
            return orjson.dumps(self._fast.lower(value, depth))
        except TypeError:  # orjson's: a lone surrogate or an int beyond 64 bits; _Refused: to be explained
            return self._encode_carefully(value, path, depth)

    def _encode_carefully(self, value: Any, path: str, depth: int) -> bytes:
        try:
            return orjson.dumps(self._careful.lower(value, depth))
        except TypeError as error:
            place, culprit, refusal = _locate(self._careful, value, error, depth)
            facts = {"path": path + place or "The value", "type": _type_name(type(culprit))}
            problem, fix = refusal.args if isinstance(refusal, _Refused) else (str(refusal), _DESCRIBE)
            if refusal.args == _TOO_DEEP:
                problem = f"it is nested deeper than {self.limits.nesting} levels"
            raise UnstorableValueError(**facts, problem=problem, fix=fix) from refusal.__cause__

    def canonical(self, value: Any) -> bytes:
        """Bytes that tell values apart: the same for dicts with the same items, in whichever order. (With keys
        that are no text their order counts.)"""
        return orjson.dumps(orjson.loads(self.encode(value)), option=orjson.OPT_SORT_KEYS)

    def decode(self, data: bytes, *, strict: bool = False) -> Any:
        """The value of what `encode` wrote. Anything else: MalformedBytesError, and nothing has happened.

        strict: so is a value of a type that is not registered, or no longer fits.
        """
        if not strict:
            return self._reader.read(data)
        watch = self.watching()
        value = watch.decode(data)
        if watch.met:
            raise MalformedBytesError(f"{min(watch.met)!r} is not registered, or no longer fits")
        return value

    def watching(self) -> Watch:
        """To decode with, where it matters whether there were placeholders."""
        return Watch(self._reader, self.seal)

    # --- what is stored

    def like(self, other: Codec) -> Codec:
        """This codec with the encryption and the limits of another: for the same database."""
        if self.seal is other.seal and self.limits is other.limits:
            return self
        twin = copy.copy(self)
        twin.seal, twin.limits = other.seal, other.limits
        return twin

    def write(self, value: Any, *place: str | int, spare: int = 0) -> bytes:
        """The bytes to store at this place. Raises what `encode` does."""
        data = self.encode(value, spare=spare)
        return data if self.seal is None else self.seal.seal(data, place)

    def read(self, data: bytes, *place: str | int, strict: bool = False) -> Any:
        """The value of what `write` made for this place; also if there was no encryption then.

        Raises EncryptionKeyError if the key is not here; MalformedBytesError for anything that was not written here.
        """
        if self.seal is None and not strict:
            return _read_plain(self._reader, data, place)
        return self.decode(_opened(self.seal, data, place) if _is_sealed(data) else data, strict=strict)

    def digest(self, data: bytes) -> str:
        """A short name for these bytes, which does not tell them: with encryption not even to somebody who guesses."""
        return hashlib.sha256(data).hexdigest() if self.seal is None else self.seal.digest(data)

    def check_size(self, size: int, value: Any, where: str, **facts: Any) -> None:
        """Refuse what is larger than a row may be: `size` bytes, of which `value` is the last to come."""
        most = self.limits.row_bytes
        if size > most:
            path, part = self._largest(value, len(self.encode(value, spare=40)))
            raise TooLargeError(where=where, path=path or "it", size=part, row=size, limit=most, **facts)

    def _largest(self, value: Any, size: int) -> tuple[str, int]:
        """Where in a value most of its bytes are: as far down as more than half of them are in one place."""
        path = ""
        while type(value) in (dict, list, tuple):
            parts = value.items() if type(value) is dict else enumerate(value)
            sizes = [(len(self.encode(part, spare=40)), label, part) for label, part in parts]
            most, label, part = max(sizes, key=lambda found: found[0], default=(0, None, None))
            if 2 * most <= size:
                break
            path, size, value = f"{path}[{_label(label)}]", most, part
        return path, size

    def placeholder_in(self, value: Any, path: str = "") -> tuple[str, Unregistered] | None:
        """The first placeholder in a value and where it is; None if there is none."""
        kind = type(value)
        if kind is Unregistered:
            return path, value
        if kind in _BY_TYPE and kind not in _HOLDERS:
            return None
        found = (self.placeholder_in(part, path + label) for label, part in _labelled(self._fast, value))
        return next((each for each in found if each is not None), None)


class Watch:
    """Decodes as its codec does, and remembers in `met` the names of types that it had to leave as placeholders.

    Whoever goes on with what was read looks for placeholders only if there were any: looking costs a walk.
    """

    def __init__(self, reader: _Reader, seal: Seal | None) -> None:
        self.met: set[str] = set()
        self._reader = _Reader(reader.names, self.met)
        self._seal = seal

    def decode(self, data: bytes) -> Any:
        return self._reader.read(data)

    def read(self, data: bytes, *place: str | int) -> Any:
        if self._seal is None:
            return _read_plain(self._reader, data, place)
        return self._reader.read(_opened(self._seal, data, place) if _is_sealed(data) else data)


def _read_plain(reader: _Reader, data: bytes, place: Place) -> Any:
    """What is encrypted is no JSON: so those who do without encryption need not look for it first."""
    try:
        return reader.read(data)
    except MalformedBytesError:
        if _is_sealed(data):
            _opened(None, data, place)  # raises
        raise


def _is_sealed(data: Any) -> bool:
    return type(data) is bytes and data[:4] == SEALED  # in a database that was altered, anything may stand anywhere


def _opened(seal: Seal | None, data: bytes, place: Place) -> bytes:
    if len(data) < SHORTEST:
        raise MalformedBytesError("what was encrypted is cut short")
    try:
        if seal is None:
            raise KeyIsMissing(data[4:12].hex())
        return seal.open(data, place)
    except KeyIsMissing as missing:
        here = f"those given have the ids {', '.join(missing.known)}" if missing.known else "no key was given"
        raise EncryptionKeyError(where=told(place), key=missing.key, have=here, place=place) from None


def told(place: Place) -> str:
    """A place, for messages."""
    kind, *rest = place
    if kind == "cache":
        return "A value in the cache"
    if kind == "signal":
        return f"The signal {rest[2]!r} of thread {rest[0]!r}"
    return f"{'Step' if kind == 'row' else 'The snapshot at step'} {rest[1]} of thread {rest[0]!r}"


# --- writing: from values to plain JSON values ------------------------------------------------


class _Refused(TypeError):
    """Problem and fix of a value that cannot be stored; where it is, is found out afterwards."""


class _Kind(NamedTuple):
    """How the values of one type are written and read."""

    tag: str
    type: type
    take: Callable[[Any], _Parts]  # a value's parts, which are lowered in turn
    build: Callable[..., Any]  # the value, from its parts as keyword arguments
    name: str = ""  # of a registered type


_Lower = Callable[["_Writer", Any, int], _Json]


class _Writer:
    """The walk over a value, by exact type. Never changed: `knowing` makes a new one."""

    __slots__ = ("kinds", "plain", "table")

    def __init__(self, plain: frozenset[type], table: dict[type, _Lower], kinds: dict[type, _Kind]) -> None:
        self.plain = plain  # left to orjson without a look
        self.table = table
        self.kinds = kinds

    def knowing(self, kind: _Kind) -> _Writer:
        table = {**self.table, kind.type: _lower_registered}
        return _Writer(self.plain, table, {**self.kinds, kind.type: kind})

    def lower(self, value: Any, depth: int) -> _Json:
        kind = type(value)
        return value if kind in self.plain else self.table.get(kind, _refuse)(self, value, depth)

    def tagged(self, head: dict[str, Any], parts: _Parts, depth: int) -> _Json:
        if depth > MAX_DEPTH:
            raise _Refused(*_TOO_DEEP)
        for key, part in parts.items():
            head[key] = self.lower(part, depth + 1)
        return head


# Dicts and lists are the hot path: 0.3 µs for a small one. Plain items cost no call. All keys are looked at before
# any item is lowered, as a late one would have everything below it lowered twice, on each level.


def _lower_dict(writer: _Writer, value: dict[Any, Any], depth: int) -> _Json:
    if depth > MAX_DEPTH:
        raise _Refused(*_TOO_DEEP)
    plain, nested = writer.plain, False
    for key, item in value.items():
        if type(key) is not str or key == "$":
            return _lower_tagged(writer, value, depth)
        nested = nested or type(item) not in plain
    return _lower_items(writer, value, depth + 1) if nested else value


def _lower_items(writer: _Writer, value: dict[str, Any], depth: int) -> _Json:
    changed = value.copy()
    for key, item in value.items():
        if (kind := type(item)) not in writer.plain:
            changed[key] = writer.table.get(kind, _refuse)(writer, item, depth)
    return changed


def _lower_list(writer: _Writer, value: list[Any], depth: int) -> _Json:
    if depth > MAX_DEPTH:
        raise _Refused(*_TOO_DEEP)
    plain = writer.plain
    for item in value:
        if (kind := type(item)) not in plain and not (kind is float and math.isfinite(item)):
            break
    else:
        return value
    changed = []
    for item in value:
        kind = type(item)
        changed.append(item if kind in plain else writer.table.get(kind, _refuse)(writer, item, depth + 1))
    return changed


def _lower_float(writer: _Writer, value: float, depth: int) -> _Json:
    return value if math.isfinite(value) else _lower_tagged(writer, value, depth)


def _lower_tagged(writer: _Writer, value: Any, depth: int) -> _Json:
    kind = writer.kinds[type(value)]
    return writer.tagged({"$": kind.tag}, kind.take(value), depth)


def _lower_set(writer: _Writer, value: Any, depth: int) -> _Json:
    doc = _lower_tagged(writer, value, depth)
    doc["v"] = sorted(doc["v"], key=orjson.dumps)
    return doc


def _lower_registered(writer: _Writer, value: Any, depth: int) -> _Json:
    kind = writer.kinds[type(value)]
    try:
        parts = kind.take(value)
    except (_Refused, RecursionError, MemoryError):
        raise
    except Exception as error:  # user code: an encode function
        raise _Refused(f"taking it apart raised {type(error).__name__}: {error}", _DESCRIBE) from error
    return writer.tagged({"$": kind.tag, "t": kind.name}, parts, depth)


def _lower_unregistered(writer: _Writer, value: Unregistered, depth: int) -> _Json:
    parts = {"v": value.data, **value.more}
    problem = _unreadable(value, parts)
    if problem:
        raise _Refused(problem, "Leave placeholders as they were read.")
    name = {"t": value.name} if value.tag in _SHAPES else {}
    return writer.tagged({"$": value.tag}, name | parts, depth)


def _unreadable(value: Unregistered, parts: _Parts) -> str | None:
    try:
        (_SHAPES.get(value.tag) or _BY_TAG[value.tag].build)(**parts)
    except _NotHere:
        return None
    except Exception as error:
        return f"nothing could read it ({type(error).__name__}: {error})"
    return None if type(value.name) is str else "its name is not a str"


def _refuse(writer: _Writer, value: Any, depth: int) -> NoReturn:
    kind = type(value)
    problem, fix = next(texts for applies, *texts in _ADVICE if applies(kind))
    base = next((each.__name__ for each in kind.__mro__ if _is_builtin(each)), "")
    raise _Refused(problem.format(base=base), fix.format(base=base, name=kind.__name__))


# Writing again after orjson has refused: nothing about strings and integers is taken for granted.


def _lower_int(writer: _Writer, value: int, depth: int) -> _Json:
    return value if -(2**63) <= value < 2**64 else _lower_tagged(writer, value, depth)


def _lower_str(writer: _Writer, value: str, depth: int) -> _Json:
    return value if _is_utf8(value) else _lower_tagged(writer, value, depth)


def _lower_dict_carefully(writer: _Writer, value: dict[Any, Any], depth: int) -> _Json:
    if all(type(key) is not str or _is_utf8(key) for key in value):
        return _lower_dict(writer, value, depth)
    return _lower_tagged(writer, value, depth)


def _is_utf8(text: str) -> bool:
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


# --- where a refused value is: worked out only when one was ------------------------------------


def _locate(writer: _Writer, value: Any, error: TypeError, depth: int) -> tuple[str, Any, TypeError]:
    """Follow the first part that is refused on its own, until no part is to blame."""
    labels: list[str] = []
    above = [value]
    while found := _refused_part(writer, value, depth + len(labels)):
        label, value, error = found
        labels.append(label)
        if any(value is each for each in above):
            error = _Refused("it contains itself", "Store the id of the other value instead of the value.")
            break
        above.append(value)
    return _shorten(labels), value, error


def _refused_part(writer: _Writer, value: Any, depth: int) -> tuple[str, Any, TypeError] | None:
    if depth > MAX_DEPTH:
        return None
    for label, part in _labelled(writer, value):
        try:
            orjson.dumps(writer.lower(part, depth + 1))
        except TypeError as error:
            return label, part, error
    return None


def _labelled(writer: _Writer, value: Any) -> Iterator[tuple[str, Any]]:
    kind = type(value)
    metaclass: Any = type(kind)
    if metaclass.__hash__ is not type.__hash__:  # not a class that can be looked for in a table
        return
    if kind in (list, tuple, collections.deque):
        yield from ((f"[{index}]", item) for index, item in enumerate(value))
    elif kind in (set, frozenset):
        yield from ((f"{{{_label(item)}}}", item) for item in value)
    elif kind in (dict, collections.OrderedDict, collections.Counter, collections.defaultdict):
        yield from ((f".keys()[{index}]", key) for index, key in enumerate(value))
        yield from ((f"[{_label(key)}]", item) for key, item in value.items())
    elif kind is Unregistered:
        yield from ((f".{key}", part) for key, part in {"data": value.data, **value.more}.items())
    elif kind in writer.kinds:
        yield from _attributes(writer.kinds[kind], value)


def _attributes(kind: _Kind, value: Any) -> Iterator[tuple[str, Any]]:
    try:
        parts = kind.take(value)
    except Exception:  # reported by _lower_registered
        return
    for key, part in parts.items():
        if kind.tag in _RECORDS and type(part) is dict:
            yield from ((f".{name}", item) for name, item in part.items())
        yield (".<encoded>" if kind.tag == "custom" else f".{key}"), part


def _label(key: Any) -> str:
    if type(key) not in _PLAIN and type(key) is not float:
        return f"<{_type_name(type(key))}>"  # a repr is user code
    text = hex(key) if type(key) is int and abs(key) > 2**64 else repr(key)  # decimal digits have a limit
    return text if len(text) <= 60 else f"{text[:50]}...{text[-1]}"


def _shorten(labels: list[str]) -> str:
    return "".join(labels if len(labels) <= 12 else [*labels[:8], "...", *labels[-2:]])


def _type_name(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


# --- reading: from plain JSON values to values -------------------------------------------------


class _NotHere(Exception):
    """Well-formed, but not for this process: the type, zone or operating system is another one."""


class _Reader:
    """The walk back. It calls what is registered and nothing else."""

    __slots__ = ("met", "names")

    def __init__(self, names: dict[str, _Kind], met: set[str] | None = None) -> None:
        self.names = names
        self.met = met  # where to note the names of placeholders

    def read(self, data: bytes) -> Any:
        if type(data) is not bytes:
            raise MalformedBytesError(f"a {type(data).__name__}, not bytes")
        try:
            doc = orjson.loads(data)
        except ValueError as error:
            raise MalformedBytesError(f"not JSON: {error}") from None
        if len(data) > 2 * 254 and data.count(b"[") + data.count(b"{") > 254 and _deeper_than(doc, 254):
            raise MalformedBytesError("nested deeper than anything that is written")
        if b'"$"' not in data and b"\\u0024" not in data:
            return doc
        try:
            return self.lift(doc)
        except RecursionError:
            if _deeper_than(doc, 254):
                raise MalformedBytesError("nested deeper than anything that is written") from None
            raise  # it is the caller who stands near the recursion limit

    def lift(self, doc: _Json) -> Any:
        if type(doc) is list:
            return [self.lift(item) if type(item) in _NESTED else item for item in doc]
        if type(doc) is not dict:
            return doc
        if "$" in doc:
            return self._tagged(doc)
        return {key: self.lift(item) if type(item) in _NESTED else item for key, item in doc.items()}

    def _tagged(self, doc: dict[str, _Json]) -> Any:
        tag = doc["$"]
        if type(tag) is not str or not (tag in _SHAPES or tag in _BY_TAG):
            raise MalformedBytesError(f"unknown tag {_label(tag)}: damaged, or written by a newer version")
        parts = {key: self.lift(part) for key, part in doc.items() if key != "$"}
        try:
            return (self._registered if tag in _SHAPES else self._builtin)(tag, parts)
        except (MalformedBytesError, RecursionError, MemoryError):
            raise
        except Exception as error:
            if self.names:  # may be due to a registered type, such as keys that no longer hash: read it without them
                return _Reader({}, self.met)._tagged(doc)
            raise MalformedBytesError(f"tag {tag!r}: {type(error).__name__}: {error}") from error

    def _builtin(self, tag: str, parts: _Parts) -> Any:
        try:
            return _BY_TAG[tag].build(**parts)
        except _NotHere:
            return self._placeholder(tag, tag, parts)

    def _registered(self, tag: str, parts: _Parts) -> Any:
        name = _is(str, parts.pop("t", None))
        _SHAPES[tag](**parts)
        kind = self.names.get(name)
        if kind is None or kind.tag != tag:
            return self._placeholder(name, tag, parts)
        try:
            return kind.build(**parts)
        except _NotHere:
            return self._placeholder(name, tag, parts)

    def _placeholder(self, name: str, tag: str, parts: _Parts) -> Unregistered:
        if self.met is not None:
            self.met.add(name)
        more = {key: part for key, part in parts.items() if key != "v"}
        return Unregistered(name, parts["v"], tag, more)


def _deeper_than(doc: _Json, limit: int) -> bool:
    level = [doc]
    for _ in range(limit):
        below = (each.values() if type(each) is dict else each for each in level)
        level = [item for items in below for item in items if type(item) in _NESTED]
    return bool(level)


_T = TypeVar("_T")


def _is(kind: type[_T], value: Any) -> _T:
    if type(value) is not kind:
        raise MalformedBytesError(f"{_type_name(type(value))} where {kind.__name__} belongs")
    return value


# --- the builtin types: how each is taken apart and built ---------------------------------------
#
# What is built comes from bytes that anyone may have written: every builder checks the types of its parts,
# and any exception in it means malformed bytes. The parts themselves have been read already.


def _items(value: Iterable[Any]) -> _Parts:
    return {"v": list(value)}


def _pairs(value: Mapping[Any, Any]) -> _Parts:
    if getattr(value, "__dict__", None):  # Counter and OrderedDict let attributes be set on them
        raise _Refused("it has attributes besides its items", "Keep them in the dict, or in a dataclass.")
    return {"v": [[key, item] for key, item in value.items()]}


def _build_dict(v: Any) -> dict[Any, Any]:
    pairs = [_is(list, pair) for pair in _is(list, v)]
    return _all_of(dict(pairs), pairs)


_S = TypeVar("_S", bound=typing.Sized)


def _all_of(built: _S, items: list[Any]) -> _S:
    """Items that have become equal to one another must not swallow one another."""
    if len(built) != len(items):
        raise ValueError("two items are equal")
    return built


def _defaultdict(value: collections.defaultdict[Any, Any]) -> _Parts:
    factory = value.default_factory
    name = next((name for name, each in _FACTORIES.items() if each is factory), None)
    if name is None and factory is not None:
        raise _Refused("its default_factory is code", "Use a builtin type such as list, or convert it with dict().")
    return {**_pairs(value), "factory": name}


def _build_defaultdict(v: Any, factory: Any) -> Any:
    return collections.defaultdict(None if factory is None else _FACTORIES[factory], _build_dict(v))


def _build_deque(v: Any, maxlen: Any) -> Any:
    limit = None if maxlen is None else _is(int, maxlen)
    return _all_of(collections.deque(_is(list, v), limit), v)


def _float(value: float) -> _Parts:
    bits = struct.pack(">d", value)
    usual = not math.isnan(value) or bits == struct.pack(">d", math.nan)
    return {"v": repr(value) if usual else bits.hex()}


def _build_float(v: Any) -> float:
    if v in ("nan", "inf", "-inf"):
        return float(v)  # a new object each time: two NaNs in a set are two items
    value: float = struct.unpack(">d", bytes.fromhex(_is(str, v)))[0]
    if not math.isnan(value):
        raise ValueError(v)
    return value


def _build_int(v: Any) -> int:
    if not _HEX.fullmatch(_is(str, v)):
        raise ValueError(v)
    return int(v, 16)


def _build_complex(v: Any) -> complex:
    real, imaginary = _is(list, v)
    return complex(_is(float, real), _is(float, imaginary))


def _base64(value: bytes | bytearray) -> _Parts:
    return {"v": binascii.b2a_base64(value, newline=False).decode()}


def _build_bytes(v: Any) -> bytes:
    return binascii.a2b_base64(_is(str, v), strict_mode=True)


def _build_str(v: Any) -> str:
    return _build_bytes(v).decode("utf-8", "surrogatepass")


def _moment(value: datetime.datetime | datetime.time) -> _Parts:
    """The local time with its offset, for people and for SQL; a zone comes with it, and decides when read."""
    zone = value.tzinfo
    shown = value if type(zone) in (datetime.timezone, zoneinfo.ZoneInfo) else value.replace(tzinfo=None)
    parts: _Parts = {"v": shown.isoformat()}
    if zone is not None and not _is_all_offset(zone):
        parts["tz"] = _zone_key(zone) if type(zone) is zoneinfo.ZoneInfo else zone
    return {**parts, "fold": 1} if value.fold else parts


def _build_datetime(v: Any, tz: Any = None, fold: Any = 0) -> datetime.datetime:
    return _in_zone(datetime.datetime.fromisoformat(_is(str, v)), tz, fold)


def _build_time(v: Any, tz: Any = None, fold: Any = 0) -> datetime.time:
    return _in_zone(datetime.time.fromisoformat(_is(str, v)), tz, fold)


_M = TypeVar("_M", datetime.datetime, datetime.time)


def _in_zone(moment: _M, tz: Any, fold: Any) -> _M:
    if type(tz) is Unregistered:
        raise _NotHere
    zone = _load_zone(tz) if type(tz) is str else tz
    return moment.replace(tzinfo=moment.tzinfo if zone is None else zone, fold=_is(int, fold))


def _is_all_offset(zone: datetime.tzinfo) -> bool:
    """Whether "+02:00" says all there is; fromisoformat (Python 3.11) takes an offset of microseconds for UTC."""
    return type(zone) is datetime.timezone and len(_init_args(zone)) == 1 and not _init_args(zone)[0].microseconds


def _init_args(zone: Any) -> tuple[Any, ...]:
    return zone.__getinitargs__()  # type: ignore[no-any-return]  # (offset,) or (offset, name): tzname() makes names up


def _timezone(value: datetime.timezone) -> _Parts:
    offset = _EPOCH.replace(tzinfo=value).isoformat().removeprefix(_EPOCH.isoformat())
    return {"v": offset, **dict(zip(["name"], _init_args(value)[1:], strict=False))}


def _build_timezone(v: Any, name: Any = None) -> datetime.timezone:
    found = _OFFSET.fullmatch(_is(str, v)) or _not_written(v)
    hours, minutes, seconds, microseconds = (int(each or 0) for each in found.groups()[1:])
    offset = datetime.timedelta(0, seconds, microseconds, 0, minutes, hours) * (-1 if v[0] == "-" else 1)
    return datetime.timezone(offset) if name is None else datetime.timezone(offset, _is(str, name))


def _zone_key(zone: zoneinfo.ZoneInfo) -> str:
    try:
        return _load_zone(zone.key).key
    except Exception as error:
        fix = "Use a zone of the tz database, zoneinfo.ZoneInfo(key)."
        raise _Refused(f"no zone can be found by its key {zone.key!r}", fix) from error


def _load_zone(v: Any) -> zoneinfo.ZoneInfo:
    if not _ZONE.fullmatch(_is(str, v)):  # keys are looked up as files and, in the tzdata package, as modules
        raise ValueError(f"{v!r} is no zone")
    try:
        return zoneinfo.ZoneInfo(v)
    except (zoneinfo.ZoneInfoNotFoundError, OSError, ValueError):
        raise _NotHere from None


def _build_timedelta(v: Any) -> datetime.timedelta:
    days, seconds, microseconds = (_is(int, each) for each in _is(list, v))
    return datetime.timedelta(days, seconds, microseconds)


def _build_decimal(v: Any) -> Decimal:
    value = Decimal(_is(str, v), _DECIMALS)
    return value if _DECIMALS.to_sci_string(value) == v else _not_written(v)


def _build_fraction(v: Any) -> Fraction:
    numerator, denominator = (_is(int, each) for each in _is(list, v))
    return Fraction(numerator, denominator)


def _uuid(value: uuid.UUID) -> _Parts:
    safe = value.is_safe
    return {"v": str(value)} | ({} if safe is uuid.SafeUUID.unknown else {"safe": safe.value})


def _build_uuid(v: Any, safe: Any = None) -> uuid.UUID:
    value = uuid.UUID(_is(str, v), is_safe=uuid.SafeUUID(safe))
    return value if str(value) == v else _not_written(v)


def _not_written(v: Any) -> NoReturn:
    raise ValueError(f"{v!r} is not how it is written")


def _build_range(v: Any) -> range:
    start, stop, step = (_is(int, each) for each in _is(list, v))
    return range(start, stop, step)


def _path(value: pathlib.PurePath) -> _Parts:
    text = str(value)
    if str(type(value)(text)) != text or type(value)(text) != value:
        raise _Refused("its text would be read as another path", "Store its parts.")
    return {"v": text}


def _build_path(kind: type[pathlib.PurePath]) -> Callable[[Any], pathlib.PurePath]:
    def build(v: Any) -> pathlib.PurePath:
        try:
            return kind(_is(str, v))
        except NotImplementedError:  # a PosixPath on Windows, or the other way round
            raise _NotHere from None

    return build


_OFFSET = re.compile(r"([+-])(\d\d):(\d\d)(?::(\d\d)(?:\.(\d{6}))?)?", re.ASCII)
_HEX = re.compile(r"-?0x[0-9a-f]+")
_ZONE = re.compile(r"[\w+-]{1,40}(/[\w+-]{1,40}){0,3}", re.ASCII)
_EPOCH = datetime.datetime(1970, 1, 1)  # noqa: DTZ001 - for the offset that comes behind it
_DECIMALS = Context(capitals=1, traps=[InvalidOperation])  # the caller's own must not decide what is written

# Builtin types that may be called while reading: default factories.
_CALLABLE = (bool, bytearray, bytes, complex, dict, float, frozenset, int, list, set, str, tuple)
_FACTORIES: dict[str, Any] = {kind.__name__: kind for kind in _CALLABLE}
_FACTORIES |= {kind.__name__: kind for kind in (collections.Counter, collections.OrderedDict, collections.deque)}

_KINDS = (
    _Kind("dict", dict, _pairs, _build_dict),
    _Kind("OrderedDict", collections.OrderedDict, _pairs, lambda v: collections.OrderedDict(_build_dict(v))),
    _Kind("Counter", collections.Counter, _pairs, lambda v: collections.Counter(_build_dict(v))),
    _Kind("defaultdict", collections.defaultdict, _defaultdict, _build_defaultdict),
    _Kind("tuple", tuple, _items, lambda v: tuple(_is(list, v))),
    _Kind("deque", collections.deque, lambda value: {**_items(value), "maxlen": value.maxlen}, _build_deque),
    _Kind("set", set, _items, lambda v: _all_of(set(_is(list, v)), v)),
    _Kind("frozenset", frozenset, _items, lambda v: _all_of(frozenset(_is(list, v)), v)),
    _Kind("str", str, lambda value: _base64(value.encode("utf-8", "surrogatepass")), _build_str),
    _Kind("int", int, lambda value: {"v": hex(value)}, _build_int),
    _Kind("float", float, _float, _build_float),
    _Kind("complex", complex, lambda value: {"v": [value.real, value.imag]}, _build_complex),
    _Kind("bytes", bytes, _base64, _build_bytes),
    _Kind("bytearray", bytearray, _base64, lambda v: bytearray(_build_bytes(v))),
    _Kind("datetime", datetime.datetime, _moment, _build_datetime),
    _Kind("time", datetime.time, _moment, _build_time),
    _Kind(
        "date",
        datetime.date,
        lambda value: {"v": value.isoformat()},
        lambda v: datetime.date.fromisoformat(_is(str, v)),
    ),
    _Kind(
        "timedelta",
        datetime.timedelta,
        lambda value: {"v": [value.days, value.seconds, value.microseconds]},
        _build_timedelta,
    ),
    _Kind("timezone", datetime.timezone, _timezone, _build_timezone),
    _Kind("zone", zoneinfo.ZoneInfo, lambda value: {"v": _zone_key(value)}, _load_zone),
    _Kind("Decimal", Decimal, lambda value: {"v": _DECIMALS.to_sci_string(value)}, _build_decimal),
    _Kind("Fraction", Fraction, lambda value: {"v": [value.numerator, value.denominator]}, _build_fraction),
    _Kind("UUID", uuid.UUID, _uuid, _build_uuid),
    _Kind("range", range, lambda value: {"v": [value.start, value.stop, value.step]}, _build_range),
    _Kind("PurePosixPath", pathlib.PurePosixPath, _path, _build_path(pathlib.PurePosixPath)),
    _Kind("PureWindowsPath", pathlib.PureWindowsPath, _path, _build_path(pathlib.PureWindowsPath)),
    _Kind("PosixPath", pathlib.PosixPath, _path, _build_path(pathlib.PosixPath)),
    _Kind("WindowsPath", pathlib.WindowsPath, _path, _build_path(pathlib.WindowsPath)),
)

_PLAIN: frozenset[type] = frozenset({str, int, bool, type(None)})
_SMALL: frozenset[type] = frozenset({bool, type(None)})  # what is plain without a look, once orjson has refused
_NESTED = frozenset({dict, list})
_BY_TYPE = {kind.type: kind for kind in _KINDS}
_HOLDERS = frozenset(
    {dict, list, tuple, set, frozenset, collections.deque} | {kind for kind in _BY_TYPE if issubclass(kind, dict)}
)
_BY_TAG = {kind.tag: kind for kind in _KINDS}
_LOWER: dict[type, _Lower] = {
    **dict.fromkeys(_BY_TYPE.keys() - _PLAIN, _lower_tagged),
    dict: _lower_dict,
    list: _lower_list,
    float: _lower_float,
    set: _lower_set,
    frozenset: _lower_set,
    Unregistered: _lower_unregistered,
}
_LOWER_CAREFULLY: dict[type, _Lower] = {int: _lower_int, str: _lower_str, dict: _lower_dict_carefully}


# --- registered types ----------------------------------------------------------------------------


def _registered(kind: type, name: str | None, encode: Any, decode: Any) -> _Kind:
    name = f"{kind.__module__}:{kind.__qualname__}" if name is None else name
    if type(name) is not str or not _is_utf8(name):
        raise _bad_type(kind, f"has the name {name!r}", "Give a str as its name.")
    if (encode is None) != (decode is None):
        raise _bad_type(kind, "has only one of encode and decode", "Give both or neither.")
    if encode is not None:
        return _Kind("custom", kind, lambda value: {"v": encode(value)}, lambda v: decode(v), name)
    problem = _why_not(kind)
    if problem:
        raise _bad_type(kind, problem, "Register it with an encode and a decode function: TypeHook(...).")
    return next(make for applies, make in _MAKERS if applies(kind))(kind, name)


def _bad_type(kind: Any, problem: str, fix: str) -> ArgumentError:
    return ArgumentError(argument=_type_name(kind) if isinstance(kind, type) else repr(kind), problem=problem, fix=fix)


def _why_not(kind: type) -> str:
    """Why a class cannot be taken apart and rebuilt without its own help; empty if it can."""
    if not any(applies(kind) for applies, _ in _MAKERS):
        return "is not an enum, a NamedTuple, a dataclass or a pydantic model"
    if issubclass(kind, (enum.Enum, tuple)):
        return ""
    if hasattr(kind, "__del__"):
        return "has a __del__ method, so it stands for more than its fields"
    try:
        object.__new__(kind)
    except TypeError as error:  # abstract, or built on an exception, a dict, ...: that part would be lost
        return f"cannot be rebuilt from its fields ({error})"
    for name in () if _is_model(kind) else _field_names(kind):
        static = inspect.getattr_static(kind, name, None)
        if hasattr(type(static), "__set__") and type(static) is not types.MemberDescriptorType:
            return f"has code behind its field {name!r}"
    return ""


def _field_names(kind: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def _is_model(kind: type) -> bool:
    main = sys.modules.get("pydantic.main")  # if it is not imported, there are no models
    return issubclass(kind, getattr(main, "BaseModel", ()))


def _is_named_tuple(kind: type) -> bool:
    return issubclass(kind, tuple) and hasattr(kind, "_fields") and hasattr(kind, "_field_defaults")


def _enum(kind: Any, name: str) -> _Kind:
    def take(value: Any) -> _Parts:
        if kind._member_map_.get(value._name_) is not value:
            raise _Refused("it is not a member of its enum", "Store a member.")
        return {"v": value._name_}

    def build(v: str) -> Any:  # not kind(v): that may call the enum's _missing_
        return kind._member_map_[v] if v in kind._member_map_ else _raise_not_here()

    return _Kind("enum", kind, take, build, name)


def _flag(kind: Any, name: str) -> _Kind:
    combine = enum.Flag._missing_.__func__  # type: ignore[attr-defined]  # the standard one, not the class's own

    def build(v: int) -> Any:
        value = kind._value2member_map_.get(v)
        value = combine(kind, v) if value is None else value
        return value if type(value) is kind and value._value_ == v else _raise_not_here()

    return _Kind("flag", kind, lambda value: {"v": value._value_}, build, name)


def _raise_not_here() -> NoReturn:
    raise _NotHere


# For each field: what makes its default; None if there is none, or making it would call user code.
_Defaults = dict[str, Callable[[], Any] | None]


def _filled(v: _Parts, defaults: _Defaults, others: _Parts | None) -> dict[str, Any]:
    """The fields as they were written, and defaults for those the type has gained since."""
    if v.keys() - defaults.keys() or (others and others.keys() & (defaults.keys() | _RESERVED)):
        raise _NotHere  # fields were lost, or attributes have become fields
    return {name: v[name] if name in v else (make or _raise_not_here)() for name, make in defaults.items()}


def _default(default: Any, factory: Any, nothing: Any) -> Callable[[], Any] | None:
    if default is not nothing:
        return lambda: default
    return factory if factory in _FACTORIES.values() else None


def _named_tuple(kind: Any, name: str) -> _Kind:
    fields: tuple[str, ...] = kind._fields
    defaults = {field: _default(kind._field_defaults.get(field, _MISSING), None, _MISSING) for field in fields}
    others_of = _other_attributes(kind, fields)

    def take(value: Any) -> _Parts:
        if tuple.__len__(value) != len(fields):
            raise _Refused(f"it does not have {len(fields)} items", "Build it by calling its class.")
        return _given(v=dict(zip(fields, tuple.__iter__(value), strict=True)), x=others_of(value))

    def build(v: _Parts, x: _Parts | None = None) -> Any:
        return _with_attributes(tuple.__new__(kind, _filled(v, defaults, x).values()), x or {})

    return _Kind("namedtuple", kind, take, build, name)


def _dataclass(kind: Any, name: str) -> _Kind:
    defaults = {field.name: _dataclass_default(field) for field in dataclasses.fields(kind)}
    others_of = _other_attributes(kind, defaults)

    def take(value: Any) -> _Parts:
        unset = [field for field in defaults if not _has(value, field)]
        if unset:
            raise _Refused(f"its field {unset[0]!r} has no value", "Set it in __post_init__.")
        return _given(v={field: object.__getattribute__(value, field) for field in defaults}, x=others_of(value))

    def build(v: _Parts, x: _Parts | None = None) -> Any:
        return _with_attributes(object.__new__(kind), _filled(v, defaults, x) | (x or {}))

    return _Kind("dataclass", kind, take, build, name)


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


def _other_attributes(kind: type, fields: Iterable[str]) -> Callable[[Any], _Parts | None]:
    """What an instance holds besides its fields: set in __post_init__, or cached by a cached_property."""
    ignored = {*fields, "__orig_class__"}  # the latter is typing's note in Box[int](...)
    slots = [
        name
        for each in kind.__mro__
        for name, member in vars(each).items()
        if type(member) is types.MemberDescriptorType and name not in ignored
    ]

    def others_of(value: Any) -> _Parts | None:
        state = getattr(value, "__dict__", {})
        others = {name: object.__getattribute__(value, name) for name in slots if _has(value, name)}
        others |= {name: item for name, item in state.items() if name not in ignored}
        return _named(others) or None

    return others_of


def _with_attributes(value: Any, attributes: _Parts) -> Any:
    for name, item in attributes.items():
        object.__setattr__(value, name, item)  # not the class's own: it may be frozen, or validate
    return value


def _pydantic(kind: Any, name: str) -> _Kind:
    defaults = {field: _pydantic_default(info) for field, info in kind.model_fields.items()}
    hidden = {field: _pydantic_default(info) for field, info in kind.__private_attributes__.items()}
    required = {field for field, info in kind.__private_attributes__.items() if not _may_be_unset(info)}
    ignored = {*defaults, *_PYDANTIC_STATE}
    none_by_class = {name for name in _PYDANTIC_STATE if inspect.getattr_static(kind, name) is None}  # in a RootModel

    def take(value: Any) -> _Parts:
        state, extra, private = value.__dict__, value.__pydantic_extra__, value.__pydantic_private__
        unset = [*(defaults.keys() - state.keys()), *(required - (private or {}).keys())]
        if unset:
            raise _Refused(f"its field {unset[0]!r} has no value", "Build it with all its fields.")
        usual = value.__pydantic_fields_set__ == {*defaults, *(extra or ())}
        return _given(
            v={field: state[field] for field in defaults},
            x=_named({field: item for field, item in state.items() if field not in ignored}) or None,
            extra=_named(extra),
            private=_named(private),
            fields_set=None if usual else sorted(value.__pydantic_fields_set__),
        )

    def build(v: _Parts, x: Any = None, extra: Any = None, private: Any = None, fields_set: Any = None) -> Any:
        allows = kind.model_config.get("extra") == "allow"
        if extra and not allows:
            raise _NotHere
        due = {field: make for field, make in hidden.items() if field in required or field in (private or ())}
        state = {
            "__dict__": _filled(v, defaults, x) | (x or {}),
            "__pydantic_extra__": extra or {} if allows else extra,
            "__pydantic_private__": _filled(private or {}, due, None) if private or hidden else private,
            "__pydantic_fields_set__": {*v, *(extra or ())} if fields_set is None else set(fields_set),
        }
        own = {name: item for name, item in state.items() if item is not None or name not in none_by_class}
        return _with_attributes(object.__new__(kind), own)

    return _Kind("pydantic", kind, take, build, name)


_PYDANTIC_STATE = ("__pydantic_extra__", "__pydantic_private__", "__pydantic_fields_set__")
_RESERVED = {"__class__", "__dict__", *_PYDANTIC_STATE}  # attributes that bytes may not set


def _may_be_unset(info: Any) -> bool:
    return info.default_factory is None and info.default is sys.modules["pydantic_core"].PydanticUndefined


def _given(**parts: Any) -> _Parts:
    return {key: part for key, part in parts.items() if part is not None}


def _named(attributes: _Parts | None) -> _Parts | None:
    if attributes and not all(type(name) is str for name in attributes):
        raise _Refused("it has an attribute whose name is not a str", "Keep such items in a dict.")
    return None if attributes is None else dict(attributes)


_MISSING = dataclasses.MISSING

_MAKERS: tuple[tuple[Callable[[type], bool], Callable[[Any, str], _Kind]], ...] = (
    (lambda kind: issubclass(kind, enum.Flag), _flag),
    (lambda kind: issubclass(kind, enum.Enum), _enum),
    (_is_named_tuple, _named_tuple),
    (_is_model, _pydantic),
    (dataclasses.is_dataclass, _dataclass),
)


# The parts of each tag that goes with a `t`, checked before a type gets to see them, and without one.


def _shape_record(v: Any, x: Any = None) -> None:
    _check_names(_is(dict, v))
    _check_names({} if x is None else _is(dict, x))


def _shape_pydantic(v: Any, x: Any = None, extra: Any = None, private: Any = None, fields_set: Any = None) -> None:
    _shape_record(v, x)
    _shape_record({} if extra is None else extra, private)
    _check_names([] if fields_set is None else _is(list, fields_set))


def _check_names(names: Iterable[Any]) -> None:
    for name in names:
        _is(str, name)


def _shape_custom(v: Any) -> None: ...


_SHAPES: dict[str, Callable[..., Any]] = {
    "enum": lambda v: _is(str, v),
    "flag": lambda v: _is(int, v),
    "namedtuple": _shape_record,
    "dataclass": _shape_record,
    "pydantic": _shape_pydantic,
    "custom": _shape_custom,
}
_RECORDS = frozenset({"namedtuple", "dataclass", "pydantic"})


# --- what to say of a refused type -----------------------------------------------------------------


def _is_builtin(kind: type) -> bool:
    return kind in _LOWER or kind in _LOWER_CAREFULLY or kind in _SMALL


def _has_builtin_base(kind: type) -> bool:
    return any(_is_builtin(each) for each in kind.__mro__)


_OR_REGISTER = "Or register its type with compile(types=[TypeHook(type, encode, decode)])."
_DESCRIBE = "Store plain data that describes it. " + _OR_REGISTER
_TOO_DEEP = (f"it is nested deeper than {MAX_DEPTH} levels", "Flatten it, or store it as text.")


def _of(*bases: type) -> Callable[[type], bool]:
    return lambda kind: issubclass(kind, bases)


def _with(name: str) -> Callable[[type], bool]:
    return lambda kind: any(name in vars(each) for each in kind.__mro__)  # hasattr would ask the type of the type, too


# The first that applies to a type: what is wrong with its values, and what to do instead.
_ADVICE: tuple[tuple[Callable[[type], bool], str, str], ...] = (
    (lambda kind: not _why_not(kind), "its type is not registered", "Register it with compile(types=[{name}])."),
    (_of(memoryview), "it shows memory that may change", "Store bytes(value) instead."),
    (_of(io.IOBase), "an open file belongs to this process", "Store its name instead."),
    (_of(BaseException), "an exception is more than data", "Store the name of its type and str(error)."),
    (_of(types.ModuleType), "code is not data", "Store its name instead."),
    (_with("__call__"), "code is not data", "Store its name instead, and look it up where it is used."),
    (_with("__next__"), "reading it would use it up", "Store list(value) instead."),
    (_with("tolist"), "arrays are not known here", "Store value.tolist() instead."),
    (_has_builtin_base, "it would come back as a plain {base}", "Convert it with {base}(). " + _OR_REGISTER),
    (lambda kind: True, "its type is not known", _DESCRIBE),
)


# --- the types that an annotation mentions ---------------------------------------------------------


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
            if _is_class(hint) and not _why_not(hint):
                found.add(hint)
    return found


def _is_class(hint: Any) -> bool:
    return isinstance(hint, type) and typing.get_origin(hint) is None


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
    if _is_class(hint):
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
    if not (hasattr(kind, "__required_keys__") or any(applies(kind) for applies, _ in _MAKERS)):
        return ()
    models = [info.annotation for info in kind.model_fields.values()] if _is_model(kind) else []  # generics: filled in
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
