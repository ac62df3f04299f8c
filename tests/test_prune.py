"""Removing threads and the beginnings of logs: what goes, what stays, and that what stays is a whole log."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from durable_graph import (
    START,
    ArgumentError,
    CheckpointNotFoundError,
    Command,
    CompiledGraph,
    CorruptCheckpointError,
    ExportError,
    Log,
    StateGraph,
    StoreError,
    ThreadExistsError,
    ThreadNotFoundError,
    drivers,
    interrupt,
    leases,
    verify_export,
)
from durable_graph import prune as pruning
from durable_graph.cli import main
from durable_graph.core.chain import stub_hash
from durable_graph.core.times import iso
from durable_graph.store import Claim, Row, Store
from durable_graph.store.memory import MemoryStore
from tests.graphs import Calls, Runner, State, at, chain, counter, new_thread, wait_for
from tests.test_random_graphs import (
    AGAIN,
    INPUT,
    Act,
    Drawing,
    Model,
    Story,
    World,
    acts,
    drawings,
    known,
    quick,
    snapshots,
    thorough,
    ways,
)

NOON = 1_800_000_000.0
DAY = 86400.0


@pytest.fixture(params=["sync", "async"])
def run(request: pytest.FixtureRequest, database_url: str) -> Iterator[Runner]:
    with Runner(request.param, database_url) as runner:
        yield runner


class Clock:
    now = NOON


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()

    def tick() -> float:
        clock.now += 0.001
        return clock.now

    monkeypatch.setattr(drivers, "clock", tick)
    return clock


def id_of(config: dict[str, Any]) -> str:
    return str(config["configurable"]["thread_id"])


def named(name: str) -> dict[str, Any]:
    return {"configurable": {"thread_id": name}}


def prune(run: Runner, log: CompiledGraph[Any], **rule: Any) -> pruning.Pruned:
    found: pruning.Pruned = log.prune(**rule) if run.way == "sync" else wait_for(lambda: log.aprune(**rule))
    return found


def names(graph: Log) -> set[str]:
    return {thread.thread_id for thread in graph.threads()}


def steps(graph: Log, name: str) -> list[int]:
    return [row.step for row in graph._stored().rows(name)]


def everything(graph: CompiledGraph[Any]) -> int:
    """Rows of all tables that belong to threads."""
    store: Any = graph._stored()
    tables = ("threads", "checkpoints", "snapshots", "stubs", "signals")
    return sum(store._open().fetch(f"SELECT count(*) FROM {table}", ())[0][0] for table in tables)


def counted(run: Runner, to: int = 6, name: str = "long") -> tuple[CompiledGraph[Any], dict[str, Any]]:
    """A thread with an input row and `to` rows of supersteps."""
    graph, config = run.compile(counter(run, to)), named(name)
    run.invoke(graph, {}, config)
    return graph, config


# --- whole threads ------------------------------------------------------------------------------


def test_old_finished_threads_go(run: Runner, clock: Clock) -> None:
    graph, calls = run.compile(chain(run, Calls())), Calls()
    run.invoke(graph, {"log": []}, named("old"))
    failing = run.compile(chain(run, calls, b=calls.failing("b")))
    with pytest.raises(ValueError, match="b failed"):
        run.invoke(failing, {"log": []}, named("failed"))
    clock.now += 30 * DAY
    run.invoke(graph, {"log": []}, named("new"))
    would = prune(run, graph, older_than=timedelta(days=10), dry_run=True)
    assert names(graph) == {"old", "new", "failed"}
    done = prune(run, graph, older_than=10 * DAY)
    assert (done.threads, done.rows, done.cut, done.skipped, done.vacuumed) == (1, 4, 0, [], None)
    assert (would.threads, would.rows, would.bytes, would.dry_run) == (done.threads, done.rows, done.bytes, True)
    assert done.bytes > 0
    assert names(graph) == {"new", "failed"}
    assert prune(run, graph, statuses=["failed"], older_than=40 * DAY).threads == 0
    assert prune(run, graph, statuses=["failed"]).threads == 1
    assert names(graph) == {"new"}


def test_nothing_of_a_removed_thread_stays(run: Runner) -> None:
    graph, config = counted(run)
    run.call(graph, "signal", config, "hello", 1)
    prune(run, graph, keep_last=2)
    prune(run, graph, older_than=0)
    assert everything(graph) == 0
    assert run.invoke(graph, {"n": 5}, config)["n"] == 6
    assert graph.verify(config).ok


def test_of_one_graph_only(run: Runner) -> None:
    one, other = (run.compile(chain(run, Calls()), name=name) for name in ("one", "other"))
    run.invoke(one, {"log": []}, named("1"))
    run.invoke(other, {"log": []}, named("2"))
    assert prune(run, one, statuses=["finished"], graph="other").threads == 1
    assert names(one) == {"1"}


def test_more_threads_than_a_page(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "PAGE", 2)
    graph = run.compile(chain(run, Calls(), "a"))
    for number in range(7):
        run.invoke(graph, {"log": []}, named(str(number)))
    assert prune(run, graph, statuses=["finished"]).threads == 7
    assert everything(graph) == 0


def owned(graph: CompiledGraph[Any], name: str, owner: str) -> None:
    thread = graph._stored().thread(name)
    assert thread is not None
    lease = {"lease_owner": owner, "lease_since": iso(NOON), "lease_expires_at": iso(10 * NOON)}
    assert graph._stored().change_thread(name, Claim(thread.epoch, {"status": "running", **lease}))


@pytest.mark.parametrize("keep_last", [None, 1])
def test_a_running_thread_is_passed_over(run: Runner, keep_last: int | None) -> None:
    graph, _ = counted(run)
    before = steps(graph, "long")
    owned(graph, "long", "far-away/b00tb00t/7/99/run")
    done = prune(run, graph, statuses=["running"], keep_last=keep_last)
    assert [skipped.thread_id for skipped in done.skipped] == ["long"]
    assert "far-away" in done.skipped[0].reason
    assert (done.threads, done.cut, steps(graph, "long")) == (0, 0, before)


def test_a_thread_whose_owner_is_dead_may_go(run: Runner) -> None:
    graph, _ = counted(run)
    host, boot, pid, _, _ = leases.hold("x").split("/")
    leases._held.clear()
    owned(graph, "long", f"{host}/{boot}/{pid}/1/run")
    assert prune(run, graph, statuses=["running"]).threads == 1
    assert names(graph) == set()


def test_a_thread_that_was_forked_stays_as_long_as_its_fork(run: Runner, clock: Clock) -> None:
    graph, config = counted(run)
    clock.now += 10 * DAY
    run.fork(graph, at(config, 3), "fork")
    run.invoke(graph, None, named("fork"))
    done = prune(run, graph, older_than=DAY)
    assert [tuple(one) for one in done.skipped] == [("long", "thread 'fork' is a fork of it")]
    assert names(graph) == {"long", "fork"}
    assert graph.verify(named("fork")).ok
    run.fork(graph, named("fork"), "fork of the fork")
    would, done = (prune(run, graph, older_than=0, dry_run=dry) for dry in (True, False))
    assert (would.threads, done.threads, done.skipped, everything(graph)) == (3, 3, [], 0)
    assert (would.rows, would.bytes) == (done.rows, done.bytes)


def nested(run: Runner, to: int = 4) -> CompiledGraph[Any]:
    sub = StateGraph(State).add_node("x", run.node(lambda state: {"n": state.get("n", 0) + 1})).add_edge(START, "x")
    builder = StateGraph(State).add_node("sub", sub.compile()).add_edge(START, "sub")
    return run.compile(builder.add_conditional_edges("sub", lambda state: "sub" if state["n"] < to else "__end__"))


def test_runs_of_subgraphs_go_with_their_caller(run: Runner) -> None:
    graph = nested(run, 2)
    run.invoke(graph, {}, named("a"))
    run.invoke(graph, {}, named("b"))
    before = names(graph)
    assert len(before) == 6
    run.fork(graph, named("b"), "c")
    done = prune(run, graph, statuses=["finished"], older_than=0)
    assert done.threads == 7
    assert everything(graph) == 0


def test_a_long_thread_goes_in_small_transactions(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash in between leaves a whole log, and the next call goes on."""
    monkeypatch.setattr(pruning, "BATCH", 3)
    graph, config = counted(run, 10)
    store: Any = graph._stored()
    trims = iter(range(2))

    class CutOffError(Exception):
        pass

    def trim(thread_id: str, *, until: int) -> None:
        type(store).trim(store, thread_id, until=until)
        if next(trims, None) is None:
            raise CutOffError

    with monkeypatch.context() as patch:
        patch.setattr(store, "trim", trim)
        with pytest.raises(CutOffError):
            prune(run, graph, statuses=["finished"])
    assert steps(graph, "long") == [9, 10]
    assert graph.verify(config).ok
    assert run.get_state(graph, config).values["n"] == 10
    assert prune(run, graph, statuses=["finished"]).threads == 1
    assert everything(graph) == 0


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ({}, "nothing says what is to go"),
        ({"graph": "x"}, "nothing says what is to go"),
        ({"keep_last": 0}, "keep_last"),
        ({"keep_last": True}, "keep_last"),
        ({"older_than": -1}, "no age"),
        ({"older_than": float("nan")}, "no age"),
        ({"older_than": "1d"}, "no age"),
        ({"statuses": "finished"}, "it is a text"),
        ({"statuses": ["done"]}, "'done' is no status"),
    ],
)
def test_what_is_no_rule(sqlite_url: str, rule: dict[str, Any], told: str) -> None:
    with Log(sqlite_url) as log, pytest.raises(ArgumentError, match=told):
        log.prune(**rule)


# --- beginnings ---------------------------------------------------------------------------------


def test_the_last_states_stay(run: Runner) -> None:
    graph, config = counted(run)
    told, states = run.replay(graph, config), run.history(graph, config)
    would = prune(run, graph, keep_last=3, dry_run=True)
    assert steps(graph, "long") == [0, 1, 2, 3, 4, 5, 6]
    done = prune(run, graph, keep_last=3)
    assert (done.cut, done.rows, done.threads, done.skipped) == (1, 4, 0, [])
    assert (would.cut, would.rows, would.bytes) == (1, 4, done.bytes)
    assert steps(graph, "long") == [4, 5, 6]
    assert run.history(graph, config) == states[:3]
    assert run.replay(graph, config) == told[4:]
    assert run.get_state(graph, config).values["n"] == 6
    assert run.get_state(graph, at(config, 4)).values["n"] == 4
    assert prune(run, graph, keep_last=3).cut == 0


def test_a_cut_log_can_be_verified(run: Runner) -> None:
    graph, config = counted(run)
    head = graph.verify(config).head
    prune(run, graph, keep_last=2)
    report = run.call(graph, "verify", config)
    assert (report.ok, report.begins, report.rows, report.head) == (True, 5, 2, head)


def alter(graph: CompiledGraph[Any], sql: str) -> None:
    store: Any = graph._stored()
    with store._open().transaction() as connection:
        connection.execute(sql)


@pytest.mark.parametrize(
    ("sql", "kind"),
    [
        ("UPDATE stubs SET state = parent_hash", "altered"),
        ("UPDATE stubs SET pruned_at = 'x'", "altered"),
        ("UPDATE stubs SET parent_hash = hash", "altered"),
        ("UPDATE stubs SET step = step + 1", "altered"),
        ("DELETE FROM stubs", "missing"),
        ("DELETE FROM checkpoints WHERE step = 5", "missing"),
        ("DELETE FROM checkpoints", "missing"),
        ("UPDATE checkpoints SET node = 'x' WHERE step = 5", "altered"),
    ],
)
def test_a_stub_that_was_tampered_with_is_found(run: Runner, sql: str, kind: str) -> None:
    graph, config = counted(run)
    prune(run, graph, keep_last=2)
    alter(graph, sql)
    report = graph.verify(config)
    assert not report.ok
    assert report.findings[0].kind == kind


def test_only_who_has_the_key_can_make_a_stub(run: Runner) -> None:
    graph, config = run.compile(counter(run, 6), key="secret"), named("long")
    run.invoke(graph, {}, config)
    prune(run, graph, keep_last=3)
    assert graph.verify(config).ok
    store: Store = graph._stored()
    stub, thread = store.stub("long"), store.thread("long")
    assert stub is not None
    assert thread is not None
    with Log(str(run.url), key="another") as log:
        assert "altered" in log.prune(keep_last=2).skipped[0].reason
    assert store.stub("long") == stub
    row = next(iter(store.rows("long", limit=1)))
    forged = stub._replace(actor="nobody", hash=stub_hash(row.hash, (*stub[:5], "nobody"), b"another"))
    assert store.cut(forged, thread.epoch)
    assert "stubs" in graph.verify(config).findings[0].problem


def test_a_pruned_step_is_told_as_such(run: Runner) -> None:
    graph, config = counted(run)
    prune(run, graph, keep_last=3)
    for step in (0, 3):
        with pytest.raises(CheckpointNotFoundError, match=r"its steps are 4 to 6, those before were pruned"):
            run.get_state(graph, at(config, step))
        with pytest.raises(CheckpointNotFoundError, match="pruned"):
            run.replay(graph, config, after=step)
        with pytest.raises(CheckpointNotFoundError, match="pruned"):
            run.replay(graph, config, until=step)
        with pytest.raises(CheckpointNotFoundError, match="pruned"):
            run.follow(graph, config, after=step)
        with pytest.raises(CheckpointNotFoundError, match="pruned"):
            run.history(graph, at(config, step))
        with pytest.raises(CheckpointNotFoundError, match="pruned"):
            run.history(graph, config, before=at(config, step))
        with pytest.raises(CheckpointNotFoundError, match="pruned"):
            run.update_state(graph, at(config, step), {"n": 1})
        with pytest.raises(CheckpointNotFoundError, match="pruned"):
            run.fork(graph, at(config, step), "fork")
        with pytest.raises(CheckpointNotFoundError, match="pruned"):
            run.invoke(graph, None, at(config, step))
    with pytest.raises(CheckpointNotFoundError, match="4 to 6"):
        run.get_state(graph, at(config, 7))
    assert run.history(graph, config, before=at(config, 4)) == []
    assert [state.values["n"] for state in run.history(graph, at(config, 5))] == [5, 4]


def test_a_cut_thread_goes_on(run: Runner) -> None:
    graph, config = counted(run)
    prune(run, graph, keep_last=2)
    assert run.invoke(graph, {"n": 1}, config)["n"] == 6
    assert run.invoke(graph, None, at(config, 5))["n"] == 6
    run.fork(graph, at(config, 5), "fork")
    assert run.invoke(graph, None, named("fork"))["n"] == 6
    assert graph.verify(config).ok
    assert graph.verify(named("fork")).ok
    assert [state.values["n"] for state in run.history(graph, config)][-2:] == [6, 5]
    live = list(graph.follow(config, timeout=0))
    assert live == run.replay(graph, config)


def test_losing_the_snapshots_loses_nothing(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("durable_graph.core.rows.SNAPSHOT_BYTES", 1)
    graph, config = counted(run)
    prune(run, graph, keep_last=2)
    alter(graph, "DELETE FROM snapshots")
    assert [state.values["n"] for state in run.history(graph, config)] == [6, 5]
    assert run.invoke(graph, {"n": 3}, config)["n"] == 6


def test_cut_again_and_again(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "BATCH", 2)
    graph, config = counted(run, 8)
    for keep in (6, 4, 4, 1):
        prune(run, graph, keep_last=keep)
        assert len(run.history(graph, config)) == keep
        assert graph.verify(config).ok
    assert steps(graph, "long") == [8]
    assert run.invoke(graph, {"n": 7}, config)["n"] == 8


def test_what_a_fork_needs_stays(run: Runner) -> None:
    graph, config = counted(run)
    run.fork(graph, at(config, 3), "fork")
    done = prune(run, graph, keep_last=1)
    assert [tuple(one) for one in done.skipped] == [("long", "thread 'fork' is a fork of its step 3")]
    assert steps(graph, "long") == [3, 4, 5, 6]
    assert graph.verify(named("fork")).ok
    assert run.invoke(graph, None, named("fork"))["n"] == 6
    assert run.replay(graph, named("fork"))


def test_what_going_back_needs_stays(run: Runner) -> None:
    graph, config = counted(run)
    run.first(1, graph, None, at(config, 4))
    prune(run, graph, keep_last=1)
    assert graph.verify(config).ok
    assert run.invoke(graph, None, config)["n"] == 6
    told = run.replay(graph, config)
    prune(run, graph, keep_last=1)
    assert steps(graph, "long")[0] > 6
    assert graph.verify(config).ok
    assert run.get_state(graph, config).values["n"] == 6
    assert told


def test_only_rows_that_are_old(run: Runner, clock: Clock) -> None:
    graph, config = run.compile(counter(run, 6)), named("long")
    run.first(3, graph, {}, config)
    clock.now += 10 * DAY
    run.invoke(graph, None, config)
    assert prune(run, graph, keep_last=1, older_than=20 * DAY).cut == 0
    assert prune(run, graph, keep_last=1, older_than=DAY).cut == 1
    assert steps(graph, "long")[0] == 3
    assert graph.verify(config).ok


def test_an_open_question_outlives_the_beginning(run: Runner) -> None:
    calls = Calls()
    builder = chain(run, calls, "abc", b=lambda state: {"log": [interrupt("what?")]})
    graph, config = run.compile(builder), named("asks")
    run.invoke(graph, {"log": []}, config)
    prune(run, graph, keep_last=1)
    assert steps(graph, "asks") == [1, 2]
    assert run.get_state(graph, config).interrupts[0].value == "what?"
    assert run.invoke(graph, Command(resume="this"), config) == {"log": ["a", "this", "c"]}
    assert graph.verify(config).ok


def test_old_runs_of_subgraphs_go_with_the_rows_that_tell_of_them(run: Runner) -> None:
    graph, config = nested(run), named("deep")
    run.invoke(graph, {}, config)
    live = run.replay(graph, config, subgraphs=True)
    would = prune(run, graph, keep_last=2, dry_run=True)
    done = prune(run, graph, keep_last=2)
    assert (would.threads, would.rows, would.bytes) == (done.threads, done.rows, done.bytes)
    assert done.threads == 3
    assert len(names(graph)) == 2
    again = run.replay(graph, config, subgraphs=True)
    assert again
    assert again == live[-len(again) :]
    assert run.get_state(graph, config).values["n"] == 4


def test_runs_of_subgraphs_that_go_on_from_run_to_run_stay(run: Runner) -> None:
    sub = StateGraph(State).add_node("x", run.node(lambda state: {"log": ["x"]})).add_edge(START, "x")
    builder = StateGraph(State).add_node("sub", sub.compile(True)).add_edge(START, "sub")
    graph, config = run.compile(builder), named("deep")
    for _ in range(3):
        run.invoke(graph, {}, config)
    assert prune(run, graph, keep_last=1).threads == 0
    assert "deep/sub" in names(graph)
    state = run.invoke(graph, {}, config)
    assert state["log"].count("x") >= 4


def test_a_runner_that_looked_before_the_cut_cannot_go_back_behind_it(run: Runner) -> None:
    graph, _ = counted(run)
    store: Store = graph._stored()
    thread = store.thread("long")
    assert thread is not None
    prune(run, graph, keep_last=2)
    assert not store.change_thread("long", Claim(thread.epoch, {"status": "running"}))


def test_a_damaged_thread_is_told_and_left(run: Runner) -> None:
    graph, _ = counted(run)
    counted(run, name="sound")
    alter(graph, "UPDATE checkpoints SET body = hash WHERE thread_id = 'long' AND step = 3")
    done = prune(run, graph, keep_last=1)
    assert [one.thread_id for one in done.skipped] == ["long"]
    assert "verify finds step 3 altered" in done.skipped[0].reason
    assert done.cut == 1
    assert len(steps(graph, "long")) == 7


@pytest.mark.parametrize(
    ("rule", "error"),
    [({"keep_last": 2}, CheckpointNotFoundError), ({"statuses": ["finished"]}, ThreadNotFoundError)],
)
def test_a_fork_of_what_is_pruned_at_that_moment(
    run: Runner, monkeypatch: pytest.MonkeyPatch, rule: dict[str, Any], error: type[Exception]
) -> None:
    graph, config = counted(run)
    store: Any = graph._stored()

    def append(rows: Any, **kwargs: Any) -> None:
        with Log(str(run.url)) as log:
            log.prune(**rule)
        type(store).append(store, rows, **kwargs)

    monkeypatch.setattr(store, "append", append)
    with pytest.raises(error, match="pruned" if "keep_last" in rule else "no thread 'long'"):
        run.fork(graph, at(config, 3), "fork")
    assert "fork" not in names(graph)


# --- checked, taken out and put in ----------------------------------------------------------------


def test_a_stub_says_who_and_verify_says_what_it_cannot_see(run: Runner) -> None:
    graph, config = counted(run)
    prune(run, graph, keep_last=3, actor="ann@example.com")
    report = run.call(graph, "verify", config)
    assert (report.ok, report.begins, report.rows) == (True, 4, 3)
    assert "steps 0 to 3 were pruned at 20" in report.pruned
    assert "by 'ann@example.com'" in report.pruned
    alter(graph, "UPDATE stubs SET actor = 'bob'")
    assert [finding.kind for finding in graph.verify(config).findings] == ["altered"]


@pytest.mark.parametrize("actor", ["", 5, "a\0b"])
def test_an_actor_is_a_text(sqlite_url: str, actor: Any) -> None:
    with Log(sqlite_url) as log, pytest.raises(ArgumentError, match="actor"):
        log.prune(keep_last=1, actor=actor)


def test_who_removed_a_whole_thread_is_logged(run: Runner, caplog: pytest.LogCaptureFixture) -> None:
    graph, _ = counted(run)
    with caplog.at_level("INFO", "durable_graph"):
        prune(run, graph, statuses=["finished"], actor="ann")
    assert [record.getMessage() for record in caplog.records] == ["thread 'long' was pruned by 'ann'"]


def test_what_a_head_of_before_tells(run: Runner) -> None:
    graph, config = counted(run, 3)
    old = graph.verify(config)
    run.invoke(graph, {"n": 0}, config)
    new = graph.verify(config)
    prune(run, graph, keep_last=1)
    assert graph.verify(config, head=new).ok
    assert graph.verify(config, head=new.head).ok
    assert graph.verify(config, head=old).ok  # that row was pruned, as its step tells
    finding = graph.verify(config, head=old.head).findings[0]
    assert finding.kind == "truncated"
    assert "a row before step 7" in finding.problem
    alter(graph, "DELETE FROM checkpoints")
    assert [finding.kind for finding in graph.verify(config, head=new).findings] == ["missing", "truncated"]


def test_the_head_just_before_the_beginning_is_known(run: Runner) -> None:
    graph, config = counted(run, 3)
    head = graph.verify(config).head
    run.invoke(graph, {"n": 2}, config)
    alter(graph, "DELETE FROM snapshots")
    assert steps(graph, "long") == [0, 1, 2, 3, 4, 5]
    prune(run, graph, keep_last=2)
    assert steps(graph, "long") == [4, 5]
    assert graph.verify(config, head=head).ok


def test_keys_that_rotated(run: Runner) -> None:
    """The stub is signed with the newest key, what it stands before with any of them."""
    graph, config = run.compile(counter(run, 6), key="old"), named("long")
    run.invoke(graph, {}, config)
    prune(run, graph, keep_last=5)
    both = run.compile(counter(run, 6), key=["new", "old"])
    assert both.verify(config).ok  # a stub of an older key
    run.invoke(both, {"n": 4}, config)
    prune(run, both, keep_last=4)  # verified with both, signed with the new one
    assert both.verify(config).ok
    assert not graph.verify(config).ok
    assert not run.compile(counter(run, 6), key="new").verify(config).ok
    prune(run, both, keep_last=2)
    assert run.compile(counter(run, 6), key="new").verify(config).ok


@pytest.fixture
def elsewhere(run: Runner, tmp_path: Path) -> Iterator[CompiledGraph[Any]]:
    with counter(run, 6).compile(f"sqlite:///{tmp_path / 'elsewhere.db'}") as graph:
        yield graph


def exported(run: Runner, graph: CompiledGraph[Any], config: dict[str, Any]) -> list[str]:
    return run.each(lambda line: None, graph, "export_thread", config)


def test_a_cut_thread_goes_out_and_in(run: Runner, elsewhere: CompiledGraph[Any]) -> None:
    graph, config = counted(run)
    prune(run, graph, keep_last=3, actor="ann")
    lines = exported(run, graph, config)
    (report,) = verify_export(lines)
    assert report == graph.verify(config)
    assert report.begins == 4
    assert run.call(elsewhere, "import_thread", lines) == report
    assert elsewhere.verify(config) == report
    assert elsewhere._stored().stub("long") == graph._stored().stub("long")
    assert run.history(elsewhere, config) == run.history(graph, config)
    assert run.replay(elsewhere, config) == run.replay(graph, config)
    assert exported(run, elsewhere, config) == lines
    with pytest.raises(CheckpointNotFoundError, match="4 to 6, those before were pruned"):
        run.get_state(elsewhere, at(config, 3))
    run.fork(elsewhere, at(config, 4), "fork")
    assert run.invoke(elsewhere, None, named("fork"))["n"] == 6
    assert run.invoke(elsewhere, {"n": 5}, config)["n"] == 6
    assert all(report.ok for report in elsewhere.verify_all())
    prune(run, elsewhere, keep_last=1)
    elsewhere.delete_thread("fork")
    elsewhere.delete_thread("long")
    assert everything(elsewhere) == 0


def test_a_fork_of_a_cut_thread_goes_out_and_in(run: Runner, elsewhere: CompiledGraph[Any]) -> None:
    graph, config = counted(run)
    run.fork(graph, at(config, 5), "fork")
    prune(run, graph, keep_last=1)
    lines = exported(run, graph, named("fork"))
    assert [(report.thread_id, report.begins, report.ok) for report in verify_export(lines)] == [
        ("fork", 0, True),
        ("long", 5, True),
    ]
    elsewhere.import_thread(lines)
    assert run.invoke(elsewhere, None, named("fork"))["n"] == 6
    assert all(report.ok for report in elsewhere.verify_all())
    with pytest.raises(ThreadExistsError):
        elsewhere.import_thread(exported(run, graph, config))
    for name in ("fork", "long"):
        elsewhere.delete_thread(name)
    elsewhere.import_thread(exported(run, graph, config))
    elsewhere.import_thread(exported(run, graph, named("fork")))  # its origin is there already, and the same
    assert all(report.ok for report in elsewhere.verify_all())


DAMAGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "state": lambda stub: stub.update(state=stub["state"].replace("3", "5")),
    "hash": lambda stub: stub.update(hash="00" * 32),
    "parent_hash": lambda stub: stub.update(parent_hash="00" * 32),
    "actor": lambda stub: stub.update(actor="bob"),
    "later step": lambda stub: stub.update(step=stub["step"] + 1),
    "earlier step": lambda stub: stub.update(step=stub["step"] - 1),
    "no step": lambda stub: stub.update(step=0),
    "thread": lambda stub: stub.update(thread_id="other"),
    "column": lambda stub: stub.pop("actor"),
    "kind": lambda stub: stub.update(pruned_at=5),
}


@pytest.mark.parametrize("damage", [*DAMAGES, "removed", "doubled", "behind a row"])
def test_an_export_whose_stub_was_altered(run: Runner, elsewhere: CompiledGraph[Any], damage: str) -> None:
    graph, config = counted(run)
    prune(run, graph, keep_last=4)
    lines = exported(run, graph, config)
    line = json.loads(lines[2])
    if damage in DAMAGES:
        DAMAGES[damage](line["stub"])
        lines[2] = json.dumps(line, separators=(",", ":"))
    else:
        lines[2:4] = {"removed": lines[3:4], "doubled": [lines[2], *lines[2:4]], "behind a row": lines[3:1:-1]}[damage]
    body = "".join(f"{line}\n" for line in lines[:-1])
    seal = json.loads(lines[-1])["seal"]
    seal["hash"] = hashlib.sha256(body.encode()).hexdigest()  # without a key anybody can do that
    lines[-1] = json.dumps({"seal": seal})
    assert not verify_export(lines)[0].ok
    with pytest.raises(ExportError, match="Nothing was written"):
        elsewhere.import_thread(lines)
    assert elsewhere.threads() == []


def meanwhile(monkeypatch: pytest.MonkeyPatch, graph: CompiledGraph[Any], after: int, **rule: Any) -> None:
    """Somebody else prunes while rows are read: once, when so many have been given."""
    store: Any = graph._stored()
    due = iter([True])

    def rows(*args: Any, **kwargs: Any) -> Iterator[Any]:
        for number, row in enumerate(type(store).rows(store, *args, **kwargs)):
            if number == after and next(due, False):
                with Log(graph._stored()) as log:
                    log.prune(**rule)
                yield from type(store).rows(store, *args, **{**kwargs, "after": row.step - 1})
                return
            yield row

    monkeypatch.setattr(store, "rows", rows)


def test_what_is_pruned_while_it_is_verified_is_not_missing(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, config = counted(run)
    with monkeypatch.context() as patch:
        meanwhile(patch, graph, 2, keep_last=2)
        report = graph.verify(config)
    assert (report.ok, report.begins, report.rows) == (True, 5, 2)


def test_what_is_pruned_while_it_is_exported_is_no_export(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, config = counted(run)
    with monkeypatch.context() as patch:
        meanwhile(patch, graph, 2, keep_last=2)
        with pytest.raises(StoreError, match="pruned while it was exported"):
            list(graph.export_thread(config))
    assert verify_export(graph.export_thread(config))[0].ok


def test_what_is_pruned_while_it_is_loaded(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, config = counted(run)
    with monkeypatch.context() as patch:
        meanwhile(patch, graph, 1, keep_last=2)
        assert graph.get_state(config).values["n"] == 6
    with monkeypatch.context() as patch:
        meanwhile(patch, graph, 0, keep_last=1)
        with pytest.raises(CheckpointNotFoundError, match="its steps are 6 to 6"):
            graph.get_state(at(config, 5))


def test_a_snapshot_that_was_altered_is_not_signed(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("durable_graph.core.rows.SNAPSHOT_BYTES", 1)
    graph, config = run.compile(counter(run, 6), key="secret"), named("long")
    run.invoke(graph, {}, config)
    (first,) = graph._stored()._open().fetch("SELECT state FROM snapshots ORDER BY step LIMIT 1", ())  # type: ignore[attr-defined]
    alter(graph, "UPDATE snapshots SET state = (SELECT state FROM snapshots ORDER BY step LIMIT 1)")
    prune(run, graph, keep_last=2)
    alter(graph, "DELETE FROM snapshots")
    assert [state.values["n"] for state in run.history(graph, config)] == [6, 5]
    assert first


def test_what_is_left_before_the_beginning_is_not_looked_at(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """No hash holds it any more, so anybody could have put it there."""
    graph, config = counted(run)
    store: Any = graph._stored()
    with monkeypatch.context() as patch:
        patch.setattr(store, "trim", lambda *args, **kwargs: None)
        prune(run, graph, keep_last=2)
    assert len(steps(graph, "long")) == 7
    told, states = run.replay(graph, config), run.history(graph, config)
    alter(graph, "UPDATE checkpoints SET body = hash WHERE step < 5")
    alter(graph, "INSERT INTO snapshots SELECT thread_id, 4, state FROM stubs")
    assert (run.replay(graph, config), run.history(graph, config)) == (told, states)
    assert graph.verify(config).rows == 2
    assert len(list(graph.export_thread(config))) == 7
    for step in (0, 4):
        with pytest.raises(CheckpointNotFoundError, match="5 to 6, those before were pruned"):
            run.get_state(graph, at(config, step))
    assert run.invoke(graph, {"n": 5}, config)["n"] == 6
    assert prune(run, graph, keep_last=50).rows == 5
    assert steps(graph, "long")[0] == 5
    assert graph.verify(config).ok


@pytest.mark.parametrize("change", ["state = hash", "pruned_at = ''", "step = -1", "parent_hash = state"])
def test_garbage_in_a_stub(run: Runner, change: str) -> None:
    graph, config = counted(run)
    prune(run, graph, keep_last=2)
    alter(graph, f"UPDATE stubs SET {change}")
    assert not graph.verify(config).ok
    if change in ("state = hash", "step = -1"):
        with pytest.raises(CorruptCheckpointError, match="in the table stubs"):
            run.get_state(graph, config)
    assert prune(run, graph, statuses=["finished"]).threads == 1
    assert everything(graph) == 0


def test_a_stub_without_rows(run: Runner) -> None:
    graph, config = counted(run)
    prune(run, graph, keep_last=2)
    alter(graph, "DELETE FROM checkpoints")
    assert [finding.kind for finding in graph.verify(config).findings] == ["missing"]
    assert [finding.kind for finding in verify_export(graph.export_thread(config))[0].findings] == ["missing"]
    done = prune(run, graph, keep_last=1)
    assert (done.cut, done.rows) == (0, 0)
    assert prune(run, graph, statuses=["finished"]).threads == 1
    assert everything(graph) == 0


def test_stubs_with_values_of_other_types(tmp_path: Path) -> None:
    """Only SQLite takes them."""
    with Runner("sync", f"sqlite:///{tmp_path / 'runs.db'}") as run:
        graph, config = counted(run)
        prune(run, graph, keep_last=2)
        for change in ("step = 'x'", "state = 5", "hash = 'x'", "actor = x'00'"):
            with Log(run.url) as log, monkeyed(graph, change):
                assert [finding.kind for finding in graph.verify(config).findings]
                with pytest.raises(CorruptCheckpointError, match="stubs"):
                    graph.get_state(config)
                with pytest.raises(CorruptCheckpointError, match="stubs"):
                    list(graph.export_thread(config))
                assert "stubs" in log.prune(keep_last=1).skipped[0].reason
        assert graph.verify(config).ok


@contextmanager
def monkeyed(graph: CompiledGraph[Any], change: str) -> Iterator[None]:
    stub: Any = graph._stored().stub("long")
    thread: Any = graph._stored().thread("long")
    alter(graph, f"UPDATE stubs SET {change}")
    yield
    assert graph._stored().cut(stub, thread.epoch)


# --- forks and subgraphs ------------------------------------------------------------------------


def test_a_fork_that_was_cut_needs_its_origin_no_more(run: Runner) -> None:
    graph, config = counted(run)
    run.fork(graph, at(config, 3), "fork")
    run.invoke(graph, None, named("fork"))
    would = prune(run, graph, keep_last=3, dry_run=True)
    done = prune(run, graph, keep_last=3)
    assert (would.cut, would.rows, would.bytes, would.skipped) == (done.cut, done.rows, done.bytes, done.skipped)
    assert (done.cut, done.skipped) == (2, [])
    prune(run, graph, keep_last=1)
    assert (steps(graph, "long"), steps(graph, "fork")) == ([6], [4])
    graph.delete_thread("long")
    assert run.invoke(graph, {"n": 3}, named("fork"))["n"] == 6
    assert graph.verify(named("fork")).ok
    assert verify_export(graph.export_thread(named("fork")))[0].ok


def remembering(run: Runner) -> CompiledGraph[Any]:
    """A subgraph whose thread goes on from run to run."""
    sub = StateGraph(State).add_node("x", run.node(lambda state: {"log": ["x"]})).add_edge(START, "x")
    builder = StateGraph(State).add_node("other", run.node(lambda state: None))
    builder.add_node("sub", sub.compile(True)).add_conditional_edges(
        START, lambda state: "other" if state.get("n") else "sub"
    )
    return run.compile(builder)


def test_a_fork_whose_subgraph_goes_on_from_the_origins_needs_it(run: Runner) -> None:
    graph, config = remembering(run), named("a")
    run.invoke(graph, {"n": 0}, config)
    run.invoke(graph, {"n": 0}, config)
    run.fork(graph, config, "f")
    run.invoke(graph, {"n": 1}, named("f"))
    run.invoke(graph, {"n": 1}, named("f"))
    prune(run, graph, keep_last=1)
    assert steps(graph, "f")[0] > 0
    done = prune(run, graph, statuses=["finished"], older_than=0, dry_run=True)
    assert done.skipped == []  # both together may go
    thread = graph._stored().thread("f")
    assert thread is not None
    assert thread.parent_thread_id == "a"  # not alone
    assert run.invoke(graph, {"n": 0}, named("f"))["log"].count("x") == 7


def test_the_log_of_a_subgraph_that_goes_on_is_cut_with_its_callers(run: Runner) -> None:
    graph, config = remembering(run), named("chat")
    for _ in range(5):
        run.invoke(graph, {"n": 0}, config)
    rows = steps(graph, "chat/sub")
    told = run.replay(graph, config, subgraphs=True)
    shown = [run.get_state(graph, state.config, subgraphs=True) for state in run.history(graph, config)]
    would = prune(run, graph, keep_last=3, dry_run=True)
    done = prune(run, graph, keep_last=3)
    assert (would.cut, would.rows, would.bytes) == (done.cut, done.rows, done.bytes)
    assert done.cut == 2
    left = steps(graph, "chat/sub")
    assert left[0] > 0
    assert left == rows[-len(left) :]
    assert all(report.ok for report in graph.verify_all())
    again = run.replay(graph, config, subgraphs=True)
    assert again == told[-len(again) :]
    states = [run.get_state(graph, state.config, subgraphs=True) for state in run.history(graph, config)]
    assert states == shown[: len(states)]
    run.fork(graph, states[-1].config, "fork")
    assert run.invoke(graph, {"n": 0}, named("fork"))["log"].count("x") > 4
    earlier = next(state for state in reversed(states) if state.next)
    assert run.invoke(graph, None, earlier.config)["log"].count("x") > 3
    assert run.invoke(graph, {"n": 0}, config)["log"]
    assert all(report.ok for report in verify_export(graph.export_thread(named("fork"))))
    prune(run, graph, keep_last=1)
    assert all(report.ok for report in graph.verify_all())
    assert run.invoke(graph, {"n": 0}, config)["log"]


def test_a_large_thread_goes_with_all_below_it_in_small_transactions(
    run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "BATCH", 6)
    graph = nested(run, 12)
    run.invoke(graph, {}, named("deep"))
    graph2 = remembering(run)
    for _ in range(6):
        run.invoke(graph2, {}, named("chat"))
    total = everything(graph)
    store: Any = graph._stored()

    def trim(thread_id: str, *, until: int) -> None:
        raise CrashError

    with monkeypatch.context() as patch:
        patch.setattr(store, "trim", trim)
        for _ in ("deep", "chat"):
            with pytest.raises(CrashError):
                prune(run, graph, statuses=["finished"])
    removed: list[int] = []

    def watched(name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            before = everything(graph)
            result = getattr(type(store), name)(store, *args, **kwargs)
            removed.append(before - everything(graph))
            return result

        return call

    for name in ("prune", "trim"):
        monkeypatch.setattr(store, name, watched(name))
    done = prune(run, graph, statuses=["finished"])
    assert everything(graph) == 0
    assert (done.threads, done.skipped) == (15, [])
    assert sum(removed) >= total
    assert max(removed) <= 2 * 6
    assert len(removed) > total / 12


# --- a crash at every moment --------------------------------------------------------------------


class CrashError(BaseException):
    """The process ends here."""


class Dying:
    """A connection that ends the process before its statement number `at`, or lets it live."""

    def __init__(self, connection: Any, left: Iterator[None]) -> None:
        self._connection, self._left = connection, left

    def execute(self, *args: Any) -> Any:
        if next(self._left, self) is self:
            raise CrashError
        return self._connection.execute(*args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


@contextmanager
def dying(graph: CompiledGraph[Any], at: int) -> Iterator[None]:
    """Everything that is written from now on, statement by statement."""
    store: Any = graph._stored()
    database = store._open()
    left = iter([None] * at)

    @contextmanager
    def transaction() -> Iterator[Any]:
        with type(database).transaction(database) as connection:
            yield Dying(connection, left)

    database.transaction = transaction
    try:
        yield
    finally:
        del database.transaction


def populate(run: Runner, graph: CompiledGraph[Any], deep: CompiledGraph[Any]) -> None:
    """A long thread, one with subgraphs, and a fork."""
    run.invoke(graph, {}, named("long"))
    run.invoke(deep, {}, named("deep"))
    run.fork(graph, at(named("long"), 4), "fork")
    run.invoke(graph, None, named("fork"))


def shape(graph: CompiledGraph[Any]) -> dict[str, tuple[list[int], bool]]:
    store = graph._stored()
    return {name: (steps(graph, name), store.stub(name) is not None) for name in sorted(names(graph))}


@pytest.mark.parametrize(
    "rule",
    [{"keep_last": 2}, pytest.param({"older_than": 0, "statuses": ["finished", "pending"]}, marks=pytest.mark.slow)],
)
def test_a_crash_at_every_statement(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: dict[str, Any]
) -> None:
    """What is left is whole and can be continued, and the next call does the rest."""
    monkeypatch.setattr(pruning, "BATCH", 3)
    with Runner("sync", database_url) as run:
        expected: dict[str, Any] | None = None
        graph, deep = run.compile(counter(run, 5)), nested(run, 3)
        for number in itertools.count():
            populate(run, graph, deep)
            if expected is None:
                graph.prune(**rule)
                expected = shape(graph)
            else:
                crashed = False
                with dying(graph, number - 1):
                    try:
                        graph.prune(**rule)
                    except CrashError:
                        crashed = True
                reports = list(graph.verify_all())
                assert all(reports), (number, reports)
                for report in reports:
                    config = named(report.thread_id)
                    assert graph.get_state(config).values
                    assert list(graph.get_state_history(config))
                    list(graph.replay(config, subgraphs=True))
                    assert verify_export(graph.export_thread(config))
                graph.prune(**rule)
                assert shape(graph) == expected, number
                if not crashed:
                    assert number > 20
                    break
            for name in names(graph):
                graph._stored().delete(name)
            assert everything(graph) == 0


# --- any history of any graph -----------------------------------------------------------------------


class PrunedStory(Story):
    """A thread of whose log everything that may go goes after each act."""

    gone = 0  # inputs whose rows were pruned

    def left(self) -> list[Row]:
        """The rows that led to where the thread stands, newest first, as far as they are there."""
        store, found = self.world.store, list[Row]()
        newest = next(iter(store.rows(self.thread_id, newest_first=True, limit=1)), None)
        place: Any = newest and (self.thread_id, newest.step)
        while place is not None and (row := next(store.rows(place[0], after=place[1] - 1, until=place[1]), None)):
            found.append(row)
            if row.kind == "fork":
                place = self.world.codec.decode(row.body)["parent"]
            else:
                place = None if row.parent_step is None else (row.thread_id, row.parent_step)
        return found

    def accepted(self) -> int:
        return self.gone + sum(row.kind == "input" for row in self.left())

    def earlier(self, graph: CompiledGraph[Any], number: int) -> dict[str, Any]:
        if self.accepted() < self.inputs:
            return self.config
        rows = list(itertools.takewhile(lambda row: row.thread_id == self.thread_id, self.left()))
        run = rows[: next((place + 1 for place, row in enumerate(rows) if row.kind == "input"), len(rows))]
        there = [at(self.config, row.step) for row in run if graph.get_state(at(self.config, row.step)).next]
        return there[number % len(there)] if there else self.config

    def play(self, act: Act) -> None:
        if act.what != "look":  # which wants every step since 0
            super().play(act)
        graph, before = self.world.reader, self.accepted()
        graph.prune(keep_last=1 + act.number % 3)
        self.gone += before - self.accepted()
        for thread in graph.threads():
            assert graph.verify({"thread_id": thread.thread_id}).ok
            assert list(graph.get_state_history(named(thread.thread_id)))
        if graph._stored().thread(self.thread_id) is not None:
            list(graph.replay(self.config, subgraphs=True))
            assert all(report.ok for report in verify_export(graph.export_thread(self.config)))


@settings(quick, max_examples=12)
@given(drawings(), st.lists(acts, min_size=2, max_size=6), ways, st.booleans())
def test_pruning_changes_nothing_that_comes(drawing: Drawing, acts: list[Act], way: str, often: bool) -> None:
    check_pruned(drawing, acts, way, often)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(thorough, max_examples=100)
@given(drawings(), st.lists(acts, min_size=2, max_size=6), ways, st.booleans())
def test_much_pruning_changes_nothing_that_comes(drawing: Drawing, acts: list[Act], way: str, often: bool) -> None:
    check_pruned(drawing, acts, way, often)


def check_pruned(drawing: Drawing, acts: list[Act], way: str, often: bool) -> None:
    world = World(drawing, MemoryStore())
    model = Model(world.drawing).run(INPUT)
    more = deepcopy(model).run(AGAIN)
    story = PrunedStory(world, "t")
    with snapshots(often):
        for act in known(acts, drawing):
            story.play(act)
        assert story.finish(way) == model.values
        story.inputs = 2
        for act in known(acts[:2], drawing):
            story.play(act)
        assert story.finish(way) == more.values
    assert world.sins == []
    world.reader.prune(statuses=pruning.STATUSES)
    assert world.reader.threads() == []
    world.close()


# --- every store ----------------------------------------------------------------------------------


def test_every_store_prunes(store: Store) -> None:
    """Also the one in dictionaries."""
    with Runner("sync", False) as run, counter(run, 6).compile(store, key="secret") as graph:
        config = named("long")
        graph.invoke({}, config)
        graph.fork(at(config, 4), to="fork")
        done = graph.prune(keep_last=1, actor="ann")
        assert (done.rows, [one.thread_id for one in done.skipped]) == (4, ["long"])
        assert graph.verify(config).begins == 4
        lines = list(graph.export_thread(named("fork")))
        graph.invoke(None, named("fork"))
        assert graph.prune(keep_last=1).cut == 2
        assert (steps(graph, "long"), steps(graph, "fork")) == ([6], [3])
        assert all(graph.verify_all())
        assert graph.prune(statuses=["finished"], vacuum=True).threads == 2
        assert names(graph) == set()
        assert graph.import_thread(lines).ok
        assert graph.verify(config).begins == 4
        assert store.stub("fork") is None
        assert graph.invoke(None, named("fork"))["n"] == 6


# --- room ---------------------------------------------------------------------------------------


def test_vacuum_gives_room_back(run: Runner) -> None:
    graph = run.compile(chain(run, Calls(), "a"))
    run.invoke(graph, {"log": ["x" * 3_000_000]}, named("large"))
    done = prune(run, graph, statuses=["finished"], vacuum=True)
    assert done.vacuumed is not None
    before, after = done.vacuumed
    # When Postgres can do it depends on all other transactions on the server, so there is no telling.
    assert before - after > 2_000_000 if "sqlite" in str(run.url) else min(before, after) > 0
    assert everything(graph) == 0
    assert run.invoke(graph, {"log": []}, new_thread()) == {"log": ["a"]}


# --- the command line ---------------------------------------------------------------------------


def test_the_command(run: Runner) -> None:
    graph, config = counted(run)
    run.fork(graph, at(config, 3), "fork")

    def call(*arguments: str) -> str:
        result = CliRunner().invoke(main, ["prune", "--url", str(run.url), *arguments])
        assert result.exit_code == 0, result.output
        return result.output

    assert "would go: 0 threads, 3 rows" in call("--keep-last", "1", "--dry-run")
    told = json.loads(call("--keep-last", "1", "--json", "--actor", "ann"))
    assert (told["cut"], told["rows"], told["skipped"][0]["thread_id"]) == (1, 3, "long")
    result = CliRunner().invoke(main, ["verify", "--url", str(run.url), "long"])
    assert "steps 0 to 2 were pruned at" in result.output
    assert "by 'ann', and cannot be checked" in result.output
    assert "thread 'fork' is a fork of it" in call("--older-than", "0s", "--status", "finished")
    call("--older-than", "0", "--status", "pending", "--vacuum")
    assert names(graph) == {"long"}
    assert CliRunner().invoke(main, ["prune", "--older-than", "soon"]).exit_code == 2


def test_what_is_later_than_every_time_is_so_in_every_collation() -> None:
    """Postgres mostly runs with one that puts signs before digits: there "~" is earlier than every year."""
    assert pruning.ALWAYS.isdigit()
    assert pruning.ALWAYS > "2999-12-31T23:59:59.999999Z"
