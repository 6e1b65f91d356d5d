"""The runtime interface of agent-sandbox's clients: commands and files, by the agent of the sandbox.

Images need no server for it.  The paths are those of the project's ``python-runtime``, which listens on port 8888.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from starlette.responses import JSONResponse, Response

from pyvmm_sandbox import CommandTimeout
from pyvmm_server import bodies, threads, transfers
from pyvmm_server.errors import ClientError

if TYPE_CHECKING:
    from starlette.requests import Request

    from pyvmm_sandbox.files import Entry
    from pyvmm_server.session import Session
    from pyvmm_server.users import User

PORT = 8888
LONGEST_S = 24 * 3600.0
"""Of a command whose client gives no limit."""
_START = 'mkdir -p -- "$1" && cd -- "$1" && exec /bin/sh -c "$2"'
"""The folder is that of files, which is there after the first one only."""
_GET = ("download", "list", "exists")
_POST = ("execute", "upload")


def is_call(request: Request) -> bool:
    """Whether this interface answers it; others are for a server inside."""
    name = request.url.path.removeprefix("/").partition("/")[0]
    return name in (_GET if request.method == "GET" else _POST if request.method == "POST" else ())


async def answer(session: Session, request: Request) -> Response:
    """
    :raises ClientError: the request is wrong
    :raises OSError: of a file
    """
    name, _, rest = request.url.path.removeprefix("/").partition("/")
    user = await session.user()
    if name == "execute":
        return await _execute(session, user, request)
    if name == "upload":
        return await transfers.upload(session, request)
    path = user.path(rest)
    files = session.users.files(user)
    if name == "download":
        return await transfers.content(files, path)
    if name == "exists":
        return JSONResponse({"path": rest, "exists": await threads.call(files.exists, path)})
    return JSONResponse([_listed(each) for each in await threads.call(files.entries, path)])


async def _execute(session: Session, user: User, request: Request) -> Response:
    body = await bodies.read_json(request)
    command = bodies.take(body, "command", str)
    limit = _limit(body, request)
    try:
        found = await threads.call(
            session.live.box.run,
            ["/bin/sh", "-c", _START, "sh", user.path(""), command],
            timeout=limit,
            env={**user.environment, **session.record.envs},
            user=user.ids,
        )
    except CommandTimeout as error:
        found = error.result
        return JSONResponse(_result(found.stdout, found.stderr or str(error), 124, late=True))
    return JSONResponse(_result(found.stdout, found.stderr, found.exit_code, late=False))


def _result(stdout: str, stderr: str, code: int, *, late: bool) -> dict[str, object]:
    return {"stdout": stdout, "stderr": stderr, "exit_code": code, "timed_out": late}


def _limit(body: dict[str, object], request: Request) -> float:
    """The seconds of a command: its own limit, or as long as its client waits."""
    wanted = body.get("timeout_seconds")
    text = request.headers.get("x-sandbox-timeout", "")
    try:
        found = float(wanted if isinstance(wanted, int | float) else text or LONGEST_S)
    except (ValueError, OverflowError):
        found = LONGEST_S
    if not (math.isfinite(found) and found > 0):
        raise ClientError(400, f"timeout_seconds {found} is not a time")
    return min(found, LONGEST_S)


def _listed(entry: Entry) -> dict[str, object]:
    kind = "directory" if entry.type == "directory" else "file"
    return {"name": entry.name, "size": entry.size, "type": kind, "mod_time": entry.modified}
