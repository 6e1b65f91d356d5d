"""`pyvmm boot` as a user or a script sees it: exit statuses, messages, signals, consoles.

The guests are a few instructions long, so any KVM can run them; Linux is in tests/guest.
"""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.command import PATIENCE, SIGNAL_STATUS, Command, Terminal
from tools.where import PYVMM

pytestmark = pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="no /dev/kvm here")

Start = Callable[..., Command]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts `pyvmm boot` with a kernel that runs the given code: `start(code, *arguments)`."""
    commands: list[Command] = []

    def start_one(code: bytes, *arguments: str, **options: Any) -> Command:
        kernel = tiny.make(tmp_path, code)
        commands.append(Command(tmp_path, "--kernel", kernel, "--memory", "32M", *arguments, **options))
        return commands[-1]

    yield start_one
    for command in commands:
        command.close()
        assert not command.leftovers()


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    yield terminal
    terminal.close()


ENDS = {
    "poweroff": (tiny.POWEROFF, 0, ""),
    "reboot": (tiny.ACPI_RESET, 16, "reboot"),
    "panic": (tiny.PANIC, 17, "panicked"),
    "triple-fault": (tiny.TRIPLE_FAULT, 18, "triple fault"),
    "error": (tiny.NOWHERE, 19, "rip 0xd8000000"),
}


@pytest.mark.parametrize("kind", ENDS)
def test_every_end_has_its_exit_status_and_message(start: Start, kind: str) -> None:
    code, status, message = ENDS[kind]
    command = start(tiny.say("hello\n") + code)
    assert command.wait() == status
    assert command.output == b"hello\n"
    assert "Traceback" not in command.errors
    assert message in command.errors
    assert bool(command.errors) == (kind != "poweroff")


@pytest.mark.parametrize("kind", ENDS)
def test_every_end_is_one_json_object(start: Start, kind: str) -> None:
    code, status, message = ENDS[kind]
    command = start(tiny.say("hello\n") + code, "--json")
    assert command.wait() == status
    assert command.output == b"hello\n", "the console stays on stdout"
    (line,) = command.errors.splitlines()
    event = json.loads(line)
    assert (event["event"], event["status"]) == (kind, status)
    assert message in event.get("detail", "")


@pytest.mark.parametrize("code", [tiny.SPIN, tiny.HALT, tiny.forever(tiny.say("x"))], ids=["spin", "halt", "print"])
def test_timeout_ends_any_guest(start: Start, code: bytes) -> None:
    command = start(tiny.say("hello\n") + code, "--timeout", "0.5", "--json")
    assert command.wait() == 124
    assert command.output.startswith(b"hello\n")
    event = json.loads(command.errors)
    assert (event["event"], event["status"]) == ("timeout", 124)
    assert "0.5" in event["detail"]


@pytest.mark.parametrize("number", SIGNAL_STATUS, ids=lambda number: number.name)
@pytest.mark.parametrize("code", [tiny.SPIN, tiny.HALT], ids=["spin", "halt"])
def test_signals_end_the_run_with_their_status(start: Start, number: signal.Signals, code: bytes) -> None:
    command = start(tiny.say("hello\n") + code, "--cpus", "2", "--json")
    command.expect("hello")
    command.process.send_signal(number)
    assert command.wait() == SIGNAL_STATUS[number]
    event = json.loads(command.errors)
    assert (event["event"], event["status"]) == ("stopped", SIGNAL_STATUS[number])
    assert number.name in event["detail"]


def test_statistics_tell_who_answered_the_exits(start: Start) -> None:
    code = tiny.repeat(tiny.say("x"), 500) + tiny.repeat(tiny.outb(0x80, 0), 100) + tiny.POWEROFF
    command = start(code, "--stats", "--json")
    assert command.wait() == 0
    stats = json.loads(command.errors)["stats"]
    exits = stats["exits"]
    assert exits["by_reason"]["io"]["c"] >= 600, "the serial port and the unclaimed one"
    assert exits["by_reason"]["io"]["python"] == 1, "the power register"
    assert exits["unclaimed"] >= 100
    assert (exits["c"], exits["python"]) == tuple(
        sum(row[who] for row in exits["by_reason"].values()) for who in ("c", "python")
    )
    assert stats["serial"]["tx_bytes"] == 500 == len(command.output)
    order = ["entered", "made", "memory", "kvm", "devices", "kernel", "first-run", "ended"]
    assert [name for name in stats["phases"] if name in order] == order
    assert list(stats["phases"].values()) == sorted(stats["phases"].values())


def test_statistics_as_a_table(start: Start) -> None:
    command = start(tiny.repeat(tiny.say("x"), 500) + tiny.POWEROFF, "--stats")
    assert command.wait() == 0
    rows = {line.split()[0]: line.split()[1:] for line in command.errors.splitlines()}
    assert rows["exits"] == ["kernel", "C", "Python"]
    assert int(rows["io"][-2]) >= 500 and rows["io"][-1] == "1"
    assert rows["all"][-1] == "1"
    assert rows["serial"][:2] == ["tx_bytes", "500"]
    assert rows["phases"][0] == "(ms)"
    assert rows["vcpu0"]


def test_input_from_a_pipe_reaches_the_guest_whole(start: Start) -> None:
    sent = bytes(range(5, 256)) * 40
    command = start(tiny.ECHO)
    thread = threading.Thread(target=lambda: command.type(sent + b"\4"))
    thread.start()
    assert command.wait() == 0
    thread.join()
    assert command.output == sent + b"\4"


def test_end_of_input_does_not_end_the_guest(start: Start) -> None:
    command = start(tiny.repeat(tiny.say("x"), 5_000) + tiny.POWEROFF, stdin=subprocess.DEVNULL)
    assert command.wait() == 0
    assert command.output == b"x" * 5_000


def test_late_reader_gets_everything(start: Start) -> None:
    command = start(tiny.repeat(tiny.say("0123456789"), 10_000) + tiny.POWEROFF)
    with pytest.raises(subprocess.TimeoutExpired):
        # More than a pipe takes; a guest that does not look whether there is room is held up for a second only
        command.process.wait(0.5)
    assert command.wait() == 0
    assert command.output == b"0123456789" * 10_000


def test_a_reader_that_leaves_ends_the_run(start: Start) -> None:
    command = start(tiny.forever(tiny.say("line\n")), "--json")
    with subprocess.Popen(["head", "-1"], stdin=command.process.stdout, stdout=subprocess.PIPE) as head:
        assert command.process.stdout is not None
        command.process.stdout.close()
        command.process.stdout = None
        assert head.communicate()[0] == b"line\n"
    assert command.wait() == 141
    assert "Traceback" not in command.errors


def test_console_file_is_appended_to(start: Start, tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    for _ in range(2):
        command = start(tiny.say("hello\n") + tiny.POWEROFF, "--console", f"file:{log}")
        assert command.wait() == 0
        assert command.output == b""
    assert log.read_text() == "hello\nhello\n"
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


def test_console_none_throws_away(start: Start) -> None:
    command = start(tiny.repeat(tiny.say("x"), 10_000) + tiny.POWEROFF, "--console", "none", stdin=subprocess.DEVNULL)
    assert command.wait() == 0
    assert command.output == b""


def test_console_pty_is_a_terminal_of_its_own(start: Start) -> None:
    command = start(tiny.say("lost?\n") + tiny.ECHO, "--console", "pty", "--json")
    while not (lines := command.errors.splitlines()):
        assert command.process.poll() is None
        time.sleep(0.05)
    where = json.loads(lines[0])
    assert where["event"] == "console"
    fd = os.open(where["where"], os.O_RDWR | os.O_NOCTTY)
    try:
        os.write(fd, b"typed")
        seen = b""
        while b"typed" not in seen:
            seen += os.read(fd, 100)
        os.write(fd, b"\4")
        assert command.wait() == 0
    finally:
        os.close(fd)
    assert command.output == b"", "the console is not on stdout"
    assert json.loads(command.errors.splitlines()[-1])["event"] == "poweroff"


def test_escape_key_ends_the_run_and_gives_the_terminal_back(start: Start, terminal: Terminal) -> None:
    command = start(tiny.say("hello\n") + tiny.ECHO, terminal=terminal)
    terminal.expect("hello")
    assert not terminal.settings()[3] & (termios.ECHO | termios.ICANON | termios.ISIG)  # type: ignore[operator]
    terminal.type(b"\3typed")
    terminal.expect("\3typed")  # Ctrl-C is the guest's
    terminal.type(b"\1")
    terminal.type(b"x")
    assert command.wait() == 20
    assert terminal.settings() == terminal.before
    assert "console" in command.errors


@pytest.mark.parametrize("number", SIGNAL_STATUS, ids=lambda number: number.name)
def test_signals_give_the_terminal_back(start: Start, terminal: Terminal, number: signal.Signals) -> None:
    command = start(tiny.say("hello\n") + tiny.SPIN, terminal=terminal)
    terminal.expect("hello")
    assert terminal.settings() != terminal.before
    command.process.send_signal(number)
    assert command.wait() == SIGNAL_STATUS[number]
    assert terminal.settings() == terminal.before


@pytest.mark.parametrize("kind", ["poweroff", "triple-fault", "error"])
def test_the_guests_end_gives_the_terminal_back(start: Start, terminal: Terminal, kind: str) -> None:
    code, status, _ = ENDS[kind]
    command = start(tiny.say("hello\n") + code, terminal=terminal)
    assert command.wait() == status
    assert terminal.settings() == terminal.before
    terminal.expect("hello")


def test_two_writers_of_one_image_are_refused(start: Start, tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    first = start(tiny.say("hello\n") + tiny.HALT, "--disk", str(image))
    first.expect("hello")
    second = start(tiny.POWEROFF, "--disk", str(image))
    assert second.wait() == 2
    assert str(image) in second.errors and "in use" in second.errors
    assert f"process {first.process.pid}" in second.errors
    third = start(tiny.POWEROFF, "--disk", f"{image},ro")
    assert third.wait() == 2, "nor may anybody read what the first writes"
    first.process.send_signal(signal.SIGKILL)
    first.process.wait()
    assert start(tiny.POWEROFF, "--disk", str(image)).wait() == 0, "a killed one leaves no lock"


def test_several_readers_of_one_image(start: Start, tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    first = start(tiny.say("hello\n") + tiny.HALT, "--disk", f"{image},ro")
    first.expect("hello")
    assert start(tiny.POWEROFF, "--disk", f"{image},ro").wait() == 0


def test_no_terminal_and_closed_descriptors(tmp_path: Path) -> None:
    for code, status in ((tiny.POWEROFF, 0), (tiny.PANIC, 17)):
        kernel = tiny.make(tmp_path, tiny.say("hello\n") + code)
        done = subprocess.run(
            ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", PYVMM, "boot", "--kernel", kernel, "--memory", "32M"],
            start_new_session=True,
            timeout=PATIENCE,
        )
        assert done.returncode == status


# -- what a monitor keeps of its start while its guest runs ----------------------------------------------------------


def programs_kib(pid: int) -> int:
    """How much process *pid* has mapped of text and constants (proc(5), smaps)."""
    smaps = Path(f"/proc/{pid}/smaps").read_text()
    found = re.findall(r"^\S+ r-[-x]p \S+ \S+ \S+ +/.*\n(?:\S+:.*\n)*?Rss: +(\d+) kB$", smaps, re.MULTILINE)
    return sum(map(int, found))


def test_programs_that_only_the_start_needed_are_unmapped(tmp_path: Path) -> None:
    kernel = tiny.make(tmp_path, tiny.say("hello\n"), tiny.ECHO)
    command = Command(tmp_path, "--kernel", kernel)
    try:
        command.expect("hello\n")
        started = programs_kib(command.process.pid)
        assert started > 1024, "or nothing is seen here"
        deadline = time.monotonic() + PATIENCE
        while programs_kib(command.process.pid) > started / 2:
            assert time.monotonic() < deadline, f"{programs_kib(command.process.pid)} of {started} KiB"
            time.sleep(0.1)
        command.type(b"typed\n\4")
        assert command.wait() == 0
        assert command.text == "hello\ntyped\n\4"
    finally:
        command.close()
