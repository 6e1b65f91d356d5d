"""E2B's control interface: the log of a sandbox, which has its events and commands."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response

from pyvmm_server.calls import time_of
from pyvmm_server.errors import ClientError
from pyvmm_server.events import LEVELS, MOST

if TYPE_CHECKING:
    from pyvmm_server.calls import Call
    from pyvmm_server.events import Event


async def _events(call: Call) -> list[Event]:
    return [*(await call.sandboxes.live(call.record)).events]


def _number(call: Call, name: str, default: int) -> int:
    text = call.request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise ClientError(400, f"{name} {text[:80]!r} is not a number")
    return int(text)


def _choice(call: Call, name: str, choices: tuple[str, ...]) -> str:
    found = call.request.query_params.get(name, choices[0])
    if found not in choices:
        raise ClientError(400, f"{name} {found[:80]!r} is not one of {', '.join(choices)}")
    return found


def _entry(event: Event) -> dict[str, Any]:
    return {
        "timestamp": time_of(event.time),
        "level": event.level,
        "message": event.message,
        "fields": event.fields,
    }


async def lines(call: Call) -> Response:
    """``GET /sandboxes/ID/logs``."""
    start, limit = _number(call, "start", 0), _number(call, "limit", MOST)
    found = [_entry(each) for each in await _events(call) if each.time * 1000 >= start][:limit]
    texts = [json.dumps({**each, **each["fields"], "logger": "pyvmm"}) for each in found]
    logs = [{"timestamp": each["timestamp"], "line": text} for each, text in zip(found, texts, strict=True)]
    return JSONResponse({"logs": logs, "logEntries": found})


async def entries(call: Call) -> Response:
    """``GET /v2/sandboxes/ID/logs``."""
    forward = _choice(call, "direction", ("forward", "backward")) == "forward"
    level = LEVELS.index(_choice(call, "level", LEVELS))
    limit = min(_number(call, "limit", MOST), MOST)
    cursor = _number(call, "cursor", 0 if forward else 10**15 - 1)
    search = call.request.query_params.get("search", "")
    found = [
        _entry(each)
        for each in await _events(call)
        if search in each.message
        and LEVELS.index(each.level) >= level
        and (each.time * 1000 >= cursor if forward else each.time * 1000 <= cursor)
    ]
    return JSONResponse({"logs": found[:limit] if forward else found[::-1][:limit]})
