"""The shim's log: lines in the form of containerd's own, into the FIFO that containerd copies to its log."""

from __future__ import annotations

import os
import time


class Log:
    """Writes lines to containerd. Nothing waits for a reader: what it does not take is lost.

    :param path: of the FIFO `log` in the bundle
    """

    def __init__(self, path: str) -> None:
        try:
            # For reading as well: so it opens without a reader, and outlives one (fifo(7)).
            self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            self._fd = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)

    def fileno(self) -> int:
        """The descriptor."""
        return self._fd

    def info(self, text: str) -> None:
        """Something that an administrator may want to know."""
        self._write("info", text)

    def error(self, text: str) -> None:
        """Something that went wrong."""
        self._write("error", text)

    def _write(self, level: str, text: str) -> None:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
        quoted = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        try:
            os.write(
                self._fd, f'time="{stamp}Z" level={level} msg="{quoted}" runtime=io.containerd.pyvmm.v2\n'.encode()
            )
        except OSError:
            pass
