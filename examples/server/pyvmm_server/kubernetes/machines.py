"""The Sandboxes of this node: starts, pauses and ends their machines, and reports what they are."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from pyvmm_server import store
from pyvmm_server.errors import ClientError, describe
from pyvmm_server.kubernetes import blueprint, objects
from pyvmm_server.kubernetes.api import SANDBOX, Refused
from pyvmm_server.kubernetes.objects import FINISHED, READY, SUSPENDED, Condition, Object

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from pyvmm_server.kubernetes.writer import Writer
    from pyvmm_server.sandboxes import Sandboxes
    from pyvmm_server.store import Record

log = logging.getLogger("pyvmm_server")
OWNER = "kubernetes"
"""Of the records: no hash of a key is so."""
_TIME_S = 366 * 24 * 3600.0
_AGAIN_S = 5.0
"""Between two tries to start a machine."""


class Machines:
    """
    :param node: the name of this node
    :param address: of this node, for requests to sandboxes
    """

    def __init__(self, sandboxes: Sandboxes, writer: Writer, node: str, address: str) -> None:
        self._sandboxes = sandboxes
        self._store = sandboxes.store
        self._writer = writer
        self._node = node
        self._address = address
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._again: dict[str, float] = {}

    def find(self, sandbox: Object) -> Record | None:
        return self._store.of_request(OWNER, objects.meta(sandbox)["uid"])

    async def settle(self, sandbox: Object) -> None:
        """Bring a Sandbox closer to what it shall be.  What takes time is done by a task of its own.

        :raises Refused: the API server has refused a change
        """
        uid = objects.meta(sandbox)["uid"]
        if objects.annotation(sandbox, objects.NODE) != self._node or uid in self._tasks:
            return
        if time.monotonic() < self._again.get(uid, 0):
            return
        record = self.find(sandbox)
        spec = objects.spec(sandbox)
        end = objects.end_of(spec)
        if objects.is_ending(sandbox):
            if objects.is_held(sandbox):
                self._spawn(uid, self._end(sandbox))
        elif end is not None and end <= objects.now():
            if record is not None or not _is_expired(sandbox):
                self._spawn(uid, self._expire(sandbox, spec.get("shutdownPolicy", "Retain")))
        elif record is None:
            await self._without(sandbox)
        elif record.state in (store.RUNNING, store.PAUSED):
            await self._with(sandbox, record)

    async def end_others(self, uids: set[str]) -> None:
        """End the machines of Sandboxes that are not there, as of a node that was lost while they ended."""
        for record in self._store.in_states(store.RUNNING, store.PAUSED, owner=OWNER):
            if record.request not in uids and record.request not in self._tasks:
                log.warning("machine without a Sandbox is ended", extra={"sandbox": record.id})
                await self._sandboxes.kill(record)

    async def _without(self, sandbox: Object) -> None:
        uid = objects.meta(sandbox)["uid"]
        ready = objects.condition(sandbox, READY)
        suspended = objects.condition(sandbox, SUSPENDED)
        if (ready and ready.is_true) or (suspended and suspended.is_true and suspended.reason == "PodPaused"):
            message = "the machine of the sandbox has ended"
            failed = Condition(FINISHED, True, "PodFailed", message)
            await self._report(sandbox, Condition(READY, False, "PodFailed", message), failed)
        elif ready and ready.reason == "PodFailed":
            return
        elif _is_to_be_suspended(sandbox):
            await self._suspended(sandbox, "PodTerminated", "it was never started")
        else:
            self._spawn(uid, self._start(sandbox))

    async def _with(self, sandbox: Object, record: Record) -> None:
        uid = objects.meta(sandbox)["uid"]
        wanted = store.PAUSED if _is_to_be_suspended(sandbox) else store.RUNNING
        if record.state == wanted == store.RUNNING:
            await self._report(sandbox, Condition(READY, True, "DependenciesReady", "the sandbox is running"))
        elif record.state == wanted:
            await self._suspended(sandbox, "PodPaused", "its memory is kept")
        else:
            self._spawn(uid, self._change(sandbox, record, wanted))

    async def _start(self, sandbox: Object) -> None:
        uid = objects.meta(sandbox)["uid"]
        try:
            wanted = blueprint.read(objects.spec(sandbox))
            record = await self._sandboxes.create(
                OWNER,
                wanted.template,
                _TIME_S,
                request=uid,
                envs=wanted.envs,
                shape=(wanted.cpus, wanted.memory, wanted.workdir),
            )
        except blueprint.Invalid as error:
            self._later(uid)
            await self._report(sandbox, Condition(READY, False, "InvalidConfiguration", str(error)))
        except ClientError as error:
            # An image that is not there can be pulled: the next tries find it.
            reason = "InvalidConfiguration" if error.status in (400, 404, 501) else "ReconcilerError"
            self._later(uid)
            await self._report(sandbox, Condition(READY, False, reason, error.message))
        else:
            self._store.change(record.id, ends=None)  # the time of the Sandbox ends it
            self._again.pop(uid, None)

    async def _change(self, sandbox: Object, record: Record, wanted: str) -> None:
        try:
            if wanted == store.PAUSED:
                await self._sandboxes.pause(record)
            else:
                await self._sandboxes.resume(record, _TIME_S)
                self._store.change(record.id, ends=None)
        except ClientError as error:
            self._later(objects.meta(sandbox)["uid"])
            await self._report(sandbox, Condition(READY, False, "ReconcilerError", error.message))

    def _later(self, uid: str) -> None:
        self._again[uid] = time.monotonic() + _AGAIN_S

    async def _kill(self, sandbox: Object) -> bool:
        """End its machine; whether nothing of it is left."""
        record = self.find(sandbox)
        if record is not None and record.state in (store.RUNNING, store.PAUSED):
            await self._sandboxes.kill(record)
        if self.find(sandbox) is None:
            self._again.pop(objects.meta(sandbox)["uid"], None)
            return True
        self._later(objects.meta(sandbox)["uid"])  # the upkeep tries again
        return False

    async def _end(self, sandbox: Object) -> None:
        if await self._kill(sandbox):
            await self._writer.release(SANDBOX, sandbox)

    async def _expire(self, sandbox: Object, policy: str) -> None:
        if await self._kill(sandbox):
            if policy == "Delete":
                await self._writer.end(SANDBOX, sandbox)
            else:
                await self._report(
                    sandbox, Condition(READY, False, "SandboxExpired", "the time of the sandbox is over")
                )

    async def _suspended(self, sandbox: Object, reason: str, message: str) -> None:
        ready = Condition(READY, False, "SandboxSuspended", "the sandbox is suspended")
        await self._report(sandbox, ready, Condition(SUSPENDED, True, reason, message))

    async def _report(self, sandbox: Object, *conditions: Condition) -> None:
        fields = {"podIPs": [self._address], "nodeName": self._node}
        await self._writer.report(SANDBOX, sandbox, list(conditions), **fields)

    def _spawn(self, uid: str, work: Coroutine[None, None, None]) -> None:
        task = self._tasks[uid] = asyncio.create_task(self._reported(uid, work))
        task.add_done_callback(lambda _: self._tasks.pop(uid))
        task.add_done_callback(lambda _: self._writer.cache.changed.set())

    async def _reported(self, uid: str, work: Coroutine[None, None, None]) -> None:
        try:
            await work
        except Refused as error:
            log.warning("%s", error)  # the next round tries again
        except Exception as error:
            self._later(uid)
            log.warning("a Sandbox: %s", describe(error).message)


def _is_to_be_suspended(sandbox: Object) -> bool:
    return bool(objects.spec(sandbox).get("operatingMode") == "Suspended")


def _is_expired(sandbox: Object) -> bool:
    ready = objects.condition(sandbox, READY)
    return ready is not None and ready.reason == "SandboxExpired"
