"""How the programs ``pyvmm-oci`` and ``containerd-shim-pyvmm-v2`` start and end: their scripts call :func:`begin`."""

from __future__ import annotations

import _thread
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

MACHINE = (
    "cbor2",
    "json",
    "pyvmm_kata.host.syn_proxy",
    "pyvmm_kata.bundle.root_disks",
    "pyvmm_kata.pod.agent_messages",
    "pyvmm_kata.pod.loopback",
    "pyvmm_kata.pod.virtual_machine",
    "vmm.boot.acpi",
    "vmm.boot.cache",
    "vmm.boot.loader",
    "vmm.boot.pvh",
    "vmm.processes.broker",
    "vmm.processes.forked",
    "vmm.processes.machine_process",
    "vmm.processes.trim_memory",
    "vmm.options.cpu",
    "vmm.processes.jail.users",
    "vmm.kvm.diagnose",
    "vmm.kvm.structs_debug",
    "vmm.kvm.structs_state",
    "vmm.board.bootstrap",
    "vmm.machine.confined",
    "vmm.processes.isolated",
    "vmm.machine.machine",
    "vmm.saving.restore",
    "vmm.board.vcpu_gate",
    "vmm.saving.memory_base",
    "vmm.virtio.fs.device",
    "vmm.virtio.balloon.device",
    "vmm.virtio.mem",
    "vmm.virtio.fs.process",
    "vmm.virtio.net.device",
    "vmm.virtio.net.tap",
    "vmm.virtio.pmem.device",
    "vmm.virtio.rng.device",
    "vmm.virtio.vsock.client",
    "vmm.virtio.vsock.device",
)
"""Modules that every process imports that makes a machine, and so keeps in memory."""
COPY = ("vmm.board.shell", "vmm.saving.fork")
"""What the machine of a copy imports besides."""
MONITOR = (
    *MACHINE,
    "pyvmm_kata.oci.checkpoint",
    "pyvmm_kata.oci.console",
    "pyvmm_kata.oci.main",
    "pyvmm_kata.oci.monitor",
    "pyvmm_kata.oci.run",
    "pyvmm_kata.oci.pool_machine",
)
"""What ``create``, ``run``, ``restore`` and their monitors import."""
SENTRY = (
    *MONITOR,
    "pyvmm_kata.pod.sentry_guest",
    "pyvmm_kata.pod.sentry_process",
    "pyvmm_sentry.controlled",
    "pyvmm_sentry.platforms",
    "pyvmm_sentry.program",
    "vmm.board.device_server",
    "vmm.cli.kvm_cache",
)
"""The same with ``--isolation sentry``, which ``pyvmm-warm`` gives an image of its own."""
SHIM = (*MACHINE, "pyvmm_kata.shim.main", "pyvmm_kata.shim.server")
"""What the shim of a pod imports."""
PROGRAMS = {"pyvmm_kata.oci.main": MONITOR, "pyvmm_kata.shim.main": SHIM}
_loading = _thread.allocate_lock()


def begin(program: str) -> int:
    """Run the program whose function ``main`` is in that module; returns the exit status."""
    if "pyvmm_warm" in sys._xoptions:
        from vmm import warm_start

        image = str(sys._xoptions["pyvmm_warm"]).rpartition("/")[2]
        warm_start(_existing(SENTRY) if "-sentry-" in image else PROGRAMS[program])
    __import__(program)
    status = int(sys.modules[program].main())
    _leave(status)
    return status


def load(modules: Iterable[str]) -> None:
    """Import modules: processes that are forked later have them.

    One thread does so at a time. While one imports a package that imports its parts, and another one of these parts,
    each waits for the other; Python continues with a half-imported module then, and the import fails.

    :raises ImportError: one is not installed
    """
    with _loading:
        for module in modules:
            __import__(module)


def _existing(modules: Iterable[str]) -> list[str]:
    """Those of packages that are installed: the Sentry's need not be."""
    from importlib.util import find_spec

    return [module for module in modules if find_spec(module.partition(".")[0])]


def _leave(status: int) -> None:
    """End this process without the interpreter's teardown, which writes to each page of its image: a tenth of a
    container's run. Returns if something is left to the interpreter: running threads, output that fails."""
    import atexit

    threading = sys.modules.get("threading")
    if threading is not None and threading.active_count() > 1:
        return
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except (OSError, ValueError):
        return
    atexit._run_exitfuncs()
    os._exit(status)
