"""Which words does Python's own library use most? A map over its sources in parallel, and a reduce.

    python examples/word_map.py                   the standard library
    python examples/word_map.py --path FOLDER     other sources

Each chunk of files is one task (`Send`), all of them in one superstep. What has finished is in the log: stop it with
Ctrl-C or kill -9 in the middle, run the same command again, and only chunks without a row are counted. When all is
done, the same command shows the result from the log.
"""

from __future__ import annotations

import argparse
import keyword
import os
import re
import sys
import sysconfig
from collections import Counter
from pathlib import Path
from typing import Annotated, TypedDict

from durable_graph import END, START, Send, StateGraph

CHUNK = 25  # files
WORD = re.compile(r"[A-Za-z_]\w{2,}")


def added(left: dict[str, int], right: dict[str, int]) -> dict[str, int]:
    return dict(Counter(left) + Counter(right))


class Words(TypedDict, total=False):
    folder: str
    files: list[str]
    counts: Annotated[dict[str, int], added]
    top: list[tuple[str, int]]


class Chunk(TypedDict):
    files: list[str]


def find(state: Words) -> Words:
    paths = Path(state["folder"]).rglob("*.py")
    return {"files": sorted(str(path) for path in paths if not {"site-packages", "test", "tests"} & {*path.parts})}


def spread(state: Words) -> list[Send]:
    files = state["files"]
    return [Send("count", {"files": files[start : start + CHUNK]}) for start in range(0, len(files), CHUNK)]


def count(chunk: Chunk) -> Words:
    counts: Counter[str] = Counter()
    for file in chunk["files"]:
        counts.update(WORD.findall(Path(file).read_text(encoding="utf-8", errors="replace")))
    return {"counts": {word: number for word, number in counts.items() if not keyword.iskeyword(word)}}


def reduce(state: Words) -> Words:
    return {"top": sorted(state["counts"].items(), key=lambda item: (-item[1], item[0]))[:20]}


builder = StateGraph(Words).add_node(find).add_node(count, input_schema=Chunk).add_node(reduce)
builder.add_edge(START, "find").add_conditional_edges("find", spread, ["count"])
builder.add_edge("count", "reduce").add_edge("reduce", END)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", default=sysconfig.get_path("stdlib"), help="a folder with .py files")
    parser.add_argument("--url", help="of the database; by default $DURABLE_GRAPH_URL or durable_graph.db")
    given = parser.parse_args()
    folder = str(Path(given.path).resolve())
    config = {"thread_id": f"words of {folder}", "max_concurrency": os.cpu_count()}

    with builder.compile(given.url, name="word_map") as graph:
        state = graph.get_state(config)
        try:
            if state.next or not state.created_at:
                for event in graph.stream(None if state.next else {"folder": folder}, config):
                    for node, update in event.items():
                        if node == "count":
                            print(f"counted {CHUNK} files: {len(update['counts'])} different words", flush=True)
        except KeyboardInterrupt:
            print("\nStopped. The same command goes on from here.")
            return 130
        for word, number in graph.get_state(config).values["top"]:
            print(f"{number:8}  {word}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
