"""``GET /pyvmm/sandboxes/ID/processes``: all that run inside, whoever has started them."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from starlette.responses import JSONResponse, Response

from pyvmm_server import relay, store, threads
from pyvmm_server.errors import ClientError, translate

if TYPE_CHECKING:
    from pyvmm_sandbox import Sandbox
    from pyvmm_server.calls import Call
    from pyvmm_server.store import Record

SCRIPT = "head -c 400 /proc/[0-9]*/stat /proc/[0-9]*/cmdline 2>/dev/null"
"""Two processes for all of them; those that end meanwhile are left out."""
_HEADING = re.compile(r"^==> /proc/([0-9]{1,7})/(stat|cmdline) <==$", re.MULTILINE)
_LONGEST_S = 10.0
_MOST = 1 << 20
_PAGE = 4096


@dataclass(frozen=True)
class Process:
    """A process.

    :ivar state: a letter, see proc_pid_stat(5)
    :ivar memory: resident, in bytes
    """

    pid: int
    parent: int
    state: str
    memory: int
    command: str


async def answer(call: Call) -> Response:
    """The list."""
    record = running(call.record)
    live = await call.sandboxes.live(record)
    if address := live.handle.relay:
        return await relay.forward_call(address, call)
    return JSONResponse({"processes": [asdict(each) for each in await threads.call(listed, live.box)]})


def running(record: Record) -> Record:
    """
    :raises ClientError: it is paused
    """
    if record.state != store.RUNNING:
        raise ClientError(409, f"Sandbox {record.id} is paused; resume it first")
    return record


def listed(box: Sandbox) -> list[Process]:
    """
    :raises ClientError: it does not answer
    """
    try:
        found = box.run(SCRIPT, timeout=_LONGEST_S, max_output=_MOST)
    except Exception as error:
        raise translate(error) from error
    return parse(found.stdout)


def parse(text: str) -> list[Process]:
    """What :data:`SCRIPT` has printed; the sandbox decides what that is, so anything can be wrong in it."""
    parts: dict[int, dict[str, str]] = {}
    words = _HEADING.split(text)
    for pid, kind, content in zip(words[1::3], words[2::3], words[3::3], strict=True):
        parts.setdefault(int(pid), {})[kind] = content.strip("\n")
    made = [_process(pid, found.get("stat", ""), found.get("cmdline", "")) for pid, found in parts.items()]
    mine = {each.pid for each in made if each is not None and SCRIPT[:40] in each.command}
    return sorted(
        (each for each in made if each is not None and each.pid not in mine and each.parent not in mine),
        key=lambda each: each.pid,
    )


def _process(pid: int, stat: str, arguments: str) -> Process | None:
    name, _, rest = stat.partition("(")[2].rpartition(")")
    fields = rest.split()
    try:
        parent, pages = int(fields[1]), int(fields[21])
    except (IndexError, ValueError):
        return None  # it has ended
    command = arguments.replace("\0", " ").strip() or f"[{name}]"
    return Process(pid, parent, fields[0], pages * _PAGE, command)
