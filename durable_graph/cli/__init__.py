"""The command line, `durable-graph`: runs graphs and reads their log.

The rule: results go to stdout, one line each (with --json, one JSON object each); what is said to a person goes to
stderr. Reading commands import nothing of the application. What only some commands need is imported inside them, so
that --help is quick.
"""

from __future__ import annotations

import click

import durable_graph
from durable_graph.cli import changing, drawing, keeping, reading, running, serving, setup, watching, working
from durable_graph.cli.ending import EXPLAINED, Program
from durable_graph.cli.options import DATABASES

COMMANDS = {  # in the order in which --help shows them
    "Run": (
        running.run,
        running.resume,
        running.answer,
        running.recover,
        serving.serve,
        working.submit,
        working.worker,
    ),
    "Look": (
        *(reading.threads, reading.show, reading.timeline, reading.history, reading.diff, reading.stats),
        *(watching.replay, watching.follow, drawing.graph),
    ),
    "Change": (changing.update, changing.fork, changing.signal),
    "Keep": (keeping.verify, keeping.export, keeping.import_, keeping.prune),
    "Set up": (setup.doctor, setup.db, setup.completion),
}


@click.group(cls=Program, epilog=f"\b\n{EXPLAINED}\n\b\n{DATABASES}", invoke_without_command=True)
@click.version_option(durable_graph.__version__, message="%(prog)s %(version)s")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Run graphs of plain functions, and read what they did: every step is a row in a database."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


for section, commands in COMMANDS.items():
    for command in commands:
        main.add_to(section, command)
