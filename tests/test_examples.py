"""Every example as a person starts it: a program of its own, in an empty folder."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from durable_graph import Log, StreamEvent

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
AUDIT = EXAMPLES / "audit_packages.py"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def command(example: str | Path, *arguments: str | Path) -> list[str]:
    return [sys.executable, "-W", "error", str(EXAMPLES / example), *map(str, arguments)]


def environment() -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if name != "DURABLE_GRAPH_URL"}
    return {**clean, "PYTHONPATH": str(ROOT)}


def start(folder: Path, example: str | Path, *arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(example, *arguments),
        cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def run(folder: Path, example: str | Path, *arguments: str | Path, given: str = "", code: int = 0) -> str:
    done = subprocess.run(
        command(example, *arguments), cwd=folder, env=environment(), input=given, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (code, "")
    return done.stdout


def read(process: subprocess.Popen[str], lines: int) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline() for _ in range(lines)]


def end(process: subprocess.Popen[str], number: signal.Signals) -> tuple[str, str]:
    """Its remaining output, after this signal."""
    process.send_signal(number)
    return process.communicate(timeout=60)


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Programs started in the background of a shell may ignore Ctrl-C; those started here must not."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_each_example_is_tested_here() -> None:
    tested = {"audit_packages.py", "chat.py", "dask_cluster.py", "follow.py", "order.py", "word_map.py"}
    assert {path.name for path in EXAMPLES.glob("*.py")} == tested


# --- audit_packages -----------------------------------------------------------------------------


def install(site: Path, name: str, files: dict[str, bytes]) -> None:
    """A distribution, as pip leaves it."""
    info = f"{name}-1.0.dist-info"
    record = [f"{info}/RECORD,,", f"{name}/__pycache__/gone.pyc,,"]
    for path, content in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_bytes(content)
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
        record.append(f'"{path}",sha256={digest},{len(content)}')
    (site / info).mkdir(parents=True)
    (site / info / "RECORD").write_text("\n".join(record), encoding="utf-8")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Six sound distributions, one without a RECORD, and what is no distribution."""
    site = tmp_path / "site-packages"
    for name in ("ant", "bee", "cat", "dog", "eel", "fox"):
        install(
            site, name, {f"{name}/__init__.py": b"", f"{name}/a, b.py": b"content", f"{name}/big.bin": bytes(99_999)}
        )
    (site / "gnu-1.0.dist-info").mkdir()
    (site / "loose.py").touch()
    return site


def audits(url: str, site: Path) -> dict[int, StreamEvent]:
    """The log's steps of the audit, with what they found."""
    with Log(url) as log:
        events = log.replay({"thread_id": f"audit of {site}"}, stream_mode="events")
        return {event.step: event for event in events if event.node == "audit"}


def test_audit_of_a_sound_environment(folder: Path, site: Path) -> None:
    told = run(folder, AUDIT, "--path", site)
    assert "[1/7] ant-1.0: 3 files, ok\n" in told
    assert "[7/7] gnu-1.0: no RECORD\n" in told
    assert told.endswith("18 files checked, 0 findings\n1 distributions have no RECORD and were not checked\n")


def test_audit_finds_what_was_altered_or_is_missing(folder: Path, site: Path, database_url: str) -> None:
    (site / "bee/a, b.py").write_bytes(b"CONTENT")
    (site / "dog/big.bin").write_bytes(b"short")
    (site / "dog/__init__.py").unlink()
    (site / "fox-1.0.dist-info/RECORD").write_bytes(b"\xff")
    told = run(folder, AUDIT, "--path", site, "--url", database_url, code=1)
    found = re.findall(r"^step (\d+): (.*)$", told, re.MULTILINE)
    assert [finding for _, finding in found] == [
        "bee-1.0: 'bee/a, b.py' is altered: same size, other content",
        "dog-1.0: 'dog/__init__.py' is missing",
        "dog-1.0: 'dog/big.bin' is altered: 5 bytes instead of 99999",
        "fox-1.0: its RECORD cannot be read: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte",
    ]
    steps = audits(database_url, site)
    for step, finding in found:
        assert finding.partition(": ")[2] in steps[int(step)].update["findings"]
    assert told.endswith("15 files checked, 4 findings\n1 distributions have no RECORD and were not checked\n")


def test_audit_that_is_done_shows_its_report_until_asked_for_a_new_one(folder: Path, site: Path) -> None:
    run(folder, AUDIT, "--path", site)
    (site / "cat/__init__.py").unlink()
    told = run(folder, AUDIT, "--path", site)
    assert told.startswith("Done before")
    assert "18 files checked, 0 findings" in told
    told = run(folder, AUDIT, "--path", site, "--again", code=1)
    assert "cat-1.0: 'cat/__init__.py' is missing\n18 files checked, 1 findings" in told
    assert "1 findings" in run(folder, AUDIT, "--path", site, code=1)


@pytest.fixture
def large_site(tmp_path: Path) -> tuple[Path, int]:
    """More distributions, with longer names, than the pipe we read from can hold: who does not read stops the audit."""
    site, number = tmp_path / "site-packages", 500
    for each in range(number):
        install(site, f"d{each:04}_{'x' * 180}", {f"{each}.py": b"content"})
    (site / "3.py").write_bytes(b"CONTENT")
    (site / "444.py").unlink()
    return site, number


def check_large(told: str, site: Path, number: int, url: str) -> None:
    """Every distribution was audited in one step, and the findings are right, whatever happened in between."""
    steps = audits(url, site)
    assert [event.update["done"] for event in steps.values()] == list(range(1, number + 1))
    found = dict(re.findall(r"^step (\d+): d(\d+)_.*$", told, re.MULTILINE))
    assert list(found.values()) == ["0003", "0444"]
    assert [len(steps[int(step)].update["findings"]) for step in found] == [1, 1]
    assert told.endswith(f"{number} files checked, 2 findings\n")


def test_audit_that_is_killed_goes_on_where_it_was(
    folder: Path, large_site: tuple[Path, int], database_url: str
) -> None:
    site, number = large_site
    seen = 0
    for lines in (1, 20, 4):
        process = start(folder, AUDIT, "--path", site, "--url", database_url)
        for line in read(process, lines):
            place = int(line[1:].partition("/")[0])
            assert place > seen  # and not one of those again
            seen = place
        end(process, signal.SIGKILL)
    told = run(folder, AUDIT, "--path", site, "--url", database_url, code=1)
    check_large(told, site, number, database_url)


@pytest.mark.usefixtures("ctrl_c")
def test_audit_that_is_stopped_goes_on_where_it_was(
    folder: Path, large_site: tuple[Path, int], sqlite_url: str
) -> None:
    site, number = large_site
    process = start(folder, AUDIT, "--path", site, "--url", sqlite_url)
    read(process, 10)
    told, errors = end(process, signal.SIGINT)
    assert (process.returncode, errors) == (130, "")
    assert told.endswith("\nStopped. The same command goes on from here.\n")
    with Log(sqlite_url) as log:
        assert [thread.status for thread in log.threads()] == ["pending"]
    check_large(run(folder, AUDIT, "--path", site, "--url", sqlite_url, code=1), site, number, sqlite_url)


def test_audit_keeps_its_rows_and_its_state_small(folder: Path, large_site: tuple[Path, int], sqlite_url: str) -> None:
    site, _ = large_site
    run(folder, AUDIT, "--path", site, "--url", sqlite_url, code=1)
    for event in audits(sqlite_url, site).values():
        assert set(event.update) == {"done", "files", "findings"}
        assert set(event.values) == {"folders", "todo", "done", "files", "findings"}
        assert len(event.values["findings"]) <= 1


def test_audit_says_what_it_cannot_do(folder: Path, site: Path) -> None:
    for path, url in ((folder / "nowhere", "sqlite:///runs.db"), (site, "sqlite:////nowhere/runs.db")):
        process = start(folder, AUDIT, "--path", path, "--url", url)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 2
        assert "error: " in errors
        assert "Traceback" not in errors


# --- the others ---------------------------------------------------------------------------------


def test_chat_remembers(folder: Path) -> None:
    assert run(folder, "chat.py", "My name is ada", "Who am I?") == "Hello Ada!\nYou are Ada.\n"
    assert run(folder, "chat.py", given="Who am I?\nWhat did I say first?\n") == (
        "(So far 4 messages.)\n> You are Ada.\n> You began with 'My name is ada'.\n> \n"
    )
    assert run(folder, "chat.py", "--thread", "other", "Who am I?") == "You have not told me.\n"


def test_word_map_counts_exactly_and_only_once(folder: Path, tmp_path: Path) -> None:
    sources = tmp_path / "sources"
    sources.mkdir()
    for number in range(60):
        (sources / f"{number}.py").write_text("alpha = beta  # alpha\nif alpha:\n    return gamma\n")
    told = run(folder, "word_map.py", "--path", sources)
    assert told.count("counted 25 files") == 3
    result = "     180  alpha\n      60  beta\n      60  gamma\n"  # and no keywords
    assert told.endswith(result)
    assert run(folder, "word_map.py", "--path", sources) == result


def test_word_map_of_the_standard_library(folder: Path) -> None:
    assert re.search(r"^ +\d{4,}  self$", run(folder, "word_map.py"), re.MULTILINE)


def test_order_breaks_goes_on_and_is_told_again(folder: Path) -> None:
    first, second = run(folder, "order.py").split("Second stream:\n")
    assert "{'charge': " in first
    assert first.endswith("Left after the charge. Next would be: pack\n")
    told = re.findall(r"^ +step (\d+)  \S+  (\w+) +(\w*)$", second, re.MULTILINE)
    assert told == [
        ("0", "input", ""),
        ("1", "task", "price"),
        ("2", "task", "charge"),
        ("3", "resume", ""),
        ("4", "task", "pack"),
        ("5", "task", "ship"),
    ]
    assert second.endswith("Intact: True, 6 rows. Journal: ['priced', 'charged', 'packed', 'shipped']\n")


def test_follow_shows_what_another_process_does(folder: Path) -> None:
    told = run(folder, "follow.py").splitlines()
    assert told[0] == "step 0: input -> {'station': 0}"
    assert told[1:] == [f"step {n}: travel -> {{'station': {n}}}" for n in range(1, 11)]


def test_dask_cluster_counts_each_part_once(folder: Path) -> None:
    pytest.importorskip("distributed")
    told = run(folder, "dask_cluster.py").splitlines()
    assert len(told) == 20 + 1
    assert told[-1] == "9592 prime numbers"
    assert run(folder, "dask_cluster.py").splitlines() == told[-1:]
