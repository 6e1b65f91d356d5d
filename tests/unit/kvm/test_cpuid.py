"""CPUID as a guest of N vCPUs sees it."""

from __future__ import annotations

import pytest

from vmm.kvm.cpuid import CpuidTemplate, entries
from vmm.kvm.structs import kvm_cpuid2, kvm_cpuid_entry2

Leaf = tuple[int, int]


def supported() -> kvm_cpuid2:
    """Leaves as KVM reports them on a host with 64 threads."""
    cpuid = kvm_cpuid2()
    for function, index, eax, ebx, ecx, edx in (
        (0x0, 0, 0x1F, 0, 0, 0),
        (0x1, 0, 0x1234, 0x3F400800, 0x8, 1 << 28),
        (0x4, 0, 0xFC00C121, 0, 0, 0),
        (0x4, 3, 0xFC0FC163, 0, 0, 0),
        (0x4, 4, 0, 0, 0, 0),
        (0xB, 0, 1, 2, 0x100, 9),
        (0xB, 1, 6, 64, 0x201, 9),
        (0x40000000, 0, 0x40000001, 0x4B4D564B, 0x564B4D56, 0x4D),
        (0x40000001, 0, 0x01007AFB, 0, 0, 0),
        (0x80000008, 0, 0x3030, 0, 0x603F, 0),
        (0x8000001D, 3, 0x3C163, 0, 0, 0),
        (0x8000001E, 0, 9, 0x104, 0x305, 0),
    ):
        entry = cpuid.entries[cpuid.nent]
        entry.function, entry.index = function, index
        entry.eax, entry.ebx, entry.ecx, entry.edx = eax, ebx, ecx, edx
        cpuid.nent += 1
    return cpuid


def seen(cpus: int, apic_id: int) -> dict[Leaf, kvm_cpuid_entry2]:
    template = CpuidTemplate(supported(), cpus, tsc_khz=2_500_000, tsc_deadline=True)
    for other in range(cpus):  # in the order of a machine being made
        template.for_vcpu(other)
    return {(entry.function, entry.index): entry for entry in entries(template.for_vcpu(apic_id))}


@pytest.mark.parametrize("cpus,apic_id", [(1, 0), (2, 1), (3, 2), (16, 13), (32, 31)])
def test_every_vcpu_has_its_own_apic_id_everywhere(cpus: int, apic_id: int) -> None:
    leaves = seen(cpus, apic_id)
    assert leaves[1, 0].ebx >> 24 == apic_id
    assert [leaves[0xB, index].edx for index in (0, 1)] == [apic_id, apic_id]
    assert leaves[0x1F, 1].edx == apic_id
    assert leaves[0x8000001E, 0].eax == apic_id
    assert leaves[0x8000001E, 0].ebx & 0xFF == apic_id
    assert leaves[0x8000001E, 0].ecx == 0


@pytest.mark.parametrize("cpus,bits", [(1, 0), (2, 1), (3, 2), (4, 2), (16, 4), (32, 5)])
def test_the_topology_is_one_package_of_single_threaded_cores(cpus: int, bits: int) -> None:
    leaves = seen(cpus, 0)
    assert leaves[1, 0].ebx >> 16 & 0xFF == cpus
    assert bool(leaves[1, 0].edx >> 28 & 1) == (cpus > 1)
    smt, core = leaves[0xB, 0], leaves[0xB, 1]
    assert (smt.eax, smt.ebx, smt.ecx) == (0, 1, 0x100)
    assert (core.eax, core.ebx, core.ecx) == (bits, cpus, 0x201)
    assert leaves[0x80000008, 0].ecx & 0xFF == cpus - 1
    assert leaves[0x80000008, 0].ecx >> 12 & 0xF == bits
    assert leaves[4, 3].eax >> 14 & 0xFFF == cpus - 1, "the last-level cache is shared by all"
    assert leaves[4, 0].eax >> 14 & 0xFFF == 0, "the first-level cache by none"
    assert leaves[4, 3].eax >> 26 == cpus - 1
    assert leaves[4, 4].eax == 0


def test_hypervisor_leaves_say_kvm_and_the_tsc_frequency() -> None:
    leaves = seen(2, 0)
    assert leaves[1, 0].ecx >> 31 & 1
    assert leaves[1, 0].ecx >> 24 & 1, "the TSC-deadline timer"
    assert leaves[1, 0].ecx >> 21 & 1, "x2APIC"
    assert not leaves[1, 0].ecx >> 3 & 1, "no MONITOR"
    assert leaves[0x40000000, 0].eax == 0x40000010
    assert leaves[0x40000001, 0].eax == 0x01007AFB, "the paravirtual features of KVM, kvmclock among them, stay"
    assert leaves[0x40000010, 0].eax == 2_500_000


def test_asynchronous_page_faults_are_only_offered_where_every_page_can_be_had() -> None:
    for offered in (True, False):
        cpuid = supported()
        entry = next(cpuid.entries[i] for i in range(cpuid.nent) if cpuid.entries[i].function == 0x4000_0001)
        entry.eax = 0xFFFF_FFFF
        CpuidTemplate(cpuid, 1, tsc_khz=0, tsc_deadline=True, async_pf=offered)
        (found,) = [e.eax for e in map(cpuid.entries.__getitem__, range(cpuid.nent)) if e.function == 0x4000_0001]
        assert found == (0xFFFF_FFFF if offered else 0xFFFF_FFFF & ~(1 << 4 | 1 << 10 | 1 << 14))


@pytest.mark.parametrize("host", [False, True])
def test_counters_and_virtual_machines_are_only_for_a_guest_that_is_like_the_host(host: bool) -> None:
    cpuid = supported()
    for function in (0xA, 0x8000_0001, 0x8000_000A, 0x8000_0022):
        cpuid.entries[cpuid.nent].function = function
        cpuid.nent += 1
    for entry in entries(cpuid):
        if entry.function in (0x1, 0xA, 0x8000_0001, 0x8000_000A, 0x8000_0022):
            entry.eax = entry.ebx = entry.ecx = entry.edx = 0xFFFF_FFFF
    CpuidTemplate(cpuid, 1, tsc_khz=0, tsc_deadline=True, host=host)
    leaves = {entry.function: entry for entry in entries(cpuid)}
    for leaf in (0xA, 0x8000_000A, 0x8000_0022):
        assert bool(leaves[leaf].eax or leaves[leaf].ebx or leaves[leaf].ecx or leaves[leaf].edx) == host
    for leaf, bit in ((1, 5), (1, 6), (1, 15), (0x8000_0001, 2), (0x8000_0001, 23), (0x8000_0001, 28)):
        assert bool(leaves[leaf].ecx >> bit & 1) == host
    assert leaves[1].ecx >> 28 & 1 and leaves[0x8000_0001].edx == 0xFFFF_FFFF, "AVX, and all else, is the guest's"
