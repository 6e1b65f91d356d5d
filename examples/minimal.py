"""The library in ten lines: boot a kernel with a root disk, console on this terminal's output, until it powers off.

python examples/minimal.py VMLINUX ROOTFS [COMMAND LINE]
"""

from __future__ import annotations

import sys

from vmm import BootConfig, ConsoleConfig, DiskConfig, Machine, MachineConfig, MemoryConfig


def main(kernel: str, rootfs: str, cmdline: str = "") -> int:
    config = MachineConfig(
        boot=BootConfig(kernel, cmdline=cmdline),
        memory=MemoryConfig(256 << 20),
        cpus=2,
        rootfs=DiskConfig(rootfs),
        console=ConsoleConfig("fd", sys.stdout.fileno()),
    )
    with Machine(config) as machine:
        end = machine.run(timeout=120)
    print(f"the machine ended: {end.kind} {end.detail}")
    return 0 if end.kind == "poweroff" else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
