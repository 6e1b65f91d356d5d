"""A guest's vsock from :mod:`asyncio`: versions of :meth:`Vsock.connect` and :meth:`Vsock.listen`.

reader, writer = await vsock_aio.connect(machine.vsock, 5000)
server = await vsock_aio.serve(machine.vsock, 5001, on_client)
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Protocol


class Device(Protocol):
    """A vsock device of either backend."""

    def connect(self, port: int, *, seqpacket: bool = ..., timeout: float | None = ...) -> socket.socket: ...
    def listen(self, port: int, *, seqpacket: bool = ..., backlog: int = ...) -> socket.socket: ...


OnClient = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None] | None]


async def connect(device: Device, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A stream to *port* of the guest; other tasks run until the guest accepts.

    :raises ConnectionRefusedError: nobody listens there
    """
    made = await _connect(device, port)
    return await asyncio.open_connection(sock=made)


async def _connect(device: Device, port: int) -> socket.socket:
    uds = getattr(device, "uds", None)
    if uds is None:
        # The kernel's own sockets: connect() says at once, or in the two seconds that it waits for a guest
        return await asyncio.to_thread(device.connect, port)
    from vmm.virtio.vsock import client as vsock_client

    loop = asyncio.get_running_loop()
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.setblocking(False)
        await loop.sock_connect(made, uds)
        await loop.sock_sendall(made, vsock_client.greeting(port))
        answer = b""
        while not answer.endswith(b"\n"):
            byte = await loop.sock_recv(made, 1)
            if not byte:
                raise vsock_client.refused(uds, port)
            answer += byte
    except (ConnectionResetError, BrokenPipeError) as error:
        made.close()
        raise vsock_client.refused(uds, port) from error
    except BaseException:
        made.close()
        raise
    return made


async def serve(device: Device, port: int, on_client: OnClient) -> asyncio.Server:
    """Serve the guest's connections to *port* of the host, as :func:`asyncio.start_server` does.

    :raises ConfigError: another program listens on that port
    """
    made = device.listen(port)
    made.setblocking(False)
    return await asyncio.start_server(on_client, sock=made)
