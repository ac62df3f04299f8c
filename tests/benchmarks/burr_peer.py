"""Burr: a state machine, with or without its SQLite persister as it comes, which does not use WAL."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from burr.core import ApplicationBuilder, State, action, default, expr
from burr.core.persistence import SQLitePersister

from tests.benchmarks.measure import Steps
from tests.benchmarks.works import Work


@action(reads=["n"], writes=["n"])
def count(state: State) -> State:
    return state.update(n=state["n"] + 1)


@action(reads=[], writes=[])
def end(state: State) -> State:
    return state


def steps(work: Work, file: Path | None = None) -> Steps:
    """The work has to be `counter`."""
    values: dict[str, Any] = {}
    builder = ApplicationBuilder().with_actions(count=count, end=end).with_identifiers(app_id="a")
    builder = builder.with_transitions(("count", "count", expr(f"n < {work.events}")), ("count", "end", default))
    builder = builder.with_entrypoint("count").with_state(**work.input)
    with ExitStack() as stack:
        if file is not None:
            persister = stack.enter_context(SQLitePersister(str(file)))
            persister.initialize()
            builder = builder.with_state_persister(persister)
        application = builder.build()
        yield
        for _, _, state in application.iterate(halt_before=["end"]):
            values["n"] = state["n"]
            yield
        work.check(values)
    return {}
