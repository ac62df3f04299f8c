"""The server against those who mean harm or make mistakes: other pages and machines, odd ids, wrong values, and clients
that leave at the worst moment."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import operator
import threading
from collections.abc import Iterator
from typing import Annotated, Any, TypedDict
from urllib.parse import quote

import httpx
import pytest
from starlette.routing import Route

from durable_graph import START, ArgumentError, CompiledGraph, StateGraph
from durable_graph.cli.ending import Failure
from durable_graph.cli.serving import _token
from durable_graph.server import create_app, endpoints, running
from durable_graph.server.plain import to_json
from tests.graphs import until
from tests.serving import PATIENCE, events, follow, serving

RUN = {"assistant_id": "g", "input": {"n": 1}, "if_not_exists": "create"}


class State(TypedDict, total=False):
    n: Any
    log: Annotated[list[Any], operator.add]


def compiled(url: str, node: Any) -> CompiledGraph[Any]:
    return StateGraph(State).add_node("node", node).add_edge(START, "node").compile(url, name="g")


@pytest.fixture
def graph(database_url: str) -> Iterator[CompiledGraph[Any]]:
    graph = compiled(database_url, lambda state: {"log": ["node"]})
    yield graph
    graph.close()


@pytest.fixture
def small(sqlite_url: str) -> Iterator[CompiledGraph[Any]]:
    graph = compiled(sqlite_url, lambda state: {"log": ["node"]})
    yield graph
    graph.close()


# --- who may come in ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"token": ""},
        {"token": {}},
        {"token": {"lina": "s3cret", "otto": ""}},
        {"token": "two words"},
        {"token": "line\n"},
        {"token": "gehüpft"},
        {"cors": "https://*.example.org"},  # of its letters one is a star
        {"cors": ["example.org"]},
        {"cors": ["https://example.org/"]},
        {"hosts": "example.org"},
    ],
)
def test_settings_that_would_let_everybody_or_nobody_in(small: CompiledGraph[Any], settings: Any) -> None:
    with pytest.raises(ArgumentError, match=next(iter(settings))) as caught:
        create_app({"g": small}, **settings)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("wrong", [("c2VjcmV0MTIzNA==",), ("lina=",), ("a", "b"), ("lina=a", "lina=b")])
def test_tokens_of_the_command_line_that_are_not_what_they_seem(wrong: tuple[str, ...]) -> None:
    """What stands before the `==` of base64 is no name: then the token were `=`."""
    with pytest.raises(Failure):
        _token(wrong, "127.0.0.1")


def test_tokens_of_the_command_line() -> None:
    assert _token(("lina=a", "b"), "127.0.0.1") == {"lina": "a", "": "b"}
    assert _token(("=c2Vj==",), "127.0.0.1") == {"": "c2Vj=="}


OPEN = {"/", "/ok", "/ready", "/inspector"}


def test_every_route_asks_for_the_token(small: CompiledGraph[Any]) -> None:
    app = create_app({"g": small}, token="s3cret", recover=False)
    routes = [route for route in app.routes if isinstance(route, Route)]
    files = {route.path for route in routes if route.path.startswith("/inspector/") and "/api/" not in route.path}
    assert {"/inspector/", "/inspector/inspector.js"} <= files

    async def ask() -> None:
        transport = httpx.ASGITransport(app)
        home = app.state.house.lifespan()
        async with home, httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            for route in routes:
                for method in route.methods or ():
                    path = route.path.replace(":path", "").format(**dict.fromkeys(route.param_convertors, "x"))
                    answer = await client.request(method, path)
                    wanted = 401 if route.path not in OPEN | files else answer.status_code
                    assert (answer.status_code, method, path) == (wanted, method, path)
            for path in ("/inspector//api/about", "/inspector/x%2F..%2Fapi/about", "//inspector/api/about"):
                assert (await client.get(path)).status_code in (401, 404)

    asyncio.run(ask())


@pytest.mark.parametrize(
    ("client", "settings", "status"),
    [
        ("127.0.0.1", {}, 200),
        ("::1", {}, 200),
        ("::ffff:127.0.0.1", {}, 200),
        ("192.168.0.7", {}, 403),  # it says that it means localhost
        ("::ffff:192.168.0.7", {}, 403),
        ("192.168.0.7", {"hosts": ["localhost"]}, 200),  # somebody has decided so
        ("192.168.0.7", {"token": "s3cret"}, 200),
    ],
)
def test_without_a_token_only_this_machine(small: CompiledGraph[Any], client: str, settings: Any, status: int) -> None:
    app = create_app({"g": small}, recover=False, **settings)

    async def ask() -> int:
        transport = httpx.ASGITransport(app, client=(client, 7))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as asking:
            return (await asking.get("/info", headers={"x-api-key": "s3cret"})).status_code

    assert asyncio.run(ask()) == status


def test_a_page_of_another_origin_that_shows_no_origin(small: CompiledGraph[Any]) -> None:
    """As with <img src>, fetch(…, {mode: "no-cors"}) and links."""
    with serving({"g": small}) as address, address.client() as client:
        for where, status in (("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200)):
            headers = {"sec-fetch-site": where}
            assert client.get("/info", headers=headers).status_code == status
            assert client.get("/inspector/api/about", headers=headers).status_code == status
            assert client.get("/inspector/", headers=headers).status_code == 200
        for origin in ("http://[", "null", "://", "http://127.0.0.1"):
            assert client.get("/info", headers={"origin": origin}).status_code == 403


def test_nothing_is_redirected_to_where_the_host_header_says(small: CompiledGraph[Any]) -> None:
    with serving({"g": small}, token="s3cret") as address, address.client() as client:
        for path in ("/threads/", "/inspector/inspector.js/", "/inspector", "/"):
            for host in ("evil.example", "["):
                answer = client.get(path, headers={"host": host, "x-api-key": "s3cret"})
                assert answer.status_code in (307, 404)
                assert "evil" not in answer.headers.get("location", "")


# --- ids in addresses ---------------------------------------------------------------------------

IDS = [
    "a/b",
    "/",
    "//x.example/y",
    "a b",
    "a#b",
    "a?b=c&d",
    "%2F",
    "a%00b",
    "+;,",
    "é",
    "🙂",
    "\u202e",
    "a\nb",
    "a\r\nx: y",
]


def test_any_id_of_a_thread_can_stand_in_an_address(graph: CompiledGraph[Any]) -> None:
    with serving({"g": graph}) as address, address.client() as client:
        for thread_id in IDS:
            path = f"/threads/{quote(thread_id, safe='')}"
            with client.stream("POST", f"{path}/runs/stream", json=RUN) as begun:
                seen = [*events(begun.iter_lines())]
            again = client.get(begun.headers["location"])
            assert "x" not in again.headers
            assert again.headers["location"] == begun.headers["location"]
            rest = follow(client, again.headers["location"], seen[1].id)
            assert [each.id for each in rest] == [each.id for each in seen[2:]]
            assert client.get(path).json()["thread_id"] == thread_id
            told = client.get("/inspector/api/thread", params={"thread": thread_id}).json()
            assert told["thread"]["id"] == thread_id
            assert client.delete(path).status_code == 204


def test_a_nul_is_no_slash(small: CompiledGraph[Any]) -> None:
    with serving({"g": small}) as address, address.client() as client:
        client.post("/threads", json={"thread_id": "a/b"})
        assert client.get("/threads/a%2Fb").status_code == 200
        assert client.get("/threads/a%00b").status_code == 404


# --- values -------------------------------------------------------------------------------------


def test_whole_numbers_keep_their_digits(graph: CompiledGraph[Any]) -> None:
    large = 123456789012345678901234567890
    with serving({"g": graph}) as address, address.client() as client:
        client.post("/threads/t/runs/wait", json={**RUN, "input": {"n": [large, 2**63, -(2**63) - 1, 1.5]}})
        assert graph.get_state({"thread_id": "t"}).values["n"] == [large, 2**63, -(2**63) - 1, 1.5]
        assert client.get("/threads/t/state").json()["values"]["n"][0] == str(large)
        shown = client.get("/inspector/api/state", params={"thread": "t", "step": 1}).json()["values"]["parts"]
        assert dict(shown)["n"]["parts"][0] == {"kind": "atom", "type": "int", "text": str(large)}


DEEP = '{"assistant_id": "g", "input": {"n": ' + "[" * 10_000 + "]" * 10_000 + "}}"
LONG = '{"assistant_id": "g", "input": {"n": ' + "9" * 5000 + "}}"


WRONG: list[tuple[str, str, Any]] = [
    ("POST", "/runs/wait", DEEP),
    ("POST", "/runs/wait", LONG),
    ("POST", "/runs/wait", '{"assistant_id": "g", "input": {"n": NaN}}'),
    ("POST", "/runs/wait", '{"assistant_id": "g", "input": {"n": 1e999}}'),
    ("POST", "/runs/wait", '{"assistant_id": "g", "input": {"n": "\\ud800"}}'),
    ("POST", "/threads/t/runs/wait", {**RUN, "config": {"configurable": 7}}),
    ("POST", "/threads/t/runs/wait", {**RUN, "config": {"metadata": 7}}),
    ("POST", "/threads/t/fork", {"checkpoint_id": "x"}),
    ("POST", "/threads/t/fork", {"checkpoint_id": "9" * 5000}),
    ("POST", "/threads/t/fork", {"step": 2**64 - 1}),
    ("POST", "/threads/t/history", {"before": {"configurable": 7}}),
    ("GET", f"/threads/t/state/{'9' * 5000}", None),
    ("GET", f"/inspector/api/threads?after={'[' * 20_000}", None),
    ("GET", "/inspector/api/thread?thread=%00", None),
    ("POST", "/threads/search", {"offset": 2**63}),
    ("GET", f"/inspector/api/state?thread=t&step=1&of=values&place={'9' * 5000}", None),
]


def test_what_is_wrong_is_the_clients_mistake(small: CompiledGraph[Any]) -> None:
    headers = {"content-type": "application/json"}
    with serving({"g": small}) as address, address.client() as client:
        client.post("/threads/t/runs/wait", json=RUN)
        for method, path, body in WRONG:
            content = body if body is None or isinstance(body, str) else json.dumps(body)
            answer = client.request(method, path, content=content, headers=headers)
            assert answer.status_code in (404, 422), (path[:60], content, answer.text)
            assert answer.json()["detail"]
        assert client.get("/assistants/g/graph", params={"xray": "9" * 5000}).status_code == 200


def test_large_answers_are_made_where_they_hold_up_nobody(
    small: CompiledGraph[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def noted(value: Any) -> bytes:
        made.append(threading.current_thread().name.rpartition("_")[0])
        return to_json(value)

    for module in (endpoints, running):
        monkeypatch.setattr(module, "to_json", noted)
    with serving({"g": small}) as address, address.client() as client:
        made.clear()  # it was asked whether it is there
        client.post("/threads/t/runs/wait", json=RUN)
        for path in ("/threads/t", "/threads/t/state", "/threads/t/history"):
            client.get(path)
        client.post("/threads/search", json={})
    assert made == ["durable_graph_server"] * 5


@dataclasses.dataclass
class Unfinished:
    missing: int = dataclasses.field(init=False)


class Mute:
    def __repr__(self) -> str:
        raise RuntimeError("no")


def test_a_value_that_cannot_be_shown_ends_nobodys_run() -> None:
    deep: Any = None
    for _ in range(1000):
        deep = [deep]
    shown = json.loads(to_json([Unfinished(), {1, Mute()}, 10**5000, 7]))
    assert shown[0] == "<Unfinished: it cannot be shown: AttributeError>"
    assert [text.rpartition(": ")[2] for text in shown[1:3]] == ["RuntimeError>", "ValueError>"]
    assert shown[3] == 7
    assert "…" in to_json(deep).decode()


# --- runs of others, and clients that leave -------------------------------------------------------


def test_a_run_is_found_on_its_own_thread_alone(small: CompiledGraph[Any]) -> None:
    with serving({"g": small}) as address, address.client() as client:
        runs = {}
        for thread_id in ("a", "b"):
            for _ in range(2):
                client.post(f"/threads/{thread_id}/runs/wait", json=RUN)
            runs[thread_id] = [each["run_id"] for each in client.get(f"/threads/{thread_id}/runs").json()]
        newest = f"/threads/a/runs/{runs['a'][0]}/stream"
        all_of_it = [each.id for each in follow(client, newest)]
        for seen in ("0", "1"):  # of the run before it
            assert [each.id for each in follow(client, newest, seen)] == all_of_it
        for headers in ({}, {"last-event-id": "1"}):
            assert client.get(f"/threads/a/runs/{runs['b'][0]}/stream", headers=headers).status_code == 404
            assert client.get("/threads/a/runs/nope/stream", headers=headers).status_code == 404


def test_a_run_is_cancelled_by_its_own_thread_alone(sqlite_url: str) -> None:
    reached, gate = threading.Event(), threading.Event()

    async def wait(state: State) -> State:
        reached.set()
        await until(gate)
        return {}

    graph = compiled(sqlite_url, wait)
    with serving({"g": graph}) as address, address.client() as client:
        client.post("/threads", json={"thread_id": "other"})
        run_id = client.post("/threads/t/runs", json=RUN).json()["run_id"]
        assert reached.wait(PATIENCE)
        for thread_id in ("other", "nope"):
            assert client.post(f"/threads/{thread_id}/runs/{run_id}/cancel").status_code == 404
            assert client.get(f"/threads/{thread_id}/runs/{run_id}/stream?cancel_on_disconnect=1").status_code == 404
        assert client.post("/threads/t/runs", json=RUN).status_code == 409
        gate.set()
        assert client.get(f"/threads/t/runs/{run_id}/join").json() == {"n": 1, "log": []}
    graph.close()


@pytest.mark.parametrize("path", ["/runs/stream", "/runs/wait"])
@pytest.mark.parametrize("breaks", [True, False])
def test_who_leaves_before_the_answer_begins_cancels_too(sqlite_url: str, path: str, breaks: bool) -> None:
    """With `on_disconnect: cancel`: otherwise nobody would ever stop that run."""

    async def wait(state: State) -> State:
        await asyncio.Event().wait()
        return {}

    graph = compiled(sqlite_url, wait)
    body = json.dumps({**RUN, "on_disconnect": "cancel"}).encode()
    app = create_app({"g": graph}, recover=False)
    house = app.state.house

    async def leave() -> None:
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Any:
            return messages.pop() if messages else {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if breaks:
                raise OSError("gone")
            await asyncio.sleep(0)

        async with house.lifespan():
            try:
                await app(scope_of(path), receive, send)
            except OSError:
                assert breaks
            tasks = [run.task for run in house.runs.under_way()]
            await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE)
            assert [thread.status for thread in graph.threads()] == ["pending"]

    asyncio.run(leave())
    graph.close()


def scope_of(path: str) -> dict[str, Any]:
    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    return {
        "type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"",
        "headers": headers, "client": ("127.0.0.1", 7), "server": ("127.0.0.1", 80), "scheme": "http",
        "http_version": "1.1", "asgi": {"version": "3.0", "spec_version": "2.3"}, "state": {},
    }  # fmt: skip
