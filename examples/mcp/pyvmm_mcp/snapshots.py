"""Snapshots of a server: they are in a folder of its own, which ends with it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import tempfile
import threading
from typing import TYPE_CHECKING

from pyvmm_sandbox import Template
from pyvmm_sandbox.errors import SandboxError, SandboxNotFound

if TYPE_CHECKING:
    from pyvmm_sandbox import Sandbox

_PREFIX = "pyvmm-mcp-"


class Snapshots:
    """
    :param most: how many there can be
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._names: dict[str, str] = {}
        self._coming = 0
        self._folder = ""
        self._lock = -1
        self._changing = threading.Lock()

    @property
    def names(self) -> dict[str, str]:
        """The snapshots, and where each comes from."""
        return dict(self._names)

    def save(self, box: Sandbox, source: str) -> str:
        """Save a sandbox; the snapshot's name.  Several threads can call it at a time.

        :raises VmmError: it cannot be saved, or there are too many
        """
        with self._changing:
            if len(self._names) + self._coming >= self._most:
                raise SandboxError(f"there are {self._most} snapshots already", hint="delete_snapshot removes one")
            self._folder = self._folder or self._make_folder()
            self._coming += 1
        try:
            name = f"snapshot-{secrets.token_hex(3)}"
            box.snapshot(os.path.join(self._folder, name))
            self._names[name] = source
        finally:
            with self._changing:
                self._coming -= 1
        return name

    def template(self, name: str) -> Template:
        """
        :raises SandboxNotFound: there is none with this name
        """
        if name not in self._names:
            raise SandboxNotFound(f"there is no snapshot {name!r:.80}", hint="list_sandboxes names all")
        return Template(os.path.join(self._folder, name))

    def delete(self, name: str) -> None:
        """
        :raises SandboxNotFound: there is none with this name
        """
        folder = self.template(name).folder
        del self._names[name]
        shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """Remove all."""
        self._names.clear()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)
            os.close(self._lock)
            self._folder = ""

    def _make_folder(self) -> str:
        """A folder that is locked as long as this process lives, after the removal of those without a lock."""
        _sweep()
        while True:
            folder = tempfile.mkdtemp(prefix=_PREFIX)
            self._lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.isdir(folder):
                    return folder
            os.close(self._lock)  # another server has taken it for one that was left


def _sweep() -> None:
    """Remove folders of servers that were killed."""
    base = tempfile.gettempdir()
    for name in os.listdir(base):
        if not name.startswith(_PREFIX):
            continue
        path = os.path.join(base, name)
        with contextlib.suppress(OSError):  # it is locked, or another server removes it
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                if os.fstat(lock).st_uid == os.geteuid():
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path)
            finally:
                os.close(lock)
