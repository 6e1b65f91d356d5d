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
from tests.guest.conftest import Boot
from tests.guest.vmfixture import PROMPT
from vmm import ConsoleConfig

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


@pytest.mark.long  # half a minute
def test_much_text_in_and_out_through_pipes(start: Start) -> None:
    letters = random.Random(2)
    pasted = "".join(
        "".join(letters.choices("abcdefghijklmnopqrstuvwxyz0123456789 ", k=letters.randrange(1, 120))) + "\n"
        for _ in range(600)
    )
    assert len(pasted) > 33_000
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
    assert serial["rx_bytes"] > 33_000 and serial["tx_bytes"] >= len(command.output)
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


# -- the virtio console with Linux's own driver: /dev/hvc0 as the guest's console ------------------------------------


HVC = ConsoleConfig(device="virtio")


@pytest.mark.parametrize("transport", ["mmio", "pci"])
def test_the_console_of_a_guest(boot: Boot, transport: str) -> None:
    guest = boot(console=HVC, transport=transport)
    assert guest.check("cat /sys/class/tty/console/active") == "hvc0\n"
    assert guest.check("grep -c . /proc/consoles") == "1\n"
    guest.machine.console.resize(132, 43)  # type: ignore[union-attr]
    assert guest.check(
        "for i in 1 2 3 4 5 6 7 8 9; do s=$(stty size); [ \"$s\" = '43 132' ] && break; sleep 1; done; echo $s"
    )
    # Long lines, since Linux writes, and waits for the device, line by line
    text = guest.check("yes $(seq -s - 250) | head -c 1048575; echo")
    line = "-".join(map(str, range(1, 251))) + "\n"
    assert text == (line * (1 + (1 << 20) // len(line)))[: (1 << 20) - 1] + "\n"
    serial = guest.machine.serial.stats()
    assert serial["tx_bytes"] == 0
    console = next(device for device in guest.machine.attached if device.device.name == "console").device.stats()
    assert console["tx_bytes"] > 1 << 20 and console["tx_dropped"] == 0


def test_what_is_typed_before_the_guest_boots(guest_kernel: str, fresh_disk: Path, tmp_path: Path) -> None:
    """As from a pipe: Linux throws away what it gets before it has a console."""
    command = Command(
        tmp_path,
        "--kernel",
        guest_kernel,
        "--rootfs",
        str(fresh_disk),
        "--timeout",
        "120",
        "--console-device",
        "virtio",
    )
    try:
        command.type(b"echo al''ready; poweroff\n")
        assert command.wait() == 0
        assert "already\n" in command.text
    finally:
        command.close()


def test_a_login_shell_much_text_in_and_out(guest_kernel: str, fresh_disk: Path, tmp_path: Path) -> None:
    letters = random.Random(2)
    pasted = "".join("".join(letters.choices("abcdefghijklmnopqrstuvwxyz ", k=63)) + "\n" for _ in range(4096))
    command = Command(
        tmp_path, "--kernel", guest_kernel, "--rootfs", str(fresh_disk), "--timeout", "300",
        "--console-device", "virtio", "--json", "--stats",
    )  # fmt: skip
    try:
        command.expect(PROMPT)
        command.type(b"stty -echo; echo pa''ste; cat >pasted; md5sum <pasted\n")
        command.expect("^paste$")
        command.type(pasted.encode() + b"\4")
        command.expect(hashlib.md5(pasted.encode()).hexdigest())
        command.type(b"echo be''gin; cat pasted; poweroff\n")
        assert command.wait() == 0
        _, begin, text = command.text.partition("begin\n")
        assert begin and text.startswith(pasted)
        end = json.loads(command.errors.splitlines()[-1])
        console = next(device for device in end["stats"]["devices"] if device["name"] == "console")
        assert console["rx_bytes"] > len(pasted) and console["tx_bytes"] >= len(command.output)
        assert console["tx_dropped"] == 0
    finally:
        command.close()
    assert not command.leftovers()
