"""Requests to sandboxes of another node: that node's relay answers them with the server's own code."""

from __future__ import annotations

import asyncio
import hmac
import os
import re
import subprocess
from typing import TYPE_CHECKING, Protocol

import h11
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from pyvmm_server import proxy, threads
from pyvmm_server.proxy import RELAY

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from starlette.types import Receive, Scope, Send

    from pyvmm_server.calls import Call
    from pyvmm_server.engine import Address
    from pyvmm_server.sandboxes import Live

OWNER = "x-pyvmm-owner"
"""The client of a call that the server has authorized, as a header and in the scope of the request."""
SAVED = "/pyvmm/saved/"
_NAME = re.compile(r"[0-9a-f-]{1,40}")
_KEYS = (b"x-api-key", b"authorization")
_PIECE = 1 << 20


class Application(Protocol):
    """What a relay guards."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...

    def named(self, request: Request) -> tuple[str, str]:
        """See :class:`pyvmm_server.tunnels.Reach`."""

    async def reach(self, sandbox_id: str, port: str) -> Live:
        """Likewise."""


class Guard:
    """The application of a relay: answers requests of the server and of other nodes, and no others.

    :param saved: the folder with saved sandboxes, which other nodes fetch
    """

    def __init__(self, app: Application, secret: str, saved: str) -> None:
        self._app = app
        self._secret = secret.encode()
        self._saved = saved

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = dict(scope["headers"])
            if not self._is_ours(headers.get(RELAY.encode(), b"")):
                answer = JSONResponse({"code": 403, "message": "this port is for the server of the sandboxes"}, 403)
                await answer(scope, receive, send)
                return
            ours = (RELAY.encode(), OWNER.encode())
            scope["headers"] = [each for each in scope["headers"] if each[0] not in ours]
            if owner := headers.get(OWNER.encode()):
                scope[OWNER] = owner.decode("latin-1")
            if scope["path"].startswith(SAVED):
                await self._packed(scope["path"].removeprefix(SAVED))(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _is_ours(self, secret: bytes) -> bool:
        return hmac.compare_digest(secret, self._secret)

    def _packed(self, name: str) -> Response:
        folder = os.path.join(self._saved, name)
        if not (_NAME.fullmatch(name) and os.path.isdir(folder)):
            return JSONResponse({"code": 404, "message": "it is not on this node"}, 404)
        return StreamingResponse(pack(folder), media_type="application/x-tar")

    # -- for WebSockets, see tunnels.Reach -----------------------------------------------------------------------------

    def named(self, request: Request) -> tuple[str, str]:
        """As the application, for requests of the server; others name nothing."""
        if not self._is_ours(request.headers.get(RELAY, "").encode("latin-1")):
            return "", ""
        return self._app.named(request)

    async def reach(self, sandbox_id: str, port: str) -> Live:
        """As the application."""
        return await self._app.reach(sandbox_id, port)


async def pack(folder: str) -> AsyncIterator[bytes]:
    """The content of a folder as an archive with its holes, owners and links.

    :raises OSError: it cannot be read; the answer then lacks its end, which its reader notices
    """
    command = ["tar", "-C", folder, "--sparse", "--xattrs", "--numeric-owner", "-cf", "-", "."]
    quiet = subprocess.DEVNULL
    process: subprocess.Popen[bytes] = await threads.call(
        lambda: subprocess.Popen(command, stdin=quiet, stdout=subprocess.PIPE, stderr=quiet)
    )
    assert process.stdout is not None
    try:
        while data := await threads.call(process.stdout.read, _PIECE):
            yield data
        if await threads.call(process.wait):
            raise OSError(f"tar cannot read {folder}")
    finally:
        process.kill()
        process.stdout.close()
        await asyncio.shield(threads.call(process.wait))


def unpack(address: Address, name: str, folder: str) -> None:
    """Fetch a saved sandbox from another node into an empty folder.

    :raises OSError: the node does not answer, does not have it, or has not sent all of it
    """
    import http.client

    connection = http.client.HTTPConnection(address.host, address.port, timeout=60)
    try:
        connection.request("GET", SAVED + name, headers={RELAY: address.secret})
        answer = connection.getresponse()
        if answer.status != 200:
            raise OSError(f"the node at {address.host} does not have {name}")
        command = ["tar", "-C", folder, "--xattrs", "--numeric-owner", "-xpf", "-"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdin is not None and process.stderr is not None
            while data := answer.read(_PIECE):
                process.stdin.write(data)
            process.stdin.close()
            words = process.stderr.read().decode(errors="replace").strip()
        if process.returncode:
            raise OSError(f"{name} cannot be unpacked: {words[-300:]}")
    except http.client.HTTPException as error:
        raise OSError(f"the node at {address.host} has not sent all of {name}: {error}") from error
    finally:
        connection.close()


async def forward(address: Address, sandbox_id: str, port: str, request: Request) -> Response:
    """Pass a request to a sandbox on, and the answer back.

    :raises Unreachable: the node does not answer
    """
    headers = _headers(request.headers.raw, _to_sandbox(address, sandbox_id, port))
    return await proxy.answer_of_node(address.host, address.port, request, headers)


async def forward_call(address: Address, call: Call) -> Response:
    """Pass a call of the control interface on, and the answer back.  The node trusts the server, and sees no key.

    :raises Unreachable: the node does not answer
    """
    kept = [(name, value) for name, value in call.request.headers.raw if name not in _KEYS]
    headers = _headers(kept, {RELAY: address.secret, OWNER: call.owner})
    return await proxy.answer_of_node(address.host, address.port, call.request, headers)


async def open_tunnel(
    address: Address, sandbox_id: str, port: int, request: h11.Request
) -> tuple[proxy.Upstream, h11.Request]:
    """A connection to the node for a request that changes the protocol, and the request for it.

    :raises Unreachable: the node does not answer
    """
    headers = _headers(request.headers.raw_items(), _to_sandbox(address, sandbox_id, str(port)))
    made = h11.Request(method=request.method, target=request.target, headers=headers)
    return await proxy.connect_to_node(address.host, address.port), made


def _to_sandbox(address: Address, sandbox_id: str, port: str) -> dict[str, str]:
    return {"e2b-sandbox-id": sandbox_id, "e2b-sandbox-port": port, RELAY: address.secret}


def _headers(sent: Iterable[tuple[bytes, bytes]], more: dict[str, str]) -> list[tuple[bytes, bytes]]:
    """Those of a client's request with our own, which no client can set."""
    ours = {RELAY.encode(), OWNER.encode(), *(name.encode() for name in more)}
    kept = [each for each in sent if each[0].lower() not in ours]
    return kept + [(name.encode(), value.encode()) for name, value in more.items()]
