"""The context of a request to a sandbox: the sandbox, its record and the requesting user."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from pyvmm_server import threads, users

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from starlette.requests import Request

    from pyvmm_server.sandboxes import Live
    from pyvmm_server.settings import Settings
    from pyvmm_server.store import Record

_tasks: set[asyncio.Task[None]] = set()


class Session:
    """A request to a sandbox.

    :ivar users: the user database of the sandbox
    """

    def __init__(self, settings: Settings, record: Record, live: Live, request: Request) -> None:
        self.settings = settings
        self.record = record
        self.live = live
        if live.users is None:
            live.users = users.Users(live.box)
        self.users = live.users
        self.request = request

    async def user(self, name: str = "") -> users.User:
        """The user for which the request runs: *name*, that of the request, or the sandbox's default.

        :raises ClientError: the sandbox has no such user
        """
        wanted = name or users.named(self.request) or self.record.user
        found: users.User = await threads.call(self.users.find, wanted)
        return found._replace(workdir=self.record.workdir)

    def background(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine that outlives the request."""
        task = asyncio.create_task(work)
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)
