"""The soak script, for a few seconds; and that it would tell."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from conftest import ROOT
from sqlalchemy import make_url

from tests import soak
from tests.soak import INPUT, count, drawn


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize("seconds", [2, pytest.param(30, marks=[pytest.mark.slow, pytest.mark.timeout(300)])])
def test_nothing_is_lost_doubled_or_forked(database_url: str, seconds: int) -> None:
    command = [sys.executable, "-m", "tests.soak", "--minutes", f"{seconds / 60}", "--url", database_url]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert done.stdout.endswith("lost 0, doubled 0, forked 0\n")
    deaths = int(done.stdout.split()[0])
    assert deaths >= 4, "hardly anything was killed: this has shown nothing"


@pytest.fixture
def lived(tmp_path: Path, sqlite_url: str) -> tuple[str, Path]:
    """A database with two threads that ended well, and the journal of what was called and seen."""
    life = soak.Soak(sqlite_url, tmp_path, rng=random.Random(1))
    life.prepare()
    journal = os.open(life.journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    with drawn(journal).compile(sqlite_url, name="soak") as graph:
        for name in ("t0", "t1"):
            for event in graph.stream(INPUT, {"thread_id": name}, stream_mode="events"):
                os.write(journal, (json.dumps({"thread": name, "seen": event.step}) + "\n").encode())
    os.close(journal)
    return sqlite_url, life.journal


def test_what_is_well_is_well(lived: tuple[str, Path]) -> None:
    found = count(*lived)
    assert (found.ok, found.threads) == (True, 2 * (1 + soak.ROUNDS))


DAMAGE = {
    "the last row": ("lost", "DELETE FROM checkpoints WHERE thread_id = 't0' AND kind = 'task' AND node = 'end'"),
    "a row": ("forked", "DELETE FROM checkpoints WHERE thread_id = 't0' AND step = 4"),
    "a payment": ("lost", "DELETE FROM payments WHERE thread = 't1' AND what = 'round 2'"),
    "a second payment": ("doubled", "INSERT INTO payments VALUES ('t1', 'round 2')"),
    "another parent": ("forked", "UPDATE checkpoints SET parent_step = 2 WHERE thread_id = 't0' AND step = 5"),
    "a second row": ("doubled", "UPDATE checkpoints SET task = (SELECT min(task) FROM checkpoints) WHERE step = 3"),
    "a lease": ("lost", "UPDATE threads SET lease_owner = 'me' WHERE thread_id = 't1'"),
    "the whole thread": ("lost", "DELETE FROM checkpoints WHERE thread_id = 't0'"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_the_count_tells(lived: tuple[str, Path], damage: str) -> None:
    kind, statement = DAMAGE[damage]
    with closing(sqlite3.connect(make_url(lived[0]).database or "", isolation_level=None)) as connection:
        connection.execute(statement)
    found = count(*lived)
    assert getattr(found, kind), found
    assert not found.ok


def test_the_count_tells_of_a_call_after_its_row(lived: tuple[str, Path]) -> None:
    url, journal = lived
    first = next(line for line in map(json.loads, journal.read_text().splitlines()) if "at" in line)
    with journal.open("a") as file:
        file.write(json.dumps({**first, "at": first["at"] + 3600}) + "\n")
    assert [found.rpartition(" ")[0] for found in count(url, journal).doubled] == [
        f"t0: task {first['task']} was called after its"
    ]
