"""The structures of ``<linux/kvm.h>`` and ``<asm/kvm.h>`` (x86-64) as ctypes.

A test compares every size and offset with the compiler's view of the header; :data:`STRUCTS` lists them for it.
"""

from __future__ import annotations

from ctypes import Structure, Union, c_int16, c_int32, c_uint8, c_uint16, c_uint32, c_uint64

u8, u16, u32, u64 = c_uint8, c_uint16, c_uint32, c_uint64


class kvm_userspace_memory_region(Structure):
    """``KVM_SET_USER_MEMORY_REGION``."""

    _fields_ = (
        ("slot", u32),
        ("flags", u32),
        ("guest_phys_addr", u64),
        ("memory_size", u64),
        ("userspace_addr", u64),
    )


MEM_LOG_DIRTY_PAGES = 1
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
        ("fd", c_int32),
        ("flags", u32),
        ("pad", u8 * 36),
    )


IOEVENTFD_DATAMATCH = 1
IOEVENTFD_PIO = 2
IOEVENTFD_DEASSIGN = 4


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


class kvm_msr_entry(Structure):
    """One MSR of :class:`kvm_msrs`."""

    _fields_ = (("index", u32), ("reserved", u32), ("data", u64))


MAX_MSRS = 64


class kvm_msrs(Structure):
    """``KVM_GET_MSRS``, ``KVM_SET_MSRS``; room for :data:`MAX_MSRS`."""

    _fields_ = (("nmsrs", u32), ("pad", u32), ("entries", kvm_msr_entry * MAX_MSRS))


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
        ("exponent", c_int16),
        ("size", u16),
        ("offset", u32),
        ("bucket_size", u32),
    )


class _Io(Structure):
    _fields_ = (("direction", u8), ("size", u8), ("port", u16), ("count", u32), ("data_offset", u64))


class _Mmio(Structure):
    _fields_ = (("phys_addr", u64), ("data", u8 * 8), ("len", u32), ("is_write", u8))


class _FailEntry(Structure):
    _fields_ = (("hardware_entry_failure_reason", u64), ("cpu", u32))


class _Internal(Structure):
    _fields_ = (("suberror", u32), ("ndata", u32), ("data", u64 * 16))


class _EmulationFailure(Structure):
    _fields_ = (
        ("suberror", u32),
        ("ndata", u32),
        ("flags", u64),
        ("insn_size", u8),
        ("insn_bytes", u8 * 15),
    )


class _SystemEvent(Structure):
    _fields_ = (("type", u32), ("ndata", u32), ("data", u64 * 16))


class _Exit(Union):
    _fields_ = (
        ("hardware_exit_reason", u64),
        ("fail_entry", _FailEntry),
        ("io", _Io),
        ("mmio", _Mmio),
        ("internal", _Internal),
        ("emulation_failure", _EmulationFailure),
        ("system_event", _SystemEvent),
        ("padding", u8 * 256),
    )


class kvm_run(Structure):
    """The page shared with a vCPU, as far as the project reads it."""

    _anonymous_ = ("exit",)
    _fields_ = (
        ("request_interrupt_window", u8),
        ("immediate_exit", u8),
        ("padding1", u8 * 6),
        ("exit_reason", u32),
        ("ready_for_interrupt_injection", u8),
        ("if_flag", u8),
        ("flags", u16),
        ("cr8", u64),
        ("apic_base", u64),
        ("exit", _Exit),
    )


INTERNAL_ERROR_EMULATION = 1
INTERNAL_ERROR_FLAG_INSTRUCTION_BYTES = 1

STRUCTS: tuple[type[Structure], ...] = (
    kvm_userspace_memory_region,
    kvm_irqfd,
    kvm_ioeventfd,
    kvm_coalesced_mmio_zone,
    kvm_pit_config,
    kvm_enable_cap,
    kvm_irq_level,
    kvm_clock_data,
    kvm_cpuid_entry2,
    kvm_regs,
    kvm_segment,
    kvm_dtable,
    kvm_sregs,
    kvm_fpu,
    kvm_msr_entry,
    kvm_lapic_state,
    kvm_mp_state,
    kvm_translation,
    kvm_stats_header,
    kvm_stats_desc,
    kvm_run,
)
