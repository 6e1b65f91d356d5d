"""E2B's control interface: snapshots, which clients use as templates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import JSONResponse, Response

from pyvmm_server import bodies
from pyvmm_server.errors import ClientError, not_there
from pyvmm_server.lists import after, page

if TYPE_CHECKING:
    from pyvmm_server.calls import Call


async def create(call: Call) -> Response:
    body = await bodies.read_json(call.request)
    if not bodies.take(body, "memory", bool, True):
        raise not_there("a snapshot without the memory")
    name = bodies.take(body, "name", str, "")
    if len(name) > 128 or not all(each.isalnum() or each in "-_.:" for each in name):
        raise ClientError(400, "name is not at most 128 letters, digits, '-', '_', '.' and ':'")
    made = await call.sandboxes.snapshot(call.record, name)
    return JSONResponse({"snapshotID": made.id, "names": _names(made.name)}, 201)


def _names(name: str) -> list[str]:
    return [name] if name else []


async def pages(call: Call) -> Response:
    query = call.request.query_params
    name, sandbox = query.get("name", "").removesuffix(":default"), query.get("sandboxID", "")
    all_of_key = call.sandboxes.store.snapshots(call.owner, after(call))
    found = (each for each in all_of_key if name in ("", each.name) and sandbox in ("", each.sandbox))
    items, headers = page(call, found)
    return JSONResponse([{"snapshotID": each.id, "names": _names(each.name)} for each in items], headers=headers)


async def remove(call: Call) -> Response:
    name = call.request.path_params["template"]
    found = call.sandboxes.templates.snapshot(call.owner, name)
    if found is None:
        raise ClientError(404, f"template {name[:80]!r} does not exist, or is not a snapshot of this key")
    await call.sandboxes.remove_snapshot(found)
    return Response(status_code=204)
