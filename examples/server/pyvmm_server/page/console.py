"""``GET /pyvmm/sandboxes/ID/console``: the end of what the kernel of its machine has printed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from starlette.responses import JSONResponse, Response

from pyvmm_kata import state
from pyvmm_kata.oci.context import default_root
from pyvmm_kata.pod.console_log import NAME
from pyvmm_server import relay, threads
from pyvmm_server.errors import translate

if TYPE_CHECKING:
    from pyvmm_server.calls import Call

MOST = 64 << 10
"""Bytes; the guest decides what they are."""


async def answer(call: Call) -> Response:
    """Its text; empty: it has printed nothing, or was started from a saved machine, which prints elsewhere."""
    record = call.record
    live = await call.sandboxes.live(record)
    if address := live.handle.relay:
        return await relay.forward_call(address, call)
    try:
        text = await threads.call(read, os.path.join(call.settings.root or default_root(), record.name))
    except Exception as error:
        raise translate(error) from error
    return JSONResponse({"text": text, "most": MOST})


def read(folder: str) -> str:
    """
    :param folder: of the container's state
    :raises VmmError: there is none
    """
    known = state.read(folder)
    machine = f"@{known.get('monitor')}-{known.get('monitorStart')}"
    try:
        with open(os.path.join(os.path.dirname(folder), machine, NAME), "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - MOST))
            return file.read(MOST).decode(errors="replace")
    except FileNotFoundError:
        return ""
