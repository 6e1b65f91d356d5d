"""What processes that hold a machine give up; docs/security.md of pyvmm lists what each of them keeps."""

from __future__ import annotations

from vmm import restrict_process, seal_process

SEALED = (
    # files of bundles, volumes and the state; an overlay's, which its mounter's capabilities serve
    *("chown", "dac_override", "dac_read_search", "fowner", "fsetid", "setfcap"),
    # mounts, control groups, and the namespaces of faces
    *("sys_admin", "sys_ptrace", "sys_resource", "kill"),
    # a network that comes late; connections to localhost of the container's
    *("net_admin", "net_raw", "bpf"),
)
"""What the threads of a monitor or shim have that are made once its machine is there."""
KEPT = (
    *SEALED,
    # for the servers of shares and networks: their users, their roots, the ports of a rootless network
    *("setgid", "setuid", "setpcap", "sys_chroot", "net_bind_service"),
)


def restrict() -> None:
    """On the first thread, before there are others: keep what making machines and containers takes.

    :raises HostError: the kernel refuses what every kernel allows
    """
    restrict_process(KEPT)


def seal(*, programs: bool = False) -> None:
    """The machine is made: from now on this process has the system calls of a list alone, and makes no other machine.

    :param programs: it still starts programs, which have the same list; else no process
    :raises HostError: the host's kernel has no filters of system calls
    """
    seal_process(SEALED, programs=programs)
