"""The engine of ``--engine kubernetes``: sandboxes of this node, and the controller beside them."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from pyvmm_server.engine import Local
from pyvmm_server.kubernetes.api import Api
from pyvmm_server.kubernetes.controller import Controller

if TYPE_CHECKING:
    import asyncio

    from pyvmm_server.sandboxes import Sandboxes
    from pyvmm_server.settings import Settings

NODE_NAME, POD_IP, MEMORY = "PYVMM_NODE_NAME", "PYVMM_POD_IP", "PYVMM_NODE_MEMORY"
"""Variables that the DaemonSet sets: the node's name, the address of the pod, and MiB for sandboxes."""


class Kubernetes(Local):
    """
    :param namespace: whose objects are served; empty: those of all
    :param host: the address on which the server listens
    :raises ConfigError: lightkube is not installed, or there is no configuration of a cluster
    :ivar controller: None before :meth:`run`
    """

    controller: Controller | None = None

    def __init__(self, settings: Settings, namespace: str, host: str) -> None:
        super().__init__(settings)
        self._api = Api(namespace)
        self.node = os.environ.get(NODE_NAME) or socket.gethostname()
        self._address = os.environ.get(POD_IP) or host

    async def run(self, sandboxes: Sandboxes, begun: asyncio.Event) -> None:
        memory = int(os.environ.get(MEMORY) or 0) or (await self.nodes())[0].memory
        self.controller = Controller(self._api, sandboxes, self.node, self._address, memory)
        await self.controller.run(begun)
