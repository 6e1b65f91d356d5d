"""Times of the steps of a container's start and end, which ``--debug`` writes into the log.

Without ``--debug`` nothing is recorded.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_tell: Callable[[str, float], None] | None = None


def tell(teller: Callable[[str, float], None]) -> None:
    """Call *teller* with each event and its time, in seconds of CLOCK_MONOTONIC; in children of this process, too."""
    global _tell
    _tell = teller


def is_told() -> bool:
    """Whether events are recorded."""
    return _tell is not None


def note(what: str, at: float = 0.0) -> None:
    """Record an event, which happened at *at*, by default now."""
    if _tell is not None:
        _tell(what, at or time.monotonic())
