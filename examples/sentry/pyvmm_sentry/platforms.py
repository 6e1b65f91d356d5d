"""What can run the Sentry's core here: KVM, or a traced process of the host.

``capabilities()`` is the entry point of ``pyvmm doctor``.
"""

from __future__ import annotations

import ctypes
import os
from typing import NamedTuple

from vmm import HostError, kvm_verdict

NAMES = ("kvm", "trap", "ptrace")
"""The best first; ``auto`` is the first that works."""
_PTRACE_TRACEME = 0


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
        verdict = kvm_verdict()
    except HostError as error:
        return Platform("kvm", False, str(error), error.hint)
    return Platform("kvm", verdict.usable, verdict.detail, verdict.hint)


def trap() -> Platform:
    """The core as a process that gets system calls by signals."""
    return Platform("trap", False, "this platform does not exist yet", "use ptrace")


def ptrace() -> Platform:
    """The core as a process that traces the program, tried by a child."""
    child = os.fork()
    if not child:
        libc = ctypes.CDLL(None, use_errno=True)
        os._exit(ctypes.get_errno() & 0xFF if libc.ptrace(_PTRACE_TRACEME, 0, 0, 0) else 0)
    error = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
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
