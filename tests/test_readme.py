"""The README runs: every ```python block, each in an empty folder, and its commands are those of CI.

A block after `<!-- continues -->` goes on in the file of the block before it. A block after `<!-- exits 1, then 0 -->`
is run twice in the same folder, with those exit codes. Lines keep the numbers that they have in the README, so a
traceback points there. Blocks in other languages are not run.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8") if (ROOT / "README.md").exists() else ""
BLOCK = re.compile(r"^(?:<!-- (continues|exits 1, then 0) -->\n+)?```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def scripts() -> dict[str, tuple[str, list[int]]]:
    """The Python programs of the README with their exit codes, by the line that they begin on."""
    found: list[tuple[int, str, list[int]]] = []
    for block in BLOCK.finditer(README):
        remark, language, code = block.groups()
        if language != "python":
            continue
        above = README.count("\n", 0, block.start(3))
        start, script, codes = found.pop() if remark == "continues" else (above + 1, "", [0])
        codes = [1, 0] if remark and remark.startswith("exits") else codes
        found.append((start, script + "\n" * (above - script.count("\n")) + code, codes))
    return {f"line {start}": (script, codes) for start, script, codes in found}


def commands() -> list[str]:
    """The README's commands that set everything up, one to a line."""
    lines = [line.strip().removeprefix("$ ") for line in README.splitlines()]
    return [line for line in lines if line.startswith("python3 -m venv ")]


SCRIPTS = scripts()


def test_there_is_a_readme_with_code() -> None:
    assert SCRIPTS, "README.md is missing or has no ```python block"


@pytest.mark.parametrize(("script", "codes"), SCRIPTS.values(), ids=SCRIPTS.keys())
def test_block_runs(script: str, codes: list[int], tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    (tmp_path / "README.py").write_text(script, encoding="utf-8")
    clean = {name: value for name, value in os.environ.items() if name != "DURABLE_GRAPH_URL"}
    for code in codes:
        done = subprocess.run(
            [sys.executable, "-W", "error", tmp_path / "README.py"],
            cwd=folder, env=clean, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100,
        )  # fmt: skip
        assert done.returncode == code, done.stderr


def test_ci_runs_the_commands_of_the_readme() -> None:
    main_job, tests = commands()
    assert main_job.endswith("python examples/audit_packages.py")
    assert tests.endswith("pytest")
    ci = [line.strip() for line in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()]
    assert main_job in ci
    assert tests in ci


def test_the_table_of_attacks_names_files_that_are_there() -> None:
    table = (ROOT / "tests" / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(\w+\.py)`", table))
    assert len(named) > 25
    assert named <= {file.name for file in (ROOT / "tests").glob("*.py")}
    for law in range(1, 14):
        assert f"\n| {law}. " in table
