"""``pyvmm doctor``: check whether this host can run virtual machines, and print remedies."""

from __future__ import annotations

import errno
import os
import sys

from vmm.cli.options import Option, parse
from vmm.cli.options import parser as make_parser
from vmm.errors import HostError
from vmm.faststart.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

PROG = "pyvmm doctor"
DESCRIPTION = "Check whether this host can run virtual machines, what it supports, and what to do about the rest."
EPILOG = """\
exit status:
   0  KVM is usable: guests run on the CPU
   1  KVM is there but not usable
   2  there is no KVM (also: the command line is not right)
"""
OPTIONS = (
    Option("--json", "", "print one JSON object instead of text"),
    Option("--quiet", "", "print nothing: the exit status is 0 if KVM is usable"),
)

USABLE, UNUSABLE, ABSENT = "usable", "unusable", "absent"
EXIT_STATUS = {USABLE: 0, UNUSABLE: 1, ABSENT: 2}

_HARDWARE_HINT = (
    "use a machine with hardware virtualization: bare metal with it switched on in the firmware, or a virtual machine "
    "whose host has nested virtualization on (a source checkout brings an emulated one: make demo, make lab)"
)


@dataclass(frozen=True)
class KvmVerdict:
    """A verdict on /dev/kvm.

    :ivar status: ``usable``, ``unusable`` or ``absent``
    :ivar cause: a stable word: ``ok``; ``permission``, ``forbidden`` (by a container or sandbox), ``busy`` (another
        hypervisor has the CPU), ``pvm``, ``emulated``, ``no-hardware``, ``too-old``, ``broken``; ``absent``
    :ivar detail: what was found, in words
    :ivar hint: what to do, or empty
    """

    status: str
    cause: str
    detail: str
    hint: str = ""

    @property
    def usable(self) -> bool:
        """KVM runs guests on the CPU here."""
        return self.status == USABLE


@dataclass(frozen=True)
class Capability:
    """An optional feature that makes guests faster or more capable.

    :ivar present: it can be used
    :ivar detail: what was found
    :ivar hint: how to enable it, or empty
    """

    name: str
    present: bool
    detail: str
    hint: str = ""


def _read(path: str) -> str | None:
    try:
        with open(path) as file:
            return file.read().strip()
    except (OSError, UnicodeDecodeError):
        return None


def cpu_virtualization(root: str = "") -> str:
    """``vmx``, ``svm`` or empty, from the flags of the first CPU in /proc/cpuinfo.

    :param root: the folder whose proc is read
    """
    for line in (_read(f"{root}/proc/cpuinfo") or "").splitlines():
        if line.startswith("flags"):
            flags = line.split()
            return "vmx" if "vmx" in flags else "svm" if "svm" in flags else ""
    return ""


def kvm_verdict(path: str = "/dev/kvm", *, remembered: bool = False) -> KvmVerdict:
    """Open *path*, make a VM, and run a guest of five instructions in it; takes some milliseconds.

    :param remembered: that KVM runs guests, or emulates them, as found since the host has booted, is not tried again
    :raises HostError: the C extension is not built
    """
    from vmm.cli import kvm_cache

    if remembered and (known := kvm_cache.recall(path)) is not None:
        return KvmVerdict(USABLE, *known) if known[0] == "ok" else KvmVerdict(UNUSABLE, *known, _HARDWARE_HINT)
    verdict = _tried(path)
    if remembered and verdict.cause in ("ok", "emulated", "pvm"):
        kvm_cache.keep(path, verdict.cause, verdict.detail)
    return verdict


def _tried(path: str) -> KvmVerdict:
    try:
        from vmm.kvm import System
        from vmm.kvm.probe import EMULATED, NATIVE, probe
    except ImportError as error:
        raise HostError(
            f"the C extension is missing: {error}", code="native", hint="install the package, or run: make deps"
        ) from error
    try:
        with System(path) as system:
            found = probe(system)
    except HostError as error:
        return _refused(path, error)
    if found.result == NATIVE:
        return KvmVerdict(USABLE, "ok", found.detail)
    if found.result != EMULATED:
        return KvmVerdict(UNUSABLE, "broken", found.detail, "see dmesg for what KVM says, and " + _HARDWARE_HINT)
    if cpu_virtualization():
        return KvmVerdict(UNUSABLE, "emulated", found.detail, _HARDWARE_HINT)
    return KvmVerdict(
        UNUSABLE, "pvm", f"a paravirtual KVM (PVM): the CPU has neither VMX nor SVM. {found.detail}", _HARDWARE_HINT
    )


def _refused(path: str, error: HostError) -> KvmVerdict:
    """The verdict on a KVM that cannot be opened, or that makes no VM."""
    if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        if error.code != "kvm-open":
            return KvmVerdict(UNUSABLE, "no-hardware", str(error), _HARDWARE_HINT)
        kind = cpu_virtualization()
        module = {"vmx": "kvm_intel", "svm": "kvm_amd"}.get(kind)
        if module is None:
            return KvmVerdict(ABSENT, "absent", f"no {path}, and the CPU has neither VMX nor SVM", _HARDWARE_HINT)
        return KvmVerdict(
            ABSENT,
            "absent",
            f"no {path}, though the CPU has {kind.upper()}",
            f"load the module: sudo modprobe {module}; if it refuses, dmesg says why (often: switched off in the "
            "firmware)",
        )
    if error.errno == errno.EACCES:
        return KvmVerdict(UNUSABLE, "permission", str(error), error.hint)
    if error.errno == errno.EPERM:
        return KvmVerdict(UNUSABLE, "forbidden", str(error), error.hint)
    if error.errno == errno.EBUSY:
        return KvmVerdict(UNUSABLE, "busy", str(error), "another hypervisor uses the CPU; end it, or unload its module")
    if error.code in ("kvm-version", "kvm-capability"):
        return KvmVerdict(UNUSABLE, "too-old", str(error), error.hint)
    return KvmVerdict(UNUSABLE, "broken", str(error), "see dmesg for what KVM says")


def second_level_paging(root: str = "") -> Capability:
    """EPT or NPT: without it KVM shadows every page table of the guest."""
    name = "second-level paging"
    for module, parameter, label in (("kvm_intel", "ept", "EPT"), ("kvm_amd", "npt", "NPT")):
        value = _read(f"{root}/sys/module/{module}/parameters/{parameter}")
        if value in ("Y", "1"):
            return Capability(name, True, label)
        if value is not None:
            hint = f"if the CPU has it: sudo modprobe -r {module} && sudo modprobe {module} {parameter}=1"
            return Capability(name, False, f"{label} is off", hint)
    return Capability(name, False, "neither kvm_intel nor kvm_amd is loaded")


def reserved_huge_pages(root: str = "") -> Capability:
    """Pages for ``--huge-pages hugetlb``."""
    base = f"{root}/sys/kernel/mm/hugepages/hugepages-2048kB"
    total, free = _read(f"{base}/nr_hugepages"), _read(f"{base}/free_hugepages")
    name = "reserved huge pages"
    if total is None or free is None:
        return Capability(name, False, "this kernel has no 2 MiB pages")
    hint = "for a guest of 512 MiB: sudo sysctl vm.nr_hugepages=256"
    return Capability(name, int(free) > 0, f"{free} of {total} pages of 2 MiB are free", "" if int(free) else hint)


def transparent_huge_pages(root: str = "") -> Capability:
    """Pages of 2 MiB for guest memory that is private, as it is by default."""
    file = "/sys/kernel/mm/transparent_hugepage/enabled"
    name = "transparent huge pages"
    text = _read(root + file)
    if text is None:
        return Capability(name, False, "this kernel has none")
    mode = text.partition("[")[2].partition("]")[0]
    present = mode in ("always", "madvise")
    hint = f"guests boot faster with them: echo madvise | sudo tee {file}"
    return Capability(name, present, f"set to {mode}", "" if present else hint)


def io_uring(root: str = "") -> Capability:
    """Disk I/O through io_uring; without it, pread and pwrite in a thread."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    parameters = ctypes.create_string_buffer(120)  # struct io_uring_params
    fd = libc.syscall(425, 2, parameters)  # io_uring_setup, the same number on every architecture
    if fd >= 0:
        os.close(fd)
        return Capability("io_uring", True, "works")
    code = ctypes.get_errno()
    disabled = _read(f"{root}/proc/sys/kernel/io_uring_disabled")
    if code == errno.EPERM and disabled in ("1", "2"):
        hint = "sudo sysctl kernel.io_uring_disabled=0"
        return Capability("io_uring", False, f"kernel.io_uring_disabled is {disabled}", hint)
    hint = "a container or sandbox may forbid it" if code in (errno.EPERM, errno.ENOSYS) else ""
    return Capability("io_uring", False, os.strerror(code), hint)


def mitigations(root: str = "") -> Capability:
    """Mitigations of the host's kernel against speculation leaks; guests get the controls that it has."""
    name, folder = "mitigations", f"{root}/sys/devices/system/cpu/vulnerabilities"
    try:
        states = {each: _read(f"{folder}/{each}") or "" for each in sorted(os.listdir(folder))}
    except OSError:
        return Capability(name, False, "this kernel does not tell", "a guest may read what the host has in memory")
    open_ = [each for each, state in states.items() if state.startswith("Vulnerable")]
    if not open_:
        return Capability(name, True, f"nothing of {len(states)} kinds is open")
    hint = "a guest may read the host's memory: no mitigations=off, and the CPU maker's newest microcode"
    return Capability(name, False, f"open: {', '.join(open_)}", hint)


def no_smt(root: str = "") -> Capability:
    """SMT: sibling threads of a core can observe each other through side channels."""
    name, active = "SMT off", _read(f"{root}/sys/devices/system/cpu/smt/active")
    if active != "1":
        return Capability(name, True, "each CPU is a core of its own" if active == "0" else "this CPU has no SMT")
    hint = "where guests do not trust each other: echo off | sudo tee /sys/devices/system/cpu/smt/control"
    return Capability(name, False, "vCPUs of two guests may share a core", hint)


def no_ksm(root: str = "") -> Capability:
    """KSM: merged pages reveal to a guest what others have in memory."""
    name, file = "KSM off", "/sys/kernel/mm/ksm/run"
    if _read(root + file) != "1":
        return Capability(name, True, "no memory is merged")
    hint = f"guest memory is merged only if asked for; for everybody: echo 2 | sudo tee {file}"
    return Capability(name, False, "equal pages of programs that ask for it are merged", hint)


def memory_on_demand() -> Capability:
    """userfaultfd: a clone with a share copies only the pages of its template that it touches."""
    from vmm.native import lib

    name = "memory on demand"
    opened: int = lib.fill_device()
    made: int = lib.fill_uffd(opened if opened >= 0 else -1)
    for fd in (opened, made):
        if fd >= 0:
            os.close(fd)
    if made >= 0:
        return Capability(name, True, "by /dev/userfaultfd" if opened >= 0 else "by userfaultfd(2)")
    hint = "for clones with shares: give the user /dev/userfaultfd, or sudo sysctl vm.unprivileged_userfaultfd=1"
    return Capability(name, False, f"userfaultfd: {os.strerror(-made)}", hint)


def device(name: str, path: str, module: str) -> Capability:
    """Whether the device node *path* can be opened."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
            return Capability(name, False, f"no {path}", f"sudo modprobe {module}")
        hint = f"ls -l {path} shows who may" if error.errno == errno.EACCES else "a container or sandbox may forbid it"
        return Capability(name, False, f"{path}: {error.strerror}", hint)
    return Capability(name, True, path)


def jail() -> Capability:
    """The parts of the jail that ``pyvmm boot`` could apply before a guest runs, tried by a separate process."""
    from vmm.processes.jail import enter

    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            walls = enter.enter(enter.JailLimits())
            os.write(writer, f"{' '.join(walls.names())}\n{walls.missing}".encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader) as pipe:
        names, _, missing = pipe.read().partition("\n")
    os.waitpid(child, 0)
    return Capability("jail", bool(names) and not missing, names + (missing and f"; not to be had: {missing}"))


def capabilities() -> tuple[Capability, ...]:
    """All of them, with those that other packages report."""
    from vmm.cli.plugins import external_checks

    others = [
        Capability(found.name, found.present, found.detail, found.hint)
        for module in external_checks()
        for found in module.capabilities()
    ]
    return (
        second_level_paging(),
        reserved_huge_pages(),
        transparent_huge_pages(),
        io_uring(),
        mitigations(),
        no_smt(),
        no_ksm(),
        memory_on_demand(),
        device("vhost-net", "/dev/vhost-net", "vhost_net"),
        device("vhost-vsock", "/dev/vhost-vsock", "vhost_vsock"),
        device("tun", "/dev/net/tun", "tun"),
        jail(),
        *others,
    )


def next_steps(usable: bool) -> list[str]:
    """What to do now, by what is installed here.

    :param usable: KVM is
    """
    from vmm.cli.plugins import DOCTOR, GUEST_PACKAGE, entry_points

    if not usable:
        if "sentry" in entry_points(group=DOCTOR):
            return ["run a program without KVM: pyvmm-runsc do PROGRAM"]
        return [
            "make KVM usable, as the first lines describe; or run programs without it: pip install ./examples/sentry"
        ]
    try:
        import pyvmm_guest

        there = os.path.exists(pyvmm_guest.kernel())
    except ImportError:
        there = False
    steps = ["boot a guest: pyvmm boot --rootfs PATH" if there else "boot a guest: pyvmm boot --kernel FILE"]
    if not there:
        steps.append(f"or install a kernel, in a checkout: {GUEST_PACKAGE}")
    if "run" in entry_points():
        steps.append("run a container in a machine of its own: pyvmm run IMAGE")
    return steps


def report(verdict: KvmVerdict, found: tuple[Capability, ...], steps: list[str]) -> str:
    """All of them as text."""
    lines = [f"KVM is {verdict.status}: {verdict.detail}"]
    if verdict.hint:
        lines.append(f"    do: {verdict.hint}")
    width = max(len(item.name) for item in found)
    for item in found:
        lines.append(f"{'yes' if item.present else 'no':<3}  {item.name:<{width}}  {item.detail}")
        if item.hint:
            lines.append(f"{'':<5}{'':<{width}}  do: {item.hint}")
    lines += [f"next: {step}" for step in steps]
    return "\n".join(lines) + "\n"


def parser() -> argparse.ArgumentParser:
    """For help and shell completion."""
    return make_parser(PROG, DESCRIPTION, OPTIONS, EPILOG)


def main(argv: list[str]) -> int:
    """Run the command; returns its exit status."""
    values: dict[str, Any] = parse(PROG, DESCRIPTION, OPTIONS, argv, lambda: EPILOG)
    verdict = kvm_verdict()
    if values["quiet"]:
        pass
    elif values["json"]:
        import json

        kvm = {"status": verdict.status, "cause": verdict.cause, "detail": verdict.detail, "hint": verdict.hint}
        table = {
            item.name: {"present": item.present, "detail": item.detail, "hint": item.hint} for item in capabilities()
        }
        answer = {"kvm": kvm, "capabilities": table, "next": next_steps(verdict.usable)}
        sys.stdout.write(json.dumps(answer, indent=2) + "\n")
    else:
        sys.stdout.write(report(verdict, capabilities(), next_steps(verdict.usable)))
    return EXIT_STATUS[verdict.status]
