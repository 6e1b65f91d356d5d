"""Which nodes are alive, and which server is the leader: by Leases, as the components of Kubernetes do.

A Lease is current if it has changed a short while ago *by the clock of this server*: the clocks of nodes differ.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from pyvmm_server.engine import Node
from pyvmm_server.kubernetes import objects
from pyvmm_server.kubernetes.api import LEASE, Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm_server.kubernetes.api import Api
    from pyvmm_server.kubernetes.objects import Key, Object

log = logging.getLogger("pyvmm_server")
RENEW_S = 3.0
LOST_AFTER_S = 12.0
"""Without a change of its Lease, after which a node is lost, and a leader has none."""
_PREFIX = "pyvmm-node-"
_LEADER = "pyvmm-controller"
_MEMORY = "pyvmm.io/memory"


class Membership:
    """
    :param node: the name of this node
    :param memory: for sandboxes of this node, in MiB
    :param clock: a monotonic one
    :ivar leads: whether this server is the leader
    """

    def __init__(self, api: Api, node: str, memory: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._api = api
        self._node, self._memory = node, memory
        self._clock = clock
        self._seen: dict[str, tuple[str, float]] = {}
        self._nodes: dict[str, Node] = {}
        self.leads = False
        self._renewed = -LOST_AFTER_S

    async def round(self) -> None:
        """Renew the Leases of this server, and look at those of others."""
        try:
            await self._renew(_PREFIX + self._node, {_MEMORY: str(self._memory)})
            leases, _ = await self._api.list(LEASE, self._api.home)
            self._look(leases)
            await self._lead(leases.get((self._api.home, _LEADER)))
        except Refused as error:
            log.warning("Leases: %s", error)
            if self._clock() - self._renewed > LOST_AFTER_S / 2:
                self.leads = False  # before another one begins to lead

    @property
    def alive(self) -> list[Node]:
        return [each for each in self._nodes.values() if self._is_current(_PREFIX + each.id)]

    def is_lost(self, node: str) -> bool:
        """Whether it is known to be silent.  A server that has just begun knows none yet."""
        name = _PREFIX + node
        return name in self._seen and not self._is_current(name)

    def _look(self, leases: dict[Key, Object]) -> None:
        now = self._clock()
        for (_, name), lease in leases.items():
            version = objects.meta(lease).get("resourceVersion", "")
            if self._seen.get(name, ("",))[0] != version:
                self._seen[name] = (version, now)
            if name.startswith(_PREFIX):
                node = name.removeprefix(_PREFIX)
                memory = objects.annotation(lease, _MEMORY)
                self._nodes[node] = Node(node, int(memory) if memory.isdigit() else 0)

    def _is_current(self, name: str) -> bool:
        return name in self._seen and self._clock() - self._seen[name][1] < LOST_AFTER_S

    async def _lead(self, lease: Object | None) -> None:
        holder = objects.spec(lease).get("holderIdentity", "") if lease else ""
        if lease is not None and holder != self._node and self._is_current(_LEADER):
            self.leads = False
            return
        try:
            if lease is None:
                await self._api.create(LEASE, self._body(_LEADER, {}))
            else:
                await self._api.patch(LEASE, objects.key(lease), self._change(lease))
        except Refused as error:
            self.leads = False
            if not error.is_conflict:
                raise
            return
        if not self.leads:
            log.info("this server leads", extra={"node": self._node})
        self.leads, self._renewed = True, self._clock()

    async def _renew(self, name: str, annotations: dict[str, str]) -> None:
        at = (self._api.home, name)
        try:
            await self._api.patch(LEASE, at, {"metadata": {"annotations": annotations}, "spec": self._spec()})
        except Refused as error:
            if error.status != 404:
                raise
            await self._api.create(LEASE, self._body(name, annotations))

    def _change(self, lease: Object) -> Object:
        return {"metadata": {"resourceVersion": objects.meta(lease)["resourceVersion"]}, "spec": self._spec()}

    def _body(self, name: str, annotations: dict[str, str]) -> Object:
        metadata = {"name": name, "namespace": self._api.home, "annotations": annotations}
        return {"metadata": metadata, "spec": self._spec()}

    def _spec(self) -> Object:
        time_now = objects.now().isoformat(timespec="microseconds").replace("+00:00", "Z")
        return {
            "holderIdentity": self._node,
            "renewTime": time_now,
            "leaseDurationSeconds": int(LOST_AFTER_S),
        }
