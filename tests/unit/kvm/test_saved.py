"""The state of vCPUs and of a VM, taken out and put into another one, on the real /dev/kvm."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

from vmm.errors import ConfigError
from vmm.faststart.ctype import u64
from vmm.kvm import System, Vcpu, Vm, saved
from vmm.kvm import ioctl as k
from vmm.memory import GuestMemory
from vmm.native import lib

pytestmark = pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="no /dev/kvm here")

CODE = 0x1000
COUNT_AND_TELL = b"\x66\x40\x66\xe7\x10\xeb\xfa"
"""again: inc eax; out 0x10, eax; jmp again"""


class Guest:
    """vCPUs in real mode; the first one at CODE of a megabyte of RAM."""

    def __init__(self, cpus: int = 1, code: bytes = COUNT_AND_TELL) -> None:
        self.memory = GuestMemory(1 << 20)
        self.memory.write(CODE, code)
        self.bus = lib.bus_new()
        with System() as system:
            self.vm: Vm = system.create_vm()
            self.msrs = saved.wanted_msrs(system.msr_indexes())
            cpuid = system.supported_cpuid()
        self.vm.set_tss_addr(0xFEFF_D000)
        self.vm.create_irqchip()
        self.vm.set_memory(0, 0, self.memory.size, self.memory.host_address)
        self.vcpus: list[Vcpu] = [self.vm.create_vcpu(index) for index in range(cpus)]
        for vcpu in self.vcpus:
            vcpu.bind(self.bus)
            vcpu.set_cpuid(cpuid)

    def begin(self) -> None:
        vcpu = self.vcpus[0]
        sregs = vcpu.get_sregs()
        sregs.cs.base = sregs.cs.selector = 0
        vcpu.set_sregs(sregs)
        regs = vcpu.get_regs()
        regs.rip, regs.rflags, regs.rax = CODE, 2, 0
        vcpu.set_regs(regs)
        lib.bus_add_python(self.bus, lib.BUS_PIO, 0x10, 4)

    def next_number(self) -> int:
        """Run until the guest tells the next one."""
        vcpu = self.vcpus[0]
        assert vcpu.run() == k.EXIT_IO
        with vcpu.run_bytes(vcpu.kvm_run.io.data_offset, 4) as data:
            return int.from_bytes(data, "little")

    def complete_exit(self) -> None:
        """An exit is completed by the next KVM_RUN: one that enters the guest no more."""
        vcpu = self.vcpus[0]
        vcpu.kick()
        assert vcpu.run() == -4
        vcpu.resume()

    def save(self, *, own: bool = False) -> tuple[list[saved.VcpuState], saved.VmState]:
        size = saved.xsave_size(self.vm)
        vcpus = [saved.save_vcpu(vcpu, self.msrs, size, own=own) for vcpu in self.vcpus]
        return vcpus, saved.save_vm(self.vm, self.vcpus[0])

    def restore(self, vcpus: list[saved.VcpuState], vm: saved.VmState, elapsed: int = 0, *, own: bool = False) -> None:
        clocks = saved.Clocks(vm, self.vcpus[0], vcpus[0].tsc_khz, elapsed)
        for vcpu, state in zip(self.vcpus, vcpus, strict=True):
            saved.restore_vcpu(vcpu, state, clocks.tsc_delta, own=own)
        saved.restore_vm(self.vm, vm, clocks)

    def close(self) -> None:
        for vcpu in self.vcpus:
            vcpu.close()
        self.vm.close()
        lib.bus_free(self.bus)
        self.memory.close()


@pytest.fixture
def made() -> Iterator[list[Guest]]:
    guests: list[Guest] = []
    yield guests
    for guest in guests:
        guest.close()


def make(made: list[Guest], cpus: int = 1) -> Guest:
    guest = Guest(cpus)
    made.append(guest)
    return guest


def test_a_guest_counts_on_in_another_vm(made: list[Guest]) -> None:
    source, target = make(made), make(made)
    source.begin()
    assert [source.next_number() for _ in range(3)] == [1, 2, 3]
    source.complete_exit()
    vcpus, vm = source.save()
    lib.bus_add_python(target.bus, lib.BUS_PIO, 0x10, 4)
    target.restore(vcpus, vm)
    assert [target.next_number() for _ in range(3)] == [4, 5, 6]
    assert source.next_number() == 4  # and the source goes on, too


@pytest.mark.parametrize("own", [False, True])
def test_a_restored_vcpu_says_the_same_of_itself(made: list[Guest], own: bool) -> None:
    source, target = make(made, 3), make(made, 3)
    vcpu = source.vcpus[1]
    vcpu.set_msrs({0xC000_0102: 0x1234_5678, 0x277: 0x0007_0406_0007_0406})  # KERNEL_GS_BASE, PAT
    regs = vcpu.get_regs()
    regs.r15 = 0xFEED
    vcpu.set_regs(regs)
    vcpus, vm = source.save()
    target.restore(source.save(own=True)[0] if own else vcpus, vm, own=own)
    again, vm_again = target.save()
    for before, after in zip(vcpus, again, strict=True):
        for name in ("cpuid", "mp_state", "regs", "sregs", "xsave", "xcrs", "debugregs", "lapic", "events", "tsc_khz"):
            assert getattr(after, name) == getattr(before, name), name
        moving = {saved.IA32_TSC}
        assert {i: v for i, v in after.msrs.items() if i not in moving} == {
            i: v for i, v in before.msrs.items() if i not in moving
        }
        assert after.msrs[saved.IA32_TSC] > before.msrs[saved.IA32_TSC]
    assert vm_again.chips == vm.chips
    assert vm_again.clock > vm.clock


def test_the_tsc_offsets_of_vcpus_keep_their_distance(made: list[Guest]) -> None:
    source, target = make(made, 2), make(made, 2)
    vcpus, vm = source.save()
    if vcpus[0].tsc_offset is None or vcpus[1].tsc_offset is None:
        pytest.skip("this KVM does not tell TSC offsets")
    target.restore(vcpus, vm)
    again, _ = target.save()
    assert again[0].tsc_offset is not None
    assert again[1].tsc_offset is not None
    apart = (vcpus[1].tsc_offset - vcpus[0].tsc_offset) % (1 << 64)
    assert (again[1].tsc_offset - again[0].tsc_offset) % (1 << 64) == apart


@pytest.mark.parametrize("elapsed", [0, 10**12])
def test_the_tsc_and_kvm_clock_go_on_together(made: list[Guest], elapsed: int) -> None:
    source, target = make(made), make(made)
    vcpus, vm = source.save()
    offset = u64(1 << 40)
    k.ioctls([saved._offset_call(target.vcpus[0], k.KVM_SET_DEVICE_ATTR, offset)])
    if saved._tsc_offset(target.vcpus[0]) != 1 << 40:
        pytest.skip("this KVM's guests have the TSC of the host")
    time.sleep(0.2)  # the time between the two is the subject
    target.restore(vcpus, vm, elapsed)
    again, vm_again = target.save()
    assert vm.host_tsc is not None and vm_again.host_tsc is not None and again[0].tsc_offset is not None
    assert vcpus[0].tsc_offset is not None
    tsc = vm_again.host_tsc + again[0].tsc_offset - vm.host_tsc - vcpus[0].tsc_offset
    tsc = (tsc + (1 << 63)) % (1 << 64) - (1 << 63)
    passed, clock = tsc * 1_000_000 // vcpus[0].tsc_khz, vm_again.clock - vm.clock
    assert passed >= elapsed, "it never goes back"
    assert abs(passed - clock) < 50_000_000, "ns that one clock is ahead of the other"


def test_kvm_clock_is_right_where_every_call_is_held_up(made: list[Guest], monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a busy host, between the look at the TSC and the clock that is set by it."""
    source, target = make(made), make(made)
    _, vm = source.save()
    if vm.host_tsc is None:
        pytest.skip("this KVM does not tell TSC offsets")
    delay = 300_000

    class HeldUp:
        def clocks_set(self, vm_fd: int, fd: int, offset: int, since: Any, *rest: Any) -> int:
            since.clock -= delay
            return int(lib.clocks_set(vm_fd, fd, offset, since, *rest))

    monkeypatch.setattr(saved, "lib", HeldUp())
    khz = target.vcpus[0].tsc_khz()
    clocks = saved.Clocks(vm, target.vcpus[0], khz)
    saved.restore_vm(target.vm, vm, clocks)
    monkeypatch.undo()
    again = saved.save_vm(target.vm, target.vcpus[0])
    assert again.host_tsc is not None and clocks.tsc_delta is not None
    passed = again.host_tsc - (vm.host_tsc - clocks.tsc_delta)
    assert abs(vm.clock + passed * 1_000_000 // khz - again.clock) < delay // 2


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cpuid", b""),
        ("cpuid", b"x" * 41),
        ("regs", b"x"),
        ("sregs", b""),
        ("xsave", b"x" * 100),
        ("xsave", b"x" * (1 << 17)),
        ("xcrs", b""),
        ("debugregs", b"x"),
        ("lapic", b"x"),
        ("events", b""),
    ],
)
def test_a_structure_of_another_size_is_refused(made: list[Guest], field: str, value: bytes) -> None:
    source, target = make(made), make(made)
    state = source.save()[0][0]
    wrong = saved.VcpuState(**{**{n: getattr(state, n) for n in state.__record_names__}, field: value})  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="saved"):
        saved.restore_vcpu(target.vcpus[0], wrong, None)


def test_interrupt_controllers_of_another_size_are_refused(made: list[Guest]) -> None:
    source, target = make(made), make(made)
    vm = source.save()[1]
    for chips in (vm.chips[:2], (b"x", *vm.chips[1:])):
        wrong = saved.VmState(chips, vm.clock, vm.realtime, vm.host_tsc)
        clocks = saved.Clocks(wrong, target.vcpus[0], 0)
        with pytest.raises(ConfigError, match="interrupt controller"):
            saved.restore_vm(target.vm, wrong, clocks)
