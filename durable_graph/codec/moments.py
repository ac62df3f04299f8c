"""Dates, times and their zones. A moment is its local time with the offset; its zone comes with it, and decides."""

from __future__ import annotations

import datetime
import re
import zoneinfo
from typing import Any, TypeVar

from durable_graph.codec.kind import Kind, NotHere, Parts, Refused, exactly, not_written
from durable_graph.codec.unregistered import Unregistered

_OFFSET = re.compile(r"([+-])(\d\d):(\d\d)(?::(\d\d)(?:\.(\d{6}))?)?", re.ASCII)
_ZONE = re.compile(r"[\w+-]{1,40}(/[\w+-]{1,40}){0,3}", re.ASCII)
_EPOCH = datetime.datetime(1970, 1, 1)  # noqa: DTZ001 - for the offset that comes behind it


def _moment(value: datetime.datetime | datetime.time) -> Parts:
    """The local time with its offset, for people and for SQL; a zone comes with it, and decides when read."""
    zone = value.tzinfo
    shown = value if type(zone) in (datetime.timezone, zoneinfo.ZoneInfo) else value.replace(tzinfo=None)
    parts: Parts = {"v": shown.isoformat()}
    if zone is not None and not _is_all_offset(zone):
        parts["tz"] = _zone_key(zone) if type(zone) is zoneinfo.ZoneInfo else zone
    return {**parts, "fold": 1} if value.fold else parts


def _build_datetime(v: Any, tz: Any = None, fold: Any = 0) -> datetime.datetime:
    return _in_zone(datetime.datetime.fromisoformat(exactly(str, v)), tz, fold)


def _build_time(v: Any, tz: Any = None, fold: Any = 0) -> datetime.time:
    return _in_zone(datetime.time.fromisoformat(exactly(str, v)), tz, fold)


_M = TypeVar("_M", datetime.datetime, datetime.time)


def _in_zone(moment: _M, tz: Any, fold: Any) -> _M:
    if type(tz) is Unregistered:
        raise NotHere
    zone = _load_zone(tz) if type(tz) is str else tz
    return moment.replace(tzinfo=moment.tzinfo if zone is None else zone, fold=exactly(int, fold))


def _is_all_offset(zone: datetime.tzinfo) -> bool:
    """Whether "+02:00" says all there is; fromisoformat (Python 3.11) takes an offset of microseconds for UTC."""
    return type(zone) is datetime.timezone and len(_init_args(zone)) == 1 and not _init_args(zone)[0].microseconds


def _init_args(zone: Any) -> tuple[Any, ...]:
    return zone.__getinitargs__()  # type: ignore[no-any-return]  # (offset,) or (offset, name): tzname() makes names up


def _timezone(value: datetime.timezone) -> Parts:
    offset = _EPOCH.replace(tzinfo=value).isoformat().removeprefix(_EPOCH.isoformat())
    return {"v": offset, **dict(zip(["name"], _init_args(value)[1:], strict=False))}


def _build_timezone(v: Any, name: Any = None) -> datetime.timezone:
    found = _OFFSET.fullmatch(exactly(str, v)) or not_written(v)
    hours, minutes, seconds, microseconds = (int(each or 0) for each in found.groups()[1:])
    offset = datetime.timedelta(0, seconds, microseconds, 0, minutes, hours) * (-1 if v[0] == "-" else 1)
    return datetime.timezone(offset) if name is None else datetime.timezone(offset, exactly(str, name))


def _zone_key(zone: zoneinfo.ZoneInfo) -> str:
    try:
        return _load_zone(zone.key).key
    except Exception as error:
        fix = "Use a zone of the tz database, zoneinfo.ZoneInfo(key)."
        raise Refused(f"no zone can be found by its key {zone.key!r}", fix) from error


def _load_zone(v: Any) -> zoneinfo.ZoneInfo:
    if not _ZONE.fullmatch(exactly(str, v)):  # keys are looked up as files and, in the tzdata package, as modules
        raise ValueError(f"{v!r} is no zone")
    try:
        return zoneinfo.ZoneInfo(v)
    except (zoneinfo.ZoneInfoNotFoundError, OSError, ValueError):
        raise NotHere from None


def _build_timedelta(v: Any) -> datetime.timedelta:
    days, seconds, microseconds = (exactly(int, each) for each in exactly(list, v))
    return datetime.timedelta(days, seconds, microseconds)


MOMENTS = (
    Kind("datetime", datetime.datetime, _moment, _build_datetime),
    Kind("time", datetime.time, _moment, _build_time),
    Kind(
        "date",
        datetime.date,
        lambda value: {"v": value.isoformat()},
        lambda v: datetime.date.fromisoformat(exactly(str, v)),
    ),
    Kind(
        "timedelta",
        datetime.timedelta,
        lambda value: {"v": [value.days, value.seconds, value.microseconds]},
        _build_timedelta,
    ),
    Kind("timezone", datetime.timezone, _timezone, _build_timezone),
    Kind("zone", zoneinfo.ZoneInfo, lambda value: {"v": _zone_key(value)}, _load_zone),
)
