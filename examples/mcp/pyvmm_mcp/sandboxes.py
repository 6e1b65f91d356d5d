"""The sandboxes of a server.  All its clients share them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from pyvmm_mcp.background import Commands
from pyvmm_mcp.snapshots import Snapshots
from pyvmm_sandbox import AsyncSandbox, Sandbox
from pyvmm_sandbox.errors import SandboxError, SandboxNotFound, UsageError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from pyvmm_mcp.settings import Settings
    from pyvmm_sandbox import Forward

_Result = TypeVar("_Result")


@dataclass
class Box:
    """A sandbox with the name that clients use.

    :ivar source: the image, snapshot or sandbox that it was made from
    :ivar calls: how many use it
    :ivar commands: that run in the background
    :ivar forwards: by the port inside; they end with the sandbox
    """

    sandbox: Sandbox
    source: str
    name: str = field(default_factory=lambda: f"sandbox-{secrets.token_hex(3)}")
    created: float = field(default_factory=time.monotonic)
    calls: int = 0
    commands: Commands = field(default_factory=Commands)
    forwards: dict[int, Forward] = field(default_factory=dict)

    @functools.cached_property
    def twin(self) -> AsyncSandbox:
        """Its coroutines."""
        return AsyncSandbox(self.sandbox)


class Sandboxes:
    """All sandboxes of a server, and their snapshots."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.snapshots = Snapshots(settings.max_snapshots)
        self._boxes: dict[str, Box] = {}
        self._coming = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._threads = ThreadPoolExecutor(settings.max_sandboxes * 8, "mcp")  # they wait for other processes

    async def create(self, image: str, snapshot: str) -> Box:
        """A sandbox of an image, or of a snapshot; of the default image where both are empty.

        :raises VmmError: it cannot be made
        """
        settings = self.settings
        image = image or settings.images[0]
        if snapshot:
            start = self.snapshots.template(snapshot).start
            make = functools.partial(start, config=settings.config, root=settings.root)
        elif image not in settings.images:
            raise UsageError(f"image {image!r:.80} is not allowed here", hint=f"use {', '.join(settings.images)}")
        else:
            make = functools.partial(
                Sandbox,
                image,
                cpus=settings.cpus,
                memory=settings.memory,
                network=settings.network,
                config=settings.config,
                root=settings.root,
            )
        return (await self._add(lambda: [make(timeout=settings.idle_timeout)], 1, snapshot or image))[0]

    async def fork(self, name: str, count: int) -> list[Box]:
        """Running copies of a sandbox.

        :raises VmmError: there are no copies
        """
        async with self.use(name) as box:
            return await self._add(lambda: box.sandbox.fork(count), count, name)

    async def snapshot(self, name: str) -> str:
        """Save a sandbox; the snapshot's name.

        :raises VmmError: it cannot be saved
        """
        async with self.use(name) as box:
            return await self.call(self.snapshots.save, box.sandbox, name)

    @contextlib.asynccontextmanager
    async def use(self, name: str) -> AsyncIterator[Box]:
        """A sandbox, which is not taken for an idle one meanwhile.

        :raises SandboxNotFound: there is none with this name
        """
        box = self._boxes.get(name)
        if box is None:
            raise SandboxNotFound(f"there is no sandbox {name!r:.80}", hint="list_sandboxes names all")
        box.calls += 1
        box.sandbox.set_timeout(self.settings.idle_timeout + self.settings.max_timeout)
        try:
            yield box
        finally:
            box.calls -= 1
            if not box.calls and name in self._boxes:
                box.sandbox.set_timeout(self.settings.idle_timeout)

    async def kill(self, name: str) -> None:
        """End a sandbox.

        :raises SandboxNotFound: there is none with this name
        """
        async with self.use(name) as box:
            self._boxes.pop(name, None)
            await self.call(box.sandbox.kill)

    async def running(self) -> list[Box]:
        """Those that have not ended by themselves; the others are forgotten."""
        for name, box in list(self._boxes.items()):
            if not await self.call(lambda sandbox=box.sandbox: sandbox.is_running):
                self._boxes.pop(name, None)
        return list(self._boxes.values())

    async def close(self) -> None:
        """End all sandboxes, and remove the snapshots."""
        boxes, self._boxes = list(self._boxes.values()), {}
        await asyncio.gather(*(self.call(box.sandbox.kill) for box in boxes), return_exceptions=True)
        await self.call(self.snapshots.close)

    async def call(self, function: Callable[..., _Result], *args: object) -> _Result:
        """The result of a call that blocks."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, functools.partial(function, *args))

    async def finish(self, call: Coroutine[Any, Any, _Result]) -> _Result:
        """The result of a coroutine. If the client cancels its request, the coroutine is cancelled once.

        The SDK cancels all that a request awaits again and again, so what a coroutine does at its end would not run.
        """
        task = asyncio.create_task(call)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.cancel()
            raise

    async def _add(self, make: Callable[[], list[Sandbox]], count: int, source: str) -> list[Box]:
        await self.running()
        if len(self._boxes) + self._coming + count > self.settings.max_sandboxes:
            raise SandboxError(
                f"no more than {self.settings.max_sandboxes} sandboxes can run at a time", hint="kill_sandbox ends one"
            )
        self._coming += count
        adding = asyncio.create_task(self._register(make, count, source))
        try:
            return await asyncio.shield(adding)
        except asyncio.CancelledError:
            adding.add_done_callback(self._discard)  # the caller never learns their names
            raise

    async def _register(self, make: Callable[[], list[Sandbox]], count: int, source: str) -> list[Box]:
        try:
            made = [Box(sandbox, source) for sandbox in await self.call(make)]
        finally:
            self._coming -= count
        for box in made:
            box.sandbox.set_timeout(self.settings.idle_timeout)
            self._boxes[box.name] = box
        return made

    def _discard(self, adding: asyncio.Task[list[Box]]) -> None:
        if not adding.cancelled() and adding.exception() is None:
            for box in adding.result():
                self._boxes.pop(box.name, None)
                self._threads.submit(box.sandbox.kill)
