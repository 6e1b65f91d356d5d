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
            7,
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
