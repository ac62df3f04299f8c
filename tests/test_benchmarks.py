"""The benchmark runs: each contest once, with few steps and no peers, ends in its own check. No timing is tested."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from sqlalchemy import URL

from tests.benchmarks import __main__ as command
from tests.benchmarks import bare, ours, parts
from tests.benchmarks.contests import CONTESTS, GUARDED, Bench, needs_postgres
from tests.benchmarks.measure import (
    LIMIT,
    OURS,
    TURNS,
    Contender,
    Contest,
    Result,
    Stepper,
    Steps,
    Target,
    in_turns,
    measured,
    whole,
)
from tests.benchmarks.places import Places
from tests.benchmarks.works import Work, chat, counter, text

ROOT = Path(__file__).parent.parent


@pytest.fixture
def bench(tmp_path: Path, request: pytest.FixtureRequest) -> Bench:
    """A tiny one; with Postgres if the contest at hand needs it."""
    name = getattr(request.node, "callspec", None) and request.node.callspec.params.get("name", "")
    server = request.getfixturevalue("postgres_server") if needs_postgres(name or "") else None
    return Bench(Places(tmp_path, server and server.render_as_string(hide_password=False)), steps=20, peers=False)


SLOW = {"procrastinate_postgres", "first_step_postgres", "recovery_postgres"}  # each starts processes


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in CONTESTS]
)
def test_each_contest_measures_all_its_contenders(bench: Bench, name: str) -> None:
    with CONTESTS[name](bench) as contest:
        result = measured(contest, rounds=1)
    assert result.rounds[0].keys() == {contender.name for contender in contest.contenders}
    for target, figure in result.outcomes():
        peers = (
            target.against in {"LangGraph", "LangGraph sync", "Burr"} or "LangGraph" in target.of or "DBOS" in target.of
        )
        assert (figure is None) == peers, target


def test_the_limit_writes_the_rows_that_this_library_wrote(bench: Bench) -> None:
    with bench.places.file() as file:
        rows = ours.rows_of(chat(20), file)
        assert [row[1] for row in rows] == list(range(1, 21))  # one for each event, and not the input's
        assert all(text(number).encode() in row[bare.BODY] for number, row in enumerate(rows))
    with bench.places.file() as file:
        whole(bare.sqlite(rows, file))
        with closing(sqlite3.connect(file)) as connection:
            assert connection.execute("SELECT * FROM bare ORDER BY step").fetchall() == rows


def test_work_that_was_not_done_has_no_figures() -> None:
    work = counter(3)
    with pytest.raises(AssertionError, match="2 events instead of 3"):
        work.timed([1, 2])
    with pytest.raises(AssertionError, match="state at the end is wrong"):
        work.check({"n": 2})


# --- turns --------------------------------------------------------------------------------------


def stepper(name: str, events: int, log: list[str], told: int | None = None) -> Stepper:
    """One that notes its events; `told`: how many it has, where that is not what it promises."""

    def steps() -> Steps:
        log.append(f"{name} begins")
        yield
        for number in range(events if told is None else told):
            log.append(f"{name}{number}")
            yield
        log.append(f"{name} ends")
        return {"bytes": 1}

    return Stepper(name, steps, events)


def test_contenders_take_turns_within_a_run() -> None:
    log: list[str] = []
    found = in_turns([stepper("a", 2 * TURNS, log), stepper("b", TURNS, log)])
    assert log[:8] == ["a begins", "b begins", "a0", "a1", "b0", "a2", "a3", "b1"]
    assert log[-2:] == ["a ends", "b ends"]
    assert [figures.keys() for figures in found.values()] == [{"seconds", "late", "bytes"}] * 2


@pytest.mark.parametrize("told", [2, 4])
def test_a_run_has_as_many_events_as_it_promises(told: int) -> None:
    with pytest.raises(AssertionError, match=r"has (only 2|more than 3) events"):
        in_turns([stepper("a", 3, [], told)])


def test_only_some_rounds_and_apart() -> None:
    log: list[str] = []
    rare = replace(stepper("b", 1, log), rounds=1)
    background = replace(stepper("c", 1, log), apart=True)
    result = measured(Contest("", [background, stepper("a", 1, log), rare], [], 1), rounds=2)
    assert [each for each in log if each.endswith("begins")] == [f"{name} begins" for name in "abcac"]
    assert [each.keys() for each in result.rounds] == [{"a", "b", "c"}, {"a", "c"}]


# --- figures ------------------------------------------------------------------------------------


def contest(*targets: Target, **seconds: list[float]) -> Result:
    """A result with these seconds by contender and round."""
    contenders = [Contender(name, dict) for name in seconds]
    rounds = [{name: {"seconds": values[i]} for name, values in seconds.items() if i < len(values)} for i in range(3)]
    return Result(Contest("a contest", contenders, targets, 1), rounds)


def test_ratios_are_medians_of_pairs() -> None:
    result = contest(limit=[1.0, 10.0, 100.0], durable_graph=[2.0, 40.0, 200.0], peer=[4.0])
    assert Target(0.5, "limit").measured(result.rounds) == 0.5
    assert Target(4, "limit", at_most=True).measured(result.rounds) == 2.0
    assert Target(2, "peer").measured(result.rounds) == 2.0  # of the round in which it took part
    assert Target(2, "nobody").measured(result.rounds) is None


@pytest.mark.parametrize(
    ("target", "figure", "reached", "held"),
    [
        (Target(0.8, LIMIT), 0.8, True, True),
        (Target(0.8, LIMIT), 0.4, False, True),
        (Target(0.8, LIMIT), 0.39, False, False),
        (Target(1.5, at_most=True), 1.5, True, True),
        (Target(1.5, at_most=True), 3.0, False, True),
        (Target(1.5, at_most=True), 3.1, False, False),
        (Target(), 1e9, True, True),
    ],
)
def test_a_target_is_reached_or_held_or_neither(target: Target, figure: float, reached: bool, held: bool) -> None:
    assert (target.reached(figure), target.held(figure)) == (reached, held)


@pytest.mark.parametrize(("seconds", "code"), [(1.0, 0), (1.9, 0), (2.1, 1)])
def test_the_guard_fails_below_half_of_a_target(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], seconds: float, code: int
) -> None:
    @contextmanager
    def guarded(bench: Bench) -> Iterator[Contest]:
        assert not bench.peers
        both = [Contender(LIMIT, lambda: {"seconds": 1.0}), Contender(OURS, lambda: {"seconds": seconds})]
        yield Contest("a contest", both, [Target(1, LIMIT)], 1)

    monkeypatch.setattr(command, "GUARDED", ("guarded",))
    monkeypatch.setattr(command, "GUARD_ROUNDS", 1)
    monkeypatch.setitem(CONTESTS, "guarded", guarded)
    assert command.guard(bench.places) == code
    assert ("failed: a contest: ≥ 1 L measured 0.48" in capsys.readouterr().out) == bool(code)


def test_what_is_guarded_has_a_limit_of_its_own(bench: Bench) -> None:
    assert set(GUARDED) <= CONTESTS.keys()
    for name in set(GUARDED) - {name for name in GUARDED if needs_postgres(name)}:
        with CONTESTS[name](bench) as contest:
            names = {contender.name for contender in contest.contenders}
            assert any(target.bound is not None and target.against in names for target in contest.targets), name


# --- what is counted ----------------------------------------------------------------------------


def test_commits_are_counted(tmp_path: Path) -> None:
    with ours.counting_commits() as counted:
        connection = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
        connection.execute("CREATE TABLE t (a)")
        connection.execute("INSERT INTO t VALUES (1)")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO t VALUES (2)")
        connection.execute("INSERT INTO t VALUES (3)")
        connection.execute("COMMIT")
        connection.execute("SELECT * FROM t").fetchall()
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO t VALUES (4)")
        connection.execute("ROLLBACK")
        connection.close()
    assert counted() == 2


@pytest.mark.parametrize("name", ["counter_postgres"])  # for the fixture: with a server
def test_every_part_of_a_step_is_found(bench: Bench, name: str) -> None:
    found = parts.profiles(bench, rounds=1)
    engine = {"plan", "node", "call", "yield", "drive"}
    rows = engine | {"encode", "hash", "store"}
    assert {name: found[name].keys() - {"sum", "alone"} for name in found} == {
        "SQLite FULL": rows | {"insert", "commit"},
        "SQLite NORMAL": rows | {"insert", "commit"},
        "no checkpointer": engine,
        "Postgres": rows | {"insert, commit"},
    }
    assert set(parts.PARTS) == {part for each in found.values() for part in each} - {"sum", "alone"}


def test_a_stopwatch_counts_each_second_once() -> None:
    watch, ticks = parts.Stopwatch(), iter(range(100))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts.time, "perf_counter", lambda: float(next(ticks)))  # a second passes with each look
        watch.begin()  # 0
        inner = watch.around("inner", lambda: None)
        watch.around("outer", inner)()
        seconds = watch.end()
    # Each entry and each exit looks twice: between them is what a part has taken.
    assert seconds == {"drive": 2.0, "outer": 2.0, "inner": 1.0}


# --- the command --------------------------------------------------------------------------------


def test_16_its_overhead_is_measured(tmp_path: Path, postgres_server: URL) -> None:
    """The command as the README has it, with its table, its JSON and its plot."""
    data, picture = tmp_path / "figures.json", tmp_path / "figures.svg"
    contests = ["counter_sqlite_full", "counter_sqlite_normal", "counter_postgres", "no_checkpointer"]
    done = subprocess.run(
        [
            sys.executable, "-m", "tests.benchmarks", "--rounds", "1", "--steps", "20", "--no-peers",
            "--postgres", postgres_server.render_as_string(hide_password=False),
            "--json", data, "--plot", picture, "--only", *contests, "parts",
        ],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(data.read_text())
    names = ["counter, SQLite FULL", "counter, SQLite NORMAL", "counter, Postgres", "no checkpointer"]
    assert [each["name"] for each in found["contests"]] == names
    assert found["circumstances"]["durable-graph"]
    assert found["parts"]["SQLite FULL"]["commit"]
    for name in (*names, "where the time goes", "≥ 0.85 L"):
        assert name in done.stdout
    shown = ElementTree.parse(picture).getroot()
    assert {text.text for text in shown.iter("{http://www.w3.org/2000/svg}text")} >= {OURS, LIMIT, *names}


def test_without_postgres_its_contests_are_left_out(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.contested(bench, "chat_postgres", 1) is None
    assert "chat_postgres: there is no Postgres" in capsys.readouterr().out


def test_a_work_can_be_drawn_again() -> None:
    """Every round draws it anew: nothing of a run may stay in it."""
    work: Work = counter(5)
    for _ in range(2):
        assert whole(ours.without_checkpointer(work)) > 0
