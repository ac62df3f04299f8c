"""The graphs that are run: each drawn once, with the names of this library or of LangGraph.

A `Work` also knows what the run must end in, so that nobody wins by doing less.
"""

from __future__ import annotations

import base64
import operator
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, NamedTuple, TypedDict

from tests.benchmarks.measure import Figures

KILOBYTE = 1024
WIDTH = 10  # nodes side by side
APPENDED = Annotated[list, operator.add]


class Names(NamedTuple):
    """What a graph is drawn with."""

    StateGraph: Any
    START: Any
    END: Any
    Send: Any


@dataclass(frozen=True)
class Work:
    draw: Callable[[Names], Any]  # gives a builder
    input: Mapping[str, Any]
    events: int  # that its stream yields
    done: Callable[[Mapping[str, Any]], bool]  # of the state at the end
    payload: int = 0  # bytes that the nodes return

    def timed(self, events: Iterable[Any]) -> Figures:
        """The seconds that it takes to go through all events."""
        begun = time.perf_counter()
        count = sum(1 for _ in events)
        return self._timed(begun, count)

    async def atimed(self, events: AsyncIterator[Any]) -> Figures:
        begun = time.perf_counter()
        count = 0
        async for _ in events:
            count += 1
        return self._timed(begun, count)

    def _timed(self, begun: float, count: int) -> Figures:
        seconds = time.perf_counter() - begun
        check(count == self.events, f"{count} events instead of {self.events}")
        return {"seconds": seconds}

    def check(self, values: Mapping[str, Any]) -> None:
        check(self.done(values), "the state at the end is wrong")


def check(holds: bool, otherwise: str) -> None:
    """`assert` that also holds under -O: a benchmark that did not do its work has no figures."""
    if not holds:
        raise AssertionError(otherwise)


# --- the works ----------------------------------------------------------------------------------


class Counter(TypedDict):
    n: int


def counter(steps: int, *, asynchronous: bool = False) -> Work:
    """One node that counts."""

    def count(state: Counter) -> Counter:
        return {"n": state["n"] + 1}

    async def acount(state: Counter) -> Counter:
        return {"n": state["n"] + 1}

    def draw(names: Names) -> Any:
        builder = names.StateGraph(Counter)
        builder.add_node("count", acount if asynchronous else count)
        builder.add_edge(names.START, "count")
        builder.add_conditional_edges("count", lambda state: "count" if state["n"] < steps else names.END)
        return builder

    return Work(draw, {"n": 0}, steps, lambda values: values["n"] == steps)


def chat(steps: int, messages: Any = APPENDED) -> Work:
    """One node that appends a message of 1 KB. `messages` annotates the list: its reducer or channel."""
    Chat = TypedDict("Chat", {"messages": messages})  # noqa: UP013 - an annotation made here is no type expression

    def speak(state: Chat) -> dict[str, Any]:
        return {"messages": [message(len(state["messages"]))]}

    def draw(names: Names) -> Any:
        builder = names.StateGraph(Chat)
        builder.add_node("speak", speak)
        builder.add_edge(names.START, "speak")
        builder.add_conditional_edges("speak", lambda s: "speak" if len(s["messages"]) < steps else names.END)
        return builder

    def done(values: Mapping[str, Any]) -> bool:
        return bool(values["messages"] == [message(number) for number in range(steps)])

    return Work(draw, {"messages": []}, steps, done, payload=steps * KILOBYTE)


def message(number: int) -> dict[str, str]:
    return {"by": "user", "text": text(number)}


@cache
def text(number: int) -> str:
    """1 KB that does not compress to much less."""
    return base64.b64encode(random.Random(number).randbytes(KILOBYTE * 3 // 4)).decode()


class Rounds(TypedDict):
    rounds: int
    total: Annotated[int, operator.add]


def parallel(rounds: int) -> Work:
    """WIDTH nodes side by side and a join, round after round."""
    wide = [f"node{number}" for number in range(WIDTH)]

    def join(state: Rounds) -> dict[str, int]:
        return {"rounds": state["rounds"] + 1}

    def draw(names: Names) -> Any:
        builder = names.StateGraph(Rounds)
        for name in wide:
            builder.add_node(name, lambda state: {"total": 1})
            builder.add_edge(names.START, name)
        builder.add_node("join", join)
        builder.add_edge(wide, "join")
        builder.add_conditional_edges("join", lambda s: wide if s["rounds"] < rounds else names.END, [*wide, names.END])
        return builder

    def done(values: Mapping[str, Any]) -> bool:
        return values["rounds"] == rounds and values["total"] == rounds * WIDTH

    return Work(draw, {"rounds": 0, "total": 0}, rounds * (WIDTH + 1), done)


class Found(TypedDict):
    found: Annotated[list, operator.add]


def sends(number: int) -> Work:
    """One superstep of `number` tasks."""

    def draw(names: Names) -> Any:
        builder = names.StateGraph(Found)
        builder.add_node("find", lambda item: {"found": [item["i"]]})
        all_of_them = [names.Send("find", {"i": i}) for i in range(number)]
        builder.add_conditional_edges(names.START, lambda state: all_of_them, ["find"])
        return builder

    return Work(draw, {"found": []}, number, lambda values: values["found"] == list(range(number)))


class Large(TypedDict):
    large: list
    n: int
    note: str


def beside(steps: int, kilobytes: int) -> Work:
    """A node that changes 1 KB beside a value of so many kilobytes."""

    def change(state: Large) -> dict[str, Any]:
        return {"n": state["n"] + 1, "note": text(state["n"])}

    def draw(names: Names) -> Any:
        builder = names.StateGraph(Large)
        builder.add_node("change", change)
        builder.add_edge(names.START, "change")
        builder.add_conditional_edges("change", lambda s: "change" if s["n"] < steps else names.END)
        return builder

    def done(values: Mapping[str, Any]) -> bool:
        return values["n"] == steps and values["note"] == text(steps - 1) and len(values["large"]) == kilobytes

    large = [message(number) for number in range(kilobytes)]
    return Work(draw, {"large": large, "n": 0, "note": ""}, steps, done)


def onto(steps: int, kilobytes: int) -> Work:
    """A node that appends 1 KB to a list of so many kilobytes."""
    work = chat(kilobytes + steps)
    before = [message(number) for number in range(kilobytes)]
    return Work(work.draw, {"messages": before}, steps, work.done)
