"""How the program ``pyvmm`` begins."""

from __future__ import annotations

import sys

WARM = (
    "vmm.cli.boot",
    "vmm.cli.console",
    "vmm.processes.outside",
    "vmm.cli.main",
    "vmm.cli.open_console",
    "vmm.cli.signals",
    "vmm.cli.terminal",
    "vmm.processes.trim_memory",
    "vmm.processes.jail.enter",
    "vmm.processes.jail.users",
    "vmm.kvm.diagnose",
    "vmm.kvm.structs_debug",
    "vmm.kvm.structs_state",
    "vmm.machine.confined",
    "vmm.machine.machine",
    "vmm.virtio.blk.device",
    "vmm.virtio.rng.device",
)
"""What most boots import, for the image of :mod:`vmm.faststart.warm`; all of it is memory of each monitor."""
RESTORE = (
    *WARM,
    "cbor2",
    "json",
    "vmm.cli.restore",
    "vmm.processes.broker",
    "vmm.processes.control_process",
    "vmm.saving.restore",
    "vmm.virtio.balloon",
    "vmm.virtio.mem",
    "vmm.virtio.net",
    "vmm.virtio.pmem",
    "vmm.virtio.vsock.device",
)
"""What restores import, which have an image of their own."""


def begin() -> int:
    """Run ``pyvmm``; returns the exit status. ``pyvmm-warm`` requests an image of what is imported here."""
    if "pyvmm_warm" in sys._xoptions:
        from vmm.faststart.warm import warm_start

        image = str(sys._xoptions["pyvmm_warm"]).rpartition("/")[2]
        warm_start(RESTORE if "-restore-" in image else WARM)
    else:
        from vmm.faststart import bundle

        bundle.install()
    from vmm.cli.main import main

    try:
        return main()
    except KeyboardInterrupt:
        return 130
