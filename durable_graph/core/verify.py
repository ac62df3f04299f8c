"""Checking the hash chain: was any row altered, removed, moved or put in?

The rule: rows come once, in the order of their steps, and only hashes are kept of them; of rows that do not fit, a few
are held until the end, to say what became of them. A row fits if its hash is that of its content and of the hash of
the row that it continues. What does not fit is tried in other places before it is called altered. A log that was
pruned begins at its stub, which is checked with the row there: it holds the hash of the row before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from durable_graph.core.chain import NO_PARENT, Keys, row_hash, stub_hash
from durable_graph.errors import ArgumentError
from durable_graph.store import Row, Store, Stub

NEAR = 8  # rows put in or taken out at one place, of which the renumbering of the others is recognized
HELD_ROWS, HELD_BYTES = 24, 16_000_000  # rows that do not fit, kept to find where they were

STUB_ALTERED = "what stands for its pruned rows (in the table stubs) was altered"

Kind = Literal["altered", "missing", "inserted", "reordered", "truncated"]
ParentOf = Callable[[Row], bytes | None]  # the hash of the row that this one continues, if there is such a row


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with a thread's log.

    altered: the content of a row is not what was written. missing: rows were taken out. inserted: rows were put in.
    reordered: rows stand at each other's places. truncated: the newest rows were cut off, as a head or an export tells.
    Without a key, whoever alters a row can give it a new hash; then the row after it fits no more, and is named.
    """

    step: int  # where; -1: in an export, something that is in no row
    kind: Kind
    problem: str


@dataclass(frozen=True, slots=True)
class Report:
    """What `verify` found. `head` is the hash of the newest row: keep it elsewhere and give it to the next `verify`,
    and a log whose tail was cut shows too."""

    thread_id: str
    rows: int  # that were looked at
    head: str | None  # hexadecimal
    findings: tuple[Finding, ...]
    begins: int = 0  # the first step
    pruned: str | None = None  # of a log that does not begin at 0: what cannot be checked, since when, by whom

    @property
    def ok(self) -> bool:
        return not self.findings

    def __bool__(self) -> bool:
        return self.ok


def verify(
    store: Store, thread_id: str, keys: Keys | bytes | None, *, head: str | Report | None = None, limit: int = 100
) -> Report:
    """Check a thread's rows from the first; about `limit` findings at most.

    keys: any of them may have signed a row. head: of an earlier report, or that report: the row must be there still.
    """
    given = (keys,) if isinstance(keys, bytes) else keys or ()
    while True:
        check = Check(given, lambda row: parent_hash(store, row), head=head, limit=limit)
        stub = store.stub(thread_id)
        if stub is not None:
            check.begin(stub)
        for row in store.rows(thread_id, after=check.last):
            check.add(row)
            if check.full:
                break
        report = check.report(thread_id)
        if report.ok or store.stub(thread_id) == stub:
            return report  # else what is missing was pruned while we read


def columns_of(row: Row) -> tuple[Any, ...]:
    """The hashed columns besides the body, in `row_hash`'s order."""
    return (*row[:9], row.created_at)


class _Suspect(NamedTuple):
    """A row that does not fit."""

    step: int
    row: Row | None  # None: too large to hold
    before: bytes  # the hash of the row before it
    copy: bool  # of a row shortly before it


class _Guess(NamedTuple):
    """That later rows were renumbered, as one row told. If the next does not agree, that one was only moved."""

    shift: int  # before
    finding: Finding
    suspects: list[_Suspect]  # that it explains, with the row itself


class Check:
    """The rows of one thread, one after the other."""

    def __init__(self, keys: Keys, parent_of: ParentOf, *, head: str | Report | None = None, limit: int = 100) -> None:
        self.rows = 0
        self._known, self._wanted = head, _hash_of(head)  # a row that must be there; None once it was seen
        self._keys: list[bytes | None] = [*keys] or [None]  # the one that fitted last comes first
        self._parent_of = parent_of
        self._limit = limit
        self._findings: list[Finding] = []
        self._suspects: list[_Suspect] = []
        self._gone: list[range] = []  # steps that are missing
        self.last = -1
        self._recent: deque[bytes] = deque([NO_PARENT], NEAR + 1)  # hashes of the rows before, newest last
        self._shift = 0  # what was added to the steps since rows were put in or taken out, the other way round
        self._guess: _Guess | None = None
        self._held = 0
        self._stub: Stub | None = None
        self._pruned: str | None = None

    def begin(self, stub: Stub) -> None:
        """Before the first row: the log begins here."""
        if not stub.readable:
            self._findings.append(Finding(0, "altered", STUB_ALTERED))
            return
        steps = "step 0 was" if stub.step == 1 else f"steps 0 to {stub.step - 1} were"
        by = "" if stub.actor is None else f" by {stub.actor!r}"
        self._pruned = f"{steps} pruned at {stub.pruned_at}{by}, and cannot be checked"
        self._stub = stub
        self.last = stub.step - 1
        self._recent.append(stub.parent_hash)
        if stub.parent_hash == self._wanted:
            self._wanted = None

    @property
    def begins(self) -> int:
        return 0 if self._stub is None else self._stub.step

    @property
    def full(self) -> bool:
        return len(self._findings) + len(self._suspects) >= self._limit

    @property
    def sound(self) -> bool:
        return not self._findings and not self._suspects

    def add(self, row: Row) -> None:
        if row.step != self.last + 1:
            self._found_gap(range(self.last + 1, row.step))
        if not self._fits_here(row) and not self._was_renumbered(row):
            self._suspect(row)
        elif self._stub is not None and row.step == self._stub.step and not self._is_stub_of(row, self._stub):
            self._findings.append(Finding(row.step, "altered", STUB_ALTERED))
        self.rows += 1
        self.last = row.step
        self._recent.append(_bytes(row.hash))
        if row.hash == self._wanted:
            self._wanted = None

    # --- does a row fit?

    def _fits_here(self, row: Row) -> bool:
        if self._shift:
            fits = self._fits(row, self._recent[-1], row.step + self._shift)
            self._confirm(row, fits)
            return fits
        if row.parent_step is None:
            parent: bytes | None = NO_PARENT
        elif row.parent_step == self.last and row.kind != "fork":
            parent = self._recent[-1]
        elif self._stub is not None and row.step == self._stub.step:
            parent = self._recent[-1]  # of the stub
        else:
            parent = self._parent_of(row)
        if parent is not None:
            return self._is_hash(row, parent, columns_of(row))
        if row.kind == "fork" or not any(row.parent_step in gone for gone in self._gone):
            where = f"the row it continues (step {row.parent_step}) does not exist"
            self._findings.append(Finding(row.step, "missing", where))
        return True  # it cannot be checked, and why has been said

    def _fits(self, row: Row, parent: bytes, step: int) -> bool:
        """Whether this was the row at `step`; who moves rows may have changed `parent_step` too, or not."""
        columns = columns_of(row)
        parents = dict.fromkeys((row.parent_step, step - 1))
        return any(self._is_hash(row, parent, (columns[0], step, given, *columns[3:])) for given in parents)

    def _is_hash(self, row: Row, parent: bytes, columns: tuple[Any, ...]) -> bool:
        keys = self._keys
        try:
            for place, key in enumerate(keys):
                if row_hash(parent, columns, row.body, key) == row.hash:
                    if place:
                        keys.insert(0, keys.pop(place))
                    return True
        except (TypeError, ValueError):  # what stands in the columns is nothing that was ever hashed
            pass
        return False

    def _is_stub_of(self, row: Row, stub: Stub) -> bool:
        return any(stub_hash(_bytes(row.hash), stub[:6], key) == stub.hash for key in self._keys)

    # --- what became of one that does not?

    def _was_renumbered(self, row: Row) -> bool:
        """Whether it fits where it would stand without rows that were put in, or with rows that were taken out."""
        if self._is_copy(row):
            return False  # a copy, which fits where the first one stands
        for number in range(1, NEAR + 1):
            put_in = number < len(self._recent) and self._all_or_none(row.step - number, row.step)
            if put_in and self._fits(row, self._recent[-1 - number], row.step + self._shift - number):
                self._renumbered(row, "inserted", number)
                return True
            if self._fits(row, self._recent[-1], row.step + self._shift + number):
                self._renumbered(row, "missing", number)
                return True
        return False

    def _is_copy(self, row: Row) -> bool:
        return row.hash in self._recent and row.hash != NO_PARENT

    def _all_or_none(self, start: int, end: int) -> bool:
        """Rows that were put in fit, if their hashes were computed, or do not; some of them fit if rows were moved."""
        return sum(start <= one.step < end for one in self._suspects) in (0, end - start)

    def _renumbered(self, row: Row, kind: Literal["inserted", "missing"], number: int) -> None:
        self._confirm(row, True)
        start = row.step - (number if kind == "inserted" else 1)
        what = "put in here" if kind == "inserted" else "taken out before this one"
        counted = "a row was" if number == 1 else f"{number} rows were"
        finding = Finding(start, kind, f"{counted} {what}, and the later ones renumbered")
        explained = [one for one in self._suspects if one.step >= start]
        self._suspects = [one for one in self._suspects if one.step < start]
        self._findings.append(finding)
        self._guess = _Guess(self._shift, finding, [*explained, self._held_of(row)])
        self._shift += -number if kind == "inserted" else number

    def _confirm(self, row: Row, fits: bool) -> None:
        """The guess is right if the next row fits; it was wrong if that stands where it should."""
        guess = self._guess
        if guess is not None and (
            fits or any(self._fits(row, parent, row.step + guess.shift) for parent in self._recent)
        ):
            self._guess = None
            if not fits:
                self._take_back(guess)

    def _take_back(self, guess: _Guess) -> None:
        self._shift = guess.shift
        self._findings.remove(guess.finding)
        self._suspects += guess.suspects

    def _found_gap(self, gone: range) -> None:
        self._gone.append(gone)
        which = f"step {gone.start}" if len(gone) == 1 else f"steps {gone.start} to {gone.stop - 1}"
        self._findings.append(
            Finding(gone.start, "missing", f"{which} removed from the log; what continues them cannot be checked")
        )

    def _suspect(self, row: Row) -> None:
        self._suspects.append(self._held_of(row))

    def _held_of(self, row: Row) -> _Suspect:
        size = len(_bytes(row.body))
        hold = len(self._suspects) < HELD_ROWS and self._held + size <= HELD_BYTES
        self._held += size if hold else 0
        return _Suspect(row.step, row if hold else None, self._recent[-1], self._is_copy(row))

    def _explained(self) -> list[Finding]:
        """Of each suspect: a copy, moved, or altered. One at its own place, behind a row that was moved, is sound."""
        places = {one.step: self._place_of(one) for one in self._suspects}
        copies = {one.step for one in self._suspects if one.copy}
        moved = any(place is not None and place != step for step, place in places.items())
        found = []
        for step, place in places.items():
            if step in copies:
                found.append(Finding(step, "inserted", "it is a copy of a row that stands before it"))
            elif place is not None and place != step:
                found.append(Finding(step, "reordered", f"it was written as step {place}"))
            elif place is None or not moved:
                found.append(Finding(step, "altered", self._altered()))
        return found

    def _place_of(self, suspect: _Suspect) -> int | None:
        if suspect.row is None or self._shift:
            return None
        held = [one for one in self._suspects if one.row is not None]
        parents = dict.fromkeys([*(one.before for one in held), *(_bytes(one.row.hash) for one in held if one.row)])
        for one in held:
            if any(self._fits(suspect.row, parent, one.step) for parent in parents):
                return one.step
        return None

    def _altered(self) -> str:
        return "its content does not give its hash: this row was altered or put in, or the one it continues was" + (
            "" if self._keys == [None] else ", or it was signed with another key or none"
        )

    # --- the end

    def report(self, thread_id: str) -> Report:
        if self._guess is not None:  # by the last row
            guess, self._guess = self._guess, None
            self._take_back(guess)
            if {finding.kind for finding in self._explained()} != {"reordered"}:
                self._suspects = self._suspects[: -len(guess.suspects)]
                self._findings.append(guess.finding)
        if self._stub is not None and not self.rows:
            problem = f"step {self.begins}, which the log begins with, was removed from it"
            self._findings.append(Finding(self.begins, "missing", problem))
        found = [*self._findings, *self._explained()]
        if self._wanted is not None and not self.full and not self._was_pruned():
            found.append(self._cut(self._wanted.hex()))
        found.sort(key=lambda finding: finding.step)
        head = self._recent[-1].hex() if self.rows else None
        return Report(thread_id, self.rows, head, tuple(found), self.begins, self._pruned)

    def _was_pruned(self) -> bool:
        """Whether the row that must be there is one that the stub stands for."""
        known = self._known
        return isinstance(known, Report) and known.begins + known.rows <= self.begins

    def _cut(self, head: str) -> Finding:
        known = self._known if isinstance(self._known, Report) else None
        ended = None if known is None else known.begins + known.rows  # one above its last step
        if ended is not None and ended <= self.last + 1:
            return Finding(ended - 1, "altered", f"the log was written anew: no row of it has the hash {head}")
        least = "" if ended is None else f" at step {ended - 1}"
        problem = f"no row of it has the hash {head}, with which it ended once{least}: it was cut, or written anew"
        if self._stub is not None and known is None:
            problem += f", or that was a row before step {self.begins} (the whole report of then could tell)"
        return Finding(self.last + 1, "truncated", problem)


def _bytes(found: Any) -> bytes:
    """In a database that was altered, anything may stand anywhere."""
    return found if isinstance(found, bytes) else b""


def _hash_of(head: str | Report | None) -> bytes | None:
    text = head.head if isinstance(head, Report) else head
    if text is None:
        return None
    try:
        found = bytes.fromhex(text)
    except (TypeError, ValueError):
        found = b""
    if len(found) != 32:
        fix = "Give the head of a report of verify(), 64 hexadecimal digits, or that report."
        raise ArgumentError(argument="head", problem=f"{text!r} is no hash", fix=fix)
    return found


def parent_hash(store: Store, row: Row) -> bytes | None:
    thread_id: str | None = row.thread_id
    if row.kind == "fork":
        thread = store.thread(row.thread_id)
        thread_id = thread.parent_thread_id if thread else None
    if thread_id is None or type(row.parent_step) is not int:
        return None  # in a database that was altered, anything may stand anywhere
    found = store.rows(thread_id, after=row.parent_step - 1, until=row.parent_step)
    parent = next(iter(found), None)
    return parent.hash if parent else None
