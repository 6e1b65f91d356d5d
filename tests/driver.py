"""The guest's side of virtio over real guest RAM: what a driver does, good or bad, without a guest.

:class:`Guest` is a machine without CPUs: RAM, a control loop in its own thread, one device behind a real
:class:`MmioRegisters`, with real eventfds as kicks and irq.  :mod:`tests.driver_queue` has its queues.
Everything can also be done wrongly: the raw parts are open to tests, fuzzers and benchmarks.
"""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Self

from tests.driver_queue import Buffer, DriverQueue, PackedQueue, Used
from vmm.events import EventFd, Loop
from vmm.memory import GuestMemory
from vmm.virtio import spec
from vmm.virtio.device import VirtioDevice
from vmm.virtio.mmio import MmioRegisters
from vmm.virtio.pci import PciRegisters
from vmm.virtio.transport import Transport

__all__ = ["ALL_STATUS", "FIRST_FREE", "RAM", "TIMEOUT", "Buffer", "DriverQueue", "Guest", "PackedQueue", "Used"]

TIMEOUT = 20.0
"""Seconds after which something that must happen has not happened."""
RAM = 16 << 20
FIRST_FREE = 0x10000
ALL_STATUS = spec.ACKNOWLEDGE | spec.DRIVER | spec.FEATURES_OK | spec.DRIVER_OK


class Guest:
    """A driver with its device.  A context manager.

    :param memory: RAM of another size or kind; closed with the guest
    :cvar packed: the device offers packed virtqueues, and unless it is told otherwise the driver takes them
    """

    packed: ClassVar[bool] = False

    def __init__(self, device: VirtioDevice, *, memory: GuestMemory | None = None) -> None:
        self.device = device
        self.memory = memory or GuestMemory(RAM, shared=device.shares_memory)
        self.loop = Loop()
        self.irq = EventFd()
        self.kicks = [EventFd() for _ in device.queue_sizes]
        self.registers: Any = self.make_registers()
        self.transport: Transport = self.registers.transport
        self.queues: dict[int, DriverQueue] = {}
        self.features = 0
        self.error: BaseException | None = None
        """What stopped the loop: a bug in a device."""
        self._free = FIRST_FREE
        self._thread = threading.Thread(target=self._run, name="loop", daemon=True)
        self._thread.start()

    def make_registers(self) -> MmioRegisters | PciRegisters:
        return MmioRegisters(self.device, self.memory, self.loop, self.irq, self.kicks, packed=self.packed)

    def _run(self) -> None:
        try:
            self.loop.run()
        except BaseException as error:
            self.error = error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.close()
        if self.error is not None and kind is None:
            raise self.error

    def close(self) -> None:
        """As a machine does it: no exits any more, then the loop, devices, memory."""
        self.loop.stop()
        self._thread.join(TIMEOUT)
        self.transport.close()
        self.loop.close()
        for fd in (self.irq, *self.kicks):
            fd.close()
        self.memory.close()

    # -- registers -------------------------------------------------------------------------------------------

    def read(self, register: int, size: int = 4) -> int:
        """What the guest reads."""
        return int(self.registers.read(register, size))

    def write(self, register: int, value: int, size: int = 4) -> None:
        """A write that exits."""
        self.registers.write(register, size, value)

    @property
    def status(self) -> int:
        return self.read(spec.MMIO_STATUS)

    @status.setter
    def status(self, value: int) -> None:
        self.write(spec.MMIO_STATUS, value)

    def offered(self) -> int:
        """All feature bits of the device."""
        features = 0
        for word in (0, 1):
            self.write(spec.MMIO_DEVICE_FEATURES_SEL, word)
            features |= self.read(spec.MMIO_DEVICE_FEATURES) << (32 * word)
        return features

    def config(self, offset: int, size: int) -> int:
        """A field of the configuration space, as Linux reads it: 64 bits in halves, under one generation."""
        while True:
            before = self.read(spec.MMIO_CONFIG_GENERATION)
            step = min(size, 4)
            parts = [self.read(spec.MMIO_CONFIG + offset + at, step) for at in range(0, size, step)]
            if self.read(spec.MMIO_CONFIG_GENERATION) == before:
                return sum(part << (32 * index) for index, part in enumerate(parts))

    def select_features(self, features: int) -> None:
        """Write the driver's feature bits; what is made afterwards follows them."""
        self.features = features
        for word in (0, 1):
            self.write(spec.MMIO_DRIVER_FEATURES_SEL, word)
            self.write(spec.MMIO_DRIVER_FEATURES, features >> (32 * word) & 0xFFFF_FFFF)

    # -- bringing the device up (3.1.1) ----------------------------------------------------------------------

    def reset(self) -> None:
        self.status = 0
        self.queues.clear()
        while self.irq.clear():
            pass

    def negotiate(self, features: int | None = None) -> bool:
        """Up to FEATURES_OK, with all that is offered unless *features* says otherwise; False: refused."""
        self.reset()
        self.status = spec.ACKNOWLEDGE
        self.status |= spec.DRIVER
        self.select_features(self.offered() if features is None else features)
        self.status |= spec.FEATURES_OK
        return bool(self.status & spec.FEATURES_OK)

    def add_queue(self, index: int = 0, size: int | None = None) -> DriverQueue:
        """Set a queue up; before DRIVER_OK."""
        self.write(spec.MMIO_QUEUE_SEL, index)
        kind = PackedQueue if self.features & spec.F_RING_PACKED else DriverQueue
        queue = kind(self, index, size or self.read(spec.MMIO_QUEUE_NUM_MAX))
        self.write_queue(queue.size, queue.desc, queue.avail, queue.used)
        self.queues[index] = queue
        return queue

    def write_queue(self, size: int, desc: int, avail: int, used: int, ready: int = 1) -> None:
        """Write the registers of the selected queue."""
        self.write(spec.MMIO_QUEUE_NUM, size)
        for register, gpa in (
            (spec.MMIO_QUEUE_DESC_LOW, desc),
            (spec.MMIO_QUEUE_DRIVER_LOW, avail),
            (spec.MMIO_QUEUE_DEVICE_LOW, used),
        ):
            self.write(register, gpa & 0xFFFF_FFFF)
            self.write(register + 4, gpa >> 32)
        self.write(spec.MMIO_QUEUE_READY, ready)

    def driver_ok(self) -> None:
        self.status |= spec.DRIVER_OK

    def prepare(self, features: int | None = None, *, size: int | None = None) -> DriverQueue:
        """Up to DRIVER_OK, with every queue, of at most *size*; returns the first."""
        assert self.negotiate(features), "the device refused the features"
        for index, largest in enumerate(self.device.queue_sizes):
            self.add_queue(index, min(size or largest, largest))
        return self.queues[0]

    def start(self, features: int | None = None, *, size: int | None = None) -> DriverQueue:
        """All of it; returns the first queue."""
        queue = self.prepare(features, size=size)
        self.driver_ok()
        return queue

    # -- interrupts and memory -------------------------------------------------------------------------------

    def wait_irq(self, timeout: float = TIMEOUT) -> int:
        """Wait for an interrupt; returns InterruptStatus and acknowledges it.

        :raises TimeoutError: none came
        """
        poll = select.poll()
        poll.register(self.irq.fd, select.POLLIN)
        if not poll.poll(timeout * 1000):
            raise TimeoutError(f"no interrupt in {timeout} s; status {self.status:#x}") from self.error
        self.irq.clear()
        bits = self.read(spec.MMIO_INTERRUPT_STATUS)
        self.write(spec.MMIO_INTERRUPT_ACK, bits)
        return bits

    def expect_no_irq(self) -> None:
        """Fail when the device has something to say.

        An interrupt without a reason is none: its bit was seen with the one before.
        """
        self.turn_loop()
        while self.irq.clear():
            bits = self.read(spec.MMIO_INTERRUPT_STATUS)
            assert bits == 0, f"an interrupt: {bits:#x}"

    def wait_needs_reset(self) -> None:
        """Wait until the device says that it needs a reset, by a configuration interrupt."""
        bits = 0
        while not bits & spec.INT_CONFIG:
            bits = self.wait_irq()
        assert self.status & spec.DEVICE_NEEDS_RESET, f"status {self.status:#x}"

    def wait_for(self, what: str, condition: object) -> None:
        """Wait until *condition* (a callable) is true."""
        assert callable(condition)
        end = time.monotonic() + TIMEOUT
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError(f"{what}: not in {TIMEOUT} s")
            time.sleep(0.001)

    def turn_loop(self, times: int = 10) -> None:
        """Wait until the control loop has served everything that is ready, *times* over."""
        event, done = EventFd(), threading.Semaphore(0)

        def on_event(_: int) -> None:
            event.clear()
            done.release()

        self.loop.add(event.fd, on_event)
        for _ in range(times):
            event.signal()
            if not done.acquire(timeout=TIMEOUT):
                raise TimeoutError(f"the control loop is stuck: {self.error}")
        self.loop.remove(event.fd)
        event.close()

    def alloc(self, size: int, align: int = 16) -> int:
        """Guest memory that nobody uses (its guest physical address)."""
        gpa = -(-self._free // align) * align
        self._free = gpa + size
        self.memory.offset(gpa, size)
        return gpa

    @contextmanager
    def rewriting(self, *targets: tuple[int, tuple[bytes, ...]]) -> Iterator[None]:
        """Another vCPU, which writes values to guest physical addresses, one after another and over again.  Each has
        been written when the block begins, and the last one stays when it ends."""
        stop, written = threading.Event(), threading.Event()

        def write() -> None:
            while not stop.is_set():
                for gpa, values in targets:
                    for value in values:
                        self.memory.write(gpa, value)
                written.set()

        vcpu = threading.Thread(target=write)
        vcpu.start()
        try:
            assert written.wait(TIMEOUT)
            yield
        finally:
            stop.set()
            vcpu.join()

    @contextmanager
    def scratch(self) -> Iterator[None]:
        """What is allocated inside is free again afterwards."""
        mark = self._free
        try:
            yield
        finally:
            self._free = mark

    def data(self, content: bytes) -> Buffer:
        """A buffer for the device to read."""
        gpa = self.alloc(max(len(content), 1))
        self.memory.write(gpa, content)
        return Buffer(gpa, len(content))

    def room(self, length: int, fill: bytes = b"\xee") -> Buffer:
        """A buffer for the device to write."""
        gpa = self.alloc(max(length, 1))
        self.memory.write(gpa, fill * length)
        return Buffer(gpa, length, writable=True)

    def content(self, buffer: Buffer) -> bytes:
        return self.memory.read(buffer.gpa, buffer.length)
