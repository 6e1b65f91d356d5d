"""The driver's settings of its device: status, features, queues (virtio 1.2, 2.1, 2.2, 3.1, 4.1.4.3, 4.2.2).

A plain object, the same for every transport.  Registers turn what the guest writes into calls of its methods; each
takes any number, and ignores what the driver must not do in this status.  From DRIVER_OK on that leaves the selectors
and the status: what a queue is made of cannot change any more.  It does nothing to the device:
:meth:`DriverState.write_status` returns what has to be done.
"""

from __future__ import annotations

from vmm.virtio import spec
from vmm.virtio.queue import QueueConfig

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypedDict

    from vmm.virtio.queue import QueueState

    class DriverWords(TypedDict):
        """A :class:`DriverState` as plain data."""

        status: int
        device_features_sel: int
        driver_features_sel: int
        driver_features: int
        alien_features: bool
        queue_sel: int
        queues: list[QueueState]


DEAD = spec.DEVICE_NEEDS_RESET | spec.FAILED
"""With one of these set only a reset helps."""

RESET, STOP, NEGOTIATED, START = 1, 2, 4, 8
"""What :meth:`DriverState.write_status` returns, in the order in which it is to be done: reset the device, stop it,
show the configuration space anew, start it."""

_STEPS = (spec.ACKNOWLEDGE, spec.DRIVER, spec.FEATURES_OK, spec.DRIVER_OK)
_DRIVER_BITS = spec.ACKNOWLEDGE | spec.DRIVER | spec.FEATURES_OK | spec.DRIVER_OK | spec.FAILED
_MASK32 = 0xFFFF_FFFF
_WORDS = {
    "status": "u8",
    "device_features_sel": "u32",
    "driver_features_sel": "u32",
    "driver_features": "u64",
    "alien_features": "bool",
    "queue_sel": "u32",
}
FIELDS = {
    **_WORDS,
    "queues": [{"size": "u32", "ready": "bool", "desc": "u64", "driver": "u64", "device": "u64", "next_index": "u16"}],
}
"""Of what :meth:`DriverState.save` returns, as a :class:`~vmm.saveable.Schema` has them."""


class DriverState:
    """The state machine.  Not locked: callers hold the lock of the device.

    :param offered: all feature bits that the driver may choose
    :param sizes: of each queue until the driver sets another size
    :param negotiate: whether the device accepts these features, a subset of *offered*
    :ivar status: the device status field (2.1)
    :ivar queues: what the driver has written about each queue
    """

    __slots__ = (*_WORDS, "_negotiate", "_sizes", "offered", "queues")

    status: int
    device_features_sel: int
    driver_features_sel: int
    driver_features: int
    alien_features: bool
    queue_sel: int

    def __init__(self, offered: int, sizes: Sequence[int], negotiate: Callable[[int], bool]) -> None:
        self.offered = offered
        self._sizes = sizes
        self._negotiate = negotiate
        self._forget()

    def _forget(self) -> None:
        self.status = 0
        self.device_features_sel = 0
        self.driver_features_sel = 0
        self.driver_features = 0
        self.alien_features = False
        self.queue_sel = 0
        self.queues = [QueueConfig(size) for size in self._sizes]

    # -- status (2.1, 3.1) -----------------------------------------------------------------------------------

    @property
    def runs(self) -> bool:
        """The driver has set DRIVER_OK, and nothing has failed since."""
        return bool(self.status & spec.DRIVER_OK) and not self.status & DEAD

    def write_status(self, value: int) -> int:
        """The driver writes the status.

        :returns: any of :data:`RESET`, :data:`STOP`, :data:`NEGOTIATED` and :data:`START`
        """
        if value == 0:
            self._forget()
            return RESET
        # 2.1.1: drivers only add bits. A write that clears one is ignored
        if self.status & ~value & _DRIVER_BITS:
            return 0
        todo = 0
        if value & spec.FAILED and not self.status & spec.FAILED:
            self.status |= spec.FAILED
            todo |= STOP
        previous = 0
        for step in _STEPS:
            if value & step and not self.status & (step | DEAD) and self.status & previous == previous:
                todo |= self._step(step)
            previous = step
        return todo

    def _step(self, step: int) -> int:
        if step == spec.FEATURES_OK:
            features = self.driver_features
            if self.alien_features or features & ~self.offered or not features & spec.F_VERSION_1:
                return 0
            if not self._negotiate(features):
                return 0
        self.status |= step
        return {spec.FEATURES_OK: NEGOTIATED, spec.DRIVER_OK: START}.get(step, 0)

    # -- features and queues ---------------------------------------------------------------------------------

    def _may(self, needed: int, forbidden: int) -> bool:
        """The driver may write this register now."""
        return self.status & needed == needed and not self.status & forbidden

    def _setting_up(self) -> QueueConfig | None:
        """The selected queue, while the driver may change it."""
        return self.selected() if self._may(spec.FEATURES_OK, spec.DRIVER_OK | DEAD) else None

    def selected(self) -> QueueConfig | None:
        """The queue that the driver has selected, None if it does not exist."""
        return self.queues[self.queue_sel] if self.queue_sel < len(self.queues) else None

    def select_device_features(self, value: int) -> None:
        self.device_features_sel = value

    def selected_features(self) -> int:
        """The 32 offered feature bits that the driver has selected."""
        selected = self.device_features_sel
        return self.offered >> 32 * selected & _MASK32 if selected < 2 else 0

    def select_driver_features(self, value: int) -> None:
        self.driver_features_sel = value

    def write_driver_features(self, value: int) -> None:
        if not self._may(spec.DRIVER, spec.FEATURES_OK | DEAD):
            return
        if self.driver_features_sel < 2:
            shift = 32 * self.driver_features_sel
            self.driver_features = self.driver_features & ~(_MASK32 << shift) | value << shift
        elif value:
            # Bits that nobody offers; no need to keep which, they cannot become right again
            self.alien_features = True

    def select_queue(self, value: int) -> None:
        self.queue_sel = value

    def write_queue_size(self, value: int) -> None:
        queue = self._setting_up()
        if queue is not None and not queue.ready:
            queue.size = value

    def write_queue_ready(self, value: int) -> None:
        queue = self._setting_up()
        if queue is not None:
            queue.ready = bool(value & 1)

    def write_queue_address(self, area: str, shift: int, value: int) -> None:
        queue = self._setting_up()
        if queue is not None and not queue.ready:
            setattr(queue, area, getattr(queue, area) & ~(_MASK32 << shift) | value << shift)

    # -- as data ---------------------------------------------------------------------------------------------

    def save(self) -> DriverWords:
        queues: list[QueueState] = [
            {
                "size": queue.size,
                "ready": queue.ready,
                "desc": queue.desc,
                "driver": queue.driver,
                "device": queue.device,
                "next_index": queue.next_index,
            }
            for queue in self.queues
        ]
        return {
            "status": self.status,
            "device_features_sel": self.device_features_sel,
            "driver_features_sel": self.driver_features_sel,
            "driver_features": self.driver_features,
            "alien_features": self.alien_features,
            "queue_sel": self.queue_sel,
            "queues": queues,
        }

    def restore(self, words: DriverWords) -> bool:
        """Restore what :meth:`save` returned; False, without any change, if it does not fit what is offered."""
        features = words["driver_features"] if words["status"] & spec.FEATURES_OK else 0
        if len(words["queues"]) != len(self.queues) or features & ~self.offered:
            return False
        if features and not self._negotiate(features):
            return False
        self.status = words["status"]
        self.device_features_sel = words["device_features_sel"]
        self.driver_features_sel = words["driver_features_sel"]
        self.driver_features = words["driver_features"]
        self.alien_features = words["alien_features"]
        self.queue_sel = words["queue_sel"]
        self.queues = [
            QueueConfig(
                queue["size"], queue["ready"], queue["desc"], queue["driver"], queue["device"], queue["next_index"]
            )
            for queue in words["queues"]
        ]
        return True
