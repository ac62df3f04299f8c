"""Contests: who takes part, what is to be reached, and how it is measured.

All contenders of a contest run in turn, A B C A B C ..., each on a fresh database, and each ends in a check that the
work was done. A target compares two of them by the median of the ratios of such pairs, as the machine's speed drifts:
absolute figures are for orientation only.
"""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

OURS = "durable_graph"
LIMIT = "bare loop"
LANGGRAPH = "LangGraph sync"
LETTERS = {LIMIT: "L", LANGGRAPH: "G", "LangGraph": "G"}  # as targets are written

Figures = Mapping[str, float]  # what one run gave: "seconds" for all of its work, and others by name


@dataclass(frozen=True)
class Contender:
    name: str
    run: Callable[[], Figures]
    rounds: int = 1000  # at most: a slow peer need not run in every one


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
            return mine
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
    contenders: Sequence[Contender]
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
        figures: dict[str, Figures] = {}
        for contender in contest.contenders:
            if number < contender.rounds:
                with settled():
                    figures[contender.name] = contender.run()
        result.rounds.append(figures)
    return result


@contextmanager
def settled() -> Iterator[None]:
    """Each pays for its own garbage, and nobody for what others have left in memory."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
