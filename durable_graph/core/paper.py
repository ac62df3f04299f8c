"""What all our pictures have in common: SVG that is safe wherever it is shown, its colours, and how long words are.

The rule: whatever a text holds, it stays text; there is no script, no reference to anything outside, and no id. Colours
are attributes, for light paper; a style sheet inside overrides them where the reader prefers dark. So a page that shows
a picture inline can override both, by class, and a program that knows no style sheets shows the light one.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'DejaVu Sans', sans-serif"
SIZE = 13.0  # of letters, in pixels
ROW = 17.0  # from one line of text to the next


class Ink(NamedTuple):
    """The colours of a class of things: on light paper, then on dark."""

    fill: str
    stroke: str
    dark_fill: str
    dark_stroke: str

    def attributes(self) -> str:
        return f'fill="{self.fill}" stroke="{self.stroke}"'


INKS = {  # each pair of a text's colour and what is below it has a contrast of 4.5 or more
    "paper": Ink("#ffffff", "none", "#0d1117", "none"),
    "text": Ink("#1f2328", "none", "#e6edf3", "none"),
    "faint": Ink("#59636e", "none", "#9198a1", "none"),
    "box": Ink("#f6f8fa", "#59636e", "#161b22", "#9198a1"),
    "end": Ink("#e7ecf0", "#59636e", "#2a313c", "#9198a1"),
    "frame": Ink("#f6f8fa", "#9aa4ae", "#10151c", "#545d68"),
    "line": Ink("none", "#59636e", "none", "#9198a1"),
    "head": Ink("#59636e", "none", "#9198a1", "none"),
    "grid": Ink("none", "#d8dee4", "none", "#262c34"),
    "band": Ink("#f6f8fa", "none", "#12171e", "none"),
    "done": Ink("#dafbe1", "#1a7f37", "#12301c", "#3fb950"),
    "running": Ink("#ddf4ff", "#0969da", "#0c2d4d", "#58a6ff"),
    "waiting": Ink("#fff8c5", "#9a6700", "#3b2e05", "#d29922"),
    "failed": Ink("#ffebe9", "#cf222e", "#4a1614", "#f85149"),
    "next": Ink("#fbefff", "#8250df", "#2b1b45", "#bc8cff"),
}
SIGNS = {  # drawn, as not every font has them, in a circle with a radius of 7 around 0, 0
    "done": "M-3.4 0.2 L-1 2.8 L3.4 -2.6",
    "running": "M-1.8 -3.4 L3.4 0 L-1.8 3.4 Z",
    "waiting": "M-1.8 -3 V3 M1.8 -3 V3",
    "failed": "M-2.6 -2.6 L2.6 2.6 M2.6 -2.6 L-2.6 2.6",
    "next": "M-3.4 0 H3 M0.4 -2.8 L3.2 0 L0.4 2.8",
}


def picture(width: float, height: float, title: str, body: Iterable[str]) -> str:
    """A whole SVG document."""
    wide, high = number(width), number(height)
    head = f'xmlns="http://www.w3.org/2000/svg" class="durable-graph" role="img" viewBox="0 0 {wide} {high}"'
    return "\n".join(
        [
            f'<svg {head} width="{wide}" height="{high}" font-family="{FONT}" font-size="{number(SIZE)}">',
            f"<title>{escaped(title)}</title>",
            f"<style>@media (prefers-color-scheme: dark) {{{_dark()}}}</style>",
            f'<rect class="paper" width="100%" height="100%" {INKS["paper"].attributes()}/>',
            *body,
            "</svg>\n",
        ]
    )


def _dark() -> str:
    rules = [f".durable-graph .{name}{{fill:{ink.dark_fill};stroke:{ink.dark_stroke}}}" for name, ink in INKS.items()]
    return "".join(rules) + f".durable-graph rect.frame{{fill:{INKS['frame'].dark_fill}}}"  # whatever its state


def ink(*names: str) -> str:
    """Class and colours of an element: those of the first name."""
    return f'class="{" ".join(names)}" {INKS[names[0]].attributes()}'


def sign(state: str, x: float, y: float, scale: float = 1.0) -> str:
    """The mark of a state, for whom its colour says nothing."""
    smaller = f" scale({scale:.2g})" if scale != 1 else ""
    return (
        f'<g transform="translate({number(x)} {number(y)}){smaller}"><circle r="7" {ink(state)} stroke-width="1.5"/>'
        f'<path d="{SIGNS[state]}" class="sign {state}" {INKS[state].attributes()} stroke-width="1.6" '
        'stroke-linecap="round" stroke-linejoin="round"/></g>'
    )


def text(words: str, x: float, y: float, name: str = "text", anchor: str = "middle", size: float = SIZE) -> str:
    """One line. `y` is its middle."""
    small = "" if size == SIZE else f' font-size="{number(size)}"'
    return (
        f'<text x="{number(x)}" y="{number(y + size * 0.35)}" text-anchor="{anchor}"{small} {ink(name)}>'
        f"{escaped(words)}</text>"
    )


def number(value: float) -> str:
    """As short as it can be: tenths of a pixel."""
    words = f"{value:.1f}".removesuffix(".0")
    return "0" if words == "-0" else words


# --- words ------------------------------------------------------------------------------------

# what XML 1.0 cannot hold, and what turns the direction of the text that follows
_BARRED = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]|[\u202a-\u202e\u2066-\u2069]")
_MARKS = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;"})
_NARROW, _BROAD = frozenset("fijlrtI .,:;!|'`()[]{}-/\\\""), frozenset("mwMWGOQ@%—_")


def escaped(words: str) -> str:
    """Any text as XML, in an element or an attribute."""
    return _BARRED.sub("\ufffd", words).translate(_MARKS).translate({9: "&#9;", 10: "&#10;", 13: "&#13;"})


def width(words: str, size: float = SIZE) -> float:
    """How much room a line takes at most, whatever the font."""
    return size * sum(map(_width, words))


def _width(letter: str) -> float:
    if letter < "\x7f":
        return 0.4 if letter in _NARROW else 0.95 if letter in _BROAD else 0.75 if letter.isupper() else 0.62
    if unicodedata.combining(letter):
        return 0.0
    return 1.25 if unicodedata.east_asian_width(letter) in "WF" or letter > "\U0000ffff" else 0.8


def lines(words: str, most: float, rows: int = 3) -> list[str]:
    """Broken, between words if possible, into lines no wider than `most`; what is more than `rows` is left out."""
    found = [""]
    for piece in _pieces(" ".join(words.split())):
        if found[-1] and width(found[-1] + piece.rstrip()) > most:
            found.append("")
        for letter in piece:
            if width(found[-1] + letter) > most and letter != " ":
                found.append("")
            found[-1] += letter
    found = [line.strip() for line in found]
    return found if len(found) <= rows else [*found[: rows - 1], shortened(found[rows - 1] + "…", most)]


def _pieces(words: str) -> Sequence[str]:
    return re.findall(r"[^ _./:-]*[ _./:-]+|[^ _./:-]+", words)


def shortened(words: str, most: float, size: float = SIZE) -> str:
    """Its beginning, with "…" for the rest, if it is too long."""
    if width(words, size) <= most:
        return words
    kept = list(_fitting(words, most - width("…", size), size))
    return "".join(kept).rstrip() + "…"


def _fitting(words: str, most: float, size: float) -> Iterator[str]:
    for letter in words:
        most -= width(letter, size)
        if most < 0:
            return
        yield letter
