"""A machine that runs one program.

The console is the transport: it needs nothing of the root, and each child of a fork has one of its own.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from collections.abc import Callable
from typing import Any, Self

from pyvmm_sentry import boot, program
from pyvmm_sentry.streams import ProgramError, Streams, closed_error, left
from vmm import ConsoleConfig, HostError, Machine, VmmError

_END_OF_INPUT = b"\x04"
_PIECE = 64 << 10
_END_S = 5.0


class Guest(Streams):
    """A machine, and the streams of its program.  Any thread may call it.

    :param make: makes the machine with a console
    :param most: bytes of standard error to keep; None: all
    :raises VmmError: the machine cannot be made
    """

    def __init__(self, make: Callable[[ConsoleConfig], Machine], *, most: int | None = None) -> None:
        super().__init__(most)
        self._frames = boot.Frames(self._put)
        self._closing = threading.Lock()
        self._machine: Machine | None = None
        try:
            self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            try:
                self._reader, self._writer = os.pipe2(os.O_CLOEXEC)
            except OSError:
                os.close(self._wake)
                raise
        except OSError as error:
            hint = "raise the limit of open files (ulimit -n), or close forks"
            raise HostError(f"a machine cannot be made: {error.strerror}", hint=hint, errno=error.errno or 0) from error
        os.set_blocking(self._reader, False)
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
            raise closed_error()
        return machine

    def _notify(self) -> None:
        os.eventfd_write(self._wake, 1)

    # -- streams -----------------------------------------------------------------------------------------------------

    def end_input(self) -> None:
        """The program reads the end of its standard input."""
        self.machine.console_input(_END_OF_INPUT)

    def _send(self, data: bytes) -> int:
        return self.machine.console_input(data)

    def _result(self) -> int | None:
        return self._frames.status

    def _step(self, deadline: float | None) -> bool:
        rest = left(deadline, bytes(self.stderr))
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

    def connect(self, port: int, timeout: float) -> socket.socket:
        """A connection to a port of the core, which must listen there.

        :raises ProgramError: the machine has ended, or does not answer
        """
        try:
            made: socket.socket = self.machine.vsock.connect(port, timeout=timeout)
        except OSError as error:
            if self.machine.wait(_END_S) is None:
                raise ProgramError(f"the core does not answer on port {port}: {error}") from error
            with self._reading:
                self._read()
            raise self._ended() from error
        return made

    def await_end(self) -> None:
        """Wait until the machine has ended, however that is."""
        with contextlib.suppress(VmmError):
            self.machine.wait()

    def share_stats(self) -> dict[str, Any]:
        """Counters of the virtio-fs server that serves the root directory."""
        return next((device.stats() for device in self.machine.devices if device.counts_elsewhere), {})

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
