"""A login shell on the serial console of `pyvmm boot`: through pipes, a pseudo-terminal, a terminal."""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.command import Command, Terminal
from tests.guest.vmfixture import PROMPT

AMOUNT = 30_000 if "PYVMM_LAB" in os.environ else 1_000_000
"""Bytes to be printed; a serial port takes two exits for each of them, and an exit is slow in the lab."""

Start = Callable[..., Command]


@pytest.fixture
def start(guest_kernel: str, fresh_disk: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts `pyvmm boot` with the guest kernel and a root disk of its own."""
    commands: list[Command] = []

    def start_one(*arguments: str, **options: Any) -> Command:
        boot = ["--kernel", guest_kernel, "--rootfs", str(fresh_disk), "--timeout", "300"]
        commands.append(Command(tmp_path, *boot, *arguments, **options))
        return commands[-1]

    yield start_one
    for command in commands:
        command.close()
        assert not command.leftovers()


def test_much_text_in_and_out_through_pipes(start: Start) -> None:
    letters = random.Random(2)
    pasted = "".join(
        "".join(letters.choices("abcdefghijklmnopqrstuvwxyz0123456789 ", k=letters.randrange(1, 120))) + "\n"
        for _ in range(1700)
    )
    assert len(pasted) > 95_000
    command = start("--json", "--stats")
    command.expect(PROMPT)
    command.type(b"stty -echo; echo pa''ste; cat >pasted; md5sum <pasted\n")
    command.expect("^paste$")
    command.type(pasted.encode() + b"\4")
    command.expect(hashlib.md5(pasted.encode()).hexdigest())
    lines = AMOUNT // 20
    command.type(b"echo be''gin; yes 0123456789abcdef | awk '{ print NR, $0 } NR == %d { exit }'; poweroff\n" % lines)
    assert command.wait() == 0
    _, begin, text = command.text.partition("begin\n")
    assert begin
    printed = text.splitlines()
    expected = [f"{number} 0123456789abcdef" for number in range(1, lines + 1)]
    assert printed[: len(expected)] == expected

    end = json.loads(command.errors.splitlines()[-1])
    assert (end["event"], end["status"]) == ("poweroff", 0)
    serial, (disk, _rng) = end["stats"]["serial"], end["stats"]["devices"]
    assert serial["rx_bytes"] > 95_000 and serial["tx_bytes"] >= len(command.output)
    assert serial["tx_dropped"] == 0
    assert disk["reads"] > 0 and disk["kicks"] > 0 and disk["irqs"] > 0
    assert end["stats"]["exits"]["c"] > 10 * end["stats"]["exits"]["python"] > 0


def use_the_shell(terminal: Terminal) -> None:
    """Log in, run a command, interrupt one."""
    terminal.expect(PROMPT)
    terminal.type(b"echo $((6 * 7)) on $(tty)\r")
    terminal.expect("42 on /dev/ttyS0")
    terminal.expect(PROMPT)
    terminal.type(b"sleep 1000; echo status $?\r")
    terminal.expect("\n")
    time.sleep(0.2)  # so that it is the command that is interrupted, not the shell that has not started it yet
    terminal.type(b"\3")
    terminal.expect(PROMPT)
    terminal.type(b"echo still $((6 * 7))\r")
    terminal.expect("still 42")


def test_login_on_a_pseudo_terminal(start: Start) -> None:
    command = start("--console", "pty", "--json")
    while not (lines := command.errors.splitlines()):
        assert command.process.poll() is None
        time.sleep(0.05)
    terminal = Terminal(json.loads(lines[0])["where"])
    try:
        use_the_shell(terminal)
        terminal.type(b"exit\r")
        assert command.wait() == 0
    finally:
        terminal.close()


def test_login_on_the_users_terminal(start: Start) -> None:
    terminal = Terminal()
    try:
        command = start(terminal=terminal)
        use_the_shell(terminal)
        assert command.process.poll() is None, "Ctrl-C was the guest's"
        terminal.type(b"\1x")
        assert command.wait() == 20
        assert terminal.settings() == terminal.before
    finally:
        terminal.close()
