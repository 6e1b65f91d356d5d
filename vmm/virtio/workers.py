"""The C workers of a device: started, watched, joined and counted."""

from __future__ import annotations

import posix
from _thread import allocate_lock

from vmm.errors import HostError
from vmm.native import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmm.virtio.device import VirtioDevice
    from vmm.virtio.queue import Queue

COUNTERS = ("kicks", "chains", "irqs", "wakeups")
"""Of ``struct worker_stats``."""


class Workers:
    """In the order in which they were added.  Statistics may be asked for from any thread; all else is called as a
    device's methods are.

    :param device: whose they are: its name is for messages, its *thread_name* for ``top -H``
    :param code: of the errors
    :param hint: what may keep a worker from starting
    """

    __slots__ = ("_code", "_device", "_hint", "_lock", "_running", "_totals")

    def __init__(self, device: VirtioDevice, code: str, hint: str) -> None:
        self._device = device
        self._code = code
        self._hint = hint
        self._running: list[tuple[Any, tuple[Queue, ...]]] = []
        self._totals = dict.fromkeys(COUNTERS, 0)
        self._lock = allocate_lock()

    def __len__(self) -> int:
        return len(self._running)

    def add(self, worker: Any, error: Any, *queues: Queue) -> None:
        """Take over what one of the ``..._start`` functions returned and what it said in *error* (``int *``).

        :param queues: those that it serves
        :raises HostError: it could not be started
        """
        if worker == ffi.NULL:
            raise HostError(
                f"{self._device.name}: cannot start a worker: {posix.strerror(-error[0])}",
                code=self._code,
                hint=self._hint,
                errno=-error[0],
            )
        name = self._device.thread_name
        lib.worker_set_name(worker, f"{name}{len(self) if name.endswith('-') else ''}".encode())
        self._running.append((worker, queues))

    def check(self) -> None:
        """Find those that stopped by themselves.

        :raises GuestError: the guest broke a ring
        :raises HostError: a worker cannot go on
        """
        for worker, queues in self._running:
            code = lib.worker_error(worker)
            if not code:
                continue
            for queue in queues:
                if lib.ring_error(queue.ring) != ffi.NULL:
                    raise queue.error()
            raise HostError(f"{self._device.name}: {posix.strerror(-code)}", code=self._code, errno=-code)

    def stop(self, keep: int = 0) -> None:
        """Join all but the first *keep*: afterwards nothing of them touches guest memory.  What they counted stays."""
        for worker, _ in self._running[keep:]:
            lib.worker_stop(worker)
        with self._lock:
            for worker, _ in self._running[keep:]:
                self._count(self._totals, worker)
                lib.worker_free(worker)
            del self._running[keep:]

    def stats(self) -> dict[str, int]:
        """The :data:`COUNTERS` of all that there were."""
        with self._lock:
            totals = dict(self._totals)
            for worker, _ in self._running:
                self._count(totals, worker)
        return totals

    def stats_of(self, index: int) -> dict[str, int]:
        """The :data:`COUNTERS` of one that runs."""
        with self._lock:
            totals = dict.fromkeys(COUNTERS, 0)
            self._count(totals, self._running[index][0])
        return totals

    @staticmethod
    def _count(totals: dict[str, int], worker: Any) -> None:
        native = ffi.new("struct worker_stats *")
        lib.worker_get_stats(worker, native)
        for name in COUNTERS:
            totals[name] += int(getattr(native, name))
