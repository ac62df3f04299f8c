"""The values that everything else is about: what users write, what they see, and a graph as it was drawn.

Everything here is frozen. The first half is public; `Graph` and its parts are what `graph.compile()` makes of a
drawing, and all that the engine knows of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, ClassVar, Generic, Literal, NamedTuple, TypeVar

from durable_graph.core.channels import MISSING, Channel, Overwrite
from durable_graph.core.schema import Schema
from durable_graph.errors import ArgumentError, DrawingError

START = "__start__"
END = "__end__"

N = TypeVar("N")
KeyT = TypeVar("KeyT", bound=Callable[..., str | bytes])

Config = Mapping[str, Any]
StreamMode = Literal["updates", "values", "custom", "messages", "tasks", "checkpoints", "debug", "events"]


# --- what nodes and routers return ------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Send:
    """Run `node` in the next superstep with `arg` as its input instead of the state.

    Returned from a conditional edge or in `Command(goto=...)`; a list of them is a map, one task each.
    timeout: for an attempt of this task, in place of the node's own; in seconds, as a timedelta or a TimeoutPolicy.
    """

    node: str
    arg: Any
    timeout: float | timedelta | TimeoutPolicy | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.timeout is not None:
            try:
                object.__setattr__(self, "timeout", policy_of(self.timeout))
            except DrawingError as error:
                raise ArgumentError(argument="Send", **error.facts) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Command(Generic[N]):
    """An update and where to go next, in one return value of a node; or as an input, the answer to an interrupt.

    graph: None for the graph at hand, `Command.PARENT` for the one that this subgraph is a node of.
    update: what to write to the state. goto: a node's name, a Send, or several of them.
    resume: as an input, the answer to the open interrupt; {interrupt id: answer} where there are several.
    """

    graph: str | None = None
    update: Any | None = None
    resume: Any | None = None
    goto: Send | Sequence[Send | N] | N = ()

    PARENT: ClassVar[Literal["__parent__"]] = "__parent__"


@dataclass(frozen=True, slots=True)
class Interrupt:
    """A question that a node has asked with `interrupt(value)`. `id` names it when answering one of several."""

    value: Any
    id: str = ""


@dataclass(frozen=True, slots=True)
class Wait:
    """What a node waits for, as the value of its Interrupt: a time, a signal, or whichever comes first."""

    until: str | None = None  # UTC, ISO 8601; None: as long as it takes
    signal: str | None = None


# --- what consumers see -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """One committed row of a thread, as `stream_mode="events"` yields it.

    `update` is what the node returned (None for rows that are not a task's), `values` the state after
    this row: within a superstep that is the state at the last barrier, as its siblings are not applied yet.
    """

    thread_id: str
    step: int
    kind: str  # input, task, interrupt, error, resume, update or fork
    node: str | None
    update: Any
    values: dict[str, Any]
    next: tuple[str, ...]  # nodes still to run
    metadata: dict[str, Any]  # of the run, with run_id, superstep, task, attempt and parent_step
    started_at: str | None  # UTC, ISO 8601; None for rows that no node made
    created_at: str


class PregelTask(NamedTuple):
    """A task of the superstep that a `StateSnapshot` stands at."""

    id: str
    name: str
    path: tuple[Any, ...]
    error: str | None = None
    interrupts: tuple[Any, ...] = ()
    state: Any = None
    result: Any = None


class StateSnapshot(NamedTuple):
    """The state of a thread at one of its steps."""

    values: Any
    next: tuple[str, ...]
    config: dict[str, Any]
    metadata: dict[str, Any] | None
    created_at: str | None
    parent_config: dict[str, Any] | None
    tasks: tuple[PregelTask, ...]
    interrupts: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class GraphOutput(Generic[N]):
    """What `invoke` returns with version="v2"."""

    value: N  # the state at the end
    interrupts: tuple[Interrupt, ...] = ()  # questions that are open


class StateUpdate(NamedTuple):
    """One update of `bulk_update_state`, as if a node had returned it."""

    values: Any
    as_node: str | None = None  # None: the node that ran last
    task_id: str | None = None  # the pending task whose place it takes


# --- policies ---------------------------------------------------------------------------------


def retry_by_default(error: Exception) -> bool:
    """Whether trying again may help: not for what looks like a mistake in the code; of HTTP errors the server's."""
    status = getattr(getattr(error, "response", None), "status_code", None)  # httpx and requests, unimported
    if isinstance(status, int):
        return status >= 500
    return isinstance(error, ConnectionError) or not isinstance(error, _MISTAKES)


_MISTAKES = (
    ValueError, TypeError, ArithmeticError, ImportError, LookupError, NameError, SyntaxError, RuntimeError,
    ReferenceError, StopIteration, StopAsyncIteration, OSError,
)  # fmt: skip


class RetryPolicy(NamedTuple):
    """When and how often a failed node is tried again within a run. Times in seconds."""

    initial_interval: float = 0.5  # before the first retry
    backoff_factor: float = 2.0  # each interval is so many times the one before
    max_interval: float = 128.0
    max_attempts: int = 3  # the first one included
    jitter: bool = True  # up to a second more, so that many do not come back at once
    retry_on: type[Exception] | Sequence[type[Exception]] | Callable[[Exception], bool] = retry_by_default

    def matches(self, error: Exception) -> bool:
        if isinstance(self.retry_on, type):
            return isinstance(error, self.retry_on)
        if isinstance(self.retry_on, Sequence):
            return isinstance(error, tuple(self.retry_on))
        return self.retry_on(error)

    def interval(self, failures: int) -> float:
        """Seconds to wait after so many failures, without jitter."""
        return min(self.max_interval, self.initial_interval * self.backoff_factor ** (failures - 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeoutPolicy:
    """How long one attempt of an async node may take, in seconds or as a timedelta."""

    run_timeout: float | timedelta | None = None  # altogether
    idle_timeout: float | timedelta | None = None  # without a sign of life
    refresh_on: Literal["auto", "heartbeat"] = (
        "auto"  # signs of life: custom events too, or `runtime.heartbeat()` alone
    )


def seconds_of(limit: float | timedelta | None) -> float | None:
    return limit.total_seconds() if isinstance(limit, timedelta) else limit


def policy_of(timeout: float | timedelta | TimeoutPolicy | None) -> TimeoutPolicy | None:
    """In seconds; raises DrawingError for a time that is none."""
    if timeout is None:
        return None
    if not isinstance(timeout, TimeoutPolicy):
        timeout = TimeoutPolicy(run_timeout=timeout)
    run, idle = seconds_of(timeout.run_timeout), seconds_of(timeout.idle_timeout)
    if any(limit is not None and limit <= 0 for limit in (run, idle)):
        raise DrawingError(problem=f"the timeout {timeout!r} is not positive", fix="Give seconds above 0.")
    if timeout.refresh_on not in ("auto", "heartbeat"):
        raise DrawingError(problem=f"refresh_on={timeout.refresh_on!r} is unknown", fix='Use "auto" or "heartbeat".')
    return TimeoutPolicy(run_timeout=run, idle_timeout=idle, refresh_on=timeout.refresh_on)


RECORDED: tuple[type, ...] = (Send, TimeoutPolicy, Wait, Overwrite)  # values of ours that rows hold


@dataclass(frozen=True, slots=True, kw_only=True)
class CachePolicy(Generic[KeyT]):
    """Keep what a node or a @task returned, and do not call it again for the same input.

    key_func: takes what the node takes (its input) or the @task (its arguments), and returns a text or bytes
        that tell inputs apart. None: the whole input does, by value and type. The run's context and config do not
        count, nor does the code: what they change has to be in the key, or be cleared with `graph.clear_cache()`.
        What is kept belongs to a node's name in graphs of one name, and to its function by module and name.
    ttl: seconds after which it is called again; None: never.

    Needs `compile(cache=...)`. Kept once the task's row is durable. Not kept: errors, custom events, what was written
    through `runtime.connection`, and the results of nodes that have asked or waited with `interrupt`,
    `runtime.sleep` or `runtime.wait_for`.
    """

    key_func: KeyT | None = None
    ttl: float | None = None

    def __post_init__(self) -> None:
        if self.ttl is not None and not self.ttl > 0:
            raise ArgumentError(argument="ttl", problem=f"{self.ttl!r} is not positive", fix="Give seconds, or None.")


@dataclass(frozen=True, slots=True)
class NodeError:
    """Given to an error handler that has a parameter named `error`: which node failed, and with what."""

    node: str
    error: BaseException


# --- a drawn graph ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Branch:
    """A conditional edge: a router and where its answers lead."""

    name: str
    path: Callable[..., Any]
    wants: Sequence[str]  # which of config, runtime and writer the router asks for
    ends: Mapping[Hashable, str] | None  # answer -> node; None: the answer is the node
    schema: Schema | None  # what the router receives; None: what its node receives


@dataclass(frozen=True, slots=True)
class Join:
    """`add_edge([a, b], c)`: c runs once all sources have run, in whichever supersteps."""

    name: str
    sources: frozenset[str]
    target: str


def join_name(starts: Sequence[str], end: str) -> str:
    """LangGraph's, as it stands in a task's triggers; a "+" in a node's own name is escaped."""
    sources = [start.replace("\\", "\\\\").replace("+", "\\+") for start in starts]
    return f"join:{'+'.join(sources)}:{end}"


def join_parts(name: str) -> Iterator[tuple[list[str], str]]:
    """The starts and the end that a join's name stands for. Only a ":" in a node's own name makes it more than one."""
    text = name.removeprefix("join:")
    for colon in re.finditer(":", text):
        sources = re.findall(r"(?:\\.|[^+\\])+", text[: colon.start()], re.DOTALL)
        yield [re.sub(r"\\(.)", r"\1", source, flags=re.DOTALL) for source in sources], text[colon.end() :]


@dataclass(frozen=True, slots=True)
class Node:
    """One node with everything that leaves it. The entry point is a node named START without a function."""

    name: str
    call: Callable[..., Any]
    schema: Schema
    wants: Sequence[str] = ()
    successors: tuple[str, ...] = ()
    branches: tuple[Branch, ...] = ()
    joins: tuple[Join, ...] = ()
    defer: bool = False
    retry: tuple[RetryPolicy, ...] | None = None  # the first that matches the error counts; None: not said
    timeout: TimeoutPolicy | None = None
    cache: CachePolicy[Any] | None = None
    error_handler: str | None = None  # the node that takes over when this one has failed for good
    executor: Any = None  # an executors.Pool that its function is called in; None: here
    destinations: Mapping[str, str | None] = field(default_factory=dict)  # for the picture only
    metadata: Mapping[str, Any] = field(default_factory=dict)
    strict: bool = False  # it is an error if it changes its input in place


@dataclass(frozen=True, slots=True)
class Graph:
    """A compiled drawing: pure data and the user's functions."""

    name: str
    nodes: Mapping[str, Node]  # START included
    channels: Mapping[str, Channel]
    state: Schema
    input: Schema
    output: Schema
    fingerprint: str  # of the drawing: nodes, edges, channels, names of reducers; not of the functions' code
    checks: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)  # key -> raises if wrong
    interrupt_before: frozenset[str] = frozenset()  # nodes before which each run pauses; "*" for all
    interrupt_after: frozenset[str] = frozenset()
    managed: frozenset[str] = frozenset()  # keys of schemas that are no channels
    context: Any = None  # its schema
    aliases: Mapping[str, str] = field(default_factory=dict)  # what nodes and channels were called before
    migrate: Callable[[dict[str, Any]], Any] | None = None  # makes this graph's state of an older one's
    # what follows from the above, for questions that come with each step
    reduced: frozenset[str] = field(init=False)  # channels with a reducer
    chats: tuple[str, ...] = field(init=False)  # channels that hold lists of messages
    deferred: frozenset[str] = field(init=False)  # nodes
    has_executors: bool = field(init=False)

    def __post_init__(self) -> None:
        channels, nodes = self.channels.items(), self.nodes.items()
        derived: dict[str, Any] = {
            "reduced": frozenset([name for name, channel in channels if channel.reducer is not None]),
            "chats": tuple([name for name, channel in channels if channel.operation == "messages"]),
            "deferred": frozenset([name for name, node in nodes if node.defer]),
            "has_executors": any(node.executor is not None for _, node in nodes),
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)


# --- tasks ------------------------------------------------------------------------------------


class Task(NamedTuple):
    """One planned call of a node. Its order among its siblings is the order of their ids' last part."""

    id: str  # "<step of the barrier that planned it>.<place in the superstep>"
    node: str
    triggers: tuple[str, ...]  # LangGraph's names: "branch:to:<node>" or "join:<sources>:<node>"
    arg: Any = MISSING  # a Send's payload; MISSING: the task reads the state
    seed: str = ""  # thread and id at its planning: names its questions, also in forks and after going back in time
    timeout: TimeoutPolicy | None = None  # of a Send, in place of the node's


class Question(NamedTuple):
    """An open interrupt of a task. One that a subgraph asked is answered there."""

    interrupt: Interrupt
    below: bool = False  # asked in a subgraph, and only passed on here


class Failure(NamedTuple):
    """A task that raised, as its error row tells it."""

    type: str
    message: str
    traceback: str
