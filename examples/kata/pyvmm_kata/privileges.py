"""What processes with a machine give up; docs/security.md of pyvmm lists what each of them keeps."""

from __future__ import annotations

from vmm import restrict_process, seal_process

__all__ = ["KEPT", "SEALED", "restrict", "restrict_process", "seal"]

SEALED = (
    # files of bundles, volumes and disks in folders of others
    "dac_override",
    # mounts, a network that comes late, and the namespaces and signals of faces that have other users
    *("sys_admin", "sys_ptrace", "kill"),
    # interfaces of that network; connections to localhost of the container's: a raw socket, a program that is loaded
    *("net_admin", "net_raw", "bpf"),
)
"""What the threads of a monitor or shim have that are made once its machine is there."""
KEPT = (
    *SEALED,
    # an overlay that is mounted: what its mounter may do is done to files below it later
    *("chown", "dac_read_search", "fowner", "fsetid", "setfcap", "sys_resource"),
    # for the servers of shares and networks: their users, their roots, the ports of a rootless network
    *("setgid", "setuid", "setpcap", "sys_chroot", "net_bind_service"),
)


def restrict() -> None:
    """On the first thread, before others exist: keep only what making machines and containers needs.

    :raises HostError: the kernel refuses what every kernel supports
    """
    restrict_process(KEPT)


def seal(*, programs: bool = False) -> None:
    """The machine is made: from now on this process has only the system calls of a list, and makes no other machine.

    :param programs: it still starts programs, which have the same list; otherwise no process
    :raises HostError: the host's kernel has no filters of system calls
    """
    seal_process(SEALED, programs=programs)
