"""Processes that give up what they do not need: restrict_process() and seal_process()."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import tiny
from tools.where import ROOT
from vmm import restrict_process, seal_process
from vmm.errors import ConfigError
from vmm.native import ffi, lib
from vmm.processes.jail.restrict import CAPABILITIES

pytestmark = [
    pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="no /dev/kvm here"),
    pytest.mark.skipif(os.geteuid() != 0, reason="root has more to give up"),
]


RESTRICTED = """
import ctypes, os, threading
from vmm import restrict_process, seal_process
libc = ctypes.CDLL(None, use_errno=True)
def answer(*numbers):
    result = libc.syscall(*map(ctypes.c_long, numbers))
    return ctypes.get_errno() if result < 0 else 0
walls = restrict_process(["dac_override", "sys_admin"])
print(*walls.names())
print(*[open("/proc/self/status").read().split(name)[1].split()[0] for name in ("CapEff:", "CapBnd:", "NoNewPrivs:")])
print(os.stat("/proc/self/mem").st_mode, *[answer(number, 0, 0) for number in (101, 310, 175, 246, 304, 0x40000065)])
os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)
seal_process()
kvm = os.open("/dev/kvm", os.O_RDWR)
print(answer(59, 0, 0), answer(16, kvm, 0xAE01, 0), answer(57), answer(56, 17, 0, 0, 0, 0), answer(435, 0, 0))
thread = threading.Thread(target=lambda: print(answer(59, 0, 0)))
thread.start()
thread.join()
"""


def test_a_process_that_goes_on_serving_its_host() -> None:
    """It keeps what it asked for, and never makes what nobody needs: no modules, no looking into others; at last no
    programs, processes and machines."""
    done = subprocess.run([sys.executable, "-c", RESTRICTED], cwd=ROOT, capture_output=True, text=True, check=True)
    walls, status, refused, sealed, thread = done.stdout.splitlines()
    assert {"capabilities", "no-new-privs", "ipc-ns", "uts-ns", "limits", "seccomp", "undumpable"} <= set(walls.split())
    assert status.split() == [f"{1 << 1 | 1 << 21:016x}"] * 2 + ["1"]
    assert refused.split()[1:] == [str(errno.EPERM)] * 5 + [str(errno.ENOSYS)]
    assert sealed.split() == [str(errno.EPERM)] * 4 + [str(errno.ENOSYS)]
    assert thread == str(errno.EPERM)


def test_no_such_capability() -> None:
    with pytest.raises(ConfigError, match="'root' is no capability"):
        restrict_process(["root"])
    with pytest.raises(ConfigError, match="'root' is no capability"):
        seal_process(["root"])


LISTED = """
import ctypes, errno, os, socket, sys, threading
from tests import tiny
from vmm import Machine, restrict_process, seal_process
libc = ctypes.CDLL(None, use_errno=True)
def answer(*numbers):
    result = libc.syscall(*map(ctypes.c_long, numbers))
    return ctypes.get_errno() if result < 0 else 0
def look():
    print(*[n for n in range(480) if n not in listed and answer(n, 0, 0, 0, 0, 0) != errno.ENOSYS])
    print(*[answer(*numbers) for numbers in arguments])
    fields = [line.split() for line in open("/proc/thread-self/status")]
    print(*[words[1] for words in fields if words[0] in ("CapEff:", "CapPrm:")])
restrict_process(["sys_admin", "dac_override", "setuid"])
programs = sys.argv[2] == "True"
listed = {*map(int, sys.argv[3:]), 335, 336}  # and two that the kernel itself puts into a program (uprobes)
sealed = threading.Event()
earlier = threading.Thread(target=lambda: sealed.wait() and look())
earlier.start()
console = tiny.Console()
null = os.open("/dev/null", os.O_RDWR)
# socket: packets, the host's virtual machines, keys; ioctl: TIOCSTI, FITRIM, KVM_CREATE_VM; fcntl: F_NOTIFY, F_SETOWN;
# prctl: PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER; seccomp: a listener; clone: a process
arguments = [(41, 17, 3, 0), (41, 40, 1, 0), (41, 38, 5, 0), (16, null, 0x5412, 0), (16, null, 0xC0185879, 0),
    (16, null, 0xAE01, 0), (72, null, 1026, 1), (72, null, 8, 1), (157, 4, 1), (157, 36, 1), (317, 3, 0, 0)]
if not programs:
    arguments.append((56, 17, 0, 0, 0, 0))
with Machine(tiny.config(sys.argv[1], console=console.config)) as machine:
    machine.start(lambda: seal_process(["sys_admin"], programs=programs), confined=True)
    machine.console_input(b"hello")
    assert console.read(5) == b"hello"
    look()
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    sealed.set()
    earlier.join()
    if programs:
        child = "import fcntl, os; fcntl.ioctl(os.open('/dev/kvm', os.O_RDWR), 0xAE01, 0)"
        pid = os.posix_spawn(sys.executable, [sys.executable, "-IS", "-c", child], {})
        assert os.waitpid(pid, 0)[1], "a program of it has made a machine"
        assert os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)[1] == 0
    assert os.listdir("/proc/self/fd") and socket.socketpair() and socket.socket(socket.AF_INET6)
"""


@pytest.mark.parametrize("programs", [False, True])
def test_a_sealed_process_has_the_calls_of_its_list_alone(tmp_path: Path, programs: bool) -> None:
    """Every other one is tried, by threads that are older and newer, too; its machine runs."""
    row, index, listed = ffi.new("struct seccomp_row *"), 0, []
    nobodys = lib.SECCOMP_BROKER | lib.SECCOMP_OUTSIDE | lib.SECCOMP_SERVER | lib.SECCOMP_CONTROL | lib.SECCOMP_GDB
    nobodys |= lib.SECCOMP_SHARES | lib.SECCOMP_FORKS | (0 if programs else lib.SECCOMP_SPAWN)
    while lib.seccomp_row(index, row) == 0:
        if row.whose & ~(nobodys | lib.SECCOMP_TTY):
            listed.append(str(row.nr))
        index += 1
    assert len(set(listed)) < (150 if programs else 130)
    command = [sys.executable, "-c", LISTED, tiny.make(tmp_path, tiny.ECHO), str(programs), *listed]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    main, thread, earlier = lines[:3], lines[3:6], lines[6:]
    assert main == thread and main[:2] == earlier[:2]
    assert main[0] == "", "what is not listed and was made"
    assert {int(number) for number in main[1].split()} == {errno.ENOSYS}
    assert main[2].split() == [f"{1 << CAPABILITIES.index('sys_admin'):016x}"] * 2


# What a machine that runs does not come to
