"""What a run asks of the world. `core.run` yields these; `drivers` performs them and sends the answers back.

    effect     the driver                                            answers
    Now        looks at the clock                                    seconds since the epoch
    Ask        calls the function with the store, if there is one    what it returned
    Save       commits rows, a claim and a snapshot                  None, once they are durable
    Emit       shows it to the consumer                              True if the consumer has gone
    Rest       lets so many seconds pass                             None
    Next       begins jobs (those with a delay, after it): one in    what came in, oldest first
               place, several side by side; then waits until one
               sends or finishes
    Cancel     takes back jobs that have not begun, these and        those jobs
               others

An effect that fails is raised in the run, at the `yield` that asked for it. What each step makes is a plain dataclass
rather than a frozen one or a NamedTuple: it takes half the time to make.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from durable_graph.core.model import NodeError, RetryPolicy, Task, TimeoutPolicy
from durable_graph.core.position import Body, Position
from durable_graph.core.tokens import Tokens
from durable_graph.store import Claim, Row, Store, Transaction


class Now(NamedTuple):
    pass


class Ask(NamedTuple):
    call: Callable[[Store], Any]


@dataclass(slots=True)
class Save:
    rows: Sequence[Row]
    claim: Claim | None = None
    snapshot: bytes | None = None
    taken: Sequence[str] = ()  # signals that these rows hold from now on
    through: Transaction | None = None  # commit them with what a node did there


# Asked by a job, not by the run: call this function of the user's with these arguments, and await what it returns if
# need be, but not for longer than that.
Invoke = tuple[Callable[..., Any], tuple[Any, ...], Mapping[str, Any], TimeoutPolicy | None]


class Reply(Protocol):
    """The part of a future that is used here. Who waits for it may have cancelled it: then it takes no answer."""

    def set_result(self, result: Any, /) -> None: ...

    def set_exception(self, error: BaseException, /) -> None: ...

    def cancelled(self) -> bool: ...

    def add_done_callback(self, call: Callable[[Any], object], /) -> None: ...


class Surround(Protocol):
    """Puts what libraries look for around a node."""

    def config(self, config: dict[str, Any], ear: Any) -> dict[str, Any]:
        """The node's config as they complete it. ear: takes messages that are said in the node."""

    def variables(self, config: Callable[[], Mapping[str, Any]]) -> Sequence[tuple[ContextVar[Any], Any]]:
        """Context variables, to have these values while the node runs. config: makes what `config` gives."""


LOSSES = 3  # attempts of a task in one run that may lose their worker; as many deaths as Dask allows by default


def _nobody() -> None:
    pass


class Job:
    """One attempt of a task, ready to run."""

    # what few jobs have: it costs the others nothing
    alive: Callable[[], None] = staticmethod(_nobody)  # a sign of life, for whoever minds an idle timeout
    progress: Callable[[], None] = staticmethod(_nobody)  # the same, where something else than a heartbeat counts
    runtime_made: Any = None
    make_runtime: Callable[[Job], Any] | None = None  # without it what is called finds none
    surround: Surround | None = None  # puts what libraries look for around it
    delay = 0.0  # seconds to wait before it begins
    jitter = False  # and up to one more
    failures: Sequence[Body] = ()  # of this run's attempts before it, as the row will record them
    inherited = 0  # how many of these are of the node whose error it handles
    memo: Any = None  # its place in the cache: a core.caching.Memo
    cached = False  # its result came from there
    stays = False  # its steps have to end in the context in which they began
    ended = False  # its node has returned or raised
    tokens: Tokens | None = None  # of the messages that were shown in parts
    transaction: Transaction | None = None  # begun by its node
    retry: Sequence[RetryPolicy] = ()
    handler: str | None = None  # node that takes over
    error: NodeError | None = None  # that it handles
    elsewhere = False  # its node is called in an executor
    losses = 0  # attempts of this run that an executor has lost
    parent: Job | None = None  # of a call of a @task: the job that called it
    reply: Reply  # of such a call, made by `spawn`: takes the result once that is durable

    steps: Generator[Invoke, Any, Any]
    again: Callable[[int], Job]  # the same, as this attempt

    # set by the driver
    awaited: Any = None  # an executors.Awaited, for what is done elsewhere
    begin: Callable[[bool], Any]  # begins its transaction; True: gives something to await
    tell: Callable[[Arrival], None]  # brings something to `Next` while the job runs
    spawn: Callable[[Job], Any]  # begins a call of a @task as a job of its own, returns a future of its result
    recall: Callable[[Any], Any]  # a future that has this result

    def __init__(self, task: Task, attempt: int, step: int = -1, remaining: int = 0) -> None:
        self.task = task
        self.attempt = attempt
        self.scope = task.id  # of its calls, subgraphs and idempotency key: an error handler has its own
        self.step = step  # that it begins after
        self.remaining = remaining  # supersteps that this call may still take after the one at hand
        self.custom: list[Any] = []  # what the row will record of the custom events
        self.shown = 0  # bytes of these and of messages
        self.below: list[Any] = []  # and of the subgraphs' rows that were shown meanwhile
        self.pushed: dict[tuple[str, str], Any] = {}  # messages that its node has written besides: by key and id

    def runtime(self) -> Any:
        """What its node can know of the run."""
        if self.runtime_made is None:
            assert self.make_runtime is not None
            self.runtime_made = self.make_runtime(self)
        return self.runtime_made


class Rest(NamedTuple):
    seconds: float


class Spawned(NamedTuple):
    """A node has called a @task."""

    job: Job


class Sent(NamedTuple):
    """A custom event."""

    job: Job
    data: Any


class Said(NamedTuple):
    """A part of a message."""

    job: Job
    key: Any  # the same for all parts of one message
    message: Any
    extra: dict[str, Any]  # metadata besides the task's


class Relayed(NamedTuple):
    """What a subgraph has shown in the node at hand, in the form in which the consumer gets it."""

    job: Job
    thread_id: str  # of the subgraph's run
    step: int | None  # of the row, if it is one
    chunks: Sequence[Any]
    number: int = 0  # as for `Shown`: of the mark under which the log tells of it


@dataclass(slots=True)
class Finished:
    job: Job
    result: Any  # of a task its update and targets, of a call what it returned
    error: BaseException | None
    started: float
    finished: float


Arrival = Spawned | Sent | Said | Relayed | Finished


@dataclass(slots=True)
class Next:
    jobs: Sequence[Job] = ()


class Cancel(NamedTuple):
    jobs: Sequence[Job] = ()  # of a `Next` that was interrupted, or that would come: they count as not begun


@dataclass(slots=True)
class Recorded:
    """To be shown: a committed row, and where the thread stands after it."""

    position: Position
    row: Row
    body: Body
    changed: bool  # the state's values
    barrier: bool
    task: Task | None = None  # whose row it is


class Shown(NamedTuple):
    """To be shown: a custom event, recorded later with its task's row."""

    position: Position
    task: Task
    data: Any
    number: int = 0  # of what was said in this superstep


class Token(NamedTuple):
    """To be shown: a part of a message, recorded later with its task's row."""

    position: Position
    task: Task
    message: Any
    extra: Mapping[str, Any]
    number: int = 0  # as for `Shown`


class Begun(NamedTuple):
    """To be shown: the tasks that are about to run. Not a row: it follows from the last one."""

    position: Position
    tasks: Sequence[Task]


class Below(NamedTuple):
    """To be shown: what a subgraph showed, told again from its log."""

    ns: tuple[str, ...]  # "<node>:<task>" for each graph on the way down
    what: Recorded | Shown | Token | Begun


Emission = Recorded | Shown | Token | Begun | Below | Relayed


@dataclass(slots=True)
class Emit:
    what: Emission


Effect = Now | Ask | Save | Emit | Rest | Next | Cancel
