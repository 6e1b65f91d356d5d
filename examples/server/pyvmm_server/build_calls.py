"""E2B's control interface: templates, which clients build."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response

from pyvmm_server import bodies, build_records, snapshots
from pyvmm_server.calls import time_of
from pyvmm_server.errors import ClientError
from pyvmm_server.settings import ENVD_VERSION
from pyvmm_server.steps import plan_of

if TYPE_CHECKING:
    from starlette.requests import Request

    from pyvmm_server.build_records import Build
    from pyvmm_server.builds import Builds, Entry
    from pyvmm_server.calls import Call

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_PAGE = 100
"""Lines of a log."""
_MOST_TAGS = 100


async def request(call: Call) -> Response:
    """``POST /v3/templates``."""
    body = await bodies.read_json(call.request)
    name, _, tag = (bodies.take(body, "name", str, "") or bodies.take(body, "alias", str)).partition(":")
    tags = sorted({*_tags(body, default=[]), *([tag] if tag else [])}) or [build_records.DEFAULT]
    _check(name, *tags)
    cpus, memory = (bodies.take(body, field, int, None) for field in ("cpuCount", "memoryMB"))
    if not all(1 <= each < 1 << 31 for each in (cpus, memory) if each is not None):
        raise ClientError(400, f"cpuCount {cpus} or memoryMB {memory} is no size of a machine")
    made = call.builds.request(call.owner, name, tags, cpus, memory)
    found = {
        "templateID": made.template,
        "buildID": made.id,
        "public": False,
        "names": [name],
        "tags": tags,
        "aliases": [name],
    }
    return JSONResponse(found, 202)


def _tags(body: dict[str, Any], default: list[str] | None = None) -> list[str]:
    found = bodies.take(body, "tags", list, *([] if default is None else [default]))
    if not all(isinstance(each, str) for each in found) or len(found) > _MOST_TAGS:
        raise ClientError(400, f"tags are not at most {_MOST_TAGS} strings")
    return found


def _check(*names: str) -> None:
    for each in names:
        if not _NAME.fullmatch(each):
            raise ClientError(400, f"{each[:80]!r} is not 1 to 128 letters, digits, '-', '_' and '.'")


def _build(call: Call) -> Build:
    """
    :raises ClientError: this key has none
    """
    path = call.request.path_params
    found = call.builds.records.get(call.owner, path["template"], path["build"])
    if found is None:
        raise ClientError(404, f"build {path['build'][:80]!r} does not exist")
    return found


def _found(call: Call, name: str, *, any_tag: bool = False) -> Build:
    """
    :raises ClientError: this key has none
    """
    found = call.builds.records.find(call.owner, name, any_tag=any_tag)
    if found is None:
        raise ClientError(404, f"template {name[:80]!r} does not exist")
    return found


async def begin(call: Call) -> Response:
    """``POST /v2/templates/ID/builds/ID``."""
    plan = plan_of(await bodies.read_json(call.request))
    call.builds.begin(_build(call), plan)
    return Response(status_code=202)


async def files(call: Call) -> Response:
    """``GET /templates/ID/files/HASH``: where a client uploads an archive."""
    path = call.request.path_params
    known = call.builds.records.of_template(path["template"])
    if known is None or known.owner != call.owner:
        raise ClientError(404, f"template {path['template'][:80]!r} does not exist")
    there = call.builds.archives.find(call.owner, path["hash"])
    url = call.request.url.replace(query=call.builds.archives.query(known.template, path["hash"]))
    return JSONResponse({"present": bool(there), "url": str(url)}, 201)


async def upload(builds: Builds, request: Request) -> Response:
    """``PUT`` to that URL, which has no key but a signature."""
    path = request.path_params
    builds.archives.check(request, path["template"], path["hash"])
    known = builds.records.of_template(path["template"])
    if known is None:
        raise ClientError(404, "the template does not exist any more")
    await builds.archives.receive(known.owner, path["hash"], request)
    return Response(status_code=200)


async def status(call: Call) -> Response:
    """``GET /templates/ID/builds/ID/status``."""
    build = _build(call)
    log = call.builds.log_of(build)
    offset, limit = (_number(call, name, default) for name, default in (("logsOffset", 0), ("limit", _PAGE)))
    found: dict[str, Any] = {
        "templateID": build.template,
        "buildID": build.id,
        "status": build.state,
        "logs": [],
        "logEntries": [_entry(each) for each in log.entries[offset : offset + min(limit, _PAGE)]],
    }
    if build.state == build_records.FAILED:
        entries = [_entry(each) for each in log.of_step(build.step)]
        found["reason"] = {
            "message": build.reason,
            "logEntries": entries,
            **({"step": build.step} if build.step else {}),
        }
    return JSONResponse(found)


def _number(call: Call, name: str, default: int) -> int:
    text = call.request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ClientError(400, f"{name} {text[:80]!r} is not a number")
    return int(text)


def _entry(entry: Entry) -> dict[str, str]:
    return {"timestamp": time_of(entry.time), "level": entry.level, "message": entry.text, "step": entry.step}


async def alias(call: Call) -> Response:
    """``GET /templates/aliases/NAME``."""
    name = call.request.path_params["alias"]
    if name.removesuffix(":default") in call.settings.templates:
        return JSONResponse({"templateID": name, "public": True})
    return JSONResponse({"templateID": _found(call, name, any_tag=True).template, "public": False})


async def listed(call: Call) -> Response:
    """``GET /templates``."""
    found: dict[str, list[Build]] = {}
    for each in call.builds.records.named(call.owner):
        found.setdefault(each.template, []).append(each)
    return JSONResponse([_template(each) for each in found.values()])


def _template(builds: list[Build]) -> dict[str, Any]:
    newest = builds[0]
    return {
        "templateID": newest.template,
        "buildID": newest.id,
        "cpuCount": max(round(newest.cpus), 1),
        "memoryMB": newest.memory,
        "diskSizeMB": 0,
        "public": False,
        "aliases": [newest.name],
        "names": [newest.name],
        "createdAt": time_of(builds[-1].created),
        "updatedAt": time_of(newest.created),
        "createdBy": None,
        "lastSpawnedAt": None,
        "spawnCount": 0,
        "buildCount": len(builds),
        "envdVersion": ENVD_VERSION,
        "buildStatus": newest.state,
    }


async def remove(call: Call) -> Response:
    """``DELETE /templates/NAME``, which can be a snapshot's."""
    name = call.request.path_params["template"]
    known = call.builds.records.find(call.owner, name, any_tag=True) or call.builds.records.of_template(name)
    if known is None or known.owner != call.owner:
        return await snapshots.remove(call)
    await call.builds.remove(known)
    return Response(status_code=204)


async def tags(call: Call) -> Response:
    """``GET /templates/NAME/tags``."""
    known = _found(call, call.request.path_params["template"], any_tag=True)
    found = call.builds.records.tags(call.owner, known.name)
    return JSONResponse(
        [{"tag": tag, "buildID": build, "createdAt": time_of(created)} for tag, build, created in found]
    )


async def assign(call: Call) -> Response:
    """``POST /templates/tags``."""
    body = await bodies.read_json(call.request)
    found = _tags(body)
    _check(*found)
    build = _found(call, bodies.take(body, "target", str))
    await call.builds.remove_folders(call.builds.assign(build, found))
    return JSONResponse({"tags": found, "buildID": build.id}, 201)


async def untag(call: Call) -> Response:
    """``DELETE /templates/tags``."""
    body = await bodies.read_json(call.request)
    build = _found(call, bodies.take(body, "name", str), any_tag=True)
    await call.builds.remove_folders(call.builds.records.untag(call.owner, build.name, _tags(body)))
    return Response(status_code=204)
