"""Disks and shares that clients of a control socket plug in: one table of both kinds, and what each opens."""

from __future__ import annotations

import os
import posix
import time

from vmm.errors import ConfigError
from vmm.faststart.thread import allocate_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from vmm.machine.interface import MachineInterface
    from vmm.virtio.blk import DiskConfig
    from vmm.virtio.fs import ShareConfig
    from vmm.virtio.image import Below

_SLOTS = 32
"""No machine has more devices than this on PCI."""


class Plugged:
    """The devices of one kind that were plugged in, each known by its path.

    :param machine: to which they are attached
    :param below: where they may come from; None: none may
    :param stopping: whether whoever serves the socket is to end
    """

    kind = ""
    flag = ""

    def __init__(self, machine: MachineInterface, below: Below | None, stopping: Callable[[], bool]) -> None:
        self._machine = machine
        self._below = below
        self._stopping = stopping
        self._there: dict[str, Any] = {}
        self._adding = allocate_lock()
        """Held while a device is added, so that two clients cannot add the same."""

    @property
    def may_come(self) -> bool:
        """Whether any may."""
        return self._below is not None

    def _source(self) -> Below:
        if self._below is None:
            raise ConfigError(
                f"add-{self.kind}: the machine accepts no {self.kind}s while it runs",
                code=f"{self.kind}-not-below",
                hint=f"start it with {self.flag} DIR: it accepts {self.kind}s below that directory",
            )
        return self._below

    def find(self, path: str) -> Any:
        """What was plugged in and is still there, or None.  For :attr:`_adding`."""
        attached = self._present(path)
        if attached is None and len(self._there) > _SLOTS:
            self.sweep()  # some were removed: a machine has fewer slots
        return attached

    def _present(self, path: str) -> Any:
        """What was plugged in and is still there, or None.  A guest can release it long after a client gave up."""
        attached = self._there.get(path)
        if attached is None or not attached.wait_gone(0):
            return attached
        self._forget(path, attached)
        return self._there.get(path)

    def sweep(self) -> None:
        """Drop the records of removed devices. Costs a request to a jailed machine for each record."""
        for path, each in tuple(self._there.items()):
            if each.wait_gone(0):
                self._forget(path, each)

    def _forget(self, path: str, attached: Any) -> None:
        if self._there.get(path) is attached:  # else it was added again
            self._there.pop(path, None)

    def remove(self, path: str, seconds: float, *, force: bool) -> bool:
        """Unplug one; whether it is removed.  The end of the machine, or of the server, is awaited no longer than a
        second.

        :raises ConfigError: it was not plugged in; or as :meth:`Machine.unplug`
        """
        attached = self._present(path)
        if attached is None:
            raise ConfigError(
                f"{self.kind} {path}: it was not added", code="not-attached", hint=f"pyvmm {self.kind} add"
            )
        machine, deadline = self._machine, time.monotonic() + seconds
        gone = machine.unplug(attached, 0)
        while not gone and time.monotonic() < deadline and not self._stopping() and machine.state == "running":
            gone = bool(attached.wait_gone(min(1.0, max(0.0, deadline - time.monotonic()))))
        if not gone and force:
            gone = machine.unplug(attached, 0, force=True)
        if gone:
            self._forget(path, attached)
        return gone


class Disks(Plugged):
    """Disks.  Their files are opened and locked in this process."""

    kind, flag = "disk", "--disks-from"

    def add(self, config: DiskConfig) -> None:
        """Plug in a disk.

        :raises ConfigError: it may not be plugged in here; or as :meth:`Machine.plug`
        """
        from vmm.virtio.blk.device import DiskFiles

        below = self._source()
        with self._adding:
            if self.find(config.path) is not None:
                raise ConfigError(
                    f"disk {config.path}: it was added already",
                    code="already-attached",
                    hint="each is known by its path: remove it first, or give a hard link to the file",
                )
            if config.has_overlay:
                raise ConfigError(f"disk {config.path}: one that is added has no overlay", code="disk-cow")
            files = DiskFiles.open(config, below.open)
            self._there[config.path] = self._machine.plug(config, files)

    def resize(self, path: str) -> None:
        """Tell the guest how large a disk is now, one of the machine's start or one that was plugged in.

        :raises ConfigError: the machine does not have it; or as :meth:`Machine.resize_disk`
        """
        machine, attached = self._machine, self._present(path)
        if attached is not None:
            attached.resize()
            return
        paths = [os.path.abspath(disk.path) for disk in machine.config.disk_configs()]
        if path not in paths:
            raise ConfigError(f"disk {path}: the machine does not have it", code="disk-none")
        if machine.writes_to_its_size and not self.may_come:
            raise ConfigError(
                f"disk {path}: in its jail the machine writes no file beyond the size that it had at the start",
                code="disk-size",
                hint="start it on PCI and with --disks-from DIR, or with --jail=off",
            )
        machine.allow_file(path)
        machine.resize_disk(paths.index(path))


class Shares(Plugged):
    """Shared directories, each also known by its tag."""

    kind, flag = "share", "--shares-from"

    def __init__(self, machine: MachineInterface, below: Below | None, stopping: Callable[[], bool]) -> None:
        super().__init__(machine, below, stopping)
        self._tags: dict[str, str] = {}

    def add(self, config: ShareConfig) -> str:
        """Plug in a share; returns its tag.

        :raises ConfigError: it may not be plugged in here; or as :meth:`Machine.plug`
        """
        with self._adding:
            return self._add(config)

    def _add(self, config: ShareConfig) -> str:
        from vmm.faststart.record import replace

        below, machine = self._source(), self._machine
        self.sweep()  # their tags are free again
        known = self._there.get(config.path)
        used = {tag for tag, _ in machine.config.tagged_shares()} | {self._tags[path] for path in tuple(self._there)}
        if known is not None or config.tag in used:
            raise ConfigError(
                f"share {config.path}: the machine has it, or another one of that tag",
                code="already-attached",
                hint="remove that first, or give another directory and tag",
            )
        tag = config.tag or next(f"share{n or ''}" for n in range(len(used) + 1) if f"share{n or ''}" not in used)
        try:
            fd = below.open(config.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise ConfigError(f"share {config.path}: {error.strerror}", code="share-directory") from error
        try:
            attached = machine.plug(replace(config, tag=tag), directory=fd)
        finally:
            posix.close(fd)
        self._there[config.path], self._tags[config.path] = attached, tag
        return tag
