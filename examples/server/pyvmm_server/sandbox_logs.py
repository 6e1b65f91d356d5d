"""E2B's control interface: the log of a sandbox, which has its events and commands."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.responses import JSONResponse, Response

from pyvmm_server import relay
from pyvmm_server.calls import Call, time_of
from pyvmm_server.errors import ClientError
from pyvmm_server.events import LEVELS, MOST, Event

Answer = Callable[[Call, list[Event]], Response]


def _of_sandbox(answer: Answer) -> Callable[[Call], Awaitable[Response]]:
    """A call that answers with the events of a sandbox, which its node has."""

    async def call(call: Call) -> Response:
        live = await call.sandboxes.live(call.record)
        if address := live.handle.relay:
            return await relay.forward_call(address, call)
        return answer(call, [*live.events])

    return call


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


@_of_sandbox
def lines(call: Call, events: list[Event]) -> Response:
    """``GET /sandboxes/ID/logs``."""
    start, limit = _number(call, "start", 0), _number(call, "limit", MOST)
    found = [_entry(each) for each in events if each.time * 1000 >= start][:limit]
    texts = [json.dumps({**each, **each["fields"], "logger": "pyvmm"}) for each in found]
    logs = [{"timestamp": each["timestamp"], "line": text} for each, text in zip(found, texts, strict=True)]
    return JSONResponse({"logs": logs, "logEntries": found})


@_of_sandbox
def entries(call: Call, events: list[Event]) -> Response:
    """``GET /v2/sandboxes/ID/logs``."""
    forward = _choice(call, "direction", ("forward", "backward")) == "forward"
    level = LEVELS.index(_choice(call, "level", LEVELS))
    limit = min(_number(call, "limit", MOST), MOST)
    cursor = _number(call, "cursor", 0 if forward else 10**15 - 1)
    search = call.request.query_params.get("search", "")
    found = [
        _entry(each)
        for each in events
        if search in each.message
        and LEVELS.index(each.level) >= level
        and (each.time * 1000 >= cursor if forward else each.time * 1000 <= cursor)
    ]
    return JSONResponse({"logs": found[:limit] if forward else found[::-1][:limit]})
