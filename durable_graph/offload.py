"""What blocks, for asyncio: in a thread of its own, and to its end.

The rule: a call that was begun cannot be stopped. Who is cancelled while it waits learns of it when the call has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, Iterator
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")


class Offload:
    """One thread for blocking calls of one asyncio task, started when first needed.

    It costs half of what `run_in_executor` and `shield` do: there is one future, and one callback of the loop.
    """

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    async def run(self, call: Callable[[], T]) -> T:
        """The call's result. It cannot be stopped: who is cancelled meanwhile learns of it when the call has ended."""
        return await self.begin(call)

    def begin(self, call: Callable[[], T]) -> asyncio.Future[T]:
        """The call's result, to be awaited; also there for who was cancelled while it did."""
        if self._thread is None:
            # A daemon, as a loop that is never closed must not keep the process from ending.
            self._thread = threading.Thread(
                target=_perform, args=[self._calls], name="durable_graph_store", daemon=True
            )
            self._thread.start()
            weakref.finalize(self, self._calls.put, None).atexit = False  # if a loop has dropped us, unclosed
        loop = asyncio.get_running_loop()
        future: _Unstoppable[T] = _Unstoppable(loop=loop)
        self._calls.put(partial(_answer, loop, future, call))
        return future

    def close(self) -> None:
        if self._thread is not None:
            self._calls.put(None)
            self._thread.join()


class _Unstoppable(asyncio.Future[T]):
    """To a task that is cancelled while it awaits this, asyncio raises CancelledError once this is done."""

    def cancel(self, msg: Any | None = None) -> bool:
        return False


def _perform(calls: queue.SimpleQueue[Callable[[], None] | None]) -> None:
    while (call := calls.get()) is not None:
        call()


def _answer(loop: asyncio.AbstractEventLoop, future: _Unstoppable[T], call: Callable[[], T]) -> None:
    try:
        result = call()
    except BaseException as error:
        answer = partial(future.set_exception, error)
    else:
        answer = partial(future.set_result, result)
    with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits any more
        loop.call_soon_threadsafe(answer)


async def settled(future: asyncio.Future[T]) -> T:
    """Await what cannot be stopped: when we are cancelled, first see it through."""
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        while not future.done():
            try:
                await asyncio.wait([future])
            except asyncio.CancelledError:
                continue  # asked again: the thread still runs
        if not future.cancelled():
            future.exception()  # the cancellation counts; unread, asyncio would complain of it
        raise


async def aiterate(iterator: Iterator[T], batch: int = 64) -> AsyncGenerator[T, None]:
    """Iterate over something that blocks, in a thread of its own, a batch at a time."""
    keeper = Offload()
    try:
        while items := await keeper.run(lambda: _take(iterator, batch)):
            for item in items:
                try:
                    yield item
                except BaseException as error:
                    await thrown_in(error)
                    raise
    finally:
        close = getattr(iterator, "close", None)
        if close is not None:
            await keeper.run(close)
        keeper.close()


def _take(iterator: Iterator[T], number: int) -> list[T]:
    items: list[T] = []
    for item in iterator:
        items.append(item)
        if len(items) == number:
            break
    return items


async def in_thread(call: Callable[[], T]) -> T:
    """One blocking call, for asyncio."""
    keeper = Offload()
    try:
        return await keeper.run(call)
    finally:
        keeper.close()


async def ended(thread: threading.Thread) -> None:
    """`thread.join()` for asyncio, for a thread that is about to end."""
    thread.join(0.002)  # nearly always it ends within that, and to go round the loop would take as long
    while thread.is_alive():  # noqa: ASYNC110
        await asyncio.sleep(0.001)


async def thrown_in(error: BaseException) -> None:
    """To be awaited first by a generator that was thrown something at its `yield`, and that will await more.

    asyncio closes a generator that was dropped in a task of its own. If the loop ends just then it cancels that task
    before it has begun, and Python 3.11 (`async_gen_athrow_throw` in Objects/genobject.c) throws two things then:
    CancelledError where the generator stands, and GeneratorExit into whatever it awaits first thereafter.
    """
    if isinstance(error, asyncio.CancelledError):
        with contextlib.suppress(GeneratorExit):
            await asyncio.sleep(0)
