"""The command `worker`: runs what was submitted, until it is told to stop."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any

import click

from durable_graph.cli.ending import STOPPED, Failure, say
from durable_graph.cli.options import options
from durable_graph.cli.show import Column, Output

if TYPE_CHECKING:
    from durable_graph.workers import Stopping, Turn

LAST_CHANCE = 2.0  # seconds for async nodes to end once they are cancelled


@click.command()
@click.argument("targets", metavar="MODULE:GRAPH...", nargs=-1, required=True)
@click.option(
    "--queue",
    "queues",
    multiple=True,
    metavar="NAME[=N]",
    help="Take runs from this queue, N at a time; also several times. By default from 'default'.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    metavar="N",
    help="So many runs at a time, where --queue does not say.",
)
@click.option("--context", metavar="MODULE:NAME", help="What nodes find as runtime.context; a function is called.")
@click.option("--until-idle", is_flag=True, help="End when nothing is left that can begin now.")
@click.option(
    "--poll",
    type=click.FloatRange(min=0.01),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Between two looks: on SQLite for new runs, on Postgres for what is due.",
)
@click.option(
    "--heartbeat",
    type=click.FloatRange(min=0.1),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="Between two signs of life; without four of them a worker counts as dead.",
)
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="After SIGTERM or Ctrl-C, so long for the steps at hand.",
)
@options("url", "json")
def worker(
    targets: tuple[str, ...],
    queues: tuple[str, ...],
    concurrency: int,
    context: str | None,
    until_idle: bool,
    poll: float,
    heartbeat: float,
    grace: float,
    url: str | None,
    as_json: bool,
) -> None:
    """Run what was submitted for these graphs: graph.submit(...).

    Start as many as you like, on as many machines as reach the database; a thread is run by one at a time. A line for
    each time that a thread was gone on with. SIGTERM and Ctrl-C end it after the steps at hand; what is left goes back
    into its queue. On Postgres it needs the extra "workers".
    """
    from durable_graph.cli.target import load_graph, load_named
    from durable_graph.workers import Stopping, arun_worker

    graphs = [load_graph(target, url)[0] for target in targets]
    out, stopping = Output(as_json), Stopping()

    def tell(graph: str, thread_id: str, turn: Turn) -> None:
        facts = {"graph": graph, "thread_id": thread_id, "status": turn.status, "again": turn.again}
        out.line(facts, Column(turn.status, 11), Column(thread_id, 36, "bold"), Column(graph, 0, "dim"))
        out.flush()

    settings: dict[str, Any] = {
        "queues": _queues(queues, concurrency),
        "context": None if context is None else _called(load_named(context)),
        "wait": not until_idle,
        "poll": poll,
        "heartbeat": heartbeat,
        "stopping": stopping,
        "tell": tell,
    }
    try:
        with redirect_stdout(sys.stderr):
            asyncio.run(_run(arun_worker(graphs, **settings), stopping, grace))
    finally:
        for graph in graphs:
            graph.close()


def _queues(given: tuple[str, ...], concurrency: int) -> dict[str, int]:
    found = {}
    for text in given or ("default",):
        name, equals, limit = text.partition("=")
        if equals and not (limit.isdecimal() and int(limit)):
            raise Failure(2, f"--queue {text}: {limit!r} is no number of runs; write NAME=4")
        found[name] = int(limit) if equals else concurrency
    return found


def _called(found: Any) -> Any:
    return found() if callable(found) else found


async def _run(work: Any, stopping: Stopping, grace: float) -> None:
    """The worker, ended by signals: after its steps, after the grace period by force."""
    loop, task = asyncio.get_running_loop(), asyncio.ensure_future(work)

    def stop(number: int) -> None:
        if stopping.is_set():
            _leave(number)
        say(f"stopping after the steps at hand, within {grace:g} s; once more stops at once")
        stopping.set()
        loop.call_later(grace, task.cancel)
        loop.call_later(grace + LAST_CHANCE, _leave, number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    try:
        await task
    except asyncio.CancelledError:
        say("stopped in the midst of a step, which runs again")


def _leave(number: int) -> None:
    """Nodes that are plain functions cannot be stopped, and nothing that is committed needs us."""
    say("stopped in the midst of steps, which run again")
    sys.stdout.flush()
    os._exit(STOPPED + number)
