"""Windows: files in memory that the host shares with one process of the guest, for data that are too many for messages.

They lie in a tmpfs of their own in the machine's share, which is made for the first of them.  It has room for that
many windows and nothing else, whatever the guest writes there.  A window that is free takes no memory.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from typing import TYPE_CHECKING

from pyvmm_kata.errors import HostError
from pyvmm_kata.host.mounts import GUEST_SHARED, SOLE, libc, new_mount

if TYPE_CHECKING:
    from pyvmm_kata.host.mounts import SharedDirectory

WINDOW = 8 << 20
"""Bytes of one."""
WINDOWS = 6
"""The most at a time."""
_PUNCH_HOLE, _KEEP_SIZE = 2, 1  # linux/falloc.h


class Window:
    """A file of :data:`WINDOW` bytes.

    :ivar fd: its descriptor, to read and write
    :ivar path: in the guest
    """

    def __init__(self, windows: Windows, number: int, fd: int, path: str) -> None:
        self.fd, self.path = fd, path
        self._windows = windows
        self._number = number

    def close(self) -> None:
        """Its content is gone, and another process can have it."""
        self._windows.put_back(self._number)


class Windows:
    """Those of one machine.

    :param shared: the directory that it shares with its guest
    """

    def __init__(self, shared: SharedDirectory) -> None:
        self._shared = shared
        self._lock = threading.Lock()
        self._name = ""
        self._folder = -1
        self._made: list[int] = []
        self._free: list[int] = []

    def take(self) -> Window | None:
        """A window that nobody else has; None: there are so many, or the host does not permit the mount."""
        with self._lock:
            try:
                if self._folder < 0:
                    self._make()
                if not self._free:
                    self._add()
            except (HostError, OSError):
                return None
            number = self._free.pop()
            return Window(self, number, self._made[number], f"{GUEST_SHARED}/{self._name}/{number}")

    def put_back(self, number: int) -> None:
        """Called by :meth:`Window.close`."""
        with self._lock:
            if self._folder >= 0:
                # The guest may have changed its size, and remembers the file: that is not removed
                with contextlib.suppress(OSError):
                    _make_empty(self._made[number])
                    self._free.append(number)

    def close(self) -> None:
        """Close all descriptors; the mount is removed with the share."""
        with self._lock:
            for fd in (*self._made, *([self._folder] if self._folder >= 0 else [])):
                os.close(fd)
            self._folder = -1
            self._made, self._free = [], []

    def _make(self) -> None:
        # A copy of the machine may remember a folder of the original. The share's server does not watch files below a
        # mount of that name: what starts next in the guest does not wait until it sees the host's changes of them
        name = f".windows-{os.urandom(8).hex()}/{SOLE}"
        options = {"size": str(WINDOW * WINDOWS), "nr_inodes": str(WINDOWS + 1), "mode": "0700"}
        tree = new_mount("tmpfs", options)
        try:
            self._shared.attach(tree, name)
            self._folder = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=tree)
        finally:
            os.close(tree)
        self._name = name

    def _add(self) -> None:
        if len(self._made) == WINDOWS:
            raise HostError(f"{WINDOWS} windows are in use", code="host-limit")
        number = len(self._made)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(str(number), flags, 0o600, dir_fd=self._folder)
        self._made.append(fd)
        os.ftruncate(fd, WINDOW)
        self._free.append(number)


def _make_empty(fd: int) -> None:
    os.ftruncate(fd, WINDOW)
    hole = ctypes.c_long(0), ctypes.c_long(WINDOW)
    if libc.fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, *hole):
        raise OSError(ctypes.get_errno(), "fallocate")
