"""Kernels of a few instructions, for tests that need a guest but no operating system; and one that attacks.

The code runs in 32-bit protected mode, where a PVH kernel is entered, on the first CPU.
"""

from __future__ import annotations

import os
import subprocess
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


def store(address: int, value: int) -> bytes:
    """Write 32 bits to memory."""
    return b"\xc7\x05" + address.to_bytes(4, "little") + value.to_bytes(4, "little")


def count_stolen(place: int) -> bytes:
    """Have KVM count the time that is stolen from this vCPU at *place*: MSR_KVM_STEAL_TIME."""
    # mov ecx, 0x4b564d03; mov eax, place | 1; xor edx, edx; wrmsr
    return b"\xb9\x03\x4d\x56\x4b\xb8" + (place | 1).to_bytes(4, "little") + b"\x31\xd2\x0f\x30"


def drive(slot: int) -> bytes:
    """Be the driver of the virtio-mmio device in that slot, which takes VERSION_1 and uses no queue."""
    at = layout.MMIO + slot * 0x1000
    writes = ((0x70, 0), (0x70, 1), (0x70, 3), (0x24, 1), (0x20, 1), (0x70, 11), (0x70, 15))
    return b"".join(store(at + register, value) for register, value in writes)


def _ipi(command: int) -> bytes:
    return store(layout.LAPIC + 0x300, command)


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
    """Write a kernel that runs *code* and halts; returns its path, which is the same for all kernels of a folder.

    A file with these bytes stays: until a machine is started, it may read its kernel, and refuses one that changes.
    """
    whole = b"".join(code) + HALT
    path = folder / "tiny.elf"
    data = kernel(whole.ljust(0x1000, b"\x90"), BASE, bss=0x1000)
    if not path.exists() or path.read_bytes() != data:
        path.write_bytes(data)
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


ATTACK = r"""
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;

asm(".globl start\n.section .text.start\nstart: cld\n cli\n mov $stacks + 0x2000, %esp\n call first\n"
    "ap16: .code16\n cli\n xor %ax, %ax\n mov %ax, %ds\n lgdtl 0x8000 + gdtr - ap16\n"
    " mov $1, %eax\n mov %eax, %cr0\n ljmpl $8, $ap32\n"
    "gdtr: .word 23\n .long gdt\n ap_end: .code32\n"
    "ap32: mov $16, %eax\n mov %eax, %ds\n mov %eax, %es\n mov %eax, %ss\n mov $stacks + 0x4000, %esp\n call second\n"
    ".align 8\ngdt: .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff\n.text\n");

extern u8 ap16[], ap_end[];
__attribute__((section(".data"))) u8 stacks[0x4000] = { 1 };
static volatile u32 done;

static u32 next(u32 *s)
{
	*s ^= *s << 13, *s ^= *s >> 17, *s ^= *s << 5;
	return *s;
}

static void access(u32 at, u32 size, u32 write, u32 value)
{
	if (size == 1 && write) *(volatile u8 *)at = (u8)value;
	else if (size == 2 && write) *(volatile u16 *)at = (u16)value;
	else if (write) *(volatile u32 *)at = value;
	else if (size == 1) (void)*(volatile u8 *)at;
	else if (size == 2) (void)*(volatile u16 *)at;
	else (void)*(volatile u32 *)at;
}

static u32 rd(u32 at) { return *(volatile u32 *)at; }
static void wr(u32 at, u32 value) { *(volatile u32 *)at = value; }
static void wr8(u32 at, u32 value) { *(volatile u8 *)at = (u8)value; }
static void wr16(u32 at, u32 value) { *(volatile u16 *)at = (u16)value; }
static void out(u32 port, u32 size, u32 value)
{
	if (size == 1) asm volatile("outb %b0, %w1" ::"a"(value), "d"(port));
	else if (size == 2) asm volatile("outw %w0, %w1" ::"a"(value), "d"(port));
	else asm volatile("outl %0, %w1" ::"a"(value), "d"(port));
}
static u32 in(u32 port, u32 size)
{
	u32 value = 0;
	if (size == 1) asm volatile("inb %w1, %b0" : "=a"(value) : "d"(port));
	else if (size == 2) asm volatile("inw %w1, %w0" : "=a"(value) : "d"(port));
	else asm volatile("inl %w1, %0" : "=a"(value) : "d"(port));
	return value;
}

/* Below 4 MiB, or in DATA: what a device writes there, or takes away, is not this program. */
static u32 some(u32 *s)
{
	u32 r = next(s);
	switch (r & 7) {
	case 0: return r >> 8 & 7;
	case 1: return r >> 8 & 0x3ff;
	case 2: case 3: return DATA + (r >> 8) % (DATA_SIZE / 16) * 16;
	case 4: return 0xfffff000 | r >> 8;
	case 5: return 0x80000000 | r >> 3;
	case 6: return DATA + DATA_SIZE - (r >> 8 & 0x1f);
	default: return 1u << (r >> 8 & 31) & ~0x600000u;
	}
}

static u32 ring(u32 slot, u32 q) { return DATA + (slot * 4 + (q & 3)) * 0x4000; }

static void empty(u32 at)
{
	wr(at + 0x2000, 0), wr(at + 0x3000, 0);
}

/* Which half of a device's features is read, and that; the same of those that the driver takes: as a rule all. */
static void take_features(u32 *s, u32 select, u32 device, u32 take_select, u32 take)
{
	for (u32 i = 0; i < 2; i++) {
		wr(select, i);
		u32 features = rd(device);
		if (!(next(s) & 3)) features &= next(s) | i;
		wr(take_select, i), wr(take, features);
	}
}

static void driver(u32 *s, u32 slot)
{
	u32 at = MMIO + slot * 0x1000, queues = 1 + (next(s) & 3);

	wr(at + 0x70, 0), wr(at + 0x70, 1), wr(at + 0x70, 3);
	take_features(s, at + 0x14, at + 0x10, at + 0x24, at + 0x20);
	wr(at + 0x70, 11);
	for (u32 q = 0; q < queues; q++) {
		wr(at + 0x30, q);
		wr(at + 0x38, next(s) & 7 ? 16 : 1u << (next(s) & 7));
		wr(at + 0x80, ring(slot, q)), wr(at + 0x84, 0), wr(at + 0x90, ring(slot, q) + 0x2000), wr(at + 0x94, 0);
		wr(at + 0xa0, ring(slot, q) + 0x3000), wr(at + 0xa4, 0);
		empty(ring(slot, q));
		wr(at + 0x44, 1);
	}
	wr(at + 0x70, 15);
}

static u32 bar(u32 slot) { return PCI_WINDOW + slot * 0x4000; }

static void pci_driver(u32 *s, u32 slot)
{
	u32 config = PCI_ECAM + (slot << 15), at = bar(slot), queues = 1 + (next(s) & 3);

	if ((rd(config) & 0xffff) != 0x1af4) return;
	wr(config + 0x10, at), wr16(config + 4, 6);
	wr8(at + 20, 0), wr8(at + 20, 1), wr8(at + 20, 3);
	take_features(s, at, at + 4, at + 8, at + 12);
	wr8(at + 20, 11);
	for (u32 q = 0; q < queues; q++) {
		wr16(at + 22, q);
		wr16(at + 24, next(s) & 7 ? 16 : 1u << (next(s) & 7));
		wr(at + 32, ring(slot, q)), wr(at + 36, 0), wr(at + 40, ring(slot, q) + 0x2000), wr(at + 44, 0);
		wr(at + 48, ring(slot, q) + 0x3000), wr(at + 52, 0);
		empty(ring(slot, q));
		wr16(at + 28, 1);
	}
	wr8(at + 20, 15);
}

/* Requests of three buffers, in every eighth of which something is wrong, for a queue of 16; then a notification. */
static void requests(u32 *s, u32 slot)
{
	u32 q = next(s) & 3, at = ring(slot, q), n = 1 + (next(s) & 3), writable = next(s) & 3 ? 2 : 0;

	while (n--) {
		u32 head = (next(s) & 3) * 4, d = at + head * 16, buffer = BUFFERS + (next(s) & 0xfff0);
		u16 idx = *(volatile u16 *)(at + 0x2002);

		for (u32 i = 0; i < 12; i++) wr(buffer + i * 4, next(s) & 3 ? next(s) & 0x3f : some(s));
		for (u32 i = 0; i < 3; i++, d += 16) {
			wr(d, i ? BUFFERS + (next(s) & 0xffff0) : buffer), wr(d + 4, 0);
			wr(d + 8, i == 1 ? 512 * (1 + (next(s) & 7)) : next(s) & 1 ? 16 : 8 << (next(s) & 3));
			wr(d + 12, (i < 2) | (i ? writable : 0) | (head + i + 1) << 16);
		}
		if (!(next(s) & 7)) access(at + head * 16 + (next(s) & 63), 1u << next(s) % 3, 1, some(s));
		wr16(at + 0x2004 + (idx & 15) * 2, next(s) & 63 ? head : some(s));
		wr16(at + 0x2002, next(s) & 63 ? idx + 1 : some(s));
	}
	if (PCI) wr16(bar(slot) + 0x2000 + q * 4, q);
	else wr(MMIO + slot * 0x1000 + 0x50, q);
}

static u32 is_end(u32 port, u32 size)
{
	const u16 ends[] = { 0x64, 0x505, 0x600, 0x602 };

	for (u32 i = 0; i < 4; i++)
		if (port <= ends[i] && ends[i] < port + size) return 1;
	return 0;
}

static void attack(u32 s)
{
	for (u32 n = 0; n < STEPS; n++) {
		u32 r = next(&s), slot = (r >> 8) % SLOTS, size = 1u << (r >> 16 & 3) % 3, port;

		switch (r & 15) {
		case 0:
			PCI ? pci_driver(&s, slot) : driver(&s, slot);
			/* fall through */
		case 1: case 2: case 3: case 4: case 5: case 6: case 7:
			requests(&s, slot);
			break;
		case 8:
			access(ring(slot, next(&s)) + (next(&s) & 0x3ffc), size, 1, some(&s));
			break;
		case 9: case 10:
			if (PCI) access(bar(slot) + (next(&s) & 0x3fff), size, r >> 20 & 1, some(&s));
			else access(MMIO + slot * 0x1000 + (next(&s) & (r >> 21 & 1 ? 0xfff : 0x1ff)), size, r >> 20 & 1, some(&s));
			break;
		case 11:
			port = next(&s) & (r >> 21 & 1 ? 0xfff : 0xff);
			if (PCI) access(PCI_ECAM + (slot << 15) + port, size, r >> 20 & 1, some(&s));
			break;
		case 12:
			wr(BUFFERS + (next(&s) & 0xffff0), some(&s));
			break;
		default:
			port = r >> 21 & 1 ? 0x3f8 + (next(&s) & 7) : r >> 22 & 1 ? 0x600 + (next(&s) & 0x3f) : next(&s) & 0xffff;
			if (is_end(port, size) || (port / 4 == 0x628 / 4 && n < STEPS / 4 * 3)) break; /* devices go late */
			if (r >> 20 & 1) out(port, size, some(&s)); else in(port, size);
		}
	}
}

static void say(const char *text)
{
	for (; *text; text++) {
		while (!(in(0x3fd, 1) & 0x20)) ;
		out(0x3f8, 1, (u8)*text);
	}
}

void second(void)
{
	attack(SEED * 7 + 5);
	done = 1;
	for (;;) asm volatile("cli; hlt");
}

void first(void)
{
	for (u32 i = 0; i < (u32)(ap_end - ap16); i++) ((volatile u8 *)0x8000)[i] = ap16[i];
	wr(0xfee00300, 0xc4500), wr(0xfee00300, 0xc4608);
	attack(SEED * 3 + 1);
	while (!done) ;
	out(0x3fb, 1, 3), out(0x3f9, 1, 0), out(0x3fa, 1, 0), out(0x3fc, 1, 0);
	say("\nattacked\n");
	for (;;) asm volatile("cli; hlt");
}
"""
"""A guest that attacks, from two CPUs at once: it sets devices up as a driver does, or not quite, gives them requests
of which some are wrong, and changes descriptors, registers, configuration space, ports and buffers meanwhile.

STEPS of each CPU follow from SEED.  What ends a machine is left out, and the message of an MSI-X vector, which could
be an INIT for its own CPUs."""


def attack(folder: Path, *, pci: bool, steps: int, seed: int) -> str:
    """Write a kernel that does so, says "attacked" and halts; returns its path."""
    base, data = 6 * MIB, 20 * MIB
    values = {"PCI": int(pci), "SLOTS": 10, "STEPS": steps, "SEED": seed}
    values |= {"MMIO": layout.MMIO, "PCI_WINDOW": layout.PCI_WINDOW, "PCI_ECAM": layout.PCI_ECAM}
    values |= {"DATA": data, "DATA_SIZE": 8 * MIB, "BUFFERS": data + 2 * MIB}
    source, parts, whole, flat = (folder / f"attack.{end}" for end in ("c", "o", "whole", "flat"))
    source.write_text(ATTACK)
    flags = ["-m32", "-O1", "-ffreestanding", "-fno-pic", "-fno-pie", "-fno-stack-protector", "-mno-sse", "-mno-mmx"]
    flags += ["-fno-asynchronous-unwind-tables", *(f"-D{name}={value}u" for name, value in values.items())]
    subprocess.run(["gcc", *flags, "-c", source, "-o", parts], check=True)
    link = ["ld", "-m", "elf_i386", "-N", "--no-warn-rwx-segments", f"-Ttext={base + 16:#x}", "-e", "start"]
    subprocess.run([*link, "-o", whole, parts], check=True)
    subprocess.run(["objcopy", "-O", "binary", whole, flat], check=True)
    entry = int.from_bytes(whole.read_bytes()[24:28], "little")
    jump = b"\xe9" + (entry - base - 5).to_bytes(4, "little", signed=True)
    path = folder / "attack.elf"
    path.write_bytes(kernel(jump.ljust(16, b"\x90") + flat.read_bytes(), base, bss=0x1000))
    for each in (source, parts, whole, flat):
        each.unlink()
    return str(path)
