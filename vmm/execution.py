"""The threads that run vCPUs, and how a run ends."""

from __future__ import annotations

import time
from _thread import RLock

from vmm.kvm import ioctl as k
from vmm.record import dataclass
from vmm.thread import Thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from vmm.bus import Bus
    from vmm.kvm import Vcpu
    from vmm.memory import GuestMemory

_EINTR = -4
_IO_OUT = 1

POWEROFF = "poweroff"
REBOOT = "reboot"
PANIC = "panic"
TRIPLE_FAULT = "triple-fault"
TIMEOUT = "timeout"
STOPPED = "stopped"
ERROR = "error"
END_KINDS = (POWEROFF, REBOOT, PANIC, TRIPLE_FAULT, TIMEOUT, STOPPED, ERROR)


@dataclass(frozen=True)
class EndEvent:
    """How a run ended.

    :ivar kind: one of :data:`END_KINDS`: the guest powered off, asked for a reboot, panicked (it said so through the
        pvpanic device), triple-faulted; it ran out of the time it was given; the host stopped it; or it could not go on
    :ivar detail: in words, may be empty
    :ivar error: for ``error``: the exception
    :ivar at: ``time.monotonic()`` of the event
    """

    kind: str
    detail: str = ""
    error: BaseException | None = None
    at: float = 0.0


_SYSTEM_EVENTS = {1: POWEROFF, 2: REBOOT, 3: PANIC}


class VcpuThreads:
    """One thread per vCPU.  The first cause to end the run wins and is passed to *on_end*, once, on whatever thread it
    came up; after that no vCPU enters the guest again."""

    def __init__(
        self, vcpus: list[Vcpu], pio: Bus, mmio: Bus, memory: GuestMemory, on_end: Callable[[EndEvent], None]
    ) -> None:
        self._vcpus = vcpus
        self._pio = pio
        self._mmio = mmio
        self._memory = memory
        self._on_end = on_end
        # Re-entrant: a signal handler may end the run while its thread is just doing so
        self._lock = RLock()
        self._end: EndEvent | None = None
        self._threads: list[Thread] = []

    def start(self) -> None:
        """Start all threads."""
        for vcpu in self._vcpus:
            thread = Thread(self._runner(vcpu), f"vcpu{vcpu.index}")
            self._threads.append(thread)
            thread.start()

    def end(self, kind: str, detail: str = "", error: BaseException | None = None) -> bool:
        """End the run; False when it had ended already.  From any thread, a vCPU's own included."""
        with self._lock:
            if self._end is not None:
                return False
            self._end = EndEvent(kind, detail, error, time.monotonic())
        for vcpu in self._vcpus:
            vcpu.kick()
        self._on_end(self._end)
        return True

    def join(self) -> None:
        """Wait until no thread is inside the guest.  Call :meth:`end` first."""
        for thread in self._threads:
            thread.join()
        self._threads = []

    def _runner(self, vcpu: Vcpu) -> Callable[[], None]:
        return lambda: self._main(vcpu)

    def _main(self, vcpu: Vcpu) -> None:
        try:
            while self._end is None:
                reason = vcpu.run()
                if reason == k.EXIT_IO:
                    self._io(vcpu)
                elif reason == k.EXIT_MMIO:
                    self._mmio_access(vcpu)
                elif reason != _EINTR:
                    self._special(vcpu, reason)
        except BaseException as error:  # a bug or a broken host: the run ends with the traceback in hand
            self.end(ERROR, f"vCPU {vcpu.index}: {type(error).__name__}: {error}", error)

    def _io(self, vcpu: Vcpu) -> None:
        io = vcpu.kvm_run.io
        size, port = io.size, io.port
        with vcpu.run_bytes(io.data_offset, size * io.count) as data:
            for start in range(0, len(data), size):
                if io.direction == _IO_OUT:
                    self._pio.write(port, size, int.from_bytes(data[start : start + size], "little"))
                else:
                    data[start : start + size] = self._pio.read(port, size).to_bytes(size, "little")

    def _mmio_access(self, vcpu: Vcpu) -> None:
        address, data, size, is_write = vcpu.mmio_exit()
        if is_write:
            self._mmio.write(address, size, int.from_bytes(data[:size], "little"))
        else:
            vcpu.answer_mmio(self._mmio.read(address, size).to_bytes(size, "little"))

    def _special(self, vcpu: Vcpu, reason: int) -> None:
        if reason == k.EXIT_SHUTDOWN:
            from vmm.kvm.diagnose import triple_fault

            self.end(TRIPLE_FAULT, triple_fault(vcpu, self._memory))
        elif reason == k.EXIT_SYSTEM_EVENT and vcpu.kvm_run.system_event.type in _SYSTEM_EVENTS:
            self.end(_SYSTEM_EVENTS[vcpu.kvm_run.system_event.type], "KVM system event")
        else:
            from vmm.errors import HostError
            from vmm.kvm import diagnose

            if reason < 0:
                import os

                raise HostError(f"KVM_RUN: {os.strerror(-reason)}", code="kvm-run", errno=-reason)
            if reason == k.EXIT_INTERNAL_ERROR:
                raise diagnose.internal_error(vcpu, self._memory)
            if reason == k.EXIT_FAIL_ENTRY:
                raise diagnose.fail_entry(vcpu, self._memory)
            raise diagnose.unexpected_exit(vcpu, self._memory, reason)
