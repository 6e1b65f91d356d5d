"""The ACPI tables: RSDP, XSDT, FADT, MADT and DSDT of a machine with hardware-reduced ACPI.

Hardware-reduced (ACPI 6.5, 3.11.1) means: no PM timer, no SCI, no fixed event registers, no PIC and no PIT. Power-off
and reset are one port each. The DSDT describes the rest: a UART, the virtio-mmio devices, pvpanic.

Interrupts are pins of one IO-APIC, edge-triggered and active high.  ISA interrupts keep their number and polarity, so
the MADT needs no override.
"""

from __future__ import annotations

import struct

from vmm.boot import aml, layout
from vmm.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_OEM = (b"PYVMM ", b"PYVMMVM ", 1, b"PYVM", 1)
_HEADER = struct.Struct("<4sIBB6s8sI4sI")
_RSDP = struct.Struct("<8sB6sBIIQB3x")
_FADT_TAIL = struct.Struct("<HBI12sBHB8xQ96x12s12s8s")

_SYSTEM_IO = 1
_BYTE_ACCESS = 1
_FADT_LENGTH = 276
# IAPC_BOOT_ARCH (5.2.9.3): no VGA, no CMOS clock; the bits for legacy devices and for an i8042 stay clear, so that a
# guest does not wait for a keyboard (a reset through port 0x64 needs no such bit)
_NO_VGA, _NO_RTC = 1 << 2, 1 << 5
# Fixed feature flags (table 5.10)
_WBINVD, _PROC_C1, _NO_POWER_BUTTON, _NO_SLEEP_BUTTON = 1 << 0, 1 << 2, 1 << 4, 1 << 5
_RESET_REGISTER, _HARDWARE_REDUCED = 1 << 10, 1 << 20

_BUTTON_PRESSED = 0x80
"""Table 5.155: "S0 power button pressed"."""
_GENERATION_CHANGED = 0x80
_APIC_ENABLED = 1
_FIRST_X2APIC_ID = 255
"""From here on an APIC id needs the wide form; 255 itself is the broadcast of the narrow one."""


def table(signature: bytes, revision: int, body: bytes) -> bytes:
    """A table with its header (5.2.6) and right checksum around *body*."""
    length = _HEADER.size + len(body)
    blank = _HEADER.pack(signature, length, revision, 0, *_OEM) + body
    return blank[:9] + bytes((-sum(blank) & 0xFF,)) + blank[10:]


def _port(port: int) -> bytes:
    """Generic address structure (5.2.3.2) of a one-byte I/O port."""
    return struct.pack("<BBBBQ", _SYSTEM_IO, 8, 0, _BYTE_ACCESS, port)


def fadt(dsdt: int) -> bytes:
    """Fixed ACPI description table (5.2.9), revision 6.5, that points to the DSDT at *dsdt*."""
    flags = _WBINVD | _PROC_C1 | _NO_POWER_BUTTON | _NO_SLEEP_BUTTON | _RESET_REGISTER | _HARDWARE_REDUCED
    tail = _FADT_TAIL.pack(
        _NO_VGA | _NO_RTC,
        0,
        flags,
        _port(layout.ACPI_RESET),
        layout.ACPI_RESET_VALUE,
        0,
        5,  # minor revision
        dsdt,
        _port(layout.ACPI_SLEEP_CONTROL),
        _port(layout.ACPI_SLEEP_STATUS),
        b"PYVMM",
    )
    return table(b"FACP", 6, bytes(_FADT_LENGTH - _HEADER.size - _FADT_TAIL.size) + tail)


def madt(apic_ids: Sequence[int]) -> bytes:
    """Multiple APIC description table (5.2.12): the CPUs, in order, and the IO-APIC."""
    parts = [struct.pack("<II", layout.LAPIC, 0)]
    for uid, apic_id in enumerate(apic_ids):
        if apic_id < _FIRST_X2APIC_ID:
            parts.append(struct.pack("<BBBBI", 0, 8, uid & 0xFF, apic_id, _APIC_ENABLED))
        else:
            parts.append(struct.pack("<BBHIII", 9, 16, 0, apic_id, _APIC_ENABLED, uid))
    parts.append(struct.pack("<BBBBII", 1, 12, 0, 0, layout.IOAPIC, 0))
    return table(b"APIC", 5, b"".join(parts))


def _fixed_terms() -> tuple[bytes, bytes]:
    """``\\_S5`` and the devices that are always there."""
    sleep = aml.name(b"_S5_", aml.package(*(aml.integer(value) for value in (layout.ACPI_S5_TYPE, 0, 0, 0))))
    uart = aml.device(
        b"COM1",
        aml.name(b"_HID", aml.eisa_id("PNP0501")),
        aml.name(b"_UID", aml.integer(1)),
        aml.name(b"_CRS", aml.resources(aml.io(layout.COM1, layout.COM1_SIZE), aml.interrupt(layout.COM1_GSI))),
    )
    panic = aml.device(
        b"PEVT",
        aml.name(b"_HID", aml.string("QEMU0001")),
        aml.name(b"_UID", aml.integer(0)),
        aml.name(b"_CRS", aml.resources(aml.io(layout.PVPANIC, 1))),
    )
    # 4.8.2.2.1.2 and 5.6.9: a button is an event of a Generic Event Device, which needs no registers
    button = aml.device(b"PWRB", aml.name(b"_HID", aml.eisa_id("PNP0C0C")), aml.name(b"_UID", aml.integer(0)))
    events = aml.device(
        b"GED_",
        aml.name(b"_HID", aml.string("ACPI0013")),
        aml.name(b"_UID", aml.integer(0)),
        aml.name(b"_CRS", aml.resources(aml.interrupt(layout.POWER_BUTTON_GSI))),
        aml.method(b"_EVT", 1, aml.notify(b"PWRB", _BUTTON_PRESSED)),
    )
    return sleep, uart + panic + button + events + _generation()


def _generation() -> bytes:
    """The VM generation ID ("Virtual Machine Generation ID", Microsoft, 2012): its address, and the event that reports
    a new one, at which Linux reseeds its random numbers (drivers/virt/vmgenid.c)."""
    low, high = layout.VM_GENERATION_ID & 0xFFFF_FFFF, layout.VM_GENERATION_ID >> 32
    place = aml.device(
        b"VGEN",
        aml.name(b"_HID", aml.string("VMGENCTR")),
        aml.name(b"_CID", aml.string("VM_Gen_Counter")),
        aml.name(b"_DDN", aml.string("VM_Gen_Counter")),
        aml.name(b"ADDR", aml.package(aml.integer(low), aml.integer(high))),
    )
    event = aml.device(
        b"GEDV",
        aml.name(b"_HID", aml.string("ACPI0013")),
        aml.name(b"_UID", aml.string("VGEN")),
        aml.name(b"_CRS", aml.resources(aml.interrupt(layout.VM_GENERATION_GSI))),
        aml.method(b"_EVT", 1, aml.notify(b"VGEN", _GENERATION_CHANGED)),
    )
    return place + event


def virtio_device(slot: int) -> bytes:
    """The virtio-mmio device *slot*: ``LNRO0005``, its register page and its interrupt (coherent DMA: _CCA)."""
    return aml.device(
        b"V%03X" % slot,
        aml.name(b"_HID", aml.string("LNRO0005")),
        aml.name(b"_UID", aml.integer(slot)),
        aml.name(b"_CCA", aml.integer(1)),
        aml.name(
            b"_CRS",
            aml.resources(aml.memory(layout.mmio_base(slot), layout.MMIO_STRIDE), aml.interrupt(layout.mmio_gsi(slot))),
        ),
    )


def dsdt(slots: Sequence[int], terms: bytes = b"") -> bytes:
    """Differentiated system description table (5.2.11.1): everything in the machine besides CPUs and memory.

    :param terms: more AML for ``\\_SB``, a PCI host bridge for example
    """
    sleep, devices = _fixed_terms()
    virtio = b"".join([virtio_device(slot) for slot in slots])
    return table(b"DSDT", 2, sleep + aml.scope(b"_SB_", devices, virtio, terms))


def tables(
    apic_ids: Sequence[int],
    slots: Sequence[int],
    *,
    base: int = layout.ACPI,
    room: int = layout.ACPI_END - layout.ACPI,
    terms: bytes = b"",
    more: Sequence[bytes] = (),
) -> bytes:
    """All tables, to be placed at *base*; the RSDP comes first.

    :param apic_ids: of the CPUs, the boot CPU's first
    :param slots: numbers of the virtio-mmio devices that exist
    :param room: bytes that are free at *base*
    :param terms: more AML for ``\\_SB``
    :param more: further complete tables, an MCFG for example
    :raises ConfigError: they do not fit
    """
    definitions = dsdt(slots, terms)
    others = [madt(apic_ids), *more]
    address = base + 64  # RSDP, rounded up
    addresses: list[int] = []
    blobs: list[bytes] = []

    def put(blob: bytes) -> int:
        nonlocal address
        here = address
        padded = blob + bytes(-len(blob) % 16)
        blobs.append(padded)
        address += len(padded)
        return here

    addresses.append(put(fadt(put(definitions))))
    addresses.extend(put(other) for other in others)
    xsdt = put(table(b"XSDT", 1, struct.pack(f"<{len(addresses)}Q", *addresses)))
    if address - base > room:
        raise ConfigError(
            f"the ACPI tables of {len(apic_ids)} CPUs and {len(slots)} devices take {address - base} bytes,"
            f" {room} are there",
            code="acpi-room",
            hint="use fewer CPUs or devices",
        )
    return _rsdp(xsdt).ljust(64, b"\0") + b"".join(blobs)


def _rsdp(xsdt: int) -> bytes:
    """Root system description pointer (5.2.5.3), revision 2."""
    oem = _OEM[0]
    first = -sum(_RSDP.pack(b"RSD PTR ", 0, oem, 2, 0, 0, 0, 0)[:20]) & 0xFF
    blank = _RSDP.pack(b"RSD PTR ", first, oem, 2, 0, _RSDP.size, xsdt, 0)
    return _RSDP.pack(b"RSD PTR ", first, oem, 2, 0, _RSDP.size, xsdt, -sum(blank) & 0xFF)
