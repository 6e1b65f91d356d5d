"""The structures of ``<linux/kvm.h>`` and ``<asm/kvm.h>`` (x86-64) that every start needs, as ctypes.

A test compares every size and offset with those of the compiler for the header; :data:`STRUCTS` lists them for it.
Structures that a start does not need are elsewhere: making a class for each takes time.
"""

from __future__ import annotations

from vmm.faststart.ctype import Structure, i32, u8, u16, u32, u64


class kvm_userspace_memory_region(Structure):
    """``KVM_SET_USER_MEMORY_REGION``."""

    _fields_ = (
        ("slot", u32),
        ("flags", u32),
        ("guest_phys_addr", u64),
        ("memory_size", u64),
        ("userspace_addr", u64),
    )


MEM_READONLY = 2


class kvm_irqfd(Structure):
    """``KVM_IRQFD``: a write to *fd* raises *gsi*."""

    _fields_ = (("fd", u32), ("gsi", u32), ("flags", u32), ("resamplefd", u32), ("pad", u8 * 16))


IRQFD_DEASSIGN = 1


class kvm_ioeventfd(Structure):
    """``KVM_IOEVENTFD``: a guest write to *addr* signals *fd*."""

    _fields_ = (
        ("datamatch", u64),
        ("addr", u64),
        ("len", u32),
        ("fd", i32),
        ("flags", u32),
        ("pad", u8 * 36),
    )


IOEVENTFD_DATAMATCH = 1
IOEVENTFD_DEASSIGN = 4


class kvm_cpuid_entry2(Structure):
    """One leaf of :class:`kvm_cpuid2`."""

    _fields_ = (
        ("function", u32),
        ("index", u32),
        ("flags", u32),
        ("eax", u32),
        ("ebx", u32),
        ("ecx", u32),
        ("edx", u32),
        ("padding", u32 * 3),
    )


CPUID_FLAG_SIGNIFICANT_INDEX = 1
MAX_CPUID_ENTRIES = 256


class kvm_cpuid2(Structure):
    """``KVM_GET_SUPPORTED_CPUID``, ``KVM_SET_CPUID2``; the header's array has no length, ours has room for
    :data:`MAX_CPUID_ENTRIES`."""

    _fields_ = (("nent", u32), ("padding", u32), ("entries", kvm_cpuid_entry2 * MAX_CPUID_ENTRIES))


GENERAL_REGISTERS = (
    *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp"),
    *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rip", "rflags"),
)


class kvm_regs(Structure):
    """``KVM_GET_REGS``."""

    _fields_ = tuple((name, u64) for name in GENERAL_REGISTERS)


class kvm_segment(Structure):
    """A segment register with its hidden part."""

    _fields_ = (
        ("base", u64),
        ("limit", u32),
        ("selector", u16),
        ("type", u8),
        ("present", u8),
        ("dpl", u8),
        ("db", u8),
        ("s", u8),
        ("l", u8),
        ("g", u8),
        ("avl", u8),
        ("unusable", u8),
        ("padding", u8),
    )


class kvm_dtable(Structure):
    """GDTR or IDTR."""

    _fields_ = (("base", u64), ("limit", u16), ("padding", u16 * 3))


SEGMENTS = ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt")
CONTROL_REGISTERS = ("cr0", "cr2", "cr3", "cr4", "cr8", "efer", "apic_base")


class kvm_sregs(Structure):
    """``KVM_GET_SREGS``."""

    _fields_ = (
        *((name, kvm_segment) for name in SEGMENTS),
        ("gdt", kvm_dtable),
        ("idt", kvm_dtable),
        *((name, u64) for name in CONTROL_REGISTERS),
        ("interrupt_bitmap", u64 * 4),
    )


class kvm_msr_entry(Structure):
    """One MSR of :class:`kvm_msrs`."""

    _fields_ = (("index", u32), ("reserved", u32), ("data", u64))


MAX_MSRS = 64


class kvm_msrs(Structure):
    """``KVM_GET_MSRS``, ``KVM_SET_MSRS``; room for :data:`MAX_MSRS`."""

    _fields_ = (("nmsrs", u32), ("pad", u32), ("entries", kvm_msr_entry * MAX_MSRS))


STRUCTS: tuple[type[Structure], ...] = (
    kvm_userspace_memory_region,
    kvm_irqfd,
    kvm_ioeventfd,
    kvm_cpuid_entry2,
    kvm_regs,
    kvm_segment,
    kvm_dtable,
    kvm_sregs,
    kvm_msr_entry,
)
