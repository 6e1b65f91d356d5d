"""A running device and its guard.

**The guard**: the runner alone takes the lock, flushes the queues and interrupts. After a GuestError it stops the
device and marks it as needing a reset; everything else continues. Another exception is a bug: it passes through, and
the caller (a vCPU's thread, the loop) stops the machine.

**Configuring and running** are different types: queues are :class:`QueueConfig` until :meth:`Runner.start` makes
:class:`Queue` objects of those that are ready. From then on, the driver's writes do not change them.
"""

from __future__ import annotations

from vmm import report
from vmm.errors import ForbiddenCallError, GuestError, VmmError
from vmm.events import EventFd
from vmm.faststart.thread import RLock
from vmm.native import lib
from vmm.virtio.device import DeviceContext
from vmm.virtio.queue import Queue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from vmm.events import Loop
    from vmm.memory import GuestMemory
    from vmm.virtio.device import VirtioDevice
    from vmm.virtio.queue import QueueConfig

MAX_REPORTS = 5
"""How often one device's failures are logged: a guest can break its rings for ever."""

_active: set[Runner] = set()
"""Runners whose device runs.  A C thread may be using their memory: keep them alive even without other references."""


class Runner:
    """Starts and stops *device*, and calls it under its guard.  Any thread may call any method.

    :param kicks: one for each of the device's queues: the kick
    :param irqs: one for each of the device's queues: its irq (cdata ``struct irq *``)
    :param status_place: the place of InterruptStatus for another process: descriptor and offset
    :param on_failure: called under the lock when the device has been stopped because the guest broke a rule
    :ivar lock: of the device, and of all state of its driver
    :ivar failures: how often that was
    :ivar kicks_served: those that Python served
    """

    def __init__(
        self,
        device: VirtioDevice,
        memory: GuestMemory,
        loop: Loop,
        kicks: Sequence[EventFd],
        irqs: Sequence[Any],
        status_place: tuple[int, int],
        on_failure: Callable[[], None],
    ) -> None:
        self.device = device
        self.lock = RLock()
        self.failures = 0
        self.kicks_served = 0
        self._memory = memory
        self._loop = loop
        self._kicks = kicks
        self._irqs = irqs
        self._status_place = status_place
        self._on_failure = on_failure
        self._context: DeviceContext | None = None
        self.held = False
        """It rests, see :meth:`pause`."""
        self._event = EventFd()
        loop.add(self._event.fd, self._on_event)

    @property
    def running(self) -> bool:
        """Between :meth:`start` and :meth:`stop`, or a failure."""
        return self._context is not None

    @property
    def event_fd(self) -> int:
        """That of the eventfd by which workers report that they have stopped."""
        return self._event.fd

    def start(self, features: int, queues: Sequence[QueueConfig]) -> None:
        """Run the device with the driver's settings."""
        self.guard(self._activate, features, queues)

    def _activate(self, features: int, configs: Sequence[QueueConfig]) -> None:
        queues: dict[int, Queue] = {}
        try:
            for index, config in enumerate(configs):
                if not config.ready:
                    continue
                if config.size > self.device.queue_sizes[index]:
                    raise GuestError(
                        f"queue {index} has {config.size} descriptors, more than offered", code="queue-config"
                    )
                queues[index] = Queue(
                    index, self._memory, config, features, self._kicks[index], self._irqs[index]
                )  # fmt: skip
            self._context = DeviceContext(
                features, queues, self._memory, self._loop, self._event, self._serve, self._run, self._status_place
            )
            _active.add(self)
            self.device.activate(self._context)
        except BaseException:
            if self._context is None:
                for queue in queues.values():
                    queue.close()
            self.stop()
            raise

    def stop(self) -> None:
        """Workers first, then what they used.  Harmless when nothing runs."""
        context, self._context = self._context, None
        self.held = False
        if context is not None:
            for queue in context.queues.values():
                self._loop.remove(queue.kick.fd)
            try:
                self.device.stop()
            except GuestError:
                pass  # a device that takes chains back may find them broken; it has stopped, and why is known already
            finally:
                for queue in context.queues.values():
                    queue.close()
        _active.discard(self)

    def pause(self) -> dict[int, int] | None:
        """Stop the device where it is, or suspend it until :meth:`go_on`; :attr:`held` shows which.

        :returns: the position of each queue, for :attr:`QueueConfig.next_index`; None: it did not run, or has failed
        """
        context = self._context
        if context is None:
            return None
        for queue in context.queues.values():
            self._loop.remove(queue.kick.fd)
        try:
            self.held = self.device.hold()
            if not self.held:
                self.device.stop()
            self._flush()
            positions = {queue.index: queue.position() for queue in context.queues.values()}
        except GuestError as error:
            self._fail(error)
            return None
        if not self.held:
            self.stop()
        return positions

    def go_on(self) -> None:
        """After a :meth:`pause`, if it was :attr:`held`."""
        self.held = False
        self.guard(self.device.go_on)

    def kick(self, index: int) -> None:
        """Ring for a queue, if it is used."""
        if self._context is not None and index in self._context.queues:
            self._kicks[index].signal()

    def kick_all(self) -> None:
        """Ring for every queue that is used."""
        if self._context is not None:
            for index in self._context.queues:
                self._kicks[index].signal()

    def clear_kicks(self) -> None:
        """Drop pending kicks."""
        for kick in self._kicks:
            kick.clear()

    def irqs_moved(self) -> None:
        """A queue's irq has another descriptor now."""
        if self._context is not None:
            self.guard(self.device.irqs_moved)

    # -- the guard -------------------------------------------------------------------------------------------

    def guard(self, work: Callable[..., None], *args: object) -> None:
        """Call something of the device's.  The lock is held."""
        try:
            work(*args)
        except GuestError as error:
            self._fail(error)
        else:
            self._flush()

    def _serve(self, queue: Queue) -> None:
        """Make the loop call process() when *queue* is kicked, and once now, for earlier kicks."""
        self._loop.add(queue.kick.fd, lambda _events: self._on_kick(queue))
        queue.kick.signal()

    def _on_kick(self, queue: Queue) -> None:
        with self.lock:
            if self._context is None or self.held or queue.closed:
                return  # the kick of a driver that has reset the device since
            queue.kick.clear()
            self.kicks_served += 1
            self.guard(self._process, queue)

    def _process(self, queue: Queue) -> None:
        queue.drained, queue.popped = False, 0
        queue.want_kicks(False)
        self.device.process(queue)
        # Chains that came meanwhile, or that are more than one turn takes, get another turn after everybody
        # else's; those that the device left on purpose do not
        if queue.want_kicks(True) and (queue.drained or queue.popped):
            queue.kick.signal()

    def _run(self, work: Callable[[], None]) -> None:
        with self.lock:
            if self._context is not None and not self.held:
                self.guard(work)

    def _flush(self) -> None:
        if self._context is not None:
            raised = {id(queue.irq): queue.irq for queue in self._context.queues.values() if queue.flush()}
            for irq in raised.values():
                lib.irq_raise(irq, lib.IRQ_VRING)

    def _fail(self, error: VmmError) -> None:
        """The device does nothing any more until the driver resets it (2.1.2)."""
        self._flush()  # what was answered before belongs to the driver
        self.stop()
        self.failures += 1
        if self.failures <= MAX_REPORTS:
            name = self.device.name
            last = "; further failures of this device are not reported" if self.failures == MAX_REPORTS else ""
            report.warn(__name__, f"{name} stopped until its driver resets it: {error}{last}")
        self._on_failure()

    def _on_event(self, _events: int) -> None:
        self._event.clear()
        with self.lock:
            if self._context is None:
                return
            try:
                self.device.check()
            except ForbiddenCallError:
                raise  # it belongs to a thread of this process: a reset cannot repair that
            except VmmError as error:
                self._fail(error)

    def close(self) -> None:
        """Stop and close the device, once."""
        self.stop()
        self.device.close()
        self._loop.remove(self._event.fd)
        self._event.close()
