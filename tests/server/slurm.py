"""A Slurm cluster on this host: a controller, and nodes that are daemons of their own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.kata.oci_runtime import PATIENCE

NODES = ("n0", "n1", "n2")
_SEARCH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in found]


class Slurm:
    """
    :ivar environment: for Slurm's commands
    """

    def __init__(self, folder: Path) -> None:
        # Debian installs each daemon under another name, and it does not begin under that.
        self._daemons: list[subprocess.Popen[bytes]] = []
        for name in ("slurmctld", "slurmd"):
            real = shutil.which(f"{name}-wlm", path=_SEARCH)
            if real is None:
                pytest.skip(f"no {name}")
            (folder / name).symlink_to(real)
        if shutil.which("sbatch", path=_SEARCH) is None:
            pytest.skip("no sbatch")
        controller, *ports = _free_ports(1 + len(NODES))
        host = socket.gethostname().partition(".")[0]
        nodes = [
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=2 RealMemory=8192"
            for name, port in zip(NODES, ports, strict=True)
        ]
        self._folder = folder
        (folder / "state").mkdir()
        (folder / "cgroup.conf").write_text("CgroupPlugin=disabled\n")
        (folder / "slurm.conf").write_text(
            f"""\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
KillWait=5
{chr(10).join(nodes)}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
        )
        self.environment = {**os.environ, "PATH": _SEARCH, "SLURM_CONF": f"{folder}/slurm.conf"}
        self._start("slurmctld", "-D", "-c")
        for name in NODES:
            self._start("slurmd", "-D", "-N", name)
        self.until(
            lambda: self.run("sinfo", "--noheader", "--format=%D %t").stdout.split() == [str(len(NODES)), "idle"]
        )

    def _start(self, name: str, *options: str) -> None:
        with open(self._folder / "output", "ab") as log:
            self._daemons.append(
                subprocess.Popen(
                    [str(self._folder / name), *options],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=self.environment,
                )
            )

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, capture_output=True, text=True, env=self.environment, timeout=PATIENCE)

    def until(self, is_so: object) -> None:
        assert callable(is_so)
        deadline = time.monotonic() + PATIENCE
        while not is_so():
            assert time.monotonic() < deadline, (self._folder / "output").read_text()[-3000:]
            time.sleep(0.2)  # Slurm does not report when a job starts

    def close(self) -> None:
        self.run("scancel", "--full", "--user=root")
        self.until(lambda: not self.run("squeue", "--noheader").stdout)
        for each in reversed(self._daemons):
            each.send_signal(signal.SIGTERM)
            each.wait(PATIENCE)
