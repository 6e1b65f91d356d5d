"""The structures of ``<linux/kvm.h>`` and ``<asm/kvm.h>`` (x86-64) of the page shared with a vCPU, as ctypes.

A test compares every size and offset with those of the compiler for the header; :data:`STRUCTS` lists them for it.
"""

from __future__ import annotations

from vmm.faststart.ctype import Structure, Union, u8, u16, u32, u64


class _Io(Structure):
    _fields_ = (("direction", u8), ("size", u8), ("port", u16), ("count", u32), ("data_offset", u64))


class _Mmio(Structure):
    _fields_ = (("phys_addr", u64), ("data", u8 * 8), ("len", u32), ("is_write", u8))


class _FailEntry(Structure):
    _fields_ = (("hardware_entry_failure_reason", u64), ("cpu", u32))


class _Internal(Structure):
    _fields_ = (("suberror", u32), ("ndata", u32), ("data", u64 * 16))


class _Debug(Structure):
    """``debug.arch`` of the header."""

    _fields_ = (("exception", u32), ("pad", u32), ("pc", u64), ("dr6", u64), ("dr7", u64))


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
        ("debug", _Debug),
        ("padding", u8 * 256),
    )


class kvm_run(Structure):
    """The parts of the page shared with a vCPU that the project reads."""

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

STRUCTS: tuple[type[Structure], ...] = (kvm_run,)
