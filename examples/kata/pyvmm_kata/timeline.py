"""When things happened on the way to a container and back: what ``--debug`` writes into the log.

Nothing is kept and nothing is asked for unless somebody reads it: most containers start without.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_tell: Callable[[str, float], None] | None = None


def tell(teller: Callable[[str, float], None]) -> None:
    """Have *teller* called with what happened and when, in seconds of CLOCK_MONOTONIC; in children of ours, too."""
    global _tell
    _tell = teller


def is_told() -> bool:
    """Whether somebody wants to know."""
    return _tell is not None


def note(what: str, at: float = 0.0) -> None:
    """Something has happened, now unless *at* says when."""
    if _tell is not None:
        _tell(what, at or time.monotonic())
