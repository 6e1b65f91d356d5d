"""What KVM keeps of a machine, taken out and put back: the state of vCPUs, interrupt controllers and clocks.

The order is KVM's, not ours: some of these calls change what others return (Linux
``Documentation/virt/kvm/api.rst``; each place below says why it is where it is).
"""

from __future__ import annotations

import time

from vmm.errors import ConfigError, HostError
from vmm.faststart.ctype import addressof, sizeof, u8, u64
from vmm.faststart.record import dataclass
from vmm.kvm import ioctl as k
from vmm.kvm import structs as s
from vmm.kvm import structs_state as st

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vmm.faststart.ctype import Structure
    from vmm.kvm.vcpu import Vcpu
    from vmm.kvm.vm import Vm

IA32_TSC = 0x10
IA32_TSC_DEADLINE = 0x6E0
EINVAL, ENXIO, ENOTTY = 22, 6, 25
TSC_TOLERANCE_PPM = 250
"""How far the guest's TSC frequency may lie from this host's before KVM must scale it: what NTP can correct."""

_TRIES, _CLOSE = 16, 100_000
"""How often clocks are looked at together, and after how many ticks of the TSC no more."""
_SET_TRIES, _CLOCK_ERROR = 32, 20_000
"""How often a kvm-clock is set, and by how many ns it may be wrong then; by four times that in the last tries.
Linux takes half a millisecond between its clocks for a broken one."""

_SAVED_MSRS: tuple[tuple[int, int], ...] = (
    (0x10, 0x11),  # IA32_TSC
    (0x3A, 0x3C),  # IA32_FEATURE_CONTROL, IA32_TSC_ADJUST
    (0x48, 0x49),  # IA32_SPEC_CTRL
    (0xE1, 0xE2),  # IA32_UMWAIT_CONTROL
    (0x122, 0x123),  # IA32_TSX_CTRL
    (0x140, 0x141),  # MISC_FEATURES_ENABLES
    (0x174, 0x177),  # IA32_SYSENTER_CS, _ESP, _EIP
    (0x1A0, 0x1A1),  # IA32_MISC_ENABLE
    (0x1C4, 0x1C6),  # IA32_XFD, IA32_XFD_ERR
    (0x1D9, 0x1DA),  # IA32_DEBUGCTL
    (0x200, 0x300),  # MTRRs, IA32_PAT
    (0x400, 0x480),  # machine check banks
    (0x6A0, 0x6A9),  # CET
    (0x6E0, 0x6E1),  # IA32_TSC_DEADLINE
    (0xDA0, 0xDA1),  # IA32_XSS
    (0x4B564D00, 0x4B564E00),  # KVM's own, kvm-clock and steal time among them
    (0xC0000080, 0xC0000105),  # EFER, STAR, LSTAR, CSTAR, SFMASK, FS, GS and kernel GS base, TSC_AUX, TSC_RATIO
    (0xC0010015, 0xC0010016),  # HWCR
    (0xC0010114, 0xC0010118),  # VM_CR, VM_HSAVE_PA
    (0xC001011F, 0xC0010120),  # VIRT_SPEC_CTRL
    (0xC0010140, 0xC0010142),  # OSVW
)
"""Of the MSRs that this KVM can save (``KVM_GET_MSR_INDEX_LIST``), those that a guest's run depends on: half-open."""
_UNLISTED_MSRS = (*range(0x200, 0x210), 0x250, 0x258, 0x259, *range(0x268, 0x270), 0x2FF)
"""MTRRs: KVM has them and does not list them."""


@dataclass(frozen=True)
class VcpuState:
    """All of a vCPU.  Structures are as ``<asm/kvm.h>`` lays them out, in bytes; sizes are checked when it is put back.

    :ivar cpuid: ``struct kvm_cpuid_entry2`` after one another
    :ivar mp_state: one of KVM_MP_STATE_*
    :ivar xsave: as XSAVE writes it, 4096 bytes or more
    :ivar msrs: value by index
    :ivar tsc_khz: 0 when KVM does not say
    :ivar tsc_offset: guest TSC less host TSC, modulo 2**64; None where KVM does not tell (before Linux 5.16)
    """

    cpuid: bytes
    mp_state: int
    regs: bytes
    sregs: bytes
    xsave: bytes
    xcrs: bytes
    debugregs: bytes
    lapic: bytes
    events: bytes
    msrs: dict[int, int]
    tsc_khz: int
    tsc_offset: int | None


@dataclass(frozen=True)
class VmState:
    """What a VM has beside its vCPUs.

    :ivar chips: ``struct kvm_irqchip`` of the two PICs and the I/O APIC
    :ivar clock: kvm-clock, in ns
    :ivar realtime: CLOCK_REALTIME at that moment, in ns
    :ivar host_tsc: this host's TSC at that moment as vCPU 0 tells it; None where :attr:`VcpuState.tsc_offset` is
    """

    chips: tuple[bytes, ...]
    clock: int
    realtime: int
    host_tsc: int | None


_CPUID_HEAD = 8
"""Bytes of ``struct kvm_cpuid2`` before its entries: their number, and padding."""


_wanted: dict[tuple[int, ...], tuple[int, ...]] = {}


def wanted_msrs(indexes: Iterable[int]) -> tuple[int, ...]:
    """The MSRs that :func:`save_vcpu` is to read on this host.

    :param indexes: what KVM can save, see :meth:`vmm.kvm.system.System.msr_indexes`
    """
    listed = tuple(indexes)
    if listed not in _wanted:
        wanted = {i for i in listed if any(first <= i < end for first, end in _SAVED_MSRS)}
        _wanted[listed] = tuple(sorted(wanted.union(_UNLISTED_MSRS)))
    return _wanted[listed]


def _get(fd: int, request: int, struct: Structure, what: str) -> bytes:
    k.ioctl(fd, request, struct, what)
    return bytes(struct)


def _blob(kind: type[Structure], raw: bytes, what: str) -> Structure:
    """
    :raises ConfigError: *raw* is not of that size
    """
    if len(raw) != sizeof(kind):
        raise ConfigError(f"saved {what}: {len(raw)} bytes, not {sizeof(kind)}", code="snapshot-state")
    return kind.from_buffer_copy(raw)


def _chunks(indexes: Iterable[int]) -> Iterator[list[int]]:
    every = list(indexes)
    for start in range(0, len(every), s.MAX_MSRS):
        yield every[start : start + s.MAX_MSRS]


def _read_msrs(vcpu: Vcpu, indexes: Iterable[int]) -> dict[int, int]:
    """KVM_GET_MSRS stops at the first that it does not have for this guest: that one is left out."""
    found: dict[int, int] = {}
    for chunk in _chunks(indexes):
        rest = chunk
        while rest:
            got = vcpu.get_msrs(rest)
            found.update(got)
            rest = rest[len(got) + 1 :]
    return found


def save_vcpu(vcpu: Vcpu, msrs: tuple[int, ...], xsave_size: int) -> VcpuState:
    """The whole state of *vcpu*, which does not run and whose last exit is completed.

    :param msrs: see :func:`wanted_msrs`
    :param xsave_size: KVM_CAP_XSAVE2 of the VM; 0 where that is not known
    """
    fd = vcpu.fd
    # First: it makes KVM accept an INIT or SIPI that waits, which changes the local APIC and the registers
    mp_state = vcpu.mp_state()
    # Then: of an exception that waits KVM puts what it brings into CR2 or DR6, which are read below
    _get(fd, k.KVM_GET_VCPU_EVENTS, st.kvm_vcpu_events(), "KVM_GET_VCPU_EVENTS")
    regs, sregs = bytes(vcpu.get_regs()), bytes(vcpu.get_sregs())
    if xsave_size > 4096:
        area = (u8 * xsave_size)()
        k.ioctl(fd, k.KVM_GET_XSAVE2, area, "KVM_GET_XSAVE2")
        xsave = bytes(area)
    else:
        xsave = vcpu.get_xsave()
    xcrs = _get(fd, k.KVM_GET_XCRS, st.kvm_xcrs(), "KVM_GET_XCRS")
    debugregs = _get(fd, k.KVM_GET_DEBUGREGS, st.kvm_debugregs(), "KVM_GET_DEBUGREGS")
    lapic = _get(fd, k.KVM_GET_LAPIC, st.kvm_lapic_state(), "KVM_GET_LAPIC")
    cpuid = s.kvm_cpuid2(nent=s.MAX_CPUID_ENTRIES)
    k.ioctl(fd, k.KVM_GET_CPUID2, cpuid, "KVM_GET_CPUID2")
    values = _read_msrs(vcpu, msrs)
    if values.get(IA32_TSC_DEADLINE) == 0 and IA32_TSC in values and _timer_is_deadline(lapic):
        # KVM sets it to 0 when the timer has fired, perhaps before the interrupt is in the APIC: fire once more
        values[IA32_TSC_DEADLINE] = values[IA32_TSC]
    offset = _tsc_offset(vcpu)
    # Last: whatever came up by the calls before is in it
    events = _get(fd, k.KVM_GET_VCPU_EVENTS, st.kvm_vcpu_events(), "KVM_GET_VCPU_EVENTS")
    entry = sizeof(s.kvm_cpuid_entry2)
    return VcpuState(
        cpuid=bytes(cpuid)[_CPUID_HEAD : _CPUID_HEAD + int(cpuid.nent) * entry],
        mp_state=mp_state,
        regs=regs,
        sregs=sregs,
        xsave=xsave,
        xcrs=xcrs,
        debugregs=debugregs,
        lapic=lapic,
        events=events,
        msrs=values,
        tsc_khz=vcpu.tsc_khz(),
        tsc_offset=offset,
    )


_LVT_TIMER = 0x320
_LVT_MASKED, _LVT_MODE, _LVT_TSC_DEADLINE = 1 << 16, 3 << 17, 2 << 17


def _timer_is_deadline(lapic: bytes) -> bool:
    """The local APIC's timer is in TSC-deadline mode and not masked (Intel SDM vol. 3, 11.5.1)."""
    entry = int.from_bytes(lapic[_LVT_TIMER : _LVT_TIMER + 4], "little")
    return entry & _LVT_MODE == _LVT_TSC_DEADLINE and not entry & _LVT_MASKED


def _tsc_offset(vcpu: Vcpu) -> int | None:
    value = u64(0)
    attribute = st.kvm_device_attr(group=st.VCPU_TSC_CTRL, attr=st.VCPU_TSC_OFFSET, addr=addressof(value))
    try:
        k.ioctl(vcpu.fd, k.KVM_GET_DEVICE_ATTR, attribute, "KVM_GET_DEVICE_ATTR")
    except HostError as error:
        if error.errno in (EINVAL, ENXIO, ENOTTY):
            return None
        raise
    return int(value.value)


def _set_tsc_offset(vcpu: Vcpu, offset: int) -> None:
    value = u64(offset)
    attribute = st.kvm_device_attr(group=st.VCPU_TSC_CTRL, attr=st.VCPU_TSC_OFFSET, addr=addressof(value))
    k.ioctl(vcpu.fd, k.KVM_SET_DEVICE_ATTR, attribute, "KVM_SET_DEVICE_ATTR")


def _host_tsc(vcpu: Vcpu) -> int | None:
    """This host's TSC now, by way of the guest's."""
    offset = _tsc_offset(vcpu)
    return None if offset is None else (vcpu.get_msrs([IA32_TSC])[IA32_TSC] - offset) % (1 << 64)


def _clocks_together(vm: Vm, vcpu: Vcpu, offset: int) -> tuple[int, int]:
    """kvm-clock, and the host's TSC at that moment as *vcpu* tells it, whose offset is *offset*."""
    best, found = 1 << 64, (0, 0)
    for _ in range(_TRIES):
        clock = st.kvm_clock_data()
        before = vcpu.get_msrs([IA32_TSC])[IA32_TSC] - offset
        k.ioctl(vm.fd, k.KVM_GET_CLOCK, clock, "KVM_GET_CLOCK")
        after = vcpu.get_msrs([IA32_TSC])[IA32_TSC] - offset
        ticks = (after - before) % (1 << 64)
        if clock.flags & st.CLOCK_HOST_TSC and (clock.host_tsc - before) % (1 << 64) <= ticks:
            # The very moment (Linux 5.16).  Elsewhere: the TSC of a host whose ticks are not the guest's
            return int(clock.clock), int(clock.host_tsc)
        if ticks < best:
            best, found = ticks, (int(clock.clock), (before + ticks // 2) % (1 << 64))
        if ticks < _CLOSE:
            break
    return found


def save_vm(vm: Vm, first: Vcpu) -> VmState:
    """Interrupt controllers and clock of *vm*, whose vCPUs are saved already.

    :param first: one of its vCPUs
    """
    chips = []
    for number in st.IRQCHIPS.values():
        chips.append(_get(vm.fd, k.KVM_GET_IRQCHIP, st.kvm_irqchip(chip_id=number), "KVM_GET_IRQCHIP"))
    offset = _tsc_offset(first)
    if offset is None:
        clock = st.kvm_clock_data()
        k.ioctl(vm.fd, k.KVM_GET_CLOCK, clock, "KVM_GET_CLOCK")
        return VmState(tuple(chips), int(clock.clock), time.time_ns(), None)
    ns, tsc = _clocks_together(vm, first, offset)
    return VmState(tuple(chips), ns, time.time_ns(), tsc)


def restore_cpuid(vcpu: Vcpu, state: VcpuState) -> None:
    """Before anything else of *vcpu*: other calls depend on what the guest's CPU has."""
    entry = sizeof(s.kvm_cpuid_entry2)
    count, rest = divmod(len(state.cpuid), entry)
    if rest or not 0 < count <= s.MAX_CPUID_ENTRIES:
        raise ConfigError(f"saved CPUID: {len(state.cpuid)} bytes", code="snapshot-state")
    head = int(count).to_bytes(_CPUID_HEAD, "little")
    cpuid = s.kvm_cpuid2.from_buffer_copy((head + state.cpuid).ljust(sizeof(s.kvm_cpuid2), b"\0"))
    k.ioctl(vcpu.fd, k.KVM_SET_CPUID2, cpuid, "KVM_SET_CPUID2")


def restore_vcpu(vcpu: Vcpu, state: VcpuState, tsc_delta: int | None, *, same_cpuid: bool = False) -> None:
    """Load *state* into *vcpu*, which is new and does not run.

    :param tsc_delta: what is added to the saved TSC offset, the same for every vCPU of a machine (:class:`Clocks`);
        None: the saved TSC is written, and KVM keeps vCPUs together as well as it can
    :param same_cpuid: it was made with the state's CPUID
    :raises ConfigError: the state is not one
    :raises HostError: this host's KVM does not take it
    """
    fd = vcpu.fd
    if state.tsc_khz:
        here = vcpu.tsc_khz()
        if abs(here - state.tsc_khz) * 1_000_000 > here * TSC_TOLERANCE_PPM:
            k.ioctl(fd, k.KVM_SET_TSC_KHZ, state.tsc_khz, f"KVM_SET_TSC_KHZ {state.tsc_khz}")
    if not same_cpuid:
        restore_cpuid(vcpu, state)
    k.ioctl(fd, k.KVM_SET_MP_STATE, st.kvm_mp_state(mp_state=state.mp_state), "KVM_SET_MP_STATE")
    vcpu.set_regs(_blob(s.kvm_regs, state.regs, "general registers"))  # type: ignore[arg-type]
    # Before the local APIC: whether there is one and in which mode is in APIC_BASE
    vcpu.set_sregs(_blob(s.kvm_sregs, state.sregs, "segments and control registers"))  # type: ignore[arg-type]
    if not 4096 <= len(state.xsave) <= 1 << 16:
        raise ConfigError(f"saved XSAVE area: {len(state.xsave)} bytes", code="snapshot-state")
    k.ioctl(fd, k.KVM_SET_XSAVE, (u8 * len(state.xsave)).from_buffer_copy(state.xsave), "KVM_SET_XSAVE")
    k.ioctl(fd, k.KVM_SET_XCRS, _blob(st.kvm_xcrs, state.xcrs, "XCRs"), "KVM_SET_XCRS")
    k.ioctl(fd, k.KVM_SET_DEBUGREGS, _blob(st.kvm_debugregs, state.debugregs, "debug registers"), "KVM_SET_DEBUGREGS")
    k.ioctl(fd, k.KVM_SET_LAPIC, _blob(st.kvm_lapic_state, state.lapic, "local APIC"), "KVM_SET_LAPIC")
    values = dict(state.msrs)
    most, numbers = max(values, default=0), values.values()
    if min(values, default=0) < 0 or most >> 32 or min(numbers, default=0) < 0 or max(numbers, default=0) >> 64:
        raise ConfigError("saved MSRs: no such index or value", code="snapshot-state")
    # The deadline after the time that it is compared with, and after the APIC whose timer it starts
    deadline = values.pop(IA32_TSC_DEADLINE, None)
    if tsc_delta is not None and state.tsc_offset is not None:
        values.pop(IA32_TSC, None)
        _set_tsc_offset(vcpu, (state.tsc_offset + tsc_delta) % (1 << 64))
    for chunk in _chunks(values):
        vcpu.set_msrs({index: values[index] for index in chunk})
    if deadline is not None:
        vcpu.set_msrs({IA32_TSC_DEADLINE: deadline})
    # Last: KVM_SET_REGS forgets exceptions that wait
    events = _blob(st.kvm_vcpu_events, state.events, "events")
    k.ioctl(fd, k.KVM_SET_VCPU_EVENTS, events, "KVM_SET_VCPU_EVENTS")


class Clocks:
    """How the clocks of a machine go on: TSCs and kvm-clock together, or the guest would find one of them unstable.

    :param first: one of the new VM's vCPUs, before :func:`restore_vcpu`
    :param elapsed: ns by which both are put forward
    """

    def __init__(self, saved: VmState, first: Vcpu, khz: int, elapsed: int = 0) -> None:
        self._first = first
        self._khz = khz
        self._clock = saved.clock + elapsed
        self._begun = None if saved.host_tsc is None or not khz else _host_tsc(first)
        self.tsc_delta: int | None = None
        """What the TSC offsets of all vCPUs change by; None: KVM does not tell them."""
        if saved.host_tsc is not None and self._begun is not None:
            self.tsc_delta = saved.host_tsc - self._begun + elapsed * khz // 1_000_000

    def set(self, vm: Vm) -> None:
        """Set kvm-clock of *vm*: to what was saved, and the time since the TSC runs again."""

        def write(clock: int) -> None:
            k.ioctl(vm.fd, k.KVM_SET_CLOCK, st.kvm_clock_data(clock=clock), "KVM_SET_CLOCK")

        first, begun, khz = self._first, self._begun, self._khz
        offset = _tsc_offset(first)
        if begun is None or offset is None:
            write(self._clock)
            return

        def at(tsc: int) -> int:
            """What it is to be at that moment."""
            return self._clock + (tsc - begun) % (1 << 64) * 1_000_000 // khz

        # Whoever sets it may be held up between a look at the TSC and the kernel, on a busy host for milliseconds
        ahead = 0
        for attempt in range(_SET_TRIES):
            write(at(first.get_msrs([IA32_TSC])[IA32_TSC] - offset) + ahead)
            clock, tsc = _clocks_together(vm, first, offset)
            error = clock - at(tsc)
            if abs(error) <= _CLOCK_ERROR * (1 + attempt * 4 // _SET_TRIES):
                break
            ahead -= error


def restore_vm(vm: Vm, state: VmState, clocks: Clocks) -> None:
    """Put interrupt controllers and clock back, when all vCPUs are restored and before any runs."""
    if len(state.chips) != len(st.IRQCHIPS):
        raise ConfigError(f"saved interrupt controllers: {len(state.chips)}", code="snapshot-state")
    for raw in state.chips:
        chip = _blob(st.kvm_irqchip, raw, "interrupt controller")
        k.ioctl(vm.fd, k.KVM_SET_IRQCHIP, chip, "KVM_SET_IRQCHIP")
    clocks.set(vm)


def xsave_size(vm: Vm) -> int:
    """Bytes of an XSAVE area, 0 where KVM does not say (before Linux 5.17)."""
    return k.ioctl(vm.fd, k.KVM_CHECK_EXTENSION, k.CAP_XSAVE2, "KVM_CHECK_EXTENSION")
