"""Ends sandboxes whose time is over, and removes what servers that were killed have left."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from typing import TYPE_CHECKING

from pyvmm_server import leftovers, metrics, store, threads
from pyvmm_server.errors import ClientError
from vmm import VmmError

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from pyvmm_server.sandboxes import Sandboxes
    from pyvmm_server.store import Record

log = logging.getLogger("pyvmm_server")
_CHECK_S = 5.0
"""Between two checks for sandboxes that have ended by themselves."""
_LATE_S = 60.0
"""How long after its start a sandbox of a server that was killed can still appear."""


class Upkeep:
    """Begins before the server answers requests: what is there then, and has no record, is of servers before it."""

    def __init__(self, sandboxes: Sandboxes) -> None:
        self._sandboxes = sandboxes
        self._store = sandboxes.store
        self._root = sandboxes.settings.root
        self._tasks: set[asyncio.Task[None]] = set()
        for record in self._store.in_states(store.CREATING):
            self._store.change(record.id, state=store.ENDING)
        self._left = self._unrecorded()

    def _unrecorded(self) -> list[str]:
        folder = self._sandboxes.settings.state
        records = self._store.in_states(store.RUNNING, store.PAUSED, store.ENDING)
        saved = self._store.snapshot_ids() | {each.id for each in self._store.builds.named()}
        return [
            *leftovers.others(os.path.join(folder, "forks"), set()),
            *leftovers.others(os.path.join(folder, "snapshots"), saved),
            *leftovers.bundles(self._root, self._sandboxes.settings.bundles, [each.name for each in records]),
        ]

    async def run(self) -> None:
        """Until cancelled."""
        await threads.call(leftovers.remove_paths, self._left)
        while True:
            self._sandboxes.changed.clear()
            for record in self._store.due(time.time()):
                self._spawn(record, self._end_of_time(record))
            for record in self._store.in_states(store.ENDING):
                self._spawn(record, self._end_again(record))
            await self._check_all()
            first = self._store.next_end()
            wait = _CHECK_S if first is None else min(max(first - time.time(), 0.01), _CHECK_S)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._sandboxes.changed.wait(), wait)

    def _spawn(self, record: Record, work: Coroutine[None, None, None]) -> None:
        """Run it beside the others, unless something is done to the sandbox already."""
        mine = self._sandboxes.mine
        if record.id in mine:
            work.close()
            return
        mine.add(record.id)
        task = asyncio.create_task(self._reported(record, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reported(self, record: Record, work: Coroutine[None, None, None]) -> None:
        try:
            await work
        except Exception as error:
            log.error("the end of a sandbox", exc_info=error, extra={"sandbox": record.id})
        finally:
            self._sandboxes.mine.discard(record.id)

    async def _end_of_time(self, record: Record) -> None:
        if record.auto_pause:
            try:
                await self._sandboxes.pause(record)
                return
            except ClientError as error:
                metrics.FAILURES.labels("pause").inc()
                log.warning("pause: %s", error, extra={"sandbox": record.id})
        await self._sandboxes.kill(record)

    async def _end_again(self, record: Record) -> None:
        try:
            await self._sandboxes.engine.remove(record)
        except (ClientError, VmmError, OSError) as error:
            metrics.FAILURES.labels("kill").inc()
            log.warning("kill: %s", error, extra={"sandbox": record.id})
            return
        if not record.started <= time.time() < record.started + _LATE_S:
            self._store.remove(record)

    async def _check_all(self) -> None:
        """End the records of sandboxes that have ended by themselves."""
        for record in self._store.in_states(store.RUNNING, store.PAUSED):
            if record.id in self._sandboxes.mine:
                continue
            try:
                live = await self._sandboxes.live(record)
                is_running = await live.handle.is_running()
            except (ClientError, VmmError, OSError) as error:
                is_gone = isinstance(error, ClientError) and error.status == 502
                metrics.FAILURES.labels("ended" if is_gone else "check").inc()
                words = "sandbox is gone" if is_gone else f"check: {error}"
                log.warning("%s", words, extra={"sandbox": record.id})
                continue
            if not is_running and record.id not in self._sandboxes.mine:
                metrics.FAILURES.labels("ended").inc()
                log.warning("sandbox has ended", extra={"sandbox": record.id})
                self._spawn(record, self._sandboxes.kill(record))
