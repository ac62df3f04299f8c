"""Contests: who takes part, what is to be reached, and how it is measured.

All contenders of a contest run in turn, A B C A B C ..., each on a fresh database, and each ends in a check that the
work was done. Those that can be halted after an event take turns within the run as well, a twentieth of it at a time,
so that a slow moment of the machine or its disk meets them all. A target compares two by the median of the rounds'
ratios; absolute figures are for orientation only.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field

OURS = "durable_graph"
LIMIT = "bare loop"
LANGGRAPH = "LangGraph sync"
LETTERS = {LIMIT: "L", LANGGRAPH: "G", "LangGraph": "G"}  # as targets are written

TURNS = 20  # that each takes in a run; more, and they find the processor's caches cold

Figures = Mapping[str, float]  # what one run gave: "seconds" for all of its work, and others by name
Steps = Generator[None, None, Figures]  # a run that halts when it is ready to begin, and after each event


@dataclass(frozen=True)
class Contender:
    name: str
    run: Callable[[], Figures]
    rounds: int = 1000  # at most: a slow peer need not run in every one


@dataclass(frozen=True)
class Stepper:
    """A contender that can be halted."""

    name: str
    steps: Callable[[], Steps]
    events: int
    rounds: int = 1000
    timed_from: int = 0  # events before that do not count: they pay for the start
    apart: bool = False  # it works in the background, and would go on in the turns of others


@dataclass(frozen=True)
class Target:
    """A bound on a ratio of two contenders, or on a figure of one.

    With `at_least`, of seconds, the ratio is theirs to ours, "so many times as fast"; with `at_most` it is ours to
    theirs, "so many times the cost".
    """

    bound: float | None = None  # None: only shown
    against: str | None = None  # None: the figure itself
    figure: str = "seconds"
    of: str = OURS
    at_most: bool = False
    per: float = 1  # what the figure itself is divided by
    about: str = ""  # what the figure is, where that is not the contest's name

    def __str__(self) -> str:
        if self.bound is None:
            return f"(beside it: {self.about})"
        against = f" {LETTERS.get(self.against, self.against)}" if self.against else ""
        bound = f"{'≤' if self.at_most else '≥'} {self.bound:g}{against}"
        return f"{bound}, {self.about}" if self.about else bound

    def measured(self, rounds: Sequence[Mapping[str, Figures]]) -> float | None:
        """The median over the rounds; None if there is none in which all that it needs took part."""
        values = [value for each in rounds if (value := self._value(each)) is not None]
        return statistics.median(values) if values else None

    def _value(self, each: Mapping[str, Figures]) -> float | None:
        mine = each.get(self.of, {}).get(self.figure)
        if mine is None or self.against is None:
            return None if mine is None else mine / self.per
        theirs = each.get(self.against, {}).get(self.figure)
        if theirs is None:
            return None
        return mine / theirs if self.at_most else theirs / mine

    def reached(self, measured: float) -> bool:
        if self.bound is None:
            return True
        return measured <= self.bound if self.at_most else measured >= self.bound

    def held(self, measured: float) -> bool:
        """Whether a guard lets it pass: at least half of what is wanted."""
        if self.bound is None:
            return True
        return measured <= 2 * self.bound if self.at_most else measured >= self.bound / 2


@dataclass(frozen=True)
class Contest:
    """One row of the table. The first contender is the one that the others' times are compared with."""

    name: str
    contenders: Sequence[Contender | Stepper]
    targets: Sequence[Target]
    steps: int  # how often the work was done in one run, for the times per step
    unit: str = "step"


@dataclass(frozen=True)
class Result:
    contest: Contest
    rounds: list[dict[str, Figures]] = field(default_factory=list)

    def seconds(self, name: str) -> float | None:
        return Target(of=name).measured(self.rounds)

    def outcomes(self) -> Iterator[tuple[Target, float | None]]:
        for target in self.contest.targets:
            yield target, target.measured(self.rounds)


def measured(contest: Contest, rounds: int) -> Result:
    result = Result(contest)
    for number in range(rounds):
        taking_part = [each for each in contest.contenders if number < each.rounds]
        with settled():
            found = in_turns([each for each in taking_part if isinstance(each, Stepper) and not each.apart])
        for each in taking_part:
            with settled():
                if isinstance(each, Contender):
                    found[each.name] = each.run()
                elif each.apart:
                    found |= in_turns([each])
        result.rounds.append(found)
    return result


def in_turns(steppers: Sequence[Stepper]) -> dict[str, Figures]:
    with ExitStack() as stack:
        runs = [stack.enter_context(closing(stepper.steps())) for stepper in steppers]
        seconds: list[list[float]] = [[] for _ in steppers]  # of each event
        for run in runs:
            next(run)
        for turn in range(1, TURNS + 1):
            for stepper, run, own in zip(steppers, runs, seconds, strict=True):
                _advance(run, own, stepper.events * turn // TURNS)
        return {
            stepper.name: {**figures(own, stepper.timed_from), **_end(run, stepper)}
            for stepper, run, own in zip(steppers, runs, seconds, strict=True)
        }


def _advance(run: Steps, seconds: list[float], until: int) -> None:
    clock = time.perf_counter
    before = clock()
    try:
        while len(seconds) < until:
            next(run)
            now = clock()
            seconds.append(now - before)
            before = now
    except StopIteration:
        raise AssertionError(f"a run has only {len(seconds)} events") from None


def _end(run: Steps, stepper: Stepper) -> Figures:
    """What it tells of itself, once it has checked what it did."""
    try:
        next(run)
    except StopIteration as ended:
        return ended.value  # type: ignore[no-any-return]
    raise AssertionError(f"{stepper.name} has more than {stepper.events} events")


def figures(seconds: Sequence[float], timed_from: int = 0) -> Figures:
    """Of the seconds of each event: their sum, and how long the last tenth took for each second of the first."""
    tenth = max(1, (len(seconds) - 1) // 10)
    first = sum(seconds[1 : tenth + 1])  # the first of all pays for the start
    return {"seconds": sum(seconds[timed_from:]), "late": sum(seconds[-tenth:]) / first if first else 1.0}


def whole(steps: Steps) -> float:
    """The seconds of a run that nobody halts."""
    next(steps)
    begun = time.perf_counter()
    for _ in steps:
        now = time.perf_counter()
    return now - begun


@contextmanager
def settled() -> Iterator[None]:
    """Each pays for its own garbage, and nobody for what others have left in memory."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
