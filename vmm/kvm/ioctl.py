"""Calling ioctl(2) through ctypes, and the numbers of ``<linux/kvm.h>``."""

from __future__ import annotations

import posix
import struct

from vmm.errors import HostError
from vmm.faststart.ctype import addressof, get_errno, i32, libc, pointer, u64
from vmm.native import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Sequence
    from typing import Any

_ioctl = libc("ioctl")
_ioctl.argtypes = (i32, u64, pointer)

_KVMIO = 0xAE
_WRITE, _READ = 1, 2


def _io(nr: int) -> int:
    return _KVMIO << 8 | nr


def _iow(nr: int, size: int) -> int:
    return _WRITE << 30 | size << 16 | _KVMIO << 8 | nr


def _ior(nr: int, size: int) -> int:
    return _READ << 30 | size << 16 | _KVMIO << 8 | nr


def _iowr(nr: int, size: int) -> int:
    return (_READ | _WRITE) << 30 | size << 16 | _KVMIO << 8 | nr


# /dev/kvm
KVM_GET_API_VERSION = _io(0x00)
KVM_CREATE_VM = _io(0x01)
KVM_GET_MSR_INDEX_LIST = _iowr(0x02, 4)
KVM_CHECK_EXTENSION = _io(0x03)
KVM_GET_VCPU_MMAP_SIZE = _io(0x04)
KVM_GET_SUPPORTED_CPUID = _iowr(0x05, 8)
# a VM
KVM_CREATE_VCPU = _io(0x41)
KVM_SET_USER_MEMORY_REGION = _iow(0x46, 32)
KVM_SET_TSS_ADDR = _io(0x47)
KVM_SET_IDENTITY_MAP_ADDR = _iow(0x48, 8)
KVM_CREATE_IRQCHIP = _io(0x60)
KVM_IRQ_LINE = _iow(0x61, 8)
KVM_GET_IRQCHIP = _iowr(0x62, 520)
KVM_SET_IRQCHIP = _ior(0x63, 520)
KVM_SET_GSI_ROUTING = _iow(0x6A, 8)
KVM_IRQFD = _iow(0x76, 32)
KVM_IOEVENTFD = _iow(0x79, 64)
KVM_SET_CLOCK = _iow(0x7B, 48)
KVM_GET_CLOCK = _ior(0x7C, 48)
KVM_ENABLE_CAP = _iow(0xA3, 104)
# a vCPU
KVM_RUN = _io(0x80)
KVM_GET_REGS = _ior(0x81, 144)
KVM_SET_REGS = _iow(0x82, 144)
KVM_GET_SREGS = _ior(0x83, 312)
KVM_SET_SREGS = _iow(0x84, 312)
KVM_TRANSLATE = _iowr(0x85, 24)
KVM_GET_MSRS = _iowr(0x88, 8)
KVM_SET_MSRS = _iow(0x89, 8)
KVM_GET_LAPIC = _ior(0x8E, 1024)
KVM_SET_LAPIC = _iow(0x8F, 1024)
KVM_SET_CPUID2 = _iow(0x90, 8)
KVM_GET_CPUID2 = _iowr(0x91, 8)
KVM_GET_MP_STATE = _ior(0x98, 4)
KVM_SET_MP_STATE = _iow(0x99, 4)
KVM_GET_VCPU_EVENTS = _ior(0x9F, 64)
KVM_SET_VCPU_EVENTS = _iow(0xA0, 64)
KVM_GET_DEBUGREGS = _ior(0xA1, 128)
KVM_SET_DEBUGREGS = _iow(0xA2, 128)
KVM_SET_TSC_KHZ = _io(0xA2)
KVM_GET_TSC_KHZ = _io(0xA3)
KVM_GET_XCRS = _ior(0xA6, 392)
KVM_SET_XCRS = _iow(0xA7, 392)
KVM_GET_XSAVE2 = _ior(0xCF, 4096)
KVM_SET_DEVICE_ATTR = _iow(0xE1, 24)
KVM_GET_DEVICE_ATTR = _iow(0xE2, 24)
KVM_KVMCLOCK_CTRL = _io(0xAD)
KVM_GET_XSAVE = _ior(0xA4, 4096)
KVM_SET_XSAVE = _iow(0xA5, 4096)
KVM_SET_GUEST_DEBUG = _iow(0x9B, 72)
KVM_GET_STATS_FD = _io(0xCE)

API_VERSION = 12

CAP_IRQCHIP = 0
CAP_USER_MEMORY = 3
CAP_EXT_CPUID = 7
CAP_IRQFD = 32
CAP_IOEVENTFD = 36
CAP_MAX_VCPUS = 66
CAP_TSC_DEADLINE_TIMER = 72
CAP_READONLY_MEM = 81
CAP_IOEVENTFD_ANY_LENGTH = 122
CAP_IMMEDIATE_EXIT = 136
CAP_XSAVE2 = 208
CAP_PMU_CAPABILITY = 212

EXIT_UNKNOWN = 0
EXIT_EXCEPTION = 1
EXIT_IO = 2
EXIT_HYPERCALL = 3
EXIT_DEBUG = 4
EXIT_HLT = 5
EXIT_MMIO = 6
EXIT_IRQ_WINDOW_OPEN = 7
EXIT_SHUTDOWN = 8
EXIT_FAIL_ENTRY = 9
EXIT_INTR = 10
EXIT_SET_TPR = 11
EXIT_TPR_ACCESS = 12
EXIT_INTERNAL_ERROR = 17
EXIT_SYSTEM_EVENT = 24
EXIT_NAMES = {
    EXIT_UNKNOWN: "unknown",
    EXIT_EXCEPTION: "exception",
    EXIT_IO: "io",
    EXIT_HYPERCALL: "hypercall",
    EXIT_DEBUG: "debug",
    EXIT_HLT: "hlt",
    EXIT_MMIO: "mmio",
    EXIT_IRQ_WINDOW_OPEN: "irq-window-open",
    EXIT_SHUTDOWN: "shutdown",
    EXIT_FAIL_ENTRY: "fail-entry",
    EXIT_INTR: "intr",
    EXIT_SET_TPR: "set-tpr",
    EXIT_TPR_ACCESS: "tpr-access",
    EXIT_INTERNAL_ERROR: "internal-error",
    EXIT_SYSTEM_EVENT: "system-event",
}


def ioctl(fd: int, request: int, argument: Any = None, what: str = "ioctl") -> int:
    """Call ioctl(2), again after EINTR.

    :param argument: an int, or a ctypes object passed by reference
    :returns: the result of the call, never negative
    :raises HostError: it failed; :attr:`HostError.errno` has the reason
    """
    address = argument if argument is None or isinstance(argument, int) else addressof(argument)
    while True:
        result: int = _ioctl(fd, request, address)
        if result >= 0:
            return result
        errno = get_errno()
        if errno != 4:  # EINTR
            raise HostError(f"{what}: {posix.strerror(errno)}", code="kvm-ioctl", errno=errno)


def ioctls(calls: Sequence[tuple[int, int, bytes, str]], may_fail: Container[int] = ()) -> tuple[memoryview, list[int]]:
    """Several calls of ioctl(2), one after the other, without Python in between.

    KVM_GET_MSRS reads everything that KVM has for this guest, and returns the count.

    :param calls: of each: descriptor, request, the argument passed by reference, and its name in errors
    :param may_fail: indexes of those that the host may refuse
    :returns: the arguments passed by reference, after the calls, concatenated; and the result of each, or -errno
    :raises HostError: another one failed; the calls after it were made too
    """
    room, n, at = bytearray().join([call[2] for call in calls]), len(calls), 0
    words: list[int] = []
    for fd, request, argument, _ in calls:
        words += request, at, fd
        at += len(argument)
    table = bytearray(struct.pack(f"={3 * n}Q", *words))
    lib.ioctl_all(ffi.from_buffer(room), ffi.from_buffer(table), n)
    results = memoryview(table).cast("i")[5::6].tolist()
    if min(results) < 0:
        for index, result in enumerate(results):
            if result < 0 and index not in may_fail:
                raise HostError(f"{calls[index][3]}: {posix.strerror(-result)}", code="kvm-ioctl", errno=-result)
    return memoryview(room), results
