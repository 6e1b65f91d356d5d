"""/dev/kvm itself."""

from __future__ import annotations

import posix

from vmm.errors import HostError
from vmm.faststart.ctype import u32
from vmm.kvm import ioctl as k
from vmm.kvm.structs import MAX_CPUID_ENTRIES, kvm_cpuid2
from vmm.kvm.vm import Vm

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

ENOENT, EACCES, EPERM = 2, 13, 1

_MAX_MSR_INDEXES = 1024
"""KVM has some 150."""
_REQUIRED = (
    (k.CAP_IRQCHIP, "in-kernel interrupt controllers"),
    (k.CAP_USER_MEMORY, "user memory regions"),
    (k.CAP_EXT_CPUID, "CPUID"),
    (k.CAP_IRQFD, "irqfd"),
    (k.CAP_IOEVENTFD, "ioeventfd"),
    (k.CAP_IMMEDIATE_EXIT, "immediate_exit"),
)


class System:
    """An open /dev/kvm.  Owns its descriptor; a context manager.

    :raises HostError: it is absent, not permitted, or too old; the hint has the remedy
    """

    def __init__(self, path: str = "/dev/kvm") -> None:
        self.fd = -1
        try:
            self.fd = posix.open(path, posix.O_RDWR | posix.O_CLOEXEC)
        except OSError as error:
            hint = {
                ENOENT: "load the module: modprobe kvm_intel or kvm_amd; in a virtual machine, nested virtualization "
                "has to be on in its host",
                EACCES: "add yourself to the group that owns it: sudo usermod -aG kvm $USER, then log in again",
                EPERM: "the container or sandbox forbids the device; pass it in, for example --device /dev/kvm",
            }.get(error.errno or 0, "run: pyvmm doctor")
            raise HostError(
                f"cannot open {path}: {error.strerror}", code="kvm-open", hint=hint, errno=error.errno or 0
            ) from error
        try:
            self.mmap_size = self._check()
        except BaseException:
            self.close()
            raise

    def _check(self) -> int:
        try:
            version = k.ioctl(self.fd, k.KVM_GET_API_VERSION, what="KVM_GET_API_VERSION")
        except HostError as error:
            raise HostError("this is no KVM device", code="kvm-version", hint="run: pyvmm doctor") from error
        if version != k.API_VERSION:
            raise HostError(f"KVM API version {version}, expected {k.API_VERSION}", code="kvm-version")
        for capability, name in _REQUIRED:
            if not self.check_extension(capability):
                raise HostError(f"this KVM has no {name}", code="kvm-capability", hint="a newer host kernel is needed")
        return k.ioctl(self.fd, k.KVM_GET_VCPU_MMAP_SIZE, what="KVM_GET_VCPU_MMAP_SIZE")

    def check_extension(self, capability: int) -> int:
        """0 if KVM lacks *capability*, else a number whose meaning depends on it."""
        return k.ioctl(self.fd, k.KVM_CHECK_EXTENSION, capability, "KVM_CHECK_EXTENSION")

    def supported_cpuid(self) -> kvm_cpuid2:
        """The CPUID leaves that KVM can give a guest; a fresh copy."""
        cpuid = kvm_cpuid2(nent=MAX_CPUID_ENTRIES)
        k.ioctl(self.fd, k.KVM_GET_SUPPORTED_CPUID, cpuid, "KVM_GET_SUPPORTED_CPUID")
        return cpuid

    def msr_indexes(self) -> Sequence[int]:
        """The MSRs that this KVM can save; it supports some more."""
        room = (u32 * (1 + _MAX_MSR_INDEXES))(_MAX_MSR_INDEXES)
        k.ioctl(self.fd, k.KVM_GET_MSR_INDEX_LIST, room, "KVM_GET_MSR_INDEX_LIST")
        return room[1 : 1 + room[0]]

    def create_vm(self) -> Vm:
        """A new VM without memory, vCPUs or interrupt controllers.  Outlives this object."""
        return Vm(k.ioctl(self.fd, k.KVM_CREATE_VM, 0, "KVM_CREATE_VM"), self.mmap_size)

    def close(self) -> None:
        """Close /dev/kvm.  A second call does nothing."""
        if self.fd >= 0:
            posix.close(self.fd)
            self.fd = -1

    def __enter__(self) -> System:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
