"""MSI messages on the real /dev/kvm: what reaches a local APIC, and what a VM keeps of them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from vmm.events import EventFd
from vmm.kvm import System, Vcpu, Vm
from vmm.kvm import ioctl as k
from vmm.kvm.routing import IOAPIC_PINS, MSI_BASE, MsiRouter
from vmm.kvm.structs_state import kvm_lapic_state
from vmm.pci.msix import Msix

pytestmark = pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="no /dev/kvm here")

SPURIOUS, REQUESTS = 0xF0, 0x200
"""Offsets of registers in the page of a local APIC (Intel SDM vol. 3, table 11-1)."""


class Apic:
    """The local APIC of a vCPU that does not run: messages stay requested."""

    def __init__(self, vcpu: Vcpu) -> None:
        self.vcpu = vcpu
        state = self._get()
        state.regs[SPURIOUS + 1] |= 1  # bit 8: enabled
        k.ioctl(vcpu.fd, k.KVM_SET_LAPIC, state)

    def _get(self) -> kvm_lapic_state:
        state = kvm_lapic_state()
        k.ioctl(self.vcpu.fd, k.KVM_GET_LAPIC, state)
        return state

    def requested(self) -> set[int]:
        regs = self._get().regs
        return {v for v in range(256) if regs[REQUESTS + v // 32 * 16 + v % 32 // 8] >> v % 8 & 1}

    def wait_for(self, vectors: set[int]) -> None:
        """KVM delivers some of them on a thread of its own."""
        end = time.monotonic() + 20
        while self.requested() != vectors:
            assert time.monotonic() < end, self.requested()
            time.sleep(0.001)


@pytest.fixture
def vm() -> Iterator[Vm]:
    with System() as system, system.create_vm() as vm:
        vm.set_tss_addr(0xFEFF_D000)
        vm.create_irqchip()
        yield vm


@pytest.fixture
def apics(vm: Vm) -> Iterator[list[Apic]]:
    vcpus = [vm.create_vcpu(index) for index in range(2)]
    yield [Apic(vcpu) for vcpu in vcpus]
    for vcpu in vcpus:
        vcpu.close()


def test_a_message_reaches_the_cpu_that_its_address_names(vm: Vm, apics: list[Apic]) -> None:
    router, event = MsiRouter(vm), EventFd()
    gsi = router.connect(event.fd, MSI_BASE | 1 << 12, 0x41)
    assert gsi == IOAPIC_PINS
    event.signal()
    apics[1].wait_for({0x41})
    assert apics[0].requested() == set()
    router.disconnect(event.fd, gsi)
    event.signal()
    assert router.connect(event.fd, MSI_BASE, 0x42) == gsi, "the same route, with another message"
    apics[0].wait_for({0x42})
    event.close()


def test_what_comes_while_a_vector_is_masked_is_pending_and_comes_then(vm: Vm, apics: list[Apic]) -> None:
    msix = Msix(2, MsiRouter(vm))
    for vector in range(2):
        msix.write_table(16 * vector, 4, MSI_BASE)
        msix.write_table(16 * vector + 8, 4, 0x50 + vector)
    msix.set_control(1 << 15)
    msix.write_table(12, 4, 0)
    for event in msix.events:
        event.signal()
    apics[0].wait_for({0x50})
    assert msix.read_pba(0, 8) == 0b10
    msix.write_table(16 + 12, 4, 0)
    apics[0].wait_for({0x50, 0x51})
    assert msix.read_pba(0, 8) == 0
    msix.close()


def test_messages_to_no_local_apic_are_refused(vm: Vm) -> None:
    router, event = MsiRouter(vm), EventFd()
    for address in (0, 0x1000, 0xFEC0_0000, 0xFEF0_0000, MSI_BASE | 1 << 32, (1 << 64) - 4):
        assert router.connect(event.fd, address, 0x41) is None
    event.close()


def test_pins_of_the_io_apic_work_beside(vm: Vm, apics: list[Apic]) -> None:
    """Setting routes replaces all of them."""
    router, event, pin = MsiRouter(vm), EventFd(), EventFd()
    router.connect(event.fd, MSI_BASE, 0x41)
    vm.irqfd(pin.fd, 4)
    pin.signal()  # nobody has programmed it: nothing comes, and nothing fails
    event.signal()
    apics[0].wait_for({0x41})
    for each in (event, pin):
        each.close()


def test_routes_of_vectors_that_are_gone_are_used_again(vm: Vm) -> None:
    router = MsiRouter(vm)
    keep = []
    for _ in range(300):
        msix = Msix(20, router)
        msix.set_control(1 << 15)
        for vector in range(20):
            msix.write_table(16 * vector, 4, MSI_BASE)
            msix.write_table(16 * vector + 12, 4, 0)
        keep.append(EventFd())  # so that descriptors are not the same every time
        msix.close()
    assert len(router._gsis) == len(router._messages) == 0
    for event in keep:
        event.close()
