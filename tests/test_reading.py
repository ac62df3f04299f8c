"""What reading a long thread costs, in rows and bytes, and that the quick ways through the log say what the slow do."""

from __future__ import annotations

import operator
import sqlite3
from collections.abc import Iterator
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Annotated, Any, TypedDict
from unittest import mock

import pytest

from durable_graph import START, CorruptCheckpointError, Log, Overwrite, StateGraph, add_messages
from durable_graph.codec import Codec
from durable_graph.core import barriers as barring
from durable_graph.core import history, telling
from durable_graph.core import rows as engine
from durable_graph.core.barriers import barriers
from durable_graph.core.channels import Values
from durable_graph.core.history import load
from durable_graph.core.position import Position
from durable_graph.store import Row, Store
from durable_graph.store.memory import MemoryStore
from tests.graphs import Calls, Runner, at, chain, counter, new_thread, wide

KILOBYTE = "x" * 1000


@pytest.fixture(params=["sync", "async"])
def run(request: pytest.FixtureRequest, database_url: str) -> Iterator[Runner]:
    with Runner(request.param, database_url) as runner:
        yield runner


class Chat(TypedDict, total=False):
    n: int
    note: str
    log: Annotated[list[str], operator.add]


def chat(run: Runner, to: int, text: str = KILOBYTE) -> StateGraph[Chat]:
    """Appends the text around and around."""
    builder = StateGraph(Chat)
    builder.add_node("say", run.node(lambda state: {"log": [text]}))
    builder.add_edge(START, "say")
    return builder.add_conditional_edges("say", lambda state: "say" if len(state["log"]) < to else "__end__")


def noted(run: Runner, to: int, size: int = 1000) -> StateGraph[Chat]:
    """A bounded state of which each step writes so many bytes."""
    builder = StateGraph(Chat)
    builder.add_node("note", run.node(lambda state: {"n": state["n"] + 1, "note": "x" * size}))
    builder.add_edge(START, "note")
    return builder.add_conditional_edges("note", lambda state: "note" if state["n"] < to else "__end__")


class Counting:
    """The same store, counting what is read of it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.rows_read = 0
        self.lowest: int | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def rows(self, thread_id: str, **bounds: Any) -> Iterator[Row]:
        for row in self._store.rows(thread_id, **bounds):
            self._count(row.step)
            yield row

    def bodies(self, thread_id: str, **bounds: int) -> Iterator[tuple[int, int | None, str, bytes]]:
        for found in self._store.bodies(thread_id, **bounds):
            self._count(found[0])
            yield found

    def _count(self, step: int) -> None:
        self.rows_read += 1
        self.lowest = step if self.lowest is None else min(self.lowest, step)


class WithoutSnapshots(Counting):
    def snapshot(self, thread_id: str, *, until: int) -> tuple[int, bytes] | None:
        return None


def name_of(config: dict[str, Any]) -> str:
    return str(config["configurable"]["thread_id"])


def facts(position: Position | None) -> dict[str, Any]:
    """All but how many bytes were read."""
    assert position is not None
    return {name: value for name, value in vars(position).items() if name not in ("loose", "packed")}


def snapshots_of(store: Store, thread_id: str, until: int = 10**9) -> list[tuple[int, bytes]]:
    found = []
    while (one := store.snapshot(thread_id, until=until)) is not None:
        found.append(one)
        until = one[0] - 1
    return found


# --- snapshots: where they are, and what they cost --------------------------------------------


def test_a_list_that_is_only_appended_to_is_not_written_twice(run: Runner) -> None:
    graph, config = run.compile(chat(run, 300)), new_thread()
    run.invoke(graph, {"log": []}, config)
    assert snapshots_of(graph._stored(), name_of(config)) == []
    assert run.get_state(graph, config).values == {"log": [KILOBYTE] * 300}


def test_a_bounded_state_has_snapshots_and_resuming_reads_the_rows_after_the_newest(run: Runner) -> None:
    graph, config = run.compile(noted(run, 300)), new_thread()
    run.invoke(graph, {"n": 0}, config)
    store = Counting(graph._stored())
    found = snapshots_of(store, name_of(config))
    assert len(found) >= 4
    position = load(store, Codec([]), name_of(config))
    assert position is not None
    assert position.values["n"] == 300
    assert store.lowest == found[0][0]
    assert store.rows_read <= 301 - found[0][0] + 2  # the newest comes first, to tell where the end is, and again last
    assert store.rows_read < 40


def test_snapshots_are_together_less_than_half_of_the_log(run: Runner) -> None:
    """Whether a state grows, stays or shrinks, and whichever part of a row is in it."""
    for text, note in [("", 1000), ("x" * 10, 1000), ("x" * 300, 300), (KILOBYTE, 10)]:
        builder = StateGraph(Chat)
        builder.add_node(
            "both", run.node(lambda s, text=text, note=note: {"n": s["n"] + 1, "log": [text], "note": "x" * note})
        )
        builder.add_edge(START, "both")
        builder.add_conditional_edges("both", lambda state: "both" if state["n"] < 400 else "__end__")
        graph, config = run.compile(builder), new_thread()
        run.invoke(graph, {"n": 0, "log": []}, config)
        store = graph._stored()
        log = sum(len(row.body) for row in store.rows(name_of(config)))
        snapshots = sum(len(state) for _, state in snapshots_of(store, name_of(config)))
        assert snapshots <= log / 2


def test_rows_that_are_not_worth_a_snapshot_are_not_encoded_each_time(run: Runner) -> None:
    """Whether a snapshot is worth it is looked at so rarely that the looking stays in proportion, too."""
    graph, config, looks = run.compile(chat(run, 1000)), new_thread(), []

    def pack(position: Position) -> dict[str, Any]:
        looks.append(len(position.values["log"]))
        return history.pack(position)

    with mock.patch.object(engine, "pack", pack):
        run.invoke(graph, {"log": []}, config)
    assert looks
    assert sum(looks) <= 2.5 * 1000


def test_a_chat_takes_less_than_twice_its_text_on_disk(tmp_path: Path) -> None:
    file = tmp_path / "chat.db"
    with Runner("sync", f"sqlite:///{file}?synchronous=NORMAL") as run:
        graph = run.compile(chat(run, 1000))
        run.invoke(graph, {"log": []}, new_thread())
    assert sum(each.stat().st_size for each in tmp_path.iterdir()) <= 2.0 * 1000 * len(KILOBYTE)


def test_a_large_input_is_not_written_twice(run: Runner) -> None:
    graph, config = run.compile(chat(run, 205)), new_thread()
    run.invoke(graph, {"log": [KILOBYTE] * 200}, config)
    assert snapshots_of(graph._stored(), name_of(config)) == []
    assert run.get_state(graph, config).values == {"log": [KILOBYTE] * 205}


# --- the quick way to a position says what the slow one says -----------------------------------


def everywhere(often: bool = True) -> Any:
    """Snapshots at each barrier."""
    return mock.patch.multiple(engine, SNAPSHOT_BYTES=1, ROWS_PER_SNAPSHOT=0.0) if often else nullcontext()


def story(run: Runner, config: dict[str, Any]) -> Any:
    """A thread with all that can come between two barriers: failures, siblings, an update, another run, the past."""
    calls = Calls()
    graph = run.compile(chain(run, calls, "abcd", c=calls.failing("c")))
    with pytest.raises(ValueError, match="c failed"):
        run.invoke(graph, {"log": ["in"], "n": 1}, config)
    run.invoke(graph, None, config)
    run.invoke(graph, {"log": ["again"]}, config)
    run.update_state(graph, config, {"log": ["mine"]}, as_node="b")
    run.invoke(graph, None, config)
    run.invoke(graph, None, at(config, 2))
    broad = run.compile(wide(run, Calls()))
    run.invoke(broad, {"log": Overwrite(["wide"])}, config)
    count = run.compile(counter(run, 12))
    run.invoke(count, {"n": 0}, config)
    return count


@pytest.mark.parametrize("often", [True, False])
def test_a_position_is_the_same_whichever_way_it_is_read(run: Runner, often: bool) -> None:
    """At each step: through snapshots and from nothing, forwards and along the parents, row by row and in strides."""
    config = new_thread()
    with everywhere(often):
        graph = story(run, config)
    store, codec, name = graph._stored(), graph._codec, name_of(config)
    assert bool(snapshots_of(store, name)) == often
    stepwise, expected = Position(name), {}
    tail = -1
    for row in store.rows(name):
        stepwise = telling.at_parent(WithoutSnapshots(store), codec, stepwise, row)
        stepwise.tail = tail = row.step
        history.apply(stepwise, row, history.decode_body(codec, row))
        expected[row.step] = facts(stepwise.frozen())
    for step, right in expected.items():
        for way in (store, WithoutSnapshots(store)):
            read = facts(load(way, codec, name, step))
            assert {**read, "tail": 0} == {**right, "tail": 0}
            assert read["tail"] == tail
            bare = history.folded(way, codec, name, step)  # what a stub is made of
            assert {**facts(bare), "tail": 0} == {**right, "tail": 0}
            along = history._along_parents(way, codec, name, step, None)
            assert {**facts(along), "tail": 0} == {**right, "tail": 0}


def test_a_position_after_many_supersteps_of_one_task_keeps_who_ran_last(run: Runner) -> None:
    config = new_thread()
    graph = run.compile(chain(run, Calls(), "abcdefgh"))
    run.first(7, graph, {"log": []}, config)
    position = load(graph._stored(), Codec([]), name_of(config))
    assert position is not None
    assert (position.last_nodes, position.next) == (("g",), ("h",))
    assert run.invoke(graph, None, config) == {"log": [*"abcdefgh"]}


@pytest.mark.parametrize(
    "damage", ["DELETE FROM checkpoints WHERE step = 7", "UPDATE checkpoints SET body = CAST('[]' AS BLOB)"]
)
def test_a_log_with_a_hole_is_refused_by_name(tmp_path: Path, damage: str) -> None:
    file = tmp_path / "a.db"
    with Runner("sync", f"sqlite:///{file}") as run:
        run.invoke(run.compile(counter(run, 12)), {"n": 0}, {"thread_id": "a"})
    with closing(sqlite3.connect(file)) as connection:
        connection.execute(damage)
        connection.commit()
    with Log(f"sqlite:///{file}") as log:
        with pytest.raises(CorruptCheckpointError, match="thread 'a'"):
            log.get_state({"thread_id": "a"})
        with pytest.raises(CorruptCheckpointError, match="thread 'a'"):
            list(log.get_state_history({"thread_id": "a"}))


def test_a_body_that_does_not_fit_is_refused_where_it_stands(tmp_path: Path) -> None:
    """Also in a row of which only the writes are looked at."""
    file = tmp_path / "a.db"
    with Runner("sync", f"sqlite:///{file}") as run:
        run.invoke(run.compile(counter(run, 12)), {"n": 0}, {"thread_id": "a"})
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("UPDATE checkpoints SET body = ? WHERE step = 6", [b'{"update": 5, "next": ["count"]}'])
        connection.commit()
    with Log(f"sqlite:///{file}") as log, pytest.raises(CorruptCheckpointError, match="Step 6"):
        log.get_state({"thread_id": "a"})


def test_damaged_snapshots_are_named_and_may_be_deleted(tmp_path: Path) -> None:
    file = tmp_path / "a.db"
    with Runner("sync", f"sqlite:///{file}") as run, everywhere():
        run.invoke(run.compile(counter(run, 12)), {"n": 0}, {"thread_id": "a"})
    with closing(sqlite3.connect(file)) as connection, Log(f"sqlite:///{file}") as log:
        history = list(log.get_state_history({"thread_id": "a"}))
        connection.execute("UPDATE snapshots SET state = ?", [b'{"values": 3}'])
        connection.commit()
        with pytest.raises(CorruptCheckpointError, match="may be deleted safely"):
            log.get_state({"thread_id": "a"})
        connection.execute("DELETE FROM snapshots")
        connection.commit()
        assert log.get_state({"thread_id": "a"}) == history[0]
        assert list(log.get_state_history({"thread_id": "a"})) == history


# --- history ------------------------------------------------------------------------------------


@pytest.mark.parametrize("often", [True, False])
@pytest.mark.parametrize(("window", "size"), [(1, 1), (2, 10**9), (7, 100), (1000, 300), (1000, 10**9)])
def test_history_is_the_same_in_windows_of_any_size(run: Runner, often: bool, window: int, size: int) -> None:
    """Over the borders of snapshots and windows, into forks, and where the thread has gone back in time."""
    config = new_thread()
    with everywhere(often):
        graph = story(run, config)
    run.fork(graph, at(config, 9), f"{name_of(config)}-fork")
    fork = {"configurable": {"thread_id": f"{name_of(config)}-fork"}}
    run.invoke(graph, {"n": 9}, fork)
    small = {"WINDOW": window, "WINDOW_BYTES": size, "LEAST": 1, "PARTS": 2, "FURTHER": 1}
    with mock.patch.multiple(barring, **small):
        told = {key: list(run.history(graph, each)) for key, each in (("origin", config), ("fork", fork))}
    for key, each in (("origin", config), ("fork", fork)):
        steps = [snapshot.config["configurable"]["step"] for snapshot in told[key]]
        bodies = [(row, history.decode_body(graph._codec, row)) for row in graph._stored().rows(name_of(each))]
        assert steps == [row.step for row, body in reversed(bodies) if "next" in body or row.kind == "fork"]
        for snapshot in told[key]:
            assert snapshot == run.get_state(graph, snapshot.config)


def test_history_before_a_step_reads_nothing_that_is_newer_but_how_its_tasks_ended(run: Runner) -> None:
    graph, config = run.compile(counter(run, 60)), new_thread()
    run.invoke(graph, {"n": 0}, config)
    told = run.history(graph, config, before=at(config, 31), limit=1)
    assert [snapshot.values["n"] for snapshot in told] == [30]
    assert told[0].tasks[0].result == {"n": 31}


def test_history_reads_each_row_about_once_and_never_all_at_a_time(run: Runner) -> None:
    config = new_thread()
    with mock.patch.multiple(engine, SNAPSHOT_BYTES=10_000):
        graph = run.compile(noted(run, 200))
        run.invoke(graph, {"n": 0}, config)
    store = Counting(graph._stored())
    found = snapshots_of(store, name_of(config))
    assert len(found) > 5
    with mock.patch.multiple(barring, WINDOW=20):
        told = barriers(store, Codec([]), name_of(config))
        next(told)
        assert store.lowest is not None
        assert store.lowest > 200 - 2 * 20  # the newest barrier needs no more than a snapshot near it
        assert sum(1 for _ in told) == 200
    assert store.rows_read <= 201 + (3 + barring.FURTHER) * (len(found) + 1)


@pytest.mark.parametrize("limit", [1, 2, 5, 11, 12, 13, 30])
def test_a_few_of_the_history_are_the_first_of_all(run: Runner, limit: int) -> None:
    config = new_thread()
    graph = story(run, config)
    everything = run.history(graph, config)
    assert run.history(graph, config, limit=limit) == everything[:limit]
    wanted = {"superstep": everything[-2].metadata["superstep"]}
    assert (
        run.history(graph, config, limit=limit, filter=wanted)
        == [snapshot for snapshot in everything if wanted.items() <= snapshot.metadata.items()][:limit]
    )


def test_history_without_any_snapshots_is_not_quadratic(run: Runner) -> None:
    """In windows of 16 of 512 rows: two levels of parts above them."""
    graph, config = run.compile(counter(run, 511)), new_thread()
    run.invoke(graph, {"n": 0}, config)
    store = WithoutSnapshots(graph._stored())
    with mock.patch.multiple(barring, WINDOW=16, PARTS=8):
        told = [stand.values["n"] for stand, _ in barriers(store, Codec([]), name_of(config))]
    assert told == [*range(511, -1, -1)]
    assert store.rows_read <= 512 * 6


def test_history_holds_few_barriers_of_a_state_with_many_items() -> None:
    position = Position("t")
    assert barring._window(position) == barring.WINDOW
    position.values.set("log", [None] * 100_000)
    assert barring._window(position) == barring.LEAST


def test_history_holds_few_barriers_of_large_rows(run: Runner) -> None:
    graph, config = run.compile(noted(run, 100, size=10_000)), new_thread()
    run.invoke(graph, {"n": 0}, config)
    held: list[int] = []

    def spy(*given: Any) -> Any:
        found = history_held(*given)
        held.append(0 if found is None else len(found))
        return found

    history_held = barring._held
    with mock.patch.multiple(barring, _held=spy, WINDOW_BYTES=200_000):
        told = [stand.values["n"] for stand, _ in barriers(graph._stored(), Codec([]), name_of(config))]
    assert told == [*range(100, -1, -1)]
    assert max(held) <= 200_000 // 10_000


# --- what a container's other holders see -------------------------------------------------------


@pytest.mark.parametrize(("operation", "start", "write"), [("add", [1], [2]), ("messages", [{"id": 1}], [{"id": 2}])])
def test_a_list_that_somebody_still_has_stays_as_it_was(operation: str, start: Any, write: Any) -> None:
    values = Values({"key": start})
    held = values.share()["key"]
    values.reduce("key", operation, [write])
    assert held == start
    assert values["key"] == [*start, *write]


@pytest.mark.parametrize(("operation", "write"), [("add", [2]), ("messages", [{"id": 2}])])
def test_a_list_that_nobody_has_any_more_is_extended_in_place(operation: str, write: Any) -> None:
    values = Values({"key": [{"id": 1}]})
    for _ in range(3):
        state = {"key": values.share()["key"]}  # as a node gets it
        place = id(state["key"])
        del state
        values.reduce("key", operation, [write])
        assert id(values["key"]) == place


def test_what_a_node_has_kept_of_the_state_stays_as_it_was(run: Runner) -> None:
    kept: list[Any] = []
    for reducer in (operator.add, add_messages):
        kept.clear()
        State = TypedDict("State", {"log": Annotated[list, reducer]})  # noqa: UP013 - the reducer is a variable

        def keep(state: Any) -> Any:
            kept.append((state["log"], [*state["log"]]))
            return {"log": [{"role": "user", "content": "x"}]}

        builder = StateGraph(State)
        builder.add_node("keep", run.node(keep))
        builder.add_edge(START, "keep")
        builder.add_conditional_edges("keep", lambda state: "keep" if len(state["log"]) < 5 else "__end__")
        run.invoke(run.compile(builder), {"log": []}, new_thread())
        assert [len(log) for log, _ in kept] == [0, 1, 2, 3, 4]
        assert all(log == then for log, then in kept)


def test_what_a_consumer_does_to_a_state_that_it_was_given_changes_nothing_else(run: Runner) -> None:
    """The state is read for it alone and not copied; the next one is read again."""
    graph, config = run.compile(chat(run, 3)), new_thread()
    run.invoke(graph, {"log": []}, config)
    run.get_state(graph, config).values["log"].append("scribble")
    assert run.get_state(graph, config).values["log"] == [KILOBYTE] * 3
    told = run.history(graph, config)
    told[0].values["log"].clear()
    assert [len(snapshot.values["log"]) for snapshot in told] == [0, 2, 1, 0]


def test_a_store_in_memory_keeps_snapshots_as_the_others_do() -> None:
    with Runner("sync", False) as run, everywhere():
        store = MemoryStore()
        graph = counter(run, 5).compile(store)
        graph.invoke({"n": 0}, {"thread_id": "a"})
        assert [step for step, _ in snapshots_of(store, "a")] == [5, 4, 3, 2, 1, 0]
