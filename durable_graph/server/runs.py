"""Runs of this process: begun, waited for, cancelled, stopped when the server ends, and taken over when it begins."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, suppress
from dataclasses import dataclass, field
from typing import Any

from durable_graph import Thread
from durable_graph.core.effects import Emission, Recorded
from durable_graph.server import inside
from durable_graph.server.hub import Feed, Hub, Live, Modes, Topic
from durable_graph.server.problems import Problem

log = logging.getLogger("durable_graph")

REMEMBERED = 1000  # runs that have ended here: how, where the log does not tell
BEGUN = 16  # threads that are taken over, at a time; and no more run than half of what may


@dataclass(frozen=True, slots=True)
class Wanted:
    """A run that a client asks for."""

    graph: inside.Graph
    place: int  # of its database
    thread_id: str
    given: Any  # input, Command, or None: go on
    config: Mapping[str, Any]
    modes: Modes
    subgraphs: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    recovers: bool = False


class LocalRun:
    """One run under way here."""

    def __init__(self, wanted: Wanted, topic: Topic) -> None:
        self.wanted = wanted
        self.topic = topic
        self.live = Live(wanted.graph)
        self.run_id = ""
        self.first = -1  # its first row
        self.error: Exception | None = None
        self.cancelled = False
        self.done = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self._stopping = False
        self._begun: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.session = inside.session(
            wanted.graph,
            wanted.given,
            wanted.config,
            wanted.modes,
            wanted.subgraphs,
            wanted.options,
            self._show,
            recovers=wanted.recovers,
        )

    async def begun(self) -> bool:
        """Wait for its first row. False if there was nothing to recover. Raises what kept it from beginning."""
        return await asyncio.shield(self._begun)

    def _show(self, it: Emission) -> Sequence[None]:
        """Called in the event loop for all that the run emits. What it gives is yielded: nothing, until it has to stop,
        so that nobody's reading holds it up."""
        if not self.run_id and isinstance(it, Recorded):
            self.run_id, self.first = it.row.run_id, it.row.step
            self.topic.live = self.live
        self.live.publish(it)
        if isinstance(it, Recorded):
            self.topic.bump()
            if not self._begun.done():
                self._begun.set_result(True)
            if self._stopping:
                return (None,)
        return ()

    async def drive(self) -> None:
        try:
            chunks = self.session.asynchronous()
            async with aclosing(chunks):
                async for _ in chunks:
                    break  # asked to stop after the step at hand
        except asyncio.CancelledError:
            self.cancelled = True
        except Exception as error:
            self.error = error
        finally:
            self._end()

    def _end(self) -> None:
        if not self._begun.done():
            if self.error is not None:
                self._begun.set_exception(self.error)
                self._begun.exception()  # whoever began it may be gone
            else:
                self._begun.set_result(False)
        elif self.error is not None:
            log.warning("run %s of thread %r ended with %r", self.run_id, self.wanted.thread_id, self.error)
        if self.topic.live is self.live:
            self.topic.live = None
        self.done.set()
        self.live.end()
        self.topic.bump()

    def stop(self) -> None:
        """After the step at hand, as the server ends: whoever recovers goes on with it."""
        inside.leave_to_recovery(self.session, True)
        self._stopping = self.cancelled = True

    def cancel(self) -> None:
        """Now: async nodes are cancelled, plain functions are waited for."""
        inside.leave_to_recovery(self.session, False)
        self.cancelled = True
        if self.task is not None:
            self.task.cancel()

    def outcome(self) -> Any:
        return inside.outcome(self.wanted.graph, self.session)


class Runs:
    def __init__(self, hub: Hub, most: int) -> None:
        self._hub = hub
        self._most = most
        self._running: set[LocalRun] = set()
        self._ended: OrderedDict[str, Exception | None] = OrderedDict()
        self._recovering: asyncio.Task[None] | None = None
        self._chores: set[asyncio.Task[None]] = set()

    def find(self, run_id: str) -> LocalRun | None:
        """A run that is under way here."""
        return next((run for run in self._running if run.run_id == run_id), None)

    def error_of(self, run_id: str) -> Exception | None:
        """What a run raised that has ended here not long ago."""
        return self._ended.get(run_id)

    async def begin(self, wanted: Wanted, room: int | None = None) -> tuple[LocalRun, Feed | None]:
        """Returns when its first row is durable. Raises what keeps it from beginning: busy, wrong input ..."""
        if self._hub.closing:
            raise Problem(503, "This server is shutting down.", headers={"retry-after": "5"})
        if len(self._running) >= self._most:
            raise Problem(503, f"{self._most} runs are under way here; come back later.", headers={"retry-after": "5"})
        stack = AsyncExitStack()
        topic = await stack.enter_async_context(self._hub.topic(wanted.place, wanted.graph, wanted.thread_id))
        try:
            run = LocalRun(wanted, topic)
        except BaseException:
            await stack.aclose()
            raise
        feed = None
        if room is not None:
            below = inside.shaped_by(run.session, wanted.modes) if wanted.subgraphs else None
            feed = run.live.join(wanted.modes, room, below)
        self._running.add(run)
        run.task = asyncio.create_task(self._drive(run, stack))
        await run.begun()
        return run, feed

    async def _drive(self, run: LocalRun, stack: AsyncExitStack) -> None:
        try:
            await run.drive()
        finally:
            self._running.discard(run)
            if run.run_id:
                self._ended[run.run_id] = run.error
                while len(self._ended) > REMEMBERED:
                    self._ended.popitem(last=False)
            await stack.aclose()

    def under_way(self) -> list[LocalRun]:
        return [*self._running]

    def after(self, run: LocalRun, then: Callable[[], Awaitable[Any]]) -> None:
        """Do that once the run has ended."""

        async def wait() -> None:
            await run.done.wait()
            try:
                await then()
            except Exception as error:
                log.warning("after run %s: %s", run.run_id, error)

        task = asyncio.create_task(wait())
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)

    # --- when the server begins and ends --------------------------------------------------------

    def recover(self, graphs: Sequence[tuple[int, inside.Graph]], offload: Callable[..., Awaitable[Any]]) -> None:
        """Take over, in the background, the threads whose process has died."""
        self._recovering = asyncio.create_task(self._recover(graphs, offload))

    async def _recover(
        self, graphs: Sequence[tuple[int, inside.Graph]], offload: Callable[..., Awaitable[Any]]
    ) -> None:
        gate, room = asyncio.Semaphore(BEGUN), asyncio.Semaphore(max(1, self._most // 2))
        async with asyncio.TaskGroup() as group:
            for place, graph in graphs:
                try:
                    found: list[Thread] = await offload(lambda graph=graph: list(inside.cut_off(graph)))
                except Exception as error:
                    log.warning("threads to recover cannot be looked for: %s", error)
                    continue
                for thread in found:
                    await room.acquire()
                    group.create_task(self._take_over(place, graph, thread.thread_id, gate, room))

    async def _take_over(
        self, place: int, graph: inside.Graph, thread_id: str, gate: asyncio.Semaphore, room: asyncio.Semaphore
    ) -> None:
        wanted = Wanted(graph, place, thread_id, None, {"thread_id": thread_id}, (), recovers=True)
        try:
            async with gate:
                run, _ = await self.begin(wanted)
            if run.run_id:
                log.info("thread %r is taken over by run %s", thread_id, run.run_id)
            await run.done.wait()
        except Exception as error:
            log.warning("thread %r cannot be taken over: %s", thread_id, error)
        finally:
            room.release()

    def stop_soon(self) -> None:
        """All runs end after the step at hand."""
        if self._recovering is not None:
            self._recovering.cancel()
        for run in self._running:
            run.stop()

    async def stop(self, grace: float) -> None:
        """They have ended: after the step at hand, or when the grace is over. Their threads can go on at once."""
        if self._recovering is not None:
            with suppress(asyncio.CancelledError):
                await self._recovering
        tasks = [run.task for run in self._running if run.task is not None]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=grace)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)
        if self._chores:
            await asyncio.wait(self._chores)
