"""The guest physical map and the I/O ports, all in one place.

::

    0000_0000 .. 000a_0000   conventional RAM; the guest's own (its trampoline for secondary CPUs lives here)
    000a_0000 .. 000c_0000   a PC's display memory: unused RAM
    000c_0000 .. 000e_0000   ours: GDT, start_info, command line, boot_params, page tables
    000e_0000 .. 000f_f000   ours: ACPI tables, the RSDP first
    000f_f000 .. 0010_0000   ours: the VM generation ID, and where a CPU starts after a reset
    0010_0000 .. c000_0000   RAM: the kernel where it is linked, the initrd at the very top
    c000_0000 .. d000_0000   BARs of PCI functions
    d000_0000 + n * 1000     the registers of virtio-mmio device n
    e000_0000 .. e010_0000   PCI configuration space (ECAM) of bus 0
    fec0_0000, fee0_0000     IO-APIC, local APIC (both inside KVM)
    feff_c000 .. ff00_0000   pages that KVM needs on Intel
    1_0000_0000 ..           the rest of RAM, then windows of devices (DAX), each from a multiple of 1 GiB on

A guest that knows PCs avoids 640 KiB .. 1 MiB, so our data costs it no memory; the memory map reserves the range
nevertheless.
"""

from __future__ import annotations

from vmm.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmm.memory.layout import Region

# -- RAM below 1 MiB ---------------------------------------------------------------------------------------------------
LOW_RAM_END = 0xA_0000
"""Conventional memory ends: 640 KiB."""
TABLES_START = 0xC_0000
"""Our own data begins; nothing of a kernel may be loaded from here up to :data:`TABLES_END`."""
TABLES_END = 0x10_0000
"""The end of our own data; RAM continues here: 1 MiB."""

BOOT_PAGE = TABLES_START
"""One page for all that a PVH entry reads, so that neither side touches more than this page for it."""
GDT = BOOT_PAGE
"""Segment descriptors of the entry state: null, null, code, data, and a TSS of two slots."""
GDT_SIZE = 6 * 8
START_INFO = BOOT_PAGE + 0x40
"""struct hvm_start_info, version 1: 56 bytes."""
MODLIST = BOOT_PAGE + 0x80
"""struct hvm_modlist_entry: 32 bytes, one entry (the initrd)."""
MEMMAP = BOOT_PAGE + 0x100
"""struct hvm_memmap_table_entry: 24 bytes each."""
MEMMAP_MAX = 32
"""So many entries fit."""
SETUP_DATA = BOOT_PAGE + 0x480
"""struct setup_data of the 64-bit Linux boot protocol, with the seed: 48 bytes."""
CMDLINE = BOOT_PAGE + 0x800
"""The command line, NUL-terminated."""
CMDLINE_SIZE = 2048
"""COMMAND_LINE_SIZE of Linux on x86, the NUL included."""

BOOT_PARAMS = 0xC_1000
"""struct boot_params ("zero page") of the 64-bit Linux boot protocol: 4 KiB."""
PML4 = 0xC_2000
"""The root page table of the 64-bit entry; the PDPT follows it."""
PDPT = 0xC_3000
"""Its first four entries cover 0 .. 4 GiB."""
PAGE_DIRECTORIES = 0xC_4000
"""Four page directories of 2 MiB pages: the identity map of 0 .. 4 GiB."""

ACPI = 0xE_0000
"""The RSDP: also the first place where a guest that was not told its address looks for it."""
ACPI_END = 0xF_F000
"""All ACPI tables fit below this."""

VM_GENERATION_ID = ACPI_END
"""16 random bytes, different in each clone of a snapshot (ACPI's VM generation ID)."""

RESET_VECTOR = 0xF_FFF0
"""Where a PC's BIOS begins, at ``f000:fff0``: sixteen bytes. A kernel told to reboot through the BIOS jumps here."""

# -- The hole below 4 GiB ----------------------------------------------------------------------------------------------
MMIO = 0xD000_0000
"""The first virtio-mmio register page."""
MMIO_STRIDE = 0x1000
"""One page for each device, so that each can be mapped by itself."""
PCI_WINDOW = 0xC000_0000
"""What the PCI host bridge forwards to BARs: 32-bit, not prefetchable."""
PCI_WINDOW_SIZE = 0x1000_0000
PCI_ECAM = 0xE000_0000
PCI_ECAM_SIZE = 1 << 20
"""Of one bus."""
IOAPIC = 0xFEC0_0000
LAPIC = 0xFEE0_0000
KVM_IDENTITY_MAP = 0xFEFF_C000
"""One page for KVM_SET_IDENTITY_MAP_ADDR."""
KVM_TSS = 0xFEFF_D000
"""Three pages for KVM_SET_TSS_ADDR."""
KVM_PAGES_END = 0xFF00_0000

# -- Behind RAM --------------------------------------------------------------------------------------------------------
WINDOW_ALIGN = 1 << 30
WINDOWS_END = 1 << 39
"""What the CPUs with the fewest address lines have."""

# -- I/O ports ---------------------------------------------------------------------------------------------------------
COM1 = 0x3F8
"""The UART: eight ports."""
COM1_SIZE = 8
I8042_DATA = 0x60
I8042_COMMAND = 0x64
"""Writing :data:`I8042_RESET` here resets the machine: the way of guests without ACPI."""
I8042_RESET = 0xFE
PVPANIC = 0x505
"""One port: a guest writes bit 0 at a panic, bit 1 before its crash kernel; a read returns the supported bits."""
ACPI_SLEEP_CONTROL = 0x600
"""SLEEP_CONTROL_REG, one byte: bit 5 goes to the sleep state whose type is in bits 4..2."""
ACPI_SLEEP_STATUS = 0x601
"""SLEEP_STATUS_REG, one byte: reads 0; bit 7 is written once before a sleep."""
ACPI_RESET = 0x602
"""RESET_REG, one byte: writing :data:`ACPI_RESET_VALUE` resets the machine."""
ACPI_RESET_VALUE = 0x01
PCI_HOTPLUG = 0x620
"""Twelve ports: see :class:`vmm.devices.pci_hotplug.PciHotplug`."""
ACPI_S5_TYPE = 5
"""The sleep type of S5, soft off."""
ACPI_POWER_OFF = 1 << 5 | ACPI_S5_TYPE << 2
"""What a guest writes to :data:`ACPI_SLEEP_CONTROL` to power off."""

# -- Interrupts: pins of the IO-APIC -----------------------------------------------------------------------------------
VM_GENERATION_GSI = 1
"""Raised when the VM generation ID is another one (a PC has its keyboard here)."""
POWER_BUTTON_GSI = 3
"""Raised when the power button is pressed (a PC has a second serial port here)."""
COM1_GSI = 4
MMIO_GSI = 5
"""The pin of virtio-mmio device 0; device n has the n-th after it."""
PCI_HOTPLUG_GSI = 9
"""Raised when a device comes, or should go; only on machines with PCI."""
PCI_GSI = 16
"""The first of the pins that interrupt lines of PCI functions share; level-triggered."""
PCI_GSIS = 8
IOAPIC_PINS = 24
"""What KVM's IO-APIC has."""
MMIO_SLOTS = IOAPIC_PINS - MMIO_GSI
"""So many virtio-mmio devices can have an interrupt of their own."""

# -- Memory types: those of e820 and of the PVH memory map are the same ------------------------------------------------
E820_RAM = 1
E820_RESERVED = 2
E820_ACPI = 3

MIN_RAM = 2 << 20
"""Below this not even our own tables and a kernel of some kilobytes fit."""


def mmio_base(slot: int) -> int:
    """The address of the registers of virtio-mmio device *slot*."""
    return MMIO + slot * MMIO_STRIDE


def window_base(end: int, size: int, align: int = 0) -> int:
    """The address of a window of *size* bytes, after RAM and other windows up to *end*.

    :param align: its alignment (a power of two); it is aligned to a gibibyte too
    :raises ConfigError: beyond the addresses that every CPU supports
    """
    align = max(align, WINDOW_ALIGN)
    base = -(-max(end, 1 << 32) // align) * align
    if base + size > WINDOWS_END:
        raise ConfigError(
            f"memory and windows up to {base + size:#x} are more than a guest can address ({WINDOWS_END:#x})",
            code="windows-too-large",
            hint="make memory or the windows of shares (dax=) smaller",
        )
    return base


def mmio_gsi(slot: int) -> int:
    """The IO-APIC pin of virtio-mmio device *slot*."""
    return MMIO_GSI + slot


def pci_gsi(slot: int) -> int:
    """The pin of the interrupt line of PCI device *slot*."""
    return PCI_GSI + slot % PCI_GSIS


def memory_map(ram: Sequence[Region], *, pci: bool = False) -> tuple[tuple[int, int, int], ...]:
    """The memory map for the guest: ``(address, size, type)``, lowest first, disjoint.

    :param ram: the regions of guest RAM, the first from address 0
    :param pci: the machine has a PCI bus
    :raises ConfigError: too little RAM to hold our own tables
    """
    check_ram(ram)
    entries = [
        (0, LOW_RAM_END, E820_RAM),
        (LOW_RAM_END, ACPI - LOW_RAM_END, E820_RESERVED),
        (ACPI, ACPI_END - ACPI, E820_ACPI),
        (ACPI_END, TABLES_END - ACPI_END, E820_RESERVED),
        (TABLES_END, ram[0].end - TABLES_END, E820_RAM),
        *([(PCI_ECAM, PCI_ECAM_SIZE, E820_RESERVED)] if pci else []),
        (KVM_IDENTITY_MAP, KVM_PAGES_END - KVM_IDENTITY_MAP, E820_RESERVED),
    ]
    entries.extend((region.gpa, region.size, E820_RAM) for region in ram[1:])
    return tuple(entries)


def check_ram(ram: Sequence[Region]) -> None:
    """
    :raises ConfigError: too little RAM to boot anything
    """
    if ram[0].size < MIN_RAM:
        raise ConfigError(
            f"memory of {ram[0].size >> 10} KiB is too little to boot: {MIN_RAM >> 20} MiB is the least",
            code="memory-too-small",
            hint="a Linux kernel needs --memory 64M or more",
        )


def check_slots(slots: Sequence[int]) -> None:
    """
    :raises ConfigError: a virtio-mmio device for which no interrupt is left
    """
    for slot in slots:
        if not 0 <= slot < MMIO_SLOTS:
            raise ConfigError(
                f"virtio-mmio device {slot}: there are interrupts for devices 0 to {MMIO_SLOTS - 1} only",
                code="virtio-slots",
                hint="use fewer devices",
            )
