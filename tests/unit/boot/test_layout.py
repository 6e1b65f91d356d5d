"""The guest physical map: nothing overlaps, and a guest is told not to use what is ours."""

from __future__ import annotations

from itertools import pairwise

import pytest

from vmm.boot import layout
from vmm.errors import ConfigError
from vmm.memory import HOLE_END, HOLE_START, regions

MIB, GIB = 1 << 20, 1 << 30
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
