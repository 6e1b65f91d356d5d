"""A machine with its console at hand, for tests."""

from __future__ import annotations

import fcntl
import os
import re
import select
import time

from vmm.config import BootConfig, ConsoleConfig, MachineConfig
from vmm.errors import GuestError
from vmm.machine import Machine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmm.life import EndEvent
    from vmm.virtio.device import VirtioDevice

PATIENCE = 60.0
"""Seconds that everything here waits unless told otherwise."""


class TestGuest:
    """Made by the fixture ``vm``.

    :ivar machine: the :class:`~vmm.machine.Machine`
    """

    __test__ = False  # no test class, whatever its name

    def __init__(self, boot: BootConfig, *, devices: tuple[VirtioDevice, ...] = (), **options: Any) -> None:
        self._printed = bytearray()
        self._searched = 0
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        fcntl.fcntl(self._writer, fcntl.F_SETPIPE_SZ, 1 << 20)
        try:
            config = MachineConfig(boot, console=ConsoleConfig("fd", self._writer), **options)
            self.machine = Machine(config, devices=devices)
        except BaseException:
            self._close_pipe()
            raise

    def drain(self) -> bytes:
        """All that the guest has printed so far."""
        while self._reader >= 0:
            try:
                data = os.read(self._reader, 1 << 16)
            except BlockingIOError:
                break
            if not data:
                break
            self._printed += data
        return bytes(self._printed)

    def expect(self, pattern: bytes | str, timeout: float = PATIENCE) -> re.Match[bytes]:
        """Wait for *pattern*, a regular expression, behind what was found last.

        :raises GuestError: the guest ended before
        :raises TimeoutError: it has not printed it in time
        """
        wanted = re.compile(pattern.encode() if isinstance(pattern, str) else pattern, re.MULTILINE)
        deadline = time.monotonic() + timeout
        poll = select.poll()
        poll.register(self._reader, select.POLLIN)
        while True:
            end = self.machine.wait(0)  # asked before the last look at what it printed
            if found := wanted.search(self.drain(), self._searched):
                self._searched = found.end()
                return found
            if end is not None:
                raise GuestError(f"the guest ended ({end.kind}) before it printed {pattern!r}", code="guest-ended")
            if time.monotonic() > deadline:
                raise TimeoutError(f"the guest has not printed {pattern!r} within {timeout:g} s")
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
            self.drain()
            time.sleep(0.01)

    def wait(self, timeout: float = PATIENCE) -> EndEvent:
        """Wait until the guest ends by itself.

        :raises TimeoutError: it does not
        """
        end = self.machine.wait(timeout)
        if end is None:
            raise TimeoutError(f"the guest has not ended within {timeout:g} s")
        return end

    def close(self) -> None:
        """Stop the guest and free it; what it printed stays.  Harmless when done twice."""
        if self._reader >= 0:
            try:
                self.machine.close()
            finally:
                self.drain()
                self._close_pipe()

    def _close_pipe(self) -> None:
        os.close(self._reader)
        os.close(self._writer)
        self._reader = self._writer = -1
