"""What became of the nodes of a graph, as its picture shows it: done, failed, waiting, running or next."""

from __future__ import annotations

from durable_graph import StateSnapshot, TimelineEntry

STATES = {"task": "done", "error": "failed", "interrupt": "waiting"}  # by a row's kind


class Ran:
    """One node."""

    state: str | None = None
    calls = 0


class Tally:
    """Counts rows, from the newest backwards: what comes first holds."""

    def __init__(self) -> None:
        self.nodes: dict[str, Ran] = {}
        self._open = True  # nothing was begun since: what failed or asked still does

    def add(self, entry: TimelineEntry) -> None:
        state = STATES.get(entry.kind)
        if state is None or entry.node is None:
            self._open = False
            return
        node = self.nodes.setdefault(entry.node, Ran())
        node.calls += 1
        if node.state is None and (state == "done" or self._open):
            node.state = state

    def stands_at(self, state: StateSnapshot, *, running: bool) -> None:
        """Then: what is still to run."""
        for name in state.next:
            node = self.nodes.setdefault(name, Ran())
            if node.state not in ("failed", "waiting"):
                node.state = "running" if running else "next"
