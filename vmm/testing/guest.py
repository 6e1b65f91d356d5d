"""A machine with access to its console, for tests."""

from __future__ import annotations

import re

from vmm.config import BootConfig, MachineConfig
from vmm.errors import GuestError
from vmm.testing.console import PATIENCE, ConsoleGuest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmm.lifecycle import EndEvent
    from vmm.virtio.device import VirtioDevice


class TestGuest(ConsoleGuest):
    """Made by the fixture ``vm``.

    :ivar machine: the :class:`~vmm.machine.machine.Machine`
    """

    __test__ = False  # no test class, whatever its name

    def __init__(self, boot: BootConfig, *, devices: tuple[VirtioDevice, ...] = (), **options: Any) -> None:
        super().__init__(MachineConfig(boot, **options), devices)

    def _ended(self, end: EndEvent, what: str) -> Exception:
        return GuestError(f"the guest ended ({end.kind}) before it printed {what}", code="guest-ended")

    def drain(self) -> bytes:
        """Everything that the guest has printed so far."""
        self._read()
        return bytes(self._printed)

    def expect(self, pattern: bytes | str, timeout: float = PATIENCE) -> re.Match[bytes]:
        """Wait for *pattern*, a regular expression, after the last match.

        :raises GuestError: the guest ended before
        :raises TimeoutError: it has not printed it in time
        """
        raw = pattern.encode() if isinstance(pattern, str) else pattern
        start, _ = self._find(raw, repr(pattern), timeout)
        found = re.compile(raw, re.MULTILINE).search(bytes(self._printed), start)  # of what does not change any more
        assert found is not None
        return found
