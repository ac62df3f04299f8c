"""Audit every Python distribution installed here against its own RECORD: what was altered, and what is missing?

    python examples/audit_packages.py                  the environment of this python
    python examples/audit_packages.py --path FOLDER    another one's site-packages
    python examples/audit_packages.py --again          a new audit, on the same thread

One distribution is one step. Stop it at any moment, with Ctrl-C or kill -9, and run the same command again: it goes on
where it was, and its report names the step that each finding comes from. When all is done, the same command shows the
report again, from the log. Try `durable-graph threads`, and `durable-graph replay "audit of ..."`.

Exit code: 0 if nothing was found, 1 if something was, 2 if it could not work, 130 if it was stopped.
"""

from __future__ import annotations

import argparse
import base64
import csv
import hashlib
import sys
from pathlib import Path
from typing import TypedDict

from durable_graph import END, START, CompiledGraph, DurableGraphError, StateGraph


class Audit(TypedDict, total=False):
    folders: list[str]  # where distributions are installed
    todo: list[str]  # their metadata folders, in order
    done: int  # how many of them
    files: int | None  # checked in the newest one; None: it has no RECORD
    findings: list[str]  # in the newest one; those of the others are in the log


def plan(state: Audit) -> Audit:
    found = {info.resolve() for folder in state["folders"] for info in Path(folder).glob("*.dist-info")}
    return {"todo": [str(info) for info in sorted(found)], "done": 0}


def audit(state: Audit) -> Audit:
    info = Path(state["todo"][state["done"]])
    files, findings = audit_one(info / "RECORD") if (info / "RECORD").is_file() else (None, [])
    return {"done": state["done"] + 1, "files": files, "findings": findings}


def more(state: Audit) -> str:
    return "audit" if state["done"] < len(state["todo"]) else END


builder = StateGraph(Audit).add_node(plan).add_node(audit)
builder.add_edge(START, "plan").add_conditional_edges("plan", more).add_conditional_edges("audit", more)


def audit_one(record: Path) -> tuple[int, list[str]]:
    """How many files a RECORD vouches for, and what is wrong with them."""
    try:
        rows = list(csv.reader(record.read_text(encoding="utf-8").splitlines()))
    except (OSError, ValueError, csv.Error) as error:
        return 0, [f"its RECORD cannot be read: {error}"]
    rows = [row for row in rows if len(row) == 3 and row[1]]  # no hash: RECORD itself, and what Python has compiled
    checked = [(name, check(record.parents[1] / name, checksum, size)) for name, checksum, size in rows]
    return len(rows), [f"{name!r} {problem}" for name, problem in checked if problem]


def check(file: Path, checksum: str, size: str) -> str | None:
    """What is wrong with a file that should have this checksum, written as "sha256=...", and size."""
    algorithm, _, expected = checksum.partition("=")
    try:
        if not file.is_file():
            return "is missing"
        if size and file.stat().st_size != int(size):
            return f"is altered: {file.stat().st_size} bytes instead of {size}"
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, algorithm).digest()
    except (OSError, ValueError, TypeError) as error:
        return f"cannot be checked: {error}"
    actual = base64.urlsafe_b64encode(digest).decode().rstrip("=")
    return None if actual == expected else "is altered: same size, other content"


def run(graph: CompiledGraph[Audit], thread: dict[str, str], folders: list[str], again: bool) -> None:
    """Begin an audit, or go on with the one that is there, and show its progress."""
    state = graph.get_state(thread)
    if state.created_at and not state.next and not again:
        print("Done before; this is what the log says. --again makes a new audit.")
        return
    new = again or not state.created_at
    for event in graph.stream({"folders": folders} if new else None, thread, stream_mode="events"):
        if event.node == "audit":
            done, todo, files = event.values["done"], event.values["todo"], event.values["files"]
            wrong = len(event.values["findings"])
            result = "no RECORD" if files is None else f"{files} files, {f'{wrong} FINDINGS' if wrong else 'ok'}"
            print(f"[{done}/{len(todo)}] {name_of(todo[done - 1])}: {result}", flush=True)


def report(graph: CompiledGraph[Audit], thread: dict[str, str]) -> int:
    """Print the findings of the newest audit, as the log tells them; how many there are."""
    findings: list[str] = []
    files = unchecked = 0
    for event in graph.replay(thread, stream_mode="events"):
        if event.kind == "input":
            findings, files, unchecked = [], 0, 0
        elif event.node == "audit":
            name = name_of(event.values["todo"][event.values["done"] - 1])
            findings += [f"step {event.step}: {name}: {finding}" for finding in event.update["findings"]]
            files += event.update["files"] or 0
            unchecked += event.update["files"] is None
    print(*findings, f"{files} files checked, {len(findings)} findings", sep="\n")
    if unchecked:
        print(f"{unchecked} distributions have no RECORD and were not checked")
    return len(findings)


def name_of(info: str) -> str:
    return Path(info).name.removesuffix(".dist-info")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", help="a folder of installed distributions; by default all those of this python")
    parser.add_argument("--thread", help='by default "audit of" the folder')
    parser.add_argument("--again", action="store_true", help="a new audit on a thread that has one")
    parser.add_argument("--url", help="of the database; by default $DURABLE_GRAPH_URL or durable_graph.db")
    given = parser.parse_args()
    if given.path and not Path(given.path).is_dir():
        parser.error(f"there is no folder {given.path}")

    folders = [str(Path(given.path).resolve())] if given.path else sys.path
    thread = {"thread_id": given.thread or f"audit of {folders[0] if given.path else sys.prefix}"}
    try:
        with builder.compile(given.url, name="audit") as graph:
            run(graph, thread, folders, given.again)
            return 1 if report(graph, thread) else 0
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on from here.")
        return 130
    except DurableGraphError as error:  # the thread is busy, or the database cannot be used
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
