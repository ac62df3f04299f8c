"""The tasks of a superstep on the workers of a Dask cluster: which numbers up to 100,000 are prime?

    python examples/dask_cluster.py            # pip install "durable-graph[dask]"

It starts a cluster of two processes here; give `Client` the address of a scheduler and they are on other machines.
Stop it in the midst and start it again: what has been counted is not counted again.
"""

from __future__ import annotations

import operator
from typing import Annotated, Any, TypedDict

from distributed import Client, LocalCluster

from durable_graph import START, Send, StateGraph


class Search(TypedDict, total=False):
    up_to: int
    found: Annotated[int, operator.add]


def plan(search: Search) -> list[Send]:
    size = search["up_to"] // 20
    return [Send("count", {"start": start, "stop": start + size}) for start in range(0, search["up_to"], size)]


def count(part: dict[str, Any]) -> Search:
    """Runs on a worker: all that is sent there is this function and its part."""
    numbers = range(max(part["start"], 2), part["stop"])
    return {"found": sum(all(n % d for d in range(2, int(n**0.5) + 1)) for n in numbers)}


def main() -> None:
    builder = StateGraph(Search).add_node("count", count)
    builder.add_conditional_edges(START, plan, ["count"])
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
        client.get_executor(pure=False) as executor,
    ):
        graph = builder.compile("sqlite:///primes.db", executor=executor)
        config = {"thread_id": "primes"}
        state = graph.get_state(config)
        if state.next or not state.values:
            for event in graph.stream(None if state.next else {"up_to": 100_000}, config):
                print(event)
        print(graph.get_state(config).values["found"], "prime numbers")
        graph.close()


if __name__ == "__main__":
    main()
