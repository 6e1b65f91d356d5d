"""Describes what a guest was doing when KVM could not continue."""

from __future__ import annotations

from vmm.errors import GuestError, VmmError
from vmm.kvm import ioctl as k
from vmm.kvm import structs as s
from vmm.kvm.structs_run import INTERNAL_ERROR_EMULATION, INTERNAL_ERROR_FLAG_INSTRUCTION_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm.kvm.vcpu import Vcpu
    from vmm.memory import GuestMemory

_SUBERRORS = {
    1: "KVM could not emulate an instruction",
    2: "an exception came up while KVM delivered another event",
    3: "an event could not be delivered",
    4: "the CPU left the guest for a reason that KVM does not expect",
}

_RESET_RIP = 0xFFF0


def _code_bytes(vcpu: Vcpu, memory: GuestMemory, address: int) -> str:
    try:
        physical = vcpu.translate(address)
        return memory.read(physical, 15).hex(" ") if physical is not None else "not mapped"
    except VmmError:
        return "not readable"


def _mode(sregs: s.kvm_sregs) -> str:
    if not sregs.cr0 & 1:
        return "real mode"
    return "64-bit mode" if sregs.efer & 0x400 and sregs.cs.l else "protected mode"


def describe(vcpu: Vcpu, memory: GuestMemory) -> str:
    """The vCPU's position, as text: mode, RIP, the bytes there, control registers. Never raises."""
    try:
        regs, sregs = vcpu.get_regs(), vcpu.get_sregs()
    except VmmError as error:
        return f"vCPU {vcpu.index} (registers not readable: {error})"
    linear = regs.rip + (sregs.cs.base if not sregs.cs.l else 0)
    return (
        f"vCPU {vcpu.index} in {_mode(sregs)} at rip {regs.rip:#x} (bytes: {_code_bytes(vcpu, memory, linear)}), "
        f"rsp {regs.rsp:#x}, rflags {regs.rflags:#x}, cr0 {sregs.cr0:#x}, cr3 {sregs.cr3:#x}, cr4 {sregs.cr4:#x}, "
        f"efer {sregs.efer:#x}"
    )


def triple_fault(vcpu: Vcpu, memory: GuestMemory) -> str:
    """Where the vCPU shut down, as text, as far as that is known.  Never raises."""
    try:
        reset = vcpu.get_regs().rip == _RESET_RIP and not vcpu.get_sregs().cr0 & 1
    except VmmError:
        reset = False
    if reset:
        # Linux, shutdown_interception() in arch/x86/kvm/svm/svm.c: the state is undefined, so KVM resets the vCPU
        return f"vCPU {vcpu.index}, it is not known where: AMD CPUs lose the state of a CPU that shuts down"
    return describe(vcpu, memory)


def internal_error(vcpu: Vcpu, memory: GuestMemory) -> GuestError:
    """The error for KVM_EXIT_INTERNAL_ERROR."""
    failure = vcpu.kvm_run.emulation_failure
    what = _SUBERRORS.get(failure.suberror, f"KVM internal error {failure.suberror}")
    if (
        failure.suberror == INTERNAL_ERROR_EMULATION
        and failure.ndata >= 4
        and failure.flags & INTERNAL_ERROR_FLAG_INSTRUCTION_BYTES
    ):
        what += f" ({bytes(failure.insn_bytes[: min(failure.insn_size, 15)]).hex(' ')})"
    return GuestError(
        f"{what}: {describe(vcpu, memory)}",
        code="kvm-internal-error",
        hint="the guest jumped into data, used an instruction on device memory, or this host's KVM only emulates: "
        "run: pyvmm doctor",
    )


def fail_entry(vcpu: Vcpu, memory: GuestMemory) -> GuestError:
    """The error for KVM_EXIT_FAIL_ENTRY."""
    failure = vcpu.kvm_run.fail_entry
    return GuestError(
        f"the CPU refused to enter the guest (hardware reason {failure.hardware_entry_failure_reason:#x} on host CPU "
        f"{failure.cpu}): {describe(vcpu, memory)}",
        code="kvm-fail-entry",
        hint="the guest's register state is not valid for this CPU; on Intel a guest in real mode needs "
        "unrestricted_guest",
    )


def unexpected_exit(vcpu: Vcpu, memory: GuestMemory, reason: int) -> GuestError:
    """The error for an exit that no part of the VMM handles."""
    name = k.EXIT_NAMES.get(reason, str(reason))
    return GuestError(f"unexpected KVM exit {name}: {describe(vcpu, memory)}", code="kvm-unexpected-exit")
