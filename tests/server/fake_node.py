"""A node of a cluster with machines that run their programs on this host."""

from __future__ import annotations

import os

from pyvmm_server.node import Node
from pyvmm_server.settings import Settings
from tests.server import fake_machines


class FakeNode(Node):
    """Its process is one of Ray's, and has the folder of the test in its settings."""

    def __init__(self, settings: Settings, node: str, host: str, keeper: int) -> None:
        fake_machines.install(os.path.dirname(settings.state))
        super().__init__(settings, node, host, keeper)
