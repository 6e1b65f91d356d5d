"""The registers of virtio-mmio (virtio 1.2, 4.2), as a well-behaved driver uses them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.driver import ALL_STATUS, Guest
from tests.sample_devices import Echo
from vmm.errors import ConfigError
from vmm.events import EventFd, Loop
from vmm.memory import GuestMemory
from vmm.native import ffi, lib
from vmm.virtio import spec
from vmm.virtio.mmio import MmioRegisters


@pytest.fixture
def guest() -> Iterator[Guest]:
    with Guest(Echo()) as guest:
        yield guest


def test_the_page_says_what_the_device_is_before_anything_was_written(guest: Guest) -> None:
    assert bytes(guest.registers.page[:4]) == b"virt"
    assert guest.read(spec.MMIO_VERSION) == 2
    assert guest.read(spec.MMIO_DEVICE_ID) == 42
    assert guest.read(spec.MMIO_VENDOR_ID) == int.from_bytes(b"PYVM", "little")
    assert guest.read(spec.MMIO_QUEUE_NUM_MAX) == 64
    assert guest.read(spec.MMIO_QUEUE_READY) == 0
    assert guest.read(spec.MMIO_STATUS) == 0
    assert guest.read(spec.MMIO_INTERRUPT_STATUS) == spec.INT_VRING
    assert guest.read(spec.MMIO_DEVICE_FEATURES) == 0b101 | spec.F_INDIRECT_DESC | spec.F_EVENT_IDX


def test_there_is_no_shared_memory(guest: Guest) -> None:
    for region in (0, 1, 0xFFFF_FFFF):
        guest.write(spec.MMIO_SHM_SEL, region)
        assert guest.read(spec.MMIO_SHM_LEN_LOW) == guest.read(spec.MMIO_SHM_LEN_HIGH) == 0xFFFF_FFFF
        assert guest.read(spec.MMIO_SHM_BASE_LOW) == guest.read(spec.MMIO_SHM_BASE_HIGH) == 0xFFFF_FFFF


def test_the_page_is_aligned_and_c_answers_from_it(guest: Guest) -> None:
    address = ffi.cast("uintptr_t", ffi.from_buffer(guest.registers.page))
    assert int(address) % 4096 == 0
    lib.irq_raise(guest.registers.config_irq, lib.IRQ_CONFIG)
    assert guest.read(spec.MMIO_INTERRUPT_STATUS) == spec.INT_VRING | spec.INT_CONFIG


def test_features_come_in_words_of_32_bits(guest: Guest) -> None:
    ring = spec.F_VERSION_1 | spec.F_INDIRECT_DESC | spec.F_EVENT_IDX
    assert guest.offered() == 0b101 | ring
    for word in (2, 3, 0x8000_0000, 0xFFFF_FFFF):
        guest.write(spec.MMIO_DEVICE_FEATURES_SEL, word)
        assert guest.read(spec.MMIO_DEVICE_FEATURES) == 0


def test_a_driver_brings_the_device_up(guest: Guest) -> None:
    for status in (spec.ACKNOWLEDGE, spec.DRIVER, spec.FEATURES_OK):
        if status == spec.FEATURES_OK:
            guest.select_features(guest.offered())
        guest.status |= status
        assert guest.status & status
    for index, size in enumerate((64, 16)):
        guest.write(spec.MMIO_QUEUE_SEL, index)
        assert guest.read(spec.MMIO_QUEUE_NUM_MAX) == size
        assert guest.read(spec.MMIO_QUEUE_READY) == 0
        guest.add_queue(index, 8)
        assert guest.read(spec.MMIO_QUEUE_READY) == 1
    guest.driver_ok()
    assert guest.status == ALL_STATUS
    for index in (0, 1):
        room = guest.room(5)
        guest.queues[index].send(guest.data(b"hello"), room)
        assert guest.content(room) == b"hello"


def test_a_queue_can_be_given_up_before_driver_ok(guest: Guest) -> None:
    guest.negotiate()
    guest.add_queue(0)
    guest.write(spec.MMIO_QUEUE_READY, 0)
    assert guest.read(spec.MMIO_QUEUE_READY) == 0
    queue = guest.add_queue(0, 4)
    guest.driver_ok()
    assert queue.send(guest.data(b"x"), guest.room(1)).written == 1


def test_a_driver_may_leave_queues_alone(guest: Guest) -> None:
    guest.negotiate()
    queue = guest.add_queue(1)
    guest.driver_ok()
    guest.write(spec.MMIO_QUEUE_NOTIFY, 0)
    assert queue.send(guest.data(b"x"), guest.room(1)).written == 1


def test_reset_makes_everything_as_it_was(guest: Guest) -> None:
    before = bytes(guest.registers.page)
    queue = guest.start()
    guest.write(spec.MMIO_QUEUE_SEL, 1)
    guest.write(spec.MMIO_DEVICE_FEATURES_SEL, 1)
    queue.send(guest.data(b"x"), guest.room(1))
    lib.irq_raise(guest.registers.config_irq, lib.IRQ_CONFIG)
    assert bytes(guest.registers.page) != before
    guest.reset()
    assert bytes(guest.registers.page) == before


def test_the_bit_of_used_buffers_is_always_set_and_acknowledging_clears_the_other(guest: Guest) -> None:
    assert guest.read(spec.MMIO_INTERRUPT_STATUS) == spec.INT_VRING
    guest.start()
    lib.irq_raise(guest.registers.config_irq, lib.IRQ_CONFIG)
    guest.write(spec.MMIO_INTERRUPT_ACK, spec.INT_VRING)
    assert guest.read(spec.MMIO_INTERRUPT_STATUS) == spec.INT_VRING | spec.INT_CONFIG
    guest.write(spec.MMIO_INTERRUPT_ACK, 0xFFFF_FFFF)
    assert guest.read(spec.MMIO_INTERRUPT_STATUS) == spec.INT_VRING
    guest.reset()
    assert guest.read(spec.MMIO_INTERRUPT_STATUS) == spec.INT_VRING


# -- configuration space (2.5) -----------------------------------------------------------------------------------------


def test_the_configuration_space_is_read_by_any_width(guest: Guest) -> None:
    text = b"configuration\0\0\0"
    assert bytes(guest.registers.page[0x100:0x110]) == text
    for size in (1, 2, 4):
        for at in range(0, 16, size):
            expected = int.from_bytes(text[at : at + size], "little")
            assert guest.read(spec.MMIO_CONFIG + at, size) == expected


@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_driver_writes_a_field(guest: Guest, size: int) -> None:
    guest.start()
    guest.write(spec.MMIO_CONFIG + 4, 0x6463_6261, size)
    assert bytes(guest.registers.page[0x104 : 0x104 + size]) == b"abcd"[:size]
    assert guest.device.read_config()[4 : 4 + size] == b"abcd"[:size]


def test_a_change_by_the_host_is_a_new_generation_and_an_interrupt(guest: Guest) -> None:
    guest.start()
    device = guest.device
    assert isinstance(device, Echo)
    generation = guest.read(spec.MMIO_CONFIG_GENERATION)
    device.set_config(b"CONFIGURATION\0\0\0")
    assert guest.wait_irq() == spec.INT_VRING | spec.INT_CONFIG
    assert guest.read(spec.MMIO_CONFIG_GENERATION) != generation
    assert bytes(guest.registers.page[0x100:0x10D]) == b"CONFIGURATION"


def test_a_change_that_changes_nothing_is_no_interrupt(guest: Guest) -> None:
    guest.start()
    guest.device.config_changed()
    guest.expect_no_irq()


@pytest.mark.parametrize("status", [0, 1, 3, 11])
def test_before_driver_ok_a_change_is_seen_without_an_interrupt(guest: Guest, status: int) -> None:
    if status & spec.FEATURES_OK:
        guest.negotiate()
    else:
        guest.status = status
    device = guest.device
    assert isinstance(device, Echo)
    device.set_config(b"CONFIGURATION\0\0\0")
    guest.expect_no_irq()
    assert bytes(guest.registers.page[0x100:0x10D]) == b"CONFIGURATION"


# -- making one --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "attributes, kicks, message",
    [
        ({}, 1, "1 kicks for 2 queues"),
        ({"queue_sizes": (100,)}, 1, "powers of two up to 1024"),
        ({"queue_sizes": (2048,)}, 1, "powers of two up to 1024"),
        ({"queue_sizes": (0,)}, 1, "powers of two up to 1024"),
        ({"features": spec.F_RING_PACKED}, 2, "bits that are the transport's"),
        ({"features": 1 << 64}, 2, "more than 64 bits"),
    ],
)
def test_a_device_that_is_made_wrongly_is_refused(attributes: dict[str, object], kicks: int, message: str) -> None:
    device = Echo()
    for name, value in attributes.items():
        setattr(device, name, value)
    loop, events = Loop(), [EventFd() for _ in range(kicks + 1)]
    with pytest.raises(ConfigError, match=message):
        MmioRegisters(device, GuestMemory(4096), loop, events[0], events[1:])
    loop.close()
    for each in events:
        each.close()


def test_closing_twice_and_writing_afterwards_is_harmless(guest: Guest) -> None:
    guest.start()
    guest.transport.close()
    guest.transport.close()
    for register in range(0, 0x200, 4):
        guest.write(register, 1)
    device = guest.device
    assert isinstance(device, Echo)
    assert device.log == ["reset", "stop", "close"]
