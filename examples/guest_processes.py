#!/usr/bin/env python3
"""Prints the processes of a guest from outside: drgn reads them from the guest's memory while it runs.

usage: examples/guest_processes.py VMLINUX ROOTFS VMLINUX_DEBUG or, for a running machine: pyvmm debug --vm
unix:/tmp/vm.gdb --vmlinux VMLINUX_DEBUG --script examples/guest_processes.py
"""

from __future__ import annotations

import os
import sys
from typing import Any


def show(program: Any) -> None:
    """One line for each process: its number, its parent's, its state, its name."""
    from drgn.helpers.linux.pid import for_each_task
    from drgn.helpers.linux.sched import task_state_to_char

    for task in for_each_task(program):
        parent = task.real_parent.tgid.value_()
        print(
            f"{task.pid.value_():>6} {parent:>6} {task_state_to_char(task)} {task.comm.string_().decode()}", flush=True
        )


def boot_and_show(kernel: str, rootfs: str, debug: str) -> None:
    """Boot a guest, wait for its shell, and show its processes."""
    from vmm import BootConfig, DiskConfig
    from vmm.debug.kernel import open_machine
    from vmm.testing.guest import TestGuest

    guest = TestGuest(BootConfig(kernel), rootfs=DiskConfig(rootfs))
    try:
        guest.machine.start()
        guest.expect(os.environ.get("PROMPT", "guest:~# "))
        show(open_machine(guest.machine, debug))
    finally:
        guest.close()


if "prog" in globals():  # run by pyvmm debug
    show(globals()["prog"])
elif __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    boot_and_show(*sys.argv[1:])
