"""Notes each request: in the figures, in a trace, and in the log if the administrator wants that."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from starlette.datastructures import Headers

from pyvmm_server import envd, interpreter, metrics, traces

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("pyvmm_server.requests")
SANDBOX, PORT = "pyvmm.sandbox", "pyvmm.port"
"""Names of what the scope of a request to a sandbox has."""
_METHODS = {"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"}


class Observer:
    """Wraps the application.

    :param paths: of the functions that answer
    :param logs: write a line for each request
    """

    def __init__(self, app: ASGIApp, paths: Mapping[object, str], *, logs: bool) -> None:
        self._app = app
        self._paths = paths
        self._logs = logs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status, took = time.perf_counter(), 499, 0.0

        async def note(message: Message) -> None:
            nonlocal status, took
            if message["type"] == "http.response.start":
                status, took = message["status"], time.perf_counter() - started
            await send(message)

        with traces.request(Headers(scope=scope)) as span:
            try:
                await self._app(scope, receive, note)
            finally:
                route = self._route(scope)
                method = scope["method"] if scope["method"] in _METHODS else "other"
                sandbox = str(scope.get(SANDBOX, "") or scope.get("path_params", {}).get("sandbox", ""))[:40]
                metrics.REQUESTS.labels(route, method, str(status)).inc()
                metrics.DURATIONS.labels(route).observe(took or time.perf_counter() - started)
                trace = traces.name_request(span, method, route, status, sandbox)
                if self._logs:
                    known = {"method": method, "route": route, "status": status, "seconds": round(took, 6)}
                    known |= {"trace": trace} if trace else {}
                    log.info("request", extra={"sandbox": sandbox, "fields": known})

    def _route(self, scope: Scope) -> str:
        """What the path stands for: there are as many as this server has."""
        if SANDBOX not in scope:
            return self._paths.get(scope.get("endpoint"), "none")
        if scope[PORT] == envd.PORT:
            return f"sandbox:{scope['path']}" if scope["path"] in envd.PATHS else "sandbox:none"
        return "interpreter" if scope[PORT] == str(interpreter.PORT) else "proxy"
