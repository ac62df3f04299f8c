"""What a node can know of its run: the `runtime` argument, and the same for code called from the node."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from durable_graph.core.channels import detached
from durable_graph.core.model import Interrupt
from durable_graph.errors import CallError, GraphInterrupt

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
    _durable: bool = True  # there is a log
    _seed: str = ""  # of its questions' ids
    _answers: Mapping[str, Any] = field(default_factory=dict)  # given so far, by question
    _counts: dict[str, int] = field(
        default_factory=lambda: {"questions": 0, "calls": 0, "graphs": 0}
    )  # of this attempt so far
    _start: Callable[..., Any] | None = None  # begins the call of a @task
    _link: Any = None  # what a subgraph that is called here needs of the graph above it
    _below: Callable[..., None] = lambda *_: None  # tells that graph what the subgraph shows

    def _count(self, what: str) -> int:
        number = self._counts[what]
        self._counts[what] = number + 1
        return number

    @property
    def idempotency_key(self) -> str:
        """The same text over all attempts of this task, and no other task's: give it to services that take one."""
        return f"{self.thread_id}/{self.task}"


# Set by the first @task of the process: from then on nodes run beside their consumer, even a single one, as what
# they call has to be committed while they run.
calls_are_possible = False

current: ContextVar[Runtime[Any] | None] = ContextVar("durable_graph_runtime", default=None)


def get_runtime() -> Runtime[Any]:
    """The runtime of the node that is running. Raises CallError outside of a node."""
    runtime = current.get()
    if runtime is None:
        raise CallError(
            problem="there is no running node here", fix="Call this from a node, or from what a node calls."
        )
    return runtime


def interrupt(value: Any) -> Any:
    """Ask somebody outside and wait for the answer, for minutes or for weeks; no process needs to run meanwhile.

    value: the question, shown to the consumer as `{"__interrupt__": (Interrupt(value, id),)}` and kept in the log.
    Returns the answer once the thread is continued with `Command(resume=answer)`. The node then runs again from its
    start, and each call here returns the answer it got before, in the order of the calls. Raises GraphInterrupt,
    which a node must let pass; CallError outside of a node or in a graph without a checkpointer.
    """
    runtime = get_runtime()
    number = runtime._count("questions")
    name = hashlib.sha256(f"{runtime._seed}/{number}".encode()).hexdigest()[:32]
    if name in runtime._answers:
        return detached(runtime._answers[name])
    if not runtime._durable:
        raise CallError(
            problem="interrupt() was called in a graph without a checkpointer",
            fix="Compile the graph with a database: the question has to be kept until it is answered.",
        )
    raise GraphInterrupt([Interrupt(value, name)])


def get_config() -> Mapping[str, Any]:
    """The config of the run whose node is running. Raises CallError outside of a node."""
    return get_runtime().config


def get_stream_writer() -> StreamWriter:
    """The function that sends custom events, as `runtime.stream_writer`. Raises CallError outside of a node."""
    return get_runtime().stream_writer
