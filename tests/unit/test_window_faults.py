"""A guest, of a few instructions, that reads where a file in the window of a device has lost its pages."""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from vmm import BootConfig, ConsoleConfig, Machine, MachineConfig, MemoryConfig, PmemConfig, create_machine
from vmm.boot import layout
from vmm.devices.pci_hotplug import GONE
from vmm.native import ffi, lib
from vmm.pci import spec as pci
from vmm.virtio.device import SharedRegion, VirtioDevice

MIB = 1 << 20
SLOT = lib.DAX_SLOT
BASE = 1 << 32
AT = BASE + SLOT - 4096 + 5
TIMEOUT = 20.0

WINDOW = pci.BASE_ADDRESS_0 + 8
FREE_PAGE = layout.PAGE_DIRECTORIES + 4 * 4096


def store(address: int, value: int) -> bytes:
    """mov rax, value; mov [address], rax."""
    return b"\x48\xb8" + value.to_bytes(8, "little") + b"\x48\x89\x04\x25" + address.to_bytes(4, "little")


# 64-bit code. The first 2 MiB of the fifth GiB are mapped where they are; then, for each byte on the console, the byte
# at AT
MAP = store(FREE_PAGE, BASE | 0x83) + store(layout.PDPT + 32, FREE_PAGE | 3)
ANSWER = (
    b"\x48\xbb" + AT.to_bytes(8, "little")  # mov rbx, AT
    + b"\x66\xba" + tiny.LINE_STATUS.to_bytes(2, "little") + b"\xec\xa8\x01\x74\xfb"  # in al, dx; test al, 1; jz
    + b"\x66\xba" + layout.COM1.to_bytes(2, "little") + b"\xec"  # take it
    + b"\x8a\x03\xee"  # mov al, [rbx]; out dx, al
)  # fmt: skip


class Window(VirtioDevice):
    """A device that has a window and nothing else."""

    device_id = 44
    queue_sizes = (16,)

    def __init__(self) -> None:
        error, ours, child = ffi.new("int *"), ffi.new("int *"), ffi.new("int *")
        self.native = lib.dax_new(2 * SLOT, error)
        address = int(ffi.cast("uintptr_t", lib.dax_window(self.native)))
        self.regions = {0: SharedRegion(address, 2 * SLOT, self.native)}
        assert lib.dax_pair(ours, child) == 0
        lib.dax_serve(self.native, ours[0])
        assert lib.dax_begin(self.native) == 0
        self.sock = socket.socket(fileno=int(child[0]))

    def map(self, path: Path, *, writable: bool) -> None:
        """The start of the file to the start of the window."""
        with open(path, "r+b") as file:
            socket.send_fds(self.sock, [struct.pack("<IIQQQ", 1, writable, 0, SLOT, 0)], [file.fileno()])
        assert self.sock.recv(4) == bytes(4)

    def close(self) -> None:
        self.sock.close()
        if self.native is not None:
            lib.dax_free(self.native)
            self.native = None


@pytest.mark.parametrize("writable", [True, False])
def test_it_reads_zeroes_and_then_what_comes_back(tmp_path: Path, writable: bool) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"A" * SLOT)
    kernel = tiny.make(tmp_path, MAP, tiny.forever(ANSWER))
    reader, writer = os.pipe()
    device = Window()
    boot = BootConfig(kernel, entry="linux64")
    config = MachineConfig(boot, MemoryConfig(32 * MIB), console=ConsoleConfig("fd", writer))
    with Machine(config, devices=(device,)) as machine:
        assert device.regions[0].gpa == BASE
        machine.start()

        def ask() -> bytes:
            assert machine.console_input(b"?") == 1
            return os.read(reader, 1)

        assert ask() == b"\0", "nothing is mapped"
        device.map(path, writable=writable)
        assert ask() == b"A"
        os.truncate(path, 4096)
        assert ask() == b"\0"
        path.write_bytes(b"B" * SLOT)
        end = time.monotonic() + TIMEOUT
        while ask() != b"B":
            assert time.monotonic() < end
            time.sleep(0.01)
        assert machine.wait(0) is None
    os.close(reader)
    os.close(writer)


def test_behind_the_end_of_a_file_that_was_short_when_it_was_mapped(tmp_path: Path) -> None:
    """It reads zeroes, and never waits for what does not come; or what the file has by then."""
    path = tmp_path / "file"
    path.write_bytes(b"A" * 4096)
    reader, writer = os.pipe()
    device = Window()
    boot = BootConfig(tiny.make(tmp_path, MAP, tiny.forever(ANSWER)), entry="linux64")
    with Machine(
        MachineConfig(boot, MemoryConfig(32 * MIB), console=ConsoleConfig("fd", writer)), devices=(device,)
    ) as machine:
        machine.start()

        def ask() -> bytes:
            assert machine.console_input(b"?") == 1
            return os.read(reader, 1)

        device.map(path, writable=True)
        path.write_bytes(b"B" * SLOT)
        assert ask() == b"B", "it has grown before anybody looked"
        path.write_bytes(b"C" * 4096)
        device.map(path, writable=True)
        assert ask() == b"\0"
        path.write_bytes(b"D" * SLOT)
        end = time.monotonic() + TIMEOUT
        while ask() != b"D":
            assert time.monotonic() < end
            time.sleep(0.01)
        assert machine.wait(0) is None
    os.close(reader)
    os.close(writer)


def test_a_window_on_pci_is_a_bar_that_decodes_where_the_guest_puts_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"A" * SLOT)
    reader, writer = os.pipe()
    device = Window()
    boot = BootConfig(tiny.make(tmp_path, MAP, tiny.forever(ANSWER)), entry="linux64")
    console = ConsoleConfig("fd", writer)
    config = MachineConfig(boot, MemoryConfig(32 * MIB), console=console, transport="pci")
    with Machine(config, devices=(device,)) as machine:
        assert device.regions[0].gpa == BASE

        def ask() -> bytes:
            assert machine.console_input(b"?") == 1
            return os.read(reader, 1)

        def write(register: int, value: int) -> None:
            """As a vCPU does it."""
            machine.mmio.write(layout.PCI_ECAM + (1 << pci.ECAM_SHIFT) + register, 4, value)

        machine.start()
        device.map(path, writable=True)
        for _ in range(2):
            assert ask() == b"\xff", "nothing decodes after power-on"
            write(pci.COMMAND, pci.COMMAND_MEMORY)
            assert ask() == b"A"
            os.truncate(path, 4096)
            assert ask() == b"\0", "its faults are found there"
            path.write_bytes(b"A" * SLOT)
            for place in (0, BASE + (1 << 30), 16 * MIB, (1 << 64) - (1 << 22)):
                write(WINDOW + 4, place >> 32)
                write(WINDOW, place & 0xFFFF_FFFF)
                assert ask() == b"\xff", hex(place)
            write(WINDOW, 0)
            write(WINDOW + 4, BASE >> 32)
            assert ask() == b"A"
            write(pci.COMMAND, 0)
            assert ask() == b"\xff"
            machine.reset()
        write(pci.COMMAND, pci.COMMAND_MEMORY)
        assert ask() == b"A"
        machine.pio.write(layout.PCI_HOTPLUG + GONE, 4, 1 << 1)
        assert device.native is None, "the guest has thrown it out"
        assert [ask() for _ in range(50)] == [b"\xff"] * 50
        assert machine.wait(0) is None
    os.close(reader)
    os.close(writer)


# -- a guest, of a few instructions, with an image as memory: what it writes, and what the file loses meanwhile


WRITE = b"\x48\xbb" + AT.to_bytes(8, "little") + b"\xc6\x03" + b"W"  # mov rbx, AT; mov byte [rbx], 'W'


@contextmanager
def running(folder: Path, image: Path, code: bytes, **options: Any) -> Iterator[tuple[Any, Any]]:
    reader, writer = os.pipe()
    boot = BootConfig(tiny.make(folder, MAP, code, tiny.forever(ANSWER)), entry="linux64")
    pmem = PmemConfig(str(image), options.pop("read_only", False))
    config = MachineConfig(
        boot, MemoryConfig(32 * MIB), console=ConsoleConfig("fd", writer), pmems=(pmem,), rng=None, **options
    )
    with create_machine(config) as machine:
        machine.start()

        def ask() -> bytes:
            assert machine.console_input(b"?") == 1
            assert select.select([reader], [], [], TIMEOUT)[0]
            return os.read(reader, 1)

        yield machine, ask
        assert machine.wait(0) is None
    os.close(reader)
    os.close(writer)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_bytes(b"A" * (2 * MIB))
    return path


@pytest.mark.parametrize("transport", ["mmio", "pci"])
def test_the_guest_reads_and_writes_the_file(tmp_path: Path, image: Path, transport: str) -> None:
    with running(tmp_path, image, b"", transport=transport) as (machine, ask):
        assert ask() == b"A"
        device: Any = machine.attached[0].device
        assert device.region.gpa == BASE
    with running(tmp_path, image, WRITE, transport=transport) as (_, ask):
        assert ask() == b"W"
    data = image.read_bytes()
    assert (data[AT - BASE : AT - BASE + 1], data.count(b"A")) == (b"W", 2 * MIB - 1)


def test_writes_to_a_read_only_image_go_nowhere(tmp_path: Path, image: Path) -> None:
    with running(tmp_path, image, WRITE, read_only=True) as (_, ask):
        assert ask() == b"A"
    assert image.read_bytes() == b"A" * (2 * MIB)


@pytest.mark.parametrize("read_only", [True, False])
def test_a_file_cut_short_does_not_end_the_machine(tmp_path: Path, image: Path, read_only: bool) -> None:
    with running(tmp_path, image, b"", read_only=read_only) as (machine, ask):
        assert ask() == b"A"
        os.truncate(image, 4096)
        assert ask() == b"\0"
        image.write_bytes(b"B" * (2 * MIB))
        device: Any = machine.attached[0].device
        assert device.stats()["cuts"] == 1


@pytest.mark.parametrize("read_only", [True, False])
def test_a_file_cut_short_does_not_end_a_machine_in_a_jail(tmp_path: Path, image: Path, read_only: bool) -> None:
    """Its vCPU looks how long the file is: there is no driver, and so no worker."""
    with running(tmp_path, image, b"", read_only=read_only, isolation="process") as (_, ask):
        assert ask() == b"A"
        os.truncate(image, 4096)
        assert ask() == b"\0"


def test_a_guest_that_throws_its_image_out(tmp_path: Path, image: Path) -> None:
    """Nobody asks what is gone, whatever the guest does at its addresses."""
    with running(tmp_path, image, b"", transport="pci") as (machine, ask):
        assert ask() == b"A"
        machine.pio.write(layout.PCI_HOTPLUG + GONE, 4, 1 << 1)  # as a vCPU does it
        assert machine.attached == []
        assert [ask() for _ in range(50)] == [b"\xff"] * 50
