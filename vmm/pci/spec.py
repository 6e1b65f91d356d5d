"""Numbers of PCI Local Bus 3.0, PCI Firmware 3.3 and PCI Express 4.0, under the names of ``<linux/pci_regs.h>``."""

from __future__ import annotations

CONFIG_SIZE = 4096
"""Bytes of a function's configuration space behind ECAM."""
ECAM_SHIFT = 15
"""Device number to offset in the ECAM window; functions are 4 KiB apart."""
DEVICES = 32

# The header, type 0
VENDOR_ID = 0x00
DEVICE_ID = 0x02
COMMAND = 0x04
COMMAND_IO = 1 << 0
COMMAND_MEMORY = 1 << 1
COMMAND_MASTER = 1 << 2
COMMAND_INTX_DISABLE = 1 << 10
STATUS = 0x06
STATUS_INTERRUPT = 1 << 3
STATUS_CAP_LIST = 1 << 4
REVISION_ID = 0x08
CLASS_PROG = 0x09
CACHE_LINE_SIZE = 0x0C
HEADER_TYPE = 0x0E
BASE_ADDRESS_0 = 0x10
BASE_ADDRESS_MEM_TYPE_64 = 1 << 2
BASE_ADDRESS_MEM_PREFETCH = 1 << 3
SUBSYSTEM_VENDOR_ID = 0x2C
SUBSYSTEM_ID = 0x2E
CAPABILITY_LIST = 0x34
INTERRUPT_LINE = 0x3C
INTERRUPT_PIN = 0x3D
HEADER_END = 0x40

# Capabilities
CAP_ID_VNDR = 0x09
CAP_ID_MSIX = 0x11

MSIX_FLAGS = 2
MSIX_FLAGS_MASKALL = 1 << 14
MSIX_FLAGS_ENABLE = 1 << 15
MSIX_TABLE = 4
MSIX_PBA = 8
MSIX_SIZE = 12
MSIX_ENTRY_SIZE = 16
MSIX_ENTRY_VECTOR_CTRL = 12
MSIX_ENTRY_CTRL_MASKBIT = 1
MSIX_MAX = 2048

CLASS_STORAGE = 0x01_80_00
CLASS_NETWORK = 0x02_00_00
CLASS_BRIDGE_HOST = 0x06_00_00
CLASS_OTHERS = 0xFF_00_00

INTEL = 0x8086
Q35_MCH = 0x29C0
"""The host bridge: a number that every kernel knows and none has a driver for."""
