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


@pytest.mark.slow
def test_it_puts_its_tables_into_the_document(postgres_server: URL, tmp_path: Path) -> None:
    server, copy = postgres_server.render_as_string(hide_password=False), tmp_path / "scaling.md"
    copy.write_text(DOCUMENT, encoding="utf-8")
    assert scaling.main(["--quick", "--postgres", server, "--document", str(copy)]) == 0
    new = copy.read_text(encoding="utf-8")
    assert "python" in between(new, "circumstances")
    for part in scaling.PARTS:
        then, now = (table(each, part.__name__) for each in (DOCUMENT, new))
        assert len(now) > 2
        assert len({line.count("|") for line in now}) == 1
        names = [[name for name in columns(each[0]) if not name[0].isdigit()] for each in (then, now)]
        assert names[0] == names[1]  # backlogs are fewer in the short form


def between(text: str, name: str) -> str:
    return text.partition(f"<!-- {name} -->\n")[2].partition("<!-- end -->")[0]


def table(text: str, name: str) -> list[str]:
    return [line for line in between(text, name).splitlines() if line.startswith("|")]


def columns(line: str) -> list[str]:
    return [name.strip() for name in line.split("|") if name.strip()]


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
