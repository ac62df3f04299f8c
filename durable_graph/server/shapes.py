"""What a request may hold, as JSON schemas: those that the OpenAPI document shows are those that are checked.

The rule: only these words of JSON schema: type, enum, properties, required, additionalProperties, items, minimum,
maximum, minLength, anyOf. What is wrong is told with the field that it stands in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from durable_graph.server.problems import Problem

Shape = Mapping[str, Any]

ANYTHING: Shape = {}
TEXT: Shape = {"type": "string"}
ID: Shape = {"type": "string", "minLength": 1}
FLAG: Shape = {"type": "boolean"}
NUMBER: Shape = {"type": "number"}
OBJECT: Shape = {"type": "object"}
TEXTS: Shape = {"type": "array", "items": TEXT}

TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "object": (dict,),
    "array": (list,),
    "null": (type(None),),
}


def number(minimum: int = 0, maximum: int | None = None) -> Shape:
    return {"type": "integer", "minimum": minimum, **({} if maximum is None else {"maximum": maximum})}


def one_of(*texts: str) -> Shape:
    return {"type": "string", "enum": list(texts)}


def maybe(shape: Shape) -> Shape:
    return {"anyOf": [shape, {"type": "null"}]}


def either(*shapes: Shape) -> Shape:
    return {"anyOf": list(shapes)}


def list_of(shape: Shape) -> Shape:
    return {"type": "array", "items": shape}


def fields(required: Sequence[str] = (), /, **properties: Shape) -> Shape:
    """An object with these fields and no others."""
    needed = {"required": list(required)} if required else {}
    return {"type": "object", "properties": properties, "additionalProperties": False, **needed}


CHECKPOINT_ID = either(TEXT, number())  # a step's number, as text too
CHECKPOINT = fields(
    thread_id=maybe(TEXT), checkpoint_ns=maybe(TEXT), checkpoint_id=maybe(CHECKPOINT_ID), checkpoint_map=maybe(OBJECT)
)


def place_of(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """What of a checkpoint names a step, or a subgraph's run."""
    named = {key: checkpoint.get(key) for key in ("checkpoint_id", "checkpoint_ns")}
    return {key: value for key, value in named.items() if value not in (None, "")}


def check(value: Any, shape: Shape, field: str = "") -> None:
    """Raises a problem 422 that names the field."""
    wrong = _wrong(value, shape, field)
    if wrong is not None:
        raise Problem(422, f"{wrong[0] or 'the body'}: {wrong[1]}", field=wrong[0])


def _wrong(value: Any, shape: Shape, field: str) -> tuple[str, str] | None:
    if "anyOf" in shape:
        return _wrong_for_all(value, shape["anyOf"], field)
    if "type" in shape and not _is(value, shape["type"]):
        return field, f"expected {_named(shape)}, got {_shown(value)}"
    if "enum" in shape and value not in shape["enum"]:
        return field, f"there is no {_shown(value)}; it may be {', '.join(map(repr, shape['enum']))}"
    if isinstance(value, dict) and "properties" in shape:
        return _wrong_in_object(value, shape, field)
    if isinstance(value, list) and "items" in shape:
        found = (_wrong(item, shape["items"], f"{field}[{place}]") for place, item in enumerate(value))
        return next((wrong for wrong in found if wrong is not None), None)
    return _wrong_size(value, shape, field)


def _wrong_size(value: Any, shape: Shape, field: str) -> tuple[str, str] | None:
    if "minimum" in shape and value < shape["minimum"]:
        return field, f"it has to be at least {shape['minimum']}, and is {value}"
    if "maximum" in shape and value > shape["maximum"]:
        return field, f"it may be {shape['maximum']} at most, and is {value}"
    if "minLength" in shape and len(value) < shape["minLength"]:
        return field, "it may not be empty"
    return None


def _wrong_for_all(value: Any, shapes: Sequence[Shape], field: str) -> tuple[str, str] | None:
    found = [_wrong(value, shape, field) for shape in shapes]
    if None in found:
        return None
    deeper = [wrong for wrong in found if wrong is not None and wrong[0] != field]
    return deeper[0] if deeper else (field, f"expected {' or '.join(map(_named, shapes))}, got {_shown(value)}")


def _wrong_in_object(value: Mapping[str, Any], shape: Shape, field: str) -> tuple[str, str] | None:
    inside = f"{field}." if field else ""
    for name in shape.get("required", ()):
        if name not in value:
            return f"{inside}{name}", "it is missing"
    for name, item in value.items():
        if name in shape["properties"]:
            wrong = _wrong(item, shape["properties"][name], f"{inside}{name}")
            if wrong is not None:
                return wrong
        elif shape.get("additionalProperties") is False:
            return f"{inside}{name}", f"there is no such field; known: {', '.join(sorted(shape['properties']))}"
    return None


def _is(value: Any, name: str) -> bool:
    return isinstance(value, TYPES[name]) and not (isinstance(value, bool) and name in ("integer", "number"))


def _named(shape: Shape) -> str:
    if "anyOf" in shape:
        return " or ".join(map(_named, shape["anyOf"]))
    if "enum" in shape:
        return " or ".join(map(repr, shape["enum"]))
    return {"object": "an object", "array": "a list", "integer": "a whole number"}.get(
        shape.get("type", ""), f"a {shape.get('type', 'value')}"
    )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def parsed(texts: Sequence[str], shape: Shape, field: str) -> Any:
    """A value of the query, which is text, as its shape wants it."""
    kind = shape.get("type")
    if kind == "array":
        return [parsed([text], shape["items"], field) for text in texts if text]  # httpx sends None as an empty text
    text = texts[-1]
    value: Any = text
    if kind == "boolean" and text.lower() in ("true", "false", "1", "0"):
        value = text.lower() in ("true", "1")
    elif kind == "integer" and text.lstrip("-").isdecimal() and len(text) < 19:
        value = int(text)
    check(value, shape, field)
    return value
