"""Small ELF files for tests: kernels, and everything that is not quite one."""

from __future__ import annotations

import struct
from dataclasses import dataclass

PT_LOAD, PT_DYNAMIC, PT_INTERP, PT_NOTE = 1, 2, 3, 4
PVH_NOTE = 18
MIB = 1 << 20


def note(name: bytes, kind: int, data: bytes) -> bytes:
    """One ELF note, padded."""
    name += b"\0"
    return struct.pack("<III", len(name), len(data), kind) + name + bytes(-len(name) % 4) + data + bytes(-len(data) % 4)


def pvh_note(entry: int, size: int = 8) -> bytes:
    """The note with the PVH entry, among others as Linux has them."""
    return (
        note(b"Linux", 0x101, b"\1")
        + note(b"Xen", 6, b"linux\0")
        + note(b"Xen", PVH_NOTE, entry.to_bytes(size, "little"))
    )


@dataclass
class Load:
    """A PT_LOAD segment; the fields that are None follow from *data*."""

    paddr: int
    data: bytes = b""
    memsz: int | None = None
    filesz: int | None = None
    offset: int | None = None
    vaddr: int | None = None
    kind: int = PT_LOAD
    flags: int = 7


def elf(
    loads: list[Load],
    *,
    entry: int = 0,
    notes: bytes | None = None,
    ident: bytes = b"\x7fELF\x02\x01\x01",
    kind: int = 2,
    machine: int = 62,
    phnum: int | None = None,
    phentsize: int = 56,
    phoff: int = 64,
    shoff: int = 0,
    shnum: int = 0,
    shstrndx: int = 0,
) -> bytes:
    """An ELF file: header, program headers, contents."""
    loads = [*loads, Load(0, notes, kind=PT_NOTE)] if notes is not None else loads
    headers, contents = b"", b""
    start = 64 + 56 * len(loads)
    for load in loads:
        headers += struct.pack(
            "<IIQQQQQQ",
            load.kind,
            load.flags,
            start + len(contents) if load.offset is None else load.offset,
            load.paddr if load.vaddr is None else load.vaddr,
            load.paddr,
            len(load.data) if load.filesz is None else load.filesz,
            len(load.data) if load.memsz is None else load.memsz,
            4096,
        )
        contents += load.data
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        ident,
        kind,
        machine,
        1,
        entry,
        phoff,
        shoff,
        0,
        64,
        phentsize,
        len(loads) if phnum is None else phnum,
        64,
        shnum,
        shstrndx,
    )
    return header + headers + contents


def kernel(code: bytes = b"\xf4" * 64, paddr: int = 16 * MIB, *, pvh: bool = True, bss: int = 4096) -> bytes:
    """A kernel of one segment whose two entries are its first byte."""
    return elf([Load(paddr, code, len(code) + bss)], entry=paddr, notes=pvh_note(paddr) if pvh else None)


# -- synthetic bzImages: a setup header like a distribution's, and a few bytes of kernel -----------------------------


SETUP_SECTS = 2
START = (SETUP_SECTS + 1) * 512
ADDRESS = 16 << 20
CODE = 0x200
"""Where the 64-bit entry is in the protected-mode part."""

# name: offset in the file, format; Documentation/arch/x86/boot.rst
FIELDS = {
    "setup_sects": (0x1F1, "B"),
    "syssize": (0x1F4, "I"),
    "boot_flag": (0x1FE, "H"),
    "jump": (0x200, "H"),
    "header": (0x202, "I"),
    "version": (0x206, "H"),
    "type_of_loader": (0x210, "B"),
    "loadflags": (0x211, "B"),
    "code32_start": (0x214, "I"),
    "initrd_addr_max": (0x22C, "I"),
    "kernel_alignment": (0x230, "I"),
    "relocatable_kernel": (0x234, "B"),
    "min_alignment": (0x235, "B"),
    "xloadflags": (0x236, "H"),
    "cmdline_size": (0x238, "I"),
    "payload_offset": (0x248, "I"),
    "payload_length": (0x24C, "I"),
    "setup_data": (0x250, "Q"),
    "pref_address": (0x258, "Q"),
    "init_size": (0x260, "I"),
    "handover_offset": (0x264, "I"),
    "kernel_info_offset": (0x268, "I"),
}


def bzimage(code: bytes = b"\xf4", *, tail: bytes = b"", **changes: int) -> bytes:
    """A bzImage whose 64-bit entry runs *code*; *changes* are header fields that are not as they should be."""
    kernel = bytes(CODE) + code
    kernel += bytes(-len(kernel) % 16)
    values = {
        "setup_sects": SETUP_SECTS,
        "syssize": len(kernel) // 16,
        "boot_flag": 0xAA55,
        "jump": 0xEB | 0x6A << 8,  # the header ends at 0x202 + 0x6a
        "header": int.from_bytes(b"HdrS", "little"),
        "version": 0x20F,
        "loadflags": 1,
        "code32_start": 0x10_0000,
        "initrd_addr_max": 0x7FFF_FFFF,
        "kernel_alignment": 0x20_0000,
        "relocatable_kernel": 1,
        "min_alignment": 21,
        "xloadflags": 3,
        "cmdline_size": 2047,
        "payload_offset": CODE,
        "payload_length": len(code),
        "pref_address": ADDRESS,
        "init_size": 1 << 20,
        **changes,
    }
    data = bytearray(b"MZ".ljust(START, b"\0")) + kernel + tail
    for name, value in values.items():
        offset, kind = FIELDS[name]
        struct.pack_into("<" + kind, data, offset, value)
    return bytes(data)
