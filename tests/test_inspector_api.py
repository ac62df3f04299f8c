"""What the inspector's page asks the server for, and the page's own files: bounded, guarded, and text alone."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import http.client
import json
import math
import operator
import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypedDict
from urllib.parse import urlencode, urlsplit

import pytest

from durable_graph import (
    END,
    START,
    ArgumentError,
    CompiledGraph,
    Send,
    StateGraph,
    StoreError,
    Unregistered,
    interrupt,
)
from durable_graph.server import create_app, inspector
from durable_graph.server.inspector.values import PARTS, VALUES, shown, shown_part
from tests.serving import LIMITS, listening

STATIC = Path(inspector.__file__).with_name("static")


class State(TypedDict, total=False):
    n: int
    who: Any


class Many(TypedDict, total=False):
    who: Annotated[list[Any], operator.add]


def counter(url: str, name: str = "counter", to: int = 3) -> CompiledGraph[Any]:
    builder = StateGraph(State).add_node("count", lambda state: {"n": state.get("n", 0) + 1}).add_edge(START, "count")
    builder.add_conditional_edges("count", lambda state: "count" if state["n"] < to else END, ["count", END])
    return builder.compile(url, name=name)


def asking(url: str) -> CompiledGraph[Any]:
    builder = StateGraph(State).add_node("ask", lambda state: {"who": interrupt("who?")}).add_edge(START, "ask")
    return builder.compile(url, name="asking")


def at(name: str) -> dict[str, Any]:
    return {"configurable": {"thread_id": name}}


class Client:
    """Plain HTTP."""

    def __init__(self, base: str, headers: dict[str, str] | None = None) -> None:
        self.host, self.headers = urlsplit(base).netloc, headers or {}

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, dict[str, str]]:
        with closing(http.client.HTTPConnection(self.host, timeout=30)) as connection:
            data = None if body is None else json.dumps(body)
            sent = {**self.headers, **({"content-type": "application/json"} if data else {}), **headers}
            connection.request(method, f"/inspector{path}", data, sent)
            answer = connection.getresponse()
            content, kind = answer.read(), answer.getheader("content-type", "")
            told = json.loads(content) if "json" in kind and "jsonl" not in kind else content.decode()
            return answer.status, told, {name.lower(): value for name, value in answer.getheaders()}

    def get(self, path: str, **query: Any) -> Any:
        status, told, _ = self.ask("GET", f"/api/{path}?{urlencode(query)}")
        assert status == 200, told
        return told

    def refused(self, path: str, **query: Any) -> tuple[int, str | None, str]:
        status, told, headers = self.ask("GET", f"/api/{path}?{urlencode(query)}")
        assert headers["content-type"] == "application/problem+json"
        return status, told.get("field"), told["detail"]


@pytest.fixture
def serving() -> Iterator[Any]:
    """serving(graph, ..., settings) -> Client"""
    with ExitStack() as stack:

        def start(*graphs: CompiledGraph[Any], headers: dict[str, str] | None = None, **settings: Any) -> Client:
            for graph in graphs:
                stack.callback(graph.close)
            app = create_app({graph.name: graph for graph in graphs}, recover=False, limits=LIMITS, **settings)
            return Client(stack.enter_context(listening(app)), headers)

        yield start


# --- values -------------------------------------------------------------------------------------


@dataclasses.dataclass
class Line:
    sku: str
    count: int


class Point(NamedTuple):
    x: int
    y: int


class Colour(enum.Enum):
    RED = 1


class Odd:
    def __repr__(self) -> str:
        raise RuntimeError("no")

    __str__ = __repr__


def atom(kind: str, text: str) -> dict[str, str]:
    return {"kind": "atom", "type": kind, "text": text}


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (None, None),
        (True, True),
        (12, 12),
        (-1.5, -1.5),
        ("<b>", "<b>"),
        (2**60, atom("int", str(2**60))),
        (math.inf, atom("float", "inf")),
        (math.nan, atom("float", "nan")),
        (Decimal("1.50"), atom("Decimal", "1.50")),
        (b"ab", atom("bytes", "b'ab'")),
        (datetime.date(2026, 1, 2), atom("date", "2026-01-02")),
        (Colour.RED, atom("Colour", "Colour.RED")),
        (Odd(), atom("Odd", "<its text cannot be made: RuntimeError>")),
        ((1, 2), {"kind": "list", "type": "tuple", "size": 2, "parts": [1, 2]}),
        ({2, 1}, {"kind": "list", "type": "set", "size": 2, "parts": [1, 2]}),
        (
            {1: "a", "1": "b"},
            {"kind": "map", "type": "dict", "size": 2, "parts": [[{"type": "int", "text": "1"}, "a"], ["1", "b"]]},
        ),
        (Line("A", 2), {"kind": "map", "type": "Line", "size": 2, "parts": [["sku", "A"], ["count", 2]]}),
        (Point(1, 2), {"kind": "map", "type": "Point", "size": 2, "parts": [["x", 1], ["y", 2]]}),
        (
            Unregistered("app:Money", {"cents": 5}),
            {"kind": "map", "type": "app:Money (not registered here)", "size": 1, "parts": [["cents", 5]]},
        ),
        ("x" * 1001, {"kind": "text", "size": 1001, "text": "x" * 1000}),
    ],
)
def test_each_value_is_shown_with_its_type(value: Any, wanted: Any) -> None:
    assert shown(value) == wanted


def test_a_large_value_comes_in_pieces() -> None:
    large = {f"k{number}": [{"a": [*range(300)]} for _ in range(200)] for number in range(250)}
    told = shown(large)
    assert (told["size"], len(told["parts"])) == (250, PARTS)
    assert len(json.dumps(told)) < 60 * VALUES
    found: list[Any] = []
    while len(found) < 250:
        found += shown_part(large, "", len(found))["parts"]
    assert [key for key, _ in found] == [*large]
    inner = shown_part(large, "249.199.0", 200)
    assert (inner["size"], inner["parts"]) == (300, [*range(200, 300)])


def test_a_value_nested_deep_is_no_trouble() -> None:
    value: Any = 1
    for _ in range(400):
        value = [value]
    assert shown(value)["size"] == 1
    assert shown_part(value, ".".join(["0"] * 399))["parts"] == [1]


@pytest.mark.parametrize("place", ["5", "0.0", "x", "-1", "0."])
def test_a_place_that_is_not_there(place: str) -> None:
    with pytest.raises(ArgumentError, match="place"):
        shown_part({"a": 1}, place)


# --- reading --------------------------------------------------------------------------------------


def test_pages_of_several_databases_are_one_list(database_url: str, tmp_path: Path, serving: Any) -> None:
    one, other = counter(database_url, "one"), counter(f"sqlite:///{tmp_path / 'other.db'}", "other")
    for number in range(7):
        for graph in (one, other):
            graph.invoke({"n": 2}, at(f"{graph.name}-{number}"))
    client, found, after = serving(one, other), [], {}
    while True:
        page = client.get("threads", limit=3, **after)
        found += [thread["id"] for thread in page["threads"]]
        if page["next"] is None:
            break
        after = {"after": page["next"]}
    assert found == [f"{name}-{number}" for number in reversed(range(7)) for name in ("other", "one")]
    assert [each["id"] for each in client.get("threads", text="ONE-3")["threads"]] == ["one-3"]
    assert client.get("threads", status="failed,interrupted") == {"threads": [], "next": None}
    assert len(client.get("threads", graph="other")["threads"]) == 7


def test_a_thread_and_its_steps(database_url: str, serving: Any) -> None:
    graph = counter(database_url)
    graph.invoke({"n": 0}, {**at("a"), "metadata": {"actor": "ada"}})
    client = serving(graph)
    told = client.get("thread", thread="a")
    assert (told["first"], told["last"], told["next"], told["questions"], told["error"]) == (0, 3, [], [], None)
    assert told["thread"]["known"] is True
    entries = client.get("timeline", thread="a", after=0, limit=2)["entries"]
    assert [(entry["step"], entry["node"], entry["actor"], entry["next"]) for entry in entries] == [
        (1, "count", "ada", ["count"]), (2, "count", "ada", ["count"]),
    ]  # fmt: skip
    assert entries[0]["duration"] >= 0
    step = client.get("step", thread="a", step=2)
    assert step["update"]["parts"] == [["n", 2]]
    assert client.get("state", thread="a", step=2)["values"]["parts"] == [["n", 2]]
    assert client.get("state", thread="a", step=2, of="values", place="0") == {"part": 2}
    changes = client.get("difference", thread="a", step=1, other_thread="a", other=3)
    assert changes == {
        "size": 1,
        "changes": [{"path": "state['n']", "kind": "changed", "before": 1, "after": 3}],
    }
    drawn = client.get("graph", thread="a", step=1)
    assert drawn["nodes"] == [{"name": "count", "state": "next", "calls": 1}]
    assert drawn["svg"].startswith("<svg")
    assert client.get("figures", thread="a")["nodes"][0]["calls"] == 3
    assert client.get("verify", thread="a")["ok"] is True


def test_a_graph_that_the_server_does_not_have_can_be_looked_at(database_url: str, serving: Any) -> None:
    graph = asking(database_url)
    graph.invoke({}, at("a"))
    graph.close()
    client = serving(counter(database_url))
    assert client.get("thread", thread="a")["thread"]["known"] is False
    assert client.get("graph", thread="a")["words"] == "This server does not have the graph 'asking'; it has: counter."
    status, told, _ = client.ask("POST", "/api/resume", {"thread": "a"})
    assert (status, told["detail"].partition("; ")[0]) == (
        409,
        "Thread 'a' is of the graph 'asking', and this server has: counter. Start one with that graph.",
    )


@pytest.mark.parametrize(
    ("path", "query", "status", "field"),
    [
        ("thread", {}, 422, "thread"),
        ("thread", {"thread": "none"}, 404, None),
        ("state", {"thread": "a"}, 422, "step"),
        ("state", {"thread": "a", "step": "x"}, 422, "step"),
        ("state", {"thread": "a", "step": 99}, 404, None),
        ("step", {"thread": "a", "step": 99}, 404, None),
        ("step", {"thread": "a", "step": 0, "of": "x"}, 422, "of"),
        ("state", {"thread": "a", "step": 0, "of": "values", "place": "7"}, 422, "place"),
        ("timeline", {"thread": "a", "limit": 501}, 422, "limit"),
        ("threads", {"after": "x"}, 422, "after"),
        ("threads", {"after": "[1]"}, 422, "after"),
        ("threads", {"status": "odd"}, 422, "status"),
        ("threads", {"order": "x"}, 422, "order"),
        ("difference", {"thread": "a"}, 422, "other_thread"),
        ("difference", {"thread": "a", "other_thread": "b"}, 404, None),
        ("live", {"thread": "b"}, 404, None),
        ("export", {"thread": "b"}, 404, None),
    ],
)
def test_what_is_refused(path: str, query: Any, status: int, field: str, sqlite_url: str, serving: Any) -> None:
    graph = counter(sqlite_url)
    graph.invoke({"n": 0}, at("a"))
    found = serving(graph).refused(path, **query)
    assert found[:2] == (status, field), found


# --- acting ---------------------------------------------------------------------------------------


def test_an_answer_that_fits_no_question(database_url: str, serving: Any) -> None:
    graph = asking(database_url)
    graph.invoke({}, at("a"))
    client = serving(graph)
    status, told, _ = client.ask("POST", "/api/answer", {"thread": "a", "answers": {"0" * 32: 1}})
    assert (status, told["error"]) == (422, "UnknownInterruptError")
    for answers in ({}, {"x": 1}):  # of which the second would be taken for the answer itself
        status, told, _ = client.ask("POST", "/api/answer", {"thread": "a", "answers": answers})
        assert (status, told["field"]) == (422, "answers")
    (question,) = client.get("thread", thread="a")["questions"]
    body = {"thread": "a", "answers": {question["id"]: [1]}}
    status, told, _ = client.ask("POST", "/api/answer", body, **{"x-actor": "eve"})
    assert (status, [*told]) == (200, ["run_id"])
    for _ in graph.follow(at("a"), timeout=20):
        pass
    assert graph.get_state(at("a")).values == {"who": [1]}
    assert [entry.actor for entry in graph.timeline(at("a"))][-1] == "eve"


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("fork", {"thread": "a", "step": 0}, "to"),
        ("fork", {"thread": "a", "step": "x", "to": "b"}, "step"),
        ("fork", {"thread": "a", "step": 0, "to": ""}, "to"),
        ("fork", {"thread": "a", "step": 0, "to": "b", "more": 1}, "more"),
        ("signal", {"thread": "a", "name": "x"}, "value"),
        ("answer", {"thread": "a", "answers": 1}, "answers"),
        ("resume", {}, "thread"),
        ("cancel", [], ""),
    ],
)
def test_a_body_with_a_wrong_field(path: str, body: Any, field: str, sqlite_url: str, serving: Any) -> None:
    graph = counter(sqlite_url)
    graph.invoke({"n": 0}, at("a"))
    status, told, _ = serving(graph).ask("POST", f"/api/{path}", body)
    assert (status, told["field"]) == (422, field)


def test_a_form_of_another_page_is_refused(sqlite_url: str, serving: Any) -> None:
    """What a browser sends without asking first: no other media type, no other host, no other origin."""
    graph = counter(sqlite_url)
    graph.invoke({"n": 0}, at("a"))
    client, body = serving(graph), {"thread": "a", "step": 0, "to": "b"}
    assert client.ask("POST", "/api/fork", body, **{"content-type": "text/plain"})[0] == 415
    assert client.ask("POST", "/api/fork", body, origin="https://example.org")[0] == 403
    assert client.ask("POST", "/api/fork", body, host="example.org")[0] == 421
    assert len(graph.threads()) == 1


def test_read_only_and_tokens_hold_for_all_of_it(sqlite_url: str, serving: Any) -> None:
    graph = counter(sqlite_url)
    graph.invoke({"n": 0}, at("a"))
    client = serving(graph, token="s3cret", read_only=True)
    reads = ("about", "threads", "thread", "timeline", "step", "state", "difference", "graph", "figures", "verify")
    for name in (*reads, "export", "live"):
        assert client.ask("GET", f"/api/{name}?thread=a")[0] == 401, name
    assert client.ask("GET", "/")[0] == 200  # the page itself holds no data
    client.headers = {"authorization": "Bearer s3cret"}
    for name in ("answer", "resume", "fork", "signal", "cancel"):
        status, told, _ = client.ask("POST", f"/api/{name}", {"thread": "a"})
        assert (status, "read-only" in told["detail"]) == (403, True), name
    assert client.get("about")["read_only"] is True


# --- live -----------------------------------------------------------------------------------------


class Stream:
    """Server-sent events, as they come."""

    def __init__(self, client: Client, **query: Any) -> None:
        self._connection = http.client.HTTPConnection(client.host, timeout=30)
        self._connection.request("GET", f"/inspector/api/live?{urlencode(query)}")
        self._answer = self._connection.getresponse()
        assert self._answer.getheader("content-type", "").startswith("text/event-stream")

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        name = ""
        for line in self._answer:
            key, _, value = line.decode().rstrip("\n").partition(": ")
            if key == "event":
                name = value
            elif key == "data":
                yield name, json.loads(value)

    def close(self) -> None:
        self._answer.close()
        self._connection.close()


def steps_of(stream: Stream, last: int) -> list[int]:
    steps: list[int] = []
    for name, data in stream:
        if name == "rows":
            steps += [entry["step"] for entry in data["entries"]]
        if steps and steps[-1] == last:
            return steps
    raise AssertionError(f"the stream has ended at {steps}")


def test_rows_come_once_and_in_order(database_url: str, serving: Any) -> None:
    graph = counter(database_url, to=1200)
    run = graph.stream({"n": 0}, {**at("a"), "recursion_limit": 2000})
    for _, _ in zip(range(5), run, strict=False):
        pass
    client = serving(graph)
    with closing(Stream(client, thread="a", after=2)) as stream:
        others = threading.Thread(target=lambda: [*run])
        others.start()
        assert steps_of(stream, 1200) == [*range(3, 1201)]
        others.join()
    with closing(Stream(client, thread="a", after=1100)) as stream:
        assert steps_of(stream, 1200) == [*range(1101, 1201)]


def test_changed_threads_are_told(database_url: str, serving: Any) -> None:
    graph = counter(database_url)
    graph.invoke({"n": 0}, at("old"))
    with closing(Stream(serving(graph))) as stream:
        events = iter(stream)
        assert next(events) == ("hello", {})
        graph.invoke({"n": 0}, at("new"))
        assert next(events) == ("threads", {"ids": ["new"]})


def test_streams_end_when_the_server_does(sqlite_url: str) -> None:
    graph = counter(sqlite_url)
    graph.invoke({"n": 0}, at("a"))
    app = create_app({"counter": graph}, recover=False)
    with (
        listening(app) as base,
        closing(Stream(Client(base), thread="a")) as one,
        closing(Stream(Client(base))) as other,
    ):
        for stream in (one, other):
            assert next(iter(stream))[0] == "hello"
        app.state.house.hub.close()
        for stream in (one, other):
            assert [name for name, _ in stream if name not in ("rows", "thread")] == []
    graph.close()


def test_a_stream_ends_when_the_database_cannot_be_read(
    sqlite_url: str, serving: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    graph = counter(sqlite_url)
    client = serving(graph)

    def fail(self: Any) -> Any:
        raise StoreError(store="it", problem="is gone", fix="Wait.")

    with closing(Stream(client)) as stream:
        events = iter(stream)
        assert next(events)[0] == "hello"
        monkeypatch.setattr("durable_graph.server.inspector.live.Changes._newest", fail)
        assert [*events] == []
    assert "the inspector cannot see what is new: it: is gone. Wait." in caplog.text


# --- the page's files -----------------------------------------------------------------------------


def test_each_file_is_served_with_a_strict_policy(sqlite_url: str, serving: Any) -> None:
    client = serving(counter(sqlite_url))
    for path in STATIC.iterdir():
        name = "" if path.name == "index.html" else path.name
        status, content, headers = client.ask("GET", f"/{name}")
        assert (status, content) == (200, path.read_text(encoding="utf-8"))
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert client.ask("GET", f"/{name}", **{"if-none-match": headers["etag"]})[:2] == (304, "")
    for name in ("..%2f__init__.py", "../__init__.py", "values.py", "none.js"):
        assert client.ask("GET", f"/{name}")[0] == 404
    status, _, headers = client.ask("GET", "?thread=a")
    assert (status, headers["location"]) == (307, "inspector/?thread=a")


@pytest.mark.parametrize("path", sorted(STATIC.glob("*.js")), ids=lambda path: path.name)
def test_no_file_parses_markup_or_names_another_host(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    wrong = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser|srcdoc|https?://"
    assert re.findall(wrong, text) == []


def test_the_page_has_no_script_or_style_of_its_own() -> None:
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    assert re.findall(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=|https?://", page) == []
    for name in re.findall(r'(?:src|href)="([^"#]+)"', page):
        assert (STATIC / name).is_file()
    assert "https:" not in (STATIC / "inspector.css").read_text(encoding="utf-8")


def test_a_subgraph_is_gone_on_with_by_its_caller(sqlite_url: str, serving: Any) -> None:
    """A subgraph's run is gone on with by who called it."""
    below = asking(sqlite_url)
    above = StateGraph(State).add_node("below", below).add_edge(START, "below").compile(sqlite_url, name="above")
    above.invoke({}, at("a"))
    (child,) = [thread for thread in above.threads() if thread.called_by]
    client = serving(above, below)
    status, told, _ = client.ask("POST", "/api/resume", {"thread": child.thread_id})
    assert (status, "go on with 'a'" in told["detail"]) == (409, True)
    (question,) = client.get("thread", thread="a")["questions"]
    assert client.ask("POST", "/api/answer", {"thread": "a", "answers": {question["id"]: 1}})[0] == 200
    for _ in above.follow(at("a"), timeout=20):
        pass
    assert above.get_state(at("a")).values == {"who": 1}


def test_many_tasks_are_told_in_few_words(sqlite_url: str, serving: Any) -> None:
    def ask(state: Any) -> Many:
        return {"who": [interrupt(state)]}

    builder = StateGraph(Many).add_node("ask", ask)
    builder.add_conditional_edges(START, lambda state: [Send("ask", {"n": n}) for n in range(250)], ["ask"])
    graph = builder.compile(sqlite_url, name="many")
    graph.invoke({}, at("a"))
    client = serving(graph)
    told = client.get("thread", thread="a")
    assert (told["next"], told["asked"], len(told["questions"])) == (["ask (250 times)"], 250, 200)
    entry = client.get("timeline", thread="a", limit=1)["entries"][0]
    assert entry["next"] == ["ask (250 times)"]
    state = client.get("state", thread="a", step=0)
    assert (state["size"], len(state["tasks"])) == (250, 200)
