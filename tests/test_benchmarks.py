"""The benchmark runs: each contest ends in its own check, and the table has a line for each."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_16_its_overhead_is_measured() -> None:
    command = [sys.executable, "-m", "tests.benchmarks", "--rounds", "1", "--steps", "50"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for contest in ("counter, SQLite FULL", "counter, SQLite NORMAL", "counter, Postgres", "no checkpointer"):
        assert contest in done.stdout
