"""Runs a program of the host on the files of somebody who is not trusted.

The program sees its libraries, the given directories and one file to write, which are mounted into an empty root
directory. It has no network, no device, no other process, a list of system calls and limits on time, memory and file
sizes. Of all capabilities it keeps the one for reading files whose permissions exclude the owner.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import struct
import time
from typing import TYPE_CHECKING, NoReturn

from pyvmm_kata.errors import HostError, VmmError
from pyvmm_kata.host import mounts
from pyvmm_kata.host.confinement import (
    Condition,
    Limits,
    change_root,
    enter_namespaces,
    filter_calls,
    keep_only,
    set_limits,
)
from pyvmm_kata.host.mounts import libc
from pyvmm_kata.privileges import restrict_process

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MEMORY = 8 << 30
"""Most bytes of address space."""
_LIBRARIES = ("lib", "lib32", "lib64", "usr/lib", "usr/lib32", "usr/lib64", "usr/local/lib", "nix/store", "gnu/store")
_CACHE = "etc/ld.so.cache"
_PROGRAM = "program"
_MESSAGE_MOST = 64 << 10
_REFUSED = 126
_PR_SET_PDEATHSIG, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 1, 47, 2
_CAP_DAC_READ_SEARCH = 2
_CAPABILITY_VERSION = 0x20080522

# x86-64: read write open close stat fstat lstat lseek munmap brk rt_sigaction rt_sigprocmask rt_sigreturn pread64
# pwrite64 readv writev access sched_yield mremap madvise getpid; execve, of the program itself; exit ftruncate getcwd
# readlink statfs arch_prctl; gettid getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr futex
# sched_getaffinity getdents64 set_tid_address; clock_gettime exit_group openat newfstatat readlinkat faccessat
# set_robust_list fallocate getrandom copy_file_range statx rseq
_CALLS = (
    *(0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15, 17, 18, 19, 20, 21, 24, 25, 28, 39, 59, 60, 77, 79, 89),
    *(137, 158, 186, 191, 192, 193, 194, 195, 196, 202, 204, 217, 218, 228, 231, 257, 262, 267, 269, 273, 285),
    *(318, 326, 332, 334),
)
_THREADS_ONLY = Condition(56, 0, 0x10000, True)
"""clone with CLONE_THREAD; the C library uses it where clone3 fails with ENOSYS."""


def run_program(
    program: str, arguments: Sequence[str], directories: Mapping[str, str], output: str, limits: Limits, what: str
) -> None:
    """Run a program until it ends.

    :param program: its path
    :param directories: host directories that the program may read, by their names in its root directory
    :param output: a file that the program may write, whose name in its root directory is ``output``
    :param what: begins messages
    :raises HostError: the program cannot be confined, fails or exceeds a limit
    """
    out, into = os.pipe()
    parent = os.getpid()
    child = os.fork()
    if not child:
        _child(parent, into, [program, *arguments], {**directories, _PROGRAM: program}, output, limits)
    os.close(into)
    try:
        text = _wait(child, out, time.monotonic() + limits.seconds)
    except TimeoutError:
        raise HostError(f"{what}: not done after {limits.seconds:g} s", code="sandboxed-time") from None
    finally:
        os.close(out)
        os.kill(child, signal.SIGKILL)  # a zombie if it has ended
        _, status = os.waitpid(child, 0)
    number = os.waitstatus_to_exitcode(status)
    if number:
        reason = f"signal {signal.Signals(-number).name}" if number < 0 else f"status {number}"
        words, _, hint = text.partition("\0")
        words = "".join(one if one.isprintable() else " " for one in words.strip()[-500:])
        raise HostError(f"{what}: {words or 'ended'} ({reason})", code="sandboxed-ended", hint=hint[:300])


def _wait(child: int, out: int, deadline: float) -> str:
    """The output until the program has ended.

    :raises TimeoutError: the deadline has passed
    """
    text = b""
    poll = select.poll()
    poll.register(out, select.POLLIN)
    process = os.pidfd_open(child)
    try:
        poll.register(process, select.POLLIN)
        while True:
            left = deadline - time.monotonic()
            ready = [fd for fd, _ in poll.poll(max(left, 0) * 1000)]
            if not ready:
                raise TimeoutError
            if out in ready:
                data = os.read(out, _MESSAGE_MOST)
                text = (text + data)[-_MESSAGE_MOST:]
                if not data:
                    poll.unregister(out)
            elif process in ready:
                return text.decode(errors="replace")
    finally:
        os.close(process)


# ---- in the process ------------------------------------------------------------------------------------------------


def _child(
    parent: int, into: int, words: Sequence[str], sources: Mapping[str, str], output: str, limits: Limits
) -> NoReturn:
    try:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(_REFUSED)
        (into,) = keep_only([into])
        try:
            _make_root(sources, output)
            os.umask(0o077)
            set_limits(MEMORY, limits.file_size)
            restrict_process(("dac_read_search",))
            _pass_capability()
            os.dup2(into, 1)
            os.dup2(into, 2)
            filter_calls(_CALLS, (_THREADS_ONLY,))
            os.execve(f"/{_PROGRAM}", [os.path.basename(words[0]), *words[1:]], {})
        except VmmError as error:
            os.write(into, f"{error}\0{error.hint}".encode(errors="replace"))
        except (Exception, KeyboardInterrupt) as error:
            os.write(into, f"{type(error).__name__}: {error}".encode(errors="replace"))
    finally:
        os._exit(_REFUSED)


def _make_root(sources: Mapping[str, str], output: str) -> None:
    """
    :raises HostError: the host refuses
    """
    enter_namespaces()
    libraries = {name: f"/{name}" for name in (*_LIBRARIES, _CACHE) if os.path.exists(f"/{name}")}
    links = {name: os.readlink(path) for name, path in libraries.items() if os.path.islink(path)}
    trees = {name: mounts.open_tree(path) for name, path in {**libraries, **sources}.items() if name not in links}
    target = mounts.open_tree(output)
    root = os.path.dirname(output)
    flags = mounts.MS_NOSUID | mounts.MS_NODEV
    mounts.mount("tmpfs", root, "tmpfs", flags, "size=1m,mode=755")
    os.chdir(root)
    for name, tree in trees.items():
        mounts.move_tree(tree, name, read_only=True, programs=name in libraries or name == _PROGRAM)
    for name, to in links.items():
        os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
        os.symlink(to, name)
    mounts.move_tree(target, "output", read_only=False, programs=False)
    mounts.mount("", root, "", mounts.MS_REMOUNT | mounts.MS_RDONLY | flags)
    for tree in (*trees.values(), target):
        os.close(tree)
    change_root(root)


def _pass_capability() -> None:
    """Keep the capability over execve(2), for a user that is not root (capabilities(7), "Ambient")."""
    bits = 1 << _CAP_DAC_READ_SEARCH
    head, data = struct.pack("Ii", _CAPABILITY_VERSION, 0), struct.pack("6I", bits, bits, bits, 0, 0, 0)
    with contextlib.suppress(AttributeError):  # the C library lacks a wrapper
        libc.capset(ctypes.c_char_p(head), ctypes.c_char_p(data))
        libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _CAP_DAC_READ_SEARCH, 0, 0)
