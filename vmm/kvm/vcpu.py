"""A KVM virtual CPU: registers, CPUID, and its run loop in C."""

from __future__ import annotations

import posix
import struct

from vmm.errors import ConfigError, GuestError, HostError
from vmm.faststart.ctype import u8
from vmm.faststart.thread import RLock
from vmm.kvm import ioctl as k
from vmm.kvm import structs as s
from vmm.kvm.stats import open_stats, read_stats
from vmm.memory.memfd import map_memory
from vmm.native import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from typing import Any

    from vmm.kvm.structs_debug import kvm_guest_debug
    from vmm.kvm.structs_run import kvm_run
    from vmm.memory import GuestMemory


MP_UNINITIALIZED, MP_INIT_RECEIVED, MP_HALTED = 1, 2, 3
_INTERRUPTS = 1 << 9
"""RFLAGS.IF"""
_LAPIC_SPURIOUS, _LAPIC_LVT_ERROR, _LVT_MASKED = 0xF0, 0x370, 16
"""Registers of a local APIC, and the bit that masks an entry of its vector table (Intel SDM vol. 3, 11.4 and 11.5)."""
_STEAL_TIME, _ENABLED = 0x4B564D03, 1
"""MSR_KVM_STEAL_TIME, and the bit in it that the guest sets."""
MMIO_OFFSET, MMIO_DATA = 32, 8
"""Where ``kvm_run.mmio`` begins, and in it its ``data``.  Set-up writes of virtio drivers come this way while a guest
boots, which is too early to make classes for all of ``kvm_run``."""
XSAVE_SIZE = 4096
_MMIO = struct.Struct("<Q8sIB")


def _msrs(indexes: Collection[int]) -> tuple[s.kvm_msrs, memoryview[int]]:
    """MSRs for KVM, and the same as 64-bit words, since an object for each would take too long: one word, and two for
    each MSR, index and value."""
    msrs = s.kvm_msrs(nmsrs=len(indexes))
    words = memoryview(msrs).cast("B").cast("Q")
    if indexes:
        words[1 : 1 + 2 * len(indexes) : 2] = _words(indexes)
    return msrs, words


def _words(numbers: Collection[int]) -> memoryview[int]:
    return memoryview(struct.pack(f"={len(numbers)}Q", *numbers)).cast("Q")


class Vcpu:
    """Owns a vCPU's descriptor and its ``kvm_run`` mapping.

    Register methods may be called only while no thread is inside :meth:`run`.
    """

    def __init__(self, fd: int, index: int, mmap_size: int) -> None:
        self.fd = fd
        self.index = index
        try:
            self._map = map_memory(fd, mmap_size)
        except BaseException:
            posix.close(fd)
            raise
        self._kvm_run: kvm_run | None = None
        self._buffer: Any = ffi.from_buffer(self._map)
        self._native: Any = None
        # Others kick while this is closed; again, since a signal's handler may
        self._kicks = RLock()
        self.cpuid = b""
        """What KVM said when it was asked; empty since it was set.  Bits in it that follow the guest's registers may be
        old: KVM finds them anew when it is set."""
        self.busy = False
        """Its thread may be inside :meth:`run`."""
        self.leaving: Callable[[], None] | None = None
        """Waits for that thread, which has been told to end."""
        # Now, because the ioctl waits for KVM_RUN to return, which a guest that does I/O in the kernel may never do
        self._stats_fd = open_stats(fd)

    def bind(self, bus: Any) -> None:
        """Set the C bus (cdata ``struct bus *``) that answers exits of :meth:`run`; the caller keeps it alive."""
        self._native = lib.vcpu_new(self.fd, self._buffer, len(self._map), bus)
        if self._native == ffi.NULL:
            raise HostError("no memory for a vCPU", code="memory-unavailable")

    def run(self) -> int:
        """Run until Python is needed.

        :returns: a ``KVM_EXIT_*`` number, or ``-EINTR`` after :meth:`kick`, or another -errno of KVM_RUN
        """
        result: int = lib.vcpu_run(self._native)
        return result

    @property
    def kvm_run(self) -> kvm_run:
        """KVM's description of the last exit."""
        if self._kvm_run is None:
            from vmm.kvm.structs_run import kvm_run

            self._kvm_run = kvm_run.from_buffer(self._map)
        return self._kvm_run

    def mmio_exit(self) -> tuple[int, bytes, int, bool]:
        """Of a KVM_EXIT_MMIO: address, the eight bytes of data, how many of them are valid, and whether it is a
        write."""
        address, data, size, is_write = _MMIO.unpack_from(self._map, MMIO_OFFSET)
        return address, data, size, bool(is_write)

    def answer_mmio(self, data: bytes) -> None:
        """Set what the guest reads: the data of a KVM_EXIT_MMIO, up to eight bytes."""
        start = MMIO_OFFSET + MMIO_DATA
        self._map[start : start + len(data)] = data

    def run_bytes(self, offset: int, length: int) -> memoryview:
        """A part of the ``kvm_run`` area: the data of a port I/O exit, writable."""
        return memoryview(self._map)[offset : offset + length]

    def kick(self) -> None:
        """Make :meth:`run` return, from any thread; it returns at once until :meth:`resume`."""
        with self._kicks:
            if self._native is not None:
                lib.vcpu_kick(self._native)

    def resume(self) -> None:
        """Allow :meth:`run` again after :meth:`kick`."""
        lib.vcpu_resume(self._native)

    def was_paused(self) -> None:
        """KVM_KVMCLOCK_CTRL: tell the guest's watchdogs that it was stopped for a while. Only for guests that use
        kvmclock."""
        try:
            k.ioctl(self.fd, k.KVM_KVMCLOCK_CTRL, 0, "KVM_KVMCLOCK_CTRL")
        except HostError as error:
            if error.errno not in (22, 25):  # EINVAL: no kvmclock in use; ENOTTY: KVM has no such call
                raise

    def count_stolen(self, memory: GuestMemory, duration: int) -> None:
        """Count *duration* ns, in which its clocks continued, as stolen from it (Linux
        ``Documentation/virt/kvm/x86/msr.rst``, MSR_KVM_STEAL_TIME). Only for guests that use it.

        Otherwise Linux takes them for CPU time of the task that ran, and a task that wakes up waits until the others of
        this vCPU have had as much.
        """
        place = self.get_msrs([_STEAL_TIME]).get(_STEAL_TIME, 0)
        if place & _ENABLED:
            gpa = place - _ENABLED
            try:
                memory.write_int(gpa, 8, memory.read_int(gpa, 8) + duration)
            except GuestError:
                pass  # the guest chose a place that is not RAM, where KVM does not write either

    def map_pages(self, memory: GuestMemory, bits: bytes) -> bool:
        """Map the pages of RAM whose *bits* are set, so that the guest takes no exit for each. Before it runs.

        :returns: whether this KVM supports it (KVM_PRE_FAULT_MEMORY: Linux 6.11)
        """
        ram = ffi.cast("void *", memory.host_address)
        return int(lib.vcpu_map_pages(self.fd, memory.native, ram, ffi.from_buffer(bits))) == 0

    def _check_still(self) -> None:
        if self.leaving is not None:
            self.leaving()
        if self.busy or self.fd < 0:
            raise ConfigError(
                f"the registers of vCPU {self.index} cannot be read: it {'runs' if self.busy else 'is closed'}",
                code="machine-state",
                hint="pause the machine first",
            )

    @property
    def regs(self) -> s.kvm_regs:
        """General registers, RIP and RFLAGS, by their names; assign the whole to set them.

        :raises ConfigError: the vCPU runs
        """
        self._check_still()
        return self.get_regs()

    @regs.setter
    def regs(self, value: s.kvm_regs) -> None:
        self._check_still()
        self.set_regs(value)

    @property
    def sregs(self) -> s.kvm_sregs:
        """Segments, descriptor tables, control registers, EFER; assign the whole to set them.

        :raises ConfigError: the vCPU runs
        """
        self._check_still()
        return self.get_sregs()

    @sregs.setter
    def sregs(self, value: s.kvm_sregs) -> None:
        self._check_still()
        self.set_sregs(value)

    def set_cpuid(self, cpuid: s.kvm_cpuid2) -> None:
        """KVM_SET_CPUID2."""
        self.cpuid = b""
        k.ioctl(self.fd, k.KVM_SET_CPUID2, cpuid, "KVM_SET_CPUID2")

    def has_lapic_enabled(self) -> bool:
        """Its local APIC is enabled by software: SVR, bit 8 (Intel SDM vol. 3, 11.9).  On its own thread."""
        return self._lapic_bit(_LAPIC_SPURIOUS, 8)

    def _lapic_bit(self, register: int, bit: int) -> bool:
        """One bit of a register of its local APIC; False if KVM has none."""
        from vmm.kvm.structs_state import kvm_lapic_state

        try:
            state = kvm_lapic_state()
            k.ioctl(self.fd, k.KVM_GET_LAPIC, state, "KVM_GET_LAPIC")
        except HostError:
            return False
        return bool(bytes(state)[register + bit // 8] >> bit % 8 & 1)

    def get_regs(self) -> s.kvm_regs:
        """General registers, RIP and RFLAGS."""
        regs = s.kvm_regs()
        k.ioctl(self.fd, k.KVM_GET_REGS, regs, "KVM_GET_REGS")
        return regs

    def set_regs(self, regs: s.kvm_regs) -> None:
        """KVM_SET_REGS."""
        k.ioctl(self.fd, k.KVM_SET_REGS, regs, "KVM_SET_REGS")

    def get_sregs(self) -> s.kvm_sregs:
        """Segments, control registers, EFER."""
        sregs = s.kvm_sregs()
        k.ioctl(self.fd, k.KVM_GET_SREGS, sregs, "KVM_GET_SREGS")
        return sregs

    def set_sregs(self, sregs: s.kvm_sregs) -> None:
        """KVM_SET_SREGS."""
        k.ioctl(self.fd, k.KVM_SET_SREGS, sregs, "KVM_SET_SREGS")

    def get_msrs(self, indexes: list[int]) -> dict[int, int]:
        """The values of up to 64 MSRs; those that KVM does not support are left out."""
        msrs, words = _msrs(indexes)
        done = k.ioctl(self.fd, k.KVM_GET_MSRS, msrs, "KVM_GET_MSRS")
        return dict(zip(indexes, words[2 : 2 + 2 * done : 2].tolist(), strict=False))

    def set_msrs(self, values: dict[int, int]) -> None:
        """Set up to 64 MSRs.

        :raises HostError: KVM does not accept one of them; the message names it
        """
        msrs, words = _msrs(values)
        if values:
            words[2 : 2 + 2 * len(values) : 2] = _words(values.values())
        done = k.ioctl(self.fd, k.KVM_SET_MSRS, msrs, "KVM_SET_MSRS")
        if done != len(values):
            raise HostError(f"KVM_SET_MSRS: MSR {list(values)[done]:#x} is refused", code="kvm-msr")

    def get_xsave(self) -> bytes:
        """x87, SSE and further registers as XSAVE writes them, 4096 bytes (Intel SDM vol. 1, 13.4)."""
        area = (u8 * XSAVE_SIZE)()
        k.ioctl(self.fd, k.KVM_GET_XSAVE, area, "KVM_GET_XSAVE")
        return bytes(area)

    def set_xsave(self, area: bytes) -> None:
        """KVM_SET_XSAVE."""
        k.ioctl(self.fd, k.KVM_SET_XSAVE, (u8 * XSAVE_SIZE).from_buffer_copy(area), "KVM_SET_XSAVE")

    def set_guest_debug(self, state: kvm_guest_debug) -> None:
        """KVM_SET_GUEST_DEBUG: set what ends :meth:`run` with KVM_EXIT_DEBUG; a state of zeros: nothing."""
        k.ioctl(self.fd, k.KVM_SET_GUEST_DEBUG, state, "KVM_SET_GUEST_DEBUG")

    def mp_state(self) -> int:
        """KVM_GET_MP_STATE: 0 runnable, 1 uninitialized, 2 init-received, 3 halted, 4 sipi-received."""
        from vmm.kvm.structs_state import kvm_mp_state

        state = kvm_mp_state()
        k.ioctl(self.fd, k.KVM_GET_MP_STATE, state, "KVM_GET_MP_STATE")
        return int(state.mp_state)

    def is_offline(self) -> bool:
        """The guest does not use it: it waits for a start-up IPI, or has halted with interrupts off, as Linux leaves an
        offline CPU.

        A CPU that waits for a paravirtual spinlock halts with interrupts off, too. Its local APIC still reports errors,
        which Linux masks before a CPU goes offline.
        """
        state = self.mp_state()
        if state == MP_HALTED:
            return not self.get_regs().rflags & _INTERRUPTS and self._lapic_bit(_LAPIC_LVT_ERROR, _LVT_MASKED)
        return state in (MP_UNINITIALIZED, MP_INIT_RECEIVED)

    def await_startup(self) -> None:
        """Make it wait for a start-up IPI; one that was sent before is dropped."""
        from vmm.kvm.structs_state import kvm_mp_state

        if self.mp_state() != MP_UNINITIALIZED:
            k.ioctl(self.fd, k.KVM_SET_MP_STATE, kvm_mp_state(mp_state=MP_UNINITIALIZED), "KVM_SET_MP_STATE")

    def tsc_khz(self) -> int:
        """The guest's TSC frequency in kHz, 0 if KVM does not report it."""
        try:
            return k.ioctl(self.fd, k.KVM_GET_TSC_KHZ, 0, "KVM_GET_TSC_KHZ")
        except HostError:
            return 0

    def translate(self, address: int) -> int | None:
        """The guest physical address of guest virtual *address*, None when it is not mapped."""
        from vmm.kvm.structs_debug import kvm_translation

        result = kvm_translation(linear_address=address)
        k.ioctl(self.fd, k.KVM_TRANSLATE, result, "KVM_TRANSLATE")
        return int(result.physical_address) if result.valid else None

    def exit_counts(self) -> dict[str, Any]:
        """Exits outside the kernel: ``c`` and ``python`` by ``KVM_EXIT_*`` number, ``unclaimed``; ``first_run_ns``."""
        stats = ffi.new("struct vcpu_stats *")
        lib.vcpu_stats(self._native, stats)
        return {
            "c": {reason: int(n) for reason, n in enumerate(stats.c) if n},
            "python": {reason: int(n) for reason, n in enumerate(stats.python) if n},
            "unclaimed": int(stats.unclaimed),
            "first_run_ns": int(stats.first_run_ns),
        }

    def stats(self) -> dict[str, int]:
        """KVM's counters of this vCPU, by the kernel's names (``exits``, ``halt_exits``, ``irq_injections``, ...). At
        any time."""
        return read_stats(self._stats_fd)

    def close(self) -> None:
        """Free everything, while no thread is inside :meth:`run`.  A second call does nothing."""
        if self.fd < 0:
            return
        with self._kicks:
            native, self._native = self._native, None
        if native is not None:
            lib.vcpu_free(native)
        self._kvm_run = None  # it and the buffer export the mapping
        ffi.release(self._buffer)
        try:
            self._map.close()
        except BufferError:
            pass  # a traceback still refers to a part of it; it is unmapped when that goes
        if self._stats_fd >= 0:
            posix.close(self._stats_fd)
        posix.close(self.fd)
        self.fd = -1
