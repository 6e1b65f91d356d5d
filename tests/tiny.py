"""Kernels of a few instructions, for tests that need a guest but no operating system.

The code runs in 32-bit protected mode, where a PVH kernel is entered, on the first CPU.
"""

from __future__ import annotations

import os
from pathlib import Path

from tests.unit.boot.images import MIB, kernel
from vmm import BootConfig, ConsoleConfig, DiskConfig, MachineConfig, MemoryConfig
from vmm.boot import layout

BASE = 16 * MIB
HALT = b"\xfa\xf4\xeb\xfd"  # cli; hlt; again
SPIN = b"\xeb\xfe"
LINE_STATUS = layout.COM1 + 5


def outb(port: int, value: int) -> bytes:
    """Write a byte to a port."""
    return b"\x66\xba" + port.to_bytes(2, "little") + bytes([0xB0, value, 0xEE])  # mov dx, port; mov al, value; out


def say(text: str) -> bytes:
    """Write to the serial port."""
    return b"".join(outb(layout.COM1, byte) for byte in text.encode())


POWEROFF = outb(layout.ACPI_SLEEP_CONTROL, layout.ACPI_POWER_OFF)
ACPI_RESET = outb(layout.ACPI_RESET, layout.ACPI_RESET_VALUE)
I8042_RESET = outb(layout.I8042_COMMAND, 0xFE)
PANIC = outb(layout.PVPANIC, 1)
# lidt of six zero bytes behind all code, then an exception that has no handler, and whose failure has none either
TRIPLE_FAULT = b"\x0f\x01\x1d" + (BASE + 0x1000).to_bytes(4, "little") + b"\x0f\x0b"
NOWHERE = b"\xb8" + (layout.MMIO + 0x800_0000).to_bytes(4, "little") + b"\xff\xe0"  # mov eax, ...; jmp eax
# wait for a byte, send it back, until it is an end of transmission
ECHO = (
    b"\x66\xba" + LINE_STATUS.to_bytes(2, "little") + b"\xec\xa8\x01\x74\xfb"  # in al, dx; test al, 1; jz to the in
    b"\x66\xba" + layout.COM1.to_bytes(2, "little") + b"\xec\xee\x3c\x04\x75\xed"  # in; out; cmp al, 4; jne the start
) + POWEROFF  # fmt: skip

AP_CODE, AP_COUNT, AP_STOP = 0x8000, 0x9000, 0x9004
# 16-bit code of the other CPUs: inc dword [AP_COUNT]; cmp byte [AP_STOP], 0; jz to the inc; then HALT
AP = b"\x66\xff\x06\x00\x90\x80\x3e\x04\x90\x00\x74\xf4" + HALT


def _ipi(command: int) -> bytes:
    return b"\xc7\x05" + (layout.LAPIC + 0x300).to_bytes(4, "little") + command.to_bytes(4, "little")


# with each byte that comes: INIT and start-up (vector 8) to all CPUs but this one; then send the byte back
START_APS = (
    b"\x66\xba" + LINE_STATUS.to_bytes(2, "little") + b"\xec\xa8\x01\x74\xfb"
    b"\x66\xba" + layout.COM1.to_bytes(2, "little") + b"\xec" + _ipi(0xC4500) + _ipi(0xC4608) + b"\xee\xeb\xdb"
)  # fmt: skip


def repeat(code: bytes, times: int) -> bytes:
    """Run *code* (up to 100 bytes) so often; it must leave ecx alone."""
    return b"\xb9" + times.to_bytes(4, "little") + code + b"\x49\x75" + bytes([256 - len(code) - 3])  # dec ecx; jnz


def forever(code: bytes) -> bytes:
    """Run *code* again and again."""
    return code + b"\xe9" + (-len(code) - 5).to_bytes(4, "little", signed=True)


def make(folder: Path, *code: bytes) -> str:
    """Write a kernel that runs *code* and halts; returns its path."""
    whole = b"".join(code) + HALT
    path = folder / "tiny.elf"
    path.write_bytes(kernel(whole.ljust(0x1000, b"\x90"), BASE, bss=0x1000))
    return str(path)


def config(
    kernel: str, *, cpus: int = 1, disks: tuple[DiskConfig, ...] = (), console: ConsoleConfig | None = None
) -> MachineConfig:
    """A machine of 32 MiB for such a kernel."""
    return MachineConfig(
        BootConfig(kernel), MemoryConfig(32 * MIB), cpus, disks=disks, console=console or ConsoleConfig()
    )


class Console:
    """What a guest prints, through a pipe."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        self.config = ConsoleConfig("fd", self.writer)

    def read(self, size: int) -> bytes:
        """The next *size* bytes."""
        data = b""
        while len(data) < size:
            data += os.read(self.reader, size - len(data))
        return data

    def close(self) -> None:
        os.close(self.reader)
        os.close(self.writer)


def two_disks(folder: Path) -> tuple[DiskConfig, DiskConfig]:
    """One that the guest may write and one that it may not, 1 MiB each that begins with ``at the time``."""
    written, read = folder / "written.img", folder / "read.img"
    for path in (written, read):
        path.write_bytes(b"at the time".ljust(1 << 20, b"\0"))
    return DiskConfig(str(written)), DiskConfig(str(read), read_only=True)
