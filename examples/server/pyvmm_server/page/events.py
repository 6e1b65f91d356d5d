"""``GET /pyvmm/events``: the sandboxes and snapshots of a key, and each change of them, as server-sent events."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

from starlette.responses import Response, StreamingResponse

from pyvmm_server import connect, store
from pyvmm_server.calls import listed, time_of
from pyvmm_server.page.usage import EVERY_S, Usage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pyvmm_server.calls import Call
    from pyvmm_server.sandboxes import Sandboxes
    from pyvmm_server.store import Record, Snapshot

_TOGETHER_S = 0.05
"""Changes that follow each other so fast are one event."""
Items = dict[str, dict[str, Any]]


class Events:
    """Makes the streams."""

    def __init__(self, sandboxes: Sandboxes) -> None:
        self._usage = Usage(sandboxes)

    async def answer(self, call: Call) -> Response:
        """The stream.  It needs the key in a header, so other sites cannot open it in the user's name."""
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(self._stream(call), media_type="text/event-stream", headers=headers)

    async def _stream(self, call: Call) -> AsyncIterator[str]:
        changed = asyncio.Event()
        with connect.until_exit(), call.sandboxes.store.watched(changed):
            known = _present(call)
            yield _event("all", {**known, "now": time.time()})
            measured = -EVERY_S
            while True:
                left = measured + EVERY_S - time.monotonic()
                if left <= 0:
                    yield _event("usage", await self._used(call))  # a sign of life, too
                    measured = time.monotonic()
                elif await _comes(changed, left):
                    before, known = known, _present(call)
                    if changes := {name: change for name in known if (change := _change(before[name], known[name]))}:
                        yield _event("change", changes)

    async def _used(self, call: Call) -> dict[str, int]:
        return await self._usage.of(call.sandboxes.store.in_states(store.RUNNING, owner=call.owner))


async def _comes(changed: asyncio.Event, seconds: float) -> bool:
    """Whether there is a change in time; those that follow it at once are one with it."""
    try:
        await asyncio.wait_for(changed.wait(), seconds)
    except TimeoutError:
        return False
    await asyncio.sleep(_TOGETHER_S)  # what changes meanwhile is sent with it
    changed.clear()
    return True


def _present(call: Call) -> dict[str, Items]:
    records = call.sandboxes.store
    sandboxes = records.in_states(store.RUNNING, store.PAUSED, owner=call.owner)
    return {
        "sandboxes": {each.id: _sandbox(each) for each in sandboxes},
        "snapshots": {each.id: _snapshot(each) for each in records.snapshots(call.owner)},
    }


def _change(before: Items, after: Items) -> dict[str, Any]:
    """What is new or different, and None for what is gone."""
    gone = dict.fromkeys(set(before) - set(after))
    return {**gone, **{name: each for name, each in after.items() if before.get(name) != each}}


def _sandbox(record: Record) -> dict[str, Any]:
    return {
        **listed(record),
        "endAt": None if record.ends is None else time_of(record.ends),
        "parent": record.parent,
        "internet": record.internet,
    }


def _snapshot(snapshot: Snapshot) -> dict[str, Any]:
    return {"name": snapshot.name, "sandbox": snapshot.sandbox, "createdAt": time_of(snapshot.created)}


def _event(name: str, data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n"
