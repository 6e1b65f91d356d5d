"""The boot_params ("zero page") of Linux's 64-bit boot protocol, built by construct.

Source: ``Documentation/arch/x86/boot.rst`` and ``zero-page.rst``, ``<asm/bootparam.h>``. Only the fields are named that
a boot loader sets for a loaded kernel. All others are zero, including the sentinel, which tells the kernel that the
page was cleared correctly.

construct takes long to import, so this module is loaded only for this entry.
"""

from __future__ import annotations

from construct import (
    Array,
    Byte,
    Bytes,
    Const,
    Default,
    Int8ul,
    Int16ul,
    Int32ul,
    Int64ul,
    Padding,
    Rebuild,
    Struct,
)

from vmm.boot import layout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

E820_MAX = 128
"""E820_MAX_ENTRIES_ZEROPAGE."""
_LOADER_UNKNOWN = 0xFF
"""type_of_loader of a boot loader without a number of its own; with 0 Linux ignores the initrd."""
_LOADED_HIGH = 1
_SETUP_RNG_SEED = 9
SEED_SIZE = 32
"""Bytes of randomness that the guest's kernel begins with."""

SETUP_HEADER = Struct(
    "setup_sects" / Default(Int8ul, 0),
    "root_flags" / Default(Int16ul, 0),
    "syssize" / Default(Int32ul, 0),
    "ram_size" / Default(Int16ul, 0),
    "vid_mode" / Default(Int16ul, 0xFFFF),
    "root_dev" / Default(Int16ul, 0),
    "boot_flag" / Const(0xAA55, Int16ul),
    "jump" / Default(Int16ul, 0),
    "header" / Const(b"HdrS", Bytes(4)),
    "version" / Default(Int16ul, 0x20F),
    "realmode_swtch" / Default(Int32ul, 0),
    "start_sys_seg" / Default(Int16ul, 0),
    "kernel_version" / Default(Int16ul, 0),
    "type_of_loader" / Default(Int8ul, _LOADER_UNKNOWN),
    "loadflags" / Default(Int8ul, _LOADED_HIGH),
    "setup_move_size" / Default(Int16ul, 0),
    "code32_start" / Default(Int32ul, 0),
    "ramdisk_image" / Int32ul,
    "ramdisk_size" / Int32ul,
    "bootsect_kludge" / Default(Int32ul, 0),
    "heap_end_ptr" / Default(Int16ul, 0),
    "ext_loader_ver" / Default(Int8ul, 0),
    "ext_loader_type" / Default(Int8ul, 0),
    "cmd_line_ptr" / Int32ul,
    "initrd_addr_max" / Default(Int32ul, 0xBFFF_FFFF),
    "kernel_alignment" / Default(Int32ul, 0x100_0000),
    "relocatable_kernel" / Default(Int8ul, 0),
    "min_alignment" / Default(Int8ul, 0),
    "xloadflags" / Default(Int16ul, 0),
    "cmdline_size" / Default(Int32ul, layout.CMDLINE_SIZE - 1),
    "hardware_subarch" / Default(Int32ul, 0),
    "hardware_subarch_data" / Default(Int64ul, 0),
    "payload_offset" / Default(Int32ul, 0),
    "payload_length" / Default(Int32ul, 0),
    "setup_data" / Default(Int64ul, 0),
    "pref_address" / Default(Int64ul, 0),
    "init_size" / Default(Int32ul, 0),
    "handover_offset" / Default(Int32ul, 0),
    "kernel_info_offset" / Default(Int32ul, 0),
)

E820_ENTRY = Struct("addr" / Int64ul, "size" / Int64ul, "type" / Int32ul)

BOOT_PARAMS = Struct(
    "screen_info" / Default(Array(0x40, Byte), [0] * 0x40),
    Padding(0x30),
    "acpi_rsdp_addr" / Int64ul,
    Padding(0x170),
    "e820_entries" / Rebuild(Int8ul, lambda this: sum(1 for entry in this.e820_table if entry["size"])),
    Padding(6),
    "sentinel" / Const(0, Int8ul),
    Padding(1),
    "hdr" / SETUP_HEADER,
    Padding(0x64),
    "e820_table" / Array(E820_MAX, E820_ENTRY),
    Padding(0x330),
)

_NO_ENTRY = {"addr": 0, "size": 0, "type": 0}


SETUP_DATA = Struct("next" / Const(0, Int64ul), "type" / Int32ul, "len" / Int32ul, "data" / Bytes(SEED_SIZE))


def rng_seed(seed: bytes) -> bytes:
    """The content of :data:`layout.SETUP_DATA`: *seed*, which Linux (6.0) credits and then overwrites."""
    built: bytes = SETUP_DATA.build({"type": _SETUP_RNG_SEED, "len": SEED_SIZE, "data": seed})
    return built


def boot_params(
    memory_map: Sequence[tuple[int, int, int]],
    *,
    cmdline: int = layout.CMDLINE,
    initrd: tuple[int, int] | None = None,
    rsdp: int = layout.ACPI,
    setup: bytes = b"",
    setup_data: int = 0,
) -> bytes:
    """The 4096 bytes at :data:`layout.BOOT_PARAMS`.

    :param memory_map: ``(address, size, type)``, :data:`E820_MAX` entries at most
    :param cmdline: address of the command line, NUL-terminated
    :param initrd: ``(address, size)``
    :param rsdp: address of the ACPI root pointer
    :param setup_data: address of the first ``struct setup_data``, 0: none
    :param setup: the setup header of a bzImage, which is passed to the kernel except for a loader's fields; checked
        before
    """
    address, size = initrd or (0, 0)
    table = [{"addr": start, "size": length, "type": kind} for start, length, kind in memory_map]
    table += [_NO_ENTRY] * (E820_MAX - len(table))
    header = {"ramdisk_image": address, "ramdisk_size": size, "cmd_line_ptr": cmdline, "setup_data": setup_data}
    if setup:
        header = {**SETUP_HEADER.parse(setup), **header, "type_of_loader": _LOADER_UNKNOWN}
    built: bytes = BOOT_PARAMS.build({"acpi_rsdp_addr": rsdp, "hdr": header, "e820_table": table})
    return built
