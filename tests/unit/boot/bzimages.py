"""Synthetic bzImages: a setup header like a distribution's, and a few bytes of kernel."""

from __future__ import annotations

import struct

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
