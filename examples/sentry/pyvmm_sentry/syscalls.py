"""`python -m pyvmm_sentry.syscalls [--write]`: the system calls that the Sentry answers, described once.

The core's dispatch table, the names and types that its strace prints and the page SYSCALLS.md are made from this. To
add a system call: a row here, and its function ``s64 sys_NAME(struct process *, const u64 *args)`` in the core.
"""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parents[1]
TABLE, PAGE = HERE / "core" / "syscall_table.c", HERE / "SYSCALLS.md"
TYPES = {"int": "ARG_INT", "fd": "ARG_FD", "hex": "ARG_HEX", "size": "ARG_SIZE", "str": "ARG_STRING"}
ERRNOS = 134
"""Linux has no errno above 133."""


class Syscall(NamedTuple):
    """A system call.

    :ivar arguments: the types of its arguments, words of :data:`TYPES`
    :ivar tier: 1: busybox needs it; 2: ordinary programs do
    :ivar note: what is different from Linux; empty if nothing is
    :ivar handler: the function of the core that answers it; ``sys_NAME`` if empty
    """

    number: int
    name: str
    arguments: str
    tier: int
    note: str = ""
    handler: str = ""

    @property
    def function(self) -> str:
        """The function of the core."""
        return f"sys_{self.handler or self.name}"


_CONSOLE = "the console, /dev/null and /dev/zero only"
_HANDLERS = "noted; handlers are not called yet"
_ALONE = "there is one process"

SYSCALLS = (
    Syscall(0, "read", "fd hex size", 1, _CONSOLE),
    Syscall(1, "write", "fd hex size", 1, _CONSOLE),
    Syscall(2, "open", "str hex hex", 2, "/dev/null and /dev/zero only"),
    Syscall(3, "close", "fd", 1),
    Syscall(5, "fstat", "fd hex", 1, "a console that is no terminal is shown as a pipe"),
    Syscall(8, "lseek", "fd int int", 2, _CONSOLE),
    Syscall(9, "mmap", "hex size hex hex fd hex", 1, "anonymous memory only"),
    Syscall(10, "mprotect", "hex size hex", 1),
    Syscall(11, "munmap", "hex size", 1),
    Syscall(12, "brk", "hex", 1),
    Syscall(13, "rt_sigaction", "int hex hex size", 1, _HANDLERS),
    Syscall(14, "rt_sigprocmask", "int hex hex size", 1),
    Syscall(16, "ioctl", "fd hex hex", 1, "TCGETS and TIOCGWINSZ; a terminal has fixed settings"),
    Syscall(19, "readv", "fd hex int", 2, _CONSOLE),
    Syscall(20, "writev", "fd hex int", 2, _CONSOLE),
    Syscall(24, "sched_yield", "", 2, handler="zero"),
    Syscall(28, "madvise", "hex size int", 2, "MADV_DONTNEED frees; other advice has no effect"),
    Syscall(32, "dup", "fd", 2),
    Syscall(33, "dup2", "fd fd", 1),
    Syscall(39, "getpid", "", 1, _ALONE),
    Syscall(60, "exit", "int", 1, _ALONE, handler="exit_group"),
    Syscall(62, "kill", "int int", 1, _ALONE),
    Syscall(63, "uname", "hex", 1),
    Syscall(72, "fcntl", "fd int hex", 1, "duplicates, flags of descriptors; of files only O_APPEND"),
    Syscall(89, "readlink", "str hex size", 1, "/proc/self/exe only"),
    Syscall(95, "umask", "hex", 1),
    Syscall(96, "gettimeofday", "hex hex", 1),
    Syscall(97, "getrlimit", "int hex", 2, "only that of descriptors has an effect"),
    Syscall(102, "getuid", "", 1),
    Syscall(104, "getgid", "", 1),
    Syscall(107, "geteuid", "", 1, handler="getuid"),
    Syscall(108, "getegid", "", 1, handler="getgid"),
    Syscall(110, "getppid", "", 1, _ALONE, handler="zero"),
    Syscall(111, "getpgrp", "", 2, _ALONE, handler="getpid"),
    Syscall(115, "getgroups", "int hex", 1, "there are no supplementary groups"),
    Syscall(131, "sigaltstack", "hex hex", 2, _HANDLERS),
    Syscall(157, "prctl", "int hex hex hex hex", 1, "the process's name only"),
    Syscall(158, "arch_prctl", "hex hex", 1, "the bases of FS and GS only"),
    Syscall(186, "gettid", "", 1, _ALONE, handler="getpid"),
    Syscall(200, "tkill", "int int", 2, _ALONE),
    Syscall(201, "time", "hex", 2),
    Syscall(218, "set_tid_address", "hex", 1, _ALONE, handler="getpid"),
    Syscall(228, "clock_gettime", "int hex", 1, "clocks 0 to 7; coarse clocks are fine ones"),
    Syscall(229, "clock_getres", "int hex", 2, "clocks 0 to 7"),
    Syscall(231, "exit_group", "int", 1),
    Syscall(234, "tgkill", "int int int", 2, _ALONE),
    Syscall(257, "openat", "fd str hex hex", 1, "/dev/null and /dev/zero only"),
    Syscall(262, "newfstatat", "fd str hex hex", 1, "descriptors, /dev/null and /dev/zero only"),
    Syscall(267, "readlinkat", "fd str hex size", 1, "/proc/self/exe only"),
    Syscall(273, "set_robust_list", "hex size", 1, _ALONE),
    Syscall(292, "dup3", "fd fd hex", 2),
    Syscall(302, "prlimit64", "int int hex hex", 1, "only that of descriptors has an effect"),
    Syscall(318, "getrandom", "hex size hex", 1),
)


def table() -> str:
    """The source of the core's table."""
    rows = []
    for call in SYSCALLS:
        types = [TYPES[word] for word in call.arguments.split()]
        arguments = f"{{ {', '.join(types)} }}" if types else "{ 0 }"
        rows.append(f'\t[{call.number}] = {{ "{call.name}", {call.function}, {len(types)}, {arguments} }},')
    functions = sorted({call.function for call in SYSCALLS})
    names = [f'\t[{number}] = "{name}",' for number, name in sorted(errno.errorcode.items()) if number < ERRNOS]
    return "\n".join(
        [
            "// SPDX-License-Identifier: Apache-2.0",
            "/* Generated from pyvmm_sentry/syscalls.py: python -m pyvmm_sentry.syscalls --write */",
            '#include "core.h"',
            "",
            *(f"s64 {name}(struct process *p, const u64 *args);" for name in functions),
            "",
            "const struct syscall syscalls[SYSCALLS] = {",
            *rows,
            "};",
            "",
            "const char *const errnos[] = {",
            *names,
            "};",
            "const u32 errno_count = ARRAY_SIZE(errnos);",
            "",
        ]
    )


def page() -> str:
    """The page about them."""
    rows = [f"| {call.number} | {call.name} | {call.tier} | {call.note} |" for call in SYSCALLS]
    return "\n".join(
        [
            "# System calls of the Sentry",
            "",
            "This page is generated: `python -m pyvmm_sentry.syscalls --write`.",
            f"The Sentry answers {len(SYSCALLS)} system calls.",
            "Every other one returns `ENOSYS` and is counted by number.",
            "Busybox needs those of tier 1; ordinary programs also need those of tier 2.",
            "",
            "| number | name | tier | difference from Linux |",
            "| --- | --- | --- | --- |",
            *rows,
            "",
        ]
    )


def main(arguments: list[str]) -> int:
    """Print the table, or write both files."""
    if arguments != ["--write"]:
        print(page(), end="")
        return 0
    TABLE.write_text(table())
    PAGE.write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
