"""How a command ends: one line on stderr and an exit code, of which the table is here and EXPLAINED in --help.

The rule: no traceback, unless --debug asks for it, and never more than one line.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from contextlib import suppress
from typing import Any

import click

from durable_graph import (
    ChangedGraphError,
    CheckpointNotFoundError,
    DurableGraphError,
    ExportError,
    FencedError,
    GraphRecursionError,
    NodeCodeError,
    StoreError,
    ThreadBusyError,
    ThreadNotFoundError,
)
from durable_graph.cli.show import ReaderGone, as_text

EXPLAINED = """\
Exit codes:
  0    done
  1    the run failed: a node raised
  2    wrong usage, or nothing to resume
  3    no such thread or step
  4    somebody else is running the thread
  5    the database cannot be used
  6    verify found something, or import did
  7    doctor found something to mend
  130  stopped by Ctrl-C (143: by SIGTERM, 141: the reader of a pipe has gone)
"""
CODES: tuple[tuple[type[Exception], int], ...] = (  # the first that fits
    (ExportError, 6),
    (ThreadNotFoundError, 3),
    (CheckpointNotFoundError, 3),
    (ThreadBusyError, 4),
    (FencedError, 4),
    (StoreError, 5),
    (NodeCodeError, 1),
    (GraphRecursionError, 1),
    (ChangedGraphError, 1),
    (DurableGraphError, 2),  # the others are about how it was called
    (Exception, 1),
)
FOUND = 7  # by doctor
STOPPED = 128  # plus the signal's number, as shells count


class Failure(Exception):
    """The end of a command: what to say, and the exit code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Program(click.Group):
    """Turns every end of a command into one line and an exit code, and shows the commands by what one does."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._sections: dict[str, list[str]] = {}

    def add_to(self, section: str, command: click.Command) -> None:
        self.add_command(command)
        self._sections.setdefault(section, []).append(str(command.name))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, self.commands), default=0)
        for section, names in self._sections.items():
            rows = [(name.ljust(width), _in_short(self.commands[name])) for name in names]
            with formatter.section(section):
                formatter.write_dl(rows)

    def main(self, *args: Any, **options: Any) -> Any:
        options["standalone_mode"] = False  # click's own way to end takes several lines
        try:
            code = super().main(*args, **options)
        except click.ClickException as error:
            say_error(_sentence(error.format_message()) + _help_for(error))
            code = error.exit_code
        sys.exit(code)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            super().invoke(ctx)
            sys.stdout.flush()
        except (click.ClickException, click.exceptions.Exit):
            raise
        except (ReaderGone, BrokenPipeError):
            _silence_stdout()
            ctx.exit(STOPPED + signal.SIGPIPE)
        except KeyboardInterrupt:
            ctx.exit(STOPPED + signal.SIGINT)
        except Exception as error:
            if ctx.meta.get("debug"):
                traceback.print_exception(error.__cause__ or error)
            say_error(one_line(error))
            ctx.exit(exit_code(error))


def _in_short(command: click.Command) -> str:
    """The first sentence of its help, as far as a colon."""
    return command.get_short_help_str(1000).partition(": ")[0].removesuffix(".")


def _sentence(text: str) -> str:
    """Click's messages end with a full stop, or not."""
    return text if text.endswith((".", "?", "!")) else f"{text}."


def _help_for(error: click.ClickException) -> str:
    context = error.ctx if isinstance(error, click.UsageError) else None
    return f" Try: {context.command_path} --help" if context else ""


def _silence_stdout() -> None:
    """What is still buffered has no reader: without this the interpreter complains about it when it ends."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def exit_code(error: Exception) -> int:
    if isinstance(error, Failure):
        return error.code
    return next(code for kind, code in CODES if isinstance(error, kind))


def one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, (Failure, DurableGraphError)):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def say(text: str) -> None:
    click.echo(as_text(" ".join(text.split())), err=True)


def say_error(text: str) -> None:
    say(f"error: {text}")
