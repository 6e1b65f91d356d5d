"""The example of a custom device, driven as Linux's virtio-rng drives it."""

from __future__ import annotations

import importlib.util
import os
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import descriptors
from tests.driver import Guest
from vmm import BootConfig, ConfigError, LimitConfig, MachineConfig, RngConfig
from vmm.virtio import spec
from vmm.virtio.rng import device as rng

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


# -- the entropy device (virtio 1.2, 5.4) ----------------------------------------------------------------------------


def test_a_guest_gets_random_bytes() -> None:
    with Guest(rng.Rng(RngConfig())) as guest:
        assert guest.read(spec.MMIO_DEVICE_ID) == spec.ID_ENTROPY
        queue = guest.start()
        first, second = guest.room(64), guest.room(64)
        assert queue.send(first).written == 64
        assert queue.send(second).written == 64
        assert len({guest.content(first), guest.content(second), b"\xee" * 64}) == 3
        assert guest.device.stats() == {"requests": 2, "bytes": 128, "waits": 0}


def test_a_huge_request_gets_a_part() -> None:
    with Guest(rng.Rng(RngConfig())) as guest:
        room = guest.room(1 << 20)
        assert guest.start().send(room).written == rng.MAX_REQUEST
        assert guest.content(room)[rng.MAX_REQUEST :] == b"\xee" * ((1 << 20) - rng.MAX_REQUEST)


def test_a_request_without_room_gets_nothing() -> None:
    with Guest(rng.Rng(RngConfig())) as guest:
        queue = guest.start()
        assert queue.send(guest.data(b"no room")).written == 0
        assert queue.send(guest.room(8)).written == 8


def test_a_limit_holds_the_next_request_back_and_nothing_else() -> None:
    """A day's worth is given at once to the first; a reset does not wait for the second, and does not pay for it."""
    with Guest(rng.Rng(RngConfig(limit=LimitConfig(1)))) as guest:
        queue = guest.start()
        assert queue.send(guest.room(1 << 16)).written == 1 << 16
        queue.offer(queue.chain([guest.room(8)]))
        for _ in range(3):
            queue.kick()
        guest.wait_for("the limit", lambda: guest.device.stats()["waits"] > 0)
        guest.turn_loop()
        assert not queue.has_used()
        guest.reset()
        waits = guest.device.stats()["waits"]
        queue = guest.start()
        queue.offer(queue.chain([guest.room(8)]))
        queue.kick()
        guest.wait_for("the limit", lambda: guest.device.stats()["waits"] > waits)
        assert not queue.has_used()


def test_what_the_limit_holds_back_comes_later() -> None:
    before = descriptors()
    with Guest(rng.Rng(RngConfig(limit=LimitConfig(10 << 20, 1)))) as guest:
        queue = guest.start()
        for _ in range(20):
            assert queue.send(guest.room(1 << 14)).written == 1 << 14
        assert guest.device.stats()["waits"] > 0
    assert descriptors() <= before


@pytest.fixture
def terminal() -> Iterator[tuple[int, str]]:
    """A character device that has what is written into it: its other end, and its path."""
    control, device = os.openpty()
    tty.setraw(device)
    yield control, os.ttyname(device)
    os.close(control)
    os.close(device)


def test_another_source() -> None:
    with Guest(rng.Rng(RngConfig("/dev/zero"))) as guest:
        room = guest.room(100)
        assert guest.start().send(room).written == 100
        assert guest.content(room) == bytes(100)


def test_a_source_that_has_nothing_yet_is_waited_for(terminal: tuple[int, str]) -> None:
    control, path = terminal
    with Guest(rng.Rng(RngConfig(path))) as guest:
        queue, room = guest.start(), guest.room(100)
        queue.offer(queue.chain([room]))
        queue.ask_irq()
        queue.kick()
        guest.wait_for("the source", lambda: guest.device.stats()["waits"] > 1)
        assert not queue.has_used()
        os.write(control, b"entropy")
        (used,) = queue.wait()
        assert (used.written, guest.content(room)[:7]) == (7, b"entropy")


def test_a_reset_while_the_source_has_nothing(terminal: tuple[int, str]) -> None:
    control, path = terminal
    with Guest(rng.Rng(RngConfig(path))) as guest:
        queue = guest.start()
        queue.offer(queue.chain([guest.room(100)]))
        queue.kick()
        guest.wait_for("the source", lambda: guest.device.stats()["waits"] > 0)
        guest.reset()
        os.write(control, b"entropy")
        assert guest.start().send(guest.room(100)).written == 7


def test_a_pause_while_the_source_has_nothing(terminal: tuple[int, str]) -> None:
    """The request stays in the ring, and is answered afterwards."""
    with Guest(rng.Rng(RngConfig(terminal[1]))) as guest:
        queue, room = guest.start(), guest.room(100)
        queue.offer(queue.chain([room]))
        queue.ask_irq()
        queue.kick()
        guest.wait_for("the source", lambda: guest.device.stats()["waits"] > 0)
        guest.transport.pause()
        assert not queue.has_used()
        guest.transport.resume()
        os.write(terminal[0], b"entropy")
        (used,) = queue.wait()
        assert (used.written, guest.content(room)[:7]) == (7, b"entropy")


def test_a_source_that_ends_stops_the_device_alone() -> None:
    with Guest(rng.Rng(RngConfig("/dev/null"))) as guest:
        queue = guest.start()
        queue.offer(queue.chain([guest.room(100)]))
        queue.kick()
        guest.wait_needs_reset()
        assert guest.transport.failures == 1
        guest.reset()
        queue = guest.start()
        queue.offer(queue.chain([guest.room(100)]))
        queue.kick()
        guest.wait_needs_reset()
        assert guest.transport.failures == 2


@pytest.mark.parametrize(("path", "words"), [("not-there", "No such file"), ("file", "not a character device")])
def test_what_is_no_source(path: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(4096))
    with pytest.raises(ConfigError, match=words) as caught:
        rng.Rng(RngConfig(str(tmp_path / path)))
    assert caught.value.code == "rng-source" and caught.value.hint


def test_a_fifo_is_no_source_and_nobody_waits_for_its_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ConfigError, match="not a character device"):
        rng.Rng(RngConfig(str(tmp_path / "fifo")))


def test_nothing_is_left_open() -> None:
    before = descriptors()
    device = rng.Rng(RngConfig("/dev/zero"))
    device.close()
    device.close()
    assert descriptors() <= before


@pytest.mark.parametrize(
    ("texts", "config"),
    [
        (["on"], RngConfig()),
        (["source=/dev/random"], RngConfig("/dev/random")),
        (["bps=64K:1M"], RngConfig(limit=LimitConfig(64 << 10, 1 << 20))),
        (["off", "on"], RngConfig()),
    ],
)
def test_what_users_type(texts: list[str], config: RngConfig) -> None:
    assert RngConfig.parse_all(texts) == (config,)


def test_off_is_none_at_all_and_on_is_what_a_machine_has() -> None:
    assert RngConfig.parse_all(["on", "off"]) == ()
    assert MachineConfig(BootConfig("vmlinux")).rng == RngConfig()


@pytest.mark.parametrize("text", ["", "yes", "on,bps=1", "off,source=/dev/random", "source=", "bps=0", "bps=1,bps=1"])
def test_what_users_may_not_type(text: str) -> None:
    with pytest.raises(ConfigError, match="--rng"):
        RngConfig.parse_all([text])


@pytest.mark.parametrize("limit", [LimitConfig(), LimitConfig(ops=1), LimitConfig(1, ops=1)])
def test_a_limit_of_requests_is_refused(limit: LimitConfig) -> None:
    with pytest.raises(ConfigError, match="only bytes can be limited"):
        RngConfig(limit=limit)
