"""What a node can know of its run: the `runtime` argument, and the same for code called from the node."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from durable_graph.errors import CallError

ContextT = TypeVar("ContextT")
StreamWriter = Callable[[Any], None]


@dataclass(frozen=True, slots=True)
class Runtime(Generic[ContextT]):
    """Given to a node or router that has a parameter named `runtime`."""

    context: ContextT
    stream_writer: StreamWriter  # each call is a custom event: shown at once, recorded with the task's row
    thread_id: str
    step: int  # of the barrier that planned this task
    task: str  # the task's id
    attempt: int  # 1 for the first; above that the task may have run before, wholly or in part
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def idempotency_key(self) -> str:
        """The same text over all attempts of this task, and no other task's: give it to services that take one."""
        return f"{self.thread_id}/{self.task}"


current: ContextVar[Runtime[Any] | None] = ContextVar("durable_graph_runtime", default=None)


def get_runtime() -> Runtime[Any]:
    """The runtime of the node that is running. Raises CallError outside of a node."""
    runtime = current.get()
    if runtime is None:
        raise CallError(
            problem="there is no running node here", fix="Call this from a node, or from what a node calls."
        )
    return runtime


def get_config() -> Mapping[str, Any]:
    """The config of the run whose node is running. Raises CallError outside of a node."""
    return get_runtime().config


def get_stream_writer() -> StreamWriter:
    """The function that sends custom events, as `runtime.stream_writer`. Raises CallError outside of a node."""
    return get_runtime().stream_writer
