"""E2B's code interpreter: Python that keeps its state, by the kernels of the sandbox library.

As any port of a sandbox, this one is open to those who have the sandbox's id, which nobody can guess.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import time
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response, StreamingResponse

from pyvmm_sandbox import UsageError
from pyvmm_sandbox.code import Running
from pyvmm_server import bodies, threads
from pyvmm_server.errors import ClientError, describe, not_there

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pyvmm_sandbox.code import Bundle, Context, Execution
    from pyvmm_server.sandboxes import Sandboxes
    from pyvmm_server.session import Session

PORT = 49999
_FORMS = {
    "text": "text/plain",
    "html": "text/html",
    "markdown": "text/markdown",
    "svg": "image/svg+xml",
    "png": "image/png",
    "jpeg": "image/jpeg",
    "pdf": "application/pdf",
    "latex": "text/latex",
    "json": "application/json",
    "javascript": "application/javascript",
}
_QUEUE = 64
Line = dict[str, Any]


class Code:
    """Code that runs for a client, and the lines of its answer."""

    def __init__(self, session: Session, code: str, context: str) -> None:
        self._session = session
        self._code = code
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._lines: asyncio.Queue[Line | None] = asyncio.Queue(_QUEUE)
        self._running = Running(
            on_stdout=lambda text: self._put({"type": "stdout", "text": text, "timestamp": time.time_ns() // 1000}),
            on_stderr=lambda text: self._put({"type": "stderr", "text": text, "timestamp": time.time_ns() // 1000}),
            on_result=lambda bundle: self._put(_result(bundle)),
            max_output=0,
        )

    def _put(self, line: Line) -> None:
        """Add a line; the code waits for the client."""
        with contextlib.suppress(Exception):
            asyncio.run_coroutine_threadsafe(self._lines.put(line), self._loop).result()

    async def _run(self) -> None:
        try:
            contexts = self._session.live.box.contexts
            done: Execution = await threads.call(self._running.run, contexts, self._code, self._context, None)
            if done.error is not None:
                await self._lines.put({"type": "error", **done.error._asdict()})
            await self._lines.put({"type": "number_of_executions", "execution_count": done.count})
        except Exception as error:
            await self._lines.put(
                {"type": "error", "name": "SandboxError", "value": describe(error).message, "traceback": ""}
            )
        await self._lines.put(None)

    async def lines(self) -> AsyncIterator[bytes]:
        """The answer.  Code whose client has left is interrupted."""
        task = asyncio.create_task(self._run())
        try:
            while (line := await self._lines.get()) is not None:
                yield json.dumps(line).encode() + b"\n"
        finally:
            self._running.stop()
            while not task.done():  # it may wait to add a line
                while not self._lines.empty():
                    self._lines.get_nowait()
                await asyncio.wait([task], timeout=0.05)


def _result(bundle: Bundle) -> Line:
    known = {name: bundle.data[kind] for name, kind in _FORMS.items() if kind in bundle.data}
    extra = {kind: value for kind, value in bundle.data.items() if kind not in _FORMS.values()}
    return {"type": "result", "is_main_result": bundle.is_main, **known, **({"extra": extra} if extra else {})}


async def answer(sandboxes: Sandboxes, session: Session, sent: str) -> Response:
    """Answer a request to the interpreter.

    :param sent: the sandbox's token, if the client has sent one
    """
    if sent and not hmac.compare_digest(sent.encode(errors="replace"), session.record.token.encode()):
        raise ClientError(401, "the access token of the sandbox is wrong")
    request = session.request
    path, method = request.url.path.rstrip("/"), request.method
    if (method, path) == ("GET", "/health"):
        return Response(status_code=204)
    body = await bodies.read_json(request)
    if (method, path) == ("POST", "/execute"):
        return await _execute(sandboxes, session, body)
    contexts = session.live.box.contexts
    if (method, path) == ("GET", "/contexts"):
        return JSONResponse([_context(each) for each in await threads.call(contexts.entries)])
    if (method, path) == ("POST", "/contexts"):
        _check_language(body)
        return JSONResponse(_context(await _create(session, bodies.take(body, "cwd", str, ""))))
    _, first, name, *rest = [*path.split("/"), "", "", ""]
    if first == "contexts" and name and (method, rest[0]) == ("DELETE", ""):
        await _known(threads.call(contexts.remove, name))
        return Response(status_code=204)
    if first == "contexts" and name and (method, rest[0]) == ("POST", "restart"):
        await _known(threads.call(contexts.restart, name))
        return Response(status_code=204)
    raise ClientError(404, f"the interpreter has no {method} {path[:80]}")


def _check_language(body: dict[str, Any]) -> None:
    language = bodies.take(body, "language", str, "") or "python"
    if language != "python":
        raise not_there(f"the language {language[:40]!r}")


def _context(context: Context) -> dict[str, str]:
    return {"id": context.id, "language": "python", "cwd": context.cwd}


async def _create(session: Session, cwd: str) -> Context:
    user = await session.user()
    env = {"HOME": user.home, **session.record.envs}
    return await threads.call(session.live.box.contexts.create, cwd=user.path(cwd), env=env)


async def _known(call: Any) -> Any:
    try:
        return await call
    except UsageError as error:
        raise ClientError(404 if str(error).startswith("no context") else 400, str(error)) from error


async def _execute(sandboxes: Sandboxes, session: Session, body: dict[str, Any]) -> Response:
    code = bodies.take(body, "code", str)
    if body.get("env_vars"):
        raise not_there("envs of run_code; use those of the sandbox, or os.environ:")
    _check_language(body)
    context = bodies.take(body, "context_id", str, "")
    if context:
        known = [each.id for each in await threads.call(session.live.box.contexts.entries)]
        if context not in known:
            raise ClientError(404, f"no context {context[:80]!r}")
    else:
        context = await _first(sandboxes, session)
    return StreamingResponse(Code(session, code, context).lines(), media_type="application/x-ndjson")


async def _first(sandboxes: Sandboxes, session: Session) -> str:
    """The context of clients that name none: it starts in the home directory, with the sandbox's variables."""
    async with session.live.lock:
        record = sandboxes.store.get(session.record.id) or session.record
        known = [each.id for each in await threads.call(session.live.box.contexts.entries)]
        if record.context in known:
            return record.context
        made = (await _create(session, "")).id
        sandboxes.store.change(record.id, context=made)
        return made
