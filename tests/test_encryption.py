"""Encryption at rest: nothing of the user's can be read without the key, all that works with the log works with it, and
what was altered or moved is refused, where a missing key is called a missing key."""

from __future__ import annotations

import base64
import operator
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from click.testing import CliRunner
from conftest import connected
from sqlalchemy import create_engine, make_url, text

from durable_graph import (
    END,
    START,
    ArgumentError,
    CachePolicy,
    Command,
    CompiledGraph,
    CorruptCheckpointError,
    EncryptionKeyError,
    InMemoryCache,
    Log,
    Runtime,
    StateGraph,
    StoreError,
    entrypoint,
    get_config,
    interrupt,
    task,
    verify_export,
)
from durable_graph.cli import main
from durable_graph.codec import SEALED, Codec, KeyIsMissing, MalformedBytesError
from durable_graph.encryption import ID, VARIABLE, Encryption, _cipher, read_encryption
from tests.graphs import Runner, snapshot_each_barrier

OLD, NEW, OTHER = (bytes([number]) * 32 for number in (1, 2, 3))
MARK = "MARKED"  # in every value of the user's; found nowhere in the files
CONFIG = {"thread_id": "t"}


@pytest.fixture(params=["sync", "async"])
def run(request: pytest.FixtureRequest, database_url: str) -> Iterator[Runner]:
    with Runner(request.param, database_url) as runner:
        yield runner


class State(TypedDict, total=False):
    n: int
    log: Annotated[list[str], operator.add]
    answer: str


def drawing(run: Runner, to: int = 3) -> StateGraph[State]:
    def count(state: State) -> State:
        return {"n": state["n"] + 1, "log": [f"{MARK} {state['n']}"]}

    builder = StateGraph(State).add_node("count", run.node(count)).add_edge(START, "count")
    return builder.add_conditional_edges("count", lambda state: "count" if state["n"] < to else END)


def stored(url: str, folder: Path) -> bytes:
    """Every byte of the database that somebody could read: all files of SQLite, all columns in Postgres."""
    if url.startswith("sqlite"):
        return b"".join(path.read_bytes() for path in folder.iterdir() if path.is_file())
    found = []
    with connected(make_url(url)) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()").fetchall()
        for (table,) in tables:
            for row in connection.execute(f'SELECT * FROM "{table}"', binary=True).fetchall():
                found += [value if isinstance(value, bytes) else str(value).encode() for value in row]
    return b"|".join(found)


# --- what is encrypted --------------------------------------------------------------------------


def everything(run: Runner, **settings: Any) -> CompiledGraph[Any]:
    """A graph that writes in every way there is: into rows of all kinds, snapshots, signals and the cache."""

    class Below(TypedDict, total=False):
        answer: str

    inner = StateGraph(Below).add_node("deep", run.node(lambda state: {"answer": f"{MARK} below"}))
    below = inner.add_edge(START, "deep").compile()

    def ask(state: State, runtime: Runtime) -> State:
        runtime.stream_writer({"custom": MARK})
        answer = interrupt({"question": MARK})
        return {"answer": f"{answer} {runtime.wait_for('news')}", "log": [MARK * 30_000]}

    def fail(state: State) -> State:
        if not get_config()["configurable"].get("well"):
            raise ValueError(f"{MARK} in an error")
        return {"log": [MARK]}

    builder = StateGraph(State)
    builder.add_node("memo", run.node(lambda state: {"log": [MARK]}), cache_policy=CachePolicy())
    builder.add_node("ask", run.node(ask)).add_node("below", below).add_node("fail", run.node(fail))
    builder.add_edge(START, "memo").add_edge("memo", "ask").add_edge("ask", "below").add_edge("below", "fail")
    return run.compile(builder, cache=True, **settings)


def live(run: Runner, graph: CompiledGraph[Any]) -> list[Any]:
    """All that can happen to a thread, in stream mode "events"."""
    config = {**CONFIG, "metadata": {"actor": MARK, "more": [MARK]}, "tags": [MARK]}
    told = run.stream(graph, {"n": 0, "log": [MARK]}, config, stream_mode="events")
    run.call(graph, "signal", config, "news", {"signal": MARK})
    told += run.each(lambda _: None, graph, "stream", Command(resume=MARK), config, stream_mode="events")
    return told


def test_nothing_of_the_users_is_readable(run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot_each_barrier(monkeypatch)
    graph = everything(run, encryption_key=NEW, key="chain")
    with pytest.raises(ValueError, match="in an error"):
        live(run, graph)
    run.call(graph, "signal", CONFIG, "later", MARK)  # stays in the table
    run.update_state(graph, CONFIG, {"log": [MARK]}, as_node="below")
    run.fork(graph, CONFIG, "f")
    found = stored(run.url, tmp_path)
    assert MARK.encode() not in found
    assert found.count(SEALED) >= 15
    assert b"count" not in found  # the drawing of another graph: the search finds what is there, see below
    assert b"fail" in found
    assert run.invoke(graph, None, {"configurable": {"thread_id": "f", "well": True}})["log"][-1] == MARK
    assert MARK not in "\n".join(run.each(lambda _: None, graph, "export_thread", CONFIG))
    assert all(report.ok for report in graph.verify_all())


def test_without_a_key_all_of_it_is_readable(run: Runner, tmp_path: Path) -> None:
    """The search above would find it."""
    graph = everything(run)
    with pytest.raises(ValueError, match="in an error"):
        live(run, graph)
    assert stored(run.url, tmp_path).count(MARK.encode()) > 15
    assert graph.encryption_keys().keys() == {None}


def test_everything_works_as_without(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot_each_barrier(monkeypatch)
    graph = everything(run, encryption_key=NEW)
    with pytest.raises(ValueError, match="in an error"):
        live(run, graph)
    config = {"configurable": {**CONFIG, "well": True}}
    run.stream(graph, None, config)
    told = run.replay(graph, CONFIG, stream_mode="events", subgraphs=True)
    assert [event.kind for _, event in told].count("task") == 5
    assert run.follow(graph, CONFIG, stream_mode="events")[-1] == told[-1][1]
    assert [state.values["n"] for state in run.history(graph, CONFIG)] == [0] * 5
    assert run.get_state(graph, CONFIG).values["answer"] == f"{MARK} below"
    assert run.history(graph, CONFIG)[-1].metadata["actor"] == MARK
    run.call(graph, "delete_thread", "t")
    assert run.get_state(graph, CONFIG).values == {}


def test_what_is_cached_is_encrypted_under_names_that_nobody_can_guess(run: Runner) -> None:
    own, calls = InMemoryCache(), list[int]()

    def node(state: State) -> State:
        calls.append(1)
        return {"answer": MARK}

    for place, (key, called) in enumerate(((NEW, 1), (NEW, 1), (OTHER, 2), ((), 3))):
        builder = StateGraph(State).add_node("a", run.node(node), cache_policy=CachePolicy()).add_edge(START, "a")
        graph = run.compile(builder, cache=own, encryption_key=key)
        assert run.invoke(graph, {"n": 5}, {"thread_id": f"{place}"})["answer"] == MARK
        assert (len(calls), len({entry.key for entry in own.entries()})) == (called, called)
    assert [entry.value.startswith(SEALED) for entry in own.entries()] == [True, True, False]


def test_subgraphs_and_entrypoints(database_url: str, tmp_path: Path) -> None:
    """A subgraph's rows are its caller's: also one that was compiled with another key."""

    @task
    def shout(word: str) -> str:
        return word.upper()

    inner = StateGraph(State).add_node("a", lambda state: {"answer": f"{MARK} a"}).add_edge(START, "a")
    other = inner.compile(encryption_key=OTHER)

    @entrypoint(database_url, encryption_key=[NEW, OLD])
    def flow(word: str) -> Any:
        return shout(word).result() + other.invoke({"n": 1})["answer"]

    with flow:
        assert flow.invoke(MARK, CONFIG) == f"{MARK}{MARK} a"
        assert flow.encryption_keys() == {Encryption(lambda: [NEW]).ids()[0]: 5, Encryption(lambda: [OLD]).ids()[0]: 0}
        assert MARK.encode() not in stored(database_url, tmp_path)


# --- keys ---------------------------------------------------------------------------------------


def test_rotation(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain, then one key, then another: each row with the first key of its time, all of it readable."""
    snapshot_each_barrier(monkeypatch)
    old, new = (Encryption(lambda key=key: [key]).ids()[0] for key in (OLD, NEW))  # type: ignore[misc]
    run.first(2, run.compile(drawing(run, 9)), {"n": 0}, CONFIG)
    run.first(2, run.compile(drawing(run, 9), encryption_key=OLD), None, CONFIG)
    graph = run.compile(drawing(run, 9), encryption_key=[NEW, OLD])
    assert run.call(graph, "encryption_keys")[new] == 0
    run.stream(graph, None, CONFIG)
    used = run.call(graph, "encryption_keys")
    assert list(used)[:2] == [new, old]
    assert min(used[new], used[old], used[None]) >= 3
    assert [state.values["n"] for state in run.history(graph, CONFIG)] == [*range(9, -1, -1)]
    assert run.call(graph, "verify", CONFIG).ok
    only_new = run.compile(drawing(run), encryption_key=NEW)
    assert run.get_state(only_new, CONFIG).values["n"] == 9  # from a snapshot, and rows since
    with pytest.raises(EncryptionKeyError, match="Step 3 of thread 't'") as caught:
        run.replay(only_new, CONFIG)
    assert caught.value.key == old
    assert caught.value.have == f"those given have the ids {new}"


@pytest.mark.parametrize("given", [(), OTHER], ids=["no key", "another"])
def test_a_missing_key_is_no_corrupt_log(run: Runner, given: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot_each_barrier(monkeypatch)
    graph = everything(run, encryption_key=NEW)
    run.stream(graph, {"n": 0}, CONFIG)
    run.call(graph, "signal", CONFIG, "news", 1)
    blind = everything(run, encryption_key=given)
    (key,) = Encryption(lambda: [NEW]).ids()
    for call in (
        lambda: run.replay(blind, CONFIG),
        lambda: run.get_state(blind, CONFIG),
        lambda: run.history(blind, CONFIG),
        lambda: run.stream(blind, None, CONFIG),
        lambda: run.stream(blind, {"n": 1}, CONFIG),
        lambda: run.update_state(blind, CONFIG, {"n": 1}),
        lambda: run.fork(blind, CONFIG, "f"),
    ):
        with pytest.raises(EncryptionKeyError, match=f"encrypted with the key {key}") as caught:
            call()
        assert isinstance(caught.value, StoreError)
        assert "DURABLE_GRAPH_ENCRYPTION_KEY" in str(caught.value)
    assert run.call(blind, "verify", CONFIG).ok
    assert run.call(blind, "encryption_keys")[key] >= 4
    assert run.get_state(graph, CONFIG).next == ("ask",)  # nothing has happened to it


def test_a_signal_that_waits_needs_its_key(run: Runner) -> None:
    builder = StateGraph(State).add_node("a", run.node(lambda state, runtime: {"answer": runtime.wait_for("news")}))
    builder.add_edge(START, "a")
    run.stream(run.compile(builder), {"n": 1}, CONFIG)
    run.call(run.compile(builder, encryption_key=OLD), "signal", CONFIG, "news", MARK)
    with pytest.raises(EncryptionKeyError, match="The signal 'news' of thread 't'"):
        run.stream(run.compile(builder), None, CONFIG)
    assert run.invoke(run.compile(builder, encryption_key=[NEW, OLD]), None, CONFIG)["answer"] == MARK


def test_a_function_is_asked_once_and_when_a_key_is_missing(run: Runner) -> None:
    asked: list[int] = []
    there = [OLD]

    def keys() -> list[bytes]:
        asked.append(1)
        return there

    graph = run.compile(drawing(run), encryption_key=keys)
    assert not asked  # compiling opens nothing
    run.stream(graph, {"n": 0}, CONFIG)
    assert len(asked) == 1
    there = [NEW, OLD]
    run.stream(run.compile(drawing(run), encryption_key=[NEW, OLD]), {"n": 0}, CONFIG)
    assert len(run.replay(graph, CONFIG)) == 6
    assert len(asked) == 2
    there = []
    with pytest.raises(ArgumentError, match="has to return a key"):
        run.stream(run.compile(drawing(run), encryption_key=keys), {"n": 0}, {"thread_id": "u"})


def test_the_environment(run: Runner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    texts = [base64.b64encode(NEW).decode(), base64.urlsafe_b64encode(b"\xff" * 32).decode(), OLD.hex()]
    monkeypatch.setenv(VARIABLE, f" {texts[0]} ,{texts[1]},{texts[2]},")
    run.stream(run.compile(drawing(run)), {"n": 0}, CONFIG)
    monkeypatch.setenv(VARIABLE, texts[0])
    with Log(run.url) as log:
        assert len(list(log.replay(CONFIG))) == 3
        assert len(log.encryption_keys()) == 1
    found = CliRunner().invoke(main, ["replay", "t", "--url", run.url])
    assert (found.exit_code, MARK in found.stdout) == (0, True)
    listed = CliRunner().invoke(main, ["db", "keys", "--url", run.url])
    assert "newest" in listed.stdout
    monkeypatch.delenv(VARIABLE)
    found = CliRunner().invoke(main, ["replay", "t", "--url", run.url])
    assert (found.exit_code, "is encrypted with the key" in found.stderr) == (5, True)
    listed = CliRunner().invoke(main, ["db", "keys", "--url", run.url, "--json"])
    assert '"given": false' in listed.stdout
    assert CliRunner().invoke(main, ["verify", "t", "--url", run.url]).exit_code == 0
    assert MARK.encode() not in stored(run.url, tmp_path)


@pytest.mark.parametrize(
    "key", [b"", "", b"short", "password", "A" * 44, "é" * 32, 5, [b"x" * 31], [NEW, "no"], [None]], ids=repr
)
def test_what_is_no_key(key: Any) -> None:
    with pytest.raises(ArgumentError, match="openssl rand -base64 32") as caught:
        StateGraph(State).add_node("a", len).add_edge(START, "a").compile(False, encryption_key=key)
    assert "password" not in str(caught.value)


def test_without_cryptography(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("cryptography")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(ArgumentError, match=r'pip install "durable-graph\[encryption\]"'):
        Log(False, encryption_key=NEW)
    Log(False)  # who wants no encryption needs none


# --- what was altered or moved ------------------------------------------------------------------


@pytest.fixture
def tamper(database_url: str) -> Iterator[Callable[..., None]]:
    engine = create_engine(database_url)

    def execute(statement: str, **values: Any) -> None:
        with engine.begin() as connection:
            connection.execute(text(statement), values)

    yield execute
    engine.dispose()


MOVES = {
    "another step": "UPDATE checkpoints SET body = (SELECT body FROM checkpoints WHERE thread_id = 't' AND step = 1) "
    "WHERE thread_id = 't' AND step = 2",
    "another thread": "UPDATE checkpoints SET body = (SELECT body FROM checkpoints WHERE thread_id = 'u' AND step = 2) "
    "WHERE thread_id = 't' AND step = 2",
    "cut": "UPDATE checkpoints SET body = substr(body, 1, 30) WHERE thread_id = 't' AND step = 2",
    "snapshot as a row": "UPDATE checkpoints SET body = (SELECT state FROM snapshots WHERE thread_id = 't' AND "
    "step = 2) WHERE thread_id = 't' AND step = 2",
}


@pytest.mark.parametrize("how", MOVES)
def test_a_row_at_another_place_is_refused(
    run: Runner, tamper: Callable[..., None], how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the chain is not signed, so that who moved it could compute all hashes anew."""
    snapshot_each_barrier(monkeypatch)
    graph = run.compile(drawing(run), encryption_key=NEW)
    for name in "tu":
        run.stream(graph, {"n": 0}, {"thread_id": name})
    tamper(MOVES[how])
    with pytest.raises(CorruptCheckpointError, match="Step 2 of thread 't'") as caught:
        run.replay(graph, CONFIG)
    assert "decrypt" in str(caught.value) or "cut short" in str(caught.value)
    assert len(run.replay(graph, {"thread_id": "u"})) == 3


def test_a_snapshot_at_another_place_is_refused(
    run: Runner, tamper: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot_each_barrier(monkeypatch)
    graph = run.compile(drawing(run), encryption_key=NEW)
    for name in "tu":
        run.stream(graph, {"n": 0}, {"thread_id": name})
    newest = "SELECT max(step) FROM snapshots WHERE thread_id = 't'"
    tamper(
        f"UPDATE snapshots SET state = (SELECT state FROM snapshots WHERE thread_id = 'u' AND step = ({newest})) "
        f"WHERE thread_id = 't' AND step = ({newest})"
    )
    with pytest.raises(CorruptCheckpointError, match="snapshots may be deleted safely"):
        run.get_state(graph, CONFIG)
    tamper("DELETE FROM snapshots")
    assert run.get_state(graph, CONFIG).values["n"] == 3


def test_every_bit_counts() -> None:
    seal = Encryption(lambda: [NEW])
    data = seal.seal(b'{"a": 1}', ("row", "t", 1))
    assert seal.open(data, ("row", "t", 1)) == b'{"a": 1}'
    codec = Codec(seal=seal)
    for place in range(len(data)):
        altered = bytearray(data)
        altered[place] ^= 1
        with pytest.raises((MalformedBytesError, EncryptionKeyError)) as caught:
            codec.read(bytes(altered), "row", "t", 1)
        assert isinstance(caught.value, EncryptionKeyError) == (len(SEALED) <= place < len(SEALED) + ID)
    for length in range(len(data)):
        with pytest.raises(MalformedBytesError):
            codec.read(data[:length], "row", "t", 1)
    for other in (("row", "t", 2), ("row", "u", 1), ("state", "t", 1), ("row", "t", "1"), ("row", 't",1')):
        with pytest.raises(MalformedBytesError):
            codec.read(data, *other)


def test_no_two_messages_are_alike() -> None:
    seal = Encryption(lambda: [NEW])
    assert len({seal.seal(b"the same", ("row", "t", 1)) for _ in range(100)}) == 100
    seal._left = 1
    halves = {seal.seal(b"", ())[len(SEALED) + ID :][:12] for _ in range(3)}
    assert len(halves) == 2
    assert seal.open(seal.seal(b"", ()), ()) == b""


def test_the_cipher_is_the_published_one() -> None:
    """The examples of https://c2sp.org/XAES-256-GCM."""
    nonce, message = b"ABCDEFGHIJKLMNOPQRSTUVWX", b"XAES-256-GCM"
    found = [
        _cipher(bytes([number]) * 32, nonce[:12]).encrypt(nonce[12:], message, bound).hex()
        for number, bound in ((1, b""), (3, b"c2sp.org/XAES-256-GCM"))
    ]
    assert found == [
        "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271",
        "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d",
    ]


def test_ids_do_not_tell_keys() -> None:
    encryption = read_encryption([NEW, OLD], None)
    assert encryption is not None
    assert len(encryption.ids()) == len({each[:6] for each in encryption.ids()}) == 2
    assert not any(NEW.hex()[:8] in each for each in encryption.ids())
    with pytest.raises(KeyIsMissing):
        encryption.open(SEALED + bytes(60), ("row", "t", 1))


# --- audit without the key ----------------------------------------------------------------------


def test_verify_and_export_need_no_key(run: Runner, tmp_path: Path) -> None:
    graph = everything(run, encryption_key=NEW, key="chain")
    run.stream(graph, {"n": 0}, CONFIG)
    run.call(graph, "signal", CONFIG, "news", MARK)
    with Log(run.url, key="chain") as log:
        assert log.verify(CONFIG).ok
        lines = list(log.export_thread(CONFIG))
    assert not any(MARK in line for line in lines)
    assert all(verify_export(lines, key="chain"))
    there = f"sqlite:///{tmp_path / 'there.db'}"
    with Log(there, key="chain") as log:
        assert log.import_thread(lines).ok
    with Runner(run.way, there) as elsewhere:
        graph = everything(elsewhere, encryption_key=[OTHER, NEW], key="chain")
        assert elsewhere.get_state(graph, CONFIG).next == ("ask",)
        elsewhere.stream(graph, Command(resume=MARK), CONFIG | {"configurable": {"well": True}})
        assert elsewhere.get_state(graph, CONFIG).values["answer"] == f"{MARK} below"
        assert elsewhere.call(graph, "verify", CONFIG).ok


def test_a_fork_of_what_was_written_with_another_key(run: Runner) -> None:
    run.stream(run.compile(drawing(run), encryption_key=OLD), {"n": 0}, CONFIG)
    graph = run.compile(drawing(run, 6), encryption_key=[NEW, OLD])
    run.fork(graph, CONFIG, "f")
    run.stream(graph, {"n": 3}, {"thread_id": "f"})
    assert run.get_state(graph, {"thread_id": "f"}).values["n"] == 6


# --- pruning ------------------------------------------------------------------------------------


def test_what_stands_for_pruned_rows_is_encrypted(run: Runner, tmp_path: Path) -> None:
    graph = run.compile(drawing(run, 9), encryption_key=[OLD], key="chain")
    run.stream(graph, {"n": 0}, CONFIG)
    graph = run.compile(drawing(run, 9), encryption_key=[NEW, OLD], key="chain")
    assert run.call(graph, "prune", keep_last=2).cut == 1
    assert MARK.encode() not in stored(run.url, tmp_path)
    assert run.get_state(graph, CONFIG).values["log"] == [f"{MARK} {n}" for n in range(9)]
    assert run.call(graph, "verify", CONFIG).ok
    old, new = (Encryption(lambda key=key: [key]).ids()[0] for key in (OLD, NEW))  # type: ignore[misc]
    assert run.call(graph, "encryption_keys") == {new: 1, old: 2}
    run.stream(graph, {"n": 8}, CONFIG)
    run.call(graph, "prune", keep_last=1)
    assert graph.encryption_keys()[old] == 0  # it may be given up now
    assert run.get_state(run.compile(drawing(run, 9), encryption_key=NEW), CONFIG).values["n"] == 9


def test_without_the_key_whole_threads_can_be_pruned(run: Runner) -> None:
    run.stream(run.compile(drawing(run), encryption_key=OLD), {"n": 0}, CONFIG)
    blind = run.compile(drawing(run))
    report = run.call(blind, "prune", keep_last=1)
    assert (report.cut, len(report.skipped)) == (0, 1)
    assert "encrypted with the key" in report.skipped[0].reason
    assert run.call(blind, "prune", older_than=0).threads == 1
