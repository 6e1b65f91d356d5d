"""A directory that a sandbox sends, written below a folder of the host.  The sender is not trusted."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

from pyvmm_sandbox.stream import Stream, protocol_errors

if TYPE_CHECKING:
    from pyvmm_sandbox.commands import Command

ENTRY_SIZE = 4096
"""Bytes that each file, directory and link counts beside its content."""
_LONGEST_LINK = 4095
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def receive_tree(command: Command, root: str, most: int) -> None:
    """Write what ``pyvmm-box get`` sends.

    Each part of each path is opened without following links, so neither links that were sent nor links that are in the
    folder lead out of it.

    :param most: bytes that may be written, with those of :data:`ENTRY_SIZE`
    :raises OSError: it cannot be written, is more (EFBIG), or the sandbox sends something else (EPROTO)
    """
    os.makedirs(root, exist_ok=True)
    base = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    stream = Stream(command)
    left = most
    try:
        with protocol_errors(root), contextlib.suppress(EOFError):  # a command that failed reports why by its status
            while True:
                kind, mode, size, name = (stream.field() for _ in range(4))
                if kind == b".":
                    break
                left -= ENTRY_SIZE + int(size)
                if left < 0:
                    raise OSError(errno.EFBIG, f"the sandbox sends more than {most} bytes, see max_bytes=", root)
                _receive(stream, base, kind, int(mode, 8) & 0o777, int(size), name)
    finally:
        os.close(base)
    stream.drain()


def _receive(stream: Stream, base: int, kind: bytes, mode: int, size: int, name: bytes) -> None:
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


def _receive_file(stream: Stream, parent: int, name: bytes, mode: int, size: int) -> None:
    _unlink(name, parent)
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode, dir_fd=parent)
    with open(fd, "wb") as file:
        while size:
            size -= file.write(stream.take(size))


def _unlink(name: bytes, parent: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=parent)
