"""What can run the Sentry's core here: KVM, or processes of the host whose system calls lead to the core.

``capabilities()`` is the entry point of ``pyvmm doctor``.
"""

from __future__ import annotations

import ctypes
import os
import struct
import threading
from collections.abc import Callable
from typing import NamedTuple

from vmm import HostError, kvm_verdict

NAMES = ("kvm", "trap", "ptrace")
"""The best first; ``auto`` is the first that works."""
_PTRACE_TRACEME = 0
_PR_SET_NO_NEW_PRIVS = 38
_SYS_SECCOMP, _SET_FILTER, _NEW_LISTENER, _WAIT_KILLABLE = 317, 1, 1 << 3, 1 << 5
_ALLOW_ALL = struct.pack("<HBBI", 0x06, 0, 0, 0x7FFF0000)
_AT_HWCAP2, _FSGSBASE = 26, 2


class Platform(NamedTuple):
    """A platform.

    :ivar present: it can run programs here
    :ivar detail: what was found
    :ivar hint: what to do otherwise, or empty
    """

    name: str
    present: bool
    detail: str
    hint: str = ""


def kvm() -> Platform:
    """The core as the kernel of a virtual machine."""
    try:
        verdict = kvm_verdict(remembered=True)
    except HostError as error:
        return Platform("kvm", False, str(error), error.hint)
    return Platform("kvm", verdict.usable, verdict.detail, verdict.hint)


def trap() -> Platform:
    """The core as a process to which the host's kernel reports the program's system calls, tried by a thread."""
    error = _error_in_thread(_report_calls)
    if error:
        hint = "it needs Linux 5.19, and a container may forbid it or have such a filter itself: use ptrace"
        return Platform("trap", False, f"a filter that reports system calls: {os.strerror(error)}", hint)
    libc = ctypes.CDLL(None)
    libc.getauxval.restype = ctypes.c_ulong
    if not libc.getauxval(ctypes.c_ulong(_AT_HWCAP2)) & _FSGSBASE:
        return Platform("trap", False, "the CPU or the host's kernel has no FSGSBASE", "use ptrace")
    return Platform("trap", True, "a filter can report system calls")


def _error_in_thread(attempt: Callable[[ctypes.CDLL], int]) -> int:
    """As :func:`_error_of`, for what a thread keeps to itself: a fork of this process takes milliseconds."""
    errors = []

    def run() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        errors.append(0 if attempt(libc) >= 0 else ctypes.get_errno())

    thread = threading.Thread(target=run, name="attempt")
    thread.start()
    thread.join()
    return errors[0]


def _error_of(attempt: Callable[[ctypes.CDLL], int]) -> int:
    """The errno with which a call fails in a child, or 0; *attempt* returns a negative number if it fails."""
    child = os.fork()
    if not child:
        os._exit(ctypes.get_errno() & 0xFF if attempt(ctypes.CDLL(None, use_errno=True)) < 0 else 0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _report_calls(libc: ctypes.CDLL) -> int:
    code = ctypes.create_string_buffer(_ALLOW_ALL)
    program = ctypes.create_string_buffer(struct.pack("HP", 1, ctypes.addressof(code)))
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        return -1
    flags = _NEW_LISTENER | _WAIT_KILLABLE
    listener = int(libc.syscall(ctypes.c_long(_SYS_SECCOMP), _SET_FILTER, flags, program))
    if listener >= 0:
        os.close(listener)
    return listener


def ptrace() -> Platform:
    """The core as a process that traces the program, tried by a child."""
    error = _error_of(lambda libc: int(libc.ptrace(_PTRACE_TRACEME, 0, 0, 0)))
    if not error:
        return Platform("ptrace", True, "a process can be traced")
    hint = "a container may forbid it, or kernel.yama.ptrace_scope: sudo sysctl kernel.yama.ptrace_scope=1"
    return Platform("ptrace", False, f"ptrace: {os.strerror(error)}", hint)


def all_platforms() -> tuple[Platform, ...]:
    """In the order of :data:`NAMES`."""
    return kvm(), trap(), ptrace()


def capabilities() -> tuple[Platform, ...]:
    """For ``pyvmm doctor``."""
    return tuple(found._replace(name=f"Sentry on {found.name}") for found in all_platforms())
