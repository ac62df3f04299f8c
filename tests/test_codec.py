"""Law 9: what is read equals what was written, in value and in type, or writing it fails.

One property over all supported types comes first, then what is refused and how that is said, then bytes that nobody
wrote, then code that has changed since. `golden/codec_v1.json` holds the format to its bytes.
"""

from __future__ import annotations

import abc
import bisect
import collections
import dataclasses
import enum
import functools
import io
import json
import math
import pathlib
import struct
import subprocess
import sys
import threading
import types
import typing
import uuid
import zoneinfo
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Context, Decimal, localcontext
from fractions import Fraction
from typing import Annotated, Any, Generic, Literal, NamedTuple, NotRequired, Optional, TypedDict, TypeVar, Union

import orjson
import pydantic
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from durable_graph import codec as module
from durable_graph.codec import Codec, MalformedBytesError, Unregistered, storable_types
from durable_graph.codec.builtin import BY_TAG
from durable_graph.codec.shapes import SHAPES
from durable_graph.errors import ArgumentError, UnstorableValueError
from durable_graph.limits import MAX_DEPTH

GOLDEN = pathlib.Path(__file__).parent / "golden" / "codec_v1.json"
many = functools.partial(settings, deadline=None, suppress_health_check=list(HealthCheck))


# --- types of an application -------------------------------------------------------------------


class Color(enum.Enum):
    RED = 1
    GREEN = "green"
    ALSO_RED = 1  # noqa: PIE796 - an alias


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Word(enum.StrEnum):
    YES = "yes"


class Access(enum.Flag):
    READ = 1
    WRITE = 2
    ALL = 3


class Mode(enum.IntFlag):
    X = 1
    W = 2


class Point(NamedTuple):
    x: Any
    y: Any = 0


@dataclasses.dataclass(frozen=True)
class Money:
    amount: Any
    currency: str = "EUR"

    def __post_init__(self) -> None:
        CALLS.append("Money.__post_init__")


@dataclasses.dataclass(slots=True, kw_only=True, eq=False)
class Line:
    price: Any
    tags: list[Any] = dataclasses.field(default_factory=list)
    total: Any = dataclasses.field(init=False, default=None)


@dataclasses.dataclass(frozen=True, slots=True)
class Key:
    parts: Any


@dataclasses.dataclass
class Order:
    lines: list[Line]
    first: dataclasses.InitVar[int] = 0

    def __post_init__(self, first: int) -> None:
        self.first_line = first  # an attribute that is no field

    @functools.cached_property
    def size(self) -> int:
        return len(self.lines)


class Person(pydantic.BaseModel):
    name: str
    born: date | None = None
    marks: list[Any] = pydantic.Field(default_factory=list)
    _secret: Any = pydantic.PrivateAttr(default=None)
    _later: Any = pydantic.PrivateAttr()

    @pydantic.field_validator("name")
    @classmethod
    def never_while_reading(cls, value: str) -> str:
        CALLS.append("Person.name")
        return value


class Open(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow", frozen=True)
    id: int = 0


class Amount(pydantic.RootModel[Decimal]):
    _note: Any = pydantic.PrivateAttr(default=None)


class Celsius:
    """Knows nothing of codecs; registered with two functions."""

    def __init__(self, degrees: float) -> None:
        self.degrees = degrees

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Celsius) and other.degrees == self.degrees

    __hash__ = None  # type: ignore[assignment]


CALLS: list[str] = []  # of user code that reading must not call
TYPES = (Color, Level, Word, Access, Mode, Point, Money, Line, Key, Order, Person, Open, Amount)


def a_codec() -> Codec:
    codec = Codec(TYPES)
    codec.register(Celsius, encode=lambda value: {"degrees": value.degrees}, decode=lambda data: Celsius(**data))
    return codec


CODEC = a_codec()


def numbered(cases: list[Any]) -> list[str]:
    return [f"{n} {case[:40]!r}" for n, case in enumerate(cases)]


# --- what "the same" means ---------------------------------------------------------------------


def same(one: Any, other: Any) -> bool:
    """Equal, of exactly the same type, and so is everything inside."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return struct.pack(">d", one) == struct.pack(">d", other)
    if isinstance(one, complex):
        return same((one.real, one.imag), (other.real, other.imag))
    if isinstance(one, (set, frozenset)):
        return len(one) == len(other) and all(any(same(a, b) for b in other) for a in one)
    if isinstance(one, dict):
        return same_insides(one, other) and same([*one.items()], [*other.items()])
    if isinstance(one, (list, tuple, collections.deque)):
        return same_insides(one, other) and len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, (datetime, time)):
        return repr(one) == repr(other) and one.fold == other.fold and same(one.tzinfo, other.tzinfo)
    if type(one) in (timezone, zoneinfo.ZoneInfo, Decimal, range, uuid.UUID):
        return repr(one) == repr(other) and getattr(one, "is_safe", 0) is getattr(other, "is_safe", 0)
    return same_insides(one, other) if insides(one) else bool(one == other)


def same_insides(one: Any, other: Any) -> bool:
    ours, theirs = insides(one), insides(other)
    return ours.keys() == theirs.keys() and all(same(ours[name], theirs[name]) for name in ours)


def insides(value: Any) -> dict[str, Any]:
    if isinstance(value, (enum.Enum, pathlib.PurePath, types.FunctionType)):
        return {}
    pydantics = ("__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__")
    slots = [name for each in type(value).__mro__ for name in vars(each).get("__slots__", ()) if name[:2] != "__"]
    named = {name: getattr(value, name) for name in (*slots, *pydantics, "maxlen") if hasattr(value, name)}
    return named | vars(value) if hasattr(value, "__dict__") else named


def roundtrip(value: Any, codec: Codec = CODEC) -> Any:
    data = codec.encode(value)
    result = codec.decode(data)
    assert codec.encode(result) == data, "writing it again changes the bytes"
    return result


# --- the property --------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=()), max_size=6) | st.sampled_from(["$", "v", "\x00", "\ud83d\ude00"])
integers = st.integers() | st.integers(-(2**70), 2**70) | st.sampled_from([2**63, 2**64 - 1, 2**64, -(2**63) - 1])
floats = st.floats(allow_nan=True, allow_infinity=True) | st.sampled_from([-0.0, math.nan, -math.nan])
offsets = st.timedeltas(timedelta(hours=-23), timedelta(hours=23))
zones = st.timezones() | st.just(UTC) | st.builds(timezone, offsets) | st.builds(timezone, offsets, texts)
folds = st.integers(0, 1)
decimals = st.decimals() | st.sampled_from(
    [Decimal(x) for x in ("NaN", "-NaN123", "sNaN", "-sNaN7", "Infinity", "-0", "0E+9", "-0E-9", "1E+999999", "1.10")]
)
paths = st.builds(pathlib.PurePosixPath, texts, texts) | st.builds(pathlib.PureWindowsPath, texts, texts)


def made(make: Callable[..., Any], *arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.tuples(*arguments).map(lambda drawn: make(*drawn))  # st.builds would guess at further arguments


@st.composite
def moments(draw: Any) -> datetime | time:
    moment: datetime | time = draw(st.datetimes() | st.times())
    return moment.replace(tzinfo=draw(st.none() | zones), fold=draw(folds))


def briefly(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    @st.composite
    def drawn(draw: Any) -> Any:  # hypothesis makes, and warns of, long reprs of strategies in strategies
        return draw(strategy)

    return drawn()


hashable_leaves = briefly(st.one_of(
    st.none(), st.booleans(), integers, floats, texts, st.binary(max_size=5),
    st.builds(complex, floats, floats), moments(), st.dates(), st.timedeltas(), zones,
    decimals.filter(lambda value: not value.is_snan()), st.fractions(), st.uuids(),
    st.builds(range, integers, integers, st.integers(1, 2**65)), paths,
    st.sampled_from([*Color, *Level, *Word, *Access, ~Access.READ, Access(0), Mode.X | Mode.W, Mode(64)]),
))  # fmt: skip
hashables = briefly(st.recursive(
    hashable_leaves,
    lambda inner: st.one_of(
        st.tuples(inner), st.tuples(inner, inner), st.frozensets(inner, max_size=3),
        made(Point, inner, inner), made(Money, inner), made(Key, inner),
        made(Unregistered, texts, inner),
    ),
    max_leaves=4,
))  # fmt: skip


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    dicts = st.dictionaries(hashables, inner, max_size=3)
    lists = st.lists(inner, max_size=3)
    return st.one_of(
        lists, dicts, st.dictionaries(texts, inner, max_size=3), st.sets(hashables, max_size=3),
        lists.map(tuple), st.builds(collections.deque, lists, st.sampled_from([None, 3, 9])),
        dicts.map(collections.OrderedDict), dicts.map(collections.Counter),
        st.builds(collections.defaultdict, st.sampled_from([None, list, int, collections.Counter]), dicts),
        made(Point, inner), made(Money, inner), lines(inner), made(Order, lists, st.integers()),
        people(inner), made(lambda x: Open(id=1, x=x), inner), made(Celsius, inner),
        made(Unregistered, texts, inner),
    )  # fmt: skip


@st.composite
def lines(draw: Any, inner: st.SearchStrategy[Any]) -> Line:
    line = Line(price=draw(inner), tags=draw(st.lists(inner, max_size=2)))
    line.total = draw(inner)
    return line


@st.composite
def people(draw: Any, inner: st.SearchStrategy[Any]) -> Person:
    person = Person(name="Ada", **draw(st.fixed_dictionaries({}, optional={"marks": st.lists(inner, max_size=2)})))
    person._secret = draw(inner)
    return person


values = st.recursive(
    hashable_leaves
    | decimals
    | st.binary(max_size=5).map(bytearray)
    | st.builds(Amount, st.decimals(allow_nan=False, allow_infinity=False)),
    containers,
    max_leaves=12,
)


@given(values)
@many(max_examples=500)
def test_what_is_read_is_what_was_written(value: Any) -> None:
    assert same(roundtrip(value), value)


@given(values)
@many(max_examples=150)
def test_history_can_be_read_without_the_application(value: Any) -> None:
    data = CODEC.encode(value)
    stranger = Codec()
    seen = stranger.decode(data)
    assert stranger.encode(seen) == data  # and be written again as it was
    assert CODEC.encode(seen) == data
    assert same(CODEC.decode(stranger.encode(seen)), value)


@given(values)
@many(max_examples=100)
def test_the_bytes_are_json_without_surprises(value: Any) -> None:
    json.loads(CODEC.encode(value), parse_constant=pytest.fail)


# --- plain values ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [{"n": 5}, {}, [], "", "a\x00b", "€", None, True, 0, -1.5, {"a": {"b": [1, None, "x"]}}, {"v": 1}, 2**64 - 1],
    ids=repr,
)
def test_plain_values_are_plain_json(value: Any) -> None:
    assert CODEC.encode(value) == orjson.dumps(value)
    assert same(roundtrip(value), value)


def test_plain_values_are_not_copied() -> None:
    value = {"messages": [{"role": "user"}, [1.5, 2]], "n": 5}
    assert CODEC._fast.lower(value, 0) == value
    assert CODEC._fast.lower(value["messages"][0], 0) is value["messages"][0]


def test_writing_changes_nothing() -> None:
    value = {"a": [(1, 2), {3}], "b": {"c": {1: 2}}}
    before = repr(value)
    CODEC.encode(value)
    assert repr(value) == before


@pytest.mark.parametrize(
    "value",
    [{"$": "tuple", "v": [1]}, {"$": 1}, {"a": {"$": "tag"}}, {1: "int", "1": "str"}, {True: 1, 0: 2}, {None: 1}],
    ids=repr,
)
def test_nothing_is_taken_for_a_tag(value: Any) -> None:
    assert same(roundtrip(value), value)


def test_the_order_of_keys_is_kept() -> None:
    for keys in (["b", "a"], [2, 1, "x"], [(2,), (1,)]):
        assert list(roundtrip(dict.fromkeys(keys))) == keys


def test_equal_sets_have_equal_bytes() -> None:
    names = [f"name {n}" for n in range(50)]
    assert CODEC.encode(set(names)) == CODEC.encode({*names[25:], *names[:25]})


# --- values worth a word of their own -----------------------------------------------------------------


def test_big_integers_are_not_stopped_by_the_limit_for_decimal_digits() -> None:
    value = {"a": 7**20000, "b": [-(7**20000)], 7**20000: Fraction(7**20000, 3)}
    assert roundtrip(value) == value


@pytest.mark.parametrize("key", ["\ud800", "\udfff\ud800", "a\x00\udcff", "\ud83d\ude00"])  # noqa: PT014 - they differ
def test_lone_surrogates(key: str) -> None:
    for value in (key, {key: key}, [{"plain": 1, key: {key}}], pathlib.PurePosixPath(key), Money(key)):
        assert same(roundtrip(value), value)


def test_time_zones_are_kept() -> None:
    berlin = zoneinfo.ZoneInfo("Europe/Berlin")
    first = datetime(2024, 10, 27, 2, 30, tzinfo=berlin)
    for moment in (
        first,
        first.replace(fold=1),
        datetime.min.replace(tzinfo=berlin),
        time(1, 2, tzinfo=berlin, fold=1),
    ):
        again = roundtrip(moment)
        assert same(again, moment)
        assert again.tzinfo is berlin
    assert roundtrip(first).utcoffset() != roundtrip(first.replace(fold=1)).utcoffset()
    assert CODEC.encode(first) == b'{"$":"datetime","v":"2024-10-27T02:30:00+02:00","tz":"Europe/Berlin"}'
    assert repr(roundtrip(timezone(timedelta(0), "UTC"))) == "datetime.timezone(datetime.timedelta(0), 'UTC')"
    assert roundtrip(UTC) is UTC


def test_a_time_zone_of_the_application() -> None:
    class Mars(tzinfo):
        def utcoffset(self, moment: datetime | None) -> timedelta:
            raise AssertionError("not called")

    codec = Codec()
    moment = datetime(2024, 1, 1, tzinfo=Mars())
    with pytest.raises(UnstorableValueError, match=r"\['at'\]\.tz holds a .*Mars"):
        codec.encode({"at": moment})
    codec.register(Mars, name="mars", encode=lambda zone: None, decode=lambda data: Mars())
    data = codec.encode(moment)
    assert type(codec.decode(data).tzinfo) is Mars
    assert Codec().decode(data).name == "datetime"
    assert Codec().encode(Codec().decode(data)) == data


def test_the_callers_decimal_context_does_not_matter() -> None:
    value = [Decimal("1E+5"), Decimal("1.23456789"), Decimal("sNaN")]
    data = CODEC.encode(value)
    with localcontext(Context(prec=2, capitals=0, traps=[])):
        assert CODEC.encode(value) == data
        assert repr(CODEC.decode(data)) == repr(value)
        with pytest.raises(MalformedBytesError):
            CODEC.decode(b'{"$":"Decimal","v":"abc"}')


def test_uuids_keep_whether_they_are_safe() -> None:
    for safe in uuid.SafeUUID:
        assert roundtrip(uuid.UUID(int=5, is_safe=safe)).is_safe is safe


def test_two_nans_in_a_set_are_two() -> None:
    assert len(roundtrip({math.nan, float("nan")})) == 2


def test_enums_keep_their_members() -> None:
    for member in (*Color, *Level, *Word, Access.READ, Access.READ | Access.WRITE, Access(0)):
        assert roundtrip(member) is member
    assert roundtrip({Color.RED: Word.YES})[Color.RED] is Word.YES


def test_reading_calls_no_constructor_and_no_validator() -> None:
    data = CODEC.encode([Money(5), Person(name="Ada", born=date(1815, 12, 10)), Order([], first=3)])
    CALLS.clear()
    money, person, order = CODEC.decode(data)
    assert CALLS == []
    assert (money, person.born, order.first_line) == (Money(5), date(1815, 12, 10), 3)


def test_pydantic_models_are_kept_whole() -> None:
    person = Person(name="Ada", marks=[(1, 2)])
    person._secret = {1}
    again = roundtrip(person)
    assert again == person
    assert again.model_fields_set == {"name", "marks"}
    assert again._secret == {1}
    with pytest.raises(AttributeError):
        _ = again._later
    again.born = date.today()  # still a working model  # noqa: DTZ011
    assert roundtrip(Open(id=1, **{"$": "x", "other": (1,)})).model_extra == {"$": "x", "other": (1,)}
    amount = Amount(Decimal("1.50"))
    amount._note = "odd: a root model keeps this in another place"
    assert same(roundtrip(amount), amount)
    assert roundtrip(amount)._note == amount._note
    odd = Person.model_construct(name=5, marks="not a list")
    assert same(roundtrip(odd), odd)


def test_dataclasses_are_kept_whole() -> None:
    order = Order([], first=7)
    assert order.size == 0  # cached now
    assert vars(roundtrip(order)) == {"lines": [], "first_line": 7, "size": 0}

    T = TypeVar("T")

    @dataclasses.dataclass
    class Box(Generic[T]):
        item: T

    assert roundtrip(Box[int](5), Codec([Box])) == Box(5)

    @pydantic.dataclasses.dataclass
    class Checked:
        item: int = pydantic.Field(default=3)

    assert roundtrip(Checked(), Codec([Checked])) == Checked()


def test_slots_of_base_classes_and_attributes_of_tuples_are_kept() -> None:
    class Base:
        __slots__ = ("__hidden", "note")

        def hide(self, value: Any) -> Any:
            self.__hidden = value
            return self

        def hidden(self) -> Any:
            return self.__hidden

    @dataclasses.dataclass
    class Derived(Base):
        item: int

    class Labelled(collections.namedtuple("Labelled", "x")):
        label = ""

    labelled = Labelled(1)
    labelled.label = "one"  # type: ignore[misc]
    codec = Codec([Derived, Labelled])
    assert roundtrip(Derived(1).hide((2,)), codec).hidden() == (2,)
    assert roundtrip(labelled, codec).label == "one"


# --- what is refused -------------------------------------------------------------------------------

Unknown = dataclasses.make_dataclass("Unknown", ["x"], namespace={"__module__": "app"})


class Text(str):
    __slots__ = ()


class Plane(tuple):
    __slots__ = ()


class Day(date):
    pass


class Unhashable(type):
    __hash__ = None  # type: ignore[assignment]


class OfAnUnhashableType(metaclass=Unhashable):
    pass


def a_generator() -> Iterator[int]:
    yield 1


def an_ordered_dict_with_more() -> Any:
    result = collections.OrderedDict(a=1)
    result.more = 1  # type: ignore[attr-defined]
    return result


REFUSED: list[tuple[Any, str]] = [
    ({"order": {"lines": [1, 2, 3, Line(price=Unknown(1))]}},
     ("['order']['lines'][3].price holds a app.Unknown, which cannot be stored faithfully: its type is not "
      "registered. Register it with compile(types=[Unknown]).")),
    (Unknown(1), "The value holds a app.Unknown, "),
    ({"a": (1, {"b": object()})}, "['a'][1]['b'] holds a object, "),
    ({(1, object()): 1}, ".keys()[0][1] holds a object, "),
    ({"k": {1: 2, Plane(): 3}}, "['k'].keys()[1] holds a "),
    ({Text("k"): 1}, ".keys()[0] holds a "),
    ([{Color.RED: object()}], "[0][<tests.test_codec.Color>] holds a object, "),
    ({"x" * 100: object()}, "['" + "x" * 49 + "...'] holds a object, "),
    (collections.deque([1, object()]), "[1] holds a object, "),
    ({1.5: {Key(object())}}, "[1.5]{<tests.test_codec.Key>}.parts holds a object, "),
    (Order([], first=object()), ".first_line holds a object, "),  # type: ignore[arg-type]
    (Person(name="x", marks=[object()]), ".marks[0] holds a object, "),
    (Open(thing=object()), ".thing holds a object, "),
    (Celsius(object()), ".<encoded>['degrees'] holds a object, "),  # type: ignore[arg-type]
    (Unregistered("x", [object()]), ".data[0] holds a object, "),
    (Text("x"), "it would come back as a plain str. Convert it with str(). Or register "),
    (Plane((1,)), "it would come back as a plain tuple"),
    (Day(2024, 1, 1), "it would come back as a plain date"),
    (memoryview(b"x"), "Store bytes(value) instead."),
    (io.BytesIO(), "Store its name instead."),
    (ValueError("x"), "Store the name of its type and str(error)."),
    (print, "Store its name instead, and look it up"),
    (lambda: 1, "Store its name instead, and look it up"),
    (Money, "holds a type, "),
    (math, "Store its name instead."),
    (a_generator(), "Store list(value) instead."),
    (collections.defaultdict(lambda: 1), "default_factory is code. Use a builtin type such as list"),
    (collections.defaultdict(Money), "default_factory is code"),
    (an_ordered_dict_with_more(), "it has attributes besides its items"),
    ([OfAnUnhashableType()], "[0] holds a "),
    (threading.Lock(), "Store plain data that describes it. Or register"),
    (slice(1), "Store plain data that describes it."),
    (Unregistered("x", 5, tag="nothing"), "nothing could read it"),
    (Unregistered("x", 5, tag="dataclass"), "nothing could read it"),
    (Unregistered("x", "nonsense", tag="date"), "nothing could read it"),
    (Unregistered(5, 5), "its name is not a str"),  # type: ignore[arg-type]
    (object.__new__(Line), "its field 'price' has no value"),
    (Person.model_construct(), "its field 'name' has no value"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "message"), REFUSED, ids=numbered([message for _, message in REFUSED]))
def test_refusals_say_where_what_and_what_to_do(value: Any, message: str) -> None:
    with pytest.raises(UnstorableValueError) as caught:
        CODEC.encode(value)
    assert message.replace("tests.test_codec", __name__) in str(caught.value)
    with pytest.raises(TypeError, match=r"^update\b"):
        CODEC.encode({1: value}, "update")


@given(values, st.sampled_from([object(), Text("x"), Unknown(1)]))
@many(max_examples=100)
def test_one_bad_value_anywhere_is_found(value: Any, bad: Any) -> None:
    with pytest.raises(UnstorableValueError) as caught:
        CODEC.encode({"good": value, "bad": [value, {"here": bad}]})
    assert caught.value.facts["path"] == "['bad'][1]['here']"


@pytest.mark.skipif(not zoneinfo.TZPATH, reason="the zones come as a package: there is no file to open")
@pytest.mark.parametrize("key", [None, "No/Such_Zone", "../UTC"])
def test_a_zone_that_no_key_stands_for(key: str | None) -> None:
    with pathlib.Path(zoneinfo.TZPATH[0], "UTC").open("rb") as file:
        zone = zoneinfo.ZoneInfo.from_file(file, key=key)
    for value in (zone, datetime(2024, 1, 1, tzinfo=zone)):
        with pytest.raises(UnstorableValueError, match="no zone can be found by its key"):
            CODEC.encode(value)


def test_an_encode_function_that_fails() -> None:
    class Broken:
        def fail(self) -> None:
            raise KeyError("why")

    codec = Codec()
    codec.register(Broken, encode=Broken.fail, decode=Broken)
    with pytest.raises(UnstorableValueError, match=r"\['a'\] holds .*raised KeyError: 'why'") as caught:
        codec.encode({"a": Broken()})
    assert isinstance(caught.value.__cause__, KeyError)


def test_cycles() -> None:
    items: list[Any] = [1]
    items.append({"again": items})
    with pytest.raises(UnstorableValueError, match=r"^\[1\]\['again'\] holds a list, .*: it contains itself"):
        CODEC.encode(items)
    line = Line(price=0)
    line.price = (line, line)
    with pytest.raises(UnstorableValueError, match=r"^\['x'\]\.price\[0\] holds a .*: it contains itself"):
        CODEC.encode({"x": line})
    both: dict[Any, Any] = {}
    both[1] = both[2] = [both, both]
    with pytest.raises(UnstorableValueError, match="it contains itself"):
        CODEC.encode(both)


def nested(levels: int, wrap: Callable[[Any], Any]) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = wrap(value)
    return value


WRAPS: dict[str, Callable[[Any], Any]] = {
    "list": lambda x: [x],
    "dict": lambda x: {"a": x},
    "dict of pairs": lambda x: {1: x},
    "dict with a late key": lambda x: {"a": x, 1: 2},
    "tuple": lambda x: (x,),
    "frozenset": lambda x: frozenset([x]),
    "dataclass": Money,
    "pydantic": lambda x: Person(name="", marks=[x]),
    "custom": Celsius,
    "Unregistered": lambda x: Unregistered("x", x),
}


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
def test_nesting_ends_in_an_error_of_ours(wrap: Callable[[Any], Any]) -> None:
    deepest = bisect.bisect(range(MAX_DEPTH + 2), 0, key=lambda n: not storable(nested(n, wrap))) - 1
    assert deepest >= MAX_DEPTH // 4
    assert roundtrip(nested(deepest, wrap)) == nested(deepest, wrap)
    for more in (1, 2, MAX_DEPTH):
        with pytest.raises(UnstorableValueError, match="nested deeper than 200 levels") as caught:
            CODEC.encode(nested(deepest + more, wrap))
        assert len(str(caught.value)) < 600


def storable(value: Any) -> bool:
    try:
        CODEC.encode(value)
    except UnstorableValueError:
        return False
    return True


def test_levels_of_the_caller_are_not_counted() -> None:
    deepest = nested(MAX_DEPTH, lambda x: [x])
    data = CODEC.encode(nested(40, lambda x: {"engine": x}) | {"update": {"x": deepest}}, spare=40)
    assert CODEC.decode(data)["update"]["x"] == deepest
    with pytest.raises(UnstorableValueError, match="deeper"):
        CODEC.encode({"update": [[deepest]]}, spare=1)


def test_very_deep_values_do_not_exhaust_the_stack() -> None:
    for wrap in (lambda x: [x], lambda x: {"a": x}, lambda x: (x,)):
        with pytest.raises(UnstorableValueError, match="deeper"):
            CODEC.encode(nested(50_000, wrap))


def test_near_the_recursion_limit() -> None:
    value = {"a": [(1, {2}), Money(Decimal(1))], "n": 2**70}
    data = CODEC.encode(value)

    def fall() -> Any:
        try:
            return fall()
        except RecursionError:  # with each frame that is given up there is more room; there is never half a result
            return CODEC.decode(CODEC.encode(value)), CODEC.encode(CODEC.decode(data))

    assert fall() == (value, data)


# --- bytes that nobody wrote ---------------------------------------------------------------------------

HOSTILE = [
    b"", b"{", b"nul", b"\xff", b"[1,]", b"NaN", b'"\xed\xa0\x80"', b"\x00", b"\xef\xbb\xbf1",
    b'{"$":"nosuch","v":1}', b'{"$":1}', b'{"$":null}', b'{"$":[],"v":[]}', b'{"$":{"$":"tuple","v":[]},"v":[]}',
    b'{"$":"tuple"}', b'{"$":"tuple","v":1}', b'{"$":"tuple","v":"abc"}', b'{"$":"tuple","v":[],"x":1}',
    b'{"$":"tuple","v":{"$":"tuple","v":[]}}', b'{"$":"tuple","v":[],"t":"x"}', b'{"v":[{"$":"tuple"}]}',
    b'{"$":"set","v":[[]]}', b'{"$":"set","v":[1,1]}', b'{"$":"set","v":[1,1.0]}', b'{"$":"set","v":[{}]}',
    b'{"$":"dict","v":[[1]]}', b'{"$":"dict","v":[[1,2,3]]}', b'{"$":"dict","v":["ab"]}', b'{"$":"dict","v":{}}',
    b'{"$":"dict","v":[[[],1]]}', b'{"$":"dict","v":[[1,1],[1,2]]}', b'{"$":"Counter","v":5}',
    b'{"$":"defaultdict","v":[]}', b'{"$":"defaultdict","v":[],"factory":"eval"}',
    b'{"$":"defaultdict","v":[],"factory":["list"]}', b'{"$":"deque","v":[]}', b'{"$":"deque","v":[1],"maxlen":0}',
    b'{"$":"deque","v":[],"maxlen":true}', b'{"$":"deque","v":[],"maxlen":-1}', b'{"$":"deque","v":[],"maxlen":1e30}',
    b'{"$":"deque","v":[],"maxlen":{"$":"int","v":"0xffffffffffffffffff"}}',
    b'{"$":"str","v":"a"}', b'{"$":"str","v":"//8="}', b'{"$":"str","v":5}', b'{"$":"bytes","v":"=="}',
    b'{"$":"bytes","v":"YQ==\\n"}', "{'$':'bytes','v':'é'}".replace("'", '"').encode(), b'{"$":"bytes","v":[1]}',
    b'{"$":"int","v":"1"}', b'{"$":"int","v":"0x"}', b'{"$":"int","v":"0x_1"}', b'{"$":"int","v":" 0x1"}',
    b'{"$":"int","v":1}', b'{"$":"int","v":"' + b"9" * 10000 + b'"}', b'{"$":"float","v":"1.5"}',
    b'{"$":"float","v":1.5}', b'{"$":"float","v":"3ff0000000000000"}', b'{"$":"float","v":"7f"}',
    b'{"$":"float","v":["nan"]}', b'{"$":"complex","v":[1,2]}', b'{"$":"complex","v":[1.0]}',
    b'{"$":"complex","v":1.0}', b'{"$":"date","v":"2024-13-01"}', b'{"$":"date","v":5}',
    b'{"$":"datetime","v":"2024-01-01T25:00:00"}', b'{"$":"datetime","v":"x"}',
    b'{"$":"datetime","v":"2024-01-01T00:00:00","fold":2}', b'{"$":"datetime","v":"2024-01-01T00:00:00","fold":true}',
    b'{"$":"datetime","v":"2024-01-01T00:00:00","tz":5}', b'{"$":"datetime","v":"2024-01-01T00:00:00","tz":"../UTC"}',
    b'{"$":"datetime","v":"2024-01-01T00:00:00","tz":"/etc/passwd"}', b'{"$":"time","v":"1"}', b'{"$":"time","v":""}',
    b'{"$":"zone","v":"../../etc/passwd"}', b'{"$":"zone","v":""}', b'{"$":"zone","v":"a\\u0000"}',
    b'{"$":"zone","v":"os.path/x"}', b'{"$":"zone","v":"' + b"a" * 5000 + b'"}', b'{"$":"zone","v":[]}',
    b'{"$":"timezone","v":""}', b'{"$":"timezone","v":"+25:00"}', b'{"$":"timezone","v":"+01:00","name":1}',
    b'{"$":"timedelta","v":[1]}', b'{"$":"timedelta","v":[1,2,true]}', b'{"$":"timedelta","v":[9999999999,0,0]}',
    b'{"$":"timedelta","v":[{"$":"int","v":"0xffffffffffffffffffffffff"},0,0]}',
    b'{"$":"Decimal","v":"x"}', b'{"$":"Decimal","v":" 1"}', b'{"$":"Decimal","v":"1_0"}', b'{"$":"Decimal","v":1}',
    b'{"$":"Decimal","v":"1E+99999999999999999999"}', b'{"$":"Fraction","v":[1,0]}', b'{"$":"Fraction","v":["1",2]}',
    b'{"$":"UUID","v":"x"}', b'{"$":"UUID","v":"{00000000-0000-0000-0000-000000000000}"}', b'{"$":"UUID","v":0}',
    b'{"$":"UUID","v":"00000000-0000-0000-0000-000000000000","safe":5}', b'{"$":"range","v":[0,1,0]}',
    b'{"$":"range","v":[0,1]}', b'{"$":"range","v":[0,1,1.0]}', b'{"$":"PurePosixPath","v":1}',
    b'{"$":"enum","v":"RED"}', b'{"$":"enum","t":1,"v":"RED"}', b'{"$":"enum","t":"x","v":1}',
    b'{"$":"flag","t":"x","v":"1"}',
    b'{"$":"dataclass","t":"x"}', b'{"$":"dataclass","t":"x","v":[]}', b'{"$":"dataclass","t":"x","v":{},"y":1}',
    b'{"$":"dataclass","t":"x","v":{"$":"dict","v":[[1,2]]}}', b'{"$":"dataclass","t":"x","v":{},"x":5}',
    b'{"$":"pydantic","t":"x","v":{},"fields_set":[1]}', b'{"$":"pydantic","t":"x","v":{},"private":[]}',
    b'{"$":"pydantic","t":"x","v":{},"fields_set":{}}', b'{"$":"custom","t":"x"}', b'{"$":"custom","v":1}',
    b'{"$":"custom","t":"x","v":1,"self":2}', b"[" * 5000, b'{"$":"tuple","v":[' * 100_000,
    b'{"$":"tuple","v":[' * 500 + b"]}" * 500, b"[" * 900 + b'{"$":"tuple","v":[]}' + b"]" * 900,
]  # fmt: skip


@pytest.mark.parametrize("codec", [Codec(), CODEC], ids=["empty", "full"])
@pytest.mark.parametrize("data", HOSTILE, ids=numbered(HOSTILE))
def test_malformed_bytes(data: bytes, codec: Codec) -> None:
    with pytest.raises(MalformedBytesError):
        codec.decode(data)


def test_an_escaped_tag_is_a_tag() -> None:
    assert CODEC.decode(b'{"\\u0024":"tuple","v":[1]}') == (1,)
    assert CODEC.decode(b' { "$" : "tuple", "v" : [ 1 ] } ') == (1,)


@given(st.binary(max_size=60))
@many(max_examples=300)
def test_any_bytes(data: bytes) -> None:
    a_value_or_malformed(data)


@given(values, st.data())
@many(max_examples=300)
def test_damaged_bytes(value: Any, data: st.DataObject) -> None:
    damaged = bytearray(CODEC.encode(value))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(damaged)))
        damaged[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2) | snippets)
    a_value_or_malformed(bytes(damaged))


snippets = st.sampled_from(
    [b'{"$":"tuple","v":[]}', b"null", b"[]", b"{}", b'"', b"1", b"-", b'"t":', b"e9", b"\\u0000"]
)
tags = st.sampled_from([*BY_TAG, *SHAPES, "tuple", "set", "dict", "dataclass"])
names = st.sampled_from([f"{each.__module__}:{each.__qualname__}" for each in (*TYPES, Celsius)] + ["os:system"])
fields = st.sampled_from(
    ["__dict__", "_secret", "amount", "currency", "x", "y", "name", "marks", "price", "parts", "$", "degrees", "id"]
)
scalars = st.sampled_from(
    [
        None,
        True,
        0,
        1,
        -1,
        2**64 - 1,
        0.5,
        "",
        "RED",
        "nan",
        "0x1f",
        "YQ==",
        "Europe/Berlin",
        "2024-01-01",
        "+01:00",
        "name",
    ]
)
parts = st.sampled_from(["v", "tz", "fold", "x", "extra", "private", "fields_set", "maxlen", "factory", "name", "safe"])


def documents(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    tagged = st.fixed_dictionaries({"$": tags, "v": inner})
    typed = st.fixed_dictionaries({"$": tags, "t": names, "v": inner | st.dictionaries(fields, inner, max_size=2)})
    more = st.dictionaries(parts, inner, max_size=2)
    return st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(fields, inner, max_size=3), tagged, typed,
        st.builds(dict.__or__, tagged, more), st.builds(dict.__or__, typed, more),
    )  # fmt: skip


@given(st.recursive(scalars, documents, max_leaves=10))
@many(max_examples=900)
@example({"$": "dataclass", "t": f"{__name__}:Money", "v": {"amount": 1}, "x": {"__class__": 1}})
@example({"$": "pydantic", "t": f"{__name__}:Open", "v": {"id": 1}, "extra": {"__class__": []}})
@example({"$": "dataclass", "t": f"{__name__}:Money", "v": {"amount": 1}, "x": {"__dict__": {}}})
@example({"$": "pydantic", "t": f"{__name__}:Person", "v": {"name": 1}, "x": {"__pydantic_private__": {}}})
@example({"$": "set", "v": [{"$": "custom", "t": f"{__name__}:Celsius", "v": {"degrees": 1}}]})
def test_forged_documents(document: Any) -> None:
    a_value_or_malformed(orjson.dumps(document))


def a_value_or_malformed(data: bytes) -> None:
    for codec in (CODEC, Codec()):
        try:
            value = codec.decode(data)
        except MalformedBytesError:
            continue
        again = codec.encode(value)  # whatever could be read can be written
        assert codec.encode(codec.decode(again)) == again


def test_reading_imports_nothing_and_calls_nothing() -> None:
    before = set(sys.modules)
    for name in ("antigravity:fly", "this:d", "os:system", "builtins:eval", "idlelib:testing"):
        for document in ({"$": "custom", "v": "exit()"}, {"$": "dataclass", "v": {}}, {"$": "enum", "v": "A"}):
            value = Codec().decode(orjson.dumps({"$": document["$"], "t": name, "v": document["v"]}))
            assert (type(value), value.name, value.data) == (Unregistered, name, document["v"])
    assert set(sys.modules) == before


def test_pydantic_is_never_imported() -> None:
    program = """if True:
        import sys
        from durable_graph.codec import Codec
        value = Codec().decode(b'{"$":"pydantic","t":"x:Y","v":{}}')
        try:
            Codec().encode(object())
        except TypeError:
            sys.exit("pydantic" in sys.modules)
    """
    assert subprocess.run([sys.executable, "-c", program], check=False, cwd=GOLDEN.parents[2]).returncode == 0


# --- code that has changed since -------------------------------------------------------------------------


def read_by(new: type, data: bytes) -> Any:
    codec = Codec()
    codec.register(new, name="app:Thing")
    value = codec.decode(data)
    assert type(value) in (new, Unregistered)
    assert type(value) is new or codec.encode(value) == data
    return value


def written_by(kind: type, *args: Any, **kwargs: Any) -> bytes:
    codec = Codec()
    codec.register(kind, name="app:Thing")
    return codec.encode(kind(*args, **kwargs))


def forbidden() -> Any:
    raise AssertionError("reading must not call a factory of the application")


def dataclass_with(*fields: Any) -> type:
    return dataclasses.make_dataclass("Thing", fields)


def made_by(factory: Callable[[], Any]) -> Any:
    return dataclasses.field(default_factory=factory)


def not_in_init(default: Any) -> Any:
    return dataclasses.field(default=default, init=False)


OLD = dataclass_with("a", "b")


@pytest.mark.parametrize(
    ("fields", "read"),
    [
        pytest.param(["b", "a"], {"a": 1, "b": 2}, id="order"),
        pytest.param(["a", "b", ("c", int, 5)], {"a": 1, "b": 2, "c": 5}, id="default"),
        pytest.param(["a", "b", ("c", int, made_by(list))], {"a": 1, "b": 2, "c": []}, id="builtin factory"),
        pytest.param(["a", "b", ("c", int, not_in_init(7))], {"a": 1, "b": 2, "c": 7}, id="init=False"),
        pytest.param(["a", "b", ("c", int, made_by(forbidden))], None, id="factory of the application"),
        pytest.param(["a", "b", "c"], None, id="no default"),
        pytest.param(["a"], None, id="lost"),
        pytest.param(["a", "c"], None, id="renamed"),
    ],
)
def test_a_dataclass_that_has_changed(fields: list[Any], read: dict[str, Any] | None) -> None:
    value = read_by(dataclass_with(*fields), written_by(OLD, 1, 2))
    assert (value == Unregistered("app:Thing", {"a": 1, "b": 2}, "dataclass")) if read is None else vars(value) == read


def test_a_model_that_has_changed() -> None:
    class Old(pydantic.BaseModel):
        a: int
        _p: int = 1

    class More(Old):
        b: list[int] = [5]  # noqa: RUF012 - pydantic copies it
        c: dict[str, int] = pydantic.Field(default_factory=dict)
        _q: set[int] = pydantic.PrivateAttr(default_factory=set)

    class Fewer(pydantic.BaseModel):
        pass

    class Costly(Old):
        b: int = pydantic.Field(default_factory=forbidden)

    class Secretive(Old):
        _r: int = pydantic.PrivateAttr(default_factory=forbidden)

    class Required(Old):
        b: int

    class Extras(Old):
        model_config = pydantic.ConfigDict(extra="allow")

    data = written_by(Old, a=1)
    more = read_by(More, data)
    assert (more.a, more.b, more.c, more._p, more._q, more.model_fields_set) == (1, [5], {}, 1, set(), {"a"})
    assert more.b is not read_by(More, data).b
    for other in (Fewer, Costly, Secretive, Required):
        assert read_by(other, data) == Unregistered("app:Thing", {"a": 1}, "pydantic", {"private": {"_p": 1}})
    assert read_by(Extras, data).model_extra == {}
    extra = written_by(Extras, a=1, b=2)
    assert type(read_by(Extras, extra)) is Extras
    assert type(read_by(Old, extra)) is Unregistered


def test_a_named_tuple_that_has_changed() -> None:
    data = written_by(collections.namedtuple("Thing", "a b"), 1, 2)
    assert read_by(collections.namedtuple("Thing", "b a c", defaults=[3]), data) == (2, 1, 3)
    assert read_by(collections.namedtuple("Thing", "a"), data).data == {"a": 1, "b": 2}


def test_an_enum_that_has_changed() -> None:
    class Surprising(enum.Enum):
        A = 1

        @classmethod
        def _missing_(cls, value: object) -> Any:
            raise AssertionError("not called")

    old = enum.Enum("Thing", {"A": 1, "B": 2})
    codec = Codec()
    codec.register(old, name="app:Thing")
    assert read_by(Surprising, codec.encode(old["A"])) is Surprising.A
    assert read_by(Surprising, codec.encode(old["B"])) == Unregistered("app:Thing", "B", "enum")
    assert Codec().decode(codec.encode({old["A"]: 1, old["B"]: 2}))[Unregistered("app:Thing", "B", "enum")] == 2

    flags = enum.Flag("Thing", {"A": 1, "B": 2})
    codec = Codec()
    codec.register(flags, name="app:Thing")
    fewer = enum.Flag("Thing", {"A": 1})
    assert read_by(fewer, codec.encode(flags["B"] | flags["A"])) == Unregistered("app:Thing", 3, "flag")


def test_a_type_of_another_kind_under_the_same_name() -> None:
    data = written_by(OLD, 1, 2)
    assert type(read_by(enum.Enum("Thing", "a b"), data)) is Unregistered


def test_a_decode_function_that_fails() -> None:
    def fail(data: Any) -> Any:
        data.clear()
        raise KeyError("why")

    codec = Codec([Money])
    codec.register(Celsius, encode=lambda value: [value.degrees], decode=fail)
    data = codec.encode([Celsius(Money(5))])  # type: ignore[arg-type]
    value = codec.decode(data)
    assert value[0].data == [Unregistered(f"{__name__}:Money", {"amount": 5, "currency": "EUR"}, "dataclass")]
    assert codec.encode(value) == data


def test_keys_that_no_longer_hash_or_differ() -> None:
    @dataclasses.dataclass(frozen=True)
    class Old:
        a: Any

    @dataclasses.dataclass
    class Unhashable:
        a: Any

    class Same(Old):  # takes any two for one
        def __eq__(self, other: object) -> bool:
            return isinstance(other, Old)

        def __hash__(self) -> int:
            return 1

    writer = Codec()
    writer.register(Old, name="thing")
    data = writer.encode([{Old(1): 1, Old(2): 2}, {Old(1), (Old(2), Old(3))}, collections.Counter([Old(1)])])
    for new in (Unhashable, Same):
        codec = Codec()
        codec.register(new, name="thing")
        value = codec.decode(data)
        assert value[0][Unregistered("thing", {"a": 2}, "dataclass")] == 2
        assert codec.encode(value) == data


def test_what_another_machine_has() -> None:
    here = pathlib.PurePath("x").__class__
    elsewhere = "WindowsPath" if here is pathlib.PurePosixPath else "PosixPath"
    for data in (
        orjson.dumps({"$": elsewhere, "v": "x"}),
        b'{"$":"zone","v":"Mars/Olympus"}',
        b'{"$":"datetime","v":"2024-01-01T00:00:00+02:00","tz":"Mars/Olympus","fold":1}',
    ):
        value = CODEC.decode(data)
        assert type(value) is Unregistered
        assert CODEC.encode(value) == data
        assert CODEC.decode(CODEC.encode({value: [value]})) == {value: [value]}


def test_placeholders_are_values() -> None:
    one = Unregistered("app:Money", {"amount": Decimal("1.5"), "tags": [1]})
    assert repr(one) == "Unregistered(name='app:Money', data={'amount': Decimal('1.5'), 'tags': [1]})"
    two = Unregistered("app:Money", {"tags": [1], "amount": Decimal("1.50")})
    assert one == two
    assert hash(one) == hash(two)
    assert one != Unregistered("app:Money", {})
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.name = "other"  # type: ignore[misc]


@dataclasses.dataclass
class Box:
    content: Any


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (Money(1, "EUR"), ""),
        ([1, "a", b"a", Money(1, "EUR")], "[3]"),
        ({"a": {"b": (1, Money(1, "EUR"))}}, "['a']['b'][1]"),
        ({Money(1, "EUR"): 1}, ".keys()[0]"),
        (collections.deque([collections.OrderedDict(a=Money(1, "EUR"))]), "[0]['a']"),
        (frozenset([Money(1, "EUR")]), "{<durable_graph.codec.Unregistered>}"),
        (Box(Money(1, "EUR")), ".content"),
        ([1.5, {"a": "b"}, Decimal(1), Box(1)], None),
    ],
)
def test_finding_placeholders(value: Any, path: str | None) -> None:
    data = Codec([Money, Box]).encode(value)
    codec = Codec([Box])
    watch = codec.watching()
    read = watch.decode(data)
    name = f"{__name__}:Money"
    assert watch.met == (set() if path is None else {name})
    expected = None if path is None else (f"x{path}", Unregistered(name, {"amount": 1, "currency": "EUR"}, "dataclass"))
    assert codec.placeholder_in(read, "x") == expected
    assert codec.decode(data) == read


def test_a_watch_knows_of_placeholders_below_what_fails() -> None:
    """What a decode function refuses is read again without any registered type."""

    def fail(data: Any) -> Any:
        raise KeyError("why")

    codec = Codec([Money])
    codec.register(Celsius, encode=lambda value: [value.degrees], decode=fail)
    watch = codec.watching()
    watch.decode(codec.encode([Celsius(Money(5))]))  # type: ignore[arg-type]
    assert watch.met == {f"{__name__}:Money", f"{__name__}:Celsius"}


def test_types_that_have_moved() -> None:
    old = Codec()
    old.register(Money, name="shop:Money")
    data = old.encode([Money(1, "EUR")])
    new = Codec([Money])
    assert type(new.decode(data)[0]) is Unregistered
    new.also_reads("shop:Money", f"{__name__}:Money")
    assert new.decode(data) == [Money(1, "EUR")]
    assert b"shop:Money" not in new.encode(new.decode(data))
    assert new.names == {"shop:Money", f"{__name__}:Money"}


def test_many_placeholders_as_keys_stay_quick() -> None:
    data = CODEC.encode({Money(n, "EUR") for n in range(5000)})
    assert len(Codec().decode(data)) == 5000


# --- registering -----------------------------------------------------------------------------------------


def test_a_name_of_ones_own_survives_a_move() -> None:
    codec = Codec()
    codec.register(Money, name="money")
    assert orjson.loads(codec.encode(Money(1)))["t"] == "money"
    assert same(roundtrip(Money(1), codec), Money(1))


def test_registering_twice_is_fine_if_it_means_the_same() -> None:
    codec = Codec([Money, Money])
    codec.register(Money)
    codec.register(Point, name="p")
    codec.register(Point)  # as found in a schema: the name given before stands
    codec.register(Celsius, encode=lambda x: x.degrees, decode=Celsius)
    codec.register(Celsius)
    assert orjson.loads(codec.encode(Point(1)))["t"] == "p"


@dataclasses.dataclass
class Abstract(abc.ABC):
    @abc.abstractmethod
    def size(self) -> int: ...


@dataclasses.dataclass
class Failure(Exception):
    code: int = 0


@dataclasses.dataclass
class Resource:
    handle: int = 0

    def __del__(self) -> None: ...


@dataclasses.dataclass
class Active:
    @property
    def x(self) -> int:
        return 1

    @x.setter
    def x(self, value: Any) -> None: ...

    x: int = x  # type: ignore[no-redef]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((object,), "is not an enum, a NamedTuple, a dataclass or a pydantic model. Register it with an encode"),
        ((Celsius,), "is not an enum"),
        ((Abstract,), "cannot be rebuilt from its fields"),
        ((Failure,), "cannot be rebuilt from its fields"),
        ((Resource,), "has a __del__ method"),
        ((Active,), "has code behind its field 'x'"),
        ((int,), "is no class that can be registered"),
        ((dict,), "is no class that can be registered"),
        ((Unregistered,), "is no class that can be registered"),
        ((list[int],), "is no class that can be registered"),
        ((5,), "5: is no class that can be registered"),
        (([],), "is no class that can be registered"),
    ],
    ids=str,
)
def test_types_that_cannot_be_registered(args: Any, message: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        Codec().register(*args)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("changes", [{"encode": str}, {"decode": str}, {"name": 5}, {"name": "\ud800"}])
def test_arguments_that_make_no_sense(changes: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError):
        Codec().register(Money, **changes)


def test_two_types_of_one_name() -> None:
    other = dataclasses.make_dataclass("Money", ["x"], namespace={"__module__": __name__})
    codec = Codec([Money])
    with pytest.raises(ArgumentError, match=r"another type is named '.*:Money'"):
        codec.register(other)
    with pytest.raises(ArgumentError, match="is registered already"):
        codec.register(Money, name="other")
    codec.register(other, name="other")
    assert roundtrip([Money(1), other(2)], codec) == [Money(1), other(2)]


def test_any_type_goes_with_two_functions() -> None:
    codec = Codec()
    codec.register(Text, encode=str, decode=Text)
    codec.register(Failure, encode=lambda error: error.code, decode=Failure)
    value = {Text("x"): [Text("y")], "e": Failure(3)}
    again = roundtrip(value, codec)
    assert [type(key) for key in again] == [Text, str]
    assert again["e"].code == 3


# --- annotations -----------------------------------------------------------------------------------------


class Tree(NamedTuple):
    color: Color
    children: list[Tree]


class Inner(TypedDict, total=False):
    level: Level
    again: Inner


class State(Inner):
    messages: Annotated[list[Money], lambda old, new: [*old, *new]]
    maybe: Optional[Person]  # noqa: UP045
    either: Union[Line, str] | dict[Key, Point]  # noqa: UP007
    word: NotRequired[Literal[Word.YES, "no"]]
    tree: tuple[Tree, ...]
    nobody: NoSuchName  # type: ignore[name-defined]  # noqa: F821
    unhashable: Annotated[Amount, []]


Item = TypeVar("Item", bound=Access)
Alias = typing.NewType("Alias", Mode)


class Holder(pydantic.BaseModel, Generic[Item]):
    item: Item
    open: Open | None = None


def test_the_types_of_a_schema() -> None:
    assert storable_types(State) == {Money, Level, Person, Line, Key, Point, Word, Tree, Color, Amount}


@pytest.mark.parametrize(
    ("annotation", "found"),
    [
        (int, set()), (None, set()), ("Money", set()), (list, set()), (Any, set()), (5, set()),
        (dict[str, "Money"], set()), (Money, {Money}), (list[Money] | None, {Money}), (Literal[Color.RED], {Color}),
        (Annotated[Color, "x"], {Color}),
        (Callable[[Money], Color], {Money, Color}), (type[Money], {Money}), (Alias, {Mode}), (Item, {Access}),
        (Order, {Order, Line}), (Holder[Access], {Holder[Access], Access, Open}), (Failure, set()), (Celsius, set()),
        (collections.deque[Money], {Money}), (typing.Required[Word], {Word}),
    ],
    ids=lambda value: "" if isinstance(value, set) else str(value),  # a set's text differs between processes
)  # fmt: skip
def test_the_types_of_an_annotation(annotation: Any, found: set[type]) -> None:
    assert storable_types(annotation) == found
    Codec(storable_types(annotation))


# --- the format ------------------------------------------------------------------------------------------


def examples() -> dict[str, Any]:
    """One value for every tag, and for every further key of one."""
    berlin = zoneinfo.ZoneInfo("Europe/Berlin")
    person = Person(name="Ada", marks=[1])
    person._secret = (1,)
    derived = Order([Line(price=Decimal("1.50"))], first=3)
    return {
        "plain": {"n": 5, "list": [1.5, -0.0, None, True, "a\x00€"], "max": 2**64 - 1, "min": -(2**63)},
        "dict with keys of many types": {1: "a", None: "b", (1, 2): "c", "d": "d", True + 0.5: "e"},
        "dict with a $": {"$": "tuple", "v": [1]},
        "OrderedDict": collections.OrderedDict(b=1, a=2),
        "Counter": collections.Counter("abca"),
        "defaultdict": collections.defaultdict(list, {"a": [1]}),
        "defaultdict without a factory": collections.defaultdict(None, {1: 2}),
        "tuple": (1, (2, [])),
        "deque": collections.deque([1, 2]),
        "deque with a limit": collections.deque([1, 2], 5),
        "set": {3, "a", (1,), None},
        "frozenset": frozenset([b"x"]),
        "str": "lone \ud800 surrogate",
        "int": 2**64,
        "int below zero": -(2**63) - 1,
        "float nan": math.nan,
        "float -nan": -math.nan,
        "float inf": [math.inf, -math.inf],
        "complex": complex(-0.0, math.inf),
        "bytes": b"\x00\xff",
        "bytearray": bytearray(b"abc"),
        "datetime": datetime(2024, 2, 29, 12, 30, 15, 5),  # noqa: DTZ001
        "datetime in UTC": datetime(2024, 2, 29, tzinfo=UTC),
        "datetime in a zone": datetime(2024, 10, 27, 2, 30, tzinfo=berlin, fold=1),
        "datetime in a named offset": datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=-5), "EST")),
        "time": time(12, 30),
        "time in a zone": time(12, 30, tzinfo=berlin),
        "date": date(1, 1, 1),
        "timedelta": timedelta(days=-1, seconds=5, microseconds=7),
        "timezone": timezone(timedelta(hours=5, minutes=30)),
        "timezone with a name": timezone(timedelta(0), "UTC"),
        "zone": berlin,
        "Decimal": [Decimal(x) for x in ("1.50", "-0", "0E+3", "NaN", "sNaN12", "-Infinity", "1E-7")],
        "Fraction": Fraction(-1, 3),
        "Fraction of big integers": Fraction(2**70, 3),
        "UUID": uuid.UUID(int=1),
        "UUID known to be safe": uuid.UUID(int=1, is_safe=uuid.SafeUUID.safe),
        "range": range(1, 10, 2),
        "PurePosixPath": pathlib.PurePosixPath("/a/../b"),
        "PureWindowsPath": pathlib.PureWindowsPath("c:\\a/b"),
        "PosixPath": there(pathlib.PosixPath, "/a"),
        "WindowsPath": there(pathlib.WindowsPath, "c:\\a"),
        "enum": [Color.RED, Level.HIGH, Word.YES],
        "flag": [Access.READ, Access.ALL, Access(0), Mode(64)],
        "namedtuple": Point(1, (2,)),
        "dataclass": Money(Decimal("9.99")),
        "dataclass with other attributes": derived,
        "pydantic": person,
        "pydantic with extra fields": Open(id=1, other={1}),
        "custom": Celsius(36.6),
        "Unregistered": Unregistered("gone:Type", {"a": (1,)}, "dataclass", {"x": {"b": 2}}),
    }


def there(kind: type[pathlib.PurePath], text: str) -> Any:
    """The path, or what stands for it on a machine of the other kind."""
    return kind(text) if isinstance(pathlib.Path(), kind) else Unregistered(kind.__name__, text, kind.__name__)


def golden_codec() -> Codec:
    codec = Codec()
    for kind in TYPES:
        codec.register(kind, name=f"golden:{kind.__name__}")
    codec.register(
        Celsius, name="golden:Celsius", encode=lambda value: value.degrees, decode=lambda data: Celsius(data)
    )
    return codec


def golden() -> dict[str, str]:
    found: dict[str, str] = json.loads(GOLDEN.read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("name", examples())
def test_golden(name: str) -> None:
    value, codec, data = examples()[name], golden_codec(), golden()[name].encode()
    assert codec.encode(value) == data
    assert same(codec.decode(data), value)


def test_every_tag_is_golden() -> None:
    assert golden().keys() == examples().keys()
    written = " ".join(golden().values())
    for tag in (*BY_TAG, *SHAPES):
        assert f'{{"$":"{tag}"' in written, f"no golden example has the tag {tag}"
        assert tag in (module.__doc__ or ""), f"the table in codec/__init__.py does not list {tag}"
    assert module.FORMAT_VERSION == 1
