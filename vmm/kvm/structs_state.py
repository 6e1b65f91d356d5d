"""The structures of ``<linux/kvm.h>`` and ``<asm/kvm.h>`` (x86-64) for state besides a CPU's registers, as ctypes:
clocks, interrupts, and other saved state.

A test compares every size and offset with those of the compiler for the header; :data:`STRUCTS` lists them for it.
"""

from __future__ import annotations

from vmm.faststart.ctype import Structure, u8, u32, u64


class kvm_clock_data(Structure):
    """``KVM_GET_CLOCK``."""

    _fields_ = (
        ("clock", u64),
        ("flags", u32),
        ("pad0", u32),
        ("realtime", u64),
        ("host_tsc", u64),
        ("pad", u32 * 4),
    )


class kvm_lapic_state(Structure):
    """``KVM_GET_LAPIC``: the register page of a local APIC."""

    _fields_ = (("regs", u8 * 1024),)


class kvm_mp_state(Structure):
    """``KVM_GET_MP_STATE``."""

    _fields_ = (("mp_state", u32),)


class kvm_irq_level(Structure):
    """``KVM_IRQ_LINE``."""

    _fields_ = (("irq", u32), ("level", u32))


class kvm_vcpu_events(Structure):
    """``KVM_GET_VCPU_EVENTS``: pending exceptions, interrupts, NMIs and SMIs of a vCPU."""

    _fields_ = (
        ("exception", u32 * 2),
        ("interrupt", u8 * 4),
        ("nmi", u8 * 4),
        ("sipi_vector", u32),
        ("flags", u32),
        ("smi", u8 * 4),
        ("triple_fault", u8),
        ("reserved", u8 * 26),
        ("exception_has_payload", u8),
        ("exception_payload", u64),
    )


class kvm_debugregs(Structure):
    """``KVM_GET_DEBUGREGS``: DR0 to DR3, DR6, DR7."""

    _fields_ = (("db", u64 * 4), ("dr6", u64), ("dr7", u64), ("flags", u64), ("reserved", u64 * 9))


class kvm_xcr(Structure):
    """One extended control register."""

    _fields_ = (("xcr", u32), ("reserved", u32), ("value", u64))


class kvm_xcrs(Structure):
    """``KVM_GET_XCRS``."""

    _fields_ = (("nr_xcrs", u32), ("flags", u32), ("xcrs", kvm_xcr * 16), ("padding", u64 * 16))


class kvm_irqchip(Structure):
    """``KVM_GET_IRQCHIP``: chip 0 and 1 are the PICs, 2 is the I/O APIC; *chip* is the union of their registers."""

    _fields_ = (("chip_id", u32), ("pad", u32), ("chip", u8 * 512))


IRQCHIPS = {"pic_master": 0, "pic_slave": 1, "ioapic": 2}


class kvm_device_attr(Structure):
    """``KVM_GET_DEVICE_ATTR``; *addr* is the host address of the value."""

    _fields_ = (("flags", u32), ("group", u32), ("attr", u64), ("addr", u64))


VCPU_TSC_CTRL, VCPU_TSC_OFFSET = 0, 0
"""The group, and in it the attribute, of a vCPU's TSC offset (Linux 5.16)."""

STRUCTS: tuple[type[Structure], ...] = (
    kvm_clock_data,
    kvm_lapic_state,
    kvm_mp_state,
    kvm_irq_level,
    kvm_vcpu_events,
    kvm_debugregs,
    kvm_xcr,
    kvm_xcrs,
    kvm_irqchip,
    kvm_device_attr,
)
