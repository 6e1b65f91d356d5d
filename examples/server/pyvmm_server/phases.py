"""The phases of a sandbox's start, as the server sees them: what they took answers why a start was slow."""

from __future__ import annotations

import time

Phase = tuple[str, float, float]
"""Its name, its begin and its end, in seconds of CLOCK_MONOTONIC: the clock of the steps of the sandbox library."""
SAVE, PREPARE, START = "save the parent", "find the template", "start the sandbox"


class Phases:
    """Each begins at the end of the one before.

    :ivar found: those that have ended
    """

    def __init__(self, found: list[Phase] | None = None) -> None:
        self.found = list(found or ())
        self._last = self.found[-1][2] if self.found else time.monotonic()

    def end(self, name: str) -> None:
        """A phase has ended."""
        now = time.monotonic()
        self.found.append((name, self._last, now))
        self._last = now
