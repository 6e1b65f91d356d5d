"""`pyvmm top` and `pyvmm stats` on a terminal: what they draw, how they end, and what they leave."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import signal
import socket
import struct
import subprocess
import termios
from collections.abc import Iterator
from typing import Any

import pytest

from tests.kata.oci_runtime import PATIENCE, needs_namespaces
from tests.kata.test_machines_commands import Machines
from tests.kata.test_machines_commands import machines as machines

pytestmark = needs_namespaces
ENTER, LEAVE, HOME, END = b"\x1b[?1049h", b"\x1b[?1049l", b"\x1b[H", b"\x1b[J"
LONGEST = "3600"


@pytest.fixture(autouse=True)
def xterm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")


class Terminal:
    """A command on a terminal of its own.

    :ivar screen: what it has drawn last, without control sequences
    """

    def __init__(self, machines: Machines, *words: str, rows: int = 24, columns: int = 120) -> None:
        self.master, slave = os.openpty()
        self.resize(rows, columns)
        self.before = termios.tcgetattr(slave)
        self._slave = slave
        self._data = b""
        options: dict[str, Any] = {"stdin": slave, "stdout": slave, "stderr": slave, "start_new_session": True}
        options["preexec_fn"] = lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        self.process = machines.open(words[0], *words[1:], **options)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def type(self, data: bytes) -> None:
        os.write(self.master, data)

    @property
    def frames(self) -> list[str]:
        whole = [each.partition(END)[0] for each in self._data.split(HOME)[1:] if END in each]
        return [re.sub(rb"\x1b\[[?0-9;]*[a-zA-Z]", b"", each).decode() for each in whole]

    def wait_for(self, words: str, count: int = 1) -> str:
        """The last frame, once so many have these words."""
        while len([frame for frame in self.frames if words in frame]) < count:
            self._read()
        return self.frames[-1]

    def wait_for_end(self) -> int:
        status = self.process.wait(PATIENCE)
        while select.select([self.master], [], [], 0)[0]:
            self._read()
        assert self._data.count(ENTER) == self._data.count(LEAVE), self._data
        assert termios.tcgetattr(self._slave) == self.before
        return status

    def _read(self) -> None:
        assert select.select([self.master], [], [], PATIENCE)[0], self._data
        self._data += os.read(self.master, 65536)

    def text(self) -> str:
        """What is there after the screen."""
        return self._data.rpartition(LEAVE)[2].decode()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self._slave)


@contextlib.contextmanager
def terminal(machines: Machines, *words: str, **size: int) -> Iterator[Terminal]:
    made = Terminal(machines, *words, **size)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("words, shown", [(("top", "c1"), "sleep 3600"), (("stats",), "4.0 KiB")])
def test_the_table_is_drawn_again_until_the_user_ends_it(machines: Machines, words: tuple[str], shown: str) -> None:
    machines.start("c1", "sleep 600")
    for key in (b"q", b"\x03"):
        with terminal(machines, *words, "--interval", "0.1") as screen:
            screen.wait_for(shown, 3)
            screen.type(key)
            assert screen.wait_for_end() == 0
            assert screen.text() == ""
    with terminal(machines, *words) as screen:
        screen.wait_for(shown, 2)
        screen.process.terminate()
        assert screen.wait_for_end() == 128 + signal.SIGTERM


def test_the_table_follows_the_size_of_the_terminal(machines: Machines) -> None:
    machines.start("c1", "sleep 600")
    with terminal(machines, "top", "c1", "--interval", LONGEST) as screen:
        assert len(screen.wait_for("sleep 3600").splitlines()) == 5
        screen.resize(4, 120)
        assert len(screen.wait_for("PID", 2).splitlines()) == 4
        screen.type(b"q")
        assert screen.wait_for_end() == 0


def test_ctrl_z_gives_the_terminal_back_until_the_command_continues(machines: Machines) -> None:
    machines.start("c1", "sleep 600")
    with terminal(machines, "top", "c1", "--interval", LONGEST) as screen:
        screen.wait_for("sleep 3600")
        screen.type(b"\x1a")
        _, status = os.waitpid(screen.process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        assert termios.tcgetattr(screen._slave) == screen.before
        screen.process.send_signal(signal.SIGCONT)
        screen.wait_for("sleep 3600", 2)
        screen.type(b"q")
        assert screen.wait_for_end() == 0


def test_a_machine_that_does_not_answer_delays_no_key(machines: Machines) -> None:
    machines.start("c1", "sleep 600")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(machines.state / "c1" / "control"))
        monitor, _, _ = struct.unpack("3i", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    os.kill(monitor, signal.SIGSTOP)
    try:
        with terminal(machines, "top", "c1") as screen:
            screen.wait_for("q ends it")
            screen.type(b"q")
            assert screen.wait_for_end() == 0
    finally:
        os.kill(monitor, signal.SIGCONT)


def test_a_machine_that_ends_is_reported_after_the_table(machines: Machines) -> None:
    machines.start("c1", "sleep 600")
    with terminal(machines, "top", "c1", "--interval", "0.1") as screen:
        screen.wait_for("sleep 3600")
        machines.check("kill", "c1")
        assert screen.wait_for_end() == 125
        assert "c1" in screen.text()


def test_without_a_terminal_the_table_is_printed_once(machines: Machines) -> None:
    machines.start("c1", "sleep 600")
    for words in (("top", "c1"), ("stats",), ("stats", "--json"), ("top", "--no-stream", "c1")):
        assert "c1" in machines.check(*words) or "sleep" in machines.check(*words)
    with terminal(machines, "stats", "--no-stream") as screen:
        screen.wait_for_end()
        assert b"4.0 KiB" in screen._data and ENTER not in screen._data
    with machines.open("top", "c1", "--interval", "0.1", stdout=subprocess.PIPE) as program:
        assert program.stdout
        lines = [program.stdout.readline() for _ in range(8)]
        program.terminate()
    assert len([line for line in lines if b"sleep 3600" in line]) == 4
    with pytest.raises(SystemExit):
        machines.check("top", "c1", "--interval", "0")
