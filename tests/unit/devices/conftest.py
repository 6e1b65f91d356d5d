"""Guests with a serial port: the guest's side of a UART, the register accesses that drivers make."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator

import pytest

from vmm.devices import Serial
from vmm.events import EventFd, Loop

RBR = THR = DLL = 0
IER = DLM = 1
IIR = FCR = 2
LCR, MCR, LSR, MSR, SCR = 3, 4, 5, 6, 7

RDI, THRI, RLSI, MSI = 1, 2, 4, 8
IIR_MSI, IIR_NONE, IIR_THRE, IIR_RX, IIR_LINE = 0, 1, 2, 4, 6
DR, OE, BI, THRE, TEMT = 0x01, 0x02, 0x10, 0x20, 0x40
DTR, RTS, OUT1, OUT2, LOOP = 1, 2, 4, 8, 0x10
CTS, DSR, RI, DCD = 0x10, 0x20, 0x40, 0x80
DLAB = 0x80


class Guest:
    """A serial port and who programs it.

    :ivar loop: serves the port when :meth:`serving` is entered
    """

    def __init__(self, out_fd: int = -1, *, drop: bool = False) -> None:
        self.irq = EventFd()
        self.loop = Loop()
        self.serial = Serial(self.irq, out_fd=out_fd, drop=drop)
        self.serial.attach(self.loop)
        self._thread: threading.Thread | None = None

    def __getitem__(self, register: int) -> int:
        return self.serial.read(register, 1)

    def __setitem__(self, register: int, value: int) -> None:
        self.serial.write(register, 1, value)

    def interrupts(self) -> int:
        """Edges of the interrupt line since the last call."""
        return self.irq.clear()

    def source(self) -> int:
        """IIR without the bits that tell of the FIFO."""
        return self[IIR] & 0x0F

    def open_port(self) -> None:
        """What Linux's 8250 driver does when a process opens the tty (serial8250_do_startup, then set_termios)."""
        self[FCR] = 1
        self[FCR] = 7
        self[FCR] = 0
        for register in (LSR, RBR, IIR, MSR):
            self[register]
        self[LCR] = 3
        self[MCR] = OUT2
        self[IER] = THRI
        self[IIR]
        self[IER] = 0
        self[IER] = THRI
        self[IIR]
        self[IER] = 0
        for register in (LSR, RBR, IIR, MSR):
            self[register]
        self[LCR] = 3 | DLAB
        self[DLL], self[DLM] = 1, 0
        self[LCR] = 3
        self[FCR] = 1
        self[IER] = RLSI | RDI
        self[MCR] = OUT2 | DTR | RTS

    def handle(self, transmit: bytearray, received: bytearray) -> None:
        """The interrupt handler of that driver: loads of 16 bytes, THRI off when there is no more to send."""
        for _ in range(512):
            if self[IIR] & 1:
                return
            while self[LSR] & DR:
                received.append(self[RBR])
            self[MSR]
            if self[IER] & THRI and self[LSR] & THRE:
                load, transmit[:] = transmit[:16], transmit[16:]
                for byte in load:
                    self[THR] = byte
                if not transmit:
                    self[IER] = self[IER] & ~THRI
        raise AssertionError("too much work: IIR never says that all is done")

    def poll_out(self, data: bytes) -> None:
        """Send as Linux's console does: wait for THRE, write, restore IER at the end."""
        saved = self[IER]
        self[IER] = 0
        for byte in data:
            while not self[LSR] & THRE:
                pass
            self[THR] = byte
        self[IER] = saved

    def serve(self, until: Callable[[], bool]) -> None:
        """Run the loop until the condition holds; give up after ten seconds without an event."""
        while not until():
            assert self.loop.run_once(10), "nothing happens any more"

    def close(self) -> None:
        """Free everything."""
        self.serial.close()
        self.loop.close()
        self.irq.close()


def read_all(fd: int) -> bytes:
    """What is in a non-blocking descriptor now."""
    data = b""
    while True:
        try:
            part = os.read(fd, 65536)
        except BlockingIOError:
            return data
        if not part:
            return data
        data += part


@pytest.fixture
def guests() -> Iterator[Callable[..., Guest]]:
    """Makes guests and closes them."""
    made: list[Guest] = []

    def make(out_fd: int = -1, *, drop: bool = False) -> Guest:
        made.append(Guest(out_fd, drop=drop))
        return made[-1]

    yield make
    for guest in made:
        guest.close()


@pytest.fixture
def guest(guests: Callable[..., Guest]) -> Guest:
    """One whose output goes nowhere."""
    return guests()
