"""The wait of a process that holds a machine and does nothing meanwhile."""

from __future__ import annotations

import contextlib
import os
import threading

from vmm import warm_wait

SOON_S = 0.05
"""Until a thread that has called :meth:`IdleWait.tidy` waits again."""


class IdleWait:
    """An event that happens once. Any thread may call any method but :meth:`wait_idle`."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._fd = -1

    def set(self) -> None:
        """It has happened."""
        self._event.set()
        if self._fd >= 0:
            os.eventfd_write(self._fd, 1)

    def is_set(self) -> bool:
        """It has happened."""
        return self._event.is_set()

    def tidy(self) -> None:
        """Others are idle again: give back the memory that they have used meanwhile."""
        if self._fd >= 0:
            os.eventfd_write(self._fd, 1)

    def wait(self, timeout: float) -> bool:
        """Wait for it, at most *timeout* seconds; returns whether it has happened."""
        return self._event.wait(timeout)

    def wait_idle(self) -> None:
        """Wait for it, with the memory that an idle process needs. Once, on the main thread."""
        try:
            self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except OSError:  # no descriptor is left
            self._event.wait()
        while not self._event.is_set():
            warm_wait(self._fd)
            with contextlib.suppress(BlockingIOError):  # a signal was handled
                os.eventfd_read(self._fd)
            self._event.wait(SOON_S)
