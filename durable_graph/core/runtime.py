"""What a node can know of its run: the `runtime` argument, and the same for code called from the node."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from durable_graph.core.channels import detached
from durable_graph.core.model import Interrupt, Wait
from durable_graph.core.times import iso
from durable_graph.errors import ArgumentError, CallError, GraphInterrupt

if TYPE_CHECKING:
    from sqlalchemy import Connection

ContextT = TypeVar("ContextT")
StreamWriter = Callable[[Any], None]


@dataclass(frozen=True, slots=True)
class Runtime(Generic[ContextT]):
    """Given to a node or router that has a parameter named `runtime`."""

    context: ContextT
    stream_writer: StreamWriter  # each call is a custom event: shown at once, recorded with the task's row
    thread_id: str
    node: str
    step: int  # of the barrier that planned this task
    task: str  # the task's id
    attempt: int  # 1 for the first; above that the task may have run before, wholly or in part
    config: Mapping[str, Any] = field(default_factory=dict)
    previous: Any = None  # what the last run of an entrypoint kept; None in a graph
    heartbeat: Callable[[], None] = lambda: None  # a sign of life, for a node with an idle_timeout
    _now: Callable[[], float] = lambda: 0.0
    _durable: bool = True  # there is a log
    _seed: str = ""  # of its questions' ids
    _home: str = ""  # what the node was first called in this thread: a subgraph's memory stays there
    _answers: Mapping[str, Any] = field(default_factory=dict)  # given so far, by question
    _counts: dict[str, int] = field(
        default_factory=lambda: {"questions": 0, "calls": 0, "graphs": 0}
    )  # of this attempt so far
    _start: Callable[..., Any] | None = None  # begins the call of a @task
    _link: Any = None  # what a subgraph that is called here needs of the graph above it
    _children: Mapping[str, Any] = field(default_factory=dict)  # where its subgraphs have got to, by their keys
    _pinned: Mapping[str, Any] | None = None  # and those that go on from run to run, after going back in time
    _below: Callable[..., None] = lambda *_: None  # tells that graph what the subgraph shows
    _ear: Any = None  # takes parts of messages
    _connect: Callable[[bool], Any] | None = None  # begins the transaction of `connection`; True: to be awaited

    _holds: Callable[[], bool] = lambda: False  # its transaction keeps all other writers waiting
    _away: bool = False  # the node runs in another process than its run

    @property
    def connection(self) -> Connection:
        """A SQLAlchemy connection to the graph's own database, in a transaction that is committed together with the
        row of this node: what is written through it is there exactly once, or the node has not finished.

        Begun when first asked for, and rolled back when the node fails, is interrupted, or is tried again. Do not
        commit it. On SQLite it holds the database's write lock until the node's row is committed: keep the node short;
        it cannot call a @task or a subgraph meanwhile. In an async node use `await runtime.aconnection()`. Raises
        CallError where there is no database or the node is async; StoreError.
        """
        connection: Connection = self._connected(False)
        return connection

    async def aconnection(self) -> Connection:
        """`connection` for async nodes. The connection itself is a plain one: its calls block, so let
        `asyncio.to_thread` make those that take long."""
        connection: Connection = await self._connected(True)
        return connection

    def _connected(self, awaits: bool) -> Any:
        if self._connect is None or not self._durable:
            raise CallError(
                problem="runtime.connection was asked for in a graph without a database",
                fix="Compile the graph with one: its log and what the node writes are committed together.",
            )
        return self._connect(awaits)

    def sleep(self, seconds: float | None = None, *, until: datetime | None = None) -> None:
        """Wait for so many seconds, or until a time, without needing a process meanwhile.

        The run ends with an interrupt that says until when; the thread's status is "waiting". Continued with
        stream(None, config) after that time, the node runs again from its start and this call returns at once.
        A time without a zone is local time. Raises ThreadWaitingError, to the caller, when continued before.
        """
        if (seconds is None) == (until is None):
            raise ArgumentError(argument="sleep", problem="give either seconds or until", fix="One of the two.")
        if until is not None and not isinstance(until, datetime):
            raise ArgumentError(argument="until", problem=f"{until!r} is no datetime", fix="Give a datetime.")
        self._wait(Wait(until=self._after("seconds", seconds) if until is None else iso(until.timestamp())))

    def _after(self, argument: str, seconds: Any) -> str:
        """The time so many seconds from now."""
        if isinstance(seconds, int | float) and not isinstance(seconds, bool):
            with suppress(ValueError, OverflowError):  # nan, infinity and beyond the year 9999
                return iso(self._now() + seconds)
        raise ArgumentError(argument=argument, problem=f"{seconds!r} is no time to wait for", fix="Give seconds.")

    def wait_for(self, signal: str, *, timeout: float | None = None) -> Any:
        """Wait until somebody calls `graph.signal(config, signal, value)`; returns that value.

        timeout: seconds, after which TimeoutError is raised in the node. No process is needed meanwhile; a
        signal that was sent before anyone waited has been kept. Signals of one name are taken in the order in
        which they were sent.
        """
        if not isinstance(signal, str):
            raise ArgumentError(argument="signal", problem=f"{signal!r} is no name", fix="Give a text.")
        until = None if timeout is None else self._after("timeout", timeout)
        answer = self._wait(Wait(until=until, signal=signal))
        if "signal" not in answer:
            raise TimeoutError(f"no signal {signal!r} came within {timeout} s")
        return answer["signal"]

    def _wait(self, wait: Wait) -> Any:
        name = self._question()
        if name not in self._answers:
            self._need_log("sleep() or wait_for()")
            raise GraphInterrupt([Interrupt(wait, name)])
        return detached(self._answers[name])

    def _question(self) -> str:
        """The id of the next question: the same each time the node comes to it."""
        number = self._count("questions")
        return hashlib.sha256(f"{self._seed}/{number}".encode()).hexdigest()[:32]

    def _need_log(self, what: str) -> None:
        if not self._durable:
            raise CallError(
                problem=f"{what} was called in a graph without a checkpointer",
                fix="Compile the graph with a database: it has to be kept until there is an answer.",
            )

    def _count(self, what: str) -> int:
        number = self._counts[what]
        self._counts[what] = number + 1
        return number

    @property
    def _has_asked(self) -> bool:
        """Whether this task, or what it called, has asked or waited for somebody outside."""
        is_call = "/" in self.task  # of a @task, which is given the answers of its node
        return self._counts["questions"] > 0 or (bool(self._answers) and not is_call)

    @property
    def idempotency_key(self) -> str:
        """The same text over all attempts of this task, and no other task's: give it to services that take one."""
        return f"{self.thread_id}/{self.task}"


# Set by the first @task of the process: from then on nodes run beside their consumer, even a single one, as what
# they call has to be committed while they run.
calls_are_possible = False

# How to get the runtime of the node that is running. It is made when first asked for: most nodes never do.
current: ContextVar[Callable[[], Runtime[Any]] | None] = ContextVar("durable_graph_runtime", default=None)


def running() -> Runtime[Any] | None:
    """The runtime of the node that is running; None outside of a node."""
    found = current.get()
    return None if found is None else found()


def get_runtime(context_schema: type[ContextT] | None = None) -> Runtime[ContextT]:
    """The runtime of the node that is running. context_schema: says the type of its context, to type checkers.

    Raises CallError outside of a node.
    """
    runtime = running()
    if runtime is None:
        raise CallError(
            problem="there is no running node here", fix="Call this from a node, or from what a node calls."
        )
    return runtime  # of that context's type, says the caller


def interrupt(value: Any) -> Any:
    """Ask somebody outside and wait for the answer, for minutes or for weeks; no process needs to run meanwhile.

    value: the question, shown to the consumer as `{"__interrupt__": (Interrupt(value, id),)}` and kept in the log.
    Returns the answer once the thread is continued with `Command(resume=answer)`. The node then runs again from its
    start, and each call here returns the answer it got before, in the order of the calls. Raises GraphInterrupt,
    which a node must let pass; CallError outside of a node or in a graph without a checkpointer.
    """
    runtime: Runtime[Any] = get_runtime()
    name = runtime._question()
    if name in runtime._answers:
        return detached(runtime._answers[name])
    runtime._need_log("interrupt()")
    raise GraphInterrupt([Interrupt(value, name)])


def get_config() -> Mapping[str, Any]:
    """The config of the run whose node is running. Raises CallError outside of a node."""
    return get_runtime().config


def get_stream_writer() -> StreamWriter:
    """The function that sends custom events, as `runtime.stream_writer`. Raises CallError outside of a node."""
    return get_runtime().stream_writer
