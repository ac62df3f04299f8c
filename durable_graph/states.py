"""Where a thread stands, now or at any of its steps: get_state, get_state_history, also of subgraphs' runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from typing import Any

from durable_graph.core.address import Place, thread_of, way_down
from durable_graph.core.barriers import barriers, later
from durable_graph.core.config import CallConfig, read_config
from durable_graph.core.history import check_step, load
from durable_graph.core.model import StateSnapshot, Task
from durable_graph.core.position import Child, Later, Position, Stand
from durable_graph.core.projection import Address, empty_snapshot, snapshot_of
from durable_graph.core.standing import Standing, standing_at
from durable_graph.offload import aiterate, in_thread
from durable_graph.opening import Config, Opened


class States(Opened):
    """Adds what threads stand at."""

    def get_state(self, config: Config, *, subgraphs: bool = False) -> StateSnapshot:
        """The thread's state: at the last barrier, with what is still to run in `next` and what has finished in
        `tasks`. At a barrier of the past, `tasks` tell what has become of them since.

        config: a `checkpoint_ns` names the run of a subgraph below the thread, as `tasks` and streams give it.
        subgraphs: each task's `state` is the snapshot of the subgraph that it runs; else the config of it.
        An empty snapshot if the thread does not exist. Raises CheckpointNotFoundError for a step it does not have.
        """
        given = self._named(config)
        if given.ns:
            standing = standing_at(self._stored(), self._codec, str(given.thread_id), given.ns)
        else:
            standing = self._thread_at(given)
        if standing is None:
            return empty_snapshot(config)
        return self._snapshot(given, standing, given.step, subgraphs)

    async def aget_state(self, config: Config, *, subgraphs: bool = False) -> StateSnapshot:
        """`get_state` for asyncio."""
        return await in_thread(lambda: self.get_state(config, subgraphs=subgraphs))

    def _thread_at(self, given: CallConfig) -> Standing | None:
        position = load(self._stored(), self._codec, str(given.thread_id), given.step)
        return None if position is None else Standing(position.thread_id, None, {}, "", position)

    def _snapshot(self, given: CallConfig, standing: Standing, step: int | None, subgraphs: bool) -> StateSnapshot:
        store, codec = self._stored(), self._codec
        if step is None:
            return self._shown(given, standing, standing.position, None, subgraphs, True)
        position = load(store, codec, standing.thread_id, step) if given.ns else standing.position
        assert position is not None
        if standing.step is not None:  # its thread will begin as a fork
            return self._shown(given, standing, position.forked(), None, subgraphs)
        if not position.planned_here:
            return self._shown(given, standing, position, None, subgraphs)
        then = position.frozen()
        return self._shown(given, standing, then, later(store, codec, position), subgraphs)

    def _shown(
        self,
        given: CallConfig,
        standing: Standing,
        position: Position | Stand,
        since: Later | None,
        subgraphs: bool,
        now: bool = False,  # not a step of the past, and read for this alone
    ) -> StateSnapshot:
        root, ns = str(given.thread_id), given.ns
        address = Address(standing.thread_id, root, ns, _parents(root, ns, standing, position))
        known = (position if since is None else since).children
        states = [
            self._state_below(given, position, task, known.get(task.id, {}), now, subgraphs) for task in position.tasks
        ]
        return snapshot_of(self._view_of(ns), position, address, since, states=states, own=now)

    def _state_below(
        self,
        given: CallConfig,
        position: Position | Stand,
        task: Task,
        known: Mapping[str, Child],
        now: bool,
        subgraphs: bool,
    ) -> Any:
        """Of the subgraph that a task has called last: its snapshot, or the config of it."""
        place = self._place_below(given, position, task, known, subgraphs)
        if place is None:
            return None
        below = replace(given, ns=(*given.ns, *place.parts), step=None)
        config = {"configurable": {"thread_id": given.thread_id, "checkpoint_ns": "|".join(below.ns)}}
        if not subgraphs:
            return config
        standing = standing_at(self._stored(), self._codec, str(given.thread_id), below.ns)
        if standing is None:
            return empty_snapshot(config)
        then = known.get(place.key)
        step = then[1] if then is not None and not now and then[0] == standing.thread_id else None
        return self._snapshot(below, standing, step, True)

    def _place_below(
        self, given: CallConfig, position: Position | Stand, task: Task, known: Mapping[str, Child], look: bool
    ) -> Place | None:
        """Where a task's subgraph is: as its rows tell, as the drawing says, or where a run that broke off left it."""
        if known:
            key = [*known][-1]
            number = int(key.rpartition("/")[2])
            return Place(task.node, None if "/" in key else task.id, number)
        drawn = self._drawn_below(given.ns, task)
        if drawn is not None or not look or task.id in position.done:
            return drawn
        place, found = Place(task.node, task.id), None
        while self._stored().thread(place.thread(position.thread_id)) is not None:
            place, found = place._replace(number=place.number + 1), place
        return found

    def _drawn_below(self, ns: tuple[str, ...], task: Task) -> Place | None:
        """Where the subgraph is that this node is, as far as the drawing is known here."""
        return None

    def get_state_history(
        self,
        config: Config,
        *,
        filter: Mapping[str, Any] | None = None,
        before: Config | None = None,
        limit: int | None = None,
    ) -> Iterator[StateSnapshot]:
        """The thread's barriers, newest first.

        filter: only those whose metadata has all of these. before: only those older than the step this
            config names. limit: so many at most.
        """
        given = self._named(config)
        bound = read_config(before).step if before is not None else None
        if bound is None and given.step is not None:
            bound = given.step + 1
        return self._history(given, filter or {}, bound, limit, given.step if before is None else bound)

    def aget_state_history(
        self,
        config: Config,
        *,
        filter: Mapping[str, Any] | None = None,
        before: Config | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[StateSnapshot]:
        """`get_state_history` for asyncio."""
        return aiterate(self.get_state_history(config, filter=filter, before=before, limit=limit))

    def _history(
        self,
        given: CallConfig,
        wanted: Mapping[str, Any],
        before: int | None,
        limit: int | None,
        named: int | None,  # the step that the caller's config says
    ) -> Iterator[StateSnapshot]:
        count = 0
        if given.ns:
            standing = standing_at(self._stored(), self._codec, str(given.thread_id), given.ns)
        else:
            standing = Standing(str(given.thread_id), None, {}, "", Position(str(given.thread_id)))
        if standing is None:
            return
        if before is None and standing.step is not None:
            before = standing.step + 1
        if named is not None:
            check_step(self._stored(), standing.thread_id, named)
        if limit is not None and limit <= 0:
            return
        for position, since in barriers(self._stored(), self._codec, standing.thread_id, before=before, few=limit):
            snapshot = self._shown(given, standing, position, since, False)
            if not wanted or wanted.items() <= (snapshot.metadata or {}).items():
                count += 1
                yield snapshot
                if count == limit:
                    return


def _parents(root: str, ns: tuple[str, ...], standing: Standing, position: Position | Stand) -> dict[str, str]:
    if not ns:
        return {}
    above = way_down(ns)[-2]
    task = (standing.task or str(position.run.get("task", ""))).removeprefix(f"{thread_of(root, above)}/")
    return {"|".join(above): task.partition(".")[0]}
