"""SVG text as a PNG image, by resvg, if that is installed."""

from __future__ import annotations

from functools import cache
from typing import Any

from durable_graph.errors import CallError

_PROOF = '<svg xmlns="http://www.w3.org/2000/svg" width="30" height="30"><text y="20">{}</text></svg>'


def png_of(svg: str, zoom: float = 2.0) -> bytes:
    """The image. Raises CallError without resvg, or where there is no font: letters would be missing."""
    render = _renderer()
    return bytes(render(svg_string=svg, zoom=zoom))


@cache
def _renderer() -> Any:
    try:
        from resvg_py import svg_to_bytes
    except ImportError as error:
        raise CallError(
            problem=f"this picture cannot be drawn as PNG, since resvg_py cannot be imported ({error})",
            fix='Run: pip install "durable-graph[png]". draw_svg() needs nothing, and browsers and editors show it.',
        ) from error
    if svg_to_bytes(svg_string=_PROOF.format("M")) == svg_to_bytes(svg_string=_PROOF.format("")):
        raise CallError(
            problem="this machine has no font, so a PNG would have no letters",
            fix="Install one, such as Debian's package fonts-dejavu-core; or take draw_svg().",
        )
    return svg_to_bytes
