"""The terminal as a console: what keys do, and that it is always given back."""

from __future__ import annotations

import fcntl
import os
import random
import select
import signal
import stat
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.unit.devices.conftest import IER, LSR, THR, THRE, Guest, read_all
from vmm.cli.console import Console
from vmm.cli.open_console import open_console
from vmm.cli.terminal import Keys
from vmm.errors import ConfigError

PROGRAM = Path(__file__).with_name("console_program.py")
ROOT = Path(__file__).parents[3]
PATIENCE = 60


def typed(*chunks: bytes) -> list[tuple[str, bytes]]:
    """What the keys of *chunks* mean, bytes next to each other joined."""
    keys = Keys()
    items: list[tuple[str, bytes]] = []
    for chunk in chunks:
        for command, text in keys.parse(chunk):
            if items and not command and not items[-1][0]:
                items[-1] = ("", items[-1][1] + text)
            else:
                items.append((command, text))
    return items


@pytest.mark.parametrize(
    ("chunks", "items"),
    [
        ([b"ls\r"], [("", b"ls\r")]),
        ([b"\x01x"], [("x", b"")]),
        ([b"a\x01", b"xb"], [("", b"a"), ("x", b""), ("", b"b")]),
        ([b"\x01\x01", b"\x01a"], [("", b"\x01\x01")]),
        ([b"\x01\x01x"], [("", b"\x01x")]),
        ([b"\x01z1"], [("", b"1")]),
        ([b"\x01h\x01b"], [("h", b""), ("b", b"")]),
    ],
)
def test_ctrl_a_is_the_escape_key(chunks: list[bytes], items: list[tuple[str, bytes]]) -> None:
    assert typed(*chunks) == items


class Screen:
    """A terminal with *PROGRAM* on it, and who sits before it."""

    def __init__(self, how: str, command: list[str] | None = None, pass_fds: tuple[int, ...] = ()) -> None:
        self.ours, self.theirs = os.openpty()
        self.before = termios.tcgetattr(self.theirs)
        self.text = b""
        self.process = subprocess.Popen(
            command or [sys.executable, str(PROGRAM), how],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=self.theirs,
            stdout=self.theirs,
            stderr=self.theirs,
            start_new_session=True,
            pass_fds=pass_fds,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )

    def wait_for(self, text: bytes) -> None:
        deadline = time.monotonic() + PATIENCE
        while text not in self.text:
            ready, _, _ = select.select([self.ours], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"no {text!r} on the screen:\n{self.text.decode(errors='replace')}"
            self.text += os.read(self.ours, 4096)

    def type(self, keys: bytes) -> None:
        os.write(self.ours, keys)

    def is_raw(self) -> bool:
        return not termios.tcgetattr(self.theirs)[3] & (termios.ECHO | termios.ICANON | termios.ISIG)

    def is_restored(self) -> bool:
        return termios.tcgetattr(self.theirs) == self.before

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.ours)
        os.close(self.theirs)


def eventually(condition: Callable[[], bool]) -> bool:
    """Whether *condition* becomes true."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture
def screen() -> Iterator[Callable[..., Screen]]:
    made: list[Screen] = []

    def make(how: str, command: list[str] | None = None, pass_fds: tuple[int, ...] = ()) -> Screen:
        made.append(Screen(how, command, pass_fds))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_keys_reach_the_guest_untouched(screen: Callable[..., Screen]) -> None:
    it = screen("wait")
    it.wait_for(b"ready\n")
    assert it.is_raw()
    it.type(b"\x03\x1a\x11\r\n\x01\x01\xff")
    it.wait_for(b"<03>\n<1a>\n<11>\n<0d>\n<0a>\n<01>\n<ff>\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_ends_it_restores_the_terminal(screen: Callable[..., Screen], number: int) -> None:
    it = screen("wait")
    it.wait_for(b"ready\n")
    it.process.send_signal(number)
    assert it.process.wait(PATIENCE) == 0
    assert it.is_restored()


def test_the_escape_key_quits(screen: Callable[..., Screen]) -> None:
    it = screen("wait")
    it.wait_for(b"ready\n")
    it.type(b"\x01")
    it.type(b"x")
    assert it.process.wait(PATIENCE) == 0
    assert it.is_restored()


def test_help_is_readable_on_a_raw_terminal(screen: Callable[..., Screen]) -> None:
    it = screen("wait")
    it.wait_for(b"ready\n")
    it.type(b"\x01h")
    it.wait_for(b"\r\nCtrl-A x       end the virtual machine\r\n")


@pytest.mark.parametrize(("how", "status"), [("raise", 1), ("exit", 3)])
def test_other_ends_restore_the_terminal(screen: Callable[..., Screen], how: str, status: int) -> None:
    it = screen(how)
    it.wait_for(b"ready\n")
    it.type(b"x")
    it.wait_for(b"<78>\n")
    assert it.process.wait(PATIENCE) == status
    assert it.is_restored()


SHELL = """
import os, signal, subprocess, sys
commands, replies = os.fdopen(int(sys.argv[1])), os.fdopen(int(sys.argv[2]), "w")
signal.signal(signal.SIGTTOU, signal.SIG_IGN)

def foreground(group):
    os.tcsetpgrp(0, group)

def start():
    os.setpgid(0, 0)
    if sys.argv[3] == "fg":
        os.tcsetpgrp(0, os.getpgrp())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)

job = subprocess.Popen([sys.executable, *sys.argv[4:]], preexec_fn=start).pid
for line in commands:
    if line == "suspend\\n":
        os.kill(-job, signal.SIGTSTP)
        _, status = os.waitpid(job, os.WUNTRACED)
        print("stopped" if os.WIFSTOPPED(status) else "gone", file=replies, flush=True)
        foreground(os.getpgrp())
    elif line == "fg\\n":
        foreground(job)
        os.kill(-job, signal.SIGCONT)
    elif line == "bg\\n":
        os.kill(-job, signal.SIGCONT)
    elif line == "state\\n":
        pid, status = os.waitpid(job, os.WUNTRACED | os.WNOHANG)
        print("running" if not pid else "stopped" if os.WIFSTOPPED(status) else "gone", file=replies, flush=True)
    elif line == "end\\n":
        os.killpg(job, signal.SIGKILL)
        os.waitpid(job, 0)
        print("ended", file=replies, flush=True)
"""


class Shell:
    """A shell with job control that has started the program, in the foreground or not."""

    def __init__(self, screen: Callable[..., Screen], where: str) -> None:
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        self.screen = screen(
            "",
            [sys.executable, "-c", SHELL, str(theirs_in), str(theirs_out), where, str(PROGRAM), "wait"],
            (theirs_in, theirs_out),
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._commands = os.fdopen(ours_out, "w")
        self._replies = os.fdopen(ours_in)

    def do(self, command: str) -> None:
        print(command, file=self._commands, flush=True)

    def ask(self, command: str) -> str:
        self.do(command)
        return self._replies.readline().strip()

    def close(self) -> None:
        assert self.ask("end") == "ended"  # in the background it would outlive its terminal
        self._commands.close()
        self._replies.close()


@pytest.fixture
def shell(screen: Callable[..., Screen]) -> Iterator[Callable[[str], Shell]]:
    made: list[Shell] = []

    def make(where: str) -> Shell:
        made.append(Shell(screen, where))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_a_suspended_machine_gives_the_terminal_back_and_takes_it_again(shell: Callable[[str], Shell]) -> None:
    it = shell("fg")
    it.screen.wait_for(b"ready\n")
    assert it.screen.is_raw()
    assert it.ask("suspend") == "stopped"
    assert it.screen.is_restored()
    it.do("fg")
    assert eventually(it.screen.is_raw)
    it.screen.type(b"k")
    it.screen.wait_for(b"<6b>\n")


def test_in_the_background_the_terminal_is_left_alone(shell: Callable[[str], Shell]) -> None:
    it = shell("bg")
    it.screen.wait_for(b"ready")
    assert it.screen.is_restored()
    it.screen.type(b"for the shell\n")
    assert it.ask("state") == "running"
    it.do("fg")
    assert eventually(it.screen.is_raw)
    it.screen.type(b"k")
    it.screen.wait_for(b"<6b>\n")


def test_continued_in_the_background_it_runs_on(shell: Callable[[str], Shell]) -> None:
    it = shell("fg")
    it.screen.wait_for(b"ready")
    assert it.ask("suspend") == "stopped"
    it.do("bg")
    it.screen.type(b"for the shell\n")
    assert it.ask("state") == "running"
    assert it.screen.is_restored()


# -- the host's end of the serial console: pipes, files, pseudo-terminals --------------------------------------------


class Wired:
    """A console connected to a guest whose tty is open."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.guest = Guest(console.out_fd, drop=console.drop)
        self.quits: list[str] = []
        self.guest.open_port()
        console.connect(self.guest.loop, self.guest.serial, lambda: self.quits.append("quit"))

    def receive(self, length: int) -> bytes:
        """What the guest reads, *length* bytes."""
        received = bytearray()
        while len(received) < length:
            self.guest.handle(bytearray(), received)
            if len(received) < length:
                assert self.guest.loop.run_once(10), f"no more input after {len(received)} bytes"
        return bytes(received)

    def close(self) -> None:
        self.console.close()
        self.guest.close()


@pytest.fixture
def wire() -> Iterator[Callable[[Console], Wired]]:
    made: list[Wired] = []

    def connect(console: Console) -> Wired:
        made.append(Wired(console))
        return made[-1]

    yield connect
    for wired in made:
        wired.close()


@pytest.fixture
def sink() -> Iterator[int]:
    fd = os.open("/dev/null", os.O_WRONLY)
    yield fd
    os.close(fd)


def test_a_large_piped_input_loses_nothing(wire: Callable[[Console], Wired], sink: int) -> None:
    data = random.Random(3).randbytes(300_000)
    with subprocess.Popen(
        [sys.executable, "-c", "import random, sys; sys.stdout.buffer.write(random.Random(3).randbytes(300_000))"],
        stdout=subprocess.PIPE,
    ) as writer:
        assert writer.stdout is not None
        wired = wire(open_console("stdio", writer.stdout.fileno(), sink))
        assert wired.receive(len(data)) == data, "every byte, the escape key included"


@pytest.mark.parametrize("size", [0, 10, 4096, 50_000])
def test_a_file_can_be_typed(wire: Callable[[Console], Wired], sink: int, tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    (tmp_path / "input").write_bytes(data)
    with open(tmp_path / "input", "rb") as source:
        assert wire(open_console("stdio", source.fileno(), sink)).receive(size) == data


def test_the_end_of_input_does_not_end_the_guest(wire: Callable[[Console], Wired]) -> None:
    stdin, typing = os.pipe()
    reader, stdout = os.pipe()
    wired = wire(open_console("stdio", stdin, stdout))
    os.write(typing, b"last")
    os.close(typing)
    assert wired.receive(4) == b"last"
    wired.guest.serve(lambda: wired.console.in_fd < 0)
    wired.guest.poll_out(b"still here\n")
    assert os.read(reader, 100) == b"still here\n"
    assert wired.quits == []
    for fd in (stdin, reader, stdout):
        os.close(fd)


@pytest.mark.parametrize("closed", ["stdin", "stdout"])
def test_closed_standard_streams_are_no_error(wire: Callable[[Console], Wired], closed: str) -> None:
    fd = os.open("/dev/null", os.O_RDWR)
    unused = os.dup(fd)
    os.close(unused)
    wired = wire(open_console("stdio", *((unused, fd) if closed == "stdin" else (fd, unused))))
    wired.guest.poll_out(b"nobody reads this\n")
    assert wired.quits == []
    os.close(fd)


def test_the_run_ends_when_the_reader_leaves(
    wire: Callable[[Console], Wired], capfd: pytest.CaptureFixture[str]
) -> None:
    reader, stdout = os.pipe()
    stdin = os.open("/dev/null", os.O_RDONLY)
    wired = wire(open_console("stdio", stdin, stdout))
    wired.guest.poll_out(b"first line\n")
    os.close(reader)
    wired.guest.poll_out(b"second line\n")
    wired.guest.serve(lambda: bool(wired.quits))
    assert "nobody reads the console any more" in capfd.readouterr().err
    os.close(stdin)
    os.close(stdout)


def test_a_full_disk_is_told_and_the_guest_goes_on(
    wire: Callable[[Console], Wired], capfd: pytest.CaptureFixture[str]
) -> None:
    stdout = os.open("/dev/full", os.O_WRONLY)
    stdin = os.open("/dev/null", os.O_RDONLY)
    wired = wire(open_console("stdio", stdin, stdout))
    wired.guest.poll_out(b"line\n")
    told = ""

    def saw() -> bool:
        nonlocal told
        told += capfd.readouterr().err
        return "No space left" in told

    wired.guest.serve(saw)
    assert wired.quits == []
    os.close(stdin)
    os.close(stdout)


def test_what_was_sent_reaches_a_slow_reader_before_the_end(wire: Callable[[Console], Wired]) -> None:
    reader, stdout = os.pipe()
    stdin = os.open("/dev/null", os.O_RDONLY)
    wired = wire(open_console("stdio", stdin, stdout))
    sent = 0
    while wired.guest[LSR] & THRE:
        wired.guest[THR] = ord("x")
        sent += 1
    got: list[bytes] = []

    def read_late() -> None:
        while sum(map(len, got)) < sent:
            got.append(os.read(reader, 1 << 16))

    thread = threading.Thread(target=read_late)
    thread.start()
    wired.console.restore()
    thread.join()
    for fd in (stdin, stdout, reader):
        os.close(fd)


def test_sharing_standard_output_does_not_change_it_for_others() -> None:
    reader, stdout = os.pipe()
    with open_console("stdio", reader, stdout) as console:
        assert not os.get_blocking(console.out_fd), "a slow reader must not stop a thread of ours"
        assert os.get_blocking(stdout)
    os.write(stdout, b"x")
    os.close(reader)
    os.close(stdout)


# -- pty -----------------------------------------------------------------------------------------------------------


def test_a_pty_connects_a_terminal_to_the_guest(wire: Callable[[Console], Wired]) -> None:
    wired = wire(open_console("pty"))
    terminal = os.open(wired.console.where, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    wired.guest.poll_out(b"login: ")
    wired.guest.poll_out(b"line\n")
    assert read_all(terminal) == b"login: line\n"
    os.write(terminal, b"root\x01x\r\x03")
    assert wired.receive(8) == b"root\x01x\r\x03", "nothing is translated, nothing is an escape"
    os.close(terminal)


def test_a_pty_survives_that_its_readers_come_and_go(wire: Callable[[Console], Wired]) -> None:
    wired = wire(open_console("pty"))
    for round_ in range(3):
        terminal = os.open(wired.console.where, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        assert not termios.tcgetattr(terminal)[3] & termios.ECHO, "an echo would type the guest's output"
        wired.guest.poll_out(b"hello\n")
        assert read_all(terminal) == b"hello\n"
        os.write(terminal, b"%d" % round_)
        assert wired.receive(1) == b"%d" % round_
        os.close(terminal)


def test_a_pty_that_nobody_reads_does_not_stop_the_guest(wire: Callable[[Console], Wired]) -> None:
    wired = wire(open_console("pty"))
    wired.guest.poll_out(b"x" * 99 + b"\n")
    for _ in range(2000):
        wired.guest.poll_out(b"x" * 99 + b"\n")
    stats = wired.guest.serial.stats()
    assert stats["tx_dropped"] > 0
    assert wired.guest[IER] >= 0


# -- file ----------------------------------------------------------------------------------------------------------


def test_a_file_is_private_and_appended_to(wire: Callable[[Console], Wired], tmp_path: Path) -> None:
    path = tmp_path / "console.log"
    old = os.umask(0)
    try:
        for _ in range(2):
            wired = wire(open_console(f"file:{path}"))
            wired.guest.poll_out(b"booted\n")
            wired.close()
    finally:
        os.umask(old)
    assert path.read_bytes() == b"booted\nbooted\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "link").symlink_to("victim")
    with pytest.raises(ConfigError, match="symbolic link") as caught:
        open_console(f"file:{tmp_path}/link")
    assert caught.value.code == "console-file"
    assert (tmp_path / "victim").read_text() == "precious"


@pytest.mark.parametrize("kind", ["folder", "fifo", "device", "missing folder"])
def test_a_log_is_a_regular_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "log"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/null")
    else:
        path = tmp_path / "missing" / "log"
    with pytest.raises(ConfigError) as caught:
        open_console(f"file:{path}")
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("spec", ["", "file:", "File:x", "tty", "stdio,raw"])
def test_other_places_are_refused(spec: str) -> None:
    with pytest.raises(ConfigError, match="stdio, pty, file:PATH or none"):
        open_console(spec)


def test_none_is_nowhere(wire: Callable[[Console], Wired]) -> None:
    wired = wire(open_console("none"))
    wired.guest.poll_out(b"into the void\n")
    assert wired.guest.serial.stats()["tx_bytes"] == 14
