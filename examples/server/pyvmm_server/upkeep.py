"""Ends sandboxes whose time is over, and removes what servers that were killed have left."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from typing import TYPE_CHECKING

from pyvmm_server import leftovers, metrics, store, suspended, threads
from pyvmm_server.errors import ClientError
from vmm import VmmError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pyvmm_server.sandboxes import Sandboxes
    from pyvmm_server.store import Record

    _Work = Callable[[Record], Awaitable[None]]

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
            *self._store.vault.unfinished(),
            *leftovers.others(os.path.join(folder, "forks"), set()),
            *leftovers.others(os.path.join(folder, "snapshots"), saved),
            *leftovers.others(os.path.join(folder, suspended.FOLDER), {each.id for each in records}),
            *leftovers.bundles(self._root, self._sandboxes.settings.bundles, [each.name for each in records]),
        ]

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._check_often())
            group.create_task(self._end_in_time())
            group.create_task(self._remove_left())

    async def _remove_left(self) -> None:
        """Beside the others: a client's files can be so many that this takes hours."""
        try:
            await threads.call(leftovers.remove_paths, self._left)
        except OSError as error:
            log.error("what an earlier server has left", exc_info=error)

    async def _end_in_time(self) -> None:
        while True:
            self._sandboxes.changed.clear()
            for record in self._store.due(time.time()):
                self._spawn(record, self._end_of_time)
            for record in self._store.in_states(store.ENDING):
                self._spawn(record, self._end_again)
            first = self._store.next_end()
            wait = _CHECK_S if first is None else min(max(first - time.time(), 0.01), _CHECK_S)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._sandboxes.changed.wait(), wait)

    async def _check_often(self) -> None:
        """Not after each change: that would slow down each start by a look at all others."""
        while True:
            try:
                self._store.confirm()
                self._end_failed()
            except ClientError as error:
                log.warning("check: %s", error)
            await self._check_all()
            await threads.call(self._store.tidy)
            await asyncio.sleep(_CHECK_S)

    def _end_failed(self) -> None:
        """End those whose clients were told that they cannot be started, when the database did not answer."""
        sandboxes = self._sandboxes
        starting = sandboxes.mine | sandboxes.hidden_ids
        failed = {each.id for each in self._store.in_states(store.CREATING)} - starting
        for each in failed | sandboxes.failed:
            self._store.change(each, state=store.ENDING, ends=None)
            sandboxes.failed.discard(each)
            sandboxes.changed.set()

    def _spawn(self, record: Record, work: _Work) -> None:
        """Run it beside the others, unless something is done to the sandbox already."""
        mine = self._sandboxes.mine
        if record.id in mine:
            return
        mine.add(record.id)
        task = asyncio.create_task(self._reported(record, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reported(self, record: Record, work: _Work) -> None:
        try:
            await work(record)
        except ClientError as error:
            log.warning("the end of a sandbox: %s", error, extra={"sandbox": record.id})
        except Exception as error:
            log.error("the end of a sandbox", exc_info=error, extra={"sandbox": record.id})
        finally:
            self._sandboxes.mine.discard(record.id)

    async def _end_of_time(self, record: Record) -> None:
        now = self._store.get(record.id)
        if now is None or now.state != store.RUNNING or now.ends is None or now.ends > time.time():
            return  # a client was faster
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
            if record.id in self._sandboxes.mine or not self._sandboxes.is_there(record.id):
                continue  # or ended since this round began
            try:
                live = await self._sandboxes.live(record)
                is_running = await live.handle.is_running()
            except (ClientError, VmmError, OSError) as error:
                if self._sandboxes.is_there(record.id):  # otherwise it has ended meanwhile
                    metrics.FAILURES.labels("check").inc()
                    log.warning("check: %s", error, extra={"sandbox": record.id})
                continue
            if not is_running and self._sandboxes.is_there(record.id):
                self._spawn(record, self._end_by_itself)

    async def _end_by_itself(self, record: Record) -> None:
        if self._sandboxes.note_end(record.id):
            await self._sandboxes.kill(record)
