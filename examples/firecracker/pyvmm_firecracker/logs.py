"""The log: lines that are appended to a file or written to standard output."""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING

from pyvmm_firecracker.files import append

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
        self._file = append(path, "log")

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
