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
_TRIES = 5


class Cluster:
    """A head and nodes of this host, in processes of their own.

    :ivar keepers: the main process of each node
    :param memory: of each node, in MiB
    :param before: whose place it takes: it has its address and its token
    """

    def __init__(
        self, server: Server, memory: int = MIB, nodes: int = NODES, before: Cluster | None = None, **environment: str
    ) -> None:
        packages = ("", "examples/kata", "examples/sandbox", "examples/server")
        self.environment = {
            "PYTHONPATH": os.pathsep.join(str(ROOT / name) for name in packages),
            "PYVMM_FAKE_KERNELS": server.kernels.name,
            "RAY_TMPDIR": server.kernels.name,  # sockets need short paths
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",  # as the guide has it
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            **environment,
        }
        port = "0"
        if before is not None:
            self.environment |= before.environment
            port = before.environment["RAY_ADDRESS"].rpartition(":")[2]
        command = [sys.executable, str(Path(__file__).with_name("ray_cluster.py")), str(nodes), str(memory), port]
        for _ in range(_TRIES):
            if line := self._started(command, server.place / "ray.log"):
                break
        else:
            raise AssertionError((server.place / "ray.log").read_text()[-3000:])
        found = json.loads(line)
        self.environment["RAY_ADDRESS"] = found["address"]
        self.keepers: dict[str, int] = found["keepers"]

    def _started(self, command: list[str], path: Path) -> bytes:
        """What it prints; empty: on a busy host, Ray gives a node up that does not start in 30 s."""
        with open(path, "wb") as log:
            environment = {**os.environ, **self.environment}
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment
            )
        assert self._process.stdout is not None
        return next((line for line in self._process.stdout if line.startswith(b"{")), b"")

    def close(self) -> None:
        self._process.communicate(timeout=PATIENCE)

    def head(self, word: str) -> None:
        """Kill or start the head's main process."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{word}\n".encode())
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line == b"done\n":
                return
        raise AssertionError(f"the head does not {word}")
