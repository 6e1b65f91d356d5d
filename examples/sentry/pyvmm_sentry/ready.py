"""Children of a template that are made before they are requested: their program continues as soon as they are released.

A thread makes them.  For machines, it learns which pages of memory the children before touched first, and fills these
in advance.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from pyvmm_sentry.guest import Guest
from vmm import ConfigError, VmmError

PAUSE_S = 0.05
"""Before the next machine is made: the child that was taken begins to run meanwhile."""
SOON = 512
"""Pages of a child that count as touched soon after its start."""
MOST_TOUCHED = 2048
"""Pages that are filled in advance, 8 MiB."""
RECENT = 16
"""Children whose pages are read again, since they may have run little when they were read the last time."""


class Child(Protocol):
    """What does not run yet."""

    def close(self) -> None:
        """End it."""


C = TypeVar("C", bound=Child)


def closed_error() -> ConfigError:
    """Of a template."""
    return ConfigError("the template was closed", hint="fork before close()")


class Ready(Generic[C]):
    """Children that wait, and the thread that makes them.  Any thread may call any method.

    :param make: makes a child
    :param wanted: how many wait
    :param pause: seconds before the thread replaces a child that was taken
    """

    def __init__(self, make: Callable[[], C], wanted: int, *, pause: float = 0.0) -> None:
        self._make, self._wanted, self._pause = make, wanted, pause
        self._changed = threading.Condition()
        self._waiting: deque[C] = deque()
        self._making = 0
        """Threads that make a child now."""
        self._closed = self._failed = False
        self._thread = threading.Thread(target=self._main, name="sentry-ready", daemon=True)
        if wanted:
            self._thread.start()

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self) -> C:
        """A child, which waits already or is made now.

        :raises ConfigError: this was closed
        :raises VmmError: it cannot be made
        """
        with self._changed:
            child = self._waiting.popleft() if self._waiting and not self._closed else None
            self._failed = False
            self._changed.notify_all()
        return child or self._new()

    def _new(self) -> C:
        with self._changed:
            if self._closed:
                raise closed_error()
            self._making += 1
        try:
            return self._make()
        finally:
            with self._changed:
                self._making -= 1
                self._changed.notify_all()

    def _main(self) -> None:
        while self._wait():
            try:
                self._prepare()
                child = self._new()
            except VmmError:
                with self._changed:  # until the next fork, which reports what the host still refuses
                    self._failed = True
                continue
            with self._changed:
                self._waiting.append(child)

    def _wait(self) -> bool:
        """Wait until one is missing; False: this was closed."""
        with self._changed:
            while not self._closed and (self._failed or len(self._waiting) >= self._wanted):
                self._changed.wait()
                self._changed.wait_for(lambda: self._closed, self._pause)
            return not self._closed

    def _prepare(self) -> None:
        """Before the thread makes a child."""

    def close(self) -> None:
        """End those that wait.  None is made afterwards.  A second call does nothing."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._wanted:
            self._thread.join()
        with self._changed:
            self._changed.wait_for(lambda: not self._making)
            waiting = list(self._waiting)
            self._waiting.clear()
        for child in waiting:
            child.close()


class ReadyGuests(Ready[Guest]):
    """Machines, whose vCPUs are held; the caller of :meth:`take` releases them."""

    def __init__(self, make: Callable[[], Guest], wanted: int) -> None:
        self._make_guest = make
        self._taken: deque[Callable[[], list[int]]] = deque(maxlen=RECENT)
        self._touched: frozenset[int] = frozenset()
        super().__init__(self._filled, wanted, pause=PAUSE_S)

    def take(self) -> Guest:
        guest = super().take()
        self._taken.append(guest.machine.first_touched.pages)
        return guest

    def _filled(self) -> Guest:
        guest = self._make_guest()
        try:
            guest.machine.prefault(self._touched)
        except BaseException:
            guest.close()
            raise
        return guest

    def _prepare(self) -> None:
        if self._learn():
            self._fill_again()

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
                self._waiting.extend(waiting)
