"""Calls that block, in threads: one for each, since they wait for other processes."""

from __future__ import annotations

import asyncio
import functools
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator

Result = TypeVar("Result")
MOST = 4000
"""Of threads. A command that runs has one."""


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(MOST, "call")


async def call(function: Callable[..., Result], *args: Any, **options: Any) -> Result:
    """The result of a call in a thread."""
    return await asyncio.get_running_loop().run_in_executor(_threads(), functools.partial(function, *args, **options))


async def to_end(work: Coroutine[Any, Any, Result]) -> Result:
    """Await work whose result must not be lost: a cancellation of the task comes at its next ``await``."""
    running = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        return running.result()


async def each(items: Iterator[Result]) -> AsyncIterator[Result]:
    """The items of an iterator that blocks."""
    end = object()
    while (item := await call(next, items, end)) is not end:
        yield item
