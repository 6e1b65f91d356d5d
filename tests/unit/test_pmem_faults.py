"""A guest, of a few instructions, with an image as memory: what it writes, and what the file loses meanwhile."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.unit.test_window_faults import ANSWER, AT, BASE, MAP, MIB
from vmm import BootConfig, ConsoleConfig, Machine, MachineConfig, MemoryConfig, PmemConfig
from vmm.boot import layout
from vmm.devices.pci_hotplug import GONE

WRITE = b"\x48\xbb" + AT.to_bytes(8, "little") + b"\xc6\x03" + b"W"  # mov rbx, AT; mov byte [rbx], 'W'


@contextmanager
def running(folder: Path, image: Path, code: bytes, **options: Any) -> Iterator[tuple[Machine, Any]]:
    reader, writer = os.pipe()
    boot = BootConfig(tiny.make(folder, MAP, code, tiny.forever(ANSWER)), entry="linux64")
    pmem = PmemConfig(str(image), options.pop("read_only", False))
    config = MachineConfig(
        boot, MemoryConfig(32 * MIB), console=ConsoleConfig("fd", writer), pmems=(pmem,), rng=None, **options
    )
    with Machine(config) as machine:
        machine.start()

        def ask() -> bytes:
            assert machine.console_input(b"?") == 1
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


def test_a_guest_that_throws_its_image_out(tmp_path: Path, image: Path) -> None:
    """Nobody asks what is gone, whatever the guest does at its addresses."""
    with running(tmp_path, image, b"", transport="pci") as (machine, ask):
        assert ask() == b"A"
        machine.pio.write(layout.PCI_HOTPLUG + GONE, 4, 1 << 1)  # as a vCPU does it
        assert machine.attached == []
        assert [ask() for _ in range(50)] == [b"\xff"] * 50
