"""Messages: a list that is added to, with replacement and removal by id.

What a message is, is decided once for each graph, when it is compiled. Where the application has imported
`langchain_core.messages` by then, messages are its objects, and everything that stands for one becomes one, as in
LangGraph. Elsewhere, and with `add_messages(format="dict")`, they are dicts with `role`, `content` and `id`, and
langchain-core need not be installed. A removal is a RemoveMessage or `{"role": "remove", "id": ...}`. What is in the
log stays as it was written.
"""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, Literal, TypedDict, get_args

from durable_graph.core.channels import (
    Channel,
    Overwrite,
    declare_replayable,
    index_messages,
    is_removal,
    merge_messages,
    message_field,
    unknown_removals,
)
from durable_graph.core.runtime import get_runtime
from durable_graph.errors import ArgumentError

Format = Literal["langchain-openai", "dict"]


def langchain_is_used() -> bool:
    """Whether the application has imported langchain-core's messages. It is not enough that they are installed."""
    return "langchain_core.messages" in sys.modules


def message_types() -> list[type[Any]]:
    """The classes of langchain-core's messages if the application uses them: so that the log can hold them."""
    if not langchain_is_used():
        return []
    from durable_graph import langchain

    return langchain.message_types()


# --- what stands for a message ----------------------------------------------------------------


def prepared(value: Any, *, objects: bool | None = None, format: Format | None = None) -> Any:
    """A write to a list of messages in the form in which it is recorded: a list, each message with an id.

    Takes one message or a list of them: dicts, objects, texts (of the user), pairs (role, content). objects: make
    all of them langchain-core's objects; None: if the application uses these. Raises ValueError for what is no message.
    """
    if type(value) is Overwrite:
        return Overwrite(_added([], prepared(value.value, objects=objects, format=format)))
    items = value if isinstance(value, list) else [value]
    if objects is None:
        objects = langchain_is_used()
    if format == "dict" or not (objects or format):
        return [_with_id(_dict(item)) for item in items]
    from durable_graph import langchain

    found = [langchain.as_message(item) for item in items]
    if format:
        found = [part for message in found for part in langchain.as_openai(message)]
    return [_with_id(message) for message in found]


def _dict(item: Any) -> Any:
    if isinstance(item, str):
        return {"role": "user", "content": item}
    if isinstance(item, list | tuple) and len(item) == 2 and isinstance(item[0], str):
        return {"role": item[0], "content": item[1]}
    if isinstance(item, dict):
        if "role" not in item and "type" not in item:
            raise ValueError(f"a message needs a role, got the keys {sorted(map(str, item))}")
        return item
    if hasattr(item, "id") and hasattr(item, "type"):
        return item  # langchain-core came after the graph was compiled: the codec has the last word
    raise ValueError(f"{item!r} is no message")


def _with_id(message: Any) -> Any:
    if message_field(message, "id"):
        return message
    if is_removal(message):
        raise ValueError("a removal needs the id of the message to remove")
    name = str(uuid.uuid4())
    return {**message, "id": name} if isinstance(message, dict) else message.model_copy(update={"id": name})


# --- the reducer ------------------------------------------------------------------------------


def add_messages(left: Any = None, right: Any = None, *, format: Format | None = None) -> Any:
    """The reducer: `right` added to `left`; a message with a known id replaces that one, a removal removes it.

    left, right: messages, one or a list of them: dicts, langchain-core's objects, texts, pairs (role, content). Those
        without an id get one. A removal with the id REMOVE_ALL_MESSAGES removes all that came before it.
    format: "langchain-openai" puts contents in the form of OpenAI's API, and needs langchain-core; "dict" makes no
        objects although langchain-core is imported. Given alone it makes a reducer:
        Annotated[list, add_messages(format="langchain-openai")].

    Returns a new list; what was given stays as it was. Raises ValueError for the removal of a message that is not
    there, for what is no message, and if only one of left and right is given.
    """
    if left is None and right is None:
        return _formatting(format)
    if left is None or right is None:
        raise ValueError(f"add_messages takes two lists of messages, got only {'right' if left is None else 'left'}")
    return _added(prepared(left, format=_checked(format)), prepared(right, format=format))


def _formatting(format: Format | None) -> Callable[[Any, Any], Any]:
    """The reducer with a format. Named after it, for the graph's fingerprint."""

    def add(left: Any, right: Any) -> Any:
        return add_messages(left, right, format=format)

    add.__qualname__ = f"add_messages(format={_checked(format)!r})"
    add.prepare = partial(prepared, format=format)  # type: ignore[attr-defined]
    return declare_replayable(add, "messages")


def _checked(format: Format | None) -> Format | None:
    if format not in (None, *get_args(Format)):
        known = " or ".join(map(repr, get_args(Format)))
        raise ArgumentError(
            argument="format", problem=f"there is no format {format!r}", fix=f"Give {known}, or leave it out"
        )
    if format == "langchain-openai":
        try:
            from durable_graph import langchain  # noqa: F401
        except ImportError as error:
            raise ArgumentError(
                argument="format",
                problem="langchain-core is not installed",
                fix='Install it: pip install "durable-graph[langchain]"',
            ) from error
    return format


def _added(old: list[Any], new: list[Any]) -> list[Any]:
    unknown = unknown_removals(old, new)
    if unknown:
        raise ValueError(f"there is no message with the id {unknown[0]!r} to remove")
    return merge_messages(old, new, index_messages(old), False)


add_messages.prepare = prepared  # type: ignore[attr-defined]
declare_replayable(add_messages, "messages")


def push_message(message: Any, *, state_key: str | None = "messages") -> Any:
    """Show a message at once to those who stream in the mode "messages", from a node that is running.

    message: in any form that add_messages takes, with an id. Several with one id are the parts of one message.
    state_key: write it to this list of messages too, when the node ends; of several with one id the last. None:
        only show it, as a part of what the node will return.

    What was shown is recorded with the node's row. Returns the message. Raises CallError outside of a node;
    ArgumentError if the message has no id; UnstorableValueError.
    """
    ear = get_runtime()._ear
    name = message.get("id") if isinstance(message, dict) else getattr(message, "id", None)
    if not isinstance(name, str) or not name:
        raise ArgumentError(argument="message", problem=f"{message!r} has no id", fix="Give it one: parts go by it.")
    (shown,) = prepared(message)
    ear.push(shown, name, state_key)
    return shown


class MessagesState(TypedDict):
    """A state with one key: a list of messages."""

    messages: Annotated[list[Any], add_messages]


def decided(channels: Mapping[str, Channel]) -> dict[str, Channel]:
    """The channels of a graph that is compiled now: those of messages know what a message is."""
    objects = langchain_is_used()
    return {name: _decided(channel, objects) for name, channel in channels.items()}


def _decided(channel: Channel, objects: bool) -> Channel:
    if channel.operation != "messages" or channel.prepare is None:
        return channel
    prepare = partial(channel.prepare, objects=objects)
    return replace(channel, reducer=_added, prepare=prepare, initial=channel.initial or list)
