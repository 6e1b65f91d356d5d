"""Requests of agent-sandbox's clients, which name a sandbox by ``X-Sandbox-ID`` and ``X-Sandbox-Namespace``.

Any node answers them: one that does not have the sandbox passes them on to the one that has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from pyvmm_server import proxy, store
from pyvmm_server.errors import ClientError, Unreachable, describe
from pyvmm_server.hosts import Hosts
from pyvmm_server.kubernetes import objects, runtime
from pyvmm_server.kubernetes.api import SANDBOX
from pyvmm_server.kubernetes.objects import Object
from pyvmm_server.session import Session

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from pyvmm_server.kubernetes.engine import Kubernetes
    from pyvmm_server.sandboxes import Sandboxes

_PASSED = "x-pyvmm-passed"
"""A header of requests that another node has passed on, so that none goes in a circle."""


class Router:
    """
    :param others: answers all other requests
    :param port: of the servers of all nodes
    """

    def __init__(self, others: ASGIApp, sandboxes: Sandboxes, engine: Kubernetes, port: int) -> None:
        self._others = others
        self._sandboxes = sandboxes
        self._engine = engine
        self._port = port
        self._hosts = Hosts(sandboxes.settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            request = Request(scope, receive)
            if name := request.headers.get("x-sandbox-id"):
                try:
                    response = await self._answer(name, request)
                except Exception as error:
                    found = describe(error)
                    response = JSONResponse({"code": found.status, "message": found.message}, found.status)
                await response(scope, receive, send)
                return
        await self._others(scope, receive, send)

    async def _answer(self, name: str, request: Request) -> Response:
        settings = self._sandboxes.settings
        self._hosts.check(request.headers)
        if settings.keys and settings.owner_of(request.headers.get("x-api-key", "")) is None:
            raise ClientError(401, "the API key is wrong or missing")
        at = (request.headers.get("x-sandbox-namespace", "default"), name)
        controller = self._engine.controller
        if controller is None or not controller.cache.is_whole:
            raise ClientError(503, "this server does not know the cluster's sandboxes yet")
        found = controller.cache.get(SANDBOX, at)
        if found is None:
            raise ClientError(404, f"Sandbox {at[1][:80]!r} in {at[0][:80]!r} does not exist")
        if objects.annotation(found, objects.NODE) != self._engine.node:
            return await self._pass_on(found, request)
        record = controller.machines.find(found)
        if record is None or record.state != store.RUNNING:
            ready = objects.condition(found, objects.READY)
            raise ClientError(
                503, f"Sandbox {name[:80]!r} is not ready: {ready.message if ready else 'it is starting'}"
            )
        live = await self._sandboxes.live(record)
        port = request.headers.get("x-sandbox-port", str(runtime.PORT))
        if not (port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 0xFFFF):
            raise ClientError(400, f"{port[:80]!r} is no port")
        if int(port) == runtime.PORT and runtime.is_call(request):
            return await runtime.answer(Session(settings, record, live, request), request)
        return await proxy.answer(live, int(port), request)

    async def _pass_on(self, sandbox: Object, request: Request) -> Response:
        """
        :raises Unreachable: the node does not answer
        """
        addresses = (sandbox.get("status") or {}).get("podIPs") or []
        if not addresses or _PASSED in request.headers:
            raise Unreachable("it has not reported the sandbox")
        headers = [*request.headers.raw, (_PASSED.encode(), b"1")]
        return await proxy.answer_of_node(addresses[0], self._port, request, headers)
