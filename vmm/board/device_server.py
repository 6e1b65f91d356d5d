"""One virtio device without a machine: its driver is another process, which shares memory with the device."""

from __future__ import annotations

from vmm.board.owned import Owned
from vmm.errors import HostError
from vmm.events import EventFd, Loop
from vmm.faststart.thread import Task
from vmm.native import ffi
from vmm.saveable import State, mismatch
from vmm.virtio import spec
from vmm.virtio.device_config import Opening
from vmm.virtio.queue import QueueConfig
from vmm.virtio.register_page import RegisterPage
from vmm.virtio.runner import Runner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from vmm.memory import GuestMemory
    from vmm.virtio.device_config import DeviceConfig

_QUEUES = 64
DRIVER_FEATURES = spec.F_VERSION_1 | spec.F_EVENT_IDX


class DeviceServer:
    """Serves the device of *config* on queues at fixed places, until :meth:`close`.

    Nothing is negotiated: the driver uses split queues with event indices. It signals :attr:`kicks`, and waits for
    :attr:`irq`. A driver that breaks a ring stops the device for good.

    :param config: the record of the device
    :param memory: what both sides map; shared, and zeros where the queues are
    :param queues: size and address of the descriptors of each queue, in the order of their numbers; the other areas
        follow, see :func:`areas`
    :param on_failure: called, on any thread, when the driver has broken a ring
    :param start: otherwise, :meth:`start` does so: until then, the device has its processes, but no thread
    :param saved: what :meth:`save` returned: the driver continues, with *memory* as it was then
    :ivar kicks: descriptors of eventfds, one for each queue: the driver adds 1 after it has made buffers available
    :ivar irq: the descriptor of an eventfd: buffers have been used
    :raises ConfigError: the device cannot be opened
    :raises HostError: the same
    """

    def __init__(
        self,
        config: DeviceConfig,
        memory: GuestMemory,
        queues: Sequence[tuple[int, int]],
        on_failure: Callable[[], None] = lambda: None,
        *,
        start: bool = True,
        saved: SavedServer | None = None,
    ) -> None:
        self._on_failure = on_failure
        self._owned = Owned()
        self._loop = self._owned.add(Loop())
        self._thread: Task | None = None
        try:
            self._open(config, memory)
            self._queues = [QueueConfig(size, True, address, *areas(size, address)) for size, address in queues]
            if saved is not None:
                self._restore(saved)
            if start:
                self.start()
        except BaseException:
            self._owned.close()
            raise

    def start(self) -> None:
        """Serve the queues, and what the driver has added to them so far.

        :raises HostError: the device cannot be started
        """
        self._runner.start(DRIVER_FEATURES, self._queues)
        self._thread = Task(self._loop.run, "device-server")

    def save(self) -> SavedServer:
        """Stop the device for good, with what another one needs to continue.  The driver does nothing meanwhile.

        :raises ConfigError: the device cannot be saved
        :raises HostError: it has failed
        """
        with self._runner.lock:
            positions = self._runner.pause()
            if positions is None:
                raise HostError(f"{self._runner.device.name}: it does not run")
            return SavedServer(positions, self._runner.device.save())

    def hold(self) -> SavedServer:
        """Suspend the device until :meth:`go_on`, with what another one needs to continue: nothing of it touches memory
        meanwhile.  The driver does nothing either.

        :raises ConfigError: the device cannot be saved, and goes on
        :raises HostError: it has failed, or cannot be suspended. It is stopped for good then
        """
        with self._runner.lock:
            positions = self._runner.pause()
            if positions is None or not self._runner.held:
                raise HostError(f"{self._runner.device.name}: it cannot be suspended")
            try:
                return SavedServer(positions, self._runner.device.save())
            except BaseException:
                self._runner.go_on()
                raise

    def go_on(self) -> None:
        """After :meth:`hold`."""
        with self._runner.lock:
            self._runner.go_on()

    def _restore(self, saved: SavedServer) -> None:
        for index, position in saved.positions.items():
            self._queues[index].next_index = position
        if saved.state is not None:
            self._runner.device.restore(saved.state)

    def _open(self, config: DeviceConfig, memory: GuestMemory) -> None:
        page = self._owned.add(RegisterPage(spec.MMIO_INTERRUPT_STATUS, shared=True))
        irq = self._owned.add(EventFd())
        device = config.open(Opening(1, memory.size, self._loop, self._owned))
        try:
            kicks = [self._owned.add(EventFd()) for _ in device.queue_sizes]
            native = ffi.new("struct irq *", {"fd": irq.fd, "status": page.status})
            runner = Runner(
                device, memory, self._loop, kicks, [native] * len(kicks), page.status_place, self._on_failure
            )
        except BaseException:
            device.close()  # its process, and what is open for it
            raise
        self._runner = self._owned.add(runner)
        device.negotiate(DRIVER_FEATURES)
        self.kicks = tuple(kick.fd for kick in kicks)
        self.irq = irq.fd

    @property
    def device(self) -> Any:
        """The device itself, for what it offers to programs of the host."""
        return self._runner.device

    @property
    def running(self) -> bool:
        """The driver has broken no rule so far."""
        return self._runner.running

    @property
    def lasting(self) -> tuple[int, int, int] | None:
        """Descriptors for a driver that replaces this process by `exec`, or None: a thread of this process serves the
        device.

        The device runs while the first is open. The second becomes readable when the driver has broken a ring, the
        third when the server has ended.
        """
        from vmm.virtio.fs.process import FsProcess

        device = self._runner.device
        if not isinstance(device, FsProcess):
            return None
        sock, pidfd, _ = device.fds
        return sock, self._runner.event_fd, pidfd

    def stats(self) -> dict[str, Any]:
        """The device's own counters."""
        return self._runner.device.stats()

    def close(self) -> None:
        """Stop and close the device.  A second call does nothing."""
        self._loop.stop()
        if self._thread is not None:
            self._thread.close()
        self._owned.close()


class SavedServer:
    """What a stopped server leaves.

    :ivar positions: of each queue
    :ivar state: of the device; None: it continues as a new one, such as sockets without connections
    """

    __slots__ = ("positions", "state")

    def __init__(self, positions: dict[int, int], state: State | None) -> None:
        self.positions = positions
        self.state = state

    def plain(self) -> dict[str, Any]:
        """This as a dictionary of plain values, some of them bytes: for a file."""
        return {"positions": self.positions, "state": None if self.state is None else self.state.plain()}

    @classmethod
    def from_plain(cls, value: object, where: str) -> SavedServer:
        """What :meth:`plain` returned.  Who continues a device checks its state.

        :param where: what an error names
        :raises ConfigError: it is something else
        """
        if not isinstance(value, dict) or value.keys() != {"positions", "state"}:
            raise mismatch(where, "it is no saved device")
        positions = value["positions"]
        if not isinstance(positions, dict) or not all(
            type(index) is type(at) is int and 0 <= index < _QUEUES and 0 <= at < 1 << 16
            for index, at in positions.items()
        ):
            raise mismatch(where, "its queues have no positions")
        return cls(positions, None if value["state"] is None else State.from_plain(value["state"], where))


def areas(size: int, address: int) -> tuple[int, int]:
    """The addresses of the driver's area and the device's, of a queue of *size* whose descriptors are at *address*: one
    behind the other, the last on a cache line of its own."""
    driver = address + 16 * size
    return driver, -(-(driver + 6 + 2 * size) // 64) * 64
