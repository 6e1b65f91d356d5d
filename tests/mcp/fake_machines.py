"""Sandboxes whose machines run their programs on this host, for programs that tests start."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PATHS = [ROOT, *(ROOT / "examples" / name for name in ("kata", "sandbox", "mcp"))]


def environment(place: Path) -> dict[str, str]:
    """For a program that imports this module."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, PATHS)), "TMPDIR": str(place)}


def fake_machines() -> None:
    """From now on, sandboxes of this process have such machines."""
    from pyvmm_kata.pod import sandbox
    from pyvmm_sandbox import guest
    from tests.kata.fake_agent import boot_fake

    sandbox.boot_vm = boot_fake
    guest.PATH = guest.program()


def prepare(place: Path) -> list[str]:
    """Make what a sandbox needs; the options of a program that name it."""
    (place / "rootfs").mkdir()
    (place / "image").write_bytes(b"an image")
    (place / "kata.toml").write_text(f'image = "{place}/image"\nmemory = "64M"\n')
    return ["--image", f"{place}/rootfs", "--config", f"{place}/kata.toml", "--root", f"{place}/state"]


if __name__ == "__main__":
    fake_machines()
    from pyvmm_mcp.command import main

    sys.exit(main(sys.argv[1:]))
