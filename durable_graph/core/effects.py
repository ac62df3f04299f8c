"""What a run asks of the world. `core.run` yields these; `drivers` performs them and sends the answers back.

    effect     the driver                                            answers
    Now        looks at the clock                                    seconds since the epoch
    Ask        calls the function with the store, if there is one    what it returned
    Save       commits rows, a claim and a snapshot                  None, once they are durable
    Emit       shows it to the consumer                              True if the consumer has gone
    Rest       lets so many seconds pass                             None
    Start      begins jobs: one in place, several side by side       None
               (those with a delay, after it)
    Next       waits until a job sends or finishes                   what came in, oldest first
    Cancel     takes back jobs that have not begun                   those jobs

An effect that fails is raised in the run, at the `yield` that asked for it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol

from durable_graph.core.model import RetryPolicy, Task, TimeoutPolicy
from durable_graph.core.position import Body, Position
from durable_graph.core.tokens import Tokens
from durable_graph.store import Claim, Row, Store, Transaction


class Now(NamedTuple):
    pass


class Ask(NamedTuple):
    call: Callable[[Store], Any]


class Save(NamedTuple):
    rows: Sequence[Row]
    claim: Claim | None = None
    snapshot: bytes | None = None
    taken: Sequence[str] = ()  # signals that these rows hold from now on
    through: Transaction | None = None  # commit them with what a node did there


# Asked by a job, not by the run: call this function of the user's with these arguments, and await what it returns if
# need be, but not for longer than that.
Invoke = tuple[Callable[..., Any], tuple[Any, ...], Mapping[str, Any], TimeoutPolicy | None]


class Reply(Protocol):
    """The part of a future that the run uses."""

    def set_result(self, result: Any, /) -> None: ...

    def set_exception(self, error: BaseException, /) -> None: ...


class Job:
    """One attempt of a task, ready to run."""

    __slots__ = (
        "again",
        "alive",
        "attempt",
        "begin",
        "below",
        "cached",
        "custom",
        "delay",
        "ended",
        "failures",
        "handler",
        "inherited",
        "jitter",
        "make_runtime",
        "memo",
        "parent",
        "progress",
        "pushed",
        "recall",
        "remaining",
        "reply",
        "retry",
        "runtime_made",
        "scope",
        "spawn",
        "step",
        "steps",
        "surrounds",
        "task",
        "tell",
        "tokens",
        "transaction",
        "variables",
    )  # fmt: skip

    def __init__(self, task: Task, attempt: int) -> None:
        self.task = task
        self.attempt = attempt
        self.scope = task.id  # of its calls, subgraphs and idempotency key: an error handler has its own
        self.make_runtime: Callable[[Job], Any]
        self.runtime_made: Any = None
        self.step = -1  # that it begins after
        self.remaining = 0  # supersteps that this call may still take after the one at hand
        self.surrounds = False  # its runtime brings context variables along, for libraries that look there
        self.variables: Sequence[tuple[ContextVar[Any], Any]] = ()
        self.delay = 0.0  # seconds to wait before it begins
        self.jitter = False  # and up to one more
        self.failures: list[Body] = []  # of this run's attempts before it, as the row will record them
        self.inherited = 0  # how many of these are of the node whose error it handles
        self.alive: Callable[[], None] = _nobody  # a sign of life, for whoever minds an idle timeout
        self.progress: Callable[[], None] = _nobody  # the same, where something else than a heartbeat counts
        self.memo: Any = None  # its place in the cache: a core.caching.Memo
        self.cached = False  # its result came from there
        self.ended = False  # its node has returned or raised
        self.custom: list[Any] = []  # what the row will record of the custom events
        self.tokens: Tokens | None = None  # of the messages that were shown in parts
        self.pushed: dict[tuple[str, str], Any] = {}  # messages that its node has written besides: by key and id
        self.below: list[Any] = []  # and of the subgraphs' rows that were shown meanwhile
        self.transaction: Transaction | None = None  # begun by its node
        self.begin: Callable[[bool], Any]  # set by the driver: begins it; True: gives something to await
        self.tell: Callable[[Arrival], None]  # set by the driver: brings something to `Next` while the job runs
        self.steps: Generator[Invoke, Any, Any]
        self.retry: Sequence[RetryPolicy] = ()
        self.again: Callable[[int], Job]  # the same, as this attempt
        self.handler: str | None = None  # node that takes over
        # a node calls functions decorated with @task as jobs of their own:
        self.spawn: Callable[[Job], Any]  # set by the driver: begins a call, returns a future of its result
        self.recall: Callable[[Any], Any]  # set by the driver: a future that has this result
        self.parent: Job | None = None
        self.reply: Reply  # of such a call, made by `spawn`: takes the result once that is durable

    def runtime(self) -> Any:
        """What its node can know of the run."""
        if self.runtime_made is None:
            self.runtime_made = self.make_runtime(self)
        return self.runtime_made


def _nobody() -> None:
    pass


class Rest(NamedTuple):
    seconds: float


class Start(NamedTuple):
    jobs: Sequence[Job]


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


class Finished(NamedTuple):
    job: Job
    result: Any  # of a task its update and targets, of a call what it returned
    error: BaseException | None
    started: float
    finished: float


Arrival = Spawned | Sent | Said | Relayed | Finished


class Next(NamedTuple):
    pass


class Cancel(NamedTuple):
    pass


class Recorded(NamedTuple):
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


class Token(NamedTuple):
    """To be shown: a part of a message, recorded later with its task's row."""

    position: Position
    task: Task
    message: Any
    extra: Mapping[str, Any]


class Begun(NamedTuple):
    """To be shown: the tasks that are about to run. Not a row: it follows from the last one."""

    position: Position
    tasks: Sequence[Task]


class Below(NamedTuple):
    """To be shown: what a subgraph showed, told again from its log."""

    ns: tuple[str, ...]  # "<node>:<task>" for each graph on the way down
    what: Recorded | Shown | Token | Begun


Emission = Recorded | Shown | Token | Begun | Below | Relayed


class Emit(NamedTuple):
    what: Emission


Effect = Now | Ask | Save | Emit | Rest | Start | Next | Cancel
