"""What runs in processes of its own: `python -P programs.py JOB ARGUMENTS`, which prints one line of JSON.

Nothing is imported before it is needed, as what an import costs is part of what is measured.
"""

from __future__ import annotations

import gc
import json
import operator
import os
import sqlite3
import sys
import time
from collections.abc import Callable
from typing import Annotated, Any, TypedDict

CONFIG: Any = {"configurable": {"thread_id": "a"}, "recursion_limit": 1_000_000}


def tell(**figures: float) -> None:
    sys.stdout.write(json.dumps(figures) + "\n")
    sys.stdout.flush()


class Counter(TypedDict):
    n: int


class Chat(TypedDict):
    messages: Annotated[list, operator.add]


def count(state: Counter) -> dict[str, int]:
    return {"n": state["n"] + 1}


def speak(state: Chat) -> dict[str, Any]:
    return {"messages": [{"by": "user", "text": str(len(state["messages"]))}]}


def drawn(state: type, node: Callable[[Any], Any], steps: int, who: str) -> Any:
    """A graph of one node that runs until `n` is `steps`; without steps it runs once."""
    if who == "ours":
        from durable_graph import END, START, StateGraph
    else:
        from langgraph.graph import END, START, StateGraph
    builder: Any = StateGraph(state)
    builder.add_node("node", node).add_edge(START, "node")
    if steps:
        builder.add_conditional_edges("node", lambda state: "node" if state["n"] < steps else END)
    return builder


def imported(who: str) -> None:
    """What `compiled` would import, beforehand."""
    if who == "ours":
        import durable_graph.store.sql  # noqa: F401
    else:
        import langgraph.checkpoint.sqlite  # noqa: F401


def compiled(builder: Any, file: str, who: str, synchronous: str = "FULL") -> Any:
    if who == "ours":
        return builder.compile(f"sqlite:///{file}?synchronous={synchronous}")
    from langgraph.checkpoint.sqlite import SqliteSaver

    connection = sqlite3.connect(file, check_same_thread=False)
    connection.execute(f"PRAGMA synchronous={synchronous}")
    return builder.compile(checkpointer=SqliteSaver(connection))


def options(who: str) -> dict[str, str]:
    return {} if who == "ours" else {"durability": "sync"}


# --- to start -----------------------------------------------------------------------------------


def importing(who: str) -> None:
    """The imports at the top of a program that runs a graph on SQLite, in seconds."""
    begun = time.perf_counter()
    if who == "ours":
        from durable_graph import END, START, StateGraph  # noqa: F401
    elif who == "langgraph":
        import langgraph.checkpoint.sqlite
        import langgraph.graph  # noqa: F401
    else:
        import burr.core
        import burr.core.persistence  # noqa: F401
    tell(seconds=time.perf_counter() - begun)


def first_event(who: str, file: str) -> None:
    """The first event of a new thread in a new file. Whoever started the process measures the time."""
    if who == "burr":
        _first_of_burr(file)
        return
    graph = compiled(drawn(Counter, count, 2, who), file, who)
    events = graph.stream({"n": 0}, CONFIG, **options(who))
    tell(n=next(events)["node"]["n"])
    events.close()


def _first_of_burr(file: str) -> None:
    from burr.core import ApplicationBuilder, State, action, default
    from burr.core.persistence import SQLitePersister

    @action(reads=["n"], writes=["n"])
    def node(state: State) -> State:
        return state.update(n=state["n"] + 1)

    persister = SQLitePersister(file)
    persister.initialize()
    builder = ApplicationBuilder().with_actions(node=node).with_transitions(("node", "node", default))
    builder = builder.with_entrypoint("node").with_state(n=0).with_state_persister(persister)
    steps = builder.with_identifiers(app_id="a").build().iterate(halt_after=[])
    tell(n=next(steps)[2]["n"])


# --- to resume ----------------------------------------------------------------------------------


def load(who: str, file: str) -> None:
    """The state of a thread; apart from it, what it takes to open the database."""
    imported(who)
    graph = drawn(Chat, speak, 0, who)
    begun = time.perf_counter()
    graph = compiled(graph, file, who)
    graph.get_state({"configurable": {"thread_id": "not there"}})
    opened = time.perf_counter()
    values = graph.get_state(CONFIG).values
    tell(seconds=time.perf_counter() - opened, opening=opened - begun, messages=len(values["messages"]))


def load_counter(file: str) -> None:
    """The state of a thread that counted."""
    graph = compiled(drawn(Counter, count, 0, "ours"), file, "ours")
    graph.get_state({"configurable": {"thread_id": "not there"}})
    begun = time.perf_counter()
    values = graph.get_state(CONFIG).values
    tell(seconds=time.perf_counter() - begun, n=values["n"])


def load_blob(parse: str, file: str) -> None:
    """The same from one blob."""
    if parse == "codec":
        from durable_graph.codec import Codec

        decode: Callable[[bytes], Any] = Codec([]).decode
    else:
        from orjson import loads as decode
    connection = sqlite3.connect(file)
    connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    begun = time.perf_counter()
    (blob,) = connection.execute("SELECT state FROM blob").fetchone()
    values = decode(blob)
    tell(seconds=time.perf_counter() - begun, messages=len(values["messages"]))


def go_on(who: str, file: str) -> None:
    """The first event of a new run on a thread, with opening the database."""
    imported(who)
    graph = drawn(Chat, speak, 0, who)
    begun = time.perf_counter()
    events = compiled(graph, file, who).stream({"messages": []}, CONFIG, **options(who))
    (message,) = next(events)["node"]["messages"]
    tell(seconds=time.perf_counter() - begun, messages=int(message["text"]))
    events.close()


# --- to go on for long --------------------------------------------------------------------------


def memory(who: str, file: str, steps: int) -> None:
    """Megabytes by which the process grows from a tenth of the steps to their end."""
    graph = compiled(drawn(Counter, count, steps, who), file, who, "NORMAL")
    for number, _ in enumerate(graph.stream({"n": 0}, CONFIG, **options(who)), start=1):
        if number == steps // 10:
            before = megabytes()
    tell(megabytes=megabytes() - before, n=graph.get_state(CONFIG).values["n"])


def megabytes() -> float:
    """Of the process in memory. Only Linux tells the present ones; elsewhere it is the most so far."""
    gc.collect()
    if not sys.platform.startswith("linux"):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1_000_000
    with open("/proc/self/statm") as file:  # noqa: PTH123 - the shortest way
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 1_000_000


JOBS: dict[str, Callable[..., None]] = {
    job.__name__: job for job in (importing, first_event, load, load_counter, load_blob, go_on, memory)
}

if __name__ == "__main__":
    job, *arguments = sys.argv[1:]
    JOBS[job](*(int(argument) if argument.isdecimal() else argument for argument in arguments))
