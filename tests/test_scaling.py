"""The simulation behind examples/scaling.md runs, and the document says of it what is there. No figure is tested."""

from __future__ import annotations

import inspect
from collections import Counter
from pathlib import Path

import pytest
from sqlalchemy import URL

from tests.benchmarks import scaling

DOCUMENT = (Path(__file__).parent.parent / "examples" / "scaling.md").read_text(encoding="utf-8")
NAMES = [f"order-{number}" for number in range(3000)]


def test_it_prints_the_tables_that_the_document_quotes(
    postgres_server: URL, capsys: pytest.CaptureFixture[str]
) -> None:
    server = postgres_server.render_as_string(hide_password=False)
    assert scaling.main(["--quick", "--postgres", server]) == 0
    told = capsys.readouterr().out
    headings = [line for line in told.splitlines() if line.startswith("| ") and "---" not in line]
    tables = [block.splitlines() for block in told.split("\n\n") if block.startswith("| ")]
    assert len(tables) == 6
    for lines in tables:
        assert len(lines) > 2
        assert len({line.count("|") for line in lines}) == 1
        columns = [each.strip() for each in lines[0].split("|") if each.strip()]
        missing = [column for column in columns if not column[0].isdigit() and column not in DOCUMENT]
        assert not missing, headings


def test_the_document_shows_the_function_that_was_run() -> None:
    assert inspect.getsource(scaling.home) in DOCUMENT


def test_threads_are_spread_evenly_and_stay_where_they_are() -> None:
    few, more = ["a", "b", "c"], ["a", "b", "c", "d"]
    share = Counter(scaling.home(name, few) for name in NAMES)
    assert all(800 < share[name] < 1200 for name in few)  # 26 is one standard deviation
    moved = [name for name in NAMES if scaling.home(name, few) != scaling.home(name, more)]
    assert 550 < len(moved) < 950
    assert {scaling.home(name, more) for name in moved} == {"d"}
    assert [scaling.home(name, few[::-1]) for name in NAMES] == [scaling.home(name, few) for name in NAMES]
