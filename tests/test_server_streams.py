"""A client that loses its connection again and again has in the end seen every event once, in order.

At random places of a run, in several modes; with the server killed and another process going on with the run; while it
follows a run of another process; and many clients at once.
"""

from __future__ import annotations

import asyncio
import operator
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any, TypedDict

import httpx
import pytest
from conftest import by_turns

from durable_graph import START, CompiledGraph, Runtime, StateGraph
from durable_graph.server.hub import Topic
from tests.serving import LIMITS, PATIENCE, Address, Event, Sdk, events, follow, serving, until_ready

ROOT = Path(__file__).parent.parent
CUTS = 100
MODES = {
    "values": ["values"],
    "updates": ["updates", "values"],
    "spoken": ["custom", "updates"],
    "all": ["custom", "messages", "updates", "tasks", "values", "checkpoints", "debug", "events"],
}

PROGRAM = """
import asyncio
import operator
from typing import Annotated, TypedDict

from durable_graph import START, Runtime, Send, StateGraph


class State(TypedDict, total=False):
    n: int
    log: Annotated[list[str], operator.add]


async def count(state, runtime: Runtime):
    await permitted(state["n"])
    runtime.stream_writer({"counts": state["n"]})
    return {"n": state["n"] + 1, "log": [f"count {state['n']}"]}


async def each(state, runtime: Runtime):
    for part in range(2):
        runtime.stream_writer({"each": state["n"], "part": part})
        await asyncio.sleep(0.002 * (3 - state["n"] % 3))  # so that their rows come in another order
    return {"log": [f"each {state['n']}"]}


def spread(state):
    return [Send("each", {"n": state["n"] * 10 + place}) for place in range(3)] if state["n"] < ROUNDS else []


builder = StateGraph(State)
builder.add_node("count", count).add_node("each", each)
builder.add_edge(START, "count").add_conditional_edges("count", spread, ["each"]).add_edge("each", "count")
"""


class State(TypedDict, total=False):
    n: int
    log: Annotated[list[str], operator.add]


PACED = """
from pathlib import Path

ROUNDS = 40


async def permitted(n):
    while n > int(Path("permitted").read_text() or 0):
        await asyncio.sleep(0.002)
"""


class Pace:
    """How far a run may go: a little further than who reads it, so that it is under way until that one is done."""

    def __init__(self) -> None:
        self.rounds = 10**9

    async def permitted(self, n: int) -> None:
        async with asyncio.timeout(PATIENCE):
            while n > self.rounds:  # noqa: ASYNC110 (it is set in another thread)
                await asyncio.sleep(0.001)


def drawn(rounds: int, pace: Pace) -> StateGraph[Any]:
    names: dict[str, Any] = {"ROUNDS": rounds, "__name__": __name__, "permitted": pace.permitted}
    exec(compile(PROGRAM, "app.py", "exec"), names)
    builder: StateGraph[Any] = names["builder"]
    return builder


@pytest.fixture
def pace() -> Pace:
    return Pace()


@pytest.fixture
def graph(database_url: str, pace: Pace) -> Iterator[CompiledGraph[Any]]:
    graph = drawn(40, pace).compile(database_url, name="counts")
    yield graph
    graph.close()


class Consumer:
    """Reads the stream of one run over many connections, each cut off after a few events."""

    def __init__(self, path: str, seed: int, most: int, permit: Callable[[int], None]) -> None:
        self.path = path
        self._permit = permit
        self.seen: list[Event] = []
        self.over = False
        self._random = random.Random(seed)
        self._most = most

    @property
    def rounds(self) -> int:
        """That it has seen: each has four rows."""
        return int(self.seen[-1].id.partition(".")[0].partition(":")[0]) // 4 if self.seen else 0

    def read(self, client: httpx.Client) -> None:
        """One connection: until it is cut off, on either side."""
        left = self._random.randint(1, self._most)
        last = next((event.id for event in reversed(self.seen) if event.id is not None), None)
        with closing(follow(client, self.path, last)) as stream:
            for event in stream:
                if event.name in ("end", "error"):
                    self.over = True
                    return
                self.seen.append(event)
                self._permit(self.rounds + 1)
                left -= 1
                if not left:
                    return


def whole(client: httpx.Client, path: str) -> list[Event]:
    found = [*follow(client, path)]
    assert found[-1].name == "end"
    return found[:-1]


def begun(client: httpx.Client, modes: list[str], thread_id: str = "t") -> str:
    """The path of a new run's stream."""
    body = {"assistant_id": "counts", "input": {"n": 0}, "if_not_exists": "create"}
    made = client.post(f"/threads/{thread_id}/runs", json=body)
    assert made.status_code == 200, made.text
    query = "&".join(f"stream_mode={mode.replace('messages', 'messages-tuple')}" for mode in modes)
    return f"/threads/{thread_id}/runs/{made.json()['run_id']}/stream?{query}"


# --- one client ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("database_url", "kinds"), by_turns(*MODES), indirect=["database_url"])
def test_cut_off_a_hundred_times(graph: CompiledGraph[Any], pace: Pace, kinds: str) -> None:
    modes = MODES[kinds]
    with serving({"counts": graph}) as address, address.client() as client:
        pace.rounds, most = 1, {1: 1, 2: 2, 8: 24}[len(modes)]

        def permit(rounds: int) -> None:
            pace.rounds = rounds

        consumer = Consumer(begun(client, modes), seed=len(modes), most=most, permit=permit)
        cuts = 0
        while not consumer.over:
            consumer.read(client)
            cuts += 1
        expected = whole(client, consumer.path)
        assert consumer.seen == expected
        assert len({event.id for event in expected}) == len(expected)
        assert cuts > (CUTS if len(modes) > 1 else CUTS // 2)


def test_what_is_streamed_is_what_replay_tells(graph: CompiledGraph[Any]) -> None:
    """Live, and from the log: of each mode the same chunks as the library's own replay."""
    with serving({"counts": graph}) as address, address.client() as client:
        body = {"assistant_id": "counts", "input": {"n": 0}, "stream_mode": ["custom", "updates"]}
        live = [*follow(client, "/runs/stream", method="POST", json=body)]
        assert (live[0].name, live[-1].name) == ("metadata", "end")
        thread_id = graph.threads()[0].thread_id
        told = [*graph.replay({"thread_id": thread_id}, stream_mode=["custom", "updates"])]
        assert [(event.name, event.data) for event in live[1:-1]] == told
        assert [*follow(client, f"/threads/{thread_id}/stream?stream_mode=custom&stream_mode=updates&follow=false")][
            :-1
        ] == live[1:-1]


def test_who_joins_in_the_midst_of_a_superstep_sees_what_was_said(database_url: str) -> None:
    gate, said = threading.Event(), threading.Event()

    def quick(state: State, runtime: Runtime[Any]) -> State:
        return {"log": ["quick"]}

    def slow(state: State, runtime: Runtime[Any]) -> State:
        runtime.stream_writer("before")
        said.set()
        assert gate.wait(PATIENCE)
        runtime.stream_writer("after")
        return {"log": ["slow"]}

    builder = StateGraph(State).add_node("quick", quick).add_node("slow", slow)
    builder.add_edge(START, "quick").add_edge(START, "slow")
    graph = builder.compile(database_url, name="counts")
    with serving({"counts": graph}) as address, address.client() as client:
        path = begun(client, ["custom", "updates", "tasks"])
        assert said.wait(PATIENCE)
        seen: list[Event] = []
        with closing(follow(client, path)) as stream:
            for event in stream:
                seen.append(event)
                if {event.data == "before" or event.name == "updates" for event in seen} and len(seen) == 5:
                    break  # what quick did, what slow said, and that both began
        rest = follow(client, path, seen[-1].id)
        gate.set()
        seen += rest
        assert seen[:-1] == whole(client, path)
        assert [event.data for event in seen if event.name == "custom"] == ["before", "after"]
    graph.close()


def test_who_is_too_slow_goes_on_from_the_log(graph: CompiledGraph[Any]) -> None:
    """A live feed that has no room for more is given up, and the client notices nothing."""
    limits = type(LIMITS)(poll=0.02, heartbeat=5.0, grace=5.0, room=2)
    with serving({"counts": graph}, limits=limits) as address, address.client() as client:
        body = {"assistant_id": "counts", "input": {"n": 0}, "stream_mode": MODES["updates"]}
        live = [*follow(client, "/runs/stream", method="POST", json=body)]
        thread_id = graph.threads()[0].thread_id
        path = f"/threads/{thread_id}/runs/{live[0].data['run_id']}/stream?stream_mode=updates&stream_mode=values"
        assert live[1:-1] == whole(client, path)


def test_one_look_serves_all_who_follow(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a thread that runs elsewhere: all clients wait for the same look, and each look is one of the thread."""
    looks: list[int] = []
    look = Topic.look

    def counting(topic: Topic) -> Any:
        looks.append(len(topic._waiting))
        return look(topic)

    monkeypatch.setattr(Topic, "look", counting)
    builder = StateGraph(State).add_node("a", lambda state: {"log": ["a"]}).add_node("b", lambda state: {"log": ["b"]})
    graph = builder.add_edge(START, "a").add_edge("a", "b").compile(database_url, name="counts")
    run = graph.stream({"n": 0}, {"thread_id": "t"})  # not the server's
    next(run)

    async def main(url: str) -> list[list[Event]]:
        async with httpx.AsyncClient(base_url=url, timeout=PATIENCE) as client:

            async def one() -> list[Event]:
                async with client.stream("GET", "/threads/t/stream?stream_mode=updates&follow=false") as response:
                    return [*events(iter([line async for line in response.aiter_lines()]))]

            clients = [asyncio.create_task(one()) for _ in range(20)]
            async with asyncio.timeout(PATIENCE):
                while 20 not in looks:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            await asyncio.to_thread(list, run)
            return list(await asyncio.gather(*clients))

    with serving({"counts": graph}) as address:
        found = asyncio.run(main(address.url))
    assert all([event.data for event in each] == [{"a": {"log": ["a"]}}, {"b": {"log": ["b"]}}, None] for each in found)
    graph.close()


# --- many clients -------------------------------------------------------------------------------


def test_many_follow_one_thread_and_many_threads_stream_at_once(graph: CompiledGraph[Any]) -> None:
    async def main(address: Address, path: str, count: int) -> None:
        async with httpx.AsyncClient(
            base_url=address.url, timeout=PATIENCE, limits=httpx.Limits(max_connections=None)
        ) as client:

            async def read(method: str, path: str, **settings: Any) -> list[Event]:
                async with client.stream(method, path, **settings) as response:
                    assert response.status_code == 200
                    return [*events(iter([line async for line in response.aiter_lines()]))]

            followers = await asyncio.gather(*(read("GET", path) for _ in range(count)))
            assert all(found == followers[0] for found in followers)
            assert followers[0][-1].name == "end"
            body = {"assistant_id": "counts", "input": {"n": 0}, "stream_mode": ["updates"]}
            runs = await asyncio.gather(*(read("POST", "/runs/stream", json=body) for _ in range(count)))
            ids = [[event.id for event in found] for found in runs]
            assert all(found[-1].name == "end" for found in runs)
            assert len({found[0].data["run_id"] for found in runs}) == count
            assert all(len(found) == len(ids[0]) for found in ids)

    with serving({"counts": graph}) as address, address.client() as client:
        asyncio.run(main(address, begun(client, ["updates", "custom"]), 20))


# --- servers that die ---------------------------------------------------------------------------


class Servers:
    """Server processes on one database."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.url = url
        self.running: dict[str, subprocess.Popen[str]] = {}
        self._clients: dict[str, httpx.Client] = {}
        (folder / "app.py").write_text(f"import asyncio\n{PACED}\n{PROGRAM}\ncounts = builder\n")
        self.permit(10**9)

    def start(self, *options: str, port: int = 0) -> str:
        command = "from durable_graph.cli import main; main()"
        arguments = ["serve", "counts=app.py:counts", f"--url={self.url}", f"--port={port}", *options]
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", command, *arguments],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        line = process.stderr.readline()
        if "serving counts on " not in line:
            process.kill()
            raise AssertionError(line + process.communicate()[1])
        url = line.split()[-1]
        self.running[url] = process
        until_ready(url)
        return url

    def permit(self, rounds: int) -> None:
        part = self.folder / "permitted.part"
        part.write_text(str(rounds))
        part.replace(self.folder / "permitted")

    def end(self, url: str, by: signal.Signals) -> str:
        """What it has said meanwhile."""
        process = self.running.pop(url)
        process.send_signal(by)
        said = process.communicate(timeout=PATIENCE)[1]
        assert process.returncode == -by
        return "".join(line for line in said.splitlines() if "/inspector" not in line)

    def client(self, url: str) -> httpx.Client:
        if url not in self._clients:
            self._clients[url] = httpx.Client(base_url=url, timeout=PATIENCE)
        return self._clients[url]

    def close(self) -> None:
        for client in self._clients.values():
            client.close()
        for process in self.running.values():
            process.kill()
            process.communicate()


@pytest.fixture
def servers(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Servers]:
    servers = Servers(tmp_path, request.getfixturevalue(f"{request.param}_url"))
    yield servers
    servers.close()


def on(database: str, *more: Any, slow: bool = False) -> Any:
    return pytest.param(database, *more, marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize(
    ("servers", "modes", "most"),
    [
        on("sqlite", MODES["spoken"], 2),
        on("postgres", MODES["updates"], 1),
        on("sqlite", MODES["updates"], 6, slow=True),
        on("postgres", MODES["spoken"], 6, slow=True),
    ],
    indirect=["servers"],
)
def test_cut_off_while_servers_are_killed_and_others_take_over(servers: Servers, modes: list[str], most: int) -> None:
    """Also following a run of another process: each connection goes to any of the servers there are."""
    chance = random.Random(len(modes))
    runner, other = servers.start(), servers.start("--no-recover")
    servers.permit(1)
    most_events = 6 if "custom" in modes else 2
    consumer = Consumer(begun(servers.client(runner), modes), seed=1, most=most_events, permit=servers.permit)
    cuts, kills = 0, 0
    while not consumer.over:
        if cuts % 15 == 14 and kills < most:
            assert servers.end(runner, signal.SIGKILL) == ""
            runner = servers.start()  # which recovers the thread
            kills += 1
        consumer.read(servers.client(chance.choice([runner, runner, runner, other])))
        cuts += 1
    assert (kills, cuts >= CUTS) == (most, True)
    expected = whole(servers.client(other), consumer.path)
    assert len(servers.client(other).get("/threads/t/runs").json()) == kills + 1
    told = {event.id for event in expected}
    lost = [event for event in consumer.seen if event.id not in told]  # said by tasks that died: in no row
    assert [event for event in consumer.seen if event.id in told] == expected
    assert all(event.name == "custom" for event in lost)
    assert servers.end(other, signal.SIGTERM) == ""


@pytest.mark.parametrize(
    ("servers", "way"),
    [on("sqlite", "sync"), on("sqlite", "async", slow=True), on("postgres", "async")],
    indirect=["servers"],
)
def test_langgraphs_client_comes_back_by_itself_after_a_restart(servers: Servers, way: str) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    servers.start("--grace=0.1", port=port)

    def restart(part: Any) -> bool:
        if part.id == "9":
            threading.Thread(target=again).start()  # while the run waits for its third round
        return False

    def again() -> None:
        (url,) = servers.running
        servers.end(url, signal.SIGTERM)
        servers.permit(10**9)
        servers.start(port=port)
        done.set()

    done = threading.Event()
    sdk = Sdk(way, f"http://127.0.0.1:{port}")
    sdk("threads.create", thread_id="t")
    servers.permit(2)
    parts = sdk.stream("runs.stream", "t", "counts", input={"n": 0}, stream_mode=MODES["updates"], stop=restart)
    assert done.wait(PATIENCE)
    runs = sdk("runs.list", "t")
    assert len(runs) == 2
    assert {run["status"] for run in runs} == {"success"}
    expected = sdk.stream("runs.join_stream", "t", runs[1]["run_id"], stream_mode=MODES["updates"])
    assert parts[1:-1] == expected[:-1]
