"""The device's guard and its life: what a transport does for, and to, any device."""

from __future__ import annotations

import logging
import time

import pytest

from tests.driver import ALL_STATUS, DriverQueue, Guest
from tests.sample_devices import Broken, Echo, Holder, Picky
from vmm.errors import ConfigError
from vmm.virtio import spec
from vmm.virtio.mmio import MmioRegisters
from vmm.virtio.queue import Queue


def ping(guest: Guest, queue: DriverQueue, data: bytes = b"ping") -> None:
    room = guest.room(len(data))
    queue.send(guest.data(data), room)
    assert guest.content(room) == data


# -- the guard ---------------------------------------------------------------------------------------------------------


def test_a_guests_mistake_stops_the_device_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    with Guest(Picky()) as guest, Guest(Echo()) as bystander:
        queue, other = guest.start(), bystander.start()
        ping(guest, queue)
        with caplog.at_level(logging.WARNING):
            queue.offer(queue.chain([guest.data(b"evil"), guest.room(4)]))
            queue.kick()
            guest.wait_needs_reset()
        assert [record.message for record in caplog.records] == [
            "picky stopped until its driver resets it: the guest said evil"
        ]
        ping(bystander, other)
        assert guest.start(), "after a reset it works again"
        ping(guest, guest.queues[0])


def test_what_was_answered_before_the_mistake_reaches_the_driver() -> None:
    with Guest(Picky()) as guest:
        queue = guest.start()
        good = queue.chain([guest.data(b"good"), guest.room(4)])
        queue.offer(good, queue.chain([guest.data(b"evil"), guest.room(4)]))
        queue.kick()
        guest.wait_needs_reset()
        assert [used.head for used in queue.take_used()] == [good]


@pytest.mark.parametrize("end", ["reset", "mistake", "pause", "close"])
def test_a_stop_that_finds_broken_chains(end: str, caplog: pytest.LogCaptureFixture) -> None:
    """It has stopped all the same, gives the guest's memory back, and what happened first is what is told."""
    with Guest(Broken()) as guest, caplog.at_level(logging.WARNING):
        queue = guest.start()
        ping(guest, queue)
        if end == "reset":
            guest.reset()
            assert guest.status == 0
        elif end == "mistake":
            queue.offer(queue.chain([guest.data(b"evil"), guest.room(4)]))
            queue.kick()
            guest.wait_needs_reset()
            assert [record.message.partition(": ")[2] for record in caplog.records] == ["the guest said evil"]
        elif end == "pause":
            guest.transport.pause()
            assert guest.status & spec.DEVICE_NEEDS_RESET
            assert "a chain under way was changed" in caplog.text
        if end != "close":
            ping(guest, guest.start())


def test_failures_are_not_logged_without_end(caplog: pytest.LogCaptureFixture) -> None:
    with Guest(Picky()) as guest, caplog.at_level(logging.WARNING):
        for _ in range(20):
            queue = guest.start()
            queue.offer(queue.chain([guest.data(b"evil"), guest.room(4)]))
            queue.kick()
            guest.wait_needs_reset()
        assert guest.transport.failures == 20
        assert len(caplog.records) == 5
        assert "not reported" in caplog.records[-1].message


def test_a_bug_in_a_device_is_not_hidden() -> None:
    def run() -> None:
        with Guest(Picky()) as guest:
            queue = guest.start()
            queue.offer(queue.chain([guest.data(b"bug!"), guest.room(4)]))
            queue.kick()
            guest.wait_for("the loop has ended", lambda: guest.error is not None)

    with pytest.raises(RuntimeError, match="a bug in the device"):
        run()


# -- turns -------------------------------------------------------------------------------------------------------------


def test_more_chains_than_one_turn_takes_are_all_answered() -> None:
    class Lazy(Echo):
        def process(self, queue: Queue) -> None:
            self.calls += 1
            chain = queue.pop()
            if chain is not None:
                queue.push(chain)

    with Guest(device := Lazy()) as guest:
        queue = guest.start()
        queue.offer(*[queue.chain([guest.room(1)]) for _ in range(30)])
        queue.kick()
        assert len(queue.wait(30)) == 30
        assert device.calls >= 30


def test_chains_left_on_purpose_do_not_keep_the_loop_busy() -> None:
    with Guest(device := Holder(take=False)) as guest:
        queue = guest.start()
        queue.offer(queue.chain([guest.room(1)]))
        queue.kick()
        guest.turn_loop()
        calls = device.calls
        guest.turn_loop()
        assert device.calls == calls


def test_an_empty_queue_does_not_keep_the_loop_busy() -> None:
    with Guest(device := Echo()) as guest:
        queue = guest.start()
        ping(guest, queue)
        guest.turn_loop()
        calls = device.calls
        guest.turn_loop()
        assert device.calls == calls


@pytest.mark.parametrize("without", [0, spec.F_EVENT_IDX, spec.F_INDIRECT_DESC])
def test_thousands_of_requests_one_after_the_other(without: int) -> None:
    with Guest(Echo()) as guest:
        queue = guest.start(guest.offered() & ~without, size=4)
        with guest.scratch():
            data, room = guest.data(b"ping"), guest.room(4)
            for _ in range(3000):
                queue.send(data, room)
        assert guest.content(room) == b"ping"


def test_no_interrupt_where_the_driver_wants_none() -> None:
    with Guest(Echo()) as guest:
        queue = guest.start(guest.offered() & ~spec.F_EVENT_IDX)
        queue.write_avail_flags(spec.AVAIL_F_NO_INTERRUPT)
        queue.offer(queue.chain([guest.room(1)]))
        queue.kick()
        guest.wait_for("the answer", queue.take_used)
        guest.turn_loop()
        guest.expect_no_irq()


def test_statistics() -> None:
    with Guest(Picky()) as guest:
        queue = guest.start()
        for _ in range(3):
            ping(guest, queue)
        stats = guest.transport.stats()
        assert (stats["name"], stats["failures"]) == ("picky", 0)
        assert 1 <= int(stats["interrupts"]) <= 3
        assert int(stats["kicks"]) >= 3
        queue.offer(queue.chain([guest.data(b"evil")]))
        queue.kick()
        guest.wait_needs_reset()
        assert guest.transport.stats()["failures"] == 1


# -- life --------------------------------------------------------------------------------------------------------------


def test_reset_stops_before_it_forgets() -> None:
    with Guest(device := Echo()) as guest:
        guest.start()
        device.log.clear()
        guest.reset()
        assert device.log == ["stop", "reset"]


def test_a_kick_that_meets_a_reset_is_not_taken_for_the_next_drivers() -> None:
    with Guest(Picky()) as guest:
        queue = guest.start()
        with guest.transport.lock:
            queue.kick()
            time.sleep(0.02)  # for the loop to come to the lock with this kick in hand
            queue = guest.start()
            queue.offer(queue.chain([guest.data(b"ping"), guest.room(4)]))
            queue.kick()
        assert len(queue.wait()) == 1


def restore_anew(guest: Guest) -> None:
    """Give it a new transport with a new device on the old memory, made from what the old one saved."""
    state = guest.transport.save()
    guest.transport.close()
    guest.device = type(guest.device)()
    guest.registers = MmioRegisters(guest.device, guest.memory, guest.loop, guest.irq, guest.kicks, packed=guest.packed)
    guest.transport = guest.registers.transport
    guest.transport.restore(state)


@pytest.mark.usefixtures("virtqueues")
@pytest.mark.parametrize("stage", ["reset", "negotiated", "half set up", "running", "broken", "failed"])
def test_state_is_data(stage: str) -> None:
    with Guest(Picky()) as guest:
        queue = None
        if stage != "reset":
            guest.negotiate()
        if stage in ("half set up", "running", "broken"):
            queue = guest.add_queue(0, 16)
        if stage in ("running", "broken"):
            guest.driver_ok()
            assert queue is not None
            for _ in range(20):
                ping(guest, queue)
        if stage == "broken":
            assert queue is not None
            queue.offer(queue.chain([guest.data(b"evil")]))
            queue.kick()
            guest.wait_needs_reset()
        if stage == "failed":
            guest.status |= spec.FAILED
        guest.write(spec.MMIO_DEVICE_FEATURES_SEL, 1)
        before = bytearray(guest.registers.page)
        restore_anew(guest)
        guest.transport.resume()
        after = bytearray(guest.registers.page)
        assert after[0xFC] == before[0xFC] + 1, "what was read of the configuration is not to be trusted"
        before[0xFC:0x100] = after[0xFC:0x100]
        assert after == before
        if stage in ("negotiated", "half set up"):
            queue = queue or guest.add_queue(0, 16)
            guest.driver_ok()
        if stage in ("negotiated", "half set up", "running"):
            assert queue is not None
            assert guest.status == ALL_STATUS
            ping(guest, queue)
        guest.start()
        ping(guest, guest.queues[0])


def test_a_kick_while_paused_is_not_lost() -> None:
    with Guest(Picky()) as guest:
        queue = guest.start()
        ping(guest, queue)
        guest.transport.pause()
        queue.offer(queue.chain([guest.data(b"ping"), guest.room(4)]))
        queue.kick()
        guest.turn_loop()
        assert queue.take_used() == []
        guest.transport.resume()
        assert len(queue.wait()) == 1


def test_saving_leaves_a_running_device_running() -> None:
    with Guest(Picky()) as guest:
        queue = guest.start()
        ping(guest, queue)
        first = guest.transport.save()
        ping(guest, queue)
        assert first.payload["driver"]["queues"][0]["next_index"] == 1
        assert guest.transport.save().payload["driver"]["queues"][0]["next_index"] == 2
        ping(guest, queue)


def test_a_paused_device_can_be_reset() -> None:
    with Guest(Picky()) as guest:
        guest.start()
        guest.transport.pause()
        guest.reset()
        guest.transport.resume()
        assert guest.status == 0
        ping(guest, guest.start())


def test_the_state_of_another_device_is_refused() -> None:
    with Guest(Echo()) as guest, Guest(Holder()) as other:
        guest.start()
        with pytest.raises(ConfigError, match="does not fit: "):
            other.transport.restore(guest.transport.save())
        state = guest.transport.save()
        state.payload["driver"]["driver_features"] |= 1 << 20
        with pytest.raises(ConfigError, match="does not fit: "):
            guest.transport.restore(state)
