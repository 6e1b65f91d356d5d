"""The threads that run vCPUs."""

from __future__ import annotations

import posix

from vmm.errors import ConfigError
from vmm.faststart.thread import Thread, ThreadAhead, allocate_lock, get_ident
from vmm.kvm import ioctl as k
from vmm.lifecycle import ERROR, PANIC, POWEROFF, REBOOT, TRIPLE_FAULT
from vmm.saveable import Saveable, Schema, State, mismatch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from vmm.board.vcpu_gate import Hold
    from vmm.bus import Bus
    from vmm.kvm import Vcpu
    from vmm.lifecycle import Life
    from vmm.memory import GuestMemory

_EINTR = -4
_IO_OUT = 1
_SPARE = "spare"
"""Why a vCPU is held that the machine has no more."""
_SETTLE_S, _LOOK_S = 2.0, 0.01
"""How long a CPU may take to halt after its guest has called it offline, and how often it is looked at."""
_STOLEN_NS = 10_000_000
"""The shortest time of a held vCPU that counts as stolen. A fork pauses for less, and delays no task by more."""
_SCHEMA = Schema("vcpus", 1, {"count": "u8"})

_SYSTEM_EVENTS = {1: POWEROFF, 2: REBOOT, 3: PANIC}


class VcpuThreads(Saveable):
    """One thread for each vCPU that runs. The first cause to end the run wins and is reported to *life*, on whatever
    thread it arose; after that no vCPU enters the guest again.

    :param count: how many vCPUs run, the first ones: what the guest sends to the others has no effect
    :param ahead: existing threads for the first ones that are started
    :ivar count: how many vCPUs run, see :meth:`resize`
    """

    name = "vcpus"
    saving = _SCHEMA

    def __init__(
        self,
        vcpus: list[Vcpu],
        pio: Bus,
        mmio: Bus,
        memory: GuestMemory,
        life: Life,
        count: int = 0,
        ahead: Iterable[ThreadAhead] = (),
    ) -> None:
        self._vcpus = vcpus
        self._ahead = list(ahead)
        self.count = count or len(vcpus)
        self._pio = pio
        self._mmio = mmio
        self._memory = memory
        self._life = life
        self._ended = False
        self._threads: list[Thread] = []
        self._gone = self._spare()
        self._hold: Hold | None = None
        self._begins = allocate_lock()
        """Held from :meth:`start` on, until the first vCPU is about to enter the guest."""
        self.confine: Callable[[], None] | None = None
        """Called first on each thread: it gives up what it does not need."""
        self.on_debug: Callable[[Vcpu], None] | None = None
        """Called on a vCPU's thread after a KVM_EXIT_DEBUG; its setter has asked KVM for such exits."""

    def start(self) -> None:
        """Start the threads; returns when the first one is about to run the guest's instructions, so that the caller's
        next steps, perhaps on the same CPU, do not delay these."""
        self._begins.acquire()
        for vcpu in self._vcpus[: self.count]:
            self._start(vcpu)
        with self._begins:
            pass
        posix.sched_yield()  # it has released the GIL, and may not be in the guest yet

    def _start(self, vcpu: Vcpu) -> None:
        work = self._runner(vcpu)
        if self._ahead:
            made = self._ahead.pop(0)
            self._threads.append(made)
            vcpu.busy = True
            made.begin(work)
            return
        thread = Thread(work, f"vcpu{vcpu.index}")
        self._threads.append(thread)
        vcpu.busy = True
        try:
            thread.start()
        except RuntimeError:
            self._threads.remove(thread)
            vcpu.busy = False
            raise

    def _spare(self) -> set[int]:
        return set(range(self.count, len(self._vcpus)))

    def end(self, kind: str, detail: str = "", error: BaseException | None = None) -> bool:
        """End the run; False if it had ended already. From any thread, a vCPU's own included."""
        end = self._life.finish(kind, detail, error)
        if end is None:
            return False
        self._out()
        self._life.tell_end(end)
        return True

    def _out(self) -> None:
        self._ended = True
        if self._hold is not None:
            self._hold.end()
        for vcpu in self._vcpus:
            vcpu.kick()
        for vcpu, thread in zip(self._vcpus, self._threads, strict=False):
            vcpu.leaving = thread.join

    def halt(self) -> None:
        """Stop all threads outside the guest for ever, without ending the run, and wait for them."""
        self._out()
        self.join()

    def begin_again(self) -> None:
        """After :meth:`halt`: return to the initial state, for the present vCPUs. An :meth:`end` since then takes
        effect."""
        self._gone, self._hold = self._spare(), None
        self._ended = False
        if self._life.is_over:
            self._ended = True

    def join(self) -> None:
        """Wait until no thread is inside the guest.  Call :meth:`end` first."""
        for thread in self._threads:
            thread.join()
        self._threads = []

    def is_own_thread(self) -> bool:
        """Whether the caller is one of the vCPUs' threads."""
        return any(thread.ident == get_ident() for thread in self._threads)

    def describe_reset(self) -> str:
        """On the thread of a vCPU that has requested a reset: a step of an orderly reboot that it has skipped, as text;
        empty: none.

        A kernel that reboots in order disables its local APIC first (Linux, ``native_machine_shutdown()``); one that
        panics, without a driver for pvpanic, does not.
        """
        own = next((index for index, thread in enumerate(self._threads) if thread.ident == get_ident()), -1)
        if own < 0 or not self._vcpus[own].has_lapic_enabled():
            return ""
        return "its kernel had not shut down: a panic, or an emergency reboot (sysrq)"

    # -- vCPUs that come and go, by one caller at a time, while the guest runs ----------------------------------------

    def resize(self, count: int) -> None:
        """Run the first *count* vCPUs, and no others. New ones wait until the guest starts them.

        :raises ConfigError: the guest uses a vCPU that is to be removed
        """
        for vcpu in self._vcpus[self.count : count]:
            vcpu.await_startup()
            if vcpu.index < len(self._threads):
                self.release(_SPARE, (vcpu.index,))
            else:
                self._gone.discard(vcpu.index)
                if self._hold is not None:
                    self._hold.enter(vcpu.index)
                self._start(vcpu)
                if self._ended:
                    vcpu.leaving = self._threads[-1].join
            self.count = vcpu.index + 1
        if count < self.count:
            self._spare_from(count)

    def _spare_from(self, count: int) -> None:
        indexes = range(count, self.count)
        pause = allocate_lock()
        pause.acquire()
        for _ in range(int(_SETTLE_S / _LOOK_S)):
            self.hold(_SPARE, indexes)
            used = [index for index in indexes if not self._vcpus[index].is_offline()]
            if not used:
                self.count = count
                return
            self.release(_SPARE, indexes)
            pause.acquire(timeout=_LOOK_S)
        raise ConfigError(
            f"the guest uses vCPU {used[0]}: it cannot be removed",
            code="cpu-in-use",
            hint=f"take it offline in the guest first: echo 0 >/sys/devices/system/cpu/cpu{used[0]}/online",
        )

    def save(self) -> State:
        """How many run."""
        return _SCHEMA.make(count=self.count)

    def restore(self, state: State) -> None:
        """Before the start."""
        count = _SCHEMA.read(state, self.name)["count"]
        if not 1 <= count <= len(self._vcpus):
            raise mismatch(self.name, f"{count} of {len(self._vcpus)} run")
        self.count = count
        self._gone = self._spare()

    # -- holding: each of these by one caller at a time for one reason ----------------------------------------------

    def hold(self, reason: str, indexes: Iterable[int] | None = None, *, wait: bool = True) -> None:
        """Hold vCPUs (all by default) outside the guest, whatever they were doing; an exit in progress is completed
        first. Returns when they are out, or the run has ended; without *wait* at once."""
        wanted = range(len(self._vcpus)) if indexes is None else list(indexes)
        hold = self._hold
        if hold is None:
            from vmm.board.vcpu_gate import Hold

            hold = self._hold = Hold()
            if self._ended:
                hold.end()
            for index in set(self._gone):
                hold.leave(index)
        hold.add(reason, wanted)
        for index in wanted:
            self._vcpus[index].kick()
        if wait:
            hold.wait(wanted)

    def release(self, reason: str, indexes: Iterable[int] | None = None) -> None:
        """Release the vCPUs held for *reason*; those without another reason run."""
        if self._hold is not None:
            everyone = range(len(self._vcpus)) if indexes is None else indexes
            self._hold.drop(reason, everyone, self._let_go)

    def release_first(self, reason: str) -> None:
        """As :meth:`release`, of vCPUs that were held before they ran: no time counts as stolen from them."""
        if self._hold is not None:
            self._hold.drop(reason, range(len(self._vcpus)), lambda index: self._vcpus[index].resume())

    def _let_go(self, index: int) -> None:
        self._count_held(index)
        self._vcpus[index].resume()

    def count_held(self) -> None:
        """Count the time for which vCPUs have been held as stolen, as :meth:`release` does: they will be saved next."""
        for index in range(len(self._vcpus)):
            self._count_held(index)

    def _count_held(self, index: int) -> None:
        stolen = 0 if self._hold is None else self._hold.waited(index, _STOLEN_NS)
        if stolen:
            self._vcpus[index].count_stolen(self._memory, stolen)

    def hold_self(self, vcpu: Vcpu, reason: str) -> None:
        """On *vcpu*'s own thread, between two runs: it is held when this returns, and will wait."""
        assert self._hold is not None
        self._hold.add(reason, (vcpu.index,))
        vcpu.kick()

    # -- a vCPU's thread ---------------------------------------------------------------------------------------------

    def _runner(self, vcpu: Vcpu) -> Callable[[], None]:
        return lambda: self._main(vcpu)

    def _main(self, vcpu: Vcpu) -> None:
        try:
            try:
                if self.confine is not None:
                    self.confine()
            finally:
                if vcpu is self._vcpus[0]:
                    self._begins.release()
            while not self._ended:
                reason = vcpu.run()
                if reason == k.EXIT_IO:
                    self._io(vcpu)
                elif reason == k.EXIT_MMIO:
                    self._mmio_access(vcpu)
                elif reason != _EINTR:
                    self._special(vcpu, reason)
                elif self._hold is not None:
                    # Here and nowhere else: KVM_RUN that was interrupted has completed the exit before it
                    vcpu.busy = False
                    self._hold.stay(vcpu.index)
                    vcpu.busy = not self._ended
        except BaseException as error:  # a bug or a broken host: the run ends with the traceback in hand
            self.end(ERROR, f"vCPU {vcpu.index}: {type(error).__name__}: {error}", error)
        finally:
            vcpu.busy = False
            self._gone.add(vcpu.index)
            if self._hold is not None:
                self._hold.leave(vcpu.index)

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
        elif reason == k.EXIT_DEBUG and self.on_debug is not None:
            self.on_debug(vcpu)
        else:
            from vmm.errors import HostError
            from vmm.kvm import diagnose

            if reason < 0:
                raise HostError(f"KVM_RUN: {posix.strerror(-reason)}", code="kvm-run", errno=-reason)
            if reason == k.EXIT_INTERNAL_ERROR:
                raise diagnose.internal_error(vcpu, self._memory)
            if reason == k.EXIT_FAIL_ENTRY:
                raise diagnose.fail_entry(vcpu, self._memory)
            raise diagnose.unexpected_exit(vcpu, self._memory, reason)
