"""The commands `worker`, which runs what was submitted until it is told to stop, and `submit`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine
from contextlib import redirect_stdout, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any, Self

import click

from durable_graph import InvalidUpdateError
from durable_graph.cli.ending import STOPPED, Failure, one_line, say
from durable_graph.cli.options import age, json_of, options, target_argument
from durable_graph.cli.show import Column, Output, ReaderGone, plain, short

if TYPE_CHECKING:
    from durable_graph.workers import Stopping, Turn

LAST_CHANCE = 2.0  # seconds for async nodes to end once they are cancelled
CUT_OFF = "stopped in the midst of a step, which runs again"


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
        try:
            out.line(facts, Column(turn.status, 11), Column(thread_id, 36, "bold"), Column(graph, 0, "dim"))
            out.flush()
        except ReaderGone:
            stopping.set()

    settings: dict[str, Any] = {
        "queues": _queues(queues, concurrency),
        "context": None if context is None else _called(load_named(context)),
        "wait": not until_idle,
        "poll": poll,
        "heartbeat": heartbeat,
        "stopping": stopping,
        "tell": tell,
    }
    limits = ", ".join(f"{name}={limit}" for name, limit in settings["queues"].items())
    say(f"taking runs of {', '.join(graph.name for graph in graphs)}, so many at a time from each queue: {limits}")
    try:
        with redirect_stdout(sys.stderr), _Ending(stopping, grace) as ending:
            asyncio.run(ending.run(arun_worker(graphs, **settings)))
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


class _Ending:
    """What ends a worker: a signal asks it to end after its steps; another one, or the end of its grace, by force.

    By threads and not by the event loop, which may wait for a node at that time.
    """

    def __init__(self, stopping: Stopping, grace: float) -> None:
        self._stopping = stopping
        self._grace = grace
        self._timers: list[threading.Timer] = []
        self._cancel: Callable[[], object] = lambda: None

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._asked) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        for timer in self._timers:
            timer.cancel()

    async def run(self, work: Coroutine[Any, Any, None]) -> None:
        loop, task = asyncio.get_running_loop(), asyncio.ensure_future(work)
        self._cancel = lambda: loop.call_soon_threadsafe(task.cancel)
        try:
            await task
        except asyncio.CancelledError:
            say(CUT_OFF)

    def _asked(self, number: int, _: FrameType | None) -> None:
        if self._stopping.is_set():
            _leave(number)
        self._stopping.set()
        say(f"stopping after the steps at hand, within {self._grace:g} s; once more stops at once")
        self._after(self._grace, lambda: self._cancel())
        self._after(self._grace + LAST_CHANCE, lambda: _leave(number))

    def _after(self, seconds: float, call: Callable[[], object]) -> None:
        timer = threading.Timer(seconds, call)
        timer.daemon = True
        timer.start()
        self._timers.append(timer)


def _leave(number: int) -> None:
    """Nodes that are plain functions cannot be stopped, and nothing that is committed needs us."""
    say(CUT_OFF)
    with suppress(OSError):
        sys.stdout.flush()
    os._exit(STOPPED + number)


@click.command()
@target_argument
@click.option("--thread", metavar="ID", help="The thread; by default a new one is made.")
@click.option("--input", "given", required=True, metavar="JSON", help="The input; - reads stdin, @FILE a file.")
@click.option("--queue", default="default", show_default=True, metavar="NAME", help="Whose workers run it.")
@click.option("--priority", type=int, default=0, metavar="N", help="Higher ones are taken first; Postgres only.")
@click.option("--after", metavar="AGE", callback=age, help="It may begin after that time: 90s, 15m, 12h.")
@click.option("--wait", is_flag=True, help="Wait for its end, and show the result.")
@options("url", "json", "supersteps", "actor")
def submit(
    target: str,
    thread: str | None,
    given: str,
    after: float | None,
    wait: bool,
    url: str | None,
    as_json: bool,
    limit: int | None,
    actor: str | None,
    **wanted: Any,
) -> None:
    """Have a worker run a graph, and show the thread's id.

    What was submitted is durable when this ends. The workers need the same MODULE:GRAPH, or a compiled graph of that
    name.
    """
    from durable_graph.cli.target import load_graph

    value = json_of("--input", given)
    if value is None:
        raise Failure(2, "--input is null, which is no input")
    graph, _ = load_graph(target, url)
    out = Output(as_json)
    config: dict[str, Any] = {
        **({} if thread is None else {"thread_id": thread}),
        **({} if limit is None else {"recursion_limit": limit}),
        **({} if actor is None else {"metadata": {"actor": actor}}),
    }
    try:
        config = graph.submit(value, config, when=after, **wanted)
        thread_id, run_id = config["configurable"]["thread_id"], config["run_id"]
        out.line({"thread_id": thread_id, "run_id": run_id}, Column(thread_id, 0, "bold"))
        out.flush()
        if wait:
            result = graph.result(config)
            out.line({"result": plain(result)}, Column(short(result)))
    except InvalidUpdateError as error:
        raise Failure(2, one_line(error)) from error
    finally:
        graph.close()
