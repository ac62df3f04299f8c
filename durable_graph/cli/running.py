"""Commands that run a graph: run, resume, answer, recover. They import the application, others do not."""

from __future__ import annotations

from typing import Any

import click

from durable_graph.cli.ending import Failure
from durable_graph.cli.options import complete_thread, json_of, options, target_argument, thread_option, value_of


@click.command()
@target_argument
@click.option(
    "--thread", metavar="ID", shell_complete=complete_thread, help="The thread; by default a new one is made."
)
@click.option("--input", "given", required=True, metavar="JSON", help="The input; - reads stdin, @FILE a file.")
@options("url", "mode", "json", "supersteps", "actor", "grace")
def run(target: str, thread: str | None, given: str, **settings: Any) -> None:
    """Run a graph and show its steps as they happen.

    MODULE is a module that Python can import, or the path of a .py file; GRAPH is the name of a StateGraph or of a
    compiled graph in it. What the nodes print goes to stderr.
    """
    from durable_graph.cli.runner import Runner

    value = json_of("--input", given)
    if value is None:
        raise Failure(2, "--input is null, which is no input; to go on with a thread: durable-graph resume")
    Runner(target, thread, **settings).run(value)


@click.command()
@target_argument
@thread_option
@options("url", "mode", "json", "supersteps", "actor", "grace")
def resume(target: str, thread: str, **settings: Any) -> None:
    """Go on with a thread that was stopped, has crashed or has failed.

    What is in its log does not run again.
    """
    from durable_graph.cli.runner import Runner

    Runner(target, thread, **settings).run(None)


@click.command()
@target_argument
@thread_option
@click.option("--interrupt", "question", metavar="ID", help="Which question, if several are open; see show.")
@options("value", "text", "url", "mode", "json", "supersteps", "actor", "grace")
def answer(
    target: str, thread: str, question: str | None, value: str | None, text: str | None, **settings: Any
) -> None:
    """Answer what a node asked with interrupt(), and go on with the thread.

    Without --value and --text the question is asked on a terminal, and what is typed is JSON or else a text.
    """
    from durable_graph.cli.runner import Runner

    is_given = value is not None or text is not None
    given = value_of(value, text)
    Runner(target, thread, **settings).answer(given, is_given, question)


@click.command()
@target_argument
@click.option("--limit", "most", type=click.IntRange(min=1), metavar="N", help="So many at most.")
@options("url", "json", "supersteps", "actor", "grace")
def recover(target: str, **settings: Any) -> None:
    """Go on with all threads of a graph whose process has died.

    One after the other, to their end. May run everywhere and at the same time: each thread is taken by one process.
    """
    from durable_graph.cli.runner import recover_all

    if not recover_all(target, **settings):
        raise click.exceptions.Exit(1)
