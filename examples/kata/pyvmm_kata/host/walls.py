"""What processes that hold a machine give up; docs/security.md of pyvmm lists what each of them keeps."""

from __future__ import annotations

from vmm import restrict_process, seal_process

KEPT = (
    # files of bundles, volumes and the state; what a share serves, attributes included
    *("chown", "dac_override", "dac_read_search", "fowner", "fsetid", "setgid", "setuid", "setfcap"),
    # mounts, control groups, and the namespaces of faces
    *("sys_admin", "sys_chroot", "sys_ptrace", "sys_resource", "kill", "setpcap"),
    # a tap device, its filters and programs; the ports of a rootless network
    *("net_admin", "net_raw", "bpf", "net_bind_service"),
)


def restrict() -> None:
    """On the first thread, before there are others: keep what making machines and containers takes.

    :raises HostError: the kernel refuses what every kernel allows
    """
    restrict_process(KEPT)


def seal() -> None:
    """The machine is made, and no process is to be started any more: by this thread, and those to come.

    :raises HostError: the host's kernel has no filters of system calls
    """
    seal_process()
