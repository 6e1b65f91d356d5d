"""The C workers of a device: started, watched, joined and counted."""

from __future__ import annotations

import errno
import posix

from vmm.errors import ForbiddenCallError, HostError
from vmm.faststart.thread import allocate_lock
from vmm.native import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from vmm.virtio.device import VirtioDevice
    from vmm.virtio.queue import Queue

COUNTERS = ("kicks", "chains", "irqs", "wakeups")
"""Of ``struct worker_stats``."""


def call_name(number: int) -> str:
    """A system call in readable form, as ``openat (257)``."""
    call = ffi.new("struct seccomp_row *")
    index = 0
    while lib.seccomp_row(index, call) == 0:
        if call.nr == number:
            return f"{ffi.string(call.name).decode()} ({number})"
        index += 1
    return str(number)


def forbidden_call(device: str, thread: str, number: int) -> ForbiddenCallError:
    """A thread tried a system call that is not in its list."""
    return ForbiddenCallError(
        f"{device}: its thread {thread} tried the system call {call_name(number)}, which is not on its list",
        hint="a guest may have taken over the thread; keep its disks for an analysis",
    )


class Workers:
    """In the order in which they were added. Statistics may be read from any thread; everything else is called like a
    device's methods.

    :param device: their device: its name is for messages, its *thread_name* for ``top -H``
    :param code: of the errors
    :param hint: reasons for which a worker may fail to start
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

    def start(self, begin: Callable[..., Any], native: Any, queue: Queue, event: int) -> None:
        """Start a worker for one queue.

        :param begin: of the C code: ``struct worker *(native, ring, kick_fd, irq, event_fd, int *err)``
        :param event: eventfd that is signalled when it stopped
        :raises HostError: it could not be started
        """
        error = ffi.new("int *")
        self.name_next()
        self.add(begin(native, queue.ring, queue.kick.fd, queue.irq, event, error), error, queue)

    def name_next(self) -> None:
        """The next worker that this thread starts will be :meth:`add`ed: its thread gets its name."""
        lib.thread_name_next(self._name(len(self)).encode())

    def add(self, worker: Any, error: Any, *queues: Queue) -> None:
        """Take over the result of one of the ``..._start`` functions, and its error in *error* (``int *``).

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
        self._running.append((worker, queues))

    def _name(self, index: int) -> str:
        name = self._device.thread_name
        return f"{name}{index if name.endswith('-') else ''}"

    def check(self) -> None:
        """Find those that stopped by themselves.

        :raises GuestError: the guest broke a ring
        :raises HostError: a worker cannot continue
        :raises ForbiddenCallError: one tried a system call that is not in its list
        """
        for index, (worker, queues) in enumerate(self._running):
            if (number := lib.worker_forbidden(worker)) >= 0:
                raise forbidden_call(self._device.name, self._name(index), number)
            code = lib.worker_error(worker)
            if not code:
                continue
            for queue in queues:
                if lib.ring_error(queue.ring) != ffi.NULL:
                    raise queue.error()
            raise HostError(f"{self._device.name}: {posix.strerror(-code)}", code=self._code, errno=-code)

    def hold(self) -> None:
        """Suspend all where they are, until :meth:`go_on` or :meth:`stop`: nothing of them touches guest memory."""
        for worker, _ in self._running:
            lib.worker_hold(worker)

    def go_on(self) -> None:
        """After :meth:`hold`."""
        for worker, _ in self._running:
            lib.worker_go_on(worker)

    def spares(self) -> list[Any]:
        """Prepared threads, one for each running worker, for a device like this one; the caller frees them (cdata
        ``struct spare *``).

        :raises HostError: the host has no thread left
        """
        made: list[Any] = []
        out = ffi.new("struct spare **")
        with self._lock:
            for index, (worker, _) in enumerate(self._running):
                result = lib.worker_spare(worker, self._name(index).encode(), out)
                if result == 0:
                    made.append(out[0])
                elif result != -errno.EINVAL:  # its threads have no list of system calls
                    for spare in made:
                        lib.spare_free(spare)
                    raise HostError(f"{self._device.name}: {posix.strerror(-result)}", code=self._code, errno=-result)
        return made

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
        """The :data:`COUNTERS` of all workers so far."""
        with self._lock:
            totals = dict(self._totals)
            for worker, _ in self._running:
                self._count(totals, worker)
        return totals

    def stats_of(self, index: int) -> dict[str, int]:
        """The :data:`COUNTERS` of a running one."""
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
