"""Commands that show a thread's steps as its streams do: replay, follow. They import no application."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import click

from durable_graph import StreamMode
from durable_graph.cli.options import opened, options, thread_argument
from durable_graph.cli.show import Output, lasting, numbered, progress, show_chunk

pause: Callable[[float], None] = time.sleep  # a test may set it


@click.command()
@thread_argument
@click.option("--after", type=int, metavar="N", help="Only steps above N.")
@click.option("--until", type=int, metavar="N", help="Only steps up to N.")
@click.option(
    "--speed",
    type=click.FloatRange(min=0, min_open=True),
    metavar="FACTOR",
    help="In the rhythm of the recorded times: 1 as it was, 10 ten times as quick. Without it, at once.",
)
@click.option(
    "--longest-pause", type=click.FloatRange(min=0), metavar="SECONDS", help="With --speed: no pause is longer."
)
@options("mode", "url", "json")
def replay(
    thread: str,
    after: int | None,
    until: int | None,
    speed: float | None,
    longest_pause: float | None,
    modes: list[StreamMode],
    url: str | None,
    as_json: bool,
) -> None:
    """Show what a thread did, from its log, as its streams showed it. Runs nothing."""
    if longest_pause is not None and speed is None:
        raise click.UsageError("--longest-pause is for --speed.")
    with opened(url) as log:
        out = Output(as_json)
        chunks = log.replay({"thread_id": thread}, after=after, until=until, stream_mode=[*modes, "events"])
        with progress(out, when=speed is not None) as report:
            told = numbered(chunks)
            if speed is not None:
                told = _paced(told, speed, longest_pause, report)
            for mode, step, chunk in told:
                if mode in modes:
                    show_chunk(out, thread, mode, step, chunk, name_mode=len(modes) > 1)
                    if speed is not None:
                        out.flush()


def _paced(
    told: Iterator[tuple[str, int | None, Any]], speed: float, longest: float | None, report: Callable[[str], None]
) -> Iterator[tuple[str, int | None, Any]]:
    """The same, each row's chunks as long after those of the row before as they were, or by the factor sooner."""
    before: float | None = None
    held: list[tuple[str, int | None, Any]] = []  # of the row that has not come yet
    for each in told:
        held.append(each)
        if each[0] != "events":
            continue
        now = datetime.fromisoformat(each[2].created_at).timestamp()
        seconds = max(now - before, 0.0) / speed if before is not None else 0.0
        seconds = seconds if longest is None else min(seconds, longest)
        report(f"step {each[1]} in {lasting(seconds)}")
        if seconds:
            pause(seconds)
        yield from held
        held, before = [], now
    yield from held


@click.command()
@thread_argument
@click.option("--after", type=int, metavar="N", help="Only steps above N.")
@click.option("--timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="End after so long without news.")
@click.option("--wait", type=click.FloatRange(min=0), default=0.0, metavar="SECONDS",
              help="For a thread that is not there yet, as on a replica.")  # fmt: skip
@options("mode", "url", "json")
def follow(
    thread: str,
    after: int | None,
    timeout: float | None,
    wait: float,
    modes: list[StreamMode],
    url: str | None,
    as_json: bool,
) -> None:
    """Show the steps of a thread as they are added, whoever runs it, until it has finished or failed."""
    with opened(url) as log:
        out = Output(as_json)
        shown: list[StreamMode] = [*modes, "events"]
        chunks = log.follow({"thread_id": thread}, after=after, stream_mode=shown, timeout=timeout, wait=wait)
        with progress(out) as report:
            report(f"{thread}: waiting for its next step")
            for mode, step, chunk in numbered(chunks):
                if mode == "events":
                    report(f"{thread}: step {step}, next: {', '.join(chunk.next) or 'nothing'}")
                if mode in modes:
                    show_chunk(out, thread, mode, step, chunk, name_mode=len(modes) > 1)
                    out.flush()
