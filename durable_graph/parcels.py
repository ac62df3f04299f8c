"""A node's call on its way to an executor and back: what is sent, and what a node finds where it arrives.

The rule: a parcel that stays in this process is the call itself, with the live runtime and all that it can do. A parcel
that leaves it (some executor has pickled it) becomes a letter: bytes with the function, its arguments and the facts of
the runtime. What the node says there is kept, and comes back with what it returned or raised.

    runtime.                                      in this process    in another one
    thread_id, node, step, task, attempt,
    idempotency_key, previous                     yes                yes
    context, config                               yes                what can be pickled of them
    interrupt(), sleep(), wait_for()              yes                yes: the answers given so far are sent along
    stream_writer, push_message()                 at once            when the node has ended
    connection, @tasks, graphs                    yes                CallError: they belong to the run's own process

Nothing of this is stored: what a node returns is checked and encoded here, as if it had been called here.
"""

from __future__ import annotations

import contextvars
import os
import pickle
import socket
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NamedTuple, NoReturn

from durable_graph.core.channels import detached
from durable_graph.core.effects import Job
from durable_graph.core.runtime import Runtime, current
from durable_graph.errors import CallError, UnsendableError

PLAIN = "pickle"
BY_VALUE = "cloudpickle"  # also takes lambdas, closures and what `__main__` defines


class Outcome(NamedTuple):
    """What became of a call."""

    result: Any = None
    error: BaseException | None = None
    told: str = ""  # where it came from, of an error in another process
    said: Sequence[tuple[str, tuple[Any, ...]]] = ()  # there: what is to be shown, in this order
    counts: Mapping[str, int] | None = None  # of questions asked there


class Parcel:
    """One call, ready to be made."""

    def __init__(
        self, job: Job, call: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], wants: Sequence[str]
    ) -> None:
        self._runtime: Runtime[Any] = job.runtime()
        self._call, self._args, self._kwargs, self._wants = call, args, kwargs, wants
        self._context = contextvars.copy_context()
        self.refused: UnsendableError | None = None  # why it could not become a letter

    def __call__(self) -> Outcome:
        """The call, in this process."""
        try:
            return Outcome(self._context.run(self._call, *self._args, **self._kwargs))
        except BaseException as error:
            return Outcome(error=error)

    def __reduce__(self) -> tuple[Any, ...]:
        return _letter, tuple(self.letter(best_pickler()))

    def letter(self, pickler: str = PLAIN) -> Letter:
        """What is sent to another process. Raises UnsendableError."""
        runtime = self._runtime
        own = {name: value for name, value in self._kwargs.items() if name not in self._wants}
        call = {"function": self._call, "arguments": tuple(self._args), "others": own, "facts": _facts(runtime)}
        try:
            data = _dumps(pickler, {**call, "wants": tuple(self._wants)})
        except Exception as error:
            self.refused = self._refusal(pickler, error)
            raise self.refused from error
        return Letter(pickler, data, runtime.node, runtime.thread_id)

    def _refusal(self, pickler: str, error: Exception) -> UnsendableError:
        if not _can_be_sent(pickler, self._call):
            what = f"its function {getattr(self._call, '__qualname__', self._call)!r}"
            fix = f"Define it at the top of a module that the worker can import{_BY_VALUE[pickler]}."
        else:
            what, fix = f"its input{_place_of(pickler, self._args)}", _KEEP_OUT
        node, thread_id = self._runtime.node, self._runtime.thread_id
        return UnsendableError(node=node, thread_id=thread_id, what=what, problem=_words(error), fix=fix)

    def opened(self, answer: Outcome | bytes) -> Outcome:
        """What has come back, and show what was said there."""
        if isinstance(answer, Outcome):
            return answer
        try:
            outcome = Outcome(*pickle.loads(answer))
        except Exception as error:
            raise UnsendableError(
                node=self._runtime.node,
                thread_id=self._runtime.thread_id,
                what="what it returned or raised",
                problem=_words(error),
                fix="Return values whose classes this process can import.",
            ) from error
        self._runtime._counts.update(outcome.counts or {})
        for how, what in outcome.said:
            (self._runtime.stream_writer if how == "write" else self._runtime._ear.push)(*what)
        if outcome.error is not None and outcome.told:
            outcome.error.add_note(outcome.told)
        return outcome


_KEEP_OUT = (
    "Keep it out of what the node gets (input_schema=..., or Send), or give the node an executor of threads, which "
    "sends nothing."
)
_BY_VALUE = {PLAIN: ", or use an executor that sends functions by value, as Dask does", BY_VALUE: ""}


class Letter(NamedTuple):
    """A call in bytes. It is opened where it is made, so that what is missing there can be told."""

    pickler: str
    data: bytes
    node: str
    thread_id: str

    def __call__(self) -> bytes:
        """The call, in another process: an `Outcome` in bytes."""
        try:
            sent = pickle.loads(self.data)
        except Exception as error:
            return self._sealed(Outcome(error=self._unsendable("its function or input", error, _INSTALL)))
        return self._sealed(self._called(**sent))

    def _called(
        self,
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
        others: dict[str, Any],
        facts: dict[str, Any],
        wants: Sequence[str],
    ) -> Outcome:
        said: list[tuple[str, tuple[Any, ...]]] = []
        runtime = _runtime_of(facts, said)
        given = {"runtime": runtime, "config": runtime.config, "writer": runtime.stream_writer}
        given["previous"] = runtime.previous
        token = current.set(lambda: runtime)
        try:
            result = function(*arguments, **others, **{name: given[name] for name in wants})
        except BaseException as error:
            return Outcome(None, error, _told(error), said, runtime._counts)
        finally:
            current.reset(token)
        return Outcome(result, said=said, counts=runtime._counts)

    def _sealed(self, outcome: Outcome) -> bytes:
        if outcome.error is not None:
            outcome = outcome._replace(error=self._sendable(outcome.error))
        try:
            return _dumps(self.pickler, tuple(outcome))
        except Exception as error:
            in_result = not _can_be_sent(self.pickler, outcome.result)
            what = f"its result{_place_of(self.pickler, (outcome.result,))}" if in_result else "what it has shown"
            refused = Outcome(None, self._unsendable(what, error, "Return and show plain values."), "", (), None)
            return _dumps(self.pickler, tuple(refused))

    def _sendable(self, error: BaseException) -> BaseException:
        """The error, if it comes out as what it was: many cannot be made again from what pickle keeps of them."""
        try:
            if type(pickle.loads(_dumps(self.pickler, error))) is type(error):
                return error
            problem = TypeError("it comes back as something else")
        except Exception as refused:
            problem = TypeError(_words(refused))
        what = f"its error {type(error).__module__}.{type(error).__qualname__} ({str(error)[:1000]})"
        return self._unsendable(what, problem, "Raise one that takes what it is given as its `args`.")

    def _unsendable(self, what: str, error: Exception, fix: str) -> UnsendableError:
        return UnsendableError(node=self.node, thread_id=self.thread_id, what=what, problem=_words(error), fix=fix)


_INSTALL = "The same code has to be installed where the executor's workers run."


def _letter(*parts: Any) -> Letter:
    return Letter(*parts)


def perform(parcel: Parcel | Letter) -> Outcome | bytes:
    """What the executor is asked to call."""
    return parcel()


# --- the runtime there ------------------------------------------------------------------------


class NotSent:
    """Stands for what could not be sent, where nobody may need it. Whoever does is told."""

    def __init__(self, what: str) -> None:
        self.__dict__["_what"] = what

    def __reduce__(self) -> tuple[Any, ...]:
        return NotSent, (self.__dict__["_what"],)

    def _refuse(self, *_: Any) -> NoReturn:
        raise CallError(
            problem=f"{self.__dict__['_what']}, which cannot be sent to another process",
            fix="Make it where the node runs, or give the node an executor of threads.",
        )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        self._refuse()

    __getitem__ = __call__ = __iter__ = __len__ = __bool__ = __contains__ = _refuse


def _facts(runtime: Runtime[Any]) -> dict[str, Any]:
    facts = {name: getattr(runtime, name) for name in _SENT}
    config = {key: value for key, value in runtime.config.items() if key != "callbacks"}
    for name in ("configurable", "metadata"):
        config[name] = {key: _carried(value, f"config[{name!r}][{key!r}]") for key, value in config[name].items()}
    facts["context"] = _carried(runtime.context, "the context")
    facts["config"] = {key: _carried(value, f"config[{key!r}]") for key, value in config.items()}
    return {**facts, "_now": runtime._now()}


_SENT = ("thread_id", "node", "step", "task", "attempt", "previous", "_durable", "_seed", "_home", "_answers")


def _carried(value: Any, what: str) -> Any:
    if _can_be_sent(PLAIN, value):
        return value
    return NotSent(f"{what} holds a {type(value).__module__}.{type(value).__qualname__}")


def _runtime_of(facts: dict[str, Any], said: list[tuple[str, tuple[Any, ...]]]) -> Runtime[Any]:
    began, now = time.monotonic(), facts.pop("_now")
    node = facts["node"]
    return Runtime(
        **facts,
        stream_writer=lambda data: said.append(("write", (detached(data),))),
        _now=lambda: now + time.monotonic() - began,  # the clock of the run's process
        _start=_Refuses(node, "called a @task"),
        _connect=_Refuses(node, "asked for runtime.connection"),
        _ear=_Ear(said),
        _away=True,
    )


@dataclass
class _Ear:
    said: list[tuple[str, tuple[Any, ...]]]

    def push(self, *shown: Any) -> None:
        self.said.append(("push", detached(shown)))


@dataclass
class _Refuses:
    node: str
    what: str

    def __call__(self, *_: Any) -> NoReturn:
        raise CallError(
            problem=f"node {self.node!r} {self.what} in another process than its run's, whose database holds the row",
            fix="Give the node an executor of threads, or executor=False, which calls it in the run's own process.",
        )


# --- pickle -----------------------------------------------------------------------------------


def best_pickler() -> str:
    """For executors that take care of functions themselves: that by value, where it is installed."""
    try:
        import_module(BY_VALUE)
    except ImportError:
        return PLAIN
    return BY_VALUE


def _dumps(pickler: str, value: Any) -> bytes:
    data: bytes = import_module(pickler).dumps(value, pickle.HIGHEST_PROTOCOL)
    return data


def _can_be_sent(pickler: str, value: Any) -> bool:
    try:
        _dumps(pickler, value)
    except Exception:
        return False
    return True


def _place_of(pickler: str, value: Any) -> str:
    """Where in it the first thing lies that cannot be pickled."""
    path, found = "", True
    while found:
        found = False
        items = (
            value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
        )
        for key, item in items:
            if not _can_be_sent(pickler, item):
                path, value, found = path + f"[{key!r}]", item, True
                break
    return f", at {path.removeprefix('[0]')} a {type(value).__qualname__}" if path else ""


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _told(error: BaseException) -> str:
    lines = "".join(traceback.format_exception(error)).rstrip()
    return f"in process {os.getpid()} on {socket.gethostname()}:\n{lines}"
