"""Commands that show what is in a log: threads, history, show, diff, timeline, stats. They import no application."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import click

from durable_graph import Log, Thread
from durable_graph.cli.ending import say
from durable_graph.cli.options import (
    complete_thread,
    config_of,
    format_of,
    opened,
    options,
    thread_argument,
    write,
)
from durable_graph.cli.show import STATUSES, Column, Output, brief, lasting, progress, size
from durable_graph.cli.tell import tell_change, tell_entry, tell_state

PAGE = 500  # threads that are asked for at once


@click.command()
@click.option("--text", metavar="TEXT", help="Part of the id or of the metadata, in upper or lower case.")
@options("status", "graph", "newer", "older", "limit", "url", "json")
def threads(statuses: tuple[str, ...], limit: int | None, url: str | None, as_json: bool, **wanted: Any) -> None:
    """List the threads, newest change first."""
    with opened(url) as log:
        out = Output(as_json)
        for thread in _pages(log, limit, status=statuses, **wanted):
            _tell_thread(out, thread)


def _pages(log: Log, limit: int | None, **wanted: Any) -> Iterator[Thread]:
    last = None
    while limit is None or limit > 0:
        count = PAGE if limit is None else min(limit, PAGE)
        page = log.threads(after=last, limit=count, **wanted)
        yield from page
        if len(page) < count:
            return
        last, limit = page[-1], None if limit is None else limit - count


def _tell_thread(out: Output, thread: Thread) -> None:
    out.line(
        {**thread._asdict(), "metadata": _metadata(thread)},
        Column(thread.status, 11, STATUSES.get(thread.status, "")),
        Column(thread.updated_at, 27, "dim"),
        Column(thread.thread_id, 36, "bold"),
        Column(thread.graph),
        *([Column(f"until {thread.wake_at}", 0, "cyan")] if thread.wake_at else []),
    )


def _metadata(thread: Thread) -> Any:
    try:
        return json.loads(thread.metadata)
    except ValueError:
        return None  # altered: it is nothing that is needed to go on


@click.command()
@thread_argument
@click.option("--before", type=int, metavar="N", help="Only older ones than step N.")
@options("limit", "url", "json")
def history(thread: str, before: int | None, limit: int | None, url: str | None, as_json: bool) -> None:
    """Show the states of a thread, newest first: at the end of each superstep."""
    with opened(url) as log:
        out, found = Output(as_json), False
        bound = None if before is None else config_of(thread, before)
        for state in log.get_state_history({"thread_id": thread}, limit=limit, before=bound):
            found, step = True, state.config["configurable"]["step"]
            out.line(
                {"thread_id": thread, "step": step, **state._asdict()},
                Column(step, -6, "dim"),
                Column(state.created_at, 27, "dim"),
                Column(f"next: {', '.join(state.next)}" if state.next else "end", 16, "bold"),
                *([Column(f"by {actor}", 0, "cyan")] if (actor := (state.metadata or {}).get("actor")) else []),
                Column(brief(state.values)),
            )
        if not found:
            log.thread({"thread_id": thread})  # it may have no rows yet, or none before that step


@click.command()
@thread_argument
@click.option("--subgraphs", is_flag=True, help="Also the states of subgraphs whose tasks are pending.")
@options("step", "url", "json")
def show(thread: str, step: int | None, subgraphs: bool, url: str | None, as_json: bool) -> None:
    """Show the state of a thread, whole: now, or as of a step; what runs next, what failed, what is asked."""
    with opened(url) as log:
        about = log.thread({"thread_id": thread})
        state = log.get_state(config_of(thread, step), subgraphs=subgraphs)
        out = Output(as_json)
        if as_json:
            record = {**about._asdict(), "metadata": _metadata(about)}
            out.line({"thread": record, "step": state.config["configurable"].get("step"), **state._asdict()})
        else:
            tell_state(out, about, state)


@click.command()
@thread_argument
@click.argument("other", required=False, shell_complete=complete_thread)
@click.option("--from", "start", type=int, metavar="N", help="The step to compare; by default the newest.")
@click.option("--to", "end", type=int, metavar="N", help="The step to compare it with; by default the newest.")
@options("url", "json")
def diff(thread: str, other: str | None, start: int | None, end: int | None, url: str | None, as_json: bool) -> None:
    """Show what differs between the states of a thread at two steps, or of two threads.

    \b
    durable-graph diff order-42 --from 3
    durable-graph diff order-42 --from 3 --to 7
    durable-graph diff order-42 order-43
    """
    if other is None and start is None and end is None:
        raise click.UsageError("Name another thread, or a step by --from.")
    with opened(url) as log:
        changes = log.difference(config_of(thread, start), config_of(other or thread, end))
        out = Output(as_json)
        for change in changes:
            tell_change(out, change)
    if not changes:
        say("no difference")


@click.command()
@thread_argument
@click.option("--after", type=int, metavar="N", help="Only steps above N.")
@click.option("--before", type=int, metavar="N", help="Only steps below N.")
@click.option("--newest-first", is_flag=True, help="Begin with the newest.")
@click.option("--run", "run_id", metavar="ID", help="Only the steps of this run.")
@click.option("--out", "file", metavar="FILE", help="Draw bars over time instead, into a .svg, .png or .txt.")
@options("limit", "url", "json")
def timeline(thread: str, newest_first: bool, file: str | None, url: str | None, as_json: bool, **bounds: Any) -> None:
    """Show when a thread did what, and for how long: a line for each step."""
    with opened(url) as log:
        if file is not None:
            _draw(file, log.draw_timeline({"thread_id": thread}, **bounds))
            return
        out = Output(as_json)
        for entry in log.timeline({"thread_id": thread}, newest_first=newest_first, **bounds):
            tell_entry(out, entry)


def _draw(file: str, picture: Any) -> None:
    form = format_of(file, "svg")
    if form == "png":
        write(file, picture.draw_png())
    else:
        write(file, picture.draw_text() if form == "ascii" else picture.draw_svg())


@click.command()
@click.argument("thread", required=False, shell_complete=complete_thread)
@options("graph", "url", "json")
def stats(thread: str | None, graph: str | None, url: str | None, as_json: bool) -> None:
    """Show how much there is of what, and which nodes take the time: of a thread, or of all."""
    out = Output(as_json)
    with opened(url) as log, progress(out) as report:
        report("reading all rows")
        found = log.stats(None if thread is None else {"thread_id": thread}, graph=graph)
    if as_json:
        nodes = {name: {**dataclasses.asdict(node), "mean": node.mean} for name, node in found.nodes.items()}
        out.line({**dataclasses.asdict(found), "nodes": nodes})
        return
    for name, counts in (("threads", found.threads), ("rows", found.rows)):
        told = "  ".join(f"{kind} {count}" for kind, count in counts.items())
        out.line({}, Column(name, 8, "dim"), Column(told or "none"))
    out.line({}, Column("bytes", 8, "dim"), Column("  ".join(f"{k} {size(n)}" for k, n in found.bytes.items())))
    out.table(["key", "written"], [[name, size(count)] for name, count in found.channels.items()])
    out.table(
        ["node", "calls", "failed", "cached", "total", "mean", "longest"],
        [
            [name, n.calls, n.failures, n.cached, lasting(n.seconds), lasting(n.mean), lasting(n.longest)]
            for name, n in found.nodes.items()
        ],
    )
