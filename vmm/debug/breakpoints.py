"""Breakpoints and watchpoints: which exist, and how KVM is configured for them.

A hardware breakpoint or watchpoint takes one of the four debug registers of every vCPU. A software breakpoint uses one
too while any is free: it then changes no byte of the guest, and works where KVM does not see INT3s (a hypervisor below
may not report them). Otherwise it is an INT3 in guest RAM, stored by physical address, so that it is one for the page
tables of any vCPU.
"""

from __future__ import annotations

from vmm.kvm.structs_debug import kvm_guest_debug

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm.kvm import Vcpu
    from vmm.memory import GuestMemory

ENABLE, SINGLE_STEP = 1, 2
USE_SW_BREAKPOINTS, USE_HW_BREAKPOINTS = 1 << 16, 1 << 17
INJECT_BREAKPOINT, BLOCK_INTERRUPTS = 1 << 19, 1 << 20
"""``KVM_GUESTDBG_*`` of <linux/kvm.h> and <asm/kvm.h>."""
INT3 = 0xCC
REGISTERS = 4
EXECUTE, WRITE, ACCESS = 0, 1, 3
"""What a debug register watches: the R/W field of DR7 (Intel SDM 3B, 18.2.4)."""
_LENGTHS = {1: 0, 2: 1, 4: 3, 8: 2}
_DR7_FIXED = 1 << 10 | 1 << 9  # GE, and a bit that is always set


class Breakpoints:
    """All of a machine.  The vCPUs are held while they change."""

    def __init__(self, memory: GuestMemory) -> None:
        self._memory = memory
        self._software: dict[int, tuple[int, int]] = {}  # physical address -> the byte that was there, how often set
        self._hardware: list[tuple[int, int, int]] = []  # kind, address, length
        self._borrowed: dict[int, int] = {}  # software breakpoints in debug registers: address -> physical address

    def add_software(self, address: int, gpa: int) -> None:
        """Stop at virtual *address*, which is physical *gpa*.

        :raises GuestError: that is no RAM
        """
        self._memory.offset(gpa, 1)
        if address in self._borrowed:
            return
        if (EXECUTE, address, 1) not in self._hardware and len(self._hardware) < REGISTERS:
            self._hardware.append((EXECUTE, address, 1))
            self._borrowed[address] = gpa
        else:
            self._patch(gpa)

    def _patch(self, gpa: int) -> None:
        byte, count = self._software.get(gpa, (-1, 0))
        if not count:
            byte = self._memory.read_int(gpa, 1)
            self._memory.write_int(gpa, 1, INT3)
        self._software[gpa] = byte, count + 1

    def remove_software(self, address: int, gpa: int | None) -> bool:
        """Remove it; False if there is none."""
        if self._borrowed.pop(address, None) is not None:
            self._hardware.remove((EXECUTE, address, 1))
            return True
        if gpa is None:
            return False
        byte, count = self._software.get(gpa, (0, 0))
        if not count:
            return False
        if count > 1:
            self._software[gpa] = byte, count - 1
            return True
        del self._software[gpa]
        if self._memory.read_int(gpa, 1) == INT3:  # unless the guest has put something else there
            self._memory.write_int(gpa, 1, byte)
        return True

    def is_software(self, gpa: int | None) -> bool:
        """Whether the stub has a breakpoint there."""
        return gpa in self._software

    def hide(self, gpa: int, data: bytes) -> bytes:
        """*data*, read at *gpa*, as the guest would see it."""
        if not any(gpa <= at < gpa + len(data) for at in self._software):
            return data
        clean = bytearray(data)
        for at, (byte, _) in self._software.items():
            if gpa <= at < gpa + len(data) and clean[at - gpa] == INT3:
                clean[at - gpa] = byte
        return bytes(clean)

    def keep(self, gpa: int, data: bytes) -> bytes:
        """What to write at *gpa* so that the guest has *data* there and breakpoints remain."""
        if not any(gpa <= at < gpa + len(data) for at in self._software):
            return data
        patched = bytearray(data)
        for at, (_, count) in self._software.items():
            if gpa <= at < gpa + len(data):
                self._software[at] = data[at - gpa], count
                patched[at - gpa] = INT3
        return bytes(patched)

    def add_hardware(self, kind: int, address: int, length: int) -> bool:
        """Watch *length* bytes (1, 2, 4 or 8, aligned) at virtual *address*; False if that is impossible."""
        wanted = (kind, address, length)
        if length not in _LENGTHS or address % length or not 0 <= address < 1 << 64:
            return False
        if wanted in self._hardware and address not in self._borrowed:
            return True
        if len(self._hardware) == REGISTERS and self._borrowed:
            borrowed, gpa = self._borrowed.popitem()
            self._hardware.remove((EXECUTE, borrowed, 1))
            self._patch(gpa)
        if len(self._hardware) == REGISTERS:
            return False
        self._hardware.append(wanted)
        return True

    def remove_hardware(self, kind: int, address: int, length: int) -> bool:
        """False when there is none."""
        try:
            self._hardware.remove((kind, address, length))
        except ValueError:
            return False
        return True

    def hit(self, dr6: int) -> tuple[int, int] | None:
        """Kind and address of the breakpoint that the low bits of DR6 name; :data:`INT3` is that of a software
        breakpoint."""
        for index, (kind, address, _) in enumerate(self._hardware):
            if dr6 >> index & 1:
                return (INT3 if kind == EXECUTE and address in self._borrowed else kind), address
        return None

    def clear(self) -> None:
        """Take all of them away."""
        for gpa, (byte, _) in self._software.items():
            if self._memory.read_int(gpa, 1) == INT3:
                self._memory.write_int(gpa, 1, byte)
        self._software.clear()
        self._hardware.clear()
        self._borrowed.clear()

    def forget(self) -> None:
        """RAM is new, without our INT3s."""
        self._software.clear()

    def apply(self, vcpu: Vcpu, *, step: bool = False, flags: int = 0) -> None:
        """Configure where KVM stops *vcpu*; with *step* after one instruction.

        :param flags: more ``KVM_GUESTDBG_*``
        """
        state = kvm_guest_debug(control=ENABLE | USE_SW_BREAKPOINTS | flags)
        if step:
            state.control |= SINGLE_STEP
        if self._hardware:
            state.control |= USE_HW_BREAKPOINTS
            dr7 = _DR7_FIXED
            for index, (kind, address, length) in enumerate(self._hardware):
                state.debugreg[index] = address
                dr7 |= 2 << 2 * index | (kind | _LENGTHS[length] << 2) << 16 + 4 * index
            state.debugreg[7] = dr7
        vcpu.set_guest_debug(state)
