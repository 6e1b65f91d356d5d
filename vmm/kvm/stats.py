"""KVM_GET_STATS_FD: the counters that KVM keeps of a VM or a vCPU (Linux ``Documentation/virt/kvm/api.rst`` 4.133)."""

from __future__ import annotations

import ctypes
import os

from vmm.errors import HostError
from vmm.kvm import ioctl as k
from vmm.kvm.structs import kvm_stats_desc, kvm_stats_header


def read_stats(fd: int) -> dict[str, int]:
    """All scalar statistics of the VM or vCPU *fd* by name; empty where the host's KVM has none to give."""
    try:
        stats_fd = k.ioctl(fd, k.KVM_GET_STATS_FD, 0, "KVM_GET_STATS_FD")
    except HostError:
        return {}
    try:
        header = kvm_stats_header.from_buffer_copy(os.pread(stats_fd, ctypes.sizeof(kvm_stats_header), 0))
        step = ctypes.sizeof(kvm_stats_desc) + header.name_size
        table = os.pread(stats_fd, step * header.num_desc, header.desc_offset)
        values: dict[str, int] = {}
        for start in range(0, len(table), step):
            desc = kvm_stats_desc.from_buffer_copy(table, start)
            if desc.size == 1:
                name = table[start + ctypes.sizeof(kvm_stats_desc) : start + step].split(b"\0", 1)[0].decode()
                values[name] = int.from_bytes(os.pread(stats_fd, 8, header.data_offset + desc.offset), "little")
        return values
    finally:
        os.close(stats_fd)
