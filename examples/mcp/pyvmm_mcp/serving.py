"""A server from its start to its end, on standard input and output or over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any

from pyvmm_mcp.sandboxes import Sandboxes
from pyvmm_mcp.tools import make_server
from vmm import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mcp.server import MCPServer
    from starlette.types import ASGIApp, Receive, Scope, Send

    from pyvmm_mcp.settings import Settings

PATH = "/mcp"


async def serve(settings: Settings, listener: socket.socket | None, token: str) -> None:
    """Serve until the client closes standard input, or until a signal.  No sandbox is left.

    :param listener: for HTTP; None: standard input and output
    :param token: that clients over HTTP have to send; empty: none
    """
    sandboxes = Sandboxes(settings)
    server = make_server(sandboxes, __version__)
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    run = server.run_stdio_async() if listener is None else _serve_http(server, listener, token)
    serving, ending = asyncio.create_task(run), asyncio.create_task(ended.wait())
    await asyncio.wait({serving, ending}, return_when=asyncio.FIRST_COMPLETED)
    await sandboxes.close()
    if ended.is_set():
        sys.stderr.flush()
        os._exit(0)  # a thread that reads standard input cannot be interrupted, and clients can keep connections open
    ending.cancel()
    await serving


async def _serve_http(server: MCPServer[Any], listener: socket.socket, token: str) -> None:
    import uvicorn

    class Uvicorn(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield  # serve() handles them

    host, port = listener.getsockname()[:2]
    app: ASGIApp = server.streamable_http_app(streamable_http_path=PATH, host=host)
    if token:
        app = _with_token(app, token)
    config = uvicorn.Config(app, log_level="warning", access_log=False)
    print(f"http://{f'[{host}]' if ':' in host else host}:{port}{PATH}", file=sys.stderr, flush=True)
    await Uvicorn(config).serve([listener])


def _with_token(app: ASGIApp, token: str) -> ASGIApp:
    """The same for clients that send the token, and 401 for others."""
    expected = f"Bearer {token}".encode()

    async def check(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            sent = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(sent, expected):
                headers = [(b"www-authenticate", b"Bearer"), (b"content-length", b"0")]
                await send({"type": "http.response.start", "status": 401, "headers": headers})
                await send({"type": "http.response.body", "body": b""})
                return
        await app(scope, receive, send)

    return check
