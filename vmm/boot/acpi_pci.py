"""What ACPI says of a PCI bus: the MCFG table, and the host bridge in the DSDT.

Sections of the PCI Firmware Specification 3.3, and of ACPI 6.5 for the methods.
"""

from __future__ import annotations

import struct

from vmm.boot import aml, layout
from vmm.boot.acpi import table

SLOTS = 32


def mcfg() -> bytes:
    """Memory mapped configuration space (PCI Firmware 4.1.2): segment 0, bus 0."""
    return table(b"MCFG", 1, struct.pack("<8xQHBB4x", layout.PCI_ECAM, 0, 0, 0))


def _routing() -> bytes:
    """_PRT (ACPI 6.2.13): pin A of each device is a pin of the I/O APIC."""
    lines = [
        aml.package(*(aml.integer(value) for value in (slot << 16 | 0xFFFF, 0, 0, layout.pci_gsi(slot))))
        for slot in range(1, SLOTS)
    ]
    return aml.name(b"_PRT", aml.package(*lines))


def terms() -> bytes:
    """AML for ``\\_SB``: the host bridge, and whose the ECAM window is."""
    window = aml.memory_window(layout.PCI_WINDOW, layout.PCI_WINDOW_SIZE)
    bridge = aml.device(
        b"PCI0",
        aml.name(b"_HID", aml.eisa_id("PNP0A08")),
        aml.name(b"_CID", aml.eisa_id("PNP0A03")),
        aml.name(b"_UID", aml.integer(0)),
        aml.name(b"_SEG", aml.integer(0)),
        aml.name(b"_BBN", aml.integer(0)),
        aml.name(b"_CCA", aml.integer(1)),
        aml.name(b"_CRS", aml.resources(aml.bus_numbers(0, 0), window)),
        _routing(),
    )
    ecam = aml.device(
        b"ECAM",
        aml.name(b"_HID", aml.eisa_id("PNP0C02")),
        aml.name(b"_UID", aml.string("ECAM")),
        aml.name(b"_CRS", aml.resources(aml.memory(layout.PCI_ECAM, layout.PCI_ECAM_SIZE))),
    )
    return bridge + ecam
