"""virtio-pci (virtio 1.2, 4.1), as a well-behaved driver uses it."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator

import pytest

from tests.driver import ALL_STATUS, Guest
from tests.pci_driver import MESSAGE, PciGuest
from tests.sample_devices import Echo, Shared
from vmm.errors import ConfigError
from vmm.pci import spec as pci
from vmm.virtio import spec
from vmm.virtio.device import DeviceContext
from vmm.virtio.queue import Queue


@pytest.fixture
def guest() -> Iterator[PciGuest]:
    with PciGuest(Echo()) as guest:
        yield guest


def ping(guest: PciGuest, index: int = 0) -> None:
    room = guest.room(4)
    guest.queues[index].send(guest.data(b"ping"), room)
    assert guest.content(room) == b"ping"


def is_pending(guest: PciGuest, vector: int) -> bool:
    return bool(guest.bar_read(guest.pba + vector // 64 * 8, 8) >> vector % 64 & 1)


def test_the_header_says_what_it_is(guest: PciGuest) -> None:
    assert guest.config_read(pci.VENDOR_ID, 2) == 0x1AF4
    assert guest.config_read(pci.DEVICE_ID, 2) == 0x1040 + 42
    assert guest.config_read(pci.REVISION_ID, 1) >= 1, "not a transitional device"
    assert guest.config_read(pci.SUBSYSTEM_ID, 2) >= 0x40
    assert guest.config_read(pci.HEADER_TYPE, 1) == 0
    assert guest.config_read(pci.INTERRUPT_PIN, 1) == 1
    assert guest.config_read(pci.STATUS, 2) & pci.STATUS_CAP_LIST


def test_the_host_bridge_is_device_0_and_nothing_else_is_there(guest: PciGuest) -> None:
    found = [slot for slot in range(32) if guest.mmio.read(0xE000_0000 + (slot << 15), 2) != 0xFFFF]
    assert found == [0, 1]
    assert guest.mmio.read(0xE000_0000 + 0xA, 2) == 0x0600
    for function in range(1, 8):
        assert guest.mmio.read(0xE000_0000 + (1 << 15) + (function << 12), 4) == 0xFFFF_FFFF


def test_shared_memory_is_a_64_bit_bar_with_a_capability() -> None:
    with PciGuest(Shared()) as guest:
        place = guest.virtio[spec.PCI_CAP_SHARED_MEMORY_CFG]
        assert guest.config_read(place.at + 2, 1) == 24
        assert (guest.config_read(place.at + 4, 1), guest.config_read(place.at + 5, 1)) == (2, 7), "BAR and id"
        upper = guest.config_read(place.at + 16, 4), guest.config_read(place.at + 20, 4)
        assert (place.offset, place.length, *upper) == (0, 3 * 4096, 0, 0)
        low = pci.BASE_ADDRESS_0 + 8
        flags = pci.BASE_ADDRESS_MEM_TYPE_64 | pci.BASE_ADDRESS_MEM_PREFETCH
        assert guest.config_read(low, 8) == 0x2_0000_0000 | flags
        assert guest.window == 0x2_0000_0000
        guest.config_write(pci.COMMAND, 2, 0)
        guest.config_write(low, 4, 0xFFFF_FFFF)
        guest.config_write(low + 4, 4, 0xFFFF_FFFF)
        assert guest.config_read(low, 8) == (1 << 64) - 4 * 4096 | flags, "a power of two"
        assert guest.window is None


def test_every_structure_has_its_capability_inside_of_the_bar(guest: PciGuest) -> None:
    assert sorted(guest.virtio) == [1, 2, 3, 4, 5]
    size = sizes(guest)
    for kind, capability in guest.virtio.items():
        assert guest.config_read(capability.at + 2, 1) == (20 if kind in (2, 5) else 16)
        assert guest.config_read(capability.at + 4, 1) == 0
        assert capability.offset + capability.length <= size
    assert guest.virtio[spec.PCI_CAP_NOTIFY_CFG].length == 2 * guest.config_read(
        guest.virtio[spec.PCI_CAP_NOTIFY_CFG].at + 16, 4
    )
    assert guest.msix_at
    assert guest.config_read(guest.msix_at + pci.MSIX_FLAGS, 2) & 0x7FF == 2, "three vectors"
    assert guest.table % 8 == guest.pba % 8 == 0


def sizes(guest: PciGuest) -> int:
    """The size of BAR 0, found as a firmware finds it."""
    before = guest.config_read(pci.BASE_ADDRESS_0, 4)
    guest.config_write(pci.COMMAND, 2, 0)
    guest.config_write(pci.BASE_ADDRESS_0, 4, 0xFFFF_FFFF)
    size = (~guest.config_read(pci.BASE_ADDRESS_0, 4) & 0xFFFF_FFFF) + 1
    guest.config_write(pci.BASE_ADDRESS_0, 4, before)
    guest.config_write(pci.COMMAND, 2, pci.COMMAND_MEMORY | pci.COMMAND_MASTER)
    return size


def test_a_driver_brings_the_device_up(guest: PciGuest) -> None:
    assert guest.bar_read(spec.PCI_COMMON_NUMQ, 2) == 2
    for index, size in enumerate((64, 16)):
        assert guest.common(spec.PCI_COMMON_Q_SELECT, 2, index) == index
        assert guest.bar_read(spec.PCI_COMMON_Q_SIZE, 2) == size
        assert guest.bar_read(spec.PCI_COMMON_Q_NOFF, 2) == index
    assert guest.common(spec.PCI_COMMON_Q_SELECT, 2, 2) == 2
    assert guest.bar_read(spec.PCI_COMMON_Q_SIZE, 2) == 0, "there is no third"
    guest.start()
    assert guest.status == ALL_STATUS
    for index in (0, 1):
        ping(guest, index)


def test_each_queue_interrupts_by_its_own_vector(guest: PciGuest) -> None:
    guest.start()
    events = guest.registers.msix.events
    for index in (0, 1):
        queue = guest.queues[index]
        queue.offer(queue.chain([guest.data(b"x"), guest.room(1)]))
        queue.kick()
        guest.wait_for("an answer", queue.take_used)
        guest.turn_loop()
        assert [bool(event.clear()) for event in events] == [False, index == 0, index == 1]
    device = guest.device
    assert isinstance(device, Echo)
    device.set_config(b"CONFIGURATION\0\0\0")
    assert [bool(event.clear()) for event in events] == [True, False, False]
    messages = [guest.wires.connected[event.fd] for event in events]
    assert messages == [(MESSAGE, 0x40), (MESSAGE, 0x41), (MESSAGE, 0x42)]


def test_a_masked_vector_is_pending_and_comes_when_it_is_unmasked(guest: PciGuest) -> None:
    queue = guest.start()
    guest.bar_write(guest.table + 16 + 12, 4, 1)
    event = guest.registers.msix.events[1]
    assert event.fd not in guest.wires.connected
    assert not is_pending(guest, 1)
    queue.offer(queue.chain([guest.data(b"x"), guest.room(1)]))
    queue.kick()
    guest.wait_for("the pending bit", lambda: is_pending(guest, 1))
    guest.bar_write(guest.table + 16 + 12, 4, 0)
    assert not is_pending(guest, 1)
    assert guest.wires.connected[event.fd] == (MESSAGE, 0x41)
    assert guest.wait_irq() == spec.INT_VRING
    guest.bar_write(guest.table + 16 + 12, 4, 1)
    assert not is_pending(guest, 1), "it came once"


def test_masking_the_function_masks_every_vector(guest: PciGuest) -> None:
    guest.start()
    guest.set_msix(pci.MSIX_FLAGS_ENABLE | pci.MSIX_FLAGS_MASKALL)
    assert not guest.wires.connected
    guest.device.config_changed()
    guest.set_msix(pci.MSIX_FLAGS_ENABLE)
    assert len(guest.wires.connected) == 3


def test_a_vector_can_be_given_to_several_queues(guest: PciGuest) -> None:
    guest.negotiate()
    for index in (0, 1):
        guest.common(spec.PCI_COMMON_Q_SELECT, 2, index)
        assert guest.common(spec.PCI_COMMON_Q_MSIX, 2, 2) == 2
        guest.add_queue(index)
    guest.driver_ok()
    for index in (0, 1):
        ping(guest, index)
    poll = select.poll()
    poll.register(guest.registers.msix.events[1].fd, select.POLLIN)
    assert not poll.poll(0)


def test_without_msix_the_line_says_what_isr_status_explains() -> None:
    with PciGuest(Echo(), msix=False) as guest:
        queue = guest.start()
        queue.offer(queue.chain([guest.data(b"x"), guest.room(1)]))
        queue.kick()
        assert guest.wait_irq() == spec.INT_VRING
        assert not guest.wires.level, "reading it lowers the line"
        device = guest.device
        assert isinstance(device, Echo)
        device.set_config(b"CONFIGURATION\0\0\0")
        assert guest.wait_irq() == spec.INT_CONFIG
        guest.config_write(pci.COMMAND, 2, pci.COMMAND_MEMORY | pci.COMMAND_INTX_DISABLE)
        device.set_config(b"configuration\0\0\0")
        guest.turn_loop()
        assert not guest.wires.level


def test_the_configuration_space_is_read_and_written_by_its_own_widths(guest: PciGuest) -> None:
    guest.start()
    text = b"configuration\0\0\0"
    for size in (1, 2, 4):
        for at in range(0, 16, size):
            assert guest.read(spec.MMIO_CONFIG + at, size) == int.from_bytes(text[at : at + size], "little")
    guest.write(spec.MMIO_CONFIG + 4, 0x6463_6261, 4)
    assert guest.device.read_config()[4:8] == b"abcd"
    generation = guest.read(spec.MMIO_CONFIG_GENERATION)
    device = guest.device
    assert isinstance(device, Echo)
    device.set_config(b"CONFIGURATION\0\0\0")
    assert guest.wait_irq() == spec.INT_CONFIG
    assert guest.read(spec.MMIO_CONFIG_GENERATION) != generation


def test_the_window_in_configuration_space_reaches_the_bar(guest: PciGuest) -> None:
    """4.1.4.9: for a firmware that cannot map BARs."""
    at = guest.virtio[spec.PCI_CAP_PCI_CFG].at
    guest.config_write(pci.COMMAND, 2, 0)

    def access(offset: int, length: int, value: int | None = None) -> int:
        guest.config_write(at + 4, 1, 0)
        guest.config_write(at + 8, 4, offset)
        guest.config_write(at + 12, 4, length)
        if value is not None:
            guest.config_write(at + 16, length, value)
        return guest.config_read(at + 16, length)

    assert access(spec.PCI_COMMON_NUMQ, 2) == 2
    assert access(spec.PCI_COMMON_STATUS, 1, spec.ACKNOWLEDGE) == spec.ACKNOWLEDGE
    assert access(spec.PCI_COMMON_DFSELECT, 4, 1) == 1
    assert access(spec.PCI_COMMON_DF, 4) == 1, "VERSION_1"
    assert access(0x100, 4) == int.from_bytes(b"conf", "little")


def test_reset_makes_everything_as_it_was(guest: PciGuest) -> None:
    before = bytes(guest.registers.page)
    guest.use_msix = False
    guest.set_msix(0)
    guest.start()
    ping(guest)
    assert bytes(guest.registers.page) != before
    guest.reset()
    assert bytes(guest.registers.page) == before


def test_a_function_that_is_gone_reads_as_nothing(guest: PciGuest) -> None:
    guest.start()
    assert guest.bus.remove(guest.slot) is guest.registers
    assert guest.config_read(0, 4) == 0xFFFF_FFFF
    assert guest.bar_read(spec.PCI_COMMON_STATUS, 1) == 0xFF
    guest.bar_write(spec.PCI_COMMON_STATUS, 1, 0)
    assert guest.transport.status == ALL_STATUS


def test_state_is_data(guest: PciGuest) -> None:
    queue = guest.start()
    ping(guest)
    guest.turn_loop()  # its interrupt may come after its answer
    guest.registers.msix.events[1].clear()
    queue.write_used_event(queue.next_used)
    guest.bar_write(guest.table + 16 + 12, 4, 1)
    queue.offer(queue.chain([guest.data(b"x"), guest.room(1)]))
    queue.kick()
    guest.wait_for("the pending bit", lambda: is_pending(guest, 1))
    place = 0xC234_4000
    guest.config_write(pci.BASE_ADDRESS_0, 4, place)
    guest.bar = place
    state = guest.transport.save()
    guest.transport.pause()

    with PciGuest(Echo(), memory=guest.memory) as other:
        other.transport.restore(state)
        other.bus.look_again()
        other.bar, other.queues = place, {0: guest.queues[0]}
        guest.queues[0].guest = other
        assert other.status == ALL_STATUS
        assert is_pending(other, 1)
        other.transport.resume()
        other.bar_write(other.table + 16 + 12, 4, 0)
        assert other.wait_irq() == spec.INT_VRING
        assert len(queue.take_used()) == 1
        room = guest.room(4)
        queue.send(guest.data(b"ping"), room)
        assert other.memory.read(room.gpa, 4) == b"ping"


def test_a_state_of_something_else_is_refused(guest: PciGuest) -> None:
    state = guest.transport.save()
    with Guest(Echo()) as mmio:
        of_mmio = mmio.transport.save()
    with pytest.raises(ConfigError, match="does not fit"):
        guest.transport.restore(of_mmio)
    registers = state.payload["registers"]["payload"]
    registers["config"] = b"\0" + registers["config"][1:]
    with pytest.raises(ConfigError, match="does not fit"):
        guest.transport.restore(state)


class Forwarder(Echo):
    """A device whose interrupts come from somewhere else: it has given the descriptors of its queues' irqs away."""

    kernel_signals = True

    def __init__(self) -> None:
        super().__init__()
        self.given: list[int] = []
        self._queues: list[Queue] = []

    def activate(self, context: DeviceContext) -> None:
        self._queues = list(context.queues.values())
        self.irqs_moved()

    def irqs_moved(self) -> None:
        self.given = [queue.irq.fd for queue in self._queues]


def test_irqs_that_were_given_away_follow_their_vectors() -> None:
    device = Forwarder()
    with PciGuest(device) as guest:
        guest.start()
        events = guest.registers.msix.events
        assert device.given == [events[1].fd, events[2].fd]
        guest.common(spec.PCI_COMMON_Q_SELECT, 2, 0)
        guest.common(spec.PCI_COMMON_Q_MSIX, 2, 2)
        assert device.given == [events[2].fd, events[2].fd]
        guest.set_msix(0)
        assert events[2].fd not in device.given
        os.eventfd_write(device.given[0], 1)
        guest.wait_for("the line", lambda: guest.wires.level)
        assert guest.bar_read(guest.virtio[spec.PCI_CAP_ISR_CFG].offset, 1) == spec.INT_VRING
        assert not guest.wires.level
