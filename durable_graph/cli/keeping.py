"""Commands about logs as a whole: verify, export, import, prune."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from durable_graph import Log, verify_export
from durable_graph.cli.ending import Failure
from durable_graph.cli.options import complete_thread, opened, options, thread_argument, url_of
from durable_graph.cli.show import Column, Output, counted, progress, show_report, size


@click.command()
@click.argument("threads", metavar="THREAD...", nargs=-1, shell_complete=complete_thread)
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
    with progress(out) as tell:
        if file is not None:
            with _lines_of(file) as lines:
                found = [show_report(out, report) for report in verify_export(counted(lines, tell, "lines read"))]
        else:
            with opened(url) as log:
                reports = log.verify_all() if everything else (log.verify({"thread_id": t}, head=head) for t in threads)
                found = [show_report(out, report) for report in counted(reports, tell, "threads checked")]
    if not all(found):
        raise click.exceptions.Exit(6)


@click.command()
@thread_argument
@click.option("--out", "file", metavar="FILE", default="-", help="Where to write it, by default stdout.")
@options("url")
def export(thread: str, file: str, url: str | None) -> None:
    """Write a thread as lines of JSON, with the threads that its subgraphs ran on and those it was forked from.

    It can be checked without the database by `verify --file`, and put into another one by `import`.
    """
    with opened(url) as log:
        lines = log.export_thread({"thread_id": thread})
        if file == "-":
            out = Output(True)
            for line in lines:
                out.text(line)
            return
        with progress(Output(True)) as tell:
            _write_whole(Path(file), counted(lines, tell, "lines written"))


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


@click.command("import")
@click.argument("file")
@options("url", "json")
def import_(file: str, url: str | None, as_json: bool) -> None:
    """Put an exported thread into the database: all of it, or nothing if it is there or was altered.

    FILE is what `export` wrote; - reads stdin.
    """
    out = Output(as_json)
    with _lines_of(file) as lines, Log(url_of(url)) as log, progress(out) as tell:
        show_report(out, log.import_thread(counted(lines, tell, "lines read")))


@contextmanager
def _lines_of(file: str) -> Iterator[Iterator[str]]:
    if file == "-":
        yield iter(sys.stdin)
        return
    try:
        lines = Path(file).open(encoding="utf-8", errors="surrogateescape", newline="\n")  # noqa: SIM115
    except OSError as error:
        raise Failure(2, str(error)) from error
    with lines:
        yield lines


@click.command()
@click.option("--keep-last", type=click.IntRange(min=1), metavar="N", help="Keep the last N states of each thread.")
@click.option("--dry-run", is_flag=True, help="Only tell what would go.")
@click.option("--actor", metavar="NAME", help="Who does it: kept with what stands for the beginning of a log.")
@click.option("--vacuum", is_flag=True, help="Then make the database's files smaller; writers to SQLite have to wait.")
@options("older", "status", "graph", "url", "json")
def prune(url: str | None, as_json: bool, statuses: tuple[str, ...], **rule: Any) -> None:
    """Remove old threads; with --keep-last only the beginnings of their logs.

    Without --status and --keep-last only finished threads go. What is running, and what forks need, stays and is told.
    """
    out = Output(as_json)
    with opened(url) as log, progress(out) as tell:
        tell("looking at what would go" if rule["dry_run"] else "removing")
        report = log.prune(statuses=statuses or None, **rule)
    would = "would go: " if report.dry_run else "removed: "
    told = f"{would}{report.threads} threads, {report.rows} rows, {size(report.bytes)}; {report.cut} threads cut"
    if report.vacuumed is not None:
        told += f"; the database had {size(report.vacuumed[0])}, now {size(report.vacuumed[1])}"
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
