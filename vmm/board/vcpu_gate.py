"""Keeps vCPUs out of the guest for a while; imported at the first use."""

from __future__ import annotations

import time
from threading import Condition

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class Hold:
    """The place where the threads of vCPUs wait.

    A vCPU may be held for several reasons at a time, each a word that its owner chooses; it runs when none is left. The
    caller kicks a vCPU that it holds; its thread then comes to :meth:`stay`.
    """

    def __init__(self) -> None:
        self._condition = Condition()
        self._reasons: dict[int, set[str]] = {}
        self._here: dict[int, int] = {}
        """Those that wait: since when, in ns of CLOCK_MONOTONIC, or since the last :meth:`waited`."""
        self._gone: set[int] = set()
        self._over = False

    def add(self, reason: str, indexes: Iterable[int]) -> None:
        """Hold these vCPUs."""
        with self._condition:
            for index in indexes:
                self._reasons.setdefault(index, set()).add(reason)

    def wait(self, indexes: Iterable[int]) -> None:
        """Wait until none of these is in the guest any more; returns at once if the run is over."""
        wanted = set(indexes)
        with self._condition:
            while not (self._over or wanted <= self._here.keys() | self._gone):
                self._condition.wait()

    def drop(self, reason: str, indexes: Iterable[int], go: Callable[[int], None]) -> None:
        """Release them for *reason*.

        :param go: called for each that becomes free, before it runs; not when the run is over
        """
        with self._condition:
            for index in indexes:
                reasons = self._reasons.get(index, set())
                if reason not in reasons:
                    continue
                reasons.discard(reason)
                if not reasons and not self._over:
                    go(index)
            self._condition.notify_all()

    def waited(self, index: int, least: int) -> int:
        """For how many ns a vCPU has waited since the last call for it; 0 instead of fewer than *least*, which the next
        call includes, and if its thread is not here."""
        with self._condition:
            now = time.monotonic_ns()
            waited = now - self._here.get(index, now)
            if waited < least:
                return 0
            self._here[index] = now
            return waited

    def stay(self, index: int) -> None:
        """On a vCPU's own thread: wait until it is not held."""
        with self._condition:
            self._here[index] = time.monotonic_ns()
            self._condition.notify_all()
            while self._reasons.get(index) and not self._over:
                self._condition.wait()
            self._here.pop(index, None)

    def enter(self, index: int) -> None:
        """A vCPU has a thread again."""
        with self._condition:
            self._gone.discard(index)

    def leave(self, index: int) -> None:
        """A vCPU's thread ends."""
        with self._condition:
            self._gone.add(index)
            self._condition.notify_all()

    def end(self) -> None:
        """The run has ended: release all waiting threads."""
        with self._condition:
            self._over = True
            self._condition.notify_all()
