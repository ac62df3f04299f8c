"""A thread as lines of JSON, which can be checked without its database and put into another one.

    {"durable_graph": "export", "version": 1, "thread_id": ..., "key": the id of the key, or null}
    {"thread": its columns but those of the lease, "parent_hash": of the row that a fork begins at, or null}
    {"stub": its columns}           if its beginning was pruned: what stands for that
    {"row": its columns}            each row, in the order of the steps; hashes in hexadecimal
    {"signal": its columns}         what was sent to the thread and not taken yet
    {"end": {"thread_id": ..., "rows": how many, "head": the hash of the newest}}
    ... the same for each thread that it called or was forked from, and those that they did
    {"seal": {"head": of the first thread, "rows": of all, "threads": how many, "hash": ...}}

Bytes stand as the text that they are in UTF-8, else as {"base64": ...}, so that each row's hash can be computed again.
The last line is itself hashed (with a key: signed) over all lines before it, which covers what no row's hash does.
Snapshots and caches stay behind: they can be made again. A lease is a matter of the database that it is in.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain
from typing import Any, NamedTuple, NoReturn, TypeAlias, TypeVar, cast

import orjson

from durable_graph.core.chain import Keys, key_id
from durable_graph.core.shape import wrong_type
from durable_graph.core.verify import STUB_ALTERED, Check, Finding, Report, parent_hash
from durable_graph.errors import CorruptCheckpointError, ExportError, StoreError, ThreadNotFoundError
from durable_graph.store import Row, Signal, Store, Stub, Thread

VERSION = 1
# What is true of a thread only in its own database: who runs it there.
LEASE: dict[str, Any] = {"lease_owner": None, "lease_since": None, "lease_expires_at": None, "queue": None}
NUMBERS = {"step", "parent_step", "superstep", "epoch"}
BYTES = {"body", "metadata", "value", "state"}
HASHES = {"hash", "parent_hash"}
NULLABLE = {"parent_step", "node", "task", "parent_thread_id", "called_by", "wake_at", "actor", *LEASE}

Item: TypeAlias = Thread | Stub | Row | Signal
ItemT = TypeVar("ItemT", Thread, Stub, Row, Signal)


# --- writing ----------------------------------------------------------------------------------


def export(store: Store, thread_id: str, key: bytes | None) -> Iterator[str]:
    """The lines, without line ends."""
    seal = hashlib.sha256()
    threads = rows = 0
    first: str | None = None
    for line in _lines(store, thread_id, key):
        if "end" in line:
            first = line["end"]["head"] if not threads else first
            threads, rows = threads + 1, rows + line["end"]["rows"]
        text = orjson.dumps(line)
        seal.update(text + b"\n")
        yield text.decode()
    told = {"head": first, "rows": rows, "threads": threads}
    yield orjson.dumps({"seal": {**told, "hash": _sealed(seal.digest(), key)}}).decode()


def _lines(store: Store, thread_id: str, key: bytes | None) -> Iterator[dict[str, Any]]:
    named = None if key is None else key_id(key)
    yield {"durable_graph": "export", "version": VERSION, "thread_id": thread_id, "key": named}
    for thread in _family(store, thread_id):
        stub = store.stub(thread.thread_id)
        if stub is not None and not stub.readable:
            raise CorruptCheckpointError(thread_id=thread.thread_id, step=0, problem=STUB_ALTERED)
        rows = store.rows(thread.thread_id, after=-1 if stub is None else stub.step - 1)
        first = next(rows, None)
        yield _thread_line(store, thread, first)
        if stub is not None:
            yield {"stub": _plain(stub)}
        count, head = 0, None
        for row in () if first is None else chain((first,), rows):
            yield {"row": _plain(row)}
            count, head = count + 1, row.hash.hex()
        yield from ({"signal": _plain(signal)} for signal in store.signals(thread.thread_id))
        _look_again(store, thread.thread_id, stub)
        yield {"end": {"thread_id": thread.thread_id, "rows": count, "head": head}}


def _look_again(store: Store, thread_id: str, stub: Stub | None) -> None:
    """What was deleted or pruned while it was read may not have been read whole."""
    if store.thread(thread_id) is None:
        raise ThreadNotFoundError(thread_id=thread_id, store=store.name)
    if store.stub(thread_id) != stub:
        problem = f"thread {thread_id!r} was pruned while it was exported"
        raise StoreError(store=store.name, problem=problem, fix="Export it again.")


def _family(store: Store, thread_id: str) -> Iterator[Thread]:
    """The thread, and all that going on with it may need."""
    seen, left = {thread_id}, [thread_id]
    for name in left:
        thread = store.thread(name)
        if thread is None:
            continue
        yield thread
        for other in (*store.called(name), thread.parent_thread_id):
            if other is not None and other not in seen:
                seen.add(other)
                left.append(other)


def _thread_line(store: Store, thread: Thread, first: Row | None) -> dict[str, Any]:
    parent = parent_hash(store, first) if first is not None and first.kind == "fork" else None
    return {"thread": _plain(thread._replace(**LEASE)), "parent_hash": parent.hex() if parent else None}


def _plain(item: Item) -> dict[str, Any]:
    columns = {name: value for name, value in item._asdict().items() if name not in LEASE}
    wrong = wrong_type(item) if isinstance(item, Row) else _wrong_column(columns)
    if wrong is not None:  # somebody altered it
        step = item.step if isinstance(item, Row) else 0
        problem = wrong if isinstance(item, Row) else f"of a {type(item).__name__.lower()} that belongs to it {wrong}"
        raise CorruptCheckpointError(thread_id=item.thread_id, step=step, problem=problem)
    for name in BYTES & columns.keys():
        columns[name] = _text(columns[name])
    return {**columns, **{name: columns[name].hex() for name in HASHES & columns.keys()}}


def _wrong_column(columns: Mapping[str, Any]) -> str | None:
    for name, value in columns.items():
        kind = bytes if name in BYTES | HASHES else int if name in NUMBERS else str
        if type(value) is not kind and not (value is None and name in NULLABLE):
            return f"the {name} is a {type(value).__name__}"
    return None


def _text(data: bytes) -> str | dict[str, str]:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


def _sealed(digest: bytes, key: bytes | None) -> str:
    return (digest if key is None else hmac.digest(key, digest, "sha256")).hex()


# --- reading ----------------------------------------------------------------------------------


class _BadLine(Exception):
    """What is wrong with a line."""


class _Hashes:
    """Those of a thread's rows, by step: 32 bytes for each."""

    def __init__(self) -> None:
        self._parts: list[tuple[int, bytearray]] = []  # steps may be missing

    def add(self, row: Row) -> None:
        if not self._parts or row.step != self._parts[-1][0] + len(self._parts[-1][1]) // 32:
            self._parts.append((row.step, bytearray()))
        self._parts[-1][1].extend(row.hash)

    def get(self, step: int) -> bytes | None:
        for start, hashes in self._parts:
            if start <= step < start + len(hashes) // 32:
                return bytes(hashes[(step - start) * 32 : (step - start + 1) * 32])
        return None


class _Origin(NamedTuple):
    """Where a fork in the file says that it begins."""

    report: int  # the fork's
    hash: bytes


class ExportReader:
    """The lines of an export, read and checked once. `reports` has one for each thread so far."""

    def __init__(self, lines: Iterable[str], keys: Keys, *, strict: bool = False) -> None:
        """strict: the first finding is an ExportError."""
        self.reports: list[Report] = []
        self._lines = lines
        self._keys = keys
        self._strict = strict
        self._number = 0
        self._digest = hashlib.sha256()
        self._header: dict[str, Any] = {}
        self._check: Check | None = None  # of the thread at hand
        self._thread_id = ""
        self._seen: set[str] = set()
        self._hashes = _Hashes()
        self._parent: bytes | None = None
        self._origins: dict[str, dict[int, list[_Origin]]] = {}  # of threads to come
        self._wanted: dict[int, list[_Origin]] = {}  # of the thread at hand, by step
        self._rows = 0

    def check(self) -> list[Report]:
        for _ in self.items():
            pass
        return self.reports

    def items(self) -> Iterator[Item]:
        """What is to be put into a database. With `strict` it ends only if all is well."""
        try:
            yield from self._items()
        except _BadLine as bad:
            self._fail("altered", str(bad))

    def _items(self) -> Generator[Item]:
        sealed = False
        for text in self._lines:
            self._number += 1
            line, raw = _parsed(text)
            if sealed:
                raise _BadLine("there is something behind the last line")
            if self._number == 1:
                self._begin(line)
            elif "seal" in line:
                self._end(_mapping(line, "seal"))
                sealed = True
            else:
                item = self._item(line)
                if item is not None:
                    yield item
            self._digest.update(raw + b"\n")
        if not sealed:
            self._fail("truncated", "the export has no last line: its end was cut off")

    def _begin(self, line: Mapping[str, Any]) -> None:
        if line.get("durable_graph") != "export" or not isinstance(line.get("thread_id"), str):
            raise _BadLine("this is no export of a thread")
        if line.get("version") != VERSION:
            raise _BadLine(f"the export has version {line.get('version')!r}; this library reads version {VERSION}")
        self._header = dict(line)

    def _item(self, line: Mapping[str, Any]) -> Item | None:
        if "thread" in line:
            return self._open(line)
        if self._check is None:
            raise _BadLine("it belongs to no thread")
        if "row" in line:
            return self._row(_made(Row, _mapping(line, "row")))
        if "stub" in line:
            return self._stub(_made(Stub, _mapping(line, "stub")))
        if "signal" in line:
            signal = _made(Signal, _mapping(line, "signal"))
            if signal.thread_id != self._thread_id:
                raise _BadLine("the signal is another thread's")
            return signal
        self._close(_mapping(line, "end"))
        return None

    def _open(self, line: Mapping[str, Any]) -> Thread:
        thread = _made(Thread, {**_mapping(line, "thread"), **LEASE})
        if self._check is not None or thread.thread_id in self._seen:
            raise _BadLine("a thread begins where none should")
        if not self._seen and thread.thread_id != self._header["thread_id"]:
            raise _BadLine("the first thread is another than the first line says")
        self._thread_id = thread.thread_id
        self._seen.add(thread.thread_id)
        self._hashes = _Hashes()
        self._parent = None if line.get("parent_hash") is None else _hash(line["parent_hash"])
        self._wanted = self._origins.pop(thread.thread_id, {})
        if self._parent is not None and thread.parent_thread_id is not None and thread.parent_step is not None:
            origin = _Origin(len(self.reports), self._parent)
            wanted = self._origins.setdefault(thread.parent_thread_id, {})
            wanted.setdefault(thread.parent_step, []).append(origin)
        self._check = Check(self._keys, self._parent_of)
        # what ran when it was exported does not run here, and nobody should think that it has crashed
        return thread._replace(status="pending") if thread.status in ("queued", "running") else thread

    def _parent_of(self, row: Row) -> bytes | None:
        return self._parent if row.kind == "fork" else self._hashes.get(cast("int", row.parent_step))

    def _stub(self, stub: Stub) -> Stub:
        check = self._check
        assert check is not None
        if stub.thread_id != self._thread_id or check.rows or check.begins or not stub.readable:
            raise _BadLine("the stub is another thread's, or not where a thread begins")
        check.begin(stub)
        return stub

    def _row(self, row: Row) -> Row:
        check = self._check
        assert check is not None
        if row.thread_id != self._thread_id:
            raise _BadLine("the row is another thread's")
        if row.step <= check.last:
            raise _BadLine(f"step {row.step} stands behind step {check.last}")
        if not check.full:
            check.add(row)
        if self._strict and not check.sound:
            self._refuse(check.report(self._thread_id))
        self._hashes.add(row)
        for origin in self._wanted.pop(row.step, ()):
            if origin.hash != row.hash:
                self._found(
                    origin.report, f"step {row.step} of thread {self._thread_id!r} is not what it was forked from"
                )
        return row

    def _close(self, end: Mapping[str, Any]) -> None:
        check = self._check
        assert check is not None
        report = check.report(self._thread_id)
        self._rows += check.rows
        self._check = None
        self.reports.append(report)
        if self._strict and not report.ok:
            self._refuse(report)
        for origins in self._wanted.values():
            for origin in origins:
                self._found(origin.report, f"what it was forked from is not in thread {self._thread_id!r}")
        told = (end.get("thread_id"), end.get("rows"), end.get("head"))
        if not check.full and told != (self._thread_id, report.rows, report.head):
            rows = end.get("rows")
            short = isinstance(rows, int) and report.rows < rows
            kind, problem = ("truncated", f"{rows} rows were exported") if short else ("altered", "its head is another")
            self._found(
                len(self.reports) - 1, problem, "truncated" if kind == "truncated" else "altered", check.last + 1
            )

    def _end(self, told: Mapping[str, Any]) -> None:
        if self._check is not None or not self.reports:
            raise _BadLine("the last line stands within a thread")
        is_so = {"head": self.reports[0].head, "rows": self._rows, "threads": len(self.reports)}
        mark = told.get("hash")
        digest = self._digest.digest()
        if not any(_sealed(digest, key) == mark for key in (self._keys or (None,))):
            self._found(0, f"the lines do not give the hash of the last one: some line was altered{self._other_key()}")
        elif {**told, "hash": 0} != {**is_so, "hash": 0}:
            self._found(0, "the last line does not say what was read")

    def _other_key(self) -> str:
        used, known = self._header.get("key"), [key_id(key) for key in self._keys]
        if used is None and known:
            return ", or forged: it was not signed"
        return "" if used is None or used in known else f", or the key is another one (it has the id {used})"

    # --- what is wrong

    def _found(self, report: int, problem: str, kind: Any = "altered", step: int = -1) -> None:
        if self._strict:
            raise ExportError(line=self._number, problem=problem)
        old = self.reports[report]
        finding = Finding(step, kind, problem)
        self.reports[report] = replace(old, findings=(*old.findings, finding))

    def _fail(self, kind: Any, problem: str) -> None:
        """Nothing can be read any more."""
        if self._strict:
            raise ExportError(line=self._number, problem=problem)
        step = -1
        if self._check is not None or not self.reports:
            check = self._check or Check(self._keys, self._parent_of)
            step = check.last + 1
            self.reports.append(check.report(self._thread_id or str(self._header.get("thread_id", ""))))
            self._check = None
        self._found(len(self.reports) - 1, f"line {self._number}: {problem}", kind, step)

    def _refuse(self, report: Report) -> NoReturn:
        finding = report.findings[0]
        where = f"step {finding.step} of thread {report.thread_id!r} {finding.kind}"
        raise ExportError(line=self._number, problem=f"{where}: {finding.problem}")


def _parsed(text: str) -> tuple[dict[str, Any], bytes]:
    try:
        raw = text.rstrip("\r\n").encode()
        line = orjson.loads(raw)
    except (AttributeError, ValueError) as error:
        raise _BadLine(f"it is no JSON ({error})") from None
    if not isinstance(line, dict):
        raise _BadLine("it is no JSON object")
    return line, raw


def _mapping(line: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = line.get(key)
    if not isinstance(found, dict):
        raise _BadLine(f"it is none of an export's, which would be a {key} here")
    return found


def _made(kind: Callable[..., ItemT] | type[ItemT], columns: dict[str, Any]) -> ItemT:
    fields = cast("Any", kind)._fields
    if columns.keys() != set(fields):
        raise _BadLine(f"it has other columns than a {cast('Any', kind).__name__.lower()}")
    return kind(**{name: _value(name, columns[name]) for name in fields})


def _value(name: str, value: Any) -> Any:
    if name in HASHES:
        return _hash(value)
    if name in BYTES:
        return _bytes(name, value)
    if value is None and name in NULLABLE:
        return None
    fits = type(value) is int and -1 <= value < 2**63 if name in NUMBERS else type(value) is str
    if not fits:
        raise _BadLine(f"its {name} is {value!r:.40}")
    return value


def _bytes(name: str, value: Any) -> bytes:
    try:
        if isinstance(value, dict) and value.keys() == {"base64"}:
            return base64.b64decode(value["base64"], validate=True)
        if isinstance(value, str):
            return value.encode()
    except (TypeError, ValueError):
        pass
    raise _BadLine(f"its {name} is neither text nor base64")


def _hash(text: Any) -> bytes:
    try:
        found = bytes.fromhex(text)
    except (TypeError, ValueError):
        found = b""
    if len(found) != 32:
        raise _BadLine(f"{text!r:.40} is no hash")
    return found
