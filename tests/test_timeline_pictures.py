"""The timeline of a thread as a picture: every row is in it or counted, no bar hides another, time is to scale."""

import json
import re
import sys
from collections.abc import Iterator
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

import pytest
from graphs import WAYS, Calls, Runner, State, new_thread, wide
from hypothesis import given, settings
from hypothesis import strategies as st

from durable_graph import (
    START,
    CallError,
    Command,
    Log,
    RetryPolicy,
    StateGraph,
    ThreadNotFoundError,
    TimelineEntry,
    TimelinePicture,
    draw_timeline,
    interrupt,
)
from durable_graph.core import gantt, png
from durable_graph.core.times import iso, seconds

SVG = "{http://www.w3.org/2000/svg}"
BEGAN = 1_795_000_000.0


class Rows:
    """Makes entries, one after the other."""

    def __init__(self) -> None:
        self.entries: list[TimelineEntry] = []

    def add(self, kind: str, start: float | None, end: float, node: str | None = None, **more: Any) -> None:
        step = len(self.entries)
        facts = {
            "thread_id": "t",
            "parent_step": step - 1,
            "superstep": 1,
            "task": None if start is None else f"task {step}",
            "run_id": "r",
            "attempt": None if start is None else 1,
            "cached": False,
            "actor": None,
            "duration": None,
            "bytes": 1,
            "next": (),
            "error": None,
            "failures": 0,
            "interrupts": (),
            "child": None,
            "origin": None,
            **more,
        }
        started = None if start is None else iso(BEGAN + start)
        times = {"started_at": started, "created_at": iso(BEGAN + end)}
        self.entries.append(TimelineEntry(step=step, kind=kind, node=node, **times, **facts))  # type: ignore[arg-type]


class Drawn:
    def __init__(self, svg: str) -> None:
        self.root = ElementTree.fromstring(svg)
        self.bars = [Bar(group) for group in self.of("bar")]
        self.rows = [group.attrib["data-node"] for group in self.of("row")]

    def of(self, name: str) -> list[ElementTree.Element]:
        return [group for group in self.root.iter(SVG + "g") if group.attrib.get("class") == name]

    def words(self) -> str:
        return "\n".join(text.text or "" for text in self.root.iter(SVG + "text"))


class Bar:
    def __init__(self, group: ElementTree.Element) -> None:
        rect = group.find(SVG + "rect")
        assert rect is not None
        self.left, self.top, self.width = (float(rect.attrib[name]) for name in ("x", "y", "width"))
        self.right = self.left + self.width
        self.state = group.attrib["data-state"]
        self.count = int(group.attrib["data-rows"])
        self.title = str(group.findtext(SVG + "title"))
        self.has_sign = group.find(f"{SVG}g/{SVG}circle") is not None
        self.words = [text.text for text in group.iter(SVG + "text")]


def check(entries: list[TimelineEntry], drawn: Drawn) -> None:
    tasks = [entry for entry in entries if entry.started_at is not None]
    found = re.search(r"with (\d+) tasks are not shown", drawn.words())
    left_out = int(found[1]) if found else 0
    assert sum(bar.count for bar in drawn.bars) + left_out == len(tasks)
    marks = drawn.of("mark")
    assert sum(int(mark.attrib["data-rows"]) for mark in marks) == len(entries) - len(tasks)
    for one, two in pairwise(sorted(drawn.bars, key=lambda bar: (bar.top, bar.left))):
        assert one.top != two.top or two.left >= one.right - gantt.NARROW - 0.2, (one.title, two.title)
    for bar in drawn.bars:
        assert bar.left >= -0.1
        assert bar.right <= gantt.WIDE + gantt.NARROW + 0.1


# --- a few tasks ------------------------------------------------------------------------------


def few() -> list[TimelineEntry]:
    """A retry, a failure with a second run, a question that was open for 13 days, a result from the cache."""
    rows = Rows()
    rows.add("input", None, 0.0, actor="ann")
    rows.add("task", 0.0, 0.5, "plan")
    rows.add("error", 0.5, 1.0, "search", task="s", superstep=2, error="ValueError: <nothing>")
    rows.add("task", 0.5, 1.5, "fetch", superstep=2, attempt=3, failures=2)
    rows.add("resume", None, 1.7)
    rows.add("task", 1.75, 2.25, "search", task="s", superstep=2, attempt=2)
    rows.add("interrupt", 2.25, 2.5, "ask", task="q", superstep=3)
    late = 13 * 86400.0
    rows.add("resume", None, late)
    rows.add("task", late, late + 0.5, "ask", task="q", superstep=3)
    rows.add("task", late + 0.5, late + 1.0, "send", superstep=4, cached=True)
    return rows.entries


def test_a_row_for_each_task_and_a_bar_for_each_attempt() -> None:
    drawn = Drawn(draw_timeline(few()))
    check(few(), drawn)
    assert drawn.rows == ["plan", "search", "fetch", "ask", "send"]
    assert [(bar.state, bar.has_sign) for bar in drawn.bars] == [
        *[("done", False), ("failed", True), ("done", False), ("done", False)],
        *[("waiting", True), ("done", False), ("done", False)],
    ]
    plan, failed, again, fetch, asked, answered, cached = drawn.bars
    assert failed.title == "search, step 2, superstep 2: 500 ms, ValueError: <nothing>"
    assert fetch.title == "fetch, step 3, superstep 2: 1 s, attempt 3"
    assert fetch.words == ["3\u00d7"]
    assert again.words == ["2\u00d7"]
    assert cached.title.endswith("from the cache")
    assert asked.title.endswith("asks and waits")
    assert fetch.width == pytest.approx(2 * plan.width, abs=0.3)  # to scale, also
    assert answered.width == pytest.approx(plan.width, abs=0.3)  # after the wait
    assert fetch.left == pytest.approx(failed.left)


def test_what_lies_between_attempts_is_a_line() -> None:
    drawn = Drawn(draw_timeline(few()))
    pauses = [path for path in drawn.root.iter(SVG + "path") if "pause" in path.attrib.get("class", "")]
    assert len(pauses) == 2  # after the failure, and while the question was open


def test_long_times_in_which_nothing_ran_are_cut_short() -> None:
    drawn = Drawn(draw_timeline(few()))
    (cut,) = drawn.of("idle")
    assert cut.findtext(SVG + "title") == "nothing ran for 13 d"
    assert min(bar.width for bar in drawn.bars) > 40
    assert "13 d" in drawn.words()


def test_marks_tell_who_called() -> None:
    drawn = Drawn(draw_timeline(few()))
    assert [mark.findtext(SVG + "title") for mark in drawn.of("mark")] == [
        "input, step 0 by ann",
        "resume, step 4",
        "resume, step 7",
    ]


def test_supersteps_are_bands() -> None:
    drawn = Drawn(draw_timeline(few()))
    bands = [rect.attrib["data-superstep"] for rect in drawn.root.iter(SVG + "rect") if "data-superstep" in rect.attrib]
    assert bands == ["1", "3"]
    assert "superstep 2" in drawn.words()


@pytest.mark.parametrize("entries", [[], few()[:1], few()[:2], few()[1:2]], ids=["none", "input", "two", "task"])
def test_nearly_nothing(entries: list[TimelineEntry]) -> None:
    drawn = Drawn(draw_timeline(entries))
    check(entries, drawn)
    assert TimelinePicture(tuple(entries)).draw_text().endswith("\n")


# --- many -------------------------------------------------------------------------------------


def many(count: int, nodes: int) -> list[TimelineEntry]:
    rows = Rows()
    rows.add("input", None, 0.0)
    for number in range(count):
        start = number // 4 * 0.02
        kind = "error" if number == 777 else "task"
        rows.add(kind, start, start + 0.004 * (number % 4 + 1), f"node {number % nodes}", superstep=number // 4 + 1)
    return rows.entries


def test_of_many_tasks_a_row_is_a_node() -> None:
    drawn = Drawn(svg := draw_timeline(many(2_000, 5)))
    check(many(2_000, 5), drawn)
    assert drawn.rows == [f"node {number}" for number in range(5)]
    assert len(draw_timeline(many(20_000, 5))) < 2 * len(svg)  # there are only so many pixels
    folded = sum(bar.count - 1 for bar in drawn.bars)
    assert f"A row is a node. {folded} of the bars are too narrow" in drawn.words()
    assert sum(bar.state == "failed" for bar in drawn.bars) == 1  # a failure is not lost among them


def test_of_many_nodes_the_rest_is_counted() -> None:
    drawn = Drawn(draw_timeline(many(1_000, 150)))
    check(many(1_000, 150), drawn)
    assert len(drawn.rows) == gantt.MOST_ROWS
    assert "node 27" in drawn.rows  # 777 % 150: it failed
    shown = sum(bar.count for bar in drawn.bars)
    assert f"90 more nodes with {1_000 - shown} tasks are not shown" in drawn.words()
    assert f"90 more nodes with {1_000 - shown} tasks" in TimelinePicture(tuple(many(1_000, 150))).draw_text()


@st.composite
def any_rows(draw: st.DrawFn) -> list[TimelineEntry]:
    rows, most = Rows(), draw(st.sampled_from([5, 30, 90]))
    times = st.sampled_from([0.0, 1e-6, 0.003, 0.5, 7.0, 3600.0, 9e6]) | st.floats(0, 100)
    for _ in range(draw(st.integers(0, most))):
        start, length = draw(times), draw(times)
        if draw(st.integers(0, 5)):
            kind = draw(st.sampled_from(["task", "error", "interrupt"]))
            node, task = draw(st.sampled_from(["a", "b", "<c>"])), str(draw(st.integers(0, 80)))
            rows.add(kind, start, start + length, node, task=task, superstep=draw(st.integers(0, 4)))
        else:
            rows.add("update", None, start)
    return rows.entries


@settings(max_examples=100, deadline=None)
@given(any_rows())
def test_any_rows(entries: list[TimelineEntry]) -> None:
    svg = draw_timeline(entries)
    check(entries, Drawn(svg))
    assert svg == draw_timeline(entries)
    bars = [(seconds(e.started_at or ""), seconds(e.created_at)) for e in entries if e.started_at]
    if bars:
        scale = gantt.Scale(gantt._busy(entries), 100.0, 5.0)
        places = [scale(time) for time in sorted(time for bar in bars for time in bar)]
        assert places == sorted(places)
        assert places[0] >= 0
        assert places[-1] <= 100.001


@pytest.mark.parametrize(
    ("length", "words"),
    [
        *[(0, "0"), (1e-6, "1 µs"), (0.00034, "340 µs"), (0.9999, "1 s"), (59.9, "59.9 s"), (60, "1 min")],
        *[(61, "1 min 1 s"), (3599.99, "1 h"), (90_000, "1 d 1 h"), (1e7, "115 d 18 h")],
    ],
)
def test_times_in_words(length: float, words: str) -> None:
    assert gantt.said(length) == words


# --- of a real thread -------------------------------------------------------------------------


@pytest.fixture(params=WAYS)
def run(request: pytest.FixtureRequest, database_url: str) -> Iterator[Runner]:
    with Runner(request.param, database_url) as runner:
        yield runner


def test_the_timeline_of_a_thread(run: Runner) -> None:
    fails = iter([True, True, False])

    def shaky(state: State) -> State:
        if next(fails):
            raise ConnectionError("gone")
        return {"log": ["shaky"]}

    def ask(state: State) -> State:
        return {"log": [interrupt("secret question")]}

    builder = StateGraph(State)
    builder.add_node("shaky", run.node(shaky), retry_policy=RetryPolicy(initial_interval=0, jitter=False))
    builder.add_node("ask", run.node(ask))
    builder.add_edge(START, "shaky").add_edge("shaky", "ask")
    graph, config = run.compile(builder), new_thread()
    run.invoke(graph, {"log": ["secret input"]}, config)
    run.invoke(graph, Command(resume="secret answer"), config)
    shown: TimelinePicture = run.call(graph, "draw_timeline", config)
    drawn = Drawn(shown.draw_svg())
    check(list(shown.entries), drawn)
    assert drawn.rows == ["shaky", "ask"]
    assert [bar.state for bar in drawn.bars] == ["done", "waiting", "done"]
    assert "attempt 3" in drawn.bars[0].title
    assert "secret" not in shown.draw_svg()  # nothing of the state
    with Log(run.url) as log:  # needs no code of the application
        assert log.draw_timeline(config) == shown
        assert len(log.draw_timeline(config, after=0, limit=2).entries) == 2


def test_tasks_side_by_side(run: Runner) -> None:
    graph, config = run.compile(wide(run, Calls(), "abc")), new_thread()
    run.invoke(graph, {}, config)
    shown: TimelinePicture = run.call(graph, "draw_timeline", config)
    assert sorted(Drawn(shown.draw_svg()).rows) == ["a", "b", "c", "end"]
    with pytest.raises(ThreadNotFoundError):
        run.call(graph, "draw_timeline", new_thread())


# --- elsewhere than in a browser --------------------------------------------------------------


def test_as_text() -> None:
    lines = TimelinePicture(tuple(few())).draw_text(40).splitlines()
    assert [line.split(" ")[0] for line in lines] == ["plan", "search", "fetch", "ask", "send"]
    assert len({line.rindex("|") for line in lines}) == 1
    assert "!" in lines[1]
    assert "?" in lines[3]
    assert lines[1].endswith("1 s in 2")


def test_notebooks_and_png(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = TimelinePicture(tuple(few()))
    bundle = shown._repr_mimebundle_(include=None)
    assert bundle == {"text/plain": shown.draw_text(), "image/svg+xml": shown._repr_svg_()}
    assert shown._repr_html_() == shown.draw_svg()
    json.dumps(bundle)
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    png._renderer.cache_clear()
    with pytest.raises(CallError, match=r"durable-graph\[png\]"):
        shown.draw_png()
