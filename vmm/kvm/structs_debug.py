"""The structures of ``<linux/kvm.h>`` and ``<asm/kvm.h>`` (x86-64) for inspecting a guest: debugging, and statistics.

A test compares every size and offset with those of the compiler for the header; :data:`STRUCTS` lists them for it.
"""

from __future__ import annotations

from vmm.faststart.ctype import Structure, i16, u8, u16, u32, u64


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
    """The header at the start of a ``KVM_GET_STATS_FD`` descriptor."""

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


STRUCTS: tuple[type[Structure], ...] = (kvm_translation, kvm_guest_debug, kvm_stats_header, kvm_stats_desc)
