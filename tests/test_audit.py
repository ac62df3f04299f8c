"""Law 11: what was done to a log shows, by its kind; and a thread can be taken out, checked and put in elsewhere."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypedDict

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import create_engine, text

from durable_graph import (
    END,
    START,
    ArgumentError,
    CompiledGraph,
    ExportError,
    Log,
    Report,
    StateGraph,
    ThreadExistsError,
    ThreadNotFoundError,
    verify_export,
)
from durable_graph.cli import main
from durable_graph.core.chain import row_hash
from durable_graph.core.verify import columns_of
from durable_graph.store import Row, Signal, Store, Thread
from durable_graph.store.sql import SqlStore

CONFIG = {"thread_id": "t"}


class State(TypedDict, total=False):
    n: int


def drawing(to: int = 8) -> StateGraph[State]:
    """Steps that count."""
    builder = StateGraph(State).add_node("count", lambda state: {"n": state["n"] + 1}).add_edge(START, "count")
    return builder.add_conditional_edges("count", lambda state: END if state["n"] >= to else "count")


@pytest.fixture(params=[None, "secret"], ids=["hash", "hmac"])
def written(request: pytest.FixtureRequest, database_url: str) -> Iterator[CompiledGraph[State]]:
    """A thread with the steps 0 to 8."""
    with drawing().compile(database_url, key=request.param) as graph:
        graph.invoke({"n": 0}, CONFIG)
        yield graph


Tamper = Callable[..., None]


@pytest.fixture
def tamper(database_url: str) -> Iterator[Tamper]:
    """Raw SQL on the rows, as somebody with the database's password would use it."""
    engine = create_engine(database_url)

    def execute(*statements: str, **values: Any) -> None:
        with engine.begin() as connection:
            for statement in statements:
                connection.execute(text(statement), values)

    yield execute
    engine.dispose()


def found(report: Report) -> list[tuple[int, str]]:
    return [(finding.step, finding.kind) for finding in report.findings]


# --- kinds of findings --------------------------------------------------------------------------


def test_nothing_is_found_in_a_log_that_nobody_touched(written: CompiledGraph[State]) -> None:
    report = written.verify(CONFIG)
    assert (report.ok, report.rows, found(report)) == (True, 9, [])
    assert asyncio.run(written.averify(CONFIG)) == report


@pytest.mark.parametrize(
    "change",
    [
        "node = 'other'", "kind = 'update'", "run_id = 'x'", "created_at = '2020'", "epoch = 7", "superstep = 99",
        "task = NULL", "body = :body", "hash = :hash",
    ],
)  # fmt: skip
def test_altered(written: CompiledGraph[State], tamper: Tamper, change: str) -> None:
    values = {name: value for name, value in {"body": b'{"n": 1}', "hash": bytes(32)}.items() if f":{name}" in change}
    tamper(f"UPDATE checkpoints SET {change} WHERE step = 4", **values)
    # a row with another hash does not fit, and neither does the one that continues it
    assert found(written.verify(CONFIG)) == [(4, "altered"), *([(5, "altered")] if "hash" in change else [])]


def test_several_altered_rows_are_all_named(written: CompiledGraph[State], tamper: Tamper) -> None:
    tamper("UPDATE checkpoints SET node = 'other' WHERE step IN (0, 3, 8)")
    assert found(written.verify(CONFIG)) == [(0, "altered"), (3, "altered"), (8, "altered")]


@pytest.mark.parametrize(("gone", "first"), [("= 4", 4), ("IN (2, 3, 4)", 2), ("= 0", 0)])
def test_missing(written: CompiledGraph[State], tamper: Tamper, gone: str, first: int) -> None:
    tamper(f"DELETE FROM checkpoints WHERE step {gone}")
    assert found(written.verify(CONFIG)) == [(first, "missing")]


def test_missing_at_two_places_and_altered_behind(written: CompiledGraph[State], tamper: Tamper) -> None:
    tamper("DELETE FROM checkpoints WHERE step IN (2, 5)", "UPDATE checkpoints SET node = 'x' WHERE step = 7")
    assert found(written.verify(CONFIG)) == [(2, "missing"), (5, "missing"), (7, "altered")]


def renumber(by: int, above: int) -> list[str]:
    """Steps and parents of the rows above one. By way of numbers that are free: each row is checked as it changes."""
    return [
        f"UPDATE checkpoints SET step = step + 1000 WHERE step > {above}",
        f"UPDATE checkpoints SET step = step - 1000 + {by}, parent_step = parent_step + {by} WHERE step > 1000",
    ]


@pytest.mark.parametrize("rows", [1, 2])
def test_missing_and_the_later_ones_renumbered(written: CompiledGraph[State], tamper: Tamper, rows: int) -> None:
    tamper(f"DELETE FROM checkpoints WHERE step BETWEEN 4 AND {3 + rows}", *renumber(-rows, 3 + rows))
    assert found(written.verify(CONFIG)) == [(4, "missing")]


COPY = (
    "INSERT INTO checkpoints SELECT thread_id, {to}, {to} - 1, kind, superstep, node, task, run_id, epoch, body, "
    "created_at, hash FROM checkpoints WHERE step = {step}"
)


@pytest.mark.parametrize("rows", [1, 2])
def test_inserted(written: CompiledGraph[State], tamper: Tamper, rows: int) -> None:
    tamper(*renumber(rows, 3), *(COPY.format(step=2, to=4 + number) for number in range(rows)))
    assert found(written.verify(CONFIG)) == [(4, "inserted")]


def test_inserted_with_a_hash_that_fits(database_url: str, tamper: Tamper) -> None:
    """Without a key anybody can make one; the row after it still tells."""
    with drawing().compile(database_url) as graph:
        graph.invoke({"n": 0}, CONFIG)
        tamper(*renumber(1, 3), COPY.format(step=2, to=4))
        forge(graph, tamper, 4)
        assert found(graph.verify(CONFIG)) == [(4, "inserted")]


def forge(graph: CompiledGraph[State], tamper: Tamper, step: int) -> None:
    """Give a row the hash that fits, without a key."""
    before, row = stored(graph).rows("t", after=step - 2, until=step)
    tamper(
        f"UPDATE checkpoints SET hash = :hash WHERE step = {step}",
        hash=row_hash(before.hash, columns_of(row), row.body),
    )


def stored(log: Log) -> Store:
    assert log._store is not None
    return log._store


@pytest.mark.parametrize(("one", "other"), [(3, 4), (2, 5), (1, 8)])
@pytest.mark.parametrize("thorough", [False, True])
def test_reordered(written: CompiledGraph[State], tamper: Tamper, one: int, other: int, thorough: bool) -> None:
    tamper(
        f"UPDATE checkpoints SET step = 1000 WHERE step = {one}",
        f"UPDATE checkpoints SET step = {one} WHERE step = {other}",
        f"UPDATE checkpoints SET step = {other} WHERE step = 1000",
        *([f"UPDATE checkpoints SET parent_step = step - 1 WHERE step IN ({one}, {other})"] if thorough else []),
    )
    report = written.verify(CONFIG)
    assert found(report) == [(one, "reordered"), (other, "reordered")]
    assert [finding.problem for finding in report.findings] == [f"it was written as step {n}" for n in (other, one)]


@pytest.mark.parametrize("give", [lambda report: report, lambda report: report.head], ids=["report", "hash"])
def test_truncated(written: CompiledGraph[State], tamper: Tamper, give: Callable[[Report], Any]) -> None:
    head = give(written.verify(CONFIG))
    assert written.verify(CONFIG, head=head).ok
    tamper("DELETE FROM checkpoints WHERE step > 6")
    assert written.verify(CONFIG).ok  # a chain alone cannot show it
    assert found(written.verify(CONFIG, head=head)) == [(7, "truncated")]
    assert found(asyncio.run(written.averify(CONFIG, head=head))) == [(7, "truncated")]


def test_a_head_stays_in_a_log_that_grows(written: CompiledGraph[State]) -> None:
    head = written.verify(CONFIG)
    written.invoke({"n": 5}, CONFIG)
    assert written.verify(CONFIG, head=head).rows > head.rows
    assert written.verify(CONFIG, head=head).ok


def test_a_log_written_anew(database_url: str) -> None:
    with drawing().compile(database_url) as graph:
        graph.invoke({"n": 0}, CONFIG)
        head = graph.verify(CONFIG)
        stored(graph).delete("t")
        graph.invoke({"n": 0}, CONFIG)
        assert graph.verify(CONFIG).ok
        assert found(graph.verify(CONFIG, head=head)) == [(8, "altered")]
        assert found(graph.verify(CONFIG, head=head.head)) == [(9, "truncated")]


def test_a_head_that_is_none(written: CompiledGraph[State]) -> None:
    with pytest.raises(ArgumentError, match="'abc' is no hash"):
        written.verify(CONFIG, head="abc")


def test_a_forger_without_the_key_is_found(written: CompiledGraph[State], tamper: Tamper) -> None:
    """Who rewrites everything behind an altered row needs the key; without one, only the head tells."""
    head = written.verify(CONFIG)
    tamper("UPDATE checkpoints SET node = 'other' WHERE step = 4")
    for step in range(4, 9):
        forge(written, tamper, step)
    signed = written._key is not None
    assert written.verify(CONFIG).ok is not signed
    assert found(written.verify(CONFIG, head=head))[-1] == (8, "altered")


def test_rows_of_a_log_that_branches_and_of_forks(written: CompiledGraph[State], tamper: Tamper) -> None:
    written.invoke(None, {"thread_id": "t", "step": 3})
    written.fork({"thread_id": "t", "step": 5}, to="fork")
    assert all(written.verify_all())
    tamper("UPDATE checkpoints SET hash = :hash WHERE thread_id = 't' AND step = 5", hash=bytes(32))
    reports = {report.thread_id: found(report) for report in written.verify_all()}
    assert reports == {"t": [(5, "altered"), (6, "altered")], "fork": [(0, "altered")]}
    stored(written).delete("t")
    assert found(written.verify({"thread_id": "fork"})) == [(0, "missing")]


def test_findings_end_somewhere(database_url: str, tamper: Tamper) -> None:
    with drawing(300).compile(database_url) as graph:
        graph.invoke({"n": 0}, CONFIG)
        tamper("UPDATE checkpoints SET node = 'other'")
        assert len(graph.verify(CONFIG).findings) == 100


def test_all_threads(written: CompiledGraph[State], tamper: Tamper) -> None:
    written.invoke({"n": 0}, {"thread_id": "u"})
    tamper("UPDATE checkpoints SET node = 'x' WHERE thread_id = 'u' AND step = 2")

    async def afound() -> dict[str, list[tuple[int, str]]]:
        return {report.thread_id: found(report) async for report in written.averify_all()}

    expected = {"t": [], "u": [(2, "altered")]}
    assert {report.thread_id: found(report) for report in written.verify_all()} == asyncio.run(afound()) == expected


# --- keys ---------------------------------------------------------------------------------------


def test_keys_rotate(database_url: str) -> None:
    """The first signs, any may have signed; a row of a key that is not given is named."""
    for keys in ("old", ["new", "old"], [b"newest", "new", "old"]):
        with drawing().compile(database_url, key=keys) as graph:
            graph.invoke({"n": 7}, CONFIG)  # two rows
            assert graph.verify(CONFIG).ok
    expected = {
        "old": [2, 3, 4, 5],
        "newest": [0, 1, 2, 3],
        ("new", "newest"): [0, 1],
        ("old", "new", "newest"): [],
        ("other",): [0, 1, 2, 3, 4, 5],
    }
    for key, steps in expected.items():
        with Log(database_url, key=key) as log:
            assert found(log.verify(CONFIG)) == [(step, "altered") for step in steps]


def test_keys_of_the_environment(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DURABLE_GRAPH_KEY", "old")
    with drawing().compile(database_url) as graph:
        graph.invoke({"n": 0}, CONFIG)
    monkeypatch.setenv("DURABLE_GRAPH_KEY", "new, old")
    with drawing().compile(database_url) as graph:
        graph.invoke({"n": 0}, {"thread_id": "u"})
        assert all(graph.verify_all())
    with Log(database_url, key="new") as log:
        assert {report.thread_id: report.ok for report in log.verify_all()} == {"t": False, "u": True}
    with Log(database_url, key=[]) as log:  # none at all
        assert not any(log.verify_all())


@pytest.mark.parametrize("key", ["", b"", ["new", ""], [5]], ids=repr)
def test_keys_that_are_none(key: Any) -> None:
    with pytest.raises(ArgumentError, match="key"):
        Log("sqlite:///x.db", key=key)


# --- out and in ---------------------------------------------------------------------------------


def with_subgraphs() -> StateGraph[State]:
    builder = StateGraph(State).add_node("first", lambda state: {"n": state["n"] + 1})
    builder.add_node("below", drawing(5).compile()).add_node("last", lambda state: {"n": state["n"] * 2})
    return builder.add_edge(START, "first").add_edge("first", "below").add_edge("below", "last")


@pytest.fixture
def family(database_url: str) -> Iterator[CompiledGraph[State]]:
    """A fork `f` of `t`, both with a subgraph, and a thread that has nothing to do with them."""
    with with_subgraphs().compile(database_url, key="secret") as graph:
        graph.invoke({"n": 0}, CONFIG)
        graph.fork({"thread_id": "t", "step": 1}, to="f")
        graph.invoke(None, {"thread_id": "f"})
        graph.invoke({"n": 0}, {"thread_id": "other"})
        yield graph


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[CompiledGraph[State]]:
    with with_subgraphs().compile(f"sqlite:///{tmp_path / 'elsewhere.db'}", key=["new", "secret"]) as graph:
        yield graph


F = {"thread_id": "f"}


def rows_of(log: Log) -> dict[str, list[Row]]:
    return {thread.thread_id: list(stored(log).rows(thread.thread_id)) for thread in log.threads()}


def test_a_thread_goes_out_and_in(family: CompiledGraph[State], elsewhere: CompiledGraph[State]) -> None:
    lines = list(family.export_thread(F))
    here = rows_of(family)
    expected = {name: here[name] for name in here if not name.startswith("other")}
    assert next(report.thread_id for report in verify_export(lines, key="secret")) == "f"
    report = elsewhere.import_thread(iter(lines))
    assert (report.thread_id, report.ok, report.head) == ("f", True, family.verify(F).head)
    assert rows_of(elsewhere) == expected
    assert len(expected) == 4
    assert all(elsewhere.verify_all())
    assert list(elsewhere.replay(F)) == list(family.replay(F))
    assert elsewhere.get_state(F, subgraphs=True).values == family.get_state(F).values
    assert elsewhere.invoke({"n": 1}, F) == family.invoke({"n": 1}, F)


def test_the_same_async(family: CompiledGraph[State], elsewhere: CompiledGraph[State]) -> None:
    async def call() -> Report:
        return await elsewhere.aimport_thread([line async for line in family.aexport_thread(F)])

    assert asyncio.run(call()) == family.verify(F)


def test_from_sqlite_to_each_database(database_url: str, tmp_path: Path) -> None:
    with drawing().compile(f"sqlite:///{tmp_path / 'from.db'}") as graph, Log(database_url) as log:
        graph.invoke({"n": 0}, CONFIG)
        stored(graph).send(Signal("t", "1", "go", b"\xff\x00"))
        log.import_thread(graph.export_thread(CONFIG))
        assert rows_of(log) == rows_of(graph)
        assert stored(log).signals("t") == [Signal("t", "1", "go", b"\xff\x00")]
        assert log.threads() == graph.threads()


def test_bytes_that_are_no_text_keep_their_hash(store: Store) -> None:
    body = b"\xff\xfe\x00"
    columns = ("t", 0, None, "input", 0, None, None, "r", 1, "2026")
    row = Row(*columns[:9], body, "2026", row_hash(bytes(32), columns, body))
    thread = Thread(
        "t", "g", "f", "running", 1, None, None, None, "owner-of-the-lease", "2026", "2027", None, "2026", "2026", b"{}"
    )
    store.restore([thread, row])
    lines = list(Log(store).export_thread(CONFIG))
    assert base64.b64encode(body).decode() in lines[2]
    assert all(verify_export(lines))
    assert "owner-of-the-lease" not in "".join(lines)  # a lease is not exported
    assert store.delete("t")
    Log(store).import_thread(lines)
    assert list(store.rows("t")) == [row]
    assert store.thread("t") == thread._replace(
        status="pending", lease_owner=None, lease_since=None, lease_expires_at=None
    )  # nobody runs it here, and nobody has died


def plain_thread(name: str, called_by: str | None = None) -> list[Thread | Row]:
    times = "2026", "2026"
    row = Row(name, 0, None, "input", 0, None, None, "r", 1, b"{}", "2026", name.encode().ljust(32))
    return [Thread(name, "g", "f", "finished", 1, None, None, called_by, None, None, None, None, *times, b"{}"), row]


def test_what_a_store_puts_back(store: Store) -> None:
    a, b, c = plain_thread("a"), plain_thread("b", "a"), plain_thread("c", "b")
    store.restore([*a, *b, *c])
    assert sorted(store.called("a")) == ["b", "c"]
    assert store.called("c") == store.called("nope") == []
    store.restore([*plain_thread("d"), *a, *b])  # those behind the first may be there
    other = a[1]._replace(hash=bytes(32))
    for items in ([*a], [*plain_thread("e"), a[0], other], [*plain_thread("e"), a[0], a[1]._replace(step=1)]):
        with pytest.raises(ThreadExistsError, match="'a'"):
            store.restore(items)
    assert sorted(thread.thread_id for thread in store.threads()) == ["a", "b", "c", "d"]
    assert [*store.rows("e")] == []
    assert [*store.rows("a")] == [a[1]]


def test_what_is_there_is_not_overwritten(family: CompiledGraph[State], elsewhere: CompiledGraph[State]) -> None:
    lines = list(family.export_thread(F))
    elsewhere.import_thread(lines)
    before = rows_of(elsewhere)
    with pytest.raises(ThreadExistsError, match="'f'"):
        elsewhere.import_thread(lines)
    assert rows_of(elsewhere) == before


def test_an_origin_that_is_there_is_shared(family: CompiledGraph[State], elsewhere: CompiledGraph[State]) -> None:
    elsewhere.import_thread(family.export_thread(CONFIG))
    elsewhere.invoke({"n": 3}, CONFIG)  # it has gone on since: that is no contradiction
    before = rows_of(elsewhere)
    elsewhere.import_thread(family.export_thread(F))
    assert rows_of(elsewhere) == {**before, **{n: rows for n, rows in rows_of(family).items() if n[0] == "f"}}
    assert all(elsewhere.verify_all())


def test_an_origin_that_is_another_one_is_refused(
    family: CompiledGraph[State], elsewhere: CompiledGraph[State]
) -> None:
    elsewhere.invoke({"n": 0}, CONFIG)
    before = rows_of(elsewhere)
    with pytest.raises(ThreadExistsError, match="'t'"):
        elsewhere.import_thread(family.export_thread(F))
    assert rows_of(elsewhere) == before


def edited(lines: list[str], place: int, kind: str, **changes: Any) -> list[str]:
    line = json.loads(lines[place])
    line[kind].update(changes)
    return [*lines[:place], json.dumps(line, separators=(",", ":")), *lines[place + 1 :]]


DAMAGES: dict[str, tuple[Callable[[list[str]], list[str]], tuple[int, str]]] = {
    "a row": (lambda lines: edited(lines, 4, "row", node="x"), (2, "altered")),
    "a row removed": (lambda lines: lines[:4] + lines[5:], (2, "missing")),
    "rows swapped": (lambda lines: [*lines[:3], lines[4], lines[3], *lines[5:]], (1, "missing")),
    "a thread's own row": (lambda lines: edited(lines, 1, "thread", graph="x"), (-1, "altered")),
    "the end": (lambda lines: lines[:-1], (-1, "truncated")),
    "the end within a thread": (lambda lines: lines[:4], (2, "truncated")),
    "the newest rows": (lambda lines: [*lines[:10], *lines[11:]], (8, "truncated")),
    "no JSON": (lambda lines: [*lines[:4], "}", *lines[5:]], (2, "altered")),
    "no text": (lambda lines: [*lines[:4], "\udcff", *lines[5:]], (2, "altered")),
    "another thread's row": (lambda lines: edited(lines, 4, "row", thread_id="x"), (2, "altered")),
    "a wrong type": (lambda lines: edited(lines, 4, "row", step="2"), (2, "altered")),
    "a column more": (lambda lines: edited(lines, 4, "row", x=1), (2, "altered")),
    "something behind the end": (lambda lines: [*lines, "{}"], (-1, "altered")),
    "another line": (lambda lines: [*lines[:4], '{"row": 5}', *lines[5:]], (2, "altered")),
    "no first line": (lambda lines: lines[1:], (0, "altered")),
    "nothing": (lambda lines: [], (0, "truncated")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_exports(written: CompiledGraph[State], tmp_path: Path, damage: str) -> None:
    change, finding = DAMAGES[damage]
    lines = change(list(written.export_thread(CONFIG)))
    report = verify_export(lines, key=written._keys)[0]
    assert finding in found(report)
    with Log(f"sqlite:///{tmp_path / 'new.db'}", key=written._keys) as log:
        with pytest.raises(ExportError, match="Nothing was written"):
            log.import_thread(lines)
        assert log.threads() == []


def test_an_export_whose_seal_is_forged(written: CompiledGraph[State]) -> None:
    """Rows cut off, and the last lines made to fit: a key is what it takes."""
    lines = list(written.export_thread(CONFIG))
    stored(written).delete("t")
    with Log(stored(written)) as forger:
        forger._keys, forger._key = (), None
        forged = [*lines[:-3], *lines[-2:]]
        last = json.loads(forged[-3])["row"]
        end = json.dumps({"end": {"thread_id": "t", "rows": 8, "head": last["hash"]}}, separators=(",", ":"))

    body = [*forged[:-2], end]
    digest = hashlib.sha256("".join(f"{line}\n" for line in body).encode()).hexdigest()
    seal = json.dumps({"seal": {"head": last["hash"], "rows": 8, "threads": 1, "hash": digest}})
    (report,) = verify_export([*body, seal], key=written._keys)
    assert found(report) == ([] if written._key is None else [(-1, "altered")])


def test_an_export_of_another_key_says_so(written: CompiledGraph[State]) -> None:
    lines = list(written.export_thread(CONFIG))
    (report,) = verify_export(lines, key="wrong")
    assert (-1, "altered") in found(report)
    assert ("the key is another one" if written._key else "it was not signed") in report.findings[-1].problem


def test_a_fork_that_says_it_began_elsewhere(family: CompiledGraph[State]) -> None:
    lines = list(family.export_thread(F))
    line = json.loads(lines[1])
    line["parent_hash"] = "00" * 32
    reports = verify_export([lines[0], json.dumps(line), *lines[2:]], key="secret")
    assert (0, "altered") in found(reports[0])
    assert (-1, "altered") in found(reports[0])


def test_a_half_import_is_none(family: CompiledGraph[State], elsewhere: CompiledGraph[State]) -> None:
    """The reader of the file fails in the middle."""

    def broken() -> Iterator[str]:
        yield from list(family.export_thread(F))[:8]
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="gone"):
        elsewhere.import_thread(broken())
    assert rows_of(elsewhere) == {}
    elsewhere.import_thread(family.export_thread(F))  # and nothing holds it up


def test_an_export_is_lazy(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a long thread only a batch of rows is held."""
    with drawing(2000).compile(database_url) as graph:
        graph.invoke({"n": 0}, CONFIG)
        batches: list[int] = []
        fetch = SqlStore._batch

        def counting(*arguments: Any) -> list[Row]:
            rows = fetch(*arguments)
            batches.append(len(rows))
            return rows

        monkeypatch.setattr(SqlStore, "_batch", counting)
        lines = graph.export_thread(CONFIG)
        assert [next(lines) for _ in range(400)]
        assert batches == [500]
        lines.close()  # type: ignore[attr-defined]


def test_no_such_thread(written: CompiledGraph[State]) -> None:
    with pytest.raises(ThreadNotFoundError):
        written.export_thread({"thread_id": "nope"})


# --- who did it ---------------------------------------------------------------------------------


def by(actor: str, thread_id: str = "t", **place: Any) -> dict[str, Any]:
    return {"thread_id": thread_id, **place, "metadata": {"actor": actor}}


def test_the_actor_of_each_call_is_in_its_row(database_url: str) -> None:
    builder = with_subgraphs()
    with builder.compile(database_url, interrupt_before=["last"]) as graph:
        graph.invoke({"n": 0}, by("ann"))
        graph.update_state(by("bob"), {"n": 3})
        graph.invoke(None, by("cid"))
        graph.fork(by("dot", step=1), to="f")

        def actors(thread_id: str) -> dict[str, str]:
            events = graph.replay({"thread_id": thread_id}, stream_mode="events")
            return {event.kind: event.metadata["actor"] for event in events if event.kind not in ("task", "interrupt")}

        assert actors("t") == {"input": "ann", "update": "bob", "resume": "cid"}
        assert actors("f") == {"fork": "dot"}
        assert {state.metadata["actor"] for state in graph.get_state_history(CONFIG)} == {"ann", "bob", "cid"}


@pytest.mark.parametrize("actor", [5, "", ["ann"]])
def test_an_actor_is_a_text(database_url: str, actor: Any) -> None:
    with drawing().compile(database_url) as graph, pytest.raises(ArgumentError, match="actor"):
        graph.invoke({"n": 0}, by(actor))


# --- the command line ---------------------------------------------------------------------------


def cli(*arguments: str, code: int = 0, given: str | None = None) -> Result:
    result = CliRunner().invoke(main, arguments, input=given, prog_name="durable-graph")
    assert result.exit_code == code, (result.output, result.exception)
    return result


@pytest.fixture
def signed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DURABLE_GRAPH_KEY", "new,secret")


@pytest.mark.usefixtures("signed")
def test_commands(family: CompiledGraph[State], database_url: str, tmp_path: Path) -> None:
    file, url = str(tmp_path / "f.jsonl"), f"sqlite:///{tmp_path / 'cli.db'}"
    cli("export", "f", "--out", file, "--url", database_url)
    assert cli("export", "f", "--url", database_url).stdout == Path(file).read_text(encoding="utf-8")
    assert [path.name for path in tmp_path.glob("f.*")] == ["f.jsonl"]
    assert len(cli("verify", "--file", file).stdout.splitlines()) == 4
    assert "ok      f " in cli("import", file, "--url", url).stdout
    assert "already is a thread 'f'" in cli("import", "-", "--url", url, given=Path(file).read_text(), code=2).stderr
    assert len(cli("verify", "--all", "--url", url).stdout.splitlines()) == 4
    head = family.verify(F).head
    cli("verify", "f", "--head", str(head), "--url", url)
    assert "truncated" in cli("verify", "f", "--head", "00" * 32, "--url", url, code=6).stdout
    assert "name it" in cli("verify", "--all", "--head", str(head), "--url", url, code=2).stderr


def test_an_altered_file_has_its_exit_code(written: CompiledGraph[State], tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    lines = edited(list(written.export_thread(CONFIG)), 4, "row", node="other")
    file.write_bytes("".join(f"{line}\n" for line in lines).encode())
    assert "altered" in cli("verify", "--file", str(file), code=6).stdout
    url = f"sqlite:///{tmp_path / 'cli.db'}"
    assert "Nothing was written" in cli("import", str(file), "--url", url, code=6).stderr
    assert cli("threads", "--url", url).stdout == ""
    cli("verify", "--file", str(tmp_path / "nope"), code=2)


def test_history_says_who(database_url: str) -> None:
    with drawing(1).compile(database_url) as graph:
        graph.invoke({"n": 0}, by("ann"))
    assert "by ann" in cli("history", "t", "--url", database_url).stdout
