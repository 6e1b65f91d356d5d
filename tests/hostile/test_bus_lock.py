"""Two vCPUs that poll a port all the time do not keep the host from taking devices out."""

from __future__ import annotations

import os
import threading

from vmm.devices.serial import Serial
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
