"""Terminals behave as on Linux: lines and modes, pseudo terminals, sessions and job control."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.sentry.conftest import Compile
from tests.sentry.small_root import PYTHON
from tests.sentry.terminal import Terminal
from tests.sentry.test_command import PYTHONPATH
from tests.sentry.test_programs import BUSYBOX, run
from tests.sentry.test_real import SANDBOX

READY = rb"ready> "
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "PS1": "ready> ",
    "TERM": "dumb",
    "LC_ALL": "C",
    "HISTFILE": "",
    "HOME": "/",
    "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"),
    "PYTHONPATH": PYTHONPATH,
}
BASH = ("/bin/bash", "--norc", "--noprofile", "-i")
ON_RESIZE = rb"""bash -c 'trap "stty size; kill \$!; exit 4" WINCH; sleep 60 & echo st""arted; wait'"""
SESSION: list[tuple[bytes, bytes]] = [
    (b"", READY),
    (b"stty -a\n", READY),
    (b"stty size; test -t 0 -a -t 1 -a -t 2; echo $?\n", READY),
    (b'echo st""arted; cat\n', rb"started\r\n"),
    (b"one\n", rb"one\r\none\r\n"),
    (b"\x1a", READY),
    (b"jobs\n", READY),
    (b"fg\n", rb"cat\r\n"),
    (b"two\n", rb"two\r\ntwo\r\n"),
    (b"\x03", READY),
    (b"echo $?\n", READY),
    (b"sleep 100 &\n", READY),
    (b"jobs\n", READY),
    (b"kill %1; wait %1; echo $?\n", READY),
    (b"cat & until jobs | grep -q Stopped; do :; done\n", READY),
    (b"bg; until jobs | grep -q Stopped; do :; done\n", READY),
    (b"fg\n", rb"cat\r\n"),
    (b"three\n", rb"three\r\nthree\r\n"),
    (b"\x04", READY),
    (b"echo wrong\x7f\x7f\x7f\x7f\x7fright\n", READY),
    (b"echo b\x01\x06\x06\x06\x06\x06a\x05c\n", READY),
    (b"nothing of this\x15echo a\tb\n", READY),
    (b'echo st""arted; cat\n', rb"started\r\n"),
    (b"ab\x7fc\x17d e\x17\x16\x03\n", rb"\^C\r\nd \x03\r\n"),
    (b"half\x04", rb"halfhalf"),
    (b"\x04", READY),
    (ON_RESIZE + b"\n", rb"started\r\n"),
    (b"resize", READY),
    (b"echo $?; stty size\n", READY),
    (b"(exit 3) | cat; (exit 3); echo $?\n", READY),
    (b"exit 5\n", rb"exit\r\n"),
]
"""Keys, and the pattern to wait for then: a key for a program must not come before the program has started."""


@pytest.mark.parametrize(("name", "least"), [("tty", 450), ("pty", 190)])
def test_terminals_do_what_they_do_on_linux(platform: Path, compile_static: Compile, name: str, least: int) -> None:
    """What is typed, echoed and read in each mode; opens, hangups, signals, and processes in the background."""
    program = compile_static(name)
    native, ours = (run(*head, program) for head in ((), (platform, "--")))
    assert native.returncode == ours.returncode == 42, ours.stderr
    rows = [each.stdout.decode().splitlines() for each in (native, ours)]
    assert len(rows[0]) > least
    assert rows[1] == rows[0]


def converse(
    head: tuple[str, ...], command: Sequence[str] = BASH, session: Sequence[tuple[bytes, bytes]] = SESSION
) -> tuple[list[str], int]:
    """Use a shell as a person does; returns what was on the terminal, and the exit status."""
    with Terminal([*head, *command], ENVIRONMENT) as terminal:
        for keys, shown in session:
            if keys == b"resize":
                terminal.resize(33, 99)
            else:
                terminal.press(keys)
            terminal.expect(shown)
        status = terminal.wait()
        assert terminal.current_modes() == terminal.modes
    return re.sub(r"\[1\] \d+", "[1] PID", terminal.seen.decode()).splitlines(), status


def test_a_shell_on_the_hosts_terminal_behaves_as_on_linux() -> None:
    """Job control, editing, signals, another size of the window, the exit status."""
    native, ours = converse(()), converse(SANDBOX)
    assert native[1] == 5
    assert ours == native


@pytest.mark.parametrize("command", ["less /etc/passwd", "vi -u NONE -c q"])
def test_programs_that_use_the_whole_screen_start_and_end(command: str) -> None:
    """They set modes, find out the size, and restore what was."""
    if not shutil.which(command.split()[0]):
        pytest.skip(f"{command.split()[0]} is not installed")
    with Terminal([*SANDBOX, *command.split()], {**ENVIRONMENT, "TERM": "xterm"}, (10, 40)) as terminal:
        terminal.expect(rb"\x1b\[\?1049h")
        terminal.press(b"q")
        terminal.expect(rb"\x1b\[\?1049l")
        assert terminal.wait() == 0
        assert terminal.current_modes() == terminal.modes


SHELL = "test -t 0 && stty -a; ps -o stat= $$ | tr -d N; exit 3"  # N: the tests run at another priority
SPAWN = f"import pty, sys; sys.exit(pty.spawn(['sh', '-c', '{SHELL}']) >> 8)"


@pytest.mark.parametrize(
    "command",
    [[PYTHON, "-c", SPAWN], ["script", "-qec", "stty -a; test -t 0 && echo here; exit 3", "/dev/null"]],
    ids=["pty", "script"],
)
def test_programs_make_terminals_for_others(command: list[str]) -> None:
    native, ours = (
        subprocess.run([*head, *command], stdin=subprocess.DEVNULL, capture_output=True, env=ENVIRONMENT, timeout=60)
        for head in ((), SANDBOX)
    )
    assert native.returncode == 3
    assert (ours.returncode, ours.stdout, ours.stderr) == (native.returncode, native.stdout, native.stderr)


def test_keys_reach_the_program_as_its_terminal_decides(platform: Path) -> None:
    """Without a handler, Ctrl-C ends the first program, and the command by the same signal."""
    with Terminal([str(platform), "--", BUSYBOX, "cat"]) as terminal:
        terminal.press(b"line\n")
        terminal.expect(rb"line\r\nline\r\n")
        terminal.press(b"\x03")
        terminal.expect(rb"\^C")
        assert terminal.wait() == -signal.SIGINT
        assert terminal.current_modes() == terminal.modes


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_the_terminal_is_as_before_however_the_core_ends(platform: Path, number: signal.Signals) -> None:
    with Terminal([str(platform), "--", BUSYBOX, "cat"]) as terminal:
        terminal.press(b"line\n")
        terminal.expect(rb"line\r\nline\r\n")
        assert terminal.current_modes() != terminal.modes
        (core,) = children(terminal.process.pid)
        os.kill(core if number == signal.SIGKILL else terminal.process.pid, number)
        assert terminal.wait() == -number
        assert terminal.current_modes() == terminal.modes


WIDENED = 'echo be""gun; read x; echo $x; until stty size | grep -q 100; do :; done; echo wide""ned; exec cat'


def test_a_shell_of_the_host_stops_and_continues_it(platform: Path) -> None:
    """SIGTSTP from outside stops the job. After `fg`, it continues and has the new size of the window."""
    with Terminal(BASH, ENVIRONMENT) as terminal:
        terminal.expect(READY)
        terminal.press(f"{platform} -- {BUSYBOX} sh -c '{WIDENED}'\n".encode())
        terminal.expect(rb"begun\r\n")
        terminal.press(b"one\n")
        terminal.expect(rb"one\r\none\r\n")
        (job,) = children(terminal.process.pid)
        os.kill(job, signal.SIGTSTP)
        terminal.expect(rb"(?s)Stopped.*" + READY)
        terminal.resize(30, 100)
        terminal.press(b"fg\n")
        terminal.expect(rb"widened\r\n")
        terminal.press(b"two\n")
        terminal.expect(rb"two\r\ntwo\r\n")
        terminal.press(b"\x03")
        terminal.expect(READY)
        terminal.press(b"exit $?\n")
        assert terminal.wait() == 128 + signal.SIGINT


def test_only_streams_that_are_the_terminal_are_one(platform: Path, tmp_path: Path) -> None:
    """Output to a file does not pass through the terminal; its errors do."""
    script = (
        f"{platform} -- {BUSYBOX} sh -c 'test -t 0 && test ! -t 1 && test -t 2 && echo to file && echo $? >&2' >out"
    )
    with Terminal(["/bin/sh", "-c", f"cd {tmp_path}; {script}"]) as terminal:
        terminal.expect(rb"0\r\n")
        assert terminal.wait() == 0
    assert (tmp_path / "out").read_text() == "to file\n"


def test_without_a_terminal_as_its_input_there_is_none(platform: Path) -> None:
    words = "test -t 0 || tty; echo x >/dev/tty"
    assert run(platform, "--", BUSYBOX, "sh", "-c", words).stdout == b"not a tty\n"


FLOOD = """
import errno, os, resource, termios
limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))

def many():
    masters = []
    try:
        while True:
            masters.append(os.open("/dev/ptmx", os.O_RDWR | os.O_NONBLOCK))
    except OSError as error:
        return masters, errno.errorcode[error.errno]

def fill(fd):
    size = 0
    try:
        while size < 1 << 20:
            size += os.write(fd, b"x" * 1000)
    except OSError as error:
        return size <= 1 << 16, errno.errorcode[error.errno]

masters, error = many()
print(len(masters), error)
for fd in masters:
    os.close(fd)
masters, error = many()
print(len(masters), error)
os.unlockpt(masters[0])
slave = os.open(os.ptsname(masters[0]), os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY)
print(fill(slave))
modes = termios.tcgetattr(slave)
modes[3] = 0
termios.tcsetattr(slave, termios.TCSANOW, modes)
print(fill(masters[0]))
print(len(os.listdir("/dev/pts")))
"""


def test_terminals_and_what_they_hold_are_bounded() -> None:
    """A program that opens and fills as many as it can gets errors, and can open as many after it has closed them."""
    done = subprocess.run(
        [*SANDBOX, PYTHON, "-c", FLOOD], stdin=subprocess.DEVNULL, capture_output=True, env=ENVIRONMENT, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, b"")
    lines = done.stdout.decode().splitlines()
    assert lines == ["1024 ENOSPC"] * 2 + ["(True, 'EAGAIN')"] * 2 + ["1025"]
