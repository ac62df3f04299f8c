"""Clients of a server: a process that serves a graph, and connections that read its streams at the same time."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.benchmarks.measure import Figures
from tests.benchmarks.works import check

ROOT = Path(__file__).parent.parent.parent
PROGRAM = """
from typing import TypedDict

from durable_graph import END, START, StateGraph


class State(TypedDict):
    n: int
    last: int


async def count(state):
    return {"n": state["n"] + 1}


def on(state):
    return "count" if state["n"] < state["last"] else END


builder = StateGraph(State).add_node("count", count).add_edge(START, "count").add_conditional_edges("count", on)
"""
PATIENCE = 300.0  # seconds: never reached when all is well


@contextmanager
def served(folder: Path, url: str) -> Iterator[str]:
    """The address of a server in a process of its own."""
    (folder / "served_counter.py").write_text(PROGRAM)
    command = "from durable_graph.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", command, "serve", "counter=served_counter.py:builder", "--port=0", f"--url={url}"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        check("serving counter on " in line, line)
        yield line.split()[-1]
    finally:
        process.kill()
        process.communicate()


def following(address: str, clients: int, steps: int) -> Figures:
    """One run, and so many clients that follow it while it runs. Seconds until all have seen all of it."""

    async def work(client: httpx.AsyncClient) -> list[int]:
        body = {"assistant_id": "counter", "input": {"n": 0, "last": steps}}
        run = (await client.post("/runs", json=body)).json()
        path = f"/threads/{run['thread_id']}/runs/{run['run_id']}/stream?stream_mode=updates"
        return await asyncio.gather(*(_read(client, "GET", path) for _ in range(clients)))

    return _timed(address, work, clients, steps)


def streaming(address: str, clients: int, steps: int) -> Figures:
    """So many runs on threads of their own, each streamed by its client."""

    async def work(client: httpx.AsyncClient) -> list[int]:
        body = {"assistant_id": "counter", "input": {"n": 0, "last": steps}, "stream_mode": ["updates"]}
        return await asyncio.gather(*(_read(client, "POST", "/runs/stream", json=body) for _ in range(clients)))

    return _timed(address, work, clients, steps)


def _timed(
    address: str, work: Callable[[httpx.AsyncClient], Awaitable[list[int]]], clients: int, steps: int
) -> Figures:
    async def main() -> Figures:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=address, timeout=PATIENCE, limits=limits) as client:
            (await client.get("/ok")).raise_for_status()
            begun = time.perf_counter()
            found = await work(client)
            seconds = time.perf_counter() - begun
        check(found == [steps] * clients, f"clients have seen {set(found)} steps instead of {steps}")
        return {"seconds": seconds, "events per second": clients * steps / seconds}

    return asyncio.run(main())


async def _read(client: httpx.AsyncClient, method: str, path: str, **settings: Any) -> int:
    """How many steps were seen, each once and in order."""
    steps: list[int] = []
    async with client.stream(method, path, **settings) as response:
        async for line in response.aiter_lines():
            if line.startswith("id: "):
                steps.append(int(line[4:]))
    check(steps == [*range(1, len(steps) + 1)], f"steps came as {steps[:10]} ...")
    return len(steps)
