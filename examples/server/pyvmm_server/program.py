"""The server's process: ends streams when it ends, since those of commands can last for days."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import uvicorn

from pyvmm_server import connect

if TYPE_CHECKING:
    import socket
    from types import FrameType


class Program(uvicorn.Server):
    """Uvicorn, which waits for open requests when it ends."""

    _loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(connect.end_all)
