"""A machine whose console is a pipe of the test."""

from __future__ import annotations

import fcntl
import os
import re
import select
import time

from vmm.machine.machine import Machine
from vmm.processes.factory import create_machine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from vmm.config import MachineConfig
    from vmm.lifecycle import EndEvent
    from vmm.virtio.device import VirtioDevice

PATIENCE = 60.0
"""Seconds that everything here waits unless told otherwise."""
_OVERLAP = 1 << 16
"""What is looked for is not longer than this: so much of what was looked through is looked through again, and no more,
or a guest that prints much would be searched in the square of it."""


class ConsoleGuest:
    """The pipe operations for every kind of test guest: read, type, wait, close.

    :ivar machine: a :class:`~vmm.machine.machine.Machine`, not started; with another isolation an
        :class:`~vmm.processes.isolated.IsolatedMachine`

    :param config: its console is replaced by the pipe; its device stays
    """

    def __init__(self, config: MachineConfig, devices: tuple[VirtioDevice, ...] = ()) -> None:
        from vmm.faststart.record import replace

        def make(fd: int) -> Machine:
            found: Any = create_machine(
                replace(config, console=replace(config.console, kind="fd", fd=fd)), devices=devices
            )
            machine: Machine = found
            return machine

        self._open(make)

    def _open(self, make: Callable[[int], Machine]) -> None:
        """Call *make* to make the machine, with a pipe as its console.

        :param make: called with the descriptor that its console writes to
        """
        self._printed = bytearray()  # which grows in place: a guest may print a megabyte in lines
        self._found_to = 0
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        fcntl.fcntl(self._writer, fcntl.F_SETPIPE_SZ, 1 << 20)
        try:
            self.machine = make(self._writer)
        except BaseException:
            self._close_pipe()
            raise

    def _take(self, data: bytes) -> None:
        """The guest has printed *data*."""
        self._printed += data

    def _ended(self, end: EndEvent, what: str) -> Exception:
        """The error for a guest that ended before it printed *what*."""
        raise NotImplementedError

    def _read(self) -> None:
        """Read the guest's output, without waiting."""
        while self._reader >= 0:
            try:
                data = os.read(self._reader, 1 << 16)
            except BlockingIOError:
                return
            if not data:
                return
            self._take(data)

    def _find(self, pattern: bytes, what: str, timeout: float) -> tuple[int, int]:
        """Read until *pattern*, a regular expression, occurs in the output after the last match; returns its span.

        :raises TimeoutError: it has not happened in time
        """
        wanted = re.compile(pattern, re.MULTILINE)
        seen = self._found_to
        deadline = time.monotonic() + timeout
        poll = select.poll()
        poll.register(self._reader, select.POLLIN)
        while True:
            end = self.machine.wait(0)  # asked before the last look at what it printed
            self._read()
            found = wanted.search(self._printed, max(self._found_to, seen - _OVERLAP))
            if found:
                self._found_to = found.end()
                return found.span()
            seen = len(self._printed)
            if end is not None:
                raise self._ended(end, what)
            if time.monotonic() > deadline:
                raise TimeoutError(f"the guest has not printed {what} within {timeout:g} s")
            poll.poll(100)

    def type(self, text: bytes | str, timeout: float = PATIENCE) -> None:
        """Type *text* on the console.

        :raises TimeoutError: the guest does not read it
        """
        data = text.encode() if isinstance(text, str) else text
        deadline = time.monotonic() + timeout
        while data := data[self.machine.console_input(data) :]:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the guest has not read {len(data)} bytes of what was typed")
            self._read()
            time.sleep(0.01)

    def wait(self, timeout: float = PATIENCE) -> EndEvent:
        """Wait until the guest ends by itself, reading its output meanwhile.

        :raises TimeoutError: it does not
        """
        deadline = time.monotonic() + timeout
        poll = select.poll()
        poll.register(self._reader, select.POLLIN)
        while (end := self.machine.wait(0)) is None:
            self._read()
            if time.monotonic() > deadline:
                raise TimeoutError(f"the guest has not ended within {timeout:g} s")
            poll.poll(50)
        self._read()
        return end

    def close(self) -> None:
        """Stop the guest and free it; its output stays.  A second call does nothing."""
        if self._reader >= 0:
            try:
                self.machine.close()
            finally:
                self._read()
                self._close_pipe()

    def _close_pipe(self) -> None:
        os.close(self._reader)
        os.close(self._writer)
        self._reader = self._writer = -1
