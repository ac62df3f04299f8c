"""Runs a graph for `run`, `resume` and `recover`: shows what it does, stops cleanly, and says how to go on."""

from __future__ import annotations

import asyncio
import json
import shlex
import signal
import sys
import threading
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator, Iterator
from contextlib import closing, contextmanager, redirect_stdout, suppress
from types import FrameType
from typing import Any, cast

import click

from durable_graph import (
    END,
    Command,
    EmptyInputError,
    Interrupt,
    InvalidUpdateError,
    Recovered,
    StateSnapshot,
    StreamEvent,
    StreamMode,
    Wait,
)
from durable_graph.cli.ending import STOPPED, Failure, exit_code, one_line, say
from durable_graph.cli.show import (
    Column,
    Output,
    ReaderGone,
    asked,
    numbered,
    progress,
    short,
    show_chunk,
    shown_url,
)
from durable_graph.cli.target import load_graph


class Runner:
    """One call of `run` or `resume`."""

    def __init__(
        self,
        target: str,
        thread: str | None,
        url: str | None,
        modes: list[StreamMode],
        as_json: bool,
        limit: int | None,
        actor: str | None,
        grace: float,
    ) -> None:
        self.graph, self.is_async = load_graph(target, url)
        self.is_named = thread is not None
        self.thread = str(uuid.uuid4()) if thread is None else thread
        self.config = {"thread_id": self.thread, **_settings(limit, actor)}
        self.modes = modes
        self.out = Output(as_json)
        self.last: StreamEvent | None = None
        self.failed: StreamEvent | None = None  # of the first node that raised
        self.stopped = Stopped(grace)
        self.command = f"durable-graph resume {shlex.quote(target)} --thread {shlex.quote(self.thread)}"
        if url is not None:
            self.command += f" --url {shlex.quote(shown_url(url))}"

    def answer(self, value: Any, is_given: bool, question: str | None) -> None:
        """Go on with the answer to a question, which is asked here if it was not given."""
        try:
            open_ones = [one for one in self.graph.get_state(self.config).interrupts if not isinstance(one.value, Wait)]
            wanted = [one for one in open_ones if question in (None, one.id)]
            if len(wanted) == 1 and not is_given and sys.stdin.isatty() and sys.stderr.isatty():
                value = _asked_here(wanted[0])
            elif len(wanted) != 1 or not is_given:
                raise self._no_answer(open_ones, is_given, question)
        except BaseException:
            self.graph.close()
            raise
        self.run(Command(resume={wanted[0].id: value}))

    def _no_answer(self, open_ones: list[Interrupt], is_given: bool, question: str | None) -> Failure:
        if not open_ones:
            missing = self.graph.get_state(self.config).created_at is None
            problem = "does not exist" if missing else "asks nothing"
            return Failure(3 if missing else 2, f"thread {self.thread!r} {problem}; see durable-graph threads")
        questions = "; ".join(f"{one.id}: {short(one.value)}" for one in open_ones)
        if len(open_ones) > 1 and question is None:
            return Failure(2, f"thread {self.thread!r} asks several questions, choose one by --interrupt: {questions}")
        if question is not None and question not in [one.id for one in open_ones]:
            return Failure(2, f"thread {self.thread!r} has no open question {question!r}, these are: {questions}")
        return Failure(2, f"give --text or --value, to answer {questions}")

    def run(self, value: Any) -> None:
        try:
            with terminated_as_interrupted(self.stopped), redirect_stdout(sys.stderr), progress(self.out) as report:
                self._stream(value, report)
            self._tell_questions()
        except KeyboardInterrupt:
            say(f"stopped; {self._what_next()}")
            raise click.exceptions.Exit(STOPPED + self.stopped.by) from None
        except ReaderGone:
            say(f"stopped, as nobody reads the output any more; {self._what_next()}")
            raise
        except EmptyInputError as error:
            missing = self.graph.get_state(self.config).created_at is None
            raise Failure(3 if missing else 2, str(error)) from error
        except SystemExit as error:
            raise Failure(1, f"a node called sys.exit({error.code!r}); {self._what_next()}") from error
        except Exception as error:
            raise self._failure(error) from error
        finally:
            self.graph.close()

    def _stream(self, value: Any, report: Callable[[str], None]) -> None:
        modes: list[StreamMode] = [*self.modes, "events"]  # which know the steps
        if self.is_async:
            stream = blocking(self.graph.astream(value, self.config, stream_mode=modes))
        else:
            stream = self.graph.stream(value, self.config, stream_mode=modes)
        with closing(cast("Generator[Any]", stream)):
            for mode, step, chunk in numbered(stream):
                if mode == "events":
                    self._note(chunk)
                    report(f"{self.thread}: step {chunk.step}, next: {', '.join(chunk.next) or 'nothing'}")
                if mode in self.modes:
                    show_chunk(self.out, self.thread, mode, step, chunk, name_mode=len(self.modes) > 1)
                    self.out.flush()
                if mode == "events" and self.stopped.asked:
                    break
        if self.stopped.asked:
            raise KeyboardInterrupt

    def _note(self, event: StreamEvent) -> None:
        if self.last is None and not self.is_named:
            say(f"thread {self.thread}")
        self.last = event
        if event.kind == "error":
            self.failed = self.failed or event

    def _tell_questions(self) -> None:
        """What has to happen before the thread can go on."""
        if self.last is None or not self.last.next:
            return
        for question in self.graph.get_state(self.config).interrupts:
            if isinstance(question.value, Wait):
                say(f"{asked(question)}; go on then with: {self.command}")
            else:
                say(f"{asked(question)}; answer with: {self.command.replace(' resume ', ' answer ', 1)} --text ...")

    def _failure(self, error: Exception) -> Failure:
        text = one_line(error).rstrip(".")
        if self.failed is not None:
            return Failure(1, f"node {self.failed.node!r} failed: {text}; go on with: {self.command}")
        if self.last is not None:
            return Failure(exit_code(error), f"{text}; go on with: {self.command}")
        return Failure(2 if isinstance(error, InvalidUpdateError) else exit_code(error), text)

    def _what_next(self) -> str:
        """Asks the log, as a signal may come between a commit and its event."""
        with suppress(Exception):
            state = self.graph.get_state(self.config)
            if state.created_at is None:
                return "nothing is recorded yet"
            if not state.next:
                return "the thread had just finished"
        return f"go on with: {self.command}"


def _settings(limit: int | None, actor: str | None) -> dict[str, Any]:
    """Of a config."""
    return {
        **({"recursion_limit": limit} if limit else {}),
        **({"metadata": {"actor": actor}} if actor is not None else {}),
    }


def _asked_here(question: Interrupt) -> Any:
    """The answer that a person types: JSON, or else a text."""
    say(asked(question))
    typed = click.prompt("answer", prompt_suffix="> ", err=True)
    with suppress(ValueError, RecursionError):
        return json.loads(typed)
    return typed


def changed(
    target: str,
    url: str | None,
    config: dict[str, Any],
    values: Any,
    as_node: str | None,
    task: str | None,
    wait: float | None,
) -> StateSnapshot:
    """The state of a thread after an update. Routers run, so the application is needed."""
    graph, is_async = load_graph(target, url)
    thread = config["configurable"]["thread_id"]
    try:
        with redirect_stdout(sys.stderr):
            graph.thread({"thread_id": thread})  # a new one would be made of a name that is misspelled
            given = (config, values, END if as_node == "END" else as_node, task)
            if is_async:
                after = asyncio.run(graph.aupdate_state(*given, wait=wait))
            else:
                after = graph.update_state(*given, wait=wait)
            return graph.get_state(after)
    except InvalidUpdateError as error:
        raise Failure(2, one_line(error)) from error
    finally:
        graph.close()


def recover_all(
    target: str, most: int | None, url: str | None, as_json: bool, limit: int | None, actor: str | None, grace: float
) -> bool:
    """Go on with all threads whose process has died, a line for each. False if one of them failed."""
    graph, is_async = load_graph(target, url)
    config = _settings(limit, actor)
    out, stopped, well = Output(as_json), Stopped(grace), True
    try:
        with terminated_as_interrupted(stopped), redirect_stdout(sys.stderr), progress(out) as report:
            report("looking for threads whose process has died")
            settings: dict[str, Any] = {"limit": most, "until": lambda: stopped.asked}
            found = blocking(graph.arecover(config, **settings)) if is_async else graph.recover(config, **settings)
            with closing(cast("Generator[Recovered]", found)) as threads:
                for thread in threads:
                    _show(out, thread)
                    report(f"{thread.thread_id} is {thread.status}, looking for more")
                    well = well and thread.error is None
            if stopped.asked:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        say("stopped; what is left is found again by the same command")
        raise click.exceptions.Exit(STOPPED + stopped.by) from None
    except SystemExit as error:
        raise Failure(1, f"a node called sys.exit({error.code!r}); the same command finds what is left") from error
    finally:
        graph.close()
    return well


def _show(out: Output, thread: Recovered) -> None:
    error = None if thread.error is None else one_line(thread.error)
    status, name = Column(thread.status, 11), Column(thread.thread_id, 36, "bold")
    out.line({**thread._asdict(), "error": error}, status, name, Column(error or "", 0, "red"))
    out.flush()


class Stopped:
    """Which signal has stopped us, if one has."""

    by = signal.SIGINT
    asked = False  # by SIGTERM, to end after the step at hand

    def __init__(self, grace: float = 0.0) -> None:
        self.grace = grace  # seconds that SIGTERM leaves to the nodes at work


@contextmanager
def terminated_as_interrupted(stopped: Stopped) -> Iterator[None]:
    """SIGTERM asks a run to end after the step at hand. When it has not done so within its grace, or at a second
    SIGTERM, the run ends in the way Ctrl-C ends it, whoever handles that."""
    main = threading.get_ident()
    alarm = threading.Timer(stopped.grace, lambda: signal.pthread_kill(main, signal.SIGTERM))  # wakes also who sleeps
    alarm.daemon = True

    def terminate(number: int, frame: FrameType | None) -> None:
        stopped.by = signal.SIGTERM
        if stopped.grace and not stopped.asked:
            stopped.asked = True
            alarm.start()
            return
        interrupt = signal.getsignal(signal.SIGINT)
        (interrupt if callable(interrupt) else signal.default_int_handler)(signal.SIGINT, frame)

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        alarm.cancel()
        signal.signal(signal.SIGTERM, before)


def blocking(chunks: AsyncIterator[Any]) -> Iterator[Any]:
    """An asynchronous stream for a program that is not."""

    async def following() -> Any:
        return await anext(chunks, chunks)  # itself: the end

    async def ending() -> None:
        """Ctrl-C may have come when the next chunk's task was made and not run, or for the second time."""
        left = {task for task in asyncio.all_tasks() if task.get_coro() is step}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await cast("AsyncGenerator[Any]", chunks).aclose()

    step: Coroutine[Any, Any, Any] | None = None
    with asyncio.Runner() as runner:
        try:
            while (chunk := runner.run(step := following())) is not chunks:
                yield chunk
        except asyncio.CancelledError:  # Ctrl-C while the chunk before this one was on its way
            raise KeyboardInterrupt from None
        finally:
            runner.run(ending())
