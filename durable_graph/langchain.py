"""langchain-core, for applications that use it: its messages in a state, and what its chat models say.

Nothing imports this module, and with it langchain-core, before the application has imported
`langchain_core.messages` itself or has asked for a form of messages that only langchain-core knows.
"""

from __future__ import annotations

from typing import Any

from langchain_core import messages
from langchain_core.messages import (
    BaseMessage,
    BaseMessageChunk,
    RemoveMessage,
    convert_to_messages,
    convert_to_openai_messages,
    message_chunk_to_message,
)


def message_types() -> list[type[Any]]:
    """langchain-core's classes of messages. Those of other packages are registered by name, as any type is."""
    kinds = [getattr(messages, name) for name in messages.__all__]
    return [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseMessage)]


def as_message(item: Any) -> BaseMessage:
    """What LangGraph makes of anything that stands for a message; raises ValueError if it does not."""
    if isinstance(item, dict) and item.get("role", item.get("type")) == "remove":
        item = RemoveMessage(id=item.get("id") or "")
    try:
        (message,) = convert_to_messages([item])
    except (ValueError, TypeError, NotImplementedError) as error:
        raise ValueError(str(error).partition("\n")[0]) from error
    return message_chunk_to_message(message) if isinstance(message, BaseMessageChunk) else message


def as_openai(message: BaseMessage) -> list[BaseMessage]:
    """The same with its content as OpenAI's API knows it; a tool's result within it becomes a message of its own.

    The first one keeps the id.
    """
    if isinstance(message, RemoveMessage):
        return [message]
    first, *others = convert_to_messages(convert_to_openai_messages([message])) or [message]
    return [first.model_copy(update={"id": message.id}), *others]
