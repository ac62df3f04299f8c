"""A drawing as a picture: its nodes and edges; as Mermaid text, as SVG and as PNG."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from durable_graph.core.edge import Edge
from durable_graph.core.model import END, START, Graph, Node
from durable_graph.core.png import png_of
from durable_graph.core.svg import draw


@dataclass(frozen=True, slots=True)
class Picture:
    """What `get_graph()` returns. Nodes of a subgraph, with `xray`, are named "<its node>:<node>"."""

    nodes: tuple[str, ...]
    edges: tuple[Edge, ...]

    def draw_mermaid(self) -> str:
        """Mermaid flowchart text. Dotted arrows are taken when a router or a Command says so."""
        ids = {name: f"n{place}" for place, name in enumerate(self.nodes)}
        lines = ["flowchart TD", *_boxes(self.nodes, ids, ())]
        lines += [f"    {ids[edge.source]} {_arrow(edge)} {ids[edge.target]}" for edge in self.edges]
        return "\n".join(lines) + "\n"

    def draw_ascii(self) -> str:
        """The arrows as plain text, one a line; dotted ones as in Mermaid."""
        return "".join([f"{edge.source} {_arrow(edge, str)} {edge.target}\n" for edge in self.edges])

    def draw_svg(self, states: Mapping[str, str] | None = None) -> str:
        """An SVG document, readable on light and on dark: layers from START to END, dotted arrows where a router or
        a Command decides, frames around subgraphs.

        states: by node (or by the node that a subgraph is, for its frame): "done", "running", "waiting", "failed" or
            "next". They show as colour and as a sign. A node that the picture has not is passed over, since a thread
            may have run other code.

        The same picture gives the same text. It holds no script and refers to nothing outside; every node is a
        `<g class="node" data-node="..." data-state="...">`, every edge a `<g class="edge" data-source="..."
        data-target="...">`, and all colours are attributes, for a page's own style sheet to override
        (`.durable-graph .box`, `.done` ...). Raises ArgumentError for another state.
        """
        return draw(self.nodes, self.edges, states or {})

    def draw_png(self, states: Mapping[str, str] | None = None, *, zoom: float = 2.0) -> bytes:
        """`draw_svg` as a PNG image, on light paper. zoom: pixels of the image for one of the SVG.

        Takes `pip install "durable-graph[png]"` and a font on this machine; raises CallError where one is missing.
        """
        return png_of(self.draw_svg(states), zoom)

    def draw_mermaid_png(self, *_: object, **__: object) -> bytes:
        """`draw_png` by LangGraph's name. Its arguments are those of a Mermaid renderer, and change nothing here."""
        return self.draw_png()

    def _repr_svg_(self) -> str:
        return self.draw_svg()

    _repr_html_ = _repr_svg_  # an HTML page takes SVG as it is

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        """For notebooks."""
        return {"text/plain": repr(self), "image/svg+xml": self.draw_svg()}


def _boxes(nodes: Sequence[str], ids: dict[str, str], above: tuple[str, ...]) -> Iterator[str]:
    """The nodes at one place in the drawing, and around those of each subgraph a frame."""
    indent = "    " * (len(above) + 1)
    framed: set[str] = set()
    for name in nodes:
        *way, last = name.split(":")
        if tuple(way) == above:
            yield f"{indent}{ids[name]}{_box(last)}"
        elif tuple(way[: len(above)]) == above and way[len(above)] not in framed:
            frame = way[len(above)]
            framed.add(frame)
            yield f'{indent}subgraph {ids[name]}s["{_text(frame)}"]'
            yield from _boxes(nodes, ids, (*above, frame))
            yield f"{indent}end"


def _box(name: str) -> str:
    return f'(["{_text(name)}"])' if name in (START, END) else f'["{_text(name)}"]'


def _arrow(edge: Edge, text: Callable[[str], str] | None = None) -> str:
    arrow = "-.->" if edge.conditional else "-->"
    return f'{arrow}|"{(text or _text)(edge.label)}"|' if edge.label else arrow


def _text(text: str) -> str:
    """Mermaid reads quotes, brackets and markup in labels; as character codes they are plain text."""
    return re.sub(r"[^\w .,:/-]", lambda found: f"#{ord(found[0])};", text)


def picture_of(graph: Graph, inside: Callable[[str], Picture | None] = lambda node: None) -> Picture:
    """`inside`: the picture of the subgraph that a node is, to be drawn in its place."""
    edges = tuple(dict.fromkeys(edge for node in graph.nodes.values() for edge in _edges(graph, node)))
    targets = {edge.target for edge in edges}
    names = [name for name in graph.nodes if name != START]
    picture = Picture((START, *names, *([END] if END in targets else [])), edges)
    for name in names:
        below = inside(name)
        picture = picture if below is None else _opened(picture, name, below)
    return picture


def _opened(picture: Picture, name: str, below: Picture) -> Picture:
    """With a node's subgraph in its place: what led to the node leads to that one's START, and on from its END."""
    within = tuple(f"{name}:{node}" for node in below.nodes)
    end = f"{name}:{END}" if f"{name}:{END}" in within else f"{name}:{START}"
    place = picture.nodes.index(name)
    edges = [
        replace(
            edge,
            source=end if edge.source == name else edge.source,
            target=f"{name}:{START}" if edge.target == name else edge.target,
        )
        for edge in picture.edges
    ]
    edges += [replace(edge, source=f"{name}:{edge.source}", target=f"{name}:{edge.target}") for edge in below.edges]
    return Picture((*picture.nodes[:place], *within, *picture.nodes[place + 1 :]), tuple(edges))


def _edges(graph: Graph, node: Node) -> Iterator[Edge]:
    for target in node.successors:
        yield Edge(node.name, target)
    for join in node.joins:
        yield Edge(node.name, join.target)
    for branch in node.branches:
        if branch.ends is None:
            anywhere = [name for name in graph.nodes if name != START]
            yield from (Edge(node.name, name, None, True) for name in [*anywhere, END])
        else:
            for answer, target in branch.ends.items():
                label = None if str(answer) == target else str(answer)
                yield Edge(node.name, target, label, True)
    for target, label in node.destinations.items():
        yield Edge(node.name, target, label, True)
    if not (node.successors or node.joins or node.branches or node.destinations):
        yield Edge(node.name, END)
