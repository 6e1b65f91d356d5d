"""A guest that several tests of a module use, and programs for guests and for tests."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.filesystems import sparse_copy
from tests.guest.conftest import GUESTS
from tests.guest.vmfixture import Guest, boot_guest, showing_console
from tools import guest as recipes
from vmm import DiskConfig

INSTALL_PROGRAMS = "tar xf /dev/vdb -C /"
"""Puts the programs on the PATH of a guest with a root disk and, next to it, programs_disk()."""

EXPECTED = (
    # A kernel with PCI says these on every machine without, pci=off or not
    "PCI: Fatal: No config space access function found",
    "PCI: System does not support PCI",
    # It has been told not to have what it misses there (swiotlb=noforce), with memory above 4 GiB
    "software IO TLB: No low mem",
    # The host did not let a vCPU run for a while
    "clocksource: Long readout interval, skipping watchdog check",
    "sched: DL replenish lagged too much",
    "hrtimer: interrupt took",
)


@contextlib.contextmanager
def running(kernel: str, root: Path, folder: Path, **options: Any) -> Iterator[Guest]:
    """A guest whose shell is ready, with a copy of *root* in *folder*; *options* are those of boot_guest()."""
    guest = boot_guest(kernel, rootfs=sparse_copy(root, folder / "root.ext4"), **options)
    try:
        with showing_console(guest):
            guest.start_shell()
        yield guest
    finally:
        guest.close()


def show(request: pytest.FixtureRequest, guest: Guest) -> Guest:
    """Have the report of a test that fails show the console of *guest*, which a fixture of its module made."""
    request.node.stash.setdefault(GUESTS, []).append(guest)
    return guest


def run_example(kernel: str, folder: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script in a guest whose root is this host's, read-only, and which may write to *folder*."""
    folder.mkdir(exist_ok=True)
    example = Path(__file__).parents[2] / "examples/shared_build.py"
    command = [sys.executable, str(example), kernel, str(folder), "sh", "-c", script]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@contextlib.contextmanager
def loop_device(image: Path) -> Iterator[str]:
    """The path of a loop device of *image*; the test is skipped where there is none."""
    modprobe = shutil.which("modprobe", path=f"{os.environ.get('PATH', '')}:/sbin:/usr/sbin:/run/lab")
    if modprobe:
        subprocess.run([modprobe, "loop"])
    done = subprocess.run(["losetup", "-f", "--show", str(image)], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        pytest.skip("this host has no loop devices")
    path = done.stdout.strip()
    try:
        yield path
    finally:
        tool("losetup", "-d", path)


ONLINE = "echo {1} >/sys/devices/system/cpu/cpu{0}/online"
"""Bring a CPU online (1), or take it offline (0)."""
LOAD = """
used() {{ awk '$1 == "cpu{0}" {{ print $2 + $3 + $4 }}' /proc/stat; }}
before=$(used); taskset {1:x} sh -c 'while :; do :; done' &
while [ $(used) -lt $((before + 50)) ]; do sleep 0.1; done; kill $!
"""
"""A loop that runs on a CPU, of a number and as a mask, until it has had half a second of it."""


def complaints(guest: Guest) -> list[str]:
    """What the guest's kernel has logged as a warning (level 4) or worse."""
    assert int(guest.check("dmesg | wc -l")) > 50
    bad = guest.check("dmesg -r | grep '^<[0-4]>' || true").splitlines()
    return [line for line in bad if not any(text in line for text in EXPECTED)]


def _find(program: str) -> str:
    path = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if path is None:
        pytest.skip(f"no {program} on this host")
    return path


def programs_disk() -> DiskConfig:
    """A read-only disk with the programs of tests/guest/programs; it goes first, for INSTALL_PROGRAMS."""
    return DiskConfig(recipes.programs(), read_only=True)


def tool(name: str, *arguments: str) -> str:
    """Run a program of the host that must succeed; returns its output. Without the program the test is skipped."""
    done = subprocess.run([_find(name), *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, f"{name}: status {done.returncode}\n{done.stdout}"
    return done.stdout
