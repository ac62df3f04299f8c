"""What nodes and @tasks with a cache policy returned, kept so that the same input need not be worked on again.

The rule: a cache decides whether a function is called, never what the log says. A hit is recorded in the task's row
like any other result, and from then on the row is the truth.

    key     SHA-256 of the input's bytes in the codec's form, or of what the policy's key_func makes of the input; where
            values are encrypted an HMAC, as inputs can be guessed and their hashes compared
    value   {"updates", "goto"} of a node, {"result"} of a @task; as it was returned, before it was checked, so that a
            hit is checked like a fresh result (and messages get ids of their own each time)
    read    by a task's first attempt. One that failed, crashed or was interrupted runs its function for certain: after
            a correction nothing old may stand in its way.
    kept    after the task's row is durable: what was refused is never in a cache
    not     what somebody outside was asked or waited for: an approval of one thread is none of another

A value that cannot be read, or does not pass the checks, may be from other code: it counts as not there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from durable_graph.core.effects import Invoke
from durable_graph.core.model import CachePolicy
from durable_graph.core.times import iso
from durable_graph.errors import EncryptionKeyError, NodeCodeError, UnstorableValueError
from durable_graph.store import Cache, Entry


class Codec(Protocol):
    def canonical(self, value: Any) -> bytes: ...

    def digest(self, data: bytes) -> str: ...

    def write(self, value: Any, *place: str | int) -> bytes: ...

    def read(self, data: bytes, *place: str | int, strict: bool = False) -> Any: ...


class Caching(NamedTuple):
    """The cache of a run, and what it takes to use it."""

    cache: Cache
    codec: Codec
    now: Callable[[], float]


class Memo:
    """The place of one task's result in the cache."""

    def __init__(
        self,
        caching: Caching,
        policy: CachePolicy[Any],
        namespace: str,
        node: str,
        thread_id: str,
        reads: bool,
    ) -> None:
        self._cache, self._codec, self._now = caching
        self._policy = policy
        self._namespace = namespace
        self._where = {"node": node, "thread_id": thread_id}
        self._reads = reads
        self.looking = False  # who is cancelled meanwhile need not call the function
        self._key = ""
        self._value: bytes | None = None

    def find(
        self, plain: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Generator[Invoke, Any, Mapping[str, Any] | None]:
        """What was kept for this input; None if nothing was. `plain`: the input in a form that can be stored; the
        arguments are for the policy's key_func."""
        self._key = yield from self._key_of(plain, args, kwargs)
        if not self._reads:
            return None
        recall = functools.partial(self._cache.recall, self._namespace, self._key, now=iso(self._now()))
        data = yield from self._looked(recall, (), {})
        if data is None:
            return None
        try:
            found = self._codec.read(data, *self._place, strict=True)
        except (ValueError, EncryptionKeyError):
            return None
        return found if isinstance(found, dict) else None

    def _looked(
        self, call: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Generator[Invoke, Any, Any]:
        self.looking = True
        try:
            return (yield call, args, kwargs, None)
        finally:
            self.looking = False

    def _key_of(self, plain: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Generator[Invoke, Any, str]:
        if self._policy.key_func is None:
            data: Any = self._canonical(plain)
        else:
            data = yield from self._looked(self._policy.key_func, tuple(args), kwargs)
        if isinstance(data, str):
            data = data.encode(errors="surrogatepass")
        if not isinstance(data, bytes):
            raise NodeCodeError(
                **self._where,
                problem=f"the key_func of its cache policy returned {type(data).__name__}",
                fix="Return a text or bytes.",
            )
        return self._codec.digest(data)

    def _canonical(self, plain: Any) -> bytes:
        try:
            return self._codec.canonical(plain)
        except UnstorableValueError as error:
            error.add_note(f"in the input of {self._where['node']!r}: give its cache policy a key_func")
            raise

    def note(self, value: Mapping[str, Any]) -> None:
        """This is to be kept, once its row is durable."""
        try:
            self._value = self._codec.write(value, *self._place)
        except UnstorableValueError as error:
            error.add_note(f"in what {self._where['node']!r} returned: it has a cache policy")
            raise

    @property
    def _place(self) -> tuple[str, str, str]:
        return "cache", self._namespace, self._key

    def entry(self, finished: float) -> Entry | None:
        if self._value is None:
            return None
        ttl = self._policy.ttl
        return Entry(self._namespace, self._key, self._value, None if ttl is None else iso(finished + ttl))


def node_namespace(graph: str, node: str, call: Callable[..., Any]) -> str:
    """Of one node of one graph, as long as its function has the same name."""
    return repr((graph, node, _identity(call)))


def task_namespace(name: str, call: Callable[..., Any]) -> str:
    """Of a @task, whoever calls it."""
    return repr((name, _identity(call)))


def _identity(call: Any) -> str:
    while isinstance(call, functools.partial):
        call = call.func
    named = call if hasattr(call, "__qualname__") else type(call)
    return f"{named.__module__}.{named.__qualname__}"
