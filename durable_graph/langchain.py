"""langchain-core, for applications that use it: its messages in a state, and what its chat models say.

Nothing imports this module, and with it langchain-core, before the application has imported
`langchain_core.messages` itself or has asked for a form of messages that only langchain-core knows.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar
from uuid import UUID

from langchain_core import messages
from langchain_core.callbacks import BaseCallbackHandler, BaseCallbackManager, CallbackManager
from langchain_core.messages import (
    BaseMessage,
    BaseMessageChunk,
    RemoveMessage,
    convert_to_messages,
    convert_to_openai_messages,
    message_chunk_to_message,
)
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, LLMResult
from langchain_core.runnables.config import var_child_runnable_config

T = TypeVar("T")

# --- messages ---------------------------------------------------------------------------------


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


# --- what chat models say ---------------------------------------------------------------------

NOSTREAM = "nostream"  # LangGraph's: a model with this tag is not listened to


class Ear(Protocol):
    """Takes what is said in a node."""

    def part(self, key: Any, message: Any, metadata: Mapping[str, Any]) -> None: ...

    def whole(self, name: str | None) -> None: ...


class Listener(BaseCallbackHandler):
    """Passes on what the chat models of one node say, part by part. Its presence makes them stream."""

    run_inline = True  # in the thread that says it, so that the parts come in order
    raise_error = True  # a part that cannot be stored is refused where it is said

    def __init__(self, ear: Ear) -> None:
        self._ear = ear
        self._calls: dict[UUID, dict[str, Any]] = {}  # of models under way: their metadata
        self._heard: set[UUID] = set()  # those that have said something

    def on_chat_model_start(
        self,
        serialized: dict[str, Any],
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        if NOSTREAM in (tags or ()):
            return
        shown = [tag for tag in tags or () if not tag.startswith("seq:step")]  # langchain-core's own notes
        self._calls[run_id] = {**(metadata or {}), **({"tags": shown} if shown else {})}

    def on_llm_new_token(self, token: Any, *, chunk: Any = None, run_id: UUID, **_: Any) -> None:
        if run_id in self._calls and isinstance(chunk, ChatGenerationChunk):
            self._heard.add(run_id)
            self._pass_on(run_id, chunk.message)

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **_: Any) -> None:
        """A model that cannot stream says all at once; of one that does, the whole has been said."""
        generation = response.generations[0][0] if response.generations and response.generations[0] else None
        if run_id in self._calls and isinstance(generation, ChatGeneration):
            if run_id in self._heard:
                self._ear.whole(generation.message.id)
            else:
                self._pass_on(run_id, generation.message)
        self._forget(run_id)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        self._forget(run_id)

    def _pass_on(self, run_id: UUID, message: BaseMessage) -> None:
        if message.id is None:
            message.id = f"run-{run_id}"  # also for the node: it returns this message, or the sum of such chunks
        self._ear.part(run_id, message, self._calls[run_id])

    def _forget(self, run_id: UUID) -> None:
        self._calls.pop(run_id, None)
        self._heard.discard(run_id)

    # langchain-core takes whatever has these two for a reason to stream
    def tap_output_iter(self, run_id: UUID, output: Iterator[T]) -> Iterator[T]:
        return output

    def tap_output_aiter(self, run_id: UUID, output: AsyncIterator[T]) -> AsyncIterator[T]:
        return output


class Surroundings:
    """What langchain-core looks for around nodes: their config, and the variable in which models, chains and tools
    that a node calls without a config look for it. listens: to what chat models say."""

    def __init__(self, listens: bool) -> None:
        self._listens = listens

    def config(self, config: dict[str, Any], ear: Ear) -> dict[str, Any]:
        if not self._listens and not config.get("callbacks"):
            return config
        callbacks = _own(config.get("callbacks"))
        if self._listens:
            callbacks.add_handler(Listener(ear))
        return {**config, "callbacks": callbacks}

    def variables(self, config: Callable[[], Mapping[str, Any]]) -> Sequence[tuple[ContextVar[Any], Any]]:
        return ((var_child_runnable_config, _Inherited(config)),)


class _Inherited(Mapping[str, Any]):
    """A node's config, made when somebody looks: most nodes call no model, and to make it takes as long as a step."""

    _making = threading.RLock()  # models may be called side by side

    def __init__(self, config: Callable[[], Mapping[str, Any]]) -> None:
        self._config = config
        self._made: dict[str, Any] | None = None

    def _all(self) -> dict[str, Any]:
        if self._made is None:
            with self._making:
                config = self._config()
            self._made = {key: value for key, value in config.items() if key != "run_name"}  # that is the graph's
        return self._made

    def __getitem__(self, key: str) -> Any:
        return self._all()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())


def _own(callbacks: Any) -> BaseCallbackManager:
    """A manager for one node: it keeps a handler once, though it be found in a config and in the variable. A subgraph's
    nodes are listened to for themselves, so the listener of the node above is left out."""
    if isinstance(callbacks, BaseCallbackManager):
        own = callbacks.copy()
    else:
        own = CallbackManager(list(callbacks or ()), list(callbacks or ()))
    for each in [*own.handlers, *own.inheritable_handlers]:
        if isinstance(each, Listener):
            own.remove_handler(each)
    return own
