"""The virtio console with Linux's own driver: /dev/hvc0 as the guest's console."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

import pytest

from tests.command import Command
from tests.guest.conftest import Boot
from tests.guest.vmfixture import PROMPT
from vmm import ConsoleConfig

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
