"""Register accesses that a driver must not make (virtio 1.2, 4.2.2 and 3.1), and polls of a port all the time."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator

import pytest

from tests.driver import ALL_STATUS, DriverQueue, Guest
from tests.sample_devices import Echo
from vmm.devices import Serial
from vmm.events import EventFd
from vmm.native import ffi, lib
from vmm.virtio import spec

PAGE = range(0, spec.MMIO_SIZE, 4)
VALUES = (0, 1, 2, 8, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF)
QUEUE_REGISTERS = (
    spec.MMIO_QUEUE_NUM, spec.MMIO_QUEUE_READY, spec.MMIO_QUEUE_DESC_LOW, spec.MMIO_QUEUE_DESC_HIGH,
    spec.MMIO_QUEUE_DRIVER_LOW, spec.MMIO_QUEUE_DRIVER_HIGH, spec.MMIO_QUEUE_DEVICE_LOW, spec.MMIO_QUEUE_DEVICE_HIGH,
)  # fmt: skip
FIXED = (spec.MMIO_MAGIC, spec.MMIO_VERSION, spec.MMIO_DEVICE_ID, spec.MMIO_VENDOR_ID, *range(0xB0, 0xC0, 4))
STAGES = ("reset", "acknowledged", "driver", "features ok", "queues set up", "running", "needs reset", "failed")


@pytest.fixture
def guest() -> Iterator[Guest]:
    with Guest(Echo()) as guest:
        yield guest


def bring_to(guest: Guest, stage: str) -> None:
    guest.reset()
    if stage == "acknowledged":
        guest.status = spec.ACKNOWLEDGE
    elif stage == "driver":
        guest.status = spec.ACKNOWLEDGE | spec.DRIVER
    elif stage == "features ok":
        guest.negotiate()
    elif stage == "queues set up":
        guest.negotiate()
        guest.add_queue(0)
    elif stage == "running":
        guest.start()
    elif stage == "needs reset":
        queue = guest.start()
        queue.write_avail_idx(1000)
        queue.kick()
        guest.wait_needs_reset()
    elif stage == "failed":
        guest.start()
        guest.status |= spec.FAILED


def ping(guest: Guest, queue: DriverQueue) -> None:
    with guest.scratch():
        room = guest.room(4)
        queue.send(guest.data(b"ping"), room)
        assert guest.content(room) == b"ping"


def works_after_reset(guest: Guest) -> None:
    guest.start()
    for queue in guest.queues.values():
        ping(guest, queue)


@pytest.mark.parametrize("stage", STAGES)
def test_every_register_written_in_every_status(guest: Guest, stage: str) -> None:
    bring_to(guest, stage)
    fixed = [guest.read(register) for register in FIXED]
    for value in VALUES:
        for register in PAGE:
            if register != spec.MMIO_STATUS:
                guest.write(register, value)
    assert [guest.read(register) for register in FIXED] == fixed
    if stage == "running":
        guest.device.write_config(0, b"configuration")
        for queue in guest.queues.values():
            ping(guest, queue)
    works_after_reset(guest)


@pytest.mark.parametrize("stage", STAGES)
def test_every_status_written_in_every_status(guest: Guest, stage: str) -> None:
    for status in range(256):
        bring_to(guest, stage)
        before = guest.status
        guest.status = status
        after = guest.status
        if status == 0:
            assert after == 0
        else:
            assert after & before == before, "only a reset clears bits"
            needs_reset = after & ~before & spec.DEVICE_NEEDS_RESET
            assert not needs_reset or after & spec.DRIVER_OK, "the driver cannot set it"
            for bit, earlier in ((spec.DRIVER, 1), (spec.FEATURES_OK, 3), (spec.DRIVER_OK, 11)):
                assert not after & bit or after & earlier == earlier, "in the order of 3.1.1"
    works_after_reset(guest)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_accesses_of_any_size_unaligned_to_every_register(guest: Guest, stage: str, size: int) -> None:
    bring_to(guest, stage)
    control = bytes(guest.registers.page[: spec.MMIO_CONFIG])
    for offset in range(spec.MMIO_CONFIG):
        if size != 4 or offset % 4:
            guest.write(offset, 0xFFFF_FFFF_FFFF_FFFF & (1 << 8 * size) - 1, size)
        guest.read(offset, size)
    assert bytes(guest.registers.page[: spec.MMIO_CONFIG]) == control
    for offset in range(spec.MMIO_CONFIG, spec.MMIO_SIZE - size + 1):
        guest.write(offset, 0x55AA_55AA_55AA_55AA & (1 << 8 * size) - 1, size)
        guest.read(offset, size)
    assert bytes(guest.registers.page[spec.MMIO_CONFIG + 16 :]) == bytes(spec.MMIO_SIZE - spec.MMIO_CONFIG - 16)
    works_after_reset(guest)


def test_queue_registers_are_dead_after_driver_ok(guest: Guest) -> None:
    """CVE-2026-5747."""
    queue = guest.start()
    before = guest.transport.state.save()["queues"]
    for selected in (0, 1, 2):
        guest.write(spec.MMIO_QUEUE_SEL, selected)
        for value in VALUES:
            guest.write(spec.MMIO_QUEUE_READY, 0)
            assert guest.read(spec.MMIO_QUEUE_READY) == int(selected < 2)
            for register in QUEUE_REGISTERS:
                guest.write(register, value)
            ping(guest, queue)
    after = guest.transport.state.save()["queues"]
    assert after == before


def test_queue_registers_are_dead_while_the_queue_is_ready(guest: Guest) -> None:
    guest.negotiate()
    queue = guest.add_queue(0)
    for register in QUEUE_REGISTERS:
        if register != spec.MMIO_QUEUE_READY:
            guest.write(register, 0xFFFF_FFF0)
    guest.driver_ok()
    ping(guest, queue)


@pytest.mark.parametrize("stage", ["reset", "acknowledged", "driver"])
def test_queue_registers_are_dead_before_features_ok(guest: Guest, stage: str) -> None:
    bring_to(guest, stage)
    guest.write_queue(8, 0x1000, 0x2000, 0x3000)
    assert guest.read(spec.MMIO_QUEUE_READY) == 0
    state = guest.transport.state.save()["queues"][0]
    assert (state["size"], state["desc"], state["driver"], state["device"]) == (0, 0, 0, 0)


@pytest.mark.parametrize("selected", [2, 3, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF])
def test_queue_select_out_of_range(guest: Guest, selected: int) -> None:
    guest.negotiate()
    guest.write(spec.MMIO_QUEUE_SEL, selected)
    assert guest.read(spec.MMIO_QUEUE_NUM_MAX) == guest.read(spec.MMIO_QUEUE_READY) == 0
    guest.write_queue(8, 0x1000, 0x2000, 0x3000)
    assert guest.read(spec.MMIO_QUEUE_READY) == 0
    guest.write(spec.MMIO_QUEUE_SEL, 1)
    assert guest.read(spec.MMIO_QUEUE_READY) == 0
    queue = guest.add_queue(1)
    guest.driver_ok()
    guest.write(spec.MMIO_QUEUE_NOTIFY, selected)
    ping(guest, queue)


def test_queue_reset_is_not_offered(guest: Guest) -> None:
    queue = guest.start()
    assert not guest.offered() & spec.F_RING_RESET
    guest.write(spec.MMIO_QUEUE_RESET, 1)
    assert guest.read(spec.MMIO_QUEUE_RESET) == 0
    ping(guest, queue)


# -- feature negotiation (2.2, 3.1.1) ----------------------------------------------------------------------------------


@pytest.mark.parametrize("bit", range(64))
def test_feature_bits_not_offered(guest: Guest, bit: int) -> None:
    offered = guest.offered()
    if offered >> bit & 1:
        assert guest.negotiate(spec.F_VERSION_1 | 1 << bit)
    else:
        assert not guest.negotiate(offered | 1 << bit)
        assert not guest.negotiate(spec.F_VERSION_1 | 1 << bit)
        guest.driver_ok()
        assert guest.status == spec.ACKNOWLEDGE | spec.DRIVER
    works_after_reset(guest)


def test_version_1_left_out(guest: Guest) -> None:
    assert not guest.negotiate(guest.offered() & ~spec.F_VERSION_1)
    assert not guest.negotiate(0)


@pytest.mark.parametrize("word", [2, 3, 31, 0x7FFF_FFFF, 0xFFFF_FFFF])
def test_feature_words_beyond_the_second(guest: Guest, word: int) -> None:
    guest.reset()
    guest.status = spec.ACKNOWLEDGE | spec.DRIVER
    guest.select_features(guest.offered())
    guest.write(spec.MMIO_DRIVER_FEATURES_SEL, word)
    guest.write(spec.MMIO_DRIVER_FEATURES, 0)
    guest.write(spec.MMIO_DRIVER_FEATURES, 0x8000_0000)
    guest.status |= spec.FEATURES_OK
    assert not guest.status & spec.FEATURES_OK
    works_after_reset(guest)


def test_a_refused_driver_may_ask_for_less(guest: Guest) -> None:
    assert not guest.negotiate((1 << 64) - 1)
    guest.select_features(guest.offered())
    guest.status |= spec.FEATURES_OK
    assert guest.status & spec.FEATURES_OK
    queue = guest.add_queue()
    guest.driver_ok()
    ping(guest, queue)


def test_features_changed_after_features_ok(guest: Guest) -> None:
    guest.negotiate(spec.F_VERSION_1)
    guest.select_features(guest.offered())
    assert guest.transport.state.save()["driver_features"] == spec.F_VERSION_1
    queue = guest.add_queue()
    guest.driver_ok()
    queue.offer(queue.chain([guest.room(4)], indirect=True))
    queue.kick()
    guest.wait_needs_reset()


def test_features_written_before_driver(guest: Guest) -> None:
    guest.reset()
    guest.select_features(guest.offered())
    guest.status = spec.ACKNOWLEDGE
    guest.select_features(guest.offered())
    assert guest.transport.state.save()["driver_features"] == 0


def test_features_ok_skipped(guest: Guest) -> None:
    guest.reset()
    guest.status = spec.ACKNOWLEDGE | spec.DRIVER
    guest.select_features(guest.offered())
    guest.status = spec.ACKNOWLEDGE | spec.DRIVER | spec.DRIVER_OK
    assert guest.status == spec.ACKNOWLEDGE | spec.DRIVER


# -- status (2.1) ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cleared", [spec.ACKNOWLEDGE, spec.DRIVER, spec.FEATURES_OK, spec.DRIVER_OK])
def test_status_bits_cleared_one_by_one(guest: Guest, cleared: int) -> None:
    queue = guest.start()
    guest.status = ALL_STATUS & ~cleared
    assert guest.status == ALL_STATUS
    ping(guest, queue)


@pytest.mark.parametrize("status", [spec.FEATURES_OK, spec.DRIVER | spec.FEATURES_OK, spec.FAILED, spec.FAILED | 1])
def test_status_bits_cleared_while_others_are_set(guest: Guest, status: int) -> None:
    bring_to(guest, "driver")
    guest.select_features(guest.offered())
    guest.status = status
    assert guest.status == spec.ACKNOWLEDGE | spec.DRIVER


def test_all_steps_at_once(guest: Guest) -> None:
    guest.reset()
    guest.status = ALL_STATUS
    assert guest.status == spec.ACKNOWLEDGE | spec.DRIVER, "no features were chosen"
    works_after_reset(guest)


@pytest.mark.parametrize("stage", STAGES)
def test_reset_half_way(guest: Guest, stage: str) -> None:
    for _ in range(3):
        bring_to(guest, stage)
        guest.reset()
        assert guest.status == 0
    works_after_reset(guest)


def test_a_driver_that_failed_gets_no_more_service(guest: Guest) -> None:
    queue = guest.start()
    guest.status |= spec.FAILED
    queue.offer(queue.chain([guest.room(1)]))
    queue.kick()
    guest.status |= spec.FAILED
    guest.expect_no_irq()
    assert queue.take_used() == []
    assert guest.status == ALL_STATUS | spec.FAILED
    works_after_reset(guest)


def test_needs_reset_cannot_be_cleared_but_by_reset(guest: Guest) -> None:
    bring_to(guest, "needs reset")
    for status in (ALL_STATUS, ALL_STATUS | spec.DEVICE_NEEDS_RESET, spec.DEVICE_NEEDS_RESET, 255):
        guest.status = status
        assert guest.status & spec.DEVICE_NEEDS_RESET
    works_after_reset(guest)


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "running"])
def test_kicks_when_nothing_runs(guest: Guest, stage: str) -> None:
    device = guest.device
    assert isinstance(device, Echo)
    bring_to(guest, stage)
    calls = device.calls
    for index in (0, 1, 2, 0xFFFF_FFFF):
        guest.write(spec.MMIO_QUEUE_NOTIFY, index)
        if index < 2:
            guest.kicks[index].signal()  # an ioeventfd does not know of the status
    guest.turn_loop()
    assert device.calls == calls
    works_after_reset(guest)


# -- configuration space (2.5) -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["reset", "acknowledged", "driver", "needs reset", "failed"])
def test_the_configuration_space_is_read_only_before_features_ok_and_after_the_end(guest: Guest, stage: str) -> None:
    bring_to(guest, stage)
    for size in (1, 2, 4):
        guest.write(spec.MMIO_CONFIG, 0, size)
    assert guest.device.read_config() == b"configuration\0\0\0"


def test_configuration_space_offsets_out_of_range(guest: Guest) -> None:
    guest.start()
    for size in (1, 2, 4, 8):
        for offset in range(17 - size, spec.MMIO_SIZE - spec.MMIO_CONFIG - size + 1):
            guest.write(spec.MMIO_CONFIG + offset, (1 << 8 * size) - 1, size)
            guest.read(spec.MMIO_CONFIG + offset, size)
    assert guest.device.read_config() == b"configuration\0\0\0"
    assert bytes(guest.registers.page[spec.MMIO_CONFIG + 16 :]) == bytes(spec.MMIO_SIZE - spec.MMIO_CONFIG - 16)


# -- interrupts --------------------------------------------------------------------------------------------------------


def test_acknowledging_what_was_not_raised(guest: Guest) -> None:
    guest.start()
    lib.irq_raise(guest.registers.config_irq, lib.IRQ_CONFIG)
    guest.write(spec.MMIO_INTERRUPT_ACK, 0xFFFF_FFFC)
    assert guest.read(spec.MMIO_INTERRUPT_STATUS) == spec.INT_VRING | spec.INT_CONFIG


# -- queues that cannot be (2.7) ---------------------------------------------------------------------------------------

RAM = 16 << 20
BAD_QUEUES = {
    "size 0": (0, 0x1000, 0x2000, 0x3000),
    "size not a power of two": (3, 0x1000, 0x2000, 0x3000),
    "size beyond the maximum": (128, 0x1000, 0x2000, 0x3000),
    "size of 32 bits": (0xFFFF_FFFF, 0x1000, 0x2000, 0x3000),
    "descriptors not aligned": (8, 0x1008, 0x2000, 0x3000),
    "driver area not aligned": (8, 0x1000, 0x2001, 0x3000),
    "device area not aligned": (8, 0x1000, 0x2000, 0x3002),
    "descriptors behind RAM": (8, RAM, 0x2000, 0x3000),
    "descriptors over the end of RAM": (8, RAM - 16, 0x2000, 0x3000),
    "driver area over the end of RAM": (8, 0x1000, RAM - 4, 0x3000),
    "device area over the end of RAM by its event": (8, 0x1000, 0x2000, RAM - 68),
    "device area in the hole": (8, 0x1000, 0x2000, 0xD000_0000),
    "descriptors that wrap 64 bits": (8, 0xFFFF_FFFF_FFFF_FFF0, 0x2000, 0x3000),
    "driver area that wraps 64 bits": (8, 0x1000, 0xFFFF_FFFF_FFFF_FFFE, 0x3000),
    "device area that wraps 64 bits": (8, 0x1000, 0x2000, 0xFFFF_FFFF_FFFF_FFFC),
}


@pytest.mark.parametrize("registers", BAD_QUEUES.values(), ids=BAD_QUEUES.keys())
def test_queue_that_cannot_be(guest: Guest, registers: tuple[int, int, int, int]) -> None:
    guest.negotiate()
    guest.write(spec.MMIO_QUEUE_SEL, 0)
    guest.write_queue(*registers)
    guest.add_queue(1)
    guest.driver_ok()
    guest.wait_needs_reset()
    works_after_reset(guest)


def test_queue_at_the_very_end_of_ram(guest: Guest) -> None:
    guest.negotiate()
    queue = DriverQueue(guest, 0, 8)
    queue.used = RAM - 72
    guest.memory.write(queue.used, bytes(72))
    guest.write_queue(queue.size, queue.desc, queue.avail, queue.used)
    guest.queues[0] = queue
    guest.driver_ok()
    ping(guest, queue)


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
                value = chance.getrandbits(8 * size)
                if offset <= 4 < offset + size:
                    value &= ~(0x10 << 8 * (4 - offset))  # no loopback, in which the guest receives what it sends
                serial.write(offset, size, value)
            else:
                serial.read(offset, size)

    def host() -> None:
        nonlocal accepted
        chance = random.Random(0)
        for _ in range(2000):
            accepted += serial.input(chance.randbytes(chance.randrange(64)))
            serial.flush()
            if chance.random() < 0.01:
                state = serial.save()
                serial.restore(state)
                accepted += len(state.payload["rx"])  # what waits here follows the input of the state
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
