"""A machine that runs one program, whose streams this process reads and writes.

The console is the transport: it needs nothing of the root, and each child of a fork has one of its own.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable
from typing import Self

from pyvmm_sentry import boot, program
from vmm import ConfigError, ConsoleConfig, Machine, VmmError

LINE_MOST = 16 << 20
"""Bytes of output that wait for a reader."""
ERRORS_MOST = 64 << 10
"""Bytes of standard error that are kept of a child."""
_END_OF_INPUT = b"\x04"
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


class Guest:
    """A machine, and the streams of its program.  Any thread may call it.

    :param make: makes the machine with a console
    :param most: bytes of standard error to keep; None: all
    :ivar stdout: what has come and was not taken yet
    :ivar stderr: the same of standard error
    :raises VmmError: the machine cannot be made
    """

    def __init__(self, make: Callable[[ConsoleConfig], Machine], *, most: int | None = None) -> None:
        self.stdout, self.stderr = bytearray(), bytearray()
        self._most = most
        self._frames = boot.Frames(self._put)
        self._closing, self._reading = threading.Lock(), threading.Lock()
        self._machine: Machine | None = None
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._reader, False)
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            machine = self._machine = make(ConsoleConfig("fd", self._writer, device="virtio"))
            machine.console.space_callback = self._notify
            machine.listen(lambda _: self._notify())
        except BaseException:
            self.close()
            raise

    @classmethod
    def boot(cls, start: boot.Start) -> Self:
        """A machine that runs a program, from now on.

        :raises VmmError: it cannot be made
        """
        kernel = program.kernel()
        record = os.memfd_create("start")
        try:
            guest = cls(lambda console: Machine(boot.config_of(kernel, start, record, console)))
            try:
                guest.machine.start()
            except BaseException:
                guest.close()
                raise
        finally:
            os.close(record)
        return guest

    @property
    def machine(self) -> Machine:
        """
        :raises ConfigError: it was closed
        """
        machine = self._machine
        if machine is None:
            raise ConfigError("the sandbox was closed", hint="make another one")
        return machine

    def _notify(self) -> None:
        os.eventfd_write(self._wake, 1)

    def _put(self, stream: int, data: memoryview) -> None:
        if stream == 1:
            self.stdout += data
        elif stream == 2:
            self.stderr += data
            if self._most is not None:
                del self.stderr[: -self._most]

    # -- streams -----------------------------------------------------------------------------------------------------

    def end_input(self) -> None:
        """The program reads the end of its standard input."""
        self.machine.console_input(_END_OF_INPUT)

    def wait(self, deadline: float | None) -> int:
        """Collect the output until the program has ended; returns its status, as of :class:`ProgramError`.

        :raises ProgramTimeout: it runs
        :raises ProgramError: the machine has ended without it
        """
        with self._reading:
            while self._step(deadline):
                pass
        status = self._frames.status
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
                sent += self.machine.console_input(data[sent : sent + _PIECE])
            if not self._step(deadline):
                raise self._ended()
        line = bytes(self.stdout[:end])
        del self.stdout[: end + 1]
        return line

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

    def _step(self, deadline: float | None) -> bool:
        """Take some output, or wait for it; False: there will be none."""
        rest = None if deadline is None else deadline - time.monotonic()
        if rest is not None and rest <= 0:
            raise ProgramTimeout("the program has not answered in time", stderr=bytes(self.stderr))
        ended = self._frames.status is not None or self.machine.end is not None  # then nothing follows
        if self._read():
            return True
        if ended:
            return False
        poll = select.poll()
        poll.register(self._reader, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        for fd, _ in poll.poll(None if rest is None else rest * 1000):
            if fd == self._wake:
                os.eventfd_read(self._wake)
        return True

    def _read(self) -> bool:
        try:
            data = os.read(self._reader, _PIECE)
        except BlockingIOError:
            return False
        self._frames.feed(data)
        return True

    def _ended(self) -> ProgramError:
        status, refused = self._frames.status, self._frames.refused
        if status is not None:
            text = f"the program was ended by signal {-status}" if status < 0 else f"the program exited with {status}"
        elif refused:
            text = refused
        else:
            text = boot.without_result(self.machine.end)
        return ProgramError(text, status=status, stderr=bytes(self.stderr) + self._frames.kernel)

    # -- its life ----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End the machine.  A second call does nothing."""
        with self._closing:
            machine, self._machine = self._machine, None
            if machine is not None:
                machine.close()
            if self._reader < 0:
                return
            self._notify()
            with self._reading:  # a thread that reads has noticed it
                for fd in (self._reader, self._writer, self._wake):
                    os.close(fd)
                self._reader = -1
