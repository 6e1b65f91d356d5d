"""KVM_GET_STATS_FD: the counters that KVM keeps of a VM or a vCPU (Linux ``Documentation/virt/kvm/api.rst`` 4.133)."""

from __future__ import annotations

import posix

from vmm.errors import HostError
from vmm.kvm import ioctl as k


def open_stats(fd: int) -> int:
    """A descriptor of the statistics of the VM or vCPU *fd*, the caller's; -1 where the host's KVM has none.

    Of a vCPU, only while no thread is inside KVM_RUN: the ioctl would wait until it returns.
    """
    try:
        return k.ioctl(fd, k.KVM_GET_STATS_FD, 0, "KVM_GET_STATS_FD")
    except HostError:
        return -1


def read_stats(stats_fd: int) -> dict[str, int]:
    """All scalar statistics by name, from the descriptor of :func:`open_stats`. At any time."""
    if stats_fd < 0:
        return {}
    from vmm.faststart.ctype import sizeof
    from vmm.kvm.structs_debug import kvm_stats_desc, kvm_stats_header

    header = kvm_stats_header.from_buffer_copy(posix.pread(stats_fd, sizeof(kvm_stats_header), 0))
    step = sizeof(kvm_stats_desc) + header.name_size
    table = posix.pread(stats_fd, step * header.num_desc, header.desc_offset)
    values: dict[str, int] = {}
    for start in range(0, len(table), step):
        desc = kvm_stats_desc.from_buffer_copy(table, start)
        if desc.size == 1:
            name = table[start + sizeof(kvm_stats_desc) : start + step].split(b"\0", 1)[0].decode()
            values[name] = int.from_bytes(posix.pread(stats_fd, 8, header.data_offset + desc.offset), "little")
    return values
