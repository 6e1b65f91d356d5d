"""Commands and files of a sandbox, by the interface of the daemon that E2B has inside each."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from pyvmm_server import connect, filesystem, processes, relay, store, transfers, watches
from pyvmm_server.errors import ClientError, describe, gone, lost, not_there
from pyvmm_server.session import Session
from pyvmm_server.settings import MOST_INPUT

if TYPE_CHECKING:
    from pyvmm_server.sandboxes import Live, Sandboxes
    from pyvmm_server.store import Record

PORT = "49983"
_PROCESS, _FILESYSTEM = "/process.Process/", "/filesystem.Filesystem/"
_INPUT = _PROCESS + "StreamInput"
_OTHERS = ("/health", "/files", "/envs", "/metrics", "/files/compose", "/init")
_STREAMS = {
    **{_PROCESS + name: call for name, call in processes.STREAMS.items()},
    **{_FILESYSTEM + name: call for name, call in watches.STREAMS.items()},
}
_CALLS = {
    **{_PROCESS + name: call for name, call in processes.CALLS.items()},
    **{_FILESYSTEM + name: call for name, call in watches.CALLS.items()},
}
PATHS = frozenset([*_STREAMS, *_CALLS, _INPUT, *(_FILESYSTEM + name for name in filesystem.NAMES), *_OTHERS])


async def answer(sandboxes: Sandboxes, sandbox_id: str, request: Request) -> Response:
    """Answer a request to a sandbox's daemon."""
    try:
        record = _record(sandboxes, sandbox_id, request)
        if request.url.path == "/health":
            return await _health(await sandboxes.live(record), record)
        live = await sandboxes.awake(record)
        if address := live.handle.relay:
            return await relay.forward(address, record.id, PORT, request)
        return await _route(Session(sandboxes.settings, record, live, request), request)
    except Exception as error:
        found = describe(error)
        if _is_call(request):
            return connect.failure(found)
        return JSONResponse({"code": found.status, "message": found.message}, found.status)


def _record(sandboxes: Sandboxes, sandbox_id: str, request: Request) -> Record:
    """
    :raises ClientError: there is none, or the request does not have its token
    """
    record = sandboxes.store.get(sandbox_id)
    if record is not None and record.state == store.LOST:
        raise lost(sandbox_id, record.node or record.holder, 502)
    if record is None or record.state not in (store.RUNNING, store.PAUSED):
        raise gone(sandbox_id)
    if request.url.path == "/health":
        return record
    token = request.headers.get("x-access-token", "").encode(errors="replace")
    signed = request.url.path == "/files" and "signature" in request.query_params
    if not (
        transfers.is_signed(request, record.token) if signed else hmac.compare_digest(token, record.token.encode())
    ):
        raise ClientError(401, "the access token of the sandbox is wrong or missing")
    return record


def find_signed(sandboxes: Sandboxes, request: Request) -> str:
    """The sandbox whose token has signed the URL of a file, where neither header nor host names it; empty: none."""
    if request.url.path == "/files" and "signature" in request.query_params:
        for record in sandboxes.store.in_states(store.RUNNING, store.PAUSED):
            if transfers.is_signed(request, record.token):
                return record.id
    return ""


async def _health(live: Live, record: Record) -> Response:
    if record.state == store.PAUSED or not await live.handle.is_running():
        raise gone(record.id)
    return Response(status_code=204)


def _is_call(request: Request) -> bool:
    return request.url.path.startswith((_PROCESS, _FILESYSTEM))


async def _route(session: Session, request: Request) -> Response:
    path, method = request.url.path, request.method
    if _is_call(request):
        if method != "POST":
            raise ClientError(405, "calls are made by POST", code="unimplemented")
        return await _rpc(session, request)
    if path == "/files" and method in ("GET", "POST"):
        return await (transfers.download if method == "GET" else transfers.upload)(session, request)
    if path == "/envs" and method == "GET":
        return JSONResponse(session.record.envs)
    if path in ("/metrics", "/files/compose", "/init"):
        raise not_there(f"{method} {path} of a sandbox")
    raise ClientError(404, f"a sandbox has no {method} {path[:80]}")


async def _rpc(session: Session, request: Request) -> Response:
    path = request.url.path
    if path in _STREAMS or path == _INPUT:
        connect.check_type(request, connect.STREAM)
        try:
            # All of the request is read before the answer begins: from then on, what comes is the client's departure.
            if path == _INPUT:
                return connect.streamed(connect.only(await processes.stream_input(session, request)))
            return connect.streamed(_STREAMS[path](session, request, await connect.only_message(request)))
        except Exception as error:
            return connect.streamed(connect.failing(error))
    connect.check_type(request, connect.UNARY)
    name = path.removeprefix(_FILESYSTEM)
    message = await connect.unary(request, MOST_INPUT)
    if name in filesystem.NAMES:
        return JSONResponse(await filesystem.call(name, session, message))
    if path in _CALLS:
        return JSONResponse(await _CALLS[path](session, message))
    raise not_there(f"the call {path[:80]}")
