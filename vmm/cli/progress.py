"""How far something is, on standard error, once it has taken two seconds."""

from __future__ import annotations

import sys
import time

_SECONDS = 2.0


class Progress:
    """Called with how many bytes of how many are done.

    :param what: what is done to them, as ``saved``
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._next = time.monotonic() + _SECONDS

    def __call__(self, done: int, size: int) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _SECONDS
            sys.stderr.write(f"pyvmm: {done >> 20} of {size >> 20} MiB {self._what}\n")
            sys.stderr.flush()
