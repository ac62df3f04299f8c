"""The command line, `durable-graph`: runs graphs and reads their log.

The rule: results go to stdout, one line each (with --json, one JSON object each); what is said to a person goes to
stderr. Reading commands import nothing of the application. What only some commands need is imported inside them, so
that --help is quick.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import click

import durable_graph
from durable_graph import Log, StreamMode, verify_export
from durable_graph.cli.ending import EXPLAINED, Failure, Program
from durable_graph.cli.show import Column, Output, as_text, brief, numbered, show_chunk, show_report, shown_url

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

DEFAULT_URL = "sqlite:///durable_graph.db"  # the library's own
DATABASES = """\
The database is --url, else $DURABLE_GRAPH_URL, else the file durable_graph.db in this folder:
  sqlite:////var/lib/app/runs.db
  postgresql+psycopg://user@host/database
"""
STATUSES = {"running": "cyan", "pending": "yellow", "failed": "red", "finished": "green"}  # and their colours


@click.group(cls=Program, epilog=f"\b\n{EXPLAINED}\n\b\n{DATABASES}", invoke_without_command=True)
@click.version_option(durable_graph.__version__, message="%(prog)s %(version)s")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Run graphs of plain functions, and read what they did: every step is a row in a database."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


# --- options ----------------------------------------------------------------------------------


def _remember(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    ctx.meta["debug"] = value


def _modes(ctx: click.Context, parameter: click.Parameter, value: tuple[str, ...]) -> list[StreamMode]:
    """The engine says which modes there are."""
    return cast("list[StreamMode]", [mode.strip() for text in value for mode in text.split(",")])


MODES = "updates (default), values, custom, tasks, checkpoints, debug, events; also several, with commas."
OPTIONS: dict[str, Callable[[Any], Any]] = {
    "url": click.option("--url", metavar="URL", help="The database; see durable-graph --help."),
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
    "debug": click.option(
        "--debug", is_flag=True, expose_value=False, callback=_remember, help="Show the traceback of an error."
    ),
}


def options(*names: str) -> Callable[[CommandT], CommandT]:
    """Options that several commands have. All of them have --debug."""

    def add(command: CommandT) -> CommandT:
        for name in reversed([*names, "debug"]):
            command = OPTIONS[name](command)
        return command

    return add


# --- running ----------------------------------------------------------------------------------


@main.command()
@click.argument("target", metavar="MODULE:GRAPH")
@click.option("--thread", metavar="ID", help="The thread; by default a new one is made.")
@click.option("--input", "given", required=True, metavar="JSON", help="The input; - reads stdin, @FILE a file.")
@options("url", "mode", "json", "supersteps", "actor", "grace")
def run(target: str, thread: str | None, given: str, **settings: Any) -> None:
    """Run a graph and show its steps as they happen.

    MODULE is a module that Python can import, or the path of a .py file; GRAPH is the name of a StateGraph or of a
    compiled graph in it. What the nodes print goes to stderr.
    """
    from durable_graph.cli.runner import Runner

    Runner(target, thread, **settings).run(_read_input(given))


@main.command()
@click.argument("target", metavar="MODULE:GRAPH")
@click.option("--thread", metavar="ID", required=True, help="The thread to go on with.")
@options("url", "mode", "json", "supersteps", "actor", "grace")
def resume(target: str, thread: str, **settings: Any) -> None:
    """Go on with a thread that was stopped, has crashed or has failed.

    What is in its log does not run again.
    """
    from durable_graph.cli.runner import Runner

    Runner(target, thread, **settings).run(None)


@main.command()
@click.argument("target", metavar="MODULE:GRAPH")
@click.option("--limit", "most", type=click.IntRange(min=1), metavar="N", help="So many at most.")
@options("url", "json", "supersteps", "actor")
def recover(target: str, **settings: Any) -> None:
    """Go on with all threads of a graph whose process has died.

    One after the other, to their end. May run everywhere and at the same time: each thread is taken by one process.
    """
    from durable_graph.cli.runner import recover_all

    if not recover_all(target, **settings):
        raise click.exceptions.Exit(1)


def _read_input(given: str) -> Any:
    try:
        if given == "-":
            given = sys.stdin.read()
        elif given.startswith("@"):
            given = Path(given[1:]).read_text(encoding="utf-8-sig")
        value = json.loads(given)
    except OSError as error:
        raise Failure(2, f"--input: {error}") from error
    except (ValueError, RecursionError) as error:
        raise Failure(2, f"--input is no JSON: {error}") from error
    if value is None:
        raise Failure(2, "--input is null, which is no input; to go on with a thread: durable-graph resume")
    return value


# --- reading ----------------------------------------------------------------------------------


@contextmanager
def _log(url: str | None) -> Iterator[Log]:
    """The log at the URL. It must be there: to look must not make a file."""
    from durable_graph.store import migrate

    url = _url(url)
    if migrate.current(url)[0] is None:
        raise Failure(5, f"{shown_url(url)}: there is no log here. Check the URL; `durable-graph run` begins one")
    with Log(url) as log:
        yield log


def _url(given: str | None) -> str:
    return given or os.environ.get("DURABLE_GRAPH_URL") or DEFAULT_URL


@main.command()
@click.option("--status", type=click.Choice(list(STATUSES)), help="Only these.")
@click.option("--graph", metavar="NAME", help="Only those of this graph.")
@options("limit", "url", "json")
def threads(status: str | None, graph: str | None, limit: int | None, url: str | None, as_json: bool) -> None:
    """List the threads, newest change first."""
    with _log(url) as log:
        out = Output(as_json)
        for thread in log.threads(status=status, graph=graph, limit=limit):
            out.line(
                {**thread._asdict(), "metadata": json.loads(thread.metadata)},
                Column(thread.status, 8, STATUSES.get(thread.status, "")),
                Column(thread.updated_at, 27, "dim"),
                Column(thread.thread_id, 36, "bold"),
                Column(thread.graph),
            )


@main.command()
@click.argument("thread")
@options("limit", "url", "json")
def history(thread: str, limit: int | None, url: str | None, as_json: bool) -> None:
    """Show the states of a thread, newest first: at the end of each superstep."""
    with _log(url) as log:
        out = Output(as_json)
        step = None
        for state in log.get_state_history({"thread_id": thread}, limit=limit):
            step = state.config["configurable"]["step"]
            out.line(
                {"thread_id": thread, "step": step, **state._asdict()},
                Column(step, -6, "dim"),
                Column(state.created_at, 27, "dim"),
                Column(f"next: {', '.join(state.next)}" if state.next else "end", 16, "bold"),
                *([Column(f"by {actor}", 0, "cyan")] if (actor := (state.metadata or {}).get("actor")) else []),
                Column(brief(state.values)),
            )
        if step is None:
            raise Failure(3, f"there is no thread {thread!r} in {shown_url(_url(url))}; see durable-graph threads")


@main.command()
@click.argument("thread")
@click.option("--after", type=int, metavar="N", help="Only steps above N.")
@click.option("--until", type=int, metavar="N", help="Only steps up to N.")
@options("mode", "url", "json")
def replay(
    thread: str, after: int | None, until: int | None, modes: list[StreamMode], url: str | None, as_json: bool
) -> None:
    """Show what a thread did, from its log, as its streams showed it. Runs nothing."""
    with _log(url) as log:
        out = Output(as_json)
        chunks = log.replay({"thread_id": thread}, after=after, until=until, stream_mode=[*modes, "events"])
        for mode, step, chunk in numbered(chunks):
            if mode in modes:
                show_chunk(out, thread, mode, step, chunk, name_mode=len(modes) > 1)


@main.command()
@click.argument("threads", metavar="THREAD...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every thread in the database.")
@click.option("--head", metavar="HASH", help="What the thread ended with once: it must still be there.")
@click.option("--file", metavar="FILE", help="Check what `export` wrote, without a database; - reads stdin.")
@options("url", "json")
def verify(
    threads: tuple[str, ...], everything: bool, head: str | None, file: str | None, url: str | None, as_json: bool
) -> None:
    """Check that no row of these threads was altered, removed, moved or put in.

    With a key in $DURABLE_GRAPH_KEY, also that whoever wrote them had it; several, newest first, are separated by
    commas. A log whose last rows were cut off looks whole: give the head, the hash of its last row, as an earlier
    check printed it.
    """
    if (bool(threads), everything, file is not None).count(True) != 1:
        raise click.UsageError("Name threads, or give --all, or --file.")
    if head is not None and len(threads) != 1:
        raise click.UsageError("--head is of one thread: name it.")
    out = Output(as_json)
    if file is not None:
        with _opened(file) as lines:
            found = [show_report(out, report) for report in verify_export(lines)]
    else:
        with _log(url) as log:
            reports = log.verify_all() if everything else (log.verify({"thread_id": t}, head=head) for t in threads)
            found = [show_report(out, report) for report in reports]
    if not all(found):
        raise click.exceptions.Exit(6)


# --- out of the database and into another -----------------------------------------------------


@main.command()
@click.argument("thread")
@click.option("--out", "file", metavar="FILE", default="-", help="Where to write it, by default stdout.")
@options("url")
def export(thread: str, file: str, url: str | None) -> None:
    """Write a thread as lines of JSON, with the threads that its subgraphs ran on and those it was forked from.

    It can be checked without the database by `verify --file`, and put into another one by `import`.
    """
    with _log(url) as log:
        lines = log.export_thread({"thread_id": thread})
        if file == "-":
            out = Output(True)
            for line in lines:
                out.text(line)
            return
        _write_whole(Path(file), lines)


def _write_whole(path: Path, lines: Iterator[str]) -> None:
    """Under the name only when it is whole: half an export is none."""
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(f"{line}\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise Failure(2, f"--out: {error}") from error
    finally:
        part.unlink(missing_ok=True)


@main.command("import")
@click.argument("file")
@options("url", "json")
def import_(file: str, url: str | None, as_json: bool) -> None:
    """Put an exported thread into the database: all of it, or nothing if it is there or was altered.

    FILE is what `export` wrote; - reads stdin.
    """
    with _opened(file) as lines, Log(_url(url)) as log:
        show_report(Output(as_json), log.import_thread(lines))


@contextmanager
def _opened(file: str) -> Iterator[Iterator[str]]:
    if file == "-":
        yield iter(sys.stdin)
        return
    try:
        lines = Path(file).open(encoding="utf-8", errors="surrogateescape", newline="\n")  # noqa: SIM115
    except OSError as error:
        raise Failure(2, str(error)) from error
    with lines:
        yield lines


# --- removing -----------------------------------------------------------------------------------

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _age(ctx: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    if value is None:
        return None
    number, unit = (value[:-1], value[-1:]) if value[-1:] in UNITS else (value, "s")
    try:
        return float(number) * UNITS[unit]
    except ValueError:
        raise click.BadParameter(f"{value!r} is no age: write 30d, 12h, 15m or seconds") from None


@main.command()
@click.option("--older-than", metavar="AGE", callback=_age, help="Last changed longer ago: 30d, 12h, 15m or seconds.")
@click.option("--keep-last", type=click.IntRange(min=1), metavar="N", help="Keep the last N states of each thread.")
@click.option("--status", "statuses", multiple=True, metavar="STATUS", help="Only these; also several times.")
@click.option("--graph", metavar="NAME", help="Only those of this graph.")
@click.option("--dry-run", is_flag=True, help="Only tell what would go.")
@click.option("--actor", metavar="NAME", help="Who does it: kept with what stands for the beginning of a log.")
@click.option("--vacuum", is_flag=True, help="Then make the database's files smaller; writers to SQLite have to wait.")
@options("url", "json")
def prune(url: str | None, as_json: bool, statuses: tuple[str, ...], **rule: Any) -> None:
    """Remove old threads; with --keep-last only the beginnings of their logs.

    Without --status and --keep-last only finished threads go. What is running, and what forks need, stays and is told.
    """
    with _log(url) as log:
        report = log.prune(statuses=statuses or None, **rule)
    out = Output(as_json)
    would = "would go: " if report.dry_run else "removed: "
    told = f"{would}{report.threads} threads, {report.rows} rows, {report.bytes} bytes; {report.cut} threads cut"
    if report.vacuumed is not None:
        told += f"; the database had {report.vacuumed[0]} bytes, now {report.vacuumed[1]}"
    out.line(
        {
            "dry_run": report.dry_run,
            "threads": report.threads,
            "cut": report.cut,
            "rows": report.rows,
            "bytes": report.bytes,
            "skipped": [one._asdict() for one in report.skipped],
            "vacuumed": report.vacuumed,
        },
        Column(told),
    )
    if not out.json:
        for one in report.skipped:
            out.line({}, Column("kept", 6, "yellow"), Column(one.thread_id, 36, "bold"), Column(one.reason))


# --- the database -----------------------------------------------------------------------------


@main.group(no_args_is_help=False)
def db() -> None:
    """The schema of the database."""


@db.command()
@options("url")
def upgrade(url: str | None) -> None:
    """Bring the database to the schema that this version needs.

    A new SQLite file gets it by itself.
    """
    from durable_graph.store import migrate

    url = _url(url)
    before, _ = migrate.current(url)
    migrate.upgrade(url)
    after, _ = migrate.current(url)
    done = f"has schema {after} already" if before == after else f"now has schema {after}"
    click.echo(f"{as_text(shown_url(url))} {done}")


@db.command()
@click.argument("role")
def grants(role: str) -> None:
    """Print the SQL that lets a Postgres role run graphs but change or remove no row of the log.

    The owner of the tables runs it: durable-graph db grants app | psql … From then on only others can delete and prune.
    """
    from durable_graph.store import migrate

    for statement in migrate.grants(role):
        click.echo(statement)


@db.command()
@options("url", "json")
def keys(url: str | None, as_json: bool) -> None:
    """Show with which encryption keys the values in the database are written.

    Keys in $DURABLE_GRAPH_ENCRYPTION_KEY are marked. One that has 0 values may be given up.
    """
    with _log(url) as log:
        out, given = Output(as_json), log.encryption_key_ids
        for key, values in log.encryption_keys().items():
            state = (
                "not encrypted"
                if key is None
                else "newest"
                if key in given[:1]
                else "given"
                if key in given
                else "not given"
            )
            out.line(
                {"key": key, "values": values, "given": key in given},
                Column(key or "-", 16, "bold"),
                Column(values, -10),
                Column(state, 13, "red" if state == "not given" else ""),
            )


@db.command()
@options("url", "json")
def current(url: str | None, as_json: bool) -> None:
    """Show the version of the database's schema, and the one that is needed."""
    from durable_graph.store import migrate

    url = _url(url)
    have, needed = migrate.current(url)
    if as_json:
        click.echo(json.dumps({"current": have, "needed": needed}))
    else:
        click.echo(f"{as_text(shown_url(url))} has {f'schema {have}' if have else 'no schema'}, needed is {needed}")
