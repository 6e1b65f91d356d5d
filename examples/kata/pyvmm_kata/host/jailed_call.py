"""Runs a function in a separate process that reaches one directory of the host and nothing else.

The process has mount, network, IPC and UTS namespaces with the directory as the root. It has only the given
descriptors, the capabilities for changing owners and permissions of files, a list of system calls, and limits on time,
memory and file sizes. Its answers are not trusted.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import select
import signal
import time
from typing import TYPE_CHECKING, Any, NoReturn

from pyvmm_kata.errors import ConfigError, HostError, VmmError
from pyvmm_kata.host import mounts
from pyvmm_kata.host.confinement import (
    DATA_ONLY,
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
    from collections.abc import Callable, Sequence

Report = dict[str, Any]
CAPABILITIES = ("chown", "dac_override", "fowner", "fsetid", "setfcap")
"""To set owners, permissions and capabilities of files; not to make device nodes, nor to mount."""
MEMORY = 512 << 20
"""Most bytes of address space that the process may add to what this one has."""
_LONGEST_LINE = 64 << 10
_PR_SET_PDEATHSIG = 1

# x86-64: read write close stat fstat lstat poll lseek munmap brk rt_sigaction rt_sigprocmask rt_sigreturn pread64 readv
# mremap madvise getpid exit ftruncate; mkdir rmdir link unlink symlink readlink chmod fchmod chown fchown lchown umask
# mknod statfs fstatfs setxattr lsetxattr fsetxattr futex getdents64; clock_gettime exit_group openat mkdirat mknodat
# fchownat newfstatat unlinkat linkat symlinkat readlinkat fchmodat utimensat getrandom
_CALLS = (
    *(0, 1, 3, 4, 5, 6, 7, 8, 11, 12, 13, 14, 15, 17, 19, 25, 28, 39, 60, 77),
    *(83, 84, 86, 87, 88, 89, 90, 91, 92, 93, 94, 95, 133, 137, 138, 188, 189, 190, 202, 217),
    *(228, 231, 257, 258, 259, 260, 262, 263, 265, 266, 267, 268, 280, 318),
)


def run_in(
    root: str,
    files: Sequence[int],
    work: Callable[[list[int], Callable[[Report], None]], Report],
    limits: Limits,
    what: str,
    on_progress: Callable[[Report], None] | None = None,
) -> Report:
    """The result of *work*, which runs in a separate process with *root* as its root directory.

    *work* gets the numbers of the descriptors there, and a function that reports progress. Import all modules that it
    uses before. A :class:`VmmError` that it raises is raised here.

    :param files: descriptors that it has
    :param what: begins messages
    :raises HostError: the process cannot be made, exceeds a limit, or ends in another way
    """
    out, into = os.pipe()
    child = os.fork()
    if not child:
        _child(root, files, into, work, limits)
    os.close(into)
    last: Report = {}
    try:
        for report in _reports(out, time.monotonic() + limits.seconds):
            if "end" in report or "error" in report:
                return _result(report, what)
            last = report
            if on_progress is not None:
                on_progress(report)
    except TimeoutError:
        where = str(last.get("at", ""))[:200]
        raise HostError(
            f"{what}: not done after {limits.seconds:g} s{f', at {where}' if where else ''}", code="sandboxed-time"
        ) from None
    finally:
        os.close(out)
        # It has ended, or is ended now: nothing that it does after its answer counts
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    number = os.waitstatus_to_exitcode(status)
    reason = f"of {signal.Signals(-number).name}" if number < 0 else f"with status {number}"
    raise HostError(f"{what}: its process ended {reason}", code="sandboxed-ended")


def _reports(out: int, deadline: float) -> Any:
    """The lines that the process writes, as JSON; ends with it, or at an invalid line.

    :raises TimeoutError: the deadline has passed
    """
    poll = select.poll()
    poll.register(out, select.POLLIN)
    buffer = b""
    while len(buffer) <= _LONGEST_LINE:
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            raise TimeoutError
        data = os.read(out, 65536)
        if not data:
            return
        *lines, buffer = (buffer + data).split(b"\n")
        for line in lines:
            try:
                report = json.loads(line)
            except (ValueError, RecursionError):
                return
            if isinstance(report, dict):
                yield report


def _result(report: Report, what: str) -> Report:
    if "error" not in report:
        end = report["end"]
        return end if isinstance(end, dict) else {}
    kind = ConfigError if report.get("kind") == "config" else HostError
    text = str(report["error"])[:1000]
    text = "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)
    code, hint = str(report.get("code", "sandboxed"))[:60], str(report.get("hint", ""))[:300]
    raise kind(f"{what}: {text}", code=code, hint=hint)


# ---- in the process ------------------------------------------------------------------------------------------------


def _child(
    root: str,
    files: Sequence[int],
    into: int,
    work: Callable[[list[int], Callable[[Report], None]], Report],
    limits: Limits,
) -> NoReturn:
    report: Report
    try:
        gc.freeze()  # what this process does not use any more closes none of its descriptors
        into, *own = keep_only([into, *files])

        def tell(report: Report) -> None:
            os.write(into, json.dumps(report).encode() + b"\n")

        try:
            _enter(root, limits)
            report = {"end": work(own, tell)}
        except VmmError as error:
            kind = "config" if isinstance(error, ConfigError) else "host"
            report = {"error": str(error), "kind": kind, "code": error.code, "hint": error.hint}
        except MemoryError:
            report = {"error": f"needs more than {MEMORY >> 20} MiB of memory"}
        except (Exception, KeyboardInterrupt) as error:
            report = {"error": f"{type(error).__name__}: {error}"}
        tell(report)
    finally:
        os._exit(0)


def _enter(root: str, limits: Limits) -> None:
    """
    :raises HostError: the host refuses
    """
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    enter_namespaces()
    mounts.mount(root, root, "", mounts.MS_BIND)
    flags = mounts.MS_NOSUID | mounts.MS_NODEV | mounts.MS_NOEXEC | mounts.kept_flags(root)
    mounts.mount("", root, "", mounts.MS_BIND | mounts.MS_REMOUNT | flags)
    change_root(root)
    os.umask(0)
    set_limits(used + MEMORY, limits.file_size)
    restrict_process(CAPABILITIES)
    filter_calls(_CALLS, DATA_ONLY)
