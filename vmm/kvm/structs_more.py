"""The structures of ``<linux/kvm.h>`` and ``<asm/kvm.h>`` (x86-64) that a start does not need, as ctypes.

A test compares every size and offset with the compiler's view of the header; :data:`STRUCTS` lists them for it.
"""

from __future__ import annotations

from vmm.kvm.ctype import Structure, i16, u8, u16, u32, u64


class kvm_coalesced_mmio_zone(Structure):
    """``KVM_REGISTER_COALESCED_MMIO``."""

    _fields_ = (("addr", u64), ("size", u32), ("pio", u32))


class kvm_pit_config(Structure):
    """``KVM_CREATE_PIT2``."""

    _fields_ = (("flags", u32), ("pad", u32 * 15))


class kvm_enable_cap(Structure):
    """``KVM_ENABLE_CAP``."""

    _fields_ = (("cap", u32), ("flags", u32), ("args", u64 * 4), ("pad", u8 * 64))


class kvm_irq_level(Structure):
    """``KVM_IRQ_LINE``."""

    _fields_ = (("irq", u32), ("level", u32))


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


class kvm_fpu(Structure):
    """``KVM_GET_FPU``."""

    _fields_ = (
        ("fpr", u8 * 16 * 8),
        ("fcw", u16),
        ("fsw", u16),
        ("ftwx", u8),
        ("pad1", u8),
        ("last_opcode", u16),
        ("last_ip", u64),
        ("last_dp", u64),
        ("xmm", u8 * 16 * 16),
        ("mxcsr", u32),
        ("pad2", u32),
    )


class kvm_lapic_state(Structure):
    """``KVM_GET_LAPIC``: the register page of a local APIC."""

    _fields_ = (("regs", u8 * 1024),)


class kvm_mp_state(Structure):
    """``KVM_GET_MP_STATE``."""

    _fields_ = (("mp_state", u32),)


MP_STATE_NAMES = {0: "runnable", 1: "uninitialized", 2: "init-received", 3: "halted", 4: "sipi-received"}


class kvm_translation(Structure):
    """``KVM_TRANSLATE``: a guest virtual address through the vCPU's page tables."""

    _fields_ = (
        ("linear_address", u64),
        ("physical_address", u64),
        ("valid", u8),
        ("writeable", u8),
        ("usermode", u8),
        ("pad", u8 * 5),
    )


class kvm_guest_debug(Structure):
    """``KVM_SET_GUEST_DEBUG``; *debugreg* is ``arch.debugreg`` of the header: DR0 to DR3, and DR7 at its index."""

    _fields_ = (("control", u32), ("pad", u32), ("debugreg", u64 * 8))


class kvm_stats_header(Structure):
    """What a ``KVM_GET_STATS_FD`` descriptor begins with."""

    _fields_ = (
        ("flags", u32),
        ("name_size", u32),
        ("num_desc", u32),
        ("id_offset", u32),
        ("desc_offset", u32),
        ("data_offset", u32),
    )


class kvm_stats_desc(Structure):
    """One statistic; its name follows."""

    _fields_ = (
        ("flags", u32),
        ("exponent", i16),
        ("size", u16),
        ("offset", u32),
        ("bucket_size", u32),
    )


STRUCTS: tuple[type[Structure], ...] = (
    kvm_coalesced_mmio_zone,
    kvm_pit_config,
    kvm_enable_cap,
    kvm_irq_level,
    kvm_clock_data,
    kvm_fpu,
    kvm_lapic_state,
    kvm_mp_state,
    kvm_translation,
    kvm_guest_debug,
    kvm_stats_header,
    kvm_stats_desc,
)
