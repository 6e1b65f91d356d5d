"""Saving and restoring: what a state is, which device has one, and that a device goes on where another one was."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.driver import Guest
from tests.net_driver import NetGuest
from tests.pci_driver import PciGuest
from tests.sample_devices import Echo, Shared
from vmm.bus import BusDevice
from vmm.devices import I8042, AcpiPm, PvPanic, Serial
from vmm.devices.pci_hotplug import CAME, LEAVE, PciHotplug
from vmm.errors import ConfigError
from vmm.events import EventFd
from vmm.pci import spec as pci
from vmm.pci.bus import PciBus
from vmm.saveable import Schema, State, Stateless, Unsaved
from vmm.virtio import spec
from vmm.virtio.balloon import BalloonConfig
from vmm.virtio.balloon.device import Balloon
from vmm.virtio.blk import DiskConfig
from vmm.virtio.blk.device import Blk
from vmm.virtio.console.device import VirtioConsole
from vmm.virtio.device import VirtioDevice
from vmm.virtio.fs import ShareConfig
from vmm.virtio.fs.device import Fs
from vmm.virtio.mmio import MmioRegisters
from vmm.virtio.net.device import Net
from vmm.virtio.pci import PciRegisters
from vmm.virtio.pmem import PmemConfig
from vmm.virtio.pmem.device import Pmem
from vmm.virtio.rng import RngConfig
from vmm.virtio.rng.device import Rng
from vmm.virtio.vsock.device import Vsock
from vmm.virtio.vsock.vhost import VhostVsock

SAVED = (
    *(Blk, Net, Balloon, VirtioConsole, Pmem, Rng, Vsock, Fs),
    *(Serial, PciHotplug, PciBus, AcpiPm, I8042, PvPanic, MmioRegisters, PciRegisters),
)
PARTS = Schema(
    "part", 3, {"small": "u8", "big": "u64", "flag": "bool", "name": "text", "raw": "bytes", "list": [{"x": "u16"}]}
)
GOOD: dict[str, Any] = {"small": 255, "big": 1 << 63, "flag": True, "name": "n", "raw": b"r", "list": [{"x": 1}]}


def test_a_state_is_read_as_it_was_made() -> None:
    state = State.from_plain(PARTS.make(**GOOD).plain(), "it")
    assert (state.kind, state.version) == ("part", 3)
    assert PARTS.read(state, "it") == GOOD


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"small": 256}, "256 is no u8"),
        ({"small": True}, "True is no u8"),
        ({"big": -1}, "-1 is no u64"),
        ({"flag": 1}, "1 is no bool"),
        ({"name": b"n"}, "b'n' is no text"),
        ({"raw": "r"}, "'r' is no bytes"),
        ({"list": {"x": 1}}, "dict is no list"),
        ({"list": [{"x": 1}, {"x": 1 << 16}]}, "list[1]: x"),
        ({"list": [{}]}, "list[0]"),
        ({"more": 1}, "more"),
    ],
)
def test_a_payload_of_other_fields_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        PARTS.read(PARTS.make(**{**GOOD, **change}), "it")
    assert caught.value.code == "restore-mismatch" and words in str(caught.value)


def test_another_kind_or_version_is_refused() -> None:
    for state in (State("part", 2, GOOD), State("whole", 3, GOOD)):
        with pytest.raises(ConfigError, match="part version 3 is wanted"):
            PARTS.read(state, "it")
    part = {"kind": "part", "version": 3}
    values: tuple[object, ...] = (None, [], part, {**part, "payload": []})
    for value in values:
        with pytest.raises(ConfigError, match="does not fit"):
            State.from_plain(value, "it")


# -- which device has a state -------------------------------------------------------------------------------------


def test_every_device_says_how_it_is_saved() -> None:
    for kind in SAVED:
        assert isinstance(kind.saving, Schema), kind
    kinds = [kind.saving.kind for kind in SAVED if not isinstance(kind.saving, (Stateless, Unsaved))]
    assert len(set(kinds)) == len(kinds)
    assert isinstance(VhostVsock.saving, Unsaved) and VhostVsock.saving.reason
    for base in (VirtioDevice, BusDevice):
        assert isinstance(base.saving, Unsaved), "whoever says nothing is not saved"


def test_a_device_that_cannot_be_saved_says_why_and_goes_on(tmp_path: Path) -> None:
    with Guest(Fs(ShareConfig(str(tmp_path), dax=2 << 20), "docs")) as guest:
        guest.start()
        with pytest.raises(ConfigError, match="share docs cannot be saved: its DAX window") as caught:
            guest.transport.save()
        assert caught.value.code == "not-saveable" and "unplug" in caught.value.hint
        assert guest.transport.runner.running


@pytest.mark.parametrize("make", [AcpiPm, I8042, PvPanic])
def test_registers_without_memory_have_no_state(make: Callable[[Any], BusDevice]) -> None:
    device = make(lambda _event: None)
    state = device.save()
    assert state.payload == {}
    device.restore(state)
    with pytest.raises(ConfigError, match="nothing version 1 is wanted"):
        device.restore(PARTS.make(**GOOD))


# -- devices that go on -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("virtqueues")
@pytest.mark.parametrize("where", [Guest, PciGuest])
def test_a_ring_goes_on_in_another_transport_with_requests_in_it(where: type[Guest]) -> None:
    with where(Echo()) as first:
        queue = first.start()
        for _ in range(70):  # more than once around the ring
            room = first.room(4)
            queue.send(first.data(b"ping"), room)
        first.turn_loop()
        first.transport.pause()
        waiting = [first.room(4) for _ in range(3)]
        queue.offer(*[queue.chain([first.data(b"late"), room]) for room in waiting])
        state = State.from_plain(first.transport.save().plain(), "it")
        with where(Echo(), memory=first.memory) as second:
            second.transport.restore(state)
            if isinstance(second, PciGuest):
                second.bus.look_again()
            second.queues, second.features, queue.guest = {0: queue}, first.features, second
            second.transport.resume()
            queue.wait(3)
            assert [second.memory.read(room.gpa, 4) for room in waiting] == [b"late"] * 3
            assert second.transport.save().payload["driver"] != state.payload["driver"]
            queue.guest = first


def test_the_region_that_the_driver_has_selected_is_saved() -> None:
    with Guest(Shared()) as first, Guest(Shared()) as second:
        first.write(spec.MMIO_SHM_SEL, 7)
        assert first.read(spec.MMIO_SHM_LEN_LOW) == 3 * 4096
        second.transport.restore(first.transport.save())
        assert second.read(spec.MMIO_SHM_LEN_LOW) == 3 * 4096


def change(state: State, part: str, **fields: Any) -> State:
    """*state* of a transport with other fields of its registers or device."""
    old: Any = state.payload[part]
    return State(state.kind, state.version, {**state.payload, part: {**old, "payload": {**old["payload"], **fields}}})


def test_a_vector_table_of_another_length_is_refused() -> None:
    with PciGuest(Echo()) as guest:
        state = guest.transport.save()
        registers: Any = state.payload["registers"]
        table = registers["payload"]["msix"]["payload"]["table"]
        for wrong in ({"table": table + b"x", "pending": []}, {"table": table, "pending": [3]}):
            msix = {**registers["payload"]["msix"], "payload": wrong}
            with pytest.raises(ConfigError, match="does not fit"):
                guest.transport.restore(change(state, "registers", msix=msix))


def test_a_vector_that_is_not_there_is_none() -> None:
    with PciGuest(Echo()) as guest:
        state = guest.transport.save()
        guest.transport.restore(change(state, "registers", vectors=[2, 3, 0xFFFF]))
        registers: Any = guest.transport.save().payload["registers"]
        assert registers["payload"]["vectors"] == [2, spec.MSI_NO_VECTOR, spec.MSI_NO_VECTOR]


def test_the_bus_has_what_the_guest_wrote_into_the_bridge() -> None:
    with PciGuest(Echo()) as first, PciGuest(Echo()) as second:
        first.bus.write(pci.INTERRUPT_LINE, 1, 0x5A)
        second.bus.restore(first.bus.save())
        assert second.bus.read(pci.INTERRUPT_LINE, 1) == 0x5A
        state = first.bus.save()
        first.bus.remove(first.slot)
        with pytest.raises(ConfigError, match="functions"):
            first.bus.restore(state)


def test_devices_that_came_and_were_not_looked_at() -> None:
    irq, other_irq = EventFd(), EventFd()
    first, second = PciHotplug(irq, print), PciHotplug(other_irq, print)
    first.announce(3)
    first.ask_to_leave(5)
    second.restore(first.save())
    assert other_irq.clear(), "the interrupt may have been lost"
    assert (second.read(CAME, 4), second.read(LEAVE, 4)) == (1 << 3, 1 << 5)
    irq.close()
    other_irq.close()


def test_a_disk_of_another_size_is_refused(tmp_path: Path) -> None:
    for name, size in (("a", 1 << 20), ("b", 2 << 20)):
        (tmp_path / name).write_bytes(bytes(size))
    first, second = (Blk(DiskConfig(str(tmp_path / name))) for name in "ab")
    state = first.save()
    first.restore(state)
    with pytest.raises(ConfigError, match="a disk of 2048 sectors, not 4096"):
        second.restore(state)
    first.close()
    second.close()


@pytest.mark.parametrize("wrong", [{"mac": b"short"}, {"pairs": 0}, {"pairs": 9}, {"offloads": 1 << 63}])
def test_a_network_card_that_cannot_be(wrong: dict[str, Any]) -> None:
    with NetGuest() as guest:
        guest.net.set_link(False)
        state = guest.transport.save()
        guest.net.set_link(True)
        with NetGuest(start=False) as other:
            with pytest.raises(ConfigError, match="does not fit"):
                other.transport.restore(change(state, "device", **wrong))
            assert other.net.link
        with NetGuest(start=False) as other:
            other.transport.restore(state)
            assert not other.net.link, "what the driver knows of the cable stays true"


def test_memory_of_a_file_stays_at_its_place(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(4 << 20))
    pmem = Pmem(PmemConfig(str(image)))
    pmem.region.gpa = 5 << 30
    state = pmem.save()
    pmem.restore(state)
    pmem.region.gpa = 6 << 30
    with pytest.raises(ConfigError, match="not 0x400000 at 0x180000000"):
        pmem.restore(state)
    pmem.close()


def test_a_balloon_larger_than_the_machine() -> None:
    state = Balloon(BalloonConfig(size=64 << 20), 128 << 20).save()
    with pytest.raises(ConfigError, match="more than this machine has"):
        Balloon(BalloonConfig(), 64 << 20).restore(state)


def test_a_console_keeps_its_size() -> None:
    first, second = VirtioConsole(), VirtioConsole()
    first.resize(132, 43)
    second.restore(first.save())
    assert second.read_config()[:4] == bytes((132, 0, 43, 0))
    first.close()
    second.close()


def test_random_bytes_go_on_in_another_machine() -> None:
    with Guest(Rng(RngConfig())) as first:
        first.start()
        with Guest(Rng(RngConfig())) as second:
            second.transport.restore(first.transport.save())
            assert second.status == first.status
            assert os.urandom(1)
