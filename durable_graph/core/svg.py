"""A drawing as an SVG picture. Where everything stands is decided in `core/layout.py`; colours are in `core/paper.py`.

A subgraph is laid out by itself and is one box in what is around it, with a frame. Arrows come into it at its START and
leave it from its END, which stand at its upper and lower end, and so need not cross it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from durable_graph.core.edge import Edge
from durable_graph.core.layout import Block, Link, Point, laid_out
from durable_graph.core.model import END, START
from durable_graph.core.paper import (
    INKS,
    ROW,
    SIGNS,
    escaped,
    ink,
    lines,
    number,
    picture,
    shortened,
    sign,
    text,
    width,
)
from durable_graph.errors import ArgumentError

WIDEST = 230.0  # of a name's lines
SMALL = 11.5  # letters of labels
HEAD = 7.0  # length of an arrow's head
PAD, TITLE = 10.0, 24.0  # within a frame: around what is in it, and above for its name
MARGIN = 14.0  # around the whole picture
STATES = tuple(SIGNS)


class Item(NamedTuple):
    """What stands in one layout: a node, or a frame."""

    name: str
    is_frame: bool = False


class _Box(NamedTuple):
    """A node, or the frame around a subgraph."""

    name: str
    x: float
    y: float
    width: float
    height: float
    is_frame: bool = False

    def moved(self, x: float, y: float) -> _Box:
        return self._replace(x=self.x + x, y=self.y + y)


class _Arrow(NamedTuple):
    edge: Edge
    points: Sequence[Point]
    label: Point | None  # its middle

    def moved(self, x: float, y: float) -> _Arrow:
        points = [(px + x, py + y) for px, py in self.points]
        return self._replace(points=points, label=self.label and (self.label[0] + x, self.label[1] + y))


class _Loop(NamedTuple):
    """An arrow from a box to itself, on its right: the first, the second ... Its label is so far below the middle."""

    edge: Edge
    box: _Box
    nth: int
    aside: float

    def moved(self, x: float, y: float) -> _Loop:
        return self._replace(box=self.box.moved(x, y))


@dataclass(slots=True)
class _Sheet:
    """What is in one frame, or in none."""

    width: float = 0.0
    height: float = 0.0
    boxes: list[_Box] = field(default_factory=list)
    arrows: list[_Arrow] = field(default_factory=list)
    loops: list[_Loop] = field(default_factory=list)

    def take_in(self, other: _Sheet, x: float, y: float) -> None:
        self.boxes += [box.moved(x, y) for box in other.boxes]
        self.arrows += [arrow.moved(x, y) for arrow in other.arrows]
        self.loops += [loop.moved(x, y) for loop in other.loops]

    def box(self, name: str) -> _Box | None:
        return next((box for box in self.boxes if box.name == name and not box.is_frame), None)


def draw(nodes: Sequence[str], edges: Sequence[Edge], states: Mapping[str, str]) -> str:
    """The picture, as the text of an SVG document. See `Picture.draw_svg`."""
    for name, state in states.items():
        if state not in STATES:
            raise ArgumentError(
                argument="states",
                problem=f"{state!r}, for node {name!r}, is no state of a node",
                fix=f"Known: {', '.join(STATES)}",
            )
    names = list(dict.fromkeys([*nodes, *(name for edge in edges for name in (edge.source, edge.target))]))
    sheet = _laid_out(names, edges, ())
    shown = [state for state in STATES if state in {states.get(box.name) for box in sheet.boxes}]
    legend = list(_legend(shown, sheet.height + MARGIN))
    title = f"A graph of {len(nodes)} nodes and {len(edges)} edges"
    body = [*_drawn(sheet, states), *legend]
    wide = max(sheet.width, sum(map(_legend_width, shown)))
    return picture(wide + 2 * MARGIN, sheet.height + 2 * MARGIN + (26 if legend else 0), title, body)


# --- where everything is ----------------------------------------------------------------------


def _laid_out(names: Sequence[str], edges: Iterable[Edge], above: tuple[str, ...]) -> _Sheet:
    """What is in the frame `above`: its nodes, and its frames with what is in them."""
    items: dict[Item, list[str]] = {}  # nodes, and of frames what is in them
    for name in names:
        item = _item(name, above)
        inside = items.setdefault(item, [])
        if item.is_frame:
            inside.append(name)
    here, loops, within = _sorted_edges(edges, items, above)
    sheets = {item: _laid_out(items[item], within[item], (*above, _last(item.name))) for item in items if item.is_frame}
    numbers = {item: place for place, item in enumerate(items)}
    links = [_link(edge, numbers, above) for edge in here]
    touched = _touched(links, len(items))
    blocks = [
        _frame_block(item.name, sheets[item])
        if item.is_frame
        else _node_block(item.name, touched[place], loops.get(item.name, ()))
        for item, place in numbers.items()
    ]
    layout = laid_out(blocks, links, *(numbers.get(Item(_named(name, above))) for name in (START, END)))
    sheet = _Sheet(layout.width, layout.height)
    for item, block, (x, y) in zip(items, blocks, layout.corners, strict=True):
        box = _Box(item.name, x, y, block.width, block.height, item.is_frame)
        sheet.boxes.append(box)
        if item.is_frame:
            sheet.take_in(sheets[item], x + _indent(item.name, sheets[item]), y + TITLE)
        else:
            sheet.loops += _loops(box, loops.get(item.name, ()))
    for edge, route in zip(here, layout.routes, strict=True):
        sheet.arrows.append(_Arrow(edge, _to_the_node(edge, route.points, sheet), route.label))
    return sheet


def _item(name: str, above: tuple[str, ...]) -> Item:
    """The node, or the frame that it is in, as seen in the frame `above`."""
    way = name.split(":")
    return Item(name) if len(way) == len(above) + 1 else Item(_named(way[len(above)], above), True)


def _named(last: str, above: tuple[str, ...]) -> str:
    return ":".join((*above, last))


def _last(name: str) -> str:
    return name.rpartition(":")[2]


def _sorted_edges(
    edges: Iterable[Edge], items: Iterable[Item], above: tuple[str, ...]
) -> tuple[list[Edge], dict[str, list[Edge]], dict[Item, list[Edge]]]:
    """Those between two items, those from a node to itself, and those within a frame."""
    here: list[Edge] = []
    loops: dict[str, list[Edge]] = {}
    within: dict[Item, list[Edge]] = {item: [] for item in items}
    for edge in edges:
        source, target = _item(edge.source, above), _item(edge.target, above)
        if source != target:
            here.append(edge)
        elif source.is_frame:
            within[source].append(edge)
        else:
            loops.setdefault(source.name, []).append(edge)
    return here, loops, within


def _link(edge: Edge, numbers: Mapping[Item, int], above: tuple[str, ...]) -> Link:
    wide, high = _label_size(edge)
    return Link(numbers[_item(edge.source, above)], numbers[_item(edge.target, above)], wide, high)


def _label(edge: Edge) -> list[str]:
    return [shortened(line, 150, SMALL) for line in lines(edge.label, 150, 2)] if edge.label else []


def _label_size(edge: Edge) -> tuple[float, float]:
    words = _label(edge)
    return max((width(line, SMALL) + 8 for line in words), default=0.0), len(words) * 14.0 + (4 if words else 0)


def _touched(links: Iterable[Link], count: int) -> list[int]:
    """How many arrows there are on that side of each item where there are more."""
    outs, ins = [0] * count, [0] * count
    for link in links:
        outs[link.source] += 1
        ins[link.target] += 1
    return [one + two for one, two in zip(outs, ins, strict=True)]  # those that close a cycle come on the other side


def _words(name: str) -> list[str]:
    last = _last(name)
    return [{START: "START", END: "END"}[last]] if last in (START, END) else lines(last, WIDEST)


def _node_block(name: str, touched: int, loops: Sequence[Edge]) -> Block:
    words = _words(name)
    wide = max(max(map(width, words)) + 30, min(touched * 9.6 + 20, 480), 66)
    aside = max((24 + 8 * nth + _label_size(edge)[0] for nth, edge in enumerate(loops)), default=0.0)
    high = max(len(words) * ROW + 17, sum(_label_size(edge)[1] for edge in loops))
    return Block(wide, high, aside)


def _loops(box: _Box, edges: Sequence[Edge]) -> Iterator[_Loop]:
    heights = [_label_size(edge)[1] for edge in edges]
    below = -sum(heights) / 2
    for nth, (edge, height) in enumerate(zip(edges, heights, strict=True)):
        yield _Loop(edge, box, nth, below + height / 2)
        below += height


def _frame_block(frame: str, sheet: _Sheet) -> Block:
    indent = _indent(frame, sheet)
    start, end = sheet.box(f"{frame}:{START}"), sheet.box(f"{frame}:{END}")
    return Block(
        max(sheet.width + indent + PAD, _title_width(frame)),
        sheet.height + TITLE + PAD,
        0.0,
        start and (start.x + start.width / 2 + indent, start.width / 2 - 8),
        end and (end.x + end.width / 2 + indent, end.width / 2 - 8),
    )


def _indent(frame: str, sheet: _Sheet) -> float:
    """So much that what comes in from above passes beside the frame's name."""
    start = sheet.box(f"{frame}:{START}")
    return PAD if start is None else max(PAD, _title_width(frame) - start.x)


def _title_width(frame: str) -> float:
    return width(shortened(_last(frame), WIDEST)) + 40  # with the mark of a state


def _to_the_node(edge: Edge, points: Sequence[Point], sheet: _Sheet) -> list[Point]:
    """From a frame's upper side on to its START, and from its END to the lower side. Who goes back up into a frame
    comes to its lower side, and stays there."""
    (x, y), (to_x, to_y) = points[0], points[-1]
    source, target = sheet.box(edge.source), sheet.box(edge.target)
    way = list(points)
    if source is not None and edge.source.endswith(f":{END}") and source.y < y:
        way.insert(0, (x, source.y + source.height))
    if target is not None and edge.target.endswith(f":{START}") and to_y < target.y:
        way.append((to_x, target.y))
    return way


# --- how it looks -----------------------------------------------------------------------------


def _drawn(sheet: _Sheet, states: Mapping[str, str]) -> Iterator[str]:
    yield f'<g transform="translate({number(MARGIN)} {number(MARGIN)})">'
    yield from (_frame(box, states) for box in sheet.boxes if box.is_frame)
    yield from map(_arrow, sheet.arrows)
    yield from map(_loop, sheet.loops)
    yield from (_node(box, states) for box in sheet.boxes if not box.is_frame)
    yield "</g>"


def _node(box: _Box, states: Mapping[str, str]) -> str:
    state = states.get(box.name)
    is_end = _last(box.name) in (START, END)
    look = state or ("end" if is_end else "box")
    words = _words(box.name)
    top = box.y + box.height / 2 - (len(words) - 1) * ROW / 2
    wide = 2.2 if state == "running" else 1.3
    return "".join(
        [
            f'<g class="node" data-node="{escaped(box.name)}"{_data(state)}>{_title(box.name, state)}',
            f'<rect {_place(box)} rx="{number(box.height / 2 if is_end else 6)}" {ink(look)} stroke-width="{wide}"',
            ' stroke-dasharray="5 3"/>' if state == "next" else "/>",
            *(text(line, box.x + box.width / 2, top + row * ROW) for row, line in enumerate(words)),
            sign(state, box.x + box.width - 3, box.y + 1) if state else "",
            "</g>",
        ]
    )


def _frame(box: _Box, states: Mapping[str, str]) -> str:
    state = states.get(box.name)
    look = f'{ink("frame")} stroke-dasharray="2 3"'
    if state:
        look = f'class="frame {state}" fill="{INKS["frame"].fill}" stroke="{INKS[state].stroke}" stroke-width="1.8"'
    left = box.x + (24 if state else 9)
    words = text(shortened(_last(box.name), WIDEST), left, box.y + TITLE / 2 + 1, "faint", "start")
    mark = sign(state, box.x + 13, box.y + TITLE / 2 + 1) if state else ""
    return (
        f'<g class="frame" data-node="{escaped(box.name)}"{_data(state)}>{_title(box.name, state)}'
        f'<rect {_place(box)} rx="9" {look}/>{words}{mark}</g>'
    )


def _place(box: _Box) -> str:
    return f'x="{number(box.x)}" y="{number(box.y)}" width="{number(box.width)}" height="{number(box.height)}"'


def _data(state: str | None) -> str:
    return f' data-state="{state}"' if state else ""


def _title(name: str, state: str | None) -> str:
    return f"<title>{escaped(name)}{f': {state}' if state else ''}</title>"


def _arrow(arrow: _Arrow) -> str:
    points = list(arrow.points)
    (x, tip), (_, before) = points[-1], next(point for point in reversed(points) if point[1] != points[-1][1])
    turn = 1 if tip > before else -1
    base = tip - HEAD * turn
    for place in (-1, -2):
        points[place] = (points[place][0], min(points[place][1] * turn, base * turn) * turn)
    way = _path(points, arrow.label, _label_size(arrow.edge)[1] / 2)
    head = f"M{number(x)} {number(tip)}l-4 {number(-HEAD * turn)}h8Z"
    return _edge(arrow.edge, way, head, list(_label_text(arrow.edge, arrow.label, "middle")))


def _path(points: Sequence[Point], label: Point | None, free: float) -> str:
    """Straight within layers, curved between them; with a gap for the label."""
    (x, y), *others = points
    way = f"M{number(x)} {number(y)}"
    for to_x, to_y in others:
        if to_x != x:
            half = number((y + to_y) / 2)
            way += f"C{number(x)} {half} {number(to_x)} {half} {number(to_x)} {number(to_y)}"
        elif label is not None and label[0] == x and min(y, to_y) <= label[1] <= max(y, to_y):
            turn = free if to_y > y else -free
            way += f"V{number(label[1] - turn)}M{number(x)} {number(label[1] + turn)}V{number(to_y)}"
        elif to_y != y:
            way += f"V{number(to_y)}"
        x, y = to_x, to_y
    return way


def _label_text(edge: Edge, label: Point | None, anchor: str) -> Iterator[str]:
    words = _label(edge)
    if label is not None:
        for row, line in enumerate(words):
            yield text(line, label[0], label[1] + (row - (len(words) - 1) / 2) * 14, "faint", anchor, SMALL)


def _loop(loop: _Loop) -> str:
    box, edge = loop.box, loop.edge
    x, y = box.x + box.width, box.y + box.height / 2
    half, reach = min(6.0 + 3 * loop.nth, box.height / 2 - 2), 22.0 + 8 * loop.nth
    way = f"M{number(x)} {number(y - half)}c{number(reach)} -9 {number(reach)} {number(2 * half + 9)} {number(HEAD)} "
    way += number(2 * half)
    head = f"M{number(x)} {number(y + half)}l{number(HEAD)} -4v8Z"
    return _edge(edge, way, head, list(_label_text(edge, (x + reach, y + loop.aside), "start")))


def _edge(edge: Edge, way: str, head: str, label: Sequence[str]) -> str:
    dotted = ' stroke-dasharray="1.5 4" stroke-linecap="round"' if edge.conditional else ""
    named = f": {edge.label}" if edge.label else ""
    return (
        f'<g class="edge{" conditional" if edge.conditional else ""}" data-source="{escaped(edge.source)}" '
        f'data-target="{escaped(edge.target)}"><title>{escaped(f"{edge.source} → {edge.target}{named}")}</title>'
        f'<path d="{way}" {ink("line")} stroke-width="1.4"{dotted}/><path d="{head}" {ink("head")}/>'
        f"{''.join(label)}</g>"
    )


def _legend(states: Sequence[str], y: float) -> Iterator[str]:
    x = MARGIN + 10
    for state in states:
        yield f'<g class="legend">{sign(state, x, y + 14)}{text(state, x + 13, y + 14, "faint", "start", SMALL)}</g>'
        x += _legend_width(state)


def _legend_width(state: str) -> float:
    return 40 + width(state, SMALL)
