"""The command that draws: graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import click

from durable_graph import CompiledGraph
from durable_graph.cli.options import complete_thread, format_of, options, target_argument, write
from durable_graph.cli.show import Output

FORMATS = ("mermaid", "ascii", "svg", "png")


@click.command()
@target_argument
@click.option("--format", "form", type=click.Choice(FORMATS), help="By default that of --out's ending, else mermaid.")
@click.option("--out", "file", metavar="FILE", default="-", help="Where to write it, by default stdout.")
@click.option("--xray", is_flag=True, help="Also inside subgraphs.")
@click.option(
    "--thread", metavar="ID", shell_complete=complete_thread, help="In SVG and PNG: what of it has run, runs, waits."
)
@options("url", "json")
def graph(
    target: str, form: str | None, file: str, xray: bool, thread: str | None, url: str | None, as_json: bool
) -> None:
    """Draw a graph: as Mermaid text, plain text, SVG or PNG; with --json its nodes and edges."""
    from durable_graph.cli.target import load_graph

    form = form or format_of(file, "mermaid")
    if thread is not None and form not in ("svg", "png"):
        raise click.UsageError("--thread is for --format svg and png.")
    drawn, _ = load_graph(target, url)
    try:
        picture = drawn.get_graph(xray=xray)
        states = {} if thread is None else states_of(drawn, thread)
    finally:
        drawn.close()
    if as_json:
        edges = [dataclasses.asdict(edge) for edge in picture.edges]
        Output(True).line({"nodes": picture.nodes, "edges": edges})
        return
    if form == "png":
        write(file, picture.draw_png(states))
    else:
        write(file, _as_text(picture, form, states))


def _as_text(picture: Any, form: str, states: Mapping[str, str]) -> str:
    if form == "svg":
        return str(picture.draw_svg(states))
    return str(picture.draw_ascii() if form == "ascii" else picture.draw_mermaid())


def states_of(drawn: CompiledGraph[Any], thread: str) -> dict[str, str]:
    """What has become of each node in the thread's last run."""
    config = {"thread_id": thread}
    about, state = drawn.thread(config), drawn.get_state(config)
    run_id = next((e.run_id for e in drawn.timeline(config, newest_first=True, limit=1)), None)
    states = {e.node: "done" for e in drawn.timeline(config, run_id=run_id) if e.node and e.kind == "task"}
    for task in state.tasks:
        if task.error is not None:
            states[task.name] = "failed"
        elif task.interrupts:
            states[task.name] = "waiting"
        elif task.result is None:
            states[task.name] = "running" if about.status == "running" else "next"
    return states
