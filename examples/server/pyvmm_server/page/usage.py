"""The memory of running sandboxes, measured once for all pages that are open."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from pyvmm_sandbox import SandboxGone
from pyvmm_server import store
from pyvmm_server.errors import ClientError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvmm_server.sandboxes import Sandboxes
    from pyvmm_server.store import Record

log = logging.getLogger("pyvmm_server")
EVERY_S = 5.0
_AT_ONCE = 8
_KEPT_S = 60.0
"""How long the last measurement of one that no longer answers is shown."""
_ANSWER_S = 2.0
"""How long a page waits for a guest; its answer comes with the next measurement, or never."""


class Usage:
    """The last measurements."""

    def __init__(self, sandboxes: Sandboxes) -> None:
        self._sandboxes = sandboxes
        self._known: dict[str, tuple[float, int]] = {}
        self._asked: dict[str, asyncio.Task[None]] = {}
        self._free = asyncio.Semaphore(_AT_ONCE)

    async def of(self, records: Sequence[Record]) -> dict[str, int]:
        """Bytes that each uses; those that do not answer in time are left out."""
        running = [each for each in records if each.state == store.RUNNING]
        late = time.monotonic() - EVERY_S / 2
        old = [each for each in running if self._known.get(each.id, (0.0, 0))[0] < late]
        for each in old:
            if each.id not in self._asked:
                self._asked[each.id] = asyncio.create_task(self._measure(each))
        if waits := [self._asked[each.id] for each in old if each.id in self._asked]:
            await asyncio.wait(waits, timeout=_ANSWER_S)
        self._known = {name: each for name, each in self._known.items() if each[0] > late - _KEPT_S}
        return {each.id: self._known[each.id][1] for each in running if each.id in self._known}

    async def _measure(self, record: Record) -> None:
        try:
            async with self._free:
                live = await self._sandboxes.live(record)
                found = await live.handle.stats()
            self._known[record.id] = time.monotonic(), found.memory
        except Exception as error:
            self._known.pop(record.id, None)
            if not isinstance(error, SandboxGone | ClientError):
                log.info("usage: %s", error, extra={"sandbox": record.id})
        finally:
            del self._asked[record.id]
