"""The terminal as a console: what keys do, and that it is always given back."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vmm.cli.terminal import Keys

PROGRAM = Path(__file__).with_name("console_program.py")
ROOT = Path(__file__).parents[3]
PATIENCE = 20


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
