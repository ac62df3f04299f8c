"""Where a subgraph's run is: the namespace that consumers see, and the thread that it is.

A graph that is called from a node runs as a thread of its own, named after the thread above it:

    namespace             thread                a graph that
    "node:task"           <above>/<task>/0      begins anew with each task; the first that the task calls
    "node:task", "1"      <above>/<task>/1      the second
    "node"                <above>/<node>        goes on from run to run (checkpointer=True)
    "node", "1"           <above>/<node>/1      the second that the node calls

`checkpoint_ns` is all parts on the way down, joined with "|", as in LangGraph. The two say the same, so each can be
told from the other without looking anything up.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

RESERVED = "|:"  # not in a node's name


class Place(NamedTuple):
    """A graph called from a node."""

    node: str
    task: str | None  # None: it goes on from run to run
    number: int = 0  # of the call, among those of its task

    @property
    def kept(self) -> bool:
        return self.task is None

    @property
    def key(self) -> str:
        """Its name among the subgraphs of its task."""
        return f"{self.node}/{self.number}" if self.task is None else str(self.number)

    @property
    def parts(self) -> tuple[str, ...]:
        first = self.node if self.task is None else f"{self.node}:{self.task}"
        return (first, str(self.number)) if self.number else (first,)

    def thread(self, above: str) -> str:
        if self.task is not None:
            return f"{above}/{self.task}/{self.number}"
        return f"{above}/{self.node}/{self.number}" if self.number else f"{above}/{self.node}"


def place_of(above: str, node: str, task: str, thread_id: str) -> Place:
    """The place of the subgraph's thread `thread_id`, which was called by this task."""
    rest = thread_id.removeprefix(f"{above}/")
    if rest.startswith(f"{task}/"):
        scope, _, number = rest.rpartition("/")  # an error handler's is longer than its task's id
        return Place(node, scope, _number(number))
    return Place(node, None, _number(rest.removeprefix(f"{node}/")))


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else 0


def places(parts: Iterable[str]) -> tuple[Place, ...]:
    """The way down that a namespace stands for."""
    found: list[Place] = []
    for part in parts:
        if part.isascii() and part.isdigit() and found:
            found[-1] = found[-1]._replace(number=int(part))
        else:
            node, colon, task = part.partition(":")
            found.append(Place(node, task if colon else None))
    return tuple(found)


def way_down(parts: Sequence[str]) -> list[tuple[str, ...]]:
    """The namespaces from the thread itself, (), down to this one."""
    ends = [
        end
        for end in range(1, len(parts) + 1)
        if end == len(parts) or len(places(parts[: end + 1])) > len(places(parts[:end]))
    ]
    return [(), *(tuple(parts[:end]) for end in ends)]


def thread_of(root: str, parts: Iterable[str]) -> str:
    """The thread of the subgraph's run at this namespace below the thread `root`."""
    for place in places(parts):
        root = place.thread(root)
    return root


def above_of(root: str, parts: Iterable[str]) -> str:
    """The thread of the graph above the subgraph at this namespace."""
    for place in places(parts)[:-1]:
        root = place.thread(root)
    return root
