"""A device and its driver: the driver's state (:mod:`~vmm.virtio.driver_state`), the running device
(:mod:`~vmm.virtio.runner`), and their registers.

Each kind of registers (:mod:`~vmm.virtio.mmio`, :mod:`~vmm.virtio.pci`) makes one :class:`Transport`, forwards the
guest's writes to it, and is notified of changes.
"""

from __future__ import annotations

from vmm.native import lib
from vmm.saveable import Schema, State, mismatch, saveable
from vmm.virtio import driver_state, spec
from vmm.virtio.driver_state import DEAD, DriverState
from vmm.virtio.runner import Runner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Protocol

    from vmm.events import EventFd, Loop
    from vmm.memory import GuestMemory
    from vmm.virtio.device import VirtioDevice

    class Registers(Protocol):
        """The guest's view of a device. All methods are called under the transport's lock.

        :ivar config_irq: raised when the configuration changes (cdata ``struct irq *``)
        :ivar queue_irqs: raised for each queue; it may be the same
        :ivar status_place: the place of InterruptStatus for another process, descriptor and offset
        :ivar sizes: of each queue until the driver sets another size
        """

        config_irq: Any
        queue_irqs: list[Any]
        status_place: tuple[int, int]
        sizes: tuple[int, ...]

        def show(self) -> None:
            """Show the status and the selected features and queue."""

        def show_config(self) -> bool:
            """Show the configuration space; True if it has changed."""

        def forget(self) -> None:
            """The driver has reset the device: no interrupts."""

        def raised(self) -> int:
            """Interrupts so far."""

        def save(self) -> State:
            """What the driver has written to these registers alone."""

        def restore(self, state: State) -> None:
            """Become what :meth:`save` returned.

            :raises ConfigError: it is of registers of another kind, or shape; nothing was changed
            """

        def close(self) -> None:
            """No access comes any more.  Once."""


OFFERED = spec.F_VERSION_1 | spec.F_INDIRECT_DESC | spec.F_EVENT_IDX
"""The feature bits of the transports and of ``ring.c``; where packed virtqueues are wanted, RING_PACKED as well."""

_SCHEMA = Schema(
    "virtio-transport",
    1,
    {"device_id": "u32", "driver": driver_state.FIELDS, "registers": "state", "device": "state"},
)


class Transport:
    """*device*, its driver and its registers.  Any thread may call any method but :meth:`write_status` and
    :meth:`write_config`, which the registers call under :attr:`lock`.

    :param kicks: one for each of the device's queues: the kick
    :param packed: offer packed virtqueues (2.8), if the device supports them
    :ivar state: the driver's settings
    :ivar runner: the device's
    :ivar closed: no request is answered any more
    """

    def __init__(
        self,
        device: VirtioDevice,
        memory: GuestMemory,
        loop: Loop,
        kicks: Sequence[EventFd],
        registers: Registers,
        *,
        packed: bool = False,
    ) -> None:
        offered = OFFERED | device.features
        if packed and device.takes_packed:
            offered |= spec.F_RING_PACKED
        self.device = device
        self.registers = registers
        self.closed = False
        self._paused = False
        self.state = DriverState(offered, registers.sizes, device.negotiate)
        self.runner = Runner(
            device, memory, loop, kicks, registers.queue_irqs, registers.status_place, self._on_failure
        )
        self.lock = self.runner.lock
        device.on_config_change = self._on_config_change

    @property
    def failures(self) -> int:
        """The number of times that the device was stopped because the guest broke a rule."""
        return self.runner.failures

    @property
    def status(self) -> int:
        """The device status field (2.1)."""
        return self.state.status

    # -- the guest's side ------------------------------------------------------------------------------------

    def write_status(self, value: int) -> None:
        """The driver writes the device status."""
        todo = self.state.write_status(value)
        if todo & driver_state.RESET:
            self._reset()
        if todo & driver_state.STOP:
            self.runner.stop()
        if todo & driver_state.NEGOTIATED:
            self.registers.show_config()
        if todo & driver_state.START:
            self.runner.start(self.state.driver_features, self.state.queues)
        self.registers.show()

    def _reset(self) -> None:
        """The driver's state is as after power-on: reset the device, and show both."""
        self.runner.stop()
        self.device.reset()
        self._paused = False
        self.registers.forget()
        self.registers.show()
        self.registers.show_config()

    def write_config(self, offset: int, data: bytes) -> None:
        """The driver writes 1, 2 or 4 bytes inside the configuration space."""
        # 3.1.1: not before the features are settled
        if self.state.status & spec.FEATURES_OK and not self.state.status & DEAD:
            self.runner.guard(self.device.write_config, offset, data)
            self.registers.show_config()

    def _on_failure(self) -> None:
        self.state.status |= spec.DEVICE_NEEDS_RESET
        self.registers.show()
        self._tell_of_config()

    def _on_config_change(self, interrupt: bool) -> None:
        with self.lock:
            if not self.closed and self.registers.show_config() and interrupt:
                self._tell_of_config()

    def _tell_of_config(self) -> None:
        if self.state.status & spec.DRIVER_OK:
            lib.irq_raise(self.registers.config_irq, lib.IRQ_CONFIG)

    # -- the host's side -------------------------------------------------------------------------------------

    def pause(self) -> None:
        """The guest's vCPUs are paused already; a register write that comes nevertheless is handled.

        Resume after :meth:`pause` or :meth:`restore`.
        """
        with self.lock:
            positions = None if self._paused else self.runner.pause()
            if positions is not None:
                for index, position in positions.items():
                    self.state.queues[index].next_index = position
                self._paused = True

    def resume(self) -> None:
        """Interrupt for every queue, and for the configuration, whether there is a reason or not: after"""
        with self.lock:
            if not self._paused or self.closed:
                return
            self._paused = False
            if not self.state.runs:
                return  # the driver has given it up meanwhile
            if self.runner.held:
                self.runner.go_on()  # which looks at the queues
            else:
                self.runner.start(self.state.driver_features, self.state.queues)
                self.runner.kick_all()  # a kick that came before the pause is not in the state

    def interrupt(self) -> None:
        """:meth:`restore` it is not known which interrupts were pending. Reset to the state after power-on, whatever
        the driver has done."""
        with self.lock:
            if self.closed:
                return
            if self.runner.running:
                for irq in {id(irq): irq for irq in self.registers.queue_irqs}.values():
                    lib.irq_raise(irq, lib.IRQ_VRING)
            self._tell_of_config()

    def reset(self) -> None:
        """Everything that the guest can see, as plain data. No vCPU runs."""
        with self.lock:
            self.write_status(0)
            self.device.power_on()
            self.registers.show_config()
            self.runner.clear_kicks()

    def save(self) -> State:
        """All that the guest can see, as plain data.  A running device is paused and resumed.

        :raises ConfigError: the device cannot be saved
        """
        saveable(self.device)
        with self.lock:
            running = self.runner.running and not self._paused
            self.pause()
            state = _SCHEMA.make(
                device_id=self.device.device_id,
                driver=self.state.save(),
                registers=self.registers.save().plain(),
                device=self.device.save().plain(),
            )
            if running:
                self.resume()
            return state

    def restore(self, state: State) -> None:
        """Restore what :meth:`save` returned into a new transport; :meth:`resume` starts the device.

        :raises ConfigError: the state belongs to another device, or to one with other features
        """
        name = self.device.name
        payload = _SCHEMA.read(state, name)
        with self.lock:
            if payload["device_id"] != self.device.device_id:
                raise mismatch(name, f"it is of a device of type {payload['device_id']}")
            self.registers.restore(state.part("registers", name))
            if not self.state.restore(payload["driver"]):
                driver = payload["driver"]
                raise mismatch(name, f"{len(driver['queues'])} queues and features {driver['driver_features']:#x}")
            self.device.restore(state.part("device", name))
            self.registers.show_config()
            self.registers.show()
            self._paused = self.state.runs

    def stats(self) -> dict[str, Any]:
        """``name``, ``interrupts`` raised, ``kicks`` (those that Python served, unless the device counts its own),
        ``failures``, and the device's own counters."""
        return {
            "name": self.device.name,
            "interrupts": self.registers.raised(),
            "kicks": self.runner.kicks_served,
            "failures": self.runner.failures,
            **self.device.stats(),
        }

    def close(self) -> None:
        """Stop and close the device.  A second call does nothing."""
        with self.lock:
            if self.closed:
                return
            self.closed = True
            self.device.on_config_change = None
            self.runner.close()
            self.registers.close()
