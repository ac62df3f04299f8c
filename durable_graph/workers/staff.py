"""Who takes turns: threads for graphs of plain functions, the event loop for those with async nodes."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from durable_graph.offload import settled
from durable_graph.workers.plan import Plan, Queue, Turn
from durable_graph.workers.turn import atake_turn, take_turn

log = logging.getLogger("durable_graph.workers")


class Staff:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._pool = ThreadPoolExecutor(sum(queue.limit for queue in plan.queues), "durable_graph_worker")

    async def take_turn(self, queue: Queue, thread_id: str) -> Turn:
        """See `turn.take_turn`. Who is cancelled meanwhile learns of it when the turn has ended."""
        given = (queue.graph, queue.name, thread_id, self._plan.context, self._plan.stopping.is_set)
        if queue.graph.is_async:
            turn = await atake_turn(*given)
        else:
            turn = await settled(asyncio.get_running_loop().run_in_executor(self._pool, partial(take_turn, *given)))
        self._tell(queue.graph.name, thread_id, turn)
        return turn

    def _tell(self, graph: str, thread_id: str, turn: Turn) -> None:
        """The turn has been taken, whatever becomes of what is told of it."""
        try:
            self._plan.tell(graph, thread_id, turn)
        except Exception:
            log.exception("nobody was told of thread %r: tell has raised", thread_id)

    def close(self) -> None:
        self._pool.shutdown()
