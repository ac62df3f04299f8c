"""What was measured, for people (a table, a plot) and for programs (JSON)."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from math import log10
from typing import Any
from xml.sax.saxutils import escape

from tests.benchmarks.measure import OURS, Result, Target

PACKAGES = (
    "durable-graph",
    "sqlalchemy",
    "psycopg",
    "procrastinate",
    "langgraph",
    "langgraph-checkpoint-sqlite",
    "langgraph-checkpoint-postgres",
    "dbos",
    "apache-burr",
)


def details(result: Result) -> str:
    """The contenders of a contest: time for each step, and how it compares with ours."""
    contest = result.contest
    lines = [f"{contest.name}"]
    for contender in contest.contenders:
        seconds = result.seconds(contender.name)
        if seconds is None:
            continue
        ratio = Target(against=contender.name).measured(result.rounds)
        beside = f"{ratio:9.2f} x ours" if ratio is not None and contender.name != OURS else ""
        lines.append(f"    {contender.name:32}{_time(seconds / contest.steps)} per {contest.unit:8}{beside}".rstrip())
    return "\n".join(lines) + "\n"


def _time(seconds: float) -> str:
    return f"{seconds * 1e6:10.1f} us" if seconds < 0.01 else f"{seconds * 1e3:10.1f} ms"


def summary(results: Sequence[Result]) -> str:
    """Every target with what was measured."""
    lines = [f"{'work':52}{'target':62}{'measured':>9}   reached"]
    for result in results:
        for target, measured in result.outcomes():
            if measured is None and target.bound is None:
                continue
            shown = "-" if measured is None else f"{measured:.2f}"
            lines.append(f"{result.contest.name:52}{target!s:62}{shown:>9}   {verdict(target, measured)}")
    return "\n".join(lines) + "\n"


def verdict(target: Target, measured: float | None) -> str:
    if measured is None:
        return "not measured"
    if target.bound is None:
        return ""
    return "yes" if target.reached(measured) else "NO"


def circumstances() -> dict[str, str]:
    """What the figures depend on."""
    found = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "python": platform.python_version(), "machine": _machine()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _machine() -> str:
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"


def as_data(results: Sequence[Result], parts: Any) -> dict[str, Any]:
    contests = [
        {
            "name": result.contest.name,
            "steps": result.contest.steps,
            "targets": [
                {"target": str(target), "measured": measured, "reached": verdict(target, measured)}
                for target, measured in result.outcomes()
            ],
            "rounds": result.rounds,
        }
        for result in results
    ]
    return {"circumstances": circumstances(), "contests": contests, "parts": parts}


# --- the plot -------------------------------------------------------------------------------------

WIDTH, LEFT, LINE, DECADES = 900, 330, 18, 4  # the axis goes from a tenth of our time to a thousand times
COLORS = {"LangGraph": "#c0392b", "DBOS": "#8e44ad", "Burr": "#d68910", OURS: "#1f618d"}


def plot(results: Sequence[Result]) -> str:
    """An SVG: for each contest a bar for each contender, its time over ours on a logarithmic axis."""
    lines = list(_lines([result for result in results if result.seconds(OURS)]))
    height = (len(lines) + 2) * LINE
    axis = "".join(
        f'<line x1="{_x(10**power):.0f}" x2="{_x(10**power):.0f}" y1="{LINE}" y2="{height}" stroke="#ddd"/>'
        f'<text x="{_x(10**power):.0f}" y="{LINE - 4}" text-anchor="middle">{10**power:g}</text>'
        for power in range(-1, DECADES)
    )
    body = "".join(f'<g transform="translate(0 {(at + 1.5) * LINE})">{line}</g>' for at, line in enumerate(lines))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif"'
        f' font-size="12"><rect width="100%" height="100%" fill="white"/>'
        f'<text x="4" y="{LINE - 4}">time over that of durable_graph</text>{axis}{body}</svg>\n'
    )


def _x(ratio: float) -> float:
    """Where a ratio is on the axis, from 0.1 on."""
    return LEFT + max(0.0, log10(ratio) + 1) / DECADES * (WIDTH - LEFT - 60)


def _lines(results: Sequence[Result]) -> Iterator[str]:
    for result in results:
        yield f'<text x="4" y="12" font-weight="bold">{escape(result.contest.name)}</text>'
        for contender in result.contest.contenders:
            ratio = Target(against=contender.name).measured(result.rounds)
            if ratio is not None:
                yield _bar(contender.name, ratio)
        yield ""


def _bar(name: str, ratio: float) -> str:
    color = next((color for known, color in COLORS.items() if name.startswith(known)), "#7f8c8d")
    end = _x(ratio)
    return (
        f'<text x="{LEFT - 6}" y="12" text-anchor="end">{escape(name)}</text>'
        f'<rect x="{LEFT}" y="2" width="{end - LEFT:.0f}" height="{LINE - 5}" fill="{color}"/>'
        f'<text x="{end + 4:.0f}" y="12">{ratio:.2f}</text>'
    )
