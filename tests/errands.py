"""What `test_executors.py` has called in other processes: functions of a module, light to import.

What was called is noted in files of a folder that comes with the input, as memory is not shared.
"""

from __future__ import annotations

import operator
import os
import signal
import threading
import time
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypedDict

from durable_graph import (
    START,
    Command,
    MessagesState,
    Runtime,
    Send,
    StateGraph,
    get_config,
    get_runtime,
    get_stream_writer,
    interrupt,
    push_message,
    task,
)

PATIENCE = 20.0  # seconds until a wait counts as failed


class State(TypedDict, total=False):
    folder: str
    n: int
    log: Annotated[list[Any], operator.add]


def note(folder: str | Path, what: str) -> None:
    with Path(folder, "calls").open("a") as file:  # one short write: whole, whoever writes beside us
        file.write(f"{what}\n")


def notes(folder: str | Path) -> list[str]:
    file = Path(folder, "calls")
    return file.read_text().split() if file.exists() else []


def until(folder: str | Path, name: str) -> None:
    """Wait for a file, which another process makes."""
    deadline = time.monotonic() + PATIENCE
    while not Path(folder, name).exists():
        assert time.monotonic() < deadline, name
        time.sleep(0.002)


def where() -> tuple[int, str]:
    return os.getpid(), threading.current_thread().name


def named(state: State, runtime: Runtime) -> State:
    return {"log": [[runtime.node, *where()]]}


# --- a fan-out --------------------------------------------------------------------------------


def plan(state: State) -> list[Send]:
    return [Send("work", {"folder": state["folder"], "i": i}) for i in range(state["n"])]


def work(arg: dict[str, Any], runtime: Runtime) -> State:
    note(arg["folder"], f"work-{arg['i']}-{runtime.attempt}")
    return {"log": [arg["i"]]}


def more(state: State) -> list[Send]:
    return [Send("again", {"folder": state["folder"], "i": i}) for i in state["log"]]


def again(arg: dict[str, Any]) -> State:
    note(arg["folder"], f"again-{arg['i']}")
    return {"log": [100 + arg["i"]]}


def total(state: State) -> State:
    return {"n": sum(state["log"])}


def fan(work: Any = work, **settings: Any) -> StateGraph[State]:
    """`work` for each number below n."""
    builder = StateGraph(State).add_node("work", work, **settings)
    return builder.add_conditional_edges(START, plan, ["work"])


def nested() -> StateGraph[State]:
    """The same, then `again` for each of them, then `total`."""
    builder = fan().add_node("again", again).add_node("total", total).add_node("between", between)
    builder.add_edge("work", "between").add_conditional_edges("between", more, ["again"])
    return builder.add_edge("again", "total")


def between(state: State) -> None:
    note(state["folder"], "between")


def one(node: Any, schema: Any = State, **settings: Any) -> StateGraph[Any]:
    """A graph of one node."""
    return StateGraph(schema).add_node("node", node, **settings).add_edge(START, "node")


# --- what nodes do ----------------------------------------------------------------------------


def tell(state: State, runtime: Runtime, config: Any) -> State:
    """What a node can know."""
    assert get_runtime() is runtime
    assert get_config() == config == runtime.config
    runtime.heartbeat()
    facts = {
        "thread": runtime.thread_id,
        "node": runtime.node,
        "step": runtime.step,
        "task": runtime.task,
        "attempt": runtime.attempt,
        "key": runtime.idempotency_key,
        "context": runtime.context,
        "configurable": {k: v for k, v in config["configurable"].items() if isinstance(v, str | int)},
        "metadata": {k: v for k, v in config["metadata"].items() if isinstance(v, str | int)},
        "process": os.getpid(),
    }
    return {"log": [facts]}


def touches_context(state: State, runtime: Runtime) -> State:
    return {"n": runtime.context.lock}


def touches_config(state: State, config: Any) -> State:
    return {"n": len(config["configurable"]["lock"])}


def asks(state: State, runtime: Runtime) -> State:
    note(state["folder"], "asks")
    first = interrupt("first?")
    runtime.sleep(3600)
    signal = runtime.wait_for("go")
    return {"log": [first, interrupt("last?"), signal]}


def says(state: State, runtime: Runtime) -> State:
    data = [1]
    runtime.stream_writer(data)
    data.append(2)
    get_stream_writer()(data)
    return {"log": ["said"]}


def says_and_fails(state: State, runtime: Runtime) -> NoReturn:
    runtime.stream_writer("before")
    raise ValueError("after")


def says_object(state: State, runtime: Runtime) -> None:
    runtime.stream_writer(object())


def pushes(state: MessagesState) -> None:
    push_message({"role": "assistant", "content": "It ", "id": "a"}, state_key=None)
    push_message({"role": "assistant", "content": "It rains.", "id": "a"})


def connects(state: State, runtime: Runtime) -> State:
    runtime.connection.exec_driver_sql("INSERT INTO ledger VALUES (1)")
    return {"n": 1}


@task
def double(n: int) -> int:
    return 2 * n


def calls_task(state: State) -> State:
    return {"n": double(21).result()}


below = StateGraph(State).add_node("inner", lambda state: {"n": 42}).add_edge(START, "inner").compile()


def calls_graph(state: State) -> State:
    return {"n": below.invoke({"n": 1})["n"]}


def goes_to_end(state: State) -> Command[Any]:
    return Command(update={"n": 5}, goto="__end__")


class Odd(Exception):
    """Cannot be made again from its args."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def fails(state: State) -> NoReturn:
    note(state["folder"], "fails")
    raise KeyError("nothing there")


def fails_oddly(state: State) -> NoReturn:
    raise Odd(1, 2)


def exits(state: State) -> NoReturn:
    raise SystemExit(3)


def fails_once(state: State, runtime: Runtime) -> State:
    note(state["folder"], f"attempt-{runtime.attempt}")
    if runtime.attempt == 1:
        raise ConnectionError("not yet")
    return {"n": runtime.attempt}


def returns_function(state: State) -> State:
    return {"log": [1, {"a": lambda: 1}]}


# --- workers that die -------------------------------------------------------------------------


def dies_once(arg: dict[str, Any], runtime: Runtime) -> State:
    """Number 3 ends its process when some have finished, unless that has been done."""
    note(arg["folder"], f"work-{arg['i']}-{runtime.attempt}")
    if arg["i"] == 3 and not Path(arg["folder"], "died").exists():
        until(arg["folder"], "seen")
        Path(arg["folder"], "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return {"log": [arg["i"]]}


def always_dies(arg: dict[str, Any], runtime: Runtime) -> State:
    """Number 3 ends its process each time, as long as nobody mends it."""
    if arg["i"] == 3 and not Path(arg["folder"], "mended").exists():
        note(arg["folder"], f"dies-{runtime.attempt}")
        os.kill(os.getpid(), signal.SIGKILL)
    note(arg["folder"], f"work-{arg['i']}")
    return {"log": [arg["i"]]}


# --- runs that are broken off -----------------------------------------------------------------


def waits(arg: dict[str, Any], runtime: Runtime) -> State:
    """The first that is called ends at once, the others when they may."""
    note(arg["folder"], f"work-{arg['i']}-{runtime.attempt}")
    try:
        Path(arg["folder"], "first").touch(exist_ok=False)
    except FileExistsError:
        until(arg["folder"], "go")
    return {"log": [arg["i"]]}


def waits_from_three(arg: dict[str, Any], runtime: Runtime) -> State:
    note(arg["folder"], f"work-{arg['i']}-{runtime.attempt}")
    if arg["i"] >= 3:
        until(arg["folder"], "go")
    return {"log": [arg["i"]]}


def first_fails(arg: dict[str, Any]) -> State:
    note(arg["folder"], f"work-{arg['i']}")
    if arg["i"] == 0 and not Path(arg["folder"], "mended").exists():
        raise ValueError("number 0 failed")
    return {"log": [arg["i"]]}
