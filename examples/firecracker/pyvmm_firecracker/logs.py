"""The log, and the metrics: lines that are appended to files or written to standard output."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import TYPE_CHECKING

from pyvmm_firecracker.fault import Fault

if TYPE_CHECKING:
    from typing import Any

LEVELS = ("Off", "Error", "Warning", "Info", "Debug", "Trace")


class Log:
    """Lines of ``PUT /logger``; to standard output until a file is named.  Any thread.

    :param name: of the instance
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._file: Any = None
        self._lock = threading.Lock()
        self.level = "Info"
        self.show_level = False

    def open(self, path: str) -> None:
        """
        :raises Fault: it cannot be opened
        """
        self._file = _append(path, "log")

    def write(self, level: str, message: str) -> None:
        """A line, if *level* is shown."""
        if LEVELS.index(level) > LEVELS.index(self.level):
            return
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(now)) + f".{int(now % 1 * 1e9):09}"
        shown = f":{level.upper()}" if self.show_level else ""
        line = f"{stamp} [{self._name}:{threading.current_thread().name}{shown}] {message}\n"
        with self._lock:
            try:
                print(line, end="", file=self._file or sys.stdout, flush=True)
            except (OSError, ValueError):
                pass  # nobody reads it, or the disk is full: no reason to end the machine


class Metrics:
    """What was counted, one JSON object a line.

    :ivar requests: by method and section
    :ivar latencies: of the last call of each kind, in µs
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._file: Any = None
        self._fields: dict[str, Any] = {}
        self.requests: dict[str, dict[str, int]] = {}
        self.latencies: dict[str, int] = {}

    def open(self, path: str, *, emit_id: bool, properties: dict[str, Any]) -> None:
        """
        :raises Fault: it cannot be opened
        """
        self._file = _append(path, "metrics")
        self._fields = {**({"id": self._name} if emit_id else {}), **({"properties": properties} if properties else {})}

    @property
    def is_open(self) -> bool:
        """There is a file."""
        return self._file is not None

    def count(self, method: str, section: str, *, failed: bool) -> None:
        """A request."""
        counts = self.requests.setdefault(f"{method.lower()}_api_requests", {})
        for name in (f"{section}_count", *((f"{section}_fails",) if failed else ())):
            counts[name] = counts.get(name, 0) + 1

    def flush(self, figures: dict[str, Any]) -> None:
        """Write a line.

        :raises Fault: it cannot be written
        """
        line = {"utc_timestamp_ms": int(time.time() * 1000), **self._fields, **self.requests}
        try:
            print(json.dumps({**line, "latencies_us": self.latencies, **figures}), file=self._file, flush=True)
        except OSError as error:
            raise Fault(f"Failed to write metrics: {error.strerror}.") from error


def _append(path: str, what: str) -> Any:
    """A FIFO without a reader is refused instead of waited for."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Fault(f"Failed to open the {what} file {path}: {error.strerror}.") from error
    return os.fdopen(fd, "w")
