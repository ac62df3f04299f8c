"""What the engine needs from a database: rows in, rows out, one atomic `append`.

A store moves bytes. It knows threads, steps, epochs and leases; it knows nothing of graphs, states or
codecs. Everything is synchronous and may be called from any thread. `sql.py` is the real one, `memory.py` the same
contract in dictionaries; `tests/test_store_contract.py` holds every store to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from durable_graph.errors import ArgumentError
from durable_graph.limits import MAX_ID_BYTES as MAX_ID_BYTES

if TYPE_CHECKING:
    from sqlalchemy import Connection


class Row(NamedTuple):
    """One checkpoint: one committed event of a thread. Never updated."""

    thread_id: str
    step: int  # position in the thread's log: 0, 1, 2 ...
    parent_step: int | None  # the row this one continues; None for a thread's first row
    kind: str  # input, task, interrupt, error, resume, update or fork
    superstep: int
    node: str | None
    task: str | None  # id of the task, the same over all its attempts
    run_id: str
    epoch: int  # of the writer: it must hold the thread's current epoch
    body: bytes  # what the codec made of everything else
    created_at: str  # UTC, ISO 8601 with microseconds and Z: sorts as text
    hash: bytes  # SHA-256 or HMAC over all of the above and the parent's hash


class Thread(NamedTuple):
    """One row of `threads`: what is true of a thread as a whole."""

    thread_id: str
    graph: str  # name of the graph that last ran it
    fingerprint: str  # of that graph's drawing
    status: str  # new, queued, running, pending, interrupted, waiting, failed or finished
    epoch: int  # grows by one with every claim
    parent_thread_id: str | None  # a fork's or a subgraph run's origin
    parent_step: int | None
    called_by: str | None  # of a subgraph's run: the thread of the graph above it, with which it is deleted
    lease_owner: str | None  # who may append now
    lease_since: str | None
    lease_expires_at: str | None
    wake_at: str | None  # of a waiting thread when it can go on without a signal, of a queued one when it may begin
    created_at: str
    updated_at: str
    metadata: bytes  # JSON object: the user's
    queue: str | None = None  # of the workers that run it, if its last run was submitted


class Stub(NamedTuple):
    """What stands for the rows that were cut off the beginning of a thread's log. The log then begins at `step`."""

    thread_id: str
    step: int  # of a barrier, which stays; every row before it may be removed at any time
    parent_hash: bytes  # of the row before it, which its own hash was made with
    state: bytes  # at the barrier, as in a snapshot
    pruned_at: str
    actor: str | None  # who did it, if that was said
    hash: bytes  # SHA-256 or HMAC over all of the above and the hash of the row at `step`

    @property
    def readable(self) -> bool:
        """Whether its columns have their types: in a database that was altered, anything may stand anywhere."""
        actor = self.actor is None or type(self.actor) is str
        kinds = tuple(map(type, self)) == (str, int, bytes, bytes, str, type(self.actor), bytes)
        return actor and kinds and self.step > 0


class Origin(NamedTuple):
    """A fork, and where it comes from."""

    fork: str  # a thread
    thread_id: str  # that it was forked from
    step: int


class Size(NamedTuple):
    """How much there is of a thread and those that it called."""

    threads: int
    rows: int
    bytes: int  # of the rows' bodies, and of what snapshots, stubs and signals hold


class Held(NamedTuple):
    """Bytes that a database holds beside the rows of the log."""

    snapshots: int
    stubs: int  # the states that stand for what was pruned
    signals: int  # that nobody has taken yet
    cache: int  # of no thread: 0 if one is asked for


class Signal(NamedTuple):
    """Something sent to a thread, kept until a task that waits for it takes it."""

    thread_id: str
    id: str  # begins with the time of sending: sorts in that order
    name: str
    value: bytes


class Entry(NamedTuple):
    """A value in a cache, kept until it is forgotten, expires, or makes room for others."""

    namespace: str  # what is cleared together
    key: str
    value: bytes
    expires_at: str | None  # UTC, ISO 8601, as everywhere; None: never


class Claim(NamedTuple):
    """A change of a thread's own row, committed with the rows it comes with, or alone.

    `epoch` is the one the caller has seen; the change happens only if it is still that one, so two
    claims can never both succeed. None means: the thread must not exist yet.
    """

    epoch: int | None
    values: dict[str, Any]  # columns of `threads` to set; all but thread_id for a new thread


class Cache(Protocol):
    """What `compile(cache=...)` takes: values that could be made again, by key. Every store is one too.

    Called from any thread. Whatever `recall` and `keep` raise is logged, and the run goes on without its cache; what
    `forget` raises is raised to whoever called `clear_cache`.
    """

    def recall(self, namespace: str, key: str, *, now: str) -> bytes | None:
        """The value, if there is one that has not expired."""

    def keep(self, entries: Sequence[Entry], *, now: str) -> None:
        """Put these in, in place of those with the same keys, and remove some of what has expired."""

    def forget(self, namespaces: Sequence[str] | None = None) -> None:
        """Remove what is in these namespaces, or everything."""

    def close(self) -> None:
        """Give back what it holds open. Called when the graph is closed; it may be used again afterwards."""


class Transaction(Protocol):
    """What a node writes of its own, to be committed with its row or not at all."""

    exclusive: bool  # every other writer has to wait for its end
    connection: Connection  # SQLAlchemy's; only `append` commits what is done with it

    def append(
        self,
        rows: Sequence[Row],
        *,
        claim: Claim | None = None,
        snapshot: bytes | None = None,
        taken: Sequence[str] = (),
    ) -> None:
        """`Store.append` within this transaction, and its commit. Whether it succeeds or not, that is the end of it."""

    def rollback(self) -> None:
        """Take everything back. Does nothing once the transaction has ended."""


class Store(Cache, Protocol):
    """The contract. Failing database calls raise `StoreError`s, never the driver's own."""

    name: str  # where it is, without secrets: for messages
    exclusive: bool  # so are its transactions

    def append(
        self,
        rows: Sequence[Row],
        *,
        claim: Claim | None = None,
        snapshot: bytes | None = None,
        taken: Sequence[str] = (),
    ) -> None:
        """Commit `rows` of one thread, the claim before them, a snapshot at the last of them and the removal of the
        signals with the ids `taken`, in one transaction.

        Each row is written only if its step is free and its epoch is the thread's; otherwise nothing is
        committed and `FencedError` says which step. The same if the first row, with a new thread, is a fork of what
        has been pruned. Durable when it returns.
        """

    def change_thread(self, thread_id: str, claim: Claim) -> bool:
        """Apply a claim on its own; False if the thread's epoch is no longer the expected one."""

    def renew(self, leases: Sequence[tuple[str, str]], expires_at: str) -> None:
        """Put off the expiry of leases, given as (thread_id, owner); an owner has one thread. Those that somebody
        else has by now, or nobody, stay as they are."""

    def thread(self, thread_id: str) -> Thread | None: ...

    def threads(
        self,
        *,
        statuses: Sequence[str] = (),
        graph: str | None = None,
        since: str | None = None,
        before: str | None = None,
        after: tuple[str, str] | None = None,
        limit: int | None = None,
    ) -> list[Thread]:
        """Newest change first, and of the same moment by their ids, backwards; from behind one whose (updated_at,
        thread_id) `after` is. Only those that have one of the statuses, this graph, and were changed after `since` and
        before `before`. A page of them costs no more where there are many threads, if not for `graph` alone."""

    def oldest(self, graph: str, status: str, *, after: tuple[str, str] = ("", ""), limit: int) -> list[Thread]:
        """Threads of this graph that have this status, oldest change first, from behind one whose
        (updated_at, thread_id) this is."""

    def rows(
        self,
        thread_id: str,
        *,
        after: int = -1,
        until: int | None = None,
        newest_first: bool = False,
        limit: int | None = None,
    ) -> Iterator[Row]:
        """Rows with after < step <= until, streamed in small batches. An open iterator holds no transaction or
        connection while the caller thinks."""

    def bodies(self, thread_id: str, *, after: int, until: int) -> Iterator[tuple[int, int | None, str, bytes]]:
        """Of the same rows, oldest first, only step, parent_step, kind and body: for those who add many of them up."""

    def snapshot(self, thread_id: str, *, until: int) -> tuple[int, bytes] | None:
        """The newest snapshot at or before `until`."""

    def send(self, signal: Signal) -> None:
        """Keep a signal for its thread. Durable when it returns."""

    def signals(self, thread_id: str) -> list[Signal]:
        """Those that nobody has taken yet, oldest first."""

    def signalled(self) -> list[tuple[str, str, str]]:
        """Thread, name and the newest id of all signals that nobody has taken yet. Looks at all of them."""

    def delete(self, thread_id: str) -> bool:
        """Remove a thread with all its rows, snapshots and signals, and those that it called; False if there was
        none."""

    def scrub(self) -> None:
        """What was removed is not to stay in files, as far as that is in our hands."""

    def called(self, thread_id: str) -> list[str]:
        """The threads that a thread called, and those that they called."""

    def heads(self, mark: bytes, length: int) -> dict[bytes | None, int]:
        """How many values (bodies, states, signals, what is cached) begin with each of the beginnings of this length
        that begin with `mark`, and under None how many do not. Looks at everything: for operators."""

    def restore(self, items: Iterable[Thread | Stub | Row | Signal]) -> None:
        """Put threads back as they were, each followed by its stub, rows and signals, all in one transaction: what
        `items` raises takes everything back. They are asked for as they are written, and for nothing twice.

        The first thread must not be there; ThreadExistsError else. A later one may be, if it has the same rows: then
        nothing of it is written.
        """

    def roots(self, *, before: str, after: tuple[str, str] = ("", ""), limit: int) -> list[Thread]:
        """Threads that no other has called and that were last changed before that time, oldest change first, from
        behind one whose (updated_at, thread_id) this is."""

    def forks(self, thread_id: str) -> list[Origin]:
        """Those of this thread or of threads that it called. What forks each other among these does not count."""

    def size(self, thread_id: str, *, until: int | None = None) -> Size:
        """Of a thread and all below it; with `until` only of its own rows and snapshots before that step."""

    def prune(self, thread_id: str, epoch: int) -> bool:
        """`delete`, if the thread still has this epoch and nobody has forked it."""

    def stub(self, thread_id: str) -> Stub | None: ...

    def held(self, thread_id: str | None = None) -> Held:
        """How much a thread has, or all of them, besides its rows. Looks at everything: for operators."""

    def cut(self, stub: Stub, epoch: int, *, alone: bool = False) -> bool:
        """Let the thread begin at the stub, with the next epoch, if it still has this one and nobody has forked it
        before that step. Removes no rows yet: see `trim`. alone: if it was a fork, it needs its origin no more."""

    def trim(self, thread_id: str, *, until: int) -> None:
        """Remove rows and snapshots with step < until that a stub of the thread stands for; no others."""

    def vacuum(self) -> tuple[int, int]:
        """Give room that is not used any more back to the operating system, as far as the database can: its bytes
        before and after."""

    def transaction(self) -> Transaction:
        """Begin one. Raises CallError if this store has no connections to give."""

    def close(self) -> None:
        """Give back every connection. The store opens again when used again."""


# --- what is no text to a database: checked by every store, as SQLite alone would take some of it ---


def check_row(row: Row) -> None:
    """Refuse ids and names that not every database can hold."""
    text = f"{row.thread_id}{row.node}{row.task}{row.run_id}"
    if len(text) <= MAX_ID_BYTES and text.isascii() and "\0" not in text:
        return  # nearly always: this is in every step's way
    check_id(row.thread_id)
    for field in ("node", "task", "run_id"):
        check_text(field, getattr(row, field) or "")


def origin_of(row: Row, claim: Claim | None) -> str | None:
    """The thread that a new thread's first row is a fork of. The row it continues must still be there."""
    if row.kind != "fork" or claim is None or claim.epoch is not None:
        return None
    origin: str | None = claim.values.get("parent_thread_id")
    return origin


def check_claim(thread_id: str, claim: Claim) -> None:
    check_id(thread_id)
    if unknown := sorted(claim.values.keys() - set(Thread._fields[1:])):
        fix = f"Columns are {', '.join(Thread._fields[1:])}."
        raise ArgumentError(argument="claim", problem=f"{unknown[0]!r} cannot be set", fix=fix)
    for column, value in claim.values.items():
        if isinstance(value, str):
            check_text(column, value)


def check_item(item: Thread | Stub | Row | Signal) -> None:
    """Of a thread that is put back."""
    if isinstance(item, Row):
        check_row(item)
        return
    check_id(item.thread_id)
    for field, value in item._asdict().items():
        if isinstance(value, str):
            check_text(field, value)


def check_id(name: str, argument: str = "thread_id") -> None:
    check_text(argument, name)
    if len(name.encode()) > MAX_ID_BYTES:
        problem = f"is {len(name.encode())} bytes long, beginning with {name[:40]!r}"
        raise ArgumentError(argument=argument, problem=problem, fix=f"Use at most {MAX_ID_BYTES} bytes.")


def check_entry(namespace: str, key: str = "") -> None:
    check_id(namespace, "namespace")
    check_text("key", key)


def check_leases(leases: Sequence[tuple[str, str]], expires_at: str) -> None:
    check_text("expires_at", expires_at)
    for thread_id, owner in leases:
        check_id(thread_id)
        check_text("owner", owner)


def check_page(statuses: Sequence[str], graph: str | None, since: str | None, before: str | None) -> None:
    for status in statuses:
        check_text("status", status)
    for argument, text in {"graph": graph, "since": since, "before": before}.items():
        check_text(argument, text or "")


def check_text(argument: str, text: str) -> None:
    if "\0" in text:
        raise ArgumentError(
            argument=argument,
            problem=f"{text[:40]!r} holds a NUL character",
            fix="Postgres cannot store one: remove it.",
        )
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ArgumentError(
            argument=argument,
            problem=f"{text[:40]!r} holds half of a surrogate pair, which is no Unicode text",
            fix="Decode the text with the encoding it was written in.",
        ) from None
