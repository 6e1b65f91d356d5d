"""E2B's control interface: single sandboxes."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response

from pyvmm_server import bodies, network_rules, secret_calls, store, volume_calls
from pyvmm_server.calls import created, listed, seconds, time_of
from pyvmm_server.choices import Choices
from pyvmm_server.errors import ClientError, not_there, translate

if TYPE_CHECKING:
    from pyvmm_server.calls import Call
    from pyvmm_server.store import Record

MOST_FORKS = 100
_MOST_METADATA = 64 << 10


def _check_new(body: dict[str, Any]) -> None:
    """
    :raises ClientError: it needs what is not there
    """
    for name in ("mcp", "iam"):
        if body.get(name):
            raise not_there(name)
    if bodies.take(body, "autoPause", bool, False) and not bodies.take(body, "autoPauseMemory", bool, True):
        raise not_there("a pause without the memory")


async def create(call: Call) -> Response:
    body = await bodies.read_json(call.request)
    _check_new(body)
    metadata, envs = bodies.texts(body, "metadata"), bodies.texts(body, "envVars")
    if len(json.dumps([metadata, envs])) > _MOST_METADATA:
        raise ClientError(400, f"metadata and envVars are larger than {_MOST_METADATA} bytes")
    default = 300 if call.request.url.path.startswith("/v2/") else 15
    internet, network = bodies.take(body, "allow_internet_access", bool, None), bodies.take(body, "network", dict, {})
    rules = network_rules.rules_of(network, internet=internet)
    vault = call.sandboxes.store.vault
    mounts = volume_calls.mounts(call, body)
    choices = Choices(
        rules if network_rules.has_rules(network) else None,
        secret_calls.of_rules(network, lambda name: vault.value(call.owner, name)),
        [f"{vault.folder(each['id'])}:{each['path']}" for each in mounts],
    )
    made = await call.sandboxes.create(
        call.owner,
        bodies.take(body, "templateID", str),
        seconds(body, "timeout", default),
        internet=internet,
        choices=choices,
        volumes=mounts,
        metadata=metadata,
        envs=envs,
        auto_pause=bodies.take(body, "autoPause", bool, False),
        auto_resume=bodies.take(bodies.take(body, "autoResume", dict, {}), "enabled", bool, False),
        request=call.request.headers.get("idempotency-key", "")[:200],
    )
    return JSONResponse(created(call, made), 201)


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
    return JSONResponse({**listed(record), **more})


async def kill(call: Call) -> Response:
    if not call.sandboxes.dismiss(call.owner, call.request.path_params["sandbox"]):
        await call.sandboxes.kill(call.record)
    return Response(status_code=204)


async def set_timeout(call: Call) -> Response:
    limit = seconds(await bodies.read_json(call.request), "timeout", 300)
    record = _running(call)
    call.sandboxes.set_end(record, time.time() + limit)
    return Response(status_code=204)


async def set_network(call: Call) -> Response:
    body = await bodies.read_json(call.request)
    if body.get("rules"):
        raise not_there("a change of a running sandbox's network: rules")
    rules = network_rules.rules_of(body, internet=bodies.take(body, "allow_internet_access", bool, None))
    await call.sandboxes.set_rules(_running(call), rules)
    return Response(status_code=204)


async def refresh(call: Call) -> Response:
    limit = seconds(await bodies.read_json(call.request), "duration", 300)
    record = _running(call)
    call.sandboxes.extend(record, limit)
    return Response(status_code=204)


def _running(call: Call) -> Record:
    record = call.record
    if record.state != store.RUNNING:
        raise ClientError(409, f"Sandbox {record.id} is paused")
    return record


async def connect(call: Call) -> Response:
    body = await bodies.read_json(call.request)
    limit = seconds(body, "timeout", 300)
    record = call.record
    if record.state == store.PAUSED:
        if not bodies.take(body, "memory", bool, True):
            raise not_there("resuming without the memory")
        try:
            await call.sandboxes.resume(record, limit)
            return JSONResponse(created(call, record), 201)
        except ClientError:
            if call.record.state != store.RUNNING:  # otherwise another request was faster
                raise
    await call.sandboxes.live(record)
    call.sandboxes.extend(record, limit)
    return JSONResponse(created(call, record))


async def resume(call: Call) -> Response:
    body = await bodies.read_json(call.request)
    record = call.record
    await call.sandboxes.resume(record, seconds(body, "timeout", 15))
    return JSONResponse(created(call, record), 201)


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
    made = await call.sandboxes.fork(call.record, count, seconds(body, "timeout", 15))
    found = [
        {"error": {"code": each.status, "message": each.message}}
        if isinstance(each, ClientError)
        else {"sandbox": created(call, each)}
        for each in made
    ]
    return JSONResponse(found, 201)


async def metrics(call: Call) -> Response:
    """The present values; there is no history."""
    record = call.record
    live = await call.sandboxes.live(record)
    try:
        found = await live.handle.stats()
    except Exception as error:
        raise translate(error) from error
    now, used = time.time(), found.cpu_seconds
    before, live.cpu = live.cpu, (now, used)
    percent = 100 * (used - before[1]) / max(now - before[0], 1e-3) if before else 0.0
    value = {
        "timestamp": time_of(now),
        "timestampUnix": int(now),
        "cpuCount": max(round(record.cpus), 1),
        "cpuUsedPct": round(max(percent, 0.0), 2),
        "memUsed": found.memory,
        "memTotal": record.memory << 20,
        "memCache": found.cache,
        "diskUsed": 0,
        "diskTotal": 0,
    }
    return JSONResponse([value])


async def missing(call: Call) -> Response:
    raise not_there(f"{call.request.method} {call.request.url.path[:80]}")
