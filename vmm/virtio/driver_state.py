"""What a driver has said to its device so far: status, features, queues (virtio 1.2, 2.1, 2.2, 3.1, 4.1.4.3, 4.2.2).

The same for every transport.  A transport turns its registers into calls of these methods; each takes what the guest
wrote, whatever it is, and ignores what the driver must not do in this status.  From DRIVER_OK on that leaves the
selectors and the status: what a queue is made of cannot change any more.
"""

from __future__ import annotations

from vmm.bus import BusDevice
from vmm.virtio import spec
from vmm.virtio.queue import QueueConfig

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NotRequired, TypedDict

    from vmm.virtio.device import VirtioDevice
    from vmm.virtio.queue import QueueState

    class TransportState(TypedDict):
        """All that the guest can see of a transport and its device; JSON takes it as it is."""

        device_id: int
        status: int
        device_features_sel: int
        driver_features_sel: int
        driver_features: int
        alien_features: bool
        queue_sel: int
        interrupt_status: int
        generation: int
        queues: list[QueueState]
        device: dict[str, Any]
        pci: NotRequired[dict[str, Any]]


OFFERED = spec.F_VERSION_1 | spec.F_INDIRECT_DESC | spec.F_EVENT_IDX
"""The feature bits of the transports and of ``ring.c``; where packed virtqueues are wanted, RING_PACKED as well."""
DEAD = spec.DEVICE_NEEDS_RESET | spec.FAILED
"""With one of these set only a reset helps."""
_STEPS = (spec.ACKNOWLEDGE, spec.DRIVER, spec.FEATURES_OK, spec.DRIVER_OK)
_DRIVER_BITS = spec.ACKNOWLEDGE | spec.DRIVER | spec.FEATURES_OK | spec.DRIVER_OK | spec.FAILED
_MASK32 = 0xFFFF_FFFF


class DriverState(BusDevice):
    """The state machine; a subclass says what its steps do (:meth:`_start_device`, :meth:`_stop`, :meth:`_show`).

    Not locked: callers hold the transport's lock.

    :param packed: offer packed virtqueues (2.8), if the device takes them
    """

    def __init__(self, device: VirtioDevice, *, packed: bool = False) -> None:
        self.name = device.name
        self.device = device
        self._offered = OFFERED | device.features
        if packed and device.takes_packed:
            self._offered |= spec.F_RING_PACKED
        self._generation = 0
        self._forget()

    def _show(self) -> None:
        """Let the driver see the status and what the selectors select."""
        raise NotImplementedError

    def _show_config(self) -> bool:
        """Let the driver see the configuration space; True when it is not the same as before."""
        raise NotImplementedError

    def _set_interrupts(self, bits: int) -> None:
        """Only while no worker runs."""
        raise NotImplementedError

    def _start_device(self) -> None:
        """DRIVER_OK."""
        raise NotImplementedError

    def _stop(self) -> None:
        raise NotImplementedError

    @property
    def status(self) -> int:
        """The device status field (2.1)."""
        return self._status

    def _forget(self) -> None:
        self._status = 0
        self._device_features_sel = 0
        self._driver_features_sel = 0
        self._driver_features = 0
        self._alien_features = False
        self._queue_sel = 0
        self._queues = [QueueConfig() for _ in self.device.queue_sizes]
        self._paused = False

    # -- status (2.1, 3.1) -----------------------------------------------------------------------------------

    def _write_status(self, value: int) -> None:
        if value == 0:
            self._reset()
            return
        # 2.1.1: bits are only ever added. Whoever clears one has lost count and gets nothing
        if self._status & ~value & _DRIVER_BITS:
            return
        if value & spec.FAILED and not self._status & spec.FAILED:
            self._stop()
            self._status |= spec.FAILED
        previous = 0
        for step in _STEPS:
            if value & step and not self._status & (step | DEAD) and self._status & previous == previous:
                self._step(step)
            previous = step
        self._show()

    def _step(self, step: int) -> None:
        if step == spec.FEATURES_OK:
            features = self._driver_features
            if self._alien_features or features & ~self._offered or not features & spec.F_VERSION_1:
                return
            if not self.device.negotiate(features):
                return
            self._status |= step
            self._show_config()
        else:
            self._status |= step
            if step == spec.DRIVER_OK:
                self._start_device()

    def _reset(self) -> None:
        self._stop()
        self.device.reset()
        self._forget()
        self._set_interrupts(0)
        self._show()
        self._show_config()

    # -- features and queues ---------------------------------------------------------------------------------

    def _may(self, needed: int, forbidden: int) -> bool:
        """The driver may write this register now."""
        return self._status & needed == needed and not self._status & forbidden

    def _setting_up(self) -> QueueConfig | None:
        """The selected queue, while the driver may change it."""
        return self._selected() if self._may(spec.FEATURES_OK, spec.DRIVER_OK | DEAD) else None

    def _selected(self) -> QueueConfig | None:
        """The queue that the driver has selected, None when there is no such."""
        return self._queues[self._queue_sel] if self._queue_sel < len(self._queues) else None

    def _select_device_features(self, value: int) -> None:
        self._device_features_sel = value
        self._show()

    def _selected_features(self) -> int:
        """The 32 offered feature bits that the driver looks at."""
        selected = self._device_features_sel
        return self._offered >> 32 * selected & _MASK32 if selected < 2 else 0

    def _select_driver_features(self, value: int) -> None:
        self._driver_features_sel = value

    def _write_driver_features(self, value: int) -> None:
        if not self._may(spec.DRIVER, spec.FEATURES_OK | DEAD):
            return
        if self._driver_features_sel < 2:
            shift = 32 * self._driver_features_sel
            self._driver_features = self._driver_features & ~(_MASK32 << shift) | value << shift
        elif value:
            # Bits that nobody offers; no need to keep which, they cannot become right again
            self._alien_features = True

    def _select_queue(self, value: int) -> None:
        self._queue_sel = value
        self._show()

    def _write_queue_size(self, value: int) -> None:
        queue = self._setting_up()
        if queue is not None and not queue.ready:
            queue.size = value

    def _write_queue_ready(self, value: int) -> None:
        queue = self._setting_up()
        if queue is not None:
            queue.ready = bool(value & 1)
            self._show()

    def _write_queue_address(self, area: str, shift: int, value: int) -> None:
        queue = self._setting_up()
        if queue is not None and not queue.ready:
            setattr(queue, area, getattr(queue, area) & ~(_MASK32 << shift) | value << shift)
