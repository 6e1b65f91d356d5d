"""Gives a vCPU the register state that a kernel's entry point expects."""

from __future__ import annotations

from vmm.kvm.structs import SEGMENTS, kvm_regs, kvm_segment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from vmm.kvm.vcpu import Vcpu

    class BootState(Protocol):
        """Registers by their names as attributes; a segment has the fields of ``struct kvm_segment``; *gdt* and *idt*
        are ``(base, limit)``."""

        @property
        def gdt(self) -> tuple[int, int]: ...
        @property
        def idt(self) -> tuple[int, int]: ...
        def __getattribute__(self, name: str, /) -> Any: ...


IA32_MISC_ENABLE = 0x1A0
IA32_MISC_ENABLE_FAST_STRING = 1
IA32_MTRR_DEF_TYPE = 0x2FF
MTRR_ENABLED_WRITE_BACK = 1 << 11 | 6

_GENERAL = ("rip", "rsp", "rbx", "rsi", "rflags")
_CONTROL = ("cr0", "cr3", "cr4", "efer")
_SEGMENT_FIELDS = tuple(field[0] for field in kvm_segment._fields_ if field[0] != "padding")


def set_boot_state(vcpu: Vcpu, state: BootState) -> None:
    """Put *vcpu*, fresh from KVM_CREATE_VCPU, into the boot CPU's state at a kernel's entry."""
    regs = kvm_regs()
    for name in _GENERAL:
        setattr(regs, name, getattr(state, name))
    vcpu.set_regs(regs)
    sregs = vcpu.get_sregs()
    for name in SEGMENTS:
        target, source = getattr(sregs, name), getattr(state, name)
        for field in _SEGMENT_FIELDS:
            setattr(target, field, getattr(source, field))
    for name in _CONTROL:
        setattr(sregs, name, getattr(state, name))
    sregs.gdt.base, sregs.gdt.limit = state.gdt
    sregs.idt.base, sregs.idt.limit = state.idt
    vcpu.set_sregs(sregs)


def set_reset_msrs(vcpu: Vcpu) -> None:
    """The MSRs that firmware would have set on every CPU: memory is write-back, or Linux would run uncached."""
    vcpu.set_msrs({IA32_MISC_ENABLE: IA32_MISC_ENABLE_FAST_STRING, IA32_MTRR_DEF_TYPE: MTRR_ENABLED_WRITE_BACK})
