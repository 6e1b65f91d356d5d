"""What a node has saved of sandboxes: for forks, which end with the node, and for snapshots, templates and pauses."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
from typing import TYPE_CHECKING

from pyvmm_server import relay

if TYPE_CHECKING:
    from pyvmm_server.engine import Address


class Saved:
    """The server names a folder of its own; the node has one of the same name elsewhere.

    :param forks: the folder of what ends with the node
    :param others: the folder of what outlives it, and other nodes fetch
    :ivar others: likewise
    """

    def __init__(self, forks: str, others: str) -> None:
        self._forks, self.others = forks, others
        self._fetching = threading.Lock()

    def path(self, folder: str) -> str:
        """Where this node has what the server has named, if it has it.  What is saved there has a place."""
        kind, name = folder.split(os.sep)[-2:]
        place = self._forks if kind == "forks" else self.others
        os.makedirs(place, mode=0o700, exist_ok=True)
        return os.path.join(place, name)

    def fetch(self, holder: Address, folder: str) -> None:
        """Get it from another node, unless it is here.

        :raises OSError: it cannot be fetched
        """
        target = self.path(folder)
        with self._fetching:
            if os.path.isdir(target):
                return
            part = tempfile.mkdtemp(prefix="part-", dir=self.others)
            try:
                relay.unpack(holder, os.path.basename(target), part)
                os.rename(part, target)
            except BaseException:
                shutil.rmtree(part, ignore_errors=True)
                raise

    def names(self) -> list[str]:
        """All that outlives the node, and what was not fetched to the end."""
        with self._fetching, contextlib.suppress(FileNotFoundError):
            return os.listdir(self.others)
        return []

    def has(self, folder: str) -> bool:
        return os.path.isdir(self.path(folder))

    def discard(self, folder: str) -> None:
        shutil.rmtree(self.path(folder), ignore_errors=True)
