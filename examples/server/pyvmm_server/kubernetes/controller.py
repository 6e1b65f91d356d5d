"""Rounds over all objects: each brings what there is closer to what was wished for.

A round looks at states, not at changes.  So a server that was away, or whose watch has missed something, needs no rules
of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from typing import TYPE_CHECKING

from pyvmm_server import metrics
from pyvmm_server.errors import ClientError
from pyvmm_server.kubernetes import blueprint, objects
from pyvmm_server.kubernetes.api import CLAIM, POOL, SANDBOX, TEMPLATE, Cache, Refused
from pyvmm_server.kubernetes.claims import Claims
from pyvmm_server.kubernetes.machines import Machines
from pyvmm_server.kubernetes.membership import RENEW_S, Membership
from pyvmm_server.kubernetes.objects import READY, Condition, Object
from pyvmm_server.kubernetes.pools import Pools
from pyvmm_server.kubernetes.writer import Writer
from pyvmm_server.placement import choose

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pyvmm_server.kubernetes.api import Api
    from pyvmm_server.sandboxes import Sandboxes

log = logging.getLogger("pyvmm_server")
_ROUND_S = 1.0
"""At most, between two rounds: times of sandboxes end, and machines end by themselves."""
_BEGIN_S = 10.0
"""How long the server waits for the cluster before it answers requests."""


class Controller:
    """
    :param node: the name of this node
    :param address: where it answers requests to its sandboxes
    :param memory: for sandboxes of this node, in MiB
    """

    def __init__(self, api: Api, sandboxes: Sandboxes, node: str, address: str, memory: int) -> None:
        self.cache = Cache(api, (SANDBOX, CLAIM, TEMPLATE, POOL))
        self.membership = Membership(api, node, memory)
        self.machines = Machines(sandboxes, writer := Writer(self.cache), node, address)
        self._default = sandboxes.settings.memory
        self._writer = writer
        self._claims = Claims(writer, self._place)
        self._pools = Pools(writer, self._place)
        self._rng = random.Random()

    async def run(self, begun: asyncio.Event) -> None:
        """Until cancelled.

        :param begun: set when all objects are known, or after a while: clients of E2B do not need the cluster
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self.cache.run())
            group.create_task(self._keep_leases())
            asyncio.get_running_loop().call_later(_BEGIN_S, begun.set)
            while True:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.cache.changed.wait(), _ROUND_S)
                self.cache.changed.clear()
                if self.cache.is_whole:
                    begun.set()
                    try:
                        await self._round()
                    except Exception as error:
                        log.error("a round of objects", exc_info=error)

    async def _keep_leases(self) -> None:
        while True:
            try:
                await self.membership.round()
            except Exception as error:
                log.error("a round of Leases", exc_info=error)
            await asyncio.sleep(RENEW_S)

    async def _round(self) -> None:
        if self.membership.leads:
            for kind, settle in ((CLAIM, self._claims.settle), (POOL, self._pools.settle), (SANDBOX, self._supervise)):
                for each in self.cache.all(kind):
                    await self._try(settle, each)
            with contextlib.suppress(Refused):
                await self._pools.end_orphans()
        for each in self.cache.all(SANDBOX):
            await self._try(self.machines.settle, each)
        await self.machines.end_others({objects.meta(each)["uid"] for each in self.cache.all(SANDBOX)})

    async def _try(self, settle: Callable[[Object], Awaitable[None]], found: Object) -> None:
        try:
            await settle(found)
        except Refused as error:
            if not error.is_conflict and error.status != 404:
                log.warning("%s/%s: %s", *objects.key(found), error)
        except ClientError as error:  # no node has room
            log.warning("%s/%s: %s", *objects.key(found), error.message)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            # An object that its schema should have excluded must not stop the others
            log.warning("%s/%s is malformed: %s", *objects.key(found), error)

    def _place(self, spec: Object) -> str:
        """The node of a new sandbox.

        :raises ClientError: none has room
        """
        memory = self._memory(spec)
        found = choose(self.membership.alive, self._used, memory, self._rng)
        if found is None:
            raise ClientError(503, f"no node has {memory} MiB for another sandbox")
        return found.id

    def _used(self, node: str) -> int:
        mine = [each for each in self.cache.all(SANDBOX) if objects.annotation(each, objects.NODE) == node]
        return sum(self._memory(objects.spec(each)) for each in mine)

    def _memory(self, spec: Object) -> int:
        try:
            return blueprint.read(spec).memory or self._default
        except blueprint.Invalid:
            return 0  # it will not start

    async def _supervise(self, sandbox: Object) -> None:
        """Choose the node of a Sandbox that a user has made, and report what is lost with its node."""
        node = objects.annotation(sandbox, objects.NODE)
        if not node:
            if objects.is_ending(sandbox):
                return
            names = objects.finalizers(sandbox, held=True)
            place = self._place(objects.spec(sandbox))
            await self._writer.change(SANDBOX, sandbox, {"finalizers": names, "annotations": {objects.NODE: place}})
        elif self.membership.is_lost(node):
            ready = objects.condition(sandbox, READY)
            if objects.is_ending(sandbox):
                await self._writer.release(SANDBOX, sandbox)  # its node ends the machine when it is back
            elif ready is None or ready.reason != "NodeLost":
                metrics.FAILURES.labels("lost").inc()
                log.warning("sandbox is lost with its node", extra={"sandbox": objects.key(sandbox)[1], "node": node})
                lost = Condition(READY, False, "NodeLost", f"the node {node} does not answer")
                await self._writer.report(SANDBOX, sandbox, [lost])
