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
from durable_graph.core.times import iso
from durable_graph.enqueue import NEVER, QUEUE
from durable_graph.errors import FencedError, StoreUnavailableError, ThreadBusyError, ThreadWaitingError
from durable_graph.inbox import inbox
from durable_graph.offload import in_thread
from durable_graph.prune import STATUSES
from durable_graph.session import Options, Session, given_config
from durable_graph.store import Thread
from durable_graph.submission import UNDER_WAY
from durable_graph.workers.plan import Turn

AT_REST = frozenset(STATUSES) - UNDER_WAY
UNABLE = timedelta(seconds=60)  # to wait with a thread that cannot be gone on with, as its graph was changed, say
BUSY = timedelta(seconds=1)  # and behind the end of another's lease

log = logging.getLogger("durable_graph.workers")
Stop = Callable[[], bool]


def take_turn(graph: CompiledGraph[Any], thread_id: str, context: Any, stop: Stop) -> Turn:
    """Go on with a thread, and then with the inputs in its inbox. stop: asked after each step. Raises
    StoreUnavailableError."""
    unable = again = False
    while not stop() and (session := _next(graph, thread_id, context, again=again)) is not None:
        again = True
        try:
            with closing(session.sync()) as steps:
                for _ in steps:
                    if stop():
                        break
        except Exception as error:
            unable = _is_over(session, thread_id, error)
            if unable:
                break
    return _come_back(graph, thread_id, unable)


async def atake_turn(graph: CompiledGraph[Any], thread_id: str, context: Any, stop: Stop) -> Turn:
    """`take_turn` for graphs with async nodes."""
    unable = again = False
    while not stop():
        session = await in_thread(partial(_next, graph, thread_id, context, again=again))
        if session is None:
            break
        again = True
        try:
            async with aclosing(session.asynchronous()) as steps:
                async for _ in steps:
                    if stop():
                        break
        except Exception as error:
            unable = _is_over(session, thread_id, error)
            if unable:
                break
    return await in_thread(partial(_come_back, graph, thread_id, unable))


# --- what is to be done ---------------------------------------------------------------------------


def _next(graph: CompiledGraph[Any], thread_id: str, context: Any, *, again: bool) -> Session | None:
    """The run that is under way on the thread, or else the next input in its inbox. again: a run has just ended here,
    or is to be gone on with later."""
    store = graph._stored()
    thread = store.thread(thread_id)
    if thread is None:
        return None
    if thread.status in UNDER_WAY:
        too_early = thread.status == "queued" and (thread.wake_at or "") > iso(drivers.clock())
        facts = {"adapt": partial(_adapted, graph), "statuses": UNDER_WAY, "queue": thread.queue or QUEUE}
        return None if again or too_early else _session(graph, thread_id, None, context, facts)
    for signal, item in inbox(store, graph._codec, thread_id):
        facts = {"taken": [signal.id], "statuses": AT_REST, "queue": item["queue"]}
        facts |= _facts(graph, thread_id, item["run"], item["run_id"])
        return _session(graph, thread_id, item["input"], context, facts)
    return None


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


def _come_back(graph: CompiledGraph[Any], thread_id: str, unable: bool) -> Turn:
    thread = graph._stored().thread(thread_id)
    now = datetime.fromtimestamp(drivers.clock(), UTC)
    again = now + UNABLE if unable else None if thread is None else _again(thread, now)
    return Turn("" if thread is None else thread.status, again, unable)


def _again(thread: Thread, now: datetime) -> datetime | None:
    if thread.status == "running":  # somebody else has it
        return max(now, _time(thread.lease_expires_at, now)) + BUSY
    if thread.status == "queued":
        return _time(thread.wake_at, now)
    return _time(thread.wake_at, NEVER) if thread.status == "waiting" else None


def _time(text: str | None, otherwise: datetime) -> datetime:
    return otherwise if text is None else datetime.fromisoformat(text)
