"""Requests to sandboxes of another node: that node's relay answers them with the server's own code."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

from starlette.responses import JSONResponse, Response

from pyvmm_server import proxy

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

    from pyvmm_server.engine import Address

HEADER = "x-pyvmm-relay"


class Guard:
    """The application of a relay: answers requests of the server to sandboxes, and no others."""

    def __init__(self, app: ASGIApp, secret: str) -> None:
        self._app = app
        self._secret = secret.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = dict(scope["headers"])
            if not hmac.compare_digest(headers.get(HEADER.encode(), b""), self._secret):
                answer = JSONResponse({"code": 403, "message": "this port is for the server of the sandboxes"}, 403)
                await answer(scope, receive, send)
                return
            scope["headers"] = [each for each in scope["headers"] if each[0] != HEADER.encode()]
        await self._app(scope, receive, send)


async def forward(address: Address, sandbox_id: str, port: str, request: Request) -> Response:
    """Pass a request on, and the answer back.

    :raises Unreachable: the node does not answer
    """
    more = {"e2b-sandbox-id": sandbox_id, "e2b-sandbox-port": port, HEADER: address.secret}
    headers = [(name, value) for name, value in request.headers.raw if name.decode("latin-1") not in more]
    headers += [(name.encode(), value.encode()) for name, value in more.items()]
    return await proxy.answer_of_node(address.host, address.port, request, headers)
