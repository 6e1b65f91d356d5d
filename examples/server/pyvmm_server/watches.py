"""Changes of directories: as a stream, and kept for a client that fetches them."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from pyvmm_sandbox.files import Files
from pyvmm_server import bodies, connect, threads
from pyvmm_server.errors import ClientError
from pyvmm_server.watcher import Watcher

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from starlette.requests import Request

    from pyvmm_sandbox import Command
    from pyvmm_server.session import Session

MOST_WATCHERS = 100


async def _begin(session: Session, message: dict[str, Any]) -> Watcher:
    user = await session.user()
    path = user.path(bodies.take(message, "path", str))
    deep = bodies.take(message, "recursive", bool, False)
    start = session.users.starter(user)
    started: list[Command] = []

    def noted(words: list[str]) -> Command:
        started.append(start(words))
        return started[-1]

    watch = await threads.call(Files(noted).watch, path, deep=deep)
    watcher = Watcher(watch, started[-1], path)
    session.background(watcher.run())
    return watcher


async def watch_dir(session: Session, request: Request, message: dict[str, Any]) -> AsyncGenerator[dict[str, Any]]:
    """``WatchDir``: changes, as long as the client reads."""
    watcher = await _begin(session, message)
    try:
        yield {"start": {}}
        async for event in watcher.follow(connect.Waits(request)):
            yield event
    finally:
        watcher.kill()


async def create(session: Session, message: dict[str, Any]) -> dict[str, Any]:
    """``CreateWatcher``."""
    if len(session.live.watchers) >= MOST_WATCHERS:
        raise ClientError(429, f"there are {MOST_WATCHERS} watchers already")
    watcher = await _begin(session, message)
    name = secrets.token_hex(8)
    session.live.watchers[name] = watcher
    return {"watcherId": name}


async def events(session: Session, message: dict[str, Any]) -> dict[str, Any]:
    """``GetWatcherEvents``."""
    return {"events": _found(session, message).take()}


async def remove(session: Session, message: dict[str, Any]) -> dict[str, Any]:
    """``RemoveWatcher``."""
    watcher = _found(session, message)
    del session.live.watchers[message["watcherId"]]
    watcher.kill()
    await watcher.ended.wait()
    return {}


def _found(session: Session, message: dict[str, Any]) -> Watcher:
    name = bodies.take(message, "watcherId", str)
    if name not in session.live.watchers:
        raise ClientError(404, f"no watcher {name[:80]!r}")
    return session.live.watchers[name]


STREAMS = {"WatchDir": watch_dir}
CALLS = {"CreateWatcher": create, "GetWatcherEvents": events, "RemoveWatcher": remove}
