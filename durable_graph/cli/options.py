"""What several commands take: options, arguments, and the database that they name.

The rule: what one command calls something, all call it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar, cast

import click
from click.shell_completion import CompletionItem

from durable_graph import Log, StreamMode, Thread
from durable_graph.cli.ending import Failure
from durable_graph.cli.show import STATUSES, Output, as_text, shown_url

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

DEFAULT_URL = "sqlite:///durable_graph.db"  # the library's own
DATABASES = """\
The database is --url, else $DURABLE_GRAPH_URL, else the file durable_graph.db in this folder:
  sqlite:////var/lib/app/runs.db
  postgresql+psycopg://user@host/database
"""


# --- the database -----------------------------------------------------------------------------


def url_of(given: str | None) -> str:
    return given or os.environ.get("DURABLE_GRAPH_URL") or DEFAULT_URL


@contextmanager
def opened(url: str | None) -> Iterator[Log]:
    """The log at the URL. It must be there: to look must not make a file."""
    from durable_graph.store import migrate

    url = url_of(url)
    if migrate.current(url)[0] is None:
        raise Failure(5, f"{shown_url(url)}: there is no log here. Check the URL; `durable-graph run` begins one")
    with Log(url) as log:
        yield log


# --- what a shell completes -------------------------------------------------------------------

OFFERED = 50  # names, at most


def _known_threads(ctx: click.Context) -> list[Thread]:
    """The newest. Nothing where there is no log: a shell has no place for errors."""
    with suppress(Exception), opened(ctx.params.get("url")) as log:
        return log.threads(limit=1000)
    return []


def complete_thread(ctx: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    found = [thread for thread in _known_threads(ctx) if thread.thread_id.startswith(begun)]
    return [CompletionItem(thread.thread_id, help=thread.status) for thread in found[:OFFERED]]


def complete_graph(ctx: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    names = dict.fromkeys(thread.graph for thread in _known_threads(ctx) if thread.graph.startswith(begun))
    return [CompletionItem(name) for name in list(names)[:OFFERED]]


# --- values -----------------------------------------------------------------------------------

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def age(ctx: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    """Seconds."""
    if value is None:
        return None
    number, unit = (value[:-1], value[-1:]) if value[-1:] in UNITS else (value, "s")
    try:
        return float(number) * UNITS[unit]
    except ValueError:
        raise click.BadParameter(f"{value!r} is no age: write 30d, 12h, 15m or seconds") from None


def json_of(option: str, given: str, text: str = "") -> Any:
    """What is typed, or stands in stdin (-) or in a file (@FILE). text: what to say to who meant a text."""
    try:
        if given == "-":
            given = sys.stdin.read()
        elif given.startswith("@"):
            given = Path(given[1:]).read_text(encoding="utf-8-sig")
        return json.loads(given)
    except OSError as error:
        raise Failure(2, f"{option}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise Failure(2, f"{option} is no JSON: {error}{text}") from error


def value_of(value: str | None, text: str | None) -> Any:
    """Of --value JSON, --text TEXT, which exclude each other; None without them."""
    if value is not None and text is not None:
        raise click.UsageError("Give --value or --text, not both.")
    return text if value is None else json_of("--value", value, ". For a plain text give --text")


def config_of(thread: str, step: int | None = None, actor: str | None = None) -> dict[str, Any]:
    return {
        "configurable": {"thread_id": thread, **({} if step is None else {"step": step})},
        **({} if actor is None else {"metadata": {"actor": actor}}),
    }


# --- pictures ---------------------------------------------------------------------------------

ENDINGS = {".svg": "svg", ".png": "png", ".txt": "ascii", ".mmd": "mermaid"}


def format_of(file: str, otherwise: str) -> str:
    return ENDINGS.get(Path(file).suffix.lower(), otherwise)


def write(file: str, content: str | bytes) -> None:
    """A picture into a file, or to stdout (-)."""
    if file == "-":
        _print(content)
        return
    try:
        if isinstance(content, bytes):
            Path(file).write_bytes(content)
        else:
            Path(file).write_text(content, encoding="utf-8")
    except OSError as error:
        raise Failure(2, f"--out: {error}") from error


def _print(content: str | bytes) -> None:
    if isinstance(content, str):
        out = Output(False)
        for line in content.splitlines():
            out.text(as_text(line))
        return
    if sys.stdout.isatty():
        raise click.UsageError("A terminal cannot show a PNG: give --out FILE.")
    sys.stdout.buffer.write(content)


# --- options ----------------------------------------------------------------------------------


def _remember(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    ctx.meta["debug"] = value


def _modes(ctx: click.Context, parameter: click.Parameter, value: tuple[str, ...]) -> list[StreamMode]:
    """The engine says which modes there are."""
    return cast("list[StreamMode]", [mode.strip() for text in value for mode in text.split(",")])


MODES = "updates (default), values, messages, custom, tasks, checkpoints, debug, events; also several, with commas."
OPTIONS: dict[str, Callable[[Any], Any]] = {
    "url": click.option("--url", metavar="URL", is_eager=True, help="The database; see durable-graph --help."),
    "json": click.option("--json", "as_json", is_flag=True, help="For programs: one JSON object a line."),
    "mode": click.option(
        "--mode", "modes", multiple=True, default=["updates"], metavar="MODE", callback=_modes, help=MODES
    ),
    "supersteps": click.option(
        "--recursion-limit", "limit", type=click.IntRange(min=1), metavar="N", help="Supersteps at most."
    ),
    "actor": click.option("--actor", metavar="NAME", help="Who calls, as the log records it."),
    "grace": click.option(
        "--grace",
        type=click.FloatRange(min=0),
        default=5.0,
        show_default=True,
        metavar="SECONDS",
        help="After SIGTERM, so long for the step at hand.",
    ),
    "limit": click.option("--limit", type=click.IntRange(min=1), metavar="N", help="So many at most."),
    "status": click.option(
        "--status",
        "statuses",
        multiple=True,
        type=click.Choice(list(STATUSES)),
        metavar="STATUS",
        help=f"Only these, also several times: {', '.join(STATUSES)}.",
    ),
    "graph": click.option(
        "--graph", metavar="NAME", shell_complete=complete_graph, help="Only the threads of this graph."
    ),
    "older": click.option("--older-than", metavar="AGE", callback=age, help="Last changed longer ago: 30d, 12h, 15m."),
    "newer": click.option("--newer-than", metavar="AGE", callback=age, help="Changed since then: 30d, 12h, 15m."),
    "step": click.option("--step", type=int, metavar="N", help="As of this step; by default the newest."),
    "value": click.option("--value", metavar="JSON", help="The value; - reads stdin, @FILE a file."),
    "text": click.option("--text", metavar="TEXT", help="The value, if it is a text."),
    "debug": click.option(
        "--debug", is_flag=True, expose_value=False, callback=_remember, help="Show the traceback of an error."
    ),
}
thread_option = click.option(
    "--thread", metavar="ID", required=True, shell_complete=complete_thread, help="The thread."
)
thread_argument = click.argument("thread", shell_complete=complete_thread)
target_argument = click.argument("target", metavar="MODULE:GRAPH")


def options(*names: str) -> Callable[[CommandT], CommandT]:
    """Options that several commands have. All of them have --debug."""

    def add(command: CommandT) -> CommandT:
        for name in reversed([*names, "debug"]):
            command = OPTIONS[name](command)
        return command

    return add
