"""What a kernel is told at its entry, read with the layouts that the kernel uses."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest

from vmm.boot import cpu, layout, linux, pvh
from vmm.memory import regions

GIB = 1 << 30
MAP = layout.memory_map(regions(6 * GIB))


def start_info(page: bytes) -> dict[str, int]:
    names = ("magic", "version", "flags", "modules", "modlist", "cmdline", "rsdp", "memmap", "entries", "reserved")
    return dict(zip(names, struct.unpack_from("<IIIIQQQQII", page, layout.START_INFO - layout.BOOT_PAGE), strict=True))


def test_pvh_start_info_points_to_everything() -> None:
    page = pvh.boot_page(b"G" * 48, MAP, b"console=ttyS0", initrd=(0x0BF0_0000, 1234))
    info = start_info(page)
    assert (info["magic"], info["version"], info["rsdp"]) == (0x336EC578, 1, layout.ACPI)
    at = info["cmdline"] - layout.BOOT_PAGE
    assert page[at:] == b"console=ttyS0\0"
    assert info["modules"] == 1
    assert struct.unpack_from("<QQQQ", page, info["modlist"] - layout.BOOT_PAGE) == (0x0BF0_0000, 1234, 0, 0)
    at = info["memmap"] - layout.BOOT_PAGE
    entries = list(struct.iter_unpack("<QQII", page[at : at + 24 * info["entries"]]))
    assert entries == [(*entry, 0) for entry in MAP]


def test_pvh_start_info_without_initrd_has_no_module() -> None:
    info = start_info(pvh.boot_page(b"", MAP, b""))
    assert (info["modules"], info["modlist"]) == (0, 0)


def test_longest_command_line_stays_in_its_page() -> None:
    page = pvh.boot_page(bytes(48), MAP, b"x" * (layout.CMDLINE_SIZE - 1))
    assert len(page) == 4096 and page[-1] == 0


FIELDS = {
    "acpi_rsdp_addr": layout.ACPI,
    "sentinel": 0,
    "e820_entries": len(MAP),
    "ext_ramdisk_image": 0,
    "hdr.boot_flag": 0xAA55,
    "hdr.header": int.from_bytes(b"HdrS", "little"),
    "hdr.version": 0x20F,
    "hdr.type_of_loader": 0xFF,
    "hdr.loadflags": 1,
    "hdr.cmd_line_ptr": layout.CMDLINE,
    "hdr.cmdline_size": layout.CMDLINE_SIZE - 1,
    "hdr.ramdisk_image": 0x0BF0_0000,
    "hdr.ramdisk_size": 1234,
    "hdr.initrd_addr_max": 0xBFFF_FFFF,
    "hdr.setup_data": 0,
    "hdr.kernel_info_offset": 0,
    **{
        f"e820_table[{index}].{name}": value
        for index, entry in enumerate(MAP)
        for name, value in zip(("addr", "size", "type"), entry, strict=True)
    },
}


def test_boot_params_are_what_the_kernels_own_header_reads(tmp_path: Path) -> None:
    page = linux.boot_params(MAP, initrd=(0x0BF0_0000, 1234))
    assert len(page) == 4096
    (tmp_path / "page").write_bytes(page)
    lines = "".join(f'printf("%llu\\n", (unsigned long long)p.{field});' for field in FIELDS)
    (tmp_path / "read.c").write_text(
        "#include <stdio.h>\n#include <asm/bootparam.h>\nint main(void) { static struct boot_params p;"
        "if (sizeof p != 4096 || fread(&p, sizeof p, 1, stdin) != 1) return 1;" + lines + "return 0; }"
    )
    subprocess.run(["gcc", "-o", tmp_path / "read", tmp_path / "read.c"], check=True)
    with (tmp_path / "page").open("rb") as source:
        said = subprocess.run([tmp_path / "read"], stdin=source, check=True, capture_output=True, text=True).stdout
    assert dict(zip(FIELDS, map(int, said.split()), strict=True)) == FIELDS


def walk(tables: bytes, address: int) -> int | None:
    """Translate *address* as an x86 CPU does in long mode."""
    entry_at, shift = layout.PML4, 39
    while True:
        entry: int = struct.unpack_from("<Q", tables, entry_at - layout.PML4 + (address >> shift & 511) * 8)[0]
        if entry & 3 != 3:
            return None
        if shift == 21 or entry >> 7 & 1:
            mask = (1 << shift) - 1
            return (entry & ~mask & ((1 << 52) - 1)) | (address & mask)
        entry_at, shift = entry & ~0xFFF & ((1 << 52) - 1), shift - 9


@pytest.mark.parametrize("address", [0, 0xC0000, 0x100_0123, GIB, 3 * GIB + 5, 0xFEE0_0000, 4 * GIB - 1])
def test_long_mode_pages_map_the_first_4_gib_one_to_one(address: int) -> None:
    assert walk(cpu.page_tables(), address) == address


@pytest.mark.parametrize("address", [4 * GIB, 512 * GIB - 1, 512 * GIB])
def test_long_mode_pages_map_nothing_else(address: int) -> None:
    assert walk(cpu.page_tables(), address) is None


def decode(descriptor: int) -> dict[str, int]:
    """A segment descriptor as the CPU takes it apart (AMD APM vol. 2, figure 4-3)."""
    g = descriptor >> 55 & 1
    limit = (descriptor & 0xFFFF) | (descriptor >> 48 & 0xF) << 16
    return {
        "base": (descriptor >> 16 & 0xFF_FFFF) | (descriptor >> 56) << 24,
        "limit": limit << 12 | 0xFFF if g else limit,
        "type": descriptor >> 40 & 0xF,
        "s": descriptor >> 44 & 1,
        "dpl": descriptor >> 45 & 3,
        "present": descriptor >> 47 & 1,
        "avl": descriptor >> 52 & 1,
        "l": descriptor >> 53 & 1,
        "db": descriptor >> 54 & 1,
        "g": g,
    }


@pytest.mark.parametrize("state", [cpu.pvh_state(0x100_0000), cpu.linux64_state(0x100_0000)], ids=["pvh", "linux64"])
def test_gdt_agrees_with_the_segment_registers(state: cpu.CpuState) -> None:
    """A kernel that reloads a selector gets what the register holds already."""
    table = struct.unpack("<6Q", cpu.gdt(state))
    assert len(cpu.gdt(state)) - 1 == state.gdt[1]
    for segment in (state.cs, state.ds, state.es, state.fs, state.gs, state.ss, state.tr):
        for name, value in decode(table[segment.selector // 8]).items():
            assert getattr(segment, name) == value, name


def test_descriptor_keeps_every_field() -> None:
    segment = cpu.Segment(8, base=0x1234_5678, limit=0xABCDE, type=0xA, dpl=3, db=1, g=0, avl=1)
    for name, value in decode(segment.descriptor()).items():
        assert getattr(segment, name) == value, name
