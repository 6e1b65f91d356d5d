"""The ACPI tables, read as a guest reads them, and by Intel's own compiler."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from vmm.boot import acpi, acpi_pci, aml, layout
from vmm.errors import ConfigError

HEADER = 36


class Guest:
    """Finds tables the way an operating system does: from the RSDP on."""

    def __init__(self, blob: bytes, base: int = layout.ACPI) -> None:
        self.blob, self.base = blob, base
        assert blob[:8] == b"RSD PTR "
        assert sum(blob[:20]) % 256 == 0 and sum(blob[:36]) % 256 == 0
        length, xsdt = struct.unpack_from("<IQ", blob, 20)
        assert blob[15] == 2 and length == 36
        root = self.table(xsdt)
        assert root[:4] == b"XSDT"
        entries = [self.table(address) for (address,) in struct.iter_unpack("<Q", root[HEADER:])]
        self.tables = {entry[:4]: entry for entry in entries}
        assert len(self.tables) == len(entries)
        self.tables[b"DSDT"] = self.table(struct.unpack_from("<Q", self.tables[b"FACP"], 140)[0])
        self.tables[b"XSDT"] = root

    def table(self, address: int) -> bytes:
        start = address - self.base
        (length,) = struct.unpack_from("<I", self.blob, start + 4)
        table = self.blob[start : start + length]
        assert len(table) == length >= HEADER and sum(table) % 256 == 0
        return table

    def cpus(self) -> list[tuple[int, int]]:
        """(uid, APIC id) of the enabled CPUs."""
        madt, offset, found = self.tables[b"APIC"], HEADER + 8, []
        while offset < len(madt):
            kind, length = madt[offset : offset + 2]
            if kind == 0:
                found.append((madt[offset + 2], madt[offset + 3]))
                assert struct.unpack_from("<I", madt, offset + 4) == (1,)
            elif kind == 9:
                apic_id, flags, uid = struct.unpack_from("<III", madt, offset + 4)
                found.append((uid, apic_id))
                assert flags == 1
            offset += length
        assert offset == len(madt)
        return found


def iasl(folder: Path, *arguments: str) -> str:
    """Run the compiler; its output, which must not complain."""
    tool = shutil.which("iasl")
    if tool is None:
        pytest.skip("iasl is not installed: apt-get install acpica-tools")
    done = subprocess.run([tool, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def recompile(folder: Path, name: str, table: bytes) -> tuple[str, bytes]:
    """*table* disassembled, and what becomes of its source when it is compiled again."""
    (folder / f"{name}.dat").write_bytes(table)
    iasl(folder, "-d", f"{name}.dat")
    # 6035: digits are wanted in a _HID; that of the VM generation ID, which Linux looks for, has none
    said = iasl(folder, "-vw", "6035", "-p", f"{name}-again", f"{name}.dsl")
    assert "0 Errors, 0 Warnings, 0 Remarks" in said, said
    return (folder / f"{name}.dsl").read_text(), (folder / f"{name}-again.aml").read_bytes()


@pytest.mark.parametrize("slots", [0, 1, layout.MMIO_SLOTS])
@pytest.mark.parametrize("cpus", [1, 32, 255])
def test_intels_compiler_takes_the_tables_apart_and_makes_the_same_again(tmp_path: Path, cpus: int, slots: int) -> None:
    for signature, table in Guest(acpi.tables(range(cpus), range(slots))).tables.items():
        _, again = recompile(tmp_path, signature.decode(), table)
        assert again[HEADER:] == table[HEADER:]  # the header names the compiler


def test_dsdt_says_where_the_devices_are(tmp_path: Path) -> None:
    source, _ = recompile(tmp_path, "dsdt", acpi.dsdt([0, 7]))
    text = " ".join(source.split())
    for words in (
        'Name (_HID, EisaId ("PNP0501")',
        "IO (Decode16, 0x03F8, // Range Minimum 0x03F8, // Range Maximum 0x01, // Alignment 0x08, // Length )",
        'Name (_HID, "QEMU0001")',
        "IO (Decode16, 0x0505,",
        "Device (V000)",
        "Device (V007)",
        'Name (_HID, "LNRO0005") // _HID: Hardware ID Name (_UID, 0x07)',
        "Memory32Fixed (ReadWrite, 0xD0007000, // Address Base 0x00001000, // Address Length )",
        "Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive, ,, ) { 0x0000000C, }",
        "Name (_S5, Package (0x04)",
    ):
        assert words in text
    assert "Device (V001)" not in text


def test_fadt_leads_power_off_and_reset_to_their_ports() -> None:
    fadt = Guest(acpi.tables(range(1), ())).tables[b"FACP"]
    port = struct.Struct("<BBBBQ")
    assert port.unpack_from(fadt, 116) == (1, 8, 0, 1, layout.ACPI_RESET)
    assert fadt[128] == layout.ACPI_RESET_VALUE
    assert port.unpack_from(fadt, 244) == (1, 8, 0, 1, layout.ACPI_SLEEP_CONTROL)
    assert port.unpack_from(fadt, 256) == (1, 8, 0, 1, layout.ACPI_SLEEP_STATUS)
    (flags,) = struct.unpack_from("<I", fadt, 112)
    assert flags >> 20 & 1 and flags >> 10 & 1, "hardware-reduced, with a reset register"
    (boot,) = struct.unpack_from("<H", fadt, 109)
    assert not boot & 2, "Linux would wait for a keyboard controller"
    assert boot & 0x20, "Linux would look for a CMOS clock"


@pytest.mark.parametrize("cpus", [1, 2, 16, 255])
def test_madt_has_every_cpu(cpus: int) -> None:
    assert Guest(acpi.tables(range(cpus), ())).cpus() == [(index, index) for index in range(cpus)]


def test_madt_gives_wide_apic_ids_the_wide_form() -> None:
    ids = [0, 254, 255, 300]
    assert Guest(acpi.tables(ids, ())).cpus() == list(enumerate(ids))


def test_tables_that_come_later_find_their_place() -> None:
    mcfg = acpi.table(b"MCFG", 1, bytes(8))
    bridge = aml.device(b"PCI0", aml.name(b"_HID", aml.eisa_id("PNP0A08")))
    guest = Guest(acpi.tables(range(2), [0], terms=bridge, more=[mcfg]))
    assert guest.tables[b"MCFG"] == mcfg
    assert bridge in guest.tables[b"DSDT"]


def with_pci(cpus: int = 2) -> Guest:
    windows = [(1 << 32, 1 << 30), (1 << 35, 1 << 34)]
    return Guest(acpi.tables(range(cpus), (), terms=acpi_pci.terms(windows), more=[acpi_pci.mcfg()]))


def test_intels_compiler_takes_the_tables_of_a_pci_machine(tmp_path: Path) -> None:
    for signature, table in with_pci(32).tables.items():
        _, again = recompile(tmp_path, signature.decode(), table)
        assert again[HEADER:] == table[HEADER:]


def test_the_host_bridge_is_where_mcfg_says(tmp_path: Path) -> None:
    tables = with_pci().tables
    base, segment, first, last = struct.unpack_from("<QHBB", tables[b"MCFG"], HEADER + 8)
    assert (base, segment, first, last) == (layout.PCI_ECAM, 0, 0, 0)
    source, _ = recompile(tmp_path, "dsdt", tables[b"DSDT"])
    text = " ".join(source.split())
    for words in (
        'Name (_HID, EisaId ("PNP0A08")',
        "WordBusNumber (ResourceProducer, MinFixed, MaxFixed, PosDecode,",
        "0xC0000000, // Range Minimum 0xCFFFFFFF, // Range Maximum 0x00000000, // Translation Offset 0x10000000,",
        "QWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, Prefetchable, ReadWrite,",
        "0x0000000100000000, // Range Minimum 0x000000013FFFFFFF, // Range Maximum",
        "0x0000000800000000, // Range Minimum 0x0000000BFFFFFFFF, // Range Maximum",
        'Name (_HID, EisaId ("PNP0C02")',
        "Memory32Fixed (ReadWrite, 0xE0000000, // Address Base 0x00100000, // Address Length )",
    ):
        assert words in text
    assert text.count("Package (0x04) { 0x00") == 31, "a line for each device number but the bridge's"


def test_rsdp_is_found_without_being_told() -> None:
    """A guest that was given no address looks at every 16th byte from 0xe0000 on."""
    assert layout.ACPI == 0xE0000
    assert acpi.tables(range(1), ()).find(b"RSD PTR ") == 0


def test_tables_without_room_are_an_error() -> None:
    with pytest.raises(ConfigError, match=", 300 are there"):
        acpi.tables(range(16), range(4), room=300)


@pytest.mark.parametrize("body", [0, 61, 62, 63, 0xFFC, 0xFFD, 0xFFE, 0xFFFFB, 0xFFFFC, 0xFFFFD, 1 << 20])
def test_aml_package_length_counts_itself(body: int) -> None:
    encoded = aml.package_length(body)
    extra = encoded[0] >> 6
    assert len(encoded) == extra + 1
    value = encoded[0] & (0xF if extra else 0x3F)
    for index, byte in enumerate(encoded[1:]):
        value |= byte << (4 + 8 * index)
    assert value == len(encoded) + body


@pytest.mark.parametrize("value", [0, 1, 2, 255, 256, 65535, 65536, (1 << 32) - 1, 1 << 32, (1 << 64) - 2])
def test_aml_integers_are_read_back(tmp_path: Path, value: int) -> None:
    table = acpi.table(b"DSDT", 2, aml.name(b"TEST", aml.integer(value)))
    source, again = recompile(tmp_path, "t", table)
    assert again[HEADER:] == table[HEADER:]
    shown = {0: "Zero", 1: "One"}.get(value, f"0x{value:0{2 * (len(aml.integer(value)) - 1)}X}")
    assert f"Name (TEST, {shown})" in source


def test_the_power_button_is_an_event_with_an_interrupt(tmp_path: Path) -> None:
    (tmp_path / "dsdt.dat").write_bytes(Guest(acpi.tables(range(1), ())).tables[b"DSDT"])
    iasl(tmp_path, "-d", "dsdt.dat")
    text = (tmp_path / "dsdt.dsl").read_text()
    events = text[text.index("Device (GED") :]
    assert 'Name (_HID, "ACPI0013"' in events
    assert f"0x{layout.POWER_BUTTON_GSI:08X}," in events
    assert "Method (_EVT, 1, Serialized)" in events
    assert "Notify (PWRB, 0x80)" in events
    assert 'Name (_HID, EisaId ("PNP0C0C")' in text


def test_the_generation_id_is_where_the_tables_say_and_has_an_event(tmp_path: Path) -> None:
    (tmp_path / "dsdt.dat").write_bytes(Guest(acpi.tables(range(1), ())).tables[b"DSDT"])
    iasl(tmp_path, "-d", "dsdt.dat")
    text = (tmp_path / "dsdt.dsl").read_text()
    device = text[text.index("Device (VGEN") :]
    assert 'Name (_HID, "VMGENCTR")' in device
    assert f"0x{layout.VM_GENERATION_ID:08X}" in device
    event = text[text.index("Device (GEDV") :]
    assert f"0x{layout.VM_GENERATION_GSI:08X}," in event
    assert "Notify (VGEN, 0x80)" in event
