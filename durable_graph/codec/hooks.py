"""What `types=` takes: classes, and hooks for those that need help."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

from durable_graph.codec.builtin import is_builtin
from durable_graph.codec.registered import bad_type, is_class, registered


@dataclasses.dataclass(frozen=True, slots=True)
class TypeHook:
    """How values of one class are stored that is no dataclass, pydantic model, enum or named tuple, or has moved.

    Given as one of `types=` to `compile`, `entrypoint` or `Log`, where it goes before the bare class.

    type: values of exactly this class, not of its subclasses.
    encode: takes a value, returns something storable that says all about it; called when a row is written.
    decode: takes that, returns a value equal to the first; called when a row is read.
    name: under which its values are found in the log, by default "module:Class". A class that was moved or renamed
        reads its old values under its old name; then encode and decode may be left out.

    Raises ArgumentError for what is no class of yours, or only one of encode and decode. Without the hook, values read
    as `Unregistered` placeholders with what `encode` returned.
    """

    type: type[Any]
    encode: Callable[[Any], Any] | None = None
    decode: Callable[[Any], Any] | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        if not is_class(self.type) or is_builtin(self.type):
            raise bad_type(self.type, "is no class that can be registered", "Give a class that you have defined.")
        for function in (self.encode, self.decode):
            if function is not None and not callable(function):
                raise bad_type(self.type, f"has {function!r} for a function", "Give functions of one argument.")
        registered(self.type, self.name, self.encode, self.decode)


Storable = type[Any] | TypeHook  # what `types=` takes


def without_doubles(types: Iterable[Storable]) -> list[Storable]:
    """Each once, and a hook instead of its bare class. Hooks come first."""
    given = list(types)
    hooks: list[TypeHook] = []
    for each in given:
        if isinstance(each, TypeHook) and each not in hooks:
            hooks.append(each)
    hooked = {hook.type for hook in hooks}
    return [*hooks, *dict.fromkeys(each for each in given if not isinstance(each, TypeHook) and each not in hooked)]
