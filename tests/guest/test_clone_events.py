"""What comes while a clone is being put together reaches its guest: nothing is lost in a gap of a restore or a fork."""

from __future__ import annotations

import base64
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.guest.conftest import Boot
from tests.guest.shared import INSTALL_PROGRAMS, programs_disk
from tests.guest.vmfixture import RUN_TIMEOUT, Guest
from vmm import ConsoleConfig, Machine, VsockConfig

TIMEOUT = RUN_TIMEOUT
GAPS = ("made", "ready", "started")
"""Before start(), in it before the first instruction, and right after it."""
ROUNDS = [pytest.param(1, id="once"), pytest.param(34, id="many", marks=pytest.mark.long)]
LISTEN = "vsocktool serve stream 5000 echo >/tmp/serve 2>&1 & while ! grep -q listening /tmp/serve; do sleep 0.01; done"


class Made(Guest):
    """A clone or child of *like*, not started, whose shell serves the same commands."""

    def __init__(self, like: Guest, make: Callable[..., Machine]) -> None:
        self._commands = like._commands
        self._open(lambda fd: make(console=ConsoleConfig("fd", fd), start=False))

    def ask(self, command: str) -> None:
        """Type a command, and do not wait for its output."""
        self._commands += 1
        self.type(f"{self._commands}\n{base64.encodebytes(command.encode()).decode()}.\n")


def call(path: Path) -> socket.socket:
    """A client of the host that connects to port 5000 of a guest and sends; nobody waits for an answer."""
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(TIMEOUT)
    client.connect(str(path))
    client.sendall(b"CONNECT 5000\n")
    return client


@pytest.mark.parametrize("rounds", ROUNDS)
@pytest.mark.parametrize(
    ("way", "cpus"),
    [
        ("restore", 1),
        pytest.param("fork", 1, marks=pytest.mark.long),  # a minute and a half in a hostile lab
        # Minutes in a hostile lab, which has one CPU: two of a guest's interrupt each other there
        pytest.param("restore", 2, marks=pytest.mark.long),
        pytest.param("fork", 2, marks=pytest.mark.long),
    ],
)
def test_an_event_in_a_gap_of_a_clones_start_arrives(
    boot: Boot, tmp_path: Path, way: str, cpus: int, rounds: int
) -> None:
    """Bytes typed on the console, a connection of vsock, and the power button."""
    guest = boot(cpus=cpus, disks=[programs_disk()], vsock=VsockConfig(3, str(tmp_path / "v.sock")))
    guest.check(f"{INSTALL_PROGRAMS}; {LISTEN}")
    if way == "restore":
        guest.machine.snapshot(str(tmp_path / "warm"))
        guest.machine.pause()
    for number, gap in enumerate(GAPS * rounds):
        path = tmp_path / f"{number}.sock"
        vsock = VsockConfig(3, str(path))

        def make(**own: Any) -> Machine:
            if way == "restore":
                return Machine.restore(str(tmp_path / "warm"), cow="overlay", vsock=vsock, **own)  # noqa: B023
            return guest.machine.fork(vsock=vsock, **own)[0]  # noqa: B023

        clone = Made(guest, make)
        clients: list[socket.socket] = []

        def events(clone: Made = clone, clients: list[socket.socket] = clients, path: Path = path) -> None:
            clone.ask("echo it' 'came")
            clients.append(call(path))

        try:
            if gap == "made":
                events()
            clone.machine.start(ready=events if gap == "ready" else None)
            if gap == "started":
                events()
            clone.expect("^it came$", TIMEOUT)
            (client,) = clients
            with client, client.makefile("rb") as lines:
                assert lines.readline().startswith(b"OK "), f"{gap}, {number}"
                client.sendall(b"and was answered\n")
                assert lines.readline() == b"and was answered\n"
            clone.machine.press_power_button()
            assert clone.wait(TIMEOUT).kind == "poweroff"
        finally:
            clone.close()
