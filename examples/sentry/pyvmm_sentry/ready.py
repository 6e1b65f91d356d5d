"""Children of a template that are made before they are requested: their program continues as soon as they are released.

A thread makes them. It learns which pages of memory the children before touched first, and fills these in advance.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from pyvmm_sentry.guest import Guest
from vmm import VmmError

PAUSE_S = 0.05
"""Before the next one is made: the child that was taken begins to run meanwhile."""
SOON = 512
"""Pages of a child that count as touched soon after its start."""
MOST_TOUCHED = 2048
"""Pages that are filled in advance, 8 MiB."""
RECENT = 16
"""Children whose pages are read again, since they may have run little when they were read the last time."""


class Ready:
    """Children that wait, and the thread that makes them.  Any thread may call any method.

    :param make: makes a child, whose vCPUs are held
    :param wanted: how many wait
    """

    def __init__(self, make: Callable[[], Guest], wanted: int) -> None:
        self._make, self._wanted = make, wanted
        self._changed = threading.Condition()
        self._waiting: deque[Guest] = deque()
        self._taken: deque[Callable[[], list[int]]] = deque(maxlen=RECENT)
        self._touched: frozenset[int] = frozenset()
        self._closed = self._failed = False
        self._thread = threading.Thread(target=self._main, name="sentry-ready", daemon=True)
        if wanted:
            self._thread.start()

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self) -> Guest:
        """A child, which waits already or is made now; the caller releases it.

        :raises VmmError: it cannot be made
        """
        with self._changed:
            guest = self._waiting.popleft() if self._waiting else None
            self._failed = False
            self._changed.notify()
        if guest is None:
            guest = self._filled()
        self._taken.append(guest.machine.first_touched.pages)
        return guest

    def _filled(self) -> Guest:
        guest = self._make()
        try:
            guest.machine.prefault(self._touched)
        except BaseException:
            guest.close()
            raise
        return guest

    def _main(self) -> None:
        while self._wait():
            try:
                if self._learn():
                    self._fill_again()
                guest = self._filled()
            except VmmError:
                self._failed = True  # until the next fork, which reports what the host still refuses
                continue
            with self._changed:
                kept = not self._closed
                if kept:
                    self._waiting.append(guest)
            if not kept:
                guest.close()

    def _wait(self) -> bool:
        """Wait until one is missing; False: this was closed."""
        with self._changed:
            while not self._closed and (self._failed or len(self._waiting) >= self._wanted):
                self._changed.wait()
                self._changed.wait_for(lambda: self._closed, PAUSE_S)
            return not self._closed

    def _learn(self) -> bool:
        """Collect the pages that children have touched first; returns whether there are new ones."""
        touched = set(self._touched)
        for pages in tuple(self._taken):
            touched.update(pages()[: min(SOON, MOST_TOUCHED - len(touched))])
        are_new = len(touched) > len(self._touched)
        self._touched = frozenset(touched)
        return are_new

    def _fill_again(self) -> None:
        """Fill the new pages of those that wait."""
        with self._changed:
            waiting = list(self._waiting)
            self._waiting.clear()
        try:
            for guest in waiting:
                guest.machine.prefault(self._touched)
        finally:
            with self._changed:
                closed = self._closed
                if not closed:
                    self._waiting.extend(waiting)
            for guest in waiting if closed else ():
                guest.close()

    def close(self) -> None:
        """End those that wait.  A second call does nothing."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._wanted:
            self._thread.join()
        while self._waiting:
            self._waiting.popleft().close()
