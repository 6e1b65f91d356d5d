"""Paused sandboxes whose memory is on disk instead of in the host's memory (``--suspend-paused``).

A sandbox is saved before it ends, and is started before its saved memory is removed.  So whenever a server is killed,
the sandbox is in memory, on disk, or both.  The record decides which of both counts: the memory while it runs, the disk
while it is paused.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from typing import TYPE_CHECKING

from pyvmm_sandbox import Sandbox, SandboxGone, Template
from pyvmm_sandbox.template import RECORD
from pyvmm_server import leftovers, store
from vmm import VmmError

if TYPE_CHECKING:
    from pyvmm_server.settings import Settings
    from pyvmm_server.store import Record

log = logging.getLogger("pyvmm_server")
FOLDER = "suspended"


class Suspended:
    """
    :param settings: whose state folder has them
    """

    def __init__(self, settings: Settings) -> None:
        self._folder = os.path.join(settings.state, FOLDER)
        self._config, self._root = settings.config, settings.root
        self._is_on = settings.suspend_paused

    def _path(self, record: Record) -> str:
        return os.path.join(self._folder, record.id)

    def has(self, record: Record) -> bool:
        """Whether it is on disk."""
        return os.path.exists(os.path.join(self._path(record), RECORD))

    def pause(self, record: Record, box: Sandbox) -> bool:
        """Save and end it if that is wanted, and pause it otherwise; whether it has ended.

        :raises VmmError: it can do neither
        :raises OSError: likewise
        """
        if self._is_on:
            try:
                os.makedirs(self._folder, mode=0o700, exist_ok=True)
                box.suspend(self._path(record))
                return True
            except SandboxGone:
                raise
            except (VmmError, OSError) as error:
                if self.has(record) and not box.is_running:  # it was saved, and its end left something
                    leftovers.remove(self._root, record.name)
                    return True
                self.discard(record)  # it goes on: what was saved of it is older from now on
                log.warning("paused in memory: %s", error, extra={"sandbox": record.id})
        box.pause()
        return False

    def start(self, record: Record) -> Sandbox:
        """Continue it, and remove it from the disk.

        :raises VmmError: it cannot be started, and stays on the disk
        :raises OSError: likewise
        """
        template = Template(self._path(record))
        box = template.start(name=record.name, detach=True, timeout=None, config=self._config, root=self._root)
        self.discard(record)
        return box

    def discard(self, record: Record) -> None:
        """Remove it from the disk, if it is there."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(os.path.join(self._path(record), RECORD))
        shutil.rmtree(self._path(record), ignore_errors=True)

    def settle(self, record: Record, box: Sandbox) -> bool:
        """Of a sandbox that is in memory: undo what a server that was killed has not finished; whether it is on disk.

        :raises VmmError: it has ended
        """
        if record.state == store.PAUSED:
            if self.has(record):
                box.kill()  # it was being resumed, which nobody was told
                return True
            if box.info().state == "running":
                box.pause()  # likewise, and was not on disk any more
        else:
            if box.info().state == "paused":
                box.resume()  # it was being paused, likewise
            self.discard(record)
        return False
