"""A debugger's actions on a machine: hold and release vCPUs, read and write memory, set breakpoints, find why a vCPU
stopped."""

from __future__ import annotations

from queue import SimpleQueue

from vmm.debug import breakpoints as bp
from vmm.errors import GuestError, HostError
from vmm.kvm.structs_debug import kvm_guest_debug
from vmm.lifecycle import CLOSED, ENDED, MADE, POWEROFF, STOPPED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from vmm.kvm import Vcpu
    from vmm.machine.machine import Machine
    from vmm.memory import GuestMemory

_REASON = "debugger"
_DEBUG_EXCEPTION, _BREAKPOINT_EXCEPTION = 1, 3
_PAGE = 4096
_UPPER_HALF = 1 << 63
_KINDS = {bp.EXECUTE: "hwbreak", bp.WRITE: "watch", bp.ACCESS: "awatch", bp.INT3: "swbreak"}


class Stop:
    """Why the guest stopped.

    :ivar vcpu: index of the vCPU that stopped
    :ivar kind: ``int3``, ``swbreak``, ``hwbreak``, ``watch``, ``awatch``, ``step``, ``interrupt``
    :ivar address: of the breakpoint or watchpoint
    """

    def __init__(self, vcpu: int, kind: str, address: int = 0) -> None:
        self.vcpu = vcpu
        self.kind = kind
        self.address = address


class Target:
    """A machine under a debugger. All calls are made on the debugger's thread.

    :param wake: called, on a vCPU's thread, when :meth:`next_stop` has a stop
    """

    def __init__(self, machine: Machine, wake: Callable[[], None]) -> None:
        self._machine = machine
        self._threads = machine.execution
        self._wake = wake
        self._stops: SimpleQueue[Stop] = SimpleQueue()
        self._breakpoints = bp.Breakpoints(machine.memory)
        self._foreign: set[int] = set()
        self._block_interrupts = True
        self._stepping, self._only = -1, False
        self.attached = False
        """The guest is under a debugger."""
        self.held = False
        """No vCPU runs, on the debugger's account."""

    @property
    def vcpus(self) -> list[Vcpu]:
        """In the order of their indexes."""
        return self._machine.vcpus

    @property
    def ended(self) -> bool:
        """The run is over."""
        return self._machine.state in (ENDED, CLOSED)

    @property
    def ended_well(self) -> bool:
        """The guest powered off, or was stopped on purpose."""
        end = self._machine.end
        return end is None or end.kind in (POWEROFF, STOPPED)

    # -- running -----------------------------------------------------------------------------------------------------

    def attach(self) -> None:
        """Stop the guest, even before its start; no effect if this debugger has stopped it already."""
        if self.attached:
            return
        self.attached = True
        self._threads.on_debug = self._on_debug
        self.hold()

    def hold(self) -> None:
        """Stop every vCPU, outside the guest."""
        self._threads.hold(_REASON, wait=self._machine.state != MADE)
        self.held = True

    def go(self, step: int = -1, only: bool = False) -> None:
        """Resume the guest.

        :param step: index of a vCPU that is to execute one instruction
        :param only: the others stay where they are
        """
        self._stepping, self._only = step, only
        for vcpu in self.vcpus:
            foreign = bp.INJECT_BREAKPOINT if vcpu.index in self._foreign else 0
            self._apply(vcpu, step=vcpu.index == step, flags=foreign)
        self._foreign.clear()
        self.held = False
        self._threads.release(_REASON, (step,) if only and step >= 0 else None)

    def _apply(self, vcpu: Vcpu, *, step: bool, flags: int) -> None:
        # While stepping, a timer that is due would lead into its handler, for ever. KVM knows since Linux 5.16
        block = bp.BLOCK_INTERRUPTS if step and self._block_interrupts else 0
        try:
            self._breakpoints.apply(vcpu, step=step, flags=flags | block)
        except HostError:
            if not block:
                raise
            self._block_interrupts = False
            self._breakpoints.apply(vcpu, step=step, flags=flags)

    def detach(self) -> None:
        """Remove everything and resume the guest."""
        if not self.attached:
            return
        self.attached = False
        if not self.ended:
            if not self.held:
                self.hold()
            if not self.ended:
                self._breakpoints.clear()
                for vcpu in self.vcpus:
                    vcpu.set_guest_debug(kvm_guest_debug())
        self._threads.on_debug = None
        self.held = False
        self._threads.release(_REASON)

    def after_reset(self) -> None:
        """The machine was reset: it has new vCPUs and empty RAM."""
        self._breakpoints.forget()
        self._foreign.clear()
        held = self.held
        self._threads.on_debug = self._on_debug
        self.hold()
        if not held:
            self.go()

    def _on_debug(self, vcpu: Vcpu) -> None:
        self._threads.hold_self(vcpu, _REASON)
        info = vcpu.kvm_run.debug
        if info.exception == _BREAKPOINT_EXCEPTION:
            stop = Stop(vcpu.index, "int3", int(info.pc))
        else:
            hit = self._breakpoints.hit(info.dr6)
            stop = Stop(vcpu.index, "step") if hit is None else Stop(vcpu.index, _KINDS[hit[0]], hit[1])
        self._stops.put(stop)
        self._wake()

    def next_stop(self) -> Stop | None:
        """A vCPU stopped: hold the others and return why; None if it has nothing to do with the debugger."""
        if self._stops.empty():
            return None
        were_held = self.held
        self.hold()
        found: Stop | None = None
        while not self._stops.empty():
            stop = self._stops.get()
            if stop.kind == "int3" and not self._is_ours(stop):
                self._foreign.add(stop.vcpu)  # the guest's own INT3: the exception is delivered when it continues
                continue
            if stop.kind == "step" and stop.vcpu != self._stepping:
                continue
            # Others that stopped at a breakpoint come to it again when they go on
            found = found or stop
        if found is None and not were_held and not self.ended:
            step = self._stepping
            if step in self._foreign:
                # It has stepped onto its own INT3; with the exception it goes into the handler
                step = -1 if len(self.vcpus) > 1 else step
            self.go(step, self._only)
        return found

    def _is_ours(self, stop: Stop) -> bool:
        return self._breakpoints.is_software(self.vcpus[stop.vcpu].translate(stop.address))

    # -- memory ------------------------------------------------------------------------------------------------------

    def _translate(self, index: int, address: int) -> int | None:
        gpa = self.vcpus[index].translate(address)
        if gpa is None and address & _UPPER_HALF:
            # A kernel with page table isolation is not mapped while its vCPU is in user space; in others it may be
            for vcpu in self.vcpus:
                gpa = vcpu.translate(address)
                if gpa is not None:
                    break
        return gpa

    def _pieces(self, index: int, address: int, length: int) -> list[tuple[int, int, int]]:
        """The range page by page: offset in it, physical address, bytes; up to the first unmapped page."""
        pieces, done = [], 0
        while done < length:
            here = address + done & (1 << 64) - 1
            size = min(length - done, _PAGE - here % _PAGE)
            gpa = self._translate(index, here)
            if gpa is None:
                break
            pieces.append((done, gpa, size))
            done += size
        return pieces

    def read_memory(self, index: int, address: int, length: int) -> bytes:
        """Read virtual *address* as vCPU *index* sees it; shorter if part of it is not RAM."""
        data = b""
        for _, gpa, size in self._pieces(index, address, length):
            try:
                data += self._breakpoints.hide(gpa, self._machine.memory.read(gpa, size))
            except GuestError:
                break
        return data

    @property
    def memory(self) -> GuestMemory:
        """RAM."""
        return self._machine.memory

    def read_physical(self, gpa: int, length: int) -> bytes:
        """RAM without our breakpoints.

        :raises GuestError: it is no RAM
        """
        return self._breakpoints.hide(gpa, self.memory.read(gpa, length))

    def write_memory(self, index: int, address: int, data: bytes) -> bool:
        """False if part of it is not RAM; then nothing was written."""
        pieces = self._pieces(index, address, len(data))
        try:
            for _, gpa, size in pieces:
                self._machine.memory.offset(gpa, size)
        except GuestError:
            return False
        if sum(size for _, _, size in pieces) != len(data):
            return False
        for at, gpa, size in pieces:
            self._machine.memory.write(gpa, self._breakpoints.keep(gpa, data[at : at + size]))
        return True

    # -- breakpoints -------------------------------------------------------------------------------------------------

    def set_breakpoint(self, index: int, kind: int, address: int, length: int) -> bool:
        """*kind*: that of the packet ``Z``: 0 software, 1 hardware, 2 written, 4 read or written."""
        if kind == 0:
            gpa = self._translate(index, address)
            if gpa is None:
                return False
            try:
                self._breakpoints.add_software(address, gpa)
            except GuestError:
                return False
            return True
        return self._breakpoints.add_hardware(*_hardware(kind, address, length))

    def clear_breakpoint(self, index: int, kind: int, address: int, length: int) -> bool:
        """The same for ``z``; False if there is none."""
        if kind == 0:
            return self._breakpoints.remove_software(address, self._translate(index, address))
        return self._breakpoints.remove_hardware(*_hardware(kind, address, length))


def _hardware(kind: int, address: int, length: int) -> tuple[int, int, int]:
    if kind == 1:
        return bp.EXECUTE, address, 1
    return (bp.WRITE if kind == 2 else bp.ACCESS), address, length
