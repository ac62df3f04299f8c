"""What is to run: jobs for tasks and for calls of @tasks, and what the user's code finds in its runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from durable_graph.core.caching import Memo, node_namespace, task_namespace
from durable_graph.core.channels import detached
from durable_graph.core.effects import Job, Relayed, Said, Sent
from durable_graph.core.model import CachePolicy, Graph, NodeError, Task
from durable_graph.core.projection import NAMESPACE, task_metadata
from durable_graph.core.rows import Call, Codec, Rows
from durable_graph.core.runtime import Runtime
from durable_graph.core.task import run_call, run_node
from durable_graph.core.tokens import Tokens, id_of
from durable_graph.errors import CallError, ChangedGraphError


class Jobs(Rows):
    """A run that can make jobs. See `core/rows.py`."""

    def __init__(self, graph: Graph, codec: Codec | None, key: bytes | None, call: Call) -> None:
        super().__init__(graph, codec, key, call)
        self.remaining = call.recursion_limit  # supersteps, after the one at hand

    def _job(self, task: Task, attempt: int = 0, error: NodeError | None = None) -> Job:
        position, node = self.position, self.graph.nodes[task.node]
        job = Job(task, attempt or position.attempts.get(task.id, 0) + 1, position.step, self.remaining)
        job.make_runtime = self._runtime
        if node.retry:
            job.retry = node.retry
        if node.error_handler is not None:
            job.handler = node.error_handler
        if error is not None:
            job.error = error
        if node.cache is not None and self.call.caching is not None:
            job.memo = self._memo(job, node.cache, node_namespace(self.graph.name, node.name, node.call))
        if self.call.surround is not None:
            job.surround = self.call.surround
        if node.executor is not None:
            job.elsewhere = True
        job.steps = run_node(self.graph, position, job)
        return job

    def _memo(self, job: Job, policy: CachePolicy[Any], namespace: str) -> Memo:
        assert self.call.caching is not None
        first = job.attempt == 1
        return Memo(self.call.caching, policy, namespace, job.task.node, self.call.thread_id, first)

    def _call_of(
        self,
        caller: Job,
        number: int,
        name: str,
        call: Callable[..., Any],
        arg: Any,
        retry: Any,
        timeout: Any,
        policy: CachePolicy[Any] | None,
    ) -> Any:
        """A node calls a @task: what it returned before, or a job of its own. Runs in the node's thread."""
        if caller.ended:
            raise CallError(
                problem=f"the @task {name!r} was called after node {caller.task.node!r} had ended",
                fix="Call it while the node runs, and wait for its result: the node's row comes after its calls.",
            )
        recorded = self.position.calls.get(caller.scope, {}).get(number)
        if recorded is not None:
            return self._recalled(caller, number, name, recorded)
        task = Task(f"{caller.scope}/{number}", name, ("__call__",), arg, f"{caller.task.seed}/{number}")

        def again(attempt: int) -> Job:
            job = Job(task, attempt, caller.step)
            job.parent, job.retry, job.again = caller, retry, again
            job.make_runtime = self._runtime
            if policy is not None and self.call.caching is not None:
                job.memo = self._memo(job, policy, task_namespace(name, call))
            job.surround = self.call.surround
            job.steps = run_call(call, arg, timeout, job)
            return job

        return caller.spawn(again(1))

    def _recalled(self, caller: Job, number: int, name: str, recorded: tuple[str, Any]) -> Any:
        before, value = recorded
        if before != name:
            raise ChangedGraphError(
                thread_id=self.call.thread_id,
                problem=f"call {number} of node {caller.task.node!r} was of {before!r} before and is of {name!r} now",
                fix="A node must call its @tasks in the same order each time: until this thread is done keep the old "
                "code, or move it on with update_state(config, values, as_node=...)",
            )
        return caller.recall(detached(value))

    def _first_name(self, node: str) -> str:
        """Of a node that was renamed while this thread lived: what was kept or asked under it is still found."""
        names: Mapping[str, str] = self.position.graph.get("formerly", {})
        return names.get(node, node)

    def _runtime(self, job: Job) -> Runtime[Any]:
        def write(data: Any) -> None:
            if job.ended:
                raise _too_late(job, "the stream writer")
            if self.codec is not None:
                self._check_shown(job, data)
            job.tell(Sent(job, detached(data)))

        call = self.call
        top = job.task.id.partition("/")[0]
        given = self.position.answers.get(top, ())
        ear = _Ear(self, job)
        config = self._config(job, ear)
        return Runtime(
            call.context,
            write,
            call.thread_id,
            job.task.node,
            job.step,
            job.scope,
            job.attempt,
            config,
            heartbeat=lambda: job.alive(),
            _now=call.now,
            _durable=self.codec is not None,
            _seed=job.task.seed,
            _home=self._first_name(job.task.node),
            _answers={question.interrupt.id: answer for question, answer in given},
            _children=self.position.children.get(job.scope, {}),
            _pinned=self.position.pinned,
            _start=lambda *called: self._call_of(job, *called),
            _link=call.link,
            _below=lambda *shown: job.tell(Relayed(job, *shown)),
            _ear=ear,
            _connect=partial(_connection_of, job),
            _holds=lambda: job.transaction is not None and job.transaction.exclusive,
        )

    def _check_shown(self, job: Job, shown: Any) -> None:
        """Refuse in the node, which can see why, what its row could not keep. Runs there."""
        assert self.codec is not None
        data = self.codec.encode(shown)
        job.shown += len(data)
        if job.shown > self.codec.limits.row_bytes:
            where = f"Node {job.task.node!r} of thread {self.call.thread_id!r} has shown too much"
            facts = {"node": job.task.node, "thread_id": self.call.thread_id, "step": job.step}
            self.codec.check_size(job.shown, shown, where, **facts)

    def _config(self, job: Job, ear: _Ear) -> Mapping[str, Any]:
        """The run's config with the node's place in its metadata, and with what libraries look for in it."""
        call = self.call
        above = call.link.ns if call.link is not None else ()
        place = {**ear.place, NAMESPACE: "|".join((*above, ear.place[NAMESPACE]))}
        config = {**call.config, "metadata": place}
        return config if call.surround is None else call.surround.config(config, ear)


class _Ear:
    """Takes the parts of messages that are said in a node, in the node's own thread."""

    def __init__(self, run: Jobs, job: Job) -> None:
        metadata = run.call.config.get("metadata", {})
        self.place = task_metadata(metadata, run.call.thread_id, run.position.superstep + 1, job.task)
        self._config = run.call.config
        self._codec, self._check = run.codec, run._check_shown
        self._job = job
        self._tokens = job.tokens = job.tokens or Tokens()

    def part(self, key: Any, message: Any, metadata: Mapping[str, Any]) -> None:
        """Show a part of a message; `key` is the same for all of them. Once the node has ended nobody listens.

        Raises UnstorableValueError for what the row could not keep.
        """
        if self._job.ended:
            return
        place = self.place
        extra = {k: v for k, v in metadata.items() if k not in _PLACES and (k not in place or place[k] != v)}
        # langchain-core takes what lies under `configurable` for metadata, some of it or all: that is never kept
        for name in (
            extra.keys() & self._config.get("configurable", {}).keys() - self._config.get("metadata", {}).keys()
        ):
            del extra[name]
        if self._codec is not None:
            self._check(self._job, [message, extra])
        self.whole(id_of(message))
        self._job.tell(Said(self._job, key, detached(message), detached(extra)))

    def push(self, message: Any, name: str, key: str | None) -> None:
        """Show a message or a part of it because the node says so, and write it to this key of the state."""
        if self._job.ended:
            raise _too_late(self._job, "push_message")
        if key is not None and self._job.parent is not None:
            raise CallError(
                problem=f"push_message was to write to the state in the @task {self._job.task.node!r}",
                fix="A task has no part in the state: give state_key=None, and let the node write the message.",
            )
        self.part(name, message, {})
        if key is not None:
            self._job.pushed[key, name] = message

    def whole(self, name: str | None) -> None:
        """The message with this id has been shown in parts: as a whole it is no news."""
        if name is not None:
            self._tokens.names[name] = None


_PLACES = frozenset({NAMESPACE, "checkpoint_ns"})


def _too_late(job: Job, what: str) -> CallError:
    return CallError(
        problem=f"{what} of node {job.task.node!r} was called after the node had ended",
        fix="Call it while the node runs: its row, which records what was shown, is complete now.",
    )


def _connection_of(job: Job, awaits: bool) -> Any:
    """For `runtime.connection`: that of the job's transaction. Runs in the node."""
    if job.ended:
        raise CallError(
            problem=f"runtime.connection of node {job.task.node!r} was asked for after the node had ended",
            fix="Use it while the node runs; its transaction ends with the node.",
        )
    if awaits:
        return _await_connection(job)
    if job.transaction is None:
        job.transaction = job.begin(False)
    return job.transaction.connection


async def _await_connection(job: Job) -> Any:
    if job.transaction is None:
        job.transaction = await job.begin(True)
    return job.transaction.connection
