"""Address ranges: the Python bus and the C bus answer alike; and timers of the control loop."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from vmm.bus import Bus, BusDevice
from vmm.errors import ConfigError
from vmm.events import EventFd, Loop
from vmm.native import ffi, lib


class Memory(BusDevice):
    """Remembers the last write; reads give the offset."""

    name = "memory"
    written: tuple[int, int, int] | None = None

    def read(self, offset: int, size: int) -> int:
        return offset

    def write(self, offset: int, size: int, value: int) -> None:
        self.written = (offset, size, value)


def test_an_access_reaches_its_device_with_the_offset() -> None:
    bus, device = Bus("mmio"), Memory()
    bus.add(0x1000, 0x10, device)
    bus.write(0x100C, 4, 7)
    assert device.written == (0xC, 4, 7)
    assert bus.read(0x1003, 1) == 3


@pytest.mark.parametrize("address,size", [(0xFFF, 1), (0x1010, 1), (0x100E, 4), (0xFFE, 4)])
def test_what_is_not_wholly_inside_a_range_reads_as_ones(address: int, size: int) -> None:
    bus, device = Bus("mmio"), Memory()
    bus.add(0x1000, 0x10, device)
    assert bus.read(address, size) == (1 << 8 * size) - 1
    bus.write(address, size, 1)
    assert device.written is None


@pytest.mark.parametrize("base,size", [(0x1000, 1), (0xFFF, 2), (0x100F, 1), (0, 0x10000)])
def test_ranges_do_not_overlap(base: int, size: int) -> None:
    bus = Bus("pio")
    bus.add(0x1000, 0x10, Memory())
    with pytest.raises(ConfigError, match="overlaps memory"):
        bus.add(base, size, Memory())


def test_a_removed_device_is_gone() -> None:
    bus, device = Bus("pio"), Memory()
    bus.add(0x10, 1, device)
    bus.add(0x20, 1, device)
    bus.remove(device)
    assert bus.ranges() == ()
    assert bus.read(0x10, 1) == 0xFF


@pytest.fixture
def native() -> Iterator[Any]:
    bus = lib.bus_new()
    yield bus
    lib.bus_free(bus)


def access(bus: Any, space: int, address: int, data: bytes, write: bool) -> tuple[int, bytes]:
    buffer = ffi.new("uint8_t[8]", data)
    return lib.bus_access(bus, space, address, buffer, len(data), write), bytes(ffi.buffer(buffer, len(data)))


def test_a_register_page_answers_reads_and_acknowledges_interrupts(native: Any) -> None:
    page = ffi.new("uint32_t[1024]")
    page[0] = 0x74726976
    page[0x60 // 4] = 3
    assert lib.bus_add_regpage(native, 0xD0000000, 4096, ffi.cast("uint8_t *", page)) == 0
    mmio = lib.BUS_MMIO
    assert access(native, mmio, 0xD0000000, bytes(4), False) == (lib.BUS_DONE, b"virt")
    assert access(native, mmio, 0xD0000001, bytes(2), False) == (lib.BUS_DONE, b"ir")
    assert access(native, mmio, 0xD0000064, b"\2", True)[0] == lib.BUS_TO_PYTHON, "only a 32-bit write acknowledges"
    assert access(native, mmio, 0xD0000070, b"\3\0\0\0", True)[0] == lib.BUS_TO_PYTHON
    assert page[0x60 // 4] == 3
    assert access(native, mmio, 0xD0000064, b"\3\0\0\0", True)[0] == lib.BUS_DONE
    assert page[0x60 // 4] == 1, "the bit of used buffers stays"


@pytest.mark.parametrize("address,length", [(0xD0000FFD, 4), (0xCFFFFFFF, 2), (0xD0001000, 1), ((1 << 64) - 1, 2)])
def test_nothing_outside_the_page_is_read(native: Any, address: int, length: int) -> None:
    page = ffi.new("uint8_t[8192]", b"\x11" * 8192)
    assert lib.bus_add_regpage(native, 0xD0000000, 4096, page) == 0
    assert access(native, lib.BUS_MMIO, address, bytes(length), False) == (lib.BUS_UNCLAIMED, b"\xff" * length)


def test_ranges_of_the_c_bus_do_not_overlap_and_can_be_taken_away(native: Any) -> None:
    pio = lib.BUS_PIO
    assert lib.bus_add_python(native, pio, 0x60, 5) == 0
    assert lib.bus_add_python(native, pio, 0x64, 1) < 0
    assert lib.bus_add_python(native, pio, 0x65, 0) < 0
    assert lib.bus_add_python(native, pio, (1 << 64) - 1, 2) < 0
    assert access(native, pio, 0x64, b"\xfe", True)[0] == lib.BUS_TO_PYTHON
    assert lib.bus_remove(native, pio, 0x60) == 0
    assert lib.bus_remove(native, pio, 0x60) < 0
    assert access(native, pio, 0x64, b"\xfe", True)[0] == lib.BUS_UNCLAIMED


# -- PCI -----------------------------------------------------------------------------------------------------------

ECAM = 0xE000_0000


@pytest.fixture
def ecam(native: Any) -> Iterator[Any]:
    """Two functions, 0 and 3; reading 0x50 .. 0x54 of the second does something."""
    ecam = ffi.new("struct ecam *")
    pages = [ffi.new("uint8_t[4096]", bytes(range(256)) * 16) for _ in range(2)]
    ecam.page[0], ecam.page[3] = pages
    ecam.trap[3] = 0x50
    assert lib.bus_add_ecam(native, ECAM, ecam) == 0
    yield ecam
    lib.bus_remove(native, lib.BUS_MMIO, ECAM)


@pytest.mark.usefixtures("ecam")
@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_configuration_space_is_read_from_its_page(native: Any, size: int) -> None:
    for slot in (0, 3):
        for at in (0, 1, 2, 4, 0x4F - size, 0x54, 0xFFF, 4096 - size):
            expected = bytes((at + i) % 256 for i in range(size)) if at + size <= 4096 else b"\xff" * size
            got = access(native, lib.BUS_MMIO, ECAM + (slot << 15) + at, bytes(size), False)
            assert got == (lib.BUS_DONE, expected)


@pytest.mark.usefixtures("ecam")
def test_where_no_function_is_everything_is_ones_and_writes_are_lost(native: Any) -> None:
    for slot in range(32):
        for function in range(8):
            if slot in (0, 3) and function == 0:
                continue
            address = ECAM + (slot << 15) + (function << 12)
            for offset in (0, 0x10, 0xFFC):
                assert access(native, lib.BUS_MMIO, address + offset, bytes(4), False) == (lib.BUS_DONE, b"\xff" * 4)
                assert access(native, lib.BUS_MMIO, address + offset, bytes(4), True)[0] == lib.BUS_DONE
    assert access(native, lib.BUS_MMIO, ECAM + (1 << 20), bytes(4), False)[0] == lib.BUS_UNCLAIMED
    assert access(native, lib.BUS_MMIO, ECAM + (1 << 20) - 2, bytes(4), False)[0] == lib.BUS_UNCLAIMED


@pytest.mark.usefixtures("ecam")
def test_writes_and_reads_with_an_effect_go_to_python(native: Any) -> None:
    base = ECAM + (3 << 15)
    assert access(native, lib.BUS_MMIO, base + 4, b"\2\0", True)[0] == lib.BUS_TO_PYTHON
    for at, size in ((0x50, 1), (0x53, 1), (0x4F, 2), (0x50, 4), (0x4C, 8), (0x53, 8)):
        assert access(native, lib.BUS_MMIO, base + at, bytes(size), False)[0] == lib.BUS_TO_PYTHON
    assert access(native, lib.BUS_MMIO, ECAM + 0x50, bytes(4), False)[0] == lib.BUS_DONE, "the other has no such bytes"


def test_a_function_that_goes_reads_as_ones(native: Any, ecam: Any) -> None:
    ecam.page[3] = ffi.NULL
    assert access(native, lib.BUS_MMIO, ECAM + (3 << 15), bytes(2), False) == (lib.BUS_DONE, b"\xff\xff")


def test_the_beginning_of_a_bar_is_read_from_its_page(native: Any) -> None:
    page = ffi.new("uint8_t[4096]", bytes(range(256)) * 16)
    assert lib.bus_add_bar(native, 0xC010_0000, 0x4000, page) == 0
    assert access(native, lib.BUS_MMIO, 0xC010_0014, bytes(1), False) == (lib.BUS_DONE, b"\x14")
    for at, size, write in (
        (0x14, 1, True),
        (0x100, 1, False),
        (0xFE, 4, False),
        (0x2000, 2, True),
        (0x3FFC, 4, False),
    ):
        assert access(native, lib.BUS_MMIO, 0xC010_0000 + at, bytes(size), write)[0] == lib.BUS_TO_PYTHON
    assert access(native, lib.BUS_MMIO, 0xC010_3FFE, bytes(4), False)[0] == lib.BUS_UNCLAIMED
    assert lib.bus_add_bar(native, 0xC010_2000, 0x4000, page) < 0, "taken"
    assert lib.bus_add_bar(native, 0xC020_0000, 16, page) < 0, "smaller than what is read of it"


# -- the control loop --------------------------------------------------------------------------------------------------

LONG = 3600.0


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


def test_a_timer_rings_once(loop: Loop) -> None:
    rung: list[int] = []
    loop.call_later(0, lambda: rung.append(1))
    for _ in range(3):
        loop.run_once(0)
    assert rung == [1]


def test_timers_ring_although_no_descriptor_is_ready_and_stop_a_wait(loop: Loop) -> None:
    loop.call_later(0.01, loop.stop)
    loop.call_later(LONG, lambda: pytest.fail("too early"))
    loop.run()


def test_a_timer_that_is_set_by_another_thread_wakes_the_loop(loop: Loop) -> None:
    waits = threading.Event()
    event = EventFd()

    def tell(_events: int) -> None:
        event.clear()
        waits.set()

    loop.add(event.fd, tell)
    thread = threading.Thread(target=loop.run)
    thread.start()
    event.signal()
    assert waits.wait(60)
    loop.call_later(0.01, loop.stop)
    thread.join(60)
    assert not thread.is_alive()
    event.close()


def test_a_cancelled_timer_does_not_ring(loop: Loop) -> None:
    rung: list[str] = []
    other = loop.call_later(0, lambda: rung.append("cancelled"))
    loop.call_later(0, lambda: rung.append("rung"))
    other.cancel()
    loop.run_once(0)
    loop.run_once(0)
    assert rung == ["rung"]
    other.cancel()


def test_a_timer_may_set_another_one(loop: Loop) -> None:
    def again() -> None:
        loop.call_later(0, loop.stop)

    loop.call_later(0, again)
    loop.run()
