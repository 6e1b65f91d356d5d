"""The configuration that children of a jailed machine may have, for the processes that start them.

An attacker who has taken over the maker of forks can send requests to the runner. So the runner gives each child the
parent's configuration, in a file that nobody can write. A request contains only what differs between children: a
number, and descriptors of RAM, state and disks.
"""

from __future__ import annotations

import json
import posix

from vmm.config import THREAD, config_kinds
from vmm.errors import ConfigError
from vmm.faststart.record import replace
from vmm.memory.memfd import freeze, open_memory
from vmm.processes.spawn import PACKAGE
from vmm.saving.records import made, plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmm.config import MachineConfig

_NUMBER_MAX = (1 << 31) - 1
_FROZEN = 0x2 | 0x4 | 0x8
"""F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_WRITE (fcntl.h)."""
_F_GET_SEALS = 1034
_S_IFREG = 0o100000
_MEMORY, _BELOW = 3, 1
"""Memfds of a child: RAM, state, bits of RAM's pages; and what RAM lies over, if there is such a thing."""


class Parent:
    """A machine of the command line in a jail.

    :param config: its configuration
    :param control: the path of its control socket
    :param jail: as of ``--jail``
    """

    def __init__(self, config: MachineConfig, control: str, jail: str) -> None:
        self.config = replace(config, isolation=THREAD)
        self._control = control
        self._jail = jail

    def write(self) -> int:
        """A memfd for :meth:`read`, which cannot be changed any more.

        :raises OSError: the host has no memory
        """
        text = json.dumps({"config": plain(self.config), "control": self._control, "jail": self._jail}).encode()
        fd = open_memory("machine-parent", 0)
        try:
            posix.pwrite(fd, text, 0)
            freeze(fd)
        except BaseException:
            posix.close(fd)
            raise
        return fd

    @classmethod
    def read(cls, fd: int) -> Parent:
        """Read what :meth:`write` has written; closes *fd*."""
        told = json.loads(posix.pread(fd, posix.fstat(fd).st_size, 0))
        posix.close(fd)
        config: MachineConfig = made(told["config"], "MachineConfig", config_kinds(), "the parent's configuration")
        return cls(config, told["control"], told["jail"])

    def control(self, number: int) -> str:
        """The path of the control socket of child *number*."""
        return f"{self._control}.{number}"

    def serves(self, number: int) -> dict[str, str]:
        """The command line options of child *number*."""
        return {"control": self.control(number), "jail": self._jail}

    def child(self, request: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        """Convert a request for a child, which anybody may have made, to a validated request for a machine.

        :param fds: the descriptors that came for the child
        :raises ConfigError: it is not a request for a child of this machine
        """
        number, fork, package = request.get("number"), request.get("fork"), request.get("package")
        if {*request} != {"command", "number", "fork", "package"} or package != PACKAGE:
            raise _refused("it has other fields")
        if type(number) is not int or not 1 <= number <= _NUMBER_MAX:
            raise _refused("no number")
        config = self.config.of_clone(self.config.own_devices(number))
        disks = [index for index, disk in enumerate(config.disk_configs()) if not disk.read_only]
        if not isinstance(fork, dict) or {*fork} != {"disks", "areas", "files"} or fork["disks"] != disks:
            raise _refused("other disks")
        areas = fork["areas"]
        if areas is not None and not (isinstance(areas, list) and all(map(_is_range, areas))):
            raise _refused("no areas of memory")
        memory = _MEMORY + (0 if areas is None else _BELOW)
        if fork["files"] != len(fds) or len(fds) != memory + len(disks):
            raise _refused(f"{len(fds)} files")
        for fd in fds[:memory]:
            _check_memory(fd)
        for fd in fds[memory:]:
            _check_disk(fd)
        return {"config": plain(config), "restore": None, "fork": fork, "package": PACKAGE, "number": number}


def _is_range(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(each) is int for each in value)


def _check_memory(fd: int) -> None:
    import fcntl

    try:
        seals = fcntl.fcntl(fd, _F_GET_SEALS)
    except OSError:
        seals = 0
    if seals & _FROZEN != _FROZEN:
        raise _refused("memory that somebody may write to")


def _check_disk(fd: int) -> None:
    info = posix.fstat(fd)
    if info.st_mode & 0o170000 != _S_IFREG or info.st_nlink:
        raise _refused("a disk that is no file without a name")


def _refused(why: str) -> ConfigError:
    return ConfigError(f"an invalid request for a child: {why}", code="fork-request")
