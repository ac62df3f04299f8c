"""The `config` argument, checked once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from durable_graph.errors import ArgumentError

DEFAULT_RECURSION_LIMIT = 10_007  # LangGraph's, since its 1.0

_TOP = frozenset(
    {
        "configurable",
        "metadata",
        "tags",
        "run_name",
        "run_id",
        "recursion_limit",
        "max_concurrency",
        "callbacks",
    }
)
PLACES = frozenset({"thread_id", "step", "checkpoint_id", "checkpoint_ns"})  # under configurable, or in short


@dataclass(frozen=True, slots=True)
class CallConfig:
    """What a config says. `{"thread_id": "a"}` alone is accepted for `{"configurable": {"thread_id": "a"}}`."""

    thread_id: str | None
    step: int | None
    ns: tuple[str, ...]  # of a subgraph's run below that thread; () for the thread itself
    configurable: Mapping[str, Any]
    metadata: Mapping[str, Any]
    tags: tuple[str, ...]
    run_name: str | None
    recursion_limit: int
    max_concurrency: int | None
    callbacks: Any = None  # of langchain-core; for nodes, never recorded

    def for_nodes(self, thread_id: str) -> dict[str, Any]:
        """The config as nodes see it."""
        own = {key: value for key, value in self.configurable.items() if key not in PLACES}
        return {
            "configurable": {**own, "thread_id": thread_id},
            "metadata": dict(self.metadata),
            "tags": list(self.tags),
            "recursion_limit": self.recursion_limit,
            **({"run_name": self.run_name} if self.run_name else {}),
            **({"max_concurrency": self.max_concurrency} if self.max_concurrency else {}),
            **({"callbacks": self.callbacks} if self.callbacks else {}),
        }

    def recorded(self) -> dict[str, Any]:
        """What the first row of a run keeps: never anything else from `configurable`, which may hold secrets."""
        kept = {"metadata": dict(self.metadata), "tags": list(self.tags), "name": self.run_name}
        return {key: value for key, value in kept.items() if value}

    def at(self, step: int | None) -> CallConfig:
        return replace(self, step=step)


def read_config(config: Mapping[str, Any] | None, base: Mapping[str, Any] | None = None) -> CallConfig:
    """Raises ArgumentError for unknown keys and wrong types, naming the key."""
    given = merged(base or {}, config or {})
    configurable = dict(_mapping(given, "configurable"))
    for key in PLACES & given.keys():
        configurable[key] = given[key]
    return CallConfig(
        thread_id=_thread_id(configurable.get("thread_id")),
        step=_step(configurable),
        ns=_namespace(configurable.get("checkpoint_ns")),
        configurable=configurable,
        metadata=_metadata(given),
        tags=_tags(given.get("tags")),
        run_name=given.get("run_name"),
        recursion_limit=_positive(given, "recursion_limit") or DEFAULT_RECURSION_LIMIT,
        max_concurrency=_positive(given, "max_concurrency"),
        callbacks=given.get("callbacks"),
    )


def _metadata(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """Recorded with the run. `actor` says who it is that calls: a text, so that one can search for it."""
    metadata = _mapping(given, "metadata")
    actor = metadata.get("actor")
    if actor is not None and not (isinstance(actor, str) and actor):
        raise _wrong("config['metadata']['actor']", f"expected a text, got {actor!r}", "Name who calls")
    return metadata


def _tags(tags: Any) -> tuple[str, ...]:
    if not isinstance(tags, list | tuple | set | frozenset | None) or not all(
        isinstance(tag, str) for tag in tags or ()
    ):
        raise _wrong("config['tags']", f"expected a list of texts, got {tags!r}", "Give a list")
    return tuple(tags or ())


def merged(base: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """`config` over `base`: what lies under `configurable` and `metadata` key by key, tags and callbacks one after the
    other."""
    if not isinstance(config, Mapping):
        raise _wrong("config", f"expected a dict, got {type(config).__name__}", "Give {'thread_id': ...}")
    unknown = config.keys() - _TOP - PLACES
    if unknown:
        raise _wrong(
            f"config[{min(map(str, unknown))!r}]",
            "there is no such setting",
            f"Values of your own go under 'configurable'. Known: {', '.join(sorted(_TOP | PLACES))}",
        )
    both = {**base, **config}
    for key in ("configurable", "metadata"):
        if key in base and key in config:
            both[key] = {**_mapping(base, key), **_mapping(config, key)}
    if "tags" in base and "tags" in config:
        both["tags"] = list(dict.fromkeys([*_tags(base["tags"]), *_tags(config["tags"])]))
    if base.get("callbacks") and config.get("callbacks"):
        both["callbacks"] = _joined(base["callbacks"], config["callbacks"])
    return both


def _joined(callbacks: Any, others: Any) -> Any:
    """Handlers of langchain-core, each once: a list of them, or one of its managers, which is not changed."""
    if isinstance(callbacks, list) and isinstance(others, list):
        return [*callbacks, *(each for each in others if each not in callbacks)]
    manager, more = (others, callbacks) if isinstance(callbacks, list) else (callbacks, others)
    manager = manager.copy()
    for each in more if isinstance(more, list) else more.handlers:
        manager.add_handler(each)
    return manager


def _mapping(given: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = given.get(key) or {}
    if not isinstance(value, Mapping):
        raise _wrong(f"config[{key!r}]", f"expected a dict, got {type(value).__name__}", "Give a dict")
    return value


def _positive(given: Mapping[str, Any], key: str) -> int | None:
    value = given.get(key)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise _wrong(f"config[{key!r}]", f"expected a whole number of at least 1, got {value!r}", "Raise it")
    return value


def _thread_id(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # LangGraph takes numbers too
    if not isinstance(value, str) or not value:
        raise _wrong("thread_id", f"expected a text that is not empty, got {value!r}", "Give an id, or leave it out")
    return value


def _namespace(value: Any) -> tuple[str, ...]:
    if not isinstance(value, str | None) or "" in (value or "-").split("|"):
        raise _wrong("checkpoint_ns", f"expected 'node:task|...', got {value!r}", "Take it from get_state's tasks")
    return tuple(value.split("|")) if value else ()


def _step(configurable: Mapping[str, Any]) -> int | None:
    value = configurable.get("step")
    if value is None:
        value = configurable.get("checkpoint_id")
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 19:
        return int(value)
    raise _wrong("step", f"expected a number, got {value!r}", "Take it from get_state_history or an event's step")


def _wrong(argument: str, problem: str, fix: str) -> ArgumentError:
    return ArgumentError(argument=argument, problem=problem, fix=fix)
