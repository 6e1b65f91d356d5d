"""Both entries on a real vCPU: tiny kernels look at what they were given and power off, or reset if it is wrong."""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path

import pytest

from tests.unit.boot.images import MIB, kernel
from vmm.boot import cpu, layout, linux, pvh
from vmm.config import BootConfig, MachineConfig, MemoryConfig
from vmm.machine.machine import Machine
from vmm.memory.layout import regions

pytestmark = pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="no /dev/kvm here")

END = """
good:
    mov $0x600, %dx
    mov $0x34, %al
    out %al, %dx
    hlt
bad:
    mov $0x602, %dx
    mov $1, %al
    out %al, %dx
    hlt
"""
PVH = """
.code32
    mov %cr0, %eax
    and $0x80000001, %eax
    cmp $1, %eax                    # protected mode, no paging
    jne bad
    mov %cr4, %eax
    test %eax, %eax
    jnz bad
    cmpl $0x336ec578, (%ebx)        # the start info
    jne bad
    movl 24(%ebx), %esi
    cmpl $0x6c6c6568, (%esi)        # the command line: "hell..."
    jne bad
    movl 32(%ebx), %esi
    cmpl $0x20445352, (%esi)        # the RSDP: "RSD "
    jne bad
    movl 40(%ebx), %esi
    cmpl $1, 16(%esi)               # the memory map begins with RAM
    jne bad
    mov $0x18, %ax                  # the GDT has what the registers have
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %ss
    ljmp $0x10, $0x1000000 + reloaded
reloaded:
    cmpl $0x336ec578, (%ebx)
    jne bad
"""
LINUX64 = """
.code64
    cmpl $0x53726448, 0x202(%rsi)   # boot_params: "HdrS"
    jne bad
    mov 0x228(%rsi), %eax
    cmpl $0x6c6c6568, (%rax)        # the command line
    jne bad
    mov 0x70(%rsi), %rax
    cmpl $0x20445352, (%rax)        # the RSDP
    jne bad
    mov $0x3ffff00, %rsp            # high in RAM, on the page tables that were given
    mov $0x123456789abcdef, %rax
    push %rax
    cmp %rax, 0x3fffef8
    jne bad
    mov $0x18, %ax
    mov %ax, %ds
    mov %ax, %ss
    pushq $0x10
    lea reloaded(%rip), %rax
    push %rax
    lretq                           # the GDT has 64-bit code at 0x10
reloaded:
    cmpl $0x53726448, 0x202(%rsi)
    jne bad
"""


@pytest.mark.parametrize("entry, source", [("pvh", PVH), ("linux64", LINUX64)])
def test_kernel_finds_what_its_protocol_promises(tmp_path: Path, entry: str, source: str) -> None:
    bits = "--32" if entry == "pvh" else "--64"
    (tmp_path / "code.s").write_text(source + END)
    subprocess.run(["as", bits, "-o", "code.o", "code.s"], cwd=tmp_path, check=True)
    subprocess.run(["objcopy", "-O", "binary", "-j", ".text", "code.o", "code"], cwd=tmp_path, check=True)
    vmlinux = tmp_path / "vmlinux"
    vmlinux.write_bytes(kernel((tmp_path / "code").read_bytes()))
    config = MachineConfig(BootConfig(str(vmlinux), None, "=hello", entry), MemoryConfig(64 * MIB), cpus=2)
    with Machine(config) as machine:
        assert machine.run(timeout=60).kind == "poweroff"


# -- what a kernel is told at its entry, read with the layouts that the kernel uses ----------------------------------


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
