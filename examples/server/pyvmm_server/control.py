"""E2B's control interface: sandboxes, snapshots and their lists."""

from __future__ import annotations

import base64
import binascii
import json
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote

from starlette.responses import JSONResponse, Response

from pyvmm_server import bodies, store, threads
from pyvmm_server.errors import ClientError, not_there, translate
from pyvmm_server.settings import ENVD_VERSION

if TYPE_CHECKING:
    from starlette.requests import Request

    from pyvmm_server.sandboxes import Sandboxes
    from pyvmm_server.settings import Settings
    from pyvmm_server.store import Record

LONGEST_S = 366 * 24 * 3600
MOST_FORKS = 100
PAGE = 100
CLIENT = "pyvmm"
_MOST_METADATA = 64 << 10


class Call:
    """A request of a client with a valid key."""

    def __init__(self, sandboxes: Sandboxes, owner: str, request: Request) -> None:
        self.sandboxes = sandboxes
        self.settings: Settings = sandboxes.settings
        self.owner = owner
        self.request = request

    @property
    def record(self) -> Record:
        """The sandbox that the path names.

        :raises ClientError: this key has none
        """
        return self.sandboxes.get(self.owner, self.request.path_params["sandbox"])


# -- what clients see ----------------------------------------------------------------------------------------------------


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def _created(call: Call, record: Record) -> dict[str, Any]:
    return {
        "templateID": record.template,
        "sandboxID": record.id,
        "clientID": CLIENT,
        "envdVersion": ENVD_VERSION,
        "envdAccessToken": record.token,
        "trafficAccessToken": None,
        "domain": call.settings.domain,
    }


def _listed(record: Record) -> dict[str, Any]:
    return {
        "templateID": record.template,
        "alias": record.template,
        "sandboxID": record.id,
        "clientID": CLIENT,
        "startedAt": _time(record.started),
        "endAt": _time(record.ends or record.started + LONGEST_S),
        "cpuCount": max(round(record.cpus), 1),
        "memoryMB": record.memory,
        "diskSizeMB": 0,
        "state": record.state,
        "envdVersion": ENVD_VERSION,
        "metadata": record.metadata,
    }


# -- sandboxes -----------------------------------------------------------------------------------------------------------


def _seconds(body: dict[str, Any], name: str, default: int) -> int:
    found = bodies.take(body, name, int, default)
    if not 0 <= found <= LONGEST_S:
        raise ClientError(400, f"{name} {found} is not 0 to {LONGEST_S} seconds")
    return found


def _check_new(body: dict[str, Any]) -> None:
    """
    :raises ClientError: it needs what is not there
    """
    for name in ("mcp", "iam", "volumeMounts"):
        if body.get(name):
            raise not_there(name)
    network = bodies.take(body, "network", dict, {})
    if any(value for name, value in network.items() if name != "allowPublicTraffic"):
        raise not_there("network: a rule for hosts")
    if bodies.take(body, "autoPause", bool, False) and not bodies.take(body, "autoPauseMemory", bool, True):
        raise not_there("a pause without the memory")


async def create(call: Call) -> Response:
    body = await bodies.read_json(call.request)
    _check_new(body)
    metadata, envs = bodies.texts(body, "metadata"), bodies.texts(body, "envVars")
    if len(json.dumps([metadata, envs])) > _MOST_METADATA:
        raise ClientError(400, f"metadata and envVars are larger than {_MOST_METADATA} bytes")
    default = 300 if call.request.url.path.startswith("/v2/") else 15
    made = await call.sandboxes.create(
        call.owner,
        bodies.take(body, "templateID", str),
        _seconds(body, "timeout", default),
        internet=bodies.take(body, "allow_internet_access", bool, None),
        metadata=metadata,
        envs=envs,
        auto_pause=bodies.take(body, "autoPause", bool, False),
        auto_resume=bodies.take(bodies.take(body, "autoResume", dict, {}), "enabled", bool, False),
        request=call.request.headers.get("idempotency-key", "")[:200],
    )
    return JSONResponse(_created(call, made), 201)


async def detail(call: Call) -> Response:
    record = call.record
    await call.sandboxes.live(record)
    lifecycle = {"autoResume": record.auto_resume, "onTimeout": "pause" if record.auto_pause else "kill"}
    more: dict[str, Any] = {
        "envdAccessToken": record.token,
        "domain": call.settings.domain,
        "allowInternetAccess": record.internet,
        "lifecycle": lifecycle,
    }
    if record.state == store.PAUSED:
        more["pauseMode"] = "full"
    return JSONResponse({**_listed(record), **more})


async def kill(call: Call) -> Response:
    await call.sandboxes.kill(call.record)
    return Response(status_code=204)


async def set_timeout(call: Call) -> Response:
    seconds = _seconds(await bodies.read_json(call.request), "timeout", 300)
    record = _running(call)
    call.sandboxes.set_end(record, time.time() + seconds)
    return Response(status_code=204)


async def refresh(call: Call) -> Response:
    seconds = _seconds(await bodies.read_json(call.request), "duration", 300)
    record = _running(call)
    call.sandboxes.set_end(record, max(record.ends or 0, time.time() + seconds))
    return Response(status_code=204)


def _running(call: Call) -> Record:
    record = call.record
    if record.state != store.RUNNING:
        raise ClientError(409, f"Sandbox {record.id} is paused")
    return record


async def connect(call: Call) -> Response:
    body = await bodies.read_json(call.request)
    seconds = _seconds(body, "timeout", 300)
    record = call.record
    if record.state == store.PAUSED:
        if not bodies.take(body, "memory", bool, True):
            raise not_there("resuming without the memory")
        await call.sandboxes.resume(record, seconds)
        return JSONResponse(_created(call, record), 201)
    await call.sandboxes.live(record)
    call.sandboxes.set_end(record, max(record.ends or 0, time.time() + seconds))
    return JSONResponse(_created(call, record))


async def resume(call: Call) -> Response:
    body = await bodies.read_json(call.request)
    record = call.record
    await call.sandboxes.resume(record, _seconds(body, "timeout", 15))
    return JSONResponse(_created(call, record), 201)


async def pause(call: Call) -> Response:
    body = await bodies.read_json(call.request)
    if not bodies.take(body, "memory", bool, True):
        raise not_there("a pause without the memory")
    await call.sandboxes.pause(call.record)
    return Response(status_code=204)


async def fork(call: Call) -> Response:
    body = await bodies.read_json(call.request)
    count = bodies.take(body, "count", int, 1)
    if not 1 <= count <= MOST_FORKS:
        raise ClientError(400, f"count {count} is not 1 to {MOST_FORKS}")
    made = await call.sandboxes.fork(call.record, count, _seconds(body, "timeout", 15))
    found = [
        {"error": {"code": each.status, "message": each.message}}
        if isinstance(each, ClientError)
        else {"sandbox": _created(call, each)}
        for each in made
    ]
    return JSONResponse(found, 201)


async def metrics(call: Call) -> Response:
    """The present values; there is no history."""
    record = call.record
    live = await call.sandboxes.live(record)
    try:
        found = await threads.call(live.box.stats)
    except Exception as error:
        raise translate(error) from error
    memory, now = found.get("memory", {}), time.time()
    used = found.get("cpu", {}).get("usage", {}).get("total", 0) / 1e9
    before, live.cpu = live.cpu, (now, used)
    percent = 100 * (used - before[1]) / max(now - before[0], 1e-3) if before else 0.0
    value = {
        "timestamp": _time(now),
        "timestampUnix": int(now),
        "cpuCount": max(round(record.cpus), 1),
        "cpuUsedPct": round(max(percent, 0.0), 2),
        "memUsed": int(memory.get("usage", {}).get("usage", 0)),
        "memTotal": record.memory << 20,
        "memCache": int(memory.get("cache", 0)),
        "diskUsed": 0,
        "diskTotal": 0,
    }
    return JSONResponse([value])


async def missing(call: Call) -> Response:
    raise not_there(f"{call.request.method} {call.request.url.path[:80]}")


# -- lists ---------------------------------------------------------------------------------------------------------------


def _limit(call: Call) -> int:
    text = call.request.query_params.get("limit", str(PAGE))
    if not (text.isascii() and text.isdigit() and len(text) < 6 and int(text)):
        raise ClientError(400, f"limit {text[:80]!r} is not a positive number")
    return min(int(text), PAGE)


def _after(call: Call) -> str:
    """The last id of the page before; empty: this is the first one."""
    text = call.request.query_params.get("nextToken", "")
    try:
        return base64.urlsafe_b64decode(text).decode("ascii")
    except (binascii.Error, ValueError) as error:
        raise ClientError(400, "nextToken is not one of this server") from error


def _page(call: Call, found: list[Any]) -> tuple[list[Any], dict[str, str]]:
    """A page, and the header with the token of the next one."""
    after, limit = _after(call), _limit(call)
    keys = [_key(each) for each in found]
    begin = next((at for at, key in enumerate(keys) if key > after), len(keys)) if after else 0
    page = found[begin : begin + limit]
    if begin + limit >= len(found):
        return page, {}
    return page, {"x-next-token": base64.urlsafe_b64encode(_key(page[-1]).encode()).decode()}


def _key(each: Any) -> str:
    return f"{each.id}"


def _filter(call: Call) -> list[Record]:
    query = call.request.query_params
    states = [state for each in query.getlist("state") for state in each.split(",")] or [store.RUNNING, store.PAUSED]
    if set(states) - {store.RUNNING, store.PAUSED}:
        raise ClientError(400, "state is not one of running, paused")
    wanted = {unquote(name): unquote(value) for name, value in parse_qsl(query.get("metadata", ""))}
    template = query.get("template", "")
    begin = _started_after(query.get("startedAfter", ""))
    return [
        each
        for each in call.sandboxes.store.in_states(*states, owner=call.owner)
        if wanted.items() <= each.metadata.items()
        and template in ("", each.template)
        and (begin is None or each.started > begin)
    ]


def _started_after(text: str) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp() if text else None
    except (ValueError, OverflowError) as error:
        raise ClientError(400, f"startedAfter {text[:80]!r} is not a time") from error


async def list_pages(call: Call) -> Response:
    found = _filter(call)
    order = call.request.query_params.get("order", "desc")
    if order not in ("asc", "desc"):
        raise ClientError(400, f"order {order[:80]!r} is not asc or desc")
    page, headers = _page(call, found[:: 1 if order == "asc" else -1])
    return JSONResponse([_listed(each) for each in page], headers=headers)


async def list_running(call: Call) -> Response:
    return JSONResponse([_listed(each) for each in _filter(call) if each.state == store.RUNNING])


# -- snapshots and templates ---------------------------------------------------------------------------------------------


async def snapshot(call: Call) -> Response:
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


async def snapshots(call: Call) -> Response:
    query = call.request.query_params
    name, sandbox = query.get("name", "").removesuffix(":default"), query.get("sandboxID", "")
    found = [
        each
        for each in call.sandboxes.store.snapshots(call.owner)
        if name in ("", each.name) and sandbox in ("", each.sandbox)
    ]
    page, headers = _page(call, found)
    return JSONResponse([{"snapshotID": each.id, "names": _names(each.name)} for each in page], headers=headers)


async def remove_template(call: Call) -> Response:
    name = call.request.path_params["template"]
    found = call.sandboxes.templates.snapshot(call.owner, name)
    if found is None:
        raise ClientError(404, f"template {name[:80]!r} does not exist, or is not a snapshot of this key")
    await call.sandboxes.remove_snapshot(found)
    return Response(status_code=204)


ROUTES = {
    ("POST", "/sandboxes"): create,
    ("GET", "/sandboxes"): list_running,
    ("GET", "/sandboxes/{sandbox}"): detail,
    ("DELETE", "/sandboxes/{sandbox}"): kill,
    ("POST", "/sandboxes/{sandbox}/timeout"): set_timeout,
    ("POST", "/sandboxes/{sandbox}/refreshes"): refresh,
    ("POST", "/sandboxes/{sandbox}/connect"): connect,
    ("POST", "/sandboxes/{sandbox}/resume"): resume,
    ("POST", "/sandboxes/{sandbox}/pause"): pause,
    ("POST", "/sandboxes/{sandbox}/fork"): fork,
    ("POST", "/sandboxes/{sandbox}/snapshots"): snapshot,
    ("GET", "/sandboxes/{sandbox}/metrics"): metrics,
    ("POST", "/v2/sandboxes"): create,
    ("GET", "/v2/sandboxes"): list_pages,
    ("POST", "/v2/sandboxes/{sandbox}/connect"): connect,
    ("GET", "/snapshots"): snapshots,
    ("DELETE", "/templates/{template:path}"): remove_template,
}
MISSING = (
    "/sandboxes/metrics",
    "/sandboxes/{sandbox}/logs",
    "/sandboxes/{sandbox}/network",
    "/v2/sandboxes/{sandbox}/logs",
    "/templates",
    "/templates/{rest:path}",
    "/v2/templates",
    "/v2/templates/{rest:path}",
    "/v3/templates",
    "/volumes",
    "/volumes/{rest:path}",
    "/secrets",
    "/secrets/{rest:path}",
)
"""Paths of E2B that this server does not have."""
