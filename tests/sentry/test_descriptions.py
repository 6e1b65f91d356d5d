"""The descriptions of system calls: what is made from them, and what Linux's headers say."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from pyvmm_sentry import generate
from pyvmm_sentry.abi import SETS, STRUCTS
from pyvmm_sentry.syscalls import MOST_ARGUMENTS, SYSCALLS

HEADERS = (
    *("asm/prctl.h", "fcntl.h", "linux/close_range.h", "linux/falloc.h", "linux/fs.h", "linux/futex.h"),
    *("linux/membarrier.h", "linux/seccomp.h", "netinet/in.h", "netinet/tcp.h", "poll.h", "sched.h", "signal.h"),
    *("sys/epoll.h", "sys/eventfd.h", "sys/file.h", "sys/inotify.h", "sys/ioctl.h", "sys/ipc.h", "sys/mman.h"),
    *("sys/mount.h", "sys/pidfd.h", "sys/prctl.h", "sys/ptrace.h", "sys/random.h", "sys/resource.h", "sys/shm.h"),
    *("sys/signalfd.h", "sys/socket.h", "sys/stat.h", "sys/statfs.h", "sys/sysinfo.h", "sys/time.h", "sys/timerfd.h"),
    *("sys/times.h", "sys/uio.h", "sys/utsname.h", "sys/wait.h", "sys/xattr.h", "termios.h", "unistd.h", "utime.h"),
)
UNNAMED = {
    *("ARCH_CET_STATUS", "F_DUPFD_QUERY", "O_LARGEFILE", "PROT_SEM", "RWF_NOAPPEND", "SA_RESTORER", "SIGRT_0"),
    *("SIGRT_1", "SIGRT_2", "SOL_NETLINK", "SS_AUTODISARM", "PIDFD_NONBLOCK"),
}
"""What the C library's headers do not have, or as another value."""
WRITE = "python -m pyvmm_sentry.generate --write, in examples/sentry"


def test_generated_files_are_those_of_the_descriptions() -> None:
    assert generate.TABLE.read_text() == generate.table(), WRITE
    assert generate.TRACE.read_text() == generate.trace(), WRITE
    assert generate.PAGE.read_text() == generate.page(), WRITE


def test_each_function_of_the_core_that_answers_a_call_has_a_row() -> None:
    """Also one whose definition does not look as the generator expects: it would be taken for a missing one."""
    names = {call.function for call in SYSCALLS}
    definition = re.compile(r"^s64 (sys_\w+)\(.*\)$", re.MULTILINE)
    sources = [path.read_text() for path in generate.CORE.rglob("*.c") if path != generate.TABLE]
    found = {name for text in sources for name in definition.findall(text)}
    assert found == generate.defined()
    assert found - names == set()


def compiles(folder: Path, headers: Sequence[str], checks: Sequence[str]) -> None:
    """Check assertions of C."""
    source = folder / "check.c"
    lines = ["#define _GNU_SOURCE", *(f"#include <{header}>" for header in headers), *checks, ""]
    source.write_text("\n".join(lines))
    done = subprocess.run(["gcc", "-std=gnu2x", "-fsyntax-only", source], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_numbers_and_names_are_those_of_linux(tmp_path: Path) -> None:
    compiles(tmp_path, ["sys/syscall.h"], [f"_Static_assert(SYS_{call.name} == {call.number});" for call in SYSCALLS])


def test_values_are_those_of_linux(tmp_path: Path) -> None:
    values = {pair for each in SETS.values() for pair in each.values if pair[0] not in UNNAMED}
    compiles(tmp_path, HEADERS, [f"_Static_assert((unsigned){name} == {value}u);" for name, value in sorted(values)])


def test_structures_are_those_of_linux(tmp_path: Path) -> None:
    checks = []
    for each in STRUCTS.values():
        if each.header:
            checks.append(f"_Static_assert(sizeof({each.header}) == {each.size});")
            checks += [
                f"_Static_assert(__builtin_offsetof({each.header}, {field.name}) == {field.offset});"
                for field in each.fields
            ]
    compiles(tmp_path, HEADERS, checks)


def test_descriptions_are_sorted_and_each_number_and_name_is_there_once() -> None:
    numbers = [call.number for call in SYSCALLS]
    assert numbers == sorted(set(numbers))
    assert len({call.name for call in SYSCALLS}) == len(numbers)


def test_arguments_that_give_a_size_are_there() -> None:
    for call in SYSCALLS:
        names = [argument.name for argument in call.arguments]
        assert len(set(names)) == len(call.signature.split()) <= MOST_ARGUMENTS, call
        sized = [argument for argument in call.arguments if argument.kind.startswith(("in", "out", "iovec", "polls"))]
        assert all(argument.detail in names for argument in sized if argument.kind != "int"), call
