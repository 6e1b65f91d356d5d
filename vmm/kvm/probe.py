"""Checks whether this KVM runs a guest on the CPU or emulates it, with a guest of five instructions; and finds the
processor that its guests can have."""

from __future__ import annotations

import time

from vmm.errors import HostError, VmmError
from vmm.faststart.record import dataclass
from vmm.kvm import ioctl as k
from vmm.kvm.structs import kvm_regs
from vmm.kvm.system import System
from vmm.memory import GuestMemory
from vmm.native import lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm.kvm.vcpu import Vcpu
    from vmm.options.cpu import CpuConfig

NATIVE, EMULATED, BROKEN = "native", "emulated", "broken"

_ROUNDS = 1000
_INSTRUCTIONS = 2 * _ROUNDS
_PML4, _PDPT, _PD, _CODE = 0x1000, 0x2000, 0x3000, 0x4000
_MEMORY = 0x5000
_PORT = 0xF0
_PRESENT, _WRITABLE, _LARGE = 1, 2, 0x80
_REPEAT = 5
_SLOWEST_NATIVE_NS = 100.0
"""Per instruction; the slowest CPU that is one (itself emulated by QEMU) needs 15 with the exit, an emulator 1000."""
_WATCHDOG_SECONDS = 10.0
"""The loop takes milliseconds even where it is emulated; a host with much to do may not run it for seconds."""


@dataclass(frozen=True)
class Probe:
    """What came of it.

    :ivar result: ``native``; ``emulated``: KVM interprets the guest's instructions, too slowly to boot a kernel;
        ``broken``: the guest did not do what it should
    :ivar detail: as text
    :ivar emulated: how many instructions KVM emulated, of *instructions*; -1 where the kernel does not count them
    :ivar instructions: how many the guest executed
    :ivar nanoseconds: per instruction, the best of several runs, exit included
    """

    result: str
    detail: str = ""
    emulated: int = -1
    instructions: int = 0
    nanoseconds: float = 0.0


def probe(system: System) -> Probe:
    """Run a short loop in 64-bit mode with paging, which each KVM for this CPU must run on the CPU.

    Real mode would prove nothing: KVM emulates it on Intel CPUs without "unrestricted guest", which are fine.

    Takes some milliseconds.  KVM's own count of emulated instructions decides, or the time taken where KVM has no such
    count.

    :raises HostError: KVM refuses to make a VM, with the errno of the call
    """
    memory = GuestMemory(_MEMORY)
    bus = lib.bus_new()
    try:
        memory.write_int(_PML4, 8, _PDPT | _PRESENT | _WRITABLE)
        memory.write_int(_PDPT, 8, _PD | _PRESENT | _WRITABLE)
        memory.write_int(_PD, 8, _PRESENT | _WRITABLE | _LARGE)
        # again: mov ecx, rounds; down: dec ecx; jnz down; out port, al; jmp again
        memory.write(_CODE, b"\xb9%b\xff\xc9\x75\xfc\xe6%c\xeb\xf3" % (_ROUNDS.to_bytes(4, "little"), _PORT))
        lib.bus_add_python(bus, lib.BUS_PIO, _PORT, 1)
        with system.create_vm() as vm:
            vm.set_tss_addr(0xFEFF_D000)
            vm.set_memory(0, 0, memory.size, memory.host_address)
            vcpu = vm.create_vcpu(0)
            try:
                vcpu.bind(bus)
                vcpu.set_cpuid(system.supported_cpuid())
                _enter_long_mode(vcpu)
                return _judge(vcpu)
            finally:
                vcpu.close()
    finally:
        lib.bus_free(bus)
        memory.close()


def _enter_long_mode(vcpu: Vcpu) -> None:
    sregs = vcpu.get_sregs()
    for name in ("cs", "ds", "es", "fs", "gs", "ss"):
        segment, code = getattr(sregs, name), name == "cs"
        segment.base, segment.limit, segment.selector = 0, 0xFFFF_FFFF, 8 if code else 16
        segment.type, segment.present, segment.s, segment.g = 11 if code else 3, 1, 1, 1
        segment.l, segment.db = int(code), int(not code)
    sregs.tr.type, sregs.tr.present, sregs.tr.s, sregs.tr.limit = 11, 1, 0, 0x67
    sregs.cr0 = 1 << 31 | 1 << 5 | 1 << 4 | 1  # PG, NE, ET, PE
    sregs.cr3 = _PML4
    sregs.cr4 = 1 << 5  # PAE
    sregs.efer = 1 << 10 | 1 << 8  # LMA, LME
    vcpu.set_sregs(sregs)
    vcpu.set_regs(kvm_regs(rip=_CODE, rflags=2))


def _judge(vcpu: Vcpu) -> Probe:
    from threading import Timer

    watchdog = Timer(_WATCHDOG_SECONDS, vcpu.kick)
    watchdog.daemon = True
    watchdog.start()
    try:
        before = vcpu.stats().get("insn_emulation", -1)
        best = _timed_run(vcpu)
        after = vcpu.stats().get("insn_emulation", -1)
        if before < 0 or after < 0:
            for _ in range(_REPEAT - 1):
                best = min(best, _timed_run(vcpu))
    except VmmError as error:
        return Probe(BROKEN, str(error))
    finally:
        watchdog.cancel()
        watchdog.join()
    emulated = -1 if before < 0 or after < 0 else after - before
    slow = best > _SLOWEST_NATIVE_NS if emulated < 0 else emulated >= _ROUNDS
    if slow:
        detail = f"KVM emulates instruction by instruction, {best:.0f} ns each"
    else:
        detail = f"a loop of {_INSTRUCTIONS} instructions ran on the CPU"
    return Probe(EMULATED if slow else NATIVE, detail, emulated, _INSTRUCTIONS, best)


def _timed_run(vcpu: Vcpu) -> float:
    """Nanoseconds per instruction of one run.

    :raises HostError: it did not come to its end
    """
    start = time.perf_counter_ns()
    reason = vcpu.run()
    elapsed = time.perf_counter_ns() - start
    if reason == -4:  # EINTR
        raise HostError(f"a loop of {_INSTRUCTIONS} instructions did not end within {_WATCHDOG_SECONDS:g} s")
    if reason < 0:
        import os

        raise HostError(f"KVM_RUN: {os.strerror(-reason)}", errno=-reason)
    if reason != k.EXIT_IO or vcpu.kvm_run.io.port != _PORT:
        raise HostError(f"a five-instruction guest ended with exit {k.EXIT_NAMES.get(reason, reason)}")
    return elapsed / _INSTRUCTIONS


def host_cpu() -> CpuConfig:
    """The processor that this host's KVM offers to guests, without what is masked, as a template.

    :raises HostError: no usable KVM
    """
    from vmm.kvm.cpuid import ARCH_CAPABILITIES, mask, template_of

    with System() as system:
        cpuid, vm = system.supported_cpuid(), system.create_vm()
    mask(cpuid)
    try:
        vcpu = vm.create_vcpu(0)
        try:
            vcpu.set_cpuid(cpuid)
            msr = vcpu.get_msrs([ARCH_CAPABILITIES]).get(ARCH_CAPABILITIES, -1)
        finally:
            vcpu.close()
    finally:
        vm.close()
    return template_of(cpuid, msr)
