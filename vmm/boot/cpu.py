"""The state of the boot CPU at a kernel's entry, as plain data; :mod:`vmm.kvm` gives it to a vCPU.

Two entries exist. PVH (Xen's ``docs/misc/pvh.pandoc``): 32-bit protected mode without paging; ``ebx`` points to the
start info. Linux's 64-bit boot protocol (``Documentation/arch/x86/boot.rst``): long mode, everything below 4 GiB mapped
one to one, ``rsi`` points to the boot_params, the selectors are 0x10 for code and 0x18 for data.
"""

from __future__ import annotations

import struct

from vmm.boot import layout
from vmm.faststart.record import dataclass

CR0_PE = 1 << 0
CR0_ET = 1 << 4
CR0_PG = 1 << 31
CR4_PAE = 1 << 5
EFER_LME = 1 << 8
EFER_LMA = 1 << 10
RFLAGS_FIXED = 1 << 1
"""Reads as one always; interrupts are off."""

CODE_SELECTOR = 0x10
DATA_SELECTOR = 0x18
TSS_SELECTOR = 0x20

_PAGE_PRESENT_WRITABLE = 0b11
_PAGE_LARGE = 1 << 7
_LARGE = 2 << 20


@dataclass(frozen=True)
class Segment:
    """A segment register with its hidden part, the fields of ``struct kvm_segment``.

    *limit* is in bytes whatever *g* says; *type* the four bits of the descriptor; *s* is 0 for a TSS or LDT.
    """

    selector: int
    base: int = 0
    limit: int = 0xFFFF_FFFF
    type: int = 0
    present: int = 1
    dpl: int = 0
    db: int = 0
    s: int = 1
    l: int = 0  # noqa: E741  the name that Intel, AMD and KVM give it
    g: int = 1
    avl: int = 0
    unusable: int = 0

    def descriptor(self) -> int:
        """The eight bytes that describe it in a GDT (AMD APM vol. 2, 4.7; a 64-bit TSS needs eight zero bytes more)."""
        limit = self.limit >> 12 if self.g else self.limit
        access = self.type | self.s << 4 | self.dpl << 5 | self.present << 7
        flags = self.avl | self.l << 1 | self.db << 2 | self.g << 3
        return (
            (limit & 0xFFFF)
            | (self.base & 0xFF_FFFF) << 16
            | access << 40
            | (limit >> 16 & 0xF) << 48
            | flags << 52
            | (self.base >> 24 & 0xFF) << 56
        )


@dataclass(frozen=True)
class CpuState:
    """What the registers of a CPU hold; a register not named here is zero.

    *gdt* and *idt* are ``(base, limit)``.
    """

    rip: int
    cs: Segment
    ds: Segment
    es: Segment
    fs: Segment
    gs: Segment
    ss: Segment
    tr: Segment
    ldt: Segment
    gdt: tuple[int, int]
    idt: tuple[int, int]
    cr0: int
    cr3: int
    cr4: int
    efer: int
    rbx: int = 0
    rsi: int = 0
    rsp: int = 0
    rflags: int = RFLAGS_FIXED


_CODE_32 = Segment(CODE_SELECTOR, type=0xB, db=1)
_CODE_64 = Segment(CODE_SELECTOR, type=0xB, l=1)
_DATA = Segment(DATA_SELECTOR, type=0x3, db=1)
# VMX enters a guest with a busy TSS only, whether it will ever switch tasks or not
_TSS = Segment(TSS_SELECTOR, limit=0x67, type=0xB, s=0, g=0)
_NO_LDT = Segment(0, limit=0, type=0x2, s=0, g=0, present=0, unusable=1)


def _state(code: Segment, rip: int, *, cr0: int, cr3: int, cr4: int, efer: int, rbx: int, rsi: int) -> CpuState:
    return CpuState(
        rip=rip,
        cs=code,
        ds=_DATA,
        es=_DATA,
        fs=_DATA,
        gs=_DATA,
        ss=_DATA,
        tr=_TSS,
        ldt=_NO_LDT,
        gdt=(layout.GDT, layout.GDT_SIZE - 1),
        idt=(0, 0),
        cr0=cr0,
        cr3=cr3,
        cr4=cr4,
        efer=efer,
        rbx=rbx,
        rsi=rsi,
    )


def pvh_state(entry: int, start_info: int = layout.START_INFO) -> CpuState:
    """At the PVH entry *entry*: 32-bit protected mode, paging off."""
    return _state(_CODE_32, entry, cr0=CR0_PE | CR0_ET, cr3=0, cr4=0, efer=0, rbx=start_info, rsi=0)


def linux64_state(entry: int, boot_params: int = layout.BOOT_PARAMS) -> CpuState:
    """At the 64-bit entry *entry*: long mode on the page tables of :func:`page_tables`."""
    return _state(
        _CODE_64,
        entry,
        cr0=CR0_PE | CR0_ET | CR0_PG,
        cr3=layout.PML4,
        cr4=CR4_PAE,
        efer=EFER_LME | EFER_LMA,
        rbx=0,
        rsi=boot_params,
    )


def gdt(state: CpuState) -> bytes:
    """The GDT at :data:`layout.GDT` that matches the segment registers of *state*."""
    return struct.pack(
        "<6Q", 0, 0, state.cs.descriptor(), state.ds.descriptor(), state.tr.descriptor(), state.tr.base >> 32
    )


def reset_code() -> bytes:
    """The code at :data:`layout.RESET_VECTOR`: real-mode code that resets the machine by the ACPI reset register.

    Linux jumps here with ``reboot=b``. Without ``reboot=`` it does so as a last resort, if it has EFI built in but EFI
    did not boot it. Zeros would execute through memory for ever.
    """
    return struct.pack(
        "<BHBBBBBB",
        *(0xBA, layout.ACPI_RESET),  # mov dx, port
        *(0xB0, layout.ACPI_RESET_VALUE),  # mov al, value
        0xEE,  # out dx, al
        0xF4,  # hlt, should the machine be slow to stop
        *(0xEB, 0xFD),  # jmp to the hlt
    )


def page_tables() -> bytes:
    """The page tables at :data:`layout.PML4`: 0 .. 4 GiB mapped one to one by 2 MiB pages.

    Not by 1 GiB pages: some CPU models for guests lack them.
    """
    flags = _PAGE_PRESENT_WRITABLE
    pml4 = struct.pack("<Q4088x", layout.PDPT | flags)
    first = layout.PAGE_DIRECTORIES
    pdpt = struct.pack("<4Q4064x", *(directory | flags for directory in range(first, first + 4 * 4096, 4096)))
    large = flags | _PAGE_LARGE
    return pml4 + pdpt + struct.pack("<2048Q", *range(large, (4 << 30) + large, _LARGE))
