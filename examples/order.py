"""An order that stops half way and goes on in a second stream; then the whole of it, told by the log.

    python examples/order.py

What a consumer has seen is committed: it may leave the loop (here it just breaks; a crash would do) and nothing that
was done is done again. The card is charged once. Try to raise an error in `ship`, run it, correct it, and go on with
`durable-graph resume examples/order.py:order --thread THREAD`.
"""

from __future__ import annotations

import operator
import sys
import uuid
from typing import Annotated, Any, TypedDict

from durable_graph import END, START, Runtime, StateGraph


class Order(TypedDict, total=False):
    items: dict[str, int]  # pieces
    total: float
    payment: str
    parcel: str
    journal: Annotated[list[str], operator.add]


PRICES = {"tea": 4.5, "cup": 12.0}


def price(state: Order) -> Order:
    return {"total": sum(PRICES[item] * pieces for item, pieces in state["items"].items()), "journal": ["priced"]}


def charge(state: Order, runtime: Runtime[Any]) -> Order:
    # A payment service would be given this key, which stays the same if a crash makes this node run a second time.
    return {"payment": f"paid {state['total']} with key {runtime.idempotency_key}", "journal": ["charged"]}


def pack(state: Order) -> Order:
    return {"parcel": ", ".join(f"{pieces} {item}" for item, pieces in state["items"].items()), "journal": ["packed"]}


def ship(state: Order) -> Order:
    return {"journal": ["shipped"]}


order = StateGraph(Order).add_sequence([price, charge, pack, ship]).add_edge(START, "price").add_edge("ship", END)


def main() -> int:
    thread = {"thread_id": f"order-{uuid.uuid4().hex[:8]}"}
    with order.compile(name="order") as graph:
        print(f"First stream of {thread['thread_id']}:")
        for event in graph.stream({"items": {"tea": 2, "cup": 1}}, thread):
            print("   ", event)
            if "charge" in event:
                break
        print(f"Left after the charge. Next would be: {', '.join(graph.get_state(thread).next)}")

        print("Second stream:")
        for event in graph.stream(None, thread):
            print("   ", event)

        print("All of it, from the log:")
        for event in graph.replay(thread, stream_mode="events"):
            print(f"    step {event.step}  {event.created_at}  {event.kind:6}  {event.node or ''}")

        report = graph.verify(thread)
        print(f"Intact: {report.ok}, {report.rows} rows. Journal: {graph.get_state(thread).values['journal']}")
        return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
