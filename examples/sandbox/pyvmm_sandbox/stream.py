"""What pyvmm-box sends: fields that each end with a NUL byte, and contents of known sizes. No sender is trusted."""

from __future__ import annotations

import contextlib
import errno
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyvmm_sandbox.commands import Command

_LONGEST_FIELD = 4096
"""PATH_MAX."""


class Stream:
    """The output of a command."""

    def __init__(self, command: Command) -> None:
        self._command = command
        self._data = b""
        self._at = 0

    def _more(self) -> None:
        while self._command.is_open:
            got = b"".join(event.data for event in self._command.read(None) if event.kind == "stdout")
            if got:
                self._data = self._data[self._at :] + got
                self._at = 0
                return
        raise EOFError

    def field(self) -> bytes:
        """
        :raises EOFError: the command has ended
        :raises ValueError: it is too long
        """
        while (end := self._data.find(b"\0", self._at)) < 0:
            if len(self._data) - self._at > _LONGEST_FIELD:
                raise ValueError("a field without an end")
            self._more()
        field, self._at = self._data[self._at : end], end + 1
        return field

    def records(self, size: int) -> Iterator[list[str]]:
        """Records of *size* fields, until the command ends.

        :raises ValueError: a field is too long
        """
        with contextlib.suppress(EOFError):
            while True:
                yield [self.field().decode(errors="surrogateescape") for _ in range(size)]

    def take(self, most: int) -> bytes:
        """At least one byte, and at most *most*.

        :raises EOFError: the command has ended
        """
        if self._at == len(self._data):
            self._more()
        taken = self._data[self._at : self._at + most]
        self._at += len(taken)
        return taken

    def drain(self) -> None:
        """Read what is left, so that the command can end."""
        with contextlib.suppress(EOFError):
            while True:
                self._at = len(self._data)
                self._more()


@contextlib.contextmanager
def protocol_errors(path: str) -> Iterator[None]:
    """Raise OSError (EPROTO) for *path* where the sandbox sends something else than pyvmm-box does."""
    try:
        yield
    except ValueError as error:
        raise OSError(errno.EPROTO, f"the sandbox sent something else: {error}", path) from error
