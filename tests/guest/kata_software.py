"""Programs as users have them in containers: servers and tools of Debian's, from one root file system.

What they print under one runtime is compared with what they print under another one.
"""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from pathlib import Path

from tests.guest.kata_podman import Podman
from tests.guest.kata_tools import PATIENCE


class Stage:
    """Where one runtime plays: a root file system, each container with a layer of its own upon it.

    :param runtime: empty for pyvmm-oci
    :ivar volumes: a folder of this runtime's, for what a container gets of the host
    """

    def __init__(self, podman: Podman, rootfs: Path, runtime: str, name: str, port: int) -> None:
        self._podman = podman
        self.rootfs = rootfs
        self._runtime = runtime
        self.name = f"{name}-{runtime or 'ours'}"
        self.port = port
        self.volumes = podman.storage / self.name
        self.volumes.mkdir()

    def folder(self, name: str) -> Path:
        """A folder of the host."""
        made = self.volumes / name
        made.mkdir()
        return made

    def run(self, *options: str, command: tuple[str, ...]) -> str:
        """Run a program to its end; what it printed, and its status."""
        return self._said("run", "--rm", *options, "--rootfs", f"{self.rootfs}:O", *command)

    def start(self, *options: str, command: tuple[str, ...]) -> None:
        """Run the container in the background."""
        rootfs = f"{self.rootfs}:O"
        self._podman.check(
            "run", "--detach", "--name", self.name, *options, "--rootfs", rootfs, *command, runtime=self._runtime
        )

    def exec(self, script: str, *options: str, text: str = "") -> str:
        """Run a script of the shell's in it; what it printed, and its status."""
        return self._said("exec", "-i", *options, self.name, "sh", "-c", script, text=text)

    def stop(self) -> str:
        """Stop it; its status."""
        self.podman("stop", "--time", "100")
        return self.podman("inspect", "--format", "{{.State.ExitCode}}")

    def podman(self, verb: str, *options: str) -> str:
        """Have podman do something with it."""
        return self._podman.check(verb, *options, self.name, runtime=self._runtime)

    def remove(self) -> None:
        """It is gone, whatever it was doing."""
        self._podman.run("rm", "--force", "--time", "5", "--ignore", self.name, runtime=self._runtime)

    def fetch(self, path: str) -> str:
        """What its server says at a port of the host's: as soon as it answers."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as answer:
                    return str(answer.read().decode())
            except urllib.error.HTTPError as error:
                return f"{error.code}"
            except OSError as error:
                if time.monotonic() > deadline:
                    raise AssertionError(f"{error}\n{self._said('logs', self.name)}") from error
            time.sleep(0.2)

    def until(self, script: str) -> None:
        """Wait until a script succeeds in it."""
        deadline = time.monotonic() + PATIENCE
        while not (said := self.exec(script)).endswith("\n= 0"):
            over = time.monotonic() > deadline or "running" not in self.podman(
                "inspect", "--format", "{{.State.Status}}"
            )
            assert not over, f"{said}\n{self._said('logs', self.name)}"
            time.sleep(0.5)

    def _said(self, *arguments: str, text: str = "") -> str:
        done = self._podman.run(*arguments, text=text, runtime=self._runtime)
        return f"{done.stdout}{done.stderr}\n= {done.returncode}"
