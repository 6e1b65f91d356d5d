"""A guest that writes records to four disks, as a program that a test kills.

usage: python disk_program.py KERNEL ROOT PROGRAMS FOLDER

PROGRAMS is a disk with the programs of the tests. The disks to write to are FOLDER/ENGINE-CACHE.img, as DISKS lists
them. Its standard output is the guest's console; on standard error it says "NAME uring=0|1" for each once they are in
use.
"""

from __future__ import annotations

import base64
import sys
from pathlib import Path

from tests.guest.shared import INSTALL_PROGRAMS
from vmm import BootConfig, ConsoleConfig, DiskConfig, Machine, MachineConfig
from vmm.virtio.blk.device import Blk

DISKS = {"uring-writeback": "c", "uring-writethrough": "d", "sync-writeback": "e", "sync-writethrough": "f"}
"""Names of the images, and the last letter of their device in the guest."""


def script() -> str:
    """What the guest runs: a process for each disk, all at once.

    Where the disk has a cache, a record is on it when a flush has returned; where it has none, when the write has.
    """
    lines = [INSTALL_PROGRAMS]
    for name, letter in DISKS.items():
        how = "flush" if name.endswith("writeback") else "direct"
        lines.append(f"records /dev/vd{letter} {letter} {how} &")
    return "\n".join([*lines, "wait"])


def main(kernel: str, root: str, programs: str, folder: str) -> None:
    """Run the guest until somebody kills this process."""
    command = base64.b64encode(script().encode()).decode()
    config = MachineConfig(
        BootConfig(kernel, cmdline=f"pyvmm.quiet pyvmm.run64={command}"),
        cpus=2,
        rootfs=DiskConfig(root),
        disks=(DiskConfig(programs, read_only=True),),
        console=ConsoleConfig("fd", sys.stdout.fileno()),
    )
    disks = {}
    for name in DISKS:
        engine, _, cache = name.partition("-")
        config_of_disk = DiskConfig(str(Path(folder, f"{name}.img")), cache=cache)
        disks[name] = Blk(config_of_disk, cpus=2, io_uring=engine == "uring")
    with Machine(config, devices=tuple(disks.values())) as machine:
        machine.start()
        while machine.wait(0.1) is None:
            if all(disk.stats()["writes"] for disk in disks.values()):
                break
        for name in disks:
            print(f"{name} uring={disks[name].stats()['uring']}", file=sys.stderr, flush=True)
        machine.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
