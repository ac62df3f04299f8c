"""The server for those who are not LangGraph's client: health, who may come in, limits, problems, its document, end."""

from __future__ import annotations

import asyncio
import json
import operator
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from typing import Annotated, Any, TypedDict

import httpx
import pytest
from fastapi import FastAPI
from openapi_spec_validator import validate
from starlette.applications import Starlette
from starlette.responses import JSONResponse

from durable_graph import START, ArgumentError, CompiledGraph, Runtime, StateGraph, interrupt
from durable_graph.server import create_app
from durable_graph.server.app import DOCUMENT, SHOWN
from durable_graph.server.house import READERS, House
from durable_graph.server.inspector import reading
from tests.graphs import until
from tests.serving import LIMITS, PATIENCE, Address, Sdk, follow, listening, serving


class State(TypedDict, total=False):
    n: int
    log: Annotated[list[str], operator.add]


class Gate:
    def __init__(self) -> None:
        self.reached = threading.Event()
        self.open = threading.Event()


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open.set()


def drawn(gate: Gate) -> StateGraph[Any]:
    def first(state: State) -> State:
        return {"log": ["first"]}

    async def wait(state: State) -> State:
        gate.reached.set()
        await until(gate.open)
        return {"log": ["waited"]}

    def last(state: State, runtime: Runtime[Any]) -> State:
        return {"log": [str(runtime.wait_for("go"))]}

    return StateGraph(State).add_sequence([first, wait, last]).add_edge(START, "first")


@pytest.fixture
def graph(database_url: str, gate: Gate) -> Iterator[CompiledGraph[Any]]:
    graph = drawn(gate).compile(database_url, name="the graph")
    yield graph
    graph.close()


@pytest.fixture
def small(sqlite_url: str) -> Iterator[CompiledGraph[Any]]:
    """For what does not touch the database."""

    def ask(state: State) -> State:
        return {"log": [interrupt("well?")]}

    graph = StateGraph(State).add_node(ask).add_edge(START, "ask").compile(sqlite_url, name="small")
    yield graph
    graph.close()


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    found: dict[str, Any] = answer.json()
    assert (answer.status_code, found["status"]) == (status, status), answer.text
    assert found["detail"]
    assert "Traceback" not in answer.text
    return found


RUN = {"assistant_id": "g", "input": {"n": 1}}


# --- what it says of itself ---------------------------------------------------------------------


def test_health_and_what_it_is(graph: CompiledGraph[Any]) -> None:
    with serving({"g": graph}) as address, address.client() as client:
        assert client.get("/ok").json() == {"ok": True}
        assert client.get("/ready").json() == {"ready": True}
        about = client.get("/info").json()
        assert (about["graphs"], about["read_only"]) == (["g"], False)
        address.house.close()
        assert problem(client.get("/ready"), 503)["detail"] == "This server is shutting down."
        assert problem(client.post("/runs/wait", json=RUN), 503)
        assert client.get("/ok").status_code == 200


def test_not_ready_without_its_database(tmp_path: Any, caplog: pytest.LogCaptureFixture) -> None:
    graph = StateGraph(State).add_node("a", lambda state: {}).add_edge(START, "a")
    compiled = graph.compile(f"sqlite:///{tmp_path / 'no' / 'such.db'}")
    with serving({"g": compiled}, recover=False) as address, address.client() as client:
        assert "such.db" not in problem(client.get("/ready"), 503)["detail"]
        assert "such.db" in caplog.text
        assert client.get("/ok").status_code == 200
    compiled.close()


def test_the_document_is_openapi_and_of_the_table(small: CompiledGraph[Any]) -> None:
    validate(json.loads(json.dumps(DOCUMENT)))
    shown = {(path, method) for path, operations in DOCUMENT["paths"].items() for method in operations}
    assert shown == {(each.path, each.method.lower()) for each in SHOWN}
    names = [operation["operationId"] for operations in DOCUMENT["paths"].values() for operation in operations.values()]
    assert len(names) == len(set(names))
    with serving({"g": small}) as address, address.client() as client:
        assert client.get("/openapi.json").json() == json.loads(json.dumps(DOCUMENT))


def test_every_endpoint_answers_as_its_document_says(small: CompiledGraph[Any]) -> None:
    """With nothing, and with a body that is wrong: one of its statuses, and a problem where that is one."""
    with serving({"g": small}) as address, address.client() as client:
        client.post("/threads", json={"thread_id": "t"})
        for path, operations in DOCUMENT["paths"].items():
            for method, operation in operations.items():
                if path == "/threads/{thread_id}/stream":
                    continue  # it does not end
                for body in (None, {}, [], {"nope": 1}, 7):
                    url = path.format(thread_id="t", run_id="r", assistant_id="g", checkpoint_id="x", namespace="n")
                    answer = client.request(method, url, json=body)
                    assert str(answer.status_code) in {*operation["responses"], "415"}, (method, path, answer.text)
                    if answer.status_code >= 400:
                        problem(answer, answer.status_code)
                    if (method, path) == ("delete", "/threads/{thread_id}"):
                        client.post("/threads", json={"thread_id": "t"})


def test_a_checkpoint_is_named_by_a_number_or_its_text_wherever_one_is_given(small: CompiledGraph[Any]) -> None:
    """Also by that of the first step, which is 0."""
    with serving({"g": small}) as address, address.client() as client:
        client.post("/threads/t/runs/wait", json={**RUN, "if_not_exists": "create"})
        for step in (0, "0"):
            at = {"checkpoint": {"checkpoint_id": step}}
            state = client.post("/threads/t/state/checkpoint", json=at).json()
            assert (state["next"], state["checkpoint"]["checkpoint_id"]) == (["ask"], "0")
            assert client.post("/threads/t/history", json={"before": at["checkpoint"]}).json() == []
            for named in (at, {"checkpoint_id": step}):
                assert client.post("/threads/t/state", json={**named, "values": {"n": 2}}).status_code == 200
                begun = client.post("/threads/t/runs/wait", json={**RUN, "input": None, **named})
                assert begun.json()["n"] == 1, begun.text


def test_a_batch_with_something_wrong_in_it_begins_nothing(small: CompiledGraph[Any]) -> None:
    with serving({"g": small}) as address, address.client() as client:
        on_t = {**RUN, "thread_id": "t", "if_not_exists": "create"}
        for last, status in (({**RUN, "assistant_id": "nope"}, 404), ({**RUN, "stream_mode": "nope"}, 422)):
            assert problem(client.post("/runs/batch", json=[RUN, RUN, last]), status)
        assert "on thread 't'" in problem(client.post("/runs/batch", json=[on_t, RUN, on_t]), 409)["detail"]
        assert client.post("/threads/count", json={}).json() == 0


def test_a_batch_that_ends_early_names_the_runs_that_go_on(graph: CompiledGraph[Any], gate: Gate) -> None:
    with serving({"g": graph}) as address, address.client() as client:
        on_t = {**RUN, "thread_id": "t", "if_not_exists": "create"}
        client.post("/runs/batch", json=[on_t])
        assert gate.reached.wait(PATIENCE)
        (begun,) = problem(client.post("/runs/batch", json=[RUN, on_t, RUN]), 409)["begun"]
        assert client.get(f"/threads/{begun['thread_id']}/runs/{begun['run_id']}").json()["status"] == "running"
        assert client.post("/threads/count", json={}).json() == 2
        gate.open.set()


def test_of_threads_that_are_not_all_there_or_free_none_is_removed(graph: CompiledGraph[Any], gate: Gate) -> None:
    with serving({"g": graph}) as address, address.client() as client:
        for name in "ab":
            client.post("/threads", json={"thread_id": name})
        client.post("/threads/t/runs", json={**RUN, "if_not_exists": "create"})
        assert gate.reached.wait(PATIENCE)
        for names, status in ((["a", "none", "b"], 404), (["a", "t", "b"], 409)):
            assert problem(client.post("/threads/prune", json={"thread_ids": names}), status)
        assert client.post("/threads/count", json={}).json() == 3
        gate.open.set()
        assert client.post("/threads/prune", json={"thread_ids": ["a", "b", "a"]}).json() == {"pruned_count": 2}
        assert client.post("/threads/count", json={}).json() == 1


def test_a_history_is_asked_for_in_pages(small: CompiledGraph[Any]) -> None:
    with serving({"g": small}) as address, address.client() as client:
        client.post("/threads/t/runs/wait", json={**RUN, "if_not_exists": "create"})
        for limit in (0, 1001, 10**9):
            for answer in (
                client.post("/threads/t/history", json={"limit": limit}),
                client.get("/threads/t/history", params={"limit": limit}),
            ):
                assert problem(answer, 422)["field"] == "limit"
        assert len(client.post("/threads/t/history", json={"limit": 1000}).json()) == 1


def test_long_reads_hold_up_nobody_else(small: CompiledGraph[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """More of them than there are threads for all; then a short one is answered, and a stream goes on."""
    arrived, let_go, offload, verify = threading.Semaphore(0), threading.Event(), House.offload, CompiledGraph.verify

    async def seen(house: House, call: Any, **settings: Any) -> Any:
        answer = asyncio.ensure_future(offload(house, call, **settings))
        if getattr(call, "func", None) is reading.verify:
            asyncio.get_running_loop().call_soon(arrived.release)  # after it has come to the pool
        return await answer

    def stuck(*args: Any, **settings: Any) -> Any:
        assert let_go.wait(PATIENCE)
        return verify(*args, **settings)

    monkeypatch.setattr(House, "offload", seen)
    monkeypatch.setattr(CompiledGraph, "verify", stuck)
    with serving({"g": small}) as address, address.client() as client, ThreadPoolExecutor(READERS) as askers:
        client.post("/threads/t/runs/wait", json={**RUN, "if_not_exists": "create"})
        asked = [
            askers.submit(httpx.get, f"{address.url}/inspector/api/verify?thread=t", timeout=PATIENCE)
            for _ in range(READERS)
        ]
        try:
            for _ in asked:
                assert arrived.acquire(timeout=PATIENCE)
            events = follow(client, "/threads/t/stream?stream_mode=updates", timeout=PATIENCE / 3)
            assert next(events).data["__interrupt__"]
            resumed = client.post("/threads/t/runs/wait", json={"assistant_id": "g", "command": {"resume": "yes"}})
            assert resumed.json()["log"] == ["yes"]
            assert next(events).data == {"ask": {"log": ["yes"]}}
            events.close()
        finally:
            let_go.set()
        assert [answer.result().json()["ok"] for answer in asked] == [True] * READERS


# --- who may come in ----------------------------------------------------------------------------


def test_a_token_is_asked_for_and_its_name_is_the_actor(small: CompiledGraph[Any]) -> None:
    with serving({"g": small}, token={"lina": "s3cret", "": "other"}) as address, address.client() as client:
        for headers in ({}, {"authorization": "Bearer nope"}, {"authorization": "s3cret"}, {"x-api-key": "s3cre"}):
            answer = client.get("/threads/t", headers=headers)
            assert problem(answer, 401)
            assert answer.headers["www-authenticate"] == "Bearer"
        assert client.get("/ok").status_code == 200
        named, bare = (
            {"authorization": "Bearer s3cret", "x-actor": "mallory"},
            {"x-api-key": "other", "x-actor": "otto"},
        )
        for headers in (named, bare):
            answer = client.post("/threads/t/runs/wait", json={**RUN, "if_not_exists": "create"}, headers=headers)
            assert answer.status_code == 200, answer.text
        actors = [run["metadata"]["actor"] for run in client.get("/threads/t/runs", headers=bare).json()]
        assert actors == ["otto", "lina"]
        sdk = Sdk("sync", address.url, api_key="s3cret")
        assert sdk("threads.create")["metadata"]["actor"] == "lina"


def test_pages_of_other_origins_and_other_names_are_refused(small: CompiledGraph[Any]) -> None:
    with serving({"g": small}) as address, address.client() as client:
        assert problem(client.get("/info", headers={"origin": "https://evil.example"}), 403)
        assert problem(client.post("/threads/t/copy", headers={"origin": "null"}), 403)
        assert client.get("/info", headers={"origin": address.url}).status_code == 200
        assert problem(client.get("/info", headers={"host": "evil.example"}), 421)
        assert "access-control-allow-origin" not in client.get("/info").headers
        form = client.post("/threads", data={"a": "b"})
        assert problem(form, 415)
    ask = {"origin": "https://ours.example", "access-control-request-method": "POST"}
    with serving({"g": small}, cors=["https://ours.example"], token="t") as address, address.client() as client:
        answer = client.options("/threads", headers=ask)
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (204, "https://ours.example")
        answer = client.get("/info", headers={"origin": "https://ours.example"})
        assert problem(answer, 401)
        assert answer.headers["access-control-allow-origin"] == "https://ours.example"
        assert problem(client.options("/threads", headers={**ask, "origin": "https://evil.example"}), 403)


def test_read_only(graph: CompiledGraph[Any], gate: Gate) -> None:
    gate.open.set()
    with serving({"g": graph}) as address, address.client() as client:
        client.post("/threads/t/runs/wait", json={**RUN, "if_not_exists": "create"})
    with serving({"g": graph}, read_only=True) as address, address.client() as client:
        assert client.post("/threads/search", json={}).json()[0]["thread_id"] == "t"
        assert client.get("/threads/t/state").status_code == 200
        assert [*follow(client, "/threads/t/stream?follow=false")][-1].name == "end"
        for each in SHOWN:
            if each.writes:
                url = each.path.format(thread_id="t", run_id="r")
                assert problem(client.request(each.method, url), 403)["detail"].startswith("This server is read-only")


# --- what is wrong ------------------------------------------------------------------------------


def test_limits_of_size_and_time(small: CompiledGraph[Any]) -> None:
    limits = replace(LIMITS, body_bytes=1000, body_seconds=0.05)
    with serving({"g": small}, limits=limits) as address, address.client() as client:
        large = {**RUN, "input": {"log": ["x" * 2000]}}
        assert problem(client.post("/runs/wait", json=large), 413)["limit"] == 1000
        in_parts = client.post("/runs/wait", content=iter([b"x" * 600] * 3))
        assert problem(in_parts, 413)
        host, port = address.url.removeprefix("http://").split(":")
        with closing(socket.create_connection((host, int(port)))) as slow:
            slow.sendall(b"POST /threads HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\n{")
            slow.settimeout(PATIENCE)
            assert slow.recv(100).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "field"),
    [
        ("POST", "/threads", b"{", 422, ""),
        ("POST", "/threads", b"[]", 422, ""),
        ("POST", "/threads", {"metadata": 7}, 422, "metadata"),
        ("POST", "/threads", {"metadatta": {}}, 422, "metadatta"),
        ("POST", "/threads", {"thread_id": ""}, 422, "thread_id"),
        ("POST", "/threads", {"thread_id": "x" * 5000}, 422, "thread_id"),
        ("POST", "/threads", {"thread_id": "a\0b"}, 422, "thread_id"),
        ("POST", "/threads/search", {"limit": 0}, 422, "limit"),
        ("POST", "/threads/search", {"limit": True}, 422, "limit"),
        ("POST", "/threads/search", {"status": "nope"}, 422, "status"),
        ("POST", "/runs/wait", {}, 422, "assistant_id"),
        ("POST", "/runs/wait", {"assistant_id": "g", "command": {"goto": [{"n": 1}]}}, 422, "command.goto[0].node"),
        ("POST", "/runs/wait", {**RUN, "input": {"nope": 1}}, 422, None),
        ("POST", "/runs/wait", {**RUN, "config": {"recursion_limit": 0}}, 422, "config['recursion_limit']"),
        ("POST", "/runs/wait", {**RUN, "config": {"callbacks": []}}, 422, "config.callbacks"),
        ("POST", "/runs/wait", {"assistant_id": "nope"}, 404, None),
        ("GET", "/threads/nope", None, 404, None),
        ("GET", "/threads/a%2Fb", None, 404, None),
        ("GET", "/threads/t/state/99", None, 404, None),
        ("GET", "/threads/t/state/x", None, 422, "step"),
        ("GET", "/threads/t/runs/nope", None, 404, None),
        ("GET", "/threads/t/runs?limit=x", None, 422, "limit"),
        ("GET", "/threads/t/runs?nope=1", None, 422, "nope"),
        ("GET", "/nope", None, 404, None),
        ("PUT", "/threads", None, 405, None),
        ("POST", "/threads/t/runs", {"assistant_id": "g"}, 409, None),
        ("POST", "/threads/t/fork", {"to": "t"}, 409, None),
        ("DELETE", "/threads/t/runs/r", None, 501, None),
        ("PUT", "/store/items", {}, 501, None),
    ],
)
def test_what_is_wrong_is_named(
    small: CompiledGraph[Any], method: str, path: str, body: Any, status: int, field: str | None
) -> None:
    small.update_state({"thread_id": "t"}, {"log": ["done"]}, as_node="__end__")
    given = (
        {"content": body, "headers": {"content-type": "application/json"}} if type(body) is bytes else {"json": body}
    )
    with serving({"g": small}) as address, address.client() as client:
        found = problem(client.request(method, path, **given), status)
        assert found.get("field") == field
        if path == "/threads/nope":
            assert found["exists"] == ["t"]
        if body == {"assistant_id": "nope"}:
            assert found["exists"] == ["g"]


def test_a_wrong_last_event_id(small: CompiledGraph[Any]) -> None:
    small.update_state({"thread_id": "t"}, {"log": ["done"]}, as_node="__end__")
    with serving({"g": small}) as address, address.client() as client:
        for wrong in ("nope", "1.2.3", "-5", "٣"):
            answer = client.get("/threads/t/stream", headers={"last-event-id": wrong.encode()})
            assert problem(answer, 422)["field"] == "Last-Event-ID"
        answer = client.get("/threads/t/stream", headers={"last-event-id": "99"})
        assert "has no step 99" in problem(answer, 404)["detail"]


def test_what_nobody_expected_is_logged_and_not_shown(
    small: CompiledGraph[Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with serving({"g": small}) as address, address.client() as client:
        monkeypatch.setattr(address.house, "find", lambda thread_id: 1 / 0)
        found = problem(client.get("/threads/t"), 500)
    assert "division" not in json.dumps(found)
    assert found["number"] in caplog.text
    assert "ZeroDivisionError" in caplog.text


# --- what LangGraph's server has not ------------------------------------------------------------


def test_signals_and_forks(graph: CompiledGraph[Any], gate: Gate) -> None:
    gate.open.set()
    with serving({"g": graph}) as address, address.client() as client:
        client.post("/threads/t/runs/wait", json={**RUN, "if_not_exists": "create"})
        assert client.get("/threads/t").json()["status"] == "interrupted"
        assert problem(client.post("/threads/t/runs/wait", json={"assistant_id": "g"}), 409)  # it waits
        assert client.post("/threads/t/signal", json={"name": "go", "value": 7}).status_code == 204
        done = client.post("/threads/t/runs/wait", json={"assistant_id": "g"}).json()
        assert done["log"] == ["first", "waited", "7"]
        forked = client.post("/threads/t/fork", json={"to": "t/2", "step": 1}).json()
        assert forked["thread_id"] == "t/2"
        assert client.get("/threads/t%2F2/state").json()["next"] == ["wait"]
        assert client.get("/threads/t%2F2/runs").json() == []


def test_graphs_on_several_databases(tmp_path: Any) -> None:
    made = {}
    for name in "ab":
        builder = StateGraph(State).add_node("node", lambda state, name=name: {"log": [name]}).add_edge(START, "node")
        made[name] = builder.compile(f"sqlite:///{tmp_path / name}.db", name=name)
    with serving(made) as address, address.client() as client:
        for name in made:
            body = {"assistant_id": name, "input": {"n": 1}, "if_not_exists": "create"}
            assert client.post(f"/threads/{name}/runs/wait", json=body).json()["log"] == [name]
        assert {each["thread_id"] for each in client.post("/threads/search", json={}).json()} == {"a", "b"}
        assert client.get("/threads/a").json()["metadata"]["graph_id"] == "a"
        crossed = client.post("/threads/a/runs/wait", json={"assistant_id": "b", "input": {"n": 1}})
        assert "another database" in problem(crossed, 409)["detail"]
    for graph in made.values():
        graph.close()


@pytest.mark.parametrize("kind", [Starlette, FastAPI])
def test_mounted_in_another_app(small: CompiledGraph[Any], kind: type[Starlette]) -> None:
    app = create_app({"g": small}, limits=LIMITS)
    outer = kind(lifespan=app.state.house.lifespan)
    outer.mount("/graphs", app)
    outer.add_route("/ok", lambda request: JSONResponse({}))
    with listening(outer, app.state.house.close) as url:
        sdk = Sdk("sync", f"{url}/graphs")
        parts = sdk.stream("runs.stream", None, "g", input={"n": 1}, stream_mode="updates")
        assert [part.event for part in parts] == ["metadata", "updates", "end"]


def test_no_graphs_is_an_error() -> None:
    with pytest.raises(ArgumentError, match="graphs"):
        create_app({})


# --- its end and its beginning ------------------------------------------------------------------


@pytest.mark.parametrize("ends", ["step", "grace"])
def test_when_it_ends_streams_break_off_and_the_next_one_goes_on(
    graph: CompiledGraph[Any], gate: Gate, ends: str
) -> None:
    limits = replace(LIMITS, grace=0.01 if ends == "grace" else 20.0)
    seen = []
    with serving({"g": graph}, limits=limits) as address, address.client() as client:
        body = {**RUN, "stream_mode": "updates", "if_not_exists": "create"}
        with closing(follow(client, "/threads/t/runs/stream", method="POST", json=body)) as stream:
            seen += [next(stream), next(stream)]
            assert gate.reached.wait(PATIENCE)
            call_in_loop(address)
            with pytest.raises(httpx.RemoteProtocolError):
                next(stream)  # it breaks off, and says nothing of an end
            if ends == "step":
                gate.open.set()
    thread = graph.threads()[0]
    assert (thread.status, thread.lease_owner) == ("running", None)
    assert graph.get_state({"thread_id": "t"}).next == (("last",) if ends == "step" else ("wait",))
    gate.open.set()
    with serving({"g": graph}) as address, address.client() as client:
        path = f"/threads/t/runs/{seen[0].data['run_id']}/stream?stream_mode=updates"
        seen += follow(client, path, seen[-1].id)
    assert [list(event.data) for event in seen[1:-1]] == [["first"], ["wait"], ["__interrupt__"]]
    assert seen[-1].name == "end"


def call_in_loop(address: Address) -> None:
    """What SIGTERM does first."""
    address.house.loop.call_soon_threadsafe(address.house.close)


def test_a_run_that_was_waited_for_is_asked_for_again(graph: CompiledGraph[Any], gate: Gate) -> None:
    """`runs.wait` has no event to go on from: the client goes to the run's own address, and waits there."""
    with serving({"g": graph}, limits=replace(LIMITS, grace=0.01)) as address, address.client() as client:
        body = {**RUN, "if_not_exists": "create"}
        with client.stream("POST", "/threads/t/runs/wait", json=body) as answer:
            location = answer.headers["location"]
            assert gate.reached.wait(PATIENCE)
            call_in_loop(address)
            with pytest.raises(httpx.RemoteProtocolError):
                answer.read()
    gate.open.set()
    with serving({"g": graph}) as address, address.client() as client:
        assert client.get(location).json()["log"] == ["first", "waited"]


def test_on_disconnect_cancels_only_if_it_was_asked_for(graph: CompiledGraph[Any], gate: Gate) -> None:
    with serving({"g": graph}) as address, address.client() as client:
        for choice, status in (("cancel", "pending"), ("continue", "running")):
            gate.reached.clear()
            body = {**RUN, "if_not_exists": "create", "on_disconnect": choice}
            with closing(follow(client, f"/threads/{choice}/runs/stream", method="POST", json=body)) as stream:
                next(stream)
                assert gate.reached.wait(PATIENCE)
            for _ in range(2000):
                if {each.thread_id: each.status for each in graph.threads()}[choice] == status:
                    break
                time.sleep(0.01)
            assert {each.thread_id: each.status for each in graph.threads()}[choice] == status
        gate.open.set()


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
def test_with_curl(small: CompiledGraph[Any]) -> None:
    def curl(*arguments: str) -> str:
        done = subprocess.run(["curl", "-sS", "-N", *arguments], capture_output=True, text=True, timeout=PATIENCE)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    with serving({"g": small}, token="s3cret") as address:
        auth = ("-H", "Authorization: Bearer s3cret", "-H", "Content-Type: application/json")
        body = json.dumps({**RUN, "if_not_exists": "create", "stream_mode": ["updates", "values"]})
        out = curl(*auth, f"{address.url}/threads/t/runs/stream", "-d", body)
        lines = [line for line in out.splitlines() if line.startswith(("id:", "event:"))]
        assert lines == ["event: metadata", "id: 0", "event: values", "id: 1:1", "event: updates", "id: 1",
                         "event: values", "event: end"]  # fmt: skip
        path = f"{address.url}/threads/t/stream?stream_mode=updates&stream_mode=values&follow=false"
        rest = curl(*auth, "-H", "Last-Event-ID: 1:1", path)
        assert [line for line in rest.splitlines() if line.startswith("id:")] == ["id: 1"]
        assert '"status":401' in curl(f"{address.url}/info")
