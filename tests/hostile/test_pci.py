"""PCI configuration space, MSI-X and BARs as an attacker uses them: whatever is written, the device and its neighbours
go on, and nothing outside is touched."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator

import pytest

from tests.pci_driver import ECAM, MESSAGE, PciGuest
from tests.sample_devices import Echo, Shared
from vmm.pci import spec as pci
from vmm.pci.bus import Function
from vmm.pci.config import ConfigSpace
from vmm.virtio import spec
from vmm.virtio.pci_layout import BAR_SIZE, CONFIG

SIZES = (1, 2, 4, 8)
FIXED = (pci.VENDOR_ID, pci.DEVICE_ID, pci.REVISION_ID, pci.HEADER_TYPE, pci.SUBSYSTEM_ID, pci.CAPABILITY_LIST)


@pytest.fixture
def guest() -> Iterator[PciGuest]:
    with PciGuest(Echo()) as guest:
        yield guest


def works_after_reset(guest: PciGuest) -> None:
    guest.config_write(pci.COMMAND, 2, 0)
    guest.config_write(pci.BASE_ADDRESS_0, 4, 0xC010_0000)
    guest.find()
    guest.start()
    for queue in guest.queues.values():
        with guest.scratch():
            room = guest.room(4)
            queue.send(guest.data(b"ping"), room)
            assert guest.content(room) == b"ping"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("running", [False, True])
def test_configuration_space_of_every_size_and_offset(guest: PciGuest, size: int, running: bool) -> None:
    if running:
        guest.start()
    fixed = [guest.config_read(register, 2) for register in FIXED]
    capabilities = {kind: (place.at, place.offset, place.length) for kind, place in guest.virtio.items()}
    for value in (0, 1 << 8 * size - 1, (1 << 8 * size) - 1, 0x5A5A_5A5A_5A5A_5A5A & (1 << 8 * size) - 1):
        for register in range(-8, pci.CONFIG_SIZE + 8):
            guest.config_write(register, size, value)
            assert 0 <= guest.config_read(register, size) < 1 << 8 * size
    assert [guest.config_read(register, 2) for register in FIXED] == fixed
    works_after_reset(guest)
    window = guest.virtio.pop(spec.PCI_CAP_PCI_CFG)
    del capabilities[spec.PCI_CAP_PCI_CFG]
    assert window.length <= 0xFFFF_FFFF
    assert {kind: (place.at, place.offset, place.length) for kind, place in guest.virtio.items()} == capabilities


def test_accesses_over_the_end_of_a_function_reach_nobody(guest: PciGuest) -> None:
    for at in range(pci.CONFIG_SIZE - 7, pci.CONFIG_SIZE):
        assert guest.config_read(at, 8) == (1 << 64) - 1
        guest.config_write(at, 8, (1 << 64) - 1)
    for slot in range(2, 32):
        for function in range(8):
            address = ECAM + (slot << pci.ECAM_SHIFT) + (function << 12)
            guest.mmio.write(address, 4, 0)
            assert guest.mmio.read(address, 4) == 0xFFFF_FFFF
    works_after_reset(guest)


@pytest.mark.parametrize("size", SIZES)
def test_the_bar_of_every_size_and_offset(guest: PciGuest, size: int) -> None:
    for start in (False, True):
        if start:
            guest.start()
        for offset in range(BAR_SIZE - size + 1):
            # Not the status itself: a reset would make the rest easy
            if not offset <= spec.PCI_COMMON_STATUS < offset + size:
                guest.bar_write(offset, size, 0x5AA5_5AA5_5AA5_5AA5 & (1 << 8 * size) - 1)
            guest.bar_read(offset, size)
        assert len(guest.device.read_config()) == 16
    works_after_reset(guest)


def test_registers_written_by_another_width_stay(guest: PciGuest) -> None:
    guest.negotiate()
    before = bytes(guest.registers.page[: spec.PCI_COMMON_SIZE])
    for offset in range(CONFIG):
        for size in SIZES:
            handled = {
                **dict.fromkeys((0, 8, 12, *range(32, 56, 4)), 4),
                **dict.fromkeys((16, 22, 24, 26, 28), 2),
                20: 1,
            }
            if handled.get(offset) != size:
                guest.bar_write(offset, size, (1 << 8 * size) - 1)
    assert bytes(guest.registers.page[: spec.PCI_COMMON_SIZE]) == before


def test_queue_registers_are_dead_after_driver_ok(guest: PciGuest) -> None:
    queue = guest.start()
    before = guest.transport.state.save()["queues"]
    for index in (0, 1):
        guest.common(spec.PCI_COMMON_Q_SELECT, 2, index)
        for offset in range(32, 56, 4):
            guest.bar_write(offset, 4, 0xFFFF_F000)
        guest.bar_write(spec.PCI_COMMON_Q_SIZE, 2, 0x8000)
        guest.bar_write(spec.PCI_COMMON_Q_ENABLE, 2, 0)
    assert guest.transport.state.save()["queues"] == before
    room = guest.room(4)
    queue.send(guest.data(b"ping"), room)
    assert guest.content(room) == b"ping"


@pytest.mark.parametrize("vector", [3, 4, 0x7FF, 0x800, 0x8000, 0xFFFE])
def test_vectors_out_of_range_are_no_vector(guest: PciGuest, vector: int) -> None:
    assert guest.common(spec.PCI_COMMON_MSIX, 2, vector) == spec.MSI_NO_VECTOR
    assert guest.common(spec.PCI_COMMON_Q_MSIX, 2, vector) == spec.MSI_NO_VECTOR
    guest.common(spec.PCI_COMMON_Q_SELECT, 2, 0xFFFF)
    assert guest.common(spec.PCI_COMMON_Q_MSIX, 2, 0) == spec.MSI_NO_VECTOR, "there is no such queue"


def test_a_device_without_a_vector_answers_and_is_silent(guest: PciGuest) -> None:
    guest.negotiate()
    queue = guest.add_queue(0)
    guest.common(spec.PCI_COMMON_Q_MSIX, 2, spec.MSI_NO_VECTOR)
    guest.driver_ok()
    queue.offer(queue.chain([guest.data(b"x"), guest.room(1)]))
    queue.kick()
    guest.wait_for("an answer", queue.take_used)
    guest.expect_no_irq()


@pytest.mark.parametrize("size", SIZES)
def test_the_msix_table_and_pending_bits_of_every_size_and_offset(guest: PciGuest, size: int) -> None:
    guest.start()
    for value in (0, (1 << 8 * size) - 1):
        for offset in range(guest.table, BAR_SIZE - size + 1):
            guest.bar_write(offset, size, value)
            guest.bar_read(offset, size)
    for vector in range(3):
        at = guest.table + 16 * vector
        assert guest.bar_read(at, 4) & 3 == 0
        assert guest.bar_read(at + 12, 4) in (0, 1)
    assert guest.bar_read(guest.table + 48, 4) == 0, "behind the last vector"
    works_after_reset(guest)


@pytest.mark.parametrize("address", [0, 0x1000, 0xC010_3000, 0xFEC0_0000, 0x1_FEE0_0000, (1 << 64) - 4])
def test_a_message_to_anywhere_but_a_local_apic_goes_nowhere(guest: PciGuest, address: int) -> None:
    queue = guest.start()
    image = guest.memory.read(0, 0x10000)
    guest.write_vector(1, address=address)
    queue.offer(queue.chain([guest.data(b"x"), guest.room(1)]))
    queue.kick()
    guest.wait_for("an answer", queue.take_used)
    guest.turn_loop()
    assert guest.registers.msix.events[1].fd not in guest.wires.connected
    assert guest.memory.read(0, 0x10000) == image
    guest.write_vector(1, data=7)
    assert guest.wires.connected[guest.registers.msix.events[1].fd] == (MESSAGE, 7)


def test_a_bar_that_moves_while_the_device_runs(guest: PciGuest) -> None:
    queue = guest.start()
    for place in (0xC000_0000, 0xCFFF_C000, 0xC123_4000):
        guest.config_write(pci.BASE_ADDRESS_0, 4, place)
        assert guest.bar_read(spec.PCI_COMMON_STATUS, 1) == 0xFF, "nobody is where it was"
        guest.bar = place
        with guest.scratch():
            room = guest.room(4)
            queue.send(guest.data(b"ping"), room)
            assert guest.content(room) == b"ping"


@pytest.mark.parametrize("place", [0, 0x1000, 0xBFFF_C000, 0xD000_0000, 0xE000_0000, 0xFEE0_0000, 0xFFFF_C000])
def test_a_bar_outside_of_the_window_decodes_nothing(guest: PciGuest, place: int) -> None:
    before = guest.mmio.ranges()
    guest.config_write(pci.BASE_ADDRESS_0, 4, place)
    assert [start for start, _, _ in guest.mmio.ranges()] == [ECAM]
    guest.config_write(pci.BASE_ADDRESS_0, 4, 0xC010_0000)
    assert guest.mmio.ranges() == before


WINDOW_AT = pci.BASE_ADDRESS_0 + 8
HOME = 0x2_0000_0000


def move_window(guest: PciGuest, place: int) -> None:
    guest.config_write(WINDOW_AT, 4, place & 0xFFFF_FFFF)
    guest.config_write(WINDOW_AT + 4, 4, place >> 32)


@pytest.mark.parametrize(
    "place",
    [0, 0x1000, 0xC000_0000, 0xC010_0000, 0xE000_0000, 0x1_0000_0000, HOME - 0x4000, HOME + 0x4000, (1 << 64) - 0x4000],
)
def test_a_window_outside_of_what_the_bridge_forwards_decodes_nothing(place: int) -> None:
    """RAM, for example, or the registers of another function."""
    with PciGuest(Shared()) as guest:
        assert guest.window == HOME
        before = guest.mmio.ranges()
        move_window(guest, place)
        assert guest.window is None
        assert guest.mmio.ranges() == before
        move_window(guest, HOME)
        assert guest.window == HOME
        works_after_reset(guest)


def test_windows_that_overlap() -> None:
    class Other(Function):
        def __init__(self) -> None:
            self.config = ConfigSpace(1, 2, pci.CLASS_OTHERS, bar_size=BAR_SIZE, window_size=0x8000)

    with PciGuest(Shared()) as guest:
        seen: list[tuple[str, int, int]] = []
        guest.bus._on_map = lambda _function, number, address: seen.append(("map", number, address))
        guest.bus._on_unmap = lambda _function, number, address: seen.append(("unmap", number, address))
        slot = guest.bus.add(Other(), HOME + 0x8000)
        other = ECAM + (slot << pci.ECAM_SHIFT)
        guest.mmio.write(other + pci.COMMAND, 2, pci.COMMAND_MEMORY)
        assert seen[1:] == [("map", 2, HOME + 0x8000)]
        seen.clear()
        move_window(guest, HOME + 0x8000 + 0x4000)
        assert seen == [("unmap", 2, HOME)], "into the place of the other, which was there first"
        guest.mmio.write(other + WINDOW_AT + 4, 4, 0)
        assert seen[1:] == [("unmap", 2, HOME + 0x8000), ("map", 2, HOME + 0xC000)]


def test_bars_that_overlap(guest: PciGuest) -> None:
    class Other(Function):
        def __init__(self) -> None:
            self.config = ConfigSpace(1, 2, pci.CLASS_OTHERS, bar_size=BAR_SIZE)

    seen: list[tuple[str, int]] = []
    guest.bus._on_map = lambda _function, _number, address: seen.append(("map", address))
    guest.bus._on_unmap = lambda _function, _number, address: seen.append(("unmap", address))
    slot = guest.bus.add(Other())
    other = ECAM + (slot << pci.ECAM_SHIFT)
    guest.mmio.write(other + pci.BASE_ADDRESS_0, 4, guest.bar)
    guest.mmio.write(other + pci.COMMAND, 2, pci.COMMAND_MEMORY)
    assert seen == [], "the one that was there first goes on"
    guest.config_write(pci.COMMAND, 2, 0)
    assert seen == [("unmap", guest.bar), ("map", guest.bar)]


@pytest.mark.parametrize("bar", [0, 1, 5, 255])
def test_the_window_of_every_offset_and_length(guest: PciGuest, bar: int) -> None:
    guest.start()
    at = guest.virtio[spec.PCI_CAP_PCI_CFG].at
    guest.config_write(at + 4, 1, bar)
    places = (0, 1, 2, 3, 0x14, 0xFC, 0xFFF, 0x1000, 0x2000, 0x3001, BAR_SIZE - 1, BAR_SIZE, 1 << 31, 0xFFFF_FFFF)
    for offset in places:
        for length in (0, 1, 2, 3, 4, 5, 8, 255, 0xFFFF_FFFF):
            guest.config_write(at + 8, 4, offset)
            guest.config_write(at + 12, 4, length)
            for size in (1, 2, 4):
                guest.config_read(at + 16, size)
                guest.config_write(at + 16, size, 0xFFFF_FFFF & (1 << 8 * size) - 1)
    works_after_reset(guest)


def test_two_cpus_at_once(guest: PciGuest) -> None:
    """One enables, moves and masks while the other sends requests and reads everything."""
    queue = guest.start()
    stop = threading.Event()

    def disturb() -> None:
        chance = random.Random(1)
        while not stop.is_set():
            guest.set_msix(chance.choice((0, pci.MSIX_FLAGS_ENABLE, pci.MSIX_FLAGS_ENABLE | pci.MSIX_FLAGS_MASKALL)))
            guest.config_write(pci.COMMAND, 2, chance.choice((0, 2, 6)))
            guest.config_write(pci.BASE_ADDRESS_0, 4, 0xC000_0000 + chance.randrange(64) * BAR_SIZE)
            guest.common(spec.PCI_COMMON_Q_MSIX, 2, chance.randrange(4))

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        for _ in range(200):
            with guest.scratch():
                queue.offer(queue.chain([guest.data(b"ping"), guest.room(4)]))
                guest.kicks[0].signal()
                guest.wait_for("an answer", queue.take_used)
    finally:
        stop.set()
        thread.join()
    works_after_reset(guest)
