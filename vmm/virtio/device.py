"""The base class of virtio devices, whose core is :meth:`VirtioDevice.process`.

A device in pure Python says its id and queue sizes and implements ``process``::

    class Rng(VirtioDevice):
        device_id = spec.ID_ENTROPY
        queue_sizes = (256,)

        def process(self, queue):
            for chain in queue:
                chain.write(os.urandom(min(chain.room, MAX_REQUEST)))
                queue.push(chain)

The transport takes the lock, flushes, interrupts, and turns a :class:`~vmm.errors.GuestError` into a device
that needs a reset.  A device with a C worker overrides :meth:`VirtioDevice.activate` and
:meth:`VirtioDevice.stop` instead.
"""

from __future__ import annotations

from vmm.errors import ConfigError
from vmm.native import lib
from vmm.saveable import Saveable
from vmm.virtio import spec
from vmm.virtio.queue import MAX_QUEUE_SIZE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, ClassVar

    from vmm.events import EventFd, Loop
    from vmm.memory import GuestMemory
    from vmm.virtio.queue import Queue


class DeviceContext:
    """The objects that an activated device may use, from DRIVER_OK until :meth:`VirtioDevice.stop`.

    :ivar features: the negotiated feature bits
    :ivar queues: by index, those that the driver set up; possibly none
    :ivar memory: guest RAM
    :ivar loop: the control loop, for descriptors of the device's backend
    :ivar status: for a worker in another process: a descriptor, and the offset of InterruptStatus in it; only for
        devices whose :attr:`~VirtioDevice.shares_memory` is true
    :ivar event: a C worker signals it when it stopped by itself; the transport then calls
        :meth:`VirtioDevice.check`
    :ivar serve: makes the loop call :meth:`VirtioDevice.process` for a queue at each kick
    :ivar run: call a function under the device's guard: lock, flush, interrupt, GuestError; for callbacks of the
        device's own descriptors. Has no effect once the device was stopped
    """

    __slots__ = ("event", "features", "loop", "memory", "queues", "run", "serve", "status")

    def __init__(
        self,
        features: int,
        queues: dict[int, Queue],
        memory: GuestMemory,
        loop: Loop,
        event: EventFd,
        serve: Callable[[Queue], None],
        run: Callable[[Callable[[], None]], None],
        status: tuple[int, int] = (-1, 0),
    ) -> None:
        self.features = features
        self.queues = queues
        self.memory = memory
        self.loop = loop
        self.event = event
        self.serve = serve
        self.run = run
        self.status = status


class SharedRegion:
    """Device memory that the guest sees at an address of its own (virtio 1.2, 2.10).

    :ivar host_address: its address in this process, until the device is closed
    :ivar size: bytes
    :ivar gpa: its guest address, on PCI the initial one; the machine sets it before the device is attached
    :ivar native: the window (cdata ``struct dax *``, or the type that *add* expects)
    :ivar read_only: the guest's writes go nowhere
    :ivar add: registers the window for pages that a vCPU cannot map: ``add(bus, native, gpa, size)``, -errno
    """

    def __init__(
        self,
        host_address: int,
        size: int,
        native: Any,
        *,
        read_only: bool = False,
        add: Callable[[Any, Any, int, int], int] = lib.bus_add_dax,
    ) -> None:
        self.host_address = host_address
        self.size = size
        self.native = native
        self.read_only = read_only
        self.add = add
        self.gpa = 0


class VirtioDevice(Saveable):
    """The base of all devices.

    :meth:`save` returns what the guest can see beyond queues and features, which the transport saves. It is called
    while the device is stopped; :meth:`restore` after :meth:`negotiate` and before :meth:`activate`.

    Life: made -> attached to a transport -> (:meth:`negotiate` -> :meth:`activate` -> :meth:`process` ... ->
    :meth:`stop` -> :meth:`reset`)* -> :meth:`close`. Everything except :meth:`close` and the host side's methods is
    called under the transport's lock, one call at a time.

    :cvar device_id: virtio 1.2, section 5
    :cvar queue_sizes: the largest size of each queue, powers of two up to 1024
    :cvar features: the device's own feature bits; the transport adds VERSION_1, INDIRECT_DESC, EVENT_IDX,
        RING_PACKED
    """

    device_id: ClassVar[int]
    queue_sizes: tuple[int, ...] = ()
    features: int = 0
    shares_memory: bool = False
    """Another process serves the queues: guest RAM and the register page must be memfds."""
    takes_memory_on_demand: bool = False
    """That process takes part when RAM is filled page by page (:meth:`vmm.memory.GuestMemory.admit`); else it is filled
    beforehand."""
    pins_memory: bool = False
    """While a request is under way the host may write guest memory by DMA, of which the page tables say nothing."""
    regions: dict[int, SharedRegion] = {}  # noqa: RUF012 (replaced, never changed)
    """Shared memory regions by their id."""
    kernel_signals: bool = False
    """The kernel signals the irqs of its queues, and knows nothing of the bit for used buffers."""
    takes_packed: bool = True
    """Its queues may be packed (2.8): all that go through ``ring.c``."""
    tells_regions: bool = False
    """Its configuration contains their addresses, so the transport does not need to."""
    name: str = "virtio"
    counts_elsewhere = False
    """:meth:`stats` asks another process."""
    thread_name: str = "virtio-"
    """What ``top -H`` shows of its C threads; behind a ``-`` comes the number of the thread."""
    on_config_change: Callable[[bool], None] | None = None
    """Set by the transport."""
    on_lost: Callable[[str], None] | None = None
    """Set by the machine."""

    def read_config(self) -> bytes:
        """The present configuration space (bytes, up to 3840). Unless overridden, empty."""
        return b""

    def write_config(self, offset: int, data: bytes) -> None:
        """The driver wrote 1, 2 or 4 bytes, all inside the space. Unless overridden, ignored: most fields are
        read-only."""

    def config_changed(self, *, interrupt: bool = True) -> None:
        """Call this when :meth:`read_config` has a new result: the driver gets a configuration interrupt. Any thread.

        :param interrupt: False: the driver knows already
        """
        if self.on_config_change is not None:
            self.on_config_change(interrupt)

    def report_lost(self, why: str) -> None:
        """Call this when the process or the interface that served the device has ended.  Any thread.

        :param why: in words, with the name of the device
        """
        if self.on_lost is not None:
            self.on_lost(why)

    def negotiate(self, features: int) -> bool:
        """The driver chose *features*, a subset of the offered ones; False refuses (FEATURES_OK is not set)."""
        return True

    def activate(self, context: DeviceContext) -> None:
        """The driver is ready. Unless overridden, :meth:`process` serves every queue.

        :raises GuestError: the driver's set-up cannot work; the device needs a reset
        """
        for queue in context.queues.values():
            context.serve(queue)

    def process(self, queue: Queue) -> None:
        """The guest kicked *queue*: pop chains, answer them, push them.

        :raises GuestError: the guest broke a rule; the device needs a reset
        """
        raise NotImplementedError(f"{type(self).__name__} serves no queue in Python")

    def check(self) -> None:
        """A worker has signalled ``event``.

        :raises VmmError: it stopped; the device needs a reset
        """

    def irqs_moved(self) -> None:
        """A queue's irq has another descriptor now. For devices that have passed it to another process or the
        kernel."""

    def stop(self) -> None:
        """Join the workers, push or drop every chain: afterwards nothing of the device touches guest memory.

        Harmless when nothing runs.
        """

    def hold(self) -> bool:
        """Suspend the device for a moment: until :meth:`go_on`, or :meth:`stop`, nothing of it touches guest memory.
        That takes less time than stopping and activating it.

        :returns: False: it does not support that, and was not changed; the default
        """
        return False

    def go_on(self) -> None:
        """After :meth:`hold`: each queue is checked once, since a kick may be lost; devices that :meth:`process` serves
        are served again."""

    def stale(self) -> float:
        """For how many seconds the guest may still rely on data that the host has changed since: 0, unless
        overridden."""
        return 0.0

    def spares(self) -> list[Any]:
        """Threads for a device like this one, which runs: see :meth:`vmm.virtio.workers.Workers.spares`.  From any
        thread.  Unless overridden, none."""
        return []

    def reset(self) -> None:
        """Forget everything that the driver has set. After :meth:`stop`."""

    def power_on(self) -> None:
        """The machine restarts, and its memory was or will be cleared: forget what survives a reset of the device.
        After :meth:`reset`."""

    def stats(self) -> dict[str, Any]:
        """The device's own counters, by name; those by request in a dictionary ``ops``. Unless overridden, none."""
        return {}

    def close(self) -> None:
        """Let go of the backend.  After :meth:`stop`.  A second call does nothing."""


_SIZES = frozenset(1 << bits for bits in range(MAX_QUEUE_SIZE.bit_length()))


def check_device(device: VirtioDevice, kicks: list[EventFd]) -> None:
    """Check that the class of *device* is well-formed.

    :raises ConfigError: it is not
    """
    problem = ""
    if len(kicks) != len(device.queue_sizes):
        problem = f"{len(kicks)} kicks for {len(device.queue_sizes)} queues"
    elif not _SIZES.issuperset(device.queue_sizes):
        problem = f"queue sizes {device.queue_sizes} are not powers of two up to {MAX_QUEUE_SIZE}"
    elif device.features & spec.TRANSPORT_FEATURES:
        problem = f"features {device.features:#x} hold bits that are the transport's"
    elif device.features >> 64 or device.features < 0:
        problem = f"features {device.features:#x} are more than 64 bits"
    if problem:
        raise ConfigError(f"virtio device {device.name}: {problem}", code="device-invalid")
