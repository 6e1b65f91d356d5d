"""Requests to a machine whose process is jailed: from ``pyvmm-control``, which serves its control socket, and from the
caller of a machine with ``isolation="process"``.

A guest may have taken that process over, so its answers are checked.
"""

from __future__ import annotations

import array
import json
import os
import signal
import socket
import stat
from typing import NamedTuple

from vmm.config import PROCESS
from vmm.errors import ConfigError, HostError, VmmError, from_answer
from vmm.faststart.record import replace
from vmm.lifecycle import PAUSED, RUNNING, STOPPED, check_children
from vmm.machine.interface import INSIDE, MachineInterface
from vmm.processes.answers import nonsense, number, parsed, text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from vmm.config import MachineConfig
    from vmm.faststart import builtin
    from vmm.machine.interface import Call
    from vmm.saving.snapshot import Files, Saved
    from vmm.virtio.blk import DiskConfig
    from vmm.virtio.blk.device import DiskFiles
    from vmm.virtio.device_config import DeviceConfig
    from vmm.virtio.fs import ShareConfig
    from vmm.virtio.fs.process import FsProcess

ANSWER_MAX = 64 << 10
"""Bytes of an answer."""
REQUEST_MAX = 128 << 10
"""Bytes of a request: a configuration is the longest."""


class Jailed(MachineInterface):
    """A jailed machine, as :class:`ControlServer` serves it from outside. A guest may have taken over its process. So
    its answers are checked, and it is killed if it does not end.

    :param sock: the socket at which its process receives requests: each with a socket for the answers, and the
        descriptors of the files to write
    :param process: a pidfd
    :param starter: instead of :func:`start_server`: delegates it to a process that may start programs
    :param has_ids: the real user and group of this process are those of the machine's process
    :ivar config: of the machine, as the user gave it
    """

    writes_to_its_size = True

    def __init__(
        self,
        sock: builtin.socket.socket,
        process: int,
        config: MachineConfig,
        starter: Callable[..., Any] | None = None,
        *,
        has_ids: bool = False,
    ) -> None:
        self._sock = sock
        self._process = process
        self._starter = starter
        self._base = -1
        self._has_ids = has_ids
        self.config = config

    @property
    def confined(self) -> bool:
        """As :attr:`Machine.confined`: always."""
        return True

    @property
    def state(self) -> str:
        """As :attr:`Machine.state`."""
        return text(self.ask("status").get("state"))

    @property
    def devices(self) -> list[Named]:
        """The names of the machine's devices."""
        names = self.ask("status").get("devices")
        return [Named(text(name)) for name in names[:_DEVICES_MAX]] if isinstance(names, list) else []

    @property
    def cpus(self) -> int:
        """As :attr:`Machine.cpus`."""
        return number(self.ask("status").get("cpus"))

    def _forward(self, row: Call, arguments: dict[str, Any]) -> Any:
        return self.request(row, arguments)

    def request(self, row: Call, arguments: dict[str, Any]) -> Any:
        """Have the machine's process do the call; its result, of the type that the row says.

        :raises ConfigError: its process does not do that
        """
        if row.jailed != INSIDE:
            raise ConfigError(f"{row.name} cannot be done for a machine in a jail", code="isolation")
        answer = self.ask(row.name, **arguments)
        if row.result == "None":
            return None
        return number(answer.get("result")) if row.result == "int" else text(answer.get("result"))

    def stop(self, kind: str = STOPPED, detail: str = "") -> None:
        """As :meth:`Machine.stop`."""
        try:
            self.ask("stop", seconds=STOP_SECONDS, kind=kind, detail=detail)
        except HostError:
            signal.pidfd_send_signal(self._process, signal.SIGKILL)

    def snapshot(
        self,
        path: str,
        *,
        base: str | None = None,
        stop: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """As :meth:`Machine.snapshot`: the directory and the manifest are made here, from the user's configuration; the
        machine's process writes RAM, its state and disks into open files."""
        from vmm.saving.new_directory import NewDirectory
        from vmm.saving.snapshot import Taking

        runs = stop and self.state == RUNNING
        try:
            with NewDirectory(path) as folder:
                taking = Taking(self.config, folder, base)
                with taking.files() as files:
                    diff = (files.pages, files.than) if files.than >= 0 else ()
                    fds = (files.memory, files.state, *diff, *files.disks)
                    answer = self.ask("save", fds, progress, stop=stop, diff=bool(diff))
                taking.finish(_saved(answer, self.config))
        except BaseException:
            if runs:  # it has been saved, but that was lost
                self._go_on()
            raise
        if stop:
            self.stop(detail="snapshot")

    def _go_on(self) -> None:
        try:
            if self.state == PAUSED:
                self.resume()
        except VmmError:
            pass  # it ends, and reports that

    def plug(self, device: DeviceConfig, files: DiskFiles | None = None, *, directory: int = -1) -> Plugged:
        """As :meth:`Machine.plug`, for a disk or a share: the disk's files are opened, checked and locked here, and the
        share's server is started from here.

        :param files: of a disk: its open files; closed here
        :param directory: of a share: its open directory
        """
        record: Any = device
        plugged = Plugged(record)
        self.plug_again(plugged, files, directory=directory)
        return plugged

    def plug_again(self, plugged: Plugged, files: DiskFiles | None = None, *, directory: int = -1) -> None:
        """:meth:`plug` previously plugged-in devices into a machine that does not have them."""
        from vmm.board.slots import no_hotplug
        from vmm.saving.records import plain
        from vmm.virtio.blk import DiskConfig
        from vmm.virtio.blk.device import DiskFiles

        config = plugged.config
        if not self.config.has_pci():
            if files is not None:
                files.close()
            raise no_hotplug()
        if not isinstance(config, DiskConfig):
            self._plug_share(plugged, config, directory)
            return
        if files is None:
            files = DiskFiles.open(config)
        has_them = False
        try:
            if not config.read_only:
                self._allow_size(files.fds[-1], config.path)
            answer = self.ask("plug", files.fds, disk=plain(config), about=files.about)
            plugged.number, plugged.jailed, has_them = number(answer.get("number")), self, True
            plugged.is_gone = False
        finally:
            files.close(unlock=not has_them)

    def _plug_share(self, plugged: Plugged, config: ShareConfig, directory: int) -> None:
        from vmm.saving.records import plain

        if config.isolation != "process" or config.dax:
            raise ConfigError(
                f"share {config.path}: what a machine in a jail gets later has a server of its own and no window",
                code="share-plug",
                hint="leave isolation=thread and dax out",
            )
        if not self.config.shares_memory():
            raise ConfigError(
                f"share {config.path}: its server would need this guest's RAM, which cannot be shared",
                code="hotplug",
                hint="MemoryConfig(shared=True) makes RAM that can be shared",
            )
        cpus, ram = self.config.cpus, self.config.memory.size
        start = self._starter or start_server
        server = start(config, directory, cpus=cpus, ram=ram, machine=self._process)
        try:
            answer = self.ask("plug", server.fds, share=plain(config), about=server.about)
            plugged.number, plugged.jailed, plugged.server = number(answer.get("number")), self, server
            plugged.is_gone = False
            server.hand_over()
        except BaseException:
            server.close()
            raise

    def unplug(self, attached: Plugged, timeout: float = 30.0, *, force: bool = False) -> bool:
        """As :meth:`Machine.unplug`."""
        plugged = attached
        if plugged.jailed is not self or plugged.is_gone:
            raise ConfigError(f"{plugged.device.name} is not attached to this machine", code="not-attached")
        answer = self.ask(
            "unplug", seconds=timeout + _FORCE_SECONDS, number=plugged.number, timeout=timeout, force=force
        )
        if answer.get("gone") is True:
            plugged.set_gone()
        return plugged.is_gone

    def allow_file(self, path: str) -> None:
        """Raise its process's limit on file sizes to the size of this file.

        :raises HostError: it has a limit that this process may not raise
        """
        self._allow_size(path, path)

    def _allow_size(self, file: str | int, path: str) -> None:
        from vmm.processes.jail.enter import raise_file_size

        try:
            info = os.stat(file)
            pid = _row(f"/proc/self/fdinfo/{self._process}", "Pid:")[0]
            user = 0 if self._has_ids else _row(f"/proc/{pid}/status", "Uid:")[0]
            if stat.S_ISREG(info.st_mode):
                raise_file_size(pid, info.st_size, user)
        except (FileNotFoundError, ProcessLookupError):
            pass  # the next reader reports what is missing
        except OSError as error:
            raise HostError(
                f"disk {path}: the machine's process may not write a file of that size: {error.strerror}",
                code="disk-size",
                errno=error.errno or 0,
                hint="who has CAP_SYS_RESOURCE can allow it; a machine on PCI has a limit that its user may raise",
            ) from error

    def fork_point(self, n: int, isolation: str = PROCESS) -> OpenPoint:
        """As :meth:`Machine.fork_point`, for children with this *isolation*."""
        check_children(n)

        def save(files: Files) -> Saved:
            diff = (files.than,) if files.than >= 0 else ()
            fds = (files.memory, files.state, files.pages, *diff, *files.disks)
            return _saved(self.ask("save", fds, stop=False, diff=bool(diff), children=n), self.config)

        point = OpenPoint(replace(self.config, isolation=isolation), n, save, self._base)
        if point.is_base:
            self.close_base()
            self._base = point.hold_base()
        return point

    def take_base(self, file: int) -> None:
        """The machine was restored from this memory file, owned by this object from now on. Children share what the
        machine has not written since."""
        self.close_base()
        self._base = file

    def close_base(self) -> None:
        """Forget the base that the machine's RAM may lie over since the last fork, or its restore."""
        if self._base >= 0:
            os.close(self._base)
            self._base = -1

    def ask(
        self,
        command: str,
        fds: tuple[int, ...] = (),
        progress: Callable[[int, int], None] | None = None,
        *,
        seconds: float | None = None,
        **arguments: Any,
    ) -> dict[str, Any]:
        """
        :raises ConfigError: as the machine says
        :raises HostError: as it reports; or its answer is invalid
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours:
            with theirs:
                request = json.dumps({"command": command, **arguments}).encode()
                flags = socket.MSG_NOSIGNAL | (0 if seconds is None else socket.MSG_DONTWAIT)
                rights = array.array("i", (theirs.fileno(), *fds))
                try:
                    self._sock.sendmsg([request], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)], flags)
                except OSError as error:
                    raise _silent(error) from error
            ours.settimeout(seconds)
            while data := _received(ours):
                answer = parsed(data)
                if "progress" in answer:
                    if progress is not None:
                        progress(number(answer["progress"]), number(answer.get("of")))
                elif "error" in answer:
                    raise from_answer(answer, text)
                elif isinstance(answer.get("ok"), dict):
                    return dict(answer["ok"])
                else:
                    raise nonsense()
        raise HostError("the machine ended before it answered", code="control-ended")


def start_server(config: ShareConfig, directory: int, *, cpus: int, ram: int, machine: int) -> FsProcess:
    """Start the server of a share for a jailed machine.

    :param directory: its open directory, used instead of the name; -1: use the name
    :param machine: a pidfd of the machine's process, with which the server ends
    """
    from vmm.virtio.fs import node_bytes
    from vmm.virtio.fs.process import FsProcess

    if directory >= 0:
        config = replace(config, path=f"/proc/self/fd/{directory}")
    return FsProcess(config, cpus=cpus, node_bytes=node_bytes(ram), machine=machine)


def _row(path: str, name: str) -> list[int]:
    """The numbers behind a name in a file of /proc."""
    with open(path) as file:
        return next(list(map(int, line.split()[1:])) for line in file if line.startswith(name))


def _silent(error: OSError) -> HostError:
    why = f": {error.strerror}" if error.strerror else ""
    return HostError(f"the machine ended before it answered{why}", code="control-ended", errno=error.errno or 0)


def _received(sock: socket.socket) -> bytes:
    try:
        return sock.recv(ANSWER_MAX)
    except OSError as error:
        raise _silent(error) from error


_OWN = 3
"""So many files of a point are new; the base was frozen before, or is a snapshot's memory, which nobody changes."""


class OpenPoint:
    """A jailed machine at the moment of its fork: nameless files that are made here and written by its process. They
    are freed with the last process that has them open.

    :param children: how many children will be made from it, one after the other
    :param save: has the machine written
    :param base: RAM at the last fork, which the machine may lie over; -1: there is none
    :ivar is_base: the written file contains all of RAM
    :raises ConfigError: it has a device that cannot be saved, or the path of an image now names another file
    :raises HostError: the host has no space for it
    """

    def __init__(self, config: MachineConfig, children: int, save: Callable[[Files], Saved], base: int) -> None:
        from vmm.memory.memfd import open_memory
        from vmm.saving.disk_copies import unnamed_file
        from vmm.saving.snapshot import Files

        self._config = config
        self._left = children
        self._fds: list[int] = []
        self._disks: dict[int, int] = {}
        try:
            size = config.all_memory()
            self._fds.append(open_memory("guest-ram-base", size))
            self._fds += [open_memory("machine-state", 0), open_memory("machine-pages", 0)]
            for index, disk in enumerate(config.disk_configs()):
                if not disk.read_only:
                    self._disks[index] = unnamed_file(disk.overlay or disk.path)
            memory, state, pages = self._fds
            saved = save(Files(memory, state, pages, base, tuple(self._disks.values()), children=children))
            self._areas = saved.areas
            self.is_base = saved.areas is None
            if not self.is_base:
                if base < 0:
                    raise nonsense()
                self._fds.append(os.dup(base))
            for disk, (length, changed) in zip(config.disk_configs(), saved.disks, strict=True):
                if disk.read_only or disk.has_overlay:
                    _check_image(disk, length, changed)
            for fd in self._fds[:_OWN]:
                _freeze(fd)  # the machine's process has them, too, and a guest may have that
            if os.fstat(memory).st_size != size:
                raise nonsense()
        except OSError as error:
            self.close()
            raise _no_room(error) from error
        except BaseException:
            self.close()
            raise

    def child(self, changes: dict[str, Any]) -> Handed:
        """The parts of the next child.

        :param changes: see :meth:`MachineConfig.of_clone`
        :raises ConfigError: it cannot have that
        :raises HostError: the host has no room for a disk
        """
        config = self._config.of_clone(changes)
        self._left -= 1
        kept = [index for index in self._disks if not self._is_another(index, changes)]
        fds = [os.dup(fd) for fd in self._fds]
        try:
            for index in kept:
                fds.append(self._disks.pop(index) if not self._left else self._copy_of(index))
        except OSError as error:
            for fd in fds:
                os.close(fd)
            raise _no_room(error) from error
        return Handed(config, kept, self._areas, fds)

    def export(self) -> tuple[dict[str, Any], list[int]]:
        """What :meth:`imported` takes, in this process or another one.

        :raises ConfigError: its guest writes disks, of which each child would need a copy
        """
        from vmm.saving.records import plain

        if self._disks:
            raise ConfigError("a machine with disks that it writes has no children elsewhere", code="fork-disk")
        return {"config": plain(self._config), "areas": self._areas}, [os.dup(fd) for fd in self._fds]

    @classmethod
    def imported(cls, about: dict[str, Any], fds: list[int]) -> OpenPoint:
        """Of :meth:`export`, for one child.

        :param fds: are the caller's until this returns
        :raises ConfigError: they are not of that
        """
        from vmm.config import config_kinds
        from vmm.saving.records import made

        areas = about.get("areas")
        if len(fds) != 3 + (areas is not None):
            raise ConfigError(f"a fork has no {len(fds)} files", code="fork-files")
        self = cls.__new__(cls)
        self._config = made(about.get("config"), "MachineConfig", config_kinds(), "the fork")
        self._left, self._disks, self._fds = 1, {}, list(fds)
        self._areas = None if areas is None else tuple((int(start), int(end)) for start, end in areas)
        self.is_base = areas is None
        return self

    def hold_base(self) -> int:
        """A descriptor of RAM, the caller's."""
        return os.dup(self._fds[0])

    def _is_another(self, index: int, changes: dict[str, Any]) -> bool:
        first = len(self._config.disk_configs()) - len(self._config.disks)
        return ("rootfs" if index < first else "disks") in changes

    def _copy_of(self, index: int) -> int:
        from vmm.saving.disk_copies import copy_open_disk, unnamed_file
        from vmm.virtio.blk import AUTO

        disk = self._config.disk_configs()[index]
        copy = unnamed_file(disk.overlay or disk.path)
        try:
            copy_open_disk(self._disks[index], copy, AUTO if disk.has_overlay else disk.cow)
        except BaseException:
            os.close(copy)
            raise
        return copy

    def close(self) -> None:
        """Release what no child has taken. A second call does nothing."""
        for fd in (*self._fds, *self._disks.values()):
            os.close(fd)
        self._fds, self._disks = [], {}


class Handed:
    """The parts of a child, for the process that makes it.

    :ivar config: its configuration, with its parent's paths of disks
    :ivar disks: which of them are nameless files
    :ivar areas: where RAM lies over the base; None: nowhere
    :ivar fds: RAM, state, bits of RAM's pages, with areas the base, and these files
    """

    def __init__(
        self, config: MachineConfig, disks: list[int], areas: tuple[tuple[int, int], ...] | None, fds: list[int]
    ) -> None:
        self.config = config
        self.disks = disks
        self.areas = areas
        self.fds = fds

    @property
    def about(self) -> dict[str, Any]:
        """Further values for that process, as JSON."""
        return {"disks": self.disks, "areas": self.areas, "files": len(self.fds)}

    def close(self) -> None:
        """That process has them, or does not exist. A second call does nothing."""
        while self.fds:
            os.close(self.fds.pop())


def _freeze(fd: int) -> None:
    """Seal the memfd against writing; the machine may have sealed it already.

    :raises OSError: it is mapped for writing
    """
    import fcntl

    from vmm.memory.memfd import freeze

    frozen = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
    if fcntl.fcntl(fd, fcntl.F_GET_SEALS) & frozen != frozen:
        freeze(fd)


def _check_image(disk: DiskConfig, length: int, changed: int) -> None:
    """Whether the path still names the file that the machine has open. It does not open the file, which the maker of
    forks may not do: so the size of a block device is not compared."""
    try:
        now = os.stat(disk.path)
    except OSError as error:
        raise ConfigError(f"disk {disk.path}: {error.strerror}", code="fork-disk") from error
    if now.st_mtime_ns != changed or (now.st_size != length and stat.S_ISREG(now.st_mode)):
        raise ConfigError(f"disk {disk.path}: its path names another file than the machine has open", code="fork-disk")


def _no_room(error: OSError) -> HostError:
    return HostError(
        f"cannot copy the machine: {error.strerror}",
        code="fork-copy",
        hint="a fork of a machine in a jail takes as much memory as it has used, and room for its disks beside them",
        errno=error.errno or 0,
    )


class Named(NamedTuple):
    """A device of a jailed machine."""

    name: str


class Plugged:
    """What was plugged into a machine in a jail: what :class:`~vmm.board.slots.Attached` is elsewhere.

    :ivar device: its name
    :ivar config: what it was made from
    :ivar jailed: the machine that has it
    :ivar number: the number by which requests name it
    :ivar server: of a share
    :ivar is_gone: it is known to be unplugged
    """

    def __init__(self, config: DiskConfig | ShareConfig) -> None:
        self.device = Named(f"disk {config.path}" if hasattr(config, "serial") else f"share {config.path}")
        self.config = config
        self.jailed: Jailed | None = None
        self.number = 0
        self.server: Any = None
        self.is_gone = False

    def set_gone(self) -> None:
        """It is unplugged, or its machine has ended; may be called again."""
        self.is_gone = True
        server, self.server = self.server, None
        if server is not None:
            server.close()

    def resize(self) -> None:
        """As :meth:`vmm.board.slots.Attached.resize`."""
        if self.jailed is None:
            raise ConfigError("it is not attached to a machine", code="not-attached")
        self.jailed.allow_file(self.config.path)
        self.jailed.ask("resize-plugged", number=self.number)

    def wait_gone(self, timeout: float) -> bool:
        """As :meth:`vmm.board.slots.Attached.wait_gone`; False, too, when the machine ends meanwhile."""
        if not self.is_gone and self.jailed is not None:
            try:
                answer = self.jailed.ask(
                    "wait-gone", seconds=timeout + _FORCE_SECONDS, number=self.number, timeout=timeout
                )
            except HostError:
                return False
            if answer.get("gone") is True:
                self.set_gone()
        return self.is_gone


_DEVICES_MAX = 256
STOP_SECONDS = 10.0
_FORCE_SECONDS = 40.0
"""More than :meth:`Machine.unplug` takes after its timeout."""


def _saved(answer: dict[str, Any], config: MachineConfig) -> Saved:
    """What was answered to *save*."""
    from vmm.saving.snapshot import Saved

    devices, disks = (
        [list(each) for each in answer[name] if isinstance(each, list) and len(each) == 2]
        if isinstance(answer.get(name), list)
        else []
        for name in ("devices", "disks")
    )
    cpuid = text(answer.get("cpuid"))
    if len(disks) != len(config.disk_configs()) or len(devices) > _DEVICES_MAX or len(cpuid) != 64:
        raise nonsense()
    areas = answer.get("areas")
    if areas is not None:
        if not isinstance(areas, list) or any(not isinstance(each, list) or len(each) != 2 for each in areas):
            raise nonsense()
        areas = tuple((number(start), number(end)) for start, end in areas)
    return Saved(
        tuple((text(kind), number(version)) for kind, version in devices),
        cpuid,
        tuple((number(size), number(changed)) for size, changed in disks),
        number(answer.get("memory_bytes")),
        areas,
    )
