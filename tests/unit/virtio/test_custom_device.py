"""The example of a custom device, driven as Linux's virtio-rng drives it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from tests.driver import Guest
from vmm.virtio import spec

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "custom_device.py"


def test_the_pattern_goes_on_from_request_to_request() -> None:
    location = importlib.util.spec_from_file_location("custom_device", EXAMPLE)
    assert location is not None and location.loader is not None
    example = importlib.util.module_from_spec(location)
    location.loader.exec_module(example)
    with Guest(example.Pattern()) as guest:
        assert guest.read(spec.MMIO_DEVICE_ID) == spec.ID_ENTROPY
        queue = guest.start()
        data = b""
        for size in (1, 5, 64, 12, 7):
            room = guest.room(size)
            assert queue.send(room).written == size
            data += guest.content(room)
        assert data == (b"hello guest\n" * 8)[: len(data)]
        assert queue.send(guest.room(100_000)).written == example.MAX_REQUEST


def test_the_example_is_short() -> None:
    assert len(EXAMPLE.read_text().splitlines()) < 60
