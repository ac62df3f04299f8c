"""One turn of a worker on a thread: go on with it as far as it goes, and say when somebody has to come back.

The rule: the thread's own row and log say what is to be done, whoever asks and however often. So a turn too many finds
nothing to do, and one that was cut off is taken again from the last row.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import aclosing, closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from durable_graph import drivers
from durable_graph.compiled import CompiledGraph
from durable_graph.core.effects import Emission, Recorded
from durable_graph.core.model import RetryPolicy
from durable_graph.core.position import Position
from durable_graph.core.projection import Shaper
from durable_graph.core.rows import Call
from durable_graph.enqueue import NEVER, full_queue
from durable_graph.errors import FencedError, StoreUnavailableError, ThreadBusyError, ThreadWaitingError
from durable_graph.inbox import has_inputs, next_input
from durable_graph.offload import in_thread
from durable_graph.prune import STATUSES
from durable_graph.session import Options, Session, given_config
from durable_graph.store import Store, Thread
from durable_graph.submission import UNDER_WAY
from durable_graph.workers.plan import Turn

AT_REST = frozenset(STATUSES) - UNDER_WAY
UNABLE = timedelta(seconds=60)  # to wait with a thread that cannot be gone on with, as its graph was changed, say
BUSY = timedelta(seconds=5)  # and with one that somebody else has, who may end at any time

log = logging.getLogger("durable_graph.workers")
Stop = Callable[[], bool]


def take_turn(graph: CompiledGraph[Any], queue: str, thread_id: str, context: Any, stop: Stop) -> Turn:
    """Go on with a thread, and then with the inputs in its inbox that are for this queue. stop: asked after each step.
    Raises StoreUnavailableError."""
    again = False
    while isinstance(session := _next(graph, queue, thread_id, context, again, stop()), Session):
        again = True
        try:
            with closing(session.sync()) as steps:
                for _ in steps:
                    if stop():
                        break
        except Exception as error:
            if _is_over(session, thread_id, error):
                return _unable(graph, thread_id)
    return session


async def atake_turn(graph: CompiledGraph[Any], queue: str, thread_id: str, context: Any, stop: Stop) -> Turn:
    """`take_turn` for graphs with async nodes."""
    again = False
    while True:
        session = await in_thread(partial(_next, graph, queue, thread_id, context, again, stop()))
        if not isinstance(session, Session):
            return session
        again = True
        try:
            async with aclosing(session.asynchronous()) as steps:
                async for _ in steps:
                    if stop():
                        break
        except Exception as error:
            if _is_over(session, thread_id, error):
                return await in_thread(partial(_unable, graph, thread_id))


# --- what is to be done ---------------------------------------------------------------------------


def _next(
    graph: CompiledGraph[Any], queue: str, thread_id: str, context: Any, again: bool, stopping: bool
) -> Session | Turn:
    """The run that is under way on the thread, or else the next input in its inbox; or when to come back. again: a run
    has just ended here, or is to be gone on with later."""
    store, now = graph._stored(), datetime.fromtimestamp(drivers.clock(), UTC)
    thread, here = store.thread(thread_id), full_queue(graph.name, queue)
    if thread is None:
        return Turn("", None, False)
    if thread.status in UNDER_WAY:
        where = here if thread.queue is None else full_queue(thread.graph, thread.queue)
        early = thread.status == "queued" and _time(thread.wake_at, now) > now
        if again and not stopping:
            return Turn(thread.status, _again(store, thread, now), False, where)
        if stopping or early or where != here:  # who has not looked does not know that there is time
            return Turn(thread.status, _time(thread.wake_at, now) if early else now, False, where)
        facts = {"adapt": partial(_adapted, graph), "statuses": UNDER_WAY, "queue": queue}
        return _session(graph, thread_id, None, context, facts)
    found = next_input(store, graph._codec, thread_id, now)
    if found is None:
        return Turn(thread.status, None, False)
    signal, item, at = found
    where = full_queue(item["graph"], item["queue"])
    if stopping or at > now or where != here:
        return Turn(thread.status, at, False, where)
    facts = {"taken": [signal.id], "statuses": AT_REST, "queue": queue}
    facts |= _facts(graph, thread_id, item["run"], item["run_id"])
    return _session(graph, thread_id, item["input"], context, facts)


def _session(graph: CompiledGraph[Any], thread_id: str, input: Any, context: Any, facts: Mapping[str, Any]) -> Session:
    given = given_config({"thread_id": thread_id}, graph._config)
    return Session(graph._parts, given, Shaper(()), _rows_only, Options(context=context), facts, input=input)


def _adapted(graph: CompiledGraph[Any], call: Call, position: Position) -> Call:
    """The call, with what the run that is gone on with was submitted with."""
    run_id = position.run_id or call.run_id
    return replace(call, **_facts(graph, call.thread_id, position.run, run_id))


def _facts(graph: CompiledGraph[Any], thread_id: str, run: Mapping[str, Any], run_id: str) -> dict[str, Any]:
    job = run.get("job", {})
    kept = {name: run[name] for name in ("metadata", "tags", "name", "job") if name in run}
    config = {
        "configurable": {**job.get("configurable", {}), "thread_id": thread_id},
        **{name: run[name] for name in ("metadata", "tags") if name in run},
        **({"run_name": run["name"]} if "name" in run else {}),
        **({"recursion_limit": job["recursion_limit"]} if "recursion_limit" in job else {}),
    }
    given = given_config(config, graph._config)
    return {
        "run_id": run_id,
        "recorded": kept,
        "config": given.for_nodes(thread_id),
        "recursion_limit": given.recursion_limit,
        "retry": RetryPolicy(*job["retry"]) if "retry" in job else None,
    }


def _rows_only(it: Emission) -> list[Recorded]:
    return [it] if isinstance(it, Recorded) else []


# --- what has become of it ------------------------------------------------------------------------


def _is_over(session: Session, thread_id: str, error: Exception) -> bool:
    """Whether an error keeps the thread from going on. Raises what is wrong with the database."""
    if isinstance(error, StoreUnavailableError):
        raise error
    if isinstance(error, ThreadBusyError | ThreadWaitingError | FencedError):
        return False  # as its row says
    begun = session.run.begun
    told = log.warning if begun else log.error
    words = "ended with" if begun else "cannot go on:"
    told(
        "the run of thread %r %s %s: %s", thread_id, words, type(error).__name__, error, extra={"thread_id": thread_id}
    )
    return not begun


def _unable(graph: CompiledGraph[Any], thread_id: str) -> Turn:
    thread = graph._stored().thread(thread_id)
    return Turn("" if thread is None else thread.status, datetime.fromtimestamp(drivers.clock(), UTC) + UNABLE, True)


def _again(store: Store, thread: Thread, now: datetime) -> datetime:
    """When a run that cannot be gone on with just now can."""
    if thread.status == "running":  # somebody else has it
        return now + BUSY
    at = _time(thread.wake_at, NEVER if thread.status == "waiting" else now)
    if thread.queue is None and has_inputs(store, thread.thread_id):
        return min(at, now + UNABLE)  # somebody else's run, of whose end nobody tells
    return at


def _time(text: str | None, otherwise: datetime) -> datetime:
    return otherwise if text is None else datetime.fromisoformat(text)
