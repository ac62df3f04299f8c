"""Random kills over many threads in several processes on one database, for as long as you like.

    python -m tests.soak --minutes 5 [--url sqlite:///soak.db] [--processes 4] [--seed 1]

Each process begins threads, goes on with those of others and recovers what the dead have left, sync or under asyncio.
One after the other they are ended by SIGKILL, and others take their places. In the end every thread is brought to its
end and counted:

    lost       an event that was seen without its row; a thread without a step, a call or a payment that it should have
    doubled    a task that was called after its row was written; a task or a payment that is there twice
    forked     two rows that continue the same one; findings of `verify`

All of them have to be 0; else the exit code is 1. The database and the journal of what was called and seen stay where
they are then.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import operator
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypedDict

from sqlalchemy import text

from durable_graph import (
    START,
    EmptyInputError,
    RetryPolicy,
    Runtime,
    StateGraph,
    StoreError,
    ThreadBusyError,
    get_runtime,
    task,
)
from durable_graph.core.times import seconds
from durable_graph.store import migrate

ROUNDS = 3


class State(TypedDict, total=False):
    n: int
    log: Annotated[list[str], operator.add]


def drawn(journal: int) -> StateGraph[State]:
    """A loop over parallel nodes: one pays, one calls a task and one is a subgraph. Each call is a line in the
    journal."""

    def note(runtime: Runtime[Any]) -> None:
        line = {"thread": runtime.thread_id, "task": runtime.task, "at": time.time()}
        os.write(journal, (json.dumps(line) + "\n").encode())

    def node(name: str, **update: Any) -> Any:
        def call(state: State, runtime: Runtime[Any]) -> dict[str, Any]:
            note(runtime)
            return {"log": [name], **{key: value(state) for key, value in update.items()}}

        return call

    def pay(state: State, runtime: Runtime[Any]) -> dict[str, Any]:
        note(runtime)
        values = {"thread": runtime.thread_id, "what": f"round {state['n']}"}
        runtime.connection.execute(text("INSERT INTO payments VALUES (:thread, :what)"), values)
        return {"log": ["pay"]}

    @task
    def leaf(number: int) -> str:
        note(get_runtime())
        return f"leaf {number}"

    def calling(state: State, runtime: Runtime[Any]) -> dict[str, Any]:
        note(runtime)
        return {"log": [leaf(state["n"]).result()]}

    below = StateGraph(State).add_sequence([(name, node(name)) for name in "xy"]).add_edge(START, "x")
    builder = StateGraph(State).add_node("begin", node("begin", n=lambda state: state["n"] + 1))
    # on SQLite a payment keeps other writers waiting, for longer than they want to when a machine is busy
    builder.add_node("pay", pay, retry_policy=RetryPolicy(retry_on=StoreError, initial_interval=0.01))
    builder.add_node("calling", calling).add_node("below", below.compile()).add_node("end", node("end"))
    builder.add_edge(START, "begin")
    for name in ("pay", "calling", "below"):
        builder.add_edge("begin", name)
    builder.add_edge(["pay", "calling", "below"], "end")
    return builder.add_conditional_edges("end", lambda state: "begin" if state["n"] < ROUNDS else "__end__")


INPUT: Any = {"n": 0, "log": []}
TASKS = dict.fromkeys(["begin", "pay", "calling", "below", "end"], ROUNDS)  # of each thread


@dataclass
class Soak:
    url: str
    folder: Path
    processes: int = 4
    names: int = 30  # threads that are under way at the same time, about
    rng: random.Random = field(default_factory=random.Random)
    deaths: int = 0

    @property
    def journal(self) -> Path:
        return self.folder / "journal"

    def prepare(self) -> None:
        """The tables, ours and the user's. In a process of its own: nothing open may be carried into the others."""
        if not (child := os.fork()):
            with _exiting():
                migrate.upgrade(self.url)
                with drawn(os.open(os.devnull, os.O_WRONLY)).compile(self.url) as graph:
                    transaction = graph._stored().transaction()
                    transaction.connection.exec_driver_sql("CREATE TABLE payments (thread TEXT, what TEXT)")
                    transaction.connection.connection.driver_connection.commit()
                    transaction.rollback()
        assert os.waitpid(child, 0)[1] == 0

    def run(self, seconds: float) -> None:
        """Kill until the time is over, then let the last ones bring everything to its end."""
        living: list[int] = []
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            while len(living) < self.processes:
                living.append(self._born())
            time.sleep(self.rng.expovariate(self.processes / 0.5))  # a life lasts about half a second
            victim = living.pop(self.rng.randrange(len(living)))
            os.kill(victim, signal.SIGKILL)
            assert _status_of(victim) == -signal.SIGKILL, "a process has ended by itself: see above"
            self.deaths += 1
        for last in living:
            os.kill(last, signal.SIGKILL)
            _status_of(last)
            self.deaths += 1
        last = self._born(to_the_end=True)
        assert _status_of(last) == 0, "what was left could not be brought to its end: see above"

    def _born(self, to_the_end: bool = False) -> int:
        seed = self.rng.random()
        if not (child := os.fork()):
            with _exiting():
                self._work(random.Random(seed), to_the_end)
        return child

    def _work(self, rng: random.Random, to_the_end: bool) -> None:
        journal = os.open(self.journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        with drawn(journal).compile(self.url, name="soak") as graph:
            if to_the_end:
                finish(graph)
                return
            ended: set[str] = set()
            while True:
                if rng.random() < 0.1:
                    with suppress(ThreadBusyError):
                        list(graph.recover(limit=2))
                # the names grow with the threads that have ended, so that there is always something to begin
                name = f"t{rng.randrange(self.names + len(ended))}"
                if name in ended:
                    continue
                try:
                    self._go_on(graph, journal, {"thread_id": name}, self._begins(name), rng.random() < 0.5)
                except ThreadBusyError:
                    continue
                except EmptyInputError:
                    ended.add(name)

    def _begins(self, name: str) -> bool:
        """Whether it is ours to give this thread its input: who looks into the database may be too late, and a second
        input begins it anew."""
        try:
            os.close(os.open(self.journal.with_name(f"{name}.begun"), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True

    @staticmethod
    def _go_on(graph: Any, journal: int, config: Any, begins: bool, in_asyncio: bool) -> None:
        given = INPUT if begins else None

        def see(event: Any) -> None:
            line = {"thread": config["thread_id"], "seen": event.step}
            os.write(journal, (json.dumps(line) + "\n").encode())

        async def consume() -> None:
            async for event in graph.astream(given, config, stream_mode="events", wait=1):
                see(event)

        if in_asyncio:
            asyncio.run(consume())
        else:
            for event in graph.stream(given, config, stream_mode="events", wait=1):
                see(event)


def finish(graph: Any) -> None:
    """Bring every thread to its end."""
    for found in graph.recover():
        assert found.error is None, found
    for thread in graph.threads():
        if thread.called_by is None and graph.get_state({"thread_id": thread.thread_id}).next:
            graph.invoke(None, {"thread_id": thread.thread_id})


class _exiting:
    """The end of a forked process, whatever happens: never back into what its parent was about."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is not None:
            traceback.print_exception(error)
        sys.stderr.flush()
        os._exit(error is not None)


def _status_of(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


# --- the count ----------------------------------------------------------------------------------


@dataclass
class Count:
    threads: int = 0
    rows: int = 0
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    forked: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not (self.lost or self.doubled or self.forked)


def count(url: str, journal: Path) -> Count:
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    found = Count()
    with drawn(os.open(os.devnull, os.O_WRONLY)).compile(url, name="soak") as graph:
        store, written, steps = graph._stored(), {}, set()
        for thread in graph.threads():
            name = thread.thread_id
            rows = list(store.rows(name))
            found.threads += 1
            found.rows += len(rows)
            written.update({(name, row.task): seconds(row.created_at) for row in rows if row.kind == "task"})
            steps |= {(name, row.step) for row in rows}
            _count_rows(found, thread, rows)
            found.forked += [f"{name}: {finding}" for finding in graph.verify({"thread_id": name}).findings]
        for line in lines:
            if "seen" in line:
                if (line["thread"], line["seen"]) not in steps:
                    found.lost.append(f"{line['thread']}: step {line['seen']} was seen")
            elif line["at"] > written.get((line["thread"], line["task"]), line["at"]):
                found.doubled.append(f"{line['thread']}: task {line['task']} was called after its row")
        _count_payments(found, store, [thread.thread_id for thread in graph.threads() if thread.called_by is None])
    return found


def _count_rows(found: Count, thread: Any, rows: list[Any]) -> None:
    name = thread.thread_id
    if (thread.status, thread.lease_owner) != ("finished", None):
        found.lost.append(f"{name}: is {thread.status}, of {thread.lease_owner}")
    tasks = Counter(row.task for row in rows if row.kind == "task")
    found.doubled += [f"{name}: task {one} has {times} rows" for one, times in tasks.items() if times > 1]
    parents = Counter(row.parent_step for row in rows)
    found.forked += [f"{name}: {times} rows continue step {one}" for one, times in parents.items() if times > 1]
    if thread.called_by is None:
        nodes = Counter(row.node for row in rows if row.kind == "task" and "/" not in row.task)
        found.lost += [f"{name}: {node} ran {nodes[node]} times" for node in TASKS if nodes[node] < TASKS[node]]
        found.doubled += [f"{name}: {node} ran {nodes[node]} times" for node in TASKS if nodes[node] > TASKS[node]]


def _count_payments(found: Count, store: Any, threads: list[str]) -> None:
    transaction = store.transaction()
    try:
        paid = Counter(map(tuple, transaction.connection.execute(text("SELECT thread, what FROM payments"))))
    finally:
        transaction.rollback()
    due = {(thread, f"round {number}") for thread in threads for number in range(1, ROUNDS + 1)}
    found.lost += [f"{thread}: {what} was not paid" for thread, what in due - paid.keys()]
    found.doubled += [f"{thread}: {what} was paid {times} times" for (thread, what), times in paid.items() if times > 1]


# --- the command --------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__.split("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--url", help="an empty database; by default a new SQLite file")
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--seed", type=int, default=None)
    given = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="dg-soak-"))
    soak = Soak(given.url or f"sqlite:///{folder}/soak.db", folder, given.processes, rng=random.Random(given.seed))
    soak.prepare()
    soak.run(given.minutes * 60)
    found = count(soak.url, soak.journal)
    print(f"{soak.deaths} deaths, {found.threads} threads, {found.rows} rows")  # noqa: T201
    print(f"lost {len(found.lost)}, doubled {len(found.doubled)}, forked {len(found.forked)}")  # noqa: T201
    for problem in [*found.lost, *found.doubled, *found.forked][:20]:
        print(f"  {problem}")  # noqa: T201
    if found.ok and soak.deaths:
        shutil.rmtree(folder)
        return 0
    print(f"The journal is {soak.journal}, the database {soak.url}")  # noqa: T201
    return 1


if __name__ == "__main__":
    sys.exit(main())
