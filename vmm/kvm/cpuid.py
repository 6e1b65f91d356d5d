"""CPUID made right for a guest: what KVM supports, with this vCPU's identity and the guest's topology in it.

Leaf numbers and fields: Intel SDM vol. 2 (CPUID), AMD APM vol. 3 appendix E; hypervisor leaves: Linux
``Documentation/virt/kvm/x86/cpuid.rst``.
"""

from __future__ import annotations

from vmm.kvm.structs import CPUID_FLAG_SIGNIFICANT_INDEX, kvm_cpuid2, kvm_cpuid_entry2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

FEATURE_ECX_X2APIC = 1 << 21
FEATURE_ECX_TSC_DEADLINE = 1 << 24
FEATURE_ECX_HYPERVISOR = 1 << 31
FEATURE_ECX_MONITOR = 1 << 3
FEATURE_EDX_HTT = 1 << 28

KVM_SIGNATURE_LEAF = 0x4000_0000
KVM_FEATURES_LEAF = 0x4000_0001
FEATURE_KVM_ASYNC_PF = 1 << 4 | 1 << 10 | 1 << 14
"""KVM_FEATURE_ASYNC_PF, _VMEXIT and _INT."""
TIMING_LEAF = 0x4000_0010
"""EAX: TSC frequency in kHz, EBX: local APIC bus frequency in kHz (the convention that began with VMware)."""
APIC_BUS_KHZ = 1_000_000

FEATURE_ECX_VMX = 1 << 5
FEATURE_ECX_SMX = 1 << 6
FEATURE_ECX_PDCM = 1 << 15
"""PERF_CAPABILITIES."""
FEATURE_ECX_SVM = 1 << 2
FEATURE_ECX_PERFCTR = 1 << 23 | 1 << 24 | 1 << 28
"""Of leaf 0x80000001: counters of cores, of the northbridge, of the last-level cache."""
PMU_LEAVES = (0xA, 0x8000_0022)
SVM_LEAF = 0x8000_000A

LEVEL_SMT = 1
LEVEL_CORE = 2

_TOPOLOGY = (0xB, 0x1F)
_CHANGED = frozenset({0x1, 0x4, 0x8000_0008, 0x8000_001D, 0x8000_001E})
_MASKED = frozenset({0x1, 0x8000_0001, *PMU_LEAVES, SVM_LEAF})

_WORDS = 10
"""32-bit words of a kvm_cpuid_entry2; the leaf is the first."""


def _words(cpuid: kvm_cpuid2) -> memoryview[int]:
    return memoryview(cpuid.entries).cast("B").cast("I")


def _functions(cpuid: kvm_cpuid2) -> list[int]:
    """The leaves that are in use, by number, in their order."""
    return _words(cpuid)[: cpuid.nent * _WORDS : _WORDS].tolist()


def entries(cpuid: kvm_cpuid2) -> Iterator[kvm_cpuid_entry2]:
    """The leaves that are in use."""
    for index in range(cpuid.nent):
        yield cpuid.entries[index]


_FREQUENCIES = (0x15, 0x16, TIMING_LEAF)
"""Leaves that tell how fast clocks run, which is measured anew at every start of a host."""


def fingerprint(cpuid: kvm_cpuid2) -> str:
    """SHA-256 of the leaves, less those of frequencies: the same on hosts whose guests see the same processor."""
    from vmm.faststart.environment import sha256

    kept = sorted(bytes(entry) for entry in entries(cpuid) if entry.function not in _FREQUENCIES)
    return sha256(b"".join(kept))


def _append(cpuid: kvm_cpuid2, function: int, index: int = 0, *, indexed: bool = False) -> kvm_cpuid_entry2:
    entry: kvm_cpuid_entry2 = cpuid.entries[cpuid.nent]
    cpuid.nent += 1
    entry.function, entry.index = function, index
    entry.flags = CPUID_FLAG_SIGNIFICANT_INDEX if indexed else 0
    entry.eax = entry.ebx = entry.ecx = entry.edx = 0
    return entry


class CpuidTemplate:
    """The leaves of one machine; :meth:`for_vcpu` gives each vCPU its own identity.

    The topology is one package of *cpus* cores with one thread each; APIC ids are 0, 1, 2, ...

    :param cpuid: what KVM_GET_SUPPORTED_CPUID said; changed in place
    :param tsc_khz: the guest's TSC frequency, 0 when it is not known
    :param tsc_deadline: KVM emulates the TSC-deadline timer
    :param host: the guest also gets what most have no use for and what opens more of the host's kernel to it:
        performance counters, and virtual machines of its own
    :param async_pf: the guest may do something else while the host fetches a page.  Not where a page may be one that
        cannot be had: KVM then says "soon" for ever, and never that it failed
    """

    def __init__(
        self,
        cpuid: kvm_cpuid2,
        cpus: int,
        *,
        tsc_khz: int,
        tsc_deadline: bool,
        async_pf: bool = True,
        host: bool = False,
    ) -> None:
        self.cpuid = cpuid
        self.cpus = cpus
        self._identity: list[tuple[kvm_cpuid_entry2, str, int]] = []
        """Fields that hold the APIC id: entry, register, bits to shift it left."""
        self._id_bits = (cpus - 1).bit_length()
        self._drop_topology()
        highest = highest_hypervisor_leaf = 0
        # Most leaves stay as they are, and a start has no time to make an object of each
        for index, leaf in enumerate(_functions(cpuid)):
            if leaf == 0:
                highest = cpuid.entries[index].eax
            elif leaf in _CHANGED:
                self._change(cpuid.entries[index], leaf, tsc_deadline)
            elif KVM_SIGNATURE_LEAF <= leaf <= KVM_SIGNATURE_LEAF + 0xFF:
                highest_hypervisor_leaf = max(highest_hypervisor_leaf, leaf)
            if leaf in _MASKED and not host:
                self._mask(cpuid.entries[index], leaf)
            if leaf == KVM_FEATURES_LEAF and not async_pf:
                cpuid.entries[index].eax &= ~FEATURE_KVM_ASYNC_PF
        self._topology_leaves(highest)
        if highest_hypervisor_leaf and tsc_khz:
            self._timing_leaf(tsc_khz)

    def _change(self, entry: kvm_cpuid_entry2, leaf: int, tsc_deadline: bool) -> None:
        match leaf:
            case 0x1:
                self._leaf_1(entry, tsc_deadline)
            case 0x4:
                self._cache_sharing(entry, cores_field=True)
            case 0x8000_0008:
                # ECX: number of cores less one, and how many APIC id bits they take
                entry.ecx = entry.ecx & ~0xF0FF | self._id_bits << 12 | (self.cpus - 1)
            case 0x8000_001D:
                self._cache_sharing(entry, cores_field=False)
            case 0x8000_001E:
                # EAX: APIC id; EBX: core id, one thread per core; ECX: one node
                entry.ebx &= ~0xFFFF
                entry.ecx = 0
                self._identity += [(entry, "eax", 0), (entry, "ebx", 0)]

    @staticmethod
    def _mask(entry: kvm_cpuid_entry2, leaf: int) -> None:
        """Leave out performance counters, VMX and SVM."""
        if leaf == 0x1:
            entry.ecx &= ~(FEATURE_ECX_VMX | FEATURE_ECX_SMX | FEATURE_ECX_PDCM)
        elif leaf == 0x8000_0001:
            entry.ecx &= ~(FEATURE_ECX_SVM | FEATURE_ECX_PERFCTR)
        else:
            entry.eax = entry.ebx = entry.ecx = entry.edx = 0

    def _drop_topology(self) -> None:
        """Leaves 0xB and 0x1F describe the host; the guest gets its own."""
        words = _words(self.cpuid)
        for index in reversed([i for i, leaf in enumerate(_functions(self.cpuid)) if leaf in _TOPOLOGY]):
            last = self.cpuid.nent * _WORDS
            words[index * _WORDS : last - _WORDS] = words[(index + 1) * _WORDS : last]
            self.cpuid.nent -= 1

    def _leaf_1(self, entry: kvm_cpuid_entry2, tsc_deadline: bool) -> None:
        # EBX: 31-24 APIC id, 23-16 number of logical processors, 15-8 CLFLUSH size
        entry.ebx = entry.ebx & 0xFFFF | self.cpus << 16
        self._identity.append((entry, "ebx", 24))
        entry.ecx = (entry.ecx | FEATURE_ECX_HYPERVISOR | FEATURE_ECX_X2APIC) & ~FEATURE_ECX_MONITOR
        if tsc_deadline:
            # Not in the supported set, yet emulated with the in-kernel APIC; it spares the guest a calibration
            entry.ecx |= FEATURE_ECX_TSC_DEADLINE
        entry.edx = entry.edx & ~FEATURE_EDX_HTT | (FEATURE_EDX_HTT if self.cpus > 1 else 0)

    def _cache_sharing(self, entry: kvm_cpuid_entry2, *, cores_field: bool) -> None:
        """EAX 25-14: logical processors that share the cache, less one; 31-26 (Intel): cores per package, less one."""
        if not entry.eax & 0x1F:
            return  # no more caches
        level = entry.eax >> 5 & 7
        sharing = self.cpus - 1 if level >= 3 else 0
        entry.eax = entry.eax & 0x3FFF | sharing << 14
        if cores_field:
            entry.eax |= min(self.cpus - 1, 63) << 26

    def _topology_leaves(self, highest: int) -> None:
        for leaf in _TOPOLOGY:
            if leaf > highest:
                continue
            # ECX: 15-8 level type, 7-0 the sub-leaf; EAX: APIC id bits below the next level; EBX: processors here
            for index, (kind, shift, count) in enumerate(
                ((LEVEL_SMT, 0, 1), (LEVEL_CORE, self._id_bits, self.cpus), (0, 0, 0))
            ):
                entry = _append(self.cpuid, leaf, index, indexed=True)
                entry.eax, entry.ebx, entry.ecx = shift, count, kind << 8 | index
                self._identity.append((entry, "edx", 0))

    def _timing_leaf(self, tsc_khz: int) -> None:
        leaves = _functions(self.cpuid)
        if KVM_SIGNATURE_LEAF in leaves:
            signature = self.cpuid.entries[leaves.index(KVM_SIGNATURE_LEAF)]
            signature.eax = max(signature.eax, TIMING_LEAF)
        if TIMING_LEAF in leaves:
            return
        entry = _append(self.cpuid, TIMING_LEAF)
        entry.eax, entry.ebx = tsc_khz, APIC_BUS_KHZ

    def for_vcpu(self, apic_id: int) -> kvm_cpuid2:
        """The leaves as vCPU *apic_id* sees them.  The same object every time: use it before the next call."""
        for entry, register, shift in self._identity:
            value = getattr(entry, register)
            mask = 0xFF << shift if shift else (0xFF if register == "ebx" else 0xFFFF_FFFF)
            setattr(entry, register, value & ~mask & 0xFFFF_FFFF | apic_id << shift & mask)
        return self.cpuid
