"""The streams of a program in a sandbox of its own, which this process reads and writes."""

from __future__ import annotations

import struct
import threading
import time
from abc import ABC, abstractmethod

from vmm import ConfigError, VmmError

LINE_MOST = 16 << 20
"""Bytes of output that wait for a reader."""
ERRORS_MOST = 64 << 10
"""Bytes of standard error that are kept of a child."""
POINTS = 4
"""Of :meth:`Streams._put`."""
_POINT, _VALUE_MOST = struct.Struct("<II"), 65535
"""Kind and value; the sandbox may send any."""
_PIECE = 64 << 10


class ProgramError(VmmError):
    """A program has ended, or has not answered as agreed.

    :ivar status: its exit status; below 0: the signal that ended it; None: it had not ended
    :ivar stderr: the last of what it wrote to standard error
    """

    def __init__(self, message: str, *, status: int | None = None, stderr: bytes = b"", hint: str = "") -> None:
        super().__init__(message, code="program", hint=hint)
        self.status = status
        self.stderr = stderr


class ProgramTimeout(ProgramError, TimeoutError):
    """A program has not answered in time."""


def deadline_in(timeout: float | None) -> float | None:
    """Of the monotonic clock; None: never."""
    return None if timeout is None else time.monotonic() + timeout


def left(deadline: float | None, stderr: bytes = b"") -> float | None:
    """Seconds up to a deadline; None: there is none.

    :raises ProgramTimeout: it has passed
    """
    rest = None if deadline is None else deadline - time.monotonic()
    if rest is not None and rest <= 0:
        raise ProgramTimeout("the program has not answered in time", stderr=stderr)
    return rest


def closed_error() -> ConfigError:
    """For what is called after close()."""
    return ConfigError("the sandbox was closed", hint="make another one")


class Streams(ABC):
    """Of a program.  Any thread may call this.

    :param most: bytes of standard error to keep; None: all
    :ivar stdout: what has come and was not taken yet
    :ivar stderr: the same of standard error
    """

    def __init__(self, most: int | None = None) -> None:
        self.stdout, self.stderr = bytearray(), bytearray()
        self._most = most
        self._points: set[tuple[int, int]] = set()
        self._reading = threading.Lock()

    @abstractmethod
    def _send(self, data: bytes) -> int:
        """Write to standard input; returns how many bytes, maybe 0."""

    @abstractmethod
    def _step(self, deadline: float | None) -> bool:
        """Take some output, or wait for it, or for room after :meth:`_send`; False: there will be none."""

    @abstractmethod
    def _ended(self) -> ProgramError:
        """How it has ended."""

    @abstractmethod
    def end_input(self) -> None:
        """The program reads the end of its standard input."""

    @abstractmethod
    def _result(self) -> int | None:
        """The exit status, after the output has ended; None if it is unknown."""

    @abstractmethod
    def close(self) -> None:
        """End the sandbox.  A second call does nothing."""

    def _put(self, stream: int, data: bytes | memoryview) -> None:
        if stream == POINTS:
            whole = data[: len(data) // _POINT.size * _POINT.size]  # a core that is honest writes no others
            self._points.update(
                (kind, value) for kind, value in _POINT.iter_unpack(whole) if kind < 2 and value <= _VALUE_MOST
            )
        elif stream == 1:
            self.stdout += data
        elif stream == 2:
            self.stderr += data
            if self._most is not None:
                del self.stderr[: -self._most]

    def wait(self, deadline: float | None) -> int:
        """Collect the output until the program has ended; returns its status, as of :class:`ProgramError`.

        :raises ProgramTimeout: it runs
        :raises ProgramError: the sandbox has ended without it
        """
        with self._reading:
            while self._step(deadline):
                pass
        status = self._result()
        if status is None:
            raise self._ended()
        return status

    def line(self, deadline: float | None, data: bytes = b"") -> bytes:
        """Write to the program's standard input; returns the next line of its output, without its end.

        :param data: without bytes 0x04 and 0x10, which the console treats as others
        :raises ProgramTimeout: there is none in time
        :raises ProgramError: the program has ended, or writes endless lines
        """
        with self._reading:
            return self._line(deadline, data)

    def _line(self, deadline: float | None, data: bytes) -> bytes:
        searched = sent = 0
        while (end := self.stdout.find(b"\n", searched)) < 0:
            searched = len(self.stdout)
            if searched > LINE_MOST:
                raise ProgramError(f"the program writes a line of more than {LINE_MOST >> 20} MiB")
            if sent < len(data):
                sent += self._send(data[sent : sent + _PIECE])
            if not self._step(deadline):
                raise self._ended()
        line = bytes(self.stdout[:end])
        del self.stdout[: end + 1]
        return line

    def wait_for_point(self, kind: int, value: int, text: str, deadline: float | None) -> None:
        """Wait until the program reaches a point, see `enum point` of `core/platform.h`.  Its output stays.

        :param text: for errors: what it has not done
        :raises ProgramTimeout: it has not in time
        :raises ProgramError: the program has ended without it
        """
        with self._reading:
            while (kind, value) not in self._points:
                try:
                    more = self._step(deadline)
                except ProgramTimeout as error:
                    raise ProgramTimeout(f"the program has not {text}", stderr=error.stderr) from None
                if not more:
                    end = self._ended()
                    raise ProgramError(f"the program has not {text}: {end}", status=end.status, stderr=end.stderr)

    def wait_for_line(self, text: str, deadline: float | None) -> None:
        """Drop output until the program writes this line.

        :raises ProgramTimeout: it has not in time
        :raises ProgramError: the program has ended without it
        """
        try:
            while self.line(deadline) != text.encode():
                pass
        except ProgramTimeout as error:
            message = f"the program has not written {text!r}"
            raise ProgramTimeout(message, stderr=error.stderr, hint="does it flush its output?") from None
        except ProgramError as error:
            message = f"the program has not written {text!r}: {error}"
            raise ProgramError(message, status=error.status, stderr=error.stderr) from None
