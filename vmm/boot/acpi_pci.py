"""The ACPI description of a PCI bus: the MCFG table, and the host bridge in the DSDT.

Sections of the PCI Firmware Specification 3.3, and of ACPI 6.5 for the methods.
"""

from __future__ import annotations

import struct

from vmm.boot import aml, layout
from vmm.boot.acpi import table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

SLOTS = 32
_DEVICE_CHECK, _EJECT_REQUEST = 1, 3
"""Table 5.154: notifications of any device."""


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


def _slots() -> bytes:
    """A device for each device number (ACPI 6.5, 6.3.3: one with _EJ0 can be removed while the machine runs), and the
    method that checks which devices came and which should go."""
    devices, looks = [], []
    for slot in range(1, SLOTS):
        name = b"S%02X_" % slot
        devices.append(
            aml.device(
                name,
                aml.name(b"_ADR", aml.integer(slot << 16)),
                aml.name(b"_SUN", aml.integer(slot)),
                aml.method(b"_EJ0", 1, aml.store(aml.integer(1 << slot), b"GONE")),
            )
        )
        looks.append(aml.if_bit(aml.LOCAL0, slot, aml.notify(name, _DEVICE_CHECK)))
        looks.append(aml.if_bit(aml.LOCAL1, slot, aml.notify(name, _EJECT_REQUEST)))
    registers = aml.ports(b"HPLG", layout.PCI_HOTPLUG, b"CAME", b"LEAV", b"GONE")
    read = aml.store(b"CAME", aml.LOCAL0) + aml.store(b"LEAV", aml.LOCAL1)
    return registers + b"".join(devices) + aml.method(b"LOOK", 0, read, *looks)


def terms(windows: Sequence[tuple[int, int]] = ()) -> bytes:
    """AML for ``\\_SB``: the host bridge, the reservation of the ECAM window, and the hot-plug event (5.6.9).

    :param windows: address and size of the window that the bridge forwards to 64-bit BARs
    """
    forwarded = [aml.memory_window(layout.PCI_WINDOW, layout.PCI_WINDOW_SIZE)]
    forwarded += [aml.memory_window64(base, size) for base, size in windows]
    bridge = aml.device(
        b"PCI0",
        aml.name(b"_HID", aml.eisa_id("PNP0A08")),
        aml.name(b"_CID", aml.eisa_id("PNP0A03")),
        aml.name(b"_UID", aml.integer(0)),
        aml.name(b"_SEG", aml.integer(0)),
        aml.name(b"_BBN", aml.integer(0)),
        aml.name(b"_CCA", aml.integer(1)),
        aml.name(b"_CRS", aml.resources(aml.bus_numbers(0, 0), *forwarded)),
        _routing(),
        _slots(),
    )
    ecam = aml.device(
        b"ECAM",
        aml.name(b"_HID", aml.eisa_id("PNP0C02")),
        aml.name(b"_UID", aml.string("ECAM")),
        aml.name(b"_CRS", aml.resources(aml.memory(layout.PCI_ECAM, layout.PCI_ECAM_SIZE))),
    )
    events = aml.device(
        b"PGED",
        aml.name(b"_HID", aml.string("ACPI0013")),
        aml.name(b"_UID", aml.string("PCI")),
        aml.name(b"_CRS", aml.resources(aml.interrupt(layout.PCI_HOTPLUG_GSI))),
        aml.method(b"_EVT", 1, aml.path_up(2, b"PCI0", b"LOOK")),
    )
    return bridge + ecam + events
