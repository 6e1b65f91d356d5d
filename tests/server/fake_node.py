"""A node of a cluster with machines that run their programs on this host."""

from __future__ import annotations

import os
from dataclasses import replace

from pyvmm_server.node import Node
from pyvmm_server.settings import Settings
from tests.server import fake_machines


class FakeNode(Node):
    """Its process is one of Ray's, and has the folder of the test in its settings.

    All nodes are on one host.  Each has folders of its own all the same, as on hosts of their own.
    """

    def __init__(self, settings: Settings, node: str, host: str, keeper: int) -> None:
        fake_machines.install(os.path.dirname(settings.state))
        root = os.path.join(settings.root, node[:16])  # a sandbox has the same name on each node that starts it
        os.makedirs(root, mode=0o700, exist_ok=True)
        super().__init__(replace(settings, state=host_of(settings.state, node), root=root), node, host, keeper)


def host_of(state: str, node: str) -> str:
    """The folder in which a node has what it would have in that of ``--state``."""
    return os.path.join(state, "hosts", node[:16])
