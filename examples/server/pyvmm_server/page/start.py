"""``GET /pyvmm/sandboxes/ID/start``: why this start was slow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response

from pyvmm_server.errors import translate
from pyvmm_server.phases import START

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pyvmm_server.calls import Call
    from pyvmm_server.store import Phase

READY = "ready for the server"


async def answer(call: Call) -> Response:
    """The phases of the start of a sandbox, in seconds since the request, and the steps inside of them."""
    record = call.record
    live = await call.sandboxes.live(record)
    try:
        steps = await live.handle.steps()
    except Exception as error:
        raise translate(error) from error
    return JSONResponse({"phases": pictured(record.phases, steps)})


def pictured(phases: Sequence[Phase], steps: Iterable[tuple[str, float]]) -> list[dict[str, Any]]:
    """The phases of the server, with the steps of the runtime at depth 1 in that which they are parts of."""
    found: list[dict[str, Any]] = []
    began = phases[0][1] if phases else 0.0

    def add(name: str, begin: float, end: float, depth: int) -> None:
        found.append({"name": name, "from": round(begin - began, 6), "to": round(end - began, 6), "depth": depth})

    for name, begin, end in phases:
        add(name, begin, end, 0)
        inside = [step for step in steps if begin <= step[1] <= end] if name == START else []
        last = begin
        for what, at in sorted(inside, key=lambda step: step[1]):
            add(what, last, at, 1)
            last = at
        if inside:
            add(READY, last, end, 1)
    return found
