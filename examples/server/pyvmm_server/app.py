"""The server's application: chooses who answers a request, and turns errors into answers."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import re
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pyvmm_server import (
    build_calls,
    control,
    envd,
    interpreter,
    metrics,
    observer,
    openapi,
    proxy,
    relay,
    routes,
    store,
    traces,
)
from pyvmm_server.builds import Builds
from pyvmm_server.calls import Call
from pyvmm_server.errors import ClientError, describe, gone
from pyvmm_server.hosts import Hosts
from pyvmm_server.observer import Observer
from pyvmm_server.page import routes as page
from pyvmm_server.sandboxes import Sandboxes
from pyvmm_server.session import Session
from pyvmm_server.upkeep import Upkeep

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from starlette.types import ASGIApp, Receive, Scope, Send

    from pyvmm_server.engine import Engine
    from pyvmm_server.sandboxes import Live
    from pyvmm_server.settings import Settings

log = logging.getLogger("pyvmm_server")
_HOST = re.compile(r"([0-9]{1,5})-([a-z0-9]{1,64})\.")


def make(settings: Settings, engine: Engine | None = None) -> Dispatcher:
    """The application.

    :param engine: None: the local one
    """
    sandboxes = Sandboxes(settings, engine)
    builds = Builds(sandboxes)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        begun = asyncio.Event()
        tasks = [asyncio.create_task(sandboxes.engine.run(sandboxes, begun))]
        tasks[0].add_done_callback(_report)
        await begun.wait()
        tasks.append(asyncio.create_task(Upkeep(sandboxes).run()))
        tasks[1].add_done_callback(_report)
        if traces.is_on():
            tasks.append(asyncio.create_task(traces.send()))
        yield
        await builds.close()
        for each in tasks:
            each.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        sandboxes.store.close()

    async def upload(request: Request) -> Response:
        return await _guarded(build_calls.upload(builds, request))

    table = [Route("/health", _health), Route(routes.UPLOAD, upload, methods=["PUT"])]
    for (method, path), call in routes.ROUTES.items():
        table.append(Route(path, _authorized(sandboxes, builds, call), methods=[method]))
    for path in routes.MISSING:
        table.append(Route(path, _authorized(sandboxes, builds, control.missing), methods=_METHODS))
    table += page.routes(sandboxes, lambda call: _authorized(sandboxes, builds, call))
    table.append(Route("/metrics", functools.partial(_metrics, sandboxes)))
    table.append(Route("/openapi.json", _describe))
    app = Starlette(routes=table, lifespan=lifespan, exception_handlers={HTTPException: _http_error})
    return Dispatcher(app, sandboxes, {each.endpoint: each.path for each in table})


_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]


class Dispatcher:
    """Requests to a sandbox name it by header, by host or by signature; all others are of the control interface."""

    def __init__(self, app: ASGIApp, sandboxes: Sandboxes, paths: Mapping[object, str]) -> None:
        self._app = app
        self.sandboxes = self._sandboxes = sandboxes
        self._hosts = Hosts(sandboxes.settings)
        self._observer = Observer(self._answer, paths, logs=sandboxes.settings.log_requests)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._observer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            request = Request(scope, receive)
            if not _HOST.match(request.headers.get("host", "")):
                try:
                    self._hosts.check(request.headers)
                except ClientError as error:
                    await _error(error)(scope, receive, send)
                    return
            sandbox_id, port = self.named(request)
            if sandbox_id:
                scope.update({observer.SANDBOX: sandbox_id, observer.PORT: port})
                answer: ASGIApp = await _guarded(self._sandbox(sandbox_id, port, request))
                await answer(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def named(self, request: Request) -> tuple[str, str]:
        """The sandbox and the port of a request; the former is empty: it is for the control interface."""
        if sandbox_id := request.headers.get("e2b-sandbox-id", ""):
            return sandbox_id, request.headers.get("e2b-sandbox-port", envd.PORT)
        if found := _HOST.match(request.headers.get("host", "")):
            return found[2], found[1]
        return envd.find_signed(self._sandboxes, request), envd.PORT

    async def _sandbox(self, sandbox_id: str, port: str, request: Request) -> Response:
        if port == envd.PORT:
            return await envd.answer(self._sandboxes, sandbox_id, request)
        live = await self.reach(sandbox_id, port)
        if address := live.handle.relay:
            return await relay.forward(address, sandbox_id, port, request)
        if int(port) == interpreter.PORT:
            record = self._sandboxes.store.get(sandbox_id)
            if record is None:
                raise gone(sandbox_id)
            session = Session(self._sandboxes.settings, record, live, request)
            return await interpreter.answer(self._sandboxes, session, request.headers.get("x-access-token", ""))
        return await proxy.answer(live, int(port), request)

    async def reach(self, sandbox_id: str, port: str) -> Live:
        """A running sandbox, resumed if need be.

        :raises ClientError: there is none, or the port is none
        """
        if not (port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 0xFFFF):
            raise ClientError(400, f"{port[:80]!r} is no port")
        record = self._sandboxes.store.get(sandbox_id)
        if record is None or record.state not in (store.RUNNING, store.PAUSED):
            raise gone(sandbox_id)
        return await self._sandboxes.awake(record)


def _authorized(
    sandboxes: Sandboxes, builds: Builds, call: Callable[[Call], Awaitable[Response]]
) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        owner = request.scope.get(relay.OWNER) or sandboxes.settings.owner_of(_key(request))
        if owner is None:
            raise ClientError(401, "the API key is wrong or missing")
        try:
            return await call(Call(sandboxes, builds, owner, request))
        except ClientError as error:
            if error.status == 502:  # of a sandbox that has just ended
                raise ClientError(404, error.message) from error
            raise

    async def guarded(request: Request) -> Response:
        return await _guarded(answer(request))

    return guarded


def _key(request: Request) -> str:
    return request.headers.get("x-api-key", "") or request.headers.get("authorization", "").removeprefix("Bearer ")


async def _metrics(sandboxes: Sandboxes, request: Request) -> Response:
    if not sandboxes.settings.is_admin(_key(request)):
        return _error(ClientError(403, "the figures are for keys of --admin-keys"))
    return Response(metrics.text(sandboxes.store), media_type=metrics.CONTENT_TYPE)


async def _describe(_: Request) -> Response:
    return JSONResponse(openapi.document())


async def _health(_: Request) -> Response:
    return Response(status_code=204)


async def _guarded(answer: Awaitable[Response]) -> Response:
    try:
        return await answer
    except Exception as error:
        return _error(error)


def _error(error: Exception) -> Response:
    found = describe(error)
    headers = {"Should-Retry": "false"} if found.status == 503 else {}
    return JSONResponse({"code": found.status, "message": found.message}, found.status, headers)


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"code": error.status_code, "message": error.detail}, error.status_code)


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        log.error("sandboxes are not ended in time any more", exc_info=error)
