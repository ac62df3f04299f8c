"""What is written to a terminal or a pipe.

The rule: whatever comes from a database or a node is shown as text. Nothing in it moves a cursor, counts as markup or
takes more than a line, and for people nothing is shown at more length than can be read.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import reprlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from durable_graph import Interrupt, Report, StreamEvent, Wait

Item = TypeVar("Item")

STATUSES = {  # and their colours
    "new": "blue",
    "queued": "blue",
    "running": "cyan",
    "pending": "yellow",
    "interrupted": "magenta",
    "waiting": "magenta",
    "failed": "red",
    "finished": "green",
}


class ReaderGone(Exception):
    """Nobody reads our stdout any more."""


# --- values as text ---------------------------------------------------------------------------

MESSAGE = ("type", "content", "id", "name", "tool_calls", "tool_call_id")  # what is shown of langchain-core's
JOINERS = "\u200c\u200d"  # invisible, but Persian and emoji are written with them

_short = reprlib.Repr()
_short.maxlevel, _short.maxdict, _short.maxstring, _short.maxother = 4, 12, 80, 80
_short.maxlist = _short.maxtuple = _short.maxset = _short.maxfrozenset = 8


def as_text(text: str) -> str:
    """The text with everything that a terminal would obey, or not show, spelled out."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in JOINERS else _spelled_out(c) for c in text)


def _spelled_out(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def brief(value: Any) -> str:
    """A value for people, in part if it is large."""
    if type(value) is dict and all(type(key) is str for key in value):
        return "  ".join(f"{key}={_short.repr(item)}" if key else _short.repr(item) for key, item in value.items())
    return "" if value is None else _short.repr(value)


def short(value: Any) -> str:
    """A value as Python writes it, in part if it is large."""
    return _short.repr(value)


def asked(question: Interrupt, *, whole: bool = False) -> str:
    """What a question waits for."""
    value = question.value
    if not isinstance(value, Wait):
        return f"asks: {repr(value) if whole else short(value)}"
    until = [f"until {value.until}"] if value.until else []
    signal = [f"for the signal {value.signal!r}"] if value.signal else []
    return f"waits {' or '.join([*until, *signal])}"


def plain(value: Any) -> Any:
    """A value for programs, whole: what JSON has no form for is its text."""
    if value is None or type(value) in (bool, str, int):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        named = {key if type(key) is str else str(key): plain(item) for key, item in value.items()}
        return named if len(named) == len(value) else [[plain(k), plain(v)] for k, v in value.items()]
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return [plain(item) for item in sorted(value, key=repr)]
    if isinstance(value, StreamEvent):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if type(value).__module__.startswith("langchain_core.messages"):
        return {name: plain(item) for name in MESSAGE if (item := getattr(value, name, None))}
    return repr(value) if isinstance(value, bytes | bytearray) else str(value)


def size(count: int) -> str:
    """Bytes for people."""
    number, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if number < 1000:
            break
        number, unit = number / 1000, larger
    return f"{count} B" if unit == "B" else f"{number:.1f} {unit}"


def lasting(seconds: float) -> str:
    """A time for people, in the unit that fits."""
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} us"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, hours, days = seconds / 60, seconds / 3600, seconds / 86400
    return f"{minutes:.0f} min" if minutes < 120 else f"{hours:.0f} h" if hours < 48 else f"{days:.0f} days"


def shown_url(url: str) -> str:
    """Without its password, wherever that stands."""
    url = re.sub(r"(//[^:/@]*):.*@", r"\1:***@", url)
    return re.sub(r"(?i)([?&][^=&]*pass[^=&]*=)[^&]*", r"\1***", url)


# --- lines ------------------------------------------------------------------------------------


class Column(NamedTuple):
    text: Any
    width: int = 0  # at least; below zero: aligned to the right
    style: str = ""  # on a terminal


class Output:
    """Lines on stdout, as it is when this is made: while nodes run, `sys.stdout` leads to stderr."""

    def __init__(self, as_json: bool) -> None:
        self.json = as_json
        # Without one, as after `>&-`, there is nobody to tell.
        self._file = sys.stdout or Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - to the program's end
        self.console: Any = None  # rich's, if a person is watching
        if self._file.isatty() and not as_json:
            from rich.console import Console

            self.console = Console(file=self._file, highlight=False)

    @property
    def width(self) -> int:
        """Of a line."""
        return int(self.console.width) if self.console is not None else 100

    def line(self, record: Mapping[str, Any], *columns: Column, whole: bool = False) -> None:
        """One result: the record for programs, the columns for people, on a terminal as far as they fit, or `whole`."""
        if self.json:
            self._write(json.dumps(plain(record)))
        elif self.console is not None:
            from rich.text import Text

            cells = [Text(_cell(column), column.style) for column in columns]
            text = Text("  ").join(cells)
            text.rstrip()
            how: dict[str, Any] = {"soft_wrap": True} if whole else {"no_wrap": True, "overflow": "ellipsis"}
            self.console.print(text, **how)
        else:
            self._write("  ".join(map(_cell, columns)).rstrip())

    def table(self, heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Results for people that belong together: the first column is a name, the others are numbers."""
        if not rows:
            return
        texts = [[as_text(str(cell)) for cell in row] for row in rows]
        if self.console is None:
            widths = [max(len(row[place]) for row in [list(heads), *texts]) for place in range(len(heads))]
            self.line({})
            for row in [list(heads), *texts]:
                self.line(
                    {}, Column(row[0], widths[0]), *(Column(t, -w) for t, w in zip(row[1:], widths[1:], strict=True))
                )
            return
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, header_style="dim", pad_edge=False)
        for place, head in enumerate(heads):
            table.add_column(head, justify="right" if place else "left", style="" if place else "bold")
        for row in texts:
            table.add_row(*map(Text, row))
        self.console.print()
        self.console.print(table)

    def text(self, line: str) -> None:
        """A line as it is: for what is read by programs only."""
        self._write(line)

    def _write(self, line: str) -> None:
        try:
            self._file.write(f"{line}\n")
        except BrokenPipeError:
            raise ReaderGone from None

    def flush(self) -> None:
        try:
            self._file.flush()
        except BrokenPipeError:
            raise ReaderGone from None


def _cell(column: Column) -> str:
    text = as_text(str(column.text))
    return text.rjust(-column.width) if column.width < 0 else text.ljust(column.width)


@contextmanager
def progress(out: Output, *, when: bool = True) -> Iterator[Callable[[str], None]]:
    """On a terminal, a line that says where a run is and for how long. It stays below all that is written meanwhile."""
    if not when or not sys.stderr.isatty():
        yield lambda text: None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn()
    with Progress(*columns, console=out.console or Console(stderr=True), transient=True) as shown:
        task = shown.add_task("", total=None)
        yield lambda text: shown.update(task, description=as_text(text))


def counted(items: Iterable[Item], report: Callable[[str], None], what: str) -> Iterator[Item]:
    """The same, while `report` tells how many have come."""
    report(what)
    for number, item in enumerate(items, start=1):
        yield item
        if number % 100 == 0:
            report(f"{what}: {number:,}")


# --- what streams and replays give ------------------------------------------------------------


def numbered(stream: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, int | None, Any]]:
    """(mode, step, chunk). A row's step is known from its event, which is the last of its chunks."""
    waiting: list[tuple[str, Any]] = []
    for mode, chunk in stream:
        if mode == "events":
            yield from ((its_mode, chunk.step, its_chunk) for its_mode, its_chunk in waiting)
            waiting.clear()
            yield mode, chunk.step, chunk
        elif mode == "messages":  # parts are shown while a model speaks; of a whole one the row is known
            yield mode, chunk[1].get("step"), chunk
        elif mode == "custom" or _begins(mode, chunk):
            yield mode, None, chunk  # of a task whose row is not there yet
        else:
            waiting.append((mode, chunk))


INTERRUPT = "__interrupt__"  # LangGraph's name for questions among updates


def _begins(mode: str, chunk: Any) -> bool:
    return (mode == "tasks" and "input" in chunk) or (mode == "debug" and chunk["type"] == "task")


def show_chunk(out: Output, thread: str, mode: str, step: int | None, chunk: Any, *, name_mode: bool) -> None:
    node, value = _subject(mode, chunk)
    told = Column(brief(value))
    if mode == "updates" and node == INTERRUPT:
        node, told = "", Column("; ".join(map(asked, value)) or "paused, as was asked for", 0, "cyan")
    columns = [Column("" if step is None else step, -6, "dim"), Column(node, 16, "bold"), told]
    if name_mode:
        columns.insert(1, Column(mode, 11, "cyan"))
    out.line({"thread_id": thread, "step": step, "mode": mode, "data": chunk}, *columns)


def _subject(mode: str, chunk: Any) -> tuple[str, Any]:
    """What a line is about, and what it says."""
    if mode == "updates":
        node, update = next(iter(chunk.items()))  # beside it may stand a remark, "__metadata__"
        return node, update
    if mode == "events":
        return chunk.node or chunk.kind, chunk.metadata["error"] if chunk.kind == "error" else chunk.update
    if mode == "messages":
        message, metadata = chunk
        content = message.get("content") if isinstance(message, dict) else getattr(message, "content", message)
        return metadata.get("langgraph_node", ""), {"": content}
    if mode == "tasks":
        return chunk["name"], {key: value for key, value in chunk.items() if key != "name"}
    return "", chunk


def show_report(out: Output, report: Report) -> bool:
    """What a check found; whether it was nothing."""
    verdict = Column("ok", 6, "green") if report.ok else Column("BROKEN", 6, "bold red")
    rows, head = Column(f"{report.rows} rows", 9), Column(f"head {report.head}", 0, "dim")
    record = {**dataclasses.asdict(report), "ok": report.ok}
    out.line(record, verdict, Column(report.thread_id, 36, "bold"), rows, head, whole=True)  # the head is to be kept
    if not out.json:
        if report.pruned is not None:
            out.line({}, Column("", 6), Column("", 10), Column("pruned", 9, "dim"), Column(report.pruned))
        for finding in report.findings:
            step = Column(f"step {finding.step}" if finding.step >= 0 else "", 10)
            out.line({}, Column("", 6), step, Column(finding.kind, 9, "red"), Column(finding.problem), whole=True)
    return report.ok
