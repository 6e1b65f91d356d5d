"""Limits of devices: a :class:`~vmm.options.limit.LimitConfig` as the workers take it (``limit.c``)."""

from __future__ import annotations

from vmm.errors import HostError
from vmm.native import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmm.options.limit import LimitConfig


class Limit:
    """The limit that all queues of one device share. Closed after their workers were freed.

    :param config: or None: no limit
    """

    def __init__(self, config: LimitConfig | None) -> None:
        self.native: Any = ffi.NULL
        """cdata ``struct limit *``, NULL without a limit."""
        if config is None:
            return
        native = ffi.new("struct limit_config *")
        native.bytes, native.ops = config.bytes, config.ops
        native.bytes_burst = config.bytes_burst or config.bytes // 10
        native.ops_burst = config.ops_burst or config.ops // 10
        self.native = lib.limit_new(native)
        if self.native == ffi.NULL:
            raise HostError("no memory for a limit", code="memory-unavailable")

    def waits(self) -> int:
        """The number of times that a queue waited for the limit."""
        return 0 if self.native == ffi.NULL else int(lib.limit_waits(self.native))

    def close(self) -> None:
        """Close it.  A second call does nothing."""
        native, self.native = self.native, ffi.NULL
        lib.limit_free(native)
