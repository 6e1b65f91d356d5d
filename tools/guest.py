"""The kernel and the disk that guests boot here: guest-kernel's recipes, or what the environment names."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VARIABLES = {"build.py": "PYVMM_GUEST_KERNEL", "rootfs.py": "PYVMM_GUEST_ROOTFS"}


def make(recipe: str, *options: str) -> str:
    """Run a recipe of guest-kernel and return the path of what it made; it is quick when its cache has that.

    Raises SystemExit with the recipe's status when it fails; it has said why on stderr.
    """
    if not options and (path := os.environ.get(VARIABLES[recipe])):
        return path
    command = [sys.executable, str(ROOT / "guest-kernel" / recipe), *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(done.returncode)
    return done.stdout.strip()


def kernel() -> str:
    """The path of the guest kernel, an ELF vmlinux."""
    return make("build.py")


def rootfs() -> str:
    """The path of the root disk. It belongs to the cache: write to a copy."""
    return make("rootfs.py")


def publish() -> None:
    """Make both and name them in the environment, so that what this process starts need not look for them."""
    os.environ["PYVMM_GUEST_KERNEL"] = kernel()
    os.environ["PYVMM_GUEST_ROOTFS"] = rootfs()
