"""Every error of the library, as one tree.

The first split is who has to act; each message says what happened, where, and what to do next.

    DurableGraphError
    ├── DrawingError (ValueError)            whoever drew the graph
    ├── NodeCodeError                            whoever wrote the node, reducer or router
    │   ├── InvalidUpdateError
    │   ├── UnstorableValueError (TypeError)
    │   │   └── TooLargeError
    │   ├── UnsendableError (TypeError)
    │   ├── MutatedInputError (RuntimeError)
    │   ├── NodeTimeoutError
    │   └── RoutingError
    ├── CallError                            whoever called the graph
    │   ├── ArgumentError (ValueError)
    │   ├── EmptyInputError
    │   ├── GraphRecursionError (RecursionError)
    │   ├── ThreadNotFoundError (LookupError)
    │   ├── CheckpointNotFoundError (LookupError)
    │   ├── UnknownInterruptError
    │   ├── ThreadWaitingError
    │   ├── ThreadExistsError
    │   ├── ExportError (ValueError)
    │   ├── ThreadBusyError
    │   ├── RunNotFoundError (LookupError)
    │   ├── RunFailedError
    │   ├── RunStoppedError
    │   └── RunTimeoutError (TimeoutError)
    ├── ExecutorError                        whoever runs the executor
    │   └── WorkerLostError
    ├── ChangedGraphError                    whoever changed the code under a running thread
    │   └── MigrationError
    └── StoreError                           whoever runs the database
        ├── StoreUnavailableError
        ├── SchemaError
        ├── FencedError
        ├── EncryptionKeyError
        └── CorruptCheckpointError

Not errors but signals, raised by what a node calls and meant for the engine:

    GraphBubbleUp ── GraphInterrupt, ParentCommand, Suspended

The docstring of an error is its message: `{fields}` are the keyword arguments it is raised with, and
stay readable as attributes of the exception (`error.thread_id`).
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any


class DurableGraphError(Exception):
    """{message}"""

    def __init__(self, message: str | None = None, /, **facts: Any) -> None:
        self.facts = facts
        self.__dict__.update(facts)
        super().__init__(message or self._from_docstring(facts))

    def _from_docstring(self, facts: dict[str, Any]) -> str:
        text = inspect.cleandoc(type(self).__doc__ or "")  # empty under `python -OO`
        if not text:
            return f"{type(self).__name__}: {facts}"
        return " ".join(text.format(**facts).split())

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args[0], self.facts)


def _rebuild(kind: type[DurableGraphError], message: str, facts: dict[str, Any]) -> Exception:
    return kind(message, **facts)  # keeps the facts when an error crosses a process boundary


# --- whoever drew the graph -------------------------------------------------------------------


class DrawingError(DurableGraphError, ValueError):
    """The graph cannot be compiled: {problem}. {fix}"""


# --- whoever wrote the node -------------------------------------------------------------------


class NodeCodeError(DurableGraphError):
    """Node {node!r} of thread {thread_id!r}: {problem}. {fix}"""


class InvalidUpdateError(NodeCodeError):
    """{where}: {problem}. {fix}"""


class UnstorableValueError(NodeCodeError, TypeError):
    """{path} holds a {type}, which cannot be stored faithfully: {problem}. {fix}"""


class TooLargeError(UnstorableValueError):
    """{where}: {path} takes {size:,} bytes of a row of {row:,}, and a row may have {limit:,}. It was not written. Keep
    what is large in a file and its name in the state, or raise the limit:
    compile(limits=Limits(row_bytes=...))."""


class UnsendableError(NodeCodeError, TypeError):
    """Node {node!r} of thread {thread_id!r} runs on an executor in another process, and {what} cannot be sent:
    {problem}. {fix} Nothing was recorded of this attempt; mend it and continue the thread."""


class MutatedInputError(NodeCodeError, RuntimeError):
    """Node {node!r} of thread {thread_id!r} changed its input in place: {path} is not what it was before the call
    (after step {step}). Such a change is in no row, so nobody finds it after a crash: leave the input as it is, and
    return what is to change."""


class RoutingError(NodeCodeError):
    """Routing after node {node!r}: {problem}. {fix}"""


# --- whoever called the graph -----------------------------------------------------------------


class CallError(DurableGraphError):
    """{problem}. {fix}"""


class ArgumentError(CallError, ValueError):
    """{argument}: {problem}. {fix}"""


class EmptyInputError(CallError):
    """Thread {thread_id!r} {problem}. {fix}"""


class GraphRecursionError(CallError, RecursionError):
    """Thread {thread_id!r} did not end within recursion_limit={limit} supersteps (it stands at
    step {step}, next: {next}). Nothing is lost: continue it with stream(None, config), with a
    higher config["recursion_limit"] if the loop is meant to be that long."""


class ThreadNotFoundError(CallError, LookupError):
    """There is no thread {thread_id!r} in {store}. Check the id and the database URL, or start the
    thread by giving an input."""


class CheckpointNotFoundError(CallError, LookupError):
    """Thread {thread_id!r} has no step {step!r}; {have}. Name one of its steps as
    config["configurable"]["step"], or none for the newest."""


class UnknownInterruptError(CallError):
    """Thread {thread_id!r}: {problem}. Open questions: {open}. {fix}"""


class ThreadWaitingError(CallError):
    """Thread {thread_id!r} waits {what}. Continue it then with stream(None, config), or give a new input."""


class ThreadExistsError(CallError):
    """There already is a thread {thread_id!r}. Choose another id, or delete that thread: neither a fork nor an import
    overwrites one."""


class ExportError(CallError, ValueError):
    """Line {line} of the export cannot be imported: {problem}. Nothing was written. Check the file with
    `durable-graph verify --file`, and export the thread again."""


class ThreadBusyError(CallError):
    """Thread {thread_id!r} is being run by {owner} since {since}. Wait until it is done (or follow it
    with graph.follow(config)), or stop that runner; a thread has one writer at a time."""


class RunNotFoundError(CallError, LookupError):
    """Thread {thread_id!r} has no run {run_id!r}. Give the config that `submit` returned, or leave "run_id" out for the
    thread's newest run; what the caller's own transaction submitted is there once that is committed."""


class RunFailedError(CallError):
    """Node {node!r} of thread {thread_id!r} failed at step {step} with {type}: {problem}. The log has its traceback:
    graph.timeline(config). Mend it, then go on with graph.submit(None, config) or graph.stream(None, config)."""


class RunStoppedError(CallError):
    """The run of thread {thread_id!r} stopped at step {step} before its end; next: {next}. Its recursion_limit was
    reached, or whoever ran it left. Go on with graph.submit(None, config) or graph.stream(None, config)."""


class RunTimeoutError(CallError, TimeoutError):
    """The run of thread {thread_id!r} has not ended within {timeout} s. It goes on: ask again, follow it with
    graph.follow(config), or look whether a worker is there."""


# --- whoever changed the code under a running thread ------------------------------------------


class ChangedGraphError(DurableGraphError):
    """Thread {thread_id!r} cannot be continued by this graph: {problem}. {fix}"""


class MigrationError(ChangedGraphError):
    """The migration function cannot convert the state of thread {thread_id!r} at step {step}: {problem}. {fix}"""


# --- whoever runs the executor ----------------------------------------------------------------


class ExecutorError(DurableGraphError):
    """Node {node!r} of thread {thread_id!r} has no result from its executor: {problem}. {fix}"""


class WorkerLostError(ExecutorError):
    """A worker died while node {node!r} of thread {thread_id!r} ran ({problem}): loss {lost} of {limit} in this run.
    Below the limit a task runs again. At the limit nothing ran beside it: this node ends its worker, so see what it
    does there (memory, exit, a crash in a library). Then continue the thread: what has a row does not run again."""


# --- whoever runs the database ----------------------------------------------------------------


class StoreError(DurableGraphError):
    """{store}: {problem}. {fix}"""


class StoreUnavailableError(StoreError):
    """{store} cannot be used: {problem}. {fix}"""


class SchemaError(StoreError):
    """{store}: {problem}. {fix}"""


class FencedError(StoreError):
    """Step {step} of thread {thread_id!r} was not written: another runner has taken over the thread
    (this one had epoch {epoch}). Nothing was lost; read on with graph.replay(config)."""


class EncryptionKeyError(StoreError):
    """{where} is encrypted with the key {key}, and {have}. The log is whole: give that key too, behind the newest one,
    with compile(encryption_key=[new, old]) or DURABLE_GRAPH_ENCRYPTION_KEY=new,old."""


class CorruptCheckpointError(StoreError):
    """Step {step} of thread {thread_id!r} cannot be read: {problem}. Run graph.verify(config) to see what
    was altered, and restore that row from a backup."""


class NodeTimeoutError(NodeCodeError):
    """Node {node!r} took more than its {kind}_timeout of {timeout} s. It was cancelled; if it has a retry
    policy that decides. Raise the timeout or make the node faster."""


# --- signals ----------------------------------------------------------------------------------


class GraphBubbleUp(Exception):
    """Leaves a node on purpose. A node that catches every Exception has to let this one pass."""


class GraphInterrupt(GraphBubbleUp):
    """Raised by `interrupt()`: the node waits for an answer. `below`: a subgraph does, and is answered there."""

    def __init__(self, interrupts: Sequence[Any] = (), below: bool = False) -> None:
        super().__init__(tuple(interrupts))
        self.below = below

    @property
    def interrupts(self) -> tuple[Any, ...]:
        return self.args[0]  # type: ignore[no-any-return]


class ParentCommand(GraphBubbleUp):
    """Raised in a subgraph by a Command that is meant for the graph above it."""

    def __init__(self, command: Any) -> None:
        super().__init__(command)

    @property
    def command(self) -> Any:
        return self.args[0]
