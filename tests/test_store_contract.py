"""The contract of `Store`, held by every store: memory, SQLite, Postgres."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from durable_graph.errors import ArgumentError, FencedError
from durable_graph.store import MAX_ID_BYTES, Claim, Row, Signal, Store, Thread

T = "order-42"

ODD_IDS = [
    "",
    " ",
    "'; DROP TABLE threads; --",
    'quo"te',
    "%s ? :name $1 {}",
    "back\\slash",
    "line\nbreak\ttab\r",
    "Zürich",
    "e\u0301",  # not the same id as the one below
    "\u00e9",
    "🧑‍🚀🚀",
    "\ufeff\u202e\x7f",
    "x" * MAX_ID_BYTES,
    "🚀" * (MAX_ID_BYTES // 4),
]


def values(**changed: Any) -> dict[str, Any]:
    """The columns of a new thread."""
    return {
        "graph": "orders",
        "fingerprint": "f00d",
        "status": "running",
        "epoch": 1,
        "parent_thread_id": None,
        "parent_step": None,
        "called_by": None,
        "lease_owner": "me",
        "lease_since": "2026-01-01T00:00:00.000000Z",
        "lease_expires_at": "2026-01-01T00:01:00.000000Z",
        "wake_at": None,
        "created_at": "2026-01-01T00:00:00.000000Z",
        "updated_at": "2026-01-01T00:00:00.000000Z",
        "metadata": b"{}",
        **changed,
    }


def row(step: int, *, thread_id: str = T, epoch: int = 1, body: bytes = b"{}", **changed: Any) -> Row:
    made = Row(
        thread_id=thread_id,
        step=step,
        parent_step=step - 1 if step else None,
        kind="task",
        superstep=step,
        node="pay",
        task="9a",
        run_id="run-1",
        epoch=epoch,
        body=body,
        created_at="2026-01-01T00:00:00.000000Z",
        hash=bytes([step % 256]) * 32,
    )
    return made._replace(**changed)


def begin(store: Store, thread_id: str = T, *, steps: int = 0, **changed: Any) -> list[Row]:
    """A thread with its first rows."""
    assert store.change_thread(thread_id, Claim(None, values(**changed)))
    rows = [row(step, thread_id=thread_id) for step in range(steps)]
    if rows:
        store.append(rows)
    return rows


def steps(rows: Iterator[Row]) -> list[int]:
    return [each.step for each in rows]


# --- rows ---------------------------------------------------------------------------------------


def test_what_is_appended_is_read_back(store: Store) -> None:
    begin(store)
    first = row(0, kind="input", node=None, task=None, body=bytes(range(256)))
    second = row(1, parent_step=None, superstep=2**40, body=b"", hash=b"\0\xff")
    store.append([first])
    store.append([second])
    assert list(store.rows(T)) == [first, second]
    assert all(type(each) is Row and type(each.body) is bytes for each in store.rows(T))


def test_a_thread_that_is_not_there(store: Store) -> None:
    assert store.thread(T) is None
    assert store.threads() == []
    assert list(store.rows(T)) == []
    assert store.snapshot(T, until=9) is None
    assert store.delete(T) is False
    assert store.change_thread(T, Claim(1, {"epoch": 2})) is False


def test_a_row_needs_its_thread(store: Store) -> None:
    with pytest.raises(FencedError) as caught:
        store.append([row(0)])
    assert (caught.value.thread_id, caught.value.step, caught.value.epoch) == (T, 0, 1)  # type: ignore[attr-defined]
    assert list(store.rows(T)) == []


def test_a_step_is_written_once(store: Store) -> None:
    rows = begin(store, steps=2)
    with pytest.raises(FencedError, match="Step 1 of thread 'order-42'"):
        store.append([row(1, body=b"another")])
    assert list(store.rows(T)) == rows


@pytest.mark.parametrize("epoch", [0, 2])
def test_a_row_needs_its_threads_epoch(store: Store, epoch: int) -> None:
    begin(store, steps=1)
    with pytest.raises(FencedError, match=f"epoch {epoch}"):
        store.append([row(1, epoch=epoch)])
    assert steps(store.rows(T)) == [0]


def test_several_rows_are_written_or_none(store: Store) -> None:
    rows = begin(store, steps=3)
    with pytest.raises(FencedError, match="Step 2 "):
        store.append([row(3), row(4), row(2, body=b"another")], snapshot=b"state")
    with pytest.raises(FencedError, match="Step 4 "):
        store.append([row(3), row(4, epoch=2), row(5)], snapshot=b"state")
    with pytest.raises(FencedError, match="Step 3 "):
        store.append([row(3), row(3)], snapshot=b"state")
    assert list(store.rows(T)) == rows
    assert store.snapshot(T, until=99) is None


def test_no_rows_are_a_mistake(store: Store) -> None:
    begin(store)
    with pytest.raises(ArgumentError, match="change_thread"):
        store.append([], claim=Claim(1, {"epoch": 2}))


# --- claims -------------------------------------------------------------------------------------


def test_a_new_thread(store: Store) -> None:
    new = values(parent_thread_id="order-41", parent_step=7, lease_owner=None, metadata=b'{"a": 1}')
    assert store.change_thread(T, Claim(None, new))
    assert store.thread(T) == Thread(T, **new)
    assert store.change_thread(T, Claim(None, values(graph="other"))) is False
    assert store.thread(T) == Thread(T, **new)


def test_a_claim_is_a_compare_and_swap(store: Store) -> None:
    begin(store)
    assert store.change_thread(T, Claim(1, {"epoch": 2, "lease_owner": "you"}))
    assert store.change_thread(T, Claim(1, {"epoch": 2, "lease_owner": "late"})) is False
    assert store.thread(T) == Thread(T, **values(epoch=2, lease_owner="you"))


def test_a_claim_may_keep_the_epoch(store: Store) -> None:
    begin(store)
    assert store.change_thread(T, Claim(1, {"status": "finished", "lease_owner": None}))
    assert store.thread(T) == Thread(T, **values(status="finished", lease_owner=None))


def test_a_claim_commits_with_its_rows(store: Store) -> None:
    store.append([row(0), row(1)], claim=Claim(None, values()), snapshot=b"state at 1")
    store.append([row(2, epoch=2)], claim=Claim(1, {"epoch": 2}))
    assert store.thread(T) == Thread(T, **values(epoch=2))
    assert steps(store.rows(T)) == [0, 1, 2]
    assert store.snapshot(T, until=5) == (1, b"state at 1")


@pytest.mark.parametrize("claim", [Claim(None, values()), Claim(7, {"epoch": 8})])
def test_a_refused_claim_takes_its_rows_along(store: Store, claim: Claim) -> None:
    rows = begin(store, steps=1)
    with pytest.raises(FencedError, match="Step 1 "):
        store.append([row(1)], claim=claim, snapshot=b"state")
    assert store.thread(T) == Thread(T, **values())
    assert list(store.rows(T)) == rows
    assert store.snapshot(T, until=9) is None


def test_refused_rows_take_their_claim_along(store: Store) -> None:
    begin(store, steps=2)
    with pytest.raises(FencedError, match="Step 1 "):
        store.append([row(1, epoch=2)], claim=Claim(1, {"epoch": 2, "status": "waiting"}))
    with pytest.raises(FencedError):
        store.append([row(0, thread_id="new", epoch=5)], claim=Claim(None, values()))
    assert store.thread(T) == Thread(T, **values())
    assert store.thread("new") is None


def test_after_a_claim_the_old_owner_writes_nothing(store: Store) -> None:
    begin(store, steps=1)
    assert store.change_thread(T, Claim(1, {"epoch": 2}))
    with pytest.raises(FencedError):
        store.append([row(1, epoch=1)])
    store.append([row(1, epoch=2)])
    assert [(each.step, each.epoch) for each in store.rows(T)] == [(0, 1), (1, 2)]


def test_a_claim_sets_known_columns_only(store: Store) -> None:
    begin(store)
    with pytest.raises(ArgumentError, match="'colour'"):
        store.change_thread(T, Claim(1, {"colour": "red"}))
    with pytest.raises(ArgumentError, match="'thread_id'"):
        store.append([row(0)], claim=Claim(1, {"thread_id": "other"}))


# --- races --------------------------------------------------------------------------------------


def race(count: int, work: Any) -> list[Any]:
    """Call `work(number)` in so many threads that start together; their results, or errors."""
    together = threading.Barrier(count)

    def run(number: int) -> Any:
        together.wait()
        try:
            return work(number)
        except FencedError as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def test_of_two_writers_one_gets_each_step(store: Store) -> None:
    begin(store)

    def write(number: int) -> list[int]:
        won = []
        for step in range(40):
            try:
                store.append([row(step, body=b"%d" % number)])
                won.append(step)
            except FencedError:
                pass
        return won

    won = race(4, write)
    assert sorted(step for mine in won for step in mine) == list(range(40))
    assert {each.step: int(each.body) for each in store.rows(T)} == {
        step: number for number, mine in enumerate(won) for step in mine
    }


def test_of_many_claims_one_wins(store: Store) -> None:
    begin(store)
    for epoch in range(1, 11):
        won = race(4, lambda number, e=epoch: store.change_thread(T, Claim(e, {"epoch": e + 1, "status": str(number)})))
        assert sorted(won) == [False, False, False, True]
        assert store.thread(T) == Thread(T, **values(epoch=epoch + 1, status=str(won.index(True))))


def test_of_many_first_inputs_one_wins(store: Store) -> None:
    results = race(4, lambda number: store.append([row(0, body=b"%d" % number)], claim=Claim(None, values())))
    assert [type(result) for result in results].count(FencedError) == 3
    assert [int(each.body) for each in store.rows(T)] == [results.index(None)]


def test_a_claim_ends_the_appends_of_the_old_owner(store: Store) -> None:
    """Whatever the new owner reads after its claim is all that there will ever be of the old one."""
    begin(store)
    seen: list[int] = []

    def work(number: int) -> None:
        if number:
            while not seen and not store.change_thread(T, Claim(1, {"epoch": 2})):
                pass
            seen.extend(steps(store.rows(T)))
            seen.append(-1)
            return
        for step in range(10_000):
            store.append([row(step)])

    race(2, work)
    assert seen.pop() == -1
    assert steps(store.rows(T)) == seen


def test_threads_side_by_side(store: Store) -> None:
    names = [f"order-{number}" for number in range(12)]
    for name in names:
        begin(store, name)

    def work(number: int) -> None:
        for step in range(15):
            store.append([row(step, thread_id=names[number])])

    race(len(names), work)
    for name in names:
        assert list(store.rows(name)) == [row(step, thread_id=name) for step in range(15)]


# --- reading ------------------------------------------------------------------------------------


@pytest.mark.parametrize("newest_first", [False, True])
@pytest.mark.parametrize("limit", [None, 0, 1, 3, 100])
@pytest.mark.parametrize(
    ("after", "until"),
    [(-1, None), (3, None), (-1, 4), (2, 6), (6, 2), (9, None), (99, None), (-5, 10**30), (10**30, None)],
)
def test_a_part_of_the_log(store: Store, after: int, until: int | None, limit: int | None, newest_first: bool) -> None:
    rows = begin(store, steps=10)
    begin(store, "another", steps=10)
    wanted = [each for each in rows if after < each.step and (until is None or each.step <= until)]
    wanted = (wanted[::-1] if newest_first else wanted)[:limit]
    assert list(store.rows(T, after=after, until=until, limit=limit, newest_first=newest_first)) == wanted


@pytest.mark.parametrize("newest_first", [False, True])
def test_a_log_of_many_batches(store: Store, newest_first: bool) -> None:
    begin(store)
    bodies = [b"x" * 400_000 if 600 <= step < 608 else b"{}" for step in range(1210)]  # rows and bytes end batches
    rows = [row(step, body=body) for step, body in enumerate(bodies)]
    store.append(rows)
    wanted = rows[::-1] if newest_first else rows
    assert list(store.rows(T, newest_first=newest_first)) == wanted
    assert list(store.rows(T, newest_first=newest_first, limit=1100)) == wanted[:1100]


def test_a_row_larger_than_a_batch(store: Store) -> None:
    begin(store)
    rows = [row(0, body=b"x" * 3_000_000), row(1), row(2, body=b"y" * 3_000_000)]
    store.append(rows)
    assert list(store.rows(T)) == rows


def test_steps_may_have_gaps(store: Store) -> None:
    begin(store)
    store.append([row(5), row(2**40)])
    store.append([row(3)])
    assert steps(store.rows(T)) == [3, 5, 2**40]


def test_an_iterator_left_open_hinders_nobody(store: Store) -> None:
    begin(store, steps=3)
    reading = store.rows(T)
    assert next(reading).step == 0
    store.append([row(3)])
    assert store.delete(T)
    assert store.thread(T) is None


def test_threads_are_listed_by_their_newest_change(store: Store) -> None:
    for number, (graph, status) in enumerate([("a", "failed"), ("b", "failed"), ("a", "finished")]):
        begin(store, f"t{number}", graph=graph, status=status, updated_at=f"2026-01-0{number + 1}")
    assert store.change_thread("t0", Claim(1, {"updated_at": "2026-02-01"}))

    def names(**wanted: Any) -> list[str]:
        return [thread.thread_id for thread in store.threads(**wanted)]

    assert names() == ["t0", "t2", "t1"]
    assert names(limit=2) == ["t0", "t2"]
    assert names(limit=0) == []
    assert names(statuses=["failed"]) == ["t0", "t1"]
    assert names(graph="a") == ["t0", "t2"]
    assert names(statuses=["failed"], graph="a", limit=5) == ["t0"]
    assert names(statuses=["none such"]) == []


def test_pages_of_threads_that_are_wanted(store: Store) -> None:
    for number, (graph, status) in enumerate([("a", "failed"), ("b", "waiting"), ("a", "finished"), ("b", "failed")]):
        begin(store, f"t{number}", graph=graph, status=status, updated_at=f"2026-01-0{number // 2 + 1}")

    def names(**wanted: Any) -> str:
        return "".join(thread.thread_id[1:] for thread in store.threads(**wanted))

    assert names() == "3210"  # of the same moment by their ids, backwards
    assert names(after=("2026-01-02", "t2")) == "10"
    assert names(after=("2026-01-02", "t2x"), limit=2) == "21"
    assert names(after=("2025-01-01", "t")) == ""
    assert names(statuses=["failed", "waiting"]) == "310"
    assert names(statuses=["failed", "waiting", "finished"], limit=3) == "321"
    assert names(statuses=["failed", "waiting", "waiting"], after=("2026-01-02", "t3"), limit=1) == "1"
    assert names(statuses=["failed", "finished"], graph="a") == "20"
    assert names(statuses=["none", "such", "status"]) == ""
    assert names(since="2026-01-01") == "32"
    assert names(before="2026-01-02") == "10"
    assert names(since="2026-01-01", before="2026-01-02") == ""
    assert names(statuses=["failed"], since="2026-01-01") == "3"
    for argument in ("graph", "since", "before"):
        with pytest.raises(ArgumentError, match=f"^{argument}: "):
            names(**{argument: "a\0b"})
    with pytest.raises(ArgumentError, match=r"^status: "):
        names(statuses=["a\0b"])


def test_running_threads_of_a_graph_the_oldest_first(store: Store) -> None:
    for number, (name, graph, status, day) in enumerate(
        [
            ("c", "mine", "running", 1),
            ("a", "mine", "running", 2),
            ("b", "mine", "running", 2),
            ("d", "mine", "running", 3),
            ("e", "theirs", "running", 1),
            ("f", "mine", "failed", 1),
        ]
    ):
        begin(store, name, graph=graph, status=status, updated_at=f"2026-01-0{day}", metadata=b"%d" % number)

    def names(**more: Any) -> list[str]:
        return [thread.thread_id for thread in store.oldest("mine", "running", **{"limit": 9, **more})]

    assert names() == ["c", "a", "b", "d"]
    assert names(limit=2) == ["c", "a"]
    assert names(limit=0) == []
    assert names(after=("2026-01-01", "c")) == ["a", "b", "d"]
    assert names(after=("2026-01-02", "a")) == ["b", "d"]
    assert names(after=("2026-01-02", "zz"), limit=1) == ["d"]
    assert names(after=("2026-01-03", "d")) == []
    assert store.oldest("mine", "running", limit=1) == [store.thread("c")]
    assert store.oldest("none", "running", limit=1) == []
    with pytest.raises(ArgumentError, match=r"^graph: "):
        store.oldest("a\0b", "running", limit=1)


# --- leases -------------------------------------------------------------------------------------


def test_renewing_puts_off_the_expiry_and_changes_nothing_else(store: Store) -> None:
    leases = [(f"t{number}", f"o{number}") for number in range(7)]
    for thread_id, owner in leases:
        begin(store, thread_id, lease_owner=owner)
    before = {thread.thread_id: thread for thread in store.threads()}
    for number in (0, 1, 2, 3, 5):
        store.renew(leases[:number], f"2026-02-0{number + 1}")
        for place, (thread_id, _) in enumerate(leases):
            expires = f"2026-02-0{number + 1}" if place < number else before[thread_id].lease_expires_at
            before[thread_id] = before[thread_id]._replace(lease_expires_at=expires)
        assert {thread.thread_id: thread for thread in store.threads()} == before


def test_a_lease_that_is_somebody_elses_is_not_renewed(store: Store) -> None:
    begin(store, "mine", lease_owner="me")
    begin(store, "theirs", lease_owner="they")
    begin(store, "free", lease_owner=None, lease_expires_at=None)
    others = [store.thread("theirs"), store.thread("free")]
    store.renew([("theirs", "me before"), ("free", "me long before"), ("gone", "me too"), ("mine", "me")], "2027")
    assert [store.thread("theirs"), store.thread("free"), store.thread("gone")] == [*others, None]
    mine = store.thread("mine")
    assert mine is not None
    assert mine.lease_expires_at == "2027"
    with pytest.raises(ArgumentError, match=r"^owner: "):
        store.renew([("mine", "half \ud83d")], "2028")
    with pytest.raises(ArgumentError, match=r"^thread_id: "):
        store.renew([("a\0b", "me")], "2028")


def test_many_leases_are_renewed_together(store: Store) -> None:
    leases = [(f"t{number}", f"o{number}") for number in range(700)]
    for thread_id, owner in leases[::50]:
        begin(store, thread_id, lease_owner=owner)
    store.renew(leases, "2027")
    assert {thread.lease_expires_at for thread in store.threads()} == {"2027"}


def test_renewing_waits_for_no_append_and_fences_none(store: Store) -> None:
    begin(store, lease_owner="me")

    def work(number: int) -> None:
        for step in range(40):
            if number:
                store.renew([(T, "me")], f"2027-{step}")
            else:
                store.append([row(step)])

    race(2, work)
    assert steps(store.rows(T)) == list(range(40))


# --- reading once more --------------------------------------------------------------------------


def test_bodies_are_those_of_the_rows(store: Store) -> None:
    store.append([row(0), row(1)], claim=Claim(None, values()))
    store.append([row(number, body=b"x" * 300_000) for number in range(2, 9)])
    store.append([row(0, thread_id="another")], claim=Claim(None, values()))
    for after, until in ((-1, 8), (2, 5), (-1, 10**30), (5, 5), (7, 3), (-(10**30), 1), (8, 99)):
        rows = [(one.step, one.parent_step, one.kind, one.body) for one in store.rows(T, after=after, until=until)]
        assert [(*head, bytes(body)) for *head, body in store.bodies(T, after=after, until=until)] == rows
    assert list(store.bodies("nobody", after=-1, until=9)) == []


def test_the_newest_snapshot_at_or_before_a_step(store: Store) -> None:
    begin(store)
    begin(store, "another")
    store.append([row(0), row(1)], snapshot=b"one")
    store.append([row(2)])
    store.append([row(3)], snapshot=b"three")
    store.append([row(3, thread_id="another")], snapshot=b"not mine")
    found = [store.snapshot(T, until=until) for until in (-1, 0, 1, 2, 3, 10**30)]
    assert found == [None, None, (1, b"one"), (1, b"one"), (3, b"three"), (3, b"three")]


def test_delete_takes_everything_of_a_thread(store: Store) -> None:
    begin(store)
    store.append([row(0)], snapshot=b"state")
    kept = begin(store, "another", steps=2)
    assert store.delete(T)
    assert not store.delete(T)
    assert (store.thread(T), list(store.rows(T)), store.snapshot(T, until=9)) == (None, [], None)
    assert list(store.rows("another")) == kept
    with pytest.raises(FencedError):
        store.append([row(1)])
    begin(store, steps=1)  # and the id is free again
    assert (steps(store.rows(T)), store.snapshot(T, until=9)) == ([0], None)


# --- ids and texts ------------------------------------------------------------------------------


def test_any_text_is_an_id(store: Store) -> None:
    for number, thread_id in enumerate(ODD_IDS):
        begin(store, thread_id, graph=thread_id, metadata=b"%d" % number)
        store.append([row(0, thread_id=thread_id, node=thread_id, task=thread_id, run_id=thread_id)], snapshot=b"s")
    assert {thread.thread_id for thread in store.threads()} == set(ODD_IDS)
    for number, thread_id in enumerate(ODD_IDS):
        thread = store.thread(thread_id)
        assert thread == Thread(thread_id, **values(graph=thread_id, metadata=b"%d" % number))
        assert [each[1:7] for each in store.rows(thread_id)] == [(0, None, "task", 0, thread_id, thread_id)]
        assert store.threads(graph=thread_id) == [thread]
        assert store.delete(thread_id)
    assert store.threads() == []


@pytest.mark.parametrize("wrong", ["a\0b", "half \ud83d", "x" * (MAX_ID_BYTES + 1), "🚀" * (MAX_ID_BYTES // 4 + 1)])
def test_what_no_database_can_take_is_no_id(store: Store, wrong: str) -> None:
    begin(store)
    for call in (
        lambda: store.append([row(0, thread_id=wrong)]),
        lambda: store.append([row(0, thread_id=wrong)], claim=Claim(None, values())),
        lambda: store.change_thread(wrong, Claim(None, values())),
        lambda: store.thread(wrong),
        lambda: store.rows(wrong),
        lambda: store.bodies(wrong, after=-1, until=0),
        lambda: store.snapshot(wrong, until=0),
        lambda: store.delete(wrong),
    ):
        with pytest.raises(ArgumentError, match=r"^thread_id: "):
            call()
    assert [thread.thread_id for thread in store.threads()] == [T]


@pytest.mark.parametrize("wrong", ["a\0b", "half \ud83d"])
@pytest.mark.parametrize("field", ["node", "task", "run_id"])
def test_what_no_database_can_take_is_no_name(store: Store, field: str, wrong: str) -> None:
    begin(store)
    with pytest.raises(ArgumentError, match=rf"^{field}: "):
        store.append([row(0), row(1, **{field: wrong})])
    with pytest.raises(ArgumentError, match=r"^status: "):
        store.change_thread(T, Claim(1, {"status": wrong}))
    with pytest.raises(ArgumentError, match=r"^graph: "):
        store.threads(graph=wrong)
    assert list(store.rows(T)) == []


def test_names_may_be_long(store: Store) -> None:
    begin(store)
    long = row(0, node="n" * 10_000, task="🚀" * 10_000, run_id="r" * 10_000)
    store.append([long])
    assert list(store.rows(T)) == [long]


# --- closing ------------------------------------------------------------------------------------


def test_a_closed_store_opens_again(store: Store) -> None:
    begin(store, steps=1)
    store.close()
    store.close()
    store.append([row(1)])
    reading = store.rows(T)
    assert next(reading).step == 0
    store.close()
    assert steps(reading) == [1]
    assert store.name


def test_a_deleted_thread_takes_those_that_it_called_along(store: Store) -> None:
    """At any depth; not a fork of it, nor a thread that only looks like one of its own."""
    begin(store)
    for name, above in (("t/1.0/0", T), ("t/1.0/0/2.0/0", "t/1.0/0"), ("t/other", None)):
        claim = Claim(None, values(parent_thread_id=T, parent_step=0, called_by=above))
        store.append([row(0, thread_id=name)], claim=claim)
    assert store.delete(T)
    assert [thread.thread_id for thread in store.threads()] == ["t/other"]
    assert [list(store.rows(name)) for name in ("t/1.0/0", "t/1.0/0/2.0/0")] == [[], []]


def test_which_threads_have_signals(store: Store) -> None:
    assert store.signalled() == []
    for thread_id, name, sent in (("b", "x", "1"), ("b", "x", "3"), ("b", "y", "2"), ("a", "x", "4")):
        store.send(Signal(thread_id, sent, name, b"v"))
    assert store.signalled() == [("a", "x", "4"), ("b", "x", "3"), ("b", "y", "2")]
    store.delete("b")
    assert store.signalled() == [("a", "x", "4")]
