"""How large things may be that are written to a database.

The rule: what is too large is refused by name before anything is written, where it can still be corrected; never by
the database in the middle of a commit.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from durable_graph.errors import ArgumentError

MAX_ID_BYTES = 2000  # of a thread_id in UTF-8: Postgres has room for 2704 bytes in a row of an index
# Levels of the JSON that is written; a tag makes one or two. orjson writes 254 and leaves some for the engine's.
MAX_DEPTH = 200
MAX_ROW_BYTES = 800_000_000  # SQLite takes 1,000,000,000 for a row with all its columns, Postgres a little more


@dataclass(frozen=True, slots=True)
class Limits:
    """What `compile(limits=...)` takes: what may be written at most.

    row_bytes: of what one step writes: an update with what its task has shown, an input, an answer, a signal. Up to
        800,000,000; a database holds the whole of it in memory, and so does whoever reads it.
    thread_id_bytes: of a thread's id in UTF-8, up to 2000. Runs of subgraphs have longer ones, within the 2000.
    nesting: levels of lists, dicts and the like within each other, up to 200; a row's own are two of them, and a set
        or an object may count twice.

    What is larger is refused before it is written, with TooLargeError, UnstorableValueError or ArgumentError.
    Lowering a limit leaves what there is readable. Raises ArgumentError for a limit that is none.
    """

    row_bytes: int = 100_000_000
    thread_id_bytes: int = MAX_ID_BYTES
    nesting: int = MAX_DEPTH

    def __post_init__(self) -> None:
        highest = {"row_bytes": MAX_ROW_BYTES, "thread_id_bytes": MAX_ID_BYTES, "nesting": MAX_DEPTH}
        for field in fields(self):
            given, most = getattr(self, field.name), highest[field.name]
            if type(given) is not int or not 0 < given <= most:
                raise ArgumentError(
                    argument=f"Limits({field.name}=...)",
                    problem=f"{given!r} is no limit that can be kept",
                    fix=f"Give a whole number from 1 to {most}.",
                )

    def check_id(self, thread_id: str, argument: str = "thread_id") -> None:
        """Raises ArgumentError for an id that is too long."""
        size = len(thread_id) if thread_id.isascii() else len(thread_id.encode(errors="surrogatepass"))
        if size > self.thread_id_bytes:
            problem = f"is {size} bytes long, beginning with {thread_id[:40]!r}"
            raise ArgumentError(argument=argument, problem=problem, fix=f"Use at most {self.thread_id_bytes} bytes.")
