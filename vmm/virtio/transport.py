"""What all transports have in common beyond :mod:`~vmm.virtio.driver_state`: a running device and its guard.

**The guard**: the transport alone takes the lock, flushes the queues, interrupts, and turns a GuestError of a
device into one that is stopped and needs a reset, with everything else alive.  Another exception is a bug: it
passes through, and whoever called (a vCPU's thread, the loop) stops the machine.

**Configuring and running** are different types: queues are :class:`QueueConfig` until DRIVER_OK makes
:class:`Queue` objects of those that are ready.  From then on nothing that the driver writes changes them.
"""

from __future__ import annotations

from _thread import RLock

from vmm.errors import ConfigError, GuestError, VmmError
from vmm.events import EventFd
from vmm.native import lib
from vmm.virtio import spec
from vmm.virtio.device import DeviceContext, check_device
from vmm.virtio.driver_state import DEAD, DriverState
from vmm.virtio.queue import Queue, QueueConfig

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from vmm.events import Loop
    from vmm.memory import GuestMemory
    from vmm.virtio.device import VirtioDevice
    from vmm.virtio.driver_state import TransportState

MAX_REPORTS = 5
"""How often one device's failures are logged: a guest can break its rings for ever."""

_active: set[Transport] = set()
"""Transports whose device runs.  A C thread may be using their memory: they are not garbage, whoever forgot
them."""


class Transport(DriverState):
    """*device*, and what its driver has said so far.  Any thread may call any method.

    A subclass is the registers: it calls :meth:`_write_status` and fills in the selected queue's QueueConfig,
    gives :attr:`native_irq`, and shows the driver what it may see (:meth:`_show`, :meth:`_show_config`).

    :param irq: interrupts the guest
    :param kicks: one for each of the device's queues: what the guest rings
    :param packed: offer packed virtqueues
    :raises ConfigError: the device is made wrongly
    """

    native_irq: Any
    """Raised when the configuration changes (cdata ``struct irq *``), and for queues that have none of their own."""
    _status_place: tuple[int, int] = (-1, 0)
    """Where another process finds InterruptStatus: descriptor and offset."""

    def __init__(
        self,
        device: VirtioDevice,
        memory: GuestMemory,
        loop: Loop,
        irq: EventFd,
        kicks: list[EventFd],
        *,
        packed: bool = False,
    ) -> None:
        check_device(device, kicks)
        super().__init__(device, packed=packed)
        self.failures = 0
        """How often the device had to be stopped because the guest broke a rule."""
        self._kicks_served = 0
        self._memory = memory
        self._loop = loop
        self._irq = irq
        self._kicks = kicks
        self._lock = RLock()
        self._context: DeviceContext | None = None
        self._closed = False
        device.on_config_change = self._on_config_change
        self._event = EventFd()
        loop.add(self._event.fd, self._on_event)

    # -- for subclasses --------------------------------------------------------------------------------------

    def _get_interrupts(self) -> int:
        raise NotImplementedError

    def _queue_irq(self, index: int) -> Any:
        """What is raised for queue *index* (cdata ``struct irq *``)."""
        return self.native_irq

    def _raised(self) -> int:
        """Interrupts so far."""
        return int(self.native_irq.raised)

    def _write_device_config(self, offset: int, data: bytes) -> None:
        # 3.1.1: not before the features are settled
        if self._status & spec.FEATURES_OK and not self._status & DEAD:
            self._guard(self.device.write_config, offset, data)
            self._show_config()

    # -- running ---------------------------------------------------------------------------------------------

    def _start_device(self) -> None:
        self._guard(self._activate)

    def _activate(self) -> None:
        queues: dict[int, Queue] = {}
        try:
            for index, config in enumerate(self._queues):
                if not config.ready:
                    continue
                if config.size > self.device.queue_sizes[index]:
                    raise GuestError(
                        f"queue {index} has {config.size} descriptors, more than offered", code="queue-config"
                    )
                queues[index] = Queue(
                    index, self._memory, config, self._driver_features, self._kicks[index], self._queue_irq(index)
                )
            self._context = DeviceContext(
                self._driver_features, queues, self._memory, self._loop,
                self._event, self._serve, self._run, self._status_place,
            )  # fmt: skip
            _active.add(self)
            self.device.activate(self._context)
        except BaseException:
            if self._context is None:
                for queue in queues.values():
                    queue.close()
            self._stop()
            raise

    def _stop(self) -> None:
        """Workers first, then what they used."""
        context, self._context = self._context, None
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

    def _serve(self, queue: Queue) -> None:
        """Have the loop call process() when *queue* is kicked; once now, for what came before the loop
        listened."""
        self._loop.add(queue.kick.fd, lambda _events: self._on_kick(queue))
        queue.kick.signal()

    def _on_kick(self, queue: Queue) -> None:
        with self._lock:
            if self._context is None or queue.closed:
                return  # the kick of a driver that has reset the device since
            queue.kick.clear()
            self._kicks_served += 1
            self._guard(self._process, queue)

    def _process(self, queue: Queue) -> None:
        queue.drained, queue.popped = False, 0
        queue.want_kicks(False)
        self.device.process(queue)
        # Chains that came meanwhile, or that are more than one turn takes, get another turn after everybody
        # else's; those that the device left on purpose do not
        if queue.want_kicks(True) and (queue.drained or queue.popped):
            queue.kick.signal()

    def _run(self, work: Callable[[], None]) -> None:
        with self._lock:
            if self._context is not None:
                self._guard(work)

    def _guard(self, work: Callable[..., None], *args: object) -> None:
        try:
            work(*args)
        except GuestError as error:
            self._fail(error)
        else:
            self._flush()

    def _flush(self) -> None:
        if self._context is not None:
            raised = {id(queue.irq): queue.irq for queue in self._context.queues.values() if queue.flush()}
            for irq in raised.values():
                lib.irq_raise(irq, lib.IRQ_VRING)

    def _fail(self, error: VmmError) -> None:
        """The device can do nothing any more until the driver resets it (2.1.2)."""
        self._flush()  # what was answered before belongs to the driver
        self._stop()
        self.failures += 1
        if self.failures <= MAX_REPORTS:
            import logging

            last = "; further failures of this device are not reported" if self.failures == MAX_REPORTS else ""
            logging.getLogger(__name__).warning("%s stopped until its driver resets it: %s%s", self.name, error, last)
        self._status |= spec.DEVICE_NEEDS_RESET
        self._show()
        if self._status & spec.DRIVER_OK:
            lib.irq_raise(self.native_irq, lib.IRQ_CONFIG)

    def _on_event(self, _events: int) -> None:
        self._event.clear()
        with self._lock:
            if self._context is None:
                return
            try:
                self.device.check()
            except VmmError as error:
                self._fail(error)

    def _on_config_change(self) -> None:
        with self._lock:
            if self._closed or not self._show_config():
                return
            if self._status & spec.DRIVER_OK:
                lib.irq_raise(self.native_irq, lib.IRQ_CONFIG)

    # -- the host's side -------------------------------------------------------------------------------------

    def pause(self) -> None:
        """Stop the device where it is: nothing of it touches guest memory until :meth:`resume`.

        The guest's vCPUs are paused already; a register write that comes all the same is answered.
        """
        with self._lock:
            context = self._context
            if context is None:
                return
            for queue in context.queues.values():
                self._loop.remove(queue.kick.fd)
            try:
                self.device.stop()
                self._flush()
                for queue in context.queues.values():
                    self._queues[queue.index].next_index = queue.position()
            except GuestError as error:
                self._fail(error)
                return
            self._stop()
            self._paused = True

    def resume(self) -> None:
        """Go on after :meth:`pause` or :meth:`restore`."""
        with self._lock:
            if not self._paused:
                return
            self._paused = False
            self._guard(self._activate)
            if self._context is not None:
                # A kick that came before the pause is not in the state
                for queue in self._context.queues.values():
                    queue.kick.signal()

    def reset(self) -> None:
        """As after power-on, whatever the driver has done.  No vCPU runs."""
        with self._lock:
            self._reset()
            for kick in self._kicks:
                kick.clear()

    def save(self) -> TransportState:
        """All that the guest can see, as plain data.  A running device is paused and resumed."""
        with self._lock:
            running = self._context is not None
            self.pause()
            state: TransportState = {
                "device_id": self.device.device_id,
                "status": self._status,
                "device_features_sel": self._device_features_sel,
                "driver_features_sel": self._driver_features_sel,
                "driver_features": self._driver_features,
                "alien_features": self._alien_features,
                "queue_sel": self._queue_sel,
                "interrupt_status": self._get_interrupts(),
                "generation": self._generation,
                "queues": [
                    {
                        "size": queue.size,
                        "ready": queue.ready,
                        "desc": queue.desc,
                        "driver": queue.driver,
                        "device": queue.device,
                        "next_index": queue.next_index,
                    }
                    for queue in self._queues
                ],
                "device": self.device.save(),
            }
            if running:
                self.resume()
            return state

    def restore(self, state: TransportState) -> None:
        """Become what :meth:`save` returned.  The transport is fresh; :meth:`resume` lets the device run.

        :raises ConfigError: the state is that of another device, or of one with other features
        """
        with self._lock:
            features = state["driver_features"] if state["status"] & spec.FEATURES_OK else 0
            if (
                state["device_id"] != self.device.device_id
                or len(state["queues"]) != len(self._queues)
                or features & ~self._offered
                or (features and not self.device.negotiate(features))
            ):
                raise ConfigError(
                    f"{self.name}: the saved state is that of a device of type {state['device_id']} with "
                    f"{len(state['queues'])} queues and features {features:#x}, which does not fit this one",
                    code="restore-mismatch",
                    hint="restore with the same devices, in the same order and with the same options",
                )
            self._status = state["status"]
            self._device_features_sel = state["device_features_sel"]
            self._driver_features_sel = state["driver_features_sel"]
            self._driver_features = state["driver_features"]
            self._alien_features = state["alien_features"]
            self._queue_sel = state["queue_sel"]
            self._queues = [QueueConfig(**queue) for queue in state["queues"]]
            self.device.restore(state["device"])
            # Further than it was: what the driver has read of the configuration may be old by now
            self._generation = state["generation"] + 1
            self._set_interrupts(state["interrupt_status"])
            self._show_config()
            self._show()
            self._paused = bool(self._status & spec.DRIVER_OK and not self._status & DEAD)

    def stats(self) -> dict[str, Any]:
        """``name``, ``interrupts`` raised, ``kicks`` (those that Python served, unless the device counts its own),
        ``failures``, and what the device itself counts."""
        return {
            "name": self.name,
            "interrupts": self._raised(),
            "kicks": self._kicks_served,
            "failures": self.failures,
            **self.device.stats(),
        }

    def close(self) -> None:
        """Stop and close the device.  Harmless when done twice."""
        with self._lock:
            if self._closed:
                return
            self._stop()
            self._closed = True
            self.device.on_config_change = None
            self.device.close()
            self._loop.remove(self._event.fd)
            self._event.close()
