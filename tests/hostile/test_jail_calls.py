"""A thread of a jailed machine that somebody has taken over: vCPU, control loop or the first one, which all run Python.

The calls come from code of the tests' own: a start of the command with a function of a thread's replaced.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import tiny
from tools import calls
from tools.where import ROOT
from vmm import BootConfig, DiskConfig, MachineConfig, ShareConfig
from vmm.cli.jail import calls_of
from vmm.native import ffi, lib

pytestmark = [
    pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="no /dev/kvm here"),
    pytest.mark.skipif(os.geteuid() != 0, reason="looks at a machine that has root's jail"),
]

CALLS: dict[str, tuple[int, ...]] = {
    "open": (2, 0, 0),
    "openat": (257, -100, 0, 0),
    "socket": (41, 1, 1, 0),
    "execve": (59, 0, 0, 0),
    "ptrace": (101, 0, 0, 0),
    "mount": (165, 0, 0, 0, 0, 0),
    "kill": (62, 1, 0),
    "ioctl": (16, -1, 0xAE01, 0),  # KVM_CREATE_VM
    "clone": (56, 17, 0, 0, 0, 0),
    "mmap": (9, 0, 4096, 7, 0x22, -1, 0),
    "unshare": (272, 0x10000000),
    "fcntl": (72, 0, 1030, 0),
}
THREADS = {
    "vcpu0": "vmm.machine.vcpu_threads:VcpuThreads._io",
    "loop": "vmm.machine.machine:Machine._serve",
    "python": "vmm.cli.signals:Signals.wait",
}
HOOK = """
import ctypes, importlib, sys
from vmm.cli.main import main
libc = ctypes.CDLL(None)
module, _, name = sys.argv[1].partition(":")
kind, _, function = name.partition(".")
numbers = [ctypes.c_long(int(word)) for word in sys.argv[2].split(",")]
taken_over = lambda *_: print("survived", libc.syscall(*numbers))
setattr(getattr(importlib.import_module(module), kind), function, taken_over)
sys.exit(main(sys.argv[3:]))
"""


@pytest.mark.parametrize("thread", THREADS)
@pytest.mark.parametrize("call", CALLS)
def test_the_process_ends(tmp_path: Path, thread: str, call: str) -> None:
    # A vCPU comes to Python by the register of the power; the others must not find the machine ended
    kernel = tiny.make(tmp_path, tiny.POWEROFF + tiny.SPIN if thread == "vcpu0" else tiny.SPIN)
    numbers = ",".join(str(number) for number in CALLS[call])
    boot = ["boot", "--kernel", str(kernel), "--memory", "32M", "--timeout", "20"]
    command = [sys.executable, "-c", HOOK, THREADS[thread], numbers, *boot]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert "survived" not in done.stdout
    assert f"thread {thread[:6]}" in done.stderr and f"system call {call} ({CALLS[call][0]})" in done.stderr
    assert done.returncode == 1


def names(kinds: int) -> set[str]:
    row = ffi.new("struct seccomp_row *")
    found, index = set(), 0
    while lib.seccomp_row(index, row) == 0:
        if row.whose & kinds:
            found.add(ffi.string(row.name).decode())
        index += 1
    return found


def test_lists_are_short() -> None:
    """A machine with disks and networks, on a terminal; a share's window on top."""
    machine = lib.SECCOMP_VMM | lib.SECCOMP_BLK | lib.SECCOMP_DISK | lib.SECCOMP_NET | lib.SECCOMP_CONSOLE
    machine |= lib.SECCOMP_TTY | lib.SECCOMP_CHILD
    assert len(names(lib.SECCOMP_VMM)) <= 45
    assert len(names(machine | lib.SECCOMP_DAX)) <= 60
    assert not names(machine | lib.SECCOMP_DAX) & {"open", "openat", "socket", "execve", "ptrace", "mount"}


def test_docs_show_the_lists() -> None:
    """Those of threads in docs/system-calls.md are held by test_fs_server.py, like all of that page."""
    assert calls.security() == calls.SECURITY.read_text(), "python -m tools.calls --write"
    for kind in ("BLK", "NET", "VSOCK", "CONSOLE", "PMEM", "DAX", "VMM"):
        shown = {row.name for row in calls.rows() if kind in row.whose}
        assert shown == names(getattr(lib, f"SECCOMP_{kind}")), "what is shown is what filters are made of"


def test_a_root_disk_beside_a_share_has_the_calls_of_a_disk() -> None:
    disk = lib.SECCOMP_BLK | lib.SECCOMP_DISK
    boot, share = BootConfig("vmlinux"), ShareConfig("/")
    assert calls_of(MachineConfig(boot, rootfs=DiskConfig("disk.img"), shares=(share,))) & disk == disk
    assert not calls_of(MachineConfig(boot, rootfs=share)) & disk
    assert calls_of(MachineConfig(boot, rootfs=share)) & lib.SECCOMP_DAX
