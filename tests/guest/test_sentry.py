"""Programs in ring 3: with the Sentry as the kernel of a machine, and with system calls that Python answers."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pyvmm_sentry import program
from tests.sentry import fuzz
from tests.sentry.conftest import Compile
from tests.sentry.conftest import compile_static as compile_static
from tests.sentry.terminal import Terminal
from tests.sentry.test_command import ENVIRONMENT
from tests.sentry.test_kernel import boot_on_machine, run_on_machine
from tests.sentry.test_programs import BUSYBOX
from tests.sentry.test_share import root as root
from tests.sentry.test_terminals import ENVIRONMENT as SHELL_ENVIRONMENT
from tests.sentry.test_terminals import READY, converse
from tests.tiny import Console
from tools.where import ROOT
from vmm import BootConfig, Machine, MachineConfig, MemoryConfig, ShareConfig
from vmm.debug import GdbServer, GdbTarget

pytestmark = pytest.mark.guest

KVM = (sys.executable, "-m", "pyvmm_sentry", "do", "--platform", "kvm", "--root", "none")


def test_a_machine_runs_a_program() -> None:
    assert boot_on_machine(program.kernel(), BUSYBOX, "-- busybox echo hello from ring 3") == b"hello from ring 3\n"


def test_a_machine_reports_how_a_program_ended() -> None:
    output = boot_on_machine(program.kernel(), BUSYBOX, "-- busybox cat /nonexistent")
    assert output.endswith(b"sentry: the program exited with 1\n")


@pytest.mark.parametrize(
    "words",
    [
        ["sort"],
        ["cat", "/nonexistent"],
        ["sh", "-c", 'echo "$WORD" "" >&2; exit 137'],
        ["sh", "-c", "kill -9 $$"],
        ["od", "-c"],
    ],
    ids=" ".join,
)
def test_the_command_runs_a_program_in_a_machine(words: list[str]) -> None:
    environment = {**ENVIRONMENT, "WORD": "two  words"}
    text = b"two\none\n" + bytes(range(256)) * 100
    native, ours = (
        subprocess.run([*head, BUSYBOX, *words], input=text, capture_output=True, env=environment) for head in ((), KVM)
    )
    assert (ours.returncode, ours.stdout, ours.stderr) == (native.returncode, native.stdout, native.stderr)


def test_the_command_starts_in_the_current_directory_with_the_hosts_files(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text('#!/bin/sh\npwd; read name </proc/$$/comm; echo "$0 $1 $name"; cat script; echo new >script\n')
    script.chmod(0o755)
    command = [sys.executable, "-m", "pyvmm_sentry", "do", "--platform", "kvm", "./script", "one"]
    done = subprocess.run(command, capture_output=True, env=ENVIRONMENT, cwd=tmp_path)
    before = script.read_text()
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode() == f"{tmp_path}\n./script one script\n{before}"


def test_the_command_prints_system_calls_of_a_program_in_a_machine() -> None:
    command = [*KVM, "--strace", BUSYBOX, "echo", "hello"]
    done = subprocess.run(command, capture_output=True, env=ENVIRONMENT)
    assert done.stdout == b"hello\n"
    assert b'write(1, "hello\\n", 6) = 6\n' in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["uname", "-sm"],
        ["tr", "a-z", "A-Z"],
        ["sh", "-c", "i=0; while [ $i -lt 100 ]; do i=$((i + 1)); done; echo $i; exit 7"],
        ["expr", "1", "+"],
    ],
    ids=" ".join,
)
def test_the_example_in_python_runs_busybox(words: list[str]) -> None:
    minimal = [sys.executable, ROOT / "examples" / "sentry" / "minimal.py", BUSYBOX]
    native, ours = (
        subprocess.run([*head, *words], input=b"text\n", capture_output=True) for head in ([BUSYBOX], minimal)
    )
    assert (ours.returncode, ours.stdout, ours.stderr) == (native.returncode, native.stdout, native.stderr)


def test_a_machines_calendar_is_the_hosts() -> None:
    output = boot_on_machine(program.kernel(), BUSYBOX, "-- busybox date +%s")
    assert abs(int(output) - time.time()) < 1000


def test_a_machine_runs_a_program_of_a_shared_directory(root: Path) -> None:
    """Its files are the host's: what it reads, and what it has changed."""
    kernel = program.kernel()
    assert run_on_machine(kernel, None, "-- /bin/busybox sort -u /etc/motd", root=root) == (b"hello\n", "poweroff")
    assert run_on_machine(kernel, None, "-- /bin/busybox cp /bin/busybox /etc/copy", root=root) == (b"", "poweroff")
    assert (root / "etc" / "copy").read_bytes() == (root / "bin" / "busybox").read_bytes()


def test_a_programs_output_goes_to_a_virtio_console(root: Path) -> None:
    output, end = run_on_machine(program.kernel(), None, "-- /bin/busybox cat /etc/motd", root=root, device="virtio")
    assert (output, end) == (b"hello\n" * 1000, "poweroff")


SESSION = [
    (b"", READY),
    (b"stty size; test -t 0 -a -t 1 -a -t 2; echo $?\n", READY),
    (b'echo st""arted; cat\n', rb"started\r\n"),
    (b"one\n", rb"one\r\none\r\n"),
    (b"\x03", READY),
    (b"echo $?\n", READY),
    (b'echo st""arted; cat\n', rb"started\r\n"),
    (b"two\n", rb"two\r\ntwo\r\n"),
    (b"\x04", READY),
    (b"(trap 'stty size; exit 4' WINCH; sleep 9& echo st''arted; wait)\n", rb"started\r\n"),
    (b"resize", READY),
    (b"echo $?; stty size\n", READY),
    (b"exit 5\n", rb"exit 5\r\n"),
]
"""For the shell of busybox, see `tests/sentry/test_terminals.py`."""


def test_a_shell_in_a_machine_has_the_hosts_terminal() -> None:
    """Its modes and its size, Ctrl-C and Ctrl-D, another size; afterwards it is as before."""
    native, ours = (converse(head, (BUSYBOX, "sh", "-i"), SESSION) for head in ((), KVM))
    # A question for the cursor's place with no input waiting; and Linux drops the echo of Ctrl-C now and then
    rows = [[row.replace("\x1b[6n", "").replace("^C", "") for row in lines] for lines, _ in (native, ours)]
    assert native[1] == ours[1] == 5
    assert rows[1] == rows[0]


def test_the_terminal_is_as_before_however_a_machine_ends() -> None:
    with Terminal([*KVM, BUSYBOX, "cat"], SHELL_ENVIRONMENT) as terminal:
        terminal.press(b"line\n")
        terminal.expect(rb"line\r\nline\r\n")
        assert terminal.current_modes() != terminal.modes
        pid = terminal.process.pid
        (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        os.kill(int(child), signal.SIGKILL)
        assert terminal.wait() == -signal.SIGKILL
        assert terminal.current_modes() == terminal.modes


def counters(words: str, *, initrd: Path | None = None, root: Path | None = None) -> dict[str, int]:
    """KVM's counters of a machine with a program, in a root of its own or in a shared directory."""
    console = Console()
    config = MachineConfig(
        BootConfig(str(program.kernel()), str(initrd) if initrd else None, f"quiet -- {words}"),
        MemoryConfig(64 << 20),
        console=console.config,
        shares=() if root is None else (ShareConfig(str(root), cache="always", locks="guest"),),
    )
    try:
        with Machine(config) as machine:
            end = machine.run(120)
            assert end and end.kind == "poweroff"
            return machine.vcpus[0].stats()
    finally:
        console.close()


def guest_exits(words: str, initrd: Path) -> int:
    """How often a machine with a program left the guest, but for interrupts of the host and time slices."""
    counts = counters(words, initrd=initrd)
    # A slice sets the timer, and ends an interrupt
    return counts["exits"] - counts["irq_exits"] - 3 * counts["irq_injections"]


@pytest.mark.parametrize(
    "call", ["getpid", "read-64", "pwrite-4k", "pread-4k", "stat", "open-close", "map-touch", "ping-pong", "fork"]
)
def test_a_system_call_does_not_leave_the_guest(compile_static: Compile, call: str) -> None:
    """A hundred more cause no more exits. An exec does, since the new program's C library executes CPUID."""
    costs = compile_static("costs")
    few, many = (guest_exits(f"/program {call} {count}", costs) for count in (50, 150))
    assert many - few < 50


def test_an_idle_machine_sleeps() -> None:
    """No timer ticks while nothing runs."""
    short, long = (guest_exits(f"busybox sleep {seconds}", Path(BUSYBOX)) for seconds in (1, 4))
    assert long - short < 20


def test_files_of_a_share_need_no_exit_to_the_process(root: Path, compile_static: Compile) -> None:
    """Nor a wait for each change of a new file: only for its creation, its content, and its new attributes."""
    shutil.copy(compile_static("creates"), root / "bin" / "creates")
    few, many = (counters(f"/bin/creates /new{count} {count} closed exit", root=root) for count in (20, 120))
    more = {name: many[name] - few[name] for name in many}
    assert more["io_exits"] + more["mmio_exits"] < 20
    assert more["halt_exits"] < 350
    assert more["exits"] < 1000


def test_programs_share_a_cpu_after_a_wait_that_could_have_been_long(root: Path) -> None:
    sleep = "/bin/busybox sleep"
    lines = [f"{sleep} 100 &", "/bin/busybox cat /bin/busybox >/dev/null", "(while :; do :; done) &", f"{sleep} 0.1"]
    shell = "\n".join([*lines, "echo here"])
    (root / "script").write_text(shell)
    assert run_on_machine(program.kernel(), None, "-- /bin/busybox sh /script", root=root) == (b"here\n", "poweroff")


def test_gdb_attaches_to_the_core(tmp_path: Path) -> None:
    """With the names of its functions: a breakpoint, and who called whom."""
    if shutil.which("gdb") is None:
        pytest.skip("gdb is not installed: apt-get install gdb")
    kernel, console = program.kernel(), Console()
    config = MachineConfig(
        BootConfig(str(kernel), BUSYBOX, 'quiet -- busybox sh -c "echo run; while :; do kill -0 1; done"'),
        MemoryConfig(64 << 20),
        console=console.config,
    )
    commands = [
        *("set pagination off", "set confirm off", f"target remote {tmp_path}/gdb", "break sys_kill", "continue"),
        *("backtrace", "print core.current->tid", "delete", "detach"),
    ]
    with Machine(config) as machine, GdbServer(machine, GdbTarget(path=f"{tmp_path}/gdb")):
        machine.start()
        assert console.read(3) == b"run"
        words = [word for command in commands for word in ("-ex", command)]
        done = subprocess.run(["gdb", "-nx", "-q", str(kernel), *words, "-batch"], capture_output=True, text=True)
    console.close()
    assert re.search(r"Breakpoint 1, .*sys_kill \(t=(t@entry=)?0x", done.stdout), done.stdout + done.stderr
    assert re.search(r"(?s)\n#0 .*sys_kill .*\n#\d+ .*task_run \(.*\n#\d+ .*task_first \(", done.stdout), done.stdout
    assert "$1 = 1\n" in done.stdout


@pytest.mark.long  # a minute; `make fuzz-sentry` does it for longer
def test_random_programs_do_the_same_in_a_machine_and_in_a_process() -> None:
    """In a process the core agrees with Linux: tests/sentry/test_fuzz.py."""
    programs = [fuzz.from_text(path.read_text()) for path in sorted(fuzz.CORPUS.glob("*.txt"))]
    programs += [fuzz.Maker(seed, 150).program() for seed in range(2000, 2012)]
    runner = fuzz.Runner(platform="kvm", peer="ptrace")
    try:
        found = fuzz.compare(runner, programs)
    finally:
        runner.close()
    assert [each for each in found if each] == []
