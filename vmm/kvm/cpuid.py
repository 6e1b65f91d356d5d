"""The CPUID of a guest: what KVM supports, with this vCPU's identity and the guest's topology.

Leaf numbers and fields: Intel SDM vol. 2 (CPUID), AMD APM vol. 3 appendix E; hypervisor leaves: Linux
``Documentation/virt/kvm/x86/cpuid.rst``.
"""

from __future__ import annotations

from vmm.errors import ConfigError
from vmm.kvm.structs import CPUID_FLAG_SIGNIFICANT_INDEX, kvm_cpuid2, kvm_cpuid_entry2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmm.kvm.vcpu import Vcpu
    from vmm.options.cpu import CpuConfig

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

_MASKED_BITS = {
    (0x1, 0): {"ecx": FEATURE_ECX_VMX | FEATURE_ECX_SMX | FEATURE_ECX_PDCM | 1 << 2, "edx": 1 << 21},
    (0x7, 0): {
        "ebx": 1 << 2 | 1 << 4 | 1 << 11 | 1 << 12 | 1 << 14 | 1 << 15 | 1 << 25,
        "ecx": 1 << 30,
        "edx": 1 << 19,
    },
    (0x8000_0001, 0): {"ecx": FEATURE_ECX_SVM | FEATURE_ECX_PERFCTR | 1 << 10 | 1 << 15},
}
"""Bits that most guests have no use for: beside VMX, SMX, SVM and performance counters, debug stores (leaf 1), SGX, its
launch control, transactional memory, resource monitoring and allocation, MPX, processor trace and last-branch records
(leaf 7), instruction-based sampling and lightweight profiling (AMD)."""
_MASKED_LEAVES = (
    *PMU_LEAVES, SVM_LEAF, 0xF, 0x10, 0x12, 0x14, 0x1C, 0x23, 0x8000_001B, 0x8000_001F, 0x8000_0020,
)  # fmt: skip
"""And leaves, which read as zero: those of what is masked, and of memory encryption."""
ARCH_CAPABILITIES = 0x10A
"""The MSR IA32_ARCH_CAPABILITIES, which leaf 7 enumerates in EDX."""
FEATURE_EDX_ARCH_CAPABILITIES = 1 << 29

LEVEL_SMT = 1
LEVEL_CORE = 2

_TOPOLOGY = (0xB, 0x1F)
_CHANGED = frozenset({0x1, 0x4, 0x8000_0008, 0x8000_001D, 0x8000_001E})
_MASKED = frozenset({*(leaf for leaf, _ in _MASKED_BITS), *_MASKED_LEAVES})

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


def mask(cpuid: kvm_cpuid2) -> None:
    """Remove what most guests have no use for, and what exposes more of the host's kernel and processor."""
    for entry in entries(cpuid):
        _mask(entry)


def _mask(entry: kvm_cpuid_entry2) -> None:
    if entry.function in _MASKED_LEAVES:
        entry.eax = entry.ebx = entry.ecx = entry.edx = 0
    for register, bits in _MASKED_BITS.get((entry.function, entry.index), {}).items():
        setattr(entry, register, getattr(entry, register) & ~bits)


def set_arch_capabilities(vcpu: Vcpu, wanted: int) -> None:
    """Set the MSR to *wanted*, which a template has.

    :raises ConfigError: this host's guests cannot have all of it
    """
    here = vcpu.get_msrs([ARCH_CAPABILITIES]).get(ARCH_CAPABILITIES, 0)
    if wanted & ~here:
        raise _cannot_have([f"arch_capabilities {wanted & ~here:#x}"])
    if wanted != here:
        vcpu.set_msrs({ARCH_CAPABILITIES: wanted})


def _cannot_have(missing: list[str]) -> ConfigError:
    more = f" and {len(missing) - 4} more" if len(missing) > 4 else ""
    return ConfigError(
        f"cpu template: this host's guests cannot have {', '.join(missing[:4])}{more}",
        code="cpu-template",
        hint="make one of what both hosts have: pyvmm cpu FILE FILE",
    )


def template_of(cpuid: kvm_cpuid2, arch_capabilities: int = -1) -> CpuConfig:
    """The leaves of *cpuid* as a template, without those that are specific to a machine, and those without a bit."""
    from vmm.options.cpu import CpuConfig, CpuLeaf

    leaves = []
    for entry in entries(cpuid):
        if entry.function not in _OWN:
            indexed = bool(entry.flags & CPUID_FLAG_SIGNIFICANT_INDEX)
            values = (entry.eax, entry.ebx, entry.ecx, entry.edx)
            if any(values):
                leaves.append(CpuLeaf(entry.function, entry.index if indexed else 0, indexed, *values))
    told = any(leaf.place == (7, 0) and leaf.edx & FEATURE_EDX_ARCH_CAPABILITIES for leaf in leaves)
    return CpuConfig(tuple(leaves), arch_capabilities if told else -1)


def fit(cpuid: kvm_cpuid2, wanted: CpuConfig) -> None:
    """Replace *cpuid*, which is what KVM supports, by that of a template.

    :raises ConfigError: this host lacks part of it
    """
    # The MSR is looked at once there is a vCPU
    missing = wanted.missing_on(template_of(cpuid, wanted.arch_capabilities))
    if missing:
        raise _cannot_have(missing)
    cpuid.nent = 0
    for leaf in wanted.leaves:
        entry = _append(cpuid, leaf.function, leaf.index, indexed=leaf.indexed)
        entry.eax, entry.ebx, entry.ecx, entry.edx = leaf.eax, leaf.ebx, leaf.ecx, leaf.edx


_FREQUENCIES = (0x15, 0x16, TIMING_LEAF)
"""Leaves with clock frequencies, which each boot of the host measures again."""


_OWN = (0xB, 0x1F, *_FREQUENCIES)
"""Those that are each machine's own."""


def fingerprint(cpuid: kvm_cpuid2) -> str:
    """SHA-256 of the leaves, without those of frequencies: the same on hosts whose guests see the same processor."""
    from vmm.faststart.builtin import sha256

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

    :param cpuid: the result of KVM_GET_SUPPORTED_CPUID; changed in place
    :param tsc_khz: the guest's TSC frequency, 0 if it is not known
    :param tsc_deadline: KVM emulates the TSC-deadline timer
    :param host: the guest also gets what most have no use for and what exposes more of the host's kernel: performance
        counters, and virtual machines of its own
    :param async_pf: the guest may do something else while the host fetches a page. Not where a page may be unavailable:
        KVM then reports "soon" for ever, and never a failure
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
                _mask(cpuid.entries[index])
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
