"""What has happened to a sandbox, for its clients: the last events, in memory."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST = 1000
_LONGEST = 1000
LEVELS = ("debug", "info", "warn", "error")


class Event(NamedTuple):
    """
    :ivar time: seconds since 1970
    """

    time: float
    level: str
    message: str
    fields: dict[str, str]


class Events:
    """Those of one sandbox."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque(maxlen=MOST)

    def note(self, message: str, level: str = "info", **fields: object) -> None:
        self._events.append(
            Event(time.time(), level, message, {name: str(value)[:_LONGEST] for name, value in fields.items()})
        )

    def __iter__(self) -> Iterator[Event]:
        """The oldest first."""
        return iter([*self._events])
