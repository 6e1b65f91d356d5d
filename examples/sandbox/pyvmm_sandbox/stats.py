"""What a sandbox uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_NO_LIMIT = 1 << 60
"""What the kernel reports without a limit is this, or more."""


@dataclass(frozen=True)
class Stats:
    """What a sandbox uses, as its kernel counts.  The machine around it is not included.

    :ivar cpu_seconds: CPU time since its start
    :ivar cpu_user_seconds: of that, in its programs
    :ivar cpu_throttled_seconds: that it has waited because of its limit
    :ivar memory: bytes, with its files in the page cache
    :ivar memory_limit: bytes; None: none
    :ivar cache: bytes of the page cache
    :ivar processes: how many run, with their threads
    :ivar processes_limit: None: none
    :ivar received: bytes of its network interfaces
    :ivar sent: likewise
    """

    cpu_seconds: float
    cpu_user_seconds: float
    cpu_throttled_seconds: float
    memory: int
    memory_limit: int | None
    cache: int
    processes: int
    processes_limit: int | None
    received: int
    sent: int


def stats_of(found: dict[str, Any]) -> Stats:
    """
    :param found: with the field names of ``runc events --stats``
    """
    cpu, memory, pids = found["cpu"], found["memory"], found["pids"]
    nets = found["network_interfaces"]
    return Stats(
        cpu["usage"]["total"] / 1e9,
        cpu["usage"]["user"] / 1e9,
        cpu["throttling"]["throttledTime"] / 1e9,
        memory["usage"]["usage"],
        _limit(memory["usage"]["limit"]),
        memory["cache"],
        pids["current"],
        _limit(pids["limit"]),
        sum(net["RxBytes"] for net in nets),
        sum(net["TxBytes"] for net in nets),
    )


def _limit(value: int) -> int | None:
    return value if 0 < value < _NO_LIMIT else None
