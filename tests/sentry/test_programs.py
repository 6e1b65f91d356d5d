"""Static programs have the output and the end on the Sentry that they have on Linux."""

from __future__ import annotations

import errno
import os
import select
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyvmm_sentry import program
from tests.sentry.conftest import Compile

BUSYBOX = "/bin/busybox"
CLOCK = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")
TEXT = b"one\ntwo\nthree\ntwo\n" * 500
COMMANDS = (
    ["true"],
    ["false"],
    ["echo", "hello", "world"],
    ["cat"],
    ["cat", "/nonexistent"],
    ["uname", "-m"],
    ["env"],
    ["id", "-u"],
    ["id", "-g"],
    ["sort"],
    ["md5sum"],
    ["tr", "a-z", "A-Z"],
    ["head", "-c", "100"],
    ["dd", "if=/dev/zero", "bs=1000", "count=70"],
    ["awk", "{ s += length($0) } END { print s / 7 }"],
    ["sed", "s/o/0/g"],
    ["factor", "1000000007"],
    ["sh", "-c", "for i in 1 2 3; do echo $((i * i)); done; exit 7"],
    ["sh", "-c", "kill -15 $$"],
    ["sh", "-c", "kill -9 $$"],
)
ENDS = {
    **dict.fromkeys(("read_null", "read_kernel", "read_wild", "read_none"), signal.SIGSEGV),
    **dict.fromkeys(("write_code", "write_read_only", "write_stub"), signal.SIGSEGV),
    **dict.fromkeys(("jump_data", "jump_null", "privileged", "overflow_stack", "no_stack"), signal.SIGSEGV),
    "undefined": signal.SIGILL,
    "divide": signal.SIGFPE,
    "breakpoint": signal.SIGTRAP,
    "single_step": signal.SIGTRAP,
    "misaligned": signal.SIGBUS,
    "abort": signal.SIGABRT,
}
"""What ends a program that does that, here as on Linux."""


def run(
    *command: str | Path, text: bytes = b"", environment: dict[str, str] | None = None, seconds: float = 60
) -> subprocess.CompletedProcess[bytes]:
    """Run a command with *text* as its input."""
    return subprocess.run(command, input=text, capture_output=True, timeout=seconds, env=environment)


def same(platform: Path, *command: str | Path, text: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run a command natively and on the Sentry, which have to agree; returns how it ended."""
    environment = {"PATH": "/bin", "WORD": "a b"}
    native = run(*command, text=text, environment=environment)
    ours = run(platform, "--", *command, text=text, environment=environment)
    assert (ours.returncode, ours.stdout, ours.stderr) == (native.returncode, native.stdout, native.stderr)
    return ours


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_busybox_behaves_as_on_linux(platform: Path, command: list[str]) -> None:
    same(platform, BUSYBOX, *command, text=TEXT)


def test_errors_are_those_of_linux(platform: Path, compile_static: Compile) -> None:
    """About 200 calls, most with a descriptor, pointer, size or number that is wrong."""
    program = compile_static("errors")
    native, ours = (run(*head, program, text=b"abcdefghijklmnop") for head in ((), (platform, "--")))
    assert native.returncode == ours.returncode == 42
    rows = [each.stdout.decode().splitlines() for each in (native, ours)]
    assert len(rows[0]) == len(rows[1]) > 190
    assert rows[1] == rows[0]


@pytest.mark.parametrize("deed", ENDS)
def test_bad_programs_end_as_on_linux(platform: Path, compile_static: Compile, deed: str) -> None:
    assert same(platform, compile_static("hostile"), deed).returncode == -ENDS[deed]


@pytest.mark.parametrize("deed", ["many_mappings", "reuse_memory", "numbers"])
def test_limits_are_errors_as_on_linux(platform: Path, compile_static: Compile, deed: str) -> None:
    assert same(platform, compile_static("hostile"), deed).returncode == 0


def test_memory_ends_at_that_of_the_sandbox(platform: Path, compile_static: Compile) -> None:
    done = run(platform, "--memory", "32", "--", compile_static("hostile"), "fill_memory")
    assert done.returncode == -signal.SIGKILL
    assert b"out of memory" in done.stderr


def test_tasks_end_at_those_of_the_sandbox(platform: Path, compile_static: Compile) -> None:
    """Processes, zombies and threads count, as for a control group of Linux."""
    done = run(platform, "--pids", "20", "--", compile_static("hostile"), "fill_processes")
    lines = ("children 19", f"error {errno.EAGAIN}", f"beside zombies {errno.EAGAIN}", "threads 19")
    assert (done.returncode, done.stdout.decode().splitlines()) == (0, [*lines])


@pytest.mark.parametrize(("way", "status"), [("exit", 5), ("kill", -signal.SIGKILL)])
def test_nothing_is_left_of_a_fork_bomb(platform: Path, compile_static: Compile, way: str, status: int) -> None:
    """It reaches the limit of tasks; the first process can still end it, or the user."""
    command = [str(platform), "--pids", "50", "--", str(compile_static("hostile")), "fork_bomb"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin and process.stdout
        assert process.stdout.readline() == f"full {errno.EAGAIN}\n".encode()
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert 40 < len(children) <= 52  # with those of the platform itself
        fds = [os.pidfd_open(int(child)) for child in children]
        if way == "kill":
            process.kill()
        else:
            process.stdin.write(b"\n")
            process.stdin.flush()
        assert process.wait(60) == status
    for fd in fds:
        assert select.select([fd], [], [], 60)[0] == [fd]
        os.close(fd)


def test_instructions_that_need_no_kernel_give_no_more(platform: Path, compile_static: Compile) -> None:
    """A base register in the kernel's half, and the interface of 32-bit programs."""
    hostile = compile_static("hostile")
    assert run(platform, "--", hostile, "kernel_base").returncode in (-signal.SIGSEGV, 0)  # on Linux: 0
    assert run(platform, "--", hostile, "thirty_two").stdout == b"result -38\n"


def test_breakpoints_of_the_cpu_are_refused_without_a_machine(platform: Path, compile_static: Compile) -> None:
    """All registers read as on Linux, and only what sets no breakpoint succeeds."""
    done = run(platform, "--", compile_static("breakpoints"))
    assert done.returncode == 42
    lines = [line for line in done.stdout.decode().splitlines() if "REGISTER(0), &values[0])" in line]
    assert len(lines) == 3
    assert all(line.endswith(": EIO") for line in lines)
    assert "register 6: ok ffff0ff0" in done.stdout.decode()


def test_the_page_of_ptrace_gives_no_more(compile_static: Compile) -> None:
    done = run(program.ptrace(), "--", compile_static("hostile"), "call_stub")
    assert done.returncode == -signal.SIGTRAP  # its page is still there


def test_static_pie_and_libc_start(platform: Path, tmp_path: Path) -> None:
    source = tmp_path / "hello.c"
    source.write_text('#include <stdio.h>\nint main(int c, char **v) { printf("%d %s\\n", c, v[c - 1]); return c; }\n')
    for name, *options in (("pie", "-static-pie", "-fPIE"), ("plain", "-static", "-fno-pie")):
        subprocess.run(["gcc", *options, "-o", tmp_path / name, source], check=True)
        assert same(platform, tmp_path / name, "x", "hello there").returncode == 3


def test_the_page_behind_a_program_is_cleared_to_its_end(platform: Path, tmp_path: Path) -> None:
    """The loader of glibc 2.39, as in Ubuntu 24.04, allocates memory there."""
    program = tmp_path / "program"
    source = Path(__file__).parent / "src" / "rest_of_page.c"
    subprocess.run(["gcc", "-O1", "-g", "-static", "-nostdlib", "-o", program, source], check=True)
    assert same(platform, program).returncode == 0


def test_where_the_host_has_its_stack_does_not_matter(platform: Path) -> None:
    without = run("setarch", "-R", platform, "--", BUSYBOX, "echo", "here", environment={})
    assert (without.returncode, without.stdout) == (0, b"here\n")


def test_a_closed_pipe_ends_the_program(platform: Path) -> None:
    for head in ([], [str(platform), "--"]):
        with subprocess.Popen([*head, BUSYBOX, "yes"], stdout=subprocess.PIPE) as process:
            assert process.stdout and process.stdout.read(2) == b"y\n"
            process.stdout.close()
            assert process.wait(60) == -signal.SIGPIPE


@contextmanager
def cat(platform: Path) -> Iterator[tuple[subprocess.Popen[bytes], list[int]]]:
    """A program that has started and waits for input, and the processes that can run programs."""
    with subprocess.Popen([platform, "--", BUSYBOX, "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin and process.stdout
        process.stdin.write(b"here\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"here\n"
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert children
        yield process, [int(child) for child in children]
        process.kill()


def test_the_program_has_nothing_of_the_host(platform: Path) -> None:
    """No memory but its own, no descriptor but those of the sandbox's memory, and a filter around all processes."""
    pages = {("00010000-00011000", "r-xp"), ("7fffffff0000-7fffffff1000", "r-xp")}
    with cat(platform) as (process, children):
        for child in children:
            maps = [line.split(maxsplit=5) for line in Path(f"/proc/{child}/maps").read_text().splitlines()]
            (page,) = [row for row in maps if row[-1] != "[vsyscall]" and not row[-1].startswith("/memfd:sentry")]
            assert (page[0], page[1]) in pages
            assert all("w" not in row[1] or "x" not in row[1] for row in maps)
            fds = [os.readlink(fd) for fd in Path(f"/proc/{child}/fd").iterdir()]
            assert all(fd.startswith("/memfd:sentry") for fd in fds)
        for pid in (process.pid, *children):
            assert "\nSeccomp:\t2\n" in Path(f"/proc/{pid}/status").read_text()


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("MAP_SHARED | MAP_FIXED, RAM_FD", "MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS, -1ull"),
        ("MAP_SHARED | MAP_FIXED, RAM_FD", "MAP_SHARED | MAP_FIXED | MAP_POPULATE, RAM_FD"),
        ("MAP_SHARED | MAP_FIXED, RAM_FD", "MAP_SHARED | MAP_FIXED, 1"),
        ("{ CLONE_PARENT | SIGCHLD }", "{ CLONE_PARENT | CLONE_VM | SIGCHLD }"),
    ],
)
def test_a_core_that_turned_bad_gets_no_more_from_the_host(tmp_path: Path, right: str, wrong: str) -> None:
    """A call that the traced process does not need kills it: other memory, other files, other kinds of processes."""
    folder = tmp_path / "ptrace"
    shutil.copytree(program.PTRACE, folder)
    source = (folder / "tracee.c").read_text()
    assert source.count(right) == 1
    (folder / "tracee.c").write_text(source.replace(right, wrong))
    bad = program.hosted("bad", program.with_host(folder))
    assert run(bad, "--", BUSYBOX, "sh", "-c", "(true); exit 0").returncode == -signal.SIGKILL


def test_nothing_is_left_when_the_sandbox_is_killed(platform: Path) -> None:
    with cat(platform) as (_, children):
        pidfds = [os.pidfd_open(child) for child in children]
    for pidfd in pidfds:
        assert select.select([pidfd], [], [], 60)[0]
        os.close(pidfd)


def test_processes_and_signals_are_those_of_linux(platform: Path, compile_static: Compile) -> None:
    """Ends, stops, groups, handlers, faults, queues, and memory that is shared or not."""
    assert same(platform, compile_static("processes")).stdout.count(b"\n") > 60


def test_threads_are_those_of_linux(platform: Path, compile_static: Compile) -> None:
    """Locks, conditions, robust and shared ones, signals for a thread, exit and exec in one."""
    assert same(platform, compile_static("threads")).stdout.count(b"\n") == 12


SCRIPTS = (
    "for i in 1 2 3; do echo $i | wc -c; done",
    "echo a b c | tr a-z A-Z | sed s/B/x/; (exit 3); echo $?; echo $(echo one $(echo two))",
    "exec 2>/dev/null; trap 'echo trapped' USR1; kill -USR1 $$; sleep 100 & kill $!; wait $!; echo $?",
    "cd /tmp; printf '#!'$(readlink /proc/self/exe)' sh\\necho $0 $1 $#\\n' >sentry-script; chmod +x sentry-script; "
    "./sentry-script a b; rm sentry-script; ./sentry-script; echo $?",
    "yes | head -n 2; seq 1000 | (while read x; do y=$((y + x)); done; echo $y)",
)


@pytest.mark.parametrize("script", SCRIPTS)
def test_shells_start_programs(platform: Path, script: str) -> None:
    """The shell of busybox: pipelines, subshells, background jobs, traps and scripts. Its programs are in the file."""
    environment = {"PATH": "/none"}
    native = run(BUSYBOX, "sh", "-c", f"exec 2>&1; {script}", environment=environment)
    ours = run(platform, "--", BUSYBOX, "sh", "-c", f"exec 2>&1; {script}", environment=environment)
    assert (ours.returncode, ours.stdout) == (native.returncode, native.stdout)


def test_memory_is_that_of_linux(platform: Path, compile_static: Compile) -> None:
    """Mappings of files, moved and shared ones, advice, pages behind the end of a file, copies of many processes."""
    assert same(platform, compile_static("memory")).stdout.count(b"\n") > 50


def test_work_is_cpu_time_wherever_calls_are(platform: Path, compile_static: Compile) -> None:
    assert same(platform, compile_static("cpu_time")).stdout.count(b": 1\n") == 3


needs_tsc = pytest.mark.skipif(CLOCK.read_text() != "tsc\n", reason="the host's kernel does not use the TSC")


@needs_tsc
def test_the_vdso_has_the_clocks_of_system_calls(platform: Path, compile_static: Compile) -> None:
    """No reading is before an earlier one, whether by the vDSO or by a system call. Debuggers can unwind its code."""
    assert b"clock_gettime: there" in same(platform, compile_static("vdso")).stdout


@needs_tsc
def test_programs_read_clocks_without_system_calls(platform: Path, compile_static: Compile) -> None:
    done = run(platform, "--strace", "--", compile_static("vdso"), "loop")
    calls = done.stderr.count(b"clock_gettime(")
    assert done.returncode == 0
    assert calls * 10 < int(done.stdout)


@needs_tsc
def test_a_process_changes_the_vdso_for_itself_alone(platform: Path, compile_static: Compile) -> None:
    lines = ["code writable: 0", "clocks writable: -1", "here: 1", "elsewhere: 0", "unmapped: 0"]
    assert run(platform, "--", compile_static("vdso"), "rights").stdout.decode().splitlines() == lines
