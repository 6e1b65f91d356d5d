"""Saves and restores KVM's state of a machine: vCPUs, interrupt controllers and clocks.

The order is KVM's: some of these calls change what others return (Linux ``Documentation/virt/kvm/api.rst``; each place
below gives its reason).
"""

from __future__ import annotations

import posix
import struct
import time

from vmm.errors import ConfigError, HostError
from vmm.faststart.ctype import addressof, sizeof, u64
from vmm.faststart.record import dataclass
from vmm.kvm import ioctl as k
from vmm.kvm import structs as s
from vmm.kvm import structs_state as st
from vmm.native import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any

    from vmm.faststart.ctype import Structure
    from vmm.kvm.vcpu import Vcpu
    from vmm.kvm.vm import Vm

IA32_TSC = 0x10
IA32_TSC_DEADLINE = 0x6E0
EINVAL, ENXIO, ENOTTY = 22, 6, 25
TSC_TOLERANCE_PPM = 250
"""How far the guest's TSC frequency may lie from this host's before KVM must scale it: what NTP can correct."""

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
    """All of a vCPU. Structures are byte strings in the layout of ``<asm/kvm.h>``; sizes are checked at the restore.

    :ivar cpuid: ``struct kvm_cpuid_entry2`` after one another
    :ivar mp_state: one of KVM_MP_STATE_*
    :ivar xsave: as XSAVE writes it, 4096 bytes or more
    :ivar msrs: value by index
    :ivar tsc_khz: 0 if KVM does not report it
    :ivar tsc_offset: guest TSC minus host TSC, modulo 2**64; None where KVM does not report it (before Linux 5.16)
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
    """The state of a VM besides its vCPUs.

    :ivar chips: ``struct kvm_irqchip`` of the two PICs and the I/O APIC
    :ivar clock: kvm-clock, in ns
    :ivar realtime: CLOCK_REALTIME at that moment, in ns
    :ivar host_tsc: this host's TSC at that moment through vCPU 0; None where :attr:`VcpuState.tsc_offset` is
    """

    chips: tuple[bytes, ...]
    clock: int
    realtime: int
    host_tsc: int | None


_CPUID_HEAD = 8
"""Bytes of ``struct kvm_cpuid2`` before its entries: their number, and padding."""


_wanted: dict[tuple[int, ...], tuple[int, ...]] = {}


def wanted_msrs(indexes: Iterable[int]) -> tuple[int, ...]:
    """The MSRs that :func:`save_vcpu` reads on this host.

    :param indexes: what KVM can save, see :meth:`vmm.kvm.system.System.msr_indexes`
    """
    listed = tuple(indexes)
    if listed not in _wanted:
        wanted = {i for i in listed if any(first <= i < end for first, end in _SAVED_MSRS)}
        _wanted[listed] = tuple(sorted(wanted.union(_UNLISTED_MSRS)))
    return _wanted[listed]


def _sized(kind: type[Structure], raw: bytes, what: str) -> bytes:
    """
    :raises ConfigError: *raw* does not have that size
    """
    if len(raw) != sizeof(kind):
        raise ConfigError(f"saved {what}: {len(raw)} bytes, not {sizeof(kind)}", code="snapshot-state")
    return raw


def _msrs(values: dict[int, int]) -> bytes:
    """``struct kvm_msrs``."""
    words = [0] * (2 * len(values))
    words[::2], words[1::2] = values.keys(), values.values()
    return struct.pack(f"=Q{len(words)}Q", len(values), *words)


def _values(msrs: memoryview) -> dict[int, int]:
    """The entries of a ``struct kvm_msrs`` that was read."""
    words = msrs.cast("Q").tolist()
    end = 1 + 2 * words[0]
    return dict(zip(words[1:end:2], words[2:end:2], strict=True))


_HEAD, _ENTRY = 8, 16
"""Bytes of a ``struct kvm_msrs`` before its entries, and of each of those."""


class OwnMsrs:
    """MSRs of a state that stays in this process, in KVM's form: converting each to a number takes longer than KVM
    takes to read them.

    :param read: ``struct kvm_msrs``, one or more
    :ivar entries: all except those with a field of their own, in the order in which they were read
    """

    __slots__ = ("deadline", "entries", "tsc")

    def __init__(self, read: list[memoryview]) -> None:
        self.entries = b"".join([each[_HEAD : _HEAD + _ENTRY * int.from_bytes(each[:4], "little")] for each in read])
        self.tsc = self._take(_TSC_ENTRY)
        self.deadline = self._take(_DEADLINE_ENTRY)

    def _take(self, entry: bytes) -> int | None:
        """The value of an MSR, which is removed from :attr:`entries`."""
        at = self.entries.find(entry)
        while at % _ENTRY:
            if at < 0:
                return None
            at = self.entries.find(entry, at + 1)  # that was a value
        end = at + _ENTRY
        value = int.from_bytes(self.entries[at + len(entry) : end], "little")
        self.entries = self.entries[:at] + self.entries[end:]
        return value

    def written(self, *, tsc: bool) -> list[bytes]:
        """``struct kvm_msrs``, each to be written by one call, in this order.

        :param tsc: with the TSC
        """
        entries = self.entries
        if tsc and self.tsc is not None:
            entries = _TSC_ENTRY + self.tsc.to_bytes(8, "little") + entries
        most = _ENTRY * _MOST_MSRS
        pieces = [entries[at : at + most] for at in range(0, len(entries), most)]
        if self.deadline is not None:
            pieces.append(_DEADLINE_ENTRY + self.deadline.to_bytes(8, "little"))
        return [(len(piece) // _ENTRY).to_bytes(_HEAD, "little") + piece for piece in pieces]


_TSC_ENTRY, _DEADLINE_ENTRY = IA32_TSC.to_bytes(8, "little"), IA32_TSC_DEADLINE.to_bytes(8, "little")
"""How their entries begin."""
_MOST_MSRS = 256
"""In one call: KVM's limit."""


def _chunks(values: dict[int, int]) -> Iterator[dict[int, int]]:
    if len(values) <= _MOST_MSRS:
        yield values
        return
    every = list(values.items())
    for start in range(0, len(every), _MOST_MSRS):
        yield dict(every[start : start + _MOST_MSRS])


def _empty(kind: type[Structure]) -> bytes:
    return bytes(sizeof(kind))


_to_save: dict[tuple[tuple[int, ...], int, bool], list[tuple[int, bytes, str, slice]]] = {}


def _calls_to_save(msrs: tuple[int, ...], xsave_size: int, *, cpuid: bool) -> list[tuple[int, bytes, str, slice]]:
    """Everything that is read of a vCPU besides its TSC: request, buffer for the result, name, and the place of the
    result.

    :param cpuid: read that, too
    """
    if xsave_size > 4096:
        xsave = k.KVM_GET_XSAVE2, bytes(xsave_size), "KVM_GET_XSAVE2"
    else:
        xsave = k.KVM_GET_XSAVE, bytes(4096), "KVM_GET_XSAVE"
    calls = [
        # First: it makes KVM accept an INIT or SIPI that waits, which changes the local APIC and the registers
        (k.KVM_GET_MP_STATE, _empty(st.kvm_mp_state), "KVM_GET_MP_STATE"),
        # Then: of an exception that waits KVM puts what it brings into CR2 or DR6, which are read below
        (k.KVM_GET_VCPU_EVENTS, _empty(st.kvm_vcpu_events), "KVM_GET_VCPU_EVENTS"),
        (k.KVM_GET_REGS, _empty(s.kvm_regs), "KVM_GET_REGS"),
        (k.KVM_GET_SREGS, _empty(s.kvm_sregs), "KVM_GET_SREGS"),
        xsave,
        (k.KVM_GET_XCRS, _empty(st.kvm_xcrs), "KVM_GET_XCRS"),
        (k.KVM_GET_DEBUGREGS, _empty(st.kvm_debugregs), "KVM_GET_DEBUGREGS"),
        (k.KVM_GET_LAPIC, _empty(st.kvm_lapic_state), "KVM_GET_LAPIC"),
        *([(k.KVM_GET_CPUID2, bytes(s.kvm_cpuid2(nent=s.MAX_CPUID_ENTRIES)), "KVM_GET_CPUID2")] if cpuid else []),
        *((k.KVM_GET_MSRS, _msrs(chunk), "KVM_GET_MSRS") for chunk in _chunks(dict.fromkeys(msrs, 0))),
        # Last: whatever came up by the calls before is in it
        (k.KVM_GET_VCPU_EVENTS, _empty(st.kvm_vcpu_events), "KVM_GET_VCPU_EVENTS"),
    ]
    placed, at = [], 0
    for request, room, what in calls:
        placed.append((request, room, what, slice(at, at + len(room))))
        at += len(room)
    return placed


def save_vcpu(vcpu: Vcpu, msrs: tuple[int, ...], xsave_size: int, *, own: bool = False) -> VcpuState:
    """The whole state of *vcpu*, which does not run and whose last exit is completed.

    :param msrs: see :func:`wanted_msrs`
    :param xsave_size: KVM_CAP_XSAVE2 of the VM; 0 where that is not known
    :param own: it stays in this process: its MSRs are :class:`OwnMsrs`, which cannot be written to a file
    """
    fd = vcpu.fd
    known = vcpu.cpuid if own else b""
    if (wanted := _to_save.get((msrs, xsave_size, bool(known)))) is None:
        wanted = _to_save[msrs, xsave_size, bool(known)] = _calls_to_save(msrs, xsave_size, cpuid=not known)
    offset = u64(0)
    calls = [(fd, request, room, what) for request, room, what, _ in wanted]
    calls += (_offset_call(vcpu, k.KVM_GET_DEVICE_ATTR, offset), (fd, k.KVM_GET_TSC_KHZ, b"", "KVM_GET_TSC_KHZ"))
    got, results = k.ioctls(calls, (len(calls) - 2, len(calls) - 1))
    found = [got[place] for _, _, _, place in wanted]
    mp_state, _, regs, sregs, xsave, xcrs, debugregs, lapic, *read, events = found
    if not known:
        cpuid = read.pop(0)
        entries = int.from_bytes(cpuid[:4], "little") * sizeof(s.kvm_cpuid_entry2)
        known = vcpu.cpuid = bytes(cpuid[_CPUID_HEAD : _CPUID_HEAD + entries])
    values: Any = OwnMsrs(read) if own else {}
    if own:
        if values.deadline == 0 and values.tsc is not None and _timer_is_deadline(lapic):
            values.deadline = values.tsc
    else:
        for each in read:
            values |= _values(each)
        if values.get(IA32_TSC_DEADLINE) == 0 and IA32_TSC in values and _timer_is_deadline(lapic):
            # KVM sets it to 0 when the timer has fired, perhaps before the interrupt is in the APIC: fire once more
            values[IA32_TSC_DEADLINE] = values[IA32_TSC]
    return VcpuState(
        cpuid=known,
        mp_state=int.from_bytes(mp_state, "little"),
        regs=bytes(regs),
        sregs=bytes(sregs),
        xsave=bytes(xsave),
        xcrs=bytes(xcrs),
        debugregs=bytes(debugregs),
        lapic=bytes(lapic),
        events=bytes(events),
        msrs=values,
        tsc_khz=max(results[-1], 0),
        tsc_offset=_offset(results[-2], offset),
    )


_LVT_TIMER = 0x320
_LVT_MASKED, _LVT_MODE, _LVT_TSC_DEADLINE = 1 << 16, 3 << 17, 2 << 17


def _timer_is_deadline(lapic: memoryview) -> bool:
    """The local APIC's timer is in TSC-deadline mode and not masked (Intel SDM vol. 3, 11.5.1)."""
    entry = int.from_bytes(lapic[_LVT_TIMER : _LVT_TIMER + 4], "little")
    return entry & _LVT_MODE == _LVT_TSC_DEADLINE and not entry & _LVT_MASKED


def _offset_call(vcpu: Vcpu, request: int, value: u64) -> tuple[int, int, bytes, str]:
    """Get or set the TSC offset of *vcpu*, as *value*, which must stay alive until the call is made."""
    attribute = struct.pack("=IIQQ", 0, st.VCPU_TSC_CTRL, st.VCPU_TSC_OFFSET, addressof(value))
    return vcpu.fd, request, attribute, "the TSC offset"


def _offset(result: int, value: u64) -> int | None:
    """What :func:`_offset_call` got.

    :raises HostError: it failed in a way that a KVM without it does not
    """
    if result >= 0:
        return int(value.value)
    if -result in (EINVAL, ENXIO, ENOTTY):
        return None
    raise HostError("KVM_GET_DEVICE_ATTR: the TSC offset", code="kvm-ioctl", errno=-result)


def _tsc_offset(vcpu: Vcpu) -> int | None:
    value = u64(0)
    return _offset(k.ioctls((_offset_call(vcpu, k.KVM_GET_DEVICE_ATTR, value),), (0,))[1][0], value)


def _host_tsc(vcpu: Vcpu) -> int | None:
    """This host's TSC now, calculated from the guest's."""
    value = u64(0)
    calls = (
        _offset_call(vcpu, k.KVM_GET_DEVICE_ATTR, value),
        (vcpu.fd, k.KVM_GET_MSRS, _msrs({IA32_TSC: 0}), "KVM_GET_MSRS"),
    )
    got, results = k.ioctls(calls, (0,))
    offset = _offset(results[0], value)
    return None if offset is None else (_values(got[len(calls[0][2]) :])[IA32_TSC] - offset) % (1 << 64)


def _clocks_now(result: int, now: Any) -> tuple[int, int]:
    """kvm-clock, and the host's TSC at that moment, of a ``struct vm_clocks *``."""
    if result < 0:
        raise HostError(f"the clocks of a VM: {posix.strerror(-result)}", code="kvm-ioctl", errno=-result)
    return int(now.clock), int(now.tsc)


def save_vm(vm: Vm, first: Vcpu) -> VmState:
    """Interrupt controllers and clock of *vm*, whose vCPUs are saved already.

    :param first: one of its vCPUs
    """
    value = u64(0)
    rooms = [bytes(st.kvm_irqchip(chip_id=number)) for number in st.IRQCHIPS.values()]
    calls = [(vm.fd, k.KVM_GET_IRQCHIP, room, "KVM_GET_IRQCHIP") for room in rooms]
    got, results = k.ioctls([*calls, _offset_call(first, k.KVM_GET_DEVICE_ATTR, value)], (len(calls),))
    size, offset = sizeof(st.kvm_irqchip), _offset(results[-1], value)
    chips = tuple(bytes(got[at : at + size]) for at in range(0, len(rooms) * size, size))
    if offset is None:
        clock = st.kvm_clock_data()
        k.ioctl(vm.fd, k.KVM_GET_CLOCK, clock, "KVM_GET_CLOCK")
        return VmState(chips, int(clock.clock), time.time_ns(), None)
    now = ffi.new("struct vm_clocks *")
    ns, tsc = _clocks_now(lib.clocks_get(vm.fd, first.fd, offset, now), now)
    return VmState(chips, ns, time.time_ns(), tsc)


def _cpuid(state: VcpuState) -> bytes:
    entry = sizeof(s.kvm_cpuid_entry2)
    count, rest = divmod(len(state.cpuid), entry)
    if rest or not 0 < count <= s.MAX_CPUID_ENTRIES:
        raise ConfigError(f"saved CPUID: {len(state.cpuid)} bytes", code="snapshot-state")
    return int(count).to_bytes(_CPUID_HEAD, "little") + state.cpuid


def _check_msrs(values: dict[int, int]) -> None:
    most, numbers = max(values, default=0), values.values()
    if min(values, default=0) < 0 or most >> 32 or min(numbers, default=0) < 0 or max(numbers, default=0) >> 64:
        raise ConfigError("saved MSRs: no such index or value", code="snapshot-state")


def _written(msrs: dict[int, int], *, tsc: bool) -> list[bytes]:
    """As :meth:`OwnMsrs.written`."""
    values = dict(msrs)
    deadline = values.pop(IA32_TSC_DEADLINE, None)
    if not tsc:
        values.pop(IA32_TSC, None)
    return [_msrs(each) for each in (*_chunks(values), *([] if deadline is None else [{IA32_TSC_DEADLINE: deadline}]))]


def restore_vcpu(
    vcpu: Vcpu, state: VcpuState, tsc_delta: int | None, *, same_cpuid: bool = False, own: bool = False
) -> None:
    """Load *state* into *vcpu*, which is new and does not run.

    :param tsc_delta: added to the saved TSC offset, the same for every vCPU of a machine (:class:`Clocks`); None: the
        saved TSC is written, and KVM synchronizes vCPUs as well as it can
    :param same_cpuid: it was made with the state's CPUID
    :param own: this process has just saved it
    :raises ConfigError: it is not a valid state
    :raises HostError: this host's KVM does not accept it
    """
    fd = vcpu.fd
    if not 4096 <= len(state.xsave) <= 1 << 16:
        raise ConfigError(f"saved XSAVE area: {len(state.xsave)} bytes", code="snapshot-state")
    msrs: Any = state.msrs
    if not own:
        _check_msrs(msrs)
    if state.tsc_khz:
        here = vcpu.tsc_khz()
        if abs(here - state.tsc_khz) * 1_000_000 > here * TSC_TOLERANCE_PPM:
            k.ioctl(fd, k.KVM_SET_TSC_KHZ, state.tsc_khz, f"KVM_SET_TSC_KHZ {state.tsc_khz}")
    # Before anything else: other calls depend on what the guest's CPU has
    if not same_cpuid:
        vcpu.cpuid = b""
    calls = [] if same_cpuid else [(fd, k.KVM_SET_CPUID2, _cpuid(state), "KVM_SET_CPUID2")]
    xcrs, lapic = _sized(st.kvm_xcrs, state.xcrs, "XCRs"), _sized(st.kvm_lapic_state, state.lapic, "local APIC")
    calls += (
        (fd, k.KVM_SET_MP_STATE, bytes(st.kvm_mp_state(mp_state=state.mp_state)), "KVM_SET_MP_STATE"),
        (fd, k.KVM_SET_REGS, _sized(s.kvm_regs, state.regs, "general registers"), "KVM_SET_REGS"),
        # Before the local APIC: whether there is one and in which mode is in APIC_BASE
        (fd, k.KVM_SET_SREGS, _sized(s.kvm_sregs, state.sregs, "segments and control registers"), "KVM_SET_SREGS"),
        (fd, k.KVM_SET_XSAVE, state.xsave, "KVM_SET_XSAVE"),
        (fd, k.KVM_SET_XCRS, xcrs, "KVM_SET_XCRS"),
        (fd, k.KVM_SET_DEBUGREGS, _sized(st.kvm_debugregs, state.debugregs, "debug registers"), "KVM_SET_DEBUGREGS"),
        (fd, k.KVM_SET_LAPIC, lapic, "KVM_SET_LAPIC"),
    )
    offset = u64(0)
    by_offset = tsc_delta is not None and state.tsc_offset is not None
    if tsc_delta is not None and state.tsc_offset is not None:
        offset.value = (state.tsc_offset + tsc_delta) % (1 << 64)
        calls.append(_offset_call(vcpu, k.KVM_SET_DEVICE_ATTR, offset))
    # The deadline after the time that it is compared with, and after the APIC whose timer it starts
    written = msrs.written(tsc=not by_offset) if isinstance(msrs, OwnMsrs) else _written(msrs, tsc=not by_offset)
    first = len(calls)
    calls += [(fd, k.KVM_SET_MSRS, each, "KVM_SET_MSRS") for each in written]
    # Last: KVM_SET_REGS forgets exceptions that wait
    calls.append((fd, k.KVM_SET_VCPU_EVENTS, _sized(st.kvm_vcpu_events, state.events, "events"), "KVM_SET_VCPU_EVENTS"))
    results = k.ioctls(calls)[1]
    for each, done in zip(written, results[first:], strict=False):
        if done * _ENTRY != len(each) - _HEAD:
            index = int.from_bytes(each[_HEAD + done * _ENTRY :][:4], "little")
            raise HostError(f"KVM_SET_MSRS: MSR {index:#x} is refused", code="kvm-msr")


class Clocks:
    """How the clocks of a machine continue: TSCs and kvm-clock together, or the guest would find one of them unstable.

    :param first: one of the new VM's vCPUs, before :func:`restore_vcpu`
    :param elapsed: ns by which both are advanced
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

    def set(self, vm: Vm, offset: int | None = None) -> None:
        """Set kvm-clock of *vm* to the saved value plus the time since the TSC resumed.

        :param offset: of the first vCPU's TSC, if it is known
        """
        first, begun, khz = self._first, self._begun, self._khz
        if offset is None:
            offset = _tsc_offset(first)
        if begun is None or offset is None:
            clock = bytes(st.kvm_clock_data(clock=self._clock))
            k.ioctls([(vm.fd, k.KVM_SET_CLOCK, clock, "KVM_SET_CLOCK")])
            return
        # This thread may be preempted between reading the TSC and entering the kernel, on a busy host for milliseconds
        now, ahead = ffi.new("struct vm_clocks *"), 0
        for attempt in range(_SET_TRIES):
            since = ffi.new("struct vm_clocks *", ((self._clock + ahead) % (1 << 64), begun))
            ns, tsc = _clocks_now(lib.clocks_set(vm.fd, first.fd, offset, since, khz, now), now)
            error = ns - self._clock - (tsc - begun) % (1 << 64) * 1_000_000 // khz
            if abs(error) <= _CLOCK_ERROR * (1 + attempt * 4 // _SET_TRIES):
                break
            ahead -= error


def restore_vm(vm: Vm, state: VmState, clocks: Clocks) -> None:
    """Restore interrupt controllers and clock, when all vCPUs are restored and before any runs."""
    if len(state.chips) != len(st.IRQCHIPS):
        raise ConfigError(f"saved interrupt controllers: {len(state.chips)}", code="snapshot-state")
    chips = [_sized(st.kvm_irqchip, raw, "interrupt controller") for raw in state.chips]
    k.ioctls([(vm.fd, k.KVM_SET_IRQCHIP, chip, "KVM_SET_IRQCHIP") for chip in chips])
    clocks.set(vm)


def continue_clocks(vm: Vm, vcpus: Sequence[Vcpu], states: Sequence[VcpuState], state: VmState) -> None:
    """Set the clocks of a restored machine, none of whose vCPUs has run yet, to the saved time once more: it continues
    from there now, however long ago it was restored. Where KVM does not report TSC offsets, its clocks have run since.
    """
    clocks = Clocks(state, vcpus[0], states[0].tsc_khz)
    if clocks.tsc_delta is None or states[0].tsc_offset is None:
        return
    for vcpu, saved in zip(vcpus, states, strict=True):
        assert saved.tsc_offset is not None
        offset = u64((saved.tsc_offset + clocks.tsc_delta) % (1 << 64))
        calls = [_offset_call(vcpu, k.KVM_SET_DEVICE_ATTR, offset)]
        msrs: Any = saved.msrs
        deadline = msrs.deadline if isinstance(msrs, OwnMsrs) else msrs.get(IA32_TSC_DEADLINE)
        if deadline is not None:
            # Its timer counts the host's time from when it is set
            calls.append((vcpu.fd, k.KVM_SET_MSRS, _msrs({IA32_TSC_DEADLINE: deadline}), "KVM_SET_MSRS"))
        k.ioctls(calls)
    clocks.set(vm, (states[0].tsc_offset + clocks.tsc_delta) % (1 << 64))


def xsave_size(vm: Vm) -> int:
    """Bytes of an XSAVE area, 0 where KVM does not report it (before Linux 5.17)."""
    return k.ioctl(vm.fd, k.KVM_CHECK_EXTENSION, k.CAP_XSAVE2, "KVM_CHECK_EXTENSION")
