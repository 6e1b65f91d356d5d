"""A cluster of Ray for tests: `ray_cluster.py` starts it."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path

from tests.kata.oci_runtime import PATIENCE
from tests.server.conftest import ROOT, Server

NODES, MIB = 3, 4096


class Cluster:
    """A head and nodes of this host, in processes of their own.

    :ivar keepers: the main process of each node
    :param memory: of each node, in MiB
    """

    def __init__(self, server: Server, memory: int = MIB) -> None:
        packages = ("", "examples/kata", "examples/sandbox", "examples/server")
        self.environment = {
            "PYTHONPATH": os.pathsep.join(str(ROOT / name) for name in packages),
            "PYVMM_FAKE_KERNELS": server.kernels.name,
            "RAY_TMPDIR": server.kernels.name,  # sockets need short paths
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",  # as the guide has it
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
        }
        command = [sys.executable, str(Path(__file__).with_name("ray_cluster.py")), str(NODES), str(memory)]
        with open(server.place / "ray.log", "wb") as log:
            environment = {**os.environ, **self.environment}
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment
            )
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(b"{"):
                break
        else:
            raise AssertionError((server.place / "ray.log").read_text()[-3000:])
        found = json.loads(line)
        self.environment["RAY_ADDRESS"] = found["address"]
        self.keepers: dict[str, int] = found["keepers"]

    def close(self) -> None:
        self._process.communicate(timeout=PATIENCE)
