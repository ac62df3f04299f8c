"""What to say of a value whose type cannot be stored: what is wrong with it, and what to do instead."""

from __future__ import annotations

import io
import types
from collections.abc import Callable
from typing import Any, NoReturn

from durable_graph.codec.builtin import is_builtin
from durable_graph.codec.kind import Refused
from durable_graph.codec.registered import why_not
from durable_graph.limits import MAX_DEPTH

_OR_REGISTER = "Or register its type with compile(types=[TypeHook(type, encode, decode)])."
DESCRIBE = "Store plain data that describes it. " + _OR_REGISTER
TOO_DEEP = (f"it is nested deeper than {MAX_DEPTH} levels", "Flatten it, or store it as text.")


def refuse(writer: object, value: Any, depth: int) -> NoReturn:
    """What a writer does with a value of a type that it does not know."""
    kind = type(value)
    problem, fix = next(texts for applies, *texts in _ADVICE if applies(kind))
    base = next((each.__name__ for each in kind.__mro__ if is_builtin(each)), "")
    raise Refused(problem.format(base=base), fix.format(base=base, name=kind.__name__))


def _has_builtin_base(kind: type) -> bool:
    return any(is_builtin(each) for each in kind.__mro__)


def _of(*bases: type) -> Callable[[type], bool]:
    return lambda kind: issubclass(kind, bases)


def _with(name: str) -> Callable[[type], bool]:
    return lambda kind: any(name in vars(each) for each in kind.__mro__)  # hasattr would ask the type of the type, too


# The first that applies to a type: what is wrong with its values, and what to do instead.
_ADVICE: tuple[tuple[Callable[[type], bool], str, str], ...] = (
    (lambda kind: not why_not(kind), "its type is not registered", "Register it with compile(types=[{name}])."),
    (_of(memoryview), "it shows memory that may change", "Store bytes(value) instead."),
    (_of(io.IOBase), "an open file belongs to this process", "Store its name instead."),
    (_of(BaseException), "an exception is more than data", "Store the name of its type and str(error)."),
    (_of(types.ModuleType), "code is not data", "Store its name instead."),
    (_with("__call__"), "code is not data", "Store its name instead, and look it up where it is used."),
    (_with("__next__"), "reading it would use it up", "Store list(value) instead."),
    (_with("tolist"), "arrays are not known here", "Store value.tolist() instead."),
    (_has_builtin_base, "it would come back as a plain {base}", "Convert it with {base}(). " + _OR_REGISTER),
    (lambda kind: True, "its type is not known", DESCRIBE),
)
