"""The memory of the monitor while its guest idles, without guest RAM."""

from __future__ import annotations

import os
import re
import shutil
import time
from typing import TYPE_CHECKING, Any

from tests.bench import boot, programs
from tests.bench.child import Child
from tests.bench.row import Row, absolute, compare

if TYPE_CHECKING:
    from tests.bench.inside import Spec

GUEST_MIB = 256
MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) \S{4} [0-9a-f]+ \S+ \d+ *(.*)")
SETTLE = 5.0
"""Seconds from the guest's last output to the measurement: the monitor looks every two whether it is quiet."""


def available_kib() -> int:
    """MemAvailable: what the kernel could still give, of files' pages those that it can drop."""
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("MemAvailable:"))


def family(pid: int) -> list[int]:
    """Process `pid` and all its descendants."""
    found = [pid]
    for parent in found:
        for task in os.listdir(f"/proc/{parent}/task"):
            with open(f"/proc/{parent}/task/{task}/children") as file:
                found += [int(child) for child in file.read().split()]
    return found


def private_kib(pid: int) -> dict[str, int]:
    """KiB of memory that only process `pid` uses, by what is mapped (proc(5), smaps).

    Not counted is the guest's RAM: the mapping of its size, which no other has.
    """
    by_name: dict[str, int] = {}
    name, is_ram = "", False
    with open(f"/proc/{pid}/smaps") as file:
        for line in file:
            if header := MAPPING.match(line):
                size = int(header[2], 16) - int(header[1], 16)
                name = header[3] or "anonymous"
                is_ram = size >= GUEST_MIB << 20 and ("memfd" in name or name == "anonymous")
            elif line.startswith("Private_") and not is_ram:
                by_name[name] = by_name.get(name, 0) + int(line.split()[1])
    return {name: kib for name, kib in by_name.items() if kib}


def idle(argv: list[str]) -> dict[str, Any]:
    """Boot, let the guest idle, and measure: `kib` of all processes, and by what is mapped."""
    with Child(argv) as child:
        child.wait_for(b"bench-idle", 120)
        time.sleep(SETTLE)
        by_name: dict[str, int] = {}
        processes = family(child.pid)
        for pid in processes:
            for name, kib in private_kib(pid).items():
                by_name[name] = by_name.get(name, 0) + kib
        top = dict(sorted(by_name.items(), key=lambda item: -item[1]))
        return {"kib": sum(by_name.values()), "processes": len(processes), "by_mapping": top}


def measure(spec: Spec) -> dict[str, Any]:
    """Both programs, each with a root disk and 256 MiB, and both for the second time.

    The first time pyvmm has to parse the kernel, and keeps what it imported for that: `pyvmm-cold`.
    """
    cmdline = f"{spec.cmdline} root=/dev/vda rw {boot.run_in_guest('echo bench-idle; sleep 1000')}"
    figures = {}
    for name in ("qemu-cold", "qemu", "pyvmm-cold", "pyvmm"):
        shutil.copyfile(spec.disk, f"/bench/vda-{name}")
        guest = programs.Guest(spec.kernel, cmdline, disk=f"/bench/vda-{name}", memory=GUEST_MIB)
        argv = programs.qemu(guest) if name.startswith("qemu") else programs.pyvmm(spec.pyvmm, guest)
        figures[name] = idle(argv)
        boot.say(f"{name}: {figures[name]['kib'] / 1024:.1f} MiB")
    return figures


def rows(figures: dict[str, Any]) -> list[Row]:
    """The lines of the table."""
    ours, theirs = (figures[name]["kib"] / 1024 for name in ("pyvmm", "qemu"))
    return [
        compare("memory of the monitor", ours, theirs, "MiB", must=0.5),
        absolute("memory of the monitor, absolute", ours, "MiB", 14, 8),
        absolute("  the first time with a kernel, which is parsed", figures["pyvmm-cold"]["kib"] / 1024, "MiB"),
    ]
