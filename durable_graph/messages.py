"""Messages: a list that is added to, with replacement and removal by id.

A message is a dict with `role` and `content`, or an object of langchain-core where the application uses that
package; nothing here imports it. A removal is `{"role": "remove", "id": ...}` or a RemoveMessage.
"""

from __future__ import annotations

import sys
import uuid
from typing import Annotated, Any, TypedDict

from durable_graph.core.channels import (
    REMOVE_ALL_MESSAGES,
    declare_replayable,
    is_removal,
    merge_messages,
    message_field,
)


def prepared(value: Any) -> list[Any]:
    """A write to a list of messages in the form in which it is recorded: a list, each message with an id.

    Takes one message or a list of them: dicts, texts (of the user), pairs (role, content), objects with an `id`.
    Raises ValueError for anything else.
    """
    items = value if isinstance(value, list) else [value]
    return [_with_id(_message(item)) for item in items]


def _message(item: Any) -> Any:
    if isinstance(item, str):
        return {"role": "user", "content": item}
    if isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str):
        return {"role": item[0], "content": item[1]}
    if isinstance(item, dict):
        if "role" not in item and "type" not in item:
            raise ValueError(f"a message needs a role, got the keys {sorted(map(str, item))}")
        return item
    if hasattr(item, "id") and hasattr(item, "type"):
        return item
    raise ValueError(f"{item!r} is no message")


def _with_id(message: Any) -> Any:
    if message_field(message, "id") is not None:
        return message
    if is_removal(message):
        raise ValueError("a removal needs the id of the message to remove")
    name = str(uuid.uuid4())
    if isinstance(message, dict):
        return {**message, "id": name}
    return message.model_copy(update={"id": name})


def add_messages(left: Any, right: Any) -> list[Any]:
    """The reducer: `right` added to `left`; a message with a known id replaces that one, a removal removes it.

    Messages without an id get one. Raises ValueError for the removal of a message that is not there.
    """
    old, new = prepared(left), prepared(right)
    places = {message_field(message, "id"): place for place, message in enumerate(old)}
    for message in new:
        name = message_field(message, "id")
        if is_removal(message) and name != REMOVE_ALL_MESSAGES and name not in places:
            raise ValueError(f"there is no message with the id {name!r} to remove")
        old = merge_messages(old, [message], places, False)
    return old


add_messages.prepare = prepared  # type: ignore[attr-defined]
declare_replayable(add_messages, "messages")


class MessagesState(TypedDict):
    """A state with one key: a list of messages."""

    messages: Annotated[list[Any], add_messages]


def message_types() -> list[type]:
    """The message classes of langchain-core, if the application has imported it: so that the log can hold them."""
    module = sys.modules.get("langchain_core.messages")
    base: type[Any] | None = getattr(module, "BaseMessage", None)
    return [] if base is None else [base, *_subclasses(base)]


def _subclasses(kind: type[Any]) -> list[type]:
    below: list[type[Any]] = kind.__subclasses__()
    return [found for one in below for found in (one, *_subclasses(one))]
