"""A drawing as a picture: its nodes and edges, and Mermaid text of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from durable_graph.core.model import END, START, Graph, Node


@dataclass(frozen=True, slots=True)
class Edge:
    """One arrow. `label` is the router's answer, where that is not the target's name."""

    source: str
    target: str
    label: str | None = None
    conditional: bool = False


@dataclass(frozen=True, slots=True)
class Picture:
    """What `get_graph()` returns."""

    nodes: tuple[str, ...]
    edges: tuple[Edge, ...]

    def draw_mermaid(self) -> str:
        """Mermaid flowchart text. Dotted arrows are taken when a router or a Command says so."""
        ids = {name: f"n{place}" for place, name in enumerate(self.nodes)}
        lines = ["flowchart TD"]
        lines += [f"    {ids[name]}{_box(name)}" for name in self.nodes]
        lines += [f"    {ids[edge.source]} {_arrow(edge)} {ids[edge.target]}" for edge in self.edges]
        return "\n".join(lines) + "\n"


def _box(name: str) -> str:
    return f'(["{_text(name)}"])' if name in (START, END) else f'["{_text(name)}"]'


def _arrow(edge: Edge) -> str:
    arrow = "-.->" if edge.conditional else "-->"
    return f'{arrow}|"{_text(edge.label)}"|' if edge.label else arrow


def _text(text: str) -> str:
    """Mermaid reads quotes, brackets and markup in labels; as character codes they are plain text."""
    return re.sub(r"[^\w .,:/-]", lambda found: f"#{ord(found[0])};", text)


def picture_of(graph: Graph) -> Picture:
    edges = tuple(dict.fromkeys(edge for node in graph.nodes.values() for edge in _edges(graph, node)))
    targets = {edge.target for edge in edges}
    names = [name for name in graph.nodes if name != START]
    return Picture((START, *names, *([END] if END in targets else [])), edges)


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
