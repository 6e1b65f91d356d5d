"""A directory that a sandbox sends, written below a folder of the host.  The sender is not trusted."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyvmm_sandbox.commands import Command

_LONGEST_FIELD = 4096
_LONGEST_LINK = 4095
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class _Stream:
    """The output of a command, by size."""

    def __init__(self, command: Command) -> None:
        self._command = command
        self._data = b""

    def _more(self) -> None:
        while self._command.is_open:
            got = b"".join(event.data for event in self._command.read(None) if event.kind == "stdout")
            if got:
                self._data += got
                return
        raise EOFError

    def field(self) -> bytes:
        """
        :raises ValueError: it is too long
        """
        while b"\0" not in self._data:
            if len(self._data) > _LONGEST_FIELD:
                raise ValueError("a field without an end")
            self._more()
        field, _, self._data = self._data.partition(b"\0")
        return field

    def take(self, most: int) -> bytes:
        """At least one byte, and at most *most*."""
        if not self._data:
            self._more()
        taken, self._data = self._data[:most], self._data[most:]
        return taken

    def drain(self) -> None:
        """Read what is left, so that the command can end."""
        with contextlib.suppress(EOFError):
            while True:
                self._more()
                self._data = b""


def receive_tree(command: Command, root: str) -> None:
    """Write what ``pyvmm-box get`` sends.

    Each part of each path is opened without following links, so neither links that were sent nor links that are in the
    folder lead out of it.

    :raises OSError: it cannot be written, or the sandbox sends something else (EPROTO)
    """
    os.makedirs(root, exist_ok=True)
    base = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    stream = _Stream(command)
    try:
        while True:
            kind, mode, size, name = (stream.field() for _ in range(4))
            if kind == b".":
                break
            _receive(stream, base, kind, int(mode, 8) & 0o777, int(size), name)
    except EOFError:
        pass  # the command has failed: its status says why
    except ValueError as error:
        raise OSError(errno.EPROTO, f"the sandbox sent something else: {error}", root) from error
    finally:
        os.close(base)
    stream.drain()


def _receive(stream: _Stream, base: int, kind: bytes, mode: int, size: int, name: bytes) -> None:
    *folders, last = name.split(b"/")
    if size < 0 or any(part in (b"", b".", b"..") for part in (*folders, last)):
        raise ValueError(f"{name[:100]!r}")
    parent = os.dup(base)
    try:
        for part in folders:
            below = os.open(part, _OPEN_DIRECTORY, dir_fd=parent)
            os.close(parent)
            parent = below
        if kind == b"d":
            with contextlib.suppress(FileExistsError):
                os.mkdir(last, mode | 0o700, dir_fd=parent)
        elif kind == b"l":
            if size > _LONGEST_LINK:
                raise ValueError("a link that is too long")
            target = b""
            while len(target) < size:
                target += stream.take(size - len(target))
            _unlink(last, parent)
            os.symlink(target, last, dir_fd=parent)
        elif kind == b"f":
            _receive_file(stream, parent, last, mode, size)
        else:
            raise ValueError(f"type {kind[:10]!r}")
    finally:
        os.close(parent)


def _receive_file(stream: _Stream, parent: int, name: bytes, mode: int, size: int) -> None:
    _unlink(name, parent)
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode, dir_fd=parent)
    with open(fd, "wb") as file:
        while size:
            size -= file.write(stream.take(size))


def _unlink(name: bytes, parent: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=parent)
