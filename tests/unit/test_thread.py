"""Threads without `threading`: when one has been joined, the interpreter knows nothing of it any more."""

from __future__ import annotations

import _thread
import sys
from collections.abc import Iterator

import pytest

from vmm.faststart.thread import ClosingTogether, Thread, ThreadAhead


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads that lose the interpreter's lock wherever they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("restless")
def test_a_thread_that_was_joined_has_ended() -> None:
    """One that comes back for the lock while the process ends is ended by pthread_exit(3), which a jail does not allow:
    the status of a machine that was powered off was 1."""
    before = _thread._count()
    for _ in range(300):
        threads = [Thread(lambda: None, "short") for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
            thread.join()
        assert _thread._count() == before


@pytest.mark.usefixtures("restless")
def test_one_made_ahead_too() -> None:
    before = _thread._count()
    done: list[int] = []
    for number in range(100):
        thread = ThreadAhead("ahead")
        thread.begin(lambda number=number: done.append(number))  # type: ignore[misc]
        thread.join()
        ThreadAhead("idle").close()
        assert _thread._count() == before
    assert done == list(range(100))


def test_what_was_not_started_is_joined_at_once() -> None:
    Thread(lambda: None, "never").join()
    with ClosingTogether():
        pass


def test_a_thread_may_join_itself() -> None:
    joined: list[bool] = []

    def work() -> None:
        thread.join()
        joined.append(True)

    thread = Thread(work, "self")
    thread.start()
    thread.join()
    assert joined == [True]
