"""The entry point of the program ``pyvmm-oci``."""

from __future__ import annotations

import sys

WARM = (
    "cbor2",
    "json",
    "pyvmm_kata.host.knocking",
    "pyvmm_kata.oci.conmon",
    "pyvmm_kata.oci.console",
    "pyvmm_kata.oci.main",
    "pyvmm_kata.oci.monitor",
    "pyvmm_kata.oci.run",
    "pyvmm_kata.sandbox.disks",
    "pyvmm_kata.sandbox.loopback",
    "pyvmm_kata.sandbox.vm",
    "tomllib",
    "vmm.boot.acpi",
    "vmm.boot.cache",
    "vmm.boot.loader",
    "vmm.boot.pvh",
    "vmm.kvm.diagnose",
    "vmm.kvm.structs_debug",
    "vmm.kvm.structs_state",
    "vmm.machine.bootstrap",
    "vmm.machine.confined",
    "vmm.machine.machine",
    "vmm.machine.restored",
    "vmm.virtio.fs.device",
    "vmm.virtio.balloon",
    "vmm.virtio.fs.process",
    "vmm.virtio.net.device",
    "vmm.virtio.net.tap",
    "vmm.virtio.pmem.device",
    "vmm.virtio.rng.device",
    "vmm.virtio.vsock.device",
)
"""Modules that ``create``, ``run`` and their monitors import; each monitor has all of them in its memory."""


def begin() -> int:
    """Run ``pyvmm-oci``; returns the exit status."""
    if "pyvmm_warm" in sys._xoptions:
        from vmm import warm_start

        warm_start(WARM)
    from pyvmm_kata.oci.main import main

    return main()
