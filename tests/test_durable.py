"""Law 1 with real databases and real processes: durable, then seen; and a process killed at any moment."""

from __future__ import annotations

import asyncio
import operator
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from sqlalchemy import create_engine, text

from durable_graph import END, START, Log, Send, StateGraph


class State(TypedDict, total=False):
    n: int
    log: Annotated[list[str], operator.add]


def busy(state: State, runtime: Any) -> dict[str, Any]:
    runtime.stream_writer({"doing": state["n"]})
    return {"n": state["n"] + 1, "log": ["busy"]}


def part(arg: dict[str, Any]) -> dict[str, Any]:
    return {"log": [f"part {arg['i']}"]}


def graph() -> StateGraph[State]:
    """A loop, then parallel nodes, then a map, then a join."""
    builder = StateGraph(State)
    builder.add_node("busy", busy).add_node("part", part).add_node("end", lambda state: {"log": ["end"]})
    for name in ("x", "y", "z"):
        builder.add_node(name, lambda state, name=name: {"log": [name]})
    builder.add_edge(START, "busy")
    builder.add_conditional_edges("busy", lambda state: "busy" if state["n"] < 3 else ["x", "y", "z"])
    builder.add_node("spread", lambda state: None)
    builder.add_edge(["x", "y", "z"], "spread")
    builder.add_conditional_edges("spread", lambda state: [Send("part", {"i": i}) for i in range(4)], ["part"])
    return builder.add_edge("part", "end").add_edge("end", END)


class Witness:
    """A second connection to the database, as another program would have it."""

    def __init__(self, url: str) -> None:
        self.engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
        self.connection = self.engine.connect().execution_options(isolation_level="AUTOCOMMIT")

    def newest(self, thread_id: str) -> int:
        query = text("SELECT max(step) FROM checkpoints WHERE thread_id = :thread_id")
        found = self.connection.execute(query, {"thread_id": thread_id}).scalar()
        return -1 if found is None else int(found)

    def done(self, thread_id: str) -> set[str]:
        query = text("SELECT task FROM checkpoints WHERE thread_id = :thread_id AND kind = 'task'")
        return {str(task) for (task,) in self.connection.execute(query, {"thread_id": thread_id})}

    def close(self) -> None:
        self.connection.close()
        self.engine.dispose()


@pytest.fixture
def witness(database_url: str) -> Iterator[Witness]:
    found = Witness(database_url)
    yield found
    found.close()


MODES = ["updates", "values", "tasks", "checkpoints", "debug", "events", ["updates", "custom", "values"]]


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("way", ["sync", "async"])
def test_the_row_is_there_when_its_event_is(database_url: str, witness: Witness, mode: Any, way: str) -> None:
    config = {"thread_id": f"{mode}-{way}"}
    with graph().compile(database_url) as compiled:
        seen: list[tuple[Any, int]] = []
        if way == "sync":
            for chunk in compiled.stream({"n": 0}, config, stream_mode=mode):
                seen.append((chunk, witness.newest(config["thread_id"])))
        else:

            async def consume() -> None:
                async for chunk in compiled.astream({"n": 0}, config, stream_mode=mode):
                    seen.append((chunk, witness.newest(config["thread_id"])))

            asyncio.run(consume())
        required = required_steps(compiled, config, mode)
    assert [chunk for chunk, _ in seen] == [chunk for chunk, _ in required]
    for (chunk, newest), (_, step) in zip(seen, required, strict=True):
        assert newest >= step, f"{chunk} was shown before step {step} was durable"
    assert any(newest == step for (_, newest), (_, step) in zip(seen, required, strict=True)), "proves nothing"


def required_steps(compiled: Any, config: dict[str, str], mode: Any) -> list[tuple[Any, int]]:
    """Every chunk with the step whose row it tells. `events` closes the chunks of each row."""
    modes = [mode] if isinstance(mode, str) else mode
    required: list[tuple[Any, int]] = []
    open_chunks: list[Any] = []
    for its_mode, chunk in compiled.replay(config, stream_mode=[*modes, *({"events"} - {*modes})]):
        if its_mode in modes:
            open_chunks.append(chunk if isinstance(mode, str) else (its_mode, chunk))
        if its_mode == "events":
            required += [(it, -1 if is_promise(it) else chunk.step) for it in open_chunks]
            open_chunks = []
    assert not open_chunks
    return required


def is_promise(chunk: Any) -> bool:
    """A task that begins and a custom event have no row yet."""
    if isinstance(chunk, tuple):
        return chunk[0] == "custom"
    return isinstance(chunk, dict) and ("input" in chunk or chunk.get("type") == "task")


# --- kill -9 ----------------------------------------------------------------------------------

CHILD = """
import os, sys, time
from tests.test_durable import graph
url, thread_id, journal = sys.argv[1], sys.argv[2], os.open(sys.argv[3], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def spying(node):
    def call(arg, runtime):
        os.write(journal, f"{runtime.task}\\n".encode())
        time.sleep(0.002)
        return node.call(arg, runtime) if "runtime" in node.wants else node.call(arg)
    return call

builder = graph()
for name, node in list(builder.nodes.items()):
    del builder.nodes[name]
    builder.add_node(name, spying(node))
with builder.compile(url) as compiled:
    config = {"thread_id": thread_id}
    state = compiled.get_state(config)
    if state.next or state.created_at is None:
        for event in compiled.stream(None if state.next else {"n": 0}, config):
            print(event, flush=True)
"""


@pytest.mark.parametrize("rounds", [3, pytest.param(60, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
def test_kill_9_at_random_moments(database_url: str, witness: Witness, tmp_path: Path, rounds: int) -> None:
    """Each round kills at least one process on its way, and goes on in new ones to the end."""
    with graph().compile(database_url) as compiled:
        expected = compiled.invoke({"n": 0}, {"thread_id": "whole"})
    rng = random.Random(rounds)
    killed = 0
    for number in range(rounds):
        thread_id = f"killed-{number}"
        killed += one_life(database_url, thread_id, witness, tmp_path / thread_id, rng)
        log = Log(database_url)
        assert log.get_state({"thread_id": thread_id}).values == expected
        assert log.verify({"thread_id": thread_id}).ok
        log.close()
    assert killed >= rounds // 2, "hardly anything was killed: this has shown nothing"


def one_life(url: str, thread_id: str, witness: Witness, journal: Path, rng: random.Random) -> int:
    """Run the thread to its end, killing on the way. How often a process was killed."""
    promises: list[Counter[str]] = []  # after each death: how often the recorded tasks had been called
    while True:
        command = [sys.executable, "-c", CHILD, url, thread_id, str(journal)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        if len(promises) < 3:
            for _ in range(rng.randint(0, 6)):
                child.stdout.readline()
            time.sleep(rng.random() * 0.01)  # no timing: a kill at any moment must do
            child.send_signal(signal.SIGKILL)
        child.stdout.read()
        child.stdout.close()
        if child.wait() == 0:
            break
        assert child.returncode == -signal.SIGKILL
        calls = called(journal)
        promises.append(Counter({task: calls[task] for task in witness.done(thread_id)}))
    calls = called(journal)
    for promise in promises:
        assert promise == Counter({task: calls[task] for task in promise}), "a recorded task has run again"
    return len(promises)


def called(journal: Path) -> Counter[str]:
    return Counter(journal.read_text().split()) if journal.exists() else Counter()
