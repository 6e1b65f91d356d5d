"""The one place where a machine is wired: RAM, vCPUs, buses, interrupt lines, devices; and its lifecycle."""

from __future__ import annotations

import atexit
import time
from _thread import RLock, allocate_lock
from _weakref import ref

from vmm import boot
from vmm.boot import layout
from vmm.bus import Bus
from vmm.config import PCI
from vmm.core import Core
from vmm.devices import Serial, power_devices
from vmm.errors import ConfigError, HostError
from vmm.events import Loop
from vmm.execution import ERROR, PANIC, POWEROFF, REBOOT, STOPPED, TIMEOUT, EndEvent, VcpuThreads
from vmm.kvm.state import set_boot_state, set_reset_msrs
from vmm.memory import GuestMemory
from vmm.native import lib
from vmm.slots import MmioSlots, Native
from vmm.thread import Task, Thread
from vmm.wiring import open_devices, open_vsock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmm.bus import BusDevice
    from vmm.config import MachineConfig
    from vmm.kvm import Vcpu
    from vmm.slots import Attached
    from vmm.slots_pci import PciSlots
    from vmm.virtio.device import VirtioDevice
    from vmm.virtio.vsock import Vsock
    from vmm.virtio.vsock_vhost import VhostVsock

_machines: dict[int, ref[Machine]] = {}
"""By id.  Not a WeakSet, for what importing :mod:`weakref` costs."""


def _close_all() -> None:
    # Threads in C must not outlive the memory that the interpreter is about to unmap
    for reference in list(_machines.values()):
        machine = reference()
        if machine is not None:
            machine.close()


atexit.register(_close_all)


class Machine:
    """A virtual machine.  A context manager: leaving it stops the guest and frees everything.

    Life: made (nothing runs; :meth:`attach` is allowed) -> :meth:`start` -> running -> ended (:meth:`wait` returns the
    :class:`EndEvent`) -> :meth:`close`.

    :raises ConfigError: the configuration cannot be; nothing was opened yet
    :raises HostError: the host has no usable KVM or not enough memory
    """

    def __init__(self, config: MachineConfig, *, devices: tuple[VirtioDevice, ...] = ()) -> None:
        self.config = config
        self.phases: list[tuple[str, float]] = [("made", time.monotonic())]
        self.loop = Loop()
        self.pio, self.mmio = Bus("pio"), Bus("mmio")
        self._closers: list[Any] = [self.loop]
        # Held until the run has ended.  Not an Event: a signal handler that sets one while its own thread is on the way
        # into wait() would wait for itself
        self._running = allocate_lock()
        self._running.acquire()
        self._end: EndEvent | None = None
        self._loop_thread: Thread | None = None
        self._state = "made"
        # Making, starting and closing exclude each other: the exit hook closes machines of threads that still run
        self._life_lock = RLock()
        self._core: Core | None = None
        self._vsock: Vsock | VhostVsock | None = None
        with self._life_lock:
            key = id(self)
            _machines[key] = ref(self, lambda _: _machines.pop(key, None))
            try:
                self._build(devices)
            except BaseException:
                self.close()
                raise

    # -- wiring ------------------------------------------------------------------------------------------------------

    def _build(self, devices: tuple[VirtioDevice, ...]) -> None:
        config = self.config
        self._plan = boot.check(config)
        ram = config.memory
        shared = (
            ram.shared
            or any(share.isolation == "process" for _, share in config.tagged_shares())
            or any(device.shares_memory for device in devices)
        )
        self.memory = GuestMemory(ram.size, huge_pages=ram.huge_pages, prefault=ram.prefault, shared=shared)
        self._closers.append(self.memory)
        self._address_end = self.memory.regions[-1].end
        self.phases.append(("memory", time.monotonic()))
        # Copying the kernel takes as long as all the rest, and needs nothing of it
        self._loading = Task(lambda: boot.load_files(self._plan, self.memory), "loader")
        self._closers.append(self._loading)
        core = self._core = Core(config.cpus)
        self._closers.append(core)
        wanted = open_devices(config, self._closers)
        if config.vsock is not None:
            self._vsock = open_vsock(config.vsock, self._closers)
            wanted.append(self._vsock)
        self._bus = lib.bus_new()
        self._closers.append(Native(self._bus, lib.bus_free))
        # A page of a window may be one that its file has lost
        windows = any(device.regions for device in (*wanted, *devices))
        core.make_vcpus(self._bus, self.memory, async_pf=not windows)
        self._threads = VcpuThreads(self.vcpus, self.pio, self.mmio, self.memory, self._on_end)
        self.phases.append(("kvm", time.monotonic()))
        self._build_platform()
        kind: type[MmioSlots | PciSlots] = MmioSlots
        if config.transport == PCI:
            from vmm.slots_pci import PciSlots as kind
        self._slots = kind(core, self.memory, self.loop, self.mmio, self._bus, self._closers)
        for device in (*wanted, *devices):
            self.attach(device)
        self.phases.append(("devices", time.monotonic()))

    @property
    def attached(self) -> list[Attached]:
        """The virtio devices, in the order of their attaching."""
        return self._slots.attached

    @property
    def vcpus(self) -> list[Vcpu]:
        """The virtual CPUs; empty once closed."""
        return [] if self._core is None else self._core.vcpus

    def _build_platform(self) -> None:
        console = self.config.console
        assert self._core is not None
        irq = self._core.irq_line(layout.COM1_GSI)
        self.serial = Serial(irq, out_fd=console.fd, drop=console.drop)
        self._closers.append(self.serial)
        lib.bus_add_uart(self._bus, layout.COM1, self.serial.native)
        self.serial.attach(self.loop)
        ports = {"i8042": layout.I8042_COMMAND, "acpi_pm": layout.ACPI_SLEEP_CONTROL, "pvpanic": layout.PVPANIC}
        for base, size, device in power_devices(self._on_power_event, **ports):
            self._add_pio(base, size, device)

    def _add_pio(self, base: int, size: int, device: BusDevice) -> None:
        self.pio.add(base, size, device)
        lib.bus_add_python(self._bus, lib.BUS_PIO, base, size)

    def attach(self, device: VirtioDevice) -> Attached:
        """Put *device* into the next slot.  Before :meth:`start` only.

        :raises ConfigError: no slot is free, or the machine runs already
        """
        if self._state != "made" or self._core is None:
            raise ConfigError(f"cannot attach a device to a machine that is {self._state}", code="machine-state")
        if self.config.transport == PCI and device.regions:
            raise ConfigError(
                f"{device.name}: a DAX window cannot be had on PCI yet",
                code="transport",
                hint="leave dax= out, or use the mmio transport",
            )
        self._place_regions(device)
        return self._slots.attach(device)

    def _place_regions(self, device: VirtioDevice) -> None:
        """Windows of the device, behind RAM and the windows before."""
        assert self._core is not None
        for region in device.regions.values():
            region.gpa = layout.window_base(self._address_end, region.size)
            self._address_end = region.gpa + region.size
            self._core.map_window(region.gpa, region.size, region.host_address)
            if lib.bus_add_dax(self._bus, region.native, region.gpa, region.size) < 0:
                raise ConfigError("a machine has at most 8 windows of shares (dax=)", code="windows")

    # -- life --------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Load the kernel and let the guest run.

        :raises ConfigError: it was started before
        """
        with self._life_lock:
            if self._state != "made":
                raise ConfigError(f"cannot start a machine that is {self._state}", code="machine-state")
            self._state = "running"
            self._start()

    def _start(self) -> None:
        assert self._core is not None
        state = boot.place_tables(self._plan, self.memory, self.config.cpus, self._slots.numbers)
        for vcpu in self.vcpus:
            set_reset_msrs(vcpu)
        set_boot_state(self.vcpus[0], state)  # the others wait for their start-up IPI
        self._loading.join()
        self._core.wait_for_memory()
        self.phases.append(("kernel", time.monotonic()))
        self._loop_thread = Thread(self._serve, "loop")
        self._loop_thread.start()
        self._threads.start()
        self.phases.append(("started", time.monotonic()))

    def _serve(self) -> None:
        try:
            if self._core is not None and self._core.read_only_slots:
                self._slots.map_register_pages()
            self.loop.run()
        except BaseException as error:  # a bug in a device: stop the guest, loudly
            self._threads.end(ERROR, f"{type(error).__name__}: {error}", error)

    def wait(self, timeout: float | None = None) -> EndEvent | None:
        """Wait until the run has ended, at most *timeout* seconds.

        :returns: how it ended, or None when the time is over and the guest still runs
        :raises VmmError: it ended because it could not go on (for other exceptions: they come as they are)
        """
        if self._end is None and self._running.acquire(timeout=-1 if timeout is None else max(timeout, 0)):
            self._running.release()  # for the next who waits
        if self._end is None:
            return None
        if self._end.error is not None:
            raise self._end.error
        return self._end

    def run(self, timeout: float | None = None) -> EndEvent:
        """:meth:`start` and :meth:`wait`; after *timeout* seconds the guest is stopped and the event is ``timeout``."""
        self.start()
        end = self.wait(timeout)
        if end is None:
            self._threads.end(TIMEOUT, f"the guest still ran after {timeout:g} s")
            end = self.wait()
        assert end is not None
        return end

    def stop(self, kind: str = STOPPED, detail: str = "") -> None:
        """Take the guest's power away; before :meth:`start`: the run will end at once.  Harmless when it has ended.

        From any thread, and from a signal handler.
        """
        if self._state != "closed":
            self._threads.end(kind, detail)

    def console_input(self, data: bytes) -> int:
        """Type *data* on the serial console.

        :returns: how many bytes were taken; the rest does not fit yet (see :meth:`on_console_space`)
        """
        return self.serial.input(data)

    @property
    def vsock(self) -> Vsock | VhostVsock:
        """The socket device: :meth:`~vmm.virtio.vsock.Vsock.connect` and :meth:`~vmm.virtio.vsock.Vsock.listen`.

        :raises ConfigError: the machine was configured without one
        """
        if self._vsock is None:
            raise ConfigError(
                "the machine has no vsock", code="vsock-none", hint="MachineConfig(vsock=VsockConfig(...))"
            )
        return self._vsock

    def resize_disk(self, index: int) -> None:
        """Read the size of the *index*-th attached disk's file again and tell the guest."""
        device: Any = self.attached[index].device
        device.resize()

    def _on_power_event(self, kind: str) -> None:
        self._threads.end(kind if kind in (POWEROFF, REBOOT, PANIC) else ERROR)

    def _on_end(self, end: EndEvent) -> None:
        self._end = end
        self.phases.append(("ended", end.at))
        self._running.release()

    def close(self) -> None:
        """Stop the guest, join every thread, close and unmap everything.  Harmless when done twice."""
        with self._life_lock:
            if self._state == "closed":
                return
            if self._state == "running":
                self._threads.end(STOPPED)
                self._threads.join()
                self.loop.stop()
                if self._loop_thread is not None:
                    self._loop_thread.join()
            self._state = "closed"
            self._close_parts()
            _machines.pop(id(self), None)

    def _close_parts(self) -> None:
        # In the opposite order of their making: workers before the memory and descriptors that they use
        self._core = None
        first: BaseException | None = None
        while self._closers:
            try:
                self._closers.pop().close()
            except Exception as error:  # the rest is closed all the same
                first = first or error
        if first is not None:
            raise HostError(f"closing the machine: {first}", code="close") from first

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
