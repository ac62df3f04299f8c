"""Checking the hash chain: was any row altered, removed or put in?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from durable_graph.core.chain import NO_PARENT, row_hash, stub_hash
from durable_graph.store import Row, Store, Stub


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with a thread's log."""

    step: int
    kind: Literal["altered", "missing", "misplaced"]
    problem: str


@dataclass(frozen=True, slots=True)
class Report:
    """What `verify` found. `head` is the hash of the newest row: keep it elsewhere, and a log whose tail was
    cut shows too."""

    thread_id: str
    rows: int
    head: str | None  # hexadecimal
    findings: tuple[Finding, ...]
    begins: int = 0  # the first step that is there; if it is not 0 the rows before it were pruned

    @property
    def ok(self) -> bool:
        return not self.findings

    def __bool__(self) -> bool:
        return self.ok


def verify(store: Store, thread_id: str, key: bytes | None, *, limit: int = 100) -> Report:
    """Check a thread's rows from the first; at most `limit` findings."""
    findings: list[Finding] = []
    head: Row | None = None
    for finding, row in _checked(store, thread_id, key):
        head = row
        if finding is not None:
            findings.append(finding)
            if len(findings) == limit:
                break
    stub = store.stub(thread_id)
    begins = stub.step if stub else 0
    if stub is not None and head is None:
        findings.append(Finding(begins, "missing", f"step {begins}, which the log begins with, was removed from it"))
    rows = head.step + 1 - begins if head else 0
    return Report(thread_id, rows, head.hash.hex() if head else None, tuple(findings), begins)


def _checked(store: Store, thread_id: str, key: bytes | None) -> Iterator[tuple[Finding | None, Row]]:
    before: Row | None = None
    stub = store.stub(thread_id)
    begins = stub.step if stub else 0
    for row in store.rows(thread_id, after=begins - 1):
        expected = begins if before is None else before.step + 1
        if row.step != expected:
            gone = f"step {expected}" if row.step == expected + 1 else f"steps {expected} to {row.step - 1}"
            yield Finding(expected, "missing", f"{gone} removed from the log"), row
        if stub is not None and row.step == begins:
            yield _check_stub(stub, row, key), row
            parent: bytes | None = stub.parent_hash
        else:
            parent = _parent_hash(store, row, before)
        yield _check(parent, row, key), row
        before = row


def _check_stub(stub: Stub, row: Row, key: bytes | None) -> Finding | None:
    if stub_hash(row.hash, stub[:5], key) == stub.hash:
        return None
    return Finding(row.step, "altered", "what stands for the pruned rows before it (in the table stubs) was altered")


def _check(parent: bytes | None, row: Row, key: bytes | None) -> Finding | None:
    if parent is None:
        return Finding(row.step, "misplaced", f"the row it continues (step {row.parent_step}) does not exist")
    if row_hash(parent, columns_of(row), row.body, key) == row.hash:
        return None
    return Finding(
        row.step,
        "altered",
        "its content does not give its hash: this row was altered or put in, or the one it continues was"
        + ("" if key is None else ", or the key is another one"),
    )


def columns_of(row: Row) -> tuple[Any, ...]:
    """The hashed columns besides the body, in `row_hash`'s order."""
    return (*row[:9], row.created_at)


def _parent_hash(store: Store, row: Row, before: Row | None) -> bytes | None:
    if row.parent_step is None:
        return NO_PARENT
    if row.kind != "fork" and before is not None and before.step == row.parent_step:
        return before.hash
    thread_id: str | None = row.thread_id
    if row.kind == "fork":
        thread = store.thread(row.thread_id)
        thread_id = thread.parent_thread_id if thread else None
    if thread_id is None:
        return None
    found = store.rows(thread_id, after=row.parent_step - 1, until=row.parent_step)
    parent = next(iter(found), None)
    return parent.hash if parent else None
