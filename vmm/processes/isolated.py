""":class:`~vmm.machine.machine.Machine` with ``isolation="process"``: its process is a jailed child of the caller's.

The child is ``pyvmm isolated`` (:mod:`vmm.processes.machine_process`).  It receives the configuration and opens what
that names with the caller's rights.  When the machine starts it enters the jail, as the process of ``pyvmm boot`` does.
It answers requests at one end of a socket pair.  A guest may have taken it over, so each answer is validated.

With ``isolation="fork"`` the child is a fork of the caller's process, which then runs the same program. It closes
everything that the caller has open, except a directory that the path of the socket device names as ``/proc/self/fd/N``.
"""

from __future__ import annotations

import os
import socket
import time

from vmm import boot
from vmm.board.owned import close_at_exit, is_closed
from vmm.config import THREAD, config_kinds
from vmm.errors import ConfigError
from vmm.faststart.record import replace
from vmm.faststart.thread import RLock
from vmm.lifecycle import (
    CLOSED,
    DEVICE_LOST,
    ERROR,
    MADE,
    PAUSED,
    RUNNING,
    STOPPED,
    Life,
    make_children,
)
from vmm.machine.interface import CALLER, AnyMachine
from vmm.processes.answers import nonsense, number, text
from vmm.processes.jailed import Jailed, Named, Plugged
from vmm.processes.machine_child import MachineChild
from vmm.processes.spawn import spawn
from vmm.saving.manifest import read_manifest
from vmm.saving.records import made, plain
from vmm.saving.regular_files import MEMORY, open_regular
from vmm.virtio.blk import DiskConfig
from vmm.virtio.fs import ShareConfig

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from subprocess import Popen
    from typing import Any, ClassVar

    from vmm.config import MachineConfig
    from vmm.machine.interface import Call
    from vmm.processes.jailed import Handed, OpenPoint
    from vmm.processes.spawn import Process
    from vmm.virtio.blk.device import DiskFiles
    from vmm.virtio.device_config import DeviceConfig


_STALE_MS = 2000
"""An upper bound of the time for which a guest may cache attributes of shared files."""


class _Console:
    """The console of a machine in a process of its own.

    :ivar space_callback: called when it accepts input again, after :meth:`input` accepted only a part
    """

    def __init__(self, machine: IsolatedMachine) -> None:
        self._machine = machine
        self.space_callback: Callable[[], None] | None = None

    def input(self, data: bytes) -> int:
        """As :meth:`Machine.console_input`."""
        return self._machine.console_input(data)


class _Net:
    """A network device of a machine in a process of its own."""

    def __init__(self, machine: IsolatedMachine, index: int) -> None:
        self._machine, self._index = machine, index

    def set_mac(self, mac: bytes) -> None:
        """As :meth:`vmm.virtio.net.device.Net.set_mac`."""
        self._machine._life.check("set_mac")
        self._machine._jailed.ask("set-mac", net=self._index, mac=mac.hex())


class _Vsock:
    """The socket device of such a machine: the caller connects to its sockets like any program of the host."""

    def __init__(self, uds: str) -> None:
        self.uds = os.path.abspath(uds)
        self._listening: list[socket.socket] = []

    def connect(self, port: int, *, seqpacket: bool = False, timeout: float | None = None) -> socket.socket:
        """As :meth:`vmm.virtio.vsock.device.Vsock.connect`."""
        from vmm.virtio.vsock import client

        return client.connect(self.uds, port, seqpacket=seqpacket, timeout=timeout)

    def listen(self, port: int, *, seqpacket: bool = False, backlog: int = 128) -> socket.socket:
        """As :meth:`vmm.virtio.vsock.device.Vsock.listen`."""
        from vmm.virtio.vsock import client, path

        made = client.listen(path.port_path(self.uds, port), seqpacket=seqpacket, backlog=backlog)
        self._listening = [*(each for each in self._listening if each.fileno() >= 0), made]
        return made

    def close(self) -> None:
        """Close what listens."""
        for each in self._listening:
            each.close()


class IsolatedMachine(AnyMachine):
    """A machine with ``isolation="process"`` or ``"fork"``; :func:`vmm.processes.factory.create_machine` makes it.

    :ivar walls: names of the walls around its process, see :data:`vmm.processes.jail.enter.WALLS`; empty before it is
        started
    :ivar missing: the first barrier that this host does not support, and why; may be empty
    :ivar pid: of its process; a new one after :meth:`reset`
    :ivar phases: steps of its start in this process, each with its time (CLOCK_MONOTONIC); :meth:`phases_within` has
        those of its own process
    """

    kind_of: ClassVar[Callable[[str], type[IsolatedMachine]] | None] = None
    """The class for an isolation, set by :mod:`vmm.processes.factory`; a child of a fork may have another than its
    parent.  None: this class."""

    def __init__(
        self,
        config: MachineConfig,
        *,
        devices: tuple[object, ...] = (),
        _restore: dict[str, Any] | None = None,
        _handed: Handed | None = None,
        _number: int = 0,
        _run: Callable[[int], Process] | None = None,
    ) -> None:
        if devices:
            raise _cannot("a device of the caller's own")
        for each in config.more_devices:
            if type(each).__name__ not in config_kinds():
                raise _cannot(f"a {type(each).__name__}")
        for tag, share in config.tagged_shares():
            if share.isolation == THREAD:
                raise _cannot(f"the share {tag!r} with isolation=thread")
        self.config = config
        self._restore = _restore
        self._handed = _handed
        self._number = _number
        self._run = _run
        self.walls: list[str] = []
        self.missing = ""
        self.pid = 0
        self.phases: list[tuple[str, float]] = [("made", time.monotonic())]
        self.console = _Console(self)
        self._vsock = None if config.vsock is None or not config.vsock.uds else _Vsock(config.vsock.uds)
        self._plugged: list[Plugged] = []
        self._memory_wanted = self._cpus_wanted = 0
        self._life = Life()
        self._life_lock = RLock()
        self._child: MachineChild | None = None
        self._console_fd = -1 if config.console.fd < 0 else os.dup(config.console.fd)
        close_at_exit(self)
        try:
            self._child = self._make()
        except BaseException:
            self.close()
            raise

    @classmethod
    def restore(
        cls, path: str, changes: dict[str, Any], *, devices: tuple[object, ...], start: bool, **options: Any
    ) -> IsolatedMachine:
        """As :meth:`Machine.restore`. With *prefetch*, another machine must have recorded the working set before."""
        manifest = read_manifest(path)
        saved: MachineConfig = made(manifest.config, "MachineConfig", config_kinds(), path)
        own = {name: plain(value) for name, value in changes.items() if name != "isolation"}
        machine = cls(
            saved.of_clone(changes),
            devices=devices,
            _restore={"path": os.path.abspath(path), "changes": own, "options": options},
        )
        return cls._begun(machine, start=start)

    @classmethod
    def of_fork(
        cls,
        point: OpenPoint,
        changes: dict[str, Any],
        *,
        start: bool,
        number: int = 0,
        run: Callable[[int], Process] | None = None,
    ) -> IsolatedMachine:
        """As :meth:`Machine.of_fork`.

        :param number: it belongs to a machine of the command line: the number of the child, from 1 on
        :param run: makes another process run :func:`program` with this descriptor as number 3: a new child of this
            process; raises OSError. That process knows the configuration of the parent, and so the configuration of
            child *number*
        """
        if changes.pop("devices", ()):
            raise _cannot("a device of the caller's own")
        handed = point.child(changes)
        try:
            kind = cls if cls.kind_of is None else cls.kind_of(handed.config.isolation)
            return cls._begun(kind(handed.config, _handed=handed, _number=number, _run=run), start=start)
        finally:
            handed.close()

    @staticmethod
    def _begun(machine: IsolatedMachine, *, start: bool) -> IsolatedMachine:
        if start:
            try:
                machine.start()
            except BaseException:
                machine.close()
                raise
        return machine

    def _forward(self, row: Call, arguments: dict[str, Any]) -> Any:
        if row.jailed == CALLER:
            raise _cannot(row.name)
        with self._life_lock:
            self._life.check(row.name)
            return self._jailed.request(row, arguments)

    def run_process(self, fd: int) -> Popen[bytes] | Process:
        """Start the machine's process with its end of the socket.

        :raises OSError: it cannot be started
        """
        return spawn(fd)

    def _make(self) -> MachineChild:
        wanted: dict[str, Any] = {"number": self._number}
        if not self._number:
            # The configuration in a snapshot is that of the guest, wherever it runs
            wanted = {"config": plain(replace(self.config, isolation=THREAD)), "restore": self._restore}
        handed = self._handed
        wanted["fork"] = None if handed is None else handed.about
        fds = (*((self._console_fd,) if self._console_fd >= 0 else ()), *(() if handed is None else handed.fds))
        child = MachineChild(self.config, wanted, fds, self._run or self.run_process, _Reports(self))
        self.pid = child.process.pid
        if self._restore is not None:
            try:
                child.jailed.take_base(open_regular(os.path.join(self._restore["path"], MEMORY)))
            except (ConfigError, OSError):
                pass  # it was replaced meanwhile: a fork copies all of its RAM
        return child

    @property
    def _jailed(self) -> Jailed:
        if self._child is None:
            raise ConfigError("the machine is closed", code="machine-state")
        return self._child.jailed

    # -- life --------------------------------------------------------------------------------------------------------

    @property
    def confined(self) -> bool:
        """As :attr:`Machine.confined`: always."""
        return True

    @property
    def devices(self) -> list[Named]:
        """Names of its devices."""
        self._life.check("devices")
        return self._jailed.devices

    def start(
        self,
        ready: Callable[[], None] | None = None,
        *,
        confined: bool = True,
        terminal: bool = False,
        held: bool = False,
    ) -> None:
        """As :meth:`Machine.start`, with *ready* called in this process; *terminal* and *held* are not supported.

        :raises HostError: its process has ended, or cannot be confined
        """
        if terminal:
            raise _cannot("a terminal's keys")
        if held:
            raise _cannot("start(held=True)")
        with self._life_lock:
            self._life.check("start")
            if ready is not None:
                ready()
            if self._life.end is None:
                self._begin()
            self._life.stage = RUNNING
            self._life.publish("restored" if self._restore or self._handed else "started")

    def _begin(self) -> None:
        answer = self._jailed.ask("start")
        names = answer.get("walls")
        self.walls = [text(each) for each in names] if isinstance(names, list) and len(names) < 100 else []
        self.missing = text(answer.get("missing"))
        self._life.stage = RUNNING
        self.phases.append(("started", time.monotonic()))

    def stop(self, kind: str = STOPPED, detail: str = "") -> None:
        """As :meth:`Machine.stop`.  A process that does not answer within 10 s is killed."""
        child = self._child
        if child is None or self._life.end is not None:
            return
        if self._life.stage == MADE:
            self._end(kind, detail)
        else:
            child.stopped = kind, detail
            child.jailed.stop(kind, detail)

    def phases_within(self) -> list[tuple[str, float]]:
        """The phases of the machine itself, and ``first-run``, the time of the guest's first instruction, as its
        process reports them."""
        self._life.check("phases_within")
        told = self._jailed.ask("phases").get("phases")
        if not isinstance(told, list) or any(not isinstance(each, list) or len(each) != 2 for each in told[:64]):
            raise nonsense()
        return [(text(name), number(at) / 1e9) for name, at in told[:64]]

    def figures(self) -> dict[str, Any]:
        """As :meth:`Machine.figures`, names and numbers only, as its process reports them.

        :raises HostError: it does not answer within 2 s
        """
        self._life.check("figures")
        told = self._jailed.ask("figures", seconds=FIGURES_S)
        return {kind: [_figures(each) for each in _rows(told.get(kind))] for kind in ("vcpus", "devices")}

    def plug(self, device: DeviceConfig, files: DiskFiles | None = None, *, directory: int = -1) -> Plugged:
        """As :meth:`Machine.plug`, for a disk or a share by its record: this process opens a disk's files, and starts a
        share's server."""
        with self._life_lock:
            try:
                self._life.check("plug")
                if not isinstance(device, DiskConfig | ShareConfig):
                    raise _cannot(f"a {type(device).__name__} that is plugged in")
                jailed = self._jailed
            except BaseException:
                if files is not None:
                    files.close()
                raise
            plugged = jailed.plug(device, files, directory=directory)
            self._plugged = [*(each for each in self._plugged if not each.is_gone), plugged]
            return plugged

    def unplug(self, attached: Plugged, timeout: float = 30.0, *, force: bool = False) -> bool:
        """As :meth:`Machine.unplug`, for a result of :meth:`plug`."""
        with self._life_lock:
            self._life.check("unplug")
            jailed = self._jailed
        return jailed.unplug(attached, timeout, force=force)

    def pause(self) -> None:
        """As :meth:`Machine.pause`."""
        with self._life_lock:
            self._life.check("pause")
            self._jailed.pause()
            self._life.stage = PAUSED
            self._life.publish("paused")

    def resume(self) -> None:
        """As :meth:`Machine.resume`."""
        with self._life_lock:
            self._life.check("resume")
            self._jailed.resume()
            self._life.stage = RUNNING
            self._life.publish("resumed")

    def snapshot(
        self,
        path: str,
        *,
        base: str | None = None,
        stop: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """As :meth:`Machine.snapshot`. Its RAM, state and disks are what the process, and so its guest, reports."""
        with self._life_lock:
            self._life.check("snapshot")
            self._jailed.snapshot(path, base=base, stop=stop, progress=progress)
            self._life.publish("snapshot", path)

    def fork(
        self,
        n: int = 1,
        *,
        each: Callable[[int], dict[str, Any]] | None = None,
        start: bool = True,
        **changes: Any,
    ) -> list[IsolatedMachine]:
        """As :meth:`Machine.fork`, into machines in processes of their own. If a share has a server, the machine is
        paused until everything that it has touched is copied."""
        point = self.fork_point(n)

        def make(number: int) -> IsolatedMachine:
            return self.of_fork(point, {**changes, **(each(number) if each else {})}, start=start)

        return make_children(point, n, make)

    def fork_point(self, n: int) -> OpenPoint:
        """As :meth:`Machine.fork_point`."""
        with self._life_lock:
            self._life.check("fork")
            point = self._jailed.fork_point(n, self.config.isolation)
            self._life.publish("forked", str(n))
            return point

    def export_fork(self, n: int = 1) -> tuple[dict[str, Any], list[int]]:
        """As :meth:`AnyMachine.export_fork`."""
        point = self.fork_point(n)
        try:
            return point.export()
        finally:
            point.close()
            if point.is_base:
                self._jailed.close_base()  # memory that only children need

    def reset(self) -> None:
        """As :meth:`Machine.reset`, by a new process: disks, shares and sockets are closed and opened again, and
        plugged-in devices are added again when the guest runs."""
        with self._life_lock:
            self._life.check("reset")
            if self._restore is not None or self._handed is not None:
                raise _cannot("a reset of a clone, whose disks end with its process,")
            boot.check(self.config)
            assert self._child is not None
            plugged = [each for each in self._plugged if not each.wait_gone(0)]
            self._child.close()
            for each in plugged:
                each.set_gone()
            try:
                self._life.begin_again()
                self._child = self._make()
                self._begin()
                for each in plugged:
                    self._jailed.plug_again(each)
                if self._memory_wanted:
                    self._jailed.resize_memory(self._memory_wanted)
                if self._cpus_wanted:
                    self._jailed.resize_cpus(self._cpus_wanted)
            except BaseException as error:
                self._life.stage = RUNNING
                self._end(ERROR, f"reset: {error}", error)
                raise
            self._life.publish("reset")

    def stale_shares(self) -> float:
        """As :meth:`Machine.stale_shares`."""
        self._life.check("refresh_shares")
        return min(number(self._jailed.ask("stale-shares").get("ms")), _STALE_MS) / 1000

    def write_touched(self, fd: int) -> None:
        """As :meth:`Machine.write_touched`."""
        self._life.check("refresh_shares")
        self._jailed.ask("touched", (fd,))

    def refresh_shares(self) -> None:
        """As :meth:`Machine.refresh_shares`."""
        if seconds := self.stale_shares():
            time.sleep(seconds)  # the guest's cache expires by its own clock, which no event reports

    def press_power_button(self) -> None:
        """As :meth:`Machine.press_power_button`."""
        self._life.check("press_power_button")
        self._life.publish("power-button")
        self._jailed.press_power_button()

    def resize_memory(self, size: int) -> None:
        """As :meth:`Machine.resize_memory`; :meth:`figures` shows how much the guest has plugged."""
        self._life.check("resize_memory")
        self._jailed.resize_memory(size)
        self._memory_wanted = size

    @property
    def cpus(self) -> int:
        """As :attr:`Machine.cpus`."""
        self._life.check("cpus")
        return self._jailed.cpus

    def resize_cpus(self, count: int) -> None:
        """As :meth:`Machine.resize_cpus`."""
        with self._life_lock:
            self._life.check("resize_cpus")
            self._jailed.resize_cpus(count)
            self._cpus_wanted = count

    def resize_disk(self, index: int) -> None:
        """As :meth:`Machine.resize_disk`.

        :raises HostError: without PCI the jail limits file sizes, and raising the limit needs CAP_SYS_RESOURCE
        """
        self._life.check("resize_disk")
        disks = self.config.disk_configs()
        if 0 <= index < len(disks) and self._life.stage != MADE:
            self._jailed.allow_file(disks[index].path)
        self._jailed.resize_disk(index)

    def console_input(self, data: bytes) -> int:
        """As :meth:`Machine.console_input`."""
        self._life.check("console_input")
        for start in range(0, len(data), _PIECE):
            piece = data[start : start + _PIECE]
            taken = number(self._jailed.ask("input", data=piece.decode("latin-1")).get("taken"))
            if taken < len(piece):
                return start + taken
        return len(data)

    @property
    def nets(self) -> tuple[_Net, ...]:
        """Its network devices: their ``set_mac``."""
        return tuple(_Net(self, index) for index in range(len(self.config.nets)))

    @property
    def vsock(self) -> _Vsock:
        """The socket device: its ``connect``, ``listen`` and ``uds``.

        :raises ConfigError: the machine was configured without one, or with ``backend="vhost"``
        """
        if self._vsock is None:
            raise ConfigError("the machine has no socket device with backend=unix", code="vsock-none")
        return self._vsock

    def _end(self, kind: str, detail: str, error: BaseException | None = None) -> None:
        end = self._life.finish(kind, detail, error)
        if end is not None:
            self.phases.append(("ended", end.at))
            self._life.tell_end(end)

    def close(self) -> None:
        """As :meth:`Machine.close`.  A process that does not end within 10 s is killed."""
        child = self._child
        if child is not None and child.is_reader():
            raise ConfigError("cannot close the machine from a listener of its own", code="machine-thread")
        with self._life_lock:
            if self._life.stage == CLOSED:
                return
            if child is not None:
                child.close()
            self._end(STOPPED, "")
            for each in self._plugged:
                each.set_gone()
            self._life.stage = CLOSED
            self._child = None
            if self._vsock is not None:
                self._vsock.close()
            if self._console_fd >= 0:
                os.close(self._console_fd)
                self._console_fd = -1
            is_closed(self)

    def __getattr__(self, name: str) -> Any:
        if name in ELSEWHERE:
            raise _cannot(name)
        raise AttributeError(name)


def _rows(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise nonsense()
    return value[:FIGURES_MAX]


def _figures(row: object) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise nonsense()
    found: dict[str, Any] = {}
    for name, value in list(row.items())[:FIGURES_MAX]:
        if name == "name":
            found[name] = text(value)
        elif isinstance(value, int):
            found[text(name)] = number(value)
        elif isinstance(value, dict):
            found[text(name)] = {text(key): number(each) for key, each in list(value.items())[:FIGURES_MAX]}
    return found


FIGURES_S, FIGURES_MAX = 2.0, 256
ELSEWHERE = (
    "attach", "attached", "balloon", "disks", "execution", "first_touched", "hotplug_memory", "loop",
    "memory", "mmio", "open_for_saving", "pio", "prefault", "prepared_forks", "release", "save",
    "serial", "vcpus",
)  # fmt: skip
"""What a Machine has in its own process only."""


def _cannot(what: str) -> ConfigError:
    return ConfigError(
        f"{what} is not available in a machine in a process of its own",
        code="isolation",
        hint='use isolation="thread"',
    )


class _Reports:
    """What a machine does with the reports of its process."""

    def __init__(self, machine: IsolatedMachine) -> None:
        self._machine = machine

    def end(self, kind: str, detail: str, error: BaseException | None = None) -> None:
        self._machine._end(kind, detail, error)

    def lose_device(self, why: str) -> None:
        self._machine._life.publish(DEVICE_LOST, why)

    def take_input(self) -> None:
        callback = self._machine.console.space_callback
        if callback is not None:
            callback()

    @property
    def is_running(self) -> bool:
        return self._machine.end is None and self._machine.state != MADE


_PIECE = 4096
"""Bytes of input at once."""
