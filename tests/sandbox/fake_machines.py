"""Sandboxes whose machines run their programs on this host, for programs that tests start."""

from __future__ import annotations

import functools
import os
import signal
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PATHS = [ROOT, *(ROOT / "examples" / name for name in ("kata", "sandbox", "mcp"))]


def environment(place: Path) -> dict[str, str]:
    """For a program that imports this module."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, PATHS)), "TMPDIR": str(place)}


@functools.cache
def fake_machines() -> None:
    """From now on, sandboxes of this process have such machines."""
    from pyvmm_kata.pod import sandbox
    from pyvmm_sandbox import guest, isolations
    from tests.kata import fake_agent

    class PlacedProcess(fake_agent.FakeProcess):
        """A program that runs as its user, and begins in its directory."""

        def __init__(self, process: dict[str, Any]) -> None:
            super().__init__(process)
            ids = [f"--reuid={process['user']['uid']}", f"--regid={process['user'].get('gid', 0)}", "--clear-groups"]
            self.args = ["env", f"--chdir={process['cwd']}", "setpriv", *ids, *self.args]

    fake_agent.FakeProcess = PlacedProcess  # type: ignore[misc]
    sandbox.boot_vm = fake_agent.boot_fake
    guest.PATH = guest.program()
    isolations.choose = lambda wanted: "vm"  # these machines need no KVM


def prepare(place: Path) -> list[str]:
    """Make what a sandbox needs; the options of a program that name it."""
    (place / "rootfs").mkdir()
    (place / "image").write_bytes(b"an image")
    (place / "kata.toml").write_text(f'image = "{place}/image"\nmemory = "64M"\n')
    return ["--image", f"{place}/rootfs", "--config", f"{place}/kata.toml", "--root", f"{place}/state"]


def options(place: Path) -> dict[str, Any]:
    """Of a sandbox, after :func:`prepare`."""
    return {"config": f"{place}/kata.toml", "root": f"{place}/state"}


def end_programs(variable: str, value: object) -> None:
    """End programs with this variable in their environment, as a machine that is one does at its end."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{variable}={value}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                os.kill(int(folder.name), signal.SIGKILL)
        except OSError:
            pass  # it has ended
