"""The timeline of a thread as a picture: a bar for each task, over time.

rows        one for each task; of many tasks, one for each node, in which bars side by side stand in lanes
bars        from an attempt's start to its row's commit; those too narrow to be told apart are drawn as one
between     a thin line from a question, a wait or a failure to the next attempt of the same task
bands       supersteps
time        the same scale everywhere, but for long times in which nothing ran: these are cut short, and say how long
            they were
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

from durable_graph.core.paper import escaped, ink, number, picture, shortened, sign, text, width
from durable_graph.core.png import png_of
from durable_graph.core.timeline import TimelineEntry
from durable_graph.core.times import seconds

WIDE = 880.0  # pixels, for time
MOST_LABEL = 190.0
MOST_ROWS = 60  # of tasks; then rows are nodes, of which no more than that are shown
MOST_LANES = 4
NARROW = 1.5  # pixels that every bar has
IDLE = 0.2  # of all the time in which something ran: for longer than that nothing runs, and it is cut short
MARGIN, HEAD, SMALL, TINY = 14.0, 52.0, 11.5, 10.0
WORSE = ("done", "waiting", "failed")  # a bar that stands for several has the look of the worst
STATES: Mapping[str, str] = {"task": "done", "interrupt": "waiting", "error": "failed"}


def draw_timeline(entries: Iterable[TimelineEntry]) -> str:
    """An SVG document of what `Log.timeline` tells: readable on light and on dark, with no script, nothing of the
    state, and no reference to anything outside. The same entries give the same text."""
    return TimelinePicture(tuple(entries)).draw_svg()


@dataclass(frozen=True, slots=True)
class TimelinePicture:
    """What `Log.draw_timeline()` returns: the timeline of a thread, which notebooks show as a picture."""

    entries: tuple[TimelineEntry, ...]

    def draw_svg(self) -> str:
        """The bars of all tasks over time, as an SVG document. See `draw_timeline`."""
        return _picture(_Chart.of(self.entries))

    def draw_png(self, *, zoom: float = 2.0) -> bytes:
        """`draw_svg` as a PNG image, on light paper. Raises CallError without the extra `png`, or without a font."""
        return png_of(self.draw_svg(), zoom)

    def draw_text(self, columns: int = 60) -> str:
        """The same bars as lines of text, so many columns wide."""
        return "".join(f"{line}\n" for line in _lines(_Chart.of(self.entries, float(columns), 1.0, 1.0), columns))

    def _repr_svg_(self) -> str:
        return self.draw_svg()

    _repr_html_ = _repr_svg_  # an HTML page takes SVG as it is

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        """For notebooks."""
        return {"text/plain": self.draw_text(), "image/svg+xml": self.draw_svg()}


# --- what is drawn ----------------------------------------------------------------------------


@dataclass(slots=True)
class Bar:
    """One attempt of a task, or several that cannot be told apart."""

    start: float
    end: float
    state: str
    entries: list[TimelineEntry]

    def take_in(self, other: Bar) -> None:
        self.start, self.end = min(self.start, other.start), max(self.end, other.end)
        self.state = max(self.state, other.state, key=WORSE.index)
        self.entries += other.entries


class Pause(NamedTuple):
    """From the end of an attempt to the next one's start, or to the end of time."""

    start: float
    end: float
    state: str


@dataclass(slots=True)
class Line:
    """A row of the picture."""

    label: str
    bars: list[Bar]
    pauses: list[Pause] = field(default_factory=list)
    lanes: list[list[Bar]] = field(default_factory=list)


class Stretch(NamedTuple):
    """A time and its place. `is_cut`: nothing ran, and it is shorter than it was."""

    start: float
    end: float
    left: float
    right: float
    is_cut: bool


class Scale:
    """Where a time is."""

    def __init__(self, busy: Sequence[tuple[float, float]], wide: float, cut: float) -> None:
        """busy: when something was, in order and apart. wide: of the whole. cut: of a time that is cut short."""
        least = IDLE * sum(end - start for start, end in busy)
        cuts = [(one[1], two[0]) for one, two in pairwise(busy) if two[0] - one[1] > least]
        cut = min(cut, wide / 4 / max(len(cuts), 1))
        self.whole = busy[-1][1] - busy[0][0]
        self.shown = self.whole - sum(end - start for start, end in cuts)
        self.per_second = (wide - cut * len(cuts)) / self.shown if self.shown else 0.0
        self.stretches: list[Stretch] = []
        at, left = busy[0][0], 0.0
        for start, end in [*cuts, (busy[-1][1], busy[-1][1])]:
            right = left + (start - at) * self.per_second
            self.stretches.append(Stretch(at, start, left, right, False))
            if end > start:
                self.stretches.append(Stretch(start, end, right, right + cut, True))
                right += cut
            at, left = end, right

    def __call__(self, time: float) -> float:
        place = bisect_left(self.stretches, time, hi=len(self.stretches) - 1, key=lambda stretch: stretch.end)
        start, end, left, right, _ = self.stretches[place]
        part = (time - start) / (end - start) if end > start else 0.0
        return left + (right - left) * min(max(part, 0.0), 1.0)


@dataclass(slots=True)
class _Chart:
    entries: Sequence[TimelineEntry]
    lines: list[Line]
    scale: Scale
    kind: str  # what a row is: "task" or "node"
    left_out: tuple[int, int]  # rows, and bars in them

    @classmethod
    def of(
        cls, entries: Sequence[TimelineEntry], wide: float = WIDE, cut: float = 46.0, least: float = NARROW
    ) -> _Chart:
        tasks = _grouped(entries, by_node=False)
        kind = "task" if len(tasks) <= MOST_ROWS else "node"
        lines = [_line(group) for group in (tasks if kind == "task" else _grouped(entries, by_node=True))]
        kept, left_out = _kept(lines)
        scale = Scale(_busy(entries) or [(0.0, 0.0)], wide, cut)
        for line in kept:
            line.lanes = _lanes(line.bars, scale, least)
        if kind == "node":
            for line in kept:
                line.pauses = []  # a node's attempts do not wait for each other
        return cls(entries, kept, scale, kind, left_out)


def _grouped(entries: Iterable[TimelineEntry], by_node: bool) -> list[list[TimelineEntry]]:
    groups: dict[tuple[str, str | None], list[TimelineEntry]] = {}
    for entry in entries:
        if entry.started_at is not None and entry.task is not None:
            groups.setdefault((entry.thread_id, entry.node if by_node else entry.task), []).append(entry)
    return list(groups.values())


def _line(entries: Sequence[TimelineEntry]) -> Line:
    bars = [_bar(entry) for entry in entries]
    pauses = [Pause(one.end, two.start, one.state) for one, two in pairwise(bars) if one.end < two.start]
    return Line(str(entries[0].node), bars, [pause for pause in pauses if pause.state != "done"])


def _bar(entry: TimelineEntry) -> Bar:
    end = seconds(entry.created_at)
    return Bar(min(seconds(entry.started_at or entry.created_at), end), end, STATES.get(entry.kind, "done"), [entry])


def _kept(lines: list[Line]) -> tuple[list[Line], tuple[int, int]]:
    """In the order of their beginnings; of too many, those where something went wrong and those that took longest."""
    chosen = sorted(lines, key=_weight, reverse=True)[:MOST_ROWS]
    names = {id(line) for line in chosen}
    kept = sorted((line for line in lines if id(line) in names), key=lambda line: min(bar.start for bar in line.bars))
    bars = sum(len(line.bars) for line in lines) - sum(len(line.bars) for line in kept)
    return kept, (len(lines) - len(kept), bars)


def _weight(line: Line) -> tuple[int, float]:
    return max(WORSE.index(bar.state) for bar in line.bars), sum(bar.end - bar.start for bar in line.bars)


def _busy(entries: Iterable[TimelineEntry]) -> list[tuple[float, float]]:
    """When something ran or was written, in order and apart."""
    busy: list[tuple[float, float]] = []
    for start, end in sorted((bar.start, bar.end) for bar in map(_bar, entries)):
        if busy and start <= busy[-1][1]:
            busy[-1] = (busy[-1][0], max(busy[-1][1], end))
        else:
            busy.append((start, end))
    return busy


def _lanes(bars: Iterable[Bar], scale: Scale, least: float) -> list[list[Bar]]:
    """Bars that overlap, one below the other; and those that would be one spot, as one bar."""
    lanes: list[list[Bar]] = []
    for bar in sorted(bars, key=lambda bar: (bar.start, bar.end)):
        bar = Bar(bar.start, bar.end, bar.state, [*bar.entries])
        spot = next((lane[-1] for lane in lanes if _is_one_spot(lane[-1], bar, scale, least)), None)
        free = next((lane for lane in lanes if lane[-1].end <= bar.start), None)
        if spot is not None:
            spot.take_in(bar)
        elif free is not None:
            free.append(bar)
        elif len(lanes) < MOST_LANES:
            lanes.append([bar])
        else:
            lanes[-1][-1].take_in(bar)
    return lanes


def _is_one_spot(one: Bar, two: Bar, scale: Scale, least: float) -> bool:
    """Whether both are narrower than can be seen, and as near."""
    return scale(max(one.end, two.end)) - scale(one.start) < 2 * least


# --- as SVG -----------------------------------------------------------------------------------


def _picture(chart: _Chart) -> str:
    labels = [*(line.label for line in chart.lines), "run"]
    left = MARGIN + min(max(width(label, SMALL) for label in labels), MOST_LABEL) + 12
    top = MARGIN + HEAD
    heights = [22.0, *(_height(chart, line) for line in chart.lines)]
    bottom = top + sum(heights)
    body = [
        *_heading(chart),
        f'<g transform="translate({number(left)} 0)">',
        *_bands(chart, top - 6, bottom),
        *_axis(chart, top, bottom),
        *_marks(chart, top + 11),
        "</g>",
        text("run", left - 12, top + 11, "faint", "end", SMALL),
    ]
    at = top + heights[0]
    for line, height in zip(chart.lines, heights[1:], strict=True):
        body += _row(chart, line, left, at, height)
        at += height
    foot = list(_foot(chart, bottom + 16))
    title = f"Timeline of {_names(chart)}"
    return picture(left + WIDE + MARGIN + 10, bottom + (30 if foot else MARGIN), title, [*body, *foot])


def _names(chart: _Chart) -> str:
    return ", ".join(dict.fromkeys(entry.thread_id for entry in chart.entries)) or "nothing"


def _heading(chart: _Chart) -> Iterator[str]:
    if not chart.entries:
        yield text("Nothing has been recorded yet.", MARGIN, MARGIN + 6, "text", "start")
        return
    began = min(min(entry.started_at or entry.created_at, entry.created_at) for entry in chart.entries)
    tasks = len(_grouped(chart.entries, by_node=False))
    facts = [
        shortened(_names(chart), 330),
        f"from {began[:19].replace('T', ' ')} UTC",
        f"{said(chart.scale.whole)} in all",
        f"{tasks} task{'' if tasks == 1 else 's'} in {len(chart.entries)} rows",
    ]
    yield text(" · ".join(facts), MARGIN, MARGIN + 6, "text", "start", SMALL)


def _bands(chart: _Chart, top: float, bottom: float) -> Iterator[str]:
    """Every other superstep has a ground of its own; their numbers stand above where there is room."""
    spans: dict[int, tuple[float, float]] = {}
    for entry in chart.entries:
        if entry.task is not None and entry.thread_id == chart.entries[0].thread_id:
            bar = _bar(entry)
            start, end = spans.get(entry.superstep, (bar.start, bar.end))
            spans[entry.superstep] = min(start, bar.start), max(end, bar.end)
    for superstep, (start, end) in spans.items():
        left, right = chart.scale(start), chart.scale(end)
        if right - left < 2:
            continue
        place = f'x="{number(left)}" y="{number(top)}" width="{number(right - left)}" height="{number(bottom - top)}"'
        if superstep % 2:
            yield f'<rect data-superstep="{superstep}" {place} {ink("band")}/>'
        words = f"superstep {superstep}" if right - left > 80 else str(superstep)
        if width(words, TINY) < right - left:
            yield text(words, (left + right) / 2, top - 5, "faint", "middle", TINY)


def _axis(chart: _Chart, top: float, bottom: float) -> Iterator[str]:
    scale = chart.scale
    taken = -100.0  # as far as words go
    for start, end, left, right, is_cut in scale.stretches:
        if is_cut:
            yield _cut(end - start, left, right, top, bottom)
            taken = right
            continue
        for time in _ticks(end - start, scale.per_second):
            x = left + time * scale.per_second
            words = f"+{said(time)}" if left else said(time)  # after a cut: since then
            half = width(words, TINY) / 2
            yield f'<path d="M{number(x)} {number(top - 6)}V{number(bottom)}" {ink("grid")} stroke-width="1"/>'
            fits = x - half > taken + 4 and (time or not left) and x + half < right + (46 if right >= WIDE - 1 else 0)
            if fits or not (time or left):
                yield text(words, x, top - 24, "faint", "middle", TINY)
                taken = x + half


def _cut(length: float, left: float, right: float, top: float, bottom: float) -> str:
    words = said(length)
    middle = (left + right) / 2
    shown = text(words, middle, top - 24, "faint", "middle", TINY) if width(words, TINY) < right - left + 6 else ""
    way = "".join(f"M{number(x)} {number(top - 6)}V{number(bottom)}" for x in (left, right))
    return (
        f'<g class="idle"><title>nothing ran for {words}</title>'
        f'<path d="{way}" {ink("line")} stroke-width="1" stroke-dasharray="2 4"/>{shown}</g>'
    )


UNITS = (  # seconds, name, and what of it makes good ticks
    (1e-6, "µs", (1, 2, 5, 10, 20, 50, 100, 200, 500)),
    (1e-3, "ms", (1, 2, 5, 10, 20, 50, 100, 200, 500)),
    (1.0, "s", (1, 2, 5, 10, 15, 30)),
    (60.0, "min", (1, 2, 5, 10, 15, 30)),
    (3600.0, "h", (1, 2, 3, 6, 12)),
    (86400.0, "d", (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)),
)


def _ticks(length: float, per_second: float) -> Iterator[float]:
    """Times in a stretch, from its beginning: so far apart that words fit between."""
    steps = (unit * part for unit, _, parts in UNITS for part in parts)
    step = next((step for step in steps if step * per_second >= 64), None)
    yield 0.0
    if step is None or not per_second:
        return
    for nth in range(1, int(length / step) + 1):
        yield nth * step


def said(length: float) -> str:
    """Seconds in words: two units at most."""
    nth = next((nth for nth in reversed(range(len(UNITS))) if length >= UNITS[nth][0] * 0.9995), 0)
    unit, name, _ = UNITS[nth]
    if unit <= 1:
        return f"{length / unit:.3g} {name}" if length > 0 else "0"
    smaller, its_name, _ = UNITS[nth - 1]
    whole, rest = divmod(round(length / smaller), round(unit / smaller))
    return f"{whole} {name}" + (f" {rest} {its_name}" if rest else "")


def _marks(chart: _Chart, y: float) -> Iterator[str]:
    """What no task did: inputs, answers, updates, forks, pauses."""
    last, count, first = -100.0, 0, ""
    for entry in (*chart.entries, None):
        x = last if entry is None else chart.scale(seconds(entry.created_at))
        if entry is not None and entry.started_at is not None and entry.task is not None:
            continue
        if count and (entry is None or x - last > 3):
            yield _mark(last, y, first, count)
            count = 0
        if entry is not None and not count:
            by = f" by {entry.actor}" if entry.actor else ""
            first, last = f"{entry.kind}, step {entry.step}{by}", x
        count += 1


def _mark(x: float, y: float, words: str, count: int) -> str:
    more = f", and {count - 1} more" if count > 1 else ""
    return (
        f'<g class="mark" data-rows="{count}"><title>{escaped(words + more)}</title>'
        f'<path d="M{number(x - 4)} {number(y - 6)}h8v6l-4 5l-4 -5Z" {ink("next")} stroke-width="1.2"/></g>'
    )


def _height(chart: _Chart, line: Line) -> float:
    return 20.0 if len(line.lanes) == 1 and chart.kind == "task" else 10.0 * len(line.lanes) + 10


def _row(chart: _Chart, line: Line, left: float, top: float, height: float) -> Iterator[str]:
    label = shortened(line.label, MOST_LABEL, SMALL)
    yield f'<g class="row" data-node="{escaped(line.label)}"><title>{escaped(line.label)}</title>'
    yield text(label, left - 12, top + height / 2, "text", "end", SMALL)
    yield f'<g transform="translate({number(left)} 0)">'
    thick = 12.0 if height == 20 and len(line.lanes) == 1 else 8.0
    for pause in line.pauses:
        yield _pause(chart.scale, pause, top + height / 2)
    for nth, lane in enumerate(line.lanes):
        y = top + height / 2 + (nth - (len(line.lanes) - 1) / 2) * 10
        for bar in lane:
            yield _drawn(chart.scale, bar, y, thick)
    yield "</g></g>"


def _pause(scale: Scale, pause: Pause, y: float) -> str:
    return (
        f'<path d="M{number(scale(pause.start))} {number(y)}H{number(scale(pause.end))}" '
        f'{ink(pause.state, "pause")} stroke-width="1.5" stroke-dasharray="2 3"/>'
    )


def _drawn(scale: Scale, bar: Bar, y: float, thick: float) -> str:
    left, entry = scale(bar.start), bar.entries[0]
    wide = max(scale(bar.end) - left, NARROW)
    place = f'x="{number(left)}" y="{number(y - thick / 2)}" width="{number(wide)}" height="{number(thick)}"'
    dotted = ' stroke-dasharray="2 2"' if all(entry.cached for entry in bar.entries) else ""
    rect = f'<rect {place} rx="{number(min(3.0, wide / 4))}" {ink(bar.state)} stroke-width="1"{dotted}/>'
    mark = sign(bar.state, left + wide, y, thick / 16) if bar.state != "done" else ""
    tries = f"{entry.attempt}\u00d7" if len(bar.entries) == 1 and (entry.attempt or 1) > 1 else ""
    shown = text(tries, left + wide / 2, y, "text", "middle", TINY) if tries and wide > 22 else ""
    return (
        f'<g class="bar" data-step="{entry.step}" data-rows="{len(bar.entries)}" data-state="{bar.state}">'
        f"<title>{escaped(_told(bar))}</title>{rect}{shown}{mark}</g>"
    )


def _told(bar: Bar) -> str:
    entry = bar.entries[0]
    if len(bar.entries) > 1:
        last = bar.entries[-1]
        failed = sum(each.kind == "error" for each in bar.entries)
        return (
            f"{len(bar.entries)} \u00d7 {entry.node}, steps {entry.step} to {last.step}, {said(bar.end - bar.start)}"
            + (f", {failed} failed" if failed else "")
        )
    facts = [f"{entry.node}, step {entry.step}, superstep {entry.superstep}: {said(bar.end - bar.start)}"]
    facts += [f"attempt {entry.attempt}"] if (entry.attempt or 1) > 1 else []
    facts += ["from the cache"] if entry.cached else []
    facts += ["asks and waits"] if entry.kind == "interrupt" else []
    facts += [entry.error[:300]] if entry.error else []
    return ", ".join(facts)


def _foot(chart: _Chart, y: float) -> Iterator[str]:
    rows, bars = chart.left_out
    folded = sum(len(bar.entries) - 1 for line in chart.lines for lane in line.lanes for bar in lane)
    facts = [f"{rows} more nodes with {bars} tasks are not shown"] if rows else []
    facts += [f"{folded} of the bars are too narrow, and drawn as one with their neighbours"] if folded else []
    facts = ["A row is a node", *facts] if chart.kind == "node" else facts
    if facts:
        yield text(". ".join(facts) + ".", MARGIN, y, "faint", "start", SMALL)


# --- as text ----------------------------------------------------------------------------------

LETTERS = {"done": "█", "waiting": "?", "failed": "!"}


def _lines(chart: _Chart, columns: int) -> Iterator[str]:
    if not chart.lines:
        yield "Nothing has run yet."
        return
    wide = min(max(len(line.label) for line in chart.lines), 30)
    for line in chart.lines:
        cells = [" "] * columns
        for bar in sorted((bar for lane in line.lanes for bar in lane), key=lambda bar: WORSE.index(bar.state)):
            first = min(int(chart.scale(bar.start)), columns - 1)
            for place in range(first, max(int(chart.scale(bar.end)), first + 1)):
                cells[min(place, columns - 1)] = LETTERS[bar.state]
        took = said(sum(bar.end - bar.start for bar in line.bars))
        times = f" in {len(line.bars)}" if len(line.bars) > 1 else ""
        yield f"{line.label[:wide]:<{wide}} |{''.join(cells)}| {took}{times}"
    if chart.left_out[0]:
        yield f"{chart.left_out[0]} more nodes with {chart.left_out[1]} tasks are not shown."
