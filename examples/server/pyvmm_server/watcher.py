"""A directory that is watched, and its changes until somebody fetches them."""

from __future__ import annotations

import asyncio
import posixpath
from collections import deque
from typing import TYPE_CHECKING, Any

from pyvmm_server import threads

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pyvmm_sandbox import Command
    from pyvmm_sandbox.files import Watch
    from pyvmm_server.connect import Waits

KINDS = {
    "create": "EVENT_TYPE_CREATE",
    "write": "EVENT_TYPE_WRITE",
    "remove": "EVENT_TYPE_REMOVE",
    "attributes": "EVENT_TYPE_CHMOD",
}
MOST_EVENTS = 10_000
"""That are kept for a client: the oldest are lost."""


class Watcher:
    """A directory that is watched."""

    def __init__(self, watch: Watch, command: Command, path: str) -> None:
        self._watch = watch
        self._command = command
        self._path = path
        self._events: deque[dict[str, Any]] = deque(maxlen=MOST_EVENTS)
        self._news = asyncio.Event()
        self.ended = asyncio.Event()

    async def run(self) -> None:
        """Collect the changes, up to its end."""
        try:
            async for change in threads.each(iter(self._watch)):
                if change.kind in KINDS:
                    name = posixpath.relpath(change.path, self._path)
                    event = {"name": name.encode(errors="replace").decode(), "type": KINDS[change.kind]}
                    self._events.append(event)
                    self._news.set()
        except OSError:
            pass  # the sandbox sent something else
        finally:
            await threads.call(self._watch.close)
            self.ended.set()
            self._news.set()

    def take(self) -> list[dict[str, Any]]:
        """The changes since the last call."""
        found = [*self._events]
        self._events.clear()
        self._news.clear()
        return found

    async def follow(self, waits: Waits) -> AsyncIterator[dict[str, Any]]:
        """The changes as they come."""
        while not self.ended.is_set():
            if await waits.next(self._news.wait()) is None:
                yield {"keepalive": {}}
            for event in self.take():
                yield {"filesystem": event}

    def kill(self) -> None:
        """End it."""
        self._command.kill()
