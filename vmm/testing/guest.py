"""A machine with its console at hand, for tests."""

from __future__ import annotations

import re

from vmm.config import BootConfig, MachineConfig
from vmm.errors import GuestError
from vmm.testing.console import OVERLAP, PATIENCE, ConsoleGuest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmm.life import EndEvent
    from vmm.virtio.device import VirtioDevice


class TestGuest(ConsoleGuest):
    """Made by the fixture ``vm``.

    :ivar machine: the :class:`~vmm.machine.Machine`
    """

    __test__ = False  # no test class, whatever its name

    def __init__(self, boot: BootConfig, *, devices: tuple[VirtioDevice, ...] = (), **options: Any) -> None:
        self._printed = bytearray()
        self._found_to = 0
        super().__init__(MachineConfig(boot, **options), devices)

    def _take(self, data: bytes) -> None:
        self._printed += data

    def _ended(self, end: EndEvent, what: str) -> Exception:
        return GuestError(f"the guest ended ({end.kind}) before it printed {what}", code="guest-ended")

    def drain(self) -> bytes:
        """All that the guest has printed so far."""
        self._read()
        return bytes(self._printed)

    def expect(self, pattern: bytes | str, timeout: float = PATIENCE) -> re.Match[bytes]:
        """Wait for *pattern*, a regular expression, behind what was found last.

        :raises GuestError: the guest ended before
        :raises TimeoutError: it has not printed it in time
        """
        wanted = re.compile(pattern.encode() if isinstance(pattern, str) else pattern, re.MULTILINE)
        seen = self._found_to

        def look() -> re.Match[bytes] | None:
            nonlocal seen
            start, seen = max(self._found_to, seen - OVERLAP), len(self._printed)
            if not wanted.search(self._printed, start):
                return None
            found = wanted.search(bytes(self._printed), start)  # a match of what does not change any more
            assert found is not None
            self._found_to = found.end()
            return found

        return self._until(look, repr(pattern), timeout)
