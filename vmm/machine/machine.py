"""The one place that connects the parts of a machine: RAM, vCPUs, buses, interrupt lines, devices; and its
lifecycle."""

from __future__ import annotations

import posix
import time

from vmm.board.attach_mmio import MmioSlots
from vmm.board.bootstrap import Bootstrap
from vmm.board.kvm_vm import new_core
from vmm.board.open_devices import (
    balloon_of,
    console_of,
    hotplug_memory_of,
    nets_of,
    open_devices,
    open_plugged_disk,
    vsock_of,
)
from vmm.board.owned import Owned, close_at_exit, is_closed
from vmm.board.pc import Platform
from vmm.board.slots import Board, no_hotplug
from vmm.board.vcpu_threads import VcpuThreads
from vmm.config import PACKED, PCI, THREAD
from vmm.errors import ConfigError, HostError
from vmm.events import Loop
from vmm.faststart.record import replace
from vmm.faststart.thread import ClosingTogether, RLock, Thread, allocate_lock, get_ident
from vmm.lifecycle import (
    CLOSED,
    DEVICE_LOST,
    ERROR,
    MADE,
    PANIC,
    PAUSED,
    POWEROFF,
    REBOOT,
    RUNNING,
    STOPPED,
    EndEvent,
    Life,
    check_children,
    make_children,
    refusal,
)
from vmm.machine.interface import AnyMachine
from vmm.virtio.device_config import DeviceConfig
from vmm.virtio.spec import ID_BLOCK

_START = "start"
"""Why vCPUs are held before their first instruction."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from typing import Any

    from vmm.board.bootstrap import Origin
    from vmm.board.kvm_vm import Core
    from vmm.board.slots import Attached, HotPlug, Slots
    from vmm.config import MachineConfig
    from vmm.devices import Serial
    from vmm.kvm import Vcpu
    from vmm.lifecycle import Event
    from vmm.machine.confined import Confinement
    from vmm.memory import GuestMemory
    from vmm.memory.on_demand import FirstTouched
    from vmm.saving.fork import ForkPoint, Shells
    from vmm.saving.snapshot import Files, Saved
    from vmm.virtio.balloon.device import Balloon
    from vmm.virtio.blk.device import DiskFiles
    from vmm.virtio.console.device import VirtioConsole
    from vmm.virtio.device import VirtioDevice
    from vmm.virtio.mem.device import HotplugMemory
    from vmm.virtio.net.device import Net
    from vmm.virtio.vsock.device import Vsock
    from vmm.virtio.vsock.vhost import VhostVsock


class Machine(AnyMachine):
    """A virtual machine.  A context manager: leaving it stops the guest and frees everything.

    Life: made (nothing runs; :meth:`attach` is allowed) -> :meth:`start` -> running <-> paused, -> ended (:meth:`wait`
    returns the :class:`EndEvent`) -> :meth:`close`.  :data:`vmm.lifecycle.ALLOWED` has the states that allow each call;
    in any other it raises ConfigError with the code ``machine-state``.  Unless noted, call it from any thread.

    :raises ConfigError: the configuration cannot be, or names another process; nothing was opened yet
    :raises HostError: the host has no usable KVM or not enough memory
    """

    def __init__(
        self, config: MachineConfig, *, devices: tuple[VirtioDevice, ...] = (), _origin: Origin | None = None
    ) -> None:
        if config.isolation != THREAD:
            raise ConfigError(
                f"isolation={config.isolation!r}: a Machine runs in this process",
                code="isolation",
                hint="vmm.create_machine(config) makes machines of every isolation",
            )
        self.config = config
        self.phases: list[tuple[str, float]] = [("made", time.monotonic())]
        self._owned = Owned()
        self._loop_thread: Thread | None = None
        self._confinement: Confinement | None = None
        self._life = Life()
        self._life.listen(self._note_end)
        # What changes the state excludes each other: the exit hook closes machines of threads that still run
        self._life_lock = RLock()
        self._pages_lock = allocate_lock()
        self._core: Core | None = None
        self._held = False
        self._shells: Shells | None = None
        self._counts: dict[type, int] = {}
        self._ran: tuple[float, float | None] = 0.0, None
        """Seconds until the last pause, and since when the guest runs: one value, read without a lock."""
        with self._life_lock:
            close_at_exit(self)
            try:
                self._build(devices, _origin)
            except BaseException as error:
                self.close()
                if (refused := refusal(error)) is not None:
                    raise refused from error
                raise

    # -- wiring ------------------------------------------------------------------------------------------------------

    def _build(self, devices: tuple[VirtioDevice, ...], origin: Origin | None) -> None:
        config = self.config
        origin = self._origin = origin or Bootstrap(config)
        records = config.device_configs()
        shared = config.shares_memory(records) or any(device.shares_memory for device in devices)
        # A process that maps it without support for pages that are still missing would read holes
        may_be_filled = config.takes_memory_on_demand(records)
        on_demand = may_be_filled and all(device.takes_memory_on_demand for device in devices if device.shares_memory)
        self._memory = origin.make_memory(
            config.memory, shared=shared, on_demand=on_demand, hotplug=config.hotplug_size()
        )
        self._owned.add(self._memory)
        shell = origin.take_shell()
        self.loop = self._owned.add(Loop() if shell is None else shell.loop)
        self.phases.append(("memory", time.monotonic()))
        origin.begin(self._memory)
        self._owned.add(origin)
        core = self._core = self._owned.add(new_core(config) if shell is None else shell.core)
        ahead = None if shell is None else shell.devices
        pages = None if shell is None else self._owned.add(shell.pages)
        if ahead is not None:
            ahead.give(self._owned)
        opening = (config, self.loop, self._owned, self._counts, may_be_filled, ahead)
        wanted = open_devices(records, *opening)
        last = open_devices(config.last_configs(), *opening)
        platform = self._platform = Platform(self._memory.regions[-1].end, self._owned)
        self.pio, self.mmio = platform.pio, platform.mmio
        # A page of a window may be one that its file has lost
        windows = any(device.regions for device in (*wanted, *devices))
        if shell is None:
            core.async_pf = not windows
            core.make_vcpus(self.memory)
        core.bind(platform.native)
        threads = () if shell is None else tuple(map(self._owned.add, shell.vcpu_threads))
        self._threads = VcpuThreads(self.vcpus, self.pio, self.mmio, self.memory, self._life, config.cpus, threads)
        if config.all_cpus() > config.cpus:
            platform.keep(self._threads)
        self.phases.append(("kvm", time.monotonic()))
        platform.add_devices(core, self.loop, config.console, self._on_power_event)
        self.serial = platform.serial
        self.console: Serial | VirtioConsole = console_of(wanted) or self.serial
        packed = config.virtqueues == PACKED
        board = Board(
            core,
            self.memory,
            self.loop,
            self.mmio,
            platform.native,
            self._owned,
            packed=packed,
            pages=pages,
            restored=origin.restores,
        )
        self._slots: Slots
        if config.transport == PCI:
            from vmm.board.attach_pci import PciSlots

            self._slots = PciSlots(board)
        else:
            self._slots = MmioSlots(board)
        for port, size, registers in self._slots.ports:
            platform.add_pio(port, size, registers)
        for device in (*wanted, *devices, *last):
            self.attach(device)
        if ahead is not None:
            core.drop_lines()
            ahead.close()
            board.pages.close()
        self.phases.append(("devices", time.monotonic()))

    @property
    def attached(self) -> list[Attached]:
        """The virtio devices in their slots, in the order of attachment."""
        return self._slots.attached

    @property
    def devices(self) -> list[VirtioDevice]:
        """The virtio devices themselves, in that order."""
        return [each.device for each in self.attached]

    @property
    def memory(self) -> GuestMemory:
        """Guest RAM by guest physical address; a running guest changes it at any time."""
        self._life.check("memory")
        return self._memory

    @property
    def vcpus(self) -> list[Vcpu]:
        """The virtual CPUs, empty once closed, new after a :meth:`reset`; ``regs`` and ``sregs`` while none runs."""
        return [] if self._core is None else self._core.vcpus

    def figures(self) -> dict[str, Any]:
        """Counters: ``vcpus``, with KVM's counters of each by the kernel's names, and the exits that ``c`` and
        ``python`` answered; ``devices``, with the ``name`` and counters of each. It waits for nobody: counters of
        another process, such as a share's server, are not included.
        """
        self._life.check("figures")
        vcpus = []
        for vcpu in self.vcpus:
            counts = vcpu.exit_counts()
            vcpus.append({**vcpu.stats(), **{who: sum(counts[who].values()) for who in ("c", "python")}})
        transports = (each.transport for each in self.attached if not each.device.counts_elsewhere)
        return {"vcpus": vcpus, "devices": [transport.stats() for transport in transports]}

    def phases_within(self) -> list[tuple[str, float]]:
        """:attr:`phases`, and ``first-run``, when the guest's first instruction was."""
        self._life.check("phases_within")
        first = self.vcpus[0].exit_counts()["first_run_ns"]
        return [*self.phases, *([("first-run", first / 1e9)] * bool(first))]

    @property
    def execution(self) -> VcpuThreads:
        """The vCPUs' threads: for debuggers."""
        return self._threads

    def _map_register_pages(self) -> None:
        # Done while the guest runs already: until then C answers the reads
        with self._pages_lock:
            if self._core is not None and self._core.read_only_slots:
                self._slots.map_register_pages()

    def attach(self, device: VirtioDevice) -> Attached:
        """Put *device* into the next slot.  Before :meth:`start` only.

        :raises ConfigError: no slot is free, or the machine runs already
        """
        self._life.check("attach")
        self._let_map(device)
        device.on_lost = self._on_lost
        self._platform.place_windows(device, bars=self._slots.has_bar(device))
        return self._slots.attach(device)

    def _let_map(self, device: VirtioDevice) -> None:
        if device.shares_memory and not device.takes_memory_on_demand:
            self._memory.complete()

    def plug(
        self, device: VirtioDevice | DeviceConfig, files: DiskFiles | None = None, *, directory: int = -1
    ) -> Attached:
        """Attach a device, or that of a record, to the PCI bus while the guest runs; its driver finds it a moment
        later.

        :param files: of a disk by its record: they are open; closed with it, or now
        :param directory: of a share by its record: a descriptor of its directory, the caller's
        :raises ConfigError: the machine does not run, has no PCI bus or no room on it; the device cannot be opened, or
            does not support it
        """
        if files is not None:
            return self._plug_files(device, files)
        if directory >= 0:
            record: Any = device
            device = replace(record, path=f"/proc/self/fd/{directory}")
        with self._life_lock:
            self._life.check("plug")
            hotplug = self._hotplug()
            if not isinstance(device, DeviceConfig):
                self._let_map(device)
                device.on_lost = self._on_lost
                return hotplug.plug(device)
            device.check(self.config)
            opened = Owned()
            try:
                on_demand = self.config.takes_memory_on_demand()
                (made,) = open_devices((device,), self.config, self.loop, opened, self._counts, on_demand)
                made.on_lost = self._on_lost
                return hotplug.plug(made)  # which closes it from now on
            except BaseException:
                opened.close()
                raise

    def _plug_files(self, record: Any, files: DiskFiles) -> Attached:
        disk = open_plugged_disk(record, files, self.config, len(self.disks))
        try:
            return self.plug(disk)  # which closes it from now on
        except BaseException:
            disk.close()
            raise

    def unplug(self, attached: Attached, timeout: float = 30.0, *, force: bool = False) -> bool:
        """Request that the guest release a device, and wait for that; then close all of it.

        :param timeout: seconds to wait; 0 only requests
        :param force: remove it then, whether the guest has released it or not
        :returns: whether it is removed. A guest may be slow, or never release a device that it uses
        :raises ConfigError: the machine does not run or has no PCI bus, or the device does not belong to this machine
        """
        with self._life_lock:
            self._life.check("unplug")
            self._hotplug().ask_to_leave(attached)
        if force and not attached.wait_gone(timeout):
            with self._life_lock:
                self._life.check("unplug")
                self._hotplug().pull_out(attached)
        return attached.wait_gone(30.0 if force else timeout)  # the guest may just be about it

    def _hotplug(self) -> HotPlug:
        if self._slots.hotplug is None:
            raise no_hotplug()
        return self._slots.hotplug

    # -- life --------------------------------------------------------------------------------------------------------

    @property
    def confined(self) -> bool:
        """Its threads have their lists of system calls, see :meth:`start`."""
        return self._confinement is not None

    def start(
        self,
        ready: Callable[[], None] | None = None,
        *,
        confined: bool = False,
        terminal: bool = False,
        held: bool = False,
    ) -> None:
        """Load the kernel and run the guest.

        :param ready: called before the first instruction, when everything that the machine needs is open and none of
            its threads runs, workers of a clone's devices included; its exceptions are passed on
        :param confined: the threads of vCPUs and the control loop have no capabilities, and only the system calls that
            the devices of this package need. Any other call ends the process. So nothing that opens files may run
            there: the caller's own devices, listeners to events
        :param terminal: with *confined*: its console is a terminal
        :param held: the guest's first instruction waits for :meth:`release`; everything else is started
        :raises HostError: *confined*, and the host has no filters of system calls
        """
        with self._life_lock:
            self._life.check("start")
            self._life.stage = RUNNING
            try:
                self._finish_bootstrap()
                if ready is not None:
                    self._memory.fill.rest()
                    try:
                        ready()
                    finally:
                        self._memory.fill.go_on()
                if confined:
                    self._confine(terminal=terminal)
                self._life.publish(self._origin.event)
                self._ran = 0.0, None if held else time.monotonic()
                self._held = held
                if held:
                    self._threads.hold(_START, wait=False)
                self._threads.start()
                self._origin.go_on(self._slots)
                self._loop_thread = Thread(self._loop_main, "loop")
                self._loop_thread.start()
            except BaseException as error:
                self._threads.end(ERROR, f"{type(error).__name__}: {error}", error)
                if isinstance(error, OSError | HostError) and (refused := refusal(error)) is not None:
                    raise refused from error
                raise
            self.phases.append(("started", time.monotonic()))

    def release(self) -> None:
        """Run a guest that :meth:`start` holds: its clocks continue from where they were when it was forked. Without
        effect on others.

        :raises HostError: the host's KVM does not accept that
        """
        self._check_thread("release")
        with self._life_lock:
            self._life.check("release")
            if not self._held:
                return
            assert self._core is not None
            self._origin.release(self._core)
            self._held = False
            if self._life.stage == RUNNING:
                self._ran = 0.0, time.monotonic()
            self._threads.release_first(_START)

    @property
    def first_touched(self) -> FirstTouched:
        """Of a child: the pages of RAM that were missing when something touched them first. It remains valid after
        :meth:`close`. Empty for RAM that is not filled on demand."""
        return self._memory.fill.first

    def prefault(self, pages: Collection[int]) -> None:
        """Fill these pages of RAM, if it is filled on demand, and map them for the guest, which :meth:`start` holds: it
        takes no fault for any.

        :param pages: their numbers
        :raises ConfigError: the guest is not held
        :raises HostError: the host has not enough memory
        """
        with self._life_lock:
            self._life.check("prefault")
            if not self._held:
                raise ConfigError("prefault: the guest runs", code="machine-state", hint="start(held=True) holds it")
            bits = self._memory.bits_of(pages)
            if self._memory.prefault_pages(bits):
                self.vcpus[0].map_pages(self._memory, bits)  # where this KVM cannot, the guest takes its exits

    def _finish_bootstrap(self) -> None:
        assert self._core is not None
        self._origin.finish(self._core, self._slots, self._platform)
        self.phases.append(("kernel", time.monotonic()))

    def _confine(self, *, terminal: bool) -> None:
        from vmm.machine.confined import Confinement

        self._confinement = self._owned.add(Confinement(self.config, terminal=terminal))
        self._threads.confine = self._confinement.vcpu

    def _loop_main(self) -> None:
        try:
            if self._confinement is not None:
                self._confinement.loop()
            self._serve()
        except BaseException as error:  # a bug in a device: stop the guest, loudly
            self._threads.end(ERROR, f"{type(error).__name__}: {error}", error)

    def _serve(self) -> None:
        self._map_register_pages()
        self.loop.run()

    def stop(self, kind: str = STOPPED, detail: str = "") -> None:
        """End the run, as by a loss of power; before :meth:`start`: the run will end at once. Without effect when it
        has ended.

        From any thread, and from a signal handler.
        """
        if self._life.stage != CLOSED:
            self._threads.end(kind, detail)

    def pause(self) -> None:
        """Stop the guest where it is: no vCPU runs and no device touches its memory until :meth:`resume`.

        What a vCPU or a disk is just doing is completed first. Not from a thread of the machine itself (by a device).
        """
        self._check_thread("pause")
        with self._life_lock:
            self._life.check("pause")
            self._threads.hold("pause")
            self._life.check("pause")  # the guest may have ended meanwhile
            for attached in self.attached:
                attached.transport.pause()
            self._life.stage = PAUSED
            ran, since = self._ran
            if since is not None:
                self._ran = ran + time.monotonic() - since, None
            self._life.publish("paused")

    def resume(self) -> None:
        """Resume the guest. Its clocks continued; the time counts as stolen from its vCPUs, and its watchdogs are
        notified."""
        self._check_thread("resume")
        with self._life_lock:
            self._life.check("resume")
            for attached in self.attached:
                attached.transport.resume()
            for vcpu in self.vcpus:
                vcpu.was_paused()
            self._life.stage = RUNNING
            self._ran = self._ran[0], None if self._held else time.monotonic()
            self._life.publish("resumed")
            self._threads.release("pause")

    # -- snapshots ---------------------------------------------------------------------------------------------------

    def snapshot(
        self,
        path: str,
        *,
        base: str | None = None,
        stop: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Save the machine as the directory *path*, replacing an existing snapshot; the machine continues.

        It is paused meanwhile, for as long as copying its memory and disks takes.  The files are described in
        docs/reference/snapshot-format.md.

        :param base: a snapshot of this machine, or one that it was restored from: only memory that differs is written,
            and the new one needs it for a restore
        :param stop: end the run when it is saved, instead of continuing
        :param progress: called with the bytes of memory that were examined, and the total
        :raises ConfigError: it has a device that cannot be saved, is being debugged, or *path* is something else, or a
            snapshot that has diffs
        :raises HostError: the host cannot write it; nothing is left of it, and the machine continues, with *stop* too
        """
        from vmm.saving.new_directory import NewDirectory
        from vmm.saving.snapshot import Taking

        with self._life_lock:
            self._check_can_be("snapshot")
            runs = self._life.stage == RUNNING
            try:
                with NewDirectory(path) as folder:
                    taking = Taking(self.config, folder, base)
                    with taking.files() as files:
                        saved = self.save(files, stop=stop, progress=progress)
                    taking.finish(saved)
            except BaseException:
                if stop:  # it has been saved, but that was lost
                    self._go_on(runs)
                raise
            if stop:
                self.stop(detail="snapshot")
            self._life.publish("snapshot", path)

    def save(self, files: Files, *, stop: bool = False, progress: Callable[[int, int], None] | None = None) -> Saved:
        """The part of :meth:`snapshot` that needs the machine, for callers that make *files* and everything else
        elsewhere.

        :param stop: leave it paused
        :raises ConfigError: as :meth:`snapshot`
        :raises HostError: the host cannot write, and the machine continues
        """
        from vmm.saving.snapshot import save

        with self._life_lock:
            self._check_can_be("snapshot")
            runs = self._life.stage == RUNNING
            ahead = files.ahead(self._memory, runs=runs)
            try:
                if runs:
                    self.pause()
                self._threads.count_held()
                try:
                    assert self._core is not None
                    saved = save(files, self._core, self._memory, self._slots, self._platform, progress, ahead)
                except BaseException:
                    self._go_on(runs)
                    raise
                if not stop:
                    self._go_on(runs)
                return saved
            finally:
                if ahead is not None:
                    ahead.close()

    def open_for_saving(self) -> None:
        """Open what :meth:`save` needs, before this process loses its files."""
        from vmm.saving.snapshot import open_all

        assert self._core is not None
        open_all(self.attached, self._core)

    def _check_can_be(self, call: str) -> None:
        from vmm.saving.machine_state import check_can_be_saved

        self._check_thread(call)
        self._life.check(call)
        if self._threads.on_debug is not None:
            raise ConfigError("a debugger is attached: its breakpoints are in memory", code="snapshot-debug")
        check_can_be_saved(self.config, self.attached)

    def fork(
        self,
        n: int = 1,
        *,
        each: Callable[[int], dict[str, Any]] | None = None,
        start: bool = True,
        **changes: Any,
    ) -> list[Machine]:
        """Make *n* new machines that continue from where this one is now; this one continues too.

        It is paused while its disks are copied, and everything that it has written since its last fork, or has ever
        touched. Pages of memory are shared with its children until one of them writes. Disks of a child are copies that
        end with it. It has another VM generation ID; its networks are new, and connections of its vsock have ended.

        :param each: called with 0 to *n* - 1: returns further changes for that child beside *changes*, and its
            ``devices``, like those of this one
        :param start: run them; else :meth:`start` does
        :param changes: fields of :class:`~vmm.config.MachineConfig` that children have of their own: ``nets``,
            ``vsock``, whose sockets and tap devices are in use, ``disks``, ``shares`` (also a dictionary of paths by
            tag), ``console``, which is none by default
        :raises ConfigError: it has a device that cannot be saved, or is being debugged; a child with these changes is
            impossible
        :raises HostError: the host refuses. There are no children then, and the machine continues
        """
        point = self.fork_point(n)

        def make(number: int) -> Machine:
            return self.of_fork(point, {**changes, **(each(number) if each else {})}, start=start)

        return make_children(point, n, make)

    def export_fork(self, n: int = 1) -> tuple[dict[str, Any], list[int]]:
        """As :meth:`AnyMachine.export_fork`: its RAM is this process's."""
        raise ConfigError(
            "only a machine with a process of its own can have children in other processes",
            code="fork-isolation",
            hint="isolation=process or fork",
        )

    def fork_point(self, n: int) -> ForkPoint:
        """The first half of :meth:`fork`, for callers that make *n* children themselves."""
        from vmm.saving.fork import ForkPoint
        from vmm.saving.memory_base import WATCH_FROM, copied_ahead

        check_children(n)
        with self._life_lock:
            self._check_can_be("fork")
            shells = self._all_shells()
            runs = self._life.stage == RUNNING
            pinned = any(each.device.pins_memory for each in self.attached)
            ahead = copied_ahead(self._memory, n, watch_from=-1 if pinned else WATCH_FROM) if runs else None
            try:
                if runs:
                    self.pause()
                self._threads.count_held()
                try:
                    assert self._core is not None
                    point = ForkPoint(
                        self.config, self._core, self._slots, self._platform, self._memory, n, ahead, shells
                    )
                finally:
                    self._go_on(runs)
            finally:
                if ahead is not None:
                    ahead.close()
            try:
                point.finish()
            except BaseException:
                point.close()
                raise
            self._life.publish("forked", str(n))
            return point

    def prepare_forks(self, n: int) -> None:
        """Keep *n* shells ready from now on, into which children of :meth:`fork` are put: a fork then takes a fraction
        of the time. A thread makes them, and replaces used ones; each costs the host as much as a machine without
        memory. With a share, also up to 8 MiB: the pages that earlier children touched first.

        :param n: 0: none any more
        :raises ConfigError: *n* is not 0 to 64
        """
        from vmm.saving.fork import MOST_SHELLS

        if not 0 <= n <= MOST_SHELLS:
            raise ConfigError(f"{n} machines for forks", code="fork-children", hint=f"0 to {MOST_SHELLS}")
        with self._life_lock:
            self._life.check("prepare_forks")
            self._all_shells().keep(n, self.config, shared=self._memory.fd >= 0)

    def _all_shells(self) -> Shells:
        from vmm.saving.fork import Shells

        assert self._core is not None
        if self._shells is None:
            self._shells = self._owned.add(Shells(self._core, self._slots, self._memory))
        return self._shells

    @property
    def prepared_forks(self) -> int:
        """How many of them are ready now."""
        return 0 if self._shells is None else self._shells.ready

    @classmethod
    def of_fork(cls, point: ForkPoint, changes: dict[str, Any], *, start: bool) -> Machine:
        """The second half, for each child: *changes* are all of its differences, ``devices`` included."""
        devices = changes.pop("devices", ())
        origin = point.child(changes)
        return cls.of_origin(origin, origin.config, devices, start=start)

    def _go_on(self, ran: bool) -> None:
        if ran and self._life.state == PAUSED:
            self.resume()

    @classmethod
    def restore(
        cls,
        path: str,
        *,
        devices: tuple[VirtioDevice, ...] = (),
        clock: str = "host",
        force: bool = False,
        prefetch: bool = False,
        cow: str = "",
        verify: bool = False,
        start: bool = True,
        **changes: Any,
    ) -> Machine:
        """A new machine that continues from the snapshot in the directory *path*.

        Its memory is that of the file, copied page by page when it is written; its disks are copies of its own, or
        overlays over the snapshot's, which are only read.

        :param devices: the devices that it was made with
        :param changes: fields of :class:`~vmm.config.MachineConfig` that are other ones now: ``disks`` (with
            those given the machine has no copies; the guest must find what it left on them), ``nets``, ``shares``
            (also a dictionary of paths by tag), ``vsock``, ``console``, which is none unless it is said
        :param clock: ``host``: the time since the snapshot is added to the guest's clocks, CLOCK_MONOTONIC too, so that
            the date is right; ``resume``: they continue where they were, and the guest has to correct its date
        :param prefetch: the first clone with this records in the snapshot's directory which pages of memory it touches
            in its first two seconds; later clones read these in advance, on a thread, while they run
        :param cow: how all of its disks are made: ``auto``, ``reflink``, ``copy`` or ``overlay``; empty: as each
            :class:`~vmm.virtio.blk.DiskConfig` says
        :param force: restore even if this host, or an image, has changed
        :param verify: read the whole snapshot first, and compare checksums; otherwise only those of small files
        :param start: run it; else :meth:`start` does
        :raises ConfigError: it is not a snapshot, or cannot be restored here; the message has the reason
        :raises HostError: the host refuses
        """
        from vmm.saving.restore import Restored

        origin = Restored(path, changes, clock=clock, force=force, prefetch=prefetch, cow=cow, verify=verify)
        return cls.of_origin(origin, origin.config, devices, start=start)

    @classmethod
    def of_origin(
        cls, origin: Origin, config: MachineConfig, devices: tuple[VirtioDevice, ...] = (), *, start: bool
    ) -> Machine:
        """The second half of :meth:`restore`, for callers that inspect *origin* first. *origin* is closed in any
        case."""
        try:
            machine = cls(config, devices=devices, _origin=origin)
        except BaseException:
            origin.close()
            raise
        if start:
            try:
                machine.start()
            except BaseException:
                machine.close()
                raise
        return machine

    # -- its end -----------------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Restart the guest: empty RAM, new vCPUs, devices as after power-on, the kernel read again.

        Disks, shares and sockets stay open. :meth:`events` and :meth:`wait` continue with the new run.

        :raises ConfigError: the kernel's or initrd's file can no longer be booted; the guest continues
        :raises HostError: the host refuses; the run has ended
        """
        self._check_thread("reset")
        with self._life_lock:
            self._life.check("reset")
            origin = Bootstrap(self.config)
            self._threads.halt()
            try:
                self._start_over(origin)
            except BaseException as error:
                self._threads.end(ERROR, f"reset: {error}", error)
                raise

    def _start_over(self, origin: Origin) -> None:
        core = self._core
        assert core is not None
        self._slots.reset()
        with self._pages_lock:
            core.remake(self._platform.native, self._memory)
        self._slots.follow()
        self.serial.reset()
        self._origin.close()
        self._memory.clear()
        self._held = False
        self._life.stage = RUNNING
        self._life.begin_again()
        self._threads.begin_again()
        self._owned.discard(self._origin)
        self._origin = self._owned.add(origin)
        origin.begin(self._memory)
        self._finish_bootstrap()
        self._map_register_pages()
        self._life.publish("reset")
        self._ran = 0.0, time.monotonic()
        self._threads.start()

    def stale_shares(self) -> float:
        """For how many seconds the guest may still rely on cached data of shared files that the host has changed since;
        see :meth:`refresh_shares`."""
        self._life.check("refresh_shares")
        return max((device.stale() for device in self.devices), default=0.0)

    def refresh_shares(self) -> None:
        """Wait until the guest sees everything that the host wrote to the files of its shares before this call.

        A guest keeps attributes and names for a second (``cache=auto``). Most calls return at once. They wait until the
        end of that second only if the host has changed something that the guest read within it.
        """
        if seconds := self.stale_shares():
            time.sleep(seconds)  # the guest's cache expires by its own clock, which no event reports

    def write_touched(self, fd: int) -> None:
        """Write to the file *fd* which pages of RAM it has touched since it was restored: a bit for each.

        As ``working-set`` in the directory of its snapshot, later clones with ``prefetch`` have them from the start.

        :raises ConfigError: its RAM is not filled on demand, so nothing has recorded that
        """
        self._life.check("refresh_shares")
        if not self._memory.on_demand:
            raise ConfigError(
                "only a restored machine whose RAM other processes share knows what it has touched", code="touched"
            )
        posix.pwrite(fd, self._memory.fill.filled(), 0)

    def uptime(self) -> int:
        """For how many ms the guest has run since its start, restore or reset, without the time that it was paused."""
        self._life.check("uptime")
        end, (ran, since) = self._life.end, self._ran
        until = time.monotonic() if end is None else end.at
        return int((ran + (0.0 if since is None else max(until - since, 0.0))) * 1000)

    def press_power_button(self) -> None:
        """Request that the guest power off, by an ACPI event that it may ignore."""
        self._life.check("press_power_button")
        self._life.publish("power-button")
        self._platform.power_button.signal()

    def _on_lost(self, why: str) -> None:
        self._life.publish(DEVICE_LOST, why)

    def _note_end(self, event: Event | EndEvent) -> None:
        if isinstance(event, EndEvent):
            self.phases.append(("ended", event.at))

    def _check_thread(self, call: str) -> None:
        own = self._loop_thread is not None and self._loop_thread.ident == get_ident()
        if own or self._threads.is_own_thread():
            raise ConfigError(
                f"cannot {call} the machine from one of its own threads: it would wait for itself",
                code="machine-thread",
                hint="do it from another thread",
            )

    def console_input(self, data: bytes) -> int:
        """Type *data* on the console.

        :returns: how many bytes were accepted; the rest does not fit yet (``serial.space_callback`` is called when it
            does)
        """
        self._life.check("console_input")
        return self.console.input(data)

    @property
    def vsock(self) -> Vsock | VhostVsock:
        """The socket device; see :class:`vmm.virtio.vsock.device.Vsock`.

        :raises ConfigError: the machine was configured without one
        """
        return vsock_of(self.devices)

    @property
    def balloon(self) -> Balloon:
        """The memory balloon; see :class:`vmm.virtio.balloon.device.Balloon`.

        :raises ConfigError: the machine was configured without one
        """
        return balloon_of(self.devices)

    @property
    def nets(self) -> list[Net]:
        """The network devices, in their order; see :class:`vmm.virtio.net.device.Net`."""
        return nets_of(self.devices)

    @property
    def disks(self) -> list[Attached]:
        """The disks in :attr:`attached`: ``disks[0]`` is the guest's ``vda``, unless one was unplugged."""
        return [each for each in self.attached if each.device.device_id == ID_BLOCK]

    @property
    def hotplug_memory(self) -> HotplugMemory:
        """The device that adds memory; see :class:`vmm.virtio.mem.device.HotplugMemory`.

        :raises ConfigError: the machine was configured without one
        """
        return hotplug_memory_of(self.devices)

    def resize_memory(self, size: int) -> None:
        """Request that the guest use *size* bytes of memory, its initial ones included.

        It does that in its own time, as far as possible: see ``plugged`` of :attr:`hotplug_memory`.

        :raises ConfigError: the machine was configured without memory to add, or for another range of sizes
        """
        self._life.check("resize_memory")
        self.hotplug_memory.resize(size - self.config.memory.size)

    def resize_balloon(self, size: int) -> None:
        """Request that the guest give up *size* bytes of memory, see :meth:`vmm.virtio.balloon.device.Balloon.resize`.

        :raises ConfigError: the machine has no balloon, or it cannot have that size
        """
        self._life.check("resize_balloon")
        self.balloon.resize(size)

    def request_balloon_stats(self) -> None:
        """Request new statistics of the guest's balloon; :meth:`figures` returns them once the guest has answered.

        :raises ConfigError: the machine has no balloon
        """
        self._life.check("request_balloon_stats")
        self.balloon.request_stats()

    def start_hinting(self, acknowledge: bool = True) -> None:
        """As :meth:`vmm.virtio.balloon.device.Balloon.start_hinting`.

        :raises ConfigError: the machine was configured without it
        """
        self._life.check("start_hinting")
        self.balloon.start_hinting(acknowledge)

    def stop_hinting(self) -> None:
        """As :meth:`vmm.virtio.balloon.device.Balloon.stop_hinting`.

        :raises ConfigError: the machine was configured without it
        """
        self._life.check("stop_hinting")
        self.balloon.stop_hinting()

    @property
    def cpus(self) -> int:
        """How many vCPUs run now, see :meth:`resize_cpus`."""
        return self._threads.count

    def resize_cpus(self, count: int) -> None:
        """Set the number of running vCPUs to *count*, the initial ones included.

        The guest brings new ones online itself, and must take those that are removed offline before: Linux by
        ``/sys/devices/system/cpu/cpuN/online``. What it sends to a vCPU that it may not use is lost.

        :raises ConfigError: the machine does not run, or was configured for other numbers; the guest uses a vCPU that
            is to be removed
        """
        self._check_thread("resize_cpus")
        with self._life_lock:
            self._life.check("resize_cpus")
            least, most = self.config.cpus, self.config.all_cpus()
            if not least <= count <= most:
                raise ConfigError(
                    f"{count} vCPUs: not {least} to {most}",
                    code="max-cpus",
                    hint="set the number when the machine is made: --max-cpus, MachineConfig(max_cpus=...)",
                )
            self._threads.resize(count)

    def resize_disk(self, index: int) -> None:
        """Read the size of the file of ``disks[index]`` again and report it to the guest.

        :raises ConfigError: there is no such disk
        """
        self._life.check("resize_disk")
        disks = self.disks
        if not 0 <= index < len(disks):
            raise ConfigError(f"disk {index}: the machine has {len(disks)} disks, counted from 0", code="disk-none")
        disk: Any = disks[index].device
        disk.resize()

    def _on_power_event(self, kind: str) -> None:
        detail = self._threads.describe_reset() if kind == REBOOT else ""
        self._threads.end(kind if kind in (POWEROFF, REBOOT, PANIC) else ERROR, detail)

    def close(self) -> None:
        """Stop the guest, join every thread, close and unmap everything.  A second call does nothing."""
        with self._life_lock:
            if self._life.stage == CLOSED:
                return
            if self._life.stage == MADE:
                end = self._life.finish(STOPPED, "", None)
                if end is not None:
                    self._life.tell_end(end)
            else:
                self._threads.end(STOPPED)
                self._threads.join()
                self.loop.stop()
                if self._loop_thread is not None:
                    self._loop_thread.join()
            self._life.stage = CLOSED
            # In the opposite order of their making: workers before the memory and descriptors that they use
            self._core = None
            with ClosingTogether():
                self._owned.close()
            is_closed(self)
