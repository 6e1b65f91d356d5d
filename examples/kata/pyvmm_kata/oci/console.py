"""Terminals: pairs of master and slave for the caller, and their sizes."""

from __future__ import annotations

import array
import fcntl
import os
import signal
import socket
import termios
import tty
from typing import TYPE_CHECKING

from pyvmm_kata.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def open_console(path: str) -> int:
    """Make a terminal and send its master to the program that listens at *path*, as runc does (runc's
    docs/terminals.md, "detached"); returns the slave. It is in raw mode, since the guest has the real terminal.

    :raises HostError: nobody receives it
    """
    master, slave = os.openpty()
    try:
        tty.setraw(slave)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.connect(path)
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [master]))
            sock.sendmsg([os.ttyname(slave).encode()], [rights])
    except OSError as error:
        os.close(slave)
        raise HostError(f"console socket {path}: {error.strerror}", code="oci-console") from error
    finally:
        os.close(master)
    return slave


def window_size(fd: int) -> tuple[int, int]:
    """Rows and columns; zeros if they are not set."""
    try:
        size = fcntl.ioctl(fd, termios.TIOCGWINSZ, bytes(8))
    except OSError:
        return 0, 0
    return int.from_bytes(size[:2], "little"), int.from_bytes(size[2:4], "little")


def follow(fd: int, resize: Callable[[int, int], None], *, take: bool) -> None:
    """Call *resize* with the terminal's size, now and on each SIGWINCH.  On the main thread only.

    :param take: make it the controlling terminal of this process, which leads a session: only then does it get SIGWINCH
        for it
    """
    if take:
        fcntl.ioctl(fd, termios.TIOCSCTTY, 0)

    def tell(*_: Any) -> None:
        rows, columns = window_size(fd)
        if rows and columns:
            resize(rows, columns)

    signal.signal(signal.SIGWINCH, tell)
    tell()


class RawTerminal:
    """A context in which the user's terminal is in raw mode; no effect if *fd* is not a terminal."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._saved: list[Any] | None = None

    def __enter__(self) -> None:
        try:
            self._saved = termios.tcgetattr(self._fd)
            tty.setraw(self._fd)
        except termios.error:
            self._saved = None

    def __exit__(self, *_: object) -> None:
        if self._saved is not None:
            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._saved)
