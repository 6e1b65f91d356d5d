"""Two vCPUs that poll a port all the time do not keep the host from taking devices out."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator

import pytest

from vmm.devices import Serial
from vmm.events import EventFd
from vmm.native import ffi, lib

COM1, LSR = 0x3F8, 5
PATIENCE = 60


def test_polls_of_a_full_uart_do_not_keep_a_device_in() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    while True:
        try:
            os.write(writer, bytes(65536))
        except BlockingIOError:
            break
    irq = EventFd()
    serial = Serial(irq, out_fd=writer)
    bus = lib.bus_new()
    lib.bus_add_uart(bus, COM1, serial.native)
    value = b"x" * 4096
    for byte in value:
        lib.bus_access(bus, lib.BUS_PIO, COM1, ffi.new("uint8_t *", byte), 1, True)
    ending = threading.Event()

    def poll() -> None:
        data = ffi.new("uint8_t *")
        while not ending.is_set():
            lib.bus_access(bus, lib.BUS_PIO, COM1 + LSR, data, 1, False)

    def take_out() -> None:
        for _ in range(100):
            lib.bus_move_window(bus, ffi.NULL, 0)

    vcpus = [threading.Thread(target=poll, daemon=True) for _ in range(2)]
    host = threading.Thread(target=take_out, daemon=True)
    for thread in (*vcpus, host):
        thread.start()
    host.join(PATIENCE)
    stuck = host.is_alive()
    ending.set()
    for thread in (*vcpus, host):
        thread.join(PATIENCE)
    serial.close()
    lib.bus_free(bus)
    for fd in (reader, writer):
        os.close(fd)
    irq.close()
    assert not stuck


# -- rule broken: a 16550 is accessed one byte at a time, at its eight ports, by one CPU -----------------------------


@pytest.fixture
def serial() -> Iterator[Serial]:
    irq = EventFd()
    serial = Serial(irq, out_fd=-1)
    yield serial
    serial.close()
    irq.close()


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_any_size_at_any_offset_stays_inside(serial: Serial, size: int) -> None:
    serial.write(7, 1, 0x5A)
    for offset in (*range(10), 0xFFFF, 1 << 63, (1 << 64) - 1):
        data = ffi.new("uint8_t[16]", b"\xee" * 16)
        assert lib.uart_access(serial.native, offset, data, size, False)
        assert bytes(data[size:16]) == b"\xee" * (16 - size), "wrote behind the access"
        if 8 <= offset <= 1 << 63:
            assert bytes(data[0:size]) == b"\xff" * size
        lib.uart_access(serial.native, offset, b"\x00" * size, size, True)


def test_a_wide_access_is_one_to_each_register(serial: Serial) -> None:
    serial.write(3, 1, 0x80)
    serial.write(0, 2, 0x1234)
    assert serial.read(0, 2) == 0x1234, "both bytes of the divisor"
    assert serial.read(0, 4) >> 24 == 0x80, "and LCR"


def test_no_bytes_is_no_access(serial: Serial) -> None:
    assert lib.uart_access(serial.native, 0, ffi.NULL, 0, False)
    assert lib.uart_access(serial.native, 0, ffi.NULL, 0, True)
    assert serial.stats()["tx_bytes"] == 0


def test_many_cpus_and_the_host_at_once() -> None:
    """Whatever they do, the counters add up and nothing waits for ever."""
    reader, writer = os.pipe()
    irq = EventFd()
    serial = Serial(irq, out_fd=writer, drop=True)
    os.set_blocking(writer, False)
    accepted = 0

    def guest(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(5000):
            size = chance.choice((1, 2, 4))
            offset = chance.randrange(9)
            if chance.random() < 0.5:
                serial.write(offset, size, chance.getrandbits(8 * size))
            else:
                serial.read(offset, size)

    def host() -> None:
        nonlocal accepted
        chance = random.Random(0)
        for _ in range(2000):
            accepted += serial.input(chance.randbytes(chance.randrange(64)))
            serial.flush()
            if chance.random() < 0.01:
                serial.restore(serial.save())
                serial.send_break()

    threads = [threading.Thread(target=guest, args=(seed,)) for seed in range(3)] + [threading.Thread(target=host)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stats = serial.stats()
    assert stats["rx_bytes"] + len(serial.save().payload["rx"]) <= accepted
    serial.close()
    os.close(writer)
    with open(reader, "rb") as pipe:
        assert len(pipe.read()) == stats["tx_bytes"]
    irq.close()
