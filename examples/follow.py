"""One process runs a graph, another follows it: the log is the only thing between them.

    python examples/follow.py              starts a runner, and follows it from here
    python examples/follow.py run ID       only the runner; kill it, start it again, and it goes on
    python examples/follow.py follow ID    only a follower; start several, late ones see everything from the beginning

The follower is a `Log`: it imports nothing of the graph. Both name the same database, here durable_graph.db or
$DURABLE_GRAPH_URL; with Postgres they may sit on different machines.
"""

from __future__ import annotations

import subprocess
import sys
import time
import uuid
from typing import TypedDict

from durable_graph import END, START, Log, StateGraph


class Journey(TypedDict):
    station: int


def travel(state: Journey) -> Journey:
    time.sleep(0.2)
    return {"station": state["station"] + 1}


def onward(state: Journey) -> str:
    return "travel" if state["station"] < 10 else END


builder = StateGraph(Journey).add_node(travel).add_edge(START, "travel").add_conditional_edges("travel", onward)


def run(thread_id: str) -> None:
    thread = {"thread_id": thread_id}
    with builder.compile(name="follow") as graph:
        state = graph.get_state(thread)
        graph.invoke(None if state.next else {"station": 0}, thread)


def follow(thread_id: str) -> None:
    with Log() as log:
        wait_for(log, thread_id)
        for event in log.follow({"thread_id": thread_id}, stream_mode="events", timeout=10):
            print(f"step {event.step}: {event.node or event.kind} -> {event.values}", flush=True)


def wait_for(log: Log, thread_id: str) -> None:
    """Until the runner has begun."""
    for _ in range(100):
        if log.get_state({"thread_id": thread_id}).created_at:
            return
        time.sleep(0.1)
    raise SystemExit(f"Nobody has started the thread {thread_id}.")


def main(role: str = "both", thread_id: str = "") -> None:
    if role == "run":
        run(thread_id)
    elif role == "follow":
        follow(thread_id)
    else:
        thread_id = f"journey-{uuid.uuid4().hex[:8]}"
        with subprocess.Popen([sys.executable, __file__, "run", thread_id]):
            follow(thread_id)


if __name__ == "__main__":
    main(*sys.argv[1:])
