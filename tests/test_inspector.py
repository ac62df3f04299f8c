"""The inspector in a real browser: what a person sees, types and clicks."""

from __future__ import annotations

import json
import operator
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, TypedDict
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from durable_graph import (
    END,
    START,
    Command,
    CompiledGraph,
    Runtime,
    StateGraph,
    Thread,
    interrupt,
    verify_export,
)
from durable_graph.server import create_app
from durable_graph.server.house import ServerLimits
from durable_graph.store import Row
from durable_graph.store.sql import SqlStore
from tests.browser import Chromium, Visitor, chromium, in_browser, picture, playwright
from tests.serving import LIMITS, listening

pytestmark = pytest.mark.timeout(120)
expect = playwright.expect
SCREENSHOTS = Path(__file__).with_name("screenshots")
SCRIPT = "<script>window.ran = true</script>"
IMAGE = "<img src=x onerror='window.ran = true'>"
Serve = Callable[..., str]


# --- graphs and servers -------------------------------------------------------------------------


class Order(TypedDict, total=False):
    item: str
    price: float
    lines: Annotated[list[Any], operator.add]
    note: str
    approved_by: str


def price(order: Order) -> Order:
    return {"price": 12.5, "lines": [{"sku": "A-1", "count": 2}], "note": "priced"}


def approve(order: Order) -> Order:
    return {"approved_by": interrupt({"question": "Send it?", "item": order["item"]})}


def ship(order: Order) -> Order:
    if order["item"] == "broken":
        raise ValueError("the warehouse does not answer")
    return {"note": "shipped"}


def shop(url: str) -> CompiledGraph[Any]:
    builder = StateGraph(Order).add_sequence([price, approve, ship]).add_edge(START, "price")
    return builder.compile(url, name="shop")


class Count(TypedDict, total=False):
    n: int


def counter(url: str, to: int = 3, gate: threading.Event | None = None) -> CompiledGraph[Any]:
    """Counts up to `to`; with a gate each step waits until it is open."""

    def count(state: Count) -> Count:
        assert gate is None or gate.wait(20)
        return {"n": state.get("n", 0) + 1}

    builder = StateGraph(Count).add_node(count).add_edge(START, "count")
    builder.add_conditional_edges("count", lambda state: "count" if state["n"] < to else END, ["count", END])
    return builder.compile(url, name="counter")


def waiter(url: str) -> CompiledGraph[Any]:
    def wait(state: Count, runtime: Runtime) -> Count:
        return {"n": runtime.wait_for("go", timeout=86400)["n"]}

    return StateGraph(Count).add_node(wait).add_edge(START, "wait").compile(url, name="waiter")


@pytest.fixture(scope="module")  # and not session: what comes after in this process counts threads, and forks
def browser() -> Iterator[Chromium]:
    path = chromium()
    if path is None:
        pytest.skip("no chromium is installed: apt-get install chromium, or name one in DURABLE_GRAPH_TEST_CHROMIUM")
    opened = Chromium(path)
    try:
        opened.run(opened.open)
        yield opened
    finally:
        opened.run(opened.close)
        opened.end()


@pytest.fixture
def visitor(browser: Chromium) -> Iterator[Visitor]:
    found = Visitor(browser)
    yield found
    browser.run(found.leave)
    found.check()


@pytest.fixture
def serve() -> Iterator[Serve]:
    """serve(graph, ..., token=...) -> the address of the page."""
    with ExitStack() as stack:

        def start(*graphs: CompiledGraph[Any], mounted: bool = False, **settings: Any) -> str:
            for graph in graphs:
                stack.callback(graph.close)
            settings = {"limits": LIMITS, **settings}
            app = create_app({graph.name: graph for graph in graphs}, recover=False, **settings)
            house, mounts = app.state.house, [Mount("/tools", app), Mount("/", app)]
            outer = Starlette(routes=mounts, lifespan=house.lifespan) if mounted else app
            return stack.enter_context(listening(outer, house.close)) + ("/tools" if mounted else "") + "/inspector/"

        yield start


def at(name: str, **config: Any) -> dict[str, Any]:
    return {"configurable": {"thread_id": name, **config}}


def asked(graph: CompiledGraph[Any], name: str, item: str = "lamp") -> None:
    graph.invoke({"item": item}, {**at(name), "metadata": {"actor": "ada"}})


def ordered(graph: CompiledGraph[Any], name: str, item: str = "lamp") -> None:
    asked(graph, name, item)
    graph.invoke(Command(resume="bob"), at(name))


def query(url: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


def refusal(url: str, body: Any = None) -> Any:
    """What the server tells in an answer that is an error."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"} if data else {})
    with pytest.raises(urllib.error.HTTPError) as found:
        urllib.request.urlopen(request)
    with found.value:
        assert found.value.headers["content-type"] == "application/problem+json"
        return json.loads(found.value.read())


# --- the list -----------------------------------------------------------------------------------


@in_browser
def test_threads_are_listed_searched_and_filtered(sqlite_url: str, serve: Serve, visitor: Visitor) -> None:
    graph, count = shop(sqlite_url), counter(sqlite_url)
    ordered(graph, "order-1")
    asked(graph, "order-2")
    with pytest.raises(ValueError, match="warehouse"):
        ordered(graph, "order-3", "broken")
    store = SqlStore(sqlite_url)
    store.restore([thread_row(0, thread_id="count-1", metadata='{"customer":"Zoë 50%"}'.encode())])
    store.close()
    page = visitor.visit(serve(graph, count))
    rows = page.locator("#threads .row")
    rows.nth(3).wait_for()
    assert [row.split("\n")[0] for row in rows.all_inner_texts()] == ["order-3", "order-2", "order-1", "count-1"]
    for status in ("finished", "failed", "interrupted"):
        assert page.locator(f"#threads .status.{status}").first.inner_text() == status

    def narrowed(names: list[str]) -> None:
        expect(page.locator("#threads .id")).to_have_text(names)
        expect(page.locator("#threads-note")).to_have_text(f"{len(names)} thread{'s' * (len(names) > 1)}")

    page.fill("#search", "ORDER-2")
    narrowed(["order-2"])
    assert query(page.url) == {"text": "ORDER-2"}
    page.fill("#search", "zoë 50%")  # in the metadata; % stands for itself
    narrowed(["count-1"])
    page.fill("#search", "")
    page.select_option("[name=status]", "failed")
    narrowed(["order-3"])
    page.select_option("[name=status]", "")
    page.select_option("[name=graph]", "shop")
    narrowed(["order-3", "order-2", "order-1"])
    page.select_option("[name=age]", "older-86400")
    page.get_by_text("No thread is like that.").wait_for()
    page.select_option("[name=age]", "newer-3600")
    narrowed(["order-3", "order-2", "order-1"])
    page.reload()
    narrowed(["order-3", "order-2", "order-1"])
    assert page.input_value("[name=graph]") == "shop"


def thread_row(number: int, **columns: Any) -> Thread:
    empty: dict[str, Any] = dict.fromkeys(Thread._fields)
    made = f"2026-01-01T{number // 3600:02}:{number // 60 % 60:02}:{number % 60:02}.000000Z"
    told = {"graph": "counter", "fingerprint": "", "status": "finished", "epoch": 1, "metadata": b"{}"}
    return Thread(**{**empty, **told, "thread_id": f"t-{number:05}", "created_at": made, "updated_at": made, **columns})


@in_browser
def test_ten_thousand_threads_come_a_page_at_a_time(sqlite_url: str, serve: Serve, visitor: Visitor) -> None:
    store = SqlStore(sqlite_url)
    store.restore([thread_row(0)])
    store.restore(thread_row(number) for number in range(1, 10_000))
    store.close()
    page = visitor.visit(serve(counter(sqlite_url)))
    page.get_by_text("t-09999").wait_for()
    assert len(visitor.asked("/threads")) == 1
    assert page.locator("#threads .row").count() < 40
    for loaded in (200, 300):
        page.evaluate("document.getElementById('threads').scrollTop = 1e9")
        page.get_by_text(f"the newest {loaded} threads").wait_for()
    assert len(visitor.asked("/threads")) == 3
    assert page.locator("#threads .row").count() < 40
    page.fill("#search", "t-00042")
    page.get_by_text("1 thread", exact=True).wait_for()
    assert page.locator("#threads .row").count() == 1
    assert len(visitor.asked("/threads")) == 4


# --- the timeline -------------------------------------------------------------------------------


def long_thread(url: str, name: str, steps: int) -> None:
    """As `counter` would have written it."""
    store, graph = SqlStore(url), counter(url, to=3)
    graph.invoke({"n": 0}, at(f"{name}-pattern"))
    pattern = [*store.rows(f"{name}-pattern")]
    first, task = pattern[0]._replace(thread_id=name), pattern[1]._replace(thread_id=name)

    def row(step: int) -> Row:
        body = task.body.replace(b'"update":{"n":1}', b'"update":{"n":%d}' % step)
        return task._replace(step=step, parent_step=step - 1, superstep=step, task=f"{step - 1}.0", body=body)

    thread = store.thread(f"{name}-pattern")
    assert thread is not None
    store.restore([thread._replace(thread_id=name, status="pending"), first, *map(row, range(1, steps))])
    graph.invoke(None, at(name))  # the last step is real
    graph.close()
    store.close()


@in_browser
def test_fifty_thousand_steps_are_read_where_one_looks(sqlite_url: str, serve: Serve, visitor: Visitor) -> None:
    long_thread(sqlite_url, "long", 50_000)
    page = visitor.visit(serve(counter(sqlite_url)) + "?thread=long")
    page.get_by_text("50,002 steps, 0 to 50001").wait_for()
    page.locator("#timeline .row", has_text="50001").locator("b", has_text="count").wait_for()
    assert len(visitor.asked("/timeline")) <= 2
    assert page.locator("#timeline .row").count() < 60
    page.fill("#goto [name=step]", "25000")
    page.keyboard.press("Enter")
    row = page.locator("#timeline [aria-selected=true]")
    row.locator("b", has_text="count").wait_for()
    assert row.inner_text().startswith("25000")
    page.get_by_text("State after step 25000").wait_for()
    page.locator(".tree .number", has_text="25000").wait_for()
    page.focus("#timeline")
    page.keyboard.press("Home")
    page.locator("#timeline .row.input").wait_for()
    pages = [query(url) for url in visitor.asked("/timeline")]
    assert len(pages) <= 6
    assert {each["limit"] for each in pages} == {"200"}
    assert page.locator("#timeline .row").count() < 60


@in_browser
def test_a_list_longer_than_a_browser_can_scroll(sqlite_url: str, serve: Serve, visitor: Visitor) -> None:
    page = visitor.visit(serve(counter(sqlite_url)))
    shown = page.evaluate(
        """async () => {
            const { Rows } = await import("./rows.js");
            const box = document.getElementById("timeline");
            box.hidden = false;
            const draw = (index) => Object.assign(document.createElement("div"), { textContent: index });
            const rows = new Rows(box, 24, { draw });
            rows.resize(10_000_000);
            const [above, below] = [box.getBoundingClientRect().top - 1, box.getBoundingClientRect().bottom + 1];
            const isSeen = ({ top, bottom }) => top >= above && bottom <= below;
            const seen = () => [...box.querySelectorAll(".row")].filter((row) => isSeen(row.getBoundingClientRect()))
                .map((row) => Number(row.textContent)).sort((one, other) => one - other);
            const found = [];
            for (const index of [9_999_999, 5_000_000, 5_000_030, 0]) {
                rows.mark(index);
                found.push(seen().includes(index));
            }
            box.scrollTop = 1e9;
            rows.paint();
            return [found, seen().at(-1), box.scrollHeight < 1e7];
        }"""
    )
    assert shown == [[True, True, True, True], 9_999_999, True]


@in_browser
def test_a_step_is_told_in_full(sqlite_url: str, serve: Serve, visitor: Visitor) -> None:
    graph = shop(sqlite_url)
    with pytest.raises(ValueError, match="warehouse"):
        ordered(graph, "order-3", "broken")
    page = visitor.visit(serve(graph) + "?thread=order-3&tab=step")
    page.get_by_text("Traceback (most recent call last)").wait_for()
    page.locator("#timeline .row").nth(5).wait_for()  # the rows come with another answer
    assert page.locator(".banner.failed").inner_text().startswith("ship: builtins.ValueError: the warehouse does not")
    rows = [row.split("\n") for row in page.locator("#timeline .row").all_inner_texts()]
    assert [row[:2] for row in rows] == [
        ["0", "input"], ["1", "price"], ["2", "approve"], ["3", "resume"], ["4", "approve"], ["5", "ship"],
    ]  # fmt: skip
    assert "ada" in rows[1]
    assert "\u00d72" in rows[4]  # attempts
    page.locator("#timeline .row", has_text="price").last.click()
    page.locator("#tab-panel dd", has_text="1, task").wait_for()
    assert query(page.url) == {"thread": "order-3", "step": "1", "tab": "step"}
    assert page.locator(".tree", has_text="priced").count() == 1
    page.get_by_role("link", name="step 0").click()
    page.locator("#tab-panel dd", has_text="0, input").wait_for()
    page.go_back()
    page.locator("#tab-panel dd", has_text="1, task").wait_for()


@in_browser
def test_a_large_state_comes_in_parts(sqlite_url: str, serve: Serve, visitor: Visitor) -> None:
    class State(TypedDict, total=False):
        items: list[int]
        text: str

    builder = StateGraph(State).add_node("a", lambda state: {"items": [*range(950)], "text": "x" * 150_000})
    graph = builder.add_edge(START, "a").compile(sqlite_url, name="large")
    graph.invoke({}, at("a"))
    page = visitor.visit(serve(graph) + "?thread=a")
    page.get_by_role("treeitem", name="items").first.click()
    more = page.get_by_text("… 850 more")
    more.click()
    page.get_by_text("… 750 more").wait_for()
    assert page.locator(".tree li li").count() == 201
    page.get_by_role("button", name="whole text").click()
    expect(page.locator(".tree .string")).to_have_text(f'"{"x" * 150_000}"')


@in_browser
def test_the_difference_between_steps_and_threads(sqlite_url: str, serve: Serve, visitor: Visitor) -> None:
    graph = shop(sqlite_url)
    ordered(graph, "order-1", "lamp")
    ordered(graph, "order-2", "chair")
    page = visitor.visit(serve(graph) + "?thread=order-1&tab=difference")
    change = page.locator(".change")
    change.wait_for()
    assert change.inner_text().split("\n") == ["state['note'] changed", "before", '"priced"', "after", '"shipped"']
    page.fill("[name=other]", "0")
    page.get_by_role("button", name="Compare").click()
    page.get_by_text("4 changes").wait_for()
    paths = page.locator(".change .path").all_inner_texts()
    wanted = ["state['approved_by']", "state['lines'][0]", "state['note']", "state['price']"]
    assert sorted(paths) == [f"{path} added" for path in wanted]
    page.fill("[name=otherThread]", "order-2")
    page.fill("[name=other]", "")
    page.get_by_role("button", name="Compare").click()
    page.locator(".change .path", has_text="state['item']").wait_for()
    assert query(page.url) == {"thread": "order-1", "tab": "difference", "of": "order-2"}
    page.fill("[name=otherThread]", "order-9")
    page.get_by_role("button", name="Compare").click()
    page.locator(".problem", has_text="There is no thread 'order-9'").wait_for()
    visitor.expect(404)


# --- live ---------------------------------------------------------------------------------------


@in_browser
def test_what_runs_is_seen_while_it_runs(sqlite_url: str, serve: Serve, visitor: Visitor) -> None:
    graph = counter(sqlite_url, to=4)
    graph.invoke({"n": 0}, at("old"))
    page = visitor.visit(serve(graph))
    page.locator("#connection.live").wait_for()
    steps = graph.stream({"n": 0}, at("new"))  # of a process that knows nothing of the server, as far as that can tell
    next(steps)
    page.locator("#threads .row", has_text="new").click()
    page.locator("#timeline .row", has_text="1").last.wait_for()
    page.locator(".thread-head .status.running").wait_for()
    for step in (2, 3):
        next(steps)
        page.get_by_text(f"State after step {step}").wait_for()
        assert page.locator("#timeline [aria-selected=true]").inner_text().startswith(str(step))
    assert list(steps) != []
    page.locator(".thread-head .status.finished").wait_for()
    page.locator("#threads .row", has_text="new").locator(".status.finished").wait_for()
    assert len(visitor.asked("/timeline")) <= 1  # rows came with the events


@in_browser
def test_a_fast_run_leaves_no_gap(sqlite_url: str, serve: Serve, visitor: Visitor) -> None:
    graph = counter(sqlite_url, to=900)
    steps = graph.stream({"n": 0}, {**at("fast"), "recursion_limit": 1000})
    next(steps)
    page = visitor.visit(serve(graph) + "?thread=fast")
    list(steps)  # while the page reads its first rows
    page.get_by_text("901 steps, 0 to 900").wait_for()
    page.get_by_text("State after step 900").wait_for()
    for step in (450, 190, 210, 0):
        page.fill("#goto [name=step]", str(step))
        page.keyboard.press("Enter")
        page.get_by_text(f"State after step {step}").wait_for()
        expect(page.locator("#timeline .row", has_text="…")).to_have_count(0)
        shown = [int(text.split("\n")[0]) for text in page.locator("#timeline .row").all_inner_texts()]
        assert step in shown
        assert sorted(shown) == [*range(min(shown), max(shown) + 1)]


@in_browser
def test_a_lost_connection_is_taken_up_again(sqlite_url: str, serve: Serve, visitor: Visitor) -> None:
    graph = counter(sqlite_url, to=4)
    steps = graph.stream({"n": 0}, at("a"))
    next(steps)
    page = visitor.visit(serve(graph) + "?thread=a")
    page.locator("#connection.live").wait_for()
    page.get_by_text("2 steps, 0 to 1").wait_for()
    page.context.set_offline(True)
    page.evaluate("dispatchEvent(new Event('offline'))")
    list(steps)
    page.context.set_offline(False)
    page.evaluate("dispatchEvent(new Event('online'))")
    page.get_by_text("5 steps, 0 to 4").wait_for()
    assert [text.split("\n")[0] for text in page.locator("#timeline .row").all_inner_texts()] == [
        "0",
        "1",
        "2",
        "3",
        "4",
    ]
    visitor.troubles = [told for told in visitor.troubles if "ERR_INTERNET_DISCONNECTED" not in told]


@in_browser
def test_a_tab_that_nobody_sees_gives_its_connection_back(sqlite_url: str, serve: Serve, visitor: Visitor) -> None:
    graph = counter(sqlite_url, to=4)
    steps = graph.stream({"n": 0}, at("a"))
    next(steps)
    page = visitor.visit(serve(graph) + "?thread=a")
    page.locator("#connection.live").wait_for()

    def be(hidden: bool) -> None:
        page.evaluate(
            "(hidden) => { Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });"
            " document.dispatchEvent(new Event('visibilitychange')) }",
            hidden,
        )

    be(hidden=True)
    expect(page.locator("#connection")).to_have_text("paused")
    asked = len(visitor.requests)
    list(steps)
    graph.invoke({"n": 3}, at("b"))
    assert len(visitor.requests) == asked
    be(hidden=False)
    page.get_by_text("State after step 4").wait_for()
    page.locator("#threads .row", has_text="b").wait_for()
    page.locator(".thread-head .status.finished").wait_for()


# --- acting -------------------------------------------------------------------------------------


@in_browser
def test_a_question_is_answered_and_the_run_goes_on(sqlite_url: str, serve: Serve, visitor: Visitor) -> None:
    graph = shop(sqlite_url)
    asked(graph, "order-2")
    page = visitor.visit(serve(graph) + "?thread=order-2")
    assert 'approve asks: {question: "Send it?", item: "lamp"}' in page.locator(".banner").inner_text()
    page.locator(".banner button").click()
    page.locator(".asks select").select_option("JSON")
    page.get_by_label("Answer", exact=True).fill('{"by": [9007199254740993]}')
    page.locator(".asks button", has_text="Answer").click()
    page.locator(".asks [role=alert]", has_text="all digits of 9007199254740993").wait_for()
    page.get_by_label("Answer", exact=True).fill('{"by": "bob"}')
    page.locator(".asks button", has_text="Answer").click()
    page.locator(".thread-head .status.finished").wait_for()
    page.locator("#said", has_text="Answered").wait_for()
    assert page.locator(".banner").count() == 0
    page.locator("#timeline .row", has_text="ship").last.wait_for()
    assert graph.get_state(at("order-2")).values["approved_by"] == {"by": "bob"}


@in_browser
def test_fork_and_resume(sqlite_url: str, serve: Serve, visitor: Visitor) -> None:
    graph = counter(sqlite_url)
    graph.invoke({"n": 0}, at("a"))
    page = visitor.visit(serve(graph) + "?thread=a&step=1&tab=actions")
    page.get_by_label("new thread").fill("b")
    page.get_by_role("button", name="Fork").click()
    page.locator(".thread-head .status.pending").wait_for()
    assert query(page.url)["thread"] == "b"
    page.get_by_role("link", name="a, step 1").wait_for()
    page.get_by_role("button", name="Resume").click()
    page.locator(".thread-head .status.finished").wait_for()
    page.get_by_text("4 steps, 0 to 3").wait_for()
    assert graph.get_state(at("b")).values == {"n": 3}
    page.get_by_role("button", name="Resume").click()  # it has ended: the server says so
    told = page.locator(".problem")
    told.wait_for()
    url = urlsplit(page.url)._replace(path="/inspector/api/resume", query="").geturl()
    assert refusal(url, {"thread": "b"})["detail"] in told.inner_text()
    visitor.expect(409)


@in_browser
def test_a_signal_reaches_who_waits_for_it(sqlite_url: str, serve: Serve, visitor: Visitor) -> None:
    graph = waiter(sqlite_url)
    graph.invoke({}, at("w"))
    page = visitor.visit(serve(graph) + "?thread=w&tab=actions")
    page.get_by_text("wait waits for the signal go").first.wait_for()
    assert page.get_by_label("Name").input_value() == "go"
    page.get_by_label("Value").fill("{")
    page.get_by_role("button", name="Send").click()
    page.locator(".problem", has_text="It is no JSON").wait_for()
    page.get_by_label("Value").fill('{"n": 7}')
    page.get_by_role("button", name="Send").click()
    page.locator("#said", has_text="Sent: go").wait_for()
    page.get_by_role("button", name="Resume").click()
    page.locator(".thread-head .status.finished").wait_for()
    assert graph.get_state(at("w")).values == {"n": 7}


@in_browser
def test_a_run_is_cancelled_and_can_be_resumed(sqlite_url: str, serve: Serve, visitor: Visitor) -> None:
    gate = threading.Event()
    graph = counter(sqlite_url, to=5, gate=gate)
    gate.set()
    for _ in graph.stream({"n": 0}, at("a")):
        break
    gate.clear()
    page = visitor.visit(serve(graph) + "?thread=a&tab=actions")
    page.get_by_role("button", name="Resume").click()
    page.locator(".thread-head .status.running").wait_for()
    page.get_by_role("button", name="Cancel").click()
    page.locator("#said", has_text="Cancelled").wait_for()
    gate.set()  # a plain function is waited for
    page.locator(".thread-head .status.pending").wait_for()
    page.get_by_role("button", name="Cancel").click()
    page.locator(".problem", has_text="No run of thread 'a' is under way").wait_for()
    visitor.expect(409)
    page.get_by_role("button", name="Resume").click()
    page.locator(".thread-head .status.finished").wait_for()
    assert graph.get_state(at("a")).values == {"n": 5}


@in_browser
def test_verify_tells_what_was_altered(sqlite_url: str, serve: Serve, visitor: Visitor) -> None:
    import sqlite3

    graph = shop(sqlite_url)
    ordered(graph, "order-1")
    page = visitor.visit(serve(graph) + "?thread=order-1&tab=actions")
    page.get_by_role("button", name="Verify").click()
    page.get_by_text("Nothing was found: 6 rows.").wait_for()
    assert page.locator("dd .mono").inner_text() == graph.verify(at("order-1")).head
    with sqlite3.connect(sqlite_url.removeprefix("sqlite:///")) as database:
        database.execute("UPDATE checkpoints SET node = 'other' WHERE step = 1")
    database.close()
    page.get_by_role("button", name="Verify").click()
    page.get_by_text("1 finding in 6 rows.").wait_for()
    assert page.locator(".card td").all_inner_texts()[:2] == ["1", "altered"]


@in_browser
def test_an_export_can_be_checked(sqlite_url: str, serve: Serve, visitor: Visitor) -> None:
    graph = shop(sqlite_url)
    ordered(graph, "order 1/ä")
    page = visitor.visit(serve(graph) + f"?thread={quote('order 1/ä')}&tab=actions")
    with page.expect_download() as download:
        page.get_by_role("button", name="Export").click()
    assert download.value.suggested_filename == "order_1_.jsonl"
    with download.value.path().open(encoding="utf-8") as lines:
        (report,) = verify_export(lines)
    assert (report.ok, report.rows, report.thread_id) == (True, 6, "order 1/ä")


@in_browser
def test_the_graph_shows_what_became_of_its_nodes(sqlite_url: str, serve: Serve, visitor: Visitor) -> None:
    graph = shop(sqlite_url)
    asked(graph, "order-2")
    page = visitor.visit(serve(graph) + "?thread=order-2&tab=graph")
    expect(page.locator("img.figure")).to_have_js_property("complete", True)
    assert page.evaluate("document.querySelector('img.figure').naturalWidth") > 50
    rows = page.locator("#tab-panel tbody tr").all_inner_texts()
    assert [row.split("\t")[:2] for row in rows] == [["approve", "waiting"], ["price", "done"]]
    page.locator("#timeline .row", has_text="input").click()
    page.locator("#tab-panel tbody tr", has_text="next").wait_for()
    assert page.locator("#tab-panel tbody tr").all_inner_texts()[0].split("\t")[:2] == ["price", "next"]
    page.get_by_role("tab", name="Figures").click()
    page.get_by_role("heading", name="Nodes, slowest first").wait_for()


@in_browser
def test_a_thread_that_has_not_run_yet(sqlite_url: str, serve: Serve, visitor: Visitor) -> None:
    graph = counter(sqlite_url)
    url = serve(graph)
    made = urllib.request.Request(
        url.replace("/inspector/", "/threads"), b'{"thread_id": "new-1"}', {"content-type": "application/json"}
    )
    urllib.request.urlopen(made).close()
    page = visitor.visit(f"{url}?thread=new-1")
    page.get_by_text("It has no steps yet.").wait_for()
    page.locator(".thread-head .status", has_text="new").wait_for()
    page.get_by_role("tab", name="Actions").click()
    page.get_by_text("It has not run yet").wait_for()
    graph.invoke({"n": 0}, at("new-1"))
    page.locator(".thread-head .status.finished").wait_for()
    page.get_by_role("tab", name="State").click()
    page.get_by_text("State after step 3").wait_for()


# --- what must not happen -----------------------------------------------------------------------


@in_browser
def test_markup_in_values_stays_text(sqlite_url: str, serve: Serve, visitor: Visitor) -> None:
    class State(TypedDict, total=False):
        a: Any

    def node(state: State) -> State:
        return {"a": {SCRIPT: IMAGE, "list": [SCRIPT, IMAGE]}}

    def ask(state: State) -> State:
        interrupt({SCRIPT: IMAGE})
        raise ValueError(IMAGE + SCRIPT)

    builder = StateGraph(State).add_node("<b>node</b>", node).add_node(IMAGE.replace(":", ""), ask)
    builder.add_edge(START, "<b>node</b>").add_edge("<b>node</b>", IMAGE)
    graph = builder.compile(sqlite_url, name=SCRIPT)
    name = f"{SCRIPT}{IMAGE}"
    graph.invoke({"a": SCRIPT}, {**at(name), "metadata": {"actor": IMAGE, SCRIPT: IMAGE}})
    url = serve(graph)
    page = visitor.visit(f"{url}?thread={quote(name)}")
    for tab in ("State", "Step", "Difference", "Graph", "Actions", "Figures"):
        page.get_by_role("tab", name=tab).click()
        page.locator("#tab-panel > *").first.wait_for()
    page.locator(".asks textarea").count()
    with pytest.raises(ValueError, match="img"):
        graph.invoke(Command(resume=SCRIPT), at(name))
    page.get_by_role("tab", name="Step").click()
    page.locator(".banner.failed", has_text=SCRIPT).wait_for()
    page.locator(".problem", has_text=IMAGE).first.wait_for()
    page.get_by_role("tab", name="State").click()
    page.locator(".tree .string", has_text=SCRIPT).first.wait_for()
    page.locator("#threads .id", has_text=name).wait_for()
    assert page.evaluate("window.ran") is None
    assert page.locator("main script, main img, main b b").count() == 0
    refused = page.evaluate(
        "() => { try { document.body.insertAdjacentHTML('beforeend', '<i>x</i>') } catch (e) { return e.name } }"
    )
    assert refused == "TypeError"  # nothing in the page can parse markup, not even its own script
    visitor.troubles = [told for told in visitor.troubles if "TrustedHTML" not in told]


@in_browser
def test_nothing_is_loaded_from_elsewhere(sqlite_url: str, serve: Serve, visitor: Visitor) -> None:
    graph = counter(sqlite_url)
    page = visitor.visit(serve(graph))
    directive = page.evaluate(
        "() => new Promise((seen) => { addEventListener('securitypolicyviolation', (e) => seen(e.effectiveDirective));"
        " new Image().src = 'https://example.org/x.png' })"
    )
    assert directive == "img-src"
    visitor.troubles = [told for told in visitor.troubles if "Content Security Policy" not in told]
    visitor.troubles.clear()


@in_browser
def test_without_a_token_nothing_is_shown(sqlite_url: str, serve: Serve, visitor: Visitor) -> None:
    graph = shop(sqlite_url)
    asked(graph, "order-2")
    url = serve(graph, token="s3cret")
    words = refusal(f"{url}api/threads")
    assert words["status"] == 401
    page = visitor.visit(url)
    dialog = page.locator("#token-dialog")
    dialog.wait_for()
    assert dialog.locator("[role=alert]").inner_text() == words["detail"]
    assert page.locator("#threads .row").count() == 0
    picture(page, SCREENSHOTS, "token")
    page.locator("#token").fill("wrong")
    page.keyboard.press("Enter")
    expect(page.locator("#token")).to_have_value("")
    expect(dialog).to_be_visible()
    page.locator("#token").fill("s3cret")
    page.keyboard.press("Enter")
    page.locator("#threads .row", has_text="order-2").wait_for()
    page.locator("#connection.live").wait_for()
    visitor.expect(401)
    link = visitor.visit(f"{url}?thread=order-2#token=s3cret")  # as a colleague sends it
    link.locator("#threads .row", has_text="order-2").wait_for()
    assert "s3cret" not in link.url
    assert not [asked for asked in visitor.requests if "s3cret" in asked.partition("#")[0]]


@in_browser
def test_an_unknown_thread_is_told_in_the_servers_words(sqlite_url: str, serve: Serve, visitor: Visitor) -> None:
    graph = shop(sqlite_url)
    asked(graph, "order-2")
    url = serve(graph)
    page = visitor.visit(f"{url}?thread=order-9")
    told = page.locator(".thread .problem")
    told.wait_for()
    words = refusal(f"{url}api/thread?thread=order-9")
    assert words["status"] == 404
    assert told.inner_text() == f"{words['title']}\n{words['detail']}"
    assert "order-2" in words["detail"]  # what exists
    visitor.expect(404)


@in_browser
def test_a_busy_thread_is_told_with_its_owner(sqlite_url: str, serve: Serve, visitor: Visitor) -> None:
    graph, elsewhere = counter(sqlite_url), counter(sqlite_url)
    steps = elsewhere.stream({"n": 0}, at("a"))
    next(steps)
    page = visitor.visit(serve(graph, elsewhere) + "?thread=a&tab=actions")
    owner = elsewhere.threads()[0].lease_owner
    assert owner is not None
    for button in ("Resume", "Cancel"):
        page.get_by_role("button", name=button).click()
        told = page.locator(".card", has=page.get_by_role("button", name=button)).locator(".problem")
        told.wait_for()
        assert owner in told.inner_text()
        assert told.inner_text().startswith("Conflict")
    visitor.expect(409)
    steps.close()  # type: ignore[attr-defined]  # a generator, typed as the Iterator that is promised


@in_browser
def test_what_is_refused_names_the_field(sqlite_url: str, serve: Serve, visitor: Visitor) -> None:
    graph = counter(sqlite_url)
    graph.invoke({"n": 0}, at("a"))
    page = visitor.visit(serve(graph, limits=ServerLimits(body_bytes=3000)) + "?thread=a&tab=actions")
    page.get_by_label("new thread").fill("x" * 2500)
    page.get_by_role("button", name="Fork").click()
    page.locator(".problem", has_text="to: is 2500 bytes long").wait_for()
    assert page.get_by_label("new thread").get_attribute("aria-invalid") == "true"
    page.get_by_label("new thread").fill("a")
    page.get_by_role("button", name="Fork").click()
    page.locator(".problem", has_text="There already is a thread 'a'").wait_for()
    page.get_by_label("Name").fill("go")
    page.get_by_label("Value").fill(f'"{"x" * 3000}"')
    page.get_by_role("button", name="Send").click()
    page.locator(".problem", has_text="The body is larger than 3,000 bytes.").wait_for()
    for status in (409, 413, 422):
        visitor.expect(status)


@in_browser
def test_a_read_only_server_offers_nothing_that_changes(sqlite_url: str, serve: Serve, visitor: Visitor) -> None:
    graph = shop(sqlite_url)
    asked(graph, "order-2")
    page = visitor.visit(serve(graph, read_only=True) + "?thread=order-2&tab=actions")
    page.get_by_text("This server is read-only").wait_for()
    page.locator("#read-only").wait_for()
    assert page.locator("#tab-panel button").all_inner_texts() == ["Verify", "Export"]


# --- for everybody --------------------------------------------------------------------------------


@in_browser
def test_all_of_it_by_keys(sqlite_url: str, serve: Serve, visitor: Visitor) -> None:
    graph = shop(sqlite_url)
    for name in ("order-1", "order-2", "order-3"):
        ordered(graph, name)
    page = visitor.visit(serve(graph))
    page.get_by_text("3 threads").wait_for()
    press, focused = page.keyboard.press, lambda: page.evaluate("document.activeElement.id")
    press("/")
    assert focused() == "search"
    page.keyboard.type("order")
    press("Escape")  # empties the field, as browsers do
    assert (focused(), page.input_value("#search")) == ("search", "")
    press("Escape")
    assert focused() == "threads"
    press("j")
    page.locator(".thread-head h2", has_text="order-3").wait_for()
    press("ArrowDown")
    page.locator(".thread-head h2", has_text="order-2").wait_for()
    press("k")
    page.locator(".thread-head h2", has_text="order-3").wait_for()
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"  # one sees where one is
    press("Enter")
    assert focused() == "timeline"
    page.get_by_text("State after step 5").wait_for()
    press("k")
    page.get_by_text("State after step 4").wait_for()
    press("g")
    page.get_by_text("State after step 0").wait_for()
    assert page.get_attribute("#timeline", "aria-activedescendant") == "timeline-0"
    press("G")
    page.get_by_text("State after step 5").wait_for()
    assert "step" not in query(page.url)  # it follows
    press("Enter")
    assert focused() == "tab-panel"
    press("Tab")  # into the tree, which is one stop
    assert page.evaluate("document.activeElement.getAttribute('role')") == "treeitem"
    press("j")
    press("j")
    assert page.evaluate("document.activeElement.querySelector('.key').textContent") == "lines"
    press("ArrowLeft")
    assert page.evaluate("document.activeElement.getAttribute('aria-expanded')") == "false"
    press("ArrowRight")
    press("ArrowRight")
    assert page.evaluate("document.activeElement.getAttribute('aria-level')") == "2"
    press("3")
    page.locator(".change").wait_for()
    press("Escape")
    assert focused() == "timeline"
    press("Escape")
    assert focused() == "threads"
    press("?")
    page.locator("#help[open]").wait_for()
    press("Escape")
    page.locator("#help").wait_for(state="hidden")
    order = []
    page.reload()
    page.locator(".thread-head h2").wait_for()
    for _ in range(12):
        press("Tab")
        order.append(focused() or page.evaluate("document.activeElement.name || document.activeElement.textContent"))
    wanted = ["help-button", "search", "status", "graph", "age", "threads", "timeline", "step", "Go", "newest"]
    assert [name for name in order if name in wanted] == wanted


@in_browser
def test_everything_has_a_name_and_a_heading(sqlite_url: str, serve: Serve, visitor: Visitor) -> None:
    graph = shop(sqlite_url)
    asked(graph, "order-2")
    page = visitor.visit(serve(graph) + "?thread=order-2&tab=actions")
    page.locator(".asks").wait_for()
    nameless = page.evaluate(
        "() => [...document.querySelectorAll('button, input, select, textarea, a, nav, [role=listbox], [role=tree]')]"
        ".filter(e => !(e.innerText?.trim() || e.labels?.length || e.getAttribute('aria-label')))"
        ".map(e => e.outerHTML)"
    )
    assert nameless == []
    assert page.get_by_role("heading", level=1).count() == 1
    assert page.get_by_role("heading", level=2).all_inner_texts() == ["Threads", "order-2"]
    assert page.get_by_role("tab", selected=True).inner_text() == "Actions"
    assert page.get_by_role("listbox").count() == 2


CONTRAST = """() => {
  const rgb = (color) => color.match(/[\\d.]+/g).slice(0, 3).map(Number);
  const part = (v) => v <= 10 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4;
  const light = (c) => { const [r, g, b] = rgb(c).map(part);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const ground = (e) => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
    if (!/, 0\\)$|transparent/.test(c)) return c; } };
  return [...document.querySelectorAll('main *, header *')].filter((e) => e.checkVisibility() &&
      [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim())).map((e) => {
    const [one, other] = [light(getComputedStyle(e).color), light(ground(e))];
    return [(Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05), e.className, e.textContent.slice(0, 40)];
  }).filter(([ratio]) => ratio < 4.5);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@in_browser
def test_it_can_be_read_in_light_and_dark(scheme: str, sqlite_url: str, serve: Serve, visitor: Visitor) -> None:
    graph, waits, count = shop(sqlite_url), waiter(sqlite_url), counter(sqlite_url)
    asked(graph, "order-2")
    waits.invoke({}, at("w"))
    with pytest.raises(ValueError, match="warehouse"):
        ordered(graph, "order-3", "broken")
    steps = count.stream({"n": 0}, at("c"))
    next(steps)
    page = visitor.visit(serve(graph, waits, count) + "?thread=order-3", color_scheme=scheme)
    for tab, thread in (("State", "order-3"), ("Step", "order-3"), ("Actions", "order-2"), ("Difference", "order-2")):
        page.locator("#threads .row", has_text=thread).click()
        page.get_by_role("tab", name=tab).click()
        page.locator("#tab-panel > *").first.wait_for()
        assert page.evaluate(CONTRAST) == []
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, ground[4:-1].split(","))) > 600) == (scheme == "light")
    steps.close()  # type: ignore[attr-defined]  # a generator, typed as the Iterator that is promised


@in_browser
def test_it_works_below_another_path(sqlite_url: str, serve: Serve, visitor: Visitor) -> None:
    graph = shop(sqlite_url)
    asked(graph, "order-2")
    url = serve(graph, mounted=True)
    assert url.endswith("/tools/inspector/")
    page = visitor.visit(f"{url.removesuffix('/')}?thread=order-2&tab=actions")
    page.locator(".asks").wait_for()
    page.locator("#connection.live").wait_for()


@in_browser
def test_a_database_without_threads_says_how_to_begin(sqlite_url: str, serve: Serve, visitor: Visitor) -> None:
    page = visitor.visit(serve(counter(sqlite_url)))
    page.get_by_text("durable-graph run MODULE:GRAPH").wait_for()
    page.locator("#connection.live").wait_for()
    picture(page, SCREENSHOTS, "empty")


# --- for a person to look at ----------------------------------------------------------------------


@in_browser
def test_pictures_of_the_main_views(sqlite_url: str, serve: Serve, visitor: Visitor) -> None:
    if not os.environ.get("DURABLE_GRAPH_SCREENSHOTS"):
        pytest.skip("DURABLE_GRAPH_SCREENSHOTS=1 makes new ones in tests/screenshots")
    graph, count, waits = shop(sqlite_url), counter(sqlite_url, to=40), waiter(sqlite_url)
    for number in range(1, 12):
        (asked if number % 4 == 0 else ordered)(graph, f"order-{number:03}", "lamp")
    with pytest.raises(ValueError, match="warehouse"):
        ordered(graph, "order-012", "broken")
    waits.invoke({}, at("reminder-7"))
    count.invoke({"n": 0}, at("count-1"))
    url = serve(graph, count, waits)
    views: dict[str, tuple[str, str, dict[str, Any]]] = {
        "state-light": ("?thread=order-011", ".tree", {}),
        "failed-dark": ("?thread=order-012&tab=graph", ".figure", {"color_scheme": "dark"}),
        "question-light": ("?thread=order-008&tab=actions", ".asks", {}),
        "step-dark": ("?thread=order-011&step=2&tab=step", ".tree", {"color_scheme": "dark"}),
        "narrow-light": ("?thread=order-011&tab=difference", ".change", {"viewport": {"width": 800, "height": 800}}),
    }
    for name, (place, shown, settings) in views.items():
        page = visitor.visit(url + place, **settings)
        page.locator(shown).first.wait_for()
        page.locator("#connection.live").wait_for()
        picture(page, SCREENSHOTS, name)
