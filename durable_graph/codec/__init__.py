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

The files: `kind.py` says what is known of a type. `builtin.py` and `moments.py` are the builtin ones; `enums.py` and
`records.py` those that `registered.py` registers, `hooks.py` has help for others, and `mentioned.py` finds them in a
schema. `writing.py` and `reading.py` are the two walks, `unregistered.py` and `shapes.py` what passes through both.
What cannot be stored: `refusing.py` says why, `locating.py` where. `sealed.py` is the door to `encryption.py`.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable
from typing import Any

import orjson

from durable_graph.codec.builtin import BY_TYPE, HOLDERS, is_builtin
from durable_graph.codec.hooks import Storable, TypeHook, without_doubles
from durable_graph.codec.kind import MalformedBytesError, Refused
from durable_graph.codec.labels import label_of, type_name
from durable_graph.codec.locating import labelled, locate
from durable_graph.codec.mentioned import storable_types
from durable_graph.codec.reading import Reader, read_plain
from durable_graph.codec.refusing import DESCRIBE, TOO_DEEP
from durable_graph.codec.registered import bad_type, is_class, registered
from durable_graph.codec.sealed import SEALED, KeyIsMissing, Place, Seal, is_sealed, opened
from durable_graph.codec.unregistered import Unregistered
from durable_graph.codec.watch import Watch
from durable_graph.codec.writing import CAREFUL, FAST
from durable_graph.errors import TooLargeError, UnstorableValueError
from durable_graph.limits import MAX_DEPTH, Limits

__all__ = [
    "FORMAT_VERSION",
    "SEALED",
    "Codec",
    "KeyIsMissing",
    "MalformedBytesError",
    "Place",
    "Seal",
    "Storable",
    "TypeHook",
    "Unregistered",
    "Watch",
    "storable_types",
    "without_doubles",
]

FORMAT_VERSION = 1


class Codec:
    """Encodes and decodes values, knowing the builtin types and those registered with it.

    `encode` and `decode` are the bytes of a value. `write` and `read` are what a database gets to see of them: the
    same bytes, or encrypted. Whatever is to be stored goes through these two.
    """

    def __init__(self, types: Iterable[Storable] = (), seal: Seal | None = None, limits: Limits | None = None) -> None:
        self.seal = seal  # None: what is stored is not encrypted
        self.limits = limits or Limits()
        self._reader = Reader({})
        self._fast, self._careful = FAST, CAREFUL
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
        if not is_class(kind) or is_builtin(kind):
            raise bad_type(kind, "is no class that can be registered", "Give a class that you have defined.")
        known = self._fast.kinds.get(kind)
        if known and name in (None, known.name) and encode is decode is None:
            return
        new = registered(kind, name, encode, decode)
        if known:
            raise bad_type(kind, "is registered already", "Register it once, before types are collected.")
        if new.name in self._reader.names:
            raise bad_type(kind, f"another type is named {new.name!r}", "Give one a name of its own, name=...")
        self._reader = Reader({**self._reader.names, new.name: new})
        self._fast, self._careful = self._fast.knowing(new), self._careful.knowing(new)

    @property
    def names(self) -> frozenset[str]:
        """Of the types registered, "module:Class"."""
        return frozenset(self._reader.names)

    def also_reads(self, old: str, name: str) -> None:
        """Values written under the name `old` are read as the registered type `name`: it was moved or renamed."""
        self._reader = Reader({**self._reader.names, old: self._reader.names[name]})

    def encode(self, value: Any, path: str = "", *, spare: int = 0) -> bytes:
        """The bytes of `value`; `path` is what to call it in an error.

        `spare` levels (up to 40) are not counted as nesting: those the caller puts around the user's values.
        """
        depth = MAX_DEPTH - self.limits.nesting - spare
        try:
            return orjson.dumps(self._fast.lower(value, depth))
        except TypeError:  # orjson's: a lone surrogate or an int beyond 64 bits; Refused: to be explained
            return self._encode_carefully(value, path, depth)

    def _encode_carefully(self, value: Any, path: str, depth: int) -> bytes:
        try:
            return orjson.dumps(self._careful.lower(value, depth))
        except TypeError as error:
            place, culprit, refusal = locate(self._careful, value, error, depth)
            facts = {"path": path + place or "The value", "type": type_name(type(culprit))}
            problem, fix = refusal.args if isinstance(refusal, Refused) else (str(refusal), DESCRIBE)
            if refusal.args == TOO_DEEP:
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
            return read_plain(self._reader, data, place)
        return self.decode(opened(self.seal, data, place) if is_sealed(data) else data, strict=strict)

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
            path, size, value = f"{path}[{label_of(label)}]", most, part
        return path, size

    def placeholder_in(self, value: Any, path: str = "") -> tuple[str, Unregistered] | None:
        """The first placeholder in a value and where it is; None if there is none."""
        kind = type(value)
        if kind is Unregistered:
            return path, value
        if kind in BY_TYPE and kind not in HOLDERS:
            return None
        found = (self.placeholder_in(part, path + label) for label, part in labelled(self._fast, value))
        return next((each for each in found if each is not None), None)
