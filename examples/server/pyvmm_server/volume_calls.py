"""E2B's control interface: volumes.  Each is a folder of this host, which sandboxes share while they run."""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response

from pyvmm_server import bodies, threads, vault
from pyvmm_server.database import Duplicate
from pyvmm_server.errors import ClientError

if TYPE_CHECKING:
    from pyvmm_server.calls import Call
    from pyvmm_server.vault import Volume

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_MOST_MOUNTS = 16
_LONGEST_PATH = 1024
_NOT_BELOW = ("/proc", "/sys", "/dev", "/.pyvmm")
_NOT_AT = ("/", "/bin", "/etc", "/lib", "/lib64", "/run", "/sbin", "/usr", "/var")


def _with_token(volume: Volume) -> dict[str, str]:
    return {"volumeID": volume.id, "name": volume.name, "token": volume.token}


def _found(call: Call) -> Volume:
    name = call.request.path_params["volume"]
    found = call.sandboxes.store.vault.volume(call.owner, name)
    if found is None:
        raise ClientError(404, f"volume {name[:80]!r} does not exist")
    return found


async def create(call: Call) -> Response:
    name = bodies.take(await bodies.read_json(call.request), "name", str)
    if not _NAME.fullmatch(name):
        raise ClientError(400, "name is not 1 to 64 letters, digits, '-' and '_', and no '-' or '_' first")
    records, most = call.sandboxes.store.vault, call.settings.most_sandboxes
    if len(records.volumes(call.owner)) >= most:
        raise ClientError(429, f"this key has {most} volumes, its limit")
    try:
        return JSONResponse(_with_token(records.add_volume(call.owner, name)), 201)
    except Duplicate:
        raise ClientError(409, f"a volume of this key is named {name!r}") from None


async def listed(call: Call) -> Response:
    found = call.sandboxes.store.vault.volumes(call.owner)
    return JSONResponse([{"volumeID": each.id, "name": each.name} for each in found])


async def detail(call: Call) -> Response:
    return JSONResponse(_with_token(_found(call)))


async def remove(call: Call) -> Response:
    volume = _found(call)
    # No await up to the removal of the record: otherwise a sandbox could be started with it.
    users = call.sandboxes.store.with_volume(call.owner, volume.id)
    if users:
        raise ClientError(409, f"volume {volume.name!r} is mounted in sandbox {users[0].id}: kill it first")
    gone = call.sandboxes.store.vault.remove_volume(volume)
    await threads.call(vault.remove_files, gone)
    return Response(status_code=204)


def mounts(call: Call, body: dict[str, Any]) -> list[dict[str, str]]:
    """The volumes that a new sandbox is to have: the id, the name and the path of each.

    :raises ClientError: one is not there, or a path cannot be one
    """
    found: list[dict[str, str]] = []
    wanted = bodies.take(body, "volumeMounts", list, [])
    if len(wanted) > _MOST_MOUNTS:
        raise ClientError(400, f"volumeMounts has more than {_MOST_MOUNTS} entries")
    for each in wanted:
        if not isinstance(each, dict):
            raise ClientError(400, "volumeMounts is not a list of objects")
        name, path = bodies.take(each, "name", str), _path(bodies.take(each, "path", str))
        volume = call.sandboxes.store.vault.volume_named(call.owner, name)
        if volume is None:
            raise ClientError(404, f"volume {name[:80]!r} does not exist")
        if any(path == other["path"] or _is_below(path, other["path"]) for other in found):
            raise ClientError(400, f"volumeMounts has {path[:80]!r} twice, or below another")
        found.append({"id": volume.id, "name": volume.name, "path": path})
    return found


def _path(text: str) -> str:
    is_plain = text.startswith("/") and not text.startswith("//") and posixpath.normpath(text) == text.rstrip("/")
    if not is_plain or len(text) > _LONGEST_PATH or not text.isprintable() or set(text) & set(":,\\"):
        raise ClientError(400, f"{text[:80]!r} is no absolute path without '..', ':' and ','")
    path = text.rstrip("/")
    if path in _NOT_AT or any(path == each or _is_below(path, each) for each in _NOT_BELOW):
        raise ClientError(400, f"a volume cannot be mounted at {path[:80]!r}")
    return path


def _is_below(path: str, other: str) -> bool:
    return path.startswith(f"{other}/") or other.startswith(f"{path}/")
