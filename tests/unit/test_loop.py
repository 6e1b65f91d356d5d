"""Timers of the control loop."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from vmm.events import EventFd, Loop

LONG = 3600.0


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


def test_a_timer_rings_once(loop: Loop) -> None:
    rung: list[int] = []
    loop.call_later(0, lambda: rung.append(1))
    for _ in range(3):
        loop.run_once(0)
    assert rung == [1]


def test_timers_ring_although_no_descriptor_is_ready_and_stop_a_wait(loop: Loop) -> None:
    loop.call_later(0.01, loop.stop)
    loop.call_later(LONG, lambda: pytest.fail("too early"))
    loop.run()


def test_a_timer_that_is_set_by_another_thread_wakes_the_loop(loop: Loop) -> None:
    waits = threading.Event()
    event = EventFd()

    def tell(_events: int) -> None:
        event.clear()
        waits.set()

    loop.add(event.fd, tell)
    thread = threading.Thread(target=loop.run)
    thread.start()
    event.signal()
    assert waits.wait(20)
    loop.call_later(0.01, loop.stop)
    thread.join(20)
    assert not thread.is_alive()
    event.close()


def test_a_cancelled_timer_does_not_ring(loop: Loop) -> None:
    rung: list[str] = []
    other = loop.call_later(0, lambda: rung.append("cancelled"))
    loop.call_later(0, lambda: rung.append("rung"))
    other.cancel()
    loop.run_once(0)
    loop.run_once(0)
    assert rung == ["rung"]
    other.cancel()


def test_a_timer_may_set_another_one(loop: Loop) -> None:
    def again() -> None:
        loop.call_later(0, loop.stop)

    loop.call_later(0, again)
    loop.run()
