"""An arrow of a drawing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Edge:
    """One arrow. `label` is the router's answer, where that is not the target's name."""

    source: str
    target: str
    label: str | None = None
    conditional: bool = False
