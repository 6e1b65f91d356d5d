"""From a configuration and a command line to guest RAM: what is checked before, what is where afterwards."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.unit.boot.images import MIB, Load, elf, kernel, pvh_note
from vmm import boot
from vmm.boot import acpi, layout
from vmm.boot.cmdline import default_cmdline, encode_cmdline, merge_cmdline
from vmm.boot.image import early_pieces
from vmm.config import BootConfig, MachineConfig, MemoryConfig
from vmm.errors import ConfigError
from vmm.faststart.record import replace
from vmm.memory import GuestMemory
from vmm.memory.layout import HOLE_END, HOLE_START, regions
from vmm.virtio.blk import DiskConfig

GIB = 1 << 30
CODE = bytes(range(256)) * 40
SIZES = [2 * MIB, 64 * MIB, 256 * MIB, 3 * GIB - 4096, 3 * GIB, 3 * GIB + 4096, 4 * GIB, 300 * GIB]
OURS = {
    "gdt": (layout.GDT, layout.GDT_SIZE),
    "start info": (layout.START_INFO, 56),
    "modules": (layout.MODLIST, 32),
    "memory map": (layout.MEMMAP, layout.MEMMAP_MAX * 24),
    "command line": (layout.CMDLINE, layout.CMDLINE_SIZE),
    "boot_params": (layout.BOOT_PARAMS, 4096),
    "pml4": (layout.PML4, 4096),
    "pdpt": (layout.PDPT, 4096),
    "page directories": (layout.PAGE_DIRECTORIES, 4 * 4096),
    "acpi": (layout.ACPI, layout.ACPI_END - layout.ACPI),
    "reset vector": (layout.RESET_VECTOR, 16),
}
HOLE = {
    "mmio": (layout.MMIO, layout.MMIO_SLOTS * layout.MMIO_STRIDE),
    "ioapic": (layout.IOAPIC, 4096),
    "lapic": (layout.LAPIC, 4096),
    "identity map": (layout.KVM_IDENTITY_MAP, 4096),
    "tss": (layout.KVM_TSS, 3 * 4096),
}
PORTS = {
    "com1": (layout.COM1, layout.COM1_SIZE),
    "i8042 data": (layout.I8042_DATA, 1),
    "i8042 command": (layout.I8042_COMMAND, 1),
    "pvpanic": (layout.PVPANIC, 1),
    "sleep control": (layout.ACPI_SLEEP_CONTROL, 1),
    "sleep status": (layout.ACPI_SLEEP_STATUS, 1),
    "reset": (layout.ACPI_RESET, 1),
}


def config(
    kernel_file: Path, size: int = 64 * MIB, *, initrd: Path | None = None, cmdline: str = "", entry: str = "auto"
) -> MachineConfig:
    return MachineConfig(
        BootConfig(str(kernel_file), None if initrd is None else str(initrd), cmdline, entry), MemoryConfig(size)
    )


@pytest.fixture
def vmlinux(tmp_path: Path) -> Path:
    path = tmp_path / "vmlinux"
    path.write_bytes(kernel(CODE))
    return path


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    guest = GuestMemory(64 * MIB)
    yield guest
    guest.close()


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def at(kernel_base: int, memsz: int | None = None) -> bytes:
    return elf([Load(kernel_base, CODE, memsz)], entry=kernel_base, notes=pvh_note(kernel_base))


@pytest.mark.parametrize(
    "base, memsz, size, code, told",
    [
        (64 * MIB, None, 64 * MIB, "kernel-outside-ram", "outside of the 64 MiB of RAM"),
        (16 * MIB, 49 * MIB, 64 * MIB, "kernel-outside-ram", "0x1000000..0x4100000"),
        (1 << 62, None, 64 * MIB, "kernel-outside-ram", "outside"),
        ((1 << 64) - 16, None, 64 * MIB, "kernel-outside-ram", "outside"),
        (HOLE_START, None, 8 * GIB, "kernel-over-hole", "hole for devices"),
        (HOLE_START - 4096, None, 8 * GIB, "kernel-over-hole", "hole for devices"),
        (HOLE_END - 4096, None, 8 * GIB, "kernel-over-hole", "hole for devices"),
        (layout.TABLES_START, None, 64 * MIB, "kernel-over-tables", "0xc0000..0x100000"),
        (layout.TABLES_END - 1, None, 64 * MIB, "kernel-over-tables", "tables"),
        (0x1000, MIB, 64 * MIB, "kernel-over-tables", "tables"),
    ],
)
def test_kernel_that_does_not_fit_is_told(
    tmp_path: Path, base: int, memsz: int | None, size: int, code: str, told: str
) -> None:
    file = write(tmp_path / "vmlinux", at(base, memsz))
    with pytest.raises(ConfigError, match=told) as caught:
        boot.check(config(file, size))
    assert caught.value.code == code and caught.value.hint and str(file) in str(caught.value)


def test_memory_that_is_asked_for_is_enough(tmp_path: Path) -> None:
    file = write(tmp_path / "vmlinux", at(64 * MIB))
    with pytest.raises(ConfigError) as caught:
        boot.check(config(file, 32 * MIB))
    assert "--memory 65M" in caught.value.hint
    boot.check(config(file, 65 * MIB))


@pytest.mark.parametrize("base", [0x1000, 0x9_0000, MIB, 3 * GIB - 65536, 4 * GIB])
def test_kernel_may_be_anywhere_else(tmp_path: Path, base: int) -> None:
    boot.check(config(write(tmp_path / "vmlinux", elf([Load(base, CODE)], entry=base)), 8 * GIB))


def test_too_little_memory_is_told(vmlinux: Path) -> None:
    with pytest.raises(ConfigError, match="too little to boot"):
        boot.check(config(vmlinux, MIB))


@pytest.mark.parametrize("cmdline, told", [("x" * 2048, "bytes: Linux takes 2047"), ("a\nb", "line break")])
def test_bad_command_line_is_told(vmlinux: Path, cmdline: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        boot.check(config(vmlinux, cmdline=cmdline))


@pytest.mark.parametrize(
    "data, entry, told",
    [
        (elf([Load(MIB, CODE)], entry=MIB), "pvh", "no PVH entry"),
        (elf([Load(MIB, CODE)], entry=0, notes=pvh_note(MIB)), "linux64", "no 64-bit entry"),
        (elf([Load(4 * GIB, CODE)], entry=4 * GIB, notes=pvh_note(4 * GIB)), "auto", "above 4 GiB"),
    ],
)
def test_entry_that_is_not_there_is_told(tmp_path: Path, data: bytes, entry: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        boot.check(config(write(tmp_path / "vmlinux", data), 8 * GIB, entry=entry))
    assert "--entry" in caught.value.hint


def test_pvh_is_the_default_where_the_note_is(tmp_path: Path, vmlinux: Path) -> None:
    without = write(tmp_path / "plain", kernel(CODE, pvh=False))
    assert boot.check(config(vmlinux)).entry == "pvh"
    assert boot.check(config(without)).entry == "linux64"
    assert boot.check(config(vmlinux, entry="linux64")).entry == "linux64"


def test_root_disk_is_on_the_command_line(vmlinux: Path) -> None:
    machine = MachineConfig(BootConfig(str(vmlinux), cmdline="quiet2"), rootfs=DiskConfig("/x", read_only=True))
    assert boot.check(machine).cmdline.endswith(b"root=/dev/vda ro quiet2")


@pytest.mark.parametrize("size, told", [(0, "is empty"), (49 * MIB, "do not fit"), (GIB, "do not fit")])
def test_initrd_that_does_not_fit_is_told(tmp_path: Path, vmlinux: Path, size: int, told: str) -> None:
    initrd = write(tmp_path / "initrd", b"")
    os.truncate(initrd, size)
    with pytest.raises(ConfigError, match=told) as caught:
        boot.check(config(vmlinux, initrd=initrd))
    assert str(initrd) in str(caught.value) and caught.value.hint


def test_initrd_larger_than_low_ram_gets_no_useless_advice(tmp_path: Path, vmlinux: Path) -> None:
    initrd = write(tmp_path / "initrd", b"")
    os.truncate(initrd, 4 * GIB)
    with pytest.raises(ConfigError) as caught:
        boot.check(config(vmlinux, 16 * GIB, initrd=initrd))
    assert "below 3 GiB" in caught.value.hint


@pytest.mark.parametrize("name", ["missing", "folder"])
def test_initrd_that_cannot_be_read_is_told(tmp_path: Path, vmlinux: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match=name) as caught:
        boot.check(config(vmlinux, initrd=tmp_path / name))
    assert caught.value.code == "initrd-file"


@pytest.mark.parametrize("kind", ["private", "small pages", "shared"])
def test_files_are_where_they_belong(tmp_path: Path, vmlinux: Path, kind: str) -> None:
    """Files are read into the mapping, or sent to a memfd, with and without huge pages; the result is the same."""
    size = 256 * MIB
    memory = GuestMemory(size, shared=kind != "private", huge_pages="none" if kind == "small pages" else "auto")
    vmlinux.write_bytes(
        elf(
            [Load(16 * MIB, CODE, 65536), Load(20 * MIB + 123, os.urandom(200_001), 300_000), Load(32 * MIB, b"", MIB)],
            entry=16 * MIB,
            notes=pvh_note(16 * MIB),
        )
    )
    initrd = write(tmp_path / "initrd", os.urandom(3 * MIB + 5))
    plan = boot.check(config(vmlinux, size, initrd=initrd))
    boot.load_files(plan, memory)
    state = boot.place_tables(plan, memory, 1)
    data = vmlinux.read_bytes()
    for segment in plan.image.segments:
        wanted = data[segment.offset : segment.offset + segment.filesz].ljust(segment.memsz, b"\0")
        assert memory.read(segment.paddr, segment.memsz) == wanted
    assert plan.initrd is not None
    address = plan.initrd[2]
    assert address % 4096 == 0 and size - address < 3 * MIB + 5 + 4096
    assert memory.read(address, 3 * MIB + 5) == initrd.read_bytes()
    info = struct.unpack("<IIIIQQQQII", memory.read(state.rbx, 56))
    assert info[0] == 0x336EC578
    assert struct.unpack("<QQ", memory.read(info[4], 16)) == (address, 3 * MIB + 5)
    memory.close()


@pytest.mark.parametrize("size", [20 * MIB, 127 * MIB + 4096, 256 * MIB, 3 * GIB + MIB, 300 * GIB])
@pytest.mark.parametrize("initrd_size", [0, 5 * MIB + 5])
def test_pieces_that_come_at_once_lie_in_ram_and_are_few(tmp_path: Path, size: int, initrd_size: int) -> None:
    vmlinux = write(tmp_path / "vmlinux", at(16 * MIB, 3 * MIB))
    initrd = write(tmp_path / "initrd", b"x" * initrd_size) if initrd_size and size > 64 * MIB else None
    plan = boot.check(config(vmlinux, size, initrd=initrd))
    ram = regions(size)
    where = (0, 0) if plan.initrd is None else (plan.initrd[2], plan.initrd[2] + initrd_size)
    pieces = early_pieces(plan.image, where, ram)
    assert (16 * MIB, 18 * MIB) in pieces and (18 * MIB, 20 * MIB) not in pieces
    assert all(end - start == 2 * MIB and start % (2 * MIB) == 0 for start, end in pieces)
    assert all(any(r.gpa <= start and end <= r.end for r in ram) for start, end in pieces)
    assert len(set(pieces)) == len(pieces)
    assert sum(end - start for start, end in pieces) <= size // 64 + 32 * MIB
    if initrd is not None:
        whole = -(-where[0] // (2 * MIB)) * 2 * MIB
        assert (whole, whole + 2 * MIB) in pieces


def test_a_kernel_that_is_too_small_to_be_linux_has_no_pieces_for_what_linux_allocates(tmp_path: Path) -> None:
    plan = boot.check(config(write(tmp_path / "vmlinux", at(4 * MIB, MIB)), 512 * MIB))
    assert early_pieces(plan.image, (0, 0), regions(512 * MIB)) == []


def test_initrd_may_fill_all_that_is_left(tmp_path: Path, vmlinux: Path) -> None:
    image = boot.check(config(vmlinux)).image
    room = 64 * MIB - (image.segments[-1].end + 4095 & ~4095)
    initrd = write(tmp_path / "initrd", b"")
    os.truncate(initrd, room)
    boot.check(config(vmlinux, initrd=initrd))
    os.truncate(initrd, room + 1)
    with pytest.raises(ConfigError, match="do not fit"):
        boot.check(config(vmlinux, initrd=initrd))


def test_initrd_stays_below_the_hole(tmp_path: Path, vmlinux: Path) -> None:
    plan = boot.check(config(vmlinux, 8 * GIB, initrd=write(tmp_path / "initrd", b"x")))
    assert plan.initrd is not None and plan.initrd[2] == HOLE_START - 4096


def test_nothing_is_written_outside_of_what_is_loaded(vmlinux: Path, memory: GuestMemory) -> None:
    state = boot.prepare(config(vmlinux), memory, range(4))
    assert state.rip == 16 * MIB
    touched = {gpa for gpa in range(0, 64 * MIB, 4096) if any(memory.read(gpa, 4096))}
    kernel_pages = set(range(16 * MIB, 16 * MIB + len(CODE), 4096))
    assert touched == kernel_pages | {layout.BOOT_PAGE, layout.ACPI, layout.RESET_VECTOR & ~4095}


def test_linux64_gets_boot_params_and_page_tables(tmp_path: Path, vmlinux: Path, memory: GuestMemory) -> None:
    initrd = write(tmp_path / "initrd", b"i" * 5000)
    machine = config(vmlinux, initrd=initrd, cmdline="=hello world", entry="linux64")
    state = boot.prepare(machine, memory, range(4))
    assert (state.rip, state.rsi, state.cr3) == (16 * MIB, layout.BOOT_PARAMS, layout.PML4)
    page = memory.read(state.rsi, 4096)
    assert page[0x202:0x206] == b"HdrS"
    (pointer,) = struct.unpack_from("<I", page, 0x228)
    assert memory.read(pointer, 12) == b"hello world\0"
    address, size = struct.unpack_from("<II", page, 0x218)
    assert memory.read(address, size) == b"i" * 5000
    (rsdp,) = struct.unpack_from("<Q", page, 0x70)
    assert memory.read(rsdp, 8) == b"RSD PTR "
    assert any(memory.read(state.cr3, 4096))


def test_linux64_gets_a_seed_that_is_another_each_time(vmlinux: Path, memory: GuestMemory) -> None:
    seeds = set()
    for _ in range(3):
        state = boot.prepare(config(vmlinux, entry="linux64"), memory)
        (pointer,) = struct.unpack_from("<Q", memory.read(state.rsi, 4096), 0x250)
        following, kind, length = struct.unpack("<QII", memory.read(pointer, 16))
        assert (following, kind, length) == (0, 9, 32), "SETUP_RNG_SEED"
        seeds.add(memory.read(pointer + 16, length))
        assert (pointer, pointer + 48) < (layout.CMDLINE, layout.CMDLINE)
    assert len(seeds) == 3


@pytest.mark.parametrize("victim", ["vmlinux", "initrd"])
def test_file_that_changes_after_the_check_is_told(
    tmp_path: Path, vmlinux: Path, memory: GuestMemory, victim: str
) -> None:
    initrd = write(tmp_path / "initrd", bytes(10000))
    plan = boot.check(config(vmlinux, initrd=initrd))
    with (tmp_path / victim).open("ab") as file:
        file.write(b"more")
    with pytest.raises(ConfigError, match=f"{victim} changed"):
        boot.load_files(plan, memory)


def test_more_devices_than_interrupts_are_told(vmlinux: Path, memory: GuestMemory) -> None:
    with pytest.raises(ConfigError, match="interrupts for devices"):
        boot.prepare(config(vmlinux), memory, range(layout.MMIO_SLOTS + 1))


@pytest.mark.parametrize(
    "rootfs, read_only, wanted", [(True, False, ["root=/dev/vda", "rw"]), (True, True, ["root=/dev/vda", "ro"])]
)
def test_root_disk_is_named(rootfs: bool, read_only: bool, wanted: list[str]) -> None:
    words = default_cmdline(rootfs=rootfs, read_only=read_only).split()
    assert words[-2:] == wanted
    assert "console=ttyS0" in words and "panic=-1" in words


def test_no_root_disk_no_root() -> None:
    assert "root=" not in default_cmdline()


def test_the_console_is_the_device_that_was_asked_for() -> None:
    assert [word for word in default_cmdline(hvc=True).split() if word.startswith("console=")] == ["console=hvc0"]


def test_a_clock_that_is_not_used_wakes_nobody_up() -> None:
    assert "tsc=nowatchdog" in default_cmdline().split()


def test_pci_is_off_unless_there_is_one() -> None:
    assert "pci=off" in default_cmdline() and "pci=off" not in default_cmdline(pci=True)


def test_cpus_that_may_come_are_told_and_left_alone(vmlinux: Path, memory: GuestMemory) -> None:
    plain = config(vmlinux)
    assert b"maxcpus" not in boot.check(plain).cmdline
    assert b"maxcpus" not in boot.check(replace(plain, cpus=2, max_cpus=2)).cmdline
    grows = replace(plain, cpus=2, max_cpus=5)
    assert b" maxcpus=2" in boot.check(grows).cmdline
    boot.prepare(grows, memory)
    tables = memory.read(layout.ACPI, 0x4000)
    assert acpi.madt(range(5)) in tables and acpi.madt(range(2)) not in tables


@pytest.mark.parametrize(
    "own, whole",
    [("", "a b"), ("  ", "a b"), ("c=1 -- d", "a b c=1 -- d"), ("=x y", "x y"), ("=", ""), ("b=2", "a b b=2")],
)
def test_own_words_come_last_or_replace(own: str, whole: str) -> None:
    assert merge_cmdline("a b", own) == whole


@pytest.mark.parametrize("text", ["", "a", 'dyndbg="file x +p"', "a\tb", "x" * 2047])
def test_good_command_lines_stay_as_they_are(text: str) -> None:
    assert encode_cmdline(text) == text.encode()


@pytest.mark.parametrize(
    "text, told",
    [
        ("x" * 2048, "2048 bytes: Linux takes 2047"),
        ("a\0b", "a NUL at position 1"),
        ("ab\ninit=/bin/sh", "a line break at position 2"),
        ("a\rb", "carriage return"),
        ("caf\u00e9", "'\\xe9' at position 3"),
        ("a\x1b[0m", "'\\x1b' at position 1"),
        ("\udc80", "'\\udc80' at position 0"),
    ],
)
def test_bad_command_lines_are_told(text: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        encode_cmdline(text)
    assert told in str(caught.value)
    assert caught.value.hint


# -- the guest physical map: nothing overlaps, and a guest is told not to use what is ours --


@pytest.mark.parametrize("ranges", [OURS, HOLE, PORTS], ids=["ram", "hole", "ports"])
def test_no_two_things_overlap(ranges: dict[str, tuple[int, int]]) -> None:
    ordered = sorted((base, size, name) for name, (base, size) in ranges.items())
    for (base, size, name), (following, _, other) in pairwise(ordered):
        assert base + size <= following, f"{name} overlaps {other}"


def test_everything_for_the_hole_is_in_it() -> None:
    for base, size in HOLE.values():
        assert base >= HOLE_START and base + size <= HOLE_END


@pytest.mark.parametrize("size", SIZES)
def test_memory_map_is_ordered_disjoint_and_describes_all_ram(size: int) -> None:
    ram = regions(size)
    entries = layout.memory_map(ram)
    for (base, length, _), (following, _, _) in pairwise(entries):
        assert length > 0
        assert base + length <= following or following == HOLE_END
    inside = [(b, n) for b, n, _ in entries if any(r.gpa <= b and b + n <= r.end for r in ram)]
    assert sum(n for _, n in inside) == size, "every byte of RAM has exactly one type"
    usable = sum(n for _, n, kind in entries if kind == layout.E820_RAM)
    assert usable == size - (layout.TABLES_END - layout.LOW_RAM_END)
    assert len(entries) <= layout.MEMMAP_MAX


@pytest.mark.parametrize("name", OURS)
def test_what_is_ours_is_reserved_and_kernels_are_kept_off(name: str) -> None:
    base, size = OURS[name]
    assert base >= layout.TABLES_START and base + size <= layout.TABLES_END
    for start, length, kind in layout.memory_map(regions(256 * MIB)):
        if start < base + size and base < start + length:
            assert kind in (layout.E820_RESERVED, layout.E820_ACPI)


def test_too_little_ram_is_told() -> None:
    with pytest.raises(ConfigError, match="1024 KiB is too little") as caught:
        layout.memory_map(regions(MIB))
    assert "--memory" in caught.value.hint


def test_every_virtio_slot_has_a_page_and_a_pin_of_its_own() -> None:
    slots = range(layout.MMIO_SLOTS)
    pins = [layout.mmio_gsi(slot) for slot in slots]
    assert len({layout.mmio_base(slot) for slot in slots}) == len(set(pins)) == layout.MMIO_SLOTS
    others = {layout.COM1_GSI, layout.POWER_BUTTON_GSI, layout.VM_GENERATION_GSI}
    assert len(others) == 3 and not others & set(pins) and max(pins) < layout.IOAPIC_PINS
    layout.check_slots(slots)
    with pytest.raises(ConfigError, match=f"device {layout.MMIO_SLOTS}"):
        layout.check_slots([layout.MMIO_SLOTS])


@pytest.mark.parametrize("size", SIZES)
def test_windows_are_behind_ram_and_each_other(size: int) -> None:
    end = regions(size)[-1].end
    for _ in range(3):
        base = layout.window_base(end, 64 * MIB)
        assert base >= max(end, 4 * GIB)
        assert base % GIB == 0
        end = base + 64 * MIB


def test_windows_that_no_guest_can_address() -> None:
    with pytest.raises(ConfigError, match="more than a guest can address"):
        layout.window_base(500 * GIB, 20 * GIB)
