"""``GET /pyvmm/sandboxes/ID/differences?with=OTHER``: what two sandboxes do not have in common: siblings of a fork."""

from __future__ import annotations

import asyncio
import posixpath
from dataclasses import asdict
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from starlette.responses import JSONResponse, Response

from pyvmm_server import relay, threads
from pyvmm_server.calls import time_of
from pyvmm_server.errors import ClientError, not_there, translate
from pyvmm_server.filesystem import LAST
from pyvmm_server.page import processes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pyvmm_sandbox import Entry, Sandbox
    from pyvmm_server.calls import Call
    from pyvmm_server.page.processes import Process

MOST = 500
"""Files in an answer."""
DEPTH = 64
NOT_FILES = ("/proc", "/sys", "/dev")
"""What is below is the kernel's."""
ENTRIES = 250_000
"""Of each side, also of a sandbox that lies; their memory is the server's."""
_AT_ONCE = 2
_places: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
"""Of each key: a sandbox can hold its listing up for ever, which is to cost others nothing."""


async def answer(call: Call) -> Response:
    """Files by path, size, time and owner; processes by number and command; memory."""
    query = call.request.query_params
    path = query.get("path", "/")
    if not path.startswith("/") or "\0" in path:
        raise ClientError(400, f"path {path[:80]!r} is not absolute")
    here = processes.running(call.record)
    there = processes.running(call.sandboxes.get(call.owner, query.get("with", "")))
    if here.id == there.id:
        raise ClientError(400, "with names the same sandbox")
    lives = [await call.sandboxes.live(each) for each in (here, there)]
    if here.node != there.node:
        raise not_there("a comparison of sandboxes on two nodes")
    if address := lives[0].handle.relay:
        return await relay.forward_call(address, call)
    boxes = [each.box for each in lives]
    async with _places.setdefault(call.owner, asyncio.Semaphore(_AT_ONCE)):
        listings = await asyncio.gather(*(threads.call(entries, box, path) for box in boxes))
        files = await threads.call(compare, *listings)
    running = await asyncio.gather(*(threads.call(processes.listed, box) for box in boxes))
    memory = await asyncio.gather(*(threads.call(_memory, box) for box in boxes))
    found = {
        "files": files[:MOST],
        "more": max(0, len(files) - MOST),
        "processes": {"here": _only(running[0], running[1]), "there": _only(running[1], running[0])},
        "memory": memory,
    }
    return JSONResponse(found)


def _memory(box: Sandbox) -> int:
    try:
        return box.stats().memory
    except Exception as error:
        raise translate(error) from error


def entries(box: Sandbox, path: str) -> list[Entry]:
    """All below a directory, but for the file systems of the kernel.

    :raises ClientError: it cannot be listed
    """
    try:
        top = box.files.entries(path, max_entries=ENTRIES)
        found = [*top]
        for each in top:
            if each.type == "directory" and posixpath.normpath(each.path) not in NOT_FILES:
                found += box.files.entries(each.path, depth=DEPTH, max_entries=ENTRIES - len(found))
        return found
    except Exception as error:
        raise translate(error) from error


def compare(here: Iterable[Entry], there: Iterable[Entry]) -> list[dict[str, Any]]:
    """What is on one side only, or different; a directory's own time changes with its entries, and is left out."""
    one, other = ({each.path: each for each in side} for side in (here, there))
    found = []
    for path in sorted(one.keys() | other.keys()):
        mine, its = one.get(path), other.get(path)
        if mine is None or its is None or _seen(mine) != _seen(its):
            kind = "here" if its is None else "there" if mine is None else "changed"
            found.append({"path": _utf8(path), "kind": kind, "here": _shown(mine), "there": _shown(its)})
    return found


def _seen(entry: Entry) -> tuple[object, ...]:
    return entry._replace(size=0, modified=0.0) if entry.type == "directory" else entry


def _shown(entry: Entry | None) -> dict[str, Any] | None:
    if entry is None:
        return None
    modified = entry.modified if 0 <= entry.modified <= LAST else 0.0  # the sandbox sends any number
    return {"type": entry.type, "size": entry.size, "modifiedTime": time_of(modified)}


def _utf8(path: str) -> str:
    return path.encode(errors="surrogateescape").decode(errors="replace")


def _only(mine: Iterable[Process], others: Iterable[Process]) -> list[dict[str, Any]]:
    known = {(each.pid, each.command) for each in others}
    return [asdict(each) for each in mine if (each.pid, each.command) not in known]
