"""The entropy device (virtio 1.2, 5.4)."""

from __future__ import annotations

from tests.driver import Guest
from vmm.virtio import spec
from vmm.virtio.rng import device as rng


def test_a_guest_gets_random_bytes() -> None:
    with Guest(rng.Rng()) as guest:
        assert guest.read(spec.MMIO_DEVICE_ID) == spec.ID_ENTROPY
        queue = guest.start()
        first, second = guest.room(64), guest.room(64)
        assert queue.send(first).written == 64
        assert queue.send(second).written == 64
        assert len({guest.content(first), guest.content(second), b"\xee" * 64}) == 3


def test_a_huge_request_gets_a_part() -> None:
    with Guest(rng.Rng()) as guest:
        room = guest.room(1 << 20)
        assert guest.start().send(room).written == rng.MAX_REQUEST
        assert guest.content(room)[rng.MAX_REQUEST :] == b"\xee" * ((1 << 20) - rng.MAX_REQUEST)
