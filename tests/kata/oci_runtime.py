"""``pyvmm-oci`` as podman and containerd call it, with a machine that runs nothing: programs run on the host."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyvmm_kata.bundle.default_spec import default_spec

PROGRAM = Path(__file__).with_name("oci_program.py")
CLIENT = Path(__file__).parents[2] / "examples" / "kata" / "pyvmm_kata" / "pyvmm-oci-client"
SHIM_CLIENT = CLIENT.with_name("pyvmm-shim-client")
WARM = Path(__file__).parents[2] / "vmm" / "faststart" / "pyvmm-warm"
PATIENCE = 120.0
needs_namespaces = pytest.mark.skipif(
    os.geteuid() != 0 or subprocess.run(["unshare", "-mn", "true"], capture_output=True).returncode != 0,
    reason="needs the right to make namespaces",
)


def eventually(what: Callable[[], bool], words: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline, words
        time.sleep(0.01)


class Runtime:
    """The command, with a root and bundles of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "state"
        self.bundles = 0
        self.program: tuple[str, ...] = (sys.executable, str(PROGRAM))

    def command(self, *arguments: str) -> list[str]:
        return [*self.program, "--root", str(self.root), *arguments]

    def run(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        options.setdefault("stdin", None if "input" in options else subprocess.DEVNULL)
        if options["stdin"] is None:
            del options["stdin"]
        return subprocess.run(
            self.command(*arguments), capture_output=True, text=True, timeout=PATIENCE, check=False, **options
        )

    def check(self, *arguments: str, **options: Any) -> str:
        done = self.run(*arguments, **options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def bundle(self, script: str, *, terminal: bool = False, **changes: Any) -> str:
        self.bundles += 1
        path = self.folder / f"bundle{self.bundles}"
        (path / "rootfs").mkdir(parents=True)
        spec = default_spec(["/bin/sh", "-c", script], terminal=terminal)
        spec.update(changes)
        (path / "config.json").write_text(json.dumps(spec))
        return str(path)

    def created(self, container_id: str, script: str, **changes: Any) -> None:
        # Its output leads to a file: to a pipe of ours, and we would wait for the container's end
        with open(self.folder / f"{container_id}.out", "wb") as out:
            command = self.command("create", "--bundle", self.bundle(script, **changes), container_id)
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, timeout=PATIENCE)
        assert done.returncode == 0, self.output(container_id)

    def started(self, container_id: str, script: str, **changes: Any) -> None:
        self.created(container_id, script, **changes)
        self.check("start", container_id)

    def output(self, container_id: str) -> str:
        return (self.folder / f"{container_id}.out").read_text()

    def state(self, container_id: str) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(self.check("state", container_id))
        return state

    def wait(self, container_id: str, status: str) -> None:
        eventually(lambda: self.state(container_id)["status"] == status, f"{container_id} is not {status}")


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
