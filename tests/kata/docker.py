"""Debian's dockerd with a runtime of ours, and its folders in one of the test's."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

PATIENCE = 240.0
_CONTAINERD = """\
version = 2
root = "{folder}/containerd"
state = "{folder}/containerd-run"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.devmapper"]
[grpc]
address = "{folder}/containerd.sock"
"""
"""Its own one: dockerd gives up after 15 s, in which an emulated host does not start it."""
NAME = "kata-pyvmm"
"""Harbor's check wants "kata" in the name of a runtime."""
IMAGE = "box:1"
_SEARCH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
_APPLETS = ("sh", "echo", "cat", "ls", "sleep", "uname", "hostname", "httpd", "wget")


class Dockerd:
    """
    :param folder: short, since sockets are in it
    :param runtime: the program that is the runtime :data:`NAME`
    :ivar host: for ``DOCKER_HOST``
    """

    def __init__(self, folder: Path, runtime: Path) -> None:
        for program in ("dockerd", "docker", "containerd"):
            if shutil.which(program, path=_SEARCH) is None:
                pytest.skip(f"no {program}")
        self.host = f"unix://{folder}/docker.sock"
        self.environment = {
            **os.environ,
            "PATH": _SEARCH,
            "DOCKER_HOST": self.host,
            "DOCKER_CONFIG": f"{folder}/client",
        }
        settings = {
            "data-root": f"{folder}/data",
            "exec-root": f"{folder}/exec",
            "pidfile": f"{folder}/pid",
            "hosts": [self.host],
            "containerd": f"{folder}/containerd.sock",
            "storage-driver": "vfs",
            # The host's rules and bridges are not the test's
            "bridge": "none",
            "iptables": False,
            "ip6tables": False,
            "runtimes": {NAME: {"path": str(runtime)}},
        }
        (folder / "daemon.json").write_text(json.dumps(settings))
        (folder / "containerd.toml").write_text(_CONTAINERD.format(folder=folder))
        self._log = folder / "log"
        self._processes: list[subprocess.Popen[bytes]] = []
        self._start("containerd", "--config", str(folder / "containerd.toml"))
        self._await((folder / "containerd.sock").exists)
        self._start("dockerd", "--config-file", str(folder / "daemon.json"))
        self._await(lambda: not self.run("version").returncode)
        self._import(folder / "rootfs")

    def _start(self, *command: str) -> None:
        with open(self._log, "ab") as log:
            self._processes.append(
                subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment)
            )

    def _await(self, is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not is_so():
            assert self._processes[-1].poll() is None and time.monotonic() < deadline, self.log[-5000:]
            time.sleep(0.1)  # only a try shows whether it listens

    def _import(self, rootfs: Path) -> None:
        (rootfs / "bin").mkdir(parents=True)
        shutil.copy(shutil.which("busybox", path=_SEARCH) or "/bin/busybox", rootfs / "bin" / "busybox")
        for name in _APPLETS:
            (rootfs / "bin" / name).symlink_to("busybox")
        with subprocess.Popen(["tar", "-C", str(rootfs), "-c", "."], stdout=subprocess.PIPE) as tar:
            done = subprocess.run(["docker", "import", "-", IMAGE], stdin=tar.stdout, env=self.environment)
        assert done.returncode == 0

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Call the command line client."""
        command = ["docker", *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=self.environment, timeout=PATIENCE)

    def check(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr + self.log[-2000:]
        return done.stdout

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def close(self) -> None:
        """End it, with all containers."""
        if left := self.run("ps", "--all", "--quiet").stdout.split():
            self.run("rm", "--force", *left)
        for each in reversed(self._processes):
            each.terminate()
            try:
                each.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                each.kill()
                each.wait()
                raise
