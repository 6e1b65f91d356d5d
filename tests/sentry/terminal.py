"""A terminal of the host for tests: a program runs on its slave side, tests type and read on its master side."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

_PATIENCE = 300.0


class Terminal:
    """Runs a command as the leader of a session on a terminal.

    :param size: rows and columns
    :ivar modes: those of the terminal before the start
    """

    def __init__(
        self, command: Sequence[str], environment: dict[str, str] | None = None, size: tuple[int, int] = (24, 80)
    ) -> None:
        self._master, slave = pty.openpty()
        self.resize(*size)
        self.modes = termios.tcgetattr(slave)
        self._slave = slave  # open until the end, so that its modes can be read
        self.seen = b""
        self._at = 0
        self.process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment,
            preexec_fn=self._take,
            start_new_session=True,
        )

    def _take(self) -> None:
        fcntl.ioctl(self._slave, termios.TIOCSCTTY, 0)

    def resize(self, rows: int, columns: int) -> None:
        """Set the size, as the window of a terminal does."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def current_modes(self) -> list[Any]:
        """The modes of the terminal now."""
        return termios.tcgetattr(self._slave)

    def press(self, text: bytes) -> None:
        """Press keys."""
        os.write(self._master, text)

    def expect(self, pattern: bytes) -> bytes:
        """Wait until the pattern appears after the last match; returns the output from there to its end."""
        deadline = time.monotonic() + _PATIENCE
        while not (found := re.compile(pattern).search(self.seen, self._at)):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._master], [], [], left)[0]:
                raise AssertionError(f"{pattern!r} did not appear behind {self.seen[-500:]!r}")
            self.seen += os.read(self._master, 4096)
        start, self._at = self._at, found.end()
        return self.seen[start : self._at]

    def wait(self) -> int:
        """Wait for the end of the program; returns its status, as `Popen.returncode`."""
        return self.process.wait(_PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._master)
        os.close(self._slave)
