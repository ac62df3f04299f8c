"""What a type and a key are called in errors. No `repr` of a user's is called."""

from __future__ import annotations

from typing import Any

from durable_graph.codec.plain import PLAIN


def type_name(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def label_of(key: Any) -> str:
    if type(key) not in PLAIN and type(key) is not float:
        return f"<{type_name(type(key))}>"  # a repr is user code
    text = hex(key) if type(key) is int and abs(key) > 2**64 else repr(key)  # decimal digits have a limit
    return text if len(text) <= 60 else f"{text[:50]}...{text[-1]}"
