"""What is said to a database: each statement once, for SQLite and Postgres, made from the tables.

The rule: no program needs this to run. Importing SQLAlchemy takes longer than opening a database and committing the
first rows, so the texts stand ready in `sqlite.sql` and `postgresql.sql`, from where `texts.py` takes them. After a
change here or of the tables write them again:

    python -m durable_graph.store.statements

`tests/test_statements.py` fails until that is done. A statement of which there are more forms than the files hold is
made from here when it is first needed.

A parameter has the name of its column, or is `after`, `until`, `count`, `bytes` or `now`; in a change of a thread's row
the new values have `new_` before their names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import (
    CTE,
    BigInteger,
    BindParameter,
    Column,
    ColumnElement,
    Integer,
    LargeBinary,
    Select,
    Table,
    Text,
    bindparam,
    case,
    delete,
    exists,
    func,
    literal_column,
    null,
    or_,
    select,
    tuple_,
    union_all,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.sql import ClauseElement

from durable_graph.store.tables import cache as kept
from durable_graph.store.tables import checkpoints, creation, metadata, signals, snapshots, stubs, threads
from durable_graph.store.texts import MARKS, file_of, full_name

_BACK = ("lease_expires_at", "lease_owner", "lease_since", "status", "updated_at", "wake_at")  # a lease is given back
_TAKEN = (*_BACK, "epoch", "fingerprint", "graph", "queue")
FORMS: dict[str, Sequence[Sequence[str]]] = {  # of the statements that have several, those that the files hold
    "change_thread": (_BACK, _TAKEN, (*_BACK, "epoch"), ("metadata", "updated_at")),
    "delete": [(name,) for name in ("threads", "checkpoints", "snapshots", "stubs", "signals")],
    "new_thread": [tuple(column.name for column in threads.c if column.name != "thread_id")],
    "renew": [("1",), ("2",), ("4",), ("8",), ("16",)],
    "trim": [("checkpoints",), ("snapshots",)],
    "threads": [
        *[(), ("graph",), ("status",), ("graph", "status")],
        *[("2",), ("4",), ("8",), ("graph", "2"), ("graph", "4"), ("graph", "8")],
    ],
    "held": [(), ("thread_id",)],
}


class Statements:
    """Every statement for one database. A method's arguments are texts, as they come out of a statement's name."""

    def __init__(self, backend: str) -> None:
        self._is_postgres = backend == "postgresql"
        self._insert = postgresql.insert if self._is_postgres else sqlite.insert
        # Named parameters: `texts.py` puts in their place the marks that the driver wants.
        dialect = PGDialect_psycopg if self._is_postgres else sqlite.dialect
        self._dialect = dialect(paramstyle="named")

    def text(self, name: str) -> str:
        """By its name, with arguments if it has forms: "thread", "renew(4)"."""
        method, _, arguments = name.removesuffix(")").partition("(")
        statement: ClauseElement = getattr(self, method)(*filter(None, arguments.split(", ")))
        compiled = statement.compile(dialect=self._dialect)
        text = _tidy(str(compiled))
        for own, value in compiled.params.items():  # SQLAlchemy's own, such as OFFSET 0
            if value is not None:
                text = re.sub(rf":{own}\b", str(int(value)), text)
        return text

    # --- the log

    def append(self) -> ClauseElement:
        """The row, if its thread has its epoch. FOR SHARE, which only Postgres needs and gets, lets a claim wait for
        appends under way, so that none of them commits after it."""
        return self._append_if()

    def append_fork(self) -> ClauseElement:
        """The same, if the step that it continues has not been pruned."""
        origin, begun = checkpoints.alias("origin"), _number("parent_step")
        name = bindparam("origin", type_=Text())
        there = exists().where(origin.c.thread_id == name, origin.c.step == begun)
        return self._append_if(there, ~exists().where(stubs.c.thread_id == name, stubs.c.step > begun))

    def _append_if(self, *also: ColumnElement[bool]) -> ClauseElement:
        row = [bindparam(column.name, type_=column.type) for column in checkpoints.c]
        fenced = select(*row).select_from(threads).where(_is(threads.c.thread_id), _is(threads.c.epoch), *also)
        insert = self._insert(checkpoints).from_select(list(checkpoints.c), fenced.with_for_update(read=True))
        return insert.on_conflict_do_nothing()

    def rows(self) -> ClauseElement:
        return self._page(newest_first=False)

    def newest_rows(self) -> ClauseElement:
        return self._page(newest_first=True)

    def bodies(self) -> ClauseElement:
        return self._page(newest_first=False, columns=("step", "parent_step", "kind", "body"))

    def _page(self, *, newest_first: bool, columns: Sequence[str] = ()) -> ClauseElement:
        thread_id, step = checkpoints.c.thread_id, checkpoints.c.step
        wanted = [checkpoints.c[name] for name in columns] or checkpoints.c
        page = select(*wanted).where(_is(thread_id), step > _number("after"), step <= _number("until"))
        page = page.order_by(step.desc() if newest_first else step).limit(_number("count"))
        return _within_bytes(page, newest_first=newest_first) if self._is_postgres else page

    def hash(self) -> ClauseElement:
        return select(checkpoints.c.hash).where(_is(checkpoints.c.thread_id), _is(checkpoints.c.step))

    def restore_row(self) -> ClauseElement:
        return self._insert(checkpoints)

    def put_snapshot(self) -> ClauseElement:
        insert = self._insert(snapshots)
        key = list(snapshots.primary_key)
        return insert.on_conflict_do_update(index_elements=key, set_={"state": insert.excluded.state})

    def snapshot(self) -> ClauseElement:
        found = snapshots.c
        newest = select(found.step, found.state).order_by(found.step.desc()).limit(1)
        return newest.where(_is(found.thread_id), found.step <= _number("until"))

    def delete(self, table: str) -> ClauseElement:
        return delete(metadata.tables[table]).where(_is(metadata.tables[table].c.thread_id))

    # --- threads

    def thread(self) -> ClauseElement:
        return select(threads).where(_is(threads.c.thread_id))

    def new_thread(self, *columns: str) -> ClauseElement:
        return self._insert(threads).values(_new("thread_id", *columns)).on_conflict_do_nothing()

    def change_thread(self, *columns: str) -> ClauseElement:
        seen = _is(threads.c.thread_id), _is(threads.c.epoch)
        return update(threads).where(*seen).values(_new(*columns))

    def renew(self, number: str) -> ClauseElement:
        def one_of(column: Column[Any], name: str) -> ColumnElement[bool]:
            return column.in_([bindparam(f"{name}_{place}", type_=column.type) for place in range(int(number))])

        held = one_of(threads.c.thread_id, "thread"), one_of(threads.c.lease_owner, "owner")
        return update(threads).where(*held).values(_new("lease_expires_at"))

    def restore_thread(self) -> ClauseElement:
        return self._insert(threads).on_conflict_do_nothing()

    def called(self) -> ClauseElement:
        """The threads that a thread called, and those that they called."""
        calls = select(threads.c.thread_id).where(threads.c.called_by == bindparam("thread_id", type_=Text()))
        below = calls.cte("below", recursive=True)
        deeper = select(threads.c.thread_id).join(below, threads.c.called_by == below.c.thread_id)
        return select(below.union(deeper).c.thread_id)

    def threads(self, *form: str) -> ClauseElement:
        """The columns in the form have to have values; a number: that many statuses. For each of these the index gives
        the newest threads, and of all of them the newest are taken: one look at each status, whatever there is."""
        of_graph = [_is(threads.c.graph)] if "graph" in form else []
        numbers = [int(name) for name in form if name.isdigit()]
        if not numbers:
            return self._newest(*of_graph, *([_is(threads.c.status)] if "status" in form else []))
        names = [f"status_{place}" for place in range(numbers[0])]
        parts = [
            select(self._newest(*of_graph, threads.c.status == bindparam(name, type_=Text())).subquery())
            for name in names
        ]
        every = union_all(*parts).subquery()
        order = every.c.updated_at.desc(), every.c.thread_id.desc()
        return select(every).order_by(*order).limit(_number("count"))

    def _newest(self, *wanted: ColumnElement[bool]) -> Select[Any]:
        at, name = threads.c.updated_at, threads.c.thread_id
        behind = tuple_(at, name) < tuple_(*(bindparam(each.name, type_=each.type) for each in (at, name)))
        between = at > bindparam("since", type_=Text()), at < bindparam("before", type_=Text())
        page = select(threads).where(*wanted, *between, behind)
        return page.order_by(at.desc(), name.desc()).limit(_number("count"))

    def oldest(self) -> ClauseElement:
        status, graph, at, name = (threads.c[each] for each in ("status", "graph", "updated_at", "thread_id"))
        behind = tuple_(at, name) > tuple_(*(bindparam(each.name, type_=each.type) for each in (at, name)))
        page = select(threads).where(_is(status), _is(graph), behind).order_by(at, name)
        return page.limit(_number("count"))

    # --- what is pruned

    def _family(self) -> CTE:
        """A thread and all that were called below it."""
        family = select(threads.c.thread_id).where(_is(threads.c.thread_id)).cte("family", recursive=True)
        deeper = select(threads.c.thread_id).join(family, threads.c.called_by == family.c.thread_id)
        return family.union(deeper)

    def family(self) -> ClauseElement:
        return select(self._family().c.thread_id)

    def forks(self) -> ClauseElement:
        family, found = self._family(), threads.c
        inside = select(family.c.thread_id)
        forks = select(found.thread_id, found.parent_thread_id, found.parent_step)
        return forks.where(found.parent_thread_id.in_(inside), found.thread_id.not_in(inside))

    def roots(self) -> ClauseElement:
        at, name = threads.c.updated_at, threads.c.thread_id
        behind = tuple_(at, name) > tuple_(*(bindparam(each.name, type_=each.type) for each in (at, name)))
        wanted = threads.c.called_by.is_(None), at < bindparam("before", type_=Text()), behind
        return select(threads).where(*wanted).order_by(at, name).limit(_number("count"))

    def size(self) -> ClauseElement:
        """Of a thread and all below it: threads, rows, bytes."""
        inside = select(self._family().c.thread_id)

        def total(content: Column[Any]) -> ColumnElement[Any]:
            size = func.coalesce(func.sum(func.length(content)), 0)
            return select(size).where(content.table.c.thread_id.in_(inside)).scalar_subquery()

        def count(table: Table) -> ColumnElement[Any]:
            return select(func.count()).where(table.c.thread_id.in_(inside)).scalar_subquery()

        held = [total(content) for content in (snapshots.c.state, stubs.c.state, signals.c.value)]
        return select(count(threads), count(checkpoints), sum(held, total(checkpoints.c.body)))

    def size_before(self) -> ClauseElement:
        """The same of a thread's own rows before a step."""

        def total(content: Column[Any], value: ColumnElement[Any]) -> ColumnElement[Any]:
            found = content.table.c
            before = select(func.coalesce(value, 0)).where(_is(found.thread_id), found.step < _number("until"))
            return before.scalar_subquery()

        rows, kept = checkpoints.c.body, snapshots.c.state
        held = total(rows, func.sum(func.length(rows))) + total(kept, func.sum(func.length(kept)))
        return select(literal_column("0"), total(rows, func.count()), held)

    def lock(self) -> ClauseElement:
        """Others that want to change this thread's row, or to append, have to wait for the commit."""
        return update(threads).where(_is(threads.c.thread_id)).values(epoch=threads.c.epoch)

    def next_epoch(self) -> ClauseElement:
        return (
            update(threads)
            .where(_is(threads.c.thread_id), _is(threads.c.epoch))
            .values(epoch=bindparam("next_epoch", type_=BigInteger()))
        )

    def no_fork(self) -> ClauseElement:
        none = {"parent_thread_id": null(), "parent_step": null()}
        return update(threads).where(_is(threads.c.thread_id)).values(none)

    def stub(self) -> ClauseElement:
        return select(stubs).where(_is(stubs.c.thread_id))

    def put_stub(self) -> ClauseElement:
        insert = self._insert(stubs)
        new = {column.name: insert.excluded[column.name] for column in stubs.c if column.name != "thread_id"}
        return insert.on_conflict_do_update(index_elements=list(stubs.primary_key), set_=new)

    def trim(self, table: str) -> ClauseElement:
        """Only what a stub stands for."""
        found = metadata.tables[table].c
        stands_for = select(stubs.c.step).where(_is(stubs.c.thread_id)).scalar_subquery()
        old = found.step < _number("until"), found.step < stands_for
        return delete(metadata.tables[table]).where(_is(found.thread_id), *old)

    def held(self, thread_id: str = "") -> ClauseElement:
        """Bytes of snapshots, stubs, signals and, of all threads, the cache."""

        def total(content: Column[Any]) -> ColumnElement[Any]:
            size = select(func.coalesce(func.sum(func.length(content)), 0))
            return (size.where(_is(content.table.c.thread_id)) if thread_id else size).scalar_subquery()

        values = [total(content) for content in (snapshots.c.state, stubs.c.state, signals.c.value)]
        return select(*values, literal_column("0") if thread_id else total(kept.c.value))

    # --- signals

    def send(self) -> ClauseElement:
        return self._insert(signals).on_conflict_do_nothing()

    def signals(self) -> ClauseElement:
        return select(signals).where(_is(signals.c.thread_id)).order_by(signals.c.id)

    def signalled(self) -> ClauseElement:
        thread_id, name = signals.c.thread_id, signals.c.name
        return select(thread_id, name, func.max(signals.c.id)).group_by(thread_id, name).order_by(thread_id, name)

    def take_signal(self) -> ClauseElement:
        return delete(signals).where(_is(signals.c.thread_id), _is(signals.c.id))

    # --- every value

    def heads(self) -> ClauseElement:
        """How many values begin with a mark and then with the same; the others together."""
        columns = (checkpoints.c.body, snapshots.c.state, stubs.c.state, signals.c.value, kept.c.value)
        mark = bindparam("mark", type_=LargeBinary())
        size, length = bindparam("size", type_=Integer()), bindparam("length", type_=Integer())
        heads = [
            select(case((func.substr(column, 1, size) == mark, func.substr(column, 1, length))).label("head"))
            for column in columns
        ]
        every = union_all(*heads).subquery()
        return select(every.c.head, func.count()).group_by(every.c.head)

    # --- the cache

    def recall(self) -> ClauseElement:
        fresh = or_(kept.c.expires_at.is_(None), kept.c.expires_at > _now())
        return select(kept.c.value).where(_is(kept.c.namespace), _is(kept.c.key), fresh)

    def keep(self) -> ClauseElement:
        insert = self._insert(kept)
        new = {"value": insert.excluded.value, "expires_at": insert.excluded.expires_at}
        return insert.on_conflict_do_update(index_elements=list(kept.primary_key), set_=new)

    def purge(self) -> ClauseElement:
        """A few of those that have expired, oldest first; on Postgres not those that somebody is just replacing."""
        expired = select(kept.c.namespace, kept.c.key).where(kept.c.expires_at <= _now())
        expired = expired.order_by(kept.c.expires_at).limit(_number("count")).with_for_update(skip_locked=True)
        return delete(kept).where(tuple_(kept.c.namespace, kept.c.key).in_(expired))

    def forget(self) -> ClauseElement:
        return delete(kept).where(_is(kept.c.namespace))

    def forget_all(self) -> ClauseElement:
        return delete(kept)


def _within_bytes(page: Select[Any], *, newest_first: bool) -> Select[Any]:
    """Postgres sends a whole result at once, so the result itself has to end at so many bytes. SQLite hands out one row
    after the other, and would read 40 times as long for this."""
    rows = page.subquery()
    order = rows.c.step.desc() if newest_first else rows.c.step
    before = func.sum(func.octet_length(rows.c.body)).over(order_by=order, rows=(None, -1))
    sized = select(rows, func.coalesce(before, 0).label("before")).subquery()
    order = sized.c.step.desc() if newest_first else sized.c.step
    columns = [sized.c[column.name] for column in page.selected_columns]
    return select(*columns).where(sized.c.before < _number("bytes")).order_by(order)


def _is(column: Column[Any]) -> ColumnElement[bool]:
    return column == bindparam(column.name, type_=column.type)


def _new(*columns: str) -> dict[str, BindParameter[Any]]:
    return {name: bindparam(f"new_{name}", type_=threads.c[name].type) for name in columns}


def _now() -> BindParameter[str]:
    return bindparam("now", type_=Text())


def _number(name: str) -> BindParameter[int]:
    return bindparam(name, type_=BigInteger())


# --- the files --------------------------------------------------------------------------------


def made(backend: str, name: str) -> str:
    """The text of one statement."""
    return Statements(backend).text(name)


def names() -> Iterator[str]:
    """Of all statements that the files hold."""
    for method in vars(Statements):
        if not method.startswith("_") and method != "text":
            for form in FORMS.get(method, [()]):
                yield full_name(method, form)


def written(backend: str) -> str:
    """What the file of these statements holds."""
    parts = {name: made(backend, name) for name in names()}
    if backend == "sqlite":  # on Postgres it is for operators to make the tables
        parts["creation"] = ";\n".join(map(_tidy, creation(sqlite.dialect())))
    head = "-- Written by `python -m durable_graph.store.statements`: not to be changed here.\n"
    return head + "".join(f"\n-- name: {name}\n{text};\n" for name, text in parts.items())


def _tidy(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().expandtabs(4).splitlines())


if __name__ == "__main__":
    for backend in MARKS:
        file_of(backend).write_text(written(backend), encoding="utf-8")
