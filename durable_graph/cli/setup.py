"""Commands about the setup: db, doctor, completion."""

from __future__ import annotations

import json
from collections import Counter

import click

from durable_graph.cli.ending import FOUND
from durable_graph.cli.options import opened, options, url_of
from durable_graph.cli.show import Column, Output, as_text, progress, shown_url

LEVELS = {"ok": "green", "note": "cyan", "warning": "yellow", "error": "bold red"}


@click.command()
@options("url", "json")
def doctor(url: str | None, as_json: bool) -> None:
    """Look for what is wrong with this setup, and say how to mend it. Changes nothing.

    Python and libraries, keys, the database and its disk, and threads that nobody runs. Exit code 7 if there is
    something to mend.
    """
    from durable_graph.doctor import Check, examine, source_of, worst

    out, found = Output(as_json), list[Check]()
    with progress(out) as report:
        report("looking")
        for check in examine(*source_of(url)):
            found.append(check)
            level, subject = Column(check.level, 7, LEVELS[check.level]), Column(check.subject, 11, "bold")
            out.line(check._asdict(), level, subject, Column(" ".join(check.finding.split())), whole=True)
            if check.fix and not as_json:
                out.line({}, Column("", 7), Column("", 11), Column(check.fix, 0, "dim"), whole=True)
            out.flush()
    counts = Counter(check.level for check in found)
    if not as_json:
        told = [f"{counts[level]} {level}{'s' if counts[level] > 1 else ''}" for level in ("error", "warning")]
        wrong = [each for each in told if not each.startswith("0")]
        out.line({}, Column(", ".join(wrong) if wrong else "nothing to mend", 0, LEVELS[worst(found)]))
    if worst(found) in ("warning", "error"):
        raise click.exceptions.Exit(FOUND)


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@options()
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print what lets a shell complete commands, options and the ids of threads.

    \b
    bash   eval "$(durable-graph completion bash)"       in ~/.bashrc
    zsh    eval "$(durable-graph completion zsh)"        in ~/.zshrc
    fish   durable-graph completion fish | source        in ~/.config/fish/config.fish
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    program = ctx.find_root()
    assert kind is not None
    click.echo(kind(program.command, {}, program.info_name or "", "_DURABLE_GRAPH_COMPLETE").source())


@click.group(no_args_is_help=False)
def db() -> None:
    """The schema of the database."""


@db.command()
@click.option("--partitions", type=int, metavar="N", help="Postgres: the log in N parts by thread; 0: in one piece.")
@click.option("--workers", is_flag=True, help="Postgres: also make procrastinate's tables, which workers need.")
@options("url")
def upgrade(url: str | None, partitions: int | None, workers: bool) -> None:
    """Bring the database to the schema that this version needs.

    A new SQLite file gets it by itself. --partitions lays the log out anew, with all rows: nobody reads or writes it
    meanwhile, and it needs as much room again. Without the option its layout stays. The tables of procrastinate are
    only made: to bring those to a newer version see its documentation.
    """
    from durable_graph.store import migrate

    url = url_of(url)
    before = _state(url)
    migrate.upgrade(url, partitions)
    after = _state(url)
    done = f"has {after} already" if before == after else f"now has {after}"
    click.echo(f"{as_text(shown_url(url))} {done}")
    if workers:
        from durable_graph.workers import make_tables

        made = "now has" if make_tables(url) else "has"
        click.echo(f"{as_text(shown_url(url))} {made} the tables of procrastinate")


def _state(url: str) -> str:
    """In words."""
    from durable_graph.store import migrate

    version, _ = migrate.current(url)
    number = migrate.layout(url) if version else 0
    return (f"schema {version}" if version else "no schema") + (f" in {number} partitions" if number else "")


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
    with opened(url) as log:
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

    url = url_of(url)
    have, needed = migrate.current(url)
    if as_json:
        click.echo(json.dumps({"current": have, "needed": needed, "partitions": migrate.layout(url) if have else 0}))
    else:
        click.echo(f"{as_text(shown_url(url))} has {_state(url)}, needed is {needed}")
