"""Commands that add to a thread without running it: fork, update, signal."""

from __future__ import annotations

from typing import Any

import click

from durable_graph.cli.ending import say
from durable_graph.cli.options import (
    config_of,
    json_of,
    opened,
    options,
    target_argument,
    thread_argument,
    thread_option,
    value_of,
)
from durable_graph.cli.show import Column, Output


@click.command()
@thread_argument
@click.option("--to", required=True, metavar="ID", help="The new thread.")
@options("step", "actor", "url", "json")
def fork(thread: str, to: str, step: int | None, actor: str | None, url: str | None, as_json: bool) -> None:
    """Make a new thread that stands where this one stood at a step. No rows are copied."""
    with opened(url) as log:
        log.fork(config_of(thread, step, actor), to)
        (entry,) = log.timeline({"thread_id": to}, limit=1)
    begins = entry.origin[1] if entry.origin is not None else 0
    Output(as_json).line(
        {"thread_id": to, "step": entry.step, "origin": thread, "origin_step": begins},
        Column(to, 36, "bold"),
        Column(f"from step {begins} of {thread}"),
    )


@click.command()
@thread_argument
@click.argument("name")
@options("value", "text", "url", "json")
def signal(thread: str, name: str, value: str | None, text: str | None, url: str | None, as_json: bool) -> None:
    """Send a signal to a thread, for a node that waits for one of this NAME. Kept until a task takes it.

    It wakes nobody: go on with the thread by resume, if nobody runs it.
    """
    given = value_of(value, text)
    with opened(url) as log:
        log.signal({"thread_id": thread}, name, given)
        status = log.thread({"thread_id": thread}).status
    Output(as_json).line(
        {"thread_id": thread, "signal": name, "value": given},
        Column(f"{thread} has the signal {name!r}"),
    )
    if status == "waiting":
        say(f"it waits; go on with it: durable-graph resume MODULE:GRAPH --thread {thread}")


@click.command()
@target_argument
@thread_option
@click.option("--values", "given", required=True, metavar="JSON", help="The update; - reads stdin, @FILE a file.")
@click.option("--as-node", metavar="NODE", help="As if this node had returned it; by default the one that ran last.")
@click.option("--task", metavar="ID", help="In place of this pending task.")
@click.option("--wait", type=click.FloatRange(min=0), metavar="SECONDS", help="So long for a thread that is running.")
@options("step", "actor", "url", "json")
def update(
    target: str,
    thread: str,
    given: str,
    as_node: str | None,
    task: str | None,
    wait: float | None,
    step: int | None,
    actor: str | None,
    url: str | None,
    as_json: bool,
) -> None:
    """Change the state of a thread, as if a node had returned the values. What follows that node is next."""
    from durable_graph.cli.runner import changed

    values: Any = json_of("--values", given)
    state = changed(target, url, config_of(thread, step, actor), values, as_node, task, wait)
    now = state.config["configurable"]["step"]
    Output(as_json).line(
        {"thread_id": thread, "step": now, "next": state.next},
        Column(now, -6, "dim"),
        Column(f"next: {', '.join(state.next)}" if state.next else "end", 0, "bold"),
    )
