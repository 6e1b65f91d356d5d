"""A KVM virtual machine: memory slots, interrupt controllers, irqfds and ioeventfds."""

from __future__ import annotations

import posix

from vmm.errors import HostError
from vmm.faststart.ctype import u64
from vmm.faststart.thread import close_slowly
from vmm.kvm import ioctl as k
from vmm.kvm import structs as s
from vmm.kvm.vcpu import Vcpu


class Vm:
    """Owns the descriptor of a VM; a context manager.  Every method raises :class:`HostError` when KVM refuses."""

    def __init__(self, fd: int, mmap_size: int) -> None:
        self.fd = fd
        self._mmap_size = mmap_size

    def set_memory(self, slot: int, gpa: int, size: int, hva: int, *, read_only: bool = False) -> None:
        """Back ``gpa .. gpa + size`` with the *size* bytes at host address *hva*; size 0 deletes the slot.

        With *read_only* the guest's reads are plain memory accesses and its writes become MMIO exits.
        The caller keeps the host memory mapped for as long as the VM lives.
        """
        region = s.kvm_userspace_memory_region(
            slot=slot,
            flags=s.MEM_READONLY if read_only else 0,
            guest_phys_addr=gpa,
            memory_size=size,
            userspace_addr=hva,
        )
        k.ioctl(self.fd, k.KVM_SET_USER_MEMORY_REGION, region, f"KVM_SET_USER_MEMORY_REGION {gpa:#x}+{size:#x}")

    def set_tss_addr(self, gpa: int) -> None:
        """Three pages that Intel CPUs without unrestricted guest need; not RAM."""
        k.ioctl(self.fd, k.KVM_SET_TSS_ADDR, gpa, "KVM_SET_TSS_ADDR")

    def set_identity_map_addr(self, gpa: int) -> None:
        """One page for the same CPUs; not RAM."""
        k.ioctl(self.fd, k.KVM_SET_IDENTITY_MAP_ADDR, u64(gpa), "KVM_SET_IDENTITY_MAP_ADDR")

    def create_irqchip(self) -> None:
        """In-kernel PICs, I/O APIC and, for every vCPU made later, a local APIC."""
        k.ioctl(self.fd, k.KVM_CREATE_IRQCHIP, 0, "KVM_CREATE_IRQCHIP")

    def irqfd(self, fd: int, gsi: int, *, assign: bool = True) -> None:
        """From now on (or no more) a write to eventfd *fd* raises *gsi* as an edge."""
        argument = s.kvm_irqfd(fd=fd, gsi=gsi, flags=0 if assign else s.IRQFD_DEASSIGN)
        k.ioctl(self.fd, k.KVM_IRQFD, argument, f"KVM_IRQFD gsi {gsi}")

    def ioeventfd(self, fd: int, address: int, size: int, value: int | None, *, assign: bool = True) -> None:
        """From now on (or no more) a guest's write of *value*, *size* bytes, to MMIO *address* signals eventfd *fd*
        inside the kernel. *value* None: any value; *size* 0: any size."""
        flags = (s.IOEVENTFD_DATAMATCH if value is not None else 0) | (0 if assign else s.IOEVENTFD_DEASSIGN)
        argument = s.kvm_ioeventfd(datamatch=value or 0, addr=address, len=size, fd=fd, flags=flags)
        k.ioctl(self.fd, k.KVM_IOEVENTFD, argument, f"KVM_IOEVENTFD {address:#x}")

    def irq_line(self, gsi: int, level: int) -> None:
        """Set an interrupt line by hand."""
        from vmm.kvm.structs_state import kvm_irq_level

        k.ioctl(self.fd, k.KVM_IRQ_LINE, kvm_irq_level(irq=gsi, level=level), f"KVM_IRQ_LINE {gsi}")

    def disable_pmu(self) -> None:
        """No vCPU has performance counters. Before the first one is made; needs Linux 5.18, and has no effect on older
        kernels."""
        # struct kvm_enable_cap: cap and flags, then args[0]; KVM_PMU_CAP_DISABLE is 1
        try:
            k.ioctl(self.fd, k.KVM_ENABLE_CAP, (u64 * 13)(k.CAP_PMU_CAPABILITY, 1), "KVM_CAP_PMU_CAPABILITY")
        except HostError:
            pass

    def create_vcpu(self, index: int) -> Vcpu:
        """A new vCPU whose APIC id is *index*.  It outlives this object and has its own descriptor."""
        return Vcpu(k.ioctl(self.fd, k.KVM_CREATE_VCPU, index, f"KVM_CREATE_VCPU {index}"), index, self._mmap_size)

    def stats(self) -> dict[str, int]:
        """KVM's counters of the VM, by the kernel's names (``remote_tlb_flush``, ``mmu_...``)."""
        from vmm.kvm.stats import open_stats, read_stats

        stats_fd = open_stats(self.fd)
        try:
            return read_stats(stats_fd)
        finally:
            if stats_fd >= 0:
                posix.close(stats_fd)

    def close(self) -> None:
        """Close the descriptor.  A second call does nothing.  KVM frees the VM when its last vCPU is closed too."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            close_slowly(fd)

    def __enter__(self) -> Vm:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
