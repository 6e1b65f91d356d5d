"""The PVH start info, which a kernel receives at its PVH entry (Xen's public ``arch-x86/hvm/start_info.h``).

All little-endian, all addresses physical::

    struct hvm_start_info             struct hvm_modlist_entry      struct hvm_memmap_table_entry
     0 u32 magic 0x336ec578            0 u64 paddr                   0 u64 addr
     4 u32 version 1                   8 u64 size                    8 u64 size
     8 u32 flags (a Xen dom0's)       16 u64 cmdline_paddr          16 u32 type (as in e820)
    12 u32 nr_modules                 24 u64 reserved               20 u32 reserved
    16 u64 modlist_paddr
    24 u64 cmdline_paddr
    32 u64 rsdp_paddr
    40 u64 memmap_paddr
    48 u32 memmap_entries
    52 u32 reserved
"""

from __future__ import annotations

import struct

from vmm.boot import layout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

MAGIC = 0x336E_C578
VERSION = 1
_START_INFO = struct.Struct("<4I4Q2I")
_MODULE = struct.Struct("<4Q")
_MEMMAP = struct.Struct("<2Q2I")


def boot_page(
    gdt: bytes,
    memory_map: Sequence[tuple[int, int, int]],
    cmdline: bytes,
    *,
    initrd: tuple[int, int] | None = None,
    rsdp: int = layout.ACPI,
) -> bytes:
    """The contents of :data:`layout.BOOT_PAGE`, up to the NUL after the command line.

    :param memory_map: ``(address, size, type)``, :data:`layout.MEMMAP_MAX` entries at most
    :param cmdline: shorter than :data:`layout.CMDLINE_SIZE` bytes, without NUL
    :param initrd: ``(address, size)``
    """
    base = layout.BOOT_PAGE
    page = bytearray(layout.CMDLINE - base)
    page[layout.GDT - base : layout.GDT - base + len(gdt)] = gdt
    modules = 0
    if initrd is not None:
        modules = 1
        _MODULE.pack_into(page, layout.MODLIST - base, initrd[0], initrd[1], 0, 0)
    _START_INFO.pack_into(
        page,
        layout.START_INFO - base,
        MAGIC,
        VERSION,
        0,
        modules,
        layout.MODLIST if modules else 0,
        layout.CMDLINE,
        rsdp,
        layout.MEMMAP,
        len(memory_map),
        0,
    )
    offset = layout.MEMMAP - base
    for address, size, kind in memory_map:
        _MEMMAP.pack_into(page, offset, address, size, kind, 0)
        offset += _MEMMAP.size
    return bytes(page) + cmdline + b"\0"
