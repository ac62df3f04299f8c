"""SVG and PNG of a graph: everything is in it, nothing stands or runs where something else is, texts stay texts."""

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from graphs import State
from hypothesis import given, settings
from hypothesis import strategies as st

from durable_graph import END, START, ArgumentError, CallError, StateGraph
from durable_graph.core import layout, paper, png
from durable_graph.core.edge import Edge
from durable_graph.core.paper import INKS
from durable_graph.core.picture import Picture

SVG = "{http://www.w3.org/2000/svg}"
Rect = tuple[float, float, float, float]  # left, top, right, bottom


def picture(*edges: Any, nodes: tuple[str, ...] = ()) -> Picture:
    made = tuple(edge if isinstance(edge, Edge) else Edge(*edge) for edge in edges)
    names = [START, *nodes, *(name for edge in made for name in (edge.source, edge.target))]
    return Picture(tuple(dict.fromkeys(names)), made)


class Drawn:
    """What an SVG document shows."""

    def __init__(self, svg: str) -> None:
        self.root = ElementTree.fromstring(svg)
        self.nodes = {group.attrib["data-node"]: rect_of(group) for group in self.of("node")}
        self.frames = {group.attrib["data-node"]: rect_of(group) for group in self.of("frame")}
        self.states = {
            group.attrib["data-node"]: group.attrib["data-state"]
            for group in [*self.of("node"), *self.of("frame")]
            if "data-state" in group.attrib
        }
        self.edges = self.of("edge")

    def of(self, name: str) -> list[ElementTree.Element]:
        return [group for group in self.root.iter(SVG + "g") if name in group.attrib.get("class", "").split()]

    def words(self) -> list[str]:
        return [text.text or "" for text in self.root.iter(SVG + "text")]


def rect_of(group: ElementTree.Element) -> Rect:
    rect = group.find(SVG + "rect")
    assert rect is not None
    x, y, width, height = (float(rect.attrib[name]) for name in ("x", "y", "width", "height"))
    return x, y, x + width, y + height


def overlap(one: Rect, two: Rect, by: float = 0.2) -> bool:
    return all(one[low] < two[low + 2] - by and two[low] < one[low + 2] - by for low in (0, 1))


def path_of(edge: ElementTree.Element) -> list[tuple[float, float]]:
    """Points on the way of an arrow."""
    way = edge.find(SVG + "path")
    assert way is not None
    points: list[tuple[float, float]] = []
    for letter, told in re.findall(r"([MVCc])([^MVCc]*)", way.attrib["d"]):
        numbers = [float(number) for number in told.split()]
        if letter == "M":
            points.append((numbers[0], numbers[1]))
        elif letter == "V":
            x, y = points[-1]
            points += [(x, y + (numbers[0] - y) * part / 10) for part in range(1, 11)]
        else:
            start = points[-1]
            moved = start if letter == "c" else (0.0, 0.0)
            ends = [(numbers[at] + moved[0], numbers[at + 1] + moved[1]) for at in (0, 2, 4)]
            points += [bezier(part / 20, start, *ends) for part in range(1, 21)]
    return points


def labels_of(edge: ElementTree.Element) -> Iterator[Rect]:
    for text in edge.iter(SVG + "text"):
        x, y, size = (float(text.attrib[name]) for name in ("x", "y", "font-size"))
        width = paper.width(text.text or "", size)
        left = x - width / 2 if text.attrib["text-anchor"] == "middle" else x
        yield left, y - size, left + width, y


def bezier(t: float, *points: tuple[float, float]) -> tuple[float, float]:
    while len(points) > 1:
        points = tuple((a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t) for a, b in pairwise(points))
    return points[0]


def check(drawing: Picture, drawn: Drawn) -> None:
    """What has to be true of every picture."""
    assert drawn.nodes.keys() == set(drawing.nodes)
    shown = Counter((edge.attrib["data-source"], edge.attrib["data-target"]) for edge in drawn.edges)
    assert shown == Counter((edge.source, edge.target) for edge in drawing.edges)
    for (name, one), (other, two) in combinations(drawn.nodes.items(), 2):
        assert not overlap(one, two), f"{name!r} and {other!r} overlap"
    for name, frame in drawn.frames.items():
        for node, rect in drawn.nodes.items():
            if node.startswith(f"{name}:"):
                assert rect[0] > frame[0]
                assert rect[1] > frame[1]
                assert rect[2] < frame[2]
                assert rect[3] < frame[3]
            else:
                assert not overlap(rect, frame), f"{node!r} is in the frame of {name!r}"
    width, height = (float(drawn.root.attrib[name]) - 14 for name in ("width", "height"))
    for rect in [*drawn.nodes.values(), *drawn.frames.values()]:
        assert rect[0] >= 0
        assert rect[1] >= 0
        assert rect[2] <= width
        assert rect[3] <= height
    labels = [label for edge in drawn.edges for label in labels_of(edge)]
    for label in labels:
        assert not any(overlap(label, rect) for rect in drawn.nodes.values())
    assert not any(overlap(one, two) for one, two in combinations(labels, 2))
    for edge in drawn.edges:
        for x, y in path_of(edge):
            met = [name for name, rect in drawn.nodes.items() if overlap((x, y, x, y), rect, by=0.3)]
            assert not met, f"{edge.attrib} runs through {met}"


# --- any graph --------------------------------------------------------------------------------


@st.composite
def drawings(draw: st.DrawFn, depth: int = 2) -> Picture:
    """Graphs with loops, double arrows, arrows to themselves, parts that nothing leads to, and subgraphs."""
    count = draw(st.integers(0, 9))
    nodes = [f"n{number}" for number in range(count)]
    ends = st.sampled_from([START, *nodes, END])
    label = st.none() | st.sampled_from(["yes", "a longer answer of a router", "nein"])
    edges = draw(st.lists(st.builds(Edge, ends, ends, label, st.booleans()), max_size=18))
    names = [START, *nodes, *([END] if draw(st.booleans()) or any(END in (e.source, e.target) for e in edges) else [])]
    drawing = Picture(tuple(names), tuple(dict.fromkeys(edges)))
    if depth and nodes and draw(st.booleans()):
        drawing = opened(drawing, draw(st.sampled_from(nodes)), draw(drawings(depth=depth - 1)))
    return drawing


def opened(drawing: Picture, name: str, below: Picture) -> Picture:
    from durable_graph.core.picture import _opened

    return _opened(drawing, name, below)


@settings(max_examples=120, deadline=None)
@given(drawings())
def test_boxes_stand_apart_and_no_arrow_runs_through_one(drawing: Picture) -> None:
    svg = drawing.draw_svg()
    check(drawing, Drawn(svg))
    assert svg == drawing.draw_svg()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=40), min_size=1, max_size=5, unique=True), st.text(max_size=60))
def test_any_text_is_text(names: list[str], label: str) -> None:
    drawing = picture(*[(START, name, label, True) for name in names], ("a", START, label))
    drawn = Drawn(drawing.draw_svg(dict.fromkeys(names, "done")))
    assert len(drawn.nodes) <= len(drawing.nodes)
    assert {element.tag.removeprefix(SVG) for element in drawn.root.iter()} <= {
        *("svg", "title", "style", "rect", "g", "path", "text", "circle")
    }


def test_the_same_in_every_process() -> None:
    script = """if True:
        import sys, test_pictures
        sys.stdout.write(test_pictures.tangle(60).draw_svg())
    """
    folder = Path(__file__).parent
    told = {
        subprocess.run(
            [sys.executable, "-c", script],
            cwd=folder,
            env={"PYTHONPATH": f"{folder.parent}:{folder}", "PYTHONHASHSEED": str(seed), "PYTHONUTF8": "1"},
            check=True,
            capture_output=True,
        ).stdout
        for seed in (1, 2)
    }
    assert len(told) == 1
    assert len(told.pop()) > 10_000


def tangle(count: int) -> Picture:
    """Reproducibly many nodes, most of them with several arrows, some of these backwards."""
    edges = [(START, "n0"), (f"n{count - 1}", END)]
    for number in range(1, count):
        edges.append((f"n{number - 1 - number * 7 % min(number, 5)}", f"n{number}"))
        if number % 3 == 0:
            edges.append((f"n{number}", f"n{number * 31 % count}"))
    return picture(*edges)


@pytest.mark.parametrize("count", [1, 20, 200])
def test_many_nodes(count: int) -> None:
    drawing = tangle(count)
    check(drawing, Drawn(drawing.draw_svg()))


def test_a_chain_is_a_straight_line() -> None:
    names = [START, "a", "a much longer name", "b", END]
    drawing = picture(*pairwise(names))
    drawn = Drawn(drawing.draw_svg())
    middles = {round((drawn.nodes[name][0] + drawn.nodes[name][2]) / 2, 1) for name in names}
    assert max(middles) - min(middles) < 0.2
    tops = [drawn.nodes[name][1] for name in names]
    assert tops == sorted(tops)
    assert all("C" not in edge.find(SVG + "path").attrib["d"] for edge in drawn.edges)  # type: ignore[union-attr]


def test_few_arrows_cross() -> None:
    """A tree and a ladder can be drawn without a crossing, in whatever order they are given."""
    tree = [("root", f"b{n}") for n in (3, 1, 2)] + [(f"b{n % 3 + 1}", f"c{n}") for n in range(9)]
    ladder = [("l0", "r1"), ("r0", "l1"), ("l1", "l2"), ("r1", "r2"), ("l0", "x"), ("r0", "y")]
    for edges in (tree, ladder):
        names = list(dict.fromkeys(name for edge in edges for name in edge))
        links = [layout.Link(names.index(one), names.index(two)) for one, two in edges]
        down = layout._turned(len(names), links, None, None)
        levels = layout._levels(len(names), down, None, None)
        net = layout._Net([layout.Block(50, 20)] * len(names), links, down, levels)
        layout._order(net)
        assert layout._crossings(net) == 0


def test_arrows_beyond_counting_are_still_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a place of their own in each layer, the longest run behind the boxes."""
    monkeypatch.setattr(layout, "MOST_KNOTS", 50)
    names = [f"n{number}" for number in range(14)]
    drawing = picture((START, "n0"), *[(one, two, None, True) for one in names for two in names])
    drawn = Drawn(drawing.draw_svg())
    assert len(drawn.edges) == len(drawing.edges)
    assert not any(overlap(one, two) for one, two in combinations(drawn.nodes.values(), 2))


# --- what it looks like -----------------------------------------------------------------------


def test_names_are_broken_and_in_the_end_cut() -> None:
    long = "gather_all_documents_that_were_sent_in " * 6
    drawn = Drawn(picture((START, long), (long, "short")).draw_svg())
    left, _, right, _ = drawn.nodes[long]
    assert right - left < 300
    assert len(drawn.words()) == 5  # START, three lines, short
    assert drawn.words()[3].endswith("…")
    title = next(group for group in drawn.of("node") if group.attrib["data-node"] == long).find(SVG + "title")
    assert title is not None
    assert title.text == long


def test_what_xml_cannot_hold_is_replaced() -> None:
    name = '<script>alert(1)</script> & "\x00\x1b\ud800\u202e'
    svg = picture((START, name, "]]>", True)).draw_svg({name: "failed"})
    assert "<script" not in svg
    assert '<script>alert(1)</script> & "\ufffd\ufffd\ufffd\ufffd' in Drawn(svg).nodes
    assert svg.encode()


def test_nothing_outside_is_referred_to() -> None:
    svg = tangle(5).draw_svg({"n0": "done"}).replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert not re.search(r"http|href|url\(|@import|<script|\son\w+=|\sid=", svg)


def test_conditional_arrows_are_dotted_and_labelled() -> None:
    drawn = Drawn(picture((START, "a"), ("a", "b", "yes", True), ("a", "c", None, True)).draw_svg())
    plain, yes, other = drawn.edges
    assert ["stroke-dasharray" in edge.find(SVG + "path").attrib for edge in (plain, yes, other)] == [  # type: ignore[union-attr]
        False,
        True,
        True,
    ]
    assert [text.text for text in yes.iter(SVG + "text")] == ["yes"]
    assert "conditional" in yes.attrib["class"]
    assert "conditional" not in plain.attrib["class"]


def test_states_are_a_colour_and_a_sign() -> None:
    names = ["done", "running", "waiting", "failed", "next"]
    drawing = picture((START, "plain"), *[(START, name) for name in names])
    drawn = Drawn(drawing.draw_svg({**{name: name for name in names}, "gone": "done"}))
    assert drawn.states == {name: name for name in names}
    looks, signs = set(), set()
    for group in drawn.of("node"):
        rect, mark = group.find(SVG + "rect"), group.find(f"{SVG}g/{SVG}path")
        looks.add((rect.attrib["fill"], rect.attrib["stroke"]))  # type: ignore[union-attr]
        signs.add(None if mark is None else mark.attrib["d"])
    assert len(looks) == 7  # START and plain have theirs
    assert len(signs) == 6
    assert {group.find(SVG + "text").text for group in drawn.of("legend")} == set(names)  # type: ignore[union-attr]
    assert not Drawn(drawing.draw_svg()).of("legend")
    with pytest.raises(ArgumentError, match=r"'asleep', for node 'plain'.*Known: done, running"):
        drawing.draw_svg({"plain": "asleep"})


def test_every_text_can_be_read_on_its_paper() -> None:
    """Contrast as WCAG 2 defines it."""

    def light(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    def contrast(one: str, two: str) -> float:
        low, high = sorted((light(one), light(two)))
        return (high + 0.05) / (low + 0.05)

    text, faint, white = INKS["text"], INKS["faint"], INKS["paper"]
    for name in ("box", "end", "frame", "done", "running", "waiting", "failed", "next", "paper", "band"):
        assert contrast(text.fill, INKS[name].fill) > 4.5
        assert contrast(text.dark_fill, INKS[name].dark_fill) > 4.5
    assert contrast(faint.fill, white.fill) > 4.5
    assert contrast(faint.dark_fill, white.dark_fill) > 4.5
    for name in ("box", "done", "running", "waiting", "failed", "next", "line"):
        assert contrast(INKS[name].stroke, white.fill) > 3
        assert contrast(INKS[name].dark_stroke, white.dark_fill) > 3


# --- subgraphs --------------------------------------------------------------------------------


def nested() -> Picture:
    inner = StateGraph(State).add_node("deep", lambda state: {})
    inner.add_edge(START, "deep")
    middle = StateGraph(State).add_node("in", inner.compile(checkpointer=False)).add_node("after", lambda state: {})
    middle.add_edge(START, "in").add_edge("in", "after")
    outer = StateGraph(State).add_node("mid", middle.compile(checkpointer=False)).add_node("last", lambda state: {})
    outer.add_edge(START, "mid").add_edge("mid", "last").add_conditional_edges("last", lambda _: END, ["mid", END])
    return outer.compile(checkpointer=False).get_graph(xray=True)


def test_frames_around_subgraphs() -> None:
    drawing = nested()
    drawn = Drawn(drawing.draw_svg({"mid": "running", "mid:in": "done", "mid:in:deep": "done"}))
    check(drawing, drawn)
    assert drawn.frames.keys() == {"mid", "mid:in"}
    assert drawn.states == {"mid": "running", "mid:in": "done", "mid:in:deep": "done"}
    (way,) = [path_of(edge) for edge in drawn.edges if edge.attrib["data-target"] == "mid:in:__start__"]
    assert abs(way[-1][1] + layout.GAP - drawn.nodes["mid:in:__start__"][1]) < layout.GAP  # comes to the node itself
    (back,) = [
        path_of(edge) for edge in drawn.edges if edge.attrib["data-source"] == "last" and "mid" in str(edge.attrib)
    ]
    assert back[-1][1] > drawn.frames["mid"][3]  # comes to the frame from below, and stays outside


# --- PNG and notebooks ------------------------------------------------------------------------


def test_png() -> None:
    drawing = picture((START, "a"))
    try:
        drawing.draw_png()
    except CallError as error:
        assert "no font" in str(error)  # noqa: PT017
        pytest.skip(f"PNG needs a font: {error}")
    small, large = drawing.draw_png(zoom=1), drawing.draw_png({"a": "done"}, zoom=3)
    for image in (small, large):
        assert image.startswith(b"\x89PNG\r\n\x1a\n")
    width = float(ElementTree.fromstring(drawing.draw_svg()).attrib["width"])
    assert int.from_bytes(small[16:20]) == pytest.approx(width, abs=1.5)
    assert int.from_bytes(large[16:20]) == pytest.approx(width * 3, abs=1.5)
    assert drawing.draw_mermaid_png(wrap_label_n_words=9) == drawing.draw_png()


def test_png_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    png._renderer.cache_clear()
    for call in (picture((START, "a")).draw_png, picture((START, "a")).draw_mermaid_png):
        with pytest.raises(CallError, match=r'pip install "durable-graph\[png\]"'):
            call()


def test_png_without_a_font(monkeypatch: pytest.MonkeyPatch) -> None:
    import resvg_py

    render = resvg_py.svg_to_bytes
    monkeypatch.setattr(resvg_py, "svg_to_bytes", lambda **given: render(**given, skip_system_fonts=True))
    png._renderer.cache_clear()
    with pytest.raises(CallError, match="no font"):
        picture((START, "a")).draw_png()
    png._renderer.cache_clear()


def test_notebooks_show_the_picture() -> None:
    builder = StateGraph(State).add_node("a", lambda state: {}).add_edge(START, "a")
    graph = builder.compile(checkpointer=False)
    for shown in (graph, graph.get_graph()):
        bundle = shown._repr_mimebundle_(include=None, exclude=None)
        assert bundle["text/plain"] == repr(shown)
        assert bundle["image/svg+xml"] == graph.get_graph().draw_svg()
        json.dumps(bundle)
    assert graph.get_graph()._repr_svg_() == graph.get_graph()._repr_html_() == graph.get_graph().draw_svg()
