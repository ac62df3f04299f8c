"""A connection to Postgres with a short way for statements that change one row.

The rule: `change` does what psycopg's `execute` does in autocommit, and `change_all` what `executemany` does in a
pipeline, but over `psycopg.pq`, psycopg's documented wrapper of libpq: a prepared statement, its values as text or
bytes, and one wait. A cursor takes 90 to 130 µs of processor time for an INSERT of twelve values, this 40. It knows
text, whole numbers, bytes and None, which is what our tables hold.

Ctrl-C ends the wait. The connection is then in the midst of something, so that its owner throws it away.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import cached_property
from itertools import count
from typing import Any, TypeVar

import psycopg
from psycopg.pq import ConnStatus, DiagnosticField, ExecStatus, Format

from durable_graph.store.texts import Bound

BYTEA = 17  # pg_type.oid. All other types the casts in the SQL name
ChangedT = TypeVar("ChangedT", int, list[int])
_SUCCESS = {ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK}


class Wire(psycopg.Connection[Any]):
    @cached_property
    def _statements(self) -> dict[str, bytes]:
        """Those that this connection has prepared, and their names."""
        return {}

    @cached_property
    def _numbers(self) -> Iterator[int]:
        return count()  # a name is never used twice

    @cached_property
    def _poll(self) -> Any:
        poll = select.poll()
        poll.register(self.pgconn.socket, select.POLLIN)
        return poll

    @cached_property
    def _is_short(self) -> bool:
        """Whether the short way can be taken: not on Windows, nor where text is sent in another encoding, nor where the
        URL forbids prepared statements."""
        return hasattr(select, "poll") and self.info.encoding == "utf-8" and self.prepare_threshold is not None

    @cached_property
    def pipelines(self) -> bool:
        """Whether several statements can be sent at once: not by a libpq before 14."""
        return psycopg.Pipeline.is_supported()

    @cached_property
    def takes_batches(self) -> bool:
        """Whether there is `change_all`."""
        return self.pipelines and self._is_short

    def change(self, sql: str, values: Sequence[Any]) -> int:
        """Execute a statement, in a transaction of its own unless there is one. Returns how many rows it has changed;
        raises psycopg's errors."""
        if not self._is_short:
            return self.execute(sql, values).rowcount
        return self._prepared_anew(self._change, sql, values)

    def change_all(self, sql: str, batch: Sequence[Sequence[Any]]) -> list[int]:
        """One statement with many values, in one round trip and one transaction: how many rows each has changed."""
        return self._prepared_anew(self._change_all, sql, batch)

    def begin(self, statements: Sequence[Bound]) -> list[int]:
        """Open a transaction and execute these in it, in one round trip: how many rows each has changed. To be followed
        by `end`, or by a rollback."""
        if not self.takes_batches:
            with self.pipeline() if self.pipelines else nullcontext():
                self.execute("BEGIN")
                cursors = [self.execute(*statement) for statement in statements]
            return [cursor.rowcount for cursor in cursors]
        try:
            return self._begin(statements)
        except psycopg.errors.InvalidSqlStatementName:
            self.rollback()
            self._statements.clear()
            return self._begin(statements)

    def end(self) -> None:
        """Commit the transaction that `begin` has opened."""
        self.change("COMMIT", ())

    def _prepared_anew(self, change: Callable[[str, Any], ChangedT], sql: str, values: Any) -> ChangedT:
        """Where the server has forgotten what was prepared, as with DEALLOCATE ALL, which psycopg says after a
        rollback, nothing has been executed."""
        try:
            return change(sql, values)
        except psycopg.errors.InvalidSqlStatementName:
            self._statements.clear()
            return change(sql, values)

    def _change(self, sql: str, values: Sequence[Any]) -> int:
        name = self._name(sql, values)
        self.pgconn.send_query_prepared(name, [_sent(value) for value in values], _formats(values))
        return self._outcome()

    def _change_all(self, sql: str, batch: Sequence[Sequence[Any]]) -> list[int]:
        return self._at_once([(sql, values) for values in batch])

    def _begin(self, statements: Sequence[Bound]) -> list[int]:
        return self._at_once([("BEGIN", ()), *statements])[1:]

    def _at_once(self, statements: Sequence[Bound]) -> list[int]:
        pgconn, names = self.pgconn, [self._name(*statement) for statement in statements]
        pgconn.enter_pipeline_mode()
        for name, (_, values) in zip(names, statements, strict=True):
            pgconn.send_query_prepared(name, [_sent(value) for value in values], _formats(values))
        pgconn.pipeline_sync()
        self._flush()
        results = list(self._results_of_pipeline())
        pgconn.exit_pipeline_mode()
        return [_changed(result) for result in results]  # one more if the commit has failed, which raises

    def _results_of_pipeline(self) -> Iterator[Any]:
        while True:
            result = self._result()
            if result is not None and result.status == ExecStatus.PIPELINE_SYNC:
                return
            if result is not None:
                yield result
            elif self.pgconn.status != ConnStatus.OK:
                raise psycopg.OperationalError("the connection was lost in a pipeline")

    def _name(self, sql: str, values: Sequence[Any]) -> bytes:
        return self._statements.get(sql) or self._prepare(sql, values)

    def _prepare(self, sql: str, values: Sequence[Any]) -> bytes:
        name = f"durable_graph_{next(self._numbers)}".encode()
        types = [BYTEA if type(value) is bytes else 0 for value in values]
        self.pgconn.send_prepare(name, _numbered(sql), types)
        self._outcome()
        self._statements[sql] = name
        return name

    def _outcome(self) -> int:
        """Of the one thing that was sent."""
        self._flush()
        results = [*iter(self._result, None)]  # all of them, before anything is raised
        if not results:
            raise psycopg.OperationalError("the connection was lost before the answer came")
        return [_changed(result) for result in results][-1]

    def _flush(self) -> None:
        """Send all of it. What does not fit at once is sent while we read, as the server may do the same."""
        pgconn = self.pgconn
        while pgconn.flush():
            both = select.poll()
            both.register(pgconn.socket, select.POLLIN | select.POLLOUT)
            if any(event & select.POLLIN for _, event in both.poll()):
                pgconn.consume_input()

    def _result(self) -> Any:
        pgconn = self.pgconn
        while pgconn.is_busy():
            self._poll.poll()
            pgconn.consume_input()
        return pgconn.get_result()


def _numbered(sql: str) -> bytes:
    """With $1, $2 ... in place of each %s."""
    first, *rest = sql.split("%s")
    return "".join([first, *(f"${number}{part}" for number, part in enumerate(rest, 1))]).encode()


def _sent(value: Any) -> bytes | None:
    if value is None or type(value) is bytes:
        return value
    return value.encode() if type(value) is str else b"%d" % value


def _formats(values: Sequence[Any]) -> list[Format]:
    return [Format.BINARY if type(value) is bytes else Format.TEXT for value in values]


def _changed(result: Any) -> int:
    if result.status not in _SUCCESS:
        state = (result.error_field(DiagnosticField.SQLSTATE) or b"").decode()
        raise _error_class(state)(result.error_message.decode(errors="replace"))
    return result.command_tuples or 0


def _error_class(state: str) -> type[psycopg.Error]:
    try:
        return psycopg.errors.lookup(state)
    except KeyError:
        return psycopg.DatabaseError
