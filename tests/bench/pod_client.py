"""What containerd does with a shim, without containerd: a pod, and then containers in it, one after the other.

`pod_client.py CONFIG`: CONFIG is JSON: shim (the program), config (the runtime's settings), sandbox and container (the
two bundles), turns. One line of JSON comes out: of each container the nanoseconds from the start of the command that
containerd runs for it to its removal: `ns`, and of that the command: `command_ns`. Nothing of the test suite is
imported: it runs with the installed pyvmm-kata alone.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from typing import Any

from pyvmm_kata import protobuf, ttrpc

SERVICE = "containerd.task.v2.Task"
TIMEOUT = 300.0


class Shim:
    """The shim of a pod."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._program = config["shim"]
        self._environment = {**os.environ, "PYVMM_KATA_CONFIG": config["config"]}
        self._clients: dict[str, ttrpc.Client] = {}

    def start(self, task_id: str, bundle: str) -> ttrpc.Client:
        """Run the command `start` in a bundle; returns a connection to the address that it prints."""
        command = [self._program, "-namespace", "bench", "-id", task_id, "-address", "/run/none.sock", "start"]
        done = subprocess.run(command, cwd=bundle, env=self._environment, stdout=-1, check=True, timeout=TIMEOUT)
        address = done.stdout.decode().removeprefix("unix://")
        if address not in self._clients:
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(address)
            self._clients[address] = ttrpc.Client(sock, "the shim")
        return self._clients[address]


def call(client: ttrpc.Client, method: str, **fields: Any) -> Any:
    """One method of the Task service."""
    return client.call(SERVICE, method, protobuf.methods(SERVICE)[method][0](**fields), TIMEOUT)


def run_container(shim: Shim, task_id: str, bundle: str) -> dict[str, int]:
    """The whole life of a container: create, start, wait, delete."""
    began = time.monotonic_ns()
    client = shim.start(task_id, bundle)
    known = time.monotonic_ns()
    call(client, "Create", id=task_id, bundle=bundle)
    call(client, "Start", id=task_id)
    status = call(client, "Wait", id=task_id).exit_status
    call(client, "Delete", id=task_id)
    ended = time.monotonic_ns()
    if status:
        raise SystemExit(f"{task_id} ended with {status}")
    return {"ns": ended - began, "command_ns": known - began}


def main(config: dict[str, Any]) -> int:
    """Measure; returns the exit status."""
    shim = Shim(config)
    client = shim.start("pod", config["sandbox"])
    try:
        call(client, "Create", id="pod", bundle=config["sandbox"])
        call(client, "Start", id="pod")
        runs = [run_container(shim, f"c{turn}", config["container"]) for turn in range(config["turns"] + 1)]
        call(client, "Kill", id="pod", signal=9, all=True)
        call(client, "Wait", id="pod")
        call(client, "Delete", id="pod")
    finally:
        call(client, "Shutdown", id="pod", now=True)
    print(json.dumps(runs[1:]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
